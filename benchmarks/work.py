"""What a step of a sim amounts to: operations and bytes, counted while it runs.

`of_a_step(name)` runs the engine's own template (batch.py) and the sim's functions as plain Python on numbers that count what
is done with them, on records and arrays that note what is read and written, for many steps of random actions, autoreset in.

Counted as **floating point**: what has an operand that comes from a record, an action or an argument and is not a constant.
Weights are McMahon's of the Livermore loops: 1 for a sum, a product, a comparison, a minimum, an absolute value; 4 for a quotient
and a square root; 8 for a sine, an exponential and their like. As **integer**: any operation on whole numbers of the same kind,
1 each, random numbers included. Loop counters, addresses, branches and conversions are not counted.

**Bytes** are the distinct ones that a step reads and those that it writes: of the env's record (with the engine's fields), its
action, observation, reward, flags and statistics. What is read after it was written in the same step is not read again;
parameters, the same for all envs, and constant tables are not counted.

Source: McMahon, "The Livermore Fortran Kernels: a computer test of the numerical performance range", 1986.
"""

import math
import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

import envs
from envs.engine import kernels
from envs.engine.jit import rebuilt

STEPS, ENOUGH = 1000, 2_000_000  # steps, or operations, after which a sim has been looked at long enough
WEIGHTS = {"simple": 1, "division": 4, "root": 4, "function": 8}
ROOTS = ("sqrt",)
FUNCTIONS = ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "exp", "log", "hypot", "pow")
ROUNDINGS = ("floor", "ceil", "trunc")
MASK_64 = 2**64 - 1


@dataclass(frozen=True)
class Work:
    """Of one step, on average. divisions, roots, functions: how many of these are in `flops`, unweighted."""

    flops: float  # weighted
    divisions: float
    roots: float
    functions: float
    integers: float
    bytes_read: float
    bytes_written: float

    @property
    def bytes(self) -> float:
        return self.bytes_read + self.bytes_written


class Tally:
    """What has been counted so far."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.read = self.written = 0
        self._read: dict[int, int] = {}  # of the step under way: size by address
        self._written: dict[int, int] = {}

    def reads(self, address: int, size: int) -> None:
        if address not in self._written:
            self._read[address] = size

    def writes(self, address: int, size: int) -> None:
        self._written[address] = size

    def end_step(self) -> None:
        self.read += sum(self._read.values())
        self.written += sum(self._written.values())
        self._read, self._written = {}, {}

    def work(self, steps: int) -> Work:
        """The mean of so many steps."""
        n = self.operations
        return Work(
            flops=sum(weight * n[name] for name, weight in WEIGHTS.items()) / steps,
            divisions=n["division"] / steps,
            roots=n["root"] / steps,
            functions=n["function"] / steps,
            integers=n["integer"] / steps,
            bytes_read=self.read / steps,
            bytes_written=self.written / steps,
        )


def plain(x: Any) -> Any:
    """The Python number in a counting one, or in NumPy's."""
    return x.value if isinstance(x, Number) else x.item() if isinstance(x, np.generic) else x


def is_unsigned(x: Any) -> bool:
    return x.unsigned if isinstance(x, Number) else isinstance(x, np.unsignedinteger)


def _binary(name: str, kind: str, *, turned: bool = False):
    operate = getattr(operator, name)

    def method(self, other):
        a, b = (plain(other), self.value) if turned else (self.value, plain(other))
        return self.tally_of(a, b, kind, operate(a, b), is_unsigned(self) or is_unsigned(other))

    return method


def _comparison(name: str):
    operate = getattr(operator, name)

    def method(self, other):
        return bool(self.tally_of(self.value, plain(other), "simple", operate(self.value, plain(other))))

    return method


