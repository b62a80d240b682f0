"""How fast? Steps a second of every sim; of CartPole's rollouts and training, from one env to 65536.

    python benchmarks/throughput.py [--only sims,scale] [--sims snake,maze] [--rounds 7] [--seconds 0.3]

writes results/throughput.json; what is not measured stays there as it was.

Sims: each on one core, by its thread's own clock: 1024 copies, uniform actions drawn beforehand, autoreset in. Beside it the
work of a step (work.py), and what share of the time this core would need at the least: for the bytes at the speed of a copy as
large as the sim's records and arrays, for the flops at the speed of matrix products, for integer operations at that of sums in
registers, whichever is longest. Frames: pictures of 400 x 400 pixels a second, drawn without a display. A fixed chain of hashes
is timed in the same rounds: on a busy machine, `per_link` compares better than steps a second.

Scale: CartPole throughout. Env only: random actions through `step`, on one thread and on two, beside Gymnasium's own.
Rollout: PPO's `collect` alone, two 64x64 networks. Training: PPO, 4 epochs of 4 minibatches, by both engines, with the share
of the roof that the native one reaches: what the machine's matrix product alone would allow (peers.py). Measurements that are
compared alternate, and the best of the rounds counts, because the machine may be busy with something else.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numba
import numpy as np
import torch

import envs
from envs.engine.rng import mix64
from envs.registration import SIMS
from rlsys.agents.ppo import PPO
from rlsys.config import PPOConfig
from rlsys.provenance import provenance
from rlsys.torchenv import TorchEnv

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "workers")]
import work  # noqa: E402
from peers import ppo_flops  # noqa: E402
from rlsys_worker import roof  # noqa: E402

RESULTS = HERE / "results" / "throughput.json"
ROUNDS = 7
ENVS = (1, 16, 64, 1024, 4096, 65536)
THREADS = (1, 2)
SECONDS = 0.3  # of a measurement, at least


def best_rates(
    pieces: dict[str, Callable[[], int]],
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Steps a second of each piece of work, which returns the steps it took: the best of alternating rounds."""
    best = dict.fromkeys(pieces, 0.0)
    for _ in range(rounds):
        for name, run in pieces.items():
            steps, began = 0, clock()
            while (took := clock() - began) < seconds:
                steps += run()
            best[name] = max(best[name], steps / took)
    return best


# -- every sim ---------------------------------------------------------------------------------------------------------

N = 1024
COPIES = [2**k for k in range(15, 28, 2)]  # bytes, 32 KiB to 128 MiB
LINKS, CHAIN, WIDTH = 100_000, 16, 2048


@numba.njit
def chain_of_hashes(links: int) -> int:
    """Each link waits for the one before: the speed of one core's clock, and nothing else."""
    z = np.uint64(1)
    for _ in range(links):
        z = mix64(z)
    return z


@numba.njit
def sums_in_registers(x, y, times):
    """2 CHAIN sums and exclusive ors on each int32 of x, which stays in a core's cache."""
    for _ in range(times):
        for i in range(len(x)):
            v = x[i]
            for _ in range(CHAIN):
                v = np.int32((v + y) ^ y)
            x[i] = v


