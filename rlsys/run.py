"""The one loop: an agent iterates; its numbers are logged, its policy is evaluated and saved, when due.

Everything about the folder that a run fills is in folder.py.
"""

import contextlib
import gc
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rlsys import agents, checkpoint, config, distributed
from rlsys.config import Config, ConfigError, SimConfig
from rlsys.cost import Cost, Meter, Nvml, Prices, disk_bytes, load_prices
from rlsys.distributed import ALONE, Ranks
from rlsys.evaluate import Abandoned, Report, final_report, held_out
from rlsys.folder import Run, card, describe, find_launched, hyperparameters, label, new_folder, write_whole
from rlsys.log import Log, Pace, Progress
from rlsys.networks import is_picture
from rlsys.replay import record
from rlsys.signals import Stop, stop_signals
from rlsys.torchenv import DeviceError, Stopwatch, TorchEnv, make_env, origin, reward_threshold, wait


class Preempted(Exception):
    """A signal asked the run to stop; it has been saved in `folder` and can be resumed."""

    def __init__(self, message: str, folder: Path):
        super().__init__(message)
        self.folder = folder


# -- training ------------------------------------------------------------------------------------------------------------


def train(
    cfg: Config, *, resume: Run | None = None, command: str = "", quiet: bool = False, meter: Meter | None = None
) -> Run | None:
    """Train what `cfg` describes, in a new folder, or go on in the folder of `resume`; returns the finished Run.

    Of the processes of distributed=ddp only rank 0 sees the folder through; the others return None.

    meter: what this process takes for the run; one that begins now, if None.
    Raises ConfigError, Preempted after SIGTERM or Ctrl-C (saved), RunLocked, RankLost, and CheckpointError if nothing can be
    resumed.
    """
    prices = load_prices()
    meter = meter or Meter(prices)
    with distributed.joined(cfg.distributed == "ddp", cfg.distributed_timeout) as ranks:
        with config_errors(), memory_errors(cfg):  # before there is a folder: this agent may not be made for this env
            device, why = choose_device(cfg)
            gpu = hold_gpu(meter, prices, quiet) if device == "cuda" else None
            threads = set_threads(cfg)
            env = training_env(cfg, device, ranks)
            agent = training_agent(cfg, env)
            for _, part in config.phases(cfg)[1:]:
                training_agent(part, env)  # what cannot be is told now, not after hours
            book = Book() if resume else begin(cfg, agent, device)
        book.meter, book.prices = meter, prices
        launchers = ranks.words(distributed.launcher())
        facts = {"device": device, "gpu": gpu, "threads": threads, "ranks": ranks.size, "launchers": launchers}
        with contextlib.closing(env), memory_errors(cfg), stop_signals() as stop:
            if ranks.rank > 0:
                follow(cfg, agent, device, stop, meter)
                return None
            if distributed.was_restarted():
                resume = resume or find_launched(cfg, launchers)
            return lead(cfg, agent, book, stop, facts, why, resume, command, quiet)


