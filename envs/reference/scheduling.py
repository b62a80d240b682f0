"""What queues cost: exactly the optimum, the c-mu rule, and random service. `python -m envs.reference.scheduling`.

A value table is V[waiting in queue 0, in queue 1, ...]: the expected cost from the beginning of a slot on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.scheduling import ARRIVALS, COSTS, ROOM, SERVICES, SIM


def lowest(q: NDArray) -> NDArray:
    """The optimal policy: of the costs q[action, ...], the lowest."""
    return q.min(axis=0)


def uniform(q: NDArray) -> NDArray:
    """Random service."""
    return q.mean(axis=0)


def following(actions: NDArray) -> Callable[[NDArray], NDArray]:
    """A policy: a table of actions, by who waits."""
    return lambda q: np.take_along_axis(q, actions[None], axis=0)[0]


@dataclass(frozen=True)
class Model:
    """Queues with their probabilities and costs. The policies are functions as above."""

    arrival: tuple[float, ...] = tuple(ARRIVALS / 1000.0)
    service: tuple[float, ...] = tuple(SERVICES / 1000.0)
    cost: tuple[float, ...] = tuple(COSTS.astype(float))
    loss: float = float(SIM.params.defaults["loss"])
    room: int = ROOM

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.room + 1,) * len(self.cost)

    def actions(self, value: NDArray) -> NDArray:
        """The expected cost q[action, ...] of a slot with each action, and of `value` after it."""
        places = np.arange(self.room + 1)
        full, more, fewer = places == self.room, np.minimum(places + 1, self.room), np.maximum(places - 1, 0)
        after = value + sum(c * waiting for c, waiting in zip(self.cost, np.indices(self.shape), strict=True))
        for k, chance in enumerate(self.arrival):
            row = np.moveaxis(after, k, -1)
            row = (1.0 - chance) * row + chance * (row[..., more] + self.loss * full)
            after = np.moveaxis(row, -1, k)
        q = []
        for k, chance in enumerate(self.service):
            row = np.moveaxis(after, k, -1)
            q.append(np.moveaxis((1.0 - chance) * row + chance * row[..., fewer], -1, k))
        return np.array(q)

    def episode(self, policy: Callable[[NDArray], NDArray], slots: int = SIM.max_episode_steps) -> NDArray:
        """The expected cost of some slots, by who waits at their beginning."""
        value = np.zeros(self.shape)
        for _ in range(slots):
            value = policy(self.actions(value))
        return value

    def average(self, policy: Callable[[NDArray], NDArray], tolerance: float = 1e-9) -> tuple[float, NDArray]:
        """The cost of a slot in the long run, within `tolerance`, and what each action then costs, up to a constant."""
        value, low, high = np.zeros(self.shape), -np.inf, np.inf
        while high - low > tolerance:  # relative value iteration, with Odoni's bounds
            change = policy(self.actions(value)) - value
            low, high = change.min(), change.max()
            value += change - change.flat[0]
        return (low + high) / 2.0, self.actions(value)

    def c_mu(self) -> NDArray:
        """The c-mu rule's actions, by who waits."""
        waiting = np.indices(self.shape)
        index = np.multiply(self.cost, self.service).reshape(-1, *[1] * len(self.cost))
        return np.where(waiting > 0, index, 0.0).argmax(axis=0)


def main() -> None:
    model = Model()
    for name, policy in {"optimum": lowest, "c-mu": following(model.c_mu()), "random": uniform}.items():
        cost, average = model.episode(policy)[0, 0, 0], model.average(policy)[0]
        print(f"{name}: {cost:.2f} an episode, {average:.4f} a slot in the long run")


if __name__ == "__main__":
    main()
