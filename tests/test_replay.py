"""Replays: the files are what they claim to be, and show what happened."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from rlsys import replay
from rlsys.config import GymnasiumConfig, SimConfig
from rlsys.policy import Policy, PolicySpec
from rlsys.torchenv import make_env


def film(path, height: int, width: int) -> np.ndarray:
    """The frames of an MP4, [T, height, width, 3]."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def policy_for(config) -> Policy:
    env = make_env(config, 1, split="test", seed=0)
    env.close()
    rule = "categorical" if env.action_spec.n else "gaussian"
    torch.manual_seed(0)
    return Policy(PolicySpec(env.obs_spec, env.action_spec, rule))


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "snake", "maze"])
def test_gif_and_mp4_hold_the_episode(name, tmp_path):
    config = SimConfig(name=name, max_episode_steps=12)
    gif, mp4 = replay.record(policy_for(config), config, tmp_path, name="x", caption="a caption")
    frames = list(replay.play(policy_for(config), config))
    assert frames[0].step == 0
    assert 1 <= frames[-1].step <= 12
    rate = replay.frame_rate(config)
    stride = max(1, round(rate / replay.GIF_FRAME_RATE))
    with Image.open(gif) as image:
        assert image.n_frames == len(range(0, len(frames) - 1, stride)) + 1
        assert image.info["duration"] == pytest.approx(1000 * stride / rate, abs=10)
        assert image.size == (400, 400 + replay.BAR)
    video = film(mp4, 400 + replay.BAR, 400)
    assert len(video) == len(frames)
    # The film shows the frames, up to what its compression loses.
    assert np.abs(video[-1][:400].astype(int) - frames[-1].pixels).mean() < 6


def test_two_episodes_follow_each_other_and_the_last_state_is_shown():
    config = SimConfig(max_episode_steps=5)
    frames = list(replay.play(policy_for(config), config, episodes=2))
    assert [(frame.episode, frame.step) for frame in frames] == [(e, s) for e in range(2) for s in range(6)]
    assert [frame.total_reward for frame in frames[:6]] == [0, 1, 2, 3, 4, 5]
    assert (frames[5].pixels != frames[6].pixels).any()


def test_the_seed_chooses_the_episode_and_max_steps_cuts_it():
    config = SimConfig()
    policy = policy_for(config)

    def last(**options):
        return list(replay.play(policy, config, max_steps=3, **options))[-1]

    assert last(seed=1).step == 3
    assert (last(seed=1).pixels == last(seed=1).pixels).all()
    assert (last(seed=1).pixels != last(seed=2).pixels).any()


def test_an_episode_that_is_cut_is_followed_by_another_one():
    config = SimConfig()
    frames = list(replay.play(policy_for(config), config, episodes=3, max_steps=2))
    assert [(frame.episode, frame.step) for frame in frames] == [(e, s) for e in range(3) for s in range(3)]
    assert len({frame.pixels.tobytes() for frame in frames if frame.step == 0}) == 3


def test_a_gymnasium_env_is_recorded_through_its_own_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    config = GymnasiumConfig(id="LunarLander-v3")
    gif, mp4 = replay.record(policy_for(config), config, tmp_path, name="x", max_steps=10)
    assert gif.stat().st_size > 1000
    assert len(film(mp4, 400 + replay.BAR, 600)) == 11


def test_the_terminal_shows_frames_and_puts_the_cursor_back(capsys):
    config = SimConfig(max_episode_steps=3)
    replay.show(policy_for(config), config, columns=30, speed=1000.0, caption="hello")
    printed = capsys.readouterr().out
    assert "hello  episode 1  step 3  return 3.0" in printed
    assert printed.count("▀") >= 4 * 30
    assert printed.endswith("\x1b[?25h\x1b[0m")
