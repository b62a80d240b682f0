"""Training runs as `rlsys compare` sees them, whoever trained them: our folders, stable-baselines3's logs, CleanRL's.

| written by | file | becomes |
|---|---|---|
| rlsys | `metrics.jsonl`, `summary.json`, `config.yaml` | its tags, the test score |
| SB3 | TensorBoard events | its tags, which are ours |
| SB3 | `evaluations.npz` | `eval/mean_reward`: the mean over the episodes of each evaluation |
| SB3 | `*.monitor.csv` | `rollout/ep_rew_mean` |
| CleanRL | TensorBoard events, `charts/episodic_return` | `rollout/ep_rew_mean` |

Where a log has single episodes, `rollout/ep_rew_mean` is made of them as SB3 makes it: the mean of the latest 100. A folder is
one run, with all the files right in it. Nothing unpickles.
"""

import csv
import glob
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rlsys import config, events, folder, log
from rlsys.config import SimConfig

EVAL, TRAIN = "eval/mean_reward", "rollout/ep_rew_mean"
WINDOW = 100  # episodes in a mean of training returns, as in SB3
FOREIGN = ("events.out.tfevents.*", "*monitor.csv", "evaluations.npz")
UNKNOWN_TASK = "unknown task"

# What makes no other experiment of a run: where and how it is logged and saved, and what does not change its numbers.
BOOKKEEPING = {
    "seed",
    "run_dir",
    "resume",
    "log_every",
    "save_every",
    "keep_checkpoints",
    "replay",
    "replay_every",
    "threads",
}
BOOKKEEPING |= {
    "track",
    "wandb_project_name",
    "wandb_entity",
    "capture_video",
    "save_model",
    "upload_model",
    "hf_entity",
}
HOW_ENVS_ARE_RUN = {"backend", "vectorization"}


class LogError(ValueError):
    """A file that is not what its name says."""


@dataclass(frozen=True)
class Series:
    """Values of one metric at increasing environment steps; NaN where the run logged that there is none."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Logged:
    """One run's logs.

    task: what was trained on. agent: who trained. keys: the settings, flat, that tell runs apart (dotted names).
    has_ended: None where the logs do not say. test: the mean return on the test split, at the end.
    """

    source: Path
    task: str
    agent: str
    seed: str
    keys: dict[str, str]
    series: dict[str, Series]
    has_ended: bool | None = None
    test: float | None = None
    env: Any = field(default=None, repr=False)  # the env's config, by which its scale is found


def read(pattern: str, task: str | None = None) -> tuple[list[Logged], list[str]]:
    """The runs that a folder (with all below it), a glob or `latest` names, and what is to be said of those left out.

    task: what runs were trained on whose logs do not say. FileNotFoundError if there are none.
    """
    ours = folder.find(pattern)
    found, notes = [], []
    for run in ours:
        try:
            found.append(_ours(run))
        except (config.ConfigError, OSError) as error:
            notes.append(f"{run.folder} cannot be read and is left out: {error}")
    inside = {run.folder for run in ours}
    for path in _foreign_folders(pattern, inside):
        try:
            logged = _foreign(path, task)
        except LogError as error:
            notes.append(f"{path} cannot be read and is left out: {error}")
            continue
        if logged.series:
            found.append(logged)
    if not found and not notes:
        raise FileNotFoundError(
            f"no run at {pattern!r}. RUN is `latest`, or a folder or a glob with runs of rlsys, or logs of stable-baselines3 or "
            "CleanRL, in it or below."
        )
    return found, notes


def _foreign_folders(pattern: str, ours: set[Path]) -> list[Path]:
    paths = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
    folders = {file.parent for path in map(Path, paths) for name in FOREIGN for file in _below(path, name)}
    return sorted(path for path in folders if not ours & {path, *path.parents})


def _below(path: Path, name: str) -> Iterator[Path]:
    return iter([path]) if path.is_file() and path.match(name) else path.rglob(name)


def short_text(value: Any) -> str:
    """A setting as it is typed: 0.0003, [64,64], true."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


# -- ours ----------------------------------------------------------------------------------------------------------------


def _ours(run: folder.Run) -> Logged:
    cfg = run.config()
    env, agent = folder.names(cfg)
    points = log.read_metrics(run.folder)
    tags = {tag for point in points for tag in point if tag != "step"}
    series = {tag: _series([(p["step"], _nan(p[tag])) for p in points if tag in p]) for tag in tags}
    settings = config.flat(config.to_data(cfg), keep_empty=True)
    keys = {key: short_text(value) for key, value in settings.items() if key not in BOOKKEEPING}
    keys = {key: value for key, value in keys.items() if key.removeprefix("env.") not in HOW_ENVS_ARE_RUN}
    summary = run.summary() or {}
    has_ended = "score" in summary and not run.is_locked()
    score = summary.get("score") if has_ended else None
    return Logged(run.folder, env, agent, str(cfg.seed), keys, series, has_ended, score, cfg.env)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _series(points: list[tuple[int, float]]) -> Series:
    """Points in the order written; of several at one step the last counts."""
    last = dict(points)
    steps = np.array(sorted(last), np.int64)
    return Series(steps, np.array([last[step] for step in steps.tolist()], np.float64))


