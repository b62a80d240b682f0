"""The architecture, as a test: who may import whom (docs/design.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("envs", "rlsys") for path in (ROOT / folder).rglob("*.py"))

# Level of each module of rlsys: it may import those of its own level and below, at the top of the file.
LEVELS = {
    "rlsys": 0,
    "rlsys.mlp_kernels": 1,
    "rlsys.rollout_kernels": 1,
    "rlsys.dqn_kernels": 1,
    "rlsys.native": 1,
    "rlsys.distributed": 1,
    "rlsys.networks": 1,
    "rlsys.policy": 1,
    "rlsys.returns": 1,
    "rlsys.buffers": 1,
    "rlsys.capture": 1,
    "rlsys.config": 1,
    "rlsys.provenance": 1,
    "rlsys.signals": 1,
    "rlsys.statistics": 1,
    "rlsys.chart": 1,
    "rlsys.page": 1,
    "rlsys.torchenv": 2,
    "rlsys.checkpoint": 2,
    "rlsys.events": 2,
    "rlsys.log": 2,
    "rlsys.folder": 2,
    "rlsys.cost": 2,
    "rlsys.readers": 2,
    "rlsys.agents": 3,
    "rlsys.agents.ppo": 3,
    "rlsys.agents.ppo_rules": 3,
    "rlsys.agents.dqn": 3,
    "rlsys.agents.dqn_native": 3,
    "rlsys.agents.dqn_rules": 3,
    "rlsys.agents.pqn": 3,
    "rlsys.agents.sb3": 3,
    "rlsys.evaluate": 3,
    "rlsys.board": 4,
    "rlsys.replay": 4,
    "rlsys.compare": 4,
    "rlsys.report": 4,
    "rlsys.run": 4,
    "rlsys.tune": 4,
    "rlsys.estimate": 4,
    "rlsys.sweep": 4,
    "rlsys.sweep.spec": 3,
    "rlsys.sweep.pbt": 3,
    "rlsys.sweep.study": 3,
    "rlsys.sweep.jobs": 3,
    "rlsys.sweep.view": 3,
    "rlsys.sweep.findings": 3,
    "rlsys.sweep.report": 3,
    "rlsys.compose": 4,
    "rlsys.cli": 5,
    "rlsys.launch_ray": 4,
    "rlsys.__main__": 5,
    "rlsys.plugins.hydra_plugins.rlsys_ray": 5,
}

# Packages that only these modules may import, anywhere in the file.
ONLY = {
    "hydra": {"rlsys.compose", "rlsys.plugins.hydra_plugins.rlsys_ray"},
    "ray": {"rlsys.launch_ray"},
    "stable_baselines3": {"rlsys.agents.sb3"},
    "tensorboard": {"rlsys.events"},
    "safetensors": {"rlsys.checkpoint"},
    "optuna": {"rlsys.sweep.study"},
    "pynvml": {"rlsys.cost"},
    "sqlalchemy": {"rlsys.sweep.study"},
    "omegaconf": {"rlsys.config", "rlsys.compose"},
}
NOBODY = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
ENVS_MAY = {"envs", "numpy", "numba", "llvmlite", "gymnasium", "PIL"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Full names of the modules a file imports; with top_only those that importing the file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in submodules if name in LEVELS} or {node.module}
    return found


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_what_its_level_allows(path):
    name = module_name(path)
    if name.startswith("envs"):
        third_party = packages(path) - set(__import__("sys").stdlib_module_names)
        assert third_party <= ENVS_MAY, f"{name} imports {third_party - ENVS_MAY}"
        return
    assert name in LEVELS, f"{name} is new: give it a level here and in docs/design.md"
    for other in imports(path, top_only=True):
        if other.startswith("rlsys"):
            assert LEVELS[other] <= LEVELS[name], (
                f"{name} (level {LEVELS[name]}) imports {other} (level {LEVELS[other]})"
            )


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_packages_with_one_door_are_used_at_that_door_only(path):
    name, used = module_name(path), packages(path)
    for package, doors in ONLY.items():
        assert package not in used or name in doors, f"{name} imports {package}; only {sorted(doors)} may"
    assert not used & NOBODY, f"{name} imports {used & NOBODY}, which can run code from a file"


def test_only_torchenv_joins_arrays_of_the_engine_and_tensors():
    both = {module_name(path) for path in FILES if {"torch"} <= packages(path) and "envs" in packages(path)}
    # replay takes only the canvas's ansi, native only the compiler of kernels
    assert both <= {"rlsys.torchenv", "rlsys.replay", "rlsys.native"}


def test_nothing_calls_instantiate_eval_or_torch_load():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "hydra.utils.instantiate", "instantiate"), path
