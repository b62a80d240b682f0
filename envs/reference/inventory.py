"""What an inventory costs: the exact optimum, and the rules that are used in practice. `python -m envs.reference.inventory`.

Everything here goes by the demand that `envs/inventory.py` draws, to the last of its 2^-32ths, and by its limits on orders.
Costs are per period in the long run (`average`), or of a whole episode from its start (`episode`).

A value table is V[on the way, on the shelf], where the deliveries on their way, (x1, ..., x_{L-1}) in the order in which they
arrive, are the digits of one number in base LARGEST_ORDER + 1.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from envs.inventory import CAPACITY, DRAWS, LARGEST_ORDER, LONGEST, MEAN, SIM, THRESHOLDS

BASE = LARGEST_ORDER + 1
DEMAND = np.diff(np.append(THRESHOLDS, DRAWS), prepend=0) / DRAWS  # P(demand = d)


@numba.njit(error_model="numpy")
def _sweep(value, out, orders, cost, demand, base, given):
    """out = the least expected cost of a period and, after it, of `value`; or that of `orders`, if those are given.

    Returns the smallest and the largest difference between out and value: the average cost lies between them.
    """
    rows, capacity = len(value), value.shape[1] - 1
    weight = max(1, rows // base)  # of the digit that arrives next
    low, high = np.inf, -np.inf
    for row in range(rows):
        arriving, underway, digits = row // weight if rows > 1 else 0, 0, row
        while digits > 0:
            underway += digits % base
            digits //= base
        for shelf in range(capacity - underway + 1):
            most = min(base - 1, capacity - underway - shelf)
            first = min(orders[row, shelf], most) if given else 0
            best, choice = np.inf, 0
            for order in range(first, (first if given else most) + 1):
                after = row % weight * base + order if rows > 1 else 0
                arrives = arriving if rows > 1 else order
                expected, rest = 0.0, 1.0
                for d in range(min(shelf, len(demand))):
                    expected += demand[d] * value[after, shelf - d + arrives]
                    rest -= demand[d]
                expected += rest * value[after, arrives]  # sold out
                if expected < best:
                    best, choice = expected, order
            orders[row, shelf] = choice
            out[row, shelf] = cost[shelf] + best
            change = out[row, shelf] - value[row, shelf]
            low, high = min(low, change), max(high, change)
    return low, high


@dataclass(frozen=True)
class Model:
    """An inventory's parameters. The largest order is an argument so that a test can solve a small case by brute force."""

    lead_time: int = int(SIM.params.defaults["lead_time"])
    penalty: float = SIM.params.defaults["penalty"]
    holding: float = SIM.params.defaults["holding"]
    capacity: int = CAPACITY
    base: int = BASE

    @property
    def period_cost(self) -> NDArray:
        """The expected cost of a period, by what is on the shelf."""
        over = np.arange(self.capacity + 1)[:, None] - np.arange(len(DEMAND))
        return (self.holding * np.maximum(over, 0) + self.penalty * np.maximum(-over, 0)) @ DEMAND

    def tables(self) -> tuple[NDArray, NDArray]:
        """A value table of zeros, and one of orders."""
        shape = (self.base ** (self.lead_time - 1), self.capacity + 1)
        return np.zeros(shape), np.zeros(shape, np.int64)

    def average(self, orders: NDArray | None = None, tolerance: float = 1e-6) -> tuple[float, NDArray]:
        """The average cost, within `tolerance`, and the orders: the optimum, or what the given orders cost."""
        value, choices = self.tables()
        if orders is not None:
            choices = orders.copy()
        out, low, high = value.copy(), -np.inf, np.inf
        while high - low > tolerance:  # relative value iteration, with Odoni's bounds
            low, high = _sweep(value, out, choices, self.period_cost, DEMAND, self.base, orders is not None)
            value, out = out, value
            value -= value[0, 0]
        return (low + high) / 2.0, choices

    def episode(self, orders: NDArray | None = None, periods: int = SIM.max_episode_steps) -> float:
        """The expected cost of an episode: the least possible (the time is known), or that of the given orders."""
        value, choices = self.tables()
        if orders is not None:
            choices = orders.copy()
        out = value.copy()
        for _ in range(periods):
            _sweep(value, out, choices, self.period_cost, DEMAND, self.base, orders is not None)
            value, out = out, value
        row = int(sum(MEAN * self.base**i for i in range(self.lead_time - 1)))
        return float(value[row, MEAN])

    def base_stock(self, level: int, cap: int = LARGEST_ORDER) -> NDArray:
        """Orders that lift the stock on hand and on order to `level`, by no more than `cap` a period."""
        _, orders = self.tables()
        underway, rows = np.zeros(len(orders), np.int64), np.arange(len(orders))
        for _ in range(self.lead_time - 1):
            underway += rows % self.base
            rows //= self.base
        return np.clip(level - underway[:, None] - np.arange(self.capacity + 1), 0, min(cap, self.base - 1))

    def best_base_stock(self, caps: tuple[int, ...] = (LARGEST_ORDER,)) -> tuple[float, int, int]:
        """The least average cost of a (capped) base-stock rule, its level and its cap."""
        levels = range(MEAN, self.capacity + 1)
        return min((self.average(self.base_stock(s, c), 1e-4)[0], s, c) for s in levels for c in caps)


def main() -> None:
    print("lead time, penalty: optimum, base stock (level), capped base stock (level, cap)")
    for lead_time in range(1, LONGEST + 1):
        for penalty in (4, 9, 19, 39):
            model = Model(lead_time, penalty)
            base, capped = model.best_base_stock(), model.best_base_stock(tuple(range(MEAN - 1, LARGEST_ORDER + 1)))
            print(
                f"{lead_time} {penalty:2}: {model.average()[0]:7.4f} {base[0]:7.4f} ({base[1]}) "
                f"{capped[0]:7.4f} ({capped[1]}, {capped[2]})",
                flush=True,
            )
    model = Model()
    print(f"an episode: optimum {model.episode():.2f}, base stock 25 {model.episode(model.base_stock(25)):.2f}")


if __name__ == "__main__":
    main()
