"""Breakout's rules: by hand, against plain Python, mirrored; and the baseline from every start there is."""

import math

import numpy as np
import pytest
from scipy import stats

import envs
from envs.breakout import COLUMNS, FLIGHT, FLOOR, MOST_ROWS, ROWS, TOP, landing
from envs.reference.measure import returns

LEFT, STAY, RIGHT = range(3)
BALL = ("row", "column", "down", "right")


def bits(cells):
    """The wall with bricks at these (row, column)s."""
    return sum(1 << ((row - TOP) * COLUMNS + column) for row, column in cells)


def make(ball, paddle, bricks, n=1, **options):
    """n envs with this ball (row, column, down, right), the paddle's first column and bricks."""
    env = envs.make_vec("breakout", n, seed=0, autoreset_mode="NextStep", **options)
    env.reset()
    for field, value in zip(BALL, ball, strict=True):
        env.state[field] = value
    env.state["paddle"], env.state["bricks"] = paddle, bits(bricks)
    return env


def one_step(ball, bricks=((2, 0),), paddle=4, action=STAY, **options):
    """(ball, bricks left, paddle, reward, terminated) after one step."""
    env = make(ball, paddle, bricks, **options)
    _, reward, terminated, _, _ = env.step(np.array([action]))
    s = env.state[0]
    left = {(row, c) for row in range(TOP, TOP + MOST_ROWS) for c in range(COLUMNS) if s["bricks"] & bits([(row, c)])}
    return tuple(int(s[field]) for field in BALL), left, int(s["paddle"]), float(reward[0]), bool(terminated[0])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((8, 4, -1, 1), (7, 5, -1, 1)),
        ((8, 4, 1, -1), (9, 3, 1, -1)),
        ((8, 9, -1, 1), (7, 9, -1, -1)),  # a side wall
        ((8, 0, 1, -1), (9, 0, 1, 1)),
        ((0, 4, -1, 1), (0, 5, 1, 1)),  # the ceiling
        ((0, 9, -1, 1), (0, 9, 1, -1)),  # a corner sends it back
        ((0, 0, -1, -1), (0, 0, 1, 1)),
    ],
)
def test_the_ball_moves_along_diagonals_and_turns_at_walls(before, after):
    assert one_step(before) == (after, {(2, 0)}, 4, 0, False)


@pytest.mark.parametrize(
    ("bricks", "after", "broken"),
    [
        ([(4, 5)], (5, 5, 1, 1), [(4, 5)]),  # above where it went to the side
        ([(5, 5)], (4, 4, -1, -1), [(5, 5)]),  # beside it
        ([(5, 5), (4, 5)], (4, 4, -1, -1), [(5, 5)]),  # beside it: that above is no longer in the way
        ([(5, 5), (4, 4)], (5, 4, 1, -1), [(5, 5), (4, 4)]),  # in a corner of bricks
        ([(4, 4)], (4, 5, -1, 1), []),  # it passes between
    ],
)
def test_bricks_turn_the_ball_and_break(bricks, after, broken):
    far = (2, 0)
    expected = {far, *bricks} - set(broken)
    assert one_step((5, 4, -1, 1), [far, *bricks]) == (after, expected, 4, len(broken), False)


def test_the_last_brick_ends_the_episode():
    assert one_step((5, 4, -1, 1), [(4, 5)]) == ((5, 5, 1, 1), set(), 4, 1, True)


@pytest.mark.parametrize(
    ("right", "paddle", "action", "after"),
    [
        (1, 5, STAY, -1),  # on the first cell, at column 5
        (-1, 3, STAY, -1),
        (1, 4, STAY, 1),  # in the middle
        (-1, 2, STAY, -1),
        (1, 3, STAY, 1),  # on the last cell
        (-1, 1, STAY, 1),
        (1, 6, LEFT, -1),  # the paddle moves first
        (1, 2, RIGHT, 1),
    ],
)
def test_where_it_lands_on_the_paddle_decides_where_the_ball_goes(right, paddle, action, after):
    column = 4 + right
    ball, _, _, reward, terminated = one_step((FLOOR - 1, 4, 1, right), paddle=paddle, action=action)
    assert ball == (FLOOR - 1, column, -1, after)
    assert not reward
    assert not terminated


@pytest.mark.parametrize("paddle", [0, 2, 6, 7])
def test_a_missed_ball_costs_a_life_and_brings_a_new_paddle(paddle):
    env = make((FLOOR - 1, 4, 1, 1), paddle, [(2, 0)])  # it comes down on column 5
    for lives in (2, 1):
        obs, reward, terminated, _, _ = env.step(np.array([STAY]))
        s = env.state[0]
        assert s["lives"] == lives
        assert not terminated[0]
        assert (s["row"], s["column"], s["down"]) == (FLOOR - 1, s["paddle"] + 1, -1)
        assert obs[0, 0, :, 1].tolist() == [1] * (lives - 1) + [0] * (10 - lives + 1)
        env.state["row"], env.state["column"], env.state["down"], env.state["right"] = FLOOR - 1, 4, 1, 1
        env.state["paddle"] = paddle
    obs, reward, terminated, _, _ = env.step(np.array([STAY]))
    assert terminated[0]
    assert not reward[0]
    assert obs[0, FLOOR, 5, 5] == 1


