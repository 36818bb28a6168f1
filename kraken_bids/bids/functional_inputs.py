# SPDX-License-Identifier: MIT
"""The functional runs of one session: which series, in which space, with what beside it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..plan import Entities, FunctionalRun
from ..settings import FunctionalOptions, Selection
from .anatomy import Anatomy, AtlasImage, label_sources, require_tissues, tissue_source
from .derivatives import Derivative
from .files import Accepted, FoundFile, check_content, read_metadata, same_label, select
from .spaces import space_name, transform_steps

_log = logging.getLogger(__name__)

#: Spaces of a BOLD series, the preferred one first: labels then need no or few transforms.
SPACE_PREFERENCE: tuple[str, ...] = (
    "MNI152NLin6Asym",
    "T1w",
    "MNI152NLin2009cAsym",
    "boldref",
)
#: Grids of 2 mm are those of the training data; then the native one, then any.
RESOLUTION_PREFERENCE: tuple[str | None, ...] = ("2", None)
#: Repetition times beyond these are errors of units, not of scanning, in s.
REPETITION_TIME_RANGE_S = (0.1, 20.0)


@dataclass(frozen=True)
class FunctionalQuery:
    """What to make functional runs from.

    Parameters
    ----------
    derivative
        fMRIPrep's data set.
    files
        The session's files in it.
    anatomy
        The session's anatomy.
    images
        Label images by atlas.
    options, selection, filters
        As asked for.
    """

    derivative: Derivative
    files: Sequence[FoundFile]
    anatomy: Anatomy
    images: Mapping[str, AtlasImage]
    options: FunctionalOptions
    selection: Selection
    filters: Mapping[str, Accepted]


def find_functional_runs(
    query: FunctionalQuery,
) -> tuple[tuple[FunctionalRun, ...], tuple[InputError, ...]]:
    """Find a session's functional runs.

    Each run is taken in one space: the first of `SPACE_PREFERENCE` that all atlases can be
    brought to, else the one that most can.

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
    groups: dict[Entities, list[FoundFile]] = {}
    for file in series:
        groups.setdefault(file.source, []).append(file)
    runs, problems = [], []
    for source in sorted(_without_single_echoes(groups)):
        run, found = _best_run(groups[source], query)
        runs += [run] if run else []
        problems += found
    return tuple(runs), tuple(dict.fromkeys(problems))


def _series(query: FunctionalQuery) -> list[FoundFile]:
    return select(
        query.files, suffix="bold", accepted=query.filters.get("bold", ()),
        datatype="func", desc="preproc",
    )  # fmt: skip


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


def _without_single_echoes(groups: Mapping[Entities, Any]) -> list[Entities]:
    """Leave out the echoes of a run whose optimal combination is there."""

    def combined(source: Entities) -> Entities:
        return tuple(pair for pair in source if pair[0] != "echo")

    return [
        source for source in groups if combined(source) == source or combined(source) not in groups
    ]


def _explain_absence(query: FunctionalQuery) -> InputError | None:
    """Why there is no volumetric series where fMRIPrep wrote something else; None if nothing."""
    functional = [file for file in query.files if file.datatype == "func"]
    if not functional or query.filters.get("bold"):
        return None
    extensions = {file.extension for file in functional if file.suffix == "bold"}
    where = str(functional[0].path.parent)
    if extensions & {".dtseries.nii", ".func.gii"}:
        return InputError(
            f"{query.anatomy.participant} has BOLD series on surfaces only (CIFTI or GIFTI)",
            where=where,
            fix="Run fMRIPrep again with --output-spaces MNI152NLin6Asym:res-2, which adds a "
            "series in a volume.",
        )
    return InputError(
        f"{query.anatomy.participant} has functional outputs but no preprocessed series "
        "(*_desc-preproc_bold.nii.gz): fMRIPrep was run with --level minimal or resampling",
        where=where,
        fix="Run fMRIPrep again with --level full and --output-spaces MNI152NLin6Asym:res-2; it "
        "starts from these outputs.",
    )


def _best_run(
    series: Sequence[FoundFile], query: FunctionalQuery
) -> tuple[FunctionalRun | None, list[InputError]]:
    """The run in the space that serves most atlases; the preferred space among equals."""
    best: tuple[FunctionalRun | None, list[InputError]] = (None, [])
    for file in sorted(series, key=_preference):
        try:
            run, problems = _run(file, query)
        except InputError as problem:
            run, problems = None, [problem]
        if run and not problems:
            return run, []
        n_before = len(best[0].labels) if best[0] else -1
        if (run and len(run.labels) > n_before) or not best[1]:
            best = (run, problems)
    run, problems = best
    return (run if run and run.labels else None), problems


def _preference(file: FoundFile) -> tuple[int, int, str]:
    def rank(value: str | None, order: Sequence[str | None]) -> int:
        return order.index(value) if value in order else len(order)

    space = file.label("space") or "boldref"
    return (
        rank(space, SPACE_PREFERENCE),
        rank(file.label("res"), RESOLUTION_PREFERENCE),
        str(file.path),
    )


