"""The command line as a user types it: answers, exit codes, and how fast a mistake is told."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import envs
from envs.engine import conformance
from rlsys import cli, compose

SMALL = ["num_envs=8", "total_timesteps=1024", "agent.n_steps=16", "agent.batch_size=64", "eval_episodes=2"]
SMALL += ["test_episodes=4", "env.max_episode_steps=50"]


def rlsys(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rlsys", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A working directory in which one small run has been trained."""
    cwd = tmp_path_factory.mktemp("work")
    done = rlsys("train", *SMALL, "seed=7", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """A working directory with a run of CartPole as it is and one of two mazes, and what was printed at their ends."""
    cwd = tmp_path_factory.mktemp("scored")
    small = [*SMALL[:-1], "replay=false"]
    for name, more in (("cartpole", []), ("maze", ["env.levels=2", "env.max_episode_steps=30"])):
        done = rlsys("train", f"env={name}", *small, *more, cwd=cwd)
        assert done.returncode == 0, done.stderr
        (cwd / f"{name}.txt").write_text(done.stdout)
    return cwd


def only_run(cwd: Path) -> Path:
    return next((cwd / "runs").rglob("config.yaml")).parent


def test_help_needs_no_heavy_import(tmp_path):
    code = "import sys; from rlsys import cli; cli.main(['--help']); heavy = {'torch', 'hydra', 'numba'}; "
    code += "print(sorted(heavy & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: rlsys VERB")
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["agent.learning_rat=1e-3"], "Did you mean 'agent.learning_rate'?"),
        (["agnt=ppo"], "Did you mean 'agent'?"),
        (["env=cartpol"], "Did you mean 'cartpole'?"),
        (["agent=pp"], "Did you mean 'ppo'?"),
        (["experiment=cartpol"], "Did you mean 'cartpole'?"),
        (["agent.learning_rate=fast"], "agent.learning_rate='fast' must be a number"),
        (["agent.gamma=2"], "agent.gamma=2 is out of range: it must be between 0 and 1"),
        (["env.params.gravty=3"], "Did you mean 'gravity'?"),
        (["env.params.gravity=[12,8]"], "low <= high"),
        (["env.train_params.gravty=3"], "env.train_params has no 'gravty'. Did you mean 'gravity'?"),
        (["env.levels=5"], "CartPole has no levels"),
        (["env=gymnasium", "env.id=CartPoole-v1"], "CartPole"),
        (["env=gymnasium", "env.id=os:X-v0"], "--allow-import os"),
        (["-m", "seed=1,2", "agent.gamma=0.9,1.9"], "agent.gamma=1.9 is out of range"),
        (["resume=nowhere"], "no run at 'nowhere'"),
        (["=3"], "'=3' is not of the form key=value"),
        (["seed"], "'seed' is not of the form key=value"),
        (["seed=[1"], "the value of seed=[1 cannot be read"),
        (["run_dir=ünï"], "In quotes anything can be: run_dir='\"ünï\"'"),
        (["sеed=1"], "Did you mean 'seed'?"),  # with a Cyrillic letter
        (["--seed=1"], "Settings have no dashes: seed=1"),
        (["--multirn"], "there is no option '--multirn'"),
        (["~seed"], "a key that is left out has its default"),
        (["agent.name=dqn"], "chosen with agent=dqn"),
        (["env="], "There are: acrobot, "),
        (["agent=null"], "There are: dqn, ppo, pqn, sb3"),
        (["experiment=../config"], "There are: acrobot, "),
        (["agent=ppo,dqn"], "a grid, which needs -m"),
        (["seed=1,2"], "seed=1,2: several values make a grid, which needs -m"),
        (["experiment=cartpole", "agent=dqn"], "experiment=cartpole sets 'agent."),
        (["env.params={gravty: 3}"], "Did you mean 'gravity'?"),
        (["env.params=3"], "must be a mapping"),
        (["agent.learning_rate=inf"], "between 0 and 10"),
        (["num_envs=1e12"], "between 1 and 1048576"),
        (["total_timesteps=1e30"], "between 1 and 100000000000"),
        (["threads=1e9"], "between 1 and 1024"),
        (["run_dir="], "not an empty one"),
        (["run_dir=${oc.env:RLSYS_NOWHERE}"], "RLSYS_NOWHERE"),
        (["resume="], "no run at ''"),
        (["resume=/nowhere/*"], "no run at '/nowhere/*'"),
        (["-m", "resume=latest"], "leave out -m"),
        (["-m", "seed=range(1,3"], "cannot be read"),
        (["--allow-import", ""], "--allow-import needs a value"),
        (["--cfg", "job", "sed=1"], "Did you mean 'seed'?"),
        (["env=gymnasium", "env.id=CartPole-v1", "env.kwargs.nosuch=1"], "nosuch"),
        (["agent=sb3", "agent.hyperparameters.gamma=7"], "between 0 and 1"),
        (["agent=sb3", "agent.hyperparameters.batch_size=0"], "at least 1"),
    ],
)
def test_a_mistake_ends_with_exit_code_2_a_remedy_and_no_folder(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "--episodes", "0"], "'0' is not an integer between 1 and"),
        (["eval", "--split", "tst"], "'test', 'validation', 'train'"),
        (["eval", "--nope"], "See rlsys eval --help"),
        (["replay", "--speed", "0"], "'0' is not a number above 0"),
        (["replay", "--columns", "x"], "'x' is not an integer"),
        (["runs", "/nowhere/*"], "no run at '/nowhere/*'"),
        (["envs", ""], "there is no sim ''"),
        (["board", "--port", "99999"], "between 0 and 65535"),
    ],
)
def test_a_mistake_in_any_verb_is_told_in_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_trains_help_shows_every_key_with_its_default_and_meaning(capsys):
    assert cli.main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    for key in set(compose.flat_keys(compose.composed([]))) - {"env", "agent", "env.name", "agent.name", "resume"}:
        assert f"  {key}=" in printed
    assert re.search(r"env\.vectorization=sync +sync\|async\|native\|envpool\n", printed)
    assert re.search(r"agent\.tau=1\.0 +how far each update moves the target network", printed)


