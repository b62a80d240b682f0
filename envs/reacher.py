"""Reacher: bring the tip of an arm of two links to a target, and hold it there.

The arm lies in the horizontal plane; its links are uniform rods of 1 kg and 0.5 m with a motor and damping in each joint. Its
equations of motion are Lagrange's, integrated by Runge-Kutta (order 4), four steps of 0.01 s for an action (25 Hz).

**Action** `Box(-1, 1, (2,))`, float32: torque in N m at the shoulder and at the elbow, positive is counterclockwise; clipped to
the limits.

**Observation** `Box(10)`, float32:

| index | quantity | unit | range |
|---|---|---|---|
| 0, 1 | cosine, sine of the shoulder's angle, from the x axis | | [-1, 1] |
| 2, 3 | cosine, sine of the elbow's angle, 0 is straight | | [-1, 1] |
| 4, 5 | angular velocity of shoulder and elbow | rad/s | [-100, 100] |
| 6, 7 | target x, y | m | [-1, 1] |
| 8, 9 | tip - target, x, y | m | [-2, 2] |

**Reward** -distance - 0.01 (torque0^2 + torque1^2), with the distance in m from tip to target after the step. **Start**: at
rest, both angles uniform in [-pi, pi); the target uniform in the ring from 0.1 to 0.95 m about the shoulder. **End**: never
terminated; truncated after 200 steps (8 seconds). **Solved** at a mean return of -25, the baseline's.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| mass | 1.0 | of each link, kg |
| length | 0.5 | of each link, m; beyond 0.5 the observation leaves its range; the target's ring is not scaled |
| damping | 0.1 | in each joint, N m s |
| max_torque | 1.0 | N m for an action of 1 |

**References** (mean return, test split):

| policy | return | |
|---|---|---|
| random | -176.5 | spins |
| scripted | -25.4 | inverse kinematics, and computed torques that bring both joints there as fast as they can be stopped |
| optimal | -4.55 | a bound, and not a tight one: the way that the tip can have come since the start |

See `envs/reference/reacher.py`.

**Speed**: a step asks for the equations of motion 16 times, each time after the last: 22 times the flops of a step of CartPole.

**Source**: the two-link arm and computed torque are in Spong, Hutchinson, Vidyasagar, "Robot Modeling and Control", 2006. The
task is in the manner of Gymnasium's `Reacher`; the dynamics are not MuJoCo's.
"""

import math

import numpy as np
from gymnasium.spaces import Box

from envs.engine import Reference, Sim, njit, params, state_dtype, uniform

DT = 0.01
SUBSTEPS = 4
PI = math.pi
TURN = 2.0 * math.pi
THIRD, FIVE_THIRDS = 1.0 / 3.0, 5.0 / 3.0
NEAREST, FARTHEST = 0.1, 0.95  # of the target
GAIN = 15.0  # of the baseline, 1/s: how fast its joints take up the speeds that it wants
BRAKING = 1.4  # rad/s^2, what it counts on to stop them

State = state_dtype(
    shoulder="real",
    elbow="real",
    shoulder_dot="real",
    elbow_dot="real",
    target_x="real",
    target_y="real",
    torque=("real", (2,)),
)
Params = params(mass=1.0, length=0.5, damping=0.1, max_torque=1.0)


@njit
def inertia(p, elbow):
    """The mass matrix's entries (shoulder, coupling, elbow), kg m^2: rods turn about an end with m l^2 / 3."""
    unit = p.mass * p.length * p.length
    bent = 0.5 * unit * math.cos(elbow)
    return unit * FIVE_THIRDS + 2.0 * bent, unit * THIRD + bent, unit * THIRD


@njit
def bias(p, elbow, shoulder_dot, elbow_dot):
    """The torques that motion alone asks for: of Coriolis, of the centrifuge, and of damping."""
    pull = 0.5 * p.mass * p.length * p.length * math.sin(elbow)
    at_shoulder = -pull * (2.0 * shoulder_dot + elbow_dot) * elbow_dot + p.damping * shoulder_dot
    return at_shoulder, pull * shoulder_dot * shoulder_dot + p.damping * elbow_dot


@njit
def acceleration(p, elbow, shoulder_dot, elbow_dot, torque0, torque1):
    """Angular accelerations: mass matrix * acceleration + bias = torque."""
    m0, m1, m2 = inertia(p, elbow)
    bias0, bias1 = bias(p, elbow, shoulder_dot, elbow_dot)
    rest0, rest1 = torque0 - bias0, torque1 - bias1
    per = 1.0 / (m0 * m2 - m1 * m1)
    return per * (m2 * rest0 - m1 * rest1), per * (m0 * rest1 - m1 * rest0)


@njit
def swing(s, p, torque0, torque1):
    """One Runge-Kutta step. The angles' slopes are the speeds, and accelerations do not depend on the shoulder's angle."""
    h = DT
    half = 0.5 * h
    u1, v1 = s.shoulder_dot, s.elbow_dot
    a1, b1 = acceleration(p, s.elbow, u1, v1, torque0, torque1)
    u2, v2 = s.shoulder_dot + half * a1, s.elbow_dot + half * b1
    a2, b2 = acceleration(p, s.elbow + half * v1, u2, v2, torque0, torque1)
    u3, v3 = s.shoulder_dot + half * a2, s.elbow_dot + half * b2
    a3, b3 = acceleration(p, s.elbow + half * v2, u3, v3, torque0, torque1)
    u4, v4 = s.shoulder_dot + h * a3, s.elbow_dot + h * b3
    a4, b4 = acceleration(p, s.elbow + h * v3, u4, v4, torque0, torque1)
    sixth = h / 6.0
    s.shoulder += sixth * (u1 + 2.0 * (u2 + u3) + u4)
    s.elbow += sixth * (v1 + 2.0 * (v2 + v3) + v4)
    s.shoulder_dot += sixth * (a1 + 2.0 * (a2 + a3) + a4)
    s.elbow_dot += sixth * (b1 + 2.0 * (b2 + b3) + b4)


@njit
def wrapped(angle):
    """The same angle in [-pi, pi)."""
    return angle - TURN * math.floor((angle + PI) / TURN)


@njit
def tip(s, p):
    x = p.length * (math.cos(s.shoulder) + math.cos(s.shoulder + s.elbow))
    return x, p.length * (math.sin(s.shoulder) + math.sin(s.shoulder + s.elbow))


@njit
def reset(s, p):
    s.shoulder = uniform(s, -PI, PI)
    s.elbow = uniform(s, -PI, PI)
    angle = uniform(s, -PI, PI)
    radius = math.sqrt(uniform(s, NEAREST * NEAREST, FARTHEST * FARTHEST))  # as many for each square metre
    s.target_x, s.target_y = radius * math.cos(angle), radius * math.sin(angle)


@njit
def step(s, p, action):
    s.torque[0] = p.max_torque * min(max(action[0], -1.0), 1.0)
    s.torque[1] = p.max_torque * min(max(action[1], -1.0), 1.0)
    for _ in range(SUBSTEPS):
        swing(s, p, s.torque[0], s.torque[1])
    s.shoulder, s.elbow = wrapped(s.shoulder), wrapped(s.elbow)
    x, y = tip(s, p)
    off_x, off_y = x - s.target_x, y - s.target_y
    effort = s.torque[0] * s.torque[0] + s.torque[1] * s.torque[1]
    return -math.sqrt(off_x * off_x + off_y * off_y) - 0.01 * effort, False


@njit
def observe(s, p, obs):
    x, y = tip(s, p)
    obs[0] = math.cos(s.shoulder)
    obs[1] = math.sin(s.shoulder)
    obs[2] = math.cos(s.elbow)
    obs[3] = math.sin(s.elbow)
    obs[4] = s.shoulder_dot
    obs[5] = s.elbow_dot
    obs[6] = s.target_x
    obs[7] = s.target_y
    obs[8] = x - s.target_x
    obs[9] = y - s.target_y


@njit
def solve(s, p):
    """The turns (shoulder, elbow) that put the tip on the target (inverse kinematics), with the elbow bent the way it is."""
    square = s.target_x * s.target_x + s.target_y * s.target_y
    bent = math.acos(min(max(square / (2.0 * p.length * p.length) - 1.0, -1.0), 1.0))
    elbow = bent if s.elbow >= 0.0 else -bent
    return wrapped(math.atan2(s.target_y, s.target_x) - 0.5 * elbow - s.shoulder), elbow - s.elbow


@njit
def approach(angle, braking):
    """The speed (rad/s) at which to come nearer to a target so far away: one that can still be braked off."""
    speed = min(10.0 * abs(angle), math.sqrt(2.0 * braking * abs(angle)))
    return speed if angle > 0.0 else -speed


@njit
def scripted(s, p, action):
    shoulder, elbow = solve(s, p)
    want0 = GAIN * (approach(shoulder, BRAKING) - s.shoulder_dot)
    want1 = GAIN * (approach(elbow, BRAKING) - s.elbow_dot)
    m0, m1, m2 = inertia(p, s.elbow)
    bias0, bias1 = bias(p, s.elbow, s.shoulder_dot, s.elbow_dot)
    torque0, torque1 = m0 * want0 + m1 * want1 + bias0, m1 * want0 + m2 * want1 + bias1
    # Both by the same factor, so that a motor at its limit does not turn the push aside.
    share = p.max_torque / max(p.max_torque, max(abs(torque0), abs(torque1)))
    action[0], action[1] = share * torque0 / p.max_torque, share * torque1 / p.max_torque


def draw(s, p, canvas):
    reach = 2.0 * p.length
    canvas.view(-1.15 * reach, 1.15 * reach, -1.15 * reach, 1.15 * reach)
    canvas.disc(0.0, 0.0, reach, color="shade")
    canvas.arc(0.0, 0.0, reach, 0.0, 2 * math.pi, color="mist", width=0.01)
    elbow = p.length * math.cos(s.shoulder), p.length * math.sin(s.shoulder)
    x, y = elbow[0] + p.length * math.cos(s.shoulder + s.elbow), elbow[1] + p.length * math.sin(s.shoulder + s.elbow)
    canvas.line(0.0, 0.0, *elbow, color="orange", width=0.09 * reach)
    canvas.line(*elbow, x, y, color="yellow", width=0.07 * reach)
    for r, color in ((0.07, "red"), (0.05, "white"), (0.03, "red")):
        canvas.disc(s.target_x, s.target_y, r * reach, color=color)
    canvas.disc(x, y, 0.025 * reach, color="ink")
    for (jx, jy), start, torque in (((0.0, 0.0), s.shoulder, s.torque[0]), (elbow, s.shoulder + s.elbow, s.torque[1])):
        canvas.disc(jx, jy, 0.03 * reach, color="ink")
        sweep = float(torque) / p.max_torque * 0.5 * math.pi  # the motors' torques, as arcs
        if abs(sweep) > 0.02:
            a, b = sorted((start, start + sweep))
            canvas.arc(jx, jy, 0.1 * reach, a, b, color="blue", width=0.02 * reach)


# Speeds: where the torques' power, at most sqrt(2) |speed|, falls short of damping's loss, 0.1 |speed|^2, energy shrinks;
# so it never exceeds what is greatest at 14.2 rad/s, and with that energy, no joint turns faster than 95.
LIMITS = np.array([1.0] * 4 + [100.0] * 2 + [1.0] * 2 + [2.0] * 2, np.float32)

SIM = Sim(
    name="Reacher",
    version=0,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    references={
        "random": Reference(-176.48, 0.62, "uniform actions, 10,000 episodes"),
        "scripted": Reference(-25.41, 0.20, "inverse kinematics and computed torque, 10,000 episodes"),
        "optimal": Reference(-4.550, 0.003, "a bound: greatest acceleration of the tip, 1,000,000 starts"),
    },
    observation_space=Box(-LIMITS, LIMITS, dtype=np.float32),
    action_space=Box(-1.0, 1.0, (2,), np.float32),
    max_episode_steps=200,
    reward_threshold=-25.0,
    frame_rate=25,
)
