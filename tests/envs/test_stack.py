"""Stacked observations against a history kept by hand: over the ends of episodes, in each autoreset mode, in each space."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.gym import GymVectorEnv
from envs.stack import FrameStack
from rlsys.config import resolve
from rlsys.torchenv import make_env

K = 3
SPACES = {
    "vector": spaces.Box(-1e6, 1e6, (2,), np.float32),
    "scalar": spaces.Box(-1e6, 1e6, (), np.float32),
    "image": spaces.Box(0, 255, (40, 38, 1), np.uint8),
    "channels first": spaces.Box(0, 255, (3, 40, 38), np.uint8),
    "bool grid": spaces.Box(0, 1, (5, 4, 2), bool),
    "dict": spaces.Dict({"a": spaces.Box(0, 255, (40, 38, 2), np.uint8), "b": spaces.Box(-1e6, 1e6, (2,), np.float32)}),
}


class Clock(gymnasium.Env):
    """Shows the number of its observations so far, everywhere; ends after `length` steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, length):
        self.observation_space, self.length, self.shown = space, length, 0

    def obs(self):
        self.shown += 1
        return filled(self.observation_space, self.shown)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.obs(), {}

    def step(self, action):
        self.steps += 1
        return self.obs(), 1.0, self.steps >= self.length, False, {}


def filled(space, number):
    if isinstance(space, spaces.Dict):
        return {key: filled(inner, number) for key, inner in space.spaces.items()}
    number = number % 2 if space.dtype == bool else number
    return np.full(space.shape, number, space.dtype)


def stacked(name: str, mode: AutoresetMode) -> FrameStack:
    clocks = [lambda length=length: Clock(SPACES[name], length) for length in (2, 5)]
    return FrameStack(GymVectorEnv(SyncVectorEnv(clocks, autoreset_mode=mode)), K)


def expected(env: FrameStack, frames: list[int]) -> np.ndarray:
    """A stack of observations with these numbers, oldest first, as the docstring of `envs.stack` says."""
    parts = []
    for leaf in env.leaves:
        channels = leaf.shape[-1] // K
        numbers = np.repeat([n % 2 if leaf.space.dtype == bool else n for n in frames], channels)
        parts.append(np.broadcast_to(numbers, leaf.shape))
    return parts[0] if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", list(SPACES))
def test_a_stack_is_the_last_observations_of_its_own_episode(name, mode):
    env = stacked(name, mode)
    out = env.arrays()
    env.restart(out.obs)
    shown = [1, 1]  # by each clock
    history = [[1] * K, [1] * K]
    ending = [False, False]
    for step in range(1, 17):
        ended = env.advance(np.zeros(2, int), out)
        for i, length in enumerate((2, 5)):
            if ending[i]:  # NEXT_STEP: this one only resets
                shown[i] += 1
                history[i], ending[i] = [shown[i]] * K, False
                assert not env.valid[i]
                assert (out.obs[i] == expected(env, history[i])).all()
                continue
            shown[i] += 1
            history[i] = [*history[i][1:], shown[i]]
            done = ended is not None and bool(ended[i])
            period = length + (mode is AutoresetMode.NEXT_STEP)
            assert done == (step % period == length % period)
            if done:
                assert (out.final_obs[i] == expected(env, history[i])).all()
                ending[i] = mode is AutoresetMode.NEXT_STEP
                if not ending[i]:
                    shown[i] += 1
                    history[i] = [shown[i]] * K
            assert (out.obs[i] == expected(env, history[i])).all()
    assert out.obs.dtype == (np.float32 if name in ("vector", "scalar", "dict") else SPACES[name].dtype)


def test_rewards_and_statistics_are_those_of_the_env_itself():
    env = stacked("vector", AutoresetMode.SAME_STEP)
    env.restart(env.arrays().obs)
    rows = [env.arrays() for _ in range(4)]  # another row each time, as in a rollout
    for out in rows:
        env.advance(np.zeros(2, int), out)
    assert [out.episode_length.tolist() for out in rows] == [[0, 0], [2, 0], [0, 0], [2, 0]]
    assert all((out.reward == 1.0).all() for out in rows)
    assert [out.terminated.tolist() for out in rows] == [[False, False], [True, False]] * 2


def test_a_sim_is_stacked_like_any_other_and_a_snapshot_brings_the_stack_back():
    def play(env, steps):
        out, seen = env.arrays(), []
        for t in range(steps):
            env.advance(np.full(2, t % 2), out)
            seen.append(out.obs.copy())
        return np.array(seen)

    plain, env = envs.make_vec("cartpole", 2, seed=4), FrameStack(envs.make_vec("cartpole", 2, seed=4), 2)
    plain.restart(plain.arrays().obs)
    env.restart(env.arrays().obs)
    assert env.arrays().obs.shape == (2, 8)
    assert (play(env, 60)[..., 4:] == play(plain, 60)).all()
    saved, obs = env.get_state(), env.arrays().obs
    after = play(env, 60)
    env.set_state(saved, obs)
    assert (play(env, 60) == after).all()
    again = FrameStack(envs.make_vec("cartpole", 2, seed=9), 2)
    again.set_state(saved, obs)
    assert (obs[:, 4:] != obs[:, :4]).all()  # not the newest one twice
    assert (play(again, 60) == after).all()


def test_another_environment_begins_new_episodes_when_its_state_is_put_back():
    env = stacked("vector", AutoresetMode.SAME_STEP)
    out = env.arrays()
    env.restart(out.obs)
    env.advance(np.zeros(2, int), out)
    env.set_state(env.get_state(), out.obs)
    assert out.obs.tolist() == [[3.0] * 6, [3.0] * 6]


@pytest.mark.parametrize("name", ["snake", "cartpole"])
def test_the_config_stacks_and_one_frame_is_no_stack(name):
    def made(**options):
        return make_env(resolve({"env": {"name": name, **options}}).env, 2, split="train", seed=0)

    assert made(frame_stack=1).obs_spec == made().obs_spec
    one, three = made().obs_spec, made(frame_stack=3).obs_spec
    assert three.shape == [*one.shape[:-1], 3 * one.shape[-1]]
    assert (three.dtype, three.parts[0].kind) == (one.dtype, one.parts[0].kind)
    assert three.parts[0].shape == three.shape
    assert made(frame_stack=3).is_native
    assert made(frame_stack=3).compiled is None


def test_a_stack_of_none_is_refused():
    with pytest.raises(ValueError, match="frame_stack=0 must be at least 1"):
        FrameStack(envs.make_vec("cartpole", 2), 0)