# -- others' -------------------------------------------------------------------------------------------------------------


def _foreign(path: Path, task: str | None) -> Logged:
    """A folder with logs of SB3 or CleanRL; its name tells what they do not."""
    series: dict[str, Series] = {}
    settings: dict[str, str] = {}
    env_ids: list[str] = []
    monitors = sorted(path.glob("*monitor.csv"))
    if monitors:
        series[TRAIN], env_ids = _monitor(monitors)
    if any(path.glob("events.out.tfevents.*")):
        scalars, texts = events.read(path)
        settings = _cleanrl_settings(texts.get("hyperparameters", ""))
        if episodes := scalars.pop("charts/episodic_return", []):
            series[TRAIN] = _episodes(episodes)
        series |= {tag: _series(points) for tag, points in scalars.items()}
    if (path / "evaluations.npz").exists():
        series[EVAL] = _evaluations(path / "evaluations.npz")

    name, number = _name_and_number(path.resolve().name)
    by = "CleanRL" if settings else "SB3"
    known = settings.get("env_id") or next(iter(env_ids), None)
    if known is None and re.search(r"-v\d+$", name):  # RL Zoo's folders: <algo>/<env>_<n>
        known, name = name, path.resolve().parent.name
    agent = f"{settings.get('exp_name', name)} ({by})"
    keys = {key: value for key, value in settings.items() if key not in BOOKKEEPING}
    seed = settings.get("seed", number)
    return Logged(path, known or task or UNKNOWN_TASK, agent, seed, {"agent.name": agent, **keys}, series)


def _name_and_number(name: str) -> tuple[str, str]:
    """PPO_3 -> PPO, 3; dqn-seed4 -> dqn, 4; dqn -> dqn and nothing."""
    match = re.fullmatch(r"(.+?)[-_ .](?:s|seed[-_=]?|run[-_]?)?(\d+)", name)
    return (match[1], match[2]) if match else (name, "")


def _cleanrl_settings(markdown: str) -> dict[str, str]:
    """CleanRL writes its settings as a table: |name|value|."""
    rows = re.findall(r"^\|([^|\n]+)\|([^|\n]*)\|\s*$", markdown, re.M)
    return {name: value for name, value in rows if name not in ("param", "-")}


def _episodes(episodes: list[tuple[int, float]]) -> Series:
    """(step, return) of single episodes, in the order in which they ended -> the mean of the latest 100 at each."""
    returns = np.array([value for _, value in episodes], np.float64)
    first = returns[: WINDOW - 1]
    means = np.cumsum(first) / np.arange(1, len(first) + 1)
    if len(returns) >= WINDOW:
        means = np.concatenate([means, sliding_window_view(returns, WINDOW).mean(axis=1)])
    return _series([(step, mean) for (step, _), mean in zip(episodes, means.tolist(), strict=True)])


def _monitor(paths: list[Path]) -> tuple[Series, list[str]]:
    """SB3's monitor files of the envs of one run, and the env ids in them.

    They know when an episode ended and how long it was, not the run's step: that is the sum of the lengths so far.
    """
    episodes, env_ids = [], []
    for path in paths:
        with open(path, newline="") as file:
            first = file.readline()
            try:
                head = json.loads(first.removeprefix("#"))
                for row in csv.DictReader(file):
                    if None not in row.values():  # the last one may be cut short
                        episodes.append((head["t_start"] + float(row["t"]), int(row["l"]), float(row["r"])))
            except (ValueError, KeyError, TypeError) as error:
                raise LogError(f"{path} is not a monitor file of stable-baselines3: {error!r}") from None
            if head.get("env_id") not in (None, "None"):
                env_ids.append(head["env_id"])
    episodes.sort()
    steps = np.cumsum([length for _, length, _ in episodes]).tolist()
    return _episodes([(step, value) for step, (_, _, value) in zip(steps, episodes, strict=True)]), env_ids


def _evaluations(path: Path) -> Series:
    """SB3's evaluations.npz: the mean over the episodes of each evaluation."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as data:
            return _series(list(zip(data["timesteps"].tolist(), data["results"].mean(axis=1).tolist(), strict=True)))
    except (ValueError, KeyError, IndexError, OSError, zipfile.BadZipFile) as error:
        raise LogError(f"{path} is not an evaluations.npz of stable-baselines3: {error}") from None


# -- scales --------------------------------------------------------------------------------------------------------------


def scale(run: Logged) -> Any:
    """What makes scores of the run's returns, 0 what uniform actions earn and 1 the best reference; None if there is none.

    A run of someone else's has one if its task is called as a sim is (`--task cartpole`).
    """
    import envs
    from rlsys.torchenv import score_scale  # here: torch

    if run.env is not None:
        return score_scale(run.env, "test")
    return score_scale(SimConfig(name=run.task), "test") if run.task in envs.sims() else None
