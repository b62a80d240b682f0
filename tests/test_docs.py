"""The documentation, tested: its example works, its commands exist, its generated pages are fresh."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.engine.single import SimEnv
from envs.engine.vector import SimVectorEnv
from envs.reference.measure import returns
from rlsys import cli, compose
from rlsys.agents.ppo import PPO
from rlsys.config import PPOConfig
from rlsys.log import METRICS, metrics_page
from rlsys.torchenv import TorchEnv

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are marked with `language`."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [text for marked, text in fenced if marked == language]


@pytest.fixture(scope="module")
def thermostat(tmp_path_factory):
    """The sim of docs/add-an-env.md, imported from a file as a user's would be."""
    path = tmp_path_factory.mktemp("sim") / "thermostat.py"
    path.write_text(blocks(ROOT / "docs" / "add-an-env.md", "python")[0])
    spec = importlib.util.spec_from_file_location("thermostat", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["thermostat"] = module
    spec.loader.exec_module(module)
    return module.SIM


def test_the_example_sim_does_what_its_page_says(thermostat):
    env = SimVectorEnv(thermostat, 1, seed=0, precision="float64", params={"wind": 0.0})
    env.reset()
    env.state["room"], env.state["outside"] = 20.0, 0.0
    _, reward, terminated, _, _ = env.step(np.array([1]))
    assert env.state["room"][0] == pytest.approx(20.0 + 0.6 - 0.02 * 20.0)  # 20.2
    assert reward[0] == pytest.approx(-(0.2**2) / 100 - 0.01)
    assert not terminated[0]
    env.state["room"] = 0.1
    env.state["outside"] = -50.0
    assert env.step(np.array([0]))[2][0]  # 0.1 - 0.02 * 50.1 is below 0


def test_the_example_sim_passes_gymnasiums_checker_and_draws_itself(thermostat):
    env = SimEnv(thermostat, render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    assert len(np.unique(env.render().reshape(-1, 3), axis=0)) > 2


def test_the_example_sim_is_the_same_in_plain_python(thermostat):
    a, b = (
        SimVectorEnv(thermostat, 3, seed=1, backend=backend, precision="float64") for backend in ("python", "serial")
    )
    a.reset()
    b.reset()
    for t in range(300):
        actions = np.array([t % 2, 0, 1])
        np.testing.assert_allclose(a.step(actions)[0], b.step(actions)[0], rtol=1e-6)


@pytest.mark.parametrize("policy", ["random", "scripted"])
def test_the_example_sims_references_are_what_is_measured(thermostat, policy):
    stated = thermostat.references[policy]
    found = returns(thermostat, policy, 1000, seed=1)
    assert abs(found.mean() - stated.mean) < 4 * np.hypot(found.std(ddof=1) / np.sqrt(len(found)), stated.error)


def test_the_example_sim_can_be_learned(thermostat):
    env = TorchEnv(SimVectorEnv(thermostat, 64, seed=0))
    agent = PPO(env, PPOConfig(n_steps=64, learning_rate=1e-3), seed=0)

    def mean_return_after(iterations):
        for _ in range(iterations):
            agent.iterate(0.0)
        return env.metrics()["rollout/ep_rew_mean"]

    assert mean_return_after(9) < 2.0 * mean_return_after(40)  # they are negative: half the cost


def commands() -> list[str]:
    """Every `rlsys` command line in the documentation."""
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            lines = (line.strip().removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines())
            found += [line.partition("  #")[0] for line in lines if line.startswith("rlsys ")]
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_docs_is_understood(command, monkeypatch, capsys):
    _, verb, *arguments = shlex.split(command)
    if verb != "train":
        assert cli.main([verb, "--help"]) == 0
        known = capsys.readouterr().out
        for argument in arguments:
            assert not argument.startswith("-") or argument in known, f"{verb} has no {argument}"
        return
    overrides = [compose.normalised(arg) for arg in arguments if "=" in arg]
    if any(arg.startswith(("resume=", "env=thermostat", "--config-dir")) for arg in arguments):
        return  # need a run, or the example's package (test_user_packages.py)
    for job in compose.grid(overrides):
        compose.check_env(compose.composed(job))


def test_there_are_commands_to_check():
    assert len(commands()) >= 8


def test_the_page_of_metrics_is_the_one_the_code_makes():
    assert (ROOT / "docs" / "metrics.md").read_text().strip() == metrics_page().strip(), "run `make docs`"
    assert all(f"`{tag}`" in metrics_page() for tag in METRICS)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_sim_is_registered_with_gymnasium():
    import envs

    for name in envs.sims():
        assert gymnasium.spec(envs.get_sim(name).id)
        assert (ROOT / "conf" / "env" / f"{name}.yaml").exists()
