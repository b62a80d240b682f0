"""Sweeps: what is searched, who takes which trial, and that a ledger is exact whatever is killed.

Most use a stand-in for `rlsys train` that is there in a moment and scores by a formula.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("optuna", reason="needs rlsys[sweep]")

from optuna.exceptions import StorageInternalError

from rlsys import cli, config, sweep
from rlsys.compose import composed, search_space
from rlsys.config import ConfigError, SweepConfig, resolve_sweep
from rlsys.cost import Cost
from rlsys.folder import find, is_held
from rlsys.sweep import StorageLost, Sweep, Trial, extend, reopen
from rlsys.sweep.jobs import Job, Slot, make_slots, room, visible_gpus
from rlsys.sweep.spec import Parameter, Spec, centre, plan
from rlsys.sweep.study import Study, Taken, _Flock, public
from tests import sweeps
from tests.sweeps import compose

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("train") / "train.py"
    path.write_text(sweeps.TRAIN)
    return [sys.executable, "-S", str(path)]


RATE = Parameter("choice", ["0.001", "0.01", "0.1"])


def planned(folder: Path, space: dict | None = None, seeds: list[int] = [0, 1], fixed: list[str] = [], **keys) -> Spec:
    keys = {"sampler": "random", "pruner": "none", "workers": 2, "trials": 3, "dir": str(folder), **keys}
    return plan(fixed, space or {"agent.learning_rate": RATE}, seeds, resolve_sweep(keys), compose)


def swept(spec: Spec, train: list[str]) -> Study:
    study, folder = sweep.create(spec)
    Sweep(study, folder, spec.sweep, compose, train=train, quiet=True).run()
    return study


def starts(folder: Path) -> dict[str, int]:
    """How often each run was started, by "<trial>/s<seed>"."""
    found = {}
    for path in sorted((folder / "trials").rglob("command.txt")):
        trial, seed = path.relative_to(folder / "trials").parts[:2]
        assert f"{trial}/{seed}" not in found, "two runs for one seed"
        found[f"{trial}/{seed}"] = len(path.read_text().splitlines())
    return found


def until(holds, seconds: float = 300.0):
    """Wait for something; its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := holds():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come true")


# -- what is searched --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("agent.gamma=tag(log,interval(1e-4,1e-2))", Parameter("float", low=1e-4, high=1e-2, log=True)),
        ("agent.gamma=interval(0.9,1)", Parameter("float", low=0.9, high=1.0)),
        ("agent.n_steps=int(interval(1,9))", Parameter("int", low=1.0, high=9.0)),
        ("agent.n_steps=choice(32,64)", Parameter("choice", ["32", "64"])),
        ("agent.hidden=[64,64],[32]", Parameter("choice", ["[64,64]", "[32]"])),
        ("agent.n_epochs=range(1,10,4)", Parameter("int", low=1.0, high=9.0, step=4.0)),
        ("agent.gamma=range(0,1,0.25)", Parameter("float", low=0.0, high=0.75, step=0.25)),
        ("env.params.gravity=8,9", Parameter("choice", ["8", "9"])),
        ("agent=ppo,dqn", Parameter("choice", ["ppo", "dqn"])),
    ],
)
def test_hydras_words_say_what_is_searched(text, parameter):
    fixed, space, seeds = search_space(["num_envs=8", text, "seed=3,1"])
    assert (fixed, space, seeds) == (["num_envs=8"], {text.partition("=")[0]: parameter}, [3, 1])


def test_what_is_typed_later_takes_the_place_of_a_presets_value():
    assert search_space(["agent.gamma=choice(0.9,0.99)", "agent.gamma=0.5"]) == (["agent.gamma=0.5"], {}, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "there is nothing to search"),
        (["agent.gama=0.9,0.99"], "Did you mean 'agent.gamma'?"),
        (["agent.gamma=0.9,1.5"], "agent.gamma=1.5 is out of range: it must be between 0 and 1"),
        (["agent.gamma=interval(0.9,1.1)"], "agent.gamma=1.1 is out of range"),
        (["agent.gamma=interval(0.9,0.9)"], "from low to high"),
        (["agent.learning_rate=tag(log,interval(0,1))"], "from above 0"),
        (["agent.learning_rate=tag(lg,interval(1,2))"], "there is no tag 'lg'; there is log"),
        (["agent.gamma=0.9,0.99", "sweep.trial=3"], "Did you mean 'sweep.trials'?"),
        (["agent.gamma=0.9,0.99", "sweep.trials=0"], "sweep.trials=0 is out of range: it must be between 1"),
        (["agent.gamma=0.9,0.99", "sweep.sampler=tpee"], "Did you mean 'tpe'?"),
        (["agent.gamma=0.9,0.99", "sweep=pppo"], "Did you mean 'ppo'?"),
        (["agent.gamma=0.9,0.99", "sweep.objective=[scor]"], "Did you mean 'score'?"),
        (["agent.gamma=0.9,0.99", "sweep.objective=[score,score]"], "a list of different names"),
        (["agent.gamma=0.9,0.99", "sweep.objective=[score,seconds]", "sweep.pruner=median"], "sweep.pruner=none"),
        (
            ["agent.gamma=interval(0.9,1)", "sweep.sampler=grid"],
            "sweep.sampler=grid cannot count the values of agent.gamma",
        ),
        (["agent.gamma=0.9,0.99", "sweep.sampler=cmaes"], "sweep.sampler=cmaes searches numbers only"),
        (["agent.gamma=0.9,0.99", "sweep.pruner=wilcoxon"], "needs 5 seeds or more"),
        (["agent.gamma=0.9,0.99", "sweep.pruner=asha", "eval_every=0"], "lower eval_every"),
        (["agent.gamma=0.9,0.99", "sweep.jobs_per_gpu=2"], "needs sweep.gpus_per_worker=1"),
        (["agent.gamma=0.9,0.99", "sweep.gpus_per_worker=64"], "sweep.gpus_per_worker=64 and sweep.jobs_per_gpu=1"),
        (["agent.gamma=0.9,0.99", "device=cuda"], "sweep.gpus_per_worker=1"),
        (["agent.gamma=0.9,0.99", "distributed=ddp"], "sweep.workers"),
        (["agent.gamma=0.9,0.99", "run_dir=here"], "sweep.dir=FOLDER"),
        (["agent.gamma=0.9,0.99", "seed=1,1.5"], "seeds are integers"),
        (["agent.gamma=0.9,0.99", "seed=interval(1,3)"], "seed=1,2,3"),
        (["agent.gamma=glob(*)"], "choice(...), range(...) and interval(...)"),
        (["resume"], "needs a sweep's folder"),
        (["resume", "nowhere"], "no sweep at 'nowhere'"),
        (["show", "sqlite:////nowhere/at/all.db"], "there is no such file"),
    ],
)
def test_a_mistake_ends_with_exit_code_2_a_remedy_and_nothing_begun(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_command_to_install_it_is_said(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("rlsys.sweep")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "agent.gamma=0.9,0.99"]) == 2
    assert "pip install 'rlsys[sweep]'" in capsys.readouterr().err


