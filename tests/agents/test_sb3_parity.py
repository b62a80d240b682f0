"""From the same weights and the same data, our update is stable-baselines3's own `train()`: losses, gradients, new weights.

After one step they agree to 1e-6 in float32, and to 1e-12 in float64, where both are made to compute in it; after three,
when rounding has gone through Adam's division by small numbers, to a hundred times that.
"""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from rlsys import returns
from rlsys.agents.dqn import DQN
from rlsys.agents.ppo import PPO
from rlsys.buffers import Batch
from rlsys.config import DQNConfig, PPOConfig
from rlsys.torchenv import TorchEnv
from tests.agents.worlds import make

T, N = 16, 4
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
PPO_CONFIG = PPOConfig(
    n_steps=T, batch_size=T * N, n_epochs=1, learning_rate=1e-3, ent_coef=0.1, clip_range=0.2, log_std_init=-0.5
)
DQN_CONFIG = DQNConfig(double=False, batch_size=64, learning_rate=0.01, max_grad_norm=0.5)


@pytest.fixture(params=TOLERANCE)
def dtype(request, monkeypatch):
    """The precision that both compute in."""
    if request.param == "float64":
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # both cast observations to float32
    return getattr(torch, request.param)


def close(mine, theirs, dtype, steps=1):
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")] * (1 if steps == 1 else 100)
    torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


# -- PPO -----------------------------------------------------------------------------------------------------------------


def our_ppo(sim, dtype, **options):
    agent = PPO(TorchEnv(make(sim, N)), replace(PPO_CONFIG, **options), seed=0)
    for module in (agent.policy, agent.critic):
        module.to(dtype)
    return agent


def sb3_ppo(agent, env_id, dtype):
    """SB3's PPO with the hyperparameters and weights of our agent."""
    c = agent.config
    names = ("n_steps", "n_epochs", "learning_rate", "ent_coef", "vf_coef", "clip_range", "max_grad_norm")
    model = sb3.PPO(
        "MlpPolicy",
        sb3.common.vec_env.DummyVecEnv([lambda: gymnasium.make(env_id)] * N),
        batch_size=c.batch_size,
        normalize_advantage=c.normalize_advantage,
        seed=0,
        device="cpu",
        **{name: getattr(c, name) for name in names},
    )
    model.set_logger(Logger(None, []))
    model.policy.to(dtype)
    with torch.no_grad():
        for (_, theirs), (_, mine) in zip(sb3_ppo_weights(model), our_ppo_weights(agent), strict=True):
            theirs.copy_(mine)
    return model


def our_ppo_weights(agent):
    policy, critic = agent.policy, agent.critic
    head = policy.head.mean if agent.policy.spec.rule == "gaussian" else policy.head
    modules = [policy.body[0], policy.body[2], head, critic.body[0], critic.body[2], critic.head]
    yield from ((f"{k} {name}", p) for k, module in enumerate(modules) for name, p in module.named_parameters())
    if agent.policy.spec.rule == "gaussian":
        yield "log_std", policy.head.log_std


def sb3_ppo_weights(model):
    p = model.policy
    actor, critic = p.mlp_extractor.policy_net, p.mlp_extractor.value_net
    modules = [actor[0], actor[2], p.action_net, critic[0], critic[2], p.value_net]
    yield from ((f"{k} {name}", p) for k, module in enumerate(modules) for name, p in module.named_parameters())
    if hasattr(p, "log_std"):
        yield "log_std", p.log_std


def give_both_a_rollout(agent, model, dtype):
    """Random experience, from a policy that has changed since: ratios beyond the clip range on both sides."""
    g = torch.Generator().manual_seed(1)
    obs = torch.randn(agent.obs.shape, generator=g).to(dtype)
    with torch.no_grad():
        rule = agent.policy.rule(agent.policy.encoder(obs[:-1].flatten(0, 1)))
        action = rule.sample(g)
        action = action if action.dtype == torch.int64 else action.to(torch.float32).to(dtype)  # as SB3 keeps them
        log_prob = (rule.log_prob(action) + 0.3 * torch.randn(T * N, generator=g)).unflatten(0, (T, N))
    value, advantage, target = (torch.randn(T, N, generator=g).to(dtype) for _ in range(3))
    agent.obs, agent.action, agent.log_prob = obs, action.unflatten(0, (T, N)), log_prob

    buffer = model.rollout_buffer
    buffer.observations, buffer.actions = obs[:-1].numpy(), agent.action.reshape(T, N, -1).numpy()
    buffer.log_probs, buffer.values = log_prob.numpy(), value.numpy()
    buffer.advantages, buffer.returns = advantage.numpy(), target.numpy()
    buffer.full = True
    return value, advantage, target


