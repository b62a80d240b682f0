"""N copies of one sim, stepped together: autoreset, truncation, statistics and levels, written once for every sim.

This file is a template. `kernels.load` runs a copy of it for each (sim, backend, precision) with these names filled in:
`reset, step, observe, valid, scripted` (the sim's), `level_of, stream_key` (from rng.py), `NUM_ACTIONS` (an int for
Discrete, a tuple for MultiDiscrete, 0 for Box actions), `STATE, PARAMS, OBS, REAL` (dtypes), `OBS_SHAPE`, `pointer`
(jit.py), and `njit, njit_batch, njit_entry, prange` (Numba's, or plain Python's). cuda.py has kernels of its own around the
functions that are `njit`. Kernels write where they are told and look at no shape: vector.py checks every array before it
gets here.

N envs. A world is the tuple (states[N], blank[1], params[1 or N], params_stride, seed, first_env, first_level, num_levels,
max_steps, next_step, ended[N]): states and params are records, params_stride is 0 or 1, first_env is the number of the first of
these envs in a larger batch, and `ended` is the mask of envs whose last step ended an episode. obs[N, ...], reward[N],
terminated[N], truncated[N], final_obs[N, ...], episode_return[N], episode_length[N] are written in place. Where no episode
ended, final_obs is left alone, return and length are 0. The envs are worked off in pieces of `chunk`, one for each thread.
"""

import math

import numpy as np
from numba import carray

WRONG_LENGTH = np.iinfo(np.int64).min


@njit
def _begin(world, i, forced_level, obs):
    """Start the next episode of env i. `forced_level` < 0 leaves the choice of the level to the random stream."""
    states, blank, params, params_stride, seed, first_env, first_level, num_levels = world[:8]
    episode = states[i].episode + 1
    states[i] = blank[0]
    s = states[i]
    s.episode = episode
    s.key = stream_key(seed, np.uintp(first_env) + np.uintp(i), episode)
    if forced_level >= 0:
        s.level = forced_level
    elif num_levels > 0:
        s.level = level_of(s.key, first_level, num_levels)
    p = params[i * np.uintp(params_stride)]
    reset(s, p)
    observe(s, p, obs[i])


@njit
def _copy_vector(source, target):
    for j in range(len(source)):
        target[j] = source[j]


@njit
def _copy_matrix(source, target):
    for j in range(len(source)):
        _copy_vector(source[j], target[j])


@njit
def _copy_volume(source, target):
    for j in range(len(source)):
        _copy_matrix(source[j], target[j])


@njit
def _copy_any(source, target):
    for index in np.ndindex(source.shape):
        target[index] = source[index]


# `target[:] = source` would take two seconds to compile, and a GPU cannot call what `reshape` needs.
_copy = {1: _copy_vector, 2: _copy_matrix, 3: _copy_volume}.get(len(OBS_SHAPE), _copy_any)


@njit
def _valid_discrete(action):
    return 0 <= action < NUM_ACTIONS


@njit
def _valid_multi_discrete(action):
    for k in range(len(NUM_ACTIONS)):
        if action[k] < 0 or action[k] >= NUM_ACTIONS[k]:
            return False
    return True


@njit
def _valid_box(action):
    for x in action.flat:
        if not math.isfinite(x):
            return False
    return True


if isinstance(NUM_ACTIONS, tuple):
    is_valid = _valid_multi_discrete
elif NUM_ACTIONS > 0:
    is_valid = _valid_discrete
else:
    is_valid = _valid_box


@njit
def _invalid_action(actions):
    """Index of the first env whose action the sim must not see, or -1."""
    for i in range(len(actions)):
        if not is_valid(actions[i]):
            return i
    return -1


