# SPDX-License-Identifier: MIT
"""Inputs from QSIRecon's structural connectomes, one MAT file a participant with all atlases.

References
----------
QSIRecon, ``docs/connectivity_matrices.rst``: fields ``atlas_<name>_<measure>_connectivity``,
``atlas_<name>_region_ids`` and ``atlas_<name>_region_labels`` (without ``atlas_`` in QSIPrep
before them); ``data/pipelines/mrtrix_*.yaml``: what the measures are.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...atlases import atlas_names, load_atlas
from ...bids.files import FoundFile, parse_name
from ...connectome.edges import n_regions
from ...errors import InputError, KrakenBIDSError
from ..inputs import FlavorInput, Wanted
from .bids_labels import participant_of
from .checks import name_some
from .fields import Field
from .mat_matrix import count_values, read_square, read_texts, square_size
from .matlab import read_fields
from .matrix_files import MatrixFile, is_wanted, open_matrices, raise_together
from .naming import canonical_flavor
from .regions import LabelledMatrix, atlas_of, order_regions
from .tree_files import (
    choose_file,
    iterate_files,
    model_atlases,
    nothing_wanted,
    tell_notes,
    wrong_atlases,
)

_log = logging.getLogger(__name__)

TITLE = "QSIRecon"
ENDING = "_connectivity.mat"

_NUMBER = (
    "sums over streamlines depend on their number: QSIRecon selects 10 million by default, the "
    "published models' training data had 5 million; adapt the input (--adaptation)"
)
_VOLUMES = (
    f"{_NUMBER}; volumes of regions are counted in voxels of QSIRecon's grid, in training data in "
    "voxels of 1.25 mm"
)
#: Last part of the flavor's name, and what to know about the numbers, by QSIRecon's measure.
#: ``sift_…`` are weights of SIFT2, ``invnodevol`` is MRtrix3's ``-scale_invnodevol``; lengths and
#: other measures are no flavor.
MEASURES: dict[str, tuple[str, str]] = {
    "radius2_count": ("count", _NUMBER),
    "sift_radius2_count": ("sift2", _NUMBER),
    "invnodevol_radius2_count": ("volnorm", _VOLUMES),
    "sift_invnodevol_radius2_count": ("sift2volnorm", _VOLUMES),
}
#: Flavors' kinds by tracking algorithm and whether streamlines were constrained anatomically.
KINDS: dict[tuple[str, bool], str] = {
    ("ifod2", True): "SCifod2act",
    ("sdstream", False): "SCsdstream",
}


@dataclass(frozen=True, eq=False)
class _Matrix:
    """A matrix within a file, and the numbers and names of its regions."""

    file: FoundFile
    atlas: str
    label: str
    measure: str
    values: Field
    ids: Field
    labels: Field | None

    @property
    def variable(self) -> str:
        """Name of the matrix in the file."""
        return f"{self.label}_{self.measure}_connectivity"


def data_sets(path: Path) -> list[Path]:
    """Folders with connectivity files: the one given, or those of QSIRecon below it."""
    nested = sorted(path.glob("derivatives/qsirecon-*"))
    return [root for root in (path, *nested) if any(iterate_files(root, "dwi", (ENDING,)))]


def open_qsirecon(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open the connectivity files of QSIRecon.

    The tracking algorithm stands in the file's name (``model-``) or in that of streamlines beside
    it, the constraints in the data set's name (``act-``). Where they do not, the flavor that the
    folder was given for is believed, with a line in the log.

    Raises
    ------
    InputError
        If there are none of the model's atlases or flavors; `Problems` for all that is ambiguous
        or damaged.
    """
    problems: list[KrakenBIDSError] = []
    fields = list(_fields(path, problems))
    raise_together(problems)
    if not fields:
        raise nothing_wanted(TITLE, path, {}, wanted)
    atlases = model_atlases(wanted, "SC")
    fitting = [field for field in fields if not atlases or field.atlas.lower() in atlases]
    if not atlases and (wanted.n_edges or wanted.name):
        raise nothing_wanted(TITLE, path, {f"SC of {f.atlas}": 0 for f in fields}, wanted)
    if not fitting:
        raise wrong_atlases(TITLE, path, {field.atlas for field in fields}, wanted)
    notes: Counter[str] = Counter()
    chosen = _by_flavor(path, fitting, wanted, problems=problems, notes=notes)
    files: dict[str, list[MatrixFile]] = {name: [] for name, _ in chosen}
    for (name, participant), candidates in chosen.items():
        try:
            files[name] += _one_matrix(name, participant, candidates, wanted=wanted, notes=notes)
        except InputError as problem:
            problems.append(problem)
    raise_together(problems)
    tell_notes(notes, path)
    inputs = open_matrices(files, where=str(path), wanted=wanted)
    if not inputs:
        raise nothing_wanted(TITLE, path, files or {f.variable: 0 for f in fitting}, wanted)
    remarks = {name: MEASURES[matrices[0].measure][1] for (name, _), matrices in chosen.items()}
    for name in inputs:
        _log.warning("%s from %s: %s", name, TITLE, remarks[name])
    return inputs


