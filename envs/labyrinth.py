"""Labyrinth: find the way to the goal in a maze too large to be seen at once.

A level is a perfect maze (exactly one way between any two cells) of 25 x 25 cells, drawn on a grid of 51 x 51 squares as in Maze.
The agent sees the 9 x 9 squares around it, where it has been, and which way the goal lies; a dead end it must find out. Walls,
start and goal are a function of the level id alone, so that the score on the test levels measures generalisation.

**Action** `Discrete(4)`: move one square 0 up, 1 right, 2 down, 3 left. Into a wall: nothing happens.

**Observation** `MultiBinary((9, 9, 4))`, a square by (row, column, plane), row 0 at the top, the agent at (4, 4):

| plane | 1 where |
|---|---|
| 0 | a wall is, or nothing, beyond the edge of the maze |
| 1 | the agent is or has been |
| 2 | the goal is, if it is in sight |
| 3 | the square of the window that is nearest to the goal |

It does not show the whole state: what is out of sight must be remembered, or found again.

**Reward** 1 on reaching the goal, else 0. **Start**: start and goal are uniform on distinct cells.
**End**: terminated at the goal; truncated after 1500 steps (the longest way possible has 1248).
**Solved** at a mean return of 0.9 on test levels.

**Parameters** (`env.params.*`): cells, default 25: cells along a side, 2 to 25. **Levels**: yes.

**References**: the baseline sees the whole maze and goes the shortest way, so that it always reaches the goal. Who sees 9 x 9
squares cannot do better; how nearly as well is not known.

**Source**: as Maze; windows and mazes of this size as in Cobbe et al., "Leveraging procedural generation to benchmark
reinforcement learning", ICML 2020.
"""

from gymnasium.spaces import Discrete, MultiBinary

from envs.engine import Reference, Sim, njit, params, seed_by_level, state_dtype
from envs.maze import DOWN, RIGHT, WALL, carve, first_step, is_sound, place

MOST = 25  # cells
SIZE = 2 * MOST + 1  # squares; a smaller maze leaves the lower right of them solid
SEEN = 2  # code of `walls` for an open square where the agent is or has been
WINDOW, REACH = 9, 4  # squares that are seen, and on either side of the agent
PLANES = 4

State = state_dtype(row="u1", column="u1", goal_row="u1", goal_column="u1", walls=("u1", (SIZE, SIZE)))
Params = params(cells=MOST)


@njit
def side_of(p):
    return min(max(p.cells, 2), MOST)


@njit
def reset(s, p):
    seed_by_level(s)
    for i in range(SIZE):
        for j in range(SIZE):
            s.walls[i, j] = WALL
    carve(s, side_of(p))
    place(s, side_of(p))
    s.walls[s.row, s.column] = SEEN


@njit
def step(s, p, action):
    row, column = int(s.row) + DOWN[action], int(s.column) + RIGHT[action]
    if s.walls[row, column] != WALL:
        s.row, s.column = row, column
        s.walls[row, column] = SEEN
    arrived = s.row == s.goal_row and s.column == s.goal_column
    return (1.0 if arrived else 0.0), arrived


@njit
def observe(s, p, obs):
    flat = obs.flat
    top, left = int(s.row) - REACH, int(s.column) - REACH
    for i in range(WINDOW):
        for j in range(WINDOW):
            row, column = top + i, left + j
            is_on_grid = 0 <= row < SIZE and 0 <= column < SIZE
            code = int(s.walls[row, column]) if is_on_grid else WALL
            square = PLANES * (i * WINDOW + j)
            flat[square] = code == WALL
            flat[square + 1] = code == SEEN
            flat[square + 2] = 0
            flat[square + 3] = 0
    goal_row, goal_column = int(s.goal_row) - top, int(s.goal_column) - left
    row, column = min(max(goal_row, 0), WINDOW - 1), min(max(goal_column, 0), WINDOW - 1)
    obs[row, column, 2] = row == goal_row and column == goal_column
    obs[row, column, 3] = 1


@njit
def valid(s, p):
    return is_sound(s, SIZE, SEEN)


@njit
def scripted(s, p, action):
    action[0] = first_step(s, SIZE * SIZE)


def draw(s, p, canvas):
    size = 2 * side_of(p) + 1
    codes = s.walls[:size, :size].copy()
    codes[s.goal_row, s.goal_column] = 3
    canvas.tiles(codes, ["paper", "ink", "yellow", "leaf"])
    x, y = s.column + 0.5, size - s.row - 0.5
    canvas.disc(s.goal_column + 0.5, size - s.goal_row - 0.5, 0.9, color="leaf")
    canvas.disc(x, y, 0.7, color="orange")
    reach = REACH + 0.5  # the window that is seen
    corners = [(x - reach, y - reach), (x + reach, y - reach), (x + reach, y + reach), (x - reach, y + reach)]
    canvas.path([*corners, corners[0]], color="blue", width=0.25)


SIM = Sim(
    name="Labyrinth",
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
        "random": Reference(0.0351, 0.0018, "uniform actions, 10,000 test levels"),
        "scripted": Reference(1.0, 0.0, "10,000 test levels"),
        "optimal": Reference(1.0, 0.0, "every goal can be reached, in 1248 steps at most, by who sees the whole maze"),
    },
    observation_space=MultiBinary((WINDOW, WINDOW, PLANES)),
    action_space=Discrete(4),
    max_episode_steps=1500,
    reward_threshold=0.9,
    levels=True,
    frame_rate=30,
)
