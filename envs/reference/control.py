"""What is best on the control sims: `python -m envs.reference.control pendulum`.

MountainCar, MountainCarContinuous and Pendulum have two numbers as their state: dynamic programming on a grid, over as many
steps as an episode has. The value between nodes is bilinear, which is wrong by an amount that shrinks with the grid: the
value on the finest grid is taken for the optimum, and its difference from the next one for the error. The policy that is
greedy with respect to the values, played in the sim itself, cannot earn more than the optimum: a check from below.

Acrobot has four. A beam search from each start, in the sim itself, finds plans that reach the line; the optimum is at least
what they earn.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import get_num_threads, njit
from numpy.typing import NDArray

import envs
from envs.registration import get_sim

Interval = tuple[float, float]


@njit
def put_car(s, x, v):
    s.position, s.velocity = x, v


@njit
def see_car(s):
    return s.position, s.velocity


@njit
def put_pendulum(s, x, v):
    s.theta, s.theta_dot = x, v


@njit
def see_pendulum(s):
    return s.theta - 2.0 * math.pi * math.floor((s.theta + math.pi) / (2.0 * math.pi)), s.theta_dot


@dataclass(frozen=True)
class Problem:
    """A sim whose state is a point of a rectangle. put, see: write and read the point. actions: those considered."""

    put: Callable
    see: Callable
    box: tuple[Interval, Interval]
    start: tuple[Interval, Interval]  # of a new episode, uniform
    actions: NDArray
    grids: tuple[int, ...]  # nodes along each side


def throttles(n: int) -> NDArray:
    """n actions (n, 1) from -1 to 1, closer to each other near 0, where the best ones are."""
    steps = np.linspace(-1.0, 1.0, n)
    return (np.sign(steps) * steps**2)[:, None]


TRACK = ((-1.2, 0.6), (-0.07, 0.07))
VALLEY = ((-0.6, -0.4), (0.0, 0.0))
CIRCLE = (-math.pi, math.pi)
PROBLEMS = {
    "mountaincar": Problem(put_car, see_car, TRACK, VALLEY, np.arange(3), (501, 1001, 2001)),
    "mountaincar_continuous": Problem(put_car, see_car, TRACK, VALLEY, throttles(25), (101, 201, 401)),
    "pendulum": Problem(
        put_pendulum,
        see_pendulum,
        (CIRCLE, (-8.0, 8.0)),
        (CIRCLE, (-1.0, 1.0)),
        np.linspace(-2.0, 2.0, 9)[:, None],
        (257, 513, 1025),
    ),
}


@njit(error_model="numpy")
def bilinear(value, box, x, v):
    """The value at the point (x, v) of the box that the nodes value[i, j] cover evenly."""
    x = (x - box[0, 0]) / (box[0, 1] - box[0, 0]) * (value.shape[0] - 1)
    v = (v - box[1, 0]) / (box[1, 1] - box[1, 0]) * (value.shape[1] - 1)
    i, j = min(int(x), value.shape[0] - 2), min(int(v), value.shape[1] - 2)
    a, b = x - i, v - j
    low = value[i, j] + b * (value[i, j + 1] - value[i, j])
    high = value[i + 1, j] + b * (value[i + 1, j + 1] - value[i + 1, j])
    return low + a * (high - low)


@njit(error_model="numpy")
def best_action(step, put, see, s, p, actions, box, value, x, v):
    """(index of the best action in the point (x, v), what it earns) if `value` is what the rest of the episode earns."""
    best, best_k = -np.inf, 0
    for k in range(len(actions)):
        put(s, x, v)
        earned, terminated = step(s, p, actions[k])
        if not terminated:
            next_x, next_v = see(s)
            earned += bilinear(value, box, next_x, next_v)
        if earned > best:
            best, best_k = earned, k
    return best_k, best


@njit(error_model="numpy", nogil=True)
def backup(low, high, step, put, see, scratch, p, actions, box, value, out):
    """Rows low to high of out = the value with one step more to go. scratch: a state record for each row."""
    x0, x1, v0, v1 = box[0, 0], box[0, 1], box[1, 0], box[1, 1]
    rows, columns = value.shape
    for i in range(low, high):
        for j in range(columns):
            x, v = x0 + (x1 - x0) * i / (rows - 1), v0 + (v1 - v0) * j / (columns - 1)
            out[i, j] = best_action(step, put, see, scratch[i], p[0], actions, box, value, x, v)[1]


@njit(error_model="numpy")
def play(step, put, see, scratch, p, actions, box, values, starts, horizon, out):
    """out[i] = the return from starts[i] of the policy that is greedy for values[k], k steps before the end."""
    s = scratch[0]
    for i in range(len(starts)):
        x, v = starts[i]
        out[i] = 0.0
        for left in range(horizon - 1, -1, -1):
            k, _ = best_action(step, put, see, s, p[0], actions, box, values[min(left, len(values) - 1)], x, v)
            put(s, x, v)
            earned, terminated = step(s, p[0], actions[k])
            x, v = see(s)
            out[i] += earned
            if terminated:
                break


def in_pieces(kernel: Callable, n: int, *rest: Any) -> None:
    """kernel(low, high, *rest) on all of 0 to n, a piece for each core."""
    cores = get_num_threads()
    edges = [n * k // cores for k in range(cores + 1)]
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda low, high: kernel(low, high, *rest), edges[:-1], edges[1:]))


def arguments(name: str, rows: int, params: Mapping[str, float], actions: NDArray | None) -> tuple:
    """What `backup` and `play` begin with."""
    sim, problem = get_sim(name), PROBLEMS[name]
    p = np.zeros(1, sim.params.dtype("float64"))
    for field, default in sim.params.defaults.items():
        p[field] = params.get(field, default)
    scratch = np.zeros(rows, sim.state.dtype("float64"))
    actions = problem.actions if actions is None else actions
    return sim.step, problem.put, problem.see, scratch, p, actions, np.array(problem.box)


def value_function(
    name: str, nodes: int, *, horizon: int = 0, keep: bool = False, params: Mapping[str, float] = {}, actions=None
) -> NDArray:
    """values[k, i, j]: the best return of k steps from node (i, j); of the whole episode only, unless all are to be kept."""
    before, after = np.zeros((nodes, nodes)), np.zeros((nodes, nodes))
    kept = [before.astype(np.float32)]
    first = arguments(name, nodes, params, actions)
    for _ in range(horizon or get_sim(name).max_episode_steps):
        in_pieces(backup, nodes, *first, before, after)
        before, after = after, before
        if keep:
            kept.append(before.astype(np.float32))
    return np.array(kept) if keep else before[None]


def starts(name: str, count: int = 2000) -> NDArray:
    """Points (about `count`, 2) that are spread evenly over those in which episodes begin."""
    first, second = PROBLEMS[name].start
    across = 1 if second[0] == second[1] else round(math.sqrt(count / 4))
    x, v = (
        low + (high - low) * (np.arange(n) + 0.5) / n for n, (low, high) in ((count // across, first), (across, second))
    )
    return np.stack(np.meshgrid(x, v, indexing="ij"), axis=-1).reshape(-1, 2)


def value_at_start(name: str, values: NDArray) -> float:
    """The mean over starts of what an episode earns, according to `values`."""
    box = np.array(PROBLEMS[name].box)
    return float(np.mean([bilinear(values[-1], box, x, v) for x, v in starts(name)]))


def greedy_return(
    name: str, values: NDArray, *, horizon: int = 0, params: Mapping[str, float] = {}, actions=None, points=None
) -> float:
    """What the policy that follows `values` earns in the sim, from the same starts or from `points`."""
    points = starts(name) if points is None else points
    out = np.zeros(len(points))
    first = arguments(name, 1, params, actions)
    play(*first, values, points, horizon or get_sim(name).max_episode_steps, out)  # type: ignore[call-arg]
    return float(out.mean())


# -- Acrobot -----------------------------------------------------------------------------------------------------------

SLOTS = 1 << 18  # of the table that tells whether a cell is taken
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
CELL, SPEED_CELL = 0.1, 0.25  # rad, rad/s: of several states in one cell, a beam keeps the one of highest energy


@njit
def energy(s):
    """Kinetic and potential energy of Acrobot's links at the default parameters, J."""
    angle, turn = s.theta1 + s.theta2, s.theta1_dot + s.theta2_dot
    vx = math.cos(s.theta1) * s.theta1_dot + 0.5 * math.cos(angle) * turn
    vy = math.sin(s.theta1) * s.theta1_dot + 0.5 * math.sin(angle) * turn
    kinetic = 0.5 * (1.25 * s.theta1_dot**2 + vx**2 + vy**2 + turn**2)
    return kinetic - 9.8 * (1.5 * math.cos(s.theta1) + 0.5 * math.cos(angle))


