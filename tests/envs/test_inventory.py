"""Inventory: the kernel against hand-made periods, the solver against Zipkin's table, and each against the other."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import envs
from envs.inventory import CAPACITY, DRAWS, LARGEST_ORDER, LEVELS, MEAN, SIM, THRESHOLDS
from envs.reference.inventory import BASE, DEMAND, Model
from envs.reference.measure import returns

PENALTIES = (4, 9, 19, 39)
ZIPKIN = {  # average cost of the optimal policy, by lead time and penalty
    1: (4.04, 5.44, 6.68, 7.84),
    2: (4.40, 6.09, 7.66, 9.11),
    3: (4.60, 6.53, 8.36, 10.04),
    4: (4.73, 6.84, 8.89, 10.79),
}
CASES = [(lead_time, penalty) for lead_time in ZIPKIN for penalty in PENALTIES]


@cache
def optimum(lead_time, penalty):
    return Model(lead_time, penalty).average()


def period(on_hand, pipeline, order, **params):
    """One period of a hand-made state: (on hand, pipeline) after it, the demand and the reward."""
    env = envs.make_vec("inventory", 1, seed=3, params=params)
    env.reset()
    env.state["on_hand"], env.state["pipeline"] = on_hand, pipeline
    _, reward, terminated, _, _ = env.step(np.array([order]))
    s = env.state[0]
    assert not terminated[0]
    return (int(s["on_hand"]), s["pipeline"].tolist()), int(s["demand"]), float(reward[0])


def test_what_is_left_is_charged_and_the_next_delivery_comes_after_it():
    after, demand, reward = period(20, [1, 2, 3, 0], 4)
    assert demand > 0
    assert after == (20 - demand + 1, [2, 3, 4, 0])
    assert reward == -(20 - demand)


def test_who_finds_the_shelf_empty_is_lost():
    after, demand, reward = period(0, [1, 2, 3, 0], 4, penalty=9, holding=2)
    assert demand > 0
    assert after == (1, [2, 3, 4, 0])
    assert reward == -9 * demand
    assert period(20, [0] * 4, 0, penalty=9, holding=2)[2] == -2 * (20 - demand)


@pytest.mark.parametrize("lead_time", [1, 2, 3, 4])
def test_an_order_is_on_the_shelf_after_the_lead_time(lead_time):
    env = envs.make_vec("inventory", 1, seed=0, params={"lead_time": lead_time})
    env.reset()
    env.state["on_hand"], env.state["pipeline"] = 0, 0
    for t in range(lead_time):
        assert env.state["on_hand"][0] == 0
        env.step(np.array([7 if t == 0 else 0]))
    assert env.state["on_hand"][0] == 7


@pytest.mark.parametrize(
    ("on_hand", "pipeline", "ordered"), [(30, [3, 3, 3, 0], 1), (40, [0] * 4, 0), (20, [0] * 4, 10)]
)
def test_an_order_is_cut_to_the_capacity(on_hand, pipeline, ordered):
    assert period(on_hand, pipeline, LARGEST_ORDER)[0][1] == [*pipeline[1:3], ordered, 0]


def test_a_lead_time_out_of_range_is_the_nearest_one():
    env = envs.make_vec("inventory", 2, seed=0, params={"lead_time": np.array([-3, 99])})
    env.reset()
    assert env.state["pipeline"].tolist() == [[0, 0, 0, 0], [5, 5, 5, 0]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), lead_time=st.integers(1, 4), eager=st.integers(1, LARGEST_ORDER + 1))
def test_no_unit_is_made_or_lost(seed, lead_time, eager):
    env = envs.make_vec("inventory", 4, seed=seed, params={"lead_time": lead_time})
    env.reset()
    rng = np.random.default_rng(seed)
    for _ in range(60):
        before = env.state.copy()
        position = before["on_hand"] + before["pipeline"].sum(axis=1)
        orders = rng.integers(eager, size=4)
        obs, reward, _, _, _ = env.step(orders)
        s = env.state
        assert obs in env.observation_space
        sold = s["demand"] - s["lost"]
        accepted = np.minimum(orders, CAPACITY - position)
        np.testing.assert_array_equal(s["on_hand"] + s["pipeline"].sum(axis=1), position + accepted - sold)
        np.testing.assert_array_equal(sold, np.minimum(s["demand"], before["on_hand"]))
        np.testing.assert_array_equal(reward, -(before["on_hand"] - sold) - 4 * s["lost"])


def test_the_observation_is_shelf_and_deliveries_in_tens():
    env = envs.make_vec("inventory", 1, seed=0)
    assert env.reset()[0].tolist() == [[0.5] * 4]
    env.state["on_hand"], env.state["pipeline"] = 7, [1, 2, 30, 0]
    np.testing.assert_allclose(env.observe(), [[0.7, 0.1, 0.2, 3.0]], rtol=1e-6)


def test_demand_is_poisson():
    exact = stats.poisson.cdf(np.arange(len(THRESHOLDS)), MEAN) * DRAWS
    np.testing.assert_allclose(THRESHOLDS, exact, rtol=0, atol=0.5 + 1e-3)
    env = envs.make_vec("inventory", 1000, seed=0)
    env.reset()
    demands = np.concatenate([env.state["demand"].copy() for _ in range(200) if env.step(np.zeros(1000, int))])
    counts = np.bincount(np.minimum(demands, 14), minlength=15)
    expected = np.append(DEMAND[:14], DEMAND[14:].sum()) * len(demands)
    assert stats.chisquare(counts, expected).pvalue > 0.01


@pytest.mark.parametrize(
    ("backend", "precision"), [("python", "float32"), ("serial", "float64"), ("parallel", "float32")]
)
def test_states_are_whole_numbers_and_the_same_bytes_however_they_are_computed(backend, precision):
    records = []
    for made in ({}, {"backend": backend, "precision": precision}):
        env = envs.make_vec("inventory", 3, seed=5, params={"lead_time": np.array([1, 3, 4])}, **made)
        env.reset()
        rewards = [env.step(np.array([t % 11, 5, 2]))[1].tolist() for t in range(100)]
        records.append((env.state.tobytes(), rewards))
    assert records[0] == records[1]


@pytest.mark.parametrize(
    "damage",
    [{"on_hand": -1}, {"on_hand": 41}, {"on_hand": 30}, {"pipeline": [0, 0, -1, 0]}, {"pipeline": [0, 0, 0, 1]}],
)
def test_a_damaged_snapshot_is_refused(damage):
    env = envs.make_vec("inventory", 3, seed=0)
    env.reset()
    snapshot = env.get_state()
    env.set_state(snapshot)
    for name, value in damage.items():
        snapshot["states"].view(env.state.dtype)[name][2] = value
    with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Inventory"):
        env.set_state(snapshot)


# -- the exact solver ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lead_time", "penalty"), CASES)
def test_the_optimum_is_zipkins(lead_time, penalty):
    assert optimum(lead_time, penalty)[0] == pytest.approx(ZIPKIN[lead_time][PENALTIES.index(penalty)], abs=0.005)


def tiny(base, capacity, state, periods):
    """The least cost of some periods of a small case with a lead time of 3, by plain recursion over all that can happen."""

    @cache
    def least(shelf, first, second, left):
        if left == 0:
            return 0.0
        costs = []
        for order in range(min(base - 1, capacity - shelf - first - second) + 1):
            cost = 0.0
            for demand, probability in enumerate(DEMAND):
                charge = max(shelf - demand, 0) + 4 * max(demand - shelf, 0)
                cost += probability * (charge + least(max(shelf - demand, 0) + first, second, order, left - 1))
            costs.append(cost)
        return min(costs)

    return least(*state, periods)


def test_the_solver_does_what_plain_recursion_does():
    model = Model(lead_time=3, base=6, capacity=15)
    assert model.episode(periods=7) == pytest.approx(tiny(6, 15, (5, 5, 5), 7), rel=1e-12)


def test_lost_sales_cost_more_than_one_period_alone_and_less_than_backlogged_ones():
    """Both bounds in closed form: the newsvendor's cost for one period's demand, and for the lead time's as well."""

    def newsvendor(mean, penalty):
        demand, levels = np.arange(200), np.arange(80)[:, None]
        costs = np.maximum(levels - demand, 0) + penalty * np.maximum(demand - levels, 0)
        return (costs @ stats.poisson.pmf(demand, mean)).min()

    for lead_time, penalty in CASES:
        cost = optimum(lead_time, penalty)[0]
        assert newsvendor(MEAN, penalty) < cost < newsvendor(MEAN * (lead_time + 1), penalty)


