"""Atari through ale-py's own vector env: frame by frame against Gymnasium's preprocessing, and what training alone may see."""

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from rlsys.config import AtariConfig, ConfigError, resolve
from rlsys.torchenv import make_env

pytest.importorskip("ale_py", reason="needs ale-py: pip install 'rlsys[atari]'")

from envs import atari
from envs.stack import FrameStack

EXACT = {"noop_max": 0, "fire_on_reset": False, "sticky_actions": 0.0}  # nothing is drawn


def shrunk(x: np.ndarray, n: int) -> np.ndarray:
    """n rows for those of x, each the mean of what it covers: differences of the running sum, which is linear within a row."""
    total = np.concatenate([np.zeros((1, *x.shape[1:])), x.cumsum(0, dtype=float)])
    edges = np.linspace(0, len(x), n + 1)
    row = np.minimum(edges.astype(int), len(x) - 1)
    at = total[row] + (edges - row)[:, None] * (total[row + 1] - total[row])
    return np.diff(at, axis=0) * n / len(x)


def area(image, size, interpolation):
    """OpenCV's INTER_AREA: each pixel is the mean of the area that it covers."""
    width, height = size
    return np.rint(shrunk(shrunk(image, height).T, width).T)


@pytest.fixture
def opencv(monkeypatch):
    """A stand-in for the one function of OpenCV that Gymnasium's wrapper wants."""
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(resize=area, INTER_AREA=3))


def played(env, actions):
    """Observations, rewards and ends of N envs under these actions, the first observation included."""
    out, found = env.arrays(), []
    env.restart(out.obs)
    found.append((out.obs.copy(), None, None, None))
    for action in actions:
        ended = env.advance(action, out)
        last = out.final_obs.copy() if ended is not None else None
        found.append((out.obs.copy(), out.reward.copy(), out.terminated.copy(), last))
    return found


def test_observations_rewards_and_ends_are_those_of_gymnasiums_wrappers(opencv):
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 4, 400)
    env = FrameStack(atari.make("ALE/Breakout-v5", 1, split="test", **EXACT), 4)
    raw = gymnasium.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0)
    reference = FrameStackObservation(AtariPreprocessing(raw, noop_max=0, frame_skip=4), 4)
    first, _ = reference.reset(seed=0)
    games, found = 0, played(env, actions[:, None])
    np.testing.assert_allclose(found[0][0][0], np.moveaxis(first, 0, -1), rtol=0, atol=1)
    scored = 0.0
    for action, (obs, reward, terminated, last) in zip(actions, found[1:], strict=True):
        theirs, their_reward, their_end, _, _ = reference.step(action)
        assert reward[0] == their_reward
        assert terminated[0] == their_end
        scored += their_reward
        if their_end:
            np.testing.assert_allclose(last[0], np.moveaxis(theirs, 0, -1), rtol=0, atol=1)
            theirs, _ = reference.reset()
            games += 1
        np.testing.assert_allclose(obs[0], np.moveaxis(theirs, 0, -1), rtol=0, atol=1)
    assert games >= 1
    assert scored > 0


def test_the_two_last_frames_are_shown_by_their_maximum_and_an_action_is_held_for_all(opencv):
    # Without the maximum, or with other frames, half of the sprites of a flickering game are missing.
    actions = np.random.default_rng(1).integers(0, 9, 60)
    env = atari.make("ALE/Asteroids-v5", 1, split="test", frame_skip=2, **EXACT)
    raw = gymnasium.make("ALE/Asteroids-v5", frameskip=1, repeat_action_probability=0.0, obs_type="grayscale")
    raw.reset(seed=0)
    found = played(env, actions[:, None])
    flickered = 0
    for action, (obs, reward, _, _) in zip(actions, found[1:], strict=True):
        one, reward_one, *_ = raw.step(action)
        two, reward_two, *_ = raw.step(action)
        np.testing.assert_allclose(obs[0, ..., 0], area(np.maximum(one, two), (84, 84), 3), rtol=0, atol=1)
        assert reward[0] == reward_one + reward_two
        flickered += (one != two).any()
    assert flickered > 10


def lives_lost(env, steps):
    """Play FIRE and NOOP by turns; returns what each step said, with the lives and raw rewards ale-py told."""
    out, told = env.arrays(), []
    env.restart(out.obs)
    for t in range(steps):
        lives = env.info["lives"].copy()
        ended = env.advance(np.full(env.num_envs, t % 2), out)
        told.append(
            SimpleNamespace(
                lost=env.info["lives"] < lives,
                ended=np.zeros(env.num_envs, bool) if ended is None else ended.copy(),
                terminated=out.terminated.copy(),
                length=out.episode_length.copy(),
                total=out.episode_return.copy(),
                reward=out.reward.copy(),
                obs=out.obs.copy(),
                final=out.final_obs.copy(),
            )
        )
    return told