@njit
def cell_of(s):
    """The number of the cell that a state lies in."""
    first, second = math.floor(s.theta1 / CELL) + 500, math.floor(s.theta2 / CELL) + 500
    speeds = (math.floor(s.theta1_dot / SPEED_CELL) + 500) * 1000 + math.floor(s.theta2_dot / SPEED_CELL) + 500
    return np.int64((first * 1000 + second) * 1_000_000 + speeds)


@njit
def slot_of(table, cell):
    """Where a cell is in a hash table of cells (-1 is free), or would be put."""
    slot = np.int64((np.uint64(cell) * GOLDEN) >> np.uint64(46))
    while table[slot] != -1 and table[slot] != cell:
        slot = (slot + 1) % SLOTS
    return slot


@njit
def least_of_highest(height, count, width, buckets):
    """A number that just `width` of the first `count` heights reach, or a few more, as fine as the buckets are."""
    low, high = np.inf, -np.inf
    for i in range(count):
        low, high = min(low, height[i]), max(high, height[i])
    if count <= width or low == high:
        return low
    per_bucket = (high - low) / (len(buckets) - 1)
    buckets[:] = 0
    for i in range(count):
        buckets[int((height[i] - low) / per_bucket)] += 1
    reached = 0
    for k in range(len(buckets) - 1, -1, -1):
        reached += buckets[k]
        if reached >= width:
            return low + (k - 1e-6) * per_bucket  # a little less: low and k have been rounded
    return low


