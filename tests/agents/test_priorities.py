"""Prioritised replay: what is drawn, how often, with what weight; and the two-level sum against a flat one."""

import numpy as np
import pytest
import torch
from scipy import stats

from rlsys import buffers
from rlsys.buffers import Priorities, PrioritizedReplay, random_bits
from tests.agents.test_buffers import example, row

DEVICE = torch.device("cpu")
ONE = torch.ones((), dtype=torch.float64)
PROBABLE = 1e-4  # a test with a fixed seed; the chance that another seed would have failed it


def filled(errors, *, alpha=1.0, eps=1e-12, size=None):
    """A buffer of one env with a transition for each error, t the observation of the t-th."""
    replay = PrioritizedReplay(size or len(errors), example(1), alpha=alpha, eps=eps, gamma=0.5)
    for t in range(len(errors)):
        replay.add(row([t], [0], [t], [t + 1], [False], [False], [True]))
    if errors:
        replay.update(torch.arange(len(errors)), torch.tensor(errors, dtype=torch.float64))
    return replay


def bits_for(count, seed=0):
    return random_bits(count, generator=torch.Generator().manual_seed(seed))


def with_priorities(p):
    priorities = Priorities(len(p), DEVICE)
    priorities.put(torch.arange(len(p)), torch.tensor(p, dtype=torch.float64))
    return priorities


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_transitions_are_drawn_in_proportion_to_their_errors_to_the_power_of_alpha(alpha):
    errors = [0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0]
    replay = filled(errors, alpha=alpha)
    found = np.zeros(len(errors))
    for bit in bits_for(6000).split(1):  # one at a time: those of a minibatch are not independent
        found[replay.draw(bit, ONE)[1]] += 1
    expected = np.array(errors) ** alpha
    assert stats.chisquare(found, 6000 * expected / expected.sum()).pvalue > PROBABLE


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_minibatch_takes_one_from_each_equal_share_of_the_sum(size):
    p = np.random.default_rng(size).random(size) ** 4
    item = with_priorities(p).draw(bits_for(5000))
    assert (item.diff() >= 0).all()
    ends = np.cumsum(p) / p.sum()
    shares = np.arange(5000) / 5000
    assert (ends[item] > shares - 1e-12).all()
    assert (ends[item] - p[item] / p.sum() < shares + 1 / 5000 + 1e-12).all()


def test_weights_agree_with_a_calculation_by_hand():
    replay = filled([1.0, 16.0, 256.0, 16.0], alpha=0.5)  # p = 1, 4, 16, 4, of 25: N P = 0.16, 0.64, 2.56, 0.64
    _, item, weight = replay.draw(bits_for(200), 0.5 * ONE)  # ^ -0.5: 2.5, 1.25, 0.625, 1.25
    assert set(item.tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.5, 0.25, 0.5])[item])


def test_the_largest_weight_of_a_minibatch_is_one_and_beta_zero_weighs_nothing():
    replay = filled([1.0, 1.0, 1e6, 1e6])
    _, item, weight = replay.draw(bits_for(8), ONE)
    assert set(item.tolist()) <= {2, 3}
    assert weight.tolist() == [1.0] * 8
    assert filled([1.0, 4.0, 9.0]).draw(bits_for(50), 0.0 * ONE)[2].tolist() == [1.0] * 50


def test_weights_with_beta_one_make_every_transition_count_the_same():
    errors = np.array([0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0])
    replay = filled(errors.tolist(), alpha=0.7)
    _, item, weight = replay.draw(bits_for(20_000), ONE)
    counted = np.bincount(item, weights=weight.numpy())
    np.testing.assert_allclose(counted, counted.mean(), rtol=0.02)  # the rarest is drawn 300 times, give or take one


def test_without_alpha_all_is_uniform_whatever_the_errors():
    replay = filled(np.random.default_rng(0).exponential(size=50).tolist(), alpha=0.0)
    _, item, weight = replay.draw(bits_for(5000), ONE)
    assert weight.tolist() == [1.0] * 5000
    assert np.abs(np.bincount(item, minlength=50) - 100).max() <= 2


def test_a_sample_is_the_transition_that_its_item_names():
    batch, item, _ = filled([1.0, 2.0, 3.0, 4.0]).draw(bits_for(100), ONE)
    assert batch.obs.squeeze(1).equal(item.float())
    assert batch.next_obs.squeeze(1).equal(item + 1.0)


def test_a_new_transition_gets_the_largest_priority_so_far():
    replay = filled([], size=4, alpha=0.5)
    step = row([0], [0], [0.0], [1], [False], [False], [True])
    replay.add(step)
    assert replay.priorities.leaf.tolist() == [1.0, 0.0, 0.0, 0.0]
    replay.update(torch.tensor([0]), torch.tensor([9.0], dtype=torch.float64))
    replay.add(step)
    replay.update(torch.tensor([0]), torch.tensor([4.0], dtype=torch.float64))
    replay.add(step)
    assert replay.priorities.leaf.tolist() == pytest.approx([2.0, 3.0, 3.0, 0.0])


