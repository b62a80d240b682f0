"""The replay buffer: which n-step transitions come out of which steps, and how often.

An observation here is the number of the step it belongs to (env i counts from 1000 i), so that a sample says where it is from.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsys.buffers import Batch, Replay, Transitions, action_tensor, random_bits
from rlsys.policy import ActionSpec

DEVICE = torch.device("cpu")


def row(obs, action, reward, next_obs, terminated, ended, valid):
    flags = [torch.tensor(flag, dtype=torch.bool) for flag in (terminated, ended, valid)]
    column = [torch.tensor(x, dtype=torch.float32).unsqueeze(1) for x in (obs, next_obs)]
    return Transitions(column[0], torch.tensor(action), torch.tensor(reward, dtype=torch.float32), column[1], *flags)


def example(n):
    nothing, no = [0.0] * n, [False] * n
    return row(nothing, [0] * n, nothing, nothing, no, no, no)


def sample(replay, size) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return replay.sample(random_bits(size, generator=generator), generator)


def filled(rewards, *, terminated=(), truncated=(), size=100, n_step=1, gamma=0.5):
    """A buffer of one env. After step t comes t + 1, or, where the episode ended, an observation t + 0.5 seen only then."""
    replay = Replay(size, example(1), n_step=n_step, gamma=gamma)
    for t, reward in enumerate(rewards):
        ended = t in terminated or t in truncated
        replay.add(row([t], [t % 3], [reward], [t + 0.5 if ended else t + 1], [t in terminated], [ended], [True]))
    return replay


def everything(replay: Replay) -> dict[float, tuple[float, float, float]]:
    """All that can be sampled: first observation -> (reward, next observation, discount)."""
    batch = sample(replay, 200 * len(replay))
    table = {}
    for obs, _, reward, next_obs, discount in zip(*(x.squeeze(-1).tolist() for x in batch), strict=True):
        assert table.setdefault(obs, (reward, next_obs, discount)) == (reward, next_obs, discount)
    return table


def test_one_step_transitions_are_the_steps_themselves():
    assert everything(filled([1, 2, 4], terminated=[1])) == {
        0: (1.0, 1.0, 0.5),
        1: (2.0, 1.5, 0.0),
        2: (4.0, 3.0, 0.5),
    }


def test_three_step_transitions_stop_at_termination_and_at_the_newest_step():
    assert everything(filled([1, 2, 4, 8, 16, 32], terminated=[3], n_step=3)) == {
        0: (1 + 2 / 2 + 4 / 4, 3.0, 0.125),
        1: (2 + 4 / 2 + 8 / 4, 3.5, 0.0),  # just reaches the end
        2: (4 + 8 / 2, 3.5, 0.0),  # and nothing of the next episode's 16
        3: (8, 3.5, 0.0),
        4: (16 + 32 / 2, 6.0, 0.25),  # two steps only: there is no third one yet
        5: (32, 6.0, 0.5),
    }


def test_three_step_transitions_stop_at_truncation_and_count_on_what_would_have_come():
    assert everything(filled([1, 2, 4, 8, 16, 32], truncated=[3], n_step=3)) == {
        0: (1 + 2 / 2 + 4 / 4, 3.0, 0.125),
        1: (2 + 4 / 2 + 8 / 4, 3.5, 0.125),
        2: (4 + 8 / 2, 3.5, 0.25),
        3: (8, 3.5, 0.5),
        4: (16 + 32 / 2, 6.0, 0.25),
        5: (32, 6.0, 0.5),
    }


def test_a_full_ring_forgets_the_oldest_and_never_reads_from_the_newest_into_the_oldest():
    assert everything(filled([1, 2, 4, 8, 16, 32], size=4, n_step=3)) == {
        2: (4 + 8 / 2 + 16 / 4, 5.0, 0.125),
        3: (8 + 16 / 2 + 32 / 4, 6.0, 0.125),
        4: (16 + 32 / 2, 6.0, 0.25),
        5: (32, 6.0, 0.5),
    }


def test_an_episode_that_was_cut_is_not_continued_by_what_is_added_next():
    replay = filled([1, 2], n_step=3)
    replay.cut()
    replay.add(row([10], [0], [100], [11], [False], [False], [True]))
    assert everything(replay) == {0: (1 + 2 / 2, 2.0, 0.25), 1: (2, 2.0, 0.5), 10: (100, 11.0, 0.5)}


def by_definition(steps, length, n_step, gamma):
    """What `everything` should find after `steps` (a list of Transitions of N envs) in a ring of `length` rows."""
    table = {}
    kept = steps[-length:]
    for start, first in enumerate(kept):
        for i in range(len(first.reward)):
            if not first.valid[i]:
                continue
            reward, discount = 0.0, 1.0
            for step in kept[start : start + n_step]:
                reward += discount * step.reward[i].item()
                discount *= 0.0 if step.terminated[i] else gamma
                last = step
                if step.ended[i]:
                    break
            table[first.obs[i].item()] = (reward, last.next_obs[i].item(), discount)
    return table


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 3),
    length=st.integers(2, 6),
    rows=st.integers(1, 15),
    n_step=st.integers(1, 4),
    resets=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_samples_agree_with_their_definition(seed, n, length, rows, n_step, resets):
    rng = np.random.default_rng(seed)
    replay = Replay(n * length, example(n), n_step=n_step, gamma=0.5, has_resets=resets)
    steps, was_end = [], np.zeros(n, bool)
    for t in range(rows):
        valid = ~was_end if resets else np.ones(n, bool)  # a NEXT_STEP reset follows each end
        terminated = (rng.random(n) < 0.2) & valid
        ended = (terminated | (rng.random(n) < 0.2)) & valid
        name = 1000.0 * np.arange(n) + t
        reward = rng.integers(-4, 5, n).astype(float)
        steps.append(row(name, [0] * n, reward, np.where(ended, name + 0.5, name + 1), terminated, ended, valid))
        replay.add(steps[-1])
        was_end = ended
    expected = by_definition(steps, length, n_step, 0.5)
    if expected:
        assert everything(replay) == expected


def counts(replay, samples):
    obs = sample(replay, samples).obs.flatten()
    return dict(zip(*(x.tolist() for x in obs.unique(return_counts=True)), strict=True))


def test_every_transition_is_sampled_equally_often_and_steps_that_only_reset_never():
    replay = Replay(15, example(3), has_resets=True)
    for t in range(8):  # more than 5 rows: the ring has wrapped. Env 0 ends at every second step.
        end = [t % 2 == 0, False, False]
        valid = [t % 2 == 0, True, True]
        name = [t, 1000 + t, 2000 + t]
        replay.add(row(name, [0] * 3, [0.0] * 3, name, [False] * 3, end, valid))
    found = counts(replay, 120_000)
    assert set(found) == {4, 6, *range(1003, 1008), *range(2003, 2008)}
    mean = 120_000 / 12
    assert all(abs(count - mean) < 5 * mean**0.5 for count in found.values()), found  # five standard deviations


def test_observations_and_actions_stay_together():
    batch = sample(filled([1, 2, 4, 8, 16]), 1000)
    assert batch.action.equal(batch.obs.squeeze(1).long() % 3)


def test_a_sample_has_the_documented_shapes_and_types():
    image = torch.zeros(2, 4, 5, dtype=torch.uint8)
    pixels = example(2)._replace(obs=image, next_obs=image)
    replay = Replay(10, pixels)
    replay.add(pixels._replace(valid=torch.ones(2, dtype=torch.bool)))
    batch = sample(replay, 7)
    assert [list(x.shape) for x in batch] == [[7, 4, 5], [7], [7], [7, 4, 5], [7]]
    assert [x.dtype for x in batch] == [torch.uint8, torch.int64, torch.float32, torch.uint8, torch.float32]
    assert Batch._fields == ("obs", "action", "reward", "next_obs", "discount")


def test_the_newest_rows_are_those_that_were_added_last():
    replay = filled(range(10), size=4)
    assert sorted(replay.newest(3).obs.flatten().tolist()) == [7, 8, 9]
    assert sorted(replay.newest(9).obs.flatten().tolist()) == [6, 7, 8, 9]


@pytest.mark.parametrize("written", [2, 9])
def test_a_restored_buffer_gives_the_same_samples_now_and_later(written):
    replay, other = filled(range(written), size=4, n_step=2), filled([], size=4, n_step=2)
    other.load_state(replay.state())
    for buffer in (replay, other):
        buffer.add(row([77], [0], [7.0], [78], [False], [False], [True]))
    for one, two in zip(sample(replay, 100), sample(other, 100), strict=True):
        assert one.equal(two)


def test_a_buffer_of_another_size_is_refused():
    with pytest.raises(ValueError, match="buffer_size and num_envs must be as they were"):
        filled([], size=5).load_state(filled(range(9), size=4).state())


def test_actions_are_stored_as_the_policy_gives_them():
    discrete, box = ActionSpec(n=3), ActionSpec(0, [2, 2], [0.0] * 4, [1.0] * 4)
    assert action_tensor(discrete, 5, 2, device=DEVICE).shape == (5, 2)
    assert action_tensor(discrete, 5, 2, device=DEVICE).dtype == torch.int64
    assert action_tensor(box, 5, 2, device=DEVICE).shape == (5, 2, 4)
    assert action_tensor(box, 5, 2, device=DEVICE).dtype == torch.float32
