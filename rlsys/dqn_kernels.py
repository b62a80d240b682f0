"""Deep Q-learning in one call: look, act, step, remember, sample, learn. The same as `agents/dqn.py`, in its words.

This file is a template, as `envs/engine/batch.py` is: `native.py` fills in `forward, outputs, normalised, gradient_step,
LANES` (mlp_kernels.py), `q_row` (agents/dqn_rules.py), `DOUBLE`, for compiled envs `step_rows, world_at` (batch.py), and
`njit`, `njit_batch`, `njit_entry`, `prange`.

N envs, F features, B minibatch, L rows of the ring. net and norm as in mlp_kernels.py. A ring is the tuple (obs, action,
reward, next_obs, terminated, ended, valid) of `buffers.Replay`, flat: [L * N, *], the observations [L * N, F].
"""

import math

import numpy as np


@njit
def _sample(ring, num_envs, written, n_step, gamma, bits, first, last, columns):
    """What `Replay.sample` does, for the random numbers bits [B]: items first [B] and last [B], columns [B, action, R, discount]."""
    _, action, reward, _, terminated, ended, _ = ring
    capacity = len(action)
    size = min(written * num_envs, capacity)
    oldest = max(written * num_envs - capacity, 0) % capacity
    for b in range(len(bits)):
        age = bits[b] % size
        item = (age + oldest) % capacity
        first[b] = item
        total, discount = reward[item], gamma
        for _ in range(n_step - 1):
            age += num_envs
            if ended[item] or age >= size:
                break
            item = (age + oldest) % capacity
            total += discount * reward[item]
            discount *= gamma
        last[b] = item
        columns[b, 0], columns[b, 1] = action[first[b]], total
        columns[b, 2] = 0.0 if terminated[item] else discount


@njit
def _best(out, q):
    """The action of the highest value in an output row; q is scratch."""
    q_row(out, q)
    best = 0
    for j in range(1, len(q)):
        if q[j] > q[best]:
            best = j
    return best


@njit_batch
def _targets(net, target, norm, target_norm, next_obs, last, columns, target_columns, scratch, q):
    """target_columns [B, (action, target)] from columns [B, (action, R, discount)]: R + discount Q'(s_n, a*)."""
    _, acts, _, _, xs, outs, _, _ = scratch
    batch, chunk = len(last), 32
    n_chunks = (batch + chunk - 1) // chunk
    for lane in prange(min(LANES, n_chunks)):
        x, out = xs[lane], outs[lane]
        for c in range(lane, n_chunks, LANES):
            low = c * chunk
            rows = min(batch - low, chunk)
            if DOUBLE:
                for r in range(rows):
                    normalised(next_obs[last[low + r]], norm, x[r])
                forward(net, (0, 1), x[:rows], acts[lane], rows)
                outputs(net, (0, 1), acts[lane], rows, out)
                for r in range(rows):
                    target_columns[low + r, 0] = _best(out[r], q[lane])
            for r in range(rows):
                normalised(next_obs[last[low + r]], target_norm, x[r])
            forward(target, (0, 1), x[:rows], acts[lane], rows)
            outputs(target, (0, 1), acts[lane], rows, out)
            for r in range(rows):
                b = low + r
                best = _best(out[r], q[lane])
                if DOUBLE:
                    best = int(target_columns[b, 0])
                target_columns[b, 0] = columns[b, 0]
                target_columns[b, 1] = columns[b, 1] + columns[b, 2] * q[lane, best]


@njit_entry
def learn(
    net, target, norm, target_norm, ring, num_envs, written, n_step, gamma, bits, optimizer, steps, scratch, work, logs
):  # fmt: skip
    """A gradient step for each row of bits [G, B]."""
    first, last, columns, target_columns, q, positions, constants = work
    for g in range(len(bits)):
        _sample(ring, num_envs, written, n_step, gamma, bits[g], first, last, columns)
        _targets(net, target, norm, target_norm, ring[3], last, columns, target_columns, scratch, q)
        gradient_step(
            net, norm, ring[0], first, target_columns, positions, constants, optimizer, steps + g + 1, np.inf, scratch,
            logs[g],
        )  # fmt: skip


@njit
def _towards(target, online, tau):
    for i in range(len(target)):
        target[i] += tau * (online[i] - target[i])


@njit_entry
def rounds(
    bound, obs, obs_rows, step, explore, random_action, updates, gradient_steps, net, target, norm, target_norm, stats,
    target_stats, tau, ring, written, n_step, gamma, bits, optimizer, steps, scratch, work, logs,
):  # fmt: skip
    """R steps of all envs, epsilon-greedily, and what is to be learned after each; returns the number of gradient steps.

    obs [N, *O], of which obs_rows [N, F] is a view: to act on, and in the end to act on next. explore and random_action
    [R, N]; updates [R]: whether the target network is moved after the step; gradient_steps [R]. step: the arrays that a
    step fills, final_rows [N, F] as a view of final_obs, and those that are kept of all, [R, N] each.
    """
    num_rounds, n = explore.shape
    truncated, final_obs, final_rows, action, returns, lengths, acts, xs, outs, q = step
    ring_obs, ring_action, ring_reward, ring_next_obs, ring_terminated, ring_ended, ring_valid = ring
    rows_of_ring = len(ring_action) // n
    world = world_at(bound)
    chunk = xs.shape[1]
    done = 0
    for t in range(num_rounds):
        at = written % rows_of_ring * n
        for low in range(0, n, chunk):
            rows = min(n - low, chunk)
            for r in range(rows):
                normalised(obs_rows[low + r], norm, xs[r])
            forward(net, (0, 1), xs[:rows], acts, rows)
            outputs(net, (0, 1), acts, rows, outs)
            for r in range(rows):
                i = low + r
                action[i] = random_action[t, i] if explore[t, i] else _best(outs[r], q)
        for i in range(n):
            ring_action[at + i] = action[i]
            ring_valid[at + i] = True
            for j in range(obs_rows.shape[1]):
                ring_obs[at + i, j] = obs_rows[i, j]
        end = at + n
        step_rows(
            world, 0, n, action, obs, ring_reward[at:end], ring_terminated[at:end], truncated, final_obs, returns[t], lengths[t]
        )  # fmt: skip
        for i in range(n):
            ended = ring_terminated[at + i] or truncated[i]
            ring_ended[at + i] = ended
            for j in range(obs_rows.shape[1]):
                ring_next_obs[at + i, j] = final_rows[i, j] if ended else obs_rows[i, j]
        written += 1

        if updates[t]:
            _towards(target[0], net[0], tau)
            for k in range(len(stats)):
                _towards(target_stats[k], stats[k], tau)
            mean, scale, _ = target_norm
            for j in range(len(target_stats[0])):
                mean[j] = target_stats[0][j]
                scale[j] = 1.0 / math.sqrt(target_stats[1][j] + 1e-8)
        more = gradient_steps[t]
        if more > 0:
            learn(
                net, target, norm, target_norm, ring, n, written, n_step, gamma, bits[done : done + more], optimizer,
                steps + done, scratch, work, logs[done : done + more],
            )  # fmt: skip
            done += more
    return done
