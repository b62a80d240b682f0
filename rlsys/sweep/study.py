"""The ledger of a sweep: which trials there are, who runs them, what came of them. The only file that knows Optuna.

All trials are made at the start, waiting and without values: however many processes work on a study, it has as many trials
as were asked for. A process takes one by moving it from waiting to running, which the storage lets one process do, and
signs it; only then are its values chosen, from all that is known by then. Each process says from time to time that it
lives; the trials of one that is dead are taken over with their numbers, values and finished seeds. Of a population
(sweep/pbt.py) a trial is a segment of a member, which can be taken once the one before has ended.

What a study's attributes hold: "spec" (`Spec` as plain data), "worker:<id>" (`_Worker`) and "cost:<trial>:<seed>" (a run's
`Cost`, which a trial that is finished could not be told any more) for the study; "owner", "seed:<seed>" (a run's outcome),
"error", and "start" (`pbt.Start`) for a trial.
"""

import contextlib
import fcntl
import functools
import os
import platform
import secrets
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from rlsys.config import ConfigError
from rlsys.cost import Cost, total
from rlsys.folder import is_held
from rlsys.statistics import bootstrap_interval
from rlsys.sweep import pbt
from rlsys.sweep.spec import OBJECTIVES, Spec, centre

try:
    import optuna
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
    from optuna.storages import BaseStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError as error:
    raise ConfigError(f"`rlsys sweep` needs Optuna ({error}): pip install 'rlsys[sweep]'") from None

JOURNAL = "study.journal"  # the storage of a sweep that names none, in its folder
TOP_TRIALS = 5  # of which one can say at least how their values are distributed
SETTLE_SECONDS = 1.0  # after which everybody has read who took a dead process's trial

STATES = {"WAITING": "waiting", "RUNNING": "running", "COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}


# -- samplers and pruners -----------------------------------------------------------------------------------------------


def make_sampler(spec: Spec, number: int) -> "optuna.samplers.BaseSampler":
    """The sampler for one trial. Its seed is the trial's own: processes, and a resumed one, do not repeat each other."""
    seed = int(np.random.SeedSequence([spec.sweep.sampler_seed, number]).generate_state(1)[0])
    first, samplers = spec.sweep.random_trials, optuna.samplers
    if spec.sweep.sampler in ("random", "grid"):  # a grid's trials have their values already
        return samplers.RandomSampler(seed=seed)
    if spec.sweep.sampler == "cmaes":
        return samplers.CmaEsSampler(seed=seed, n_startup_trials=max(first, 1), warn_independent_sampling=False)
    if spec.sweep.sampler == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=max(first, 1))
    return samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=True)  # it knows what is being tried


def make_pruner(spec: Spec) -> "optuna.pruners.BasePruner":
    """The pruner. Its steps are evaluations, counted from 1, or, for wilcoxon, seeds."""
    first, pruners = spec.sweep.pruner_warmup, optuna.pruners
    if spec.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=spec.sweep.pruner_trials, n_warmup_steps=first)
    if spec.pruner == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    if spec.pruner == "hyperband":
        return pruners.HyperbandPruner(
            min_resource=first, max_resource=max(spec.evaluations, first), reduction_factor=3
        )
    if spec.pruner == "wilcoxon":
        return pruners.WilcoxonPruner(p_threshold=0.1)
    return pruners.NopPruner()


# -- where it is kept ----------------------------------------------------------------------------------------------------


class _Flock:
    """A lock of the journal that the operating system releases when its holder dies; Optuna's own stay for 30 seconds.

    A record that a dying process has cut short is taken away, so that the next one begins a line of its own.
    """

    def __init__(self, path: Path):
        self._path, self._file = path, -1

    def acquire(self) -> bool:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        end = os.fstat(self._file).st_size
        if end and os.pread(self._file, 1, end - 1) != b"\n":
            last = os.pread(self._file, min(end, 2**20), max(0, end - 2**20)).rpartition(b"\n")[2]
            os.ftruncate(self._file, end - len(last))
        return True

    def release(self) -> None:
        os.close(self._file)


