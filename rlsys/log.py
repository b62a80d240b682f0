"""What a run says while it trains: metrics.jsonl and TensorBoard for later, one live line for now.

Every tag is documented here, once (`python -m rlsys.log` prints the page docs/metrics.md). The names are
Stable-Baselines3's, the x axis is environment steps.

`metrics.jsonl` is the source of truth: one JSON object per `Log.write`, `{"step": 4096, "train/loss": 0.5, ...}`, NaN
and infinity as null. An evaluation at the step of a rollout is a line of its own; `read_metrics` joins lines of equal
step. TensorBoard has the same points (events.py).
"""

import contextlib
import difflib
import itertools
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlsys.events import Appender, Events, write_whole

METRICS_FILE = "metrics.jsonl"


class Metric(NamedTuple):
    unit: str
    meaning: str


METRICS: dict[str, Metric] = {
    "rollout/ep_rew_mean": Metric(
        "reward",
        "Mean return of the training episodes that ended since the last point, of the last 100 if there are fewer; unscaled, "
        "and with the rewards of `env.train_params`.",
    ),
    "rollout/ep_len_mean": Metric("steps", "Mean length of the same episodes."),
    "rollout/episodes": Metric("episodes", "Training episodes that have ended since the run began."),
    "rollout/exploration_rate": Metric("0..1", "Probability of a random action (epsilon of DQN and PQN)."),
    "time/fps": Metric("steps/s", "Environment steps a second, learning included."),
    "time/share_env": Metric(
        "0..1", "Share of the time that steps of the envs took; where a kernel does it all, measured inside."
    ),
    "time/share_policy": Metric("0..1", "Share of the time that the policy took to look and act."),
    "time/share_learn": Metric("0..1", "Share of the time that learning took: returns, gradients, normalisers."),
    "time/share_idle": Metric(
        "0..1", "Share of the time for the rest: evaluating, saving, logging, or waiting to be told to."
    ),
    "time/total_timesteps": Metric("steps", "Environment steps since the run began, over all environments."),
    "time/iterations": Metric("iterations", "Calls of the agent's `iterate` since the run began."),
    "time/time_elapsed": Metric("s", "Wall time of training and evaluation, over all processes of the run."),
    "cost/seconds": Metric("s", "Wall time of all the run's processes, start-up included."),
    "cost/core_seconds": Metric("s", "CPU time, user and system, of all the run's processes and those below them."),
    "cost/gpu_seconds": Metric("s", "Wall time that a GPU was held."),
    "cost/joules": Metric("J", "Energy: counted or estimated, as `energy_source` in summary.json says (docs/cost.md)."),
    "cost/price": Metric("currency", "Price, by the file that RLSYS_PRICES names."),
    "train/learning_rate": Metric("1", "The optimiser's step size, as scheduled."),
    "train/loss": Metric("1", "The loss that is minimised, all terms together."),
    "train/policy_gradient_loss": Metric("1", "PPO's clipped surrogate, negated: the lower, the better."),
    "train/value_loss": Metric("reward²", "Mean squared error of the value function against its targets."),
    "train/entropy_loss": Metric("nats", "Minus the mean entropy of the policy; it rises to 0 as the policy decides."),
    "train/approx_kl": Metric("nats", "Estimated KL divergence between the policies before and after the update."),
    "train/clip_fraction": Metric("0..1", "Share of samples whose probability ratio left the clip range."),
    "train/clip_range": Metric("1", "PPO's clip range, as scheduled."),
    "train/explained_variance": Metric("≤ 1", "1 - Var(return - value) / Var(return): 1 perfect, 0 like a constant."),
    "train/std": Metric("action", "Mean standard deviation of a Gaussian policy."),
    "train/n_updates": Metric("updates", "Gradient steps since the run began; of stable-baselines3's PPO epochs."),
    "train/grad_norm": Metric("1", "Mean L2 norm of the gradient, before clipping."),
    "train/q_values": Metric("reward", "Mean predicted value of the actions in the batch."),
    "train/importance_weight": Metric(
        "0..1", "Mean weight of the samples of prioritised replay; the lower, the more unequal the priorities."
    ),
    "train/actor_loss": Metric("1", "Loss of the actor (SAC, TD3, DDPG)."),
    "train/critic_loss": Metric("reward²", "Loss of the critics (SAC, TD3, DDPG)."),
    "train/ent_coef": Metric("reward/nat", "Weight of the entropy in SAC's objective."),
    "train/ent_coef_loss": Metric("1", "Loss that tunes SAC's entropy weight."),
    "train/policy_loss": Metric("1", "Loss of the policy (A2C)."),
    "eval/mean_reward": Metric("reward", "Mean return of the evaluation's episodes (seeds and levels not trained on)."),
    "eval/std_reward": Metric("reward", "Standard deviation of the returns of the evaluation's episodes."),
    "eval/iqm_reward": Metric("reward", "Interquartile mean of the returns: the mean of the middle half."),
    "eval/mean_ep_length": Metric("steps", "Mean length of the evaluation's episodes."),
    "eval/episodes": Metric("episodes", "Episodes in the evaluation."),
    "eval/score_normalised": Metric(
        "1",
        "Mean return where uniform actions are 0 and the sim's optimum is 1 (its baseline, where no optimum is known); "
        "only with the sim's own parameters and step limit.",
    ),
    "eval/train_mean_reward": Metric(
        "reward", "Mean return of the best policy on the levels it was trained on; at the end, in sims with levels."
    ),
    "eval/generalisation_gap": Metric(
        "reward", "The same minus its mean return on the test levels: how much worse it is on levels never seen."
    ),
    "test/mean_reward": Metric("reward", "The score: mean return of the best policy on the test split, at the end."),
}

