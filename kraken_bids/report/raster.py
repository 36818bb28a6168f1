# SPDX-License-Identifier: MIT
"""Sheets of matrices and words, drawn without axes: many times faster, in exact colours."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

#: Shades from paper to ink, least share of the resolution asked for, and level of compression
#: (the highest takes several times as long, and saves little).
_N_SHADES, _LEAST_SHARE, _COMPRESSION = 12, 0.4, 6


@dataclass(frozen=True, eq=False)
class Inlay:
    """A matrix on a sheet, its cells in colours of a table.

    Parameters
    ----------
    box
        Left, bottom, width and height in inches.
    levels
        (n_rows, n_columns), places in `colours`.
    colours
        (n_colours, 3), red, green and blue.
    kept
        Rows and columns that are seen even where there are more of them than pixels.
    borders
        Rows and columns that a line is drawn before.
    coarse
        (n_colours,), the place that each takes where the file would be too large.
    """

    box: tuple[float, float, float, float]
    levels: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    kept: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    borders: tuple[int, ...] = ()
    coarse: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Words:
    """Text around a place on a sheet.

    Parameters
    ----------
    text
        One line or more.
    place
        Middle from left and bottom, in inches.
    size
        Of the letters in points.
    turned
        Whether it is read from below.
    """

    text: str
    place: tuple[float, float]
    size: float
    turned: bool = False


@dataclass(frozen=True, eq=False)
class Raster:
    """A sheet that is drawn but not yet a file.

    Parameters
    ----------
    size_in
        Width and height in inches.
    inlays, words
        What is on it.
    max_bytes
        Size that its PNG stays below.
    dpi
        Pixels an inch, at best.
    """

    size_in: tuple[float, float]
    inlays: tuple[Inlay, ...]
    words: tuple[Words, ...]
    max_bytes: int
    dpi: float = 110


def encode_raster(raster: Raster, *, ink: tuple[int, int, int]) -> bytes:
    """Make the PNG of a sheet, with fewer colours, then fewer pixels until it fits.

    Returns
    -------
    bytes
        Above `Raster.max_bytes` only if it does not fit with the fewest pixels.
    """
    content, share, is_coarse = _write_png(raster, 1.0, ink), 1.0, False
    while len(content) > raster.max_bytes and share > _LEAST_SHARE:
        if is_coarse:
            share = max(_LEAST_SHARE, 0.97 * share * (raster.max_bytes / len(content)) ** 0.5)
        is_coarse = True
        content = _write_png(raster, share, ink, is_coarse=True)
    return content


def _write_png(
    raster: Raster, share: float, ink: tuple[int, int, int], *, is_coarse: bool = False
) -> bytes:
    """Write a sheet; its palette holds the shades, then each table of colours."""
    from PIL import Image

    dpi = share * raster.dpi
    places = _draw_words(raster, dpi)
    palette = np.linspace([255.0] * 3, ink, _N_SHADES).round().astype(np.uint8)
    offsets: dict[bytes, int] = {}
    for inlay in raster.inlays:
        key = inlay.colours.tobytes()
        if key not in offsets:
            offsets[key] = len(palette)
            palette = np.concatenate([palette, inlay.colours])
        levels = inlay.levels
        if is_coarse and inlay.coarse is not None:
            levels = inlay.coarse[levels]
        _lay(places, inlay, levels + np.uint8(offsets[key]), dpi)
    image = Image.fromarray(places)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _lay(places: NDArray[np.uint8], inlay: Inlay, levels: NDArray[np.uint8], dpi: float) -> None:
    """Lay one matrix into an image of places in a palette, framed, with its borders."""
    left, bottom, width, height = (round(inches * dpi) for inches in inlay.box)
    top = len(places) - bottom - height
    rows, columns = (
        _sample(size, n_pixels, inlay.kept)
        for size, n_pixels in zip(levels.shape, (height, width), strict=True)
    )
    part = levels[np.ix_(rows, columns)]
    ink = _N_SHADES - 1
    for border in inlay.borders:
        part[round(border * height / len(levels))] = ink
        part[:, round(border * width / levels.shape[1])] = ink
    part[[0, -1]] = ink // 2
    part[:, [0, -1]] = ink // 2
    places[top : top + height, left : left + width] = part


def _sample(size: int, n_pixels: int, kept: NDArray[np.intp]) -> NDArray[np.intp]:
    """Choose the row that each pixel shows; those to keep take two pixels or more."""
    rows: NDArray[np.intp] = ((np.arange(n_pixels) + 0.5) * size / n_pixels).astype(np.intp)
    if n_pixels < 2 * size:
        first = ((kept + 0.5) * n_pixels / size).astype(np.intp)
        rows[first] = rows[np.minimum(first + 1, n_pixels - 1)] = kept
    return rows


def _draw_words(raster: Raster, dpi: float) -> NDArray[np.uint8]:
    """Write all words, as places among the shades, (height, width)."""
    from PIL import Image

    width, height = (round(inches * dpi) for inches in raster.size_in)
    sheet = Image.new("L", (width, height), 0)
    for words in raster.words:
        drawn = _draw_text(words.text, round(words.size * dpi / 72))
        if words.turned:
            drawn = drawn.transpose(Image.Transpose.ROTATE_90)
        left, middle = (inches * dpi for inches in words.place)
        corner = round(left - drawn.width / 2), round(height - middle - drawn.height / 2)
        sheet.paste(255, corner, drawn)
    shades = np.asarray(sheet, dtype=np.uint16) * (_N_SHADES - 1) + 127
    return (shades // 255).astype(np.uint8)


def _draw_text(text: str, size: int) -> Image.Image:
    """Write lines below each other, white on black, in letters of so many pixels."""
    from PIL import Image, ImageDraw

    font = _font(size)
    height, lines = sum(font.getmetrics()), text.split("\n")
    width = max(round(font.getlength(line)) for line in lines) + 2
    image = Image.new("L", (width, height * len(lines)), 0)
    canvas = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        canvas.text((width / 2, row * height), line, fill=255, font=font, anchor="ma")
    return image


@cache
def _font(size: int) -> Any:
    """The letters of all other figures, which come with matplotlib."""
    import matplotlib as mpl
    from PIL import ImageFont

    file = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
