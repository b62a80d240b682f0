"""stable-baselines3's own algorithms (Raffin et al. 2021): PPO, A2C, DQN, SAC and TD3, unchanged, as agents.

SB3 collects and learns; we call its `collect_rollouts` and `train` in turn, as its `learn` does. It sees a `TorchEnv`
as a `VecEnv` of flat observations and actions in [-1, 1], and our `Encoder` as its features extractor. The agent's policy
is made of SB3's own modules: nothing to copy after an update, and nothing of SB3 in what is evaluated or deployed.

N envs, O observation, A action.
"""

import inspect
import numbers
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, get_args, get_origin

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common import env_checker as sb3_env_checker
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlsys.agents import load_optimizer_state, optimizer_state
from rlsys.checkpoint import NonFiniteError
from rlsys.config import ConfigError, SB3Config, range_text, unknown_key
from rlsys.networks import ACTIVATIONS, Encoder, ObsSpec, VectorPart
from rlsys.policy import Policy, PolicySpec
from rlsys.torchenv import Stopwatch, TorchEnv

ALGORITHMS: dict[str, Any] = {"PPO": PPO, "A2C": A2C, "DQN": DQN, "SAC": SAC, "TD3": TD3}
RULES = {"DQN": "q_values", "SAC": "squashed_gaussian", "TD3": "tanh"}
STEPS = 512  # at least so many environment steps an iteration: one PPO rollout, many of DQN's
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "exploration_rate")
BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
PLAIN = {type(None): "null", ActionNoise: "a number", Callable: "lin_<number>"}  # what stands for an object in YAML

RANGES = {  # that SB3 itself does not look at
    **dict.fromkeys(("gamma", "gae_lambda", "tau"), (0, 1)),
    "exploration_fraction": (1e-6, 1),  # it divides by it
    **dict.fromkeys(("batch_size", "n_steps", "n_epochs", "train_freq", "buffer_size", "policy_delay"), (1, np.inf)),
}

# Arguments that are no hyperparameters: said elsewhere in a config, not plain data, or an action rule we do not have.
RESERVED = (
    *("policy", "env", "seed", "device", "verbose", "tensorboard_log", "stats_window_size", "_init_setup_model"),
    *("replay_buffer_class", "rollout_buffer_class", "rollout_buffer_kwargs"),
    *("use_sde", "sde_sample_freq", "use_sde_at_warmup"),
)


