"""gymnax: the loop over steps is compiled with the envs, and draws the random actions inside."""

import gymnax
import jax
from serve import Run, serve


def env(settings: dict, options: dict) -> Run:
    n = settings["num_envs"]
    calls = max(20, 200_000 // n)
    world, params = gymnax.make("CartPole-v1")
    key, reset_key = jax.random.split(jax.random.key(0))
    obs, state = jax.vmap(world.reset, (0, None))(jax.random.split(reset_key, n), params)

    def step(carry, _):
        key, _, state = carry
        key, action_key, step_key = jax.random.split(key, 3)
        action = jax.random.randint(action_key, (n,), 0, 2)
        keys = jax.random.split(step_key, n)
        obs, state, reward, terminated, truncated, _ = jax.vmap(world.step, (0, 0, 0, None))(
            keys, state, action, params
        )
        return (key, obs, state), (reward.sum(), terminated.sum() + truncated.sum())

    steps = jax.jit(lambda carry: jax.lax.scan(step, carry, None, calls))
    carry = (key, obs, state)

    def run() -> int:
        nonlocal carry
        carry, _ = jax.block_until_ready(steps(carry))
        return calls * n

    return run


if __name__ == "__main__":
    serve({"env": env})
