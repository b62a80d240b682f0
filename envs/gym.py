"""Any Gymnasium environment, made to look like a native one: arrays written in place, `final_obs`, one obs array.

`GymVectorEnv` steps a `gymnasium.vector.VectorEnv` and reads its autoreset mode, so that what the trainer sees is always
the same: the observation to act on next, the last observation of an episode that ended, and which rows are experience.

Observations become one array of a fixed shape: Box and MultiBinary as they are; Discrete and MultiDiscrete one-hot; Dict
and Tuple flattened to a float32 vector, whose parts (numbers, one-hot, image) `leaves` lists so that a network can tell
them apart. Text inside them (MiniGrid's mission) is left out: no network here reads words.
"""

import atexit
import contextlib
import importlib
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from numpy.typing import NDArray

from envs.engine.vector import SPLIT_SALT, Transition
from envs.envpool import EnvPool, check_pool

# What registers the ids that begin so when it is imported, and the extra of rlsys that installs it. A config names none of them.
FAMILIES = {
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "MinAtar/": ("minatar.gym", "minatar"),
}
EXTRAS = {"gymnasium.envs.box2d.": "box2d", "gymnasium.envs.mujoco.": "mujoco"}  # Gymnasium's own, by where they are


class EnvError(RuntimeError):
    """An environment raised, or returned what nothing can be learned from. The message says which one, and where."""


@dataclass(frozen=True)
class Leaf:
    """One space inside an observation space: where it is, what its numbers mean, and its shape once packed."""

    path: tuple[Any, ...]
    space: spaces.Space
    kind: str  # "vector", "binary", "grid" or "image" (channels last)
    shape: tuple[int, ...]

    def pack(self, obs: Any, n: int) -> NDArray:
        """This leaf of a batch of n observations, (n, *shape)."""
        for key in self.path:
            obs = obs[key]
        array = np.asarray(obs)
        if isinstance(self.space, spaces.Discrete):
            return _one_hot(array.reshape(n) - self.space.start, int(self.space.n))
        if isinstance(self.space, spaces.MultiDiscrete):
            nvec = np.asarray(self.space.nvec).ravel()
            digits = array.reshape(n, -1) - np.asarray(self.space.start).ravel()
            return np.concatenate([_one_hot(digits[:, k], int(size)) for k, size in enumerate(nvec)], axis=1)
        if _is_channels_first(self.space):
            array = np.moveaxis(array, -3, -1)
        return array.reshape(n, *self.shape)


def leaves(space: spaces.Space) -> list[Leaf]:
    """The leaves of an observation space, in a fixed order, without text. ValueError for a space no network here can read."""
    return list(_leaves(space, ())) or _refuse(space, ())


def leaves_of(env: Any) -> list[Leaf]:
    """The leaves of what an env shows: its own list, where it packs or stacks them, else those of its space."""
    return getattr(env, "leaves", None) or leaves(env.single_observation_space)


def _leaves(space: spaces.Space, path: tuple[Any, ...]) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            yield from _leaves(inner, (*path, index))
    elif isinstance(space, spaces.Discrete):
        yield Leaf(path, space, "binary", (int(space.n),))
    elif isinstance(space, spaces.MultiDiscrete):
        yield Leaf(path, space, "binary", (int(np.sum(space.nvec)),))
    elif isinstance(space, spaces.MultiBinary):
        yield Leaf(path, space, "grid" if len(space.shape) == 3 else "binary", space.shape)
    elif isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind in "fiub":
        yield _box_leaf(path, space)
    elif not (path and space.dtype is not None and space.dtype.kind == "U"):  # text: a Text, or MiniGrid's MissionSpace
        _refuse(space, path)


def _refuse(space: spaces.Space, path: tuple[Any, ...]) -> NoReturn:
    where = "".join(f"[{key!r}]" for key in path)
    raise ValueError(
        f"observation space{where} {space} is not supported. Supported: Box, Discrete, MultiDiscrete, MultiBinary, and "
        "Dict and Tuple of these. Wrap the environment to return one of them."
    )


def _box_leaf(path: tuple[Any, ...], space: spaces.Box) -> Leaf:
    if len(space.shape) != 3:
        return Leaf(path, space, "vector", space.shape)
    channels, *size = space.shape if _is_channels_first(space) else (space.shape[2], *space.shape[:2])
    kind = "image" if space.dtype == np.uint8 and (space.high == 255).all() else "grid"  # brightness, or other numbers
    return Leaf(path, space, kind, (*size, channels))


def _is_channels_first(space: spaces.Space) -> bool:
    shape = space.shape or ()
    return isinstance(space, spaces.Box) and len(shape) == 3 and shape[0] < min(shape[1:])


