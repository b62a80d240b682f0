"""Others' worlds through the whole pipeline: trained on for a few hundred steps, evaluated, replayed; what is missing is told.

A family whose package is not installed is skipped, and says so.
"""

import contextlib
import importlib
import json
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs import gym
from envs.gym import GymVectorEnv, leaves, make
from rlsys import cli
from rlsys.config import GymnasiumConfig
from rlsys.torchenv import make_env, reward_threshold

SMALL = ["num_envs=4", "total_timesteps=256", "eval_every=0", "eval_episodes=2", "test_episodes=2", "--quiet"]
PPO = ["agent=ppo", "agent.n_steps=32", "agent.batch_size=64", "agent.n_epochs=1"]
DQN = ["agent=dqn", "agent.learning_starts=64", "agent.batch_size=16", "agent.buffer_size=512"]
PQN = ["agent=pqn", "agent.n_steps=32", "agent.batch_size=64"]
SHORT = "env.kwargs.max_episode_steps=20"

# package, its extra, what to train
WORLDS = [
    ("ale_py", "atari", ["env=atari", "env.id=ALE/Pong-v5", "env.max_frames=100", "threads=1", *PPO]),
    ("ale_py", "atari", ["env=atari", "env.id=ALE/Breakout-v5", "env.max_frames=100", "threads=1", *DQN]),
    (
        "ale_py",
        "atari",
        ["env=gymnasium", "env.id=ALE/Freeway-v5", "env.kwargs.max_num_frames_per_episode=80", "threads=1", *PPO],
    ),
    ("Box2D", "box2d", ["env=gymnasium", "env.id=LunarLander-v3", "env.frame_stack=2", SHORT, *DQN]),
    ("Box2D", "box2d", ["env=gymnasium", "env.id=BipedalWalker-v3", SHORT, *PPO]),
    ("mujoco", "mujoco", ["env=gymnasium", "env.id=InvertedPendulum-v5", SHORT, *PPO]),
    ("mujoco", "mujoco", ["env=gymnasium", "env.id=HalfCheetah-v5", SHORT, "replay=false", *PPO]),
    ("minigrid", "minigrid", ["env=gymnasium", "env.id=MiniGrid-Empty-5x5-v0", "env.frame_stack=2", SHORT, *PPO]),
    ("minigrid", "minigrid", ["env=gymnasium", "env.id=BabyAI-GoToRedBallGrey-v0", SHORT, *DQN]),
    ("minatar", "minatar", ["env=gymnasium", "env.id=MinAtar/Breakout-v1", SHORT, *DQN]),
    ("minatar", "minatar", ["env=gymnasium", "env.id=MinAtar/SpaceInvaders-v1", SHORT, *PQN]),
    ("gymnasium", "", ["env=gymnasium", "env.id=FrozenLake-v1", SHORT, *DQN]),
    ("gymnasium", "", ["env=gymnasium", "env.id=Taxi-v4", SHORT, *PPO]),
    ("gymnasium", "", ["env=gymnasium", "env.id=Blackjack-v1", *PPO]),
    ("envpool", "envpool", ["env=gymnasium", "env.vectorization=envpool", "env.id=CartPole-v1", *PPO]),
]


def name(world: tuple) -> str:
    return "-".join(part.split("=")[1] for part in world[2] if part.startswith(("env.id", "agent=", "env.vec")))


@pytest.mark.parametrize("world", WORLDS, ids=name)
@pytest.mark.filterwarnings("default")  # theirs are theirs
def test_a_world_is_trained_on_evaluated_and_replayed(world, tmp_path, monkeypatch, capsys):
    package, extra, arguments = world
    if find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install 'rlsys[{extra}]'")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *arguments, *SMALL]) == 0, capsys.readouterr().err
    (summary,) = tmp_path.glob("runs/*/*/*/summary.json")
    assert np.isfinite(json.loads(summary.read_text())["score"])
    assert json.loads(summary.read_text())["steps"] >= 256
    assert cli.main(["eval", "latest", "--episodes", "2"]) == 0
    if package != "mujoco":  # whose pictures need OpenGL
        assert (summary.parent / "replays" / "final.mp4").stat().st_size > 0


