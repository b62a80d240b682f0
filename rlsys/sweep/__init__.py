"""Search: many trials, each some ordinary runs (one a seed), as many side by side as this machine has room for.

A trial's run is `rlsys train` in a process of its own. Nothing reaches into it: the sweep reads its folder (metrics.jsonl
for the pruner, summary.json for the outcome) and the last lines that it says, and stops it with SIGTERM. Who runs what and
what came of it is in the study (sweep/study.py); any process may die at any time, and another goes on with what is missing.

sweeps/<name>/
    sweep.json        the study's name and where it is      trials/<number>/s<seed>/  a run's parent folder, with
    study.journal     the study, unless in a database         lock       held by the process that trains it
    experiment/       best.yaml, and one for each trial         said.txt   what that said last
                      of a Pareto front
    workers/          a file for each process that sweeps
    gpus/             a file for each place on a GPU, held by the process that trains there
"""

import contextlib
import fcntl
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlsys import config as configs
from rlsys.config import ConfigError, SweepConfig
from rlsys.folder import find, read_json, write_whole
from rlsys.signals import Stop, stop_signals
from rlsys.sweep.jobs import Job, Slot, place_of, room
from rlsys.sweep.spec import Compose, Spec
from rlsys.sweep.study import JOURNAL, Row, Study, Taken, public
from rlsys.sweep.study import StorageLost as StorageLost
from rlsys.sweep.view import Board, recipe_title, shown_values

POLL_SECONDS = 0.1  # between looks at the runs
LOOK_SECONDS = 1.0  # between looks at the whole study
TRAIN = [sys.executable, "-m", "rlsys", "train"]
USAGE = 2  # the exit code of a run that cannot be as it is typed: no retry helps


class Stopped(Exception):
    """A signal asked the sweep to stop; its runs are saved, and it can be resumed."""


# -- making one, finding one ---------------------------------------------------------------------------------------------


