"""Deep Q-learning (Mnih et al. 2015), with SB3's defaults and details; double, dueling and n-step learning as options.

N envs, O observation, A number of actions, B minibatch. One iteration: about 512 environment steps, epsilon-greedily,
into a replay buffer, and between them gradient steps on uniform samples from it. Every count in the config is in
environment steps over all envs together: with num_envs=8 and train_freq=4, each step of the batch of envs is followed by
two gradient phases.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlsys import returns
from rlsys.agents import exploration, load_optimizer_state, optimizer_state
from rlsys.buffers import Batch, Replay, Transitions, action_tensor
from rlsys.config import DQNConfig
from rlsys.policy import Policy, PolicySpec
from rlsys.torchenv import TorchEnv

ITERATION = 512  # environment steps: fine enough to log and to resume at, long enough that the outer loop costs nothing


class DQN:
    """The agent: `iterate(progress)` makes `policy` better."""

    def __init__(self, env: TorchEnv, config: DQNConfig, seed: int):
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
            orthogonal=False,
            dueling=config.dueling,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = Policy(spec).to(device)
        self.target = copy.deepcopy(self.policy).requires_grad_(False)
        self.parameters = list(self.policy.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, fused=True)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.steps = 0  # environment steps, all envs together
        self.updates = 0

        self.slot = env.bind(env.empty_steps())
        step, action = self.slot[0], action_tensor(env.action_spec, env.num_envs, device=device)
        example = Transitions(step.obs, action, step.reward, step.obs, step.terminated, step.terminated, step.valid)
        self.replay = Replay(
            config.buffer_size, example, n_step=config.n_step, gamma=config.gamma, has_resets=env.has_resets
        )

    # -- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self, progress: float) -> dict[str, Any]:
        """Take about ITERATION steps and learn on the way. progress: 0..1 of the whole run; drives the schedules."""
        c, n = self.config, self.env.num_envs
        epsilon = returns.linear(c.exploration_initial_eps, c.exploration_final_eps, c.exploration_fraction, progress)
        if self.steps < c.learning_starts:
            epsilon = 1.0
        learning_rate = c.learning_rate * (1.0 - progress if c.learning_rate_schedule == "linear" else 1.0)
        self.optimizer.param_groups[0]["lr"] = learning_rate

        rounds = -(-ITERATION // n)
        explore, random_action = exploration(rounds, self.env, epsilon, self.generator)
        logs: list[dict[str, Tensor]] = []
        for t in range(rounds):
            self.act(explore[t], random_action[t])
            before, self.steps = self.steps, self.steps + n
            if times(c.target_update_interval, before, self.steps):
                self.update_target()
            phases = times(c.train_freq, before, self.steps)
            if phases and self.steps > c.learning_starts:
                logs += self.learn(phases * c.gradient_steps)

        if c.normalize_observations:  # last: all of an iteration sees the same normaliser
            self.policy.encoder.update_norm(self.replay.newest(rounds).obs)
        return {
            **self.env.metrics(),
            "rollout/exploration_rate": epsilon,
            **{name: torch.stack([log[name] for log in logs]).mean() for name in (logs[0] if logs else ())},
            "train/learning_rate": learning_rate,
            "train/n_updates": self.updates,
        }

    @torch.no_grad()
    def act(self, explore: Tensor, random_action: Tensor) -> None:
        """One epsilon-greedy step of all envs, into the replay buffer."""
        obs = self.env.obs.clone()  # the step overwrites it
        action = torch.where(explore, random_action, self.policy(obs).argmax(-1))
        self.env.step(action, self.slot)
        step = self.slot[0]
        ended = step.terminated | step.truncated
        successor = torch.where(ended.view(-1, *(1,) * (obs.dim() - 1)), step.final_obs, step.obs)
        self.replay.add(Transitions(obs, action, step.reward, successor, step.terminated, ended, step.valid))

    def learn(self, gradient_steps: int) -> list[dict[str, Tensor]]:
        """Gradient steps, each on a minibatch of its own (drawn together: cheaper); returns what each has to log."""
        size, logs = self.config.batch_size, []
        drawn = self.replay.sample(gradient_steps * size, self.generator)
        for parts in zip(*(x.split(size) for x in drawn), strict=True):
            loss, log = self.loss(Batch(*parts))
            self.optimizer.zero_grad()
            loss.backward()
            log["train/grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self.optimizer.step()
            logs.append(log)
        self.updates += gradient_steps
        return logs

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The Huber loss of the temporal difference, to be minimised (' is the target network's):

            L = E[huber(Q(s_0, a_0) - (r_0 + ... + gamma^(n-1) r_(n-1) + gamma^n Q'(s_n, a*)))]

        a* is the best action by Q' (Mnih et al. 2015), or by Q if `double` (van Hasselt et al. 2016).
        """
        with torch.no_grad():
            next_q = self.target(batch.next_obs)
            best = (self.policy(batch.next_obs) if self.config.double else next_q).argmax(-1, keepdim=True)
            target = batch.reward + batch.discount * next_q.gather(-1, best).squeeze(-1)
        q = self.policy(batch.obs).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        loss = F.smooth_l1_loss(q, target)
        return loss, {"train/loss": loss.detach(), "train/q_values": q.detach().mean()}

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target network, its normaliser included, by the fraction tau to the policy; tau = 1 copies."""
        for target, online in zip(self.target.state_dict().values(), self.policy.state_dict().values(), strict=True):
            target.lerp_(online, self.config.tau)

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


def times(interval: int, before: int, after: int) -> int:
    """How many multiples of `interval` are passed on the way from `before` to `after` steps."""
    return after // interval - before // interval
