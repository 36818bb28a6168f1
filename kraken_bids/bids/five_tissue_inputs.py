# SPDX-License-Identifier: MIT
"""Where the five-tissue image of a diffusion run comes from: ``--five-tissue``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, UsageError
from ..plan import DiffusionRun, FiveTissueMaking
from ..settings import FIVE_TISSUE
from .anatomy import require_tissues
from .files import check_content, select
from .spaces import ACPC, space_name

if TYPE_CHECKING:
    from .diffusion_inputs import DiffusionQuery

TISSUE_LABELS = ("GM", "WM", "CSF")
#: Files of a FreeSurfer subject without which ``5ttgen hsvs`` does not begin.
HSVS_FILES = (
    "mri/aparc+aseg.mgz", "mri/brainmask.mgz", "mri/transforms/talairach.xfm",
    "surf/lh.white", "surf/lh.pial", "surf/rh.white", "surf/rh.pial",
)  # fmt: skip
OPTION = "--five-tissue"
#: Measure of quality that says what the image is made from.
TISSUE_MEASURE = "ifod2act_five_tissue"
#: What it says, by source; of a given image, its name.
TISSUE_NOTES: dict[str, str] = {
    "qsirecon": "hsvs, made by QSIRecon",
    "hsvs": "5ttgen hsvs",
    "fsl": "5ttgen fsl",
    "freesurfer": "FreeSurfer labels",
    "maps": "tissue maps of QSIPrep",
}


def with_tissue_source(run: DiffusionRun, query: DiffusionQuery) -> DiffusionRun:
    """Keep of the sources of tissues what was asked for, and note which one is used.

    Parameters
    ----------
    run
        With the FreeSurfer segmentation that there is.
    query
        What was asked for, and the files.

    Raises
    ------
    InputError
        If iFOD2 is to be tracked, and there is no source, or not the one asked for.
    """
    if query.five_tissue in _CHOICES:
        run = _CHOICES[query.five_tissue](run, query)
    elif query.five_tissue not in FIVE_TISSUE:
        run = replace(run, tissues=None, five_tissue_file=given_file(query.five_tissue, query))
    if not _is_constrained(run):
        return run
    told = _describe(run, query)
    if not told:
        _explain(query)
    return replace(run, notes=(*run.notes, (TISSUE_MEASURE, told)))


def check_pattern(value: str, participants: Sequence[str]) -> None:
    """Refuse one image for several participants.

    Raises
    ------
    UsageError
        If the value is a file in whose name no participant stands, and there are several.
    """
    if value in FIVE_TISSUE or "{participant}" in value or len(participants) < 2:
        return
    raise UsageError(
        f"one five-tissue image for {len(participants)} participants",
        where=f"{OPTION} {value}",
        fix="Put {participant} where its label stands, such as sub-{participant}_5tt.nii.gz, or "
        "say --participant-label.",
    )


def given_file(pattern: str, query: DiffusionQuery) -> Path:
    """A person's own image: the pattern with the labels of participant and session.

    Examples
    --------
    ``/data/5tt/sub-{participant}_5tt.nii.gz`` is ``/data/5tt/sub-01_5tt.nii.gz`` for ``01``.

    Raises
    ------
    InputError
        If it is not there.
    """
    label = query.anatomy.participant.removeprefix("sub-")
    text = pattern.replace("{participant}", label).replace("{session}", query.session or "")
    path = Path(text)
    if not path.is_file():
        raise InputError(
            f"{query.anatomy.participant} has no five-tissue image {path.name}",
            where=f"{OPTION}; {path.parent}",
            fix="Add the file, leave the participant out, or leave the option out.",
        )
    return path


def _auto(run: DiffusionRun, query: DiffusionQuery) -> DiffusionRun:
    """The image that QSIRecon kept, else FreeSurfer's labels, else maps: the workflow's order."""
    maps = _probability_files(query)
    return replace(run, five_tissue_file=_ready_hsvs(query), probability_files=maps)


def _maps(run: DiffusionRun, query: DiffusionQuery) -> DiffusionRun:
    return replace(run, tissues=None, probability_files=_probability_files(query))


def _hsvs(run: DiffusionRun, query: DiffusionQuery) -> DiffusionRun:
    """The image that QSIRecon kept, else one to be made from FreeSurfer's surfaces."""
    ready, subject = _ready_hsvs(query), query.anatomy.freesurfer
    run = replace(run, tissues=None, five_tissue_file=ready)
    if ready is not None or subject is None:
        return run
    steps = query.anatomy.graph.route(subject.space, ACPC)
    if steps is None or not all((subject.folder / name).is_file() for name in HSVS_FILES):
        return run
    for step in steps:
        check_content(step.file)
    making = FiveTissueMaking("hsvs", subject.folder / "mri" / "aparc+aseg.mgz", transforms=steps)
    return replace(run, five_tissue_made=making)


