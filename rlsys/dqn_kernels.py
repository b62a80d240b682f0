"""Deep Q-learning in one call: look, act, step, remember, sample, learn. The same as `agents/dqn.py`, in its words.

This file is a template, as `envs/engine/batch.py` is: `native.py` fills in `turn, forward, outputs, normalised,
gradient_step, bare_net, bare_norm, bare_scratch, LANES` (mlp_kernels.py), `q_row` (agents/dqn_rules.py), `DOUBLE`, `bare`
(jit.py), for compiled envs `step_rows, world_at` (batch.py) and `cycles` (jit.py), and `njit`, `njit_batch`, `njit_entry`,
`prange`.

N envs, F features, B minibatch, L rows of the ring. net and norm as in mlp_kernels.py. A ring is the tuple (obs, action,
reward, next_obs, terminated, ended, valid) of `buffers.Replay`, flat: [L * N, *], the observations [L * N, F].
"""

import math

import numpy as np


@njit
def _sample(ring, num_envs, written, n_step, gamma, bits, first, last, columns):
    """What `Replay.sample` does with random bits [B]: items first and last [B], columns [B, (action, R, discount)]."""
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


@njit
def _targets_of_a_chunk(net, target, norm, target_norm, next_obs, last, columns, target_columns, acts, x, out, q):
    rows = len(last)
    if DOUBLE:
        for r in range(rows):
            normalised(next_obs[last[r]], norm, x[r])
        forward(net, 0, 1, x[:rows], acts, rows)
        outputs(net, 0, 1, acts, rows, out)
        for r in range(rows):
            target_columns[r, 0] = _best(out[r], q)
    for r in range(rows):
        normalised(next_obs[last[r]], target_norm, x[r])
    forward(target, 0, 1, x[:rows], acts, rows)
    outputs(target, 0, 1, acts, rows, out)
    for r in range(rows):
        best = _best(out[r], q)
        if DOUBLE:
            best = int(target_columns[r, 0])
        target_columns[r, 0] = columns[r, 0]
        target_columns[r, 1] = columns[r, 1] + columns[r, 2] * q[best]


@njit_batch
def _targets(net, target, norm, target_norm, next_obs, last, columns, target_columns, scratch, q):
    """target_columns [B, (action, target)] from columns [B, (action, R, discount)]: R + discount Q'(s_n, a*)."""
    _, acts, _, _, xs, outs, _, _ = scratch
    batch, chunk = len(last), min(32, xs.shape[1])
    n_chunks = (batch + chunk - 1) // chunk
    for k in prange(min(LANES, n_chunks)):
        lane = np.int64(k)
        for c in range(lane, n_chunks, LANES):
            low, high = c * chunk, min(batch, (c + 1) * chunk)
            _targets_of_a_chunk(
                net, target, norm, target_norm, next_obs, last[low:high], columns[low:high], target_columns[low:high],
                acts[lane], xs[lane], outs[lane], q[lane],
            )  # fmt: skip


