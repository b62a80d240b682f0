"""SB3's algorithms through our envs: the adapter, the shared policy, errors, and resuming."""

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import envs
import envs.gym
from rlsys import checkpoint
from rlsys.agents.sb3 import SB3, STEPS, Worlds
from rlsys.checkpoint import NonFiniteError
from rlsys.config import ConfigError, SB3Config
from rlsys.networks import Encoder
from rlsys.policy import Policy, PolicySpec, build_policy
from rlsys.torchenv import TorchEnv

N = 4
SMALL = {"batch_size": 32, "learning_starts": 64, "train_freq": 16}  # few updates: quick
CASES = [
    ("PPO", "cartpole", {"n_steps": 64, "n_epochs": 2}),
    ("A2C", "cartpole", {"n_steps": 16}),
    ("DQN", "cartpole", {**SMALL, "target_update_interval": 300}),
    ("PPO", "pendulum", {"n_steps": 64, "n_epochs": 2}),
    ("A2C", "pendulum", {"n_steps": 16}),
    ("SAC", "pendulum", SMALL),
    ("TD3", "pendulum", {**SMALL, "action_noise": 0.1}),
]


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny networks; more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sim(name, seed=1, **kwargs):
    return TorchEnv(envs.make_vec(name, N, seed=seed, **kwargs))


def agent(algo, env, given=None, seed=3, **config):
    return SB3(env, SB3Config(algo=algo, hyperparameters=given or {}, hidden=[16, 16], **config), seed)


def adapter(env):
    rule = "categorical" if env.action_spec.n else "gaussian"
    return Worlds(env, Policy(PolicySpec(env.obs_spec, env.action_spec, rule)))


def observations(env, n=64):
    """Random observations [n, *O] of the env's kind."""
    obs = (
        torch.randint(0, 2, (n, *env.obs.shape[1:]))
        if env.obs.dtype != torch.float32
        else torch.randn(n, *env.obs.shape[1:])
    )
    return obs.to(env.obs.dtype)


# -- the adapter ---------------------------------------------------------------------------------------------------------


def test_the_adapter_steps_as_sb3s_own_vec_env_does():
    limit = {"max_episode_steps": 12}  # with random actions, some episodes end before it and some at it
    ours = envs.gym.make("CartPole-v1", N, kwargs=limit, seed=7)
    theirs = DummyVecEnv([lambda: gymnasium.make("CartPole-v1", **limit)] * N)
    theirs.seed(ours.seed)
    worlds = adapter(TorchEnv(ours))
    np.testing.assert_array_equal(worlds.reset(), theirs.reset())

    actions = np.random.default_rng(0).integers(0, 2, (200, N))
    seen = {True: 0, False: 0}
    for action in actions:
        (obs, reward, done, infos), expected = worlds.step(action), theirs.step(action)
        for mine, their in zip((obs, reward, done), expected[:3], strict=True):
            np.testing.assert_array_equal(mine, their)
            assert mine.dtype == their.dtype
        for info, other, has_ended in zip(infos, expected[3], done, strict=True):
            assert ("terminal_observation" in info) == has_ended
            if has_ended:
                np.testing.assert_array_equal(info["terminal_observation"], other["terminal_observation"])
                assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
                assert info["episode"]["r"] == info["episode"]["l"] <= 12
                seen[info["TimeLimit.truncated"]] += 1
    assert min(seen.values()) >= 10


def test_an_episode_that_falls_at_the_step_limit_is_terminated_not_truncated():
    worlds = adapter(sim("cartpole", max_episode_steps=2))
    first = worlds.reset()
    worlds.step(np.zeros(N, np.int64))
    worlds.env.env.state["theta"][1] = 0.5  # beyond 0.2095
    obs, reward, done, infos = worlds.step(np.zeros(N, np.int64))
    assert done.all()
    assert reward.tolist() == [1.0] * N
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False, True, True]
    assert [info["episode"] for info in infos] == [{"r": 2.0, "l": 2}] * N
    assert infos[1]["terminal_observation"][2] > 0.4
    assert np.abs(obs).max() < 0.05  # already of the next episodes
    assert not np.array_equal(obs, first)


def test_what_the_adapter_returned_is_not_overwritten_by_the_next_step():
    worlds = adapter(sim("cartpole"))
    kept = worlds.reset(), *worlds.step(np.ones(N, np.int64))[:3]
    copies = [array.copy() for array in kept]
    worlds.step(np.ones(N, np.int64))
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_a_box_action_of_one_is_the_envs_upper_bound():
    worlds = adapter(sim("pendulum"))
    assert worlds.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    worlds.reset()
    worlds.step(np.full((N, 1), 1.0, np.float32))
    assert worlds.env.env.state["torque"].tolist() == [2.0] * N


