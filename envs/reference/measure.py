"""Measure what uniform actions, or a sim's own baseline, earn: `python -m envs.reference.measure cartpole scripted`.

The figures that stand in a sim's `references` come from here, from episodes of its test split.
"""

import argparse
import math

import numpy as np
from numpy.typing import NDArray

import envs
from envs.engine.sim import Sim
from envs.registration import named_sim


def returns(sim: str | Sim, policy: str, episodes: int, *, seed: int = 0, num_envs: int = 1000, **options) -> NDArray:
    """The undiscounted returns (episodes,) of the first episodes that each env plays.

    policy: "random" (uniform over the action space) or "scripted". options: as for `envs.make_vec`; split is "test".
    Each env plays the same number of episodes (rounded up): otherwise short ones would be over-represented.
    """
    num_envs = min(num_envs, episodes)
    env = envs.make_vec(sim, num_envs, **{"seed": seed, "split": "test", **options})
    env.action_space.seed(seed)
    env.reset()
    quota = -(-episodes // num_envs)
    found: list[list[float]] = [[] for _ in range(num_envs)]
    out = env.arrays()
    while min(map(len, found)) < quota:
        ended = env.advance(env.scripted_actions() if policy == "scripted" else env.action_space.sample(), out)
        for i in () if ended is None else np.flatnonzero(ended):
            found[i].append(float(out.episode_return[i]))
    return np.concatenate([played[:quota] for played in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sim", help="its name, or module:SIM")
    parser.add_argument("policy", choices=("random", "scripted"))
    parser.add_argument("--episodes", type=int, default=10_000)
    args = parser.parse_args()
    try:
        found = returns(named_sim(args.sim), args.policy, args.episodes)
    except ValueError as error:
        parser.error(str(error))
    spread = found.std(ddof=1) / math.sqrt(len(found))
    print(f"{args.sim} {args.policy}: {found.mean():.6g} +- {spread:.2g} ({len(found)} episodes)")


if __name__ == "__main__":
    main()
