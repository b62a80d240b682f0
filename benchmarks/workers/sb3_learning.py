"""stable-baselines3's PPO on CartPole until it is solved: `sb3_learning.py SEED OUTCOME`, which gets [score, steps].

Hyperparameters: RL Baselines3 Zoo, hyperparams/ppo.yml, CartPole-v1. Every 4096 steps 20 episodes are played, and once they
reach 475, 100 on other seeds, which decide.
"""

import json
import sys
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

SOLVED = 475.0


class UntilSolved(BaseCallback):
    score = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % 4096:
            return True
        if self.mean(20, 10_000) < SOLVED:
            return True
        self.score = self.mean(100, 20_000)
        return self.score < SOLVED

    def mean(self, episodes: int, seed: int) -> float:
        env = make_vec_env("CartPole-v1", min(episodes, 20), seed=seed)
        return float(evaluate_policy(self.model, env, episodes, deterministic=True)[0])


seed, outcome = int(sys.argv[1]), Path(sys.argv[2])
model = PPO(
    "MlpPolicy",
    make_vec_env("CartPole-v1", 8, seed=seed),
    n_steps=32,
    batch_size=256,
    gae_lambda=0.8,
    gamma=0.98,
    n_epochs=20,
    ent_coef=0.0,
    learning_rate=lambda left: 1e-3 * left,
    clip_range=lambda left: 0.2 * left,
    seed=seed,
    device="cpu",
)
until = UntilSolved()
model.learn(100_000, callback=until)
outcome.write_text(json.dumps([until.score, model.num_timesteps]))
