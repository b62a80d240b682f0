"""Racer: drive as far as possible in a minute, on a race track never seen before.

The car is HighwayEnv's, a kinematic bicycle, whose steering has been given a limit of grip. A level is a closed track, a
function of the level id alone, so a split of level ids is a split of tracks.

**Car**: position (x, y) in m, heading psi, speed v; with acceleration a and steering angle delta,

    beta = atan(tan(delta) / 2)       x' = v cos(psi + beta)       psi' = v sin(beta) / 2.5
    |v psi'| <= grip                  y' = v sin(psi + beta)       v' = a

by explicit Euler at 15 Hz, three steps for an action (5 Hz); v stays in [0, 40]. Where tyres could not hold the car, beta is no
more than they can hold: it then runs wide. The car is a point to the road's edges.

**Track**: the curve r(phi) = R (1 + sum of a_k cos(k phi + b_k), k = 2..6) about the origin, R from 60 to 110 m, driven either
way round, between walls 8 to 12 m apart; no curve is tighter than 15 m. 256 cross-sections stand at equal distances along it;
the road is the quadrilaterals between them.

**Action** `Box(-1, 1, (2,))`, float32, clipped to the limits: acceleration / (5 m/s^2), steering angle / 45 degrees, positive is
left.

**Observation** `Box(22)`, float32:

| index | quantity | range |
|---|---|---|
| 0 to 15 | distance to the wall / 60 m, at most 1, every 12 degrees from 90 right to 90 left of the heading | [0, 1] |
| 16 | speed / 40 | [0, 1] |
| 17 | offset from the centreline / half the width, positive is left | [-1, 1] |
| 18, 19 | sine and cosine of the heading against the road's | [-1, 1] |
| 20, 21 | 15 m / radius of the road 20 and 40 m ahead, positive is a left turn | [-1.5, 1.5] |

**Reward** metres of progress along the centreline / 10; 1 less for the step in which the car leaves the road. **Start**: on the
centreline, at 10 m/s. **End**: terminated off the road; truncated after 300 steps (one minute). **Solved** at a mean return of
121 on test levels, the fastest drive's along the centreline: more than the baseline's, so it takes a driver who cuts corners.

**Levels**: yes.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| grip | 8.0 | greatest lateral acceleration, m/s^2; 1e9 is HighwayEnv's car |

**References** (mean return, test split):

| policy | return | |
|---|---|---|
| random | 1.55 | goes astray within some seconds |
| scripted | 119.4 | pure pursuit of the centreline at 95 % of the grip |
| "optimal" | 121.0 | on the centreline, where no driver is faster; not a bound on one who leaves it |

See `envs/reference/racer.py`.

**Speed**: with uniform actions two thirds of the time go into new tracks: to lay one takes as long as 40 steps, and those
episodes have 15. Of the rest most goes into the 16 rays. Who stays on the road steps more than three times as fast.

**Source**: the car is Leurent, "An environment for autonomous driving decision-making" (HighwayEnv), 2018,
`vehicle/kinematics.py`, after Polack et al., "The kinematic bicycle model", 2017; pure pursuit is Coulter, 1992. Grip and
tracks are this project's own.
"""

import math

import numpy as np
from gymnasium.spaces import Box

from envs.engine import Reference, Sim, njit, params, randint, seed_by_level, state_dtype, uniform

SECTIONS = 256  # a power of two
WRAP = SECTIONS - 1
FINE = 1024  # points by which the curve's length is measured; a power of two
COSINES = np.array([math.cos(2.0 * math.pi * k / FINE) for k in range(FINE)])  # all that a track takes
SINES = np.array([math.sin(2.0 * math.pi * k / FINE) for k in range(FINE)])
HARMONICS = 5
RAYS = 16
MIN_RADIUS = 15.0
TRIES = 12  # of which each is rounder than the last; the last one is sure to be round enough
DT = 1.0 / 15.0
SUBSTEPS = 3
HALF_LENGTH = 2.5  # of the car
MAX_SPEED, MAX_ACCELERATION = 40.0, 5.0
SIGHT = 60.0
PI = math.pi
TURN = 2.0 * math.pi
TURN_64 = np.float64(2.0 * math.pi)  # not a Python float: stays float64 where literals do not
RAY_COS = tuple(math.cos(math.pi * (k / 15.0 - 0.5)) for k in range(RAYS))  # against the heading
RAY_SIN = tuple(math.sin(math.pi * (k / 15.0 - 0.5)) for k in range(RAYS))
START_SPEED = 10.0