def test_an_unknown_verb_is_answered_with_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_a_mistake_is_told_without_importing_torch(tmp_path):
    code = "import sys; from rlsys import cli; code = cli.main(['train', 'agent.gama=1']); print(code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_a_run_folder_holds_all_that_is_promised(trained):
    run = only_run(trained)
    assert run.relative_to(trained).parts[:3] == ("runs", "cartpole", "ppo")
    for name in ("config.yaml", "command.txt", "provenance.json", "metrics.jsonl", "summary.json"):
        assert (run / name).stat().st_size > 0, name
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert (run / "command.txt").read_text().strip() == f"rlsys train {' '.join(SMALL)} seed=7"
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"best", "last", "step_000000001024"}
    assert {path.suffix for path in (run / "replays").iterdir()} == {".gif", ".mp4"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 1024
    assert summary["score"] == summary["eval/mean_reward"]
    assert summary["solved"] is False
    provenance = json.loads((run / "provenance.json").read_text())[0]
    assert provenance["device"] == "cpu"
    assert provenance["packages"]["torch"]


def test_eval_prints_a_table_and_the_same_as_json(trained):
    shown = rlsys("eval", "latest", "--episodes", "5", cwd=trained)
    assert shown.returncode == 0, shown.stderr
    data = json.loads(rlsys("eval", "latest", "--episodes", "5", "--json", cwd=trained).stdout)
    assert f"{data['eval/mean_reward']:.6g}" in shown.stdout
    assert len(data["episodes"]) == data["eval/episodes"] == 5
    low, high = data["eval/mean_reward_ci95"]
    assert low <= data["eval/mean_reward"] <= high


def test_eval_sampled_differs_from_deterministic_and_repeats_itself(trained):
    def returns(*options: str) -> list[float]:
        data = json.loads(rlsys("eval", "latest", "--episodes", "8", "--json", *options, cwd=trained).stdout)
        return [episode["return"] for episode in data["episodes"]]

    assert returns("--sample") == returns("--sample")
    assert returns("--sample") != returns("--sample", "--seed", "1")
    assert returns("--deterministic") == returns() != returns("--sample")


def test_replay_writes_files_and_plays_in_the_terminal(trained):
    done = rlsys("replay", "latest", "--max-steps", "5", "--checkpoint", "last", cwd=trained)
    paths = [trained / line for line in done.stdout.split()]
    assert [path.suffix for path in paths] == [".gif", ".mp4"], done.stderr
    assert all(path.stat().st_size > 1000 for path in paths)
    live = rlsys("replay", "latest", "--terminal", "--max-steps", "3", "--speed", "100", "--columns", "20", cwd=trained)
    assert live.returncode == 0, live.stderr
    assert "step 3  return 3.0" in live.stdout
    assert "▀" in live.stdout


def test_runs_lists_what_there_is(trained):
    row = json.loads(rlsys("runs", "--json", cwd=trained).stdout)[0]
    assert row["status"] == "finished"
    assert row["steps"] == 1024
    assert row["seed"] == 7
    assert "finished" in rlsys("runs", cwd=trained).stdout


def test_envs_lists_the_sims_and_shows_one(capsys):
    assert cli.main(["envs", "--json"]) == 0
    rows = {row["env"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) >= {"cartpole", "pendulum", "snake", "maze"}
    assert rows["cartpole"]["params"]["gravity"] == 9.8
    assert cli.main(["envs", "cartpole"]) == 0
    assert "| gravity | 9.8 | m/s^2 |" in capsys.readouterr().out
    assert cli.main(["envs", "cartpoel"]) == 2
    assert "cartpole" in capsys.readouterr().err


@pytest.fixture
def terminal(monkeypatch, capsys):
    """`terminal(width, *arguments)`: what a terminal of that width shows of a command; bold type is plain."""

    def shown(width: int, *arguments: str) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")  # a dumb one has 80 columns, rich thinks
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert cli.main(list(arguments)) == 0
        return re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)

    return shown


def cells(table: str) -> list[list[str]]:
    """The cells of a printed table's lines, which two spaces or more keep apart."""
    return [re.split(r"  +", line.strip()) for line in table.splitlines() if line.strip(" ─")]


def test_the_list_of_sims_says_what_chance_the_baseline_and_the_optimum_earn(capsys):
    assert cli.main(["envs"]) == 0
    header, *rows = cells(capsys.readouterr().out)
    assert header == ["env", "what", "observation", "action", "steps", "solved at", "random", "scripted", "optimal"]
    rows = {row[0]: row[2:] for row in rows}
    assert rows["cartpole"] == ["4", "2 choices", "500", "475", "22.49", "500", "500"]
    assert rows["maze"] == ["9x9x6", "4 choices", "500", "0.95", "0.155", "1", "1"]
    assert rows["mountaincar_continuous"][1] == "1 real"


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (80, {"what", "observation", "steps"}),
        (90, {"what", "observation"}),
        (100, {"what"}),
        (120, set()),
        (140, set()),
    ],
)
def test_the_list_of_sims_fits_the_terminal_and_keeps_names_and_numbers_whole(width, left_out, terminal):
    printed = terminal(width, "envs")
    assert max(map(len, printed.splitlines())) <= width
    header, *rows = cells(printed)
    wanted = ["env", "what", "observation", "action", "steps", "solved at", "random", "scripted", "optimal"]
    assert header == [name for name in wanted if name not in left_out]
    whole = [row for row in rows if len(row) > 1]  # the other lines go on with a description
    assert [row[0] for row in whole] == list(envs.sims())
    assert "what" not in left_out or whole == rows
    cartpole = next(row for row in whole if row[0] == "cartpole")
    assert cartpole[-3:] == ["22.49", "500", "500"]


