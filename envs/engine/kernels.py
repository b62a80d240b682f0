"""Compile a Sim into batched kernels, and find them again in the next process.

Numba keeps compiled code beside the source file it came from, keyed by that one file and the argument types; it sees no
edit in a *called* file, and a kernel built as a closure is never found again. So each (sim, backend) gets its own copy
of `batch.py`, in a folder named after a hash of everything that can change its machine code: the engine, every function
the sim reaches, and every constant those mention. Edit any of them and the folder, hence the kernel, is a new one.

The folder is in `$RLSYS_CACHE`, or else `~/.cache/rlsys/kernels`; only its owner may write there, since compiled code
is code. Where no folder can be written, kernels are compiled afresh in each process.
"""

import hashlib
import importlib.util
import inspect
import os
import platform
import sys
import tempfile
import types
import warnings
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

from envs.engine import rng
from envs.engine.jit import LIBRARIES, names_used, njit, pure
from envs.engine.sim import ENGINE_FIELDS, Sim

BACKENDS = ("python", "serial", "parallel")
BATCH = Path(__file__).with_name("batch.py")


@cache
def load(sim: Sim, backend: str) -> types.ModuleType:
    """The kernels of `sim`, a module with `reset_batch`, `step_batch` and `observe_batch` (see batch.py).

    backend: "python" (not compiled: slow, but a debugger works), "serial" (one core) or "parallel" (all cores).
    """
    functions = {"reset": sim.reset, "step": sim.step, "observe": sim.observe}
    functions |= {"level_of": rng.level_of, "stream_key": rng.stream_key}
    names: dict[str, Any] = {"NUM_ACTIONS": _num_actions(sim.action_space)}

    if backend == "python" or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        memo: dict = {}
        names |= {name: pure(function, memo) for name, function in functions.items()}
        names |= {"njit": lambda f: f, "njit_batch": lambda f: f, "prange": range}
        return _run(BATCH, names)

    parallel = backend == "parallel"
    source = _private_copy(sim, backend, {**functions, **names})
    njit_batch = numba.njit(error_model="numpy", nogil=True, parallel=parallel, cache=source != BATCH)
    names |= {**functions, "njit": njit, "njit_batch": njit_batch, "prange": numba.prange if parallel else range}
    return _run(source, names)


def _num_actions(space: gymnasium.Space) -> int | tuple[int, ...]:
    """n of a Discrete space, all of them of a MultiDiscrete one, 0 for a Box."""
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec)
    return int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else 0


def _run(source: Path, names: dict[str, Any]) -> types.ModuleType:
    """Run the file `source` as a new module in which `names` are already defined."""
    spec = importlib.util.spec_from_file_location(f"rlsys_kernels_{source.parent.name}".replace("-", "_"), source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    sys.modules[spec.name] = module  # Numba looks a function's module up by its name
    spec.loader.exec_module(module)
    return module


def cache_folder() -> Path:
    """Where compiled kernels are kept: `$RLSYS_CACHE`, or `rlsys/kernels` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlsys" / "kernels"
    return Path(os.environ.get("RLSYS_CACHE") or default)


def _private_copy(sim: Sim, backend: str, reached: dict[str, Any]) -> Path:
    """A copy of batch.py in a folder of its own; batch.py itself (which is not cached) if none can be written."""
    folder = cache_folder() / f"{sim.name.lower()}-{backend}-{fingerprint(sim, reached)}"
    copy = folder / "batch.py"
    if copy.exists():
        return copy
    try:
        _make_private(cache_folder())
        folder.mkdir(exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as file:
            file.write(BATCH.read_text())
        os.replace(file.name, copy)  # another process may do the same at the same time: either copy will do
    except OSError as error:
        warnings.warn(
            f"kernels of {sim.name} are not cached: {error}. Set RLSYS_CACHE to a writable folder.", stacklevel=2
        )
        return BATCH
    return copy


def _make_private(folder: Path) -> None:
    """Make the cache folder, for its owner alone; OSError if it is somebody else's or others may write there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise PermissionError(f"{folder} can be written by others")


def fingerprint(sim: Sim, reached: dict[str, Any]) -> str:
    """A hash of all that decides the machine code of `sim`'s kernels (but the processor, which Numba's key has)."""
    digest = hashlib.sha256()
    versions = (platform.python_version(), numba.__version__, np.__version__)
    engine = (BATCH.read_text(), Path(__file__).read_text(), sorted(ENGINE_FIELDS.items()))
    for part in (*versions, *engine, sim.id, sorted(sim.state.spec.items()), sorted(sim.params.spec.items())):
        digest.update(repr(part).encode())
    seen: set[int] = set()
    for name in sorted(reached):
        _feed(digest, name, reached[name], seen)
    return digest.hexdigest()[:16]


def _feed(digest, name: str, value: Any, seen: set[int], used: AbstractSet[str] = frozenset()) -> None:
    """Feed a constant's value; or a function's code and all it mentions; or the members of a module that are `used`."""
    digest.update(name.encode())
    if isinstance(value, np.ndarray):
        digest.update(str(value.dtype).encode() + repr(value.shape).encode() + value.tobytes())
    elif isinstance(value, bool | int | float | str | bytes | tuple | np.generic):
        digest.update(repr(value).encode())
    elif isinstance(value, Dispatcher) or inspect.isfunction(value):
        if id(value) in seen:
            return
        seen.add(id(value))
        function: Any = getattr(value, "py_func", value)
        _feed_code(digest, function.__code__)
        digest.update(repr((function.__defaults__, getattr(value, "targetoptions", None))).encode())
        scope = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
        mentioned = names_used(function.__code__)
        for other in sorted(mentioned & scope.keys()):
            _feed(digest, other, scope[other], seen, mentioned)
    elif isinstance(value, types.ModuleType) and value.__name__.split(".")[0] not in LIBRARIES:
        for member in sorted(used & vars(value).keys()):
            _feed(digest, member, vars(value)[member], seen, used)


def _feed_code(digest, code: types.CodeType) -> None:
    digest.update(repr((code.co_code, code.co_names, code.co_varnames)).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _feed_code(digest, constant)
        else:
            digest.update(repr(constant).encode())
