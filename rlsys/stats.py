"""Honest statistics of few samples: the interquartile mean, and bootstrap intervals."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_RESAMPLES = 10_000


def iqm(x: NDArray, axis: int = -1) -> Any:
    """Interquartile mean: the mean without the lowest and highest quarter, rounded down (Agarwal et al. 2021)."""
    x = np.sort(np.asarray(x, np.float64), axis=axis)
    cut = x.shape[axis] // 4
    return np.take(x, range(cut, x.shape[axis] - cut), axis=axis).mean(axis=axis)


def bootstrap_interval(x: NDArray, statistic: Any, level: float = 0.95) -> list[float]:
    """Percentile bootstrap interval [low, high] of a statistic of independent samples; always the same for the same x.

    statistic(samples [..., n], axis=-1) -> [...], such as `np.mean` or `iqm`.
    """
    return percentile_interval(bootstrap(x, statistic), level)


def bootstrap(x: NDArray, statistic: Any, seed: int = 0) -> NDArray[np.float64]:
    """The statistic of resamples of x, which are always the same for the same x and seed."""
    random, parts = np.random.default_rng(seed), 10  # in parts: a tenth of the memory
    drawn = (random.choice(np.asarray(x), (BOOTSTRAP_RESAMPLES // parts, len(x))) for _ in range(parts))
    return np.concatenate([statistic(resamples, axis=-1) for resamples in drawn])


def percentile_interval(found: NDArray, level: float = 0.95) -> list[float]:
    """[low, high] that a share `level` of the values lies in, as much of the rest below as above."""
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
