"""Envs that are a part of a larger batch do what they would do in it."""

import numpy as np
import pytest

import envs
from envs.engine.vector import Transition

CASES = {  # sim, options
    "numbers": ("cartpole", {}),
    "worlds that differ": ("cartpole", {"params": {"gravity": [5.0, 15.0]}}),
    "whole numbers that differ": ("inventory", {"params": {"lead_time": [1, 3]}, "max_episode_steps": 7}),
    "levels": ("maze", {"num_levels": 30, "max_episode_steps": 5}),
    "plain Python": ("cartpole", {"backend": "python"}),
    "threads": ("cartpole", {"backend": "parallel"}),
}


@pytest.mark.parametrize("case", CASES)
def test_two_parts_do_what_the_whole_does(case):
    sim, options = CASES[case]
    whole = envs.make_vec(sim, 7, seed=5, **options)
    parts = [envs.make_vec(sim, n, seed=5, first_env=first, **options) for first, n in ((0, 3), (3, 4))]
    outs, out = [part.arrays() for part in parts], whole.arrays()
    whole.restart(out.obs)
    for part, theirs in zip(parts, outs, strict=True):
        part.restart(theirs.obs)
    random = np.random.default_rng(0)
    num_ended = 0
    for _ in range(100):
        actions = random.integers(whole.single_action_space.n, size=7)
        ended = whole.advance(actions, out)
        for part, theirs, mine in zip(parts, outs, (actions[:3], actions[3:]), strict=True):
            part.advance(mine, theirs)
        together = Transition(*(np.concatenate(pair) for pair in zip(*outs, strict=True)))
        for name, a, b in zip(Transition._fields, out, together, strict=True):
            rows = ended if name == "final_obs" else slice(None)
            if rows is not None:
                np.testing.assert_array_equal(a[rows], b[rows], err_msg=name)
        num_ended += 0 if ended is None else ended[3:].sum()
    assert num_ended > 10
    state, theirs = whole.get_state(), [part.get_state() for part in parts]
    for name in whole.of_each_env:
        np.testing.assert_array_equal(state[name], np.concatenate([x[name] for x in theirs]))


def test_gymnasiums_step_begins_new_episodes_too():
    part, whole = (envs.make_vec("cartpole", n, seed=5, first_env=7 - n) for n in (3, 7))
    assert part.reset()[0].tobytes() == whole.reset()[0][4:].tobytes()
    for _ in range(60):
        found = part.step(np.ones(3, np.int64))
        wanted = whole.step(np.ones(7, np.int64))
        for a, b in zip(found[:4], wanted[:4], strict=True):
            np.testing.assert_array_equal(a, b[4:])


def test_a_part_must_be_such_that_its_resets_can_be_left_to_it():
    with pytest.raises(ValueError, match=r"first_env=4 is for device='cpu' and autoreset_mode='SameStep'"):
        envs.make_vec("cartpole", 3, first_env=4, autoreset_mode="NextStep")
