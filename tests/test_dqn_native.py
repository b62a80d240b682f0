"""DQN in the native engine against torch: the same gradient steps, the same iterations, whatever the threads."""

import copy
import inspect
from dataclasses import replace

import pytest
import torch

from rlsys import native
from rlsys.agents import dqn_rules
from rlsys.agents.dqn import DQN
from rlsys.buffers import random_bits
from rlsys.config import DQNConfig
from rlsys.torchenv import TorchEnv
from tests.agents.worlds import make, make_with_resets

PLAIN = DQNConfig(
    learning_starts=128, batch_size=48, train_freq=16, target_update_interval=64, hidden=[24, 17], double=False
)
CASES = {
    "plain": PLAIN,
    "double": replace(PLAIN, double=True, tau=0.3, activation="tanh"),
    "everything": replace(
        PLAIN,
        double=True,
        dueling=True,
        n_step=3,
        normalize_observations=True,
        tau=0.7,
        buffer_size=640,
        max_grad_norm=0.1,
    ),
}


def pair(config: DQNConfig, num_envs=4, threads=1) -> tuple[DQN, DQN]:
    """The same agent twice: native and torch. Episodes are cut off after 20 steps."""
    return tuple(
        DQN(TorchEnv(make("cartpole", num_envs, max_episode_steps=20)), config, seed=0, engine=engine, threads=threads)
        for engine in ("native", "torch")
    )


