"""Functions of tensors as graphs: what a graph may and may not do, and what happens where it cannot be."""

import pytest
import torch

from rlsys.capture import WARM_UP, Capture, Captured
from tests.graphs import RecordedGraph


def test_a_captured_function_does_its_python_once_and_its_work_each_time():
    calls = []

    def double(x):
        calls.append(1)
        total.add_(x.sum())
        return {"double": x * 2}, len(calls)

    total, x = torch.zeros(()), torch.zeros(3)
    captured = Captured(double, RecordedGraph())
    for k in range(6):
        x.fill_(k)
        found, count = captured(x)
        assert found["double"].tolist() == [2 * k] * 3
    assert total == 3 * sum(range(6))
    assert len(calls) == count == WARM_UP + 1


def test_a_number_changes_for_a_graph_only_as_a_tensor():
    capture = Capture("graph", torch.device("cpu"))
    by_tensor = Captured(lambda rate: torch.ones(()) * rate, RecordedGraph())
    rates = [by_tensor(capture.number("rate", 0.1 * k)).item() for k in range(5)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert Capture("torch", torch.device("cpu")).number("rate", 0.1) == 0.1


def test_other_tensors_are_refused_once_it_is_captured():
    captured = Captured(lambda x: x + 1, RecordedGraph())
    x = torch.zeros(2)
    for _ in range(WARM_UP + 2):
        captured(x)
    with pytest.raises(AssertionError, match="other tensors"):
        captured(torch.zeros(2))


def test_what_cannot_be_captured_runs_as_it_is_and_a_warning_says_why():
    def wait_for(x):
        return x + 1 if x.sum().item() > 0 else x

    captured = Captured(wait_for, RecordedGraph())
    x = torch.ones(2)
    for _ in range(WARM_UP):
        captured(x)
    with pytest.warns(UserWarning, match="wait_for runs without a CUDA graph: operation not permitted"):
        assert captured(x).tolist() == [2, 2]
    assert captured(x.zero_()).tolist() == [0, 0]  # the branch of now, not of then


def test_a_known_reason_against_a_graph_is_told():
    with pytest.warns(UserWarning, match="runs without a CUDA graph: it is Tuesday"):
        Capture("graph", torch.device("cpu"))(torch.nn.Linear(1, 1).forward, "it is Tuesday")
    assert Capture("auto", torch.device("cpu"))(torch.nn.Linear(1, 1).forward).graph is None
