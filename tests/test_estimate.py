"""`rlsys estimate`: its arithmetic on planted timings, against the loop that it predicts; and the command itself."""

import json
import math
from dataclasses import replace

import pytest

from rlsys import cli, cost, estimate, replay
from rlsys.config import ConfigError, resolve
from rlsys.cost import Cost
from rlsys.estimate import Part, Probe, charged, iterations_due, mean, points_due, predict, together
from rlsys.log import Pace
from rlsys.run import Due

PROBE = Probe(
    start=3.0,
    step=1e-3,
    collect=1e-4,
    collected=0,
    iteration=100,
    log=0.01,
    log_bytes=200.0,
    evaluate=0.5,
    save=0.25,
    save_bytes=1000.0,
    save_growth=0.0,
    save_steps=2000,
    save_full=0,
    test=2.0,
    replay=4.0,
    replay_bytes=5000.0,
    histograms=0.1,
    other_bytes=300.0,
    costs={
        "start": Cost(2.0, 4.0, {}, 10.0, "estimate"),
        "train": Cost(5.0, 10.0, {}, 100.0, "estimate"),
        "end": Cost(1.0, 1.0, {}, 6.0, "estimate"),
    },
)
SMALL = ["env=cartpole", "num_envs=8", "agent.n_steps=16", "agent.batch_size=32", "threads=1", "eval_episodes=2"]
SMALL += ["test_episodes=2", "env.max_episode_steps=20", "total_timesteps=4096", "eval_every=1024", "save_every=2048"]


def config(**keys):
    return resolve({"total_timesteps": 10_000, "eval_every": 2000, "save_every": 5000, **keys})


# -- arithmetic ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, 1, 99, 100, 101, 250, 1000, 3333, 9999, 10_000, 20_000])
@pytest.mark.parametrize("iteration", [1, 64, 100, 2048])
def test_what_is_due_is_due_when_the_loop_says_so(every, iteration):
    found, now, i = set(), 0, 0
    while now < 10_000:
        due, now, i = Due(now, 10_000), now + iteration, i + 1
        due.now = now
        if due(every):
            found.add(i)
    assert iterations_due(every, iteration, 10_000) == found


@pytest.mark.parametrize("seconds", [0.5, 30.0, 5000.0])
def test_the_logs_points_are_as_many_as_the_pace_makes(seconds):
    pace, iterations = Pace(), 10_000
    made = sum(pace.due((i + 1) * seconds / iterations) for i in range(iterations))
    assert points_due(0, 7, 7 * iterations, seconds) == pytest.approx(made, rel=0.1)
    assert points_due(70, 7, 7 * iterations, seconds) == 1000
    assert points_due(0, 7, 7 * 200, seconds) == 200


def test_a_runs_time_is_the_sum_of_its_parts():
    found = predict(config(log_every=1000), PROBE)
    seconds = {part.name: part.seconds for part in found.parts}
    assert seconds == {
        "start": 3.0,
        "training steps": pytest.approx(10.0),
        "points of the log": pytest.approx(0.01 * (10 + 5)),  # and the evaluations'
        "evaluations": 5 * 0.5,
        "checkpoints": 4
        * 0.25,  # at 5000 and 10,000; and the best of the evaluations: every other, one of them at 10,000
        "test": 2.0,
        "replay": 4.0,
    }
    assert found.cost.seconds == pytest.approx(3.0 + 10.0 + 0.15 + 2.5 + 1.0 + 2.0 + 4.0)
    trained = 10.0 + 0.15 + 2.5 + 1.0
    assert found.cost.core_seconds == pytest.approx(3.0 * 2 + trained * 2 + 6.0 * 1)
    assert found.cost.joules == pytest.approx(3.0 * 5 + trained * 20 + 6.0 * 6)
    assert found.cost.disk_bytes == pytest.approx(2 * 1000 + 15 * 200 + 300 + 5000)


def test_steps_before_it_learns_have_a_time_of_their_own():
    probe = replace(PROBE, collected=4000)
    seconds = {part.name: part.seconds for part in predict(config(), probe).parts}
    assert seconds["steps before it learns"] == pytest.approx(0.4)
    assert seconds["training steps"] == pytest.approx(6.0)
    never = {part.name: part.seconds for part in predict(config(), replace(PROBE, collected=10**6)).parts}
    assert never["training steps"] == 0.0
    assert never["steps before it learns"] == pytest.approx(1.0)


