"""Neural networks: an encoder chosen by the observation, an MLP body, and the running normaliser.

Shapes: B batch, O observation shape, F features, A action. Observations arrive as one tensor [B, *O]; what its entries mean
is said by an `ObsSpec`.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rlsys.distributed import ALONE, Ranks

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU}
SCALES = {"image": 1 / 255}  # by kind of part; all others are taken as they are
CONVOLUTIONS = {  # channels, kernel, stride
    "small": [(32, 3, 1), (64, 3, 1)],
    "nature": [(32, 8, 4), (64, 4, 2), (64, 3, 1)],  # Mnih et al. 2015, "Human-level control"
}
IMPALA = [16, 32, 32]  # channels of its blocks: the deeper network of Espeholt et al. 2018, for pictures of any size
NATURE_FROM = 36  # pixels: what its kernels and strides come down to 1 x 1 from


@dataclass(frozen=True)
class Part:
    """A stretch of a packed observation vector: `size` numbers of shape `shape`, meaning `kind`."""

    kind: str  # "vector" (numbers to normalise), "binary" (0/1, one-hot), "grid" or "image" (channels last)
    shape: list[int]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class ObsSpec:
    """An observation: one tensor of `shape` and `dtype`, made of one part, or (Dict and Tuple spaces) of several, flattened."""

    shape: list[int]
    dtype: str  # a torch dtype's name: "float32", "uint8", "int8"
    parts: list[Part] = field(default_factory=list)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ObsSpec":
        return cls(data["shape"], data["dtype"], [Part(**part) for part in data["parts"]])


class RunningNorm(nn.Module):
    """Normalise to zero mean and unit variance by statistics of all that was shown to `update`; clip to +-10.

    Welford's parallel update (Chan, Golub, LeVeque 1979). The statistics are buffers, hence part of every checkpoint.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: list[int]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor, ranks: Ranks = ALONE) -> None:
        """Take the rows of x [..., *shape], and those that other ranks have, into the statistics."""
        n, mean, var = ranks.moments(x.reshape(-1, *self.mean.shape).double())
        total = self.count + n
        delta = mean - self.mean
        m2 = self.var * self.count + var * n + delta.square() * (self.count * n / total)
        self.mean += delta * (n / total)
        self.var.copy_(m2 / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.var + 1e-8).rsqrt()
        return ((x - self.mean.float()) * scale.float()).clamp(-10.0, 10.0)


def orthogonal_(weight: Tensor, gain: float) -> None:
    """Fill with an orthogonal matrix times gain. In float64: LAPACK's last bits vary from call to call, and go in rounding."""
    exact = torch.empty(weight.shape, dtype=torch.float64)
    with torch.no_grad():
        weight.copy_(nn.init.orthogonal_(exact, gain))


def linear(n_in: int, n_out: int, gain: float | None) -> nn.Linear:
    """A linear layer: orthogonal weights of `gain` and zero bias, or PyTorch's own initialisation where gain is None."""
    layer = nn.Linear(n_in, n_out)
    if gain is not None:
        orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layer


def mlp(n_in: int, hidden: list[int], activation: str, orthogonal: bool, layer_norm: bool = False) -> nn.Sequential:
    """Linear layers of the sizes `hidden`, each followed by the activation: [B, n_in] -> [B, hidden[-1]].

    layer_norm: normalise each layer's outputs over its units, before the activation (Ba et al. 2016).
    """
    gain = math.sqrt(2) if orthogonal else None
    layers: list[nn.Module] = []
    for a, b in pairwise([n_in, *hidden]):
        layers += [linear(a, b, gain), *([nn.LayerNorm(b)] if layer_norm else []), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def is_picture(part: Part, encoder: str) -> bool:
    """Whether `part` goes through convolutions."""
    return part.kind in ("grid", "image") and encoder != "mlp"


class VectorPart(nn.Module):
    """Numbers, or a flattened picture: float32 and, on request and if they are numbers, normalised."""

    def __init__(self, part: Part, normalize: bool):
        super().__init__()
        self.num_features, self.scale = part.size, SCALES.get(part.kind, 1.0)
        self.norm = RunningNorm([part.size]) if normalize and part.kind == "vector" else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).float()
        if self.scale != 1.0:
            x = x * self.scale
        return x if self.norm is None else self.norm(x)


