"""Snake: eat fruit, grow by one cell for each, and hit neither the wall nor yourself.

The rules are those of Jumanji's `Snake-v1` on a board of 12 x 12 cells. The cell that the tail leaves in a step may be
entered in that step; so a snake of two cells may turn about.

**Action** `Discrete(4)`: move the head 0 up, 1 right, 2 down, 3 left.

**Observation** `MultiBinary((13, 13, 7))`, a cell by (row, column, plane), row 0 at the top: the board moved so that the head is
in the middle, at (6, 6). What is moved out on one side comes in on the other; the wall, one row and one column, lies between the
board's ends. It shows the whole state:

| plane | 1 where |
|---|---|
| 0 | the wall is |
| 1 | the tail is (in the middle, while the snake is one cell long) |
| 2 | the fruit is |
| 3, 4, 5, 6 | the body is, and its next cell toward the head lies up, right, down, left |

**Reward** 1 for a fruit, else 0. **Start**: a snake of one cell, anywhere; the fruit on any other cell. A new fruit is
uniform on the free cells. **End**: terminated when the head would leave the board or enter the body (the observation is
then the one before the crash), or when the snake fills the board; truncated after 4000 steps.
**Solved** at a mean return of 60; 143 fills the board. For comparison, going round and round on one tour of the board
(`hamiltonian_policy`) never crashes and eats 75 fruits in 4000 steps.

**Parameters**: none.

**Baseline** (`scripted`): along that tour, but by short cuts that pass neither the fruit nor the tail, as long as the snake
covers less than half of the board. It fills the board in 2911 steps on average.

**References** (mean return, `SIM.references`):

| policy | return |
|---|---|
| random | 0.1 |
| scripted | 143.0 |
| optimal | 143.0 |

**Source**: Bonnet et al., "Jumanji: a diverse suite of scalable reinforcement learning environments in JAX", ICLR 2024.
"""

import numpy as np
from gymnasium.spaces import Discrete, MultiBinary

from envs.engine import Reference, Sim, njit, params, randint, state_dtype

SIZE = 12
CELLS = SIZE * SIZE
PLANES = 7
SIDE, MIDDLE = SIZE + 1, SIZE // 2  # of the observation
NOWHERE = CELLS  # the fruit's cell when the board is full
STEP_TO = (0, -SIZE, 1, SIZE, -1)  # from a body cell to the next, by its code
FREE, HEAD = 0, 5  # codes of `trail`; 1, 2, 3, 4: body whose next cell toward the head lies up, right, down, left

# Cells are numbered row by row from the top left.
State = state_dtype(head="u1", tail="u1", fruit="u1", length="u1", trail=("u1", (CELLS,)))
Params = params()


@njit
def neighbour(cell, direction):
    """The next cell up, right, down or left (0 to 3); -1 beyond the wall."""
    row, column = cell // SIZE, cell % SIZE
    if direction == 0:
        return cell - SIZE if row > 0 else -1
    if direction == 1:
        return cell + 1 if column < SIZE - 1 else -1
    if direction == 2:
        return cell + SIZE if row < SIZE - 1 else -1
    return cell - 1 if column > 0 else -1


@njit
def free_cell(s):
    """A cell drawn uniformly from those without snake."""
    skip = randint(s, CELLS - s.length)
    for cell in range(CELLS):
        if s.trail[cell] == FREE:
            if skip == 0:
                return cell
            skip -= 1
    return NOWHERE


@njit
def reset(s, p):
    s.head = s.tail = randint(s, CELLS)
    s.trail[s.head] = HEAD
    s.length = 1
    s.fruit = free_cell(s)


@njit
def step(s, p, action):
    target = neighbour(int(s.head), action)
    if target < 0 or (s.trail[target] != FREE and target != s.tail):
        return 0.0, True

    eats = target == s.fruit
    s.trail[s.head] = action + 1
    if not eats:  # the tail follows
        tail = s.tail
        s.tail = neighbour(int(tail), s.trail[tail] - 1)
        s.trail[tail] = FREE
    s.trail[target] = HEAD
    s.head = target
    if not eats:
        return 0.0, False
    s.length += 1
    if s.length == CELLS:
        s.fruit = NOWHERE
        return 1.0, True
    s.fruit = free_cell(s)
    return 1.0, False


