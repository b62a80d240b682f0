"""Quadrotor against the differential equations and the exact regulator; its gates by hand, by invariant, and flown through."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import solve_discrete_are

import envs
from envs.engine.sim import SPLITS
from envs.quadrotor import GAIN
from envs.quadrotor_gates import GATES, HEIGHT, STEEPEST
from envs.reference.measure import returns
from envs.reference.quadrotor import Q, R, linearised, optimal_return, regulator

FIELDS = ("x", "z", "theta", "x_dot", "z_dot", "theta_dot")
MASS, INERTIA, ARM, GRAVITY, TAU = 0.486, 0.00383, 0.25, 9.81, 0.02


def put(env, states):
    for k, field in enumerate(FIELDS):
        env.state[field] = states[:, k]


def read(env):
    return np.stack([env.state[field].astype(np.float64) for field in FIELDS], axis=1)


def steps(states, actions, name="quadrotor", count=1):
    """The states that come of `states` by `count` steps of the same actions; never ended."""
    env = envs.make_vec(name, len(states), seed=0, precision="float64", autoreset_mode="NextStep")
    env.reset()
    put(env, np.asarray(states, np.float64))
    for _ in range(count):
        env.state["ended"] = 0
        _, reward, terminated, _, _ = env.step(np.asarray(actions, np.float32))
    return read(env), reward, terminated


def drake(t, x, u):
    """Drake's Quadrotor2D, written down from its source."""
    x_acc = -np.sin(x[2]) / MASS * (u[0] + u[1])
    z_acc = np.cos(x[2]) / MASS * (u[0] + u[1]) - GRAVITY
    return [x[3], x[4], x[5], x_acc, z_acc, ARM / INERTIA * (u[0] - u[1])]


def thrusts(action):
    return (1 + np.asarray(action, np.float64)) * MASS * GRAVITY / 2


def random_flights(n, differential, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (n, 6)) * [1.5, 1.5, 2.5, 3.0, 3.0, 4.0]
    common = rng.uniform(-0.9, 0.9, (n, 1))
    return states, np.clip(common + differential * rng.uniform(-1, 1, (n, 2)), -1, 1).astype(np.float32)


# The angle turns by up to 0.08 rad in a step at first, and full differential thrust adds 0.12: Runge-Kutta's error is
# of the fifth power of that.
@pytest.mark.parametrize(("differential", "error"), [(0.02, 1e-7), (1.0, 3e-5)])
def test_a_step_agrees_with_the_differential_equation(differential, error):
    states, actions = random_flights(300, differential)
    after, _, _ = steps(states, actions)
    for x, action, mine in zip(states, actions, after, strict=True):
        exact = solve_ivp(drake, (0, TAU), x, args=(thrusts(action),), rtol=1e-12, atol=1e-13).y[:, -1]
        np.testing.assert_allclose(mine, exact, rtol=0, atol=error)
        assert mine[2] == pytest.approx(exact[2], abs=1e-11)  # a parabola


def test_a_step_is_the_classical_runge_kutta_step():
    states, actions = random_flights(1000, 1.0, seed=1)
    after, _, _ = steps(states, actions)
    x, u = states.T, thrusts(actions).T

    def f(x):
        return np.array(drake(0, x, u))

    k1 = f(x)
    k2 = f(x + TAU / 2 * k1)
    k3 = f(x + TAU / 2 * k2)
    k4 = f(x + TAU * k3)
    np.testing.assert_allclose(after.T, x + TAU / 6 * (k1 + 2 * k2 + 2 * k3 + k4), rtol=0, atol=1e-13)


def test_the_mirror_image_of_a_flight_is_a_flight_to_the_last_bit():
    states, actions = random_flights(500, 1.0, seed=2)
    mirror = np.array([-1, 1, -1, -1, 1, -1])
    one, other = steps(states, actions, count=20)[0], steps(states * mirror, actions[:, ::-1], count=20)[0]
    np.testing.assert_array_equal(one, other * mirror)


def test_without_thrust_energy_and_spin_are_kept():
    states, _ = random_flights(200, 1.0, seed=3)
    after, _, _ = steps(states, -np.ones((200, 2)), count=40)
    energy = [0.5 * (s[:, 3] ** 2 + s[:, 4] ** 2) + GRAVITY * s[:, 1] for s in (states, after)]
    np.testing.assert_allclose(energy[1], energy[0], rtol=0, atol=1e-11)
    np.testing.assert_array_equal(after[:, 5], states[:, 5])
    assert (np.abs(after[:, 1] - states[:, 1]) > 0.5).any()  # they do fall


def test_hover_is_an_equilibrium_and_actions_are_clipped():
    after, reward, _ = steps(np.zeros((1, 6)), [[0.0, 0.0]], count=100)
    assert np.abs(after).max() < 1e-12
    assert reward[0] == 0
    wild, tame = steps(np.zeros((1, 6)), [[7.0, -3.0]]), steps(np.zeros((1, 6)), [[1.0, -1.0]])
    np.testing.assert_array_equal(wild[0], tame[0])
    assert wild[1] == tame[1] == pytest.approx(-0.2)