def open_storage(url: str) -> BaseStorage:
    """The storage at a URL of a database, or in a journal file; ConfigError if it cannot be had."""
    if "://" not in url:
        return JournalStorage(JournalFileBackend(url, lock_obj=_Flock(Path(url))))  # type: ignore[arg-type]
    dialect, separator, rest = url.partition("://")
    if dialect in ("postgres", "postgresql"):
        dialect = "postgresql+psycopg"
    is_sqlite = dialect.startswith("sqlite")
    how: dict[str, Any] = {"connect_args": {"timeout": 60}} if is_sqlite else {"pool_pre_ping": True}
    try:
        storage = optuna.storages.RDBStorage(dialect + separator + rest, engine_kwargs=how)
    except ImportError:
        remedy = "pip install 'rlsys[postgres]'" if "postgres" in dialect else f"install the driver of {dialect}"
        raise ConfigError(f"sweep.storage={public(url)}: there is no driver for it: {remedy}") from None
    except Exception as error:  # a driver's own kinds
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(f"sweep.storage={public(url)} cannot be opened: {reason}") from None
    if is_sqlite:
        _begin_at_once(storage.engine)
    return storage


def _begin_at_once(engine: Any) -> None:
    """Let SQLite lock before it reads: two processes would else both find a trial waiting, and take it."""
    from sqlalchemy import event

    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def public(url: str) -> str:
    """A database's URL without its password, which belongs in PGPASSWORD or ~/.pgpass."""
    password = urlsplit(url).password if "://" in url else None
    return url.replace(f":{password}@", "@", 1) if password else url


# -- the study -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """A trial that is this process's."""

    number: int
    overrides: list[str]
    results: dict[int, dict[str, Any]]  # outcomes of the seeds that are done
    reported: set[int]  # what the pruner has seen
    seeds: list[int]  # of its runs
    parent: int | None = None  # the trial from whose checkpoint its run starts


@dataclass(frozen=True)
class Row:
    """A trial as the ledger has it. params: as the sampler gave them; values: the objectives; seeds: outcomes of those done."""

    number: int
    state: str  # one of STATES' values
    params: dict[str, Any]
    values: list[float] | None
    seeds: dict[int, dict[str, Any]]
    error: str | None
    owner: str | None
    seconds: float | None  # from taking it to its end
    ended: float | None  # when, in seconds since 1970
    parent: int | None = None  # of a population: the trial whose end it goes on from


@dataclass
class _Worker:
    """A process that sweeps, as it stands in the study."""

    machine: str
    host: str
    pid: int
    lock: str  # a file that it holds locked while it lives
    beat: int = 0
    left: bool = False


class StorageLost(OSError):
    """The database of a sweep has not answered for as long as the sweep's patience lasts."""


def _steadily(method: Callable) -> Callable:
    """Ask again for a while if the database does not answer; what is asked may be asked twice. Then StorageLost."""

    @functools.wraps(method)
    def asked(self, *args, **options):
        patience = self.spec.sweep.patience
        until = time.monotonic() + patience
        while True:
            try:
                return method(self, *args, **options)
            except StorageInternalError as error:
                self._seen.clear()  # who could not be heard is not dead
                if time.monotonic() > until:
                    self.is_lost = True
                    reason = str(error.__cause__ or error).strip().splitlines()[0]
                    raise StorageLost(
                        f"sweep.storage={self._where} has not answered for {patience:g} s (sweep.patience): {reason}"
                    ) from None
                time.sleep(1.0)

    return asked


