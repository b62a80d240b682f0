"""The engine: autoreset, truncation, statistics, snapshots, parameters, levels, and what it refuses.

Most traces are of `COUNTER`, a world that counts: each step adds the action (0, 1 or 2) to a number that starts at
`start`; the reward is the action; the episode terminates at `goal`; the observation is the number.
"""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.engine import Reference, Sim, njit, params, state_dtype, uniform
from envs.engine.conformance import STEPS, actions_for, record, same_future
from envs.engine.sim import SPLITS, Scale
from envs.reference.measure import returns


@njit
def counter_reset(s, p):
    s.number = p.start


@njit
def counter_step(s, p, action):
    s.number += action
    return float(action), s.number >= p.goal


@njit
def counter_observe(s, p, obs):
    obs[0] = s.number


COUNTER = Sim(
    name="Counter",
    version=0,
    state=state_dtype(number="i8"),
    params=params(start=0, goal=3),
    reset=counter_reset,
    step=counter_step,
    observe=counter_observe,
    observation_space=Box(0, 1000, (1,), np.float32),
    action_space=Discrete(3),
    max_episode_steps=4,
)


@njit
def scale_reset(s, p):
    s.x = uniform(s, 0.0, 1.0)


@njit
def scale_step(s, p, action):
    s.x = p.gain * action[0]
    return s.x, False


@njit
def pair_step(s, p, action):
    s.x = action[0] + 10 * action[1]
    return s.x, False


@njit
def scale_observe(s, p, obs):
    obs[0] = s.x


def scale(**changes):
    """A world whose number is drawn at the start, and then `gain` times the action."""
    description = {
        "name": "Scale",
        "version": 0,
        "state": state_dtype(x="real"),
        "params": params(gain=2.0),
        "reset": scale_reset,
        "step": scale_step,
        "observe": scale_observe,
        "observation_space": Box(-1000, 1000, (1,), np.float32),
        "action_space": Box(-1, 1, (1,), np.float32),
        "max_episode_steps": 10,
    }
    return Sim(**{**description, **changes})


SCALE = scale()
PAIR = scale(name="Pair", step=pair_step, action_space=MultiDiscrete([2, 3]))


def trace(env, actions, steps):
    """What `step` returned, as lists: (obs, reward, terminated, truncated) for each of `steps` equal steps."""
    rows = []
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(np.array(actions))
        rows.append((obs[:, 0].tolist(), reward.tolist(), terminated.tolist(), truncated.tolist()))
    return rows


# -- autoreset, truncation, statistics ---------------------------------------------------------------------------------

F, T = False, True


@pytest.mark.parametrize("backend", ["python", "serial", "parallel"])
def test_same_step_autoreset_by_hand(backend):
    env = envs.make_vec(COUNTER, 2, seed=0, backend=backend)
    assert env.reset()[0].tolist() == [[0], [0]]
    # Env 0 always adds 1, so it reaches 3 in its 3rd step and begins again; env 1 adds 0, until its limit of 4 steps.
    assert trace(env, [1, 0], 4) == [
        ([1, 0], [1, 0], [F, F], [F, F]),
        ([2, 0], [1, 0], [F, F], [F, F]),
        ([0, 0], [1, 0], [T, F], [F, F]),
        ([1, 0], [1, 0], [F, F], [F, T]),
    ]


@pytest.mark.parametrize("backend", ["python", "serial", "parallel"])
def test_next_step_autoreset_by_hand(backend):
    env = envs.make_vec(COUNTER, 2, seed=0, backend=backend, autoreset_mode="NextStep")
    env.reset()
    # As above, but the last number is shown; the step after that ignores its action and begins again, with reward 0.
    assert trace(env, [1, 0], 6) == [
        ([1, 0], [1, 0], [F, F], [F, F]),
        ([2, 0], [1, 0], [F, F], [F, F]),
        ([3, 0], [1, 0], [T, F], [F, F]),
        ([0, 0], [0, 0], [F, F], [F, T]),
        ([1, 0], [1, 0], [F, F], [F, F]),  # env 1 begins again
        ([2, 0], [1, 0], [F, F], [F, F]),
    ]