def test_the_reward_by_hand():
    state = [[0.5, -1.0, 0.2, 1.0, -2.0, 3.0]]
    # 0.25 + 1 + 0.04 + 0.1 * (1 + 4) + 0.01 * 9 + 0.1 * (0.25 + 0.0625)
    assert steps(state, [[0.5, -0.25]])[1][0] == pytest.approx(-1.91125, abs=1e-12)
    far = [[1.99, 0.0, 0.0, 2.0, 0.0, 0.0]]  # 3.9601 + 0.1 * 4, and it leaves
    _, reward, terminated = steps(far, [[0.0, 0.0]])
    assert terminated[0]
    assert reward[0] == pytest.approx(-204.3601, abs=1e-12)


@pytest.mark.parametrize(("index", "limit"), [(0, 2.0), (1, 2.0), (2, np.pi)])
def test_the_episode_ends_beyond_each_limit_and_only_there(index, limit):
    for sign in (1, -1):
        inside, outside = np.zeros(6), np.zeros(6)
        inside[index], outside[index] = sign * (limit - 0.01), sign * (limit + 0.01)
        assert steps([inside, outside], np.zeros((2, 2)))[2].tolist() == [False, True]


def test_the_linearised_step_is_the_steps_own_derivative():
    a, b = linearised()
    e = 1e-5
    base = np.zeros((6, 2))
    numeric = (steps(e * np.eye(6), base)[0] - steps(-e * np.eye(6), base)[0]).T / (2 * e)
    np.testing.assert_allclose(a, numeric, rtol=0, atol=1e-9)
    e, base = 2.0**-12, np.zeros((2, 6))  # a number that float32 holds
    numeric = (steps(base, e * np.eye(2))[0] - steps(base, -e * np.eye(2))[0]).T / (2 * e)
    np.testing.assert_allclose(b, numeric, rtol=0, atol=1e-6)


def test_the_regulator_is_scipys_and_stands_in_the_sim():
    a, b = linearised()
    gain, cost = regulator()
    exact = solve_discrete_are(a, b, Q, R)
    np.testing.assert_allclose(cost, exact, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gain, np.linalg.solve(R + b.T @ exact @ b, b.T @ exact @ a), rtol=0, atol=1e-9)
    np.testing.assert_allclose(GAIN, gain[0], rtol=1e-5)
    np.testing.assert_allclose(gain[1], gain[0] * [-1, 1, -1, -1, 1, -1], rtol=0, atol=1e-9)


def test_near_hover_the_baseline_earns_the_linear_quadratic_optimum():
    env = envs.make_vec("quadrotor", 500, seed=0, precision="float64", params={"spread": 0.02})
    env.reset()
    start, earned = read(env), np.zeros(500)
    for _ in range(500):
        earned += env.step(env.scripted_actions())[1]
    predicted = -np.einsum("ni,ij,nj->n", start, regulator()[1], start)
    np.testing.assert_allclose(earned, predicted, rtol=2e-2, atol=1e-6)
    assert earned.mean() == pytest.approx(predicted.mean(), rel=1e-3)
    assert abs(predicted.mean() - optimal_return(0.02)) < 3 * predicted.std() / np.sqrt(500)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_no_other_gain_costs_less_near_hover(factor):
    rng = np.random.default_rng(0)
    a, b = linearised()
    gain, cost = regulator()
    for changed in (factor * gain, gain * np.where(np.arange(6) == rng.integers(6), factor, 1.0)):
        closed, step_cost, total = a - b @ changed, Q + changed.T @ R @ changed, np.zeros((6, 6))
        for _ in range(2000):  # the cost of going on with this gain for ever
            total = step_cost + closed.T @ total @ closed
        assert np.linalg.eigvalsh(total - cost).min() > -1e-9
        assert np.trace(total) > np.trace(cost)


@pytest.mark.parametrize("name", ["quadrotor", "quadrotor_gates"])
@pytest.mark.parametrize("policy", ["random", "scripted"])
def test_references_are_what_is_measured(name, policy):
    reference = envs.get_sim(name).references[policy]
    found = returns(name, policy, 1000, seed=3)
    error = np.hypot(found.std(ddof=1) / np.sqrt(len(found)), reference.error)
    assert abs(found.mean() - reference.mean) < 4 * error


def test_the_optimal_reference_is_computed():
    assert envs.get_sim("quadrotor").references["optimal"].mean == pytest.approx(optimal_return(), abs=0.005)


# -- gates -------------------------------------------------------------------------------------------------------------


