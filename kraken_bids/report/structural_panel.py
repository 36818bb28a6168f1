# SPDX-License-Identifier: MIT
"""All structural connectomes of a session in one panel: a row an atlas, a column a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..flavors import Flavor
from .canvas import INK, colour_map, save_png
from .functional_panel import PANEL_BYTES, PanelSheet, draw_by_side
from .heatmaps import ColourScale, add_colour_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

#: What a recipe is called above its column, in the order of columns.
_ALGORITHMS = {"SCifod2act": "iFOD2 with ACT", "SCsdstream": "SD_STREAM"}
_PROCESSINGS = {
    "volnorm": "by volume",
    "count": "count",
    "sift2volnorm": "SIFT2 by volume",
    "sift2": "SIFT2",
}


def draw_structural_panel(
    matrices: Mapping[str, NDArray[np.floating]],
    out_file: Path | BytesIO,
    *,
    max_bytes: int = PANEL_BYTES,
) -> int:
    """Draw structural connectomes on logarithmic scales, all of one column with the same colours.

    Parameters
    ----------
    matrices
        (R, R) by flavor name; NaN where a region is missing (grey), 0 is white.
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
        If there is no structural connectome.
    """
    flavors = [Flavor.parse(name) for name in matrices]
    flavors = [flavor for flavor in flavors if flavor.group == "SC"]
    if not flavors:
        raise UsageError("there is no structural connectome to draw", fix="Give one or more.")
    atlases = list(dict.fromkeys(flavor.atlas for flavor in flavors))
    found = {(flavor.kind, flavor.processing) for flavor in flavors}
    order = [(kind, processing) for processing in _PROCESSINGS for kind in _ALGORITHMS]
    recipes = [key for key in order if key in found] + sorted(found - set(order))
    sheet = PanelSheet(len(atlases), len(recipes))
    for column, (kind, processing) in enumerate(recipes):
        names = [f"{kind}_{atlas}_{processing}" for atlas in atlases]
        units = Flavor(kind, atlases[0], processing).recipe.units
        scale = logarithmic_scale([matrices[name] for name in names if name in matrices], units)
        for row, (atlas, name) in enumerate(zip(atlases, names, strict=True)):
            axes = sheet.axes(row, column)
            if name not in matrices:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "not made", ha="center", fontsize=9, color=INK)
                continue
            image = _draw(axes, atlas, matrices[name], scale, names_sides=column == 0)
        title = f"{_ALGORITHMS.get(kind, kind)}, {_PROCESSINGS.get(processing, processing)}"
        sheet.title(column, title)
        bar = add_colour_bar(sheet.figure, image, scale, inside=sheet.bar(column), flat=True)
        bar.ax.minorticks_off()
    for row, atlas in enumerate(atlases):
        sheet.row_title(row, atlas)
    return save_png(sheet.figure, out_file, n_colours=64, max_bytes=max_bytes)


def _draw(
    axes: Axes,
    atlas: str,
    matrix: NDArray[np.floating],
    scale: ColourScale,
    *,
    names_sides: bool,
) -> AxesImage:
    """Draw one matrix; what has no logarithm takes the colour below the scale."""
    below = scale.norm.vmin * 1e-3
    values = np.array(matrix, dtype=np.float64)
    values[values <= 0] = below
    return draw_by_side(axes, atlas, values, scale, names_sides=names_sides, diagonal=below)


def logarithmic_scale(matrices: list[NDArray[np.floating]], units: str) -> ColourScale:
    """Colours of the matrices of one recipe, with limits that hold 98.9 % of what is above 0."""
    from matplotlib.colors import LogNorm

    edges = np.concatenate([matrix[np.triu_indices(len(matrix), k=1)] for matrix in matrices])
    positive = edges[np.isfinite(edges) & (edges > 0)]
    low, high = np.percentile(positive, [1, 99.9]) if positive.size else (1.0, 10.0)
    low, high = float(f"{low:.2g}"), float(f"{max(high, low * 10):.2g}")
    return ColourScale(
        colour_map("viridis", under="white"),
        LogNorm(low, high),
        label=f"{units}, log scale, limits {low:g} to {high:g}; white: none",
        extend="max",
    )
