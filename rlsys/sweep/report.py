"""A sweep's findings as tables, as pictures, and as one page of HTML that needs nothing from elsewhere."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from html import escape
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlsys import page
from rlsys.chart import LETTER, VIRIDIS, Axes, Picture, Scale, cut, ramp, series
from rlsys.page import LEFT, WIDTH, estimate, html_table, number
from rlsys.sweep.findings import Findings, to_text
from rlsys.sweep.spec import Parameter, centre
from rlsys.sweep.study import Row
from rlsys.sweep.view import shown_params

PANEL, BELOW = 190, 40  # height of a panel, and of what stands below it
ROW = 22  # of a bar, or of a trial
SHOWN = 10  # trials in the terminal's table and in the chart of seeds
CELLS = 40  # of a contour, along a number
BEST_OF_ONE, BEST_OF_SEVERAL = "the best trials", "the Pareto front"
DOT, BEST = 3.0, 5.5  # radius

ABOUT = {
    "Importance": "Each key's share of what tells the best tenth of the finished trials (at least five) from all of them: "
    "PED-ANOVA (Watanabe, Bansal and Hutter 2023). It says which keys are worth choosing well within the values searched, not "
    "which value to choose; and of few trials it is a rough guess.",
    "History": "Each dot is a finished trial, in the order in which they ended; the line is the best until then.",
    "Pareto front": "Each dot is a finished trial; those of the front, which no other beats in all objectives, are numbered.",
    "Slices": "Each dot is a finished trial. Pruned and failed trials have no outcome: where they were tried is marked below.",
    "Parallel coordinates": "Each line is a trial; the darker (on dark paper: the brighter), the better its rank by the first "
    "objective. Grey lines are pruned trials, which have no outcome.",
    "Contour": "The two most important keys, the others being whatever they were: straight lines between trials for numbers, "
    "means for choices. Dots are the trials.",
    "Over seeds": "The best trials: each pale dot is a seed, the strong one what the trial is judged by (the interquartile mean; "
    "of fewer than four seeds the mean), the bar its 95 % bootstrap interval.",
}


def write(findings: Findings, out: Path) -> list[Path]:
    """Write the page, if `out` ends in .html; else a folder with report.html, report.json and each picture as SVG and PNG.

    Returns the paths, the page first.
    """
    drawn = pictures(findings)
    if out.suffix == ".html":
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(html(findings, drawn))
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    main, data = out / "report.html", out / "report.json"
    main.write_text(html(findings, drawn))
    data.write_text(to_text(findings) + "\n")
    return [main, data, *page.write_pictures(drawn, out)]


def pictures(f: Findings) -> dict[str, Picture]:
    """The pictures that there are numbers for, by title; those of one objective are called "Slices: score" if there are more."""
    drawn = {}
    if f.importances:
        drawn["Importance"] = _importance(f)
    drawn["History"] = _history(f)
    if len(f.objectives) > 1:
        drawn["Pareto front"] = _front(f)
    for i, name in enumerate(f.objectives):
        of = f": {name}" if len(f.objectives) > 1 else ""
        drawn[f"Slices{of}"] = _slices(f, i)
    drawn["Parallel coordinates"] = _parallel(f)
    for i, name in enumerate(f.objectives):
        of = f": {name}" if len(f.objectives) > 1 else ""
        if name in f.importances and len(f.space) > 1:
            drawn[f"Contour{of}"] = _contour(f, i)
    if len(f.seeds) > 1:
        drawn["Over seeds"] = _seeds(f)
    return drawn


# -- numbers of trials ---------------------------------------------------------------------------------------------------


def names(keys: Sequence[str]) -> dict[str, str]:
    """What keys are called in pictures: by their last word, if no other has it."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {key: word if last[word := key.rpartition(".")[2]] == 1 else key for key in keys}


def scale(parameter: Parameter) -> Scale:
    return Scale(parameter.low, parameter.high, parameter.log, tuple(parameter.choices))