@pytest.mark.parametrize(
    ("algo", "given"),
    [
        ("PPO", {"n_steps": 64, "n_epochs": 2, "batch_size": 64}),
        ("A2C", {"n_steps": 16}),
        ("DQN", {**SMALL, "exploration_initial_eps": 0.2, "exploration_final_eps": 0.2, "target_update_interval": 100}),
    ],
)
def test_training_through_the_adapter_is_sb3s_own_to_the_bit(algo, given):
    ours = envs.gym.make("CartPole-v1", N, seed=7)
    learner = agent(algo, TorchEnv(ours), given, seed=5)
    while learner.steps < 2 * STEPS:
        learner.iterate(0.0)

    theirs = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * N)
    networks = {"net_arch": [16, 16], "activation_fn": nn.Tanh}
    model = getattr(stable_baselines3, algo)("MlpPolicy", theirs, seed=5, policy_kwargs=networks, device="cpu", **given)
    theirs.seed(ours.seed)
    model.learn(2 * STEPS)

    assert learner.steps == model.num_timesteps
    mine = learner.model.policy.state_dict()
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(mine[name], tensor), name


# -- the policy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algo", "name", "given"), CASES)
def test_our_policy_acts_as_sb3s_and_needs_no_sb3(algo, name, given):
    env = sim(name)
    learner = agent(algo, env, given, normalize_observations=True)
    obs = 3.0 * observations(env)
    before = learner.policy.act(obs)
    learner.iterate(0.0)
    metrics = learner.iterate(0.5)
    assert learner.steps >= 2 * STEPS
    assert any(tag.startswith("train/") for tag in metrics)
    assert all(type(value) in (int, float) for value in metrics.values())

    ours = learner.policy.act(obs)
    theirs, _ = learner.model.predict(obs.numpy(), deterministic=True)
    torch.testing.assert_close(ours, learner.policy.to_env(torch.as_tensor(theirs)), rtol=0, atol=1e-6)
    assert not torch.equal(ours, before)  # it has learnt something
    torch.testing.assert_close(build_policy(learner.policy.state()).act(obs), ours, rtol=0, atol=0)


@pytest.mark.parametrize(("algo", "name", "given"), [CASES[1], CASES[2], CASES[5]])
def test_all_of_sb3s_networks_normalise_by_the_statistics_of_every_observation_so_far(algo, name, given):
    learner = agent(algo, sim(name), given, normalize_observations=True)
    learner.iterate(0.0)
    norms = [part.norm for part in learner.policy.encoder.parts]
    assert [norm.count.item() for norm in norms] == [learner.steps]
    encoders = [module for module in learner.model.policy.modules() if isinstance(module, Encoder)]
    assert all(encoder.parts[0].norm is norms[0] for encoder in encoders)
    if algo == "DQN":
        buffer = learner.model.replay_buffer
        np.testing.assert_allclose(norms[0].mean, buffer.observations[: buffer.pos].mean((0, 1)), atol=1e-5)


class Camera(gymnasium.Env):
    """A picture, a direction and a speed; the action is the reward."""

    observation_space = gymnasium.spaces.Dict(
        {
            "picture": gymnasium.spaces.Box(0, 255, (8, 9, 3), np.uint8),
            "direction": gymnasium.spaces.Discrete(4),
            "speed": gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32),
        }
    )

    def __init__(self, discrete=True):
        self.action_space = (
            gymnasium.spaces.Discrete(3) if discrete else gymnasium.spaces.Box(-3.0, 1.0, (2, 1), np.float32)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(1000)))
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}


gymnasium.register("Camera-v0", Camera, max_episode_steps=10)


@pytest.mark.parametrize("algo", ["PPO", "DQN", "TD3"])
def test_any_packed_observation_reaches_any_algorithm(algo):
    env = TorchEnv(envs.gym.make("Camera-v0", N, kwargs={"discrete": algo == "DQN"}))
    given = {"n_steps": 128, "n_epochs": 1} if algo == "PPO" else {**SMALL, "buffer_size": 200, "train_freq": 64}
    learner = agent(algo, env, given, normalize_observations=True)
    learner.iterate(0.0)
    obs = observations(env)
    theirs, _ = learner.model.predict(obs.flatten(1).numpy(), deterministic=True)
    theirs = learner.policy.to_env(torch.as_tensor(theirs))
    torch.testing.assert_close(learner.policy.act(obs), theirs, rtol=0, atol=1e-6)


