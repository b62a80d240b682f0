"""Sims as CUDA kernels: `envs.make_vec(name, N, device="cuda")`. The only file that knows numba-cuda (`pip install rlsys[gpu]`).

A thread runs an env, with the functions of batch.py and of the sim compiled for the GPU. All that an env is and gives stays
in the device's memory: arrays here are device arrays, which show torch their memory through `__cuda_array_interface__`, as
torch's tensors do to `step(out=...)`. Nothing waits for the device but what gives the host something: `get_state`,
`state`, `params`, `frame`, and `check`.

Records stay records, the same bytes as on the CPU, so that either device can take up the other's snapshot. What a record
costs, against an array for each field: of a warp's 32 threads each reads its own 32-byte sectors, and a store of four
bytes writes a sector. For CartPole (64 bytes) that comes to some 300 bytes a step through the L2 cache, where fields apart
would take 100: by an H200's bandwidth, 12 to 17 thousand million steps a second instead of 40. Learning needs one step for
every 230,000 floating-point operations, so at most 300 million. (Reckoned, not measured.)

Under `NUMBA_ENABLE_CUDASIM=1`, numba-cuda's simulator runs the same kernels in Python, and arrays are NumPy's.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache, cached_property
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.engine import kernels
from envs.engine.jit import rebuilt
from envs.engine.sim import ENGINE_FIELDS, Sim
from envs.engine.vector import Bound, DeviceError, SimVectorEnv, Transition

if find_spec("numba_cuda") is None:
    raise ModuleNotFoundError(
        "device='cuda' needs numba-cuda, which is not installed. Install it (pip install 'rlsys[gpu]'), or use device='cpu'.",
        name="numba_cuda",
    )
from numba import cuda as numba_cuda

cuda: Any = numba_cuda
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
THREADS = 128  # a block
SPARE = 0.95  # of the free memory may be asked for


class CudaVectorEnv(SimVectorEnv):
    """`SimVectorEnv` on the GPU: the same arguments (but `backend`, `copy`, and SameStep autoreset only), the same episodes.

    Everything that it returns is on the device, and so are actions. `step`'s info always has `final_obs` and `episode` with
    their masks: whether an episode ended is not known here. An action outside of the space stops all envs where they are;
    `check` says so.

    Integer sims give the CPU's bytes. Floats may differ in their last bits: a GPU fuses products into sums, and its sine is
    another one.

    Raises DeviceError if there is no GPU, MemoryError if the envs do not fit.
    """

    is_resident = True
    stream = 0  # address of the CUDA stream that kernels are launched on, as torch's `current_stream().cuda_stream`

    def __init__(self, sim: Sim, num_envs: int = 1, *, copy: bool = False, **kwargs: Any):
        require_device()
        if copy:
            raise ValueError("copy=True: envs on the GPU give their own arrays. Use copy=False, or device='cpu'.")
        super().__init__(sim, num_envs, **kwargs)
        if self._next_step:
            raise ValueError("autoreset_mode='NextStep' is for device='cpu'. On the GPU it is 'SameStep'.")
        # from here on these are the device's
        self._states, self._params, self._blank = map(on_device, (self._states, self._params, self._blank))
        self._ended, self._fault = on_device(self._ended), zeros((1,), np.int64)
        self._device_seed = on_device(self._seed)

    # -- Gymnasium's API ---------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """As on the CPU; options are the host's arrays."""
        mask, levels = self._read_options(options)
        self._begin(seed, levels, mask, self._out.obs)
        if not mask.all():
            self.observe()
        return self._out.obs, {}

    def step(self, actions: Any, out: Transition | None = None):
        """As on the CPU, but `actions` [N, ...] are on the device, of int64 (Discrete, MultiDiscrete) or float32 (Box)."""
        bound = self._out if out is None else out
        ended = self.advance(actions, bound)
        obs, reward, terminated, truncated, final_obs, episode_return, episode_length = bound
        info = {"episode": {"r": episode_return, "l": episode_length}, "_episode": ended}
        return obs, reward, terminated, truncated, {**info, "final_obs": final_obs, "_final_obs": ended}

    # -- beyond Gymnasium --------------------------------------------------------------------------------------------

    is_compiled = False  # not for the CPU's kernels

    def advance(self, actions: Any, out: Transition) -> Any:
        """`step` without its wrapping; returns the mask [N], on the device, of envs whose episode ended."""
        if out is not self._bound:
            self._bound = self.bind(out)
        actions = view("actions", actions, self._action_shape, self._action_dtype)
        self._launch(self._kernels.step, self._world(), actions, self._bound.views, self._fault)
        return self._ended

    def bind(self, out: Transition) -> Bound:
        """`out`, arrays or tensors on the device, as `advance` takes it without looking again."""
        if isinstance(out, Bound) and out.owner is self:
            return out
        if not isinstance(out, Transition):
            raise ValueError(f"out is a {type(out).__name__}, not a Transition, as `arrays` makes them.")
        shapes = self._shapes()
        bound = Bound(*out)
        bound.owner = self
        bound.views = tuple(view(name, array, *shapes[name]) for name, array in out._asdict().items())
        return bound

    def check(self) -> None:
        """ValueError if an action has been outside of the space. Waits for the device."""
        env = int(to_host(self._fault, self.stream)[0]) - 1
        if env >= 0:
            copy_to(self._fault, zeros((1,), np.int64), self.stream)
            raise ValueError(f"an action of env {env} was not in {self.single_action_space}; the envs stopped there.")

    def restart(self, obs: Any) -> None:
        mask, levels = self._read_options(None)
        self._begin(self.seed, levels, mask, view("obs", obs, *self._shapes()["obs"]))

    def arrays(self) -> Transition:
        return Transition(**{name: zeros(shape, dtype) for name, (shape, dtype) in self._shapes().items()})

    @property
    def state(self) -> NDArray:
        """A copy of the state records (N,)."""
        return to_host(self._states, self.stream)

    @property
    def params(self) -> NDArray:
        """A copy of the parameter records, (1,) or (N,)."""
        return to_host(self._params, self.stream)

    def observe(self, out: Any = None) -> Any:
        obs = self._out.obs if out is None else view("out", out, *self._shapes()["obs"])
        self._launch(self._kernels.observe, self._states, self._params, self._stride, obs)
        return obs if out is None else out

    def scripted_actions(self) -> Any:
        self._check_scripted()
        actions = zeros(self._action_shape, self._action_dtype)
        rows = actions.reshape(self.num_envs, -1) if len(self._action_shape) > 1 else actions.reshape(self.num_envs, 1)
        self._launch(self._kernels.scripted, self._states, self._params, self._stride, rows)
        return actions

    def get_state(self) -> dict[str, NDArray]:
        self.check()
        return self._snapshot(self.state, self.params)

    def set_state(self, state: dict[str, NDArray], obs: Any = None) -> None:
        states, params, seed = self._checked_snapshot(state)
        new_states, new_params = on_device(states), on_device(params)
        self._check_states(new_states, new_params)
        # into the same memory: a captured graph goes on with it
        copy_to(self._states, new_states, self.stream)
        copy_to(self._params, new_params, self.stream)
        self._seed[:] = seed
        copy_to(self._device_seed, on_device(self._seed), self.stream)
        if obs is not None:
            self.observe(obs)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _load(self, backend: str) -> Any:
        if backend != "auto":
            raise ValueError(f"backend={backend!r} is for device='cpu'.")
        self.backend = "cuda"
        self._check_memory()
        return load(self.sim, self.precision)

    def _begin(self, seed: int | None, levels: NDArray, mask: NDArray, obs: Any) -> None:
        """New episodes where mask[i]; obs is the device's."""
        if seed is not None:
            self._seed_episode_streams(seed)
        self._launch(self._kernels.reset, self._world(), on_device(levels), on_device(mask), obs)

    def _world(self) -> tuple:
        numbers = (self.first_env, *self._levels, self.max_episode_steps)
        return (self._states, self._blank, self._params, self._stride, self._device_seed, *numbers, self._ended)

    @cached_property
    def _out(self) -> Any:
        return self.bind(self.arrays())

    def _record(self, i: int) -> tuple[Any, Any]:
        k = i * self._stride
        state, params = (to_host(x[j : j + 1], self.stream) for x, j in ((self._states, i), (self._params, k)))
        return state.view(np.recarray)[0], params.view(np.recarray)[0]

    def _seed_episode_streams(self, seed: int | None) -> None:
        if not hasattr(self, "_device_seed"):  # not yet on the device
            super()._seed_episode_streams(seed)
            return
        states, params, blank = self._states, self._params, self._blank
        self._states, self._params, self._blank = (to_host(records, self.stream) for records in (states, params, blank))
        try:
            super()._seed_episode_streams(seed)
            new = (self._states, self._params, self._blank, self._seed)
        finally:
            self._states, self._params, self._blank = states, params, blank
        for target, array in zip((states, params, blank, self._device_seed), new, strict=True):
            copy_to(target, on_device(array), self.stream)

    def _check_states(self, states: Any, params: Any) -> None:
        if self.sim.valid is None:
            return
        invalid = zeros((1,), np.int64)
        self._launch(self._kernels.invalid, states, params, self._stride, invalid)
        self._refuse_invalid(int(to_host(invalid, self.stream)[0]) - 1)

    def _check_memory(self) -> None:
        """MemoryError, with what is needed, what there is and what would fit, if the envs are too many for the device."""
        given = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._shapes().values())
        kept = self.num_envs * (self.sim.state.dtype(self.precision, ENGINE_FIELDS).itemsize + 1)
        needed = given + kept
        free = cuda.current_context().get_memory_info()[0] * SPARE
        if needed > free:
            raise MemoryError(
                f"num_envs={self.num_envs} of {self.sim.name} take {needed:,} bytes on the GPU, which has {int(free):,} to "
                f"spare. Use num_envs={max(1, int(self.num_envs * free / needed))} or fewer."
            )

    def _launch(self, kernel: Callable, *args: Any) -> None:
        launch(kernel, self.num_envs, self.stream, *args)


