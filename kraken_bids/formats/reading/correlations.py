# SPDX-License-Identifier: MIT
"""Files of correlations or covariances, read with their diagonal and in double precision.

`open_correlations` reads squares from ``.mat``, ``.npy`` and ``.npz``; every other kind of file,
and triangles, through the readers of connectomes (`kraken_bids.formats.reading.opening`), whose
edges get a diagonal of 1. `normalize` makes a correlation of either, or says why it cannot.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...connectome.edges import edges_to_matrix, n_regions
from ...errors import InputError
from .arrays import read_members
from .checks import ASYMMETRY, name_some
from .fields import ID_FIELDS, clean_ids
from .matlab import read_fields
from .naming import canonical_flavor
from .records import Stored

#: Fields that hold matrices, in the order in which they are looked for.
DATA_FIELDS = ("data", "C", "FC")
TARGET_FIELDS = ("C", "precision", "data", "FC")
#: What a file of this program or the reference says that it holds.
_OTHER_KINDS = ("partialcorr", "precision")
#: Flavor of edges in a file that names none.
_UNNAMED = "FCcorr_any_hpf"
#: Most bytes of an array of a ``.mat`` file, which is held in memory.
MATLAB_LIMIT = 1 << 36
#: A diagonal this close to zero is none; as in the reference program.
EMPTY_DIAGONAL = 1e-10
#: By so much rounding may carry a correlation beyond 1: that of text with five digits.
ABOVE_ONE = 1e-5


@dataclass(frozen=True, eq=False)
class Correlations:
    """Square matrices of participants that lie in a file.

    Parameters
    ----------
    where
        File or folder, for messages.
    participants
        (n,) ids without the prefix ``sub-``, each once; ``1``, ``2``, … if the file has none.
    has_ids
        Whether the file has ids.
    n_regions
        Number of rows of a matrix.
    read
        Position -> (R, R), float64, as it lies in the file.
    """

    where: str
    participants: tuple[str, ...]
    has_ids: bool
    n_regions: int
    read: Callable[[int], NDArray[np.float64]]


def open_correlations(path: Path, *, name: str = "") -> Correlations:
    """Open a file of correlations or covariances.

    Parameters
    ----------
    path
        File or folder. ``.npy`` is read in place; ``.mat`` and compressed arrays are held.
    name
        Flavor that the file was given for: a field of that name comes first.

    Raises
    ------
    InputError
        If the file cannot be read or holds no square matrices.
    """
    if not path.exists():
        raise InputError("does not exist", where=str(path), fix="Give the file's right path.")
    fields = _read_fields(path)
    if fields is None:
        return _open_connectomes(path, name)
    field = next((key for key in (name, *DATA_FIELDS) if key in fields), None)
    if field is None or "trimask" in fields:
        return _open_connectomes(path, name)
    stack = _stack(fields[field], str(path))
    if stack is None:
        return _open_connectomes(path, name)
    _refuse_other_kinds(str(fields.get("conntype", "")), name or path.name, path)
    keep = _kept(fields, len(stack), str(path))
    if not keep:
        raise InputError("holds nobody", where=str(path), fix="Give a file with participants.")
    ids = _read_ids(fields, str(path))
    if ids is not None and len(ids) != len(stack):
        raise InputError(
            f"names {len(ids)} participants and holds {len(stack)} matrices",
            where=str(path),
            fix="Give as many ids as matrices, in the same order.",
        )
    participants = ids or tuple(str(row) for row in range(1, len(stack) + 1))
    return Correlations(
        where=str(path),
        participants=tuple(participants[row] for row in keep),
        has_ids=ids is not None,
        n_regions=stack[0].shape[0],
        read=lambda position: np.array(stack[keep[position]], dtype=np.float64),
    )


def _read_fields(path: Path) -> Mapping[str, Any] | None:
    """Read arrays by name; None for a kind of file that other readers know."""
    read = _READERS.get(path.suffix.lower())
    if read is None or not path.is_file():
        return None
    try:
        return read(path)
    except _DAMAGES as error:
        raise InputError(
            f"cannot be read ({type(error).__name__}: {error})",
            where=str(path),
            fix="Make the file again.",
        ) from error


def _read_npy(path: Path) -> Mapping[str, Any]:
    return {"data": np.lib.format.open_memmap(path, mode="r")}


def _read_npz(path: Path) -> Mapping[str, Any]:
    try:
        return {name: _loaded(field) for name, field in read_members(path).items()}
    except InputError as problem:
        raise ValueError(problem.what) from problem


def _read_mat(path: Path) -> Mapping[str, Any]:
    return {name: _loaded(field) for name, field in read_fields(path, cell_type="f8").items()}


def _loaded(field: Any) -> Any:
    """Load the arrays of a field of a ``.mat`` file."""
    if isinstance(field, Stored):
        return field.load(limit=MATLAB_LIMIT)
    if isinstance(field, list):
        return [_loaded(item) for item in field]
    return field


_READERS: Mapping[str, Callable[[Path], Mapping[str, Any]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".mat": _read_mat,
}
#: What readers raise over damaged files.
_DAMAGES = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
    zipfile.BadZipFile,
)


def _stack(values: Any, where: str) -> Sequence[NDArray[Any]] | NDArray[Any] | None:
    """Give a sequence of square matrices; None if there are none."""
    if isinstance(values, list) or np.asarray(values).dtype.hasobject:
        matrices = [np.asarray(matrix) for matrix in values]
        shapes = sorted({matrix.shape for matrix in matrices})
        if len(shapes) > 1:
            raise InputError(
                f"matrices differ in shape: {shapes}",
                where=where,
                fix="Use one atlas for all participants.",
            )
        is_square = bool(shapes) and len(shapes[0]) == 2 and shapes[0][0] == shapes[0][1]
        return matrices if is_square else None
    array: NDArray[Any] = np.asanyarray(values)  # a memory map stays one
    if array.dtype.kind not in "fiub":
        return None
    if array.ndim == 2 and array.shape[0] == array.shape[1] > 1:
        return array[np.newaxis]
    if array.ndim != 3:
        return None
    if array.shape[1] == array.shape[2] > 1:
        return array
    if array.shape[0] == array.shape[1] > 1:  # MATLAB's habit: participants last
        participants_first: NDArray[Any] = np.moveaxis(array, 2, 0)
        return participants_first
    return None


def _kept(fields: Mapping[str, Any], n: int, where: str) -> list[int]:
    """Positions of participants that the file does not mark as missing."""
    if "ismissing" not in fields:
        return list(range(n))
    is_missing = _flat(fields["ismissing"], where).astype(bool)
    if len(is_missing) != n:
        raise InputError(
            f"marks {len(is_missing)} participants as missing or not, and holds {n}",
            where=where,
            fix="Make the file again.",
        )
    return [int(row) for row in np.flatnonzero(~is_missing)]


def _read_ids(fields: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    """Read ids as all readers of connectomes do; None if there are none."""
    field = next((key for key in ID_FIELDS if key in fields), None)
    if field is None:
        return None
    return clean_ids(_flat(fields[field], where).tolist(), where)


def _flat(values: Any, where: str) -> NDArray[Any]:
    """Values of a field in a row."""
    try:
        return np.atleast_1d(np.asarray(values)).ravel()
    except ValueError as error:
        raise InputError(
            "holds cells of different sizes in place of ids", where=where,
            fix="Make the file again.",
        ) from error  # fmt: skip


def _refuse_other_kinds(kind: str, name: str, path: Path) -> None:
    """Refuse what says of itself that it is no correlation.

    Partial correlations would pass all checks of numbers.
    """
    flavor = canonical_flavor(name) or ""
    is_other = flavor.startswith(("FCpcorr_", "SC"))
    if is_other or kind in _OTHER_KINDS:
        fix = f"Give correlations; if the name is wrong, write FCcorr_fs86_hpf={path}."
        raise InputError(
            f"is '{flavor if is_other else kind}', no correlation",
            where=str(path),
            fix=fix if is_other else "Give the correlations that it was made from.",
        )


def _open_connectomes(path: Path, name: str) -> Correlations:
    """Open edges through the readers of connectomes."""
    from .opening import open_inputs

    if not name and path.is_file() and path.suffix.lower() in _READERS:
        name = "" if canonical_flavor(path.name) else _UNNAMED
    text = f"{name}={path}" if name else str(path)
    inputs = open_inputs([text], {}, latent_size=0)
    if len(inputs) != 1:
        raise InputError(
            f"holds {len(inputs)} flavors: {name_some(sorted(inputs))}",
            where=str(path),
            fix=f"Say which one: --input {next(iter(sorted(inputs)), 'FLAVOR')}={path}.",
        )
    flavor, found = next(iter(inputs.items()))
    _refuse_other_kinds("", flavor, path)

    def read(position: int) -> NDArray[np.float64]:
        edges = found.read([position])[0].astype(np.float64)
        return np.asarray(edges_to_matrix(edges, diagonal=1.0))

    return Correlations(
        where=str(path),
        participants=found.participants or tuple(str(row) for row in range(1, found.n + 1)),
        has_ids=found.participants is not None,
        n_regions=n_regions(found.n_columns),
        read=read,
    )


def normalize(
    matrix: NDArray[np.floating], *, keep_scale: bool = False, symmetrize: bool = False
) -> NDArray[np.float64]:
    """Make a correlation of a correlation or covariance matrix.

    Parameters
    ----------
    matrix
        (R, R). A diagonal of zeros or NaN throughout is taken for one that was left out of a
        correlation. A region whose row and column hold nothing but zeros or NaN is missing.
    keep_scale
        Leave a covariance as it is.
    symmetrize
        Take the mean with the transpose.

    Returns
    -------
    NDArray
        (R, R), symmetric, diagonal 1 (unless `keep_scale`); NaN rows and columns for missing
        regions.

    Raises
    ------
    InputError
        If values are infinite, single values are missing, the matrix is not symmetric, a
        variance is negative, or a correlation is larger than 1.

    Notes
    -----
    ``r_ij = c_ij / sqrt(c_ii c_jj)``.
    """
    values: NDArray[np.float64] = np.array(matrix, dtype=np.float64)
    if np.isinf(values).any():
        raise InputError("infinite values", fix="Give correlations, not their Fisher z.")
    if symmetrize:
        values = (values + values.T) / 2
    is_missing = _missing_regions(values)
    if is_missing.all():
        raise InputError("no region has a value", fix="Leave the participant out.")
    kept = np.ix_(~is_missing, ~is_missing)
    result = np.full(values.shape, np.nan)
    result[kept] = _normalize_complete(values[kept], keep_scale=keep_scale)
    return result


def _missing_regions(matrix: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Regions without a value on and beside the diagonal."""
    is_empty = np.isnan(matrix) | (matrix == 0)
    diagonal = np.diag(matrix)
    is_empty.flat[:: len(matrix) + 1] = np.isnan(diagonal) | (np.abs(diagonal) < EMPTY_DIAGONAL)
    # A row of NaN with 1 on the diagonal is missing, one of zeros is a region like no other.
    is_nan = np.isnan(matrix)
    is_nan.flat[:: len(matrix) + 1] = True
    return np.asarray(is_empty.all(axis=1) | is_nan.all(axis=1))


