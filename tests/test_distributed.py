"""One run by several processes: they learn what one would, and none is waited for in vain."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsys import checkpoint, cli, run
from rlsys.config import ConfigError, resolve
from rlsys.distributed import Joined, LaunchError, joined
from rlsys.folder import Run, find, find_one, read_json
from rlsys.log import read_metrics
from tests import ranks

ROOT = Path(__file__).parent.parent
SETTINGS = {"num_envs": 8, "total_timesteps": 8192, "eval_every": 4096, "save_every": 512, "seed": 3, "log_every": 1}
SETTINGS |= {"eval_episodes": 2, "test_episodes": 2, "replay": False, "device": "cpu"}
AGENT = {"n_steps": 16, "batch_size": 32, "hidden": [16], "normalize_observations": True, "normalize_rewards": True}
TYPED = [f"{key}={value}" for key, value in SETTINGS.items()]
TYPED += [f"agent.{key}={str(value).replace(' ', '')}" for key, value in AGENT.items()]


def torchrun(arguments: list, cwd: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, arguments)]
    with open(cwd / "out", "w") as out:
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=out)


def finish(process: subprocess.Popen, cwd: Path) -> str:
    """What a torchrun has printed, when it is at its end."""
    try:
        process.wait(240)
    finally:
        process.kill()
    return (cwd / "out").read_text()


def wait_for(what, process: subprocess.Popen, cwd: Path) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process.poll() is None, (cwd / "out").read_text()
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def differences(one, two, path: str = "") -> dict[str, float]:
    """By path, how far two states are from each other, of large numbers in proportion to them."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        return {at: x for key in one for at, x in differences(one[key], two[key], f"{path}/{key}").items()}
    if isinstance(one, str):
        assert one == two, path
        return {}
    a, b = (np.asarray(x, np.float64) for x in (one, two))
    assert a.shape == b.shape, path
    return {path: float((np.abs(a - b) / np.maximum(1.0, np.abs(a))).max(initial=0.0))}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """A folder of what two ranks have learned."""
    folder = tmp_path_factory.mktemp("ranks")
    process = torchrun(["-m", "tests.ranks", folder], folder)
    text = finish(process, folder)
    assert process.returncode == 0, text
    return folder


def learned(folder: Path) -> dict:
    return checkpoint.load(checkpoint.newest(folder)[0])


@pytest.mark.parametrize("case", ranks.CASES)
def test_after_ten_iterations_two_ranks_have_learned_what_one_has(case, by_two):
    found = differences(ranks.trained(case), learned(by_two / case))
    states = found.pop("/env/env/env/states" if "frames" in case else "/env/env/states")  # bytes
    assert states == 0.0 or "Box" in case
    assert max(found.values()) < 1e-5, {path: x for path, x in found.items() if x >= 1e-5}


@pytest.mark.parametrize("bug", ranks.BUGS)
def test_what_is_a_ranks_own_but_should_be_of_all_is_noticed(bug, by_two):
    wrong = learned(by_two / bug)
    found = wrong["policy"]["tensors"]
    right = ranks.trained("ppo")["policy"]["tensors"]
    assert max(differences(right, found).values()) > 1e-4


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """The run that one process trains."""
    folder = tmp_path_factory.mktemp("one")
    return run.train(resolve({**SETTINGS, "engine": "torch", "agent": AGENT, "run_dir": str(folder)}), quiet=True)


def assert_learned_the_same(found: Run, by_one: Run) -> None:
    one, two = (learned(each.checkpoints) for each in (by_one, found))
    one.pop("book"), two.pop("book")
    far = {path: x for path, x in differences(one, two).items() if x >= 1e-4}  # after 64 iterations
    assert not far
    assert [point["step"] for point in read_metrics(found.folder)] == [p["step"] for p in read_metrics(by_one.folder)]
    keys = ("score", "steps", "best_step")
    assert {key: found.summary()[key] for key in keys} == {key: by_one.summary()[key] for key in keys}


def test_when_a_rank_is_killed_the_run_goes_on_by_itself_in_its_folder(tmp_path, by_one):
    arguments = ["-m", "tests.ranks", "rlsys", "train", "distributed=ddp", *TYPED]
    process = torchrun(["--max-restarts", "1", *arguments], tmp_path)
    wait_for(lambda: len(list(tmp_path.rglob("checkpoints/step_*"))) >= 2, process, tmp_path)
    os.kill(int((tmp_path / "rank1").read_text()), signal.SIGKILL)
    text = finish(process, tmp_path)
    assert process.returncode == 0, text
    assert "rank 0 of 2: another rank has died" in text
    (found,) = find(str(tmp_path / "runs"))
    processes = read_json(found.folder / "provenance.json")
    assert [p["ranks"] for p in processes] == [2, 2]
    assert processes[1]["resumed_at"] > 0
    assert_learned_the_same(found, by_one)


