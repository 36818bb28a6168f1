# SPDX-License-Identifier: MIT
"""Figures of a cohort: identification, adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    BLUE,
    INK,
    ORANGE,
    Drawing,
    new_figure,
    require,
    style,
)
from .heatmaps import draw_heatmap, linear_scale, name_cells, say_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Measures of the table of prediction quality that are drawn: column, title, chance's column.
MEASURES: tuple[tuple[str, str, str], ...] = (
    ("top1", "identified at\nfirst guess (share)", "top1_chance"),
    ("average_rank", "average rank\n(1 is perfect)", "average_rank_chance"),
    ("correlation", "correlation", ""),
    ("residual_correlation", "correlation without\nthe cohort's mean", ""),
)
#: More points than this are drawn as a random but fixed choice.
_MAX_POINTS = 3000


def draw_identification(
    rows: Sequence[Mapping[str, str | float]],
) -> Drawing:
    """Draw how well each target is predicted from each source, one heat map a measure.

    Parameters
    ----------
    rows
        Rows of the table of prediction quality: ``source``, ``target`` and the columns of
        `MEASURES`.

    Raises
    ------
    UsageError
        If there is no row.
    """
    sources = list(dict.fromkeys(str(row["source"]) for row in rows))
    targets = list(dict.fromkeys(str(row["target"]) for row in rows))
    require(rows, "prediction")
    width = 1.6 + len(MEASURES) * max(1.9, 0.62 * len(sources))
    figure = new_figure(width, max(2.2, 1.2 + 0.24 * len(targets)))
    for column, (measure, title, chance) in enumerate(MEASURES, start=1):
        grid = np.full((len(targets), len(sources)), np.nan)
        for row in rows:
            place = targets.index(str(row["target"])), sources.index(str(row["source"]))
            grid[place] = _number(row.get(measure))
        levels = [_number(row.get(chance)) for row in rows] if chance else []
        known = [value for value in levels if np.isfinite(value)]
        level = float(np.mean(known)) if known else 0.0
        axes = figure.add_subplot(1, len(MEASURES), column)
        _draw_table(axes, grid, sources, targets if column == 1 else [], chance=level)
        if chance:
            title += f"\nchance {level:.2f}"
        elif measure != "correlation":  # whatever is predicted, all brains are alike
            title += "\nchance 0"
        style(axes, title=title)
        axes.tick_params(length=0, labelsize=7.5)
    return Drawing(figure)


def _number(value: str | float | None) -> float:
    """Read a cell; NaN where there is no number."""
    try:
        return float(value) if value is not None else float("nan")
    except ValueError:
        return float("nan")


def _draw_table(
    axes: Axes,
    grid: NDArray[np.floating],
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    chance: float,
) -> None:
    """Draw a heat map that says its numbers, pale at chance."""
    scale = linear_scale("Blues", min(chance, 0.99), 1.0)
    draw_heatmap(axes, grid, scale)
    name_cells(axes, columns, rows)
    say_numbers(axes, grid, scale)


def draw_adaptation(
    means: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]],
) -> Drawing:
    """Draw the cohort's mean edges against the training mean, before and after adaptation.

    Parameters
    ----------
    means
        Cohort mean before, the same after adaptation, and training mean, (E,) each, by flavor.

    Raises
    ------
    UsageError
        If there is no flavor.
    """
    require(means, "adaptation")
    columns = min(5, len(means))
    rows = -(-len(means) // columns)
    figure = new_figure(2.3 * columns, 2.35 * rows)
    rng = np.random.default_rng(0)
    for position, (flavor, (before, after, target)) in enumerate(means.items(), start=1):
        axes = figure.add_subplot(rows, columns, position)
        kept = np.flatnonzero(np.isfinite(before) & np.isfinite(after) & np.isfinite(target))
        if kept.size > _MAX_POINTS:
            kept = rng.choice(kept, _MAX_POINTS, replace=False)
        for values, colour, label in ((before, ORANGE, "before"), (after, BLUE, "after")):
            axes.plot(values[kept], target[kept], ".", ms=1.5, color=colour, label=label)
        if kept.size:
            ends = np.array([target[kept].min(), target[kept].max()])
            axes.plot(ends, ends, color=INK, linewidth=0.7)
        style(axes, title=flavor, xlabel="cohort mean", ylabel="training mean")
        axes.title.set_fontsize(8)
        if position == 1:
            axes.legend(frameon=False, markerscale=5, handletextpad=0.1, fontsize=7.5)
    return Drawing(figure)
