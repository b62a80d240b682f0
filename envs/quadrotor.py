"""Quadrotor: hover at the origin with two rotors, in the vertical plane.

The planar quadrotor of Drake's examples and of the course "Underactuated Robotics", with its equations and constants:

    mass * x'' = -(u0 + u1) sin(theta)        mass * z'' = (u0 + u1) cos(theta) - mass * gravity
    inertia * theta'' = arm * (u0 - u1)

integrated by one Runge-Kutta step (order 4) of `tau` seconds, during which the thrusts u0 and u1 are constant.

**Action** `Box(-1, 1, (2,))`, float32: thrusts of the right and the left rotor, clipped to the limits:
u = (1 + action) * mass * gravity / 2. So (0, 0) carries the weight exactly, (-1, -1) is free fall, and (1, 1) twice the weight.

**Observation** `Box(6)`, float32:

| index | quantity | unit | ends the episode beyond |
|---|---|---|---|
| 0 | x, to the right | m | +-2 |
| 1 | z, upwards | m | +-2 |
| 2 | theta, counterclockwise from level | rad | +-pi (on its back) |
| 3, 4 | velocity in x and z | m/s | |
| 5 | angular velocity | rad/s | |

**Reward** -(x^2 + z^2 + theta^2 + 0.1 (x'^2 + z'^2) + 0.01 theta'^2 + 0.1 (a0^2 + a1^2)), of the state before the step and the
clipped action a; and -200 more for the step that ends the episode beyond a limit, so that to crash never pays.
**Start**: all six uniform in +-`spread` (m, rad, m/s, rad/s). **End**: terminated beyond the limits above; truncated after 500
steps (10 seconds). **Solved** at a mean return of -6.5, the baseline's but for the noise of 100 episodes: that takes a
policy as good as linear control.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| mass | 0.486 | kg |
| inertia | 0.00383 | kg m^2 |
| arm | 0.25 | from the centre to a rotor, m |
| gravity | 9.81 | m/s^2 |
| tau | 0.02 | seconds a step |
| spread | 0.5 | of the start; the baseline holds out to about 1, and far beyond the observation leaves its declared range |
| bound | 2.0 | m |

**References** (mean return, test split):

| policy | return | |
|---|---|---|
| random | -315.6 | crashes within a second |
| scripted | -6.05 | the linear-quadratic regulator of the linearised step, its actions clipped |
| "optimal" | -5.95 | what the regulator would earn with linear dynamics and unlimited thrust, -spread^2 / 3 * trace(P) |

The last is the optimum in the limit of small spreads (at 0.02 the baseline attains it to a thousandth); at larger ones it is an
approximation, not a bound. See `envs/reference/quadrotor.py`.

**Source**: Tedrake, "Underactuated Robotics", `underactuated/quadrotor2d.py`, whose parameters are those of Bouadi,
Bouchoucha, Tadjine, "Sliding mode control based on backstepping approach for an UAV type-quadrotor", 2007.
"""

import math

import numpy as np
from gymnasium.spaces import Box

from envs.engine import Reference, Sim, njit, params, state_dtype, uniform

State = state_dtype(
    x="real", z="real", theta="real", x_dot="real", z_dot="real", theta_dot="real", action=("real", (2,))
)
Params = params(mass=0.486, inertia=0.00383, arm=0.25, gravity=9.81, tau=0.02, spread=0.5, bound=2.0)
PI = math.pi
CRASH = 200.0

# The regulator's gain (envs/reference/quadrotor.py computes it, a test compares): the first rotor's row; by symmetry the
# other's is the same with the signs of x, theta and their rates turned.
GAIN = (-1.01319, 2.0317, 1.69262, -0.672522, 0.909391, 0.144169)


@njit
def clipped(x):
    return min(max(x, -1.0), 1.0)


@njit
def take(s, action):
    """Clip an action, and keep it in the state's own precision."""
    s.action[0], s.action[1] = clipped(action[0]), clipped(action[1])


@njit
def fly(s, p):
    """Advance the state by one step. What turns it is constant over the step, so that theta moves along a parabola, which
    Runge-Kutta follows exactly; of the rest, its four stages see nothing but their angles."""
    h = p.tau
    half_weight = 0.5 * p.mass * p.gravity
    lift = (2.0 + (s.action[0] + s.action[1])) * half_weight / p.mass
    turn = p.arm * half_weight * (s.action[0] - s.action[1]) / p.inertia

    second = s.theta + 0.5 * h * s.theta_dot
    third = second + 0.25 * (h * h) * turn
    last = s.theta + h * s.theta_dot + 0.5 * (h * h) * turn
    x1, z1 = -lift * math.sin(s.theta), lift * math.cos(s.theta) - p.gravity
    x2, z2 = -lift * math.sin(second), lift * math.cos(second) - p.gravity
    x3, z3 = -lift * math.sin(third), lift * math.cos(third) - p.gravity
    x4, z4 = -lift * math.sin(last), lift * math.cos(last) - p.gravity

    s.x += h * s.x_dot + h * h / 6.0 * (x1 + x2 + x3)
    s.z += h * s.z_dot + h * h / 6.0 * (z1 + z2 + z3)
    s.x_dot += h / 6.0 * (x1 + 2.0 * (x2 + x3) + x4)
    s.z_dot += h / 6.0 * (z1 + 2.0 * (z2 + z3) + z4)
    s.theta += h * s.theta_dot + 0.5 * (h * h) * turn
    s.theta_dot += h * turn


