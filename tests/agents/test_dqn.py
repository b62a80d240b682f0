"""DQN: its loss by hand, its schedules and its counting of steps."""

import copy

import numpy as np
import pytest
import torch

from rlsys.agents.dqn import DQN, ITERATION, passed
from rlsys.buffers import Batch, random_bits
from rlsys.config import DQNConfig
from rlsys.torchenv import TorchEnv
from tests.agents.worlds import make, make_with_resets


def agent(num_envs=4, **options):
    return DQN(TorchEnv(make("cartpole", num_envs)), DQNConfig(**options), seed=0)


def added(dqn):
    """All rows in the replay buffer."""
    return dqn.replay.newest(len(dqn.replay) // dqn.env.num_envs)


def give_values(net, table):
    """Make the Q-values of `net` those of a table, whatever the network: rows by the first number of the observation."""
    net.forward = lambda obs: table[obs[:, 0].long()]


def check_target(double, expected):
    """One transition: Q = 5, reward -1, discount 1/2. What follows is best met by action 0, or 1 by the target network."""
    dqn = agent(double=double)
    online = torch.tensor([[5.0, 9.0], [7.0, 6.0]], requires_grad=True)
    give_values(dqn.policy, online)
    give_values(dqn.target, torch.tensor([[0.0, 0.0], [2.0, 8.0]]))
    obs, next_obs = torch.zeros(1, 4), torch.ones(1, 4)
    batch = Batch(obs, torch.tensor([0]), torch.tensor([-1.0]), next_obs, torch.tensor([0.5]))
    loss, log, error = dqn.loss(batch, torch.ones(1))
    loss.backward()
    assert log["train/q_values"] == 5.0
    assert loss.item() == 5 - expected - 0.5  # Huber, beyond 1
    assert error.tolist() == [5 - expected]
    assert online.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]  # nothing through the target


def test_plain_q_learning_takes_the_best_value_of_the_target_network():
    check_target(double=False, expected=-1 + 8 / 2)


def test_double_q_learning_takes_the_target_networks_value_of_the_policys_best_action():
    check_target(double=True, expected=-1 + 2 / 2)


def test_the_loss_of_a_minibatch_is_the_mean_over_its_transitions():
    dqn = agent(double=False)
    give_values(dqn.policy, torch.tensor([[5.0, 9.0], [7.0, 6.0]]))
    give_values(dqn.target, torch.tensor([[0.0, 0.0], [2.0, 8.0]]))
    obs, next_obs = torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]])
    batch = Batch(obs, torch.tensor([0, 1]), torch.tensor([1.0, 2.0]), next_obs, torch.tensor([0.5, 0.0]))
    # |5 - (1 + 8/2)| = 0; |9 - 2| = 7, of which Huber makes 6.5
    assert dqn.loss(batch)[0].item() == 3.25


def check_weighted_loss():
    dqn = agent(double=False)
    online = torch.tensor([[5.0, 9.0], [7.0, 6.0]], requires_grad=True)
    give_values(dqn.policy, online)
    give_values(dqn.target, torch.tensor([[0.0, 0.0], [2.0, 8.0]]))
    obs, next_obs = torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]])
    batch = Batch(obs, torch.tensor([0, 1]), torch.tensor([1.5, 2.0]), next_obs, torch.tensor([0.5, 0.0]))
    # |5 - (1.5 + 8/2)| = 0.5, of which Huber makes 0.125; |9 - 2| = 7 makes 6.5
    loss, _, error = dqn.loss(batch, torch.tensor([1.0, 0.25]))
    loss.backward()
    assert error.tolist() == [0.5, 7.0]
    assert loss.item() == (0.125 + 6.5 / 4) / 2
    assert online.grad.tolist() == [[-0.25, 0.125], [0.0, 0.0]]


def test_importance_weights_scale_each_transitions_part_of_the_loss():
    check_weighted_loss()


