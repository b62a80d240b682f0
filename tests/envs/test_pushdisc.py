"""PushDisc: the exact push against a thousand small ones, by hand, by symmetry; and a bound that nobody beats."""

import numpy as np
import pytest

import envs
from envs.pushdisc import DISC, FINGER, REACH
from envs.reference.measure import returns
from envs.reference.pushdisc import bounds, starts

FIELDS = ("finger_x", "finger_y", "disc_x", "disc_y", "target_x", "target_y")


def tables(states, **options):
    states = np.asarray(states, np.float64)
    env = envs.make_vec("pushdisc", len(states), seed=0, precision="float64", autoreset_mode="NextStep", **options)
    env.reset()
    for k, field in enumerate(FIELDS):
        env.state[field] = states[:, k]
    return env


def read(env):
    return np.stack([env.state[field] for field in FIELDS], axis=1)


def frames(env):
    """The unit vectors (N, 2, 2) of the frame that actions are given in: from disc to target, and to the left of that."""
    s = read(env)
    along = s[:, 4:6] - s[:, 2:4]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return np.stack([along, along @ [[0.0, 1.0], [-1.0, 0.0]]], axis=1)


def go(env, velocities):
    """A step with the finger's velocities (N, 2) in x and y, times the speed."""
    return env.step(np.einsum("nij,nj->ni", frames(env), velocities).astype(np.float32))


def near_contact(n, seed=0):
    """Fingers about a disc near the table's middle, from touching it to a step away, and unit actions in all directions."""
    rng = np.random.default_rng(seed)
    angle, course = rng.uniform(-np.pi, np.pi, (2, n))
    disc, target = rng.uniform(-0.3, 0.3, (n, 2)), rng.uniform(-0.7, 0.7, (n, 2))
    away = REACH + np.where(rng.random(n) < 0.3, 0.0, rng.uniform(0, 0.05, n))
    finger = disc + (away * [np.cos(angle), np.sin(angle)]).T
    actions = np.stack([np.cos(course), np.sin(course)], axis=1)
    return np.concatenate([finger, disc, target], axis=1), actions


def pushed_bit_by_bit(states, actions, way=0.05, bits=5000):
    """The finger in small steps; after each, a disc that it has run into is moved out, straight away from it."""
    finger, disc = states[:, 0:2].copy(), states[:, 2:4].copy()
    course = actions / np.linalg.norm(actions, axis=1)[:, None]
    for _ in range(bits):
        finger += way / bits * course
        to = disc - finger
        distance = np.linalg.norm(to, axis=1)[:, None]
        disc = np.where(distance < REACH, finger + REACH * to / distance, disc)
    return finger, disc


def test_a_push_is_the_limit_of_small_pushes():
    states, actions = near_contact(2000)
    env = tables(states, params={"speed": 1.0})
    go(env, actions)
    finger, disc = pushed_bit_by_bit(states, actions)
    after = read(env)
    np.testing.assert_allclose(after[:, :2], finger, rtol=0, atol=1e-7)
    np.testing.assert_allclose(after[:, 2:4], disc, rtol=0, atol=1e-4)  # small pushes err by half of one of 1e-5 each
    moved = np.abs(after[:, 2:4] - states[:, 2:4]).max(axis=1)
    assert (moved > 0.01).sum() > 400
    assert (moved == 0).sum() > 400


def test_the_disc_is_left_behind_as_in_the_limit():
    """From 60 to 89 degrees off the course, where most discs are passed within a step of 0.2 m."""
    rng = np.random.default_rng(1)
    off = np.radians(rng.uniform(60, 89, 300)) * rng.choice([-1, 1], 300)
    states = np.zeros((300, 6))
    states[:, 2:4] = REACH * np.stack([np.cos(off), np.sin(off)], axis=1)
    states[:, 4:6] = states[:, 2:4] + [0.5, 0]  # so that along is x
    actions = np.tile([1.0, 0.0], (300, 1))
    env = tables(states, params={"speed": 4.0})
    go(env, actions)
    after, (_, disc) = read(env), pushed_bit_by_bit(states, actions, way=0.2, bits=20_000)
    np.testing.assert_allclose(after[:, 2:4], disc, rtol=0, atol=2e-4)
    passed = after[:, 0] > after[:, 2] + 1e-3
    assert passed.sum() > 100
    # It lies where phi was 90 degrees: REACH to the side of the finger's course.
    np.testing.assert_allclose(np.abs(after[passed, 3]), REACH, atol=1e-12)


def test_one_step_is_two_of_half_the_speed():
    states, actions = near_contact(2000, seed=2)
    whole, halves = tables(states, params={"speed": 1.0}), tables(states, params={"speed": 0.5})
    go(whole, actions)
    go(halves, actions)
    halves.state["ended"] = 0
    go(halves, actions)
    np.testing.assert_allclose(read(whole), read(halves), rtol=0, atol=1e-7)  # actions are float32


