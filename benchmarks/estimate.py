"""How near do the estimates of `rlsys estimate` come? Writes results/estimate.json.

    python benchmarks/estimate.py [--only NAME ...] [--out FILE]

Twenty configurations, of 20 to 60 seconds on two idle cores: each is estimated, then trained, in processes like a user's, one
after the other. `seconds` are from a process's start to its end, by this process's clock; core-seconds and bytes by the run's
summary. The error is |estimated / taken - 1|; the figure that counts is the median over the configurations.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlsys.provenance import provenance

RESULTS = Path(__file__).resolve().parent / "results" / "estimate.json"
RLSYS = [sys.executable, "-m", "rlsys"]
MEASURES = {"seconds": "cost/seconds", "core_seconds": "cost/core_seconds", "disk_bytes": "cost/disk_bytes"}

CONFIGS = {
    "cartpole ppo": ["experiment=cartpole", "total_timesteps=5_000_000", "eval_every=500_000"],
    "cartpole ppo torch": ["env=cartpole", "engine=torch", "agent.hidden=[256,256]", "total_timesteps=500_000"],
    "cartpole ppo 1024 envs": ["env=cartpole", "num_envs=1024", "agent.batch_size=4096", "total_timesteps=6_000_000"],
    "cartpole dqn": ["experiment=cartpole_dqn", "total_timesteps=700_000", "eval_every=100_000"],
    "cartpole pqn": ["experiment=cartpole_pqn", "total_timesteps=800_000"],
    "cartpole sb3 ppo": ["agent=sb3", "env=cartpole", "num_envs=8", "total_timesteps=60_000"],
    "acrobot ppo": ["experiment=acrobot"],
    "mountaincar ppo": ["experiment=mountaincar"],
    "pendulum ppo": ["experiment=pendulum", "total_timesteps=4_000_000"],
    "pendulum sb3 sac": ["agent=sb3", "agent.algo=SAC", "env=pendulum", "num_envs=4", "total_timesteps=8_000"],
    "reacher ppo": ["experiment=reacher", "total_timesteps=3_000_000"],
    "quadrotor ppo": ["experiment=quadrotor", "total_timesteps=8_000_000"],
    "racer ppo": ["experiment=racer", "total_timesteps=2_500_000"],
    "highway ppo": ["experiment=highway", "total_timesteps=1_200_000"],
    "breakout ppo": ["experiment=breakout", "total_timesteps=700_000"],
    "snake dqn": ["env=snake", "agent=dqn", "total_timesteps=40_000", "eval_every=10_000"],
    "inventory ppo": ["experiment=inventory", "total_timesteps=2_000_000"],
    "battery ppo": ["experiment=battery", "total_timesteps=3_000_000"],
    "scheduling ppo": ["experiment=scheduling", "total_timesteps=3_000_000"],
    "lunarlander ppo": ["experiment=lunarlander", "total_timesteps=250_000"],
}


def compare(settings: list[str]) -> dict[str, Any]:
    """Estimate a run, then make it."""
    began = time.perf_counter()
    said = subprocess.run([*RLSYS, "estimate", *settings, "--json"], check=True, capture_output=True, text=True).stdout
    probing = time.perf_counter() - began
    estimated = json.loads(said)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [*RLSYS, "train", *settings, f"run_dir={folder}", "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        [summary] = (json.loads(path.read_text()) for path in Path(folder).rglob("summary.json"))
    taken = {name: summary[tag] for name, tag in MEASURES.items()} | {"seconds": seconds}
    guess = {name: estimated["run"][tag] for name, tag in MEASURES.items()}
    return {
        "settings": settings,
        "probing_seconds": probing,
        "estimated": guess,
        "taken": taken,
        "errors": {name: abs(guess[name] / taken[name] - 1) for name in MEASURES},
        "parts": estimated["parts"],
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(CONFIGS), choices=CONFIGS, metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found = {}
    for name in args.only:
        found[name] = compare(CONFIGS[name])
        guess, taken = found[name]["estimated"]["seconds"], found[name]["taken"]["seconds"]
        print(f"{name}: estimated {guess:.1f} s, taken {taken:.1f} s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(entry["errors"][name] for entry in found.values()) for name in MEASURES}
    data = {"machine": provenance(), "median_errors": medians, "configs": found}
    args.out.write_text(json.dumps(data, indent=2) + "\n")
    print(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
