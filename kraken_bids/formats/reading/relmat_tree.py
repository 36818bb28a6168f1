# SPDX-License-Identifier: MIT
"""Inputs from folders of labelled matrices: ours, and plain ones with a file a participant."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from ...bids.cohort import find_cohort
from ...bids.writers import read_connectome
from ...errors import InputError, KrakenBIDSError, Problems
from ..inputs import FlavorInput, Wanted
from .bids_labels import flavor_of_name, participant_of_name
from .checks import name_some
from .matrix_files import MatrixFile, open_matrices
from .naming import canonical_flavor, is_latent_name
from .numbers_text import parse_matrix
from .regions import LabelledMatrix
from .tree_files import nothing_wanted

_log = logging.getLogger(__name__)

TITLE = "kraken-bids"
#: Endings of plain files with one matrix each.
TEXT_ENDINGS = (".tsv", ".csv", ".txt")


def open_relmat_tree(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open the measured connectomes of a data set of ours.

    Sessions are rows of their own, ``<participant>_ses-<session>``. Runs, tasks and variants are
    chosen as `kraken_bids.bids.cohort.find_cohort` does. Predictions (``desc-``) are no inputs.

    Raises
    ------
    InputError
        If there are none, or none that is wanted; `Problems` for each session whose matrices are
        ambiguous.
    """
    try:
        sessions = find_cohort(path)
    except Problems as found:
        raise Problems(_without_options(problem) for problem in found.problems) from found
    files: dict[str, list[MatrixFile]] = {}
    for session in sessions:
        label = session.label.removeprefix("sub-")
        for name, file in session.connectomes:
            flavor = canonical_flavor(name, wanted.n_edges) or name
            load = functools.partial(_load_ours, file)
            files.setdefault(flavor, []).append(MatrixFile(label, str(file), load))
    inputs = open_matrices(files, where=str(path), wanted=wanted)
    if not inputs:
        raise nothing_wanted(TITLE, path, files, wanted)
    return inputs


def _without_options(problem: KrakenBIDSError) -> InputError:
    """The problem, with a remedy that does not speak of the options of another command."""
    return InputError(
        problem.what,
        where=problem.where,
        fix="Give a folder that holds one matrix a flavor and session.",
    )


def _load_ours(file: Path) -> LabelledMatrix:
    matrix, names = read_connectome(file)
    return LabelledMatrix(matrix, names)


def open_matrix_folder(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open a folder of text files, each with one participant's matrix.

    Ids are those of ``sub-`` and ``ses-`` in the files' names, else the names up to their first
    point. Flavors are those of ``atlas-`` and ``meas-``, else what the folder was given for.

    Raises
    ------
    InputError
        If nothing tells the flavor, or none is wanted.
    """
    files: dict[str, list[MatrixFile]] = {}
    untold = []
    for file in matrix_texts(path):
        flavor = flavor_of_name(file.name, wanted.n_edges)
        flavor = flavor or wanted.name or canonical_flavor(file.stem, wanted.n_edges)
        if flavor is None or is_latent_name(flavor):
            untold.append(file.name)
            continue
        participant = participant_of_name(file.name) or file.name.partition(".")[0]
        load = functools.partial(load_text, file)
        files.setdefault(flavor, []).append(MatrixFile(participant, str(file), load))
    if untold and not files:
        raise InputError(
            f"the names {name_some(untold)} do not tell which flavor the files hold",
            where=str(path),
            fix=f"Say it: FLAVOR={path}.",
        )
    if untold:
        _log.warning("%s: left out, no known flavor: %s", path, name_some(untold))
    inputs = open_matrices(files, where=str(path), wanted=wanted)
    if not inputs:
        raise nothing_wanted("matrices", path, files, wanted)
    return inputs


def matrix_texts(path: Path) -> list[Path]:
    """Text files right in a folder, but tables of BIDS, sorted."""
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in TEXT_ENDINGS
        and not file.name.startswith((".", "participants.", "README"))
        and file.is_file()
    )


def load_text(file: Path) -> LabelledMatrix:
    """Read a file that holds one matrix.

    Raises
    ------
    InputError
        If it cannot be read as such.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}",
            where=str(file),
            fix="Give files that you may read.",
        ) from error
    return parse_matrix(content, where=str(file))
