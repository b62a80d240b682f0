"""What will a run, or a sweep, take? A probe of some seconds, and arithmetic.

The probe is a process like a run's own: the same env, agent and loop, in a folder that is thrown away. It measures what
scales differently by itself: starting, a step of training (before and after it begins to learn), a point of the log, an
evaluation, a checkpoint, the test, a replay. If kernels had yet to be compiled it is made once more, with what is then in the
cache. `predict` says how often each comes in the whole run.

What a probe cannot know: how long the episodes of a policy will be that has learned more (it takes those of the policy at
its end), how often an evaluation is the best so far and is saved (it takes half of them, and the best to be among the newest
checkpoints), when a run is solved (`stop_when_solved`: it may end earlier), what a pruner stops.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rlsys import config as configs
from rlsys.config import Config, ConfigError
from rlsys.cost import Cost, Meter, Prices, disk_bytes, load_prices, total
from rlsys.folder import Run, describe, label, last_lines, new_folder

SECONDS = 10.0  # of a probe, about: starting and compiling come before
SHARES = {"train": 0.55, "evaluate": 0.15, "test": 0.15}  # of them, at most; replays are bounded by their frames
COLLECTED = 4096  # steps before it learns: more are not waited for
FRAMES = (5, 105)  # of the replays that are drawn to be measured
BEST = 0.5  # of the evaluations, which are the best so far
POINTS = 300  # of the log, while the time so far grows by a factor of e (log.Pace)
POLL_SECONDS = 0.05
PHASES = ("start", "train", "end")


@dataclass(frozen=True)
class Probe:
    """What was measured of one configuration. Seconds are the wall's; each is of one of a kind."""

    start: float  # from the process's start: imports, env, agent, kernels from the cache
    step: float  # an environment step of training, once it learns
    collect: float  # before that
    collected: int  # steps of that kind
    iteration: int  # environment steps of one
    log: float  # a point of metrics.jsonl and TensorBoard's
    log_bytes: float
    evaluate: float
    save: float
    save_bytes: float
    save_growth: float  # bytes by which a checkpoint grows with a step,
    save_steps: int  # from this step on,
    save_full: int  # until this one
    test: float  # with that on training levels, where there are levels
    replay: float
    replay_bytes: float
    histograms: float
    other_bytes: float  # of the folder: config, provenance
    costs: dict[str, Cost] = field(default_factory=dict)  # of this process, by PHASES
    is_cold: bool = False  # kernels were compiled: nothing else was measured with care

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Probe":
        return cls(**{**data, "costs": {phase: Cost(**cost) for phase, cost in data["costs"].items()}})


@dataclass(frozen=True)
class Part:
    """What a run's time goes to. phase: whose core-seconds and joules a second it has."""

    name: str
    times: float
    each: float  # seconds
    phase: str

    @property
    def seconds(self) -> float:
        return self.times * self.each


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    parts: list[Part]
    cost: Cost


# -- arithmetic ----------------------------------------------------------------------------------------------------------


