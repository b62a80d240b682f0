"""Which is better, by how much, and is that settled? Groups of runs, side by side, with intervals over seeds.

Runs that differ by nothing but the seed are a group; a group is named by what tells it from the others. Groups are compared on
each task by returns, and over tasks by scores (0 random, 1 the best reference), which need no common unit.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlsys import readers, statistics
from rlsys.readers import EVAL, TRAIN, Logged
from rlsys.statistics import Difference

CURVE_POINTS = 100
COMPLETE = 0.95  # of the steps of a group's longest run: someone else's run that got less far has not ended
FEW_SEEDS = 5
AGGREGATES = {  # over tasks
    "IQM": statistics.aggregate_iqm,
    "median": statistics.aggregate_median,
    "mean": statistics.aggregate_mean,
    "optimality gap": statistics.optimality_gap,
}


class CompareError(ValueError):
    """What was asked for cannot be compared; the message says what can."""


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % bootstrap interval; None where there is but one seed."""

    value: float
    interval: list[float] | None


@dataclass(frozen=True)
class Curve:
    """IQM over a group's seeds at common steps, and its interval at each (NaN with one seed)."""

    steps: NDArray[np.float64]
    iqm: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class OnTask:
    """One group on one task: the last value of each run, in returns."""

    seeds: list[str]
    values: NDArray[np.float64]
    iqm: Estimate
    mean: Estimate
    curve: Curve


@dataclass(frozen=True)
class Against:
    """A group next to the baseline. difference: of means, None if one of them has a single seed on a task."""

    improvement: Estimate
    difference: Difference | None
    seeds: int  # the fewest that either has on a task


