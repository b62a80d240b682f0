"""Does `rlsys envs --check` notice what can be wrong with a sim? Each fault is planted in the sim of docs/add-an-env.md.

A fault is an edit of its source. The check that must notice it runs on `backend="python"`, where it does not itself compile.
"""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import envs
from envs.engine import conformance
from envs.engine.conformance import CHECKS, Failed, run

PAGE = Path(__file__).parents[2] / "docs" / "add-an-env.md"
SOURCE = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)[1]

STATE, HEATING, OBSERVE = "State = state_dtype(", "    s.heating = action\n", "def observe(s, p, obs):\n"
WITH_LEVELS = [
    ("params, state_dtype, uniform", "params, seed_by_level, state_dtype, uniform"),
    ("    s.room = uniform(s, 10.0, 25.0)\n", "    seed_by_level(s)\n    s.room = uniform(s, 10.0, 25.0)\n"),
    ("max_episode_steps=288", "max_episode_steps=288, levels=True"),
]
BEFORE_THE_LEVEL = [
    *WITH_LEVELS,
    ("    s.outside = uniform(s, -5.0, 10.0)\n", ""),
    ("    seed_by_level(s)\n", "    s.outside = uniform(s, -5.0, 10.0)\n    seed_by_level(s)\n"),
]
HOURS = [
    ('heating="u1"', 'heating="u1", hour="i4"'),
    (STATE, f"BY_HOUR = np.zeros(24)\n{STATE}"),
    ("    reward = -", "    s.outside += BY_HOUR[s.hour]\n    s.hour = (s.hour + 1) % 24\n    reward = -"),
]
VALID = [
    ("@njit\ndef scripted", "@njit\ndef valid(s, p):\n    return 0 <= s.hour < 24\n\n\n@njit\ndef scripted"),
    ("draw=draw,", "draw=draw,\n    valid=valid,"),
]

