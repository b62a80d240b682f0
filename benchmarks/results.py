"""Train every experiment in conf/experiment/ with five seeds; write results/experiments.json and the README's table.

The normalised score is the mean's share of the way from random to the sim's best reference (`rlsys envs`).

    python benchmarks/results.py [NAME ...] [--seeds 5] [--jobs 2] [--table-only]

Each run is a process of its own, started as a user would, so `seconds` are those of a user.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rlsys.provenance import provenance
from rlsys.statistics import bootstrap_interval

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "experiments.json"
MARKS = ("<!-- results -->\n", "<!-- /results -->")
HEAD = [
    "| command | mean score (95 % interval over seeds) | normalised | worst seed | solved | steps | time |",
    "|---|---|---|---|---|---|---|",
]


def train(name: str, seed: int, folder: str, threads: int) -> dict:
    """Train one experiment with one seed, on so many threads; returns its summary."""
    command = [
        sys.executable,
        "-m",
        "rlsys",
        "train",
        f"experiment={name}",
        f"seed={seed}",
        f"run_dir={folder}/{name}-{seed}",
        f"threads={threads}",
    ]
    done = subprocess.run([*command, "replay=false", "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    summary = json.loads(next(Path(folder, f"{name}-{seed}").rglob("summary.json")).read_text())
    print(f"{name} seed {seed}: {summary['score']:.1f} in {summary['seconds']:.0f} s", flush=True)
    return {"seed": seed, **summary}


def row(name: str, result: dict) -> str:
    """One experiment's row of the table."""
    runs = result["runs"]
    scores = np.array([run["score"] for run in runs])
    low, high = bootstrap_interval(scores, np.mean)
    threshold = runs[0]["reward_threshold"]
    shares = [run["score_normalised"] for run in runs if run.get("score_normalised") is not None]
    share = f"{np.mean(shares):.1%}" if shares else "-"
    reached = f"{sum(run['solved'] for run in runs)} of {len(runs)}" if threshold is not None else "-"
    seconds = np.median([run["seconds"] for run in runs])
    digits = 1 if abs(scores.mean()) > 2 else 3  # successes are shares
    mean, low, high, worst = (f"{x:.{digits}f}" for x in (scores.mean(), low, high, scores.min()))
    return (
        f"| `rlsys train experiment={name}` | {mean} ({low} to {high}) | {share} | {worst} "
        f"| {reached} | {runs[0]['steps']:,} | {seconds:.1f} s |"
    )


def write_table(results: dict) -> None:
    """Put the table between the README's marks."""
    lines = [*HEAD, *(row(name, results[name]) for name in sorted(results))]
    path = ROOT / "README.md"
    before, rest = path.read_text().split(MARKS[0])
    path.write_text(f"{before}{MARKS[0]}{chr(10).join(lines)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--table-only", action="store_true")
    args = parser.parse_args()

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not args.table_only:
        names = args.names or sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
        machine = provenance()
        threads = max(1, (os.cpu_count() or 1) // args.jobs)  # two runs that share cores wait for each other's threads
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
            futures = {
                name: [pool.submit(train, name, seed, folder, threads) for seed in range(args.seeds)] for name in names
            }
            for name, runs in futures.items():
                results[name] = {
                    "runs": [future.result() for future in runs],
                    "jobs_at_once": args.jobs,
                    "threads": threads,
                    "machine": machine,
                }
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")  # what is there already is kept
    write_table(results)


if __name__ == "__main__":
    main()
