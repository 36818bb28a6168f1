# SPDX-License-Identifier: MIT
"""Ready-made series of regions: found, judged by their sidecars, and gathered to runs.

Read are data sets of XCP-D, giga_connectome and ours, and plain tables named by participant. A
series is taken as it is; what does not fit the recipe of the models, or does not say how it was
made, is refused, or marked where it is asked for all the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atlases import atlas_names, default_atlas_names
from ..errors import InputError
from ..flavors import ALIASES
from ..plan import Entities, ReadyInputs, ReadySet, SeriesRun, SeriesTable
from ..settings import Selection, Settings
from .files import FoundFile, parse_name, read_metadata, same_label
from .functional_runs import REPETITION_TIME_RANGE_S
from .names import ENTITY_ORDER, READY_MARK, combined_entities, format_entities
from .ready_processing import Made, how_made
from .series_tables import read_series

_log = logging.getLogger(__name__)

#: Extensions of tables.
EXTENSIONS = (".tsv", ".csv", ".txt")
#: Suffixes of tables that hold something else.
OTHER_SUFFIXES = frozenset({
    "relmat", "conmat", "qc", "outliers", "motion", "design", "bold", "events", "scans",
    "sessions", "participants", "regressors", "dseg", "latent", "confounds",
})  # fmt: skip
#: Labels of ``desc-`` of tables called ``timeseries`` that hold something else.
OTHER_DESCRIPTIONS = frozenset({"confounds"})

Session = tuple[str, str | None]


@dataclass(frozen=True)
class _Found:
    """A table that can be used, and what is known of it."""

    file: FoundFile
    space: str
    table: SeriesTable
    n_volumes: int
    repetition_time_s: float
    made: Made

    @property
    def run_key(self) -> tuple[Entities, str, str]:
        """What tells its run, and the names of its outputs, from others."""
        return self.file.source, self.space, self.made.mark


def find_ready_series(root: Path, settings: Settings) -> ReadySet:
    """Find the ready-made series of all participants and sessions asked for.

    Parameters
    ----------
    root
        Folder given as ``timeseries``: a data set, or plain tables.
    settings
        As asked for; with ``force``, series that do not fit are taken and marked.

    Returns
    -------
    ReadySet
        Sessions without any series asked for are left out.

    Raises
    ------
    InputError
        If the folder holds no series of any of the atlases asked for.
    """
    atlases = settings.atlases or default_atlas_names()
    files = list(_tables(root))
    fitting = [file for file in files if _may_be_of(file, atlases)]
    if not fitting:
        others = sorted({_atlas_label(file) for file in files} - {""})
        raise InputError(
            f"holds series of the atlases {', '.join(others)} only, not of {', '.join(atlases)}"
            if others
            else "holds no series of regions (sub-*_timeseries.tsv)",
            where=f"--derivatives timeseries={root}",
            fix="Give a folder of tables sub-X[_ses-Y][_task-Z]_atlas-A_timeseries.tsv, a row a "
            "volume and a column a region.",
        )
    by_session: dict[Session, list[FoundFile]] = {}
    for file in fitting:
        if _is_selected(file, settings.selection):
            session = (file.label("sub") or "", file.label("ses"))
            by_session.setdefault(session, []).append(file)
    sessions = {
        session: _session_series(found, root, atlases=atlases, force=settings.force)
        for session, found in by_session.items()
    }
    labels = {file.label("sub") or "" for file in fitting}
    return ReadySet(sessions, tuple(sorted(labels)), (str(root),))


def _tables(root: Path) -> Iterator[FoundFile]:
    """Tables of series: in the folders of participants, or right in the folder given."""
    folders = [root]
    for subject in sorted(root.glob("sub-*")):
        for folder in (subject, *sorted(subject.glob("ses-*"))):
            folders += [folder, folder / "func"]
    for folder in folders:
        if not folder.is_dir():
            continue
        for path in sorted(folder.glob("sub-*")):
            file = parse_table_name(path)
            if path.is_file() and file is not None:
                yield file


def parse_table_name(path: Path) -> FoundFile | None:
    """Take the name of a table of series apart; None for files of other kinds.

    Examples
    --------
    >>> parse_table_name(Path("sub-01_ses-a.csv")).label("ses")
    'a'
    """
    file = parse_name(path)
    key, dash, label = file.suffix.partition("-")
    if dash and key in ENTITY_ORDER:  # a plain name may end with an entity
        file = FoundFile(path, (*file.entities, (key, label)), "", file.extension, file.datatype)
    is_other = file.suffix in OTHER_SUFFIXES or file.label("desc") in OTHER_DESCRIPTIONS
    is_mean = (file.label("stat") or "mean") == "mean"
    in_tree = path.parent.name == "func"
    if file.extension not in EXTENSIONS or is_other or not is_mean or not file.label("sub"):
        return None
    return None if in_tree and file.suffix != "timeseries" else file


def _atlas_label(file: FoundFile) -> str:
    """Name of a table's atlas as its name has it; empty if it does not."""
    label = (file.label("atlas") or file.label("seg") or "").lower()
    return ALIASES.get(label, label)


