"""2048: slide the tiles of a 4 x 4 board; equal ones that meet merge into one of twice the value.

The rules are those of the original game. A move slides every tile as far as it goes. Two equal tiles that meet merge, the
pair nearest to the wall that they move to first; a tile that has just been made merges with no other in the same move.
After a move a new tile, 2 or (once in ten) 4, comes to a free cell, each as likely as any other. A move that would change
nothing is not made: the next that does change something, clockwise, is made in its place. So every action is a move, and a
policy that always takes the best one cannot come to a standstill.

**Action** `Discrete(4)`: slide 0 up, 1 right, 2 down, 3 left.

**Observation** `MultiBinary((16, 18))`, a row for each cell c, row by row from the top left. It shows the whole state:

| column | 1 where |
|---|---|
| 0 | c is free |
| k, 1 to 15 | c holds the tile 2^k |
| 16 | c's tile merges with the next one to its right, if the row is slid |
| 17 | c's tile merges with the next one below it, if the column is slid |

**Reward** the sum of the tiles made by merging, as they are counted in the game's score: from 0 to some thousands.
**Start**: two new tiles. **End**: terminated when no move would change anything; truncated after 10,000 steps. A step adds at
most 4 to the sum of the tiles, so that two tiles of 32768, which could not merge here, never come about. **Solved** at a mean
return of 20,000, about what a game has when it makes its first 2048.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| fours | 10 | new tiles that are a 4, percent |
| points | 1 | reward for each point of the score |
| moves | 0 | reward for each move |

A game's score is nearly proportional to its length, and a reward that is the same for each move is learned from much sooner than
one that doubles with the tiles: train with `env.train_params.points=0 env.train_params.moves=1`.

**References**: the baseline looks one move, one new 2 and one more move ahead, and counts free cells, pairs that can merge, and
how far the lines are from falling or rising all the way. The best possible return is not known, and neither is a useful bound.
Players that learned the value of positions with n-tuple networks make a 2048 in over 97 % of games (Szubert and Jaśkowski,
"Temporal difference learning of n-tuple networks for the game 2048", CIG 2014).

**Source**: Cirulli, "2048", 2014; actions and the tiles' exponents as in Bonnet et al., "Jumanji: a diverse suite of scalable
reinforcement learning environments in JAX", ICLR 2024, which masks the moves that change nothing.
"""

import numpy as np
from gymnasium.spaces import Discrete, MultiBinary

from envs.engine import Reference, Sim, njit, params, randint, state_dtype

CELLS, LINES, COLUMNS = 16, 4, 18
TILE = 15  # a tile's four bits
ONES = 0x1111111111111111  # the lowest bit of each
# The bit of a line's first cell, the one that tiles move to: of line 0, from line to line, from cell to cell of a line.
FIRST, ACROSS, ALONG = (0, 12, 48, 0), (4, 16, 4, 16), (16, -4, -16, 4)
FREE_WORTH, PAIR_WORTH = 40, 20  # of a free cell and of a pair; exponents count cubed: great tiles keep together
WORST = -(2**62)

# Cell c's exponent is in the bits 4 c to 4 c + 3 of `board`; 0 is a free cell.
State = state_dtype(board="i8")
Params = params(fours=10, points=1.0, moves=0.0)


@njit
def slid(a, b, c, d):
    """A line of exponents after a move toward a, and the sum of the tiles that it made."""
    made = 0
    if c == 0:
        c, d = d, 0
    if b == 0:
        b, c, d = c, d, 0
    if a == 0:
        a, b, c, d = b, c, d, 0
    if a != 0 and a == b and a != TILE:
        a, b, c, d = a + 1, c, d, 0
        made += 1 << a
    if b != 0 and b == c and b != TILE:
        b, c, d = b + 1, d, 0
        made += 1 << b
    if c != 0 and c == d and c != TILE:
        c, d = c + 1, 0
        made += 1 << c
    return a, b, c, d, made


@njit
def moved(board, action):
    """The board after a move, before a new tile comes, and the sum of the tiles that it made."""
    after, made = np.int64(0), 0
    along = ALONG[action]
    for line in range(LINES):
        i = FIRST[action] + line * ACROSS[action]
        j, k, l = i + along, i + 2 * along, i + 3 * along
        a, b, c, d, sum_made = slid((board >> i) & TILE, (board >> j) & TILE, (board >> k) & TILE, (board >> l) & TILE)
        after |= (a << i) | (b << j) | (c << k) | (d << l)
        made += sum_made
    return after, made


@njit
def free_cells(board):
    """Bit 4 c is 1 where cell c is free."""
    return ~(board | (board >> 1) | (board >> 2) | (board >> 3)) & ONES


@njit
def num_free(board):
    free = 0
    for cell in range(CELLS):
        free += (board >> (4 * cell)) & TILE == 0
    return free


@njit
def with_new_tile(s, p, board):
    """The board with a 2 or a 4 on a free cell, of which there must be one."""
    nth = 1 + randint(s, num_free(board))
    tile = 2 if randint(s, 100) < p.fours else 1
    free = free_cells(board)
    counts = free * ONES  # in each cell's four bits: how many are free up to there (for 16, 0)
    place = free & free_cells(counts ^ (ONES * (nth & TILE)))
    return board | (place * tile)