@pytest.mark.parametrize(("lead_time", "penalty"), CASES)
def test_no_base_stock_level_beside_the_scripted_one_is_better(lead_time, penalty):
    model, level = Model(lead_time, penalty), LEVELS[lead_time - 1, PENALTIES.index(penalty)]
    below, best, above = (model.average(model.base_stock(s), 1e-4)[0] for s in (level - 1, level, level + 1))
    assert best < below
    assert best < above
    assert best > optimum(lead_time, penalty)[0]


def test_a_cap_on_orders_makes_base_stock_nearly_optimal():
    model = Model()
    best, *others = (model.average(model.base_stock(s, c))[0] for s, c in ((26, 5), (25, 5), (27, 5), (26, 4), (26, 6)))
    assert best == pytest.approx(4.7979, abs=1e-4)
    assert best < min(others)
    assert optimum(4, 4)[0] < best < model.average(model.base_stock(25))[0]


@pytest.mark.parametrize(("lead_time", "penalty"), CASES)
def test_an_optimal_policy_never_meets_the_limits(lead_time, penalty):
    """Followed from the start, with any demand, it orders less than it may and holds less than the capacity."""
    orders = optimum(lead_time, penalty)[1]
    states, seen = {(MEAN,) * lead_time}, set()
    largest = 0
    while states:
        shelf, *pipeline = state = states.pop()
        seen.add(state)
        order = int(orders[row_of(np.array([pipeline], int))[0], shelf])
        largest = max(largest, order)
        assert sum(state) + order < CAPACITY
        first, *others = [*pipeline, order]
        states |= {(left + first, *others) for left in range(shelf + 1)} - seen
    assert largest < LARGEST_ORDER or (lead_time, penalty) == (1, 39)  # where 10 is what the shelf lacks
    assert Model(1, 39, base=15).average()[0] == pytest.approx(optimum(1, 39)[0], abs=1e-5)


