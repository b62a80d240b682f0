"""The picture of peers.json, as SVG: training on the left, the env alone on the right, both on logarithmic scales.

Drawn by hand, so that it needs no library, is sharp at any size, and is the same file from the same figures. The colours are
Okabe and Ito's, which can be told apart with any kind of colour vision.
"""

import math
from collections.abc import Iterator
from html import escape
from typing import Any

from peers import fastest

LABELS = {
    "rlsys": ("rlsys", "#0072B2"),
    "rejax": ("rejax (JAX)", "#009E73"),
    "sb3": ("stable-baselines3", "#E69F00"),
    "gymnax": ("gymnax (JAX)", "#56B4E9"),
    "gymnasium": ("Gymnasium", "#CC79A7"),
    "envpool": ("EnvPool", "#D55E00"),
    "c": ("a plain C kernel", "#999999"),
    "puffer": ("PufferLib (C)", "#F0E442"),
}
INK, MUTED, GRID = "#1f2328", "#636c76", "#e6e8eb"
WIDTH, TOP = 1120, 112
BAR, GAP, GROUP_GAP = 15, 3, 20
LEFT, LEFT_END = 204, 640  # the bars
RIGHT, RIGHT_END = 744, 990  # the lines


def short(rate: float) -> str:
    """Three digits: 46.4 M, 171 k, 3.17 k."""
    unit, name = next((u, name) for u, name in ((1e6, " M"), (1e3, " k"), (0.0, "")) if rate >= 0.9995 * u)
    return f"{float(f'{rate / (unit or 1.0):.3g}'):g}{name}"


def binary(n: int) -> str:
    """1, 64, 4 k: a k is 1024."""
    return f"{n // 1024} k" if n >= 1024 and n % 1024 == 0 else f"{n:,}"


def text(
    x: float, y: float, words: str, *, size: int = 13, fill: str = INK, anchor: str = "start", bold: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{bold}">'
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = GRID) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"/>'


class LogScale:
    """Numbers -> pixels, from a power of ten below the least to the next half of one above the most."""

    def __init__(self, values: list[float], start: float, end: float):
        self.low = math.floor(math.log10(min(values)) + 1e-9)
        self.high = max(math.ceil(2 * math.log10(max(values)) - 1e-9) / 2, self.low + 1)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, math.floor(self.high) + 1)]


def label(entry: dict[str, Any]) -> list[str]:
    """What a piece of training is called, its details, and where its settings come from."""
    s = entry["settings"]
    if entry["kind"] == "ppo":
        name = f"PPO, {s['num_envs']:,} × {s['n_steps']:,}"
        details = f"minibatches of {s['batch_size']:,}, {s['n_epochs']} epochs"
    else:
        name = f"DQN, {s['num_envs']} env{'s' if s['num_envs'] > 1 else ''}"
        details = f"{s['batch_size']} samples every {s['train_freq']} steps"
    return [name, details, *([entry["note"]] if entry.get("note") else [])]


def bars(entries: list[dict[str, Any]]) -> tuple[list[str], float]:
    """Training: a group of bars for each piece of work, and where the last one ends."""
    groups = [{name: fastest(figures) for name, figures in entry["systems"].items()} for entry in entries]
    scale = LogScale([rate for group in groups for rate in group.values() if rate], LEFT, LEFT_END)
    parts, y = [], float(TOP)
    for entry, group in zip(entries, groups, strict=True):
        rates = {name: group[name] for name in LABELS if group.get(name)}
        height = len(rates) * (BAR + GAP) - GAP
        name, *details = label(entry)
        baseline = y + height / 2 + 5 - 7 * len(details)
        parts.append(text(LEFT - 14, baseline, name, anchor="end", bold=600))
        for i, words in enumerate(details, 1):
            parts.append(text(LEFT - 14, baseline + 14 * i, words, anchor="end", size=11, fill=MUTED))
        for system, rate in rates.items():
            end, ours = scale(rate), group.get("rlsys")
            parts.append(
                f'<rect x="{LEFT}" y="{y:.1f}" width="{end - LEFT:.1f}" height="{BAR}" rx="2" fill="{LABELS[system][1]}"/>'
            )
            parts.append(text(end + 6, y + BAR - 3, short(rate), size=12, bold=600 if system == "rlsys" else 400))
            if system != "rlsys" and ours:
                x = end + 12 + 6.6 * len(short(rate))
                parts.append(text(x, y + BAR - 3, f"rlsys {ours / rate:.1f}×", size=11, fill=MUTED))
            y += BAR + GAP
        y += GROUP_GAP - GAP
    bottom = y - GROUP_GAP + 8
    grid = [line(scale(tick), TOP - 8, scale(tick), bottom) for tick in scale.ticks()]
    axis = [text(scale(t), bottom + 17, short(t), size=12, fill=MUTED, anchor="middle") for t in scale.ticks()]
    return [*grid, *parts, line(LEFT, TOP - 8, LEFT, bottom, MUTED), *axis], bottom


