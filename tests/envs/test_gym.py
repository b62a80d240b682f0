"""Gymnasium environments as the trainer sees them: packed observations, and one story whatever the autoreset mode."""

import os
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.gym import EnvError, GymVectorEnv, check_action_space, check_id, leaves, make


class Counting(gymnasium.Env):
    """Observation: (episode, steps taken in it). Reward: the action. Ends after 2 steps if `terminates`, else is cut."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(10)

    def __init__(self, length=2, terminates=True):
        self.length, self.terminates, self.episode = length, terminates, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self.obs(), {}

    def step(self, action):
        self.steps += 1
        over = self.steps >= self.length
        return self.obs(), float(action), over and self.terminates, over and not self.terminates, {}

    def obs(self):
        return np.array([self.episode, self.steps], np.float32)


def counting(mode: AutoresetMode) -> GymVectorEnv:
    envs = [lambda: Counting(2, terminates=True), lambda: Counting(3, terminates=False)]
    return GymVectorEnv(SyncVectorEnv(envs, autoreset_mode=mode))


def story(env: GymVectorEnv, i: int, steps: int) -> list[tuple]:
    """What is experienced by env i: (obs, action, reward, next obs, terminated, truncated) of all valid steps."""
    out, obs, told = env.arrays(), env.arrays().obs, []
    env.restart(obs)
    for t in range(steps):
        before, actions = obs.copy(), np.full(2, t % 10)
        ended = env.advance(actions, out)
        done = ended is not None and ended[i]
        after = out.final_obs[i] if done else out.obs[i]
        if env.valid is None or env.valid[i]:
            flags = bool(out.terminated[i]), bool(out.truncated[i])
            told.append((tuple(before[i]), float(out.reward[i]), tuple(after.copy()), *flags))
        obs = out.obs.copy()
    return told


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_each_autoreset_mode_tells_whole_episodes(mode):
    for i, (length, terminated) in enumerate([(2, True), (3, False)]):
        told = story(counting(mode), i, 12)
        for k, (before, _, after, is_terminated, is_truncated) in enumerate(told):
            episode, step = divmod(k, length)
            assert before == (episode, step)
            assert after == (episode, step + 1)
            over = step + 1 == length
            assert (is_terminated, is_truncated) == (over and terminated, over and not terminated)


def test_next_step_marks_the_resets_as_no_experience():
    env = counting(AutoresetMode.NEXT_STEP)
    out = env.arrays()
    env.restart(out.obs)
    valid = []
    for _ in range(6):
        env.advance(np.array([1, 1]), out)
        valid.append(env.valid.tolist())
    # env 0: 2 steps, a reset, 2 steps, a reset; env 1: 3 steps, a reset, 2 steps
    assert [v[0] for v in valid] == [True, True, False, True, True, False]
    assert [v[1] for v in valid] == [True, True, True, False, True, True]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_episode_statistics_are_right_in_each_mode(mode):
    env = counting(mode)
    out = env.arrays()
    env.restart(out.obs)
    found = []
    for _ in range(20):
        ended = env.advance(np.array([3, 4]), out)
        if ended is not None:
            found += [(i, out.episode_return[i], out.episode_length[i]) for i in np.flatnonzero(ended)]
    assert set(found) == {(0, 6.0, 2), (1, 12.0, 3)}  # 3 + 3 and 4 + 4 + 4


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_statistics_of_an_older_step_are_not_told_again(mode):
    env = counting(mode)
    out = env.arrays()
    env.restart(out.obs)
    out.episode_return[:], out.episode_length[:] = 99.0, 99  # what the last rollout left there
    env.advance(np.array([1, 1]), out)
    assert out.episode_length.tolist() == [0, 0]
    env.advance(np.array([1, 1]), out)
    assert (out.episode_return.tolist(), out.episode_length.tolist()) == ([2.0, 0.0], [2, 0])


def kinds(space: spaces.Space) -> list[tuple[str, tuple[int, ...]]]:
    return [(leaf.kind, leaf.shape) for leaf in leaves(space)]


def test_each_space_is_given_its_meaning_and_packed_shape():
    assert kinds(spaces.Box(-1, 1, (3, 2))) == [("vector", (3, 2))]
    assert kinds(spaces.Discrete(5)) == [("binary", (5,))]
    assert kinds(spaces.MultiDiscrete([2, 3])) == [("binary", (5,))]
    assert kinds(spaces.MultiBinary(4)) == [("binary", (4,))]
    assert kinds(spaces.MultiBinary([6, 6, 3])) == [("grid", (6, 6, 3))]
    assert kinds(spaces.Box(0, 255, (84, 64, 3), np.uint8)) == [("image", (84, 64, 3))]
    assert kinds(spaces.Box(0, 255, (4, 84, 64), np.uint8)) == [("image", (84, 64, 4))]  # channels first
    nested = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([spaces.Box(0, 1, (3,)), spaces.MultiBinary(1)])})
    assert kinds(nested) == [("binary", (2,)), ("vector", (3,)), ("binary", (1,))]


class Showing(gymnasium.Env):
    """Shows samples of an observation space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, action_space=None):
        self.observation_space = space
        self.action_space = action_space or self.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}


