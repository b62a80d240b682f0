"""What a sweep is asked for: the values to search, the seeds, what is better. Plain data, which any process can read."""

import math
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np

from rlsys.config import BUILT_IN, Config, ConfigError, SweepConfig, may_change
from rlsys.folder import names
from rlsys.statistics import iqm

FEW_SEEDS = 4  # below which no quarter can be cut off: the mean is taken
COMBINATIONS = 8  # in which a value is tried, before it is said to be wrong

# What a segment of a population's member is told: it is evaluated at its end, and does not end before.
PER_SEGMENT = ("eval_every=0", "stop_when_solved=false")
IN_SEGMENTS = frozenset(text.partition("=")[0] for text in PER_SEGMENT)

Compose = Callable[[list[str]], Config]  # what `rlsys train` would make of these overrides; ConfigError, if nothing

# What can be asked for, by name: where a run's summary.json has it, and which way is better.
OBJECTIVES: dict[str, tuple[str, Literal["maximize", "minimize"]]] = {
    "score": ("validation/best_mean_reward", "maximize"),
    "seconds": ("seconds", "minimize"),
    "steps": ("steps", "minimize"),
    "joules": ("cost/joules", "minimize"),
}


@dataclass(frozen=True)
class Parameter:
    """The values that a key may take: texts as one would type them, or numbers from low to high."""

    kind: str  # "choice", "float" or "int"
    choices: list[str] = field(default_factory=list)
    low: float = 0.0
    high: float = 0.0
    step: float | None = None  # every value of the interval, if None
    log: bool = False

    def suggest(self, trial: Any, key: str) -> str:
        """The value of `key` in this trial, as one would type it."""
        if self.kind == "choice":
            return str(trial.suggest_categorical(key, self.choices))
        if self.kind == "int":
            return str(trial.suggest_int(key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log))
        return repr(float(trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)))

    def draw(self, draw: random.Random) -> Any:
        """Any of them, as the sampler would give it."""
        if self.kind == "choice":
            return draw.choice(self.choices)
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = draw.uniform(low, high)
        return self._nearest(math.exp(value) if self.log else value)

    def next(self, value: Any, up: bool) -> Any:
        """A neighbour of a value: 1.2 or 0.8 times it, at least a step away, inside the bounds; of choices the one beside it."""
        if self.kind == "choice":
            at = self.choices.index(value)
            last = len(self.choices) - 1
            return self.choices[min(1, last) if at == 0 else at - 1 if at == last or not up else at + 1]
        moved = self._nearest(value * (1.2 if up else 0.8))
        step = self.step or (1 if self.kind == "int" else 0)
        return self._nearest(value + (step if up else -step)) if moved == value and step else moved

    def _nearest(self, value: float) -> Any:
        """The nearest number that may be."""
        step = self.step or (1.0 if self.kind == "int" else None)
        if step:
            value = self.low + step * round((value - self.low) / step)
        value = min(max(value, self.low), self.high)
        return round(value) if self.kind == "int" else value

    def corners(self) -> list[str]:
        """Every choice, or the ends of the interval."""
        ends = (self.low, self.high)
        return self.choices or [str(int(end)) if self.kind == "int" else repr(float(end)) for end in ends]

    def all(self) -> list[Any] | None:
        """Every value, as the sampler gives it; None if there are too many to count."""
        if self.kind == "choice":
            return list(self.choices)
        if self.step is None or self.log:
            return None
        found = np.arange(self.low, self.high + self.step / 2, self.step).tolist()
        return [int(value) for value in found] if self.kind == "int" else found


