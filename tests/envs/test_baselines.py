"""What is written down about returns: baselines act as described, and earn what the references say."""

import importlib
import math
import re

import numpy as np
import pytest

import envs
from envs.engine import conformance

SIMS = [name for name in envs.sims() if envs.get_sim(name).scripted]
MIRRORED = ["acrobot", "cartpole", "pendulum"]
FEW = {"game2048": 60, "racer": 200}  # episodes of those that take long; of the others 500


def test_every_sim_has_a_baseline():
    assert envs.sims() == SIMS


@pytest.mark.parametrize("name", SIMS)
def test_references_are_what_other_episodes_earn_too_and_in_order(name):
    conformance.references(envs.get_sim(name), FEW.get(name, 500))
    references = envs.get_sim(name).references
    assert set(references) == {"random", "scripted", "optimal"} - ({"optimal"} if name == "game2048" else set())


@pytest.mark.parametrize("name", SIMS)
def test_a_sims_page_tells_of_its_references_and_its_numbers_are_theirs(name):
    references = envs.get_sim(name).references
    page = importlib.import_module(f"envs.{name}").__doc__
    assert "**References**" in page
    rows = re.findall(r'^\| "?(random|scripted|optimal)"? \| (-?[\d.]+) \|', page, re.M)
    for policy, number in rows:
        digits = len(number.partition(".")[2])
        assert abs(float(number) - references[policy].mean) <= 0.51 * 10.0**-digits, policy
    assert {policy for policy, _ in rows} in (set(), set(references))


@pytest.mark.parametrize("name", MIRRORED)
def test_a_baseline_does_the_opposite_in_the_mirrored_state(name):
    env = envs.make_vec(name, 200, seed=0)
    env.reset()
    for _ in range(20):
        env.step(env.scripted_actions())
    fields = list(env.sim.state.spec)
    actions = env.scripted_actions()
    for field in fields:
        env.state[field] *= -1
    mirrored = env.scripted_actions()
    opposite = -actions if actions.dtype == np.float32 else env.single_action_space.n - 1 - actions
    np.testing.assert_array_equal(mirrored, opposite)
    assert len(np.unique(actions)) > 1


def test_cartpoles_baseline_balances_from_every_corner_of_the_start():
    env = envs.make_vec("cartpole", 16, seed=0, precision="float64", autoreset_mode="NextStep")
    env.reset()
    for k, field in enumerate(("x", "x_dot", "theta", "theta_dot")):
        env.state[field] = [0.05 if i >> k & 1 else -0.05 for i in range(16)]
    for t in range(500):
        _, _, terminated, truncated, _ = env.step(env.scripted_actions())
        assert not terminated.any()
        assert truncated.all() == (t == 499)


def test_pendulums_baseline_holds_it_upright_in_the_end():
    env = envs.make_vec("pendulum", 100, seed=0, autoreset_mode="NextStep")
    env.reset()
    for _ in range(199):
        env.step(env.scripted_actions())
    angle = np.mod(env.state["theta"] + math.pi, 2 * math.pi) - math.pi
    assert (np.abs(angle) < 0.01).all()
    assert (np.abs(env.state["theta_dot"]) < 0.01).all()


@pytest.mark.parametrize("name", ["mountaincar", "mountaincar_continuous"])
def test_mountain_cars_baselines_push_the_way_they_roll(name):
    env = envs.make_vec(name, 3, seed=0)
    env.reset()
    env.state["velocity"] = [-0.01, 0.0, 0.01]
    strongest = [[-1], [1], [1]] if name == "mountaincar_continuous" else [0, 2, 2]
    assert env.scripted_actions().tolist() == strongest