def test_a_value_that_is_wrong_only_beside_some_others_is_left_to_the_trials(tmp_path, train):
    # 64 envs x 1 step hold no minibatch of 128; 64 x 2 do
    space = {"agent.n_steps": Parameter("choice", ["1", "2"]), "agent.batch_size": Parameter("choice", ["128", "64"])}
    fixed = ["agent.learning_rate=0.001"]
    rows = swept(planned(tmp_path, space, [0], fixed, trials=4, sampler="grid"), train).rows()
    failed = [row for row in rows if row.state == "failed"]
    assert [row.state for row in rows].count("finished") == 3
    assert [row.params for row in failed] == [{"agent.n_steps": "1", "agent.batch_size": "128"}]
    assert "agent.batch_size=128 is more than a rollout holds" in failed[0].error
    with pytest.raises(ConfigError, match="more than a rollout holds"):
        planned(tmp_path, {"agent.batch_size": Parameter("choice", ["64", "1000000"])}, [0])


def test_cores_and_gpus_are_shared_out():
    slots = make_slots(SweepConfig(workers=3), 8, [])
    assert [(slot.threads, slot.gpus) for slot in slots] == [(2, ())] * 3
    assert len(make_slots(SweepConfig(), 8, [])) == 8
    slots = make_slots(SweepConfig(gpus_per_worker=1, jobs_per_gpu=2), 8, ["0", "3"])
    assert [slot.gpus for slot in slots] == [("0",), ("3",), ("0",), ("3",)]
    assert slots[1].environment()["CUDA_VISIBLE_DEVICES"] == "3"
    slots = make_slots(SweepConfig(gpus_per_worker=2), 8, ["0", "1", "2", "3", "4"])
    assert [(slot.threads, slot.gpus) for slot in slots] == [(4, ("0", "1")), (4, ("2", "3"))]
    with pytest.raises(ConfigError, match="this machine's 1 GPUs are enough for 0"):
        make_slots(SweepConfig(gpus_per_worker=2), 8, ["0"])


def test_a_trial_is_judged_by_the_interquartile_mean_of_its_seeds_and_of_few_by_the_mean():
    assert centre([0.0, 10.0, 20.0, 1000.0]) == 15.0
    assert centre([0.0, 10.0, 50.0]) == 20.0
    np.testing.assert_array_equal(centre([[0.0, 10.0, 20.0, 1000.0], [1.0, 1.0, 1.0, 1.0]]), [15.0, 1.0])


def test_a_databases_password_is_kept_nowhere():
    assert public("postgresql://me:se@cret@host:5432/db") == "postgresql://me@host:5432/db"
    assert public("postgresql://me@host/db") == "postgresql://me@host/db"
    assert public("/a/file") == "/a/file"


# -- a sweep -------------------------------------------------------------------------------------------------------------


def test_every_trial_has_its_seeds_its_value_and_its_runs(tmp_path, train):
    study = swept(planned(tmp_path, seeds=[0, 1, 2, 3], sampler="grid", fixed=["num_envs=8", "threads=3"]), train)
    rows = study.rows()
    assert {row.params["agent.learning_rate"]: row.values for row in rows} == {
        "0.001": [pytest.approx(500.15)],  # the mean of seeds 1 and 2
        "0.01": [pytest.approx(400.15)],
        "0.1": [pytest.approx(300.15)],
    }
    assert [row.number for row in rows] == [0, 1, 2]
    best = study.best()[0]
    assert best.params == {"agent.learning_rate": "0.001"}
    low, high = study.interval(best)
    assert 500.0 <= low < high <= 500.3
    assert starts(tmp_path) == {f"{trial:04d}/s{seed}": 1 for trial in range(3) for seed in range(4)}
    typed = json.loads(Path(best.seeds[2]["run"], "config.yaml").read_text())
    assert {key: typed[key] for key in ("num_envs", "threads", "replay", "seed", "agent.learning_rate")} == {
        "num_envs": "8", "threads": "3", "replay": "false", "seed": "2", "agent.learning_rate": "0.001",
    }  # fmt: skip


def test_the_best_is_left_as_a_recipe_that_trains_it(tmp_path, train, monkeypatch):
    swept(planned(tmp_path, seeds=[5], sampler="grid", fixed=["num_envs=8", "agent.batch_size=16"]), train)
    searched, _ = cli.take_config_dir(["--config-dir", str(tmp_path)])
    found = composed([*searched, "experiment=best", "seed=7"])
    wanted = composed(["num_envs=8", "agent.batch_size=16", "agent.learning_rate=0.001", "seed=7"])
    assert config.to_data(found) == {**config.to_data(wanted), "total_timesteps": 500, "eval_every": 100}


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_a_sampler_that_learns_comes_closer_to_the_best_than_chance(sampler, tmp_path):
    space = {key: Parameter("float", low=0.0, high=1.0) for key in ("agent.gamma", "agent.gae_lambda")}

    def distances(sampler):
        spec = planned(tmp_path / sampler, space, [0], sampler=sampler, trials=24, random_trials=8)
        study, _ = sweep.create(spec)
        found = []
        for _ in range(24):
            taken = study.claim()
            x, y = (float(text.partition("=")[2]) for text in taken.overrides)
            found.append((x - 0.3) ** 2 + (y - 0.6) ** 2)
            study.finish(taken.number, [{"score": -found[-1]}])
        return found

    assert np.mean(distances(sampler)[12:]) < 0.6 * np.mean(distances("random")[12:])


