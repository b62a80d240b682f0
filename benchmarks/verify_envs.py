"""Are the worlds right? All that can be checked of every sim, at length. Writes docs/worlds.md.

    python benchmarks/verify_envs.py                 all sims
    python benchmarks/verify_envs.py snake pendulum  some of them, and no page

The checks are those of tests/envs, with more states, episodes and snapshots than a test has time for. Exits with 1 if one of
them fails.
"""

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
from tests import conftest  # noqa: E402, F401, I001 (first: without a GPU it chooses the simulator of one)
import envs  # noqa: E402
from envs.engine import cuda  # noqa: E402
from envs.reference.measure import returns  # noqa: E402
from tests.envs import (  # noqa: E402
    test_baselines,
    test_battery,
    test_breakout,
    test_cuda,
    test_engine,
    test_exact_ports,
    test_game2048,
    test_golden,
    test_highway,
    test_inventory,
    test_labyrinth,
    test_levels,
    test_maze,
    test_pricing,
    test_pushdisc,
    test_quadrotor,
    test_racer,
    test_reacher,
    test_scheduling,
    test_snake,
)

PAGE = ROOT / "docs" / "worlds.md"
TRANSITIONS = 1_000_000  # of each exact port, in pieces of PIECE
PIECE = 100_000
EPISODES = 2000  # of each policy whose mean return is stated
SNAPSHOTS = 100
MOST = 4.0  # standard errors
PORTS = {port.__name__: port for port in test_exact_ports.PORTS}
FUTURE = test_engine.test_a_restored_snapshot_has_the_same_future.hypothesis.inner_test
OPTIMA = {"battery": test_battery, "inventory": test_inventory, "pricing": test_pricing, "scheduling": test_scheduling}


def examples(test, *strategies: Sequence) -> Callable[[], None]:
    """A test of Hypothesis, on the rows given."""

    def run() -> None:
        for values in strategies:
            test.hypothesis.inner_test(*values)

    return run


PROPERTIES: dict[str, dict[str, Callable[[], object]]] = {
    "acrobot": {"energy": test_exact_ports.test_acrobots_energy_is_kept_without_torque_as_well_as_the_step_allows},
    "battery": {
        "energy and cash": examples(
            test_battery.test_energy_and_cash_are_accounted_for_to_the_last_bit,
            *((seed, seed % 6) for seed in range(50)),
        )
    },
    "breakout": {
        "mirror": test_breakout.test_a_mirrored_world_plays_the_same_game_mirrored,
        "flights end": test_breakout.test_every_flight_ends_within_the_bound,
    },
    "cartpole": {"mirror": lambda: mirrored("cartpole")},
    "game2048": {
        "rotations": lambda: [test_game2048.test_a_turned_board_plays_the_same_game_turned(k) for k in (1, 2, 3)],
        "every row": lambda: [
            test_game2048.test_every_row_and_column_slides_and_merges_as_in_plain_python(k) for k in range(4)
        ],
    },
    "highway": {
        "mirror": test_highway.test_the_mirror_image_of_a_road_is_a_road,
        "ring": test_highway.test_the_ring_has_no_beginning,
        "order of cars": test_highway.test_cars_of_a_lane_keep_their_order_and_their_distance,
        "written twice": test_highway.test_a_step_is_that_of_the_world_written_down_twice,
    },
    "inventory": {
        "units": examples(
            test_inventory.test_no_unit_is_made_or_lost, *((seed, 1 + seed % 4, 1 + seed % 11) for seed in range(50))
        )
    },
    "labyrinth": {
        "spanning tree": lambda: test_labyrinth.test_every_level_is_a_spanning_tree_of_its_cells_and_solid_beyond(
            25, 25
        ),
        "window": lambda: test_maze.test_the_observation_is_the_window_around_the_agent(("labyrinth", {})),
    },
    "maze": {
        "spanning tree": examples(
            test_maze.test_every_level_is_a_spanning_tree_of_its_cells, *((7919 * k,) for k in range(200))
        ),
        "shortest way": examples(
            test_maze.test_the_shortest_way_reaches_the_goal_in_exactly_the_optimal_steps,
            *((104_729 * k,) for k in range(200)),
        ),
        "window": lambda: test_maze.test_the_observation_is_the_window_around_the_agent(("maze", {})),
    },
    "pendulum": {"mirror": lambda: mirrored("pendulum")},
    "pricing": {
        "seats and revenue": examples(
            test_pricing.test_seats_and_revenue_are_accounted_for_to_the_last_bit, *((k, k % 20) for k in range(50))
        )
    },
    "pushdisc": {
        "mirror and rotations": test_pushdisc.test_the_table_is_the_same_in_the_mirror_and_from_each_of_its_sides,
        "no overlap": test_pushdisc.test_finger_and_disc_never_overlap_and_an_untouched_disc_lies_still,
        "limit of small pushes": test_pushdisc.test_a_push_is_the_limit_of_small_pushes,
    },
    "quadrotor": {
        "mirror": test_quadrotor.test_the_mirror_image_of_a_flight_is_a_flight_to_the_last_bit,
        "energy": test_quadrotor.test_without_thrust_energy_and_spin_are_kept,
        "differential equation": lambda: test_quadrotor.test_a_step_agrees_with_the_differential_equation(1.0, 3e-5),
    },
    "quadrotor_gates": {"returns are gates": test_quadrotor.test_returns_are_gates_passed},
    "racer": {
        "mirror": test_racer.test_the_mirror_image_of_a_track_is_seen_and_driven_in_mirror_image,
        "progress": test_racer.test_progress_adds_up_to_the_place_on_the_track,
        "rays": lambda: test_racer.test_rays_end_at_the_nearest_wall_of_the_whole_track("float64"),
    },
    "reacher": {
        "energy": test_reacher.test_without_damping_and_torque_energy_is_kept,
        "mirror and rotations": test_reacher.test_the_world_is_the_same_in_the_mirror_and_when_turned,
        "Lagrange": test_reacher.test_a_step_agrees_with_lagranges_equations,
    },
    "scheduling": {
        "customers and costs": examples(
            test_scheduling.test_every_customer_is_accounted_for_and_every_cost,
            *((k, 4 * k, 1 + k % 3) for k in range(50)),
        )
    },
    "snake": {
        "chain of cells": examples(
            test_snake.test_the_snake_is_a_chain_of_its_fruits_plus_one_and_never_lies_on_the_fruit,
            *((k, k % 2 / 4, 300) for k in range(30)),
        )
    },
}


