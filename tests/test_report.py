"""What `rlsys report` says of a sweep: numbers against Optuna's own, brute force and sums by hand; pictures by their marks."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("optuna", reason="needs rlsys[sweep]")

import optuna

from rlsys import chart, cli, config, sweep
from rlsys.compose import composed
from rlsys.config import resolve_sweep
from rlsys.sweep import Sweep, findings, report
from rlsys.sweep.spec import Parameter, plan
from rlsys.sweep.study import Row, Study
from tests.sweeps import compose
from tests.test_board import CHROMIUM

RATE = Parameter("float", low=1e-4, high=1e-1, log=True)
SPACE = {
    "agent.learning_rate": RATE,
    "agent.gamma": Parameter("float", low=0.5, high=0.99),
    "agent.hidden": Parameter("choice", ["[16]", "[32]", "[64,64]"]),
}
OWN = ("agent.learning_rate", "agent.gamma", "agent.hidden")


def swept(
    folder: Path,
    outcome: Callable[[dict[str, str], int], dict | str],
    trials: int = 40,
    space: dict[str, Parameter] = SPACE,
    seeds: list[int] = [0, 1, 2],
    **keys,
) -> Study:
    """A sweep of made-up outcomes. outcome(values as typed, seed): a seed's objectives, or "pruned" or "failed"."""
    keys = {"sampler": "random", "pruner": "none", "trials": trials, "dir": str(folder), **keys}
    spec = plan([], space, seeds, resolve_sweep(keys), compose)
    study, _ = sweep.create(spec)
    study.enlist(folder / "workers")
    while taken := study.claim():
        typed = dict(override.split("=", 1) for override in taken.overrides)
        found = [outcome(typed, seed) for seed in spec.seeds]
        if "pruned" in found:
            study.prune(taken.number)
        elif "failed" in found:
            study.fail(taken.number, "seed 0: exit code 1\nZeroDivisionError: <b>")
        else:
            for seed, result in zip(spec.seeds, found, strict=True):
                study.record(taken.number, seed, {"test": result["score"] - 1, **result})
            study.finish(taken.number, found)
    Sweep(study, folder, spec.sweep, compose, quiet=True).write_best()
    study.leave()
    return study


def by_rate(typed: dict[str, str], seed: int) -> dict:
    """A score that depends on the learning rate alone, seconds on gamma alone."""
    score = -abs(math.log10(float(typed["agent.learning_rate"])) + 2.5) + seed / 100
    return {"score": score, "seconds": abs(float(typed["agent.gamma"]) - 0.6)}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Study, Path]:
    """A sweep with two objectives, and its folder."""
    folder = tmp_path_factory.mktemp("two")
    return swept(folder, by_rate, objective=["score", "seconds"]), folder


# -- numbers -------------------------------------------------------------------------------------------------------------


def test_importances_are_optunas_own_of_each_objective(two):
    study, folder = two
    loaded = optuna.load_study(
        study_name=study.spec.name,
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
        ),
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.125)  # 5 of 40
    found = study.importances()
    for name, target in (("score", lambda t: -t.values[0]), ("seconds", lambda t: t.values[1])):
        with pytest.warns(UserWarning, match="low `target`"):
            expected = optuna.importance.get_param_importances(loaded, evaluator=evaluator, target=target)
        assert found[name] == pytest.approx(expected)
        assert sum(found[name].values()) == pytest.approx(1.0)


def test_of_two_objectives_each_finds_the_key_that_matters_to_it(two):
    found = two[0].importances()
    assert found["score"]["agent.learning_rate"] > 0.6
    assert found["seconds"]["agent.gamma"] > 0.6


def test_of_few_trials_and_of_trials_that_are_all_alike_no_importance_is_claimed(tmp_path):
    few = swept(tmp_path / "few", by_rate, trials=9)
    assert few.importances() == {}
    assert any("needs 10 finished trials" in note for note in findings.find(few, tmp_path).notes)
    alike = swept(tmp_path / "alike", lambda *_: {"score": 500.0}, trials=12)
    assert alike.importances() == {}
    assert any("All trials are among the best in score" in note for note in findings.find(alike, tmp_path).notes)


