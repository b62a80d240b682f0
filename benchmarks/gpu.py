"""How fast on a GPU? Envs, rollouts and training resident on the device; writes results/gpu.json.

    python benchmarks/gpu.py [--only env,train,...] [--out FILE] [--rehearse]

One command, within 8 minutes; needs torch, numba, numba-cuda, numpy and gymnasium. What is measured:

    roof    copies (bytes a second), matrix products (FLOP/s by precision), kernels and graphs launched a second
    env     steps by random actions, in a graph of 16 steps: every sim, at 1k to 1M envs; as a share of the copy roof
    train   PPO by graphs: whole iterations, and rollout, advantages and update alone; kernels an iteration; whether anything
            in `iterate` waits for the device; where a kernel's time goes
    eager   the same without graphs, and with tf32 and bfloat16
    dqn     DQN and PQN, whole iterations
    cpu     PPO by the native engine on the processor, from which number of envs on the GPU is faster
    solve   seconds of PPO on CartPole until the last 100 episodes return 475 in the mean, compilation not counted
    peer    rejax, if it is installed, at the same work

Each part is given a share of the time. --rehearse runs every line on whatever there is, in numba-cuda's simulator and on
torch's CPU, with sizes of nothing: it finds mistakes, not speeds.
"""

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "workers")]

import envs  # noqa: E402

REHEARSAL = "--rehearse" in sys.argv[1:] or not envs.has_gpu()
if REHEARSAL:
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read when numba is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402

from envs.engine import cuda  # noqa: E402
from rlsys import agents  # noqa: E402
from rlsys.capture import Captured, CudaGraph  # noqa: E402
from rlsys.config import DQNConfig, PPOConfig, PQNConfig  # noqa: E402
from rlsys.provenance import provenance  # noqa: E402
from rlsys.torchenv import TorchEnv  # noqa: E402

RESULTS = HERE / "results" / "gpu.json"
DEVICE = torch.device("cpu" if REHEARSAL else "cuda")
ENGINE = "torch" if REHEARSAL else "graph"
SIMS = ["cartpole"] if REHEARSAL else envs.sims()
SIZES = [4] if REHEARSAL else [1024, 8192, 65536, 2**20]
SECONDS = 0.0 if REHEARSAL else 0.3  # of a measurement, at least
SOLVED, WINDOW = 475.0, 100
STEPS = 2 if REHEARSAL else 16  # of the envs in a graph
SEEDS = 1 if REHEARSAL else 5

Figures = dict[str, Any]
if REHEARSAL:
    cuda.THREADS = 4  # each is one of Python's


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], warm_up: int = 3) -> float:
    """Seconds a call, the best of three rounds."""
    for _ in range(1 if REHEARSAL else warm_up):
        work()
    wait()
    calls, found = 1, []
    while len(found) < (1 if REHEARSAL else 3):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        passed = time.perf_counter() - began
        if passed < SECONDS:
            calls *= max(2, min(100, math.ceil(SECONDS / max(passed, 1e-9))))
        else:
            found.append(passed / calls)
    return min(found)


def graph() -> CudaGraph | None:
    return None if REHEARSAL else CudaGraph()


# -- the roof ------------------------------------------------------------------------------------------------------------


def roof() -> Figures:
    """What the device can do at most."""
    size = 2**10 if REHEARSAL else 2**30
    a, b = torch.ones(size, device=DEVICE), torch.empty(size, device=DEVICE)
    found: Figures = {"copied_bytes_per_second": 8 * size / seconds_of(lambda: b.copy_(a))}
    side = 8 if REHEARSAL else 8192
    for name, dtype, tf32 in (("float32", None, False), ("tf32", None, True), ("bfloat16", torch.bfloat16, False)):
        x = torch.randn(side, side, device=DEVICE, dtype=dtype)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        found[f"{name}_flops"] = 2 * side**3 / seconds_of(lambda x=x: x @ x)
    torch.backends.cuda.matmul.allow_tf32 = False
    x, many = torch.zeros(1, device=DEVICE), 4 if REHEARSAL else 1000

    def kernels() -> None:
        for _ in range(many):
            x.add_(1.0)

    found["seconds_a_kernel_in_a_graph"] = seconds_of(Captured(kernels, graph())) / many
    found["seconds_a_kernel_launched"] = seconds_of(kernels) / many
    found["seconds_a_graph_launch"] = seconds_of(Captured(lambda: x.add_(1.0), graph()))
    return found


# -- envs ----------------------------------------------------------------------------------------------------------------