def courses(ids, seed=0):
    env = envs.make_vec("quadrotor_gates", len(ids), seed=seed, precision="float64")
    env.reset(options={"level": np.asarray(ids)})
    return env.state


def test_a_course_is_a_function_of_its_level_and_no_split_repeats_one():
    ids = np.arange(50)
    one, other = courses(ids, seed=1), courses(ids[::-1], seed=2)[::-1]
    for field in ("gate_x", "gate_z", "opening"):
        np.testing.assert_array_equal(one[field], other[field])
    seen = {courses(np.arange(500) + first)["gate_z"].tobytes() for first, _ in SPLITS.values()}
    rows = {row.tobytes() for first, _ in SPLITS.values() for row in courses(np.arange(500) + first)["gate_z"]}
    assert len(seen) == 3
    assert len(rows) == 1500


def test_gates_stand_as_the_page_says():
    s = courses(np.arange(5000))
    apart = np.diff(s["gate_x"][:, :GATES], prepend=0.0)
    rise = np.abs(np.diff(s["gate_z"][:, :GATES], prepend=0.0))
    assert apart.min() >= 2
    assert apart.max() <= 3
    assert (rise <= STEEPEST * apart + 1e-12).all()
    assert np.abs(s["gate_z"]).max() <= 2
    assert 0.35 <= s["opening"].min() <= s["opening"].max() <= 0.55


def pass_gate(x, z, x_dot=0.0, z_dot=0.0, passed=0, theta=0.0):
    """One step by hand, on a course of walls 2 m apart whose openings are 1 m high, at height 0."""
    env = envs.make_vec("quadrotor_gates", 1, seed=0, precision="float64", autoreset_mode="NextStep")
    env.reset()
    s = env.state
    s["gate_x"], s["gate_z"], s["opening"] = 2.0 * np.arange(1, GATES + 2), 0.0, 0.5
    s["x"], s["z"], s["x_dot"], s["z_dot"], s["passed"], s["theta"] = x, z, x_dot, z_dot, passed, theta
    _, reward, terminated, _, _ = env.step(np.zeros((1, 2), np.float32))
    return int(s["passed"][0]), pytest.approx(reward[0], abs=1e-9), bool(terminated[0])


def test_gates_by_hand():
    assert pass_gate(1.0, 0.0, x_dot=2.0) == (0, 0.02, False)  # 4 cm of 2 m
    assert pass_gate(1.98, 0.4, x_dot=2.0) == (1, 0.02, False)  # through the opening
    assert pass_gate(1.98, 0.6, x_dot=2.0) == (0, 0.01 - 1, True)  # into the wall, 2 cm on
    assert pass_gate(1.98, 0.52, x_dot=2.0, z_dot=-4.0) == (1, 0.02, False)  # half way it is at 0.48
    assert pass_gate(1.98, 0.46, x_dot=2.0, z_dot=4.0) == (1, 0.02, False)  # 0.5 is open, 0.54 is behind the wall
    assert pass_gate(1.98, 0.48, x_dot=2.0, z_dot=4.0)[2]  # 0.52 is not
    assert pass_gate(19.98, 0.0, x_dot=2.0, passed=9) == (10, 0.01, True)  # the last gate, and no farther
    assert pass_gate(2.01, 0.0, x_dot=-2.0, passed=1) == (1, -0.02 - 1, True)  # gates close behind
    assert pass_gate(-1.99, 0.0, x_dot=-2.0) == (0, -0.02 - 1, True)
    assert pass_gate(1.0, HEIGHT - 0.01, z_dot=2.0) == (0, -1.0, True)
    assert pass_gate(1.0, 0.0, theta=np.pi)[2] is False


def test_returns_are_gates_passed():
    env = envs.make_vec("quadrotor_gates", 200, seed=5, split="test", precision="float64", autoreset_mode="NextStep")
    env.reset()
    running, passed, earned = np.ones(200, bool), np.zeros(200, int), np.zeros(200)
    while running.any():
        _, _, terminated, truncated, info = env.step(env.scripted_actions())
        ended = running & (terminated | truncated)
        passed[ended], earned[ended] = env.state["passed"][ended], info["episode"]["r"][ended] if ended.any() else 0
        assert (env.state["passed"][ended & terminated] == GATES).all()  # the baseline does not crash
        running &= ~ended
    assert (np.floor(earned + 1e-9) == passed).all()
    assert (passed == GATES).mean() > 0.3


def test_a_course_with_a_damaged_count_of_gates_is_refused():
    env = envs.make_vec("quadrotor_gates", 3, seed=0)
    env.reset()
    for field, value in (("passed", 11), ("passed", -1), ("gate_x", 0.0), ("gate_x", np.nan)):
        snapshot = env.get_state()
        snapshot["states"].view(env.state.dtype)[field][2] = value
        with pytest.raises(ValueError, match="the state of env 2 is not a valid state of QuadrotorGates"):
            env.set_state(snapshot)