def _fields(path: Path, problems: list[KrakenBIDSError]) -> Iterable[_Matrix]:
    """All matrices of all files; what cannot be read is a problem."""
    for root in data_sets(path):
        for file in iterate_files(root, "dwi", (ENDING,)):
            try:
                fields = read_fields(file.path)
            except InputError as problem:
                problems.append(problem)
                continue
            yield from _fields_of(file, fields)


def _fields_of(file: FoundFile, fields: Mapping[str, Field]) -> Iterable[_Matrix]:
    """Matrices of one file; a measure follows the longest atlas' label that fits."""
    labels = [name.removesuffix("_region_ids") for name in fields if name.endswith("_region_ids")]
    for name, values in fields.items():
        match = re.fullmatch(r"(.+)_connectivity", name)
        fitting = [label for label in labels if name.startswith(f"{label}_")]
        if match is None or not fitting:
            continue
        label = max(fitting, key=len)
        yield _Matrix(
            file=file,
            atlas=atlas_of(label.removeprefix("atlas_")),
            label=label,
            measure=match.group(1).removeprefix(f"{label}_"),
            values=values,
            ids=fields[f"{label}_region_ids"],
            labels=fields.get(f"{label}_region_labels"),
        )


def _by_flavor(
    path: Path,
    fields: Iterable[_Matrix],
    wanted: Wanted,
    *,
    problems: list[KrakenBIDSError],
    notes: Counter[str],
) -> dict[tuple[str, str], list[_Matrix]]:
    """Matrices by flavor and participant."""
    found: dict[tuple[str, str], list[_Matrix]] = {}
    measures = set()
    for field in fields:
        if field.measure not in MEASURES:
            measures.add(field.measure)
            continue
        processing = MEASURES[field.measure][0]
        kind, unknown = _kind(field.file)
        if unknown:
            kind = _believed_kind(field, processing, wanted)
        if not kind:
            if not _may_be_wanted(field.atlas, processing, wanted):
                continue
            problems.append(_no_kind(field, f"{field.atlas}_{processing}={path}", unknown))
            continue
        name = f"{kind}_{field.atlas}_{processing}"
        name = canonical_flavor(name, wanted.n_edges) or name
        if unknown:
            notes[f"is taken for {name} as told: {unknown}"] += 1
        found.setdefault((name, participant_of(field.file)), []).append(field)
    if measures:
        _log.info("%s: left out, no flavors: %s", path, name_some(sorted(measures)))
    return found


def _no_kind(field: _Matrix, rest: str, unknown: str) -> InputError:
    """Say why a matrix is of no flavor, and what would help."""
    is_told = _algorithm(field.file) and _is_constrained(field.file) is not None
    return InputError(
        f"participant {participant_of(field.file)}: {unknown}",
        where=str(field.file.path),
        fix="Track iFOD2 with anatomical constraints, or SD_STREAM without."
        if is_told
        else f"Say which flavor it is, such as SCifod2act_{rest}.",
    )


def _kind(file: FoundFile) -> tuple[str, str]:
    """Kind of flavor of a file, or why it is not known or none."""
    algorithm = _algorithm(file)
    constrained = _is_constrained(file)
    if algorithm and constrained is not None:
        kind = KINDS.get((algorithm, constrained), "")
        how = "with" if constrained else "without"
        return kind, "" if kind else f"no flavor is {algorithm} {how} anatomical constraints"
    if not algorithm:
        return "", "the files' names do not tell the tracking algorithm (model-ifod2, …)"
    return "", "the data set's name does not tell the anatomical constraints (act-…)"


def _algorithm(file: FoundFile) -> str:
    """Tracking algorithm by the file's name, else by that of streamlines of the same scan."""
    if model := file.label("model"):
        return model.lower()
    streamlines = [
        parse_name(path) for path in sorted(file.path.parent.glob("*_streamlines.tck*"))
    ]
    models = {
        model.lower()
        for other in streamlines
        if other.source == file.source and (model := other.label("model"))
    }
    return models.pop() if len(models) == 1 else ""