def _run(file: FoundFile, query: FunctionalQuery) -> tuple[FunctionalRun, list[InputError]]:
    """A run from one of its series; raises if the run itself is not usable."""
    metadata = read_metadata(file, query.derivative.root)
    confounds = _confounds(file, query)
    sidecar = confounds.path.with_suffix(".json")
    space = space_name(file.label("space"), query.derivative.program)
    own = transform_steps(
        [item for item in query.files if set(item.source) <= set(file.source)],
        query.derivative.program,
        func=True,
    )
    anatomy = replace(query.anatomy, graph=query.anatomy.graph + own)
    labels, problems = label_sources(query.images, space, anatomy)
    run = FunctionalRun(
        entities=file.source,
        space=space,
        resolution=file.label("res") or "",
        bold_file=file.path,
        mask_file=_mask(file, query).path,
        confounds_file=confounds.path,
        confounds_sidecar=sidecar if sidecar.is_file() else None,
        repetition_time_s=_repetition_time(file, metadata),
        labels=labels,
        tissues=tissue_source(space, anatomy),
        n_dummy_discarded=_discarded_volumes(file, metadata),
    )
    for needed in (run.bold_file, run.mask_file, run.confounds_file):
        check_content(needed)
    _check_tissues(run, anatomy, query.options)
    return run, list(problems)


def _check_tissues(run: FunctionalRun, anatomy: Anatomy, options: FunctionalOptions) -> None:
    if run.tissues or (options.compcor == "columns" and options.gsr_source == "global_signal"):
        return
    require_tissues(
        run.space,
        anatomy,
        purpose="denoising",
        fix="Give fMRIPrep outputs made with FreeSurfer or --fs-subjects-dir, or use "
        "--compcor columns --gsr-source global_signal.",
    )


def _mask(file: FoundFile, query: FunctionalQuery) -> FoundFile:
    """Brain mask of the same scan on the same grid."""
    masks = select(
        query.files, suffix="mask", accepted=query.filters.get("mask", ()),
        datatype="func", desc="brain", space=file.label("space"), res=file.label("res"),
    )  # fmt: skip
    return _of_same_scan(file, masks, "_desc-brain_mask.nii.gz", keep=("space", "res"))


def _confounds(file: FoundFile, query: FunctionalQuery) -> FoundFile:
    """Confounds table of the same scan: all entities of the scan must agree."""
    tables = [
        table
        for suffix in ("timeseries", "regressors")
        for table in select(
            query.files, suffix=suffix, extensions=(".tsv",),
            accepted=query.filters.get("confounds", ()), datatype="func", desc="confounds",
        )
    ]  # fmt: skip
    return _of_same_scan(file, tables, "_desc-confounds_timeseries.tsv")


def _of_same_scan(
    file: FoundFile, candidates: Sequence[FoundFile], ending: str, keep: tuple[str, ...] = ()
) -> FoundFile:
    for candidate in candidates:
        if candidate.source == file.source:
            return candidate
    expected = "_".join(
        f"{key}-{label}"
        for key, label in file.entities
        if (key, label) in file.source or key in keep
    )
    there = ", ".join(candidate.path.name for candidate in candidates[:3])
    raise InputError(
        f"{expected}{ending} not found for {file.path.name}"
        + (f"; there is {there}" if there else ""),
        where=str(file.path.parent),
        fix="Restore the file, or run fMRIPrep again for this participant.",
    )


def _repetition_time(file: FoundFile, metadata: Mapping[str, Any]) -> float:
    """Seconds from the sidecar, else from the header."""
    value = metadata.get("RepetitionTime")
    source = "RepetitionTime"
    if value is None:
        value, source = _header_repetition_time(file.path), "the image's header"
    least, most = REPETITION_TIME_RANGE_S
    if isinstance(value, (int, float)) and math.isfinite(value) and least <= value <= most:
        return float(value)
    raise InputError(
        f"{source} says {value!r} where seconds between {least:g} and {most:g} are expected",
        where=str(file.path),
        fix="Put RepetitionTime, in seconds, into the JSON beside the series.",
    )


def _header_repetition_time(path: Path) -> float:
    """Fourth zoom in s, whatever the unit of the header."""
    import nibabel as nb

    check_content(path)
    try:
        header: Any = nb.load(path).header
        zooms, (_, unit) = header.get_zooms(), header.get_xyzt_units()
    except (nb.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise InputError(
            f"the image's header cannot be read: {error}",
            where=str(path),
            fix="Restore the file, or run fMRIPrep again for this participant.",
        ) from error
    scale = {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
    return round(float(zooms[3]) * scale, 6) if len(zooms) > 3 else 0.0


def _discarded_volumes(file: FoundFile, metadata: Mapping[str, Any]) -> int:
    keys = ("NumberOfVolumesDiscardedByScanner", "NumberOfVolumesDiscardedByUser")
    try:
        return sum(int(metadata.get(key, 0)) for key in keys)
    except (TypeError, ValueError):
        _log.warning("%s are no numbers in the sidecar of %s: taken as 0", keys, file.path.name)
        return 0
