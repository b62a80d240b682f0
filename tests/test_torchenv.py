"""`TorchEnv`: what an env's arrays become as tensors."""

import numpy as np
import pytest
import torch

import envs
from rlsys.torchenv import Episodes, TorchEnv


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


@pytest.mark.parametrize("room", [100, 7])
def test_episodes_are_kept_in_order_however_many_end_at_once(room):
    rng = np.random.default_rng(0)
    episodes, all_returns, all_lengths = Episodes(room, torch.device("cpu")), [], []
    asked = 0  # episodes when the means were last asked for
    for most in (0, 1, 5, 250, 0, 3, 40):
        lengths = rng.integers(1, 50, (4, 100)) * (rng.random((4, 100)) < most / 400)
        returns = rng.random((4, 100)) * (lengths > 0)
        episodes.add(torch.from_numpy(returns), torch.from_numpy(lengths))
        all_returns += returns[lengths > 0].tolist()
        all_lengths += lengths[lengths > 0].tolist()
        assert int(episodes.count) == len(all_returns)
        kept = min(room, len(all_returns))
        if kept:
            count, means = episodes.means()
            assert count == len(all_returns)
            if room >= 100:  # TorchEnv has no less room
                since = min(asked, len(all_returns) - 100)  # all since then, the last hundred if there are fewer
                expected = [np.mean(all_returns[max(0, since) :]), np.mean(all_lengths[max(0, since) :])]
                np.testing.assert_allclose(means, expected)
            asked = len(all_returns)
            ring = episodes.recent[:-1][(count - 1 - torch.arange(kept)) % room]
            np.testing.assert_array_equal(ring[:, 0], all_returns[-kept:][::-1])
