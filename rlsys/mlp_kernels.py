"""MLPs on the CPU: forward, backward by hand, and Adam, in chunks of rows that stay in a core's cache.

This file is a template, as `envs/engine/batch.py` is: `native.py` fills in `activation` (y -> f(y)), `slope` (f(y) -> f'(y)),
`pick_row` and `loss_row` (scalar functions of one sample; see native.py), `STANDARDIZE` (a column, or -1), and `njit`,
`njit_batch`, `prange`.

All parameters are one vector `flat`. layers[L] = (weights at, bias at, n_in, n_out, activations at); network k has the layers
first[k] to first[k + 1]; what no network computes, the free parameters, is flat[free_at:]. An output row is the networks'
outputs, then the free parameters. S samples, B a minibatch, F features.

A minibatch is cut into chunks, chunk c belongs to lane c % LANES, and lanes are added up in their order: the bits of a
result do not depend on the number of threads.
"""

import math

import numpy as np

CHUNK = 128  # rows whose activations fit a core's L2 cache
LANES = 16  # as many threads can be of use


@njit
def _layer(layers, l):
    return layers[l, 0], layers[l, 1], layers[l, 2], layers[l, 3], layers[l, 4]


@njit
def _forward(flat, layers, first, nets, x, acts, lane, rows):
    """Run the networks nets[0] to nets[1] on x [rows, F]; the activations of every layer go to acts[lane]."""
    for k in range(nets[0], nets[1]):
        h = x
        for l in range(first[k], first[k + 1]):
            w_at, b_at, n_in, n_out, y_at = _layer(layers, l)
            y = acts[lane, y_at : y_at + rows * n_out].reshape(rows, n_out)
            np.dot(h, flat[w_at : w_at + n_out * n_in].reshape(n_out, n_in).T, y)
            bias = flat[b_at : b_at + n_out]
            if l + 1 < first[k + 1]:
                for r in range(rows):
                    for j in range(n_out):
                        y[r, j] = activation(y[r, j] + bias[j])
            else:
                for r in range(rows):
                    for j in range(n_out):
                        y[r, j] += bias[j]
            h = y


@njit
def _outputs(flat, layers, first, nets, free_at, acts, lane, rows, out):
    """Gather what `_forward` computed into output rows out [rows, *]."""
    at = 0
    for k in range(nets[0], nets[1]):
        n_out, y_at = layers[first[k + 1] - 1, 3], layers[first[k + 1] - 1, 4]
        y = acts[lane, y_at : y_at + rows * n_out].reshape(rows, n_out)
        out[:rows, at : at + n_out] = y
        at += n_out
    for j in range(free_at, len(flat)):
        for r in range(rows):
            out[r, at + j - free_at] = flat[j]


@njit
def _backward(flat, grad, layers, first, free_at, x, acts, deltas, product, lane, rows, d_out):
    """Add the gradient of sum(out * d_out) over the chunk's rows to grad[lane]."""
    at = 0
    for k in range(len(first) - 1):
        last = first[k + 1] - 1
        n_out = layers[last, 3]
        side = 0
        d = deltas[lane, side, : rows * n_out].reshape(rows, n_out)
        d[:, :] = d_out[:rows, at : at + n_out]
        at += n_out
        for l in range(last, first[k] - 1, -1):
            w_at, b_at, n_in, n_out, _ = _layer(layers, l)
            h = x
            if l > first[k]:
                h_at = layers[l - 1, 4]
                h = acts[lane, h_at : h_at + rows * n_in].reshape(rows, n_in)
            size = n_out * n_in
            np.dot(d.T, h, product[lane, :size].reshape(n_out, n_in))
            weights, p = grad[lane, w_at : w_at + size], product[lane, :size]
            for i in range(size):
                weights[i] += p[i]
            bias = grad[lane, b_at : b_at + n_out]
            for r in range(rows):
                for j in range(n_out):
                    bias[j] += d[r, j]
            if l > first[k]:
                side = 1 - side
                below = deltas[lane, side, : rows * n_in].reshape(rows, n_in)
                np.dot(d, flat[w_at : w_at + size].reshape(n_out, n_in), below)
                for r in range(rows):
                    for j in range(n_in):
                        below[r, j] *= slope(h[r, j])
                d = below
    for j in range(free_at, len(flat)):
        for r in range(rows):
            grad[lane, j] += d_out[r, at + j - free_at]