def test_final_observation_and_statistics_of_an_episode_that_ended():
    env = envs.make_vec(COUNTER, 3, seed=0)
    env.reset()
    assert env.step(np.array([2, 0, 1]))[4] == {}
    obs, _, terminated, truncated, info = env.step(np.array([2, 0, 1]))  # 2 + 2 = 4 is beyond the goal of 3
    assert terminated.tolist() == [T, F, F]
    assert obs[:, 0].tolist() == [0, 0, 2]
    assert info["_final_obs"].tolist() == info["_episode"].tolist() == [T, F, F]
    assert info["final_obs"][0].tolist() == [4]
    assert info["episode"]["r"].tolist() == [4, 0, 0]
    assert info["episode"]["l"].tolist() == [2, 0, 0]
    _, _, terminated, truncated, info = env.step(np.array([0, 0, 1]))
    assert terminated.tolist() == [F, F, T]
    assert info["episode"]["r"].tolist() == [0, 0, 3]
    assert info["episode"]["l"].tolist() == [0, 0, 3]
    _, _, terminated, truncated, info = env.step(np.array([0, 0, 1]))
    assert truncated.tolist() == [F, T, F]
    assert info["episode"]["l"].tolist() == [0, 4, 0]


def test_next_step_has_no_final_obs_because_obs_is_it():
    env = envs.make_vec(COUNTER, 1, seed=0, autoreset_mode="NextStep")
    env.reset()
    env.step(np.array([2]))
    obs, _, _, _, info = env.step(np.array([2]))
    assert obs.tolist() == [[4]]
    assert set(info) == {"episode", "_episode"}
    assert info["episode"]["r"].tolist() == [4]


def test_both_flags_are_set_when_the_world_ends_on_the_last_step():
    env = envs.make_vec(COUNTER, 1, seed=0, max_episode_steps=3)
    env.reset()
    assert trace(env, [1], 3)[-1] == ([0], [1], [T], [T])


def test_a_new_reset_begins_a_new_episode_and_its_statistics():
    env = envs.make_vec(COUNTER, 2, seed=0)
    env.reset()
    trace(env, [1, 1], 2)
    env.reset(options={"reset_mask": [True, False]})
    _, _, terminated, _, info = env.step(np.array([1, 1]))
    assert terminated.tolist() == [F, T]
    assert env.state["elapsed"][0] == 1
    assert env.state["episode"].tolist() == [1, 1]
    assert info["episode"]["r"].tolist() == [0, 3]


def test_step_writes_into_the_arrays_it_is_given():
    env = envs.make_vec(COUNTER, 2, seed=0)
    env.reset()
    out = env.arrays()
    obs, *_ = env.step(np.array([1, 2]), out=out)
    assert obs is out.obs
    assert out.obs[:, 0].tolist() == out.reward.tolist() == [1, 2]


# -- arrays that a kernel must not be given ----------------------------------------------------------------------------


def readonly(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("field", "array"),
    [
        ("obs", np.zeros((3, 1))),  # of another type
        ("obs", np.zeros(3, np.float32)),
        ("obs", np.zeros((3, 2), np.float32)[:, ::2]),  # with gaps
        ("obs", readonly(np.zeros((3, 1), np.float32))),
        ("reward", np.zeros(2, np.float32)),  # too short: a kernel would write beyond it
        ("reward", [0.0, 0.0, 0.0]),
        ("terminated", np.zeros(3, np.int8)),
        ("final_obs", np.zeros((3, 1), np.float64)),
        ("episode_length", np.zeros(3, np.int32)),
    ],
)
def test_an_array_that_does_not_fit_is_named_and_no_env_moves(field, array):
    env = envs.make_vec(COUNTER, 3, seed=0)
    env.reset()
    with pytest.raises(ValueError, match=f"^{field} is not a writable, C-contiguous array of"):
        env.step(np.array([1, 1, 1]), out=env.arrays()._replace(**{field: array}))
    assert env.state["number"].tolist() == [0, 0, 0]


