"""Compile a Sim into batched kernels, and find them again in the next process.

Numba keeps compiled code beside the source file it came from, keyed by that one file and the argument types; it sees no
edit in a *called* file, and a kernel built as a closure is never found again. So each (sim, backend, precision) gets its
own copy of `batch.py`, and of the functions that it calls (`jit.private`), in a folder named after a hash of everything
that can change its machine code: the engine, every function the sim reaches, and every constant those mention. Edit any
of them and the folder, hence the kernel, is a new one.

The folder is in `$RLSYS_CACHE`, or else `~/.cache/rlsys/kernels`; only its owner may write there, since compiled code
is code. Where no folder can be written, kernels are compiled afresh in each process; so is one whose file is damaged.
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
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher

from envs.engine import rng
from envs.engine.jit import INNER, LIBRARIES, names_used, pointer, private, pure
from envs.engine.sim import ENGINE_FIELDS, REAL, Sim

BACKENDS = ("python", "serial", "parallel")
NUMBA_CONFIG = vars(numba.config)  # $NUMBA_...
JIT_DISABLED = bool(NUMBA_CONFIG["DISABLE_JIT"])
BATCH = Path(__file__).with_name("batch.py")
COMPILER = (Path(__file__), Path(__file__).with_name("jit.py"))


@cache
def load(sim: Sim, backend: str, precision: str) -> types.ModuleType:
    """The kernels of `sim`, a module with `reset_batch`, `step_bound`, `observe_batch`, `invalid_state`, ... (see batch.py).

    backend: "python" (not compiled: slow, but a debugger works), "serial" (one core) or "parallel" (all cores).
    """
    names, literal = names_of(sim, precision)
    # A serial step is too short to let go of Python's lock for: that takes as long as four CartPoles.
    return fill_in(BATCH, names, backend, sim.name.lower(), literal=literal, nogil=backend == "parallel")


def names_of(sim: Sim, precision: str) -> tuple[dict[str, Any], type]:
    """What batch.py wants to have filled in for `sim`, and the type of float literals in it."""
    names: dict[str, Any] = {"reset": sim.reset, "step": sim.step, "observe": sim.observe}
    names |= {"valid": sim.valid, "scripted": sim.scripted}
    names |= {"level_of": rng.level_of, "stream_key": rng.stream_key, "NUM_ACTIONS": _num_actions(sim.action_space)}
    names |= {"STATE": sim.state.dtype(precision, ENGINE_FIELDS), "PARAMS": sim.params.dtype(precision)}
    names |= {"OBS": sim.observation_space.dtype, "OBS_SHAPE": sim.observation_space.shape, "pointer": pointer}
    names["REAL"] = real = np.dtype(REAL[precision])
    return names, np.float32 if real.itemsize == 4 else float


def fill_in(
    template: Path, names: dict[str, Any], backend: str, title: str, *, literal: type = float, **options: Any
) -> types.ModuleType:
    """The file `template` as a module in which `names`, and decorators for its functions, are defined.

    `njit` is for functions that others call, `njit_batch` for what Python calls (kept in the cache; `prange` shares it out
    where the backend is parallel), and `njit_entry` for what Python calls and nobody shares out.

    title: names the cache folder. literal: what float literals are in the code that `names` reach (see jit.py).
    options: for the template's own functions, such as fastmath and nogil.
    """
    memo: dict = {}
    if backend == "python" or JIT_DISABLED:
        plain = {name: pure(value, memo) for name, value in names.items()}
        return run(
            template, {**plain, **dict.fromkeys(("njit", "njit_batch", "njit_entry"), lambda f: f), "prange": range}
        )

    parallel = backend == "parallel"
    folder = f"{title}-{backend}-{fingerprint(template, names, (literal, _in_order(options)))}"
    source = _private_copy(template, folder)
    names = {name: private(value, folder, memo, literal) for name, value in names.items()}
    options = {"error_model": "numpy", **options}
    njit, entry = numba.njit(**INNER, **options), numba.njit(**options)

    def njit_entry(function, entry=entry):
        kernel = entry(function)
        if source != template:
            try:
                kernel._cache = _Cache(function)  # as `cache=True` does, with Numba's own
            except RuntimeError as error:  # there is no folder that can be written
                warnings.warn(f"kernels of {title} are not cached: {error}", stacklevel=2)
        return kernel

    def njit_batch(function):
        return njit_entry(function, numba.njit(parallel=parallel, **options))

    decorators = {"njit": njit, "njit_batch": njit_batch, "njit_entry": njit_entry}
    return run(source, {**names, **decorators, "prange": numba.prange if parallel else range})


def _num_actions(space: gymnasium.Space) -> int | tuple[int, ...]:
    """n of a Discrete space, all of them of a MultiDiscrete one, 0 for a Box."""
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec)
    return int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else 0


def run(source: Path, names: dict[str, Any]) -> types.ModuleType:
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


def is_cached(module: types.ModuleType, name: str) -> bool:
    """Whether the kernel `name` of a module that `fill_in` made has been compiled before, for some arguments."""
    source = Path(module.__file__ or "")
    return any((source.parent / "__pycache__").glob(f"{source.stem}.{name}-*.nbc"))


class _Cache(FunctionCache):
    """Numba's cache on disk, but what is wrong with a file costs a compilation, not the run."""

    def load_overload(self, sig, target_context):
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # unpickling a damaged file raises anything
            with suppress(OSError):
                self.flush()
            return None
        # Two processes that save two signatures at the same moment may give both files the same name.
        return found if found is not None and found.signature.args == sig else None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            warnings.warn(f"{self._name} is not cached: {error}", stacklevel=2)


