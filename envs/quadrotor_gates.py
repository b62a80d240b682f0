"""QuadrotorGates: fly a planar quadrotor through ten gates never seen before.

The dynamics are Quadrotor's (`envs/quadrotor.py`). A level is a row of gates, walls with one opening each: positions, heights
and sizes are a function of the level id alone, so a split of level ids is a split of courses.

**Action** `Box(-1, 1, (2,))`, float32: thrusts of the right and the left rotor, as in Quadrotor; (0, 0) carries the weight.

**Observation** `Box(11)`, float32:

| index | quantity | unit | ends the episode beyond |
|---|---|---|---|
| 0 | z, height above the middle of the course | m | +-3 |
| 1 | theta, counterclockwise from level | rad | +-pi (on its back) |
| 2, 3 | velocity in x and z | m/s | |
| 4 | angular velocity | rad/s | |
| 5, 6, 7 | next gate: distance in x, height of its middle above the quadrotor, half of its opening | m | |
| 8, 9, 10 | the gate after that, likewise (behind the last gate: an opening like it, 3 m on) | m | |

**Reward** progress, in gates: a course of ten gates is worth 10 in all, and the way from one gate's wall to the next counts
by the metre; 1 less for the step in which it crashes. **Start**: level, at rest, at the origin; the first gate is 2 to 3 m to
the right. **End**: terminated behind the last gate; or by a crash: into a wall (where the centre passes through it outside the
opening), beyond the limits above, back through a gate, or more than 2 m left of the start; truncated after 500 steps (10
seconds). **Solved** at a mean return of 9.9 on test levels: more than the baseline, which never crashes but brakes where gates
lie high and low, and does not always finish.

**Levels**: yes. Walls are 2 to 3 m apart, openings 0.7 to 1.1 m high, their middles in +-2 m, and from one to the next at most
0.7 m up or down for each metre.

**Parameters** (`env.params.*`): mass, inertia, arm, gravity, tau: Quadrotor's.

**References** (mean return, test split):

| policy | return | |
|---|---|---|
| random | -0.989 | crashes within a second |
| scripted | 9.76 | Quadrotor's regulator, at the height of the next gate and as fast as that allows |
| optimal | 10 | a bound, attained by whoever passes all gates |

**Source**: dynamics of `envs/quadrotor.py`; the course is this project's own.
"""

import math

import numpy as np
from gymnasium.spaces import Box

from envs.engine import Reference, Sim, njit, params, seed_by_level, state_dtype, uniform
from envs.quadrotor import PI, draw_quadrotor, fly, regulate, take
from envs.quadrotor import Params as QuadrotorParams

GATES = 10
HEIGHT = 3.0  # of the course, up and down
BACK = 2.0  # how far left of the start it may go
STEEPEST = 0.7  # metres up or down for each metre to the right, between the middles of two openings

# The gate numbered GATES is the one observed beyond the last.
State = state_dtype(
    x="real",
    z="real",
    theta="real",
    x_dot="real",
    z_dot="real",
    theta_dot="real",
    action=("real", (2,)),
    gate_x=("real", (GATES + 1,)),
    gate_z=("real", (GATES + 1,)),
    opening=("real", (GATES + 1,)),  # half of it
    passed="i4",  # gates
)
Params = params(**{name: QuadrotorParams.defaults[name] for name in ("mass", "inertia", "arm", "gravity", "tau")})


@njit
def reset(s, p):
    seed_by_level(s)
    x, z = 0.0, 0.0
    for k in range(GATES):
        apart = uniform(s, 2.0, 3.0)
        rise = STEEPEST * apart
        x += apart
        z = uniform(s, max(z - rise, -2.0), min(z + rise, 2.0))
        s.gate_x[k], s.gate_z[k], s.opening[k] = x, z, uniform(s, 0.35, 0.55)
    s.gate_x[GATES], s.gate_z[GATES], s.opening[GATES] = x + 3.0, z, s.opening[GATES - 1]


@njit
def way_from_last_wall(s):
    """How far the quadrotor has come from the wall behind it (at first, from the start) to the next one, as a share."""
    k = s.passed
    start = 0.0
    if k > 0:
        start = s.gate_x[k - 1]
    return (s.x - start) / (s.gate_x[k] - start)


