# SPDX-License-Identifier: MIT
"""One read of a tractogram: the regions of both ends of each streamline, in all atlases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..image_loading import UNREADABLE, load_image, read_image
from .assignment import RegionSearch
from .tractograms import iterate_streamlines

#: Streamlines whose ends are looked up together.
_TOGETHER = 400_000

#: Keys beside the atlases in a file of assignments.
LENGTHS, WEIGHTS = "lengths_mm", "sift2_weights"


@dataclass(frozen=True)
class AssignedStreamlines:
    """Where the streamlines of one tractogram end.

    Parameters
    ----------
    regions
        By atlas, (n_streamlines, 2), region indices of first and last point; 0 for none.
    lengths_mm
        (n_streamlines,).
    weights
        (n_streamlines,), SIFT2 weights, or None.
    """

    regions: Mapping[str, NDArray[np.int16]]
    lengths_mm: NDArray[np.float32]
    weights: NDArray[np.float32] | None = None

    def save(self, file: Path) -> None:
        """Write the arrays, compressed: with three atlases about 11 bytes a streamline."""
        arrays: dict[str, Any] = {**self.regions, LENGTHS: self.lengths_mm}
        if self.weights is not None:
            arrays[WEIGHTS] = self.weights
        np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, file: Path) -> AssignedStreamlines:
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
        lengths_mm, weights = found.pop(LENGTHS), found.pop(WEIGHTS, None)
        return cls(found, lengths_mm, weights)


def read_labels(
    labels_files: Mapping[str, Path],
) -> tuple[dict[str, NDArray[np.integer]], NDArray[np.float64]]:
    """Read label images, which must share one grid.

    Returns
    -------
    labels
        By atlas, (X, Y, Z), region indices.
    affine
        (4, 4), voxel to RAS mm.

    Raises
    ------
    InputError
        If one is damaged, they lie on different grids, or hold an index that 16 bits do not.
    """
    images = {atlas: _open(file) for atlas, file in labels_files.items()}
    first = next(iter(images.values()))
    labels = {}
    for atlas, image in images.items():
        where = str(labels_files[atlas])
        same = image.shape == first.shape and np.allclose(image.affine, first.affine, atol=1e-4)
        if not same:
            raise InputError(
                "label images lie on different grids",
                where=where,
                fix="Bring all atlases onto one grid.",
            )
        values = _values(image, where)
        whole = np.issubdtype(values.dtype, np.integer)
        labels[atlas] = values if whole else np.rint(values).astype(np.int32)
        if labels[atlas].max(initial=0) > np.iinfo(np.int16).max:
            raise InputError(
                f"the label image holds label {labels[atlas].max()}",
                where=where,
                fix="Give a label image whose values are the indices of the atlas's table.",
            )
    return labels, first.affine


def _open(file: Path) -> Any:
    try:
        return load_image(file)
    except UNREADABLE as error:
        raise _unreadable(str(file), error) from error


def _values(image: Any, where: str) -> NDArray[Any]:
    try:
        return read_image(image)
    except UNREADABLE as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(
        f"the label image cannot be read: {error}", where=where, fix="Make the file again."
    )


def assign_streamlines(
    file: Path, labels_files: Mapping[str, Path], *, radius_mm: float
) -> AssignedStreamlines:
    """Find the regions in which the streamlines of a tractogram end.

    Parameters
    ----------
    file
        ``.tck`` file.
    labels_files
        Label image by atlas, in the space of the tractogram, all on one grid.
    radius_mm
        As of `RegionSearch`.

    Raises
    ------
    InputError
        If a file is damaged or does not fit.
    """
    labels, affine = read_labels(labels_files)
    search = RegionSearch(list(labels.values()), affine, radius_mm=radius_mm)
    ends: list[NDArray[np.float32]] = []
    lengths: list[NDArray[np.float32]] = []
    regions: list[NDArray[np.int16]] = []
    n_waiting = 0
    for streamlines in iterate_streamlines(file):
        ends.append(streamlines.ends)
        lengths.append(streamlines.lengths_mm)
        n_waiting += len(streamlines.ends)
        if n_waiting >= _TOGETHER:
            regions.append(_regions(search, ends))
            ends, n_waiting = [], 0
    if ends:
        regions.append(_regions(search, ends))
    found = np.concatenate(regions)
    return AssignedStreamlines(
        {atlas: found[..., column].copy() for column, atlas in enumerate(labels)},
        np.concatenate(lengths),
    )


def _regions(search: RegionSearch, ends: Sequence[NDArray[np.float32]]) -> NDArray[np.int16]:
    """(n_streamlines, 2, n_atlases), regions of the ends."""
    together = np.concatenate(ends)
    found = search.assign(together.reshape(-1, 3))
    return found.astype(np.int16).reshape(len(together), 2, -1)


def read_weights(file: Path, *, n_streamlines: int) -> NDArray[np.float32]:
    """Read the weights that ``tcksift2`` gave to streamlines.

    Parameters
    ----------
    file
        Text: numbers between white space, after lines that begin with ``#``.
    n_streamlines
        Number of streamlines of the tractogram.

    Returns
    -------
    NDArray
        (n_streamlines,), 0 or more.

    Raises
    ------
    InputError
        If there are more or fewer numbers, one is negative or not finite, or several streamlines
        all have the same: then nothing was weighed, and their sums would be counts.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
        text = " ".join(line for line in lines if not line.startswith("#"))
        weights = np.array(text.split(), dtype=np.float32)
    except ValueError as error:
        raise InputError(
            f"weights of streamlines cannot be read: {error}", where=str(file),
            fix="Run SIFT2 again.",
        ) from error  # fmt: skip
    if weights.size != n_streamlines or not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(
            f"{weights.size} weights for {n_streamlines} streamlines, or some that are none",
            where=str(file),
            fix="Run SIFT2 again on this tractogram.",
        )
    if n_streamlines > 1 and (weights == weights[0]).all():
        raise InputError(
            f"SIFT2 gave all {n_streamlines} streamlines the weight {weights[0]:g}",
            where=str(file),
            fix="Ask for more streamlines (--streamlines), or leave out --sift2.",
        )
    return weights
