"""The benchmarks' own parts: counting flops, asking workers, writing the report. Needs no peer."""

import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import chart
import numpy as np
import peers
import pytest
import report
import throughput
import work
from peers import Measured, System, Work, Worker, WorkerError

import envs
from envs.engine import njit, rng

# A worker of three kinds of work: one is done, one fails, one takes the process down.
FAKE = """
import json, sys
print(json.dumps({"fake": "1.2"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["kind"] == "die":
        sys.exit("Fatal: out of luck")
    answer = {"steps": 300, "seconds": 1.5} if request["kind"] == "env" else {"error": "ValueError: no"}
    print(json.dumps(answer), flush=True)
"""


def fake(text: str = FAKE, patience: float = 20.0) -> Worker:
    return Worker([sys.executable, "-c", text], patience)


@pytest.fixture
def worker():
    worker = fake()
    yield worker
    worker.stop()


def ask(kind: str) -> dict:
    return {"kind": kind, "settings": {"num_envs": 4}, "options": {}, "seconds": 1.0}


# -- flops -------------------------------------------------------------------------------------------------------------


def test_flops_of_a_ppo_step_are_those_counted_by_hand():
    assert peers.forward_flops([4, 64, 64, 2]) == 2 * (256 + 4096 + 128)
    # both networks: 8960 + 8832 forward; once in the rollout and three times in each of 4 epochs
    assert peers.ppo_flops({"hidden": [64, 64], "n_epochs": 4}) == 17792 * 13 == 231_296


# -- the work of a step ------------------------------------------------------------------------------------------------


@njit
def kinetic_energy(x, v, n):
    if n > 2:
        v = -abs(v)
    return math.sqrt(x * x + 1.0) / (2.0 * v**3) + min(math.sin(v), 0.5) + (n & 3) * (n - 1) // 2


def test_operations_are_those_counted_by_hand():
    tally = work.Tally()
    x, v, n = (work.Number(value, tally) for value in (3.0, 2.0, 5))
    found = work.counting(kinetic_energy, tally)(x, v, n)
    expected = kinetic_energy.py_func(3.0, 2.0, 5)
    assert work.plain(found) == pytest.approx(expected)
    # flops of weight 1: abs, minus, x * x, + 1, v * v * v, 2 *, min, +, + (the last of a float and a whole number)
    assert tally.operations == {"simple": 10, "root": 1, "division": 1, "function": 1, "integer": 5}
    assert tally.work(2).flops == (10 + 4 + 4 + 8) / 2
    assert tally.work(2).integers == 2.5


def test_bytes_of_a_cartpole_step_are_those_counted_by_hand():
    read, written = [], []
    for steps in (7, 8):  # nothing ends so early
        done, states = work.played("cartpole", steps, seed=3)
        read.append(done.bytes_read)
        written.append(done.bytes_written)
        assert states["elapsed"][0] == steps
    # x, x_dot, theta, theta_dot; elapsed; episode_return; the action; `episode` is not touched
    assert read == [4 * 4 + 4 + 8 + 8] * 2
    # the same but the action; the observation, the reward, three flags, the episode's return and length
    assert written == [4 * 4 + 4 + 8 + 4 * 4 + 4 + 3 + 8 + 8] * 2
    assert done.divisions == 2  # by the total mass, and by what the pole's inertia amounts to
    assert done.functions == 2
    assert done.roots == 0


@pytest.mark.parametrize("name", ["snake", "game2048", "breakout", "inventory", "maze"])
def test_what_counts_is_what_happens(name):
    """The counting numbers leave the bytes that compiled code leaves, also after episodes that ended."""
    steps = 150
    done, states = work.played(name, steps, seed=5)
    env = envs.make_vec(name, 1, seed=5, backend="serial")
    env.reset()
    env.single_action_space.seed(5)
    for _ in range(steps):
        env.step(np.asarray(env.single_action_space.sample())[None])
    assert states.tobytes() == env.state.tobytes()
    assert done.integers > 1


def test_numbers_wrap_around_as_64_bits_do():
    tally = work.Tally()
    draw = {"key": np.uint64(2**63 + 12345), "draws": np.uint32(7)}
    record = work.Record(np.array([tuple(draw.values())], [("key", "u8"), ("draws", "u4")]), tally)
    found = work.counting(rng.bits64, tally)(record)
    with np.errstate(over="ignore"):
        expected = rng.mix64.py_func(draw["key"] + np.uint64(8) * rng.GAMMA)
    assert work.plain(found) == int(expected)
    assert tally.operations == {"integer": 1 + 2 + 8}  # the next draw; key + draw * GAMMA; mix64's three rounds