def test_pushes_by_hand():
    def push(disc, action=(1.0, 0.0)):
        env = tables([[0.0, 0.0, *disc, disc[0] + 0.7, disc[1]]])  # along is x, across is y
        env.step(np.array([action], np.float32))
        return read(env)[0, :4]

    np.testing.assert_allclose(push((REACH, 0.0)), [0.05, 0, REACH + 0.05, 0], atol=1e-12)  # through the middle
    np.testing.assert_allclose(push((REACH + 0.02, 0.0)), [0.05, 0, REACH + 0.05, 0], atol=1e-12)
    np.testing.assert_allclose(push((REACH + 0.06, 0.0)), [0.05, 0, REACH + 0.06, 0], atol=1e-12)  # not reached
    np.testing.assert_allclose(push((-REACH, 0.0)), [0.05, 0, -REACH, 0], atol=1e-12)  # behind
    np.testing.assert_allclose(push((0.0, REACH)), [0.05, 0, 0, REACH], atol=1e-12)  # at the side
    np.testing.assert_allclose(push((REACH, 0.0), (3.0, 4.0))[:2], [0.03, 0.04], atol=1e-7)  # 5 is shortened to 1
    np.testing.assert_allclose(push((0.5, 0.5), (0.3, 0.4))[:2], [0.015, 0.02], atol=1e-7)
    # 30 degrees off: tan(phi / 2) = tan(15 degrees) * exp(0.05 / 0.13) = 0.26795 * 1.46901 = 0.39362, phi = 42.968 degrees
    x, y = push((REACH * np.cos(np.pi / 6), REACH * np.sin(np.pi / 6)))[2:]
    assert (x, y) == pytest.approx(
        (0.05 + 0.13 * np.cos(np.radians(42.968)), 0.13 * np.sin(np.radians(42.968))), abs=1e-5
    )


def test_the_frame_by_hand():
    # From the disc the target lies in the direction (0.6, 0.8), whose left is (-0.8, 0.6); the finger at (-0.1, 0.2) of it.
    state = [0.0, 0.3, 0.1, 0.1, 0.4, 0.5]
    env = tables([state])
    along, across = -0.1 * 0.6 + 0.2 * 0.8, 0.1 * 0.8 + 0.2 * 0.6
    expected = [along, across, 0.05**0.5, 0.5, 0.6, 0.8, 0.0, 0.3, 0.1, 0.1]
    np.testing.assert_allclose(env.observe()[0], expected, atol=1e-7)
    np.testing.assert_allclose(frames(env)[0], [[0.6, 0.8], [-0.8, 0.6]], atol=1e-12)
    for action, way in (((1, 0), (0.03, 0.04)), ((0, 1), (-0.04, 0.03)), ((0, -0.5), (0.02, -0.015))):
        env = tables([state])
        env.step(np.array([action], np.float32))
        np.testing.assert_allclose(read(env)[0, :2], [way[0], 0.3 + way[1]], atol=1e-7)


def test_finger_and_disc_never_overlap_and_an_untouched_disc_lies_still():
    env = envs.make_vec("pushdisc", 300, seed=0, precision="float64")
    env.reset()
    rng = np.random.default_rng(0)
    touched = 0
    for t in range(300):
        before = read(env)
        chase = (env.state["disc_x"] - env.state["finger_x"], env.state["disc_y"] - env.state["finger_y"])
        actions = np.stack(chase, axis=1) * 5 * (t % 3 > 0) + rng.normal(0, 0.7, (300, 2))
        _, _, terminated, truncated, _ = go(env, actions)
        after, same = read(env), ~(terminated | truncated)
        distance = np.hypot(*(after[:, 2:4] - after[:, 0:2]).T)
        assert distance.min() >= REACH - 1e-12
        moved = same & (after[:, 2:4] != before[:, 2:4]).any(axis=1)
        # The nearest point of the finger's way to where the disc was:
        way = after[:, :2] - before[:, :2]
        share = ((before[:, 2:4] - before[:, :2]) * way).sum(axis=1) / np.maximum((way**2).sum(axis=1), 1e-18)
        nearest = before[:, :2] + np.clip(share, 0, 1)[:, None] * way
        reached = np.hypot(*(before[:, 2:4] - nearest).T) < REACH + 1e-9
        assert not (moved & ~reached).any()
        pushed = after[:, 2:4] - before[:, 2:4]
        assert (np.hypot(*pushed.T)[moved] <= np.hypot(*way.T)[moved] + 1e-12).all()  # no faster than the finger
        assert (np.abs(after[:, :2]) <= 1 + 1e-12).all()
        touched += moved.sum()
    assert touched > 2000
    assert pytest.approx(REACH) == FINGER + DISC


