"""PPO's action rules and loss for the native engine: scalar functions of one sample (see `native.Rule`).

An output row is [logits, value] (categorical), or [log_std, mean, value] (gaussian). A sample is [log_prob, advantage,
target, *action]. The formulas are those of `PPO.loss`; here with their derivatives.
"""

import math

from numba import njit

from rlsys.native import Rule
from rlsys.policy import LOG_SQRT_2PI

LOG_PROB, ADVANTAGE, TARGET, ACTION = 0, 1, 2, 3  # columns of a sample
CLIP, VF_COEF, ENT_COEF = 0, 1, 2  # constants
LOGS = (
    "train/approx_kl",
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/clip_fraction",
)


@njit
def log_sum_exp(x, n):
    top = x[0]
    for j in range(1, n):
        top = max(top, x[j])
    total = x.dtype.type(0)
    for j in range(n):
        total += math.exp(x[j] - top)
    return top + math.log(total)


@njit
def surrogate(log_ratio, advantage, clip, log):
    """Log the clipped objective -min(r A, clip(r) A); returns its derivative by the log probability."""
    ratio = math.exp(log_ratio)
    clipped = min(max(ratio, 1.0 - clip), 1.0 + clip)
    log[0] += ratio - 1.0 - log_ratio
    log[1] -= min(ratio * advantage, clipped * advantage)
    log[4] += abs(ratio - 1.0) > clip
    return -ratio * advantage if ratio * advantage <= clipped * advantage else 0.0


@njit
def pick_categorical(out, noise, action):
    n = len(noise)
    best, best_score = 0, -math.inf
    for j in range(n):
        score = out[j] - math.log(noise[j])  # exponential race: argmax p_j / e_j
        if score > best_score:
            best, best_score = j, score
    action[0] = best
    return out[best] - log_sum_exp(out, n)


@njit
def categorical_loss(out, sample, shift, scale, constants, d_out, log):
    n = len(out) - 1
    log_total = log_sum_exp(out, n)
    action = int(sample[ACTION])
    advantage = (sample[ADVANTAGE] - shift) / scale
    d_log_prob = surrogate(out[action] - log_total - sample[LOG_PROB], advantage, constants[CLIP], log)
    entropy = 0.0
    for j in range(n):
        log_p = out[j] - log_total
        entropy -= math.exp(log_p) * log_p
    for j in range(n):
        log_p = out[j] - log_total
        p = math.exp(log_p)
        d_out[j] = d_log_prob * ((j == action) - p) + constants[ENT_COEF] * p * (log_p + entropy)
    error = out[n] - sample[TARGET]
    d_out[n] = 2.0 * constants[VF_COEF] * error
    log[2] += error * error
    log[3] -= entropy


@njit
def pick_gaussian(out, noise, action):
    n = len(noise)
    log_prob = 0.0
    for j in range(n):
        log_std = out[j]
        action[j] = out[n + j] + math.exp(log_std) * noise[j]
        log_prob -= 0.5 * noise[j] * noise[j] + log_std + LOG_SQRT_2PI
    return log_prob


@njit
def gaussian_loss(out, sample, shift, scale, constants, d_out, log):
    n = (len(out) - 1) // 2
    log_prob, entropy = 0.0, 0.0
    for j in range(n):
        log_std = out[j]
        z = (sample[ACTION + j] - out[n + j]) * math.exp(-log_std)
        log_prob -= 0.5 * z * z + log_std + LOG_SQRT_2PI
        entropy += log_std + 0.5 + LOG_SQRT_2PI
    advantage = (sample[ADVANTAGE] - shift) / scale
    d_log_prob = surrogate(log_prob - sample[LOG_PROB], advantage, constants[CLIP], log)
    for j in range(n):
        inverse_std = math.exp(-out[j])
        z = (sample[ACTION + j] - out[n + j]) * inverse_std
        d_out[j] = d_log_prob * (z * z - 1.0) - constants[ENT_COEF]
        d_out[n + j] = d_log_prob * z * inverse_std
    error = out[2 * n] - sample[TARGET]
    d_out[2 * n] = 2.0 * constants[VF_COEF] * error
    log[2] += error * error
    log[3] -= entropy


def rule(name: str, normalize_advantage: bool) -> Rule:
    """The Rule of a "categorical" or "gaussian" policy."""
    pick_row, loss_row = {
        "categorical": (pick_categorical, categorical_loss),
        "gaussian": (pick_gaussian, gaussian_loss),
    }[name]
    title = f"ppo-{name}-{'standardized' if normalize_advantage else 'plain'}"
    return Rule(title, loss_row, len(LOGS), ADVANTAGE if normalize_advantage else -1, pick_row)
