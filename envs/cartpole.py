"""CartPole: balance a pole on a cart by pushing the cart left or right.

An exact port of Gymnasium's `CartPole-v1`: in float64 every state, reward and flag agrees to 1e-12; in float32 (the
default, faster) one step from the same state agrees to 1e-6 (for speeds up to 4).

**Action** `Discrete(2)`: 0 pushes the cart to the left, 1 to the right, with `force` newtons.

**Observation** `Box(4)`, float32:

| index | quantity | unit | ends the episode beyond |
|---|---|---|---|
| 0 | cart position | m | +-2.4 |
| 1 | cart velocity | m/s | |
| 2 | pole angle from the vertical | rad | +-0.2095 (12 degrees) |
| 3 | pole angular velocity | rad/s | |

**Reward** 1 for every step, the last one included. **Start**: all four uniform in [-0.05, 0.05).
**End**: terminated beyond the limits above; truncated after 500 steps. **Solved** at a mean return of 475.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| gravity | 9.8 | m/s^2 |
| mass_cart | 1.0 | kg |
| mass_pole | 0.1 | kg |
| half_length | 0.5 | half of the pole's length, m |
| force | 10.0 | N |
| tau | 0.02 | seconds a step (explicit Euler) |
| x_limit | 2.4 | m |
| theta_limit | 0.2095 | rad |

**Baseline** (`scripted`): push to the side where theta + 0.5 theta_dot + 0.1 x_dot + 0.05 x points.

**References** (mean return, `SIM.references`):

| policy | return |
|---|---|
| random | 22.5 |
| scripted | 500.0 |
| optimal | 500.0 |

**Source**: Barto, Sutton, Anderson, "Neuronlike adaptive elements that can solve difficult learning control problems",
1983; equations as corrected by Florian, 2007; Gymnasium 1.4 `envs/classic_control/cartpole.py`.
"""

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Reference, Sim, njit, params, state_dtype, uniform

State = state_dtype(x="real", x_dot="real", theta="real", theta_dot="real")
Params = params(
    gravity=9.8,
    mass_cart=1.0,
    mass_pole=0.1,
    half_length=0.5,
    force=10.0,
    tau=0.02,
    x_limit=2.4,
    theta_limit=12 * 2 * math.pi / 360,
)
FOUR_THIRDS = 4.0 / 3.0


@njit
def reset(s, p):
    s.x = uniform(s, -0.05, 0.05)
    s.x_dot = uniform(s, -0.05, 0.05)
    s.theta = uniform(s, -0.05, 0.05)
    s.theta_dot = uniform(s, -0.05, 0.05)


@njit
def step(s, p, action):
    force = p.force if action == 1 else -p.force
    sin, cos = math.sin(s.theta), math.cos(s.theta)
    total_mass = p.mass_pole + p.mass_cart
    polemass_length = p.mass_pole * p.half_length
    per_mass = 1.0 / total_mass  # once: a division takes as long as ten products

    push = (force + polemass_length * (s.theta_dot * s.theta_dot) * sin) * per_mass
    theta_acc = (p.gravity * sin - cos * push) / (p.half_length * (FOUR_THIRDS - p.mass_pole * (cos * cos) * per_mass))
    x_acc = push - polemass_length * theta_acc * cos * per_mass

    s.x += p.tau * s.x_dot
    s.x_dot += p.tau * x_acc
    s.theta += p.tau * s.theta_dot
    s.theta_dot += p.tau * theta_acc
    terminated = (abs(s.x) > p.x_limit) | (abs(s.theta) > p.theta_limit)
    return 1.0, terminated


@njit
def observe(s, p, obs):
    obs[0] = s.x
    obs[1] = s.x_dot
    obs[2] = s.theta
    obs[3] = s.theta_dot


@njit
def scripted(s, p, action):
    lean = s.theta + 0.5 * s.theta_dot + 0.1 * s.x_dot + 0.05 * s.x
    action[0] = 1 if lean > 0.0 else 0


def draw(s, p, canvas):
    canvas.view(-p.x_limit, p.x_limit, -0.8, 2.0)
    canvas.line(-p.x_limit, 0.0, p.x_limit, 0.0, color="grey")
    canvas.rectangle(s.x - 0.25, -0.12, s.x + 0.25, 0.12, color="ink")
    tip_x = s.x + 2 * p.half_length * math.sin(s.theta)
    tip_y = 2 * p.half_length * math.cos(s.theta)
    canvas.line(s.x, 0.0, tip_x, tip_y, color="orange", width=0.1)
    canvas.disc(s.x, 0.0, 0.05, color="blue")


LIMITS = np.array([4.8, np.inf, 2 * Params.defaults["theta_limit"], np.inf], np.float32)

SIM = Sim(
    name="CartPole",
    version=0,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    observation_space=Box(-LIMITS, LIMITS, dtype=np.float32),
    action_space=Discrete(2),
    max_episode_steps=500,
    reward_threshold=475.0,
    frame_rate=50,
    references={
        "random": Reference(22.493, 0.12, "uniform actions, 10 000 test episodes"),
        "scripted": Reference(500.0, 0.0, "10 000 test episodes: none ended early"),
        "optimal": Reference(500.0, 0.0, "the step limit; the baseline reaches it"),
    },
)
