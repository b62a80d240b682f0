"""Compiled kernels are found again by the next process, and never when something they were made of has changed."""

import enum
import json
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from envs.engine import njit
from envs.engine.jit import pure
from envs.engine.kernels import BATCH, fingerprint

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
    assert "kernels of world-serial" in result["stderr"]
    assert "RLSYS_CACHE" in result["stderr"]


@pytest.mark.parametrize("pattern", ["*.nbc", "*.nbi", "batch.py"])
@pytest.mark.parametrize("size", [0, 30])
def test_a_damaged_file_of_the_cache_is_compiled_anew(world, tmp_path, pattern, size):
    world.write("from helper import f")
    world()
    for file in (tmp_path / "cache").rglob(pattern):
        os.truncate(file, size)
    assert world()["x"] == 2.0
    mended = world()
    assert (mended["x"], mended["hits"]) == (2.0, 1)


def test_processes_that_compile_at_the_same_moment_do_not_disturb_each_other(world):
    world.write("from helper import f")
    with ThreadPoolExecutor() as pool:
        assert [result["x"] for result in pool.map(lambda _: world(), range(3))] == [2.0] * 3
    assert world()["hits"] == 1


def test_a_cache_that_others_may_write_to_is_not_used(world, tmp_path):
    world.write("from helper import f")
    world()
    (tmp_path / "cache").chmod(0o777)  # a stranger's batch.py would run as ours
    result = world()
    assert (result["x"], result["hits"]) == (2.0, 0)
    assert "can be written by others" in result["stderr"]


def test_numbas_bounds_check_has_kernels_of_its_own(world, monkeypatch):
    world.write("from helper import f")
    world()
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    assert (world()["hits"], world.kernels()) == (0, 2)


TWINS = """
import sys
import numpy as np
import envs
from envs.engine import Sim, njit, params, state_dtype
from gymnasium.spaces import Box, Discrete

@njit
def observe(s, p, obs):
    obs[0] = s.x

def twin(number):
    @njit
    def f(s):
        s.x += number

    @njit
    def reset(s, p):
        f(s)

    @njit
    def step(s, p, action):
        f(s)
        return s.x, False

    space = Box(-np.inf, np.inf, (1,))
    return Sim("Twin", 0, state_dtype(x="real", y="real"), params(), reset, step, observe, space, Discrete(2), 10)

sims = {"1": twin(1.0), "2": twin(2.0)}
for which in sys.argv[1:]:
    env = envs.make_vec(sims[which[0]], 3, seed=0, precision="float" + which[1:])
    print(env.reset()[0][2, 0], env.step(np.zeros(3, int))[1][2], end=" ")
"""


def test_kernels_that_different_processes_compiled_are_not_mixed_up_in_one(tmp_path):
    # Numba tells functions and record types apart by counting them in each process; two processes count alike.
    (tmp_path / "twins.py").write_text(TWINS)
    variables = {**os.environ, "RLSYS_CACHE": str(tmp_path / "cache")}

    def run(*which):
        command = [sys.executable, "twins.py", *which]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return [float(x) for x in done.stdout.split()]

    for which, numbers in {"132": [1, 2], "232": [2, 4], "164": [1, 2], "264": [2, 4]}.items():
        assert run(which) == numbers
    assert run("132", "164", "232", "264") == [1, 2, 1, 2, 2, 4, 2, 4]
    assert run("264", "164", "232", "132") == [2, 4, 1, 2, 2, 4, 1, 2]


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
    one, same, other = (fingerprint(BATCH, {"f": make(k)}) for k in (1.0, 1.0, 2.0))
    assert one == same
    assert one != other


def reading(constant):
    """A function that mentions a constant, in the way that a sim mentions those of its file."""
    scope = {"njit": njit, "CONSTANT": constant}
    exec("@njit\ndef f(x):\n    return x + CONSTANT", scope)
    return scope["f"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32, np.float64),
        (numba.float32, numba.float64),
        (enum.IntEnum("Move", "UP DOWN"), enum.IntEnum("Move", "DOWN UP")),
        (((1, 2), (3, 4)), ((1, 2), (3, 5))),
        ((np.zeros(2000),), (np.arange(2000) == 1000,)),  # too long for its repr
        (1j, 2j),
        ((adder(1.0),), (adder(2.0),)),
    ],
)
def test_the_fingerprint_covers_every_kind_of_constant(one, other):
    prints = [fingerprint(BATCH, {"f": reading(constant)}) for constant in (one, one, other)]
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_is_of_modules_that_import_each_other_too():
    one, other = types.ModuleType("one"), types.ModuleType("other")
    one.other, other.one, other.f = other, one, adder(1.0)
    before = fingerprint(BATCH, {"f": mentioning(one)})
    other.f = adder(2.0)
    assert fingerprint(BATCH, {"f": mentioning(one)}) != before


def mentioning(one):
    @njit
    def f(x):
        return one.other.one.other.f(x)

    return f


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
