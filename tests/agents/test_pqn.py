"""PQN: its targets and its update against references written out, its exploration, and the worlds it can learn in."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

import envs
from envs.gym import GymVectorEnv
from rlsys.agents import build
from rlsys.agents.pqn import PQN
from rlsys.config import PQNConfig
from rlsys.torchenv import TorchEnv
from tests.agents.test_returns import q_lambda_by_definition
from tests.agents.worlds import make, make_with_resets

CONFIG = PQNConfig(n_steps=64, batch_size=50, n_epochs=2, hidden=[8])


def agent(sim="cartpole", num_envs=4, limit=None, **options):
    return PQN(TorchEnv(make(sim, num_envs, max_episode_steps=limit)), replace(CONFIG, **options), seed=0)


# -- collecting ----------------------------------------------------------------------------------------------------------


def test_the_rollout_is_a_chain_of_observations_that_the_next_rollout_continues():
    pqn = agent()
    pqn.collect(1.0)
    last = pqn.obs[-1].clone()
    ended = pqn.rollout.terminated | pqn.rollout.truncated
    assert ended.any()
    assert (pqn.obs[1:][ended].abs() < 0.05).all()  # the first observation of a CartPole episode
    pqn.collect(1.0)
    assert pqn.obs[0].equal(last)
    assert pqn.steps == 2 * 64 * 4


def check_share_of_random_actions(epsilon):
    """Action 1 is always best, so that action 0 is taken at half of the times of exploration."""
    pqn = agent(num_envs=64, n_steps=256)
    pqn.policy.forward = lambda obs: torch.tensor([0.0, 1.0]).expand(len(obs), 2)
    pqn.collect(epsilon)
    assert (pqn.action == 0).float().mean().item() == pytest.approx(epsilon / 2, abs=0.015)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_share_of_random_actions_is_epsilon(epsilon):
    check_share_of_random_actions(epsilon)


def test_without_exploration_the_best_action_is_taken():
    pqn = agent()
    pqn.collect(0.0)
    assert pqn.action.equal(pqn.policy.act(pqn.obs[:-1].flatten(0, 1)).unflatten(0, (64, 4)))


def test_exploration_falls_over_its_fraction_of_the_run_and_the_learning_rate_over_all_of_it():
    pqn = agent(exploration_fraction=0.5, exploration_initial_eps=0.9, exploration_final_eps=0.1)
    rates = [pqn.iterate(progress)["rollout/exploration_rate"] for progress in (0.0, 0.25, 0.5, 1.0)]
    assert rates == pytest.approx([0.9, 0.5, 0.1, 0.1])
    pqn = agent(learning_rate=0.1, learning_rate_schedule="linear")
    for progress, expected in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        assert pqn.iterate(progress)["train/learning_rate"] == pytest.approx(expected)
        assert pqn.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


# -- targets -------------------------------------------------------------------------------------------------------------


def check_targets():
    """Each target on its own, from the values of the true successors: an episode's last observation where it was cut off.

    The Q-values are the pole's angle, times 10 for action 0 and times -10 for action 1, so that max_a Q = 10 |angle|.
    """
    pqn = agent(limit=20, gamma=0.9, q_lambda=0.7)
    pqn.policy.forward = lambda obs: obs[:, 2:3] * torch.tensor([10.0, -10.0])
    pqn.collect(1.0)
    roll, ended = pqn.rollout, pqn.rollout.terminated | pqn.rollout.truncated
    assert roll.terminated.any()
    assert (roll.truncated & ~roll.terminated).any()
    successor = torch.where(ended.unsqueeze(-1), roll.final_obs, pqn.obs[1:])
    values = 10 * successor[..., 2].abs()
    arrays = (x.double().numpy() for x in (roll.reward, values * ~roll.terminated))
    expected = q_lambda_by_definition(*arrays, ended.numpy(), 0.9, 0.7)
    torch.testing.assert_close(pqn.targets().double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_the_targets_are_those_of_the_definition():
    check_targets()


def test_the_targets_are_computed_once_an_iteration_by_the_values_that_acted():
    pqn, seen = agent(n_epochs=3, learning_rate=0.1), []
    loss = pqn.loss
    pqn.loss = lambda obs, action, target: seen.append(target) or loss(obs, action, target)
    pqn.collect(1.0)
    expected = pqn.targets()
    pqn.update(expected)
    assert pqn.updates == len(seen) == 3 * 6
    for epoch in range(3):
        together = torch.cat(seen[6 * epoch : 6 * epoch + 6])
        assert together.sort().values.equal(expected.flatten().sort().values)
        assert not together.requires_grad


# -- the update ----------------------------------------------------------------------------------------------------------


def radam(parameters, gradients, learning_rate, b1=0.9, b2=0.999):
    """Gradient steps with rectified Adam (Liu et al. 2020, algorithm 2; warm as optax and torch do, from rho > 5 on)."""
    first, second = np.zeros_like(parameters), np.zeros_like(parameters)
    rho_inf = 2 / (1 - b2) - 1
    for t in range(1, 10**6):
        gradient = gradients(parameters)
        if gradient is None:
            return parameters
        first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        step = first / (1 - b1**t)
        if rho > 5:
            rectified = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            step = step * rectified * np.sqrt(1 - b2**t) / (np.sqrt(second) + 1e-8)
        parameters = parameters - learning_rate * step


def check_update(dtype=torch.float32, tolerance=1e-5):
    """Gradient steps of a linear network, written out in NumPy: d/dW [(W o + b)_a - y]^2 / 2 = (q - y) o."""
    pqn = agent(hidden=[], learning_rate=0.1, max_grad_norm=0.5)
    pqn.policy.to(dtype)
    pqn.obs = torch.randn(pqn.obs.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    pqn.action.random_(2, generator=torch.Generator().manual_seed(2))
    target = torch.linspace(-2, 2, 256, dtype=dtype).view(64, 4)
    batches = list(
        torch.randperm(256, generator=torch.Generator().manual_seed(3)).split(25)
    )  # 11: warm from the 6th on
    obs, y = pqn.obs[:-1].flatten(0, 1).double().numpy(), target.flatten().double().numpy()
    action = pqn.action.flatten().numpy()
    left, losses, norms = iter(batches), [], []

    def gradient(parameters):
        at = next(left, None)
        if at is None:
            return None
        weight, bias = parameters[:8].reshape(2, 4), parameters[8:]
        error = (obs[at] @ weight.T + bias)[np.arange(len(at)), action[at]] - y[at]
        losses.append((error**2).mean() / 2)
        chosen = np.eye(2)[action[at]] * error[:, None] / len(at)
        found = np.concatenate([(chosen.T @ obs[at]).ravel(), chosen.sum(0)])
        norms.append(np.linalg.norm(found))
        return found * min(1.0, 0.5 / (norms[-1] + 1e-6))

    head = pqn.policy.head
    before = torch.cat([head.weight.detach().flatten(), head.bias.detach()]).double().numpy()
    expected = radam(before, gradient, 0.1)
    assert min(norms) < 0.5 < max(norms)

    pqn.optimizer.param_groups[0]["lr"] = 0.1
    pqn.minibatches = lambda: iter(batches)
    metrics = pqn.update(target)
    found = torch.cat([head.weight.detach().flatten(), head.bias.detach()])
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=tolerance, atol=tolerance)
    assert metrics["train/loss"].item() == pytest.approx(np.mean(losses), rel=tolerance)
    assert metrics["train/grad_norm"].item() == pytest.approx(np.mean(norms), rel=tolerance)
    assert pqn.updates == 11


def test_an_update_is_the_one_written_out_in_numpy(monkeypatch):
    check_update()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # observations are cast to float32
    check_update(torch.float64, 1e-10)


def test_layer_normalisation_can_be_left_out():
    assert [type(layer).__name__ for layer in agent().policy.body] == ["Linear", "LayerNorm", "ReLU"]
    assert [type(layer).__name__ for layer in agent(layer_norm=False).policy.body] == ["Linear", "ReLU"]


def test_every_step_is_used_once_an_epoch():
    batches = list(agent().minibatches())
    assert [len(batch) for batch in batches] == [50, 50, 50, 50, 50, 6] * 2
    for epoch in (batches[:6], batches[6:]):
        assert torch.cat(epoch).sort().values.equal(torch.arange(256))
    assert not torch.cat(batches[:6]).equal(torch.cat(batches[6:]))


@pytest.mark.parametrize("kind", ["sim", "gymnasium"])
def test_a_step_that_only_resets_is_never_learned_from(kind):
    pqn = PQN(TorchEnv(make_with_resets(kind, 4)), CONFIG, seed=0)
    pqn.collect(1.0)
    valid = pqn.rollout.valid.flatten()
    assert 0 < (~valid).sum() < 64
    used = torch.cat(list(pqn.minibatches())[:6]).unique()
    assert used.equal(valid.nonzero().squeeze(1))


def test_a_rollout_of_nothing_but_resets_changes_nothing():
    pqn = PQN(TorchEnv(make_with_resets("sim", 1)), replace(CONFIG, n_steps=1, exploration_final_eps=1.0), seed=0)
    resets = 0
    while resets < 3:
        before = pqn.policy.head.bias.detach().clone()
        metrics = pqn.iterate(1.0)
        only_resets = not pqn.rollout.valid.any()
        assert pqn.policy.head.bias.equal(before) == only_resets
        assert ("train/loss" in metrics) != only_resets
        resets += only_resets


def test_the_normaliser_learns_from_what_was_seen_after_the_update():
    pqn = agent(normalize_observations=True)
    seen, norm = [], pqn.policy.encoder.parts[0].norm
    loss = pqn.loss
    pqn.loss = lambda *batch: seen.append(norm.count.item()) or loss(*batch)
    pqn.iterate(0.0)
    assert set(seen) == {0}
    assert norm.count == 256
    torch.testing.assert_close(norm.mean.float(), pqn.obs[:-1].flatten(0, 1).mean(0))


# -- worlds --------------------------------------------------------------------------------------------------------------


def test_a_box_of_actions_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"agent=pqn needs a Discrete action space.*agent=ppo, or agent=sb3 with SAC"):
        agent("pendulum")


def test_an_env_of_float64_precision_is_learned_from_in_float32():
    pqn = PQN(TorchEnv(envs.make_vec("cartpole", 4, seed=0, precision="float64")), CONFIG, seed=0)
    pqn.iterate(0.0)
    assert pqn.rollout.reward.dtype == torch.float32
    assert pqn.rollout.reward.eq(1.0).all()


def test_pictures_are_learned_from_through_the_encoder():
    pqn = agent("snake", n_steps=8)
    before = [p.detach().clone() for p in pqn.policy.encoder.parameters()]
    pqn.iterate(0.0)
    after = list(pqn.policy.encoder.parameters())
    assert before
    assert not any(a.equal(b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_gymnasiums_cartpole_gives_the_same_metrics_in_whatever_mode_it_is_reset(mode):
    made = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 4, autoreset_mode=mode)
    pqn = build(TorchEnv(GymVectorEnv(made)), CONFIG, seed=0)
    for _ in range(3):
        metrics = pqn.iterate(0.0)
    assert pqn.env.metrics()["rollout/episodes"] > 0
    assert metrics["train/n_updates"] == pqn.updates >= 3 * 2 * 5
    assert all(np.isfinite(float(value)) for value in metrics.values())


class Guess(gymnasium.Env):
    """A dict of a dark picture and one of three flags; the reward is 1 for naming the flag. One step."""

    observation_space = gymnasium.spaces.Dict(
        {"picture": gymnasium.spaces.Box(0, 255, (8, 9, 3), np.uint8), "flag": gymnasium.spaces.Discrete(3)}
    )
    action_space = gymnasium.spaces.Discrete(3)

    def draw(self):
        picture = self.np_random.integers(8, size=(8, 9, 3), dtype=np.uint8)
        self.flag = int(self.np_random.integers(3))
        return {"picture": picture, "flag": self.flag}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        reward = float(action == self.flag)
        return self.draw(), reward, True, False, {}


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_a_dict_of_observations_is_learned_from_part_by_part(mode):
    env = TorchEnv(GymVectorEnv(SyncVectorEnv([Guess] * 8, autoreset_mode=mode)))
    options = {"n_steps": 32, "batch_size": 64, "learning_rate": 3e-3, "hidden": [32], "exploration_final_eps": 0.5}
    pqn = PQN(env, replace(CONFIG, **options), seed=0)
    for k in range(20):
        pqn.iterate(k / 20)
    obs = pqn.obs.flatten(0, 1)
    flag = obs[:, :3]  # keys are sorted: the flag comes before the picture
    assert flag.sum(-1).eq(1).all()
    assert (pqn.policy.act(obs) == flag.argmax(-1)).float().mean() > 0.95
