"""Charts, drawn by hand: a few marks, written as SVG that follows light and dark, or as PNG.

No plotting library: these charts are lines, bands, dots and words, the SVG must take its colours from the page around it, and
what is drawn is the same file from the same numbers, on any machine. Colours are named by their role; those of series are
Okabe and Ito's, which can be told apart with any kind of colour vision, and a lighter set on dark paper.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

LIGHT = {"paper": "#ffffff", "ink": "#1f2328", "muted": "#636c76", "grid": "#e6e8eb"}
DARK = {"paper": "#0d1117", "ink": "#e6edf3", "muted": "#9198a1", "grid": "#262c36"}
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5BC7", "#7f7f7f")
SERIES_ON_DARK = ("#4da3e0", "#ff8a4c", "#35c79a", "#e59cc6", "#f2b83b", "#8fd0f5", "#b39bf0", "#b0b0b0")
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
LIGHT |= {f"series{i}": colour for i, colour in enumerate(SERIES)}
DARK |= {f"series{i}": colour for i, colour in enumerate(SERIES_ON_DARK)}
LIGHT |= {f"ramp{i}": colour for i, colour in enumerate(VIRIDIS[::-1])}  # what is high stands out from the paper
DARK |= {f"ramp{i}": colour for i, colour in enumerate(VIRIDIS)}
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
BAND = 0.18  # opacity
LETTER, MARGIN = 6.5, 60  # width of a letter of an axis' words, and of the room for those on the left
SCALE = 2  # pixels of a PNG for each unit; drawn twice as large, so that edges are smooth
Points = Sequence[tuple[float, float]]


def series(i: int) -> str:
    """The role of the i-th series; after eight they start again."""
    return f"series{i % len(SERIES)}"


def ramp(share: float) -> str:
    """The role of a number between 0 and 1, on a scale of colours that is even to the eye."""
    return f"ramp{min(int(share * len(VIRIDIS)), len(VIRIDIS) - 1)}"


def dark_style() -> str:
    """CSS that gives each role its colour on dark paper. Without it a picture is a light one."""
    rules = [f".f-{role}{{fill:{c}}}.s-{role}{{stroke:{c}}}" for role, c in DARK.items()]
    return "@media (prefers-color-scheme:dark){" + "".join(rules) + "}"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers in [low, high]."""
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= count + 1)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(number: float) -> str:
    """An axis' number: 1.5M, 200k, 0.25, -8."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.4g}{name}"
    return f"{number:.4g}"


class Picture:
    """Marks on paper, in units from the upper left corner; those drawn later lie on top."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self._marks: list[tuple] = []

    def line(self, points: Points, role: str, width: float = 1.0, tip: str = "") -> None:
        """tip: what an SVG says of it under the mouse."""
        self._marks.append(("line", points, role, width, tip))

    def area(self, points: Points, role: str, opacity: float = 1.0) -> None:
        self._marks.append(("area", points, role, opacity))

    def dot(self, x: float, y: float, role: str, radius: float = 3.0, opacity: float = 1.0, tip: str = "") -> None:
        self._marks.append(("dot", (x, y, radius), role, opacity, tip))

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 12,
        role: str = "ink",
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """anchor: where x is, "start", "middle" or "end" of the words; y is their base line."""
        self._marks.append(("text", (x, y), role, words, size, anchor, bold))

    def svg(self, *, alone: bool = True) -> str:
        """The picture as an SVG element. alone: with the style for dark paper, which a page has once for all of its own."""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'width="{self.width:.0f}" height="{self.height:.0f}" font-family="{FONT}" role="img">'
        ]
        if alone:
            parts += [f"<style>{dark_style()}</style>", self._fill("paper", '<rect width="100%" height="100%"')]
        parts += [self._element(*mark) for mark in self._marks]
        return "\n".join([*parts, "</svg>\n"])

    @staticmethod
    def _fill(role: str, start: str, opacity: float = 1.0, end: str = "/>") -> str:
        faint = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
        return f'{start} class="f-{role}" fill="{LIGHT[role]}"{faint}{end}'

    def _element(self, kind: str, place: tuple, role: str, *more) -> str:
        if kind == "text":
            words, size, anchor, bold = more
            start = f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" font-size="{size}" text-anchor="{anchor}"'
            return self._fill(role, start + (' font-weight="600"' if bold else ""), end=f">{escape(words)}</text>")
        if kind == "dot":
            x, y, radius = place
            return self._fill(
                role, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"', more[0], _end("circle", more[1])
            )
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
        if kind == "area":
            return self._fill(role, f'<polygon points="{path}"', more[0])
        return (
            f'<polyline points="{path}" fill="none" class="s-{role}" stroke="{LIGHT[role]}" stroke-width="{more[0]:g}" '
            f'stroke-linejoin="round"{_end("polyline", more[1])}'
        )

    def png(self, path: Path) -> None:
        """Write the picture as PNG, on white paper."""
        from PIL import Image, ImageColor, ImageDraw, ImageFont

        k = 2 * SCALE
        size = (round(self.width * k), round(self.height * k))
        image = Image.new("RGB", size, LIGHT["paper"])
        for kind, place, role, *more in self._marks:
            opacity = more[0] if kind in ("area", "dot") else 1.0
            colour = (*ImageColor.getrgb(LIGHT[role]), round(255 * opacity))
            draw = ImageDraw.Draw(image, "RGBA")
            if kind == "text":
                words, height, anchor, bold = more
                draw.text(
                    (place[0] * k, place[1] * k),
                    words,
                    fill=colour,
                    font=ImageFont.load_default(height * k),
                    anchor={"start": "ls", "middle": "ms", "end": "rs"}[anchor],
                    stroke_width=k // 4 if bold else 0,
                )
            elif kind == "dot":
                x, y, r = (number * k for number in place)
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
            elif kind == "area":
                draw.polygon([(x * k, y * k) for x, y in place], fill=colour)
            elif len(place) > 1:
                draw.line([(x * k, y * k) for x, y in place], fill=colour, width=round(more[0] * k), joint="curve")
        image.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS).save(path)