def lead(
    cfg: Config,
    agent: agents.Agent,
    book: "Book",
    stop: Stop,
    facts: dict[str, Any],
    why: str,
    resume: Run | None,
    command: str,
    quiet: bool,
) -> Run:
    """Fill the folder: train, log, save, score. facts: for provenance.json; why: the reason for the device."""
    run, env, device = resume or Run(new_folder(cfg)), agent.env, facts["device"]
    with run.locked():
        if resume:
            meter, prices, book = book.meter, book.prices, restore(run, cfg, agent, device, quiet)
            book.meter, book.prices = meter, prices
        else:
            env.ranks.words("")  # nothing to restore
        start = agent.steps if resume else None
        where = "" if device == "cpu" or env.is_resident else f", envs on the cpu ({reason_against_residence(cfg)})"
        if cfg.distributed == "ddp":
            where += f", {env.ranks.size} ranks with {env.num_envs} envs each, engine=torch (it averages gradients over ranks)"
        where += f", from step {agent.steps:,}" if resume or cfg.init else ""
        say(quiet, f"{run.folder}  on {device} ({why}){where}")
        describe(run, cfg, command, {**facts, "resumed_at": start, "sim": origin(cfg.env)})

        with Log(run.folder, resume_step=start) as log:
            log.describe(run.name, card(run), hyperparameters(config.flat(config.to_data(cfg))))
            with Progress(cfg.end, label=label(cfg), start=agent.steps, quiet=quiet) as progress:
                if not gc.isenabled():  # the command line starts without
                    gc.freeze()
                    gc.enable()
                book.begin(agent.steps)
                try:
                    for learner, part, until in parts(cfg, agent):
                        loop(run, part, learner, book, log, progress, stop, until)
                        agent = learner
                except Preempted:
                    raise
                except Exception:  # what it has cost is known
                    log.write(agent.steps, book.costs())
                    raise
            seconds = book.elapsed

            # the figure that counts: the best policy on the test split, which has been used for nothing else
            test = final_report(run.policy("best", device), cfg.env, cfg.test_episodes)
            log.write(agent.steps, {"test/mean_reward": test.mean, **test.generalisation()})
            log.end()
        summary = outcome(cfg, agent.steps, seconds, book, test)
        write_summary(run, summary, book)
        if cfg.replay:
            picture(run, run.policy("best"), cfg, "final", quiet)
            write_summary(run, summary, book)  # with what that cost
    return run


def begin(cfg: Config, agent: agents.Agent, device: str) -> "Book":
    """The start of a run: as the agent was made, or, with `init`, where that checkpoint of another run left it."""
    if cfg.init:
        state = checkpoint.load(Path(cfg.init), device=device)
        with config_errors(f"{cfg.init} does not fit this configuration: "):
            agent.load_state(state)
        if agent.steps >= cfg.end:
            key = "stop_at" if cfg.stop_at else "total_timesteps"
            raise ConfigError(f"init={cfg.init} is at step {agent.steps} already: {key}={cfg.end} must be beyond that.")
        return Book(seconds=state["book"]["seconds"], iterations=state["book"]["iterations"])  # of all these steps
    return Book()


def restore(run: Run, cfg: Config, agent: agents.Agent, device: str, quiet: bool) -> "Book":
    """Put the agent back to the newest checkpoint that is whole; to the start, if none has ever been saved."""
    if not list(run.checkpoints.glob("step_*")) and run.summary() is None:
        agent.env.ranks.words(cfg.init or "")
        return begin(cfg, agent, device)
    path, rejected = checkpoint.newest(run.checkpoints)
    state = checkpoint.load(path, device=device)
    agent.env.ranks.words(str(path.resolve()))
    with config_errors(f"{path} does not fit this configuration: "):
        agent.load_state(state)
    say(quiet, *[f"skipped a damaged checkpoint: {reason}" for reason in rejected])
    book = state["book"]
    if book["best_step"] == agent.steps:  # a process that dies after saving may not have come to that
        checkpoint.mark_best(run.checkpoints, agent.steps)
    cost = Cost(**book.get("cost", {}))  # older checkpoints have none
    if (summary := run.summary()) and summary["steps"] == agent.steps:  # it was finished: tested, too
        cost = Cost.from_summary(summary) or cost
    return Book(**{**book, "cost": cost})


@contextlib.contextmanager
def config_errors(prefix: str = "") -> Iterator[None]:
    """What env and agent refuse as they are made is a mistake in the config."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, RuntimeError) as error:
        is_memory = "can't allocate memory" in str(error)
        if type(error) not in (ValueError, RuntimeError) or is_memory:  # a CUDA or memory error is no such mistake
            raise
        raise ConfigError(f"{prefix}{error}") from error


@contextlib.contextmanager
def memory_errors(cfg: Config) -> Iterator[None]:
    """Where a GPU's memory does not suffice, say what to ask for instead."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        fewer = max(1, cfg.num_envs // 2)
        reason = str(error).partition(". Of the allocated")[0]
        raise MemoryError(f"num_envs={cfg.num_envs}: {reason}. Try num_envs={fewer}.") from error


