"""Highway: drive fast among slower cars, and hit none of them.

Four lanes, closed to a ring of 600 m, with twenty other cars that keep their lanes and follow the intelligent driver model (IDM).
The car that is driven, its controllers and all their constants are HighwayEnv's, with 15 m/s as one more target speed; so is the
IDM, but for its gap, which is the published one. Followers see this car from 3 m beside the middle of their lane on. An action is
taken every second, 15 Euler steps of the world. The acceleration of a car is

    3 (1 - (v / v0)^4 - (gap / d)^2)  in +-6 m/s^2,      gap = 10 + max(0, 1.5 v + v (v - v_ahead) / (2 sqrt(15)))

with v0 its desired speed, d the distance (of the middles) to the car ahead and v_ahead that car's speed.

**Action** `Discrete(5)`: 0 to the next lane on the left, 1 nothing, 2 to the next lane on the right, 3 faster, 4 slower: of
the target speeds 15, 20, 25, 30 m/s the one above or below that nearest to the present speed. Beyond the last lane or speed:
nothing.

**Observation** `Box(23)`, float32:

| index | quantity | range |
|---|---|---|
| 0 | position across the road / 12 m, 0 is the middle of the lane farthest left | [-0.2, 1.2] |
| 1 | speed / 40 | [0, 1] |
| 2 | heading, rad, positive is to the right | [-0.8, 0.8] |
| 3 | lane that the car steers for / 3 | [0, 1] |
| 4 | index of the target speed / 3 | [0, 1] |
| 5 + 3 k | distance along the road to the k-th nearest car (k = 0 to 5) / 100 m, ahead is positive | [-3, 3] |
| 6 + 3 k | its position across the road relative to this car / 12 m | [-1.2, 1.2] |
| 7 + 3 k | its speed relative to this car / 30 | [-1, 1] |

**Reward** (forward speed - 20) / 10 in [0, 1], and 10 less for a collision (rectangles of 5 m x 2 m along the road touch).
**Start**: at 25 m/s in a lane drawn at random, the nearest cars at least 20 m away; desired speeds uniform in
[`slowest`, `fastest`]. **End**: terminated by a collision; truncated after 40 steps (40 seconds). **Solved** at a mean return of
25, which is more than the baseline's.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| slowest | 18.0 | desired speed of the other cars, at least, m/s |
| fastest | 24.0 | and at most; far beyond, the observation leaves its declared range, and all need to move |

**References** (mean return, test split):

| policy | return | |
|---|---|---|
| random | -2.14 | most collide |
| scripted | 24.46 | changes to where the IDM, with a time gap of 0.3 s, would accelerate most (MOBIL without politeness) |
| optimal | 39.90 | a bound: on an empty road; see `envs/reference/highway.py` |

**Speed**: a step moves 21 cars 15 times, each behind another: 260 times the flops of a step of CartPole.

**Source**: Leurent, "An environment for autonomous driving decision-making" (HighwayEnv), 2018, `vehicle/controller.py` and
`vehicle/behavior.py`; Treiber, Hennecke, Helbing, "Congested traffic states in empirical observations and microscopic
simulations", 2000 (IDM); Kesting, Treiber, Helbing, "General lane-changing model MOBIL for car-following models", 2007.
"""

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Reference, Sim, njit, params, randint, state_dtype, uniform

LANES, LANE_WIDTH = 4, 4.0
PER_LANE = 5
CARS = LANES * PER_LANE
RING = 600.0
SLOT = 120.0  # RING / PER_LANE
DT, SUBSTEPS = 1.0 / 15.0, 15
LENGTH, WIDTH = 5.0, 2.0
LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
SPEEDS, LOWEST_SPEED, SPEED_STEP = 4, 15.0, 5.0  # target speeds
SEEN = 6  # cars in the observation
NOBODY = -1

# HighwayEnv's constants of the IDM and of the controllers
COMFORT, COMFORT_BRAKING, HARDEST = 3.0, 5.0, 6.0  # m/s^2
STANDSTILL, TIME_GAP = 10.0, 1.5  # m, s
OWN_TIME_GAP = 0.3  # s, the baseline's, which is in more of a hurry
PER_SPEED, PER_HEADING, PER_OFFSET = 1.0 / 0.6, 5.0, 1.0 / 0.6  # gains, 1/s
STEEPEST = math.pi / 4.0  # heading
STEEPEST_TANGENT = 0.5 * math.tan(math.pi / 3.0)  # of the slip angle, at the greatest steering angle
STEEPEST_SINE = STEEPEST_TANGENT / math.sqrt(1.0 + STEEPEST_TANGENT * STEEPEST_TANGENT)
IN_LANE = 3.0  # m from a lane's middle: near enough to be followed there
SAFE_BRAKING, WORTHWHILE = 6.0, 0.2  # the baseline's: what may be imposed on a follower, what must be gained (m/s^2)
PER_TWO_ROOT_AB = 0.5 / math.sqrt(COMFORT * COMFORT_BRAKING)

