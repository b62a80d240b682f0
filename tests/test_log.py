"""The log loses nothing that it wrote, forgets what a resumed run takes back, and never stops a run."""

import io
import json
import os
import pty
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader as EventFileLoader
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rlsys import log as log_module
from rlsys.events import LAYOUT
from rlsys.log import CHARTS, METRICS, Follower, Log, Pace, Progress, metrics_page, read_metrics

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"


def raw_lines(folder):
    return (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)


def points(folder, tag):
    """[(step, value)] as TensorBoard shows them."""
    board = EventAccumulator(str(folder))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars(tag)] if tag in board.Tags()["scalars"] else []


def events(folder):
    """All events of a run, file by file, as they stand."""
    return [
        event for path in sorted(folder.glob("events.out.tfevents.*")) for event in EventFileLoader(str(path)).Load()
    ]


def file_points(folder, tag):
    """[(step, value)] of all files, whatever a loader would make of them."""
    values = [(event.step, value) for event in events(folder) for value in event.summary.value if value.tag == tag]
    return [(step, value.simple_value) for step, value in values]


def write_many(log, steps):
    for step in steps:
        log.write(step, {"train/loss": 1.0})


# -- tags --------------------------------------------------------------------------------------------------------------


def test_every_tag_has_a_unit_and_a_meaning_that_is_a_sentence():
    for tag, metric in METRICS.items():
        assert re.fullmatch(r"(rollout|time|cost|train|eval|test)/[a-z_]+", tag)
        assert metric.unit
        assert metric.meaning.endswith(".")


def test_the_page_of_metrics_is_up_to_date():
    assert PAGE.read_text() == metrics_page(), "run `python -m rlsys.log > docs/metrics.md`"
    assert all(f"| `{tag}` | {metric.unit} | {metric.meaning} |" in metrics_page() for tag, metric in METRICS.items())


def test_an_unknown_tag_is_answered_with_the_nearest_one_and_nothing_is_written(tmp_path):
    with Log(tmp_path) as log:
        with pytest.raises(KeyError, match=r"'train/los' is unknown. The nearest known one is 'train/loss'"):
            log.write(1, {"train/std": 1.0, "train/los": 1.0})
        with pytest.raises(KeyError, match="nearest known one"):
            log.write(1, {"": 1.0})
    assert read_metrics(tmp_path) == []


# -- values ------------------------------------------------------------------------------------------------------------


def test_a_write_is_one_line_of_json_and_a_point_for_each_tag_in_tensorboard(tmp_path):
    with Log(tmp_path) as log:
        log.write(100, {"time/fps": 5000, "train/loss": 0.1})
        log.write(200, {"train/loss": -2.5})
    assert raw_lines(tmp_path) == [
        b'{"step": 100, "time/fps": 5000, "train/loss": 0.1}\n',
        b'{"step": 200, "train/loss": -2.5}\n',
    ]
    assert points(tmp_path, "train/loss") == [(100, pytest.approx(0.1)), (200, -2.5)]
    assert points(tmp_path, "time/fps") == [(100, 5000.0)]


def test_tensors_and_numpy_scalars_are_numbers_too(tmp_path):
    values = [torch.tensor(1.5), torch.tensor(3), np.float32(0.5), np.int64(7), np.array(2.0), True]
    with Log(tmp_path) as log:
        written = [log.write(i, {"train/loss": value}) for i, value in enumerate(values)]
    assert written == [{"train/loss": value} for value in (1.5, 3, 0.5, 7, 2.0, True)]
    assert [row["train/loss"] for row in read_metrics(tmp_path)] == [1.5, 3, 0.5, 7, 2.0, True]


def test_what_is_no_number_is_refused_by_its_tag(tmp_path):
    with Log(tmp_path) as log, pytest.raises(TypeError, match="'train/loss' is 'high', which is not a number"):
        log.write(1, {"train/loss": "high"})


def test_values_that_are_not_finite_are_null_and_do_not_reach_tensorboard(tmp_path):
    with Log(tmp_path) as log:
        log.write(1, {"train/loss": float("nan"), "train/std": torch.tensor(float("inf")), "time/fps": 3})
        log.write(2, {"train/loss": -np.inf})
        log.write(3, {"train/loss": 1e300})  # finite, but not in TensorBoard's float32
    assert raw_lines(tmp_path)[0] == b'{"step": 1, "train/loss": null, "train/std": null, "time/fps": 3}\n'
    assert [row["train/loss"] for row in read_metrics(tmp_path)] == [None, None, 1e300]
    assert points(tmp_path, "train/loss") == points(tmp_path, "train/std") == []
    assert points(tmp_path, "time/fps") == [(1, 3.0)]


