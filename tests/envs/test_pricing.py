"""Pricing: sales by hand, dynamic programming against recursion and a theorem, and the sim against both."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import envs
from envs.pricing import BEST_FIXED, DRAWS, PERIODS, PRICES, SEATS, SIM, THRESHOLDS
from envs.reference.measure import returns
from envs.reference.pricing import CHANCE, PRICE, best_fixed, blind, continuous, optimum


def test_prices_and_chances_are_what_the_page_says():
    np.testing.assert_array_equal(PRICE, 0.5 + 0.125 * np.arange(20))
    np.testing.assert_allclose(THRESHOLDS, 0.8 * np.exp(-PRICE) * DRAWS, rtol=0, atol=0.5 + 1e-5)


def test_sales_come_as_often_as_the_chances_say():
    env = envs.make_vec("pricing", 20_000, seed=0)
    env.reset()
    actions = np.arange(20_000) % PRICES
    sales = np.zeros(20_000)
    for _ in range(10):  # too few to sell out
        env.step(actions)
        sales += env.state["sold"]
    for action in range(PRICES):
        found = int(sales[actions == action].sum())
        assert stats.binomtest(found, 10_000, CHANCE[action]).pvalue > 1e-3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), cheapest=st.integers(0, PRICES - 1))
def test_seats_and_revenue_are_accounted_for_to_the_last_bit(seed, cheapest):
    env = envs.make_vec("pricing", 4, seed=seed, autoreset_mode="NextStep")
    env.reset()
    rng = np.random.default_rng(seed)
    revenue = np.zeros(4)
    going = np.ones(4, bool)
    for t in range(1, PERIODS + 1):
        seats = env.state["seats"].copy()
        actions = rng.integers(cheapest, PRICES, 4)
        obs, reward, terminated, truncated, _ = env.step(actions)
        sold = seats - env.state["seats"]
        assert set(sold[going]) <= {0, 1}
        np.testing.assert_array_equal(reward[going], (sold * PRICE[actions])[going])
        np.testing.assert_array_equal(terminated[going], (env.state["seats"] == 0)[going] | (t == PERIODS))
        np.testing.assert_array_equal(truncated[going], t == PERIODS)
        assert obs in env.observation_space
        revenue += np.where(going, reward, 0)
        np.testing.assert_array_equal(env.state["revenue"][going] / 8, revenue[going])
        np.testing.assert_allclose(obs[going, 0], env.state["seats"][going] / 25, rtol=1e-6)
        np.testing.assert_allclose(obs[going, 1], (PERIODS - t) / PERIODS, rtol=1e-6)
        going &= ~terminated
    assert not going.any()


def test_the_last_seat_ends_the_episode_and_nothing_is_sold_after_it():
    env = envs.make_vec("pricing", 1000, seed=0, autoreset_mode="NextStep")
    env.reset()
    env.state["seats"] = 1
    _, reward, terminated, truncated, _ = env.step(np.zeros(1000, int))
    assert 0.42 < terminated.mean() < 0.55  # 0.8 exp(-0.5) = 0.485
    np.testing.assert_array_equal(terminated, reward == 0.5)
    assert not truncated.any()


@pytest.mark.parametrize(("backend", "precision"), [("python", "float32"), ("serial", "float64")])
def test_states_are_whole_numbers_and_the_same_bytes_however_they_are_computed(backend, precision):
    records = []
    for made in ({}, {"backend": backend, "precision": precision}):
        env = envs.make_vec("pricing", 3, seed=5, **made)
        env.reset()
        steps = [env.step(np.array([t % PRICES, 0, 9])) for t in range(300)]
        records.append((env.state.tobytes(), env.reset(seed=1)[0].tobytes(), [float(s[1].sum()) for s in steps]))
    assert records[0] == records[1]


@pytest.mark.parametrize("damage", [{"seats": -1}, {"seats": 26}, {"elapsed": 201}, {"elapsed": -1}])
def test_a_damaged_snapshot_is_refused(damage):
    env = envs.make_vec("pricing", 3, seed=0)
    env.reset()
    snapshot = env.get_state()
    env.set_state(snapshot)
    for name, value in damage.items():
        snapshot["states"].view(env.state.dtype)[name][2] = value
    with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Pricing"):
        env.set_state(snapshot)


# -- what is known about returns -------------------------------------------------------------------------------------------


def test_dynamic_programming_does_what_plain_recursion_does():
    @cache
    def most(left, seats):
        if left == 0 or seats == 0:
            return 0.0
        return max(
            chance * (price + most(left - 1, seats - 1)) + (1 - chance) * most(left - 1, seats)
            for price, chance in zip(PRICE, CHANCE, strict=True)
        )

    value, action = optimum(4, 12)
    for left in range(13):
        for seats in range(5):
            assert value[left, seats] == pytest.approx(most(left, seats), rel=1e-13)
    assert value[1, 1] == max(PRICE * CHANCE)  # the last seat in the last period
    assert PRICE[action[1, 1]] == 1.0  # which x exp(-x) is largest at


def test_a_fixed_price_earns_what_the_binomial_law_says():
    """A fixed price sells the lesser of the seats and a binomial number of customers."""
    for action in (0, 7, 19):
        demand = np.arange(PERIODS + 1)
        sold = np.minimum(demand, SEATS) @ stats.binom.pmf(demand, PERIODS, CHANCE[action])
        assert blind(np.eye(PRICES)[action]) == pytest.approx(PRICE[action] * sold, rel=1e-9)


def test_dynamic_programming_tends_to_the_theorem_and_its_error_halves_with_the_periods():
    price = np.arange(0.5, 8.0, 1 / 128)  # so many that their number does not show
    exact = continuous(10, 40.0)
    errors = []
    for periods in (400, 800, 1600):
        value, _ = optimum(10, periods, price, 40.0 / periods * np.exp(-price))
        errors.append(value[periods, 10] - exact)
    assert 0.01 < errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.03)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.03)


def test_the_theorem_in_cases_worked_out_by_hand():
    assert continuous(1, math.e) == pytest.approx(math.log(2))  # ln(1 + 1)
    assert continuous(10**2, 10.0) == pytest.approx(10.0 / math.e)  # seats to spare: a customer is worth 1 / e


def test_the_best_price_falls_as_time_passes_and_rises_as_seats_are_sold():
    _, action = optimum()
    assert (np.diff(action[1:, 1:], axis=0) >= 0).all()  # more periods left: not cheaper
    assert (np.diff(action[1:, 1:], axis=1) <= 0).all()  # more seats left: not dearer
    assert action[PERIODS, 1] - action[1, SEATS] > 10


def play_optimally(episodes=40_000, seed=1):
    """The returns of the solver's policy, and what it says that they are on average."""
    value, action = optimum()
    env = envs.make_vec("pricing", episodes, seed=seed, autoreset_mode="NextStep")
    env.reset()
    going = np.ones(episodes, bool)
    total = np.zeros(episodes)
    for left in range(PERIODS, 0, -1):
        _, reward, terminated, _, _ = env.step(action[left, np.maximum(env.state["seats"], 0)])
        total += np.where(going, reward, 0)
        going &= ~terminated
    return total, value[PERIODS, SEATS]


def test_the_sim_earns_with_the_optimal_policy_what_the_solver_says():
    total, expected = play_optimally()
    error = total.std(ddof=1) / np.sqrt(len(total))
    assert error < 0.025  # 0.05 %
    assert abs(total.mean() - expected) < 3 * error
    one_less = optimum()[0][PERIODS - 1, SEATS]  # a period more or less would show
    assert abs(total.mean() - one_less) > 3 * error


def test_references_are_what_the_solver_computes_and_the_sim_measures():
    fixed, action = best_fixed()
    value = optimum()[0][PERIODS, SEATS]
    random = blind(np.full(PRICES, 1 / PRICES))
    assert action == BEST_FIXED
    known = {"random": random, "scripted": fixed, "optimal": value}
    for name, mean in known.items():
        assert SIM.references[name].mean == pytest.approx(mean, abs=5e-5)
    for policy in ("random", "scripted"):
        found = returns("pricing", policy, 20_000)
        assert abs(found.mean() - known[policy]) < 3 * found.std(ddof=1) / np.sqrt(len(found))
    assert SIM.reward_threshold == pytest.approx(0.98 * value, abs=0.005)
    assert fixed < SIM.reward_threshold
