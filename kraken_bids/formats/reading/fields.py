# SPDX-License-Identifier: MIT
"""Connectomes in a file of named fields, such as ``data`` and ``subjects``: which, whose, where.

Fields are arrays that lie in the file (`Stored`), texts, lists of such, or groups of fields.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...connectome.edges import edges_to_matrix, matrix_to_edges, n_edges, n_regions
from ...errors import InputError, KrakenBIDSError, Problems, UsageError
from ..inputs import FlavorInput, ReadRows, Wanted
from .checks import check_rows, name_some, refuse_asymmetric
from .naming import ENCODED, canonical_flavor, is_latent_name
from .records import Records, Stored, open_records

_log = logging.getLogger(__name__)

#: Fields that hold connectomes or latents, in the order in which they are looked for.
DATA_FIELDS = ("data", ENCODED, "FC", "SC", "C", "volnorm")
ID_FIELDS = ("subject", "subjects", "participants", "participant_id")
#: Field with the predictions of the reference program, by source and target.
PREDICTED = "predicted_alltypes"


@dataclass(frozen=True)
class Unread:
    """A field that is not read, in words: what it is."""

    what: str

    def __str__(self) -> str:
        return self.what


#: A field: an array in the file, a text, a list (cell array), a group of fields (structure), or
#: what is not read.
Field = Any
Fields = Mapping[str, Field]


def open_fields(fields: Fields, file: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Find the connectomes that a file's fields hold.

    Parameters
    ----------
    fields
        By name.
    file
        Where they lie.
    wanted
        If it names a flavor, that flavor is looked for as a field of its name, then in
        `DATA_FIELDS`. If not, every field named by a flavor is taken; a file without such is of
        the flavor that its own name tells.

    Returns
    -------
    dict
        Inputs by name.

    Raises
    ------
    InputError
        If there are none, or they are of another size. All problems of the file are told.
    UsageError
        If it is not clear which flavor is meant.
    """
    if wanted.name:
        chosen = {wanted.name: _find_field(fields, wanted.name, wanted, file)}
    else:
        chosen = _find_all(fields, file, wanted)
    inputs: dict[str, FlavorInput] = {}
    problems: list[KrakenBIDSError] = []
    for name, field in chosen.items():
        group = field if isinstance(field, Mapping) else fields
        try:
            value = _find_field(field, name, wanted, file) if group is field else field
            inputs[name] = _open_field(name, value, {**fields, **group}, file, wanted)
        except Problems as several:
            problems += several.problems
        except KrakenBIDSError as problem:
            problems.append(problem)
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    return inputs


def _find_all(fields: Fields, file: Path, wanted: Wanted) -> dict[str, Field]:
    """Find all fields named by flavors; else the one array, by the file's name."""
    found: dict[str, str] = {}
    for key in fields:
        flavor = None if "__" in key else canonical_flavor(key, wanted.n_edges)
        if flavor is None or is_latent_name(flavor):
            continue
        if flavor in found:
            raise InputError(
                f"fields '{found[flavor]}' and '{key}' both mean {flavor}",
                where=str(file),
                fix="Keep one of them.",
            )
        found[flavor] = key
    known = {flavor: key for flavor, key in found.items() if _is_wanted(flavor, wanted)}
    if len(known) < len(found):
        unknown = [flavor for flavor in found if flavor not in known]
        _log.warning("%s: %s left out, which the model does not have", file, name_some(unknown))
    if known:
        return {flavor: fields[key] for flavor, key in known.items()}
    if found:
        raise InputError(
            f"holds {name_some(list(found))}, none of which the model has",
            where=str(file),
            fix=f"The model has {name_some(sorted(wanted.n_edges))}.",
        )
    name = _name_of_file(fields, file, wanted)
    return {name: _find_field(fields, name, wanted, file)}


def _is_wanted(flavor: str, wanted: Wanted) -> bool:
    """Say whether a flavor is one of the model's; without a model any is."""
    return not wanted.n_edges or flavor in wanted.n_edges


def _name_of_file(fields: Fields, file: Path, wanted: Wanted) -> str:
    """Name the one array of a file by what it holds, else by the file's name."""
    latents = [key for key in fields if key == ENCODED or key.endswith(f"__{ENCODED}")]
    if latents and wanted.latent_size:
        return ENCODED
    text = _one_prediction(fields[PREDICTED], str(file))[0] if PREDICTED in fields else file.stem
    name = canonical_flavor(text, wanted.n_edges)
    if name is None or (is_latent_name(name) and not wanted.latent_size):
        raise UsageError(
            f"holds {_listed(fields)}: which flavor is it?",
            where=str(file),
            fix=f"Write 'FLAVOR={file}'.",
        )
    if not is_latent_name(name) and not _is_wanted(name, wanted):
        raise UsageError(
            f"flavor '{name}' (by the file) is not in this model",
            where=str(file),
            fix=f"The model has {name_some(sorted(wanted.n_edges))}.",
        )
    return name


def _listed(fields: Fields) -> str:
    """List a file's fields."""
    return name_some(sorted(key for key in fields if not key.startswith("__"))) or "nothing"