def _may_be_of(file: FoundFile, atlases: Sequence[str]) -> bool:
    label = _atlas_label(file)
    return not label or label in atlases


def _is_selected(file: FoundFile, selection: Selection) -> bool:
    asked = (
        ("sub", selection.participants),
        ("ses", selection.sessions),
        ("task", selection.tasks),
        ("run", selection.runs),
    )
    return all(
        not labels or any(same_label(file.label(key) or "", label) for label in labels)
        for key, labels in asked
    )


def _session_series(
    files: Iterable[FoundFile], root: Path, *, atlases: Sequence[str], force: bool
) -> ReadyInputs:
    problems: list[InputError] = []
    found: list[_Found] = []
    for file in files:
        try:
            found.append(_read_table(file, root, atlases=atlases, force=force))
        except InputError as problem:
            problems.append(problem)
    runs = _runs(_in_one_space(found), problems)
    problems += _not_averaged(runs)
    return ReadyInputs(series=tuple(runs), problems=tuple(problems))


def _read_table(file: FoundFile, root: Path, *, atlases: Sequence[str], force: bool) -> _Found:
    """Look through a table and its sidecars.

    Raises
    ------
    InputError
        If it cannot be used.
    """
    label = _atlas_label(file)
    series = read_series(file.path, (label,) if label in atlas_names() else atlases)
    metadata = read_metadata(file, root)
    made = how_made(file, metadata, is_empty=series.is_empty)
    if made.misfits and not force:
        raise InputError(
            f"the series does not fit the recipe of the models: {'; '.join(made.misfits)}",
            where=str(file.path),
            fix="Denoise with a high-pass filter at 0.01 Hz and no low-pass filter, leave no "
            "volume out, and say so in the JSON beside the table (SoftwareFilters, "
            f"NuisanceParameters); or use --force: names of outputs then hold desc-{READY_MARK}, "
            "and no model reads them by itself.",
        )
    return _Found(
        file=file,
        space=_label(file.label("space") or ""),
        table=SeriesTable(series.atlas, made.variant, file.path),
        n_volumes=len(series.values),
        repetition_time_s=_repetition_time(file, made.metadata),
        made=made,
    )


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9+]", "", text)


def _repetition_time(file: FoundFile, metadata: Mapping[str, Any]) -> float:
    """Seconds between volumes, from ``RepetitionTime`` or ``SamplingFrequency``.

    Raises
    ------
    InputError
        If neither tells a plausible time.
    """
    value, rate = metadata.get("RepetitionTime"), metadata.get("SamplingFrequency")
    if value is None and isinstance(rate, (int, float)) and rate > 0:
        value = 1 / rate
    least, most = REPETITION_TIME_RANGE_S
    if isinstance(value, (int, float)) and least <= value <= most:
        return float(value)
    raise InputError(
        "nothing tells the time between volumes"
        if value is None
        else f"RepetitionTime says {value!r} where seconds between {least:g} and {most:g} are "
        "expected",
        where=str(file.path),
        fix="Put RepetitionTime, in seconds, into the JSON beside the table.",
    )