class Study:
    """A sweep's study, as one process sees it.

    create:  make it, with its trials, in a storage.     open:  find it there.
    enlist, beat, leave:  this process's part in it.     claim, take_over:  get trials.
    record, report, finish, prune, fail:  say what came of them; False if the trial is no longer this process's.

    Any of these waits for a database that does not answer, and raises StorageLost in the end; `is_lost` says so from then on.
    """

    def __init__(self, study: "optuna.Study", storage: BaseStorage, where: str):
        self._study, self._storage, self._where = study, storage, where
        self.is_lost = False
        self.spec = Spec.from_data(study.user_attrs["spec"])
        study.pruner = make_pruner(self.spec)
        self.me = secrets.token_hex(4)
        self._worker: _Worker | None = None
        self._lock: Any = None
        self._beaten = 0.0
        self._given: set[int] = set()  # numbers of the trials that `claim` and `take_over` have returned
        self._seen: dict[str, tuple[Any, float]] = {}  # last sign of life of each owner, and when it came

    @classmethod
    def create(cls, spec: Spec, url: str) -> "Study":
        with _quiet():
            storage = open_storage(url)
            directions = [OBJECTIVES[name][1] for name in spec.sweep.objective]
            study = optuna.create_study(storage=storage, study_name=spec.name, directions=directions)
            study.set_user_attr("spec", spec.to_data())
            made = cls(study, storage, public(url))
            made.add_trials()
            return made

    @classmethod
    def open(cls, url: str, name: str | None = None, *, to_look: bool = False) -> "Study":
        """The study `name`, or the only unfinished one there; to look at it, the only one will do. ConfigError if that
        is not clear, and if there is no such file."""
        if (file := _file(url)) and not file.exists():
            raise ConfigError(f"there is no sweep in {file}: there is no such file.")
        with _quiet():
            storage = open_storage(url)
            try:
                one = _one(storage, public(url), name, to_look)
                return cls(optuna.load_study(storage=storage, study_name=one), storage, public(url))
            except BaseException:
                _close(storage)
                raise

    def close(self) -> None:
        """Let go of the storage."""
        _close(self._storage)

    @_steadily
    def add_trials(self, trials: int | None = None) -> None:
        """Make trials until there are as many as the spec says, or `trials`."""
        if trials is not None:
            if self.spec.is_population:
                raise ConfigError(
                    f"sweep.trials={trials}: a population has as many segments as its schedules reach to."
                )
            if trials < (made := len(self._study.get_trials(deepcopy=False))):
                raise ConfigError(f"sweep.trials={trials}: there are {made} already, and none can be taken away.")
            data = self.spec.to_data()
            data["sweep"]["trials"] = trials
            self.spec = Spec.from_data(data)
            self._study.set_user_attr("spec", data)
        points = self.spec.grid() if self.spec.sweep.sampler == "grid" else [{}] * self.spec.trials
        for number in range(len(self._study.get_trials(deepcopy=False)), self.spec.trials):
            self._study.enqueue_trial(points[number])

    # -- who works on it

    def enlist(self, folder: Path) -> None:
        """Take part, and be seen to live: by a lock on this machine, by a count that grows on others."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.me}.lock"
        self._lock = open(path, "w")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._worker = _Worker(_machine(), platform.node(), os.getpid(), str(path.resolve()))
        self._say()

    def beat(self) -> None:
        """Say that this process lives, if it is time to."""
        if time.monotonic() - self._beaten > self.spec.sweep.patience / 6:
            assert self._worker
            self._worker.beat += 1
            self._say()

    def leave(self) -> None:
        """What this process has not finished is anybody's."""
        if self._worker:
            self._worker.left = True
            if not self.is_lost:
                self._say()
            self._lock.close()

    @_steadily
    def _say(self) -> None:
        self._study.set_user_attr(f"worker:{self.me}", asdict(self._worker))  # type: ignore[arg-type]
        self._beaten = time.monotonic()

    def _is_dead(self, number: int, owner: str | None, workers: Mapping[str, Any]) -> bool:
        """Whether nobody works on a running trial any more."""
        if owner == self.me:
            return number not in self._given  # the database fell silent after this process had signed it
        worker = workers.get(f"worker:{owner}")
        if worker and worker["left"]:
            return True
        if worker and worker["machine"] == _machine() and os.path.exists(worker["lock"]):
            return not is_held(Path(worker["lock"]))
        key, sign = (owner, worker["beat"]) if worker and owner else (f"trial {number}", owner)
        if key not in self._seen or self._seen[key][0] != sign:
            self._seen[key] = (sign, time.monotonic())
        return time.monotonic() - self._seen[key][1] > self.spec.sweep.patience

    # -- taking trials

    @_steadily
    def claim(self) -> Taken | None:
        """The first waiting trial, with values chosen now; None if none waits that could begin."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in [trial for trial in trials if trial.state == TrialState.WAITING]:
            if self.spec.is_population and not pbt.can_begin(self.spec, trial.number, _scores(trials)):
                continue
            with contextlib.suppress(UpdateFinishedTrialError):
                if self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    self._sign(trial._trial_id)
                    return self._taken(trial._trial_id)
        return None

    @_steadily
    def take_over(self, most: int) -> list[Taken]:
        """Some running trials of the dead. Of several processes that would take one, the last to sign gets it."""
        workers = self._study.user_attrs
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        lost = [trial for trial in running if self._is_dead(trial.number, trial.user_attrs.get("owner"), workers)]
        for trial in lost[:most]:
            self._sign(trial._trial_id)
        if lost:
            time.sleep(SETTLE_SECONDS)
        return [self._taken(trial._trial_id) for trial in lost[:most] if self.is_mine(trial.number)]

    def _sign(self, trial_id: int) -> None:
        self._storage.set_trial_user_attr(trial_id, "owner", self.me)

    def _taken(self, trial_id: int) -> Taken:
        """A trial with its values: those that it has, and those that it lacks from the sampler, or from its parent."""
        with _quiet():
            number = self._storage.get_trial(trial_id).number
            seeds, parent = self.spec.seeds, None
            if self.spec.is_population:
                parent = self._start(trial_id, number)
                seeds = [self.spec.seeds[self.spec.member(self.lineage(number)[0])]]
            self._study.sampler = make_sampler(self.spec, number)
            trial = optuna.trial.Trial(self._study, trial_id)
            overrides = [f"{key}={parameter.suggest(trial, key)}" for key, parameter in self.spec.space.items()]
        frozen = self._storage.get_trial(trial_id)
        self._given.add(frozen.number)
        return Taken(frozen.number, overrides, _seeds(frozen), set(frozen.intermediate_values), seeds, parent)

    def _start(self, trial_id: int, number: int) -> int | None:
        """Decide how a segment begins, if that has not been decided, and see that it gets those values; its parent."""
        trials = self._study.get_trials(deepcopy=False)
        found = trials[number].user_attrs.get("start")
        if found is None:
            chosen = pbt.start(self.spec, number, _scores(trials), {t.number: dict(t.params) for t in trials})
            found = asdict(chosen)
            self._storage.set_trial_user_attr(trial_id, "start", found)
        self._storage.set_trial_system_attr(trial_id, "fixed_params", found["values"])
        return found["parent"]

    @_steadily
    def is_mine(self, number: int) -> bool:
        trial = self._frozen(number)
        return trial.user_attrs.get("owner") == self.me and trial.state == TrialState.RUNNING

    def _frozen(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    # -- saying what came of them

    @_steadily
    def record(self, number: int, seed: int, result: dict[str, Any]) -> bool:
        """A seed's run is done."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(self._id(number), f"seed:{seed}", result)
            return True
        return False

    @_steadily
    def report(self, number: int, step: int, value: float) -> bool:
        """Tell the pruner a value of a running trial; whether the trial should be stopped."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self._storage.set_trial_intermediate_value(self._id(number), step, float(value))
            with _quiet():
                return bool(self._study.pruner.prune(self._study, self._frozen(number)))
        return True

    @_steadily
    def charge(self, number: int, seed: int, cost: Cost) -> None:
        """A run has cost this, in all."""
        self._study.set_user_attr(f"cost:{number}:{seed}", asdict(cost))

    def finish(self, number: int, results: list[dict[str, Any]]) -> bool:
        """All seeds are done: the trial's values are their centres."""
        values = [float(centre([result[name] for result in results])) for name in self.spec.sweep.objective]
        return self._tell(number, TrialState.COMPLETE, values)

    def prune(self, number: int) -> bool:
        return self._tell(number, TrialState.PRUNED)

    @_steadily
    def fail(self, number: int, error: str) -> bool:
        with contextlib.suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(self._id(number), "error", error)
        return self._tell(number, TrialState.FAIL)

    @_steadily
    def _tell(self, number: int, state: TrialState, values: list[float] | None = None) -> bool:
        trial = self._frozen(number)
        if trial.user_attrs.get("owner") != self.me or trial.state != TrialState.RUNNING:
            return trial.user_attrs.get("owner") == self.me and trial.state == state  # told, but the answer was lost
        with _quiet(), contextlib.suppress(UpdateFinishedTrialError):
            self._study.sampler = make_sampler(self.spec, number)
            self._study.tell(number, values, state)
            return True
        return False

    # -- reading it

    @_steadily
    def counts(self) -> dict[str, int]:
        """How many trials are waiting, running, finished, pruned, failed."""
        states = [STATES[trial.state.name] for trial in self._study.get_trials(deepcopy=False)]
        return {name: states.count(name) for name in STATES.values()}

    @_steadily
    def cost(self) -> Cost:
        """What all runs that have ended cost together, those of failed and pruned trials too."""
        return total(Cost(**data) for key, data in self._study.user_attrs.items() if key.startswith("cost:"))

    @_steadily
    def row(self, number: int) -> Row:
        return self._row(self._frozen(number))

    @_steadily
    def rows(self) -> list[Row]:
        """All trials, in order."""
        return [self._row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _row(self, trial: FrozenTrial) -> Row:
        ended = trial.datetime_complete and trial.datetime_start
        return Row(
            number=trial.number,
            state=STATES[trial.state.name],
            params=dict(trial.params),
            values=list(trial.values) if trial.state == TrialState.COMPLETE else None,
            seeds=_seeds(trial),
            error=trial.user_attrs.get("error"),
            owner=trial.user_attrs.get("owner"),
            seconds=(trial.datetime_complete - trial.datetime_start).total_seconds() if ended else None,  # type: ignore
            ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
            parent=trial.user_attrs.get("start", {}).get("parent"),
        )

    @_steadily
    def lineage(self, number: int) -> list[int]:
        """A trial and those that it descends from, the first one first."""
        trials, found = self._study.get_trials(deepcopy=False), [number]
        while (parent := trials[found[0]].user_attrs.get("start", {}).get("parent")) is not None:
            found.insert(0, parent)
        return found

    @_steadily
    def best(self) -> list[Row]:
        """The best finished trial; with several objectives all that no other beats in each, by the first one. May be empty.

        Of a population the best of those that have come furthest.
        """
        if self.spec.is_population:
            finished = [row for row in self.rows() if row.values]
            furthest = [row for row in finished if self.spec.end(row.number) == self.spec.end(finished[-1].number)]
            return sorted(furthest, key=lambda row: -(row.values or [0.0])[0])[:1]
        if not self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return []
        if len(self.spec.sweep.objective) == 1:
            return [self._row(self._study.best_trial)]
        front = [self._row(trial) for trial in self._study.best_trials]
        sign = -1 if OBJECTIVES[self.spec.sweep.objective[0]][1] == "maximize" else 1
        return sorted(front, key=lambda row: (sign * (row.values or [0.0])[0], row.number))

    @_steadily
    def importances(self) -> dict[str, dict[str, float]]:
        """By objective, each key's share of what tells the best trials from the others, the largest first.

        Empty below 2 * TOP_TRIALS finished trials; an objective is missing that is the same in all.

        PED-ANOVA (Watanabe, Bansal and Hutter 2023, IJCAI, arXiv:2304.10255): how much the distribution of a key's values in
        the best trials differs from that in all finished ones. It asks what makes trials good, not what explains the bad
        ones' differences as fANOVA does, takes values as the sampler chose them, and needs no scikit-learn. The best are the
        first tenth, but at least TOP_TRIALS.
        """
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(finished) < 2 * TOP_TRIALS:
            return {}
        share = max(0.1, TOP_TRIALS / len(finished))
        found = {}
        for i, name in enumerate(self.spec.sweep.objective):
            sign = -1.0 if OBJECTIVES[name][1] == "maximize" else 1.0  # it takes low targets for good ones
            with _quiet():
                raw = optuna.importance.get_param_importances(
                    self._study,
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share),
                    params=list(self.spec.space),
                    target=lambda trial, i=i, sign=sign: sign * trial.values[i],  # type: ignore[misc]
                    normalize=False,
                )
            if total := sum(raw.values()):  # else all are alike
                found[name] = {key: value / total for key, value in raw.items()}
        return found

    def interval(self, row: Row, objective: int = 0) -> list[float] | None:
        """95 % bootstrap interval of one of a trial's objectives over its seeds; None for fewer than two."""
        values = [result[self.spec.sweep.objective[objective]] for result in row.seeds.values()]
        return bootstrap_interval(np.array(values), centre) if len(values) > 1 else None

    def overrides(self, row: Row) -> list[str]:
        """What to type for a trial's values."""
        return [
            f"{key}={value if isinstance(value, str) else repr(value)}"
            for key, value in row.params.items()
            if key in self.spec.space
        ]