@njit_batch
def evaluate(flat, layers, first, nets, free_at, features, out, acts):
    """Output rows out [S, *] of features [S, F]: of the networks nets[0] to nets[1], and the free parameters."""
    n = len(features)
    n_chunks = (n + CHUNK - 1) // CHUNK
    for lane in prange(min(LANES, n_chunks)):
        for c in range(lane, n_chunks, LANES):
            lo, hi = c * CHUNK, min(n, (c + 1) * CHUNK)
            _forward(flat, layers, first, nets, features[lo:hi], acts, lane, hi - lo)
            _outputs(flat, layers, first, nets, free_at, acts, lane, hi - lo, out[lo:hi])


@njit_batch
def pick(out, noise, action, log_prob):
    """Choose an action for each output row by its noise; fills action [N, A] and log_prob [N]."""
    for i in range(len(out)):
        log_prob[i] = pick_row(out[i], noise[i], action[i])


@njit
def _mean_and_std(column, order):
    """Mean and unbiased standard deviation (plus 1e-8, to divide by) of column[order]."""
    total = 0.0
    for i in order:
        total += column[i]
    mean = total / len(order)
    squares = 0.0
    for i in order:
        squares += (column[i] - mean) ** 2
    return mean, math.sqrt(squares / (len(order) - 1)) + 1e-8


@njit_batch
def fit(
    flat, moment, square, steps, layers, first, free_at, features, columns, order, starts, constants, adam, max_norm,
    max_log, grad, acts, deltas, product, xs, outs, d_outs, lane_logs, logs,
):  # fmt: skip
    """Adam steps on the minibatches order[starts[k]:starts[k + 1]]; returns how many were taken.

    adam: (learning rate, beta1, beta2, epsilon). Stops before a minibatch whose first log exceeds max_log.
    logs[K, :]: the mean of what `loss_row` logged, then the norm of the gradient before it was clipped to max_norm.
    """
    n_logs = lane_logs.shape[1]
    for k in range(len(starts) - 1):
        begin, end = starts[k], starts[k + 1]
        shift, scale = 0.0, 1.0
        if STANDARDIZE >= 0 and end - begin > 1:
            shift, scale = _mean_and_std(columns[:, STANDARDIZE], order[begin:end])
        n_chunks = (end - begin + CHUNK - 1) // CHUNK
        n_lanes = min(LANES, n_chunks)
        for lane in prange(n_lanes):
            grad[lane, :] = 0
            lane_logs[lane, :] = 0
            x, out, d_out = xs[lane], outs[lane], d_outs[lane]
            for c in range(lane, n_chunks, LANES):
                lo = begin + c * CHUNK
                rows = min(end - lo, CHUNK)
                for r in range(rows):
                    for j in range(features.shape[1]):
                        x[r, j] = features[order[lo + r], j]
                _forward(flat, layers, first, (0, len(first) - 1), x[:rows], acts, lane, rows)
                _outputs(flat, layers, first, (0, len(first) - 1), free_at, acts, lane, rows, out)
                for r in range(rows):
                    loss_row(out[r], columns[order[lo + r]], shift, scale, constants, d_out[r], lane_logs[lane])
                    for j in range(d_out.shape[1]):
                        d_out[r, j] /= end - begin
                _backward(flat, grad, layers, first, free_at, x[:rows], acts, deltas, product, lane, rows, d_out)

        total = grad[0]
        for lane in range(1, n_lanes):
            for i in range(len(flat)):
                total[i] += grad[lane, i]
            for i in range(n_logs):
                lane_logs[0, i] += lane_logs[lane, i]
        for i in range(n_logs):
            logs[k, i] = lane_logs[0, i] / (end - begin)
        if logs[k, 0] > max_log:
            return k

        norm = 0.0
        for i in range(len(flat)):
            norm += total[i] * total[i]
        norm = math.sqrt(norm)
        logs[k, n_logs] = norm
        _adam(flat, moment, square, steps + k + 1, total, min(1.0, max_norm / (norm + 1e-6)), adam)
    return len(starts) - 1


@njit
def _adam(flat, moment, square, step, grad, factor, adam):
    """One step of Adam (Kingma and Ba 2015, algorithm 1) on factor * grad, in the arithmetic of torch.optim.Adam."""
    learning_rate, beta1, beta2, epsilon = adam
    step_size = learning_rate / (1.0 - beta1**step)
    correction = math.sqrt(1.0 - beta2**step)
    for i in range(len(flat)):
        g = grad[i] * factor
        moment[i] = beta1 * moment[i] + (1.0 - beta1) * g
        square[i] = beta2 * square[i] + (1.0 - beta2) * g * g
        flat[i] -= step_size * moment[i] / (math.sqrt(square[i]) / correction + epsilon)
