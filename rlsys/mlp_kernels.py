"""MLPs on the CPU: forward, backward by hand, and Adam, in chunks of rows that stay in a core's cache.

This file is a template, as `envs/engine/batch.py` is: `native.py` fills in `activation` (y -> f(y)), `slope` (f(y) -> f'(y)),
`loss_row` and `pick_row` (scalar functions of one sample; see native.py), `STANDARDIZE` (a column, or -1), `SPARSE` (whether
observations are mostly zeros), `bare` (jit.py), and `njit`, `njit_batch`, `njit_entry`, `prange`.

A net is the tuple (flat, turned, layers, first, free_at). All parameters are one vector `flat`; layers[L] = (weights at, bias
at, n_in, n_out, activations at); network k has the layers first[k] to first[k + 1]; what no network computes, the free
parameters, is flat[free_at:]. In `turned` the weights are transposed, as the matrix product likes them best when it goes
forward; `turn` brings it up to date, and whoever enters from Python begins with that. An output row is the free parameters,
then the networks' outputs. A norm is the tuple (mean[F], scale[F], limit): a network sees clip((obs - mean) * scale, -limit,
limit). S samples, B a minibatch, F features.

Where observations are grids of flags, the first layer skips what is zero, in either direction: of a board of 12 x 12 x 7 flags
with some twenty set, that is nearly all of the work.

A minibatch is cut into chunks, chunk c belongs to lane c % LANES, and lanes are added up in their order: the bits of a
result do not depend on the number of threads. Scratch memory has one row for each lane.
"""

import math

import numpy as np

LANES = 16  # as many threads can be of use


@njit
def _layer(layers, l):
    return layers[l, 0], layers[l, 1], layers[l, 2], layers[l, 3], layers[l, 4]


@njit
def turn(net):
    """Transpose the weights."""
    flat, turned, layers, _, _ = net
    for l in range(len(layers)):
        w_at, _, n_in, n_out, _ = _layer(layers, l)
        for j in range(n_in):
            for i in range(n_out):
                turned[w_at + j * n_out + i] = flat[w_at + i * n_in + j]


@njit
def normalised(obs, norm, x):
    """One observation [F] as the networks see it, into x [F]."""
    mean, scale, limit = norm
    for j in range(len(x)):
        x[j] = min(max((obs[j] - mean[j]) * scale[j], -limit), limit)


@njit
def _first_layer(x, weights, y, rows):
    """y [rows, n] = x [rows, F] @ weights [F, n]."""
    if not SPARSE:
        np.dot(x, weights, y)
        return
    for r in range(rows):
        for i in range(y.shape[1]):
            y[r, i] = 0
        for j in range(x.shape[1]):
            value = x[r, j]
            if value != 0:
                for i in range(y.shape[1]):
                    y[r, i] += value * weights[j, i]


@njit
def _first_gradient(x, d, grad, rows):
    """grad [F, n] += x [rows, F].T @ d [rows, n], where observations are sparse."""
    for r in range(rows):
        for j in range(x.shape[1]):
            value = x[r, j]
            if value != 0:
                for i in range(d.shape[1]):
                    grad[j, i] += value * d[r, i]


@njit
def _turn_first_gradients(net, grad, product):
    """Bring the first layers' gradients from the order of `_first_gradient` [F, n] into that of the weights [n, F]."""
    _, _, layers, first, _ = net
    for k in range(len(first) - 1):
        w_at, _, n_in, n_out, _ = _layer(layers, first[k])
        for j in range(n_in):
            for i in range(n_out):
                product[i * n_in + j] = grad[w_at + j * n_out + i]
        for i in range(n_in * n_out):
            grad[w_at + i] = product[i]


@njit
def forward(net, from_net, to_net, x, acts, rows):
    """Run the networks from_net to to_net on x [rows, F]; the activations of every layer go to acts."""
    flat, turned, layers, first, _ = net
    for k in range(from_net, to_net):
        h = x
        for l in range(first[k], first[k + 1]):
            w_at, b_at, n_in, n_out, y_at = _layer(layers, l)
            y = acts[y_at : y_at + rows * n_out].reshape(rows, n_out)
            weights = turned[w_at : w_at + n_in * n_out].reshape(n_in, n_out)
            if l == first[k]:
                _first_layer(h, weights, y, rows)
            else:
                np.dot(h, weights, y)
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
def outputs(net, from_net, to_net, acts, rows, out):
    """Gather what `forward` computed into output rows out [rows, *]."""
    flat, _, layers, first, free_at = net
    at = len(flat) - free_at
    for j in range(at):
        for r in range(rows):
            out[r, j] = flat[free_at + j]
    for k in range(from_net, to_net):
        n_out, y_at = layers[first[k + 1] - 1, 3], layers[first[k + 1] - 1, 4]
        for r in range(rows):
            for j in range(n_out):
                out[r, at + j] = acts[y_at + r * n_out + j]
        at += n_out


