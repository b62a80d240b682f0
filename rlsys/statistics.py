"""What samples say, and how surely: location, bootstrap intervals, and comparisons of groups of runs. Numbers only, no files.

Scores of a group of runs are a list with one array for each task, [..., runs of that task]: every statistic here works along
the last axis, so that thousands of resamples are one call. Tasks may have different numbers of runs. The statistics are
those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", and agree with the
authors' rliable (`tests/fixtures/rliable.json`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_RESAMPLES = 10_000
LEVEL, POWER = 0.95, 0.8  # of an interval; how often a difference is to be found if it is there
MAX_SEEDS = 1000  # nobody trains more

Scores = Sequence[NDArray]


# -- one sample ----------------------------------------------------------------------------------------------------------


def iqm(x: NDArray, axis: int = -1) -> Any:
    """Interquartile mean: the mean without the lowest and highest quarter, rounded down (Agarwal et al. 2021)."""
    x = np.sort(np.asarray(x, np.float64), axis=axis)
    cut = x.shape[axis] // 4
    return np.take(x, range(cut, x.shape[axis] - cut), axis=axis).mean(axis=axis)


def bootstrap_interval(x: NDArray, statistic: Any, level: float = LEVEL) -> list[float]:
    """Percentile bootstrap interval [low, high] of a statistic of independent samples; always the same for the same x.

    statistic(samples [..., n], axis=-1) -> [...], such as `np.mean` or `iqm`.
    """
    return percentile_interval(bootstrap(x, statistic), level)


def bootstrap(x: NDArray, statistic: Any, seed: int = 0) -> NDArray[np.float64]:
    """The statistic of resamples of x, which are always the same for the same x and seed."""
    return stratified_bootstrap([x], lambda drawn: statistic(drawn[0], axis=-1), seed=seed)


def percentile_interval(found: NDArray, level: float = LEVEL) -> list[float]:
    """[low, high] that a share `level` of the values lies in, as much of the rest below as above."""
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


# -- groups of runs on several tasks -------------------------------------------------------------------------------------


def stratified_bootstrap(
    strata: Scores, statistic: Callable[[list[NDArray]], Any], *, seed: int = 0, resamples: int = BOOTSTRAP_RESAMPLES
) -> NDArray[np.float64]:
    """The statistic of resamples [resamples, ...], in which each stratum [n, ...] is drawn from on its own, n times.

    statistic([[R, n, ...] for each stratum]) -> [R, ...]. Always the same for the same strata and seed.
    """
    random, parts = np.random.default_rng(seed), 10  # in parts: a tenth of the memory
    size = resamples // parts
    return np.concatenate(
        [
            statistic([random.choice(np.asarray(x), (size, len(x)), axis=0) for x in strata])  # type: ignore[arg-type]
            for _ in range(parts)
        ]
    )


def aggregate_iqm(scores: Scores) -> Any:
    """IQM of all runs of all tasks together: a task with more runs weighs more."""
    return iqm(np.concatenate(scores, axis=-1))


def aggregate_mean(scores: Scores) -> Any:
    """Mean over tasks of the mean over runs."""
    return np.mean(_task_means(scores), axis=0)


def aggregate_median(scores: Scores) -> Any:
    """Median over tasks of the mean over runs."""
    return np.median(_task_means(scores), axis=0)


def optimality_gap(scores: Scores) -> Any:
    """By how much runs fall short of 1 on average, where what is above 1 counts as 1."""
    return 1.0 - np.minimum(np.concatenate(scores, axis=-1), 1.0).mean(axis=-1)


def _task_means(scores: Scores) -> list[NDArray]:
    return [np.mean(x, axis=-1) for x in scores]


def performance_profile(scores: Scores, thresholds: NDArray) -> NDArray[np.float64]:
    """The share of all runs of all tasks that score more than each threshold: [..., len(thresholds)]."""
    return (np.concatenate(scores, axis=-1)[..., None] > thresholds).mean(axis=-2)


def probability_of_improvement(x: Scores, y: Scores) -> Any:
    """How probably a run of x beats one of y on the same task, drawn at random; the mean over tasks. A tie is half a win."""
    wins = [
        (a[..., :, None] > b[..., None, :]).mean(axis=(-2, -1))
        + 0.5 * (a[..., :, None] == b[..., None, :]).mean(axis=(-2, -1))
        for a, b in zip(x, y, strict=True)
    ]
    return np.mean(wins, axis=0)


def improvement_interval(x: Scores, y: Scores, seed: int = 0) -> list[float]:
    """95 % stratified bootstrap interval of the probability of improvement: runs of x and of y are drawn independently."""
    both = stratified_bootstrap(
        [*x, *y], lambda drawn: probability_of_improvement(drawn[: len(x)], drawn[len(x) :]), seed=seed, resamples=2000
    )
    return percentile_interval(both)


# -- how many seeds ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The difference of two groups' means (over tasks of the mean over runs), and what it takes to settle it.

    interval: Welch's 95 % interval. settled: it leaves out 0.
    seeds: how many each group needs on each task, in all, to settle with a probability of 80 % a difference that is as large
        as it now seems, with as much spread between seeds; None if that is more than MAX_SEEDS.
    """

    value: float
    interval: list[float]
    settled: bool
    seeds: int | None


