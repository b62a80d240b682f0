"""Storage for experience: preallocated tensors on the training device, written row by row.

T time, N envs, O observation shape, A action shape, B minibatch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlsys.policy import ActionSpec


def action_tensor(spec: ActionSpec, *leading: int, device: torch.device) -> Tensor:
    """Zeros for actions as a policy's rule gives them: int64 [*leading], or float32 [*leading, A]."""
    shape, dtype = ((), torch.int64) if spec.n else ((spec.size,), torch.float32)
    return torch.zeros((*leading, *shape), dtype=dtype, device=device)


def random_bits(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniform integers in [0, 2^62), so many that their remainders are uniform too."""
    return torch.randint(2**62, shape, generator=generator, device=generator.device)


class Transitions(NamedTuple):
    """One step of N envs, or L of them: [N, ...] or [L, N, ...]."""

    obs: Tensor  # [N, *O] acted on
    action: Tensor  # [N]
    reward: Tensor  # [N] float32
    next_obs: Tensor  # [N, *O] the true successor: never the first observation of the next episode
    terminated: Tensor  # [N] bool: the world ended the episode, so there is nothing to come
    ended: Tensor  # [N] bool: the episode ended, terminated or truncated
    valid: Tensor  # [N] bool: is experience (the reset that follows an end in NEXT_STEP mode is not)


class Batch(NamedTuple):
    """B n-step transitions: what comes after `reward` is worth `discount` times the value of `next_obs`."""

    obs: Tensor  # [B, *O]
    action: Tensor  # [B]
    reward: Tensor  # [B] r_0 + gamma r_1 + ... over the m <= n steps taken
    next_obs: Tensor  # [B, *O] the observation m steps later
    discount: Tensor  # [B] gamma^m, or 0 where the episode terminated


class Replay:
    """The last `size` transitions of N envs, a ring of L rows of N; gives uniform samples of n-step transitions.

    An n-step transition is cut short by the end of its episode and by the newest row: it is then the m-step transition up
    to there, whose `discount` says so.
    """

    def __init__(
        self, size: int, example: Transitions, *, n_step: int = 1, gamma: float = 0.99, has_resets: bool = False
    ):
        """example gives the shapes [N, ...], dtypes and device; has_resets: not all rows will be valid."""
        self.num_envs = len(example.reward)
        self.length = max(size // self.num_envs, 2)  # of two rows in a row, one is experience
        self.n_step, self.gamma, self.has_resets = n_step, gamma, has_resets
        self.ring = Transitions(*(x.new_zeros(self.length, *x.shape) for x in example))
        self.flat = Transitions(*(x.flatten(0, 1) for x in self.ring))  # the same memory: item = row x N + env
        self.rows = 0  # written since the beginning

    def __len__(self) -> int:
        """How many transitions there are."""
        return min(self.rows, self.length) * self.num_envs

    def add(self, step: Transitions) -> None:
        """Write one row over the oldest."""
        at = self.rows % self.length
        for ring, row in zip(self.ring, step, strict=True):
            ring[at] = row
        self.rows += 1

    def sample(self, bits: Tensor, generator: torch.Generator) -> Batch:
        """B n-step transitions, each experience in the ring equally likely to be the first step of any of them.

        bits [B]: the random numbers that decide (`random_bits`). The generator is for those that meet no experience.
        """
        age = self._age(bits)
        while self.has_resets and not (valid := self.flat.valid[self._item(age)]).all():
            age = torch.where(valid, age, self._age(random_bits(len(bits), generator=generator)))

        first = last = self._item(age)
        reward = self.flat.reward[first]
        discount = torch.full_like(reward, self.gamma)
        for _ in range(self.n_step - 1):
            age = age + self.num_envs  # the same env, one step later
            going = ~self.flat.ended[last] & (age < len(self))  # once False, `last` stays and so does this
            last = torch.where(going, self._item(age), last)
            reward = reward + discount * self.flat.reward[last] * going
            discount = torch.where(going, discount * self.gamma, discount)
        return Batch(
            obs=self.flat.obs[first],
            action=self.flat.action[first],
            reward=reward,
            next_obs=self.flat.next_obs[last],
            discount=discount * ~self.flat.terminated[last],
        )

    def _age(self, bits: Tensor) -> Tensor:
        """Uniform ages: the oldest transition of env 0 is 0, of env 1 is 1, ..., the next row of env 0 is N."""
        return bits % len(self)

    def _item(self, age: Tensor) -> Tensor:
        """Where in the flat ring the transitions of these ages are."""
        oldest = max(self.rows - self.length, 0) % self.length
        return (age + oldest * self.num_envs) % (self.length * self.num_envs)

    def newest(self, rows: int) -> Transitions:
        """The last rows that were added, [rows, N, ...], in no particular order."""
        at = torch.arange(self.rows - min(rows, self.rows, self.length), self.rows) % self.length
        return Transitions(*(x[at] for x in self.ring))

    def cut(self) -> None:
        """Count the episodes in the newest row as truncated there: what is added next does not continue them."""
        self.ring.ended[(self.rows - 1) % self.length] = True

    def state(self) -> dict[str, Any]:
        """The filled part of the ring, for a checkpoint."""
        filled = min(self.rows, self.length)
        return {"rows": self.rows, **{name: x[:filled] for name, x in self.ring._asdict().items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the ring back; ValueError if it was of another size."""
        filled = min(state["rows"], self.length)
        for name, ring in self.ring._asdict().items():
            if state[name].shape != ring[:filled].shape:
                shapes = f"{list(state[name].shape)}, not {list(ring[:filled].shape)}"
                raise ValueError(
                    f"replay buffer: {name} has shape {shapes}; buffer_size and num_envs must be as they were."
                )
            ring[:filled] = state[name].to(ring.device)
        self.rows = state["rows"]
