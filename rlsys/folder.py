"""A run's folder: what is in it, how to find one, and the little files that describe it.

runs/<env>/<agent>/<yyyymmdd-hhmmss>-s<seed>-<4 hex>/
    config.yaml        the resolved configuration        metrics.jsonl          one object a log point
    command.txt        the command lines, one a process  events.out.tfevents.*  the same for TensorBoard
    provenance.json    versions, commit, machine         summary.json           the outcome, once there is one
    git.diff           what the commit lacks, if any     checkpoints/           step_*, last, best
    lock               held while it is being trained    replays/               GIF and MP4
"""

import contextlib
import fcntl
import glob
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsys import config, provenance
from rlsys.config import Config, ConfigError, SimConfig
from rlsys.cost import Cost, disk_bytes, load_prices

if TYPE_CHECKING:
    from rlsys.policy import Policy

LINES = 8  # of what a process that failed said last
SECOND = len("20261231-235959")  # what the name of a run's folder begins with


class RunLocked(RuntimeError):
    """Another process is training in this folder."""


@dataclass(frozen=True)
class Run:
    """A run's folder."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def name(self) -> str:
        """<env>/<agent>/<folder>."""
        return "/".join(self.folder.resolve().parts[-3:])

    def config(self) -> Config:
        return config.load(self.folder / "config.yaml")

    def settings(self) -> dict[str, Any]:
        """config.yaml, flat and unchecked, fast enough for hundreds of runs; empty if it cannot be read."""
        import yaml

        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            found = yaml.load((self.folder / "config.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            return config.flat(found) if isinstance(found, dict) else {}
        return {}

    def summary(self) -> dict[str, Any] | None:
        """The outcome, or None while there is none that can be read."""
        found = read_json(self.folder / "summary.json")
        return found if isinstance(found, dict) else None

    def cost(self, points: list[dict[str, Any]] | None = None) -> Cost | None:
        """What the run has cost, finished or not; None if it does not say. points: of its metrics, if they have been read.

        Of a run that has not finished it is what it logged last.
        """
        from rlsys.log import read_metrics

        gpu = (read_json(self.folder / "provenance.json") or [{}])[-1].get("gpu")
        points = read_metrics(self.folder) if points is None else points
        last: dict[str, Any] = next((point for point in reversed(points) if "cost/seconds" in point), {})
        said = [Cost.from_summary(data, gpu) for data in (self.summary() or {}, last)]
        found = max((cost for cost in said if cost), key=lambda cost: cost.seconds, default=None)
        return found and replace(found, disk_bytes=disk_bytes(self.folder))

    def policy(self, which: str = "best", device: str = "cpu") -> "Policy":
        """The trained policy. which: "best" on the validation split, "last", or "step_000000123456"."""
        from rlsys import checkpoint  # here, so that listing runs does not wait for torch
        from rlsys.policy import build_policy

        return build_policy(checkpoint.load(checkpoint.resolve(self.folder, which))["policy"], device)

    def status(self) -> str:
        """ "running", "finished", or "stopped" (it can be resumed)."""
        if self.is_locked():
            return "running"
        summary, cfg = self.summary() or {}, self.config()
        steps = summary.get("steps")
        if not isinstance(steps, int):
            return "stopped"
        is_solved = cfg.stop_when_solved and summary.get("seconds_to_solve") is not None
        return "finished" if steps >= cfg.end or is_solved else "stopped"  # more steps may have been asked for

    def is_locked(self) -> bool:
        return is_held(self.folder / "lock")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainers out of the folder; the operating system releases the lock of a process that dies."""
        with open(self.folder / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunLocked(f"{self.folder} is being trained by another process.") from None
            yield


def is_held(lock: Path) -> bool:
    """Whether a living process holds a lock file."""
    try:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


# -- finding runs --------------------------------------------------------------------------------------------------------


def find(pattern: str, root: str = "runs") -> list[Run]:
    """The runs that `pattern` names, oldest first: a folder, a glob, a folder of runs, or "latest"."""
    if pattern == "latest":
        return find(root, root)[-1:]
    paths = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
    found = {file.parent for path in paths for file in Path(path).rglob("command.txt")}
    return [Run(path) for path in sorted(found, key=_age)]


def _age(folder: Path) -> tuple[str, float, str]:
    """What runs are sorted by: the second in their name, and when they were begun or resumed in it."""
    began = 0.0
    with contextlib.suppress(OSError):
        began = (folder / "command.txt").stat().st_mtime
    return folder.name[:SECOND], began, str(folder)


def find_one(pattern: str, root: str = "runs") -> Run:
    """The newest run that `pattern` names; FileNotFoundError if there is none."""
    found = find(pattern, root)
    if not found:
        raise FileNotFoundError(
            f"no run at {pattern!r}. `rlsys runs` lists what there is; RUN is a folder, a glob or `latest`."
        )
    return found[-1]


def names(cfg: Config) -> tuple[str, str]:
    """What a run's env and agent are called in its folder's path."""
    env = cfg.env.name if isinstance(cfg.env, SimConfig) else cfg.env.id.rpartition(":")[2].replace("/", "-")
    return env, f"sb3-{cfg.agent.algo.lower()}" if cfg.agent.name == "sb3" else cfg.agent.name


def hyperparameters(settings: dict[str, Any]) -> dict[str, Any]:
    """Of flat settings those by which runs are compared: agent.*, env.*, num_envs and seed."""
    return {k: v for k, v in settings.items() if k.startswith(("agent.", "env.")) or k in ("num_envs", "seed")}


def label(cfg: Config) -> str:
    """What a run is called on the console and below its replays."""
    return " ".join(names(cfg))


def new_folder(cfg: Config) -> Path:
    """A folder that no other run has, however many start in the same second."""
    parent = Path(cfg.run_dir).joinpath(*names(cfg))
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-s{cfg.seed}-{secrets.token_hex(2)}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def find_launched(cfg: Config, launchers: list[str]) -> Run | None:
    """The newest run like `cfg` that one of these launchers (`distributed.launcher`) has started."""
    for run in reversed(find(str(Path(cfg.run_dir).joinpath(*names(cfg))))):
        processes = read_json(run.folder / "provenance.json") or []
        if any(set(process.get("launchers", [])) & set(launchers) for process in processes):
            return run
    return None


# -- what the folder says about the run ----------------------------------------------------------------------------------


def describe(run: Run, cfg: Config, command: str, facts: dict[str, Any]) -> None:
    """Write config.yaml, and add this process to command.txt (a line) and provenance.json (an entry of its list)."""
    write_whole(run.folder / "config.yaml", config.to_yaml(cfg).rstrip())
    with open(run.folder / "command.txt", "a") as file:
        file.write(f"{command}\n")
    path = run.folder / "provenance.json"
    processes = read_json(path) or []
    write_whole(path, json.dumps([*processes, {**provenance.provenance(), **facts}], indent=2))
    if diff := provenance.git_diff():
        (run.folder / "git.diff").write_text(diff)


def read_json(path: Path) -> Any:
    """What a JSON file holds, None if it is missing or damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(path.read_text())
    return None


def last_lines(path: Path) -> list[str]:
    """The last that a process has said into a file; nothing, if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip().splitlines()[-LINES:]
    return []


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


def card(run: Run) -> str:
    """The run's description for TensorBoard, as Markdown."""
    texts = [(name, (run.folder / name).read_text()) for name in ("command.txt", "config.yaml", "provenance.json")]
    return "\n\n".join(f"**{name}**\n\n```\n{text}\n```" for name, text in texts)


def overview(run: Run) -> dict[str, Any]:
    """One row of `rlsys runs`."""
    from rlsys.log import read_metrics

    try:
        cfg, status = run.config(), run.status()
    except (ConfigError, OSError):
        row = dict.fromkeys(("env", "agent", "seed", "status", "steps", "score", "solved", "steps_per_second", "cost"))
        return {**row, "run": str(run.folder), "status": "damaged"}
    summary = (run.summary() or {}) if status == "finished" else {}
    points = read_metrics(run.folder)
    last = points[-1] if points else {}
    evaluations = [point["eval/mean_reward"] for point in points if "eval/mean_reward" in point]
    speeds = [point["time/fps"] for point in points if "time/fps" in point]
    cost = run.cost(points)
    return {
        "run": str(run.folder),
        **dict(zip(("env", "agent"), names(cfg), strict=True)),
        "seed": cfg.seed,
        "status": status,
        "steps": summary.get("steps", last.get("step", 0)),
        "score": summary.get("score", evaluations[-1] if evaluations else None),
        "solved": summary.get("solved"),
        "steps_per_second": summary.get("steps_per_second", speeds[-1] if speeds else None),
        "cost": cost and cost.to_summary(load_prices()),
    }