@njit
def shown_at(cell, down, right):
    """Where a cell of the board is in the observation's plane 0, given how far the board is moved."""
    return PLANES * (SIDE * moved(cell // SIZE, down) + moved(cell % SIZE, right))


@njit
def moved(x, by):
    """A row or column, 0 to 12, after it has moved on by -5 to 6."""
    x += by
    if x < 0:
        return x + SIDE
    return x - SIDE if x >= SIDE else x


@njit
def observe(s, p, obs):
    flat = obs.flat  # half the time that three indices take
    for k in range(PLANES * SIDE * SIDE):
        flat[k] = 0
    down, right = MIDDLE - int(s.head) // SIZE, MIDDLE - int(s.head) % SIZE
    wall_row, wall_column = moved(SIZE, down), moved(SIZE, right)
    for k in range(SIDE):
        flat[PLANES * (SIDE * wall_row + k)] = 1
        flat[PLANES * (SIDE * k + wall_column)] = 1
    cell = int(s.tail)
    flat[shown_at(cell, down, right) + 1] = 1
    for _ in range(int(s.length) - 1):
        code = int(s.trail[cell])
        flat[shown_at(cell, down, right) + 2 + code] = 1
        cell += STEP_TO[code]
    if s.fruit != NOWHERE:
        flat[shown_at(int(s.fruit), down, right) + 2] = 1


@njit
def valid(s, p):
    """Whether `trail` leads from tail to head in `length` cells, all others are free, and so is the fruit's."""
    if s.head >= CELLS or s.tail >= CELLS or s.fruit > NOWHERE or not 0 < s.length <= CELLS:
        return False
    if s.fruit != NOWHERE and s.trail[s.fruit] != FREE:
        return False
    cell = int(s.tail)
    for _ in range(s.length - 1):
        if not FREE < s.trail[cell] < HEAD:
            return False
        cell = neighbour(cell, s.trail[cell] - 1)
        if cell < 0:
            return False
    covered = 0
    for other in range(CELLS):
        covered += s.trail[other] != FREE
    return cell == s.head and s.trail[cell] == HEAD and covered == s.length


@njit
def place_on_tour(cell):
    """A cell's place on one closed tour of the board, 0 to 143: down in zigzags, back up the first column."""
    row, column = cell // SIZE, cell % SIZE
    if column == 0:
        return (CELLS - row) % CELLS
    return 1 + (SIZE - 1) * row + (column - 1 if row % 2 == 0 else SIZE - 1 - column)


@njit
def ahead(cell, other):
    """How many cells of the tour `other` is ahead of `cell`: 0 to 143."""
    return (place_on_tour(other) - place_on_tour(cell) + CELLS) % CELLS


@njit
def scripted(s, p, action):
    head = int(s.head)
    # From head to tail along the tour all is free, and remains so if the head never passes the tail, which is about to
    # leave its cell.
    furthest = ahead(head, int(s.fruit)) if s.length < CELLS // 2 else 1
    if s.length > 1:
        furthest = max(1, min(furthest, ahead(head, int(s.tail)) - 1))
    best = 0
    for direction in range(4):
        cell = neighbour(head, direction)
        if cell >= 0 and best < ahead(head, cell) <= furthest:
            best = ahead(head, cell)
            action[0] = direction


def draw(s, p, canvas):
    rows, columns = np.indices((SIZE, SIZE))
    canvas.tiles((rows + columns) % 2, ["paper", "shade"])
    if s.fruit != NOWHERE:
        canvas.disc(*_centre(s.fruit), 0.34, color="red")
    body = [_centre(cell) for cell in body_cells(s)]
    canvas.path([body[0], *body], color="green", width=0.72)
    canvas.path([body[0], *body], color="leaf", width=0.24)
    (x, y), (back_x, back_y) = body[-1], body[-2] if len(body) > 1 else (body[-1][0], body[-1][1] - 1)
    ahead_x, ahead_y = x - back_x, y - back_y
    canvas.disc(x, y, 0.42, color="green")
    for side in (-0.18, 0.18):
        canvas.disc(x + 0.1 * ahead_x - side * ahead_y, y + 0.1 * ahead_y + side * ahead_x, 0.11, color="white")
        canvas.disc(x + 0.14 * ahead_x - side * ahead_y, y + 0.14 * ahead_y + side * ahead_x, 0.06, color="ink")


def _centre(cell):
    return cell % SIZE + 0.5, SIZE - cell // SIZE - 0.5


def body_cells(s) -> list[int]:
    """The snake's cells from the tail to the head."""
    cells = [int(s.tail)]
    while cells[-1] != s.head:
        cells.append(cells[-1] + STEP_TO[int(s.trail[cells[-1]])])
    return cells


def _hamiltonian_cycle():
    """For each cell, the action along one closed tour of the board: down in zigzags, back up the first column."""
    action = np.empty((SIZE, SIZE), np.int64)
    action[0::2, :-1], action[0::2, -1] = 1, 2  # even rows: to the right, then down
    action[1::2, 2:], action[1::2, 1] = 3, 2  # odd rows: to the left, then down
    action[-1, 1] = 3
    action[1:, 0] = 0
    return action.reshape(-1)


HAMILTONIAN_CYCLE = _hamiltonian_cycle()


def hamiltonian_policy(obs):
    """A scripted player that fills the board, given steps enough: actions (N,) for observations (N, 13, 13, 7)."""
    wall = obs[..., 0].sum(axis=2), obs[..., 0].sum(axis=1)  # the row and the column that are full
    row, column = ((SIZE + MIDDLE - full.argmax(axis=1)) % SIDE for full in wall)
    return HAMILTONIAN_CYCLE[SIZE * row + column]


SIM = Sim(
    name="Snake",
    version=1,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    valid=valid,
    observation_space=MultiBinary((SIDE, SIDE, PLANES)),
    action_space=Discrete(4),
    max_episode_steps=4000,
    reward_threshold=60.0,
    frame_rate=15,
    references={
        "random": Reference(0.1037, 0.0033, "uniform actions, 10 000 test episodes"),
        "scripted": Reference(143.0, 0.0, "10 000 test episodes, each of which filled the board"),
        "optimal": Reference(143.0, 0.0, "the full board, which the baseline reaches"),
    },
)
