"""Acrobot: swing the tip of a double pendulum above a line, with a motor at the elbow only.

An exact port of Gymnasium's `Acrobot-v1` (the book's dynamics): in float64 every state, reward and flag agrees to 1e-12,
and in float32 (the default, faster) one step from the same state to 2e-5 (for speeds up to half of their limits; up to a
fifth, to 2e-6).

**Action** `Discrete(3)`: torque on the joint between the links, 0 -`torque`, 1 none, 2 +`torque`.

**Observation** `Box(6)`, float32:

| index | quantity | range |
|---|---|---|
| 0, 1 | cosine and sine of the first link's angle; 0 hangs down | [-1, 1] |
| 2, 3 | cosine and sine of the second link's angle from the first's direction | [-1, 1] |
| 4 | angular velocity of the first link, rad/s | [-4 pi, 4 pi] |
| 5 | angular velocity of the second link against the first, rad/s | [-9 pi, 9 pi] |

**Reward** -1 for every step but one that ends at the line: 0. **Start**: angles and velocities uniform in [-0.1, 0.1),
rounded to float32. **End**: terminated when the tip is higher than one link above the axis,
-cos(theta1) - cos(theta1 + theta2) > 1; truncated after 500 steps. **Solved** at a mean return of -100.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| gravity | 9.8 | m/s^2 |
| mass_1, mass_2 | 1.0 | of the links, kg |
| length_1 | 1.0 | of the first link, m (the line is where it is for links of 1 m, whatever this is) |
| center_1, center_2 | 0.5 | distance of a link's centre of mass from its joint, m |
| inertia | 1.0 | of each link about its centre of mass, kg m^2 |
| torque | 1.0 | N m |
| tau | 0.2 | seconds a step (one Runge-Kutta step of fourth order) |
| max_speed_1 | 4 pi | rad/s; beyond it the observation leaves its declared range |
| max_speed_2 | 9 pi | rad/s; likewise |

**Baseline** (`scripted`): full torque with the sign of theta2_dot - theta1_dot - 2 sin(theta2). The first term
adds energy at every moment; the others keep the links swinging together, so that it does not all go into the second one.

**References** (mean return, `SIM.references`):

| policy | return |
|---|---|
| random | -498.9 |
| scripted | -82.6 |
| optimal | -58.9 |

The last is what plans earn that a beam search finds: a bound from below (`envs/reference/control.py`).

**Source**: Sutton, "Generalization in reinforcement learning: successful examples using sparse coarse coding", NeurIPS
1996; Sutton, Barto, "Reinforcement learning: an introduction", 2018; Gymnasium 1.4 `envs/classic_control/acrobot.py`.
"""

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Reference, Sim, njit, params, state_dtype, uniform

State = state_dtype(theta1="real", theta2="real", theta1_dot="real", theta2_dot="real", torque="real")
Params = params(
    gravity=9.8,
    mass_1=1.0,
    mass_2=1.0,
    length_1=1.0,
    center_1=0.5,
    center_2=0.5,
    inertia=1.0,
    torque=1.0,
    tau=0.2,
    max_speed_1=4.0 * math.pi,
    max_speed_2=9.0 * math.pi,
)
PI, TURN = math.pi, 2.0 * math.pi


@njit
def reset(s, p):
    s.theta1 = np.float32(uniform(s, -0.1, 0.1))
    s.theta2 = np.float32(uniform(s, -0.1, 0.1))
    s.theta1_dot = np.float32(uniform(s, -0.1, 0.1))
    s.theta2_dot = np.float32(uniform(s, -0.1, 0.1))


@njit
def accelerations(p, torque, theta1, theta2, theta1_dot, theta2_dot):
    """Angular accelerations of both joints."""
    sin2, cos2 = math.sin(theta2), math.cos(theta2)
    reach = p.mass_2 * p.length_1 * p.center_2
    own = p.mass_2 * (p.center_2 * p.center_2) + p.inertia  # the second link's inertia about its joint
    d1 = p.mass_1 * (p.center_1 * p.center_1) + p.mass_2 * (p.length_1 * p.length_1) + p.inertia + own
    d1 += 2.0 * reach * cos2
    d2 = own + reach * cos2
    phi2 = p.mass_2 * p.center_2 * p.gravity * math.sin(theta1 + theta2)
    phi1 = (p.mass_1 * p.center_1 + p.mass_2 * p.length_1) * p.gravity * math.sin(theta1) + phi2
    phi1 -= reach * theta2_dot * (theta2_dot + 2.0 * theta1_dot) * sin2
    ratio = d2 / d1
    acceleration2 = (torque + ratio * phi1 - reach * (theta1_dot * theta1_dot) * sin2 - phi2) / (own - d2 * ratio)
    return -(d2 * acceleration2 + phi1) / d1, acceleration2