def assert_close(one: DQN, two: DQN, tolerance: float) -> None:
    for net in ("policy", "target"):
        tensors = getattr(two, net).state_dict()
        for name, x in getattr(one, net).state_dict().items():
            torch.testing.assert_close(
                x, tensors[name], rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize("case", CASES)
def test_ten_iterations_follow_those_of_torch(case):
    mine, theirs = pair(CASES[case])
    for k in range(10):
        a, b = mine.iterate(k / 10), theirs.iterate(k / 10)
        assert a.keys() == b.keys()
    assert mine.updates == theirs.updates == (5120 - 128) // 16
    assert mine.steps == theirs.steps == 5120
    assert_close(mine, theirs, 1e-4)
    for name, x in mine.replay.ring._asdict().items():  # what was done and seen, and how it ended
        torch.testing.assert_close(x, getattr(theirs.replay.ring, name), rtol=0, atol=1e-6)
    assert mine.replay.ring.ended.any()
    assert a["train/loss"] == pytest.approx(float(b["train/loss"]), rel=1e-3)
    assert a["train/grad_norm"] == pytest.approx(float(b["train/grad_norm"]), rel=1e-3)
    assert mine.env.metrics() == theirs.env.metrics() != {}


def test_other_envs_are_stepped_by_python_and_learned_from_natively():
    mine, theirs = (
        DQN(TorchEnv(make("cartpole", 4, backend="python")), CASES["plain"], seed=0, engine=engine)
        for engine in ("native", "torch")
    )
    for k in range(2):
        mine.iterate(k / 2)
        theirs.iterate(k / 2)
    assert mine.updates == theirs.updates > 0
    assert_close(mine, theirs, 1e-5)


def test_envs_whose_resets_are_steps_are_left_to_torch():
    assert DQN(TorchEnv(make_with_resets("gymnasium", 2)), PLAIN, seed=0, engine="auto").native is None
    with pytest.raises(ValueError, match="engine=native cannot be: some steps of the env only reset it"):
        DQN(TorchEnv(make_with_resets("gymnasium", 2)), PLAIN, seed=0, engine="native")


def test_priorities_are_left_to_torch():
    config = replace(PLAIN, prioritized_replay=True)
    assert DQN(TorchEnv(make("cartpole", 2)), config, seed=0, engine="auto").native is None
    with pytest.raises(ValueError, match="engine=native cannot be: prioritized_replay has no compiled form"):
        DQN(TorchEnv(make("cartpole", 2)), config, seed=0, engine="native")


def test_the_bits_do_not_depend_on_the_number_of_threads():
    config = replace(CASES["everything"], batch_size=200, hidden=[64, 64])

    def weights(threads: int) -> torch.Tensor:
        agent = pair(config, threads=threads)[0]
        for k in range(3):
            agent.iterate(k / 3)
        return agent.native.adam.flat

    assert weights(2).equal(weights(1))


@pytest.mark.parametrize(("first", "second"), [("native", "torch"), ("torch", "native"), ("native", "native")])
def test_a_run_can_go_on_with_the_other_engine(first, second):
    def agent(engine, seed):
        return DQN(TorchEnv(make("cartpole", 4)), CASES["everything"], seed=seed, engine=engine)

    a = agent(first, 0)
    for _ in range(3):
        a.iterate(0.0)
    state = copy.deepcopy(a.state())
    b = agent(second, 1)
    b.load_state(state)
    a.iterate(0.5)
    b.iterate(0.5)
    if first == second:
        assert a.native.adam.flat.equal(b.native.adam.flat)
    assert_close(a, b, 1e-5)


def check_gradient(dueling: bool) -> None:
    """One gradient step without clipping: Adam's first moment is a tenth of the gradient."""
    config = replace(CASES["plain"], dueling=dueling, learning_starts=10**6, max_grad_norm=1e9)
    mine, theirs = pair(config)
    mine.iterate(0.0)
    theirs.iterate(0.0)
    with torch.no_grad():
        for p, q in zip(mine.parameters, theirs.parameters, strict=True):
            q.copy_(p.mul_(4.0))  # errors on both sides of Huber's corner
    bits = random_bits(1, 48, generator=torch.Generator().manual_seed(1))
    log, expected = mine.learn(bits, 1e-3)[0], theirs.learn(bits, 1e-3)[0]
    torch.testing.assert_close(log.float(), expected, rtol=1e-5, atol=1e-6)
    state = mine.native.adam.state()
    for i, p in enumerate(theirs.parameters):
        torch.testing.assert_close(
            10 * state[str(i)]["exp_avg"], p.grad, rtol=1e-4, atol=1e-5 * p.grad.abs().max().item()
        )


@pytest.mark.parametrize("dueling", [False, True])
def test_gradients_are_those_of_automatic_differentiation(dueling):
    check_gradient(dueling)


RULE_BUGS = [  # in a loss's derivative: owner, right, wrong
    ("huber", "max(error, -1.0), 1.0", "max(error, -1.0), 2.0"),
    ("plain_loss", "d_out[action] = ", "d_out[0] = "),
    ("dueling_loss", "- 1.0 / n", ""),
]


@pytest.mark.parametrize(("function", "right", "wrong"), RULE_BUGS)
def test_a_wrong_derivative_is_noticed(function, right, wrong, monkeypatch):
    source = inspect.getsource(getattr(dqn_rules, function).py_func)
    assert source.count(right) == 1
    scope = dict(vars(dqn_rules))
    exec(source.replace(right, wrong), scope)
    for user in ("plain_loss", "dueling_loss"):
        if function == "huber":
            exec(inspect.getsource(getattr(dqn_rules, user).py_func), scope)
        monkeypatch.setattr(dqn_rules, user, scope[user])
    with pytest.raises(AssertionError):
        check_gradient(dueling=function == "dueling_loss")


KERNEL_BUGS = [  # in dqn_kernels.py: what is wrong, right, wrong
    ("n steps into the next episode", "if ended[item] or age >= size:", "if age >= size:"),
    ("n steps over the write head", "if ended[item] or age >= size:", "if ended[item]:"),
    ("first observation as successor", "final_rows[i, j] if ended else", "final_rows[i, j] if False else"),
    ("the target network's own best action", "best = int(target_columns[r, 0])", "best = best"),
]


@pytest.mark.parametrize(("right", "wrong"), [pytest.param(*bug[1:], id=bug[0]) for bug in KERNEL_BUGS])
def test_a_bug_in_the_kernel_is_noticed(right, wrong, monkeypatch, tmp_path):
    for template in native.FOLDER.glob("*_kernels.py"):
        text = template.read_text()
        if template.name == "dqn_kernels.py":
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        (tmp_path / template.name).write_text(text)
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    with pytest.raises(AssertionError):
        test_ten_iterations_follow_those_of_torch("everything")
