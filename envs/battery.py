"""Battery: buy electricity when it is cheap, keep it, and sell it when it is dear.

A battery of 20 kWh trades at the hour's price for a week. Prices follow the time of the day, and a market that is now and then
cheap or dear for many hours. All is counted in whole numbers: prices in 1/64 of a euro, cash in 1/1024, and rewards are exact.

**Action** `Discrete(5)`: in this hour sell 2 or 1 kWh (0, 1), do nothing (2), buy 1 or 2 kWh (3, 4), as far as the battery
has them or has room.

**Observation** `Box(8)`, float32. It shows the whole state:

| index | quantity | range |
|---|---|---|
| 0 | charge / 20 kWh | [0, 1] |
| 1 | hours left / 168 | [0, 1] |
| 2 | hours from noon / 12 | [0, 1] |
| 3 | hours from six in the evening / 12 | [0, 1] |
| 4 | price / (40/64 euro per kWh) | [0, 1] |
| 5, 6, 7 | 1 if the market is cheap, normal, dear | 0 or 1 |

The price is the hour's in `PROFILE`, halved in a cheap market and doubled in a dear one. After each hour the market moves: it
stays as it is with a probability of 0.95, and otherwise mostly goes to the next (`MARKET`).

**Reward** the cash of the hour in euros. To charge 1 kWh takes 17/16 kWh from the grid, and 1 kWh of charge gives 15/16 kWh
back, so 88 % come back of what was bought; and each kWh of charge or discharge wears the battery by `wear`.
**Start**: midnight, an empty battery, each market equally likely.
**End**: terminated after 168 hours; what is left in the battery is worth nothing. **Solved** at a mean return of 15.18, 98 %
of the optimum.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| wear | 1 | 1/64 euro per kWh charged or discharged |

**References**: the scripted baseline buys all it can at up to 8/64 euro and sells all it can from 14/64 on, the best two such
prices. The optimum is dynamic programming's over hours, markets and charges (`envs/reference/battery.py`). Whoever knew all
prices beforehand would earn 17.07 on average.

**Source**: our own. Storage as a sequential decision: Powell, "Reinforcement Learning and Stochastic Optimization", 2022.
"""

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Reference, Sim, njit, params, randint, state_dtype

CAPACITY = 20  # kWh
POWER = 2  # kWh an hour
HOURS = 168
CHEAP, NORMAL, DEAR = 0, 1, 2
CHARGING, DISCHARGING = 17, 15  # sixteenths of a kWh on the grid's side, for 1 kWh in the battery
# 1/64 euro per kWh in a normal market, from midnight on: cheap at night, a peak at eight and a higher one at seven. All even.
PROFILE = np.array([6, 6, 4, 4, 4, 6, 8, 12, 14, 12, 10, 8, 6, 6, 6, 8, 10, 14, 18, 20, 18, 14, 10, 8])
MARKET = np.array([[950, 45, 5], [25, 950, 25], [5, 45, 950]])  # in a thousand: from (row) to (column)
BUY, SELL = 8, 14

# `moved` (kWh) and `cash` (1/1024 euro) are the last hour's and the episode's, to be drawn.
State = state_dtype(charge="i4", market="i4", moved="i4", cash="i4")
Params = params(wear=1)


@njit
def price(s):
    return (PROFILE[s.elapsed % 24] << int(s.market)) >> 1


@njit
def reset(s, p):
    s.market = randint(s, 3)


@njit
def step(s, p, action):
    moved = min(max(action - POWER, -s.charge), CAPACITY - s.charge)
    drawn = moved * (CHARGING if moved > 0 else DISCHARGING)  # sixteenths of a kWh from the grid
    cash = -drawn * price(s) - 16 * p.wear * abs(moved)
    s.charge += moved
    s.moved = moved
    s.cash += cash

    market = int(s.market)
    draw = randint(s, 1000)
    cheap = MARKET[market, CHEAP]
    s.market = int(draw >= cheap) + int(draw >= cheap + MARKET[market, NORMAL])
    return cash / 1024.0, s.elapsed + 1 >= HOURS


@njit
def observe(s, p, obs):
    hour = s.elapsed % 24
    obs[0] = s.charge / 20.0
    obs[1] = (HOURS - s.elapsed) / 168.0
    obs[2] = abs(hour - 12) / 12.0
    obs[3] = abs((hour + 18) % 24 - 12) / 12.0
    obs[4] = price(s) / 40.0
    for market in range(3):
        obs[5 + market] = s.market == market


@njit
def valid(s, p):
    """Whether the charge is one the battery can hold, the market one of the three, and the hour one of the week's."""
    return 0 <= s.charge <= CAPACITY and 0 <= s.market <= DEAR and 0 <= s.elapsed <= HOURS


@njit
def scripted(s, p, action):
    action[0] = 2 * POWER if price(s) <= BUY else 0 if price(s) >= SELL else POWER


def draw(s, p, canvas):
    canvas.view(0.0, 26.0, 0.0, 26.0)
    hour, market = int(s.elapsed) % 24, int(s.market)
    night = hour < 6 or hour >= 20
    canvas.rectangle(0.0, 12.6, 26.0, 26.0, color="ink" if night else "mist")
    across = (hour - 20) % 24 / 9 if night else (hour - 6) / 13
    canvas.disc(3.0 + 20.0 * across, 23.3, 1.2, color="white" if night else "yellow")
    for h in range(24):  # the day's prices, if the market stays
        height = 0.24 * ((int(PROFILE[h]) << market) >> 1)
        now = ("leaf", "blue", "red")[market]
        canvas.rectangle(1.05 + h, 12.6, 1.95 + h, 12.6 + height, color=now if h == hour else "grey")
    canvas.rectangle(2.6, 2.6, 21.4, 10.4, color="ink")  # the battery, lying
    canvas.rectangle(21.4, 5.0, 22.6, 8.0, color="ink")
    canvas.rectangle(3.0, 3.0, 21.0, 10.0, color="paper")
    for unit in range(int(s.charge)):
        is_new = unit >= s.charge - s.moved
        canvas.rectangle(3.1 + 0.9 * unit, 3.2, 3.8 + 0.9 * unit, 9.8, color="orange" if is_new else "green")
    for unit in range(int(s.charge), int(s.charge - s.moved)):  # just sold
        canvas.rectangle(3.1 + 0.9 * unit, 3.2, 3.8 + 0.9 * unit, 9.8, color="yellow")
    canvas.text(13.0, 1.2, f"{s.cash / 1024:.2f} euro", 1.4)
    canvas.rectangle(0.0, 11.4, 26.0, 12.6, color="leaf")


SIM = Sim(
    name="Battery",
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
        "random": Reference(-6.3674, 0.0, "uniform actions, by dynamic programming"),
        "scripted": Reference(9.9955, 0.0, "the best two threshold prices, by dynamic programming"),
        "optimal": Reference(15.4916, 0.0, "dynamic programming over hours, markets and charges"),
    },
    observation_space=Box(0.0, 1.0, (8,), np.float32),
    action_space=Discrete(2 * POWER + 1),
    max_episode_steps=HOURS,
    reward_threshold=15.18,
    frame_rate=10,
)
