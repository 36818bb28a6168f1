# SPDX-License-Identifier: MIT
"""Room for a cohort that memory does not hold: files without names, gone with their process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ResourceError

#: Bytes of arrays that are kept in memory; what comes after them goes to files.
IN_MEMORY = 512 << 20


class Scratch:
    """Makes arrays: in memory while there are few, then mapped from files.

    The system keeps of a mapped file what memory has room for, and forgets the rest.

    Parameters
    ----------
    folder
        Where the files are made; None to make all arrays in memory.
    in_memory
        Bytes of all arrays that are made in memory.
    """

    def __init__(self, folder: Path | None = None, *, in_memory: int | None = None) -> None:
        self._folder = folder
        self._left = IN_MEMORY if in_memory is None else in_memory

    def zeros(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Make an array of zeros.

        Raises
        ------
        ResourceError
            If the folder cannot be written, or its disk is full.
        """
        size = 4 * shape[0] * shape[1]
        if self._folder is None or size <= self._left:
            self._left -= size
            return np.zeros(shape, dtype=np.float32)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as stream:
                stream.truncate(size)
                if hasattr(os, "posix_fallocate"):
                    # all of it now: on a disk that fills up later, writing to a mapped file kills
                    os.posix_fallocate(stream.fileno(), 0, size)
                return np.asarray(np.memmap(stream, dtype=np.float32, mode="r+", shape=shape))
        except OSError as error:
            raise ResourceError(
                f"has no room for {size / 1e9:.1f} GB of connectomes: {error.strerror or error}",
                where=str(self._folder),
                fix="Give '--records' a folder on a disk with room.",
            ) from error


def keep_rows(array: NDArray[np.float32], rows: Sequence[int]) -> NDArray[np.float32]:
    """Move some rows to the front, in place, and give these: no second array is made.

    Parameters
    ----------
    array
        (n, width), changed.
    rows
        Increasing.
    """
    for place, row in enumerate(rows):
        if place != row:
            array[place] = array[row]
    return array[: len(rows)]