def test_the_table_is_the_same_in_the_mirror_and_from_each_of_its_sides():
    states, actions = near_contact(1000, seed=3)
    base = tables(states)
    _, reward, terminated, _, _ = go(base, actions)
    turn, mirror = np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -1.0]])
    for change, is_mirrored in ((turn, False), (mirror, True), (turn @ mirror, True)):
        left = np.array([1.0, -1.0 if is_mirrored else 1.0])  # turned, all is the same; mirrored, left is right
        env = tables((states.reshape(-1, 3, 2) @ change).reshape(-1, 6))
        np.testing.assert_allclose(env.scripted_actions(), tables(states).scripted_actions() * left, rtol=0, atol=1e-6)
        obs = tables(states).observe()
        np.testing.assert_allclose(env.observe()[:, :4], obs[:, :4] * [*left, 1, 1], rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            env.observe()[:, 4:].reshape(-1, 3, 2), obs[:, 4:].reshape(-1, 3, 2) @ change, rtol=0, atol=1e-6
        )
        other = go(env, actions @ change)
        np.testing.assert_allclose(other[1], reward, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(other[2], terminated)
        np.testing.assert_allclose(
            read(env).reshape(-1, 3, 2), read(base).reshape(-1, 3, 2) @ change, rtol=0, atol=1e-7
        )


def test_rewards_by_hand():
    def step(finger, disc, target, action=(1.0, 0.0)):
        env = tables([[*finger, *disc, *target]])
        _, reward, terminated, _, _ = go(env, np.array([action]))
        return pytest.approx(reward[0], abs=1e-6), bool(terminated[0])

    assert step((0, 0), (0.5, 0), (0, 0.5)) == (0.05 - 0.05, False)  # nearer to the disc
    assert step((0, 0), (0.5, 0), (0, 0.5), (-1.0, 0.0)) == (-0.05 - 0.05, False)
    assert step((0, 0), (REACH, 0), (0.6, 0)) == (0.5 - 0.05, False)  # the disc nearer to the target
    assert step((0, 0), (REACH, 0), (-0.6, 0)) == (-0.5 - 0.05, False)
    assert step((0, 0), (REACH, 0), (REACH + 0.07, 0)) == (0.5 - 0.05 + 10, True)  # 2 cm off
    assert step((0, 0), (REACH, 0), (REACH + 0.09, 0)) == (0.5 - 0.05, False)  # 4 cm off
    assert step((0.84, 0), (0.84 + REACH, 0), (0, 0)) == (-0.5 - 0.05 - 10, True)  # 1.02: off the table
    assert step((1, 0), (0.5, 0.5), (0, 0)) == (-0.05, False)  # at the edge, nothing moves


def test_episodes_begin_as_the_page_says():
    env = envs.make_vec("pushdisc", 20_000, seed=0, precision="float64")
    env.reset()
    s = read(env)
    assert np.hypot(*(s[:, 2:4] - s[:, 4:6]).T).min() >= 0.2
    assert np.hypot(*(s[:, 2:4] - s[:, 0:2]).T).min() >= 0.2
    assert 0.69 < np.abs(s[:, 2:]).max() <= 0.7
    assert 0.99 < np.abs(s[:, :2]).max() <= 1.0
    assert np.abs(s.mean(axis=0)).max() < 0.02


def test_the_baseline_brings_every_disc_to_its_target_and_nobody_beats_the_bound():
    env = envs.make_vec("pushdisc", 1000, seed=0, precision="float64", autoreset_mode="NextStep")
    env.reset()
    s = read(env)
    bound = bounds(np.hypot(*(s[:, 4:6] - s[:, 2:4]).T), np.hypot(*(s[:, 2:4] - s[:, 0:2]).T))
    earned, running = np.zeros(1000), np.ones(1000, bool)
    for _ in range(200):
        _, reward, terminated, _, _ = env.step(env.scripted_actions())
        earned += reward * running
        running &= ~terminated
    assert not running.any()
    assert (earned <= bound + 1e-9).all()
    # A finger that stands behind the disc already, on the line to the target, nearly attains it: but for the disc's rest
    # of 3 cm, and the slow last step.
    env = tables([[-0.5, 0.0, -0.5 + REACH, 0.0, 0.6, 0.0]])
    total = 0.0
    for _ in range(30):
        _, reward, terminated, _, _ = env.step(env.scripted_actions())
        total += reward[0]
        if terminated[0]:
            break
    assert 0 <= bounds(np.array([1.1 - REACH]), np.array([REACH]))[0] - total < 0.35


def test_references_are_what_is_measured():
    references = envs.get_sim("pushdisc").references
    for policy in ("random", "scripted"):
        found = returns("pushdisc", policy, 2000, seed=3)
        error = np.hypot(found.std(ddof=1) / np.sqrt(len(found)), references[policy].error)
        assert abs(found.mean() - references[policy].mean) < 4 * error
    found = bounds(*starts(100_000, seed=1))
    assert abs(found.mean() - references["optimal"].mean) < 4 * found.std() / np.sqrt(len(found)) + 0.005