FAULTS = {  # what is wrong: edits, the check that notices, what it says
    "observation partly unwritten": (
        [("    obs[1] = ", "    if s.outside > 0.0:\n        obs[1] = ")],
        "observations", r"step \d+, env \d+: obs\[1\] stays as it was, or is added to",
    ),
    "observation added to": ([("obs[1] = ", "obs[1] += ")], "observations", r"obs\[1\] stays as it was, or is added to"),
    "observation outside of the space": (
        [("Box(-20.0, 20.0, (2,)", "Box(-2.0, 2.0, (2,)")],
        "observations", r"obs\[1\] is -2\.\d+, not within -2 to 2",
    ),
    "observe changes the state": (
        [(OBSERVE, f"{OBSERVE}    s.room += 0.01\n")],
        "side effects", r"by observe, env 0: s\.room is",
    ),
    "state in a global array": (
        [(STATE, f"COUNT = np.zeros(1)\n{STATE}"), (HEATING, f"{HEATING}    COUNT[0] += 1.0\n")],
        "plain Python", "an array outside of the state has changed",
    ),
    "state in a global number": (
        [(STATE, f"COUNT = 0\n{STATE}"), (HEATING, f"    global COUNT\n    COUNT += 1\n{HEATING}")],
        "indices", r"STORE_GLOBAL.*faulty\.py",
    ),
    "np.random": ([("p.wind * normal(s)", "p.wind * np.random.normal()")], "plain Python", "come from np.random"),
    "index out of range": (
        [(OBSERVE, f"{OBSERVE}    obs[int(s.room > 24.0) * 2] = 0.0\n")],
        "plain Python", r"index 2 is out of bounds .*\(env \d, faulty.py, line \d+: obs\[int",
    ),
    "index rarely out of range": (
        [(OBSERVE, f"{OBSERVE}    obs[int(s.elapsed > 250) * 2] = 0.0\n")],
        "indices", r"index 2 is out of bounds .*\(env \d+, faulty.py, line \d+: obs\[int",
    ),
    "index from the state, and no valid": (HOURS, "damaged states", r"with hour = -?\d+ an index is out of range: .*BY_HOUR"),
    "valid refuses what the sim leads to": (
        [*HOURS, (VALID[0][0], VALID[0][1].replace("< 24", "< 23")), VALID[1]],
        "damaged states", "state of env 0 is not a valid state of Thermostat.*valid must accept each",
    ),
    "reward nan": (
        [("** 2) / 100.0", "** 2) / 100.0 - np.sqrt(s.outside + 4.0)")],
        "rewards", r"the reward is nan, by action \d in room=.*, outside=-\d",
    ),
    "a helper without @njit": (
        [("@njit\ndef reset", "def cost(a):\n    return 0.1 * a\n\n\n@njit\ndef reset"),
         ("p.price * action", "cost(p.price) * action")],
        "indices", r"'cost' has no @njit, .*faulty\.py\", line \d+",
    ),
    "step returns the reward only": (
        [("return reward, s.room < 0.0", "return reward")],
        "plain Python", r"step returns \(reward, terminated\)",
    ),
    "step changes params": (
        [(HEATING, f"{HEATING}    p.power *= 0.9\n")],
        "side effects", r"by reset or step, env 0: p\.power is 0\.6",
    ),
    "draw crashes": (
        [('color="orange" if', 'color="pumpkin" if')],
        "picture", r"draw raises ValueError: color='pumpkin' is not one of.* in room=",
    ),
    "draw shows nothing": ([("def draw(s, p, canvas):\n", "def draw(s, p, canvas):\n    return\n")], "picture", "single colour"),
    "draw changes the state": (
        [("def draw(s, p, canvas):\n", "def draw(s, p, canvas):\n    s.room = 0.0\n")],
        "side effects", r"by draw, env 0: s\.room",
    ),
    "something of an episode is no function of its level": (
        BEFORE_THE_LEVEL, "levels", r"the same level twice, at the start, env 0: s\.outside is",
    ),
    "weather is no function of the level": (
        [*WITH_LEVELS, ("    seed_by_level(s)\n", "    key = s.key\n    seed_by_level(s)\n"),
         ("    s.outside = uniform(s, -5.0, 10.0)\n", "    s.outside = uniform(s, -5.0, 10.0)\n    s.key = key\n")],
        "levels", r"the same level twice, step 0, env 0: s\.room is",
    ),
    "levels of other splits": (
        [*WITH_LEVELS, ("    seed_by_level(s)\n", "    s.level = s.level % 2**29\n    seed_by_level(s)\n")],
        "levels", "split 'train' plays levels",
    ),
    "levels that do not differ": (
        [*WITH_LEVELS, ("    s.room = uniform(s, 10.0, 25.0)\n", "    s.room = 10.0 + s.level % 5\n"),
         ("    s.outside = uniform(s, -5.0, 10.0)\n", "")],
        "levels", r"29\d\d of 3,000 levels are another one's double",
    ),
    "baseline without an action": (
        [("action[0] = s.room < 20.0", "action[0] = 2")],
        "baseline", r"step 0, env 0: 2 is not in Discrete\(2\)",
    ),
    "reference of another world": (
        [("Reference(-93.3, 1.0", "Reference(-43.3, 1.0")],
        "references", r"random: 200 episodes earn -9\d",
    ),
    "counting by a logical or": (
        [("- p.price * action\n", "- p.price * ((s.room > 0.0) + (s.outside > -50.0))\n")],
        "compiled", r"env \d+, reward: -\d.* and -\d",
    ),
}  # fmt: skip


def faulty(folder, edits):
    """The page's sim with these edits, imported from a file."""
    source = SOURCE
    for right, wrong in edits:
        assert source.count(right) == 1, f"{right!r} is there {source.count(right)} times"
        source = source.replace(right, wrong)
    path = folder / "faulty.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("faulty", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["faulty"] = module
    spec.loader.exec_module(module)
    return module.SIM