def coordinate(parameter: Parameter, value: Any) -> float:
    """A value's number on its scale."""
    return float(parameter.choices.index(value) if parameter.choices else value)


def _values(f: Findings, objective: int) -> NDArray[np.float64]:
    return np.array([row.values[objective] for row in f.finished()])  # type: ignore[index]


def _range(values: NDArray, below: float = 0.05) -> tuple[float, float]:
    """From the lowest to the highest, with some room."""
    if not len(values):
        return 0.0, 1.0
    room = float(np.ptp(values))
    return float(values.min()) - below * room, float(values.max()) + 0.05 * room


def _tip(row: Row, text: str = "") -> str:
    return f"trial {row.number}{text and ': ' + text}  {shown_params(row)}"


def _outcome(f: Findings, row: Row) -> str:
    return ", ".join(
        f"{number(value)} {name}" for value, name in zip(row.values or [], f.objectives, strict=bool(row.values))
    )


# -- pictures ------------------------------------------------------------------------------------------------------------


def _legend(picture: Picture, marks: dict[str, str]) -> float:
    """What marks mean, from the top; returns where it ends. marks: name -> "dot role", "best role", "tick role", "cross role"."""
    x = float(LEFT)
    for words, mark in marks.items():
        kind, role = mark.split()
        _mark(picture, kind, x + 6, 16, role)
        picture.text(x + 18, 20, words)
        x += 40 + LETTER * len(words)
    return 30.0


def _mark(picture: Picture, kind: str, x: float, y: float, role: str, tip: str = "") -> None:
    if kind == "tick":
        picture.line([(x, y - 4), (x, y + 4)], role, 1.5, tip)
    elif kind == "cross":
        picture.line([(x - 3, y - 3), (x + 3, y + 3)], role, 1.5, tip)
        picture.line([(x - 3, y + 3), (x + 3, y - 3)], role, 1.5, tip)
    else:
        picture.dot(x, y, role, BEST if kind == "best" else DOT, tip=tip)


def _marks(f: Findings) -> dict[str, str]:
    """The legend of charts of trials."""
    found = {"finished": "dot series0", "the front" if len(f.objectives) > 1 else "the best": "best series1"}
    found |= {"pruned": "tick muted"} if f.counts["pruned"] else {}
    return found | ({"failed": "cross series1"} if f.counts["failed"] else {})


def _place(f: Findings, axes: Axes, row: Row, x: float, y: float | None) -> None:
    """A trial in a chart: its outcome, or a mark at the bottom."""
    place = axes.x(x)
    if y is not None:
        is_best = row.number in f.best
        _mark(
            axes.picture,
            "best" if is_best else "dot",
            place,
            axes.y(y),
            series(is_best),
            _tip(row, _outcome(f, row)),
        )
    elif row.state == "pruned":
        _mark(axes.picture, "tick", place, axes.bottom - 6, "muted", _tip(row, "pruned"))
    elif row.state == "failed":
        _mark(axes.picture, "cross", place, axes.bottom - 6, series(1), _tip(row, "failed"))


def _importance(f: Findings) -> Picture:
    called = list(f.importances)
    each, left = ROW * len(called) + 8, min(30 + 7.0 * max(map(len, f.space)), WIDTH / 2)
    top = 34.0 if len(called) > 1 else 8.0
    picture = Picture(WIDTH, top + each * len(f.space) + 30)
    for i, name in enumerate(called if len(called) > 1 else []):
        x = left + 160 * i
        picture.area([(x, 10), (x + 14, 10), (x + 14, 22), (x, 22)], series(i))
        picture.text(x + 22, 20, name)
    most = max(max(shares.values()) for shares in f.importances.values())
    axes = Axes(picture, left, top, WIDTH - left - 70, each * len(f.space), (0.0, most))
    for k, key in enumerate(f.keys):
        y = top + each * k + 4
        picture.text(left - 12, y + each / 2, key, anchor="end")
        for i, shares in enumerate(f.importances.values()):
            low, high, end = y + ROW * i + 2, y + ROW * (i + 1) - 2, axes.x(shares[key])
            picture.area([(left, low), (end, low), (end, high), (left, high)], series(i), 0.85)
            picture.text(end + 8, high - 5, f"{100 * shares[key]:.0f} %", role="muted")
    return picture


