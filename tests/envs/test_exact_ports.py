"""The ports of Gymnasium's classic control against their originals, one step at a time, from states put into both."""

import functools
import math
from types import SimpleNamespace
from unittest import mock

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import continuous_mountain_car
from scipy import stats

import envs

N = 100_000
CARS = 40_000  # states of the mountain cars
SLOW = 10_000  # of Acrobot, whose original takes a tenth of a millisecond for a step
CARTPOLE = ("x", "x_dot", "theta", "theta_dot")
PENDULUM = ("theta", "theta_dot")
CAR = ("position", "velocity")
ACROBOT = ("theta1", "theta2", "theta1_dot", "theta2_dot")


def unrounded():
    """Gymnasium's MountainCarContinuous without its rounding of the state to float32 after every step."""
    wide = SimpleNamespace(array=lambda numbers, dtype=None: np.array(numbers, np.float64), float32=np.float64)
    return mock.patch.object(continuous_mountain_car, "np", wide)


def step_ours(name, precision, fields, states, actions):
    """One step of every env from `states`: the states as they were put in (after rounding), then what came of them."""
    env = envs.make_vec(name, len(states), seed=0, precision=precision, autoreset_mode="NextStep")
    env.reset()
    for k, field in enumerate(fields):
        env.state[field] = states[:, k]
    before = np.stack([env.state[field].astype(np.float64) for field in fields], axis=1)
    obs, reward, terminated, _, _ = env.step(actions)
    after = np.stack([env.state[field].astype(np.float64) for field in fields], axis=1)
    return before, after, reward, terminated, obs


def step_gymnasium(id, states, actions):
    env = gymnasium.make(id).unwrapped
    env.reset(seed=0)
    n = len(states)
    after, reward, terminated, obs = np.empty_like(states), np.empty(n), np.empty(n, bool), []
    for i in range(n):
        env.state = states[i].copy()
        env.steps_beyond_terminated = None  # CartPole's memory of an episode that ended
        o, reward[i], terminated[i], _, _ = env.step(actions[i])
        after[i] = env.state
        obs.append(o)
    return after, reward, terminated, np.array(obs)


@functools.cache
def cartpole(precision, n=N, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (n, 4)) * [2.6, 4.0, 0.24, 4.0]  # a good part of them beyond the limits 2.4 and 0.2095
    actions = rng.integers(2, size=n)
    before, *ours = step_ours("cartpole", precision, CARTPOLE, states, actions)
    return before, ours, step_gymnasium("CartPole-v1", before, actions)


@functools.cache
def pendulum(precision, n=N, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (n, 2)) * [4 * np.pi, 8.0]
    actions = rng.uniform(-2.5, 2.5, (n, 1)).astype(np.float32)  # some to be clipped
    before, *ours = step_ours("pendulum", precision, PENDULUM, states, actions)
    # Gymnasium squares the torque in the action's own width: float64 here, of the same torques.
    return before, ours, step_gymnasium("Pendulum-v1", before, actions.astype(np.float64))


