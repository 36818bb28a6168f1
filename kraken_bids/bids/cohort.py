# SPDX-License-Identifier: MIT
"""The measured connectomes of a cohort, found among finished outputs."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import InputError, KrakenBIDSError, Problems, UsageError, suggest
from ..flavors import Flavor
from ..plan import CohortSession, Entities, session_label
from ..settings import DENOISING
from .files import FoundFile, parse_name, same_label
from .names import OFF_RECIPE, is_label

_log = logging.getLogger(__name__)

#: The task taken where there are several and none was asked for.
DEFAULT_TASK = "rest"
#: Entities that tell the runs of one task apart.
RUN_ENTITIES = frozenset({"run", "dir"})
MISSING_VALUES = frozenset({"", "n/a", "N/A", "NaN", "nan"})


def find_cohort(
    output_dir: Path,
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    tasks: Sequence[str] = (),
    adapt_by: str = "",
    participants_file: Path | None = None,
    mark: str = "",
    leave_out_uncombined: bool = False,
) -> tuple[CohortSession, ...]:
    """Find the measured connectomes of each session.

    Only ``sub-*/[ses-*/]{func,dwi}`` are looked into, and no file is opened. One matrix a flavor
    and session is taken: runs combined before a single run; of several tasks the one asked for,
    else ``rest``; of other variants (``acq-`` and so on) the first by name, which is logged.

    Parameters
    ----------
    output_dir
        Data set of the participant level, or any of that form.
    participants, sessions, tasks
        Labels without prefix; all if empty.
    adapt_by
        Column of `participants_file` that tells sites apart, or empty.
    participants_file
        ``participants.tsv``; needed with `adapt_by`.
    mark
        Key of `OFF_RECIPE`: functional connectomes of that pipeline are taken, and no others.
        Empty: those of the models' recipe; that others are left out is logged.
    leave_out_uncombined
        Whether flavors of which a session has several runs and no combination, as after a run
        that failed, are left out with a warning; otherwise they are a problem.

    Returns
    -------
    tuple of CohortSession
        Sorted by participant and session; sessions without connectomes are left out.

    Raises
    ------
    Problems
        With an error for each session whose matrices are ambiguous or whose site is unknown.
    """
    found: list[CohortSession] = []
    problems: list[KrakenBIDSError] = []
    unused: dict[str, int] = {}
    for participant, session, files in _session_files(output_dir, participants, sessions):
        try:
            connectomes, uncombined = _connectomes(_of_recipe(files, mark, unused), tasks)
        except KrakenBIDSError as problem:
            problems.append(problem)
            continue
        if uncombined and not leave_out_uncombined:
            problems.append(uncombined[0])
            continue
        if uncombined:
            _log.warning(
                "%s: %d flavor(s) are left out: %s",
                session_label(participant, session), len(uncombined), uncombined[0],
            )  # fmt: skip
        if connectomes:
            found.append(CohortSession(participant, session, connectomes))
    is_functional = [path.parent.name == "func" for one in found for _, path in one.connectomes]
    _tell_off_recipe(unused, mark, output_dir, taken=bool(mark) and any(is_functional))
    there = {session.participant for session in found}
    for participant in participants:
        if participant not in there:
            _log.warning("sub-%s has no measured connectomes in %s", participant, output_dir)
    if problems:
        raise Problems(problems)
    return _with_sites(found, adapt_by, participants_file) if adapt_by else tuple(found)


def _of_recipe(
    files: Iterable[FoundFile], mark: str, unused: dict[str, int]
) -> Iterable[FoundFile]:
    """Files of one pipeline, structural ones always; functional ones of others are counted."""
    for file in files:
        label = file.label("desc") or ""
        if label == (mark if file.datatype == "func" else ""):
            yield file
        elif file.datatype == "func":
            unused[label] = unused.get(label, 0) + 1


def _tell_off_recipe(
    unused: Mapping[str, int], mark: str, output_dir: Path, *, taken: bool
) -> None:
    """Say which functional connectomes were left out, and which were taken that should not be."""
    options = {name.replace("_", ""): name for name in DENOISING}
    for label, number in sorted(unused.items()):
        if label:
            _log.warning(
                "%d functional connectomes in %s are left out: desc-%s, %s%s",
                number,
                output_dir,
                label,
                OFF_RECIPE[label],
                f". With --denoising {options[label]}, the group level takes them"
                if label in options
                else "",
            )
    if taken:
        _log.warning(
            "functional connectomes of desc-%s are used (%s): the models were trained on another "
            "recipe, and their predictions from these are not validated",
            mark,
            OFF_RECIPE[mark],
        )


def _session_files(
    output_dir: Path, participants: Sequence[str], sessions: Sequence[str]
) -> Iterable[tuple[str, str | None, list[FoundFile]]]:
    """Matrices of each session, sorted."""
    for subject in _folders(output_dir, "sub", participants):
        participant = subject.name.removeprefix("sub-")
        if not sessions:
            yield participant, None, _matrices(subject)
        for folder in _folders(subject, "ses", sessions):
            yield participant, folder.name.removeprefix("ses-"), _matrices(folder)


def _folders(parent: Path, entity: str, labels: Sequence[str]) -> list[Path]:
    """Folders of an entity, all or those of some labels."""
    if labels:
        named = (parent / f"{entity}-{label}" for label in sorted(set(labels)))
        return [folder for folder in named if folder.is_dir()]
    return sorted(
        folder
        for folder in parent.glob(f"{entity}-*")
        if folder.is_dir() and is_label(folder.name.removeprefix(f"{entity}-"))
    )


def _matrices(folder: Path) -> list[FoundFile]:
    """Measured matrices in a session's folder; predicted ones have another ``desc-``."""
    paths = sorted(
        path for datatype in ("func", "dwi") for path in folder.glob(f"{datatype}/*_relmat.tsv")
    )
    files = (parse_name(path) for path in paths if not path.name.startswith("."))
    return [file for file in files if (file.label("desc") or "") in {"", *OFF_RECIPE}]


