# SPDX-License-Identifier: MIT
"""NIfTI files of whole numbers, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..bids.writers import write_json
from .bold import REPETITION_TIME_S

#: Codes of NIfTI for the space of an image.
SCANNER, ALIGNED, MNI = 1, 2, 4


def write_image(
    path: Path,
    data: NDArray[np.integer],
    affine: NDArray[np.floating],
    *,
    slope: float = 1.0,
    code: int = ALIGNED,
    sidecar: dict[str, object] | None = None,
) -> None:
    """Write an image of whole numbers.

    Parameters
    ----------
    path
        ``.nii.gz``; its folder is made.
    data
        3-D or 4-D, of an integer type.
    affine
        (4, 4).
    slope
        Value of one unit of `data`, put into the header as ``scl_slope``.
    code
        ``SCANNER``, ``ALIGNED`` or ``MNI``.
    sidecar
        Content of the JSON file beside it, or None for no such file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.header.set_xyzt_units("mm", "sec")
    if slope != 1.0:
        image.header.set_slope_inter(slope, 0)
    if data.ndim == 4:
        image.header["pixdim"][4] = REPETITION_TIME_S
    image.to_filename(path)
    if sidecar is not None:
        write_json(Path(str(path).removesuffix(".nii.gz") + ".json"), sidecar)


def write_share(
    path: Path, share: NDArray[np.floating], affine: NDArray[np.floating], **options: object
) -> None:
    """Write a map of values from 0 to 1 in steps of 1/250."""
    data = np.rint(np.clip(share, 0, 1) * 250).astype(np.uint8)
    write_image(path, data, affine, slope=1 / 250, **options)  # type: ignore[arg-type]
