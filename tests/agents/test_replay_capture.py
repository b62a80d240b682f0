"""The replay buffer under the rules of CUDA graphs (tests/graphs.py): captured once, replayed, it does what Python would.

Each part is captured while the ring is nearly empty, and must still be right when the ring has filled up and wrapped.
"""

import pytest
import torch

from rlsys.buffers import PrioritizedReplay, Replay, Transitions, random_bits
from tests.agents.test_buffers import example
from tests.graphs import RecordedGraph

N, LENGTH, B = 3, 5, 32


def some_step(generator) -> Transitions:
    """A random row, reset steps included."""
    obs, next_obs = torch.randn(2, N, 1, generator=generator)
    terminated, ended, valid = torch.rand(3, N, generator=generator) < torch.tensor([[0.2], [0.3], [0.8]])
    action, reward = torch.randint(3, (N,), generator=generator), torch.randn(N, generator=generator)
    return Transitions(obs, action, reward, next_obs, terminated, ended | terminated, valid)


def assert_same(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        assert a.equal(b)


def captured(function):
    """Run it once, captured: the graph, and what it returned, which each replay writes anew."""
    graph = RecordedGraph()
    out = graph.capture(function)
    graph.replay()
    return graph, out


@pytest.mark.parametrize("n_step", [1, 3])
def test_adding_and_sampling_can_be_captured(n_step):
    mine, theirs = (Replay(N * LENGTH, example(N), n_step=n_step) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    step, bits = some_step(generator), torch.zeros(B, dtype=torch.int64)
    theirs.add(step)
    add, _ = captured(lambda: mine.add(step))
    sample, batch = captured(lambda: mine.sample(bits, generator))
    newest, rows = captured(lambda: mine.newest(1))
    for t in range(2 * LENGTH + 1):
        for x, new in zip(step, some_step(generator), strict=True):
            x.copy_(new)
        bits.copy_(random_bits(B, generator=generator))
        for graph in (add, sample, newest):
            graph.replay()
        theirs.add(step)
        assert mine.rows == theirs.rows == t + 2
        assert_same(mine.ring, theirs.ring)
        assert_same(batch, theirs.sample(bits, generator))
        assert_same(rows, theirs.newest(1))


@pytest.mark.parametrize("n_step", [1, 3])
def test_drawing_by_priority_and_updating_can_be_captured(n_step):
    options = {"n_step": n_step, "alpha": 0.6, "eps": 1e-6, "has_resets": True}
    mine, theirs = (PrioritizedReplay(N * LENGTH, example(N), **options) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    step, bits = some_step(generator), torch.zeros(B, dtype=torch.int64)
    error, beta = torch.ones(B), torch.ones((), dtype=torch.float64)
    step.valid[:] = True
    theirs.add(step)
    add, _ = captured(lambda: mine.add(step))
    draw, (batch, item, weight) = captured(lambda: mine.draw(bits, beta))
    update, _ = captured(lambda: mine.update(item, error))
    theirs.update(item, error)
    for t in range(2 * LENGTH + 1):
        for x, new in zip(step, some_step(generator), strict=True):
            x.copy_(new)
        bits.copy_(random_bits(B, generator=generator))
        beta.fill_(t / 10)
        error.copy_(torch.randn(B, generator=generator).abs())
        for graph in (add, draw):
            graph.replay()
        theirs.add(step)
        expected, expected_item, expected_weight = theirs.draw(bits, beta)
        assert_same((*batch, item, weight), (*expected, expected_item, expected_weight))
        update.replay()
        theirs.update(item, error)
        assert_same(mine.priorities.state().values(), theirs.priorities.state().values())


def test_what_a_capture_forbids_fails():
    rows, ring = torch.tensor(3), torch.zeros(5, 2)
    forbidden = [
        lambda: rows.item(),
        lambda: ring[rows],
        lambda: ring[ring > 0],
        lambda: bool((ring > 0).all()),
        lambda: torch.tensor(2.0),
    ]
    for function in forbidden:
        with pytest.raises(RuntimeError, match=r"reads a number|depends on data|from the host"):
            captured(function)


def test_a_number_of_pythons_is_frozen_in_a_capture():
    ring, at = torch.zeros(4), 0

    def write():
        ring[at : at + 1].fill_(1.0)

    graph, _ = captured(write)
    ring.zero_()
    at = 2
    graph.replay()
    assert ring.tolist() == [1.0, 0.0, 0.0, 0.0]
