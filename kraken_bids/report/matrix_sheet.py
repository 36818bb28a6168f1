# SPDX-License-Identifier: MIT
"""Sheets of connectomes: squares in rows and columns, with stated colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..atlases import atlas_names, load_atlas
from ..flavors import Flavor
from .canvas import N_LEVELS, colour_map, robust_limit
from .heatmaps import COARSE_LEVELS, ColourScale, linear_scale
from .raster import Inlay, Raster, Words

#: Between squares, left of the first (names of sides; with titles of rows), and below a row with
#: a colour bar, in inches.
_GAP_IN, _SIDES_IN, _TITLES_IN, _BAR_IN = 0.12, 0.24, 0.5, 0.62
#: Sides shorter than this share of a matrix have no room for their name.
_SHORTEST = 0.1
_SIDES = {"L": "left", "R": "right", "B": "midline"}


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


def connectome_scale(flavor: Flavor, matrices: list[NDArray[np.floating]]) -> ColourScale:
    """Colours of matrices (R, R) of one recipe: their limits hold 99 % of the edges, and are said.

    Functional edges are red above and blue below zero; structural ones lie on a logarithmic
    scale, which zero is not on (white).
    """
    edges = np.concatenate([matrix[np.triu_indices(len(matrix), k=1)] for matrix in matrices])
    recipe = flavor.recipe
    return coefficient_scale(edges) if recipe.group == "FC" else count_scale(edges, recipe.units)


def coefficient_scale(edges: NDArray[np.floating]) -> ColourScale:
    """Red above, blue below zero, with limits that hold 99 % of the edges, (E,)."""
    limit = min(robust_limit(edges, percent=99), 1.0)
    label = f"coefficient, limits ±{limit:g} (99 % of edges)"
    return linear_scale("RdBu_r", -limit, limit, label=label)


def count_scale(edges: NDArray[np.floating], units: str) -> ColourScale:
    """Logarithmic, with limits that hold 98.9 % of the edges, (E,), above 0."""
    from matplotlib.colors import LogNorm

    positive = edges[np.isfinite(edges) & (edges > 0)]
    low, high = np.percentile(positive, [1, 99.9]) if positive.size else (1.0, 10.0)
    low, high = float(f"{low:.2g}"), float(f"{max(high, low * 10):.2g}")
    return ColourScale(
        colour_map("viridis", under="white"),
        LogNorm(low, high),
        label=f"{units}, log scale, limits {low:g} to {high:g}; white: ≤ 0",
    )


class MatrixSheet:
    """A grid of squares, counted from the top left, with room for titles and colour bars.

    Parameters
    ----------
    n_rows, n_columns
        Of squares.
    side_in
        Of a square, in inches.
    title_in
        Height of what is written above a row.
    of_rows
        Whether every row has titles and bars of its own; else the first has titles, the last
        bars, and there is room for the rows' titles at the left.
    """

    def __init__(
        self, n_rows: int, n_columns: int, *, side_in: float, title_in: float, of_rows: bool
    ) -> None:
        self._side_in, self._title_in = side_in, title_in
        self._left_in = _SIDES_IN if of_rows else _TITLES_IN
        between = title_in + _BAR_IN if of_rows else _GAP_IN
        self._step_in = side_in + _GAP_IN, side_in + between
        self._size_in = (
            self._left_in + n_columns * self._step_in[0],
            n_rows * self._step_in[1] - between + title_in + _BAR_IN,
        )
        self._inlays: list[Inlay] = []
        self._words: list[Words] = []

    def _corner(self, row: int, column: int) -> tuple[float, float]:
        """Left and lower end of a square in inches."""
        top = self._size_in[1] - self._title_in - row * self._step_in[1]
        return self._left_in + column * self._step_in[0], top - self._side_in

    def _write(self, text: str, left: float, bottom: float, size: float) -> None:
        self._words.append(Words(text, (left, bottom), size))

    def _write_turned(self, text: str, left: float, bottom: float, size: float) -> None:
        self._words.append(Words(text, (left, bottom), size, turned=True))

    def put(
        self, row: int, column: int, matrix: NDArray[np.floating], scale: ColourScale, atlas: str
    ) -> None:
        """Draw a matrix (R, R) by hemisphere; regions that are NaN throughout are grey lines."""
        order, sides = hemisphere_order(atlas, len(matrix))
        levels = scale.levels(matrix[np.ix_(order, order)])
        missing = np.flatnonzero(np.isnan(matrix[order]).all(axis=1))
        # The diagonal is no edge: it would outshine all others.
        nothing = scale.levels(np.zeros(1))[0]
        np.fill_diagonal(levels, nothing)
        levels[missing] = levels[:, missing] = N_LEVELS + 1
        ends = np.cumsum([count for _, count in sides]).tolist()
        left, bottom = self._corner(row, column)
        box = left, bottom, self._side_in, self._side_in
        self._inlays.append(
            Inlay(box, levels, scale.table, missing, tuple(ends[:-1]), COARSE_LEVELS)
        )
        if column == 0:
            for (name, count), end in zip(sides, ends, strict=True):
                if count >= _SHORTEST * len(matrix):
                    middle = 1 - (end - count / 2) / len(matrix)
                    self._write_turned(name, left - 0.09, bottom + middle * self._side_in, 7.5)

    def leave_out(self, row: int, column: int) -> None:
        """Say that there is no matrix."""
        left, bottom = self._corner(row, column)
        half = self._side_in / 2
        self._write("not made", left + half, bottom + half, 9)

    def title(self, row: int, column: int, text: str) -> None:
        """Write above a square."""
        left, bottom = self._corner(row, column)
        above = bottom + self._side_in + self._title_in / 2
        self._write(text, left + self._side_in / 2, above, 9)

    def row_title(self, row: int, text: str) -> None:
        """Write at the left of a row."""
        self._write_turned(text, 0.16, self._corner(row, 0)[1] + self._side_in / 2, 10)

    def bar(self, row: int, column: int, scale: ColourScale, *, n_columns: int = 1) -> None:
        """Draw the colours of squares below them, with the ends and the middle of the scale."""
        left, bottom = self._corner(row, column)
        width = n_columns * self._step_in[0] - _GAP_IN
        left, bottom, width = left + 0.1 * width, bottom - 0.2, 0.8 * width
        colours = np.arange(N_LEVELS, dtype=np.uint8)[None]
        box = left, bottom, width, 0.1
        self._inlays.append(Inlay(box, colours, scale.table, coarse=COARSE_LEVELS))
        for share in (0.0, 0.5, 1.0):
            number = float(scale.norm.inverse(share))
            text = f"{float(f'{number:.2g}'):g}".replace("-", "\N{MINUS SIGN}")
            self._write(text, left + share * width, bottom - 0.09, 7)
        self._write(scale.label, left + width / 2, bottom - 0.25, 7.5)

    def drawing(self, max_bytes: int) -> Raster:
        """What was drawn."""
        return Raster(self._size_in, tuple(self._inlays), tuple(self._words), max_bytes)