def test_checkpoints_grow_with_the_replay_buffer_until_it_is_full():
    cfg = config(eval_every=0, save_every=5000, replay=False)
    probe = replace(PROBE, save_growth=1.0, save_full=8000)
    found = predict(cfg, probe)  # at 2000 steps 1000 bytes; at 5000 4000; from 8000 on 7000
    [saves] = [part for part in found.parts if part.name == "checkpoints"]
    assert saves.seconds == pytest.approx(0.25 * 4 + 0.25 * 7)
    points = next(part.times for part in found.parts if part.name == "points of the log")
    assert found.cost.disk_bytes == pytest.approx(4000 + 7000 + points * 200 + 300)


def test_of_what_is_not_asked_for_there_is_nothing():
    names = {part.name for part in predict(config(replay=False), PROBE).parts}
    assert not names & {"replay", "replays in between", "histograms", "steps before it learns"}
    more = predict(config(replay_every=5000, histograms_every=1000), PROBE)
    assert {"replays in between": 8.0, "histograms": 1.0}.items() <= {p.name: p.seconds for p in more.parts}.items()


@pytest.mark.parametrize("length", [3, 50, 105, 1000])
def test_a_replays_size_is_reckoned_from_two_short_ones(monkeypatch, tmp_path, length):
    def record(policy, env, folder, *, name, caption, max_steps):
        (tmp_path / name).write_bytes(bytes(500 + 10 * min(max_steps, length)))
        return [tmp_path / name]

    monkeypatch.setattr(replay, "record", record)
    assert estimate.film(None, config(), tmp_path, length)[1] == pytest.approx(500 + 10 * length)


def test_a_part_costs_what_its_phase_cost_a_second():
    assert charged(Part("x", 3, 5.0, "train"), PROBE) == Cost(15.0, 30.0, {}, 300.0, "estimate")
    gpu = replace(PROBE, costs={"train": Cost(5.0, 5.0, {"H200": 5.0}, 3000.0, "estimate+nvml")})
    assert charged(Part("x", 1, 1.0, "train"), gpu).gpu_seconds == {"H200": 1.0}


def test_a_sweep_takes_the_mean_of_its_runs_as_often_as_its_workers_make_rounds():
    fast, slow = predict(config(replay=False), PROBE), predict(config(), replace(PROBE, step=3e-3))
    one = mean([fast, slow])
    assert one.cost.seconds == pytest.approx((fast.cost.seconds + slow.cost.seconds) / 2)
    assert sum(part.seconds for part in one.parts) == pytest.approx(one.cost.seconds)
    assert next(part for part in one.parts if part.name == "replay").seconds == 2.0  # one of two has one
    whole = together(one, runs=7, workers=3)
    assert whole.seconds == pytest.approx(3 * one.cost.seconds)
    assert whole.core_seconds == pytest.approx(7 * one.cost.core_seconds)
    assert whole.disk_bytes == pytest.approx(7 * one.cost.disk_bytes)


def test_a_probe_comes_back_from_its_process_as_it_was():
    assert Probe.from_data(json.loads(json.dumps(PROBE.to_data()))) == PROBE


