"""The one place that says how sim code is compiled: `njit` for authors, `pure` for the debugger.

`njit` is Numba's, with `error_model="numpy"`: a division by zero gives inf instead of a hidden branch and an exception,
which is what lets LLVM vectorise. Floating-point contraction and reassociation stay off, so results are reproducible.
"""

import types

import numba
from numba.core.dispatcher import Dispatcher

LIBRARIES = ("math", "numba", "numpy")  # modules whose functions are nobody's sim code

njit = numba.njit(error_model="numpy", nogil=True)


def pure(function, _memo=None):
    """The plain-Python version of a jitted function, with every jitted function it reaches made plain too.

    This is how `backend="python"` runs a sim: breakpoints work, and its answers are the compiled ones' reference.
    """
    memo = {} if _memo is None else _memo
    if isinstance(function, types.ModuleType) and function.__name__.split(".")[0] not in LIBRARIES:
        return _PlainModule(function, memo)
    if not isinstance(function, Dispatcher):
        return function
    if function not in memo:
        source = function.py_func
        code, scope = source.__code__, dict(source.__globals__)
        cells = tuple(types.CellType() for _ in code.co_freevars)
        plain = types.FunctionType(code, scope, source.__name__, source.__defaults__, cells)
        memo[function] = plain  # before the recursion: functions may refer to each other
        for cell, outer in zip(cells, source.__closure__ or (), strict=True):
            cell.cell_contents = pure(outer.cell_contents, memo)
        for name in names_used(code) & scope.keys():
            scope[name] = pure(scope[name], memo)
    return memo[function]


class _PlainModule:
    """A module whose jitted functions are plain."""

    def __init__(self, module, memo):
        self._module, self._memo = module, memo

    def __getattr__(self, name):
        return pure(getattr(self._module, name), self._memo)


def names_used(code):
    """Every global, attribute or outer name that a code object, or one nested in it, mentions."""
    names = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_used(constant)
    return names