# -- what is observed ----------------------------------------------------------------------------------------------------


def first(env: GymVectorEnv) -> np.ndarray:
    obs = env.arrays().obs
    env.restart(obs)
    return obs


def test_minigrids_picture_is_an_image_its_direction_one_hot_and_its_mission_left_out():
    pytest.importorskip("minigrid", reason="needs minigrid: pip install 'rlsys[minigrid]'")
    env = make("MiniGrid-DoorKey-5x5-v0", 2)
    assert [(leaf.path, leaf.kind, leaf.shape) for leaf in env.leaves] == [
        (("direction",), "binary", (4,)),
        (("image",), "image", (7, 7, 3)),
    ]
    obs = first(env)
    theirs, _ = gymnasium.make("MiniGrid-DoorKey-5x5-v0").reset(seed=env.seed)
    assert obs[0, :4].tolist() == np.eye(4)[theirs["direction"]].tolist()
    assert (obs[0, 4:].reshape(7, 7, 3) == theirs["image"]).all()


def test_minatars_observation_is_a_grid_of_bits():
    pytest.importorskip("minatar", reason="needs MinAtar: pip install 'rlsys[minatar]'")
    for frame_stack, channels in ((1, 4), (2, 8)):
        config = GymnasiumConfig(id="MinAtar/Breakout-v1", frame_stack=frame_stack)
        spec = make_env(config, 2, split="train", seed=0).obs_spec
        assert (spec.shape, spec.dtype, spec.parts[0].kind) == ([10, 10, channels], "bool", "grid")


def test_a_picture_of_bytes_up_to_255_is_an_image_and_one_of_smaller_numbers_a_grid():
    def kind(high, *shape):
        return leaves(spaces.Box(0, high, shape, np.uint8))[0].kind

    assert [kind(255, 7, 7, 3), kind(255, 4, 84, 84), kind(10, 7, 7, 3)] == ["image", "image", "grid"]


def test_words_beside_other_things_are_left_out_and_words_alone_refused():
    both = spaces.Dict({"a": spaces.Discrete(2), "words": spaces.Text(3)})
    assert [leaf.path for leaf in leaves(both)] == [("a",)]
    with pytest.raises(ValueError, match="is not supported"):
        leaves(spaces.Dict({"words": spaces.Text(3)}))


