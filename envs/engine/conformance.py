"""Does a sim keep the rules that the engine, and whoever learns on it, rely on? Each rule is a function of the sim.

It returns what it has seen, in a few words; raises Failed where the rule is broken, with the place and the remedy; and NotThere
where the sim has nothing that it could be asked of. `rlsys envs --check` prints what all of them say (`run`), and tests/envs
asks them of every sim here. Envs play random actions and, where there is one, the sim's own baseline, in turns.
"""

import contextlib
import dataclasses
import hashlib
import linecache
import math
import random
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

import envs
from envs.engine import kernels
from envs.engine.check import compare
from envs.engine.sim import SPLITS, Sim
from envs.engine.single import SimEnv
from envs.engine.vector import SimVectorEnv
from envs.reference.measure import returns

STEPS = 60
TURN = 50  # steps by random actions, then so many by the baseline
GROWN = 2.0**20  # ulps that a step of a float64 sim may be apart elsewhere: rounding may grow within a step
MOST_ERRORS = 4.0  # standard errors that a stated mean return may be off
FEW_COLORS = 2

Check = Callable[[Sim], str]


class Failed(AssertionError):
    """A rule is broken. seen: where, and by what; remedy: what to do."""

    def __init__(self, seen: str, remedy: str):
        super().__init__(f"{seen}. {remedy}")
        self.seen, self.remedy = seen, remedy


class NotThere(Exception):
    """The sim has not what the check is about, which is allowed."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a check said. outcome: "ok", "failed", "not there", or "not run" after a failure that makes it unsafe."""

    check: str
    outcome: str
    found: str
    remedy: str = ""


def run(sim: Sim, checks: dict[str, Check]) -> Iterator[Result]:
    """Ask all checks, one after the other. Whatever one raises is a failure; after one of RUNS, the others are not run."""
    stopped = False
    for name, check in checks.items():
        if stopped:
            yield Result(name, "not run", "it is not safe to run this sim compiled")
            continue
        try:
            with np.errstate(all="ignore"):  # plain Python's warnings of what the checks themselves look for
                found = check(sim)
            yield Result(name, "ok", found)
        except NotThere as absent:
            yield Result(name, "not there", str(absent))
        except Failed as failure:
            stopped = name in RUNS
            yield Result(name, "failed", failure.seen, failure.remedy)
        except Exception as error:
            stopped = name in RUNS
            is_compiling = isinstance(error, numba.core.errors.NumbaError)
            remedy = "See the rules in docs/add-an-env.md." if is_compiling else "Debug it with backend='python'."
            yield Result(name, "failed", told(error), remedy)


# -- does it run at all ------------------------------------------------------------------------------------------------


def plain_python(sim: Sim, num_envs: int = 4, steps: int = 100, seconds: float = 1.0) -> str:
    """Uncompiled it raises nothing, takes nobody else's random numbers, and keeps nothing outside of the state."""
    env = envs.make_vec(sim, num_envs, seed=0, backend="python")
    generators, constants = _generators(), _constants(sim)
    taken = sum(env.step(actions) is not None for _, actions in _timed(chosen_actions(env, steps), seconds))
    if _generators() != generators:
        raise Failed(
            "random numbers come from np.random or random",
            "Take them from uniform, randint and normal of envs.engine: they depend on the env's seed, and on nothing else.",
        )
    if _constants(sim) != constants:
        raise Failed(
            "an array outside of the state has changed",
            "Keep in the state what changes: a global is one for all envs, and a constant once it is compiled.",
        )
    return f"{taken * num_envs:,} transitions"


def indices(sim: Sim, num_envs: int = 64, steps: int = 1000) -> str:
    """It can be compiled, and no index is out of range: nothing else looks at them, and a wrong one writes elsewhere."""
    env = index_checked(sim, num_envs)
    steps = min(steps, max(200, sim.max_episode_steps + TURN))
    before, actions = env.get_state(), None
    try:
        with _bounds_check():
            for t, actions in enumerate(chosen_actions(env, steps)):
                before = env.get_state()
                env.step(actions)
                if t % TURN == 0:
                    env.observe()
    except IndexError:
        seen = _in_python(sim, before, actions)
        raise Failed(f"an index is out of range: {seen}", "Compiled code would read or write somewhere else.") from None
    return f"{steps * num_envs:,} transitions, every index looked at"


