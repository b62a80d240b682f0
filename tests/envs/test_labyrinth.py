"""Labyrinth: levels as Maze's, but larger; what the window shows; the baseline against breadth-first search."""

import hashlib

import numpy as np
import pytest
from scipy import stats

import envs
from envs.labyrinth import SIZE
from envs.maze import shortest_way
from envs.reference.measure import returns

UP, RIGHT, DOWN, LEFT = range(4)


def ends(s):
    return (int(s["row"]), int(s["column"])), (int(s["goal_row"]), int(s["goal_column"]))


def wandered(n, steps, **options):
    """Envs whose agents have walked about at random."""
    env = envs.make_vec("labyrinth", n, seed=1, autoreset_mode="NextStep", **options)
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
    obs = np.zeros((9, 9, 4), np.int8)
    obs[..., 0], obs[..., 1] = window == 1, window == 2
    places = [(i, j) for i in range(9) for j in range(9)]
    distances = [abs(row - 4 + i - goal[0]) + abs(column - 4 + j - goal[1]) for i, j in places]
    obs[*places[int(np.argmin(distances))], 3] = 1
    if min(distances) == 0:
        obs[*places[int(np.argmin(distances))], 2] = 1
    return obs


@pytest.mark.parametrize(("cells", "side"), [(25, 25), (9, 9), (2, 2), (99, 25), (0, 2)])
def test_every_level_is_a_spanning_tree_of_its_cells_and_solid_beyond(cells, side):
    env = envs.make_vec("labyrinth", 12, seed=0, params={"cells": cells})
    env.reset()
    size = 2 * side + 1
    for s in env.state:
        walls = s["walls"][:size, :size] == 1
        assert (s["walls"] == 1).sum() == SIZE * SIZE - (~walls).sum()
        assert (~walls).sum() == 2 * side * side - 1
        assert not walls[1::2, 1::2].any()
        assert walls[0::2, 0::2].all()
        for i in range(side):  # as many passages as a tree has, and every cell can be reached
            shortest_way(walls, (1, 1), (2 * i + 1, 2 * ((7 * i + 3) % side) + 1))
        assert np.argwhere(s["walls"] == 2).tolist() == [list(ends(s)[0])]
        assert ends(s)[0] != ends(s)[1]
        assert all(x % 2 == 1 and x < size for end in ends(s) for x in end)


def test_the_first_100_levels_are_what_they_have_always_been():
    env = envs.make_vec("labyrinth", 100, seed=0)
    env.reset(options={"level": np.arange(100)})
    digest = hashlib.sha256(b"".join(s["walls"].tobytes() + bytes(sum(ends(s), ())) for s in env.state))
    assert digest.hexdigest()[:16] == "31392b69cc1fca5d", "levels changed: give Labyrinth a new version"


def test_start_and_goal_are_uniform_over_cells():
    env = envs.make_vec("labyrinth", 30_000, seed=0, params={"cells": 5})
    env.reset()
    for row, column in (("row", "column"), ("goal_row", "goal_column")):
        cells = env.state[row].astype(int) // 2 * 5 + env.state[column] // 2
        assert stats.chisquare(np.bincount(cells, minlength=25)).pvalue > 0.01


@pytest.mark.parametrize("cells", [25, 4])
def test_the_observation_is_the_window_around_the_agent(cells):
    env = wandered(60, 80, params={"cells": cells})
    in_sight = 0
    for s, obs in zip(env.state, env.observe(), strict=True):
        np.testing.assert_array_equal(obs, plain_window(s))
        in_sight += obs[..., 2].sum()
    assert in_sight > 0
    assert cells == 4 or in_sight < 60


def test_the_agent_walks_where_no_wall_is_and_leaves_a_trail():
    env = envs.make_vec("labyrinth", 40, seed=2, autoreset_mode="NextStep")
    env.action_space.seed(2)
    env.reset()
    trails = [{ends(s)[0]} for s in env.state]
    for _ in range(100):
        before, actions = env.state.copy(), env.action_space.sample()
        _, reward, terminated, _, _ = env.step(actions)
        for i, (old, new) in enumerate(zip(before, env.state, strict=True)):
            if old["ended"]:
                trails[i] = {ends(new)[0]}
                continue
            (row, column), goal = ends(old)
            target = (row + (-1, 0, 1, 0)[actions[i]], column + (0, 1, 0, -1)[actions[i]])
            where = target if old["walls"][target] != 1 else (row, column)
            trails[i].add(where)
            assert ends(new) == (where, goal)
            assert terminated[i] == (where == goal)
            assert reward[i] == (1.0 if where == goal else 0.0)
            assert {tuple(square) for square in np.argwhere(new["walls"] == 2).tolist()} == trails[i]
            assert ((old["walls"] == 1) == (new["walls"] == 1)).all()


def test_the_baseline_goes_the_shortest_way_from_wherever_it_is():
    env = wandered(40, 200)
    for _ in range(10):
        playing = [i for i, s in enumerate(env.state) if ends(s)[0] != ends(s)[1]]
        ways = {i: shortest_way(env.state["walls"][i] == 1, *ends(env.state[i])) for i in playing}
        actions = env.scripted_actions()
        assert [actions[i] for i in ways] == [way[0] for way in ways.values()]
        env.step(actions)


def test_the_references_are_what_is_measured():
    sim = envs.get_sim("labyrinth")
    found = returns("labyrinth", "random", 1000, seed=7)
    error = np.hypot(found.std(ddof=1) / np.sqrt(len(found)), sim.references["random"].error)
    assert abs(found.mean() - sim.references["random"].mean) < 4 * error
    assert (returns("labyrinth", "scripted", 200, seed=7) == sim.references["scripted"].mean).all()
    assert sim.references["optimal"].mean == 1
    assert sim.max_episode_steps >= 2 * (25 * 25 - 1)  # a way through every cell


@pytest.mark.parametrize(
    "damage", [{"row": 0}, {"row": 50}, {"column": 200}, {"goal_row": 255}, {"walls": 0}, {"walls": 3}]
)
def test_a_damaged_snapshot_is_refused(damage):
    env = envs.make_vec("labyrinth", 3, seed=0)
    env.reset()
    snapshot = env.get_state()
    env.set_state(snapshot)
    for name, value in damage.items():
        snapshot["states"].view(env.state.dtype)[name][2] = value
    with pytest.raises(ValueError, match="the state of env 2 is not a valid state of Labyrinth"):
        env.set_state(snapshot)
