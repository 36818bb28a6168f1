# SPDX-License-Identifier: MIT
"""Figures of a cohort: identification, adaptation, latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .canvas import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MAX_BYTES,
    ORANGE,
    PURPLE,
    VERMILION,
    new_figure,
    save_png,
    style,
)
from .heatmaps import add_colour_bar, draw_heatmap, linear_scale, name_cells, say_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Measures of the table of prediction quality that are drawn: column, title, chance's column.
MEASURES: tuple[tuple[str, str, str], ...] = (
    ("top1", "identified at\nfirst guess (share)", "top1_chance"),
    ("average_rank", "average rank\n(1 is perfect)", "average_rank_chance"),
    ("residual_correlation", "correlation without\nthe cohort's mean", ""),
)
#: More points than this are drawn as a random but fixed choice.
_MAX_POINTS = 3000


def draw_identification(
    rows: Sequence[Mapping[str, str | float]],
    out_file: Path | BytesIO,
    *,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Draw how well each target is predicted from each source, one heat map a measure.

    Parameters
    ----------
    rows
        Rows of the table of prediction quality: ``source``, ``target`` and the columns of
        `MEASURES`.
    out_file
        PNG file or buffer.
    max_bytes
        Size to stay below.

    Returns
    -------
    int
        Size of the PNG in bytes.

    Raises
    ------
    UsageError
        If there is no row.
    """
    sources = list(dict.fromkeys(str(row["source"]) for row in rows))
    targets = list(dict.fromkeys(str(row["target"]) for row in rows))
    if not rows:
        raise UsageError("there is no prediction to draw", fix="Give one row or more.")
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
        suffix = f"\nchance {level:.2f}" if level else "\nchance 0"
        style(axes, title=title + suffix)
        axes.tick_params(length=0, labelsize=7.5)
    return save_png(figure, out_file, max_bytes=max_bytes)


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
    out_file: Path | BytesIO,
    *,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Draw the cohort's mean edges against the training mean, before and after adaptation.

    Parameters
    ----------
    means
        Cohort mean before, the same after adaptation, and training mean, (E,) each, by flavor.
    out_file
        PNG file or buffer.
    max_bytes
        Size to stay below.

    Returns
    -------
    int
        Size of the PNG in bytes.

    Raises
    ------
    UsageError
        If there is no flavor.
    """
    if not means:
        raise UsageError("there is no adaptation to draw", fix="Give one flavor or more.")
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
    return save_png(figure, out_file, max_bytes=max_bytes)


def draw_latents(
    latents: NDArray[np.floating],
    labels: Sequence[str],
    out_file: Path | BytesIO,
    *,
    groups: Sequence[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Draw the latents of a cohort: its first two principal components, and all values.

    Parameters
    ----------
    latents
        (n_participants, latent_size); rows with NaN are left out.
    labels
        (n_participants,), written beside the points of cohorts of up to 40.
    out_file
        PNG file or buffer.
    groups
        (n_participants,), such as the site; colours of the points.
    max_bytes
        Size to stay below.

    Returns
    -------
    int
        Size of the PNG in bytes.

    Raises
    ------
    UsageError
        If fewer than two rows are complete.
    """
    complete = np.isfinite(latents).all(axis=1)
    values = latents[complete]
    if len(values) < 2:
        raise UsageError(
            f"{len(values)} latents cannot be compared", fix="Give two participants or more."
        )
    names = [label for label, kept in zip(labels, complete, strict=True) if kept]
    sides = (
        [group for group, kept in zip(groups, complete, strict=True) if kept] if groups else None
    )
    figure = new_figure(9.0, 3.8)
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.5))
    _draw_components(figure.add_subplot(grid[0]), values, names, sides)
    axes = figure.add_subplot(grid[1])
    centred = values - values.mean(axis=0)
    limit = float(np.abs(centred).max()) or 1.0
    scale = linear_scale("RdBu_r", -limit, limit)
    image = draw_heatmap(axes, centred, scale)
    style(axes, title="latent minus the cohort's mean", xlabel="latent dimension")
    if len(names) <= 30:
        axes.set_yticks(range(len(names)), names, fontsize=7)
    add_colour_bar(figure, image, scale, beside=axes)
    return save_png(figure, out_file, max_bytes=max_bytes)


def _draw_components(
    axes: Axes, values: NDArray[np.floating], names: Sequence[str], groups: Sequence[str] | None
) -> None:
    """Draw the first two principal components of the rows of `values`."""
    centred = values - values.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    scores = np.zeros((len(values), 2))
    n_components = min(2, left.shape[1])
    scores[:, :n_components] = left[:, :n_components] * sizes[:n_components]
    share = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    colours = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, FAINT)
    known = list(dict.fromkeys(groups)) if groups else [""]
    for index, group in enumerate(known):
        rows = [row for row in range(len(names)) if groups is None or groups[row] == group]
        axes.plot(
            scores[rows, 0], scores[rows, 1], "o", ms=5, color=colours[index % len(colours)],
            label=group or None,
        )  # fmt: skip
    if len(names) <= 40:
        for name, (first, second) in zip(names, scores, strict=True):
            axes.annotate(
                name, (first, second), fontsize=7, xytext=(3, 3), textcoords="offset points"
            )
    if len(known) > 1:
        axes.legend(frameon=False, fontsize=7.5)
    axes.margins(0.15)
    percent = [100 * part for part in (*share, 0.0)]
    style(axes, title="principal components",
          xlabel=f"first ({percent[0]:.0f} % of the variance)",
          ylabel=f"second ({percent[1]:.0f} %)")  # fmt: skip
