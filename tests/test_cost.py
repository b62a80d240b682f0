"""What runs cost: by counters and clocks that are made up, and numbers by hand."""

import json
import os
import subprocess
import sys
import types
from dataclasses import asdict

import pytest

from rlsys import cli, cost
from rlsys.config import ConfigError
from rlsys.cost import Cost, Meter, Nvml, Prices, Rapl, core_seconds, disk_bytes, duration, load_prices, quantity, shown
from rlsys.folder import Run, find_one
from rlsys.log import read_metrics

RUN = ["env=cartpole", "num_envs=8", "agent.n_steps=16", "agent.batch_size=32", "engine=torch", "env.backend=python"]
RUN += ["eval_episodes=2", "test_episodes=2", "env.max_episode_steps=20", "replay=false", "log_every=1", "threads=1"]


class Fake:
    """A clock, a counter of core-seconds, one of energy: whatever `now` says."""

    source = "rapl"

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now

    joules = __call__


def meter(prices=None, processors=None, **fakes):
    fakes = {"clock": Fake(), "cores": Fake(), "busy": Fake(), **fakes}
    return Meter(prices, processors=lambda: processors, **fakes), fakes


# -- the meter -----------------------------------------------------------------------------------------------------------


def test_without_counters_energy_is_core_seconds_times_watts_and_says_so():
    found, fakes = meter(clock=Fake(100.0), cores=Fake(40.0))
    fakes["clock"].now, fakes["cores"].now = 110.0, 55.0
    assert found.read() == Cost(10.0, 15.0, {}, 180.0, "estimate")  # 15 s x 12 W
    found, fakes = meter(Prices(watts_per_core=5.0))
    fakes["cores"].now = 3.0
    assert found.read().joules == 15.0
    assert found.read().joules == 15.0  # reading is free


def test_a_run_has_its_share_of_the_machines_energy():
    joules = Fake(7.0)
    found, fakes = meter(processors=joules)
    found._last_joules = 7.0
    joules.now, fakes["cores"].now, fakes["busy"].now = 107.0, 2.0, 8.0
    assert found.read() == Cost(0.0, 2.0, {}, 25.0, "rapl")  # a quarter of 100 J
    joules.now, fakes["cores"].now, fakes["busy"].now = 207.0, 10.0, 16.0
    assert found.read().joules == 125.0  # all of the next 100 J
    joules.now, fakes["cores"].now = 217.0, 11.0  # the machine's count is behind: a run has not more than all
    assert found.read().joules == 135.0


def test_energy_is_not_lost_while_nobody_computes():
    joules = Fake()
    found, fakes = meter(processors=joules)
    joules.now = 50.0
    assert found.read().joules == 0.0
    fakes["cores"].now = fakes["busy"].now = 1.0
    assert found.read().joules == 50.0


def test_a_gpu_counts_from_when_it_is_held():
    found, fakes = meter()
    fakes["clock"].now = 10.0
    gpu = Fake()
    gpu.source = "nvml"
    assert found.hold("NVIDIA H200", lambda: gpu) is None
    fakes["clock"].now, gpu.now, fakes["cores"].now = 30.0, 4000.0, 1.0
    assert found.read() == Cost(30.0, 1.0, {"NVIDIA H200": 20.0}, 4012.0, "estimate+nvml")


def test_a_gpu_without_a_counter_is_estimated_and_the_reason_told():
    found, fakes = meter(Prices(watts_per_gpu=100.0))

    def none():
        raise OSError("no NVML")

    assert found.hold("T4", none) == "no NVML"
    fakes["clock"].now = 5.0
    assert found.read() == Cost(5.0, 0.0, {"T4": 5.0}, 500.0, "estimate")


def test_other_ranks_cores_gpus_and_joules_are_the_runs_too_but_not_their_time():
    def hears(*words):
        return types.SimpleNamespace(rank=1, words=lambda word: [words[0], word, words[1]])

    found, fakes = meter(clock=Fake(100.0))
    found.hold("H200", lambda: Fake(0.0))
    first, last = Cost(9.0, 4.0, {"H200": 9.0}, 40.0, "nvml"), Cost(8.0, 2.0, {"A100": 8.0}, 20.0, "estimate")
    fakes["clock"].now, fakes["cores"].now = 107.0, 1.0
    for _ in range(2):  # what they say now takes the place of what they said
        found.share(hears(*(json.dumps(asdict(cost)) for cost in (first, last))))
    assert found.read() == Cost(7.0, 7.0, {"H200": 16.0, "A100": 8.0}, 72.0, "estimate+nvml+rapl")
    fakes["cores"].now = 2.0
    assert found.read().core_seconds == 8.0


