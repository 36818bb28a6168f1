# SPDX-License-Identifier: MIT
"""The files of a data set of connectomes: found, chosen among, and what to say of the rest."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ...bids.cohort import DEFAULT_TASK, RUN_ENTITIES
from ...bids.files import FoundFile, parse_name
from ...errors import InputError
from ..inputs import Wanted
from .bids_labels import participant_of
from .checks import name_some
from .regions import atlas_of, atlas_of_flavor

_log = logging.getLogger(__name__)


def iterate_files(root: Path, datatype: str, endings: Sequence[str]) -> Iterator[FoundFile]:
    """Files of all participants and sessions in folders of one datatype, sorted.

    A folder is looked into when its first file is asked for.

    Parameters
    ----------
    root
        Folder of the data set.
    datatype
        ``func`` or ``dwi``.
    endings
        Ends of file names.
    """
    for folder in _datatype_folders(root, datatype):
        for path in sorted(folder.iterdir()):
            if path.name.startswith("sub-") and path.name.endswith(tuple(endings)):
                yield parse_name(path)


def _datatype_folders(root: Path, datatype: str) -> Iterable[Path]:
    for subject in sorted(root.glob("sub-*")):
        for folder in (subject, *sorted(subject.glob("ses-*"))):
            if (folder / datatype).is_dir():
                yield folder / datatype


def choose_file(files: Sequence[FoundFile], name: str, notes: Counter[str]) -> FoundFile:
    """Choose a participant's (session's) one file of a flavor.

    Of several tasks ``rest`` is taken, and runs combined before a single run. Whatever else tells
    files apart is for a person to choose.

    Parameters
    ----------
    files
        At least one.
    name
        Flavor, for messages.
    notes
        What was chosen is counted here, for `tell_notes`.

    Raises
    ------
    InputError
        If several are left.
    """
    who = f"{name} of participant {participant_of(files[0])}"
    tasks = sorted({task for file in files if (task := file.label("task"))})
    if len(tasks) > 1:
        if DEFAULT_TASK not in tasks:
            raise InputError(
                f"{who} was measured in {len(tasks)} tasks: {', '.join(tasks)}",
                where=str(files[0].path.parent),
                fix="Give a folder that holds one task.",
            )
        notes[f"{name}: task-{DEFAULT_TASK} is taken, of {', '.join(tasks)}"] += 1
        files = [file for file in files if file.label("task") == DEFAULT_TASK]
    combined = [file for file in files if not _has_run(file)]
    if combined and len(combined) < len(files):
        notes[f"{name}: the runs combined are taken, not single ones"] += 1
    left = combined or files
    if len(left) > 1:
        names = name_some([str(file.path) for file in left])
        what = "several files and nothing to choose by" if combined else "several runs"
        raise InputError(
            f"{who} has {what}: {names}",
            where=str(left[0].path.parent),
            fix="Give a folder that holds one of them.",
        )
    return left[0]


def tell_notes(notes: Counter[str], where: Path) -> None:
    """Log each note once, with the number of participants (sessions) that it is about."""
    for note, number in notes.items():
        _log.warning("%s: %s (%d participants or sessions)", where, note, number)


def _has_run(file: FoundFile) -> bool:
    return any(key in RUN_ENTITIES for key, _ in file.entities)


def model_atlases(wanted: Wanted, prefix: str) -> tuple[str, ...]:
    """Atlases of the wanted flavors of a kind, in lower case; none if any flavor will do.

    Parameters
    ----------
    wanted
        What is asked for.
    prefix
        Start of the flavors' names: ``FC``, ``SC``.
    """
    names = [wanted.name] if wanted.name else wanted.n_edges
    found = {atlas_of(atlas_of_flavor(name)).lower() for name in names if name.startswith(prefix)}
    return tuple(sorted(found - {""}))


def wrong_atlases(title: str, path: Path, found: Iterable[str], wanted: Wanted) -> InputError:
    """Say that no connectome of a folder is of an atlas that the model has."""
    asked = model_atlases(wanted, "")
    return InputError(
        f"{title}'s connectomes here are of the atlases {name_some(sorted(set(found)))}; "
        f"{'asked for' if wanted.name else 'the model has'}: {', '.join(asked)}",
        where=str(path),
        fix="Run the program with one of these atlases, or measure connectomes with kraken-bids.",
    )


def nothing_wanted(
    title: str, path: Path, files: Mapping[str, object], wanted: Wanted
) -> InputError:
    """Say that a folder holds connectomes, or none, but not those asked for."""
    found = name_some(sorted(files))
    rest = f"not {wanted.name}" if wanted.name else "none of which the model has"
    return InputError(
        f"holds {found}, {rest}" if files else f"holds no measured connectomes of {title}",
        where=str(path),
        fix="Give another folder, or a model that has the flavor.",
    )
