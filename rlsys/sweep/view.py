"""A sweep on the console: a live table while it runs, a row for each trial."""

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlsys.log import clock
from rlsys.sweep.study import Row, Study

if TYPE_CHECKING:
    from rlsys.sweep import Sweep

DRAW_SECONDS = 0.5
BEST_SECONDS = 5.0  # between looks for the best, which goes through all trials


def shown_values(study: Study, row: Row) -> str:
    """A trial's objectives, with the interval of the first: "483.2 (451.0 to 500.0), 12.3 seconds"."""
    if row.values is None:
        return ""
    interval = study.interval(row)
    first = f"{row.values[0]:.5g}" + (f" ({interval[0]:.5g} to {interval[1]:.5g})" if interval else "")
    names = study.spec.sweep.objective
    units = [first if names[0] == "score" else f"{first} {names[0]}"]
    return ", ".join(units + [f"{value:.4g} {name}" for name, value in zip(names[1:], row.values[1:], strict=True)])


def shown_params(row: Row) -> str:
    return " ".join(
        f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in row.params.items()
    )


def recipe_title(study: Study, number: int) -> str:
    """What the title of a trial's recipe begins with."""
    return f"{study.spec.name}, trial {number}: "


def shown_trial(study: Study, row: Row) -> dict[str, str]:
    """A trial's row in a table."""
    error = (row.error or "").strip().splitlines()
    return {
        "trial": str(row.number),
        "state": row.state,
        ", ".join(study.spec.sweep.objective): shown_values(study, row) or (error[-1][:60] if error else ""),
        **_shown_place(study, row),
        "took": "" if row.seconds is None else f"{row.seconds:.1f} s",
        "values": shown_params(row),
    }


def _shown_place(study: Study, row: Row) -> dict[str, str]:
    """How many seeds are done; of a population's trial its member, the step it ends at, and the trial that it goes on from."""
    if not study.spec.is_population:
        return {"seeds": f"{len(row.seeds)}/{len(study.spec.seeds)}"}
    member, parent = study.spec.member(row.number), "" if row.parent is None else str(row.parent)
    if row.parent is not None and study.spec.member(row.parent) != member:
        parent += f" (member {study.spec.member(row.parent)})"
    return {"member": str(member), "to step": f"{study.spec.end(row.number):,}", "from trial": parent}


def to_json(study: Study, row: Row) -> dict[str, Any]:
    found = {**vars(row), "interval": study.interval(row), "overrides": study.overrides(row)}
    if study.spec.is_population:
        found |= {"member": study.spec.member(row.number), "end": study.spec.end(row.number)}
    return found


class Board:
    """What a sweep says: a line for each trial that ends, and on a terminal a live table below; on stderr."""

    def __init__(self, sweep: "Sweep", workers: int, quiet: bool, console: Console | None = None):
        self._sweep, self._workers, self._quiet = sweep, workers, quiet
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._begun = self._drawn = time.monotonic()
        self._best, self._best_at = "", -BEST_SECONDS
        self.counts: dict[str, int] = {}
        self.ended = 0  # trials, in this process

    def __enter__(self) -> "Board":
        self._begun = time.monotonic()
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, row: Row) -> None:
        """A trial has ended."""
        if not self._quiet:
            study = self._sweep.study
            told = shown_values(study, row) or (row.error or "").strip().replace("\n", "\n    ")
            text = f"trial {row.number} {row.state}: {told + '  ' if told else ''}{shown_params(row)}"
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def draw(self) -> None:
        """Draw the live table, if it is time to."""
        now = time.monotonic()
        if self._live is None or now < self._drawn + DRAW_SECONDS:
            return
        self._drawn = now
        self._live.update(self.table(now), refresh=True)

    def table(self, now: float) -> Group:
        study = self._sweep.study
        if now > self._best_at + BEST_SECONDS:
            self._best_at = now
            best = study.best()
            self._best = (
                f"trial {best[0].number}: {shown_values(study, best[0])}  {shown_params(best[0])}"
                if best
                else "none yet"
            )
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        running = Table.grid(padding=(0, 2))
        for trial in sorted(self._sweep.trials.values(), key=lambda trial: trial.number):
            last = [f"s{seed} {list(curve.values())[-1]:.4g}" for seed, curve in trial.curves.items() if curve]
            seeds = f"{len(trial.results)}/{len(trial.taken.seeds)} seeds, {len(trial.jobs)} running"
            running.add_row(f"trial {trial.number}", seeds, " ".join(last), " ".join(trial.taken.overrides))
        lines = [f"{study.spec.name}: {counts}", f"best  {self._best}", self._time_left(now)]
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines), running)

    def _time_left(self, now: float) -> str:
        elapsed = now - self._begun
        missing = self.counts.get("waiting", 0) + self.counts.get("running", 0)
        left = f", {clock(elapsed / self.ended * missing)} left" if self.ended else ""
        return f"{self._workers} workers, {clock(elapsed)} elapsed{left}"
