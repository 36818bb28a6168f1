# SPDX-License-Identifier: MIT
"""Heat maps of connectomes, alone and measured beside predicted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..atlases import atlas_names, load_atlas
from ..errors import UsageError
from ..flavors import Flavor
from .canvas import (
    INK,
    MAX_BYTES,
    MISSING_COLOUR,
    colour_map,
    new_figure,
    robust_limit,
    save_png,
    style,
)
from .heatmaps import ColourScale, add_colour_bar, draw_heatmap, linear_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Side of a heat map, and margins around it, in inches. Fixed places are drawn several times
#: faster than a computed layout, and keep all panels of a page alike.
_SIDE_IN, _LEFT_IN, _BOTTOM_IN, _RIGHT_IN, _TITLE_IN = 2.6, 0.24, 0.24, 0.72, 0.22
#: Runs of regions shorter than this share of the atlas are drawn as one group.
_SHORTEST_GROUP = 0.05
_SIDES = {"L": "left", "R": "right", "B": "mid"}


def region_groups(atlas: str, n_regions: int) -> list[tuple[str, int, int]]:
    """Find runs of regions of one hemisphere, as name, first and one past the last.

    Short runs in a row (subcortex that alternates between left and right) become one group,
    ``both``. Empty when the atlas is unknown or has another number of regions.

    Examples
    --------
    >>> region_groups("shen268", 268)
    [('right', 0, 133), ('left', 133, 268)]
    """
    if atlas not in atlas_names() or load_atlas(atlas).n_regions != n_regions:
        return []
    groups: list[tuple[str, int, int]] = []
    sides = [region.hemisphere for region in load_atlas(atlas).regions]
    start = 0
    for side, run in itertools.groupby(sides):
        stop = start + len(list(run))
        name = _SIDES[side] if stop - start >= _SHORTEST_GROUP * n_regions else "both"
        if name == "both" and groups and groups[-1][0] == "both":
            groups[-1] = ("both", groups[-1][1], stop)
        else:
            groups.append((name, start, stop))
        start = stop
    return groups


def draw_connectomes(
    matrices: Mapping[str, NDArray[np.floating]],
    out_file: Path | BytesIO,
    *,
    n_columns: int = 3,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Draw a grid of connectomes, each with its own colour bar and units.

    Parameters
    ----------
    matrices
        (R, R) by flavor name; NaN where a region is missing (grey), structural ones on a
        logarithmic scale with zero in white.
    out_file
        PNG file or buffer.
    n_columns
        Panels in a row.
    max_bytes
        Size to stay below.

    Returns
    -------
    int
        Size of the PNG in bytes.

    Raises
    ------
    UsageError
        If there is no matrix, or a name is not that of a flavor.
    """
    if not matrices:
        raise UsageError("there is no connectome to draw", fix="Give one matrix or more.")
    columns = min(n_columns, len(matrices))
    sheet = _Sheet(-(-len(matrices) // columns), columns, n_title_lines=1)
    for position, (name, matrix) in enumerate(matrices.items()):
        axes = sheet.panel(*divmod(position, columns))
        _draw_matrix(sheet, axes, name, matrix, _scale(name, [matrix]), title=name)
    return save_png(sheet.figure, out_file, max_bytes=max_bytes)


def draw_predictions(
    pairs: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]],
    out_file: Path | BytesIO,
    *,
    source: str = "",
    max_bytes: int = MAX_BYTES,
) -> int:
    """Draw measured beside predicted connectomes, with the correlation of their edges.

    Parameters
    ----------
    pairs
        Measured and predicted matrix, (R, R) each, by flavor name. Both panels of a row have
        one colour scale.
    out_file
        PNG file or buffer.
    source
        What the predictions were made from, for the title.
    max_bytes
        Size to stay below.

    Returns
    -------
    int
        Size of the PNG in bytes.

    Raises
    ------
    UsageError
        If there is no pair.
    """
    if not pairs:
        raise UsageError("there is no prediction to draw", fix="Give one pair or more.")
    origin = f" from {source}" if source else ""
    sheet = _Sheet(len(pairs), 2, n_title_lines=2)
    for row, (name, (measured, predicted)) in enumerate(pairs.items()):
        scale = _scale(name, [measured, predicted])
        correlation = edge_correlation(measured, predicted)
        titles = (f"{name}\nmeasured", f"predicted{origin}\nr = {correlation:.2f}")
        for column, (matrix, title) in enumerate(zip((measured, predicted), titles, strict=True)):
            axes = sheet.panel(row, column)
            _draw_matrix(sheet, axes, name, matrix, scale, title=title)
    return save_png(sheet.figure, out_file, max_bytes=max_bytes)