def _end(element: str, tip: str) -> str:
    return f"><title>{escape(tip)}</title></{element}>" if tip else "/>"


@dataclass(frozen=True)
class Scale:
    """What an axis measures: numbers from low to high, even or by powers of ten (log); or names, whose numbers are 0, 1, ..."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    names: tuple[str, ...] = ()

    def share(self, value: float) -> float:
        """How far along the axis a number is, from 0 to 1."""
        if self.names:
            return (value + 0.5) / len(self.names)
        low, high = _widened(self.low, self.high)
        if self.log and low > 0:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Numbers to mark, and what they are called."""
        if self.names:
            return list(enumerate(self.names))
        low, high = _widened(self.low, self.high)
        if self.log and low > 0:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5)):
                found = [m * 10.0**k for k in powers for m in steps]
                found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
                if len(found) >= 2:
                    return [(tick, short(tick)) for tick in found[:: -(-len(found) // 6)]]
        return [(tick, short(tick)) for tick in nice_ticks(low, high)]


class Axes:
    """A frame on a picture: numbers -> places. x, y: a scale, or the ends of a linear one; without y there are no heights."""

    def __init__(
        self,
        picture: Picture,
        left: float,
        top: float,
        width: float,
        height: float,
        x: Scale | tuple[float, float],
        y: Scale | tuple[float, float] | None = None,
    ):
        self.picture, self.left, self.top, self.right, self.bottom = picture, left, top, left + width, top + height
        self._x = x if isinstance(x, Scale) else Scale(*x)
        self._y = y if isinstance(y, Scale) else Scale(*(y or (0.0, 1.0)))
        for tick, name in self._x.ticks():
            place = self.x(tick)
            picture.line([(place, top), (place, self.bottom)], "grid")
            name = cut(name, width / len(self._x.names)) if self._x.names else name
            picture.text(place, self.bottom + 16, name, size=11, role="muted", anchor="middle")
        for tick, name in self._y.ticks() if y else ():
            place = self.y(tick)
            picture.line([(left, place), (self.right, place)], "grid")
            picture.text(left - 8, place + 4, cut(name, MARGIN), size=11, role="muted", anchor="end")

    def x(self, value: float) -> float:
        return self.left + self._x.share(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self._y.share(value) * (self.bottom - self.top)

    def at(self, xs: Iterable[float], ys: Iterable[float]) -> list[tuple[float, float]]:
        """Places of the points that are numbers."""
        return [(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]


def cut(words: str, width: float) -> str:
    """As much of a small text as fits into `width`."""
    most = max(int(width / LETTER), 2)
    return words if len(words) <= most else words[: most - 1] + "…"


def _widened(low: float, high: float) -> tuple[float, float]:
    """The same, or a range around a single number."""
    return (low, high) if high > low else (low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2)