def test_weights_of_one_change_nothing():
    dqn = agent(learning_starts=10**6)
    dqn.iterate(0.0)
    batch = dqn.replay.sample(random_bits(64, generator=dqn.generator), dqn.generator)
    gradients = []
    for weight in (None, torch.ones(64)):
        dqn.optimizer.zero_grad()
        dqn.loss(batch, weight)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in dqn.parameters]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def check_that_errors_become_priorities(n_step=3):
    """Two gradient steps at learning rate 0 leave the networks as they are, so that all errors are known beforehand."""
    options = {"prioritized_replay": True, "prioritized_replay_alpha": 0.5, "prioritized_replay_eps": 0.01}
    dqn = agent(learning_starts=10**6, double=False, n_step=n_step, buffer_size=400, **options)
    dqn.iterate(0.0)
    dqn.target.load_state_dict({name: 3.0 * x for name, x in dqn.target.state_dict().items()})
    expected = copy.deepcopy(dqn.replay)
    bits = random_bits(2, 32, generator=dqn.generator)
    for row in bits:
        batch, item, _ = expected.draw(row, dqn.beta)
        with torch.no_grad():
            q = dqn.policy(batch.obs)[torch.arange(32), batch.action]
            delta = q - batch.reward - batch.discount * dqn.target(batch.next_obs).max(-1).values
        expected.update(item, delta.abs())
        torch.testing.assert_close(
            expected.priorities.leaf[item].float(), (delta.abs() + 0.01).sqrt(), rtol=1e-4, atol=1e-4
        )
    dqn.learn(bits, 0.0)
    torch.testing.assert_close(dqn.replay.priorities.leaf, expected.priorities.leaf, rtol=1e-4, atol=1e-4)


def test_errors_become_priorities_before_the_next_minibatch_is_drawn():
    check_that_errors_become_priorities()


def test_beta_rises_to_one_at_the_end_of_the_run():
    dqn, betas = agent(prioritized_replay=True, prioritized_replay_beta0=0.4, learning_starts=10**6), []
    for progress in (0.0, 0.5, 1.0):
        dqn.iterate(progress)
        betas.append(dqn.beta.item())
    assert betas == pytest.approx([0.4, 0.7, 1.0])


def test_the_mean_importance_weight_is_logged_where_there_is_one():
    dqn = agent(prioritized_replay=True, learning_starts=0)
    assert 0.0 < dqn.iterate(0.0)["train/importance_weight"] < 1.0
    flat = agent(prioritized_replay=True, prioritized_replay_alpha=0.0, learning_starts=0)
    assert flat.iterate(0.0)["train/importance_weight"] == 1.0
    assert "train/importance_weight" not in agent(learning_starts=0).iterate(0.0)


@pytest.mark.parametrize("kind", ["sim", "gymnasium"])
def test_a_step_that_only_resets_is_never_drawn_by_priority(kind):
    config = DQNConfig(learning_starts=10**6, prioritized_replay=True)
    dqn = DQN(TorchEnv(make_with_resets(kind, 4)), config, seed=0)
    dqn.iterate(0.0)
    assert (~added(dqn).valid).any()
    _, item, _ = dqn.replay.draw(random_bits(5000, generator=dqn.generator), dqn.beta)
    assert dqn.replay.flat.valid[item].all()


def test_exploration_falls_linearly_after_the_start_of_learning():
    dqn = agent(learning_starts=0, exploration_fraction=0.5, exploration_initial_eps=0.9, exploration_final_eps=0.1)
    rates = [dqn.iterate(progress)["rollout/exploration_rate"] for progress in (0.0, 0.25, 0.5, 1.0)]
    assert rates == pytest.approx([0.9, 0.5, 0.1, 0.1])


def test_all_actions_are_random_before_the_start_of_learning():
    dqn = agent(learning_starts=2 * ITERATION, exploration_initial_eps=0.0, exploration_final_eps=0.0)
    assert [dqn.iterate(0.0)["rollout/exploration_rate"] for _ in range(3)] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_share_of_random_actions_is_epsilon(epsilon):
    dqn = agent(num_envs=64, learning_starts=0, train_freq=10**6, exploration_final_eps=epsilon)
    give_values(dqn.policy, torch.tensor([[0.0, 1.0]]).expand(3, 2))  # action 1 is always best
    for _ in range(40):
        dqn.iterate(1.0)
    action = added(dqn).action
    assert (action == 0).float().mean().item() == pytest.approx(epsilon / 2, abs=0.015)