# -- what is missing, or somebody else's -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "package", "extra"),
    [
        ("ALE/Some-v5", "ale_py", "atari"),
        ("MiniGrid-Some-v0", "minigrid", "minigrid"),
        ("MinAtar/Some", "minatar.gym", "minatar"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    env_id, package, extra, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)  # importing it now raises ImportError
    with pytest.raises(ValueError, match=rf"{env_id}.* pip install 'rlsys\[{extra}\]'"):
        gym.find_spec(env_id)
    assert cli.main(["train", "env=gymnasium", f"env.id={env_id}"]) == 2
    assert f"pip install 'rlsys[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize(("where", "extra"), [("gymnasium.envs.mujoco.", "mujoco"), ("gymnasium.envs.box2d.", "box2d")])
def test_gymnasiums_own_families_name_our_extra(where, extra, monkeypatch):
    def missing(*_, **__):
        raise gymnasium.error.DependencyNotInstalled("run pip install something else")

    spec = next(spec for spec in gymnasium.registry.values() if str(spec.entry_point).startswith(where))
    monkeypatch.setattr(gymnasium, "make_vec", missing)
    with pytest.raises(ValueError, match=rf"pip install 'rlsys\[{extra}\]'"):
        make(spec.id, 1)


def test_only_the_package_of_its_family_is_imported_for_an_id(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(importlib, "import_module", lambda module: asked.append(module) or ModuleType(module))
    for env_id in ("CartPole-v1", "Unknown-v0", "os.system", "ALE/Unknown-v5"):
        with contextlib.suppress(ValueError):
            gym.find_spec(env_id)
    assert asked == ["ale_py"]


class FakePool:
    """What is used of an envpool: two envs that count their steps, of 2 and 3 a game; the step after the last resets."""

    observation_space = spaces.Box(0, 255, (4, 40, 40), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, seed):
        self.seed, self.steps, self.ended, self.closed = seed, np.zeros(2, int), np.zeros(2, bool), False

    def obs(self):
        return np.broadcast_to((self.seed % 7 * 10 + self.steps)[:, None, None, None], (2, 4, 40, 40)).astype(np.uint8)

    def reset(self):
        self.steps[:] = 0
        return self.obs(), {}

    def step(self, actions):
        self.steps = np.where(self.ended, 0, self.steps + 1)
        rewards = np.where(self.ended, 0, actions).astype(np.float32)
        self.ended = self.steps == [2, 3]
        return self.obs(), rewards, self.ended & [True, False], self.ended & [False, True], {}

    def render(self, env_ids):
        return np.zeros((len(env_ids), 8, 9, 3), np.uint8)

    def close(self):
        self.closed = True


@pytest.fixture
def pools(monkeypatch):
    """envpool, replaced by one that makes FakePools, which it lists."""
    made = []

    def make_pool(env_id, *, env_type, num_envs, seed, **options):
        assert (env_id, env_type, num_envs, options) == ("Fake-v5", "gymnasium", 2, {"speed": 3})
        made.append(FakePool(seed))
        return made[-1]

    listed = SimpleNamespace(reward_threshold=12.0)
    module = SimpleNamespace(make=make_pool, list_all_envs=lambda: ["Fake-v5"], make_spec=lambda env_id: listed)
    monkeypatch.setitem(sys.modules, "envpool", module)
    return made


def test_an_envpool_is_stepped_like_any_vector_env_and_made_anew_for_a_seed(pools):
    config = GymnasiumConfig(id="Fake-v5", vectorization="envpool", kwargs={"speed": 3})
    env = make("Fake-v5", 2, vectorization="envpool", kwargs={"speed": 3}, seed=5)
    assert env.mode is AutoresetMode.NEXT_STEP
    obs = first(env)
    assert pools[0].closed
    assert pools[-1].seed == env.seed
    assert obs.shape == (2, 40, 40, 4)
    assert (obs == env.seed % 7 * 10).all()
    out, valid, games = env.arrays(), [], []
    for _ in range(8):
        ended = env.advance(np.array([1, 2]), out)
        valid.append(env.valid.tolist())
        if ended is not None:
            games += [(int(i), float(out.episode_return[i]), int(out.episode_length[i])) for i in np.flatnonzero(ended)]
            assert out.truncated[1] or out.terminated[0]
            assert not out.terminated[1]
    assert [v[0] for v in valid] == [True, True, False] * 2 + [True, True]
    assert [v[1] for v in valid] == [True, True, True, False] * 2
    assert games == [(0, 2.0, 2), (1, 6.0, 3), (0, 2.0, 2), (1, 6.0, 3), (0, 2.0, 2)]
    assert env.frame(1).shape == (8, 9, 3)
    assert reward_threshold(config) == 12.0
    env.close()
    assert pools[-1].closed


def test_what_envpool_does_not_know_is_told_and_so_is_that_it_is_missing(pools, monkeypatch):
    with pytest.raises(ValueError, match="'Other-v5' is none of envpool's"):
        make("Other-v5", 2, vectorization="envpool")
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ValueError, match=r"pip install 'rlsys\[envpool\]'"):
        make("Fake-v5", 2, vectorization="envpool")
