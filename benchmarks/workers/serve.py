"""What every worker does: read a request a line, measure, answer with a line.

    {"kind": "ppo", "settings": {...}, "options": {...}, "seconds": 1.0}  ->  {"steps": 61440, "seconds": 1.02}

A worker runs in the virtual environment of the system it measures, which has nothing of rlsys. It is a table of builders, one
a kind of work: `build(settings, options)` returns `run`, which does a piece of the work and returns how many steps it took.
Work is built and run once, unmeasured, when it is asked for first (`"seconds": 0` asks for no more), and kept.
"""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable

Run = Callable[[], int]
Build = Callable[[dict, dict], Run]


def serve(builders: dict[str, Build]) -> None:
    """Answer requests until there are no more. The arguments of the command name packages whose versions to report first."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    versions = {name: importlib.metadata.version(name) for name in sys.argv[1:]}
    print(json.dumps({"python": platform.python_version(), **versions}), file=answers, flush=True)
    runs: dict[str, Run] = {}
    for line in sys.stdin:
        try:
            answer = measure(json.loads(line), builders, runs)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def measure(request: dict, builders: dict[str, Build], runs: dict[str, Run]) -> dict:
    """Steps and seconds of the work that is asked for, repeated for at least so many seconds."""
    key = json.dumps([request["kind"], request["settings"], request["options"]])
    if key not in runs:
        runs[key] = builders[request["kind"]](request["settings"], request["options"])
        runs[key]()
    steps, seconds = 0, 0.0
    began = time.perf_counter()
    while seconds < request["seconds"]:
        steps += runs[key]()
        seconds = time.perf_counter() - began
    return {"steps": steps, "seconds": seconds}
