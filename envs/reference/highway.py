"""What Highway would be worth on an empty road: a bound on every policy.

python -m envs.reference.highway
"""

from envs.highway import DT, PER_SPEED, SIM, SUBSTEPS


def free_road_return(start: float = 25.0, top: float = 30.0) -> float:
    """Faster at once, and never slower: the speed nears `top` by the same factor in each Euler step."""
    lag = (1.0 - DT * PER_SPEED) ** SUBSTEPS  # of a second
    behind = (top - start) * sum(lag ** (t + 1) for t in range(SIM.max_episode_steps))
    return ((top - 20.0) * SIM.max_episode_steps - behind) / 10.0


if __name__ == "__main__":
    print(f"empty road: {free_road_return():.6g}")
