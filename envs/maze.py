"""Maze: find the way to the goal, in a maze never seen before.

A level is a perfect maze (exactly one way between any two cells) of 9 x 9 cells, drawn on a grid of 19 x 19 squares:
cells, the passages between them, and walls. Walls, start and goal are a function of the level id alone, so a split of
level ids ("train", "test") is a split of mazes, and the score on the test levels measures generalisation.

**Action** `Discrete(4)`: move one square 0 up, 1 right, 2 down, 3 left. Into a wall: nothing happens.

**Observation** `MultiBinary((9, 9, 6))`, the squares around the agent by (row, column, plane), row 0 at the top, the agent at
(4, 4):

| plane | 1 where |
|---|---|
| 0 | a wall is, or nothing, beyond the edge of the maze |
| 1 | the thread lies |
| 2 | the agent has been, and the thread does not lie any more |
| 3 | the goal is, if it is in sight |
| 4 | the square of the window that is nearest to the goal |
| 5 | the agent was before its last move |

From the start to the agent lies a thread, as Ariadne's: going on the agent unwinds it, going back along it winds it up. So the
observation does not show the whole state, but what an explorer must know: who enters new passages as long as there are any,
then goes back along the thread, walks through every passage at most twice, and finds the goal.

**Reward** 1 on reaching the goal, else `discovery` on a square where the agent has not been. **Start**: start and goal are
uniform on distinct cells. **End**: terminated at the goal; truncated after 500 steps (the longest way possible has 160, and a
walk through every passage and back 320). **Solved** at a mean return of 0.95 on test levels. The shortest way,
`optimal_steps(level)`, has 40 steps on average; a random walk finds the goal in one level of six.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| discovery | 0 | reward for a square where the agent has not been |

In training (`env.train_params.discovery`) it teaches to explore: a bonus for the first visit in an episode, as in Zhang et al.,
"NovelD: a simple yet effective exploration criterion", NeurIPS 2021. **Levels**: yes.

**References**: the baseline sees the whole maze and goes the shortest way, so that it always reaches the goal: nobody can do
better.

**Source**: levels by randomised depth-first search; the way to search them is Trémaux's (Lucas, "Récréations mathématiques",
1882); protocol of Cobbe et al., "Leveraging procedural generation to benchmark reinforcement learning", ICML 2020.
"""

from collections import deque
from functools import cache

from gymnasium.spaces import Discrete, MultiBinary

from envs.engine import Reference, Sim, njit, params, randint, seed_by_level, state_dtype

SIDE = 9  # cells
SIZE = 2 * SIDE + 1  # squares; cell (i, j) is square (2 i + 1, 2 j + 1)
OPEN, WALL, THREAD, BEEN = (
    0,
    1,
    2,
    3,
)  # codes of `walls`; where the thread lies, and where the agent has been, is open too
WINDOW, REACH, PLANES = 9, 4, 6  # the squares that are seen, and how far on either side of the agent
DOWN, RIGHT = (-1, 0, 1, 0), (0, 1, 0, -1)  # rows and columns of a move up, right, down, left

# `came` is 1 + the direction of the last move, 0 at the start.
State = state_dtype(row="u1", column="u1", goal_row="u1", goal_column="u1", came="u1", walls=("u1", (SIZE, SIZE)))
Params = params(discovery=0.0)


@njit
def is_unvisited(s, size, row, column):
    return 0 < row < size and 0 < column < size and s.walls[row, column] == WALL


@njit
def open_direction(s, size, row, column, skip):
    """The direction of an unvisited neighbour cell, after `skip` others."""
    for direction in range(4):
        if is_unvisited(s, size, row + 2 * DOWN[direction], column + 2 * RIGHT[direction]):
            if skip == 0:
                return direction
            skip -= 1
    return 0