def _history(f: Findings) -> Picture:
    marks = _marks(f)
    picture, places = page.panels(2 * len(f.objectives), PANEL + BELOW, 30.0, columns=2)
    _legend(picture, marks)
    rows = {row.number: row for row in f.trials}
    for i, (name, points) in enumerate(f.history.items()):
        longest = max((point.seconds for point in points), default=0.0)
        unit, seconds = next((u for u in (("hours", 3600), ("minutes", 60)) if longest >= 2 * u[1]), ("seconds", 1))
        values = np.array([point.value for point in points if point.value is not None])
        for (left, up, width), words, xs in zip(
            places[2 * i :],
            ("trials ended", f"{unit} since the first began"),
            ([float(point.ended) for point in points], [point.seconds / seconds for point in points]),
            strict=False,
        ):
            axes = Axes(picture, left, up, width, PANEL, (0.0, max(xs, default=1.0)), _range(values, 0.15))
            picture.text(
                left, up - 12, f"{name} ({'higher' if f.better[i] == 'maximize' else 'lower'} is better)", bold=True
            )
            picture.text(left + width, up + PANEL + 32, words, size=11, role="muted", anchor="end")
            path: list[tuple[float, float]] = []
            for x, point in zip(xs, points, strict=True):
                if point.best is not None:
                    path += [(axes.x(x), path[-1][1])] if path else []
                    path.append((axes.x(x), axes.y(point.best)))
            picture.line(path, series(1), 2)
            for x, point in zip(xs, points, strict=True):
                _place(f, axes, rows[point.number], x, point.value)
    return picture


def _slices(f: Findings, objective: int) -> Picture:
    picture, places = page.panels(len(f.space), PANEL + BELOW, 30.0)
    _legend(picture, _marks(f))
    bounds = _range(_values(f, objective), 0.15)
    shares = f.importances.get(f.objectives[objective], {})
    for (left, up, width), key in zip(places, sorted(f.space, key=lambda key: -shares.get(key, 0.0)), strict=True):
        parameter = f.space[key]
        axes = Axes(picture, left, up, width, PANEL, scale(parameter), bounds)
        picture.text(left, up - 12, cut(key, width - 50), bold=True)
        if key in shares:
            picture.text(left + width, up - 12, f"{100 * shares[key]:.0f} %", role="muted", anchor="end")
        shown = sorted((row for row in f.trials if key in row.params), key=lambda row: row.number in f.best)
        for row in shown:
            x = coordinate(parameter, row.params[key])
            if parameter.choices:  # side by side, the earlier to the left, so that none hides another
                x += 0.6 * ((row.number + 0.5) / len(f.trials) - 0.5)
            _place(f, axes, row, x, row.values[objective] if row.values else None)
    return picture


