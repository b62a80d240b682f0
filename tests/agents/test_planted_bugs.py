"""Do the tests of this folder notice a bug? Each classic one is planted in the source, and a test must fail.

A bug is an edit: in the source of a function, `right` becomes `wrong`.
"""

import inspect
import textwrap
from functools import partial

import pytest
import torch

from rlsys import buffers, returns
from rlsys.agents import dqn, ppo, pqn
from rlsys.distributed import Ranks
from tests import probes
from tests.agents import (
    test_buffers,
    test_determinism,
    test_dqn,
    test_ppo,
    test_pqn,
    test_priorities,
    test_probes,
    test_returns,
    test_sb3_parity,
)

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
q_lambda_by_hand = test_returns.test_q_lambda_agrees_with_a_calculation_by_hand
pqn_values = partial(test_probes.check_pqn, *FOREVER)
pqn_ends = partial(test_probes.check_pqn, *LATER)
pqn_actions = partial(test_probes.check_pqn, *test_probes.ACTIONS[1])
pqn_targets, pqn_update = test_pqn.check_targets, test_pqn.check_update
pqn_explores = partial(test_pqn.check_share_of_random_actions, 0.3)
pqn_chain = test_pqn.test_the_rollout_is_a_chain_of_observations_that_the_next_rollout_continues
pqn_only_resets = partial(test_pqn.test_a_step_that_only_resets_is_never_learned_from, "sim")
pqn_normaliser = test_pqn.test_the_normaliser_learns_from_what_was_seen_after_the_update
successors = test_dqn.test_the_replay_buffer_holds_the_last_observation_of_an_episode_as_its_successor

errors = test_dqn.check_that_errors_become_priorities
weighted = test_dqn.check_weighted_loss
flat_sum = partial(test_priorities.check_against_a_flat_sum, 0)
by_weight = test_priorities.test_weights_agree_with_a_calculation_by_hand
never_zero = test_priorities.test_rounding_never_lands_on_an_item_without_priority
new_ones = test_priorities.test_a_new_transition_gets_the_largest_priority_so_far
twice = test_priorities.test_of_an_item_that_is_drawn_twice_the_larger_error_counts

MAX_Q = "self.value[t], best = self.policy(self.obs[t]).max(-1)"
TAKEN = "torch.where(self.explore[t], self.random_action[t], best)[:, None]"
TAKEN_Q = f"q = self.policy(self.obs[t]); best = q.argmax(-1); self.value[t] = q.gather(-1, {TAKEN})[:, 0]"