def test_what_would_take_longest_is_the_roof():
    done = work.Work(100.0, 0, 0, 0, 30.0, 60.0, 40.0)
    # 1, 2 and 3 ns of what took 6
    found = throughput.share_of_roof(done, 1 / 6e-9, bandwidth=100e9, flops=50e9, integers=10e9)
    assert found == {"bound": "integers", "share": pytest.approx(0.5)}
    found = throughput.share_of_roof(done, 1 / 6e-9, bandwidth=25e9, flops=50e9, integers=10e9)
    assert found == {"bound": "bytes", "share": pytest.approx(4 / 6)}


# -- workers -----------------------------------------------------------------------------------------------------------


def test_a_worker_says_its_versions_and_answers(worker):
    worker.start()
    assert worker.versions == {"fake": "1.2"}
    assert worker.ask(ask("env")) == {"steps": 300, "seconds": 1.5}


def test_an_error_is_told_and_the_worker_goes_on(worker):
    with pytest.raises(WorkerError, match="ValueError: no"):
        worker.ask(ask("dqn"))
    assert worker.ask(ask("env"))["steps"] == 300


def test_a_worker_that_dies_is_told_with_its_last_words_and_started_again(worker):
    with pytest.raises(WorkerError, match="Fatal: out of luck"):
        worker.ask(ask("die"))
    assert worker.ask(ask("env"))["steps"] == 300


def test_a_worker_that_cannot_start_or_says_nothing_is_told():
    with pytest.raises(WorkerError, match="No module named 'no_such_peer'"):
        fake("import no_such_peer").start()
    with pytest.raises(WorkerError, match=r"no answer within 0\.3 s"):
        fake("import time; time.sleep(60)", patience=0.3).start()


def test_what_cannot_be_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("RLSYS_PEERS", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerError):
        peers.install(System("nothing", ("nothing==0",), {}))
    assert not (tmp_path / "nothing" / "installed.txt").exists()


def test_the_real_loop_answers_and_libraries_cannot_disturb_it(tmp_path):
    serve = str(report.ROOT / "benchmarks" / "workers")
    text = f"""
import sys
sys.path.insert(0, {serve!r})
from serve import serve
def env(settings, options):
    print("a library greets its users")
    return lambda: settings["num_envs"] * 10
def dqn(settings, options):
    raise ValueError("no")
serve({{"env": env, "dqn": dqn}})
"""
    worker = fake(text)
    answer = worker.ask({**ask("env"), "seconds": 0.01})
    assert answer["seconds"] >= 0.01
    assert answer["steps"] % 40 == 0
    assert worker.ask({**ask("env"), "seconds": 0.0}) == {"steps": 0, "seconds": 0.0}  # only warmed up
    with pytest.raises(WorkerError, match="ValueError: no"):
        worker.ask(ask("dqn"))
    worker.stop()


def test_a_peer_that_fails_does_not_stop_the_rest(monkeypatch):
    systems = [System(name, (), dict.fromkeys(("env", "die"), peers.DEFAULT)) for name in ("rlsys", "sb3")]
    asked = [Work("env 4", "env", {"num_envs": 4}, ("rlsys", "sb3")), Work("x", "die", {"num_envs": 4}, ("sb3",))]
    workers = {"rlsys": fake(), "sb3": fake(FAKE.replace("300", "60"))}
    pieces = peers.summary(asked, peers.run(asked, systems, workers, rounds=2))["work"]
    for worker in workers.values():
        worker.stop()
    assert pieces["env 4"]["systems"]["sb3"]["default"] == {"rounds": [40.0, 40.0], "median": 40.0, "best": 40.0}
    assert pieces["env 4"]["ratios"] == {"sb3": {"default": 5.0}}
    assert pieces["x"]["systems"]["sb3"]["default"]["error"] == "Fatal: out of luck"


def test_a_way_that_is_far_behind_is_measured_once():
    one, two, other = Measured("sb3", "a", {}, [10.0]), Measured("sb3", "b", {}, [41.0]), Measured("x", "a", {}, [9.0])
    peers.drop_slow([one, two, other])
    assert (one.slow, two.slow, other.slow) == (True, False, False)


