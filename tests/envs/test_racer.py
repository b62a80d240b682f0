"""Racer: the car against HighwayEnv's equations, rays against all walls, tracks by invariant, the reference by closed forms."""

import numpy as np
import pytest

import envs
from envs.engine.sim import SPLITS
from envs.racer import MIN_RADIUS, RAYS, SECTIONS
from envs.reference.measure import returns
from envs.reference.racer import centreline_returns, distance_in, radii, speed_profile

TEST = SPLITS["test"][0]


def tracks(ids, seed=0, precision="float64"):
    env = envs.make_vec("racer", len(ids), seed=seed, precision=precision, autoreset_mode="NextStep")
    env.reset(options={"level": np.asarray(ids)})
    return env


def walls(state):
    """Left and right walls, (N, SECTIONS, 2)."""
    return (np.stack([state[f"{side}_x"], state[f"{side}_y"]], axis=-1).astype(float) for side in ("left", "right"))


def driven(count, steps, seed=0, precision="float64"):
    """Cars that have been driven about by the baseline, with some noise, and then turned to any heading."""
    rng = np.random.default_rng(seed)
    env = tracks(TEST + np.arange(count), precision=precision)
    alive = np.ones(count, bool)
    for _ in range(steps):
        noise = rng.normal(0, 0.15, (count, 2)).astype(np.float32)
        env.state["ended"] = 0
        alive &= ~env.step(env.scripted_actions() + noise)[2]
    env.state["heading"] = rng.uniform(-np.pi, np.pi, count)
    return env, alive


# -- the car -----------------------------------------------------------------------------------------------------------


def on_a_plain(state, actions, grip):
    """One step of cars on a ring so wide that there is no wall in reach: (x, y, heading, speed) before and after."""
    n = len(state)
    env = envs.make_vec("racer", n, seed=0, precision="float64", params={"grip": grip}, autoreset_mode="NextStep")
    env.reset()
    angle = 2 * np.pi * np.arange(SECTIONS) / SECTIONS
    for side, radius in (("left", 500.0), ("right", 1500.0)):
        env.state[f"{side}_x"], env.state[f"{side}_y"] = radius * np.cos(angle), radius * np.sin(angle)
    env.state["half_width"], env.state["spacing"], env.state["section"] = 500.0, 2 * np.pi * 1000 / SECTIONS, 0
    for k, field in enumerate(("x", "y", "heading", "speed")):
        env.state[field] = state[:, k]
    _, _, terminated, _, _ = env.step(actions)
    assert not terminated.any()
    return np.stack([env.state[field] for field in ("x", "y", "heading", "speed")], axis=1)


def random_cars(n, seed=0):
    rng = np.random.default_rng(seed)
    state = rng.uniform([990, 5, -3, 0], [1010, 20, 3, 40], (n, 4))
    return state, rng.uniform(-1.2, 1.2, (n, 2)).astype(np.float32)


def test_without_a_limit_of_grip_the_car_is_highwayenvs():
    state, actions = random_cars(1000)
    mine = on_a_plain(state, actions, 1e9)
    x, y, heading, speed = state.T.copy()
    acceleration, steering = np.clip(actions.astype(float), -1, 1).T * [[5.0], [np.pi / 4]]
    for _ in range(3):  # Vehicle.step, with its clipping of the speed's sign and excess put on the speed itself
        beta = np.arctan(1 / 2 * np.tan(steering))
        x += speed * np.cos(heading + beta) / 15
        y += speed * np.sin(heading + beta) / 15
        heading += speed * np.sin(beta) / (5.0 / 2) / 15
        speed = np.clip(speed + acceleration / 15, 0, 40)
    heading = (heading + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(mine, np.stack([x, y, heading, speed], axis=1), rtol=0, atol=1e-11)


def test_tyres_hold_what_they_can_and_no_more():
    state, actions = random_cars(2000, seed=1)
    actions[:, 0] = 0.0
    turned = on_a_plain(state, actions, 8.0)[:, 2] - state[:, 2]
    turned = (turned + np.pi) % (2 * np.pi) - np.pi
    lateral = np.abs(turned) / 0.2 * state[:, 3]
    assert lateral.max() <= 8.0 + 1e-9
    free = on_a_plain(state, actions, 1e9)
    held = on_a_plain(state, actions, 8.0)
    asked = np.abs((free[:, 2] - state[:, 2] + np.pi) % (2 * np.pi) - np.pi) / 0.2 * state[:, 3]
    gentle = state[:, 3] ** 2 * np.sin(np.arctan(0.5 * np.tan(np.abs(actions[:, 1]) * np.pi / 4))) / 2.5 < 8.0
    np.testing.assert_array_equal(free[gentle], held[gentle])
    assert gentle.sum() > 300
    assert (asked[~gentle] > 7.9).sum() > 300


# -- the track ---------------------------------------------------------------------------------------------------------


def test_sections_are_equally_spaced_and_upright_on_a_road_of_one_width():
    env = tracks(np.arange(1000))
    left, right = walls(env.state)
    middle, across = (left + right) / 2, left - right
    steps = np.roll(middle, -1, axis=1) - middle
    spacing = np.linalg.norm(steps, axis=2) / env.state["spacing"][:, None]
    assert 0.99 < spacing.min() <= spacing.max() < 1.001  # chords of equal arcs
    np.testing.assert_allclose(np.linalg.norm(across, axis=2), 2 * env.state["half_width"][:, None] + 0 * spacing)
    along = np.roll(middle, -1, axis=1) - np.roll(middle, 1, axis=1)
    assert np.abs((along * across).sum(axis=2)).max() < 1e-9
    assert (along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0]).min() > 0  # left is on the left


