"""Pendulum: swing a pendulum up with a motor too weak to lift it directly, and hold it there.

An exact port of Gymnasium's `Pendulum-v1`: in float64 every state and reward agrees to 1e-12 (for angles within a hundred
turns); in float32 (the default, faster) one step from the same state agrees to 2e-6 (for angles within two turns).

**Action** `Box(-2, 2, (1,))`, float32: torque on the joint in N m, positive is counterclockwise; clipped to the limits.

**Observation** `Box(3)`, float32:

| index | quantity | unit | range |
|---|---|---|---|
| 0 | cosine of the angle from the upright (1 is upright) | | [-1, 1] |
| 1 | sine of the angle, positive is counterclockwise | | [-1, 1] |
| 2 | angular velocity | rad/s | [-8, 8] |

**Reward** -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), of the state before the step, with the angle in [-pi, pi): from
-16.3 to 0. **Start**: angle uniform in [-pi, pi), velocity in [-1, 1).
**End**: never terminated; truncated after 200 steps.
**Solved**: the original sets no threshold; trained agents reach a mean return of about -150.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| gravity | 10.0 | m/s^2 |
| mass | 1.0 | kg |
| length | 1.0 | m |
| tau | 0.05 | seconds a step (semi-implicit Euler) |
| max_speed | 8.0 | rad/s; beyond 8 the observation leaves its declared range |
| max_torque | 2.0 | N m |

**Baseline** (`scripted`): torque with or against the motion, until the energy is that of the upright at rest;
within 0.5 rad of the upright, -8 angle - 2 velocity.

**References** (mean return, `SIM.references`):

| policy | return |
|---|---|
| random | -1231.2 |
| scripted | -150.7 |
| optimal | -137.5 |

The last is by dynamic programming on a grid, to about 0.24 (`envs/reference/control.py`).

**Source**: Gymnasium 1.4 `envs/classic_control/pendulum.py`.
"""

import math

import numpy as np
from gymnasium.spaces import Box

from envs.engine import Reference, Sim, njit, params, state_dtype, uniform

State = state_dtype(theta="real", theta_dot="real", torque="real")
Params = params(gravity=10.0, mass=1.0, length=1.0, tau=0.05, max_speed=8.0, max_torque=2.0)
TURN = 2.0 * math.pi


@njit
def reset(s, p):
    s.theta = uniform(s, -math.pi, math.pi)
    s.theta_dot = uniform(s, -1.0, 1.0)


@njit
def from_upright(theta):
    """The angle in [-pi, pi)."""
    return theta - TURN * math.floor((theta + math.pi) / TURN)


@njit
def step(s, p, action):
    s.torque = min(max(action[0], -p.max_torque), p.max_torque)
    angle = from_upright(s.theta)
    cost = angle * angle + 0.1 * (s.theta_dot * s.theta_dot) + 0.001 * (s.torque * s.torque)

    lift = 3.0 * p.gravity / (2.0 * p.length) * math.sin(s.theta)
    push = 3.0 / (p.mass * (p.length * p.length)) * s.torque
    speed = s.theta_dot + (lift + push) * p.tau
    s.theta_dot = min(max(speed, -p.max_speed), p.max_speed)
    s.theta += s.theta_dot * p.tau
    return -cost, False


@njit
def observe(s, p, obs):
    obs[0] = math.cos(s.theta)
    obs[1] = math.sin(s.theta)
    obs[2] = s.theta_dot


@njit
def scripted(s, p, action):
    angle = from_upright(s.theta)
    if abs(angle) < 0.5:
        torque = -8.0 * angle - 2.0 * s.theta_dot
    else:  # energy, 0 at rest upright: divided by mass length^2 / 3
        energy = 0.5 * (s.theta_dot * s.theta_dot) - 1.5 * p.gravity / p.length * (1.0 - math.cos(angle))
        torque = -3.0 * energy if s.theta_dot >= 0.0 else 3.0 * energy
    action[0] = min(max(torque, -p.max_torque), p.max_torque)


def draw(s, p, canvas):
    reach = p.length
    canvas.view(-1.5 * reach, 1.5 * reach, -1.5 * reach, 1.5 * reach)
    canvas.arc(0.0, 0.0, 1.22 * reach, 0.0, 2 * math.pi, color="shade", width=0.02 * reach)
    tip_x, tip_y = -reach * math.sin(s.theta), reach * math.cos(s.theta)
    canvas.line(0.0, 0.0, tip_x, tip_y, color="orange", width=0.18 * reach)
    canvas.disc(0.0, 0.0, 0.05 * reach, color="ink")
    sweep = s.torque / p.max_torque * 0.75 * math.pi  # the motor's torque, as an arc from the top
    if abs(sweep) > 0.02:
        start, end = sorted((0.5 * math.pi, 0.5 * math.pi + sweep))
        canvas.arc(0.0, 0.0, 0.3 * reach, start, end, color="blue", width=0.05 * reach)


LIMITS = np.array([1.0, 1.0, Params.defaults["max_speed"]], np.float32)

SIM = Sim(
    name="Pendulum",
    version=0,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    observation_space=Box(-LIMITS, LIMITS, dtype=np.float32),
    action_space=Box(-2.0, 2.0, (1,), np.float32),
    max_episode_steps=200,
    frame_rate=20,
    references={
        "random": Reference(-1231.2, 2.9, "uniform actions, 10 000 test episodes"),
        "scripted": Reference(-150.69, 0.92, "10 000 test episodes"),
        "optimal": Reference(-137.48, 0.24, "value iteration, 1025 x 1025 nodes; error: to half as many"),
    },
)
