"""DQN's hands in the native engine: gives its networks, replay buffer and envs to the kernels of `dqn_kernels.py`.

R steps of N envs, G gradient steps, B minibatch, as in `DQN`.
"""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlsys.agents import dqn_rules
from rlsys.buffers import Replay
from rlsys.config import DQNConfig
from rlsys.native import Flat, Native, is_sparse, norm_of
from rlsys.networks import Encoder, VectorPart
from rlsys.policy import Dueling, Policy
from rlsys.torchenv import TorchEnv

LOGS = (*dqn_rules.LOGS, "train/grad_norm")
ADAM_EPSILON = 1e-8  # torch's default


class Plan(NamedTuple):
    """What decides R steps of N envs and the learning between them."""

    explore: Tensor  # [R, N] whether to act at random
    random_action: Tensor  # [R, N]
    updates: NDArray  # [R] whether the target network is moved after the step
    gradient_steps: NDArray  # [R] how many are taken after it; G in all
    bits: Tensor  # [G, B] random numbers that draw their minibatches
    learning_rate: float


class NativeDQN:
    """The networks of a DQN, trained natively. `adam` holds the optimiser's state."""

    def __init__(
        self,
        policy: Policy,
        target: Policy,
        parameters: list[nn.Parameter],
        replay: Replay,
        env: TorchEnv,
        config: DQNConfig,
        threads: int,
    ):
        self.policy, self.target, self.replay, self.env, self.config = policy, target, replay, env, config
        sparse = is_sparse(policy.spec.obs)
        self.adam = Native([layers(policy)], [], dqn_rules.rule(config.dueling), parameters, threads, sparse)
        self.target_params = Flat([layers(target)], [], sparse)
        names = {"q_row": dqn_rules.q_row(config.dueling), "DOUBLE": config.double}
        title = self.adam.rule.name
        if env.compiled:
            names |= env.compiled.inline
            title += f"-{env.compiled.sim.name.lower()}"
        self.kernels = self.adam.choose(self.adam.companion("dqn_kernels.py", names, title), config.batch_size)

        n, batch, real = env.num_envs, config.batch_size, np.float32
        lanes, n_actions = len(self.adam.scratch[0]), env.action_spec.n
        self.ring = tuple(x.flatten(1).numpy() if x.dim() > 1 else x.numpy() for x in replay.flat)
        self.work = (
            np.empty(batch, np.int64),  # first step of each sample
            np.empty(batch, np.int64),  # last step
            np.empty((batch, 3), real),  # action, reward, discount
            np.empty((batch, 2), real),  # action, target
            np.empty((lanes, n_actions), real),
            np.arange(batch),
            np.empty(0),
        )
        self.obs = torch.empty_like(env.obs)  # acted on by the kernel, which writes its successor over it
        self.final_obs = torch.empty_like(env.obs)
        self.clock = np.zeros(3, np.int64)
        self.step = (np.empty(n, bool), np.empty(n, np.int64))  # truncated, action

    def learn(self, bits: Tensor, learning_rate: float) -> Tensor:
        """A gradient step for each row of bits [G, B]; returns what they log, [G, 3]."""
        logs = np.zeros((len(bits), len(LOGS)))
        self.kernels.learn(*self._networks(), *self._learning(bits, learning_rate, logs))
        self.adam.steps += len(bits)
        return torch.from_numpy(logs)

    def rounds(self, obs: Tensor, plan: Plan) -> tuple[Tensor, NDArray, NDArray, Tensor, NDArray]:
        """`DQN.torch_rounds`, from obs [N, *O] on: next obs, return and length [R, N] of the episodes that ended, logs, and
        the seconds that steps and learning took."""
        assert self.env.compiled
        began = time.perf_counter()
        self.obs.copy_(obs)
        returns, lengths = np.empty(plan.explore.shape), np.empty(plan.explore.shape, np.int64)
        logs = np.zeros((len(plan.bits), len(LOGS)))
        truncated, action = self.step
        _, acts, _, _, xs, outs, _, _ = self.adam.scratch
        final, q = self.final_obs, self.work[4]
        step = (
            truncated,
            final.numpy(),
            final.flatten(1).numpy(),
            action,
            returns,
            lengths,
            acts[0],
            xs[0],
            outs[0],
            q[0],
        )
        self.kernels.rounds(
            self.env.compiled.world, self.obs.numpy(), self.obs.flatten(1).numpy(), step,
            plan.explore.numpy(), plan.random_action.numpy(), plan.updates, plan.gradient_steps, self.clock,
            *self._networks(), statistics(self.policy.encoder), statistics(self.target.encoder), self.config.tau,
            *self._learning(plan.bits, plan.learning_rate, logs),
        )  # fmt: skip
        self.replay.rows += len(plan.explore)
        self.adam.steps += len(plan.bits)
        seconds = (time.perf_counter() - began) * self.clock[:2] / max(self.clock[2], 1)
        return self.obs, returns, lengths, torch.from_numpy(logs), seconds

    def _networks(self) -> tuple:
        """net, target, norm, target_norm."""
        norms = norm_of(self.policy.encoder), norm_of(self.target.encoder)
        return self.adam.params.net, self.target_params.net, *norms

    def _learning(self, bits: Tensor, learning_rate: float, logs: NDArray) -> tuple:
        """What `learn` and `rounds` both take after the networks."""
        c = self.config
        optimizer = self.adam.optimizer(learning_rate, ADAM_EPSILON, c.max_grad_norm)
        ring = (self.ring, self.env.num_envs, int(self.replay.rows), c.n_step, c.gamma, bits.numpy())
        return *ring, optimizer, self.adam.steps, self.adam.scratch, self.work, logs


def layers(policy: Policy) -> list[Any]:
    """The policy's network as `Native` takes it: a dueling head is one layer, of the value and the advantages."""
    head = policy.head
    return [*policy.body, (head.value, head.advantage) if isinstance(head, Dueling) else head]


def statistics(encoder: Encoder) -> tuple[NDArray, NDArray, NDArray]:
    """Mean [F], variance [F] and count [1] of the encoder's normaliser, the memory itself; nothing if there is none."""
    part: Any = encoder.parts[0]
    if not isinstance(part, VectorPart) or part.norm is None:
        return np.empty(0), np.empty(0), np.empty(0)
    norm = part.norm
    return norm.mean.numpy(), norm.var.numpy(), norm.count.view(1).numpy()
