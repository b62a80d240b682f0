"""The `rlsys` command. Each verb parses, imports what it needs, calls one function and returns an exit code.

Nothing heavy is imported before a verb needs it: `rlsys --help` and a mistyped key answer at once.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from rlsys import compose
from rlsys.compose import UsageError, check_env

CHECKED_ENVS = 16  # side by side on two devices in `envs --check`
CHECKED_SECONDS = 4.0  # on two devices, if --transitions does not say how many
PORTRAIT_COLUMNS = 48  # of a sim's picture in `envs NAME`
REFERENCES = ("random", "scripted", "optimal")  # the columns for what policies earn
NEEDED_COLUMNS = {"what": 120, "observation": 95, "steps": 82}  # of a terminal; in a narrower one `envs` leaves it out

OK, FAILED, USAGE, LOCKED, STORAGE, MEMORY, DEVICE, PREEMPTED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 75, 130

HELP = """\
usage: rlsys VERB [arguments]

  train [key=value ...]   train a policy; -m runs a grid (key=1,2,3), resume=RUN goes on with a run
  sweep [key=values ...]  search: choice(32,64), tag(log,interval(1e-4,1e-2)); resume, join, show
  report [SWEEP]          what a sweep has found: which keys matter, the best, a page of charts
  eval RUN                play held-out episodes: mean, IQM, 95 % interval, table
  replay RUN              record GIF and MP4, or --terminal to watch here
  tune-speed [key=value ...]  which num_envs, threads, engine and device are fastest here
  estimate [key=value ...]  what a run or a sweep will take, from a probe of some ten seconds: time, energy, price, disk
  runs                    the runs there are: score, speed, status, cost
  compare RUN...          groups of runs over seeds: curves, intervals, who is better, how many seeds settle it
  envs [NAME]             what can be trained on; --check runs every check of a sim, yours (module:SIM) too
  board [RUN ...]         TensorBoard

RUN is a folder, a glob, or `latest`. `rlsys VERB --help` says more; --json prints tables as JSON.
Examples:
  rlsys train experiment=cartpole
  rlsys train env=gymnasium env.id=LunarLander-v3 agent=ppo seed=1 total_timesteps=1_000_000
  rlsys train -m agent.learning_rate=1e-3,3e-4 seed=1,2
"""

TRAIN_HELP = """\
usage: rlsys train [key=value ...] [-m] [--cfg job] [--info] [--quiet] [--config-dir DIR] [--allow-import MODULE]

  -m, --multirun          run every combination of comma-separated values, one after the other; side by side on a SLURM
                          cluster with hydra/launcher=submitit_slurm (pip install 'rlsys[slurm]'), on a Ray cluster or this
                          machine's cores with ray or ray_local (rlsys[ray]), hydra.launcher.num_cpus= and num_gpus= a run
  --cfg job               print the composed configuration and stop
  --info                  print how Hydra composes it and stop
  --quiet                 no progress display
  --config-dir DIR        look in DIR too for env=, agent= and experiment= (DIR/experiment/<name>.yaml)
  --allow-import MODULE   let env.id be "MODULE:Name-v0", which runs that module's code

  resume=RUN              go on with a run, in its folder
  init=RUN                begin a new run where that one (or a folder in its checkpoints/) is, with its configuration and
                          what is typed on top: agent.learning_rate=1e-4 total_timesteps=2e6
  schedule=[{{from_step:50000,agent.learning_rate:1e-4}}]  change keys of the agent on the way

What to choose from (conf/<group>/, and the sims of installed packages):
{groups}
Every key, with its default (every *_every counts environment steps, of all envs together):
{keys}"""


SWEEP_HELP = """\
usage: rlsys sweep key=values ... [sweep=PRESET] [sweep.key=value ...] [--config-dir DIR]
       [--allow-import MODULE] [--quiet] [--help]
       rlsys sweep resume FOLDER | join URL|FOLDER [--study NAME] [sweep.workers=N ...]
       rlsys sweep show URL|FOLDER [--study NAME] [--json]

Searches for the values of keys that train best. What is to be searched is given several values, in Hydra's words; all
else is as for `rlsys train`:
  agent.n_steps=32,64,128                           these; also choice(32,64,128)
  agent.n_epochs=range(2,9,2)                       2, 4, 6, 8
  agent.gamma=interval(0.9,0.999)                   any number between; int(interval(1,9)): whole ones
  'agent.learning_rate=tag(log,interval(1e-4,1e-2))'  alike to each power of ten
  seed=1,2,3                                        the seeds of each trial

sweep.mode=pbt (or sweep=pbt, with values for PPO) trains a population instead, each member in segments of sweep.interval
steps: one of the worst 20 % copies weights, optimiser, envs and values of one of the best, and its values are perturbed.
The lineage of the best is left as one run with a schedule, which trains it again to the bit.

A trial is judged by its best mean return on the validation split: the interquartile mean over its seeds (of fewer than
4 the mean). Each of its runs is an ordinary one, in trials/ in the sweep's folder.

  resume FOLDER           go on with what is missing, however the sweep ended
  join URL|FOLDER         add this machine's workers to a sweep in a database, or this process's to one on this machine
  show URL|FOLDER         the trials; `rlsys report` says what they mean

What to choose from (conf/sweep/): sweep={presets}
Every key, with its default; resume and join take those of this machine ({own}), resume also trials:
{keys}"""

# Keys of a sweep that belong to the machine.
OWN_KEYS = ("workers", "gpus_per_worker", "jobs_per_gpu", "memory", "retries", "dir", "storage")

# Keys that are of no use in the other mode, and why.
SEARCH_KEYS = {
    "trials": "there are sweep.population members of total_timesteps / sweep.interval segments",
    "seeds": "there is one for each member",
    "objective": "the score is what is compared",
    **dict.fromkeys(("sampler", "random_trials"), "values are drawn at random, and then perturbed"),
    **dict.fromkeys(
        ("pruner", "pruner_trials", "pruner_seeds", "pruner_warmup"), "bad members are replaced, not stopped"
    ),
}
PBT_KEYS = dict.fromkeys(
    ("population", "interval", "quantile", "resample"), "there is no population; with sweep.mode=pbt there is"
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    verbs = {"train": train, "eval": evaluate, "replay": replay, "runs": runs, "envs": envs, "board": board}
    verbs |= {"tune-speed": tune_speed, "estimate": estimate, "compare": compare, "sweep": sweep, "report": report}
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return OK if argv else USAGE
    if argv[0] == "--version":
        from rlsys import __version__

        print(f"rlsys {__version__}")
        return OK
    verb, arguments = argv[0], argv[1:]
    if verb not in verbs:
        near = get_close_matches(verb, verbs, n=1)
        return complain(
            f"there is no verb {verb!r}.{f' Did you mean {near[0]!r}?' if near else ''} See rlsys --help.", USAGE
        )
    collects = gc.isenabled()
    gc.disable()  # until all is imported (run.train): looking through that again and again takes half a second
    try:
        with exit_codes():
            return verbs[verb](arguments) or OK
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what can go wrong into one line and an exit code; anything else is a bug and keeps its traceback."""
    try:
        yield
    except UsageError as error:
        raise SystemExit(complain(str(error), USAGE)) from None
    except KeyboardInterrupt:
        raise SystemExit(complain("interrupted", INTERRUPTED)) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(OK) from None
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        code = code_of(error)
        if code is None:
            raise
        hint = "out of memory; try a smaller num_envs, network or agent.buffer_size: " if code == MEMORY else ""
        reason = str(error).rpartition("DefaultCPUAllocator: ")[2]  # torch's own place in its code is no help
        raise SystemExit(complain(f"{hint}{reason}", code)) from None


