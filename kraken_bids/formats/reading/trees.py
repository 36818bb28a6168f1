# SPDX-License-Identifier: MIT
"""Inputs from folders: which program wrote one, and who reads it.

`LAYOUTS` is the table. ``dataset_description.json`` decides where it names a program of the table,
else the files that are there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...bids.derivatives import DESCRIPTION, program_of, read_description
from ...bids.names import output_path
from ...errors import InputError
from ..inputs import FlavorInput, Opener, Wanted
from .functional_trees import (
    GIGA_ENDINGS,
    XCP_D_ENDINGS,
    is_giga,
    is_xcp_d,
    open_giga,
    open_xcp_d,
)
from .naming import is_latent_name
from .qsirecon import data_sets, open_qsirecon
from .relmat_tree import matrix_texts, open_matrix_folder, open_relmat_tree
from .text import open_text
from .tree_files import iterate_files

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """One way to lay connectomes out in a folder.

    Parameters
    ----------
    title
        How the program spells itself.
    generator
        Its name in ``GeneratedBy``, lower case letters and digits only; empty if none.
    is_there
        Whether a folder has files of this layout.
    open
        Opens it.
    """

    title: str
    generator: str
    is_there: Callable[[Path], bool]
    open: Opener


def _has_relmats(path: Path) -> bool:
    return any(
        file.label("meas") and file.label("atlas") and not is_giga(file)
        for datatype in ("func", "dwi")
        for file in iterate_files(path, datatype, ("_relmat.tsv",))
    )


def _has_xcp_d(path: Path) -> bool:
    return any(is_xcp_d(file) for file in iterate_files(path, "func", XCP_D_ENDINGS))


def _has_giga(path: Path) -> bool:
    return any(is_giga(file) for file in iterate_files(path, "func", GIGA_ENDINGS))


#: Layouts that are read.
LAYOUTS: tuple[Layout, ...] = (
    Layout("kraken-bids", "krakenbids", _has_relmats, open_relmat_tree),
    Layout("XCP-D", "xcpd", _has_xcp_d, open_xcp_d),
    Layout("giga_connectome", "gigaconnectome", _has_giga, open_giga),
    Layout("QSIRecon", "qsirecon", lambda path: bool(data_sets(path)), open_qsirecon),
    Layout("text matrices", "", lambda path: bool(matrix_texts(path)), open_matrix_folder),
)


def open_tree(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open a folder of connectomes.

    Parameters
    ----------
    path
        Root of a data set of one of `LAYOUTS`.
    wanted
        The model's flavors; with a name, that flavor alone.

    Returns
    -------
    dict
        By flavor. Participants may lack flavors; those with sessions have a row a session,
        ``<participant>_ses-<session>``.

    Raises
    ------
    InputError
        If it is of no layout or of several, or holds no wanted connectome; `Problems` where
        there are several.
    """
    if not path.is_dir():
        raise InputError("is no folder", where=str(path), fix="Give a folder that exists.")
    if is_latent_name(wanted.name):
        return _open_latents(path, wanted)
    try:
        layout = _layout(path)
        _log.info("%s is read as connectomes of %s", path, layout.title)
        return layout.open(path, wanted)
    except OSError as error:
        raise InputError(
            f"cannot be listed: {error.strerror or error}",
            where=str(error.filename or path),
            fix="Give a folder that you may read.",
        ) from error


def _open_latents(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open the table of a cohort's latents in a data set of predictions."""
    file = path / output_path("cohort_latent", desc=wanted.name)
    if not file.is_file():
        raise InputError(
            f"has no latents '{wanted.name}' of a cohort ({file.name})",
            where=str(path),
            fix=f"Give a file: {wanted.name}=FILE.",
        )
    return open_text(file, wanted)


def _layout(path: Path) -> Layout:
    """The layout of a folder."""
    program = program_of(read_description(path)) if (path / DESCRIPTION).is_file() else ""
    key = "".join(character for character in program.lower() if character.isalnum())
    named = [layout for layout in LAYOUTS if layout.generator and layout.generator == key]
    if named:
        return named[0]
    found = [layout for layout in LAYOUTS if layout.generator and layout.is_there(path)]
    # Tables lie in the root of every data set: plain files count where nothing else is there.
    found = found or [layout for layout in LAYOUTS if layout.is_there(path)]
    if len(found) > 1:
        raise InputError(
            f"holds connectomes of {' and of '.join(layout.title for layout in found)}",
            where=str(path),
            fix="Give a folder of one program.",
        )
    if not found:
        written = f"was written by {program} and " if program else ""
        titles = ", ".join(layout.title for layout in LAYOUTS)
        raise InputError(
            f"{written}holds no connectomes that are read (of {titles})",
            where=str(path),
            fix="Give the root of the data set, the folder that holds the sub- folders.",
        )
    return found[0]
