# SPDX-License-Identifier: MIT
"""Files of connectomes, a flavor each, and the matching of their participants by id.

`READERS` is the table of formats. Each holds matrices (participants, regions, regions) or upper
triangles (participants, edges), and mostly the participants' ids.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..connectome.edges import edges_to_matrix, matrix_to_edges, n_regions
from ..errors import InputError, UsageError, suggest

_log = logging.getLogger(__name__)

#: Fields that hold connectomes or latents, in the order in which they are looked for.
DATA_FIELDS = ("data", "encoded", "FC", "SC", "C", "volnorm")
ID_FIELDS = ("subject", "subjects", "participants", "participant_id")
#: Largest difference of a matrix from its transpose, as a share of its largest value.
ASYMMETRY = 1e-4


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers by participant.

    Parameters
    ----------
    values
        (n, n_edges) or, for latents, (n, latent_size); float32.
    participants
        (n,) ids, or None if the file has none.
    """

    values: NDArray[np.float32]
    participants: tuple[str, ...] | None


def read_table(file: Path, name: str, *, n_columns: int, is_latent: bool = False) -> Table:
    """Read connectomes of one flavor, or latents.

    Parameters
    ----------
    file
        Of a format in `READERS`.
    name
        Flavor; a field of this name is preferred over `DATA_FIELDS`.
    n_columns
        Number of edges (of values of a latent) that the model takes.
    is_latent
        Whether the file holds latents.

    Raises
    ------
    InputError
        If the file cannot be read, is of another size, or holds matrices that are not symmetric
        or participants that come twice.
    UsageError
        If the format is unknown.
    """
    where = f"{name} in {file}"
    if file.suffix.lower() not in READERS:
        raise UsageError(
            f"files of kind '{file.suffix}' are not read",
            where=where,
            fix=suggest(file.suffix, READERS) + ".",
        )
    fields = _read_fields(file, where)
    participants = _participants(fields, where)
    values = _find_values(fields, name, where)
    if not is_latent:
        values = _to_edges(values, fields, participants, n_columns=n_columns, where=where)
    if values.ndim == 1:
        values = values[np.newaxis]
    if values.ndim != 2 or values.shape[1] != n_columns:
        raise _wrong_size(values.shape, n_columns, where, is_latent=is_latent)
    if "ismissing" in fields:
        keep = ~np.atleast_1d(np.asarray(fields["ismissing"], dtype=bool))
        values, participants = _keep(values, participants, keep, where)
    _check_participants(participants, len(values), where)
    return Table(np.asarray(values, dtype=np.float32), participants)


def _read_fields(file: Path, where: str) -> Mapping[str, Any]:
    if not file.is_file():
        raise InputError("does not exist", where=where, fix="Give the file's right path.")
    try:
        return READERS[file.suffix.lower()](file)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as e:
        raise InputError(
            f"cannot be read ({type(e).__name__}: {e})",
            where=where,
            fix="Make the file again; .mat files in format 5 or 7, not 7.3.",
        ) from e


def _read_mat(file: Path) -> Mapping[str, Any]:
    from scipy.io import loadmat

    fields: Mapping[str, Any] = loadmat(str(file), simplify_cells=True)
    return fields


def _read_npz(file: Path) -> Mapping[str, Any]:
    with np.load(file, allow_pickle=False) as stored:
        return dict(stored)


def _read_npy(file: Path) -> Mapping[str, Any]:
    return {"data": np.load(file, allow_pickle=False)}


#: Formats by file name extension: functions from file to named fields.
READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".mat": _read_mat,
    ".npy": _read_npy,
    ".npz": _read_npz,
}