@pytest.mark.parametrize(
    ("num_envs", "train_freq", "gradient_steps", "expected"),
    [(8, 4, 1, 512 // 4), (1, 4, 1, 512 // 4), (8, 64, 3, 512 // 64 * 3), (6, 4, 1, 516 // 4), (1, 1000, 1, 0)],
)
def test_gradient_steps_are_counted_in_environment_steps(num_envs, train_freq, gradient_steps, expected):
    dqn = agent(num_envs, train_freq=train_freq, gradient_steps=gradient_steps, learning_starts=0, batch_size=1)
    assert dqn.iterate(0.0)["train/n_updates"] == expected
    assert dqn.steps == (516 if num_envs == 6 else ITERATION)


def test_nothing_is_learned_before_the_start_of_learning():
    dqn = agent(learning_starts=700, train_freq=4)
    assert "train/loss" not in dqn.iterate(0.0)
    assert dqn.iterate(0.0)["train/n_updates"] == (1024 - 700) // 4


@pytest.mark.parametrize(("num_envs", "interval", "expected"), [(4, 100, 5), (64, 10, 8), (1, 600, 0)])
def test_the_target_network_is_updated_at_its_interval(num_envs, interval, expected):
    dqn, calls = agent(num_envs, target_update_interval=interval), []
    dqn.move_target = lambda: calls.append(dqn.steps)
    dqn.iterate(0.0)
    assert len(calls) == expected


def test_multiples_of_an_interval_are_counted_once_each():
    assert passed(4, np.arange(0, 30, 6)).tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_the_target_network_moves_by_tau(tau):
    dqn = agent(tau=tau, normalize_observations=True)
    dqn.policy.encoder.update_norm(torch.randn(10, 4))
    online = {name: x.clone() for name, x in dqn.policy.state_dict().items()}
    for x in dqn.target.state_dict().values():
        x.zero_()
    dqn.update_target()
    for name, x in dqn.target.state_dict().items():
        torch.testing.assert_close(x, tau * online[name], rtol=0, atol=0 if tau == 1.0 else 1e-7)


def test_the_replay_buffer_holds_the_last_observation_of_an_episode_as_its_successor():
    dqn = agent(num_envs=4, learning_starts=10**6)
    dqn.iterate(0.0)
    rows = added(dqn)
    assert rows.ended.any()
    out = (rows.next_obs[..., 0].abs() > 2.4) | (rows.next_obs[..., 2].abs() > 12 * 2 * torch.pi / 360)
    assert out.equal(rows.terminated)  # a first observation is far within the limits
    assert rows.next_obs[:-1][~rows.ended[:-1]].equal(rows.obs[1:][~rows.ended[:-1]])


@pytest.mark.parametrize("kind", ["sim", "gymnasium"])
def test_a_step_that_only_resets_is_never_learned_from(kind):
    dqn = DQN(TorchEnv(make_with_resets(kind, 4)), DQNConfig(learning_starts=10**6), seed=0)
    dqn.iterate(0.0)
    rows = added(dqn)
    assert (~rows.valid).any()
    bad = rows.obs[~rows.valid]
    sample = dqn.replay.sample(random_bits(5000, generator=dqn.generator), dqn.generator).obs
    assert not (sample.unsqueeze(1) == bad).all(-1).any()


def test_a_restarted_gymnasium_env_does_not_continue_the_last_episode():
    one, two = (DQN(TorchEnv(make_with_resets("gymnasium", 2)), DQNConfig(n_step=3), seed=0) for _ in range(2))
    one.iterate(0.0)
    two.load_state(one.state())
    assert two.replay.newest(1).ended.all()


def test_the_normaliser_learns_from_what_was_seen():
    dqn = agent(normalize_observations=True)
    dqn.iterate(0.0)
    norm = dqn.policy.encoder.parts[0].norm
    assert norm.count == ITERATION
    torch.testing.assert_close(norm.mean.float(), added(dqn).obs.flatten(0, 1).mean(0))


def test_a_box_of_actions_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"needs a Discrete action space.*agent=ppo, or agent=sb3 with SAC"):
        DQN(TorchEnv(make("pendulum", 2)), DQNConfig(), seed=0)
