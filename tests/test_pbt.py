"""Population-based training: who is replaced by whom, with which values; that lineages are kept, and can be replayed to the bit.

Most use the ledger without processes, or a stand-in for `rlsys train` whose score tells what it was trained with.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("optuna", reason="needs rlsys[sweep]")

from rlsys import cli, sweep
from rlsys.config import ConfigError, resolve_sweep
from rlsys.folder import find, is_held
from rlsys.sweep import Sweep, extend, reopen
from rlsys.sweep.pbt import chosen_parent, explored, start
from rlsys.sweep.spec import Parameter, Spec, plan
from rlsys.sweep.study import Study
from tests.sweeps import BEGIN, compose
from tests.test_run import learned, same
from tests.test_sweep import holder, until

RATE = Parameter("float", low=1e-6, high=1.0, log=True)


def planned(folder: Path, space: dict | None = None, fixed: list[str] = [], **keys) -> Spec:
    """5 members of 4 segments."""
    keys = {"mode": "pbt", "population": 5, "interval": 2500, "workers": 2, "dir": str(folder), **keys}
    space = space or {"agent.learning_rate": RATE}
    return plan(["total_timesteps=10000", *fixed], space, [], resolve_sweep(keys), compose)


# -- the rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "value", "lower", "higher"),
    [
        (Parameter("float", low=0.0, high=10.0), 1.0, 0.8, 1.2),
        (Parameter("float", low=0.9, high=1.1), 1.0, 0.9, 1.1),  # inside the bounds
        (Parameter("float", low=1e-4, high=1e-2, log=True), 1e-3, 8e-4, 1.2e-3),
        (Parameter("float", low=0.0, high=1.0, step=0.25), 0.5, 0.25, 0.75),  # 0.4 and 0.6 are nearest to 0.5: a step
        (Parameter("int", low=1, high=100), 10, 8, 12),
        (Parameter("int", low=1, high=100), 2, 1, 3),  # 1.6 and 2.4 are nearest to 2: one less, one more
        (Parameter("int", low=1, high=100), 1, 1, 2),
        (Parameter("int", low=2, high=8, step=2), 4, 2, 6),  # 3.2 and 4.8 are nearest to 4: a step
        (Parameter("int", low=1, high=2048, log=True), 64, 51, 77),
        (Parameter("choice", ["16", "32", "64"]), "32", "16", "64"),
        (Parameter("choice", ["16", "32", "64"]), "16", "32", "32"),  # there is only one
        (Parameter("choice", ["16", "32", "64"]), "64", "32", "32"),
        (Parameter("choice", ["16"]), "16", "16", "16"),
    ],
)
def test_a_copied_value_moves_to_one_beside_it(parameter, value, lower, higher):
    found = [parameter.next(value, up) for up in (False, True)]
    assert [type(value) for value in found] == [type(value)] * 2
    assert found == (pytest.approx([lower, higher]) if parameter.kind == "float" else [lower, higher])


def test_drawn_values_are_inside_the_bounds_on_the_grid_and_alike_to_each_power_of_ten():
    draw = random.Random(0)
    rates = [Parameter("float", low=1e-4, high=1e-2, log=True).draw(draw) for _ in range(2000)]
    assert 1e-4 <= min(rates) <= max(rates) <= 1e-2
    assert np.mean(np.array(rates) < 1e-3) == pytest.approx(0.5, abs=0.05)
    numbers = [Parameter("int", low=2, high=8, step=2).draw(draw) for _ in range(200)]
    assert set(numbers) == {2, 4, 6, 8}
    assert all(type(number) is int for number in numbers)
    assert {Parameter("choice", ["a", "b"]).draw(draw) for _ in range(50)} == {"a", "b"}


def test_a_copied_value_is_drawn_anew_as_often_as_is_asked_for():
    space, draw = {"agent.gamma": Parameter("float", low=0.0, high=1.0)}, random.Random(1)
    found = [explored(space, {"agent.gamma": 0.5}, 0.25, draw)["agent.gamma"] for _ in range(4000)]
    lower, higher = (np.mean(np.isclose(found, value)) for value in (0.4, 0.6))
    assert (lower, higher) == (pytest.approx(0.375, abs=0.03), pytest.approx(0.375, abs=0.03))


def parents(spec: Spec, before: int, scores: dict) -> set[int | None]:
    """All that may be gone on from."""
    return {chosen_parent(spec, before, scores, random.Random(i)) for i in range(60)}


def test_the_worst_go_on_from_one_of_the_best_and_the_others_from_themselves(tmp_path):
    scores = dict(enumerate([10.0, 50.0, 20.0, 40.0, 30.0]))
    spec = planned(tmp_path)  # a fifth of 5: one
    assert [parents(spec, member, scores) for member in range(5)] == [{1}, {1}, {2}, {3}, {4}]
    spec = planned(tmp_path, quantile=0.4)
    assert [parents(spec, member, scores) for member in range(5)] == [{1, 3}, {1}, {1, 3}, {3}, {4}]
    spec = planned(tmp_path, quantile=0.0)
    assert [parents(spec, member, scores) for member in range(5)] == [{0}, {1}, {2}, {3}, {4}]


def test_of_few_that_have_ended_at_most_half_are_the_worst(tmp_path):
    spec = planned(tmp_path)
    assert parents(spec, 0, {0: 1.0}) == {0}
    assert parents(spec, 0, {0: 1.0, 3: 2.0}) == {3}
    assert parents(spec, 3, {0: 1.0, 3: 2.0}) == {3}
    spec = planned(tmp_path, quantile=0.5)
    assert [parents(spec, member, {0: 1.0, 1: 2.0, 2: 3.0}) for member in range(3)] == [{2}, {1}, {2}]


def test_among_equals_nobody_copies(tmp_path):
    spec = planned(tmp_path)
    assert [parents(spec, member, dict.fromkeys(range(5), 500.0)) for member in range(5)] == [{0}, {1}, {2}, {3}, {4}]
    scores = {0: 0.0, 1: 0.0, 2: 500.0, 3: 500.0, 4: 500.0}  # one of the two
    assert [parents(spec, member, scores) for member in range(5)] == [{4}, {1}, {2}, {3}, {4}]


def test_members_are_compared_where_they_have_come_equally_far_and_else_by_their_newest_results(tmp_path):
    spec = planned(tmp_path)
    first, second = {0: 10.0, 1: 50.0, 2: 20.0, 3: 40.0, 4: 30.0}, {5: 35.0, 6: 60.0}  # 0 and 1 have come further
    assert parents(spec, 5, first | second) == {5}  # better than 20, 30 and 40 are after one segment
    assert parents(spec, 5, first | second | {5: 15.0}) == {6}
    assert parents(spec, 5, {**first, 5: 15.0, 3: 90.0}) == {3}  # one that is behind can be the best
    assert parents(spec, 2, first | {5: 5.0, 6: 5.0, 7: 500.0}) == {2}  # but what is ahead does not count
    assert parents(spec, 0, first | {5: 500.0, 6: 0.0}) == {1}


def test_one_that_failed_goes_on_from_one_of_the_best_or_anew_if_there_is_none(tmp_path):
    spec = planned(tmp_path)
    assert parents(spec, 0, {0: None, 1: 50.0, 2: 20.0, 3: None}) == {1}
    assert parents(spec, 5, {0: 10.0, 1: 5.0, 5: None}) == {1}
    assert parents(spec, 0, {0: None, 1: None}) == {None}
    again = start(spec, 5, {0: None}, {0: {"agent.learning_rate": 0.1}})
    assert again.parent is None
    assert RATE.low <= again.values["agent.learning_rate"] <= RATE.high


def test_who_goes_on_from_itself_keeps_its_values_and_who_copies_gets_others(tmp_path):
    spec = planned(tmp_path, resample=0.0)
    values = {number: {"agent.learning_rate": 10.0**-number} for number in range(5)}
    scores = dict(enumerate([10.0, 50.0, 20.0, 40.0, 30.0]))
    assert start(spec, 7, scores, values).values == {"agent.learning_rate": 0.01}
    copied = start(spec, 5, scores, values)
    assert copied.parent == 1
    assert copied.values["agent.learning_rate"] in (pytest.approx(0.08), pytest.approx(0.12))
    assert start(spec, 5, scores, values) == copied  # whoever asks


# -- what can be asked for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["agent.hidden=[64],[32]"], "cannot search agent.hidden: it cannot change while a run trains"),
        (["agent=ppo,dqn"], "cannot search agent: it cannot change"),
        (["num_envs=8,16"], "cannot search num_envs"),
        (["env.params.gravity=8,9"], "cannot search env.params.gravity"),
        (
            ["sweep.interval=500_000"],
            "leaves nothing to compare: it must be below total_timesteps=500000, such as 50000",
        ),
        (["sweep.interval=1000"], "shorter than one iteration, which takes 2048 steps"),
        (["agent.n_steps=32,1024"], "shorter than one iteration, which takes 65536 steps"),
        (["sweep.trials=9"], "sweep.trials=9: with sweep.mode=pbt there are sweep.population members"),
        (["sweep.pruner=asha"], "bad members are replaced"),
        (["sweep.sampler=tpe"], "drawn at random"),
        (["sweep.mode=search", "sweep.population=9"], "there is no population"),
        (["sweep.mode=ptb"], "Did you mean 'pbt'?"),
        (["sweep.quantile=0.6"], "sweep.quantile=0.6 is out of range: it must be between 0 and 0.5"),
        (["seed=1,2"], "each member has a seed, which makes 8"),
        (["eval_every=1000"], "evaluated at its end: leave eval_every out"),
        (["stop_at=1000"], "leave stop_at out"),
        (["stop_when_solved=true"], "leave stop_when_solved out"),
        (["init=latest"], "begin anew"),
    ],
)
def test_a_mistake_ends_with_exit_code_2_a_remedy_and_nothing_begun(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "sweep.mode=pbt", "agent.gamma=0.9,0.99", *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_population_cannot_be_made_longer(tmp_path, capsys):
    sweep.create(planned(tmp_path))[0].close()
    assert cli.main(["sweep", "resume", str(tmp_path), "sweep.trials=99"]) == 2
    assert "a population has as many segments" in capsys.readouterr().err


# -- the ledger --------------------------------------------------------------------------------------------------------


def simulated(spec: Spec, gain) -> Study:
    """A population whose score grows in each segment by gain(segment, learning rate); the least advanced first."""
    study, _ = sweep.create(spec)
    skills: dict[int | None, float] = {None: 0.0}
    while taken := study.claim():
        rate = float(taken.overrides[0].partition("=")[2])
        skills[taken.number] = skills[taken.parent] + gain(taken.number // spec.sweep.population, rate)
        study.finish(taken.number, [{"score": skills[taken.number]}])
    return study


def test_a_population_follows_an_optimum_that_moves_where_no_constant_can(tmp_path):
    """The best rate falls from 1e-1 to 1e-5: of constants 1e-3 is the best, which is 10/9 off in the mean."""
    segments = 10

    def gain(segment, rate):
        return 4 - abs(math.log10(rate) - (-1 - 4 * segment / (segments - 1)))

    constant = sum(gain(segment, 1e-3) for segment in range(segments))
    assert constant == pytest.approx(10 * (4 - 10 / 9))
    spec = planned(tmp_path, fixed=["total_timesteps=200000"], population=10, interval=20_000)
    study = simulated(spec, gain)
    assert study.counts()["finished"] == spec.trials == 100
    best = study.best()[0]
    assert best.values[0] > constant + 2, best
    rates = [study.row(number).params["agent.learning_rate"] for number in study.lineage(best.number)]
    assert rates[-1] < rates[0] / 100  # the schedule that was found falls, too


def test_a_useless_range_of_values_dies_out(tmp_path):
    study = simulated(
        planned(tmp_path, fixed=["total_timesteps=200000"], population=10, interval=20_000),
        lambda _, rate: float(1e-4 < rate < 1e-2),
    )
    rates = [row.params["agent.learning_rate"] for row in study.rows()]
    useful = [np.mean([1e-4 < rate < 1e-2 for rate in part]) for part in (rates[:10], rates[-10:])]
    assert useful[0] <= 0.5
    assert useful[1] >= 0.9


def test_a_segment_can_be_taken_once_the_one_before_has_ended(tmp_path):
    study, _ = sweep.create(planned(tmp_path, population=2))
    first, second = study.claim(), study.claim()
    assert (first.number, second.number, study.claim()) == (0, 1, None)
    study.fail(0, "of no use")
    assert study.claim() is None
    study.finish(1, [{"score": 1.0}])
    fourth = study.claim()
    assert (fourth.number, fourth.parent) == (2, 1)  # one that failed begins once there is another to go on from
    third = study.claim()
    assert (third.number, third.parent, third.overrides) == (3, 1, second.overrides)
    assert (first.seeds, second.seeds, third.seeds, fourth.seeds) == (
        [0],
        [1],
        [1],
        [1],
    )  # of the first in their lineage
    assert study.lineage(2) == [1, 2]


def test_a_population_all_of_which_fails_comes_to_its_end(tmp_path):
    study, _ = sweep.create(planned(tmp_path, population=2, interval=5000))
    while taken := study.claim():
        assert taken.parent is None
        study.fail(taken.number, "of no use")
    assert study.counts()["failed"] == 4
    assert study.best() == []


def test_how_a_segment_begins_stays_decided_when_its_process_dies(tmp_path):
    study, _ = sweep.create(planned(tmp_path, population=3, patience=1))
    study.enlist(tmp_path / "workers")
    for _ in range(3):
        study.claim()
    study.finish(0, [{"score": 1.0}])
    study.finish(1, [{"score": 2.0}])
    taken = study.claim()
    assert (taken.number, taken.parent) == (3, 1)
    study.finish(2, [{"score": 9.0}])  # from which it would go on now
    study.leave()
    other, _ = reopen(str(tmp_path))
    other.enlist(tmp_path / "workers")
    assert other.take_over(9) == [taken]
    other.leave()


def test_the_best_is_the_best_of_those_that_have_come_furthest(tmp_path):
    study, _ = sweep.create(planned(tmp_path, population=2))
    for score in (5.0, 99.0, 3.0, 2.0):
        study.finish(study.claim().number, [{"score": score}])
    assert study.best()[0].values == [3.0]


# -- with processes ----------------------------------------------------------------------------------------------------

# A run whose score is the sum over its steps of |log10 rate|, and whose state has the rates and steps of all its ancestors.
TRAIN = (
    BEGIN
    + """