# Cars of a lane stand behind each other in the order of their numbers, and stay so: lane k has 5 k to 5 k + 4.
State = state_dtype(
    x="real",
    y="real",  # to the right of the middle of lane 0
    heading="real",
    speed="real",
    target_lane="i4",
    target_speed="i4",  # index
    car_x=("real", (CARS,)),
    car_speed=("real", (CARS,)),
    desired=("real", (CARS,)),
    car_acceleration=("real", (CARS,)),  # of the substep under way
)
Params = params(slowest=18.0, fastest=24.0)


@njit
def unknown(s, n):
    """n, though the compiler cannot tell: it makes vectors of a loop of unknown length, and of a known one n scalar copies."""
    return min(n, n + s.elapsed)


@njit
def ahead(x, other):
    """How far ahead `other` is on the ring, in [0, RING)."""
    distance = other - x
    return distance + RING if distance < 0.0 else distance


@njit
def offset(x, other):
    """The same, but what is nearer behind is negative: in [-RING / 2, RING / 2)."""
    distance = ahead(x, other)
    return distance - RING if distance >= 0.5 * RING else distance


@njit
def lane_y(lane):
    y = 0.0
    for _ in range(lane):
        y += LANE_WIDTH
    return y


@njit
def follow(speed, desired, distance, speed_ahead, time_gap):
    """The IDM's acceleration behind a car so far ahead."""
    gap = STANDSTILL + max(time_gap * speed + speed * (speed - speed_ahead) * PER_TWO_ROOT_AB, 0.0)
    share, crowd = speed / desired, gap / max(distance, 0.01)
    return min(max(COMFORT * (1.0 - share * share * share * share - crowd * crowd), -HARDEST), HARDEST)


@njit
def front(s, lane, x):
    """The car of a lane that is next ahead of x."""
    found, nearest = NOBODY, 2.0 * RING
    for k in range(PER_LANE * lane, PER_LANE * (lane + 1)):
        distance = ahead(x, s.car_x[k])
        if distance < nearest:
            found, nearest = k, distance
    return found


@njit
def follow_car(s, k, leader):
    distance = ahead(s.car_x[k], s.car_x[leader])
    s.car_acceleration[k] = follow(s.car_speed[k], s.desired[k], distance, s.car_speed[leader], TIME_GAP)


@njit
def accelerate_cars(s):
    for k in range(
        unknown(s, CARS - 1)
    ):  # as if all were one lane, so that many are worked out at once; then what is otherwise
        follow_car(s, k, k + 1)
    for lane in range(LANES):
        first, last = PER_LANE * lane, PER_LANE * lane + PER_LANE - 1
        follow_car(s, last, first)
        if abs(s.y - lane_y(lane)) <= IN_LANE:
            for k in range(first, last + 1):
                to_ego = ahead(s.car_x[k], s.x)
                if to_ego < ahead(s.car_x[k], s.car_x[k + 1 if k < last else first]):
                    own = s.speed * math.cos(s.heading)
                    s.car_acceleration[k] = follow(s.car_speed[k], s.desired[k], to_ego, own, TIME_GAP)


@njit
def limited(x, most):
    return min(max(x, -most), most)


@njit
def steer(s):
    """The tangent of the slip angle, half of the steering angle's, by HighwayEnv's steering for the middle of the target lane:
    offset -> speed across -> heading -> its rate -> sine of the slip angle."""
    speed = max(s.speed, 0.01)
    across = PER_OFFSET * (lane_y(s.target_lane) - s.y)
    heading = limited(math.asin(limited(across / speed, 1.0)), STEEPEST)
    rate = PER_HEADING * (heading - s.heading)
    sine = limited(0.5 * LENGTH / speed * rate, 1.0)
    if abs(sine) >= STEEPEST_SINE:
        return STEEPEST_TANGENT if sine > 0.0 else -STEEPEST_TANGENT
    return sine / math.sqrt(1.0 - sine * sine)


@njit
def real_index(index):
    """A small integer as a number of the env's own precision."""
    number = 0.0
    for _ in range(index):
        number += 1.0
    return number


