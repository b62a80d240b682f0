"""The registry of sims: their names, and nothing of them imported until one is asked for.

`import envs` tells Gymnasium about them. (Gymnasium 1.0 gave up plug-ins; where nothing imports envs, put it in the id:
`gymnasium.make("envs:rlsys/CartPole-v0")`.)

Ours are listed here. An installed package declares its own in its metadata, as entry points of the group `rlsys.sims`:

    [project.entry-points."rlsys.sims"]
    thermostat = "mypackage.thermostat:SIM"       # rlsys/Thermostat-v0
    cooled_room-v1 = "mypackage.rooms:COOLED"     # cooled_room, rlsys/CooledRoom-v1

The sim must have that id (`Sim.id`). Only such metadata, and this file, ever become an import.
"""

import importlib
import re
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
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
    "game2048": "Game2048-v1",
    "highway": "Highway-v0",
    "inventory": "Inventory-v0",
    "labyrinth": "Labyrinth-v2",
    "maze": "Maze-v2",
    "mountaincar": "MountainCar-v0",
    "mountaincar_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v0",
    "pricing": "Pricing-v0",
    "pushdisc": "PushDisc-v1",
    "quadrotor": "Quadrotor-v0",
    "quadrotor_gates": "QuadrotorGates-v0",
    "racer": "Racer-v0",
    "reacher": "Reacher-v0",
    "scheduling": "Scheduling-v0",
    "snake": "Snake-v1",
}
GROUP = "rlsys.sims"  # of entry points
RESERVED = ("atari", "gymnasium")  # in a config they stand for what is no sim


@dataclass(frozen=True)
class Declared:
    """A sim as it is declared: by this file, or by an installed package."""

    name: str
    id: str  # without the namespace: Thermostat-v0
    where: str  # module:attribute
    package: str = "rlsys"  # and its version, of an installed one

    @property
    def has_proper_name(self) -> bool:
        return self.name.isidentifier() and self.name not in RESERVED

    def load(self) -> "Sim":
        """Import it. ValueError, naming the package, if that fails or gives something else."""
        module, _, attribute = self.where.partition(":")
        if self.package == "rlsys":
            return getattr(importlib.import_module(module), attribute)
        from envs.engine.sim import Sim

        who = f"the sim {self.name!r} of the installed package {self.package} ({self.where})"
        if not self.has_proper_name:
            raise ValueError(
                f"{who} needs another name for its entry point: letters, digits and _, and none of {', '.join(RESERVED)}."
            )
        try:
            sim = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # somebody else's module may raise anything
            raise ValueError(f"{who} cannot be imported: {type(error).__name__}: {error}") from error
        if not isinstance(sim, Sim):
            raise ValueError(f"{who} is not a Sim but a {type(sim).__name__}.")
        if sim.id != f"rlsys/{self.id}":
            raise ValueError(
                f"{who} calls itself {sim.id}, and its entry point stands for rlsys/{self.id}: call the entry "
                f"point {entry_name(sim.id)!r} (docs/add-an-env.md), and install the package again."
            )
        return sim


@cache
def declared() -> tuple[Declared, ...]:
    """All sims: ours, then those of installed packages, by name. Names may occur twice: see `get_sim`."""
    ours = [Declared(name, id, f"envs.{name}:SIM") for name, id in SIMS.items()]
    return (*ours, *sorted((_of_package(point) for point in entry_points(group=GROUP)), key=lambda sim: sim.name))


def entry_name(sim_id: str) -> str:
    """What the entry point of a sim is called: cooled_room-v1 for rlsys/CooledRoom-v1."""
    name, _, version = sim_id.removeprefix("rlsys/").rpartition("-")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return words if version == "v0" else f"{words}-{version}"


def _of_package(point: EntryPoint) -> Declared:
    """What an entry point `cooled_room-v1` declares: cooled_room, CooledRoom-v1."""
    name, version = re.fullmatch(r"(.*?)(-v\d+)?", point.name).groups(default="-v0")  # type: ignore[union-attr]
    words = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
    return Declared(name, f"{words}{version}", point.value, package)


def sims() -> list[str]:
    """The names of all sims, ours first."""
    return list(dict.fromkeys(sim.name for sim in declared()))


def get_sim(name: "str | Sim") -> "Sim":
    """The Sim called "cartpole", "CartPole-v0" or "rlsys/CartPole-v0" (a Sim is returned as it is).

    Raises ValueError, with the nearest name, if there is none; if two packages claim the name; and if it is of a package
    that cannot be imported.
    """
    return name if not isinstance(name, str) else find(name).load()


def named_sim(name: str) -> "Sim":
    """The Sim that somebody types at a command line: one that is registered, or `module:NAME`, from the present folder too.

    Not for names from a file: this imports the module. Raises ValueError.
    """
    if ":" not in name:
        return get_sim(name)
    from envs.engine.sim import Sim

    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        sim = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise ValueError(f"there is no sim {name!r}: {error}.") from error
    finally:
        sys.path.remove("")
    if not isinstance(sim, Sim):
        raise ValueError(f"{name!r} is not a Sim but a {type(sim).__name__}.")
    return sim


def find(name: str) -> Declared:
    """The one declared sim of that name, short or Gymnasium's; nothing is imported. ValueError: see `get_sim`."""
    aliases: dict[str, list[Declared]] = {}
    for sim in declared():
        for alias in dict.fromkeys((sim.name, sim.id, f"rlsys/{sim.id}")):
            aliases.setdefault(alias, []).append(sim)
    if name not in aliases:
        folded = {alias.lower(): alias for alias in aliases}
        near = get_close_matches(name.lower(), folded, n=1)
        hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
        raise ValueError(f"there is no sim {name!r}.{hint} Sims: {', '.join(sims())}.")
    first, *others = aliases[name]
    if others:
        claims = " and ".join(f"{sim.package} ({sim.where})" for sim in aliases[name])
        raise ValueError(
            f"{name!r} is the name of several sims, of {claims}. Rename the entry point of one, or uninstall its package."
        )
    return first


def register() -> None:
    """Register `rlsys/<name>` for `gymnasium.make` and `gymnasium.make_vec`."""
    for sim in declared():
        if sim.has_proper_name and f"rlsys/{sim.id}" not in gymnasium.registry:
            gymnasium.register(
                id=f"rlsys/{sim.id}",
                entry_point="envs.engine.single:SimEnv",
                vector_entry_point="envs.engine.vector:make",
                kwargs={"sim": f"rlsys/{sim.id}"},
            )
