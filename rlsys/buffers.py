"""Storage for experience: preallocated tensors on the training device, written row by row.

T time, N envs, O observation shape, A action shape, B minibatch.
"""

import math
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

    All that changes lies on the device, the count of rows too, and `add`, `sample` and `newest` are the same operations on
    the same memory whatever it holds: each can be captured in a CUDA graph and replayed, but for `sample` with has_resets.
    """

    def __init__(
        self, size: int, example: Transitions, *, n_step: int = 1, gamma: float = 0.99, has_resets: bool = False
    ):
        """example gives the shapes [N, ...], dtypes and device; has_resets: not all rows will be valid."""
        self.num_envs = len(example.reward)
        self.length = max(size // self.num_envs, 2)  # of two rows in a row, one is experience
        self.items = self.length * self.num_envs
        self.n_step, self.gamma, self.has_resets = n_step, gamma, has_resets
        self.ring = Transitions(*(x.new_zeros(self.length, *x.shape) for x in example))
        self.flat = Transitions(*(x.flatten(0, 1) for x in self.ring))  # the same memory: item = row x N + env
        self.rows = torch.zeros((), dtype=torch.int64, device=example.reward.device)  # written since the beginning

    def __len__(self) -> int:
        """How many transitions there are; waits for the device."""
        return min(int(self.rows), self.length) * self.num_envs

    def add(self, step: Transitions) -> None:
        """Write one row over the oldest."""
        at = (self.rows % self.length,)
        for ring, row in zip(self.ring, step, strict=True):
            ring.index_put_(at, row)  # ring[at] = row would wait for the device to say where
        self.rows += 1

    def sample(self, bits: Tensor, generator: torch.Generator) -> Batch:
        """B n-step transitions, each experience in the ring equally likely to be the first step of any of them.

        bits [B]: the random numbers that decide (`random_bits`). The generator is for those that meet no experience.
        """
        filled, oldest = self._span()
        age = bits % filled  # the oldest transition of env 0 is 0, of env 1 is 1, ..., the next row of env 0 is N
        item = (age + oldest) % self.items
        while self.has_resets and not (valid := self.flat.valid[item]).all():
            age = torch.where(valid, age, random_bits(len(bits), generator=generator) % filled)
            item = (age + oldest) % self.items
        return self._batch(item, age, filled)

    def _span(self) -> tuple[Tensor, Tensor]:
        """How many transitions there are, and the item of the oldest, or whole rings beyond it."""
        written = self.rows * self.num_envs
        filled = written.clamp(max=self.items)
        return filled, written - filled

    def _batch(self, first: Tensor, age: Tensor, filled: Tensor) -> Batch:
        """The n-step transitions that begin with these items, of these ages, among as many as there are."""
        last = first
        reward = self.flat.reward[first]
        discount = torch.full_like(reward, self.gamma)
        for _ in range(self.n_step - 1):
            age = age + self.num_envs  # the same env, one step later
            going = ~self.flat.ended[last] & (age < filled)  # once False, `last` stays and so does this
            last = torch.where(going, (last + self.num_envs) % self.items, last)
            reward = reward + discount * self.flat.reward[last] * going
            discount = torch.where(going, discount * self.gamma, discount)
        return Batch(
            obs=self.flat.obs[first],
            action=self.flat.action[first],
            reward=reward,
            next_obs=self.flat.next_obs[last],
            discount=discount * ~self.flat.terminated[last],
        )

    def newest(self, rows: int) -> Transitions:
        """The last rows, [rows, N, ...], in no particular order; at least so many must have been added, ever."""
        back = torch.arange(-min(rows, self.length), 0, device=self.rows.device)
        at = (self.rows + back) % self.length
        return Transitions(*(x[at] for x in self.ring))

    def cut(self) -> None:
        """Count the episodes in the newest row as truncated there: what is added next does not continue them."""
        self.ring.ended[(self.rows - 1) % self.length] = True

    def state(self) -> dict[str, Any]:
        """The filled part of the ring, for a checkpoint."""
        rows = int(self.rows)
        filled = min(rows, self.length)
        return {"rows": rows, **{name: x[:filled] for name, x in self.ring._asdict().items()}}

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
        self.rows.fill_(state["rows"])


class PrioritizedReplay(Replay):
    """A Replay that also gives samples in which a transition is drawn the more often, the further its value was off.

        P(i) = p_i / sum_k p_k,   p_i = (|delta_i| + eps)^alpha,   w_i = (N P(i))^-beta / max_k (N P(k))^-beta

    delta_i is the temporal difference when i was last learned from. A new transition gets the largest p so far, so that
    each is soon seen once; a step that only resets gets 0. The weights w, whose maximum is taken over the minibatch, undo
    the bias for beta = 1. All of it can be captured in a CUDA graph, has_resets or not.
    Source: Schaul et al. 2016, "Prioritized experience replay", the proportional variant (algorithm 1).
    """

    def __init__(self, size: int, example: Transitions, *, alpha: float, eps: float, **options: Any):
        """alpha: 0 is uniform, 1 proportional; options: as in Replay."""
        super().__init__(size, example, **options)
        self.alpha, self.eps = alpha, eps
        self.priorities = Priorities(self.items, self.rows.device)

    def add(self, step: Transitions) -> None:
        """Write one row over the oldest."""
        self.priorities.renew(self.rows % self.length * self.num_envs, step.valid)
        super().add(step)

    def draw(self, bits: Tensor, beta: Tensor) -> tuple[Batch, Tensor, Tensor]:
        """B n-step transitions by priority, the items [B] that they begin with, and their weights w [B].

        bits [B] as in `sample`. beta, 0-dim: 1 undoes all of the bias, 0 none.
        """
        item = self.priorities.draw(bits)
        filled, oldest = self._span()
        age = (item - oldest) % self.items
        p = self.priorities.leaf[item]
        weight = (p.min() / p) ** beta  # N and the sum of all p cancel
        return self._batch(item, age, filled), item, weight.float()

    def update(self, item: Tensor, error: Tensor) -> None:
        """Give items [B] the priority of their errors |delta| [B]."""
        self.priorities.put(item, (error.double() + self.eps) ** self.alpha)

    def state(self) -> dict[str, Any]:
        """The filled part of the ring, and all priorities."""
        return {**super().state(), **self.priorities.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put both back."""
        super().load_state(state)
        self.priorities.load_state(state)


