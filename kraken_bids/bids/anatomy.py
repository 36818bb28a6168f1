# SPDX-License-Identifier: MIT
"""A participant's anatomy: segmentation, transforms, and the way of atlases to the data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..atlases import Atlas, load_atlas
from ..errors import InputError, KrakenBIDSError, Problems
from ..plan import LabelSource
from .derivatives import Derivative
from .files import Accepted, FoundFile, check_content, select
from .own_atlas import OWN_ATLAS, FreeSurferSubject, find_own_labels
from .spaces import FSNATIVE, NATIVE, SpaceGraph, space_name, transform_steps

_log = logging.getLogger(__name__)

#: Space of label images that a person gives in place of an atlas's own.
USER_SPACE = "MNI152NLin6Asym"
#: `LabelSource.atlas` of a FreeSurfer segmentation that stands for tissues.
TISSUES = "tissues"

Files = Mapping[Derivative, Sequence[FoundFile]]


@dataclass(frozen=True)
class AtlasImage:
    """Where an atlas's labels come from.

    Parameters
    ----------
    atlas
        Name.
    file
        Label image, or None where each participant's FreeSurfer segmentation is relabelled.
    space
        Its template; empty for the segmentation.
    volume_file
        Image for region volumes where that is another one.
    own
        Whether participants' own labels are taken in its place: ``auto`` where they can be
        built, ``subject`` always, ``group`` never.
    undilated_file
        Image that own labels take from what FreeSurfer does not segment; None where there are no
        own labels.
    is_given
        Whether the image is a person's own.
    """

    atlas: str
    file: Path | None = None
    space: str = ""
    volume_file: Path | None = None
    own: str = "group"
    undilated_file: Path | None = None
    is_given: bool = False


@dataclass(frozen=True)
class Segmentation:
    """A FreeSurfer segmentation image and its space."""

    file: Path
    space: str


@dataclass(frozen=True)
class Anatomy:
    """What a session's labels and tissues are made from.

    Parameters
    ----------
    participant
        With prefix, for messages.
    graph
        Transforms between spaces.
    segmentations
        ``aparc+aseg`` images, the preferred one first.
    tissues
        Segmentations that tell tissues apart; those without cortical regions come last.
    t1w_file
        Preprocessed T1w image, or None.
    searched
        Folders looked into.
    freesurfer
        The participant's FreeSurfer subject, or None.
    subjects_dirs
        Folders of FreeSurfer subjects.
    """

    participant: str
    graph: SpaceGraph = field(default_factory=SpaceGraph)
    segmentations: tuple[Segmentation, ...] = ()
    tissues: tuple[Segmentation, ...] = ()
    t1w_file: Path | None = None
    searched: tuple[Path, ...] = ()
    freesurfer: FreeSurferSubject | None = None
    subjects_dirs: tuple[Path, ...] = ()


def find_atlas_images(
    atlases: Iterable[str],
    *,
    given: Mapping[str, Path],
    atlas_file: Callable[[Atlas, str], Path],
    volumes: bool,
    own: str = "group",
    has_subjects: bool = False,
) -> dict[str, AtlasImage]:
    """Find the label image of each atlas.

    Parameters
    ----------
    atlases
        Names.
    given
        Images of the person's own, in `USER_SPACE`, by atlas.
    atlas_file
        Gives the published file of an atlas by role.
    volumes
        Whether images for region volumes are needed (they are for structural connectomes).
    own
        Of the atlas that can be a participant's own: see `AtlasImage`.
    has_subjects
        Whether there are FreeSurfer subjects to build own labels from.

    Raises
    ------
    Problems
        With an error for each image that cannot be had.
    """
    images: dict[str, AtlasImage] = {}
    problems: list[KrakenBIDSError] = []
    for name in atlases:
        atlas = load_atlas(name)
        try:
            if name in given:
                space = atlas.space or USER_SPACE
                images[name] = AtlasImage(name, given[name], space, is_given=True)
            elif atlas.file("labels") is None:
                images[name] = AtlasImage(name)
            else:
                other = volumes and atlas.file("volumes") is not None
                images[name] = AtlasImage(
                    name,
                    atlas_file(atlas, "labels"),
                    atlas.space,
                    atlas_file(atlas, "volumes") if other else None,
                )
                if name == OWN_ATLAS and own != "group":
                    undilated = atlas_file(atlas, "volumes") if has_subjects else None
                    images[name] = replace(images[name], own=own, undilated_file=undilated)
        except KrakenBIDSError as problem:
            problems.append(problem)
    if problems:
        raise Problems(problems)
    return images


def find_anatomy(
    files: Files,
    participant: str,
    session: str | None,
    *,
    subjects_dirs: Sequence[Path] = (),
    filters: Mapping[str, Accepted] | None = None,
    bridges: SpaceGraph | None = None,
) -> Anatomy:
    """Find what is known of a session's anatomy.

    Anatomical outputs of the session itself are taken before the participant's, and those before
    the ones of another session, which are taken only if just one has them.

    Parameters
    ----------
    files
        The participant's files by data set.
    participant, session
        Labels without prefix.
    subjects_dirs
        FreeSurfer subjects, the preferred folder first.
    filters
        Queries ``anat`` and ``xfm`` of the filter file.
    bridges
        Steps between templates.
    """
    filters = filters or {}
    graph = SpaceGraph()
    segmentations: list[Segmentation] = []
    partial: list[Segmentation] = []
    t1w_files: list[Path] = []
    for derivative, found in sorted(files.items(), key=lambda item: item[0].program):
        program = derivative.program
        if program in ("xcp_d", "tractograms"):
            continue  # what it has of the anatomy is copied, moved or cut
        anat = [file for file in found if file.datatype == "anat"]
        transforms = select(
            anat, suffix="xfm", extensions=(".h5", ".txt", ".mat"),
            accepted=filters.get("xfm", ()),
        )  # fmt: skip
        graph += transform_steps(_by_nearness(transforms, session), program)
        images = _Images(anat, program, session, filters.get("anat", ()))
        segmentations += images.segmentations("aparcaseg")
        partial += images.segmentations("aseg")
        t1w_files += images.t1w()
    freesurfer = _freesurfer_subject(subjects_dirs, participant, session, graph)
    if freesurfer:
        image = freesurfer.folder / "mri" / "aparc+aseg.mgz"
        segmentations.append(Segmentation(image, freesurfer.space))
    return Anatomy(
        f"sub-{participant}",
        graph + (bridges or SpaceGraph()),
        tuple(segmentations),
        tuple(segmentations + partial),
        t1w_files[0] if t1w_files else None,
        _searched(files, participant),
        freesurfer,
        tuple(subjects_dirs),
    )


@dataclass(frozen=True)
class _Images:
    """Anatomical images of one data set as one session sees them."""

    files: Sequence[FoundFile]
    program: str
    session: str | None
    accepted: Accepted

    def segmentations(self, desc: str) -> list[Segmentation]:
        found = select(
            self.files, suffix="dseg", accepted=self.accepted, desc=desc, res=None, hemi=None
        )
        # Of fMRIPrep the native one; QSIPrep's carry the space of its DWI.
        native = [
            file for file in found if self.program != "fmriprep" or file.label("space") is None
        ]
        return [
            Segmentation(file.path, self._space(file))
            for file in _by_nearness(native, self.session)[:1]
        ]

    def t1w(self) -> list[Path]:
        found = select(self.files, suffix="T1w", accepted=self.accepted, desc="preproc", res=None)
        usable = [file for file in found if file.label("space") in (None, "ACPC")]
        return [file.path for file in _by_nearness(usable, self.session)[:1]]

    def _space(self, file: FoundFile) -> str:
        label = file.label("space")
        if label is None and self.program == "fmriprep":
            return NATIVE
        return space_name(label, self.program)


def _by_nearness(files: Iterable[FoundFile], session: str | None) -> list[FoundFile]:
    """Files of the session, then those without, then those of the one other session."""
    files = list(files)
    others = sorted({
        label for file in files if (label := file.label("ses")) not in (None, session)
    })
    order: list[str | None] = [session] if session else []
    order += [None, *(others if len(others) == 1 else [])]
    return [file for place in order for file in files if file.label("ses") == place]


def _searched(files: Files, participant: str) -> tuple[Path, ...]:
    return tuple(
        derivative.root / f"sub-{participant}"
        for derivative in sorted(files, key=lambda item: item.name)
    )


def _freesurfer_subject(
    subjects_dirs: Iterable[Path], participant: str, session: str | None, graph: SpaceGraph
) -> FreeSurferSubject | None:
    """First finished FreeSurfer subject of exactly that name with ``mri/aparc+aseg.mgz``."""
    names = [f"sub-{participant}_ses-{session}"] if session else []
    names += [f"sub-{participant}", participant]
    for subject in (folder / name for folder in subjects_dirs for name in names):
        image = subject / "mri" / "aparc+aseg.mgz"
        if not image.is_file():
            continue
        if list((subject / "scripts").glob("IsRunning.*")):
            _log.warning("left out, FreeSurfer is not done (IsRunning): %s", subject)
            continue
        return FreeSurferSubject(subject, _freesurfer_space(subject, graph))
    return None


def _freesurfer_space(subject: Path, graph: SpaceGraph) -> str:
    """``fsnative``, or the native space where FreeSurfer conformed the one T1w image there was.

    Conforming keeps scanner coordinates, so that no transform is needed then. With more than one
    image, or transforms at hand, nothing is taken for granted.
    """
    inputs = sorted((subject / "mri" / "orig").glob("[0-9][0-9][0-9].mgz"))
    known = any(FSNATIVE in (step.source, step.target) for step in graph.steps)
    return NATIVE if len(inputs) == 1 and not known else FSNATIVE


def label_sources(
    images: Mapping[str, AtlasImage], space: str, anatomy: Anatomy
) -> tuple[tuple[LabelSource, ...], tuple[InputError, ...]]:
    """Find each atlas's way to the space of the data.

    Returns
    -------
    sources
        Of the atlases that have one, in the order of `images`.
    problems
        Why the others have none.
    """
    sources, problems = [], []
    for name, image in images.items():
        try:
            sources.append(_label_source(name, image, space, anatomy))
        except InputError as problem:
            problems.append(problem)
    return tuple(sources), tuple(problems)


def _label_source(name: str, image: AtlasImage, space: str, anatomy: Anatomy) -> LabelSource:
    if image.file is None:
        return _relabelled(name, anatomy.segmentations, space, anatomy)
    reason = ""
    if image.own != "group":
        source, missing = _own_source(image, space, anatomy)
        if source is not None:
            return source
        if image.own == "subject":
            raise _no_own_labels(name, missing, anatomy)
        reason = f"own labels cannot be built without {'; '.join(missing)}"
    elif name == OWN_ATLAS and not image.is_given:
        reason = "as asked for by --coco439 group"
    steps = anatomy.graph.require(
        image.space, space, participant=anatomy.participant, searched=anatomy.searched
    )
    for step in steps:
        check_content(step.file)
    return LabelSource(
        name,
        image.file,
        image.space,
        steps,
        codes="index",
        volume_file=image.volume_file,
        group_reason=reason,
    )


def _own_source(
    image: AtlasImage, space: str, anatomy: Anatomy
) -> tuple[LabelSource | None, tuple[str, ...]]:
    """Source of labels built from FreeSurfer's files, or what is missing for it."""
    own, missing = find_own_labels(
        anatomy.freesurfer,
        subjects_dirs=anatomy.subjects_dirs,
        graph=anatomy.graph,
        group_file=image.undilated_file,
        group_space=image.space,
    )
    if anatomy.freesurfer is None or own is None:
        return None, missing
    steps = anatomy.graph.route(anatomy.freesurfer.space, space)
    if steps is None:
        return None, (f"a transform from {anatomy.freesurfer.space} to {space}",)
    for step in steps:
        check_content(step.file)
    grid = dict(own.files)["grid"]
    return LabelSource(image.atlas, grid, anatomy.freesurfer.space, steps, own=own), ()


