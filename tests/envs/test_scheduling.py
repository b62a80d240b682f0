"""Scheduling: slots by invariant, the c-mu rule's theorem, and the sim against dynamic programming."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import envs
from envs.reference.measure import returns
from envs.reference.scheduling import Model, following, lowest, uniform
from envs.scheduling import ARRIVALS, COSTS, QUEUES, ROOM, SERVICES, SIM

MODEL = Model()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), loss=st.integers(0, 200), choices=st.integers(1, QUEUES))
def test_every_customer_is_accounted_for_and_every_cost(seed, loss, choices):
    env = envs.make_vec("scheduling", 4, seed=seed, params={"loss": loss})
    env.reset()
    rng = np.random.default_rng(seed)
    for _ in range(200):
        before = env.state["waiting"].copy()
        actions = rng.integers(choices, size=4)
        obs, reward, terminated, truncated, _ = env.step(actions)
        s = env.state
        left = np.zeros((4, QUEUES), int)
        left[range(4), actions] = s["done"]
        np.testing.assert_array_equal(s["waiting"], before - left + s["arrived"] - s["rejected"])
        np.testing.assert_array_equal(s["rejected"], s["arrived"] & (before - left == ROOM))
        np.testing.assert_array_equal(reward, -(s["waiting"] @ COSTS) - loss * s["rejected"].sum(axis=1))
        np.testing.assert_array_equal(s["served"], np.where(before[range(4), actions] > 0, actions, QUEUES))
        assert (s["done"] <= (before[range(4), actions] > 0)).all()
        assert obs in env.observation_space
        np.testing.assert_allclose(obs, s["waiting"] / 6, rtol=1e-6)
        assert not terminated.any()
        assert not truncated.any()


def test_arrivals_and_services_come_as_often_as_the_table_says():
    env = envs.make_vec("scheduling", 3000, seed=0)
    env.reset()
    actions = np.arange(3000) % QUEUES
    arrived, done = np.zeros(QUEUES, int), np.zeros(QUEUES, int)
    for _ in range(100):
        env.state["waiting"] = 3
        env.step(actions)
        arrived += env.state["arrived"].sum(axis=0)
        done += np.bincount(actions, env.state["done"], QUEUES).astype(int)
    for k in range(QUEUES):
        assert stats.binomtest(int(arrived[k]), 300_000, ARRIVALS[k] / 1000).pvalue > 1e-3
        assert stats.binomtest(int(done[k]), 100_000, SERVICES[k] / 1000).pvalue > 1e-3


def test_arrivals_do_not_depend_on_the_policy():
    arrived = []
    for action in range(QUEUES):
        env = envs.make_vec("scheduling", 8, seed=0)
        env.reset()
        arrived.append([env.state["arrived"].tolist() for _ in range(100) if env.step(np.full(8, action))])
    assert arrived[0] == arrived[1] == arrived[2]


@pytest.mark.parametrize(
    ("waiting", "action"),
    [((1, 1, 1), 1), ((6, 0, 1), 2), ((6, 0, 0), 0), ((0, 0, 0), 0), ((6, 1, 6), 1), ((0, 0, 3), 2)],
)
def test_the_scripted_baseline_is_the_c_mu_rule(waiting, action):
    env = envs.make_vec("scheduling", 1, seed=0)
    env.reset()
    env.state["waiting"] = waiting
    assert env.scripted_actions().tolist() == [action]
    assert MODEL.c_mu()[waiting] == action


@pytest.mark.parametrize(("backend", "precision"), [("python", "float32"), ("serial", "float64")])
def test_states_are_whole_numbers_and_the_same_bytes_however_they_are_computed(backend, precision):
    records = []
    for made in ({}, {"backend": backend, "precision": precision}):
        env = envs.make_vec("scheduling", 3, seed=5, **made)
        env.reset()
        steps = [env.step(np.array([t % 3, 0, 1])) for t in range(300)]
        records.append((env.state.tobytes(), steps[-1][0].tobytes(), [s[1].tolist() for s in steps]))
    assert records[0] == records[1]


@pytest.mark.parametrize("waiting", [[-1, 0, 0], [0, 7, 0], [0, 0, 2**30]])
def test_a_damaged_snapshot_is_refused(waiting):
    env = envs.make_vec("scheduling", 3, seed=0)
    env.reset()
    snapshot = env.get_state()
    env.set_state(snapshot)
    snapshot["states"].view(env.state.dtype)["waiting"][2] = waiting
    with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Scheduling"):
        env.set_state(snapshot)


# -- what is known about returns -------------------------------------------------------------------------------------------


def test_dynamic_programming_does_what_plain_recursion_does():
    model = Model(arrival=(0.3, 0.2), service=(0.6, 0.4), cost=(1.0, 3.0), loss=7.0, room=2)

    def least(waiting, slots):
        if slots == 0:
            return 0.0
        costs = []
        for action in range(2):
            cost = 0.0
            for done, *arrived in itertools.product((0, 1), repeat=3):
                lost, chance = 0, model.service[action] if done else 1 - model.service[action]
                after = list(waiting)
                after[action] = max(0, after[action] - done)
                for k in range(2):
                    chance *= model.arrival[k] if arrived[k] else 1 - model.arrival[k]
                    after[k] += arrived[k]
                    lost += after[k] > 2
                    after[k] = min(after[k], 2)
                cost += chance * (7 * lost + after[0] + 3 * after[1] + least(tuple(after), slots - 1))
            costs.append(cost)
        return min(costs)

    value = model.episode(lowest, 3)
    for waiting in itertools.product(range(3), repeat=2):
        assert value[waiting] == pytest.approx(least(waiting, 3), rel=1e-12)


def test_one_queue_costs_what_its_stationary_law_says():
    """Geo/Geo/1 with a waiting room, a birth-and-death chain: what goes up from a state comes down to it."""
    a, mu, room = 0.3, 0.4, 5
    up = np.array([a] + [a * (1 - mu)] * (room - 1))
    law = np.cumprod(np.append(1.0, up / (mu * (1 - a))))
    law /= law.sum()
    cost = 2.0 * law @ np.arange(room + 1) + 50.0 * law[-1] * (1 - mu) * a
    assert Model((a,), (mu,), (2.0,), 50.0, room).average(lowest)[0] == pytest.approx(cost, abs=1e-8)


chances = st.tuples(*[st.floats(0.02, 0.98)] * 3)


@settings(max_examples=25, deadline=None)
@given(arrival=chances, service=chances, cost=st.tuples(*[st.floats(0.1, 9.0)] * 3), loss=st.floats(0, 100))
def test_the_c_mu_rule_is_optimal_while_there_is_room_for_all(arrival, service, cost, loss):
    model = Model(arrival, service, cost, loss, room=9)
    slots = 6
    safe = (slice(0, model.room - slots + 1),) * 3  # so few wait that no customer can be turned away
    best, rule = model.episode(lowest, slots)[safe], model.episode(following(model.c_mu()), slots)[safe]
    np.testing.assert_allclose(rule, best, rtol=1e-12)
    assert (model.episode(uniform, slots)[safe] >= best * (1 - 1e-12)).all()


def test_another_order_than_c_mu_costs_more():
    roomy = Model(room=9)
    best = roomy.episode(lowest, 6)[3, 3, 3]
    for order in itertools.permutations(range(3)):
        ranks = np.array([order.index(k) for k in range(3)]).reshape(3, 1, 1, 1)
        actions = np.where(np.indices(roomy.shape) > 0, 3 - ranks, 0).argmax(axis=0)
        cost = roomy.episode(following(actions), 6)[3, 3, 3]
        assert cost == pytest.approx(best, rel=1e-12) if order == (1, 2, 0) else cost > best * 1.001


def test_with_small_waiting_rooms_the_optimum_leaves_c_mu_only_where_one_is_filling_up():
    average, q = MODEL.average(lowest)
    differ = (q.argmin(axis=0) != MODEL.c_mu()) & (np.indices(MODEL.shape).sum(axis=0) > 0)
    waiting = np.argwhere(differ)
    assert len(waiting) > 50
    assert waiting.max(axis=1).min() >= 4
    assert average * 1.05 < MODEL.average(following(MODEL.c_mu()))[0]


def play_optimally(episodes=5000, seed=1):
    """The returns of the policy that is best in the long run, and what the solver says that they are on average."""
    actions = MODEL.average(lowest)[1].argmin(axis=0)
    env = envs.make_vec("scheduling", episodes, seed=seed)
    env.reset()
    total = np.zeros(episodes)
    for _ in range(1000):
        total += env.step(actions[tuple(env.state["waiting"].T)])[1]
    return total, -MODEL.episode(following(actions))[0, 0, 0]


def test_the_sim_earns_with_the_optimal_policy_what_the_solver_says():
    total, expected = play_optimally()
    error = total.std(ddof=1) / np.sqrt(len(total))
    assert error < 0.005 * abs(expected)
    assert abs(total.mean() - expected) < 3 * error
    for wrong in (Model(room=4), Model(loss=80.0), Model(service=(0.8, 0.5, 0.26))):  # all of which would show
        assert abs(total.mean() + wrong.episode(lowest)[0, 0, 0]) > 5 * error
    assert MODEL.average(lowest)[0] == pytest.approx(9.553, abs=5e-4)


def test_references_are_what_the_solver_computes_and_the_sim_measures():
    known = {"random": uniform, "scripted": following(MODEL.c_mu()), "optimal": lowest}
    means = {name: -MODEL.episode(policy)[0, 0, 0] for name, policy in known.items()}
    for name, mean in means.items():
        assert SIM.references[name].mean == pytest.approx(mean, abs=0.005)
    for policy in ("random", "scripted"):
        found = returns("scheduling", policy, 5000)
        assert abs(found.mean() - means[policy]) < 3 * found.std(ddof=1) / np.sqrt(len(found))
    bar = means["random"] + 0.98 * (means["optimal"] - means["random"])
    assert SIM.reward_threshold == pytest.approx(bar, abs=1)
    assert means["scripted"] < bar < means["optimal"]
