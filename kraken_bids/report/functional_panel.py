# SPDX-License-Identifier: MIT
"""All functional connectomes of a session in one panel: a row an atlas, a column a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..atlases import atlas_names, load_atlas
from ..errors import UsageError
from ..flavors import Flavor
from .canvas import INK, MISSING_COLOUR, new_figure, robust_limit, save_png
from .heatmaps import ColourScale, add_colour_bar, draw_heatmap, linear_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

#: Size of the panel in bytes: nine matrices of up to 439 regions.
PANEL_BYTES = 260_000
#: Side of a matrix and margins in inches.
_SIDE_IN, _GAP_IN, _LEFT_IN, _TOP_IN, _BOTTOM_IN = 2.75, 0.12, 0.5, 0.34, 0.62
_SIDES = {"L": "left", "R": "right", "B": "midline"}
#: What a recipe is called above its column.
_TITLES = {
    ("FCcorr", "hpf"): "correlation",
    ("FCcorr", "hpfgsr"): "correlation, grey-matter signal removed",
    ("FCpcorr", "hpf"): "partial correlation",
}


def hemisphere_order(atlas: str, n_regions: int) -> tuple[NDArray[np.intp], list[tuple[str, int]]]:
    """Order regions left, right, midline; within a side as in the atlas.

    Namesakes of both sides then stand as far from each other everywhere, and edges between them
    form a line beside the diagonal.

    Returns
    -------
    order
        (n_regions,), positions.
    sides
        Name and number of regions of each side that there is; empty where the atlas is not ours.

    Examples
    --------
    >>> hemisphere_order("fs86", 86)[1]
    [('left', 43), ('right', 43)]
    """
    if atlas not in atlas_names() or load_atlas(atlas).n_regions != n_regions:
        return np.arange(n_regions), []
    places = ["LRB".index(region.hemisphere) for region in load_atlas(atlas).regions]
    order = np.array(sorted(range(n_regions), key=places.__getitem__), dtype=np.intp)
    counts = [(name, places.count("LRB".index(side))) for side, name in _SIDES.items()]
    return order, [(name, count) for name, count in counts if count]


def draw_functional_panel(
    matrices: Mapping[str, NDArray[np.floating]],
    out_file: Path | BytesIO,
    *,
    max_bytes: int = PANEL_BYTES,
) -> int:
    """Draw functional connectomes, all of one column with the same colours.

    Parameters
    ----------
    matrices
        (R, R) by flavor name; NaN where a region is missing (grey).
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
        If there is no functional connectome.
    """
    flavors = [Flavor.parse(name) for name in matrices]
    flavors = [flavor for flavor in flavors if flavor.group == "FC"]
    if not flavors:
        raise UsageError("there is no functional connectome to draw", fix="Give one or more.")
    atlases = list(dict.fromkeys(flavor.atlas for flavor in flavors))
    found = {(flavor.kind, flavor.processing) for flavor in flavors}
    recipes = [key for key in _TITLES if key in found] + sorted(found - set(_TITLES))
    sheet = PanelSheet(len(atlases), len(recipes))
    for column, (kind, processing) in enumerate(recipes):
        names = [f"{kind}_{atlas}_{processing}" for atlas in atlases]
        scale = column_scale([matrices[name] for name in names if name in matrices])
        for row, (atlas, name) in enumerate(zip(atlases, names, strict=True)):
            axes = sheet.axes(row, column)
            if name not in matrices:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "not made", ha="center", fontsize=9, color=INK)
                continue
            values = np.asarray(matrices[name], dtype=np.float64)
            image = draw_by_side(axes, atlas, values, scale, names_sides=column == 0)
        title = _TITLES.get((kind, processing), f"{kind} {processing}")
        sheet.title(column, title)
        add_colour_bar(sheet.figure, image, scale, inside=sheet.bar(column), flat=True)
    for row, atlas in enumerate(atlases):
        sheet.row_title(row, atlas)
    return save_png(sheet.figure, out_file, n_colours=64, max_bytes=max_bytes)


def column_scale(matrices: list[NDArray[np.floating]]) -> ColourScale:
    """Colours of the matrices of one recipe: red above, blue below zero, with stated limits."""
    edges = np.concatenate([matrix[np.triu_indices(len(matrix), k=1)] for matrix in matrices])
    limit = min(robust_limit(edges, percent=99), 1.0)
    label = f"coefficient, limits ±{limit:g} (99 % of edges)"
    return linear_scale("RdBu_r", -limit, limit, label=label, extend="both")


class PanelSheet:
    """A grid of squares with a colour bar below each column."""

    def __init__(self, n_rows: int, n_columns: int) -> None:
        self._n_rows = n_rows
        self._size_in = (
            _LEFT_IN + n_columns * (_SIDE_IN + _GAP_IN),
            _TOP_IN + n_rows * (_SIDE_IN + _GAP_IN) + _BOTTOM_IN,
        )
        self.figure = new_figure(*self._size_in, layout=None)

    def _left(self, column: int) -> float:
        return _LEFT_IN + column * (_SIDE_IN + _GAP_IN)

    def _bottom(self, row: int) -> float:
        return _BOTTOM_IN + (self._n_rows - 1 - row) * (_SIDE_IN + _GAP_IN)

    def _add(self, left: float, bottom: float, width: float, height: float) -> Axes:
        whole, tall = self._size_in
        return self.figure.add_axes((left / whole, bottom / tall, width / whole, height / tall))

    def axes(self, row: int, column: int) -> Axes:
        """Axes of a matrix, counted from the top left."""
        return self._add(self._left(column), self._bottom(row), _SIDE_IN, _SIDE_IN)

    def bar(self, column: int) -> Axes:
        """Axes of the colour bar below a column."""
        return self._add(self._left(column) + 0.1 * _SIDE_IN, 0.42, 0.8 * _SIDE_IN, 0.1)

    def title(self, column: int, text: str) -> None:
        """Write above a column."""
        whole, tall = self._size_in
        left = (self._left(column) + _SIDE_IN / 2) / whole
        self.figure.text(left, 1 - 0.22 / tall, text, ha="center", fontsize=10, color=INK)

    def row_title(self, row: int, text: str) -> None:
        """Write at the left of a row."""
        whole, tall = self._size_in
        bottom = (self._bottom(row) + _SIDE_IN / 2) / tall
        self.figure.text(0.06 / whole, bottom, text, rotation=90, va="center", fontsize=10,
                         color=INK)  # fmt: skip


def draw_by_side(
    axes: Axes,
    atlas: str,
    matrix: NDArray[np.float64],
    scale: ColourScale,
    *,
    names_sides: bool,
    diagonal: float = 0.0,
) -> AxesImage:
    """Draw one matrix by hemisphere, with borders and names of the sides."""
    order, sides = hemisphere_order(atlas, len(matrix))
    values = matrix[np.ix_(order, order)]
    np.fill_diagonal(values, diagonal)  # no edge: it would outshine all others
    missing = np.isnan(matrix[order]).all(axis=1)
    values[missing] = values[:, missing] = np.nan
    image = draw_heatmap(axes, values, scale, aspect="equal")
    ends = -0.5, len(values) - 0.5
    rows = np.flatnonzero(missing)  # one row of hundreds is less than a pixel
    axes.hlines(rows, *ends, color=MISSING_COLOUR, linewidth=1.0)
    axes.vlines(rows, *ends, color=MISSING_COLOUR, linewidth=1.0)
    axes.set_xticks([])
    axes.set_yticks([])
    start, ticks = 0, []
    for name, count in sides:
        if start:
            axes.axhline(start - 0.5, color=INK, linewidth=0.6)
            axes.axvline(start - 0.5, color=INK, linewidth=0.6)
        if names_sides and count >= 0.1 * len(values):
            ticks.append((start + (count - 1) / 2, name))
        start += count
    axes.set_yticks([tick for tick, _ in ticks], [name for _, name in ticks], rotation=90,
                    va="center", fontsize=7.5)  # fmt: skip
    axes.tick_params(length=0, pad=1)
    return image
