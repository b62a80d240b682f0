"""`rlsys tune-speed`: what it measures, and what it says."""

import json
import math

import pytest

from rlsys import cli, tune
from rlsys.config import ConfigError, resolve

SMALL = {"num_envs": 4, "engine": "torch", "threads": 1, "device": "cpu"}
PPO = {"name": "ppo", "n_steps": 8, "batch_size": 16, "n_epochs": 2, "hidden": [8]}
SETTINGS = ["num_envs=4", "engine=torch", "threads=1", "device=cpu", "agent.n_steps=8", "agent.batch_size=16"]


def config(**others):
    return resolve({**SMALL, "agent": PPO, **others})


def test_a_probe_counts_steps_by_gradient_step_and_by_iteration():
    probe = tune.probe(config(), 0.05)
    assert probe.steps_per_second > 0
    assert probe.steps_an_update == 8.0  # 32 steps, twice through them in minibatches of 16
    assert probe.steps_an_iteration == 32
    assert probe.overrides() == ["num_envs=4", "threads=1", "engine=torch", "device=cpu"]


def test_other_numbers_of_envs_are_tried_with_the_fastest_way_unless_a_minibatch_would_not_fit(monkeypatch):
    speeds = {("native", 1): 10.0, ("native", 2): 30.0, ("torch", 1): 20.0, ("torch", 2): 5.0}
    monkeypatch.setattr(tune, "usable_cores", lambda: 2)
    monkeypatch.setattr(tune.torch.cuda, "is_available", lambda: False)

    def probe(cfg, seconds):
        rate = speeds.get((cfg.engine, cfg.threads), 1.0) * cfg.num_envs
        return tune.Probe(cfg.num_envs, cfg.threads, cfg.engine, cfg.device, rate, 1.0, 1, 0.0)

    monkeypatch.setattr(tune, "probe", probe)
    found = list(tune.tune(config(engine="auto", threads=None, device="auto")))
    ways = [(p.engine, p.threads) for p in found if p.num_envs == 4]
    assert ways == [(engine, k) for engine in ("native", "torch") for k in (1, 2)]
    assert [(p.num_envs, p.engine, p.threads) for p in found[4:]] == [(16, "native", 2), (64, "native", 2)]


def test_a_way_that_cannot_be_is_left_out(monkeypatch):
    monkeypatch.setattr(tune.agents, "compiled", lambda loss: loss)  # which would take a minute
    found = list(tune.tune(config(engine="auto", agent={**PPO, "activation": "gelu"}), seconds=0.1))
    assert {probe.engine for probe in found} == {"torch", "compile"}


def test_dqn_is_measured_while_it_learns():
    agent = {"name": "dqn", "learning_starts": 600, "hidden": [8], "train_freq": 8, "batch_size": 8}
    assert tune.probe(config(agent=agent), 0.05).steps_an_update == pytest.approx(8.0)


def test_the_command_says_what_to_add(capsys):
    assert cli.main(["tune-speed", *SETTINGS, "--seconds", "0.1"]) == 0
    out = capsys.readouterr().out
    assert f"the same learning, fastest:  rlsys train {' '.join(SETTINGS)} threads=1 engine=torch device=cpu" in out
    assert "steps a gradient step" in out


def test_the_command_prints_json(capsys):
    assert cli.main(["tune-speed", *SETTINGS, "--seconds", "0.1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["fastest"] for row in rows) == 1
    assert all(math.isfinite(row["steps_per_second"]) for row in rows)


def test_a_wrong_setting_is_told_before_anything_is_measured(capsys):
    assert cli.main(["tune-speed", "agent.n_stepz=3"]) == cli.USAGE
    assert "Did you mean 'agent.n_steps'?" in capsys.readouterr().err
    assert cli.main(["tune-speed", "--seconds", "soon"]) == cli.USAGE
    assert "--seconds soon is not a number" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="engine"):
        config(engine="fast")
    with pytest.raises(ConfigError, match="GELU"):
        list(tune.tune(config(engine="native", agent={**PPO, "activation": "gelu"}), seconds=0.1))
    assert cli.main(["tune-speed", "resume=latest"]) == cli.USAGE
    assert "resume=latest: tune-speed measures a new run" in capsys.readouterr().err