def copying(size: int) -> Callable[[], int]:
    """Copy so that `size` bytes in all are read or written; returns how many were."""
    source, target = np.ones(size // 2, np.uint8), np.zeros(size // 2, np.uint8)
    times = max(1, 2**22 // size)

    def run() -> int:
        for _ in range(times):
            np.copyto(target, source)
        return times * size

    return run


def adding() -> int:
    x = np.arange(WIDTH, dtype=np.int32)
    sums_in_registers(x, np.int32(12345), 50)
    return 50 * WIDTH * 2 * CHAIN


def hashing() -> int:
    chain_of_hashes(LINKS)
    return LINKS


def stepping(env) -> Callable[[], int]:
    """A piece of a sim's steps with uniform actions, past the first episodes' beginning."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [np.ascontiguousarray(env.action_space.sample()) for _ in range(16)]
    steps = 0

    def run() -> int:
        nonlocal steps
        env.step(actions[steps % 16])
        steps += 1
        return env.num_envs

    for _ in range(64):
        run()
    return run


def drawing(env) -> Callable[[], int]:
    """One picture of the next env."""
    drawn = 0

    def run() -> int:
        nonlocal drawn
        env.frame(drawn % env.num_envs)
        drawn += 1
        return 1

    run()
    return run


def working_set(env) -> int:
    """Bytes of what a step goes through: records, actions and results (final observations are rarely written)."""
    return (
        env.state.nbytes
        + env.action_space.sample().nbytes
        + sum(a.nbytes for a in env.arrays())
        - env.arrays()[4].nbytes
    )


def share_of_roof(done: work.Work, rate: float, bandwidth: float, flops: float, integers: float) -> dict[str, Any]:
    """What would take longest at the core's best, and its share of the time that a step takes.

    rate: steps a second. bandwidth, flops, integers: a second, the most that one core does.
    """
    needs = {"bytes": done.bytes / bandwidth, "flops": done.flops / flops, "integers": done.integers / integers}
    bound = max(needs, key=lambda name: needs[name])
    return {"bound": bound, "share": needs[bound] * rate}


def every_sim(names: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    vectors = {name: envs.make_vec(name, N, seed=0, backend="serial") for name in names}
    pieces: dict[str, Callable[[], int]] = {"chain": hashing, "integers": adding}
    pieces |= {f"copy {size}": copying(size) for size in COPIES}
    numba.set_num_threads(1)
    pieces |= {f"flops {rows}": roof({"rows": rows, "columns": 64}, {"threads": 1}) for rows in (64, 96, 128)}
    pieces |= {f"step {name}": stepping(env) for name, env in vectors.items()}
    pieces |= {f"draw {name}": drawing(env) for name, env in vectors.items()}
    for run in pieces.values():
        run()
    rates = best_rates(pieces, rounds, seconds, time.thread_time)
    bandwidth = {size: rates[f"copy {size}"] for size in COPIES}
    flops = max(rate for name, rate in rates.items() if name.startswith("flops"))
    results: dict[str, Any] = {
        "machine": provenance(),
        "rounds": rounds,
        "num_envs": N,
        "roof": {"flops": flops, "integers": rates["integers"], "bandwidth": {str(k): v for k, v in bandwidth.items()}},
        "links_per_second": rates["chain"],
        "sims": {},
    }
    for name, env in vectors.items():
        done, rate = work.of_a_step(name), rates[f"step {name}"]
        size = next((size for size in COPIES if size >= working_set(env)), COPIES[-1])
        found = share_of_roof(done, rate, bandwidth[size], flops, rates["integers"])
        results["sims"][name] = {
            "steps_per_second": rate,
            "per_link": rate / rates["chain"],
            "work": {**asdict(done), "bytes": done.bytes},
            "working_set": working_set(env),
            "bandwidth": bandwidth[size],
            **found,
            "frames_per_second": rates[f"draw {name}"],
        }
        print(f"{name}: {rate / 1e6:.1f} M steps/s, {done.bytes:.0f} bytes, {done.flops:.0f} flops, {done.integers:.0f} "
              f"integer operations; {found['share']:.0%} of the roof ({found['bound']}); "
              f"{rates[f'draw {name}']:.0f} frames/s", flush=True)  # fmt: skip
    return results


# -- CartPole at every scale -------------------------------------------------------------------------------------------


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
    ours = {name: stepper(envs.make_vec("cartpole", n, seed=0, backend=backend)) for name, backend in backends.items()}
    theirs = gymnasium.make_vec("CartPole-v1", n, vectorization_mode="vector_entry_point")
    return best_rates({**ours, "gymnasium": stepper(theirs)})


def agent(n: int, engine: str, threads: int) -> PPO:
    """PPO on n envs, some 2048 steps an iteration or more."""
    n_steps = max(16, min(128, 32768 // n))
    settings = {"n_steps": n_steps, "batch_size": n * n_steps // 4, "n_epochs": 4}
    env = TorchEnv(envs.make_vec("cartpole", n, seed=0, backend="serial" if threads == 1 else "auto"))
    return PPO(env, PPOConfig(**settings), seed=0, engine=engine, threads=threads)


def repeated(learner: PPO, task: Callable[[], object], threads: int) -> Callable[[], int]:
    def run() -> int:
        torch.set_num_threads(threads)
        before = learner.steps
        task()
        return learner.steps - before

    run()
    return run


def rollout(n: int) -> dict[str, float]:
    learners = {f"{k} thread{'s' * (k > 1)}": (agent(n, "native", k), k) for k in THREADS}
    return best_rates({name: repeated(learner, learner.collect, k) for name, (learner, k) in learners.items()})


def training(n: int) -> dict[str, float]:
    pieces = {}
    for engine in ("native", "torch"):
        for k in THREADS:
            learner = agent(n, engine, k)
            name = f"{engine}, {k} thread{'s' * (k > 1)}"
            pieces[name] = repeated(learner, lambda learner=learner: learner.iterate(0.5), k)
    return best_rates(pieces)


def roofs() -> dict[str, float]:
    """Flops a second of the matrix product, on one thread and on two: the best over some heights of the matrix."""
    found: dict[str, float] = {}
    for k in THREADS:
        numba.set_num_threads(k)
        heights = {str(rows): roof({"rows": rows, "columns": 64}, {"threads": k}) for rows in (64, 96, 128)}
        found[f"{k} thread{'s' * (k > 1)}"] = max(best_rates(heights).values())
    return found


def at_every_scale() -> dict[str, Any]:
    results: dict[str, Any] = {
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
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="sims,scale", help="sections")
    parser.add_argument("--sims", default=",".join(SIMS))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the sims")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement of the sims")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    sections, sims = args.only.split(","), args.sims.split(",")
    for name in {*sections} - {"sims", "scale"} | {*sims} - {*SIMS}:
        parser.error(f"{name} is neither a section nor a sim")
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    if "sims" in sections:
        results["sims"] = every_sim(sims, args.rounds, args.seconds)
    if "scale" in sections:
        results["scale"] = at_every_scale()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
