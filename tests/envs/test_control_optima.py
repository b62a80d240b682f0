"""The optima of the control sims: the solver where there is a closed form, and what the references claim."""

import numpy as np
import pytest

import envs
from envs.reference import control
from envs.reference.control import (
    PROBLEMS,
    acrobot_returns,
    beam_searches,
    bilinear,
    greedy_return,
    slot_of,
    throttles,
    value_at_start,
    value_function,
)
from tests.envs.test_exact_ports import acrobot_energy


def value_at(name, values, x, v):
    return bilinear(values[-1], np.array(PROBLEMS[name].box), x, v)


def test_bilinear_interpolation_is_exact_for_bilinear_functions():
    box = np.array([[-1.0, 2.0], [3.0, 5.0]])
    x, v = np.linspace(-1, 2, 7)[:, None], np.linspace(3, 5, 4)[None]
    value = 2 * x - 3 * v + x * v + 1
    for x, v in [(-1.0, 3.0), (2.0, 5.0), (0.3, 4.9), (-0.77, 3.01)]:
        assert bilinear(value, box, x, v) == pytest.approx(2 * x - 3 * v + x * v + 1, abs=1e-12)


def test_on_flat_ground_the_least_number_of_steps_is_found():
    # From rest, n steps of full force go n (n + 1) / 2 * 0.001 far: 0.99 after 44 steps, 1.035 after 45. The goal is 1 away.
    flat = {"gravity": 0.0}
    values = value_function("mountaincar", 201, params=flat)
    assert value_at("mountaincar", values, -0.5, 0.0) == pytest.approx(-45, abs=0.5)
    assert greedy_return("mountaincar", values, params=flat, points=np.array([[-0.5, 0.0]])) == -45
    for k in (1, 20, 60):  # an episode that ends before the goal
        values = value_function("mountaincar", 51, params=flat, horizon=k)
        assert value_at("mountaincar", values, -0.5, 0.0) == pytest.approx(max(-k, -45), abs=1.5)


def test_on_flat_ground_the_cheapest_throttle_is_found():
    # After 60 steps, throttles a_t have moved the car by 0.0015 sum(a_t (60 - t)). The cheapest that cover 0.95 are
    # proportional to 60 - t, by Cauchy and Schwarz. (At most 0.51, and a speed of 0.024: no limit is in the way.)
    weights = np.arange(60, 0, -1)
    best = 100 - 0.1 * (0.95 / 0.0015) ** 2 / (weights @ weights)
    options = {"horizon": 60, "params": {"gravity": 0.0}, "actions": throttles(41)}
    values = value_function("mountaincar_continuous", 101, keep=True, **options)
    played = greedy_return("mountaincar_continuous", values, points=np.array([[-0.5, 0.0]]), **options)
    assert value_at("mountaincar_continuous", values, -0.5, 0.0) == pytest.approx(best, abs=0.2)
    assert best - 0.1 < played < best


def test_without_gravity_and_limits_pendulums_optimum_is_riccatis():
    a, b = (
        np.array([[1, 0.05], [0, 1]]),
        np.array([[0.05 * 0.15], [0.15]]),
    )  # semi-implicit Euler, 3 / (m l^2) tau = 0.15
    cost, torque_cost = np.diag([1, 0.1]), np.array([[0.001]])
    p = np.zeros((2, 2))
    for _ in range(60):
        gain = np.linalg.solve(torque_cost + b.T @ p @ b, b.T @ p @ a)
        p = cost + a.T @ p @ (a - b @ gain)
    best = -0.25 * p[0, 0]  # from 0.5 rad, at rest
    options = {"horizon": 60, "params": {"gravity": 0.0, "max_torque": 20.0}, "actions": 20 * throttles(41)}
    values = value_function("pendulum", 129, keep=True, **options)
    played = greedy_return("pendulum", values, points=np.array([[0.5, 0.0]]), **options)
    assert value_at("pendulum", values, 0.5, 0.0) == pytest.approx(best, rel=0.05)
    assert 1.02 * best < played < best  # both are negative


