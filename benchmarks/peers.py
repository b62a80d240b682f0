"""How fast next to peers? The same work with the same hyperparameters, in turns, in one run; writes results/peers.json.

    python benchmarks/peers.py [--only env,ppo,dqn] [--peers sb3,rejax] [--rounds 5] [--out FILE]
    python benchmarks/peers.py --only snake,breakout --out benchmarks/results/games.json

Peers are installed on first use, each with pinned versions in a virtual environment of its own, in ~/.cache/rlsys/peers or
$RLSYS_PEERS. Each system is a process that stays (benchmarks/workers/): compiling and warming up are not measured. In every
round each system does each piece of work for a second or longer, one after the other; medians and bests of the rounds are
kept. Work on CartPole-v1:

    env   steps with random actions in one process
    ppo   whole training iterations: two tanh networks of 64-64, at four sizes of rollout
    dqn   whole training iterations past the warm-up, where one action in twenty is random: SB3's defaults, PureJaxRL's
    snake, breakout   steps with random actions on one thread, next to PufferLib's games of the same names

Where a system can be set up in several ways ("1 thread", ...), each is measured (what is far behind: once), and a peer's fastest
is what counts. What a peer cannot do is left out: rejax's DQN learns after every step of its envs. Of PufferLib only two games'
C sources are used, out of its source distribution: to install it is to compile all of it, and downloads libraries for that. A
system that fails is reported; the others go on.
"""

import argparse
import contextlib
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlsys.provenance import provenance

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "peers.json"
SECONDS = 1.0  # at least, for each piece of work in each round
SLOW = 4.0
PATIENCE = 600.0  # seconds that an answer may take: compiling, or many envs
JAX = ("jax==0.10.2", "jaxlib==0.10.2", "flax==0.12.8", "numpy==2.4.6")

Options = dict[str, Any]


@dataclass(frozen=True)
class System:
    """One of those that are compared: what to install, and by kind of work the ways to set it up.

    source: a requirement, with its hash, whose source distribution is unpacked and not installed.
    """

    name: str
    requirements: tuple[str, ...]
    ways: dict[str, dict[str, Options]]
    source: str = ""

    @property
    def packages(self) -> list[str]:
        return [requirement.partition("==")[0] for requirement in self.requirements]


@dataclass(frozen=True)
class Work:
    """One piece of work. systems: who can do it. note: where the settings come from."""

    name: str
    kind: str
    settings: dict[str, Any]
    systems: tuple[str, ...]
    note: str = ""


THREADS = {f"{k} thread{'s' * (k > 1)}": {"threads": k} for k in (1, 2) if k <= (os.cpu_count() or 1)}
DEFAULT: dict[str, Options] = {"default": {}}
GAMES = ("snake", "breakout")
KINDS = ("env", "ppo", "dqn", *GAMES)
OURS = {
    **dict.fromkeys(("env", "ppo", "dqn", "roof"), THREADS),
    **{game: {"1 thread": {"threads": 1}} for game in GAMES},
}
SB3_THREADS = {"1 thread": {"threads": 1}, "default": {}}

PEERS = [
    System(
        "sb3",
        ("stable-baselines3==2.9.2", "torch==2.13.0", "gymnasium==1.4.0", "numpy==2.4.6"),
        {"ppo": SB3_THREADS, "dqn": SB3_THREADS},
    ),
    System(
        "rejax",  # with gymnax 1.0 its calls of `step` fail
        ("rejax==0.1.3", "gymnax==0.0.9", "optax==0.2.8", "distrax==0.1.9", *JAX),
        {"ppo": DEFAULT, "dqn": {**DEFAULT, "sampling with replacement": {"replacement": True}}},
    ),
    System("c", ("numpy==2.4.6",), {"env": DEFAULT}),
    System("gymnasium", ("gymnasium==1.4.0", "numpy==2.4.6"), {"env": DEFAULT}),
    System("envpool", ("envpool==1.2.5", "gymnasium==1.4.0", "numpy==2.4.6"), {"env": DEFAULT}),
    System("gymnax", ("gymnax==1.0.1", "six==1.17.0", *JAX), {"env": DEFAULT}),  # imports six without asking for it
    System(
        "puffer",
        ("numpy==2.4.6",),
        {
            "snake": {
                "256 snakes on a board of 640 x 360 (its default)": {
                    "agents": 256,
                    "width": 640,
                    "height": 360,
                    "food": 4096,
                },
                # 12 x 12 free cells, within walls as thick as it sees far
                "one snake on a board of 12 x 12": {"agents": 1, "width": 22, "height": 22, "food": 1},
            },
            "breakout": {"4 frames a step (its default)": {"frameskip": 4}, "1 frame a step": {"frameskip": 1}},
        },
        "pufferlib==3.0.0 --hash=sha256:7df3a3e3f5f894d78d2a1f5374097890aec01473183e748abefe4f3faa10eaa9",
    ),
]

