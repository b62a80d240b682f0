"""How good is a policy? Episodes on seeds and levels that training never sees, and honest statistics of their returns."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlsys.config import ConfigError, SimConfig
from rlsys.policy import Policy
from rlsys.signals import Stop
from rlsys.statistics import bootstrap, bootstrap_interval, iqm, percentile_interval
from rlsys.torchenv import Scale, TorchEnv, has_levels, make_env, score_scale

MAX_ENVS = 100  # side by side in an evaluation
PATIENCE = 200_000  # steps in which one of them must end an episode, if the env has no limit that we know


class Abandoned(ConfigError):
    """An evaluation was given up: it was asked to stop, or the env's episodes have no end."""


@dataclass(frozen=True)
class Report:
    """Returns and lengths (steps) of evaluation episodes, in a fixed order.

    scale: what makes a score of the mean return, where the env's references hold.
    train: the same policy on the levels it was trained on, if that was asked for.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    scale: Scale | None = None
    train: "Report | None" = None

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def score(self) -> float | None:
        """The mean return on the env's own scale: 0 random, 1 its best reference. None where it has no scale."""
        return None if self.scale is None else self.scale.score(self.mean)

    def metrics(self) -> dict[str, float]:
        """The report as metrics, by tag."""
        return {
            "eval/mean_reward": self.mean,
            "eval/std_reward": float(self.returns.std()),
            "eval/iqm_reward": float(iqm(self.returns)),
            "eval/mean_ep_length": float(self.lengths.mean()),
            "eval/episodes": len(self.returns),
            **({} if self.score is None else {"eval/score_normalised": self.score}),
            **self.generalisation(),
        }

    def generalisation(self) -> dict[str, float]:
        """How much better the policy is where it was trained, as metrics; empty if that was not asked for."""
        if self.train is None:
            return {}
        return {"eval/train_mean_reward": self.train.mean, "eval/generalisation_gap": self.train.mean - self.mean}

    def intervals(self) -> dict[str, list[float]]:
        """95 % bootstrap intervals of the mean and of what follows from it, by tag.

        The score's is that of the mean on the scale: how well the references are known does not enter.
        """
        mean = bootstrap_interval(self.returns, np.mean)
        found = {"eval/mean_reward_ci95": mean}
        if self.scale is not None:
            found["eval/score_normalised_ci95"] = [self.scale.score(bound) for bound in mean]
        if self.train is not None:
            found["eval/train_mean_reward_ci95"] = bootstrap_interval(self.train.returns, np.mean)
            gaps = bootstrap(self.train.returns, np.mean, seed=1) - bootstrap(self.returns, np.mean)
            found["eval/generalisation_gap_ci95"] = percentile_interval(gaps)
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything, with 95 % bootstrap intervals. The score is null where there is none."""
        return {
            "eval/score_normalised": None,
            **self.metrics(),
            "score_reference": self.scale and self.scale.reference,
            **self.intervals(),
            "eval/iqm_reward_ci95": bootstrap_interval(self.returns, iqm),
            "episodes": [
                {"episode": i, "return": float(r), "length": int(n)}
                for i, (r, n) in enumerate(zip(self.returns, self.lengths, strict=True))
            ],
        }


def evaluate(policy: Policy, env: TorchEnv, episodes: int, *, stop: Stop | None = None, **options: Any) -> Report:
    """Play `episodes` episodes, from the env's first ones, and report them; options as for `played`.

    Raises Abandoned where `stop` asks for it, or if episodes do not end.
    """
    steps = played(policy, env, episodes, **options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        if stop and stop.requested:
            raise Abandoned(f"evaluation was stopped by {stop.requested}.")


def played(
    policy: Policy, env: TorchEnv, episodes: int, *, deterministic: bool | None = None, seed: int = 0
) -> Generator[int, None, Report]:
    """An evaluation step by step: gives how many of the episodes have ended after each, and returns the Report.

    deterministic: see `Policy.act`; seed: of the actions that are drawn.

    Each of the N envs plays its fixed share (episodes / N, rounded), so that short episodes are not over-represented.
    """
    env.reset()
    n = env.num_envs
    quota = np.full(n, episodes // n) + (np.arange(n) < episodes % n)
    done = np.zeros(n, np.int64)
    returns: list[list[float]] = [[] for _ in range(n)]
    lengths: list[list[int]] = [[] for _ in range(n)]
    slot = env.bind(env.empty_steps())
    generator = torch.Generator(env.device).manual_seed(seed)
    was_training = policy.training
    policy.eval()
    waited = 0  # steps since an episode that counts has ended
    try:
        while (done < quota).any():
            ended = env.step(policy.act(env.obs, deterministic=deterministic, generator=generator), slot)
            waited += 1
            if ended is not None:
                for i in np.flatnonzero(ended & (done < quota)):
                    returns[i].append(slot[1].episode_return[i])
                    lengths[i].append(slot[1].episode_length[i])
                    done[i] += 1
                    waited = 0
            if waited > PATIENCE and not env.is_native:  # a sim has a limit
                raise Abandoned(
                    f"evaluation: no episode has ended for {PATIENCE:,} steps. Give the env a limit: "
                    "env.kwargs.max_episode_steps=1000, or what suits it."
                )
            yield int(done.sum())
    finally:  # also where it is given up
        policy.train(was_training)
    return Report(np.concatenate(returns), np.concatenate(lengths))


def held_out(policy: Policy, env_config: Any, episodes: int, split: str, **options: Any) -> Report:
    """Evaluate on a split of its own: "validation" chooses the best checkpoint, "test" is for the final figure.

    The episodes are the same for every policy and run, so that differences between policies are not differences of luck. On
    "train" they are of the levels trained on, but of the world's own parameters, as on the others.
    """
    if isinstance(env_config, SimConfig):
        env_config = replace(env_config, train_params={})
    env = make_env(env_config, min(episodes, MAX_ENVS), split=split, seed=0, device=str(policy_device(policy)))
    try:
        return replace(evaluate(policy, env, episodes, **options), scale=score_scale(env_config, split))
    finally:
        env.close()


def final_report(policy: Policy, env_config: Any, episodes: int, **options: Any) -> Report:
    """Evaluate on the test split and, where there are levels, as many episodes on those that were trained on."""
    report = held_out(policy, env_config, episodes, "test", **options)
    if not has_levels(env_config):
        return report
    return replace(report, train=held_out(policy, env_config, episodes, "train", **options))


def policy_device(policy: Policy) -> torch.device:
    return next(policy.parameters()).device
