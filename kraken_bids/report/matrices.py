# SPDX-License-Identifier: MIT
"""Heat maps of measured connectomes beside predicted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..flavors import Flavor
from .canvas import MAX_BYTES, require
from .matrix_sheet import MatrixSheet, connectome_scale
from .raster import Raster

#: Side of a heat map in inches: a pair is as wide as a phone. Height of a title of two lines.
_SIDE_IN, _TITLE_IN = 1.95, 0.44


@dataclass(frozen=True, eq=False)
class Pair:
    """A measured and a predicted connectome.

    Parameters
    ----------
    name
        Flavor of both.
    measured, predicted
        (R, R); NaN where a region is missing.
    source
        What the prediction was made from.
    """

    name: str
    measured: NDArray[np.floating]
    predicted: NDArray[np.floating]
    source: str = ""

    @cached_property
    def correlation(self) -> float:
        """Of their edges."""
        return edge_correlation(self.measured, self.predicted)


def draw_predictions(pairs: Sequence[Pair]) -> Raster:
    """Draw measured beside predicted connectomes, with the correlation of their edges.

    Parameters
    ----------
    pairs
        A row each, with one colour scale.

    Raises
    ------
    UsageError
        If there is no pair.
    """
    require(pairs, "prediction")
    sheet = MatrixSheet(len(pairs), 2, side_in=_SIDE_IN, title_in=_TITLE_IN, of_rows=True)
    for row, pair in enumerate(pairs):
        flavor, matrices = Flavor.parse(pair.name), [pair.measured, pair.predicted]
        scale = connectome_scale(flavor, matrices)
        for column, matrix in enumerate(matrices):
            sheet.put(row, column, matrix, scale, flavor.atlas)
        origin = f" from {pair.source}" if pair.source else ""
        sheet.title(row, 0, f"{pair.name}\nmeasured")
        sheet.title(row, 1, f"predicted{origin}\nr = {pair.correlation:.2f}")
        sheet.bar(row, 0, scale, n_columns=2)
    return sheet.drawing(MAX_BYTES)


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
