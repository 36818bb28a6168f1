# SPDX-License-Identifier: MIT
"""Whether a participant's own coco439 can be built from FreeSurfer's files, and from which."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..plan import (
    CohortSession,
    DiffusionRun,
    FunctionalRun,
    LabelSource,
    OwnLabels,
    SessionPlan,
)
from ..storage import load_json
from .files import check_content
from .spaces import FSNATIVE, SpaceGraph

_log = logging.getLogger(__name__)

#: The atlas that can be a participant's own.
OWN_ATLAS = "coco439"
#: Spellings of the annotation's name, between ``lh.`` and ``.annot``.
ANNOTATIONS = ("HCP-MMP1", "HCPMMP1", "HCP_MMP1", "hcpmmp1")
#: Spellings of the name of a ready volume of areas.
VOLUMES = ("HCP-MMP1+aseg", "HCPMMP1+aseg", "aparc.HCP-MMP1+aseg", "aparc.HCPMMP1+aseg")
HEMISPHERES = ("lh", "rh")

#: Whose label image it is, as ``LabelOrigin`` in sidecars.
PARTICIPANT, GROUP = "participant", "group"
#: Where areas of the cortex come from, in words.
CORTEX_WORDS: dict[str, str] = {
    "annotation": "HCP-MMP annotation of the participant; voxels of the ribbon by the nearest "
    "vertex of the mid-surface",
    "fsaverage": "HCP-MMP annotation of fsaverage, carried to the nearest vertex on the "
    "registered sphere; voxels of the ribbon by the nearest vertex of the mid-surface",
    "volume": "ready volume of HCP-MMP areas, by code",
}


@dataclass(frozen=True)
class FreeSurferSubject:
    """A finished FreeSurfer subject: its folder, and the space of its images."""

    folder: Path
    space: str


def find_own_labels(
    subject: FreeSurferSubject | None,
    *,
    subjects_dirs: Sequence[Path],
    graph: SpaceGraph,
    group_file: Path | None,
    group_space: str,
) -> tuple[OwnLabels | None, tuple[str, ...]]:
    """Find what a participant's own coco439 can be built from.

    Parameters
    ----------
    subject
        FreeSurfer's outputs, or None.
    subjects_dirs
        Folders of subjects, where fsaverage may be.
    graph
        Transforms between spaces.
    group_file, group_space
        The group's label image, undilated, and its template.

    Returns
    -------
    own
        None if something is missing.
    missing
        What is, each thing with where it should be.
    """
    if subject is None or group_file is None:
        return None, ("a finished FreeSurfer subject with mri/aparc+aseg.mgz",)
    folder = subject.folder
    fsaverages = [root / "fsaverage" for root in (folder.parent, *subjects_dirs)]
    cortex, files, missing = _find_cortex(folder, fsaverages)
    mri = folder / "mri"
    grid = files.get("cortex") or _first(mri / "ribbon.mgz", mri / "aparc+aseg.mgz")
    found: dict[str, Path | None] = {
        "grid": grid,
        "aseg": _first(mri / "aseg.mgz", mri / "aparc+aseg.mgz"),
        "thalamus": find_thalamus(mri),
    }
    missing += [MISSING_WORDS[role] for role, path in found.items() if path is None]
    steps = graph.route(group_space, subject.space)
    if steps is None:
        native = " (fMRIPrep's from-T1w_to-fsnative)" if subject.space == FSNATIVE else ""
        missing.append(f"a transform from {group_space} to {subject.space}{native}")
    if missing or steps is None:
        return None, tuple(missing)
    files |= {role: path for role, path in found.items() if path is not None}
    own = OwnLabels(cortex, tuple(sorted(files.items())), group_file, steps)
    empty = tuple(_without_content(own))
    return (None, empty) if empty else (own, ())


#: What is missing where there is no file of a role.
MISSING_WORDS: dict[str, str] = {
    "cortex": f"label/{{lh,rh}}.{ANNOTATIONS[0]}.annot of the participant or of fsaverage in the "
    f"folder of subjects, or mri/{VOLUMES[0]}.mgz",
    "grid": "mri/ribbon.mgz",
    "aseg": "mri/aseg.mgz",
    "thalamus": "mri/ThalamicNuclei*.mgz (segmentThalamicNuclei.sh, or segment_subregions "
    "thalamus)",
}


def _first(*candidates: Path) -> Path | None:
    # A link to content that is not here is told as such later.
    return next((path for path in candidates if path.is_file() or path.is_symlink()), None)


def _without_content(own: OwnLabels) -> Iterable[str]:
    for path in own.paths:
        try:
            check_content(path)
        except InputError as problem:
            yield f"{path.name} ({problem.what})"


def _find_cortex(
    folder: Path, fsaverages: Sequence[Path]
) -> tuple[str, dict[str, Path], list[str]]:
    """Files of the cortex: an annotation with its surfaces, else a ready volume."""
    annotations = _annotations(folder)
    kind, needed = "annotation", {}
    if not annotations:
        for fsaverage in fsaverages:
            if annotations := _annotations(fsaverage):
                kind = "fsaverage"
                for side in HEMISPHERES:
                    needed[f"{side}.sphere"] = folder / "surf" / f"{side}.sphere.reg"
                    needed[f"fsaverage.{side}.sphere"] = fsaverage / "surf" / f"{side}.sphere.reg"
                break
    volume = _first(*(folder / "mri" / f"{name}.mgz" for name in VOLUMES))
    if not annotations:
        if volume:
            return "volume", {"cortex": volume}, []
        return kind, {}, [MISSING_WORDS["cortex"]]
    for side in HEMISPHERES:
        needed[f"{side}.white"] = folder / "surf" / f"{side}.white"
        # Some releases write pial as a link, which does not survive every copy.
        pial = folder / "surf" / f"{side}.pial"
        needed[f"{side}.pial"] = _first(pial, pial.with_name(f"{side}.pial.T1")) or pial
    absent = [path for path in needed.values() if _first(path) is None]
    if absent and volume:
        return "volume", {"cortex": volume}, []
    return kind, {**annotations, **needed}, [
        str(path.relative_to(path.parents[2])) for path in absent
    ]  # fmt: skip


def _annotations(folder: Path) -> dict[str, Path]:
    """Annotations of both hemispheres in one spelling; empty if there are none."""
    for name in ANNOTATIONS:
        found = {side: folder / "label" / f"{side}.{name}.annot" for side in HEMISPHERES}
        if all(_first(path) for path in found.values()):
            return {f"{side}.annot": path for side, path in found.items()}
    return {}


def find_thalamus(mri: Path) -> Path | None:
    """Segmentation of thalamic nuclei: on FreeSurfer's grid before finer ones, newest first.

    Names are ``ThalamicNuclei.v10.T1.FSvoxelSpace.mgz`` (7.1; v12: 7.2, v13: 7.3 and 7.4) and
    ``ThalamicNuclei.FSvoxelSpace.mgz`` (``segment_subregions``). Longitudinal ones are of another
    space.
    """
    found = [path for path in mri.glob("ThalamicNuclei*.mgz") if ".long." not in path.name]
    return min(found, key=_thalamus_rank, default=None)


def _thalamus_rank(path: Path) -> tuple[bool, bool, int, str]:
    version = re.search(r"\.v(\d+)\.", path.name)
    newest_first = -int(version.group(1)) if version else -1000
    return ".FSvoxelSpace." not in path.name, ".T1." not in path.name and version is not None, \
        newest_first, path.name  # fmt: skip


def describe_origin(source: LabelSource) -> dict[str, Any]:
    """Say in sidecars' keys whose label image it is; empty where that is no question.

    Examples
    --------
    >>> source = LabelSource("coco439", Path("a.nii.gz"), "T1w", group_reason="no subject")
    >>> describe_origin(source)
    {'LabelOrigin': 'group', 'LabelOriginReason': 'no subject'}
    """
    if source.group_reason:
        return {"LabelOrigin": GROUP, "LabelOriginReason": source.group_reason}
    if source.own is None:
        return {}
    files = dict(source.own.files)
    return {
        "LabelOrigin": PARTICIPANT,
        "LabelIngredients": {
            "Cortex": CORTEX_WORDS[source.own.cortex],
            "Subcortex": f"{files['aseg'].name}, without the correction by FSL FIRST that the "
            "models' training data had",
            "Thalamus": f"{files['thalamus'].name}; nuclei that are part of no region went to "
            "the nearest one that is",
            "Brainstem": f"{source.own.group_file.name}, carried by the transforms",
            "Cerebellum": f"{source.own.group_file.name}, carried by the transforms; the "
            f"cerebellar cortex of {files['aseg'].name} filled with the nearest region of its "
            "side or of the vermis",
        },
    }


def _origin(source: LabelSource) -> str:
    return str(describe_origin(source).get("LabelOrigin", ""))


def tell_origins(plans: Iterable[SessionPlan]) -> None:
    """Log whose labels are used, and warn if they are not of one kind in all sessions."""
    sessions: dict[str, set[str]] = {PARTICIPANT: set(), GROUP: set()}
    reasons: dict[str, set[str]] = {}
    for plan in plans:
        runs: list[FunctionalRun | DiffusionRun] = [*plan.functional, *plan.diffusion]
        for source in (item for run in runs for item in run.labels):
            origin = _origin(source)
            if origin:
                sessions[origin].add(plan.label)
            if origin == GROUP:
                reasons.setdefault(source.group_reason, set()).add(plan.label)
    for reason, labels in reasons.items():
        _log.info("%s: the group's image for %s: %s", OWN_ATLAS, _counted(labels), reason)
    if sessions[PARTICIPANT]:
        _log.info("%s: own labels for %s", OWN_ATLAS, _counted(sessions[PARTICIPANT]))
    if sessions[PARTICIPANT] and sessions[GROUP]:
        _tell_mixed(sessions, fix="Say --coco439 group, or add what is missing")


def tell_mixed_origins(sessions: Iterable[CohortSession]) -> None:
    """Warn, at the group level, of connectomes whose labels are not of one kind.

    Parameters
    ----------
    sessions
        The cohort; only sidecars of `OWN_ATLAS` are read.
    """
    found: dict[str, set[str]] = {PARTICIPANT: set(), GROUP: set()}
    for session in sessions:
        for name, file in session.connectomes:
            if f"_{OWN_ATLAS}_" in name:
                origin = _read_origin(file.with_suffix(".json"))
                found.setdefault(origin, set()).add(session.label)
    if found[PARTICIPANT] and found[GROUP]:
        _tell_mixed(found, fix="Measure them again with --coco439 group or subject")


def _tell_mixed(sessions: dict[str, set[str]], *, fix: str) -> None:
    _log.warning(
        "%s has own labels in %s and the group's in %s: sizes of regions differ between these, "
        "so do not compare them. %s",
        OWN_ATLAS,
        _counted(sessions[PARTICIPANT]),
        _counted(sessions[GROUP]),
        fix,
    )


def _read_origin(sidecar: Path) -> str:
    try:
        content = load_json(sidecar)
    except (OSError, ValueError):
        return ""
    return str(content.get("LabelOrigin", "")) if isinstance(content, dict) else ""


def _counted(labels: Iterable[str]) -> str:
    ordered = sorted(labels)
    some = ", ".join(ordered[:3]) + (", …" if len(ordered) > 3 else "")
    return f"{len(ordered)} session{'s' if len(ordered) > 1 else ''} ({some})"
