# SPDX-License-Identifier: MIT
"""What all figures share: the sheet, its colours and small PNG files."""

from __future__ import annotations

import io
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .raster import Raster, encode_raster

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Largest size of one figure in bytes: pages with dozens of them must open in any browser.
MAX_BYTES = 100_000

#: Share of the resolution asked for, number of colours, and the size that a heat map then has
#: as a share of the first one's (measured on noisy 439-region matrices).
_ATTEMPTS: tuple[tuple[float, int, float], ...] = (
    (1.0, 40, 0.85),
    (1.0, 24, 0.7),
    (0.85, 24, 0.57),
    (0.7, 20, 0.38),
    (0.55, 16, 0.25),
    (0.4, 16, 0.0),
)

#: Colour-blind-safe line colours (Okabe and Ito, 2008).
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
INK, FAINT, MISSING_COLOUR = "#222222", "#888888", "#b8b8b8"
INK_RGB = (0x22, 0x22, 0x22)

#: Levels of a colour map: more cannot be told apart by eye, fewer make smaller files.
N_LEVELS = 32


def new_figure(
    width_in: float, height_in: float, *, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Make a blank white sheet, in inches, that no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Give axes their title and labels in the sizes and colours of all figures."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, width=0.6, colors=INK)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color(FAINT)


def colour_map(name: str, *, missing: str = MISSING_COLOUR, under: str | None = None) -> Any:
    """Take a colour map of matplotlib in `N_LEVELS` levels, with a colour for missing values."""
    import matplotlib as mpl

    colours = mpl.colormaps[name].resampled(N_LEVELS)
    return colours.with_extremes(bad=missing, under=under)


def robust_limit(values: NDArray[np.floating], *, percent: float = 99.0) -> float:
    """Take a percentile of the absolute finite values, rounded up to two digits; else 1.

    Examples
    --------
    >>> robust_limit(np.array([0.1, -0.523, np.nan]), percent=100)
    0.53
    """
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.percentile(finite, percent)) if finite.size else 0.0
    if limit <= 0:
        return 1.0
    step = 10.0 ** (np.floor(np.log10(limit)) - 1)
    return float(f"{np.ceil(limit / step - 1e-9) * step:.2g}")


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure that is drawn but not yet a file.

    Every `draw_...` function returns one, or a `Raster` where it draws connectomes.

    Parameters
    ----------
    figure
        The sheet.
    dpi, n_colours
        Pixels an inch and size of the palette, at best.
    max_bytes
        Size that its PNG stays below.
    """

    figure: Figure
    dpi: float = 110
    n_colours: int = 96
    max_bytes: int = MAX_BYTES


def require(values: Sized, what: str) -> None:
    """Refuse to draw nothing.

    Raises
    ------
    UsageError
        If `values` is empty.

    Examples
    --------
    >>> require([], "latent")
    Traceback (most recent call last):
    kraken_bids.errors.UsageError: there is no latent to draw. Give one or more.
    """
    if not len(values):
        raise UsageError(f"there is no {what} to draw", fix="Give one or more.")


def encode_png(drawing: Drawing | Raster) -> bytes:
    """Make the PNG of a drawing, with a palette, giving up detail until it fits.

    Returns
    -------
    bytes
        Above `max_bytes` of the drawing only if not even the last attempt fits.
    """
    if isinstance(drawing, Raster):
        return encode_raster(drawing, ink=INK_RGB)
    content, first, drawn_share = b"", 0, 0.0
    for share, colours, expected in ((1.0, drawing.n_colours, 1.0), *_ATTEMPTS):
        if first * expected > drawing.max_bytes:
            continue  # hopeless: save the time
        if share != drawn_share:
            image, drawn_share = _render(drawing.figure, drawing.dpi * share), share
        content = _palette_png(image, colours)
        first = first or len(content)
        if len(content) <= drawing.max_bytes:
            break
    return content


def save_png(drawing: Drawing | Raster, out_file: Path) -> int:
    """Write a drawing as a PNG file; its size in bytes."""
    return out_file.write_bytes(encode_png(drawing))


def _render(figure: Figure, dpi: float) -> Any:
    """Draw a figure as an RGB image; the layout of the first time is kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    _show_text_as_text(figure)
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _show_text_as_text(figure: Figure) -> None:
    """Take dollar signs for what they are: names come from files, and may be no formula.

    Powers of ten beside a logarithmic axis are formulas, and come from no file.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatterMathtext

    powers: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = axis.get_ticklabels(which="both")  # made when they are asked for
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                powers.update(labels)
    for text in figure.findobj(Text):
        text.set_parse_math(text in powers)


def _palette_png(image: Any, n_colours: int) -> bytes:
    """Write an image with at most `n_colours` colours, chosen so that rare ones survive."""
    from PIL import Image

    buffer = io.BytesIO()
    image.quantize(n_colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        buffer, format="PNG", optimize=True
    )
    return buffer.getvalue()
