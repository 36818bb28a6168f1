# SPDX-License-Identifier: MIT
"""Transform files as ITK writes them: composite ``.h5``, affine ``.txt`` and ANTs' ``.mat``.

ITK counts x and y in the other direction (LPS) than we do (RAS), and a file holds a map of
points.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import io

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AFFINE_TYPE = "AffineTransform_double_3_3"
_FIELD_TYPE = "DisplacementFieldTransform_double_3_3"

_HEADER = {
    "ITKVersion": "5.3.0",
    "HDFVersion": "1.12.2",
    "OSName": "Linux",
    "OSVersion": "0",
    "TransformGroup/0/TransformType": "CompositeTransform_double_3_3",
}

#: One part of a composite: a (4, 4) affine, or a displacement field (X, Y, Z, 3) and its affine.
Part = NDArray[np.floating] | tuple[NDArray[np.floating], NDArray[np.floating]]


def write_composite(path: Path, parts: tuple[Part, ...]) -> None:
    """Write a chain of maps of points as ITK's composite transform.

    Parameters
    ----------
    path
        ``.h5``.
    parts
        In the order in which they act on a point. ITK lists them the other way round: the last
        of its list acts first.
    """
    with h5py.File(path, "w") as file:
        for key, text in _HEADER.items():
            _write_text(file, key, text)
        for number, part in enumerate(reversed(parts), start=1):
            kind, parameters, fixed = _encode(part)
            group = file.create_group(f"TransformGroup/{number}")
            _write_text(group, "TransformType", kind)
            # The names' missing letter is ITK's own.
            group["TranformFixedParameters"] = fixed
            group.create_dataset("TranformParameters", data=parameters, compression="gzip")


def _write_text(group: h5py.Group, key: str, text: str) -> None:
    """Store text as ITK does: one string of variable length."""
    group.create_dataset(key, data=[text], dtype=h5py.string_dtype("ascii"))


def _encode(part: Part) -> tuple[str, NDArray[np.float64], NDArray[np.float64]]:
    """Type, parameters and fixed parameters of one part."""
    if not isinstance(part, tuple):
        return _AFFINE_TYPE, _affine_parameters(part), np.zeros(3)
    field, affine = part
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lps = _LPS @ affine
    direction = lps[:3, :3] / spacing
    fixed = np.concatenate([field.shape[:3], lps[:3, 3], spacing, direction.ravel()])
    vectors = np.asarray(field, dtype=np.float64) * [-1, -1, 1]
    return _FIELD_TYPE, vectors.transpose(2, 1, 0, 3).ravel(), fixed


def _affine_parameters(affine: NDArray[np.floating]) -> NDArray[np.float64]:
    """The nine numbers of the matrix, row by row, and the translation, in LPS."""
    lps = _LPS @ affine @ _LPS
    return np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]])


def write_affine_text(path: Path, affine: NDArray[np.floating]) -> None:
    """Write a map of points as ITK's text file."""
    parameters = " ".join(f"{value:.16g}" for value in _affine_parameters(affine))
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\n"
        f"Transform: {_AFFINE_TYPE}\nParameters: {parameters}\nFixedParameters: 0 0 0\n",
        encoding="utf-8",
    )


def write_affine_mat(path: Path, affine: NDArray[np.floating]) -> None:
    """Write a map of points as ANTs' binary ``.mat`` (MATLAB, version 4)."""
    content = {
        _AFFINE_TYPE: _affine_parameters(affine)[:, None],
        "fixed": np.zeros((3, 1)),
    }
    with path.open("wb") as stream:
        io.savemat(stream, content, format="4")