def test_arrays_of_another_env_are_refused():
    env = envs.make_vec(COUNTER, 3, seed=0)
    env.reset()
    for other in (envs.make_vec(COUNTER, 2), envs.make_vec("snake", 3), envs.make_vec(COUNTER, 3, precision="float64")):
        with pytest.raises(ValueError, match="is not a writable, C-contiguous array"):
            env.step(np.array([1, 1, 1]), out=other.arrays())
    with pytest.raises(ValueError, match="out is a tuple, not a Transition"):
        env.step(np.array([1, 1, 1]), out=tuple(env.arrays()))
    with pytest.raises(ValueError, match="out is not a writable, C-contiguous array"):
        env.observe(np.zeros((2, 1), np.float32))


def test_no_kind_of_action_array_compiles_the_kernel_again():
    env = envs.make_vec(COUNTER, 3, seed=0)
    env.reset()
    actions = np.array([1, 1, 1, 1, 1, 1])
    for kind in (actions[:3].copy(), readonly(actions[:3].copy()), actions[::2], actions[:3].astype(">i8")):
        assert env.step(kind)[1].tolist() == [1, 1, 1]
    assert len(env._kernels.step_bound.signatures) == 1


def test_a_masked_reset_returns_every_envs_observation_also_after_steps_into_other_arrays():
    env = envs.make_vec(COUNTER, 3, seed=0)
    env.reset()
    env.step(np.array([1, 2, 2]), out=env.arrays())
    assert env.reset(options={"reset_mask": [True, False, False]})[0].tolist() == [[0], [2], [2]]


def test_an_envs_rows_that_did_not_end_have_statistics_of_zero_whatever_was_in_the_array():
    env = envs.make_vec(COUNTER, 2, seed=0)
    env.reset()
    out = env.arrays()
    out.episode_return[:] = np.nan
    trace(env, [2, 0], 1)
    info = env.step(np.array([2, 0]), out=out)[4]
    assert info["episode"]["r"].tolist() == [4, 0]


# -- snapshots ---------------------------------------------------------------------------------------------------------

SNAPSHOT_ENVS = {name: envs.make_vec(name, 5, seed=0, max_episode_steps=30) for name in envs.sims()}


def play(env, actions):
    """All that each step gave and led to, as bytes."""
    return [[array.tobytes() for array in row.values()] for row in record(env, actions, reset=False)]


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(envs.sims()), before=st.integers(0, STEPS), seed=st.integers(0, 2**63 - 1))
def test_a_restored_snapshot_has_the_same_future(name, before, seed):
    env = SNAPSHOT_ENVS[name]
    same_future(env, env, before, seed, actions_for(env.sim, 5, STEPS))


def test_a_snapshot_restores_randomised_parameters_in_another_env():
    make = {"params": {"gravity": [5.0, 15.0]}}
    one, other = envs.make_vec("cartpole", 4, seed=0, **make), envs.make_vec("cartpole", 4, seed=1, **make)
    one.reset()
    other.reset()
    other.set_state(one.get_state())
    actions = actions_for(envs.get_sim("cartpole"), 4, STEPS)
    assert play(other, actions) == play(one, actions)
    assert other.params["gravity"].tolist() == one.params["gravity"].tolist()


