"""Returns and advantages against arithmetic on paper, and against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsys import returns

GAMMA, LAMBDA = 0.5, 0.25  # powers of two: every number below is exact

# Four steps; three envs, which differ at step 1: nothing happens, the world ends, the time is up (last observation worth 6).
REWARD = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0], [4.0, 4.0, 4.0]])
VALUE = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0], [4.0, 4.0, 4.0]])
LAST_VALUE = torch.tensor([8.0, 8.0, 8.0])
TERMINATED = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
TRUNCATED = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
FINAL_VALUE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 6.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_gae_agrees_with_a_calculation_by_hand():
    # delta = r + gamma V' - V, A = delta + gamma lambda A', gamma lambda = 1/8.
    #           going on                        terminated at 1     truncated at 1
    # delta_3   4 + 8/2 - 4 = 4                 4                   4
    # delta_2   3 + 4/2 - 3 = 2                 2                   2
    # delta_1   2 + 3/2 - 2 = 1.5               2 - 2 = 0           (2 + 6/2) - 2 = 3
    # delta_0   1 + 2/2 - 1 = 1                 1                   1
    # A_3       4                               4                   4
    # A_2       2 + 4/8 = 2.5                   2.5                 2.5
    # A_1       1.5 + 2.5/8 = 1.8125            0                   3
    # A_0       1 + 1.8125/8 = 1.2265625        1 + 0/8 = 1         1 + 3/8 = 1.375
    expected = torch.tensor([[1.2265625, 1.0, 1.375], [1.8125, 0.0, 3.0], [2.5, 2.5, 2.5], [4.0, 4.0, 4.0]])
    reward = returns.bootstrap_truncated(REWARD, TERMINATED, TRUNCATED, FINAL_VALUE, GAMMA)
    advantage, target = returns.gae(reward, VALUE, LAST_VALUE, TERMINATED | TRUNCATED, GAMMA, LAMBDA)
    assert advantage.equal(expected)
    assert target.equal(expected + VALUE)


def test_only_an_episode_cut_off_by_the_time_limit_gets_the_value_of_its_last_observation():
    nothing, both = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    reward, value = torch.tensor([[1.0]]), torch.tensor([[6.0]])
    assert returns.bootstrap_truncated(reward, nothing, both, value, GAMMA).item() == 1.0 + 0.5 * 6.0
    assert returns.bootstrap_truncated(reward, both, nothing, value, GAMMA).item() == 1.0
    assert returns.bootstrap_truncated(reward, both, both, value, GAMMA).item() == 1.0
    assert returns.bootstrap_truncated(reward, nothing, nothing, value, GAMMA).item() == 1.0


def gae_by_definition(reward, value, last_value, ended, gamma, gae_lambda):
    """A_t = sum over k >= t, up to the end of t's episode, of (gamma lambda)^(k - t) delta_k: each t on its own."""
    length, n = reward.shape
    advantage = np.zeros((length, n))
    for t in range(length):
        for i in range(n):
            for k in range(t, length):
                following = last_value[i] if k == length - 1 else value[k + 1, i]
                delta = reward[k, i] + (0.0 if ended[k, i] else gamma * following) - value[k, i]
                advantage[t, i] += (gamma * gae_lambda) ** (k - t) * delta
                if ended[k, i]:
                    break
    return advantage