# -- kernels -------------------------------------------------------------------------------------------------------------


@cache
def load(sim: Sim, precision: str) -> SimpleNamespace:
    """The CUDA kernels of `sim`: `reset`, `step`, `observe`, `scripted`, `invalid`."""
    batch = _device_functions(sim, precision)
    begin, step_rows, is_valid = batch._begin, batch.step_rows, batch.is_valid
    observe, scripted, valid = batch.observe, batch.scripted, batch.valid

    @device_function
    def as_batch(world):
        """The world as batch.py has it: the seed is a number, and there is no NEXT_STEP autoreset."""
        states, blank, params, stride, seed, first_env, first_level, num_levels, max_steps, ended = world
        return states, blank, params, stride, seed[0], first_env, first_level, num_levels, max_steps, False, ended

    @kernel
    def reset_envs(world, forced_levels, mask, obs):
        i = cuda.grid(1)
        if i < len(mask) and mask[i]:
            begin(as_batch(world), i, forced_levels[i], obs)

    @kernel
    def step_envs(world, actions, out, fault):
        """fault[0]: 1 + the env of an invalid action, or 0."""
        i = cuda.grid(1)
        if i >= len(actions) or fault[0] > 0:
            return
        if not is_valid(actions[i]):
            cuda.atomic.max(fault, 0, i + 1)
            return
        step_rows(as_batch(world), i, i + 1, actions, *out)

    @kernel
    def observe_envs(states, params, stride, obs):
        i = cuda.grid(1)
        if i < len(states):
            observe(states[i], params[i * stride], obs[i])

    @kernel
    def scripted_envs(states, params, stride, actions):
        i = cuda.grid(1)
        if i < len(states):
            scripted(states[i], params[i * stride], actions[i])

    @kernel
    def invalid_envs(states, params, stride, found):
        """found[0]: 1 + an env whose state the sim must not see, or 0."""
        i = cuda.grid(1)
        if i < len(states) and not valid(states[i], params[i * stride]):
            cuda.atomic.max(found, 0, i + 1)

    return SimpleNamespace(
        reset=reset_envs, step=step_envs, observe=observe_envs, scripted=scripted_envs, invalid=invalid_envs
    )