@njit
def wrapped(angle):
    """The angle in [-pi, pi]; both ends stay what they are."""
    if angle > PI:
        return angle - TURN * math.ceil((angle - PI) / TURN)
    if angle < -PI:
        return angle + TURN * math.ceil((-PI - angle) / TURN)
    return angle


@njit
def step(s, p, action):
    torque = p.torque if action == 2 else (0.0 if action == 1 else -p.torque)
    half, tau = 0.5 * p.tau, p.tau
    q1, q2, u1, u2 = s.theta1, s.theta2, s.theta1_dot, s.theta2_dot

    a1, a2 = accelerations(p, torque, q1, q2, u1, u2)
    v1, v2 = u1 + half * a1, u2 + half * a2
    b1, b2 = accelerations(p, torque, q1 + half * u1, q2 + half * u2, v1, v2)
    w1, w2 = u1 + half * b1, u2 + half * b2
    c1, c2 = accelerations(p, torque, q1 + half * v1, q2 + half * v2, w1, w2)
    x1, x2 = u1 + tau * c1, u2 + tau * c2
    d1, d2 = accelerations(p, torque, q1 + tau * w1, q2 + tau * w2, x1, x2)

    sixth = p.tau / 6.0
    s.theta1 = wrapped(q1 + sixth * (u1 + 2.0 * v1 + 2.0 * w1 + x1))
    s.theta2 = wrapped(q2 + sixth * (u2 + 2.0 * v2 + 2.0 * w2 + x2))
    s.theta1_dot = min(max(u1 + sixth * (a1 + 2.0 * b1 + 2.0 * c1 + d1), -p.max_speed_1), p.max_speed_1)
    s.theta2_dot = min(max(u2 + sixth * (a2 + 2.0 * b2 + 2.0 * c2 + d2), -p.max_speed_2), p.max_speed_2)
    s.torque = torque

    terminated = -math.cos(s.theta1) - math.cos(s.theta2 + s.theta1) > 1.0
    return (0.0 if terminated else -1.0), terminated


@njit
def observe(s, p, obs):
    obs[0] = math.cos(s.theta1)
    obs[1] = math.sin(s.theta1)
    obs[2] = math.cos(s.theta2)
    obs[3] = math.sin(s.theta2)
    obs[4] = s.theta1_dot
    obs[5] = s.theta2_dot


@njit
def scripted(s, p, action):
    drive = s.theta2_dot - s.theta1_dot - 2.0 * math.sin(s.theta2)
    action[0] = 2 if drive >= 0.0 else 0


def draw(s, p, canvas):
    length = p.length_1
    canvas.view(-1.25 - length, 1.25 + length, -1.25 - length, 1.25 + length)
    canvas.line(-1.2 - length, 1.0, 1.2 + length, 1.0, color="mist", width=0.03)  # the line to reach
    elbow_x, elbow_y = length * math.sin(s.theta1), -length * math.cos(s.theta1)
    tip_x, tip_y = elbow_x + math.sin(s.theta1 + s.theta2), elbow_y - math.cos(s.theta1 + s.theta2)
    canvas.line(0.0, 0.0, elbow_x, elbow_y, color="orange", width=0.18)
    canvas.line(elbow_x, elbow_y, tip_x, tip_y, color="yellow", width=0.14)
    canvas.disc(0.0, 0.0, 0.06, color="ink")
    canvas.disc(elbow_x, elbow_y, 0.06, color="ink")
    canvas.disc(
        tip_x, tip_y, 0.07, color="green" if -math.cos(s.theta1) - math.cos(s.theta1 + s.theta2) > 1.0 else "red"
    )
    if s.torque != 0.0:  # the motor, as an arc about the elbow in its direction of turn
        start = s.theta1 - 0.5 * math.pi
        ends = (start, start + 1.0) if s.torque > 0.0 else (start - 1.0, start)
        canvas.arc(elbow_x, elbow_y, 0.3, *ends, color="blue", width=0.05)


LIMITS = np.array([1, 1, 1, 1, Params.defaults["max_speed_1"], Params.defaults["max_speed_2"]], np.float32)

SIM = Sim(
    name="Acrobot",
    version=0,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    observation_space=Box(-LIMITS, LIMITS, dtype=np.float32),
    action_space=Discrete(3),
    max_episode_steps=500,
    reward_threshold=-100.0,
    frame_rate=15,
    references={
        "random": Reference(-498.919, 0.11, "uniform actions, 10 000 test episodes"),
        "scripted": Reference(-82.617, 0.19, "10 000 test episodes"),
        "optimal": Reference(-58.88, 0.05, "at least: plans by beam search, 10 000 states wide, 100 starts"),
    },
)
