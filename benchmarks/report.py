"""Put the figures of results/*.json into docs/results.md, between its marks, and draw docs/results.svg.

    python benchmarks/report.py

No figure is typed by hand. What has not been measured is left out, with a line that says so.
"""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import chart
import results
from peers import fastest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE, PICTURE = ROOT / "docs" / "results.md", ROOT / "docs" / "results.svg"
FILES = {
    "peers": "make peers",
    "learning": "make learning",
    "engines": "make engines",
    "experiments": "make results",
    "throughput": "make throughput",
    "games": "make games",
    "estimate": "make estimate",
}  # what makes them

Lines = list[str]
SIDES = ("estimated", "taken")


def measured_on(machine: dict[str, Any] | None) -> str:
    """Machine, commit and day in a line, of what provenance() returned."""
    if not machine:
        return "Machine and commit were not recorded."
    git = machine.get("git") or {}
    commit = f"commit {git['commit'][:7]}" if git.get("commit") else "commit unknown"
    changes = " with uncommitted changes" if git.get("commit") and git.get("dirty") else ""
    memory = f", {machine['memory_gib']:.0f} GiB" if machine.get("memory_gib") else ""
    gpus = ", ".join(machine.get("gpus") or []) or "no GPU"
    where = f"{machine['cpu'] or 'an unknown processor'}, {machine['usable_cores']} cores{memory}, {gpus}"
    return f"{where}; {machine['python']}; {commit}{changes}; {machine['time'][:10]}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Lines:
    """Markdown; all but the first column are aligned to the right."""
    head = list(head)
    marks = [":--", *("--:" for _ in head[1:])]
    return [f"| {' | '.join(row)} |" for row in (head, marks, *rows)]


def rate(figures: dict[str, dict], way: str | None = None) -> str:
    """Median steps a second: of one way to set a system up, or of its fastest."""
    found = figures.get(way, {}).get("median") if way else fastest(figures)
    if found:
        return f"{found:,.0f}"
    return "failed" if figures and (way is None or way in figures) else "-"


def comparison(data: dict[str, Any], kinds: tuple[str, ...], peers: tuple[str, ...]) -> Lines:
    """A table of what rlsys and its peers reach, and how many times as fast rlsys's best is."""
    entries = [entry for entry in data["work"].values() if entry["kind"] in kinds]
    ways = list(dict.fromkeys(way for entry in entries for way in entry["systems"].get("rlsys", {})))
    peers = tuple(name for name in peers if any(name in entry["systems"] for entry in entries))
    titles = [chart.LABELS[name][0] for name in peers]
    rows = []
    for entry in entries:
        ours, systems = entry["systems"].get("rlsys", {}), entry["systems"]
        name = f"{entry['settings']['num_envs']:,}" if entry["kind"] == "env" else "; ".join(chart.label(entry))
        ratios = (max(entry["ratios"].get(peer, {}).values(), default=None) for peer in peers)
        rows.append(
            [name, *(rate(ours, way) for way in ways), *(rate(systems.get(peer, {})) for peer in peers)]
            + [f"{ratio:.1f}" if ratio else "-" for ratio in ratios]
        )
    head = ["envs" if kinds == ("env",) else "work", *(f"rlsys, {way}" for way in ways), *titles]
    return table([*head, *(f"rlsys / {title}" for title in titles)], rows)


# -- sections: by mark, the file that they need and what they write ----------------------------------------------------


def picture(data: dict[str, Any]) -> Lines:
    return ["![Steps a second of rlsys and its peers, training and the env alone](results.svg)"]


def peers_measured(data: dict[str, Any]) -> Lines:
    return [f"{measured_on(data['machine'])}. Medians of {data['rounds']} round{'s' * (data['rounds'] > 1)}."]


def training(data: dict[str, Any]) -> Lines:
    return comparison(data, ("ppo", "dqn"), ("sb3", "rejax"))


def env_only(data: dict[str, Any]) -> Lines:
    return comparison(data, ("env",), ("c", "gymnasium", "envpool", "gymnax"))


def games(data: dict[str, Any]) -> Lines:
    """PufferLib's games, each way that they are set up, beside ours: bests of the rounds, and their ratio."""
    rows = []
    for entry in data["work"].values():
        ours = fastest(entry["systems"]["rlsys"], "best")
        for way, figures in entry["systems"].get("puffer", {}).items():
            theirs = figures.get("best")
            name, n = entry["kind"].capitalize(), f"{entry['settings']['num_envs']:,}"
            ratio = f"{ours / theirs:.1f}" if ours and theirs else "-"
            rows.append(
                [f"{name}, {n}", f"{ours:,.0f}" if ours else "failed", f"{theirs:,.0f}" if theirs else "failed"]
            )
            rows[-1] += [way, ratio]
    failed = [f"{name}: {system['error']}." for name, system in data["systems"].items() if system["error"]]
    head = ["game, agents", "rlsys", "PufferLib", "PufferLib's is", "rlsys / PufferLib"]
    when = f"{measured_on(data['machine'])}. Bests of {data['rounds']} rounds, on one thread."
    return [when, *failed, "", *table(head, rows)]