def test_in_training_a_lost_life_ends_the_episode_but_not_the_game():
    told = lives_lost(atari.make("ALE/Breakout-v5", 2, split="train"), 400)
    lost = [step for step in told if step.lost.any()]
    assert len(lost) > 5
    for step in lost:
        i = int(step.lost.argmax())
        assert step.terminated[i]
        assert step.ended[i]
        assert step.length[i] == 0  # not counted as a game
        assert (step.final[i] == step.obs[i]).all()  # it goes on from there
    games = [step for step in told if step.length.any()]
    assert games
    for step in games:
        assert not (step.lost & (step.length > 0)).any()
        assert step.length.max() > 50  # steps: all five lives


def test_evaluation_plays_whole_games_for_raw_scores():
    for split in ("validation", "test"):
        told = lives_lost(atari.make("ALE/Breakout-v5", 2, split=split), 400)
        assert any(step.lost.any() for step in told)
        for step in told:
            assert (step.ended == (step.length > 0)).all()
            assert (step.terminated <= (step.length > 0)).all()


def test_rewards_are_clipped_in_training_only_and_the_score_is_raw_in_both():
    def game(split):
        env, actions = atari.make("ALE/MsPacman-v5", 1, split=split, max_frames=400, **EXACT), np.full((100, 1), 3)
        out, rewards = env.arrays(), []
        env.restart(out.obs)
        for action in actions:
            if env.advance(action, out) is not None and out.episode_length[0]:
                break
            rewards.append(float(out.reward[0]))
        return [*rewards, float(out.reward[0])], float(out.episode_return[0]), bool(out.truncated[0])

    trained, score, truncated = game("train")
    raw, raw_score, _ = game("test")
    assert truncated
    assert max(trained) == 1.0
    assert max(raw) >= 10.0
    assert score == raw_score == sum(raw)
    assert trained == np.clip(raw, -1, 1).tolist()


def test_a_game_that_is_cut_is_truncated_with_its_own_last_observation_and_begins_anew():
    env = atari.make("ALE/Pong-v5", 1, split="test", max_frames=40, **EXACT)
    found = played(env, np.zeros((25, 1), int))
    assert [t for t, step in enumerate(found) if step[3] is not None] == [10, 20]
    assert not any(step[2].any() for step in found[1:])
    assert (found[10][0] == found[0][0]).all()  # the same game again: nothing is drawn
    assert (found[10][3] != found[10][0]).any()
    assert (found[10][3] == found[20][3]).all()


def test_what_is_drawn_comes_from_the_seed_and_differs_between_envs_splits_and_episodes():
    def first(**options):
        env = atari.make("ALE/Breakout-v5", 3, **options)
        return np.array([step[0] for step in played(env, np.tile([2, 3, 0], (15, 1)))])

    one = first(seed=1)
    assert (one == first(seed=1)).all()
    assert (one != first(seed=2)).any()
    assert (one != first(seed=1, split="test")).any()
    assert len({one[:, i].tobytes() for i in range(3)}) == 3


def test_the_picture_is_what_the_agent_sees_in_colour(opencv):
    env = atari.make(
        "ALE/Breakout-v5", 2, split="test", autoreset_mode="NextStep", render_mode="rgb_array", max_frames=80
    )
    out = env.arrays()
    env.restart(out.obs)
    for t in range(60):  # over two ends
        env.advance(np.array([t % 4, (t + 1) % 4]), out)
        for i in range(2):
            picture = env.frame(i)
            gray = np.rint(picture @ [0.2989, 0.5870, 0.1140])
            assert picture.shape == (210, 160, 3)
            assert np.abs(area(gray, (84, 84), 3) - out.obs[i, ..., 0]).mean() < 1.0
    with pytest.raises(ValueError, match="has no pictures"):
        atari.make("ALE/Pong-v5", 1).frame(0)


def test_the_config_gives_four_grey_frames_of_84_pixels_as_bytes():
    env = make_env(AtariConfig(id="ALE/Pong-v5"), 2, split="train", seed=0)
    assert env.obs_spec.shape == [84, 84, 4]
    assert env.obs_spec.dtype == "uint8"
    assert env.obs_spec.parts[0].kind == "image"
    colour = AtariConfig(id="ALE/Pong-v5", grayscale=False, screen_size=64, frame_stack=1, full_action_space=True)
    env = make_env(colour, 2, split="train", seed=0)
    assert env.obs_spec.shape == [64, 64, 3]
    assert env.action_spec.n == 18


def test_what_is_no_atari_game_is_refused_by_name():
    with pytest.raises(ValueError, match="'CartPole-v1' is no Atari game"):
        atari.make("CartPole-v1", 1)
    with pytest.raises(ValueError, match="ALE/Pongg-v5"):
        atari.make("ALE/Pongg-v5", 1)
    with pytest.raises(ValueError, match="reset themselves"):
        atari.make("ALE/Pong-v5", 1, autoreset_mode="Disabled")
    with pytest.raises(ConfigError, match=r"env\.sticky_actions=2 is out of range"):
        resolve({"env": {"name": "atari", "sticky_actions": 2}})
