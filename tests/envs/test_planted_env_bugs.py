"""Do the tests of this folder notice a bug in a world, or in the engine? Each classic one is planted, and a test must fail.

A bug is an edit: in the source of a sim's file, of batch.py or of a function of the engine, `right` becomes `wrong`. The
tests then run uncompiled, on `backend="python"`: a bug is not worth compiling.
"""

import importlib
import inspect
import sys
import textwrap
import types
from functools import partial

import pytest

import envs
from envs.engine import kernels, rng
from envs.engine.vector import SimVectorEnv
from tests.envs import (
    test_battery,
    test_breakout,
    test_engine,
    test_exact_ports,
    test_first_env,
    test_game2048,
    test_highway,
    test_inventory,
    test_labyrinth,
    test_maze,
    test_pricing,
    test_pushdisc,
    test_quadrotor,
    test_racer,
    test_reacher,
    test_scheduling,
    test_snake,
)

EVERYBODY = test_scheduling.test_every_customer_is_accounted_for_and_every_cost.hypothesis.inner_test
FUTURE = test_engine.test_a_restored_snapshot_has_the_same_future.hypothesis.inner_test

cartpole_ends = partial(test_exact_ports.test_cartpole_ends_one_ulp_beyond_a_limit_and_not_on_it, 1)
car_stops = partial(test_exact_ports.test_mountaincar_ends_on_the_goal_and_stops_at_the_left_end, 0)
starts = partial(test_exact_ports.test_spaces_limits_and_start_are_gymnasiums, "pendulum", "Pendulum-v1")
arrives = partial(test_inventory.test_an_order_is_on_the_shelf_after_the_lead_time, 2)
cut = partial(test_inventory.test_an_order_is_cut_to_the_capacity, 30, [3, 3, 3, 0], 1)
hour = partial(test_battery.test_hours_by_hand, 0, test_battery.NORMAL, 5, test_battery.BUY_2, (7, -2 * 17 * 6 - 32))
edge = partial(test_breakout.test_where_it_lands_on_the_paddle_decides_where_the_ball_goes, -1, 1, 1, 1)
smaller = partial(test_labyrinth.test_every_level_is_a_spanning_tree_of_its_cells_and_solid_beyond, 9, 9)
window = partial(test_maze.test_the_observation_is_the_window_around_the_agent, ("maze", {}))
rewarded = partial(
    test_maze.test_the_agent_walks_where_no_wall_is_and_a_thread_lies_on_the_way_it_would_go_back, test_maze.KINDS[1]
)
part = partial(test_first_env.test_two_parts_do_what_the_whole_does, "plain Python")
thread = partial(
    test_maze.test_the_agent_walks_where_no_wall_is_and_a_thread_lies_on_the_way_it_would_go_back, ("maze", {})
)
walls = partial(test_racer.test_the_road_ends_at_its_walls, "left")
customers = partial(EVERYBODY, seed=0, loss=7, choices=3)
same_step = partial(test_engine.test_same_step_autoreset_by_hand, "python")
next_step = partial(test_engine.test_next_step_autoreset_by_hand, "python")
same_future = partial(FUTURE, name="cartpole", before=20, seed=5)

