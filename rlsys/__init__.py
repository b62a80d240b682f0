"""rlsys: train PPO, DQN, PQN and their relatives on simulators written as a few plain Python functions."""

__version__ = "0.1.0"
