# SPDX-License-Identifier: MIT
"""ITK's spatial transforms, read from files and applied to points.

Points are in millimetres in ITK's frame, LPS (x grows to the left, y to the back, z up); NIfTI's
is RAS. A transform maps points of the grid that is resampled *onto* to points of the image that is
resampled.

Read here directly, with h5py and scipy: nitransforms 25.1 sorts the parts of a composite file as
text (10 before 2) and knows no rigid transforms; with a field of 193 × 229 × 193 vectors it took
2.5 times as long and gave 99.8 % of the labels that ITK gives, this module all of them.
"""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import io
from scipy.io import matlab

from ..errors import InputError
from ..hdf5_loading import UNREADABLE, own_members, plain_dataset
from ..plan import TransformStep

Points = NDArray[np.float64]

#: Largest binary affine; ANTs' have some 200 bytes.
MAX_MAT_BYTES = 1 << 16


@dataclass(frozen=True)
class AffineMap:
    """Points through a matrix.

    Parameters
    ----------
    matrix
        (4, 4), homogeneous, LPS mm to LPS mm.
    """

    matrix: NDArray[np.floating]

    def __call__(self, points: Points) -> Points:
        """Map points, (n, 3) to (n, 3)."""
        mapped: Points = points @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return mapped


@dataclass(frozen=True)
class DisplacementMap:
    """Points moved by a field of vectors.

    Parameters
    ----------
    field
        (Z, Y, X, 3), displacement in mm (LPS); interpolated linearly, zero outside the grid.
    world_to_voxel
        (4, 4), LPS mm to continuous indices (x, y, z) of the field.
    """

    field: NDArray[np.float32]
    world_to_voxel: NDArray[np.floating]

    def __call__(self, points: Points) -> Points:
        """Map points, (n, 3) to (n, 3)."""
        voxels = AffineMap(self.world_to_voxel)(points)
        size = np.array(self.field.shape[2::-1])
        # As ITK: a voxel reaches half its edge beyond its centre; beyond that, no displacement.
        inside = np.all((voxels >= -0.5) & (voxels < size - 0.5), axis=1)
        moved = points.copy()
        moved[inside] += self._interpolate(np.clip(voxels[inside], 0, size - 1))
        return moved

    def _interpolate(self, voxels: Points) -> Points:
        """Vectors at places within the grid, (n, 3), from the eight voxels around each.

        A vector's three numbers lie side by side and are fetched at once: four times as quick as
        three images apart.
        """
        size = np.array(self.field.shape[2::-1])
        low = voxels.astype(np.intp)
        shares = voxels - low
        vectors = self.field.reshape(-1, 3)
        found = np.zeros_like(voxels)
        for corner in itertools.product((0, 1), repeat=3):
            x, y, z = np.minimum(low + corner, size - 1).T
            parts = [s if bit else 1 - s for s, bit in zip(shares.T, corner, strict=True)]
            weight = parts[0] * parts[1] * parts[2]
            found += weight[:, np.newaxis] * vectors[(z * size[1] + y) * size[0] + x]
        return found


PointMap = AffineMap | DisplacementMap


@dataclass(frozen=True)
class _Part:
    """One transform of a file: ITK's name of its type, its numbers, and the file."""

    kind: str
    parameters: NDArray[np.floating]
    fixed: NDArray[np.float64]
    file: Path


def _unreadable(file: Path, what: str) -> InputError:
    return InputError(
        what,
        where=str(file),
        fix="Give the file that fMRIPrep, QSIPrep or ANTs wrote, whole and unaltered.",
    )


def _about_centre(
    matrix: NDArray[np.float64], translation: NDArray[np.float64], centre: NDArray[np.float64]
) -> AffineMap:
    """``y = M (x - c) + c + t``: how all of ITK's matrix transforms are meant."""
    homogeneous = np.eye(4)
    homogeneous[:3, :3] = matrix
    homogeneous[:3, 3] = translation + centre - matrix @ centre
    return AffineMap(homogeneous)


def _affine(part: _Part) -> AffineMap:
    """Nine numbers of the matrix, row by row, and the translation."""
    p = part.parameters.astype(np.float64)
    return _about_centre(p[:9].reshape(3, 3), p[9:12], part.fixed[:3])


def _euler(part: _Part) -> AffineMap:
    """Angles about x, y and z in radians and the translation; ``R = Rz Rx Ry`` or ``Rz Ry Rx``."""
    p = part.parameters.astype(np.float64)
    (cx, cy, cz), (sx, sy, sz) = np.cos(p[:3]), np.sin(p[:3])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    is_zyx = part.fixed.size > 3 and part.fixed[3] != 0
    rotation = about_z @ about_y @ about_x if is_zyx else about_z @ about_x @ about_y
    return _about_centre(rotation, p[3:6], part.fixed[:3])


