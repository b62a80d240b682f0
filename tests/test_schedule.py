"""Runs that start from another's checkpoint (init), end early (stop_at), and change hyperparameters on the way (schedule)."""

from pathlib import Path

import pytest

from rlsys import checkpoint, cli, run
from rlsys.config import (
    Config,
    ConfigError,
    DQNConfig,
    PPOConfig,
    PQNConfig,
    SB3Config,
    SimConfig,
    descend,
    phases,
    resolve,
    to_yaml,
)
from rlsys.folder import Run, find
from rlsys.log import read_metrics
from tests.test_run import learned, same

PPO = PPOConfig(n_steps=16, batch_size=32, learning_rate_schedule="linear", normalize_observations=True)
AGENTS = {
    "ppo": (PPO, {"learning_rate": 0.01, "n_epochs": 2, "n_steps": 32, "ent_coef": 0.02, "normalize_rewards": True}),
    "dqn": (DQNConfig(learning_starts=64, buffer_size=2000), {"learning_rate": 0.01, "gamma": 0.9, "batch_size": 32}),
    "pqn": (PQNConfig(n_steps=16, batch_size=32), {"learning_rate": 0.01, "q_lambda": 0.9, "n_epochs": 1}),
    "sb3": (
        SB3Config(algo="A2C", hyperparameters={"learning_rate": 0.001}),
        {"hyperparameters": {"learning_rate": 0.01, "ent_coef": 0.1}},
    ),
}
ENGINES = [("ppo", "auto"), ("ppo", "torch"), ("dqn", "auto"), ("dqn", "torch"), ("pqn", "auto"), ("sb3", "auto")]


def small(tmp_path: Path, **changes) -> Config:
    defaults = {
        "env": SimConfig(max_episode_steps=50),
        "agent": PPO,
        "num_envs": 8,
        "total_timesteps": 3000,
        "eval_every": 0,
        "eval_episodes": 2,
        "test_episodes": 2,
        "save_every": 0,
        "log_every": 1,
        "run_dir": str(tmp_path / "runs"),
        "replay": False,
    }
    return Config(**{**defaults, **changes})


def end(done: Run) -> dict:
    """All that decides what would be learned next."""
    state = learned(done.folder)
    state.pop("book")
    return state


def descended(parent: Run, folder: Path, **changes) -> Config:
    path = checkpoint.newest(parent.checkpoints)[0]
    made = descend(parent.folder / "config.yaml", checkpoint.verify(path)["step"], {"run_dir": str(folder), **changes})
    return Config(**{**vars(made), "init": str(path)})


@pytest.mark.parametrize(("name", "engine"), ENGINES, ids=["-".join(pair) for pair in ENGINES])
def test_a_schedule_learns_the_same_bits_as_a_run_that_starts_from_another_with_other_values(name, engine, tmp_path):
    agent, changes = AGENTS[name]
    flat = {f"agent.{key}": value for key, value in changes.items() if key != "hyperparameters"}
    flat |= {f"agent.hyperparameters.{key}": value for key, value in changes.get("hyperparameters", {}).items()}
    first = run.train(small(tmp_path, agent=agent, engine=engine, stop_at=1000), quiet=True)
    second = run.train(descended(first, tmp_path / "second", **flat), quiet=True)
    schedule = [{"from_step": 1000, **flat}]
    whole = run.train(
        small(tmp_path, agent=agent, engine=engine, schedule=schedule, run_dir=str(tmp_path / "b")), quiet=True
    )
    same(end(second), end(whole))
    plain = run.train(small(tmp_path, agent=agent, engine=engine, run_dir=str(tmp_path / "c")), quiet=True)
    with pytest.raises(AssertionError, match="differs"):
        same(end(plain), end(whole))
    assert first.status() == second.status() == "finished"
    assert 1000 <= first.summary()["steps"] < 1600
    assert second.summary()["steps"] == whole.summary()["steps"] >= 3000
    assert second.summary()["seconds"] > first.summary()["seconds"]  # of all its steps


