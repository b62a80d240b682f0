"""Does a sim do the same on every device? Steps from the same states, by the same actions, compared.

`conformance.py` asks this, and all else that must hold of a sim.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import envs
from envs.engine.sim import REAL, Sim

DEVICES = {  # name: how to make envs there
    "cpu": {"backend": "serial"},
    "parallel": {"backend": "parallel"},
    "python": {"backend": "python"},
    "cuda": {"device": "cuda"},
}
FLAGS = ("terminated", "truncated")
OF_ANOTHER_STATE = 16.0  # cos(20) differs by 16 ulps of 1 where the angle differs by one of its own
RARE = 1e-4  # of the transitions of a float sim may end on one device only: right at a threshold


@dataclass
class Report:
    """What a comparison has found. `worst`: the largest difference of each array or field of floats, in ulps."""

    sim: str
    devices: tuple[str, str]
    bound: float  # ulps
    is_integer: bool
    transitions: int = 0
    episodes: int = 0
    different_flags: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    first: str = ""  # where the first difference was that is too large

    @property
    def passed(self) -> bool:
        return not self.first and self.different_flags <= (0 if self.is_integer else RARE * self.transitions)

    def found(self) -> str:
        """The largest difference, in words."""
        worst = max(self.worst.items(), key=lambda item: item[1], default=("", 0.0))
        found = "the same bytes" if not any(self.worst.values()) else f"at most {worst[1]:.2g} ulp apart ({worst[0]})"
        if self.different_flags:
            found += f", {self.different_flags} episodes ended on one of them only"
        return found

    def __str__(self) -> str:
        verdict = "ok" if self.passed else f"FAILED: {self.first or 'too many episodes ended on one of them only'}"
        return (
            f"{self.sim} on {self.devices[0]} and {self.devices[1]}: {self.transitions:,} transitions, "
            f"{self.episodes:,} episodes, {self.found()}: {verdict}"
        )


def compare(
    sim: str | Sim,
    devices: tuple[str, str],
    *,
    num_envs: int = 100,
    steps: int = 200,
    seed: int = 0,
    ulps: float = 2.0,
    seconds: float = math.inf,
    **options: Any,
) -> Report:
    """Take `steps` steps of `num_envs` envs on both devices, each from the first one's state, and compare all they give.

    Integers and flags must be equal, and so must floats of a sim without "real" fields. Other floats may be `ulps` apart,
    an ulp being that of the largest value in the field: where terms cancel, a small result has no more digits than they
    have. Observations are compared of the same state; but for the last ones of episodes, whose states are gone: those may
    be OF_ANOTHER_STATE times as far apart. An env whose flags differ is left out of the rest of that step's comparison.

    seconds: after which no new step is begun. options: for `envs.make_vec`.

    ValueError if a device is unknown, DeviceError if it is not there.
    """
    if unknown := set(devices) - set(DEVICES):
        raise ValueError(f"device {sorted(unknown)[0]!r} is not one of {', '.join(DEVICES)}.")
    a, b = (envs.make_vec(sim, num_envs, seed=seed, **DEVICES[device], **options) for device in devices)
    report = Report(a.sim.name, devices, ulps, a.sim.is_integer)
    a.action_space.seed(seed)
    real, everywhere = REAL[a.precision], np.ones(num_envs, bool)
    a.reset()
    seen = on_host(b.reset()[0])
    _compare(report, "reset", real, _fields(a.state), _fields(b.state), everywhere)
    a.set_state(b.get_state())
    _compare(report, "reset", real, {"obs": on_host(a.observe())}, {"obs": seen}, everywhere)
    began = math.inf  # until after the first step, which may compile
    for t in range(steps):
        if time.perf_counter() - began > seconds:
            break
        began = time.perf_counter() if t == 1 else began
        b.set_state(a.get_state())
        actions = np.ascontiguousarray(a.action_space.sample())
        found = []
        for env in (a, b):
            out = env.arrays()
            env.advance(on_device(env, actions), out)
            found.append({name: on_host(array) for name, array in out._asdict().items()} | _fields(env.state))
        mine, theirs = found
        same = np.logical_and.reduce([mine[name] == theirs[name] for name in FLAGS])
        ended = (mine["episode_length"] > 0) & same
        report.different_flags += int((~same).sum())
        report.transitions += num_envs
        report.episodes += int(ended.sum())
        last, other = ({"final_obs": values.pop("final_obs")} for values in found)
        _compare(report, f"step {t}", real, last, other, ended, slack=OF_ANOTHER_STATE)
        mine.pop("obs")
        seen = theirs.pop("obs")
        _compare(report, f"step {t}", real, mine, theirs, same)
        a.set_state(b.get_state())
        _compare(report, f"step {t}", real, {"obs": on_host(a.observe())}, {"obs": seen}, everywhere)
    return report


def _compare(
    report: Report,
    when: str,
    real: str,
    first: dict[str, NDArray],
    second: dict[str, NDArray],
    rows: NDArray,
    slack: float = 1.0,
) -> None:
    """Take the rows of arrays by name that both devices gave into the report. real: whose ulps (returns are sums of those)."""
    for name, x in first.items():
        y = second[name]
        if x.dtype.kind == "f" and not report.is_integer:
            scale = np.fmax.reduce(np.fmax(np.abs(x[rows]), np.abs(y[rows])), axis=0, initial=np.finfo(real).tiny)
            apart = np.abs(x.astype(np.float64) - y) / np.spacing(scale.astype(real)) / slack
            apart = np.where(np.isnan(x) & np.isnan(y), 0.0, np.nan_to_num(apart, nan=np.inf))
            limit = report.bound
        else:
            apart, limit = np.asarray(x != y, np.float64), 0.0
        apart = np.where(rows, apart.reshape(len(rows), -1).max(axis=1, initial=0.0), 0.0)
        report.worst[name] = max(report.worst.get(name, 0.0), float(apart.max()))
        if apart.max() > limit and not report.first:
            i = int(apart.argmax())
            report.first = f"{when}, env {i}, {name}: {x[i].tolist()} and {y[i].tolist()}"


def _fields(records: NDArray) -> dict[str, NDArray]:
    """A record array by field."""
    return {f"state.{name}": records[name] for name in records.dtype.names or ()}


def on_host(array: Any) -> NDArray:
    """A NumPy copy of an env's array, wherever it is."""
    return array.copy_to_host() if hasattr(array, "copy_to_host") else np.array(array)


def on_device(env: Any, actions: NDArray) -> Any:
    """Actions where `env` takes them."""
    if not env.is_resident:
        return actions
    from envs.engine import cuda

    return cuda.on_device(actions)
