"""`rlsys compare`: which logs are read, how runs become groups, what is said of them, and how it looks."""

import contextlib
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from rlsys import chart, cli, config, events, readers, report
from rlsys.compare import CompareError, compare


def write_run(
    folder,
    *,
    seed=0,
    env=None,
    agent=None,
    points=((1000, 20.0), (2000, 40.0)),
    score=50.0,
    tag="eval/mean_reward",
    **more,
):
    """A run's folder as rlsys leaves it; score=None: it has not ended."""
    folder = folder / f"{env}-{agent}-{more}-s{seed}".replace("/", "-").replace(" ", "")
    folder.mkdir(parents=True)
    data = {"env": env or {"name": "cartpole"}, "agent": agent or {"name": "ppo"}, "seed": seed, **more}
    (folder / "config.yaml").write_text(config.to_yaml(config.resolve(data)))
    (folder / "command.txt").write_text("rlsys train\n")
    lines = [json.dumps({"step": step, tag: value}) for step, value in points]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if score is not None:
        (folder / "summary.json").write_text(json.dumps({"score": score, "steps": points[-1][0]}))
    return folder


def write_sweep(folder, scores, **more):
    for rate, per_seed in scores.items():
        for seed, score in enumerate(per_seed):
            write_run(folder, seed=seed, agent={"name": "ppo", "learning_rate": rate}, score=score, **more)


# -- readers -------------------------------------------------------------------------------------------------------------


def test_stable_baselines3s_own_logs_are_read(tmp_path):
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gymnasium.make("CartPole-v1"), str(tmp_path / "monitors" / "0"))
    judge = EvalCallback(
        Monitor(gymnasium.make("CartPole-v1")),
        n_eval_episodes=3,
        eval_freq=128,
        log_path=str(tmp_path / "evals"),
        verbose=0,
        warn=False,
    )
    model = PPO("MlpPolicy", env, n_steps=128, n_epochs=1, tensorboard_log=str(tmp_path / "tb"), seed=0, device="cpu")
    model.learn(512, callback=judge)
    env.close()

    (events,), _ = readers.read(str(tmp_path / "tb"))
    (monitor,), _ = readers.read(str(tmp_path / "monitors"))
    (evals,), _ = readers.read(str(tmp_path / "evals"))
    assert (events.agent, events.seed, events.task) == ("PPO (SB3)", "1", readers.UNKNOWN_TASK)
    assert monitor.task == "CartPole-v1"
    assert readers.read(str(tmp_path / "tb"), "cartpole")[0][0].task == "cartpole"
    assert set(evals.series) == {"eval/mean_reward"}

    stored = np.load(tmp_path / "evals" / "evaluations.npz")
    assert evals.series["eval/mean_reward"].steps.tolist() == [128, 256, 384, 512]
    np.testing.assert_allclose(evals.series["eval/mean_reward"].values, stored["results"].mean(1))
    np.testing.assert_allclose(events.series["eval/mean_reward"].values, stored["results"].mean(1), rtol=1e-6)
    # Both say what SB3 itself has: the mean of the episodes so far.
    rewards, lengths = env.get_episode_rewards(), env.get_episode_lengths()
    found = monitor.series["rollout/ep_rew_mean"]
    assert found.steps.tolist() == np.cumsum(lengths).tolist()
    assert found.values[-1] == pytest.approx(np.mean(rewards[-100:]))
    assert events.series["rollout/ep_rew_mean"].values[-1] == pytest.approx(np.mean(rewards[-100:]), rel=1e-6)