@dataclass(frozen=True)
class Comparison:
    """All that `rlsys compare` says.

    value: what is compared, in words. unit: "score", over `compared`, the tasks on which every group has runs and that have a
        scale; or "return", on the only task. aggregates and profiles (share of runs above `thresholds`, with bounds:
        [3, thresholds]) are by group, and empty where there are no scores.
    against: by group, next to `baseline`; empty where there is nothing to compare by.
    """

    value: str
    unit: str
    tasks: dict[str, dict[str, OnTask]]
    groups: list[str]
    compared: list[str]
    baseline: str
    aggregates: dict[str, dict[str, Estimate]]
    thresholds: NDArray[np.float64]
    profiles: dict[str, NDArray[np.float64]]
    against: dict[str, Against]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data; NaN becomes null."""
        return _plain(self)


def compare(
    patterns: Sequence[str],
    *,
    by: Sequence[str] = (),
    baseline: str | None = None,
    metric: str | None = None,
    at: int | None = None,
    task: str | None = None,
) -> Comparison:
    """Read the runs that the patterns name, group them, and compare.

    by: keys to group by, instead of all that differ ("agent" is what trained). baseline: a group (default: that of the first
    run). metric: a tag that is the better the higher (default: the test score where every run has one, else the evaluations,
    else the training returns). at: compare at this step instead of at the end. task: see `readers.read`.
    """
    notes: list[str] = []
    runs: dict[Path, Logged] = {}
    for pattern in patterns:
        found, said = readers.read(pattern, task)
        notes += said
        runs |= {run.source.resolve(): run for run in found}
    if not runs:
        raise CompareError("none of the runs can be read. " + " ".join(notes))
    every = list(runs.values())
    kept = _ended(every, notes) if at is None else every
    tag, has_test, kept = _choose_metric(kept, metric, notes)
    use_test = has_test and metric is None and at is None
    names = _group_names(kept, by)
    task_names = _task_names(kept)

    cells: dict[str, dict[str, list[tuple[Logged, float]]]] = {}
    for run in kept:
        value = run.test if use_test else _value_at(run, tag, at)
        if value is None or not np.isfinite(value):
            why = f"has not come to step {at:,}" if value is None and at is not None else "ends with no number (NaN)"
            notes.append(f"{run.source} {why} and is left out: its group may look better than it is.")
            continue
        cells.setdefault(task_names[id(run)], {}).setdefault(names[id(run)], []).append((run, float(value)))
    if not cells:
        raise CompareError("no run has a value to compare. " + " ".join(notes))
    groups = list(dict.fromkeys(names[id(run)] for run in kept if any(names[id(run)] in c for c in cells.values())))
    if baseline is not None and baseline not in groups:
        raise CompareError(f"--baseline {baseline}: there is no such group. There are: {'; '.join(groups)}.")
    tasks = {
        name: {group: _on_task(cell[group], tag) for group in groups if group in cell} for name, cell in cells.items()
    }
    _say_seeds(tasks, notes)

    # Scores of the tasks that have a scale and on which all groups are; or, on a single task without one, returns.
    scales = {name: readers.scale(next(iter(cell.values()))[0][0]) for name, cell in cells.items()}
    is_return = tag in (EVAL, TRAIN)
    shared = [name for name in tasks if len(tasks[name]) == len(groups)]
    scaled = [name for name in shared if is_return and scales[name] is not None]
    if scaled and len(scaled) < len(tasks):
        left = ", ".join(name for name in tasks if name not in scaled)
        notes.append(
            f"Not in what is said over all tasks, for want of a normalised score or of runs of each group: {left}."
        )
    unit, compared = ("score", scaled) if scaled else ("return", shared if len(tasks) == 1 else [])
    if not compared:
        notes.append(
            "There is no comparison over all tasks: no task has a normalised score and runs of every group. "
            "Compare one task at a time."
        )
    scores = {
        group: [
            scales[name].score(tasks[name][group].values) if unit == "score" else tasks[name][group].values
            for name in compared
        ]
        for group in groups
    }
    base = baseline or groups[0]
    aggregates: dict[str, dict[str, Estimate]] = {}
    thresholds, profiles = np.zeros(0), {}
    if unit == "score":
        aggregates = {g: {name: _estimate(scores[g], f) for name, f in AGGREGATES.items()} for g in groups}
        every_score = np.concatenate([x for group in scores.values() for x in group])
        thresholds = np.linspace(min(0.0, every_score.min()), max(1.0, every_score.max()), 101)
        profiles = {group: _profile(scores[group], thresholds) for group in groups}
    against = {g: _against(scores[g], scores[base]) for g in groups if g != base} if compared else {}
    what = "test score at the end" if use_test else tag + (f" at step {at:,}" if at is not None else ", the last value")
    return Comparison(
        what,
        unit,
        tasks,
        groups,
        compared,
        base,
        aggregates,
        thresholds,
        profiles,
        against,
        list(dict.fromkeys(notes)),
    )


# -- which runs, and how they go together --------------------------------------------------------------------------------


def _ended(runs: list[Logged], notes: list[str]) -> list[Logged]:
    """The runs that have come to their end; the others are named."""
    furthest: dict[tuple[str, str], int] = {}
    for run in runs:
        furthest[run.task, run.agent] = max(furthest.get((run.task, run.agent), 0), _last_step(run))
    kept = []
    for run in runs:
        has_ended = run.has_ended
        if has_ended is None:
            has_ended = _last_step(run) >= COMPLETE * furthest[run.task, run.agent]
        if has_ended:
            kept.append(run)
        else:
            notes.append(
                f"{run.source} has not ended (step {_last_step(run):,}) and is left out. --at STEP compares earlier."
            )
    if not kept:
        raise CompareError("no run has ended. Compare them at a step that they have come to: --at STEP.")
    return kept


def _last_step(run: Logged) -> int:
    return max((int(s.steps[-1]) for tag, s in run.series.items() if tag in (EVAL, TRAIN) and len(s.steps)), default=0)


def _choose_metric(runs: list[Logged], metric: str | None, notes: list[str]) -> tuple[str, bool, list[Logged]]:
    """(tag of the curves, whether every run has a test score, runs that have the tag)."""
    if metric is not None:
        kept = [run for run in runs if metric in run.series]
        if not kept:
            known = sorted({tag for run in runs for tag in run.series})
            raise CompareError(f"--metric {metric}: no run has logged it. There are: {', '.join(known)}.")
        notes += [f"{run.source} has no {metric} and is left out." for run in runs if metric not in run.series]
        return metric, False, kept
    for tag in (EVAL, TRAIN):
        if all(tag in run.series for run in runs):
            return tag, all(run.test is not None for run in runs), runs
    without = {tag: next(str(run.source) for run in runs if tag not in run.series) for tag in (EVAL, TRAIN)}
    raise CompareError(
        f"there is no metric that all runs have: {without[EVAL]} has no {EVAL}, {without[TRAIN]} no {TRAIN}. "
        "--metric TAG takes one and leaves out the runs without it."
    )


def _task_keys(run: Logged) -> dict[str, str]:
    """What makes a task another one: the world and its parameters, not how many levels are trained on."""
    return {
        key: value
        for key, value in run.keys.items()
        if key.startswith("env.") and key not in ("env.levels", "env.params")
    }


def _task_names(runs: list[Logged]) -> dict[int, str]:
    """The task of each run (by its id()): the env's name, and what differs between envs of one name."""
    keys = {id(run): _task_keys(run) for run in runs if run.env is not None}
    varying = {
        task: _varying([keys[id(run)] for run in runs if run.task == task and id(run) in keys])
        for task in {run.task for run in runs}
    }
    names = {}
    for run in runs:
        own = keys.get(id(run), {})
        differing = [f"{key.removeprefix('env.')}={own.get(key, 'default')}" for key in varying[run.task] if own]
        names[id(run)] = " ".join([run.task, *differing])
    return names


