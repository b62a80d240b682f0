"""Worlds that these tests train in."""

import gymnasium

import envs
from envs.gym import GymVectorEnv


def make(sim, num_envs, **options):
    """A vector env of `sim` with a fixed seed."""
    return envs.make_vec(sim, num_envs, **{"seed": 0, **options})


def make_with_resets(kind, num_envs):
    """CartPole in which a step that only resets, and is not experience, follows the end of each episode."""
    if kind == "sim":
        return make("cartpole", num_envs, autoreset_mode="NextStep")
    options = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
    return GymVectorEnv(gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="sync", vector_kwargs=options))