def difference(x: Scores, y: Scores) -> Difference | None:
    """Compare two groups on the same tasks. None if one has fewer than two runs of a task: then the spread is not known.

    Welch's t interval: the groups may spread differently, and their numbers of runs may differ. With several tasks the
    variance of the mean over tasks is the sum of the tasks' own, and the degrees of freedom are Welch's and Satterthwaite's.
    """
    from scipy import stats  # it takes a fifth of a second

    if min(len(a) for a in [*x, *y]) < 2:
        return None
    value = float(aggregate_mean(x) - aggregate_mean(y))
    variances = (
        np.array([np.var(a, ddof=1) for a in [*x, *y]]) / len(x) ** 2
    )  # of the mean over tasks, for one run each
    counts = np.array([len(a) for a in [*x, *y]])
    error, freedom = _welch(variances, counts)
    if error == 0.0:  # all runs of a group ended alike
        return Difference(value, [value, value], value != 0.0, 2 if value else None)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Difference(value, [value - reach, value + reach], abs(value) > reach, seeds_needed(value, variances))


def seeds_needed(value: float, variances: NDArray) -> int | None:
    """The least number of runs of each kind with which Welch's test finds a difference `value` with a probability of 80 %.

    variances: of the difference's estimate, one for each kind of run, if there is one run of each. The probability is that of
    the noncentral t distribution. None: more than MAX_SEEDS.
    """
    low, high = 1, MAX_SEEDS  # too few; perhaps enough
    if power(value, variances, high) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(value, variances, middle) >= POWER else (middle, high)
    return high


def power(value: float, variances: NDArray, runs: int) -> float:
    """How probably Welch's test at 5 % finds a difference `value`, and its sign, with so many runs of each kind (2 or more)."""
    from scipy import stats

    error, freedom = _welch(variances, np.full(len(variances), runs))
    return float(stats.nct.sf(stats.t.ppf((1 + LEVEL) / 2, freedom), freedom, abs(value) / error))


def _welch(variances: NDArray, counts: NDArray) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum of means of `counts` runs, each run with its variance."""
    parts = variances / counts
    total = parts.sum()
    return math.sqrt(total), float(total**2 / (parts**2 / (counts - 1)).sum()) if total else math.inf


# -- curves --------------------------------------------------------------------------------------------------------------


def iqm_curve(values: NDArray, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """IQM over runs, and the bounds of its 95 % bootstrap intervals, at each step: values [runs, steps] -> [steps] each.

    A resample draws whole runs. The intervals are for each step alone, not for the curve as a whole. With one run there is
    none: NaN.
    """
    middle = iqm(values, axis=0)
    if len(values) < 2:
        return middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan)
    drawn = stratified_bootstrap([values], lambda strata: iqm(strata[0], axis=1), seed=seed, resamples=2000)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return middle, low, high
