"""The board as a user meets it: `rlsys board` is started, asked as its page asks it, and looked at in a browser."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlsys import cli
from rlsys.board import Board, holder
from rlsys.config import Config, DQNConfig, PPOConfig, SimConfig, flat, to_data, to_yaml
from rlsys.folder import Run, hyperparameters
from rlsys.log import Log

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STEPS = (1000, 2000, 3000)


def make_run(root: Path, name: str, cfg: Config, *, score: float = 100.0, pictures: bool = False) -> Run:
    """A run as training leaves it, whose curves are known: ep_rew_mean at step s is s / 100."""
    folder = root / "runs" / cfg.env.name / cfg.agent.name / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(cfg))
    (folder / "command.txt").write_text("rlsys train\n")
    run = Run(folder)
    with Log(folder) as log:
        log.describe(run.name, "**config.yaml** of a test", hyperparameters(flat(to_data(cfg))))
        for step in STEPS:
            log.write(
                step, {"rollout/ep_rew_mean": step / 100, "train/loss": 1.0, "train/value_loss": 1.0, "time/fps": 5e4}
            )
            log.write(step, {"eval/mean_reward": score - 3000 + step})
        if pictures:
            frames = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
            frames[0].save(root / "x.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
            log.add_image("replay", (root / "x.gif").read_bytes(), (64, 48))
            log.add_histogram("actions", np.array([0, 0, 1]), np.arange(3) - 0.5)
        log.write(STEPS[-1], {"test/mean_reward": score})
        log.end()
    return run


PPO = [Config(env=SimConfig("snake"), agent=PPOConfig(learning_rate=rate), seed=7) for rate in (1e-3, 3e-4)]
DQN = Config(env=SimConfig("cartpole", params={"gravity": 15.0}), agent=DQNConfig(gamma=0.9), seed=2)
NAMES = [
    "cartpole/dqn/seed=2 cccc",
    "snake/ppo/learning_rate=0.0003, seed=7 bbbb",
    "snake/ppo/learning_rate=0.001, seed=7 aaaa",
]


def three_runs(root: Path) -> Path:
    make_run(root, "20260101-000000-s7-aaaa", PPO[0], score=11.5, pictures=True)
    make_run(root, "20260101-000001-s7-bbbb", PPO[1], score=22.5)
    make_run(root, "20260101-000002-s2-cccc", DQN, score=33.5)
    return root


@contextlib.contextmanager
def boarded(cwd: Path, *arguments: str):
    """`rlsys board` in `cwd`: its process and the address that it prints."""
    command = [sys.executable, "-m", "rlsys", "board", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TMPDIR": str(cwd)}
    process = subprocess.Popen(command, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.search(r"TensorBoard on \d+ runs?: (http://\S+)  \(Ctrl-C ends it\)", line)
        assert found, f"{line!r} {process.stderr.read()}"
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def ask(address: str, path: str, **query: str):
    """What the server answers at data/`path`, parsed."""
    with urllib.request.urlopen(f"{address}data/{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return json.loads(answer.read())


def wait_for(condition, seconds: float = 90.0):
    """The first value of `condition()` that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)
    return value


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """The address of a board on three runs."""
    with boarded(three_runs(tmp_path_factory.mktemp("board")), "--port", "0") as (_, address):
        wait_for(lambda: len(ask(address, "runs")) == 3)
        wait_for(lambda: all("test/mean_reward" in tags for tags in ask(address, "plugin/scalars/tags").values()))
        yield address


# -- names -------------------------------------------------------------------------------------------------------------


def test_runs_are_called_by_what_differs_between_them(tmp_path, monkeypatch):
    monkeypatch.chdir(three_runs(tmp_path))
    with Board(["runs"]) as board:
        assert sorted(board.names.values()) == NAMES
        for name in NAMES:
            assert [path.name.split(".")[1:3] for path in (board.folder / name).glob("*.rlsys")] == [
                ["out", "tfevents"]
            ]
    assert not board.folder.exists()


def test_a_run_without_a_readable_config_keeps_the_name_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(three_runs(tmp_path))
    (tmp_path / "runs/cartpole/dqn/20260101-000002-s2-cccc/config.yaml").write_text("][")
    with Board(["runs/cartpole/*/*"]) as board:
        assert list(board.names.values()) == ["cartpole/dqn/20260101-000002-s2-cccc"]