def test_no_curve_is_tighter_than_the_page_says_and_no_road_meets_itself():
    env = tracks(np.arange(300))
    left, right = walls(env.state)
    for middle, spacing, half in zip((left + right) / 2, env.state["spacing"], env.state["half_width"], strict=True):
        assert radii(*middle.T).min() > 0.98 * MIN_RADIUS
        apart = np.abs(np.arange(SECTIONS)[:, None] - np.arange(SECTIONS))
        apart = np.minimum(apart, SECTIONS - apart) * spacing
        distance = np.linalg.norm(middle[:, None] - middle, axis=2)
        # Along the tightest curve, a half turn of 47 m, one comes 30 m; nowhere is the other side of the road nearer.
        assert distance[apart > 47].min() > 2 * half + 2
    lefts, rights = walls(env.state)
    for wall in (lefts, rights):  # both walls go forward everywhere: the quadrilaterals are convex
        ahead = np.roll(wall, -1, axis=1) - wall
        middle = (lefts + rights) / 2
        assert (ahead * (np.roll(middle, -1, axis=1) - middle)).sum(axis=2).min() > 0


def test_tracks_go_both_ways_round_and_differ():
    env = tracks(np.arange(1000))
    left, right = walls(env.state)
    middle = (left + right) / 2
    ahead = np.roll(middle, -1, axis=1)
    area = 0.5 * (middle[..., 0] * ahead[..., 1] - middle[..., 1] * ahead[..., 0]).sum(axis=1)
    assert 440 < (area > 0).sum() < 560
    assert np.unique(np.abs(area)).size == 1000


def test_a_track_is_a_function_of_its_level_and_no_split_repeats_one():
    ids = np.arange(40) + TEST
    one, other = tracks(ids, seed=1).state, tracks(ids[::-1], seed=2).state[::-1]
    for field in ("left_x", "left_y", "right_x", "right_y", "x", "y", "heading"):
        np.testing.assert_array_equal(one[field], other[field])
    scales = np.concatenate([tracks(first + np.arange(1000)).state["scale"] for first, _ in SPLITS.values()])
    assert np.unique(scales).size == 3000


def test_the_first_tracks_are_what_they_have_always_been():
    state = tracks([0, 1, 2]).state
    found = np.stack([state["scale"], state["half_width"], state["spacing"], state["left_x"][:, 100]], axis=1)
    np.testing.assert_allclose(found, GOLDEN, atol=1e-3, err_msg="levels changed: give Racer a new version")


GOLDEN = [[108.048, 5.7914, 2.82, -88.3829], [93.9637, 5.9516, 2.492, -73.6459], [88.9439, 5.7151, 2.3209, -75.7623]]


def test_float32_tracks_are_the_same_up_to_rounding():
    one, other = tracks(np.arange(200)).state, tracks(np.arange(200), precision="float32").state
    assert np.abs(one["left_x"] - other["left_x"]).max() < 1e-4
    assert np.abs(one["right_y"] - other["right_y"]).max() < 1e-4


# -- seeing ------------------------------------------------------------------------------------------------------------


def nearest_wall(state, angle):
    """Distance from each car to the nearest wall in a direction: every segment of both walls, by linear equations."""
    position = np.stack([state["x"], state["y"]], axis=1).astype(float)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    best = np.full(len(state), 60.0)
    for wall in walls(state):
        edge = np.roll(wall, -1, axis=1) - wall
        offset = wall - position[:, None]
        across = direction[:, None, 0] * edge[..., 1] - direction[:, None, 1] * edge[..., 0]
        t = (offset[..., 0] * edge[..., 1] - offset[..., 1] * edge[..., 0]) / across
        u = (offset[..., 0] * direction[:, None, 1] - offset[..., 1] * direction[:, None, 0]) / across
        hit = (t >= 0) & (u >= 0) & (u <= 1)
        best = np.minimum(best, np.where(hit, t, 60.0).min(axis=1))
    return best


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_rays_end_at_the_nearest_wall_of_the_whole_track(precision):
    env, alive = driven(250, 60, precision=precision)
    obs = env.observe()
    assert alive.sum() > 100
    for k in range(RAYS):
        expected = nearest_wall(env.state, env.state["heading"].astype(float) + np.radians(-90 + 12 * k))
        difference = np.abs(60 * obs[alive, k] - expected[alive])
        if precision == "float64":
            assert difference.max() < 1e-5  # the observation is float32
        else:  # a ray that grazes a wall hits it some way off
            assert np.quantile(difference, 0.95) < 1e-3
            assert np.sort(difference)[-3] < 0.1
    assert (obs[alive, :RAYS] < 1).mean() > 0.5


