"""Breakout: keep a ball in play with a paddle, and break a wall of bricks with it.

A game of cells and whole numbers: 12 rows of 10 cells, row 0 at the top. The bricks fill the rows from 2 on, two rows below the
ceiling; the paddle moves along row 11, the floor. In each step

1. the paddle moves a cell, or stays; at the side walls it stops;
2. the ball moves a cell to its side; where a side wall or a brick is, it turns round instead and keeps its column;
3. the ball moves a cell up or down; where the ceiling or a brick is, it turns round instead and keeps its row;
4. where it would go down to the floor it is either lost, or the paddle is there: then it turns upward and keeps its row. The
   paddle's first cell sends it to the left and the last one to the right; those between leave its direction as it is.

A brick that turns the ball is broken. So the ball always moves along diagonals, as a point does that bounces off the cells'
edges, and where it goes is decided by where on the paddle it lands. When a ball is lost and lives are left, and at the start, a
new paddle comes, anywhere, with a ball above its middle (of four cells, the third) that goes up to the left or to the right.

**Action** `Discrete(3)`: move the paddle 0 to the left, 1 not at all, 2 to the right.

**Observation** `MultiBinary((12, 10, 6))`, a cell by (row, column, plane). It shows the whole state:

| plane | 1 where |
|---|---|
| 0 | a brick is |
| 1 | the paddle is; in row 0, from the left, a cell for each life in reserve |
| 2, 3 | the ball is, on its way up and to the left, up and to the right |
| 4, 5 | the ball is, on its way down and to the left, down and to the right |

**Reward** 1 for a brick (a step may break two), else 0. **Start**: paddle and direction uniform, as above, and all bricks.
**End**: terminated when all bricks are broken, or the last ball is lost (it is shown on the floor then); truncated after 1000
steps. **Solved** at a mean return of 29; 30 are all bricks.

**Parameters** (`env.params.*`; beyond the limits, the limit):

| name | default | meaning |
|---|---|---|
| rows | 3 | rows of bricks, 1 to 6 |
| paddle | 3 | the paddle's cells, 2 to 8 |
| lives | 3 | balls, 1 to 10 |

**References**: the baseline follows the ball to where it will land and chooses, of all ways to send it off the paddle three
times, the one that breaks most bricks soonest. It breaks all 30 from each of the 16 possible starts, which nobody can better.
"""

from gymnasium.spaces import Discrete, MultiBinary

from envs.engine import Reference, Sim, njit, params, randint, state_dtype

ROWS, COLUMNS, PLANES = 12, 10, 6
FLOOR = ROWS - 1
TOP, MOST_ROWS = 2, 6  # of bricks
NARROWEST, WIDEST, MOST_LIVES = 2, 8, 10
FLIGHT = 1000  # steps, more than any from paddle to floor: from brick to brick, by way of the ceiling, it is 16 at most
AHEAD = 3  # flights that the baseline looks ahead
CONTACTS = 3  # ways to meet the ball: with the paddle's first cell, a middle one, the last one

# The ball is in a cell without a brick and moves by (down, right), each 1 or -1. Bit 10 r + c of `bricks` is the one in row
# TOP + r and column c; `paddle` is the column of the paddle's first cell.
State = state_dtype(row="u1", column="u1", down="i1", right="i1", paddle="u1", lives="u1", bricks="i8")
Params = params(rows=3, paddle=3, lives=3)


@njit
def width_of(p):
    return min(max(p.paddle, NARROWEST), WIDEST)


@njit
def brick_at(row, column):
    """The bit of a cell's brick; 0 above and below where bricks are."""
    return 1 << ((row - TOP) * COLUMNS + column) if TOP <= row < TOP + MOST_ROWS else 0


@njit
def flown(row, column, down, right, bricks):
    """Ball and bricks after rules 2 and 3, and the number of bricks broken."""
    broken = 0
    target = column + right
    if target < 0 or target >= COLUMNS:
        right = -right
    elif bricks & brick_at(row, target):
        bricks ^= brick_at(row, target)
        broken += 1
        right = -right
    else:
        column = target
    target = row + down
    if target < 0:
        down = -down
    elif bricks & brick_at(target, column):
        bricks ^= brick_at(target, column)
        broken += 1
        down = -down
    else:
        row = target
    return row, column, down, right, bricks, broken


@njit
def serve(s, p):
    width = width_of(p)
    s.paddle = randint(s, COLUMNS - width + 1)
    s.row, s.column = FLOOR - 1, s.paddle + width // 2
    s.down, s.right = -1, 2 * randint(s, 2) - 1


@njit
def reset(s, p):
    s.bricks = (1 << (COLUMNS * min(max(p.rows, 1), MOST_ROWS))) - 1
    s.lives = min(max(p.lives, 1), MOST_LIVES)
    serve(s, p)


