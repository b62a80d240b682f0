"""`TorchEnv`: the only place where an env's arrays become torch tensors.

Where envs and policy are on the same device they are the same memory: a step writes straight into the rollout's tensors,
and on a GPU nothing waits for it. For a policy on the GPU and envs on the CPU a step is written to host arrays and copied
over.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

import envs
import envs.atari
import envs.gym
from envs.engine.sim import Scale
from envs.engine.vector import DeviceError, SimVectorEnv, Transition
from envs.gym import check_action_space, leaves_of
from envs.registration import find
from envs.stack import FrameStack
from rlsys.config import AtariConfig, GymnasiumConfig, SimConfig
from rlsys.distributed import ALONE, Ranks
from rlsys.networks import ObsSpec, Part
from rlsys.policy import ActionSpec

__all__ = [
    "DeviceError",
    "Episodes",
    "Scale",
    "Slot",
    "Step",
    "Stopwatch",
    "TorchEnv",
    "make_env",
    "reward_threshold",
    "wait",
]

EPISODE_WINDOW = 100  # rollout/ep_rew_mean is the mean over at least this many last episodes, as in SB3


class Step(NamedTuple):
    """What one step of N envs produces, as tensors."""

    obs: Tensor  # [N, *O] to act on next
    reward: Tensor  # [N] float32
    terminated: Tensor  # [N] bool
    truncated: Tensor  # [N] bool
    valid: Tensor  # [N] bool: is experience (a Gymnasium NEXT_STEP reset is not)
    final_obs: Tensor  # [N, *O] last observation of the episode that ended; elsewhere without meaning
    episode_return: Tensor  # [N] float64, undiscounted, of the episode that ended; 0 elsewhere
    episode_length: Tensor  # [N] int64, likewise


class BatchEnv(Protocol):
    """What is asked of N envs: `SimVectorEnv`, `GymVectorEnv` and, around them, `FrameStack`. Their docstrings say more."""

    num_envs: int
    is_resident: bool  # its arrays are a GPU's
    single_observation_space: gymnasium.Space
    single_action_space: gymnasium.Space
    metadata: dict[str, Any]
    of_each_env: tuple[str, ...]  # names in `get_state` of arrays that have a stretch for each env
    valid: NDArray | None

    def arrays(self) -> Transition: ...
    def bind(self, out: Transition) -> Transition: ...
    def restart(self, obs: NDArray) -> None: ...
    def advance(self, actions: NDArray, out: Transition) -> NDArray | None: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any], obs: NDArray) -> None: ...
    def frame(self, i: int) -> NDArray: ...
    def close(self) -> None: ...


class Slot(NamedTuple):
    """Where a step is written."""

    step: Step
    arrays: Transition  # what the envs write: the memory of the tensors, or host arrays to be copied from
    reward: Tensor  # likewise: the step's own, or of the envs' float64


class Stopwatch:
    """`with stopwatch:` adds what passes to `seconds`, of the host's time: a GPU may still be at it. times: how often."""

    seconds = 0.0
    times = 0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began
        self.times += 1


