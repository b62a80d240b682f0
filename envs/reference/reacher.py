"""A bound on what any policy can earn in Reacher.

    python -m envs.reference.reacher          # its mean over random starts

Let w = sqrt(2 * kinetic energy). The motors' power is torque . speed, which is at most |torque| w in the norm of the inverse
mass matrix, and damping only takes; so w grows no faster than that norm's greatest value over all postures and torques. The
tip is never faster than w times the square root of its greatest mobility (the largest eigenvalue of J M^-1 J'). So after
t seconds the tip has come no farther than a t^2 / 2, where a is the product of the two, and a start at distance d costs at least
the sum of max(0, d - a t^2 / 2) over the episode's steps.
"""

import math

import numpy as np
from numpy.typing import NDArray

from envs.reacher import DT, FARTHEST, NEAREST, SIM, SUBSTEPS, Params

P = Params.defaults


def mass_matrices(elbow: NDArray, p=P) -> NDArray:
    """(n, 2, 2): the kinetic energy is speeds' M speeds / 2; each rod's is of its middle's motion and of its own turning."""
    shoulder, second, zero = np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.zeros_like(elbow)
    half, whole = p["length"] / 2, p["length"]
    about_middle = p["mass"] * whole**2 / 12
    # velocity of the second rod's middle for unit speeds of each joint, in axes along the first rod
    by_shoulder = np.stack([-half * np.sin(elbow), whole + half * np.cos(elbow)], axis=-1)
    by_elbow = np.stack([-half * np.sin(elbow), zero + half * np.cos(elbow)], axis=-1)
    jacobian = np.stack([by_shoulder, by_elbow], axis=-1)
    first = (p["mass"] * half**2 + about_middle) * np.outer(shoulder, shoulder)
    moving = p["mass"] * np.swapaxes(jacobian, -1, -2) @ jacobian
    return first + moving + about_middle * np.outer(second, second)


def tip_jacobians(elbow: NDArray, p=P) -> NDArray:
    """(n, 2, 2): the tip's velocity for unit speeds of each joint, in axes along the first rod."""
    whole = p["length"]
    x, y = -whole * np.sin(elbow), whole * np.cos(elbow)
    return np.stack([np.stack([x, whole + y], axis=-1), np.stack([x, y], axis=-1)], axis=-1)


def greatest_acceleration(p=P, postures: int = 20_001) -> float:
    """a of the module's docstring, m/s^2."""
    elbow = np.linspace(-math.pi, math.pi, postures)
    inverse, jacobian = np.linalg.inv(mass_matrices(elbow, p)), tip_jacobians(elbow, p)
    mobility = np.linalg.eigvalsh(jacobian @ inverse @ np.swapaxes(jacobian, -1, -2))[:, -1].max()
    corners = p["max_torque"] * np.array(
        [[1.0, 1.0], [1.0, -1.0]]
    )  # of the box of torques: the others are their opposites
    power = max(float(np.einsum("i,nij,j->n", torque, inverse, torque).max()) for torque in corners)
    return math.sqrt(mobility * power)


def bounds(distance: NDArray, p=P) -> NDArray:
    """For starts with the tip so far from the target, what no policy exceeds."""
    times = DT * SUBSTEPS * np.arange(1, SIM.max_episode_steps + 1)
    come = 0.5 * greatest_acceleration(p) * times**2
    return -np.maximum(0.0, distance[:, None] - come).sum(axis=1)


def starts(n: int, p=P, seed: int = 0) -> NDArray:
    """Distances from tip to target of random starts."""
    rng = np.random.default_rng(seed)
    elbow, angle = rng.uniform(-math.pi, math.pi, (2, n))
    radius = np.sqrt(rng.uniform(NEAREST**2, FARTHEST**2, n))
    reach = 2 * p["length"] * np.abs(np.cos(elbow / 2))  # the shoulder's angle is as uniform as the target's
    return np.sqrt(reach**2 + radius**2 - 2 * reach * radius * np.cos(angle))


if __name__ == "__main__":
    found = bounds(starts(1_000_000))
    print(f"bound: {found.mean():.6g} +- {found.std(ddof=1) / 1000:.2g}, a = {greatest_acceleration():.6g} m/s^2")