def test_all_work_has_someone_to_do_it():
    systems = {"rlsys": peers.OURS} | {peer.name: peer.ways for peer in peers.PEERS}
    for piece in peers.WORK:
        assert all(piece.kind in systems[name] for name in piece.systems)
    assert {name for piece in peers.WORK for name in piece.systems} == set(systems) == set(chart.LABELS)


# -- the report --------------------------------------------------------------------------------------------------------

MACHINE = {
    "time": "2026-02-03T04:05:06+00:00", "python": "CPython 3.11.7", "git": {"commit": "abcdef0123456", "dirty": False},
    "cpu": "A Processor", "cores": 2, "usable_cores": 2, "memory_gib": 23.4, "gpus": None, "packages": {"numpy": "2.4.6"},
}  # fmt: skip


def way(median: float) -> dict:
    return {"rounds": [median], "median": median, "best": median}


PEERS = {
    "machine": MACHINE,
    "rounds": 7,
    "roof_gflops": {"1 thread": 100.0},
    "systems": {
        "rlsys": {"versions": {"python": "3.11.7"}, "error": None},
        "sb3": {"versions": {"python": "3.11.7", "stable-baselines3": "2.9.2"}, "error": None},
        "gymnax": {"versions": {}, "error": "ModuleNotFoundError: No module named 'six'"},
    },
    "work": {
        "env 16": {
            "kind": "env",
            "settings": {"num_envs": 16},
            "systems": {"rlsys": {"1 thread": way(2_932_997.0)}, "gymnasium": {"default": way(509_737.0)}},
            "ratios": {"gymnasium": {"1 thread": 5.754}},
        },
        "ppo 4 x 128": {
            "kind": "ppo",
            "settings": {"num_envs": 4, "n_steps": 128, "batch_size": 128, "n_epochs": 4},
            "systems": {
                "rlsys": {"1 thread": way(43_210.0)},
                "sb3": {"1 thread": way(6_789.0), "default": way(5_432.0)},
                "rejax": {"default": {"error": "XlaRuntimeError: no memory", "rounds": []}},
            },
            "ratios": {"sb3": {"1 thread": 6.365}},
            "flops_per_step": 231_296,
            "share_of_roof": {"1 thread": 0.09994},
        },
    },
}
THROUGHPUT = {
    "scale": {
        "machine": MACHINE,
        "roof_flops": {"1 thread": 100e9},
        "env_only": {"1024": {"1 thread": 98_765_432.0, "gymnasium": 12_345_678.0}},
        "rollout": {"1024": {"1 thread": 4_321_000.0}},
        "training": {"1024": {"native, 1 thread": 432_100.0, "torch, 1 thread": 123_400.0}},
        "share_of_roof": {"1024": {"1 thread": 0.456}},
    },
    "sims": {
        "machine": MACHINE,
        "rounds": 7,
        "num_envs": 1024,
        "roof": {"flops": 250e9, "integers": 90e9, "bandwidth": {"32768": 120e9, "131072": 80e9}},
        "sims": {
            "snake": {
                "steps_per_second": 12_345_678.0,
                "work": {
                    "bytes": 1250.4,
                    "flops": 1.0,
                    "divisions": 0.0,
                    "roots": 1.0,
                    "functions": 2.2,
                    "integers": 186.0,
                },
                "share": 0.152,
                "bound": "bytes",
                "frames_per_second": 234.5,
            }
        },
    },
}
GAMES = {
    "machine": MACHINE,
    "rounds": 3,
    "systems": {"rlsys": {"versions": {}, "error": None}, "puffer": {"versions": {}, "error": None}},
    "work": {
        "snake 1024": {
            "kind": "snake",
            "settings": {"num_envs": 1024},
            "systems": {
                "rlsys": {"1 thread": way(12_000_000.0)},
                "puffer": {"a board each": way(5_000_000.0), "one board": {"error": "no compiler", "rounds": []}},
            },
        }
    },
}
ENGINES = {
    "engines": {
        "machine": MACHINE,
        "reference": "torch",
        "work": {
            "PPO": {
                "levels": {"native": [100.0, 200.0], "torch": [110.0, 170.0]},
                "against": {"native": {"p": 0.4321, "difference_ci95": [-12.34, 56.78]}},
            }
        },
    }
}
LEARNING = {
    "machine": MACHINE,
    "runs": [
        {"system": "rlsys", "cache": "warm", "seed": 0, "seconds_to_solved": 2.04, "peak_memory_mb": 321.0},
        {"system": "rlsys", "cache": "warm", "seed": 1, "seconds_to_solved": 4.06, "peak_memory_mb": 325.0},
        {"system": "sb3", "cache": "cold", "seed": 0, "seconds_to_solved": None, "peak_memory_mb": 400.0},
    ],
}


