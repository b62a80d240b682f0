"""`TorchEnv`: the only place where NumPy arrays of an env become torch tensors.

On the CPU they are the same memory: a step writes straight into the rollout's tensors. For a policy on another device a
step is written to host arrays and copied over.
"""

import time
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

import envs
import envs.gym
from envs.engine.vector import SimVectorEnv, Transition
from envs.gym import check_action_space, leaves
from rlsys.networks import ObsSpec, Part
from rlsys.policy import ActionSpec

EPISODE_WINDOW = 100  # rollout/ep_rew_mean is the mean over this many last episodes, as in SB3


class Step(NamedTuple):
    """What one step of N envs produces, as tensors. The last row has meaning only where an episode ended."""

    obs: Tensor  # [N, *O] to act on next
    reward: Tensor  # [N] float32
    terminated: Tensor  # [N] bool
    truncated: Tensor  # [N] bool
    valid: Tensor  # [N] bool: is experience (a Gymnasium NEXT_STEP reset is not)
    final_obs: Tensor  # [N, *O] last observation of the episode that ended


class BatchEnv(Protocol):
    """What is asked of N envs: `SimVectorEnv` and `GymVectorEnv` are two. Their docstrings say more."""

    num_envs: int
    single_observation_space: gymnasium.Space
    single_action_space: gymnasium.Space
    metadata: dict[str, Any]
    valid: NDArray | None

    def arrays(self) -> Transition: ...
    def bind(self, out: Transition) -> Transition: ...
    def restart(self, obs: NDArray) -> None: ...
    def advance(self, actions: NDArray, out: Transition) -> NDArray | None: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any], obs: NDArray) -> None: ...
    def frame(self, i: int) -> NDArray: ...
    def close(self) -> None: ...


