"""Levels: of every sim that has them, training shows none that validation or the test will ask for, under any id."""

import dataclasses
import hashlib
from itertools import pairwise

import numpy as np
import pytest

import envs
from envs import maze
from envs.engine import njit
from envs.engine.sim import SPLITS

LEVELS = 10_000  # of each split
WITH_LEVELS = [name for name in envs.sims() if envs.get_sim(name).levels]


def contents(sim, ids):
    """A digest of each level: of the state that it starts in, without what the engine keeps there."""
    env = envs.make_vec(sim, len(ids), seed=0, precision="float64")
    env.reset(options={"level": ids})
    parts = [np.ascontiguousarray(env.state[field]).reshape(len(ids), -1) for field in env.sim.state.spec]
    rows = np.concatenate([part.view(np.uint8) for part in parts], axis=1)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]


def ids_of(split):
    """The split's first levels, its last ones and some from all over it, each once."""
    first, count = SPLITS[split]
    spread = np.linspace(0, count - 1, LEVELS).astype(np.int64)
    spread[: LEVELS // 3] = np.arange(LEVELS // 3)
    spread[-(LEVELS // 3) :] = count - 1 - np.arange(LEVELS // 3)
    assert len(set(spread)) == LEVELS
    return first + spread


def duplicates(sim):
    """How many of the levels are another one's double."""
    found = [content for split in SPLITS for content in contents(sim, ids_of(split))]
    assert len(found) == 3 * LEVELS
    return len(found) - len(set(found))


@pytest.mark.parametrize("name", WITH_LEVELS)
def test_no_level_is_another_ones_double_within_a_split_or_across(name):
    assert duplicates(name) == 0


@pytest.mark.parametrize("name", WITH_LEVELS)
def test_levels_are_drawn_from_all_of_the_split_and_from_nowhere_else(name):
    drawn = {}
    for split, (first, count) in SPLITS.items():
        env = envs.make_vec(name, LEVELS, seed=0, split=split)
        env.reset()
        drawn[split] = set(env.state["level"].tolist())
        assert first <= min(drawn[split]) < first + count // 100
        assert first + count - count // 100 <= max(drawn[split]) < first + count
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["validation"] & drawn["test"]


def test_the_splits_do_not_overlap():
    ranges = sorted((first, first + count) for first, count in SPLITS.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


@njit
def reset_by_low_bits(s, p):
    s.level = s.level % 2**29
    maze.reset(s, p)


def test_a_sim_whose_splits_share_levels_is_found_out():
    sim = dataclasses.replace(maze.SIM, name="Leaky", reset=reset_by_low_bits)
    assert duplicates(sim) > LEVELS
