"""Training of small MLPs on the CPU by Numba: the same parameters, moments and results as torch, several times as fast.

What torch spends on a small network is not arithmetic but the way there: an operation costs microseconds before it begins,
and its intermediate results leave the cache. Here a whole phase of gradient steps is one call of a compiled kernel
(`mlp_kernels.py`), with the loss compiled into it as a Sim's `step` is into the engine.

    native = Native(networks, free, activation="tanh", rule=my_rule, ...)
    native.evaluate(features)                   # the networks' outputs
    native.fit(features, columns, batches, ...) # Adam steps

A `Rule` is two scalar functions of one sample, which see its output row: the networks' outputs, then the free parameters.
The torch modules' parameters become views of the one flat vector that the kernels work on, so that checkpoints, evaluation
and torch itself see the same weights at any time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from envs.engine import kernels

TEMPLATE = Path(__file__).with_name("mlp_kernels.py")
ACTIVATIONS: dict[type, str] = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.ELU: "elu"}
PARALLEL_FROM = 512  # samples a minibatch; below, waking the threads costs more than they save


@dataclass(frozen=True)
class Rule:
    """The action rule and loss of an agent, as scalar functions for the kernels.

    pick_row(out, noise, action) -> log_prob: write an action into action [A], given an output row and noise [A].
    loss_row(out, sample, shift, scale, constants, d_out, log): write d loss / d out into d_out, add to log.
        sample is a row of `columns`, of which column `standardize` is to be taken as (x - shift) / scale.
    logs: how many numbers loss_row logs.
    """

    name: str
    pick_row: Callable[..., float]
    loss_row: Callable[..., None]
    standardize: int
    logs: int


class Native:
    """Networks (lists of alternating Linear and activation modules) and free parameters over one flat vector.

    The modules are changed in place: their parameters become views of `flat`. threads: at most so many at once.
    """

    def __init__(self, networks: list[list[nn.Module]], free: list[nn.Parameter], rule: Rule, threads: int = 1):
        linears = [[m for m in network if isinstance(m, nn.Linear)] for network in networks]
        parameters = [p for network in linears for linear in network for p in (linear.weight, linear.bias)] + free
        self.parameters, dtype = parameters, parameters[0].dtype
        self.flat, self.moment, self.square = (
            torch.zeros(sum(p.numel() for p in parameters), dtype=dtype) for _ in range(3)
        )
        self.steps = 0  # of Adam
        for p, view in zip(parameters, self._views(self.flat), strict=True):
            view.copy_(p.data)
            p.data = view

        kind = {ACTIVATIONS[type(m)] for network in networks for m in network if type(m) in ACTIVATIONS} or {"tanh"}
        assert len(kind) == 1, "one activation for all networks"
        names = {"pick_row": rule.pick_row, "loss_row": rule.loss_row, "STANDARDIZE": rule.standardize}
        names |= dict(zip(("activation", "slope"), _activation(kind.pop(), dtype), strict=True))
        title = f"mlp-{rule.name}"
        self._serial = kernels.fill_in(TEMPLATE, names, "serial", title, fastmath=True)
        self._parallel = (
            kernels.fill_in(TEMPLATE, names, "parallel", title, fastmath=True) if threads > 1 else self._serial
        )
        lanes, chunk = self._serial.LANES, self._serial.CHUNK

        rows, first, at, acts_at = [], [0], 0, 0
        for network in linears:
            for linear in network:
                n_in, n_out = linear.in_features, linear.out_features
                rows.append((at, at + n_in * n_out, n_in, n_out, acts_at))
                at, acts_at = at + (n_in + 1) * n_out, acts_at + chunk * n_out
            first.append(len(rows))
        self._layers, self._first, self._free_at = np.array(rows), np.array(first), at
        self.n_out = [network[-1].out_features for network in linears]
        self._width = sum(self.n_out) + len(self.flat) - at

        self.rule = rule
        one_blas_thread()

        # Scratch, one row a lane.
        real = self.flat.numpy().dtype
        widest = int(self._layers[:, 2:4].max())
        self._acts = np.empty((lanes, acts_at), real)
        self._deltas = np.empty((lanes, 2, chunk * widest), real)
        self._product = np.empty((lanes, int((self._layers[:, 2] * self._layers[:, 3]).max())), real)
        self._grad = np.empty((lanes, len(self.flat)), real)
        self._xs = np.empty((lanes, chunk, int(self._layers[0, 2])), real)
        self._outs, self._d_outs = (np.empty((lanes, chunk, self._width), real) for _ in range(2))
        self._lane_logs = np.empty((lanes, rule.logs))

    def _views(self, flat: Tensor) -> list[Tensor]:
        return [
            x.view(p.shape)
            for x, p in zip(flat.split([p.numel() for p in self.parameters]), self.parameters, strict=True)
        ]

    def _kernels(self, samples: int) -> Any:
        return self._parallel if samples >= PARALLEL_FROM else self._serial

    def evaluate(self, features: NDArray, networks: tuple[int, int]) -> NDArray:
        """Output rows [S, *] of features [S, F], of a range of networks (from, to) and the free parameters."""
        width = sum(self.n_out[slice(*networks)]) + len(self.flat) - self._free_at
        out = np.empty((len(features), width), features.dtype)
        run = self._kernels(len(features)).evaluate
        run(self.flat.numpy(), self._layers, self._first, networks, self._free_at, features, out, self._acts)
        return out

    def pick(self, features: NDArray, noise: NDArray, action: NDArray, log_prob: NDArray) -> None:
        """Act by the first network: features [N, F] and noise [N, A] -> action [N, A], log_prob [N]."""
        self._serial.pick(self.evaluate(features, (0, 1)), noise, action, log_prob)

    def fit(
        self,
        features: NDArray,
        columns: NDArray,
        batches: list[NDArray],
        constants: NDArray,
        *,
        learning_rate: float,
        epsilon: float,
        max_grad_norm: float,
        max_log: float = math.inf,
    ) -> NDArray:
        """Adam steps on minibatches, lists of rows of features [S, F] and columns [S, C]; returns logs [steps, logs + 1].

        Stops before a minibatch whose first log exceeds max_log. The last log is the gradient's norm before clipping.
        """
        logs = np.zeros((len(batches), self.rule.logs + 1))
        starts = np.cumsum([0, *map(len, batches)])
        adam = (learning_rate, 0.9, 0.999, epsilon)
        taken = self._kernels(len(batches[0])).fit(
            self.flat.numpy(), self.moment.numpy(), self.square.numpy(), self.steps, self._layers, self._first,
            self._free_at, features, columns, np.concatenate(batches), starts, constants, adam, max_grad_norm, max_log,
            self._grad, self._acts, self._deltas, self._product, self._xs, self._outs, self._d_outs, self._lane_logs, logs,
        )  # fmt: skip
        self.steps += taken
        return logs[:taken]

    def state(self) -> dict[str, Any]:
        """Adam's moments, in the form of `agents.optimizer_state`: either engine goes on with what the other began."""
        moments = zip(self._views(self.moment), self._views(self.square), strict=True)
        step = torch.tensor(float(self.steps))
        return {str(i): {"step": step, "exp_avg": m, "exp_avg_sq": v} for i, (m, v) in enumerate(moments)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        for i, (m, v) in enumerate(zip(self._views(self.moment), self._views(self.square), strict=True)):
            m.copy_(state[str(i)]["exp_avg"])
            v.copy_(state[str(i)]["exp_avg_sq"])
        self.steps = int(state["0"]["step"]) if state else 0


@cache
def one_blas_thread() -> None:
    """The kernels' threads call SciPy's BLAS (through `np.dot`), each for itself: it must not start threads of its own."""
    import scipy.linalg.cython_blas  # noqa: F401 (a library can be limited only once it is loaded)

    ThreadpoolController().limit(limits=1, user_api="blas")


def _activation(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """f and, as a function of f's value, its derivative."""
    if name == "tanh":
        return (_tanh_float32 if dtype == torch.float32 else _tanh), _tanh_slope
    return {"relu": (_relu, _relu_slope), "elu": (_elu, _elu_slope)}[name]


@njit(error_model="numpy", fastmath=True)
def _tanh_float32(x):
    """tanh to 3e-7, as a ratio of polynomials, which the compiler can vectorise.

    Source: the minimax coefficients of Eigen's and XLA's float32 tanh.
    """
    f = np.float32
    x = min(max(x, f(-7.90531110763549805)), f(7.90531110763549805))
    y = x * x
    p = f(-2.76076847742355e-16) * y + f(2.00018790482477e-13)
    p = p * y + f(-8.60467152213735e-11)
    p = p * y + f(5.12229709037114e-08)
    p = p * y + f(1.48572235717979e-05)
    p = p * y + f(6.37261928875436e-04)
    p = p * y + f(4.89352455891786e-03)
    q = f(1.19825839466702e-06) * y + f(1.18534705686654e-04)
    q = q * y + f(2.26843463243900e-03)
    q = q * y + f(4.89352518554385e-03)
    return x * p / q


@njit
def _tanh(x):
    return math.tanh(x)


@njit
def _tanh_slope(y):
    return 1 - y * y


@njit
def _relu(x):
    return max(x, x * 0)


@njit
def _relu_slope(y):
    return y > 0


@njit
def _elu(x):
    return x if x > 0 else math.expm1(x)


@njit
def _elu_slope(y):
    return 1 + min(y, y * 0)