def damaged_states(sim: Sim, trials: int = 2000) -> str:
    """With any number of the state overwritten, no index is out of range: `valid` refuses it, or nothing is looked up by it."""
    env, rng = index_checked(sim, 1), np.random.default_rng(0)
    refused = 0
    fields = list(sim.state.spec)
    with _bounds_check():
        for trial, actions in enumerate(chosen_actions(env, trials)):
            good = env.get_state()
            field = fields[trial % len(fields)]
            value = _damage(env, field, rng)
            bad = env.get_state()
            try:
                env.set_state(good)
            except ValueError as error:
                raise Failed(
                    f"step {trial}: {error}", "valid must accept each state that the sim itself leads to."
                ) from None
            try:
                env.set_state(bad)
                env.step(actions)
            except ValueError:
                refused += 1
            except IndexError:
                raise Failed(
                    f"with {field} = {value} an index is out of range: {_in_python(sim, bad, actions)}",
                    "Give the sim a valid(s, p) that refuses such a state, as envs/snake.py has, or widen the one it has.",
                ) from None
            env.set_state(good)
            env.step(actions)
    return f"{trials:,} states with one number overwritten: {refused:,} refused, the others harmless"


# -- what it may touch, and what it gives ------------------------------------------------------------------------------


def side_effects(sim: Sim, num_envs: int = 8, steps: int = 60) -> str:
    """Only `reset` and `step` change the state, and nothing changes the parameters."""
    env = envs.make_vec(sim, num_envs, seed=0)
    looks: dict[str, Callable[[], Any]] = {"observe": env.observe}
    looks |= {"scripted": env.scripted_actions} if sim.scripted else {}
    looks |= {"draw": partial(env.frame, 0)} if sim.draw else {}
    params = env.params.copy()
    remedy = "Parameters are the user's; what changes belongs into the state."
    for t, actions in enumerate(chosen_actions(env, steps)):
        env.step(actions)
        _same(f"step {t}, by reset or step", _fields(params, "p"), _fields(env.params, "p"), remedy)
        for name, look in looks.items():
            if name == "draw" and t >= 3:
                continue
            states = env.state.copy()
            with contextlib.suppress(Exception):  # which another check tells
                look()
            before, after = _fields(states) | _fields(params, "p"), _fields(env.state) | _fields(env.params, "p")
            _same(f"step {t}, by {name}", before, after, f"{name} must only look.")
    return f"{', '.join(looks)} only look"


def observations(sim: Sim, num_envs: int = 16, steps: int = 625) -> str:
    """`observe` writes all of `obs`, also the last one of an episode, and within the space."""
    env = envs.make_vec(sim, num_envs, seed=0)
    out, zeros, ones = env.arrays(), env.arrays().obs, env.arrays().obs
    seen = 0
    for t, actions in enumerate(chosen_actions(env, steps)):
        if t == 0:
            _within(sim.observation_space, env.observe(), np.ones(num_envs, bool), "reset")
        ended = env.advance(actions, out)
        zeros[...], ones[...] = 0, 1
        env.observe(zeros)
        env.observe(ones)
        if (at := _first(_differ(zeros, ones))) is not None:
            raise Failed(
                f"step {t}, env {at[0]}: obs{list(at[1:])} stays as it was, or is added to",
                "observe must write all of obs, with =.",
            )
        _same(f"step {t}, observe again", {"obs": out.obs}, {"obs": zeros}, "observe must depend on the state alone.")
        _within(sim.observation_space, out.obs, np.ones(num_envs, bool), f"step {t}")
        seen += num_envs
        if ended is not None:
            _within(sim.observation_space, out.final_obs, ended, f"step {t}, the episode's last")
            seen += int(ended.sum())
    return f"{seen:,} within {_short(sim.observation_space)}, all of each written"