class SB3:
    """The agent: `iterate(progress)` makes `policy` better.

    config.hyperparameters: keyword arguments of the algorithm. Some are objects to SB3 and plain data here:
        `learning_rate: lin_3e-4` falls linearly to 0 over the run, and so does `clip_range: lin_0.2`;
        `action_noise: 0.1` is normal noise of that standard deviation; `train_freq: [1, episode]` is a tuple.

    Raises ConfigError for a hyperparameter that SB3 does not know or refuses, and for an env it cannot train on.
    """

    def __init__(self, env: TorchEnv, config: SB3Config, seed: int):
        algorithm = ALGORITHMS[config.algo]
        check_env(env, config.algo)
        # SB3 works with NumPy arrays, wherever its networks are: read the envs on the host.
        self.env = env if env.device.type == "cpu" else TorchEnv(env.env, "cpu")
        spec = PolicySpec(
            obs=env.obs_spec,
            action=env.action_spec,
            rule=RULES.get(config.algo, "categorical" if env.action_spec.n else "gaussian"),
            hidden=config.hidden,
            activation=config.activation,
            normalize=config.normalize_observations,
            encoder=config.encoder,
        )
        with torch.random.fork_rng(devices=[]):
            self.policy = Policy(spec)
        self.worlds = Worlds(self.env, self.policy)
        given = hyperparameters(algorithm, config.hyperparameters, env.action_spec.size)
        networks = {
            "net_arch": config.hidden,
            "activation_fn": ACTIVATIONS[config.activation],
            "features_extractor_class": Features,
            "features_extractor_kwargs": {"spec": spec.obs, "normalize": spec.normalize, "encoder": spec.encoder},
        }
        extra = given.get("policy_kwargs") or {}
        if said := sorted(networks.keys() & extra.keys()):
            raise ConfigError(
                f"agent.hyperparameters.policy_kwargs.{said[0]} is for agent.hidden and its siblings to say."
            )
        given["policy_kwargs"] = networks | extra

        self.device = env.device
        self.learning = Stopwatch()
        self.streams = global_streams(self.device)
        with self.own_streams(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on batch sizes and devices
            torch.manual_seed(seed)
            np.random.seed(seed)
            self.worlds.action_space.seed(seed)
            try:
                self.model = algorithm("MlpPolicy", self.worlds, device=self.device, **given)
            except (AssertionError, ArithmeticError, TypeError, ValueError) as error:
                raise ConfigError(f"agent.hyperparameters: SB3's {config.algo} refuses them: {error}") from error
            if TrainFrequencyUnit.EPISODE in getattr(self.model, "train_freq", ()) and env.num_envs > 1:
                raise ConfigError("agent.hyperparameters.train_freq: SB3 counts in episodes only with num_envs=1.")
            self.model.set_logger(Logger(folder=None, output_formats=[]))
            self.model._update_current_progress_remaining = lambda *_: None  # our run knows its progress, SB3 does not
            _, self.callback = self.model._setup_learn(total_timesteps=1)
        adopt(self.policy, self.model)

    @property
    def steps(self) -> int:
        """Environment steps, all envs together."""
        return self.model.num_timesteps

    # -- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self, progress: float) -> dict[str, Any]:
        """Collect and learn by turns, for at least 512 steps. progress: 0..1 of the whole run; drives the schedules."""
        model, until = self.model, self.steps + STEPS
        model._current_progress_remaining = 1.0 - progress
        model.logger.name_to_value.clear()
        turn = self.on_policy_turn if isinstance(model, OnPolicyAlgorithm) else self.off_policy_turn
        with self.own_streams():
            while self.steps < until:
                try:
                    seen = turn()
                except (ValueError, RuntimeError) as error:  # SB3 stumbles over NaN, somewhere
                    if all(parameter.isfinite().all() for parameter in self.policy.parameters()):
                        raise
                    raise NonFiniteError(f"the policy is not finite after {self.steps} steps: {error!s:.60}") from error
                if self.policy.spec.normalize:
                    self.policy.encoder.update_norm(torch.as_tensor(seen, device=self.device))
        recorded = {tag: np.asarray(value).item() for tag, value in model.logger.name_to_value.items()}
        return recorded

    def on_policy_turn(self) -> NDArray:
        """A rollout and an update; returns the observations of the rollout."""
        model = self.model
        model.collect_rollouts(self.worlds, self.callback, model.rollout_buffer, model.n_steps)
        with self.learning:
            model.train()
        return model.rollout_buffer.observations

    def off_policy_turn(self) -> NDArray:
        """`train_freq` steps and `gradient_steps` updates; returns the observations of the steps."""
        model, buffer = self.model, self.model.replay_buffer
        start = buffer.pos
        rollout = model.collect_rollouts(
            self.worlds, self.callback, model.train_freq, buffer, model.action_noise, model.learning_starts
        )
        if self.steps > model.learning_starts:
            updates = model.gradient_steps if model.gradient_steps >= 0 else rollout.episode_timesteps
            if updates > 0:
                with self.learning:
                    model.train(updates, model.batch_size)
        rows = np.arange(min(rollout.episode_timesteps // self.env.num_envs, buffer.buffer_size))
        return buffer.observations[(start + rows) % buffer.buffer_size]

    @contextmanager
    def own_streams(self) -> Iterator[None]:
        """Lend SB3, which draws from torch's and NumPy's global random streams, this agent's own."""
        theirs = global_streams(self.device)
        set_global_streams(self.streams, self.device)
        try:
            yield
        finally:
            self.streams = global_streams(self.device)
            set_global_streams(theirs, self.device)

    # -- resuming ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the next iteration, replay buffer and random streams included.

        On a sim, resuming continues bit for bit. On a Gymnasium env the learner is as it was, but new episodes start.
        """
        model = self.model
        modules, tensors = model._get_torch_save_params()  # what SB3 itself would save
        return {
            "policy": self.policy.state(),
            "sb3": dict(model.policy.state_dict()),
            "optimizers": {name: optimizer_state(attrgetter(name)(model)) for name in modules if name != "policy"},
            "tensors": {name: getattr(model, name).detach() for name in tensors},
            "counters": {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
            "replay": {} if isinstance(model, OnPolicyAlgorithm) else replay_state(model.replay_buffer),
            "streams": self.streams,
            "action_stream": self.worlds.action_space.np_random.bit_generator.state,
            "env": self.env.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        model = self.model
        self.policy.load_state(state["policy"])
        model.policy.load_state_dict(state["sb3"])
        for name, slots in state["optimizers"].items():
            load_optimizer_state(attrgetter(name)(model), slots)
        for name, tensor in state["tensors"].items():
            getattr(model, name).data.copy_(tensor)
        for name, value in state["counters"].items():
            setattr(model, name, value)
        if state["replay"]:
            load_replay_state(model.replay_buffer, state["replay"])
        self.streams = state["streams"]
        self.worlds.action_space.np_random.bit_generator.state = state["action_stream"]
        self.env.load_state(state["env"])
        model._last_obs = self.worlds.flat(self.env.obs)


# -- what SB3 sees -----------------------------------------------------------------------------------------------------


class Worlds(VecEnv):
    """A TorchEnv as SB3's VecEnv: observations [N, size of O], bounded actions in [-1, 1], all arrays fresh ones.

    Infos have entries only where an episode ended: SB3's `terminal_observation`, `TimeLimit.truncated` and `episode`.
    """

    def __init__(self, env: TorchEnv, policy: Policy):
        self.env, self.policy = env, policy
        self.slot = env.bind(env.empty_steps())
        obs, size = self.flat(env.obs), env.action_spec.size
        low, high = (0, 1) if obs.dtype.kind in "bu" else (-np.inf, np.inf)  # SB3 does not look at them
        super().__init__(
            env.num_envs,
            spaces.Box(low, high, obs.shape[1:], obs.dtype.type),
            spaces.Discrete(size) if env.action_spec.n else spaces.Box(-1.0, 1.0, (size,), np.float32),
        )

    def flat(self, obs: Tensor) -> NDArray:
        """A copy of observations [N, *O] as SB3 takes them."""
        return obs.flatten(1).numpy().copy()

    def reset(self) -> NDArray:
        self.env.reset()
        return self.flat(self.env.obs)

    def step_async(self, actions: NDArray) -> None:
        self.actions = torch.as_tensor(actions, device=self.policy.low.device)

    def step_wait(self) -> tuple[NDArray, NDArray, NDArray, list[dict[str, Any]]]:
        step, arrays, _ = self.slot
        ended = self.env.step(self.policy.to_env(self.actions), self.slot)
        infos: list[dict[str, Any]] = [{}] * self.num_envs
        if ended is not None:
            final_obs = self.flat(step.final_obs)
            for i in np.flatnonzero(ended):
                infos[i] = {
                    "terminal_observation": final_obs[i],
                    "TimeLimit.truncated": bool(arrays.truncated[i] and not arrays.terminated[i]),
                    "episode": {"r": float(arrays.episode_return[i]), "l": int(arrays.episode_length[i])},
                }
        return self.flat(step.obs), arrays.reward.copy(), arrays.terminated | arrays.truncated, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(f"the envs are one batch and have no {attr_name!r} each.")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"the envs are one batch and have no {attr_name!r} each.")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"the envs are one batch and have no {method_name!r} each.")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class Features(BaseFeaturesExtractor):
    """Our Encoder, for SB3's networks: flat observations [B, size of O] -> features [B, F]."""

    def __init__(self, space: spaces.Space, spec: ObsSpec, normalize: bool, encoder: str):
        module = Encoder(spec, normalize, encoder)
        super().__init__(space, module.num_features)
        self.encoder = module

    def forward(self, obs: Tensor) -> Tensor:
        return self.encoder(obs)


def adopt(policy: Policy, model: Any) -> None:
    """Make `policy` of the modules that SB3 trains and acts with, and have all its networks use one normaliser."""
    sb3 = model.policy
    if isinstance(model, DQN):
        features, policy.body, policy.head = sb3.q_net.features_extractor, sb3.q_net.q_net[:-1], sb3.q_net.q_net[-1]
    elif isinstance(model, TD3):  # its last module is the tanh
        features, policy.body, policy.head = sb3.actor.features_extractor, sb3.actor.mu[:-2], sb3.actor.mu[-2]
    elif isinstance(model, SAC):
        features, policy.body = sb3.actor.features_extractor, sb3.actor.latent_pi
        policy.head.mean, policy.head.log_std = sb3.actor.mu, sb3.actor.log_std
    else:
        features, policy.body = sb3.pi_features_extractor, sb3.mlp_extractor.policy_net
        if policy.spec.rule == "categorical":
            policy.head = sb3.action_net
        else:
            policy.head.mean, policy.head.log_std = sb3.action_net, sb3.log_std
    policy.encoder = features.encoder
    policy.to(model.device)

    for other in sb3.modules():
        if isinstance(other, Encoder):
            for part, mine in zip(other.parts, policy.encoder.parts, strict=True):
                if isinstance(part, VectorPart) and isinstance(mine, VectorPart):
                    part.norm = mine.norm


# -- what SB3 accepts --------------------------------------------------------------------------------------------------


def check_single_env(env: gymnasium.Env) -> None:
    """SB3's own checker of an env: raises AssertionError where it is wrong, and warns of what it does not recommend."""
    sb3_env_checker.check_env(env)


def check_env(env: TorchEnv, algo: str) -> None:
    """ConfigError if SB3's `algo` cannot train on `env`."""
    action = env.action_spec
    if algo == "DQN" and not action.n:
        raise ConfigError("agent.algo=DQN needs discrete actions; this env's are continuous. Use PPO, A2C, SAC or TD3.")
    if algo in ("SAC", "TD3") and action.n:
        raise ConfigError(f"agent.algo={algo} needs continuous actions; this env's are discrete. Use PPO, A2C or DQN.")
    if not np.isfinite([*action.low, *action.high]).all():
        raise ConfigError(f"agent.algo={algo}: SB3 needs bounded actions, and this env's are not. Use agent=ppo.")
    if getattr(env.env, "valid", None) is not None:
        raise ConfigError("SB3 cannot skip the resetting steps of a NEXT_STEP env. Use env.vectorization=sync.")


def hyperparameters(algorithm: Any, given: dict[str, Any], action_size: int) -> dict[str, Any]:
    """The keyword arguments for `algorithm` that plain data describes."""
    parameters = inspect.signature(algorithm).parameters
    known = [name for name in parameters if name not in RESERVED]
    prefix, values = "agent.hyperparameters.", {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(unknown_key(prefix + name, [prefix + other for other in known]))
        hint = parameters[name].annotation
        kinds = tuple(get_origin(kind) or kind for kind in get_args(hint) or (hint,))
        value = translate(name, value, kinds, action_size)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(PLAIN.get(kind, kind.__name__) for kind in kinds)
            raise ConfigError(f"{prefix}{name}={given[name]!r} is not what SB3's {algorithm.__name__} takes: {wanted}.")
        low, high = RANGES.get(name, (-np.inf, np.inf))
        if isinstance(value, int | float) and not low <= value <= high:
            raise ConfigError(f"{prefix}{name}={value!r} is out of range: it must be {range_text(low, high)}.")
        values[name] = value
    return values


def translate(name: str, value: Any, kinds: tuple[type, ...], action_size: int) -> Any:
    """What SB3 wants of types `kinds`, from the plain data that stands for it."""
    if name == "action_noise" and isinstance(value, numbers.Real):
        return NormalActionNoise(np.zeros(action_size), np.full(action_size, value))
    if isinstance(value, str) and value.startswith("lin_") and str not in kinds:
        try:
            return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
        except ValueError:
            return value
    if isinstance(value, list) and tuple in kinds:
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and int not in kinds and float in kinds:
        return float(value)
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        return int(value)  # 1e6
    return value


# -- state as plain data -----------------------------------------------------------------------------------------------


def global_streams(device: torch.device) -> dict[str, Any]:
    """The state of torch's and NumPy's global random streams."""
    _, key, pos, has_gauss, gauss = np.random.get_state()
    streams = {"torch": torch.get_rng_state(), "key": key, "pos": pos, "has_gauss": has_gauss, "gauss": gauss}
    return streams | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_global_streams(streams: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(streams["torch"].cpu())
    np.random.set_state(("MT19937", streams["key"], streams["pos"], streams["has_gauss"], streams["gauss"]))
    if device.type == "cuda" and "cuda" in streams:
        torch.cuda.set_rng_state(streams["cuda"].cpu(), device)


def replay_state(buffer: ReplayBuffer) -> dict[str, Any]:
    """The filled part of the ring, and the row after it, where memory-saving buffers keep the last observation."""
    rows = buffer.buffer_size if buffer.full else buffer.pos + 1
    arrays = {name: getattr(buffer, name)[:rows] for name in BUFFER if hasattr(buffer, name)}
    return {"size": buffer.buffer_size, "pos": buffer.pos, "full": buffer.full, **arrays}


def load_replay_state(buffer: ReplayBuffer, state: dict[str, Any]) -> None:
    """Put the ring back; ValueError if it was of another size."""
    if state["size"] != buffer.buffer_size:
        raise ValueError(f"replay buffer: the checkpoint's has {state['size']} rows, this one {buffer.buffer_size}.")
    for name in BUFFER:
        if hasattr(buffer, name):
            getattr(buffer, name)[: len(state[name])] = state[name]
    buffer.pos, buffer.full = state["pos"], state["full"]
