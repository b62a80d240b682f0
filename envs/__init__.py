"""Simulators as plain Python functions, run many at a time by one compiled kernel.

    env = envs.make_vec("cartpole", num_envs=1024)                  # the native, zero-copy vector env
    env = gymnasium.make("rlsys/CartPole-v0")                       # the same worlds behind Gymnasium's API, one
    env = gymnasium.make_vec("rlsys/CartPole-v0", num_envs=1024)    # or many (with copies, as is Gymnasium's custom)

One file here is one sim; its docstring is the reference page. `envs.engine` runs them (docs/add-an-env.md).
"""

from typing import TYPE_CHECKING, Any

from envs.registration import get_sim, register, sims

if TYPE_CHECKING:
    from envs.engine.sim import Sim
    from envs.engine.vector import SimVectorEnv

__all__ = ["get_sim", "make_vec", "sims"]

register()


def make_vec(sim: "str | Sim", num_envs: int = 1, **kwargs: Any) -> "SimVectorEnv":
    """`num_envs` copies of a sim, given by name or as a Sim. Keyword arguments: see `SimVectorEnv`."""
    from envs.engine.vector import SimVectorEnv  # here, so that `import envs` compiles and imports nothing heavy

    return SimVectorEnv(get_sim(sim), num_envs, **kwargs)