@pytest.mark.parametrize(
    "other", [{"num_envs": 3}, {"num_envs": 4, "precision": "float64"}, {"sim": "snake", "num_envs": 4}]
)
def test_a_snapshot_of_another_env_is_refused(other):
    snapshot = envs.make_vec(**{"sim": "cartpole", **other}).get_state()
    with pytest.raises(ValueError, match=r"states: snapshot has \d+ bytes, this env 256; it is of another env"):
        envs.make_vec("cartpole", 4).set_state(snapshot)


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others():
    env = envs.make_vec("snake", 4)
    actions = actions_for(envs.get_sim("snake"), 4, STEPS)
    runs = []
    for seed in (3, 3, 4):
        first = env.reset(seed=seed)[0].tobytes()
        runs.append([first, *play(env, actions)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert env.reset()[0].tobytes() != env.reset()[0].tobytes()  # without a seed, the stream goes on


# -- parameters, splits, levels ----------------------------------------------------------------------------------------


def gains(num_envs=3, seed=0, **overrides):
    env = envs.make_vec(SCALE, num_envs, seed=seed, params=overrides)
    env.reset()
    return env.step(np.ones((num_envs, 1), np.float32))[0][:, 0]


def test_a_parameter_has_its_default_or_one_value_or_one_for_each_env():
    assert gains().tolist() == [2, 2, 2]
    assert gains(gain=5).tolist() == [5, 5, 5]
    assert gains(gain=np.array([1.0, 2.5, 4.0])).tolist() == [1, 2.5, 4]


def test_a_range_is_drawn_for_each_env_from_the_seed():
    drawn = gains(1000, gain=[10.0, 20.0])
    assert (drawn >= 10).all()
    assert (drawn < 20).all()
    assert drawn.mean() == pytest.approx(15, abs=4 * 10 / np.sqrt(12 * 1000))  # four standard errors of a uniform
    assert len(np.unique(drawn)) > 990
    assert (gains(1000, gain=[10.0, 20.0]) == drawn).all()
    assert (gains(1000, seed=1, gain=[10.0, 20.0]) != drawn).mean() > 0.99
    assert (gains(10, gain=[10.0, 20.0]) == drawn[:10]).all()  # not a matter of the number of envs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"gian": 1.0}, r"no 'gian'. Did you mean 'gain'\? Parameters: gain"),
        ({"gain": "big"}, "params.gain='big' is not a finite number"),
        ({"gain": float("nan")}, "params.gain=nan is not a finite number"),
        ({"gain": [2.0, 1.0]}, r"params.gain=\[2.0, 1.0\] is not a range"),
        ({"gain": [1.0, 2.0, 3.0]}, "is not a range"),
        ({"gain": np.ones(4)}, r"params.gain has shape \(4,\); expected a number or \(3,\)"),
        ({"gain": "3"}, "params.gain='3' is not a finite number"),
        ({"gain": True}, "params.gain=True is not a finite number"),
        ({"gain": 1e39}, r"params.gain=1e\+39 is not a finite number"),  # infinite in float32
        ({"gain": [[1.0], 2.0]}, "is not a finite number"),
        ({3: 1.0}, "params has no 3"),
    ],
)
def test_a_wrong_parameter_is_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        envs.make_vec(SCALE, 3, params=overrides)


@pytest.mark.parametrize("value", [2.5, 2.0, [0.0, 1.0], np.array([1.0, 2.0]), 2**63, "2"])
def test_an_integer_parameter_takes_no_other_number(value):
    with pytest.raises(ValueError, match=r"params\.start=.* is not an integer"):
        envs.make_vec(COUNTER, 2, params={"start": value})


