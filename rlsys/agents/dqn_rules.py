"""DQN's values and loss for the native engine: scalar functions of one sample (see `native.Rule`).

An output row is q [A], or, dueling, [V, *advantages [A]]. A sample is [action, target]. The formulas are those of `DQN.loss`;
here with their derivatives.
"""

from numba import njit

from rlsys.native import Rule

LOGS = ("train/loss", "train/q_values")


@njit
def huber(error, log):
    """Log the Huber loss of an error; returns its derivative."""
    size = abs(error)
    log[0] += 0.5 * error * error if size < 1.0 else size - 0.5
    return min(max(error, -1.0), 1.0)


@njit
def plain_q(out, q):
    for j in range(len(q)):
        q[j] = out[j]


@njit
def plain_loss(out, sample, shift, scale, constants, d_out, log):
    action = int(sample[0])
    for j in range(len(out)):
        d_out[j] = 0.0
    d_out[action] = huber(out[action] - sample[1], log)
    log[1] += out[action]


@njit
def dueling_q(out, q):
    """Q = V + A - mean(A), as in `policy.Dueling`."""
    mean = 0.0
    for j in range(len(q)):
        mean += out[1 + j] / len(q)
    for j in range(len(q)):
        q[j] = out[0] + out[1 + j] - mean


@njit
def dueling_loss(out, sample, shift, scale, constants, d_out, log):
    n, action = len(out) - 1, int(sample[0])
    mean = 0.0
    for j in range(n):
        mean += out[1 + j] / n
    q = out[0] + out[1 + action] - mean
    d_out[0] = huber(q - sample[1], log)
    for j in range(n):
        d_out[1 + j] = d_out[0] * ((j == action) - 1.0 / n)
    log[1] += q


def rule(dueling: bool) -> Rule:
    """The Rule of a network with or without a dueling head."""
    return Rule(*(("dqn-dueling", dueling_loss) if dueling else ("dqn", plain_loss)), logs=len(LOGS))


def q_row(dueling: bool):
    """The function that writes the values q [A] of an output row."""
    return dueling_q if dueling else plain_q