def test_a_run_that_begins_or_is_resumed_while_the_board_is_open_is_taken_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = make_run(tmp_path, "a-1", PPO[0])
    with Board(["runs"]) as board:
        make_run(tmp_path, "b-2", PPO[1])
        Log(first.folder, resume_step=2000).close()
        board.refresh()
        assert list(board.names.values()) == ["snake/ppo/seed=7 1", "snake/ppo/learning_rate=0.0003, seed=7 2"]
        links = [path for path in (board.folder / "snake/ppo/seed=7 1").iterdir() if path.is_symlink()]
        assert [path.resolve() for path in links] == list(first.folder.resolve().glob("events*"))


def test_runs_are_called_as_the_folders_that_they_lie_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, "a-1", PPO[0])
    (tmp_path / "runs" / "snake").rename(tmp_path / "runs" / "ALE-Pong-v5")  # env.name of every game is atari
    with Board(["runs"]) as board:
        assert list(board.names.values()) == ["ALE-Pong-v5/ppo/seed=7 1"]


def test_there_is_no_board_without_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["board", "nowhere"]) == 2
    assert "no run at 'nowhere'" in capsys.readouterr().err


# -- ports and the end ---------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_with_its_holder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, "a-1", PPO[0])
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        assert cli.main(["board", "--port", str(port)]) == 2
        printed = capsys.readouterr().err
        assert f"port {port} of localhost is taken by" in printed
        assert "Without --port a free one is taken." in printed
        if sys.platform == "linux":
            assert f"process {os.getpid()} (" in printed
    assert holder(port) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number, tmp_path):
    make_run(tmp_path, "a-1", PPO[0])
    with boarded(tmp_path, "runs/*/*/*", "--port", "0") as (process, _):
        assert list(tmp_path.glob("rlsys-board-*"))
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
        assert (process.returncode, printed) == (0, "")
    assert not list(tmp_path.glob("rlsys-board-*"))


# -- what its page asks for ----------------------------------------------------------------------------------------------


def test_the_server_has_all_runs_tags_and_points(board):
    assert sorted(ask(board, "runs")) == NAMES
    tags = ask(board, "plugin/scalars/tags")
    expected = {
        "eval/mean_reward",
        "rollout/ep_rew_mean",
        "test/mean_reward",
        "time/fps",
        "train/loss",
        "train/value_loss",
    }
    assert {name: set(found) for name, found in tags.items()} == dict.fromkeys(NAMES, expected)
    points = ask(board, "plugin/scalars/scalars", run=NAMES[0], tag="rollout/ep_rew_mean")
    assert [point[1:] for point in points] == [[1000, 10.0], [2000, 20.0], [3000, 30.0]]
    assert set(ask(board, "plugin/images/tags")) == {NAMES[2]}
    assert set(ask(board, "plugin/histograms/tags")) == {NAMES[2]}


def test_the_table_of_hyperparameters_has_a_row_a_run_and_knows_what_differs(board):
    asked = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS"],
        "sliceSize": 100,
        "colParams": [],
    }
    experiment = ask(board, "plugin/hparams/experiment", request=json.dumps({"experimentName": ""}))
    assert [metric["displayName"] for metric in experiment["metricInfos"]] == ["score", "eval/mean_reward"]
    types = {info["name"]: (info["type"], info.get("differs", False)) for info in experiment["hparamInfos"]}
    assert types["agent.learning_rate"] == ("DATA_TYPE_FLOAT64", True)
    assert types["agent.hidden"] == ("DATA_TYPE_STRING", False)
    assert types["env.params.gravity"] == ("DATA_TYPE_FLOAT64", False)  # one run has it
    assert types["num_envs"] == ("DATA_TYPE_FLOAT64", False)
    groups = ask(board, "plugin/hparams/session_groups", request=json.dumps(asked))["sessionGroups"]
    rows = {group["name"].rpartition("-")[2]: group for group in groups}
    assert set(rows) == {"aaaa", "bbbb", "cccc"}
    assert {name: row["hparams"]["agent.learning_rate"] for name, row in rows.items()} == {
        "aaaa": 1e-3,
        "bbbb": 3e-4,
        "cccc": 1e-3,
    }
    assert rows["cccc"]["hparams"]["env.params.gravity"] == 15.0
    scores = {name: [value["value"] for value in row["metricValues"]] for name, row in rows.items()}
    assert scores == {"aaaa": [11.5, 11.5], "bbbb": [22.5, 22.5], "cccc": [33.5, 33.5]}