def code_of(error: Exception) -> int | None:
    """The exit code of an error that is no bug. Looked up by module, so that nothing is imported to find out."""
    if isinstance(error, OSError):
        return USAGE if isinstance(error, FileNotFoundError) and error.errno is None else STORAGE  # ours have no errno
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch's is a RuntimeError
        return MEMORY
    codes = {
        "ConfigError": USAGE,
        "CheckpointError": USAGE,
        "LaunchError": USAGE,
        "RankLost": FAILED,
        "CompareError": USAGE,
        "EnvError": FAILED,
        "NonFiniteError": FAILED,
        "RunLocked": LOCKED,
        "DeviceError": DEVICE,
        "OutOfMemoryError": MEMORY,
    }
    return codes.get(type(error).__name__)


def complain(message: str, code: int) -> int:
    print(f"rlsys: {message}", file=sys.stderr)
    return code


# -- train ---------------------------------------------------------------------------------------------------------------


def train(argv: list[str]) -> int:
    """Compose, check everything, then train."""
    if "-h" in argv or "--help" in argv:
        print(train_help(), end="")
        return OK
    from rlsys.cost import Meter, load_prices

    meter = Meter(load_prices(), whole_process=True)
    command = shlex.join(["rlsys", "train", *argv])
    quiet, argv = take_flag(argv, "--quiet")
    modules, argv = take_allowed(argv)
    searched, argv = take_config_dir(argv)
    if any(arg.startswith("hydra/launcher=ray") for arg in argv):
        compose.register_ray([f"--allow-import={module}" for module in modules])
    if set(argv) & {"--cfg", "-c", "--info", "-i"}:  # Hydra's own questions
        settings = [*searched, *(compose.normalised(arg) for arg in argv if "=" in arg and arg[0] != "-")]
        compose.composed(settings)  # our complaints are shorter
        compose.hydra_main([*settings, *(arg for arg in argv if "=" not in arg or arg[0] == "-")], run_job=None)
        return OK
    multirun = bool(set(argv) & {"-m", "--multirun"})
    overrides = [compose.normalised(arg) for arg in argv if arg not in ("-m", "--multirun")]
    given = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    for key, go_on in {"resume": resume_run, "init": init_run}.items():
        if (pattern := given.pop(key, "null")) != "null":
            if multirun:
                raise UsageError(f"{key}= goes on with one run: leave out -m.")
            return go_on(pattern, given, command, quiet, meter)

    overrides = [*searched, *overrides]
    jobs = [compose.composed(job) for job in (compose.grid(overrides) if multirun else [overrides])]
    for config in jobs:
        check_env(config)
    if multirun:
        if any(config.distributed == "ddp" for config in jobs):
            raise UsageError("distributed=ddp trains one run at a time: leave out -m.")
        print(f"{len(jobs)} runs", flush=True)
        return train_grid(overrides, command, quiet)
    train_one(jobs[0], command, quiet, meter=meter)
    return OK


def train_grid(overrides: list[str], command: str, quiet: bool) -> int:
    """Train a run for each combination, here or where hydra/launcher= says; one that fails is told, and the others go on."""
    codes, here = [], os.getpid()

    def job(data: dict[str, Any]) -> float | None:
        try:
            with exit_codes():
                return train_one(compose.to_config(data), command, quiet)
        except SystemExit as stop:
            if stop.code in (INTERRUPTED, PREEMPTED):
                raise
            if os.getpid() != here:  # a launcher's process: nobody sees our list
                raise RuntimeError(f"the run ended with exit code {stop.code}") from None
            codes.append(stop.code if isinstance(stop.code, int) else FAILED)
            return None

    compose.hydra_main(["-m", *overrides], run_job=job)
    return max(codes, default=OK)


def train_one(config: Any, command: str, quiet: bool, resume: Any = None, meter: Any = None) -> float:
    """Train one run and print its outcome; returns the score. meter: what this process takes, if it has begun to count."""
    from rlsys import run

    try:
        finished = run.train(config, resume=resume, command=command, quiet=quiet, meter=meter)
    except run.Preempted as stop:
        if str(stop):  # all but rank 0 say nothing
            complain(f"{stop}\n       go on with: rlsys train {shlex.quote(f'resume={stop.folder}')}", PREEMPTED)
        raise SystemExit(PREEMPTED) from None
    if finished is None:  # another rank tells
        return math.nan
    summary = finished.summary()
    assert summary
    print_outcome(finished, summary)
    return summary["score"]


def resume_run(pattern: str, given: dict[str, str], command: str, quiet: bool, meter: Any) -> int:
    """Go on with a run, by its own configuration and what is typed on top of it."""
    from rlsys import config as config_module
    from rlsys.folder import find_one

    found = find_one(pattern)
    if "init" in given:
        raise UsageError("a resumed run has begun already: leave out init=, or resume=.")
    config = config_module.go_on(found.folder / "config.yaml", compose.typed_values(given))
    check_env(config)
    train_one(config, command, quiet, resume=found, meter=meter)
    return OK


def init_run(pattern: str, given: dict[str, str], command: str, quiet: bool, meter: Any) -> int:
    """Begin a run from another's checkpoint: by that one's configuration, and what is typed on top of it."""
    from dataclasses import replace

    from rlsys import checkpoint
    from rlsys import config as config_module
    from rlsys.folder import Run, find_one

    is_checkpoint = Path(pattern, checkpoint.MANIFEST).exists()
    path = Path(pattern) if is_checkpoint else checkpoint.newest(find_one(pattern).checkpoints)[0]
    path = path.resolve()  # `best` and `last` may point elsewhere tomorrow
    step, parent = checkpoint.verify(path)["step"], Run(path.parent.parent)
    config = config_module.descend(parent.folder / "config.yaml", step, compose.typed_values(given))
    check_env(config)
    train_one(replace(config, init=str(path)), command, quiet, meter=meter)
    return OK


