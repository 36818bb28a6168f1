# SPDX-License-Identifier: MIT
"""Heat maps: how every figure colours a matrix, names its rows and says its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import INK, N_LEVELS, colour_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: Levels of which every two are one: the place of each in a table of `ColourScale`. Both sides of
#: the middle keep their palest; what has no logarithm and NaN stay what they are.
_LEVELS = np.arange(N_LEVELS)
COARSE_LEVELS = np.concatenate([
    np.where(_LEVELS < N_LEVELS // 2, _LEVELS | 1, _LEVELS & ~1),
    [N_LEVELS, N_LEVELS + 1],
]).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ColourScale:
    """How numbers become colours.

    Parameters
    ----------
    colours
        A colour map, as `canvas.colour_map` gives it; its "bad" colour stands for NaN.
    norm
        A norm of matplotlib, from numbers to 0 ... 1.
    label
        What the colour bar says.
    extend
        At which ends numbers may lie beyond the scale: ``neither``, ``min``, ``max``, ``both``.
    """

    colours: Any
    norm: Any
    label: str = ""
    extend: str = "neither"

    def levels(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Place of each number in `table`; beyond the scale, that of its nearer end."""
        shares = self.norm(values)
        found = np.clip(np.ma.filled(shares, 0.0) * N_LEVELS, 0, N_LEVELS - 1)
        found = np.where(np.ma.getmaskarray(shares), N_LEVELS, found)  # it has no logarithm
        return np.where(np.isfinite(values), found, N_LEVELS + 1).astype(np.uint8)

    @property
    def table(self) -> NDArray[np.uint8]:
        """Colours of levels, of what has no logarithm, and of NaN, (`N_LEVELS` + 2, 3)."""
        rows = [*self.colours(np.arange(N_LEVELS)), self.colours.get_under(),
                self.colours.get_bad()]  # fmt: skip
        return np.round(255 * np.array(rows)[:, :3]).astype(np.uint8)

    def text_colour(self, value: float) -> str:
        """White or ink, whichever is read more easily on the value's colour."""
        red, green, blue, _ = self.colours(self.norm(value))
        return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


def linear_scale(
    name: str, low: float, high: float, *, label: str = "", extend: str = "neither"
) -> ColourScale:
    """Spread a colour map of matplotlib evenly between two numbers."""
    from matplotlib.colors import Normalize

    return ColourScale(colour_map(name), Normalize(low, high), label, extend)


def draw_heatmap(axes: Axes, values: NDArray[np.floating], scale: ColourScale) -> AxesImage:
    """Colour a matrix (n_rows, n_columns), first row on top; NaN takes the missing colour."""
    return axes.imshow(
        values, norm=scale.norm, cmap=scale.colours, aspect="auto", interpolation="nearest"
    )


def name_cells(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Name columns, slanted below the matrix, and rows, at its left; none where empty."""
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)


def say_numbers(
    axes: Axes,
    values: NDArray[np.floating],
    scale: ColourScale,
    *,
    size: float = 7,
    write: Callable[[float], str] = "{:.2f}".format,
) -> None:
    """Write each finite number into its cell."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                column, row, write(value), ha="center", va="center", fontsize=size,
                color=scale.text_colour(float(value)),
            )  # fmt: skip


def add_colour_bar(
    figure: Figure,
    image: AxesImage,
    scale: ColourScale,
    *,
    beside: Axes | None = None,
    inside: Axes | None = None,
) -> Colorbar:
    """Draw a colour bar in a strip that is taken `beside` axes, or `inside` axes of its own.

    Parameters
    ----------
    figure, image, scale
        What is drawn and how.
    beside, inside
        Axes: one of them.
    """
    place: dict[str, Any] = (
        {"cax": inside}
        if inside is not None
        else {"ax": beside, "shrink": 0.8, "aspect": 25, "pad": 0.02}
    )
    bar = figure.colorbar(image, extend=scale.extend, **place)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=7, width=0.5, pad=1.5, colors=INK)
    if scale.label:
        bar.ax.set_ylabel(scale.label, fontsize=7.5, color=INK, labelpad=2)
    return bar
