"""N copies of one sim, stepped together: autoreset, truncation, statistics and levels, written once for every sim.

This file is a template. `kernels.load` runs a copy of it for each (sim, backend, precision) with these names filled in:
`reset, step, observe, valid` (the sim's), `level_of, stream_key` (from rng.py), `NUM_ACTIONS` (an int for Discrete, a
tuple for MultiDiscrete, 0 for Box actions), and `njit, njit_batch, prange` (Numba's, or plain Python's). Kernels write
where they are told and look at no shape: vector.py checks every array before it gets here.

N envs. states[N] and params[1 or N] are records (params_stride is 0 or 1); obs[N, ...], reward[N], terminated[N],
truncated[N], final_obs[N, ...], episode_return[N], episode_length[N] are written in place; of the last three, only the
rows of envs whose episode ended. The envs are worked off in pieces of `chunk`, one for each thread.
"""

import math


@njit
def _begin(states, i, blank, params, params_stride, seed, first_level, num_levels, forced_level, obs):
    """Start the next episode of env i. `forced_level` < 0 leaves the choice of the level to the random stream."""
    episode = states[i].episode + 1
    states[i] = blank[0]
    s = states[i]
    s.episode = episode
    s.key = stream_key(seed, i, episode)
    if forced_level >= 0:
        s.level = forced_level
    elif num_levels > 0:
        s.level = level_of(s.key, first_level, num_levels)
    p = params[i * params_stride]
    reset(s, p)
    observe(s, p, obs[i])


@njit
def _copy_row(source, target, i):
    target[i] = source[i]


@njit
def _is_valid_discrete(action):
    return 0 <= action < NUM_ACTIONS


@njit
def _is_valid_multi_discrete(action):
    for k in range(len(NUM_ACTIONS)):
        if action[k] < 0 or action[k] >= NUM_ACTIONS[k]:
            return False
    return True


@njit
def _is_valid_box(action):
    for x in action.flat:
        if not math.isfinite(x):
            return False
    return True


if isinstance(NUM_ACTIONS, tuple):
    _is_valid = _is_valid_multi_discrete
elif NUM_ACTIONS > 0:
    _is_valid = _is_valid_discrete
else:
    _is_valid = _is_valid_box


@njit
def _invalid_action(actions):
    """Index of the first env whose action the sim must not see, or -1."""
    for i in range(len(actions)):
        if not _is_valid(actions[i]):
            return i
    return -1


@njit_batch
def reset_batch(
    states, blank, params, params_stride, seed, first_level, num_levels, forced_levels, mask, obs, chunk
):  # fmt: skip
    """Start a new episode in every env with mask[i]. forced_levels[N]: a level id, or -1."""
    n = len(states)
    for c in prange((n + chunk - 1) // chunk):
        for i in range(c * chunk, min(n, (c + 1) * chunk)):
            if mask[i]:
                _begin(
                    states, i, blank, params, params_stride, seed, first_level, num_levels, forced_levels[i], obs
                )  # fmt: skip


@njit_batch
def step_batch(
    states, blank, params, params_stride, seed, first_level, num_levels, max_steps, next_step, actions,
    obs, reward, terminated, truncated, final_obs, episode_return, episode_length, chunk,
):  # fmt: skip
    """Step every env; returns how many episodes ended, or -1 - i if env i's action is invalid (then nothing moves)."""
    invalid = _invalid_action(actions)
    if invalid >= 0:
        return -1 - invalid
    n = len(states)
    ended = 0
    for c in prange((n + chunk - 1) // chunk):
        for i in range(c * chunk, min(n, (c + 1) * chunk)):
            s = states[i]
            p = params[i * params_stride]
            if next_step and s.ended:  # NEXT_STEP autoreset: this step only resets, and its action is ignored
                _begin(states, i, blank, params, params_stride, seed, first_level, num_levels, -1, obs)
                reward[i] = 0.0
                terminated[i] = False
                truncated[i] = False
                continue

            r, terminal = step(s, p, actions[i])
            s.elapsed += 1
            s.episode_return += r
            timeout = s.elapsed >= max_steps
            reward[i] = r
            terminated[i] = terminal
            truncated[i] = timeout
            observe(s, p, obs[i])

            if terminal or timeout:
                ended += 1
                _copy_row(obs, final_obs, i)
                episode_return[i] = s.episode_return
                episode_length[i] = s.elapsed
                if next_step:
                    s.ended = 1
                else:
                    _begin(states, i, blank, params, params_stride, seed, first_level, num_levels, -1, obs)
    return ended


@njit_batch
def observe_batch(states, params, params_stride, obs):
    """Write the observation of every env as it stands."""
    for i in prange(len(states)):
        observe(states[i], params[i * params_stride], obs[i])


@njit_batch
def invalid_state(states, params, params_stride):
    """Index of an env whose state the sim must not see, or -1."""
    invalid = -1
    for i in prange(len(states)):
        if not valid(states[i], params[i * params_stride]):
            invalid = max(invalid, i)
    return invalid
