"""`FrameStack`: N envs whose observation is the last k ones, for worlds that a single picture does not tell: where is it going?

Frames are joined along the last axis, the oldest first: a picture (height, width, channels) becomes (height, width,
k channels), a vector (n,) becomes (k n,), and of a packed Dict each part is stacked by itself. The dtype stays. At the start
of an episode the first observation is there k times, so no stack ever reaches back into another episode; the last stack of
an episode that ended is in `final_obs`. So it is whatever the autoreset mode.

Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning" (k = 4), whose first frames are black.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.engine.vector import SimVectorEnv, Transition
from envs.gym import GymVectorEnv, leaves_of


class FrameStack:
    """`env`, a `SimVectorEnv` or `GymVectorEnv`, with the last `size` observations for one; the same interface.

    leaves: the parts of an observation, with their stacked shapes.
    """

    is_resident = False  # on the CPU

    def __init__(self, env: SimVectorEnv | GymVectorEnv, size: int):
        if size < 1:
            raise ValueError(f"frame_stack={size} must be at least 1.")
        if env.is_resident:
            raise ValueError(f"frame_stack={size}: frames are stacked on the CPU, and these envs are on a GPU.")
        self.env, self.size, self.num_envs, self.metadata = env, size, env.num_envs, env.metadata
        self.single_observation_space, self.single_action_space = env.single_observation_space, env.single_action_space
        self.precision = getattr(env, "precision", "float32")
        self.of_each_env = (*env.of_each_env, "stacks")
        self._frames = leaves_of(env)
        self.leaves = [replace(leaf, shape=self._stacked(leaf.shape)) for leaf in self._frames]
        self._inner = env.arrays()
        self._outer: Transition | None = None  # what `_inner` shares its rewards and ends with
        dtype = self._inner.obs.dtype
        self._stacks = [np.zeros((self.num_envs, *leaf.shape), dtype) for leaf in self.leaves]
        self._resets: NDArray | None = None  # NEXT_STEP: the envs whose next step will only reset

    def _stacked(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.size * shape[-1]) if shape else (self.size,)

    @property
    def valid(self) -> NDArray | None:
        """(N,) bool, rows of the last step that are experience; None means all."""
        return self.env.valid

    def arrays(self) -> Transition:
        """Fresh arrays for `advance(actions, out)`."""
        shapes = [leaf.shape for leaf in self.leaves]
        shape = shapes[0] if len(shapes) == 1 else (sum(math.prod(shape) for shape in shapes),)
        pair = (np.zeros((self.num_envs, *shape), self._inner.obs.dtype) for _ in range(2))
        return self.env.arrays()._replace(obs=next(pair), final_obs=next(pair))

    def bind(self, out: Transition) -> Transition:
        """`out` itself: here nothing needs to be prepared."""
        return out

    def restart(self, obs: NDArray) -> None:
        """Begin with the first episodes of the env's seed (again); writes their observations into obs (N, ...)."""
        self.env.restart(self._inner.obs)
        self._begin(obs)

    def advance(self, actions: NDArray, out: Transition) -> NDArray | None:
        """Step every env; fills `out`; returns the mask (N,) of envs whose episode ended, or None if none."""
        if out is not self._outer:  # all but the observations is written where it belongs at once
            own = {"obs": self._inner.obs, "final_obs": self._inner.final_obs}
            self._inner, self._outer = self.env.bind(out._replace(**own)), out
        ended = self.env.advance(actions, self._inner)
        begun = ended
        if self.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP:
            begun, self._resets = self._resets, None if ended is None else ended.copy()
        finals = []
        frames, lasts = self._parts(self._inner.obs), self._parts(self._inner.final_obs)
        for stack, frame, last in zip(self._stacks, frames, lasts, strict=True):
            older = stack[..., frame.shape[-1] :]
            if ended is not None:
                finals.append(np.concatenate([older[ended], last[ended]], axis=-1))
            stack[..., : -frame.shape[-1]] = older
            stack[..., -frame.shape[-1] :] = frame
            if begun is not None:
                stack[begun] = np.tile(frame[begun], self.size)
        out.obs[:] = _joined(self._stacks)
        if ended is not None:
            out.final_obs[ended] = _joined(finals)
        return ended

    def get_state(self) -> dict[str, Any]:
        """The env's state; and the stacks, if it will come back where it was."""
        stacks = self._stacks if isinstance(self.env, SimVectorEnv) else []
        return {"env": self.env.get_state(), "stacks": {str(k): stack.copy() for k, stack in enumerate(stacks)}}

    def set_state(self, state: dict[str, Any], obs: NDArray) -> None:
        """Go on from `get_state`; writes the observations into obs (N, ...)."""
        self.env.set_state(state["env"], self._inner.obs)
        self._begin(obs)
        for k, saved in state["stacks"].items():  # none, where new episodes have begun
            self._stacks[int(k)][:] = saved
        obs[:] = _joined(self._stacks)

    def frame(self, i: int) -> NDArray:
        """A picture of env i, (height, width, 3) uint8."""
        return self.env.frame(i)

    def close(self) -> None:
        self.env.close()

    def _begin(self, obs: NDArray) -> None:
        """Every env is at the start of an episode."""
        self._resets = None
        for stack, frame in zip(self._stacks, self._parts(self._inner.obs), strict=True):
            stack[:] = np.tile(frame, self.size)
        obs[:] = _joined(self._stacks)

    def _parts(self, obs: NDArray) -> list[NDArray]:
        """Observations (N, ...) of the env taken apart: (N, *shape) of each leaf, a view."""
        flat, ends = obs.reshape(len(obs), -1), np.cumsum([math.prod(leaf.shape) for leaf in self._frames])
        cut = np.split(flat, ends[:-1], axis=1)
        return [part.reshape(len(obs), *(leaf.shape or (1,))) for part, leaf in zip(cut, self._frames, strict=True)]


def _joined(parts: list[NDArray]) -> NDArray:
    """One array (N, ...): the only part, or all of them flattened."""
    return parts[0] if len(parts) == 1 else np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