def print_outcome(finished: Any, summary: dict[str, Any]) -> None:
    """The short result table at the end of a run."""
    solved = {True: "solved", False: "not solved", None: "no threshold"}[summary["solved"]]
    threshold = "" if summary["reward_threshold"] is None else f" (threshold {summary['reward_threshold']:g})"
    ci95 = interval(summary["eval/mean_reward_ci95"])
    replays = sorted(str(path) for path in (finished.folder / "replays").glob("final.*"))
    rows = {
        "result": f"{solved}{threshold}",
        "mean return": f"{summary['score']:.1f}  (95 % interval {ci95}; {summary['eval/episodes']} held-out episodes)",
    }
    if summary["score_normalised"] is not None:
        rows[score_label(summary)] = f"{summary['score_normalised']:.3f}"
    if "eval/generalisation_gap" in summary:
        gap = f"gap {summary['eval/generalisation_gap']:.3g}, 95 % interval {interval(summary['eval/generalisation_gap_ci95'])}"
        rows["training levels"] = f"{summary['eval/train_mean_reward']:.4g}  ({gap})"
    rows |= {
        "steps": f"{summary['steps']:,} in {summary['seconds']:.1f} s ({summary['steps_per_second']:,.0f} steps/s)",
        "cost": shown_cost(summary),
        "run": str(finished.folder),
        "replay": "\n".join(replays) or "none",
    }
    table(None, [{"": name, " ": text} for name, text in rows.items()])


def shown_cost(summary: dict[str, Any]) -> str:
    """ "4.2 s, 3.9 core-seconds, 47 J (estimate), 0.9 MB" of what a summary says."""
    from rlsys.cost import Cost, load_prices, shown

    cost = Cost.from_summary(summary)
    if cost is None:
        return ""
    words = shown(cost, load_prices())
    words["core time"] += " of cores"
    words["energy"] += f" ({cost.energy_source})" if cost.energy_source else ""
    if "GPU time" in words:
        words["GPU time"] += " of GPUs"
    return ", ".join(words.values())


def allow(modules: list[str]) -> None:
    """Let env.id name these modules: --allow-import."""
    if modules:
        from envs.gym import allow_import

        for module in modules:
            allow_import(module)


def take_allowed(argv: list[str]) -> tuple[list[str], list[str]]:
    """The modules after --allow-import, which are allowed from here on; and the other arguments."""
    modules, argv = take_values(argv, "--allow-import")
    allow(modules)
    return modules, argv


def take_config_dir(argv: list[str]) -> tuple[list[str], list[str]]:
    """--config-dir as an override, which every way to compose understands; and the other arguments."""
    folders, argv = take_values(argv, "--config-dir")
    return compose.search_path(folders), argv


def train_help() -> str:
    from rlsys import config

    groups = "".join(f"  {group}={'|'.join(compose.choices(group))}\n" for group in ("env", "agent", "experiment"))
    keys = key_lines("", config.Config)
    for title, prefix, schema in (
        ("a sim", "env", config.SimConfig),
        ("env=gymnasium", "env", config.GymnasiumConfig),
        ("env=atari", "env", config.AtariConfig),
        *((f"agent={name}", "agent", schema) for name, schema in config.AGENTS.items()),
    ):
        keys += f"\n  with {title}:\n{key_lines(f'{prefix}.', schema)}"
    return TRAIN_HELP.format(groups=groups, keys=keys)


def key_lines(prefix: str, schema: type) -> str:
    """A line for each key of a schema: its default, its choices, and what the comment beside it says."""
    import dataclasses
    import inspect

    fields = {field.name: field for field in dataclasses.fields(schema)}
    said = dict(re.findall(r"^    (\w+):.*?  # (.*)$", inspect.getsource(schema), re.M))
    lines = ""
    for name, value in dataclasses.asdict(schema()).items():
        if name in ("env", "agent", "name", "resume", "init"):
            continue
        shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        offered = fields[name].metadata.get("choices", ())
        note = "; ".join(text for text in ("|".join(offered), said.get(name)) if text)
        lines += f"  {f'{prefix}{name}={shown}':<42} {note}".rstrip() + "\n"
    return lines


# -- the other verbs -----------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse, but that a mistake is told in one line."""

    def error(self, message: str):
        raise UsageError(f"{message}. See {self.prog} --help.")


def parser(verb: str, description: str, *, run: str | None = None) -> Parser:
    """A verb's argument parser; `run` is the nargs of a RUN argument."""
    made = Parser(f"rlsys {verb}", description=description)
    if run is not None:
        made.add_argument("run", nargs=run, default="latest", help="run folder, glob or `latest` (default)")
        made.add_argument(
            "--allow-import", action="append", default=[], metavar="MODULE", help="see `rlsys train --help`"
        )
    return made


def checkpoint_options(made: argparse.ArgumentParser, episodes: int) -> None:
    made.add_argument("--checkpoint", default="best", help="best (default), last, or step_<n>")
    made.add_argument(
        "--episodes", type=whole(1), default=episodes, metavar="N", help=f"how many (default: {episodes})"
    )
    how = made.add_mutually_exclusive_group()
    how.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="take the most likely actions (default: agent.deterministic)",
    )
    how.add_argument("--sample", dest="deterministic", action="store_false", default=None, help="draw actions")
    made.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of sampled actions; in replay, of the episode"
    )


