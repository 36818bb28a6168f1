# SPDX-License-Identifier: MIT
"""The diffusion series and ready tractograms of one session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..plan import DiffusionRun, Entities
from .anatomy import Anatomy, AtlasImage, Files, label_sources, tissue_source
from .derivatives import Derivative
from .files import Accepted, FoundFile, check_content, select
from .five_tissue_inputs import with_tissue_source
from .ready_diffusion import (
    ReadyFOD,
    given_tractograms,
    qsirecon_fods,
    qsirecon_tractograms,
)
from .spaces import ACPC, NATIVE


@dataclass(frozen=True)
class DiffusionQuery:
    """What to make diffusion runs from.

    Parameters
    ----------
    files
        The participant's files in the data sets of QSIPrep and QSIRecon.
    session
        Label, or None.
    anatomy, images, filters
        As in `kraken_bids.bids.functional_inputs.FunctionalQuery`.
    five_tissue
        As `kraken_bids.settings.StructuralOptions.five_tissue`.
    """

    files: Files
    session: str | None
    anatomy: Anatomy
    images: Mapping[str, AtlasImage]
    filters: Mapping[str, Accepted]
    five_tissue: str = "auto"

    def of(self, program: str, *, datatype: str) -> list[tuple[Derivative, FoundFile]]:
        """Files of a program in a folder; those of DWI must be of the session."""
        return [
            (derivative, file)
            for derivative, files in self.files.items()
            if derivative.program == program
            for file in files
            if file.datatype == datatype
            and (datatype == "anat" or file.label("ses") == self.session)
        ]


@dataclass(frozen=True)
class _Ready:
    """What other programs have made of one scan."""

    tractograms: Mapping[str, FoundFile] = field(default_factory=dict)
    fod: ReadyFOD | None = None

    @property
    def files(self) -> list[FoundFile]:
        return [*self.tractograms.values(), *([self.fod.file] if self.fod else [])]


def find_diffusion_runs(
    query: DiffusionQuery,
) -> tuple[tuple[DiffusionRun, ...], tuple[InputError, ...]]:
    """Find a session's diffusion series, with tractograms and FODs that others have made.

    Tractograms given by name are taken before those of QSIRecon. FODs of QSIRecon are used where
    there is no series to make them from by the recipe.

    Returns
    -------
    runs
        Sorted by entities; a tractogram without its series makes a run of its own.
    problems
        What keeps series, or atlases, from being processed.
    """
    series = {file.source: file for file in _series(query)}
    ready, told = _find_ready(query, series)
    runs: list[DiffusionRun] = []
    problems: list[InputError] = list(told)
    for source in sorted({*series, *ready}):
        try:
            run, found = _run(source, series.get(source), ready.get(source, _Ready()), query)
        except InputError as problem:
            problems.append(problem)
            continue
        runs += [run] if run.labels else []
        problems += found
    return tuple(runs), tuple(dict.fromkeys(problems))


def _series(query: DiffusionQuery) -> list[FoundFile]:
    found = [file for _, file in query.of("qsiprep", datatype="dwi")]
    return select(found, suffix="dwi", accepted=query.filters.get("dwi", ()), desc="preproc")


def _find_ready(
    query: DiffusionQuery, series: Mapping[Entities, FoundFile]
) -> tuple[dict[Entities, _Ready], tuple[InputError, ...]]:
    """Ready tractograms and FODs by scan, and why others cannot be used."""
    accepted = query.filters.get("dwi", ())
    found = query.of("qsirecon", datatype="dwi")
    tractograms = qsirecon_tractograms(found, accepted)
    problems: tuple[InputError, ...] = ()
    for derivative in query.files:
        if derivative.program == "tractograms":
            files = [file for other, file in query.of("tractograms", datatype="dwi")]
            given, problems = given_tractograms(files, derivative.root)
            for source, named in given.items():
                scan = _scan_of(source, series)
                tractograms[scan] = {**tractograms.get(scan, {}), **named}
    fods = {
        source: fod
        for source, fod in qsirecon_fods(found, accepted).items()
        if source not in series
    }
    scans = {*tractograms, *fods}
    return {scan: _Ready(tractograms.get(scan, {}), fods.get(scan)) for scan in scans}, problems


def _scan_of(source: Entities, series: Mapping[Entities, FoundFile]) -> Entities:
    """The one series that a tractogram's shorter name may stand for, else its own scan."""
    fitting = [scan for scan in series if set(source) <= set(scan)]
    return fitting[0] if len(fitting) == 1 else source