def test_the_front_is_what_brute_force_finds_among_three_objectives(tmp_path):
    draw = np.random.default_rng(1)

    def outcome(*_):
        score, slower, longer = draw.integers(0, 6, 3).tolist()  # what scores more tends to take longer
        return {"score": score, "seconds": score + slower, "steps": score + longer}

    found = findings.find(swept(tmp_path, outcome, seeds=[0], objective=["score", "seconds", "steps"]), tmp_path)
    costs = {row.number: np.array([-row.values[0], row.values[1], row.values[2]]) for row in found.trials}
    front = {a for a in costs if not any((costs[b] <= costs[a]).all() and (costs[b] < costs[a]).any() for b in costs)}
    assert 1 < len(front) < 40
    assert set(found.best) == front
    scores = [found.trials[number].values[0] for number in found.best]
    assert scores == sorted(scores, reverse=True)


def row(number: int, values: list[float] | None, ended: float | None, seconds: float = 10.0, state: str = "") -> Row:
    state = state or ("finished" if values else "pruned")
    return Row(number, state, {}, values, {}, None, None, seconds, ended)


def test_the_history_is_in_the_order_in_which_trials_ended_and_both_ways():
    rows = [
        row(0, [3.0, 7.0], 1040.0),
        row(1, [5.0, 9.0], 1010.0),
        row(2, None, 1005.0, 5.0),
        row(3, [4.0, 1.0], 1060.0),
        row(4, None, None, state="running"),
        row(5, None, 1061.0, state="failed"),
    ]
    points = findings.history(rows, 0, "maximize")
    assert [point.number for point in points] == [2, 1, 0, 3, 5]
    assert [point.ended for point in points] == [1, 2, 3, 4, 5]
    assert [point.seconds for point in points] == [5.0, 10.0, 40.0, 60.0, 61.0]
    assert [point.value for point in points] == [None, 5.0, 3.0, 4.0, None]
    assert [point.best for point in points] == [None, 5.0, 5.0, 5.0, 5.0]
    assert [point.best for point in findings.history(rows, 1, "minimize")] == [None, 9.0, 7.0, 1.0, 1.0]


def test_intervals_and_test_scores_are_those_of_each_trial(tmp_path):
    study = swept(tmp_path, by_rate, trials=3, objective=["seconds"])
    found = findings.find(study, tmp_path)
    for one in found.trials:
        low, high = found.intervals[one.number][0]
        assert low == high == one.values[0]  # gamma is the same in each seed
        assert found.tests[one.number] == pytest.approx([one.seeds[seed]["score"] - 1 for seed in (0, 1, 2)])


def test_a_plane_over_two_numbers_is_drawn_as_it_is_and_nothing_beyond_the_trials():
    x, y = chart.Scale(1e-4, 1e-2, log=True), chart.Scale(0.0, 1.0)
    points = np.array([[1e-4, 0.0], [1e-2, 0.0], [1e-2, 1.0], [1e-3, 0.2], [1e-3, 0.2]])
    grid = report.surface(x, y, points, np.log10(points[:, 0]) + 2 * points[:, 1])
    side = (np.arange(report.CELLS) + 0.5) / report.CELLS
    a, b = np.meshgrid(side, side)
    assert np.isnan(grid[b > a]).all()
    np.testing.assert_allclose(grid[b < a - 0.01], (-4 + 2 * a + 2 * b)[b < a - 0.01])
    assert np.isnan(report.surface(x, y, points[:2], np.zeros(2))).all()  # a line has no inside


def test_choices_are_rows_and_columns_of_their_own():
    names, numbers = chart.Scale(names=("a", "b", "c")), chart.Scale(0.0, 10.0)
    grid = report.surface(names, chart.Scale(names=("u", "v")), np.array([[0, 1], [0, 1], [2, 0]]), np.array([1, 3, 7]))
    np.testing.assert_array_equal(grid, [[np.nan, np.nan, 7.0], [2.0, np.nan, np.nan]])
    points, values = np.array([[0, 0.0], [0, 10.0], [2, 5.0]]), np.array([0.0, 20.0, 1.0])
    grid = report.surface(names, numbers, points, values)
    assert grid.shape == (report.CELLS, 3)
    np.testing.assert_allclose(grid[:, 0], 20 * (np.arange(report.CELLS) + 0.5) / report.CELLS)
    assert np.isnan(grid[:, 1:]).all()
    np.testing.assert_array_equal(report.surface(numbers, names, points[:, ::-1], values), grid.T)


