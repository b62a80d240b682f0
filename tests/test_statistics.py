"""The statistics: by hand, against scipy, and against what rliable's published code gave (tests/fixtures/rliable.json)."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rlsys import statistics
from rlsys.statistics import bootstrap_interval, difference, iqm, percentile_interval

RLIABLE = json.loads((Path(__file__).parent / "fixtures" / "rliable.json").read_text())
X, Y = ([*np.array(RLIABLE[name]).T] for name in ("x", "y"))  # an array for each task
AGGREGATES = {
    "metrics.aggregate_iqm(x)": statistics.aggregate_iqm,
    "metrics.aggregate_median(x)": statistics.aggregate_median,
    "metrics.aggregate_mean(x)": statistics.aggregate_mean,
    "metrics.aggregate_optimality_gap(x)": statistics.optimality_gap,
}


def drawn(scores: list, rows: list[list[str]]) -> list:
    """The resamples that rliable drew: an array [resamples, runs] for each task."""
    indices = np.array([[[int(digit) for digit in run] for run in resample] for resample in rows])
    return [x[indices[:, :, task]] for task, x in enumerate(scores)]


def test_the_iqm_is_the_mean_of_the_middle_half():
    assert iqm(np.array([0, 10, 20, 100])) == 15  # 0 and 100 go
    assert iqm(np.array([3.0])) == 3
    assert iqm(np.array([5, 1, 2, 90, 7])) == pytest.approx((2 + 5 + 7) / 3)  # 5 // 4 = 1 goes at each end
    x = np.random.default_rng(0).normal(size=37)
    assert iqm(x) == pytest.approx(stats.trim_mean(x, 0.25), abs=1e-12)


def test_the_bootstrap_interval_of_the_mean_is_that_of_scipy():
    x = np.random.default_rng(1).exponential(size=60)
    low, high = bootstrap_interval(x, np.mean)
    reference = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(2))
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.02)
    assert bootstrap_interval(x, np.mean) == [low, high]
    assert bootstrap_interval(np.full(5, 2.0), iqm) == [2.0, 2.0]


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(1.0, 1.0, 30), np.mean)
        inside += low <= 1.0 <= high
    assert 0.88 <= inside / 200 <= 0.98


@pytest.mark.parametrize("call", AGGREGATES)
def test_the_aggregates_are_rliables(call):
    assert AGGREGATES[call](X) == pytest.approx(RLIABLE["point"][call], abs=1e-9)


def test_the_probability_of_improvement_is_rliables_ties_included():
    expected = RLIABLE["point"]["metrics.probability_of_improvement(x, y)"]
    assert statistics.probability_of_improvement(X, Y) == pytest.approx(expected, abs=1e-9)


def test_from_the_same_resamples_the_intervals_are_rliables():
    resamples = drawn(X, RLIABLE["intervals"]["indices"])
    found = [percentile_interval(statistic(resamples)) for statistic in AGGREGATES.values()]
    expected = [*zip(RLIABLE["intervals"]["low"], RLIABLE["intervals"]["high"], strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    both = [drawn(scores, RLIABLE["improvement"][f"{name}_indices"]) for name, scores in (("x", X), ("y", Y))]
    low, high = percentile_interval(statistics.probability_of_improvement(*both))
    assert [low, high] == pytest.approx([*RLIABLE["improvement"]["low"], *RLIABLE["improvement"]["high"]], abs=1e-9)


def test_from_the_same_resamples_the_profile_and_its_bounds_are_rliables():
    profile = RLIABLE["profile"]
    taus = np.array(profile["taus"])
    np.testing.assert_allclose(statistics.performance_profile(X, taus), profile["point"], rtol=0, atol=1e-9)
    found = statistics.performance_profile(drawn(X, profile["indices"]), taus)
    bounds = np.quantile(found, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(bounds, [profile["low"], profile["high"]], rtol=0, atol=1e-9)


def test_a_stratum_is_drawn_from_on_its_own_and_always_alike():
    strata = [np.array([0.0, 1.0, 2.0]), np.array([10.0, 11.0])]
    seen: list[list] = []
    statistics.stratified_bootstrap(strata, lambda s: (seen.append(s), s[0][:, 0])[1], resamples=1000)
    first, second = (np.concatenate([part[i] for part in seen]) for i in range(2))
    assert first.shape == (1000, 3)
    assert second.shape == (1000, 2)
    assert set(first.ravel()) == {0.0, 1.0, 2.0}
    assert set(second.ravel()) == {10.0, 11.0}
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.1  # drawn apart
    a, b = (statistics.stratified_bootstrap(strata, statistics.aggregate_mean, resamples=50) for _ in range(2))
    assert a.tolist() == b.tolist()


def test_the_interval_of_the_mean_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        scores = [rng.normal(mean, 1.0, 20) for mean in (0.0, 2.0, 4.0)]
        found = statistics.stratified_bootstrap(scores, statistics.aggregate_mean, resamples=300)
        low, high = percentile_interval(found)
        hits += low <= 2.0 <= high
    assert 0.87 <= hits / 200 <= 0.98


def test_one_tasks_difference_is_welchs():
    x, y = np.array([1.0, 4.0, 2.0, 8.0, 5.0]), np.array([0.0, 0.5, 1.5])
    found = difference([x], [y])
    expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert found.value == pytest.approx(4.0 - 2.0 / 3.0)
    assert found.interval == pytest.approx([expected.low, expected.high], abs=1e-12)
    assert found.settled == (expected.low > 0)


def test_one_seed_says_nothing_and_equal_groups_are_never_settled():
    assert difference([np.array([1.0])], [np.array([2.0, 3.0])]) is None
    same = difference([np.array([2.0, 2.0])], [np.array([2.0, 2.0])])
    assert (same.value, same.settled, same.seeds) == (0.0, False, None)
    apart = difference([np.array([3.0, 3.0])], [np.array([2.0, 2.0])])
    assert (apart.value, apart.settled) == (1.0, True)
    tiny = difference([np.array([0.0, 1.0, 2.0])], [np.array([0.001, 1.001, 2.001])])
    assert tiny.seeds is None


def test_with_as_many_seeds_as_recommended_a_difference_is_settled_four_times_in_five():
    rng = np.random.default_rng(11)
    means, spreads, trials = (1.0, 0.3), (1.0, 1.5), 3000  # of two tasks: the differences are 1.0 and 0.3
    variances = np.array([1.0, 1.0, 1.5**2, 1.5**2]) / 4  # x and y on both tasks
    value = np.mean(means)
    seeds = statistics.seeds_needed(value, variances)
    power = {}
    for n in (seeds, seeds // 2):
        x = [rng.normal(mean, spread, (trials, n)) for mean, spread in zip(means, spreads, strict=True)]
        y = [rng.normal(0.0, spread, (trials, n)) for spread in spreads]
        parts = np.array([a.var(axis=1, ddof=1) for a in (x[0], y[0], x[1], y[1])]) / 4 / n
        freedom = parts.sum(0) ** 2 / (parts**2 / (n - 1)).sum(0)
        reach = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum(0))
        estimate = np.mean([a.mean(axis=1) - b.mean(axis=1) for a, b in zip(x, y, strict=True)], axis=0)
        settled = np.abs(estimate) > reach
        power[n] = settled.mean()
        one = difference([a[0] for a in x], [b[0] for b in y])  # the code says the same as these lines
        assert one.settled == bool(settled[0])
        assert one.interval[1] - one.value == pytest.approx(reach[0])
    assert 0.78 <= power[seeds] <= 0.84
    assert power[seeds // 2] < 0.65


def test_power_is_that_of_tables():
    # Cohen's table: a difference of 0.5 standard deviations takes 64 a group at 80 %, one of 0.8 takes 26.
    assert statistics.seeds_needed(0.5, np.array([1.0, 1.0])) == 64
    assert statistics.seeds_needed(0.8, np.array([1.0, 1.0])) == 26


def test_a_curve_has_the_iqm_at_each_step_and_no_interval_with_one_run():
    values = np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [100.0, -5.0]])
    middle, low, high = statistics.iqm_curve(values)
    assert middle.tolist() == [1.5, 10.5]
    assert (low <= middle).all()
    assert (middle <= high).all()
    middle, low, high = statistics.iqm_curve(values[:1])
    assert middle.tolist() == [0.0, 10.0]
    assert np.isnan([low, high]).all()
