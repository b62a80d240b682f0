"""Inventory: order stock that arrives periods later, while customers who find the shelf empty walk away.

The lost-sales test bed of Zipkin, 2008, with Poisson demand of mean 5. In each period, first the order is placed, then the
demand is seen and met as far as the shelf goes, the cost is charged, and at last the order placed `lead_time` - 1 periods
ago arrives (with a lead time of 1, the one just placed). No simple rule is optimal: what is worth ordering depends on when
each of the deliveries on their way will come. All is counted in whole numbers.

**Action** `Discrete(11)`: how many units to order. What would lift the stock on hand and on order above 40 is not ordered
(neither limit binds an optimal policy, for any penalty from 4 to 39).

**Observation** `Box(4)`, float32. It shows the whole state:

| index | quantity | unit |
|---|---|---|
| 0 | stock on the shelf | 10 units |
| 1 | delivery at the end of this period (0 if the lead time is 1) | 10 units |
| 2 | delivery one period later (0 if it is less than 3) | 10 units |
| 3 | delivery two periods later (0 if it is less than 4) | 10 units |

**Reward** minus the cost of the period: `holding` for each unit left on the shelf after the sales, and `penalty` for each
customer lost. It is not scaled: -return / 1000 is the average cost that the literature gives.
**Start**: 5 units on the shelf and in each delivery on its way, which is what an average period takes.
**End**: never terminated; truncated after 1000 periods, so long that start and end hardly count (0.05 % of the optimum).
**Solved** at a mean return of -4823, an average cost within 2 % of the optimum, 4.7285.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| lead_time | 4 | periods from an order to the first demand that it can meet, less one; 1 to 4 |
| holding | 1 | cost of a unit left over |
| penalty | 4 | cost of a lost customer |

**References**: the scripted baseline orders up to the base-stock level that is best for the lead time and the penalty (those
of the test bed; for others, the next lower penalty's): an average cost of 5.195, and 5.190 in an episode. Capped at orders of
5 and with a level of 26, base stock costs 4.798. The optimum is that of an agent who knows when the episode ends; without
that, it is 4.7285 per period. `envs/reference/inventory.py` computes all of them, and Zipkin's table.

**Source**: Zipkin, "Old and new methods for lost-sales inventory systems", Operations Research 56(5), 2008.
"""

from decimal import Decimal, localcontext

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Reference, Sim, njit, params, randint, state_dtype

MEAN = 5  # demand of a period
LONGEST = 4  # lead time
CAPACITY = 40  # units on hand and on order
LARGEST_ORDER = 10
DRAWS = 2**32


def _poisson_thresholds(mean):
    """2^32 P(demand <= k), rounded, for k = 0, 1, ... as long as it is below 2^32. Decimals: the same on every machine."""
    with localcontext() as context:
        context.prec = 50
        term = total = (-Decimal(mean)).exp()
        thresholds = []
        while (threshold := round(total * DRAWS)) < DRAWS:
            thresholds.append(threshold)
            term *= Decimal(mean) / len(thresholds)
            total += term
    return np.array(thresholds, np.int64)


THRESHOLDS = _poisson_thresholds(MEAN)

# The best base-stock levels, by lead time (1 to 4) and penalty (4, 9, 19, 39 times the holding cost).
LEVELS = np.array([[12, 13, 15, 16], [16, 19, 21, 22], [20, 23, 26, 28], [25, 28, 31, 33]])

# pipeline[i] arrives at the end of the i-th period from now; `demand` and `lost` are the last period's, to be drawn.
State = state_dtype(on_hand="i4", pipeline=("i4", (LONGEST,)), demand="i4", lost="i4")
Params = params(lead_time=4, holding=1, penalty=4)


@njit
def lead_time(p):
    return min(max(p.lead_time, 1), LONGEST)


@njit
def poisson(s):
    draw = randint(s, DRAWS)
    demand = 0
    for k in range(len(THRESHOLDS)):
        demand += draw >= THRESHOLDS[k]
    return demand


@njit
def position(s):
    """The stock on hand and on order."""
    total = int(s.on_hand)
    for i in range(LONGEST):
        total += s.pipeline[i]
    return total


@njit
def reset(s, p):
    s.on_hand = MEAN
    for i in range(lead_time(p) - 1):
        s.pipeline[i] = MEAN


