"""stable-baselines3 on its own DummyVecEnv over Gymnasium's CartPole. The option `threads` is torch's; default: torch's own."""

import torch
from serve import Run, serve
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

OWN_THREADS = torch.get_num_threads()
CHUNK = 8192  # steps a call of learn, which has a price of its own


def learner(model: BaseAlgorithm, chunk: int, threads: int) -> Run:
    def run() -> int:
        torch.set_num_threads(threads)
        before = model.num_timesteps
        model.learn(chunk, reset_num_timesteps=before == 0)
        return model.num_timesteps - before

    return run


def split(settings: dict) -> tuple[int, dict]:
    """The number of envs, and the settings in SB3's words."""
    words = dict(settings)
    activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[words.pop("activation")]
    words["policy_kwargs"] = {"net_arch": words.pop("hidden"), "activation_fn": activation}
    return words.pop("num_envs"), {**words, "device": "cpu", "seed": 0}


def ppo(settings: dict, options: dict) -> Run:
    n, words = split(settings)
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", n, seed=0), **words)
    return learner(model, max(n * words["n_steps"], CHUNK), options.get("threads", OWN_THREADS))


def dqn(settings: dict, options: dict) -> Run:
    """SB3 counts train_freq in steps of the batch of envs; its DQN is never a double one."""
    n, words = split(settings)
    assert not words.pop("double")
    words["train_freq"] = max(1, words["train_freq"] // n)
    model = DQN("MlpPolicy", make_vec_env("CartPole-v1", n, seed=0), **words)
    torch.set_num_threads(1)
    model.learn(words["learning_starts"] + 1000)  # so that exploration is down to its last in all that is measured
    return learner(model, 1000, options.get("threads", OWN_THREADS))


if __name__ == "__main__":
    serve({"ppo": ppo, "dqn": dqn})
