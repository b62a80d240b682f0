"""Sims on the GPU: the CPU's episodes, whatever the number of envs; and what is said where there is no GPU or no room.

Without a GPU this is numba-cuda's simulator, which runs the kernels in Python (tests/conftest.py).
"""

import subprocess
import sys

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

import envs
from envs.engine import Sim, cuda, njit, params, state_dtype, uniform
from envs.engine.check import compare, on_device, on_host
from envs.engine.cuda import CudaVectorEnv, DeviceError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that a few envs fill several blocks, the last one not wholly."""
    monkeypatch.setattr(cuda, "THREADS", 8)


# How far apart a step of a float32 sim on the two devices may be, in ulps of the largest value in a field (see `compare`):
# 2, and more only where rounding is known to grow. In float64 there is no difference at all in the simulator: what differs
# is float32's own rounding of sines and of what plain Python works out in float64.
ULPS = {
    "highway": 32.0,  # 15 substeps, each of which turns the car by five times what its heading is off
    "pushdisc": 300.0,  # a reward of hundredths is the difference of two values of 14 or so: 2 ulps of these
    "racer": 16.0,  # distances of metres to walls, from positions of a hundred metres
    "reacher": 8.0,  # two Runge-Kutta steps of an arm that turns at 20 rad/s
}
SLOW = {"highway", "labyrinth", "racer"}  # in the simulator: a step or a reset takes a hundredth of a second


def compared(name, seed=0):
    num_envs, steps, length = (9, 10, 3) if name in SLOW else (21, 30, 9)
    report = compare(
        name,
        ("cpu", "cuda"),
        num_envs=num_envs,
        steps=steps,
        seed=seed,
        ulps=ULPS.get(name, 2.0),
        max_episode_steps=length,
    )
    assert report.passed, report
    assert report.transitions == num_envs * steps
    assert (
        report.episodes >= 3 * num_envs
    )  # so each env has been reset, at different times where the world ends episodes
    return report


@pytest.mark.parametrize("name", envs.sims())
def test_a_sim_does_the_same_as_on_the_cpu_through_many_episodes(name):
    compared(name)


@pytest.mark.skipif(not cuda.SIMULATED, reason="a GPU's sines are its own")
@pytest.mark.parametrize("name", ULPS)
def test_in_float64_the_simulator_gives_the_same_bytes(name):
    report = compare(name, ("cpu", "cuda"), num_envs=9, steps=6, ulps=0.0, max_episode_steps=3, precision="float64")
    assert report.passed, report


@njit
def start(s, p):
    s.x = uniform(s, 0.0, p.width)


@njit
def move(s, p, action):
    s.x += p.gain * action[0] - s.level % 3
    s.n += 1
    return s.x, s.n > 3 + s.level % 2


@njit
def look(s, p, obs):
    obs[0, 0], obs[0, 1] = s.x, s.n


@njit
def in_range(s, p):
    return 0 <= s.n < 100


WALK = Sim(
    name="Walk",
    version=0,
    state=state_dtype(x="real", n="i4"),
    params=params(width=1.0, gain=2.0),
    reset=start,
    step=move,
    observe=look,
    valid=in_range,
    observation_space=Box(-np.inf, np.inf, (1, 2), np.float32),
    action_space=MultiDiscrete([3, 2]),
    max_episode_steps=4,
    levels=True,
)


def pair(num_envs=11, sim=WALK, **options):
    """The same envs on the CPU and on the GPU, just reset."""
    both = (
        envs.make_vec(sim, num_envs, seed=5, **options),
        envs.make_vec(sim, num_envs, seed=5, device="cuda", **options),
    )
    for env in both:
        env.reset()
    return both


def step(env, actions):
    """What a step gives, on the host."""
    obs, reward, terminated, truncated, info = env.step(on_device(env, np.asarray(actions)))
    return [on_host(x) for x in (obs, reward, terminated, truncated)], info


@pytest.mark.parametrize("num_envs", [1, 7, 8, 9, 33])
def test_any_number_of_envs_any_precision_levels_and_parameters_of_their_own(num_envs):
    for precision in ("float32", "float64"):
        here, there = pair(num_envs, precision=precision, num_levels=7, params={"gain": [0.5, 1.5]})
        rng = np.random.default_rng(0)
        for _ in range(12):
            actions = rng.integers(0, 2, (num_envs, 2))
            (mine, info), (theirs, infos) = step(here, actions), step(there, actions)
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)
            ended = mine[2] | mine[3]
            np.testing.assert_array_equal(on_host(infos["_episode"]), ended)
            if ended.any():
                for name in ("r", "l"):
                    np.testing.assert_allclose(on_host(infos["episode"][name]), info["episode"][name], rtol=1e-6)
                np.testing.assert_allclose(on_host(infos["final_obs"])[ended], info["final_obs"][ended], rtol=1e-6)
        for field in ("level", "key", "episode", "elapsed", "n"):
            np.testing.assert_array_equal(here.state[field], there.state[field])
        assert here.params.tobytes() == there.params.tobytes()


def test_resets_of_some_envs_to_chosen_levels_and_from_another_seed():
    here, there = pair()
    mask = np.arange(11) % 3 == 0
    for options in ({"reset_mask": mask, "level": 4}, {"level": np.arange(11)}, None):
        for seed in (None, 9):
            a, b = here.reset(seed=seed, options=options)[0], there.reset(seed=seed, options=options)[0]
            np.testing.assert_allclose(a, on_host(b), rtol=1e-6)
            assert here.state["level"].tolist() == there.state["level"].tolist()
            assert here.state["episode"].tolist() == there.state["episode"].tolist()
    with pytest.raises(ValueError, match="reset options \\['lvl'\\] are unknown"):
        there.reset(options={"lvl": 1})


def test_a_snapshot_goes_on_on_either_device():
    here, there = pair(sim="snake", max_episode_steps=20)
    actions = [np.random.default_rng(t).integers(0, 4, 11) for t in range(30)]
    for a in actions[:15]:
        step(there, a)
    here.set_state(there.get_state())
    for a in actions[15:]:
        for x, y in zip(step(here, a)[0], step(there, a)[0], strict=True):
            np.testing.assert_array_equal(x, y)
    assert here.get_state()["states"].tobytes() == there.get_state()["states"].tobytes()


def test_a_restored_state_is_checked_and_kept_in_the_same_memory():
    here, there = pair()
    snapshot, memory = there.get_state(), there._states
    here.state["n"][6] = 100
    with pytest.raises(ValueError, match="the state of env 6 is not a valid state of Walk"):
        there.set_state(here.get_state())
    assert there.get_state()["states"].tobytes() == snapshot["states"].tobytes()
    here.state["n"][6] = 2
    obs = there.arrays().obs
    there.set_state(here.get_state(), obs)
    assert on_host(obs)[6, 0, 1] == 2
    assert there._states is memory
    with pytest.raises(ValueError, match="states: snapshot has"):
        there.set_state(envs.make_vec(WALK, 3, seed=0).get_state())


def test_arrays_of_the_caller_are_written_in_place_and_others_refused():
    here, there = pair()
    actions, out = np.ones((11, 2), np.int64), there.arrays()
    there.step(on_device(there, actions), out)
    for mine, theirs in zip(here.step(actions)[:4], out, strict=False):
        np.testing.assert_allclose(mine, on_host(theirs), rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"reward is not a writable, C-contiguous array of float32 \(11,\) on the device"
    ):
        there.step(on_device(there, actions), out._replace(reward=on_device(there, np.zeros(11))))
    with pytest.raises(ValueError, match=r"actions is not a writable, C-contiguous array of int64 \(11, 2\)"):
        there.step(on_device(there, actions[:4]))
    with pytest.raises(ValueError, match="out is a tuple, not a Transition"):
        there.step(on_device(there, actions), tuple(out))


def test_an_invalid_action_stops_the_envs_and_is_told_when_they_are_looked_at():
    _, there = pair()
    actions = np.zeros((11, 2), np.int64)
    actions[9, 1] = 2
    there.step(on_device(there, actions))
    with pytest.raises(
        ValueError, match=r"an action of env 9 was not in MultiDiscrete\(\[3 2\]\); the envs stopped there"
    ):
        there.get_state()
    before = there.state["elapsed"]
    assert before[9] == 0  # it has not moved
    there.step(on_device(there, np.zeros((11, 2), np.int64)))
    there.check()  # told once
    assert there.state["elapsed"][9] == 1
    box = envs.make_vec("pendulum", 3, seed=0, device="cuda")
    box.reset()
    box.step(on_device(box, np.full((3, 1), np.nan, np.float32)))
    with pytest.raises(ValueError, match="was not in Box"):
        box.check()


def test_a_baseline_and_a_picture_are_those_of_the_cpu():
    @njit
    def baseline(s, p, action):
        action[0] = s.n % 3
        action[1] = 1

    import dataclasses

    here, there = pair(sim=dataclasses.replace(WALK, scripted=baseline))
    np.testing.assert_array_equal(here.scripted_actions(), on_host(there.scripted_actions()))
    mine, theirs = pair(sim="snake")
    np.testing.assert_array_equal(mine.frame(3), theirs.frame(3))
    with pytest.raises(ValueError, match="Walk has no scripted baseline"):
        pair()[1].scripted_actions()


def test_what_is_for_the_cpu_only_is_refused():
    for options, message in (
        ({"backend": "serial"}, "backend='serial' is for device='cpu'"),
        ({"autoreset_mode": "NextStep"}, "autoreset_mode='NextStep' is for device='cpu'"),
        ({"copy": True}, "copy=True"),
        ({"split": "exam"}, "split='exam' is not one of"),
    ):
        with pytest.raises(ValueError, match=message):
            envs.make_vec(WALK, 3, device="cuda", **options)
    with pytest.raises(ValueError, match="device='tpu' is not one of 'cpu', 'cuda'"):
        envs.make_vec(WALK, 3, device="tpu")


def test_too_many_envs_are_refused_with_what_they_take_and_how_many_fit(monkeypatch):
    context = type("Context", (), {"get_memory_info": lambda self: (10_000, 20_000)})
    monkeypatch.setattr(cuda.cuda, "current_context", context)
    with pytest.raises(MemoryError) as caught:
        envs.make_vec(WALK, 1000, device="cuda")
    # a record: 4 (x) + 4 (n) + 8 x 4 (key, return, level, episode) + 4 + 4 (elapsed, draws) + 1 (ended), aligned to 56;
    # besides 8 + 8 (obs), 4 (reward), 1 + 1 + 1 (flags), 8 + 8 (return, length): 95 bytes an env
    assert "num_envs=1000 of Walk take 95,000 bytes on the GPU, which has 9,500 to spare. Use num_envs=100" in str(
        caught.value
    )
    assert isinstance(envs.make_vec(WALK, 100, device="cuda"), CudaVectorEnv)


def test_a_gpu_that_is_not_there_is_told_with_the_reason(monkeypatch):
    monkeypatch.setattr(cuda, "SIMULATED", False)
    monkeypatch.setattr(cuda.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda.cuda, "cuda_error", lambda: "no driver was found")
    with pytest.raises(DeviceError, match="device='cuda' cannot be used: no driver was found"):
        envs.make_vec(WALK, 3, device="cuda")


def test_without_numba_cuda_the_message_says_what_to_install():
    code = "import sys; sys.modules['numba_cuda'] = None; import envs; envs.make_vec('cartpole', 2, device='cuda')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs numba-cuda, which is not installed. Install it (pip install 'rlsys[gpu]')" in found.stderr


# -- the checker ---------------------------------------------------------------------------------------------------------


def other(function):
    """WALK with another step on the second device only: what a fault of a device would be."""
    import dataclasses

    return dataclasses.replace(WALK, step=function)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("s.x += 3e-6", "state.x"),
        ("s.n += 1", "state.n"),
        ("s.x += 3e-6 * (s.elapsed == 3)", "reward"),
    ],
)
def test_the_checker_finds_what_differs_and_says_where(fault, found, monkeypatch):
    scope = {"njit": njit}
    exec(f"@njit\ndef faulty(s, p, action):\n    s.x += p.gain * action[0] - s.level % 3\n    s.n += 1\n    {fault}\n"
         "    return s.x, s.n > 3 + s.level % 2\n", scope)  # fmt: skip
    make = envs.make_vec
    faulty = other(scope["faulty"])
    monkeypatch.setattr(envs, "make_vec", lambda sim, n, **how: make(faulty if "device" in how else sim, n, **how))
    report = compare(WALK, ("cpu", "cuda"), num_envs=9, steps=10)
    assert not report.passed
    assert "FAILED" in str(report)
    assert report.worst[found] > (0 if found == "state.n" else 2)
    assert "env" in report.first


def test_the_checker_says_how_far_apart_floats_are_and_that_integers_are_equal():
    assert "the same bytes: ok" in str(compare("snake", ("cpu", "parallel"), num_envs=50, steps=20))
    report = compare("pendulum", ("cpu", "python"), num_envs=9, steps=20)
    assert "ulp apart" in str(report)
    assert 0 < max(report.worst.values()) <= 2
    with pytest.raises(ValueError, match="device 'gpu' is not one of cpu, parallel, python, cuda"):
        compare("snake", ("cpu", "gpu"))


def test_discrete_actions_of_either_sign_are_checked():
    _, there = pair(sim="cartpole")
    assert isinstance(there.single_action_space, Discrete)
    for action in (-1, 2):
        there.step(on_device(there, np.full(11, action, np.int64)))
        with pytest.raises(ValueError, match=r"was not in Discrete\(2\)"):
            there.check()
