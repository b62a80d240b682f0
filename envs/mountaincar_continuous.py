"""MountainCarContinuous: out of the valley of MountainCar with a throttle, and with as little of it as possible.

A port of Gymnasium's `MountainCarContinuous-v0`. The original keeps its state in float32, and so does this one by default:
one step from the same state agrees to 2e-7 (unless it takes the car to within 2e-7 of the left end). In float64 the
equations, computed without that rounding, agree to 1e-12.

**Action** `Box(-1, 1, (1,))`, float32: throttle, positive is to the right. Beyond the limits, the engine's force is that
of the limit, but what is paid for is the action as given (as in the original).

**Observation** `Box(2)`, float32:

| index | quantity | range |
|---|---|---|
| 0 | position; the valley's bottom is at -pi / 6 | [-1.2, 0.6] |
| 1 | velocity, position a step | [-0.07, 0.07] |

**Reward** 100 on reaching the goal, less 0.1 action^2 in every step. **Start**: position uniform in [-0.6, -0.4), at rest.
**End**: terminated at `goal_position` or beyond, at `goal_velocity` or faster; truncated after 999 steps.
**Solved** at a mean return of 90. Who never moves earns 0, more than most ways to fail: exploration is the difficulty.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| power | 0.0015 | of the engine at full throttle, position / step^2 |
| gravity | 0.0025 | position / step^2, on the steepest slope |
| max_speed | 0.07 | position / step; beyond 0.07 the observation leaves its declared range |
| goal_position | 0.45 | |
| goal_velocity | 0.0 | the least velocity at the goal |

**Baseline** (`scripted`): full throttle in the direction of motion.

**References** (mean return, `SIM.references`):

| policy | return |
|---|---|
| random | -33.2 |
| scripted | 89.3 |
| optimal | 99.6 |

The last is by dynamic programming on a grid, to about 0.03 (`envs/reference/control.py`).

**Source**: Gymnasium 1.4 `envs/classic_control/continuous_mountain_car.py`.
"""

import numpy as np
from gymnasium.spaces import Box

from envs.engine import Reference, Sim, njit, params
from envs.mountaincar import HIGH, LOW, State, draw, is_at_goal, observe, reset, roll

Params = params(power=0.0015, gravity=0.0025, max_speed=0.07, goal_position=0.45, goal_velocity=0.0)


@njit
def step(s, p, action):
    s.push = action[0]
    roll(s, p, min(max(s.push, -1.0), 1.0) * p.power)
    arrived = is_at_goal(s, p)
    return (100.0 if arrived else 0.0) - 0.1 * (s.push * s.push), arrived


@njit
def scripted(s, p, action):
    action[0] = 1.0 if s.velocity >= 0.0 else -1.0


SIM = Sim(
    name="MountainCarContinuous",
    version=0,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    observation_space=Box(LOW, HIGH, dtype=np.float32),
    action_space=Box(-1.0, 1.0, (1,), np.float32),
    max_episode_steps=999,
    reward_threshold=90.0,
    references={
        "random": Reference(-33.164, 0.039, "uniform actions, 10 000 test episodes"),
        "scripted": Reference(89.3473, 0.0014, "10 000 test episodes"),
        "optimal": Reference(99.626, 0.026, "value iteration, 401 x 401 nodes; error: to half as many"),
    },
)
