# SPDX-License-Identifier: MIT
"""The table of figures: each kind drawn from one ``.npz`` file of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, UsageError, suggest
from .canvas import Drawing, save_png
from .cohort_figures import MEASURES, draw_adaptation, draw_identification
from .functional_figure import draw_functional_qc
from .matrices import Pair, draw_connectomes, draw_predictions
from .quality_figures import draw_structural_qc
from .raster import Raster

__all__ = [
    "FIGURES",
    "draw_adaptation",
    "draw_connectomes",
    "draw_figure",
    "draw_functional_qc",
    "draw_identification",
    "draw_predictions",
    "draw_structural_qc",
]

Arrays = Mapping[str, NDArray[Any]]


def draw_figure(kind: str, arrays_file: Path, out_file: Path) -> int:
    """Draw a figure of a kind from a file of arrays.

    Parameters
    ----------
    kind
        A key of `FIGURES`.
    arrays_file
        ``.npz`` with what the kind's function needs.
    out_file
        PNG file.

    Returns
    -------
    int
        Size in bytes.

    Raises
    ------
    UsageError
        If the kind is unknown.
    InputError
        If the file cannot be read or lacks an array.
    """
    if kind not in FIGURES:
        raise UsageError(f"figure '{kind}' is unknown", fix=suggest(kind, FIGURES) + ".")
    try:
        with np.load(arrays_file, allow_pickle=False) as archive:
            arrays = dict(archive)
        return save_png(FIGURES[kind](arrays), out_file)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"cannot be drawn as figure '{kind}': {error}",
            where=str(arrays_file),
            fix="Remove the working folder and run again.",
        ) from error


def _predictions(arrays: Arrays) -> Raster:
    """Arrays ``<flavor>__measured`` and ``<flavor>__predicted``."""
    flavors = [key.removesuffix("__measured") for key in arrays if key.endswith("__measured")]
    source = str(arrays.get("source", ""))
    return draw_predictions([
        Pair(name, arrays[f"{name}__measured"], arrays[f"{name}__predicted"], source)
        for name in flavors
    ])


def _identification(arrays: Arrays) -> Drawing:
    """Arrays named as the columns of the table of prediction quality, one value a row."""
    columns = ["source", "target", *(key for row in MEASURES for key in (row[0], row[2]) if key)]
    columns = [column for column in columns if column in arrays]
    rows = zip(*(arrays[column].tolist() for column in columns), strict=True)
    return draw_identification([dict(zip(columns, row, strict=True)) for row in rows])


def _adaptation(arrays: Arrays) -> Drawing:
    """Arrays ``<flavor>__before``, ``<flavor>__after`` and ``<flavor>__training``."""
    flavors = [key.removesuffix("__before") for key in arrays if key.endswith("__before")]
    means = {
        name: (arrays[f"{name}__before"], arrays[f"{name}__after"], arrays[f"{name}__training"])
        for name in flavors
    }
    return draw_adaptation(means)


#: Every kind of figure by name: from arrays to a drawing.
FIGURES: dict[str, Callable[[Arrays], Drawing | Raster]] = {
    "connectomes": draw_connectomes,
    "functional_qc": draw_functional_qc,
    "structural_qc": draw_structural_qc,
    "predictions": _predictions,
    "identification": _identification,
    "adaptation": _adaptation,
}
