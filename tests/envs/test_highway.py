"""Highway against a second writing-down of HighwayEnv's controllers and the IDM, by equilibrium, by symmetry and by hand."""

import numpy as np
import pytest

import envs
from envs.highway import CARS, LANES, LENGTH, PER_LANE, RING, SEEN, SUBSTEPS
from envs.reference.highway import free_road_return
from envs.reference.measure import returns

LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
EGO = ("x", "y", "heading", "speed", "target_lane", "target_speed")
TRAFFIC = ("car_x", "car_speed", "desired")


def roads(n, seed=0, **options):
    env = envs.make_vec("highway", n, seed=seed, precision="float64", **options)
    env.reset()
    return env


def driven(n, steps, seed=0):
    """Roads after some steps of random actions; those that have crashed have begun again."""
    env = roads(n, seed)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        env.step(rng.integers(5, size=n))
    return env


# -- the world, once more ----------------------------------------------------------------------------------------------


def idm(v, v0, d, v_ahead):
    gap = 10 + np.maximum(0, 1.5 * v + v * (v - v_ahead) / (2 * np.sqrt(3 * 5)))
    return np.clip(3 * (1 - (v / v0) ** 4) - 3 * (gap / np.maximum(d, 0.01)) ** 2, -6, 6)


def steering_control(y, heading, speed, lane):
    """ControlledVehicle.steering_control of HighwayEnv, on a straight lane."""
    lateral_speed_command = -1 / 0.6 * (y - 4 * lane)
    heading_command = np.arcsin(np.clip(lateral_speed_command / speed, -1, 1))
    heading_ref = np.clip(heading_command, -np.pi / 4, np.pi / 4)
    heading_rate_command = 1 / 0.2 * (heading_ref - heading)
    slip_angle = np.arcsin(np.clip(5.0 / 2 / speed * heading_rate_command, -1, 1))
    return np.clip(np.arctan(2 * np.tan(slip_angle)), -np.pi / 3, np.pi / 3)


def second_of_the_world(s, action):
    """One step of one road, a dict of its state; returns whether there was a collision."""
    s["target_lane"] = int(np.clip(s["target_lane"] + {LEFT: -1, RIGHT: 1}.get(action, 0), 0, 3))
    if action in (FASTER, SLOWER):
        index = int(np.clip(np.floor((s["speed"] - 15) / 5 + 0.5), -9, 9)) + (1 if action == FASTER else -1)
        s["target_speed"] = int(np.clip(index, 0, 3))
    lanes = np.arange(20) // 5
    for _ in range(15):
        ahead = (s["car_x"][None] - s["car_x"][:, None]) % 600
        ahead[(lanes[None] != lanes[:, None]) | np.eye(20, dtype=bool)] = np.inf
        leader, distance = ahead.argmin(axis=1), ahead.min(axis=1)
        v_ahead, to_ego = s["car_speed"][leader], (s["x"] - s["car_x"]) % 600
        cut_in = (np.abs(s["y"] - 4 * lanes) <= 3) & (to_ego < distance)
        distance = np.where(cut_in, to_ego, distance)
        v_ahead = np.where(cut_in, s["speed"] * np.cos(s["heading"]), v_ahead)
        acceleration = idm(s["car_speed"], s["desired"], distance, v_ahead)
        beta = np.arctan(1 / 2 * np.tan(steering_control(s["y"], s["heading"], s["speed"], s["target_lane"])))
        own = 1 / 0.6 * (15 + 5 * s["target_speed"] - s["speed"])
        s["x"] = (s["x"] + s["speed"] * np.cos(s["heading"] + beta) / 15) % 600
        s["y"] += s["speed"] * np.sin(s["heading"] + beta) / 15
        s["heading"] += s["speed"] * np.sin(beta) / 2.5 / 15
        s["speed"] += own / 15
        s["car_x"] = (s["car_x"] + s["car_speed"] / 15) % 600
        s["car_speed"] = np.maximum(s["car_speed"] + acceleration / 15, 0)
        apart = np.abs((s["car_x"] - s["x"] + 300) % 600 - 300)
        if ((apart < 5) & (np.abs(s["y"] - 4 * lanes) < 2)).any():
            return True
    return False


def test_a_step_is_that_of_the_world_written_down_twice():
    env = driven(300, 7)
    before = env.state.copy()
    actions = np.random.default_rng(1).integers(5, size=300)
    env.observe()
    after = roads(300, autoreset_mode="NextStep")
    after.state[:] = before
    _, reward, terminated, _, _ = after.step(actions)
    for i in range(300):
        s = {name: before[name][i].copy() for name in (*EGO, *TRAFFIC)}
        crashed = second_of_the_world(s, int(actions[i]))
        assert crashed == terminated[i]
        for name in (*EGO, *TRAFFIC):
            np.testing.assert_allclose(after.state[name][i], s[name], rtol=0, atol=1e-9, err_msg=name)
        earned = np.clip((s["speed"] * np.cos(s["heading"]) - 20) / 10, 0, 1) - 10 * crashed
        assert reward[i] == pytest.approx(earned, abs=1e-10)
    assert terminated.sum() > 3