@njit
def carve(s, side):
    """Cut a maze of side x side cells into solid wall: walk to a random unvisited neighbour cell; where there is none, go back.

    The way back is kept in the maze itself: until the end, a visited cell holds 2 + the direction it was entered in.
    """
    size = 2 * side + 1
    row, column = 2 * randint(s, side) + 1, 2 * randint(s, side) + 1
    root_row, root_column = row, column
    s.walls[row, column] = 2
    while True:
        choices = 0
        for direction in range(4):
            choices += is_unvisited(s, size, row + 2 * DOWN[direction], column + 2 * RIGHT[direction])
        if choices > 0:
            direction = open_direction(s, size, row, column, randint(s, choices))
            s.walls[row + DOWN[direction], column + RIGHT[direction]] = OPEN
            row, column = row + 2 * DOWN[direction], column + 2 * RIGHT[direction]
            s.walls[row, column] = 2 + direction
        elif row == root_row and column == root_column:
            break
        else:
            direction = s.walls[row, column] - 2
            row, column = row - 2 * DOWN[direction], column - 2 * RIGHT[direction]
    for i in range(1, size, 2):
        for j in range(1, size, 2):
            s.walls[i, j] = OPEN


@njit
def place(s, side):
    """Put agent and goal on distinct cells."""
    start = randint(s, side * side)
    goal = randint(s, side * side - 1)
    goal += goal >= start  # any cell but the start
    s.row, s.column = 2 * (start // side) + 1, 2 * (start % side) + 1
    s.goal_row, s.goal_column = 2 * (goal // side) + 1, 2 * (goal % side) + 1


@njit
def build(s, size, side):
    """A maze of side x side cells on size x size squares, in the upper left; what it does not fill is solid."""
    seed_by_level(s)
    for i in range(size):
        for j in range(size):
            s.walls[i, j] = WALL
    carve(s, side)
    place(s, side)
    s.walls[s.row, s.column] = THREAD


@njit
def look(s, size, obs):
    """The window around the agent, of a maze on size x size squares."""
    flat = obs.flat  # a fifth of the time that three indices take
    top, left = int(s.row) - REACH, int(s.column) - REACH
    for i in range(WINDOW):
        for j in range(WINDOW):
            row, column = top + i, left + j
            is_on_grid = 0 <= row < size and 0 <= column < size
            code = int(s.walls[row, column]) if is_on_grid else WALL
            square = PLANES * (i * WINDOW + j)
            flat[square] = code == WALL
            flat[square + 1] = code == THREAD
            flat[square + 2] = code == BEEN
            flat[square + 3] = 0
            flat[square + 4] = 0
            flat[square + 5] = 0
    goal_row, goal_column = int(s.goal_row) - top, int(s.goal_column) - left
    row, column = min(max(goal_row, 0), WINDOW - 1), min(max(goal_column, 0), WINDOW - 1)
    obs[row, column, 3] = row == goal_row and column == goal_column
    obs[row, column, 4] = 1
    if s.came:
        obs[REACH - DOWN[s.came - 1], REACH - RIGHT[s.came - 1], 5] = 1


@njit
def reset(s, p):
    build(s, SIZE, SIDE)


@njit
def step(s, p, action):
    row, column = int(s.row) + DOWN[action], int(s.column) + RIGHT[action]
    code = s.walls[row, column]
    if code != WALL:
        if code == THREAD:  # back
            s.walls[s.row, s.column] = BEEN
        s.walls[row, column] = THREAD
        s.row, s.column, s.came = row, column, action + 1
    if s.row == s.goal_row and s.column == s.goal_column:
        return 1.0, True
    return (p.discovery if code == OPEN else 0.0), False


@njit
def observe(s, p, obs):
    look(s, SIZE, obs)


@njit
def is_sound(s, size):
    """Whether agent and goal lie inside the outer wall, and that wall, which keeps the agent in, has no gap."""
    for i in range(size):
        for j in range(size):
            is_edge = i == 0 or j == 0 or i == size - 1 or j == size - 1
            if s.walls[i, j] > BEEN or (is_edge and s.walls[i, j] != WALL):
                return False
    return s.came <= 4 and is_inside(s.row, s.column, size) and is_inside(s.goal_row, s.goal_column, size)


@njit
def is_inside(row, column, size):
    return 0 < row < size - 1 and 0 < column < size - 1


@njit
def valid(s, p):
    return is_sound(s, SIZE)


@njit
def first_step(s, squares):
    """The direction in which the shortest way to the goal begins, in a perfect maze of so many squares.

    There is but one way. Whoever sets out into a passage and keeps a hand on the right wall sees all that lies beyond it, then
    is back; so it is the passage from which they come to the goal before they are back.
    """
    for first in range(4):
        row, column, heading = int(s.row) + DOWN[first], int(s.column) + RIGHT[first], first
        if s.walls[row, column] == WALL:
            continue
        for _ in range(2 * squares):  # no square is walked over more than once in each direction along the wall
            if row == s.goal_row and column == s.goal_column:
                return first
            if row == s.row and column == s.column:
                break
            for turn in (1, 0, 3, 2):  # to the right, straight on, to the left, back
                down, right = DOWN[(heading + turn) % 4], RIGHT[(heading + turn) % 4]
                if s.walls[row + down, column + right] != WALL:
                    row, column, heading = row + down, column + right, (heading + turn) % 4
                    break
    return 0


@njit
def scripted(s, p, action):
    action[0] = first_step(s, SIZE * SIZE)


def draw_maze(s, size, canvas):
    """The maze, the thread, where the agent has been, the goal, the agent and its window."""
    codes = s.walls[:size, :size].copy()
    codes[s.goal_row, s.goal_column] = 4
    canvas.tiles(codes, ["paper", "ink", "yellow", "mist", "leaf"])
    x, y = s.column + 0.5, size - s.row - 0.5
    large = size / 60  # so that they can still be found in a large one
    canvas.disc(s.goal_column + 0.5, size - s.goal_row - 0.5, max(0.42, large), color="leaf")
    canvas.disc(x, y, max(0.42, large), color="orange")
    reach = REACH + 0.5
    corners = [(x - reach, y - reach), (x + reach, y - reach), (x + reach, y + reach), (x - reach, y + reach)]
    canvas.path([*corners, corners[0]], color="blue", width=0.005 * size)


def draw(s, p, canvas):
    draw_maze(s, SIZE, canvas)


def shortest_way(walls, start, goal) -> list[int]:
    """The actions that lead from square `start` to square `goal`, as few as possible (breadth-first search)."""
    came_by = {start: -1}
    queue = deque([start])
    while goal not in came_by:
        row, column = queue.popleft()
        for action, (down, right) in enumerate(zip(DOWN, RIGHT, strict=True)):
            square = (row + down, column + right)
            if not walls[square] and square not in came_by:
                came_by[square] = action
                queue.append(square)
    way, square = [], goal
    while square != start:
        action = came_by[square]
        way.append(action)
        square = (square[0] - DOWN[action], square[1] - RIGHT[action])
    return way[::-1]


def optimal_steps(level: int) -> int:
    """The least number of steps that solves a level."""
    env = _one_maze()
    env.reset(options={"level": level})
    s = env.state[0]
    start, goal = (int(s["row"]), int(s["column"])), (int(s["goal_row"]), int(s["goal_column"]))
    return len(shortest_way(s["walls"] == WALL, start, goal))


@cache
def _one_maze():
    from envs.engine.vector import SimVectorEnv  # here, because a sim need not know who runs it

    return SimVectorEnv(SIM, 1, seed=0)


SIM = Sim(
    name="Maze",
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
        "random": Reference(0.1551, 0.0036, "uniform actions, 10,000 test levels"),
        "scripted": Reference(1.0, 0.0, "10,000 test levels"),
        "optimal": Reference(1.0, 0.0, "every goal can be reached, in 160 steps at most"),
    },
    observation_space=MultiBinary((WINDOW, WINDOW, PLANES)),
    action_space=Discrete(4),
    max_episode_steps=500,
    reward_threshold=0.95,
    levels=True,
    frame_rate=15,
)
