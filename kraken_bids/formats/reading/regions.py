# SPDX-License-Identifier: MIT
"""Rows and columns of a matrix brought to the order of an atlas, by the names that it carries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...atlases import atlas_names, load_atlas
from ...bids.region_order import find_places
from .naming import ATLAS_ALIASES


@dataclass(frozen=True, eq=False)
class LabelledMatrix:
    """A matrix as a file has it.

    Parameters
    ----------
    values
        (R, R), NaN where the file has no value.
    labels
        (R,) names or numbers of the regions, or None if the file has none.
    """

    values: NDArray[np.float64]
    labels: tuple[str, ...] | None = None


def atlas_of(label: str) -> str:
    """Today's name of an atlas from a label in any case, or the label itself.

    Examples
    --------
    >>> atlas_of("CocoMMPSUIT439")
    'coco439'
    >>> atlas_of("Schaefer100")
    'Schaefer100'
    """
    text = label.lower()
    for name, aliases in ATLAS_ALIASES.items():
        if text in aliases:
            return name
    return text if text in atlas_names() else label


def atlas_of_flavor(flavor: str) -> str:
    """Second part of a flavor's name; empty for names of other forms."""
    parts = flavor.split("_")
    return parts[1] if len(parts) == 3 else ""


def order_regions(
    matrix: LabelledMatrix, *, atlas: str, where: str
) -> tuple[NDArray[np.float64], str]:
    """Bring a matrix to the order of an atlas.

    Names of regions count, then their numbers (indices of the atlas, or the codes of its source
    image). Regions that the matrix lacks get rows and columns of NaN. A matrix without labels,
    or of an atlas without a table, keeps its order.

    Parameters
    ----------
    matrix
        As read.
    atlas
        Name of the atlas.
    where
        File and participant, for messages.

    Returns
    -------
    values
        (R, R), float64.
    note
        What was done, for the log; empty if nothing was.

    Raises
    ------
    InputError
        If some names are those of the atlas and others are not, or numbers are of another atlas.
    """
    if matrix.labels is None or atlas not in atlas_names():
        return matrix.values, ""
    places, note = find_places(matrix.labels, atlas=atlas, where=where)
    if places is None:
        return matrix.values, note
    size = load_atlas(atlas).n_regions
    whole = np.full((size, size), np.nan)
    whole[np.ix_(places, places)] = matrix.values
    return whole, note
