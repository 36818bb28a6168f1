# SPDX-License-Identifier: MIT
"""Measures of one series beside the published values, each on a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .anchors import LIMITS, PUBLISHED, SIMILARITY
from .canvas import BLUE, FAINT, INK, ORANGE, VERMILION, Drawing, new_figure, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Size of the figure in bytes.
ANCHOR_BYTES = 40_000
#: Width of a column, height of a row, room for the names of measures and for numbers, in inches.
_COLUMN_IN, _ROW_IN, _NAME_IN, _NUMBER_IN, _TEXT_IN, _TOP_IN = 4.5, 0.3, 1.75, 0.5, 1.05, 0.36


def anchored(values: Mapping[str, str]) -> list[tuple[str, float]]:
    """Measures with published numbers beside them, in the order in which those are listed.

    Parameters
    ----------
    values
        Text of a table's row by column.

    Returns
    -------
    list
        Column and value, of those that are numbers.
    """
    found = []
    for column in PUBLISHED:
        try:
            value = float(values.get(column, ""))
        except ValueError:
            continue
        if np.isfinite(value):
            found.append((column, value))
    return found


def draw_anchors(rows: Sequence[tuple[str, float]]) -> Drawing:
    """Draw values as points on bars of the published range, with its mean as a line.

    Parameters
    ----------
    rows
        Column and value, as `anchored` gives them; columns of `PUBLISHED`.

    Raises
    ------
    UsageError
        If there is no row.
    """
    require(rows, "measure with a published value")
    n_columns = 2 if len(rows) > 1 else 1
    n_rows = -(-len(rows) // n_columns)
    width, height = n_columns * _COLUMN_IN, n_rows * _ROW_IN + _TOP_IN
    figure = new_figure(width, height, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))  # in inches: one set of axes is drawn far quicker
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    key = "point: this series; line: published mean; bar: its range or ± 1 SD; grey tick: 0"
    axes.text(0.08, height - 0.2, key, fontsize=8, color=INK)
    for position, (column, value) in enumerate(rows):
        side, row = divmod(position, n_rows)
        middle = height - _TOP_IN - (row + 0.5) * _ROW_IN
        _draw_row(axes, column, value, (side * _COLUMN_IN, middle))
    return Drawing(figure, n_colours=48, max_bytes=ANCHOR_BYTES)


def short_name(column: str) -> str:
    """Name of a measure that fits beside its bar.

    Examples
    --------
    >>> short_name("training_mean_r_FCcorr_fs86_hpf")
    'r mean FCcorr_fs86_hpf'
    """
    return column.replace("training_mean_r_", "r mean ").replace("homotopic_", "homotopic ")


def row_limits(column: str, value: float) -> tuple[float, float]:
    """Ends of a row's scale: zero, the value and all that is published, with room around.

    Correlations with the training mean are drawn from 0 to 1, so that they can be compared.

    Examples
    --------
    >>> row_limits("min_eigenvalue_fs86", 10.0)
    (-1.0, 11.0)
    """
    anchor = PUBLISHED[column]
    numbers = [0.0, value, *(x for x in (anchor.mean, anchor.low, anchor.high) if x is not None)]
    if column.startswith(SIMILARITY):
        numbers.append(1.0)
    low, high = min(numbers), max(numbers)
    room = 0.1 * (high - low)
    return low - room, high + room


def _is_beyond(column: str, value: float) -> bool:
    """Whether a value is outside of what is usual."""
    return any(
        limit.column == column and not limit.least <= value <= limit.most for limit in LIMITS
    )


def _draw_row(axes: Axes, column: str, value: float, corner: tuple[float, float]) -> None:
    """Draw one measure at a place in inches: name, number, bar, line and point, published text."""
    anchor, (low, high) = PUBLISHED[column], row_limits(column, value)
    left, middle = corner
    start = left + _NAME_IN + _NUMBER_IN
    length = _COLUMN_IN - _NAME_IN - _NUMBER_IN - _TEXT_IN
    half = 0.28 * _ROW_IN

    def place(number: float) -> float:
        return start + (number - low) / (high - low) * length

    axes.plot([start, start + length], [middle, middle], color=FAINT, linewidth=0.5)
    axes.plot([place(0)] * 2, [middle - half / 2, middle + half / 2], color=FAINT, linewidth=0.8)
    if anchor.low is not None and anchor.high is not None:
        ends = [place(anchor.low), place(anchor.high)]
        axes.fill_between(ends, middle - half, middle + half, color=ORANGE, alpha=0.45,
                          linewidth=0)  # fmt: skip
    if anchor.mean is not None:
        ends = [middle - half, middle + half]
        axes.plot([place(anchor.mean)] * 2, ends, color=INK, linewidth=1.2)
    colour = VERMILION if _is_beyond(column, value) else BLUE
    axes.plot([place(value)], [middle], marker="o", markersize=5.5, color=colour)
    words: dict[str, Any] = {"va": "center", "fontsize": 7.5}
    axes.text(left + 0.08, middle, short_name(column), color=INK, **words)
    axes.text(start - 0.06, middle, _short(value), ha="right", color=colour, **words)
    axes.text(start + length + 0.06, middle, anchor.text, color=INK, **{**words, "fontsize": 6.5})


def _short(value: float) -> str:
    """Write a number in three significant digits, a large one without a fraction."""
    return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.3g}"