def _run(
    source: Entities, series: FoundFile | None, ready: _Ready, query: DiffusionQuery
) -> tuple[DiffusionRun, tuple[InputError, ...]]:
    """A run; raises if its series is not usable."""
    space = _space(series, ready, query)
    label = (series or ready.files[0]).label("space")
    labels, problems = label_sources(query.images, space, query.anatomy)
    segmentation = tissue_source(space, query.anatomy)
    run = DiffusionRun(
        entities=source,
        space=label or ("T1w" if series else space),
        dwi_file=series.path if series else None,
        bval_file=_beside(series, ".bval"),
        bvec_file=_beside(series, ".bvec"),
        mask_file=_mask(source, series, query, space=space),
        labels=labels,
        tissues=segmentation,
        segmentation=segmentation,
        tractograms=tuple((name, file.path) for name, file in sorted(ready.tractograms.items())),
        fod_file=ready.fod.file.path if ready.fod else None,
        notes=(("fods_bias", ready.fod.bias),) if ready.fod else (),
    )
    if space == ACPC:
        run = with_tissue_source(run, query)
    needed = (run.dwi_file, run.bval_file, run.bvec_file, run.mask_file, run.five_tissue_file)
    for file in (*needed, run.fod_file, *(file for _, file in run.tractograms)):
        if file is not None:
            check_content(file)
    if run.fod_file and run.mask_file is None:
        raise InputError(
            f"no brain mask for {run.fod_file.name}: *_desc-brain_mask.nii.gz not found",
            where=str(run.fod_file.parent),
            fix="Give QSIPrep's outputs too; its mask is enough (the series is not needed).",
        )
    return run, problems


def _space(series: FoundFile | None, ready: _Ready, query: DiffusionQuery) -> str:
    """Space of a run; that of tractograms of other programs stands in their names.

    Without a label, they are in the space of QSIPrep's series, or in the native one where there
    are no outputs of QSIPrep.

    Raises
    ------
    InputError
        If one scan's files are in several spaces.
    """
    has_acpc = any(derivative.program == "qsiprep" for derivative in query.files)
    spaces = {ACPC} if series or ready.fod else set()
    for file in ready.tractograms.values():
        owner = next(item.program for item, found in query.files.items() if file in found)
        told = file.label("space")
        if owner == "qsirecon" or (series and told == series.label("space")):
            spaces.add(ACPC)
        else:
            spaces.add(told or (ACPC if has_acpc else NATIVE))
    if len(spaces) > 1:
        raise InputError(
            f"the diffusion data of one scan are in several spaces: {', '.join(sorted(spaces))}",
            where=", ".join(
                str(file.path) for file in [*ready.files, *([series] if series else [])]
            ),
            fix="Give tractograms in the space of QSIPrep's series (space-ACPC), or leave the "
            "series out by --bids-filter-file.",
        )
    return next(iter(spaces))


def _beside(series: FoundFile | None, extension: str) -> Path | None:
    """File of gradients that goes with a series."""
    if series is None:
        return None
    path = series.path.with_name(series.path.name.removesuffix(series.extension) + extension)
    if path.is_file() or path.is_symlink():
        return path
    raise InputError(
        f"{path.name} not found",
        where=str(path.parent),
        fix="Restore the file, or run QSIPrep again for this participant.",
    )


def _mask(
    source: Entities, series: FoundFile | None, query: DiffusionQuery, *, space: str
) -> Path | None:
    """Brain mask on the grid of a series; of ready files, one in their space if there is any."""
    if series is None and space == NATIVE:
        found = [file for _, file in query.of("fmriprep", datatype="anat")]
        native = select(found, suffix="mask", desc="brain", space=None, res=None)
        return native[0].path if native else None
    for program in ("qsiprep",) if series else ("qsiprep", "qsirecon"):
        masks = select(
            [file for _, file in query.of(program, datatype="dwi")],
            suffix="mask", accepted=query.filters.get("mask", ()), desc="brain",
        )  # fmt: skip
        for mask in masks:
            same_space = series is None or mask.label("space") == series.label("space")
            if mask.source == source and same_space:
                return mask.path
    if series is None:
        return None
    expected = series.path.name.replace("_desc-preproc_dwi", "_desc-brain_mask")
    raise InputError(
        f"{expected} not found for {series.path.name}",
        where=str(series.path.parent),
        fix="Restore the file, or run QSIPrep again for this participant.",
    )
