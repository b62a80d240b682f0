"""Choosing by measuring: which num_envs, threads, engine and device train fastest on this machine?

Each candidate is a run's own env and agent, iterated for a moment. Threads, engine and device change nothing about what is
learned; num_envs does, and how is reported with its speed.
"""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rlsys import agents
from rlsys.config import Config, ConfigError, resolve, to_data
from rlsys.provenance import usable_cores
from rlsys.run import set_threads, training_agent, training_env
from rlsys.torchenv import wait

ENVS = (0.0625, 0.25, 1.0, 4.0, 16.0)  # times the configured num_envs
LEAST_SECONDS = 0.3  # of measuring a candidate
WARM_UP = 50  # iterations, at most, until the first gradient step


@dataclass(frozen=True)
class Probe:
    """What one candidate does on this machine."""

    num_envs: int
    threads: int
    engine: str
    device: str
    steps_per_second: float
    steps_an_update: float  # environment steps to a gradient step
    steps_an_iteration: int  # environment steps that PPO and PQN take by one policy and learn from together
    first_seconds: float  # until it was measured: mostly compiling, which the kernel cache keeps

    def overrides(self) -> list[str]:
        """How to ask `rlsys train` for it."""
        return [f"{name}={getattr(self, name)}" for name in ("num_envs", "threads", "engine", "device")]


def probe(cfg: Config, seconds: float) -> Probe:
    """Train as `cfg` says for some seconds, nothing kept."""
    set_threads(cfg)
    began = time.perf_counter()
    env = training_env(cfg, cfg.device)
    try:
        agent = training_agent(cfg, env)
        warm_up(agent, cfg.device)
        first = time.perf_counter() - began
        steps, updates = agent.steps, getattr(agent, "updates", 0)
        began, iterations = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            agent.iterate(0.5)
            wait(cfg.device)
            iterations += 1
        rate = (agent.steps - steps) / (time.perf_counter() - began)
        learned = getattr(agent, "updates", 0) - updates
        return Probe(
            cfg.num_envs,
            cfg.threads or 1,
            cfg.engine,
            cfg.device,
            rate,
            (agent.steps - steps) / learned if learned else float("nan"),
            (agent.steps - steps) // iterations,
            first,
        )
    finally:
        env.close()


def warm_up(agent: agents.Agent, device: str) -> list[tuple[int, float]]:
    """Iterate until it learns: from then on all is compiled, and an iteration takes what most of a run's take.

    Returns the steps and seconds of each iteration that only collected; in the first one kernels are loaded.
    """
    collecting = []
    for _ in range(WARM_UP):
        began, steps = time.perf_counter(), agent.steps
        learns = is_learning(agent.iterate(0.0))
        wait(device)
        if learns:
            break
        collecting.append((agent.steps - steps, time.perf_counter() - began))
    return collecting


def is_learning(metrics: dict[str, Any]) -> bool:
    """Whether an iteration has taken gradient steps: DQN's first ones only collect."""
    return any(name.startswith("train/") and "loss" in name for name in metrics)


def tune(cfg: Config, seconds: float = 20.0) -> Iterator[Probe]:
    """Probe engines, threads and devices at the configured num_envs, then other num_envs with the fastest of them.

    Compilation is not counted in `seconds`. Candidates that cannot be are left out.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if cfg.device != "auto":
        devices = [cfg.device]
    offered = [engine for engine in agents.ENGINES[cfg.agent.name] if engine != "auto"]
    engines = offered if cfg.engine == "auto" else [cfg.engine]
    cores = usable_cores()
    threads = [cfg.threads] if cfg.threads else sorted({1, 2, cores} & set(range(1, cores + 1)))
    ways: list[dict[str, Any]] = [
        {"engine": engine, "threads": k, "device": device}
        for device in devices
        for engine in engines
        for k in (threads if device == "cpu" else [1])
        if engine != {"cpu": "graph", "cuda": "native"}[device]
    ]
    share = max(LEAST_SECONDS, seconds / (len(ways) + len(ENVS) - 1))

    found: list[Probe] = []
    reason = ""
    for way in ways:
        if way["engine"] == "compile" and any(p.engine == "native" for p in found):
            continue  # it takes a minute to compile, and is slower
        try:
            found.append(probe(dataclasses.replace(cfg, **way), share))
        except ConfigError:
            raise
        except ValueError as error:  # engine=native cannot be
            reason = str(error)
            continue
        yield found[-1]
    if not found:
        raise ConfigError(reason)
    best = max(found, key=lambda p: p.steps_per_second)
    for factor in ENVS:
        num_envs = round(cfg.num_envs * factor)
        if num_envs < 1 or num_envs == cfg.num_envs:
            continue
        fastest = {"engine": best.engine, "threads": best.threads, "device": best.device}
        try:
            other = resolve({**to_data(cfg), **fastest, "num_envs": num_envs})
        except ConfigError:  # a minibatch larger than the rollout, a buffer too small
            continue
        yield probe(other, share)
