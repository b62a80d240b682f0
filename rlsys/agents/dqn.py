"""Deep Q-learning (Mnih et al. 2015), with SB3's defaults and details; options are double, dueling and n-step learning, and
prioritised replay.

N envs, O observation, A number of actions, B minibatch. One iteration: about 512 environment steps, epsilon-greedily,
into a replay buffer, and between them gradient steps on samples from it. Every count in the config is in environment steps
over all envs together: with num_envs=8 and train_freq=4, each step of the batch of envs is followed by two gradient phases.
"""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rlsys import returns
from rlsys.agents import adam, exploration, is_native, load_optimizer_state, optimizer_state, set_learning_rate
from rlsys.agents.dqn_native import LOGS, NativeDQN, Plan
from rlsys.buffers import Batch, PrioritizedReplay, Replay, Transitions, action_tensor, random_bits
from rlsys.capture import Capture
from rlsys.config import DQNConfig
from rlsys.native import choose_threads, reason_against
from rlsys.policy import Policy, PolicySpec
from rlsys.torchenv import Stopwatch, TorchEnv

WEIGHT = "train/importance_weight"
ITERATION = 512  # environment steps: fine enough to log and to resume at, long enough that the outer loop costs nothing


class DQN:
    """The agent: `iterate(progress)` makes `policy` better."""

    def __init__(
        self, env: TorchEnv, config: DQNConfig, seed: int, *, engine: str = "torch", threads: int | None = None
    ):
        """engine and threads: as in PPO."""
        if not env.action_spec.n:
            raise ValueError(
                "agent=dqn needs a Discrete action space, and this one is a Box. Use agent=ppo, or agent=sb3 with SAC."
            )
        self.env, self.config, device = env, config, env.device
        spec = PolicySpec(
            obs=env.obs_spec,
            action=env.action_spec,
            rule="q_values",
            hidden=config.hidden,
            activation=config.activation,
            normalize=config.normalize_observations,
            encoder=config.encoder,
            orthogonal=False,
            dueling=config.dueling,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = Policy(spec).to(device)
        self.target = copy.deepcopy(self.policy).requires_grad_(False)
        self.parameters = list(self.policy.parameters())
        self.generator = torch.Generator(device).manual_seed(seed)
        self.steps = 0  # environment steps, all envs together
        self.learning = Stopwatch()
        self.updates = 0

        self.slot = env.bind(env.empty_steps())
        step, action = self.slot.step, action_tensor(env.action_spec, env.num_envs, device=device)
        example = Transitions(step.obs, action, step.reward, step.obs, step.terminated, step.terminated, step.valid)
        options: Any = {"n_step": config.n_step, "gamma": config.gamma, "has_resets": env.has_resets}
        if config.prioritized_replay:
            options |= {"alpha": config.prioritized_replay_alpha, "eps": config.prioritized_replay_eps}
        kind = PrioritizedReplay if config.prioritized_replay else Replay
        self.replay: Replay = kind(config.buffer_size, example, **options)
        self.beta = torch.zeros((), dtype=torch.float64, device=device)  # of prioritised replay
        self.logs = (*LOGS, WEIGHT) if config.prioritized_replay else LOGS
        self.native = None
        if is_native(engine, self.reason_against_native()):
            self.native = NativeDQN(
                self.policy,
                self.target,
                self.parameters,
                self.replay,
                env,
                config,
                threads or choose_threads(config.batch_size),
            )
        self.capture = Capture(engine, device)
        self.optimizer: Any = self.native.adam if self.native else adam(self.parameters, self.capture)

        # on a GPU, three graphs
        self.play = self.capture(self.act_and_step, env.reason_against_graph())
        self.fit = self.capture(self.learn_from, env.has_resets and "samples that are no experience are drawn again")
        self.move_target = self.capture(self.update_target)

    # -- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self, progress: float) -> dict[str, Any]:
        """Take about ITERATION steps and learn on the way. progress: 0..1 of the whole run; drives the schedules."""
        c, n = self.config, self.env.num_envs
        epsilon = returns.linear(c.exploration_initial_eps, c.exploration_final_eps, c.exploration_fraction, progress)
        if self.steps < c.learning_starts:
            epsilon = 1.0
        self.beta.fill_(returns.linear(c.prioritized_replay_beta0, 1.0, 1.0, progress))
        learning_rate = c.learning_rate * (1.0 - progress if c.learning_rate_schedule == "linear" else 1.0)

        # after which steps the target network is moved, and how many gradient steps are taken
        rounds = -(-ITERATION // n)
        steps = self.steps + n * np.arange(rounds + 1)
        updates = passed(c.target_update_interval, steps) > 0
        gradient_steps = passed(c.train_freq, steps) * c.gradient_steps * (steps[1:] > c.learning_starts)

        explore, random_action = exploration(rounds, self.env, epsilon, self.generator)
        bits = random_bits(int(gradient_steps.sum()), c.batch_size, generator=self.generator)
        take = self.native_rounds if self.native and self.env.compiled else self.torch_rounds
        logs = take(Plan(explore, random_action, updates, gradient_steps, bits, learning_rate))
        self.updates += len(bits)

        if c.normalize_observations:  # last: all of an iteration sees the same normaliser
            self.policy.encoder.update_norm(self.replay.newest(rounds).obs)
        return {
            "rollout/exploration_rate": epsilon,
            **(dict(zip(self.logs, logs.mean(0), strict=True)) if len(logs) else {}),
            "train/learning_rate": learning_rate,
            "train/n_updates": self.updates,
        }

    def torch_rounds(self, plan: Plan) -> Tensor:
        """Steps of all envs, and what is to be learned after each; returns the logs of the gradient steps, [G, logs]."""
        logs: list[Tensor] = []
        for t, more in enumerate(plan.gradient_steps):
            self.act(plan.explore[t], plan.random_action[t])
            self.steps += self.env.num_envs
            with self.learning:
                if plan.updates[t]:
                    self.move_target()
                if more:
                    logs += self.learn(plan.bits[len(logs) : len(logs) + more], plan.learning_rate)
        return torch.stack(logs) if logs else torch.empty(0)

    @torch.no_grad()
    def native_rounds(self, plan: Plan) -> Tensor:
        """The same in one call of a compiled kernel."""
        assert self.native
        obs, returns_, lengths, logs, (stepping, learning) = self.native.rounds(self.env.obs, plan)
        self.env.took(obs, returns_, lengths, stepping)
        self.learning.seconds += learning
        self.steps += plan.explore.numel()
        return logs

    def act(self, explore: Tensor, random_action: Tensor) -> None:
        """One epsilon-greedy step of all envs, into the replay buffer."""
        if self.env.obs is not self.slot.step.obs:  # the first step
            self.env.obs = self.slot.step.obs.copy_(self.env.obs)
        self.play(self.capture.kept("explore", explore), self.capture.kept("random_action", random_action))

    @torch.no_grad()
    def act_and_step(self, explore: Tensor, random_action: Tensor) -> None:
        obs = self.env.obs.clone()  # the step overwrites it
        action = torch.where(explore, random_action, self.policy(obs).argmax(-1))
        self.env.step(action, self.slot)
        step = self.slot.step
        ended = step.terminated | step.truncated
        successor = torch.where(ended.view(-1, *(1,) * (obs.dim() - 1)), step.final_obs, step.obs)
        self.replay.add(Transitions(obs, action, step.reward, successor, step.terminated, ended, step.valid))
        if self.env.is_resident:
            self.env.count(step.episode_return, step.episode_length)

    def learn(self, bits: Tensor, learning_rate: float) -> list[Tensor]:
        """Gradient steps, each on the minibatch that a row of bits [G, B] draws; returns what each has to log."""
        if self.native:
            return list(self.native.learn(bits, learning_rate))
        set_learning_rate(self.optimizer, learning_rate)
        if self.fit.graph:
            return [self.fit(self.capture.kept("bits", row)).clone() for row in bits]
        if isinstance(self.replay, PrioritizedReplay):  # one by one: each changes what the next will draw
            return [self.learn_from(row) for row in bits]
        drawn = self.replay.sample(bits.flatten(), self.generator)  # together: cheaper
        batches = zip(*(x.split(bits.shape[1]) for x in drawn), strict=True)
        return [self.gradient_step(Batch(*parts))[0] for parts in batches]

    def learn_from(self, bits: Tensor) -> Tensor:
        """A gradient step on a minibatch drawn by bits [B]; returns what it has to log."""
        if not isinstance(self.replay, PrioritizedReplay):
            return self.gradient_step(self.replay.sample(bits, self.generator))[0]
        batch, item, weight = self.replay.draw(bits, self.beta)
        log, error = self.gradient_step(batch, weight)
        assert error is not None
        self.replay.update(item, error)
        return torch.cat([log, weight.mean().unsqueeze(0)])

    def gradient_step(self, batch: Batch, weight: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Make the loss of a minibatch smaller; returns what that has to log, and |delta| as `loss` does."""
        loss, log, error = self.loss(batch, weight)
        self.optimizer.zero_grad()
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return torch.stack([*log.values(), grad_norm]), error

    def loss(self, batch: Batch, weight: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The Huber loss of the temporal difference, to be minimised (' is the target network's):

            L = E[w huber(delta)],   delta = Q(s_0, a_0) - (r_0 + ... + gamma^(n-1) r_(n-1) + gamma^n Q'(s_n, a*))

        a* is the best action by Q' (Mnih et al. 2015), or by Q if `double` (van Hasselt et al. 2016). weight: w [B], None
        for ones. Returns the loss, what there is to log, and, where there are weights, |delta| [B].
        """
        with torch.no_grad():
            next_q = self.target(batch.next_obs)
            best = (self.policy(batch.next_obs) if self.config.double else next_q).argmax(-1, keepdim=True)
            target = batch.reward + batch.discount * next_q.gather(-1, best).squeeze(-1)
        q = self.policy(batch.obs).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        loss, error = F.smooth_l1_loss(q, target, reduction="none" if weight is not None else "mean"), None
        if weight is not None:
            loss, error = (weight * loss).mean(), (q.detach() - target).abs()
        return loss, {"train/loss": loss.detach(), "train/q_values": q.detach().mean()}, error

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target network, its normaliser included, by the fraction tau to the policy; tau = 1 copies."""
        for target, online in zip(self.target.state_dict().values(), self.policy.state_dict().values(), strict=True):
            target.lerp_(online, self.config.tau)

    def reason_against_native(self) -> str | None:
        """Why the native engine cannot train these networks, or None if it can."""
        if self.config.prioritized_replay:
            return "prioritized_replay has no compiled form"
        if self.env.has_resets:
            return "some steps of the env only reset it"
        return reason_against(self.env.device, self.policy.encoder, [list(self.policy.body)])

    # -- resuming ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the next iteration."""
        return {
            "policy": self.policy.state(),
            "target": dict(self.target.state_dict()),
            "optimizer": optimizer_state(self.optimizer),
            "generator": self.generator.get_state(),
            "replay": self.replay.state(),
            "env": self.env.state(),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state(state["policy"])
        self.target.load_state_dict(state["target"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.replay.load_state(state["replay"])
        self.env.load_state(state["env"])
        if not self.env.is_native:  # its episodes start anew
            self.replay.cut()
        self.steps, self.updates = state["steps"], state["updates"]


def passed(interval: int, steps: NDArray) -> NDArray:
    """How many multiples of `interval` are passed between each of `steps` and the next."""
    return np.diff(steps // interval)