class Priorities:
    """Numbers p_i >= 0 of `size` items, at first 0, and items drawn with probability p_i / sum_k p_k.

    There are two levels: the p themselves, as the leaves of blocks, about as many blocks as there are leaves in each, and
    the sum of each block. An item is found by a number between 0 and the sum of all: the block among the running sums of
    the blocks, then the item among those of the block's leaves. A block's sum is always added up anew from its leaves, in
    float64, so that it cannot drift. No operation waits for the device.
    """

    def __init__(self, size: int, device: torch.device):
        self.width = math.isqrt(size - 1) + 1
        self.leaves = torch.zeros(-(-size // self.width), self.width, dtype=torch.float64, device=device)
        self.leaf = self.leaves.view(-1)[:size]  # the same memory; what is left over in the last block stays 0
        self.sums = torch.zeros(len(self.leaves), dtype=torch.float64, device=device)
        self.largest = torch.ones((), dtype=torch.float64, device=device)  # that there has been

    def put(self, item: Tensor, p: Tensor) -> None:
        """Give items [B] their p [B]. Of one that is there twice the larger p counts: the order must not."""
        self.leaf.scatter_reduce_(0, item, p, "amax", include_self=False)
        self._add_up(item // self.width)
        self.largest.copy_(torch.maximum(self.largest, p.max()))

    def renew(self, first: Tensor, counts: Tensor) -> None:
        """Give the items first, first + 1, ... the largest p so far where counts [N], else 0."""
        n, device = len(counts), counts.device
        self.leaf.index_put_((first + torch.arange(n, device=device),), counts * self.largest)
        most = (n + self.width - 2) // self.width + 1  # blocks that N items in a row can lie in
        blocks = first // self.width + torch.arange(most, device=device)
        self._add_up(blocks.clamp(max=len(self.sums) - 1))

    def _add_up(self, block: Tensor) -> None:
        self.sums.index_put_((block,), self.leaves[block].sum(-1))

    def draw(self, bits: Tensor) -> Tensor:
        """B items by random bits [B], the k-th from the k-th of B equal shares of the sum."""
        uniform = (bits >> 9).double() * 2.0**-53  # all 53 bits of a float64 below 1
        share = (torch.arange(len(bits), device=bits.device) + uniform) / len(bits)
        ends = self.sums.expand(2, -1).cumsum(-1)[:1]  # a GPU adds up a row on its own in an order that is not fixed
        block, rest = _find(self.sums.unsqueeze(0), ends, share.unsqueeze(0) * ends[:, -1:])
        leaves = self.leaves[block[0]]
        within, _ = _find(leaves, leaves.cumsum(-1), rest.T)
        return block[0] * self.width + within[:, 0]

    def state(self) -> dict[str, Tensor]:
        """All of it, the sums too: how a GPU rounds them depends on how many blocks are added up at once."""
        return {"priority": self.leaf, "priority_sums": self.sums, "priority_largest": self.largest}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.leaf.copy_(state["priority"])
        self.sums.copy_(state["priority_sums"])
        self.largest.copy_(state["priority_largest"])


def _find(p: Tensor, ends: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each row p [R, K], with running sums `ends`, whose end is beyond `at` [R, M], and how far `at` is into it.

    If it is 0, or there is none, then that was rounding, and the row's largest is taken.
    """
    index = torch.searchsorted(ends, at, right=True).clamp(max=p.shape[-1] - 1)
    index = torch.where(p.gather(-1, index) > 0.0, index, p.max(-1, keepdim=True).indices)
    return index, at - ends.gather(-1, index) + p.gather(-1, index)