def rewards(sim: Sim, num_envs: int = 16, steps: int = 625) -> str:
    """They are finite numbers."""
    env = envs.make_vec(sim, num_envs, seed=1)
    out, low, high = env.arrays(), math.inf, -math.inf
    for t, actions in enumerate(chosen_actions(env, steps)):
        before = env.state.copy()
        env.advance(actions, out)
        if (at := _first(~np.isfinite(out.reward))) is not None:
            i = at[0]
            raise Failed(
                f"step {t}, env {i}: the reward is {out.reward[i]}, by action {actions[i].tolist()} in {_record(sim, before[i])}",
                "Look for a division by zero, the root or logarithm of a negative number, or a state that runs away.",
            )
        low, high = min(low, float(out.reward.min())), max(high, float(out.reward.max()))
    return f"{steps * num_envs:,}, from {low:.4g} to {high:.4g}"


# -- does it always do the same ----------------------------------------------------------------------------------------


def same_on(sim: Sim, first: str, other: str, *, num_envs: int = 16, steps: int = 60, seconds: float = 2.0) -> str:
    """A step from the same state is the same on two devices (`check.DEVICES`): integer sims to the bit, others in float64
    but for rounding. What rounding does in float32 is only told: where it may grow, no bound would be right."""
    options: dict[str, Any] = {"num_envs": num_envs, "steps": steps, "seconds": seconds / 2}
    options["max_episode_steps"] = min(25, sim.max_episode_steps)
    try:
        report = compare(sim, (first, other), precision="float64", ulps=GROWN, **options)
    except ModuleNotFoundError as error:
        raise NotThere(str(error)) from None  # numba-cuda, and how to install it
    if not report.passed:
        raise Failed(
            f"{report.first or f'{report.different_flags} episodes ended on one of them only'}",
            f"Step through it with backend='python', beside {first}; look at counting and at whole numbers (docs/add-an-env.md).",
        )
    found = f"{report.transitions:,} transitions, {report.found()}"
    if sim.is_integer:
        return found
    return f"{found}; in float32 {compare(sim, (first, other), ulps=math.inf, **options).found()}"


def determinism(sim: Sim, num_envs: int = 16, steps: int = 100) -> str:
    """The same seed gives the same episodes; and another seed others, or nothing is random at all."""
    actions = actions_for(sim, num_envs, steps)
    one, same, other = (record(envs.make_vec(sim, num_envs, seed=seed), actions) for seed in (3, 3, 4))
    _same_record(one, same, "What it does must depend on nothing but the state, the parameters and the action.")
    starts = {name: (one[0][name], other[0][name]) for name in (f"s.{field}" for field in sim.state.spec)}
    if any(_differ(mine, theirs).any() for mine, theirs in starts.values()):
        if not any(_differ(mine, mine[:1]).any() for mine, _ in starts.values()):
            raise Failed(
                f"all {num_envs} envs start the same",
                "A start must be drawn by uniform, randint or normal from the env's own s.",
            )
        return f"{steps * num_envs:,} transitions, twice; another seed begins elsewhere"
    return f"{steps * num_envs:,} transitions, twice; each seed begins the same"


def independence(sim: Sim, num_envs: int = 1024, steps: int = STEPS, keep: int = 64) -> str:
    """What an env does depends neither on the number of envs, nor of threads, nor on what the others do."""
    actions = actions_for(sim, num_envs, steps)
    remedy = "Nothing may be shared by envs: no global that changes, no parameter that changes."

    def played(n: int, backend: str, actions: NDArray = actions) -> tuple[list[dict[str, NDArray]], dict[str, NDArray]]:
        """What the first envs did in each step, and the state of all at the end."""
        env = envs.make_vec(sim, n, seed=11, backend=backend)
        return record(env, actions[:, :n], keep), _fields(env.state)

    rows, end = played(num_envs, "serial")
    threads = numba.get_num_threads()
    try:
        for used in (threads, 1):
            numba.set_num_threads(used)
            others, last = played(num_envs, "parallel")
            _same_record(rows, others, remedy, f"in parallel on {used} threads, ")
            _same(f"in parallel on {used} threads, step {steps - 1}", end, last, remedy)
    finally:
        numba.set_num_threads(threads)
    for n in (1, 7, keep):
        _same_record(_some(rows, slice(n)), played(n, "serial")[0], remedy, f"as one of {n}, ")
    mixed = actions_for(sim, keep, steps, seed=1)
    mixed[:, ::3] = actions[:, :keep:3]
    third = slice(0, keep, 3)
    _same_record(_some(rows, third), _some(played(keep, "serial", mixed)[0], third), remedy, "beside others, ")
    return f"the same as one of 1, 7, {keep} or {num_envs} envs, on one thread or {threads}"


