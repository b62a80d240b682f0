"""A comparison as tables, as pictures, and as one page of HTML that needs nothing from elsewhere."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rlsys import page
from rlsys.chart import BAND, Axes, Picture, series
from rlsys.compare import Comparison, Estimate, to_text, verdict
from rlsys.page import LEFT, TITLE, WIDTH, html_table, number

PANEL = 190
ROW = 26  # of a group in a chart of intervals

ABOUT = {
    "Learning curves": "Interquartile mean (IQM) of the returns over seeds: the mean without the lowest and highest quarter. "
    "Bands: 95 % bootstrap intervals at each step. Between evaluations runs are straight lines; a curve ends where its first "
    "run ends.",
    "Every seed": "Each pale dot is the value of one run; the strong one is the IQM, the bar its 95 % bootstrap interval.",
    "Over all tasks": "Scores: 0 is what random actions earn, 1 the best that is known. Median and mean are over tasks, of the "
    "means over runs; the optimality gap is how far runs fall short of 1 on average (less is better). Bars: 95 % stratified "
    "bootstrap intervals, in which the runs of each task are drawn anew.",
    "Performance profile": "The share of runs that score more than what is on the x axis; higher is better. Bands: 95 % "
    "bootstrap intervals.",
    "Probability of improvement": "How probably a run of the group beats one of the baseline on the same task; 0.5: like a coin.",
}


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write compare.html, compare.json and each picture as SVG and PNG; returns the paths, the page first."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = pictures(comparison)
    main, data = folder / "compare.html", folder / "compare.json"
    main.write_text(html(comparison, drawn))
    data.write_text(to_text(comparison) + "\n")
    return [main, data, *page.write_pictures(drawn, folder)]


def pictures(c: Comparison) -> dict[str, Picture]:
    """The pictures that there are numbers for, by title."""
    drawn = {"Learning curves": _curves(c), "Every seed": _seeds(c)}
    if c.aggregates:
        drawn |= {"Over all tasks": _aggregates(c), "Performance profile": _profiles(c)}
    if c.against:
        drawn["Probability of improvement"] = _improvement(c)
    return drawn


def _legend(picture: Picture, groups: list[str]) -> float:
    """The groups' names from the top, in rows; returns where it ends."""
    x, y = float(LEFT), 20.0
    for i, group in enumerate(groups):
        wide = 30 + 7.0 * len(group)
        if x > LEFT and x + wide > WIDTH - 20:
            x, y = float(LEFT), y + 20
        picture.line([(x, y - 4), (x + 16, y - 4)], series(i), 3)
        picture.text(x + 22, y, group)
        x += wide + 14
    return y + 12


def _legend_height(groups: list[str]) -> float:
    return _legend(Picture(WIDTH, 1), groups)


def _panels(c: Comparison, height: float) -> tuple[Picture, list[tuple[float, float, float]]]:
    """A picture with the legend and a panel a task."""
    picture, places = page.panels(len(c.tasks), height, _legend_height(c.groups))
    _legend(picture, c.groups)
    return picture, places


def _curves(c: Comparison) -> Picture:
    picture, panels = _panels(c, PANEL + 48)
    for (left, up, width), (task, cells) in zip(panels, c.tasks.items(), strict=True):
        curves = {group: cell.curve for group, cell in cells.items() if len(cell.curve.steps)}
        bounds = np.concatenate([np.concatenate([k.iqm, k.low, k.high]) for k in curves.values()] or [np.zeros(1)])
        bounds = bounds[np.isfinite(bounds)] if np.isfinite(bounds).any() else np.zeros(1)
        pad = 0.05 * float(np.ptp(bounds))
        end = max((float(k.steps[-1]) for k in curves.values()), default=1.0)
        axes = Axes(picture, left, up, width, PANEL, (0.0, end), (float(bounds.min()) - pad, float(bounds.max()) + pad))
        picture.text(left, up - 12, task, bold=True)
        picture.text(left + width, up + PANEL + 32, "environment steps", size=11, role="muted", anchor="end")
        for group, curve in curves.items():
            role = series(c.groups.index(group))
            band = axes.at(curve.steps, curve.low) + axes.at(curve.steps, curve.high)[::-1]
            if band:
                picture.area(band, role, BAND)
        for group, curve in curves.items():
            picture.line(axes.at(curve.steps, curve.iqm), series(c.groups.index(group)), 2)
    return picture


def _interval(picture: Picture, axes: Axes, y: float, found: Estimate, role: str) -> None:
    page.interval_mark(picture, axes, y, found.value, found.interval, role)


