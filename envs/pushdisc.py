"""PushDisc: push a disc to a target with one finger.

Finger and disc are round, on a table. The finger moves as it is told; the disc moves only where it is pushed (quasi-static:
friction with the table stops it at once), and, as there is no friction between the two, along the line from the finger's middle
to its own. A step has an exact solution: the finger runs straight to where it touches the disc; while it pushes, with phi the
angle from its course to the disc,

    tan(phi / 2) grows by the factor exp(way / (FINGER + DISC)),

until phi is 90 degrees, where the disc is left behind. So a disc that is pushed off its middle slips away to the side.

**Action** `Box(-1, 1, (2,))`, float32: the finger's velocity along the line from the disc to the target, and across it, to the
left; times `speed`; a vector longer than 1 is shortened to 1. A step is 0.05 s.

**Observation** `Box(10)`, float32, in m:

| index | quantity | range |
|---|---|---|
| 0, 1 | from the disc to the finger, along that line and across it | [-3, 3] |
| 2 | distance of the two | [0, 3] |
| 3 | distance from the disc to the target | [0, 2.6] |
| 4, 5 | the line's direction in x and y, of length 1 | [-1, 1] |
| 6, 7 | finger x, y | [-1, 1] |
| 8, 9 | disc x, y | [-1.1, 1.1] |

**Reward** 10 for each metre by which the disc comes nearer to the target, 1 for each by which the finger comes nearer to the
disc (both are given back when the distance grows), -0.05 for each step; 10 for success, the disc within 0.03 m of the target;
-10 for a disc whose middle is more than 1 m from the table's in x or y. **Start**: disc and target uniform in +-0.7 m, at least
0.2 m apart; the finger uniform in +-1 m, at least 0.2 m from the disc. **End**: terminated by success, or by a disc off the
table; truncated after 200 steps (10 seconds). The finger stays on the table, +-1 m. **Solved** at a mean return of 16.5, the
baseline's, which always succeeds.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| speed | 1.0 | of the finger, m/s, at most |

**References** (mean return, test split):

| policy | return | |
|---|---|---|
| random | -10.0 | the cost of 200 steps |
| scripted | 16.60 | goes round the disc to the side away from the target, and pushes |
| optimal | 16.89 | a bound: as if the finger began behind the disc, on the line to the target; see `envs/reference/pushdisc.py` |

**Source**: quasi-static pushing after Mason, "Mechanics and planning of manipulator pushing operations", 1986, for a contact
without friction; the task is this project's own.
"""

import math

import numpy as np
from gymnasium.spaces import Box

from envs.engine import Reference, Sim, njit, params, state_dtype, uniform

FINGER, DISC = 0.03, 0.1  # radii, m
REACH = FINGER + DISC  # of the finger's middle from the disc's, where they touch
DT = 0.05
TABLE, PLACES = 1.0, 0.7  # half the table; half the square where disc and target begin
CLOSE = 0.03  # m, success
CLEAR = 0.2  # m, at the start
TRIES = 64
PER_METRE, NEARER, STEP_COST, PRIZE = 10.0, 1.0, 0.05, 10.0
PI = math.pi

State = state_dtype(
    finger_x="real",
    finger_y="real",
    disc_x="real",
    disc_y="real",
    target_x="real",
    target_y="real",
    action=("real", (2,)),
)
Params = params(speed=1.0)


@njit
def length(x, y):
    return math.sqrt(x * x + y * y)


@njit
def way_to_contact(s, course_x, course_y, way):
    """How far the finger comes along its course (a unit vector) before it touches the disc; `way` if it does not."""
    to_x, to_y = s.disc_x - s.finger_x, s.disc_y - s.finger_y
    along = to_x * course_x + to_y * course_y
    aside = to_x * course_y - to_y * course_x
    if along <= 0.0 or abs(aside) >= REACH:
        return way
    return min(max(along - math.sqrt(REACH * REACH - aside * aside), 0.0), way)


@njit
def push(s, course_x, course_y, way):
    """Move the finger, which touches the disc, so far along its course, and the disc before it."""
    to_x, to_y = s.disc_x - s.finger_x, s.disc_y - s.finger_y
    along, aside = to_x * course_x + to_y * course_y, course_x * to_y - course_y * to_x
    s.finger_x += way * course_x
    s.finger_y += way * course_y
    half = abs(aside) / (length(to_x, to_y) + along)  # tan(phi / 2)
    last = half * math.exp(way / REACH)
    if along <= 0.0 or half >= 1.0:
        return
    if last < 1.0:
        # sine and cosine of phi, from the tangent of its half
        sine, cosine = 2.0 * last / (1.0 + last * last), (1.0 - last * last) / (1.0 + last * last)
        if aside < 0.0:
            sine = -sine
        s.disc_x = s.finger_x + REACH * (cosine * course_x - sine * course_y)
        s.disc_y = s.finger_y + REACH * (cosine * course_y + sine * course_x)
        return
    # It is left behind: where the finger was when phi came to be 90 degrees, and REACH to the side of that.
    back = way - REACH * math.log(1.0 / half)
    side = REACH if aside > 0.0 else -REACH
    s.disc_x = s.finger_x - back * course_x - side * course_y
    s.disc_y = s.finger_y - back * course_y + side * course_x


@njit
def move(s, course_x, course_y, way):
    """Move the finger along a unit vector, and the disc where it is in the way."""
    free = way_to_contact(s, course_x, course_y, way)
    s.finger_x += free * course_x
    s.finger_y += free * course_y
    if free < way:
        push(s, course_x, course_y, way - free)


