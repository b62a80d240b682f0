"""Scheduling: three queues, one server. Whom to serve next, when customers differ in patience, and waiting rooms are small?

In each slot the server works for the first customer of one queue, who leaves if the work gets done; a service may be
interrupted and taken up again. Then each queue may get a new customer; one who finds 6 others waiting is turned away.

**Action** `Discrete(3)`: the queue to serve. Where nobody waits, the server is idle.

| queue | arrivals a slot | service done in a slot | cost of a customer's waiting a slot |
|---|---|---|---|
| 0 | 0.20 | 0.80 | 1 |
| 1 | 0.15 | 0.50 | 3 |
| 2 | 0.08 | 0.25 | 4 |

Arrivals and services are Bernoulli. Were nobody turned away, the server would be busy in 87 % of the slots.

**Observation** `Box(3)`, float32: how many wait in each queue, the one being served included, / 6. It shows the whole state.

**Reward** minus the cost of the slot, a whole number: that of all who wait at its end, and `loss` for each customer turned away.
**Start**: all queues empty. **End**: never terminated; truncated after 1000 slots.
**Solved** at a mean return of -9477, 98 % of the way from random actions to the optimum.

**Parameters** (`env.params.*`):

| name | default | meaning |
|---|---|---|
| loss | 100 | cost of a customer turned away |

**References**: the scripted baseline is the c-mu rule: serve the queue in which a slot of work saves most, where cost times
service probability is largest of those that are not empty: 1, then 2, then 0. With room for all who come it is optimal, whatever
the arrivals and the horizon. Here it is not: it lets the others overflow. The optimum is dynamic programming's, of an agent who
knows when the episode ends; without that, it costs 9.553 a slot (`envs/reference/scheduling.py`).

**Source**: Buyukkoc, Varaiya, Walrand, "The c-mu rule revisited", Advances in Applied Probability 17(1), 1985; the small waiting
rooms are our own.
"""

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.engine import Reference, Sim, njit, params, randint, state_dtype

QUEUES = 3
ROOM = 6  # customers a queue
# In a thousand slots, and per slot.
ARRIVALS = np.array([200, 150, 80])
SERVICES = np.array([800, 500, 250])
COSTS = np.array([1, 3, 4])

# The last slot's, to be drawn: `served` (a queue, or 3 where the server was idle), `done`, and who came and was turned away.
State = state_dtype(
    waiting=("i4", (QUEUES,)), served="i4", done="i4", arrived=("i4", (QUEUES,)), rejected=("i4", (QUEUES,))
)
Params = params(loss=100)


@njit
def reset(s, p):
    s.served = QUEUES


@njit
def step(s, p, action):
    busy = s.waiting[action] > 0
    done = int(randint(s, 1000) < SERVICES[action] and busy)  # drawn in any case: arrivals do not depend on the policy
    s.waiting[action] -= done
    s.served = action if busy else QUEUES
    s.done = done

    cost = 0
    for k in range(QUEUES):
        arrived = int(randint(s, 1000) < ARRIVALS[k])
        rejected = int(arrived and s.waiting[k] >= ROOM)
        s.waiting[k] += arrived - rejected
        s.arrived[k] = arrived
        s.rejected[k] = rejected
        cost += COSTS[k] * s.waiting[k] + p.loss * rejected
    return -float(cost), False


@njit
def observe(s, p, obs):
    for k in range(QUEUES):
        obs[k] = s.waiting[k] / 6.0


@njit
def valid(s, p):
    """Whether there is room for all who wait."""
    fits = True
    for k in range(QUEUES):
        fits &= 0 <= s.waiting[k] <= ROOM
    return fits


@njit
def scripted(s, p, action):
    action[0] = 0
    best = 0
    for k in range(QUEUES):
        if s.waiting[k] > 0 and COSTS[k] * SERVICES[k] > best:
            action[0] = k
            best = COSTS[k] * SERVICES[k]


def draw(s, p, canvas):
    canvas.view(0.0, 20.0, 0.0, 20.0)
    canvas.rectangle(16.2, 2.0, 19.4, 18.0, color="shade")
    for k in range(QUEUES):
        y = 15.0 - 5.0 * k
        canvas.rectangle(4.2, y - 1.5, 15.8, y + 1.5, color="mist")
        for place in range(ROOM):
            canvas.disc(14.6 - 1.8 * place, y - 0.25, 0.75, color="shade")
        for place in range(int(s.waiting[k])):
            _customer(canvas, 14.6 - 1.8 * place, y, ("blue", "orange", "purple")[k])
        canvas.text(3.2, y, f"{COSTS[k]}", 1.4, color="grey")
        if s.rejected[k]:
            _customer(canvas, 1.5, y, "red")
            canvas.line(0.5, y - 1.1, 2.5, y + 0.9, color="ink", width=0.25)
        if s.served == k:
            canvas.line(15.8, y, 17.8, 10.0, color="green", width=0.5)
    canvas.disc(17.8, 10.0, 1.3, color="green" if s.served < QUEUES else "grey")
    canvas.disc(17.8, 10.0, 0.8, color="leaf" if s.done else "paper")


def _customer(canvas, x, y, color):
    canvas.disc(x, y - 0.5, 0.65, color=color)
    canvas.disc(x, y + 0.45, 0.42, color=color)


SIM = Sim(
    name="Scheduling",
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
        "random": Reference(-22650.97, 0.0, "uniform actions, by dynamic programming"),
        "scripted": Reference(-9938.69, 0.0, "the c-mu rule, by dynamic programming"),
        "optimal": Reference(-9208.42, 0.0, "dynamic programming over the 1000 slots"),
    },
    observation_space=Box(0.0, 1.0, (QUEUES,), np.float32),
    action_space=Discrete(QUEUES),
    max_episode_steps=1000,
    reward_threshold=-9477.0,
    frame_rate=5,
)