@njit
def _learn(
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


@njit_entry
def learn(
    net, target, norm, target_norm, ring, num_envs, written, n_step, gamma, bits, optimizer, steps, scratch, work, logs
):  # fmt: skip
    """`_learn`, from Python."""
    turn(net)
    turn(target)
    _learn(
        net, target, norm, target_norm, ring, num_envs, written, n_step, gamma, bits, optimizer, steps, scratch, work, logs
    )  # fmt: skip


@njit
def _towards(target, online, tau):
    """`Tensor.lerp_`: to the bit what it should be for tau = 1."""
    for i in range(len(target)):
        if tau < 0.5:
            target[i] += tau * (online[i] - target[i])
        else:
            target[i] = online[i] - (1.0 - tau) * (online[i] - target[i])


@njit_entry
def rounds(
    bound, obs, obs_rows, step, explore, random_action, updates, gradient_steps, clock, net, target, norm, target_norm,
    stats, target_stats, tau, ring, n, written, n_step, gamma, bits, optimizer, steps, scratch, work, logs,
):  # fmt: skip
    """R steps of all envs, epsilon-greedily, and what is to be learned after each; returns the number of gradient steps.

    obs [N, *O], of which obs_rows [N, F] is a view: to act on, and in the end to act on next. explore and random_action
    [R, N]; updates [R]: whether the target network is moved after the step; gradient_steps [R]. step: the arrays that a
    step fills, final_rows [N, F] as a view of final_obs, and those that are kept of all, [R, N] each. clock [3]: the cycles
    that steps took, that learning took, and all.
    """
    num_rounds = len(explore)
    net, target, norm, target_norm, scratch = (
        bare_net(net), bare_net(target), bare_norm(norm), bare_norm(target_norm), bare_scratch(scratch)
    )  # fmt: skip
    obs, obs_rows, explore, random_action, logs, bits = (
        bare(obs), bare(obs_rows), bare(explore), bare(random_action), bare(logs), bare(bits)
    )  # fmt: skip
    turn(net)
    turn(target)
    truncated, final_obs, final_rows, action, returns, lengths, acts, xs, outs, q = step
    truncated, final_obs, action, returns, lengths = (
        bare(truncated), bare(final_obs), bare(action), bare(returns), bare(lengths)
    )  # fmt: skip
    acts, xs, outs = bare(acts), bare(xs), bare(outs)
    ring_obs, ring_action, ring_reward, ring_next_obs, ring_terminated, ring_ended, ring_valid = ring
    ring_obs, ring_action, ring_reward, ring_next_obs, ring_terminated, ring_ended = (
        bare(ring_obs), bare(ring_action), bare(ring_reward), bare(ring_next_obs), bare(ring_terminated), bare(ring_ended)
    )  # fmt: skip
    ring = (ring_obs, ring_action, ring_reward, ring_next_obs, ring_terminated, ring_ended, ring_valid)
    rows_of_ring = len(ring_action) // n
    world = world_at(bound)
    chunk = xs.shape[1]
    done = 0
    clock[:] = 0
    began = cycles()
    for t in range(num_rounds):
        at = written % rows_of_ring * n
        for low in range(0, n, chunk):
            rows = min(n - low, chunk)
            for r in range(rows):
                normalised(obs_rows[low + r], norm, xs[r])
            forward(net, 0, 1, xs[:rows], acts, rows)
            outputs(net, 0, 1, acts, rows, outs)
            for r in range(rows):
                i = low + r
                action[i] = random_action[t, i] if explore[t, i] else _best(outs[r], q)
        for i in range(n):
            ring_action[at + i] = action[i]
            ring_valid[at + i] = True
            for j in range(obs_rows.shape[1]):
                ring_obs[at + i, j] = obs_rows[i, j]
        end = at + n
        before = cycles()
        step_rows(
            world, 0, n, action, obs, ring_reward[at:end], ring_terminated[at:end], truncated, final_obs, returns[t], lengths[t]
        )  # fmt: skip
        clock[0] += cycles() - before
        for i in range(n):
            ended = ring_terminated[at + i] or truncated[i]
            ring_ended[at + i] = ended
            for j in range(obs_rows.shape[1]):
                ring_next_obs[at + i, j] = final_rows[i, j] if ended else obs_rows[i, j]
        written += 1

        after = cycles()
        if updates[t]:
            _towards(target[0], net[0], tau)
            turn(target)
            for k in range(len(stats)):
                _towards(target_stats[k], stats[k], tau)
            mean, scale, _ = target_norm
            for j in range(len(target_stats[0])):
                mean[j] = target_stats[0][j]
                scale[j] = 1.0 / math.sqrt(target_stats[1][j] + 1e-8)
        more = gradient_steps[t]
        if more > 0:
            _learn(
                net, target, norm, target_norm, ring, n, written, n_step, gamma, bits[done : done + more], optimizer,
                steps + done, scratch, work, logs[done : done + more],
            )  # fmt: skip
            done += more
        clock[1] += cycles() - after
    clock[2] = cycles() - began
    return done
