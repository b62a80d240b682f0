"""Gymnasium's CartPoleVectorEnv: all envs at once in NumPy."""

import gymnasium
from serve import Run, serve
from vector_env import stepper


def env(settings: dict, options: dict) -> Run:
    n = settings["num_envs"]
    return stepper(gymnasium.make_vec("CartPole-v1", n, vectorization_mode="vector_entry_point"), n)


if __name__ == "__main__":
    serve({"env": env})
