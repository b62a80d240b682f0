"""A CUDA graph for the CPU: it records the operations of a function, and does them again without its Python.

What would be wrong in a real graph is wrong here: a number or a decision taken from a tensor's values stops the capture; a
number that Python computes anew in each call stays what it was; a tensor that is replaced is not seen.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from envs.engine import cuda

FORBIDDEN = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::is_nonzero",
    "aten::equal",
    "aten::masked_select",
    "aten::unique",
)
RANDOM = ("aten::random", "aten::rand", "aten::normal", "aten::exponential", "aten::uniform", "aten::multinomial")


class Recorder(TorchDispatchMode):
    def __init__(self, graph: "RecordedGraph"):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name
        if name in FORBIDDEN:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        assert not name.startswith(RANDOM), f"{name} inside of a graph"
        found = function(*args, **kwargs)
        inputs = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        memory = {x.untyped_storage().data_ptr() for x in inputs}
        outputs = [x for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
        fresh = [x.untyped_storage().data_ptr() not in memory for x in outputs]
        self.graph.operations.append((function, args, kwargs, outputs, fresh))
        return found


class RecordedGraph:
    """`capture.Graph`. Unlike CUDA's, it also runs what it captures; so the first replay is left out."""

    def __init__(self):
        self.operations: list[Any] = []
        self.replays = 0

    def warm_up(self, function, arguments):
        return function(*arguments)

    def capture(self, function, arguments):
        launch = cuda.launch

        def recorded_launch(kernel, n, stream, *args):
            launch(kernel, n, stream, *args)
            self.operations.append((launch, (kernel, n, stream, *args), {}, [], []))

        cuda.launch = recorded_launch
        try:
            with Recorder(self):
                return function(*arguments)
        finally:
            cuda.launch = launch

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        if self.replays == 1:
            return
        for function, args, kwargs, outputs, fresh in self.operations:
            found = function(*args, **kwargs)
            again = [x for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
            for old, new, is_fresh in zip(outputs, again, fresh, strict=True):
                if is_fresh:
                    old.copy_(new)