@dataclass(frozen=True)
class Spec:
    """A sweep: what every process that works on it has to know."""

    name: str
    fixed: list[str]  # what is typed for every run, such as "experiment=cartpole"
    space: dict[str, Parameter]  # by key
    seeds: list[int]  # of each trial; mode=pbt: of the members
    evaluations: int  # that a run makes
    sweep: SweepConfig
    steps: int = 0  # total_timesteps of a run

    def __post_init__(self):
        """ConfigError for what cannot be searched as asked."""
        sampler, pruner, several = self.sweep.sampler, self.pruner, len(self.sweep.objective) > 1
        if not self.space:
            raise ConfigError(
                "there is nothing to search: give a key several values, such as agent.gamma=choice(0.98,0.99)."
            )
        for key, parameter in self.space.items():
            if sampler == "grid" and parameter.all() is None:
                raise ConfigError(
                    f"sweep.sampler=grid cannot count the values of {key}: give choice(...) or range(...)."
                )
            if sampler == "cmaes" and parameter.kind == "choice":
                raise ConfigError(
                    f"sweep.sampler=cmaes searches numbers only: give {key} an interval(...), or use tpe."
                )
        if self.reads_curves and self.evaluations < 2:
            raise ConfigError(
                f"sweep.pruner={pruner} looks at evaluations while a run trains, and there is only the last one: "
                "lower eval_every, or use sweep.pruner=none."
            )
        if pruner == "wilcoxon" and len(self.seeds) < 5:
            raise ConfigError(
                f"sweep.pruner=wilcoxon needs 5 seeds or more to tell anything from 4; not {len(self.seeds)}."
            )
        if self.is_population:
            self._check_population()
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seed={','.join(map(str, self.seeds))}: a seed is there twice.")
        assert not (several and pruner != "none")

    def _check_population(self) -> None:
        for key in self.space:
            if not may_change(key):
                raise ConfigError(
                    f"sweep.mode=pbt cannot search {key}: it cannot change while a run trains. Give several values to keys "
                    f"of the agent, but for {', '.join(sorted(BUILT_IN))}; fix the others."
                )
        for text in self.fixed:
            key = text.partition("=")[0]
            if key in ("stop_at", "schedule") or (key in IN_SEGMENTS and text not in PER_SEGMENT):
                raise ConfigError(
                    f"{text}: with sweep.mode=pbt a run is a segment of a member, evaluated at its end: leave {key} out."
                )
        if self.interval >= self.steps:
            raise ConfigError(
                f"sweep.interval={self.interval} leaves nothing to compare: it must be below "
                f"total_timesteps={self.steps}, such as {max(1, self.steps // 10)}."
            )
        if len(self.seeds) != self.sweep.population:
            raise ConfigError(
                f"seed={','.join(map(str, self.seeds))}: with sweep.mode=pbt each member has a seed, which makes "
                f"{self.sweep.population}: name so many, or only the first one."
            )

    # -- a population: trial g P + m is segment g of member m

    @property
    def is_population(self) -> bool:
        return self.sweep.mode == "pbt"

    @property
    def interval(self) -> int:
        """Steps of a segment."""
        return self.sweep.interval or math.ceil(self.steps / 10)

    @property
    def segments(self) -> int:
        """Of each member."""
        return math.ceil(self.steps / self.interval)

    def member(self, number: int) -> int:
        return number % self.sweep.population

    def end(self, number: int) -> int:
        """The step at which a segment ends, or rather the first iteration at or after it."""
        return min((number // self.sweep.population + 1) * self.interval, self.steps)

    @property
    def pruner(self) -> str:
        """The pruner's name, once `auto` is decided."""
        if self.is_population:
            return "none"
        if self.sweep.pruner != "auto":
            return self.sweep.pruner
        return "median" if self.sweep.objective == ["score"] and self.evaluations > 1 else "none"

    @property
    def trials(self) -> int:
        """How many trials there will be: as asked, and not more than a grid has."""
        if self.is_population:
            return self.sweep.population * self.segments
        if self.sweep.sampler != "grid":
            return self.sweep.trials
        return min(self.sweep.trials, math.prod(len(p.all() or ()) for p in self.space.values()))

    def grid(self) -> list[dict[str, Any]]:
        """All points of a grid, in an order of their own: the first ones are spread over it."""
        points = [
            dict(zip(self.space, point, strict=True))
            for point in product(*(p.all() or () for p in self.space.values()))
        ]
        return [points[i] for i in np.random.default_rng(self.sweep.sampler_seed).permutation(len(points))]

    @property
    def held_back(self) -> list[int]:
        """The seeds that wait until the pruner has seen the others."""
        return self.seeds[self.sweep.pruner_seeds :] if self.reads_curves else []

    def given(self, threads: int) -> list[str]:
        """What is typed for every run, and what a run of a sweep does unless told otherwise."""
        typed = {override.partition("=")[0] for override in self.fixed}
        usual = {"threads": threads, "replay": "false"}
        return [f"{key}={value}" for key, value in usual.items() if key not in typed] + self.fixed

    @property
    def reads_curves(self) -> bool:
        """Whether the pruner looks at runs while they train."""
        return self.pruner in ("median", "asha", "hyperband")

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Spec":
        space = {key: Parameter(**parameter) for key, parameter in data["space"].items()}
        return cls(**{**data, "space": space, "sweep": SweepConfig(**data["sweep"])})


def centre(values: Any, axis: int = -1) -> Any:
    """What a trial is judged by: the interquartile mean over its seeds, of fewer than 4 the mean."""
    values = np.asarray(values, np.float64)
    return iqm(values, axis) if values.shape[axis] >= FEW_SEEDS else values.mean(axis)


def plan(fixed: list[str], space: dict[str, Parameter], seeds: list[int], sweep: SweepConfig, compose: Compose) -> Spec:
    """The sweep that this asks for, every value of it tried on `compose`; ConfigError names the first that is wrong."""
    config = compose(fixed)
    if sweep.mode == "pbt":
        seeds = seeds or [config.seed + i for i in range(sweep.population)]
        fixed = [*fixed, *PER_SEGMENT]
    seeds = seeds or [config.seed + i for i in range(sweep.seeds)]
    evaluations = config.total_timesteps // config.eval_every if config.eval_every else 1
    name = "-".join([*names(config), time.strftime("%Y%m%d-%H%M%S"), secrets.token_hex(2)])
    spec = Spec(name, fixed, space, seeds, max(1, evaluations), sweep, config.total_timesteps)
    for seed in seeds:
        compose([*fixed, f"seed={seed}"])
    if spec.is_population:
        longest = config.num_envs * _rollout(config.agent, space)
        if longest > spec.interval:
            raise ConfigError(
                f"sweep.interval={spec.interval} is shorter than one iteration, which takes {longest} steps: raise it, or "
                "lower num_envs or n_steps."
            )
    if config.distributed == "ddp":
        raise ConfigError(
            "distributed=ddp: a run of a sweep is one process. Leave it out; more runs side by side: sweep.workers."
        )
    if config.device == "cuda" and not sweep.gpus_per_worker:
        raise ConfigError("device=cuda: the runs of a sweep see no GPU but with sweep.gpus_per_worker=1 or more.")
    corners = {key: parameter.corners() for key, parameter in space.items()}
    draw = random.Random(0)
    for key, values in corners.items():
        for value in values:
            _check_value(key, value, fixed, corners, compose, draw)
    return spec


def _rollout(agent: Any, space: dict[str, Parameter]) -> int:
    """The most steps that each env makes in an iteration, as far as it is told by n_steps."""
    searched = next((parameter for key, parameter in space.items() if key.endswith(".n_steps")), None)
    if searched:
        return max(int(float(text)) for text in searched.corners())
    return int(getattr(agent, "n_steps", 0) or getattr(agent, "hyperparameters", {}).get("n_steps", 0))


def _check_value(
    key: str, value: str, fixed: list[str], corners: dict[str, list[str]], compose: Compose, draw: random.Random
) -> None:
    """Raise what is wrong with a value, if it is wrong in all combinations that are tried; others are for the trials."""
    for attempt in range(COMBINATIONS):
        chosen = {other: draw.choice(found) if attempt else found[0] for other, found in corners.items()} | {key: value}
        try:
            compose([*fixed, *(f"{name}={text}" for name, text in chosen.items())])
        except ConfigError:
            if attempt == COMBINATIONS - 1:
                raise
        else:
            return