def _one_hot(index: NDArray, n: int) -> NDArray:
    return np.eye(n, dtype=np.float32)[index] if n <= 64 else (index[:, None] == np.arange(n)).astype(np.float32)


class GymVectorEnv:
    """A `gymnasium.vector.VectorEnv` with the interface of `SimVectorEnv` that the trainer uses.

    valid: (N,) bool, rows of the last step that are experience (a NEXT_STEP reset is not); None means all.
    info: what the env said besides, at the last step.
    """

    is_resident = False  # on the CPU

    of_each_env: tuple[str, ...] = ()  # in `get_state`

    def __init__(
        self, env: VectorEnv, *, seed: int = 0, split: str = "train", first_env: int = 0, all_envs: int | None = None
    ):
        """first_env, all_envs: where these are in a larger batch, of which other processes have the rest."""
        self.env, self.num_envs, self.metadata = env, env.num_envs, env.metadata
        self.single_observation_space = env.single_observation_space
        self.leaves = leaves(env.single_observation_space)
        self.single_action_space = check_action_space(env.single_action_space)
        self.mode = env.metadata.get("autoreset_mode")
        if not isinstance(self.mode, AutoresetMode):
            raise ValueError(
                f"{env}: metadata['autoreset_mode']={self.mode!r} is not an AutoresetMode; cannot train on it."
            )
        first = self.leaves[0]
        if len(self.leaves) > 1 or first.path or first.kind == "vector":
            self.obs_shape = first.shape if len(self.leaves) == 1 else (sum(math.prod(p.shape) for p in self.leaves),)
            self.obs_dtype: np.dtype = np.dtype(np.float32)
        else:
            self.obs_shape = first.shape
            self.obs_dtype = np.dtype(first.space.dtype if first.kind in ("image", "grid") else np.float32)
        # Gymnasium numbers the envs' seeds seed, seed + 1, ...: start far apart for every (seed, split).
        self.seed = int(np.random.SeedSequence([seed, SPLIT_SALT[split]]).generate_state(1)[0]) >> 2
        self.seed += first_env
        self._all_envs = all_envs or env.num_envs
        self.valid = np.ones(self.num_envs, bool) if self.mode is AutoresetMode.NEXT_STEP else None
        self._restores = 0
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._was_done = np.zeros(self.num_envs, bool)
        atexit.register(self._at_exit)

    def arrays(self) -> Transition:
        """Fresh arrays for `step(actions, out)`."""
        n = self.num_envs
        return Transition(
            obs=np.zeros((n, *self.obs_shape), self.obs_dtype),
            reward=np.zeros(n, np.float32),
            terminated=np.zeros(n, bool),
            truncated=np.zeros(n, bool),
            final_obs=np.zeros((n, *self.obs_shape), self.obs_dtype),
            episode_return=np.zeros(n),
            episode_length=np.zeros(n, np.int64),
        )

    def bind(self, out: Transition) -> Transition:
        """`out` itself: here nothing needs to be prepared."""
        return out

    def restart(self, obs: NDArray) -> None:
        """Begin with the first episodes of this env's seed (again); writes their observations into obs (N, ...)."""
        self._begin(self.seed, obs)

    def advance(self, actions: NDArray, out: Transition) -> NDArray | None:
        """Step every env; fills `out`; returns the mask (N,) of envs whose episode ended, or None if none.

        Sets `valid`, the mask (N,) of rows that are experience: all (None), but for the resets of NextStep.
        """
        with _blaming(self.env):
            obs, reward, terminated, truncated, info = self.env.step(actions)
        self.info = info
        out.reward[:], out.terminated[:], out.truncated[:] = reward, terminated, truncated
        out.episode_return[:], out.episode_length[:] = 0.0, 0
        _check_finite("a reward", out.reward)
        self._pack(obs, out.obs)
        if self.valid is not None:  # NEXT_STEP: after an end comes one step that only resets
            np.logical_not(self._was_done, out=self.valid)
        self._returns += out.reward
        self._lengths += 1 if self.valid is None else self.valid
        done = out.terminated | out.truncated
        self._was_done[:] = done
        if not done.any():
            return None
        self._end_episodes(done, info, out)
        return done

    def get_state(self) -> dict[str, Any]:
        """Gymnasium has no way to save an environment; only how often this one was put back is remembered."""
        return {"restores": self._restores}

    def set_state(self, state: dict[str, Any], obs: NDArray) -> None:
        """Begin new episodes, not seen before; writes their observations into obs (N, ...)."""
        self._restores = state["restores"] + 1
        self._begin(self.seed + self._restores * self._all_envs, obs)

    def _begin(self, seed: int, out: NDArray) -> None:
        with _blaming(self.env):
            obs, self.info = self.env.reset(seed=seed)
        self._returns[:], self._lengths[:], self._was_done[:] = 0.0, 0, False
        self._pack(obs, out)

    def _end_episodes(self, done: NDArray, info: dict[str, Any], out: Transition) -> None:
        if self.mode is AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(done):
                last = _batch_of_one(info["final_obs"][i], self.env.single_observation_space)
                out.final_obs[i] = self._packed(last, 1)[0]
            _check_finite("a last observation", out.final_obs)
        else:
            out.final_obs[done] = out.obs[done]
        if self.mode is AutoresetMode.DISABLED:
            with _blaming(self.env):
                obs, _ = self.env.reset(options={"reset_mask": done})
            self._pack(obs, out.obs)
        out.episode_return[done], out.episode_length[done] = self._returns[done], self._lengths[done]
        self._returns[done], self._lengths[done] = 0.0, 0

    def _pack(self, obs: Any, out: NDArray) -> None:
        out[:] = self._packed(obs, self.num_envs)
        _check_finite("an observation", out)

    def _packed(self, obs: Any, n: int) -> NDArray:
        if len(self.leaves) == 1:
            return self.leaves[0].pack(obs, n)
        return np.concatenate([leaf.pack(obs, n).reshape(n, -1) for leaf in self.leaves], axis=1)

    def frame(self, i: int) -> NDArray:
        """A picture of env i, (height, width, 3) uint8; needs render_mode="rgb_array"."""
        try:
            frames = self.env.render()
        except Exception as error:  # a library that draws may be missing
            raise ValueError(f"the environment has no pictures: {type(error).__name__}: {error}") from error
        frame = np.asarray(None if frames is None else frames[i])
        if frame.dtype.kind == "f" and frame.size and frame.min() >= 0.0 and frame.max() <= 1.0:  # MinAtar's
            frame = (255 * frame).round().astype(np.uint8)
        if frame.ndim != 3 or frame.dtype != np.uint8:
            raise ValueError("the environment has no pictures: its rgb_array is not (height, width, 3) uint8.")
        return frame

    def close(self) -> None:
        self.env.close()
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if isinstance(self.env, AsyncVectorEnv):
            _kill(self.env)  # or Python would wait for them: they are deaf to its SIGTERM