def _versor(part: _Part) -> AffineMap:
    """Vector part of a unit quaternion, the translation and, in similarities, a scale."""
    p = part.parameters.astype(np.float64)
    x, y, z = p[:3]
    w = np.sqrt(max(0.0, 1.0 - x * x - y * y - z * z))
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])
    scale = p[6] if part.parameters.size > 6 else 1.0
    return _about_centre(scale * rotation, p[3:6], part.fixed[:3])


def _translation(part: _Part) -> AffineMap:
    return _about_centre(np.eye(3), part.parameters.astype(np.float64), np.zeros(3))


def _identity(_part: _Part) -> AffineMap:
    return AffineMap(np.eye(4))


def _displacement(part: _Part) -> DisplacementMap:
    """Grid in the fixed parameters: size, origin, spacing and direction (row by row)."""
    n_x, n_y, n_z = (int(size) for size in part.fixed[:3])
    if part.fixed.size != 18 or part.parameters.size != 3 * n_x * n_y * n_z:
        raise _unreadable(part.file, "its displacement field is not as large as its grid")
    voxel_to_world = np.eye(4)
    voxel_to_world[:3, :3] = part.fixed[9:18].reshape(3, 3) * part.fixed[6:9]
    voxel_to_world[:3, 3] = part.fixed[3:6]
    vectors = part.parameters.reshape(n_z, n_y, n_x, 3).astype(np.float32, copy=False)
    return DisplacementMap(vectors, np.linalg.inv(voxel_to_world))


#: ITK's types: how each is read and how many parameters and fixed parameters it has at least.
_KINDS: dict[str, tuple[Callable[[_Part], PointMap], int, int]] = {
    "AffineTransform": (_affine, 12, 3),
    "MatrixOffsetTransformBase": (_affine, 12, 3),
    "Euler3DTransform": (_euler, 6, 3),
    "VersorRigid3DTransform": (_versor, 6, 3),
    "Similarity3DTransform": (_versor, 7, 3),
    "TranslationTransform": (_translation, 3, 0),
    "IdentityTransform": (_identity, 0, 0),
    "DisplacementFieldTransform": (_displacement, 3, 18),
    "GaussianSmoothingOnUpdateDisplacementFieldTransform": (_displacement, 3, 18),
}
_COMPOSITE = "CompositeTransform"


def _interpret(part: _Part) -> PointMap:
    if part.kind not in _KINDS:
        raise _unreadable(part.file, f"holds a transform of a type not known here: {part.kind}")
    read, n_parameters, n_fixed = _KINDS[part.kind]
    if part.parameters.size < n_parameters or part.fixed.size < n_fixed:
        raise _unreadable(
            part.file,
            f"its {part.kind} has {part.parameters.size} and {part.fixed.size} parameters, at "
            f"least {n_parameters} and {n_fixed} are needed",
        )
    if not np.isfinite(part.fixed).all() or not np.isfinite(part.parameters).all():
        raise _unreadable(part.file, f"its {part.kind} holds values that are not numbers")
    return read(part)


def _read_h5(file: Path) -> list[_Part]:
    """ITK's HDF5 container; releases before 5 spell ``Tranform``."""
    parts = []
    with h5py.File(file, "r") as container:
        entries = dict(own_members(container["TransformGroup"]))
        for key in sorted(entries, key=int):
            entry = entries[key]
            kind = plain_dataset(entry, "TransformType", file=file)[0].decode().split("_")[0]
            stem = "Transform" if "TransformParameters" in entry else "Tranform"
            if kind == _COMPOSITE:
                parts.append(_Part(kind, np.empty(0), np.empty(0), file))
                continue
            parameters = plain_dataset(entry, f"{stem}Parameters", file=file)
            fixed_parameters = plain_dataset(entry, f"{stem}FixedParameters", file=file)
            # A field in single precision is exact to 10 nm and takes half the memory.
            dtype = np.float32 if parameters.size > 100 else np.float64
            fixed = np.asarray(fixed_parameters, dtype=np.float64)
            parts.append(_Part(kind, parameters.astype(dtype)[()], fixed, file))
    return parts


def _read_text(file: Path) -> list[_Part]:
    """ITK's text: a ``Transform:`` line, then ``Parameters:`` and ``FixedParameters:``."""
    text = file.read_text(encoding="ascii")
    if not text.startswith("#Insight Transform File"):
        raise ValueError("is not an ITK transform file")
    parts = []
    for block in re.split(r"^Transform:", text, flags=re.MULTILINE)[1:]:
        kind, *lines = block.splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        parts.append(
            _Part(
                kind.strip().split("_")[0],
                np.array(fields.get("Parameters", "").split(), dtype=np.float64),
                np.array(fields.get("FixedParameters", "").split(), dtype=np.float64),
                file,
            )
        )
    return parts


def _read_mat(file: Path) -> list[_Part]:
    """Level-4 MAT file as ANTs writes (``0GenericAffine.mat``): one variable named as its type."""
    if file.stat().st_size > MAX_MAT_BYTES:
        raise ValueError(f"has {file.stat().st_size} bytes, where some 200 are expected")
    variables = io.loadmat(file)
    fixed = variables.pop("fixed").ravel().astype(np.float64)
    return [
        _Part(name.split("_")[0], values.ravel().astype(np.float64), fixed, file)
        for name, values in variables.items()
        if not name.startswith("__")
    ]