State = state_dtype(
    x="real",
    y="real",
    heading="real",
    speed="real",
    acceleration="real",
    steering="real",
    distance="real",  # along the centreline since the start
    section="i4",  # the last cross-section that has been passed
    spacing="real",  # of cross-sections, along the centreline
    half_width="real",
    left_x=("real", (SECTIONS,)),
    left_y=("real", (SECTIONS,)),
    right_x=("real", (SECTIONS,)),
    right_y=("real", (SECTIONS,)),
    scale="f8",  # R; a track is worked out in float64, so that it is the same at either precision
    cosine=("f8", (HARMONICS,)),  # a_k cos(b_k)
    sine=("f8", (HARMONICS,)),  # -a_k sin(b_k)
)
Params = params(grip=8.0)


# -- the track ---------------------------------------------------------------------------------------------------------


@njit
def distance(x, y, to_x, to_y):
    return math.sqrt((to_x - x) * (to_x - x) + (to_y - y) * (to_y - y))


@njit
def curve(s, place):
    """r(phi) / R and its first two derivatives, where phi is place / FINE of a turn."""
    r, first, second = 1.0, 0.0, 0.0
    order, times_phi = 1.0, place
    for k in range(HARMONICS):
        order += 1.0
        times_phi = (times_phi + place) & (FINE - 1)
        c, d = COSINES[times_phi], SINES[times_phi]
        wave = s.cosine[k] * c + s.sine[k] * d
        r += wave
        first += order * (s.sine[k] * c - s.cosine[k] * d)
        second -= order * order * wave
    return r, first, second


