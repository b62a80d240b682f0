"""Envs that are a part of a larger batch do what they would do in it."""

import numpy as np
import pytest

import envs
from envs.engine.check import on_device, on_host
from envs.engine.vector import Transition

CASES = {  # sim, options
    "numbers": ("cartpole", {}),
    "worlds that differ": ("cartpole", {"params": {"gravity": [5.0, 15.0]}}),
    "whole numbers that differ": ("inventory", {"params": {"lead_time": [1, 3]}, "max_episode_steps": 7}),
    "levels": ("maze", {"num_levels": 30, "max_episode_steps": 5}),
    "plain Python": ("cartpole", {"backend": "python"}),
    "threads": ("cartpole", {"backend": "parallel"}),
    "resets that take a step": ("cartpole", {"autoreset_mode": "NextStep"}),
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


def test_a_part_on_a_gpu_is_that_on_the_cpu():
    options = {"num_envs": 5, "seed": 5, "first_env": 9, "params": {"loss": [80, 120]}, "max_episode_steps": 6}
    here, there = (envs.make_vec("scheduling", device=device, **options) for device in ("cpu", "cuda"))
    assert here.reset()[0].tobytes() == on_host(there.reset()[0]).tobytes()
    for k in range(15):
        actions = np.arange(5) % 3
        here.step(actions)
        there.step(on_device(there, actions))
        assert here.get_state()["states"].tobytes() == there.get_state()["states"].tobytes(), k
    assert (here.state["episode"] == 2).all()


@pytest.mark.parametrize("first_env", [-1, 2**31 - 3, 1.5])
def test_a_part_of_no_batch_is_refused(first_env):
    with pytest.raises(ValueError, match=f"first_env={first_env} is not an integer from 0 to 2147483644"):
        envs.make_vec("cartpole", 3, first_env=first_env)