def shown(space: spaces.Space) -> tuple[GymVectorEnv, np.ndarray]:
    env = GymVectorEnv(SyncVectorEnv([lambda: Showing(space)] * 2, autoreset_mode="SameStep"))
    obs = env.arrays().obs
    env.restart(obs)
    return env, obs


def test_multi_discrete_is_packed_as_one_hot_numbers_from_its_start():
    space = spaces.MultiDiscrete([3, 2], start=[1, 0])
    _, obs = shown(space)
    raw = space
    raw.seed(None)
    assert obs.shape == (2, 5)
    assert (obs[:, :3].sum(1) == 1).all()
    assert (obs[:, 3:].sum(1) == 1).all()
    leaf = leaves(space)[0]
    assert leaf.pack(np.array([[1, 0], [3, 1]]), 2).tolist() == [[1, 0, 0, 1, 0], [0, 0, 1, 0, 1]]


def test_dict_observations_are_flattened_in_the_order_of_their_keys_also_at_an_episodes_end():
    space = spaces.Dict(
        {
            "speed": spaces.Box(5, 6, (2,)),
            "gear": spaces.Discrete(3),
            "camera": spaces.Box(0, 255, (40, 40, 3), np.uint8),
        }
    )
    env, obs = shown(space)
    order = list(space.spaces)
    assert order == ["camera", "gear", "speed"] or order == ["speed", "gear", "camera"]
    assert obs.shape == (2, 40 * 40 * 3 + 3 + 2)
    out = env.arrays()
    ended = env.advance(np.array([0, 1]), out)
    assert ended.all()
    for row in (obs, out.obs, out.final_obs):
        offset = (
            {"camera": 0, "gear": 4800, "speed": 4803} if order[0] == "camera" else {"speed": 0, "gear": 2, "camera": 5}
        )
        speed = row[:, offset["speed"] : offset["speed"] + 2]
        assert ((speed >= 5) & (speed <= 6)).all()
        assert (row[:, offset["gear"] : offset["gear"] + 3].sum(1) == 1).all()


def test_images_with_channels_first_are_turned():
    space = spaces.Box(0, 255, (3, 40, 50), np.uint8)
    env, obs = shown(space)
    assert obs.shape == (2, 40, 50, 3)
    assert obs.dtype == np.uint8
    raw = np.arange(2 * 3 * 40 * 50, dtype=np.uint32).reshape(2, 3, 40, 50)
    assert (env.leaves[0].pack(raw, 2) == raw.transpose(0, 2, 3, 1)).all()


@pytest.mark.parametrize(
    "space", [spaces.Text(5), spaces.Sequence(spaces.Discrete(2)), spaces.Dict({"words": spaces.Text(3)})]
)
def test_an_observation_that_no_network_can_read_is_refused_by_name(space):
    with pytest.raises(ValueError, match=r"observation space.* is not supported\. Supported: Box"):
        leaves(space)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(3), spaces.Discrete(3, start=1)])
def test_an_action_space_that_no_agent_can_act_in_is_refused_by_name(space):
    env = SyncVectorEnv([lambda: Showing(spaces.Discrete(2), space)], autoreset_mode="SameStep")
    with pytest.raises(ValueError, match="action space"):
        GymVectorEnv(env)


