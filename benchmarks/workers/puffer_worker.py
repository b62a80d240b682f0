"""PufferLib's Snake and Breakout: its C sources, compiled with a driver (puffer/), called through ctypes."""

import ctypes
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from serve import Run, serve

HERE = Path(__file__).with_name("puffer")
SOURCES = Path(sys.prefix) / "source" / "pufferlib" / "ocean"
FOLDER = Path(tempfile.mkdtemp(prefix="puffer"))
FLAGS = ["-w", "-O3", "-march=native", "-shared", "-fPIC"]
UNUSED = ["-fvisibility=hidden", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"]  # what draws goes
ACTIONS = {"snake": (4, np.int32), "breakout": (3, np.float32)}


def library(game: str, number: int) -> ctypes.CDLL:
    """The game, compiled anew: its envs are static."""
    path = FOLDER / f"{game}{number}.so"
    include = [f"-I{HERE}", f"-I{SOURCES}", f"-D{game.upper()}"]
    command = ["cc", *FLAGS, *UNUSED, *include, str(HERE / "driver.c"), "-o", str(path), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return ctypes.CDLL(str(path))


def game(name: str, settings: dict, options: dict) -> Run:
    """Random actions, drawn beforehand. options: agents on a board, its width, height and fruits; frameskip."""
    n, agents = settings["num_envs"], options.get("agents", 1)
    if n % agents:
        raise ValueError(f"{n} agents do not fill boards of {agents}")
    c = library(name, len(list(FOLDER.iterdir())))
    c.mean_length.restype = ctypes.c_double
    sizes = (options.get(key, 0) for key in ("width", "height", "food", "frameskip"))
    c.make(n // agents, agents, *sizes)
    choices, dtype = ACTIONS[name]
    actions = np.random.default_rng(0).integers(0, choices, (64, n)).astype(dtype)
    rows, step, calls = [ctypes.c_void_p(row.ctypes.data) for row in actions], c.step_all, max(20, 200_000 // n)

    def run(owned: np.ndarray = actions) -> int:  # addresses keep nothing alive
        for t in range(calls):
            step(rows[t % 64])
        return calls * n

    for _ in range(100):
        run()
        if c.mean_length() > 1:
            return run
    raise RuntimeError(f"{name}: no episode has ended in {100 * calls} steps")


if __name__ == "__main__":
    serve({name: partial(game, name) for name in ACTIONS})
