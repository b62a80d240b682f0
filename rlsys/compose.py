"""Overrides: the `key=value` that users type, and the Config that they make of conf/. Only this file and plugins/ know Hydra.

`composed` is the way: names are checked, Hydra composes, `config.resolve` checks the values. All complaints are one line
that names the key, and the nearest thing that exists.
"""

import contextlib
import os
import re
import sys
from dataclasses import asdict
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

# Plugins of Hydra that run a grid elsewhere, and how they come here.
LAUNCHERS = {
    "submitit_": "pip install 'rlsys[slurm]'",
    "ray": "pip install 'rlsys[ray]'",
}

SEARCHED = "hydra.searchpath="

# Keys under which a user may write what no schema lists.
FREE_FORM = ("env.params.", "env.train_params.", "env.kwargs.", "agent.hyperparameters.")


class UsageError(Exception):
    """The command line is wrong; the message says what to type instead."""


def normalised(override: str) -> str:
    """The override as Hydra takes it: free-form keys may be added; 1_000_000 and 1e6 are numbers."""
    key, equals, value = override.partition("=")
    if key.startswith("-"):
        hint = f"Settings have no dashes: {override.lstrip('-')}" if equals else "See rlsys train --help."
        raise UsageError(f"there is no option {key!r}. {hint}")
    if key.startswith("~"):
        raise UsageError(f"{override!r}: nothing can be taken away; a key that is left out has its default.")
    if not equals or not re.fullmatch(r"\+{0,2}[\w.@/:-]+", key):
        raise UsageError(f"{override!r} is not of the form key=value.")
    if key == "agent.name":
        raise UsageError(f"{override}: an agent is chosen with agent={value}.")
    if f"{key}.".startswith(FREE_FORM):
        return f"++{override}"
    if re.fullmatch(r"[0-9][0-9_]*", value):
        return f"{key}={value.replace('_', '')}"
    return override


def parsed(override: str) -> Any:
    """One override as Hydra reads it; UsageError if it cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        (found,) = OverridesParser.create().parse_overrides([normalised(override)])
    except HydraException as error:
        raise UsageError(explain(error, [override])) from None
    return found


def typed_values(given: dict[str, str]) -> dict[str, Any]:
    """What is typed on top of a run's own configuration, as values; not the choices that make up a run."""
    if fixed := given.keys() & {"env", "agent", "experiment"}:
        raise UsageError(f"a run that goes on keeps its env and agent: leave out {sorted(fixed)[0]}=.")
    values = {}
    for key, text in given.items():
        override = parsed(f"{key}={text}")
        if override.is_sweep_override():
            raise UsageError(f"{key}={text}: a run that goes on has one value for each key; a list is written [1,2].")
        values[key] = override.value()
    return values