@njit
def drive(s):
    """One Euler step of everybody."""
    accelerate_cars(s)
    slip = steer(s)
    cos_slip = 1.0 / math.sqrt(1.0 + slip * slip)
    sin_slip = slip * cos_slip
    cos, sin = math.cos(s.heading), math.sin(s.heading)
    acceleration = PER_SPEED * (LOWEST_SPEED + SPEED_STEP * real_index(s.target_speed) - s.speed)
    s.x += DT * s.speed * (cos * cos_slip - sin * sin_slip)
    s.y += DT * s.speed * (sin * cos_slip + cos * sin_slip)
    s.heading += DT * s.speed * sin_slip / (0.5 * LENGTH)
    s.speed += DT * acceleration
    if s.x >= RING:
        s.x -= RING
    for k in range(unknown(s, CARS)):
        x = s.car_x[k] + DT * s.car_speed[k]
        s.car_x[k] = x - RING if x >= RING else x
        s.car_speed[k] = max(s.car_speed[k] + DT * s.car_acceleration[k], 0.0)


@njit
def has_collided(s):
    for lane in range(LANES):
        if abs(s.y - lane_y(lane)) < WIDTH:
            for k in range(PER_LANE * lane, PER_LANE * (lane + 1)):
                if abs(offset(s.x, s.car_x[k])) < LENGTH:
                    return True
    return False


@njit
def reset(s, p):
    for lane in range(LANES):
        slot = 0.0
        for j in range(PER_LANE):
            k = PER_LANE * lane + j
            s.car_x[k] = slot + uniform(s, 20.0, 100.0)
            s.desired[k] = uniform(s, p.slowest, p.fastest)
            s.car_speed[k] = s.desired[k]
            slot += SLOT
    s.target_lane = randint(s, LANES)
    s.y = lane_y(s.target_lane)
    s.speed = 25.0
    s.target_speed = 2


@njit
def step(s, p, action):
    if action == LEFT:
        s.target_lane = max(s.target_lane - 1, 0)
    elif action == RIGHT:
        s.target_lane = min(s.target_lane + 1, LANES - 1)
    elif action >= FASTER:
        nearest = math.floor((s.speed - LOWEST_SPEED) / SPEED_STEP + 0.5)
        s.target_speed = min(max(nearest + (1 if action == FASTER else -1), 0), SPEEDS - 1)
    crashed = False
    for _ in range(SUBSTEPS):
        if not crashed:
            drive(s)
            crashed = has_collided(s)
    reward = min(max(0.1 * (s.speed * math.cos(s.heading) - 20.0), 0.0), 1.0)
    return (reward - 10.0 if crashed else reward), crashed