def test_it_reads_now_and_then_so_that_no_counter_goes_around_unseen():
    joules = Fake()
    reads = []
    found, fakes = meter(processors=joules)
    joules.joules = lambda: reads.append(fakes["clock"].now) or 0.0
    for second in range(0, 60, 3):
        fakes["clock"].now = second
        found.tick()
    assert reads == [12, 24, 36, 48]


def test_a_process_counts_its_children_dead_and_alive():
    burn = "import time\nwhile time.process_time() < 0.4: pass\n"
    before = core_seconds()
    subprocess.run([sys.executable, "-c", burn], check=True)
    dead = core_seconds() - before
    assert dead >= 0.35
    child = subprocess.Popen(
        [sys.executable, "-c", burn + "print(flush=True)\nimport sys; sys.stdin.read()"], stdin=-1, stdout=-1
    )
    child.stdout.readline()
    alive = core_seconds() - before - dead
    child.communicate()
    if os.path.exists("/proc/self/task"):
        assert alive >= 0.35
        assert core_seconds() - before - dead < alive + 0.3  # it is not counted again when it has ended


# -- counters ------------------------------------------------------------------------------------------------------------


def zone(root, name, kind, microjoules, around=262_143_328_850):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", around)):
        (folder / file).write_text(f"{value}\n")