IN_SIMS = [  # sim, what is wrong, right, wrong, the test that notices
    ("acrobot", "an angle not wrapped", "s.theta1 = wrapped(", "s.theta1 = (",
     test_exact_ports.test_acrobots_angles_are_wrapped_as_gymnasiums),
    ("acrobot", "wrong sign of the Coriolis force", "phi1 -= reach", "phi1 += reach",
     test_exact_ports.test_acrobots_angles_are_wrapped_as_gymnasiums),
    ("battery", "efficiency applied twice", "-drawn * price(s)", "-(drawn * 17 // 16) * price(s)", hour),
    ("breakout", "off by one at the paddle's end", "cell == width - 1", "cell == width", edge),
    ("cartpole", "ends on the limit", "abs(s.x) > p.x_limit", "abs(s.x) >= p.x_limit", cartpole_ends),
    ("cartpole", "Euler made semi-implicit", "s.x += p.tau * s.x_dot\n    s.x_dot += p.tau * x_acc",
     "s.x_dot += p.tau * x_acc\n    s.x += p.tau * s.x_dot", cartpole_ends),
    ("game2048", "the next move anticlockwise", "(action + turn) % 4", "(action - turn) % 4",
     partial(test_game2048.test_in_place_of_a_move_that_changes_nothing_the_next_one_clockwise_is_made, 3, 1)),
    ("highway", "no wrap-around behind", "return distance - RING if distance >= 0.5 * RING else distance",
     "return distance", test_highway.test_collisions_by_hand),
    ("inventory", "missing cap", "min(action, CAPACITY - position(s))", "action", cut),
    ("inventory", "lead time off by one", "s.pipeline[lead_time(p) - 1] =", "s.pipeline[lead_time(p)] =", arrives),
    ("labyrinth", "deaf to its parameter", "build(s, SIZE, side_of(p))", "build(s, SIZE, MOST)", smaller),
    ("maze", "window off by one", "left = int(s.row) - REACH, int(s.column) - REACH",
     "left = int(s.row) - REACH, int(s.column) - REACH + 1", window),
    ("maze", "came from the other side", "s.row, s.column, s.came = row, column, action + 1",
     "s.row, s.column, s.came = row, column, (action + 2) % 4 + 1", thread),
    ("maze", "the thread is never wound up", "if code == THREAD:", "if False:", thread),
    ("maze", "a bonus wherever it goes", "if code == OPEN", "if code != WALL", rewarded),
    ("maze", "swapped actions", "int(s.row) + DOWN[action], int(s.column) + RIGHT[action]",
     "int(s.row) + RIGHT[action], int(s.column) + DOWN[action]", test_maze.test_moves_by_hand),
    ("mountaincar", "keeps its speed at the stop", "0.0 if position == LEFT_END and velocity < 0.0 else velocity",
     "velocity", car_stops),
    ("mountaincar_continuous", "pays for the clipped action", "s.push = action[0]", "s.push = min(max(action[0], -1.0), 1.0)",
     test_exact_ports.test_mountaincar_continuous_pays_for_the_action_as_given_but_is_pushed_by_the_clipped_one),
    ("pendulum", "sign of the reward", "return -cost", "return cost",
     test_exact_ports.test_pendulum_reward_is_of_the_state_before_the_step),
    ("pendulum", "missing wrap-around", "angle = from_upright(s.theta)\n    cost", "angle = s.theta\n    cost",
     test_exact_ports.test_pendulums_angle_is_normalised_as_gymnasiums_at_every_half_turn),
    ("pricing", "sells on when sold out", "s.seats <= 0 or ", "",
     test_pricing.test_the_last_seat_ends_the_episode_and_nothing_is_sold_after_it),
    ("pushdisc", "pushed to one side only", "if aside < 0.0:\n            sine", "if aside > 9.0:\n            sine",
     test_pushdisc.test_the_table_is_the_same_in_the_mirror_and_from_each_of_its_sides),
    ("quadrotor", "wrong sign of gravity", "lift * math.cos(s.theta) - p.gravity", "lift * math.cos(s.theta) + p.gravity",
     test_quadrotor.test_without_thrust_energy_and_spin_are_kept),
    ("quadrotor_gates", "height of another moment", "abs(height - s.gate_z", "abs(s.z - s.gate_z",
     test_quadrotor.test_gates_by_hand),
    ("racer", "only forward", "progress = (sections + share_of_section(s))", "progress = abs(sections + share_of_section(s))",
     test_racer.test_to_drive_backwards_costs_what_it_had_earned),
    ("racer", "no price for leaving", "0.1 * progress - 1.0", "0.1 * progress", walls),
    ("reacher", "missing wrap-around", "wrapped(s.shoulder), wrapped(s.elbow)", "s.shoulder, s.elbow",
     test_reacher.test_angles_stay_within_a_turn),
    ("scheduling", "room for one more", "s.waiting[k] >= ROOM", "s.waiting[k] > ROOM", customers),
    ("snake", "the wall on the first row", "moved(SIZE, down), ", "moved(0, down), ",
     test_snake.test_the_observation_shows_the_whole_state_around_the_head),
    ("snake", "the tail is in the way", " and target != s.tail", "",
     test_snake.test_the_cell_that_the_tail_leaves_may_be_entered),
]  # fmt: skip

IN_BATCH = [  # what is wrong, right, wrong, the test that notices
    ("last observation of the next episode", "_begin(world, i, -1, obs)\n    return num_ended",
     "_begin(world, i, -1, obs)\n                _copy(obs[i], final_obs[i])\n    return num_ended",
     test_engine.test_final_observation_and_statistics_of_an_episode_that_ended),
    ("truncation off by one", "s.elapsed >= max_steps", "s.elapsed > max_steps", same_step),
    ("never reset", "                _begin(world, i, -1, obs)\n    return", "                pass\n    return", same_step),
    ("reward of a reset", "reward[i] = 0.0", "reward[i] = r if i < 0 else 1.0", next_step),
    ("record not cleared", "states[i] = blank[0]\n", "states[i].draws = 0\n",
     test_engine.test_final_observation_and_statistics_of_an_episode_that_ended),
    ("numbered from 0 in a larger batch", "np.uintp(first_env) + np.uintp(i)", "np.uintp(i)", part),
    ("reset of the others", "if mask[i]:", "if True:",
     test_engine.test_a_new_reset_begins_a_new_episode_and_its_statistics),
]  # fmt: skip