def _in_one_space(found: Sequence[_Found]) -> list[_Found]:
    """Tables of each task in the one space that most of them are in: others would overwrite."""
    families: dict[Entities, list[_Found]] = {}
    for item in found:
        families.setdefault(combined_entities(item.file.source), []).append(item)
    kept = []
    for family in families.values():
        spaces = [item.space for item in family]
        best = max(sorted(set(spaces)), key=spaces.count)
        for space in sorted(set(spaces) - {best}):
            first = next(item for item in family if item.space == space)
            _log.warning(
                "%d series of %s in space %s are left out: those in %s are taken",
                spaces.count(space), first.file.path.parent, space or "(none)", best or "(none)",
            )  # fmt: skip
        kept += [item for item in family if item.space == best]
    return kept


def _runs(found: Iterable[_Found], problems: list[InputError]) -> list[SeriesRun]:
    """Gather the tables of each run; those that contradict each other are told."""
    groups: dict[tuple[Entities, str, str], list[_Found]] = {}
    for item in found:
        members = groups.setdefault(item.run_key, [])
        clash = next((other for other in members if _clash(item, other)), None)
        if clash is not None:
            problems.append(_contradiction(item, clash))
            continue
        members.append(item)
    runs = []
    for (source, space, mark), members in groups.items():
        first = members[0]
        runs.append(
            SeriesRun(
                entities=source,
                space=space,
                tables=tuple(sorted((m.table for m in members), key=_table_order)),
                repetition_time_s=first.repetition_time_s,
                denoised_by="; ".join(sorted({m.made.denoised_by for m in members})),
                mark=mark,
                left_out=first.made.left_out,
                high_pass_hz=first.made.high_pass_hz,
                known=first.made.known,
            )
        )
    return sorted(runs, key=lambda run: run.entities)


def _table_order(table: SeriesTable) -> tuple[int, str]:
    return atlas_names().index(table.atlas), table.variant


def _clash(one: _Found, other: _Found) -> str:
    """Why two tables cannot be of one run; empty if they can."""
    if (one.table.atlas, one.table.variant) == (other.table.atlas, other.table.variant):
        return "its outputs would have the same names"
    for name, a, b in (
        ("number of volumes", one.n_volumes, other.n_volumes),
        ("time between volumes", one.repetition_time_s, other.repetition_time_s),
        ("volumes left out", one.made.left_out, other.made.left_out),
        ("high-pass filter", one.made.high_pass_hz, other.made.high_pass_hz),
    ):
        if a != b:
            return f"they are of one run, and differ in the {name}"
    return ""


def _contradiction(one: _Found, other: _Found) -> InputError:
    return InputError(
        f"{one.file.path.name} is left out beside {other.file.path.name}: {_clash(one, other)}",
        where=str(one.file.path.parent),
        fix="Tell them apart by an entity of BIDS, such as acq- or run-, or remove one.",
    )


def _not_averaged(runs: Sequence[SeriesRun]) -> list[InputError]:
    """Tell of runs of one task that have series of other atlases or variants than the rest."""
    families: dict[tuple[Entities, str], list[SeriesRun]] = {}
    for run in runs:
        families.setdefault((combined_entities(run.entities), run.mark), []).append(run)
    return [
        InputError(
            f"{' and '.join(format_entities(run.entities) for run in family)} are not averaged: "
            "they have series of different atlases or variants",
            where=str(family[0].tables[0].file.parent),
            fix="Give the same tables for all runs of a task, or choose with --atlases.",
        )
        for family in families.values()
        if len({run.variant for run in family}) > 1
    ]