def test_what_a_schedule_says_holds_from_the_first_iteration_that_begins_there(tmp_path):
    schedule = [{"from_step": 256, "agent.learning_rate": 0.01}, {"from_step": 1000, "agent": {"learning_rate": 0.02}}]
    done = run.train(small(tmp_path, total_timesteps=2048, schedule=schedule), quiet=True)
    rates = {
        point["step"]: point["train/learning_rate"]
        for point in read_metrics(done.folder)
        if "train/learning_rate" in point
    }
    # an iteration takes 128 steps, and the rate falls linearly: progress is of the whole run
    assert rates[256] == pytest.approx(3e-4 * (1 - 128 / 2048))
    assert rates[384] == pytest.approx(0.01 * (1 - 256 / 2048))
    assert rates[1024] == pytest.approx(0.01 * (1 - 896 / 2048))
    assert rates[1152] == pytest.approx(0.02 * (1 - 1024 / 2048))
    assert rates[2048] == pytest.approx(0.02 * (1 - 1920 / 2048))


@pytest.mark.parametrize("stop_at", [500, 1100, 1024])
def test_a_run_with_a_schedule_can_be_resumed_to_the_bit(stop_at, tmp_path):
    schedule = [{"from_step": 600, "agent.n_steps": 32}, {"from_step": 1024, "agent.n_steps": 8, "agent.gamma": 0.9}]
    whole = run.train(small(tmp_path, total_timesteps=2048, schedule=schedule), quiet=True)
    broken = run.train(small(tmp_path, total_timesteps=2048, schedule=schedule, stop_at=stop_at), quiet=True)
    run.train(small(tmp_path, total_timesteps=2048, schedule=schedule), resume=broken, quiet=True)
    same(end(whole), end(broken))


