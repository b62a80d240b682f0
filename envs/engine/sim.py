"""What a user writes: a `Sim` is a state record, a parameter record and a few plain functions.

    State  = state_dtype(x="real", x_dot="real", board=("i1", (12, 12)))
    Params = params(gravity=9.8, mass=1.0)

    @njit
    def reset(s, p): ...                        # fill the state record s of a new episode
    @njit
    def step(s, p, action): ...                 # advance s; return (reward, terminated)
    @njit
    def observe(s, p, obs): ...                 # write the observation of s into the array obs
    def draw(s, p, canvas): ...                 # optional, CPU only
    @njit
    def valid(s, p): ...                        # optional, see Sim.valid
    @njit
    def scripted(s, p, action): ...             # optional, see Sim.scripted

    SIM = Sim(name="CartPole", version=0, state=State, params=Params, reset=reset, ...)

`s` and `p` are records (`s.x`, `s.board[i, j]`); `obs` is a view of the batch's observation array. Truncation,
autoreset, seeding, levels, statistics and snapshots are the engine's: a sim has no code for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import gymnasium
import numpy as np

# What the engine keeps about each env, inside the same record as the sim's own state (so that a snapshot is one array).
# A sim may read `s.level`, `s.elapsed` and `s.episode`.
ENGINE_FIELDS = {
    "key": "u8",  # random stream of this episode
    "episode_return": "f8",  # undiscounted sum of rewards so far
    "level": "i8",  # level id of this episode (0 in sims without levels)
    "episode": "i8",  # episodes begun since the seed was set, from 0
    "elapsed": "i4",  # steps taken in this episode
    "draws": "u4",  # random numbers drawn in this episode
    "ended": "u1",  # the last step ended the episode (NEXT_STEP autoreset only)
}
REAL = {"float32": "f4", "float64": "f8"}
LARGEST = np.finfo(np.float32).max

REFERENCES = ("random", "scripted", "optimal")

# Level ids of the three splits: disjoint by construction.
SPLITS = {"train": (0, 2**30), "validation": (2**30, 2**29), "test": (2**30 + 2**29, 2**29)}


@dataclass(frozen=True)
class Fields:
    """The fields of a record whose floating-point width (`"real"`) is chosen when an env is made."""

    spec: Mapping[str, Any]

    def __post_init__(self):
        for name in self.spec:
            if hasattr(np.record, name):  # where Python would take it for the record's own
                raise ValueError(f"field {name!r} is an attribute of NumPy's records; choose another name.")

    def dtype(self, precision: str, extra: Mapping[str, str] = {}) -> np.dtype:
        """The NumPy record dtype at `precision` ("float32" or "float64")."""
        fields = [(name, *self._sized(spec, precision)) for name, spec in {**self.spec, **extra}.items()]
        return np.dtype(fields, align=True)

    @staticmethod
    def _sized(spec, precision):
        kind, *shape = spec if isinstance(spec, tuple) else (spec,)
        return (REAL[precision] if kind == "real" else kind, *shape)


@dataclass(frozen=True)
class Params(Fields):
    """Named parameters with defaults."""

    defaults: Mapping[str, float | int]

    def check(self, overrides: Mapping[str, Any], key: str = "params") -> None:
        """Raise `ValueError` for an override that names no parameter, or does not fit it; key: what they are called.

        A real parameter takes numbers that float32 can hold, an integer one integers; either one, a [low, high] range
        as a list or tuple, or an array.
        """
        for name, value in overrides.items():
            if name not in self.defaults:
                near = get_close_matches(str(name), self.defaults, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{key} has no {name!r}.{hint} Parameters: {', '.join(self.defaults) or 'none'}.")
            try:
                array = np.asarray(value)
            except ValueError:  # lists of unequal length
                array = np.array(None)
            if self.spec[name] == "real":
                wanted, fits = "a finite number", array.dtype.kind in "iuf" and bool((abs(array) <= LARGEST).all())
            else:
                wanted, fits = "an integer", np.can_cast(array.dtype, np.int64)
            if array.size == 0 or not fits:
                raise ValueError(f"{key}.{name}={value!r} is not {wanted}, a [low, high] range or an array of them.")
            if isinstance(value, list | tuple) and (array.shape != (2,) or array[0] > array[1]):
                raise ValueError(f"{key}.{name}={value!r} is not a range [low, high] with low <= high.")


def state_dtype(**fields: str | tuple[str, tuple[int, ...]]) -> Fields:
    """Declare a sim's state record: `name="real"` (the env's float width), any NumPy type code, or `(code, shape)`."""
    for name in fields:
        if name in ENGINE_FIELDS:
            raise ValueError(f"state field {name!r} is kept by the engine; choose another name.")
    return Fields(fields)


def params(**defaults: float | int) -> Params:
    """Declare a sim's parameters and their defaults: floats become "real", integers int64."""
    spec = {name: "real" if isinstance(value, float) else "i8" for name, value in defaults.items()}
    return Params(spec or {"none": "i8"}, defaults)