class Stopwatch:
    """`with stopwatch:` adds what passes to `seconds`, of the host's time: a GPU may still be at it."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


class TorchEnv:
    """N envs seen as tensors on `device`. Bind the tensors to write into once (`bind`), then `step(action, slot)`."""

    def __init__(self, env: BatchEnv, device: str | torch.device = "cpu"):
        self.env, self.num_envs, self.device = env, env.num_envs, torch.device(device)
        self.is_native = isinstance(env, SimVectorEnv)  # its state can be saved
        self.has_resets = env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP  # some steps are not experience
        self.obs_spec, self.action_spec = obs_spec(env), action_spec(env)
        self._host = env.bind(env.arrays())
        self.stepping = Stopwatch()
        self.episodes = 0
        self._recent = np.zeros((max(EPISODE_WINDOW, self.num_envs), 2))  # ring of (return, length)
        self.obs = torch.zeros((self.num_envs, *self._host.obs.shape[1:]), dtype=self.obs_dtype, device=self.device)
        self.reset()

    @property
    def compiled(self) -> SimVectorEnv | None:
        """The envs, if they are such that a kernel can step by itself, without coming back to Python."""
        env = self.env
        return env if isinstance(env, SimVectorEnv) and env.is_compiled and not self.has_resets else None

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
        )

    def bind(self, step: Step) -> tuple[Step, Transition]:
        """A slot for `step`: the tensors of one Step [N, ...] and the host arrays that are written first."""
        if self.device.type != "cpu":
            return step, self._host
        names = ["obs", "terminated", "truncated", "final_obs"]
        if self._host.reward.dtype == np.float32:  # an env of float64 precision has its own
            names.append("reward")
        arrays = self._host._replace(**{name: getattr(step, name).numpy() for name in names})
        return step, self.env.bind(arrays)

    def reset(self) -> None:
        """Begin with the first episodes of the env's seed; `obs` [N, *O] are their first observations."""
        self.env.restart(self._host.obs)
        self.obs = torch.from_numpy(self._host.obs.copy()).to(self.device)

    def step(self, action: Tensor, slot: tuple[Step, Transition]) -> NDArray | None:
        """Act in every env: action [N] int64 or [N, *shape] float32, in the env's units. Fills the slot's tensors.

        Returns the mask (N,) of envs whose episode ended, None if none did.
        """
        tensors, arrays = slot
        host_action = action.cpu().numpy()
        with self.stepping:
            ended = self.env.advance(host_action, arrays)
        if self.env.valid is not None:
            tensors.valid.copy_(torch.from_numpy(self.env.valid))
        if ended is not None:
            self._count_episodes(arrays.episode_return[ended], arrays.episode_length[ended])
        for name in ("obs", "reward", "terminated", "truncated", "final_obs"):
            if getattr(arrays, name) is getattr(self._host, name):  # not the tensor's own memory
                getattr(tensors, name).copy_(torch.from_numpy(getattr(arrays, name)), non_blocking=True)
        self.obs = tensors.obs
        return ended

    def took(self, obs: Tensor, episode_return: NDArray, episode_length: NDArray, seconds: float) -> None:
        """Take note of T steps that a kernel has taken itself: obs [N, *O] to act on next; return and length [T, N]."""
        self.obs = obs
        self.stepping.seconds += seconds
        ended = episode_length > 0
        self._count_episodes(episode_return[ended], episode_length[ended])

    def _count_episodes(self, returns: NDArray, lengths: NDArray) -> None:
        self.episodes += max(0, len(returns) - len(self._recent))  # more than there is room for: the last ones
        returns, lengths = returns[-len(self._recent) :], lengths[-len(self._recent) :]
        rows = (self.episodes + np.arange(len(returns))) % len(self._recent)
        self._recent[rows, 0], self._recent[rows, 1] = returns, lengths
        self.episodes += len(returns)

    def metrics(self) -> dict[str, float]:
        """Mean return and length of the last 100 episodes (nothing before the first one has ended)."""
        if self.episodes == 0:
            return {}
        window = min(self.episodes, EPISODE_WINDOW)
        rows = (self.episodes - 1 - np.arange(window)) % len(self._recent)
        mean_return, mean_length = self._recent[rows].mean(0)
        return {
            "rollout/ep_rew_mean": float(mean_return),
            "rollout/ep_len_mean": float(mean_length),
            "rollout/episodes": self.episodes,
        }

    def state(self) -> dict[str, Any]:
        """What resuming needs. Native envs come back where they were; others begin new episodes."""
        return {"episodes": self.episodes, "recent": self._recent.copy(), "env": self.env.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.episodes = state["episodes"]
        self._recent[:] = state["recent"]
        self.env.set_state(state["env"], self._host.obs)
        self.obs = torch.from_numpy(self._host.obs.copy()).to(self.device)

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
) -> TorchEnv:
    """The envs that `config` (a SimConfig or GymnasiumConfig) describes. split: "train", "validation" or "test"."""
    env: BatchEnv
    if config.name == "gymnasium":
        env = envs.gym.make(
            config.id,
            num_envs,
            vectorization=config.vectorization,
            kwargs=config.kwargs,
            seed=seed,
            split=split,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
        )
    else:
        env = envs.make_vec(
            config.name,
            num_envs,
            seed=seed,
            params=config.params,
            split=split,
            num_levels=config.levels if split == "train" else 0,
            max_episode_steps=config.max_episode_steps,
            backend=config.backend,
            precision=config.precision,
            autoreset_mode=autoreset_mode,
        )
    return TorchEnv(env, device)


def reward_threshold(config: Any) -> float | None:
    """The mean return at which the env of `config` counts as solved, if its author said so."""
    if config.name == "gymnasium":
        return gymnasium.spec(config.id.rpartition(":")[2]).reward_threshold
    return envs.get_sim(config.name).reward_threshold


def obs_spec(env: BatchEnv) -> ObsSpec:
    """What the env's observation tensor looks like and means."""
    obs = env.arrays().obs
    parts = [Part(leaf.kind, list(leaf.shape)) for leaf in leaves(env.single_observation_space)]
    return ObsSpec(list(obs.shape[1:]), str(obs.dtype), parts)


def action_spec(env: BatchEnv) -> ActionSpec:
    """The env's action space as plain data."""
    space = check_action_space(env.single_action_space)
    if isinstance(space, gymnasium.spaces.Discrete):
        return ActionSpec(n=int(space.n))
    assert isinstance(space, gymnasium.spaces.Box)
    return ActionSpec(0, list(space.shape), space.low.ravel().tolist(), space.high.ravel().tolist())