def wait(device: str | torch.device) -> None:
    """Until the device has done what it was asked to."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


class Episodes:
    """Return and length of the last `room` episodes, on `device`, where nothing waits for them.

    since: number, returns and lengths, summed, of all that have ended since `means` was last asked.
    """

    def __init__(self, room: int, device: torch.device):
        self.room, self.count = room, torch.zeros((), dtype=torch.int64, device=device)
        self.recent = torch.zeros(
            room + 1, 2, dtype=torch.float64, device=device
        )  # a ring, and a row for what is dropped
        self.since = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, returns: Tensor, lengths: Tensor) -> None:
        """Take note of the episodes whose length is not 0, in the order given: [...] each."""
        lengths = lengths.flatten()
        ended = lengths > 0
        order = self.count + ended.cumsum(0)  # the how-manieth
        kept = ended & (order > order[-1] - self.room)
        row = torch.where(kept, (order - 1) % self.room, self.room)
        both = torch.stack([returns.flatten(), lengths.double()], 1)
        self.recent[row] = both
        self.since[0] += ended.sum()
        self.since[1:] += torch.where(ended[:, None], both, 0.0).sum(0)
        self.count.copy_(order[-1])

    def means(self) -> tuple[int, list[float]]:
        """How many there have been, and mean return and length of those since the last call, of the last 100 if there
        are fewer. Waits for the device."""
        count = int(self.count)
        ended, *sums = self.since.tolist()
        self.since.zero_()
        if ended > EPISODE_WINDOW:
            return count, [total / ended for total in sums]
        window = min(count, EPISODE_WINDOW)
        rows = (count - 1 - torch.arange(window, device=self.recent.device)) % self.room
        return count, self.recent[rows].mean(0).tolist()


class TorchEnv:
    """N envs (a BatchEnv) as tensors on `device`. Bind the tensors to write into once (`bind`), then `step(action, slot)`.

    ranks: who has the rest of the envs, if these are only a share of them. Episodes are counted, and states saved, of all.
    """

    def __init__(self, env: Any, device: str | torch.device = "cpu", ranks: Ranks = ALONE):
        self.env, self.num_envs, self.device, self.ranks = env, env.num_envs, torch.device(device), ranks
        world = env.env if isinstance(env, FrameStack) else env
        self.is_native = isinstance(world, SimVectorEnv)  # its state can be saved
        self.has_resets = env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP  # some steps are not experience
        self.obs_spec, self.action_spec = obs_spec(env), action_spec(env)
        self._host = None  # where steps are written before they are copied to the GPU
        if self.device.type != "cpu" and not env.is_resident:
            self._host = env.bind(env.arrays())
        self.stepping = Stopwatch()
        self.episodes = Episodes(max(EPISODE_WINDOW, self.num_envs * ranks.size), self.device)
        self.reset()

    @property
    def compiled(self) -> SimVectorEnv | None:
        """The envs, if they are such that a kernel can step by itself, without coming back to Python."""
        env = self.env
        return env if isinstance(env, SimVectorEnv) and env.is_compiled and not self.has_resets else None

    @property
    def is_resident(self) -> bool:
        """Whether the envs are on the GPU: then `step` waits for nothing."""
        return self.env.is_resident

    @property
    def leaves_counting(self) -> bool:
        """Whether the steps of a rollout are to be given to `count`, because `step` waits neither for a GPU nor for ranks."""
        return self.is_resident or self.ranks.size > 1

    def reason_against_graph(self) -> str | None:
        """Why steps cannot be part of a CUDA graph, or None if they can."""
        return None if self.is_resident else "the envs are on the CPU"

    @property
    def obs_dtype(self) -> torch.dtype:
        return getattr(torch, self.obs_spec.dtype)

    def empty_steps(self, *leading: int) -> Step:
        """Zeroed tensors for steps: `Step` of [*leading, N, ...]."""

        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros((*leading, self.num_envs, *shape), dtype=dtype, device=self.device)

        obs_shape = self.obs_spec.shape
        return Step(
            obs=zeros(self.obs_dtype, *obs_shape),
            reward=zeros(torch.float32),
            terminated=zeros(torch.bool),
            truncated=zeros(torch.bool),
            valid=torch.ones_like(zeros(torch.bool)),
            final_obs=zeros(self.obs_dtype, *obs_shape),
            episode_return=zeros(torch.float64),
            episode_length=zeros(torch.int64),
        )

    def bind(self, step: Step) -> Slot:
        """Where `step` is to write: the tensors of one Step [N, ...]."""
        if self._host:
            return Slot(step, self._host, step.reward)
        reward = step.reward.double() if getattr(self.env, "precision", "") == "float64" else step.reward
        tensors = step._replace(reward=reward)
        arrays = Transition(**{name: as_array(getattr(tensors, name)) for name in Transition._fields})
        return Slot(step, self.env.bind(arrays), reward)

    def reset(self) -> None:
        """Begin with the first episodes of the env's seed; `obs` [N, *O] are their first observations."""
        self._receive(self.env.restart)

    def step(self, action: Tensor, slot: Slot) -> NDArray | None:
        """Act in every env: action [N] int64 or [N, *shape] float32, in the env's units. Fills the slot's tensors.

        Returns the mask (N,) of envs whose episode ended, None if none did, or if the envs are on the GPU: nobody waits
        for them. Counts the episodes, unless `leaves_counting`.
        """
        tensors, arrays, reward = slot
        if self.is_resident:
            self._follow_stream()
            self.env.advance(as_array(action), arrays)
            ended = None
        else:
            host_action = action.cpu().numpy()
            with self.stepping:
                ended = self.env.advance(host_action, arrays)
            if self.env.valid is not None:
                tensors.valid.copy_(torch.from_numpy(self.env.valid))
            if self._host:
                for name in Transition._fields:
                    getattr(tensors, name).copy_(torch.from_numpy(getattr(arrays, name)), non_blocking=True)
            if ended is not None and not self.leaves_counting:
                self.count(tensors.episode_return, tensors.episode_length)
        if reward is not tensors.reward:
            tensors.reward.copy_(reward)
        self.obs = tensors.obs
        return ended

    def took(self, obs: Tensor, episode_return: NDArray, episode_length: NDArray, seconds: float) -> None:
        """Take note of T steps that a kernel has taken itself: obs [N, *O] to act on next; return and length [T, N]."""
        self.obs = obs
        self.stepping.seconds += seconds
        ended = episode_length > 0
        if ended.any():
            self.count(torch.from_numpy(episode_return[ended]), torch.from_numpy(episode_length[ended]))

    def count(self, episode_return: Tensor, episode_length: Tensor) -> None:
        """Take note of the episodes that ended in steps [..., N], of all ranks: those whose length is not 0."""
        self.episodes.add(self.ranks.gather(episode_return, -1), self.ranks.gather(episode_length, -1))

    def metrics(self) -> dict[str, float]:
        """Mean return and length of the episodes since the last call, of the last 100 if there are fewer (nothing before the
        first one has ended). Waits for the device.

        ValueError if the envs have been given an action that is none.
        """
        if self.is_resident:
            self.env.check()
        count, means = self.episodes.means()
        if count == 0:
            return {}
        return {"rollout/ep_rew_mean": means[0], "rollout/ep_len_mean": means[1], "rollout/episodes": count}

    def state(self) -> dict[str, Any]:
        """What resuming needs, of all ranks' envs. Native envs come back where they were; others begin new episodes."""
        self._follow_stream()
        state = of_each_env(self.env.get_state(), self.env.of_each_env, self.ranks.gather)
        recent = self.episodes.recent[:-1].numpy(force=True).copy()
        since = self.episodes.since.tolist()
        return {"episodes": int(self.episodes.count), "recent": recent, "since": since, "env": state}

    def load_state(self, state: dict[str, Any]) -> None:
        self.episodes.count.fill_(state["episodes"])
        self.episodes.recent[:-1] = torch.as_tensor(state["recent"])
        since = state.get("since", [0.0, 0.0, 0.0])  # older checkpoints have none
        self.episodes.since[:] = torch.as_tensor(since, dtype=torch.float64)
        mine = of_each_env(state["env"], self.env.of_each_env, self.ranks.mine)
        self._receive(lambda obs: self.env.set_state(mine, obs))

    def _receive(self, fill: Callable[[Any], None]) -> None:
        """Let the envs fill a new `obs`."""
        shape, dtype = (self.num_envs, *self.obs_spec.shape), self.obs_dtype
        self.obs = torch.zeros(shape, dtype=dtype, device="cpu" if self._host else self.device)
        self._follow_stream()
        fill(as_array(self.obs))
        self.obs = self.obs.to(self.device)

    def _follow_stream(self) -> None:
        """Let a GPU's envs work where torch's next operations will be queued."""
        if self.is_resident and self.device.type == "cuda":
            self.env.stream = torch.cuda.current_stream(self.device).cuda_stream

    def close(self) -> None:
        self.env.close()