def _group_names(runs: list[Logged], by: Sequence[str]) -> dict[int, str]:
    """The group of each run (by its id()).

    Named by the keys that vary among runs of one agent on one task: what differs between tasks only, such as a recipe's
    learning rate, does not split a group, so that it can be followed over tasks.
    """
    settings = {id(run): {k: v for k, v in run.keys.items() if k not in _task_keys(run)} for run in runs}
    if by:
        known = sorted({"agent", *(key for run in runs for key in run.keys)})
        if wrong := [key for key in by if key not in known]:
            raise CompareError(f"--by {wrong[0]}: no run has that key. There are: {', '.join(known)}.")
        return {
            id(run): ", ".join(run.agent if key == "agent" else f"{key}={run.keys.get(key, 'default')}" for key in by)
            for run in runs
        }
    alike: dict[tuple[str, str], list[dict[str, str]]] = {}
    for run in runs:
        alike.setdefault((run.task, run.agent), []).append(settings[id(run)])
    varying: dict[str, set[str]] = {}  # by agent
    for (_, agent), found in alike.items():
        varying.setdefault(agent, set()).update(_varying(found))
    names = {}
    for run in runs:
        differing = [f"{key}={settings[id(run)].get(key, 'default')}" for key in sorted(varying[run.agent])]
        who = [run.agent] if len(varying) > 1 or not differing else []
        names[id(run)] = ", ".join([*who, *differing])
    return names


def _varying(settings: list[dict[str, str]]) -> list[str]:
    keys = sorted({key for one in settings for key in one})
    return [key for key in keys if len({one.get(key) for one in settings}) > 1]


# -- numbers -------------------------------------------------------------------------------------------------------------


def _value_at(run: Logged, tag: str, at: int | None) -> float | None:
    """The last value of a run, or the one at a step, between its points; None if it has not come so far."""
    series = run.series[tag]
    if not len(series.steps):
        return None
    if at is None:
        return float(series.values[-1])
    if not series.steps[0] <= at <= series.steps[-1]:
        return None
    return float(np.interp(at, series.steps, series.values))


