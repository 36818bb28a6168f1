# SPDX-License-Identifier: MIT
"""Images opened with care: what a header claims is held against the file before it is read.

A header is a few hundred bytes that anyone may have written, and a gzipped file of some megabytes
may hold gigabytes of zeros.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from .storage import MAX_DEFLATE_RATIO

#: Most values of an image that is read whole, and of a volume: a cube of 645 voxels. Templates of
#: half a millimetre have a quarter of it.
MAX_VALUES = 1 << 28
#: Most bytes before the first value: extensions hold the history of an image.
MAX_EXTENSION_BYTES = 16 << 20

#: What opening and reading an image may raise: nibabel's errors, and those of what it stands on.
UNREADABLE: tuple[type[Exception], ...] = (
    ImageFileError, HeaderDataError, WrapStructError, MGHError,
    OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, OverflowError, MemoryError,
)  # fmt: skip


def load_image(file: Path) -> Any:
    """Open an image with nibabel; its values are read later.

    Raises
    ------
    UNREADABLE
        If there is no such file, or it is no image that can be read.
    """
    _check_extensions(file)
    return nib.load(file)


def _check_extensions(file: Path) -> None:
    """Refuse a NIfTI header whose extensions would fill the memory: nibabel reads them at once."""
    if not file.name.lower().endswith((".nii", ".nii.gz")):
        return
    with gzip.open(file) if is_compressed(file) else file.open("rb") as stream:
        block = stream.read(nib.Nifti2Header.sizeof_hdr)
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(block):
            offset = float(kind(block[: kind.sizeof_hdr], check=False)["vox_offset"])
            if offset > MAX_EXTENSION_BYTES:
                raise ValueError(f"{offset:.3g} bytes before the first value")


def is_compressed(file: Path) -> bool:
    """Whether a file is gzipped, by its name."""
    return file.suffix.lower() in {".gz", ".mgz"}


def most_bytes(file: Path) -> int:
    """Bytes that a file can hold: a compressed one more than it has."""
    return file.stat().st_size * (MAX_DEFLATE_RATIO if is_compressed(file) else 1)


def read_image(image: Any) -> NDArray[Any]:
    """Read all values of an image that `load_image` opened, or that is in memory.

    Raises
    ------
    UNREADABLE
        If the file holds less than its header promises, or the header promises more than
        `MAX_VALUES`.
    """
    proxy = image.dataobj
    if nib.is_proxy(proxy):
        n_values = math.prod(proxy.shape)
        promised = int(proxy.offset) + n_values * np.dtype(proxy.dtype).itemsize
        there = most_bytes(Path(image.get_filename()))
        if promised > there or min(proxy.shape, default=0) < 0:
            raise ValueError(
                f"its header promises {promised} bytes, the file holds at most {there}"
            )
        if n_values > MAX_VALUES:
            raise ValueError(f"its header promises {n_values} values, of {MAX_VALUES} at most")
    return np.asanyarray(proxy)