def make_env(
    config: Any,
    num_envs: int,
    *,
    split: str,
    seed: int,
    device: str = "cpu",
    autoreset_mode: str = "SameStep",
    render_mode: str | None = None,
    resident: bool = False,
    ranks: Ranks = ALONE,
) -> TorchEnv:
    """The envs that `config` (a SimConfig, GymnasiumConfig or AtariConfig) describes. split: "train", "validation" or "test".

    device: of the tensors. resident: the envs, if they are a sim's, are on that device as well. ranks: who shares num_envs.
    """
    env: Any  # a BatchEnv
    all_envs, num_envs = num_envs, num_envs // ranks.size
    how: dict[str, Any] = {"seed": seed, "split": split, "autoreset_mode": autoreset_mode}
    how["first_env"] = ranks.rank * num_envs
    if isinstance(config, GymnasiumConfig):
        how |= {"vectorization": config.vectorization, "kwargs": config.kwargs, "render_mode": render_mode}
        how["all_envs"] = all_envs
        env = envs.gym.make(config.id, num_envs, **how)
    elif isinstance(config, AtariConfig):
        keys = {
            key: value for key, value in dataclasses.asdict(config).items() if key not in ("name", "id", "frame_stack")
        }
        env = envs.atari.make(config.id, num_envs, **keys, **how, all_envs=all_envs, render_mode=render_mode)
    else:
        env = envs.make_vec(
            config.name,
            num_envs,
            params={**config.params, **(config.train_params if split == "train" else {})},
            num_levels=config.levels if split == "train" else 0,
            max_episode_steps=config.max_episode_steps,
            backend=config.backend,
            precision=config.precision,
            device=device if resident else "cpu",
            **how,
        )
    return TorchEnv(FrameStack(env, config.frame_stack) if config.frame_stack > 1 else env, device, ranks)


