"""Simulators as plain Python functions, run many at a time by one compiled kernel.

    env = envs.make_vec("cartpole", num_envs=1024)                  # the native, zero-copy vector env
    env = envs.make_vec("cartpole", num_envs=1024, device="cuda")   # the same, on the GPU
    env = gymnasium.make("rlsys/CartPole-v0")                       # the same worlds behind Gymnasium's API, one
    env = gymnasium.make_vec("rlsys/CartPole-v0", num_envs=1024)    # or many (with copies, as is Gymnasium's custom)

One file here is one sim; its docstring is the reference page. `envs.engine` runs them (docs/add-an-env.md).
"""

import ctypes
import sys
from typing import TYPE_CHECKING, Any

from envs.registration import get_sim, register, sims

if TYPE_CHECKING:
    from envs.engine.sim import Sim
    from envs.engine.vector import SimVectorEnv

__all__ = ["get_sim", "has_gpu", "make_vec", "sims"]

register()


def make_vec(sim: "str | Sim", num_envs: int = 1, *, device: str = "cpu", **kwargs: Any) -> "SimVectorEnv":
    """`num_envs` copies of a sim, given by name or as a Sim. Keyword arguments: see `SimVectorEnv`.

    device: "cpu", or "cuda" (see `envs.engine.cuda`: all arrays are then the GPU's).
    """
    # imported here, so that `import envs` imports nothing heavy
    if device == "cuda":
        from envs.engine.cuda import CudaVectorEnv

        return CudaVectorEnv(get_sim(sim), num_envs, **kwargs)
    if device != "cpu":
        raise ValueError(f"device={device!r} is not one of 'cpu', 'cuda'.")
    from envs.engine.vector import SimVectorEnv

    return SimVectorEnv(get_sim(sim), num_envs, **kwargs)


def has_gpu() -> bool:
    """Whether there is an NVIDIA driver with a device. Imports nothing; says nothing about numba-cuda or torch."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False
