"""Compiled kernels are found again by the next process, and never when something they were made of has changed."""

import json
import os
import subprocess
import sys

import pytest

import envs
from envs.engine import njit
from envs.engine.jit import pure
from envs.engine.kernels import fingerprint

WORLD = """
import json
from gymnasium.spaces import Box, Discrete
import envs
from envs.engine import Sim, njit, params, state_dtype
{import_line}

OFFSET = 0.0

@njit
def reset(s, p):
    s.x = {call}(1.0) + OFFSET

@njit
def step(s, p, action):
    return 0.0, False

@njit
def observe(s, p, obs):
    obs[0] = s.x

SIM = Sim("World", 0, state_dtype(x="real"), params(), reset, step, observe, Box(-99, 99), Discrete(2), 10)
env = envs.make_vec(SIM, 1, seed=0)
x = float(env.reset()[0][0, 0])
python = float(envs.make_vec(SIM, 1, seed=0, backend="python").reset()[0][0, 0])
kernel = env._kernels.reset_batch
print(json.dumps({{"x": x, "python": python, "hits": sum(kernel.stats.cache_hits.values())}}))
"""
HELPER = """
from envs.engine import njit

@njit
def f(x):
    return x + 1.0
"""
IMPORTS = {
    "from helper import f": "f",
    "import helper": "helper.f",
}


@pytest.fixture
def world(tmp_path):
    """Runs world.py in a process of its own, with its own cache, and returns what it printed."""

    def run(cache="cache"):
        variables = {"RLSYS_CACHE": str(tmp_path / cache), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "world.py"],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout), "stderr": done.stderr}

    def edit(file, old, new):
        path = tmp_path / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def write(import_line):
        (tmp_path / "world.py").write_text(WORLD.format(import_line=import_line, call=IMPORTS[import_line]))
        (tmp_path / "helper.py").write_text(HELPER)

    run.edit, run.write = edit, write
    run.kernels = lambda: len(list((tmp_path / "cache").rglob("*.nbc")))
    return run


@pytest.mark.parametrize("import_line", list(IMPORTS))
def test_the_next_process_finds_the_kernel_and_an_edit_anywhere_makes_a_new_one(world, import_line):
    world.write(import_line)
    first = world()
    assert (first["x"], first["python"], first["hits"], world.kernels()) == (2.0, 2.0, 0, 1)
    second = world()
    assert (second["x"], second["hits"], world.kernels()) == (2.0, 1, 1)

    world.edit("helper.py", "x + 1.0", "x + 5.0")
    edited = world()
    assert (edited["x"], edited["python"], edited["hits"], world.kernels()) == (6.0, 6.0, 0, 2)

    world.edit("world.py", "OFFSET = 0.0", "OFFSET = 10.0")
    edited = world()
    assert (edited["x"], edited["hits"], world.kernels()) == (16.0, 0, 3)


def test_where_no_cache_can_be_written_kernels_still_work_with_a_warning(world, tmp_path):
    world.write("from helper import f")
    (tmp_path / "file").touch()
    result = world(cache="file/cache")
    assert result["x"] == 2.0
    assert "kernels of World are not cached" in result["stderr"]
    assert "RLSYS_CACHE" in result["stderr"]


def adder(k):
    @njit
    def add(x):
        return x + k

    return add


def with_default(k):
    @njit
    def add(x, k=k):
        return x + k

    return add


@pytest.mark.parametrize("make", [adder, with_default])
def test_the_fingerprint_covers_closures_and_defaults(make):
    sim = envs.get_sim("cartpole")
    one, same, other = (fingerprint(sim, {"f": make(k)}) for k in (1.0, 1.0, 2.0))
    assert one == same
    assert one != other


def test_plain_python_versions_reach_into_closures():
    inner = adder(2.0)

    def outer(g):
        @njit
        def twice(x):
            return g(g(x))

        return twice

    twice = pure(outer(inner))
    assert twice(1.0) == 5.0
    assert twice.__closure__[0].cell_contents(1.0) == 3.0
    assert type(twice.__closure__[0].cell_contents) is type(lambda: 0)  # not a compiled one