def _parallel(f: Findings) -> Picture:
    keys, called, top, height = f.keys, names(f.keys), 46.0, 260.0
    picture = Picture(WIDTH, top + height + 24)
    titles = [*(called[key] for key in keys), *f.objectives]
    scales = [
        *(scale(f.space[key]) for key in keys),
        *(Scale(*_range(_values(f, i))) for i in range(len(f.objectives))),
    ]
    gap = (WIDTH - 2 * LEFT - 40) / max(len(scales) - 1, 1)
    xs = [LEFT + 20 + gap * i for i in range(len(scales))]

    def path(row: Row) -> list[tuple[float, float]]:
        found = [coordinate(f.space[key], row.params[key]) for key in keys] + (row.values or [])
        return [(x, top + height * (1 - one.share(value))) for x, one, value in zip(xs, scales, found, strict=False)]

    ranked = f.by_merit()[::-1]  # the best on top
    for row in f.trials:
        if row.state == "pruned" and set(keys) <= set(row.params):
            picture.line(path(row), "grid", 1, _tip(row, "pruned"))
    for rank, row in enumerate(ranked):
        is_best = rank == len(ranked) - 1
        role = ramp(rank / max(len(ranked) - 1, 1))
        picture.line(path(row), role, 3 if is_best else 1.25, _tip(row, _outcome(f, row)))
    for x, title, one in zip(xs, titles, scales, strict=True):
        picture.line([(x, top), (x, top + height)], "muted")
        picture.text(x, top - 16, cut(title, gap - 6), anchor="middle", bold=True)
        for tick, name in one.ticks():
            place, words = top + height * (1 - one.share(tick)), cut(name, gap - 20)
            end = x - 8 - LETTER * len(words)
            picture.area([(x - 4, place - 7), (end, place - 7), (end, place + 7), (x - 4, place + 7)], "paper", 0.75)
            picture.line([(x - 3, place), (x + 3, place)], "muted")
            picture.text(x - 6, place + 4, words, size=11, role="muted", anchor="end")
    return picture


def _front(f: Findings) -> Picture:
    pairs = list(combinations(range(len(f.objectives)), 2))
    height = 320
    picture, places = page.panels(len(pairs), height + BELOW, 30.0)
    _legend(picture, {"finished": "dot series0", "the front": "best series1"})
    for (left, up, width), (i, k) in zip(places, pairs, strict=True):
        axes = Axes(picture, left, up, width, height, _range(_values(f, i)), _range(_values(f, k)))
        way = {"maximize": "higher", "minimize": "lower"}
        picture.text(left, up - 12, f"{f.objectives[k]} ({way[f.better[k]]} is better)", bold=True)
        words = f"{f.objectives[i]} ({way[f.better[i]]} is better)"
        picture.text(left + width, up + height + 32, words, size=11, role="muted", anchor="end")
        if len(pairs) == 1:
            picture.line([(axes.x(x), axes.y(y)) for x, y in staircase(f)], series(1), 1.5)
        for row in sorted(f.finished(), key=lambda row: row.number in f.best):
            x, y = row.values[i], row.values[k]  # type: ignore[index]
            _place(f, axes, row, x, y)
            if row.number in f.best:
                picture.text(axes.x(x) + 8, axes.y(y) - 6, str(row.number), size=11)
    return picture


def staircase(f: Findings) -> list[tuple[float, float]]:
    """The border of what the front of two objectives beats: its trials, and between two of them the worse of both."""
    worse = [min if way == "maximize" else max for way in f.better]
    front = sorted((row.values[0], row.values[1]) for row in f.finished() if row.number in f.best)  # type: ignore[index]
    path = front[:1]
    for last, here in pairwise(front):
        path += [(worse[0](last[0], here[0]), worse[1](last[1], here[1])), here]
    return path