@pytest.fixture
def uncompiled(monkeypatch):
    make = envs.make_vec
    monkeypatch.setattr(envs, "make_vec", lambda sim, n=1, **how: make(sim, n, **{"backend": "python", **how}))


COMPILED = {"indices", "damaged states", "compiled", "references"}  # checks that compile, or play long


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed_by_its_check_which_says_where_and_what_to_do(fault, tmp_path, request):
    edits, check, words = FAULTS[fault]
    if check not in COMPILED:
        request.getfixturevalue("uncompiled")
    (result,) = run(faulty(tmp_path, edits), {check: CHECKS[check]})
    assert result.outcome == "failed"
    assert re.search(words, f"{result.found}. {result.remedy}"), result
    assert result.remedy


@pytest.mark.parametrize(
    "edits", [[], WITH_LEVELS, [*HOURS, *VALID]], ids=["as on the page", "with levels", "with valid"]
)
def test_nothing_is_noticed_without_a_fault(edits, tmp_path):
    results = list(run(faulty(tmp_path, edits), CHECKS))
    assert [result for result in results if result.outcome not in ("ok", "not there")] == []
    assert [result.check for result in results if result.outcome == "not there"] == (
        [] if edits is WITH_LEVELS else ["levels"]
    )


def test_what_is_not_there_is_no_failure_and_references_are_measured_for_their_author(tmp_path):
    optional = ("draw=draw,", "scripted=scripted,")
    bare = faulty(
        tmp_path, [(f"    {line}\n", "") for line in optional] + [(r"    references={", "    frame_rate=30 or {")]
    )
    outcomes = {
        result.check: result
        for result in run(bare, {name: CHECKS[name] for name in ("baseline", "references", "picture")})
    }
    assert {result.outcome for result in outcomes.values()} == {"not there"}
    assert re.search(r"none stated; 200 episodes earn: random -9\d", outcomes["references"].found)


def test_after_an_index_out_of_range_nothing_else_is_run(tmp_path):
    sim = faulty(tmp_path, FAULTS["index out of range"][0])
    first, *others = run(sim, CHECKS)
    assert first.outcome == "failed"
    assert {result.outcome for result in others} == {"not run"}


def test_a_sim_that_is_not_deterministic_is_noticed(tmp_path, monkeypatch):
    """Nothing that compiles is, but np.random's, which another check sees: here is a world that hears from outside."""
    sim = faulty(tmp_path, [])
    calls = iter(range(10**6))
    make = envs.make_vec

    def made(sim, n=1, **how):
        env = make(sim, n, **how)
        env.params["power"] += 0.01 * next(calls)
        return env

    monkeypatch.setattr(envs, "make_vec", made)
    for check, words in (("same seed", r"step \d+, env \d+: obs"), ("any number", "in parallel on")):
        with pytest.raises(Failed, match=words):
            CHECKS[check](sim)


def test_statistics_that_are_wrong_are_noticed(tmp_path, monkeypatch):
    sim = faulty(tmp_path, [])
    advance = conformance.SimVectorEnv.advance

    def wrong(name, value):
        def advanced(env, actions, out):
            ended = advance(env, actions, out)
            if ended is not None and env.metadata["autoreset_mode"].value == "SameStep":
                getattr(out, name)[ended] = value
            return ended

        return advanced

    for name, value in (
        ("final_obs", 0.0),
        ("episode_return", 1.0),
        ("episode_length", 3),
        ("truncated", False),
        ("obs", 0.5),
    ):
        monkeypatch.setattr(conformance.SimVectorEnv, "advance", wrong(name, value))
        with pytest.raises(Failed, match=name):
            CHECKS["episodes"](sim)
    monkeypatch.setattr(conformance.SimVectorEnv, "advance", advance)
    assert "limit of 20 steps" in CHECKS["episodes"](sim)
