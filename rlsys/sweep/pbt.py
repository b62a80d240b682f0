"""Population-based training (Jaderberg et al. 2017, https://arxiv.org/abs/1711.09846): who goes on from whom, with which values.

A population of P members trains in segments of `sweep.interval` environment steps. Segment g of member m is trial g P + m of
the ledger, and its run starts from the checkpoint that ends another: that of the member's own last segment, or, where the
member is one of the worst, of one of the best, values included, which are then perturbed.

Nobody waits: a segment is decided when it is begun, by what is known then. Members are compared where they have come equally
far, those that have not with their newest result. So a lineage never skips a step, and a copy of one that is behind trains on
to where its own member would.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlsys.sweep.spec import Parameter, Spec


@dataclass(frozen=True)
class Start:
    """How a segment begins. parent: the trial whose end it goes on from, None: from nothing; values: of what is searched."""

    parent: int | None
    values: dict[str, Any]


def can_begin(spec: Spec, number: int, scores: Mapping[int, float | None]) -> bool:
    """Whether the member's last segment has ended, and, if it failed, there is another to go on from, or will be none."""
    before, earlier = number - spec.sweep.population, range(number - number % spec.sweep.population)
    if before < 0 or before not in scores:
        return before < 0
    return any(scores.get(trial) is not None for trial in earlier) or all(trial in scores for trial in earlier)


def start(spec: Spec, number: int, scores: Mapping[int, float | None], values: Mapping[int, dict[str, Any]]) -> Start:
    """How trial `number` begins.

    scores: of the trials that have ended, None for one that failed; values: of the trials that have begun.
    """
    draw = random.Random(f"{spec.sweep.sampler_seed} {number}")
    before = number - spec.sweep.population
    parent = chosen_parent(spec, before, scores, draw) if before >= 0 else None
    if parent is None:
        return Start(None, {key: parameter.draw(draw) for key, parameter in spec.space.items()})
    if parent == before:
        return Start(parent, values[parent])
    return Start(parent, explored(spec.space, values[parent], spec.sweep.resample, draw))


def chosen_parent(spec: Spec, before: int, scores: Mapping[int, float | None], draw: random.Random) -> int | None:
    """Truncation selection: the trial to go on from after trial `before`; None if there is none.

    A member in the bottom quantile goes on from a better one in the top quantile, drawn at random; one whose run failed in any
    case. Of equal scores the earlier trial is the worse.
    """
    size = spec.sweep.population
    compared: dict[int, float] = {}
    for member in range(size):
        ended = [trial for trial in range(member, before - before % size + size, size) if scores.get(trial) is not None]
        if member != before % size and ended:
            compared[ended[-1]] = scores[ended[-1]]  # type: ignore[assignment]
    mine = scores[before]
    if mine is not None:
        compared[before] = mine
    order = sorted(compared, key=lambda trial: (compared[trial], trial))
    few = min(math.ceil(spec.sweep.quantile * len(order) - 1e-9), len(order) // 2)
    if mine is None:
        return draw.choice(order[-max(few, 1) :]) if order else None
    better = [trial for trial in order[len(order) - few :] if compared[trial] > mine]
    return draw.choice(better) if before in order[:few] and better else before


def explored(
    space: Mapping[str, Parameter], values: Mapping[str, Any], resample: float, draw: random.Random
) -> dict[str, Any]:
    """Other values: each drawn anew with probability `resample`, else the next lower or higher one (`Parameter.next`)."""
    found = {}
    for key, parameter in space.items():
        is_new, up = draw.random() < resample, draw.random() < 0.5
        found[key] = parameter.draw(draw) if is_new else parameter.next(values[key], up)
    return found
