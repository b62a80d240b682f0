"""Battery: hours by hand, dynamic programming against enumeration and linear programming, and the sim against both."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

import envs
from envs.battery import BUY, CAPACITY, CHEAP, DEAR, HOURS, MARKET, NORMAL, PROFILE, SELL, SIM
from envs.reference.battery import (
    PRICES,
    best_thresholds,
    cash,
    evaluate,
    optimum,
    price_paths,
    thresholds,
    with_foresight,
)
from envs.reference.measure import returns

SELL_2, SELL_1, WAIT, BUY_1, BUY_2 = range(5)


def hour(elapsed, market, charge, action, wear=1):
    """One hour of a hand-made state: the charge after it, and the reward in 1/1024 euro."""
    env = envs.make_vec("battery", 1, seed=0, autoreset_mode="NextStep", params={"wear": wear})
    env.reset()
    env.state["elapsed"], env.state["market"], env.state["charge"] = elapsed, market, charge
    _, reward, terminated, _, _ = env.step(np.array([action]))
    assert terminated[0] == (elapsed == HOURS - 1)
    assert env.state["cash"][0] == 1024 * reward[0]
    return int(env.state["charge"][0]), float(1024 * reward[0])


@pytest.mark.parametrize(
    ("elapsed", "market", "charge", "action", "after"),
    [
        (0, NORMAL, 5, BUY_2, (7, -2 * 17 * 6 - 32)),  # at midnight 6
        (0, NORMAL, 5, BUY_1, (6, -17 * 6 - 16)),
        (0, NORMAL, 5, WAIT, (5, 0)),
        (19, NORMAL, 5, SELL_1, (4, 15 * 20 - 16)),  # at seven in the evening 20
        (19 + 24, DEAR, 5, SELL_2, (3, 2 * 15 * 40 - 32)),
        (19, CHEAP, 5, SELL_2, (3, 2 * 15 * 10 - 32)),
        (2, CHEAP, 19, BUY_2, (20, -17 * 2 - 16)),  # room for one
        (2, CHEAP, 20, BUY_2, (20, 0)),
        (8, DEAR, 1, SELL_2, (0, 15 * 28 - 16)),  # one is left
        (8, DEAR, 0, SELL_1, (0, 0)),
        (HOURS - 1, NORMAL, 9, SELL_2, (7, 2 * 15 * 8 - 32)),
    ],
)
def test_hours_by_hand(elapsed, market, charge, action, after):
    assert hour(elapsed, market, charge, action) == after


def test_wear_is_a_parameter():
    assert hour(0, NORMAL, 5, BUY_2, wear=3) == (7, -2 * 17 * 6 - 3 * 32)


def test_the_tables_are_sound():
    assert (MARKET.sum(axis=1) == 1000).all()
    assert len(PROFILE) == 24
    assert (PROFILE % 2 == 0).all()
    assert 64 * PRICES.max() == 40


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), wear=st.integers(0, 5))
def test_energy_and_cash_are_accounted_for_to_the_last_bit(seed, wear):
    env = envs.make_vec("battery", 4, seed=seed, params={"wear": wear}, autoreset_mode="NextStep")
    env.reset()
    rng = np.random.default_rng(seed)
    bought, total = np.zeros(4, int), np.zeros(4)
    for t in range(HOURS):
        before = env.state.copy()
        actions = rng.integers(5, size=4)
        obs, reward, terminated, truncated, _ = env.step(actions)
        moved = env.state["charge"] - before["charge"]
        assert (np.abs(moved) <= np.abs(actions - 2)).all()
        assert (moved * (actions - 2) >= 0).all()
        price = PRICES[before["market"], t % 24]
        grid = np.where(moved > 0, 17, 15) / 16 * moved
        np.testing.assert_array_equal(reward, -price * grid - wear / 64 * np.abs(moved))  # exact in binary
        bought += moved
        total += reward
        np.testing.assert_array_equal(env.state["charge"], bought)
        np.testing.assert_array_equal(env.state["cash"], 1024 * total)
        assert obs in env.observation_space
        assert (terminated == (t == HOURS - 1)).all()
        assert (truncated == (t == HOURS - 1)).all()


def test_the_observation_tells_the_hours_apart_and_shows_all_the_state():
    env = envs.make_vec("battery", 24, seed=0)
    env.reset()
    env.state["elapsed"], env.state["market"], env.state["charge"] = np.arange(24), DEAR, 5
    obs = env.observe()
    assert len(np.unique(obs[:, 2:4], axis=0)) == 24
    np.testing.assert_allclose(obs[:, 4], 2 * PROFILE / 40, rtol=1e-6)
    np.testing.assert_allclose(obs[12], [5 / 20, 156 / 168, 0, 0.5, 12 / 40, 0, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(obs[18, 2:4], [0.5, 0])


def test_the_market_moves_as_its_table_says():
    env = envs.make_vec("battery", 3000, seed=0)
    env.reset()
    counts = np.zeros((3, 3))
    assert stats.chisquare(np.bincount(env.state["market"])).pvalue > 0.01  # a start in each alike
    for _ in range(HOURS - 1):
        before = env.state["market"].copy()
        env.step(np.full(3000, WAIT))
        np.add.at(counts, (before, env.state["market"]), 1)
    for found, expected in zip(counts, MARKET / 1000, strict=True):  # three tests at once: a lower bar
        assert stats.chisquare(found, expected * found.sum()).pvalue > 0.001


@pytest.mark.parametrize(("backend", "precision"), [("python", "float32"), ("serial", "float64")])
def test_states_are_whole_numbers_and_the_same_bytes_however_they_are_computed(backend, precision):
    records = []
    for made in ({}, {"backend": backend, "precision": precision}):
        env = envs.make_vec("battery", 3, seed=5, **made)
        env.reset()
        steps = [env.step(np.array([t % 5, 4, (t // 12) % 2 * 4])) for t in range(300)]
        records.append((env.state.tobytes(), steps[-1][0].tobytes(), [float(s[1].sum()) for s in steps]))
    assert records[0] == records[1]


@pytest.mark.parametrize("damage", [{"charge": -1}, {"charge": 21}, {"market": 3}, {"market": -1}, {"elapsed": 169}])
def test_a_damaged_snapshot_is_refused(damage):
    env = envs.make_vec("battery", 3, seed=0)
    env.reset()
    snapshot = env.get_state()
    env.set_state(snapshot)
    for name, value in damage.items():
        snapshot["states"].view(env.state.dtype)[name][2] = value
    with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Battery"):
        env.set_state(snapshot)


# -- what is known about returns -------------------------------------------------------------------------------------------


def enumerated(prices, wear):
    """The most that an empty battery earns at known prices, by trying all."""
    best = -np.inf
    for actions in itertools.product(range(5), repeat=len(prices)):
        charge, total = 0, 0.0
        for action, price in zip(actions, prices, strict=True):
            moved = min(max(action - 2, -charge), CAPACITY - charge)
            total -= (17 / 16 if moved > 0 else 15 / 16) * moved * price + wear * abs(moved)
            charge += moved
        best = max(best, total)
    return best


def test_foresight_does_what_trying_all_does():
    prices = np.array([[0.3, 0.1, 0.2, 0.5, 0.1, 0.4], [0.1, 0.1, 0.1, 0.2, 0.2, 0.11]])
    for path in prices:
        assert with_foresight(path[None], 0.01)[0] == pytest.approx(enumerated(path, 0.01), abs=1e-12)
    assert with_foresight(prices[1:], 0.5)[0] == 0  # not worth the wear


def test_foresight_does_what_linear_programming_does():
    """Charging is a flow through time: the corners of its polytope are whole numbers, so the two must agree."""
    for prices in price_paths(3, seed=2):
        wear = 1 / 64
        costs = np.concatenate([17 / 16 * prices + wear, -15 / 16 * prices + wear])
        level = np.tril(np.ones((HOURS, HOURS)))
        charge = np.hstack([level, -level])  # after each hour
        limits = np.concatenate([np.full(HOURS, CAPACITY), np.zeros(HOURS)])
        found = linprog(costs, A_ub=np.vstack([charge, -charge]), b_ub=limits, bounds=(0, 2))
        assert with_foresight(prices[None])[0] == pytest.approx(-found.fun, rel=1e-9)


def test_the_optimum_of_three_hours_is_what_plain_recursion_finds():
    def most(t, market, charge):
        if t == 3:
            return 0.0
        totals = []
        for action in range(5):
            moved = min(max(action - 2, -charge), CAPACITY - charge)
            price = PROFILE[t] * (0.5, 1, 2)[market] / 64
            now = -(17 / 16 if moved > 0 else 15 / 16) * moved * price - abs(moved) / 64
            later = [chance / 1000 * most(t + 1, m, charge + moved) for m, chance in enumerate(MARKET[market])]
            totals.append(now + sum(later))
        return max(totals)

    value = optimum(hours=3)[0]
    for market, charge in itertools.product(range(3), (0, 1, 6, 20)):
        assert value[0, market, charge] == pytest.approx(most(0, market, charge), abs=1e-12)


def test_more_charge_is_worth_more_and_each_unit_less_than_the_one_before():
    value = optimum()[0][:-1]
    gains = np.diff(value, axis=2)
    assert (gains > -1e-12).all()
    assert (np.diff(gains, axis=2) < 1e-12).all()


def test_thresholds_earn_less_than_the_optimum_and_that_less_than_foresight():
    known = with_foresight(price_paths(5000))
    error = known.std(ddof=1) / np.sqrt(len(known))
    best = optimum()[0][0, :, 0].mean()
    assert thresholds(BUY, SELL)[0, :, 0].mean() < best < known.mean() - 3 * error
    assert known.mean() == pytest.approx(17.07, abs=4 * error)


def play_optimally(episodes=5000, seed=1):
    """The returns of the solver's policy, what it says that they are on average, and the prices that came."""
    value, actions = optimum()
    env = envs.make_vec("battery", episodes, seed=seed, autoreset_mode="NextStep")
    env.reset()
    total, prices = np.zeros(episodes), np.zeros((episodes, HOURS))
    for t in range(HOURS):
        s = env.state
        prices[:, t] = PRICES[s["market"], t % 24]
        total += env.step(actions[t, s["market"], s["charge"]])[1]
    return total, value[0, :, 0].mean(), prices