def test_several_objectives_make_a_front_of_what_no_other_beats_in_all(tmp_path, train):
    # a higher rate costs more seconds here; with 0.0001 the score is 400 as with 0.01, but sooner
    space = {"agent.learning_rate": Parameter("choice", ["0.0001", "0.001", "0.01", "0.1"])}
    spec = planned(tmp_path, space, [0], trials=4, sampler="grid", objective=["score", "seconds"])
    study = swept(spec, train)
    front = [(row.params["agent.learning_rate"], row.values) for row in study.best()]
    assert front == [("0.001", [500.0, pytest.approx(1.001)]), ("0.0001", [400.0, pytest.approx(1.0001)])]


def test_energy_is_an_objective(tmp_path, train):
    space = {"agent.learning_rate": Parameter("choice", ["0.0001", "0.001", "0.01"])}
    study = swept(planned(tmp_path, space, [0], sampler="grid", objective=["score", "joules"]), train)
    front = [(row.params["agent.learning_rate"], row.values) for row in study.best()]
    assert front == [("0.001", [500.0, pytest.approx(50.05)]), ("0.0001", [400.0, pytest.approx(50.005)])]


def test_the_cost_of_a_sweep_is_that_of_all_its_runs(tmp_path, train):
    study = swept(planned(tmp_path, sampler="grid"), train)
    cost = study.cost()
    assert (cost.seconds, cost.core_seconds, cost.energy_source) == (3 * 2 * 5, 3 * 2 * 10, "rapl")
    assert cost.joules == pytest.approx(2 * 50 * (3 + 0.001 + 0.01 + 0.1))
    assert cost.disk_bytes == sum(run.cost().disk_bytes for run in find(str(tmp_path))) > 0


def test_failed_trials_and_runs_that_go_on_cost_what_they_have_taken_once(tmp_path, train):
    fixed = ["agent.gamma=0.54"]  # there is no objective in the end
    study = swept(planned(tmp_path / "a", seeds=[0], fixed=fixed, trials=2, objective=["steps"]), train)
    assert study.counts()["failed"] == 2
    assert study.cost().seconds == 2 * 5
    study.charge(0, 0, Cost(seconds=7.0))  # the same run, which went on
    assert study.cost().seconds == 7 + 5


def test_an_objective_that_a_run_does_not_measure_fails_its_trials(tmp_path, train):
    fixed = ["agent.gamma=0.54"]
    study = swept(planned(tmp_path, seeds=[0], fixed=fixed, trials=1, objective=["steps"], retries=3), train)
    assert "no steps" in study.rows()[0].error
    assert list(starts(tmp_path).values()) == [1]


def test_the_live_table_shows_trials_the_best_with_its_interval_and_the_time_left(tmp_path, train):
    study = swept(planned(tmp_path, seeds=[0, 1], sampler="grid"), train)
    work = Sweep(study, tmp_path, study.spec.sweep, compose, train=train, quiet=True)
    work.board.counts, work.board.ended = {"finished": 3, "running": 1, "waiting": 2}, 3
    taken = Taken(3, ["agent.learning_rate=0.02"], {}, set(), [0, 1])
    work.trials[3] = Trial(taken, 100, [1], {}, jobs={0: None}, curves={0: {1: 70.0, 2: 80.5}})
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(work.board.table(work.board._begun + 60.0))
    name, best, left, running = console.export_text().splitlines()
    assert name.rstrip() == f"{study.spec.name}: 3 finished, 1 running, 2 waiting"
    number = study.best()[0].number
    assert best.rstrip() == f"best  trial {number}: 500.05 (500 to 500.1)  agent.learning_rate=0.001"
    assert left.rstrip() == "2 workers, 1:00 elapsed, 1:00 left"  # 3 trials a minute, 3 to go
    assert running.split() == ["trial", "3", "0/2", "seeds,", "1", "running", "s0", "80.5", "agent.learning_rate=0.02"]


# -- pruners -----------------------------------------------------------------------------------------------------------


def ordered(study: Study, *values: str) -> None:
    """Fix which trial gets which learning rate."""
    for trial, value in zip(study._study.get_trials(), values, strict=True):
        study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", {"agent.learning_rate": value})


def test_a_free_slot_takes_a_new_trial_before_a_seed_that_the_pruner_may_save(tmp_path, monkeypatch):
    order: list[tuple[int, int]] = []
    monkeypatch.setattr(Job, "start", lambda job, *_: order.append((job.number, job.seed)))
    for pruner, expected in (("median", [(0, 0), (1, 0), (0, 1)]), ("none", [(0, 0), (0, 1), (1, 0)])):
        study, folder = sweep.create(planned(tmp_path / pruner, trials=2, workers=3, pruner=pruner))
        order.clear()
        Sweep(study, folder, study.spec.sweep, compose, quiet=True).fill()
        assert order == expected


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_a_pruner_stops_a_bad_trial_by_its_first_seed(pruner, tmp_path, train, monkeypatch):
    monkeypatch.setenv("TICK_OF_BAD", "1")
    spec = replace(planned(tmp_path, workers=1, pruner=pruner, pruner_trials=1), name="a")  # by which Hyperband puts
    study, folder = sweep.create(spec)  # trials 0 and 2 in one bracket
    ordered(study, "0.001", "0.001", "0.1")
    Sweep(study, folder, study.spec.sweep, compose, train=train, quiet=True).run()
    assert [row.state for row in study.rows()] == ["finished", "finished", "pruned"]
    assert starts(tmp_path) == {"0000/s0": 1, "0000/s1": 1, "0001/s0": 1, "0001/s1": 1, "0002/s0": 1}
    run = next((tmp_path / "trials" / "0002").rglob("metrics.jsonl"))
    lines = len(run.read_text().splitlines())
    assert 1 <= lines < 5
    assert study.cost().seconds == 4 * 5 + lines
    assert not (run.parent / "summary.json").exists()