def _fsl(run: DiffusionRun, query: DiffusionQuery) -> DiffusionRun:
    """One to be made from QSIPrep's T1w image, within its brain mask."""
    image = next(iter(_anatomical(query, "qsiprep", suffix="T1w", desc="preproc")), None)
    mask = next(iter(_anatomical(query, "qsiprep", suffix="mask", desc="brain")), None)
    run = replace(run, tissues=None)
    if image is None or mask is None:
        return run
    return replace(run, five_tissue_made=FiveTissueMaking("fsl", image, mask_file=mask))


#: How a run is changed for each source but FreeSurfer's labels, which it comes with.
_CHOICES = {"auto": _auto, "hsvs": _hsvs, "fsl": _fsl, "maps": _maps}

#: What `_explain` says is missing, and what would help, where that is not told by the transforms.
_MISSING = {
    "hsvs": (
        "neither surfaces of FreeSurfer and their way to ACPC nor QSIRecon's seg-hsvs_probseg",
        "Give FreeSurfer's subjects (--fs-subjects-dir), or QSIRecon's outputs.",
    ),
    "fsl": (
        "no T1w image and brain mask of QSIPrep in the space of its diffusion series",
        "Restore anat/*_desc-preproc_T1w.nii.gz and *_desc-brain_mask.nii.gz of QSIPrep.",
    ),
    "maps": (
        "no tissue maps of QSIPrep in the space of its diffusion series",
        "Give QSIPrep's outputs with label-{GM,WM,CSF}_probseg.",
    ),
}


def _is_constrained(run: DiffusionRun) -> bool:
    """Whether streamlines are to be tracked with anatomical constraints."""
    has_fods = run.dwi_file is not None or run.fod_file is not None
    return has_fods and "ifod2act" not in dict(run.tractograms)


def _describe(run: DiffusionRun, query: DiffusionQuery) -> str:
    """Say in words what the image is made from; empty if there is nothing that was asked for."""
    if run.five_tissue_file is not None and query.five_tissue not in FIVE_TISSUE:
        return f"given: {run.five_tissue_file.name}"
    if run.five_tissue_file is not None:
        return TISSUE_NOTES["qsirecon"]
    if run.five_tissue_made is not None:
        return TISSUE_NOTES[run.five_tissue_made.algorithm]
    if run.tissues is not None:
        return TISSUE_NOTES["freesurfer"]
    return TISSUE_NOTES["maps"] if run.probability_files else ""


def _explain(query: DiffusionQuery) -> None:
    """Refuse a run whose tissues are not there."""
    what, fix = _MISSING.get(query.five_tissue, ("", ""))
    if what:
        raise InputError(
            f"{query.anatomy.participant} has {what}", where=f"{OPTION} {query.five_tissue}",
            fix=f"{fix} Or leave the option out.",
        )  # fmt: skip
    require_tissues(
        ACPC,
        query.anatomy,
        purpose="tracking with anatomical constraints",
        fix="Give fMRIPrep outputs made with FreeSurfer, or QSIRecon outputs with "
        "seg-hsvs_probseg.",
    )


def _ready_hsvs(query: DiffusionQuery) -> Path | None:
    """Five-tissue image that QSIRecon kept in the space of the DWI."""
    return next(iter(_anatomical(query, "qsirecon", suffix="probseg", seg="hsvs")), None)


def _probability_files(query: DiffusionQuery) -> tuple[tuple[str, Path], ...]:
    """Tissue maps of QSIPrep in the space of the DWI; all three or none."""
    found = {
        label: next(iter(_anatomical(query, "qsiprep", suffix="probseg", label=label)), None)
        for label in TISSUE_LABELS
    }
    files = tuple((label, path) for label, path in found.items() if path)
    return files if len(files) == len(TISSUE_LABELS) else ()


def _anatomical(query: DiffusionQuery, program: str, *, suffix: str, **labels: str) -> list[Path]:
    """Images in the space of the DWI, those of the session first."""
    images = [file for _, file in query.of(program, datatype="anat")]
    found = select(images, suffix=suffix, accepted=query.filters.get("anat", ()), **labels)
    usable = [file for file in found if space_name(file.label("space"), program) == ACPC]
    sessions: Iterable[str | None] = dict.fromkeys((query.session, None))
    return [file.path for session in sessions for file in usable if file.label("ses") == session]
