"""EnvPool: C++ envs on a pool of threads, of the size that it chooses; synchronous."""

import envpool
from serve import Run, serve
from vector_env import stepper


def env(settings: dict, options: dict) -> Run:
    n = settings["num_envs"]
    return stepper(envpool.make("CartPole-v1", env_type="gymnasium", num_envs=n, seed=0), n)


if __name__ == "__main__":
    serve({"env": env})
