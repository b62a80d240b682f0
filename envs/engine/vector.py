"""`SimVectorEnv`: N copies of one Sim behind Gymnasium's vector API.

What it adds to `gymnasium.vector.VectorEnv`: arrays are written in place (`step(actions, out=...)`), the whole state is
one array (`state`, `get_state`, `set_state`), and what env i does depends on (seed, split, i) and its own actions.
"""

import operator
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium
import numba
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

import envs
from envs.engine import kernels, rng
from envs.engine.jit import cycles, pure
from envs.engine.sim import ENGINE_FIELDS, REAL, SPLITS, Sim

PARALLEL_FROM = 8192  # envs; below this, waking threads costs more than they save
SPLIT_SALT = {"train": 0, "validation": 1, "test": 2}
BACKENDS = ("auto", *kernels.BACKENDS)
INT32_MAX = 2**31 - 1
stream_key = pure(rng.stream_key)  # called once: not worth compiling


class DeviceError(RuntimeError):
    """The device asked for is not there, or cannot be used."""


class Transition(NamedTuple):
    """The arrays that one `step` writes (N envs)."""

    obs: NDArray  # [N, ...] the observation to act on next (after a SAME_STEP autoreset: of the new episode)
    reward: NDArray  # [N] float32, or float64 at precision float64
    terminated: NDArray  # [N] bool: the world ended the episode
    truncated: NDArray  # [N] bool: the step limit was reached (both flags may be set)
    final_obs: NDArray  # [N, ...] the last observation of the episode that ended; elsewhere without meaning
    episode_return: NDArray  # [N] float64, undiscounted, of the episode that ended; elsewhere 0
    episode_length: NDArray  # [N] int64, likewise


class Bound(Transition):
    """A Transition whose arrays have been checked, and their addresses put down for the kernels (`SimVectorEnv.bind`)."""

    owner: Any = None
    addresses: Any  # on the CPU
    views: tuple[Any, ...]  # on the GPU