def _is_constrained(file: FoundFile) -> bool | None:
    """Whether streamlines were constrained, by the data set's name; None if it does not tell."""
    subject = next(parent for parent in file.path.parents if parent.name.startswith("sub-"))
    match = re.search(r"_act-([A-Za-z0-9]+)", subject.absolute().parent.name)
    return match.group(1).lower() != "none" if match else None


def _believed_kind(field: _Matrix, processing: str, wanted: Wanted) -> str:
    """Kind that the folder was given for, if what the files tell does not speak against it."""
    parts = wanted.name.split("_")
    if len(parts) != 3 or parts[1:] != [field.atlas.lower(), processing]:
        return ""
    algorithm, constrained = _algorithm(field.file), _is_constrained(field.file)
    agrees = any(
        kind == parts[0] and algorithm in {"", key[0]} and constrained in {None, key[1]}
        for key, kind in KINDS.items()
    )
    return parts[0] if agrees else ""


def _may_be_wanted(atlas: str, processing: str, wanted: Wanted) -> bool:
    """Whether any wanted flavor has this atlas and processing."""
    return any(is_wanted(f"{kind}_{atlas}_{processing}", wanted) for kind in KINDS.values())


def _one_matrix(
    name: str,
    participant: str,
    candidates: Sequence[_Matrix],
    *,
    wanted: Wanted,
    notes: Counter[str],
) -> list[MatrixFile]:
    """The one matrix of a participant, with its size checked; none if it is not wanted."""
    if not is_wanted(name, wanted):
        return []
    file = choose_file([field.file for field in candidates], name, notes)
    field = next(field for field in candidates if field.file == file)
    where = f"{field.variable} in {file.path}"
    size = n_regions(wanted.n_edges[name]) if name in wanted.n_edges else 0
    n_rows, n_named = square_size(field.values, size=size, where=where), count_values(field.ids)
    if n_rows != n_named:
        raise InputError(
            f"names {n_named} regions and holds {n_rows}",
            where=where,
            fix="Run QSIRecon again with a table of all regions of the image.",
        )
    return [MatrixFile(participant, str(file.path), functools.partial(_load, field))]


def _load(field: _Matrix) -> LabelledMatrix:
    """Read one matrix with its regions."""
    where = f"{field.variable} in {field.file.path}"
    values = read_square(field.values, size=0, where=where)
    return LabelledMatrix(values, _region_names(field, len(values)))


def _region_names(field: _Matrix, n_rows: int) -> tuple[str, ...] | None:
    """Names of the regions where they are those of the atlas, else their numbers."""
    labels = read_texts(field.labels)
    if labels and len(labels) == n_rows and field.atlas in atlas_names():
        known = {name.casefold() for name in load_atlas(field.atlas).region_names}
        if all(label.casefold() in known for label in labels):
            return labels
    return read_texts(field.ids)


def region_values(file: Path, atlas: str, values: Mapping[int, float]) -> NDArray[np.float64]:
    """Bring values of regions to the order of an atlas, as its matrices in a file are brought.

    Parameters
    ----------
    file
        ``_connectivity.mat``.
    atlas
        Name.
    values
        By number of a region, as the file numbers them; regions without one get 0.

    Returns
    -------
    NDArray
        (n_regions,).

    Raises
    ------
    InputError
        If the file has no regions of that atlas, or `values` numbers that it does not have.
    """
    fields = _fields_of(parse_name(file), read_fields(file))
    field = next((item for item in fields if item.atlas == atlas), None)
    if field is None:
        raise InputError(
            f"holds no regions of {atlas}", where=str(file), fix="Run QSIRecon again."
        )
    numbers = [int(float(text)) for text in read_texts(field.ids) or ()]
    strange = sorted(set(values) - set(numbers))
    if strange:
        raise InputError(
            f"the label image of {atlas} has values that the matrices do not name: "
            f"{name_some([str(number) for number in strange])}",
            where=str(file),
            fix="Give label image and matrices of one run of QSIRecon.",
        )
    diagonal = np.diag([values.get(number, 0.0) for number in numbers])
    named = LabelledMatrix(diagonal, _region_names(field, len(numbers)))
    return np.diag(order_regions(named, atlas=atlas, where=str(file))[0]).copy()
