"""What whole-number sims do is kept to the bit: golden.json has the SHA-256 of 10,000 steps of each, under its name and version.

A sim is of whole numbers if neither its state nor its parameters have a real field: then no processor or compiler may change
a bit of it. (Where it shows them divided, a quotient has but one right rounding.) A real parameter that only scales rewards
does no harm, and what once had an entry keeps it. Whoever changes what such a sim does gives it a new version.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import envs

GOLDEN = Path(__file__).with_name("golden.json")
NUM_ENVS, STEPS = 20, 500


def is_whole(name):
    sim = envs.get_sim(name)
    specs = (*sim.state.spec.values(), *sim.params.spec.values())
    return key_of(name) in json.loads(GOLDEN.read_text()) or not any("real" in spec for spec in specs)


def key_of(name):
    return envs.get_sim(name).id.removeprefix("rlsys/")


def pattern(t, space):
    """The actions (N, ...) of step t: whole numbers without a visible order."""
    count = np.arange(NUM_ENVS * max(1, int(np.prod(space.shape))), dtype=np.uint64) + np.uint64(7919 * t + 1)
    bits = count * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)
    choices = np.asarray(getattr(space, "n", None) or space.nvec, np.uint64)
    return (bits.reshape(NUM_ENVS, *space.shape) % choices).astype(np.int64)


def digest(name):
    """SHA-256 of all that 20 envs show in 500 steps, and of the state that they end in."""
    env = envs.make_vec(name, NUM_ENVS, seed=2048, split="test", max_episode_steps=100)
    sha = hashlib.sha256(env.reset()[0].tobytes())
    for t in range(STEPS):
        obs, reward, terminated, truncated, _ = env.step(pattern(t, env.single_action_space))
        sha.update(obs.tobytes() + reward.astype("<f8").tobytes() + terminated.tobytes() + truncated.tobytes())
    for field in (*env.sim.state.spec, "level", "draws"):
        values = env.state[field]
        sha.update(field.encode() + values.astype(values.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("name", [name for name in envs.sims() if is_whole(name)])
def test_ten_thousand_steps_are_what_they_have_always_been(name):
    key, found = key_of(name), digest(name)
    golden = json.loads(GOLDEN.read_text())
    assert key in golden, f'{key} has no entry yet. If it is right, add to {GOLDEN.name}: "{key}": "{found}"'
    assert found == golden[key], f"{key} does not do what it did: undo that, or give it a new version and a new entry."


def test_every_entry_is_of_a_registered_sim():
    assert set(json.loads(GOLDEN.read_text())) <= {key_of(name) for name in envs.sims()}


def test_the_pattern_takes_every_action_and_repeats_none_for_long():
    space = envs.get_sim("snake").action_space
    actions = np.array([pattern(t, space) for t in range(STEPS)])
    shares = np.bincount(actions.reshape(-1), minlength=4) / actions.size
    assert (abs(shares - 0.25) < 0.02).all()
    assert not (actions[:-10] == actions[10:]).all(axis=0).any()
