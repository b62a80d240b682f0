"""Do the tests of this folder notice a bug? Each classic one is planted in the source, and a test must fail.

A bug is an edit: in the source of a function, `right` becomes `wrong`.
"""

import inspect
import textwrap
from functools import partial

import pytest
import torch

from rlsys import buffers, returns
from rlsys.agents import dqn, ppo
from tests import probes
from tests.agents import test_buffers, test_determinism, test_dqn, test_ppo, test_probes, test_returns, test_sb3_parity

VALUES = dict(test_probes.VALUES)
FOREVER, LATER = ((sim, VALUES[sim]) for sim in (probes.FOREVER, probes.LATER))
by_hand = test_returns.test_gae_agrees_with_a_calculation_by_hand
ppo_values = partial(test_probes.check_ppo_value, *FOREVER)
dqn_values = partial(test_probes.check_dqn, *FOREVER)
dqn_discounts = partial(test_probes.check_dqn, *LATER)
like_sb3_ppo = partial(test_sb3_parity.check_ppo, "cartpole", "CartPole-v1", torch.float32, n_epochs=3)
like_sb3_dqn = partial(test_sb3_parity.check_dqn, torch.float32, 3)
three_steps = test_buffers.test_three_step_transitions_stop_at_termination_and_at_the_newest_step
ring = test_buffers.test_a_full_ring_forgets_the_oldest_and_never_reads_from_the_newest_into_the_oldest
uniform = test_buffers.test_every_transition_is_sampled_equally_often_and_steps_that_only_reset_never
double = partial(test_dqn.check_target, double=True, expected=0)
explores = partial(test_dqn.test_the_share_of_random_actions_is_epsilon, 0.3)
only_resets = partial(test_ppo.test_a_step_that_only_resets_is_never_learned_from, "sim")
successors = test_dqn.test_the_replay_buffer_holds_the_last_observation_of_an_episode_as_its_successor

BUGS = [  # what is wrong, owner, function, right, wrong, the test that notices
    ("value of the wrong step", returns, "gae", "value[1:]", "value[:-1]", by_hand),
    ("gamma and lambda swapped", returns, "gae", "gamma * next_value", "gae_lambda * next_value", by_hand),
    ("value of the next episode", returns, "gae", "next_value * going_on", "next_value", by_hand),
    ("advantage of the next episode", returns, "gae", "gae_lambda * going_on", "gae_lambda * torch.ones_like(delta)", by_hand),
    ("no lambda", returns, "gae", "gamma * gae_lambda", "gamma", by_hand),
    ("no bootstrap at the time limit", returns, "bootstrap_truncated", "final_value * ", "0 * ", by_hand),
    ("no bootstrap at the time limit", returns, "bootstrap_truncated", "final_value * ", "0 * ", ppo_values),
    ("bootstrap from the next episode", ppo.PPO, "final_values", "self.rollout.final_obs[", "self.obs[1:][", ppo_values),
    ("learning on resets", ppo.PPO, "minibatches", "self.env.has_resets", "False", only_resets),
    ("ratio inverted", ppo.PPO, "loss", "log_ratio.exp()", "(-log_ratio).exp()", like_sb3_ppo),
    ("clipped to the optimist's side", ppo.PPO, "loss", "torch.min(ratio", "torch.max(ratio", like_sb3_ppo),
    ("clipped at one end", ppo.PPO, "loss", "1.0 - clip_range, 1.0 + clip_range", "0.0, 1.0 + clip_range", like_sb3_ppo),
    ("entropy is punished", ppo.PPO, "loss", "- c.ent_coef", "+ c.ent_coef", like_sb3_ppo),
    ("no vf_coef", ppo.PPO, "loss", "c.vf_coef * ", "", like_sb3_ppo),
    ("spread of advantages kept", ppo.PPO, "loss", " / (advantage.std() + 1e-8)", "", like_sb3_ppo),
    ("gradients pile up", ppo.PPO, "torch_steps", "self.optimizer.zero_grad()", "pass", like_sb3_ppo),
    ("gradients pile up", dqn.DQN, "learn", "self.optimizer.zero_grad()", "pass", like_sb3_dqn),
    ("squared error", dqn.DQN, "loss", "F.smooth_l1_loss", "F.mse_loss", like_sb3_dqn),
    ("best action by the target network", dqn.DQN, "loss", "self.config.double", "False", double),
    ("value by the policy", dqn.DQN, "loss", "next_q.gather", "self.policy(batch.next_obs).gather", double),
    ("explores when it should not", dqn.DQN, "exploration", " < epsilon", " > epsilon", explores),
    ("target network never updated", dqn.DQN, "update_target", "self.config.tau", "0.0", dqn_discounts),
    ("first observation as successor", dqn.DQN, "act", "step.final_obs", "step.obs", successors),
    ("first observation as successor", dqn.DQN, "act", "step.final_obs", "step.obs", dqn_values),
    ("observation overwritten by its successor", dqn.DQN, "act", "self.env.obs.clone()", "self.env.obs", dqn_discounts),
    ("termination taken for the time limit", buffers.Replay, "sample", " * ~self.flat.terminated[last]", "", dqn_discounts),
    ("time limit taken for termination", buffers.Replay, "sample", "terminated[last]", "ended[last]", dqn_values),
    ("n steps into the next episode", buffers.Replay, "sample", "~self.flat.ended[last] & ", "", three_steps),
    ("n steps over the write head", buffers.Replay, "sample", " & (age < len(self))", "", ring),
    ("no gamma between n steps", buffers.Replay, "sample", "discount * self.flat.reward", "self.flat.reward", three_steps),
    ("learning on resets", buffers.Replay, "sample", "self.has_resets and", "False and", uniform),
    ("newest row out of reach", buffers.Replay, "_draw", "len(self)", "max(len(self) - self.num_envs, 1)", uniform),
]  # fmt: skip


def plant(monkeypatch, owner, name, right, wrong):
    """Replace `right` by `wrong` in the source of `owner.name`."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"{right!r} is in {name} {source.count(right)} times"
    scope: dict = {}
    exec(source.replace(right, wrong), inspect.unwrap(function).__globals__, scope)
    monkeypatch.setattr(owner, name, scope[name])


@pytest.mark.parametrize(
    ("owner", "function", "right", "wrong", "check"),
    [pytest.param(*bug[1:], id=f"{bug[1].__name__.split('.')[-1]}.{bug[2]}: {bug[0]}") for bug in BUGS],
)
def test_a_planted_bug_is_noticed(monkeypatch, owner, function, right, wrong, check):
    plant(monkeypatch, owner, function, right, wrong)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize(
    ("case", "agent", "forgotten"),
    [
        ("ppo", ppo.PPO, "load_optimizer_state(self.optimizer, "),
        ("ppo", ppo.PPO, "self.generator.set_state("),
        ("ppo, everything on, Box", ppo.PPO, "self.return_norm.load_state_dict("),
        ("dqn", dqn.DQN, "self.target.load_state_dict("),
        ("dqn", dqn.DQN, "self.replay.load_state("),
        ("dqn", dqn.DQN, "self.env.load_state("),
    ],
)
def test_a_part_forgotten_on_resuming_is_noticed(monkeypatch, tmp_path, case, agent, forgotten):
    plant(monkeypatch, agent, "load_state", forgotten, "id(")  # a call that does nothing
    with pytest.raises(AssertionError):
        test_determinism.check_resume(case, tmp_path)