def test_pictures_stay_bytes():
    picture = gymnasium.spaces.Box(0, 255, (8, 9, 3), np.uint8)
    made = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.wrappers.TransformObservation(Camera(), lambda obs: obs["picture"], picture)] * N,
        autoreset_mode="SameStep",
    )
    learner = agent("DQN", TorchEnv(envs.gym.GymVectorEnv(made)), {**SMALL, "buffer_size": 200})
    learner.iterate(0.0)
    assert learner.model.replay_buffer.observations.dtype == np.uint8
    assert learner.model.replay_buffer.observations.shape == (50, N, 8 * 9 * 3)


# -- learning ------------------------------------------------------------------------------------------------------------


def test_ppo_learns_to_balance():
    given = {"n_steps": 128, "batch_size": 256, "n_epochs": 8, "learning_rate": 2e-3, "gae_lambda": 0.9}
    env = TorchEnv(envs.make_vec("cartpole", 8, seed=1))
    learner = agent("PPO", env, given)
    while learner.steps < 50_000:
        metrics = learner.iterate(learner.steps / 50_000)
        if env.metrics().get("rollout/ep_rew_mean", 0.0) > 150:
            return
    raise AssertionError(metrics)


def test_progress_drives_the_schedules():
    # DQN explores at random at first and 5 % of the time from 10 % of the run on; half-way there, (1 + 0.05) / 2.
    learner = agent("DQN", sim("cartpole"), {**SMALL, "learning_rate": "lin_1e-3"})
    rates = [learner.iterate(progress) for progress in (0.0, 0.05, 0.25)]
    assert [rate["rollout/exploration_rate"] for rate in rates] == pytest.approx([1.0, 0.525, 0.05])
    assert [rate["train/learning_rate"] for rate in rates] == pytest.approx([1e-3, 0.95e-3, 0.75e-3])


def test_the_same_seed_learns_the_same_and_global_random_streams_are_left_alone(capfd):
    def weights(seed):
        learner = agent("DQN", sim("cartpole"), SMALL, seed=seed)
        learner.iterate(0.1)
        return learner.policy.head.weight.detach().clone()

    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(3).tolist(), np.random.rand(3).tolist()
    torch.manual_seed(0)
    np.random.seed(0)
    first = weights(1)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == expected
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)
    assert capfd.readouterr() == ("", "")


def test_a_policy_that_turns_to_nan_is_told_as_such():
    broken = agent("PPO", sim("cartpole"), {"n_steps": 64})
    with torch.no_grad():
        next(broken.policy.head.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the policy is not finite after"):
        broken.iterate(0.0)


# -- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algo", "name", "given", "message"),
    [
        (
            "PPO",
            "cartpole",
            {"learning_rat": 1e-3},
            r"'agent\.hyperparameters\.learning_rat'.*hyperparameters\.learning_rate'",
        ),
        ("PPO", "cartpole", {"buffer_size": 10}, r"there is no key 'agent\.hyperparameters\.buffer_size'"),
        ("DQN", "cartpole", {"seed": 1}, r"there is no key 'agent\.hyperparameters\.seed'"),
        ("PPO", "cartpole", {"n_steps": 2.5}, r"n_steps=2\.5 is not what SB3's PPO takes: int"),
        ("PPO", "cartpole", {"gamma": "high"}, r"gamma='high' .* takes: float"),
        ("PPO", "cartpole", {"learning_rate": "lin_fast"}, r"learning_rate='lin_fast' .* float or lin_<number>"),
        ("PPO", "cartpole", {"normalize_advantage": 1}, r"normalize_advantage=1 .* bool"),
        ("PPO", "cartpole", {"batch_size": 1}, r"SB3's PPO refuses them: `batch_size` must be greater than 1"),
        ("PPO", "cartpole", {"gamma": 7}, r"gamma=7\.0 is out of range: it must be between 0 and 1"),
        ("DQN", "cartpole", {"batch_size": -3}, r"batch_size=-3 is out of range: it must be at least 1"),
        ("PPO", "cartpole", {"learning_rate": -1.0}, r"SB3's PPO refuses them: Invalid learning rate"),
        ("PPO", "cartpole", {"policy_kwargs": {"net_arch": [8]}}, r"policy_kwargs\.net_arch is for agent\.hidden"),
        ("PPO", "cartpole", {"policy_kwargs": {"orto_init": True}}, r"refuses them: .*orto_init"),
        ("DQN", "cartpole", {"train_freq": [1, "episode"]}, r"train_freq: .* only with num_envs=1"),
        ("DQN", "cartpole", {"train_freq": [1, "year"]}, r"refuses them: .*'year'"),
        ("DQN", "pendulum", {}, r"DQN needs discrete actions"),
        ("SAC", "cartpole", {}, r"SAC needs continuous actions"),
        ("TD3", "cartpole", {}, r"TD3 needs continuous actions"),
    ],
)
def test_what_sb3_cannot_take_is_said_at_once(algo, name, given, message):
    with pytest.raises(ConfigError, match=message):
        agent(algo, sim(name), given)