def test_a_scale_of_powers_puts_each_alike_and_of_names_each_in_the_middle_of_its_place():
    scale = chart.Scale(1e-4, 1e-1, log=True)
    assert [scale.share(number) for number in (1e-4, 1e-3, 1e-1)] == pytest.approx([0.0, 1 / 3, 1.0])
    assert [name for _, name in scale.ticks()] == ["0.0001", "0.001", "0.01", "0.1"]
    assert [tick for tick, _ in chart.Scale(2e-4, 9e-4, log=True).ticks()] == pytest.approx([2e-4, 5e-4])
    assert len(chart.Scale(3.1e-4, 3.2e-4, log=True).ticks()) >= 2
    names = chart.Scale(names=("a", "b"))
    assert [(names.share(tick), name) for tick, name in names.ticks()] == [(0.25, "a"), (0.75, "b")]
    assert chart.Scale(3.0, 3.0).share(3.0) == 0.5


# -- what is shown -------------------------------------------------------------------------------------------------------


def some(typed: dict[str, str], seed: int) -> dict | str:
    """Outcomes of every kind."""
    gamma = float(typed["agent.gamma"])
    return "failed" if gamma < 0.55 else "pruned" if gamma < 0.65 else by_rate(typed, seed)


def marks(picture: chart.Picture, element: str) -> list[str]:
    """The tips of one kind of mark."""
    return [
        title.text
        for mark in ET.fromstring(picture.svg()).iter(f"{{http://www.w3.org/2000/svg}}{element}")
        for title in mark
    ]


def test_each_trial_is_marked_by_what_became_of_it_in_every_slice(tmp_path):
    found = findings.find(swept(tmp_path, some), tmp_path)
    counts = found.counts
    assert counts["finished"] > 20
    assert counts["pruned"] > 1
    assert counts["failed"] > 1
    drawn = report.pictures(found)
    dots, lines = marks(drawn["Slices"], "circle"), marks(drawn["Slices"], "polyline")
    assert len(dots) == 3 * counts["finished"]
    assert sum("pruned" in line for line in lines) == 3 * counts["pruned"]
    assert sum("failed" in line for line in lines) == 2 * 3 * counts["failed"]  # a cross has two strokes
    assert len(marks(drawn["History"], "circle")) == 2 * counts["finished"]
    assert len(marks(drawn["Parallel coordinates"], "polyline")) == counts["finished"] + counts["pruned"]
    best = found.trials[found.best[0]]
    assert f"trial {best.number}: {best.values[0]:.4g} score" in marks(drawn["Parallel coordinates"], "polyline")[-1]


def test_the_staircase_turns_where_a_trial_begins_to_be_beaten(two):
    found = findings.find(*two)
    rows = [row(0, [3.0, 7.0], 1.0), row(1, [1.0, 2.0], 2.0), row(2, [0.0, 9.0], 3.0)]
    # higher scores and fewer seconds are better: (3, 7) does not beat what takes 2 seconds, (1, 2) nothing that scores 3
    assert report.staircase(replace(found, trials=rows, best=[0, 1])) == [(1.0, 2.0), (1.0, 7.0), (3.0, 7.0)]