def env_only(name: str, n: int) -> Figures:
    """Steps a second of n envs by random actions, and bytes that a step must move: its record twice, and what it gives."""
    env = TorchEnv(envs.make_vec(name, n, seed=0, device="cuda"), DEVICE)
    spec = env.action_spec
    actions = [
        torch.randint(spec.n, (n,), device=DEVICE) if spec.n else torch.rand(n, *spec.shape, device=DEVICE) * 2 - 1
        for _ in range(STEPS)
    ]
    slot = env.bind(env.empty_steps())

    def steps() -> None:
        for action in actions:
            env.step(action, slot)

    rate = STEPS * n / seconds_of(Captured(steps, graph()))
    env.env.check()
    record = env.env._states.dtype.itemsize
    given = sum(getattr(slot.step, x).nbytes for x in ("obs", "reward", "terminated", "truncated")) // n
    moved = 2 * record + given + 8 + 8 + 8 + 1  # action, return, length, mask
    return {"steps_per_second": rate, "record_bytes": record, "bytes_a_step": moved}


def env_part(budget: float) -> Figures:
    found: Figures = {}
    until = time.perf_counter() + budget
    for name in SIMS:
        for n in SIZES:
            if time.perf_counter() < until:
                found[f"{name}, {n}"] = attempt(lambda name=name, n=n: env_only(name, n))
    return found


# -- training ------------------------------------------------------------------------------------------------------------


