"""Proximal policy optimisation (Schulman et al. 2017), with SB3's defaults and details.

T time (n_steps), N envs, O observation, A action, B minibatch. One iteration: collect T x N steps with the present policy,
estimate advantages, take n_epochs passes of minibatch gradient steps on the clipped objective.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlsys import returns
from rlsys.agents import (
    adam,
    is_native,
    load_optimizer_state,
    optimizer_state,
    permutations,
    ppo_rules,
    set_learning_rate,
)
from rlsys.buffers import action_tensor
from rlsys.capture import Capture
from rlsys.config import PPOConfig
from rlsys.native import Native, Rollout, choose_threads, is_sparse, norm_of, reason_against
from rlsys.networks import Encoder, RunningNorm, linear, mlp
from rlsys.policy import Policy, PolicySpec
from rlsys.torchenv import Stopwatch, TorchEnv

ADAM_EPSILON = 1e-5


class Critic(nn.Module):
    """V(s): [B, *O] -> [B]. Looks through the policy's encoder: shared convolutions, the same normaliser."""

    def __init__(self, encoder: Encoder, hidden: list[int], activation: str):
        super().__init__()
        self.body = mlp(encoder.num_features, hidden, activation, orthogonal=True)
        self.head = linear(hidden[-1] if hidden else encoder.num_features, 1, gain=1.0)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features)).squeeze(-1).to(self.head.weight.dtype)  # also under autocast


