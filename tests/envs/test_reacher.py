"""Reacher against Lagrange's equations derived another way, by conservation and symmetry; its bound by trying to beat it."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

import envs
from envs.reference.measure import returns
from envs.reference.reacher import bounds, greatest_acceleration, mass_matrices, starts

FIELDS = ("shoulder", "elbow", "shoulder_dot", "elbow_dot", "target_x", "target_y")


def arms(states, **params):
    """float64 arms in these states; missing columns are 0."""
    states = np.asarray(states, np.float64)
    env = envs.make_vec("reacher", len(states), seed=0, precision="float64", params=params)
    env.reset()
    for k, field in enumerate(FIELDS):
        env.state[field] = states[:, k] if k < states.shape[1] else 0.0
    return env


def read(env):
    return np.stack([env.state[field] for field in FIELDS], axis=1)


def random_states(n, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (n, 6)) * [np.pi, np.pi, 4.0, 6.0, 0.6, 0.6]
    return states, rng.uniform(-1.3, 1.3, (n, 2)).astype(np.float32)


def tips(states):
    both = states[:, 0] + states[:, 1]
    return 0.5 * np.stack([np.cos(states[:, 0]) + np.cos(both), np.sin(states[:, 0]) + np.sin(both)], axis=1)


def energy(states):
    speeds = states[:, 2:4]
    return 0.5 * np.einsum("ni,nij,nj->n", speeds, mass_matrices(states[:, 1]), speeds)


def lagrange(t, y, torque, damping):
    """M q'' + M' q' - d/dq (q' M q' / 2) = torque - damping q', from the mass matrix of envs/reference/reacher.py alone."""
    elbow, speed, e = y[1], y[2:], 1e-5
    mass = mass_matrices(np.array([elbow - e, elbow, elbow + e]))
    slope = (mass[2] - mass[0]) / (2 * e)  # the matrix depends on the elbow only
    forces = torque - damping * speed - speed[1] * slope @ speed + [0.0, 0.5 * speed @ slope @ speed]
    return [*speed, *np.linalg.solve(mass[1], forces)]


def test_a_step_agrees_with_lagranges_equations():
    states, actions = random_states(150)
    env = arms(states)
    env.step(actions)
    torque = np.clip(actions.astype(float), -1, 1)
    for x, u, mine in zip(states, torque, read(env), strict=True):
        exact = solve_ivp(lagrange, (0, 0.04), x[:4], args=(u, 0.1), rtol=1e-11, atol=1e-12).y[:, -1]
        exact[:2] = (exact[:2] + np.pi) % (2 * np.pi) - np.pi
        # At 6 rad/s the elbow turns by 0.06 in a substep: Runge-Kutta's error is of the fifth power of that.
        np.testing.assert_allclose(mine[:4], exact, rtol=0, atol=5e-5)


def test_the_error_of_a_step_is_of_the_fourth_order():
    states, _ = random_states(100, seed=1)
    coarse = np.array(
        [solve_ivp(lagrange, (0, 0.4), x[:4], args=(0.0, 0.1), rtol=1e-11, atol=1e-12).y[2:, -1] for x in states]
    )
    errors = []
    for scale in (1.0, 0.5):  # half the speed is half the step: time is a matter of units, but for the damping
        env = arms(states * [1, 1, scale, scale, 1, 1], damping=0.1 * scale)
        for _ in range(round(10 / scale)):
            env.step(np.zeros((100, 2), np.float32))
        errors.append(np.abs(read(env)[:, 2:4] / scale - coarse).max())
    assert 8 < errors[0] / errors[1] < 40


def test_without_damping_and_torque_energy_is_kept():
    states, _ = random_states(200)
    states[:, 2:4] *= 0.5
    env = arms(states, damping=0.0)
    before = energy(states)
    momentum = np.einsum("nij,nj->ni", mass_matrices(states[:, 1]), states[:, 2:4])[:, 0]
    for _ in range(199):  # 8 s
        env.step(np.zeros((200, 2), np.float32))
    after = read(env)
    drift = np.abs(energy(after) - before)
    assert drift.max() < 1e-4
    assert np.median(drift) < 1e-6
    # The plane is the same in all directions: the angular momentum about the shoulder is kept, too.
    kept = np.einsum("nij,nj->ni", mass_matrices(after[:, 1]), after[:, 2:4])[:, 0]
    np.testing.assert_allclose(kept, momentum, rtol=0, atol=1e-4)
    assert np.abs(after[:, 1] - states[:, 1]).max() > 1  # they moved


def test_damping_takes_energy_and_torque_gives_what_it_works():
    states, actions = random_states(500, seed=2)
    env = arms(states)
    env.step(np.zeros((500, 2), np.float32))
    assert (energy(read(env)) < energy(states)).all()
    env = arms(states * [1, 1, 1, 1, 0, 0], damping=0.0)
    env.step(actions)
    turned = read(env)[:, :2] - states[:, :2]
    turned = (turned + np.pi) % (2 * np.pi) - np.pi
    work = (np.clip(actions.astype(float), -1, 1) * turned).sum(axis=1)
    np.testing.assert_allclose(energy(read(env)) - energy(states), work, rtol=0, atol=1e-5)