@njit
def is_stuck(board):
    """Whether no move would change anything: the board is full and no neighbours are equal (which 32768s need not be)."""
    if free_cells(board) != 0:
        return False
    return moved(board, 0)[0] == board and moved(board, 1)[0] == board


@njit
def reset(s, p):
    s.board = with_new_tile(s, p, np.int64(0))
    s.board = with_new_tile(s, p, s.board)


@njit
def step(s, p, action):
    after, made = moved(s.board, action)
    for turn in range(1, 4):
        if after == s.board:
            after, made = moved(s.board, (action + turn) % 4)
    if after == s.board:  # only a board put here by hand
        return 0.0, True
    s.board = with_new_tile(s, p, after)
    return p.points * made + p.moves, is_stuck(s.board)


@njit
def next_tile(board, cell, stride, cells):
    """The first tile among so many cells beyond `cell`, 0 if all are free."""
    for i in range(cells):
        tile = (board >> (4 * (cell + stride * (i + 1)))) & TILE
        if tile:
            return tile
    return 0


@njit
def observe(s, p, obs):
    for cell in range(CELLS):
        for k in range(COLUMNS):
            obs[cell, k] = 0
        tile = (s.board >> (4 * cell)) & TILE
        obs[cell, tile] = 1
        if 0 < tile < TILE:
            obs[cell, 16] = next_tile(s.board, cell, 1, 3 - cell % 4) == tile
            obs[cell, 17] = next_tile(s.board, cell, 4, 3 - cell // 4) == tile


@njit
def worth_of_line(a, b, c, d):
    """Free cells and pairs that can merge, less what the line would have to lose to fall, or to rise, all the way."""
    free = int(a == 0) + int(b == 0) + int(c == 0) + int(d == 0)
    pairs = int(a != 0 and a == b) + int(b != 0 and b == c) + int(c != 0 and c == d)
    a, b, c, d = a * a * a, b * b * b, c * c * c, d * d * d
    rises = max(b - a, 0) + max(c - b, 0) + max(d - c, 0)
    falls = max(a - b, 0) + max(b - c, 0) + max(c - d, 0)
    return FREE_WORTH * free + PAIR_WORTH * pairs - min(rises, falls)


@njit
def worth(board):
    total = 0
    for line in range(LINES):
        row, column = board >> (16 * line), board >> (4 * line)
        total += worth_of_line(row & TILE, (row >> 4) & TILE, (row >> 8) & TILE, (row >> 12) & TILE)
        total += worth_of_line(column & TILE, (column >> 16) & TILE, (column >> 32) & TILE, (column >> 48) & TILE)
    return total


@njit
def best_worth(board):
    """What the board is worth after the best move; `WORST / 32` if there is none, so that sixteen can be added up."""
    best = WORST // 32
    for action in range(4):
        after, _ = moved(board, action)
        if after != board:
            best = max(best, worth(after))
    return best


@njit
def scripted(s, p, action):
    """The move with the best mean, over the free cells a new 2 may come to, of the best worth one move later."""
    best = WORST
    for a in range(4):
        after, _ = moved(s.board, a)
        if after == s.board:
            continue
        total = 0
        for cell in range(CELLS):
            if (after >> (4 * cell)) & TILE == 0:
                total += best_worth(after | (np.int64(1) << (4 * cell)))
        mean = total // num_free(after)
        if mean > best:
            best = mean
            action[0] = a


# Of a free cell and of the tiles 2 to 32768.
COLORS = ["mist", "shade", "yellow", "orange", "red", "purple", "blue", "green", "leaf", (44, 84, 128), (112, 62, 36)]
COLORS += [(202, 148, 16), "ink", (18, 92, 84), (120, 28, 62), (10, 10, 14)]


def draw(s, p, canvas):
    canvas.view(-0.06, 4.06, -0.06, 4.06)
    canvas.rectangle(-0.06, -0.06, 4.06, 4.06, color="grey")
    for cell, k in enumerate(exponents(s.board)):
        x, y = cell % 4 + 0.5, 3.5 - cell // 4
        canvas.rectangle(x - 0.45, y - 0.45, x + 0.45, y + 0.45, color=COLORS[k])
        if k:
            size = 0.42 if k < 10 else 0.34 if k < 14 else 0.27
            canvas.text(x, y, str(2**k), size, color="ink" if k < 4 else "white")


def exponents(board) -> list[int]:
    """The exponents of a board's sixteen tiles, row by row from the top left; 0 is a free cell."""
    return [int(board) >> 4 * cell & TILE for cell in range(CELLS)]


def board_of(exponents) -> int:
    """The board with these sixteen exponents, as `State` keeps it."""
    return int(np.uint64(sum(int(k) << 4 * cell for cell, k in enumerate(exponents))).astype(np.int64))


SIM = Sim(
    name="Game2048",
    version=1,
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    draw=draw,
    scripted=scripted,
    references={
        "random": Reference(1145.1, 5.6, "uniform actions, 10,000 episodes"),
        "scripted": Reference(36650.0, 250.0, "5,000 episodes"),
    },
    observation_space=MultiBinary((CELLS, COLUMNS)),
    action_space=Discrete(4),
    max_episode_steps=10_000,
    reward_threshold=20_000.0,
    frame_rate=5,
)
