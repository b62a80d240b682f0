"""How fast? Steps a second of the envs alone, of rollouts and of training, from one env to 65536.

    python benchmarks/throughput.py        writes results/throughput.json

CartPole throughout. Env only: random actions through `step`, on one thread and on two, beside Gymnasium's CartPoleVectorEnv.
Rollout: PPO's `collect` alone, two 64x64 networks. Training: PPO, 4 epochs of 4 minibatches, by both engines, with the share
of the roof that the native one reaches: what the machine's matrix product alone would allow (peers.py). Measurements that are
compared alternate, and the best of the rounds counts, because the machine may be busy with something else.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numba
import numpy as np
import torch

import envs
from rlsys.agents.ppo import PPO
from rlsys.config import PPOConfig
from rlsys.provenance import provenance
from rlsys.torchenv import TorchEnv

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "workers")]
from peers import ppo_flops  # noqa: E402
from rlsys_worker import roof  # noqa: E402

RESULTS = HERE / "results" / "throughput.json"
ROUNDS = 7
ENVS = (1, 16, 64, 1024, 4096, 65536)
THREADS = (1, 2)
SECONDS = 0.3  # of a measurement, at least


def best_rates(work: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Steps a second of each piece of work, which returns the steps it took: the best of alternating rounds."""
    best = dict.fromkeys(work, 0.0)
    for _ in range(ROUNDS):
        for name, run in work.items():
            steps, began = 0, time.perf_counter()
            while (seconds := time.perf_counter() - began) < SECONDS:
                steps += run()
            best[name] = max(best[name], steps / seconds)
    return best


def env_only(n: int) -> dict[str, float]:
    """N = n copies."""
    calls = max(4, 20_000 // n)
    actions = list(np.random.default_rng(0).integers(0, 2, (64, n)))

    def stepper(env) -> Callable[[], int]:
        env.reset(seed=0)
        env.step(actions[0])

        def run() -> int:
            for t in range(calls):
                env.step(actions[t % 64])
            return calls * n

        return run

    backends = {"1 thread": "serial", "2 threads": "parallel"}
    work = {name: stepper(envs.make_vec("cartpole", n, seed=0, backend=backend)) for name, backend in backends.items()}
    theirs = gymnasium.make_vec("CartPole-v1", n, vectorization_mode="vector_entry_point")
    return best_rates({**work, "gymnasium": stepper(theirs)})


def agent(n: int, engine: str, threads: int) -> PPO:
    """PPO on n envs, some 2048 steps an iteration or more."""
    n_steps = max(16, min(128, 32768 // n))
    settings = {"n_steps": n_steps, "batch_size": n * n_steps // 4, "n_epochs": 4}
    env = TorchEnv(envs.make_vec("cartpole", n, seed=0, backend="serial" if threads == 1 else "auto"))
    return PPO(env, PPOConfig(**settings), seed=0, engine=engine, threads=threads)


def repeated(learner: PPO, work: Callable[[], object], threads: int) -> Callable[[], int]:
    def run() -> int:
        torch.set_num_threads(threads)
        before = learner.steps
        work()
        return learner.steps - before

    run()
    return run


def rollout(n: int) -> dict[str, float]:
    learners = {f"{k} thread{'s' * (k > 1)}": (agent(n, "native", k), k) for k in THREADS}
    return best_rates({name: repeated(learner, learner.collect, k) for name, (learner, k) in learners.items()})


def training(n: int) -> dict[str, float]:
    work = {}
    for engine in ("native", "torch"):
        for k in THREADS:
            learner = agent(n, engine, k)
            name = f"{engine}, {k} thread{'s' * (k > 1)}"
            work[name] = repeated(learner, lambda learner=learner: learner.iterate(0.5), k)
    return best_rates(work)


def roofs() -> dict[str, float]:
    """Flops a second of the matrix product, on one thread and on two: the best over some heights of the matrix."""
    found: dict[str, float] = {}
    for k in THREADS:
        numba.set_num_threads(k)
        work = {str(rows): roof({"rows": rows, "columns": 64}, {"threads": k}) for rows in (64, 96, 128)}
        found[f"{k} thread{'s' * (k > 1)}"] = max(best_rates(work).values())
    return found


def main() -> None:
    results: dict = {
        "machine": provenance(),
        "roof_flops": roofs(),
        "env_only": {},
        "rollout": {},
        "training": {},
        "share_of_roof": {},
    }
    for n in ENVS:
        rates = results["env_only"][str(n)] = env_only(n)
        ratio = rates["1 thread"] / rates["gymnasium"]
        print(f"env only, N={n}: {rates['1 thread'] / 1e6:.2f} M steps/s, {ratio:.1f} x Gymnasium", flush=True)
    for n in ENVS:
        rates = results["rollout"][str(n)] = rollout(n)
        print(f"rollout, N={n}: " + ", ".join(f"{name} {rate / 1e3:.0f} k" for name, rate in rates.items()), flush=True)
    flops = ppo_flops({"hidden": [64, 64], "n_epochs": 4})
    for n in ENVS:
        rates = results["training"][str(n)] = training(n)
        shares = {name: rates[f"native, {name}"] * flops / found for name, found in results["roof_flops"].items()}
        results["share_of_roof"][str(n)] = shares
        print(f"training, N={n}: " + ", ".join(f"{name} {rate / 1e3:.0f} k" for name, rate in rates.items()), end="; ")
        print("of the roof: " + ", ".join(f"{share:.0%}" for share in shares.values()), flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
