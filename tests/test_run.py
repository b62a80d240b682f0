"""Runs that are stopped, killed and resumed; and what the loop does when."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rlsys import checkpoint, cli, run
from rlsys.config import Config, ConfigError, DQNConfig, GymnasiumConfig, PPOConfig, SimConfig, resolve
from rlsys.folder import Run, find, find_one
from rlsys.log import read_metrics
from rlsys.torchenv import DeviceError

PPO_RUN = ["env=cartpole", "num_envs=8", "agent.n_steps=16", "agent.batch_size=32", "agent.normalize_observations=true"]
PPO_RUN += ["agent.normalize_rewards=true", "agent.learning_rate_schedule=linear", "total_timesteps=24_576"]
PPO_RUN += ["eval_every=4096", "save_every=2048"]
DQN_RUN = [
    "env=cartpole",
    "agent=dqn",
    "num_envs=4",
    "agent.buffer_size=3000",
    "agent.n_step=3",
    "agent.learning_starts=256",
]
DQN_RUN += ["total_timesteps=12_288", "eval_every=4096", "save_every=1024"]
PQN_RUN = ["env=cartpole", "agent=pqn", "num_envs=8", "agent.n_steps=16", "agent.batch_size=32"]
PQN_RUN += ["agent.normalize_observations=true", "total_timesteps=12_288", "eval_every=4096", "save_every=1024"]
COMMON = ["seed=3", "eval_episodes=3", "test_episodes=3", "replay=false", "log_every=1", "--quiet"]


def start(arguments: list[str], cwd: Path) -> subprocess.Popen:
    with open(cwd / "stderr", "w") as errors:
        command = [sys.executable, "-m", "rlsys", "train", *arguments]
        return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=errors)


def wait_for_checkpoints(cwd: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(cwd.rglob("checkpoints/step_*"))) < count:
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.01)


def learned(folder: Path) -> dict:
    """All that decides the future of the newest checkpoint, but for the clock."""
    state = checkpoint.load(checkpoint.newest(folder / "checkpoints")[0])
    state["book"] = {key: value for key, value in state["book"].items() if "seconds" not in key and key != "cost"}
    return state


def same(a, b, path: str = "") -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], f"{path}/{key}") for key in a)
    equal = torch.equal(torch.as_tensor(a), torch.as_tensor(b)) if hasattr(a, "shape") else a == b
    assert equal, f"{path} differs"
    return True


def metrics(folder: Path) -> list[dict]:
    return [{k: v for k, v in point.items() if not k.startswith(("time/", "cost/"))} for point in read_metrics(folder)]


@pytest.mark.parametrize("arguments", [PPO_RUN, DQN_RUN, PQN_RUN], ids=["ppo", "dqn", "pqn"])
def test_a_killed_and_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(arguments, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    reference = start([*arguments, *COMMON], whole)

    for kill_after in (2, 3):  # SIGKILL, twice; then to the end
        first = start([*arguments, *COMMON] if kill_after == 2 else ["resume=latest", "--quiet"], broken)
        if kill_after == 2:
            wait_for_checkpoints(broken, 2)
        else:
            time.sleep(4)
        first.kill()
        first.wait()
    last = start(["resume=latest", "--quiet"], broken)
    assert last.wait(180) == 0, (broken / "stderr").read_text()
    assert reference.wait(180) == 0, (whole / "stderr").read_text()

    a, b = find(str(whole))[0], find(str(broken))[0]
    assert same(learned(a.folder), learned(b.folder))
    assert metrics(a.folder) == metrics(b.folder)
    assert a.summary()["score"] == b.summary()["score"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_exits_75_and_says_how_to_resume(number, tmp_path):
    process = start([*PPO_RUN, *COMMON, "total_timesteps=100_000_000", "save_every=0"], tmp_path)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.rglob("metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == 75
    message = (tmp_path / "stderr").read_text()
    folder = find(str(tmp_path))[0].folder
    assert f"rlsys train resume={folder.relative_to(tmp_path)}" in message
    saved = checkpoint.load(folder / "checkpoints" / "last")
    assert saved["steps"] == read_metrics(folder)[-1]["step"]  # not one update is lost
    assert Run(folder).status() == "stopped"


def small(tmp_path: Path, **changes) -> Config:
    defaults = {
        "agent": PPOConfig(n_steps=16, batch_size=32),
        "env": SimConfig(max_episode_steps=50),
        "num_envs": 8,
        "total_timesteps": 1024,
        "eval_every": 512,
        "eval_episodes": 2,
        "test_episodes": 2,
        "save_every": 256,
        "log_every": 1,
        "run_dir": str(tmp_path / "runs"),
        "replay": False,
    }
    return Config(**{**defaults, **changes})


def test_a_damaged_newest_checkpoint_is_passed_over_and_said_so(tmp_path, capsys):
    cfg = small(tmp_path)
    done = run.train(cfg, quiet=True)
    newest = checkpoint.newest(done.checkpoints)[0]
    (newest / "agent.safetensors").write_bytes(b"rubbish")
    run.train(cfg, resume=done)
    printed = capsys.readouterr().out
    assert "skipped a damaged checkpoint" in printed
    assert "from step 768" in printed


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_afresh(tmp_path, monkeypatch, capsys):
    done = run.train(small(tmp_path), quiet=True)
    for manifest in done.checkpoints.glob("step_*/MANIFEST.json"):
        manifest.write_text("{}")
    assert cli.main(["train", f"resume={done.folder}"]) == 2
    assert "none of the" in capsys.readouterr().err


def test_two_processes_cannot_train_in_one_folder(tmp_path, capsys):
    done = run.train(small(tmp_path), quiet=True)
    with done.locked():
        assert done.status() == "running"
        assert cli.main(["train", f"resume={done.folder}"]) == 3
    assert "another process" in capsys.readouterr().err
    assert done.status() == "finished"


def test_a_resumed_run_can_be_given_more_steps(tmp_path):
    done = run.train(small(tmp_path), quiet=True)
    assert cli.main(["train", f"resume={done.folder}", "total_timesteps=2048", "--quiet"]) == 0
    assert done.summary()["steps"] == 2048
    assert len((done.folder / "command.txt").read_text().splitlines()) == 2
    assert [entry["resumed_at"] for entry in json.loads((done.folder / "provenance.json").read_text())] == [None, 1024]


def test_a_run_given_more_steps_is_not_finished_before_they_are_done(tmp_path):
    done = run.train(small(tmp_path), quiet=True)
    text = (done.folder / "config.yaml").read_text().replace("total_timesteps: 1024", "total_timesteps: 4096")
    (done.folder / "config.yaml").write_text(text)
    assert done.status() == "stopped"


@pytest.mark.parametrize("at", [512, 1024])
def test_an_evaluation_that_a_signal_cuts_short_is_made_when_the_run_goes_on(at, tmp_path, monkeypatch):
    whole = run.train(small(tmp_path / "whole"), quiet=True)
    right = run.held_out

    def slow(policy, env, episodes, split, stop):
        if (
            find_one(str(tmp_path / "cut")).checkpoints.joinpath(f"step_{at - 256:012d}").exists()
            and not stop.requested
        ):
            stop.requested = "SIGTERM"
        return right(policy, env, episodes, split, stop=stop)

    monkeypatch.setattr(run, "held_out", slow)
    for _ in range(2):  # the second one is cut short, too, at once
        with pytest.raises(run.Preempted, match=f"stopped by SIGTERM at step {at:,}"):
            run.train(small(tmp_path / "cut"), resume=next(iter(find(str(tmp_path / "cut"))), None), quiet=True)
    monkeypatch.setattr(run, "held_out", right)
    (cut,) = find(str(tmp_path / "cut"))
    run.train(small(tmp_path / "cut"), resume=cut, quiet=True)
    final = [
        {**learned(found.folder), "book": None} for found in (whole, cut)
    ]  # at the end, saved before the evaluation
    assert same(*final)
    assert metrics(cut.folder) == metrics(whole.folder)
    assert cut.summary()["best_step"] == whole.summary()["best_step"]
    assert os.readlink(cut.checkpoints / "best") == os.readlink(whole.checkpoints / "best")


def test_an_evaluation_that_does_not_end_is_told_with_a_remedy_and_what_was_learned_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("rlsys.evaluate.PATIENCE", 300)
    cfg = small(tmp_path, env=GymnasiumConfig(id="CliffWalking-v1"), eval_every=0, save_every=0, total_timesteps=256)
    with pytest.raises(
        ConfigError, match=r"no episode has ended for 300 steps.*env.kwargs.max_episode_steps=.*saved in"
    ):
        run.train(cfg, quiet=True)
    (folder,) = find(str(tmp_path / "runs"))
    assert checkpoint.load(folder.checkpoints / "last")["steps"] == 256
    limited = GymnasiumConfig(id="CliffWalking-v1", kwargs={"max_episode_steps": 20})
    assert (
        run.train(small(tmp_path, env=limited, total_timesteps=256), quiet=True).summary()["eval/mean_ep_length"] <= 20
    )


def test_a_run_killed_before_it_marks_its_best_checkpoint_marks_it_when_it_goes_on(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "mark_best", killed)
        with pytest.raises(Killed):
            run.train(small(tmp_path), quiet=True)
    (found,) = find(str(tmp_path / "runs"))
    assert not (found.checkpoints / "best").exists()
    monkeypatch.setattr(run.Book, "judge", lambda *_: None)  # no later one is better
    run.train(small(tmp_path), resume=found, quiet=True)
    assert checkpoint.load(found.checkpoints / "best")["steps"] == 512


def test_a_run_that_ended_because_it_was_solved_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "reward_threshold", lambda env: 1.0)
    done = run.train(small(tmp_path, stop_when_solved=True), quiet=True)
    assert done.summary()["steps"] == 512
    assert done.status() == "finished"
    (done.folder / "summary.json").write_text('{"steps": null}')
    assert done.status() == "stopped"


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
    cfg = small(tmp_path)
    whole = run.train(cfg, quiet=True)
    killed = run.train(cfg, quiet=True)
    reference = learned(killed.folder)
    shutil.rmtree(killed.checkpoints)
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoints"):  # it has had some: they are lost
        run.train(cfg, resume=killed, quiet=True)
    (killed.folder / "summary.json").unlink()
    run.train(cfg, resume=killed, quiet=True)
    assert same(learned(killed.folder), reference)
    assert metrics(killed.folder) == metrics(whole.folder)


def test_a_world_that_cannot_be_drawn_costs_no_run(tmp_path, capsys, monkeypatch):
    def record(*_, **__):
        raise ValueError("no pictures")

    monkeypatch.setattr(run, "record", record)
    done = run.train(small(tmp_path, replay=True, replay_every=512))
    assert done.status() == "finished"
    assert "no replay: no pictures" in capsys.readouterr().out


def test_a_signal_to_the_whole_group_lets_the_environments_processes_live_until_all_is_saved(tmp_path):
    command = [sys.executable, "-m", "rlsys", "train", "env=gymnasium", "env.vectorization=async", "num_envs=2"]
    command += ["agent.n_steps=16", "agent.batch_size=32", "total_timesteps=1e9", "eval_every=64", "save_every=64"]
    command += ["eval_episodes=2", "--quiet"]
    training = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_checkpoints(tmp_path, 1)
    os.killpg(training.pid, signal.SIGTERM)
    _, printed = training.communicate(timeout=60)
    assert training.returncode == 75, printed
    assert "Traceback" not in printed


def test_intervals_are_environment_steps_and_the_end_is_always_due(tmp_path):
    done = run.train(small(tmp_path, total_timesteps=1100, log_every=256, eval_every=400), quiet=True)
    points = read_metrics(done.folder)
    # 128 steps an iteration, 9 iterations: log at each multiple of 256 and at the end, evaluate past 400, 800 and at the end
    assert [point["step"] for point in points if "train/loss" in point] == [256, 512, 768, 1024, 1152]
    assert [point["step"] for point in points if "eval/mean_reward" in point] == [512, 896, 1152]


def test_the_score_is_in_every_evaluation_the_summary_and_tensorboard(tmp_path):
    done = run.train(small(tmp_path, env=SimConfig()), quiet=True)
    evaluations = [point for point in read_metrics(done.folder) if "eval/mean_reward" in point]
    assert len(evaluations) == 2
    for point in evaluations:
        assert point["eval/score_normalised"] == pytest.approx((point["eval/mean_reward"] - 22.493) / (500.0 - 22.493))
    summary = done.summary()
    assert summary["score_normalised"] == pytest.approx((summary["score"] - 22.493) / (500.0 - 22.493))
    assert summary["score_normalised"] == summary["eval/score_normalised"]
    assert summary["score_reference"] == "optimal"
    low, high = summary["eval/score_normalised_ci95"]
    assert low <= summary["score_normalised"] <= high
    assert b"eval/score_normalised" in next(done.folder.glob("events.*")).read_bytes()


def test_a_world_that_the_references_do_not_hold_for_has_no_score(tmp_path):
    done = run.train(small(tmp_path), quiet=True)  # episodes of 50 steps
    summary = done.summary()
    assert summary["score_normalised"] is None
    assert summary["score_reference"] is None
    assert not any("eval/score_normalised" in point for point in read_metrics(done.folder))


def test_levels_trained_on_are_played_once_at_the_end_and_the_gap_is_logged(tmp_path, monkeypatch):
    played, held_out = [], run.held_out

    def noted(policy, config, episodes, split, **options):
        played.append((split, episodes))
        return held_out(policy, config, episodes, split, **options)

    monkeypatch.setattr(run, "held_out", noted)  # what the loop calls
    monkeypatch.setattr("rlsys.evaluate.held_out", noted)  # what the final report does
    env = SimConfig(name="maze", levels=2, max_episode_steps=20)
    done = run.train(small(tmp_path, env=env, test_episodes=12), quiet=True)
    assert played == [("validation", 2), ("validation", 2), ("test", 12), ("train", 12)]
    summary, points = done.summary(), read_metrics(done.folder)
    gap = summary["eval/train_mean_reward"] - summary["score"]
    assert summary["eval/generalisation_gap"] == gap
    policy = done.policy("best")
    assert summary["eval/train_mean_reward"] == held_out(policy, env, 12, "train").mean
    assert [point["step"] for point in points if "eval/generalisation_gap" in point] == [1024]
    assert points[-1]["eval/generalisation_gap"] == gap
    assert points[-1]["eval/train_mean_reward"] == summary["eval/train_mean_reward"]


def test_same_seed_same_run_other_seed_other_run(tmp_path):
    a, b, c = (run.train(small(tmp_path, seed=seed), quiet=True) for seed in (1, 1, 2))
    assert metrics(a.folder) == metrics(b.folder) != metrics(c.folder)


def test_a_gymnasium_environment_trains_and_resumes(tmp_path):
    env = GymnasiumConfig(id="CartPole-v1")
    cfg = small(tmp_path, env=env, total_timesteps=512)
    done = run.train(cfg, quiet=True)
    assert done.folder.parts[-3] == "CartPole-v1"
    assert done.summary()["reward_threshold"] == 475
    resumed = run.train(small(tmp_path, env=env, total_timesteps=768), resume=done, quiet=True)
    assert resumed.summary()["steps"] == 768


def test_dqn_runs_through_the_same_loop(tmp_path):
    agent = DQNConfig(buffer_size=1000, learning_starts=64)
    done = run.train(small(tmp_path, agent=agent), quiet=True)
    assert done.summary()["steps"] >= 1024
    assert any("rollout/exploration_rate" in point for point in read_metrics(done.folder))


def test_a_policy_that_is_not_finite_is_never_saved(tmp_path, capsys):
    cfg = small(tmp_path, agent=PPOConfig(n_steps=16, batch_size=32, learning_rate=float("inf")))
    with pytest.raises(checkpoint.NonFiniteError, match="is not finite at step"):
        run.train(cfg, quiet=True)
    folder = find(cfg.run_dir)[0].folder
    assert (
        not list(folder.glob("checkpoints/step_*"))
        or torch.isfinite(torch.cat([p.flatten() for p in Run(folder).policy("last").parameters()])).all()
    )


def test_runs_are_found_by_folder_glob_and_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run.train(small(Path(), run_dir="runs"), quiet=True)
    os.utime(first.folder / "config.yaml")
    time.sleep(1.1)  # folder names have a second's resolution
    second = run.train(small(Path(), run_dir="runs"), quiet=True)
    assert find_one("latest").folder == second.folder
    assert find_one(str(first.folder)).folder == first.folder
    assert [found.folder for found in find("runs/cartpole/*/*")] == [first.folder, second.folder]


def test_of_runs_that_began_in_the_same_second_the_newest_is_the_newest(tmp_path):
    names = ["20260101-120000-s9-ffff", "20260101-120000-s10-0000", "20260101-115959-s0-0000"]
    for i, name in enumerate(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "command.txt").touch()
        os.utime(tmp_path / name / "command.txt", (1e9 + i / 10, 1e9 + i / 10))
    assert [found.folder.name for found in find(str(tmp_path))] == [names[2], names[0], names[1]]


# -- where to train ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "device", "why"),
    [
        ({}, "cpu", "fewer than 512 envs"),
        ({"num_envs": 512}, "cuda", "512 envs or more"),
        ({"env": {"name": "snake"}}, "cuda", "observations are pictures"),
        ({"num_envs": 512, "env": {"backend": "serial"}}, "cpu", "env.backend=serial"),
        ({"num_envs": 512, "env": {"name": "gymnasium"}}, "cpu", "Gymnasium's and Atari's run there"),
        ({"num_envs": 512, "agent": {"name": "sb3"}}, "cpu", "stable-baselines3 reads them there"),
        ({"num_envs": 512, "device": "cpu"}, "cpu", "as asked"),
        ({"device": "cuda"}, "cuda", "as asked"),
    ],
)
def test_auto_takes_a_gpu_for_pictures_and_for_many_envs_that_can_live_there(data, device, why, monkeypatch):
    monkeypatch.setattr(run.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run.torch.cuda, "device_count", lambda: 1)
    found, reason = run.choose_device(resolve(data))
    assert (found, why in reason) == (device, True), reason


def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(monkeypatch):
    monkeypatch.setattr(run.torch.cuda, "is_available", lambda: False)
    assert run.choose_device(resolve({"num_envs": 4096})) == ("cpu", "no GPU found")
    with pytest.raises(DeviceError, match="torch finds no CUDA device"):
        run.choose_device(resolve({"device": "cuda"}))


def test_envs_stay_on_the_cpu_without_numba_cuda_and_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    assert run.reason_against_residence(resolve({})) == "numba-cuda is not installed: pip install 'rlsys[gpu]'"


def test_a_gpu_whose_memory_does_not_suffice_is_told_with_a_number_to_try():
    text = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 10.00 GiB. Of the allocated memory 1 is ..."
    with pytest.raises(MemoryError) as caught, run.memory_errors(resolve({"num_envs": 4096})):
        raise torch.OutOfMemoryError(text)
    assert str(caught.value) == (
        "num_envs=4096: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 10.00 GiB. Try num_envs=2048."
    )