BUGS = [  # what is wrong, owner, function, right, wrong, the test that notices
    ("value of the wrong step", returns, "gae", "value[1:]", "value[:-1]", by_hand),
    ("gamma and lambda swapped", returns, "gae", "gamma * next_value", "gae_lambda * next_value", by_hand),
    ("value of the next episode", returns, "gae", "next_value * going_on", "next_value", by_hand),
    ("advantage of the next episode", returns, "gae", "gae_lambda * going_on", "gae_lambda * torch.ones_like(delta)", by_hand),
    ("no lambda", returns, "gae", "gamma * gae_lambda", "gamma", by_hand),
    ("no bootstrap at the time limit", returns, "bootstrap_truncated", "final_value * ", "0 * ", by_hand),
    ("no bootstrap at the time limit", returns, "bootstrap_truncated", "final_value * ", "0 * ", ppo_values),
    ("bootstrap from the next episode", ppo.PPO, "final_values", "self.rollout.final_obs[", "self.obs[1:][", ppo_values),
    ("learning on resets", ppo, "permutations", "not env.has_resets", "True", only_resets),
    ("ratio inverted", ppo.PPO, "loss", "log_ratio.exp()", "(-log_ratio).exp()", like_sb3_ppo),
    ("clipped to the optimist's side", ppo.PPO, "loss", "torch.min(ratio", "torch.max(ratio", like_sb3_ppo),
    ("clipped at one end", ppo.PPO, "loss", "1.0 - clip_range, 1.0 + clip_range", "0.0, 1.0 + clip_range", like_sb3_ppo),
    ("entropy is punished", ppo.PPO, "loss", "- c.ent_coef", "+ c.ent_coef", like_sb3_ppo),
    ("no vf_coef", ppo.PPO, "loss", "c.vf_coef * ", "", like_sb3_ppo),
    ("spread of advantages kept", Ranks, "standardised", " / (x.std() + 1e-8)", "", like_sb3_ppo),
    ("gradients pile up", ppo.PPO, "torch_steps", "self.optimizer.zero_grad()", "pass", like_sb3_ppo),
    ("gradients pile up", dqn.DQN, "gradient_step", "self.optimizer.zero_grad()", "pass", like_sb3_dqn),
    ("squared error", dqn.DQN, "loss", "F.smooth_l1_loss", "F.mse_loss", like_sb3_dqn),
    ("best action by the target network", dqn.DQN, "loss", "self.config.double", "False", double),
    ("value by the policy", dqn.DQN, "loss", "next_q.gather", "self.policy(batch.next_obs).gather", double),
    ("explores when it should not", dqn, "exploration", " < epsilon", " > epsilon", explores),
    ("target network never updated", dqn.DQN, "update_target", "self.config.tau", "0.0", dqn_discounts),
    ("first observation as successor", dqn.DQN, "act_and_step", "step.final_obs", "step.obs", successors),
    ("first observation as successor", dqn.DQN, "act_and_step", "step.final_obs", "step.obs", dqn_values),
    ("observation overwritten by its successor", dqn.DQN, "act_and_step", "self.env.obs.clone()", "self.env.obs", dqn_discounts),
    ("termination taken for the time limit", buffers.Replay, "_batch", " * ~self.flat.terminated[last]", "", dqn_discounts),
    ("time limit taken for termination", buffers.Replay, "_batch", "terminated[last]", "ended[last]", dqn_values),
    ("n steps into the next episode", buffers.Replay, "_batch", "~self.flat.ended[last] & ", "", three_steps),
    ("n steps over the write head", buffers.Replay, "_batch", " & (age < filled)", "", ring),
    ("no gamma between n steps", buffers.Replay, "_batch", "discount * self.flat.reward", "self.flat.reward", three_steps),
    ("learning on resets", buffers.Replay, "sample", "self.has_resets and", "False and", uniform),
    ("lambda ignored", returns, "q_lambda", "gamma * lambda_ *", "gamma *", q_lambda_by_hand),
    ("one step only", returns, "q_lambda", " + decay[t] * running", "", q_lambda_by_hand),
    ("value of the wrong step", returns, "q_lambda", "value[1:]", "value[:-1]", q_lambda_by_hand),
    ("value of the next episode", returns, "q_lambda", "next_value * going_on", "next_value", q_lambda_by_hand),
    ("return of the next episode", returns, "q_lambda", "lambda_ * going_on", "lambda_ + 0 * going_on", q_lambda_by_hand),
    ("nothing after the rollout", returns, "q_lambda", "running = last_value", "running = 0 * last_value", q_lambda_by_hand),
    ("termination overlooked", pqn.PQN, "targets", "roll.terminated | roll.truncated", "roll.truncated", pqn_ends),
    ("time limit taken for termination", pqn.PQN, "targets", "final_value, c.gamma", "0 * final_value, c.gamma", pqn_values),
    ("time limit overlooked", pqn.PQN, "targets", "roll.terminated | roll.truncated", "roll.terminated", pqn_targets),
    ("bootstrap from the next episode", pqn.PQN, "final_values", "self.rollout.final_obs", "self.obs[1:]", pqn_values),
    ("bootstrap from the next episode", pqn.PQN, "final_values", "self.rollout.final_obs", "self.obs[1:]", pqn_targets),
    ("value of the action taken", pqn.PQN, "act_and_step", MAX_Q, TAKEN_Q, pqn_targets),
    ("value of a fixed action", pqn.PQN, "greedy_value", ".amax(-1)", "[:, 0]", pqn_targets),
    ("worst action", pqn.PQN, "act_and_step", ".max(-1)", ".min(-1)", pqn_targets),
    ("explores when it should not", pqn, "exploration", " < epsilon", " > epsilon", pqn_explores),
    ("explores with one action only", pqn, "exploration", "env.action_spec.n,", "1,", pqn_explores),
    ("acts on the last rollout's observation", pqn.PQN, "collect", "self.obs[0].copy_(self.env.obs)", "pass", pqn_chain),
    ("learns on the successor", pqn.PQN, "gradient_steps", "self.obs[:-1]", "self.obs[1:]", pqn_ends),
    ("gradients pile up", pqn.PQN, "gradient_steps", "self.optimizer.zero_grad()", "pass", pqn_update),
    ("gradients not clipped", pqn.PQN, "gradient_steps", "self.config.max_grad_norm", "1e9", pqn_update),
    ("half forgotten", pqn.PQN, "loss", "0.5 * ", "", pqn_update),
    ("best action learned, not the one taken", pqn.PQN, "loss", "action.unsqueeze(-1)", "obs[:, :1].long() * 0", pqn_actions),
    ("learning on resets", pqn, "permutations", "not env.has_resets", "True", pqn_only_resets),
    ("normaliser never updated", pqn.PQN, "iterate", "self.policy.encoder.update_norm", "id or ", pqn_normaliser),
    ("newest row out of reach", buffers.Replay, "sample", "bits % filled", "bits % (filled - 3).clamp(min=1)", uniform),
    ("importance weights forgotten", dqn.DQN, "loss", "(weight * loss)", "loss", weighted),
    ("sign of the error kept", dqn.DQN, "loss", "(q.detach() - target).abs()", "(q.detach() - target)", weighted),
    ("errors not given back", dqn.DQN, "learn_from", "self.replay.update(item, error)", "id(error)", errors),
    ("errors of another minibatch", dqn.DQN, "learn_from", "update(item, ", "update(item.flip(0), ", errors),
    ("no alpha", buffers.PrioritizedReplay, "update", " ** self.alpha", "", errors),
    ("no eps", buffers.PrioritizedReplay, "update", " + self.eps", "", errors),
    ("no beta", buffers.PrioritizedReplay, "draw", " ** beta", "", by_weight),
    ("weights upside down", buffers.PrioritizedReplay, "draw", "p.min() / p", "p / p.max()", by_weight),
    ("n steps over the write head", buffers.PrioritizedReplay, "draw", "item - oldest", "item", flat_sum),
    ("sums of blocks forgotten", buffers.Priorities, "put", "self._add_up(", "id(", flat_sum),
    ("sums of new rows forgotten", buffers.Priorities, "renew", "self._add_up(", "id(", flat_sum),
    ("one block of a new row", buffers.Priorities, "renew", "(n + self.width - 2) // self.width + 1", "1", flat_sum),
    ("resets drawn", buffers.Priorities, "renew", "counts * self.largest", "(counts | True) * self.largest", flat_sum),
    ("new ones not the largest", buffers.Priorities, "renew", "counts * self.largest", "counts.double()", new_ones),
    ("the order of duplicates matters", buffers.Priorities, "put", '"amax"', '"sum"', twice),
    ("all from the first share", buffers.Priorities, "draw", " + uniform) / len(bits)", " * 0 + uniform)", flat_sum),
    ("rounding believed", buffers, "_find", "p.gather(-1, index) > 0.0", "index >= 0", never_zero),
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
        ("dqn, priorities", buffers.Priorities, "self.leaf.copy_("),
        ("dqn, priorities", buffers.Priorities, "self.sums.copy_("),
        ("dqn, priorities", buffers.Priorities, "self.largest.copy_("),
        ("pqn", pqn.PQN, "load_optimizer_state(self.optimizer, "),
        ("pqn", pqn.PQN, "self.generator.set_state("),
        ("pqn", pqn.PQN, "self.env.load_state("),
    ],
)
def test_a_part_forgotten_on_resuming_is_noticed(monkeypatch, tmp_path, case, agent, forgotten):
    plant(monkeypatch, agent, "load_state", forgotten, "id(")  # a call that does nothing
    with pytest.raises(AssertionError):
        test_determinism.check_resume(case, tmp_path)