_READERS: dict[str, Callable[[Path], list[_Part]]] = {
    ".h5": _read_h5,
    ".txt": _read_text,
    ".tfm": _read_text,
    ".mat": _read_mat,
}

#: What the libraries below raise for files that are cut short or something else.
_DAMAGE: tuple[type[Exception], ...] = (*UNREADABLE, EOFError, zlib.error, matlab.MatReadError)


def read_transform(file: Path) -> tuple[PointMap, ...]:
    """Read an ITK transform file.

    Parameters
    ----------
    file
        Composite (``.h5``), text (``.txt``, ``.tfm``) or ANTs' binary affine (``.mat``).

    Returns
    -------
    tuple
        Maps in the order in which points go through them: a composite file lists the last one
        first.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another format, or holds a type not known here.
    """
    if file.suffix not in _READERS:
        raise _unreadable(file, f"'{file.suffix}' is no transform format known here (.h5, .txt, "
                                ".tfm, .mat)")  # fmt: skip
    if not file.exists():
        raise InputError(
            "the transform file is missing",
            where=str(file),
            fix="Look whether the derivatives are complete.",
        )
    status = file.stat()
    return _read_maps(file, (status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=2)
def _read_maps(file: Path, _stamp: tuple[int, int]) -> tuple[PointMap, ...]:
    """Read a file once for all runs that a process works on: inflating a field takes a second."""
    try:
        parts = _READERS[file.suffix](file)
        is_composite = bool(parts) and parts[0].kind == _COMPOSITE
        if is_composite:
            parts = parts[1:]
        if not parts or (len(parts) > 1 and not is_composite):
            raise _unreadable(file, f"holds {len(parts)} transforms where one is needed")
        return tuple(_interpret(part) for part in reversed(parts))
    except _DAMAGE as error:
        raise _unreadable(file, f"cannot be read as an ITK transform: {error}") from error


def invert(maps: Sequence[PointMap], *, file: Path) -> tuple[PointMap, ...]:
    """Turn the direction of maps around.

    Raises
    ------
    InputError
        If one of them is a displacement field (whose inverse is a file of its own), or a matrix
        without inverse.
    """
    inverses = []
    for item in reversed(maps):
        if isinstance(item, DisplacementMap):
            raise InputError(
                "is needed in the other direction, which a displacement field does not have",
                where=str(file),
                fix="Add the file of the other direction (from- and to- exchanged).",
            )
        if abs(np.linalg.det(item.matrix)) < 1e-12:
            raise _unreadable(file, "its matrix has no inverse")
        inverses.append(AffineMap(np.linalg.inv(item.matrix)))
    return tuple(inverses)


def chain(steps: Sequence[TransformStep]) -> tuple[PointMap, ...]:
    """Maps that take points of the last step's target space to the first step's source space.

    Neighbouring matrices are multiplied into one.

    Parameters
    ----------
    steps
        In the order in which the image travels.

    Raises
    ------
    InputError
        If a file cannot be read or turned around, or a step does not begin where the one before
        it ends.
    """
    for before, after in itertools.pairwise(steps):
        if before.target != after.source:
            raise InputError(
                f"transforms do not join: one ends in {before.target}, the next begins in "
                f"{after.source}",
                where=f"{before.file}, {after.file}",
                fix="Give transforms that lead from the atlas's space to that of the data.",
            )
    maps: list[PointMap] = []
    for step in reversed(steps):
        own = read_transform(step.file)
        for item in invert(own, file=step.file) if step.inverted else own:
            last: Any = maps[-1] if maps else None
            if isinstance(item, AffineMap) and isinstance(last, AffineMap):
                maps[-1] = AffineMap(item.matrix @ last.matrix)
            else:
                maps.append(item)
    return tuple(maps)


def moved_affine(
    affine: NDArray[np.floating], steps: Sequence[TransformStep]
) -> NDArray[np.float64]:
    """Affine that an image gets by being moved, with no value interpolated.

    Parameters
    ----------
    affine
        (4, 4), voxel indices to mm (RAS) of the first step's source space.
    steps
        In the order in which the image travels; none: the affine itself.

    Raises
    ------
    InputError
        If the way is not one of matrices alone, or of those that `chain` refuses.
    """
    maps = chain(steps)
    if not maps:
        return np.asarray(affine, dtype=np.float64)
    (back, *others) = maps
    if others or not isinstance(back, AffineMap):
        raise InputError(
            "the way of an image that is to be moved rigidly bends it",
            where=", ".join(str(step.file) for step in steps),
            fix="Give rigid transforms between FreeSurfer, T1w and ACPC space.",
        )
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(flip @ np.linalg.inv(back.matrix) @ flip @ affine)