# -- the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def estimated(tmp_path_factory):
    """What `rlsys estimate --json` says of a small run, and what is in the folder afterwards."""
    folder = tmp_path_factory.mktemp("estimate")
    prices = folder / "prices.yaml"
    prices.write_text("currency: EUR\ncore_hour: 3600\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(cost.VARIABLE, str(prices))
        printed = []
        patch.setattr("builtins.print", lambda *text, **_: printed.append(" ".join(map(str, text))))
        assert cli.main(["estimate", *SMALL, "--seconds", "1", "--json"]) == 0
    return json.loads(printed[-1]), [path.name for path in folder.iterdir()]


def test_the_command_says_what_a_run_takes_and_leaves_nothing_behind(estimated):
    found, left = estimated
    assert left == ["prices.yaml"]
    assert (found["runs"], found["workers"]) == (1, 1)
    parts = {part["name"]: part for part in found["parts"]}
    assert [parts[name]["times"] for name in ("training steps", "evaluations", "test", "replay")] == [4096, 4, 1, 1]
    assert parts["checkpoints"]["times"] == 4  # at 2048 and 4096, and of the evaluations at 1024 and 3072
    assert all(part["seconds"] > 0 for part in found["parts"])
    run = found["run"]
    assert run["cost/seconds"] == pytest.approx(sum(part["seconds"] for part in found["parts"]))
    assert run["cost/price"] == pytest.approx(run["cost/core_seconds"])
    assert run["cost/core_seconds"] > 1.0  # to import torch takes more
    assert math.isfinite(run["cost/joules"])
    assert 10_000 < run["cost/disk_bytes"] < 10_000_000
    assert found["whole"] == run


def planned(monkeypatch, capsys, arguments, probe=PROBE):
    """What the command says where probing is planted; the configs that were probed."""
    seen = []

    def probes(cfgs, seconds, **how):
        seen.append((cfgs, seconds, how))
        return [probe] * len(cfgs)

    monkeypatch.setattr(estimate, "probes", probes)
    code = cli.main(["estimate", *arguments])
    return code, capsys.readouterr(), seen


def test_a_sweep_is_probed_at_some_points_side_by_side(monkeypatch, capsys):
    pytest.importorskip("optuna", reason="needs rlsys[sweep]")
    arguments = [*SMALL, "agent.learning_rate=tag(log,interval(1e-4,1e-2))", "agent.n_epochs=choice(1,2,5)", "seed=4,5"]
    code, said, [(cfgs, seconds, how)] = planned(
        monkeypatch, capsys, [*arguments, "sweep.trials=9", "sweep.workers=3", "--json"]
    )
    assert code == 0
    assert len(cfgs) == 4
    assert len(how["slots"]) == 3
    assert seconds == pytest.approx(10 * 3 / 4)
    assert len({c.agent.learning_rate for c in cfgs}) == 4
    assert all(1e-4 <= c.agent.learning_rate <= 1e-2 and c.agent.n_epochs in (1, 2, 5) and c.seed == 4 for c in cfgs)
    assert not any(c.replay for c in cfgs)  # as in a sweep
    found = json.loads(said.out)
    assert (found["runs"], found["workers"]) == (18, 3)
    assert found["whole"]["cost/seconds"] == pytest.approx(6 * found["run"]["cost/seconds"])
    assert found["whole"]["cost/joules"] == pytest.approx(18 * found["run"]["cost/joules"])


def test_a_grid_runs_one_after_the_other(monkeypatch, capsys):
    _, said, [(cfgs, _, how)] = planned(monkeypatch, capsys, [*SMALL, "-m", "seed=1,2,3,4,5,6", "agent.gamma=0.9,0.99"])
    assert len(cfgs) == 4
    assert len(how["slots"]) == 1
    assert "all 12 runs, 1 at a time" in said.out


def test_the_table_shows_what_the_time_goes_to(monkeypatch, capsys):
    _, said, _ = planned(monkeypatch, capsys, [*SMALL, "total_timesteps=10_000", "stop_when_solved=true"])
    lines = said.out.splitlines()
    assert any((line.split()[:2] == ["training", "steps"] and "10.0 s" in line) or "10 s" in line for line in lines)
    assert any(line.startswith(" energy (estimate)") for line in lines)
    assert "price" not in said.out
    assert "ends earlier if it is solved" in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["agent.n_stepz=3"], "Did you mean 'agent.n_steps'?"),
        (["--seconds", "soon"], "--seconds 'soon' is not a number above 0"),
        (["resume=latest"], "leave it out"),
        (["agent.gamma=0.9,1.5"], "agent.gamma=1.5 is out of range"),
    ],
)
def test_a_mistake_is_told_before_anything_is_probed(monkeypatch, capsys, arguments, words):
    code, said, seen = planned(monkeypatch, capsys, arguments)
    assert code == cli.USAGE
    assert words in said.err
    assert not seen


def test_a_probe_that_fails_says_what_it_died_of(monkeypatch):
    monkeypatch.setattr("rlsys.folder.LINES", 1)
    cfg = resolve({"env": {"name": "nosuchsim"}})
    with pytest.raises(ConfigError, match=r"the probe failed:\n.*nosuchsim"):
        list(estimate.probes([cfg], 0.1))


def test_a_probe_is_made_again_if_kernels_had_to_be_compiled(monkeypatch):
    made = []

    class Process:
        returncode = 0

        def poll(self):
            return 0

    def start(cfg, at, seconds, environment, allowed):
        made.append(at)
        at.mkdir(parents=True)
        cold = replace(PROBE, is_cold=len(made) == 1, step=1.0 if len(made) == 1 else 2.0)
        (at / "probe.json").write_text(json.dumps(cold.to_data()))
        return Process()

    monkeypatch.setattr(estimate, "_start", start)
    [found] = estimate.probes([config()], 0.1, started=0.5)
    assert len(made) == 2
    assert (found.step, found.start) == (2.0, 3.5)
