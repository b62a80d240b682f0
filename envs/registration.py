"""The registry of sims: their names, and nothing of them imported until one is asked for.

`import envs` tells Gymnasium about them. (Gymnasium 1.0 gave up plug-ins; where nothing imports envs, put it in the id:
`gymnasium.make("envs:rlsys/CartPole-v0")`.)
"""

import importlib
from difflib import get_close_matches
from typing import TYPE_CHECKING

import gymnasium

if TYPE_CHECKING:
    from envs.engine.sim import Sim

# Sim module -> Gymnasium name and version. A new sim needs one line here (docs/add-an-env.md).
SIMS = {
    "acrobot": "Acrobot-v0",
    "battery": "Battery-v0",
    "breakout": "Breakout-v0",
    "cartpole": "CartPole-v0",
    "game2048": "Game2048-v0",
    "highway": "Highway-v0",
    "inventory": "Inventory-v0",
    "labyrinth": "Labyrinth-v1",
    "maze": "Maze-v1",
    "mountaincar": "MountainCar-v0",
    "mountaincar_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v0",
    "pricing": "Pricing-v0",
    "pushdisc": "PushDisc-v0",
    "quadrotor": "Quadrotor-v0",
    "quadrotor_gates": "QuadrotorGates-v0",
    "racer": "Racer-v0",
    "reacher": "Reacher-v0",
    "scheduling": "Scheduling-v0",
    "snake": "Snake-v0",
}


def sims() -> list[str]:
    """The names of all sims."""
    return list(SIMS)


def get_sim(name: "str | Sim") -> "Sim":
    """The Sim called "cartpole", "CartPole-v0" or "rlsys/CartPole-v0" (a Sim is returned as it is).

    Raises ValueError, with the nearest name, if there is none.
    """
    if not isinstance(name, str):
        return name
    modules = {alias: module for module, id in SIMS.items() for alias in (module, id, f"rlsys/{id}")}
    if name not in modules:
        folded = {alias.lower(): alias for alias in modules}
        near = get_close_matches(name.lower(), folded, n=1)
        hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
        raise ValueError(f"there is no sim {name!r}.{hint} Sims: {', '.join(SIMS)}.")
    return importlib.import_module(f"envs.{modules[name]}").SIM


def register() -> None:
    """Register `rlsys/<name>` for `gymnasium.make` and `gymnasium.make_vec`."""
    for module, name in SIMS.items():
        if f"rlsys/{name}" not in gymnasium.registry:
            gymnasium.register(
                id=f"rlsys/{name}",
                entry_point="envs.engine.single:SimEnv",
                vector_entry_point="envs.engine.vector:make",
                kwargs={"sim": module},
            )