def _contour(f: Findings, objective: int) -> Picture:
    name, (across, up) = f.objectives[objective], (LEFT + 60.0, 30.0)
    shares = f.importances[name]
    first, second = sorted(f.space, key=lambda key: -shares[key])[:2]
    width, height = 700.0, 380.0
    picture = Picture(WIDTH, up + height + BELOW + 8)
    x, y = f.space[first], f.space[second]
    rows, values = f.finished(), _values(f, objective)
    low, high = float(values.min()), float(values.max())
    spread = high - low or 1.0
    axes = Axes(picture, across, up, width, height, scale(x), scale(y))
    picture.text(across, up - 12, cut(second, width), bold=True)
    picture.text(across + width, up + height + 34, first, anchor="end", bold=True)
    points = np.array([[coordinate(x, r.params[first]), coordinate(y, r.params[second])] for r in rows])
    grid = surface(scale(x), scale(y), points, values)
    wide, tall = width / grid.shape[1], height / grid.shape[0]
    for i, line in enumerate(grid):
        roles = [ramp((value - low) / spread) if np.isfinite(value) else "" for value in line]
        begin = 0
        for end in range(1, len(roles) + 1):  # neighbours of one colour are one mark
            if end == len(roles) or roles[end] != roles[begin]:
                if roles[begin]:
                    a, b = across + wide * begin, min(across + wide * end + 0.5, across + width)
                    top, bottom = up + height - tall * (i + 1), up + height - tall * i
                    picture.area([(a, top - 0.5), (b, top - 0.5), (b, bottom), (a, bottom)], roles[begin])
                begin = end
    for row, (px, py) in zip(rows, points, strict=True):
        is_best = row.number in f.best
        picture.dot(axes.x(px), axes.y(py), "paper", BEST + 1.5 if is_best else DOT + 1)
        picture.dot(
            axes.x(px),
            axes.y(py),
            series(1) if is_best else "ink",
            BEST if is_best else DOT,
            tip=_tip(row, _outcome(f, row)),
        )
    bar, each = across + width + 40, height / len(VIRIDIS)
    for k in range(len(VIRIDIS)):
        base = up + height - each * k
        picture.area([(bar, base - each), (bar + 16, base - each), (bar + 16, base), (bar, base)], f"ramp{k}")
    picture.text(bar + 24, up + 10, number(high))
    picture.text(bar + 24, up + height, number(low))
    picture.text(bar, up - 12, name, bold=True)
    return picture


def surface(x: Scale, y: Scale, points: NDArray, values: NDArray) -> NDArray[np.float64]:
    """The values over two keys, in even cells of their scales: [rows from the bottom, columns], NaN where nothing is known.

    points: [n, 2], numbers on the scales. Between numbers straight lines (triangles) from trial to trial; of a choice each
    has a row or column of its own.
    """
    sides = [len(one.names) or CELLS for one in (y, x)]
    places = np.array([[one.share(number) for one, number in zip((x, y), point, strict=True)] for point in points])
    places, index = np.unique(np.round(places, 9), axis=0, return_inverse=True)
    values = np.array([values[index == i].mean() for i in range(len(places))])  # trials of the same values: their mean
    grid = np.full(sides, np.nan)
    centres = [(np.arange(side) + 0.5) / side for side in sides]
    if x.names and y.names:
        for (a, b), value in zip(places, values, strict=True):
            grid[int(b * sides[0]), int(a * sides[1])] = value
    elif x.names or y.names:
        choice, along, lines = (0, 1, grid.T) if x.names else (1, 0, grid)
        count = len(lines)
        for i, line in enumerate(lines):
            mine = (places[:, choice] * count).astype(int) == i
            if mine.any():
                known, at = places[mine, along], centres[1 - along] if x.names else centres[1]
                order = np.argsort(known)
                line[:] = np.interp(at, known[order], values[mine][order], left=np.nan, right=np.nan)
    else:
        from scipy.interpolate import LinearNDInterpolator
        from scipy.spatial import QhullError

        with contextlib.suppress(QhullError, ValueError):  # fewer than three trials, or all on one line
            grid[:] = LinearNDInterpolator(places, values)(*np.meshgrid(centres[1], centres[0]))
    return grid


def _seeds(f: Findings) -> Picture:
    shown = shown_trials(f)
    inside = ROW * len(shown)
    picture, places = page.panels(len(f.objectives), inside + BELOW)
    for i, ((left, up, width), name) in enumerate(zip(places, f.objectives, strict=True)):
        per_seed = [np.array([result[name] for result in row.seeds.values()], np.float64) for row in shown]
        axes = Axes(picture, left + 10, up, width - 10, inside, _range(np.concatenate(per_seed or [np.zeros(0)])))
        picture.text(left, up - 12, name, bold=True)
        for k, (row, values) in enumerate(zip(shown, per_seed, strict=True)):
            y, role = up + ROW * (k + 0.5), series(row.number in f.best)
            picture.text(left, y + 4, f"trial {row.number}", size=11, anchor="end")
            for value in values:
                picture.dot(axes.x(float(value)), y, role, DOT, 0.45)
            page.interval_mark(picture, axes, y, float(centre(values)), f.intervals[row.number][i], role)
    return picture


