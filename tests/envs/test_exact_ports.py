"""CartPole and Pendulum against Gymnasium's own, one step at a time, from states put into both."""

import functools

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


def test_float32_pendulum_agrees_with_gymnasium_to_2e_6():
    _, (after, reward, terminated, _), (their_after, their_reward, _, _) = pendulum("float32")
    np.testing.assert_allclose(after, their_after, rtol=0, atol=2e-6)
    np.testing.assert_allclose(reward, their_reward, rtol=0, atol=2e-6)
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
