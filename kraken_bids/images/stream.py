# SPDX-License-Identifier: MIT
"""Read a 4-D NIfTI image once, volume by volume, in memory that does not grow with its length.

zlib-ng inflates 2.6 times faster than zlib; the standard library's gzip is the fallback.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..image_loading import (
    MAX_VALUES,
    UNREADABLE,
    is_compressed,
    load_image,
    most_bytes,
    read_image,
)

_open_gzip: Callable[..., BinaryIO]
_READ_ERRORS: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error)
try:
    from zlib_ng import gzip_ng, zlib_ng

    _open_gzip = gzip_ng.open
    _READ_ERRORS = (*_READ_ERRORS, cast("type[Exception]", zlib_ng.error))
except ImportError:  # a platform without wheels of zlib-ng
    _open_gzip = cast("Callable[..., BinaryIO]", gzip.open)

#: Two grids are one when no corner of the image moves further, in voxels: headers that store one
#: affine in two ways differ by rounding.
GRID_TOLERANCE_VOXELS = 0.05

AGAIN = "Copy or preprocess the file again."


@dataclass(frozen=True)
class SeriesHeader:
    """What a 4-D image's header says, checked against the size of the file.

    Parameters
    ----------
    file
        ``.nii`` or ``.nii.gz``.
    shape
        Voxels of one volume, (n_x, n_y, n_z).
    n_volumes
        Length of the fourth axis.
    affine
        (4, 4), voxel indices to mm.
    dtype
        Type of the stored values, with their byte order.
    offset
        Bytes before the first value.
    slope, intercept
        True values are ``slope * stored + intercept``.
    """

    file: Path
    shape: tuple[int, int, int]
    n_volumes: int
    affine: NDArray[np.float64]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float

    @property
    def n_voxels(self) -> int:
        """Voxels of one volume."""
        return math.prod(self.shape)


def read_header(file: Path) -> SeriesHeader:
    """Read the header of a 4-D image.

    Raises
    ------
    InputError
        If the file is missing, no NIfTI-1/2 image, not 4-D, of complex or colour values, or
        shorter than its header promises.
    """
    if not file.is_file():
        raise InputError("the image does not exist", where=str(file), fix="Look at the path.")
    try:
        img: Any = load_image(file)
    except UNREADABLE as error:
        raise InputError(
            f"the image cannot be read: {error}", where=str(file), fix=AGAIN
        ) from error
    if not isinstance(img, nib.Nifti1Image):
        raise InputError(
            f"the image is of type {type(img).__name__}, not a NIfTI volume series",
            where=str(file),
            fix="Give the volumetric series: fMRIPrep --output-spaces MNI152NLin6Asym:res-2 T1w.",
        )
    if len(img.shape) != 4:
        raise InputError(
            f"the image has {len(img.shape)} dimensions {img.shape}, a BOLD series has 4",
            where=str(file),
            fix="Give the desc-preproc_bold image, not its reference or mask.",
        )
    # nibabel sets vox_offset, slope and inter of a loaded header to zero; its proxy keeps them.
    proxy: Any = img.dataobj
    header = SeriesHeader(
        file=file,
        shape=cast("tuple[int, int, int]", tuple(int(size) for size in img.shape[:3])),
        n_volumes=int(img.shape[3]),
        affine=np.asarray(img.affine, dtype=np.float64),
        dtype=np.dtype(proxy.dtype),
        offset=int(proxy.offset),
        slope=float(proxy.slope),
        intercept=float(proxy.inter),
    )
    _check_size(header)
    return header


def _check_size(header: SeriesHeader) -> None:
    """Refuse a header that promises what the file cannot hold, before memory is asked for."""
    if header.dtype.kind not in "iuf":
        raise InputError(
            f"the image stores values of type {header.dtype}",
            where=str(header.file),
            fix="Give an image of whole or real numbers.",
        )
    n_bytes = header.file.stat().st_size
    promised = header.offset + header.n_voxels * header.n_volumes * header.dtype.itemsize
    is_possible = promised <= most_bytes(header.file) and header.n_voxels <= MAX_VALUES
    if header.n_voxels < 1 or header.n_volumes < 1 or not is_possible:
        sizes = " x ".join(str(size) for size in (*header.shape, header.n_volumes))
        raise InputError(
            f"the image is cut short or damaged: its header promises {sizes} values "
            f"({promised} bytes), the file has {n_bytes} bytes",
            where=str(header.file),
            fix=AGAIN,
        )


def iterate_volumes(header: SeriesHeader) -> Iterator[NDArray]:
    """Give the volumes one after the other.

    Parameters
    ----------
    header
        As `read_header` gives it.

    Yields
    ------
    NDArray
        (n_voxels,), stored values in Fortran order (first axis fastest), read-only and of the
        file's type: apply `SeriesHeader.slope` and `SeriesHeader.intercept` to what is made from
        them.

    Raises
    ------
    InputError
        If the file ends early or its compressed data are damaged.
    """
    n_bytes = header.n_voxels * header.dtype.itemsize
    n_read = 0
    try:
        with _open(header.file) as stream:
            stream.read(header.offset)
            for _ in range(header.n_volumes):
                data = stream.read(n_bytes)
                if len(data) < n_bytes:
                    raise EOFError("no more data")
                n_read += 1
                yield np.frombuffer(data, dtype=header.dtype)
            stream.read(1)  # makes gzip compare its checksum
    except _READ_ERRORS as error:
        raise InputError(
            f"the image is cut short or damaged: {n_read} of its {header.n_volumes} volumes can "
            f"be read ({error})",
            where=str(header.file),
            fix=AGAIN,
        ) from error


def _open(file: Path) -> BinaryIO:
    return _open_gzip(file, "rb") if is_compressed(file) else file.open("rb")


def load_on_grid(file: Path, reference: SeriesHeader, *, kind: str) -> NDArray:
    """Read a 3-D image that must lie on the grid of a series.

    Parameters
    ----------
    file
        Image, such as a brain mask or atlas labels.
    reference
        The series.
    kind
        What the image is, for messages: ``brain mask``.

    Returns
    -------
    NDArray
        (n_x, n_y, n_z).

    Raises
    ------
    InputError
        If the image is missing or damaged, or has another shape or affine than the series.
    """
    if not file.is_file():
        raise InputError(f"the {kind} does not exist", where=str(file), fix="Look at the path.")
    try:
        img: Any = load_image(file)
        values: NDArray = read_image(img)
    except UNREADABLE as error:
        raise InputError(
            f"the {kind} cannot be read: {error}", where=str(file), fix=AGAIN
        ) from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    require_same_grid(reference, values.shape, affine=img.affine, kind=kind, file=file)
    return values


def require_same_grid(
    reference: SeriesHeader,
    shape: tuple[int, ...],
    *,
    affine: NDArray[np.floating],
    kind: str,
    file: Path,
) -> None:
    """Refuse an image on another grid than a series.

    Raises
    ------
    InputError
        Naming both images and how far apart they are.
    """
    fix = "Give images of one preprocessing run with the same space- and res- entities."
    where = f"{reference.file}; {file}"
    if tuple(shape) != reference.shape:
        raise InputError(
            f"the image has {_sizes(reference.shape)} voxels, its {kind} has {_sizes(shape)}",
            where=where,
            fix=fix,
        )
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in reference.shape])).reshape(3, -1)
    difference = np.asarray(affine, dtype=np.float64)[:3] - reference.affine[:3]
    moved = np.linalg.norm(difference[:, :3] @ corners + difference[:, 3:], axis=0).max()
    voxel_mm = np.linalg.norm(reference.affine[:3, :3], axis=0).min()
    if not moved <= GRID_TOLERANCE_VOXELS * voxel_mm:
        raise InputError(
            f"the image and its {kind} have {_sizes(shape)} voxels each, yet their affines place "
            f"them up to {moved:.2f} mm apart",
            where=where,
            fix=fix,
        )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
