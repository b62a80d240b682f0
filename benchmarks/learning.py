"""How long until it is solved? Seconds from the start of a process to a CartPole policy that has proven itself.

    python benchmarks/learning.py [--seeds 5]      writes results/learning.json

A process counts as done when it has exited after its policy reached a mean return of 475 on 100 held-out episodes: imports,
compilation, evaluations and saving included. Each runs alone, the systems in turn. rlsys is run as a user would, with what
earlier runs compiled (warm), and as for the first time ever (cold: an empty kernel cache). stable-baselines3 has RL Zoo's
hyperparameters. `peak_memory_mb` is the process's largest resident size.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from rlsys.provenance import provenance

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "learning.json"
SOLVED = 475.0


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds of a process, and the largest size it had, in MB. RuntimeError if it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        pid = os.posix_spawn(
            command[0],
            command,
            {**os.environ, **environment},
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), 1), (os.POSIX_SPAWN_DUP2, output.fileno(), 2)],
        )
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - began
        if status:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)}\n{output.read().decode()}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return seconds, kilobytes / 1024


def rlsys(seed: int, cache: str) -> dict:
    """Train `experiment=cartpole` until it is solved."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["experiment=cartpole", f"seed={seed}", "stop_when_solved=true", "eval_episodes=100", "replay=false"]
        command = [sys.executable, "-m", "rlsys", "train", *settings, f"run_dir={folder}/runs", "--quiet"]
        seconds, megabytes = run(command, {"RLSYS_CACHE": f"{folder}/kernels"} if cache == "cold" else {})
        summary = json.loads(next(Path(folder, "runs").rglob("summary.json")).read_text())
    return result("rlsys", cache, seed, seconds, megabytes, summary["score"], summary["steps"])


def sb3(seed: int) -> dict:
    """Train SB3's PPO until it is solved."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder, "outcome.json")
        worker = str(HERE / "workers" / "sb3_learning.py")
        seconds, megabytes = run([sys.executable, worker, str(seed), str(outcome)], {})
        score, steps = json.loads(outcome.read_text())
    return result("stable-baselines3", "warm", seed, seconds, megabytes, score, steps)


def result(system: str, cache: str, seed: int, seconds: float, megabytes: float, score: float, steps: int) -> dict:
    print(
        f"{system} ({cache}), seed {seed}: {seconds:.2f} s, {steps:,} steps, score {score:.1f}, {megabytes:.0f} MB",
        flush=True,
    )
    return {
        "system": system,
        "cache": cache,
        "seed": seed,
        "seconds_to_solved": seconds if score >= SOLVED else None,
        "seconds": seconds,
        "score": score,
        "steps": steps,
        "peak_memory_mb": megabytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    rlsys(0, "warm")  # compiles what it has not yet, and brings all files into memory
    sb3(0)
    runs = [measured for seed in seeds for measured in (rlsys(seed, "warm"), sb3(seed))]
    runs += [rlsys(seed, "cold") for seed in seeds]
    RESULTS.write_text(json.dumps({"machine": provenance(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