@njit
def beam_search(step, start, p, width, limit):
    """The return of the best plan found from a state: of all states one step on, go on with the `width` highest in energy."""
    beam, found = np.empty(width, start.dtype), np.empty(3 * width, start.dtype)
    height, buckets = np.empty(3 * width), np.empty(10_000, np.int64)
    table, owner = np.empty(SLOTS, np.int64), np.empty(SLOTS, np.int64)
    beam[0] = start[0]
    size = 1
    for t in range(limit):
        table[:] = -1
        count = 0
        for i in range(size):
            for action in range(3):
                found[count] = beam[i]
                s = found[count]
                _, terminated = step(s, p[0], action)
                if terminated:
                    return -float(t)
                cell, high = cell_of(s), energy(s)
                slot = slot_of(table, cell)
                if table[slot] == -1:
                    table[slot], owner[slot], height[count] = cell, count, high
                    count += 1
                elif high > height[owner[slot]]:
                    found[owner[slot]], height[owner[slot]] = s, high
        least = least_of_highest(height, count, width, buckets)
        size = 0
        for i in range(count):
            if height[i] >= least and size < width:
                beam[size] = found[i]
                size += 1
    return -float(limit)


@njit(nogil=True)
def beam_searches(low, high, step, states, p, width, limit, out):
    for i in range(low, high):
        out[i] = beam_search(step, states[i : i + 1], p, width, limit)


def acrobot_returns(count: int, width: int, limit: int = 500) -> NDArray:
    """What plans found by a beam search earn from the first start of each of `count` test envs."""
    if 3 * width >= SLOTS:
        raise ValueError(f"width={width}: a beam of at most {(SLOTS - 1) // 3} states fits the table.")
    env = envs.make_vec("acrobot", count, seed=0, split="test", precision="float64")
    env.reset()
    out = np.zeros(count)
    in_pieces(beam_searches, count, env.sim.step, env.state, env.params, width, limit, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sim", choices=("acrobot", *PROBLEMS))
    name = parser.parse_args().sim
    began = time.perf_counter()

    def say(what: str, value: float) -> None:
        print(f"{name}, {what}: {value:.5g}  ({time.perf_counter() - began:.0f} s)", flush=True)

    if name == "acrobot":
        for width in (1000, 10_000):
            found = acrobot_returns(100, width)
            error = found.std(ddof=1) / math.sqrt(len(found))
            say(f"beams of {width} states, 100 starts, +- {error:.2g}, at least", float(found.mean()))
        return
    keep = name == "mountaincar_continuous"  # whose best throttle depends on the time that is left
    for nodes in PROBLEMS[name].grids:
        values = value_function(name, nodes, keep=keep and nodes < 300)
        say(f"{nodes} x {nodes} nodes", value_at_start(name, values))
        if len(values) > 1 or not keep:
            say("its greedy policy, at least", greedy_return(name, values))


if __name__ == "__main__":
    main()