def test_the_wilcoxon_pruner_stops_a_trial_that_is_worse_in_each_seed(tmp_path, train):
    study, folder = sweep.create(planned(tmp_path, seeds=[0, 1, 2, 3, 4, 5], workers=1, pruner="wilcoxon"))
    ordered(study, "0.01", "0.1", "0.001")
    Sweep(study, folder, study.spec.sweep, compose, train=train, quiet=True).run()
    rows = study.rows()
    assert [row.state for row in rows] == ["finished", "pruned", "finished"]
    assert list(rows[1].seeds) == [0, 1, 2, 3]  # one-sided, 4 of 4 worse: p = 1/16


# -- faults ------------------------------------------------------------------------------------------------------------


def gammas(*values: str) -> dict[str, Parameter]:
    return {"agent.gamma": Parameter("choice", list(values))}


def test_a_crash_is_recorded_with_its_last_lines_and_stops_no_other(tmp_path, train):
    fixed = ["agent.learning_rate=0.001"]
    spec = planned(tmp_path, gammas("0.5", "0.9", "0.99"), fixed=fixed, sampler="grid", retries=1, workers=1)
    rows = {row.params["agent.gamma"]: row for row in swept(spec, train).rows()}
    assert {gamma: row.state for gamma, row in rows.items()} == {"0.5": "failed", "0.9": "finished", "0.99": "finished"}
    assert rows["0.5"].error == "seed 0: exit code 1\nTraceback\nZeroDivisionError: of gamma"
    failed = f"{rows['0.5'].number:04d}"
    assert {name: count for name, count in starts(tmp_path).items() if name.startswith(failed)} == {f"{failed}/s0": 2}


