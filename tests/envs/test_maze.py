"""Mazes: every level a perfect maze, a function of its id, solvable in as many steps as breadth-first search says."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import envs
from envs.engine.sim import SPLITS
from envs.maze import SIDE, SIZE, optimal_steps, shortest_way

UP, RIGHT, DOWN, LEFT = range(4)
LAYOUT = ["walls", "row", "column", "goal_row", "goal_column"]


def levels(ids, seed=0):
    """The state records of these levels as they begin."""
    env = envs.make_vec("maze", len(ids), seed=seed)
    env.reset(options={"level": np.asarray(ids)})
    return env.state


def contents(states):
    return [b"".join(np.asarray(s[field]).tobytes() for field in LAYOUT) for s in states]


def ends(s):
    return (int(s["row"]), int(s["column"])), (int(s["goal_row"]), int(s["goal_column"]))


@settings(max_examples=50, deadline=None)
@given(level=st.integers(0, 2**31 - 1))
def test_every_level_is_a_spanning_tree_of_its_cells(level):
    s = levels([level])[0]
    walls = s["walls"]
    assert set(np.unique(walls)) == {0, 1}
    assert walls[[0, -1]].all()
    assert walls[:, [0, -1]].all()
    assert not walls[1::2, 1::2].any()  # cells are open
    assert walls[0::2, 0::2].all()  # the corners between cells are not
    # 81 cells are connected by 80 passages: with breadth-first search reaching all of them, a tree.
    assert (walls == 0).sum() == SIDE * SIDE + SIDE * SIDE - 1
    for i in range(SIDE):
        for j in range(SIDE):
            shortest_way(walls, (1, 1), (2 * i + 1, 2 * j + 1))  # raises if there is no way
    start, goal = ends(s)
    assert start != goal
    assert all(x % 2 == 1 for x in (*start, *goal))


@settings(max_examples=50, deadline=None)
@given(level=st.integers(0, 2**31 - 1))
def test_the_shortest_way_reaches_the_goal_in_exactly_the_optimal_steps(level):
    env = envs.make_vec("maze", 1, seed=0, autoreset_mode="NextStep")
    env.reset(options={"level": level})
    way = shortest_way(env.state["walls"][0], *ends(env.state[0]))
    ended = [bool(env.step(np.array([action]))[2][0]) for action in way]
    assert len(way) == optimal_steps(level)
    assert ended == [False] * (len(way) - 1) + [True]
    assert env.state["episode_return"][0] == 1


@settings(max_examples=50, deadline=None)
@given(level=st.integers(0, 2**31 - 1))
def test_the_baseline_walks_around_the_whole_maze_in_as_many_steps_as_there_are_sides_of_passages(level):
    env = envs.make_vec("maze", 1, seed=0, autoreset_mode="NextStep")
    env.reset(options={"level": level})
    env.state["goal_row"] = env.state["goal_column"] = 18  # in the wall, never to be reached
    s = env.state.view(np.recarray)[0]
    first, seen = None, set()
    for _ in range(320):  # 160 moves between neighbouring squares, each there and back
        seen.add((int(s.row), int(s.column)))
        before = (int(s.row), int(s.column))
        action = int(env.scripted_actions()[0])
        env.step(np.array([action]))
        assert (int(s.row), int(s.column)) != before
        first = first or (before, action)
    assert len(seen) == 161
    assert ((int(s.row), int(s.column)), int(env.scripted_actions()[0])) == first


@pytest.mark.parametrize(("heading", "turns"), [(UP, RIGHT), (RIGHT, DOWN), (DOWN, LEFT), (LEFT, UP)])
def test_the_baseline_keeps_a_hand_on_the_wall_to_the_right(heading, turns):
    env = envs.make_vec("maze", 1, seed=0)
    env.reset()
    s = env.state.view(np.recarray)[0]
    s.walls[:] = 1
    s.walls[1:4, 1:4] = 0
    s.row, s.column, s.heading = 2, 2, heading
    down, right = (-1, 0, 1, 0), (0, 1, 0, -1)
    for expected in (turns, heading, (turns + 2) % 4, (heading + 2) % 4):  # right, ahead, left, back, as walls close in
        assert env.scripted_actions().tolist() == [expected]
        s.walls[2 + down[expected], 2 + right[expected]] = 1


def test_the_best_return_is_one_because_the_longest_shortest_way_is_in_time():
    steps = [optimal_steps(SPLITS["test"][0] + level) for level in range(1000)]
    assert max(steps) <= 160
    assert 38 < np.mean(steps) < 42


def test_a_level_is_a_function_of_its_id_alone():
    ids = np.arange(100) + SPLITS["test"][0]
    one, other = contents(levels(ids, seed=1)), contents(levels(ids[::-1], seed=2))
    assert one == other[::-1]
    env = envs.make_vec("maze", 100, seed=3, split="test", num_levels=100)
    env.reset()
    assert contents(env.state) == [one[level - ids[0]] for level in env.state["level"]]


def test_train_validation_and_test_levels_share_no_maze():
    seen = {}
    for split, (first, _) in SPLITS.items():
        for content in contents(levels(np.arange(3000) + first)):
            walls = content[: SIZE * SIZE]
            assert seen.setdefault(walls, split) == split
    assert len(seen) == 9000  # nor does a split repeat one


def test_the_first_200_levels_are_what_they_have_always_been():
    digest = hashlib.sha256(b"".join(contents(levels(np.arange(200)))))
    assert digest.hexdigest()[:16] == "62f136d302714638", "levels changed: give Maze a new version"


def test_start_and_goal_are_uniform_over_cells():
    states = levels(np.arange(50_000))
    for row, column in (("row", "column"), ("goal_row", "goal_column")):
        cells = states[row].astype(int) // 2 * SIDE + states[column] // 2
        assert stats.chisquare(np.bincount(cells, minlength=SIDE * SIDE)).pvalue > 0.01


def test_mazes_favour_no_direction():
    # 144 places for a passage; by the maze's symmetry as many passages lie across as along: of 80, 40 on average.
    walls = levels(np.arange(2000))["walls"]
    across, along = (walls[:, 1::2, 2:-1:2] == 0).sum(axis=(1, 2)), (walls[:, 2:-1:2, 1::2] == 0).sum(axis=(1, 2))
    assert (across + along == 80).all()
    assert abs(across.mean() - 40) < 4 * across.std() / np.sqrt(2000)  # four standard errors


def at(row, column, action):
    """Where one step leads from a square of a hand-made room: 3 x 3 open squares, the goal at its bottom right."""
    env = envs.make_vec("maze", 1, seed=0, autoreset_mode="NextStep")
    env.reset()
    s = env.state.view(np.recarray)[0]
    s.walls[:] = 1
    s.walls[1:4, 1:4] = 0
    s.row, s.column, s.goal_row, s.goal_column = row, column, 3, 3
    _, reward, terminated, _, _ = env.step(np.array([action]))
    return (int(s.row), int(s.column)), float(reward[0]), bool(terminated[0])


def test_moves_by_hand():
    assert at(2, 2, UP) == ((1, 2), 0, False)
    assert at(2, 2, RIGHT) == ((2, 3), 0, False)
    assert at(2, 2, DOWN) == ((3, 2), 0, False)
    assert at(2, 2, LEFT) == ((2, 1), 0, False)


def test_a_wall_stops_the_agent():
    assert at(1, 2, UP) == ((1, 2), 0, False)
    assert at(1, 1, LEFT) == ((1, 1), 0, False)
    assert at(3, 2, DOWN) == ((3, 2), 0, False)
    assert at(1, 3, RIGHT) == ((1, 3), 0, False)


def test_the_goal_is_worth_one_and_ends_the_episode():
    assert at(2, 3, DOWN) == ((3, 3), 1, True)
    assert at(3, 2, RIGHT) == ((3, 3), 1, True)


def test_the_observation_shows_walls_agent_and_goal():
    env = envs.make_vec("maze", 20, seed=0)
    obs, _ = env.reset()
    for s, planes in zip(env.state, obs, strict=True):
        np.testing.assert_array_equal(planes[..., 0], s["walls"])
        start, goal = ends(s)
        assert np.argwhere(planes[..., 1]).tolist() == [list(start)]
        assert np.argwhere(planes[..., 2]).tolist() == [list(goal)]


@pytest.mark.parametrize(
    "damage", [{"row": 0}, {"row": 18}, {"column": 200}, {"goal_row": 255}, {"heading": 4}, {"walls": 0}, {"walls": 2}]
)
def test_a_damaged_snapshot_is_refused(damage):
    env = envs.make_vec("maze", 3, seed=0)
    env.reset()
    snapshot = env.get_state()
    env.set_state(snapshot)
    for name, value in damage.items():
        snapshot["states"].view(env.state.dtype)[name][2] = value
    with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Maze"):
        env.set_state(snapshot)