class PPO:
    """The agent: `iterate(progress)` makes `policy` better."""

    def __init__(
        self, env: TorchEnv, config: PPOConfig, seed: int, *, engine: str = "torch", threads: int | None = None
    ):
        """engine: "torch", "native" (MLPs on the CPU, compiled: see native.py), "graph" (on a GPU: see capture.py), or "auto":
        native or graph where it can be. threads: of the native engine; None leaves it to choose."""
        self.env, self.config, self.ranks, device = env, config, env.ranks, env.device
        spec = PolicySpec(
            obs=env.obs_spec,
            action=env.action_spec,
            rule="categorical" if env.action_spec.n else "gaussian",
            hidden=config.hidden,
            activation=config.activation,
            normalize=config.normalize_observations,
            encoder=config.encoder,
            log_std_init=config.log_std_init,
            deterministic=config.deterministic,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = Policy(spec).to(device)
            self.critic = Critic(self.policy.encoder, config.hidden, config.activation).to(device)
        self.parameters = [*self.policy.parameters(), *self.critic.parameters()]
        self.ranks.share_(self.parameters)
        self.native = self.make_native(engine, threads)
        self.capture = Capture(engine, device)
        self.optimizer: Any = self.native or adam(self.parameters, self.capture, epsilon=ADAM_EPSILON)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.return_norm = RunningNorm([]).to(device)
        self.return_carry = torch.zeros(env.num_envs, device=device)
        self.steps = 0  # environment steps, all envs together
        self.learning = Stopwatch()
        self.updates = 0

        # The rollout: observation t + 1 is written by step t, so there is one more of them.
        length, n, all_envs = config.n_steps, env.num_envs, env.num_envs * self.ranks.size
        self.rollout = env.empty_steps(length)
        self.obs = torch.zeros((length + 1, *env.obs.shape), dtype=env.obs_dtype, device=device)
        self.action = action_tensor(env.action_spec, length, n, device=device)
        self.log_prob = torch.zeros(length, n, device=device)
        self.all_noise = torch.zeros(length, all_envs, env.action_spec.size, device=device)
        self.noise = self.ranks.mine(self.all_noise, 1)
        rows = [type(self.rollout)(*row) for row in zip(*self.rollout, strict=True)]
        self.slots = [env.bind(row._replace(obs=self.obs[t + 1])) for t, row in enumerate(rows)]
        self.fused = None
        if self.native and env.compiled:
            self.fused = Rollout(self.native, env.compiled, env.action_spec.n)
            arrays, options = self.native_samples(self.log_prob, self.log_prob, 0.0, 0.0)  # nothing but types
            self.native.compile_apart(config.batch_size, *arrays, **options)
        self.value_of = torch.zeros(length + 1, n, device=device)  # if `fused`: V(obs)
        self.final_value_of = torch.zeros(length, n, device=device)  # and V(final_obs) where an episode was truncated
        low, half = self.policy.low.numpy(force=True), 0.5 * (self.policy.high - self.policy.low).numpy(force=True)
        self.box = (low, half, self.policy.is_bounded)

        # on a GPU, three graphs
        self.play = self.capture(self.act_and_step, env.reason_against_graph())
        self.estimate = self.capture(self.advantages)
        self.fit = self.capture(
            self.torch_steps, config.target_kl and "target_kl is looked at after each gradient step"
        )
        self.order = torch.zeros(config.n_epochs, length * all_envs, dtype=torch.int64, device=device)

    # -- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self, progress: float) -> dict[str, Any]:
        """Collect n_steps from every env and learn from them. progress: 0..1 of the whole run; drives the schedules."""
        c = self.config
        learning_rate = c.learning_rate * (1.0 - progress if c.learning_rate_schedule == "linear" else 1.0)
        clip_range = c.clip_range * (1.0 - progress if c.clip_range_schedule == "linear" else 1.0)

        self.collect()
        with self.learning:
            value, advantage, target = self.estimate()
            metrics = self.update(value, advantage, target, learning_rate, clip_range)
            self.policy.encoder.update_norm(self.obs[:-1], self.ranks)  # last: the update saw what the rollout saw
        return metrics

    @torch.no_grad()
    def collect(self) -> None:
        """Act for n_steps; fills obs, action, log_prob and rollout."""
        self.obs[0].copy_(self.env.obs)
        if self.policy.spec.rule == "categorical":
            self.all_noise.exponential_(generator=self.generator)
        else:
            self.all_noise.normal_(generator=self.generator)
        if self.fused:
            self.collect_fused(self.noise.numpy())
        else:
            self.play()
            self.env.obs = self.obs[-1]
        self.steps += self.log_prob.numel() * self.ranks.size

    @torch.no_grad()
    def act_and_step(self) -> None:
        """The same, given the first observation and what decides the actions: exponential or normal `noise`."""
        for t, slot in enumerate(self.slots):
            self.act(self.obs[t], self.noise[t], self.action[t], self.log_prob[t])
            self.env.step(self.policy.to_env(self.action[t]), slot)
        if self.env.leaves_counting:
            self.env.count(self.rollout.episode_return, self.rollout.episode_length)

    def collect_fused(self, noise: NDArray) -> None:
        """The same, and V(obs) as well, in one call of a compiled kernel."""
        assert self.fused
        roll, shape = self.rollout, self.log_prob.shape
        action = self.action.numpy()
        env_action = action if self.env.action_spec.n else np.empty((*shape, *self.env.action_spec.shape), np.float32)
        returns_, lengths = np.empty(shape), np.empty(shape, np.int64)
        rows_of = (
            self.obs.numpy(), self.obs.flatten(2).numpy(), action.reshape(*shape, -1), env_action,
            env_action.reshape(*shape, -1), self.log_prob.numpy(), self.value_of.numpy(), self.final_value_of.numpy(),
        )  # fmt: skip
        tensors = (roll.reward, roll.terminated, roll.truncated, roll.final_obs, roll.final_obs.flatten(2))
        step = (*(x.numpy() for x in tensors), returns_, lengths)
        seconds = self.fused(norm_of(self.policy.encoder), noise, rows_of, step, self.box)
        self.env.took(self.obs[-1], returns_, lengths, seconds)

    def act(self, obs: Tensor, noise: Tensor, action: Tensor, log_prob: Tensor) -> None:
        """Fill action [N] or [N, A] and log_prob [N], given obs [N, *O] and noise [N, A]."""
        if self.native:
            arrays = (noise, action.view(len(noise), -1), log_prob)
            self.native.pick(obs.flatten(1).numpy(), norm_of(self.policy.encoder), *(x.numpy() for x in arrays))
            return
        features = self.policy.encoder(obs)
        rule = self.policy.rule(features)
        action.copy_(rule.pick(noise))
        log_prob.copy_(rule.log_prob(action))

    @torch.no_grad()
    def advantages(self) -> tuple[Tensor, Tensor, Tensor]:
        """Value, advantage and value target of every step, [T, N] each."""
        roll, c = self.rollout, self.config
        value = self.value_of if self.fused else self.values(self.obs)  # [T + 1, N]
        reward = self.scale_rewards(roll.reward, roll.terminated | roll.truncated)
        final_value = self.final_values(roll.truncated & ~roll.terminated)
        if self.fused:
            advantage, target = torch.empty_like(reward), torch.empty_like(reward)
            arrays = (reward, value, final_value, roll.terminated, roll.truncated)
            numbers = (c.gamma, c.gae_lambda)
            self.fused.advantages(*(x.numpy() for x in arrays), *numbers, advantage.numpy(), target.numpy())
            return value[:-1], advantage, target
        reward = returns.bootstrap_truncated(reward, roll.terminated, roll.truncated, final_value, c.gamma)
        ended = roll.terminated | roll.truncated
        advantage, target = returns.gae(reward, value[:-1], value[-1], ended, c.gamma, c.gae_lambda)
        return value[:-1], advantage, target

    def update(
        self, value: Tensor, advantage: Tensor, target: Tensor, learning_rate: float, clip_range: float
    ) -> dict[str, Any]:
        """n_epochs passes over the rollout in shuffled minibatches; returns the means of the losses over all of them."""
        if self.native:
            means, taken = self.native_steps(advantage, target, learning_rate, clip_range)
        else:
            set_learning_rate(self.optimizer, learning_rate)
            means, taken = self.fit(
                advantage, target, self.capture.number("clip_range", clip_range), *self.minibatches()
            )
        self.updates += taken
        spread = self.ranks.moments((target - value).flatten())[2] / self.ranks.moments(target.flatten())[2]
        return {
            **means,
            "train/explained_variance": 1.0 - spread,
            "train/learning_rate": learning_rate,
            "train/clip_range": clip_range,
            "train/n_updates": self.updates,
            **self.std(),
        }

    def torch_steps(
        self, advantage: Tensor, target: Tensor, clip_range: float | Tensor, *minibatches: Tensor
    ) -> tuple[dict[str, Tensor], int]:
        """The gradient steps, by torch's automatic differentiation; returns the means of what `loss` logs, and how many."""
        c = self.config
        obs, action, log_prob = (x.flatten(0, 1) for x in (self.obs[:-1], self.action, self.log_prob))
        flat_advantage, flat_target = advantage.flatten(), target.flatten()
        logs: list[dict[str, Tensor]] = []
        for at in minibatches:
            loss, log = self.loss(obs[at], action[at], log_prob[at], flat_advantage[at], flat_target[at], clip_range)
            self.optimizer.zero_grad()
            loss.backward()
            self.ranks.mean_([*(x.grad for x in self.parameters), *log.values()], weight=len(at))
            if c.target_kl is not None and log["train/approx_kl"] > 1.5 * c.target_kl:  # waits for the device
                break
            log["train/grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, c.max_grad_norm)
            self.optimizer.step()
            logs.append(log)
        return {name: torch.stack([log[name] for log in logs]).mean() for name in (logs[0] if logs else ())}, len(logs)

    @torch.no_grad()
    def native_steps(
        self, advantage: Tensor, target: Tensor, learning_rate: float, clip_range: float
    ) -> tuple[dict[str, Tensor], int]:
        """The same gradient steps, in one call of a compiled kernel, with the derivatives of ppo_rules.py."""
        assert self.native
        batches = [at.numpy() for at in self.minibatches()]
        arrays, options = self.native_samples(advantage, target, learning_rate, clip_range)
        logs = self.native.fit(batches, *arrays, **options)
        if len(logs) == 0:
            return {}, 0
        c = self.config
        means = dict(zip((*ppo_rules.LOGS, "train/grad_norm"), torch.from_numpy(logs.mean(0)), strict=True))
        entropy_loss, policy_loss = means["train/entropy_loss"], means["train/policy_gradient_loss"]
        means["train/loss"] = policy_loss + c.vf_coef * means["train/value_loss"] + c.ent_coef * entropy_loss
        return means, len(logs)

    def native_samples(
        self, advantage: Tensor, target: Tensor, learning_rate: float, clip_range: float
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The rollout as `Native.fit` takes it."""
        c = self.config
        samples = [self.log_prob.flatten(), advantage.flatten(), target.flatten()]
        samples += self.action.flatten(0, 1).view(len(samples[0]), -1).float().unbind(1)
        obs, constants = self.obs[:-1].flatten(2).flatten(0, 1).numpy(), np.array([clip_range, c.vf_coef, c.ent_coef])
        return (obs, norm_of(self.policy.encoder), torch.stack(samples, 1).numpy(), constants), {
            "learning_rate": learning_rate,
            "epsilon": ADAM_EPSILON,
            "max_grad_norm": c.max_grad_norm,
            "max_log": math.inf if c.target_kl is None else 1.5 * c.target_kl,
        }

    def loss(
        self,
        obs: Tensor,
        action: Tensor,
        old_log_prob: Tensor,
        advantage: Tensor,
        target: Tensor,
        clip_range: float | Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped objective on a minibatch ([B, ...] each), to be minimised:

        L = -E[min(r A, clip(r, 1 - c, 1 + c) A)] + vf_coef E[(V - target)^2] - ent_coef E[H],  r = pi(a|s) / pi_old(a|s)
        """
        c = self.config
        features = self.policy.encoder(obs)
        rule = self.policy.rule(features)
        value = self.critic(features)
        if c.normalize_advantage:
            advantage = self.ranks.standardised(advantage)

        log_ratio = rule.log_prob(action) - old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value_loss = (value - target).square().mean()
        entropy = rule.entropy().mean()
        loss = policy_loss + c.vf_coef * value_loss - c.ent_coef * entropy
        with torch.no_grad():
            log = {
                "train/loss": loss.detach(),
                "train/policy_gradient_loss": policy_loss.detach(),
                "train/value_loss": value_loss.detach(),
                "train/entropy_loss": -entropy.detach(),
                "train/approx_kl": (ratio - 1.0 - log_ratio).mean(),  # Schulman's low-variance estimator
                "train/clip_fraction": ((ratio - 1.0).abs() > clip_range).float().mean(),
            }
        return loss, log

    # -- its parts ---------------------------------------------------------------------------------------------------

    def values(self, obs: Tensor) -> Tensor:
        """V of observations [T, N, *O] -> [T, N]."""
        return self.value(obs.flatten(0, 1)).unflatten(0, obs.shape[:2])

    def value(self, obs: Tensor) -> Tensor:
        """V of observations [B, *O] -> [B]."""
        if self.native:
            out = self.native.evaluate(obs.flatten(1).numpy(), norm_of(self.policy.encoder), (1, 2))
            return torch.from_numpy(out[:, -1].copy())
        return self.critic(self.policy.encoder(obs))

    def final_values(self, truncated: Tensor) -> Tensor:
        """V of the last observation of truncated episodes: [T, N]; elsewhere without meaning."""
        if self.fused:
            return self.final_value_of
        value = torch.zeros_like(self.log_prob)
        if self.capture.is_blind:  # all of them
            return self.values(self.rollout.final_obs) * truncated
        if truncated.any():
            value[truncated] = self.value(self.rollout.final_obs[truncated])
        return value

    def scale_rewards(self, reward: Tensor, ended: Tensor) -> Tensor:
        """Rewards divided by the running standard deviation of the discounted return, if asked for."""
        if not self.config.normalize_rewards:
            return reward
        sums, carry = returns.discounted_sums(reward, ended, self.return_carry, self.config.gamma)
        self.return_carry.copy_(carry)
        self.return_norm.update(sums, self.ranks)
        return (reward / (self.return_norm.var.float() + 1e-8).sqrt()).clamp(-10.0, 10.0)

    def make_native(self, engine: str, threads: int | None) -> Native | None:
        """The native engine over our networks' parameters, if it is wanted and can be had."""
        policy: Any = self.policy
        head, free = (policy.head.mean, [policy.head.log_std]) if policy.spec.rule == "gaussian" else (policy.head, [])
        networks = [[*policy.body, head], [*self.critic.body, self.critic.head]]
        if not is_native(engine, reason_against(self.env.device, policy.encoder, networks)):
            return None
        rule = ppo_rules.rule(policy.spec.rule, self.config.normalize_advantage)
        threads = threads or choose_threads(self.config.batch_size)
        return Native(networks, free, rule, self.parameters, threads, is_sparse(policy.spec.obs))

    def minibatches(self) -> list[Tensor]:
        """Indices [B] into the flattened rollout: each epoch a new permutation of all steps that are experience."""
        return permutations(self.order, self.env, self.rollout.valid, self.config.batch_size, self.generator)

    def std(self) -> dict[str, Tensor]:
        if self.policy.spec.rule != "gaussian":
            return {}
        log_std: Tensor = self.policy.head.log_std  # type: ignore[assignment]
        return {"train/std": log_std.detach().exp().mean()}

    # -- resuming ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the next iteration, of all ranks."""
        return {
            "policy": self.policy.state(),
            "critic": dict(self.critic.state_dict()),
            "optimizer": optimizer_state(self.optimizer),
            "generator": self.generator.get_state(),
            "return_norm": dict(self.return_norm.state_dict()),
            "return_carry": self.ranks.gather(self.return_carry),
            "env": self.env.state(),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state(state["policy"])
        self.critic.load_state_dict(state["critic"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.return_norm.load_state_dict(state["return_norm"])
        self.return_carry.copy_(self.ranks.mine(state["return_carry"]))
        self.env.load_state(state["env"])
        self.steps, self.updates = state["steps"], state["updates"]
