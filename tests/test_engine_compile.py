"""engine=compile: torch.compile where it works, and what is said where it does not."""

import pytest
import torch

from rlsys.agents import build, compiled
from rlsys.config import PPOConfig, SB3Config
from rlsys.torchenv import TorchEnv
from tests.agents.worlds import make

CONFIG = PPOConfig(n_steps=16, batch_size=32, n_epochs=1, hidden=[8])


def agent(engine):
    return build(TorchEnv(make("cartpole", 4)), CONFIG, 0, engine=engine)


def test_a_loss_that_cannot_be_compiled_is_left_as_it_is_and_the_reason_told(monkeypatch):
    def broken(function):
        def call(*arguments):
            raise RuntimeError("no C++ compiler\nand a long story")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    mine, theirs = agent("compile"), agent("torch")
    with pytest.warns(
        UserWarning, match=r"engine=compile: torch.compile failed \(no C\+\+ compiler\); going on with engine=torch"
    ):
        mine.iterate(0.0)
    mine.iterate(0.5)  # says it once
    theirs.iterate(0.0)
    theirs.iterate(0.5)
    for p, q in zip(mine.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert p.equal(q)


def test_a_compiled_loss_is_the_one_that_is_used(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function: lambda *arguments: calls.append(1) or function(*arguments))
    agent("compile").iterate(0.0)
    assert len(calls) == 2  # 64 steps, minibatches of 32
    assert compiled(lambda x: x + 1)(1) == 2


def test_an_agent_that_has_no_such_engine_says_which_it_has():
    with pytest.raises(ValueError, match=r"engine=compile is not made for agent=sb3\. One of auto, torch\."):
        build(TorchEnv(make("cartpole", 4)), SB3Config(), 0, engine="compile")