def iterations_due(every: int, iteration: int, steps: int) -> set[int]:
    """The iterations, from 1, after which something is due `every` so many steps, as in run.Due: the last one always."""
    last = -(-steps // iteration)
    if every <= 0:
        return {last}
    if every <= iteration:
        return set(range(1, last + 1))
    return {*(-(-k * every // iteration) for k in range(1, last * iteration // every + 1)), last}


def points_due(every: int, iteration: int, steps: int, seconds: float) -> int:
    """How many points the log of a run of so many `seconds` has: at each iteration, until a 300th of the time is longer."""
    if every:
        return len(iterations_due(every, iteration, steps))
    iterations = -(-steps // iteration)
    dense = POINTS * seconds / iterations  # seconds until then
    if dense >= seconds:
        return iterations
    return min(iterations, round(POINTS * (1 + math.log(seconds / dense))))


def predict(cfg: Config, probe: Probe) -> Estimate:
    """What the run of `cfg` will take."""
    last = -(-cfg.end // probe.iteration) * probe.iteration
    collected = min(probe.collected, last)
    evaluations = iterations_due(cfg.eval_every, probe.iteration, cfg.end)
    best = set(sorted(evaluations)[:: round(1 / BEST)])
    saves = iterations_due(cfg.save_every, probe.iteration, cfg.end) | best

    def checkpoint(step: int) -> float:
        """Bytes of one at a step."""
        grown = min(step, probe.save_full) - min(probe.save_steps, probe.save_full)
        return max(probe.save_bytes + probe.save_growth * grown, 0.0)

    sizes = [checkpoint(i * probe.iteration) for i in sorted(saves)]
    times = [probe.save * max(1.0, size / probe.save_bytes) if probe.save_bytes else probe.save for size in sizes]
    training = collected * probe.collect + (last - collected) * probe.step
    points = points_due(cfg.log_every, probe.iteration, cfg.end, training) + len(evaluations)
    shows = len(iterations_due(cfg.replay_every, probe.iteration, cfg.end)) if cfg.replay_every else 0
    histograms = cfg.histograms_every and len(iterations_due(cfg.histograms_every, probe.iteration, cfg.end))
    parts = [
        Part("start", 1, probe.start, "start"),
        *([Part("steps before it learns", collected, probe.collect, "train")] if collected else []),
        Part("training steps", last - collected, probe.step, "train"),
        Part("points of the log", points, probe.log, "train"),
        Part("evaluations", len(evaluations), probe.evaluate, "train"),
        Part("checkpoints", len(saves), sum(times) / len(times), "train"),
        *([Part("replays in between", shows, probe.replay, "train")] if shows else []),
        *([Part("histograms", histograms, probe.histograms, "train")] if histograms else []),
        Part("test", 1, probe.test, "end"),
        *([Part("replay", 1, probe.replay, "end")] if cfg.replay else []),
    ]
    disk = sum(sizes[-cfg.keep_checkpoints :]) + points * probe.log_bytes + probe.other_bytes
    disk += (shows + cfg.replay) * probe.replay_bytes
    found = total(charged(part, probe) for part in parts)
    return Estimate(parts, replace(found, disk_bytes=disk))


def charged(part: Part, probe: Probe) -> Cost:
    """What a part costs: as much a second as its phase did in the probe."""
    cost = probe.costs[part.phase]
    return cost * (part.seconds / cost.seconds) if cost.seconds else Cost(part.seconds)


def mean(estimates: list[Estimate]) -> Estimate:
    """What one of several runs takes on average. Parts that only some have count as never in the others."""
    names = list(dict.fromkeys(part.name for estimate in estimates for part in estimate.parts))
    parts = []
    for name in names:
        some = [part for estimate in estimates for part in estimate.parts if part.name == name]
        times, seconds = sum(part.times for part in some), sum(part.seconds for part in some)
        each = seconds / times if times else some[0].each
        parts.append(Part(name, times / len(estimates), each, some[0].phase))
    return Estimate(parts, total(estimate.cost for estimate in estimates) * (1 / len(estimates)))


def together(estimate: Estimate, runs: int, workers: int) -> Cost:
    """What `runs` such runs cost, `workers` of them at a time: seconds are from the first's start to the last's end."""
    rounds = -(-runs // workers)
    return replace(estimate.cost * runs, seconds=estimate.cost.seconds * rounds)


# -- the probe, in a process of its own ------------------------------------------------------------------------------------


class Deadline:
    """Asks a loop to stop when its time is over, as signals.Stop does when there is a signal."""

    def __init__(self, seconds: float):
        self._at = time.perf_counter() + seconds

    @property
    def requested(self) -> str:
        return "its time is over" if time.perf_counter() >= self._at else ""


def measure(cfg: Config, folder: Path, seconds: float, meter: Meter, prices: Prices | None) -> Probe:
    """Train as `cfg` says for some seconds in `folder`, and measure all that a run does. meter: of this whole process."""
    from rlsys import checkpoint, run
    from rlsys.log import Log, Progress
    from rlsys.torchenv import Stopwatch, has_levels, wait
    from rlsys.tune import warm_up

    kernels, asked, cfg = compiled(), cfg, hastened(cfg)
    device, _ = run.choose_device(cfg)
    if device == "cuda":
        run.hold_gpu(meter, prices, quiet=True)
    run.set_threads(cfg)
    env = run.training_env(cfg, device)
    with contextlib.closing(env):
        agent = run.training_agent(cfg, env)
        here = Run(new_folder(replace(cfg, run_dir=str(folder))))
        describe(here, cfg, "", {})
        other_bytes = disk_bytes(here.folder)
        collecting = warm_up(agent, device)
        started, first_steps = meter.read(), agent.steps
        if is_cold := compiled() != kernels:
            seconds = 0.0
        book = run.Book()
        book.meter, book.prices = meter, prices

        def save() -> float:
            """Save a checkpoint, if there is none of this step; its bytes."""
            path = checkpoint.save(here.checkpoints, agent.steps, {**agent.state(), "book": book.state()})
            return disk_bytes(path)

        first_bytes = save()
        trained = meter.read()
        plain: dict[str, Any] = dict.fromkeys(("eval_every", "save_every", "replay_every", "histograms_every"), 0)
        plain["stop_when_solved"] = False
        with Log(here.folder) as log, Progress(cfg.end, label="", quiet=True) as progress:
            book.begin(agent.steps)
            with contextlib.suppress(run.Preempted):
                stop: Any = Deadline(max(0.1, seconds * SHARES["train"]))
                run.loop(here, replace(cfg, **plain), agent, book, log, progress, stop, cfg.end)
            wait(device)
            train_seconds = book.elapsed - book.logging.seconds - book.saving.seconds - book.evaluating.seconds
            steps = agent.steps - first_steps
            log.flush()
            log_bytes = disk_bytes(here.folder) - disk_bytes(here.checkpoints) - other_bytes
            after = meter.read()
            histograms = Stopwatch()
            if cfg.histograms_every:
                with histograms:
                    run.show_histograms(log, agent)
        save_bytes = save()
        evaluation, once, length = steady(
            agent.policy, cfg, cfg.eval_episodes, "validation", seconds * SHARES["evaluate"]
        )
        test, test_once, _ = steady(agent.policy, cfg, cfg.test_episodes, "test", seconds * SHARES["test"])
        replay, replay_bytes = 0.0, 0.0
        if (cfg.replay or cfg.replay_every) and not is_cold:
            replay, replay_bytes = film(agent.policy, cfg, here.folder / "replays", max(1, round(length)))
        end = meter.read()

    step = train_seconds / max(1, steps)
    alone, alone_seconds = (sum(column) for column in zip((0, 0.0), *collecting[1:], strict=True))
    collect = alone_seconds / alone if alone else step
    collected = sum(count for count, _ in collecting)
    buffer = getattr(cfg.agent, "buffer_size", 0) or getattr(cfg.agent, "hyperparameters", {}).get("buffer_size", 10**6)
    return Probe(
        start=max(0.0, started.seconds - collected * collect - (first_steps - collected) * step) + once + test_once,
        step=step,
        collect=collect,
        collected=getattr(asked.agent, "learning_starts", collected),
        iteration=max(1, steps // max(1, book.iterations)),
        log=book.logging.seconds / max(1, book.logging.times),
        log_bytes=log_bytes / max(1, book.logging.times),
        evaluate=evaluation,
        save=book.saving.seconds / max(1, book.saving.times),
        save_bytes=save_bytes,
        save_growth=max(0.0, save_bytes - first_bytes) / max(1, steps),
        save_steps=agent.steps,
        save_full=buffer,
        test=test * (1 + has_levels(cfg.env)),
        replay=replay,
        replay_bytes=replay_bytes,
        histograms=histograms.seconds,
        other_bytes=other_bytes,
        costs={"start": started, "train": minus(after, trained), "end": minus(end, after)},
        is_cold=is_cold,
    )


def hastened(cfg: Config) -> Config:
    """The same, but that it soon begins to learn."""
    starts = getattr(cfg.agent, "learning_starts", 0)
    return replace(cfg, agent=replace(cfg.agent, learning_starts=COLLECTED)) if starts > COLLECTED else cfg


def minus(a: Cost, b: Cost) -> Cost:
    """What came after b until a."""
    return replace(a + b * -1.0, energy_source=a.energy_source)


def steady(policy: Any, cfg: Config, episodes: int, split: str, seconds: float) -> tuple[float, float, float]:
    """Seconds of an evaluation, what the first one took beyond that, and the mean length of its episodes.

    An evaluation that would take longer than `seconds` is reckoned from what has been played by then.
    """
    first, length = play(policy, cfg, episodes, split, seconds)
    again, length = play(policy, cfg, episodes, split, seconds) if first < seconds / 2 else (first, length)
    return again, max(0.0, first - again), length


def play(policy: Any, cfg: Config, episodes: int, split: str, seconds: float) -> tuple[float, float]:
    """Seconds that evaluate.held_out takes, and the mean length of its episodes; both reckoned, if they are not over soon."""
    from rlsys.evaluate import MAX_ENVS, played, policy_device
    from rlsys.torchenv import make_env

    began = time.perf_counter()
    n = min(episodes, MAX_ENVS)
    env = make_env(cfg.env, n, split=split, seed=0, device=str(policy_device(policy)))
    with contextlib.closing(env):
        opened, steps, over = time.perf_counter() - began, 0, 0
        game, report = played(policy, env, episodes), None
        while report is None and (time.perf_counter() - began < seconds or not steps):
            try:
                over, steps = next(game), steps + 1
            except StopIteration as end:
                report = end.value
        game.close()
        took = time.perf_counter() - began
        if report is not None:
            return took, float(report.lengths.mean())
        # as many steps again for the episodes that are not over; of those that none has seen the end, the longest there can be
        longest = getattr(env.env, "max_episode_steps", None) or getattr(cfg.env, "max_episode_steps", None) or 1000
        length = min(longest, steps * n / over) if over else longest
        needed = max(steps, length * -(-episodes // n))
        return opened + (took - opened) * needed / steps, float(length)


def film(policy: Any, cfg: Config, folder: Path, length: int) -> tuple[float, float]:
    """Seconds and bytes of a replay of so many steps, reckoned from two short ones; 0 of a world that cannot be drawn."""
    from rlsys.replay import record

    found, short, long = [], FRAMES[0], max(FRAMES[0] + 1, min(FRAMES[1], length))
    for steps in (short, long):
        began = time.perf_counter()
        try:
            paths = record(policy, cfg.env, folder, name="final", caption=label(cfg), max_steps=steps)
        except ValueError:
            return 0.0, 0.0
        found.append((time.perf_counter() - began, sum(path.stat().st_size for path in paths)))
    (first, first_bytes), (second, second_bytes) = found
    more = (min(length, 10**5) - short) / (long - short)  # of the difference
    return max(first, first + (second - first) * more), max(0.0, first_bytes + (second_bytes - first_bytes) * more)


def compiled() -> int:
    """How many kernels are in the cache."""
    from envs.engine.kernels import cache_folder

    return sum(1 for _ in cache_folder().rglob("*.nbc"))


# -- the probes, from outside ------------------------------------------------------------------------------------------


def probes(
    cfgs: list[Config],
    seconds: float = SECONDS,
    *,
    slots: list[dict[str, str]] | None = None,
    allowed: list[str] = [],
    started: float = 0.0,
) -> Iterator[Probe]:
    """Probe each configuration, as many side by side as there are slots (the environment of a process, each).

    allowed: modules that env.id may name. started: seconds that a command takes to compose its configuration.
    ConfigError says what a probe died of.
    """
    slots = slots or [dict(os.environ)]
    with tempfile.TemporaryDirectory(prefix="rlsys-estimate-") as folder:
        waiting = [(i, cfg, Path(folder) / str(i)) for i, cfg in enumerate(cfgs)]
        found: dict[int, Probe] = {}
        with contextlib.ExitStack() as stack:
            while waiting:
                some, waiting = waiting[: len(slots)], waiting[len(slots) :]
                cold = dict(zip((i for i, _, _ in some), slots, strict=False))
                for attempt in range(2):  # all at once, again, if one of them has compiled
                    running = []
                    for i, cfg, at in some:
                        process = _start(cfg, at / str(attempt), seconds, cold[i], allowed)
                        stack.callback(_end, process)
                        running.append((i, at / str(attempt), process))
                    found |= {i: _finish(at, process) for i, at, process in running}
                    if not any(found[i].is_cold for i, _, _ in some):
                        break
        for i in range(len(cfgs)):
            yield replace(found[i], start=found[i].start + started)


def _start(cfg: Config, at: Path, seconds: float, environment: dict[str, str], allowed: list[str]) -> subprocess.Popen:
    at.mkdir(parents=True)
    (at / "config.yaml").write_text(configs.to_yaml(cfg))
    command = [sys.executable, "-m", "rlsys.estimate", str(at), repr(seconds), *allowed]
    with open(at / "said.txt", "w") as said:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment)


def _finish(at: Path, process: subprocess.Popen) -> Probe:
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
    if process.returncode:
        said = last_lines(at / "said.txt") or [f"exit code {process.returncode}"]
        raise ConfigError("\n".join(["the probe failed:", *said]))
    return Probe.from_data(json.loads((at / "probe.json").read_text()))


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def main(arguments: list[str]) -> None:
    """A probe's own process: FOLDER (with config.yaml; gets probe.json) SECONDS MODULES..."""
    prices = load_prices()
    meter = Meter(prices, whole_process=True)
    folder, seconds, *allowed = arguments
    if allowed:
        from envs.gym import allow_import

        for module in allowed:
            allow_import(module)
    try:
        cfg = configs.load(Path(folder) / "config.yaml")
        found = measure(cfg, Path(folder), float(seconds), meter, prices)
    except (ConfigError, OSError, ValueError, RuntimeError, MemoryError) as error:
        print(f"{error}" or repr(error))
        sys.exit(1)
    (Path(folder) / "probe.json").write_text(json.dumps(found.to_data()))


if __name__ == "__main__":
    main(sys.argv[1:])