def lines(entries: list[dict[str, Any]], bottom: float) -> list[str]:
    """The env alone: steps a second over the number of envs, a line for each system."""
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in LABELS}
    for entry in sorted(entries, key=lambda entry: entry["settings"]["num_envs"]):
        for name, figures in entry["systems"].items():
            if rate := fastest(figures):
                points[name].append((entry["settings"]["num_envs"], rate))
    drawn = {name: along for name, along in points.items() if along}
    sizes = sorted({n for along in drawn.values() for n, _ in along})
    y_scale = LogScale([rate for along in drawn.values() for _, rate in along], bottom, TOP - 8)

    def x_of(n: int) -> float:
        return RIGHT + (RIGHT_END - RIGHT) * math.log(n / sizes[0]) / max(math.log(sizes[-1] / sizes[0]), 1e-9)

    parts = [line(RIGHT, y_scale(tick), RIGHT_END, y_scale(tick)) for tick in y_scale.ticks()]
    parts += [text(RIGHT - 10, y_scale(t) + 4, short(t), size=12, fill=MUTED, anchor="end") for t in y_scale.ticks()]
    parts += [text(x_of(n), bottom + 17, binary(n), size=12, fill=MUTED, anchor="middle") for n in sizes]
    for name, along in reversed(drawn.items()):  # rlsys on top
        colour, width = LABELS[name][1], 3 if name == "rlsys" else 2
        path = " ".join(f"{x_of(n):.1f},{y_scale(rate):.1f}" for n, rate in along)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        parts += [
            f'<circle cx="{x_of(n):.1f}" cy="{y_scale(rate):.1f}" r="3.5" fill="{colour}" stroke="#fff"/>'
            for n, rate in along
        ]
    ends = {name: y_scale(along[-1][1]) for name, along in drawn.items()}
    for name, y in spread(ends, 32.0).items():
        title, colour = LABELS[name]
        parts.append(text(RIGHT_END + 12, y, title, size=12, fill=colour, bold=600))
        parts.append(text(RIGHT_END + 12, y + 14, f"{short(drawn[name][-1][1])}", size=11, fill=MUTED))
    return parts


def spread(places: dict[str, float], distance: float) -> dict[str, float]:
    """The same places from top to bottom, moved down as far as they would be closer than `distance`."""
    spaced: dict[str, float] = {}
    last = -math.inf
    for name, y in sorted(places.items(), key=lambda item: item[1]):
        last = spaced[name] = max(y, last + distance)
    return spaced


def legend(names: list[str]) -> Iterator[str]:
    """The systems of the bars, in a row."""
    x = float(LEFT)
    for name in names:
        title, colour = LABELS[name]
        yield f'<rect x="{x:.1f}" y="{TOP - 36}" width="11" height="11" rx="2" fill="{colour}"/>'
        yield text(x + 17, TOP - 26, title, size=12, bold=600 if name == "rlsys" else 400)
        x += 17 + 7.0 * len(title) + 20


def svg(results: dict[str, Any], caption: str) -> str:
    """The whole picture of what is in peers.json."""
    entries = list(results["work"].values())
    training = [e for e in entries if e["kind"] in ("ppo", "dqn") and any(map(fastest, e["systems"].values()))]
    alone = [e for e in entries if e["kind"] == "env" and any(map(fastest, e["systems"].values()))]
    parts, bottom = [], TOP + 300.0
    if training:
        drawn, bottom = bars(training)
        names = [name for name in LABELS if any(fastest(e["systems"].get(name, {})) for e in training)]
        parts += [text(24, 36, "Training on CartPole", size=19, bold=600)]
        parts += [
            text(
                24,
                56,
                "environment steps a second, learning included; in grey: how many times as fast rlsys is",
                fill=MUTED,
            )
        ]
        parts += [*legend(names), *drawn]
    if alone:
        parts += [text(RIGHT - 48, 36, "CartPole alone", size=19, bold=600)]
        parts += [text(RIGHT - 48, 56, "steps a second with random actions, by number of envs", fill=MUTED)]
        parts += lines(alone, bottom)
    height = bottom + 56
    parts.append(text(24, height - 14, caption, size=11, fill=MUTED))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
            ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
            f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )
