"""`TorchEnv`: what an env's arrays become as tensors."""

import numpy as np
import pytest
import torch

import envs
from rlsys.torchenv import TorchEnv


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", ["pendulum", "snake"])
def test_a_step_fills_its_slot_with_what_the_env_returns(name, precision):
    make = {"seed": 3, "precision": precision, "max_episode_steps": 5}
    env, reference = TorchEnv(envs.make_vec(name, 4, **make)), envs.make_vec(name, 4, **make)
    steps = env.empty_steps(7)
    slots = [env.bind(type(steps)(*(tensor[t] for tensor in steps))) for t in range(7)]
    np.testing.assert_array_equal(env.obs, reference.reset()[0])
    reference.action_space.seed(0)
    for t in range(7):
        actions = reference.action_space.sample()
        env.step(torch.from_numpy(actions), slots[t])
        obs, reward, terminated, truncated, info = reference.step(actions)
        assert (steps.reward.dtype, steps.obs.dtype) == (torch.float32, env.obs_dtype)
        np.testing.assert_array_equal(steps.obs[t], obs)
        np.testing.assert_array_equal(steps.reward[t], reward.astype(np.float32))
        np.testing.assert_array_equal(steps.terminated[t], terminated)
        np.testing.assert_array_equal(steps.truncated[t], truncated)
        if info:
            ended = info["_episode"]
            np.testing.assert_array_equal(steps.final_obs[t][ended], info["final_obs"][ended])