def _seeds(c: Comparison) -> Picture:
    inside = ROW * len(c.groups)
    picture, panels = _panels(c, inside + 34)
    for (left, up, width), (task, cells) in zip(panels, c.tasks.items(), strict=True):
        values = np.concatenate([cell.values for cell in cells.values()])
        pad = 0.05 * float(np.ptp(values))
        axes = Axes(picture, left, up, width, inside, (float(values.min()) - pad, float(values.max()) + pad))
        picture.text(left, up - 12, task, bold=True)
        for group, cell in cells.items():
            k = c.groups.index(group)
            y = up + ROW * (k + 0.5)
            for value in cell.values:
                picture.dot(axes.x(value), y, series(k), 3.5, 0.45)
            _interval(picture, axes, y, cell.iqm, series(k))
    return picture


def _aggregates(c: Comparison) -> Picture:
    names = list(next(iter(c.aggregates.values())))
    top, inside = _legend_height(c.groups), ROW * len(c.groups)
    picture = Picture(WIDTH, top + TITLE + inside + 34)
    _legend(picture, c.groups)
    width = (WIDTH - LEFT - 24 - (len(names) - 1) * 36) / len(names)
    for i, name in enumerate(names):
        left, up = LEFT + i * (width + 36), top + TITLE
        found = [c.aggregates[group][name] for group in c.groups]
        ends = [end for one in found for end in (one.interval or [one.value])]
        pad = 0.08 * (max(ends) - min(ends))
        axes = Axes(picture, left, up, width, inside, (min(ends) - pad, max(ends) + pad))
        picture.text(left, up - 12, name, bold=True)
        for k, one in enumerate(found):
            _interval(picture, axes, up + ROW * (k + 0.5), one, series(k))
    return picture


def _profiles(c: Comparison) -> Picture:
    top = _legend_height(c.groups)
    picture = Picture(WIDTH, top + 16 + 240 + 48)
    _legend(picture, c.groups)
    axes = Axes(
        picture, LEFT, top + 16, WIDTH - LEFT - 24, 240, (float(c.thresholds[0]), float(c.thresholds[-1])), (0.0, 1.0)
    )
    picture.text(axes.right, axes.bottom + 34, "score", size=11, role="muted", anchor="end")
    for k, group in enumerate(c.groups):
        middle, low, high = c.profiles[group]
        band = axes.at(c.thresholds, low) + axes.at(c.thresholds, high)[::-1]
        if band:
            picture.area(band, series(k), BAND)
        picture.line(axes.at(c.thresholds, middle), series(k), 2)
    return picture


def _improvement(c: Comparison) -> Picture:
    picture = Picture(WIDTH, 20 + ROW * len(c.against) + 34)
    left = min(40 + 7.0 * max(map(len, c.against)), WIDTH / 2)
    axes = Axes(picture, left, 16, WIDTH - left - 24, ROW * len(c.against), (0.0, 1.0))
    picture.line([(axes.x(0.5), axes.top), (axes.x(0.5), axes.bottom)], "muted", 1.5)
    for i, (group, against) in enumerate(c.against.items()):
        y = 16 + ROW * (i + 0.5)
        picture.text(left - 12, y + 4, group, anchor="end")
        _interval(picture, axes, y, against.improvement, series(c.groups.index(group)))
    return picture


# -- tables, for the terminal and the page -------------------------------------------------------------------------------


def estimate(found: Estimate) -> str:
    return page.estimate(found.value, found.interval)


def tables(c: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Everything in rows, by title."""
    made = {
        f"{task}: returns": [
            {
                "group": group,
                "seeds": len(cell.values),
                "IQM (95 % interval)": estimate(cell.iqm),
                "mean (95 % interval)": estimate(cell.mean),
                "lowest": number(float(cell.values.min())),
                "highest": number(float(cell.values.max())),
            }
            for group, cell in cells.items()
        ]
        for task, cells in c.tasks.items()
    }
    if c.aggregates:
        title = f"scores (0 random, 1 the best known) over {', '.join(c.compared)}"
        made[title] = [
            {"group": group, **{name: estimate(one) for name, one in found.items()}}
            for group, found in c.aggregates.items()
        ]
    if c.against:
        made[f"next to {c.baseline}"] = [
            {
                "group": group,
                "probability of improvement": estimate(against.improvement),
                f"mean {c.unit}, difference": ""
                if against.difference is None
                else estimate(Estimate(against.difference.value, against.difference.interval)),
                "settled?": verdict(against),
            }
            for group, against in c.against.items()
        ]
    return made


def html(c: Comparison, drawn: dict[str, Picture]) -> str:
    """The page, with the pictures in it."""
    parts = [f"<h1>Comparison</h1><p>{escape(', '.join(c.groups))}<br>Compared by: {escape(c.value)}.</p>"]
    if c.notes:
        parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in c.notes) + "</ul>")
    shown = [f"<h2>{escape(title)}</h2>{html_table(rows)}" for title, rows in tables(c).items()]
    parts += shown[len(c.tasks) :][::-1]  # the verdict first, each task's returns last
    parts += [page.section(title, ABOUT[title], picture) for title, picture in drawn.items()]
    return page.html("Comparison", [*parts, *shown[: len(c.tasks)]])