def test_a_signal_stops_all_ranks_and_one_process_can_go_on(tmp_path, by_one, monkeypatch):
    process = torchrun(["-m", "tests.ranks", "rlsys", "train", "distributed=ddp", *TYPED], tmp_path)
    wait_for(lambda: list(tmp_path.rglob("checkpoints/step_*")), process, tmp_path)
    process.send_signal(signal.SIGTERM)
    text = finish(process, tmp_path)
    assert process.returncode != 0
    assert text.count("stopped by SIGTERM at step") == 1, text
    assert "rlsys train resume=" in text
    monkeypatch.chdir(tmp_path)
    assert find_one("latest").status() == "stopped"
    cores = [float((tmp_path / f"cores{rank}").read_text()) for rank in (0, 1)]
    counted = learned(find_one("latest").checkpoints)["book"]["cost"]["core_seconds"]
    assert max(cores) < 0.8 * sum(cores) < counted < sum(cores)  # both ranks', up to what they took to end
    assert cli.main(["train", "resume=latest", "distributed=none", "engine=torch", "--quiet"]) == 0
    (found,) = find("runs")
    assert_learned_the_same(found, by_one)


# -- by hand -------------------------------------------------------------------------------------------------------------


class OneOf(Joined):
    """Rank `rank` of several, of which the others' answers are given."""

    def __init__(self, rank, others):
        self.rank, self.size, self.others = rank, len(others), others

    def gather(self, x, dim=0):
        return torch.cat([x if rank == self.rank else other for rank, other in enumerate(self.others)], dim)


def test_moments_of_three_ranks_of_which_one_has_nothing_are_those_of_all_numbers():
    rows = [torch.tensor([[2.0, 0.5, 0.5]]), torch.zeros(1, 3), torch.zeros(1, 3)]  # number, mean, sum of squares
    n, mean, var = OneOf(2, rows).moments(torch.tensor([6.0]))  # beside a rank with 0 and 1, and one with none
    assert (int(n), float(mean)) == (3, pytest.approx(7 / 3))
    assert float(var) == pytest.approx((0 + 1 + 36) / 3 - (7 / 3) ** 2)


def test_of_a_minibatch_each_rank_has_the_steps_of_its_envs():
    at = torch.tensor([0, 1, 2, 3, 7, 6, 5, 4])  # two steps of four envs: 0 1 2 3, 4 5 6 7
    assert OneOf(0, [0, 0]).own(at, 2).tolist() == [0, 1, 3, 2]
    assert OneOf(1, [0, 0]).own(at, 2).tolist() == [0, 1, 3, 2]
    assert OneOf(1, [0, 0]).own(torch.tensor([4, 6]), 2).tolist() == [2]


# -- what cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"agent": {"name": "dqn"}}, r"agent=dqn\. Use agent=ppo or agent=pqn"),
        ({"agent": {"name": "sb3"}}, r"agent=sb3\. Use agent=ppo or agent=pqn"),
        ({"engine": "native"}, r"engine=native.*Use engine=torch"),
        ({"engine": "graph"}, r"engine=graph.*Use engine=torch"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_a_remedy(settings, remedy):
    with pytest.raises(ConfigError, match=remedy):
        resolve({"distributed": "ddp", **settings})


def test_envs_that_ranks_cannot_share_alike_are_refused():
    with pytest.raises(ConfigError, match=r"num_envs=9 .* by 2 ranks\. Use num_envs=8"):
        run.training_env(resolve({"num_envs": 9}), "cpu", OneOf(0, [0, 0]))


def test_who_forgets_torchrun_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "distributed=ddp"]) == cli.USAGE
    assert "torchrun --nproc-per-node K -m rlsys train" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_who_forgets_that_torchrun_starts_several_is_told(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="Add distributed=ddp"), joined(False, 1.0):
        pass


def test_a_grid_of_shared_runs_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-m", "seed=1,2", "distributed=ddp"]) == cli.USAGE
    assert "leave out -m" in capsys.readouterr().err