def snapshots(sim: Sim, rounds: int = 5, num_envs: int = 5, steps: int = STEPS) -> str:
    """A snapshot, taken at any time, has the same future in another env."""
    rng = np.random.default_rng(0)
    one, other = (
        envs.make_vec(sim, num_envs, seed=seed, max_episode_steps=min(30, sim.max_episode_steps)) for seed in (0, 1)
    )
    for _ in range(rounds):
        same_future(one, other, int(rng.integers(steps)), int(rng.integers(2**62)), actions_for(sim, num_envs, steps))
    return f"{rounds} of {num_envs} envs, {steps} steps later the same"


def same_future(one: SimVectorEnv, other: SimVectorEnv, before: int, seed: int, actions: NDArray) -> None:
    """Take a snapshot of `one` after `before` steps; play on; restore it in `other`, which must do the same."""
    one.reset(seed=seed)
    record(one, actions[:before], reset=False)
    snapshot = one.get_state()
    kept = {key: array.copy() for key, array in snapshot.items()}
    seen = one.observe().copy()
    future = record(one, actions, reset=False)
    remedy = "All that decides the future must be in the state."
    _same("snapshot while it is played on", kept, snapshot, remedy)
    other.reset(seed=1)
    other.set_state(snapshot)
    _same("restored", {"obs": seen}, {"obs": other.observe()}, remedy)
    _same_record(future, record(other, actions, reset=False), remedy, f"{before} steps on, restored, ")


# -- episodes and levels -----------------------------------------------------------------------------------------------


def episodes(sim: Sim, num_envs: int = 32, steps: int = STEPS) -> str:
    """They end at the limit or where the world ends, begin anew, and their return, length and last observation are right."""
    limit = min(20, sim.max_episode_steps)
    make = partial(envs.make_vec, sim, num_envs, seed=0, max_episode_steps=limit)
    env, twin = make(), make(autoreset_mode="NextStep")  # which shows the last observation
    total, length, ended_by = np.zeros(num_envs), np.zeros(num_envs, np.int64), {"world": 0, "limit": 0}
    out, last = env.arrays(), twin.arrays()
    remedy = "An episode that ends must begin anew from its own record alone."
    for t, actions in enumerate(chosen_actions(env, steps)):
        twin.set_state(env.get_state())
        env.advance(actions, out)
        twin.advance(actions, last)
        ended = out.terminated | out.truncated
        total, length, where = total + out.reward, length + 1, f"step {t}, with NextStep"
        for name in ("reward", "terminated", "truncated", "episode_return", "episode_length"):
            _same(where, {name: getattr(out, name)}, {name: getattr(last, name)}, remedy)
        _same(where, {"final_obs": out.final_obs[ended]}, {"final_obs": last.obs[ended]}, remedy)
        _same(where, {"obs": out.obs[~ended]}, {"obs": last.obs[~ended]}, remedy)
        if (at := _first(out.truncated != (length >= limit))) is not None:
            raise Failed(
                f"step {t}, env {at[0]}: truncated is {out.truncated[at]} after {length[at]} of {limit} steps", remedy
            )
        _same(
            f"step {t}", {"episode_length": np.where(ended, length, 0)}, {"episode_length": out.episode_length}, remedy
        )
        apart = np.abs(np.where(ended, total, 0.0) - out.episode_return) > 1e-4 * (1.0 + np.abs(total))
        if (at := _first(apart)) is not None:
            raise Failed(
                f"step {t}, env {at[0]}: rewards add up to {total[at]:g}, not {out.episode_return[at]:g}", remedy
            )
        if ended.any():
            twin.advance(actions, last)  # which begins the next episode
            where, zeros = f"step {t}, the next episode's first", np.zeros(int(ended.sum()))
            _same(
                where,
                {"obs": out.obs[ended], "reward": zeros},
                {"obs": last.obs[ended], "reward": last.reward[ended]},
                remedy,
            )
        ended_by["world"] += int(out.terminated.sum())
        ended_by["limit"] += int((out.truncated & ~out.terminated).sum())
        total[ended], length[ended] = 0.0, 0
    return f"{ended_by['world']} ended by the world, {ended_by['limit']} by a limit of {limit} steps"


