# SPDX-License-Identifier: MIT
"""The functional runs of one session: which series, in which space, with what beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..plan import Entities, FunctionalRun
from ..settings import Selection
from .files import FoundFile, same_label, select
from .functional_runs import FunctionalQuery, fmriprep_run, without_echo
from .names import can_average, combined_entities, format_entities
from .spaces import BOLDREF
from .strategies import series_label
from .xcp_d import denoised_run, without_concatenations

_log = logging.getLogger(__name__)

#: Spaces of a BOLD series, the preferred one first: labels then need no or few transforms.
SPACE_PREFERENCE: tuple[str, ...] = (
    "MNI152NLin6Asym",
    "T1w",
    "MNI152NLin2009cAsym",
    "boldref",
)
#: Grids of 2 mm are those of the training data; then the native one, then any.
RESOLUTION_PREFERENCE: tuple[str, ...] = ("2", "", "native")
#: Series on surfaces: CIFTI and GIFTI.
SURFACE_EXTENSIONS = frozenset({".dtseries.nii", ".func.gii"})


def find_functional_runs(
    query: FunctionalQuery,
) -> tuple[tuple[FunctionalRun, ...], tuple[InputError, ...]]:
    """Find a session's functional runs.

    The runs of one task are taken in one space: the first of `SPACE_PREFERENCE` that all of them
    are in and all atlases can be brought to, else the one that serves most.

    Returns
    -------
    runs
        Sorted by entities.
    problems
        What keeps runs, or atlases of a run, from being processed.
    """
    all_series = _series(query)
    if not all_series:
        absent = _explain_absence(query)
        return (), (absent,) if absent else ()
    series = [file for file in all_series if _is_selected(file, query.selection)]
    if not series:
        return (), (_none_selected(all_series, query),)
    runs, problems = [], _surface_only(series, query)
    for family in _families(series):
        found, told = _family_runs(family, query)
        runs += found
        problems += told
    return tuple(sorted(runs, key=lambda run: run.entities)), tuple(dict.fromkeys(problems))


def _series(query: FunctionalQuery) -> list[FoundFile]:
    is_denoised = query.derivative.program == "xcp_d"
    found = select(
        query.files, suffix="bold", accepted=query.filters.get("bold", ()),
        datatype="func",
        desc="denoised" if is_denoised else series_label(query.options.denoising),
    )  # fmt: skip
    return without_concatenations(found) if is_denoised else found


def _is_selected(file: FoundFile, selection: Selection) -> bool:
    asked = (("task", selection.tasks), ("run", selection.runs))
    return all(
        not labels or any(same_label(file.label(key) or "", label) for label in labels)
        for key, labels in asked
    )


def _none_selected(series: Iterable[FoundFile], query: FunctionalQuery) -> InputError:
    there = sorted({
        "_".join(f"{key}-{label}" for key, label in file.source if key in {"task", "run"})
        for file in series
    })
    return InputError(
        f"no BOLD series of {query.anatomy.participant} is among those asked for; "
        f"there are: {', '.join(there)}",
        where="--task-id, --run-id",
        fix="Ask for one of these.",
    )


#: Files of one scan, in all their spaces, by the scan's entities.
Family = Mapping[Entities, Sequence[FoundFile]]


def _families(series: Iterable[FoundFile]) -> list[Family]:
    """Scans that are averaged together (the runs of one task), each in all its spaces."""
    scans: dict[Entities, list[FoundFile]] = {}
    for file in series:
        scans.setdefault(file.source, []).append(file)
    families: dict[Entities, dict[Entities, list[FoundFile]]] = {}
    for source in _without_single_echoes(scans):
        families.setdefault(combined_entities(source), {})[source] = scans[source]
    return list(families.values())


def _without_single_echoes(scans: Family) -> list[Entities]:
    """Leave out the echoes of a run whose optimal combination is there."""
    return [
        source
        for source in sorted(scans)
        if without_echo(source) == source or without_echo(source) not in scans
    ]


def _surface_only(series: Iterable[FoundFile], query: FunctionalQuery) -> list[InputError]:
    """Name the runs that are there on surfaces only, beside others in volumes."""
    if query.filters.get("bold"):
        return []
    there = {without_echo(file.source) for file in series}
    lacking: dict[Entities, FoundFile] = {}
    for file in query.files:
        if file.extension in SURFACE_EXTENSIONS and _is_selected(file, query.selection):
            source = tuple(pair for pair in file.source if pair[0] not in {"echo", "hemi"})
            if file.suffix == "bold" and source not in there:
                lacking.setdefault(source, file)
    return [_on_surfaces(format_entities(source), file) for source, file in lacking.items()]


def _on_surfaces(name: str, file: FoundFile) -> InputError:
    fix = (
        "Run fMRIPrep again with --output-spaces MNI152NLin6Asym:res-2, which adds a series in a "
        "volume."
    )
    if file.label("desc") == "denoised":
        fix = "Run XCP-D again with --file-format nifti, or give the fMRIPrep outputs only."
    return InputError(
        f"{name} has BOLD series on surfaces only (CIFTI or GIFTI)", where=str(file.path), fix=fix
    )


def _explain_absence(query: FunctionalQuery) -> InputError | None:
    """Why there is no volumetric series where fMRIPrep wrote something else; None if nothing."""
    functional = [file for file in query.files if file.datatype == "func"]
    if not functional or query.filters.get("bold"):
        return None
    needed = series_label(query.options.denoising)
    if needed != series_label("recipe") and query.derivative.program == "fmriprep":
        return InputError(
            f"{query.anatomy.participant} has no series *_desc-{needed}_bold.nii.gz, which "
            f"--denoising {query.options.denoising} starts from",
            where=str(functional[0].path.parent),
            fix="Run a version of fMRIPrep before 24.0 with --use-aroma, or choose another "
            "--denoising.",
        )
    for file in functional:
        if file.suffix == "bold" and file.extension in SURFACE_EXTENSIONS:
            return _on_surfaces(query.anatomy.participant, file)
    if query.derivative.program == "xcp_d":
        return None
    return InputError(
        f"{query.anatomy.participant} has functional outputs but no preprocessed series "
        "(*_desc-preproc_bold.nii.gz): fMRIPrep was run with --level minimal or resampling",
        where=str(functional[0].path.parent),
        fix="Run fMRIPrep again with --level full and --output-spaces MNI152NLin6Asym:res-2; it "
        "starts from these outputs.",
    )


def _family_runs(
    family: Family, query: FunctionalQuery
) -> tuple[list[FunctionalRun], list[InputError]]:
    """The runs of one task, all in the one space that serves most runs and atlases.

    Runs in different spaces could not be averaged under one name.
    """
    scans, problems = _by_grid(family)
    grids = sorted({grid for files in scans.values() for grid in files}, key=_preference)
    best: list[_Attempt] = []
    passed_over: list[_Attempt] = []
    for grid in grids:
        attempts = [_attempt(source, files, grid, query) for source, files in scans.items()]
        if _served(attempts) > _served(best) or not best:
            passed_over, best = [*passed_over, *best], attempts
        if all(attempt.run and not attempt.problems for attempt in attempts):
            break
    for attempt in passed_over:
        for problem in attempt.problems if attempt.run is None else ():
            _log.warning("taken in another space: %s", problem)
    runs = [item.run for item in best if item.run and item.run.labels]
    problems += [problem for item in best for problem in item.problems]
    return runs, [*problems, *_nameless_average(runs)]


@dataclass(frozen=True)
class _Attempt:
    """A run from one of a scan's files, or why there is none (for all atlases)."""

    run: FunctionalRun | None
    problems: tuple[InputError, ...] = ()


