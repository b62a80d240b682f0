"""Grids that a launcher of Hydra's runs elsewhere."""

import re
import sys
from importlib.util import find_spec

import pytest

from rlsys import cli
from rlsys.folder import find

SMALL = ["env=cartpole", "num_envs=4", "agent.n_steps=16", "agent.batch_size=32", "agent.hidden=[8]"]
SMALL += ["total_timesteps=256", "eval_every=0", "test_episodes=1", "replay=false"]

submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="pip install 'rlsys[slurm]'")


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Run a grid in an empty folder by submitit's local mode; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlsys"])

    def run(*arguments):
        try:
            return cli.main(
                ["train", "-m", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", *arguments]
            )
        except SystemExit as stop:
            return stop.code

    return run


@submitit
def test_submitit_trains_each_combination(grid):
    assert grid(*SMALL, "seed=1,2") == 0
    runs = find("runs")
    assert {run.config().seed for run in runs} == {1, 2}
    assert all(run.status() == "finished" for run in runs)


@submitit
def test_a_run_that_fails_elsewhere_fails_the_grid(grid, capsys):
    assert grid("seed=1", "env=pendulum", "agent=dqn") == cli.FAILED
    assert "exit code 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launcher", "remedy"),
    [("submitit_lokal", "rlsys\\[slurm\\]"), ("ray_", "hydra-ray-launcher"), ("nonsense", "basic, submitit_")],
)
def test_a_launcher_that_is_not_there_is_named_with_its_package(launcher, remedy, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-m", f"hydra/launcher={launcher}", "seed=1,2"]) == cli.USAGE
    error = capsys.readouterr().err
    assert re.search(remedy, error), error
