"""Labyrinth: levels as Maze's, but larger; the baseline against breadth-first search. Window and thread: test_maze.py."""

import hashlib

import numpy as np
import pytest
from scipy import stats

import envs
from envs.labyrinth import SIZE
from envs.maze import shortest_way
from envs.reference.measure import returns
from tests.envs.test_maze import ends, wandered

UP, RIGHT, DOWN, LEFT = range(4)


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


def test_the_baseline_goes_the_shortest_way_from_wherever_it_is():
    env = wandered(("labyrinth", {}), 40, 200)
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
    "damage", [{"row": 0}, {"row": 50}, {"column": 200}, {"goal_row": 255}, {"walls": 0}, {"walls": 4}]
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