def create(spec: Spec) -> tuple[Study, Path]:
    """A new sweep in its folder; ConfigError if this machine has no room for it."""
    folder = Path(spec.sweep.dir or f"sweeps/{spec.name}")
    room(spec.sweep, folder)
    if (folder / "sweep.json").exists():
        raise ConfigError(f"sweep.dir={folder}: there is a sweep already. Go on with it: rlsys sweep resume {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    study = Study.create(spec, spec.sweep.storage or str(folder / JOURNAL))
    _remember(folder, study, spec.sweep.storage)
    return study, folder


def _remember(folder: Path, study: Study, storage: str | None) -> None:
    where = {"study": study.spec.name, "storage": storage and public(storage)}
    write_whole(folder / "sweep.json", json.dumps(where, indent=2))


def reopen(
    place: str, name: str | None = None, storage: str | None = None, folder: str | None = None
) -> tuple[Study, Path]:
    """The sweep in a folder, or in the database at a URL (the study `name`, or the only unfinished one)."""
    if "://" in place:
        study = Study.open(place, name)
        path = Path(folder or f"sweeps/{study.spec.name}")
        path.mkdir(parents=True, exist_ok=True)
        if not (path / "sweep.json").exists():
            _remember(path, study, place)
        return study, path
    path, found = Path(place), _remembered(place)
    return Study.open(storage or found["storage"] or str(path / JOURNAL), found["study"]), path


def look(place: str, name: str | None = None, storage: str | None = None) -> tuple[Study, Path]:
    """A sweep to be looked at, as `reopen` finds it, or the "latest" in sweeps/, and its folder; nothing is written.

    Of a database's URL its only sweep will do, finished or not; the folder may not be there then.
    """
    if "://" in place:
        study = Study.open(place, name, to_look=True)
        return study, Path(f"sweeps/{study.spec.name}")
    if place == "latest" and not Path(place).exists():
        found = sorted(Path("sweeps").glob("*/sweep.json"), key=lambda path: (path.stat().st_mtime, path))
        if not found:
            raise FileNotFoundError("there is no sweep in sweeps/ yet.")
        place = str(found[-1].parent)
    kept = _remembered(place)
    return Study.open(storage or kept["storage"] or str(Path(place) / JOURNAL), kept["study"]), Path(place)


def _remembered(place: str) -> dict[str, Any]:
    found = read_json(Path(place) / "sweep.json")
    if not isinstance(found, dict) or not {"study", "storage"} <= set(found):
        raise FileNotFoundError(f"no sweep at {place!r}: it is a folder with a sweep.json, or a database's URL.")
    return found


def extend(study: Study, folder: Path, trials: int | None = None) -> None:
    """Make the trials that are missing, if the process that made the study died over it, or that are asked for now."""
    with _alone(folder):
        study.add_trials(trials)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes of this sweep from writing in its folder meanwhile."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- the sweep -----------------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """A trial that this process works on."""

    taken: Taken
    eval_every: int
    pending: list[int]  # seeds without a run
    results: dict[int, dict[str, Any]]
    jobs: dict[int, Job] = field(default_factory=dict)
    failures: Counter = field(default_factory=Counter)  # by seed
    curves: dict[int, dict[int, float]] = field(default_factory=dict)  # by seed: mean return by evaluation, from 1

    @property
    def number(self) -> int:
        return self.taken.number


class Sweep:
    """This process's part of a sweep: `run` works on it until nothing is missing.

    how: what this machine gives (workers, GPUs, memory); train: the command that the runs begin with.
    Raises Stopped after SIGTERM or Ctrl-C, and StorageLost if the database stays silent; the runs are saved.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        how: SweepConfig,
        compose: Compose,
        *,
        train: list[str] = TRAIN,
        quiet: bool = False,
    ):
        self.study, self.spec, self.folder, self.how = study, study.spec, folder, how
        self.compose, self.train = compose, train
        self.free = room(how, folder)
        self.trials: dict[int, Trial] = {}
        self.stopping: list[Job] = []  # of trials that are decided
        self.board = Board(self, len(self.free), quiet)
        self._looked = 0.0
        self._is_claiming = True

    def run(self) -> None:
        self.study.enlist(self.folder / "workers")
        with stop_signals(signal.SIGHUP) as stop, self.board:
            try:
                self._work(stop)
                if not stop.requested:
                    return
                self._end_all(signal.SIGTERM)
            except BaseException:
                self._end_all(signal.SIGTERM if self.study.is_lost else signal.SIGKILL)
                raise
            finally:
                self.study.leave()
                if not self.study.is_lost:
                    self.write_best()
        raise Stopped(f"stopped by {stop.requested}; its runs are saved")

    def _work(self, stop: Stop) -> None:
        self._look()
        while not stop.requested:
            self.study.beat()
            for trial in list(self.trials.values()):
                self._follow(trial)
            for job in [job for job in self.stopping if job.has_ended()]:
                self.stopping.remove(job)
                self.free.append(job.slot)
                self._charge(job)
            self.fill()
            if time.monotonic() > self._looked + LOOK_SECONDS and self._look():
                return
            self.board.draw()
            time.sleep(POLL_SECONDS)

    def _look(self) -> bool:
        """Look at the whole study, and take over the trials of the dead; whether all is done."""
        if self.free:
            for taken in self.study.take_over(len(self.free)):
                self._take(taken)
        for trial in list(self.trials.values()):
            if not self.study.is_mine(trial.number):  # this process was thought dead
                self._drop(trial)
        counts = self.study.counts()
        self.board.counts = counts
        self._is_claiming = counts["waiting"] > 0
        self._looked = time.monotonic()
        return not (counts["waiting"] or counts["running"] or self.trials or self.stopping)

    # -- starting runs

    def fill(self) -> None:
        """Give every free slot a run: of a trial that has begun, else of a new one, else one that was to wait."""
        while self.free:
            slot = next((slot for slot in self.free if not slot.is_taken()), None)
            held_back = self.spec.held_back
            found = self._next(held_back) or (slot and self._claim() and self._next(held_back)) or self._next([])
            if not found:
                return
            trial, seed = found
            folder = self.folder / "trials" / f"{trial.number:04d}" / f"s{seed}"
            slot = place_of(folder, self.free) or slot
            if slot is None:
                return  # on the GPUs are runs of others that work on this sweep here
            self.free.remove(slot)
            trial.pending.remove(seed)
            trial.jobs[seed] = job = Job(trial.number, seed, folder, slot)
            job.start([*self.train, "--quiet"], self._given(trial.taken, seed, slot), self.how.memory)

    def _given(self, taken: Taken, seed: int, slot: Slot) -> list[str]:
        """What is typed for a run: what is for every one, and its values; if it goes on from another, what changes."""
        segment = [f"stop_at={self.spec.end(taken.number)}"] if self.spec.is_population else []
        if taken.parent is None:
            return [*self.spec.given(slot.threads), *segment, *taken.overrides, f"seed={seed}"]
        threads = [given for given in self.spec.given(slot.threads) if given.startswith("threads=")]
        return [f"init={self._run_of(taken.parent)}", *threads, *segment, *taken.overrides]

    def _run_of(self, number: int) -> Path:
        """The run of a population's trial."""
        parent = self.folder / "trials" / f"{number:04d}"
        found = [run for run in find(str(parent)) if run.summary()]
        if not found:
            raise ConfigError(
                f"there is no run in {parent}, from which another is to start: every machine that trains a population "
                "needs the same folder, on a disk that all of them see: sweep.dir=FOLDER."
            )
        return found[-1].folder

    def _next(self, held_back: list[int]) -> tuple[Trial, int] | None:
        """The first seed without a run, but those that wait until the others of their trial are done."""
        for trial in sorted(self.trials.values(), key=lambda trial: trial.number):
            is_judged = all(seed in trial.results for seed in trial.taken.seeds if seed not in held_back)
            for seed in trial.pending:
                if is_judged or seed not in held_back:
                    return trial, seed
        return None

    def _claim(self) -> bool:
        """Get a new trial, if there is one."""
        while self._is_claiming:
            taken = self.study.claim()
            if taken is None:
                self._is_claiming = False
            elif self._take(taken):
                return True
        return False

    def _take(self, taken: Taken) -> bool:
        """Begin with a trial; whether it is one that can be trained."""
        try:
            config = self.compose([*self.spec.fixed, *taken.overrides])
        except ConfigError as error:
            if str(error) == self._fault_of_all():
                raise  # no trial's own: a module that is not allowed, a package that is gone
            self.study.fail(taken.number, str(error))
            self._told(taken.number)
            return False
        pending = [seed for seed in taken.seeds if seed not in taken.results]
        trial = Trial(taken, config.eval_every, pending, dict(taken.results))
        self.trials[taken.number] = trial
        if not pending:
            self._decide(trial, self.study.finish(trial.number, list(trial.results.values())))
        return True

    def _fault_of_all(self) -> str:
        """What is wrong with every trial, whatever its values; empty if nothing is."""
        try:
            self.compose(self.spec.fixed)
        except ConfigError as error:
            return str(error)
        return ""

    # -- following them

    def _follow(self, trial: Trial) -> None:
        """See what a trial's runs have done."""
        for seed, job in list(trial.jobs.items()):
            has_ended = job.has_ended()  # asked first: what it wrote until then is read
            self._read(trial, job)
            if has_ended and trial.number in self.trials:
                del trial.jobs[seed]
                self.free.append(job.slot)
                self._charge(job)
                self._ended(trial, job)
            if trial.number not in self.trials:
                return

    def _read(self, trial: Trial, job: Job) -> None:
        """Read a run's evaluations, and ask the pruner once the first seeds have all made another."""
        curve = trial.curves.setdefault(job.seed, {})
        for row in job.news():
            if (mean := row.get("eval/mean_reward")) is not None:
                curve[max(1, row["step"] // trial.eval_every) if trial.eval_every else 1] = mean
        if not self.spec.reads_curves:
            return
        judged = self.spec.seeds[: self.spec.sweep.pruner_seeds]
        curves = [trial.curves.get(seed, {}) for seed in judged]
        for step in sorted(set.intersection(*map(set, curves)) - trial.taken.reported):
            trial.taken.reported.add(step)
            if self.study.report(trial.number, step, sum(curve[step] for curve in curves) / len(curves)):
                self._decide(trial, self.study.prune(trial.number))
                return

    def _ended(self, trial: Trial, job: Job) -> None:
        """A run's process has ended: note its outcome, or try again, or give the trial up."""
        result = job.result(self.spec.sweep.objective)
        missing = [name for name in self.spec.sweep.objective if result is not None and result.get(name) is None]
        if result is not None and not missing:
            self.study.record(trial.number, job.seed, result)
            trial.results[job.seed] = result
            if self.spec.pruner == "wilcoxon":
                step = self.spec.seeds.index(job.seed)
                if step not in trial.taken.reported and self.study.report(trial.number, step, result["score"]):
                    self._decide(trial, self.study.prune(trial.number))
                    return
            if len(trial.results) == len(trial.taken.seeds):
                self._decide(
                    trial, self.study.finish(trial.number, [trial.results[seed] for seed in trial.taken.seeds])
                )
            return
        if job.process is None:  # it was another's, and what it said is not known
            trial.pending.insert(0, job.seed)
            return
        trial.failures[job.seed] += 1
        if job.process.returncode != USAGE and not missing and trial.failures[job.seed] <= self.how.retries:
            trial.pending.insert(0, job.seed)
            return
        error = f"the run's summary has no {missing[0]}: it cannot be an objective here" if missing else job.complaint()
        self._decide(trial, self.study.fail(trial.number, error))

    def _charge(self, job: Job) -> None:
        """Note what a run has cost that has ended, however it did; if it goes on later, more."""
        cost = job.cost()
        if cost is not None:
            self.study.charge(job.number, job.seed, cost)

    def _decide(self, trial: Trial, is_mine: bool = True) -> None:
        """The trial is finished, pruned or failed: what still runs of it is stopped."""
        self._drop(trial)
        self._is_claiming = True  # another may have waited for this one
        if is_mine:
            self._told(trial.number)

    def _drop(self, trial: Trial) -> None:
        self.trials.pop(trial.number, None)
        for job in trial.jobs.values():
            job.stop()
            self.stopping.append(job)

    def _told(self, number: int) -> None:
        self.board.ended += 1
        self.board.say(self.study.row(number))

    def _end_all(self, how: signal.Signals) -> None:
        """Stop every run of this process, and wait until they are stopped."""
        jobs = [*self.stopping, *(job for trial in self.trials.values() for job in trial.jobs.values())]
        for job in jobs:
            job.stop(how)
        while not all(job.has_ended() for job in jobs):
            if not self.study.is_lost:
                self.study.beat()
            time.sleep(POLL_SECONDS)
        if self.study.is_lost:
            return
        for job in jobs:
            self._charge(job)
        for trial in self.trials.values():
            for seed, job in trial.jobs.items():  # it may have come to its end first
                result = job.result(self.spec.sweep.objective)
                if result is not None and all(result.get(name) is not None for name in self.spec.sweep.objective):
                    self.study.record(trial.number, seed, result)

    # -- what is left behind

    def write_best(self) -> list[Path]:
        """Write the best trial's configuration as a recipe for `rlsys train --config-dir FOLDER experiment=best`.

        With several objectives that is the best by the first, and each of the front has its own: best-<number>. Of a population
        it is the best's lineage as one run, with the schedule that was found and the seed that it began with.
        """
        best = self.study.best()
        if not best:
            return []
        recipes = {"best": best[0]}
        if len(self.spec.sweep.objective) > 1:
            recipes |= {f"best-{row.number}": row for row in best}
        folder = self.folder / "experiment"
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder):
            for name, row in recipes.items():
                data = self._lineage_as_data(row) if self.spec.is_population else self._as_data(row)
                for key in ("run_dir", "resume", "threads", "init"):
                    data.pop(key)
                title = f"{recipe_title(self.study, row.number)}{shown_values(self.study, row)}"
                write_whole(folder / f"{name}.yaml", configs.to_recipe(data, title))
            for path in folder.glob("best-*.yaml"):
                if path.stem not in recipes:  # another is better by now
                    path.unlink()
        return [folder / f"{name}.yaml" for name in recipes]

    def _as_data(self, row: Row) -> dict[str, Any]:
        data = configs.to_data(self.compose([*self.spec.fixed, *self.study.overrides(row)]))
        data.pop("seed")
        return data

    def _lineage_as_data(self, row: Row) -> dict[str, Any]:
        """The one run that trains what a population's trial and its ancestors have trained."""
        spec, rows = self.spec, [self.study.row(number) for number in self.study.lineage(row.number)]
        made = [configs.to_data(self.compose([*spec.fixed, *self.study.overrides(ancestor)])) for ancestor in rows]
        values = [
            {key: value for key, value in configs.flat(data).items() if key.startswith("agent.")} for data in made
        ]
        schedule = []
        for i in range(1, len(rows)):
            changes = {key: value for key, value in values[i].items() if value != values[i - 1][key]}
            if changes:
                schedule.append({"from_step": spec.end(rows[i - 1].number), **changes})
        ends = {"stop_at": spec.end(row.number)} if spec.end(row.number) < spec.steps else {}
        seed = spec.seeds[spec.member(rows[0].number)]
        return {**made[0], "eval_every": spec.interval, "seed": seed, "schedule": schedule, **ends}
