"""Policies: distributions against torch's and SciPy's, actions in the env's units, and rebuilding from plain data."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from rlsys.networks import ObsSpec, Part
from rlsys.policy import (
    ActionSpec,
    Categorical,
    Deterministic,
    Dueling,
    Gaussian,
    Greedy,
    Policy,
    PolicySpec,
    SquashedGaussian,
    build_policy,
)

OBS = ObsSpec([3], "float32", [Part("vector", [3])])
DISCRETE = ActionSpec(n=4)
BOX = ActionSpec(0, [2], [-2.0, 0.0], [2.0, 10.0])
UNBOUNDED = ActionSpec(0, [2], [-math.inf, 0.0], [math.inf, math.inf])
RULES = [
    ("categorical", DISCRETE),
    ("q_values", DISCRETE),
    ("gaussian", BOX),
    ("squashed_gaussian", BOX),
    ("tanh", BOX),
]


def generator():
    return torch.Generator().manual_seed(0)


def policy(rule, action, **options):
    torch.manual_seed(0)
    return Policy(PolicySpec(OBS, action, rule, **options))


# -- distributions -------------------------------------------------------------------------------------------------------


def test_categorical_agrees_with_torch():
    logits = torch.randn(50, 4, dtype=torch.float64) * 3
    action = torch.randint(4, (50,))
    mine, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(mine.log_prob(action), theirs.log_prob(action), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mine.entropy(), theirs.entropy(), rtol=1e-10, atol=1e-10)
    assert mine.mode().equal(logits.argmax(-1))


def test_gaussian_agrees_with_torch_and_scipy():
    mean, log_std = torch.randn(50, 3, dtype=torch.float64), torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    action = torch.randn(50, 3, dtype=torch.float64)
    mine = Gaussian(mean, log_std)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    torch.testing.assert_close(mine.log_prob(action), theirs.log_prob(action), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mine.entropy(), theirs.entropy(), rtol=1e-10, atol=1e-10)
    normal = scipy.stats.norm(mean.numpy(), log_std.exp().numpy())
    np.testing.assert_allclose(mine.log_prob(action), normal.logpdf(action.numpy()).sum(1), rtol=1e-10)
    np.testing.assert_allclose(mine.entropy(), normal.entropy().sum(1), rtol=1e-10)
    assert mine.mode().equal(mean)


def test_a_gaussian_far_from_its_action_still_has_finite_gradients():
    mean = torch.tensor([[1e3]], requires_grad=True)
    Gaussian(mean, torch.tensor([-5.0])).log_prob(torch.tensor([[0.0]])).sum().backward()
    assert torch.isfinite(mean.grad).all()


def test_categorical_samples_each_action_as_often_as_its_probability_says():
    probability = torch.tensor([0.5, 0.25, 0.2, 0.05, 0.0])
    n = 100_000
    sample = Categorical(probability.log().expand(n, 5)).sample(generator())
    count = sample.bincount(minlength=5).double()
    deviation = (n * probability * (1 - probability)).sqrt().clamp(min=1e-9)
    assert ((count - n * probability).abs() <= 5 * deviation).all(), count
    assert count[4] == 0


def test_gaussian_samples_have_the_mean_and_spread_they_should():
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    sample = Gaussian(mean.expand(100_000, 2), std.log()).sample(generator())
    for k in range(2):
        assert scipy.stats.kstest(sample[:, k].numpy(), "norm", (mean[k].item(), std[k].item())).pvalue > 1e-4


def test_the_same_generator_gives_the_same_samples():
    logits, mean = torch.randn(20, 4), torch.randn(20, 2)
    for rule in (Categorical(logits), Gaussian(mean, torch.zeros(2))):
        assert rule.sample(generator()).equal(rule.sample(generator()))


def test_a_squashed_gaussian_is_the_tanh_of_a_gaussian():
    mean, log_std = torch.randn(20, 2), torch.zeros(20, 2)
    squashed, plain = SquashedGaussian(mean, log_std), Gaussian(mean, log_std)
    assert squashed.sample(generator()).equal(plain.sample(generator()).tanh())
    assert squashed.mode().equal(mean.tanh())


def test_greedy_and_deterministic_rules_do_not_explore():
    q = torch.randn(20, 4)
    assert Greedy(q).sample(generator()).equal(q.argmax(-1))
    assert Deterministic(q).sample(generator()).equal(q)


def test_a_policy_acts_as_its_spec_says_unless_it_is_asked_otherwise():
    obs = torch.randn(200, 3)
    best = policy("gaussian", BOX).act(obs)
    drawn = policy("gaussian", BOX).act(obs, deterministic=False, generator=generator())
    assert not drawn.equal(best)
    spec = replace(policy("gaussian", BOX).spec, deterministic=False)
    stochastic = Policy(spec)
    stochastic.load_state_dict(policy("gaussian", BOX).state_dict())
    assert stochastic.act(obs, generator=generator()).equal(drawn)
    assert stochastic.act(obs, deterministic=True).equal(best)


def test_dueling_values_average_to_the_state_value():
    head, x = Dueling(5, 4), torch.randn(7, 5)
    torch.testing.assert_close(head(x).mean(-1), head.value(x).squeeze(-1))
    torch.testing.assert_close(head(x)[:, 1] - head(x)[:, 0], head.advantage(x)[:, 1] - head.advantage(x)[:, 0])


# -- actions in the env's units ------------------------------------------------------------------------------------------


def test_a_bounded_box_is_minus_one_to_one_to_the_policy_and_clipped_to_its_bounds():
    box = policy("gaussian", BOX)
    actions = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 0.5], [-7.0, 7.0]])
    assert box.to_env(actions).tolist() == [[-2.0, 0.0], [0.0, 5.0], [2.0, 7.5], [-2.0, 10.0]]


def test_a_box_without_all_its_bounds_is_left_alone():
    actions = torch.tensor([[-100.0, 100.0]])
    assert policy("gaussian", UNBOUNDED).to_env(actions).equal(actions)


def test_actions_have_the_shape_of_the_box():
    box = policy("gaussian", ActionSpec(0, [2, 3], [-1.0] * 6, [1.0] * 6))
    assert box.act(torch.randn(5, 3)).shape == (5, 2, 3)


@pytest.mark.parametrize(("rule", "action"), RULES)
@pytest.mark.parametrize("deterministic", [True, False])
def test_every_rule_acts_within_the_action_space(rule, action, deterministic):
    chosen = policy(rule, action).act(10 * torch.randn(200, 3), deterministic=deterministic, generator=generator())
    assert not chosen.requires_grad
    if action.n:
        assert chosen.shape == (200,)
        assert chosen.dtype == torch.int64
        assert set(chosen.tolist()) <= set(range(4))
    else:
        assert chosen.shape == (200, 2)
        assert ((chosen >= torch.tensor(BOX.low)) & (chosen <= torch.tensor(BOX.high))).all()


# -- rebuilding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "action"), RULES)
def test_a_policy_is_rebuilt_from_plain_data_and_its_tensors(rule, action):
    options = {"dueling": rule == "q_values", "layer_norm": rule == "q_values"}
    original = policy(rule, action, normalize=True, hidden=[8], activation="elu", **options)
    original.encoder.update_norm(3 + 2 * torch.randn(100, 3))
    state = original.state()
    assert PolicySpec.from_json(json.loads(json.dumps(state["spec"]))) == original.spec
    state["spec"] = json.loads(json.dumps(state["spec"]))
    torch.manual_seed(1)
    rebuilt, obs = build_policy(state), torch.randn(20, 3)
    assert rebuilt.act(obs).equal(original.act(obs))
    sample = {"deterministic": False}
    assert rebuilt.act(obs, **sample, generator=generator()).equal(original.act(obs, **sample, generator=generator()))


def test_a_checkpoint_from_before_layer_normalisation_is_a_policy_without_it():
    original = policy("categorical", DISCRETE)
    spec = json.loads(original.spec.to_json())
    del spec["layer_norm"]
    old, obs = {**original.state(), "spec": json.dumps(spec)}, torch.randn(20, 3)
    assert build_policy(old)(obs).equal(original(obs))
    other = policy("categorical", DISCRETE)
    other.head.bias.data += 1.0
    other.load_state(old)
    assert other(obs).equal(original(obs))
    with pytest.raises(ValueError, match="the checkpoint's policy is"):
        policy("categorical", DISCRETE, layer_norm=True).load_state(old)


def test_an_unbounded_box_survives_json():
    spec = policy("gaussian", UNBOUNDED).spec
    assert PolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_state_of_another_structure_is_refused():
    with pytest.raises(ValueError, match="the checkpoint's policy is"):
        policy("gaussian", BOX).load_state(policy("gaussian", BOX, hidden=[8]).state())


def test_an_unknown_rule_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="rule='softmax' is not one of gaussian, squashed_gaussian, categorical"):
        policy("softmax", DISCRETE)


def test_a_fresh_policy_is_close_to_indifferent():
    probability = policy("categorical", DISCRETE)(torch.randn(100, 3)).softmax(-1)
    assert (probability - 0.25).abs().max() < 0.02  # the output layer starts small: SB3's gain of 0.01