def test_the_paddle_stops_at_the_side_walls():
    assert one_step((8, 4, -1, 1), paddle=0, action=LEFT)[2] == 0
    assert one_step((8, 4, -1, 1), paddle=7, action=RIGHT)[2] == 7
    assert one_step((8, 4, -1, 1), paddle=3, action=LEFT)[2] == 2
    assert one_step((8, 4, -1, 1), paddle=3, action=RIGHT)[2] == 4


class PlainBreakout:
    """The docstring's rules once more, on a set of cells, with nothing taken from the sim but where new balls come."""

    def __init__(self, s, width):
        self.width, self.lives = width, int(s["lives"])
        self.bricks = {(2 + k // 10, k % 10) for k in range(60) if int(s["bricks"]) >> k & 1}
        self.served(s)

    def served(self, s):
        self.y, self.x, self.dy, self.dx = (int(s[field]) for field in BALL)
        self.paddle = int(s["paddle"])
        assert (self.y, self.x, self.dy) == (10, self.paddle + self.width // 2, -1)

    def step(self, action, s):
        """(reward, terminated); `s` is the sim's state after the step, for where a new ball came."""
        self.paddle = sorted((0, self.paddle + action - 1, 10 - self.width))[1]
        before = len(self.bricks)
        if not 0 <= self.x + self.dx < 10 or (self.y, self.x + self.dx) in self.bricks:
            self.bricks.discard((self.y, self.x + self.dx))
            self.dx = -self.dx
        else:
            self.x += self.dx
        if self.y + self.dy < 0 or (self.y + self.dy, self.x) in self.bricks:
            self.bricks.discard((self.y + self.dy, self.x))
            self.dy = -self.dy
        else:
            self.y += self.dy
        if self.y == 11:
            cells = list(range(self.paddle, self.paddle + self.width))
            if self.x in cells:
                self.y, self.dy = 10, -1
                self.dx = {cells[0]: -1, cells[-1]: 1}.get(self.x, self.dx)
            else:
                self.lives -= 1
                if self.lives:
                    self.served(s)
        return before - len(self.bricks), not self.bricks or not self.lives

    def observation(self):
        obs = np.zeros((12, 10, 6), np.int8)
        for row, column in self.bricks:
            obs[row, column, 0] = 1
        obs[11, self.paddle : self.paddle + self.width, 1] = 1
        obs[0, : max(0, self.lives - 1), 1] = 1
        obs[self.y, self.x, {(-1, -1): 2, (-1, 1): 3, (1, -1): 4, (1, 1): 5}[self.dy, self.dx]] = 1
        return obs


@pytest.mark.parametrize("params", [{}, {"rows": 6, "paddle": 4, "lives": 10}, {"rows": 1, "paddle": 2, "lives": 1}])
@pytest.mark.parametrize("wander", [1.0, 0.3, 0.0])
def test_the_game_is_the_one_that_plain_python_plays(params, wander):
    rng = np.random.default_rng(0)
    width = params.get("paddle", 3)
    env = envs.make_vec("breakout", 16, seed=4, params=params, autoreset_mode="NextStep")
    env.reset()
    games, ended = [PlainBreakout(s, width) for s in env.state], np.zeros(16, bool)
    ends = 0
    for _ in range(400):
        actions = np.where(rng.random(16) < wander, rng.integers(3, size=16), env.scripted_actions())
        obs, reward, terminated, truncated, _ = env.step(actions)
        for i, s in enumerate(env.state):
            if ended[i]:
                games[i] = PlainBreakout(s, width)
            else:
                assert games[i].step(actions[i], s) == (reward[i], terminated[i])
            assert (games[i].observation() == obs[i]).all()
        ended = terminated | truncated
        ends += ended.sum()
    assert ends > 0


def test_a_mirrored_world_plays_the_same_game_mirrored():
    rng = np.random.default_rng(1)
    n, width = 512, 3
    one, other = (envs.make_vec("breakout", n, seed=0, autoreset_mode="NextStep") for _ in range(2))
    one.reset()
    other.reset()
    other.set_state(one.get_state())
    other.state["column"], other.state["right"] = COLUMNS - 1 - one.state["column"], -one.state["right"]
    other.state["paddle"] = COLUMNS - width - one.state["paddle"]
    served = np.zeros(n, bool)  # new balls come anywhere, not mirrored
    for _ in range(200):
        actions = np.where(rng.random(n) < 0.2, rng.integers(3, size=n), one.scripted_actions())
        obs, reward = one.step(actions)[:2]
        mirrored, mirrored_reward = other.step(2 - actions)[:2]
        served |= one.state["lives"] < 3
        same = ~served
        expected = obs[same][:, :, ::-1][..., [0, 1, 3, 2, 5, 4]].copy()
        expected[:, 0, :, 1] = expected[:, 0, ::-1, 1]  # lives in reserve are counted from the left
        np.testing.assert_array_equal(mirrored[same], expected)
        np.testing.assert_array_equal(mirrored_reward[same], reward[same])
    assert same.sum() > 10
    assert one.state["episode_return"][same].min() > 5


def every_start():
    """Envs, one in each state that an episode can start in."""
    env = envs.make_vec("breakout", 4000, seed=0)
    env.reset()
    starts = np.unique(env.state[[*env.sim.state.spec]])
    env = envs.make_vec("breakout", len(starts), seed=0, autoreset_mode="NextStep")
    env.reset()
    for field in starts.dtype.names:
        env.state[field] = starts[field]
    return env


def test_the_baseline_breaks_every_brick_from_every_start_which_is_the_most_there_is():
    env = every_start()
    assert env.num_envs == 8 * 2  # places of the paddle, directions of the ball
    earned, done = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    for _ in range(env.max_episode_steps // 2):
        _, reward, terminated, _, _ = env.step(env.scripted_actions())
        earned += np.where(done, 0, reward)
        assert (env.state["lives"][~done] == 3).all()
        done |= terminated
    assert done.all()
    assert (earned == 30).all()
    bricks = envs.make_vec("breakout").reset()[0][0, :, :, 0].sum()
    references = envs.get_sim("breakout").references
    assert references["scripted"].mean == references["optimal"].mean == bricks == 30
    assert references["scripted"].error == references["optimal"].error == 0


def test_no_play_earns_more_than_there_are_bricks():
    env = envs.make_vec("breakout", 500, seed=5, autoreset_mode="NextStep")
    env.action_space.seed(0)
    env.reset()
    for _ in range(300):
        env.step(env.action_space.sample())
        left = np.array([int(bricks).bit_count() for bricks in env.state["bricks"]])
        np.testing.assert_array_equal(env.state["episode_return"], 30 - left)


def test_a_random_player_earns_what_the_reference_says():
    reference = envs.get_sim("breakout").references["random"]
    found = returns("breakout", "random", 4000, seed=7)
    error = math.hypot(found.std(ddof=1) / math.sqrt(len(found)), reference.error)
    assert abs(found.mean() - reference.mean) < 4 * error


def test_starts_are_uniform():
    env = envs.make_vec("breakout", 16_000, seed=2)
    env.reset()
    counts = np.bincount(env.state["paddle"] * 2 + (env.state["right"] > 0), minlength=16)
    assert len(counts) == 16
    assert stats.chisquare(counts).pvalue > 0.01


def test_every_flight_ends_within_the_bound():
    rng = np.random.default_rng(0)
    longest = 0
    for _ in range(3000):
        bricks = np.int64(rng.integers(2**60))
        if rng.random() < 0.5:
            bricks &= np.int64(rng.integers(2**60))
        column = int(rng.integers(COLUMNS))
        *_, broken, steps = landing(FLOOR - 1, column, -1, int(rng.choice([-1, 1])), bricks)
        longest = max(longest, steps)
        assert steps <= 24 + 16 * broken
    assert 24 < longest < FLIGHT


@pytest.mark.parametrize(
    ("params", "bricks", "cells", "lives"),
    [
        ({"rows": 6, "paddle": 8, "lives": 10}, 60, 8, 10),
        ({"rows": 99, "paddle": 99, "lives": 99}, 60, 8, 10),
        ({"rows": -1, "paddle": -1, "lives": -1}, 10, 2, 1),
    ],
)
def test_parameters_are_kept_within_limits(params, bricks, cells, lives):
    env = envs.make_vec("breakout", 200, seed=0, params=params)
    obs, _ = env.reset()
    assert (obs[..., 0].sum(axis=(1, 2)) == bricks).all()
    assert (obs[:, FLOOR, :, 1].sum(axis=1) == cells).all()
    assert (obs[:, 0, :, 1].sum(axis=1) == lives - 1).all()
    for _ in range(300):
        env.step(env.scripted_actions())
    assert (env.state["lives"] == lives).all()


def test_a_game_that_is_over_can_be_stepped_on():
    env = make((FLOOR - 1, 4, 1, 1), 0, [(2, 0)], n=2, params={"lives": 1})
    for _ in range(30):  # a snapshot may be of such a state
        obs, _, terminated, _, _ = env.step(np.full(2, STAY))
        env.state["ended"] = 0
        assert terminated.all()
        assert (env.state["lives"] == 0).all()
        assert (obs[..., 2:].sum(axis=(1, 2, 3)) == 1).all()
        env.set_state(env.get_state())


@pytest.mark.parametrize(
    "damage",
    [
        *({"row": ROWS}, {"column": COLUMNS}, {"down": 0}, {"right": 3}, {"down": -2}, {"paddle": 8}, {"paddle": 255}),
        *({"lives": 11}, {"bricks": -1}, {"bricks": 1 << 60}, {"row": 2, "column": 0}),
    ],
)
def test_a_damaged_snapshot_is_refused(damage):
    env = envs.make_vec("breakout", 3, seed=0)
    env.reset()
    snapshot = env.get_state()
    env.set_state(snapshot)
    for name, value in damage.items():
        snapshot["states"].view(env.state.dtype)[name][2] = value
    with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Breakout"):
        env.set_state(snapshot)