def edge_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Pearson correlation of the edges (upper triangles) that both matrices have.

    Parameters
    ----------
    first, second
        (R, R); edges that are NaN in either are left out.

    Returns
    -------
    float
        NaN where fewer than two edges are left or one side is constant.
    """
    upper = np.triu_indices(len(first), k=1)
    pair = np.stack([first[upper], second[upper]])
    pair = pair[:, np.isfinite(pair).all(axis=0)]
    if pair.shape[1] < 2 or (np.ptp(pair, axis=1) == 0).any():
        return float("nan")
    return float(np.corrcoef(pair)[0, 1])


class _Sheet:
    """A grid of square panels of one size, each with room for a colour bar at its right."""

    def __init__(self, n_rows: int, n_columns: int, *, n_title_lines: int) -> None:
        self._top_in = _TITLE_IN * (n_title_lines + 0.4)
        self._step_in = _LEFT_IN + _SIDE_IN + _RIGHT_IN, _BOTTOM_IN + _SIDE_IN + self._top_in
        self._size_in = n_columns * self._step_in[0], n_rows * self._step_in[1]
        self.figure = new_figure(*self._size_in, layout=None)

    def _axes(self, left_in: float, bottom_in: float, width_in: float, height_in: float) -> Axes:
        width, height = self._size_in
        return self.figure.add_axes((
            left_in / width,
            bottom_in / height,
            width_in / width,
            height_in / height,
        ))

    def panel(self, row: int, column: int) -> Axes:
        """Axes of a heat map, counted from the top left."""
        left = column * self._step_in[0] + _LEFT_IN
        bottom = self._size_in[1] - (row + 1) * self._step_in[1] + _BOTTOM_IN
        return self._axes(left, bottom, _SIDE_IN, _SIDE_IN)

    def bar(self, panel: Axes) -> Axes:
        """Axes of the colour bar beside a heat map."""
        place = panel.get_position()
        left, bottom = place.x1 * self._size_in[0], place.y0 * self._size_in[1]
        return self._axes(left + 0.06, bottom + 0.15 * _SIDE_IN, 0.1, 0.7 * _SIDE_IN)


def _scale(name: str, matrices: list[NDArray[np.floating]]) -> ColourScale:
    """Colours, limits and label of the colour bar for matrices of one flavor."""
    from matplotlib.colors import LogNorm

    recipe = Flavor.parse(name).recipe
    edges = np.concatenate([matrix[np.triu_indices(len(matrix), k=1)] for matrix in matrices])
    if recipe.group == "FC":
        limit = min(robust_limit(edges, percent=99.5), 1.0)
        return linear_scale("RdBu_r", -limit, limit, label=recipe.units, extend="both")
    positive = edges[np.isfinite(edges) & (edges > 0)]
    low, high = np.percentile(positive, [1, 99.9]) if positive.size else (1.0, 10.0)
    return ColourScale(
        colour_map("viridis", under="white"),
        LogNorm(low, max(high, low * 10)),
        label=f"{recipe.units} (log scale; white: none)",
        extend="max",
    )


def _draw_matrix(
    sheet: _Sheet,
    axes: Axes,
    name: str,
    matrix: NDArray[np.floating],
    scale: ColourScale,
    *,
    title: str,
) -> None:
    """Draw one matrix with its groups of regions and its colour bar."""
    flavor = Flavor.parse(name)
    values = np.array(matrix, dtype=np.float64)
    if flavor.group == "SC":  # log(0): draw it as the colour "under" the scale, NaN stays grey
        values[values <= 0] = scale.norm.vmin * 1e-3
    image = draw_heatmap(axes, values, scale, aspect="equal")
    style(axes, title=title)
    # One row of hundreds is less than a pixel: a line keeps missing regions in sight.
    missing = np.flatnonzero(np.isnan(values).all(axis=0))
    ends = -0.5, len(values) - 0.5
    axes.hlines(missing, *ends, color=MISSING_COLOUR, linewidth=1.0)
    axes.vlines(missing, *ends, color=MISSING_COLOUR, linewidth=1.0)
    _mark_groups(axes, region_groups(flavor.atlas, len(matrix)), len(matrix))
    bar = add_colour_bar(sheet.figure, image, scale, inside=sheet.bar(axes))
    if flavor.group == "SC":
        ticks = np.geomspace(scale.norm.vmin, scale.norm.vmax, 4).tolist()
        bar.set_ticks(ticks, labels=[tick_label(tick) for tick in ticks])
    bar.ax.minorticks_off()


def tick_label(value: float) -> str:
    """Write a positive number in two digits and few characters.

    Examples
    --------
    >>> [tick_label(value) for value in (0.0183, 7.04, 1834.0, 110_321.0)]
    ['0.018', '7', '1.8k', '110k']
    """
    rounded = float(f"{value:.2g}")
    return f"{rounded / 1000:g}k" if rounded >= 1000 else f"{rounded:g}"


def _mark_groups(axes: Axes, groups: list[tuple[str, int, int]], n_regions: int) -> None:
    """Draw borders between groups of regions and write their names on both axes."""
    if not groups:
        ticks = np.linspace(0, n_regions - 1, 3).round()
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        return
    centres = [(start + stop - 1) / 2 for _, start, stop in groups]
    names = [
        label if stop - start >= 2 * _SHORTEST_GROUP * n_regions else label[0].upper()
        for label, start, stop in groups
    ]
    axes.set_xticks(centres, names)
    axes.set_yticks(centres, names, rotation=90, va="center")
    axes.tick_params(length=0, labelsize=7.5)
    for _, start, _stop in groups[1:]:
        axes.axhline(start - 0.5, color=INK, linewidth=0.4)
        axes.axvline(start - 0.5, color=INK, linewidth=0.4)
