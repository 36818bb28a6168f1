# SPDX-License-Identifier: MIT
"""Predictions into files: one place that knows which formats there are.

`WRITERS` is the table; a format is a row and a module. A file appears when all is written.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from ...errors import UsageError, suggest
from ..outputs import OpenWriter, OutputFacts, PredictionWriter

#: Function that opens a format's files, by extension; a folder has none. Named, not imported:
#: most runs need one of them, and not h5py.
WRITERS: dict[str, str] = {
    ".npz": "npz.write_npz",
    ".h5": "hdf5.write_hdf5",
    ".mat": "matlab.write_matlab",
    "": "tree.write_tree",
}


def check_output(
    path: Path,
    *,
    n_participants: int = 0,
    participants: Sequence[str] = (),
    facts: OutputFacts | None = None,
) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Parameters
    ----------
    path
        File or folder, as typed.
    n_participants, participants, facts
        Once they are known: then sizes, ids and names are held against what the format can hold.

    Raises
    ------
    UsageError
        If the extension is unknown.
    Problems
        If the folder holds something else than predictions, or the format cannot hold so much,
        or such names.
    """
    extension = output_extension(path)
    if not extension:
        from .tree import check_tree

        check_tree(path, participants, facts)
    elif path.is_dir():
        raise UsageError(
            "is a folder that ends as a file does",
            where=f"--output {path}",
            fix="Give a file that does not exist, or a folder without an extension.",
        )
    if extension == ".mat":
        from .matlab import check_matlab

        check_matlab(path, n_participants, facts)
    elif "{" in path.name:
        raise UsageError(
            "placeholders such as {input} are for .mat files",
            where=f"--output {path}",
            fix="Leave them out: one file holds all predictions.",
        )


def open_output(
    path: Path, *, participants: Sequence[str], facts: OutputFacts
) -> AbstractContextManager[PredictionWriter]:
    """Open a file or folder for predictions, by its extension.

    Parameters
    ----------
    path
        ``.npz``, ``.h5``, ``.mat`` (perhaps with placeholders ``{input}`` and ``{output}``), or
        a folder.
    participants
        (n,) ids, in the order of the rows.
    facts
        What will be handed over, and where it comes from.

    Returns
    -------
    context manager
        Gives the writer; the output is put in its place when the block ends well, and nothing
        is left behind when it fails.

    Raises
    ------
    UsageError
        As `check_output`.
    """
    check_output(path, n_participants=len(participants), participants=participants, facts=facts)
    module, _, function = WRITERS[output_extension(path)].partition(".")
    opened = cast(
        "OpenWriter", getattr(importlib.import_module(f"{__package__}.{module}"), function)
    )
    return opened(path, participants, facts)


def output_extension(path: Path) -> str:
    """Key of `WRITERS` for a path; empty for a folder.

    Raises
    ------
    UsageError
        If there is no such key.

    Examples
    --------
    >>> output_extension(Path("out.npz")), output_extension(Path("predictions_v1.2"))
    ('.npz', '')
    """
    # What follows the last dot is an extension if it begins with a letter: v1.2 is a folder.
    found = re.search(r"\.[A-Za-z]\w*$", path.name)
    extension = found.group().lower() if found else ""
    if extension in WRITERS:
        return extension
    if path.is_dir():
        return ""
    known = [name for name in WRITERS if name]
    raise UsageError(
        f"output '{path}' is of no kind that is written",
        where="--output",
        fix=f"{suggest(extension, known)}, or give a folder.",
    )