def _private_copy(template: Path, name: str) -> Path:
    """A copy of `template` in a cache folder `name`; `template` itself (which is not cached) if none can be written."""
    text, folder = template.read_bytes(), cache_folder() / name
    copy = folder / template.name
    try:
        _make_private(cache_folder())
        if copy.exists() and copy.read_bytes() == text:
            return copy
        folder.mkdir(exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            file.write(text)
        os.utime(file.name, (0, 0))  # Numba goes by the date: the same one, whichever process writes the copy last
        os.replace(file.name, copy)
    except OSError as error:
        message = f"kernels of {name} are not cached: {error}. Set RLSYS_CACHE to a writable folder."
        warnings.warn(message, stacklevel=2)
        return template
    return copy


def _make_private(folder: Path) -> None:
    """Make the cache folder, for its owner alone; OSError if it is somebody else's or others may write there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise PermissionError(f"{folder} can be written by others")


def fingerprint(template: Path, reached: dict[str, Any], shape: object = "") -> str:
    """A hash of all that decides the machine code of a kernel (but the processor, which Numba's own key has)."""
    digest = hashlib.sha256()
    versions = (platform.python_version(), numba.__version__, np.__version__)
    switches = tuple(NUMBA_CONFIG[name] for name in ("BOUNDSCHECK", "OPT", "DEBUGINFO_DEFAULT"))
    for part in (*versions, *switches, *(path.read_text() for path in (template, *COMPILER)), shape):
        digest.update(repr(part).encode())
    seen: set[Any] = set()
    for name in sorted(reached):
        _feed(digest, name, reached[name], seen)
    return digest.hexdigest()[:16]


def _feed(digest, name: str, value: Any, seen: set[Any], used: AbstractSet[str] = frozenset()) -> None:
    """Feed a constant's value; or a function's code and all it mentions; or the members of a module that are `used`."""
    digest.update(name.encode())
    if isinstance(value, np.ndarray):
        digest.update(str(value.dtype).encode() + repr(value.shape).encode() + value.tobytes())
    elif isinstance(value, tuple | list):
        for k, part in enumerate(value):
            _feed(digest, f"{name}[{k}]", part, seen)
    elif isinstance(value, bool | int | float | complex | str | bytes | np.generic | np.dtype | numba.types.Type):
        digest.update(repr(value).encode())
    elif isinstance(value, type):  # a number type, or an Enum with its members
        digest.update(repr((value, getattr(value, "__members__", None))).encode())
    elif isinstance(value, Dispatcher) or inspect.isfunction(value):
        if id(value) in seen or (value.__module__ or "").split(".")[0] in LIBRARIES:
            return
        seen.add(id(value))
        function: Any = getattr(value, "py_func", value)
        _feed_code(digest, function.__code__)
        digest.update(repr(_in_order(getattr(value, "targetoptions", {}))).encode())
        _feed(digest, "defaults", function.__defaults__ or (), seen)
        scope = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
        mentioned = frozenset(names_used(function.__code__))
        for other in sorted(mentioned & scope.keys()):
            _feed(digest, other, scope[other], seen, mentioned)
    elif isinstance(value, types.ModuleType) and value.__name__.split(".")[0] not in LIBRARIES:
        if (id(value), used) in seen:  # modules may import each other
            return
        seen.add((id(value), used))
        for member in sorted(used & vars(value).keys()):
            _feed(digest, member, vars(value)[member], seen, used)


def _in_order(options: dict[str, Any]) -> list[tuple[str, Any]]:
    """Compiler options, with sets (fastmath's) in an order that is the same in every process."""
    return sorted((name, sorted(value) if isinstance(value, set) else value) for name, value in options.items())


def _feed_code(digest, code: types.CodeType) -> None:
    digest.update(repr((code.co_code, code.co_names, code.co_varnames)).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _feed_code(digest, constant)
        else:
            digest.update(repr(constant).encode())
