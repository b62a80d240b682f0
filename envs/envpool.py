"""envpool's environments (Weng et al. 2022), C++ threads and all, as a Gymnasium `VectorEnv` for `GymVectorEnv` to step."""

import importlib
import warnings
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


class EnvPool(VectorEnv):
    """`num_envs` copies of envpool's `env_id`, which takes a seed only as it is made: `reset(seed=...)` makes it anew.

    An episode that ended is begun again by the next step, whose action is ignored. ValueError if envpool is not installed,
    or does not know the id or one of the options.
    """

    def __init__(self, env_id: str, num_envs: int, *, render_mode: str | None = None, **options: Any):
        self.env_id, self.num_envs, self.render_mode = env_id, num_envs, render_mode
        self.options = {**options, **({"render_mode": render_mode} if render_mode else {})}
        self._pool = self._made(0)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = self._pool.observation_space, self._pool.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _made(self, seed: int) -> Any:
        pools = check_pool(self.env_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the precision of its bounds
            return pools.make(self.env_id, env_type="gymnasium", num_envs=self.num_envs, seed=seed, **self.options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every env."""
        if seed is not None:
            self._pool.close()
            self._pool = self._made(seed)
        return self._pool.reset()

    def step(self, actions: NDArray) -> tuple[Any, NDArray, NDArray, NDArray, dict[str, Any]]:
        """Step every env; those whose episode had ended are reset instead."""
        return self._pool.step(np.asarray(actions, self.single_action_space.dtype))

    def render(self) -> tuple[NDArray, ...]:
        """A picture of each env, (height, width, 3) uint8."""
        return tuple(self._pool.render(env_ids=np.arange(self.num_envs)))

    def close_extras(self, **kwargs: Any) -> None:
        self._pool.close()


def check_pool(env_id: str) -> Any:
    """The envpool module, if it is installed and knows `env_id`; else ValueError."""
    try:
        pools = importlib.import_module("envpool")
    except ImportError as error:
        raise ValueError("env.vectorization=envpool: it is not installed: pip install 'rlsys[envpool]'") from error
    if env_id not in pools.list_all_envs():
        raise ValueError(f"env.id={env_id!r} is none of envpool's; envpool.list_all_envs() names them.")
    return pools
