"""What torchrun starts in test_distributed.py: `torchrun -m tests.ranks FOLDER` trains the cases, with planted bugs as well;
`torchrun -m tests.ranks rlsys ARGUMENTS` is rlsys, whose ranks' process numbers are then in files."""

import os
import sys
from pathlib import Path

from rlsys import agents, checkpoint, cli
from rlsys.config import PPOConfig, PQNConfig, SimConfig
from rlsys.distributed import ALONE, Joined, Ranks, joined
from rlsys.torchenv import make_env

ITERATIONS = 10
SMALL = {"hidden": [16], "n_steps": 16, "batch_size": 24, "n_epochs": 2, "normalize_observations": True}
EVERYTHING = {
    **SMALL,
    "normalize_rewards": True,
    "ent_coef": 0.01,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "linear",
}
BOX = SimConfig("pendulum", {"length": [0.8, 1.2]}, max_episode_steps=20)
FRAMES = SimConfig("maze", levels=20, frame_stack=2, max_episode_steps=9)
CASES = {  # steps are limited so that episodes are truncated
    "ppo": (SimConfig("cartpole", max_episode_steps=20), PPOConfig(**EVERYTHING)),
    "ppo, target_kl": (SimConfig("cartpole"), PPOConfig(**EVERYTHING, target_kl=1e-4)),
    "ppo, Box, worlds that differ": (BOX, PPOConfig(**EVERYTHING)),
    "ppo, levels, stacked frames": (FRAMES, PPOConfig(**SMALL, encoder="mlp")),
    "ppo, minibatches of which a rank has none": (
        SimConfig("cartpole"),
        PPOConfig(hidden=[8], n_steps=2, batch_size=3),
    ),
    "pqn": (SimConfig("cartpole", max_episode_steps=20), PQNConfig(**SMALL)),
}
BUGS = {  # what is each rank's own, though it should be of all of them
    "advantages normalised by the rank's own mean and deviation": ("standardised", Ranks.standardised),
    "normalisers of the rank's own observations": ("moments", Ranks.moments),
    "gradients not averaged": ("mean_", Ranks.mean_),
    "gradients averaged, however many samples they are of": (
        "mean_",
        lambda self, tensors, weight, right=Joined.mean_: right(self, tensors, 1),
    ),
    "noise of the first envs": ("mine", lambda self, x, dim=0: x.narrow(dim, 0, x.shape[dim] // self.size)),
}


def trained(case: str, ranks: Ranks = ALONE, num_envs: int = 8) -> dict:
    """The state of an agent after ITERATIONS, and what the last one said."""
    world, config = CASES[case]
    env = make_env(world, num_envs, split="train", seed=3, ranks=ranks)
    agent = agents.build(env, config, 3, engine="torch")
    metrics = [agent.iterate(i / ITERATIONS) for i in range(ITERATIONS)][-1]
    return {**agent.state(), "metrics": {name.replace("/", "."): float(x) for name, x in metrics.items()}}


def main(folder: Path) -> None:
    with joined(True, 120.0) as ranks:
        for case in CASES:
            keep(folder / case, trained(case, ranks), ranks)
        for bug, (method, wrong) in BUGS.items():
            right = getattr(Joined, method)
            setattr(Joined, method, wrong)
            state = trained("ppo", ranks)
            setattr(Joined, method, right)
            keep(folder / bug, state, ranks)


def keep(folder: Path, state: dict, ranks: Ranks) -> None:
    if ranks.rank == 0:
        folder.mkdir()
        checkpoint.save(folder, 0, state)


if __name__ == "__main__":
    if sys.argv[1] == "rlsys":
        Path(f"rank{os.environ['RANK']}").write_text(str(os.getpid()))
        try:
            sys.exit(cli.main(sys.argv[2:]))
        finally:
            Path(f"cores{os.environ['RANK']}").write_text(str(sum(os.times()[:4])))
    main(Path(sys.argv[1]))