@pytest.mark.parametrize(("name", "nodes"), [("mountaincar", 301), ("pendulum", 129)])
def test_coarse_grids_lead_to_the_stated_optimum_and_no_policy_of_theirs_is_better(name, nodes):
    stated = envs.get_sim(name).references["optimal"]
    half, full = (value_function(name, n) for n in (nodes // 2 + 1, nodes))
    coarse, fine = value_at_start(name, half), value_at_start(name, full)
    assert coarse < fine < stated.mean < fine + 2 * (fine - coarse)
    assert stated.mean - 1.5 < greedy_return(name, full) < stated.mean + stated.error


def test_a_coarse_grid_of_mountaincar_continuous_is_no_better_than_the_stated_optimum():
    stated = envs.get_sim("mountaincar_continuous").references["optimal"]
    values = value_function("mountaincar_continuous", 61, keep=True, actions=throttles(13))
    points = control.starts("mountaincar_continuous", 50)
    played = greedy_return("mountaincar_continuous", values, actions=throttles(13), points=points)
    assert 99.4 < played < stated.mean + stated.error
    assert value_at_start("mountaincar_continuous", values) == pytest.approx(played, abs=0.15)


# -- Acrobot -----------------------------------------------------------------------------------------------------------


def test_wider_beams_find_no_worse_plans_and_all_beat_the_baseline():
    narrow, wide = acrobot_returns(8, 100), acrobot_returns(8, 1000)
    sim = envs.get_sim("acrobot")
    assert wide.mean() > narrow.mean() > sim.references["scripted"].mean
    assert wide.mean() < sim.references["optimal"].mean + 3
    assert (acrobot_returns(8, 100, limit=5) == -5).all()


def test_a_beam_that_holds_everything_finds_the_shortest_plan():
    # From random states near the line: every sequence of up to six actions, in plain Python, against the search.
    env = envs.make_vec("acrobot", 60, seed=0, precision="float64")
    env.reset()
    rng = np.random.default_rng(0)
    for field, low, high in (("theta1", 0.5, 1.5), ("theta2", -0.5, 0.5), ("theta1_dot", 1.0, 5.0)):
        env.state[field] = rng.uniform(low, high, 60)
    found = np.zeros(60)
    beam_searches(0, 60, env.sim.step, env.state, env.params, 1000, 6, found)
    crowd = envs.make_vec("acrobot", 3**6, precision="float64", autoreset_mode="NextStep", max_episode_steps=10**6)
    crowd.reset()
    shortest = []
    for state in env.state.copy():
        crowd.state[:] = state
        best = -6
        for t in range(6):
            ended = crowd.step(np.arange(3**6) // 3 ** (5 - t) % 3)[2]
            if ended.any():
                best = -t
                break
        shortest.append(best)
    # Cells join states that are close: a step may be lost, none can be won.
    assert (found <= shortest).all()
    assert (found == shortest).mean() > 0.9
    assert set(shortest) >= {0, -1, -2, -3, -6}


def test_the_search_ranks_states_by_the_links_energy():
    env = envs.make_vec("acrobot", 50, seed=0, precision="float64")
    env.reset()
    rng = np.random.default_rng(0)
    for field in ("theta1", "theta2", "theta1_dot", "theta2_dot"):
        env.state[field] = rng.uniform(-3, 3, 50)
    mine = [control.energy(s) for s in env.state]
    np.testing.assert_allclose(mine, acrobot_energy(env.state), atol=1e-12)


def test_a_beam_wider_than_its_table_is_refused():
    with pytest.raises(ValueError, match="width=90000"):
        acrobot_returns(1, 90_000)


def test_just_the_highest_are_kept():
    rng = np.random.default_rng(0)
    height, buckets = rng.normal(size=5000), np.zeros(10_000, np.int64)
    for width in (1, 100, 4999, 5000, 6000):
        least = control.least_of_highest(height, 5000, width, buckets)
        kept = (height >= least).sum()
        assert min(width, 5000) <= kept <= width + 10
    assert control.least_of_highest(np.ones(5), 5, 2, buckets) == 1.0


def test_a_cell_has_one_slot():
    table = np.full(control.SLOTS, -1, np.int64)
    for cell in (*range(1000), 10**12, 999):
        table[slot_of(table, cell)] = cell
    assert (table >= 0).sum() == 1001
