# SPDX-License-Identifier: MIT
"""Inputs from the functional connectomes of XCP-D and giga_connectome.

Both correlate series by Pearson. Which flavor the result is depends on how the series were
filtered and whether the global signal was regressed: XCP-D says so in sidecars, giga_connectome
in the name of its strategy.

References
----------
XCP-D, ``workflows/bold/outputs.py`` (``SoftwareFilters``, ``NuisanceParameters``); its names were
``atlas-X_measure-pearsoncorrelation_conmat`` up to 0.6, ``seg-X_stat-pearsoncorrelation_relmat``
since, and have ``atlas-X`` again of late. giga_connectome, ``docs/source/outputs.md`` and
``changes.md``: ``seg-`` since 0.6, ``atlas-`` with the rest of the atlas in ``desc-`` before.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...atlases import atlas_names
from ...bids.files import FoundFile, parse_name
from ...bids.ready_processing import giga_strategy, giga_variant
from ...bids.xcp_d import processing as xcp_d_processing
from ...errors import InputError, KrakenBIDSError
from ...storage import load_json
from ..inputs import FlavorInput, Wanted
from .bids_labels import participant_of
from .checks import name_some
from .matrix_files import MatrixFile, is_wanted, open_matrices, raise_together
from .naming import canonical_flavor
from .regions import atlas_of, atlas_of_flavor
from .relmat_tree import load_text
from .tree_files import (
    choose_file,
    iterate_files,
    model_atlases,
    nothing_wanted,
    tell_notes,
    wrong_atlases,
)

_log = logging.getLogger(__name__)

KIND = "FCcorr"
XCP_D_ENDINGS = ("_relmat.tsv", "_conmat.tsv")
GIGA_ENDINGS = ("_relmat.tsv",)


@dataclass(frozen=True)
class _Matrix:
    """A correlation matrix of a tree.

    `processing` is the last part of the flavor's name, or empty with a reason in `unknown`.
    """

    file: FoundFile
    atlas: str
    processing: str
    unknown: str = ""


def is_xcp_d(file: FoundFile) -> bool:
    """Whether a name is that of XCP-D's correlations, of all volumes."""
    stat = file.label("stat") or file.label("measure") or ""
    return stat.lower() == "pearsoncorrelation" and file.label("desc") is None


def is_giga(file: FoundFile) -> bool:
    """Whether a name is that of giga_connectome's correlations."""
    meas = (file.label("meas") or file.label("stat") or "").lower()
    return meas == "pearsoncorrelation" and "denoise" in (file.label("desc") or "").lower()