def _served(attempts: Iterable[_Attempt]) -> int:
    """Number of runs times atlases that can be had."""
    return sum(len(attempt.run.labels) for attempt in attempts if attempt.run)


#: Labels of space, cohort of the template and resolution.
_Grid = tuple[str, str, str]


def _by_grid(
    family: Family,
) -> tuple[dict[Entities, dict[_Grid, FoundFile]], list[InputError]]:
    """Files of each scan by grid; those that would overwrite each other's outputs are told."""
    scans: dict[Entities, dict[_Grid, FoundFile]] = {}
    problems = []
    for source, files in family.items():
        grids = scans.setdefault(source, {})
        for file in sorted(files, key=lambda file: (file.extension != ".nii.gz", file.path)):
            space = file.label("space") or BOLDREF
            grid = (space, file.label("cohort") or "", file.label("res") or "")
            if grids.setdefault(grid, file) is not file:
                problems.append(_same_name(grids[grid], file))
    return scans, problems


def _same_name(first: FoundFile, second: FoundFile) -> InputError:
    return InputError(
        f"{second.path.name} is left out: its outputs would have the names of those of "
        f"{first.path.name}",
        where=str(second.path.parent),
        fix="Tell them apart by an entity of BIDS, such as acq- or run-, or remove one.",
    )


def _attempt(
    source: Entities, files: Mapping[_Grid, FoundFile], grid: _Grid, query: FunctionalQuery
) -> _Attempt:
    if grid not in files:
        told = "_".join(label for label in grid if label)
        problem = InputError(
            f"{format_entities(source)} is not there in space {told}, in which most of the runs "
            "that it is averaged with are",
            where=str(next(iter(files.values())).path.parent),
            fix="Run fMRIPrep again with the same --output-spaces for all runs, or choose a space "
            "that all have with --bids-filter-file.",
        )
        return _Attempt(None, (problem,))
    try:
        run, problems = _make_run(files[grid], query)
    except InputError as problem:
        return _Attempt(None, (problem,))
    return _Attempt(run, tuple(problems))


def _make_run(
    file: FoundFile, query: FunctionalQuery
) -> tuple[FunctionalRun, Sequence[InputError]]:
    if query.derivative.program == "xcp_d":
        return denoised_run(file, query)
    return fmriprep_run(file, query)


def _preference(grid: _Grid) -> tuple[int, int, _Grid]:
    def rank(value: str, order: Sequence[str]) -> int:
        return next(
            (place for place, item in enumerate(order) if same_label(item, value)), len(order)
        )

    space, _, resolution = grid
    return rank(space, SPACE_PREFERENCE), rank(resolution, RESOLUTION_PREFERENCE), grid


def _nameless_average(runs: Sequence[FunctionalRun]) -> list[InputError]:
    """Tell that runs are not averaged where one of them has the average's name already."""
    if len(runs) < 2 or can_average([run.entities for run in runs]):
        return []
    names = [format_entities(run.entities) for run in runs]
    return [
        InputError(
            f"{' and '.join(names)} are not averaged: the average's name is that of "
            f"{format_entities(combined_entities(runs[0].entities))}, a run without a label",
            where=str(runs[0].bold_file.parent),
            fix="Give every run of a task a run- label, or choose some with --bids-filter-file.",
        )
    ]
