"""`Captured`: a function of tensors that runs as one CUDA graph, so that a thousand kernels cost one launch.

What is captured reads and writes tensors that stay where they are. Whatever changes from call to call comes in through
tensors that are written before (a learning rate, random numbers, the order of the minibatches): a graph holds no random
state, and draws the numbers that it would draw without.
"""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UP = 2  # calls that run as usual, while libraries load and allocate what they keep


class Graph(Protocol):
    """Records what a function does, and does it again."""

    def warm_up(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call the function, where a later capture can follow."""

    def capture(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Record a call, without running it; returns what it returned, tensors that each replay fills."""

    def replay(self) -> None:
        """Run what was recorded."""


class CudaGraph:
    """`Graph` by CUDA's own. Not yet run on hardware."""

    def warm_up(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            found = function(*arguments)
        torch.cuda.current_stream().wait_stream(side)
        return found

    def capture(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            return function(*arguments)

    def replay(self) -> None:
        self.graph.replay()


class Captured:
    """`function(*tensors)`, captured as a graph after `WARM_UP` calls. Call it with the same tensors each time.

    function: does all its work on tensors; what it does in Python happens while it is captured and never again. Returns
        tensors (also in tuples and dicts), which the next call overwrites, or plain values, which stay as they were.
    graph: what captures; None calls the function as it is.

    Where capturing fails, a warning says why, and the function is called as it is from then on.
    """

    def __init__(self, function: Callable[..., Any], graph: Graph | None):
        self.function, self.graph = function, graph
        self.calls = 0
        self._arguments: list[Any] = []
        self._found: Any = None

    def __call__(self, *arguments: Any) -> Any:
        if self.graph is None:
            return self.function(*arguments)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.graph.warm_up(self.function, arguments)
        if self.calls == WARM_UP + 1:
            try:
                self._found = self.graph.capture(self.function, arguments)
                self._arguments = identities(arguments)
            except RuntimeError as error:
                self.graph = None
                name = getattr(self.function, "__qualname__", repr(self.function))
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(f"{name} runs without a CUDA graph: {reason:.200}", stacklevel=2)
                return self.function(*arguments)
        assert identities(arguments) == self._arguments, "a captured function was called with other tensors"
        self.graph.replay()
        return self._found


def identities(arguments: tuple[Any, ...]) -> list[Any]:
    """Where tensors are, and what else there is: what a graph has taken for granted."""
    return [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]


class Capture:
    """How the parts of an agent run: as graphs, if `engine` ("auto" or "graph") and `device` allow it, or as they are."""

    def __init__(self, engine: str, device: torch.device):
        self.device = device
        self.is_wanted = engine == "graph" or (engine == "auto" and device.type == "cuda")
        # whether no tensor's values are looked at, because that would wait for them
        self.is_blind = self.is_wanted or device.type != "cpu"
        self._kept: dict[str, Tensor] = {}

    def __call__(self, function: Callable[..., Any], reason_against: str | float | None = None) -> Captured:
        """`function`, which runs as a graph unless there is a reason against it; a warning says so."""
        if self.is_wanted and reason_against:
            warnings.warn(f"{function.__qualname__} runs without a CUDA graph: {reason_against}", stacklevel=3)
        return Captured(function, CudaGraph() if self.is_wanted and not reason_against else None)

    def kept(self, name: str, tensor: Tensor) -> Tensor:
        """`tensor`, as a captured function can see it: copied to where the first one of that name was."""
        if not self.is_wanted:
            return tensor
        if name not in self._kept:
            self._kept[name] = torch.empty_like(tensor)
        return self._kept[name].copy_(tensor)

    def number(self, name: str, value: float) -> float | Tensor:
        """A number that changes from call to call, as a captured function can see it: a 0-dim tensor that stays where it is."""
        if not self.is_wanted:
            return value
        if name not in self._kept:
            self._kept[name] = torch.zeros((), device=self.device)
        return self._kept[name].fill_(value)