@njit
def value(s):
    """What the reward's two distances are worth."""
    disc = length(s.target_x - s.disc_x, s.target_y - s.disc_y)
    return -PER_METRE * disc - NEARER * length(s.disc_x - s.finger_x, s.disc_y - s.finger_y)


@njit
def line(s):
    """The line from the disc to the target: its direction in x and y, and its length."""
    x, y = s.target_x - s.disc_x, s.target_y - s.disc_y
    far = max(length(x, y), 1e-6)
    return x / far, y / far, far


@njit
def reset(s, p):
    s.disc_x, s.disc_y = uniform(s, -PLACES, PLACES), uniform(s, -PLACES, PLACES)
    s.target_x, s.target_y = -s.disc_x, -s.disc_y
    for _ in range(TRIES):
        s.target_x, s.target_y = uniform(s, -PLACES, PLACES), uniform(s, -PLACES, PLACES)
        if length(s.target_x - s.disc_x, s.target_y - s.disc_y) >= CLEAR:
            break
    for _ in range(TRIES):
        s.finger_x, s.finger_y = uniform(s, -TABLE, TABLE), uniform(s, -TABLE, TABLE)
        if length(s.finger_x - s.disc_x, s.finger_y - s.disc_y) >= CLEAR:
            break


@njit
def step(s, p, action):
    before = value(s)
    x, y, _ = line(s)
    s.action[0], s.action[1] = action[0] * x - action[1] * y, action[0] * y + action[1] * x
    # The finger stops at the table's edge, in each direction by itself; what is left of the step is its way.
    across = length(s.action[0], s.action[1])
    most = p.speed * DT / max(across, 1.0)
    way_x = min(max(s.finger_x + most * s.action[0], -TABLE), TABLE) - s.finger_x
    way_y = min(max(s.finger_y + most * s.action[1], -TABLE), TABLE) - s.finger_y
    way = length(way_x, way_y)
    if way > 1e-9:
        move(s, way_x / way, way_y / way, way)
    reward = value(s) - before - STEP_COST
    if length(s.target_x - s.disc_x, s.target_y - s.disc_y) < CLOSE:
        return reward + PRIZE, True
    if abs(s.disc_x) > TABLE or abs(s.disc_y) > TABLE:
        return reward - PRIZE, True
    return reward, False


@njit
def observe(s, p, obs):
    x, y, far = line(s)
    back_x, back_y = s.finger_x - s.disc_x, s.finger_y - s.disc_y
    obs[0] = back_x * x + back_y * y
    obs[1] = back_y * x - back_x * y
    obs[2] = length(back_x, back_y)
    obs[3] = far
    obs[4], obs[5] = x, y
    obs[6], obs[7] = s.finger_x, s.finger_y
    obs[8], obs[9] = s.disc_x, s.disc_y


@njit
def scripted(s, p, action):
    """Go round the disc to the side away from the target, then push through its middle."""
    x, y, far = line(s)
    back_x, back_y = s.finger_x - s.disc_x, s.finger_y - s.disc_y  # from the disc to the finger
    near = max(length(back_x, back_y), 1e-6)
    behind = -(back_x * x + back_y * y) / near  # cosine of the angle at the disc between the finger and the push
    left = (back_y * x - back_x * y) / near  # and its sine, positive to the left of the push
    if behind > 0.8:
        # Off the line to the target it aims across it, so that the disc, which slips away to the other side, is caught.
        along, across = 1.0, -3.0 * left
        slow = min(far / (p.speed * DT), 1.0)
    else:
        # Along the circle with some room about the disc, by the shorter way, and onto it where the finger is off it.
        side = 1.0 if left < 0.0 else -1.0
        out = 12.0 * (near - 0.14)
        along, across = side * left + out * behind, side * behind - out * left
        slow = 1.0
    size = max(length(along, across), 1e-6)
    action[0], action[1] = slow * along / size, slow * across / size


def draw(s, p, canvas):
    canvas.view(-1.15, 1.15, -1.15, 1.15)
    canvas.rectangle(-TABLE - 0.1, -TABLE - 0.1, TABLE + 0.1, TABLE + 0.1, color="mist")
    canvas.rectangle(-TABLE, -TABLE, TABLE, TABLE, color="shade")
    canvas.disc(s.target_x, s.target_y, DISC, color="paper")
    canvas.arc(s.target_x, s.target_y, DISC, 0.0, 2 * math.pi, color="leaf", width=0.015)
    canvas.disc(s.target_x, s.target_y, CLOSE, color="leaf")
    canvas.line(s.disc_x, s.disc_y, s.target_x, s.target_y, color="mist", width=0.008)
    canvas.disc(s.disc_x, s.disc_y, DISC, color="orange")
    canvas.disc(s.disc_x, s.disc_y, 0.8 * DISC, color="yellow")
    canvas.disc(s.finger_x, s.finger_y, FINGER, color="ink")
    canvas.disc(s.finger_x, s.finger_y, 0.6 * FINGER, color="blue")


LOW = np.array([-3, -3, 0, 0, -1, -1, -1, -1, -1.1, -1.1], np.float32)
HIGH = np.array([3, 3, 3, 2.6, 1, 1, 1, 1, 1.1, 1.1], np.float32)

SIM = Sim(
    name="PushDisc",
    version=1,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    references={
        "random": Reference(-10.007, 0.005, "uniform actions, 10,000 episodes"),
        "scripted": Reference(16.597, 0.029, "round the disc, then push, 10,000 episodes"),
        "optimal": Reference(16.888, 0.003, "a bound: straight ways at full speed, 1,000,000 starts"),
    },
    observation_space=Box(LOW, HIGH, dtype=np.float32),
    action_space=Box(-1.0, 1.0, (2,), np.float32),
    max_episode_steps=200,
    reward_threshold=16.5,
    frame_rate=20,
)
