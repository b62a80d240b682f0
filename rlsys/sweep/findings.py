"""What a sweep has found: which keys matter, the best trials with their intervals, how the best came about."""

import contextlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlsys.sweep.spec import OBJECTIVES, Parameter
from rlsys.sweep.study import STATES, TOP_TRIALS, Row, Study
from rlsys.sweep.view import recipe_title

FEW_SEEDS = 5  # of which a bootstrap interval is too narrow


@dataclass(frozen=True)
class Point:
    """A trial of the history. ended: how many trials had ended with it; seconds: since the first one began;
    value: None of a pruned or failed trial; best: of all until then, None while none has finished."""

    number: int
    state: str
    ended: int
    seconds: float
    value: float | None
    best: float | None


@dataclass(frozen=True)
class Findings:
    """All that `rlsys report` says of a sweep.

    better: "maximize" or "minimize", for each of `objectives`. counts: trials by state. importances: by objective, each key's
        share (`Study.importances`); an objective is missing of which nothing can be said. history: by objective, in the order
        in which trials ended.
    best: the best trial; with several objectives the Pareto front, by the first one. intervals: by finished trial, of each
        objective over the seeds. tests: scores on the test split by trial, one a seed. commands: what trains a trial of
        `best` again.
    """

    name: str
    folder: str
    objectives: list[str]
    better: list[str]
    seeds: list[int]
    sampler: str
    pruner: str
    space: dict[str, Parameter]
    counts: dict[str, int]
    trials: list[Row]
    importances: dict[str, dict[str, float]]
    history: dict[str, list[Point]]
    best: list[int]
    intervals: dict[int, list[list[float] | None]]
    tests: dict[int, list[float | None]]
    commands: dict[int, str]
    notes: list[str]

    @property
    def keys(self) -> list[str]:
        """The keys that were searched, the most important by the first objective first."""
        first = self.importances.get(self.objectives[0], {})
        return sorted(self.space, key=lambda key: -first.get(key, 0.0))

    def finished(self) -> list[Row]:
        return [row for row in self.trials if row.state == "finished"]

    def by_merit(self, objective: int = 0) -> list[Row]:
        """The finished trials, the best in one objective first; of equals the earlier."""
        sign = -1.0 if self.better[objective] == "maximize" else 1.0
        return sorted(self.finished(), key=lambda row: (sign * row.values[objective], row.number))  # type: ignore[index]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find(study: Study, folder: Path) -> Findings:
    """Look at a sweep, which may be going on."""
    spec, sweep = study.spec, study.spec.sweep
    best, importances = study.best(), study.importances()
    rows = study.rows()  # read last: the best are among them
    finished = [row for row in rows if row.state == "finished"]
    better = [OBJECTIVES[name][1] for name in sweep.objective]
    counts = {state: sum(row.state == state for row in rows) for state in STATES.values()}
    return Findings(
        name=spec.name,
        folder=str(folder),
        objectives=sweep.objective,
        better=list(better),
        seeds=spec.seeds,
        sampler=sweep.sampler,
        pruner=spec.pruner,
        space=spec.space,
        counts=counts,
        trials=rows,
        importances=importances,
        history={
            name: history(rows, i, way) for i, (name, way) in enumerate(zip(sweep.objective, better, strict=True))
        },
        best=[row.number for row in best],
        intervals={row.number: [study.interval(row, i) for i in range(len(better))] for row in finished},
        tests={row.number: [result["test"] for result in row.seeds.values()] for row in finished},
        commands={row.number: typed for row in best if (typed := command(study, folder, row.number))},
        notes=notes(counts, sweep.objective, importances, len(spec.seeds)),
    )


def history(rows: Sequence[Row], objective: int, better: str) -> list[Point]:
    """The trials that have ended, in that order, and the best until then."""
    ended = sorted((row for row in rows if row.ended is not None), key=lambda row: (row.ended, row.number))
    start = min((row.ended - (row.seconds or 0.0) for row in ended), default=0.0)  # type: ignore[operator]
    points: list[Point] = []
    best: float | None = None
    for i, row in enumerate(ended, 1):
        value = row.values[objective] if row.values else None
        if value is not None:
            best = value if best is None else (max if better == "maximize" else min)(best, value)
        points.append(Point(row.number, row.state, i, row.ended - start, value, best))  # type: ignore[operator]
    return points


def command(study: Study, folder: Path, number: int) -> str:
    """What to type to train one of the best trials again: its recipe, if the sweep has left one, else its values.

    Of a population that has no recipe yet it is nothing: one segment's values are not what has been trained.
    """
    for recipe in (f"best-{number}", "best"):
        with contextlib.suppress(OSError):
            text = (folder / "experiment" / f"{recipe}.yaml").read_text()
            if f"# {recipe_title(study, number)}" in text:  # it may be of one that was the best before
                return shlex.join(["rlsys", "train", "--config-dir", str(folder), f"experiment={recipe}"])
    if study.spec.is_population:
        return ""
    return shlex.join(["rlsys", "train", *study.spec.fixed, *study.overrides(study.row(number))])


def notes(
    counts: dict[str, int], objectives: list[str], importances: dict[str, dict[str, float]], seeds: int
) -> list[str]:
    """What to bear in mind."""
    found = []
    if missing := counts["waiting"] + counts["running"]:
        found.append(f"{missing} of {sum(counts.values())} trials have yet to end.")
    if counts["finished"] < 2 * TOP_TRIALS:
        found.append(f"Importance needs {2 * TOP_TRIALS} finished trials or more, and there are {counts['finished']}.")
    else:
        found += [
            f"All trials are among the best in {name}: nothing tells which key matters."
            for name in objectives
            if name not in importances
        ]
    if counts["finished"] and 1 < seeds < FEW_SEEDS:
        found.append(f"With fewer than {FEW_SEEDS} seeds bootstrap intervals are too narrow: trust them little.")
    if counts["finished"] and seeds == 1:
        found.append("With one seed there is no interval: another may do quite differently.")
    if counts["finished"] > 1:
        found.append(
            "The best of many was lucky, too: its score on the test split, which has chosen nothing, is the one to quote."
        )
    return found


def to_text(findings: Findings) -> str:
    """The findings as JSON."""
    return json.dumps(findings.to_json())
