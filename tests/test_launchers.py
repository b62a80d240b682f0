"""Grids that a launcher of Hydra's runs elsewhere."""

import re
import sys
from importlib.util import find_spec

import pytest

from rlsys import cli
from rlsys.folder import find

SMALL = ["env=cartpole", "num_envs=4", "agent.n_steps=16", "agent.batch_size=32", "agent.hidden=[8]"]
LOCAL_RAY = ("hydra/launcher=ray_local",)
SMALL += ["total_timesteps=256", "eval_every=0", "test_episodes=1", "replay=false"]

ray = pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'rlsys[ray]' (240 MB)")
submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="pip install 'rlsys[slurm]'")


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Run a grid in an empty folder, by submitit's local mode unless another is typed; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlsys"])

    def run(*arguments, launcher=("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")):
        try:
            return cli.main(["train", "-m", *launcher, *arguments])
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


@ray
def test_ray_trains_the_others_if_a_run_fails_and_says_which(grid, capfd):
    dqn = ["agent=dqn", *(text for text in SMALL if not text.startswith(("env=", "agent.n_steps", "agent.batch")))]
    assert grid(*dqn, "env=pendulum,cartpole", "seed=3,4", launcher=LOCAL_RAY) == cli.FAILED
    error = capfd.readouterr().err
    assert set(re.findall(r"env=pendulum seed=([34]).*ended with exit code 2", error)) == {"3", "4"}
    assert error.count("needs a Discrete action space") == 2
    runs = find("runs")
    assert sorted((run.config().env.name, run.config().seed, run.config().threads) for run in runs) == [
        ("cartpole", 3, 1),
        ("cartpole", 4, 1),
    ]
    assert all(run.status() == "finished" for run in runs)


@ray
def test_a_ray_grid_whose_runs_all_end_well_ends_well(grid):
    assert grid(*SMALL, "seed=1,2", "threads=2", "hydra.launcher.num_cpus=0.5", launcher=LOCAL_RAY) == cli.OK
    assert {(run.config().seed, run.config().threads) for run in find("runs")} == {(1, 2), (2, 2)}


@ray
@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("num_gpus=1000", "num_gpus=1000 for each run: this machine has"),
        ("num_cpus=-1", "cannot be negative"),
        ("address=127.0.0.1:1", "ray_local"),
    ],
)
def test_what_ray_cannot_give_is_refused_before_a_run_begins(setting, complaint, grid, capfd):
    assert grid(*SMALL, "seed=1,2", f"hydra.launcher.{setting}", launcher=LOCAL_RAY) == cli.USAGE
    assert complaint in capfd.readouterr().err
    assert not find("runs")


@pytest.mark.parametrize(
    ("launcher", "remedy"),
    [("submitit_lokal", "rlsys\\[slurm\\]"), ("ray_", "rlsys\\[ray\\]"), ("nonsense", "basic, submitit_")],
)
def test_a_launcher_that_is_not_there_is_named_with_its_package(launcher, remedy, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-m", f"hydra/launcher={launcher}", "seed=1,2"]) == cli.USAGE
    error = capsys.readouterr().err
    assert re.search(remedy, error), error