@njit
def step(s, p, action):
    s.pipeline[lead_time(p) - 1] = min(action, CAPACITY - position(s))
    demand = poisson(s)
    sold = min(demand, int(s.on_hand))
    left = s.on_hand - sold
    cost = p.holding * left + p.penalty * (demand - sold)

    s.on_hand = left + s.pipeline[0]
    for i in range(LONGEST - 1):
        s.pipeline[i] = s.pipeline[i + 1]
    s.pipeline[LONGEST - 1] = 0
    s.demand, s.lost = demand, demand - sold
    return -float(cost), False


@njit
def observe(s, p, obs):
    obs[0] = s.on_hand / 10.0
    for i in range(LONGEST - 1):
        obs[1 + i] = s.pipeline[i] / 10.0


@njit
def valid(s, p):
    """Whether nothing is negative, nothing beyond the lead time on its way, and all of it within the capacity."""
    for i in range(LONGEST):
        if s.pipeline[i] < 0 or s.pipeline[i] > CAPACITY or (s.pipeline[i] > 0 and i >= lead_time(p) - 1):
            return False
    return 0 <= s.on_hand <= CAPACITY and position(s) <= CAPACITY


@njit
def scripted(s, p, action):
    column = 0
    for penalty in (9, 19, 39):
        column += p.penalty >= penalty * p.holding
    action[0] = min(max(LEVELS[lead_time(p) - 1, column] - position(s), 0), LARGEST_ORDER)


def draw(s, p, canvas):
    canvas.view(0.0, 20.0, 0.0, 20.0)
    canvas.rectangle(0.0, 0.0, 20.0, 2.0, color="mist")
    for i in range(int(lead_time(p)) - 1):  # lorries on their way to the shop, the next one in front
        x = 8.4 + 3.9 * i
        canvas.rectangle(x, 1.9, x + 0.6, 3.2, color="ink")
        canvas.rectangle(x + 0.6, 1.9, x + 3.4, 2.2, color="ink")
        for wheel in (0.6, 2.8):
            canvas.disc(x + wheel, 1.8, 0.4, color="grey")
        _boxes(canvas, int(s.pipeline[i]), x + 0.7, 2.3, 3, "orange")
        canvas.text(x + 1.9, 0.8, f"{s.pipeline[i]}", 1.0)
    canvas.rectangle(0.4, 1.6, 7.9, 2.0, color="ink")  # the shop, and its shelf
    canvas.rectangle(0.4, 2.0, 0.7, 13.4, color="ink")
    canvas.polygon([(0.2, 13.4), (1.2, 15.0), (7.1, 15.0), (8.1, 13.4)], color="red" if s.lost else "green")
    _boxes(canvas, int(s.on_hand), 1.0, 2.1, 5, "blue", size=1.25)
    canvas.text(4.2, 0.8, f"{s.on_hand}", 1.0)
    for i in range(int(s.demand)):  # the period's customers: those who bought, and those who left
        served = i < s.demand - s.lost
        x, y = 0.9 + 1.25 * (i % 15), 18.2 - 1.7 * (i // 15)
        canvas.disc(x, y, 0.32, color="green" if served else "red")
        canvas.rectangle(x - 0.4, y - 1.0, x + 0.4, y - 0.35, color="leaf" if served else "orange")


def _boxes(canvas, count, left, bottom, across, color, size=0.9):
    for i in range(count):
        x, y = left + size * (i % across), bottom + size * (i // across)
        canvas.rectangle(x + 0.05, y + 0.05, x + size - 0.05, y + size - 0.05, color=color)


SIM = Sim(
    name="Inventory",
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
        "random": Reference(-9694.9, 4.8, "uniform actions, 10,000 episodes"),
        "scripted": Reference(-5189.46, 0.0, "base stock 25, computed from its Markov chain"),
        "optimal": Reference(-4725.96, 0.0, "dynamic programming over the 1000 periods"),
    },
    observation_space=Box(0.0, CAPACITY / 10.0, (LONGEST,), np.float32),
    action_space=Discrete(LARGEST_ORDER + 1),
    max_episode_steps=1000,
    reward_threshold=-4823.0,
    frame_rate=5,
)