def test_long_runs_do_not_overflow_the_step(tmp_path):
    with Log(tmp_path) as log:
        log.write(2**53 + 1, {"train/loss": 1.0})
    assert read_metrics(tmp_path)[0]["step"] == 2**53 + 1
    assert points(tmp_path, "train/loss") == [(2**53 + 1, 1.0)]


def test_lines_of_equal_step_are_read_as_one(tmp_path):
    with Log(tmp_path) as log:
        log.write(100, {"train/loss": 1.0})
        log.write(100, {"eval/mean_reward": 9.0})
        log.write(200, {"train/loss": 0.5})
    assert len(raw_lines(tmp_path)) == 3
    assert read_metrics(tmp_path) == [
        {"step": 100, "train/loss": 1.0, "eval/mean_reward": 9.0},
        {"step": 200, "train/loss": 0.5},
    ]


def test_a_line_is_on_file_when_write_returns(tmp_path):
    log = Log(tmp_path)
    log.write(1, {"train/loss": 1.0})
    assert read_metrics(tmp_path) == [{"step": 1, "train/loss": 1.0}]
    assert points(tmp_path, "train/loss") == [(1, 1.0)]
    log.flush()
    log.close()


def test_a_text_is_shown_as_markdown(tmp_path):
    with Log(tmp_path) as log:
        log.describe("a/b/c", "| key | value |\n|---|---|\n| seed | ünö |", {})
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    (event,) = board.Tensors("run/text_summary")
    assert event.step == 0
    assert event.tensor_proto.string_val[0].decode().endswith("| seed | ünö |")
    assert board.SummaryMetadata("run/text_summary").plugin_data.plugin_name == "text"


def test_there_is_no_log_to_read_in_an_empty_folder(tmp_path):
    assert read_metrics(tmp_path) == []


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_two_runs_do_not_mix_by_accident(tmp_path):
    Log(tmp_path).close()
    Log(tmp_path, resume_step=0).close()
    with pytest.raises(FileExistsError, match="Pass resume_step"):
        Log(tmp_path)