def on_the_track(rng, n=CARS):
    """States of a car, a good part of which the next step takes to either end, to the goal or to the greatest speed."""
    states = rng.uniform([-1.2, -0.07], [0.6, 0.07], (n, 2))
    states[: n // 4, 0] = rng.uniform(0.4, 0.52, n // 4)
    states[n // 4 : n // 3, 0] = -1.2 + rng.uniform(0.0, 0.07, len(states[n // 4 : n // 3]))
    return states


@functools.cache
def mountaincar(precision, n=CARS, seed=0):
    rng = np.random.default_rng(seed)
    states, actions = on_the_track(rng, n), rng.integers(3, size=n)
    before, *ours = step_ours("mountaincar", precision, CAR, states, actions)
    return before, ours, step_gymnasium("MountainCar-v0", before, actions)


@functools.cache
def mountaincar_continuous(precision, n=CARS, seed=0):
    rng = np.random.default_rng(seed)
    states = on_the_track(rng, n)
    actions = rng.uniform(-1.3, 1.3, (n, 1)).astype(np.float32)  # some beyond the limits
    before, *ours = step_ours("mountaincar_continuous", precision, CAR, states, actions)
    with unrounded():
        return before, ours, step_gymnasium("MountainCarContinuous-v0", before, actions.astype(np.float64))


@functools.cache
def acrobot(precision, n=SLOW, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (n, 4)) * [np.pi, np.pi, 2 * np.pi, 4.5 * np.pi]  # speeds of up to half the limits
    actions = rng.integers(3, size=n)
    before, *ours = step_ours("acrobot", precision, ACROBOT, states, actions)
    return before, ours, step_gymnasium("Acrobot-v1", before, actions)


PORTS = [cartpole, pendulum, mountaincar, mountaincar_continuous, acrobot]


def largest_difference(ours, theirs):
    """Of states and rewards; flags must be equal, and observations but for their rounding to float32."""
    (after, reward, terminated, obs), (their_after, their_reward, their_terminated, their_obs) = ours, theirs
    np.testing.assert_array_equal(terminated, their_terminated)
    np.testing.assert_allclose(obs, their_obs, rtol=0, atol=1e-6)
    return max(float(np.abs(after - their_after).max()), float(np.abs(reward - their_reward).max()))


@pytest.mark.parametrize("port", PORTS)
def test_float64_port_agrees_with_gymnasium_to_1e_12(port):
    _, ours, theirs = port("float64")
    assert largest_difference(ours, theirs) <= 1e-12


def test_float32_cartpole_agrees_with_gymnasium_to_1e_6():
    _, (after, reward, terminated, _), (their_after, their_reward, their_terminated, _) = cartpole("float32")
    np.testing.assert_allclose(after, their_after, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(reward, their_reward)
    limits = np.array([2.4, 12 * 2 * np.pi / 360])
    near = (np.abs(np.abs(their_after[:, [0, 2]]) - limits) < 1e-6).any(axis=1)
    np.testing.assert_array_equal(terminated[~near], their_terminated[~near])
    assert near.sum() < 10
    assert 0.1 < their_terminated.mean() < 0.9  # the flag was put to the test


@pytest.mark.parametrize(("port", "goal"), [(mountaincar, 0.5), (mountaincar_continuous, 0.45)])
def test_float32_mountain_cars_agree_with_gymnasium_to_2e_7(port, goal):
    _, (after, reward, terminated, _), (their_after, their_reward, their_terminated, _) = port("float32")
    near = np.abs(their_after[:, 0] - goal) < 2e-7
    near |= np.abs(their_after[:, 0] + 1.2) < 2e-7  # where it stops, or just not
    np.testing.assert_allclose(after[~near], their_after[~near], rtol=0, atol=2e-7)
    np.testing.assert_allclose(reward[~near], their_reward[~near], rtol=1e-6, atol=2e-8)
    np.testing.assert_array_equal(terminated[~near], their_terminated[~near])
    stopped = (their_after == [-1.2, 0.0]).all(axis=1)
    np.testing.assert_array_equal((after == [np.float32(-1.2), 0.0]).all(axis=1), stopped)
    assert (near & ~stopped).sum() < 10
    for flag in (terminated, stopped, np.abs(their_after[:, 1]) == 0.07, their_after[:, 0] == 0.6):
        assert flag.sum() > 100  # all were put to the test


def test_the_original_mountaincar_continuous_ends_a_step_where_ours_does_when_rounded():
    # As it is played, in float32 throughout. A step of the original is rounded to float32 several times, as ours is.
    rng = np.random.default_rng(3)
    states, actions = on_the_track(rng)[::2], rng.uniform(-1, 1, (CARS // 2, 1)).astype(np.float32)
    _, _, reward, terminated, obs = step_ours("mountaincar_continuous", "float32", CAR, states, actions)
    theirs = step_gymnasium("MountainCarContinuous-v0", states.astype(np.float32), actions)
    near = np.abs(theirs[0][:, 0] - 0.45) < 2e-7
    np.testing.assert_allclose(obs, theirs[3], rtol=0, atol=2e-7)
    np.testing.assert_array_equal(terminated[~near], theirs[2][~near])
    np.testing.assert_allclose(reward[~near], theirs[1][~near], rtol=1e-6)


def test_float32_acrobot_agrees_with_gymnasium():
    before, (after, reward, terminated, _), (their_after, their_reward, their_terminated, _) = acrobot("float32")
    errors = after - their_after
    errors[:, :2] -= 2 * np.pi * np.round(errors[:, :2] / (2 * np.pi))  # pi and -pi are one angle
    errors = np.abs(errors).max(axis=1)
    assert errors.max() < 2e-5
    slow = (np.abs(before[:, 2:]) < 0.2 * np.array([4 * np.pi, 9 * np.pi])).all(axis=1)
    assert slow.sum() > 1000
    assert errors[slow].max() < 2e-6
    height = -np.cos(their_after[:, 0]) - np.cos(their_after[:, 0] + their_after[:, 1])
    near = np.abs(height - 1.0) < 2e-5
    np.testing.assert_array_equal(terminated[~near], their_terminated[~near])
    np.testing.assert_array_equal(reward[~near], their_reward[~near])
    assert near.sum() < 10
    assert 0.1 < their_terminated.mean() < 0.9


def test_float32_pendulum_agrees_with_gymnasium_to_4e_6():
    _, (after, reward, terminated, _), (their_after, their_reward, _, _) = pendulum("float32")
    np.testing.assert_allclose(after, their_after, rtol=0, atol=4e-6)
    np.testing.assert_allclose(reward, their_reward, rtol=0, atol=4e-6)
    assert not terminated.any()


IDS = {
    "acrobot": "Acrobot-v1",
    "cartpole": "CartPole-v1",
    "mountaincar": "MountainCar-v0",
    "mountaincar_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
}


@pytest.mark.parametrize(("name", "id"), list(IDS.items()))
def test_spaces_limits_and_start_are_gymnasiums(name, id):
    sim, theirs = envs.get_sim(name), gymnasium.make(id)
    assert sim.observation_space == theirs.observation_space
    assert sim.action_space == theirs.action_space
    assert sim.max_episode_steps == theirs.spec.max_episode_steps
    assert sim.reward_threshold == theirs.spec.reward_threshold
    start, _ = envs.make_vec(name, 20_000, seed=0).reset()
    their_start = np.array([theirs.reset(seed=i)[0] for i in range(2_000)])
    np.testing.assert_allclose(start.min(axis=0), their_start.min(axis=0), atol=0.01)
    np.testing.assert_allclose(start.max(axis=0), their_start.max(axis=0), atol=0.01)
    for mine, other in zip(start.T, their_start.T, strict=True):
        assert np.ptp(other) == np.ptp(mine) == 0.0 or stats.ks_2samp(mine, other).pvalue > 0.001


def test_pendulum_reward_is_of_the_state_before_the_step():
    env = envs.make_vec("pendulum", 1, seed=0, precision="float64")
    env.reset()
    env.state["theta"], env.state["theta_dot"] = 1.0, 2.0
    reward = env.step(np.array([[3.0]], np.float32))[1]
    # 1^2 + 0.1 * 2^2 + 0.001 * (3 clipped to 2)^2 = 1 + 0.4 + 0.004
    assert reward[0] == pytest.approx(-1.404, abs=1e-12)


# -- where a port goes wrong: at the edges, with other parameters, over time -------------------------------------------

THETA_LIMIT = 12 * 2 * math.pi / 360
WORLDS = {  # our parameters, and the names that Gymnasium has for them
    "cartpole": (
        "CartPole-v1",
        CARTPOLE,
        {"gravity": 15.0, "mass_cart": 0.7, "mass_pole": 0.35, "half_length": 0.9, "force": 6.0, "tau": 0.01},
        {"gravity": 15.0, "masscart": 0.7, "masspole": 0.35, "length": 0.9, "force_mag": 6.0, "tau": 0.01}
        | {"total_mass": 0.7 + 0.35, "polemass_length": 0.35 * 0.9},
    ),
    "pendulum": (
        "Pendulum-v1",
        PENDULUM,
        {"gravity": 15.0, "mass": 0.5, "length": 1.5, "tau": 0.03, "max_speed": 6.0, "max_torque": 1.0},
        {"g": 15.0, "m": 0.5, "l": 1.5, "dt": 0.03, "max_speed": 6.0, "max_torque": 1.0},
    ),
    "mountaincar": (
        "MountainCar-v0",
        CAR,
        {"force": 0.002, "gravity": 0.003, "max_speed": 0.05, "goal_position": 0.3, "goal_velocity": 0.01},
        {"force": 0.002, "gravity": 0.003, "max_speed": 0.05, "goal_position": 0.3, "goal_velocity": 0.01},
    ),
    "mountaincar_continuous": (
        "MountainCarContinuous-v0",
        CAR,
        {"power": 0.002, "max_speed": 0.05, "goal_position": 0.3, "goal_velocity": 0.01},
        {"power": 0.002, "max_speed": 0.05, "goal_position": 0.3, "goal_velocity": 0.01},
    ),
    "acrobot": (
        "Acrobot-v1",
        ACROBOT,
        {"mass_1": 1.3, "mass_2": 0.7, "length_1": 1.4, "center_1": 0.6, "center_2": 0.3, "inertia": 0.8, "torque": 1.5}
        | {"tau": 0.1, "max_speed_1": 6.0, "max_speed_2": 10.0},
        {"LINK_MASS_1": 1.3, "LINK_MASS_2": 0.7, "LINK_LENGTH_1": 1.4, "LINK_COM_POS_1": 0.6, "LINK_COM_POS_2": 0.3}
        | {"LINK_MOI": 0.8, "AVAIL_TORQUE": [-1.5, 0.0, 1.5], "dt": 0.1, "MAX_VEL_1": 6.0, "MAX_VEL_2": 10.0},
    ),
}
CONTINUOUS = ("pendulum", "mountaincar_continuous")


def pair(name, n, *, changed=False):
    """n of our float64 envs, that never end by themselves, and one of Gymnasium's, maybe with other parameters."""
    id, fields, ours, theirs = WORLDS[name]
    make = {"precision": "float64", "autoreset_mode": "NextStep", "max_episode_steps": 10**9}
    env = envs.make_vec(name, n, seed=0, params=ours if changed else None, **make)
    env.reset()
    original = gymnasium.make(id).unwrapped
    original.reset(seed=0)
    for attribute, value in theirs.items() if changed else ():
        assert hasattr(original, attribute)
        setattr(original, attribute, value)
    return env, original, fields


def assert_steps_agree(name, states, actions, *, changed=False, atol=1e-12):
    env, original, fields = pair(name, len(states), changed=changed)
    for k, field in enumerate(fields):
        env.state[field] = states[:, k]
    _, reward, terminated, _, _ = env.step(actions)
    for i, (state, action) in enumerate(
        zip(states, actions.astype(np.float64 if name in CONTINUOUS else int), strict=True)
    ):
        original.state, original.steps_beyond_terminated = state.copy(), None
        _, their_reward, their_terminated, _, _ = original.step(action)
        mine = np.array([env.state[field][i] for field in fields])
        np.testing.assert_allclose(mine, original.state, rtol=1e-15, atol=atol, err_msg=f"from {state}")
        np.testing.assert_allclose(reward[i], their_reward, rtol=0, atol=max(atol, 1e-12), err_msg=f"from {state}")
        assert terminated[i] == their_terminated, state


@pytest.mark.parametrize("action", [0, 1])
def test_cartpole_ends_one_ulp_beyond_a_limit_and_not_on_it(action):
    states = [
        np.copysign(np.eye(4)[k] * number, sign)  # the speeds are 0 or -0, so the position stays what it is
        for k, limit in ((0, 2.4), (2, THETA_LIMIT))
        for number in (limit, np.nextafter(limit, 9.0), np.nextafter(limit, 0.0))
        for sign in (1.0, -1.0)
    ]
    assert_steps_agree("cartpole", np.array(states), np.full(len(states), action), atol=0)


def test_pendulums_angle_is_normalised_as_gymnasiums_at_every_half_turn():
    turns = np.arange(-7, 8) * math.pi
    angles = np.concatenate([turns, np.nextafter(turns, np.inf), np.nextafter(turns, -np.inf), [-0.0, 1e-300]])
    states = np.stack([angles, np.zeros_like(angles)], axis=1)
    assert_steps_agree("pendulum", states, np.zeros((len(states), 1), np.float32))


@pytest.mark.parametrize("action", [0, 1, 2])
def test_mountaincar_ends_on_the_goal_and_stops_at_the_left_end(action):
    # From these states a step leads to a neighbourhood of a few ulps of the goal, the ends, and rest at the goal.
    states = []
    for target in (0.5, -1.2, 0.6):
        for speed in (0.06, 0.02, 0.0, -0.02, -0.06):
            near = target - speed + 0.0025 * math.cos(3 * (target - speed)) - 0.001 * (action - 1)
            states += [(near + k * 2.0**-53, speed) for k in range(-4, 5)]
    states += [(-1.2, -0.0), (-1.2, 0.0), (0.5, 0.0025 * math.cos(1.5) - 0.001 * (action - 1)), (0.5, 0.0)]
    assert_steps_agree("mountaincar", np.array(states), np.full(len(states), action), atol=1e-17)


def test_mountaincar_continuous_pays_for_the_action_as_given_but_is_pushed_by_the_clipped_one():
    env = envs.make_vec("mountaincar_continuous", 2, seed=0, precision="float64")
    env.reset()
    env.state["position"] = -0.5
    reward = env.step(np.array([[3.0], [1.0]], np.float32))[1]
    assert reward.tolist() == pytest.approx([-0.9, -0.1], abs=1e-12)
    assert env.state["velocity"][0] == env.state["velocity"][1]
    env.state["position"], env.state["velocity"] = 0.44, 0.05
    reward = env.step(np.array([[0.5], [0.0]], np.float32))[1]
    assert reward.tolist() == pytest.approx([100 - 0.025, 100], abs=1e-12)


def test_acrobots_angles_are_wrapped_as_gymnasiums():
    # At rest at these angles and without torque, a step stays at, or moves a little beyond, a half turn.
    angles = [0.0, math.pi, -math.pi, np.nextafter(math.pi, 4), np.nextafter(-math.pi, -4), 2 * math.pi, 12.0, -40.0]
    states = np.array([(a, b, c, d) for a in angles for b in angles for c in (0.0, 1.0) for d in (0.0, -1.0)])
    assert_steps_agree("acrobot", states, np.ones(len(states), int))


def test_acrobots_energy_is_kept_without_torque_as_well_as_the_step_allows():
    # The energy of the two links, from the textbook and not from the sim. Halving the step leaves a sixteenth of the
    # error, or less, as befits Runge-Kutta's fourth order: the equations are those of a mechanism without friction.
    drift = []
    for tau in (0.05, 0.025):
        env = envs.make_vec("acrobot", 200, seed=0, precision="float64", params={"tau": tau}, max_episode_steps=10**6)
        env.reset()
        rng = np.random.default_rng(0)
        for field in ACROBOT:
            env.state[field] = rng.uniform(-1.0, 1.0, 200)
        before = acrobot_energy(env.state)
        for _ in range(round(1.0 / tau)):
            env.step(np.ones(200, int))
        drift.append(np.abs(acrobot_energy(env.state) - before).mean())
    assert drift[0] < 1e-4
    assert drift[1] < drift[0] / 14


def acrobot_energy(s):
    """Kinetic and potential energy of links of 1 kg, 1 m, with 1 kg m^2 about their middles."""
    angle, turn = s["theta1"] + s["theta2"], s["theta1_dot"] + s["theta2_dot"]
    vx = np.cos(s["theta1"]) * s["theta1_dot"] + 0.5 * np.cos(angle) * turn
    vy = np.sin(s["theta1"]) * s["theta1_dot"] + 0.5 * np.sin(angle) * turn
    kinetic = 0.5 * (0.25 * s["theta1_dot"] ** 2 + vx**2 + vy**2 + s["theta1_dot"] ** 2 + turn**2)
    return kinetic - 9.8 * (1.5 * np.cos(s["theta1"]) + 0.5 * np.cos(angle))


def test_acrobot_starts_with_numbers_of_float32_in_either_precision():
    for precision in ("float32", "float64"):
        env = envs.make_vec("acrobot", 100, seed=0, precision=precision)
        env.reset()
        for field in ACROBOT:
            np.testing.assert_array_equal(env.state[field], env.state[field].astype(np.float32))


@unrounded()
@pytest.mark.parametrize("changed", [False, True])
def test_extreme_states_and_other_parameters_agree(changed):
    rng = np.random.default_rng(1)
    states = rng.uniform(-1, 1, (2000, 4)) * [1e3, 100.0, 1e3, 50.0]
    states[:1000] *= [1e-3, 1e-2, 1e-3, 1e-1]  # half of them near the upright, where some go on
    assert_steps_agree("cartpole", states, rng.integers(2, size=2000), changed=changed)
    states = rng.uniform(-1, 1, (2000, 2)) * [500.0, 100.0]
    assert_steps_agree("pendulum", states, rng.uniform(-5, 5, (2000, 1)).astype(np.float32), changed=changed)
    states = rng.uniform(-1, 1, (2000, 2)) * [3.0, 0.2]
    assert_steps_agree("mountaincar", states, rng.integers(3, size=2000), changed=changed)
    actions = rng.uniform(-5, 5, (2000, 1)).astype(np.float32)
    assert_steps_agree("mountaincar_continuous", states, actions, changed=changed)
    # Far beyond the speeds of play, a Runge-Kutta step of Acrobot makes ten thousand ulps of one.
    states = rng.uniform(-1, 1, (2000, 4)) * [20.0, 20.0, 15.0, 30.0]
    assert_steps_agree("acrobot", states, rng.integers(3, size=2000), changed=changed, atol=1e-11)


@unrounded()
@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("name", list(WORLDS))
def test_an_episode_stays_gymnasiums_to_the_end(name, changed):
    rng = np.random.default_rng(2)
    env, original, fields = pair(name, 1, changed=changed)
    original.state, original.steps_beyond_terminated = np.array([env.state[f][0] for f in fields]), None
    for t in range(500):
        if t % 25 == 0:  # what rounding has made of an unstable world is none of the port's business
            for field, value in zip(fields, original.state, strict=True):
                env.state[field][0] = value
        if name == "cartpole":  # a player that balances for long, and moves about
            action = int(original.state[2] + 0.5 * original.state[3] + 0.1 * original.state[1] > 0.01 * rng.normal())
        elif name in ("acrobot", "mountaincar"):
            action = int(rng.integers(3))
        else:
            action = rng.uniform(-3, 3, 1).astype(np.float32).astype(np.float64)
        _, reward, terminated, _, _ = env.step(np.array([action]))
        _, their_reward, their_terminated, _, _ = original.step(action)
        np.testing.assert_allclose([env.state[f][0] for f in fields], original.state, rtol=0, atol=1e-11)
        assert reward[0] == pytest.approx(their_reward, abs=1e-11)
        assert terminated[0] == their_terminated
        if their_terminated:
            break