def _normalize_complete(matrix: NDArray[np.float64], *, keep_scale: bool) -> NDArray[np.float64]:
    """Normalise a matrix in which no region is missing."""
    diagonal = np.diag(matrix).copy()
    beside = ~np.eye(len(matrix), dtype=bool)
    n_gaps = int(np.isnan(matrix[beside]).sum()) // 2
    if n_gaps:
        raise InputError(
            f"{n_gaps} single values are missing (NaN)",
            fix="Give complete matrices; a missing region is NaN in its whole row and column.",
        )
    difference = np.abs(matrix - matrix.T)[beside].max(initial=0.0)
    if difference > ASYMMETRY * np.abs(matrix[beside]).max(initial=0.0):
        raise InputError(
            f"the matrix is not symmetric (difference {difference:.3g})",
            fix="Give full symmetric matrices, or say --symmetrize.",
        )
    matrix = (matrix + matrix.T) / 2
    is_without = np.isnan(diagonal) | (np.abs(diagonal) < EMPTY_DIAGONAL)
    if is_without.all():
        diagonal[:] = 1.0
    elif is_without.any() or (diagonal < 0).any():
        worst = int(np.argmin(np.where(is_without, 0.0, diagonal)))
        raise InputError(
            f"region {worst + 1} has the variance {diagonal[worst]:g}",
            fix="Give covariances with a positive diagonal, or correlations.",
        )
    scale = np.sqrt(diagonal)
    correlation = matrix / np.outer(scale, scale)
    largest = float(np.abs(correlation[beside]).max(initial=0.0))
    if largest > 1 + ABOVE_ONE:
        raise InputError(
            f"holds a correlation of {largest:.4g}",
            fix="Give correlations (not their Fisher z, nor precisions) or covariances.",
        )
    result = matrix if keep_scale else correlation
    np.fill_diagonal(result, diagonal if keep_scale else 1.0)
    return np.asarray(result)