def test_a_resumed_run_takes_back_what_was_logged_after_its_checkpoint(tmp_path):
    with Log(tmp_path) as log:
        for step in (100, 200, 300, 400):
            log.write(step, {"train/loss": float(step)})
    with Log(tmp_path, resume_step=200) as log:
        assert read_metrics(tmp_path) == [{"step": s, "train/loss": float(s)} for s in (100, 200)]
        for step in (300, 400, 500):
            log.write(step, {"train/loss": -float(step)})
    expected = [(100, 100.0), (200, 200.0), (300, -300.0), (400, -400.0), (500, -500.0)]
    assert [(row["step"], row["train/loss"]) for row in read_metrics(tmp_path)] == expected
    assert points(tmp_path, "train/loss") == expected
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_run_resumed_many_times_within_a_second_and_with_the_clock_set_back_has_no_point_twice(tmp_path, monkeypatch):
    for attempt, now in enumerate((1_800_000_000, 1_800_000_000, 1_700_000_000, 1_700_000_001)):
        monkeypatch.setattr(log_module.time, "time", lambda now=now: float(now))
        with Log(tmp_path, resume_step=10 * attempt) as log:
            for step in range(10 * attempt + 1, 10 * attempt + 16):  # five steps too far, each time
                log.write(step, {"train/loss": float(attempt)})
    expected = [(step, float(min((step - 1) // 10, 3))) for step in range(1, 46)]
    assert points(tmp_path, "train/loss") == expected
    assert [(row["step"], row["train/loss"]) for row in read_metrics(tmp_path)] == expected


@pytest.mark.parametrize(
    "torn", [b'{"step": 3, "train/lo', b'{"step": 3}', b"\x00\x00\xff", b"[1, 2]\n", b'{"x": 1}\n', b"3\n"]
)
def test_a_torn_line_is_passed_over_and_dropped_on_resuming(tmp_path, torn):
    with Log(tmp_path) as log:
        for step in (1, 2):
            log.write(step, {"train/loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    with Log(tmp_path, resume_step=5) as log:
        log.write(6, {"train/loss": 1.0})
    assert [json.loads(line)["step"] for line in raw_lines(tmp_path)] == [1, 2, 6]


def test_a_torn_event_file_hides_neither_earlier_points_nor_the_resumed_run(tmp_path):
    with Log(tmp_path) as log:
        for step in (1, 2, 3):
            log.write(step, {"train/loss": 1.0})
    (events,) = tmp_path.glob("events.out.tfevents.*")
    events.write_bytes(events.read_bytes()[:-5])
    with Log(tmp_path, resume_step=2) as log:
        log.write(3, {"train/loss": 2.0})
    assert points(tmp_path, "train/loss") == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_neither_of_tensorboards_loaders_sees_a_point_that_a_resumed_run_took_back(tmp_path):
    """The one behind `tensorboard --load_fast=false` heeds no START but a second one; the other heeds none."""
    with Log(tmp_path) as log:
        for step in (100, 200, 250, 300, 400):
            log.write(step, {"train/loss": float(step)})
    for _ in range(2):
        with Log(tmp_path, resume_step=200) as log:
            log.write(300, {"train/loss": -300.0})
    assert [step for step, _ in file_points(tmp_path, "train/loss")] == [100, 200, 300]


def test_files_of_a_crash_between_writing_the_new_one_and_removing_the_old_count_once(tmp_path):
    with Log(tmp_path) as log:
        write_many(log, (1, 2, 3))
    (old,) = tmp_path.glob("events.out.tfevents.*")
    content = old.read_bytes()
    Log(tmp_path, resume_step=2).close()
    old.write_bytes(content)
    with Log(tmp_path, resume_step=2) as log:
        log.write(3, {"train/loss": 9.0})
    assert file_points(tmp_path, "train/loss") == [(1, 1.0), (2, 1.0), (3, 9.0)]


def test_resuming_doubles_neither_the_description_nor_the_layout_and_forgets_the_end(tmp_path):
    settings = {
        "agent.gamma": 0.9,
        "agent.hidden": [64, 64],
        "agent.target_kl": None,
        "env.name": "x",
        "agent.double": True,
    }
    for resume_step in (None, 5, 5):
        with Log(tmp_path, resume_step=resume_step) as log:
            log.describe("x/ppo/1", "card", settings)
            log.write(5 if resume_step is None else 6, {"train/loss": 1.0})
            log.write(6, {"test/mean_reward": 3.0})
            log.end()
    tags = [value.tag for event in events(tmp_path) for value in event.summary.value]
    expected = ["run/text_summary", "_hparams_/session_start_info", "train/loss", "custom_scalars__config__"]  # step 5
    expected += ["train/loss", "test/mean_reward", "custom_scalars__config__", "_hparams_/session_end_info"]  # step 6
    assert tags == expected
    assert [row for row in read_metrics(tmp_path) if "test/mean_reward" in row] == [
        {"step": 6, "train/loss": 1.0, "test/mean_reward": 3.0}
    ]
    (start,) = (value for event in events(tmp_path) for value in event.summary.value if "start_info" in value.tag)
    data = HParamsPluginData.FromString(start.metadata.plugin_data.content).session_start_info
    plain = {key: getattr(value, value.WhichOneof("kind")) for key, value in data.hparams.items()}
    assert plain == {"agent.gamma": 0.9, "agent.hidden": "[64,64]", "env.name": "x", "agent.double": True}


def test_charts_are_of_tags_that_are_known_and_a_run_has_those_of_its_own(tmp_path):
    assert list(CHARTS) == ["Learning", "Evaluation", "Speed", "Cost", "Health"]
    assert all(tag in METRICS for charts in CHARTS.values() for tags in charts.values() for tag in tags)
    with Log(tmp_path) as log:
        log.write(1, {"train/loss": 1.0, "time/fps": 1.0})
        log.write(2, {"train/loss": 1.0, "eval/mean_reward": 1.0})
    layouts = [value for event in events(tmp_path) for value in event.summary.value if value.tag == LAYOUT]
    groups = [
        {category.title: [chart.title for chart in category.chart] for category in layout.category}
        for layout in (Layout.FromString(value.tensor.string_val[0]) for value in layouts)
    ]
    assert groups == [
        {"Learning": ["loss"], "Speed": ["steps a second"]},
        {"Learning": ["loss"], "Evaluation": ["return of evaluations"], "Speed": ["steps a second"]},
    ]


def test_a_histogram_counts_what_is_finite(tmp_path):
    with Log(tmp_path) as log:
        log.add_histogram("actions", np.array([0, 1, 1, 2, 2, 2]), np.arange(4) - 0.5)
        log.add_histogram("weights", np.array([[0.0, 3.0], [np.nan, np.inf]]))
        log.add_histogram("nothing", np.array([np.nan]))
    actions, weights = (value.histo for event in events(tmp_path) for value in event.summary.value)
    assert list(actions.bucket) == [1, 2, 3]
    assert list(actions.bucket_limit) == [0.5, 1.5, 2.5]
    assert (actions.num, actions.sum, actions.sum_squares) == (6, 8, 14)
    assert (weights.num, weights.min, weights.max, weights.bucket[0], weights.bucket[29]) == (2, 0.0, 3.0, 1, 1)


# -- how much is written -----------------------------------------------------------------------------------------------


def simulated(folder, *, steps, seconds, iteration, eval_every):
    """A run of so many steps and seconds, of `iteration` steps each, as the loop logs it; returns the steps logged."""
    numbers = {tag: 1.2345678 for tag in METRICS if tag.split("/")[0] in ("rollout", "time", "train")}
    numbers = dict(list(numbers.items())[:24])  # more than any agent has
    evaluation = {tag: 1.2345678 for tag in METRICS if tag.startswith("eval/")}
    pace, logged = Pace(), []
    with Log(folder) as log:
        for step in range(iteration, steps + iteration, iteration):  # the last one ends beyond
            if pace.due(seconds * step / steps):
                log.write(step, numbers)
                logged.append(step)
            if step // eval_every > (step - iteration) // eval_every:
                log.write(step, evaluation)
    return logged


@pytest.mark.parametrize("seconds", [400, 86_400])
def test_a_hundred_million_steps_stay_under_five_megabytes_and_no_evaluation_is_missing(tmp_path, seconds):
    steps = simulated(tmp_path, steps=10**8, seconds=seconds, iteration=2048, eval_every=100_000)
    assert len(file_points(tmp_path, "eval/mean_reward")) == 1000
    assert [step for step, _ in file_points(tmp_path, "train/loss")] == steps
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert file.stat().st_size < 5e6
    assert (tmp_path / "metrics.jsonl").stat().st_size < 5e6
    late = [step for step in steps if step > 9e7]  # a tenth of the time, ln(1 / 0.9) of 300
    assert 25 <= len(late) <= 35


def test_a_run_of_half_a_second_has_all_its_points():
    pace = Pace()
    assert all(pace.due(0.004 * k) for k in range(125))


# -- a disk that refuses -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_costs_one_warning_and_not_the_run(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Log(tmp_path) as log:
            (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
            for step in range(100):
                log.write(step, {"train/loss": 1.0})
            log.flush()
    assert [str(w.message) for w in caught] == [
        f"{tmp_path / 'metrics.jsonl'}: [Errno 28] No space left on device. Metrics are lost until that changes."
    ]
    assert len(points(tmp_path, "train/loss")) == 100  # the other file goes on


def test_a_disk_that_fills_up_in_mid_record_and_is_freed_again_costs_only_what_did_not_fit(tmp_path):
    log = Log(tmp_path)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, unlimited[1]))  # no file may grow beyond 500 bytes
        with pytest.warns(RuntimeWarning, match="Metrics are lost until that changes"):
            write_many(log, range(30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert (tmp_path / "metrics.jsonl").stat().st_size == 500  # cut within a line
    for step in range(30, 35):
        log.write(step, {"train/loss": 1.0})
    log.close()

    for steps in (
        [json.loads(line)["step"] for line in raw_lines(tmp_path)],
        [s for s, _ in points(tmp_path, "train/loss")],
    ):
        assert steps == sorted(steps)
        assert 0 < len([step for step in steps if step < 30]) < 30
        assert steps[-5:] == [30, 31, 32, 33, 34]


def test_a_folder_that_is_not_there_costs_two_warnings_and_not_the_run(tmp_path):
    with pytest.warns(RuntimeWarning, match="No such file") as caught, Log(tmp_path / "gone") as log:
        write_many(log, range(3))
    assert len(caught) == 2  # one a file


# -- imports -----------------------------------------------------------------------------------------------------------


def test_logging_loads_neither_torch_nor_tensorflow():
    check = "import sys, rlsys.log; assert not {'torch', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True)


# -- the console -------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets: clock[0], in seconds."""
    now = [1000.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    return now


def plain():
    return Console(file=io.StringIO(), width=200)


def test_without_a_terminal_a_plain_line_comes_every_five_seconds(clock):
    console = plain()
    with Progress(10_000, label="CartPole [ppo]", console=console) as progress:
        for second in range(1, 13):
            clock[0] = 1000.0 + second
            progress.update(100 * second, {"rollout/ep_rew_mean": 20.0 + second, "eval/mean_reward": None})
        progress.update(1200, {"eval/mean_reward": 195.25})
    assert console.file.getvalue().splitlines() == [
        "CartPole [ppo]: 500/10,000 steps (5 %), 100 steps/s, 1:35 left, reward 25, 0:05 elapsed",
        "CartPole [ppo]: 1,000/10,000 steps (10 %), 100 steps/s, 1:30 left, reward 30, 0:10 elapsed",
        "CartPole [ppo]: 1,200/10,000 steps (12 %), 100 steps/s, 1:28 left, reward 32, eval 195.2, 0:12 elapsed",
    ]


def test_the_speed_is_of_the_last_ten_seconds_and_a_resumed_run_counts_its_own_steps(clock):
    console = plain()
    with Progress(1_000_000, label="run", start=500_000, console=console) as progress:
        for second, step in ((5, 500_100), (10, 500_200), (15, 510_200), (20, 520_200), (7225, 1_000_000)):
            clock[0] = 1000.0 + second
            progress.update(step)
    lines = console.file.getvalue().splitlines()
    assert "20 steps/s, 6:56:35 left, 0:05 elapsed" in lines[0]
    assert "2,000 steps/s, 3:59 left, 0:20 elapsed" in lines[3]
    assert lines[4].startswith("run: 1,000,000/1,000,000 steps (100 %)")
    assert lines[4].endswith("2:00:25 elapsed")


def test_a_quiet_run_says_nothing(capfd):
    with Progress(10, label="run", quiet=True) as progress:
        progress.update(10, {"eval/mean_reward": 1.0})
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_stderr_so_that_stdout_can_be_parsed(capfd):
    with Progress(10, label="run") as progress:
        progress.update(10)
    out, err = capfd.readouterr()
    assert out == ""
    assert "run: 10/10 steps (100 %)" in err


def test_on_a_terminal_the_line_is_redrawn_at_most_eight_times_a_second(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    draws = []
    with Progress(100_000, label="CartPole ppo", console=console) as progress:
        progress._live.update = lambda line, refresh: draws.append(clock[0])
        for millisecond in range(1, 2001):
            clock[0] = 1000.0 + millisecond / 1000
            progress.update(10 * millisecond, {"rollout/ep_rew_mean": 20.0})
    assert len(draws) == 2000 // 125 + 1  # the last one is the final state


def test_the_live_line_has_steps_speed_reward_and_time_left_on_one_line(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    with Progress(100_000, label="CartPole [ppo]", console=console) as progress:
        clock[0] += 2.0
        progress.update(20_000, {"rollout/ep_rew_mean": 123.456, "eval/mean_reward": 200.0})
    last = console.file.getvalue().replace("\x1b", "\n").splitlines()
    line = next(line for line in reversed(last) if "CartPole" in line)
    assert re.search(
        r"CartPole \[ppo\].*20,000/100,000  10,000 steps/s  0:08 left  reward 123.5  eval 200  0:02 elapsed", line
    )


def test_a_narrow_terminal_has_no_room_for_the_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with Progress(10, label="run", console=console) as progress:
        progress.update(10)
    assert "━" not in console.file.getvalue()
    assert "10/10" in console.file.getvalue()


def test_a_real_terminal_gets_the_live_line():
    program = "from rlsys.log import Progress\nwith Progress(10, label='run') as p: p.update(10)"
    main, terminal = pty.openpty()
    subprocess.run([sys.executable, "-c", program], stderr=terminal, check=True, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    assert b"10/10" in os.read(main, 65536)
    os.close(main)


def test_a_line_whose_step_is_no_number_is_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": "x"}\n{"step": 3, "eval/episodes": 1}\n')
    assert [point["step"] for point in read_metrics(tmp_path)] == [3]


def test_two_hundred_thousand_updates_cost_little(capfd):
    with Progress(10**6, label="run") as progress:
        metrics = {"rollout/ep_rew_mean": 1.0}
        for step in range(200_000):
            progress.update(step, metrics)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    speed = float(re.search(r"([\d,]+) steps/s", lines[0])[1].replace(",", ""))
    assert speed > 200_000  # under 5 µs a call, on any machine


def test_a_file_is_followed_line_by_line_and_from_its_beginning_once_it_is_written_anew(tmp_path):
    follow = Follower(tmp_path)
    assert follow() == []
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "a": 3}\n{"st')
    assert follow() == [{"step": 1}, {"step": 2, "a": 3}]
    assert follow() == []
    with open(path, "a") as file:
        file.write('ep": 3}\nno line\n{"step": 4}\n')
    assert follow() == [{"step": 3}, {"step": 4}]
    anew = tmp_path / "anew"
    anew.write_text('{"step": 1}\n')
    anew.replace(path)  # as a resumed run does
    assert follow() == [{"step": 1}]