def levels(sim: Sim, count: int = 1000, most: float = 0.01) -> str:
    """Levels are drawn from all of their split and nowhere else, differ (but for a share of `most`), and are a function of their
    id, future included."""
    if not sim.levels:
        raise NotThere("levels=False")
    for split, (first, size) in SPLITS.items():
        env = envs.make_vec(sim, count, seed=0, split=split)
        env.reset()
        drawn = env.state["level"]
        if not (first <= drawn.min() and drawn.max() < first + size and np.ptp(drawn) > 0.9 * size):
            raise Failed(
                f"split {split!r} plays levels {drawn.min()} to {drawn.max()}, not all of {first} to {first + size - 1}",
                "The engine draws s.level; leave it alone.",
            )
    if (found := doubles(sim, count)) > most * len(SPLITS) * count:
        raise Failed(
            f"{found} of {len(SPLITS) * count:,} levels are another one's double",
            "Training shows what the test asks for: make each level from all of its id (seed_by_level), and enough different "
            "ones; where there are not so many, leave levels=True out.",
        )
    ids = np.arange(64)
    one, other = (envs.make_vec(sim, 64, seed=seed) for seed in (0, 1))
    one.reset(options={"level": ids})
    other.reset(options={"level": ids[::-1]})
    remedy = "All that differs between episodes must come from s.level: call seed_by_level(s) before anything is drawn."
    for t, actions in enumerate([None, *actions_for(sim, 64, min(20, sim.max_episode_steps - 1))]):
        if actions is not None:
            one.step(actions)
            other.step(np.ascontiguousarray(actions[::-1]))
        same = (one.state["level"] == ids) & (one.state["episode"] == one.state["episode"][0])
        mine, theirs = ({name: env.state[name] for name in sim.state.spec} for env in (one, other))
        played = same & (one.state["elapsed"] == t) & (other.state["elapsed"][::-1] == t)
        _same(
            "the same level twice, at the start" if t == 0 else f"the same level twice, step {t - 1}",
            {f"s.{name}": values[played] for name, values in mine.items()},
            {f"s.{name}": values[::-1][played] for name, values in theirs.items()},
            remedy,
        )
    return f"{len(SPLITS) * count:,} levels, {found or 'none'} another one's double; each a function of its id"


