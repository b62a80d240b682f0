"""Matrix products in other precisions: what is rounded, and what is not."""

from dataclasses import replace

import pytest
import torch

import envs
from rlsys.agents import build
from rlsys.config import ConfigError, DQNConfig, PPOConfig, PQNConfig, resolve
from rlsys.torchenv import TorchEnv

CONFIGS = {
    "ppo": ("pendulum", PPOConfig(n_steps=8, batch_size=16)),
    "ppo, pictures": ("snake", PPOConfig(n_steps=8, batch_size=16)),
    "dqn": ("cartpole", DQNConfig(learning_starts=8, train_freq=64)),
    "pqn": ("maze", PQNConfig(n_steps=8, batch_size=16)),
}


def made(case, **how):
    sim, config = CONFIGS[case]
    return build(TorchEnv(envs.make_vec(sim, 4, seed=0, max_episode_steps=6)), config, 0, **how)


@pytest.mark.parametrize("case", CONFIGS)
def test_products_are_in_bfloat16_and_weights_losses_and_outputs_are_not(case):
    agent, seen = made(case, matmul_precision="bfloat16"), set()
    layers = [m for m in agent.policy.modules() if isinstance(m, torch.nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, out: seen.add(out.dtype))
    rounded, exact = agent, made(case, engine="torch")
    for k in range(3):
        a, b = rounded.iterate(k / 3), exact.iterate(k / 3)
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in agent.policy.parameters()} == {torch.float32}
    assert agent.policy.act(agent.env.obs).dtype in (torch.float32, torch.int64)
    losses = [(float(a[name]), float(b[name])) for name in a if name.endswith("loss")]
    assert losses
    assert all(abs(x) < 1e6 for x, _ in losses)
    assert any(x != y for x, y in losses)


def test_outside_of_iterations_nothing_is_rounded():
    agent = made("ppo", matmul_precision="bfloat16")
    agent.iterate(0.0)
    head = agent.policy.head.mean
    head.register_forward_hook(lambda module, inputs, out: outputs.append(out.dtype))
    outputs = []
    agent.policy.act(agent.env.obs)
    assert outputs == [torch.float32]


def test_native_is_not_chosen_and_cannot_be_asked_for():
    assert made("ppo", engine="auto").native is not None
    assert made("ppo", engine="auto", matmul_precision="bfloat16").native is None
    for data in ({"engine": "native"}, {"agent": {"name": "sb3"}}):
        with pytest.raises(ConfigError, match=r"matmul_precision=bfloat16 cannot be with (engine=native|agent=sb3)"):
            resolve({"matmul_precision": "bfloat16", **data})
    with pytest.raises(ValueError, match="matmul_precision=tf32 is for device=cuda, and this is cpu"):
        made("ppo", matmul_precision="tf32")


def test_weights_that_were_just_trained_are_rounded_anew():
    """Autocast's cache would keep the first rounding through all gradient steps of an iteration."""
    sim, config = CONFIGS["ppo"]
    config = replace(config, n_epochs=1, learning_rate=0.5, batch_size=8)
    agent = build(TorchEnv(envs.make_vec(sim, 4, seed=0)), config, 0, matmul_precision="bfloat16")
    seen = []
    layer = agent.policy.body[0]
    layer.register_forward_hook(
        lambda module, inputs, out: seen.append(torch.equal(out, torch.nn.functional.linear(
            inputs[0].bfloat16(), module.weight.bfloat16(), module.bias.bfloat16()))))  # fmt: skip
    agent.iterate(0.0)
    assert len(seen) >= 8 + 4
    assert all(seen)
