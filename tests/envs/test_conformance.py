"""Every sim: the checks that `rlsys envs --check` makes of anybody's, and Gymnasium's API, as other people's code sees it."""

import subprocess
import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import envs
from envs.engine.conformance import CHECKS, heard
from envs.engine.single import SimEnv
from envs.registration import SIMS
from rlsys.agents.sb3 import check_single_env

IDS = {name: f"rlsys/{id}" for name, id in SIMS.items()}
ORIGINALS = {  # exact ports: the spaces are what they are
    "acrobot": "Acrobot-v1",
    "cartpole": "CartPole-v1",
    "mountaincar": "MountainCar-v0",
    "mountaincar_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
}


@pytest.fixture(params=envs.sims())
def name(request):
    return request.param


@pytest.mark.parametrize(
    "check", sorted(set(CHECKS) - {"levels", "references"})
)  # which have test_levels and test_baselines
def test_every_sim_conforms(name, check):
    sim = envs.get_sim(name)
    found = CHECKS[check](sim)
    if check == "Gymnasium":  # has nothing to say that it does not say of the original
        original = gymnasium.make(ORIGINALS[name]).unwrapped if name in ORIGINALS else None
        known = heard(partial(check_env, skip_render_check=True), original) if original else "clean"
        assert set(found.split("; ")) <= {"clean", *known.split("; ")}


def test_sb3s_checker_has_nothing_to_say_but_that_pendulums_torque_is_not_normalised(name):
    said = heard(check_single_env, gymnasium.make(IDS[name]).unwrapped)
    if name == "pendulum":  # as of Gymnasium's own
        assert "symmetric and normalized Box action space" in said
        assert "; " not in said
    else:
        assert said == "clean"


def test_make_says_nothing_and_passes_its_own_checks(name):
    env = gymnasium.make(IDS[name])  # warnings are errors here; the passive checker is on
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(300):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert obs in env.observation_space
        assert type(reward) is float
        assert info == {}
        if terminated or truncated:
            env.reset()


def test_make_vec_returns_copies(name):
    env = gymnasium.make_vec(IDS[name], num_envs=8, vectorization_mode="vector_entry_point")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second = env.step(env.action_space.sample())[0]
    assert first.shape == env.observation_space.shape
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    assert isinstance(env.metadata["autoreset_mode"], gymnasium.vector.AutoresetMode)


def test_the_native_vector_env_writes_in_place():
    env = envs.make_vec("cartpole", 8, seed=0)
    first, _ = env.reset()
    assert np.shares_memory(first, env.step(np.ones(8, np.int64))[0])


def test_a_single_env_is_env_0_of_a_vector_env_of_the_same_seed(name):
    single = gymnasium.make(IDS[name], max_episode_steps=-1).unwrapped
    vector = envs.make_vec(name, 3, autoreset_mode="NextStep")
    single.action_space.seed(0)
    obs, _ = single.reset(seed=7)
    np.testing.assert_array_equal(obs, vector.reset(seed=7)[0][0])
    episodes = 0
    for _ in range(2500):  # Labyrinth's limit
        action = single.action_space.sample()
        actions = np.repeat(np.asarray(action)[None], 3, axis=0)
        mine, theirs = single.step(action), vector.step(actions)
        np.testing.assert_array_equal(mine[0], theirs[0][0])
        assert mine[1:4] == tuple(array[0] for array in theirs[1:4])
        if mine[2] or mine[3]:
            episodes += 1
            np.testing.assert_array_equal(single.reset()[0], vector.step(actions)[0][0])
    assert episodes > 0


def test_a_single_env_returns_the_final_observation_and_then_wants_a_reset():
    env = SimEnv("cartpole")
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(0)
    env.reset(seed=0)
    terminated = False
    while not terminated:
        obs, _, terminated, _, _ = env.step(1)
    assert abs(obs[0]) > 2.4 or abs(obs[2]) > 12 * np.pi / 180  # beyond a limit: not a fresh start
    with pytest.raises(ResetNeeded):
        env.step(1)
    obs, _ = env.reset()
    assert (np.abs(obs) <= 0.05).all()


def test_a_single_env_truncates_by_itself():
    env = gymnasium.make("rlsys/Pendulum-v0")
    env.reset(seed=0)
    flags = [env.step([0.0])[2:4] for _ in range(200)]
    assert flags == [(False, False)] * 199 + [(False, True)]


def test_single_env_options_reach_the_engine():
    level = 2**30 + 5
    env = gymnasium.make("rlsys/Maze-v2")
    first, _ = env.reset(seed=0, options={"level": level})
    second, _ = env.reset(seed=1, options={"level": level})
    np.testing.assert_array_equal(first, second)
    heavy = gymnasium.make("rlsys/CartPole-v0", params={"gravity": 20.0})
    assert heavy.unwrapped.vector.params["gravity"][0] == 20.0


def test_ansi_frames_are_text(name):
    env = gymnasium.make(IDS[name], render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert text.count("\n") == 29  # 60 columns of square frame: 30 lines of two pixels
    assert "▀" in text


def test_wrong_render_modes_are_named():
    with pytest.raises(ValueError, match="render_mode='opengl'"):
        SimEnv("cartpole", render_mode="opengl")


@pytest.mark.parametrize("name", ["cartpole", "CartPole-v0", "rlsys/CartPole-v0"])
def test_a_sim_has_three_names(name):
    assert envs.get_sim(name) is envs.get_sim("cartpole")
    assert envs.make_vec(name, 2).num_envs == 2


def test_a_sim_can_be_given_itself():
    sim = envs.get_sim("snake")
    assert envs.make_vec(sim, 2).sim is sim
    assert SimEnv(sim).vector.sim is sim


@pytest.mark.parametrize(
    ("typo", "meant"), [("cartpol", "cartpole"), ("snake-v0", "Snake-v1"), ("rlsys/Pendulm-v0", "rlsys/Pendulum-v0")]
)
def test_a_typo_in_a_name_is_answered_with_the_nearest_one(typo, meant):
    with pytest.raises(ValueError, match=f"no sim '{typo}'. Did you mean '{meant}'"):
        envs.get_sim(typo)


def test_registered_names_are_the_sims_own(name):
    sim = envs.get_sim(name)
    assert sim.id == IDS[name]


def fresh(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)


def test_importing_envs_imports_no_sim_and_no_compiler():
    done = fresh("import sys, envs; print(*sys.modules)")
    heavy = {"numba", "PIL", "envs.engine", "envs.cartpole"}
    assert not heavy & set(done.stdout.split()), done.stderr


def test_gymnasium_finds_the_sims_in_a_fresh_process():
    done = fresh("import gymnasium; print(gymnasium.make('envs:rlsys/CartPole-v0').unwrapped)")
    assert done.stdout == "<SimEnv<rlsys/CartPole-v0>>\n", done.stderr