def open_xcp_d(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open the correlation matrices of XCP-D.

    They are ``FCcorr_<atlas>_hpf`` if the series were high-pass filtered only, ``_bpf`` with a
    low-pass filter (XCP-D's default) and ``_nofilt`` without any; with ``gsr`` if the global
    signal was regressed. Where no sidecar tells, the flavor that the folder was given for is
    believed, with a line in the log.

    Raises
    ------
    InputError
        If there are none of the model's atlases or flavors; `Problems` for all that is ambiguous.
    """
    files = [file for file in iterate_files(path, "func", XCP_D_ENDINGS) if is_xcp_d(file)]
    sidecars = functools.cache(_sidecars)
    return _open(
        "XCP-D", path, files, wanted,
        describe=lambda file: _xcp_d_matrix(file, sidecars(file.path.parent)),
        atlas=lambda file: file.label("atlas") or file.label("seg") or "",
    )  # fmt: skip


def open_giga(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open the correlation matrices of giga_connectome.

    They are ``FCcorr_<atlas>_hpf``, or ``_hpfgsr`` for the strategies with ``gsr``. The flavor
    that the folder was given for is believed of a strategy that is not the program's own.

    Raises
    ------
    InputError
        If there are none of the model's atlases or flavors; `Problems` for all that is ambiguous,
        several strategies of one flavor above all.
    """
    files = [file for file in iterate_files(path, "func", GIGA_ENDINGS) if is_giga(file)]
    return _open("giga_connectome", path, files, wanted, describe=_giga_matrix, atlas=_giga_atlas)


def _open(
    title: str,
    path: Path,
    files: Sequence[FoundFile],
    wanted: Wanted,
    *,
    describe: Callable[[FoundFile], _Matrix],
    atlas: Callable[[FoundFile], str],
) -> dict[str, FlavorInput]:
    """Choose a file a participant and flavor."""
    if not files:
        raise nothing_wanted(title, path, {}, wanted)
    atlases = model_atlases(wanted, KIND)
    matrices = [
        describe(file) for file in files if not atlases or atlas_of(atlas(file)).lower() in atlases
    ]
    if not atlases and (wanted.n_edges or wanted.name):
        raise nothing_wanted(title, path, {f"{KIND}_{atlas(file)}": 0 for file in files}, wanted)
    if not matrices:
        raise wrong_atlases(title, path, {atlas(file) for file in files}, wanted)
    problems: list[KrakenBIDSError] = []
    by_flavor = _by_flavor(title, matrices, wanted, problems)
    chosen: dict[str, list[MatrixFile]] = {}
    notes: Counter[str] = Counter()
    for (name, participant), candidates in by_flavor.items():
        if not is_wanted(name, wanted):
            chosen.setdefault(name, [])
            continue
        try:
            file = _choose(title, name, candidates, notes)
        except InputError as problem:
            problems.append(problem)
            continue
        load = functools.partial(load_text, file.path)
        chosen.setdefault(name, []).append(MatrixFile(participant, str(file.path), load))
    raise_together(problems)
    tell_notes(notes, path)
    inputs = open_matrices(chosen, where=str(path), wanted=wanted)
    if not inputs:
        raise _wrong_flavors(title, path, chosen, wanted)
    _log.warning(
        "%s: %s denoises otherwise than was done for the published models' training data; adapt "
        "the inputs (--adaptation)",
        path,
        title,
    )
    return inputs


def _by_flavor(
    title: str,
    matrices: Iterable[_Matrix],
    wanted: Wanted,
    problems: list[KrakenBIDSError],
) -> dict[tuple[str, str], list[_Matrix]]:
    """Matrices by flavor and participant; the flavor asked for is that of unknown ones."""
    found: dict[tuple[str, str], list[_Matrix]] = {}
    believed: dict[str, str] = {}
    for matrix in matrices:
        participant = participant_of(matrix.file)
        if matrix.processing:
            name = f"{KIND}_{matrix.atlas}_{matrix.processing}"
            name = canonical_flavor(name, wanted.n_edges) or name
        elif _is_of(matrix, wanted.name):
            name = wanted.name
            believed.setdefault(matrix.unknown, matrix.file.path.name)
        else:
            problems.append(
                InputError(
                    f"participant {participant}: {matrix.unknown}",
                    where=str(matrix.file.path),
                    fix=f"Say which flavor it is: {KIND}_{matrix.atlas}_hpf=FOLDER, for instance.",
                )
            )
            continue
        found.setdefault((name, participant), []).append(matrix)
    for reason, file in believed.items():
        _log.warning("%s is taken for %s as told: %s (%s)", title, wanted.name, reason, file)
    return found


def _is_of(matrix: _Matrix, flavor: str) -> bool:
    """Whether a flavor is of a matrix' kind and atlas."""
    return flavor.startswith(KIND) and atlas_of_flavor(flavor).lower() == matrix.atlas.lower()


def _choose(
    title: str, name: str, candidates: Sequence[_Matrix], notes: Counter[str]
) -> FoundFile:
    """One file of a participant; several strategies are told as such."""
    strategies = sorted({matrix.file.label("desc") or "" for matrix in candidates})
    if len(strategies) > 1:
        raise InputError(
            f"participant {participant_of(candidates[0].file)} has {name} by {len(strategies)} "
            f"strategies of {title}: {', '.join(strategies)}",
            where=str(candidates[0].file.path.parent),
            fix="Give a folder that holds one of them.",
        )
    return choose_file([matrix.file for matrix in candidates], name, notes)


def _wrong_flavors(
    title: str, path: Path, chosen: Mapping[str, object], wanted: Wanted
) -> InputError:
    """Say what the filters make of the matrices; nobody should take them for others."""
    asked = [wanted.name] if wanted.name else [n for n in wanted.n_edges if n.startswith(KIND)]
    return InputError(
        f"by {title}'s filters and confounds the connectomes are {name_some(sorted(chosen))}, "
        f"{'not' if wanted.name else 'and the model has'} {name_some(asked)}",
        where=str(path),
        fix="Run XCP-D with --lower-bpf 0.01 --upper-bpf 0, or measure connectomes with "
        "kraken-bids."
        if title == "XCP-D"
        else "Run the program with another strategy.",
    )


def _xcp_d_matrix(
    file: FoundFile, sidecars: Sequence[tuple[FoundFile, Mapping[str, Any]]]
) -> _Matrix:
    """Read off a sidecar of the denoised series how a matrix was made."""
    atlas = atlas_of(file.label("atlas") or file.label("seg") or "")
    same_task = [
        content for other, content in sidecars if other.label("task") == file.label("task")
    ]
    told = {xcp_d_processing(content) for content in same_task}
    if not told:
        return _Matrix(file, atlas, "", "no sidecar of XCP-D tells how the series were filtered")
    if len(told) > 1:
        return _Matrix(file, atlas, "", f"sidecars of XCP-D differ: {name_some(sorted(told))}")
    processing = told.pop()
    if not processing:
        return _Matrix(file, atlas, "", "XCP-D's sidecar names unknown filters or confounds")
    return _Matrix(file, atlas, processing)


def _sidecars(folder: Path) -> list[tuple[FoundFile, Mapping[str, Any]]]:
    """Sidecars of denoised series in a folder; XCP-D writes them whole, nothing is inherited."""
    return [
        (parse_name(path), _read_sidecar(path))
        for path in sorted(folder.glob("*_desc-denoised_bold.json"))
    ]


def _read_sidecar(path: Path) -> Mapping[str, Any]:
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the sidecar cannot be read: {error}", where=str(path), fix="Restore the file."
        ) from error
    return content if isinstance(content, Mapping) else {}


def _giga_atlas(file: FoundFile) -> str:
    """Name of the atlas: of a whole name, or of its first part if that is known alone."""
    base = file.label("seg") or file.label("atlas") or ""
    rest = giga_strategy(file.label("desc") or "")[0]
    return base if atlas_of(base) in atlas_names() else base + rest


def _giga_matrix(file: FoundFile) -> _Matrix:
    """Read off the strategy's name how a matrix was made."""
    atlas = atlas_of(_giga_atlas(file))
    strategy = giga_strategy(file.label("desc") or "")[1]
    processing = giga_variant(strategy)
    unknown = "" if processing else f"'{strategy}' is none of giga_connectome's strategies"
    return _Matrix(file, atlas, processing, unknown)