def sims(data: dict[str, Any]) -> Lines:
    """Every sim on one core: its speed, the work of a step, and its share of the roof."""
    if "sims" not in data:
        return [missing("throughput")]
    data = data["sims"]
    rows = []
    for name, found in sorted(data["sims"].items()):
        done = found["work"]
        hard = [f"{done[key]:.0f}" for key in ("divisions", "roots", "functions")]
        row = [name, f"{found['steps_per_second'] / 1e6:,.3g}", f"{done['bytes']:,.0f}", f"{done['flops']:,.0f}"]
        row += [" + ".join(hard), f"{done['integers']:,.0f}", f"{found['share']:.0%}", found["bound"]]
        rows.append([*row, f"{found['frames_per_second']:,.0f}"])
    head = ["sim", "M steps/s", "bytes", "flops", "quotients + roots + functions", "integer operations"]
    head += ["of the roof", "which is of", "frames/s"]
    top = data["roof"]
    bandwidth = [rate / 1e9 for rate in top["bandwidth"].values()]
    roof = f"{top['flops'] / 1e9:.0f} GFLOP/s, {top['integers'] / 1e9:.0f} G integer operations/s, copies of "
    roof += f"{min(bandwidth):.0f} to {max(bandwidth):.0f} GB/s by their size"
    when = (
        f"{measured_on(data['machine'])}. Bests of {data['rounds']} rounds of {data['num_envs']:,} copies on one core."
    )
    return [f"{when} The roof: {roof}.", "", *table(head, rows)]


def roof(data: dict[str, Any]) -> Lines:
    entries = [entry for entry in data["work"].values() if entry["kind"] == "ppo"]
    rows = []
    for entry in entries:
        for way, share in entry["share_of_roof"].items():
            flops = entry["flops_per_step"]
            gflops = entry["systems"]["rlsys"][way]["median"] * flops / 1e9
            row = [chart.label(entry)[0], way, f"{flops:,}", f"{gflops:.1f}", f"{data['roof_gflops'][way]:.1f}"]
            rows.append([*row, f"{share:.0%}"])
    return table(["work", "rlsys on", "flops a step", "GFLOP/s", "roof, GFLOP/s", "share"], rows)


def versions(data: dict[str, Any]) -> Lines:
    rows = []
    for name, system in data["systems"].items():
        found = {**system["versions"]}
        if name == "rlsys":
            found |= {package: data["machine"]["packages"].get(package) for package in ("numba", "numpy", "torch")}
        words = ", ".join(f"{package} {version}" for package, version in found.items())
        rows.append([chart.LABELS[name][0], system["error"] or words])
    failures = [
        f"- {chart.LABELS[name][0]} ({way}), {work}: {figures['error']}"
        for work, entry in data["work"].items()
        for name, by_way in entry["systems"].items()
        for way, figures in by_way.items()
        if "error" in figures
    ]
    listed = [f"| {' | '.join(row)} |" for row in (("system", "versions"), (":--", ":--"), *rows)]
    return [*listed, *(["", "Failed:", "", *failures] if failures else [])]


def learning(data: dict[str, Any]) -> Lines:
    groups: dict[tuple[str, str], list[dict]] = {}
    for run in data["runs"]:
        groups.setdefault((run["system"], run["cache"]), []).append(run)
    rows = []
    for (system, cache), runs in groups.items():
        seconds = [run["seconds_to_solved"] for run in runs if run["seconds_to_solved"] is not None]
        memory = [run["peak_memory_mb"] for run in runs if run.get("peak_memory_mb") is not None]
        spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})" if seconds else "-"
        peak = f"{statistics.median(memory):,.0f} MB" if memory else "-"
        rows.append([chart.LABELS.get(system, (system,))[0], cache, f"{len(seconds)} of {len(runs)}", spread, peak])
    head = ["system", "caches", "solved", "seconds to solved: median (range)", "peak memory: median"]
    return [f"{measured_on(data.get('machine'))}.", "", *table(head, rows)]


def experiments(data: dict[str, Any]) -> Lines:
    machines = list(dict.fromkeys(measured_on(result.get("machine")) for result in data.values()))
    head = results.HEAD
    return [
        *(f"{machine}." for machine in machines),
        "",
        *head,
        *(results.row(name, data[name]) for name in sorted(data)),
    ]


