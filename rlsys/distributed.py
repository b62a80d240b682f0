"""One run by K processes, each with its share of the envs (data-parallel training), started by `torchrun`.

`Ranks` is what a process and its agent see of the others: K = 1 is a process by itself, `ALONE`, to which all of it is
nothing to do. Every rank holds the same parameters and draws the same random numbers, for all envs, of which it takes its
own; so it knows every minibatch, learns from the part of it that it has collected itself, and gradients are averaged by how
many samples they are of. What K ranks learn is what one would, but for rounding.

All ranks call the same methods in the same order. Who waits for a rank that has died or hangs gets a `RankLost`.
"""

import contextlib
import datetime
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

WORD = 4096  # bytes of what ranks say to each other: a path, at most
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets them


class RankLost(RuntimeError):
    """Another rank has died, or has not answered in time."""


class Ranks:
    """The K processes of a run, seen by number `rank` of them; here a process by itself."""

    rank, size = 0, 1

    def mine(self, x: Any, dim: int = 0) -> Any:
        """This rank's share of x, which has something for all envs along dim: a view."""
        return x

    def gather(self, x: Any, dim: int = 0) -> Any:
        """The shares of all ranks, one after the other along dim: the inverse of `mine`."""
        return x

    def own(self, at: Tensor, num_envs: int) -> Tensor:
        """Of indices into a flattened rollout of all ranks' envs those that are this rank's, as indices into its own.

        num_envs: of each rank.
        """
        return at

    def mean_(self, tensors: Sequence[Any], weight: int) -> None:
        """Replace each tensor by its mean over the ranks, each of which counts `weight`; 0: this rank's are nonsense."""

    def moments(self, x: Tensor) -> tuple[int | Tensor, Tensor, Tensor]:
        """Number, mean and (uncorrected) variance of the rows of all ranks' x [n, ...]; n may differ."""
        return x.shape[0], x.mean(0), x.var(0, correction=0)

    def standardised(self, x: Tensor) -> Tensor:
        """x [n] with the mean 0 and the standard deviation 1, over all ranks' x; x itself if there is but one number."""
        return (x - x.mean()) / (x.std() + 1e-8) if len(x) > 1 else x

    def share_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by rank 0's."""

    def tell(self, what: bool = False) -> bool:
        """What rank 0 says."""
        return what

    def words(self, word: str) -> list[str]:
        """What each rank says, in up to `WORD` bytes."""
        return [word]