def _find_field(fields: Fields, name: str, wanted: Wanted, file: Path) -> Field:
    """Find the field with the numbers of one flavor, or of latents."""
    where = f"{name} in {file}"
    if PREDICTED in fields:
        target, values = _one_prediction(fields[PREDICTED], where)
        meant = canonical_flavor(target, wanted.n_edges) or name
        if meant != name and not (is_latent_name(meant) and is_latent_name(name)):
            raise InputError(
                f"holds predictions of {target}",
                where=where,
                fix=f"Give it as '{meant}', or give another file.",
            )
        return values
    target = ENCODED if is_latent_name(name) else name
    same = [
        key for key in fields
        if key == name or ("__" not in key and canonical_flavor(key, wanted.n_edges) == name)
    ]  # fmt: skip
    for field in (name, *same, *DATA_FIELDS):
        if field in fields:
            return fields[field]
    predicted = [key for key in fields if key.endswith(f"__{target}")]
    if len(predicted) == 1:
        return fields[predicted[0]]
    if predicted:
        raise InputError(
            f"holds {len(predicted)} arrays ({name_some(predicted)}): which one is meant?",
            where=where,
            fix="Give a file with one of them.",
        )
    raise InputError(
        f"holds {_listed(fields)}, not {', '.join((name, *DATA_FIELDS))}",
        where=where,
        fix=f"Store the connectomes as 'data' or '{name}'.",
    )


def _one_prediction(predicted: Field, where: str) -> tuple[str, Field]:
    """Take the one array of an output file of the reference program, and its target."""
    found = [
        (source, target, values)
        for source, row in (predicted.items() if isinstance(predicted, Mapping) else ())
        for target, values in (row.items() if isinstance(row, Mapping) else ())
    ]
    if len(found) != 1:
        names = name_some([f"{source} to {target}" for source, target, _ in found])
        raise InputError(
            f"holds {len(found)} outputs ({names}): which one is meant?",
            where=where,
            fix="Give a file with one source and one target.",
        )
    return found[0][1], found[0][2]


def _open_field(
    name: str, field: Field, fields: Fields, file: Path, wanted: Wanted
) -> FlavorInput:
    """Make an input of a field and of the ids beside it."""
    where = f"{name} in {file}"
    if not isinstance(field, Stored):
        raise InputError(
            f"does not hold numbers but {_describe(field)}",
            where=where,
            fix="Store matrices of one size, or an array (participants, edges).",
        )
    if field.dtype.kind not in "fiub":
        raise InputError(
            f"holds values of kind {field.dtype}", where=where, fix="Store real numbers."
        )
    participants = find_ids(fields, where)
    n_ids = len(participants) if participants is not None else None
    if is_latent_name(name):
        n_columns = wanted.latent_size
    elif wanted.n_edges:
        n_columns = wanted.n_edges[name]
    else:
        n_columns = _guess_columns(field.shape, n_ids, where)
    axis = _participants_axis(field.shape, n_columns, n_ids, is_latent=is_latent_name(name))
    if axis == -1:
        raise _wrong_size(field.shape, n_columns, where, is_latent=is_latent_name(name))
    records = open_records(field, axis)
    order = _order(fields, n_columns, field, where)
    kept = _kept(fields, records.n, where)
    if participants is not None and len(participants) == records.n:
        participants = tuple(participants[position] for position in kept)
    if participants is not None and len(participants) != len(kept):
        raise InputError(
            f"names {len(participants)} participants and holds {len(kept)} connectomes",
            where=where,
            fix="Give as many ids as connectomes, in the same order.",
        )
    return FlavorInput(
        name=name,
        where=str(file),
        participants=participants,
        n=len(kept),
        n_columns=n_columns,
        read=_reader(records, participants, kept, order, name=name, where=str(file)),
    )


def _describe(field: Field) -> str:
    """Say what a field is that holds no array."""
    if isinstance(field, list):
        shapes = sorted({str(item.shape) for item in field if isinstance(item, Stored)})
        return f"cells of shapes {name_some(shapes)}" if shapes else "cells without matrices"
    if isinstance(field, str):
        return f"'{field}'"
    return "a structure" if isinstance(field, Mapping) else str(field)


def _reader(
    records: Records,
    participants: Sequence[str] | None,
    kept: NDArray[np.intp],
    order: NDArray[np.intp] | None,
    *,
    name: str,
    where: str,
) -> ReadRows:
    """Make the function that reads and checks rows."""

    def read(positions: Sequence[int]) -> NDArray[np.float32]:
        rows, states = records.read(kept[list(positions)].tolist())
        told = [
            participants[position] if participants is not None else f"number {position + 1}"
            for position in positions
        ]
        refuse_asymmetric(states, told, name=name, where=where)
        check_rows(rows, told, name=name, where=where)
        return rows if order is None else rows[:, order]

    return read


def find_ids(fields: Fields, where: str) -> tuple[str, ...] | None:
    """Find the ids of a file; None if it has none.

    Raises
    ------
    InputError
        If an id is empty, or comes twice.
    """
    for key in ID_FIELDS:
        texts = _texts(fields[key]) if key in fields else []
        if len(texts) > 1 or (texts and _clean_id(texts[0])):
            return clean_ids(texts, where)
    return None