@njit
def step(s, p, action):
    before = way_from_last_wall(s)
    x, z = s.x, s.z
    take(s, action)
    fly(s, p)
    crashed = (abs(s.z) > HEIGHT) | (abs(s.theta) > PI) | (s.x < -BACK)
    gate = s.gate_x[s.passed]
    if s.x >= gate:  # a wall is farther from the next than a step can lead
        height = z + (s.z - z) * (gate - x) / (s.x - x)
        if abs(height - s.gate_z[s.passed]) > s.opening[s.passed]:
            return -before, True  # no more than up to the wall, which is worth 1 - before, and 1 less
        s.passed = min(s.passed + 1, GATES)
        if s.passed == GATES:
            return 1.0 - before, True
        return 1.0 - before + way_from_last_wall(s) - (1.0 if crashed else 0.0), crashed
    if s.passed > 0 and s.x < s.gate_x[s.passed - 1]:  # back through a gate, which closes behind the quadrotor
        crashed = True
    return way_from_last_wall(s) - before - (1.0 if crashed else 0.0), crashed


@njit
def observe(s, p, obs):
    obs[0] = s.z
    obs[1] = s.theta
    obs[2] = s.x_dot
    obs[3] = s.z_dot
    obs[4] = s.theta_dot
    for ahead in range(2):
        k = min(s.passed + ahead, GATES)
        obs[5 + 3 * ahead] = s.gate_x[k] - s.x
        obs[6 + 3 * ahead] = s.gate_z[k] - s.z
        obs[7 + 3 * ahead] = s.opening[k]


@njit
def valid(s, p):
    """Whether a next gate exists, and the walls stand one behind the other."""
    for k in range(GATES):
        if not s.gate_x[k] < s.gate_x[k + 1]:
            return False
    return 0 <= s.passed <= GATES and s.gate_x[0] > 0.0


@njit
def scripted(s, p, action):
    k = min(int(s.passed), GATES - 1)
    rise = s.gate_z[k] - s.z
    speed = min(max(3.0 - 2.0 * max(abs(rise) - 0.2, 0.0), 0.6), 3.0)  # slower where there is height to be won or lost
    regulate(action, 0.0, -min(max(rise, -1.0), 1.0), s.theta, s.x_dot - speed, s.z_dot, s.theta_dot)


def draw(s, p, canvas):
    canvas.view(s.x - 2.5, s.x + 4.5, -3.5, 3.5)
    left, right = float(s.x) - 3.0, float(s.x) + 5.0
    canvas.rectangle(left, -HEIGHT, right, HEIGHT, color="shade")
    for x in range(math.floor(left), math.ceil(right) + 1):
        canvas.line(x, -HEIGHT, x, HEIGHT, color="mist", width=0.01)
    canvas.rectangle(left, -4.0, right, -HEIGHT, color="grey")
    canvas.rectangle(left, HEIGHT, right, 4.0, color="grey")
    for k in range(GATES):
        x, low, high = s.gate_x[k], s.gate_z[k] - s.opening[k], s.gate_z[k] + s.opening[k]
        color = "mist" if k < s.passed else "ink"
        canvas.rectangle(x - 0.05, -HEIGHT, x + 0.05, low, color=color)
        canvas.rectangle(x - 0.05, high, x + 0.05, HEIGHT, color=color)
        for z in (low, high):
            canvas.disc(x, z, 0.09, color="leaf" if k < s.passed else "red")
        canvas.text(x, HEIGHT + 0.25, str(k + 1), 0.3, color="white")
    draw_quadrotor(s, p, canvas)


LIMITS = np.array([4.0, 5.0, 30.0, 25.0, 80.0, 6.0, 6.0, 1.0, 9.0, 8.0, 1.0], np.float32)

SIM = Sim(
    name="QuadrotorGates",
    version=0,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    valid=valid,
    scripted=scripted,
    references={
        "random": Reference(-0.9885, 0.0046, "uniform actions, 10,000 episodes"),
        "scripted": Reference(9.7590, 0.0035, "regulator that follows the gates, 10,000 episodes"),
        "optimal": Reference(10.0, 0.0, "a bound: all gates passed"),
    },
    observation_space=Box(-LIMITS, LIMITS, dtype=np.float32),
    action_space=Box(-1.0, 1.0, (2,), np.float32),
    max_episode_steps=500,
    reward_threshold=9.9,
    levels=True,
    frame_rate=50,
)