def test_the_rest_of_the_observation_by_hand():
    env = tracks([TEST])
    s = env.state
    k = int(s["section"][0])
    left, right = (np.array([s[f"{side}_x"][0], s[f"{side}_y"][0]]).T for side in ("left", "right"))
    forward = np.array([left[k] - right[k], left[k + 1] - right[k + 1]]).mean(axis=0) @ [[0, -1], [1, 0]]
    course = np.arctan2(forward[1], forward[0])
    quarter = right + 0.75 * (left - right)  # half way from the middle to the left wall
    s["x"][0], s["y"][0] = (quarter[k] + quarter[k + 1]) / 2
    s["heading"], s["speed"] = course + 0.3, 30.0
    obs = env.observe()[0]
    np.testing.assert_allclose(obs[16:20], [0.75, 0.5, np.sin(0.3), np.cos(0.3)], atol=1e-3)
    assert obs[0] * 60 == pytest.approx(1.5 * s["half_width"][0] / np.cos(0.3), rel=0.1)


def test_curves_are_seen_ahead():
    env = tracks(np.arange(500))
    left, right = walls(env.state)
    obs = env.observe()
    middle = (left + right) / 2
    for index, distance in ((20, 20.0), (21, 40.0)):
        expected = np.empty(500)
        for i, line in enumerate(middle):
            ahead = np.roll(line, -1, axis=0) - line
            turn = np.arctan2(ahead[:, 1], ahead[:, 0])
            k = int(distance / env.state["spacing"][i])
            turned = np.angle(np.exp(1j * (turn[k + 1] - turn[k - 1])))  # about the middle of section k and the next
            expected[i] = MIN_RADIUS * turned / (2 * env.state["spacing"][i])
        assert np.abs(obs[:, index] - expected).mean() < 0.02
        assert np.corrcoef(obs[:, index], expected)[0, 1] > 0.995


def test_the_mirror_image_of_a_track_is_seen_and_driven_in_mirror_image():
    env, alive = driven(200, 40, seed=3)
    other = tracks(TEST + np.arange(200))
    other.state[:] = env.state
    for axis, sign in (("x", 1), ("y", -1)):
        other.state[f"left_{axis}"] = sign * env.state[f"right_{axis}"]
        other.state[f"right_{axis}"] = sign * env.state[f"left_{axis}"]
        other.state[axis] = sign * env.state[axis]
    other.state["heading"] = -env.state["heading"]
    turn = np.array([1.0] * 17 + [-1, -1, 1, -1, -1])
    order = [*range(RAYS - 1, -1, -1), *range(RAYS, 22)]
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    for _ in range(2):
        np.testing.assert_allclose(other.observe()[alive][:, order] * turn, env.observe()[alive], atol=1e-6)
        one, two = env.step(actions), other.step(actions * np.float32([1, -1]))
        np.testing.assert_allclose(one[1][alive], two[1][alive], atol=1e-9)
        np.testing.assert_array_equal(one[2][alive], two[2][alive])
        alive &= ~one[2]


# -- progress and the road's edge --------------------------------------------------------------------------------------


