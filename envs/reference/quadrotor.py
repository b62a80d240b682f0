"""The linear-quadratic regulator of a hovering Quadrotor: the best gain near hover, and what it costs.

    python -m envs.reference.quadrotor        # the gain that stands in envs/quadrotor.py, and the "optimal" reference

Near hover the step is linear, x' = A x + B a, and the cost of a step quadratic, x'Qx + a'Ra. Then a = -K x is optimal, and
costs x'Px from x on, with P the fixed point of Riccati's equation.
"""

import numpy as np
from numpy.typing import NDArray

from envs.quadrotor import Params

Q = np.diag([1.0, 1.0, 1.0, 0.1, 0.1, 0.01])  # on (x, z, theta) and their rates, as in the reward
R = 0.1 * np.eye(2)  # on the action


def linearised(p=Params.defaults) -> tuple[NDArray, NDArray]:
    """A (6, 6) and B (6, 2) of one step about hover, in the order of the observation.

    The linear dynamics are nilpotent (their fourth power vanishes), so a Runge-Kutta step of order 4 is their exponential:
    A = 1 + hF + (hF)^2/2 + (hF)^3/6 and B = (h + h^2 F/2 + h^3 F^2/6 + h^4 F^3/24) G.
    """
    h, g = p["tau"], p["gravity"]
    f, drive = np.zeros((6, 6)), np.zeros((6, 2))
    f[:3, 3:] = np.eye(3)
    f[3, 2] = -g  # tilted to the left, the lift pulls to the left
    half_weight = 0.5 * p["mass"] * g
    drive[4] = half_weight / p["mass"]
    drive[5] = np.array([1.0, -1.0]) * p["arm"] * half_weight / p["inertia"]
    powers = [np.linalg.matrix_power(f * h, k) for k in range(4)]
    a = powers[0] + powers[1] + powers[2] / 2 + powers[3] / 6
    b = h * (powers[0] + powers[1] / 2 + powers[2] / 6 + powers[3] / 24) @ drive
    return a, b


def regulator(p=Params.defaults) -> tuple[NDArray, NDArray]:
    """K (2, 6) and P (6, 6), by value iteration: P of one step more, until it does not change."""
    a, b = linearised(p)
    cost = Q
    while True:
        gain = np.linalg.solve(R + b.T @ cost @ b, b.T @ cost @ a)
        better = Q + a.T @ cost @ (a - b @ gain)
        if np.abs(better - cost).max() < 1e-13 * np.abs(better).max():
            return gain, better
        cost = 0.5 * (better + better.T)


def optimal_return(spread: float = Params.defaults["spread"]) -> float:
    """-E[x'Px] for starts uniform in +-spread: independent, of mean 0 and variance spread^2 / 3."""
    return -(spread**2) / 3 * float(np.trace(regulator()[1]))


if __name__ == "__main__":
    print("GAIN =", tuple(float(f"{number:.6g}") for number in regulator()[0][0]))
    print(f"optimal return at the default spread: {optimal_return():.6g}")