def _file(url: str) -> Path | None:
    """The file that a journal or SQLite keeps a study in; None for a server."""
    dialect, separator, rest = url.partition("://")
    if not separator:
        return Path(url)
    path = rest.removeprefix("/").partition("?")[0]
    return Path(path) if dialect.startswith("sqlite") and path and not path.startswith(("file:", ":")) else None


def _one(storage: BaseStorage, where: str, name: str | None, to_look: bool) -> str:
    """The name of the study that is meant; ConfigError if there is none, or several."""
    found = {study.study_name: study._study_id for study in storage.get_all_studies() if "spec" in study.user_attrs}
    if name is not None:
        if name not in found:
            raise ConfigError(f"there is no sweep {name!r} in {where}. There are: {', '.join(found) or 'none'}.")
        return name
    if to_look and len(found) == 1:
        return next(iter(found))
    open_states = (TrialState.WAITING, TrialState.RUNNING)
    unfinished = [name for name, known in found.items() if storage.get_n_trials(known, open_states)]
    if not unfinished:
        these = f" Say --study with one of {', '.join(found)}." if to_look and found else ""
        raise ConfigError(f"there is no unfinished sweep in {where}.{these}")
    if len(unfinished) > 1:
        raise ConfigError(f"several sweeps in {where} are unfinished: say --study with one of {', '.join(unfinished)}.")
    return unfinished[0]


def _close(storage: BaseStorage) -> None:
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def _scores(trials: list[FrozenTrial]) -> dict[int, float | None]:
    """Of those that have ended; None for one that failed."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    return {trial.number: trial.value if trial.state == TrialState.COMPLETE else None for trial in ended}


def _seeds(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    found = {int(key[5:]): value for key, value in trial.user_attrs.items() if key.startswith("seed:")}
    return dict(sorted(found.items()))


@functools.cache
def _machine() -> str:
    """What tells this machine, since it was started, from all others."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{platform.node()}-{uuid.getnode()}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's news, and its warnings of what is experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