def test_of_an_item_that_is_drawn_twice_the_larger_error_counts():
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        priorities = with_priorities([1.0, 1.0])
        priorities.put(torch.tensor([1, 1, 1]), torch.tensor([5.0, 3.0, 4.0], dtype=torch.float64)[order])
        assert priorities.leaf.tolist() == [1.0, 5.0]
        assert priorities.sums.sum() == 6.0


def check_against_a_flat_sum(seed):
    """Random adding, drawing and updating, the ring wrapping: each draw is that of one running sum over all items."""
    rng = np.random.default_rng(seed)
    n, length, n_step = int(rng.integers(1, 12)), int(rng.integers(2, 9)), 3
    options = {"alpha": 0.6, "eps": 1e-6, "n_step": n_step, "gamma": 0.5}
    replay = PrioritizedReplay(n * length, example(n), has_resets=True, **options)
    p, largest, no = np.zeros(n * length), 1.0, [False] * n
    for t in range(4 * length):
        valid = np.ones(n, bool) if t == 0 else rng.random(n) < 0.8
        obs = (1000.0 * np.arange(n) + t).tolist()
        replay.add(row(obs, [0] * n, [1.0] * n, [x + 1 for x in obs], no, no, valid.tolist()))
        at = t % length * n
        p[at : at + n] = valid * largest
        for _ in range(int(rng.integers(3))):
            bits = bits_for(int(rng.integers(1, 20)), int(rng.integers(2**31)))
            batch, item, _ = replay.draw(bits, ONE)
            uniform = (bits.numpy() >> 9) / 2**53
            share = (np.arange(len(bits)) + uniform) / len(bits)
            expected = np.searchsorted(np.cumsum(p), share * p.sum(), side="right")
            np.testing.assert_array_equal(item, expected)
            steps = np.minimum(n_step, 1 + (t % length - item.numpy() // n) % length)  # no further than the newest row
            np.testing.assert_array_equal(batch.discount, 0.5**steps)
            error = rng.exponential(size=len(bits))
            replay.update(item, torch.from_numpy(error))
            new = (error + 1e-6) ** 0.6
            p[expected] = 0.0
            np.maximum.at(p, expected, new)
            largest = max(largest, new.max())
            np.testing.assert_allclose(replay.priorities.leaf, p, rtol=1e-14)
        np.testing.assert_allclose(replay.priorities.sums, replay.priorities.leaves.sum(-1), rtol=1e-14)


@pytest.mark.parametrize("seed", range(25))
def test_the_two_level_sum_agrees_with_a_flat_one(seed):
    check_against_a_flat_sum(seed)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 10, 101])
def test_every_row_of_every_length_is_added_up(size):
    for n in range(1, size + 1):
        for first in range(size - n + 1):
            priorities = Priorities(size, DEVICE)
            priorities.renew(torch.tensor(first), torch.ones(n, dtype=torch.bool))
            assert priorities.leaf.sum() == priorities.sums.sum() == n


def test_rounding_never_lands_on_an_item_without_priority():
    p = np.zeros(100)
    p[[3, 57, 58]] = [1e-9, 0.1, 0.7]
    extremes = torch.tensor([0, 2**62 - 1] * 50)
    assert set(with_priorities(p).draw(extremes).tolist()) <= {3, 57, 58}
    table = torch.tensor([[0.0, 0.3, 0.0, 0.5, 0.0]], dtype=torch.float64)
    ends = torch.tensor([[1e-17, 0.3, 0.3 + 1e-16, 0.8, 0.8 + 1e-16]], dtype=torch.float64)  # as badly as they can be
    at = torch.tensor([[-1e-16, 0.0, 0.3, 0.8, 0.9]], dtype=torch.float64)
    index, _ = buffers._find(table, ends, at)
    assert set(index[0].tolist()) <= {1, 3}


def test_an_error_that_is_not_a_number_is_no_address_beyond_the_buffer():
    replay = filled([1.0, float("nan"), 2.0])
    _, item, _ = replay.draw(bits_for(100), ONE)
    assert ((item >= 0) & (item < 3)).all()


@pytest.mark.parametrize("size", [9, 20])
def test_a_restored_buffer_draws_the_same_now_and_later(size):
    errors = np.random.default_rng(0).exponential(size=15).tolist()
    replay, other = filled(errors[:size], size=size), filled([], size=size)
    other.load_state(replay.state())
    for seed in range(3):
        for one, two in zip(replay.draw(bits_for(50, seed), ONE), other.draw(bits_for(50, seed), ONE), strict=True):
            assert all(a.equal(b) for a, b in zip(one, two, strict=True))
        for buffer in (replay, other):
            buffer.update(torch.arange(seed, 9), torch.full((9 - seed,), 0.1 + seed))
            buffer.add(row([77], [0], [7.0], [78], [False], [False], [True]))