def _check_finite(what: str, array: NDArray) -> None:
    """Raise EnvError if a row of `array` (N, ...) has NaN or infinity in it."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(1)))
        raise EnvError(f"env {row} returned {what} that is not finite: {array[row].tolist()!s:.60}")


@contextlib.contextmanager
def _blaming(env: VectorEnv) -> Iterator[None]:
    """Say in one line which environment raised what, and where; the error itself is the cause."""
    try:
        yield
    except Exception as error:
        if isinstance(env, AsyncVectorEnv):
            _kill(env)
        frames = list(traceback.walk_tb(error.__traceback__))
        ones = {id(one): i for i, one in enumerate(getattr(env, "envs", []))}  # a SyncVectorEnv's
        who = [ones[id(frame.f_locals["self"])] for frame, _ in frames if id(frame.f_locals.get("self")) in ones]
        where = f"{Path(frames[-1][0].f_code.co_filename).name}, line {frames[-1][1]}"
        what = f"{type(error).__name__}: {' '.join(str(error).split())} ({where})"
        raise EnvError(f"env {who[0]} raised {what}" if who else f"the environments raised {what}") from error


def _kill(env: AsyncVectorEnv) -> None:
    """End its processes, of which some may be dead, some busy, and none waits to be asked."""
    for process in env.processes:
        process.kill()
    env.closed = True


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """Processes started inside are deaf to Ctrl-C and SIGTERM, which are for the trainer: it saves before they end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _batch_of_one(obs: Any, space: spaces.Space) -> Any:
    """One observation as a batch of one, with the nesting of its space."""
    if isinstance(space, spaces.Dict):
        return {key: _batch_of_one(obs[key], inner) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_batch_of_one(x, inner) for x, inner in zip(obs, space.spaces, strict=True))
    return np.asarray(obs)[None]


def check_action_space(space: spaces.Space) -> spaces.Space:
    """`space` if an agent here can act in it, else ValueError."""
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return space
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f" and 0 not in space.shape:
        return space
    raise ValueError(f"action space {space} is not supported. Supported: Discrete (from 0) and Box of floats.")


_importable: set[str] = set()


