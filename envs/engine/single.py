"""`SimEnv`: one world behind `gymnasium.Env`, for everything that expects that API.

It is env 0 of a `SimVectorEnv` of one: with the same seed and actions, the same episodes.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from envs.engine.canvas import ansi
from envs.engine.sim import Sim
from envs.engine.vector import SimVectorEnv
from envs.registration import get_sim


class SimEnv(gymnasium.Env):
    """One copy of `sim` (a name or a Sim).

    render_mode: None, "rgb_array" (a (400, 400, 3) uint8 frame) or "ansi" (text for a true-colour terminal).
    Other keyword arguments (params, split, num_levels, max_episode_steps, backend, precision) are `SimVectorEnv`'s.
    The underlying vector env is `vector`: `env.unwrapped.vector.state["x"][0] = 0.5`, `.get_state()`, ...

    Episodes are truncated by the env itself: `gymnasium.make(..., max_episode_steps=)` can only shorten them, as Gymnasium keeps
    that to itself; `gymnasium.make_vec` and `envs.make_vec` can lengthen them, too. `info` is empty. `step` before `reset`, or
    after the episode's end, raises `gymnasium.error.ResetNeeded`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 30}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, sim: str | Sim, *, render_mode: str | None = None, **kwargs: Any):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode={render_mode!r} is not one of None, 'rgb_array', 'ansi'.")
        sim = get_sim(sim)
        # NextStep, because the last step of an episode must not begin the next one: that is `reset`'s.
        self.vector = SimVectorEnv(sim, 1, backend=kwargs.pop("backend", "serial"), autoreset_mode="NextStep", **kwargs)
        self.metadata = {**self.metadata, "render_fps": sim.frame_rate}
        self.render_mode = render_mode
        self.observation_space, self.action_space = sim.observation_space, sim.action_space
        self._running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start an episode; returns (obs, info). options: `level`, an int, in sims with levels."""
        super().reset(seed=seed)
        obs, _ = self.vector.reset(seed=seed, options=options)
        self._running = True
        return obs[0].copy(), {}

    def step(self, action: Any):
        """Advance one step; returns (obs, reward, terminated, truncated, info)."""
        if not self._running:
            raise ResetNeeded("step() needs a running episode: call reset() first.")
        obs, rewards, terminated, truncated, _ = self.vector.step(np.asarray(action)[None])
        self._running = not (terminated[0] or truncated[0])
        return obs[0].copy(), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self):
        """The world as it stands: a frame or text, by `render_mode`."""
        if self.render_mode is None:
            return gymnasium.logger.warn("render() without a render_mode: pass one to gymnasium.make.")
        frame = self.vector.frame(0)
        return ansi(frame) if self.render_mode == "ansi" else frame
