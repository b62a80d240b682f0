"""A stand-in for `rlsys train`, for tests of sweeps; as a script, a process that works on a sweep with it."""

import contextlib
import sys

import yaml

from rlsys import config
from rlsys.sweep import Stopped, StorageLost, Sweep, reopen

# How a stand-in begins: what is typed is in `typed`, with what the run that it goes on from has been told; `folder` is the run's.
BEGIN = """
import json, math, os, signal, sys, time
typed = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
if "resume" in typed:
    folder = typed["resume"]
    typed = {**json.load(open(folder + "/config.yaml")), **typed}
else:
    folder = typed["run_dir"].strip('"') + "/env/agent/run"
    os.makedirs(folder)
    if "init" in typed:
        typed = {**json.load(open(typed["init"] + "/config.yaml")), **typed}
    json.dump(typed, open(folder + "/config.yaml", "w"))
open(folder + "/command.txt", "a").write("start\\n")
"""

# A run of 5 evaluations that scores 500 - 100 |log10(rate) + 3| + seed / 10; its gamma says what goes wrong. To each it takes
# a second of the wall's clock, two of cores and 10 (1 + rate) joules.
TRAIN = (
    BEGIN
    + """
attempt = len(open(folder + "/command.txt").readlines())
if watched := os.environ.get("GPUS"):  # a folder: who is on which device is seen by locks there
    import fcntl, glob
    def held(path):
        with open(path) as file:
            try:
                return fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    mine = [open(f"{watched}/{gpu}.{os.getpid()}", "w") for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    for file in mine:
        fcntl.flock(file, fcntl.LOCK_EX)
        gpu = os.path.basename(file.name).rpartition(".")[0]
        others = [path for path in glob.glob(f"{watched}/{gpu}.*") if path != file.name]
        with open(watched + "/log", "a") as log:
            log.write(f"{gpu} {1 + sum(map(bool, map(held, others)))} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
rate, gamma, seed = float(typed["agent.learning_rate"]), float(typed.get("agent.gamma", 0.99)), int(typed["seed"])
score = 500 - 100 * abs(math.log10(rate) + 3) + seed / 10
log = folder + "/metrics.jsonl"
done = len(open(log).readlines()) if os.path.exists(log) else 0
if gamma == 0.5 or (gamma == 0.51 and attempt == 1):
    print("Traceback\\nZeroDivisionError: of gamma", file=sys.stderr)
    sys.exit(1)
if gamma == 0.52:
    try:
        bytearray(3 * 2**30)
    except MemoryError:
        print("rlsys: out of memory", file=sys.stderr)
        sys.exit(5)
def cost(step):
    return {"cost/seconds": step, "cost/core_seconds": 2 * step, "cost/joules": 10 * step * (1 + rate)}
tick = float(os.environ.get("TICK_OF_BAD" if rate == 0.1 else "TICK", 0.02))
for step in range(done + 1, 6):
    wait = time.monotonic() + (60 if gamma == 0.53 and attempt == 1 and step == 3 else tick)
    while time.monotonic() < wait:
        time.sleep(0.01)
        if stop:
            sys.exit(75)
    open(log, "a").write(json.dumps({"step": 100 * step, "eval/mean_reward": score * step / 5, **cost(step)}) + "\\n")
summary = {"validation/best_mean_reward": score, "score": score - 1, "seconds": 1 + rate, **cost(5), "energy_source": "rapl"}
if gamma != 0.54:
    summary["steps"] = 500
json.dump(summary, open(folder + "/.summary", "w"))
os.replace(folder + "/.summary", folder + "/summary.json")
"""
)


def compose(overrides: list[str]) -> config.Config:
    """What `rlsys train` would make of them, without Hydra."""
    data: dict = {"total_timesteps": 500, "eval_every": 100}
    for override in overrides:
        key, _, value = override.partition("=")
        *parents, last = key.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = yaml.safe_load(value)
        with contextlib.suppress(TypeError, ValueError):
            node[last] = float(value) if isinstance(node[last], str) else node[last]  # YAML 1.1 reads 1e-3 as a string
    return config.resolve(data)


if __name__ == "__main__":
    study, folder = reopen(sys.argv[1], folder=sys.argv[2])
    try:
        Sweep(study, folder, study.spec.sweep, compose, train=sys.argv[3:], quiet=True).run()
    except Stopped:
        sys.exit(75)
    except StorageLost as error:
        print(error, file=sys.stderr)
        sys.exit(4)