def test_cleanrls_logs_are_read_by_its_tags_and_settings(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for seed in (1, 2):
        writer = SummaryWriter(str(tmp_path / f"CartPole-v1__ppo__{seed}__1700000000"))
        rows = {"exp_name": "ppo", "env_id": "CartPole-v1", "seed": seed, "learning_rate": 0.00025, "track": False}
        table = "|param|value|\n|-|-|\n" + "\n".join(f"|{name}|{value}|" for name, value in rows.items())
        writer.add_text("hyperparameters", table)
        for episode in range(150):
            writer.add_scalar("charts/episodic_return", episode + 10 * seed, 20 * (episode + 1))
        writer.close()
    runs, _ = readers.read(str(tmp_path))
    assert [(run.task, run.agent, run.seed) for run in runs] == [("CartPole-v1", "ppo (CleanRL)", s) for s in "12"]
    assert runs[0].keys["learning_rate"] == "0.00025"
    assert "track" not in runs[0].keys
    found = runs[0].series["rollout/ep_rew_mean"]
    assert found.steps[[0, -1]].tolist() == [20, 3000]
    assert found.values[9] == pytest.approx(np.mean(10.0 + np.arange(10)))  # of the ten so far
    assert found.values[-1] == pytest.approx(np.mean(10.0 + np.arange(50, 150)))  # of the latest 100
    compared = compare([str(tmp_path)])
    assert compared.groups == ["ppo (CleanRL)"]
    assert compared.tasks["CartPole-v1"]["ppo (CleanRL)"].seeds == ["1", "2"]


def test_monitors_of_several_envs_are_one_run_in_the_order_in_which_episodes_ended(tmp_path):
    folder = tmp_path / "a2c" / "Pendulum-v1_3"
    folder.mkdir(parents=True)
    (folder / "0.monitor.csv").write_text('#{"t_start": 100.0, "env_id": "None"}\nr,l,t\n-1.0,10,1.0\n-3.0,10,3.0\n-9')
    (folder / "1.monitor.csv").write_text('#{"t_start": 100.5, "env_id": "None"}\nr,l,t\n-2.0,5,1.0\n')
    (run,), _ = readers.read(str(tmp_path))
    assert (run.task, run.agent, run.seed) == ("Pendulum-v1", "a2c (SB3)", "3")  # RL Zoo's folders
    found = run.series["rollout/ep_rew_mean"]
    assert found.steps.tolist() == [10, 15, 25]  # the row that was cut short is passed over
    assert found.values.tolist() == [-1.0, -1.5, -2.0]


def test_nothing_in_an_npz_is_unpickled(tmp_path):
    np.savez(tmp_path / "evaluations.npz", timesteps=np.array([1]), results=np.array([{"a": 1}], dtype=object))
    found, (note,) = readers.read(str(tmp_path))
    assert found == []
    assert re.search(r"evaluations.npz is not an evaluations.npz.*allow_pickle", note)
    with pytest.raises(CompareError, match="none of the runs can be read"):
        compare([str(tmp_path)])


def test_our_own_event_files_can_be_read_too(tmp_path):
    with contextlib.closing(events.Events(tmp_path)) as writer:
        writer.scalars(10, {"train/loss": 0.5})
        writer.text(0, "config", "seed: 1")
    scalars, texts = events.read(tmp_path)
    assert scalars == {"train/loss": [(10, 0.5)]}
    assert texts == {"config": "seed: 1"}


# -- groups --------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_by_the_seed_alone_are_a_group_named_by_what_differs(tmp_path):
    write_sweep(tmp_path, {1e-3: [400.0, 420.0, 500.0], 3e-4: [100.0, 90.0, 120.0]})
    found = compare([str(tmp_path)])
    assert set(found.groups) == {"agent.learning_rate=0.001", "agent.learning_rate=0.0003"}
    cell = found.tasks["cartpole"]["agent.learning_rate=0.001"]
    assert sorted(cell.values) == [400.0, 420.0, 500.0]  # the test score, not the last evaluation
    assert found.unit == "score"
    score = (np.mean([400.0, 420.0, 500.0]) - 22.493) / 477.507
    assert found.aggregates["agent.learning_rate=0.001"]["mean"].value == pytest.approx(score)
    (against,) = found.against.values()
    assert against.improvement.value in (0.0, 1.0)
    assert against.difference.settled


def test_what_differs_between_tasks_only_does_not_split_a_group(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, seed=seed, agent={"name": "ppo", "learning_rate": 1e-3}, score=400.0 + seed)
        write_run(tmp_path, seed=seed, agent={"name": "dqn"}, num_envs=8, score=300.0 + seed)
        other = {"env": {"name": "acrobot"}, "seed": seed}
        write_run(tmp_path, **other, agent={"name": "ppo", "learning_rate": 2e-3}, score=-80.0 - seed)
        write_run(tmp_path, **other, agent={"name": "dqn"}, num_envs=8, score=-90.0 - seed)
    found = compare([str(tmp_path)], baseline="dqn")
    assert set(found.groups) == {"ppo", "dqn"}
    assert set(found.compared) == {"cartpole", "acrobot"}
    assert list(found.against) == ["ppo"]
    assert found.against["ppo"].improvement.value == 1.0
    by_env = compare([str(tmp_path)], by=["num_envs"])
    assert set(by_env.groups) == {"num_envs=8", "num_envs=64"}


def test_other_parameters_are_another_task_and_have_no_score(tmp_path):
    for gravity in (5.0, 15.0):
        write_run(tmp_path, env={"name": "cartpole", "params": {"gravity": gravity}})
    found = compare([str(tmp_path)])
    assert set(found.tasks) == {"cartpole params.gravity=5.0", "cartpole params.gravity=15.0"}
    assert found.groups == ["ppo"]
    assert (found.compared, found.aggregates, found.against) == ([], {}, {})
    assert any("no comparison over all tasks" in note for note in found.notes)


def test_a_single_task_without_a_score_is_compared_by_returns(tmp_path):
    env = {"name": "gymnasium", "id": "CartPole-v1"}
    for seed, score in enumerate([-5.0, -4.0, -6.0]):
        write_run(tmp_path, env=env, seed=seed, score=score)
        write_run(tmp_path, env=env, seed=seed, agent={"name": "dqn"}, num_envs=8, score=score - 10.0)
    found = compare([str(tmp_path)], baseline="ppo")
    assert (found.unit, found.aggregates) == ("return", {})
    assert found.against["dqn"].difference.value == pytest.approx(-10.0)
    assert found.against["dqn"].improvement.value == 0.0


# -- what is missing -----------------------------------------------------------------------------------------------------


def test_a_run_that_has_not_ended_is_left_out_by_name_but_can_be_compared_earlier(tmp_path):
    for seed in range(3):
        write_run(tmp_path, seed=seed, points=[(1000, 10.0 * seed), (3000, 100.0)])
    short = write_run(tmp_path, seed=9, points=[(1000, 50.0), (2000, 70.0)], score=None)
    found = compare([str(tmp_path)])
    assert "9" not in found.tasks["cartpole"]["ppo"].seeds
    assert any(str(short) in note and "has not ended (step 2,000)" in note for note in found.notes)
    earlier = compare([str(tmp_path)], at=2000)
    cell = earlier.tasks["cartpole"]["ppo"]
    assert dict(zip(cell.seeds, cell.values, strict=True)) == {"0": 50.0, "1": 55.0, "2": 60.0, "9": 70.0}
    assert cell.curve.steps.tolist() == [1000, 2000]  # to where the first one ends
    late = compare([str(tmp_path)], at=2500)
    assert any(str(short) in note and "has not come to step 2,500" in note for note in late.notes)


def test_a_run_that_ends_with_nan_is_left_out_and_named(tmp_path):
    write_run(tmp_path, seed=0, tag="rollout/ep_rew_mean")
    bad = write_run(tmp_path, seed=1, tag="rollout/ep_rew_mean", points=[(1000, 1.0), (2000, None)], score=float("nan"))
    found = compare([str(tmp_path)])
    assert found.tasks["cartpole"]["ppo"].seeds == ["0"]
    assert any(str(bad) in note and "NaN" in note for note in found.notes)


def test_a_point_that_is_no_number_does_not_count_as_the_best(tmp_path):
    for seed in range(4):
        middle = None if seed == 0 else 10.0 * seed
        write_run(tmp_path, seed=seed, points=[(1000, 0.0), (2000, middle), (3000, 100.0)])
    curve = compare([str(tmp_path)]).tasks["cartpole"]["ppo"].curve
    assert curve.steps.tolist() == [1000, 2000, 3000]
    assert curve.iqm.tolist() == [0.0, 25.0, 100.0]  # of 10, 20, 30 and, between its neighbours, 50


def test_one_seed_gets_no_interval_and_no_verdict(tmp_path):
    write_sweep(tmp_path, {1e-3: [400.0], 3e-4: [100.0, 110.0]})
    found = compare([str(tmp_path)])
    one = found.tasks["cartpole"]["agent.learning_rate=0.001"]
    assert one.iqm.interval is None
    assert np.isnan(one.curve.low).all()
    (against,) = found.against.values()
    assert against.difference is None
    assert "nothing can be said" in json.dumps(report.tables(found))
    assert any("one seed" in note for note in found.notes)
    assert any("different numbers of seeds" in note for note in found.notes)


def test_a_damaged_run_is_named_and_the_others_are_compared(tmp_path):
    write_run(tmp_path, seed=0)
    broken = write_run(tmp_path, seed=1)
    (broken / "config.yaml").write_text("nonsense: 1\n")
    found = compare([str(tmp_path)])
    assert found.tasks["cartpole"]["ppo"].seeds == ["0"]
    assert any(str(broken) in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "eval/nope"}, "There are: eval/mean_reward"),
        ({"baseline": "sac"}, "there is no such group. There are: ppo"),
        ({"by": ["agent.nope"]}, "no run has that key"),
        ({"at": 5}, "no run has a value to compare"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(options, words, tmp_path):
    write_run(tmp_path)
    with pytest.raises(CompareError, match=re.escape(words)):
        compare([str(tmp_path)], **options)


def test_runs_without_a_common_metric_are_not_compared_in_silence(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, tag="rollout/ep_rew_mean")
    with pytest.raises(CompareError, match="no metric that all runs have"):
        compare([str(tmp_path)])
    found = compare([str(tmp_path)], metric="eval/mean_reward")
    assert found.tasks["cartpole"]["ppo"].seeds == ["0"]
    assert any("has no eval/mean_reward" in note for note in found.notes)


# -- what is shown -------------------------------------------------------------------------------------------------------


def test_the_command_prints_tables_and_json_and_writes_a_page_that_needs_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "runs", {1e-3: [400.0, 420.0, 450.0], 3e-4: [380.0, 430.0, 390.0]})
    assert cli.main(["compare", "runs", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "agent.learning_rate=0.001" in printed
    assert "more seed" in printed
    assert "trust them little" in printed  # three seeds
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "agent.learning_rate=0.0003" in page
    assert "prefers-color-scheme:dark" in page
    assert not re.findall(r"<script|<link|<img|src=|@import|url\(|https?://(?!www\.w3\.org)", page)
    for title in report.ABOUT:
        name = title.lower().replace(" ", "-")
        ET.fromstring((tmp_path / "out" / f"{name}.svg").read_text())
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert len(image.getcolors(1 << 20)) > 10
    assert cli.main(["compare", "runs", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert data["against"][
        "agent.learning_rate=0.0003" if data["baseline"].endswith("1") else "agent.learning_rate=0.001"
    ]
    assert cli.main(["compare", "nowhere"]) == 2
    assert "no run at 'nowhere'" in capsys.readouterr().err


def test_a_picture_puts_values_where_its_axes_say():
    picture = chart.Picture(200, 100)
    axes = chart.Axes(picture, 50, 10, 100, 80, (0.0, 10.0), (-1.0, 1.0))
    assert axes.at([0.0, 5.0, 10.0], [-1.0, 0.0, float("nan")]) == [(50.0, 90.0), (100.0, 50.0)]
    words = [
        element.text for element in ET.fromstring(picture.svg()).iter() if element.text and "<" not in element.text
    ]
    assert {"0", "4", "10", "-1", "1"} <= set(words)
    assert chart.nice_ticks(0.0, 500_000.0) == [0.0, 100_000.0, 200_000.0, 300_000.0, 400_000.0, 500_000.0]
    assert chart.nice_ticks(-0.3, 0.9) == [-0.2, 0.0, 0.2, 0.4, 0.6, 0.8]
    assert [chart.short(x) for x in (1_500_000.0, 200_000.0, -8.0, 0.25)] == ["1.5M", "200k", "-8", "0.25"]


def test_words_from_a_config_cannot_become_markup(tmp_path):
    write_run(tmp_path, env={"name": "gymnasium", "id": "<b>&-v0"})
    found = compare([str(tmp_path)])
    page = report.html(found, report.pictures(found))
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;-v0" in page
