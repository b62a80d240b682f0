"""rejax: PPO and DQN in JAX on gymnax's CartPole, every training iteration compiled with the envs.

Its `train` evaluates as it goes; what is measured here is its `train_iteration`, many in one compiled loop.
"""

import jax
import rejax
from flax import linen
from rejax.algos.algorithm import Algorithm, register_init
from rejax.buffers import ReplayBuffer
from rejax.networks import DiscreteQNetwork, EpsilonGreedyPolicy
from serve import Run, serve


def looped(algorithm: Algorithm, steps: int, iterations: int, warm_up: int = 0) -> Run:
    """`iterations` iterations a call, of so many steps each."""
    loop = jax.jit(lambda state: jax.lax.fori_loop(0, iterations, lambda _, s: algorithm.train_iteration(s), state))
    state = algorithm.init_state(jax.random.key(0))

    def run() -> int:
        nonlocal state
        state = jax.block_until_ready(loop(state))
        return iterations * steps

    done = 0
    while done < warm_up:
        done += run()
    return run


def ppo(settings: dict, options: dict) -> Run:
    s, steps = settings, settings["num_envs"] * settings["n_steps"]
    algorithm = rejax.PPO.create(
        env="CartPole-v1",
        num_envs=s["num_envs"],
        num_steps=s["n_steps"],
        num_minibatches=steps // s["batch_size"],
        num_epochs=s["n_epochs"],
        learning_rate=s["learning_rate"],
        gamma=s["gamma"],
        gae_lambda=s["gae_lambda"],
        clip_eps=s["clip_range"],
        ent_coef=s["ent_coef"],
        vf_coef=s["vf_coef"],
        max_grad_norm=s["max_grad_norm"],
        agent_kwargs={"hidden_layer_sizes": s["hidden"], "activation": s["activation"]},
    )
    return looped(algorithm, steps, max(1, 50_000 // steps))


class WithReplacement(ReplayBuffer):
    """Draws as SB3 and rlsys do. rejax's own draws without replacement, by sorting random numbers for the whole buffer."""

    def sample(self, num, rng):
        at = jax.random.randint(rng, (num,), 0, self.num_entries)
        return jax.tree.map(lambda x: x[at], self.data)


class DQNWithReplacement(rejax.DQN):
    @register_init
    def initialize_replay_buffer(self, rng):
        return {"replay_buffer": WithReplacement.empty(self.buffer_size, self.obs_space, self.action_space)}


def dqn(settings: dict, options: dict) -> Run:
    s = settings
    assert s["train_freq"] == s["num_envs"], "rejax's DQN learns after every step of the batch of envs"
    algorithm = (DQNWithReplacement if options.get("replacement") else rejax.DQN).create(
        env="CartPole-v1",
        num_envs=s["num_envs"],
        num_epochs=s["gradient_steps"],
        buffer_size=s["buffer_size"],
        fill_buffer=s["learning_starts"],
        batch_size=s["batch_size"],
        learning_rate=s["learning_rate"],
        gamma=s["gamma"],
        target_update_freq=s["target_update_interval"],
        polyak=1.0 - s["tau"],
        eps_start=s["exploration_initial_eps"],
        eps_end=s["exploration_final_eps"],
        exploration_fraction=1.0,
        total_timesteps=s["learning_starts"],  # so that exploration is down to its last when learning begins
        max_grad_norm=s["max_grad_norm"],
        ddqn=s["double"],
        agent_kwargs={"activation": s["activation"]},
    )
    network = EpsilonGreedyPolicy(DiscreteQNetwork)(  # its sizes cannot be asked for
        hidden_layer_sizes=tuple(s["hidden"]), action_dim=2, activation=getattr(linen, s["activation"])
    )
    return looped(algorithm.replace(agent=network), s["num_envs"], 1000, warm_up=s["learning_starts"] + 10_000)


if __name__ == "__main__":
    serve({"ppo": ppo, "dqn": dqn})
