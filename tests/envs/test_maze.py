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
from envs.reference.measure import returns

UP, RIGHT, DOWN, LEFT = range(4)
KINDS = [("maze", {}), ("maze", {"discovery": 0.25}), ("labyrinth", {}), ("labyrinth", {"cells": 4, "discovery": 0.5})]


def levels(ids, seed=0):
    """The state records of these levels as they begin."""
    env = envs.make_vec("maze", len(ids), seed=seed)
    env.reset(options={"level": np.asarray(ids)})
    return env.state


def contents(states):
    """What a level is made of, without the thread."""
    return [(s["walls"] == 1).tobytes() + bytes(sum(ends(s), ())) for s in states]


def ends(s):
    return (int(s["row"]), int(s["column"])), (int(s["goal_row"]), int(s["goal_column"]))


@settings(max_examples=50, deadline=None)
@given(level=st.integers(0, 2**31 - 1))
def test_every_level_is_a_spanning_tree_of_its_cells(level):
    s = levels([level])[0]
    walls = s["walls"] == 1
    assert np.argwhere(s["walls"] > 1).tolist() == [list(ends(s)[0])]  # the thread
    assert walls[[0, -1]].all()
    assert walls[:, [0, -1]].all()
    assert not walls[1::2, 1::2].any()  # cells are open
    assert walls[0::2, 0::2].all()  # the corners between cells are not
    # 81 cells are connected by 80 passages: with breadth-first search reaching all of them, a tree.
    assert (~walls).sum() == SIDE * SIDE + SIDE * SIDE - 1
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
    way = shortest_way(env.state["walls"][0] == 1, *ends(env.state[0]))
    ended = [bool(env.step(np.array([action]))[2][0]) for action in way]
    assert len(way) == optimal_steps(level)
    assert ended == [False] * (len(way) - 1) + [True]
    assert env.state["episode_return"][0] == 1


def test_the_baseline_goes_the_shortest_way_from_wherever_it_is():
    env = envs.make_vec("maze", 100, seed=0, autoreset_mode="NextStep")
    env.action_space.seed(0)
    env.reset()
    for _ in range(30):
        env.step(env.action_space.sample())
    for _ in range(20):
        playing = [i for i, s in enumerate(env.state) if ends(s)[0] != ends(s)[1]]
        ways = {i: shortest_way(env.state["walls"][i] == 1, *ends(env.state[i])) for i in playing}
        actions = env.scripted_actions()
        assert [actions[i] for i in ways] == [way[0] for way in ways.values()]
        env.step(actions)


def test_the_references_are_what_is_measured():
    references = envs.get_sim("maze").references
    found = returns("maze", "random", 2000, seed=7)
    error = np.hypot(found.std(ddof=1) / np.sqrt(len(found)), references["random"].error)
    assert abs(found.mean() - references["random"].mean) < 4 * error
    assert (returns("maze", "scripted", 500, seed=7) == references["scripted"].mean).all()
    assert references["optimal"].mean == 1
    assert envs.get_sim("maze").max_episode_steps >= 2 * (SIDE * SIDE - 1)  # a way through every cell


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
    is_open = levels(np.arange(2000))["walls"] != 1
    across, along = is_open[:, 1::2, 2:-1:2].sum(axis=(1, 2)), is_open[:, 2:-1:2, 1::2].sum(axis=(1, 2))
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


def wandered(kind, n, steps):
    """Envs whose agents have walked about at random."""
    name, params = kind
    env = envs.make_vec(name, n, seed=1, autoreset_mode="NextStep", params=params)
    env.action_space.seed(1)
    env.reset()
    for _ in range(steps):
        env.step(env.action_space.sample())
    return env