IN_FUNCTIONS = [  # what is wrong, owner, function, right, wrong, the test that notices
    ("seed shared between envs", rng, "stream_key", "np.uint64(env)", "np.uint64(0)", starts),
    ("levels of another split", rng, "level_of", "first + bounded", "bounded",
     test_engine.test_num_levels_takes_the_first_levels_of_the_split_and_all_of_them_come),
    ("randomised parameters not restored", SimVectorEnv, "set_state", "self._states[:], self._params[:] = states, params",
     "self._states[:] = states", test_engine.test_a_snapshot_restores_randomised_parameters_in_another_env),
    ("random stream not restored", SimVectorEnv, "set_state", "self._seed[:] =", "_ =", same_future),
    ("range of a parameter ignored", SimVectorEnv, "_seed_episode_streams", "low + (high - low) * random", "random",
     test_engine.test_a_range_is_drawn_for_each_env_from_the_seed),
]  # fmt: skip


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Envs are run by plain Python, each from the source as it now stands."""
    make = envs.make_vec
    monkeypatch.setattr(envs, "make_vec", lambda sim, n=1, **how: make(sim, n, **{"backend": "python", **how}))
    monkeypatch.setattr(kernels, "load", inspect.unwrap(kernels.load))  # without its cache


def replaced(source, right, wrong):
    assert source.count(right) == 1, f"{right!r} is there {source.count(right)} times"
    return source.replace(right, wrong)


def plant_in_sim(monkeypatch, name, right, wrong):
    """Put a module with the bug in the place of envs.`name`; what tests have imported from there stays right."""
    module = importlib.import_module(f"envs.{name}")
    faulty = types.ModuleType(module.__name__)
    exec(replaced(inspect.getsource(module), right, wrong), vars(faulty))
    monkeypatch.setitem(sys.modules, module.__name__, faulty)


def plant_in_batch(monkeypatch, folder, right, wrong):
    faulty = folder / "batch.py"
    faulty.write_text(replaced(kernels.BATCH.read_text(), right, wrong))
    monkeypatch.setattr(kernels, "BATCH", faulty)


def plant_in_function(monkeypatch, owner, name, right, wrong):
    function = getattr(owner, name)
    function = getattr(function, "py_func", function)
    scope: dict = {}
    source = textwrap.dedent(inspect.getsource(function))
    exec(replaced(source, right, wrong), function.__globals__, scope)
    monkeypatch.setattr(owner, name, scope[name])


CHECKS = list(dict.fromkeys(bug[-1] for bug in (*IN_SIMS, *IN_BATCH, *IN_FUNCTIONS)))


@pytest.mark.parametrize("check", CHECKS)
def test_without_a_bug_nothing_is_noticed(check):
    check()


@pytest.mark.parametrize(
    ("name", "right", "wrong", "check"), [pytest.param(bug[0], *bug[2:], id=f"{bug[0]}: {bug[1]}") for bug in IN_SIMS]
)
def test_a_bug_in_a_sim_is_noticed(monkeypatch, name, right, wrong, check):
    plant_in_sim(monkeypatch, name, right, wrong)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize(("right", "wrong", "check"), [pytest.param(*bug[1:], id=bug[0]) for bug in IN_BATCH])
def test_a_bug_in_the_engine_is_noticed(monkeypatch, tmp_path, right, wrong, check):
    plant_in_batch(monkeypatch, tmp_path, right, wrong)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize(
    ("owner", "name", "right", "wrong", "check"), [pytest.param(*bug[1:], id=bug[0]) for bug in IN_FUNCTIONS]
)
def test_a_bug_in_a_function_of_the_engine_is_noticed(monkeypatch, owner, name, right, wrong, check):
    plant_in_function(monkeypatch, owner, name, right, wrong)
    with pytest.raises(AssertionError):
        check()


def test_splits_that_share_levels_are_noticed(monkeypatch):
    monkeypatch.setitem(test_engine.SPLITS, "test", (2**29, 2**29))
    with pytest.raises(AssertionError):
        test_engine.test_splits_have_disjoint_levels_and_different_streams()


def test_every_sim_has_a_bug_to_be_noticed():
    assert {bug[0] for bug in IN_SIMS} == set(envs.sims())
