"""The fastest lap on a Racer track's centreline: what a driver earns who never leaves that line.

    python -m envs.reference.racer            # the mean over 1000 test levels

On a given line the car's limits, grip across and acceleration along, do not depend on each other. So the fastest speed at each
point is what the curve there allows, v^2 <= grip * radius, cut by what can still be braked off before the curves ahead and by
what has been gained since the start. That is the best possible on the line, but not in the world: a line that cuts corners is
shorter and has wider curves.
"""

import math

import numpy as np
from numpy.typing import NDArray

from envs.engine.sim import SPLITS
from envs.racer import DT, MAX_ACCELERATION, MAX_SPEED, SECTIONS, SIM, START_SPEED, SUBSTEPS, Params

MINUTE = SIM.max_episode_steps * SUBSTEPS * DT


def radii(x: NDArray, y: NDArray) -> NDArray:
    """The radius of the circle through each point of a closed line, the one before and the one behind it."""
    points = np.stack([x, y], axis=-1).astype(np.float64)
    before, behind = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    chord = before + behind
    cross = before[:, 0] * behind[:, 1] - before[:, 1] * behind[:, 0]
    sides = np.linalg.norm(before, axis=1) * np.linalg.norm(behind, axis=1) * np.linalg.norm(chord, axis=1)
    return sides / np.maximum(2.0 * np.abs(cross), 1e-12)


def speed_profile(radius: NDArray, spacing: float, laps: int, grip: float = Params.defaults["grip"]) -> NDArray:
    """The greatest speeds at the points of a closed line over so many laps, from START_SPEED at its first one."""
    limit = np.minimum(np.tile(grip * radius, laps + 1), MAX_SPEED**2)
    change = 2.0 * MAX_ACCELERATION * spacing  # of the speed's square between two points
    for k in range(len(limit) - 2, -1, -1):
        limit[k] = min(limit[k], limit[k + 1] + change)
    limit[0] = min(limit[0], START_SPEED**2)
    for k in range(1, len(limit)):
        limit[k] = min(limit[k], limit[k - 1] + change)
    return np.sqrt(limit[: laps * len(radius) + 1])


def distance_in(seconds: float, speed: NDArray, spacing: float) -> float:
    """How far one comes; between two points the acceleration is constant, so the mean speed is the mean of the two."""
    come = np.concatenate([[0.0], np.cumsum(2.0 * spacing / (speed[1:] + speed[:-1]))])
    k = int(np.searchsorted(come, seconds)) - 1
    rest, acceleration = seconds - come[k], (speed[k + 1] ** 2 - speed[k] ** 2) / (2.0 * spacing)
    return k * spacing + speed[k] * rest + 0.5 * acceleration * rest**2


def centreline_returns(levels: NDArray) -> NDArray:
    """What the fastest drive along the centreline earns in an episode, for each level."""
    from envs.engine.vector import SimVectorEnv  # here, because a reference need not compile a sim to be imported

    env = SimVectorEnv(SIM, len(levels), seed=0, precision="float64")
    env.reset(options={"level": levels})
    found = []
    for s in env.state:
        x, y = (s["left_x"] + s["right_x"]) / 2, (s["left_y"] + s["right_y"]) / 2
        laps = math.ceil(MINUTE * MAX_SPEED / (SECTIONS * s["spacing"]))
        speed = speed_profile(radii(x, y), float(s["spacing"]), laps)
        found.append(distance_in(MINUTE, speed, float(s["spacing"])) / 10.0)
    return np.array(found)


if __name__ == "__main__":
    returns = centreline_returns(SPLITS["test"][0] + np.arange(1000))
    print(f"fastest on the centreline: {returns.mean():.6g} +- {returns.std(ddof=1) / math.sqrt(len(returns)):.2g}")