@dataclass(frozen=True)
class Reference:
    """What a policy earns: the mean undiscounted return of an episode under the sim's default parameters.

    error: its standard error, 0 where it is exact. how: the policy, and how the mean was computed, in a few words.
    """

    mean: float
    error: float
    how: str


@dataclass(frozen=True)
class Scale:
    """A sim's returns as scores: 0 is what uniform actions earn (`random`), 1 what `reference` ("optimal", "scripted") does.

    A score is below 0 for who does worse than chance, and above 1 where the reference is no bound.
    """

    reference: str
    random: float
    best: float

    def score(self, mean_return: float) -> float:
        return (mean_return - self.random) / (self.best - self.random)


@dataclass(frozen=True, eq=False)
class Sim:
    """A simulator: everything the engine needs to run N copies of a world. See this module's docstring.

    valid: for a sim that looks up arrays by numbers in its state: whether `s` is a state that its functions lead to, or
        can at least start from. Compiled code does not look where it reads and writes, so whoever restores a damaged
        snapshot, or sets a state by hand, is stopped here.
    scripted: the baseline, a policy written by hand: fills the vector `action` ((1,) for Discrete) with what it would
        do in `s`. It may look at all of `s`, also at what `observe` does not show.
    references: what is known about returns: "random" (uniform actions), "scripted", and "optimal" (the best possible, or
        a bound that `how` names). `envs.reference.measure` measures the first two. See `scale`.
    """

    name: str
    version: int
    state: Fields
    params: Params
    reset: Callable[..., None]
    step: Callable[..., tuple[float, bool]]
    observe: Callable[..., None]
    observation_space: gymnasium.spaces.Space
    action_space: gymnasium.spaces.Space
    max_episode_steps: int
    draw: Callable[..., None] | None = None
    reward_threshold: float | None = None
    valid: Callable[..., bool] | None = None
    scripted: Callable[..., None] | None = None
    references: Mapping[str, Reference] = field(default_factory=dict)
    levels: bool = False  # episodes differ by `s.level`
    frame_rate: int = 30  # frames a second of a replay in real time

    def __post_init__(self):
        spaces = gymnasium.spaces
        if not isinstance(self.observation_space, spaces.Box | spaces.MultiBinary):
            raise ValueError(
                f"{self.name}: observation_space must be Box or MultiBinary, not {self.observation_space}."
            )
        if not isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
            raise ValueError(
                f"{self.name}: action_space must be Discrete, MultiDiscrete or Box, not {self.action_space}."
            )
        if np.any(getattr(self.action_space, "start", 0)):
            raise ValueError(f"{self.name}: action_space {self.action_space} must start at 0.")
        if isinstance(self.action_space, spaces.MultiDiscrete) and len(self.action_space.shape) != 1:
            raise ValueError(f"{self.name}: action_space {self.action_space} must have one dimension.")
        for space in (self.observation_space, self.action_space):
            if isinstance(space, spaces.Box) and not space.shape:
                raise ValueError(f"{self.name}: {space} must have a dimension, as with shape=(1,).")
        if unknown := set(self.references) - set(REFERENCES):
            raise ValueError(f"{self.name}: references {sorted(unknown)} are not of {', '.join(REFERENCES)}.")
        if (scale := self.scale()) and not scale.random < scale.best:
            raise ValueError(f"{self.name}: the reference {scale.reference!r} must be above 'random'.")
        if self.max_episode_steps < 1:
            raise ValueError(f"{self.name}: max_episode_steps={self.max_episode_steps} must be at least 1.")

    @property
    def is_integer(self) -> bool:
        """Whether its state has no floats: then every device gives the same bytes."""
        return not any(name == "real" or name[0] == "f" for name in _codes(self.state))

    @property
    def id(self) -> str:
        """The Gymnasium id, e.g. `rlsys/CartPole-v0`."""
        return f"rlsys/{self.name}-v{self.version}"

    def scale(self, params: Mapping[str, Any] = {}, max_episode_steps: int | None = None) -> Scale | None:
        """The scale from "random" to "optimal", or to "scripted" where no optimum is known.

        None without references, and with parameters or a step limit that they do not hold for: any but the defaults.
        """
        if any(np.any(np.asarray(value) != self.params.defaults[name]) for name, value in params.items()):
            return None
        if max_episode_steps not in (None, self.max_episode_steps):
            return None
        reference = "optimal" if "optimal" in self.references else "scripted"
        if not {"random", reference} <= set(self.references):
            return None
        return Scale(reference, self.references["random"].mean, self.references[reference].mean)


def _codes(fields: Fields) -> list[str]:
    """The type code of each field."""
    return [spec[0] if isinstance(spec, tuple) else spec for spec in fields.spec.values()]