def test_the_sim_earns_with_the_optimal_policy_what_the_solver_says():
    total, best, prices = play_optimally()
    error = total.std(ddof=1) / np.sqrt(len(total))
    assert error < 0.01 * best
    assert abs(total.mean() - best) < 3 * error
    assert abs(total.mean() - optimum(wear=0.0)[0][0, :, 0].mean()) > 10 * error
    known = with_foresight(prices)  # of these very prices
    assert (total <= known + 1e-9).all()
    assert (total < known - 0.1).any()


def test_references_are_what_the_solver_computes_and_the_sim_measures():
    known = {
        "random": evaluate(lambda _, q: q.mean(axis=1))[0, :, 0].mean(),
        "scripted": thresholds(BUY, SELL)[0, :, 0].mean(),
        "optimal": optimum()[0][0, :, 0].mean(),
    }
    for name, mean in known.items():
        assert SIM.references[name].mean == pytest.approx(mean, abs=5e-5)
    for policy in ("random", "scripted"):
        found = returns("battery", policy, 10_000)
        assert abs(found.mean() - known[policy]) < 3 * found.std(ddof=1) / np.sqrt(len(found))
    assert SIM.reward_threshold == pytest.approx(0.98 * known["optimal"], abs=0.005)


def test_no_other_two_prices_are_better_than_the_scripted_ones():
    assert best_thresholds()[1:] == (BUY, SELL)


def test_cash_is_linear_in_the_price():
    np.testing.assert_allclose(cash(np.array([3.0]), 0.0), 3 * cash(np.array([1.0]), 0.0))