class Number:
    """A number that counts what is done with it. Whole numbers wrap around as 64 bits do."""

    __slots__ = ("tally", "unsigned", "value")
    __array_ufunc__ = None  # NumPy's numbers leave operations with it to it

    def __init__(self, value: Any, tally: Tally, unsigned: bool = False):
        self.value, self.tally, self.unsigned = value, tally, unsigned

    def tally_of(self, a: Any, b: Any, kind: str, result: Any, unsigned: bool = False) -> Any:
        """Count an operation on a and b; its result."""
        self.tally.operations[kind if isinstance(a, float) or isinstance(b, float) else "integer"] += 1
        if type(result) is int:
            result &= MASK_64
            if not unsigned and result >= 2**63:
                result -= 2**64
        return Number(result, self.tally, unsigned) if type(result) in (int, float) else result

    for _name, _kind in [
        *((name, "simple") for name in ("add", "sub", "mul")),
        *((name, "division") for name in ("truediv", "floordiv", "mod")),
        *((name, "simple") for name in ("and", "or", "xor", "lshift", "rshift")),
    ]:
        _operator = f"{_name}_" if _name in ("and", "or") else _name
        locals()[f"__{_name}__"] = _binary(_operator, _kind)
        locals()[f"__r{_name}__"] = _binary(_operator, _kind, turned=True)
    for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
        locals()[f"__{_name}__"] = _comparison(_name)
    del _name, _kind, _operator
    __hash__ = None  # type: ignore[assignment]

    def __pow__(self, other):
        if type(other) is not int or other < 1:  # a small whole power is products
            return self.tally_of(self.value, plain(other), "function", self.value ** plain(other))
        result = self
        for _ in range(other - 1):
            result = result * self
        return result

    def __neg__(self):
        return self.tally_of(self.value, 0, "simple", -self.value, self.unsigned)

    def __invert__(self):
        return self.tally_of(self.value, 0, "simple", ~self.value, self.unsigned)

    def __abs__(self):
        return self.tally_of(self.value, 0, "simple", abs(self.value))

    def __bool__(self):
        return bool(self.value)

    def __index__(self):
        return self.value

    def __int__(self):
        return int(self.value)

    def __float__(self):
        return float(self.value)


# -- what a sim's functions reach --------------------------------------------------------------------------------------


class Stretch:
    """An array, or a view of one, whose elements come as numbers that count; reading and writing is noted if it is `seen`."""

    def __init__(self, array: np.ndarray, tally: Tally, seen: bool = True):
        self._array, self._tally, self._seen = array, tally, seen
        self.shape, self.ndim = array.shape, array.ndim

    def __len__(self):
        return len(self._array)

    @property
    def flat(self):
        return Stretch(self._array.reshape(-1), self._tally, self._seen)

    def _place(self, index: Any) -> tuple[Any, int]:
        index = tuple(map(plain, index)) if isinstance(index, tuple) else plain(index)
        along = index if isinstance(index, tuple) else (index,)
        offset = sum(k * stride for k, stride in zip(along, self._array.strides, strict=False))
        return index, self._array.ctypes.data + offset

    def __getitem__(self, index):
        index, address = self._place(index)
        part = self._array[index]
        if isinstance(part, np.ndarray):
            return Stretch(part, self._tally, self._seen)
        if isinstance(part, np.void):
            return Record(self._array[index : index + 1], self._tally, self._seen)
        if self._seen:
            self._tally.reads(address, part.nbytes)
        return counted(part, self._tally)

    def __setitem__(self, index, value):
        index, address = self._place(index)
        if isinstance(value, Record):  # all of it: as fields, so that what is read later is known to have been written
            self._array[index] = value.array[0]
            Record(self._array[index : index + 1], self._tally).touch()
            return
        self._array[index] = self._array.dtype.type(plain(value))
        if self._seen:
            self._tally.writes(address, self._array.itemsize)


class Record:
    """A record, given as an array of one, whose fields come as numbers that count."""

    def __init__(self, array: np.ndarray, tally: Tally, seen: bool = True):
        vars(self).update(array=array, tally=tally, seen=seen, at=array.ctypes.data)

    def __getattr__(self, name):
        field = self.array[name]
        if field.ndim > 1:
            return Stretch(field[0], self.tally, self.seen)
        if self.seen:
            self.tally.reads(self.at + self.array.dtype.fields[name][1], field.itemsize)
        return counted(field[0], self.tally)

    def __setattr__(self, name, value):
        field = self.array[name]
        field[0] = field.dtype.type(plain(value)) if field.dtype.kind == "f" else _wrapped(plain(value), field.dtype)
        self.tally.writes(self.at + self.array.dtype.fields[name][1], field.itemsize)

    def touch(self) -> None:
        """Note that all of it is written."""
        for name, (_, offset, *_) in self.array.dtype.fields.items():
            field = self.array[name]
            for k in range(field.size):
                self.tally.writes(self.at + offset + k * field.itemsize, field.itemsize)


def _wrapped(value: Any, dtype: np.dtype) -> np.generic:
    """A whole number as machines store it in so many bytes."""
    return np.array(int(value) & (2 ** (8 * dtype.itemsize) - 1), f"u{dtype.itemsize}").view(dtype)[()]