def parts(cfg: Config, agent: agents.Agent) -> Iterator[tuple[agents.Agent, Config, int]]:
    """The run, cut where `schedule` changes it: the agent for a part, its configuration, and the step it ends at."""
    made_of = cfg.agent
    for until, part in config.phases(cfg):
        if agent.steps < until and part.agent != made_of:
            agent, made_of = changed(agent, part), part.agent
        yield agent, part, until


def changed(agent: agents.Agent, cfg: Config) -> agents.Agent:
    """An agent with the hyperparameters of `cfg` in the state of `agent`, as if the run had been resumed with them."""
    state = agent.state()
    with config_errors(f"schedule, at step {agent.steps}: "):
        new = training_agent(cfg, agent.env)
        new.load_state(state)
    new.learning = agent.learning
    return new


def loop(
    run: Run, cfg: Config, agent: agents.Agent, book: "Book", log: Log, progress: Progress, stop: Stop, until: int
) -> None:
    """The one loop, to the step `until`: iterate, and log, evaluate, record, save when due. It never sees an env step."""

    pace, ranks = Pace(), agent.env.ranks

    def write(metrics: dict[str, Any]) -> None:
        progress.update(agent.steps, log.write(agent.steps, metrics))

    def assess() -> str:
        """Evaluate; returns why that was given up, if it was."""
        wait(agent.env.device)
        try:
            with book.evaluating:
                report = held_out(agent.policy, cfg.env, cfg.eval_episodes, "validation", stop=stop)
        except Abandoned as reason:
            return str(reason)
        write(report.metrics())
        book.judge(agent.steps, report.mean, reward_threshold(cfg.env))
        return ""

    def leave_if_asked() -> None:
        if stop.requested and (agent.steps < cfg.end or book.owes):
            message = f"stopped by {stop.requested} at step {agent.steps:,}; saved in {run.folder}"
            raise Preempted(message, run.folder)
        if book.owes:
            raise ConfigError(f"{book.owes} What it has learned in {agent.steps:,} steps is saved in {run.folder}.")

    if book.owes:  # the last evaluation was given up, and its step saved
        book.owes = assess()
        leave_if_asked()
        if book.best_step == agent.steps:
            checkpoint.mark_best(run.checkpoints, agent.steps)

    while ranks.tell(agent.steps < until and not (cfg.stop_when_solved and book.is_solved)):
        due = Due(agent.steps, cfg.end)
        with book.iterating:
            metrics = agent.iterate(progress=agent.steps / cfg.total_timesteps)
        due.now = agent.steps
        book.iterations += 1
        book.meter.tick()
        agree(stop, ranks)

        # log: the only place that waits for the device
        if due(cfg.log_every) if cfg.log_every else pace.due(book.elapsed) or due.at_end or stop.requested:
            wait(agent.env.device)
            with book.logging:
                write({**agent.env.metrics(), **metrics, **book.clock(agent), **book.costs()})
        progress.update(agent.steps)

        # evaluate: on a split that training never sees
        if due(cfg.eval_every):
            book.owes = assess()

        # show: pictures of the policy as it is
        if cfg.replay_every and due(cfg.replay_every):
            show_replay(log, picture(run, agent.policy, cfg, f"step_{agent.steps:012d}", quiet=True))
        if cfg.histograms_every and due(cfg.histograms_every):
            show_histograms(log, agent)

        # save
        is_best = book.best_step == agent.steps
        if ranks.tell(bool(due(cfg.save_every) or is_best or stop.requested or book.owes)):
            wait(agent.env.device)
            with book.saving:
                log.flush()
                book.meter.share(ranks)
                state = {**agent.state(), "book": book.state()}
                checkpoint.save(run.checkpoints, agent.steps, state, keep=cfg.keep_checkpoints)
        if is_best:
            checkpoint.mark_best(run.checkpoints, agent.steps)
        leave_if_asked()


