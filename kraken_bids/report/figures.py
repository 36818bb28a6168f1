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
from .functional_figure import draw_functional_qc
from .quality_figures import draw_structural_qc

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


#: Kinds of figures that a step leaves arrays for, by name: from arrays to a drawing.
FIGURES: dict[str, Callable[[Arrays], Drawing]] = {
    "functional_qc": draw_functional_qc,
    "structural_qc": draw_structural_qc,
}