def _participants(fields: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    """Read ids as text; numbers without decimals, texts without the blanks that MATLAB adds."""
    for field in ID_FIELDS:
        if field in fields:
            ids = np.atleast_1d(np.asarray(fields[field])).ravel()
            texts = [
                str(int(value))
                if isinstance(value, (int, float, np.number)) and float(value).is_integer()
                else str(value).strip()
                for value in ids.tolist()
            ]
            twice = sorted({text for text in texts if texts.count(text) > 1})
            if twice:
                raise InputError(
                    f"participants {', '.join(twice[:5])} come more than once",
                    where=where,
                    fix="Give each participant once.",
                )
            return tuple(texts)
    return None


def _find_values(fields: Mapping[str, Any], name: str, where: str) -> NDArray:
    """Find the field with the numbers."""
    if "predicted_alltypes" in fields:
        return _single_prediction(fields["predicted_alltypes"], where)
    encoded = [key for key in fields if key.endswith("__encoded")]
    for field in (name, *DATA_FIELDS, *(encoded if len(encoded) == 1 else ())):
        if field in fields:
            values = fields[field]
            if isinstance(values, list) or np.asarray(values).dtype.hasobject:
                return _stack(values, where)
            return np.asarray(values, dtype=np.float64)
    known = sorted(key for key in fields if not key.startswith("__"))
    raise InputError(
        f"holds {', '.join(known) or 'nothing'}, not {', '.join((name, *DATA_FIELDS))}",
        where=where,
        fix=f"Store the connectomes as 'data' or '{name}'.",
    )


def _stack(values: Any, where: str) -> NDArray:
    """Stack a cell array of matrices."""
    matrices = [np.asarray(matrix, dtype=np.float64) for matrix in values]
    shapes = {matrix.shape for matrix in matrices}
    if len(shapes) != 1:
        raise InputError(
            f"matrices differ in shape: {sorted(shapes)}",
            where=where,
            fix="Use one atlas for all participants.",
        )
    return np.stack(matrices)


def _single_prediction(predicted: Any, where: str) -> NDArray:
    """Take the one array of an output file of the reference program."""
    found = [
        (source, target, values)
        for source, row in predicted.items()
        for target, values in row.items()
    ]
    if len(found) != 1:
        names = ", ".join(f"{source} to {target}" for source, target, _ in found[:4])
        raise InputError(
            f"holds {len(found)} outputs ({names}, …): which one is meant?",
            where=where,
            fix="Give a file with one source and one target.",
        )
    values: NDArray = np.asarray(found[0][2], dtype=np.float64)
    return values


def _to_edges(
    values: NDArray,
    fields: Mapping[str, Any],
    participants: tuple[str, ...] | None,
    *,
    n_columns: int,
    where: str,
) -> NDArray:
    """Bring connectomes to rows of edges in our order."""
    n = n_regions(n_columns)
    if values.ndim == 3 and values.shape[:2] == (n, n) and values.shape[1:] != (n, n):
        values = np.moveaxis(values, 2, 0)  # MATLAB's habit: participants last
    if values.shape[-2:] == (n, n) and values.ndim in {2, 3}:
        matrices = values.reshape(-1, n, n)
        _check_symmetry(matrices, participants, where)
        return matrix_to_edges(matrices)
    if "trimask" in fields and values.shape[-1] == n_columns:
        return _reorder(np.atleast_2d(values), np.asarray(fields["trimask"]), n)
    n_ids = len(participants or ())
    if values.ndim == 2 and values.shape == (n_columns, n_ids) and n_ids != n_columns:
        return values.T
    return values


def _reorder(values: NDArray, trimask: NDArray, n: int) -> NDArray:
    """Bring triangles in the order of a mask or of zero-based indices (2, n_edges) to ours."""
    index = trimask if trimask.shape[0] == 2 else np.nonzero(trimask > 0)
    rows, columns = (np.asarray(axis, dtype=int) for axis in index)
    matrices = edges_to_matrix(np.full_like(values, np.nan))
    matrices[:, rows, columns] = matrices[:, columns, rows] = values
    return matrix_to_edges(matrices[:, :n, :n])


def _check_symmetry(matrices: NDArray, participants: tuple[str, ...] | None, where: str) -> None:
    """Refuse matrices of which one triangle would be lost unseen."""
    for row, matrix in enumerate(matrices):
        difference = np.nanmax(np.abs(matrix - matrix.T), initial=0.0)
        if difference > ASYMMETRY * np.nanmax(np.abs(matrix), initial=0.0):
            who = participants[row] if participants else f"number {row + 1}"
            raise InputError(
                f"the matrix of participant {who} is not symmetric (difference {difference:.3g})",
                where=where,
                fix="Give full symmetric matrices; a triangle can be mirrored as A + A.T.",
            )


def _wrong_size(
    shape: tuple[int, ...], n_columns: int, where: str, *, is_latent: bool
) -> InputError:
    if is_latent:
        return InputError(
            f"holds values of shape {shape}, the model's latents have {n_columns}",
            where=where,
            fix="Give latents of this model, (participants, latent size).",
        )
    n = n_regions(n_columns)
    return InputError(
        f"holds values of shape {shape}, the flavor has {n} regions ({n_columns} edges)",
        where=where,
        fix=f"Give matrices (participants, {n}, {n}) or triangles (participants, {n_columns}) of "
        "this flavor's atlas.",
    )


def _keep(
    values: NDArray, participants: tuple[str, ...] | None, keep: NDArray, where: str
) -> tuple[NDArray, tuple[str, ...] | None]:
    """Leave out participants that the file marks as missing."""
    if keep.shape != (len(values),):
        raise InputError(
            f"marks {keep.size} participants as missing or not, and holds {len(values)}",
            where=where,
            fix="Make the file again.",
        )
    if participants is not None and len(participants) == keep.size:
        participants = tuple(p for p, kept in zip(participants, keep, strict=True) if kept)
    return values[keep], participants


def _check_participants(participants: tuple[str, ...] | None, n: int, where: str) -> None:
    if participants is not None and len(participants) != n:
        raise InputError(
            f"names {len(participants)} participants and holds {n} connectomes",
            where=where,
            fix="Give as many ids as connectomes, in the same order.",
        )


def match_participants(
    tables: Mapping[str, Table],
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float32]]]:
    """Bring the rows of all files to the same participants, by id.

    Parameters
    ----------
    tables
        By flavor.

    Returns
    -------
    participants
        Ids that any file has, in the order in which they are first met.
    values
        (n, n_columns) by flavor; rows of NaN for participants that the file lacks.

    Raises
    ------
    InputError
        If some files have ids and others none, or none has and numbers differ.
    """
    without = [name for name, table in tables.items() if table.participants is None]
    if without and len(without) < len(tables):
        raise InputError(
            f"{', '.join(without)}: no ids, while other inputs have them",
            fix="Store the ids as 'subjects' beside 'data' in every file.",
        )
    if without:
        numbers = {name: len(table.values) for name, table in tables.items()}
        if len(set(numbers.values())) > 1:
            raise InputError(
                f"numbers of participants differ and there are no ids: {numbers}",
                fix="Store the ids as 'subjects' beside 'data' in every file.",
            )
        if len(tables) > 1:
            _log.warning("The inputs have no ids: rows are taken to be the same participants")
        ids = tuple(str(row + 1) for row in range(next(iter(numbers.values()), 0)))
        return ids, {name: table.values for name, table in tables.items()}
    ids = tuple(dict.fromkeys(p for table in tables.values() for p in table.participants or ()))
    return ids, {name: _align(table, ids) for name, table in tables.items()}


def _align(table: Table, ids: tuple[str, ...]) -> NDArray[np.float32]:
    """Put rows in the order of `ids`, NaN for those that the table lacks."""
    position = {participant: row for row, participant in enumerate(ids)}
    aligned = np.full((len(ids), table.values.shape[1]), np.nan, dtype=np.float32)
    aligned[[position[participant] for participant in table.participants or ()]] = table.values
    return aligned