def test_rapl_adds_packages_and_their_memory_and_nothing_twice(tmp_path):
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
    }
    zones |= {"intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}
    for i, (name, kind) in enumerate(zones.items()):
        zone(tmp_path, name, kind, 1000 * i)
    counter = Rapl(tmp_path)
    assert counter.joules() == 0.0
    for i, (name, kind) in enumerate(zones.items()):
        zone(tmp_path, name, kind, 1000 * i + 10**6 * 2**i)
    assert counter.joules() == 1.0 + 4.0 + 8.0


def test_rapls_counters_go_around(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 900, around=1000)
    counter = Rapl(tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 100, around=1000)
    assert counter.joules() == pytest.approx(200e-6)
    zone(tmp_path, "intel-rapl:0", "package-0", 50, around=1000)
    assert counter.joules() == pytest.approx(1150e-6)


def test_a_machine_without_readable_counters_has_none(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no energy counters"):
        Rapl(tmp_path)
    monkeypatch.setattr(cost, "Rapl", lambda: (_ for _ in ()).throw(PermissionError("root only")))
    assert cost.rapl() is None


def fake_nvml(readings):
    """NVML of a machine with one GPU, whose counter says what is in `readings`, one after the other; an error is raised."""

    class NVMLError(Exception):
        pass

    def handle(uuid):
        if uuid != "GPU-1":
            raise NVMLError("Not Found")
        return 17

    def energy(device):
        assert device == 17
        found = readings.pop(0)
        if found is None:
            raise NVMLError("Not Supported")
        return found

    return types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )


def test_nvml_counts_millijoules_from_when_the_counter_was_made():
    counter = Nvml("GPU-1", fake_nvml([5000, 7500, None, 9000]))
    assert [counter.joules() for _ in range(3)] == [2.5, 2.5, 4.0]  # a reading that fails is made up for


def test_a_gpu_without_a_counter_or_without_nvml_says_so(monkeypatch):
    with pytest.raises(OSError, match="GPU-1: Not Supported"):
        Nvml("GPU-1", fake_nvml([None]))
    with pytest.raises(OSError, match="GPU-2: Not Found"):
        Nvml("GPU-2", fake_nvml([]))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(OSError, match=r"pip install 'rlsys\[gpu\]'"):
        Nvml("GPU-1")


# -- sums and prices -----------------------------------------------------------------------------------------------------


def test_costs_add_up_and_remember_where_their_energy_comes_from():
    a = Cost(1.0, 2.0, {"A100": 3.0}, 4.0, "estimate", 5.0)
    b = Cost(10.0, 20.0, {"A100": 30.0, "H200": 1.0}, 40.0, "nvml+rapl", 50.0)
    assert cost.total([a, b]) == Cost(11.0, 22.0, {"A100": 33.0, "H200": 1.0}, 44.0, "estimate+nvml+rapl", 55.0)
    assert a * 2.0 == Cost(2.0, 4.0, {"A100": 6.0}, 8.0, "estimate", 10.0)
    assert cost.total([]) == Cost()


def test_a_summary_gives_back_what_was_put_in_it():
    found = Cost(10.0, 20.0, {"H200": 1.0}, 40.0, "nvml+rapl", 50.0)
    assert Cost.from_summary(json.loads(json.dumps(found.to_summary(None)))) == found
    assert Cost.from_summary({"score": 3.0}) is None
    point = {"step": 5, "cost/seconds": 2.0, "cost/core_seconds": 1.0, "cost/joules": 3.0, "cost/gpu_seconds": 2.0}
    assert Cost.from_summary(point, "H200") == Cost(2.0, 1.0, {"H200": 2.0}, 3.0)


PRICES = """
currency: EUR
core_hour: 0.02
gpu_hour: {H200: 3.5, a100: 1.8, A100-SXM4-80GB: 2.4}
kwh: 0.3
gb_month: 0.02
months: 3
"""


@pytest.fixture
def prices(tmp_path, monkeypatch):
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    monkeypatch.setenv(cost.VARIABLE, str(path))
    return load_prices()


def test_the_price_is_that_of_cores_gpus_energy_and_disk(prices):
    gpus = {"NVIDIA H200": 1800.0, "NVIDIA A100-SXM4-80GB": 3600.0, "NVIDIA A100-PCIE-40GB": 7200.0}
    found = Cost(0.0, 7200.0, gpus, 7.2e6, "rapl", 5e9)
    by_hand = 2 * 0.02 + 0.5 * 3.5 + 1 * 2.4 + 2 * 1.8 + 2 * 0.3 + 5 * 0.02 * 3
    assert prices.price(found) == pytest.approx(by_hand)
    assert found.to_summary(prices)["cost/price"] == pytest.approx(by_hand)
    assert shown(found, prices)["price"] == "8.69 EUR"


def test_a_gpu_without_a_price_has_none_and_is_refused_before_it_is_used(prices):
    assert prices.price(Cost(gpu_seconds={"Tesla T4": 1.0})) is None
    with pytest.raises(ConfigError, match="no price of 'Tesla T4', only of H200, a100, A100-SXM4-80GB"):
        prices.check_gpu("Tesla T4")
    assert Prices(gpu_hour={"any": 2.0}).price(Cost(gpu_seconds={"Tesla T4": 1800.0})) == 1.0
    assert Prices().price(Cost(gpu_seconds={"Tesla T4": 1800.0})) == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("core_hour: 1", "currency: EUR"),
        ("currency: EUR\n1: 2", "there is no key 1. Known: currency, core_hour"),
        ("just words", "currency: EUR"),
        ("", "currency: EUR"),
        ("currency: EUR\ncore_hours: 1", "Did you mean 'core_hour'?"),
        ("currency: EUR\nkwh: cheap", "kwh='cheap' must be a number"),
        ("currency: EUR\nkwh: -1", "kwh=-1 is out of range: it must be at least 0"),
        ("currency: EUR\ngpu_hour: 3", "gpu_hour=3 must be a mapping"),
        ("currency: EUR\ngpu_hour: {H200: dear}", "gpu_hour: H200: 'dear' must be"),
        ("currency: [", "expected the node content"),
    ],
)
def test_a_bad_price_file_is_told_with_its_name(tmp_path, text, words):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_prices(str(path))
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_price_file_that_is_missing_is_told_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cost.VARIABLE, "nowhere.yaml")
    assert cli.main(["train", *RUN, "total_timesteps=128"]) == cli.USAGE
    assert "RLSYS_PRICES=nowhere.yaml: No such file" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    monkeypatch.delenv(cost.VARIABLE)
    assert load_prices() is None


def test_words_for_numbers():
    seconds = [duration(s) for s in (0.01234, 59.9, 59.96, 3599.4, 3725, 3.6e7)]
    assert seconds == ["0.0123 s", "59.9 s", "1:00", "59:59", "1:02:05", "10,000:00:00"]
    assert [quantity(n, "J") for n in (0, 999, 999.6, 12345, 1e9, 1e18)] == [
        "0 J",
        "999 J",
        "1 kJ",
        "12.3 kJ",
        "1 GJ",
        "1e+06 TJ",
    ]