def ppo_config(n: int, steps: int = 32) -> PPOConfig:
    """Two tanh networks of 64-64, 4 epochs of 4 minibatches."""
    steps = 2 if REHEARSAL else steps
    return PPOConfig(n_steps=steps, batch_size=n * steps // 4, n_epochs=4, hidden=[64, 64])


def made(name: str, n: int, config: Any, *, seed: int = 0, device: Any = None, **how: Any) -> Any:
    device = DEVICE if device is None else device
    where = {"device": "cuda"} if device == DEVICE else {}
    env = TorchEnv(envs.make_vec(name, n, seed=seed, **where), device)
    return agents.build(env, config, seed, **{"engine": ENGINE, **how})


def training(name: str, n: int, config: Any, **how: Any) -> Figures:
    """Whole iterations of an agent."""
    agent = made(name, n, config, **how)
    before = agent.steps
    agent.iterate(0.0)
    steps = agent.steps - before
    seconds = seconds_of(lambda: agent.iterate(0.0), warm_up=1 if REHEARSAL else 5)
    agent.env.metrics()
    memory = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0
    return {"steps_per_second": steps / seconds, "seconds_an_iteration": seconds, "peak_bytes": memory}


def dissected(name: str, n: int) -> Figures:
    """Where the time of a PPO iteration goes, what it launches, and whether it waits."""
    agent = made(name, n, ppo_config(n))
    for _ in range(1 if REHEARSAL else 5):
        agent.iterate(0.0)
    _, advantage, target = agent.estimate()
    clip_range, batches = agent.capture.number("clip_range", 0.2), agent.minibatches()
    parts = {
        "rollout": agent.play,
        "advantages": agent.estimate,
        "update": lambda: agent.fit(advantage, target, clip_range, *batches),
        "permutations": agent.minibatches,
    }
    found: Figures = {name: seconds_of(part) for name, part in parts.items()}
    found["waits"] = waits(lambda: agent.iterate(0.0))
    found["kernels"], found["seconds_by_kernel"] = profiled(lambda: agent.iterate(0.0))
    return found


def waits(work: Callable[[], Any]) -> str:
    """What in `work` waits for the device; empty if nothing does."""
    if DEVICE.type != "cuda":
        return ""
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def profiled(work: Callable[[], Any]) -> tuple[int, dict[str, float]]:
    """How many kernels `work` runs, and the seconds of the fifteen that take longest together."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if DEVICE.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        work()
        wait()
    count, seconds = 0, Counter()
    for event in profile.events():
        if DEVICE.type == "cpu" or "CUDA" in str(event.device_type):
            count += 1
            seconds[event.name[:100]] += (event.device_time_total or event.cpu_time_total) * 1e-6
    return count, dict(seconds.most_common(15))


def train_part(budget: float) -> Figures:
    found: Figures = {}
    until = time.perf_counter() + budget
    for name in SIMS[:1] if REHEARSAL else ("cartpole", "snake", "maze", "pendulum"):
        for n in SIZES:
            small = n if name in ("cartpole", "pendulum") else min(n, 65536)  # pictures of a million envs take 60 GB
            if time.perf_counter() < until and f"{name}, {small}" not in found:
                found[f"{name}, {small}"] = attempt(lambda name=name, n=small: training(name, n, ppo_config(n)))
    n = SIZES[-1] if REHEARSAL else 65536
    found["dissected"] = attempt(lambda: dissected("cartpole", n))
    return found


def eager_part(budget: float) -> Figures:
    n = SIZES[0] if REHEARSAL else 65536
    ways = {"without graphs": {"engine": "torch"}, "bfloat16": {"matmul_precision": "bfloat16"}}
    if DEVICE.type == "cuda":
        ways["tf32"] = {"matmul_precision": "tf32"}
    return {way: attempt(lambda how=how: training("cartpole", n, ppo_config(n), **how)) for way, how in ways.items()}


def dqn_part(budget: float) -> Figures:
    found: Figures = {}
    until = time.perf_counter() + budget
    for n in [4] if REHEARSAL else [16, 128, 1024, 8192]:
        dqn = DQNConfig(
            buffer_size=max(100_000, 16 * n),
            learning_starts=n,
            train_freq=n,
            target_update_interval=32 * n,
            batch_size=n,
        )
        pqn = PQNConfig(n_steps=2 if REHEARSAL else 32, batch_size=n * (2 if REHEARSAL else 32) // 4)
        for name, config in (("dqn", dqn), ("pqn", pqn)):
            if time.perf_counter() < until:
                found[f"{name}, {n}"] = attempt(lambda n=n, config=config: training("cartpole", n, config))
    return found


def cpu_part(budget: float) -> Figures:
    """The same work on the processor and on the GPU, from few envs to many."""
    if find_spec("scipy") is None:
        return {"failed": "the native engine needs scipy"}
    found: Figures = {}
    until = time.perf_counter() + budget
    for n in [4] if REHEARSAL else [16, 64, 256, 1024, 4096, 16384]:
        if time.perf_counter() > until:
            break
        here = attempt(lambda n=n: training("cartpole", n, ppo_config(n), device="cpu", engine="auto"))
        there = attempt(lambda n=n: training("cartpole", n, ppo_config(n)))
        found[str(n)] = {"cpu": here, "gpu": there}
    return found


def solve(seed: int) -> Figures:
    """Seconds, steps and iterations until the last 100 episodes of training return SOLVED in the mean."""
    n = 4 if REHEARSAL else 1024
    config = PPOConfig(
        n_steps=2 if REHEARSAL else 32, batch_size=8 if REHEARSAL else 8192, n_epochs=4, learning_rate=5e-3,
        gamma=0.98, gae_lambda=0.9, ent_coef=0.0, max_grad_norm=0.5,
    )  # fmt: skip
    warm = made("cartpole", n, config, seed=seed)  # compiles the kernels, loads the libraries
    for _ in range(1 if REHEARSAL else 4):
        warm.iterate(0.0)
    agent = made("cartpole", n, config, seed=seed)
    wait()
    began, iterations, mean = time.perf_counter(), 0, 0.0
    while mean < SOLVED and iterations < (2 if REHEARSAL else 500):
        agent.iterate(0.0)
        iterations += 1
        count, means = agent.env.episodes.means()  # waits, once an iteration
        mean = means[0] if count >= WINDOW else 0.0
    seconds = time.perf_counter() - began
    return {"solved": mean >= SOLVED, "seconds": seconds, "steps": agent.steps, "iterations": iterations}


def solve_part(budget: float) -> Figures:
    return {str(seed): attempt(lambda seed=seed: solve(seed)) for seed in range(SEEDS)}


def peer_part(budget: float) -> Figures:
    """rejax's PPO, in JAX, on the same device."""
    if find_spec("rejax") is None:
        return {"rejax": {"failed": "it is not installed"}}
    from rejax_worker import ppo

    found = {}
    for n in SIZES[:3]:
        config = ppo_config(n)
        settings = {**config.__dict__, "num_envs": n}

        def measured(settings: dict = settings) -> Figures:
            run = ppo(settings, {})
            run()
            began, steps = time.perf_counter(), 0
            while time.perf_counter() - began < 2 * SECONDS or not steps:
                steps += run()
            return {"steps_per_second": steps / (time.perf_counter() - began)}

        found[f"rejax, {n}"] = attempt(measured)
    return found


# -- all of it -----------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Callable[[float], Figures], float]] = {  # and seconds for each
    "roof": (lambda _: roof(), 20),
    "env": (env_part, 100),
    "train": (train_part, 110),
    "eager": (eager_part, 30),
    "dqn": (dqn_part, 60),
    "cpu": (cpu_part, 60),
    "solve": (solve_part, 40),
    "peer": (peer_part, 50),
}


def attempt(work: Callable[[], Figures]) -> Figures:
    """The figures of `work`, or why there are none: the rest goes on."""
    try:
        return work()
    except Exception as error:  # whatever a driver, a compiler or a library raises
        if REHEARSAL:
            raise
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    finally:
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--rehearse", action="store_true", help="run every line on what there is, with sizes of nothing"
    )
    args = parser.parse_args(argv)
    if REHEARSAL and not args.rehearse:
        print("there is no GPU here; --rehearse runs every line without one", file=sys.stderr)
        return 6
    np.random.seed(0)
    found: Figures = {"machine": provenance()}
    for name in args.only.split(","):
        work, seconds = PARTS[name]
        began = time.perf_counter()
        found[name] = attempt(lambda work=work, seconds=seconds: work(seconds))
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if not REHEARSAL or args.out != RESULTS:
            args.out.write_text(json.dumps(found, indent=1))
    print(json.dumps({name: figures for name, figures in found.items() if name != "machine"}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
