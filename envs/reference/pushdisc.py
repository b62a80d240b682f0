"""A bound on what any policy can earn in PushDisc.

    python -m envs.reference.pushdisc         # its mean over random starts

The two distances of the reward add up to what they lose from the first step to the last: no more than the disc's whole way to the
target, and the finger's until it touches. To that comes the prize for success. The finger must first come to the disc, and then
push it to within CLOSE of the target, which it does no faster than it moves itself; so that many steps have to be paid for, at
least. The way round the disc is not counted.
"""

import math

import numpy as np
from numpy.typing import NDArray

from envs.pushdisc import CLOSE, DT, NEARER, PER_METRE, PRIZE, REACH, SIM, STEP_COST, Params


def bounds(to_target: NDArray, to_disc: NDArray, speed: float = Params.defaults["speed"]) -> NDArray:
    """For starts with these distances, from disc to target and from finger to disc, what no policy exceeds."""
    steps = np.ceil((to_disc - REACH + to_target - CLOSE) / (speed * DT))
    return PER_METRE * to_target + NEARER * (to_disc - REACH) + PRIZE - STEP_COST * steps


def starts(n: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """The two distances in n random starts."""
    from envs.engine.vector import SimVectorEnv  # here, because a reference need not compile a sim to be imported

    env = SimVectorEnv(SIM, n, seed=seed, precision="float64")
    env.reset()
    s = env.state
    to_target = np.hypot(s["target_x"] - s["disc_x"], s["target_y"] - s["disc_y"])
    return to_target, np.hypot(s["disc_x"] - s["finger_x"], s["disc_y"] - s["finger_y"])


if __name__ == "__main__":
    found = bounds(*starts(1_000_000))
    print(f"bound: {found.mean():.6g} +- {found.std(ddof=1) / math.sqrt(len(found)):.2g}")
