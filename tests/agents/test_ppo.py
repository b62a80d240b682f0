"""PPO: what enters the update, and its schedules. (Its losses are held against SB3's in test_sb3_parity.)"""

from dataclasses import replace

import pytest
import torch

import envs
from rlsys.agents.ppo import PPO
from rlsys.config import PPOConfig
from rlsys.torchenv import TorchEnv
from tests.agents.worlds import make, make_with_resets

CONFIG = PPOConfig(n_steps=64, batch_size=50, n_epochs=2, hidden=[8])


def agent(sim="cartpole", num_envs=4, **options):
    return PPO(TorchEnv(make(sim, num_envs)), replace(CONFIG, **options), seed=0)


def test_every_step_is_used_once_an_epoch():
    batches = list(agent().minibatches())
    assert [len(batch) for batch in batches] == [50, 50, 50, 50, 50, 6] * 2
    for epoch in (batches[:6], batches[6:]):
        assert torch.cat(epoch).sort().values.equal(torch.arange(256))
    assert not torch.cat(batches[:6]).equal(torch.cat(batches[6:]))


@pytest.mark.parametrize("kind", ["sim", "gymnasium"])
def test_a_step_that_only_resets_is_never_learned_from(kind):
    ppo = PPO(TorchEnv(make_with_resets(kind, 4)), CONFIG, seed=0)
    ppo.collect()
    valid = ppo.rollout.valid.flatten()
    assert 0 < (~valid).sum() < 64
    used = torch.cat(list(ppo.minibatches())[:6]).unique()
    assert used.equal(valid.nonzero().squeeze(1))


def test_the_rollout_is_a_chain_of_observations_that_the_next_rollout_continues():
    ppo = agent()
    ppo.collect()
    last = ppo.obs[-1].clone()
    ended = ppo.rollout.terminated | ppo.rollout.truncated
    assert ended.any()
    assert (ppo.obs[1:][ended].abs() < 0.05).all()  # the first observation of a CartPole episode
    ppo.collect()
    assert ppo.obs[0].equal(last)


def test_the_old_log_probabilities_are_those_of_the_policy_that_acted():
    ppo = agent()
    ppo.collect()
    rule = ppo.policy.rule(ppo.policy.encoder(ppo.obs[:-1].flatten(0, 1)))
    torch.testing.assert_close(rule.log_prob(ppo.action.flatten()), ppo.log_prob.flatten(), rtol=0, atol=1e-6)


def test_the_schedules_end_at_zero():
    ppo = agent(learning_rate=0.1, learning_rate_schedule="linear", clip_range=0.4, clip_range_schedule="linear")
    metrics = [ppo.iterate(progress) for progress in (0.0, 0.5, 1.0)]
    assert [m["train/learning_rate"] for m in metrics] == pytest.approx([0.1, 0.05, 0.0])
    assert [m["train/clip_range"] for m in metrics] == pytest.approx([0.4, 0.2, 0.0])


def test_too_large_a_change_of_policy_ends_the_epochs():
    patient, hasty = (agent(learning_rate=0.1, n_epochs=10, target_kl=kl) for kl in (None, 0.01))
    assert patient.iterate(0.0)["train/n_updates"] == 60
    assert 0 < hasty.iterate(0.0)["train/n_updates"] < 60


def test_rewards_are_divided_by_the_spread_of_the_returns_and_clipped():
    ppo = agent("pendulum", normalize_rewards=True)
    reward, ended = 100 * torch.randn(64, 4), torch.zeros(64, 4, dtype=torch.bool)
    scaled = ppo.scale_rewards(reward, ended)
    spread = ppo.return_norm.var.sqrt().float()
    torch.testing.assert_close(scaled, (reward / spread).clamp(-10, 10))
    assert ppo.return_carry.abs().sum() > 0  # the next rollout goes on from here


def test_an_env_of_float64_precision_is_learned_from_in_float32():
    ppo = PPO(TorchEnv(envs.make_vec("cartpole", 4, seed=0, precision="float64")), CONFIG, seed=0)
    ppo.iterate(0.0)
    assert ppo.rollout.reward.dtype == torch.float32
    assert ppo.rollout.reward.eq(1.0).all()