class SimVectorEnv(VectorEnv):
    """N copies of `sim`.

    seed: of the random streams; None draws one from the operating system.
    params: overrides by name. A number holds for all envs; a `[low, high]` list is drawn uniformly, once per env and
        seed (domain randomisation; of integers, both ends may come); an array of shape (N,) gives each env its own value.
    split: "train", "validation" or "test". The three have disjoint level ids and unrelated random streams.
    num_levels: how many of the split's levels to use; 0 means all. Only for sims with levels.
    first_env: these are the envs first_env to first_env + num_envs - 1 of a larger batch, of which other processes have the
        rest: each does what it would do there.
    backend: "serial", "parallel", "python" (see `kernels.load`), or "auto": parallel from 8192 envs on.
    precision: "float32" or "float64", of the sim's real state and parameters and of the reward.
    autoreset_mode: "SameStep" (the step that ends an episode returns the next one's first observation; the last one is
        in `final_obs`) or "NextStep" (it returns the last observation; the next step resets and ignores its action).
    copy: return fresh arrays from `reset` and `step` (Gymnasium's custom) instead of the env's own, which the next call
        overwrites.

    Raises ValueError for anything else, naming it.
    """

    is_resident = False  # on the CPU; see cuda.py
    tells_episodes = True  # in `info`: their returns and lengths

    def __init__(
        self,
        sim: Sim,
        num_envs: int = 1,
        *,
        seed: int | None = None,
        params: dict[str, Any] | None = None,
        split: str = "train",
        num_levels: int = 0,
        max_episode_steps: int | None = None,
        first_env: int = 0,
        backend: str = "auto",
        precision: str = "float32",
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        copy: bool = False,
    ):
        # what `__deepcopy__` makes another of
        self._arguments: dict[str, Any] = {
            "num_envs": num_envs, "seed": seed, "params": params, "split": split, "num_levels": num_levels,
            "max_episode_steps": max_episode_steps, "first_env": first_env, "backend": backend, "precision": precision,
            "autoreset_mode": autoreset_mode, "render_mode": render_mode, "copy": copy,
        }  # fmt: skip
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": sim.frame_rate}
        self.metadata["autoreset_mode"] = mode = _autoreset_mode(autoreset_mode)
        _one_of("split", split, SPLITS)
        _one_of("precision", precision, REAL)
        _one_of("render_mode", render_mode, (None, "rgb_array"))
        num_envs = _integer("num_envs", num_envs, 1, INT32_MAX)
        if max_episode_steps is not None:
            max_episode_steps = _integer("max_episode_steps", max_episode_steps, 1, INT32_MAX)
        first_level, all_levels = SPLITS[split]
        if num_levels and not sim.levels:
            raise ValueError(f"num_levels={num_levels}: {sim.name} has no levels.")
        num_levels = _integer("num_levels", num_levels, 0, all_levels)
        self.first_env = _integer("first_env", first_env, 0, INT32_MAX - num_envs)
        sim.params.check(params or {})

        self.sim, self.num_envs, self.render_mode = sim, num_envs, render_mode
        self.precision, self.split, self.copy = precision, split, copy
        self.max_episode_steps = max_episode_steps or sim.max_episode_steps
        self.single_observation_space, self.single_action_space = sim.observation_space, sim.action_space
        self._kernels = self._load(backend)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        state_dtype = sim.state.dtype(precision, ENGINE_FIELDS)
        self._states = np.zeros(num_envs, state_dtype)
        self._blank = np.zeros(1, state_dtype)
        self._overrides = dict(params or {})
        per_env = any(np.ndim(value) > 0 for value in self._overrides.values())
        self.of_each_env = ("states", "params") if per_env else ("states",)
        self._params = np.zeros(num_envs if per_env else 1, sim.params.dtype(precision))
        self._stride = int(per_env and num_envs > 1)
        self._levels = (first_level, (num_levels or all_levels) if sim.levels else 0)
        threads = numba.get_num_threads() if self.backend == "parallel" else 1
        self._chunk = max(1, -(-num_envs // threads))
        self._next_step = mode is AutoresetMode.NEXT_STEP
        self._ended = np.zeros(num_envs, bool)
        self.valid: NDArray | None = None
        self._discrete = not isinstance(sim.action_space, gymnasium.spaces.Box)
        self._action_dtype = np.dtype(np.int64 if self._discrete else np.float32)
        self._action_shape = (num_envs, *(sim.action_space.shape or ()))
        self._seed = np.zeros(1, np.uint64)
        self._seed_episode_streams(seed)
        self._step: Any = None  # the kernel, once it is compiled
        self._bound: Bound = None  # type: ignore[assignment]  # what the last step was written into

    # -- Gymnasium's API ---------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start a new episode in every env; returns (obs [N, ...], info).

        seed: restart all random streams from it (None: go on with the present ones).
        options: `reset_mask` (N,) bool: only these envs; `level`: an int or (N,) ints to play instead of drawn ones.
        """
        mask, levels = self._read_options(options)
        if seed is not None:
            self._seed_episode_streams(seed)
        with np.errstate(over="ignore"):  # pure Python's unsigned integers warn as they wrap around
            self._kernels.reset_batch(self._world(), self._chunk, levels, mask, self._out.obs)
        if not mask.all():
            self.observe()  # the last step may have written its observations elsewhere
        return self._out.obs.copy() if self.copy else self._out.obs, {}

    def step(self, actions: NDArray, out: Transition | None = None):
        """Advance every env by one step; returns (obs, reward, terminated, truncated, info), arrays over N envs.

        actions: (N,) integers for Discrete, (N, k) integers for MultiDiscrete, (N, ...) floats for Box.
        out: arrays to write into (from `arrays`); by default the env's own.
        info: empty, or, if episodes ended, `final_obs` and `episode` (`r` return, `l` length) with their row masks.
        All arrays are the env's own, or those of `out`, unless it was made with copy=True.
        """
        out = self._out if out is None else out
        if self._next_step:
            ended = self.advance(actions, out)
        else:  # the same, in place: with a handful of envs, a call is a tenth of all the time
            if out is not self._bound:
                self._bound = self.bind(out)
            try:
                num_ended = self._step(self._bound.addresses, actions)
            except TypeError:
                num_ended = self._step_checked(actions)
            ended = None if num_ended == 0 else self._ended_mask(num_ended, actions)
        obs, reward, terminated, truncated, final_obs, episode_return, episode_length = out
        if ended is None:
            info: dict[str, Any] = {}
        else:
            info = {}
            if self.tells_episodes:
                info |= {"episode": {"r": episode_return, "l": episode_length}, "_episode": ended}
            if not self._next_step:
                info |= {"final_obs": final_obs, "_final_obs": ended}
        if self.copy:
            return obs.copy(), reward.copy(), terminated.copy(), truncated.copy(), _copied(info)
        return obs, reward, terminated, truncated, info

    def render(self) -> tuple[NDArray, ...]:
        """One RGB frame (height, width, 3) uint8 for each env."""
        return tuple(self.frame(i) for i in range(self.num_envs))

    # -- beyond Gymnasium --------------------------------------------------------------------------------------------

    def advance(self, actions: NDArray, out: Transition) -> NDArray | None:
        """`step` without its wrapping: fills `out`; returns the mask (N,) of envs whose episode ended, or None if none.

        Sets `valid`, the mask (N,) of rows that are experience: all (None), but for the resets of NextStep. Both masks
        are overwritten by the next call.
        """
        if out is not self._bound:
            self._bound = self.bind(out)
        if self._next_step:
            self.valid = self._states["ended"] == 0
        try:
            num_ended = self._step(self._bound.addresses, actions)
        except (
            TypeError
        ):  # there is no kernel yet, or not for such actions: a list, another dtype, a strided array, ...
            num_ended = self._step_checked(actions)
        if num_ended == 0:
            return None
        return self._ended_mask(num_ended, actions)

    def bind(self, out: Transition) -> Bound:
        """`out` as `step` and `advance` take it without looking again. ValueError if this env cannot write into it."""
        if isinstance(out, Bound) and out.owner is self:
            return out
        if not isinstance(out, Transition):
            raise ValueError(f"out is a {type(out).__name__}, not a Transition, as `arrays` makes them.")
        for (name, wanted), array in zip(self._shapes().items(), out, strict=True):
            _check_array(name, array, *wanted)
        bound = Bound(*out)
        bound.owner, bound.addresses = self, self._addresses(out)
        return bound

    def restart(self, obs: NDArray) -> None:
        """Begin with the first episodes of this env's seed (again); writes their observations into obs (N, ...)."""
        obs[:] = self.reset(seed=self.seed)[0]

    def arrays(self) -> Transition:
        """Fresh arrays of the right shapes for `step(..., out=...)`."""
        return Transition(**{name: np.zeros(shape, dtype) for name, (shape, dtype) in self._shapes().items()})

    @property
    def state(self) -> NDArray:
        """The live state records (N,): `env.state["theta"][3] = 0.1`. Call `observe` afterwards, which checks them."""
        return self._states

    @property
    def is_compiled(self) -> bool:
        """Whether other kernels can step these envs: not with backend="python"."""
        return self.backend != "python"

    @property
    def inline(self) -> dict[str, Any]:
        """Functions for a kernel that steps these envs itself: `step_rows(world_at(env.world), ...)`."""
        return {
            "cycles": cycles,
            **{name: getattr(self._kernels, name) for name in ("step_rows", "world_at", "is_valid")},
        }

    @property
    def world(self) -> NDArray:
        """Where this env's records are, for `world_at`."""
        return self._out.addresses

    @property
    def params(self) -> NDArray:
        """The live parameter records, (1,) if all envs share them, else (N,)."""
        return self._params

    def observe(self, out: NDArray | None = None) -> NDArray:
        """The observations (N, ...) of the state as it stands. ValueError if the sim calls a state invalid."""
        obs = self._out.obs if out is None else out
        _check_array("out", obs, *self._shapes()["obs"])
        self._check_states(self._states, self._params)
        self._kernels.observe_batch(self._rows(self._states), self._rows(self._params), self._stride, obs)
        return obs

    def scripted_actions(self) -> NDArray:
        """What the sim's own baseline would do now, as `step` takes it. ValueError if the sim has none."""
        self._check_scripted()
        actions = np.zeros(self._action_shape, self._action_dtype)
        records = self._rows(self._states), self._rows(self._params)
        self._kernels.scripted_batch(*records, self._stride, actions.reshape(self.num_envs, -1))
        return actions

    def get_state(self) -> dict[str, NDArray]:
        """Everything that decides the future, as arrays: with the same actions, `set_state` replays the same steps.

        Those named in `of_each_env` are the envs' own, one after the other; the others are common to all.
        """
        return self._snapshot(self._states, self._params)

    def set_state(self, state: dict[str, NDArray], obs: NDArray | None = None) -> None:
        """Restore what `get_state` returned, from an env of the same sim, number of envs, precision and parameters.

        obs (N, ...), if given, is filled with the observations. ValueError, and nothing changes, if the snapshot is of
        another env or the sim calls a state invalid.
        """
        states, params, seed = self._checked_snapshot(state)
        self._check_states(states, params)
        if obs is not None:
            _check_array("obs", obs, *self._shapes()["obs"])
        self._states[:], self._params[:] = states, params
        self._seed[:] = seed
        self.observe(obs)

    def __deepcopy__(self, memo: dict) -> "SimVectorEnv":
        """Another env of the same arguments, in the same state."""
        other = type(self)(self.sim, **self._arguments)
        other.seed, other.tells_episodes = self.seed, self.tells_episodes
        if (self.state["episode"] >= 0).all():
            other.set_state(self.get_state())
        return other

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled. Keep get_state(), and give it to set_state() of another."
        )

    def frame(self, i: int, size: int = 400) -> NDArray:
        """A picture of env i, (size, size, 3) uint8, drawn without a display."""
        if self.sim.draw is None:
            raise ValueError(f"{self.sim.name} has no draw function, so it cannot be rendered.")
        from envs.engine.canvas import Canvas  # here: training needs no pictures, nor Pillow

        state, params = self._record(i)
        _check_begun(state["episode"], "a picture")
        canvas = Canvas(size, size)
        self.sim.draw(state, params, canvas)
        return canvas.pixels()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _load(self, backend: str) -> Any:
        """The kernels of the sim; sets `backend`."""
        _one_of("backend", backend, BACKENDS)
        if kernels.JIT_DISABLED:
            backend = "python"
        elif backend == "auto":
            backend = "parallel" if self.num_envs >= PARALLEL_FROM and numba.get_num_threads() > 1 else "serial"
        self.backend = backend
        return kernels.load(self.sim, backend, self.precision)

    @cached_property
    def _out(self) -> Any:
        """The env's own arrays, bound."""
        return self.bind(self.arrays())

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array of a Transition."""
        n, space = self.num_envs, self.single_observation_space
        obs, flags = ((n, *(space.shape or ())), np.dtype(space.dtype)), ((n,), np.dtype(bool))
        reward, returns, lengths = (((n,), np.dtype(code)) for code in (REAL[self.precision], np.float64, np.int64))
        return dict(zip(Transition._fields, (obs, reward, flags, flags, obs, returns, lengths), strict=True))

    def _record(self, i: int) -> tuple[Any, Any]:
        """State and parameters of env i, as `draw` takes them."""
        return self._states.view(np.recarray)[i], self._params.view(np.recarray)[i * self._stride]

    def _rows(self, records: NDArray) -> NDArray:
        """Records as the kernels take them: plain Python reads `s.x` only from a recarray."""
        return records.view(np.recarray) if self.backend == "python" else records

    def _world(self) -> tuple:
        """What batch.py calls a world."""
        states, blank, params = (self._rows(records) for records in (self._states, self._blank, self._params))
        numbers = (self._seed[0], self.first_env, *self._levels, self.max_episode_steps, self._next_step)
        return (states, blank, params, self._stride, *numbers, self._ended)

    def _addresses(self, out: Transition) -> NDArray:
        """World and out as one array of numbers, as `world_at` and `out_at` in batch.py read it."""
        arrays = (self._states, self._blank, self._params, self._seed, self._ended, *out)
        numbers = (self.num_envs, self._chunk, self._stride, self.first_env, *self._levels, self.max_episode_steps)
        return np.array([*numbers, self._next_step, *(array.ctypes.data for array in arrays)], np.int64)

    def _step_checked(self, actions: Any) -> int:
        """One step by actions that may be anything; the first one compiles the kernel."""
        actions = self._checked(actions)
        _check_begun(self._states["episode"], "step()")
        assert self._bound
        if self.backend == "python":
            with np.errstate(over="ignore"):
                return self._kernels.step_batch(self._world(), self._chunk, actions, *self._bound)
        self._step = self._kernels.step_bound
        num_ended = self._step(self._bound.addresses, actions)
        self._step.disable_compile()  # from now on what is not such an array is a TypeError
        return num_ended

    def _seed_episode_streams(self, seed: int | None) -> None:
        """Seed the streams, so that the next episode of each env is its first, and draw the randomised parameters."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
        self.seed = seed = _integer("seed", seed, 0, 2**63 - 1)
        with np.errstate(over="ignore"):
            self._seed[0] = stream_key(np.uint64(seed), np.uint64(SPLIT_SALT[self.split]), np.uint64(0))
        self._blank["episode"] = -1
        self._states[:] = self._blank
        for k, (name, default) in enumerate(self.sim.params.defaults.items()):
            value = self._overrides.get(name, default)
            if isinstance(value, list | tuple):
                random = np.random.Generator(np.random.Philox(key=[int(self._seed[0]), k]))
                (low, high), n = value, self.first_env + self.num_envs
                if isinstance(default, float):
                    value = low + (high - low) * random.random(n)
                else:
                    value = random.integers(low, high, n, endpoint=True)
                value = value[self.first_env :]
            elif np.ndim(value) and np.shape(value) != (self.num_envs,):
                raise ValueError(f"params.{name} has shape {np.shape(value)}; expected a number or ({self.num_envs},).")
            self._params[name] = value

    def _read_options(self, options: dict[str, Any] | None) -> tuple[NDArray, NDArray]:
        """Which envs `reset` is to reset (N,), and the level (N,) to play in each: -1 leaves it to the random stream."""
        options = options or {}
        if unknown := set(options) - {"reset_mask", "level"}:
            raise ValueError(f"reset options {sorted(unknown)} are unknown. Known: reset_mask, level.")
        return self._reset_mask(options.get("reset_mask")), self._forced_levels(options.get("level"))

    def _reset_mask(self, mask) -> NDArray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        array = np.array(mask)
        if array.dtype != bool or array.shape != (self.num_envs,):
            raise ValueError(f"options['reset_mask']={mask!r} is not a boolean for each of {self.num_envs} envs.")
        return array

    def _forced_levels(self, level) -> NDArray:
        forced = np.full(self.num_envs, -1, np.int64)
        if level is not None:
            if not self.sim.levels:
                raise ValueError(f"options['level']={level!r}: {self.sim.name} has no levels.")
            array = np.asarray(level)
            if array.shape not in ((), forced.shape) or not np.can_cast(array.dtype, np.int64):
                raise ValueError(f"options['level']={level!r} is not an integer, or one for each env.")
            if (array < 0).any():
                raise ValueError(f"options['level']={level!r}: level ids are not negative.")
            forced[:] = array
        return forced

    def _checked(self, actions: Any) -> NDArray:
        """`actions` as an array of the one type and shape that the kernel takes (for another it would be recompiled)."""
        if type(actions) is np.ndarray and actions.dtype == self._action_dtype and actions.shape == self._action_shape:
            return actions if actions.flags.carray else actions.copy()
        array = np.asarray(actions)
        if array.shape != self._action_shape:
            raise ValueError(
                f"actions have shape {array.shape}; {self.sim.name} with {self.num_envs} envs takes "
                f"{self._action_shape}."
            )
        if array.dtype.kind not in ("iu" if self._discrete else "iuf"):
            wanted = "integers" if self._discrete else "floats"
            raise ValueError(
                f"actions have dtype {array.dtype}; {self.sim.name} takes {wanted} ({self._action_dtype})."
            )
        with np.errstate(over="ignore"):  # what becomes infinite is rejected by the kernel
            return np.array(array, self._action_dtype, order="C")

    def _check_states(self, states: NDArray, params: NDArray) -> None:
        """Raise ValueError if the sim must not see one of these states. Sims without `valid` take any."""
        if self.sim.valid is None:
            return
        self._refuse_invalid(self._kernels.invalid_state(self._rows(states), self._rows(params), self._stride))

    def _refuse_invalid(self, env: int) -> None:
        if env >= 0:
            raise ValueError(f"the state of env {env} is not a valid state of {self.sim.name}.")

    def _check_scripted(self) -> None:
        if self.sim.scripted is None:
            raise ValueError(f"{self.sim.name} has no scripted baseline.")

    def _snapshot(self, states: NDArray, params: NDArray) -> dict[str, NDArray]:
        """What `get_state` returns: copies of these records, as bytes."""
        records = {"states": states, "params": params}
        return {
            **{name: array.view(np.uint8).copy() for name, array in records.items()},
            "seed": self._seed.view(np.int64).copy(),
        }

    def _checked_snapshot(self, state: dict[str, NDArray]) -> tuple[NDArray, NDArray, NDArray]:
        """Records and seed of a snapshot; ValueError if it is of an env of other sizes."""
        if missing := {"states", "params", "seed"} - set(state):
            raise ValueError(f"{sorted(missing)[0]}: the snapshot has none; it is not of `get_state`.")
        seed = np.asarray(state["seed"], np.int64).view(np.uint64)
        if seed.shape != self._seed.shape:
            raise ValueError(
                f"seed: snapshot has shape {seed.shape}, this env {self._seed.shape}; it is of another env."
            )
        theirs = []
        for name, mine in (("states", self._states), ("params", self._params)):
            array = np.array(state[name], np.uint8).reshape(-1)
            if array.nbytes != mine.nbytes:
                raise ValueError(
                    f"{name}: snapshot has {array.nbytes} bytes, this env {mine.nbytes}; it is of another env."
                )
            theirs.append(array.view(mine.dtype))
        return theirs[0], theirs[1], seed

    def _ended_mask(self, num_ended: int, actions: Any) -> NDArray:
        """The mask of envs whose episode ended; ValueError where the kernel has refused the actions."""
        if num_ended < 0:
            actions, i = self._checked(actions), -1 - num_ended  # which raises if they are too few or too many
            message = f"action {actions[i]!r} of env {i} is not in {self.single_action_space}; no env was stepped."
            raise ValueError(message)
        return self._ended


def _copied(info: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, dict) else value.copy() for name, value in info.items()}