def test_numbers_are_short_without_exponents():
    numbers = {22.493: "22.49", 0.1037: "0.104", -9694.9: "-9695", 36650.0: "36650", 500.0: "500", -97.7: "-97.7"}
    numbers |= {0.0: "0", 200.0: "200", -0.9885: "-0.989", 1234567.0: "1234567", None: ""}
    assert {number: cli.short(number) for number in numbers} == numbers


def test_a_sims_page_has_its_spaces_parameters_and_references_with_their_errors(capsys):
    assert cli.main(["envs", "cartpole"]) == 0
    printed = capsys.readouterr().out
    for words in ("rlsys/CartPole-v0", "Discrete(2)", "(4,), float32)", "env.params.gravity=9.8", "475"):
        assert words in printed
    assert ["random", "22.493", "0.12", "uniform actions, 10 000 test episodes"] in cells(printed)
    assert "\x1b" not in printed
    assert "▀" not in printed


def test_a_terminal_shows_a_picture_of_the_sim_below_its_page(terminal):
    printed = terminal(100, "envs", "snake")
    picture = [line for line in printed.splitlines() if "▀" in line]
    assert [line.count("▀") for line in picture] == [cli.PORTRAIT_COLUMNS] * (cli.PORTRAIT_COLUMNS // 2)
    assert printed.rstrip().endswith(picture[-1])
    colors = re.findall(r"38;2;(\d+);(\d+);(\d+)", printed)
    assert any(int(red) > 180 and int(green) < 100 for red, green, _ in colors)  # the fruit
    narrow = terminal(30, "envs", "snake")
    assert max(line.count("▀") for line in narrow.splitlines()) == 30


def test_a_sim_as_json_has_all_of_it(capsys):
    assert cli.main(["envs", "cartpole", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["references"]["random"] == {
        "mean": 22.493,
        "error": 0.12,
        "how": "uniform actions, 10 000 test episodes",
    }
    assert row["params"]["gravity"] == 9.8
    assert row["action"] == "Discrete(2)"
    assert row["page"].startswith("CartPole: ")


def test_every_sims_picture_can_be_drawn():
    for name in envs.sims():
        assert "▀" in cli.portrait(envs.get_sim(name)), name


def test_eval_tells_the_score_and_what_it_is_relative_to(scored, monkeypatch, capsys):
    monkeypatch.chdir(scored)
    assert cli.main(["eval", "runs/cartpole", "--episodes", "4", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["eval/score_normalised"] == pytest.approx((data["eval/mean_reward"] - 22.493) / 477.507, abs=1e-12)
    bounds = [(bound - 22.493) / 477.507 for bound in data["eval/mean_reward_ci95"]]
    assert data["eval/score_normalised_ci95"] == pytest.approx(bounds, abs=1e-12)
    assert data["score_reference"] == "optimal"
    assert cli.main(["eval", "runs/cartpole", "--episodes", "4"]) == 0
    rows = {row[0]: row[1:] for row in cells(capsys.readouterr().out)}
    score = f"{data['eval/score_normalised']:.6g}"
    assert rows["score (0 random, 1 optimal)"] == [score, f"{bounds[0]:.3f} to {bounds[1]:.3f}"]
    assert "generalisation gap" not in rows


def test_eval_of_levels_tells_both_results_and_the_gap(scored, monkeypatch, capsys):
    monkeypatch.chdir(scored)
    command = ["eval", "runs/maze", "--episodes", "16", "--sample"]
    found = {}
    for split in ("test", "train", "validation"):
        assert cli.main([*command, "--split", split, "--json"]) == 0
        found[split] = json.loads(capsys.readouterr().out)
    test, train = found["test"], found["train"]
    assert test["eval/train_mean_reward"] == train["eval/mean_reward"]
    assert test["eval/generalisation_gap"] == train["eval/mean_reward"] - test["eval/mean_reward"]
    assert not any("gap" in tag or "train_" in tag for split in ("train", "validation") for tag in found[split])
    assert cli.main(command) == 0
    rows = {row[0]: row[1:] for row in cells(capsys.readouterr().out)}
    assert rows["mean return, training levels"][0] == f"{test['eval/train_mean_reward']:.6g}"
    assert rows["generalisation gap"][0] == f"{test['eval/generalisation_gap']:.6g}"
    assert not any("score" in name for name in rows)  # episodes are shorter than those of the references


def test_the_outcome_of_a_run_tells_the_score_and_the_gap(scored):
    cartpole, maze = ((scored / f"{name}.txt").read_text() for name in ("cartpole", "maze"))
    assert re.search(r"score \(0 random, 1 optimal\)  -?\d\.\d{3}\s", cartpole)
    assert "training levels" not in cartpole
    assert re.search(r"training levels  \S+  \(gap \S+, 95 % interval \S+ to \S+\)", maze)


def test_runs_lists_a_damaged_run_too_and_its_other_verbs_say_what_is_wrong(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "runs", tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    run = only_run(tmp_path)
    (run / "summary.json").write_text("{")
    assert cli.main(["runs"]) == 0
    assert "stopped" in capsys.readouterr().out
    for text in ("a: [1", "", "sed: 1\n", "agent:\n  gamma: 7\n"):
        (run / "config.yaml").write_text(text)
        assert cli.main(["runs", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["status"] == "damaged"
        assert cli.main(["runs"]) == 0
        assert "damaged" in capsys.readouterr().out
        for verb in (["eval", "latest"], ["replay", "latest"], ["train", "resume=latest"]):
            assert cli.main(verb) == 2
            assert "config.yaml: " in capsys.readouterr().err
    (run / "config.yaml").unlink()
    assert cli.main(["eval", "latest"]) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_a_missing_run_or_checkpoint_is_a_usage_error(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    assert cli.main(["eval", "runs/nothing"]) == 2
    assert "no run at" in capsys.readouterr().err
    assert cli.main(["eval", "latest", "--checkpoint", "step_9"]) == 2
    assert "there is no such checkpoint" in capsys.readouterr().err


def test_a_grid_runs_every_combination(tmp_path):
    done = rlsys("train", "-m", *SMALL, "agent.gamma=0.9,0.99", "seed=1,2", "replay=false", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(rlsys("runs", "--json", cwd=tmp_path).stdout)
    assert sorted(row["seed"] for row in rows) == [1, 1, 2, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_a_grid_goes_on_after_a_run_that_fails(tmp_path):
    small = ["env=pendulum", "num_envs=8", "total_timesteps=256", "eval_episodes=2", "test_episodes=2", "replay=false"]
    done = rlsys("train", "-m", *small, "agent=dqn,ppo", "--quiet", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    rows = json.loads(rlsys("runs", "--json", cwd=tmp_path).stdout)
    assert [(row["agent"], row["status"]) for row in rows] == [("ppo", "finished")]


def test_cfg_prints_the_composed_config(tmp_path):
    done = rlsys("train", "--cfg", "job", "experiment=cartpole", "seed=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed: 5" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_experiment_composes():
    for name in compose.choices("experiment"):
        config = compose.composed([f"experiment={name}"])
        compose.check_env(config)


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from rlsys.config import Config
    from rlsys.folder import new_folder

    config = Config(run_dir=str(tmp_path))
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: new_folder(config), range(64)))
    assert len(set(folders)) == 64
    assert time.strftime("%Y%m%d") in folders[0].name


def test_an_agent_that_cannot_act_in_the_env_is_refused_before_there_is_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "env=pendulum", "agent=dqn"]) == 2
    assert "DQN needs a Discrete action space" in capsys.readouterr().err.replace("agent=dqn", "DQN")
    assert list(tmp_path.iterdir()) == []


def fails(sim):
    raise conformance.Failed("step 3: [nan]", "Mend it.")


def test_envs_check_says_what_each_check_has_seen_and_fails_where_one_does(capsys, monkeypatch):
    assert cli.main(["envs", "snake", "--check", "--devices", "cpu,python", "--transitions", "160"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"cpu and python +ok +160 transitions, the same bytes", printed)
    assert re.search(r"levels +not there", printed)
    assert printed.rstrip().endswith("no check failed")
    monkeypatch.setitem(conformance.CHECKS, "rewards", fails)
    assert cli.main(["envs", "tests.probes:MATCH", "--check", "--transitions", "32", "--json"]) == 1
    results = {result["check"]: result for result in json.loads(capsys.readouterr().out)}
    assert [name for name, result in results.items() if result["outcome"] == "failed"] == ["rewards"]
    assert results["rewards"] | {"check": ""} == {
        "check": "", "outcome": "failed", "found": "step 3: [nan]", "remedy": "Mend it."
    }  # fmt: skip
    assert list(results) == [*conformance.CHECKS, "stable-baselines3", "cpu and cuda"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "needs a sim, such as"),
        (["snake", "--devices", "cpu,tpu"], "device 'tpu' is not one of cpu, parallel, python, cuda"),
        (["snake", "--transitions", "0"], "is not an integer between 1"),
        (["tests.probes:NOTHING"], "there is no sim 'tests.probes:NOTHING'"),
        (["tests.probes:State"], "'tests.probes:State' is not a Sim but a Fields"),
        (["no.such:SIM"], "No module named 'no'"),
    ],
)
def test_envs_check_names_what_cannot_be_checked(wrong, message, capsys):
    assert cli.main(["envs", "--check", "--devices", "cpu", *wrong]) == 2
    assert message in capsys.readouterr().err