# What is known at the end of a run only, and is forgotten when it goes on.
ONCE = frozenset({"eval/train_mean_reward", "eval/generalisation_gap", "test/mean_reward"})

# TensorBoard's "Custom scalars": {group: {title of a chart: its tags}}. A run has the charts of which it has a tag.
CHARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Learning": {
        "return of training episodes": ("rollout/ep_rew_mean",),
        "length of training episodes": ("rollout/ep_len_mean",),
        "loss": ("train/loss", "train/actor_loss", "train/critic_loss", "train/policy_loss"),
        "step size": ("train/learning_rate",),
        "exploration": ("rollout/exploration_rate", "train/std", "train/ent_coef"),
    },
    "Evaluation": {
        "return of evaluations": ("eval/mean_reward", "eval/iqm_reward"),
        "score: 0 random, 1 best known": ("eval/score_normalised",),
        "length of evaluations": ("eval/mean_ep_length",),
        "test and training levels, at the end": ("test/mean_reward", "eval/train_mean_reward"),
    },
    "Speed": {
        "steps a second": ("time/fps",),
        "shares of the time": ("time/share_env", "time/share_policy", "time/share_learn", "time/share_idle"),
    },
    "Cost": {
        "seconds": ("cost/seconds", "cost/core_seconds", "cost/gpu_seconds"),
        "energy": ("cost/joules",),
        "price": ("cost/price",),
    },
    "Health": {
        "entropy loss": ("train/entropy_loss",),
        "change of the policy": ("train/approx_kl", "train/clip_fraction"),
        "explained variance": ("train/explained_variance",),
        "value loss": ("train/value_loss",),
        "gradient norm": ("train/grad_norm",),
        "q-values": ("train/q_values",),
        "importance weight": ("train/importance_weight",),
    },
}


class Pace:
    """When a point is due by the clock: when a 300th of all the time so far has passed since the last.

    So a curve is as fine in the first second of a run as in its last hour, and a day has some 3500 points, whatever the speed.
    """

    SHARE = 1 / 300

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, seconds: float) -> bool:
        """Whether a point is due `seconds` after the run began. If so, the next one is reckoned from here."""
        if seconds < self._next:
            return False
        self._next = seconds * (1.0 + self.SHARE)
        return True