def test_the_custom_scalars_have_four_groups_and_each_chart_once(board):
    layout = ask(board, "plugin/custom_scalars/layout")
    titles = {group["title"]: [chart["title"] for chart in group["chart"]] for group in layout["category"]}
    assert titles == {
        "Learning": ["return of training episodes", "loss"],
        "Evaluation": ["return of evaluations", "test and training levels, at the end"],
        "Speed": ["steps a second"],
        "Health": ["value loss"],
    }
    for group in layout["category"]:
        for chart in group["chart"]:
            tags = chart["multiline"]["tag"]
            found = [
                ask(board, "plugin/custom_scalars/scalars", run=NAMES[1], tag=tag)["tag_to_events"] for tag in tags
            ]
            assert any(found), chart["title"]


# -- in a browser --------------------------------------------------------------------------------------------------------

DEEP_TEXT = """(() => {
  const text = node => node.nodeType === 3 ? node.data
    : ['SCRIPT', 'STYLE'].includes(node.nodeName) ? ''
    : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(text).join(' ');
  return text(document.body).replace(/\\s+/g, ' ');
})()"""
# the marks of all curves that are drawn, in every shadow root
CURVES = """(() => {
  const all = node => [node, ...(node.shadowRoot ? [...node.shadowRoot.children].flatMap(all) : []),
                       ...[...node.children].flatMap(all)];
  return all(document.body).filter(n => n.nodeName === 'path' && (n.getAttribute('d') || '').includes('L')
                                        && n.getBoundingClientRect().width > 20).length;
})()"""


class Browser:
    """Headless Chromium, told what to do over a pair of pipes (the DevTools protocol)."""

    def __init__(self, profile: Path):
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        options = (
            "--headless=new --no-sandbox --disable-gpu --no-first-run --window-size=1600,1300 --remote-debugging-pipe"
        )
        shell = f'exec "{CHROMIUM}" {options} --user-data-dir="{profile}" about:blank 3<&{to_child} 4>&{from_child}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_child)
        os.close(from_child)
        self._rest, self._count, self._session = b"", 0, {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def call(self, method: str, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._in, 1 << 20)
                assert part, "the browser has gone"
                self._rest += part
            answer, _, self._rest = self._rest.partition(b"\0")
            found = json.loads(answer)
            if found.get("id") == self._count:
                assert "error" not in found, found
                return found["result"]

    def evaluate(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, address: str, *words: str) -> str:
        """The page's text, once all of `words` are in it."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        text = ""

        def is_there() -> bool:
            nonlocal text
            text = self.evaluate(DEEP_TEXT) or ""
            return all(word in text for word in words)

        try:
            wait_for(is_there)
        except AssertionError:
            raise AssertionError(f"{[word for word in words if word not in text]} not in {text[:3000]!r}") from None
        return text

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def test_the_page_lists_the_runs_and_draws_their_curves(board, browser):
    browser.open(
        f"{board}#timeseries", *(name.rpartition(" ")[2] for name in NAMES), "rollout", "eval", "train", "time"
    )
    wait_for(lambda: browser.evaluate(CURVES) >= 3)


def test_the_page_of_hyperparameters_shows_their_values_and_the_scores(board, browser):
    text = browser.open(f"{board}#hparams", "score", "agent.learning_rate", "0.0003", "11.5", "22.5", "33.5")
    assert "aaaa" in text


def test_the_page_of_custom_scalars_shows_the_groups_and_their_charts(board, browser):
    browser.open(f"{board}#custom_scalars", "Learning", "Evaluation", "Speed", "Health", "return of training episodes")
    wait_for(lambda: browser.evaluate(CURVES) >= 3)


def test_the_pages_of_text_and_images_show_the_card_and_the_replay(board, browser):
    browser.open(f"{board}#text", "config.yaml", "of a test")
    browser.open(f"{board}#images", "replay")
