"""What does a sweep cost, and what do asynchronous workers and a pruner save? On CartPole; writes results/sweeps.json.

    python benchmarks/sweeps.py [--trials 24] [--seeds 3] [--workers 2] [--rounds 3]

The same trials (random sampling, one seed of the sampler a round) are run twice, in turn: by `rlsys sweep` with ASHA, and in
batches, as many trials as there are workers, where the next batch waits until every run of the last one has ended, without a
pruner. `speedup` is the ratio of their seconds. TPE with ASHA, `search`, has the same budget; `overhead` is what a trial of
one short run takes in a sweep beyond the same run by `rlsys train`, one at a time, and what of a core the sweep's own process
takes for it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rlsys import compose
from rlsys.config import resolve_sweep
from rlsys.provenance import provenance
from rlsys.sweep import TRAIN, Sweep, create
from rlsys.sweep.spec import plan

RESULTS = Path(__file__).resolve().parent / "results" / "sweeps.json"
RUN = ["experiment=cartpole", "eval_every=10_000", "total_timesteps=100_000"]
SPACE = [
    "agent.learning_rate=tag(log,interval(1e-5,1e-1))",
    "agent.n_epochs=choice(1,2,5,10,20)",
    "agent.gamma=choice(0.9,0.98,0.99)",
]
GOOD = 475.0  # what counts as solved
SHORT = [
    "env=cartpole",
    "num_envs=8",
    "total_timesteps=1024",
    "agent.n_steps=16",
    "agent.batch_size=64",
    "test_episodes=4",
]


class Batches(Sweep):
    """A sweep as one makes it with a barrier: no new trial before all runs of the last ones have ended."""

    def fill(self) -> None:
        if not self.trials and not self.stopping:
            for _ in range(len(self.free)):
                self._claim()
        self._is_claiming = False
        super().fill()
        self._is_claiming = True


def run(kind: type[Sweep], folder: str, run: list[str], space: list[str], **keys) -> dict:
    """Sweep, and say what came of it."""
    fixed, parameters, seeds = compose.search_space([*run, *space])
    settings = resolve_sweep({"dir": folder, **keys})
    study, path = create(plan(fixed, parameters, seeds, settings, compose.checked))
    work = kind(study, path, settings, compose.checked, train=TRAIN, quiet=True)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work.run()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    best = study.best()[0]
    return {
        "seconds": seconds,
        "own_cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "states": study.counts(),
        "runs": sum(1 for _ in path.rglob("command.txt")),
        "best": {"score": best.values, "interval": study.interval(best), "params": best.params},
        "tests": [result["test"] for result in best.seeds.values()],
    }


def overhead(trials: int) -> dict:
    """Seconds a trial takes in a sweep beyond its run alone."""
    alone = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(trials):
            began = time.perf_counter()
            settings = [*SHORT, f"seed={seed}", "replay=false", "threads=1", f"run_dir={folder}"]
            subprocess.run([*TRAIN, "--quiet", *settings], check=True, stdout=subprocess.DEVNULL)
            alone.append(time.perf_counter() - began)
    with tempfile.TemporaryDirectory() as folder:
        space = ["agent.learning_rate=tag(log,interval(1e-4,1e-2))"]
        keys = {"trials": trials, "seeds": 1, "workers": 1, "sampler": "tpe", "pruner": "none"}
        found = run(Sweep, folder, [*SHORT, "threads=1"], space, **keys)
    return {
        "run_seconds": statistics.fmean(alone),
        "trial_seconds": found["seconds"] / trials,
        "overhead_seconds": found["seconds"] / trials - statistics.fmean(alone),
        "own_cpu_seconds": found["own_cpu_seconds"] / trials,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("trials", 24), ("seeds", 3), ("workers", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    keys = {"trials": args.trials, "seeds": args.seeds, "workers": args.workers}
    rounds = []
    for number in range(args.rounds):
        random = {**keys, "sampler": "random", "sampler_seed": number}
        found = {}
        for name, kind, pruner in (("asynchronous", Sweep, "asha"), ("batches", Batches, "none")):
            with tempfile.TemporaryDirectory() as folder:
                found[name] = run(kind, folder, RUN, SPACE, **random, pruner=pruner)
        found["speedup"] = found["batches"]["seconds"] / found["asynchronous"]["seconds"]
        rounds.append(found)
        print(f"round {number}: {found['speedup']:.2f} times as fast", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        search = run(Sweep, folder, RUN, SPACE, **keys, sampler="tpe", pruner="asha")
    search["found"] = search["best"]["score"][0] >= GOOD
    speedups = [found["speedup"] for found in rounds]
    data = {
        "provenance": provenance(),
        "settings": vars(args),
        "speedup": {"median": statistics.median(speedups), "each": speedups},
        "search": search,
        "overhead": overhead(8),
        "rounds": rounds,
    }
    RESULTS.write_text(json.dumps(data, indent=2) + "\n")
    print(json.dumps({key: data[key] for key in ("speedup", "search", "overhead")}, indent=2))


if __name__ == "__main__":
    main()