def test_an_id_that_names_a_module_needs_permission(monkeypatch, tmp_path):
    (tmp_path / "their_envs.py").write_text(
        "import gymnasium\ngymnasium.register('Theirs-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="--allow-import their_envs"):
        check_id("their_envs:Theirs-v0")
    import sys

    from envs import gym

    assert "their_envs" not in sys.modules
    monkeypatch.setattr(gym, "_importable", {"their_envs"})
    env = make("their_envs:Theirs-v0", 2)
    assert env.arrays().obs.shape == (2, 4)
    env.close()


@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
def test_every_vectorisation_makes_the_same_kind_of_env(vectorization):
    env = make("CartPole-v1", 2, vectorization=vectorization)
    out = env.arrays()
    env.restart(out.obs)
    for _ in range(300):
        env.advance(np.array([1, 0]), out)
    assert np.isfinite(out.obs).all()
    env.close()


def test_splits_and_seeds_give_other_episodes_and_a_restart_the_same():
    def first(**options):
        env = make("CartPole-v1", 2, **options)
        obs = env.arrays().obs
        env.restart(obs)
        return obs.tolist()

    assert first(seed=1) == first(seed=1)
    assert first(seed=1) != first(seed=2)
    assert first(seed=1) != first(seed=1, split="test") != first(seed=1, split="validation")


def test_an_unknown_id_or_argument_is_told_plainly():
    with pytest.raises(ValueError, match=r"env\.id='CartPoole-v1' cannot be made"):
        make("CartPoole-v1", 2)
    with pytest.raises(ValueError, match=r"env\.id='CartPole-v1' cannot be made.*gravitas"):
        make("CartPole-v1", 2, kwargs={"gravitas": 3})


class Faulty(Counting):
    """Goes wrong in its third step as `fault` says, if it is the second of its kind."""

    def __init__(self, fault, is_second):
        super().__init__(length=5)
        self.fault = fault if is_second else None

    def step(self, action):
        obs, reward, *rest = super().step(action)
        fault = self.fault if self.steps == 3 else None
        if fault == "raise":
            raise ZeroDivisionError("the wheel came off")
        if fault == "exit":
            os._exit(3)
        if fault == "obs":
            obs = np.array([0.0, np.nan], np.float32)
        return obs, np.inf if fault == "reward" else reward, *rest


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", r"env 1 raised ZeroDivisionError: the wheel came off \(test_gym.py, line \d+\)"),
        ("obs", r"env 1 returned an observation that is not finite: \[0.0, nan\]"),
        ("reward", r"env 1 returned a reward that is not finite: inf"),
    ],
)
def test_an_environment_that_misbehaves_is_named(fault, words):
    kinds = [partial(Faulty, fault, False), partial(Faulty, fault, True)]
    env = GymVectorEnv(SyncVectorEnv(kinds, autoreset_mode=AutoresetMode.SAME_STEP))
    out = env.arrays()
    env.restart(out.obs)
    env.advance(np.zeros(2, int), out)
    env.advance(np.zeros(2, int), out)
    with pytest.raises(EnvError, match=words):
        env.advance(np.zeros(2, int), out)


def test_a_process_that_dies_is_told_and_takes_the_others_with_it():
    kinds = [partial(Faulty, "exit", False), partial(Faulty, "exit", True)]
    env = GymVectorEnv(AsyncVectorEnv(kinds, autoreset_mode=AutoresetMode.SAME_STEP))
    out = env.arrays()
    env.restart(out.obs)
    env.advance(np.zeros(2, int), out)
    env.advance(np.zeros(2, int), out)
    with pytest.raises(EnvError, match="the environments raised EOFError"):
        env.advance(np.zeros(2, int), out)
    env.close()
    for process in env.env.processes:
        process.join(10)
        assert process.exitcode is not None


def test_an_env_without_pictures_says_so():
    env = counting(AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match="has no pictures"):
        env.frame(0)


def test_an_empty_action_space_is_refused():
    with pytest.raises(ValueError, match="is not supported"):
        check_action_space(spaces.Box(-1.0, 1.0, (0,), np.float32))
