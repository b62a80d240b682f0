"""The native engine against torch: the same gradients, the same steps, the same learning, whatever the threads."""

import copy
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numba import njit
from torch import nn

from rlsys import native
from rlsys.agents import build, ppo_rules
from rlsys.agents.ppo import PPO
from rlsys.config import PPOConfig, PQNConfig
from rlsys.native import Native
from rlsys.torchenv import TorchEnv
from tests.agents.worlds import make

S = 300  # samples: chunks of 128, 128 and 44
CONFIG = PPOConfig(n_steps=16, batch_size=64, n_epochs=2, learning_rate=1e-3, ent_coef=0.01, log_std_init=-0.5)


def agent_for(sim: str, dtype=torch.float32, **options) -> PPO:
    """A torch PPO agent whose networks compute in `dtype`."""
    agent = PPO(TorchEnv(make(sim, 4)), replace(CONFIG, **options), seed=0)
    for module in (agent.policy, agent.critic):
        module.to(dtype)
    return agent


def samples_for(agent: PPO, dtype) -> tuple[torch.Tensor, ...]:
    """obs, action, log_prob, advantage, target, of a policy that has changed since: ratios beyond both clips."""
    g = torch.Generator().manual_seed(1)
    obs = torch.randn(S, agent.policy.encoder.num_features, generator=g).to(dtype)
    if native.is_sparse(agent.policy.spec.obs):
        obs = (obs > 1.5).to(dtype)  # one in fifteen
    with torch.no_grad():
        rule = agent.policy.rule(obs)
        action = rule.sample(g)
        log_prob = rule.log_prob(action) + 0.3 * torch.randn(S, generator=g).to(dtype)
    return obs, action, log_prob, *(torch.randn(S, generator=g).to(dtype) for _ in range(2))


def native_for(agent: PPO, threads: int = 1) -> Native:
    """A native engine over copies of the agent's networks."""
    policy, critic = copy.deepcopy(agent.policy), copy.deepcopy(agent.critic)
    gaussian = policy.spec.rule == "gaussian"
    head, free = (policy.head.mean, [policy.head.log_std]) if gaussian else (policy.head, [])
    rule = ppo_rules.rule(policy.spec.rule, agent.config.normalize_advantage)
    order = [*policy.parameters(), *critic.parameters()]
    sparse = native.is_sparse(policy.spec.obs)
    return Native([[*policy.body, head], [*critic.body, critic.head]], free, rule, order, threads, sparse)


def in_native_order(agent: PPO, tensors: dict) -> torch.Tensor:
    """One flat vector of what `tensors` holds for each of the agent's parameters, by its identity."""
    gaussian = agent.policy.spec.rule == "gaussian"
    head = agent.policy.head.mean if gaussian else agent.policy.head
    modules = [m for m in [*agent.policy.body, head, *agent.critic.body, agent.critic.head] if isinstance(m, nn.Linear)]
    parameters = [p for m in modules for p in (m.weight, m.bias)] + ([agent.policy.head.log_std] if gaussian else [])
    return torch.cat([tensors[id(p)].flatten() for p in parameters])


def fit(engine: Native, samples, config: PPOConfig, batches, **options) -> np.ndarray:
    obs, action, log_prob, advantage, target = samples
    norm = (np.zeros(obs.shape[1], obs.numpy().dtype), np.ones(obs.shape[1], obs.numpy().dtype), 1e30)
    columns = torch.cat([torch.stack([log_prob, advantage, target], 1), action.view(S, -1).to(obs.dtype)], 1)
    constants = np.array([config.clip_range, config.vf_coef, config.ent_coef])
    defaults = {"learning_rate": 1e-3, "epsilon": 1e-5, "max_grad_norm": math.inf}
    return engine.fit(batches, obs.numpy(), norm, columns.numpy(), constants, **{**defaults, **options})