def _on_task(cell: list[tuple[Logged, float]], tag: str) -> OnTask:
    values = np.array([value for _, value in cell])
    return OnTask(
        [run.seed for run, _ in cell],
        values,
        _estimate([values], statistics.aggregate_iqm),
        _estimate([values], statistics.aggregate_mean),
        _curve([run.series[tag] for run, _ in cell]),
    )


def _curve(series: Sequence[readers.Series]) -> Curve:
    """The runs' points on straight lines at common steps, from where all have begun to where the first one ends.

    Points that are no number are passed over: sorted, they would count as the best.
    """
    series = [readers.Series(s.steps[np.isfinite(s.values)], s.values[np.isfinite(s.values)]) for s in series]
    series = [s for s in series if len(s.steps)]
    start, end = max((s.steps[0] for s in series), default=1), min((s.steps[-1] for s in series), default=0)
    if start > end:
        nothing = np.zeros(0)
        return Curve(nothing, nothing, nothing, nothing)
    steps = np.unique(np.concatenate([s.steps for s in series]))
    steps = steps[(steps >= start) & (steps <= end)].astype(np.float64)
    if len(steps) > CURVE_POINTS:
        steps = np.linspace(start, end, CURVE_POINTS)
    return Curve(steps, *statistics.iqm_curve(np.array([np.interp(steps, s.steps, s.values) for s in series])))


def _estimate(scores: list[NDArray], statistic: Any) -> Estimate:
    interval = None
    if min(map(len, scores)) > 1:
        interval = statistics.percentile_interval(statistics.stratified_bootstrap(scores, statistic))
    return Estimate(float(statistic(scores)), interval)


def _profile(scores: list[NDArray], thresholds: NDArray) -> NDArray[np.float64]:
    """The profile and its bounds at each threshold; the bounds are NaN with one seed."""
    middle = statistics.performance_profile(scores, thresholds)
    if min(map(len, scores)) < 2:
        return np.stack([middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan)])
    drawn = statistics.stratified_bootstrap(
        scores, lambda strata: statistics.performance_profile(strata, thresholds), resamples=2000
    )
    return np.stack([middle, *np.quantile(drawn, [0.025, 0.975], axis=0)])


def _against(x: list[NDArray], y: list[NDArray]) -> Against:
    seeds = min(map(len, [*x, *y]))
    interval = statistics.improvement_interval(x, y) if seeds > 1 else None
    improvement = Estimate(float(statistics.probability_of_improvement(x, y)), interval)
    return Against(improvement, statistics.difference(x, y), seeds)


def verdict(against: Against) -> str:
    """Whether a difference is settled, and what it takes, in words."""
    found, seeds = against.difference, against.seeds
    if found is None:
        return "one seed: nothing can be said"
    if found.settled:
        return "settled"
    if found.seeds is None:
        return f"open: more than {statistics.MAX_SEEDS} seeds, if it is as small as it seems"
    more = max(found.seeds - seeds, 1)
    return f"open: about {more} more seed{'s' if more > 1 else ''} each"


def _say_seeds(tasks: dict[str, dict[str, OnTask]], notes: list[str]) -> None:
    counts = {len(cell.values) for cells in tasks.values() for cell in cells.values()}
    if min(counts) == 1:
        notes.append("With one seed there is no interval: another may do quite differently.")
    if 1 < min(counts - {1}, default=FEW_SEEDS) < FEW_SEEDS:
        notes.append(f"With fewer than {FEW_SEEDS} seeds bootstrap intervals are too narrow: trust them little.")
    if len(counts) > 1:
        notes.append(
            "Groups have different numbers of seeds: in IQM, profile and gap a task with more seeds weighs more."
        )


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | np.ndarray):
        return [_plain(inner) for inner in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def to_text(comparison: Comparison) -> str:
    """The comparison as JSON."""
    return json.dumps(comparison.to_json())
