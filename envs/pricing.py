"""Pricing: sell 25 seats before the flight leaves, at a price that may change in each of 200 periods.

The problem of Gallego and van Ryzin, 1994, in discrete time. A seat that is not sold in the end is worth nothing: so the best
price falls as time passes, and jumps up with every sale. The state is all whole numbers, and rewards are exact.

**Action** `Discrete(20)`: the price in this period, 0.5 + 0.125 `action`: from 0.5 to 2.875.

**Observation** `Box(2)`, float32. It shows the whole state:

| index | quantity | unit |
|---|---|---|
| 0 | seats left | 25 |
| 1 | periods left | 200 |

In each period a customer comes with a probability of 0.8, and buys at the price x with a probability of exp(-x); the product
is rounded to a multiple of 2^-32.

**Reward** the price, if a seat is sold, else 0. **Start**: 25 seats, 200 periods.
**End**: terminated with the last seat, or after 200 periods. **Solved** at a mean return of 43.71, 98 % of the optimum.

**Parameters**: none.

**References**: the scripted baseline asks for the best fixed price, 1.875, all the time. The optimum is dynamic
programming's (`envs/reference/pricing.py`), which tends to Gallego and van Ryzin's formula as periods become short and prices
many; that formula gives 44.41 here.

**Source**: Gallego, van Ryzin, "Optimal dynamic pricing of inventories with stochastic demand over finite horizons",
Management Science 40(8), 1994.
"""

from decimal import Decimal, localcontext

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Reference, Sim, njit, params, randint, state_dtype

SEATS = 25
PERIODS = 200
PRICES = 20
LOWEST = 4  # prices are whole eighths: LOWEST + action
CUSTOMERS = "0.8"  # a period
DRAWS = 2**32


def _sale_thresholds():
    """2^32 P(a seat is sold in a period) for each action, rounded. Decimals: the same on every machine."""
    with localcontext() as context:
        context.prec = 50
        chances = [Decimal(CUSTOMERS) * (-Decimal(LOWEST + action) / 8).exp() for action in range(PRICES)]
        return np.array([round(chance * DRAWS) for chance in chances], np.int64)


THRESHOLDS = _sale_thresholds()
BEST_FIXED = 11  # action

# `price` (eighths) and `sold` are the last period's, and `revenue` (eighths) the episode's, to be drawn.
State = state_dtype(seats="i4", price="i4", sold="i4", revenue="i4")
Params = params()


@njit
def reset(s, p):
    s.seats = SEATS


@njit
def step(s, p, action):
    sold = int(randint(s, DRAWS) < THRESHOLDS[action])
    s.price, s.sold = LOWEST + action, sold
    s.seats -= sold
    s.revenue += sold * s.price
    return 0.125 * (sold * s.price), s.seats <= 0 or s.elapsed + 1 >= PERIODS


@njit
def observe(s, p, obs):
    obs[0] = s.seats / float(SEATS)
    obs[1] = (PERIODS - s.elapsed) / float(PERIODS)


@njit
def valid(s, p):
    """Whether there is a seat to sell, or was until the last period, and time for it."""
    return 0 <= s.seats <= SEATS and 0 <= s.elapsed <= PERIODS


@njit
def scripted(s, p, action):
    action[0] = BEST_FIXED


def draw(s, p, canvas):
    canvas.view(-1.0, 21.0, 0.0, 22.0)
    canvas.rectangle(1.4, 3.4, 11.6, 16.6, color="mist")  # the cabin, with an aisle in the middle
    canvas.disc(6.5, 16.6, 5.1, color="mist")
    canvas.rectangle(6.9, 3.4, 8.1, 16.6, color="shade")
    for seat in range(SEATS):
        row, column = seat // 5, seat % 5
        x, y = 1.9 + 1.75 * column + 1.0 * (column > 2), 14.2 - 2.5 * row
        is_sold = seat < SEATS - s.seats
        is_new = s.sold and seat == SEATS - s.seats - 1
        color = "orange" if is_new else "blue" if is_sold else "white"
        canvas.rectangle(x, y, x + 1.3, y + 1.6, color=color)
        canvas.rectangle(x, y - 0.4, x + 1.3, y - 0.1, color="ink" if is_sold else "grey")
    canvas.rectangle(14.0, 4.0, 18.6, 17.4, color="shade")  # the price, on its scale
    top = 4.2 + 13.2 * s.price / (LOWEST + PRICES)
    canvas.rectangle(14.0, 4.0, 18.6, top, color="orange" if s.sold else "leaf")
    canvas.text(16.3, min(top + 0.8, 18.2), f"{s.price / 8:.3f}", 1.1)
    canvas.text(16.3, 2.9, "price", 0.9, color="grey")
    canvas.text(6.5, 17.6, f"{s.revenue / 8:.3f}", 1.3)
    canvas.rectangle(1.4, 1.0, 18.6, 1.6, color="mist")  # the time
    canvas.rectangle(1.4, 1.0, 1.5 + 17.1 * s.elapsed / PERIODS, 1.6, color="purple")


SIM = Sim(
    name="Pricing",
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
        "random": Reference(30.3663, 0.0, "uniform actions, by dynamic programming"),
        "scripted": Reference(42.9554, 0.0, "the best fixed price, by dynamic programming"),
        "optimal": Reference(44.5997, 0.0, "dynamic programming over 25 seats and 200 periods"),
    },
    observation_space=Box(0.0, 1.0, (2,), np.float32),
    action_space=Discrete(PRICES),
    max_episode_steps=PERIODS,
    reward_threshold=43.71,
    frame_rate=15,
)
