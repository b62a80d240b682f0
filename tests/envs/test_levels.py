"""Levels: of every sim that has them, training shows none that validation or the test will ask for, under any id."""

import dataclasses
from itertools import pairwise

import pytest

import envs
from envs import maze
from envs.engine import njit
from envs.engine.conformance import Failed, doubles, levels
from envs.engine.sim import SPLITS

LEVELS = 10_000  # of each split
WITH_LEVELS = [name for name in envs.sims() if envs.get_sim(name).levels]


@pytest.mark.parametrize("name", WITH_LEVELS)
def test_levels_are_drawn_from_all_of_their_split_differ_and_are_functions_of_their_ids(name):
    levels(envs.get_sim(name), LEVELS, most=0.0)


def test_the_splits_do_not_overlap():
    ranges = sorted((first, first + count) for first, count in SPLITS.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


@njit
def reset_by_low_bits(s, p):
    level = s.level
    s.level = level % 2**29
    maze.reset(s, p)
    s.level = level


def test_a_sim_whose_splits_share_levels_is_found_out():
    sim = dataclasses.replace(maze.SIM, name="Leaky", reset=reset_by_low_bits)
    assert doubles(sim, LEVELS) > LEVELS
    with pytest.raises(Failed, match="levels are another one's double"):
        levels(sim, LEVELS)