def mirrored(name: str) -> None:
    """A thousand states and their opposites, by opposite actions: opposite states come of them, to the last bit."""
    both = [envs.make_vec(name, 1000, seed=0, precision="float64", autoreset_mode="NextStep") for _ in range(2)]
    rng = np.random.default_rng(0)
    real = [field for field, spec in both[0].sim.state.spec.items() if spec == "real"]
    values = rng.uniform(-1.0, 1.0, (len(real), 1000))
    box = both[0].single_action_space.shape
    actions = rng.uniform(-3, 3, (1000, 1)).astype(np.float32) if box else rng.integers(2, size=1000)
    for env, sign in zip(both, (1, -1), strict=True):
        env.reset()
        for field, value in zip(real, values, strict=True):
            env.state[field] = sign * value
        for _ in range(20):
            env.state["ended"] = 0
            env.step(actions if sign == 1 else -actions if box else 1 - actions)
    for field in real:
        np.testing.assert_array_equal(both[0].state[field], -both[1].state[field])


# -- the columns -------------------------------------------------------------------------------------------------------


def exact_port(name: str) -> str:
    """The largest difference of a step to Gymnasium's."""
    if name not in PORTS:
        return ""
    port, worst = PORTS[name], 0.0
    for seed in range(1, 1 + TRANSITIONS // PIECE):
        _, ours, theirs = port.__wrapped__("float64", PIECE, seed)
        worst = max(worst, test_exact_ports.largest_difference(ours, theirs))
    assert worst <= 1e-12, f"{worst} from Gymnasium's"
    return f"{worst:.0e}" if worst else "0"


def standard_errors(found: np.ndarray, mean: float, error: float) -> str:
    """How many standard errors the mean of what was found is away from what is stated."""
    error = math.hypot(float(found.std(ddof=1)) / math.sqrt(len(found)), error)
    off = abs(float(found.mean()) - mean)
    assert off <= MOST * error, (
        f"a mean of {found.mean():.6g} instead of {mean:.6g}: {off / max(error, 1e-99):.1f} errors"
    )
    return f"{off / error:.1f}" if error else "exact"


def reference(name: str, policy: str) -> str:
    stated, episodes = envs.get_sim(name).references[policy], 4 * test_baselines.FEW.get(name, EPISODES // 4)
    return standard_errors(returns(name, policy, episodes, seed=2, num_envs=episodes), stated.mean, stated.error)


def optimum(name: str) -> str:
    """The solver's policy, played."""
    if name not in OPTIMA:
        return ""
    total, expected = OPTIMA[name].play_optimally(seed=2)[:2]
    return standard_errors(total, float(expected), 0.0)


def properties(name: str) -> str:
    for check in PROPERTIES.get(name, {}).values():
        check()
    return ", ".join(PROPERTIES.get(name, {}))


def invariance(name: str) -> str:
    """A hash of 4096 envs' states, which are the same in any number, on any number of threads, whatever the others do."""
    test_engine.test_what_an_env_does_depends_neither_on_the_number_of_envs_nor_of_threads(name)
    test_engine.test_what_an_env_does_does_not_depend_on_the_others_actions(name)
    actions = test_engine.actions_for(name, 4096)
    return hashlib.sha256(test_engine.record(name, 4096, "serial", actions)[1]).hexdigest()[:8]


def snapshots(name: str) -> str:
    rng = np.random.default_rng(0)
    for _ in range(SNAPSHOTS):
        FUTURE(name=name, before=int(rng.integers(test_engine.STEPS)), seed=int(rng.integers(2**62)))
    return str(SNAPSHOTS)


def devices(name: str) -> str:
    """The largest difference between the CPU and a GPU, in ulps."""
    cuda.THREADS = 8  # several blocks
    worst = max(test_cuda.compared(name, seed=1).worst.values())
    return f"{worst:.0f}" if worst >= 10 else f"{worst:.2g}" if worst else "same bytes"


def golden(name: str) -> str:
    if not test_golden.is_whole(name):
        return ""
    test_golden.test_ten_thousand_steps_are_what_they_have_always_been(name)
    return test_golden.digest(name)[:8]


def levels(name: str) -> str:
    """Levels that another one is the double of, among the first, the last and others of all splits."""
    if not envs.get_sim(name).levels:
        return ""
    test_levels.test_levels_are_drawn_from_all_of_the_split_and_from_nowhere_else(name)
    test_levels.test_no_level_is_another_ones_double_within_a_split_or_across(name)
    return f"0 of {3 * test_levels.LEVELS:,}"


COLUMNS: dict[str, Callable[[str], str]] = {
    "off Gymnasium": exact_port,
    "random": lambda name: reference(name, "random"),
    "scripted": lambda name: reference(name, "scripted"),
    "optimum": optimum,
    "properties": properties,
    "invariance": invariance,
    "snapshots": snapshots,
    "devices": devices,
    "golden": golden,
    "double levels": levels,
}
FAILED = "**FAILED**"


def verify(name: str, columns: Sequence[str] = tuple(COLUMNS)) -> tuple[dict[str, str], list[str], float]:
    """What each column says of a sim, what failed, and how long it took."""
    began, row, failures = time.perf_counter(), {}, []
    for column in columns:
        try:
            row[column] = COLUMNS[column](name)
        except Exception as error:  # whatever goes wrong in a check, the others go on
            row[column] = FAILED
            failures.append(f"{name}, {column}: {type(error).__name__}: {error}".strip())
    return row, failures, time.perf_counter() - began


def page(rows: dict[str, dict[str, str]]) -> str:
    where = "numba-cuda's simulator of a GPU" if cuda.SIMULATED else "a GPU"
    lines = [f"| sim | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| [{name}](../envs/{name}.py) | {' | '.join(row.values())} |" for name, row in rows.items()]
    return f"""# The worlds, verified

`make verify-envs` makes this page. An empty cell is a check that does not apply to a sim.

- **off Gymnasium**: the largest difference of a float64 step, state and reward, from Gymnasium's own, over {TRANSITIONS:,} states
  put into both; terminations are the same. (Of MountainCarContinuous-v0 without its rounding to float32 after each step.)
- **random**, **scripted**: how many standard errors the mean return of {EPISODES:,} episodes (fewer where they are long) is off
  the one that the sim states; {MOST:g} would be a failure. "exact": all returns are equal, and as stated.
- **optimum**: the same, of the policy that dynamic programming finds, played by the sim, and the return that it foretells.
- **properties**: what is conserved, mirrored or accounted for, as checked by the sim's own tests.
- **invariance**: 4096 envs do the same to the bit through {test_engine.STEPS} steps one after the other, in parallel on one
  thread and on all, if there are only 1, 7 or 64 of them, and whatever the others do; of their states, the first digits of a
  SHA-256. (Of a sim with sines they depend on the machine.)
- **snapshots**: so many were taken at random times, restored, and had the same future to the bit.
- **devices**: the largest difference of a float32 step between the CPU and {where}, in ulps of
  the largest value in a field; more than 2 where `tests/envs/test_cuda.py` has the reason.
- **golden**: whole-number sims do what they have always done: the first digits of `tests/envs/golden.json`.
- **double levels**: levels of the three splits that are another one's double.

{chr(10).join(lines)}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sims", nargs="*", help="default: all")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if unknown := set(args.sims) - set(envs.sims()):
        parser.error(f"there is no sim {sorted(unknown)[0]!r}. Sims: {', '.join(envs.sims())}.")
    names = [name for name in envs.sims() if not args.sims or name in args.sims]
    longest_first = sorted(names, key=("acrobot", "racer", "labyrinth", "highway", *envs.sims()).index)
    began, rows, failures = time.perf_counter(), {}, []
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        for name, (row, failed, seconds) in zip(longest_first, pool.map(verify, longest_first), strict=True):
            said = "; ".join(f"{column}: {cell}" for column, cell in row.items() if cell)
            print(f"{name} ({seconds:.0f} s): {said}", *failed, sep="\n  ", flush=True)
            rows[name] = row
            failures += failed
    print(f"{len(failures)} checks failed; {time.perf_counter() - began:.0f} s")
    if not args.sims:
        PAGE.write_text(page({name: rows[name] for name in names}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
