"""Do the two engines learn alike? Learning curves of the native engine and of torch over ten seeds.

    python benchmarks/engines.py [--seeds 10]      writes results/engines.json

The engines begin with the same weights and draw the same random numbers, but round differently, and a world like CartPole
makes another episode of that soon. So the curves of one seed differ; over seeds they must not. A curve is the mean return of
the latest 100 training episodes at twenty points of the run, its level their mean. Compared are the engines' levels, by the
Mann-Whitney U test and by a bootstrap interval of the difference of their means.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu

import envs
from rlsys import agents
from rlsys.config import DQNConfig, PPOConfig
from rlsys.evaluate import bootstrap_interval
from rlsys.provenance import provenance
from rlsys.torchenv import TorchEnv

RESULTS = Path(__file__).resolve().parent / "results" / "engines.json"
POINTS = 20
WORK = {  # name: sim, num_envs, steps, config
    "PPO, CartPole": ("cartpole", 64, 61_440, PPOConfig(learning_rate=1e-3, n_epochs=5, gamma=0.98, gae_lambda=0.9)),
    "PPO, Pendulum": (
        "pendulum", 32, 102_400,
        PPOConfig(learning_rate=1e-3, n_steps=64, n_epochs=10, gamma=0.95, gae_lambda=0.9, normalize_rewards=True),
    ),
    "DQN, CartPole": ("cartpole", 8, 40_960, DQNConfig(train_freq=8, exploration_fraction=0.5, target_update_interval=256)),
}  # fmt: skip


def curve(work: tuple, engine: str, seed: int) -> list[float]:
    """Mean returns at POINTS points of a run."""
    sim, num_envs, steps, config = work
    agent = agents.build(TorchEnv(envs.make_vec(sim, num_envs, seed=seed)), config, seed, engine=engine)
    points = []
    while agent.steps < steps:
        agent.iterate(agent.steps / steps)
        while len(points) < POINTS * agent.steps // steps:
            points.append(agent.env.metrics().get("rollout/ep_rew_mean", np.nan))
    return points


def compare(curves: dict[str, list[list[float]]]) -> dict:
    """The levels of two engines' curves [seeds, POINTS], and whether they differ."""
    native, torch = (np.nanmean(curves[engine], axis=1) for engine in ("native", "torch"))
    low, high = bootstrap_interval(native - torch, np.mean)
    return {
        "native": native.tolist(),
        "torch": torch.tolist(),
        "p": float(mannwhitneyu(native, torch).pvalue),
        "difference_ci95": [low, high],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    results: dict = {"machine": provenance(), "work": {}}
    for name, work in WORK.items():
        curves = {engine: [curve(work, engine, seed) for seed in seeds] for engine in ("native", "torch")}
        found = results["work"][name] = {**compare(curves), "curves": curves}
        means = ", ".join(f"{engine} {np.mean(found[engine]):.1f}" for engine in ("native", "torch"))
        low, high = found["difference_ci95"]
        print(f"{name}: level {means}; difference {low:.1f} to {high:.1f}; p = {found['p']:.2f}", flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
