"""Runs side by side in TensorBoard, under names that say what differs between them.

What TensorBoard is shown is a temporary folder of links to the runs' event files, kept up to date while it is open: runs that
begin meanwhile appear, and a resumed one goes on. Besides the links there is one file, which says which columns the table of
hyperparameters has; it knows the runs that were there when the board was opened.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from rlsys.events import PATTERN, hparam_values, serve, write_experiment
from rlsys.folder import Run, find, find_one, hyperparameters

COLUMNS = {"test/mean_reward": "score", "eval/mean_reward": "eval/mean_reward"}
REFRESH_SECONDS = 5.0
SHOWN_DIFFERENCES = 3  # in a run's name
SHOWN_CHARACTERS = 24  # of a value


class Board:
    """The runs that `patterns` (as in `folder.find`) name now and later. FileNotFoundError for one that names none now."""

    def __init__(self, patterns: list[str]):
        for pattern in patterns:
            find_one(pattern)
        self.patterns = patterns
        self.names: dict[Run, str] = {}  # below `folder`, as TensorBoard shows them
        self._settings: dict[Run, dict[str, Any]] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="rlsys-board-"))
        self.refresh()
        if known := [hyperparameters(settings) for settings in self._settings.values() if settings]:
            write_experiment(self.folder / next(iter(self.names.values())) / f"{PATTERN[:-1]}0.board", known, COLUMNS)

    def refresh(self) -> None:
        """Take in new runs, and event files that came or went."""
        found = {run: None for pattern in self.patterns for run in find(pattern)}
        new = [run for run in found if run not in self.names]
        self._settings |= {run: run.settings() for run in new}
        for run in new:
            name = self._name(run)
            self.names[run] = name if name not in self.names.values() else f"{name} {run.folder.name}"
        for run, name in self.names.items():
            self._link(run, self.folder / name)

    def _name(self, run: Run) -> str:
        """<env>/<agent>/<what differs from others of that env and agent>, seed, and the end of the folder's name."""
        settings = self._settings[run]
        if not settings:
            return run.name
        kind = run.name.rpartition("/")[0]
        group = [others for other, others in self._settings.items() if others and other.name.rpartition("/")[0] == kind]
        mine = hyperparameters(settings)
        differing = [key for key in mine if key != "seed" and any(o.get(key) != mine[key] for o in group)]
        values = hparam_values({key: mine[key] for key in differing[:SHOWN_DIFFERENCES]})
        shown = [f"{key.rpartition('.')[2]}={str(value)[:SHOWN_CHARACTERS]}" for key, value in values.items()]
        shown += ["..."] if len(differing) > SHOWN_DIFFERENCES else []
        what = ", ".join([*shown, f"seed={settings.get('seed')}"])
        return f"{kind}/{what} {run.folder.name.rpartition('-')[2]}".replace("//", "/")

    def _link(self, run: Run, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in run.folder.glob(PATTERN)}
        for link in folder.iterdir():
            if link.is_symlink() and link.name not in there:
                link.unlink()
        for name in there:
            with contextlib.suppress(FileExistsError):
                (folder / name).symlink_to((run.folder / name).resolve())

    def serve(self, host: str, port: int | None) -> str:
        """Start TensorBoard; returns its address. port: None is the first free one from 6006 on.

        OSError says which port is taken and by what.
        """
        if port:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    who = holder(port)
                    taken = f"is taken by {who}" if who else f"cannot be had: {error.strerror or error}"
                    raise OSError(f"port {port} of {host} {taken}. Without --port a free one is taken.") from None
        return serve(self.folder, host, port)

    def watch(self) -> None:
        """Keep the board up to date, for ever."""
        while True:
            began = time.monotonic()
            with contextlib.suppress(OSError):  # a run deleted while it was looked at
                self.refresh()
            time.sleep(max(REFRESH_SECONDS, 20 * (time.monotonic() - began)))

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def holder(port: int) -> str | None:
    """The process that listens at `port`, such as "process 123 (python -m http.server)"; None where that cannot be told."""
    with contextlib.suppress(OSError):
        rows = [
            row.split() for table in ("tcp", "tcp6") for row in Path("/proc/net", table).read_text().splitlines()[1:]
        ]
        listening = {
            f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
        }
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if any(os.readlink(file) in listening for file in (process / "fd").iterdir()):
                    command = (process / "cmdline").read_text().replace("\0", " ").strip()
                    return f"process {process.name} ({command[:80]})"
    return None