def counted(x: np.generic, tally: Tally) -> Number:
    return Number(x.item(), tally, isinstance(x, np.uint64))


def _converted(kind: Any):
    """A conversion of type: not counted, and what counts goes on counting."""

    def convert(x=0):
        if not isinstance(x, Number):
            return kind(x)
        unsigned = isinstance(kind, type) and issubclass(kind, np.unsignedinteger)
        bits = 8 * np.dtype(kind).itemsize
        value = kind(x.value).item() if np.dtype(kind).kind == "f" else int(x.value) & (2**bits - 1)
        if not unsigned and type(value) is int and value >= 2 ** (bits - 1):
            value -= 2**bits
        return Number(value, x.tally, unsigned and bits == 64)

    return convert


def _function(name: str, kind: str):
    compute = getattr(math, name)

    def function(*args):
        for x in args:
            if isinstance(x, Number):
                return x.tally_of(float(x), 0.0, kind, compute(*map(plain, args)))
        return compute(*args)

    return function


def _extreme(choose: Any):
    def function(first, *others):
        best = first
        for other in others:
            number = best if isinstance(best, Number) else other
            if isinstance(number, Number):
                a, b = plain(best), plain(other)
                number.tally_of(a, b, "simple", None)
                result = choose(a, b)
                best = Number(
                    float(result) if float in (type(a), type(b)) else result, number.tally, is_unsigned(number)
                )
            else:
                best = choose(best, other)
        return best

    return function


class _Else:
    """Some names of its own, else those of a module."""

    def __init__(self, module: Any, **own: Any):
        self._module = module
        vars(self).update(own)

    def __getattr__(self, name):
        return getattr(self._module, name)


MATH = _Else(
    math,
    **{name: _function(name, "root") for name in ROOTS},
    **{name: _function(name, "function") for name in FUNCTIONS},
    **{name: _function(name, "simple") for name in (*ROUNDINGS, "isfinite", "fabs")},
)
NUMPY = _Else(np, **{name: _converted(getattr(np, name)) for name in ("uint64", "uint32", "int64", "int32", "uint8", "int8")},
              **{name: _converted(getattr(np, name)) for name in ("float32", "float64")})  # fmt: skip
SCOPE = {
    "math": MATH,
    "np": NUMPY,
    "min": _extreme(min),
    "max": _extreme(max),
    "int": _converted(np.int64),
    "float": _converted(np.float64),
}


def counting(function: Any, tally: Tally, memo: dict | None = None) -> Any:
    """A jitted function, and all that it reaches, as plain Python that counts what is done with a Number."""

    def finish(source, original):
        scope = source.__globals__
        scope.update(SCOPE)
        for name, value in scope.items():
            if isinstance(value, np.ndarray) and value.ndim:
                scope[name] = Stretch(value, tally, seen=False)
        return source

    return rebuilt(function, finish, {} if memo is None else memo)


# -- a step ------------------------------------------------------------------------------------------------------------


def of_a_step(name: str, steps: int = STEPS, seed: int = 0) -> Work:
    """The mean over so many steps (fewer of a sim with much to do) of one env with uniform actions, autoreset in."""
    return played(name, steps, seed)[0]


def played(name: str, steps: int, seed: int = 0) -> tuple[Work, np.ndarray]:
    """The same, and the env's record (1,) after them."""
    tally, memo = Tally(), {}
    env = envs.make_vec(name, 1, seed=seed, backend="python")
    env.reset()
    env.single_action_space.seed(seed)
    names, _ = kernels.names_of(env.sim, env.precision)
    own = {key: counting(value, tally, memo) for key, value in names.items()}
    same = dict.fromkeys(("njit", "njit_batch", "njit_entry"), lambda function: function)
    template = kernels.run(kernels.BATCH, {**own, **same, "prange": range})
    states, blank, params, stride, stream, *limits, ended = env._world()
    records = [Stretch(array.view(np.ndarray), tally, seen=array is states) for array in (states, blank, params)]
    world = (*records, stride, counted(stream, tally), *limits, Stretch(ended, tally))
    outputs, done = [Stretch(array, tally) for array in env.arrays()], 0
    with np.errstate(over="ignore"):  # of constants
        while done < steps and tally.operations.total() < ENOUGH:
            actions = Stretch(np.asarray(env.single_action_space.sample())[None], tally)
            template.step_rows(world, 0, 1, actions, *outputs)
            tally.end_step()
            done += 1
    return tally.work(done), env.state