def check_ppo(sim, env_id, dtype, **options):
    agent = our_ppo(sim, dtype, **options)
    model = sb3_ppo(agent, env_id, dtype)
    rollout = give_both_a_rollout(agent, model, dtype)
    before = [p.detach().clone() for _, p in our_ppo_weights(agent)]

    metrics = agent.update(*rollout, agent.config.learning_rate, agent.config.clip_range)
    model.train()

    if agent.config.n_epochs == 1:
        their_metrics = model.logger.name_to_value
        tags = ["loss", "policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction"]
        for tag in [f"train/{tag}" for tag in [*tags, "explained_variance"]]:
            close(float(metrics[tag]), float(their_metrics[tag]), torch.float32)
        assert 0.1 < metrics["train/clip_fraction"] < 0.9
    for (name, mine), (_, theirs), old in zip(our_ppo_weights(agent), sb3_ppo_weights(model), before, strict=True):
        assert not mine.equal(old), f"{name} did not change"
        close(mine.grad, theirs.grad, dtype, agent.config.n_epochs)
        close(mine.detach(), theirs.detach(), dtype, agent.config.n_epochs)


@pytest.mark.parametrize(("sim", "env_id"), [("cartpole", "CartPole-v1"), ("pendulum", "Pendulum-v1")])
@pytest.mark.parametrize(
    "options",
    [{}, {"n_epochs": 3}, {"normalize_advantage": False}, {"max_grad_norm": 0.01}, {"vf_coef": 2.0, "ent_coef": 0.0}],
    ids=str,
)
def test_a_ppo_update_is_that_of_sb3(sim, env_id, options, dtype):
    check_ppo(sim, env_id, dtype, **options)


@pytest.mark.parametrize("seed", range(5))
def test_advantages_are_those_of_sb3(seed):
    rng = np.random.default_rng(seed)
    gamma, gae_lambda, shape = 0.97, 0.9, (32, N)
    reward, value, final_value = rng.normal(size=(3, *shape)).astype(np.float32)
    terminated, truncated = rng.random((2, *shape)) < 0.1
    last_value, ended = rng.normal(size=N).astype(np.float32), terminated | truncated

    space = gymnasium.spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(shape[0], space, space, "cpu", gae_lambda, gamma, N)
    buffer.values, buffer.episode_starts = value, np.concatenate([np.zeros((1, N)), ended[:-1]]).astype(np.float32)
    buffer.rewards = reward + gamma * final_value * (truncated & ~terminated)  # as SB3's collect_rollouts does
    buffer.compute_returns_and_advantage(torch.from_numpy(last_value), ended[-1])

    reward, value, last_value, final_value, terminated, truncated = map(
        torch.from_numpy, (reward, value, last_value, final_value, terminated, truncated)
    )
    reward = returns.bootstrap_truncated(reward, terminated, truncated, final_value, gamma)
    advantage, target = returns.gae(reward, value, last_value, terminated | truncated, gamma, gae_lambda)
    np.testing.assert_allclose(advantage, buffer.advantages, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(target, buffer.returns, rtol=1e-5, atol=1e-5)


# -- DQN -----------------------------------------------------------------------------------------------------------------


def our_dqn_weights(policy):
    return [p for module in (policy.body[0], policy.body[2], policy.head) for p in module.parameters()]


def check_dqn(dtype, gradient_steps=1, **options):
    agent = DQN(TorchEnv(make("cartpole", 1)), replace(DQN_CONFIG, **options), seed=0)
    c = agent.config
    hyperparameters = {name: getattr(c, name) for name in ("learning_rate", "gamma", "max_grad_norm")}
    model = sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=64, device="cpu", **hyperparameters)
    model.set_logger(Logger(None, []))
    g = torch.Generator().manual_seed(1)
    pairs = [(agent.policy, model.q_net), (agent.target, model.q_net_target)]
    for mine, theirs in pairs:  # the target network is another than the policy
        for a, b in zip(our_dqn_weights(mine.to(dtype)), theirs.to(dtype).parameters(), strict=True):
            a.data = 0.3 * torch.randn(a.shape, generator=g).to(dtype)
            b.data = a.data.clone()

    obs, next_obs = (torch.randn(64, 4, generator=g).to(dtype) for _ in range(2))
    reward, done = torch.randn(64, generator=g).to(dtype) * 3, torch.rand(64, generator=g) < 0.3
    action = torch.randint(2, (64,), generator=g)
    batch = Batch(obs, action, reward, next_obs, c.gamma * (~done).to(dtype))
    column = [x.unsqueeze(1) for x in (action, done.to(dtype), reward)]
    samples = ReplayBufferSamples(obs, column[0], next_obs, column[1], column[2])
    agent.replay.sample = lambda bits, generator: Batch(*(torch.cat([x] * gradient_steps) for x in batch))
    model.replay_buffer.sample = lambda size, env: samples

    logs = agent.learn(torch.zeros(gradient_steps, len(obs), dtype=torch.int64), c.learning_rate)
    model.train(gradient_steps)

    loss = torch.stack(logs)[:, 0].mean()
    close(float(loss), float(model.logger.name_to_value["train/loss"]), torch.float32)
    assert logs[0][2] > c.max_grad_norm
    for mine, theirs in zip(our_dqn_weights(agent.policy), model.q_net.parameters(), strict=True):
        close(mine.grad, theirs.grad, dtype, gradient_steps)
        close(mine.detach(), theirs.detach(), dtype, gradient_steps)


@pytest.mark.parametrize("gradient_steps", [1, 3])
@pytest.mark.parametrize("max_grad_norm", [0.05, 0.5])
def test_a_dqn_update_is_that_of_sb3(gradient_steps, max_grad_norm, dtype):
    check_dqn(dtype, gradient_steps, max_grad_norm=max_grad_norm)