def grid(overrides: list[str]) -> list[list[str]]:
    """Every combination of a multirun's overrides, as Hydra's own sweeper makes them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        batches = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    except HydraException as error:
        raise UsageError(explain(error, overrides)) from None
    return [job for batch in batches for job in batch]


def composed(overrides: list[str]) -> Any:
    """The Config that `conf/` and the overrides make; UsageError or ConfigError for anything that does not exist."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from rlsys.config import ConfigError

    register_schemas()
    check_groups(overrides)
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            data = OmegaConf.to_container(hydra.compose("config", overrides), resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UsageError(explain(error, overrides)) from None
    try:
        return to_config(data)
    except ConfigError as error:
        if match := re.match(r"there is no key '(.+?)'", str(error)):  # an experiment may have brought it
            raise UsageError(unknown(match[1], overrides)) from None
        raise


def checked(overrides: list[str]) -> Any:
    """The Config that `rlsys train` would make of these; ConfigError for any mistake."""
    from rlsys.config import ConfigError

    try:
        config = composed([normalised(override) for override in overrides])
    except UsageError as error:
        raise ConfigError(str(error)) from None
    check_env(config)
    return config


def check_env(config: Any) -> None:
    """Refuse an environment, or a parameter of it, that does not exist, before any folder or device is touched."""
    from rlsys.config import ConfigError

    try:
        if config.env.name == "gymnasium":
            from envs.gym import check_id

            check_id(config.env.id, config.env.vectorization)
        elif config.env.name == "atari":
            from envs.atari import check_game

            check_game(config.env.id)
        else:
            from envs import get_sim

            sim = get_sim(config.env.name)
            sim.params.check(config.env.params, "env.params")
            sim.params.check(config.env.train_params, "env.train_params")
            if config.env.levels and not sim.levels:
                raise ValueError(f"env.levels={config.env.levels}: {sim.name} has no levels.")
    except ValueError as error:
        raise ConfigError(str(error)) from None


def to_config(data: Any) -> Any:
    from rlsys.config import resolve

    return resolve({key: value for key, value in data.items() if key not in ("hydra", "experiment")})


def hydra_main(arguments: list[str], run_job: Any) -> None:
    """Hand the command line to Hydra's own main (--cfg, --info, multirun with any launcher or sweeper)."""
    import hydra
    from omegaconf import OmegaConf

    register_schemas()

    @hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
    def task(cfg):
        return run_job(OmegaConf.to_container(cfg, resolve=True))

    before, sys.argv = sys.argv, ["rlsys train", *arguments]
    try:
        task()
    finally:
        sys.argv = before


# -- a sweep's ---------------------------------------------------------------------------------------------------------


def composed_sweep(overrides: list[str]) -> tuple[Any, list[str]]:
    """The SweepConfig that conf/sweep/ and the overrides make, and the values to search that the preset has."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from rlsys.config import resolve_sweep, unknown_key

    register_schemas()
    chosen = [override.partition("=")[2] for override in overrides if override.startswith("sweep=")]
    name = (chosen or ["default"])[-1]
    if name not in (names := choices("sweep")):
        near = get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"sweep={name}: there is no such sweep.{hint} There are: {', '.join(names)}.")
    settings = [override for override in overrides if not override.startswith("sweep=")]
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            found: Any = OmegaConf.to_container(hydra.compose(f"sweep/{name}", settings), resolve=True)
    except (HydraException, ValueError) as error:
        if match := re.search(r"Could not override '([^']+)'", str(error)):
            from rlsys.config import SweepConfig

            known = [f"sweep.{key}" for key in asdict(SweepConfig())]
            raise UsageError(unknown_key(match[1], known)) from None
        raise UsageError(explain(error, settings)) from None
    data = found["sweep"]
    space = data.pop("space")
    return resolve_sweep(data), [f"{key}={value}" for key, value in space.items()]


def search_space(overrides: list[str]) -> tuple[list[str], dict[str, Any], list[int]]:
    """What is typed for every run, the values to search by key, and the seeds; a later override takes an earlier's place."""
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep

    from rlsys.sweep.spec import Parameter

    typed = {override.partition("=")[0]: override for override in overrides}
    fixed, space, seeds = [], {}, []
    for key, text in typed.items():
        if key in ("run_dir", "resume"):
            instead = "sweep.dir=FOLDER" if key == "run_dir" else "rlsys sweep resume FOLDER"
            raise UsageError(f"{text}: a sweep has its own folder: {instead}.")
        if key == "init":
            raise UsageError(f"{text}: the runs of a sweep begin anew: leave it out.")
        override = parsed(text)
        try:
            value = override.value()
            if not override.is_sweep_override():
                fixed.append(text)
            elif isinstance(value, IntervalSweep):
                if unknown_tags := sorted(value.tags - {"log", "int", "float"}):
                    raise UsageError(f"{text}: there is no tag {unknown_tags[0]!r}; there is log.")
                is_int = "int" in value.tags or isinstance(value.start, int)
                low, high, is_log = float(value.start or 0), float(value.end or 0), "log" in value.tags
                if not low < high or (is_log and low <= 0):
                    raise UsageError(f"{text}: an interval goes from low to high, and with a log from above 0.")
                space[key] = Parameter("int" if is_int else "float", low=low, high=high, log=is_log)
            elif isinstance(value, RangeSweep):
                found = [float(word) for word in override.sweep_string_iterator()]
                if not found:
                    raise UsageError(f"{text}: there is nothing in this range.")
                kind = "int" if all(isinstance(n, int) for n in (value.start, value.stop, value.step)) else "float"
                if key == "seed":
                    seeds = [int(number) for number in found]
                else:
                    space[key] = Parameter(kind, low=min(found), high=max(found), step=abs(float(value.step)))
            elif isinstance(value, ChoiceSweep):
                words = list(dict.fromkeys(override.sweep_string_iterator()))
                if key == "seed":
                    seeds = [int(word) for word in words]
                else:
                    space[key] = Parameter("choice", words)
            else:
                raise UsageError(f"{text}: a sweep takes choice(...), range(...) and interval(...).")
        except ValueError:
            raise UsageError(f"{text}: seeds are integers.") from None
    if "seed" in space:
        raise UsageError(f"{typed['seed']}: seeds are named: seed=1,2,3, or seed=range(1,4).")
    return fixed, space, seeds


# -- what there is to choose from --------------------------------------------------------------------------------------


def conf_folder() -> Path:
    """The configuration folder: $RLSYS_CONF, the checkout's conf/, or the copy in the installed package."""
    here = Path(__file__).resolve().parent
    candidates = (
        [Path(os.environ["RLSYS_CONF"]).resolve()]
        if "RLSYS_CONF" in os.environ
        else [here.parent / "conf", here / "conf"]
    )
    for folder in candidates:
        if (folder / "config.yaml").exists():
            return folder
    raise UsageError(f"no config.yaml in {candidates[0]}. Set RLSYS_CONF to a folder like the project's conf/.")


def search_path(folders: list[str]) -> list[str]:
    """Overrides by which choices are looked for in these folders, too; UsageError if one does not exist."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"--config-dir {folder}: there is no such folder.")
    paths = ",".join("'file://{}'".format(str(Path(folder).resolve()).replace("'", "\\'")) for folder in folders)
    return [f"{SEARCHED}[{paths}]"] if folders else []


def conf_folders(overrides: list[str]) -> list[Path]:
    """Where a choice may have its file: conf/, then those of `search_path` among the overrides."""
    searched = [
        text for override in overrides if override.startswith(SEARCHED) for text in override.split("'file://")[1:]
    ]
    return [conf_folder(), *(Path(re.sub(r"'[],]$", "", text).replace("\\'", "'")) for text in searched)]


def choices(group: str, folders: list[Path] | None = None) -> list[str]:
    found = {path.stem for folder in folders or [conf_folder()] for path in (folder / group).glob("*.yaml")}
    return sorted(found.union(installed_sims() if group == "env" else ()))


@cache
def installed_sims() -> list[str]:
    """Names of the sims that installed packages declare (envs/registration.py), read without Gymnasium, which takes longer."""
    from importlib.metadata import entry_points

    return sorted({re.sub(r"-v\d+$", "", point.name) for point in entry_points(group="rlsys.sims")})


def check_groups(overrides: list[str]) -> None:
    """Refuse a choice (env=, agent=, experiment=) that has no file in conf/ and is no sim of an installed package."""
    for override in overrides:
        group, _, name = override.lstrip("+").partition("=")
        if group not in ("env", "agent", "experiment") or (group, name) == ("experiment", "null"):
            continue
        folders = conf_folders(overrides)
        is_file = ".." not in name and any((folder / group / f"{name}.yaml").is_file() for folder in folders)
        if not is_file and not (group == "env" and name in installed_sims()):
            names = choices(group, folders)
            near = get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            hint = " Several make a grid, which needs -m." if "," in name else hint
            raise UsageError(f"{group}={name}: there is no such {group}.{hint} There are: {', '.join(names)}.")


def register_schemas() -> None:
    """Give Hydra the dataclasses' defaults, as the base of each YAML file in conf/."""
    import dataclasses

    from hydra.core.config_store import ConfigStore

    from rlsys import config

    store = ConfigStore.instance()
    top = config.to_data(config.Config())
    store.store(name="base_config", node={key: value for key, value in top.items() if key not in ("env", "agent")})
    store.store(group="sweep", name="base_sweep", node={**dataclasses.asdict(config.SweepConfig()), "space": {}})
    store.store(group="env", name="base_sim", node=dataclasses.asdict(config.SimConfig()))
    store.store(group="env", name="base_gymnasium", node=dataclasses.asdict(config.GymnasiumConfig()))
    store.store(group="env", name="base_atari", node=dataclasses.asdict(config.AtariConfig()))
    for name in installed_sims():  # as a file conf/env/<name>.yaml would say
        store.store(group="env", name=name, node=dataclasses.asdict(config.SimConfig(name=name)))
    for name, schema in config.AGENTS.items():
        store.store(group="agent", name=f"base_{name}", node=dataclasses.asdict(schema()))


def register_ray(options: list[str]) -> None:
    """Give Hydra the launchers for Ray, if it is installed. options: what each run is told beside its overrides."""
    from importlib.util import find_spec

    if find_spec("ray"):
        sys.path.append(str(Path(__file__).parent / "plugins"))  # of a package that all of Hydra's plugins share
        from hydra_plugins.rlsys_ray import register

        register(options)


def flat_keys(config: Any) -> list[str]:
    """Every dotted key of a Config."""
    from rlsys.config import to_data

    keys = []
    for key, value in to_data(config).items():
        keys += [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else []
        keys.append(key)
    return keys


# -- what is wrong with it ---------------------------------------------------------------------------------------------


def explain(error: Exception, overrides: list[str]) -> str:
    """Hydra's complaint in one line, with the nearest thing that exists."""
    text = " ".join(str(error).split())
    if match := re.search(r"Could not override '([^']+)'", text):
        return unknown(match[1], overrides)
    if match := re.search(r"Could not find 'hydra/launcher/(\w+)'", text):
        extra = next((extra for name, extra in LAUNCHERS.items() if match[1].startswith(name)), None)
        offered = f"It needs {extra}" if extra else f"There are: basic, {', '.join(f'{name}*' for name in LAUNCHERS)}"
        return f"hydra/launcher={match[1]} is not installed. {offered}."
    if match := re.search(r"Ambiguous value for argument '(.+?)' 1\.", text):
        return f"{match[1]}: several values make a grid, which needs -m; a list is written [1,2]."
    if (override := getattr(error, "override", None)) is not None:  # it could not be parsed
        key, _, value = override.lstrip("+").partition("=")
        if not key.isascii():
            return unknown(key, overrides)
        return f"the value of {key}={value} cannot be read. In quotes anything can be: {key}='\"{value}\"'"
    return text


def unknown(key: str, overrides: list[str]) -> str:
    from rlsys.config import unknown_key

    typed = {o.lstrip("+").partition("=")[0] for o in overrides}
    recipe = next((o for o in overrides if o.startswith("experiment=")), None)
    if recipe and key not in typed:
        return f"{recipe} sets {key!r}, which your choice of env and agent does not have: leave that choice out."
    # Compose again with the groups only, to know which keys exist for these choices.
    groups = [o for o in overrides if o.startswith((SEARCHED, "env=", "agent="))]
    with contextlib.suppress(Exception):
        return unknown_key(key, ["experiment", *flat_keys(composed(groups))])
    return f"there is no key {key!r}."