history = json.load(open(typed["init"] + "/summary.json"))["history"] if "init" in typed else []
rate, end = float(typed["agent.learning_rate"]), int(typed["stop_at"])
begun = sum(steps for steps, _ in history)
if begun >= end:
    sys.exit(2)
for _ in range(int(os.environ.get("TICKS", 1))):
    time.sleep(0.02)
    if stop:
        sys.exit(75)
history.append([end - begun, rate])
score = sum(steps * abs(math.log10(rate)) for steps, rate in history)
summary = {"validation/best_mean_reward": score, "score": score, "history": history, "seed": typed["seed"]}
json.dump(summary, open(folder + "/.summary", "w"))
os.replace(folder + "/.summary", folder + "/summary.json")
"""
)


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("train") / "train.py"
    path.write_text(TRAIN)
    return [sys.executable, "-S", str(path)]


def check_lineages(study: Study, folder: Path) -> None:
    """Every trial is finished, and has been trained with the values, and for the steps, that the ledger says."""
    for row in study.rows():
        assert row.state == "finished", row
        runs = find(str(folder / "trials" / f"{row.number:04d}"))
        assert len(runs) == 1
        told = [
            (study.spec.end(number), study.row(number).params["agent.learning_rate"])
            for number in study.lineage(row.number)
        ]
        ends = [0, *(end for end, _ in told)]
        steps = [[end - begun, rate] for begun, (end, rate) in zip(ends[:-1], told, strict=True)]
        summary = runs[0].summary()
        assert summary["history"] == steps
        assert row.values == [pytest.approx(sum(n * abs(math.log10(rate)) for n, rate in steps))]
        assert int(summary["seed"]) == study.spec.seeds[study.lineage(row.number)[0] % study.spec.sweep.population]


def test_members_are_trained_by_the_runs_that_the_ledger_says_and_the_best_is_left_as_one_run(tmp_path, train):
    spec = planned(tmp_path, fixed=["num_envs=8"])
    study, folder = sweep.create(spec)
    Sweep(study, folder, spec.sweep, compose, train=train, quiet=True).run()
    check_lineages(study, folder)
    rows = study.rows()
    assert len(rows) == 20
    assert any(row.parent is not None and row.parent % 5 != row.number % 5 for row in rows)
    best = study.best()[0]
    assert best.values[0] == max(row.values[0] for row in rows[-5:])

    recipe = yaml.safe_load((tmp_path / "experiment" / "best.yaml").read_text())
    lineage = study.lineage(best.number)
    assert recipe["seed"] == lineage[0]
    rates = {0: recipe["agent"]["learning_rate"]}
    rates |= {entry["from_step"]: entry["agent.learning_rate"] for entry in recipe["schedule"]}
    held = {}
    for number in lineage:
        parent, rate = study.row(number).parent, study.row(number).params["agent.learning_rate"]
        if rate != (held and list(held.values())[-1]):
            held[0 if parent is None else spec.end(parent)] = rate
    assert {int(step): float(rate) for step, rate in rates.items()} == held


def test_a_member_whose_run_is_killed_goes_on_from_another(tmp_path, train, monkeypatch):
    monkeypatch.setenv("TICKS", "100")
    spec = planned(tmp_path, population=2, interval=5000, workers=2)
    study, _ = sweep.create(spec)
    process = subprocess.Popen([sys.executable, "-m", "tests.sweeps", str(tmp_path), str(tmp_path), *train])
    os.kill(holder(tmp_path / "trials/0000/s0/lock"), signal.SIGKILL)
    assert process.wait(300) == 0
    rows = study.rows()
    assert [row.state for row in rows] == ["failed", "finished", "finished", "finished"]
    assert rows[0].error.startswith("seed 0: killed by SIGKILL")
    assert rows[2].parent == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_after_the_sweep_is_stopped_or_killed_the_ledger_is_exact(how, tmp_path, train, monkeypatch):
    monkeypatch.setenv("TICKS", "10")
    spec = planned(tmp_path, patience=3)
    study, _ = sweep.create(spec)
    process = subprocess.Popen([sys.executable, "-m", "tests.sweeps", str(tmp_path), str(tmp_path), *train])
    until(lambda: study.counts()["finished"] >= 7)
    process.send_signal(how)
    assert process.wait(300) == (75 if how == signal.SIGTERM else -how)
    if how == signal.SIGTERM:
        assert not any(is_held(lock) for lock in tmp_path.glob("trials/*/*/lock"))
    before = {row.number: row for row in study.rows() if row.state == "finished"}
    assert len(before) < 20
    study.close()

    study, folder = reopen(str(tmp_path))
    extend(study, folder)
    Sweep(study, folder, spec.sweep, compose, train=train, quiet=True).run()
    check_lineages(study, folder)
    rows = study.rows()
    assert len(rows) == 20
    assert {number: rows[number] for number in before} == before


def test_a_machine_that_does_not_see_the_members_stops_and_spoils_nothing(tmp_path, train):
    spec = planned(tmp_path / "here", population=2, interval=5000, storage=f"sqlite:///{tmp_path}/study.db")
    study, _ = sweep.create(spec)
    for _ in range(2):
        study.finish(study.claim().number, [{"score": 1.0}])
    other, folder = reopen(spec.sweep.storage, folder=str(tmp_path / "there"))
    with pytest.raises(ConfigError, match="needs the same folder"):
        Sweep(other, folder, replace(spec.sweep, workers=1), compose, train=train, quiet=True).run()
    assert study.counts()["failed"] == 0
    other.close()
    study.close()


# -- all of it ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_schedule_that_a_population_has_found_trains_its_best_member_again_to_the_bit(tmp_path):
    small = ["num_envs=8", "total_timesteps=3000", "eval_episodes=4", "test_episodes=4", "agent.n_steps=16"]
    small += [
        "agent.batch_size=64",
        "agent.learning_rate_schedule=linear",
        "agent.normalize_observations=true",
        "seed=5",
    ]
    space = ["agent.learning_rate=tag(log,interval(1e-4,1e-1))", "agent.n_epochs=1,4", "agent.ent_coef=interval(0,0.1)"]

    def rlsys(*arguments):
        command = [sys.executable, "-m", "rlsys", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    asked = ["sweep.mode=pbt", "sweep.population=3", "sweep.interval=1000", "sweep.quantile=0.5", "sweep.resample=0"]
    done = rlsys("sweep", *asked, *small, *space, "sweep.dir=mine", "sweep.workers=2")
    assert done.returncode == 0, done.stderr
    assert "3 members, 3 segments of 1,000 steps each" in done.stdout
    assert "9 finished" in done.stdout
    shown = json.loads(rlsys("sweep", "show", "mine", "--json").stdout)
    best = shown["trials"][shown["best"][0]]
    assert f"* lineage: trials {', '.join(map(str, shown['lineage']))} " in done.stdout
    again = rlsys("train", "--config-dir", "mine", "experiment=best", "run_dir=again", "replay=false", "save_every=500")
    assert again.returncode == 0, again.stderr

    trained, replayed = (find(str(tmp_path / place))[0] for place in (f"mine/trials/{best['number']:04d}", "again"))
    if best["parent"] is not None and any(shown["trials"][n]["member"] != best["member"] for n in shown["lineage"]):
        assert replayed.config().schedule
    a, b = learned(trained.folder), learned(replayed.folder)
    assert a.pop("book").keys() == b.pop("book").keys()
    assert same(a, b)
