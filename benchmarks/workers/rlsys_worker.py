"""rlsys, and the roof that its arithmetic stands under. The option `threads` is that of a run."""

from functools import partial

import numba
import numpy as np
import torch
from serve import Run, serve

import envs
from rlsys import agents
from rlsys.config import DQNConfig, PPOConfig
from rlsys.native import one_blas_thread
from rlsys.torchenv import TorchEnv


def with_threads(threads: int, run: Run) -> Run:
    """`run` on so many threads."""

    def limited() -> int:
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
        return run()

    return limited


def env(sim: str, settings: dict, options: dict) -> Run:
    """Random actions, drawn beforehand."""
    n, threads = settings["num_envs"], options["threads"]
    numba.set_num_threads(threads)
    vector = envs.make_vec(sim, n, seed=0, backend="serial" if threads == 1 else "parallel")
    choices = vector.single_action_space.n
    actions, calls = np.random.default_rng(0).integers(0, choices, (64, n)), max(20, 200_000 // n)
    vector.reset(seed=0)

    def run() -> int:
        for t in range(calls):
            vector.step(actions[t % 64])
        return calls * n

    return with_threads(threads, run)


def training(config_type: type, settings: dict, options: dict) -> Run:
    """Iterations of an agent, at the middle of its schedules."""
    hyperparameters, threads = dict(settings), options["threads"]
    torch.set_num_threads(1)
    numba.set_num_threads(threads)
    vector = TorchEnv(envs.make_vec("cartpole", hyperparameters.pop("num_envs"), seed=0))
    agent = agents.build(vector, config_type(**hyperparameters), 0, engine="auto", threads=threads)
    while agent.steps <= settings.get("learning_starts", 0):
        agent.iterate(0.5)

    def run() -> int:
        before = agent.steps
        agent.iterate(0.5)
        return agent.steps - before

    return with_threads(threads, run)


def ppo(settings: dict, options: dict) -> Run:
    return training(PPOConfig, settings, options)


def dqn(settings: dict, options: dict) -> Run:
    return training(DQNConfig, settings, options)


@numba.njit(fastmath=True)
def products(a, b, out, times):
    for _ in range(times):
        np.dot(a, b, out)


@numba.njit(fastmath=True, parallel=True)
def products_of_each(a, b, out, times):
    for thread in numba.prange(len(a)):
        products(a[thread], b[thread], out[thread], times)


def roof(settings: dict, options: dict) -> Run:
    """Products of float32 matrices [rows, n] x [n, n] that stay in a core's cache, each thread its own; a "step" is a flop."""
    rows, n, threads = settings["rows"], settings["columns"], options["threads"]
    one_blas_thread()
    numba.set_num_threads(threads)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((threads, height, n), np.float32) for height in (rows, n))
    out, flops, times = np.empty_like(a), 2 * rows * n * n, 20_000

    def run() -> int:
        if threads == 1:  # as the kernels do: a parallel call would only cost more
            products(a[0], b[0], out[0], times)
        else:
            products_of_each(a, b, out, times)
        return threads * times * flops

    return with_threads(threads, run)


if __name__ == "__main__":
    sims = {"env": "cartpole", "snake": "snake", "breakout": "breakout"}
    serve({**{kind: partial(env, sim) for kind, sim in sims.items()}, "ppo": ppo, "dqn": dqn, "roof": roof})
