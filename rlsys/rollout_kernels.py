"""A whole rollout of compiled envs in one call: look, act, step, and write everything down.

This file is a template, as `envs/engine/batch.py` is: `native.py` fills in `turn, forward, outputs, normalised, bare_net,
bare_norm, LANES` (mlp_kernels.py), `pick_row` (native.Rule), `step_rows, world_at, is_valid` (of the sim: batch.py),
`DISCRETE`, `cycles, bare` (jit.py), and `njit`, `njit_batch`, `njit_entry`, `prange`.

T time, N envs, O observation, F features (O flattened), A action. The envs are cut into chunks of ENVS, which never meet:
a thread takes its chunks through all T steps. net and norm as in mlp_kernels.py.
"""

import numpy as np

ENVS = 32  # native.CHUNK_FROM: rows that make full use of the matrix product, and enough chunks for the threads


@njit
def _to_env(action, box, env_action):
    """A normalised action [A] in the env's units [A]; box = (low [A], half its width [A], whether it has bounds)."""
    low, half, is_bounded = box
    for j in range(len(action)):
        a = action[j]
        env_action[j] = low[j] + (min(max(a, -1.0), 1.0) + 1.0) * half[j] if is_bounded else a


@njit
def _chunk(bound, net, norm, noise, rows_of, step, box, low, high, acts, x, out, clock):
    """The envs low to high, through all T steps. Returns T, or the step at which the policy gave an invalid action."""
    obs, obs_rows, action, env_action, env_rows, log_prob, value, final_value = rows_of
    reward, terminated, truncated, final_obs, final_rows, episode_return, episode_length = step
    world = world_at(bound)
    steps, rows, n_nets = len(log_prob), high - low, len(net[3]) - 1
    x = x[:rows]
    for t in range(steps + 1):
        for r in range(rows):
            normalised(obs_rows[t, low + r], norm, x[r])
        forward(net, 0, n_nets, x, acts, rows)
        outputs(net, 0, n_nets, acts, rows, out)
        if n_nets > 1:
            for r in range(rows):
                value[t, low + r] = out[r, out.shape[1] - 1]
        if t == steps:
            break
        is_good = True
        for r in range(rows):
            i = low + r
            log_prob[t, i] = pick_row(out[r], noise[t, i], action[t, i])
            if not DISCRETE:
                _to_env(action[t, i], box, env_rows[t, i])
                is_good = is_good and is_valid(env_action[t, i])
        if not is_good:
            return t
        before = cycles()
        step_rows(
            world, low, high, env_action[t], obs[t + 1], reward[t], terminated[t], truncated[t], final_obs[t],
            episode_return[t], episode_length[t],
        )  # fmt: skip
        clock[0] += cycles() - before
        for i in range(low, high):
            if truncated[t, i] and not terminated[t, i]:  # seldom: one at a time
                normalised(final_rows[t, i], norm, x[0])
                forward(net, n_nets - 1, n_nets, x[:1], acts, 1)
                outputs(net, n_nets - 1, n_nets, acts, 1, out)
                final_value[t, i] = out[0, len(net[0]) - net[4]]
    return steps


@njit_batch
def rollout(bound, net, norm, noise, rows_of, step, box, acts, xs, outs, clock):
    """Act T times in every env, from obs[0] on. Returns T, or the step at which the policy gave an invalid action.

    noise [T, N, A] decides the actions. Filled: rows_of, (obs [T + 1, N, *O], of which obs_rows [T + 1, N, F] is a view;
    action [T, N, A], A = 1 if discrete; env_action [T, N, *A], of which env_rows [T, N, A] is a view; log_prob [T, N];
    value [T + 1, N], by the last network; final_value [T, N], of final_obs where an episode was truncated); step, the arrays
    [T, N, *] of what a step gives, with final_rows [T, N, F] as a view of final_obs; and clock [LANES, 2], the cycles that
    the steps took, and all.
    """
    steps, n, _ = noise.shape
    net, norm, noise = bare_net(net), bare_norm(norm), bare(noise)
    acts, xs, outs, clock = bare(acts), bare(xs), bare(outs), bare(clock)
    obs, obs_rows, action, env_action, env_rows, log_prob, value, final_value = rows_of
    rows_of = (
        bare(obs), bare(obs_rows), bare(action), bare(env_action), bare(env_rows), bare(log_prob), bare(value),
        bare(final_value),
    )  # fmt: skip
    reward, terminated, truncated, final_obs, final_rows, episode_return, episode_length = step
    step = (
        bare(reward), bare(terminated), bare(truncated), bare(final_obs), bare(final_rows), bare(episode_return),
        bare(episode_length),
    )  # fmt: skip
    turn(net)
    n_chunks = (n + ENVS - 1) // ENVS
    good = steps
    for k in prange(min(LANES, n_chunks)):  # little code here: what is inside a prange takes long to compile
        lane, began = np.int64(k), cycles()  # signed, so that what is called is not compiled twice
        for c in range(lane, n_chunks, LANES):
            low, high = c * ENVS, min(n, (c + 1) * ENVS)
            done = _chunk(
                bound, net, norm, noise, rows_of, step, box, low, high, acts[lane], xs[lane], outs[lane], clock[lane]
            )  # fmt: skip
            good = min(good, done)
        clock[lane, 1] += cycles() - began
    return good


@njit_entry
def advantages(reward, value, final_value, terminated, truncated, gamma, gae_lambda, advantage, target):
    """`returns.gae` on rewards that bootstrap where episodes were truncated (`returns.bootstrap_truncated`).

    All [T, N], but value [T + 1, N].
    """
    steps, n = reward.shape
    for t in range(steps - 1, -1, -1):
        for i in range(n):
            r, going_on = reward[t, i], 1.0
            if terminated[t, i] or truncated[t, i]:
                going_on = 0.0
                if not terminated[t, i]:
                    r += gamma * final_value[t, i]
            later = advantage[t + 1, i] if t + 1 < steps else 0.0
            delta = r + gamma * value[t + 1, i] * going_on - value[t, i]
            advantage[t, i] = delta + gamma * gae_lambda * going_on * later
            target[t, i] = advantage[t, i] + value[t, i]