def test_a_range_of_integers_has_both_its_ends():
    def starts(value, n=300):
        return envs.make_vec(COUNTER, n, seed=0, params={"start": value}).params["start"]

    assert set(starts([1, 3])) == {1, 2, 3}
    assert starts([1, 3], n=10).tolist() == starts([1, 3])[:10].tolist()
    assert set(starts(np.int8(2))) == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs=0"),
        ({"num_envs": 2.5}, "num_envs=2.5 is not an integer"),
        ({"max_episode_steps": 2.5}, "max_episode_steps=2.5"),
        ({"max_episode_steps": 2**31}, "max_episode_steps=2147483648"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"split": ["train"]}, "split="),
        ({"split": "dev"}, "split='dev' is not one of 'train', 'validation', 'test'"),
        ({"backend": "gpu"}, "backend='gpu'"),
        ({"precision": "float16"}, "precision='float16'"),
        ({"autoreset_mode": "Disabled"}, "autoreset_mode='Disabled' is not one of 'SameStep', 'NextStep'"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
        ({"num_levels": 5}, "num_levels=5: Counter has no levels"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        envs.make_vec(**{"sim": COUNTER, "num_envs": 2, **arguments})


def test_splits_have_disjoint_levels_and_different_streams():
    ranges = sorted((first, first + count) for first, count in SPLITS.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    starts = []
    for split, (first, count) in SPLITS.items():
        env = envs.make_vec("maze", 500, seed=0, split=split)
        env.reset()
        assert (env.state["level"] >= first).all()
        assert (env.state["level"] < first + count).all()
        plain = envs.make_vec("cartpole", 500, seed=0, split=split)
        starts.append(plain.reset()[0].copy())
    assert not any((a == b).any() for a, b in ((starts[0], starts[1]), (starts[1], starts[2]), (starts[0], starts[2])))


def test_num_levels_takes_the_first_levels_of_the_split_and_all_of_them_come():
    env = envs.make_vec("maze", 500, seed=0, split="test", num_levels=7)
    env.reset()
    first = SPLITS["test"][0]
    assert sorted(set(env.state["level"])) == list(range(first, first + 7))


def test_levels_can_be_chosen_at_reset():
    env = envs.make_vec("maze", 3, seed=0)
    env.reset(options={"level": 12})
    assert env.state["level"].tolist() == [12, 12, 12]
    env.reset(options={"level": [1, 2, 3], "reset_mask": [True, False, True]})
    assert env.state["level"].tolist() == [1, 12, 3]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maze", {"level": -1}, "not negative"),
        ("snake", {"level": 1}, "Snake has no levels"),
        ("maze", {"lvl": 1}, "'lvl'"),
        ("maze", {"level": 1.5}, "'level'.*=1.5 is not an integer"),
        ("maze", {"level": 2**63}, "not an integer"),
        ("maze", {"level": [1, 2, 3]}, "or one for each env"),
        ("maze", {"reset_mask": [True]}, "is not a boolean for each of 2 envs"),
        ("maze", {"reset_mask": [0.5, 1.0]}, "is not a boolean"),
    ],
)
def test_wrong_reset_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        envs.make_vec(name, 2, seed=0).reset(options=options)


# -- actions that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["python", "serial", "parallel"])
@pytest.mark.parametrize(
    ("sim", "actions", "message"),
    [
        (COUNTER, [0, 3], r"action .*3.* of env 1 is not in Discrete\(3\); no env was stepped"),
        (COUNTER, [-1, 0], "action .*-1.* of env 0"),
        (COUNTER, [0, 1, 2], r"shape \(3,\); Counter with 2 envs takes \(2,\)"),
        (COUNTER, [[0], [1]], r"shape \(2, 1\)"),
        (COUNTER, [0.0, 1.0], "dtype float64; Counter takes integers"),
        (COUNTER, [True, False], "dtype bool"),
        (COUNTER, np.array([2**64 - 1, 0], np.uint64), "action .*-1.* of env 0"),
        (SCALE, [[0.0], [np.nan]], "nan.* of env 1 is not in Box"),
        (SCALE, [[np.inf], [0.0]], "inf.* of env 0"),
        (SCALE, [[1e300], [0.0]], "inf.* of env 0"),  # of float64, infinite in float32
        (SCALE, [0.0, 0.0], r"shape \(2,\); Scale with 2 envs takes \(2, 1\)"),
        (SCALE, [["a"], ["b"]], "dtype <U1; Scale takes floats"),
        (PAIR, [[1, 2], [2, 0]], "of env 1 is not in MultiDiscrete"),
        (PAIR, [[1, 2], [0, -1]], "of env 1"),
    ],
)
def test_a_wrong_action_is_named_and_no_env_moves(sim, actions, message, backend):
    env = envs.make_vec(sim, 2, seed=0, backend=backend)
    env.reset()
    before = env.state.tobytes()
    with pytest.raises(ValueError, match=message):
        env.step(np.array(actions))
    assert env.state.tobytes() == before


def test_actions_of_other_integer_and_float_widths_and_lists_are_taken():
    env = envs.make_vec(COUNTER, 2, seed=0)
    env.reset()
    assert env.step(np.array([1, 1], np.int32))[1].tolist() == env.step([1, 1])[1].tolist() == [1, 1]
    env = envs.make_vec(SCALE, 2, seed=0)
    env.reset()
    assert env.step(np.array([[0.5], [1.0]]))[1].tolist() == [1, 2]
    env = envs.make_vec(PAIR, 2, seed=0)
    env.reset()
    assert env.step(np.array([[1, 2], [0, 1]], np.uint8))[1].tolist() == [21, 10]


# -- descriptions that are refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_space": Discrete(2, start=1)}, "must start at 0"),
        ({"action_space": MultiDiscrete([2, 2], start=[0, 1])}, "must start at 0"),
        ({"action_space": MultiDiscrete([[2], [2]])}, "must have one dimension"),
        ({"action_space": Box(-1, 1, ())}, "must have a dimension"),
        ({"observation_space": Box(-1, 1, ())}, "must have a dimension"),
        ({"observation_space": Discrete(2)}, "observation_space must be Box or MultiBinary"),
    ],
)
def test_a_sim_that_the_engine_cannot_run_is_refused_as_it_is_made(changes, message):
    with pytest.raises(ValueError, match=f"(?s)Scale: .*{message}"):
        scale(**changes)


