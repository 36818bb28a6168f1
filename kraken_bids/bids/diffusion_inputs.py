# SPDX-License-Identifier: MIT
"""The diffusion series and ready tractograms of one session."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..plan import DiffusionRun, Entities
from .anatomy import Anatomy, AtlasImage, Files, label_sources, require_tissues, tissue_source
from .derivatives import Derivative
from .files import Accepted, FoundFile, check_content, select
from .spaces import ACPC, space_name

_log = logging.getLogger(__name__)

#: Our algorithms by the label of ``model-`` in QSIRecon's names.
TRACTOGRAM_MODELS = {"ifod2": "ifod2act", "sdstream": "sdstream"}
#: Parts of a QSIRecon workflow's name, the preferred one first: how its iFOD2 was constrained.
CONSTRAINT_PREFERENCE = ("HSVS", "FAST")
TISSUE_LABELS = ("GM", "WM", "CSF")


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
    """

    files: Files
    session: str | None
    anatomy: Anatomy
    images: Mapping[str, AtlasImage]
    filters: Mapping[str, Accepted]

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


def find_diffusion_runs(
    query: DiffusionQuery,
) -> tuple[tuple[DiffusionRun, ...], tuple[InputError, ...]]:
    """Find a session's diffusion series, with tractograms where QSIRecon kept them.

    Returns
    -------
    runs
        Sorted by entities; a tractogram without its series makes a run of its own.
    problems
        What keeps series, or atlases, from being processed.
    """
    series = {file.source: file for file in _series(query)}
    tractograms = _tractograms(query)
    runs: list[DiffusionRun] = []
    problems: list[InputError] = []
    for source in sorted({*series, *tractograms}):
        try:
            run, found = _run(source, series.get(source), tractograms.get(source, {}), query)
        except InputError as problem:
            problems.append(problem)
            continue
        runs += [run] if run.labels else []
        problems += found
    return tuple(runs), tuple(dict.fromkeys(problems))


def _series(query: DiffusionQuery) -> list[FoundFile]:
    found = [file for _, file in query.of("qsiprep", datatype="dwi")]
    return select(found, suffix="dwi", accepted=query.filters.get("dwi", ()), desc="preproc")


def _tractograms(query: DiffusionQuery) -> dict[Entities, dict[str, FoundFile]]:
    """Whole-brain tractograms by scan and algorithm."""
    found: dict[Entities, dict[str, FoundFile]] = {}
    ranked = sorted(
        query.of("qsirecon", datatype="dwi"), key=lambda item: _constraint(item[0].name)
    )
    for derivative, file in ranked:
        algorithm = TRACTOGRAM_MODELS.get(file.label("model") or "")
        chosen = select(
            [file], suffix="streamlines", extensions=(".tck.gz", ".tck"),
            accepted=query.filters.get("dwi", ()),
        )  # fmt: skip
        if not chosen or algorithm is None:
            continue
        if algorithm == "ifod2act" and "act-None" in derivative.name:
            _log.warning(
                "left out, it was made without anatomical constraints: %s", file.path.name
            )
            continue
        found.setdefault(file.source, {}).setdefault(algorithm, file)
    return found


def _constraint(name: str) -> tuple[int, str]:
    rank = [place for place, word in enumerate(CONSTRAINT_PREFERENCE) if word in name]
    return (rank[0] if rank else len(CONSTRAINT_PREFERENCE)), name


def _run(
    source: Entities,
    series: FoundFile | None,
    tractograms: Mapping[str, FoundFile],
    query: DiffusionQuery,
) -> tuple[DiffusionRun, tuple[InputError, ...]]:
    """A run; raises if its series is not usable."""
    label = next(iter([series] if series else tractograms.values())).label("space")
    labels, problems = label_sources(query.images, ACPC, query.anatomy)
    run = DiffusionRun(
        entities=source,
        space=label or "T1w",
        dwi_file=series.path if series else None,
        bval_file=_beside(series, ".bval"),
        bvec_file=_beside(series, ".bvec"),
        mask_file=_mask(series, query),
        labels=labels,
        tissues=tissue_source(ACPC, query.anatomy),
        five_tissue_file=_five_tissue(query),
        probability_files=_probability_files(query),
        tractograms=tuple((name, file.path) for name, file in sorted(tractograms.items())),
    )
    needed = (run.dwi_file, run.bval_file, run.bvec_file, run.mask_file, run.five_tissue_file)
    for file in (*needed, *(file for _, file in run.tractograms)):
        if file is not None:
            check_content(file)
    _check_tissues(run, query)
    return run, problems


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


def _mask(series: FoundFile | None, query: DiffusionQuery) -> Path | None:
    """Brain mask on the grid of a series."""
    if series is None:
        return None
    found = [file for _, file in query.of("qsiprep", datatype="dwi")]
    masks = select(
        found, suffix="mask", accepted=query.filters.get("mask", ()),
        desc="brain", space=series.label("space"),
    )  # fmt: skip
    for mask in masks:
        if mask.source == series.source:
            return mask.path
    expected = series.path.name.replace("_desc-preproc_dwi", "_desc-brain_mask")
    raise InputError(
        f"{expected} not found for {series.path.name}",
        where=str(series.path.parent),
        fix="Restore the file, or run QSIPrep again for this participant.",
    )


def _five_tissue(query: DiffusionQuery) -> Path | None:
    """Five-tissue image that QSIRecon kept in the space of the DWI."""
    return next(iter(_anatomical(query, "qsirecon", seg="hsvs")), None)


def _probability_files(query: DiffusionQuery) -> tuple[tuple[str, Path], ...]:
    """Tissue maps of QSIPrep in the space of the DWI; all three or none."""
    found = {
        label: next(iter(_anatomical(query, "qsiprep", label=label)), None)
        for label in TISSUE_LABELS
    }
    files = tuple((label, path) for label, path in found.items() if path)
    return files if len(files) == len(TISSUE_LABELS) else ()


def _anatomical(query: DiffusionQuery, program: str, **labels: str) -> list[Path]:
    """Probability images in the space of the DWI, those of the session first."""
    images = [file for _, file in query.of(program, datatype="anat")]
    found = select(images, suffix="probseg", accepted=query.filters.get("anat", ()), **labels)
    usable = [file for file in found if space_name(file.label("space"), program) == ACPC]
    sessions: Iterable[str | None] = dict.fromkeys((query.session, None))
    return [file.path for session in sessions for file in usable if file.label("ses") == session]


def _check_tissues(run: DiffusionRun, query: DiffusionQuery) -> None:
    """Refuse a series that anatomical constraints cannot be made for."""
    ready: Sequence[str] = [name for name, _ in run.tractograms]
    if run.dwi_file is None or "ifod2act" in ready:
        return
    if run.five_tissue_file or run.tissues or run.probability_files:
        return
    require_tissues(
        ACPC,
        query.anatomy,
        purpose="tracking with anatomical constraints",
        fix="Give fMRIPrep outputs made with FreeSurfer, or QSIRecon outputs with "
        "seg-hsvs_probseg.",
    )