def test_unbounded_actions_and_resetting_steps_are_refused():
    unbounded = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    made = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.wrappers.TransformAction(gymnasium.make("Pendulum-v1"), lambda a: a, unbounded)],
        autoreset_mode="SameStep",
    )
    with pytest.raises(ConfigError, match="needs bounded actions"):
        agent("PPO", TorchEnv(envs.gym.GymVectorEnv(made)))
    made = gymnasium.make_vec("CartPole-v1", N, vectorization_mode="sync")  # NEXT_STEP is Gymnasium's default
    with pytest.raises(ConfigError, match="vectorization=sync"):
        agent("PPO", TorchEnv(envs.gym.GymVectorEnv(made)))


def test_plain_data_stands_for_sb3s_objects():
    env = TorchEnv(envs.make_vec("pendulum", 1, seed=1))
    learner = agent("TD3", env, {"action_noise": 0.3, "train_freq": [1, "episode"], "buffer_size": 1e3, "gamma": 1})
    np.random.seed(0)
    assert learner.model.action_noise() == pytest.approx(0.3 * np.random.RandomState(0).normal(size=1))
    assert learner.model.train_freq.frequency == 1
    assert learner.model.train_freq.unit.value == "episode"
    assert learner.model.replay_buffer.buffer_size == 1000
    learner = agent("PPO", env, {"policy_kwargs": {"log_std_init": -1.0}, "clip_range": "lin_0.4", "target_kl": None})
    assert learner.policy.head.log_std.tolist() == [-1.0]
    assert learner.model.clip_range(0.25) == pytest.approx(0.1)
    agent("PPO", env, {"policy_kwargs": None})


# -- resuming ------------------------------------------------------------------------------------------------------------


def everything(tree, path=""):
    """The leaves of a state by path."""
    if not isinstance(tree, dict):
        return {path: tree.tolist() if hasattr(tree, "tolist") else tree}
    return {name: leaf for key, child in tree.items() for name, leaf in everything(child, f"{path}/{key}").items()}


@pytest.mark.parametrize(("algo", "name", "given"), CASES)
def test_a_resumed_run_continues_to_the_bit(tmp_path, algo, name, given):
    given = {**given, **({"buffer_size": 600} if "train_freq" in given else {})}  # the second iteration fills the ring
    whole = agent(algo, sim(name), given, normalize_observations=True)
    whole.iterate(0.0)
    path = checkpoint.save(tmp_path, whole.steps, whole.state())
    expected = whole.iterate(0.3), whole.iterate(0.6)

    resumed = agent(algo, sim(name, seed=8), given, normalize_observations=True, seed=9)
    resumed.load_state(checkpoint.load(path))
    assert (resumed.iterate(0.3), resumed.iterate(0.6)) == expected
    mine, theirs = everything(resumed.state()), everything(whole.state())
    assert mine.keys() == theirs.keys()
    assert [key for key in mine if mine[key] != theirs[key]] == []


def test_on_a_gymnasium_env_the_learner_resumes_and_new_episodes_start():
    given = {"n_steps": 64, "n_epochs": 1}
    first = agent("PPO", TorchEnv(envs.gym.make("CartPole-v1", N)), given)
    first.iterate(0.0)
    second = agent("PPO", TorchEnv(envs.gym.make("CartPole-v1", N)), given, seed=9)
    second.load_state(first.state())
    assert second.steps == first.steps
    np.testing.assert_array_equal(second.model._last_obs, second.env.obs)
    assert second.iterate(0.5)["train/n_updates"] == first.iterate(0.5)["train/n_updates"]


def test_a_replay_buffer_of_another_size_is_refused():
    first = agent("DQN", sim("cartpole"), {**SMALL, "buffer_size": 400})
    first.iterate(0.0)
    second = agent("DQN", sim("cartpole"), {**SMALL, "buffer_size": 800})
    with pytest.raises(ValueError, match="the checkpoint's has 100 rows, this one 200"):
        second.load_state(first.state())