def doubles(sim: Sim, count: int) -> int:
    """How many of `count` levels of each split start as another one does: the first and last of them, and some between."""
    found: list[bytes] = []
    for first, size in SPLITS.values():
        ids = np.linspace(0, size - 1, count).astype(np.int64)
        ids[: count // 3] = np.arange(count // 3)
        ids[-(count // 3) :] = size - 1 - np.arange(count // 3)
        env = envs.make_vec(sim, count, seed=0, precision="float64")
        env.reset(options={"level": first + ids})
        parts = [np.ascontiguousarray(env.state[field]).reshape(count, -1) for field in sim.state.spec]
        rows = np.concatenate([part.view(np.uint8) for part in parts], axis=1)
        found += [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
    return len(found) - len(set(found))


# -- what is said of it, and what others see of it ---------------------------------------------------------------------


def baseline(sim: Sim, num_envs: int = 64, steps: int = 200, seconds: float = 1.0) -> str:
    """Its actions are actions, the same in plain Python."""
    if sim.scripted is None:
        raise NotThere("no scripted function")
    env = envs.make_vec(sim, num_envs, seed=0)
    env.reset()
    for t in range(steps):
        actions = env.scripted_actions()
        if actions not in env.action_space:
            i = next(i for i in range(num_envs) if actions[i] not in sim.action_space)
            raise Failed(
                f"step {t}, env {i}: {actions[i].tolist()} is not in {_short(sim.action_space)}",
                "scripted must fill all of action, within the space.",
            )
        env.step(actions)
    compiled, plain = (envs.make_vec(sim, 4, seed=0, precision="float64", backend=how) for how in ("serial", "python"))
    compiled.reset()
    plain.reset()
    for t, _ in _timed(range(25), seconds):
        plain.set_state(compiled.get_state())
        actions, same = compiled.scripted_actions(), plain.scripted_actions()
        if (at := _first(np.abs(actions - same) > 1e-6)) is not None:
            raise Failed(
                f"step {t}, env {at[0]}: {actions[at[0]].tolist()} compiled, {same[at[0]].tolist()} in plain Python",
                "Debug it with backend='python'.",
            )
        compiled.step(actions)
    return f"{steps * num_envs:,} actions"


def references(sim: Sim, episodes: int = 200) -> str:
    """Other episodes earn what is stated, and the better policy more."""
    policies = ["random", *(["scripted"] if sim.scripted else [])]
    stated = {policy: sim.references[policy] for policy in policies if policy in sim.references}
    sample = {policy: returns(sim, policy, episodes, seed=1, num_envs=episodes) for policy in stated or policies}
    errors = {policy: float(found.std(ddof=1)) / math.sqrt(len(found)) for policy, found in sample.items()}
    measured = ", ".join(f"{policy} {found.mean():.4g} +- {errors[policy]:.2g}" for policy, found in sample.items())
    if not stated:
        raise NotThere(f"none stated; {episodes} episodes earn: {measured}")
    for policy, reference in stated.items():
        error, mean = math.hypot(errors[policy], reference.error), float(sample[policy].mean())
        if abs(mean - reference.mean) > MOST_ERRORS * error + 1e-9 * abs(reference.mean):
            raise Failed(
                f"{policy}: {len(sample[policy])} episodes earn {mean:.6g} +- {errors[policy]:.2g}, and "
                f"{reference.mean:g} +- {reference.error:g} is stated",
                "Measure again, with python -m envs.reference.measure: something has changed since, or an error is too small.",
            )
    means = [sim.references[policy].mean for policy in ("random", "scripted", "optimal") if policy in sim.references]
    if means != sorted(means):
        raise Failed(f"random, scripted and optimal earn {means}", "Each must earn more than the one before.")
    return f"measured on {episodes} episodes: {measured}"


def picture(sim: Sim, steps: int = 20) -> str:
    """There is something to be seen, and it moves."""
    if sim.draw is None:
        raise NotThere("no draw function")
    env = envs.make_vec(sim, 2, seed=3)
    frames = []
    for t, actions in enumerate(chosen_actions(env, steps)):
        for i in range(2):
            before = _record(sim, env.state[i])
            try:
                frames.append(env.frame(i))
            except Exception as error:
                raise Failed(f"step {t}, env {i}: draw raises {told(error)}, in {before}", "Mend draw.") from error
        env.step(actions)
    colors = len(np.unique(frames[0].reshape(-1, 3), axis=0))
    if colors < FEW_COLORS:
        raise Failed("the picture has a single colour", "Call canvas.view(x0, x1, y0, y1), then draw within it.")
    if all((frame == frames[0]).all() for frame in frames):
        raise Failed(f"the picture is the same in {len(frames)} states", "draw must show the state s.")
    return f"{len(frames)} drawn"


def gymnasium_api(sim: Sim) -> str:
    """Gymnasium's own checker has no complaint; what it recommends is told."""
    return heard(partial(check_env, skip_render_check=True), SimEnv(sim))


def heard(check: Callable[[Any], Any], env: Any) -> str:
    """What another library's checker of an env says besides: its warnings, or "clean"."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(env)
    said = [" ".join(str(warning.message).replace("\x1b[33m", "").replace("\x1b[0m", "").split()) for warning in caught]
    return "; ".join(dict.fromkeys(said)) or "clean"


CHECKS: dict[str, Check] = {
    "plain Python": plain_python,
    "indices": indices,
    "damaged states": damaged_states,
    "side effects": side_effects,
    "observations": observations,
    "rewards": rewards,
    "compiled": partial(same_on, first="cpu", other="python"),
    "same seed": determinism,
    "any number": independence,
    "snapshots": snapshots,
    "episodes": episodes,
    "levels": levels,
    "baseline": baseline,
    "references": references,
    "picture": picture,
    "Gymnasium": gymnasium_api,
}
RUNS = ("plain Python", "indices")  # what must be ok before it may run compiled


# -- how an env is played ----------------------------------------------------------------------------------------------


def actions_for(sim: Sim, num_envs: int, steps: int, seed: int = 0) -> NDArray:
    """Random actions [steps, num_envs, ...]."""
    space = batch_space(sim.action_space, num_envs)
    space.seed(seed)
    return np.stack([space.sample() for _ in range(steps)])


def chosen_actions(env: SimVectorEnv, steps: int) -> Iterator[NDArray]:
    """Reset, then choose `steps` times: random actions and, if there is one, the baseline's; each env in turns of TURN."""
    env.reset()
    env.action_space.seed(0)
    for t in range(steps):
        actions = np.ascontiguousarray(env.action_space.sample())
        if env.sim.scripted is not None:
            turn = (np.arange(env.num_envs) + t // TURN) % 2 == 1
            legal = env.scripted_actions()
            if legal in env.action_space:  # if not, `baseline` says so
                actions[turn] = legal[turn]
        yield actions


def record(
    env: SimVectorEnv, actions: NDArray, keep: int | None = None, reset: bool = True
) -> list[dict[str, NDArray]]:
    """What each step gave, and the state after it, of the first `keep` envs: arrays by name. Begins with a reset."""
    rows = [{"obs": env.reset()[0][:keep].copy(), **_fields(env.state[:keep].copy())}] if reset else []
    for row in actions:
        out = env.arrays()
        env.advance(np.ascontiguousarray(row), out)
        rows.append({name: array[:keep] for name, array in out._asdict().items()} | _fields(env.state[:keep].copy()))
    return rows


def _timed(steps: Any, seconds: float) -> Iterator[tuple[int, Any]]:
    """Steps with their number, as far as time allows: plain Python may take a hundredth of a second for one."""
    began = time.perf_counter()
    for t, step in enumerate(steps):
        yield t, step
        if time.perf_counter() - began > seconds:
            return


@contextlib.contextmanager
def _bounds_check() -> Iterator[None]:
    """What is compiled in here looks at every index, and raises IndexError."""
    before = numba.config.BOUNDSCHECK  # type: ignore[attr-defined]
    numba.config.BOUNDSCHECK = 1  # type: ignore[attr-defined]
    try:
        yield
    finally:
        numba.config.BOUNDSCHECK = before  # type: ignore[attr-defined]


def index_checked(sim: Sim, num_envs: int) -> SimVectorEnv:
    """Envs with kernels of their own, which are compiled under `_bounds_check`."""
    with _bounds_check():
        return envs.make_vec(dataclasses.replace(sim), num_envs, seed=0)


def _damage(env: SimVectorEnv, field: str, rng: np.random.Generator) -> str:
    """Overwrite one number in a field of env 0's state with one that may be anything; returns it, and where."""
    values = env.state[field].reshape(-1)
    k = int(rng.integers(values.size))
    if values.dtype.kind == "f":
        offered: list[Any] = [math.nan, math.inf, -math.inf, 1e30, -1e30, -values[k], rng.normal(0.0, 100.0)]
    elif values.dtype.kind == "b":
        offered = [not values[k]]
    else:
        limits = np.iinfo(values.dtype)
        near = [int(values[k]) + d for d in (-1, 1)]
        offered = [
            limits.min,
            limits.max,
            *near,
            int(rng.integers(limits.min, limits.max, endpoint=True, dtype=values.dtype)),
        ]
        offered = [min(max(value, limits.min), limits.max) for value in offered]
    values[k] = offered[int(rng.integers(len(offered)))]
    return f"{values[k]}" if values.size == 1 else f"{values[k]} (at {k})"


# -- how a difference is told ------------------------------------------------------------------------------------------


def _fields(records: NDArray, of: str = "s") -> dict[str, NDArray]:
    """A record array by field, named as a sim's functions name it."""
    return {f"{of}.{name}": records[name] for name in records.dtype.names or ()}


def _some(recorded: list[dict[str, NDArray]], rows: slice) -> list[dict[str, NDArray]]:
    return [{name: array[rows] for name, array in row.items()} for row in recorded]


def _differ(a: NDArray, b: NDArray) -> NDArray:
    """Where two arrays differ; nan is nan."""
    different = a != b
    return different & ~((a != a) & (b != b))


def _first(mask: NDArray) -> tuple[int, ...] | None:
    """The index of the first True."""
    return tuple(map(int, np.unravel_index(mask.argmax(), mask.shape))) if mask.any() else None


def _same(where: str, mine: dict[str, NDArray], theirs: dict[str, NDArray], remedy: str) -> None:
    """Raise Failed, with the first place, unless all arrays are the same."""
    for name, array in mine.items():
        if (at := _first(_differ(array, theirs[name]))) is not None:
            place = f"{name}{list(at[1:]) if len(at) > 1 else ''}"
            raise Failed(f"{where}, env {at[0]}: {place} is {array[at]} and then {theirs[name][at]}", remedy)


def _same_record(one: list[dict[str, NDArray]], other: list[dict[str, NDArray]], remedy: str, where: str = "") -> None:
    """Raise Failed, with the first step, unless what `record` gave is the same."""
    t = 0
    for mine, theirs in zip(one, other, strict=True):
        is_reset = "reward" not in mine
        _same(f"{where}{'reset' if is_reset else f'step {t}'}", mine, theirs, remedy)
        t += not is_reset


def _within(space: spaces.Space, obs: NDArray, rows: NDArray, where: str) -> None:
    """Raise Failed unless these rows of observations are in the space."""
    low, high = (space.low, space.high) if isinstance(space, spaces.Box) else (0, 1)
    outside = ~((obs >= low) & (obs <= high)) & rows.reshape(-1, *[1] * (obs.ndim - 1))
    if (at := _first(outside)) is not None:
        low, high = (np.broadcast_to(bound, obs.shape[1:])[at[1:]] for bound in (low, high))
        raise Failed(
            f"{where}, env {at[0]}: obs{list(at[1:])} is {obs[at]}, not within {low:g} to {high:g}",
            "Widen observation_space, clip what is observed, or end the episode before.",
        )


def _short(space: spaces.Space) -> str:
    return " ".join(str(space).split()) if len(str(space)) < 60 else f"{type(space).__name__}{space.shape}"


def _record(sim: Sim, state: Any) -> str:
    """A state in one line."""
    text = ", ".join(f"{name}={np.asarray(state[name]).tolist()}" for name in sim.state.spec)
    return text if len(text) < 200 else f"{text[:200]}..."


def _in_python(sim: Sim, snapshot: dict[str, NDArray], actions: NDArray | None) -> str:
    """Where a step of these envs raises IndexError in plain Python: env, file, line and message."""
    count = len(snapshot["states"]) // sim.state.dtype("float32", kernels.ENGINE_FIELDS).itemsize
    plain = envs.make_vec(sim, count, seed=0, backend="python")
    try:
        if actions is None:
            plain.reset()
        else:
            plain.set_state(snapshot)
            plain.step(actions)
    except IndexError as error:
        return told(error)
    return "in a function that plain Python does not call so"


def told(error: Exception) -> str:
    """An error in one line: its type, what it says, and where in whose code, of which env."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines)
    if "cannot unpack non-iterable" in said:
        said += ": step returns (reward, terminated)"
    if isinstance(error, numba.core.errors.NumbaError):  # a page; what cannot be, and where in whose code, are of use
        places = [line for line in lines if line.startswith("File ") and "site-packages" not in line]
        unknown = next((match for line in lines if (match := re.search(r"Untyped global name '(\w+)'", line))), None)
        causes = [line for line in lines if not line.startswith(("Failed in", "During", "File", "^", "<"))]
        said = f"{unknown[1]!r} has no @njit, or is nothing that can be compiled" if unknown else " ".join(causes[:3])
        said = " ".join([said, *[place for place in places if "batch.py" not in place][-1:]])  # not the engine's copy
    engine, place, env = Path(__file__).parent, "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if frame.f_code.co_name in ("step_rows", "_begin", "observe_batch", "scripted_batch") and "i" in frame.f_locals:
            env = f"env {int(frame.f_locals['i'])}, "
        if "site-packages" not in path.parts and engine not in path.parents and not str(path).startswith("<"):
            source = linecache.getline(str(path), line).strip()
            place = f" ({env}{path.name}, line {line}: {source})"
    return f"{type(error).__name__}: {said[:400]}{place}"


def _generators() -> str:
    """The states of the random generators that are nobody's."""
    return repr((random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]))  # type: ignore[index]


def _constants(sim: Sim) -> str:
    """A hash of all code and constants that the sim reaches."""
    return kernels.fingerprint(kernels.BATCH, kernels.names_of(sim, "float32")[0])
