# SPDX-License-Identifier: MIT
"""HDF5 opened with care: what a file claims is held against its size, and it stays the one file.

An HDF5 file can declare an array of any size in a few bytes (values that are not stored are all
alike), and can refer to other files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from .storage import MAX_DEFLATE_RATIO

#: What opening and reading may raise over damage.
UNREADABLE: tuple[type[Exception], ...] = (
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError,
    OverflowError, MemoryError,
)  # fmt: skip


def own_members(group: Any) -> Iterator[tuple[str, Any]]:
    """Names and members of a group that lie in its file; links elsewhere are not followed."""
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.HardLink):
            yield name, group[name]


def plain_dataset(group: Any, name: str, *, file: Path) -> Any:
    """Give a data set whose values the file can hold.

    Raises
    ------
    KeyError
        If there is none of this name.
    ValueError
        If it lies in another file, or declares more than this one can hold.
    """
    item = group[name]
    link = group.get(name, getlink=True)
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise ValueError(f"'{name}' holds no values")
    if not isinstance(link, h5py.HardLink) or item.external or item.is_virtual:
        raise ValueError(f"'{name}' lies in another file")
    n_bytes = math.prod(item.shape) * item.dtype.itemsize
    if n_bytes > file.stat().st_size * MAX_DEFLATE_RATIO:
        raise ValueError(f"'{name}' declares {n_bytes} bytes")
    return item
