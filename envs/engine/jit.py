"""The one place that says how sim code is compiled: `njit` for authors, `pure` for the debugger, `private` for the cache.

`njit` is Numba's, with `error_model="numpy"`: a division by zero gives inf instead of a hidden branch and an exception,
which is what lets LLVM vectorise. Floating-point contraction and reassociation stay off, so results are reproducible.

Float literals are weak, as they are in NumPy (NEP 50): `0.5 * s.x` is float32 where `s.x` is. Numba alone would take the
literal for a float64 and widen all that follows.
"""

import platform
import types
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

LIBRARIES = ("math", "numba", "numpy")  # modules whose functions are nobody's sim code

njit = numba.njit(error_model="numpy", nogil=True)
INNER: dict[str, Any] = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}  # called by compiled code only: half the time to compile


def pure(function, memo=None):
    """The plain-Python version of a jitted function, with every jitted function it reaches made plain too.

    This is how `backend="python"` runs a sim: breakpoints work, and its answers are the compiled ones' reference (to the
    last bits).
    """
    return rebuilt(function, lambda plain, original: plain, {} if memo is None else memo)


def private(function, tag, memo, literal=float):
    """A copy of a jitted function, and of every one it reaches, whose machine code is named after `tag`.

    Numba names machine code after the function, the types of its arguments, and how many functions (and, for a record,
    types) this process had seen before. Two processes count alike: of what both left in a cache, a third one that loads
    it would take the one for the other.

    literal: the type that float literals, and global floats, are given.
    """

    def compiled(plain, original):
        plain.__qualname__ = f"{tag}.{len(memo)}.{plain.__qualname__}"
        return numba.jit(**{**original.targetoptions, **INNER})(plain)

    return rebuilt(function, compiled, memo, literal)


@intrinsic
def pointer(typingctx, address):
    """The void pointer at an address (int64), for `numba.carray`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return numba.types.voidptr(numba.types.int64), codegen


@njit
def bare(array):
    """The same memory as an array (C-contiguous) without an owner. A view of one that has an owner counts references, atomically:
    for a row of four numbers, that takes longer than to work on them. The caller keeps the memory alive."""
    return numba.carray(pointer(array.ctypes.data), array.shape, array.dtype)  # type: ignore[call-arg]


@intrinsic
def cycles(typingctx):
    """The processor's cycle counter (int64), to see what share of a kernel's time is spent where; 0 where only the operating
    system may read it."""

    def codegen(context, builder, signature, args):
        if platform.machine() not in ("x86_64", "AMD64"):
            return context.get_constant(numba.types.int64, 0)
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])

    return numba.types.int64(), codegen


def _as_literal(value, literal):
    """Python floats, also inside tuples, as `literal`s."""
    if type(value) is tuple:
        return tuple(_as_literal(part, literal) for part in value)
    return literal(value) if type(value) is float else value


def rebuilt(value, finish, memo, literal=float):
    """If `value` is a jitted function, finish(its copy in plain Python, itself), and so for all that the copy reaches."""
    if isinstance(value, types.ModuleType) and value.__name__.split(".")[0] not in LIBRARIES:
        return _RebuiltModule(value, finish, memo, literal)
    if not isinstance(value, Dispatcher):
        return _as_literal(value, literal)
    if value not in memo:
        source = value.py_func
        code, scope = source.__code__, dict(source.__globals__)
        code = code.replace(co_consts=_as_literal(code.co_consts, literal))
        cells = tuple(types.CellType() for _ in code.co_freevars)
        plain = types.FunctionType(code, scope, source.__name__, source.__defaults__, cells)
        memo[value] = finish(plain, value)  # before the recursion: functions may refer to each other
        for cell, outer in zip(cells, source.__closure__ or (), strict=True):
            cell.cell_contents = rebuilt(outer.cell_contents, finish, memo, literal)
        for name in sorted(names_used(code) & scope.keys()):
            scope[name] = rebuilt(scope[name], finish, memo, literal)
    return memo[value]


class _RebuiltModule(types.ModuleType):
    """A module whose jitted functions are rebuilt as they are asked for."""

    def __init__(self, module, finish, memo, literal):
        super().__init__(module.__name__)
        self._get = lambda name: rebuilt(getattr(module, name), finish, memo, literal)

    def __getattr__(self, name):
        return self._get(name)


def names_used(code):
    """Every global, attribute or outer name that a code object, or one nested in it, mentions."""
    names = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_used(constant)
    return names