def follow(cfg: Config, agent: agents.Agent, device: str, stop: Stop, meter: Meter) -> None:
    """What the other ranks do while rank 0 is in `loop`: iterate with it, and give their part of what it saves."""
    ranks = agent.env.ranks
    if path := ranks.words("")[0]:  # of rank 0's `restore`
        agent.load_state(checkpoint.load(Path(path), device=device))
    for learner, _, _ in parts(cfg, agent):
        while ranks.tell():
            learner.iterate(progress=learner.steps / cfg.total_timesteps)
            meter.tick()
            agree(stop, ranks)
            if ranks.tell():
                meter.share(ranks)
                learner.state()
            if stop.requested and learner.steps < cfg.end:
                raise Preempted("", Path())  # rank 0 says more


def agree(stop: Stop, ranks: Ranks) -> None:
    """Stop all ranks where one has been asked to."""
    if ranks.size > 1:
        stop.requested = next(filter(None, ranks.words(stop.requested)), "")


def picture(run: Run, policy: Any, cfg: Config, name: str, quiet: bool) -> list[Path]:
    """Record a replay, and return its files; a world that cannot be drawn costs no run."""
    try:
        return record(policy, cfg.env, run.folder / "replays", name=name, caption=label(cfg))
    except ValueError as error:
        say(quiet, f"no replay: {error}")
        return []


def show_replay(log: Log, paths: list[Path]) -> None:
    """A replay's GIF among TensorBoard's images."""
    for path in paths:
        if path.suffix == ".gif":
            with Image.open(path) as gif:
                log.add_image("replay", path.read_bytes(), gif.size)


def show_histograms(log: Log, agent: agents.Agent) -> None:
    """The weight matrices of the policy, and what it would do now in each of the training envs."""
    for name, weights in agent.policy.named_parameters():
        if weights.ndim > 1:
            log.add_histogram(f"weights/{name}", weights.numpy(force=True))
    actions, n = agent.policy.act(agent.env.obs).numpy(force=True), agent.env.action_spec.n
    if n:
        log.add_histogram("actions", actions, np.arange(n + 1) - 0.5)  # a bin for each
    else:
        for dimension, values in enumerate(actions.reshape(len(actions), -1).T):
            log.add_histogram(f"actions/{dimension}", values)


