"""Do the engines learn alike, and the precisions? Learning curves over ten seeds.

    python benchmarks/engines.py [--seeds 10] [--only engines,precisions]      writes results/engines.json

The engines begin with the same weights and draw the same random numbers, but round differently, and a world like CartPole
makes another episode of that soon. So the curves of one seed differ; over seeds they must not. A curve is the mean return of
the latest 100 training episodes at twenty points of the run, its level their mean. Compared are the engines' levels, by the
Mann-Whitney U test and by a bootstrap interval of the difference of their means.

Precisions are compared likewise, all by torch on the CPU: float32 with bfloat16 (torch's autocast), and with TF32, which only
GPUs have: here the factors of each product of a linear layer, forward and backward, are rounded to its 11 significant bits.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import mannwhitneyu

import envs
from rlsys import agents
from rlsys.config import DQNConfig, PPOConfig
from rlsys.provenance import provenance
from rlsys.stats import bootstrap_interval
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


def rounded(x: torch.Tensor) -> torch.Tensor:
    """float32 to TF32's 10 explicit bits of mantissa, to the nearest."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class TF32Linear(torch.autograd.Function):
    """A linear layer whose three products take rounded factors."""

    @staticmethod
    def forward(context, x, weight, bias):
        context.save_for_backward(x, weight)
        return rounded(x) @ rounded(weight).T + bias

    @staticmethod
    def backward(context, grad):
        x, weight = map(rounded, context.saved_tensors)
        return rounded(grad) @ weight, rounded(grad).T @ x, grad.sum(0)


def in_tf32(agent: agents.Agent) -> None:
    """Let the linear layers of PPO multiply as a GPU does in TF32."""
    for network in (agent.policy, agent.critic):
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.forward = lambda x, own=layer: TF32Linear.apply(x, own.weight, own.bias)


def curve(work: tuple, seed: int, *, engine: str, precision: str = "float32") -> list[float]:
    """Mean returns at POINTS points of a run."""
    sim, num_envs, steps, config = work
    env, has_tf32 = TorchEnv(envs.make_vec(sim, num_envs, seed=seed)), precision == "tf32"
    how = {"engine": engine, "matmul_precision": "float32" if has_tf32 else precision}
    agent = agents.build(env, config, seed, **how)
    if has_tf32:
        in_tf32(agent)
    points = []
    while agent.steps < steps:
        agent.iterate(agent.steps / steps)
        while len(points) < POINTS * agent.steps // steps:
            points.append(agent.env.metrics().get("rollout/ep_rew_mean", np.nan))
    return points


def compare(one: list[list[float]], two: list[list[float]]) -> dict:
    """Whether the levels of two kinds of curves [seeds, POINTS] differ."""
    first, second = (np.nanmean(curves, axis=1) for curves in (one, two))
    low, high = bootstrap_interval(first - second, np.mean)
    return {"p": float(mannwhitneyu(first, second).pvalue), "difference_ci95": [low, high]}


def compared(work: tuple, seeds: range, reference: str, ways: dict[str, dict]) -> dict:
    """Curves and levels of each way to train, and how they differ from those of the reference."""
    curves = {name: [curve(work, seed, **how) for seed in seeds] for name, how in ways.items()}
    return {
        "levels": {name: np.nanmean(found, axis=1).tolist() for name, found in curves.items()},
        "against": {name: compare(found, curves[reference]) for name, found in curves.items() if name != reference},
        "curves": curves,
    }


ENGINES = {name: {"engine": name} for name in ("torch", "native")}
PRECISIONS = {name: {"engine": "torch", "precision": name} for name in ("float32", "tf32", "bfloat16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="engines,precisions")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in args.only.split(","):
        reference, ways = {"engines": ("torch", ENGINES), "precisions": ("float32", PRECISIONS)}[part]
        found = results[part] = {"machine": provenance(), "reference": reference, "work": {}}
        for name, work in WORK.items():
            if part == "precisions" and name.startswith("DQN"):
                continue  # PPO has all that is multiplied
            found["work"][name] = row = compared(work, range(args.seeds), reference, ways)
            for way, difference in row["against"].items():
                low, high = difference["difference_ci95"]
                means = f"{np.mean(row['levels'][way]):.1f} and {np.mean(row['levels'][reference]):.1f}"
                print(
                    f"{name}: {way}, {reference}: level {means}; {low:.1f} to {high:.1f}; p = {difference['p']:.2f}",
                    flush=True,
                )
    RESULTS.write_text(
        json.dumps({part: results[part] for part in ("engines", "precisions") if part in results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