# -- tables, for the terminal and the page -------------------------------------------------------------------------------


def shown_trials(f: Findings) -> list[Row]:
    """The front, or the best trials."""
    by_merit = f.by_merit()
    return [row for row in by_merit if row.number in f.best] if len(f.objectives) > 1 else by_merit[:SHOWN]


def tables(f: Findings) -> dict[str, list[dict[str, Any]]]:
    """Importances and the best trials in rows, by title."""
    made: dict[str, list[dict[str, Any]]] = {}
    if f.importances:
        made["importance (PED-ANOVA)"] = [
            {"key": key, **{name: f"{100 * shares[key]:.0f} %" for name, shares in f.importances.items()}}
            for key in f.keys
        ]
    if rows := shown_trials(f):
        made[BEST_OF_SEVERAL if len(f.objectives) > 1 else BEST_OF_ONE] = [_shown(f, row) for row in rows]
    return made


def _shown(f: Findings, row: Row) -> dict[str, Any]:
    intervals = f.intervals[row.number]
    tests = [test for test in f.tests[row.number] if test is not None]
    return {
        "trial": row.number,
        **{
            f"{name} (95 % interval)": estimate(value, interval)
            for name, value, interval in zip(f.objectives, row.values or [], intervals, strict=True)
        },
        "test split": number(float(centre(tests))) if tests else "",
        "values": shown_params(row),
    }


def summary(f: Findings) -> str:
    """The trials by state: "24 finished, 3 pruned"."""
    return ", ".join(f"{count} {state}" for state, count in f.counts.items() if count)


def html(f: Findings, drawn: dict[str, Picture]) -> str:
    """The page, with the pictures in it."""
    seeds = f"{len(f.seeds)} seed{'s' * (len(f.seeds) != 1)}"
    how = f"{summary(f)}. Sampler {f.sampler}, pruner {f.pruner}, {seeds} a trial."
    goal = ", ".join(f"{name} ({way})" for name, way in zip(f.objectives, f.better, strict=True))
    parts = [f"<h1>{escape(f.name)}</h1><p>{escape(how)}<br>Objective: {escape(goal)}.</p>"]
    if f.notes:
        parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in f.notes) + "</ul>")
    title = BEST_OF_SEVERAL if len(f.objectives) > 1 else BEST_OF_ONE
    if rows := tables(f).get(title):
        parts.append(f"<h2>{title[0].upper()}{title[1:]}</h2>{html_table(rows)}")
    if f.commands:
        typed = "\n".join(
            (f"# trial {number_}\n" if len(f.commands) > 1 else "") + text for number_, text in f.commands.items()
        )
        parts.append(f"<h2>Train it again</h2><pre>{escape(typed)}</pre>")
    for title, picture in drawn.items():
        parts.append(page.section(title, ABOUT[title.partition(":")[0]], picture))
    parts.append(f"<h2>All trials</h2>{html_table([_row(f, row) for row in f.trials])}")
    return page.html(f.name, parts)


def _row(f: Findings, row: Row) -> dict[str, Any]:
    error = (row.error or "").strip().splitlines()
    values = [number(value) for value in row.values] if row.values else [""] * len(f.objectives)
    return {
        "trial": row.number,
        "state": row.state,
        **dict(zip(f.objectives, values, strict=True)),
        "seeds": f"{len(row.seeds)}/{len(f.seeds)}",
        "took": "" if row.seconds is None else f"{row.seconds:.1f} s",
        "values": shown_params(row),
        "what went wrong": error[-1] if error else "",
    }