def test_the_command_prints_tables_and_json_and_writes_a_page_that_needs_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    swept(Path("sweeps/a"), by_rate, trials=3)
    os.utime("sweeps/a/sweep.json", (1, 1))
    study = swept(Path("sweeps/b"), some)
    assert cli.main(["report", "--out", "out"]) == 0  # the latest
    printed = capsys.readouterr().out
    for words in ("sweeps/b", "agent.learning_rate", "the best trials", "trust them little", "experiment=best"):
        assert words in printed
    assert not Path("out/contour-score.svg").exists()
    page = Path("out/report.html").read_text()
    assert not re.findall(r"<script|<link|<img|src=|@import|url\(|https?://(?!www\.w3\.org)", page)
    assert "prefers-color-scheme:dark" in page
    assert "<b>" not in page
    assert "ZeroDivisionError: &lt;b&gt;" in page
    for title in set(report.ABOUT) - {"Pareto front"}:
        name = title.lower().replace(" ", "-")
        ET.fromstring(Path("out", f"{name}.svg").read_text())
        with Image.open(Path("out", f"{name}.png")) as image:
            assert len(image.getcolors(1 << 20)) > 10
    assert cli.main(["report", "sweeps/b", "--out", "alone/page.html", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads(Path("out/report.json").read_text())
    assert data["best"] == [row.number for row in study.best()]
    assert data["importances"]["score"]["agent.learning_rate"] > 0.5
    assert [path.name for path in Path("alone").iterdir()] == ["page.html"]


def test_each_trial_of_a_front_has_a_recipe_that_trains_it_and_who_leaves_the_front_loses_it(two, capsys):
    study, folder = two
    found = findings.find(study, folder)
    assert len(found.best) > 1
    recipes = {path.stem for path in (folder / "experiment").iterdir()}
    assert recipes == {"best", *(f"best-{number}" for number in found.best)}
    for number in found.best:
        command = found.commands[number]
        assert command.startswith("rlsys train ")
        searched, rest = cli.take_config_dir(command.removeprefix("rlsys train ").split())
        made = config.flat(config.to_data(composed([*searched, *rest])))
        typed = dict(override.split("=", 1) for override in study.overrides(found.trials[number]))
        assert [str(made[key]).replace(" ", "") for key in OWN] == [typed[key] for key in OWN]
    assert cli.main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert all(f"trial {number}: {found.commands[number]}" in printed for number in found.best)
    (folder / "experiment" / "best-999.yaml").write_text("stale")
    Sweep(study, folder, study.spec.sweep, compose, quiet=True).write_best()
    assert {path.stem for path in (folder / "experiment").iterdir()} == recipes


def test_a_recipe_of_a_trial_that_is_not_the_best_any_more_is_not_named(tmp_path):
    study = swept(tmp_path, by_rate, trials=3)
    best = study.best()[0].number
    assert findings.command(study, tmp_path, best) == f"rlsys train --config-dir {tmp_path} experiment=best"
    recipe = tmp_path / "experiment" / "best.yaml"
    recipe.write_text(recipe.read_text().replace(f"trial {best}: ", f"trial {best}9: "))
    assert findings.command(study, tmp_path, best) == shlex.join(["rlsys", "train", *study.overrides(study.row(best))])


def test_a_sweep_that_has_ended_is_found_in_its_database_and_nothing_is_written_by_looking(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/study.db"
    study = swept(tmp_path / "here", by_rate, trials=3, storage=url)
    study.close()
    shutil.rmtree(tmp_path / "here")
    assert cli.main(["report", url]) == 0
    printed = capsys.readouterr().out
    values = " ".join(study.overrides(study.best()[0]))
    assert f"rlsys train {values.partition(' agent.hidden')[0]}" in printed  # there is no recipe here
    assert cli.main(["sweep", "show", url]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.db"]
    study.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no sweep at 'nowhere'"),
        ([], "there is no sweep in sweeps/ yet"),
        (["sqlite:///nowhere.db"], "there is no such file"),
        (["a", "b"], "See rlsys report --help"),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_nothing_is_made(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_of_which_nothing_has_finished_is_reported_as_that(tmp_path, capsys):
    swept(tmp_path, lambda *_: "failed", trials=2)
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "no trial has finished (2 failed)" in capsys.readouterr().err


@pytest.mark.parametrize(("space", "trials"), [({"agent.learning_rate": RATE}, 1), (SPACE, 2), (SPACE, 12)])
def test_a_sweep_of_one_key_one_trial_or_one_seed_has_a_report_too(space, trials, tmp_path):
    def outcome(typed, seed):
        return {"score": 1.0 - float(typed["agent.learning_rate"])}

    found = findings.find(swept(tmp_path, outcome, trials, space, seeds=[0]), tmp_path)
    drawn = report.pictures(found)
    assert "Over seeds" not in drawn
    assert ("Contour" in drawn) == (trials == 12)
    for picture in drawn.values():
        assert "nan" not in picture.svg()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_without_network_shows_the_page_on_light_and_on_dark_paper(two, tmp_path):
    (path,) = report.write(findings.find(*two), tmp_path / "page.html")
    for theme, options, paper in (
        ("light", [], (255, 255, 255)),
        ("dark", ["--blink-settings=preferredColorScheme=0"], (13, 17, 23)),
    ):
        shot = tmp_path / f"{theme}.png"
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / theme}"]
        command += ["--window-size=1200,4000", f"--screenshot={shot}", path.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        with Image.open(shot) as image:
            pixels = np.array(image.convert("RGB"))
        assert tuple(pixels[2, 2]) == paper
        assert (pixels != paper).any(axis=(1, 2)).mean() > 0.5  # rows with something in them
        colours = chart.LIGHT if theme == "light" else chart.DARK
        for role in ("series0", "series1", "ramp0", "ramp8"):
            wanted = [int(colours[role][i : i + 2], 16) for i in (1, 3, 5)]
            assert (pixels == wanted).all(axis=2).sum() > 100, f"{role} on {theme} paper"
