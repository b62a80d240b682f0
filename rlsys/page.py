"""What every page of pictures is made of: panels side by side, intervals, tables, and one HTML that needs nothing else."""

from html import escape
from pathlib import Path
from typing import Any

from rlsys.chart import FONT, Axes, Picture, dark_style

COLUMNS, WIDTH = 3, 1080
LEFT, GAP, TITLE = 64, 70, 34  # of panels


def panels(
    count: int, height: float, top: float = 0.0, columns: int = COLUMNS
) -> tuple[Picture, list[tuple[float, float, float]]]:
    """A picture with room for `count` panels below `top`, and each panel's left, top (below its title) and width.

    height: of a panel, with what stands below it.
    """
    columns = min(count, columns)
    rows, each, width = -(-count // columns), TITLE + height, (WIDTH - LEFT - 24 - (columns - 1) * GAP) / columns
    at = (divmod(i, columns) for i in range(count))
    places = [(LEFT + column * (width + GAP), top + row * each + TITLE, width) for row, column in at]
    return Picture(WIDTH, top + rows * each), places


def interval_mark(
    picture: Picture, axes: Axes, y: float, value: float, interval: list[float] | None, role: str
) -> None:
    """An estimate as a dot, and its interval as a bar behind it."""
    if interval:
        low, high = axes.x(interval[0]), axes.x(interval[1])
        picture.area([(low, y - 5), (high, y - 5), (high, y + 5), (low, y + 5)], role, 0.35)
    picture.dot(axes.x(value), y, role, 4.5)


def number(value: float) -> str:
    """Four digits: 0.9132, 496.5, -4738."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def estimate(value: float, interval: list[float] | None) -> str:
    if interval is None:
        return number(value)
    return f"{number(value)} ({number(interval[0])} to {number(interval[1])})"


def write_pictures(drawn: dict[str, Picture], folder: Path) -> list[Path]:
    """Write each picture as SVG and PNG, named after its title; returns the paths."""
    paths = []
    for title, picture in drawn.items():
        name = "-".join("".join(letter if letter.isalnum() else " " for letter in title.lower()).split())
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        svg.write_text(picture.svg())
        picture.png(png)
        paths += [svg, png]
    return paths


def section(title: str, about: str, picture: Picture) -> str:
    """A picture on the page, with its heading and what it shows."""
    return f"<h2>{escape(title)}</h2><p>{escape(about)}</p><figure>{picture.svg(alone=False)}</figure>"


def html_table(rows: list[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = ["".join(f"<td>{escape(str(value))}</td>" for value in row.values()) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def html(title: str, parts: list[str]) -> str:
    """The page: no scripts, light and dark."""
    style = (
        f"body{{font:15px/1.5 {FONT};max-width:{WIDTH}px;margin:32px auto;padding:0 24px;background:#fff;color:#1f2328}}"
        "h1{font-size:26px;margin:0}h2{font-size:18px;margin:36px 0 6px}p,li{color:#636c76;margin:4px 0}"
        "figure{margin:12px 0;overflow-x:auto}svg{max-width:100%;height:auto}"
        "pre{background:#f6f8fa;padding:10px 14px;border-radius:6px;overflow-x:auto;font-size:13px}"
        "table{border-collapse:collapse;display:block;overflow-x:auto;font-variant-numeric:tabular-nums}"
        "th,td{text-align:left;padding:5px 22px 5px 0;border-bottom:1px solid #e6e8eb}th{font-weight:600}"
        "@media (prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}p,li{color:#9198a1}"
        "pre{background:#161b22}th,td{border-color:#262c36}}" + dark_style()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body>\n{chr(10).join(parts)}\n</body></html>\n"
    )