def read_target(path: Path) -> NDArray[np.float64]:
    """Read a mean precision matrix.

    Parameters
    ----------
    path
        ``.mat`` or ``.npz`` with a field `C` (or ``precision``, ``data``), ``.npy``, or a
        labelled ``.tsv``.

    Returns
    -------
    NDArray
        (R, R), symmetric.

    Raises
    ------
    InputError
        If the file cannot be read, or what it holds is no precision matrix: not one square,
        not complete, not symmetric, or with the diagonal of a correlation or of a partial one.
    """
    if not path.exists():
        raise InputError("does not exist", where=str(path), fix="Give the file's right path.")
    if path.suffix.lower() == ".tsv":
        from ...bids.writers import read_connectome

        matrix = read_connectome(path)[0]
    else:
        fields = _read_fields(path) or {}
        field = next((key for key in TARGET_FIELDS if key in fields), None)
        stack = _stack(fields[field], str(path)) if field else None
        if stack is None or len(stack) != 1:
            raise InputError(
                "does not hold one square matrix",
                where=str(path),
                fix="Give a precision matrix as field C, as .npy or as a labelled .tsv.",
            )
        matrix = np.array(stack[0], dtype=np.float64)
    _check_precision(matrix, str(path))
    return np.asarray((matrix + matrix.T) / 2)


def _check_precision(matrix: NDArray[np.float64], where: str) -> None:
    diagonal = np.diag(matrix)
    difference = np.abs(matrix - matrix.T).max()
    reason = ""
    if not np.isfinite(matrix).all():
        reason = "it is not complete"
    elif difference > ASYMMETRY * np.abs(matrix).max():
        reason = f"it is not symmetric (difference {difference:.3g})"
    elif np.abs(diagonal).max() < EMPTY_DIAGONAL:
        reason = "its diagonal is 0, as that of partial correlations"
    elif np.abs(diagonal - 1).max() < ABOVE_ONE and len(matrix) > 1:
        reason = "its diagonal is 1, as that of correlations"
    elif diagonal.min() <= 0:
        reason = f"its diagonal goes down to {diagonal.min():g}"
    if reason:
        raise InputError(
            f"is not a precision matrix: {reason}",
            where=where,
            fix="Make one with 'kraken-model pcorr --lambda 0 --precision --output-mean'.",
        )
