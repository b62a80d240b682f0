"""Labyrinth: find the way to the goal in a maze too large to be seen at once.

Maze once more (`envs/maze.py`: rules, actions, observation, thread), but a level has 25 x 25 cells, on 51 x 51 squares, of which
the agent sees the 9 x 9 around it. Walls, start and goal are a function of the level id alone, so that the score on the test
levels measures generalisation.

**Action** `Discrete(4)`: move one square 0 up, 1 right, 2 down, 3 left.

**Observation** `MultiBinary((9, 9, 6))`, as in Maze: walls, the thread, where the agent has been, the goal, where that lies, and
where the agent came from.

**Reward** 1 on reaching the goal, else `discovery` on a square where the agent has not been. **Start**: start and goal are
uniform on distinct cells. **End**: terminated at the goal; truncated after 2500 steps (the longest way possible has 1248, and a
walk through every passage and back 2496). **Solved** at a mean return of 0.9 on test levels.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| cells | 25 | cells along a side, 2 to 25 |
| discovery | 0 | reward for a square where the agent has not been |

**Levels**: yes.

**References**: the baseline sees the whole maze and goes the shortest way, so that it always reaches the goal. Who sees 9 x 9
squares cannot do better; how nearly as well is not known.

**Source**: as Maze.
"""

from gymnasium.spaces import Discrete, MultiBinary

from envs.engine import Reference, Sim, njit, params, state_dtype
from envs.maze import PLANES, WINDOW, build, draw_maze, first_step, is_sound, look, step

MOST = 25  # cells
SIZE = 2 * MOST + 1  # squares; a smaller maze leaves the lower right of them solid

State = state_dtype(row="u1", column="u1", goal_row="u1", goal_column="u1", came="u1", walls=("u1", (SIZE, SIZE)))
Params = params(cells=MOST, discovery=0.0)


@njit
def side_of(p):
    return min(max(p.cells, 2), MOST)


@njit
def reset(s, p):
    build(s, SIZE, side_of(p))


@njit
def observe(s, p, obs):
    look(s, SIZE, obs)


@njit
def valid(s, p):
    return is_sound(s, SIZE)


@njit
def scripted(s, p, action):
    action[0] = first_step(s, SIZE * SIZE)


def draw(s, p, canvas):
    draw_maze(s, 2 * side_of(p) + 1, canvas)


SIM = Sim(
    name="Labyrinth",
    version=2,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    valid=valid,
    scripted=scripted,
    references={
        "random": Reference(0.0473, 0.0021, "uniform actions, 10,000 test levels"),
        "scripted": Reference(1.0, 0.0, "10,000 test levels"),
        "optimal": Reference(1.0, 0.0, "every goal can be reached, in 1248 steps at most, by who sees the whole maze"),
    },
    observation_space=MultiBinary((WINDOW, WINDOW, PLANES)),
    action_space=Discrete(4),
    max_episode_steps=2500,
    reward_threshold=0.9,
    levels=True,
    frame_rate=30,
)