def row_of(pipeline):
    """The row of a value table, for deliveries (N, lead_time - 1)."""
    return pipeline @ BASE ** np.arange(pipeline.shape[1])[::-1]


def play(orders, episodes, lead_time, seed=1):
    """The returns of a table of orders, played by the sim."""
    env = envs.make_vec("inventory", episodes, seed=seed, params={"lead_time": lead_time})
    env.reset()
    total = np.zeros(episodes)
    for _ in range(1000):
        s = env.state
        total += env.step(orders[row_of(s["pipeline"][:, : lead_time - 1].astype(int)), s["on_hand"]])[1]
    return total


def play_optimally(episodes=2000, seed=1, lead_time=4):
    """The returns of the solver's policy, and what it says that they are on average."""
    orders = optimum(lead_time, 4)[1]
    return play(orders, episodes, lead_time, seed), -Model(lead_time).episode(orders)


@pytest.mark.parametrize("lead_time", [1, 3, 4])
def test_the_sim_earns_with_the_optimal_policy_what_the_solver_says(lead_time):
    total, expected = play_optimally(lead_time=lead_time)
    error = total.std(ddof=1) / np.sqrt(len(total))
    assert error < 6  # 0.1 % of the cost
    assert abs(total.mean() - expected) < 3 * error
    other = Model(lead_time - 1 or 2).average()[0]  # which is too far off to be taken for it
    assert abs(total.mean() + 1000 * other) > 10 * error


def test_references_are_what_the_solver_computes_and_the_sim_measures():
    model = Model()
    assert -model.episode() == pytest.approx(SIM.references["optimal"].mean, abs=0.01)
    base_stock = model.episode(model.base_stock(25))
    assert -base_stock == pytest.approx(SIM.references["scripted"].mean, abs=0.01)
    for policy in ("random", "scripted"):
        found = returns("inventory", policy, 1000, seed=1)
        error = found.std(ddof=1) / np.sqrt(len(found))
        assert abs(found.mean() - SIM.references[policy].mean) < 3 * np.hypot(error, SIM.references[policy].error)
    assert model.average()[0] * 1.02 == pytest.approx(-SIM.reward_threshold / 1000, abs=1e-3)