def test_the_mass_matrix_is_positive_definite_and_known_where_the_arm_is_straight():
    mass = mass_matrices(np.linspace(-np.pi, np.pi, 1001))
    assert np.linalg.eigvalsh(mass).min() > 0.016
    np.testing.assert_array_equal(mass, np.swapaxes(mass, 1, 2))
    straight = mass_matrices(np.zeros(1))[0]  # a rod of 2 kg and 1 m, and one of 1 kg and 0.5 m: m l^2 / 3
    assert straight[0, 0] == pytest.approx(2 / 3)
    assert straight[1, 1] == pytest.approx(0.25 / 3)


def test_the_world_is_the_same_in_the_mirror_and_when_turned():
    states, actions = random_states(300, seed=3)
    one, other = arms(states), arms(states * [-1, -1, -1, -1, 1, -1])
    turned = states.copy()
    turned[:, 0] += 1.0
    c, s = math.cos(1.0), math.sin(1.0)
    turned[:, 4:] = states[:, 4:] @ [[c, s], [-s, c]]
    third = arms(turned)
    sign = np.array([1, -1, 1, -1, -1, -1, 1, -1, 1, -1])
    for _ in range(10):
        a, b, d = one.step(actions), other.step(-actions), third.step(actions)
        np.testing.assert_allclose(b[0] * sign, a[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(b[1], a[1], rtol=0, atol=1e-11)
        np.testing.assert_allclose(d[1], a[1], rtol=0, atol=1e-11)


def test_reward_and_observation_by_hand():
    env = arms([[0.0, np.pi / 2, 0.0, 0.0, 0.2, 0.1]])  # the tip is at (0.5, 0.5)
    np.testing.assert_allclose(env.observe()[0], [1, 0, 0, 1, 0, 0, 0.2, 0.1, 0.3, 0.4], atol=1e-7)
    assert env.step(np.zeros((1, 2), np.float32))[1][0] == pytest.approx(-0.5)
    env = arms([[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]])
    reward = env.step(np.array([[0.5, -9.0]], np.float32))[1][0]
    moved = np.linalg.norm(tips(read(env))[0] - [1.0, 0.0])
    assert reward == pytest.approx(-moved - 0.01 * (0.25 + 1))
    assert moved > 1e-4


def test_angles_stay_within_a_turn():
    env = arms([[3.13, -3.13, 5.0, -5.0, 0.5, 0.0]])
    for _ in range(50):
        env.step(np.ones((1, 2), np.float32))
        assert (np.abs(read(env)[:, :2]) <= np.pi).all()


def test_targets_are_uniform_on_their_ring():
    env = envs.make_vec("reacher", 20_000, seed=0, precision="float64")
    env.reset()
    x, y = env.state["target_x"], env.state["target_y"]
    square = (x**2 + y**2 - 0.1**2) / (0.95**2 - 0.1**2)
    assert stats.kstest(square, "uniform").pvalue > 0.01
    assert stats.kstest(np.arctan2(y, x), "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 0.01
    assert stats.kstest(env.state["elbow"], "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 0.01


def test_the_baseline_brings_every_arm_to_its_target():
    env = envs.make_vec("reacher", 500, seed=0, precision="float64", max_episode_steps=1000)
    env.reset()
    for _ in range(199):
        obs = env.step(env.scripted_actions())[0]
    distance = np.hypot(obs[:, 8], obs[:, 9])
    assert (distance < 0.02).mean() > 0.98
    assert np.median(distance) < 1e-4


def test_nothing_beats_the_bound():
    rng = np.random.default_rng(0)
    env = envs.make_vec("reacher", 2000, seed=0, precision="float64")
    env.reset()
    start, first = tips(read(env)), read(env)
    distance = np.linalg.norm(start - first[:, 4:], axis=1)
    bound, earned, fastest = bounds(distance), np.zeros(2000), 0.0
    push = rng.choice([-1.0, 1.0], (2000, 2)).astype(np.float32)
    pushed = arms(first)
    for t in range(1, 199):
        earned += env.step(env.scripted_actions())[1]
        pushed.step(push)
        come = np.linalg.norm(tips(read(pushed)) - start, axis=1)
        fastest = max(fastest, (come / (0.5 * (0.04 * t) ** 2)).max())
    assert (earned < bound).all()
    assert 0.5 * greatest_acceleration() < fastest < greatest_acceleration()  # the bound is of the right size


def test_references_are_what_is_measured():
    references = envs.get_sim("reacher").references
    for policy in ("random", "scripted"):
        found = returns("reacher", policy, 2000, seed=3)
        error = np.hypot(found.std(ddof=1) / np.sqrt(len(found)), references[policy].error)
        assert abs(found.mean() - references[policy].mean) < 4 * error
    found = bounds(starts(100_000, seed=1))
    assert abs(found.mean() - references["optimal"].mean) < 4 * found.std() / np.sqrt(len(found)) + 0.005
    env = envs.make_vec("reacher", 20_000, seed=0)
    obs, _ = env.reset()  # the starts of the bound are those of the sim
    assert stats.ks_2samp(np.hypot(obs[:, 8], obs[:, 9]), starts(20_000)).pvalue > 0.01