def test_progress_adds_up_to_the_place_on_the_track():
    env = tracks(TEST + np.arange(100))
    earned = np.zeros(100)
    for t in range(299):
        _, reward, terminated, _, _ = env.step(env.scripted_actions())
        earned += reward
        assert not terminated.any()
        if t % 50 == 0:
            state = env.state
            left, right = walls(state)
            rows = np.arange(100)
            k, n = state["section"], (state["section"] + 1) % SECTIONS
            place = []
            for j in (k, n):  # distance to the line through a section, by its normal
                across = left[rows, j] - right[rows, j]
                normal = np.stack([across[:, 1], -across[:, 0]], axis=1) / np.linalg.norm(across, axis=1)[:, None]
                place.append(((np.stack([state["x"], state["y"]], axis=1) - right[rows, j]) * normal).sum(axis=1))
            assert (place[0] >= 0).all()
            assert (place[1] <= 0).all()
            sections = state["distance"] / state["spacing"]
            expected = k + place[0] / (place[0] - place[1])
            off = (sections - expected + SECTIONS / 2) % SECTIONS - SECTIONS / 2
            np.testing.assert_allclose(off, 0, atol=1e-8)
    np.testing.assert_allclose(earned, env.state["distance"] / 10, atol=1e-9)
    assert (env.state["distance"] > SECTIONS * env.state["spacing"]).mean() > 0.9  # more than one lap


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_road_ends_at_its_walls(side):
    env = tracks(TEST + np.arange(10))
    s = env.state
    left, right = walls(s)
    wall, middle = (left if side == "left" else right), (left + right) / 2
    out = (wall - middle)[:, 5] / s["half_width"][:, None]
    spot = (wall[:, 5] + wall[:, 6]) / 2
    s["heading"], s["section"] = np.arctan2(out[:, 1], out[:, 0]), 5  # straight at the wall
    for inside, terminates in ((1.5, False), (0.3, True)):  # 0.2 s at 4 m/s are 0.8 m
        s["speed"], s["ended"] = 4.0, 0
        s["x"], s["y"] = (spot - inside * out).T
        _, reward, terminated, _, _ = env.step(np.zeros((10, 2), np.float32))
        assert (terminated == terminates).all()
        assert (np.abs(reward + terminates) < 0.1).all()


def test_to_drive_backwards_costs_what_it_had_earned():
    env = tracks(TEST + np.arange(10))
    env.state["heading"] += np.pi
    _, reward, _, _, _ = env.step(np.zeros((10, 2), np.float32))
    np.testing.assert_allclose(reward, -0.2, atol=0.02)  # 0.2 s at 10 m/s
    assert (env.state["section"] > SECTIONS - 4).all()


# -- references --------------------------------------------------------------------------------------------------------


def test_the_fastest_drive_by_closed_forms():
    straight = speed_profile(np.full(100, np.inf), 10.0, 30)
    assert distance_in(60.0, straight, 10.0) == pytest.approx(10 * 6 + 2.5 * 36 + 40 * 54)  # 6 s to 40 m/s
    circle = speed_profile(np.full(100, 50.0), 3.0, 10)  # 20 m/s, after 2 s and 30 m
    assert distance_in(60.0, circle, 3.0) == pytest.approx(30 + 20 * 58, rel=1e-9)
    radius = np.full(100, np.inf)
    radius[50] = 12.5  # 10 m/s: braked off in time, and gained again
    profile = speed_profile(radius, 10.0, 1)
    assert profile[50] == 10
    assert profile[49] == pytest.approx(np.sqrt(200))
    assert profile[51] == pytest.approx(np.sqrt(200))
    assert profile[0] == 10


def test_the_fastest_drive_keeps_to_the_cars_limits_and_touches_them_everywhere():
    env = tracks([TEST])
    left, right = walls(env.state)
    radius, spacing = radii(*((left + right) / 2)[0].T), float(env.state["spacing"][0])
    v = speed_profile(radius, spacing, 2)
    grip, gain = v**2 / np.minimum(8 * np.append(np.tile(radius, 2), radius[0]), 1600), np.diff(v**2) / (2 * spacing)
    assert grip.max() <= 1 + 1e-12
    assert np.abs(gain).max() <= 5 + 1e-9
    at_limit = (grip[1:-1] > 1 - 1e-9) | (np.abs(gain[1:]) > 5 - 1e-9) | (np.abs(gain[:-1]) > 5 - 1e-9)
    assert at_limit.all()


def test_the_baseline_nearly_attains_the_fastest_drive():
    levels = TEST + np.arange(200)
    env = tracks(levels)
    for _ in range(300):
        env.step(env.scripted_actions())
    ratio = env.state["distance"] / 10 / centreline_returns(levels)
    assert 0.97 < ratio.mean() < 1.0
    assert ratio.max() < 1.03  # pure pursuit cuts corners a little


def test_references_are_what_is_measured():
    sim = envs.get_sim("racer")
    for policy in ("random", "scripted"):
        found = returns("racer", policy, 1000, seed=3)
        error = np.hypot(found.std(ddof=1) / np.sqrt(len(found)), sim.references[policy].error)
        assert abs(found.mean() - sim.references[policy].mean) < 4 * error
    best = centreline_returns(SPLITS["test"][0] + np.arange(1000))
    assert sim.references["optimal"].mean == pytest.approx(best.mean(), abs=0.005)


@pytest.mark.parametrize("damage", [{"section": -1}, {"section": 256}, {"spacing": 0.0}, {"half_width": -1.0}])
def test_a_damaged_snapshot_is_refused(damage):
    env = envs.make_vec("racer", 3, seed=0)
    env.reset()
    snapshot = env.get_state()
    for field, value in damage.items():
        snapshot["states"].view(env.state.dtype)[field][2] = value
    with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Racer"):
        env.set_state(snapshot)
