"""Runs as processes, and the room that this machine has for them."""

import contextlib
import fcntl
import os
import platform
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from rlsys.config import ConfigError, SweepConfig
from rlsys.cost import Cost
from rlsys.folder import Run, find, is_held, last_lines
from rlsys.log import Follower
from rlsys.provenance import usable_cores
from rlsys.sweep.spec import OBJECTIVES

GRACE_SECONDS = 60.0  # for a run to save itself, once asked to stop


@dataclass(frozen=True)
class Slot:
    """Room for one run.

    locks: a file for its place on each of its GPUs. The process that trains there holds them, however its sweep ends, so that
    nobody else who works on the sweep gives the place away.
    """

    threads: int
    gpus: tuple[str, ...]
    locks: tuple[Path, ...] = ()

    def environment(self) -> dict[str, str]:
        mine = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus), "OMP_NUM_THREADS": str(self.threads)}
        return {**os.environ, **mine}

    def is_taken(self) -> bool:
        """Whether a run is on one of its places, of whichever process."""
        return any(map(is_held, self.locks))


def place_of(folder: Path, slots: list[Slot]) -> Slot | None:
    """If another process's run holds a job's folder: the slot that it is in, or, not being in any of these, the last."""
    if not is_held(folder / "lock"):
        return None
    who = (folder / "lock").read_text()
    mine = (slot for slot in slots if slot.is_taken() and any(lock.read_text() == who for lock in slot.locks))
    return next(mine, slots[-1])


def room(sweep: SweepConfig, folder: Path) -> list[Slot]:
    """The slots of this machine for the sweep in `folder`; ConfigError if it has too few GPUs."""
    slots = make_slots(sweep, usable_cores(), visible_gpus() if sweep.gpus_per_worker else [])
    count: Counter[tuple[str, ...]] = Counter()
    placed = []
    for slot in slots:
        names = [f"{platform.node()}-{gpu.replace('/', '_')}-{count[slot.gpus]}.lock" for gpu in slot.gpus]
        placed.append(replace(slot, locks=tuple(folder / "gpus" / name for name in names)))
        count[slot.gpus] += 1
    return placed


def make_slots(sweep: SweepConfig, cores: int, gpus: list[str]) -> list[Slot]:
    """Cores and GPUs, shared out."""
    each, workers = sweep.gpus_per_worker, sweep.workers or cores
    sets: list[tuple[str, ...]] = []
    if each:
        whole = [tuple(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
        sets = whole * sweep.jobs_per_gpu  # the second run on a GPU comes after the first one on each
        workers = sweep.workers or len(sets)
        if workers > len(sets) or not sets:
            raise ConfigError(
                f"sweep.workers={workers} with sweep.gpus_per_worker={each} and sweep.jobs_per_gpu={sweep.jobs_per_gpu}: "
                f"this machine's {len(gpus)} GPUs are enough for {len(sets)}."
            )
    threads = max(1, cores // workers)
    return [Slot(threads, sets[i] if sets else ()) for i in range(workers)]


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, up to a -1 as CUDA reads it, or all of the machine's; each once."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        words = [word.strip() for word in named.split(",")]
        valid = takewhile(lambda word: word and not word.startswith("-"), words)
        return list(dict.fromkeys(valid))
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


# -- one run -------------------------------------------------------------------------------------------------------------


class Job:
    """One seed of a trial: a run, trained by a process of its own.

    The process inherits the lock that tells that it lives, so that nobody trains beside it even if this process dies.
    If another one holds it, of a process that has died, then this is its job: it is waited for.
    """

    def __init__(self, number: int, seed: int, folder: Path, slot: Slot):
        self.number, self.seed, self.folder, self.slot = number, seed, folder, slot
        self.process: subprocess.Popen | None = None
        self._follower: Follower | None = None
        self._asked: float | None = None

    def run(self) -> Run | None:
        """The run, once it has a folder."""
        found = find(str(self.folder))
        return found[-1] if found else None

    def start(self, command: list[str], overrides: list[str], memory: float | None) -> None:
        """Train, unless another process trains this run already, or is in the slot."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            locks = []
            for path in (self.folder / "lock", *self.slot.locks):
                path.parent.mkdir(exist_ok=True)
                locks.append(opened.enter_context(open(path, "a+")))
                try:
                    fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
            run = self.run()
            if run and run.summary():
                return
            if run and (run.folder / "config.yaml").exists():
                overrides = [f"resume={run.folder}", *(text for text in overrides if text.startswith("threads="))]
            else:
                overrides = [*overrides, f"run_dir={_quoted(str(self.folder))}"]
            command = [*command, *overrides]
            if memory:
                command = ["sh", "-c", 'ulimit -d "$0" && exec "$@"', str(int(memory * 2**20)), *command]  # KiB
            with open(self.folder / "said.txt", "w") as said:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=self.slot.environment(),
                    pass_fds=[lock.fileno() for lock in locks],
                    start_new_session=True,  # Ctrl-C is for the sweep
                )
            for lock in locks:
                lock.truncate(0)
                lock.write(f"{self.process.pid}\n")

    def has_ended(self) -> bool:
        if self._asked and time.monotonic() > self._asked + GRACE_SECONDS:
            self.stop(signal.SIGKILL)
        return not is_held(self.folder / "lock") if self.process is None else self.process.poll() is not None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ask the run to save itself and end; if it does not, it is killed later."""
        self._asked = self._asked or time.monotonic()
        with contextlib.suppress(ProcessLookupError, PermissionError, FileNotFoundError, ValueError):
            if self.process is not None:
                if self.process.poll() is None:
                    (os.killpg if how == signal.SIGKILL else os.kill)(self.process.pid, how)
            elif is_held(self.folder / "lock"):
                os.kill(int((self.folder / "lock").read_text()), how)

    def news(self) -> list[dict[str, Any]]:
        """What the run has logged since this was asked last."""
        if self._follower is None:
            run = self.run()
            if run is None:
                return []
            self._follower = Follower(run.folder)
        return self._follower()

    def result(self, objectives: list[str]) -> dict[str, Any] | None:
        """The outcome of the run; None if it has none yet."""
        run = self.run()
        summary = run.summary() if run else None
        if run is None or summary is None:
            return None
        found = {name: summary.get(tag) for name, (tag, _) in OBJECTIVES.items()}
        kept = {name: value for name, value in found.items() if name in objectives or value is not None}
        return {**kept, "test": summary.get("score"), "run": str(run.folder)}

    def cost(self) -> Cost | None:
        """What the run has cost until now, if it says so."""
        run = self.run()
        return run.cost() if run else None

    def complaint(self) -> str:
        """Why there is no outcome: how the process ended, and the last that it said."""
        code = self.process.returncode if self.process else None
        ended = "its process was lost" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            ended = f"killed by {signal.Signals(-code).name}"
        return "\n".join([f"seed {self.seed}: {ended}", *last_lines(self.folder / "said.txt")])


def _quoted(text: str) -> str:
    """A value that Hydra takes as it is."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