PPO: dict[str, Any] = {
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "hidden": [64, 64],
    "activation": "tanh",
}
DQN: dict[str, Any] = {
    "learning_rate": 1e-4,
    "buffer_size": 1_000_000,
    "learning_starts": 100,
    "batch_size": 32,
    "gamma": 0.99,
    "train_freq": 4,
    "gradient_steps": 1,
    "target_update_interval": 10_000,
    "tau": 1.0,
    "exploration_fraction": 0.1,
    "exploration_initial_eps": 1.0,
    "exploration_final_eps": 0.05,
    "max_grad_norm": 10.0,
    "double": False,
    "hidden": [64, 64],
    "activation": "relu",
}
PUREJAXRL = {
    "num_envs": 10,
    "learning_rate": 2.5e-4,
    "buffer_size": 10_000,
    "learning_starts": 10_000,
    "batch_size": 128,
    "train_freq": 10,
    "target_update_interval": 500,
    "hidden": [120, 84],
}


def ppo_work(num_envs: int, n_steps: int, batch_size: int, n_epochs: int, note: str = "") -> Work:
    sizes = {"num_envs": num_envs, "n_steps": n_steps, "batch_size": batch_size, "n_epochs": n_epochs}
    return Work(f"ppo {num_envs} x {n_steps}", "ppo", {**sizes, **PPO}, ("rlsys", "sb3", "rejax"), note)