@njit
def step(s, p, action):
    width = width_of(p)
    paddle = min(max(int(s.paddle) + action - 1, 0), COLUMNS - width)
    row, column, down, right, bricks, broken = flown(int(s.row), int(s.column), int(s.down), int(s.right), s.bricks)
    lost = False
    if row >= FLOOR:
        cell = column - paddle
        lost = cell < 0 or cell >= width
        if not lost:
            row, down = FLOOR - 1, -1
            right = -1 if cell == 0 else 1 if cell == width - 1 else right
    row = min(row, FLOOR)  # where a game that is over is played on
    s.row, s.column, s.down, s.right, s.paddle, s.bricks = row, column, down, right, paddle, bricks
    if lost:
        s.lives = max(int(s.lives) - 1, 0)
        if s.lives > 0:
            serve(s, p)
    return 1.0 * broken, bricks == 0 or s.lives == 0


@njit
def observe(s, p, obs):
    flat = obs.flat  # cell by cell, PLANES numbers each
    for k in range(ROWS * COLUMNS * PLANES):
        flat[k] = 0
    for brick in range(MOST_ROWS * COLUMNS):
        flat[(TOP * COLUMNS + brick) * PLANES] = (s.bricks >> brick) & 1
    for cell in range(width_of(p)):
        obs[FLOOR, s.paddle + cell, 1] = 1
    for spare in range(int(s.lives) - 1):
        obs[0, spare, 1] = 1
    obs[s.row, s.column, 3 + int(s.down) + (int(s.right) + 1) // 2] = 1


@njit
def valid(s, p):
    """Whether all is where it can be. Lives may be 0 and the ball on the floor: the end of an episode."""
    directions = (s.down == 1 or s.down == -1) and (s.right == 1 or s.right == -1)
    places = s.row < ROWS and s.column < COLUMNS and s.paddle <= COLUMNS - width_of(p) and s.lives <= MOST_LIVES
    bricks = 0 <= s.bricks < 1 << (COLUMNS * MOST_ROWS)
    return directions and places and bricks and not s.bricks & brick_at(int(s.row), int(s.column))


@njit
def landing(row, column, down, right, bricks):
    """Where the ball lands: column, direction, the bricks left, how many it has broken, and after how many steps."""
    total, steps = 0, 0
    for _ in range(FLIGHT):
        row, column, down, right, bricks, broken = flown(row, column, down, right, bricks)
        total += broken
        steps += 1
        if row == FLOOR:
            break
    return column, right, bricks, total, steps


@njit
def scripted(s, p, action):
    width = width_of(p)
    first = landing(int(s.row), int(s.column), int(s.down), int(s.right), s.bricks)
    best, goal = -1, int(s.column) - width // 2  # if no plan can be carried out, under the ball
    for plan in range(CONTACTS**AHEAD):  # a contact for each landing, as the digits of a number
        column, right, bricks, _, steps = first
        paddle, time, score, rest = int(s.paddle), 0, 0, plan
        for k in range(AHEAD):
            contact = rest % CONTACTS
            rest //= CONTACTS
            target = column - (0 if contact == 0 else width // 2 if contact == 1 else width - 1)
            if target < 0 or target > COLUMNS - width or abs(target - paddle) > steps:
                score = -1
                break
            right = -1 if target == column else 1 if target == column - width + 1 else right
            if k == 0:
                first_target = target
            paddle, time = target, time + steps
            column, right, bricks, broken, steps = landing(FLOOR - 1, column, -1, right, bricks)
            score += broken * (AHEAD * FLIGHT - time)
        if score > best:
            best, goal = score, first_target
    action[0] = 1 + (goal > s.paddle) - (goal < s.paddle)


BRICK_COLORS = ["red", "orange", "yellow", "leaf", "blue", "purple"]


def draw(s, p, canvas):
    canvas.view(-0.3, COLUMNS + 0.3, -0.2, ROWS + 0.2)
    canvas.rectangle(-0.3, -0.2, COLUMNS + 0.3, ROWS + 0.2, color="grey")
    canvas.rectangle(0.0, -0.2, COLUMNS, ROWS, color="paper")
    for row in range(MOST_ROWS):
        for column in range(COLUMNS):
            if int(s.bricks) >> (row * COLUMNS + column) & 1:
                y = ROWS - TOP - row
                canvas.rectangle(column + 0.05, y - 0.9, column + 0.95, y - 0.1, color=BRICK_COLORS[row])
    for spare in range(int(s.lives) - 1):
        canvas.disc(spare + 0.5, ROWS - 0.5, 0.18, color="mist")
    width = width_of(p)
    canvas.line(s.paddle + 0.25, 0.5, s.paddle + width - 0.25, 0.5, color="blue", width=0.45)
    x, y = s.column + 0.5, ROWS - s.row - 0.5
    canvas.line(x - 0.55 * s.right, y + 0.55 * s.down, x, y, color="mist", width=0.3)  # where it comes from
    canvas.disc(x, y, 0.32, color="ink")


SIM = Sim(
    name="Breakout",
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
        "random": Reference(5.195, 0.026, "uniform actions, 10,000 episodes"),
        "scripted": Reference(30.0, 0.0, "every start played"),
        "optimal": Reference(30.0, 0.0, "all bricks, which the baseline breaks"),
    },
    observation_space=MultiBinary((ROWS, COLUMNS, PLANES)),
    action_space=Discrete(3),
    max_episode_steps=1000,
    reward_threshold=29.0,
    frame_rate=15,
)