@njit
def observe(s, p, obs):
    obs[0] = s.y / 12.0
    obs[1] = s.speed / 40.0
    obs[2] = s.heading
    obs[3] = s.target_lane / 3.0
    obs[4] = s.target_speed / 3.0
    for k in range(CARS):  # the nearest so far, in the order of distance, then of number, stand in obs
        distance, row = abs(offset(s.x, s.car_x[k])), min(k, SEEN)
        while row > 0 and distance < abs(offset(s.x, s.car_x[int(obs[2 + 3 * row])])):
            if row < SEEN:
                obs[5 + 3 * row] = obs[2 + 3 * row]
            row -= 1
        if row < SEEN:
            obs[5 + 3 * row] = k
    for row in range(SEEN):
        found = int(obs[5 + 3 * row])
        obs[5 + 3 * row] = offset(s.x, s.car_x[found]) / 100.0
        obs[6 + 3 * row] = (lane_y(found // PER_LANE) - s.y) / 12.0
        obs[7 + 3 * row] = (s.car_speed[found] - s.speed) / 30.0


@njit
def valid(s, p):
    """Whether the target lane and speed exist, and the cars of each lane stand on the ring in their order."""
    if not (0 <= s.target_lane < LANES and 0 <= s.target_speed < SPEEDS and 0.0 <= s.x < RING):
        return False
    for lane in range(LANES):
        once_round = 0.0
        for j in range(PER_LANE):
            k = PER_LANE * lane + j
            if not (0.0 <= s.car_x[k] < RING):
                return False
            once_round += ahead(s.car_x[k], s.car_x[PER_LANE * lane + (j + 1) % PER_LANE])
        if abs(once_round - RING) > 1.0:
            return False
    return True


@njit
def own_acceleration(s, lane):
    """What the IDM would have this car do in a lane, with the highest target speed as its desire."""
    k = front(s, lane, s.x)
    return follow(s.speed, 30.0, ahead(s.x, s.car_x[k]), s.car_speed[k], OWN_TIME_GAP)


@njit
def is_safe(s, lane):
    """Whether a change to this lane leaves room: a car's length on both sides, and its follower need not brake hard (MOBIL)."""
    k = front(s, lane, s.x)
    follower = PER_LANE * lane + (k - PER_LANE * lane + PER_LANE - 1) % PER_LANE
    before, behind = ahead(s.x, s.car_x[k]), ahead(s.car_x[follower], s.x)
    if before < 2.0 * LENGTH or behind < 2.0 * LENGTH:
        return False
    return follow(s.car_speed[follower], s.desired[follower], behind, s.speed, TIME_GAP) > -SAFE_BRAKING


@njit
def scripted(s, p, action):
    """The lane in which the IDM would accelerate most (MOBIL without politeness), else the target speed that it asks for."""
    here = int(s.target_lane)
    own = own_acceleration(s, here)
    action[0] = IDLE
    if abs(s.y - lane_y(here)) < 0.5:  # not while changing
        best = own + WORTHWHILE
        for side in range(2):
            lane = here + 2 * side - 1
            if 0 <= lane < LANES and is_safe(s, lane):
                there = own_acceleration(s, lane)
                if there > best:
                    best = there
                    action[0] = RIGHT if side == 1 else LEFT
    if action[0] == IDLE:
        if own < -4.0:  # target speeds are coarse: it brakes when it must, and keeps on until then
            action[0] = SLOWER
        elif own > -3.0 and s.target_speed < SPEEDS - 1:
            action[0] = FASTER


def draw(s, p, canvas):
    left = float(s.x) - 25.0
    canvas.view(left, left + 80.0, -40.0, 40.0)
    canvas.rectangle(left, -40.0, left + 80.0, 40.0, color=GRASS)
    _draw_road(canvas, left, left + 80.0, 10.0, 1.0)
    for k in range(CARS):
        x = s.x + offset(s.x, s.car_x[k])
        color = "blue" if s.car_speed[k] > 20.0 else "purple"
        _draw_car(canvas, x, 10.0 - LANE_WIDTH * (k // PER_LANE), 0.0, color)
    _draw_car(canvas, s.x, 10.0 - s.y, -float(s.heading), "orange")
    # below, the whole ring, this car in the middle
    scale, middle = 78.0 / RING, left + 40.0
    _draw_road(canvas, left + 1.0, left + 79.0, -20.0, 0.5)
    for k in range(CARS):
        canvas.disc(middle + scale * offset(s.x, s.car_x[k]), -20.0 - 2.0 * (k // PER_LANE), 0.8, color="blue")
    canvas.disc(middle, -20.0 - 0.5 * s.y, 0.9, color="orange")
    canvas.text(left + 40.0, 26.0, f"{3.6 * s.speed:.0f} km/h", 6.0)


def _draw_road(canvas, left, right, top, scale):
    """Lane 0 is at height `top`."""
    canvas.rectangle(left, top - 14.0 * scale, right, top + 2.0 * scale, color="grey")
    for k in range(LANES + 1):
        y = top + scale * (2.0 - LANE_WIDTH * k)
        if k in (0, LANES):
            canvas.line(left, y, right, y, color="white", width=0.3 * scale)
        elif scale == 1.0:
            for x in range(math.floor(left / 10.0) * 10, math.ceil(right), 10):
                canvas.line(x, y, x + 4.0, y, color="white", width=0.2)


def _draw_car(canvas, x, y, angle, color):
    cos, sin = math.cos(angle), math.sin(angle)

    def box(back, front, half, color):
        corners = [(back, -half), (front, -half), (front, half), (back, half)]
        canvas.polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners], color=color)

    box(-2.5, 2.5, 1.0, color)
    box(-1.2, 0.8, 0.8, "ink")
    box(2.0, 2.4, 0.8, "yellow")


GRASS = (205, 220, 190)

LOW = np.array([-0.2, 0.0, -0.8, 0.0, 0.0] + [-3.0, -1.2, -1.0] * SEEN, np.float32)
HIGH = np.array([1.2, 1.0, 0.8, 1.0, 1.0] + [3.0, 1.2, 1.0] * SEEN, np.float32)

SIM = Sim(
    name="Highway",
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
        "random": Reference(-2.139, 0.058, "uniform actions, 10,000 episodes"),
        "scripted": Reference(24.464, 0.092, "IDM and MOBIL in a hurry, 10,000 episodes"),
        "optimal": Reference(39.897, 0.0, "a bound: an empty road"),
    },
    observation_space=Box(LOW, HIGH, dtype=np.float32),
    action_space=Discrete(5),
    max_episode_steps=40,
    reward_threshold=25.0,
    frame_rate=2,
)
