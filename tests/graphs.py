"""A CUDA graph for the CPU: it records the operations of a function, and does them again without its Python.

What would be wrong in a real graph is wrong here: a number or a decision taken from a tensor's values stops the capture; a
number that Python computes anew in each call stays what it was; a tensor that is replaced is not seen.
"""

import traceback
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from envs.engine import cuda

aten = torch.ops.aten
FORBIDDEN = {
    aten._local_scalar_dense: "reads a number from the device",
    aten.lift_fresh: "copies from the host",
    aten.nonzero: "has a shape that depends on data",
    aten.masked_select: "has a shape that depends on data",
    aten._unique2: "has a shape that depends on data",
}
RANDOM = ("aten::random", "aten::rand", "aten::normal", "aten::exponential", "aten::uniform", "aten::multinomial")


def reason_against(function: Any, args: Any) -> str | None:
    """Why a capture forbids an operation, or None."""
    packet = function.overloadpacket
    if packet in (aten.index, aten.index_put_) and any(x is not None and x.dtype == torch.bool for x in args[1]):
        return "has a shape that depends on data"
    if packet is aten.lift_fresh and any("torch/optim/" in frame.filename for frame in traceback.extract_stack()):
        return None  # a number that `torch.where` takes: an argument of its kernel
    if function._schema.name.startswith(RANDOM):
        return "draws random numbers"
    return FORBIDDEN.get(packet)


class Recorder(TorchDispatchMode):
    def __init__(self, operations: list[tuple]):
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if reason := reason_against(function, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function} {reason}")
        found = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, found))
        return found


class RecordedGraph:
    """`rlsys.capture.Graph`. Unlike CUDA's, `capture` also does what it records; so the first replay does nothing."""

    def __init__(self):
        self.operations: list[tuple] = []
        self.replays = 0

    def warm_up(self, function, arguments):
        return function(*arguments)

    def capture(self, function, arguments=()):
        launch = cuda.launch

        def recorded_launch(*args):
            launch(*args)
            self.operations.append((launch, args, {}, None))

        cuda.launch = recorded_launch
        try:
            with Recorder(self.operations):
                return function(*arguments)
        finally:
            cuda.launch = launch

    @torch.no_grad()
    def replay(self):
        """All of it once more, on the memory it had; results go where the first ones are."""
        self.replays += 1
        if self.replays == 1:
            return
        for function, args, kwargs, found in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)