WORK = [
    *(Work(f"roof {rows} rows", "roof", {"rows": rows, "columns": 64}, ("rlsys",)) for rows in (64, 96, 128)),
    *(
        Work(f"env {n}", "env", {"num_envs": n}, ("rlsys", "c", "gymnasium", "envpool", "gymnax"))
        for n in (1, 16, 64, 1024, 4096, 65536)
    ),
    *(ppo_work(n, t, n * t // 4, 4) for n, t in ((4, 128), (64, 32), (1024, 32))),
    ppo_work(8, 2048, 64, 10, "SB3's defaults"),
    *(Work(f"{game} {n}", game, {"num_envs": n}, ("rlsys", "puffer")) for game in GAMES for n in (1024, 4096)),
    Work("dqn 1 env", "dqn", {"num_envs": 1, **DQN}, ("rlsys", "sb3"), "SB3's defaults"),
    Work("dqn 10 envs", "dqn", {**DQN, **PUREJAXRL}, ("rlsys", "sb3", "rejax"), "PureJaxRL's defaults"),
]


# -- what the arithmetic amounts to ------------------------------------------------------------------------------------


def forward_flops(sizes: list[int]) -> int:
    """Of one sample through a network of layers with these widths: a multiplication and an addition for each weight."""
    return 2 * sum(n_in * n_out for n_in, n_out in pairwise(sizes))


def ppo_flops(settings: dict[str, Any], inputs: int = 4, actions: int = 2) -> int:
    """Of the matrix products for one environment step of PPO with a policy and a value network: F (1 + 3 epochs).

    F is once forward through both. Each step is seen once as it is collected, and in each epoch forward and backward, which
    is twice as much again (a product for the gradient of the weights, one for that of the inputs).
    """
    forward = sum(forward_flops([inputs, *settings["hidden"], outputs]) for outputs in (actions, 1))
    return forward * (1 + 3 * settings["n_epochs"])


# -- processes ---------------------------------------------------------------------------------------------------------


class WorkerError(Exception):
    """A system could not be installed or started, or what was asked of it failed."""


def peers_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RLSYS_PEERS") or cache / "rlsys" / "peers")


def install(system: System) -> Path:
    """The Python that has the system's packages; makes its virtual environment where there is none with these versions."""
    folder = peers_folder() / system.name
    python, note, wanted = (
        folder / "bin" / "python",
        folder / "installed.txt",
        "\n".join([*system.requirements, system.source]).strip(),
    )
    if not note.exists() or note.read_text() != wanted:
        print(f"installing {system.name} in {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *system.requirements]
        for command in ([sys.executable, "-m", "venv", str(folder)], pip):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise WorkerError(f"{' '.join(command[1:5])} ...: {tail(done.stderr or done.stdout)}")
        if system.source:
            unpack(system.source, python, folder / "source")
        note.write_text(wanted)
    return python


def unpack(requirement: str, python: Path, target: Path) -> None:
    """Put the files of a source distribution, of the hash in the requirement, into the folder `target`; build nothing.

    pip has no command for that. Its `download` fetches, checks and unpacks, and then prepares to build, which fails in an
    environment without what the package wants for it; --no-clean leaves what it has unpacked.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wish = Path(folder) / "requirement.txt"
        wish.write_text(requirement + "\n")
        flags = ["--no-clean", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes"]
        pip = [str(python), "-m", "pip", "download", "-q", "--disable-pip-version-check", *flags, "-r", str(wish)]
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(pip, capture_output=True, text=True, check=False, cwd=folder, env=environment)
        found = list(Path(folder).glob("pip-*/*/setup.py"))
        if not found:
            raise WorkerError(f"{requirement.split()[0]} could not be had: {tail(done.stderr or done.stdout)}")
        found[0].parent.rename(target)


class Worker:
    """A process that answers requests (workers/serve.py); started when first asked, and again after it died."""

    def __init__(self, command: list[str], patience: float = PATIENCE):
        self.command, self.patience = command, patience
        self.process: subprocess.Popen | None = None
        self.versions: dict[str, str] = {}

    def start(self) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by stop)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, bufsize=1)
        self.versions = self.answer()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. WorkerError if it is an error, or none comes."""
        if self.process is None:
            self.start()
        with contextlib.suppress(BrokenPipeError):  # it died since the last request: there will be no answer
            self.process.stdin.write(json.dumps(request) + "\n")
        answer = self.answer()
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def answer(self) -> dict[str, Any]:
        """The next line it writes."""
        ready, _, _ = select.select([self.process.stdout], [], [], self.patience)
        if line := self.process.stdout.readline() if ready else "":
            return json.loads(line)
        last_words = self.stop()
        raise WorkerError(last_words if ready else f"no answer within {self.patience:g} s")

    def stop(self) -> str:
        """End the process; returns the last that it said."""
        if self.process is None:
            return ""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.process = None
        with self.log:
            self.log.seek(0)
            return tail(self.log.read())


def tail(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" -\n")]
    return lines[-1][:500] if lines else "it ended without a word"


def start(system: System) -> Worker:
    """The system's worker, running. Peers' Pythons are kept apart from this one's paths."""
    python = [sys.executable] if system.name == "rlsys" else [str(install(system)), "-E"]
    worker = Worker([*python, str(HERE / "workers" / f"{system.name}_worker.py"), *system.packages])
    worker.start()
    return worker


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """One system's figures for one piece of work, set up one way: steps a second in each round."""

    system: str
    way: str
    request: dict[str, Any]
    rounds: list[float] = field(default_factory=list)
    error: str | None = None
    slow: bool = False  # by far not this system's fastest way: not measured again

    def measure(self, worker: Worker, seconds: float) -> None:
        """Once; with 0 seconds only built and warmed up. After an error it is not tried again."""
        if self.slow or self.error is not None:
            return
        try:
            answer = worker.ask({**self.request, "seconds": seconds})
        except WorkerError as error:
            self.error = str(error)
            print(f"  {self.system}, {self.way}: {error}", flush=True)
            return
        if seconds:
            self.rounds.append(answer["steps"] / answer["seconds"])

    def data(self) -> dict[str, Any]:
        if self.error is not None:
            return {"error": self.error, "rounds": self.rounds}
        return {"rounds": self.rounds, "median": statistics.median(self.rounds), "best": max(self.rounds)}


def ways(work: Work, systems: dict[str, System]) -> Iterator[Measured]:
    """All that is to be measured for a piece of work. A second thread does nothing for a small number of envs: left out."""
    for name in work.systems:
        for way, options in systems[name].ways[work.kind].items() if name in systems else ():
            few = work.kind == "env" and work.settings["num_envs"] < 8192
            if not (few and options.get("threads", 1) > 1):
                yield Measured(name, way, {"kind": work.kind, "settings": work.settings, "options": options})


def run(work: list[Work], systems: list[System], workers: dict[str, Worker], rounds: int) -> dict[str, list[Measured]]:
    """Measure everything in turns: in every second round the systems' order is the other way round."""
    running = {system.name: system for system in systems if system.name in workers}
    table = {piece.name: list(ways(piece, running)) for piece in work}
    for turn in range(rounds + 1):
        print("warming up" if turn == 0 else f"round {turn} of {rounds}", flush=True)
        for measured in table.values():
            for one in measured[:: -1 if turn % 2 else 1]:
                one.measure(workers[one.system], SECONDS if turn else 0.0)
            drop_slow(measured)
    return table


def drop_slow(measured: list[Measured]) -> None:
    """Leave out, from the second round on, a way that takes more than SLOW times as long as the same system's fastest."""
    for one in measured:
        rates = [other.rounds[0] for other in measured if other.system == one.system and other.rounds]
        one.slow = bool(one.rounds) and SLOW * one.rounds[0] < max(rates)


def fastest(figures: dict[str, dict], statistic: str = "median") -> float | None:
    """The best of a system's ways; None if all failed."""
    return max((way[statistic] for way in figures.values() if statistic in way), default=None)


def summary(work: list[Work], table: dict[str, list[Measured]]) -> dict[str, Any]:
    """By piece of work: every system's figures, rlsys's speed over each peer's fastest, and PPO's share of the roof."""
    pieces: dict[str, Any] = {}
    for piece in work:
        figures: dict[str, dict] = {}
        for one in table[piece.name]:
            figures.setdefault(one.system, {})[one.way] = one.data()
        entry = {"kind": piece.kind, "note": piece.note, "settings": piece.settings, "systems": figures}
        ours = {way: data["median"] for way, data in figures.get("rlsys", {}).items() if "median" in data}
        peers = {name: median for name in figures if name != "rlsys" and (median := fastest(figures[name]))}
        entry["ratios"] = {name: {way: mine / median for way, mine in ours.items()} for name, median in peers.items()}
        pieces[piece.name] = entry
    roof = roofs(pieces)
    for entry in pieces.values():
        if entry["kind"] == "ppo":
            flops = entry["flops_per_step"] = ppo_flops(entry["settings"])
            rates = {way: data["median"] for way, data in entry["systems"].get("rlsys", {}).items() if "median" in data}
            entry["share_of_roof"] = {way: r * flops / roof[way] / 1e9 for way, r in rates.items() if way in roof}
    return {"roof_gflops": roof, "work": pieces}


def roofs(pieces: dict[str, Any]) -> dict[str, float]:
    """By number of threads, the most GFLOP/s that products of float32 matrices of the kernels' sizes reach."""
    best: dict[str, float] = {}
    for entry in pieces.values():
        for way, data in entry["systems"].get("rlsys", {}).items() if entry["kind"] == "roof" else ():
            best[way] = max(best.get(way, 0.0), data.get("best", 0.0) / 1e9)
    return best


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The table to print: medians, and how many times as fast rlsys's best is."""
    for name, system in results["systems"].items():
        if system["error"]:
            yield f"{name}: {system['error']}"
    yield "roof: " + ", ".join(f"{way} {gflops:.0f} GFLOP/s" for way, gflops in results["roof_gflops"].items())
    for work, entry in results["work"].items():
        if entry["kind"] == "roof":
            continue
        yield work
        ours = fastest(entry["systems"].get("rlsys", {}))
        for system, figures in entry["systems"].items():
            for way, data in figures.items():
                rate = f"{data['median']:>14,.0f} steps/s" if "median" in data else f"failed: {data['error']}"
                times = f"  rlsys is {ours / data['median']:.1f} x" if "median" in data and ours else ""
                share = entry.get("share_of_roof", {}).get(way) if system == "rlsys" else None
                note = f"  {share:.0%} of the roof" if share else "" if system == "rlsys" else times
                yield f"  {system + ', ' + way:<34}{rate}{note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="env,ppo,dqn", help=f"kinds of work: {', '.join(KINDS)}")
    parser.add_argument("--peers", default=",".join(peer.name for peer in PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="holds what this run measured, and nothing else")
    args = parser.parse_args()
    kinds, names = args.only.split(","), args.peers.split(",")
    for name in {*kinds} - {*KINDS} | {*names} - {peer.name for peer in PEERS}:
        parser.error(f"{name} is neither a kind of work nor a peer")

    systems = [System("rlsys", (), OURS), *(peer for peer in PEERS if peer.name in names)]
    work = [piece for piece in WORK if piece.kind in kinds or (piece.kind == "roof" and "ppo" in kinds)]
    results: dict[str, Any] = {"machine": provenance(), "load_before": os.getloadavg()[0], "rounds": args.rounds}
    results["systems"] = {}
    workers: dict[str, Worker] = {}
    for system in systems:
        if not any(piece.kind in system.ways and system.name in piece.systems for piece in work):
            continue
        entry = results["systems"][system.name] = {"versions": {}, "error": None}
        try:
            workers[system.name] = start(system)
            entry["versions"] = workers[system.name].versions
        except WorkerError as error:
            entry["error"] = str(error)
            print(f"{system.name}: {error}", flush=True)
    try:
        results |= summary(work, run(work, systems, workers, args.rounds))
    finally:
        for worker in workers.values():
            worker.stop()
    print("\n" + "\n".join(lines(results)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