@njit
def backward(net, grad, x, acts, deltas, product, rows, d_out):
    """Add the gradient of sum(out * d_out) over rows to grad; where observations are sparse, see `_turn_first_gradients`."""
    flat, _, layers, first, free_at = net
    at = len(flat) - free_at
    for j in range(at):
        for r in range(rows):
            grad[free_at + j] += d_out[r, j]
    for k in range(len(first) - 1):
        last = first[k + 1] - 1
        n_out = layers[last, 3]
        side = 0
        d = deltas[side, : rows * n_out].reshape(rows, n_out)
        for r in range(rows):
            for j in range(n_out):
                d[r, j] = d_out[r, at + j]
        at += n_out
        for l in range(last, first[k] - 1, -1):
            w_at, b_at, n_in, n_out, _ = _layer(layers, l)
            h = x
            if l > first[k]:
                h_at = layers[l - 1, 4]
                h = acts[h_at : h_at + rows * n_in].reshape(rows, n_in)
            size = n_out * n_in
            weights, p = grad[w_at : w_at + size], product[:size]
            if SPARSE and l == first[k]:
                _first_gradient(x, d, weights.reshape(n_in, n_out), rows)
            else:
                np.dot(d.T, h, p.reshape(n_out, n_in))
                for i in range(size):
                    weights[i] += p[i]
            bias = grad[b_at : b_at + n_out]
            for r in range(rows):
                for j in range(n_out):
                    bias[j] += d[r, j]
            if l > first[k]:
                side = 1 - side
                below = deltas[side, : rows * n_in].reshape(rows, n_in)
                np.dot(d, flat[w_at : w_at + size].reshape(n_out, n_in), below)
                for r in range(rows):
                    for j in range(n_in):
                        below[r, j] *= slope(h[r, j])
                d = below


@njit
def _evaluate_chunk(net, nets, norm, obs, out, acts, x):
    rows = len(obs)
    for r in range(rows):
        normalised(obs[r], norm, x[r])
    forward(net, nets[0], nets[1], x[:rows], acts, rows)
    outputs(net, nets[0], nets[1], acts, rows, out)


@njit_batch
def evaluate(net, nets, norm, obs, out, acts, xs):
    """Output rows out [S, *] at obs [S, F]: of the free parameters, and the networks nets[0] to nets[1]."""
    turn(net)
    n, chunk = len(obs), xs.shape[1]
    n_chunks = (n + chunk - 1) // chunk
    for k in prange(min(LANES, n_chunks)):
        lane = np.int64(k)  # signed, so that what is called is not compiled twice
        for c in range(lane, n_chunks, LANES):
            low, high = c * chunk, min(n, (c + 1) * chunk)
            _evaluate_chunk(net, nets, norm, obs[low:high], out[low:high], acts[lane], xs[lane])


@njit_entry
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