CASES = [
    ("cartpole", {}),
    ("cartpole", {"activation": "relu"}),
    ("cartpole", {"activation": "elu", "hidden": [16, 48, 24]}),
    ("cartpole", {"hidden": [], "normalize_advantage": False}),
    ("pendulum", {}),
    ("pendulum", {"hidden": [33], "ent_coef": 0.0}),
    ("breakout", {"encoder": "mlp", "activation": "relu"}),  # flags: the first layer is sparse
    ("game2048", {"hidden": []}),  # and the only one
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("sim", "options"), CASES)
def test_gradients_and_losses_are_those_of_automatic_differentiation(sim, options, dtype, tolerance, monkeypatch):
    if dtype == torch.float64:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the encoder casts to float32
    agent = agent_for(sim, dtype, **options)
    samples = samples_for(agent, dtype)
    loss, logs = agent.loss(*samples, agent.config.clip_range)
    loss.backward()
    expected = in_native_order(agent, {id(p): p.grad for p in agent.parameters})

    engine = native_for(agent)
    found = fit(engine, samples, agent.config, [np.arange(S)])[0]
    gradient = engine.moment / 0.1  # Adam's first moment after one step is (1 - beta1) g
    assert (gradient - expected).norm() <= tolerance * expected.norm()
    assert (gradient - expected).abs().max() <= 10 * tolerance * expected.abs().max()
    assert found[-1] == pytest.approx(expected.norm().item(), rel=10 * tolerance)
    for tag, value in zip(ppo_rules.LOGS, found, strict=False):
        assert value == pytest.approx(logs[tag].item(), rel=100 * tolerance, abs=tolerance), tag
    assert 0.1 < logs["train/clip_fraction"] < 0.9