def test_fields_that_python_would_take_for_something_else_are_refused():
    with pytest.raises(ValueError, match="'key' is kept by the engine"):
        state_dtype(key="u8")
    for declare in (lambda: state_dtype(size="i4"), lambda: params(size=3)):
        with pytest.raises(ValueError, match="'size' is an attribute of NumPy's records"):
            declare()


# -- Numba's switches --------------------------------------------------------------------------------------------------


def test_everything_runs_without_the_compiler():
    code = """
import envs
for name in envs.sims():
    env = envs.make_vec(name, 2, seed=5, max_episode_steps=3)
    rows = [env.reset()[0].sum()]
    env.action_space.seed(0)
    rows += [float(env.step(env.action_space.sample())[0].sum()) for _ in range(7)]
    env.set_state(env.get_state())
    print(name, env.backend, *map(float, rows))
"""
    outputs = {}
    for disabled in "01":  # one process for all: to start one takes longer than to run a sim
        variables = {**os.environ, "NUMBA_DISABLE_JIT": disabled}
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        outputs[disabled] = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in outputs["0"]] == [[name, "serial"] for name in envs.sims()]
    assert [line[:2] for line in outputs["1"]] == [[name, "python"] for name in envs.sims()]
    for compiled, plain in zip(outputs["0"], outputs["1"], strict=True):
        np.testing.assert_allclose(np.array(compiled[2:], float), np.array(plain[2:], float), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", envs.sims())
def test_parallel_kernels_compile_without_a_word(name):
    env = envs.make_vec(name, 4, seed=0, backend="parallel")
    obs, _ = env.reset()
    obs = obs.copy()
    env.set_state(env.get_state())  # a warning is an error here
    np.testing.assert_array_equal(env.observe(), obs)


@njit
def first_or_second(s, p, action):
    action[0] = 1 + s.number % 2


def test_a_sims_own_baseline_acts_and_is_measured_by_whole_episodes():
    scripted = dataclasses.replace(COUNTER, scripted=first_or_second, max_episode_steps=3)
    for backend in ("serial", "python"):
        env = envs.make_vec(scripted, 3, backend=backend)
        env.reset()
        env.state["number"] = [0, 1, 2]
        assert env.scripted_actions().tolist() == [1, 2, 1]
    with pytest.raises(ValueError, match="Counter has no scripted baseline"):
        envs.make_vec(COUNTER, 3).scripted_actions()
    found = returns(scripted, "scripted", 7, num_envs=2)
    assert len(found) == 8  # four of each env
    assert len(set(found.tolist())) == 1


def test_references_have_known_names():
    known = {"optimal": Reference(1.0, 0.0, "by hand")}
    assert dataclasses.replace(COUNTER, references=known).references["optimal"].mean == 1.0
    with pytest.raises(ValueError, match=r"references \['best'\] are not of random, scripted, optimal"):
        dataclasses.replace(COUNTER, references={"best": known["optimal"]})


KNOWN = {
    "random": Reference(-20.0, 0.1, "by hand"),
    "scripted": Reference(10.0, 0.0, "by hand"),
    "optimal": Reference(30.0, 0.0, "by hand"),
}


def test_a_score_is_0_at_chance_1_at_the_optimum_and_a_straight_line_between_and_beyond():
    scale = dataclasses.replace(COUNTER, references=KNOWN).scale()
    assert scale == Scale("optimal", -20.0, 30.0)
    assert [scale.score(mean) for mean in (-20.0, 5.0, 30.0, 40.0, -30.0)] == [0.0, 0.5, 1.0, 1.2, -0.2]


def test_where_no_optimum_is_known_a_score_is_relative_to_the_baseline():
    known = {policy: KNOWN[policy] for policy in ("random", "scripted")}
    scale = dataclasses.replace(COUNTER, references=known).scale()
    assert scale == Scale("scripted", -20.0, 10.0)
    assert scale.score(4.0) == 24.0 / 30.0


@pytest.mark.parametrize("policies", [(), ("random",), ("optimal",), ("scripted", "optimal")])
def test_without_both_ends_there_is_no_scale(policies):
    assert dataclasses.replace(COUNTER, references={policy: KNOWN[policy] for policy in policies}).scale() is None


def test_references_hold_for_the_default_parameters_and_step_limit_only():
    sim = dataclasses.replace(COUNTER, params=params(width=2.0, holes=3), max_episode_steps=7, references=KNOWN)
    holds = sim.scale()
    for same in ({}, {"width": 2.0}, {"width": 2, "holes": 3}, {"width": [2.0, 2.0]}, {"width": np.full(4, 2.0)}):
        assert sim.scale(same) == sim.scale(same, 7) == holds
    for other in ({"width": 2.1}, {"width": 2.0, "holes": 4}, {"width": [1.0, 2.0]}, {"holes": np.array([3, 3, 4])}):
        assert sim.scale(other) is None
    assert sim.scale(max_episode_steps=8) is None


def test_an_optimum_below_chance_is_refused():
    with pytest.raises(ValueError, match="Counter: the reference 'optimal' must be above 'random'"):
        dataclasses.replace(COUNTER, references={**KNOWN, "optimal": KNOWN["random"]})


def test_who_steps_before_the_first_reset_is_told():
    for backend in ("serial", "python"):
        env = envs.make_vec("racer", 3, seed=0, backend=backend)
        with pytest.raises(ResetNeeded, match="call reset"):
            env.step(np.zeros((3, 2), np.float32))
        env.reset()
        env.step(np.zeros((3, 2), np.float32))
    with pytest.raises(ResetNeeded, match="call reset"):
        gymnasium.make("envs:rlsys/Racer-v0", render_mode="rgb_array").unwrapped.render()


def test_a_copy_has_the_same_future_and_a_life_of_its_own():
    env = envs.make_vec("cartpole", 4, seed=3, params={"gravity": [5.0, 15.0]}, copy=True)
    env.reset()
    actions = np.random.default_rng(0).integers(2, size=(100, 4))
    for a in actions[:20]:
        env.step(a)
    other, before = copy.deepcopy(env), env.get_state()
    theirs = [other.step(a)[:4] for a in actions[20:]]
    for name, array in env.get_state().items():
        np.testing.assert_array_equal(array, before[name])
    ours = [env.step(a)[:4] for a in actions[20:]]
    for mine, found in zip(ours, theirs, strict=True):
        for a, b in zip(mine, found, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(TypeError, match="get_state"):
        pickle.dumps(env)
    single = gymnasium.make("envs:rlsys/CartPole-v0")
    single.reset(seed=1)
    assert copy.deepcopy(single).step(1)[0].tolist() == single.step(1)[0].tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("params"), "params: the snapshot has none"),
        (lambda state: state.update(seed=np.zeros(2, np.int64)), "seed: snapshot has shape"),
        (lambda state: None, "obs is not a writable"),
    ],
)
def test_a_snapshot_that_is_refused_changes_nothing(change, words):
    env = envs.make_vec("cartpole", 2, seed=0)
    env.reset()
    other = env.get_state()
    env.step(np.zeros(2, np.int64))
    before = env.get_state()
    change(other)
    with pytest.raises(ValueError, match=words):
        env.set_state(other, np.zeros((2, 4)))
    for name, array in env.get_state().items():
        np.testing.assert_array_equal(array, before[name])


def test_gymnasiums_wrapper_records_the_statistics_of_episodes():
    vector = gymnasium.make_vec("envs:rlsys/CartPole-v0", num_envs=4)
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector)
    recorded.reset(seed=0)
    infos = [recorded.step(np.ones(4, np.int64))[4] for _ in range(40)]
    assert any("episode" in info for info in infos)
