"""What a run can be told: frozen dataclasses, their ranges, and how plain data becomes one of them.

Hydra composes these from `conf/*.yaml` (compose.py); nothing else in rlsys sees Hydra. Values live in the YAML files' defaults
below and in `conf/`; a run keeps its resolved config in `config.yaml`, from which `load` makes the same `Config` again.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A key or value that a run cannot start with; the message names it and the remedy."""


def ranged(default: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field whose value must lie in [low, high] (None is allowed where it is the default)."""
    return field(default=default, metadata={"range": (low, high)})


def choice(default: str, *others: str) -> Any:
    """A field whose value must be one of these strings."""
    return field(default=default, metadata={"choices": (default, *others)})


def several(default: str, *others: str) -> Any:
    """A field whose value must be a list of some of these strings, each at most once."""
    return field(default_factory=lambda: [default], metadata={"several": (default, *others)})


# What becomes of observations that are pictures. mlp: they are flattened; the others are convolutions, auto by their size.
ENCODERS = ("auto", "mlp", "small", "nature", "impala")


def sizes(*default: int) -> Any:
    """A list of layer sizes."""
    return field(default_factory=lambda: list(default), metadata={"range": (1, 65536)})


# -- environments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimConfig:
    """A simulator from `envs/`."""

    name: str = "cartpole"
    params: dict[str, Any] = field(default_factory=dict)  # number, or [low, high]: drawn once per env
    train_params: dict[str, Any] = field(
        default_factory=dict
    )  # the same, where training's are others than evaluation's
    levels: int = ranged(0, 0, 2**30)  # train on this many levels; 0: all
    max_episode_steps: int | None = ranged(None, 1, 2**31 - 1)  # null: the sim's own limit
    backend: str = choice("auto", "serial", "parallel", "python")
    precision: str = choice("float32", "float64")
    frame_stack: int = ranged(1, 1, 256)  # observe the last so many observations; on the CPU


@dataclass(frozen=True)
class GymnasiumConfig:
    """Any registered Gymnasium environment."""

    name: str = "gymnasium"
    id: str = "CartPole-v1"
    kwargs: dict[str, Any] = field(default_factory=dict)  # for gymnasium.make
    vectorization: str = choice("sync", "async", "native", "envpool")
    frame_stack: int = ranged(1, 1, 256)  # observe the last so many observations


@dataclass(frozen=True)
class AtariConfig:
    """An Atari game, in ale-py's own threads. `life_loss` and `clip_rewards` are for training only: evaluation plays
    whole games for raw scores."""

    name: str = "atari"
    id: str = "ALE/Pong-v5"
    frame_skip: int = ranged(4, 1, 1000)  # frames an action is held for; of the last two the maximum is seen
    frame_stack: int = ranged(4, 1, 256)
    noop_max: int = ranged(30, 0, 10_000)  # idle frames before a game, drawn from 0 to this
    sticky_actions: float = ranged(
        0.25, 0, 1
    )  # probability of a frame to repeat the last action instead; Mnih et al.: 0
    fire_on_reset: bool = True  # press FIRE before the game, where there is such an action
    full_action_space: bool = False  # all 18 actions, not only those that the game knows
    grayscale: bool = True
    screen_size: int = ranged(84, 36, 1024)  # pixels, of a square
    max_frames: int = ranged(108_000, 1, 2**31 - 1)  # then the game is cut: half an hour
    life_loss: bool = True  # a lost life ends the episode, but not the game
    clip_rewards: bool = True  # to [-1, 1]


# -- agents --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation. Names and defaults are SB3's, but for `normalize_*`, the schedules and the network."""

    name: str = "ppo"
    learning_rate: float = ranged(3e-4, 0, 10)
    learning_rate_schedule: str = choice("constant", "linear")  # linear: to 0 at the end of the run
    n_steps: int = ranged(32, 1)  # per env and iteration
    batch_size: int = ranged(256, 1)  # samples a gradient step
    n_epochs: int = ranged(4, 1)
    gamma: float = ranged(0.99, 0, 1)
    gae_lambda: float = ranged(0.95, 0, 1)
    clip_range: float = ranged(0.2, 0)
    clip_range_schedule: str = choice("constant", "linear")
    ent_coef: float = ranged(0.0, 0)
    vf_coef: float = ranged(0.5, 0)
    max_grad_norm: float = ranged(0.5, 0)
    target_kl: float | None = ranged(None, 0)  # stop an iteration's epochs beyond 1.5 times this
    normalize_advantage: bool = True
    normalize_observations: bool = False
    normalize_rewards: bool = False
    hidden: list[int] = sizes(64, 64)
    encoder: str = choice(*ENCODERS)
    activation: str = choice("tanh", "relu", "elu", "gelu", "silu")
    log_std_init: float = 0.0  # Box actions
    deterministic: bool = True  # evaluate, replay, deploy the most likely actions; else drawn, as in training


@dataclass(frozen=True)
class DQNConfig:
    """Deep Q-learning. Names are SB3's; counts are environment steps over all envs together."""

    name: str = "dqn"
    learning_rate: float = ranged(1e-3, 0, 10)
    learning_rate_schedule: str = choice("constant", "linear")
    buffer_size: int = ranged(100_000, 1)
    learning_starts: int = ranged(1_000, 0)
    batch_size: int = ranged(64, 1)
    gamma: float = ranged(0.99, 0, 1)
    train_freq: int = ranged(4, 1)  # environment steps, over all envs, between gradient phases
    gradient_steps: int = ranged(1, 1)
    target_update_interval: int = ranged(500, 1)
    tau: float = ranged(1.0, 0, 1)  # how far each update moves the target network; 1: a copy (small: with interval 1)
    exploration_fraction: float = ranged(0.2, 0, 1)
    exploration_initial_eps: float = ranged(1.0, 0, 1)
    exploration_final_eps: float = ranged(0.05, 0, 1)
    max_grad_norm: float = ranged(10.0, 0)
    double: bool = True
    dueling: bool = False
    n_step: int = ranged(1, 1)
    prioritized_replay: bool = False  # these four: stable-baselines2's
    prioritized_replay_alpha: float = ranged(0.6, 0, 1)  # 0: uniform, 1: in proportion to the error
    prioritized_replay_beta0: float = ranged(0.4, 0, 1)  # how much of the bias is undone; 1 at the end of the run
    prioritized_replay_eps: float = ranged(1e-6, 1e-12)  # added to each error: none is forgotten
    normalize_observations: bool = False
    hidden: list[int] = sizes(64, 64)
    encoder: str = choice(*ENCODERS)
    activation: str = choice("relu", "tanh", "elu", "gelu", "silu")


@dataclass(frozen=True)
class PQNConfig:
    """Parallelised Q-learning. Names are SB3's; rates, q_lambda and exploration are by default the authors' for MinAtar."""

    name: str = "pqn"
    learning_rate: float = ranged(5e-4, 0, 10)
    learning_rate_schedule: str = choice("constant", "linear")
    n_steps: int = ranged(32, 1)  # per env and iteration
    batch_size: int = ranged(256, 1)  # samples a gradient step
    n_epochs: int = ranged(2, 1)
    gamma: float = ranged(0.99, 0, 1)
    q_lambda: float = ranged(0.65, 0, 1)  # 0: one-step targets, 1: returns as long as the rollout
    exploration_fraction: float = ranged(0.1, 0, 1)
    exploration_initial_eps: float = ranged(1.0, 0, 1)
    exploration_final_eps: float = ranged(0.05, 0, 1)
    max_grad_norm: float = ranged(10.0, 0)
    normalize_observations: bool = False
    hidden: list[int] = sizes(128, 128)
    encoder: str = choice(*ENCODERS)
    activation: str = choice("relu", "tanh", "elu", "gelu", "silu")
    layer_norm: bool = True  # what stands in for a target network


@dataclass(frozen=True)
class SB3Config:
    """stable-baselines3's own algorithms, behind the same commands."""

    name: str = "sb3"
    algo: str = choice("PPO", "DQN", "A2C", "SAC", "TD3")
    hyperparameters: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the algorithm
    hidden: list[int] = sizes(64, 64)
    encoder: str = choice(*ENCODERS)
    activation: str = choice("tanh", "relu", "elu", "gelu", "silu")
    normalize_observations: bool = False


# Keys of an agent that shape its networks or its memory, and so cannot change while it is trained.
BUILT_IN = frozenset({
    "name", "algo", "hidden", "encoder", "activation", "layer_norm", "dueling", "normalize_observations", "log_std_init",
    "buffer_size", "n_step", "prioritized_replay",
})  # fmt: skip

# -- the whole -----------------------------------------------------------------------------------------------------------

ENVS: dict[str, type] = {"gymnasium": GymnasiumConfig, "atari": AtariConfig}  # any other name is a sim
AGENTS: dict[str, type] = {"ppo": PPOConfig, "dqn": DQNConfig, "pqn": PQNConfig, "sb3": SB3Config}


@dataclass(frozen=True)
class Config:
    """One run. Every `*_every` is in environment steps (over all envs); 0 is only at the end, where nothing else is said."""

    env: Any = field(default_factory=SimConfig)  # SimConfig | GymnasiumConfig | AtariConfig
    agent: Any = field(default_factory=PPOConfig)  # PPOConfig | DQNConfig | PQNConfig | SB3Config
    seed: int = ranged(0, 0, 2**31 - 1)
    num_envs: int = ranged(64, 1, 2**20)  # copies of the environment, side by side
    total_timesteps: int = ranged(500_000, 1, 10**11)
    stop_when_solved: bool = False  # end at the first evaluation that reaches the env's reward threshold
    device: str = choice("auto", "cpu", "cuda")
    distributed: str = choice(
        "none", "ddp"
    )  # ddp: by the processes that torchrun starts; num_envs and batch_size are of all
    distributed_timeout: float = ranged(1800.0, 1, 10**6)  # seconds that they wait for each other, evaluation included
    # native: compiled, for small networks on the CPU (agent=ppo, agent=dqn); graph: CUDA graphs, on a GPU; compile:
    # torch.compile of the loss
    engine: str = choice("auto", "native", "torch", "compile", "graph")
    # how networks multiply: tf32 and bfloat16 round the factors to 11 and 8 significant bits; weights stay float32
    matmul_precision: str = choice("float32", "tf32", "bfloat16")
    threads: int | None = ranged(None, 1, 1024)  # that learn, on the CPU; null: by the size of the work
    run_dir: str = "runs"  # where the run gets its folder
    resume: str | None = None
    init: str | None = None  # start from this run, or from one of its checkpoints: weights, optimiser, envs, step count
    stop_at: int | None = ranged(None, 1, 10**11)  # end at this step; total_timesteps still is what schedules reach to
    schedule: list[dict[str, Any]] = field(default_factory=list)  # [{from_step: 50000, agent.learning_rate: 1e-4}, ...]
    log_every: int = ranged(0, 0)  # 0: by the clock, each 300th of the time so far; 1: each iteration
    eval_every: int = ranged(50_000, 0)  # 0: only at the end
    eval_episodes: int = ranged(20, 1, 10**6)  # at each evaluation during training
    test_episodes: int = ranged(100, 1, 10**6)  # at the end, on seeds and levels used for nothing else
    save_every: int = ranged(100_000, 0)  # 0: only the best and the last
    keep_checkpoints: int = ranged(2, 1)  # the newest, and the best besides
    replay_every: int = ranged(0, 0)  # 0: none but the last; TensorBoard shows them too
    histograms_every: int = ranged(0, 0)  # of weights and actions, in TensorBoard; 0: never
    replay: bool = True  # leave a replay of the trained policy in the run folder

    @property
    def end(self) -> int:
        """The step at which the run ends."""
        return self.stop_at or self.total_timesteps


@dataclass(frozen=True)
class SweepConfig:
    """How `rlsys sweep` searches. What it searches is typed as values to choose from: agent.gamma=choice(0.98,0.99)."""

    # search: trials apart from each other; pbt: population-based training, whose members copy the best (see below)
    mode: str = choice("search", "pbt")
    trials: int = ranged(50, 1, 10**6)  # sets of values that are tried; sampler=grid: at most as many as the grid has
    seeds: int = ranged(3, 1, 1000)  # runs of a trial, with seeds from `seed` on; seed=1,2,3 names them instead
    objective: list[str] = several("score", "seconds", "steps", "joules")  # several make a Pareto front
    sampler: str = choice("tpe", "random", "grid", "cmaes", "gp")
    sampler_seed: int = ranged(0, 0, 2**31 - 1)
    random_trials: int = ranged(10, 0)  # the first ones, from which tpe, cmaes and gp learn
    pruner: str = choice("auto", "none", "median", "asha", "hyperband", "wilcoxon")  # auto: median if it can be
    pruner_trials: int = ranged(5, 0)  # pruner=median: finished ones, before it stops any
    pruner_seeds: int = ranged(1, 1, 1000)  # the first ones, whose mean it looks at; the others wait for their end
    pruner_warmup: int = ranged(1, 1)  # evaluations of a run before it may be stopped
    population: int = ranged(8, 2, 10_000)  # mode=pbt: members, with seeds from `seed` on
    interval: int | None = ranged(None, 1, 10**11)  # mode=pbt: steps between two comparisons; null: a tenth of the run
    quantile: float = ranged(0.2, 0, 0.5)  # mode=pbt: the share of the worst that copy one of as many best
    resample: float = ranged(0.25, 0, 1)  # mode=pbt: probability that a copied value is drawn anew, not moved
    retries: int = ranged(0, 0, 100)  # of a run that failed
    workers: int | None = ranged(None, 1, 4096)  # runs side by side on this machine; null: one a core, or as GPUs allow
    gpus_per_worker: int = ranged(0, 0, 64)  # 0: none is seen
    jobs_per_gpu: int = ranged(1, 1, 64)  # workers that share a GPU
    memory: float | None = ranged(None, 0.1, 10**6)  # GiB of data that a run may have; null: no limit
    dir: str | None = None  # the sweep's folder; null: a new one in sweeps/
    storage: str | None = None  # postgresql://... for many machines; null: a journal in the folder
    patience: float = ranged(60.0, 1, 86400)  # seconds after which a machine that is not heard of counts as dead


def resolve(data: dict[str, Any]) -> Config:
    """The Config that plain nested data describes; ConfigError names the first key or value that is wrong."""
    data = dict(data)
    env, agent = _mapping("env", data.get("env", {})), _mapping("agent", data.get("agent", {}))
    data["env"] = build(ENVS.get(env.get("name", ""), SimConfig), env, "env")
    data["agent"] = build(AGENTS[_known("agent.name", agent.get("name", "ppo"), AGENTS)], agent, "agent")
    config = build(Config, data, "")
    if config.end > config.total_timesteps:
        raise ConfigError(f"stop_at={config.stop_at} is beyond total_timesteps={config.total_timesteps}: raise that.")
    for _, part in phases(config):
        _check_together(part)
    return config


# -- changes in mid-run --------------------------------------------------------------------------------------------------


def may_change(key: str) -> bool:
    """Whether a key, as it is typed, may have another value once training has begun."""
    group, _, name = key.partition(".")
    return group == "agent" and bool(name) and name.partition(".")[0] not in BUILT_IN


def phases(config: Config) -> list[tuple[int, Config]]:
    """The run, cut where `schedule` changes it: (the step a part ends at, its Config without a schedule), in order.

    A part's hyperparameters hold in all iterations that begin before its end. ConfigError for a schedule that cannot be.
    """
    parts, begun = [(config.end, dataclasses.replace(config, schedule=[]))], 0
    for i, entry in enumerate(config.schedule):
        where, changes = f"schedule[{i}]", flat(entry)
        step = changes.pop("from_step", None)
        if isinstance(step, float) and step.is_integer():
            step = int(step)  # 1e6
        if type(step) is not int or not begun < step < config.total_timesteps:
            raise ConfigError(
                f"{where}.from_step={step!r} must be an integer above {begun} and below total_timesteps="
                f"{config.total_timesteps}: entries are in order."
            )
        for key in changes:
            if not may_change(key):
                raise ConfigError(
                    f"{where}: {key} cannot change while a run trains; only keys of the agent can, but for "
                    f"{', '.join(sorted(BUILT_IN))}."
                )
        _, last = parts[-1]
        data = _overlaid({"agent": to_data(last)["agent"]}, changes)["agent"]
        try:
            agent = build(type(last.agent), data, "agent")
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        parts[-1] = min(step, config.end), last
        parts.append((config.end, dataclasses.replace(last, agent=agent)))
        begun = step
    return parts


def descend(path: Path, step: int, overrides: dict[str, Any]) -> Config:
    """The Config of a new run that starts from a checkpoint at `step` of the run with the config.yaml `path`.

    It is that run's, as it was at that step, with `overrides` (dotted keys) on top. What the checkpoint holds cannot be
    another: ConfigError names a key of env, the seed, num_envs, or one that shapes the networks.
    """
    parent = load(path)
    parts = phases(dataclasses.replace(parent, stop_at=None))
    part = next((part for until, part in parts if step < until), parts[-1][1])
    later = [entry for entry in parent.schedule if entry["from_step"] > step]
    new = {"schedule": later, "stop_at": None, "init": None, "resume": None, "run_dir": Config.run_dir}
    data = {**to_data(part), **new}
    _refuse_to_change(data, overrides, "starts from another keeps that one's")
    return resolve(_overlaid(data, overrides))


def go_on(path: Path, overrides: dict[str, Any]) -> Config:
    """The Config of the run with the config.yaml `path` when it is resumed, with `overrides` (dotted keys) on top.

    What its checkpoints hold cannot be another, as in `descend`.
    """
    data = to_data(load(path))
    _refuse_to_change(data, overrides, "goes on keeps its")
    return resolve(_overlaid(data, overrides))


def _refuse_to_change(data: dict[str, Any], overrides: dict[str, Any], keeps: str) -> None:
    """ConfigError for an override of what a checkpoint of a run with this data holds."""
    known = flat(data)
    for key, value in overrides.items():
        is_kept = key in ("seed", "num_envs") or key.startswith("env.") or (key[:6] == "agent." and not may_change(key))
        if is_kept and (key not in known or known[key] != value):
            was = f" ({known[key]})" if key in known else ""
            raise ConfigError(f"{key}={value}: a run that {keeps} {key}{was}: leave it out.")


def _overlaid(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested data with changes by dotted keys; `data` itself is changed."""
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else {}
        node[last] = value
    return data


# -- from plain data -----------------------------------------------------------------------------------------------------


def build(schema: type, data: dict[str, Any], path: str) -> Any:
    """An instance of the dataclass `schema` from `data`, every key, type and range checked."""
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key in data:
        if key not in fields:
            raise ConfigError(unknown_key(_join(path, key), [_join(path, name) for name in fields]))
    values = {}
    for key, value in data.items():
        values[key] = _checked(_join(path, key), value, fields[key])
    return schema(**values)


def _checked(key: str, value: Any, spec: dataclasses.Field) -> Any:
    """`value` if it fits the field `spec`, else ConfigError. Types are told by the annotation."""
    kind = str(spec.type)
    if value is None:
        if "None" not in kind:
            raise ConfigError(f"{key} needs a value.")
        return None
    if "choices" in spec.metadata:
        return _known(key, value, spec.metadata["choices"])
    if "several" in spec.metadata:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or len({str(name) for name in names}) < len(names):
            raise ConfigError(
                f"{key}={value!r} must be a list of different names, such as [{','.join(spec.metadata['several'][:2])}]."
            )
        return [_known(key, name, spec.metadata["several"]) for name in names]
    if kind.startswith("dict"):
        return _mapping(key, value)
    if kind.startswith("list[dict"):
        if not isinstance(value, list):
            raise ConfigError(f"{key}={value!r} must be a list of mappings, such as [{{from_step: 50000, ...}}].")
        return [_mapping(f"{key}[{i}]", entry) for i, entry in enumerate(value)]
    if kind.startswith("list"):
        if not isinstance(value, list):
            raise ConfigError(f"{key}={value!r} must be a list, such as [64,64].")
        for number in value:
            _check_number(key, value, number, True, spec.metadata["range"])
    elif "int" in kind or "float" in kind:
        if "int" in kind and isinstance(value, float) and value.is_integer():
            value = int(value)  # total_timesteps=1e6
        _check_number(key, value, value, "int" in kind, spec.metadata.get("range", (-math.inf, math.inf)))
    elif "bool" in kind and not isinstance(value, bool):
        raise ConfigError(f"{key}={value!r} must be true or false.")
    elif "str" in kind and not (isinstance(value, str) and value):
        raise ConfigError(f"{key}={value!r} must be a string, and not an empty one.")
    return value


def _check_number(key: str, value: Any, number: Any, is_int: bool, allowed: tuple[float, float]) -> None:
    if isinstance(number, bool) or not isinstance(number, int if is_int else int | float):
        raise ConfigError(f"{key}={value!r} must be {'an integer' if is_int else 'a number'}.")
    low, high = allowed
    if not low <= number <= high:  # also false for nan
        raise ConfigError(f"{key}={value!r} is out of range: it must be {range_text(low, high)}.")


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{key}={value!r} must be a mapping of names to values.")
    return value


def resolve_sweep(data: dict[str, Any]) -> SweepConfig:
    """The SweepConfig that plain data describes; ConfigError names the first key or value that is wrong."""
    sweep: SweepConfig = build(SweepConfig, data, "sweep")
    if sweep.jobs_per_gpu > 1 and sweep.gpus_per_worker != 1:
        raise ConfigError(
            f"sweep.jobs_per_gpu={sweep.jobs_per_gpu} needs sweep.gpus_per_worker=1, not {sweep.gpus_per_worker}."
        )
    if len(sweep.objective) > 1:
        if sweep.pruner not in ("auto", "none"):
            raise ConfigError(f"sweep.pruner={sweep.pruner} cannot be with several objectives. Use sweep.pruner=none.")
        if sweep.sampler == "cmaes":
            raise ConfigError("sweep.sampler=cmaes cannot be with several objectives. Use sweep.sampler=tpe or gp.")
    if sweep.pruner not in ("auto", "none") and sweep.objective != ["score"]:
        raise ConfigError(
            f"sweep.pruner={sweep.pruner} looks at scores, not at {sweep.objective[0]}. Use sweep.pruner=none."
        )
    return sweep


def _check_together(config: Config) -> None:
    """What only several keys together can get wrong."""
    agent = config.agent
    if agent.name in ("ppo", "pqn") and agent.batch_size > config.num_envs * agent.n_steps:
        raise ConfigError(
            f"agent.batch_size={agent.batch_size} is more than a rollout holds: num_envs={config.num_envs} x "
            f"agent.n_steps={agent.n_steps} = {config.num_envs * agent.n_steps}. Raise n_steps or num_envs, or lower batch_size."
        )
    if config.distributed == "ddp":
        if agent.name not in ("ppo", "pqn"):
            raise ConfigError(f"distributed=ddp cannot be with agent={agent.name}. Use agent=ppo or agent=pqn.")
        if config.engine not in ("auto", "torch"):
            raise ConfigError(
                f"distributed=ddp cannot be with engine={config.engine}, which keeps its gradients to itself. Use engine=torch."
            )
    if config.matmul_precision != "float32" and (agent.name == "sb3" or config.engine == "native"):
        whose = "agent=sb3" if agent.name == "sb3" else "engine=native"
        raise ConfigError(f"matmul_precision={config.matmul_precision} cannot be with {whose}. Use float32.")
    if agent.name == "dqn" and agent.buffer_size < config.num_envs * (agent.n_step + 1):
        raise ConfigError(
            f"agent.buffer_size={agent.buffer_size} is too small for num_envs={config.num_envs} and "
            f"agent.n_step={agent.n_step}: at least {config.num_envs * (agent.n_step + 1)}."
        )
    if agent.name in ("dqn", "pqn") and agent.exploration_final_eps > agent.exploration_initial_eps:
        raise ConfigError("agent.exploration_final_eps must not be above agent.exploration_initial_eps.")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def range_text(low: float, high: float) -> str:
    return f"at least {low:g}" if high == math.inf else f"between {low:.12g} and {high:.12g}"


def _known(key: str, value: Any, allowed: Any) -> Any:
    if value not in allowed:
        near = get_close_matches(str(value), [str(a) for a in allowed], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{key}={value!r} is not one of {', '.join(map(str, allowed))}.{hint}")
    return value


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
    return f"there is no key {key!r}. {hint}"


def to_data(config: Any) -> dict[str, Any]:
    """A Config as plain nested data."""
    return dataclasses.asdict(config)


def flat(data: dict[str, Any], path: str = "", *, keep_empty: bool = False) -> dict[str, Any]:
    """Nested data by dotted keys, as they are typed: {"agent": {"gamma": 0.9}} is {"agent.gamma": 0.9}.

    keep_empty: an empty mapping counts as a value, instead of as none.
    """
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        inner = _join(path, str(key))
        is_inner = isinstance(value, dict) and (value or not keep_empty)
        leaves |= flat(value, inner, keep_empty=keep_empty) if is_inner else {inner: value}
    return leaves


def to_yaml(config: Config) -> str:
    """The text of a run's config.yaml."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(to_data(config)))


def to_recipe(data: dict[str, Any], title: str) -> str:
    """An experiment's YAML file, which makes a run with this data."""
    from omegaconf import OmegaConf

    choices = "".join(f"  - override /{group}: {data[group]['name']}\n" for group in ("env", "agent"))
    return f"# @package _global_\n# {title}\ndefaults:\n{choices}{OmegaConf.to_yaml(OmegaConf.create(data)).rstrip()}"


def load(path: Path) -> Config:
    """The Config in a run's config.yaml. ConfigError names a damaged file."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        data: Any = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(data, dict) or not data:
            raise ConfigError("there are no keys in it.")
        return resolve(data)
    except (FileNotFoundError, ValueError, YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
