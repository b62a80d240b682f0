"""Evaluation: which episodes are counted, on what, and the statistics of their returns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from envs.engine.vector import SimVectorEnv
from rlsys.config import GymnasiumConfig, SimConfig
from rlsys.evaluate import Report, evaluate, final_report, held_out
from rlsys.policy import Policy, PolicySpec
from rlsys.torchenv import Scale, TorchEnv, has_levels, make_env, reward_threshold, score_scale


def policy_for(env: TorchEnv, seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    return Policy(PolicySpec(env.obs_spec, env.action_spec, "categorical", orthogonal=False))


def test_each_env_plays_its_share_so_that_short_episodes_do_not_crowd_out_long_ones():
    # Random pushes end CartPole after some 20 steps, and each env's k-th episode is the same whatever the others do.
    env = make_env(SimConfig(), 4, split="test", seed=0)
    report = evaluate(policy_for(env), env, 10)
    assert len(report.returns) == 10  # 3 + 3 + 2 + 2
    alone = make_env(SimConfig(), 1, split="test", seed=0)
    first = evaluate(policy_for(alone), alone, 3)
    assert report.returns[:3].tolist() == first.returns.tolist()
    assert report.lengths[:3].tolist() == first.lengths.tolist()


def test_evaluating_twice_gives_the_same_report_and_leaves_the_policy_as_it_was():
    env = make_env(SimConfig(), 8, split="test", seed=0)
    policy = policy_for(env).train()
    weights = {name: x.clone() for name, x in policy.state_dict().items()}
    a, b = (evaluate(policy, env, 8, deterministic=False, seed=5) for _ in range(2))
    assert a.returns.tolist() == b.returns.tolist()
    assert policy.training
    assert all(torch.equal(x, weights[name]) for name, x in policy.state_dict().items())


def test_training_may_have_parameters_of_its_own_and_evaluation_keeps_the_worlds():
    both = SimConfig(params={"gravity": 5.0}, train_params={"gravity": 20.0})
    policy = policy_for(make_env(SimConfig(), 1, split="test", seed=0))
    one = SimConfig(params={"gravity": 5.0})
    for split in ("train", "validation", "test"):  # also on the levels trained on, to be compared with the others
        played = [held_out(policy, config, 20, split).returns.tolist() for config in (both, one)]
        assert played[0] == played[1]
    own = SimConfig(train_params={"gravity": [5.0, 20.0]})
    assert make_env(own, 8, split="train", seed=0).env.params["half_length"].tolist() == [0.5] * 8
    assert len(set(make_env(own, 8, split="train", seed=0).env.params["gravity"].tolist())) == 8


def test_a_policy_that_draws_its_actions_is_evaluated_drawing_them():
    env = make_env(SimConfig(), 8, split="test", seed=0)
    policy = policy_for(env)
    best, drawn = (evaluate(policy, env, 8, deterministic=how).returns.tolist() for how in (True, False))
    assert best != drawn
    policy.spec = replace(policy.spec, deterministic=False)
    assert evaluate(policy, env, 8).returns.tolist() == drawn
    assert evaluate(policy, env, 8, deterministic=True).returns.tolist() == best


def test_splits_are_different_episodes():
    policy = policy_for(make_env(SimConfig(), 1, split="test", seed=0))
    reports = [held_out(policy, SimConfig(), 20, split).returns.tolist() for split in ("train", "validation", "test")]
    assert reports[0] != reports[1] != reports[2] != reports[0]


def test_a_gymnasium_env_is_evaluated_alike():
    config = GymnasiumConfig(id="CartPole-v1")
    policy = policy_for(make_env(config, 1, split="test", seed=0))
    a, b = (held_out(policy, config, 6, "test") for _ in range(2))
    assert a.returns.tolist() == b.returns.tolist()
    assert (a.returns == a.lengths).all()  # CartPole pays 1 a step


def test_thresholds_come_from_the_envs_authors():
    assert reward_threshold(SimConfig(name="cartpole")) == 475
    assert reward_threshold(SimConfig(name="pendulum")) is None
    assert reward_threshold(GymnasiumConfig(id="CartPole-v1")) == 475


def test_levels_of_the_training_config_do_not_limit_the_test_levels():
    config = SimConfig(name="maze", levels=3)
    train = make_env(config, 64, split="train", seed=0).env
    test = make_env(config, 64, split="test", seed=0).env
    assert isinstance(train, SimVectorEnv)
    assert isinstance(test, SimVectorEnv)
    assert len(set(train.state["level"].tolist())) <= 3
    assert len(set(test.state["level"].tolist())) > 50
    assert set(train.state["level"].tolist()).isdisjoint(test.state["level"].tolist())


def report_of(*returns: float, **fields) -> Report:
    return Report(np.array(returns, np.float64), np.ones(len(returns), np.int64), **fields)


def test_the_score_and_its_interval_are_those_of_the_mean_on_the_scale():
    report = report_of(0.0, 10.0, 10.0, 40.0, scale=Scale("scripted", random=-10.0, best=30.0))
    assert report.score == report.metrics()["eval/score_normalised"] == (15.0 + 10.0) / 40.0
    data = report.to_json()
    low, high = data["eval/mean_reward_ci95"]
    assert data["eval/score_normalised_ci95"] == [(low + 10.0) / 40.0, (high + 10.0) / 40.0]
    assert data["score_reference"] == "scripted"
    without = report_of(1.0, 2.0)
    assert without.score is None
    assert "eval/score_normalised" not in without.metrics()  # a metric is a number
    assert without.to_json()["eval/score_normalised"] is None
    assert without.to_json()["score_reference"] is None


def test_the_gap_is_the_mean_on_the_levels_trained_on_minus_that_on_the_others():
    report = report_of(0.0, 1.0, 0.0, 0.0, train=report_of(1.0, 1.0, 0.0, 1.0))
    assert report.mean == report.metrics()["eval/mean_reward"] == 0.25
    assert report.metrics()["eval/train_mean_reward"] == 0.75
    assert report.metrics()["eval/generalisation_gap"] == 0.5
    assert report_of(1.0).generalisation() == {}
    assert not [tag for tag in report_of(1.0).to_json() if "train" in tag or "gap" in tag]


def test_the_interval_of_the_gap_is_that_of_two_independent_samples():
    rng = np.random.default_rng(4)
    train, test = rng.normal(3.0, 1.0, 50), rng.normal(1.0, 2.0, 50)
    low, high = report_of(*test, train=report_of(*train)).intervals()["eval/generalisation_gap_ci95"]
    found = stats.bootstrap(
        (train, test), lambda a, b, axis: a.mean(axis) - b.mean(axis), method="percentile", rng=rng
    ).confidence_interval
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.04)
    # Resampled alike, two samples that go together would seem to differ by exactly so much.
    same = report_of(*test, train=report_of(*test + 1.0)).intervals()["eval/generalisation_gap_ci95"]
    assert same[1] - same[0] > 1.0


def test_an_evaluation_has_a_score_where_the_sims_references_hold():
    policy = policy_for(make_env(SimConfig(), 1, split="test", seed=0))
    report = held_out(policy, SimConfig(), 4, "test")
    assert report.scale == Scale("optimal", 22.493, 500.0)
    assert report.score == pytest.approx((report.mean - 22.493) / 477.507, abs=1e-12)
    same = SimConfig(params={"gravity": 9.8}, max_episode_steps=500)
    assert held_out(policy, same, 4, "validation").scale == report.scale
    for other in ({"params": {"gravity": [9.0, 10.0]}}, {"params": {"gravity": 9.0}}, {"max_episode_steps": 40}):
        assert held_out(policy, SimConfig(**other), 4, "test").score is None
    assert score_scale(GymnasiumConfig(id="CartPole-v1"), "test") is None
    few = SimConfig(name="maze", levels=3)  # may be easier than mazes are
    assert score_scale(few, "train") is None
    assert score_scale(few, "test") == score_scale(SimConfig(name="maze"), "train") == Scale("optimal", 0.1551, 1.0)


def test_the_final_report_has_the_test_levels_and_the_very_levels_that_were_trained_on():
    config = SimConfig(name="maze", levels=8, max_episode_steps=60)
    assert has_levels(config)
    policy = policy_for(make_env(config, 1, split="test", seed=0), seed=3)
    options = {"deterministic": False, "seed": 5}
    report = final_report(policy, config, 40, **options)
    assert report.train is not None
    assert report.returns.tolist() == held_out(policy, config, 40, "test", **options).returns.tolist()
    assert report.train.returns.tolist() == held_out(policy, config, 40, "train", **options).returns.tolist()
    every_level = SimConfig(name="maze", max_episode_steps=60)
    others = [
        held_out(policy, config, 40, "validation", **options),
        held_out(policy, every_level, 40, "train", **options),
    ]
    for other in (report, *others):  # some goals are near enough to be found by chance
        assert other.mean > 0
        assert report.train.returns.tolist() != other.returns.tolist()
    assert report.metrics()["eval/generalisation_gap"] == report.train.mean - report.mean
    shaped = replace(config, train_params={"discovery": 1.0})
    assert final_report(policy, shaped, 40, **options).metrics() == report.metrics()


def test_without_levels_the_final_report_is_that_of_the_test_split_alone():
    assert not has_levels(SimConfig())
    assert not has_levels(GymnasiumConfig(id="CartPole-v1"))
    policy = policy_for(make_env(SimConfig(), 1, split="test", seed=0))
    assert final_report(policy, SimConfig(), 3).train is None