def _device_functions(sim: Sim, precision: str) -> Any:
    """batch.py around `sim`, its functions compiled for the device as a kernel calls them."""
    if SIMULATED:
        return kernels.load(sim, "python", precision)
    names, literal = kernels.names_of(sim, precision)
    memo: dict = {}
    names = {
        name: rebuilt(value, lambda plain, _: device_function(plain), memo, literal) for name, value in names.items()
    }
    of_the_host = dict.fromkeys(("njit_batch", "njit_entry"), lambda f: f)
    return kernels.run(kernels.BATCH, {**names, **of_the_host, "njit": device_function, "prange": range})


def device_function(function: Callable) -> Any:
    """`function` as a kernel calls it."""
    return function if SIMULATED else cuda.jit(device=True)(function)


def kernel(function: Callable) -> Any:
    """`function` as a kernel for `launch`."""
    if not SIMULATED:
        return cuda.jit(function)

    def simulated(args):  # in a tuple, which the simulator does not wrap into arrays of its own
        with np.errstate(over="ignore"):  # NumPy's unsigned integers warn as they wrap around
            function(*args)

    return cuda.jit(simulated)


def launch(kernel: Any, n: int, stream: int, *args: Any) -> None:
    """Run `kernel` with a thread for each of n envs, on the CUDA stream at the address `stream`. Does not wait."""
    blocks = -(-n // THREADS)
    if SIMULATED:
        kernel[blocks, THREADS](_with_named_fields(args))
    else:
        _configured(kernel, blocks, stream)(*args)


@cache
def _configured(kernel: Any, blocks: int, stream: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few envs leave a GPU idle: that is the user's choice
        return kernel[blocks, THREADS, stream_at(stream)]


def _with_named_fields(x: Any) -> Any:
    """Arrays of records, also in tuples, such that plain Python reads `s.x`."""
    if isinstance(x, tuple):
        return tuple(map(_with_named_fields, x))
    return x.view(np.recarray) if isinstance(x, np.ndarray) and x.dtype.names else x


# -- memory --------------------------------------------------------------------------------------------------------------


@cache
def stream_at(address: int) -> Any:
    return cuda.external_stream(address) if address else cuda.default_stream()


def require_device() -> None:
    """DeviceError, saying why, unless there is a GPU that can be used."""
    if not SIMULATED and not cuda.is_available():
        reason = cuda.cuda_error() or "no CUDA device was found"
        raise DeviceError(
            f"device='cuda' cannot be used: {reason}. Check the driver (nvidia-smi), or use device='cpu'."
        )


def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    return on_device(np.zeros(shape, dtype))


def on_device(array: NDArray) -> Any:
    """A copy of `array` on the device, which any stream may use."""
    if SIMULATED:
        return _copied(array)
    found = cuda.to_device(array)
    cuda.default_stream().synchronize()  # torch's other streams do not wait for it
    return found


def to_host(array: Any, stream: int) -> NDArray:
    """A copy on the host, after what the stream has still to do."""
    if SIMULATED:
        return _copied(array)
    found = array.copy_to_host(stream=stream_at(stream))
    stream_at(stream).synchronize()
    return found


def _copied(array: NDArray) -> NDArray:
    """Byte by byte: NumPy leaves out what lies between the fields of a record."""
    return np.frombuffer(bytearray(array.tobytes()), array.dtype).reshape(array.shape)


def copy_to(target: Any, source: Any, stream: int) -> None:
    """Overwrite a device array, after what the stream has still to do."""
    if SIMULATED:
        target[...] = source
    else:
        target.copy_to_device(source, stream=stream_at(stream))
        stream_at(stream).synchronize()


def view(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """`array` (a device array, a tensor) as kernels take it, not copied. ValueError unless it is of that shape and dtype."""
    seen: Any = getattr(array, "__array_interface__" if SIMULATED else "__cuda_array_interface__", None)
    fits = seen is not None and tuple(seen["shape"]) == shape and np.dtype(seen["typestr"]) == dtype
    if not fits or seen.get("strides") is not None or seen["data"][1]:
        raise ValueError(f"{name} is not a writable, C-contiguous array of {dtype} {shape} on the device.")
    is_ready = SIMULATED or hasattr(array, "__cuda_ndarray__")
    return array if is_ready else cuda.as_cuda_array(array, sync=False)