@given(
    length=st.integers(1, 12),
    n=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_gae_agrees_with_its_definition(length, n, seed, gamma, gae_lambda):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, length, n))
    last_value, ended = rng.normal(size=n), rng.random((length, n)) < 0.3
    advantage, target = returns.gae(*map(torch.from_numpy, (reward, value, last_value, ended)), gamma, gae_lambda)
    expected = gae_by_definition(reward, value, last_value, ended, gamma, gae_lambda)
    np.testing.assert_allclose(advantage, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(target, expected + value, rtol=1e-12, atol=1e-12)


def test_q_lambda_agrees_with_a_calculation_by_hand():
    # R = r + gamma ((1 - lambda) V' + lambda R') = r + 3/8 V' + 1/8 R', and r + 1/2 V' at the end of the rollout.
    #           going on                                terminated at 1             truncated at 1
    # R_3       4 + 8/2 = 8                             8                           8
    # R_2       3 + 3/8 4 + 8/8 = 5.5                   5.5                         5.5
    # R_1       2 + 3/8 3 + 5.5/8 = 3.8125              2                           2 + 6/2 = 5
    # R_0       1 + 3/8 2 + 3.8125/8 = 2.2265625        1 + 3/8 2 + 2/8 = 2         1 + 3/8 2 + 5/8 = 2.375
    expected = torch.tensor([[2.2265625, 2.0, 2.375], [3.8125, 2.0, 5.0], [5.5, 5.5, 5.5], [8.0, 8.0, 8.0]])
    reward = returns.bootstrap_truncated(REWARD, TERMINATED, TRUNCATED, FINAL_VALUE, GAMMA)
    target = returns.q_lambda(reward, VALUE, LAST_VALUE, TERMINATED | TRUNCATED, GAMMA, LAMBDA)
    assert target.equal(expected)


def q_lambda_by_definition(reward, successor_value, ended, gamma, lambda_):
    """The forward view, each t on its own: sum over n of (1 - lambda) lambda^(n-1) G_n, the last one with all that is left.

    G_n = r_t + ... + gamma^(n-1) r_(t+n-1) + gamma^n V(what follows step t + n - 1), up to the end of t's episode or of
    the rollout. successor_value: V of what follows each step, 0 after a termination.
    """
    length, n = reward.shape
    target = np.zeros((length, n))
    for t in range(length):
        for i in range(n):
            last = next((k for k in range(t, length) if ended[k, i]), length - 1)
            for k in range(t, last + 1):
                rewards = sum(gamma ** (j - t) * reward[j, i] for j in range(t, k + 1))
                n_step = rewards + gamma ** (k - t + 1) * successor_value[k, i]
                weight = lambda_ ** (k - t) * (1.0 if k == last else 1.0 - lambda_)
                target[t, i] += weight * n_step
    return target


@given(
    length=st.integers(1, 12),
    n=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    gamma=st.floats(0, 1),
    lambda_=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_q_lambda_agrees_with_its_forward_view_and_with_gae_around_the_greedy_value(length, n, seed, gamma, lambda_):
    rng = np.random.default_rng(seed)
    reward, value, final_value = rng.normal(size=(3, length, n))
    last_value, (terminated, truncated) = rng.normal(size=n), rng.random((2, length, n)) < 0.2
    successor_value = np.where(truncated, final_value, np.concatenate([value[1:], last_value[None]])) * ~terminated
    expected = q_lambda_by_definition(reward, successor_value, terminated | truncated, gamma, lambda_)

    tensors = map(torch.from_numpy, (reward, terminated, truncated, final_value))
    given_reward = returns.bootstrap_truncated(*tensors, gamma)
    rest = (*map(torch.from_numpy, (value, last_value, terminated | truncated)), gamma, lambda_)
    target = returns.q_lambda(given_reward, *rest)
    np.testing.assert_allclose(target, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(target, returns.gae(given_reward, *rest)[1], rtol=1e-12, atol=1e-12)


def test_discounted_sums_restart_after_an_episode_and_carry_over_between_rollouts():
    # R = r + R_before / 2:  1 + 4/2 = 3,  2 + 3/2 = 3.5 (ends),  4 + 0,  8 + 4/2 = 10;  the other env never ends
    reward = torch.tensor([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0], [8.0, 1.0]])
    ended = torch.tensor([[0, 0], [1, 0], [0, 0], [0, 0]], dtype=torch.bool)
    sums, carry = returns.discounted_sums(reward, ended, torch.tensor([4.0, 0.0]), GAMMA)
    assert sums.T.tolist() == [[3.0, 3.5, 4.0, 10.0], [1.0, 1.5, 1.75, 1.875]]
    assert carry.tolist() == [10.0, 1.875]
    _, carry = returns.discounted_sums(reward[:2], ended[:2], torch.tensor([4.0, 0.0]), GAMMA)
    assert carry.tolist() == [0.0, 1.5]  # the first env's episode has just ended


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(-0.1, 1.0), (0.0, 1.0), (0.1, 0.75), (0.2, 0.5), (0.4, 0.0), (0.7, 0.0), (1.0, 0.0), (1.5, 0.0)],
)
def test_a_linear_schedule_falls_until_its_fraction_of_the_run_and_stays(progress, expected):
    assert returns.linear(1.0, 0.0, 0.4, progress) == pytest.approx(expected)


def test_a_linear_schedule_over_no_time_is_at_its_end_from_the_start():
    assert returns.linear(1.0, 0.1, 0.0, 0.0) == 0.1


def test_a_linear_schedule_may_rise():
    assert returns.linear(0.2, 0.6, 1.0, 0.5) == pytest.approx(0.4)
