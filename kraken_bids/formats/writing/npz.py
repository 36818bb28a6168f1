# SPDX-License-Identifier: MIT
"""Predictions as one ``.npz`` file: an array a source and target, streamed into the archive."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...connectome.edges import edges_to_matrix, n_regions
from ...storage import atomic_path
from ..outputs import Decoded, Latents, OutputFacts

#: Name of the latents, where others have a target.
ENCODED = "encoded"


@contextlib.contextmanager
def write_npz(path: Path, participants: Sequence[str], facts: OutputFacts) -> Iterator[NpzWriter]:
    """Write ``<source>__<target>``, ``<source>__encoded`` and ``participants``.

    Connectomes are (n, n_edges), or (n, R, R) with a diagonal of NaN if `facts` asks for
    matrices; all are float32, in C order, and not compressed: floating-point noise does not
    become smaller.

    Raises
    ------
    ResourceError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        writer = NpzWriter(archive, square=facts.square)
        ids = np.asarray(participants, dtype=np.str_)
        writer.add("participants", ids.shape, ids.dtype, [ids])
        yield writer


class NpzWriter:
    """Adds arrays to an open archive, a batch of participants at a time."""

    def __init__(self, archive: zipfile.ZipFile, *, square: bool) -> None:
        self.archive = archive
        self.square = square

    def add_latents(self, latents: Latents) -> None:
        """Write a source's latents, (n, latent_size)."""
        values = np.ascontiguousarray(latents.values, dtype=np.float32)
        self.add(f"{latents.source}__{ENCODED}", values.shape, values.dtype, [values])

    def add_connectomes(self, decoded: Decoded) -> None:
        """Write a source's predictions of a target."""
        shape: tuple[int, ...] = decoded.shape
        batches = (np.ascontiguousarray(rows, np.float32) for _, rows in decoded.batches())
        if self.square:
            shape = (shape[0], *[n_regions(shape[1])] * 2)
            batches = (edges_to_matrix(rows, diagonal=np.nan) for rows in batches)
        name = f"{decoded.source}__{decoded.target}"
        self.add(name, shape, np.dtype(np.float32), batches)

    def add(
        self,
        name: str,
        shape: Sequence[int],
        dtype: np.dtype,
        batches: Iterable[NDArray],
    ) -> None:
        """Write one array of a given shape from contiguous pieces of it."""
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": tuple(shape),
        }
        # The time is fixed, so that equal predictions make equal files.
        entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
        with self.archive.open(entry, "w", force_zip64=True) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for batch in batches:
                stream.write(batch.reshape(-1).view(np.uint8).data)
