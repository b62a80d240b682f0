"""The sim engine. A sim's author needs these names and nothing else (docs/add-an-env.md)."""

from envs.engine.jit import njit
from envs.engine.rng import normal, randint, seed_by_level, uniform
from envs.engine.sim import Reference, Sim, params, state_dtype

__all__ = ["Reference", "Sim", "njit", "normal", "params", "randint", "seed_by_level", "state_dtype", "uniform"]
