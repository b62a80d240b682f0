"""Steps of a vector env with Gymnasium's interface."""

import numpy as np
from serve import Run


def stepper(env, n: int) -> Run:
    """Random actions, drawn beforehand, for n envs."""
    actions, calls = np.random.default_rng(0).integers(0, 2, (64, n)), max(20, 200_000 // n)
    env.reset()

    def run() -> int:
        for t in range(calls):
            env.step(actions[t % 64])
        return calls * n

    return run