def make(sim: str | Sim, num_envs: int = 1, *, device: str = "cpu", **kwargs: Any) -> SimVectorEnv:
    """The entry point of `gymnasium.make_vec`: on the CPU, as is Gymnasium's custom, it returns copies."""
    env = envs.make_vec(sim, num_envs, device=device, **{"copy": device == "cpu", **kwargs})
    env.tells_episodes = False  # Gymnasium's RecordEpisodeStatistics refuses an env that does
    return env


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    offered = {"SameStep": AutoresetMode.SAME_STEP, "NextStep": AutoresetMode.NEXT_STEP}
    name = mode.value if isinstance(mode, AutoresetMode) else mode
    _one_of("autoreset_mode", name, offered)
    return offered[name]


def _check_begun(episode: Any, what: str) -> None:
    """Raise ResetNeeded unless there have been episodes in all these envs."""
    if np.any(episode < 0):
        raise ResetNeeded(f"{what} needs an episode: call reset() first.")


def _check_array(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise ValueError unless a kernel may write into `array` as into one of `shape` and `dtype`."""
    same = type(array) is np.ndarray and array.dtype == dtype and array.shape == shape
    if not (same and array.flags.carray):
        raise ValueError(f"{name} is not a writable, C-contiguous array of {dtype} {shape}; see `arrays`.")


def _integer(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise ValueError(f"{name}={value!r} is not an integer from {low} to {high}.")
    return number


def _one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in list(allowed):
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}.")