@njit
def _rows_of_a_chunk(batch, most):
    """Rows a chunk: `most` fit the cache, but a small minibatch is cut in four, if that leaves 32, for the threads."""
    return min(most, max(32, (batch + 63) // 64 * 16))


@njit
def _gradient_of_a_chunk(net, norm, obs, order, columns, column_order, shift, scale, batch, constants, scratch, lane):
    """Add a chunk's share of the gradient and of the logs, which are means over the batch, to the lane's."""
    grad, acts, deltas, product, xs, outs, d_outs, lane_logs = scratch
    rows, n_nets = len(order), len(net[3]) - 1
    x, out, d_out, log = xs[lane, :rows], outs[lane], d_outs[lane], lane_logs[lane]
    for r in range(rows):
        normalised(obs[order[r]], norm, x[r])
    forward(net, 0, n_nets, x, acts[lane], rows)
    outputs(net, 0, n_nets, acts[lane], rows, out)
    for r in range(rows):
        loss_row(out[r], columns[column_order[r]], shift, scale, constants, d_out[r], log)
        for j in range(d_out.shape[1]):
            d_out[r, j] /= batch
    backward(net, grad[lane], x, acts[lane], deltas[lane], product[lane], rows, d_out)


@njit
def _clear(x):
    for i in range(len(x)):
        x[i] = 0


@njit
def _add(x, y):
    for i in range(len(x)):
        x[i] += y[i]


@njit
def _finish(net, batch, n_lanes, optimizer, step, max_log, scratch, logs):
    """Add up the lanes, and take the step unless the first log exceeds max_log."""
    grad, lane_logs = scratch[0], scratch[7]
    for lane in range(1, n_lanes):
        _add(grad[0], grad[lane])
        _add(lane_logs[0], lane_logs[lane])
    n_logs = lane_logs.shape[1]
    for i in range(n_logs):
        logs[i] = lane_logs[0, i] / batch
    if logs[0] > max_log:
        return False

    if SPARSE:
        _turn_first_gradients(net, grad[0], scratch[3][0])
    total, (moment, square, adam, max_norm) = grad[0], optimizer
    norm = 0.0
    for i in range(len(total)):
        norm += total[i] * total[i]
    norm = math.sqrt(norm)
    logs[n_logs] = norm
    _adam(net[0], moment, square, step, total, min(1.0, max_norm / (norm + 1e-6)), adam)
    turn(net)
    return True


@njit_batch
def gradient_step(
    net, norm, obs, order, columns, column_order, constants, optimizer, step, max_log, scratch, logs
):  # fmt: skip
    """One step of Adam on a minibatch: obs[order], columns[column_order]; both orders [B]. Returns whether it was taken.

    optimizer: (moment, square, (learning rate, beta1, beta2, epsilon), max_norm). No step is taken if the first log exceeds
    max_log. logs: the means of what `loss_row` logged, then the norm of the gradient before it was clipped to max_norm.
    """
    batch = len(order)
    shift, scale = 0.0, 1.0
    if STANDARDIZE >= 0 and batch > 1:
        shift, scale = _mean_and_std(columns[:, STANDARDIZE], column_order)
    chunk = _rows_of_a_chunk(batch, scratch[4].shape[1])
    n_chunks = (batch + chunk - 1) // chunk
    n_lanes = min(LANES, n_chunks)
    for k in prange(n_lanes):  # little code here: what is inside a prange takes long to compile
        lane = np.int64(k)
        _clear(scratch[0][lane])
        _clear(scratch[7][lane])
        for c in range(lane, n_chunks, LANES):
            low, high = c * chunk, min(batch, (c + 1) * chunk)
            _gradient_of_a_chunk(
                net, norm, obs, order[low:high], columns, column_order[low:high], shift, scale, batch, constants, scratch,
                lane,
            )  # fmt: skip
    return _finish(net, batch, n_lanes, optimizer, step, max_log, scratch, logs)


@njit
def bare_net(net):
    flat, turned, layers, first, free_at = net
    return bare(flat), bare(turned), bare(layers), bare(first), free_at


@njit
def bare_norm(norm):
    mean, scale, limit = norm
    return bare(mean), bare(scale), limit


@njit
def bare_scratch(scratch):
    grad, acts, deltas, product, xs, outs, d_outs, lane_logs = scratch
    return bare(grad), bare(acts), bare(deltas), bare(product), bare(xs), bare(outs), bare(d_outs), bare(lane_logs)


@njit_entry
def fit(net, norm, obs, order, starts, columns, constants, optimizer, steps, max_log, scratch, logs):
    """A step on each of the minibatches order[starts[k]:starts[k + 1]], until one is not taken; returns how many were."""
    net, norm, scratch = bare_net(net), bare_norm(norm), bare_scratch(scratch)
    obs, order, columns, logs = bare(obs), bare(order), bare(columns), bare(logs)
    turn(net)
    for k in range(len(starts) - 1):
        batch = order[starts[k] : starts[k + 1]]
        if not gradient_step(
            net, norm, obs, batch, columns, batch, constants, optimizer, steps + k + 1, max_log, scratch, logs[k]
        ):  # fmt: skip
            return k
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
