"""How fast? Steps a second of the envs alone and of training, each beside a peer in the same process and run.

    python benchmarks/throughput.py        writes results/throughput.json

Env only: CartPole with random actions, one thread, against Gymnasium's CartPoleVectorEnv. Training: PPO on CartPole, two
64x64 networks, 4 epochs of 4 minibatches, against SB3 on its DummyVecEnv over Gymnasium's CartPole. Every measurement
alternates with its peer's and the best of the rounds counts, because the machine may be busy with something else.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.env_util import make_vec_env

import envs
from rlsys.agents.ppo import PPO
from rlsys.config import PPOConfig
from rlsys.provenance import provenance
from rlsys.torchenv import TorchEnv

RESULTS = Path(__file__).resolve().parent / "results" / "throughput.json"
ROUNDS = 5


def best_rates(**work: Callable[[], int]) -> dict[str, float]:
    """Steps a second of each piece of work, which returns the steps it took: the best of alternating rounds."""
    best = dict.fromkeys(work, 0.0)
    for _ in range(ROUNDS):
        for name, run in work.items():
            began = time.perf_counter()
            steps = run()
            best[name] = max(best[name], steps / (time.perf_counter() - began))
    return best


def env_only(n: int) -> dict[str, float]:
    """CartPole, N = n copies, one thread."""
    calls = max(20, 400_000 // n)
    actions = np.random.default_rng(0).integers(0, 2, (64, n))

    def stepper(env):
        env.reset(seed=0)
        env.step(actions[0])

        def run() -> int:
            for t in range(calls):
                env.step(actions[t % 64])
            return calls * n

        return run

    ours = stepper(envs.make_vec("cartpole", n, seed=0, backend="serial"))
    theirs = gymnasium.make_vec("CartPole-v1", n, vectorization_mode="vector_entry_point")
    return best_rates(rlsys=ours, gymnasium=stepper(theirs))


def training(n: int, n_steps: int, threads: int) -> dict[str, float]:
    """PPO on n envs x n_steps: our two engines and SB3."""
    hyperparameters: dict = {"n_steps": n_steps, "batch_size": n * n_steps // 4, "n_epochs": 4}
    torch.set_num_threads(threads)

    def trainer(engine: str) -> Callable[[], int]:
        env = TorchEnv(envs.make_vec("cartpole", n, seed=0))
        agent = PPO(env, PPOConfig(**hyperparameters), seed=0, engine=engine, threads=threads)
        agent.iterate(0.0)

        def run() -> int:
            before = agent.steps
            while agent.steps - before < 60_000:
                agent.iterate(0.5)
            return agent.steps - before

        return run

    sb3 = SB3PPO("MlpPolicy", make_vec_env("CartPole-v1", n), device="cpu", **hyperparameters)
    sb3.learn(n * n_steps)

    def theirs() -> int:
        before = sb3.num_timesteps
        sb3.learn(max(n * n_steps, 20_000), reset_num_timesteps=False)
        return sb3.num_timesteps - before

    return best_rates(native=trainer("native"), torch=trainer("torch"), sb3=theirs)


def main() -> None:
    results: dict = {"machine": provenance(), "env_only": {}, "training": {}}
    for n in (1, 16, 64, 1024, 4096, 65536):
        rates = results["env_only"][str(n)] = env_only(n)
        print(
            f"env only, N={n}: {rates['rlsys'] / 1e6:.2f} M steps/s, {rates['rlsys'] / rates['gymnasium']:.1f} x Gymnasium"
        )
    for n, n_steps, threads in ((4, 128, 1), (64, 32, 1), (64, 32, 2), (1024, 32, 1), (1024, 32, 2)):
        rates = results["training"][f"{n}x{n_steps}, {threads} threads"] = training(n, n_steps, threads)
        ratios = ", ".join(f"{engine} {rates[engine] / rates['sb3']:.1f} x SB3" for engine in ("native", "torch"))
        print(f"training, {n} x {n_steps}, {threads} threads: native {rates['native'] / 1e3:.0f} k steps/s; {ratios}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