def of_each_env(state: dict[str, Any], names: tuple[str, ...], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The state of envs, changed where it is the envs' own: under `names`."""

    def changed(value: Any, is_own: bool) -> Any:
        if isinstance(value, dict):
            return {key: changed(inner, is_own or key in names) for key, inner in value.items()}
        return change(value) if is_own else value

    return changed(state, False)


def origin(config: Any) -> str | None:
    """Which package a sim is of, and where in it; None of a Gymnasium env."""
    if not isinstance(config, SimConfig):
        return None
    found = find(config.name)
    return f"{found.package} ({found.where})"


def reward_threshold(config: Any) -> float | None:
    """The mean return at which the env of `config` counts as solved, if its author said so."""
    if not isinstance(config, SimConfig):
        return envs.gym.reward_threshold(config.id, getattr(config, "vectorization", "sync"))
    return envs.get_sim(config.name).reward_threshold


def score_scale(config: Any, split: str) -> Scale | None:
    """What turns mean returns of the env of `config` into scores; None where its sim's references do not hold.

    They do not for a few of the training levels either, which may be easier or harder than the rest.
    """
    if not isinstance(config, SimConfig) or (split == "train" and config.levels):
        return None
    return envs.get_sim(config.name).scale(config.params, config.max_episode_steps)


def has_levels(config: Any) -> bool:
    """Whether the env of `config` differs from episode to episode by a level, of which each split has its own."""
    return isinstance(config, SimConfig) and envs.get_sim(config.name).levels


def obs_spec(env: BatchEnv) -> ObsSpec:
    """What the env's observation tensor looks like and means."""
    obs = env.arrays().obs  # several parts packed into one
    return ObsSpec(list(obs.shape[1:]), str(obs.dtype), [Part(leaf.kind, list(leaf.shape)) for leaf in leaves_of(env)])


def as_array(tensor: Tensor) -> Any:
    """A tensor's memory as envs take it: on the CPU a NumPy array, on a GPU the tensor, which shows its memory itself."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def action_spec(env: BatchEnv) -> ActionSpec:
    """The env's action space as plain data."""
    space = check_action_space(env.single_action_space)
    if isinstance(space, gymnasium.spaces.Discrete):
        return ActionSpec(n=int(space.n))
    assert isinstance(space, gymnasium.spaces.Box)
    return ActionSpec(0, list(space.shape), space.low.ravel().tolist(), space.high.ravel().tolist())