def _no_own_labels(name: str, missing: Sequence[str], anatomy: Anatomy) -> InputError:
    folder = anatomy.freesurfer.folder if anatomy.freesurfer else None
    return InputError(
        f"{anatomy.participant}'s own {name} cannot be built; not found: {'; '.join(missing)}",
        where=str(folder or ", ".join(map(str, anatomy.subjects_dirs)) or "--fs-subjects-dir"),
        fix="Add what is missing, or say --coco439 auto: the group's image is then taken.",
    )


def _relabelled(
    name: str, segmentations: Sequence[Segmentation], space: str, anatomy: Anatomy
) -> LabelSource:
    """Source of the first segmentation from which a way leads to the data."""
    if not segmentations:
        raise InputError(
            f"{anatomy.participant} has no FreeSurfer segmentation for atlas '{name}': "
            "anat/*_desc-aparcaseg_dseg.nii.gz and mri/aparc+aseg.mgz not found",
            where=", ".join(map(str, anatomy.searched)),
            fix="Give the fMRIPrep outputs made with FreeSurfer (--derivatives fmriprep=PATH), "
            "or --fs-subjects-dir.",
        )
    routes = [anatomy.graph.route(item.space, space) for item in segmentations]
    chosen = next((place for place, route in enumerate(routes) if route is not None), 0)
    segmentation = segmentations[chosen]
    steps = anatomy.graph.require(
        segmentation.space, space, participant=anatomy.participant, searched=anatomy.searched
    )
    for file in (segmentation.file, *(step.file for step in steps)):
        check_content(file)
    return LabelSource(name, segmentation.file, segmentation.space, steps, codes="freesurfer")


def tissue_source(space: str, anatomy: Anatomy) -> LabelSource | None:
    """FreeSurfer segmentation as tissues, or None if none can be brought to the data."""
    try:
        return _relabelled(TISSUES, anatomy.tissues, space, anatomy)
    except InputError as problem:
        _log.debug("no tissue segmentation: %s", problem)
        return None


def require_tissues(space: str, anatomy: Anatomy, *, purpose: str, fix: str) -> None:
    """Say why no tissue segmentation can be brought to the data; call it where none can.

    Parameters
    ----------
    space
        That of the data.
    purpose
        What needs tissues, for the message.
    fix
        How to mend it where there is no segmentation at all.

    Raises
    ------
    InputError
        Naming the missing transform, if that is what is missing.
    """
    if anatomy.tissues:
        anatomy.graph.require(
            anatomy.tissues[0].space,
            space,
            participant=anatomy.participant,
            searched=anatomy.searched,
        )
    raise InputError(
        f"{anatomy.participant} has no FreeSurfer segmentation, but {purpose} needs tissues",
        where=", ".join(map(str, anatomy.searched)),
        fix=fix,
    )
