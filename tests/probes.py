"""Probe problems: worlds so small that the answers are known by heart. Each needs one more thing of an agent to be right.

| probe | what happens | an agent that solves it |
|---|---|---|
| ONE | one step, reward 1 | fits a value: V = 1 |
| SEEN | one step, the reward is the observation, 1 or -1 | sees: V(o) = o |
| LATER | two steps, observed as 0 and 1, reward 1 after the second | discounts: V(0) = gamma, V(1) = 1 |
| FOREVER | observed as 0, then as 1, where each step gives 1; cut off after 2 steps | looks beyond: V(1) = 1 / (1 - gamma) |
| CHOICE | one step, reward 1 for action 1, -1 for action 0 | prefers an action: Q = (-1, 1) |
| MATCH | one step, reward 1 for the action that fits the observation, else -1 | looks before it acts |
| REACH | CHOICE in a Box: reward -(action - 1)^2 | learns an amount |
| FOLLOW | MATCH in a Box: reward -(action - observation)^2 | looks before it learns an amount |
"""

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Sim, njit, params, randint, state_dtype

State = state_dtype(cue="real", time="i4")
Params = params()


@njit
def blank(s, p):
    s.cue = 0.0


@njit
def cue(s, p):
    s.cue = 2.0 * randint(s, 2) - 1.0


@njit
def observe(s, p, obs):
    obs[0] = s.cue


@njit
def one(s, p, action):
    return 1.0, True


@njit
def seen(s, p, action):
    return s.cue, True


@njit
def later(s, p, action):
    s.time += 1
    s.cue = 1.0
    return s.time - 1.0, s.time == 2


@njit
def forever(s, p, action):
    reward = s.cue
    s.cue = 1.0
    return reward, False


@njit
def choice(s, p, action):
    return 2.0 * action - 1.0, True


@njit
def match(s, p, action):
    return s.cue * (2.0 * action - 1.0), True


@njit
def reach(s, p, action):
    return -((action[0] - 1.0) ** 2), True


@njit
def follow(s, p, action):
    return -((action[0] - s.cue) ** 2), True


TWO, BOX = Discrete(2), Box(-2.0, 2.0, (1,), np.float32)


def probe(name, reset, step, action_space=TWO, max_episode_steps=10):
    space = Box(-1.0, 1.0, (1,), np.float32)
    return Sim(f"Probe{name}", 0, State, Params, reset, step, observe, space, action_space, max_episode_steps)


ONE = probe("One", blank, one)
SEEN = probe("Seen", cue, seen)
LATER = probe("Later", blank, later)
FOREVER = probe("Forever", blank, forever, max_episode_steps=2)
CHOICE = probe("Choice", blank, choice)
MATCH = probe("Match", cue, match)
REACH = probe("Reach", blank, reach, BOX)
FOLLOW = probe("Follow", cue, follow, BOX)