def _connectomes(
    files: Iterable[FoundFile], tasks: Sequence[str]
) -> tuple[tuple[tuple[str, Path], ...], list[InputError]]:
    """One file a flavor, and the flavors of which there are runs but no combination."""
    by_flavor: dict[str, list[FoundFile]] = {}
    for file in files:
        atlas, meas = file.label("atlas"), file.label("meas")
        try:
            flavor = Flavor.from_bids(atlas or "", meas or "")
        except UsageError:
            _log.warning("left out, meas-%s is no known flavor: %s", meas, file.path)
            continue
        if flavor.datatype == file.datatype:
            by_flavor.setdefault(str(flavor), []).append(file)
    chosen: list[tuple[str, Path]] = []
    uncombined: list[InputError] = []
    for name in sorted(by_flavor):
        try:
            one = _choose(name, by_flavor[name], tasks)
        except InputError as problem:  # runs without their combination; of tasks, UsageError
            uncombined.append(problem)
            continue
        if one is not None:
            chosen.append((name, one.path))
    return tuple(chosen), uncombined


def _choose(flavor: str, files: list[FoundFile], tasks: Sequence[str]) -> FoundFile | None:
    candidates = _of_task(flavor, files, tasks)
    combined = [file for file in candidates if not _run_labels(file)]
    runs = {_run_labels(file) for file in candidates}
    if not combined and len(runs) > 1:
        raise InputError(
            f"{flavor} has {len(runs)} runs but no combination of them",
            where=str(candidates[0].path.parent),
            fix="Run the participant level again; it writes the combination last.",
        )
    # Matrices of other diffusion series stand beside each other, as those of other acquisitions.
    left = sorted(combined or candidates, key=lambda file: (len(file.entities), file.path.name))
    if len(left) > 1:
        others = ", ".join(file.path.name for file in left[1:])
        _log.warning("%s is used, not %s", left[0].path.name, others)
    return left[0] if left else None


def _run_labels(file: FoundFile) -> Entities:
    if file.datatype != "func":
        return ()
    return tuple(pair for pair in file.entities if pair[0] in RUN_ENTITIES)


def _of_task(flavor: str, files: list[FoundFile], tasks: Sequence[str]) -> list[FoundFile]:
    """Files of the one task to take; those without a task are of none."""
    there = sorted({task for file in files if (task := file.label("task"))})
    wanted = [task for task in there if any(same_label(task, asked) for asked in tasks)]
    if not there or (tasks and not wanted):
        return [] if there else files
    if not tasks:
        wanted = [DEFAULT_TASK] if DEFAULT_TASK in there else there
    if len(wanted) > 1:
        raise UsageError(
            f"{flavor} was measured in {len(wanted)} tasks: {', '.join(wanted)}",
            where=str(files[0].path.parent),
            fix=f"Say which to use, such as --task-id {wanted[0]}.",
        )
    return [file for file in files if file.label("task") == wanted[0]]


def _with_sites(
    sessions: Iterable[CohortSession], column: str, participants_file: Path | None
) -> tuple[CohortSession, ...]:
    sites = read_sites(column, participants_file)
    problems = [
        InputError(
            f"sub-{session.participant} has no value in column '{column}'",
            where=str(participants_file),
            fix="Fill it in, or leave the participant out with --participant-label.",
        )
        for session in sessions
        if session.participant not in sites
    ]
    if problems:
        unique = {str(problem): problem for problem in problems}
        raise Problems(unique.values())
    return tuple(
        CohortSession(
            session.participant,
            session.session,
            session.connectomes,
            sites[session.participant],
        )
        for session in sessions
    )


def read_sites(column: str, participants_file: Path | None) -> Mapping[str, str]:
    """Read a column of ``participants.tsv``.

    Parameters
    ----------
    column
        Its name.
    participants_file
        The table.

    Returns
    -------
    dict
        Value by participant (label without prefix); participants without a value are left out.

    Raises
    ------
    InputError
        If the table cannot be read.
    UsageError
        If it has no such column.
    """
    if participants_file is None or not participants_file.is_file():
        raise InputError(
            "there is no participants.tsv to read sites from",
            where=f"--adapt-by {column}, {participants_file}",
            fix="Put participants.tsv into the BIDS folder, or leave --adapt-by out.",
        )
    try:
        text = participants_file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read: {error}", where=str(participants_file), fix="Save it as UTF-8 text."
        ) from error
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    columns = [name for name in (rows[0] if rows else {}) if name]
    for needed in ("participant_id", column):
        if needed not in columns:
            raise UsageError(
                f"there is no column '{needed}'",
                where=str(participants_file),
                fix=suggest(needed, columns) + ".",
            )
    return {
        row["participant_id"].removeprefix("sub-"): row[column].strip()
        for row in rows
        if row["participant_id"] and (row[column] or "").strip() not in MISSING_VALUES
    }
