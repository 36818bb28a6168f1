# SPDX-License-Identifier: MIT
"""Predictions in one HDF5 file: of one session, or of many participants.

======================  =========================================================================
``/participants``       (n,) ids
``/<source>/<target>``  (n, n_edges), float32: the upper triangle without the diagonal, row by row
``/<source>/encoded``   (n, latent_size), float32: latents
``/facts``              JSON: model, adaptation, inputs and so on
======================  =========================================================================

A participant's values lie side by side in the file, uncompressed: they are read at once, and
floating-point noise would hardly become smaller.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

PARTICIPANTS = "participants"
FACTS = "facts"
#: Name of the latents, where others have a target.
ENCODED = "encoded"


def write_head(file: Any, participants: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Write ids and facts into an open file."""
    import h5py

    text = h5py.string_dtype()
    file.create_dataset(PARTICIPANTS, data=list(participants), dtype=text)
    file.create_dataset(FACTS, data=json.dumps(facts, ensure_ascii=False), dtype=text)


def add_prediction(
    path: Path, participant: str, *, source: str, target: str, edges: NDArray[np.floating]
) -> None:
    """Add one predicted connectome to the file of a session, which is made if it is not there.

    Parameters
    ----------
    path
        File that nobody else writes; a prediction that it has is replaced.
    participant
        Id of the one participant (and session).
    source, target
        Flavor or fusion; flavor.
    edges
        (n_edges,).
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "a") as file:
        if PARTICIPANTS not in file:
            write_head(file, [participant], {})
        name = f"{source}/{target}"
        if name in file:
            del file[name]
        file.create_dataset(name, data=np.asarray(edges, dtype=np.float32)[None])


def list_predictions(file: Any) -> Iterator[tuple[str, str]]:
    """Source and target of everything in an open file, latents (`ENCODED`) included."""
    import h5py

    from ..hdf5_loading import own_members

    for source, group in own_members(file):
        if isinstance(group, h5py.Group):
            yield from ((source, target) for target in group)


def find_predictions(path: Path) -> tuple[tuple[str, str], ...]:
    """Source and target of the connectomes in a file; nothing is read.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    import h5py

    from ..hdf5_loading import UNREADABLE

    try:
        with h5py.File(path) as file:
            return tuple(pair for pair in list_predictions(file) if pair[1] != ENCODED)
    except UNREADABLE as error:
        raise damaged(path, error) from error


def read_matrix(
    path: Path, *, source: str, target: str, diagonal: float = 0.0
) -> NDArray[np.float64]:
    """Read the prediction of a session's file as a matrix.

    Parameters
    ----------
    path
        File of one session.
    source, target
        Flavor or fusion; flavor.
    diagonal
        Value on the diagonal, which the file does not hold.

    Returns
    -------
    NDArray
        (n_regions, n_regions).

    Raises
    ------
    InputError
        If the file is damaged, or lacks the prediction.
    """
    import h5py

    from ..hdf5_loading import UNREADABLE, plain_dataset

    try:
        with h5py.File(path) as file:
            edges = plain_dataset(file[source], target, file=path)[0]
        size = (1 + round((1 + 8 * len(edges)) ** 0.5)) // 2
        rows, columns = np.triu_indices(size, k=1)
        matrix = np.full((size, size), diagonal)
        matrix[rows, columns] = matrix[columns, rows] = edges
    except UNREADABLE as error:
        raise damaged(path, error) from error
    return matrix


def damaged(path: Path, error: Exception) -> InputError:
    """Make the error of a file that HDF5 cannot read."""
    return InputError(
        f"cannot be read as an HDF5 file of predictions: {error}",
        where=str(path),
        fix="Make the file again.",
    )