def convolution(
    n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0, gain: float = math.sqrt(2)
) -> nn.Conv2d:
    """A convolution: orthogonal weights of `gain` and zero bias."""
    layer = nn.Conv2d(n_in, n_out, kernel, stride, padding)
    orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Residual(nn.Module):
    """x + f(x), f two 3x3 convolutions, each after a ReLU: [B, C, H, W] -> the same (He et al. 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        # Small at first, so that what is added up over the blocks does not grow.
        convolutions = [
            convolution(channels, channels, 3, padding=1),
            convolution(channels, channels, 3, padding=1, gain=0.1),
        ]
        self.layers = nn.Sequential(nn.ReLU(), convolutions[0], nn.ReLU(), convolutions[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def picture_layers(channels: int, encoder: str) -> list[nn.Module]:
    """The layers of `encoder`, "impala" or one of CONVOLUTIONS, for pictures [B, channels, H, W]; the last is a ReLU."""
    layers: list[nn.Module] = []
    if encoder == "impala":
        for n_out in IMPALA:
            layers += [convolution(channels, n_out, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [Residual(n_out), Residual(n_out)]
            channels = n_out
        return [*layers, nn.ReLU()]
    for n_out, kernel, stride in CONVOLUTIONS[encoder]:
        layers += [convolution(channels, n_out, kernel, stride), nn.ReLU()]
        channels = n_out
    return layers


class PicturePart(nn.Module):
    """A grid or image [B, height, width, channels] through convolutions and a linear layer: 256 features.

    Images are uint8 and are divided by 255.
    """

    def __init__(self, part: Part, encoder: str):
        super().__init__()
        height, width, channels = part.shape
        self.shape, self.scale = part.shape, SCALES.get(part.kind, 1.0)
        if encoder == "auto":
            encoder = "nature" if min(height, width) >= NATURE_FROM else "small"
        if encoder == "nature" and min(height, width) < NATURE_FROM:
            raise ValueError(
                f"agent.encoder=nature is for pictures of {NATURE_FROM} x {NATURE_FROM} or more, and these have {height} x "
                f"{width}. Use agent.encoder=small or mlp."
            )
        self.layers = nn.Sequential(*picture_layers(channels, encoder), nn.Flatten())
        with torch.no_grad():
            num_flat = self.layers(torch.zeros(1, channels, height, width)).shape[1]
        self.num_features = 256
        self.project = nn.Sequential(linear(num_flat, self.num_features, math.sqrt(2)), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, *self.shape).permute(0, 3, 1, 2).float() * self.scale
        return self.project(self.layers(x))


class Encoder(nn.Module):
    """Observation [B, *O] -> features [B, num_features]: each part through its own network, concatenated.

    encoder: what becomes of pictures: one of CONVOLUTIONS, "impala", "auto" (nature or small, by size), or "mlp" (flattened).
    """

    def __init__(self, spec: ObsSpec, normalize: bool, encoder: str = "auto"):
        super().__init__()
        self.sizes = [part.size for part in spec.parts]
        self.parts = nn.ModuleList(
            PicturePart(part, encoder) if is_picture(part, encoder) else VectorPart(part, normalize)
            for part in spec.parts
        )
        self.num_features: int = sum(part.num_features for part in self.parts)  # type: ignore[misc]

    def forward(self, obs: Tensor) -> Tensor:
        if len(self.sizes) == 1:
            return self.parts[0](obs)
        stretches = obs.split(self.sizes, dim=1)
        return torch.cat([part(x) for part, x in zip(self.parts, stretches, strict=True)], dim=1)

    @property
    def has_weights(self) -> bool:
        """Whether there is anything to train here (pictures), or only flattening and normalising."""
        return next(self.parameters(), None) is not None

    def update_norm(self, obs: Tensor, ranks: Ranks = ALONE) -> None:
        """Take observations [..., *O], and those of other ranks, into the normalisers' statistics."""
        stretches = obs.split(self.sizes, dim=-1) if len(self.sizes) > 1 else [obs]
        for part, x in zip(self.parts, stretches, strict=True):
            if isinstance(part, VectorPart) and part.norm is not None:
                part.norm.update(x, ranks)