def test_the_disk_is_counted_and_links_are_not_followed(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(bytes(500))
    (tmp_path / "b" / "d").symlink_to("c")
    assert disk_bytes(tmp_path) == 1500 + len("c")


# -- runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 512 steps, and its summary."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        path = folder / "prices.yaml"
        path.write_text(PRICES)
        patch.setenv(cost.VARIABLE, str(path))
        assert cli.main(["train", *RUN, "total_timesteps=512", "--quiet"]) == 0
    run = find_one(str(folder / "runs"))
    return run, run.summary()


def test_a_runs_summary_says_what_it_took(finished):
    run, summary = finished
    assert summary["cost/seconds"] > summary["seconds"] > 0
    assert summary["cost/core_seconds"] > 0
    if summary["energy_source"] == "estimate":
        assert summary["cost/joules"] == pytest.approx(12 * summary["cost/core_seconds"])
    written = disk_bytes(run.folder)
    assert 0.9 * written < summary["cost/disk_bytes"] <= written
    found = Cost.from_summary(summary)
    by_hand = 0.02 * found.core_seconds / 3600 + 0.3 * found.joules / 3.6e6 + 0.02 * 3 * found.disk_bytes / 1e9
    assert summary["cost/price"] == pytest.approx(by_hand)
    assert summary["currency"] == "EUR"


def test_the_log_has_the_cost_and_it_grows(finished):
    points = read_metrics(finished[0].folder)
    for tag in ("cost/seconds", "cost/core_seconds", "cost/joules", "cost/price"):
        values = [point[tag] for point in points if tag in point]
        assert len(values) == 4
        assert values == sorted(values)
    assert "cost/gpu_seconds" not in points[0]


def test_runs_are_listed_with_their_cost(finished, capsys, monkeypatch):
    monkeypatch.delenv(cost.VARIABLE, raising=False)
    pattern = str(finished[0].folder)
    assert cli.main(["runs", pattern, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["cost"]["cost/joules"] == finished[1]["cost/joules"]
    assert "cost/price" not in row["cost"]  # no price file now
    assert cli.main(["runs", pattern]) == 0
    out = capsys.readouterr().out
    assert shown(Cost.from_summary(finished[1]), None)["energy"] in out
    assert "price" not in out


def resumed(monkeypatch, folder, run, minutes, total):
    """Go on with a run in a process that takes so many minutes, by its clock."""
    fakes = {"clock": Fake(), "cores": Fake(), "busy": Fake()}
    made = Meter(processors=lambda: None, **fakes)
    fakes["clock"].now, fakes["cores"].now = 60.0 * minutes, 30.0 * minutes
    monkeypatch.setattr(cost, "Meter", lambda *_, **__: made)
    monkeypatch.chdir(folder)
    what = [f"resume={run.folder}"] if run else RUN
    assert cli.main(["train", *what, f"total_timesteps={total}", "save_every=256", "--quiet"]) == 0
    return find_one("runs")


def test_a_resumed_run_adds_up_and_counts_nothing_twice(monkeypatch, tmp_path):
    monkeypatch.delenv(cost.VARIABLE, raising=False)
    run = resumed(monkeypatch, tmp_path, None, minutes=1, total=512)
    assert run.summary()["cost/seconds"] == 60.0
    assert run.summary()["cost/joules"] == 30.0 * 12
    run = resumed(monkeypatch, tmp_path, run, minutes=2, total=1024)
    assert run.summary()["cost/seconds"] == 180.0

    # as a kill leaves it: the summary and the checkpoints of the end are not there, the log is longer than what is
    (run.folder / "summary.json").unlink()
    newest = sorted(path for path in run.checkpoints.glob("step_*"))[-1]
    state = json.loads((newest / "state.json").read_text())
    assert state["book"]["cost"]["seconds"] == 180.0
    run = resumed(monkeypatch, tmp_path, run, minutes=4, total=1024)
    assert run.summary()["cost/seconds"] == 60.0 + 120.0 + 240.0
    assert run.summary()["cost/core_seconds"] == 30.0 + 60.0 + 120.0


def test_a_run_that_did_not_finish_costs_what_it_logged_last(finished, tmp_path):
    run = Run(tmp_path)
    lines = [{"step": 1, "cost/seconds": 5.0, "cost/joules": 1.0}, {"step": 2, "cost/seconds": 6.0, "cost/joules": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 3}]))
    assert run.cost() == Cost(6.0, 0.0, {}, 2.0, "", disk_bytes(tmp_path))
    (tmp_path / "metrics.jsonl").unlink()
    assert run.cost() is None
