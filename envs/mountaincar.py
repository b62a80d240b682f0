"""MountainCar: drive a car out of a valley with an engine too weak for the slope, by rocking back and forth.

An exact port of Gymnasium's `MountainCar-v0`: in float64 every state, reward and flag agrees to 1e-12; in float32 (the
default, faster) one step from the same state agrees to 2e-7 (unless it takes the car to within 2e-7 of the left end).

**Action** `Discrete(3)`: 0 accelerates to the left, 1 not at all, 2 to the right.

**Observation** `Box(2)`, float32:

| index | quantity | range |
|---|---|---|
| 0 | position; the valley's bottom is at -pi / 6 | [-1.2, 0.6] |
| 1 | velocity, position a step | [-0.07, 0.07] |

**Reward** -1 for every step, the last one included. **Start**: position uniform in [-0.6, -0.4), at rest.
**End**: terminated at `goal_position` or beyond, at `goal_velocity` or faster; truncated after 200 steps. The left end of
the track stops the car; the right end does not. **Solved** at a mean return of -110.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| force | 0.001 | of the engine, position / step^2 |
| gravity | 0.0025 | position / step^2, on the steepest slope |
| max_speed | 0.07 | position / step; beyond 0.07 the observation leaves its declared range |
| goal_position | 0.5 | |
| goal_velocity | 0.0 | the least velocity at the goal |

**Baseline** (`scripted`): full force in the direction of motion, which always adds energy.

**References** (mean return, `SIM.references`):

| policy | return |
|---|---|
| random | -200.0 |
| scripted | -119.4 |
| optimal | -97.7 |

The last is by dynamic programming on a grid, to about 0.06 (`envs/reference/control.py`).

**Source**: Moore, "Efficient memory-based learning for robot control", 1990; Gymnasium 1.4
`envs/classic_control/mountain_car.py`.
"""

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Reference, Sim, njit, params, state_dtype, uniform

State = state_dtype(position="real", velocity="real", push="real")
Params = params(force=0.001, gravity=0.0025, max_speed=0.07, goal_position=0.5, goal_velocity=0.0)
LEFT_END, RIGHT_END = -1.2, 0.6


@njit
def reset(s, p):
    s.position = uniform(s, -0.6, -0.4)


@njit
def roll(s, p, acceleration):
    """One step under the engine's acceleration and the slope's (semi-implicit Euler)."""
    velocity = s.velocity + (acceleration - p.gravity * math.cos(3.0 * s.position))
    velocity = min(max(velocity, -p.max_speed), p.max_speed)
    position = min(max(s.position + velocity, LEFT_END), RIGHT_END)
    s.position = position
    s.velocity = 0.0 if position == LEFT_END and velocity < 0.0 else velocity


@njit
def is_at_goal(s, p):
    return (s.position >= p.goal_position) & (s.velocity >= p.goal_velocity)


@njit
def step(s, p, action):
    s.push = 1.0 if action == 2 else (0.0 if action == 1 else -1.0)
    roll(s, p, s.push * p.force)
    return -1.0, is_at_goal(s, p)


@njit
def observe(s, p, obs):
    obs[0] = s.position
    obs[1] = s.velocity


@njit
def scripted(s, p, action):
    action[0] = 2 if s.velocity >= 0.0 else 0


def draw(s, p, canvas):
    canvas.view(-1.3, 0.7, -0.5, 1.5)
    xs = np.linspace(-1.3, 0.7, 81)
    ground = [(x, _height(x)) for x in xs]
    canvas.polygon([(-1.3, -0.5), *ground, (0.7, -0.5)], color="mist")
    canvas.path(ground, color="grey", width=0.015)
    canvas.line(LEFT_END, _height(LEFT_END), LEFT_END, _height(LEFT_END) + 0.12, color="grey", width=0.03)  # the stop

    flag_y = _height(p.goal_position)
    canvas.line(p.goal_position, flag_y, p.goal_position, flag_y + 0.28, color="ink", width=0.012)
    pennant = [(p.goal_position, flag_y + dy) for dy in (0.28, 0.16)]
    canvas.polygon([*pennant, (p.goal_position - 0.13, flag_y + 0.22)], color="green")

    slope = math.atan(1.35 * math.cos(3 * s.position))
    along, up = (math.cos(slope), math.sin(slope)), (-math.sin(slope), math.cos(slope))

    def at(x, y):
        """A point in the car's own axes, whose origin is where it stands."""
        return s.position + x * along[0] + y * up[0], _height(s.position) + x * along[1] + y * up[1]

    if abs(s.push) > 0.02:  # the engine: a wedge behind the car
        rear = -math.copysign(0.11, s.push)
        canvas.polygon([at(rear, 0.05), at(rear, 0.11), at(rear - 0.1 * s.push, 0.08)], color="orange")
    canvas.polygon([at(-0.11, 0.04), at(0.11, 0.04), at(0.11, 0.1), at(-0.11, 0.1)], color="ink")
    canvas.polygon([at(-0.07, 0.09), at(0.06, 0.09), at(0.04, 0.15), at(-0.05, 0.15)], color="blue")
    for x in (-0.065, 0.065):
        canvas.disc(*at(x, 0.035), 0.035, color="ink")
        canvas.disc(*at(x, 0.035), 0.015, color="paper")


def _height(x):
    return 0.45 * math.sin(3 * x) + 0.55


HIGH = np.array([RIGHT_END, Params.defaults["max_speed"]], np.float32)
LOW = np.array([LEFT_END, -Params.defaults["max_speed"]], np.float32)

SIM = Sim(
    name="MountainCar",
    version=0,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    observation_space=Box(LOW, HIGH, dtype=np.float32),
    action_space=Discrete(3),
    max_episode_steps=200,
    reward_threshold=-110.0,
    references={
        "random": Reference(-200.0, 0.0, "uniform actions, 10 000 test episodes: none arrived"),
        "scripted": Reference(-119.402, 0.037, "10 000 test episodes"),
        "optimal": Reference(-97.70, 0.06, "value iteration, 2001 x 2001 nodes; error: to half as many"),
    },
)
