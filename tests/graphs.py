"""The rules of CUDA graphs, kept on the CPU: what a capture forbids fails, and a replay repeats operations, not Python."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
FORBIDDEN = {
    aten._local_scalar_dense: "reads a number from the device",
    aten.lift_fresh: "copies from the host",
    aten.nonzero: "has a shape that depends on data",
    aten.masked_select: "has a shape that depends on data",
    aten._unique2: "has a shape that depends on data",
}


class Graph(TorchDispatchMode):
    """`with Graph() as graph:` records torch's operations; `graph.replay()` runs them again on the memory they had."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reason = FORBIDDEN.get(func.overloadpacket)
        if func.overloadpacket in (aten.index, aten.index_put_) and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        ):
            reason = "has a shape that depends on data"
        assert reason is None, f"{func} {reason}"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """All of it once more. Numbers that were Python's are what they were; results go where the first ones are."""
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)
