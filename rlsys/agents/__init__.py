"""Agents: each makes a Policy better, one `iterate()` at a time. One file each; this one holds the contract and the registry.

An agent never sees a file, a logger or Hydra. It is made as `Agent(env, config, seed)`.
"""

import importlib
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch

from rlsys.capture import Capture
from rlsys.native import Native
from rlsys.policy import Policy
from rlsys.torchenv import Stopwatch, TorchEnv

AGENTS = {
    "ppo": ("rlsys.agents.ppo", "PPO"),
    "dqn": ("rlsys.agents.dqn", "DQN"),
    "pqn": ("rlsys.agents.pqn", "PQN"),
    "sb3": ("rlsys.agents.sb3", "SB3"),
}
ENGINES = {  # see config.py
    "ppo": ("auto", "native", "torch", "compile", "graph"),
    "dqn": ("auto", "native", "torch", "compile", "graph"),
    "pqn": ("auto", "torch", "compile", "graph"),
    "sb3": ("auto", "torch"),
}


class Agent(Protocol):
    """What a Run needs of an agent."""

    policy: Policy  # what is saved, evaluated and deployed
    steps: int  # environment steps so far, over all envs
    env: TorchEnv
    learning: Stopwatch  # of what `iterate` does besides acting and stepping

    def iterate(self, progress: float) -> dict[str, Any]:
        """Collect and learn once; returns metrics (numbers or 0-dim tensors) by tag. progress: 0..1 of the whole run."""

    def state(self) -> dict[str, Any]:
        """All that decides the next iteration: nested dicts of tensors, arrays and numbers. `state()["policy"]` is the policy."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""


def build(
    env: TorchEnv,
    config: Any,
    seed: int,
    *,
    engine: str = "auto",
    threads: int | None = None,
    matmul_precision: str = "float32",
) -> Agent:
    """The agent that `config` (a PPOConfig, DQNConfig, ...) describes; engine and threads as in `PPO`.

    matmul_precision: "float32", "tf32" (on a GPU) or "bfloat16", in which `iterate` multiplies matrices.
    """
    if engine not in ENGINES[config.name]:
        raise ValueError(
            f"engine={engine} is not made for agent={config.name}. One of {', '.join(ENGINES[config.name])}."
        )
    if engine == "graph" and env.device.type != "cuda":
        raise ValueError(f"engine=graph is for device=cuda, and this is {env.device.type}. Use engine=auto.")
    if matmul_precision == "tf32" and env.device.type != "cuda":
        raise ValueError(f"matmul_precision=tf32 is for device=cuda, and this is {env.device.type}. Use float32.")
    if matmul_precision != "float32" and engine == "auto" and env.device.type == "cpu":
        engine = "torch"  # native is float32
    module, name = AGENTS[config.name]
    options: dict[str, Any] = {"engine": engine} if "graph" in ENGINES[config.name] else {}
    if "native" in ENGINES[config.name]:
        options["threads"] = threads
    agent = getattr(importlib.import_module(module), name)(env, config, seed, **options)
    if engine == "compile":
        agent.loss = compiled(agent.loss)
    if env.device.type == "cuda" or matmul_precision != "float32":
        agent.iterate = multiplying(agent.iterate, matmul_precision, env.device)
    return agent


def multiplying(function: Callable[..., Any], precision: str, device: torch.device) -> Callable[..., Any]:
    """`function`, in which matrices are multiplied in `precision`."""
    if precision == "bfloat16":  # no cache: it would keep roundings of weights that have since been trained
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)(function)

    def call(*arguments: Any, **options: Any) -> Any:
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        try:
            return function(*arguments, **options)
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

    return call


def is_native(engine: str, reason_against: str | None) -> bool:
    """Whether to train natively, given the `engine` asked for and what speaks against it; ValueError if it was asked for."""
    if engine == "native" and reason_against:
        raise ValueError(f"engine=native cannot be: {reason_against}. Use engine=auto.")
    return engine in ("auto", "native") and not reason_against


def compiled(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss through torch.compile, for engine=compile; where that fails, the loss itself, and a warning that says why."""
    best = torch.compile(loss)

    def call(*arguments: Any) -> Any:
        nonlocal best
        if best is loss:
            return loss(*arguments)
        try:
            return best(*arguments)
        except Exception as error:  # torch's compilers raise anything, such as that there is no C++ compiler
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            warnings.warn(
                f"engine=compile: torch.compile failed ({reason:.200}); going on with engine=torch.", stacklevel=2
            )
            best = loss
            return loss(*arguments)

    return call


def exploration(
    steps: int, env: TorchEnv, epsilon: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Epsilon-greedy: whether to explore, and the action to take if so, for each step to come: [steps, N] each."""
    shape = (steps, env.num_envs * env.ranks.size)  # of all ranks: each draws the same numbers and takes its own
    explore = torch.rand(shape, generator=generator, device=env.device) < epsilon
    action = torch.randint(env.action_spec.n, shape, generator=generator, device=env.device)
    return env.ranks.mine(explore, 1), env.ranks.mine(action, 1)


def permutations(
    order: torch.Tensor, env: TorchEnv, valid: torch.Tensor, batch_size: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Minibatches: indices [B] into a flattened rollout, for each row of order [n_epochs, T N] a new permutation of all steps.

    It is written into that row, of which the minibatches are views; but where not all steps are experience, `valid` [T, N],
    they are new tensors. Where ranks share the envs, order is of all their steps, and a rank gets those of a minibatch that
    it has taken itself: together they learn from what one process would.
    """
    if not env.has_resets:
        rows = [torch.randperm(len(row), generator=generator, out=row) for row in order]
    else:
        samples = env.ranks.gather(valid, 1).flatten().nonzero().flatten()
        new = [torch.randperm(len(samples), generator=generator, device=samples.device) for _ in order]
        rows = [samples[at] for at in new if len(at)]
    return [env.ranks.own(at, env.num_envs) for row in rows for at in row.split(batch_size)]


def adam(parameters: list[torch.nn.Parameter], capture: Capture, epsilon: float = 1e-8) -> torch.optim.Optimizer:
    """Adam, fused; its learning rate (`set_learning_rate`) and step counts such that a graph sees them change."""
    rate, capturable = capture.number("learning_rate", 0.0), capture.device.type == "cuda"
    return torch.optim.Adam(parameters, lr=rate, eps=epsilon, fused=True, capturable=capturable)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value


def optimizer_state(optimizer: torch.optim.Optimizer | Native) -> dict[str, Any]:
    """An optimiser's moments and step counts as nested dicts with string keys (its hyperparameters come from the config)."""
    if isinstance(optimizer, Native):
        return optimizer.state()
    return {str(index): dict(slots) for index, slots in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer | Native, state: dict[str, Any]) -> None:
    """Put back what `optimizer_state` returned, of either kind of optimiser."""
    if isinstance(optimizer, Native):
        optimizer.load_state(state)
        return
    full = optimizer.state_dict()
    full["state"] = {int(index): {name: x.clone() for name, x in slots.items()} for index, slots in state.items()}
    optimizer.load_state_dict(full)