def _texts(field: Field) -> list[object]:
    """Load ids: texts or numbers; an empty text for a cell that is neither."""
    if isinstance(field, Stored):
        return list(np.atleast_1d(field.load()).ravel().tolist())
    if isinstance(field, list):
        return [value for item in field for value in (_texts(item) or [""])]
    return [field] if isinstance(field, str) else []


def clean_ids(values: Sequence[object], where: str) -> tuple[str, ...]:
    """Make ids of texts and numbers: without ``sub-`` and blanks, whole numbers without decimals.

    Raises
    ------
    InputError
        If an id is empty, or comes twice.

    Examples
    --------
    >>> clean_ids(["sub-01", "x  ", 1234.0], "a file")
    ('01', 'x', '1234')
    """
    ids = tuple(_clean_id(value) for value in values)
    empty = [row + 1 for row, text in enumerate(ids) if not text]
    if empty:
        raise InputError(
            f"participants number {name_some(empty)} have no id",
            where=where,
            fix="Give each participant an id.",
        )
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = sorted({text for text in ids if text in seen or seen.add(text)})  # type: ignore[func-returns-value]
        raise InputError(
            f"participants {name_some(twice)} come more than once",
            where=where,
            fix="Give each participant once.",
        )
    return ids


def _clean_id(value: object) -> str:
    """Make one id."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float):
        if value != value:  # NaN
            return ""
        if value.is_integer():
            value = int(value)
    return str(value).strip(" \t\r\n\0").removeprefix("sub-").strip()


def _guess_columns(shape: tuple[int, ...], n_ids: int | None, where: str) -> int:
    """Find the number of edges by the shape alone, where no model says it."""
    if len(shape) == 3 and shape[1] == shape[2]:
        return n_edges(shape[1])
    if len(shape) == 3 and shape[0] == shape[1]:
        return n_edges(shape[0])
    if len(shape) == 2 and shape[0] == shape[1] and n_ids in {None, 1}:
        return n_edges(shape[0])
    if len(shape) == 2 and n_ids == shape[1] != shape[0]:
        columns = shape[0]
    else:
        columns = shape[-1] if shape else 0
    try:
        n_regions(columns)
    except InputError as error:
        raise InputError(
            f"holds values of shape {shape}: {error.what}", where=where, fix=error.fix
        ) from error
    return columns


def _participants_axis(
    shape: tuple[int, ...], n_columns: int, n_ids: int | None, *, is_latent: bool
) -> int | None:
    """Find the axis of the participants: None for a single record, -1 for a wrong size."""
    size = -1 if is_latent else n_regions(n_columns)
    square = (size, size)
    if len(shape) == 3 and shape[1:] == square:
        return 0
    if len(shape) == 3 and shape[:2] == square:
        return 2  # MATLAB's habit
    if shape == square and not (size == n_columns and n_ids == size):
        return None
    if len(shape) == 2 and shape == (n_columns, n_ids) and n_ids != n_columns and not is_latent:
        return 1
    if len(shape) == 2 and shape[1] == n_columns:
        return 0
    if len(shape) == 1 and shape[0] == n_columns:
        return None
    if len(shape) == 1 and n_columns == 1:
        return 0  # one edge or value a participant
    return -1


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


def _order(fields: Fields, n_columns: int, field: Stored, where: str) -> NDArray[np.intp] | None:
    """Find where our edges lie in triangles that come with a mask or with indices."""
    is_vector = n_columns in field.shape
    mask = fields.get("trimask")
    if mask is None or not isinstance(mask, Stored) or not is_vector:
        return None
    values = mask.load()
    size = n_regions(n_columns)
    index = values if values.shape[:1] == (2,) else np.array(np.nonzero(values > 0))
    if index.shape != (2, n_columns) or index.min() < 0 or index.max() >= size:
        raise InputError(
            f"'trimask' of shape {values.shape} does not mark the {n_columns} edges of {size} "
            "regions",
            where=where,
            fix="Give a mask (regions, regions), or zero-based indices (2, edges).",
        )
    rows, columns = index.astype(np.intp)
    places = edges_to_matrix(np.full(n_columns, -1.0), diagonal=-1.0)
    places[rows, columns] = places[columns, rows] = np.arange(n_columns)
    order = matrix_to_edges(places).astype(np.intp)
    if np.any(np.sort(order) != np.arange(n_columns)):
        raise InputError(
            "'trimask' marks an edge twice or the diagonal",
            where=where,
            fix="Mark each edge once.",
        )
    return order


def _kept(fields: Fields, n: int, where: str) -> NDArray[np.intp]:
    """Find the rows of participants that the file does not mark as missing."""
    mask = fields.get("ismissing")
    if not isinstance(mask, Stored):
        return np.arange(n)
    is_missing = np.atleast_1d(mask.load()).ravel().astype(bool)
    if is_missing.size != n:
        raise InputError(
            f"marks {is_missing.size} participants as missing or not, and holds {n}",
            where=where,
            fix="Make the file again.",
        )
    return np.flatnonzero(~is_missing)