def test_traffic_settles_at_the_idms_equilibrium():
    env = roads(1, max_episode_steps=10_000)
    s = env.state
    s["desired"], s["y"], s["target_lane"] = 22.0, 40.0, 0  # this car is off the road: nobody sees it
    for _ in range(2000):
        s["y"], s["heading"] = 40.0, 0.0
        env.step(np.array([IDLE]))
    v = s["car_speed"][0]
    np.testing.assert_allclose(v, v[0], atol=1e-3)
    # Where nobody accelerates: 1 - (v / 22)^4 = ((10 + 1.5 v) / 120)^2, cars being 120 m apart.
    assert 1 - (v[0] / 22) ** 4 == pytest.approx(((10 + 1.5 * v[0]) / 120) ** 2, abs=1e-4)
    assert 20 < v[0] < 22


def test_cars_of_a_lane_keep_their_order_and_their_distance():
    env = roads(200)
    for _ in range(39):
        env.step(np.full(200, IDLE))
        x = env.state["car_x"].reshape(200, LANES, PER_LANE)
        gaps = (np.roll(x, -1, axis=2) - x) % RING
        np.testing.assert_allclose(gaps.sum(axis=2), RING)  # once round: the order is kept
        assert gaps.min() > LENGTH
        env.observe()  # and `valid` agrees


# -- driving by hand ---------------------------------------------------------------------------------------------------


def empty_road(lane, speed=25.0, target_speed=2, steps=1, action=IDLE):
    """Somebody on a road whose other cars are far ahead and fast."""
    env = roads(1, autoreset_mode="NextStep")
    s = env.state
    s["car_x"] = np.tile(200.0 + 20.0 * np.arange(PER_LANE), LANES)
    s["car_speed"] = s["desired"] = 35.0
    s["x"], s["y"], s["target_lane"], s["speed"], s["target_speed"] = 0.0, 4.0 * lane, lane, speed, target_speed
    for t in range(steps):
        env.step(np.array([action if t == 0 else IDLE]))
    return env


@pytest.mark.parametrize(
    ("lane", "action", "arrives"), [(1, LEFT, 0), (1, RIGHT, 2), (0, LEFT, 0), (3, RIGHT, 3), (2, IDLE, 2)]
)
def test_lanes_are_changed_within_five_seconds(lane, action, arrives):
    s = empty_road(lane, action=action, steps=5).state[0]
    assert s["target_lane"] == arrives
    assert s["y"] == pytest.approx(4.0 * arrives, abs=0.05)
    assert s["heading"] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    ("speed", "action", "target"),
    [(25, FASTER, 30), (30, FASTER, 30), (25, SLOWER, 20), (15, SLOWER, 15), (22, FASTER, 25), (23, FASTER, 30)],
)
def test_speeds_go_up_and_down_by_the_step(speed, action, target):
    env = empty_road(0, speed=float(speed), action=action)
    # The gap to the target closes by (1 - 1 / 15 / 0.6)^15 = 0.171 a second.
    assert env.state["speed"][0] == pytest.approx(target + (speed - target) * (8 / 9) ** SUBSTEPS, abs=1e-9)


def collide(distance, lateral=0.0, speed=20.0):
    env = empty_road(1, speed=20.0, target_speed=1)
    s = env.state
    s["car_x"][0, PER_LANE], s["car_speed"][0, PER_LANE], s["x"] = (300 + distance) % RING, speed, 300.0
    s["car_x"][0, PER_LANE + 1 : 2 * PER_LANE] = (300 + distance + 100 * np.arange(1, 5)) % RING
    s["y"] = 4.0 + lateral
    _, reward, terminated, _, _ = env.step(np.array([IDLE]))
    return float(reward[0]), bool(terminated[0])


def test_collisions_by_hand():
    assert collide(4.9) == (pytest.approx(-10, abs=0.05), True)
    assert collide(-4.9)[1]
    assert not collide(8.0)[1]
    assert not collide(-15.0)[1]
    assert collide(15.0, speed=2.0)[1]  # 18 m/s too fast for 15 m
    assert collide(4.9, lateral=1.9)[1]


def test_on_an_empty_road_the_baseline_earns_the_bound():
    env = empty_road(0, steps=0)
    env.state["elapsed"], total = 0, 0.0
    for _ in range(39):
        total += env.step(env.scripted_actions())[1][0]
    total += env.step(env.scripted_actions())[1][0]
    q = (8 / 9) ** 15
    assert free_road_return() == pytest.approx(40 - 0.5 * q * (1 - q**40) / (1 - q))
    assert total == pytest.approx(free_road_return(), abs=1e-6)


