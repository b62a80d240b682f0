"""Same seed, same weights to the bit; another seed, other weights; and a run that was stopped goes on as if it had not been."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlsys import checkpoint
from rlsys.agents import build
from rlsys.config import DQNConfig, PPOConfig, PQNConfig
from rlsys.torchenv import TorchEnv
from tests.agents.worlds import make

PPO = PPOConfig(n_steps=32, batch_size=64, n_epochs=2, hidden=[16])
PPO_ALL = PPOConfig(
    n_steps=32,
    batch_size=64,
    n_epochs=2,
    hidden=[16],
    learning_rate_schedule="linear",
    clip_range_schedule="linear",
    normalize_observations=True,
    normalize_rewards=True,
    ent_coef=0.01,
)
DQN = DQNConfig(learning_starts=256, train_freq=16, hidden=[16], exploration_fraction=0.5)
DQN_ALL = DQNConfig(
    learning_starts=256,
    train_freq=16,
    hidden=[16],
    buffer_size=640,  # fewer than the steps taken: the ring wraps
    n_step=3,
    dueling=True,
    normalize_observations=True,
    learning_rate_schedule="linear",
    target_update_interval=64,
    tau=0.5,
)
DQN_PRIORITIES = replace(DQN_ALL, prioritized_replay=True, gradient_steps=2)
PQN = PQNConfig(n_steps=32, batch_size=64, hidden=[16])
PQN_ALL = PQNConfig(
    n_steps=32,
    batch_size=64,
    hidden=[16],
    learning_rate_schedule="linear",
    exploration_fraction=0.5,
    normalize_observations=True,
)
CASES = {  # sim, step limit (short: truncation happens), config
    "ppo": ("cartpole", 20, PPO),
    "ppo, everything on, Box": ("pendulum", 20, PPO_ALL),
    "dqn": ("cartpole", 20, DQN),
    "dqn, everything on": ("cartpole", 20, DQN_ALL),
    "dqn, priorities": ("cartpole", 20, DQN_PRIORITIES),
    "pqn": ("cartpole", 20, PQN),
    "pqn, everything on": ("cartpole", 20, PQN_ALL),
}
HALF = 3  # iterations


def new_agent(case, seed=0):
    sim, limit, config = CASES[case]
    return build(TorchEnv(make(sim, 4, seed=seed, max_episode_steps=limit)), config, seed)


def iterate(agent, first, last, of=2 * HALF):
    return [agent.iterate(k / of) for k in range(first, last)]


def assert_same(one, two, path=""):
    """Nested state or metrics, equal to the bit."""
    assert type(one) is type(two), path
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_same(one[key], two[key], f"{path}/{key}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, path
        assert one.equal(two), path
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two, path)
    elif isinstance(one, list):
        assert len(one) == len(two), path
        for k, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{path}/{k}")
    else:
        assert one == two, path


def weights(agent):
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


def check_resume(case, folder):
    whole, stopped, resumed = new_agent(case), new_agent(case), new_agent(case, seed=1)
    expected = iterate(whole, 0, 2 * HALF)[HALF:]

    iterate(stopped, 0, HALF)
    path = checkpoint.save(folder, stopped.steps, stopped.state())
    resumed.load_state(checkpoint.load(path))
    assert_same(resumed.state(), stopped.state())
    assert_same(iterate(resumed, HALF, 2 * HALF), expected)
    assert_same(resumed.state(), whole.state())


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_gives_the_same_weights_and_metrics(case):
    one, two = new_agent(case), new_agent(case)
    assert_same(iterate(one, 0, HALF), iterate(two, 0, HALF))
    assert_same(one.state(), two.state())


@pytest.mark.parametrize("case", CASES)
def test_another_seed_gives_other_weights_from_the_start_and_after_training(case):
    one, two = new_agent(case), new_agent(case, seed=1)
    assert not weights(one).equal(weights(two))
    two.policy.load_state(copy.deepcopy(one.policy.state()))
    iterate(one, 0, HALF)
    iterate(two, 0, HALF)
    assert not weights(one).equal(weights(two))


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_uninterrupted_run(case, tmp_path):
    check_resume(case, tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_an_agent_can_go_back_to_where_it_was(case):
    agent = new_agent(case)
    iterate(agent, 0, HALF)
    state = copy.deepcopy(agent.state())
    expected = iterate(agent, HALF, 2 * HALF)
    agent.load_state(copy.deepcopy(state))
    assert_same(iterate(agent, HALF, 2 * HALF), expected)


@pytest.mark.parametrize("case", CASES)
def test_the_global_random_state_neither_matters_nor_changes(case):
    torch.manual_seed(0)
    one = new_agent(case)
    iterate(one, 0, HALF)
    assert torch.initial_seed() == 0
    state = torch.get_rng_state()
    torch.manual_seed(1)
    two = new_agent(case)
    iterate(two, 0, HALF)
    assert_same(one.state(), two.state())
    torch.manual_seed(0)
    assert torch.get_rng_state().equal(state)