@njit
def step_rows(
    world, low, high, actions, obs, reward, terminated, truncated, final_obs, episode_return, episode_length
):  # fmt: skip
    """Step the envs low to high; returns how many episodes ended."""
    states, _, params, params_stride, _, _, _, _, max_steps, next_step, ended = world
    num_ended = 0
    rows = range(np.uintp(low), np.uintp(high))  # unsigned: no index to be looked at for its sign
    for i in rows:  # nothing but steps: short, so that the processor works on several at a time
        s = states[i]
        if next_step and s.ended:  # NEXT_STEP autoreset: this step only resets, and its action is ignored
            _begin(world, i, -1, obs)
            reward[i] = 0.0
            terminated[i] = truncated[i] = ended[i] = False
            episode_return[i] = episode_length[i] = 0
            continue
        p = params[i * np.uintp(params_stride)]
        r, terminal = step(s, p, actions[i])
        s.elapsed += 1
        s.episode_return += r
        timeout = s.elapsed >= max_steps
        reward[i] = r
        terminated[i] = terminal
        truncated[i] = timeout
        ended[i] = terminal | timeout
        num_ended += terminal | timeout
        episode_return[i] = episode_length[i] = 0
        observe(s, p, obs[i])
    if num_ended == 0:
        return 0
    for i in rows:
        if ended[i]:
            s = states[i]
            _copy(obs[i], final_obs[i])
            episode_return[i] = s.episode_return
            episode_length[i] = s.elapsed
            if next_step:
                s.ended = 1
            else:
                _begin(world, i, -1, obs)
    return num_ended


@njit_batch
def reset_batch(world, chunk, forced_levels, mask, obs):
    """Start a new episode in every env with mask[i]. forced_levels[N]: a level id, or -1."""
    n = len(mask)
    for c in prange((n + chunk - 1) // chunk):
        for i in range(c * chunk, min(n, (c + 1) * chunk)):
            if mask[i]:
                _begin(world, i, forced_levels[i], obs)


@njit_batch
def step_batch(
    world, chunk, actions, obs, reward, terminated, truncated, final_obs, episode_return, episode_length
):  # fmt: skip
    """Step every env; returns how many episodes ended, or -1 - i if env i's action is invalid (then nothing moves)."""
    invalid = _invalid_action(actions)
    if invalid >= 0:
        return -1 - invalid
    n = len(reward)
    num_ended = 0
    for c in prange((n + chunk - 1) // chunk):
        num_ended += step_rows(
            world, c * chunk, min(n, (c + 1) * chunk), actions,
            obs, reward, terminated, truncated, final_obs, episode_return, episode_length,
        )  # fmt: skip
    return num_ended


@njit
def world_at(bound):
    """The world whose numbers and addresses `SimVectorEnv.bind` has put down in bound."""
    n, stride = bound[0], bound[2]
    return (
        carray(pointer(bound[8]), (n,), STATE),
        carray(pointer(bound[9]), (1,), STATE),
        carray(pointer(bound[10]), (1 + (n - 1) * stride,), PARAMS),
        stride,
        carray(pointer(bound[11]), (1,), np.uint64)[0],
        bound[3],
        bound[4],
        bound[5],
        bound[6],
        bound[7] != 0,
        carray(pointer(bound[12]), (n,), np.bool_),
    )


@njit
def out_at(bound):
    """The arrays that a step writes, likewise."""
    n = bound[0]
    return (
        carray(pointer(bound[13]), (n, *OBS_SHAPE), OBS),
        carray(pointer(bound[14]), (n,), REAL),
        carray(pointer(bound[15]), (n,), np.bool_),
        carray(pointer(bound[16]), (n,), np.bool_),
        carray(pointer(bound[17]), (n, *OBS_SHAPE), OBS),
        carray(pointer(bound[18]), (n,), np.float64),
        carray(pointer(bound[19]), (n,), np.int64),
    )


@njit_entry
def step_bound(bound, actions):
    """`step_batch` on what is bound: two arguments are handed over in a fraction of the time of twenty."""
    if len(actions) != bound[0]:
        return WRONG_LENGTH
    return step_batch(world_at(bound), bound[1], actions, *out_at(bound))


@njit_batch
def observe_batch(states, params, params_stride, obs):
    """Write the observation of every env as it stands."""
    for i in prange(len(states)):
        observe(states[i], params[i * np.uintp(params_stride)], obs[i])


@njit_batch
def invalid_state(states, params, params_stride):
    """Index of an env whose state the sim must not see, or -1."""
    invalid = -1
    for i in prange(len(states)):
        if not valid(states[i], params[i * np.uintp(params_stride)]):
            invalid = max(invalid, i)
    return invalid


@njit_batch
def scripted_batch(states, params, params_stride, actions):
    """Write the sim's own baseline's action of every env; actions[N, k]."""
    for i in prange(len(states)):
        scripted(states[i], params[i * np.uintp(params_stride)], actions[i])