# -- symmetry and observation ------------------------------------------------------------------------------------------


def test_the_mirror_image_of_a_road_is_a_road():
    one, other = driven(200, 6), roads(200)
    other.state[:] = one.state
    swapped = (np.arange(CARS).reshape(LANES, PER_LANE)[::-1]).reshape(-1)
    for name in TRAFFIC:
        other.state[name] = one.state[name][:, swapped]
    other.state["y"], other.state["heading"] = 12 - one.state["y"], -one.state["heading"]
    other.state["target_lane"] = 3 - one.state["target_lane"]
    actions = np.random.default_rng(0).integers(5, size=200)
    mirrored = np.array([RIGHT, IDLE, LEFT, FASTER, SLOWER])[actions]
    np.testing.assert_array_equal(
        np.array([RIGHT, IDLE, LEFT, FASTER, SLOWER])[one.scripted_actions()], other.scripted_actions()
    )
    a, b = one.step(actions), other.step(mirrored)
    np.testing.assert_allclose(a[1], b[1], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(a[2], b[2])
    going = ~(a[2] | a[3])
    seen, theirs = a[0][going], b[0][going].copy()
    theirs[:, 0], theirs[:, 2], theirs[:, 3] = 1 - theirs[:, 0], -theirs[:, 2], 1 - theirs[:, 3]
    theirs[:, 6::3] *= -1
    np.testing.assert_allclose(seen, theirs, rtol=0, atol=1e-6)


def test_the_ring_has_no_beginning():
    one, other = driven(200, 6), roads(200)
    other.state[:] = one.state
    for name in ("x", "car_x"):
        other.state[name] = (one.state[name] + 333.0) % RING
    a, b = one.step(np.full(200, FASTER)), other.step(np.full(200, FASTER))
    np.testing.assert_allclose(a[1], b[1], rtol=0, atol=1e-9)
    going = ~(a[2] | a[3])
    np.testing.assert_allclose(a[0][going], b[0][going], rtol=0, atol=1e-6)


def test_the_nearest_cars_are_observed_in_order():
    env = driven(300, 8)
    s, obs = env.state, env.observe()
    dx = (s["car_x"] - s["x"][:, None] + RING / 2) % RING - RING / 2
    order = np.argsort(np.abs(dx), axis=1)[:, :SEEN]
    rows = np.arange(300)[:, None]
    np.testing.assert_allclose(obs[:, 5::3], dx[rows, order] / 100, atol=1e-6)
    np.testing.assert_allclose(obs[:, 6::3], (4 * (order // PER_LANE) - s["y"][:, None]) / 12, atol=1e-6)
    np.testing.assert_allclose(obs[:, 7::3], (s["car_speed"][rows, order] - s["speed"][:, None]) / 30, atol=1e-6)
    own = np.stack([s["y"] / 12, s["speed"] / 40, s["heading"], s["target_lane"] / 3, s["target_speed"] / 3], axis=1)
    np.testing.assert_allclose(obs[:, :5], own, atol=1e-6)


def test_episodes_begin_with_room_around_the_car():
    s = roads(2000).state
    assert (np.abs((s["car_x"] - s["x"][:, None] + RING / 2) % RING - RING / 2) >= 20).all()
    assert 18 <= s["desired"].min() < 18.1
    assert 23.9 < s["desired"].max() <= 24
    assert np.bincount(s["target_lane"]).min() > 400


def test_references_are_what_is_measured():
    references = envs.get_sim("highway").references
    for policy in ("random", "scripted"):
        found = returns("highway", policy, 2000, seed=3)
        error = np.hypot(found.std(ddof=1) / np.sqrt(len(found)), references[policy].error)
        assert abs(found.mean() - references[policy].mean) < 4 * error
        assert found.max() <= free_road_return() + 1e-3
    assert references["optimal"].mean == pytest.approx(free_road_return(), abs=0.005)


@pytest.mark.parametrize("damage", [{"target_lane": 4}, {"target_speed": -1}, {"car_x": 700.0}, {"x": np.nan}])
def test_a_damaged_snapshot_is_refused(damage):
    env = envs.make_vec("highway", 3, seed=0)
    env.reset()
    for field, value in damage.items():
        snapshot = env.get_state()
        snapshot["states"].view(env.state.dtype)[field][2] = value
        with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Highway"):
            env.set_state(snapshot)
    snapshot = env.get_state()  # two cars of a lane have changed places
    cars = snapshot["states"].view(env.state.dtype)["car_x"][1]
    cars[[0, 1]] = cars[[1, 0]]
    with pytest.raises(ValueError, match="the state of env 1 is not a valid state of Highway"):
        env.set_state(snapshot)