class Log:
    """The metrics of one run, in `folder`, as `metrics.jsonl` and a TensorBoard event file.

    resume_step: the step a run goes on from. What was logged after it is dropped, in both, and so is what is known at the
        end only (ONCE). None starts a new log.

    A disk that refuses a record costs that record and one warning, never the run. Raises FileExistsError if there is a
    log already and no `resume_step`: two runs must not mix.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None):
        folder = Path(folder)
        if resume_step is None and (folder / METRICS_FILE).exists():
            raise FileExistsError(f"{folder / METRICS_FILE} is there already. Pass resume_step to go on with it.")
        self._step = resume_step or 0
        self._lines = Appender(folder / METRICS_FILE)
        self._events = Events(folder, resume_step=resume_step, once=ONCE)
        if resume_step is not None:
            with self._lines.failures():
                _drop_lines_after(folder / METRICS_FILE, resume_step)
        self._charts = _charts(self._events.tags)

    def write(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float | None]:
        """Log `metrics` (tag: a number, or a 0-dim array or tensor) at `step`; returns them as plain numbers.

        This is the only place that waits for the device. NaN and infinity are logged as null.
        Raises KeyError for a tag that METRICS does not know, naming the nearest one.
        """
        self._step = step = int(step)
        numbers = {tag: _number(tag, value) for tag, value in metrics.items()}
        self._lines.append(json.dumps({"step": step, **numbers}).encode() + b"\n")
        self._events.scalars(step, numbers)
        if (charts := _charts(self._events.tags)) != self._charts:
            self._charts = charts
            self._events.layout(step, charts)
        return numbers

    def describe(self, name: str, card: str, settings: Mapping[str, Any]) -> None:
        """Tell TensorBoard, once a run, what the run is: a text, and its row in the table of hyperparameters.

        name: of the row. card: Markdown. settings: flat, such as {"agent.gamma": 0.99}.
        """
        if "run/text_summary" not in self._events.tags:
            self._events.text(self._step, "run", card)
            self._events.hparams(self._step, name, settings)

    def add_image(self, tag: str, encoded: bytes, size: tuple[int, int]) -> None:
        """Show a GIF under TensorBoard's "Images". size: width and height."""
        self._events.image(self._step, tag, encoded, *size)

    def add_histogram(self, tag: str, values: Any, edges: Any = None) -> None:
        """Show how `values` (an array) are distributed, under "Histograms" and "Distributions"; as in `Events.histogram`."""
        self._events.histogram(self._step, tag, values, edges)

    def end(self) -> None:
        """The run is finished."""
        self._events.end(self._step)

    def flush(self) -> None:
        """Down to the disk. Call it before a checkpoint, which then never knows of steps that the log does not."""
        self._lines.sync()
        self._events.sync()

    def close(self) -> None:
        self._lines.close()
        self._events.close()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged: a dict a step, `{"step": ..., tag: number or None}`, in the order written.

    No log is an empty list. A line cut short by a crash is passed over.
    """
    rows: dict[int, dict[str, Any]] = {}
    for row, _ in _lines(Path(folder) / METRICS_FILE):
        rows.setdefault(row["step"], {}).update(row)
    return list(rows.values())


class Follower:
    """Reads a metrics file while it is being written: each call gives the rows that have come since the last."""

    def __init__(self, folder: Path):
        self._path, self._read, self._file = Path(folder) / METRICS_FILE, 0, 0

    def __call__(self) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._file:  # a resumed run writes it anew, without what it goes back behind
                self._read, self._file = 0, found.st_ino
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._read += len(whole) + len(newline)
            return [row for row in map(_row, whole.splitlines()) if row is not None]
        return []


METRICS_INTRO = """\
# Metrics

Every tag in TensorBoard and in `metrics.jsonl`. The x axis is environment steps, of all environments.
The names are Stable-Baselines3's. (This page is made by `python -m rlsys.log > docs/metrics.md`.)

A point is written when a 300th of the time so far has passed since the last: some 3500 in a day, and as many in a
run's first second as its speed allows. `log_every=N` asks for one each N steps instead, `log_every=1` for every
iteration. Evaluations are always written. A point has the values of the iteration at which it is written; only the
means over episodes are of all that ended since the last point.
"""


def metrics_page() -> str:
    """docs/metrics.md."""
    lines = [METRICS_INTRO.rstrip("\n")]
    for group, tags in itertools.groupby(METRICS, key=lambda tag: tag.split("/")[0]):
        lines += ["", f"## {group}", "", "| tag | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{tag}` | {METRICS[tag].unit} | {METRICS[tag].meaning} |" for tag in tags]
    return "\n".join(lines) + "\n"


def _number(tag: str, value: Any) -> float | None:
    """`value` as a plain int or float, None if it is not finite."""
    if tag not in METRICS:
        nearest = difflib.get_close_matches(tag, METRICS, n=1, cutoff=0.0)[0]
        raise KeyError(f"metric {tag!r} is unknown. The nearest known one is {nearest!r}.")
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, int | float):
        raise TypeError(f"metric {tag!r} is {value!r}, which is not a number.")
    return value if math.isfinite(value) else None


def _charts(tags: set[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The groups and charts that have something to show."""
    found = {
        group: {title: shown for title, shown in charts.items() if tags.intersection(shown)}
        for group, charts in CHARTS.items()
    }
    return {group: charts for group, charts in found.items() if charts}


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each whole line of a metrics file, parsed and raw."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            row = _row(line)
            if row is not None and line.endswith(b"\n"):
                yield row, line


