"""CartPole and Pendulum against Gymnasium's own, one step at a time, from states put into both."""

import functools
import math

import gymnasium
import numpy as np
import pytest

import envs

N = 100_000
CARTPOLE = ("x", "x_dot", "theta", "theta_dot")
PENDULUM = ("theta", "theta_dot")


def step_ours(name, precision, fields, states, actions):
    """One step of every env from `states`: the states as they were put in (after rounding), then what came of them."""
    env = envs.make_vec(name, N, seed=0, precision=precision, autoreset_mode="NextStep")
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
    after, reward, terminated, obs = np.empty_like(states), np.empty(N), np.empty(N, bool), []
    for i in range(N):
        env.state = states[i].copy()
        env.steps_beyond_terminated = None  # CartPole's memory of an episode that ended
        o, reward[i], terminated[i], _, _ = env.step(actions[i])
        after[i] = env.state
        obs.append(o)
    return after, reward, terminated, np.array(obs)


@functools.cache
def cartpole(precision):
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (N, 4)) * [2.6, 4.0, 0.24, 4.0]  # a good part of them beyond the limits 2.4 and 0.2095
    actions = rng.integers(2, size=N)
    before, *ours = step_ours("cartpole", precision, CARTPOLE, states, actions)
    return before, ours, step_gymnasium("CartPole-v1", before, actions)


@functools.cache
def pendulum(precision):
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (N, 2)) * [4 * np.pi, 8.0]
    actions = rng.uniform(-2.5, 2.5, (N, 1)).astype(np.float32)  # some to be clipped
    before, *ours = step_ours("pendulum", precision, PENDULUM, states, actions)
    # Gymnasium squares the torque in the action's own width: float64 here, of the same torques.
    return before, ours, step_gymnasium("Pendulum-v1", before, actions.astype(np.float64))


@pytest.mark.parametrize("port", [cartpole, pendulum])
def test_float64_port_agrees_with_gymnasium_to_1e_12(port):
    _, (after, reward, terminated, obs), (their_after, their_reward, their_terminated, their_obs) = port("float64")
    np.testing.assert_allclose(after, their_after, rtol=0, atol=1e-12)
    np.testing.assert_allclose(reward, their_reward, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(terminated, their_terminated)
    np.testing.assert_allclose(obs, their_obs, rtol=0, atol=1e-6)  # both are rounded to float32


def test_float32_cartpole_agrees_with_gymnasium_to_1e_6():
    _, (after, reward, terminated, _), (their_after, their_reward, their_terminated, _) = cartpole("float32")
    np.testing.assert_allclose(after, their_after, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(reward, their_reward)
    limits = np.array([2.4, 12 * 2 * np.pi / 360])
    near = (np.abs(np.abs(their_after[:, [0, 2]]) - limits) < 1e-6).any(axis=1)
    np.testing.assert_array_equal(terminated[~near], their_terminated[~near])
    assert near.sum() < 10
    assert 0.1 < their_terminated.mean() < 0.9  # the flag was put to the test


def test_float32_pendulum_agrees_with_gymnasium_to_4e_6():
    _, (after, reward, terminated, _), (their_after, their_reward, _, _) = pendulum("float32")
    np.testing.assert_allclose(after, their_after, rtol=0, atol=4e-6)
    np.testing.assert_allclose(reward, their_reward, rtol=0, atol=4e-6)
    assert not terminated.any()


@pytest.mark.parametrize(("name", "id"), [("cartpole", "CartPole-v1"), ("pendulum", "Pendulum-v1")])
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
}


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
        zip(states, actions.astype(np.float64 if name == "pendulum" else int), strict=True)
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


@pytest.mark.parametrize("changed", [False, True])
def test_extreme_states_and_other_parameters_agree(changed):
    rng = np.random.default_rng(1)
    states = rng.uniform(-1, 1, (2000, 4)) * [1e3, 100.0, 1e3, 50.0]
    states[:1000] *= [1e-3, 1e-2, 1e-3, 1e-1]  # half of them near the upright, where some go on
    assert_steps_agree("cartpole", states, rng.integers(2, size=2000), changed=changed)
    states = rng.uniform(-1, 1, (2000, 2)) * [500.0, 100.0]
    assert_steps_agree("pendulum", states, rng.uniform(-5, 5, (2000, 1)).astype(np.float32), changed=changed)


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
        else:
            action = rng.uniform(-3, 3, 1).astype(np.float32).astype(np.float64)
        _, reward, terminated, _, _ = env.step(np.array([action]))
        _, their_reward, their_terminated, _, _ = original.step(action)
        np.testing.assert_allclose([env.state[f][0] for f in fields], original.state, rtol=0, atol=1e-11)
        assert reward[0] == pytest.approx(their_reward, abs=1e-11)
        assert terminated[0] == their_terminated
        if their_terminated:
            break