@njit
def is_round_enough(s):
    """Whether no curve is tighter than MIN_RADIUS, and the track keeps clear of its middle and of itself.

    It cannot come near itself: with r above R / 2, two points more than half a radian apart are more than 14 m apart, which is
    more than a road's width; nearer ones lie on one curve.
    """
    ok = True
    for k in range(SECTIONS):
        r, first, second = curve(s, FINE // SECTIONS * k)
        square = r * r + first * first
        bend = abs(r * r + 2.0 * (first * first) - r * second)
        ok = ok and r > 0.5 and bend * MIN_RADIUS < s.scale * (square * math.sqrt(square))
    return ok


@njit
def draw_shape(s):
    s.scale = uniform(s, 60.0, 110.0)
    s.half_width = uniform(s, 4.0, 6.0)
    strength = 0.5
    for _ in range(TRIES):
        order = 2.0
        for k in range(HARMONICS):
            amplitude, phase = strength * uniform(s, 0.0, 1.0) / order, uniform(s, 0.0, TURN_64)
            s.cosine[k], s.sine[k] = amplitude * math.cos(phase), -amplitude * math.sin(phase)
            order += 1.0
        if is_round_enough(s):
            break
        strength *= 0.75


@njit
def point(s, place):
    r = s.scale * curve(s, place)[0]
    return r * COSINES[place], r * SINES[place]


@njit
def lay_road(s, direction):
    """Put down the cross-sections: first the centreline, in `left`, at equal distances; then the walls."""
    length = 0.0
    x, y = point(s, 0)
    for k in range(FINE):
        next_x, next_y = point(s, direction * (k + 1) & (FINE - 1))
        length += distance(x, y, next_x, next_y)
        x, y = next_x, next_y
    spacing = length / 256.0
    s.spacing = spacing

    x, y = point(s, 0)
    s.left_x[0], s.left_y[0] = x, y
    come, due, placed = 0.0, spacing, 1
    for k in range(FINE):
        next_x, next_y = point(s, direction * (k + 1) & (FINE - 1))
        piece = distance(x, y, next_x, next_y)
        if come + piece >= due and placed < SECTIONS:  # a piece is shorter than the spacing: one at most is due
            share = (due - come) / piece
            s.left_x[placed], s.left_y[placed] = x + share * (next_x - x), y + share * (next_y - y)
            placed += 1
            due += spacing
        come += piece
        x, y = next_x, next_y

    first_x, first_y = s.left_x[0], s.left_y[0]
    back_x, back_y = s.left_x[WRAP], s.left_y[WRAP]
    for k in range(SECTIONS):
        x, y = s.left_x[k], s.left_y[k]
        ahead_x, ahead_y = first_x, first_y
        if k < WRAP:
            ahead_x, ahead_y = s.left_x[k + 1], s.left_y[k + 1]
        along_x, along_y = ahead_x - back_x, ahead_y - back_y
        share = s.half_width / math.sqrt(along_x * along_x + along_y * along_y)
        s.left_x[k], s.left_y[k] = x - share * along_y, y + share * along_x
        s.right_x[k], s.right_y[k] = x + share * along_y, y - share * along_x
        back_x, back_y = x, y


# -- where the car is --------------------------------------------------------------------------------------------------


@njit
def across(s, k, dx, dy):
    """How far a way leads across section k, or along it (0), in m."""
    return (dx * (s.left_y[k] - s.right_y[k]) - dy * (s.left_x[k] - s.right_x[k])) / (2.0 * s.half_width)


@njit
def past(s, k, x, y):
    """How far (x, y) lies beyond cross-section k, in m."""
    return across(s, k, x - s.right_x[k], y - s.right_y[k])


@njit
def right_of_left_wall(s, k, n, x, y):
    """The distance from (x, y) to the left wall between sections k and n, times the wall's length: positive on its right."""
    wall_x, wall_y = s.left_x[n] - s.left_x[k], s.left_y[n] - s.left_y[k]
    return wall_y * (x - s.left_x[k]) - wall_x * (y - s.left_y[k])


@njit
def left_of_right_wall(s, k, n, x, y):
    wall_x, wall_y = s.right_x[n] - s.right_x[k], s.right_y[n] - s.right_y[k]
    return wall_x * (y - s.right_y[k]) - wall_y * (x - s.right_x[k])


@njit
def share_of_section(s):
    """How much of the way from its cross-section to the next the car has come: 0 on the one, 1 on the other."""
    behind = past(s, s.section, s.x, s.y)
    before = -past(s, (s.section + 1) & WRAP, s.x, s.y)
    return behind / (behind + before)


@njit
def find_section(s):
    """Move `section` to where the car is by now; returns by how many. A step of 2.7 m passes three of them at the most."""
    moved = 0
    for _ in range(6):
        if past(s, (s.section + 1) & WRAP, s.x, s.y) >= 0.0:
            s.section = (s.section + 1) & WRAP
            moved += 1
        elif past(s, s.section, s.x, s.y) < 0.0:
            s.section = (s.section - 1) & WRAP
            moved -= 1
        else:
            break
    return moved


@njit
def is_on_road(s):
    k, n = s.section, (s.section + 1) & WRAP
    return right_of_left_wall(s, k, n, s.x, s.y) >= 0.0 and left_of_right_wall(s, k, n, s.x, s.y) >= 0.0


@njit
def bend(s, ahead):
    """Curvature (1/m, positive to the left) of the road `ahead` sections from here, over three of them."""
    k, n = (s.section + ahead - 1) & WRAP, (s.section + ahead + 2) & WRAP
    ax, ay = s.left_x[k] - s.right_x[k], s.left_y[k] - s.right_y[k]
    bx, by = s.left_x[n] - s.right_x[n], s.left_y[n] - s.right_y[n]
    turned = (ax * by - ay * bx) / (4.0 * (s.half_width * s.half_width))
    return turned / (3.0 * s.spacing)


@njit
def to_wall(s, wall_x, wall_y, k, n, dx, dy):
    """How far the car is in the direction (dx, dy) from the line of a wall between sections k and n; at most SIGHT."""
    along_x, along_y = wall_x[n] - wall_x[k], wall_y[n] - wall_y[k]
    away = along_x * (wall_y[k] - s.y) - along_y * (wall_x[k] - s.x)
    rate = along_x * dy - along_y * dx
    return min(max(away / rate, 0.0), SIGHT) if rate != 0.0 else SIGHT


@njit
def turned(cos, sin, ray):
    """The direction of a ray, of the heading's cosine and sine."""
    return cos * RAY_COS[ray] - sin * RAY_SIN[ray], sin * RAY_COS[ray] + cos * RAY_SIN[ray]


@njit
def left_of(dx, dy, x, y):
    """Whether (x, y) lies to the left of the direction (dx, dy), or on it."""
    return dx * y - dy * x >= 0.0


@njit
def look(s, obs, cos, sin, first, last, k, ahead, right_x, right_y, left_x, left_y):
    """Write the rays `first` to `last`, which go from the right to the left, and over section k onward; `ahead` is 1 or -1.

    What is seen through a section lies between its ends. Rays to the right and to the left of them have hit a wall since the
    section before; as a quadrilateral of the road is convex, the others go on. So each section is looked at once, not once a ray.
    """
    reach = SIGHT + 2.0 * s.half_width
    for _ in range(SECTIONS):
        n = (k + ahead) & WRAP
        x, y = right_x[n] - s.x, right_y[n] - s.y
        while first <= last:
            dx, dy = turned(cos, sin, first)
            if not left_of(dx, dy, x, y):
                break
            obs[first] = to_wall(s, right_x, right_y, k, n, dx, dy) / SIGHT
            first += 1
        far = x * x + y * y > reach * reach  # the section is, and what is behind it
        x, y = left_x[n] - s.x, left_y[n] - s.y
        while first <= last:
            dx, dy = turned(cos, sin, last)
            if left_of(dx, dy, x, y):
                break
            obs[last] = to_wall(s, left_x, left_y, k, n, dx, dy) / SIGHT
            last -= 1
        if far or first > last:
            break
        k = n
    for ray in range(first, last + 1):
        obs[ray] = 1.0


@njit
def look_around(s, obs):
    """Write the distances to the walls: of rays that leave the car's own quadrilateral through a wall, then of the others."""
    k, n = int(s.section), (int(s.section) + 1) & WRAP
    cos, sin = math.cos(s.heading), math.sin(s.heading)
    front, front_last, back, back_last = RAYS, -1, RAYS, -1
    for ray in range(RAYS):
        dx, dy = turned(cos, sin, ray)
        front_left = left_of(dx, dy, s.left_x[n] - s.x, s.left_y[n] - s.y)
        front_right = left_of(dx, dy, s.right_x[n] - s.x, s.right_y[n] - s.y)
        back_left = left_of(dx, dy, s.left_x[k] - s.x, s.left_y[k] - s.y)
        back_right = left_of(dx, dy, s.right_x[k] - s.x, s.right_y[k] - s.y)
        if front_left and not front_right:
            front, front_last = min(front, ray), ray
        elif back_right and not back_left:
            back, back_last = min(back, ray), ray
        elif back_left and not front_left:
            obs[ray] = to_wall(s, s.left_x, s.left_y, k, n, dx, dy) / SIGHT
        else:
            obs[ray] = to_wall(s, s.right_x, s.right_y, k, n, dx, dy) / SIGHT
    look(s, obs, cos, sin, front, front_last, n, 1, s.right_x, s.right_y, s.left_x, s.left_y)
    look(s, obs, cos, sin, back, back_last, k, -1, s.left_x, s.left_y, s.right_x, s.right_y)


# -- the sim -----------------------------------------------------------------------------------------------------------


@njit
def reset(s, p):
    seed_by_level(s)
    draw_shape(s)
    lay_road(s, 1 if randint(s, 2) == 0 else -1)
    s.x, s.y = 0.5 * (s.left_x[0] + s.right_x[0]), 0.5 * (s.left_y[0] + s.right_y[0])
    s.heading = math.atan2(s.right_x[0] - s.left_x[0], s.left_y[0] - s.right_y[0])  # a quarter turn right of `left`
    s.speed = START_SPEED


@njit
def drive(s, p):
    """One Euler step of the car."""
    slip = math.atan(0.5 * math.tan(s.steering))
    held = HALF_LENGTH * p.grip / max(s.speed * s.speed, 1e-6)  # the sine that the tyres can hold
    if held < 1.0:
        widest = math.asin(held)
        slip = min(max(slip, -widest), widest)
    s.x += DT * s.speed * math.cos(s.heading + slip)
    s.y += DT * s.speed * math.sin(s.heading + slip)
    s.heading += DT * s.speed * math.sin(slip) / HALF_LENGTH
    s.speed = min(max(s.speed + DT * s.acceleration, 0.0), MAX_SPEED)


@njit
def step(s, p, action):
    s.acceleration, s.steering = min(max(action[0], -1.0), 1.0), min(max(action[1], -1.0), 1.0)
    s.acceleration *= MAX_ACCELERATION
    s.steering *= 0.25 * PI
    sections = -share_of_section(s)
    on_road = True
    for _ in range(SUBSTEPS):
        if on_road:
            drive(s, p)
            sections += find_section(s)
            on_road = is_on_road(s)
    progress = (sections + share_of_section(s)) * s.spacing
    s.distance += progress
    if s.heading > PI:
        s.heading -= TURN
    elif s.heading < -PI:
        s.heading += TURN
    return (0.1 * progress if on_road else 0.1 * progress - 1.0), not on_road


@njit
def observe(s, p, obs):
    look_around(s, obs)
    k, n = s.section, (s.section + 1) & WRAP
    obs[16] = s.speed / MAX_SPEED
    left = right_of_left_wall(s, k, n, s.x, s.y) / distance(s.left_x[k], s.left_y[k], s.left_x[n], s.left_y[n])
    right = left_of_right_wall(s, k, n, s.x, s.y) / distance(s.right_x[k], s.right_y[k], s.right_x[n], s.right_y[n])
    obs[17] = min(max((right - left) / (right + left), -1.0), 1.0)
    # The road's direction is the mean of its two cross-sections', a quarter turn to the right.
    along_x = s.left_y[k] - s.right_y[k] + s.left_y[n] - s.right_y[n]
    along_y = s.right_x[k] - s.left_x[k] + s.right_x[n] - s.left_x[n]
    length = math.sqrt(along_x * along_x + along_y * along_y)
    cos, sin = math.cos(s.heading), math.sin(s.heading)
    obs[18] = min(max((along_x * sin - along_y * cos) / length, -1.0), 1.0)
    obs[19] = min(max((along_x * cos + along_y * sin) / length, -1.0), 1.0)
    obs[20] = min(max(MIN_RADIUS * bend(s, int(20.0 / s.spacing)), -1.5), 1.5)
    obs[21] = min(max(MIN_RADIUS * bend(s, int(40.0 / s.spacing)), -1.5), 1.5)


@njit
def valid(s, p):
    """Whether the car's cross-section exists, and the road has a length and a width."""
    return 0 <= s.section < SECTIONS and 1.0 < s.spacing < 10.0 and s.half_width > 0.0


@njit
def scripted(s, p, action):
    """Pure pursuit of the centreline, as fast as the curves within 110 m allow."""
    look = int((5.0 + 0.35 * s.speed) / s.spacing) + 1
    k = (s.section + look) & WRAP
    to_x = 0.5 * (s.left_x[k] + s.right_x[k]) - s.x
    to_y = 0.5 * (s.left_y[k] + s.right_y[k]) - s.y
    sideways = math.cos(s.heading) * to_y - math.sin(s.heading) * to_x
    turn = 2.0 * sideways / (to_x * to_x + to_y * to_y)  # curvature of the circle that leads there
    sine = min(max(turn * HALF_LENGTH, -0.44), 0.44)
    steering = math.atan(2.0 * math.tan(math.asin(sine)))
    action[1] = min(max(steering / (0.25 * PI), -1.0), 1.0)

    target = MAX_SPEED * MAX_SPEED  # squares of speeds
    ahead = 0.0
    for j in range(64):
        if ahead < 110.0:
            fast = 0.95 * p.grip / max(abs(bend(s, j)), 1e-4)
            target = min(target, fast + 2.0 * 0.9 * MAX_ACCELERATION * max(ahead - 2.0, 0.0))
        ahead += s.spacing
    action[0] = min(max((math.sqrt(target) - s.speed) / (MAX_ACCELERATION * 0.2), -1.0), 1.0)


def draw(s, p, canvas):
    sides = [np.stack([x, y], axis=1).astype(float) for x, y in ((s.left_x, s.left_y), (s.right_x, s.right_y))]
    left, right = sides
    canvas.view(s.x - 45, s.x + 45, s.y - 45, s.y + 45)
    canvas.rectangle(s.x - 50, s.y - 50, s.x + 50, s.y + 50, color=GRASS)
    near = [k for k in range(SECTIONS) if abs(left[k] - (s.x, s.y)).max() < 70]
    for k in near:
        n = (k + 1) % SECTIONS
        canvas.polygon([left[k], left[n], right[n], right[k]], color="grey")
    for k in near:
        n, stripe = (k + 1) % SECTIONS, "red" if k % 4 < 2 else "white"
        canvas.line(*left[k], *left[n], color=stripe, width=0.8)
        canvas.line(*right[k], *right[n], color=stripe, width=0.8)
        if k % 4 == 0:
            canvas.line(*(left[k] + right[k]) / 2, *(left[n] + right[n]) / 2, color="mist", width=0.25)
    if 0 in near:
        canvas.line(*left[0], *right[0], color="white", width=1.2)
    _draw_car(s, canvas)
    # a map in the corner
    size, x0, y0 = 11.0, s.x + 32.0, s.y + 32.0
    scale = size / float(np.abs(left).max())
    canvas.polygon([(x0 - 12, y0 - 12), (x0 + 12, y0 - 12), (x0 + 12, y0 + 12), (x0 - 12, y0 + 12)], color="paper")
    middle = [(x0 + scale * x, y0 + scale * y) for x, y in (left + right)[::4] / 2]
    canvas.path([*middle, middle[0]], color="ink", width=0.7)
    canvas.disc(x0 + scale * s.x, y0 + scale * s.y, 1.2, color="orange")
    canvas.text(s.x - 18, s.y - 40, f"{3.6 * s.speed:.0f} km/h  {s.distance:.0f} m", 5.0)


def _draw_car(s, canvas):
    cos, sin = math.cos(s.heading), math.sin(s.heading)

    def box(back, front, half, color):
        corners = [(back, -half), (front, -half), (front, half), (back, half)]
        canvas.polygon([(s.x + a * cos - b * sin, s.y + a * sin + b * cos) for a, b in corners], color=color)

    box(-2.5, 2.5, 1.0, "blue")
    box(-1.2, 0.6, 0.8, "ink")
    box(2.0, 2.4, 0.8, "yellow")


GRASS = (205, 220, 190)

LOW = np.array([0.0] * 17 + [-1.0] * 3 + [-1.5] * 2, np.float32)
HIGH = np.array([1.0] * 20 + [1.5] * 2, np.float32)

SIM = Sim(
    name="Racer",
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
        "random": Reference(1.550, 0.016, "uniform actions, 10,000 episodes"),
        "scripted": Reference(119.39, 0.12, "pure pursuit, curves at 95 % of the grip, 10,000 episodes"),
        "optimal": Reference(
            120.99, 0.38, "fastest on the centreline, not a bound: speed profiles of 1000 test levels"
        ),
    },
    observation_space=Box(LOW, HIGH, dtype=np.float32),
    action_space=Box(-1.0, 1.0, (2,), np.float32),
    max_episode_steps=300,
    reward_threshold=121.0,
    levels=True,
    frame_rate=5,
)
