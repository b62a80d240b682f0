"""Parallelised Q-learning (Gallici et al. 2024, "Simplifying deep temporal difference learning"), after the authors' purejaxql.

T time (n_steps), N envs, O observation, A number of actions, B minibatch. One iteration: collect T x N steps epsilon-greedily,
compute their Q(lambda) targets once, take n_epochs passes of minibatch gradient steps towards them. There is neither a replay
buffer nor a target network: many envs side by side make the samples diverse, and layer normalisation keeps the values from
diverging.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rlsys import returns
from rlsys.agents import exploration, load_optimizer_state, optimizer_state, permutations, set_learning_rate
from rlsys.buffers import action_tensor
from rlsys.capture import Capture
from rlsys.config import PQNConfig
from rlsys.policy import Policy, PolicySpec
from rlsys.torchenv import Stopwatch, TorchEnv


class PQN:
    """The agent: `iterate(progress)` makes `policy` better."""

    def __init__(self, env: TorchEnv, config: PQNConfig, seed: int, *, engine: str = "torch"):
        """engine: "torch", or "graph" (on a GPU: see capture.py), or "auto": graph where it can be."""
        if not env.action_spec.n:
            raise ValueError(
                "agent=pqn needs a Discrete action space, and this one is a Box. Use agent=ppo, or agent=sb3 with SAC."
            )
        self.env, self.config, self.ranks, device = env, config, env.ranks, env.device
        spec = PolicySpec(
            obs=env.obs_spec,
            action=env.action_spec,
            rule="q_values",
            hidden=config.hidden,
            activation=config.activation,
            normalize=config.normalize_observations,
            encoder=config.encoder,
            orthogonal=False,
            layer_norm=config.layer_norm,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = Policy(spec).to(device)
        self.parameters = list(self.policy.parameters())
        self.ranks.share_(self.parameters)
        self.capture = Capture(engine, device)
        # There is no fused RAdam; `capturable` keeps its step counts on the device, where nothing has to wait for them.
        rate = self.capture.number("learning_rate", 0.0)
        self.optimizer = torch.optim.RAdam(self.parameters, lr=rate, foreach=True, capturable=self.capture.is_blind)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.steps = 0  # environment steps, all envs together
        self.learning = Stopwatch()
        self.updates = 0

        # The rollout: observation t + 1 is written by step t, so there is one more of them, and of their values.
        length, n = config.n_steps, env.num_envs
        self.rollout = env.empty_steps(length)
        self.obs = torch.zeros((length + 1, *env.obs.shape), dtype=env.obs_dtype, device=device)
        self.value = torch.zeros(length + 1, n, device=device)  # max_a Q
        self.action = action_tensor(env.action_spec, length, n, device=device)
        rows = [type(self.rollout)(*row) for row in zip(*self.rollout, strict=True)]
        self.slots = [env.bind(row._replace(obs=self.obs[t + 1])) for t, row in enumerate(rows)]
        self.explore = torch.zeros(length, n, dtype=torch.bool, device=device)
        self.random_action = torch.zeros_like(self.action)

        # on a GPU, three graphs
        self.play = self.capture(self.act_and_step, env.reason_against_graph())
        self.aim = self.capture(self.targets)
        self.fit = self.capture(self.gradient_steps)
        self.order = torch.zeros(config.n_epochs, length * n * self.ranks.size, dtype=torch.int64, device=device)

    # -- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self, progress: float) -> dict[str, Any]:
        """Collect n_steps from every env and learn from them. progress: 0..1 of the whole run; drives the schedules."""
        c = self.config
        epsilon = returns.linear(c.exploration_initial_eps, c.exploration_final_eps, c.exploration_fraction, progress)
        learning_rate = c.learning_rate * (1.0 - progress if c.learning_rate_schedule == "linear" else 1.0)
        set_learning_rate(self.optimizer, learning_rate)

        self.collect(epsilon)
        with self.learning:
            metrics = self.update(self.aim())
            self.policy.encoder.update_norm(self.obs[:-1], self.ranks)  # last: the update saw what the rollout saw
        return {
            "rollout/exploration_rate": epsilon,
            **metrics,
            "train/learning_rate": learning_rate,
            "train/n_updates": self.updates,
        }

    @torch.no_grad()
    def collect(self, epsilon: float) -> None:
        """Act epsilon-greedily for n_steps; fills obs, value, action and rollout."""
        self.obs[0].copy_(self.env.obs)
        explore, random_action = exploration(len(self.slots), self.env, epsilon, self.generator)
        self.explore.copy_(explore)
        self.random_action.copy_(random_action)
        self.play()
        self.env.obs = self.obs[-1]
        self.steps += self.action.numel() * self.ranks.size

    @torch.no_grad()
    def act_and_step(self) -> None:
        """The same, given the first observation and where to explore how."""
        for t, slot in enumerate(self.slots):
            self.value[t], best = self.policy(self.obs[t]).max(-1)
            self.action[t] = torch.where(self.explore[t], self.random_action[t], best)
            self.env.step(self.action[t], slot)
        self.value[-1] = self.greedy_value(self.obs[-1])
        if self.env.leaves_counting:
            self.env.count(self.rollout.episode_return, self.rollout.episode_length)

    @torch.no_grad()
    def targets(self) -> Tensor:
        """What Q(s_t, a_t) should be, by the values that acted: [T, N]."""
        roll, c = self.rollout, self.config
        final_value = self.final_values(roll.truncated & ~roll.terminated)
        reward = returns.bootstrap_truncated(roll.reward, roll.terminated, roll.truncated, final_value, c.gamma)
        ended = roll.terminated | roll.truncated
        return returns.q_lambda(reward, self.value[:-1], self.value[-1], ended, c.gamma, c.q_lambda)

    def update(self, target: Tensor) -> dict[str, Tensor]:
        """n_epochs passes over the rollout in shuffled minibatches; returns the means of what `loss` logs over all of them."""
        metrics, taken = self.fit(target, *self.minibatches())
        self.updates += taken
        return metrics

    def gradient_steps(self, target: Tensor, *minibatches: Tensor) -> tuple[dict[str, Tensor], int]:
        """A gradient step on each minibatch; returns the means of what `loss` logs, and how many they were."""
        obs, action, target = (x.flatten(0, 1) for x in (self.obs[:-1], self.action, target))
        logs: list[dict[str, Tensor]] = []
        for at in minibatches:
            loss, log = self.loss(obs[at], action[at], target[at])
            self.optimizer.zero_grad()
            loss.backward()
            self.ranks.mean_([*(x.grad for x in self.parameters), *log.values()], weight=len(at))
            log["train/grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self.optimizer.step()
            logs.append(log)
        return {name: torch.stack([log[name] for log in logs]).mean() for name in (logs[0] if logs else ())}, len(logs)

    def loss(self, obs: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error on a minibatch ([B, ...] each), to be minimised: L = E[(Q(s, a) - target)^2] / 2."""
        q = self.policy(obs).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        loss = 0.5 * (q - target).square().mean()
        return loss, {"train/loss": loss.detach(), "train/q_values": q.detach().mean()}

    # -- its parts ---------------------------------------------------------------------------------------------------

    def greedy_value(self, obs: Tensor) -> Tensor:
        """max_a Q of observations [B, *O] -> [B]."""
        return self.policy(obs).amax(-1)

    def final_values(self, truncated: Tensor) -> Tensor:
        """max_a Q of the last observation of truncated episodes, 0 elsewhere: [T, N]."""
        final_obs, value = self.rollout.final_obs, torch.zeros_like(self.value[:-1])
        if self.capture.is_blind:  # all of them
            return self.greedy_value(final_obs.flatten(0, 1)).view_as(value) * truncated
        if truncated.any():
            value[truncated] = self.greedy_value(final_obs[truncated])
        return value

    def minibatches(self) -> list[Tensor]:
        """Indices [B] into the flattened rollout: each epoch a new permutation of all steps that are experience."""
        return permutations(self.order, self.env, self.rollout.valid, self.config.batch_size, self.generator)

    # -- resuming ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the next iteration, of all ranks."""
        return {
            "policy": self.policy.state(),
            "optimizer": optimizer_state(self.optimizer),
            "generator": self.generator.get_state(),
            "env": self.env.state(),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state(state["policy"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.env.load_state(state["env"])
        self.steps, self.updates = state["steps"], state["updates"]
