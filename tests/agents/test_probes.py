"""Each agent finds the known answers of the probe problems."""

from dataclasses import replace

import pytest
import torch

import envs
from rlsys.agents import build
from rlsys.config import DQNConfig, PPOConfig, PQNConfig
from rlsys.torchenv import TorchEnv
from tests import probes

GAMMA = 0.5
PPO = PPOConfig(n_steps=16, batch_size=64, learning_rate=0.01, gamma=GAMMA, hidden=[16], normalize_advantage=False)
DQN = DQNConfig(
    learning_rate=0.01,
    learning_starts=64,
    batch_size=32,
    buffer_size=4096,
    gamma=GAMMA,
    train_freq=4,
    target_update_interval=64,
    exploration_final_eps=0.5,
    hidden=[16],
)
PQN = PQNConfig(
    n_steps=16, batch_size=64, learning_rate=0.01, gamma=GAMMA, exploration_final_eps=0.5, n_epochs=4, hidden=[16]
)
VALUES = [  # probe, observation -> value
    (probes.ONE, {0.0: 1.0}),
    (probes.SEEN, {-1.0: -1.0, 1.0: 1.0}),
    (probes.LATER, {0.0: GAMMA, 1.0: 1.0}),
    (probes.FOREVER, {0.0: GAMMA / (1 - GAMMA), 1.0: 1 / (1 - GAMMA)}),
]
ACTIONS = [  # probe, observation -> the value of each action
    (probes.CHOICE, {0.0: [-1.0, 1.0]}),
    (probes.MATCH, {-1.0: [1.0, -1.0], 1.0: [-1.0, 1.0]}),
]
AMOUNTS = [  # probe, observation -> the best action
    (probes.REACH, {0.0: 1.0}),
    (probes.FOLLOW, {-1.0: -1.0, 1.0: 1.0}),
]


def name(value):
    return value.name if isinstance(value, probes.Sim) else ""


def train(config, sim, iterations, engine="torch"):
    agent = build(TorchEnv(envs.make_vec(sim, 8, seed=0)), config, seed=0, engine=engine)
    for k in range(iterations):
        agent.iterate(k / iterations)
    return agent


def close(found, expected, tolerance):
    torch.testing.assert_close(found.detach(), torch.tensor(expected), rtol=0.0, atol=tolerance)


def observations(answers):
    return torch.tensor(list(answers)).unsqueeze(1)


def check_ppo_value(sim, values, engine="torch"):
    agent = train(PPO, sim, 60, engine)
    value = agent.critic(agent.policy.encoder(observations(values)))
    close(value, list(values.values()), 0.05)


def check_ppo_policy(sim, values):
    agent = train(PPO, sim, 60)
    best = torch.tensor(list(values.values())).argmax(-1, keepdim=True)
    probability = agent.policy(observations(values)).softmax(-1).gather(-1, best)
    assert (probability > 0.9).all(), probability


def check_ppo_amount(sim, actions, engine="torch"):
    agent = train(PPO, sim, 100, engine)
    close(agent.policy.act(observations(actions)).squeeze(-1), list(actions.values()), 0.15)


def check_q_values(sim, values, config, iterations, engine="torch"):
    agent = train(config, sim, iterations, engine)
    expected = [value if isinstance(value, list) else [value, value] for value in values.values()]
    close(agent.policy(observations(values)), expected, 0.05)


def check_dqn(sim, values, config=DQN, engine="torch"):
    check_q_values(sim, values, config, 4, engine)


def check_pqn(sim, values, config=PQN):
    check_q_values(sim, values, config, 80)


def test_the_native_engine_learns_beyond_the_time_limit_and_looks_before_it_acts():
    check_ppo_value(*VALUES[3], engine="native")
    check_ppo_amount(*AMOUNTS[1], engine="native")
    check_dqn(*VALUES[3], engine="native")


@pytest.mark.parametrize(("sim", "values"), VALUES, ids=name)
def test_ppo_learns_the_value(sim, values):
    check_ppo_value(sim, values)


@pytest.mark.parametrize(("sim", "values"), ACTIONS, ids=name)
def test_ppo_learns_the_action(sim, values):
    check_ppo_policy(sim, values)


@pytest.mark.parametrize(("sim", "actions"), AMOUNTS, ids=name)
def test_ppo_learns_the_amount(sim, actions):
    check_ppo_amount(sim, actions)


@pytest.mark.parametrize(("sim", "values"), VALUES + ACTIONS, ids=name)
def test_dqn_learns_the_q_values(sim, values):
    check_dqn(sim, values)


@pytest.mark.parametrize(
    "options",
    [{"double": False}, {"dueling": True}, {"n_step": 3}, {"tau": 0.2}, {"prioritized_replay": True}],
    ids=str,
)
def test_dqn_learns_them_with_every_option(options):
    check_dqn(*VALUES[2], replace(DQN, **options))
    check_dqn(*VALUES[3], replace(DQN, **options))


@pytest.mark.parametrize(("sim", "values"), VALUES + ACTIONS, ids=name)
def test_pqn_learns_the_q_values(sim, values):
    check_pqn(sim, values)


@pytest.mark.parametrize(
    "options", [{"q_lambda": 0.0}, {"q_lambda": 1.0}, {"layer_norm": False}, {"normalize_observations": True}], ids=str
)
def test_pqn_learns_them_with_every_option(options):
    check_pqn(*VALUES[2], replace(PQN, **options))
    check_pqn(*VALUES[3], replace(PQN, **options))