def evaluate(argv: list[str]) -> int:
    made = parser("eval", "Play episodes on held-out seeds and levels.", run="?")
    checkpoint_options(made, episodes=100)
    made.add_argument(
        "--split",
        choices=("test", "validation", "train"),
        default="test",
        help="which seeds and levels (default: test)",
    )
    made.add_argument("--json", action="store_true", help="print JSON, with every episode")
    args = made.parse_args(argv)
    found, policy, config = load(args)

    from rlsys.evaluate import final_report, held_out

    options = {"deterministic": args.deterministic, "seed": args.seed}
    if args.split == "test":
        report = final_report(policy, config.env, args.episodes, **options)
    else:
        report = held_out(policy, config.env, args.episodes, args.split, **options)
    data = {"run": str(found.folder), "checkpoint": args.checkpoint, "split": args.split, **report.to_json()}
    if args.json:
        print(json.dumps(data))
        return OK
    rows = data.pop("episodes")
    names = {
        "mean return": "eval/mean_reward",
        "interquartile mean": "eval/iqm_reward",
        "standard deviation": "eval/std_reward",
        "mean length": "eval/mean_ep_length",
        "episodes": "eval/episodes",
        score_label(data): "eval/score_normalised",
        "mean return, training levels": "eval/train_mean_reward",
        "generalisation gap": "eval/generalisation_gap",
    }
    shown = [
        {
            "statistic": name,
            "value": f"{data[tag]:.6g}",
            "95 % interval": interval(data[f"{tag}_ci95"], 3 if "score" in tag else 2) if f"{tag}_ci95" in data else "",
        }
        for name, tag in names.items()
        if data.get(tag) is not None
    ]
    table(f"{found.folder}  ({args.checkpoint}, {args.split} split)", shown)
    worst = sorted(rows, key=lambda row: row["return"])[:10]
    table(
        "the ten lowest returns" if len(rows) > 10 else "episodes",
        [{**row, "return": f"{row['return']:.2f}"} for row in worst],
    )
    return OK


def score_label(data: dict[str, Any]) -> str:
    """What a normalised score is called: by what earns 0 and 1 on its scale."""
    return f"score (0 random, 1 {data['score_reference']})"


