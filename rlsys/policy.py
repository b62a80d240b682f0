"""The Policy: network, observation normaliser and action rule. The only thing that is evaluated, replayed or deployed.

A policy is rebuilt from its `PolicySpec` (plain data) and its tensors; nothing in a checkpoint is code.
Shapes: B batch, O observation shape, A action dimension (Box) or number of actions (Discrete).
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rlsys.networks import Encoder, ObsSpec, linear, mlp

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class ActionSpec:
    """`n` discrete actions; or a box [low, high] of shape `shape` (n = 0). Infinite bounds mean unbounded."""

    n: int = 0
    shape: list[int] = field(default_factory=list)
    low: list[float] = field(default_factory=list)  # flattened
    high: list[float] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Width of a policy's output: number of discrete actions, or of action dimensions."""
        return self.n or math.prod(self.shape)


@dataclass(frozen=True)
class PolicySpec:
    """All that decides a policy's structure."""

    obs: ObsSpec
    action: ActionSpec
    rule: str  # "categorical", "gaussian", "squashed_gaussian", "tanh" or "q_values"
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    activation: str = "tanh"
    normalize: bool = False  # keep running statistics of observations and normalise by them
    orthogonal: bool = True  # weight initialisation
    dueling: bool = False  # q_values only
    log_std_init: float = 0.0  # gaussian only
    layer_norm: bool = False  # in the body, before each activation (the specs of older checkpoints do not have it)
    encoder: str = "auto"  # of pictures, see networks.Encoder (neither do they have this, nor the next)
    deterministic: bool = True  # act by the most likely action, if nothing else is asked for; else draw one

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "PolicySpec":
        data = json.loads(text)
        return cls(**{**data, "obs": ObsSpec.from_json(data["obs"]), "action": ActionSpec(**data["action"])})


# -- action rules: distributions over normalised actions -----------------------------------------------------------------


class Categorical:
    """A choice among A actions with probabilities softmax(logits), logits [B, A]."""

    def __init__(self, logits: Tensor):
        self.log_probs = logits.log_softmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.pick(torch.empty_like(self.log_probs).exponential_(generator=generator))

    def pick(self, noise: Tensor) -> Tensor:
        """The action that exponential noise [B, A] picks: argmax p_i / e_i is i with probability p_i."""
        return (self.log_probs.exp() / noise).argmax(-1)

    def mode(self) -> Tensor:
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


class Gaussian:
    """Independent normals: mean [B, A], log_std [A] or [B, A]."""

    def __init__(self, mean: Tensor, log_std: Tensor):
        self.mean, self.log_std = mean, log_std.expand_as(mean)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.pick(torch.empty_like(self.mean).normal_(generator=generator))

    def pick(self, noise: Tensor) -> Tensor:
        """The action that normal noise [B, A] picks."""
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 + LOG_SQRT_2PI).sum(-1)


class SquashedGaussian(Gaussian):
    """tanh of a Gaussian (SAC). Only `sample` and `mode`: its training is SB3's."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(generator).tanh()

    def mode(self) -> Tensor:
        return self.mean.tanh()


class Greedy:
    """The action of the highest value among q [B, A]; exploration is the agent's business."""

    def __init__(self, q: Tensor):
        self.q = q

    def mode(self) -> Tensor:
        return self.q.argmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mode()


class Deterministic:
    """A single action [B, A] (TD3)."""

    def __init__(self, action: Tensor):
        self.action = action

    def mode(self) -> Tensor:
        return self.action

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.action


# -- heads ---------------------------------------------------------------------------------------------------------------


class Dueling(nn.Module):
    """Q = V + A - mean(A) (Wang et al. 2016, equation 9): features [B, F] -> q [B, A]."""

    def __init__(self, n_in: int, n_actions: int):
        super().__init__()
        self.value, self.advantage = nn.Linear(n_in, 1), nn.Linear(n_in, n_actions)

    def forward(self, x: Tensor) -> Tensor:
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(-1, keepdim=True)


class GaussianHead(nn.Module):
    """Mean from the features, one learned log standard deviation per dimension whatever the state."""

    def __init__(self, n_in: int, n_actions: int, log_std_init: float):
        super().__init__()
        self.mean = linear(n_in, n_actions, 0.01)
        self.log_std = nn.Parameter(torch.full((n_actions,), log_std_init))

    def forward(self, x: Tensor) -> Gaussian:
        return Gaussian(self.mean(x).to(self.log_std.dtype), self.log_std)