def _row(line: bytes) -> dict[str, Any] | None:
    """A line's object, None if it is none."""
    with contextlib.suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            return row
    return None


def _drop_lines_after(path: Path, step: int) -> None:
    """Rewrite a metrics file without the lines of later steps, of a run's end, and those that a crash cut short."""
    kept = (line for row, line in _lines(path) if row["step"] <= step and not ONCE & row.keys())
    write_whole(path, b"".join(kept))


class Progress:
    """A run on the console: one live line on a terminal, else a plain line every few seconds; on stderr.

        with Progress(total, label="CartPole ppo") as progress:
            progress.update(step, log.write(step, metrics))

    total: environment steps of the whole run; start: those done before this process.
    """

    REDRAW_SECONDS = 1 / 8
    PRINT_SECONDS = 5.0
    SPEED_SECONDS = 10.0  # steps/s is the mean over so long

    def __init__(self, total: int, *, label: str, start: int = 0, quiet: bool = False, console: Console | None = None):
        self._total, self._label, self._step, self._quiet = max(total, 1), label, start, quiet
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._metrics: dict[str, Any] = {}
        self._begun = self._next = time.monotonic()
        self._history = deque([(self._begun, start)])  # (time, step), over the last SPEED_SECONDS

    def __enter__(self) -> "Progress":
        self._begun = time.monotonic()
        self._history = deque([(self._begun, self._step)])
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
            self._draw(self._begun)
        else:
            self._next = self._begun + self.PRINT_SECONDS
        return self

    def update(self, step: int, metrics: Mapping[str, Any] = {}) -> None:
        """Go on to `step`. Metrics are remembered; all but a few calls return at once."""
        self._step = step
        self._metrics.update(metrics)
        now = time.monotonic()
        if now >= self._next and not self._quiet:
            self._draw(now)

    def __exit__(self, *_) -> None:
        if not self._quiet:
            self._draw(time.monotonic())
        if self._live is not None:
            self._live.stop()

    def _draw(self, now: float) -> None:
        self._history.append((now, self._step))
        while len(self._history) > 2 and self._history[1][0] <= now - self.SPEED_SECONDS:
            self._history.popleft()
        if self._live is None:
            self._next = now + self.PRINT_SECONDS
            percent = f"{100 * self._step // self._total} %"
            text = f"{self._label}: " + ", ".join([f"{self._steps()} steps ({percent})", *self._facts(now)])
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)
            return
        self._next = now + self.REDRAW_SECONDS
        bars = [ProgressBar(self._total, self._step, width=14)] if self._console.width >= 100 else []
        facts = Text("  ".join([self._steps(), *self._facts(now)]), no_wrap=True, overflow="ellipsis")
        line = Table.grid(padding=(0, 2))
        line.add_row(Text(self._label, no_wrap=True), *bars, facts)
        self._live.update(line, refresh=True)

    def _steps(self) -> str:
        return f"{self._step:,}/{self._total:,}"

    def _facts(self, now: float) -> list[str]:
        (then, before), speed = self._history[0], 0.0
        if now > then:
            speed = (self._step - before) / (now - then)
        facts = [f"{speed:,.0f} steps/s"]
        for name, tag in (("reward", "rollout/ep_rew_mean"), ("eval", "eval/mean_reward")):
            if self._metrics.get(tag) is not None:
                facts.append(f"{name} {float(self._metrics[tag]):.4g}")
        if speed > 0 and self._step < self._total:
            facts.insert(1, f"{clock((self._total - self._step) / speed)} left")
        facts.append(f"{clock(now - self._begun)} elapsed")
        return facts


def clock(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


if __name__ == "__main__":
    print(metrics_page(), end="")
