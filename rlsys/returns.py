"""Returns and advantages: pure functions of a rollout. T time, N env; every argument and result is [T, N] unless said."""

import torch
from torch import Tensor


def gae(
    reward: Tensor, value: Tensor, last_value: Tensor, ended: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation; returns (advantage, value target = advantage + value).

        delta_t = r_t + gamma V(s_t+1) (1 - ended_t) - V(s_t)
        A_t     = delta_t + gamma lambda (1 - ended_t) A_t+1

    ended: bool, the episode ended at t, whether terminated or truncated. Where it was truncated, r_t must already contain
    gamma V(final observation) (`bootstrap_truncated`). last_value [N]: V of the observation after the rollout.
    Source: Schulman et al. 2016, "High-dimensional continuous control using GAE", equations 11 to 16.
    """
    going_on = 1.0 - ended.to(reward.dtype)
    next_value = torch.cat([value[1:], last_value.unsqueeze(0)])
    delta = reward + gamma * next_value * going_on - value
    decay = gamma * gae_lambda * going_on
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(last_value)
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + decay[t] * running
        advantage[t] = running
    return advantage, advantage + value


def q_lambda(reward: Tensor, value: Tensor, last_value: Tensor, ended: Tensor, gamma: float, lambda_: float) -> Tensor:
    """Q(lambda): targets for Q(s_t, a_t), from the greedy value (lambda = 0) to the whole return (lambda = 1).

        R_t = r_t + gamma (1 - ended_t) ((1 - lambda) V(s_t+1) + lambda R_t+1),    V(s) = max_a Q(s, a),    R_T = V(s_T)

    value: V(s_t); last_value [N]: V of the observation after the rollout. ended: as in `gae`, and as there r_t of a
    truncated episode must already contain gamma V(final observation). No importance sampling, no cut after an
    exploratory action: Peng's Q(lambda).
    Source: Gallici et al. 2024, "Simplifying deep temporal difference learning"; Peng and Williams 1994.
    """
    going_on = 1.0 - ended.to(reward.dtype)
    next_value = torch.cat([value[1:], last_value.unsqueeze(0)])
    one_step = reward + gamma * (1.0 - lambda_) * next_value * going_on
    decay = gamma * lambda_ * going_on
    target = torch.empty_like(reward)
    running = last_value
    for t in range(len(reward) - 1, -1, -1):
        running = one_step[t] + decay[t] * running
        target[t] = running
    return target


def bootstrap_truncated(
    reward: Tensor, terminated: Tensor, truncated: Tensor, final_value: Tensor, gamma: float
) -> Tensor:
    """r_t + gamma V(final observation) where the step limit, and not the world, ended the episode (Pardo et al. 2018)."""
    return reward + gamma * final_value * (truncated & ~terminated)


def discounted_sums(reward: Tensor, ended: Tensor, carry: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Forward discounted sums R_t = gamma R_t-1 + r_t, restarted after each episode; returns (R [T, N], next carry [N])."""
    sums = torch.empty_like(reward)
    for t in range(len(reward)):
        carry = gamma * carry + reward[t]
        sums[t] = carry
        carry = carry * (~ended[t])
    return sums, carry


def linear(start: float, end: float, fraction: float, progress: float) -> float:
    """A schedule: from `start` at progress 0 to `end` at progress `fraction`, and `end` from there on."""
    if fraction <= 0.0:
        return end
    return start + (end - start) * min(max(progress, 0.0) / fraction, 1.0)
