"""The picture of peers.json, as SVG: training on the left, the env alone on the right, both on logarithmic scales."""

import math
from typing import Any

from peers import fastest

from rlsys.chart import Picture

LABELS = {
    "rlsys": ("rlsys", "series0"),
    "rejax": ("rejax (JAX)", "series2"),
    "sb3": ("stable-baselines3", "series4"),
    "gymnax": ("gymnax (JAX)", "series5"),
    "gymnasium": ("Gymnasium", "series3"),
    "envpool": ("EnvPool", "series1"),
    "c": ("a plain C kernel", "series7"),
    "puffer": ("PufferLib (C)", "series6"),
}
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


def bars(picture: Picture, entries: list[dict[str, Any]]) -> float:
    """Training: a group of bars for each piece of work; returns where the last one ends."""
    groups = [{name: fastest(figures) for name, figures in entry["systems"].items()} for entry in entries]
    scale = LogScale([rate for group in groups for rate in group.values() if rate], LEFT, LEFT_END)
    drawn = [{name: group[name] for name in LABELS if group.get(name)} for group in groups]
    height = [len(rates) * (BAR + GAP) - GAP for rates in drawn]
    bottom = TOP + sum(height) + (len(drawn) - 1) * GROUP_GAP + 8.0
    for tick in scale.ticks():
        picture.line([(scale(tick), TOP - 8), (scale(tick), bottom)], "grid")
        picture.text(scale(tick), bottom + 17, short(tick), role="muted", anchor="middle")
    y = float(TOP)
    for entry, rates, high in zip(entries, drawn, height, strict=True):
        name, *details = label(entry)
        baseline = y + high / 2 + 5 - 7 * len(details)
        picture.text(LEFT - 14, baseline, name, size=13, anchor="end", bold=True)
        for i, words in enumerate(details, 1):
            picture.text(LEFT - 14, baseline + 14 * i, words, anchor="end", size=11, role="muted")
        for system, rate in rates.items():
            end, ours = scale(rate), rates.get("rlsys")
            picture.area([(LEFT, y), (end, y), (end, y + BAR), (LEFT, y + BAR)], LABELS[system][1])
            picture.text(end + 6, y + BAR - 3, short(rate), bold=system == "rlsys")
            if system != "rlsys" and ours:
                x = end + 12 + 6.6 * len(short(rate))
                picture.text(x, y + BAR - 3, f"rlsys {ours / rate:.1f}×", size=11, role="muted")
            y += BAR + GAP
        y += GROUP_GAP - GAP
    picture.line([(LEFT, TOP - 8), (LEFT, bottom)], "muted")
    return bottom


def lines(picture: Picture, entries: list[dict[str, Any]], bottom: float) -> None:
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

    for tick in y_scale.ticks():
        picture.line([(RIGHT, y_scale(tick)), (RIGHT_END, y_scale(tick))], "grid")
        picture.text(RIGHT - 10, y_scale(tick) + 4, short(tick), role="muted", anchor="end")
    for n in sizes:
        picture.text(x_of(n), bottom + 17, binary(n), role="muted", anchor="middle")
    for name, along in reversed(drawn.items()):  # rlsys on top
        places = [(x_of(n), y_scale(rate)) for n, rate in along]
        picture.line(places, LABELS[name][1], 3 if name == "rlsys" else 2)
        for x, y in places:
            picture.dot(x, y, LABELS[name][1], 3.5)
    ends = {name: y_scale(along[-1][1]) for name, along in drawn.items()}
    for name, y in spread(ends, 32.0).items():
        title, role = LABELS[name]
        picture.text(RIGHT_END + 12, y, title, role=role, bold=True)
        picture.text(RIGHT_END + 12, y + 14, short(drawn[name][-1][1]), size=11, role="muted")


def spread(places: dict[str, float], distance: float) -> dict[str, float]:
    """The same places from top to bottom, moved down as far as they would be closer than `distance`."""
    spaced: dict[str, float] = {}
    last = -math.inf
    for name, y in sorted(places.items(), key=lambda item: item[1]):
        last = spaced[name] = max(y, last + distance)
    return spaced


def legend(picture: Picture, names: list[str]) -> None:
    """The systems of the bars, in a row."""
    x, y = float(LEFT), TOP - 36.0
    for name in names:
        title, role = LABELS[name]
        picture.area([(x, y), (x + 11, y), (x + 11, y + 11), (x, y + 11)], role)
        picture.text(x + 17, y + 10, title, bold=name == "rlsys")
        x += 17 + 7.0 * len(title) + 20


def svg(results: dict[str, Any], caption: str) -> str:
    """The whole picture of what is in peers.json."""
    entries = list(results["work"].values())
    training = [e for e in entries if e["kind"] in ("ppo", "dqn") and any(map(fastest, e["systems"].values()))]
    alone = [e for e in entries if e["kind"] == "env" and any(map(fastest, e["systems"].values()))]
    picture, bottom = Picture(WIDTH, 0), TOP + 300.0
    if training:
        names = [name for name in LABELS if any(fastest(e["systems"].get(name, {})) for e in training)]
        words = "environment steps a second, learning included; in grey: how many times as fast rlsys is"
        picture.text(24, 36, "Training on CartPole", size=19, bold=True)
        picture.text(24, 56, words, size=13, role="muted")
        legend(picture, names)
        bottom = bars(picture, training)
    if alone:
        picture.text(RIGHT - 48, 36, "CartPole alone", size=19, bold=True)
        words = "steps a second with random actions, by number of envs"
        picture.text(RIGHT - 48, 56, words, size=13, role="muted")
        lines(picture, alone, bottom)
    picture.height = bottom + 56
    picture.text(24, picture.height - 14, caption, size=11, role="muted")
    return picture.svg()