@njit
def regulate(action, x, z, theta, x_dot, z_dot, theta_dot):
    """The regulator's action for these deviations from a hover, clipped."""
    turn = GAIN[0] * x + GAIN[2] * theta + GAIN[3] * x_dot + GAIN[5] * theta_dot
    lift = GAIN[1] * z + GAIN[4] * z_dot
    action[0] = clipped(-lift - turn)
    action[1] = clipped(-lift + turn)


@njit
def reset(s, p):
    s.x = uniform(s, -p.spread, p.spread)
    s.z = uniform(s, -p.spread, p.spread)
    s.theta = uniform(s, -p.spread, p.spread)
    s.x_dot = uniform(s, -p.spread, p.spread)
    s.z_dot = uniform(s, -p.spread, p.spread)
    s.theta_dot = uniform(s, -p.spread, p.spread)


@njit
def step(s, p, action):
    take(s, action)
    cost = s.x * s.x + s.z * s.z + s.theta * s.theta
    cost += 0.1 * (s.x_dot * s.x_dot + s.z_dot * s.z_dot) + 0.01 * (s.theta_dot * s.theta_dot)
    cost += 0.1 * (s.action[0] * s.action[0] + s.action[1] * s.action[1])
    fly(s, p)
    crashed = (abs(s.x) > p.bound) | (abs(s.z) > p.bound) | (abs(s.theta) > PI)
    return (-cost - CRASH if crashed else -cost), crashed


@njit
def observe(s, p, obs):
    obs[0] = s.x
    obs[1] = s.z
    obs[2] = s.theta
    obs[3] = s.x_dot
    obs[4] = s.z_dot
    obs[5] = s.theta_dot


@njit
def scripted(s, p, action):
    regulate(action, s.x, s.z, s.theta, s.x_dot, s.z_dot, s.theta_dot)


def draw(s, p, canvas):
    b = 1.1 * p.bound
    canvas.view(-b, b, -b, b)
    canvas.rectangle(-p.bound, -p.bound, p.bound, p.bound, color="shade")
    for k in range(-1, 2):
        canvas.line(-p.bound, k, p.bound, k, color="mist", width=0.01)
        canvas.line(k, -p.bound, k, p.bound, color="mist", width=0.01)
    canvas.arc(0.0, 0.0, 0.12, 0.0, 2 * math.pi, color="leaf", width=0.03)
    canvas.disc(0.0, 0.0, 0.03, color="leaf")
    draw_quadrotor(s, p, canvas)


def draw_quadrotor(s, p, canvas):
    """Body, rotors, and under each rotor a flame as long as its thrust."""
    cos, sin = math.cos(s.theta), math.sin(s.theta)

    def at(right, up):
        return s.x + right * cos - up * sin, s.z + right * sin + up * cos

    for side, thrust in ((1, 1 + s.action[0]), (-1, 1 + s.action[1])):
        centre = side * p.arm
        if thrust > 0.02:
            tip = at(centre, -0.04 - 0.22 * thrust)
            canvas.polygon([at(centre - 0.05, -0.04), at(centre + 0.05, -0.04), tip], color="yellow")
        canvas.line(*at(centre, 0.0), *at(centre, 0.09), color="grey", width=0.03)
        canvas.line(*at(centre - 0.15, 0.09), *at(centre + 0.15, 0.09), color="blue", width=0.035)
    canvas.line(*at(-p.arm, 0.0), *at(p.arm, 0.0), color="ink", width=0.07)
    canvas.disc(s.x, s.z, 0.08, color="orange")


# Beyond the bounds, as far as one step carries; speeds as full thrust builds them up from one bound to the other (from
# rest 12.5, 15.3 and 62 in x, z and theta), with something to spare.
LIMITS = np.array([2.5, 2.5, 5.0, 20.0, 20.0, 80.0], np.float32)

SIM = Sim(
    name="Quadrotor",
    version=0,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    references={
        "random": Reference(-315.63, 0.61, "uniform actions, 10,000 episodes"),
        "scripted": Reference(-6.050, 0.037, "linear-quadratic regulator, clipped, 10,000 episodes"),
        "optimal": Reference(-5.950, 0.0, "linear-quadratic optimum of the linearised dynamics, not a bound: E[x'Px]"),
    },
    observation_space=Box(-LIMITS, LIMITS, dtype=np.float32),
    action_space=Box(-1.0, 1.0, (2,), np.float32),
    max_episode_steps=500,
    reward_threshold=-6.5,
    frame_rate=50,
)
