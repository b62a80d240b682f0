"""A small software rasteriser: what a sim's `draw` paints on. No display, no window system.

    canvas = Canvas(400, 400)
    canvas.view(-2.4, 2.4, -1.0, 2.0)               # the part of the world to show, y upwards
    canvas.line(0.0, 0.0, 1.0, 1.0, color="orange", width=0.1)
    pixels = canvas.pixels()                        # (400, 400, 3) uint8

Colours are names in PALETTE or (r, g, b). Lengths and positions are in world units. Shapes are drawn three times too
large and averaged down, which smooths their edges.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = str | tuple[int, int, int]

PALETTE: dict[str, tuple[int, int, int]] = {
    "paper": (250, 248, 243),
    "shade": (240, 236, 227),
    "mist": (222, 218, 208),
    "grey": (160, 157, 150),
    "ink": (46, 52, 64),
    "orange": (224, 122, 63),
    "yellow": (232, 182, 76),
    "green": (88, 140, 98),
    "leaf": (124, 175, 126),
    "blue": (66, 122, 180),
    "purple": (132, 102, 168),
    "red": (200, 72, 72),
    "white": (255, 255, 255),
}
OVERSAMPLING = 3


def rgb(color: Color) -> tuple[int, int, int]:
    """The (r, g, b) of a colour; raises ValueError for a name that is not in PALETTE."""
    if not isinstance(color, str):
        return color
    if color not in PALETTE:
        raise ValueError(f"color={color!r} is not one of {', '.join(PALETTE)}.")
    return PALETTE[color]


class Canvas:
    """A picture of width x height pixels, filled with `background`. Until `view` is called, units are pixels."""

    def __init__(self, width: int, height: int, background: Color = "paper"):
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), rgb(background))
        self._draw = ImageDraw.Draw(self._image)
        self.view(0.0, width, 0.0, height)

    def view(self, x0: float, x1: float, y0: float, y1: float) -> None:
        """Show the world from x0 to x1 and, upwards, from y0 to y1: as large as fits, undistorted, centred."""
        width, height = self._image.size
        self._scale = min(width / (x1 - x0), height / (y1 - y0))  # subpixels a world unit
        self._left = width / 2 - self._scale * (x0 + x1) / 2
        self._base = height / 2 + self._scale * (y0 + y1) / 2

    def line(self, x0: float, y0: float, x1: float, y1: float, color: Color = "ink", width: float = 0.0) -> None:
        """A straight line with round ends; width 0 is the thinnest that looks well (two pixels)."""
        (u0, v0), (u1, v1) = self._at(x0, y0), self._at(x1, y1)
        half = self._half(width)
        length = math.hypot(u1 - u0, v1 - v0)
        if length > 0.0:
            du, dv = half * (v0 - v1) / length, half * (u1 - u0) / length
            corners = [(u0 + du, v0 + dv), (u1 + du, v1 + dv), (u1 - du, v1 - dv), (u0 - du, v0 - dv)]
            self._draw.polygon(corners, fill=rgb(color))
        for u, v in ((u0, v0), (u1, v1)):
            self._draw.ellipse((u - half, v - half, u + half, v + half), fill=rgb(color))

    def path(self, points: Sequence[tuple[float, float]], color: Color = "ink", width: float = 0.0) -> None:
        """Lines from each point to the next."""
        for (x0, y0), (x1, y1) in pairwise(points):
            self.line(x0, y0, x1, y1, color, width)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, color: Color = "ink") -> None:
        """A filled rectangle between two opposite corners; one without width or height is nothing."""
        (u0, v0), (u1, v1) = self._at(x0, y0), self._at(x1, y1)
        if abs(u1 - u0) >= 1.0 and abs(v1 - v0) >= 1.0:
            self._draw.rectangle((min(u0, u1), min(v0, v1), max(u0, u1) - 1, max(v0, v1) - 1), fill=rgb(color))

    def polygon(self, points: Sequence[tuple[float, float]], color: Color = "ink") -> None:
        """A filled polygon."""
        self._draw.polygon([self._at(x, y) for x, y in points], fill=rgb(color))

    def disc(self, x: float, y: float, r: float, color: Color = "ink") -> None:
        """A filled circle."""
        (u, v), r = self._at(x, y), r * self._scale
        self._draw.ellipse((u - r, v - r, u + r, v + r), fill=rgb(color))

    def arc(
        self, x: float, y: float, r: float, start: float, end: float, color: Color = "ink", width: float = 0.0
    ) -> None:
        """Part of a circle, counterclockwise from angle `start` to `end` (radians, 0 is to the right)."""
        (u, v), half = self._at(x, y), self._half(width)
        outer = r * self._scale + half
        box = (u - outer, v - outer, u + outer, v + outer)
        self._draw.arc(box, -math.degrees(end), -math.degrees(start), fill=rgb(color), width=max(1, round(2 * half)))

    def tiles(self, codes: NDArray, palette: Sequence[Color]) -> None:
        """A grid world: cell (row, column) has colour palette[codes[row, column]], row 0 at the top.

        Sets the view to one unit a cell: the centre of the cell is at (column + 0.5, rows - row - 0.5).
        """
        rows, columns = codes.shape
        self.view(0.0, columns, 0.0, rows)
        (u0, v0), (u1, v1) = self._at(0.0, rows), self._at(columns, 0.0)
        colors = np.array([rgb(color) for color in palette], np.uint8)[codes]
        size = (round(u1 - u0), round(v1 - v0))
        self._image.paste(Image.fromarray(colors).resize(size, Image.Resampling.NEAREST), (round(u0), round(v0)))

    def text(self, x: float, y: float, string: str, size: float, color: Color = "ink") -> None:
        """One line of text, `size` high, centred at (x, y)."""
        font = _font(max(1, round(size * self._scale)))
        self._draw.text(self._at(x, y), string, font=font, fill=rgb(color), anchor="mm")

    def pixels(self) -> NDArray[np.uint8]:
        """The picture, (height, width, 3) uint8."""
        return np.array(self._image.reduce(OVERSAMPLING))

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """World coordinates to subpixels, as Python floats."""
        return self._left + self._scale * float(x), self._base - self._scale * float(y)

    def _half(self, width: float) -> float:
        return max(width * self._scale, 2.0 * OVERSAMPLING if width == 0.0 else 1.0) / 2


@cache
def _font(size: int):
    return ImageFont.load_default(size)


def ansi(pixels: NDArray[np.uint8], columns: int = 60) -> str:
    """A picture as text for a true-colour terminal: `columns` half blocks a line, each showing two pixels."""
    height, width = pixels.shape[:2]
    rows = max(1, round(height / width * columns / 2))
    small = np.asarray(Image.fromarray(pixels).resize((columns, 2 * rows), Image.Resampling.BOX)).tolist()
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        line, last = "", None
        for colors in zip(upper, lower, strict=True):
            if colors != last:  # say a colour only where it changes
                (r, g, b), (r2, g2, b2) = last = colors
                line += f"\x1b[38;2;{r};{g};{b};48;2;{r2};{g2};{b2}m"
            line += "▀"
        lines.append(line + "\x1b[0m")
    return "\n".join(lines)
