# SPDX-License-Identifier: MIT
"""Rows and columns of a matrix brought to the order of an atlas, by the names that it carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...atlases import atlas_names, load_atlas
from ...errors import InputError
from .checks import name_some
from .naming import ATLAS_ALIASES

#: Numbered regions may leave out this share of an atlas; with more, it is another atlas.
MISSING_SHARE = 0.1


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
    regions = load_atlas(atlas).regions
    names = {region.name.casefold(): place for place, region in enumerate(regions)}
    labels = [label.strip().casefold() for label in matrix.labels]
    if labels == list(names):
        return matrix.values, ""
    if len(set(labels)) == len(labels):
        if any(label in names for label in labels):
            return _by_name(matrix, labels, names, atlas=atlas, where=where)
        if all(label.isdigit() for label in labels):
            codes = {region.code: place for place, region in enumerate(regions)}
            return _by_number(matrix, [int(label) for label in labels], codes, atlas, where)
    if len(labels) != len(regions):
        raise _other_atlas(matrix.labels, atlas, len(regions), where)
    return matrix.values, (
        f"the names of the regions ({name_some(matrix.labels[:3])}, …) are not those of {atlas}: "
        "the rows are taken in the file's order"
    )


def _by_name(
    matrix: LabelledMatrix,
    labels: Sequence[str],
    names: Mapping[str, int],
    *,
    atlas: str,
    where: str,
) -> tuple[NDArray[np.float64], str]:
    """Put rows where the atlas has their names."""
    strange = [
        original
        for original, label in zip(matrix.labels or (), labels, strict=True)
        if label not in names
    ]
    if strange:
        raise InputError(
            f"regions {name_some(strange)} are not of the atlas {atlas}, though others are",
            where=where,
            fix="Use one version of the atlas for all participants.",
        )
    return _placed(matrix.values, [names[label] for label in labels], len(names), atlas)


def _by_number(
    matrix: LabelledMatrix,
    numbers: Sequence[int],
    codes: Mapping[int, int],
    atlas: str,
    where: str,
) -> tuple[NDArray[np.float64], str]:
    """Put rows where the atlas has their numbers: indices from 1, or codes of its image."""
    size = len(codes)
    n = len(numbers)
    if n == size and list(numbers) == list(range(size)):
        return matrix.values, ""  # counted from 0, as tables of pandas are
    counted = list(numbers) == list(range(1, n + 1)) or list(numbers) == list(range(n))
    enough = n >= (1 - MISSING_SHARE) * size
    if set(numbers) <= set(range(1, size + 1)) and enough and not (counted and n < size):
        return _placed(matrix.values, [number - 1 for number in numbers], size, atlas)
    if set(numbers) <= set(codes) and enough and not (counted and n < size):
        return _placed(matrix.values, [codes[number] for number in numbers], size, atlas)
    raise _other_atlas(matrix.labels or (), atlas, size, where)


def _placed(
    values: NDArray[np.float64], places: Sequence[int], size: int, atlas: str
) -> tuple[NDArray[np.float64], str]:
    """Matrix of a whole atlas from some of its rows."""
    if list(places) == list(range(size)):
        return values, ""
    whole = np.full((size, size), np.nan)
    whole[np.ix_(places, places)] = values
    missing = size - len(places)
    if missing:
        return whole, f"{missing} regions of {atlas} are missing: their edges are"
    return whole, f"the regions are put into the order of {atlas}"


def _other_atlas(labels: Sequence[str], atlas: str, size: int, where: str) -> InputError:
    return InputError(
        f"holds {len(labels)} regions ({name_some(labels[:3])}, …), {atlas} has {size} others",
        where=where,
        fix=f"Give matrices of the atlas {atlas}.",
    )
