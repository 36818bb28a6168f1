# SPDX-License-Identifier: MIT
"""One functional run of fMRIPrep: a series with what lies beside it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..plan import Entities, FunctionalRun
from ..settings import FunctionalOptions, Selection
from .anatomy import Anatomy, AtlasImage, label_sources, require_tissues, tissue_source
from .derivatives import Derivative
from .files import Accepted, FoundFile, check_content, read_metadata, select
from .image_files import check_image, header_repetition_time
from .spaces import space_name, transform_steps
from .strategies import series_label

_log = logging.getLogger(__name__)

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
    preprocessed
        The session's files of fMRIPrep, where the data set is XCP-D's.
    force
        Take series that do not fit the recipe, too.
    """

    derivative: Derivative
    files: Sequence[FoundFile]
    anatomy: Anatomy
    images: Mapping[str, AtlasImage]
    options: FunctionalOptions
    selection: Selection
    filters: Mapping[str, Accepted]
    preprocessed: Sequence[FoundFile] = ()
    force: bool = False


def without_echo(source: Entities) -> Entities:
    """Entities of a scan, of all its echoes."""
    return tuple(pair for pair in source if pair[0] != "echo")


def fmriprep_run(
    file: FoundFile, query: FunctionalQuery
) -> tuple[FunctionalRun, list[InputError]]:
    """A run from one of its series, and what keeps atlases from it.

    Raises
    ------
    InputError
        If the run itself is not usable.
    """
    metadata = read_metadata(file, query.derivative.root)
    confounds = _confounds(file, query)
    sidecar = confounds.path.with_suffix(".json")
    space = space_name(file.label("space"), query.derivative.program)
    own = transform_steps(
        _own_files(file, query.files),
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
        mask_file=find_mask(file, query).path,
        confounds_file=confounds.path,
        confounds_sidecar=sidecar if sidecar.is_file() else None,
        repetition_time_s=read_repetition_time(file, metadata),
        labels=labels,
        tissues=tissue_source(space, anatomy),
        n_dummy_discarded=discarded_volumes(file, metadata),
    )
    check_content(confounds.path)
    for image in (run.bold_file, run.mask_file):
        check_image(image)
    _check_tissues(run, anatomy, query.options)
    return run, list(problems)


def _check_tissues(run: FunctionalRun, anatomy: Anatomy, options: FunctionalOptions) -> None:
    if run.tissues or not options.needs_tissues:
        return
    require_tissues(
        run.space,
        anatomy,
        purpose="denoising",
        fix="Give fMRIPrep outputs made with FreeSurfer or --fs-subjects-dir, or use "
        "--compcor columns --gsr-source global_signal.",
    )


def find_mask(file: FoundFile, query: FunctionalQuery) -> FoundFile:
    """Brain mask of the same scan on the same grid.

    ICA-AROMA's series have no label of their resolution, which is 2 mm, while masks may.

    Raises
    ------
    InputError
        If there is none.
    """
    resolutions = [file.label("res")]
    if file.label("desc") == series_label("ica_aroma") and resolutions == [None]:
        resolutions.append("2")
    masks = [
        mask
        for resolution in resolutions
        for mask in select(
            query.files, suffix="mask", accepted=query.filters.get("mask", ()), datatype="func",
            desc="brain", space=file.label("space"), res=resolution,
            cohort=file.label("cohort"),
        )
    ]  # fmt: skip
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


def _own_files(file: FoundFile, candidates: Iterable[FoundFile]) -> list[FoundFile]:
    """Files of the same scan; of a single echo, those that fMRIPrep writes for all echoes too."""
    own = [item for item in candidates if item.source in {file.source, without_echo(file.source)}]
    return sorted(own, key=lambda item: item.source != file.source)


def _of_same_scan(
    file: FoundFile, candidates: Sequence[FoundFile], ending: str, keep: tuple[str, ...] = ()
) -> FoundFile:
    own = _own_files(file, candidates)
    if own:
        return own[0]
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


def read_repetition_time(file: FoundFile, metadata: Mapping[str, Any]) -> float:
    """Seconds between volumes from the sidecar, else from the header.

    Raises
    ------
    InputError
        If the number is no plausible time in s.
    """
    value = metadata.get("RepetitionTime")
    source = "RepetitionTime"
    if value is None:
        value, source = header_repetition_time(file.path), "the image's header"
    least, most = REPETITION_TIME_RANGE_S
    if isinstance(value, (int, float)) and math.isfinite(value) and least <= value <= most:
        return float(value)
    raise InputError(
        f"{source} says {value!r} where seconds between {least:g} and {most:g} are expected",
        where=str(file.path),
        fix="Put RepetitionTime, in seconds, into the JSON beside the series.",
    )


def discarded_volumes(file: FoundFile, metadata: Mapping[str, Any]) -> int:
    """Volumes that were not kept at the start of the scan, as the sidecar says."""
    keys = ("NumberOfVolumesDiscardedByScanner", "NumberOfVolumesDiscardedByUser")
    try:
        return sum(int(metadata.get(key, 0)) for key in keys)
    except (TypeError, ValueError):
        _log.warning("%s are no numbers in the sidecar of %s: taken as 0", keys, file.path.name)
        return 0