def scale(data: dict[str, Any]) -> Lines:
    """From one env to 65536: million steps a second of the envs, thousands of rollouts and training."""
    if "scale" not in data:
        return [missing("throughput")]
    data = data["scale"]

    def figures(rates: dict[str, float], unit: float, names: Iterable[str]) -> list[str]:
        return [
            f"{rates[name] / unit:,.3g}" if rates[name] < 1000 * unit else f"{rates[name] / unit:,.0f}"
            for name in names
        ]

    threads = list(data["roof_flops"])
    engines = list(next(iter(data["training"].values())))
    rows = [
        [
            f"{int(n):,}",
            *figures(data["env_only"][n], 1e6, [*threads, "gymnasium"]),
            *figures(data["rollout"][n], 1e3, threads),
            *figures(data["training"][n], 1e3, engines),
            *(f"{share:.0%}" for share in data["share_of_roof"][n].values()),
        ]
        for n in data["env_only"]
    ]
    head = [
        "envs",
        *(f"env, {name} (M)" for name in [*threads, "Gymnasium"]),
        *(f"rollout, {name} (k)" for name in threads),
    ]
    head += [*(f"PPO, {name} (k)" for name in engines), *(f"of the roof, {name}" for name in threads)]
    return [f"{measured_on(data.get('machine'))}. Best of the rounds.", "", *table(head, rows)]


def engines(data: dict[str, Any]) -> Lines:
    """Whether the engines, and the precisions, learn alike."""
    rows = []
    for part in data.values():
        reference = part["reference"]
        for name, found in part["work"].items():
            levels = {way: statistics.mean(seeds) for way, seeds in found["levels"].items()}
            for way, difference in found["against"].items():
                low, high = difference["difference_ci95"]
                seeds, both = f"{len(found['levels'][way])}", f"{levels[way]:.1f}, {levels[reference]:.1f}"
                what = f"{way} and {reference}"
                rows.append([name, what, seeds, both, f"{low:.1f} to {high:.1f}", f"{difference['p']:.2f}"])
    head = ["work", "compared", "seeds", "levels", "difference, 95 % interval", "p (Mann-Whitney)"]
    machine = next(iter(data.values()))["machine"]
    return [f"{measured_on(machine)}.", "", *table(head, rows)]


def estimates(data: dict[str, Any]) -> Lines:
    """What `rlsys estimate` said, and what runs took."""
    rows = [
        [
            name,
            *(
                f"{entry[side][what]:.{digits}f}"
                for what, digits in (("seconds", 1), ("core_seconds", 1))
                for side in SIDES
            ),
            f"{entry['errors']['seconds']:.0%}",
            f"{entry['errors']['core_seconds']:.0%}",
        ]
        for name, entry in data["configs"].items()
    ]
    medians, count = data["median_errors"], len(data["configs"])
    head = ["run", "estimated, s", "taken, s", "estimated, core-s", "taken, core-s", "error, s", "error, core-s"]
    errors = f"Median errors over {count} runs: {medians['seconds']:.0%} of the seconds, {medians['core_seconds']:.0%} of the "
    errors += f"core-seconds, {medians['disk_bytes']:.0%} of the bytes on the disk."
    return [f"{measured_on(data['machine'])}. {errors}", "", *table(head, rows)]


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], Lines]]] = {
    "picture": ("peers", picture),
    "peers": ("peers", peers_measured),
    "training": ("peers", training),
    "env": ("peers", env_only),
    "games": ("games", games),
    "roof": ("peers", roof),
    "versions": ("peers", versions),
    "learning": ("learning", learning),
    "experiments": ("experiments", experiments),
    "sims": ("throughput", sims),
    "scale": ("throughput", scale),
    "engines": ("engines", engines),
    "estimate": ("estimate", estimates),
}


def load(folder: Path) -> dict[str, Any]:
    """What has been measured, by name of the file."""
    return {name: json.loads(path.read_text()) for name in FILES if (path := folder / f"{name}.json").exists()}


def section(name: str, data: dict[str, Any]) -> str:
    """The text between a section's marks."""
    file, write = SECTIONS[name]
    return "\n".join(write(data[file])) if file in data else missing(file)


def missing(file: str) -> str:
    """What to say of a file that is not there."""
    return f"Not measured yet: {file}.json is missing{f' (`{FILES[file]}`)' if FILES[file] else ''}."


def page(template: str, data: dict[str, Any]) -> str:
    """The page with every section written anew."""
    for name in SECTIONS:
        start, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        before, rest = template.split(start)
        template = f"{before}{start}{section(name, data)}{end}{rest.split(end)[1]}"
    return template


def main() -> None:
    data = load(RESULTS)
    PAGE.write_text(page(PAGE.read_text(), data))
    if "peers" in data:
        PICTURE.write_text(
            chart.svg(data["peers"], f"{measured_on(data['peers']['machine'])}. Both axes are logarithmic.")
        )
    for file in sorted(set(FILES) - set(data)):
        print(missing(file))


if __name__ == "__main__":
    main()
