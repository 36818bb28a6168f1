# SPDX-License-Identifier: MIT
"""All connectomes of a session in a panel a modality: a row an atlas, a column a recipe."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..flavors import Flavor
from .canvas import require
from .matrix_sheet import MatrixSheet, connectome_scale
from .raster import Raster

#: Size of a panel in bytes: nine matrices of up to 439 regions.
PANEL_BYTES = 260_000
#: Side of a matrix and height of the titles in inches.
_SIDE_IN, _TITLE_IN = 2.75, 0.34
#: What a recipe is called above its column, in the order of columns.
_FUNCTIONAL = {
    ("FCcorr", "hpf"): "correlation",
    ("FCcorr", "hpfgsr"): "correlation, grey-matter signal removed",
    ("FCpcorr", "hpf"): "partial correlation",
}
_STRUCTURAL = {
    (kind, processing): f"{algorithm}, {words}"
    for processing, words in (
        ("volnorm", "by volume"),
        ("count", "count"),
        ("sift2volnorm", "SIFT2 by volume"),
        ("sift2", "SIFT2"),
    )
    for kind, algorithm in (("SCifod2act", "iFOD2 with ACT"), ("SCsdstream", "SD_STREAM"))
}

Matrices = Mapping[str, NDArray[np.floating]]


def draw_functional_panel(matrices: Matrices) -> Raster:
    """Draw functional connectomes, all of one column with the same colours.

    Parameters
    ----------
    matrices
        (R, R) by flavor name; NaN where a region is missing (grey).

    Raises
    ------
    UsageError
        If there is no functional connectome.
    """
    return _draw_panel(matrices, "FC", "functional connectome", _FUNCTIONAL)


def draw_structural_panel(matrices: Matrices) -> Raster:
    """Draw structural connectomes on logarithmic scales, one a column.

    Parameters
    ----------
    matrices
        (R, R) by flavor name; NaN where a region is missing (grey), 0 is white.

    Raises
    ------
    UsageError
        If there is no structural connectome.
    """
    return _draw_panel(matrices, "SC", "structural connectome", _STRUCTURAL)


def _draw_panel(
    matrices: Matrices, group: str, what: str, titles: Mapping[tuple[str, str], str]
) -> Raster:
    """Draw the matrices of one group; recipes without a title come last."""
    flavors = [flavor for flavor in map(Flavor.parse, matrices) if flavor.group == group]
    require(flavors, what)
    atlases = list(dict.fromkeys(flavor.atlas for flavor in flavors))
    found = {(flavor.kind, flavor.processing) for flavor in flavors}
    recipes = [key for key in titles if key in found] + sorted(found - set(titles))
    sheet = MatrixSheet(
        len(atlases), len(recipes), side_in=_SIDE_IN, title_in=_TITLE_IN, of_rows=False
    )
    for column, (kind, processing) in enumerate(recipes):
        of_column = [Flavor(kind, atlas, processing) for atlas in atlases]
        made = [matrices[str(flavor)] for flavor in of_column if str(flavor) in matrices]
        scale = connectome_scale(of_column[0], made)
        for row, flavor in enumerate(of_column):
            if str(flavor) in matrices:
                sheet.put(row, column, matrices[str(flavor)], scale, flavor.atlas)
            else:
                sheet.leave_out(row, column)
        sheet.title(0, column, titles.get((kind, processing), f"{kind} {processing}"))
        sheet.bar(len(atlases) - 1, column, scale)
    for row, atlas in enumerate(atlases):
        sheet.row_title(row, atlas)
    return sheet.drawing(PANEL_BYTES)