def allow_import(module: str) -> None:
    """Let environment ids name this module. Making "module:Name-v0" runs the module's code, so a config alone may not."""
    _importable.add(module)


def check_id(env_id: str, vectorization: str = "sync") -> None:
    """Raise ValueError, which names the remedy, unless there is an environment `env_id` to be vectorised so."""
    if vectorization == "envpool":
        check_pool(env_id)
    else:
        find_spec(env_id)


def reward_threshold(env_id: str, vectorization: str = "sync") -> float | None:
    """The mean return at which the environment counts as solved, if its author said so."""
    if vectorization == "envpool":
        return getattr(check_pool(env_id).make_spec(env_id), "reward_threshold", None)
    return find_spec(env_id).reward_threshold


def find_spec(env_id: str) -> EnvSpec:
    """What is registered as `env_id`, after importing what registers it: a package of FAMILIES, or a module that is allowed.

    Raises ValueError, with the remedy, if that cannot be imported or registers no such id.
    """
    module, _, name = env_id.rpartition(":")
    if module and module not in _importable:
        raise ValueError(
            f"env.id={env_id!r} would import the module {module!r}. If you trust it, add --allow-import {module}"
        )
    try:
        if module:
            importlib.import_module(module)
        elif name not in gymnasium.registry:
            _register_family(name)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"env.id={env_id!r} cannot be made: {error}") from error


def _register_family(name: str) -> None:
    """Import the package that registers ids like `name`, if there is one. ImportError says how to install it."""
    for prefix, (module, extra) in FAMILIES.items():
        if name.startswith(prefix):
            try:
                family = importlib.import_module(module)
            except ImportError as error:
                raise ImportError(_install(extra)) from error
            if hasattr(family, "register_envs"):  # MinAtar waits to be asked
                family.register_envs()


def _install(extra: str) -> str:
    return f"a package that it needs is missing: pip install 'rlsys[{extra}]'"


def make(
    env_id: str,
    num_envs: int,
    *,
    vectorization: str = "sync",
    kwargs: dict[str, Any] = {},
    seed: int = 0,
    split: str = "train",
    first_env: int = 0,
    all_envs: int | None = None,
    autoreset_mode: str = "SameStep",
    render_mode: str | None = None,
) -> GymVectorEnv:
    """`num_envs` copies of the Gymnasium environment `env_id`.

    vectorization: "sync" (this process), "async" (one process each), "native" (the env's own vector implementation) or
        "envpool" (envpool's environment of this name); the last two have the autoreset mode that they have.
    env_id: a registered name, or "module:Name-v0" for a module given to `allow_import` before.
    Raises ValueError for an unknown id, a package that is missing, a module that is not allowed, or an unsupported space.
    """
    check_id(env_id, vectorization)
    if render_mode:
        kwargs = {**kwargs, "render_mode": render_mode}
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            os.environ.setdefault(
                "MUJOCO_GL", "egl"
            )  # which fails where it is missing; what is tried else aborts the process
        if vectorization != "envpool":
            vectorization = "sync"  # whose single envs can draw themselves
    try:
        with _no_signals() if vectorization == "async" else contextlib.nullcontext(), warnings.catch_warnings():
            if render_mode:
                warnings.simplefilter("ignore")  # that it is not offered; `frame` says so
            env = _vectorized(env_id, num_envs, vectorization, kwargs, AutoresetMode(autoreset_mode))
    except gymnasium.error.DependencyNotInstalled as error:
        where = str(find_spec(env_id).entry_point)
        extra = next((extra for prefix, extra in EXTRAS.items() if where.startswith(prefix)), None)
        raise ValueError(f"env.id={env_id!r} cannot be made: {_install(extra) if extra else error}") from error
    except gymnasium.error.Error as error:
        raise ValueError(f"env.id={env_id!r} cannot be made: {error}") from error
    except Exception as error:  # of its own code: most often env.kwargs are wrong
        raise ValueError(f"env.id={env_id!r} cannot be made: {type(error).__name__}: {error}") from error
    return GymVectorEnv(env, seed=seed, split=split, first_env=first_env, all_envs=all_envs)


def _vectorized(
    env_id: str, num_envs: int, how: str, kwargs: dict[str, Any], autoreset_mode: AutoresetMode
) -> VectorEnv:
    if how == "envpool":
        return EnvPool(env_id, num_envs, **kwargs)
    if how == "native":
        return gymnasium.make_vec(env_id, num_envs, "vector_entry_point", **kwargs)
    return gymnasium.make_vec(env_id, num_envs, how, {"autoreset_mode": autoreset_mode}, **kwargs)
