"""Config: what is accepted, what is refused, and what the refusal says."""

import dataclasses

import pytest

from rlsys import config
from rlsys.config import (
    Config,
    ConfigError,
    DQNConfig,
    GymnasiumConfig,
    PPOConfig,
    PQNConfig,
    SB3Config,
    SimConfig,
    resolve,
)


def test_no_data_at_all_gives_the_defaults():
    assert resolve({}) == Config()


def test_names_choose_the_schemas():
    assert isinstance(resolve({"env": {"name": "gymnasium"}}).env, GymnasiumConfig)
    assert isinstance(resolve({"env": {"name": "snake"}}).env, SimConfig)
    for name, schema in config.AGENTS.items():
        assert isinstance(resolve({"agent": {"name": name}}).agent, schema)


def test_a_saved_config_is_loaded_as_it_was(tmp_path):
    cfg = Config(
        env=SimConfig(name="pendulum", params={"gravity": [8.0, 12.0], "mass": 2.0}),
        agent=DQNConfig(hidden=[32], learning_rate=1e-3),
        resume=None,
        total_timesteps=12,
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml(cfg))
    assert config.load(tmp_path / "config.yaml") == cfg
    changed = config.go_on(tmp_path / "config.yaml", {"agent.learning_rate": 0.5, "total_timesteps": 99})
    assert changed.agent.learning_rate == 0.5
    assert changed.total_timesteps == 99


@pytest.mark.parametrize("schema", [PPOConfig, DQNConfig, PQNConfig, SB3Config, SimConfig, GymnasiumConfig, Config])
def test_every_default_is_inside_its_own_range(schema):
    data = dataclasses.asdict(schema())
    assert resolve(data) if schema is Config else config.build(schema, data, "x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"sed": 1}, ["'sed'", "Did you mean 'seed'"]),
        ({"agent": {"learning_rat": 1.0}}, ["agent.learning_rat", "Did you mean 'agent.learning_rate'"]),
        ({"env": {"parms": {}}}, ["env.parms", "Did you mean 'env.params'"]),
        ({"agent": {"name": "ppp"}}, ["agent.name='ppp'", "Did you mean 'ppo'"]),
        ({"agent": {"gamma": 1.5}}, ["agent.gamma=1.5", "between 0 and 1"]),
        ({"agent": {"gamma": float("nan")}}, ["agent.gamma=nan", "between 0 and 1"]),
        ({"agent": {"gamma": "high"}}, ["agent.gamma='high'", "must be a number"]),
        ({"agent": {"gamma": True}}, ["agent.gamma=True", "must be a number"]),
        ({"agent": {"learning_rate": None}}, ["agent.learning_rate", "needs a value"]),
        ({"agent": {"n_steps": 2.5}}, ["agent.n_steps=2.5", "must be an integer"]),
        ({"agent": {"hidden": [64, 0]}}, ["agent.hidden=[64, 0]", "between 1 and 65536"]),
        ({"agent": {"hidden": [64.5]}}, ["agent.hidden=[64.5]", "must be an integer"]),
        ({"agent": {"hidden": 64}}, ["agent.hidden=64", "must be a list"]),
        ({"agent": {"activation": "tahn"}}, ["agent.activation='tahn'", "Did you mean 'tanh'"]),
        ({"agent": {"normalize_advantage": "yes"}}, ["agent.normalize_advantage='yes'", "true or false"]),
        ({"num_envs": 0}, ["num_envs=0", "between 1 and 1048576"]),
        ({"seed": -1}, ["seed=-1", "between 0"]),
        ({"device": "gpu"}, ["device='gpu'", "auto, cpu, cuda"]),
        ({"run_dir": 3}, ["run_dir=3", "must be a string"]),
        ({"env": {"params": 3}}, ["env.params=3", "must be a mapping"]),
        ({"env": "cartpole"}, ["env='cartpole'", "must be a mapping"]),
        ({"num_envs": 2, "agent": {"n_steps": 4, "batch_size": 9}}, ["agent.batch_size=9", "2 x agent.n_steps=4 = 8"]),
        ({"num_envs": 64, "agent": {"name": "dqn", "buffer_size": 10}}, ["agent.buffer_size=10", "at least 128"]),
        (
            {"agent": {"name": "dqn", "exploration_initial_eps": 0.1, "exploration_final_eps": 0.2}},
            ["agent.exploration_final_eps", "agent.exploration_initial_eps"],
        ),
        (
            {"agent": {"name": "dqn", "prioritized_replay_alpha": 1.5}},
            ["agent.prioritized_replay_alpha=1.5", "between 0 and 1"],
        ),
        (
            {"agent": {"name": "dqn", "prioritized_replay_beta0": -0.1}},
            ["agent.prioritized_replay_beta0=-0.1", "between 0 and 1"],
        ),
        (
            {"agent": {"name": "dqn", "prioritized_replay_eps": 0.0}},
            ["agent.prioritized_replay_eps=0.0", "at least 1e-12"],
        ),
        (
            {"agent": {"name": "dqn", "prioritised_replay": True}},
            ["agent.prioritised_replay", "Did you mean 'agent.prioritized_replay'"],
        ),
        (
            {"num_envs": 2, "agent": {"name": "pqn", "n_steps": 4, "batch_size": 9}},
            ["agent.batch_size=9", "2 x agent.n_steps=4 = 8"],
        ),
        ({"agent": {"name": "pqn", "q_lambda": 1.1}}, ["agent.q_lambda=1.1", "between 0 and 1"]),
        (
            {"agent": {"name": "pqn", "exploration_initial_eps": 0.1, "exploration_final_eps": 0.2}},
            ["agent.exploration_final_eps", "agent.exploration_initial_eps"],
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_remedy(data, words):
    with pytest.raises(ConfigError) as error:
        resolve(data)
    for word in words:
        assert word in str(error.value)


def test_whole_floats_count_as_integers_where_integers_are_meant():
    assert resolve({"total_timesteps": 1e6}).total_timesteps == 1_000_000
    assert isinstance(resolve({"total_timesteps": 1e6}).total_timesteps, int)


def test_configs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3
