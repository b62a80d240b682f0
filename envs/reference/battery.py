"""What a battery can earn in a week: exactly, by simple rules, and by knowing the future. `python -m envs.reference.battery`.

A value table is V[hour, market, charge], in euros, from that hour to the end.
"""

import numpy as np
from numpy.typing import NDArray

from envs.battery import BUY, CAPACITY, HOURS, MARKET, POWER, PROFILE, SELL, SIM

CHARGES = np.arange(CAPACITY + 1)
MOVES = np.clip(np.arange(-POWER, POWER + 1)[:, None], -CHARGES, CAPACITY - CHARGES)  # [action, charge], kWh
PRICES = PROFILE * np.array([0.5, 1.0, 2.0])[:, None] / 64.0  # [market, hour of the day], euro per kWh
GRID = np.where(MOVES > 0, 17.0 / 16.0, 15.0 / 16.0) * MOVES  # kWh bought
WEAR = SIM.params.defaults["wear"] / 64.0


def cash(price: NDArray, wear: float = WEAR) -> NDArray:
    """The cash of an hour [..., action, charge], by its price [...]."""
    return -GRID * np.asarray(price)[..., None, None] - wear * np.abs(MOVES)


def evaluate(choose, wear: float = WEAR, hours: int = HOURS) -> NDArray:
    """The values of a policy. choose(hour, q): of the returns q[market, action, charge] of every action, the policy's."""
    value = np.zeros((hours + 1, 3, CAPACITY + 1))
    for hour in reversed(range(hours)):
        later = MARKET / 1000.0 @ value[hour + 1]
        q = cash(PRICES[:, hour % 24], wear) + later[:, CHARGES + MOVES]
        value[hour] = choose(hour, q)
    return value


def optimum(wear: float = WEAR, hours: int = HOURS) -> tuple[NDArray, NDArray]:
    """The values of the best policy, and its actions [hour, market, charge], by dynamic programming."""
    actions = np.zeros((hours, 3, CAPACITY + 1), np.int64)

    def best(hour, q):
        actions[hour] = q.argmax(axis=1)
        return q.max(axis=1)

    return evaluate(best, wear, hours), actions


def thresholds(buy: int, sell: int) -> NDArray:
    """The values of the scripted rule: buy at up to `buy` 64ths of a euro, and sell from `sell` on."""

    def choose(hour, q):
        price = 64.0 * PRICES[:, hour % 24]
        return q[np.arange(3), np.where(price <= buy, 2 * POWER, np.where(price >= sell, 0, POWER))]

    return evaluate(choose)


def best_thresholds() -> tuple[float, int, int]:
    """The most that the scripted rule earns, and the two prices with which it does."""
    prices = sorted({int(64 * price) for price in PRICES.flat})
    pairs = [(buy, sell) for buy in prices for sell in prices if buy < sell]
    return max((thresholds(*pair)[0, :, 0].mean(), *pair) for pair in pairs)


def with_foresight(prices: NDArray, wear: float = WEAR) -> NDArray:
    """The most that an empty battery can earn at prices [paths, hours] (euro per kWh) that are all known beforehand."""
    value = np.zeros((len(prices), CAPACITY + 1))
    for price in prices.T[::-1]:
        value = (cash(price, wear) + value[:, CHARGES + MOVES]).max(axis=1)
    return value[:, 0]


def price_paths(paths: int, seed: int = 0) -> NDArray:
    """Prices [paths, hours] in euro per kWh, drawn by NumPy."""
    rng = np.random.default_rng(seed)
    market = rng.integers(3, size=paths)
    prices = np.empty((paths, HOURS))
    for hour in range(HOURS):
        prices[:, hour] = PRICES[market, hour % 24]
        market = (rng.random(paths)[:, None] >= MARKET.cumsum(axis=1)[market] / 1000.0).sum(axis=1)
    return prices


def main() -> None:
    known = with_foresight(price_paths(100_000))
    print(
        f"optimum {optimum()[0][0, :, 0].mean():.4f}, random {evaluate(lambda _, q: q.mean(axis=1))[0, :, 0].mean():.4f}"
    )
    print(f"buy at {BUY}, sell at {SELL}: {thresholds(BUY, SELL)[0, :, 0].mean():.4f}; best {best_thresholds()}")
    print(f"with foresight {known.mean():.3f} +- {known.std(ddof=1) / len(known) ** 0.5:.3f}")


if __name__ == "__main__":
    main()
