"""How a run was made: versions, commit, machine. Names no user, no host, no environment variable."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlsys import __version__

PACKAGES = (
    "ale-py", "box2d", "envpool", "gymnasium", "hydra-core", "llvmlite", "minatar", "minigrid", "mujoco",
    "numba", "numba-cuda", "numpy", "safetensors", "stable-baselines3", "tensorboard", "torch",
)  # fmt: skip
COMMAND_SECONDS = 2.0
MAX_DIFF_CHARACTERS = 1_000_000


def provenance() -> dict[str, Any]:
    """Plain JSON values; what cannot be found out is None. Takes some 30 ms, and never raises."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "rlsys": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": _or_none(platform.platform),
        "packages": {name: _or_none(importlib.metadata.version, name) for name in PACKAGES},
        "git": _or_none(_git),
        "cpu": _or_none(_cpu),
        "cores": os.cpu_count(),
        "usable_cores": _or_none(lambda: len(os.sched_getaffinity(0))),
        "memory_gib": _or_none(lambda: round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)),
        "gpus": _or_none(_gpus),
        "blas": _or_none(_blas),
    }


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_diff() -> str | None:
    """What differs from the commit in `provenance()["git"]`, as a patch (without untracked files); None without git.

    A patch over a million characters is cut, and says so.
    """
    folder = _or_none(_repository)
    diff = folder and _or_none(_run_git, folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color")
    if diff and len(diff) > MAX_DIFF_CHARACTERS:
        return f"{diff[:MAX_DIFF_CHARACTERS]}\n[cut: {len(diff)} characters in all]\n"
    return diff


def _or_none(find: Callable[..., Any], *arguments: Any) -> Any:
    """find(*arguments), or None if anything at all goes wrong: a run does not fail for want of a note about it."""
    try:
        return find(*arguments)
    except Exception:
        return None


def _git() -> dict[str, Any]:
    """The commit that is checked out, and whether the files differ from it (untracked ones count)."""
    lines = _run_git(_repository(), "status", "--porcelain=v2", "--branch").splitlines()
    facts = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    commit = None if facts["branch.oid"] == "(initial)" else facts["branch.oid"]
    return {"commit": commit, "dirty": any(not line.startswith("# ") for line in lines)}


def _repository() -> Path:
    """The checkout that holds the working directory; else the one that holds this file."""
    for start in (Path.cwd(), Path(__file__).parent):
        for folder in (start, *start.parents):
            if (folder / ".git").exists():
                return folder
    raise FileNotFoundError("no git checkout")


def _run_git(folder: Path, *arguments: str) -> str:
    # no lock: many runs may start at once. No fsmonitor: it would be a program of the repository's choice
    command = ["git", "-C", str(folder), "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=True)
    return done.stdout.decode(errors="replace")


def _cpu() -> str | None:
    """The processor's name: "AMD EPYC 9654 96-Core Processor"."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.check_output(command, text=True, timeout=COMMAND_SECONDS).strip()
    names = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[1] if names else platform.machine()


def _gpus() -> list[str] | None:
    """The names of the CUDA devices, if torch is imported already: this module is not the one to load it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _blas() -> list[str]:
    """The BLAS libraries that are loaded, with the processor whose instructions they use: "openblas 0.3.30 SkylakeX"."""
    from threadpoolctl import threadpool_info

    found = (x for x in threadpool_info() if x["user_api"] == "blas")
    return sorted({f"{x['internal_api']} {x['version']} {x.get('architecture') or ''}".strip() for x in found})
