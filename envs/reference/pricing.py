"""What can be earned with a number of seats in a number of periods: exactly, and by formula. `python -m envs.reference.pricing`.

A value table is V[periods left, seats left], from (0, 0) on.
"""

import math

import numpy as np
from numpy.typing import NDArray

from envs.pricing import DRAWS, LOWEST, PERIODS, PRICES, SEATS, THRESHOLDS

PRICE = (LOWEST + np.arange(PRICES)) / 8.0
CHANCE = THRESHOLDS / DRAWS  # that a seat is sold in a period, by action


def optimum(
    seats: int = SEATS, periods: int = PERIODS, price: NDArray = PRICE, chance: NDArray = CHANCE
) -> tuple[NDArray, NDArray]:
    """The values of the best policy, and its actions (0 where nothing is left to decide), by dynamic programming."""
    value = np.zeros((periods + 1, seats + 1))
    action = np.zeros((periods + 1, seats + 1), np.int64)
    for left in range(1, periods + 1):
        gain = _gains(value[left - 1], price, chance)
        action[left, 1:] = gain.argmax(axis=0)
        value[left, 1:] = value[left - 1, 1:] + gain.max(axis=0)
    return value, action


def blind(
    weights: NDArray, seats: int = SEATS, periods: int = PERIODS, price: NDArray = PRICE, chance: NDArray = CHANCE
) -> float:
    """What is earned by drawing each period's action with the same probabilities `weights`: a fixed price, or a random one."""
    value = np.zeros(seats + 1)
    for _ in range(periods):
        value[1:] += weights @ _gains(value, price, chance)
    return float(value[seats])


def best_fixed() -> tuple[float, int]:
    """The most that a fixed price earns, and its action."""
    return max((blind(np.eye(PRICES)[action]), action) for action in range(PRICES))


def _gains(value: NDArray, price: NDArray, chance: NDArray) -> NDArray:
    """What an action (rows) adds to the value of the next period, by the seats left (columns, from 1)."""
    return chance[:, None] * (price[:, None] + value[:-1] - value[1:])


def continuous(seats: int, customers: float) -> float:
    """Gallego and van Ryzin's optimum with `customers` expected in all, any price at any time: a theorem.

    Each buys at the price x with a probability of exp(-x): J = ln(sum of (customers / e)^i / i! for i = 0 to seats).
    """
    expected = customers / math.e
    return math.log(math.fsum(expected**i / math.factorial(i) for i in range(seats + 1)))


def main() -> None:
    value, _ = optimum()
    fixed, action = best_fixed()
    print(f"optimum {value[PERIODS, SEATS]:.4f}; continuous {continuous(SEATS, 0.8 * PERIODS):.4f}")
    print(
        f"fixed price {fixed:.4f} (action {action}, {PRICE[action]}); random {blind(np.full(PRICES, 1 / PRICES)):.4f}"
    )


if __name__ == "__main__":
    main()