def replay(argv: list[str]) -> int:
    made = parser("replay", "Record episodes as GIF and MP4, or watch them in the terminal.", run="?")
    checkpoint_options(made, episodes=1)
    made.add_argument("--terminal", action="store_true", help="play here, in true colour; writes no file")
    made.add_argument("--columns", type=whole(1), default=60, metavar="N", help="width in the terminal (default: 60)")
    made.add_argument("--speed", type=speed, default=1.0, metavar="X", help="times real time, in the terminal")
    made.add_argument("--max-steps", type=whole(1), metavar="N", help="per episode")
    made.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (default: the run's replays/)")
    args = made.parse_args(argv)
    found, policy, config = load(args)

    from rlsys import replay as player
    from rlsys.folder import label

    caption = label(config)
    options = {
        "episodes": args.episodes,
        "deterministic": args.deterministic,
        "seed": args.seed,
        "max_steps": args.max_steps,
    }
    try:
        if args.terminal:
            player.show(policy, config.env, caption=caption, columns=args.columns, speed=args.speed, **options)
            return OK
        how = {None: "", True: "-deterministic", False: "-sampled"}[args.deterministic]
        name = f"{args.checkpoint}-seed{args.seed}{how}"
        paths = player.record(
            policy, config.env, args.output or found.folder / "replays", name=name, caption=caption, **options
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    for path in paths:
        print(path)
    return OK


def runs(argv: list[str]) -> int:
    made = parser("runs", "List runs, oldest first.")
    made.add_argument("pattern", nargs="?", default="runs", help="folder or glob (default: runs)")
    made.add_argument("--json", action="store_true", help="print JSON")
    args = made.parse_args(argv)

    from rlsys.folder import find, find_one, overview

    if args.pattern != "runs":
        find_one(args.pattern)  # says so if there is none
    rows = [overview(found) for found in find(args.pattern)]
    if args.json:
        print(json.dumps(rows))
    elif rows:
        table(None, [shown_run(row) for row in rows])
    else:
        print("no runs yet. Start one: rlsys train experiment=cartpole")
    return OK


def shown_run(row: dict[str, Any]) -> dict[str, str]:
    """A run's row, short enough for a terminal."""

    def number(key: str, pattern: str) -> str:
        return "" if row[key] is None else pattern.format(row[key])

    return {
        "run": row["run"],
        "status": "solved" if row["solved"] else row["status"],
        "steps": number("steps", "{:,}"),
        "steps/s": number("steps_per_second", "{:,.0f}"),
        "score": number("score", "{:.1f}"),
        **shown_cost_columns(row["cost"]),
    }


def shown_cost_columns(data: dict[str, Any] | None) -> dict[str, str]:
    """Time, energy and, if there are prices, the price: blank where it is not known."""
    from rlsys.cost import Cost, load_prices, shown

    prices = load_prices()
    cost = Cost.from_summary(data) if data else None
    words = shown(cost, prices) if cost else {}
    return {name: words.get(name, "") for name in ("time", "energy", *(["price"] if prices else []))}


def compare(argv: list[str]) -> int:
    made = parser("compare", "Compare groups of runs; runs that differ by nothing but the seed are a group.")
    made.add_argument(
        "runs", nargs="+", metavar="RUN", help="runs of rlsys, logs of SB3 or CleanRL: folder, glob, `latest`"
    )
    made.add_argument(
        "--by", action="append", default=[], metavar="KEY", help="group by this key, or `agent`, not by all that differ"
    )
    made.add_argument("--baseline", metavar="GROUP", help="what the others are compared with (default: the first)")
    made.add_argument("--metric", metavar="TAG", help="default: test score, else evaluations, else training returns")
    made.add_argument("--at", type=whole(0, 10**12), metavar="STEP", help="compare at this step instead of at the end")
    made.add_argument("--task", metavar="NAME", help="what runs were trained on whose logs do not say")
    made.add_argument("--out", type=Path, metavar="FOLDER", help="write compare.html, and the pictures as SVG and PNG")
    made.add_argument("--json", action="store_true", help="print JSON")
    args = made.parse_args(argv)

    from rlsys import compare, report

    found = compare.compare(
        args.runs, by=args.by, baseline=args.baseline, metric=args.metric, at=args.at, task=args.task
    )
    return show_findings(found, f"compared by: {found.value}", report, compare.to_text, args)


def show_findings(
    found: Any, head: str, report: Any, to_text: Callable[[Any], str], args: argparse.Namespace, after: list[str] = []
) -> int:
    """Write the page, if --out asks for it, and print tables and notes, or JSON. report: the module that makes them."""
    paths = report.write(found, args.out) if args.out else []
    if args.json:
        print(to_text(found))
        return OK
    print(f"{head}\n")
    for title, rows in report.tables(found).items():
        table(title, rows)
    for line in (*(f"- {note}" for note in found.notes), *after, *paths[:1]):
        print(line)
    return OK


def envs(argv: list[str]) -> int:
    made = parser("envs", "List the sims, or show one; any Gymnasium id can be trained on too (env=gymnasium).")
    made.add_argument("name", nargs="?", help="a sim, whose page is printed; or module:SIM, for one of yours")
    made.add_argument("--check", action="store_true", help="run every check of the sim")
    made.add_argument(
        "--devices",
        default="cpu,cuda",
        help="for --check: which must do as the first (of cpu, parallel, python, cuda; default %(default)s)",
    )
    made.add_argument(
        "--transitions",
        type=whole(1),
        metavar="N",
        help=f"for --check: how many on each device (default: what {CHECKED_SECONDS:g} seconds allow)",
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    args = made.parse_args(argv)

    import envs as worlds

    if args.check:
        return check_sim(args)
    if args.name is not None:
        sim = named_sim(args.name)
        row = {**env_row(args.name, sim), "page": sim_page(sim)}
        if args.json:
            print(json.dumps([row]))
        else:
            show_sim(row, sim)
        return OK
    rows = []
    for name in worlds.sims():
        try:
            rows.append(env_row(name, worlds.get_sim(name)))
        except ValueError as error:  # of somebody's package: the others are there
            rows.append({"env": name, "error": str(error)})
    if args.json:
        print(json.dumps(rows))
    else:
        shown = [shown_env(row, worlds.get_sim(row["env"])) for row in rows if "error" not in row]
        width = console().width
        left_out = {name for name, needed in NEEDED_COLUMNS.items() if width < needed}
        table(None, [{name: text for name, text in row.items() if name not in left_out} for row in shown])
        for row in rows:
            if "error" in row:
                complain(row["error"], OK)
    return OK


def show_sim(row: dict[str, Any], sim: Any) -> None:
    """A sim's reference page, what else is known of it, and, in a terminal, a picture."""
    print(f"{row['page']}\n")
    facts = {
        "Gymnasium id": row["gymnasium_id"],
        "observation": row["observation"],
        "action": row["action"],
        "steps": row["max_episode_steps"],
        "solved at": short(row["reward_threshold"]) or "no threshold",
        "levels": "yes" if row["levels"] else "no",
        "parameters": "\n".join(f"env.params.{name}={value}" for name, value in row["params"].items()) or "none",
    }
    table(None, [{"": name, " ": text} for name, text in facts.items()])
    if row["references"]:
        table("what policies earn", [shown_reference(policy, found) for policy, found in row["references"].items()])
    if sim.draw is not None and sys.stdout.isatty():
        print(portrait(sim))


def shown_reference(policy: str, found: dict[str, Any]) -> dict[str, str]:
    """A reference's row; its figures as they stand in the sim."""
    return {"policy": policy, "mean return": f"{found['mean']}", "error": f"{found['error']}", "how": found["how"]}


def portrait(sim: Any) -> str:
    """The sim after a second or so of its first test episode, drawn for a true-colour terminal."""
    from envs.engine.canvas import ansi
    from envs.engine.vector import SimVectorEnv

    # Plain Python, where there is nothing to compile; NextStep keeps the last state of an episode that ends.
    env = SimVectorEnv(sim, 1, seed=0, split="test", backend="python", autoreset_mode="NextStep")
    env.reset()
    env.action_space.seed(0)
    ended = False
    for _ in range(sim.frame_rate):
        if not ended:
            action = env.action_space.sample() if sim.scripted is None else env.scripted_actions()
            _, _, terminated, truncated, _ = env.step(action)
            ended = bool(terminated[0] or truncated[0])
    return ansi(env.frame(0), min(PORTRAIT_COLUMNS, console().width))


def check_sim(args: argparse.Namespace) -> int:
    """`rlsys envs --check`: every check of envs/engine/conformance.py, SB3's own, and whether all devices agree."""
    import envs as worlds

    first, *others = devices = args.devices.split(",")
    if args.name is None:
        raise UsageError("envs --check needs a sim, such as: envs --check snake, or: envs --check mymodule:SIM")
    if "cuda" in devices and not worlds.has_gpu():
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # numba has not been imported yet
        print("cuda: there is no GPU here; this is numba-cuda's simulator of one", file=sys.stderr)

    from envs.engine.check import DEVICES
    from envs.engine.conformance import CHECKS, heard, run, same_on
    from envs.engine.single import SimEnv

    if unknown_devices := [device for device in devices if device not in DEVICES]:
        raise UsageError(f"device {unknown_devices[0]!r} is not one of {', '.join(DEVICES)}.")
    sim = named_sim(args.name)

    def sb3(sim: Any) -> str:
        from rlsys.agents.sb3 import check_single_env

        return heard(check_single_env, SimEnv(sim))

    steps, seconds = (
        (625, CHECKED_SECONDS) if args.transitions is None else (args.transitions // CHECKED_ENVS, math.inf)
    )
    options: dict[str, Any] = {"num_envs": CHECKED_ENVS, "steps": max(1, steps), "seconds": seconds}
    checks = {**CHECKS, "stable-baselines3": sb3}
    checks |= {f"{first} and {other}": partial(same_on, first=first, other=other, **options) for other in others}
    results = []
    for result in run(sim, checks):
        results.append(result)
        if sys.stderr.isatty() and len(results) < len(checks):
            print(f"\r\x1b[K{[*checks][len(results)]} ...", end="", file=sys.stderr, flush=True)
    print(end="\r\x1b[K" if sys.stderr.isatty() else "", file=sys.stderr, flush=True)
    failed = sum(result.outcome == "failed" for result in results)
    if args.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        rows = []
        for result in results:
            outcome = result.outcome.upper() if result.outcome == "failed" else result.outcome
            seen = f"{result.found}.\n{result.remedy}" if result.remedy else result.found
            rows.append({"check": result.check, "": outcome, "what was seen": seen})
        table(sim.id, rows)
        print(f"{failed} of {len(results)} checks failed" if failed else "no check failed")
    return FAILED if failed else OK


def named_sim(name: str) -> Any:
    """The Sim that a user names: one that is registered, or `module:NAME`."""
    from envs.registration import named_sim

    try:
        return named_sim(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def sim_page(sim: Any) -> str:
    """A sim's reference page: its module's docstring."""
    return (sys.modules[sim.reset.__module__].__doc__ or sim.name).strip()


def env_row(name: str, sim: Any) -> dict[str, Any]:
    """A sim's row, for --json."""
    return {
        "env": name,
        "gymnasium_id": sim.id,
        "observation": str(sim.observation_space),
        "action": str(sim.action_space),
        "max_episode_steps": sim.max_episode_steps,
        "reward_threshold": sim.reward_threshold,
        "levels": sim.levels,
        "params": dict(sim.params.defaults),
        "references": {policy: asdict(found) for policy, found in sim.references.items()},
        "summary": sim_page(sim).splitlines()[0],
    }


def shown_env(row: dict[str, Any], sim: Any) -> dict[str, Any]:
    """A sim's row, short enough for a terminal."""
    action = sim.action_space
    return {
        "env": row["env"],
        "what": row["summary"].partition(": ")[2],
        "observation": "x".join(map(str, sim.observation_space.shape)),
        "action": f"{action.n} choices" if hasattr(action, "n") else f"{math.prod(action.shape)} real",
        "steps": row["max_episode_steps"],
        "solved at": short(row["reward_threshold"]),
        **{policy: short(row["references"].get(policy, {}).get("mean")) for policy in REFERENCES},
    }


def short(number: float | None) -> str:
    """A number to four digits, without exponent: 22.49, -9695, 36650."""
    if number is None:
        return ""
    text = f"{number:.{max(0, 4 - len(str(int(abs(number)))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


TUNE_HELP = """\
usage: rlsys tune-speed [key=value ...] [--seconds S] [--config-dir DIR] [--json]

Trains what `rlsys train key=value ...` would, for moments (about 20 seconds in all, and what has yet to be compiled), with
other engines, threads and devices, then with more and fewer envs, and says what is fastest on this machine.
"""


def tune_speed(argv: list[str]) -> int:
    """Measure, and say what to add to `rlsys train`."""
    if "-h" in argv or "--help" in argv:
        print(TUNE_HELP, end="")
        return OK
    as_json, argv = take_flag(argv, "--json")
    given, argv = take_values(argv, "--seconds")
    try:
        seconds = float((given or ["20"])[-1])
    except ValueError:
        raise UsageError(f"--seconds {given[-1]} is not a number.") from None
    searched, settings = take_config_dir(argv)
    if other := next((arg for arg in settings if arg.startswith(("resume=", "init="))), None):
        raise UsageError(
            f"{other}: tune-speed measures a new run: give it that one's env=, agent= and other keys instead."
        )
    config = compose.composed([*searched, *(compose.normalised(arg) for arg in settings)])
    check_env(config)
    from rlsys.tune import tune

    probes = []
    for probe in tune(config, seconds):
        probes.append(probe)
        if not as_json and sys.stderr.isatty():
            print(f"{' '.join(probe.overrides())}: {probe.steps_per_second:,.0f} steps/s", file=sys.stderr, flush=True)
    same = [probe for probe in probes if probe.num_envs == config.num_envs]
    fastest, best = (max(some, key=lambda probe: probe.steps_per_second) for some in (probes, same))
    if as_json:
        rows = [{**vars(probe), "fastest": probe is fastest} for probe in probes]
        print(json.dumps(rows, indent=2))
        return OK
    rows = [
        {
            "num_envs": probe.num_envs,
            "threads": probe.threads,
            "engine": probe.engine,
            "device": probe.device,
            "steps/s": f"{probe.steps_per_second:,.0f}",
            "steps a gradient step": f"{probe.steps_an_update:.1f}",
            "steps between updates": f"{probe.steps_an_iteration:,}",
            "": "fastest" if probe is fastest else "fastest that learns the same" if probe is best else "",
        }
        for probe in probes
    ]
    table(None, rows)
    command = shlex.join(["rlsys", "train", *argv])
    print(f"the same learning, fastest:  {command} {' '.join(best.overrides()[1:])}")
    if fastest is not best:
        print(f"fastest of all:              {command} {' '.join(fastest.overrides())}")
        print(
            "Another num_envs changes what is learned in a step: try whether the score after the same steps is as good."
        )
    return OK


ESTIMATE_HELP = """\
usage: rlsys estimate [key=value ...] [-m] [--seconds S] [--config-dir DIR] [--allow-import MODULE] [--json]

Says what `rlsys train key=value ...` or `rlsys sweep key=values ...` will take: time, and what it goes to, core time,
energy, disk, and the price, if RLSYS_PRICES names a price file (docs/cost.md). Trains for about {seconds:g} seconds (and what has
yet to be compiled) in a folder that is thrown away.

  -m             all combinations of comma-separated values, one after the other, as in `rlsys train -m`
  --seconds S    of probing (default: {seconds:g}); of a sweep, {points} points or as many as it has workers are probed
"""

PROBED_POINTS = 4  # of a sweep or a grid, at least


def estimate(argv: list[str]) -> int:
    """Probe, and say what the run or the sweep will take."""
    from rlsys import estimate as estimates
    from rlsys.cost import load_prices

    if "-h" in argv or "--help" in argv:
        print(ESTIMATE_HELP.format(seconds=estimates.SECONDS, points=PROBED_POINTS), end="")
        return OK
    as_json, argv = take_flag(argv, "--json")
    given, argv = take_values(argv, "--seconds")
    try:
        seconds = speed((given or [str(estimates.SECONDS)])[-1])
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--seconds {error}.") from None
    prices = load_prices()
    modules, argv = take_allowed(argv)
    searched, argv = take_config_dir(argv)
    multirun = bool(set(argv) & {"-m", "--multirun"})
    argv = [arg for arg in argv if arg not in ("-m", "--multirun")]
    began = time.perf_counter()
    compose.composed([])  # as any run does, with what it has to import; all else the probe does itself
    composing = time.perf_counter() - began
    configs, runs, slots = planned_runs(argv, searched, multirun)
    if any(config.distributed == "ddp" for config in configs):
        raise UsageError("distributed=ddp: estimate probes one process. Leave it out.")
    found = []
    share = seconds * len(slots) / len(configs)
    some = estimates.probes(configs, share, slots=slots, allowed=modules, started=composing)
    for config, probe in zip(configs, some, strict=True):
        found.append(estimates.predict(config, probe))
    one = estimates.mean(found)
    whole = estimates.together(one, runs, len(slots))
    if as_json:
        parts = [{**vars(part), "seconds": part.seconds} for part in one.parts]
        data = {"runs": runs, "workers": len(slots), "parts": parts, "run": one.cost.to_summary(prices)}
        print(json.dumps({**data, "whole": whole.to_summary(prices)}, indent=2))
        return OK
    show_estimate(one, whole, runs, len(slots), len(configs), prices)
    if any(config.stop_when_solved for config in configs):
        print("It ends earlier if it is solved (stop_when_solved).")
    return OK


def planned_runs(argv: list[str], searched: list[str], multirun: bool) -> tuple[list[Any], int, list[dict[str, str]]]:
    """What is to be probed, how many runs there will be, and the environment of each of those that run side by side."""
    import random

    own = [compose.normalised(arg) for arg in argv if arg.startswith(("sweep.", "sweep="))]
    rest = [arg for arg in argv if not arg.startswith(("sweep.", "sweep="))]
    if resumed := next((arg for arg in rest if arg.startswith(("resume=", "init="))), None):
        raise UsageError(f"{resumed}: estimate says what a whole run takes: leave it out.")
    environment = dict(os.environ)
    if multirun:
        jobs = compose.grid([*searched, *(compose.normalised(arg) for arg in rest)])
        some = random.Random(0).sample(jobs, min(len(jobs), PROBED_POINTS))
        return [compose.checked(job) for job in some], len(jobs), [environment]
    settings, preset = compose.composed_sweep(own)
    fixed, space, seeds = compose.search_space([*preset, *rest])
    if not (own or space or seeds):
        return [compose.checked([*searched, *rest])], 1, [environment]
    from rlsys.sweep.jobs import room
    from rlsys.sweep.spec import plan

    spec, slots = plan([*searched, *fixed], space, seeds, settings, compose.checked), room(settings, Path())
    runs = len(spec.seeds) * (1 if spec.is_population else spec.trials)  # a member has a seed of its own
    slots = slots[:runs]
    draw, configs, wanted = random.Random(settings.sampler_seed), [], min(runs, max(PROBED_POINTS, len(slots)))
    for _ in range(10 * wanted):  # some combinations may be none
        point = [f"{key}={parameter.draw(draw)}" for key, parameter in spec.space.items()]
        with contextlib.suppress(ValueError):
            configs.append(compose.checked([*spec.given(slots[0].threads), *point, f"seed={spec.seeds[0]}"]))
        if len(configs) == wanted:
            break
    if not configs:
        raise UsageError("of the values to be searched no combination that was drawn can be trained.")
    return configs, runs, [slot.environment() for slot in slots]


def show_estimate(one: Any, whole: Any, runs: int, workers: int, probed: int, prices: Any) -> None:
    """Print what an estimate.Estimate says of a run and, if there are several, of all."""
    from rlsys.cost import duration, shown

    rows = [
        {
            "what": part.name,
            "times": f"{part.times:,.0f}",
            "each": duration(part.each) if part.each >= 1 else f"{1e3 * part.each:.3g} ms",
            "time": duration(part.seconds),
            "share": f"{part.seconds / one.cost.seconds:.0%}" if one.cost.seconds else "",
        }
        for part in one.parts
    ]
    several = runs > 1
    table(f"a run{f', the mean of {probed} that were probed' if several else ''}", rows)
    columns = {"a run": shown(one.cost, prices)}
    if several:
        columns[f"all {runs:,} runs, {workers} at a time"] = shown(whole, prices)
    names = list(columns["a run"])
    names_of = {"energy": f"energy ({one.cost.energy_source})"}
    table(
        None,
        [{"": names_of.get(name, name), **{title: words[name] for title, words in columns.items()}} for name in names],
    )


def sweep(argv: list[str]) -> int:
    """Plan, check everything, then search; or go on with a sweep."""
    if "-h" in argv or "--help" in argv:
        print(sweep_help(), end="")
        return OK
    as_json, argv = take_flag(argv, "--json")
    quiet, argv = take_flag(argv, "--quiet")
    names, argv = take_values(argv, "--study")
    modules, argv = take_allowed(argv)
    searched, argv = take_config_dir(argv)
    verb = argv[0] if argv and argv[0] in ("resume", "join", "show") else None
    if verb and (len(argv) < 2 or ("=" in argv[1].partition("://")[0] and not Path(argv[1]).exists())):
        raise UsageError(f"rlsys sweep {verb} needs a sweep's folder{'' if verb == 'resume' else ' or a URL'}.")
    place, argv = (argv[1], argv[2:]) if verb else ("", argv)
    own = [compose.normalised(arg) for arg in argv if arg.startswith(("sweep.", "sweep="))]
    rest = [arg for arg in argv if not arg.startswith(("sweep.", "sweep="))]
    if verb is None:
        settings, preset = compose.composed_sweep(own)
        for text in own:
            key = text.partition("=")[0].removeprefix("sweep.")
            if reason := (SEARCH_KEYS if settings.mode == "pbt" else PBT_KEYS).get(key):
                raise UsageError(f"{text}: with sweep.mode={settings.mode} {reason}: leave it out.")
        fixed, space, seeds = compose.search_space([*preset, *rest])
        from rlsys import sweep as sweeps
        from rlsys.sweep.spec import plan

        study, folder = sweeps.create(plan([*searched, *fixed], space, seeds, settings, compose.checked))
    else:
        if rest:
            raise UsageError(f"rlsys sweep {verb} {place}: {rest[0]} cannot be changed any more.")
        from rlsys import sweep as sweeps

        study, folder, settings = reopened_sweep(verb, place, names[-1] if names else None, own)
    with contextlib.closing(study):
        if verb == "show":
            return show_sweep(study, folder, as_json)
        allowed = [f"--allow-import={module}" for module in modules]
        train_command = [*sweeps.TRAIN, *allowed]
        work = sweeps.Sweep(study, folder, settings, compose.checked, train=train_command, quiet=quiet)
        if not quiet:
            room = f"{len(work.free)} at a time, {work.free[0].threads} threads each"
            spec = study.spec
            what = f"{spec.trials} trials of {len(spec.seeds)} seeds"
            if spec.is_population:
                what = f"{spec.sweep.population} members, {spec.segments} segments of {spec.interval:,} steps each"
            print(f"{folder}  {what}, {room}", flush=True)
        gc.enable()  # main has it off while all is imported
        try:
            work.run()
        except (sweeps.Stopped, sweeps.StorageLost) as end:
            code = PREEMPTED if isinstance(end, sweeps.Stopped) else STORAGE
            again = shlex.join(["rlsys", "sweep", "resume", str(folder), *allowed])
            return complain(f"{end}\n       go on with: {again}", code)
        return show_sweep(study, folder, as_json) if not quiet else OK if study.best() else FAILED


def reopened_sweep(verb: str, place: str, name: str | None, own: list[str]) -> tuple[Any, Path, Any]:
    """The sweep to go on with, its folder, and what it may use of this machine."""
    from dataclasses import replace

    from rlsys import sweep as sweeps

    allowed = (*OWN_KEYS, "trials") if verb == "resume" else OWN_KEYS
    keys = [override.partition("=")[0].removeprefix("sweep.") for override in own]
    shares = ("gpus_per_worker", "jobs_per_gpu")  # right only together with what the sweep has of them
    settings, _ = compose.composed_sweep([text for key, text in zip(keys, own, strict=True) if key not in shares])
    for key in keys:
        if key not in allowed:
            keep = f"a sweep keeps its {key}; {verb} takes {', '.join(allowed)}."
            raise UsageError(f"{own[keys.index(key)]}: {keep}")
    if verb == "show":
        return *sweeps.look(place, name, settings.storage), settings
    study, folder = sweeps.reopen(place, name, settings.storage, settings.dir)
    kept = {key: getattr(study.spec.sweep, key) for key in shares if key not in keys}
    settings, _ = compose.composed_sweep([*own, *(f"sweep.{key}={value}" for key, value in kept.items())])
    if verb == "resume":
        sweeps.extend(study, folder, settings.trials if "trials" in keys else None)
    return study, folder, replace(study.spec.sweep, **{key: getattr(settings, key) for key in keys})


def show_sweep(study: Any, folder: Path, as_json: bool) -> int:
    """Print the trials, and the best with its score on the test split, which has chosen nothing."""
    from rlsys.cost import load_prices
    from rlsys.sweep.findings import command
    from rlsys.sweep.view import shown_trial, to_json

    rows, best = study.rows(), study.best()
    if as_json:
        print(
            json.dumps(
                {
                    "study": study.spec.name,
                    "best": [r.number for r in best],
                    **({"lineage": study.lineage(best[0].number)} if best and study.spec.is_population else {}),
                    "trials": [to_json(study, r) for r in rows],
                    "cost": study.cost().to_summary(load_prices()),
                }
            )
        )
        return OK if best else FAILED
    front = {row.number for row in best}
    title = "the Pareto front" if len(study.spec.sweep.objective) > 1 else "the best"
    table(
        f"{folder}  ({', '.join(f'{n} {state}' for state, n in study.counts().items() if n)})",
        [{"": "*" if row.number in front else "", **shown_trial(study, row)} for row in rows],
    )
    if cost := shown_cost(study.cost().to_summary(None)):
        print(f"all runs, of failed and pruned trials too: {cost}")
    if not best:
        return complain("no trial has finished.", FAILED)
    tests = [result["test"] for result in best[0].seeds.values()]
    if study.spec.is_population:
        chain = study.lineage(best[0].number)
        members = ", ".join(str(study.spec.member(number)) for number in chain)
        print(f"* lineage: trials {', '.join(map(str, chain))} (of members {members}).")
    print(f"* {title}. Trial {best[0].number} scores {' '.join(short(test) for test in tests)} on the test split.")
    if typed := command(study, folder, best[0].number):
        print(f"train it: {typed}")
    return OK


def report(argv: list[str]) -> int:
    made = parser(
        "report", "Say what a sweep has found, also while it runs: which keys matter, the best trials, charts."
    )
    made.add_argument(
        "sweep",
        nargs="?",
        default="latest",
        metavar="SWEEP",
        help="a sweep's folder, a database's URL, or `latest` (default)",
    )
    made.add_argument("--study", metavar="NAME", help="which of several sweeps in a database")
    made.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="write a page, PATH.html; or a folder, with the page and its pictures as SVG and PNG",
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    args = made.parse_args(argv)

    from rlsys import sweep as sweeps
    from rlsys.sweep import findings, report

    study, folder = sweeps.look(args.sweep, args.study)
    with contextlib.closing(study):
        found = findings.find(study, folder)
    if not found.best:
        return complain(f"{folder}: no trial has finished ({report.summary(found)}). See rlsys sweep show.", FAILED)
    several = len(found.commands) > 1
    commands = [f"train {f'trial {number}' if several else 'it'}: {typed}" for number, typed in found.commands.items()]
    return show_findings(found, f"{folder}  ({report.summary(found)})", report, findings.to_text, args, commands)


def sweep_help() -> str:
    from rlsys.config import SweepConfig

    keys = key_lines("sweep.", SweepConfig)
    return SWEEP_HELP.format(presets="|".join(compose.choices("sweep")), own=", ".join(OWN_KEYS), keys=keys)


def board(argv: list[str]) -> int:
    made = parser("board", "Start TensorBoard on runs; those that begin later appear, too.")
    made.add_argument(
        "runs", nargs="*", default=["runs"], metavar="RUN", help="folder, glob or `latest` (default: all in runs/)"
    )
    made.add_argument(
        "--port", type=whole(0, 65535), metavar="N", help="default: the first free one from 6006 on; 0: any"
    )
    made.add_argument("--host", default="localhost", help="0.0.0.0: for other machines, too (default: %(default)s)")
    args = made.parse_args(argv)

    from rlsys.board import Board

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):  # also where a shell had it ignored, in the background
        signal.signal(number, stop)
    with contextlib.suppress(KeyboardInterrupt), Board(args.runs) as shown:
        try:
            address = shown.serve(args.host, args.port)
        except OSError as error:
            raise UsageError(str(error)) from None
        count = len(shown.names)
        print(f"TensorBoard on {count} run{'s' * (count != 1)}: {address}  (Ctrl-C ends it)", flush=True)
        gc.enable()
        shown.watch()
    return OK


# -- shared by the verbs -------------------------------------------------------------------------------------------------


def load(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """(run, policy, config) that a verb's RUN and --checkpoint name."""
    from rlsys.folder import find_one

    allow(args.allow_import)
    found = find_one(args.run)
    config = found.config()
    check_env(config)
    try:
        return found, found.policy(args.checkpoint), config
    except ValueError as error:
        raise UsageError(str(error)) from None


def whole(low: int, high: int = 10**9) -> Callable[[str], int]:
    """An argparse type: an integer between low and high."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"[0-9][0-9_]*", text) or not low <= int(text.replace("_", "")) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer between {low} and {high}")
        return int(text.replace("_", ""))

    return convert


def speed(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def take_flag(argv: list[str], flag: str) -> tuple[bool, list[str]]:
    return flag in argv, [arg for arg in argv if arg != flag]


def take_values(argv: list[str], option: str) -> tuple[list[str], list[str]]:
    """The values of a repeatable option (`--x value` or `--x=value`), and the other arguments."""
    values, rest, pending = [], [], iter(argv)
    for arg in pending:
        if arg == option:
            values.append(next(pending, ""))
        elif arg.startswith(f"{option}="):
            values.append(arg.partition("=")[2])
        else:
            rest.append(arg)
    if "" in values:
        raise UsageError(f"{option} needs a value.")
    return values, rest


def interval(pair: list[float], digits: int = 2) -> str:
    return f"{pair[0]:.{digits}f} to {pair[1]:.{digits}f}"


def console() -> Any:
    """Where tables are printed: as wide as the terminal; a pipe gets whole lines."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def table(title: str | None, rows: list[dict[str, Any]]) -> None:
    """Print rows with the same keys as a table."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_header=any(key.strip() for key in rows[0]), pad_edge=False)
    for key in rows[0]:
        made.add_column(key, overflow="fold")
    for row in rows:
        made.add_row(*("" if value is None else str(value) for value in row.values()))
    if title:
        console().print(title, soft_wrap=True, markup=False, highlight=False)
    console().print(made, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
