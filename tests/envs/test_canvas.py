import re
import time

import numpy as np
import pytest

from envs.engine.canvas import PALETTE, Canvas, ansi


def at(canvas, x, y):
    """The colour of pixel (x, y), y counted downwards, as a palette name (or the numbers)."""
    color = tuple(canvas.pixels()[y, x].tolist())
    return {rgb: name for name, rgb in PALETTE.items()}.get(color, color)


def test_an_empty_canvas_is_paper():
    pixels = Canvas(30, 20).pixels()
    assert pixels.shape == (20, 30, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == PALETTE["paper"]).all()


def test_view_is_centred_undistorted_and_upwards():
    canvas = Canvas(100, 100)
    canvas.view(-2, 2, 0, 1)  # 25 pixels a unit; 0 to 1 in height takes rows 62.5 up to 37.5
    canvas.rectangle(-2, 0, 0, 1, color="red")
    canvas.rectangle(1, 0, 1, 1, color="blue")  # without width: nothing
    assert at(canvas, 10, 50) == "red"
    assert at(canvas, 60, 50) == "paper"
    assert at(canvas, 10, 30) == "paper"
    assert at(canvas, 10, 70) == "paper"
    canvas.disc(1, 2, 0.2, color="blue")  # at pixel x = 50 + 25 * 1, y = 50 - 25 * (2 - 0.5)
    assert at(canvas, 75, 12) == "blue"
    assert at(canvas, 75, 87) == "paper"


def test_a_line_has_its_width_in_world_units():
    canvas = Canvas(100, 100)
    canvas.view(0, 10, 0, 10)  # 10 pixels a unit
    canvas.line(1, 5, 9, 5, color="ink", width=2)  # rows 40 to 60
    column = (canvas.pixels()[:, 50] == PALETTE["ink"]).all(axis=1)
    assert column.nonzero()[0].tolist() == pytest.approx(list(range(40, 60)), abs=1)
    assert 19 <= column.sum() <= 21


def test_a_line_without_width_is_thin_but_seen():
    canvas = Canvas(100, 100)
    canvas.line(0, 50, 100, 50, color="ink")
    dark = (canvas.pixels()[:, 50].mean(axis=1) < 150).sum()
    assert 1 <= dark <= 3


def test_a_disc_covers_its_area_and_has_smooth_edges():
    canvas = Canvas(200, 200, background="white")
    canvas.disc(100, 100, 50, color=(0, 0, 0))
    darkness = 1 - canvas.pixels()[..., 0] / 255
    assert darkness.sum() == pytest.approx(np.pi * 50**2, rel=0.02)
    assert ((darkness > 0.1) & (darkness < 0.9)).sum() > 50


def test_a_polygon_is_filled():
    canvas = Canvas(100, 100, background="white")
    canvas.polygon([(10, 10), (90, 10), (10, 90)], color=(0, 0, 0))  # half of an 80 x 80 square
    assert (1 - canvas.pixels()[..., 0] / 255).sum() == pytest.approx(3200, rel=0.03)


def test_an_arc_goes_counterclockwise_from_the_right():
    canvas = Canvas(100, 100)
    canvas.view(-1, 1, -1, 1)
    canvas.arc(0, 0, 0.8, 0.0, np.pi / 2, color="red", width=0.1)
    near = 0.8 * 50 * np.sqrt(0.5)  # the middle of the arc lies up right
    assert at(canvas, int(50 + near), int(50 - near)) == "red"
    assert at(canvas, int(50 + near), int(50 + near)) == "paper"
    assert at(canvas, int(50 - near), int(50 - near)) == "paper"


def test_tiles_put_row_0_at_the_top_and_set_the_view_to_cells():
    canvas = Canvas(90, 60)
    canvas.tiles(np.array([[0, 1, 2], [2, 2, 0]], np.uint8), ["ink", "green", "blue"])
    assert [at(canvas, x, 15) for x in (15, 45, 75)] == ["ink", "green", "blue"]
    assert [at(canvas, x, 45) for x in (15, 45, 75)] == ["blue", "blue", "ink"]
    canvas.disc(1.5, 1.5, 0.3, color="red")  # column 1, row 0 = 2 - 1.5 - 0.5
    assert at(canvas, 45, 15) == "red"


def test_text_leaves_ink_around_its_middle():
    canvas = Canvas(200, 100)
    canvas.text(100, 50, "42", size=40, color="ink")
    rows, columns = np.nonzero(canvas.pixels().sum(axis=2) < 500)
    assert len(rows) > 100
    assert columns.mean() == pytest.approx(100, abs=5)
    assert rows.mean() == pytest.approx(50, abs=8)


def test_an_unknown_colour_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"color='puce' is not one of paper, .*orange"):
        Canvas(10, 10).disc(0, 0, 1, color="puce")


def test_ansi_has_two_pixels_a_character():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20, :20] = (255, 0, 0)  # upper left quarter
    text = ansi(pixels, columns=4)  # 4 x 4 blocks of 10 x 10 pixels, two a character: 2 lines
    red, black = "255;0;0", "0;0;0"
    lines = text.split("\n")
    assert lines[0] == f"\x1b[38;2;{red};48;2;{red}m▀▀\x1b[38;2;{black};48;2;{black}m▀▀\x1b[0m"
    assert re.sub(r"\x1b\[[\d;]*m", "", lines[1]) == "▀▀▀▀"
    assert len(lines) == 2


def test_a_frame_takes_less_than_a_sixtieth_of_a_second():
    def draw():
        canvas = Canvas(400, 400)
        canvas.tiles(np.indices((12, 12)).sum(axis=0) % 2, ["paper", "shade"])
        for i in range(100):
            canvas.line(0, i / 10, 10, 5, width=0.1)
        return canvas.pixels()

    draw()
    seconds = []
    for _ in range(5):
        start = time.process_time()
        draw()
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1 / 60