def plain_window(s):
    """The observation once more, cut out of a picture of the maze that is padded with wall."""
    (row, column), goal = ends(s)
    padded = np.pad(s["walls"], 4, constant_values=1)
    window = padded[row : row + 9, column : column + 9]
    obs = np.zeros((9, 9, 6), np.int8)
    obs[..., 0], obs[..., 1], obs[..., 2] = window == 1, window == 2, window == 3
    places = [(i, j) for i in range(9) for j in range(9)]
    distances = [abs(row - 4 + i - goal[0]) + abs(column - 4 + j - goal[1]) for i, j in places]
    obs[*places[int(np.argmin(distances))], 4] = 1
    if min(distances) == 0:
        obs[*places[int(np.argmin(distances))], 3] = 1
    if s["came"]:
        obs[(5, 4, 3, 4)[s["came"] - 1], (4, 3, 4, 5)[s["came"] - 1], 5] = 1
    return obs


@pytest.mark.parametrize("kind", KINDS)
def test_the_observation_is_the_window_around_the_agent(kind):
    env = wandered(kind, 60, 80)
    seen = np.zeros(6, int)
    for s, obs in zip(env.state, env.observe(), strict=True):
        np.testing.assert_array_equal(obs, plain_window(s))
        seen += obs.sum(axis=(0, 1))
    assert (seen > 0).all()
    assert kind != ("labyrinth", {}) or seen[3] < 60  # not every goal is in sight


@pytest.mark.parametrize("kind", KINDS)
def test_the_agent_walks_where_no_wall_is_and_a_thread_lies_on_the_way_it_would_go_back(kind):
    env = wandered(kind, 40, 0)
    starts = [ends(s)[0] for s in env.state]
    been, last = [{start} for start in starts], [None] * 40
    for _ in range(100):
        before, actions = env.state.copy(), env.action_space.sample()
        obs, reward, terminated, _, _ = env.step(actions)
        for i, (old, new) in enumerate(zip(before, env.state, strict=True)):
            if old["ended"]:
                starts[i], been[i], last[i] = ends(new)[0], {ends(new)[0]}, None
                continue
            (row, column), goal = ends(old)
            target = (row + (-1, 0, 1, 0)[actions[i]], column + (0, 1, 0, -1)[actions[i]])
            where = target if old["walls"][target] != 1 else (row, column)
            bonus = 0.0 if where in been[i] else kind[1].get("discovery", 0.0)
            been[i].add(where)
            last[i] = (row, column) if where == target else last[i]
            shown = [(where[0] - 4 + i, where[1] - 4 + j) for i, j in np.argwhere(obs[i, ..., 5]).tolist()]
            assert shown == ([last[i]] if last[i] else [])
            assert ends(new) == (where, goal)
            assert terminated[i] == (where == goal)
            assert reward[i] == (1.0 if where == goal else bonus)
            walls = new["walls"] == 1
            assert ((old["walls"] == 1) == walls).all()
            thread = {where}
            for action in shortest_way(walls, where, starts[i]):  # there is but one way
                where = (where[0] + (-1, 0, 1, 0)[action], where[1] + (0, 1, 0, -1)[action])
                thread.add(where)
            codes = {tuple(at): int(new["walls"][*at]) for at in np.argwhere(new["walls"] >= 2).tolist()}
            assert codes == {at: 2 if at in thread else 3 for at in been[i]}


@pytest.mark.parametrize("name", ["maze", "labyrinth"])
def test_who_follows_the_thread_back_where_nothing_is_new_finds_every_goal(name):
    """By what the observation shows: through each passage at most twice."""
    env = envs.make_vec(name, 200, seed=3, autoreset_mode="NextStep", split="test")
    obs, _ = env.reset()
    found = np.zeros(200, bool)
    cells = (env.state["walls"][0] != 1).sum() // 2 + 1  # of a tree, half of whose squares are passages
    for _ in range(2 * 2 * (cells - 1)):
        beside = np.stack([obs[:, 3, 4], obs[:, 4, 5], obs[:, 5, 4], obs[:, 4, 3]], axis=1).astype(int)  # [N, 4, 6]
        obs, _, terminated, _, _ = env.step((beside @ [-3, -1, -2, 1, 0, 0]).argmax(1))
        found |= terminated
    assert found.all()


@pytest.mark.parametrize(
    "damage", [{"row": 0}, {"row": 18}, {"column": 200}, {"goal_row": 255}, {"walls": 0}, {"walls": 4}, {"came": 5}]
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