class SquashedHead(nn.Module):
    """Mean and log standard deviation both from the features, the latter clamped to [-20, 2] (Haarnoja et al. 2018)."""

    def __init__(self, n_in: int, n_actions: int):
        super().__init__()
        self.mean, self.log_std = nn.Linear(n_in, n_actions), nn.Linear(n_in, n_actions)

    def forward(self, x: Tensor) -> SquashedGaussian:
        return SquashedGaussian(self.mean(x), self.log_std(x).clamp(-20.0, 2.0))


class Policy(nn.Module):
    """Observation [B, *O] -> distribution -> action in the env's own units. Build one from a `PolicySpec`."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: PolicySpec):
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec.obs, spec.normalize, spec.encoder)
        self.body = mlp(self.encoder.num_features, spec.hidden, spec.activation, spec.orthogonal, spec.layer_norm)
        n_in = spec.hidden[-1] if spec.hidden else self.encoder.num_features
        self.head = _head(spec, n_in)
        low, high = torch.tensor(spec.action.low), torch.tensor(spec.action.high)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.is_bounded = bool((low.isfinite() & high.isfinite()).all())

    def forward(self, obs: Tensor) -> Tensor | Gaussian:
        """The head's output at obs [B, *O]: logits or q-values [B, A], or a Gaussian."""
        return self.output(self.encoder(obs))

    def output(self, features: Tensor) -> Tensor | Gaussian:
        """The head's output at encoded observations [B, F], in the weights' own precision also under autocast."""
        out = self.head(self.body(features))
        return out.to(self.low.dtype) if isinstance(out, Tensor) else out

    def rule(self, features: Tensor) -> Any:
        """The action rule at encoded observations [B, F]: has `sample(generator)` and `mode()` over normalised actions."""
        out = self.output(features)
        wrap = {"categorical": Categorical, "q_values": Greedy, "tanh": lambda x: Deterministic(x.tanh())}
        return wrap[self.spec.rule](out) if self.spec.rule in wrap else out  # type: ignore[arg-type]

    @torch.no_grad()
    def act(
        self, obs: Tensor, *, deterministic: bool | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Actions in the env's units: [B] int64 (Discrete) or [B, *shape] float32 (Box).

        deterministic: the most likely ones, or drawn by `generator`; None: as the spec has it.
        """
        if deterministic is None:
            deterministic = self.spec.deterministic
        rule = self.rule(self.encoder(obs))
        return self.to_env(rule.mode() if deterministic else rule.sample(generator))

    def to_env(self, action: Tensor) -> Tensor:
        """Normalised action to the env's: a bounded box is [-1, 1] to the policy, and is clipped to its bounds."""
        if self.spec.action.n:
            return action
        if self.is_bounded:
            action = self.low + (action.clamp(-1.0, 1.0) + 1.0) * (0.5 * (self.high - self.low))
        return action.reshape(-1, *self.spec.action.shape)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps under "policy"."""
        return {"spec": self.spec.to_json(), "tensors": dict(self.state_dict())}

    def load_state(self, state: dict[str, Any]) -> None:
        saved = PolicySpec.from_json(state["spec"])
        if replace(saved, deterministic=self.spec.deterministic) != self.spec:  # how it acts may change
            raise ValueError(f"the checkpoint's policy is {state['spec']}, this one is {self.spec.to_json()}.")
        self.load_state_dict(state["tensors"])


def build_policy(state: dict[str, Any], device: str | torch.device = "cpu") -> Policy:
    """The policy that a checkpoint's "policy" entry describes."""
    policy = Policy(PolicySpec.from_json(state["spec"]))
    policy.load_state_dict(state["tensors"])
    return policy.to(device).eval()


def _head(spec: PolicySpec, n_in: int) -> nn.Module:
    n_out = spec.action.size
    if spec.rule == "gaussian":
        return GaussianHead(n_in, n_out, spec.log_std_init)
    if spec.rule == "squashed_gaussian":
        return SquashedHead(n_in, n_out)
    if spec.dueling:
        return Dueling(n_in, n_out)
    gains = {"categorical": 0.01, "q_values": None, "tanh": None}
    if spec.rule not in gains:
        raise ValueError(f"rule={spec.rule!r} is not one of gaussian, squashed_gaussian, {', '.join(gains)}.")
    return linear(n_in, n_out, gains[spec.rule])