def test_the_report_has_the_figures_of_the_files(tmp_path):
    (tmp_path / "peers.json").write_text(json.dumps(PEERS))
    (tmp_path / "learning.json").write_text(json.dumps(LEARNING))
    (tmp_path / "engines.json").write_text(json.dumps(ENGINES))
    data = report.load(tmp_path)
    page = report.page(report.PAGE.read_text(), data)
    assert (
        "A Processor, 2 cores, 23 GiB, no GPU; CPython 3.11.7; commit abcdef0; 2026-02-03. Medians of 7 rounds." in page
    )
    assert "| PPO, 4 × 128; minibatches of 128, 4 epochs | 43,210 | 6,789 | failed | 6.4 | - |" in page
    assert "| 16 | 2,932,997 | 509,737 | 5.8 |" in page
    assert "| PPO, 4 × 128 | 1 thread | 231,296 | 10.0 | 100.0 | 10% |" in page
    assert "| gymnax (JAX) | ModuleNotFoundError: No module named 'six' |" in page
    assert "- rejax (JAX) (default), ppo 4 x 128: XlaRuntimeError: no memory" in page
    assert "| rlsys | warm | 2 of 2 | 3.0 (2.0 to 4.1) | 323 MB |" in page
    assert "| stable-baselines3 | cold | 0 of 1 | - | 400 MB |" in page
    assert "Not measured yet: experiments.json is missing (`make results`)." in page
    assert "Not measured yet: throughput.json is missing (`make throughput`)." in page
    assert "| PPO | native and torch | 2 | 150.0, 140.0 | -12.3 to 56.8 | 0.43 |" in page
    assert "| 1,024 | 98.8 | 12.3 | 4,321 | 432 | 123 | 46% |" in "\n".join(report.scale(THROUGHPUT))
    assert "| snake | 12.3 | 1,250 | 1 | 0 + 1 + 2 | 186 | 15% | bytes | 234 |" in "\n".join(report.sims(THROUGHPUT))
    assert "| Snake, 1,024 | 12,000,000 | 5,000,000 | a board each | 2.4 |" in "\n".join(report.games(GAMES))
    assert "| Snake, 1,024 | 12,000,000 | failed | one board | - |" in "\n".join(report.games(GAMES))
    for section in (report.sims, report.scale):
        assert section({}) == ["Not measured yet: throughput.json is missing (`make throughput`)."]
    assert report.page(page, data) == page  # writing it again changes nothing


def test_without_files_the_page_says_so_and_shows_no_picture():
    page = report.page(report.PAGE.read_text(), {})
    assert page.count("Not measured yet") == len(report.SECTIONS)
    assert "results.svg" not in page


def test_every_section_of_the_page_is_written():
    marks = re.findall(r"^<!-- (\w+) -->$", report.PAGE.read_text(), re.M)
    assert marks == list(report.SECTIONS)


def test_the_picture_has_the_figures_of_the_file():
    words = [element.text for element in ET.fromstring(chart.svg(PEERS, "caption")).iter() if element.text]
    for expected in ("43.2 k", "6.79 k", "rlsys 6.4×", "2.93 M", "510 k", "PPO, 4 × 128", "caption"):
        assert expected in words


def test_bars_are_as_long_as_their_rates_logarithms():
    scale = chart.LogScale([3_000.0, 200_000.0], 100.0, 350.0)
    assert scale.ticks() == [1e3, 1e4, 1e5]
    assert [scale(rate) for rate in (1e3, 1e4, 1e5)] == pytest.approx([100.0, 200.0, 300.0])


def test_short_numbers():
    rates = (46_380_819, 999_600, 170_635, 3_168, 999.4)
    assert [chart.short(rate) for rate in rates] == ["46.4 M", "1 M", "171 k", "3.17 k", "999"]


def test_every_line_of_the_gpus_benchmark_runs_without_one(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--rehearse", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=report.ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found.keys() == {"machine", "roof", "env", "train", "eager", "dqn", "cpu", "solve", "peer"}
    assert found["env"]["cartpole, 4"]["record_bytes"] == 64
    assert found["train"]["cartpole, 4"]["steps_per_second"] > 0
    assert found["train"]["dissected"]["waits"] == ""
    assert "failed" not in json.dumps({name: figures for name, figures in found.items() if name != "peer"})
