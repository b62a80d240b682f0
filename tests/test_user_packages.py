"""Sims of a user's own package: installed by pip, found by their entry points, with no file changed here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from envs import registration
from rlsys import compose

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "add-an-env.md").read_text()
SMALL = ["num_envs=8", "total_timesteps=1024", "agent.n_steps=16", "agent.batch_size=64", "eval_episodes=2"]
SMALL += ["test_episodes=4", "replay=false"]


def block(language: str, containing: str) -> str:
    """The page's block of that language with these words."""
    (found,) = (text for text in re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S) if containing in text)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which pip has installed the package of docs/add-an-env.md, and two others that are in a bad way."""
    project, site = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("site")
    (project / "pyproject.toml").write_text(block("toml", "rlsys.sims"))
    (project / "rooms").mkdir()
    (project / "rooms" / "__init__.py").touch()
    (project / "rooms" / "thermostat.py").write_text(block("python", "SIM = Sim("))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(site), str(project)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    declare(site, "broken", {"leaky": "broken_sims:SIM", "cold-room": "rooms.thermostat:SIM"})
    declare(site, "greedy", {"snake": "rooms.thermostat:SIM", "furnace": "rooms.thermostat:SIM", "number": "math:pi"})
    (site / "broken_sims.py").write_text("import no_such_module\n")
    return site


def declare(site, package, points):
    """Write the metadata of an installed package."""
    info = site / f"{package}-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.1\n")
    lines = "\n".join(f"{name} = {value}" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[rlsys.sims]\n{lines}\n")


@pytest.fixture
def python(site, tmp_path):
    """Runs python with the packages installed."""

    def run(*arguments, code=0):
        variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout if code == 0 else done.stderr

    return run


def test_a_file_anywhere_is_checked_shown_and_measured(python, tmp_path):
    (tmp_path / "thermostat.py").write_text(block("python", "SIM = Sim("))
    printed = python("-m", "rlsys", "envs", "--check", "thermostat:SIM")
    assert "no check failed" in printed
    page = re.search(r"^```text\n check.*?─\n(.*?)^```$", PAGE, re.M | re.S)[1]
    assert [line.split() for line in page.splitlines()] == [line.split() for line in printed.splitlines()[4:9]]
    assert "env.params.power=0.6" in python("-m", "rlsys", "envs", "thermostat:SIM")
    measure = ("-m", "envs.reference.measure", "thermostat:SIM", "scripted", "--episodes")
    assert python(*measure, "1000").startswith("thermostat:SIM scripted: -3.")
    assert "there is no sim 'thermostat:SIN'" in python(*measure[:2], "thermostat:SIN", "random", code=2)


def test_an_installed_sim_is_trained_scored_shown_and_has_its_package_written_down(python, tmp_path):
    python("-m", "rlsys", "train", "env=thermostat", "env.params.power=0.5", "env.params.leak=[0.01,0.03]", *SMALL)
    (run,) = (path.parent for path in tmp_path.glob("runs/thermostat/ppo/*/config.yaml"))
    assert json.loads((run / "provenance.json").read_text())[0]["sim"] == "rooms 0.1 (rooms.thermostat:SIM)"
    scored = json.loads(python("-m", "rlsys", "eval", "latest", "--episodes", "2", "--json"))
    assert len(scored["episodes"]) == 2
    assert "final" not in python("-m", "rlsys", "replay", "latest", "--max-steps", "2")
    python("-m", "rlsys", "train", "resume=latest", "total_timesteps=2048")


def test_its_own_experiments_are_composed_from_a_folder_of_its_own(python, tmp_path):
    folder = tmp_path / "it's, my conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "warm.yaml").write_text(block("yaml", "override /env: thermostat"))
    where = ("--config-dir", str(folder.parent))
    printed = python("-m", "rlsys", "train", *where, "experiment=warm", "seed=3", "--cfg", "job")
    for line in ("  name: thermostat", "    power: 0.7", "  name: ppo", "num_envs: 16", "seed: 3"):
        assert f"{line}\n" in printed
    python("-m", "rlsys", "train", "-m", *where, "experiment=warm", "seed=1,2", *SMALL)
    assert len(list(tmp_path.glob("runs/thermostat/ppo/*/config.yaml"))) == 2
    assert "Did you mean 'warm'?" in python("-m", "rlsys", "train", *where, "experiment=wram", code=2)
    assert "no such folder" in python("-m", "rlsys", "train", "--config-dir", "nowhere", code=2)


def test_gymnasium_and_make_vec_know_it_and_no_package_is_imported_before_it_is_asked_for(python):
    said = python(
        "-c",
        "import sys, gymnasium, envs\n"
        "assert 'thermostat' in envs.sims()\n"
        "assert not {'rooms', 'broken_sims'} & set(sys.modules)\n"
        "print(gymnasium.make('envs:rlsys/Thermostat-v0').unwrapped)\n"
        "print(gymnasium.make_vec('rlsys/Thermostat-v0', 3))\n"
        "print(envs.make_vec('thermostat', 64).num_envs, envs.get_sim('Thermostat-v0') is envs.get_sim('thermostat'))\n",
    )
    assert said == "<SimEnv<rlsys/Thermostat-v0>>\nSimVectorEnv(rlsys/Thermostat-v0, num_envs=3)\n64 True\n"


def test_its_kernels_are_cached_until_its_source_changes(python, site, tmp_path):
    code = "import envs; env = envs.make_vec('thermostat', 2, seed=0); env.reset(); "
    code += "print(sum(env._kernels.reset_batch.stats.cache_hits.values()), env.state['room'][0])"
    python("-c", code)
    hits, room = python("-c", code).split()
    assert hits == "1"
    path = site / "rooms" / "thermostat.py"
    source = path.read_text()
    try:
        path.write_text(source.replace("uniform(s, 10.0, 25.0)", "7.0"))
        assert python("-c", code).split()[1] == "7.0" != room
    finally:
        path.write_text(source)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "leaky",
            "'leaky' of the installed package broken 2.1 (broken_sims:SIM) cannot be imported: ModuleNotFoundError",
        ),
        ("cold-room", "needs another name for its entry point: letters, digits and _"),
        (
            "snake",
            "'snake' is the name of several sims, of rlsys (envs.snake:SIM) and greedy 2.1 (rooms.thermostat:SIM)",
        ),
        (
            "furnace",
            "calls itself rlsys/Thermostat-v0, and its entry point stands for rlsys/Furnace-v0: "
            "call the entry point 'thermostat'",
        ),
        ("number", "(math:pi) is not a Sim but a float"),
    ],
)
def test_what_is_wrong_with_a_package_is_said_when_it_is_asked_for(python, name, words):
    assert words in python("-m", "rlsys", "envs", name, code=2)
    if name.isidentifier():
        assert words in python("-m", "rlsys", "train", f"env={name}", code=2)


def test_the_other_sims_are_listed_and_usable_beside_packages_in_a_bad_way(python):
    rows = {row["env"]: row for row in json.loads(python("-m", "rlsys", "envs", "--json"))}
    assert rows["thermostat"]["gymnasium_id"] == "rlsys/Thermostat-v0"
    assert rows["cartpole"]["gymnasium_id"] == "rlsys/CartPole-v0"
    assert {name for name, row in rows.items() if "error" in row} == {
        "leaky",
        "cold-room",
        "snake",
        "furnace",
        "number",
    }
    assert "thermostat" in python("-m", "rlsys", "envs")
    assert "|thermostat\n" in python("-m", "rlsys", "train", "--help")


def test_an_entry_point_says_name_and_version():
    point = registration.EntryPoint("cooled_room-v12", "rooms:COOLED", registration.GROUP)
    assert registration._of_package(point) == registration.Declared(
        "cooled_room", "CooledRoom-v12", "rooms:COOLED", "unknown"
    )
    assert registration._of_package(registration.EntryPoint("HVAC", "rooms:HVAC", "")).id == "HVAC-v0"


def test_the_names_that_the_command_line_reads_by_itself_are_those_of_the_registry(monkeypatch):
    points = [registration.EntryPoint(name, "m:SIM", registration.GROUP) for name in ("b-v2", "a_v3", "gymnasium")]
    seen = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: seen.append(group) or points)
    monkeypatch.setattr(registration, "entry_points", lambda group: points)
    registration.declared.cache_clear()
    compose.installed_sims.cache_clear()
    assert compose.installed_sims() == [name for name in registration.sims() if name not in registration.SIMS]
    assert seen == [registration.GROUP]
    registration.declared.cache_clear()
    compose.installed_sims.cache_clear()