@pytest.mark.parametrize("max_grad_norm", [0.05, 100.0])
def test_steps_are_those_of_torch_adam_with_clipped_gradients(max_grad_norm, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    agent = agent_for("pendulum", torch.float64)
    samples = samples_for(agent, torch.float64)
    engine = native_for(agent)
    batches = [np.random.default_rng(k).permutation(S)[: 100 + k] for k in range(5)]
    fit(engine, samples, agent.config, batches, max_grad_norm=max_grad_norm)

    adam = torch.optim.Adam(agent.parameters, lr=1e-3, eps=1e-5)
    for at in batches:
        adam.zero_grad()
        agent.loss(*(x[at] for x in samples), agent.config.clip_range)[0].backward()
        nn.utils.clip_grad_norm_(agent.parameters, max_grad_norm)
        adam.step()
    torch.testing.assert_close(engine.flat, in_native_order(agent, {id(p): p.data for p in agent.parameters}))
    assert engine.steps == 5


def test_a_minibatch_over_the_kl_limit_is_not_learned_from():
    agent = agent_for("cartpole")
    samples = samples_for(agent, torch.float32)
    engine = native_for(agent)
    before = engine.flat.clone()
    assert len(fit(engine, samples, agent.config, [np.arange(S)] * 3, max_log=1e-6)) == 0
    assert engine.flat.equal(before)
    assert engine.steps == 0


@pytest.mark.parametrize("sim", ["cartpole", "pendulum", "breakout"])
def test_ten_iterations_follow_those_of_torch(sim):
    config = replace(CONFIG, normalize_observations=True, normalize_rewards=True, n_epochs=1, encoder="mlp")
    mine, theirs = (PPO(TorchEnv(make(sim, 4)), config, seed=3, engine=engine) for engine in ("native", "torch"))
    assert native.is_sparse(mine.policy.spec.obs) == (sim == "breakout")
    for k in range(10):
        a, b = mine.iterate(k / 10), theirs.iterate(k / 10)
        assert set(a) == set(b)
    for (name, p), q in zip(mine.policy.named_parameters(), theirs.policy.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}")
    assert mine.obs.shape == theirs.obs.shape
    torch.testing.assert_close(mine.obs, theirs.obs, rtol=0, atol=1e-2)  # the same actions in the same worlds


def test_wide_networks_act_on_as_many_envs_at_a_time_as_narrow_ones():
    config = replace(CONFIG, hidden=[300, 300], n_steps=2, n_epochs=1)  # chunks of no more than CHUNK_FROM rows
    mine, theirs = (
        PPO(TorchEnv(make("cartpole", 65)), config, seed=3, engine=engine) for engine in ("native", "torch")
    )
    assert mine.native.params.chunk == native.CHUNK_FROM
    for agent in (mine, theirs):
        agent.iterate(0.0)
    for p, q in zip(mine.policy.parameters(), theirs.policy.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_the_bits_do_not_depend_on_the_number_of_threads():
    def weights(threads: int) -> torch.Tensor:
        config = replace(CONFIG, n_steps=64, batch_size=1024, learning_rate=1e-2)
        agent = PPO(TorchEnv(make("cartpole", 32)), config, seed=0, engine="native", threads=threads)
        for _ in range(3):
            agent.iterate(0.0)
        return agent.native.flat

    import numba

    two = weights(2)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert weights(2).equal(two)  # the parallel kernel, on one thread
    finally:
        numba.set_num_threads(before)
    assert weights(1).equal(two)  # the serial kernel


@pytest.mark.parametrize("sim", ["cartpole", "pendulum"])
@pytest.mark.parametrize(("first", "second"), [("native", "torch"), ("torch", "native"), ("native", "native")])
def test_a_run_can_go_on_with_the_other_engine(first, second, sim):
    a = PPO(TorchEnv(make(sim, 4)), CONFIG, seed=0, engine=first)
    for _ in range(3):
        a.iterate(0.0)
    state = copy.deepcopy(a.state())
    b = PPO(TorchEnv(make(sim, 4)), CONFIG, seed=1, engine=second)
    b.load_state(state)
    a.iterate(0.5)
    b.iterate(0.5)
    for p, q in zip(a.policy.parameters(), b.policy.parameters(), strict=True):
        if first == second:
            assert p.equal(q)
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_torch_and_the_kernels_see_the_same_weights():
    agent = PPO(TorchEnv(make("cartpole", 4)), CONFIG, seed=0, engine="native")
    agent.iterate(0.0)
    obs = torch.randn(7, 4)
    norm = native.norm_of(agent.policy.encoder)
    out = agent.native.evaluate(obs.numpy(), norm, (0, 2))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(out[:, :2].copy()), agent.policy(obs), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.from_numpy(out[:, 2].copy()), agent.critic(obs), rtol=1e-5, atol=1e-6)
    agent.policy.head.bias.data += 1.0
    assert np.allclose(agent.native.evaluate(obs.numpy(), norm, (0, 1)), out[:, :2] + 1.0, atol=1e-6)


def test_the_rational_tanh_is_right_to_3e7_everywhere():
    x = np.concatenate([np.linspace(-20, 20, 100_001), [0.0, -0.0, 1e-8, -1e-30, 1e30, -1e30]]).astype(np.float32)
    mine = np.array([native._tanh_float32(value) for value in x])
    assert np.abs(mine - np.tanh(x.astype(np.float64))).max() < 3e-7


def test_auto_takes_the_native_engine_where_it_fits_and_torch_elsewhere():
    assert PPO(TorchEnv(make("cartpole", 4)), CONFIG, seed=0, engine="auto").native
    gelu = replace(CONFIG, activation="gelu")
    assert PPO(TorchEnv(make("cartpole", 4)), gelu, seed=0, engine="auto").native is None
    with pytest.raises(ValueError, match="GELU has no compiled form"):
        PPO(TorchEnv(make("cartpole", 4)), gelu, seed=0, engine="native")
    with pytest.raises(ValueError, match="observations are pictures"):
        PPO(TorchEnv(make("snake", 4)), CONFIG, seed=0, engine="native")
    with pytest.raises(ValueError, match=r"engine=native is not made for agent=pqn\. One of auto, torch, compile"):
        build(TorchEnv(make("cartpole", 4)), PQNConfig(), 0, engine="native")


BUGS = [  # in a loss's derivative: owner, right, wrong
    ("categorical_loss", "(j == action) - p", "p - (j == action)"),
    ("categorical_loss", "log_p + entropy", "log_p - entropy"),
    ("categorical_loss", "2.0 * constants[VF_COEF]", "constants[VF_COEF]"),
    ("gaussian_loss", "z * z - 1.0", "z * z + 1.0"),
    ("gaussian_loss", "d_log_prob * z * inverse_std", "d_log_prob * z"),
    ("gaussian_loss", "- constants[ENT_COEF]", "+ constants[ENT_COEF]"),
]


@pytest.mark.parametrize(("function", "right", "wrong"), BUGS)
def test_a_wrong_derivative_is_noticed(function, right, wrong, monkeypatch):
    import inspect

    source = inspect.getsource(getattr(ppo_rules, function).py_func)
    assert source.count(right) == 1
    scope = dict(vars(ppo_rules))
    exec(source.replace(right, wrong), scope)
    monkeypatch.setattr(ppo_rules, function, scope[function])
    sim, options = CASES[0] if "categorical" in function else CASES[4]
    with pytest.raises(AssertionError):
        test_gradients_and_losses_are_those_of_automatic_differentiation(
            sim, options, torch.float64, 1e-10, monkeypatch
        )


@njit
def cross_entropy(out, sample, shift, scale, constants, d_out, log):
    """Behaviour cloning: -log p(action)."""
    total = ppo_rules.log_sum_exp(out, len(out))
    for j in range(len(out)):
        d_out[j] = math.exp(out[j] - total) - (j == int(sample[0]))
    log[0] += total - out[int(sample[0])]


def test_another_loss_is_a_scalar_function_such_as_behaviour_clonings():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    theirs = copy.deepcopy(net)
    mine = Native([[*net]], [], native.Rule("clone", cross_entropy, logs=1), list(net.parameters()), threads=1)
    obs, expert = torch.randn(256, 4), torch.randint(3, (256,))
    batches = [np.random.default_rng(k).permutation(256)[:96] for k in range(20)]
    norm = (np.zeros(4, np.float32), np.ones(4, np.float32), 1e30)
    columns = expert.float().unsqueeze(1).numpy()
    logs = mine.fit(
        batches, obs.numpy(), norm, columns, np.empty(0), learning_rate=1e-2, epsilon=1e-8, max_grad_norm=1e9
    )

    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for at, log in zip(batches, logs, strict=True):
        adam.zero_grad()
        loss = nn.functional.cross_entropy(theirs(obs[at]), expert[at])
        loss.backward()
        adam.step()
        assert log[0] == pytest.approx(loss.item(), rel=1e-4)
    for p, q in zip(net.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4)
    assert logs[-1, 0] < logs[0, 0]


FIRST_RUN = """
import sys
import envs
from envs.engine import kernels
from rlsys.agents.ppo import PPO
from rlsys.config import PPOConfig
from rlsys.torchenv import TorchEnv

agent = PPO(TorchEnv(envs.make_vec("cartpole", 4, seed=0)), PPOConfig(n_steps=16, batch_size=64), seed=0, engine="native")
apart = agent.native._child != 0
agent.iterate(0.0)
assert agent.native._child == 0
assert kernels.is_cached(agent.native.modules[agent.native.threads > 1], "fit")
print(apart, agent.native.flat.double().sum().item())
"""


def test_what_was_never_compiled_is_compiled_by_two_processes(tmp_path):
    def run() -> list[str]:
        command = [sys.executable, "-c", FIRST_RUN]
        done = subprocess.run(command, env={**os.environ, "RLSYS_CACHE": str(tmp_path)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    first, second = run(), run()
    assert first[0] == str(hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1)
    assert second[0] == "False"
    assert first[1] == second[1]


def test_a_compiling_process_that_does_not_end_is_given_up(monkeypatch):
    agent = PPO(TorchEnv(make("cartpole", 4)), CONFIG, seed=0, engine="native")
    monkeypatch.setattr(native, "CHILD_SECONDS", 0.05)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    agent.native._child = sleeper.pid
    assert "train/loss" in agent.iterate(0.0)
    assert agent.native._child == 0
    sleeper.wait()