ALONE = Ranks()


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that waits for other ranks, and says so when they do not come."""

    @wraps(method)
    def call(self: "Joined", *arguments: Any, **options: Any) -> Any:
        try:
            return method(self, *arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise RankLost(
                f"rank {self.rank} of {self.size}: another rank has died, or has not answered for {self.timeout:g} s "
                f"(distributed_timeout); the reason is in its own last lines. Here: {reason:.200}"
            ) from error

    return call


class Joined(Ranks):
    """`Ranks` by torch.distributed: gloo between CPUs, NCCL between GPUs."""

    def __init__(self, timeout: float):
        self.rank, self.size, self.timeout = dist.get_rank(), dist.get_world_size(), timeout

    def mine(self, x: Any, dim: int = 0) -> Any:
        if isinstance(x, np.ndarray):
            return np.split(x, self.size, dim)[self.rank]
        return x.chunk(self.size, dim)[self.rank]

    @_guarded
    def gather(self, x: Any, dim: int = 0) -> Any:
        if isinstance(x, np.ndarray):
            return self.gather(torch.from_numpy(x), dim).numpy()
        sent = x.contiguous()
        sent = sent.view(torch.uint8) if x.dtype is torch.bool else sent
        found = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(found, sent)
        return torch.cat(found, dim).view(x.dtype)

    def own(self, at: Tensor, num_envs: int) -> Tensor:
        step, env = at // (num_envs * self.size), at % (num_envs * self.size) - self.rank * num_envs
        return (step * num_envs + env)[(env >= 0) & (env < num_envs)]

    @_guarded
    def mean_(self, tensors: Sequence[Any], weight: int) -> None:
        flat = torch.cat([*(x.flatten() for x in tensors), tensors[0].new_ones(1)])
        flat = flat * weight if weight else torch.zeros_like(flat)
        dist.all_reduce(flat)
        sums = (flat[:-1] / flat[-1]).split([x.numel() for x in tensors])
        for x, mean in zip(tensors, sums, strict=True):
            x.copy_(mean.view_as(x))

    def moments(self, x: Tensor) -> tuple[int | Tensor, Tensor, Tensor]:
        n, x = len(x), x.double()
        # Chan, Golub, LeVeque 1979
        mean, m2 = (x.mean(0), x.var(0, correction=0) * n) if n else (torch.zeros_like(x.sum(0)),) * 2
        ours = torch.cat([mean.new_full((1,), n), mean.flatten(), m2.flatten()])
        counts, means, m2s = self.gather(ours[None]).split([1, mean.numel(), mean.numel()], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (m2s + counts * (means - mean).square()).sum(0) / total
        return total, mean.view(x.shape[1:]), var.view(x.shape[1:])

    def standardised(self, x: Tensor) -> Tensor:
        n, mean, var = self.moments(x)
        std = (var * n / (n - 1)).sqrt()  # of one number: NaN
        return torch.where(torch.as_tensor(n > 1), (x - mean) / (std + 1e-8), x).to(x.dtype)

    @_guarded
    @torch.no_grad()
    def share_(self, tensors: Sequence[Tensor]) -> None:
        for x in tensors:
            dist.broadcast(x, 0)

    def tell(self, what: bool = False) -> bool:
        said = torch.tensor([what], dtype=torch.uint8)
        self.share_([said])
        return bool(said)

    def words(self, word: str) -> list[str]:
        return [bytes(row).rstrip(b"\0").decode() for row in self.gather(_padded(word)[None]).numpy()]


def _padded(word: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(word.encode()[:WORD].ljust(WORD, b"\0"), np.uint8).copy())


# -- being started by torchrun -------------------------------------------------------------------------------------------


class LaunchError(ValueError):
    """This process was not started as its configuration wants it; the message says how to."""


@contextlib.contextmanager
def joined(wanted: bool, timeout: float) -> Iterator[Ranks]:
    """The ranks of this run: those that torchrun has started, if `wanted`, else this process by itself.

    timeout: seconds that a rank waits for the others. Raises LaunchError if torchrun has started this process, or has not,
    against what is wanted, and RankLost if the others do not come.
    """
    if not wanted:
        if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise LaunchError(
                f"torchrun has started {os.environ['WORLD_SIZE']} processes, and each would train a run of its own. "
                "Add distributed=ddp, or leave out torchrun."
            )
        yield ALONE
        return
    if not all(name in os.environ for name in NEEDED):
        raise LaunchError(
            "distributed=ddp is started by torchrun, as several processes: torchrun --nproc-per-node K -m rlsys train ..."
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        patience = datetime.timedelta(seconds=timeout)
        store, rank, size = next(rendezvous("env://", timeout=patience))
        store = dist.PrefixStore(_meeting(store, rank, size, timeout), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise RankLost(f"rank {os.environ['RANK']}: the others cannot be reached: {error}") from error
    try:
        yield Joined(timeout)
    finally:
        dist.destroy_process_group()


def _meeting(store: dist.Store, rank: int, size: int, timeout: float) -> str:
    """A name, the same on all ranks, that no earlier meeting had: torchrun's store keeps what ranks that have died wrote."""
    name, others = secrets.token_hex(8), range(1, size)
    if rank > 0:
        store.set(f"hello/{rank}", name)
        meeting = store.get(f"answer/{name}").decode()
        store.set(f"here/{meeting}/{rank}", "")
        return meeting
    deadline = time.monotonic() + timeout
    while not all(store.check([f"here/{name}/{other}"]) for other in others):
        for other in others:  # the one that lives, too, will have said hello sooner or later
            if store.check([f"hello/{other}"]):
                store.set(f"answer/{store.get(f'hello/{other}').decode()}", name)
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all of {size} ranks have come within {timeout:g} s (distributed_timeout).")
        time.sleep(0.01)
    return name


def ranks_here() -> int:
    """How many ranks this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def was_restarted() -> bool:
    """Whether torchrun has started the ranks anew because one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def launcher() -> str:
    """The torchrun process that has started this one, by a name that no other one has: machine, number, time of its start."""
    parent, began = os.getppid(), ""
    with contextlib.suppress(OSError):  # Linux only
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{socket.gethostname()}:{parent}:{began}"
