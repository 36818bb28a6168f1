# SPDX-License-Identifier: MIT
"""Predictions as one HDF5 file, out and in; `kraken_bids.bids.prediction_file` has the layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from ...bids.prediction_file import ENCODED, write_head
from ...connectome.edges import edges_to_matrix, n_regions
from ...storage import atomic_path
from ..outputs import Decoded, Latents, OutputFacts


@contextlib.contextmanager
def write_hdf5(
    path: Path, participants: Sequence[str], facts: OutputFacts
) -> Iterator[Hdf5Writer]:
    """Write ``/<source>/<target>``, ``/<source>/encoded``, ``/participants`` and ``/facts``.

    Raises
    ------
    ResourceError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        write_head(file, participants, facts.as_plain())
        yield Hdf5Writer(file, square=facts.square)


class Hdf5Writer:
    """Adds predictions to an open file, a batch of participants at a time."""

    def __init__(self, file: h5py.File, *, square: bool) -> None:
        self.file = file
        self.square = square

    def add_latents(self, latents: Latents) -> None:
        """Write a source's latents."""
        values = np.asarray(latents.values, dtype=np.float32)
        self.file.create_dataset(f"{latents.source}/{ENCODED}", data=values)

    def add_connectomes(self, decoded: Decoded) -> None:
        """Write a source's predictions of a target."""
        n, width = decoded.shape
        shape = (n, *[n_regions(width)] * 2) if self.square else (n, width)
        name = f"{decoded.source}/{decoded.target}"
        dataset = self.file.create_dataset(name, shape, dtype=np.float32)
        for start, rows in decoded.batches():
            block = edges_to_matrix(rows, diagonal=np.nan) if self.square else rows
            dataset[start : start + len(rows)] = block
