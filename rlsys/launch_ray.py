"""Runs as Ray tasks: on a cluster, or side by side on this machine's cores.

A task is `rlsys train` in a process of its own: what goes to a node is strings, what comes back an exit code and a few
lines. Every node needs rlsys, and must see the folder that the command was typed in.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rlsys.config import ConfigError
from rlsys.folder import last_lines
from rlsys.provenance import usable_cores
from rlsys.signals import stop_signals

GRACE_SECONDS = 60.0  # for a run to save itself, once asked to stop
NOT_BEGUN = 75  # exit code, as of a run that was stopped
STOP = "stop"  # a file beside the logs asks for it: ray.cancel does not reach a task that has just begun


class Stopped(Exception):
    """A signal asked for the end; the runs have been asked to save themselves, too."""


def train_all(jobs: dict[int, list[str]], folder: Path, address: str, **takes: float) -> list[int]:
    """Train a run for each of `jobs`, number -> arguments of `rlsys train`; returns their exit codes.

    folder: for what each says, <number>.log. takes: num_cpus and num_gpus of each. How a run ended is printed as it ends.
    ConfigError if there is no cluster at `address`, or (`local`) this machine has less than a run takes; Stopped by a signal,
    once all runs have saved themselves.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray tells its makers about its use
    import ray

    try:
        task = connect(ray, address, takes)
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        ours = {key: text for key, text in os.environ.items() if key.startswith("RLSYS_") or key == "PYTHONPATH"}
        logs = {number: folder / f"{number}.log" for number in jobs}
        with stop_signals() as stop:
            left = {task.remote(argv, os.getcwd(), str(logs[n]), ours): n for n, argv in jobs.items()}
            codes = []
            while left and not stop.requested:
                for done in ray.wait(list(left), timeout=0.5)[0]:
                    number = left.pop(done)
                    codes.append(tell(ray, done, f"{number}: {shlex.join(jobs[number])}", logs[number]))
            if stop.requested:
                (folder / STOP).touch()
                ray.wait(list(left), num_returns=len(left), timeout=2 * GRACE_SECONDS)
                raise Stopped(
                    f"{stop.requested}: {len(left)} runs were stopped; what they said, and how to go on: {folder}"
                )
        return codes
    finally:
        ray.shutdown()


def connect(ray: Any, address: str, takes: dict[str, float]) -> Any:
    """Join the cluster, or begin one of this machine's cores; returns `train_one` as a task that takes so much of it."""
    is_local = address == "local"
    own: dict[str, Any] = {"num_cpus": usable_cores(), "include_dashboard": False, "log_to_driver": False}
    try:
        knock(address)
        ray.init(address, logging_level="error", **(own if is_local else {}))
        task = ray.remote(train_one).options(**takes, max_retries=0)
    except OSError as error:
        text = f"hydra.launcher.address={address}: {' '.join(str(error).split())}"
        raise ConfigError(f"{text} (this machine's cores: hydra/launcher=ray_local)") from None
    except ValueError as error:
        raise ConfigError(f"hydra.launcher: {error}: address={address}, {takes}") from None
    if is_local:  # elsewhere, a node may yet come
        for key, word in {"num_cpus": "CPU", "num_gpus": "GPU"}.items():
            if takes[key] > (most := ray.cluster_resources().get(word, 0)):
                raise ConfigError(f"hydra.launcher.{key}={takes[key]:g} for each run: this machine has {most:g}.")
    return task


def knock(address: str) -> None:
    """OSError if nobody listens at host:port, where Ray would knock for ever."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def tell(ray: Any, done: Any, name: str, log: Path) -> int:
    """Print how a run ended; returns its exit code, 1 if its node or worker is gone."""
    try:
        code, said = ray.get(done)
    except ray.exceptions.RayError as error:
        code, said = 1, str(error)
    if code:
        print(f"rlsys: {name}: ended with exit code {code}; {log}:\n{said}", file=sys.stderr, flush=True)
    else:
        print(f"{name}: finished", flush=True)
    return code


def train_one(argv: list[str], where: str, log: str, environment: dict[str, str]) -> tuple[int, str]:
    """The task: a run in a process. Returns its exit code, and the last lines of what it said into `log`."""
    stop = Path(log).with_name(STOP)
    if stop.exists():
        return NOT_BEGUN, ""
    with open(log, "a") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlsys", "train", "--quiet", *argv],
            cwd=where,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the grid
        )
    while process.poll() is None and not stop.exists():
        time.sleep(0.2)
    process.terminate()  # does nothing to one that has ended
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return process.returncode, "\n".join(last_lines(Path(log)))