@dataclass
class Due:
    """Has the step count crossed a multiple of `every` in this iteration? At the end of the run everything is due."""

    before: int
    total: int
    now: int = 0

    @property
    def at_end(self) -> bool:
        return self.now >= self.total

    def __call__(self, every: int) -> bool:
        return self.at_end or (every > 0 and self.now // every > self.before // every)


@dataclass
class Book:
    """What the run itself, rather than the agent, has to remember across a resume."""

    seconds: float = 0.0  # of earlier processes
    iterations: int = 0
    best: float | None = None  # highest mean return on the validation split
    best_step: int | None = None
    seconds_to_solve: float | None = None
    owes: str = ""  # why the evaluation at this step was given up, and is still to be made
    cost: Cost = field(default_factory=Cost)  # of earlier processes

    def __post_init__(self):
        self.iterating, self.logging = Stopwatch(), Stopwatch()
        self.evaluating, self.saving = Stopwatch(), Stopwatch()
        self.meter, self.prices = Meter(), None  # of this process; what its owner pays
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start the clock of this process."""
        self._began, self._first_step = time.perf_counter(), step

    @property
    def is_solved(self) -> bool:
        return self.seconds_to_solve is not None

    @property
    def elapsed(self) -> float:
        """Seconds of training and evaluation, over all processes."""
        return self.seconds + time.perf_counter() - self._began

    def judge(self, step: int, mean: float, threshold: float | None) -> None:
        """Take an evaluation into account."""
        if self.best is None or mean >= self.best:
            self.best, self.best_step = mean, step
        if self.seconds_to_solve is None and threshold is not None and mean >= threshold:
            self.seconds_to_solve = self.elapsed

    def clock(self, agent: agents.Agent) -> dict[str, float]:
        """Counters, and the speed of this process and what it spent its time on."""
        seconds = time.perf_counter() - self._began
        env, learn, iterate = agent.env.stepping.seconds, agent.learning.seconds, self.iterating.seconds
        return {
            "time/fps": (agent.steps - self._first_step) / seconds,
            "time/share_env": env / seconds,
            "time/share_policy": (iterate - env - learn) / seconds,
            "time/share_learn": learn / seconds,
            "time/share_idle": (seconds - iterate) / seconds,
            "time/time_elapsed": self.elapsed,
            "time/iterations": self.iterations,
            "time/total_timesteps": agent.steps,
        }

    def spent(self) -> Cost:
        """What the run has cost, over all processes, but for its folder."""
        return self.cost + self.meter.read()

    def costs(self) -> dict[str, float]:
        """The same as metrics; with the price, if there are prices."""
        spent = self.spent()
        price = self.prices and self.prices.price(spent)
        return spent.metrics() if price is None else {**spent.metrics(), "cost/price": price}

    def state(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.elapsed, "cost": asdict(self.spent())}


def outcome(cfg: Config, steps: int, seconds: float, book: Book, test: Report) -> dict[str, Any]:
    """What summary.json says, but for what it cost."""
    threshold = reward_threshold(cfg.env)
    return {
        "score": test.mean,
        "score_normalised": test.score,
        "score_reference": test.scale and test.scale.reference,
        **test.metrics(),
        **test.intervals(),
        "validation/best_mean_reward": book.best,
        "best_step": book.best_step,
        "steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "reward_threshold": threshold,
        "solved": None if threshold is None else test.mean >= threshold,
        "seconds_to_solve": book.seconds_to_solve,
    }


def write_summary(run: Run, summary: dict[str, Any], book: Book) -> None:
    """Write summary.json: the outcome, and what it has cost until now."""
    spent = replace(book.spent(), disk_bytes=disk_bytes(run.folder))
    text = json.dumps({**summary, **spent.to_summary(book.prices)}, indent=2)
    write_whole(run.folder / "summary.json", text)


# -- the machine ---------------------------------------------------------------------------------------------------------


# From here on a GPU is taken. Reckoned, not measured: an iteration of PPO (32 steps, 16 minibatches) is some 1800 kernels, of
# 2 us each if nothing else limits them, 3.5 ms; the native engine takes as long for 80 envs on two cores, 600 on sixteen.
GPU_FROM = 512  # envs


def training_env(cfg: Config, device: str, ranks: Ranks = ALONE) -> TorchEnv:
    """The envs to train on, or this rank's share of them, themselves on the GPU if they can be."""
    if cfg.num_envs % ranks.size:
        share = max(1, round(cfg.num_envs / ranks.size))
        raise ConfigError(
            f"num_envs={cfg.num_envs} cannot be shared alike by {ranks.size} ranks. Use num_envs={share * ranks.size}."
        )
    resident = device == "cuda" and not reason_against_residence(cfg)
    return make_env(cfg.env, cfg.num_envs, split="train", seed=cfg.seed, device=device, resident=resident, ranks=ranks)


def training_agent(cfg: Config, env: TorchEnv) -> agents.Agent:
    engine = "torch" if cfg.distributed == "ddp" else cfg.engine
    how: dict[str, Any] = {"engine": engine, "threads": cfg.threads, "matmul_precision": cfg.matmul_precision}
    return agents.build(env, cfg.agent, cfg.seed, **how)


def reason_against_residence(cfg: Config) -> str:
    """Why the envs of `cfg` cannot live on a GPU; empty if they can."""
    if not isinstance(cfg.env, SimConfig):
        return "Gymnasium's and Atari's run there"
    if cfg.env.frame_stack > 1:
        return "env.frame_stack is made there"
    if cfg.distributed == "ddp":
        return "distributed=ddp shares them out there"
    if cfg.agent.name == "sb3":
        return "stable-baselines3 reads them there"
    if cfg.env.backend != "auto":
        return f"env.backend={cfg.env.backend}"
    return "" if find_spec("numba_cuda") else "numba-cuda is not installed: pip install 'rlsys[gpu]'"


def choose_device(cfg: Config) -> tuple[str, str]:
    """The device to train on, and why.

    `auto` takes a GPU for observations that are pictures, and for GPU_FROM envs or more that can live on it. Otherwise the
    CPU: a small network on a few envs is learned faster there. `rlsys tune-speed` measures it.
    """
    if cfg.device == "cpu":
        return "cpu", "as asked"
    if cfg.device == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError("device=cuda: torch finds no CUDA device. Use device=cpu or device=auto.")
        if distributed.ranks_here() > torch.cuda.device_count():
            raise DeviceError(
                f"device=cuda: {distributed.ranks_here()} ranks on this machine, and {torch.cuda.device_count()} GPUs. "
                f"Start torchrun with --nproc-per-node {torch.cuda.device_count()}, or use device=cpu."
            )
        return "cuda", "as asked"
    if not torch.cuda.is_available():
        return "cpu", "no GPU found"
    if distributed.ranks_here() > torch.cuda.device_count():
        return "cpu", "more ranks than GPUs"
    if has_pictures(cfg):
        return "cuda", "observations are pictures"
    if reason := reason_against_residence(cfg):
        return "cpu", f"envs on the CPU, {reason}; device=cuda overrides"
    if cfg.num_envs >= GPU_FROM:
        return "cuda", f"{GPU_FROM} envs or more"
    return "cpu", f"fewer than {GPU_FROM} envs of small observations; device=cuda overrides"


def hold_gpu(meter: Meter, prices: Prices | None, quiet: bool = False) -> str:
    """Let the meter count the GPU that torch uses; its name. ConfigError if there are prices of GPUs, but none of it."""
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    if prices:
        prices.check_gpu(found.name)
    uuid = str(getattr(found, "uuid", ""))
    name = found.name.replace("/", " ")  # a key of a checkpoint
    reason = meter.hold(name, lambda: Nvml(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"))
    if reason:
        say(quiet, f"the GPU's energy is estimated: {reason}")
    return name


CORES = torch.get_num_threads()  # before anybody changed it
LARGE_BATCH = 4096  # samples; from here on a minibatch of a small network is worth sharing out


def set_threads(cfg: Config) -> int:
    """Tell torch how many threads it may use: one a core for large minibatches and pictures, else 1. The native engine
    chooses for itself (`native.choose_threads`).

    The operations of a small network on a small minibatch are too short to share out: on two idle cores the second
    thread adds a quarter to torch's speed (PPO on CartPole, 64 envs, minibatches of 512), and beside another process it
    costs a factor of 4, since waiting threads spin. At minibatches of 8192 it adds 80 %.
    """
    large = getattr(cfg.agent, "batch_size", 0) >= LARGE_BATCH or has_pictures(cfg)
    threads = cfg.threads or (CORES if large else 1)
    torch.set_num_threads(threads)
    return threads


def has_pictures(cfg: Config) -> bool:
    """Whether the observations of `cfg` go through convolutions."""
    probe = make_env(cfg.env, 1, split="train", seed=0)
    probe.close()
    return any(is_picture(part, cfg.agent.encoder) for part in probe.obs_spec.parts)


def say(quiet: bool, *lines: str) -> None:
    if not quiet:
        for line in lines:
            print(line, flush=True)