def test_a_run_that_starts_from_another_and_dies_before_it_saves_starts_from_there_again(tmp_path):
    first = run.train(small(tmp_path, stop_at=1000), quiet=True)
    second = run.train(descended(first, tmp_path / "b"), quiet=True)
    reference = end(second)
    for path in sorted(second.checkpoints.rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
    (second.folder / "summary.json").unlink()
    run.train(second.config(), resume=second, quiet=True)
    same(end(second), reference)
    assert min(point["step"] for point in read_metrics(second.folder)) > 1000


def test_a_checkpoint_can_be_started_from_as_well_as_a_run(tmp_path, monkeypatch, capsys):
    first = run.train(small(tmp_path, save_every=1000, keep_checkpoints=9), quiet=True)
    monkeypatch.chdir(tmp_path)
    at = first.checkpoints / "step_000000001024"
    assert cli.main(["train", f"init={at}", "agent.learning_rate=1e-2", "run_dir=b", "--quiet"]) == 0
    done = find("b")[0]
    assert done.config().init == str(at)
    assert (done.config().agent.learning_rate, done.config().seed) == (0.01, 0)
    assert min(point["step"] for point in read_metrics(done.folder)) == 1024 + 128
    assert cli.main(["train", "init=runs", "total_timesteps=4000", "run_dir=c", "--quiet"]) == 0
    assert find("c")[0].summary()["steps"] >= 4000
    capsys.readouterr()
    assert cli.main(["train", "init=runs", "run_dir=d"]) == 2
    assert "is at step 3072 already: total_timesteps=3000 must be beyond that" in capsys.readouterr().err
    assert not Path("d").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init=runs", "env=snake"], "keeps its env and agent: leave out env="),
        (["init=runs", "env.max_episode_steps=9"], "keeps that one's env.max_episode_steps (50): leave it out"),
        (["init=runs", "env.params.gravity=9"], "keeps that one's env.params.gravity: leave it out"),
        (["init=runs", "seed=3"], "keeps that one's seed (0)"),
        (["init=runs", "num_envs=16"], "keeps that one's num_envs (8)"),
        (["init=runs", "agent.hidden=[32]"], "keeps that one's agent.hidden ([64, 64])"),
        (["init=runs", "agent.learning_rat=1"], "Did you mean 'agent.learning_rate'?"),
        (["init=runs", "agent.gamma=2"], "agent.gamma=2 is out of range"),
        (["init=nowhere"], "no run at 'nowhere'"),
        (["init=runs", "agent.gamma=0.9", "-m"], "leave out -m"),
        (["resume=runs", "init=runs"], "leave out init="),
        (["resume=runs", "env.params.gravity=9"], "a run that goes on keeps its env.params.gravity: leave it out"),
        (["resume=runs", "seed=3"], "keeps its seed (0)"),
        (["resume=runs", "num_envs=16"], "keeps its num_envs (8)"),
        (["resume=runs", "agent.hidden=[32]"], "keeps its agent.hidden ([64, 64])"),
        (["resume=runs", "agent.gamma=0.9,0.8"], "one value for each key"),
        (["init=runs", "agent.gamma=[0.9"], "the value of agent.gamma=[0.9 cannot be read"),
    ],
)
def test_what_a_checkpoint_holds_cannot_be_another(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run.train(small(tmp_path, total_timesteps=128), quiet=True)
    assert cli.main(["train", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert len(find("runs")) == 1


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("x", "must be a list"),
        ([3], r"schedule\[0\]=3 must be a mapping"),
        (
            [{"agent.gamma": 0.9}],
            r"schedule\[0\].from_step=None must be an integer above 0 and below total_timesteps=500000",
        ),
        ([{"from_step": 500_000}], "below total_timesteps"),
        ([{"from_step": 9}, {"from_step": 9}], r"schedule\[1\].from_step=9 must be an integer above 9"),
        ([{"from_step": 9, "num_envs": 8}], "num_envs cannot change while a run trains"),
        ([{"from_step": 9, "agent.hidden": [8]}], "agent.hidden cannot change while a run trains"),
        (
            [{"from_step": 9, "agent.gama": 0.9}],
            r"schedule\[0\]: there is no key 'agent.gama'. Did you mean 'agent.gamma'",
        ),
        ([{"from_step": 9, "agent.gamma": 1.5}], r"schedule\[0\]: agent.gamma=1.5 is out of range"),
        ([{"from_step": 9, "agent.batch_size": 9999}], "agent.batch_size=9999 is more than a rollout holds"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_before_anything_begins(schedule, words):
    with pytest.raises(ConfigError, match=words):
        resolve({"schedule": schedule})


@pytest.mark.parametrize("begun", ["resume", "init"])
def test_a_schedule_is_typed_alike_for_a_run_that_goes_on(begun, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.train(small(tmp_path, total_timesteps=128), quiet=True)
    typed = "schedule=[{from_step:2.56e2,agent.learning_rate:1e-4,agent.deterministic:false}]"
    assert cli.main(["train", f"{begun}=runs", typed, "total_timesteps=512", "replay=false", "--quiet"]) == 0
    found = find("runs")[-1]
    rates = {
        point["step"]: point["train/learning_rate"] for point in read_metrics(found.folder) if "train/loss" in point
    }
    assert rates[256] == pytest.approx(3e-4 * (1 - 128 / 512))  # it falls linearly
    assert rates[384] == pytest.approx(1e-4 * (1 - 256 / 512))


def test_a_schedule_that_an_agent_refuses_is_refused_before_there_is_a_folder(tmp_path):
    late = {"schedule": [{"from_step": 300, "agent.hyperparameters.foo": 3}], "run_dir": str(tmp_path / "runs")}
    cfg = resolve({"agent": {"name": "sb3", "algo": "PPO"}, "num_envs": 4, "total_timesteps": 512, **late})
    with pytest.raises(ConfigError, match="foo"):
        run.train(cfg, quiet=True)
    assert not (tmp_path / "runs").exists()


def test_stop_at_must_be_within_the_run():
    with pytest.raises(ConfigError, match="stop_at=9 is beyond total_timesteps=8"):
        resolve({"total_timesteps": 8, "stop_at": 9, "num_envs": 8})


def test_a_run_is_cut_where_its_schedule_changes_it():
    schedule = [{"from_step": 100, "agent.gamma": 0.9}, {"from_step": 300, "agent.ent_coef": 0.1}]
    cut = [(end, part.agent.gamma, part.agent.ent_coef) for end, part in phases(resolve({"schedule": schedule}))]
    assert cut == [(100, 0.99, 0.0), (300, 0.9, 0.0), (500_000, 0.9, 0.1)]
    cut = [end for end, _ in phases(resolve({"schedule": schedule, "stop_at": 200}))]
    assert cut == [100, 200, 200]


def test_who_starts_from_the_middle_of_a_schedule_has_the_values_of_that_step_and_what_is_to_come(tmp_path):
    schedule = [{"from_step": 100, "agent.gamma": 0.9}, {"from_step": 300, "agent.gamma": 0.8}]
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(resolve({"schedule": schedule, "run_dir": "elsewhere", "stop_at": 250})))
    made = {step: descend(path, step, {"total_timesteps": 1000}) for step in (99, 100, 299, 300)}
    assert {step: cfg.agent.gamma for step, cfg in made.items()} == {99: 0.99, 100: 0.9, 299: 0.9, 300: 0.8}
    assert {step: len(cfg.schedule) for step, cfg in made.items()} == {99: 2, 100: 1, 299: 1, 300: 0}
    assert {(cfg.run_dir, cfg.stop_at, cfg.total_timesteps) for cfg in made.values()} == {("runs", None, 1000)}