def test_a_run_that_fails_once_is_tried_again_if_that_is_asked_for(tmp_path, train):
    fixed = ["agent.learning_rate=0.001"]
    assert swept(planned(tmp_path / "a", gammas("0.51"), [0], fixed, trials=1), train).rows()[0].state == "failed"
    study = swept(planned(tmp_path / "b", gammas("0.51"), [0], fixed, trials=1, retries=1), train)
    assert study.rows()[0].values == [500.0]
    assert starts(tmp_path / "b") == {"0000/s0": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not keep a process to its data limit")
def test_a_run_that_needs_more_memory_than_it_may_have_fails_alone(tmp_path, train):
    spec = planned(
        tmp_path, gammas("0.52", "0.99"), [0], ["agent.learning_rate=0.001"], trials=2, sampler="grid", memory=0.5
    )
    rows = {row.params["agent.gamma"]: row for row in swept(spec, train).rows()}
    assert rows["0.52"].error == "seed 0: exit code 5\nrlsys: out of memory"
    assert rows["0.99"].values == [500.0]


def in_thread(work: Sweep) -> threading.Thread:
    thread = threading.Thread(target=work.run)
    thread.start()
    return thread


def holder(lock: Path) -> int:
    """The process that holds a job's lock and has been at it for a while."""
    return until(lambda: lock.exists() and is_held(lock) and lock.read_text().strip() and int(lock.read_text()))


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, train):
    spec = planned(tmp_path, gammas("0.53"), [0], ["agent.learning_rate=0.001"], trials=1, retries=1)
    study, folder = sweep.create(spec)
    thread = in_thread(Sweep(study, folder, spec.sweep, compose, train=train, quiet=True))
    log = tmp_path / "trials/0000/s0/env/agent/run/metrics.jsonl"
    until(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
    os.kill(holder(tmp_path / "trials/0000/s0/lock"), signal.SIGKILL)
    thread.join(300)
    assert study.rows()[0].values == [500.0]
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [100, 200, 300, 400, 500]
    assert starts(tmp_path) == {"0000/s0": 2}


def parent(place: str, folder: Path, train: list[str]) -> subprocess.Popen:
    """A process that works on a sweep."""
    return subprocess.Popen([sys.executable, "-m", "tests.sweeps", place, str(folder), *train], cwd=ROOT)


def summaries(folder: Path) -> int:
    return len(list(folder.glob("trials/*/*/env/agent/run/summary.json")))


def test_a_run_that_is_still_trained_for_a_dead_sweep_is_waited_for_and_can_be_stopped(tmp_path, train, monkeypatch):
    monkeypatch.setenv("TICK", "60")
    first, second = (Job(0, 0, tmp_path, Slot(1, ())) for _ in range(2))
    first.start(train, ["agent.learning_rate=0.001", "seed=0"], None)
    until(lambda: list(tmp_path.rglob("command.txt")))
    second.start(train, ["agent.learning_rate=0.001", "seed=0"], None)
    assert second.process is None
    assert not second.has_ended()
    second.stop()
    assert first.process.wait(300) == 75
    assert second.has_ended()
    assert second.result(["score"]) is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_after_the_sweep_is_stopped_or_killed_only_what_is_missing_is_run(how, tmp_path, train, monkeypatch):
    monkeypatch.setenv("TICK", "0.15")
    spec = planned(tmp_path, seeds=[0, 1], sampler="grid")
    sweep.create(spec)
    process = parent(str(tmp_path), tmp_path, train)
    until(lambda: summaries(tmp_path) >= 3)  # one trial is done, and another is half done or under way
    process.send_signal(how)
    assert process.wait(300) == (75 if how == signal.SIGTERM else -how)
    first, whole = starts(tmp_path), summaries(tmp_path)
    if how == signal.SIGTERM:  # nothing is left behind
        assert not any(is_held(lock) for lock in tmp_path.glob("trials/*/*/lock"))

    study, folder = reopen(str(tmp_path))
    owners = {row.owner for row in study.rows()} - {None}
    assert len(owners) == 1
    extend(study, folder)
    Sweep(study, folder, spec.sweep, compose, train=train, quiet=True).run()
    rows = study.rows()
    assert [(row.number, row.state) for row in rows] == [(0, "finished"), (1, "finished"), (2, "finished")]
    assert {row.params["agent.learning_rate"]: row.values for row in rows} == {
        "0.001": [pytest.approx(500.05)],
        "0.01": [pytest.approx(400.05)],
        "0.1": [pytest.approx(300.05)],
    }
    again = {name for name, count in starts(tmp_path).items() if count > first.get(name, 1)}
    assert set(starts(tmp_path)) == {f"{trial:04d}/s{seed}" for trial in range(3) for seed in range(2)}
    if how == signal.SIGKILL:  # the runs went on without it, and were waited for
        assert not again
    else:  # those that were saved have gone on
        assert len(again) <= 2
        assert whole + len(again) <= 6
    for log in tmp_path.rglob("metrics.jsonl"):
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [100, 200, 300, 400, 500]


def test_a_sweep_can_be_made_longer(tmp_path, train):
    spec = planned(tmp_path, seeds=[0], trials=2)
    before = [row.values for row in swept(spec, train).rows()]
    study, folder = reopen(str(tmp_path))
    extend(study, folder, 3)
    Sweep(study, folder, spec.sweep, compose, train=train, quiet=True).run()
    assert [row.state for row in study.rows()] == ["finished"] * 3
    assert [row.values for row in study.rows()[:2]] == before
    assert set(starts(tmp_path).values()) == {1}
    with pytest.raises(ConfigError, match=r"sweep.trials=2: there are 3 already"):
        extend(study, folder, 2)


def test_what_is_wrong_with_every_trial_fails_none_and_ends_the_sweep(tmp_path, train):
    def refused(overrides):
        raise ConfigError("would import the module 'mine': --allow-import mine")

    spec = planned(tmp_path, seeds=[0], trials=2)
    study, folder = sweep.create(spec)
    with pytest.raises(ConfigError, match="--allow-import mine"):
        Sweep(study, folder, spec.sweep, refused, train=train, quiet=True).run()
    study.close()
    study, folder = reopen(str(tmp_path))
    extend(study, folder)
    Sweep(study, folder, spec.sweep, compose, train=train, quiet=True).run()
    assert [row.state for row in study.rows()] == ["finished"] * 2


def test_a_gpus_places_can_be_changed_when_a_sweep_goes_on_and_its_folder_may_have_any_name(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    study, _ = sweep.create(planned(Path("lr=1"), seeds=[0], trials=1, gpus_per_worker=1, workers=1))
    study.close()
    study, _, settings = cli.reopened_sweep("resume", "lr=1", None, ["sweep.jobs_per_gpu=2"])
    assert (settings.gpus_per_worker, settings.jobs_per_gpu) == (1, 2)
    study.close()
    assert cli.main(["sweep", "show", "lr=1"]) == cli.FAILED
    assert "no trial has finished" in capsys.readouterr().err


def test_a_trial_whose_process_died_while_it_chose_values_gets_the_rest_of_them(tmp_path, train):
    space = {"agent.learning_rate": RATE, "agent.gamma": Parameter("choice", ["0.9", "0.99"])}
    spec = planned(tmp_path, space, [0], trials=1, patience=1)
    study, folder = sweep.create(spec)
    trial = study._study.ask()  # not signed
    chosen = trial.suggest_categorical("agent.learning_rate", RATE.choices)
    Sweep(study, folder, spec.sweep, compose, train=train, quiet=True).run()
    row = study.rows()[0]
    assert row.state == "finished"
    assert set(row.params) == set(space)
    assert row.params["agent.learning_rate"] == chosen


def test_the_trials_of_a_machine_that_is_not_heard_of_are_taken_over_and_it_cannot_end_them(tmp_path):
    spec = planned(tmp_path, trials=2, patience=1)
    lost, _ = sweep.create(spec)
    lost.enlist(tmp_path / "there")
    trial = lost.claim()
    lost._worker.machine = "another"  # whose locks are not seen here
    lost.beat()
    lost._say()
    other, _ = reopen(str(tmp_path))
    other.enlist(tmp_path / "here")
    assert other.take_over(9) == []
    lost._worker.beat += 1
    lost._say()
    time.sleep(0.7)
    assert other.take_over(9) == []  # it has been heard of
    time.sleep(1.2)
    taken = other.take_over(9)
    assert [t.number for t in taken] == [trial.number]
    assert taken[0].overrides == trial.overrides
    results = [{"score": 1.0}]
    assert not lost.is_mine(trial.number)
    assert not lost.finish(trial.number, results)
    assert other.finish(trial.number, results)
    assert not other.fail(trial.number, "late")
    assert [row.state for row in other.rows()] == ["finished", "waiting"]
    lost.leave()
    other.leave()


# -- GPUs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Devices that are not there; call it for what runs have seen of them: (device, how many were on it, all it was given)."""
    folder = tmp_path / "devices"
    folder.mkdir()
    monkeypatch.setenv("GPUS", str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,1,GPU-c,3")
    monkeypatch.setenv("TICK", "0.1")

    def seen() -> list[tuple[str, int, str]]:
        rows = [line.split() for line in (folder / "log").read_text().splitlines()]
        return [(gpu, int(count), given) for gpu, count, given in rows]

    return seen


@pytest.mark.parametrize(
    ("keys", "given", "most"),
    [
        ({"gpus_per_worker": 1}, {"GPU-a", "1", "GPU-c", "3"}, 1),
        ({"gpus_per_worker": 1, "jobs_per_gpu": 2, "workers": 8}, {"GPU-a", "1", "GPU-c", "3"}, 2),
        ({"gpus_per_worker": 2}, {"GPU-a,1", "GPU-c,3"}, 1),
        ({"gpus_per_worker": 3}, {"GPU-a,1,GPU-c"}, 1),
    ],
)
def test_each_run_sees_its_own_gpus_also_after_crashes(keys, given, most, gpus, tmp_path, train):
    space = {**gammas("0.5", "0.51", "0.9"), "agent.batch_size": Parameter("choice", ["16", "32", "64"])}
    spec = planned(
        tmp_path / "s", space, [0, 1], ["agent.learning_rate=0.001"],
        sampler="grid", trials=9, retries=1, **{"workers": None, **keys},
    )  # fmt: skip
    assert [row.state for row in swept(spec, train).rows()].count("failed") == 3
    seen = gpus()
    assert {whole for _, _, whole in seen} == given
    assert max(count for _, count, _ in seen) == most


def test_a_gpu_is_not_given_anew_while_a_run_of_a_dead_sweep_is_on_it_nor_to_two_that_work_on_one(
    gpus, tmp_path, train, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TICK_OF_BAD", "0.4")  # so that the first to end is on any of them
    spec = planned(tmp_path / "s", seeds=[0, 1, 2], trials=6, workers=None, gpus_per_worker=1)
    study, folder = sweep.create(spec)
    first = parent(str(folder), folder, train)
    until(lambda: summaries(folder) >= 1 and sum(is_held(lock) for lock in folder.glob("trials/*/*/lock")) == 2)
    first.kill()
    first.wait()
    others = [parent(str(folder), folder, train) for _ in range(2)]
    assert [process.wait(300) for process in others] == [0, 0]
    assert [row.state for row in study.rows()] == ["finished"] * 6
    assert set(starts(folder).values()) == {1}
    assert {gpu for gpu, _, _ in gpus()} == {"0", "1"}
    assert {count for _, count, _ in gpus()} == {1}


def test_a_run_that_outlived_its_sweep_is_waited_for_in_its_own_place(tmp_path, train, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TICK", "60")
    spec = planned(tmp_path, seeds=[0, 1], trials=2, workers=None, gpus_per_worker=1)
    study, folder = sweep.create(spec)
    study.enlist(folder / "workers")
    taken = study.claim()
    _, slot = room(spec.sweep, folder)
    left = Job(taken.number, 0, folder / "trials" / "0000" / "s0", slot)
    left.start(train, [*taken.overrides, "seed=0"], None)  # on GPU 1, by one that has died since
    study.leave()
    work = Sweep(reopen(str(folder))[0], folder, spec.sweep, compose, train=train, quiet=True)
    work.study.enlist(folder / "workers")
    try:
        work._look()
        work.fill()
        jobs = {(job.number, job.seed): job for trial in work.trials.values() for job in trial.jobs.values()}
        assert {key: (job.slot.gpus, job.process is None) for key, job in jobs.items()} == {
            (0, 0): (("1",), True),
            (0, 1): (("0",), False),
        }
        assert not work.free
    finally:
        left.stop(signal.SIGKILL)
        left.process.wait()
        work._end_all(signal.SIGKILL)
        work.study.leave()


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("0,2", ["0", "2"]),
        ("", []),
        ("-1", []),
        ("1,-1,2", ["1"]),
        ("0,0,1", ["0", "1"]),
        (" GPU-a , MIG-b ", ["GPU-a", "MIG-b"]),
    ],
)
def test_the_devices_are_those_that_are_visible_each_once(named, found, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == found


def test_without_a_list_the_devices_are_all_of_the_machines(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'; echo '  MIG 1g.10gb Device 0:'; echo 'GPU 1: B'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]


# -- many processes ------------------------------------------------------------------------------------------------------

CLAIM = """
import sys
sys.path[:0] = [{root!r}]
from pathlib import Path
from rlsys.sweep import reopen
study, _ = reopen({place!r}, folder={folder!r})
study.enlist(Path({folder!r}) / "workers")
sys.stdin.read()
while taken := study.claim():
    print(taken.number, flush=True)
    study.finish(taken.number, [{{"score": 1.0}}])
study.leave()
study.close()
"""


def claimed_at_once(place: str, folder: Path, processes: int = 3) -> list[int]:
    """The numbers that processes get that all begin in the same moment."""
    text = CLAIM.format(root=str(ROOT), place=place, folder=str(folder))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([sys.executable, "-c", text], **pipes) for _ in range(processes)]
    until(lambda: len(list((folder / "workers").glob("*.lock"))) == processes)
    for process in running:
        process.stdin.close()
    found = [int(word) for process in running for word in process.stdout.read().split()]
    for process in running:
        process.stdout.close()
        assert process.wait(300) == 0
    return found


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_processes_that_ask_at_once_get_every_trial_once(storage, tmp_path):
    url = storage and f"sqlite:///{tmp_path}/study.db"
    spec = planned(tmp_path, trials=24, storage=url)
    study, _ = sweep.create(spec)
    assert sorted(claimed_at_once(url or str(tmp_path), tmp_path)) == list(range(24))
    assert study.counts()["finished"] == 24
    study.close()


def test_a_record_of_the_journal_that_was_cut_short_is_taken_away(tmp_path):
    study, _ = sweep.create(planned(tmp_path, trials=2))
    with open(tmp_path / "study.journal", "a") as file:
        file.write('{"op_code": 4, "wor')
    reopened, _ = reopen(str(tmp_path))
    assert reopened.claim().number == 0
    assert study.counts()["running"] == 1
    lock = _Flock(tmp_path / "study.journal")
    lock.acquire()
    assert (tmp_path / "study.journal").read_bytes().endswith(b"\n")
    lock.release()


# -- a database server -------------------------------------------------------------------------------------------------


class Server:
    """A PostgreSQL server of our own."""

    def __init__(self, command: list, folder: Path, **who):
        self._command, self._folder, self._who = command, folder, who
        self.url = f"postgresql://rlsys@/postgres?host={folder}"

    def start(self) -> None:
        """Start it, as soon as what an earlier one has left behind has ended."""
        import psycopg

        def answers() -> bool:
            if self._process.poll() is not None:
                self._start()
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url).close()
                return True
            return False

        self._start()
        until(answers)

    def _start(self) -> None:
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, cwd="/", **silent, **self._who)

    def stop(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        self._process.wait(300)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server, where PostgreSQL is installed."""
    pytest.importorskip("psycopg", reason="needs rlsys[postgres]")
    found = [shutil.which("initdb"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    if not any(found):
        pytest.skip("PostgreSQL is not installed")
    binaries = Path(next(filter(None, found))).resolve().parent
    folder = tmp_path_factory.mktemp("pg")
    who: dict = {}
    if os.getuid() == 0:  # the server refuses to run as root
        import pwd

        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        base = Path("/tmp") / f"rlsys-pg-{os.getpid()}"
        base.mkdir()
        os.chown(base, account.pw_uid, account.pw_gid)
        folder = base
    data = folder / "data"
    made = subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "rlsys", "-A", "trust", "--no-sync"],
        capture_output=True, text=True, check=False, cwd="/", **who,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"initdb: {made.stderr[-200:]}")
    options = [f"unix_socket_directories={folder}", "listen_addresses=", "fsync=off"]
    command = [binaries / "postgres", "-D", data, *(word for option in options for word in ("-c", option))]
    made = Server(command, folder, **who)
    made.start()
    yield made
    made.stop(signal.SIGINT)
    if os.getuid() == 0:
        shutil.rmtree(folder)


@pytest.fixture
def postgresql(server) -> str:
    return server.url


def test_processes_on_a_postgresql_server_get_every_trial_once(postgresql, tmp_path):
    study, _ = sweep.create(planned(tmp_path, trials=24, storage=postgresql))
    assert sorted(claimed_at_once(postgresql, tmp_path)) == list(range(24))
    assert study.counts()["finished"] == 24
    study.close()
    with pytest.raises(ConfigError, match="no unfinished sweep"):
        reopen(postgresql)


def test_a_machine_that_joins_over_postgresql_does_the_rest_when_the_first_dies(
    postgresql, tmp_path, train, monkeypatch
):
    monkeypatch.setenv("TICK", "0.1")
    spec = planned(tmp_path / "a", seeds=[0], trials=6, storage=postgresql)
    study, _ = sweep.create(spec)
    first = parent(postgresql, tmp_path / "a", train)
    until(lambda: study.counts()["finished"])
    first.send_signal(signal.SIGSTOP)
    second = parent(postgresql, tmp_path / "b", train)
    until(lambda: list(tmp_path.glob("b/workers/*.lock")))
    first.kill()
    first.wait()
    assert second.wait(300) == 0
    rows = study.rows()
    assert [row.state for row in rows] == ["finished"] * 6
    assert len({row.owner for row in rows}) == 2
    assert summaries(tmp_path / "b") == [row.owner for row in rows].count(rows[-1].owner)
    with pytest.raises(ConfigError, match="There are: "):
        reopen(postgresql, "nothing")
    study.close()


def test_a_sweep_waits_for_a_database_that_is_killed_and_started_again(server, tmp_path, train, monkeypatch):
    monkeypatch.setenv("TICK", "0.1")
    spec = planned(tmp_path, seeds=[0, 1], trials=6, storage=server.url)
    study, _ = sweep.create(spec)
    process = parent(str(tmp_path), tmp_path, train)
    until(lambda: summaries(tmp_path) >= 2)
    server.stop(signal.SIGKILL)
    try:
        time.sleep(3)  # in which what runs comes to its end
        assert process.poll() is None
    finally:
        server.start()
    assert process.wait(300) == 0
    rows = study.rows()
    assert [row.state for row in rows] == ["finished"] * 6
    assert len({row.owner for row in rows}) == 1
    for row in rows:
        assert list(row.seeds) == [0, 1]
        rate = float(row.params["agent.learning_rate"])
        assert row.values == [pytest.approx(500 - 100 * abs(np.log10(rate) + 3) + 0.05)]
    assert starts(tmp_path) == {f"{trial:04d}/s{seed}": 1 for trial in range(6) for seed in range(2)}
    study.close()


def test_a_sweep_whose_database_stays_away_saves_its_runs_and_is_resumed_later(
    server, tmp_path, train, monkeypatch, capfd
):
    monkeypatch.setenv("TICK", "0.6")
    spec = planned(tmp_path, seeds=[0, 1], trials=3, storage=server.url, patience=2)
    sweep.create(spec)[0].close()
    process = parent(str(tmp_path), tmp_path, train)
    until(lambda: summaries(tmp_path) >= 2 and len(starts(tmp_path)) >= 4)
    server.stop(signal.SIGKILL)
    try:
        assert process.wait(300) == 4
    finally:
        server.start()
    said = capfd.readouterr().err
    assert f"sweep.storage={server.url} has not answered for 2 s" in said
    assert "Traceback" not in said
    assert not any(is_held(lock) for lock in tmp_path.glob("trials/*/*/lock"))  # nothing is left behind
    first, whole = starts(tmp_path), {path.parts[-5] + path.parts[-6] for path in tmp_path.rglob("summary.json")}
    study, folder = reopen(str(tmp_path))
    Sweep(study, folder, spec.sweep, compose, train=train, quiet=True).run()
    assert [row.state for row in study.rows()] == ["finished"] * 3
    again = {name for name, count in starts(tmp_path).items() if count > first.get(name, 1)}
    assert not {seed + trial for trial, seed in (name.split("/") for name in again)} & whole
    assert set(starts(tmp_path)) == {f"{trial:04d}/s{seed}" for trial in range(3) for seed in range(2)}
    for log in tmp_path.rglob("metrics.jsonl"):  # gone on with, not begun anew
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [100, 200, 300, 400, 500]
    study.close()


@pytest.mark.parametrize("when", ["_sign", "_taken"])
def test_a_trial_whose_taking_the_database_interrupted_is_not_lost(when, tmp_path, train, monkeypatch):
    spec = planned(tmp_path, seeds=[0], trials=3, patience=1)
    study, folder = sweep.create(spec)
    really, calls = getattr(Study, when), []

    def once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise StorageInternalError("the connection was lost")
        return really(*args)

    monkeypatch.setattr(Study, when, once)
    thread = in_thread(Sweep(study, folder, spec.sweep, compose, train=train, quiet=True))
    thread.join(120)
    assert not thread.is_alive(), "it waits for a trial that nobody works on"
    assert [row.state for row in study.rows()] == ["finished"] * 3
    assert set(starts(tmp_path).values()) == {1}


def test_what_is_told_once_more_because_the_answer_was_lost_counts_as_told(tmp_path):
    study, _ = sweep.create(planned(tmp_path, seeds=[0], trials=1))
    taken = study.claim()
    assert study.finish(taken.number, [{"score": 1.0}])
    assert study.finish(taken.number, [{"score": 1.0}])
    assert not study.fail(taken.number, "late")
    assert study.rows()[0].values == [1.0]


def test_after_a_silence_of_the_database_nobody_is_taken_for_dead_who_could_not_be_heard(tmp_path, monkeypatch):
    lost, _ = sweep.create(planned(tmp_path, trials=1, patience=1))
    lost.enlist(tmp_path / "there")
    lost.claim()
    lost._worker.machine = "another"
    lost._say()
    other, _ = reopen(str(tmp_path))
    assert other.take_over(9) == []
    time.sleep(0.8)
    really, calls = other._study.get_trials, []

    def silent(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise StorageInternalError("the server is starting up")
        return really(*args, **options)

    monkeypatch.setattr(other._study, "get_trials", silent)
    assert other.take_over(9) == []  # 1.8 seconds after it was heard of
    time.sleep(1.2)
    assert [taken.number for taken in other.take_over(9)] == [0]
    lost.leave()


def test_a_lost_database_ends_the_command_with_its_own_code_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    def lose(self):
        raise StorageLost("sweep.storage=there has not answered")

    monkeypatch.setattr(Sweep, "run", lose)
    place = tmp_path / "mine"
    assert cli.main(["sweep", "agent.gamma=0.9,0.99", f"sweep.dir={place}", "--quiet"]) == 4
    said = capsys.readouterr().err
    assert "sweep.storage=there has not answered" in said
    assert f"go on with: rlsys sweep resume {place}" in said


def test_of_several_unfinished_sweeps_in_a_database_one_must_be_named(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    for name in "ab":
        study, _ = sweep.create(replace(planned(tmp_path / name, trials=1, storage=url), name=name))
        study.close()
    with pytest.raises(ConfigError, match="say --study with one of a, b"):
        reopen(url)
    study, _ = reopen(url, "b", folder=str(tmp_path / "b"))
    assert study.spec.name == "b"
    study.finish(study.claim().number, [{"score": 1.0}])
    study.close()
    study, folder = reopen(url, folder=str(tmp_path / "c"))
    assert (study.spec.name, json.loads((folder / "sweep.json").read_text())["study"]) == ("a", "a")
    study.close()


# -- Optuna's dashboard ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_optunas_dashboard_shows_a_sweep_while_it_runs(storage, tmp_path):
    pytest.importorskip("optuna_dashboard", reason="needs rlsys[dashboard]")
    url = storage and f"sqlite:///{tmp_path}/study.db"
    study, _ = sweep.create(planned(tmp_path, storage=url))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(sysconfig.get_path("scripts"), "optuna-dashboard")
    command = [script, url or str(tmp_path / "study.journal"), "--port", str(port), "--server", "wsgiref"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def asked(path: str):
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return json.load(answer)

    try:
        (found,) = until(lambda: asked("/api/studies"))["study_summaries"]
        assert found["study_name"] == study.spec.name
        taken = study.claim()
        study.record(taken.number, 0, {"score": 7.0})
        study.finish(taken.number, [{"score": 7.0}])
        page = f"/api/studies/{found['study_id']}?after=0"
        trials = until(lambda: [t for t in asked(page)["trials"] if t["state"] == "Complete"])
        assert [(t["number"], t["values"]) for t in trials] == [(0, [7.0])]
        assert [(p["name"], p["param_external_value"]) for p in trials[0]["params"]] == [
            ("agent.learning_rate", taken.overrides[0].partition("=")[2])
        ]
        assert reopen(str(tmp_path))[0].claim().number == 1  # looked at, and nothing is changed
    finally:
        server.kill()
        server.wait(300)
        study.close()


# -- all of it ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_from_the_command_line_trains_shows_and_can_be_resumed(tmp_path):
    small = ["num_envs=8", "total_timesteps=1024", "eval_every=256", "eval_episodes=2", "test_episodes=4"]
    small += ["agent.n_steps=16", "agent.batch_size=64", "env.max_episode_steps=50"]

    def rlsys(*arguments):
        command = [sys.executable, "-m", "rlsys", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    space = ["agent.learning_rate=tag(log,interval(1e-4,1e-2))", "agent.gamma=0.9,0.99", "seed=1,2"]
    done = rlsys("sweep", *small, *space, "sweep.trials=1", "sweep.dir=mine")
    assert done.returncode == 0, done.stderr
    assert "1 finished" in done.stdout
    assert done.stderr.count("trial ") == 1
    shown = json.loads(rlsys("sweep", "show", "mine", "--json").stdout)
    assert [trial["state"] for trial in shown["trials"]] == ["finished"]
    best = shown["trials"][shown["best"][0]]
    for seed in ("1", "2"):
        summary = json.loads(Path(tmp_path, best["seeds"][seed]["run"], "summary.json").read_text())
        assert best["seeds"][seed]["score"] == summary["validation/best_mean_reward"]
        assert best["seeds"][seed]["test"] == summary["score"]
    listed = json.loads(rlsys("runs", "mine", "--json").stdout)
    assert sorted(row["seed"] for row in listed) == [1, 2]
    assert shown["cost"]["cost/joules"] == pytest.approx(sum(row["cost"]["cost/joules"] for row in listed))
    assert "all runs, of failed and pruned trials too: " in done.stdout
    again = rlsys("sweep", "resume", "mine", "sweep.trials=2", "sweep.workers=1")
    assert again.returncode == 0, again.stderr
    assert "2 finished" in again.stdout
    assert again.stderr.count("trial ") == 1
    refused = rlsys("sweep", "resume", "mine", "sweep.sampler=gp")
    assert refused.returncode == 2
    assert "a sweep keeps its sampler" in refused.stderr
