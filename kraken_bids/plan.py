# SPDX-License-Identifier: MIT
"""What to run for whom: the inputs found, as frozen values.

Nothing here looks at a disk: `kraken_bids.bids.inputs` makes these values, the workflows read
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import KrakenBIDSError

#: BIDS entities in file name order, such as ``(("sub", "01"), ("task", "rest"))``.
Entities = tuple[tuple[str, str], ...]


def session_label(participant: str, session: str | None) -> str:
    """``sub-X`` or ``sub-X_ses-Y``."""
    return f"sub-{participant}" + (f"_ses-{session}" if session else "")


@dataclass(frozen=True)
class TransformStep:
    """One transform file on the way of an image from `source` to `target` space.

    ``inverted`` says that the file's own direction is from `target` to `source`. In ITK's terms a
    file ``from-A_to-B`` resamples images of A onto a grid in B, hence maps points of B to points
    of A.
    """

    file: Path
    source: str
    target: str
    inverted: bool = False


@dataclass(frozen=True)
class OwnLabels:
    """What a participant's own label image is built from, in the space of FreeSurfer's images.

    Parameters
    ----------
    cortex
        Where areas of the cortex come from: ``annotation`` (the participant's), ``fsaverage``
        (its annotation, carried over by the registered spheres) or ``volume`` (ready labels).
    files
        By role: ``grid``, ``aseg`` and ``thalamus``; ``cortex`` of a volume, else ``lh.annot``,
        ``lh.white``, ``lh.pial`` and the like, with fsaverage ``lh.sphere`` and
        ``fsaverage.lh.sphere``.
    group_file
        The group's label image, for regions that FreeSurfer does not segment.
    group_steps
        Its way into the space of `files`.
    """

    cortex: str
    files: tuple[tuple[str, Path], ...]
    group_file: Path
    group_steps: tuple[TransformStep, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        steps = (step.file for step in self.group_steps)
        return tuple(dict.fromkeys([*(path for _, path in self.files), self.group_file, *steps]))


@dataclass(frozen=True)
class LabelSource:
    """A label image and the way from its space to that of the data.

    Parameters
    ----------
    atlas
        Name of the atlas; ``tissues`` for a FreeSurfer segmentation read as tissue masks.
    file
        Label image.
    space
        Space of `file`.
    transforms
        Steps in the order in which the image travels: the first starts in `space`, the last ends
        in the space of the data. Empty when both are one.
    codes
        ``freesurfer`` if the values are FreeSurfer codes, ``index`` if they are region indices.
    volume_file
        Label image in the same space, with the same codes, for region volumes; `file` if None.
    own
        What the label image is built from where it is the participant's own and not there yet;
        `file` is then an image on the same grid.
    group_reason
        Why it is the group's image where it could be the participant's own; else empty.
    """

    atlas: str
    file: Path
    space: str
    transforms: tuple[TransformStep, ...] = ()
    codes: str = "index"
    volume_file: Path | None = None
    own: OwnLabels | None = None
    group_reason: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that the labels rest on, those for region volumes aside."""
        built = self.own.paths if self.own else ()
        steps = (step.file for step in self.transforms)
        return tuple(dict.fromkeys([self.file, *built, *steps]))


@dataclass(frozen=True)
class FunctionalRun:
    """One preprocessed BOLD series with what is needed to turn it into connectomes.

    Parameters
    ----------
    entities
        All entities of the source file except ``space``, ``res``, ``den`` and ``desc``.
    space
        Label of the series' space: ``T1w``, ``MNI152NLin6Asym``, ``boldref`` …
    resolution
        Label of ``res-``, or empty.
    bold_file, mask_file, confounds_file
        Image (4-D), brain mask on its grid, table of confounds. Of a series that is denoised
        already: table of its motion, or None.
    confounds_sidecar
        JSON beside the table, or None.
    repetition_time_s
        From the sidecar, else from the image header.
    labels
        One source an atlas, in the order of the atlases asked for.
    tissues
        FreeSurfer segmentation for white matter, CSF and grey matter masks, or None.
    n_dummy_discarded
        ``NumberOfVolumesDiscardedByScanner`` plus ``…ByUser``, from the sidecar.
    denoised_by
        Who denoised the series already, and how; empty where that is still to be done.
    variant
        Of such a series: ``hpf``, or ``hpfgsr`` if the global signal was regressed.
    mark
        Of such a series that does not fit the recipe: what marks its outputs in their names.
    outliers_file
        Of such a series: table of the volumes left out, or None.
    n_regressors
        Of such a series: columns that were regressed, or None if that is not known.
    high_pass_hz
        Of such a series: cut-off of its high-pass filter; 0 if it has none.
    """

    entities: Entities
    space: str
    resolution: str
    bold_file: Path
    mask_file: Path
    confounds_file: Path | None
    confounds_sidecar: Path | None
    repetition_time_s: float
    labels: tuple[LabelSource, ...]
    tissues: LabelSource | None
    n_dummy_discarded: int = 0
    denoised_by: str = ""
    variant: str = ""
    mark: str = ""
    outliers_file: Path | None = None
    n_regressors: int | None = None
    high_pass_hz: float = 0.0

    @property
    def atlases(self) -> tuple[str, ...]:
        """Names of the atlases."""
        return tuple(source.atlas for source in self.labels)


@dataclass(frozen=True)
class FiveTissueMaking:
    """A five-tissue image that MRtrix3's ``5ttgen`` is to make.

    Parameters
    ----------
    algorithm
        ``fsl`` or ``hsvs``.
    file
        ``fsl``: T1w image in the space of the diffusion data. ``hsvs``: ``mri/aparc+aseg.mgz`` of
        the FreeSurfer subject.
    mask_file
        ``fsl``: brain mask of the T1w image.
    transforms
        Steps from the space of `file` to that of the diffusion data.
    """

    algorithm: str
    file: Path
    mask_file: Path | None = None
    transforms: tuple[TransformStep, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        mask = (self.mask_file,) if self.mask_file else ()
        return (self.file, *mask, *(step.file for step in self.transforms))


@dataclass(frozen=True)
class DiffusionRun:
    """One preprocessed diffusion series, or tractograms made from one.

    Parameters
    ----------
    entities
        All entities of the source file except ``space``, ``res``, ``den`` and ``desc``.
    space
        ``ACPC`` or ``T1w`` (QSIPrep before 0.24).
    dwi_file, bval_file, bvec_file, mask_file
        None where only tractograms are used.
    labels
        One source an atlas.
    tissues
        FreeSurfer segmentation that a five-tissue image may be made from, or None.
    five_tissue_file
        Ready five-tissue image in the space of the DWI, or None.
    probability_files
        Tissue maps in the space of the DWI by label (``GM``, ``WM``, ``CSF``); may be empty.
    tractograms
        Ready tractograms by algorithm (``ifod2act``, ``sdstream``); may be empty.
    fod_file
        Ready fibre orientation distributions of white matter, where there is no series, or None.
    notes
        What is to be told of inputs: measure of quality (``fods_bias``) and text.
    five_tissue_made
        Five-tissue image that is to be made by ``5ttgen``, or None.
    segmentation
        FreeSurfer segmentation by which the place of labels is checked, or None.
    """

    entities: Entities
    space: str
    dwi_file: Path | None
    bval_file: Path | None
    bvec_file: Path | None
    mask_file: Path | None
    labels: tuple[LabelSource, ...]
    tissues: LabelSource | None
    five_tissue_file: Path | None = None
    probability_files: tuple[tuple[str, Path], ...] = ()
    tractograms: tuple[tuple[str, Path], ...] = ()
    fod_file: Path | None = None
    notes: tuple[tuple[str, str], ...] = ()
    five_tissue_made: FiveTissueMaking | None = None
    segmentation: LabelSource | None = None


@dataclass(frozen=True)
class SeriesTable:
    """A table of series of an atlas's regions: a row a volume, a column a region.

    Parameters
    ----------
    atlas
        Name.
    variant
        ``hpf``, or ``hpfgsr`` if the global signal was regressed.
    file
        Text file.
    """

    atlas: str
    variant: str
    file: Path


@dataclass(frozen=True)
class SeriesRun:
    """One run whose regions' series are there already, denoised.

    Parameters
    ----------
    entities
        As in `FunctionalRun`.
    space
        Label of ``space-``, or empty where the names do not tell it.
    tables
        One an atlas and variant.
    repetition_time_s
        From the sidecars.
    denoised_by
        Who denoised the series, and how.
    mark
        What marks outputs of series that do not fit the recipe in their names; else empty.
    left_out
        Volumes that are not to be correlated, from 0.
    high_pass_hz
        Cut-off of the high-pass filter; 0 if there was none, or it is not known.
    known
        Quality measures that the sidecars repeat, by name: of series of ours, their recipe.
    """

    entities: Entities
    space: str
    tables: tuple[SeriesTable, ...]
    repetition_time_s: float
    denoised_by: str
    mark: str = ""
    left_out: tuple[int, ...] = ()
    high_pass_hz: float = 0.0
    known: tuple[tuple[str, str | float], ...] = ()

    @property
    def atlases(self) -> tuple[str, ...]:
        """Names of the atlases, each once."""
        return tuple(dict.fromkeys(table.atlas for table in self.tables))

    @property
    def variant(self) -> str:
        """All variants, in words that tell runs of other variants apart."""
        return "+".join(sorted({f"{table.atlas}-{table.variant}" for table in self.tables}))


@dataclass(frozen=True)
class ReadyConnectome:
    """A connectome that somebody else measured.

    Parameters
    ----------
    flavor
        Its type.
    entities, space
        As in `SeriesRun`; of files whose names say nothing, ``sub`` and ``ses`` only.
    file
        File or folder that it lies in.
    sha256
        Of its values, as they were checked.
    known
        Keys of its sidecar that say how it was made, as JSON.
    values_file
        Its values, (n_regions, n_regions), ``.npy``; None until the work begins.
    """

    flavor: str
    entities: Entities
    space: str
    file: Path
    sha256: str
    known: str = "{}"
    values_file: Path | None = None


@dataclass(frozen=True)
class ReadyInputs:
    """What is ready-made of one participant in one session, and what of it cannot be used."""

    series: tuple[SeriesRun, ...] = ()
    connectomes: tuple[ReadyConnectome, ...] = ()
    problems: tuple[KrakenBIDSError, ...] = ()


@dataclass(frozen=True)
class ReadySet:
    """All ready-made inputs of an invocation.

    Parameters
    ----------
    sessions
        By participant and session, those asked for.
    participants
        Labels of all participants there are, whether or not they are asked for.
    where
        Folders and files, for messages.
    """

    sessions: Mapping[tuple[str, str | None], ReadyInputs] = field(default_factory=dict)
    participants: tuple[str, ...] = ()
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class SessionPlan:
    """What is to be done for one participant in one session.

    Parameters
    ----------
    participant, session
        Labels without prefix; `session` is None in data sets without sessions.
    functional, diffusion
        Series to process; either may be empty.
    series, connectomes
        Ready-made series of regions, and ready-made connectomes.
    t1w_file
        Anatomical image for figures, or None.
    problems
        What keeps (a part of) this session from being processed, each with its fix. A session
        with problems is still processed as far as its inputs allow.
    """

    participant: str
    session: str | None
    functional: tuple[FunctionalRun, ...] = ()
    diffusion: tuple[DiffusionRun, ...] = ()
    series: tuple[SeriesRun, ...] = field(default=(), kw_only=True)
    connectomes: tuple[ReadyConnectome, ...] = field(default=(), kw_only=True)
    t1w_file: Path | None = None
    problems: tuple[KrakenBIDSError, ...] = field(default=())

    @property
    def label(self) -> str:
        """``sub-X`` or ``sub-X_ses-Y``."""
        return session_label(self.participant, self.session)

    @property
    def has_inputs(self) -> bool:
        """Whether there is anything to make connectomes from."""
        return bool(self.functional or self.diffusion or self.series or self.connectomes)


@dataclass(frozen=True)
class CohortSession:
    """Finished measured connectomes of one participant in one session.

    Parameters
    ----------
    participant, session
        Labels without prefix.
    connectomes
        Labelled matrices (TSV) by flavor name.
    site
        Value of the column given to ``--adapt-by``, or empty.
    """

    participant: str
    session: str | None
    connectomes: tuple[tuple[str, Path], ...]
    site: str = ""

    @property
    def label(self) -> str:
        """``sub-X`` or ``sub-X_ses-Y``."""
        return session_label(self.participant, self.session)


@dataclass(frozen=True)
class LambdaTarget:
    """The precision matrix that a cohort's partial correlations of an atlas are to come near.

    Parameters
    ----------
    atlas
        Name of the atlas.
    name
        Name of a published target, or of a file without its folder.
    sha256
        Of the file.
    file
        Where it is; None if it is still to be fetched.
    """

    atlas: str
    name: str
    sha256: str
    file: Path | None


@dataclass(frozen=True)
class LambdaSearchPlan:
    """Partial correlations made again, with a lambda searched on the cohort or one known.

    Parameters
    ----------
    targets
        One an atlas searched for.
    correlations
        A row a session of the cohort, in its order: ``FCcorr_<atlas>_hpf`` (TSV) by atlas, where
        a partial correlation is to be made.
    withheld
        A row a session: atlases with fewer degrees of freedom than regions; a measured partial
        correlation is dropped. Empty: none.
    unchanged
        A row a session: atlases whose measured partial correlation is right. Empty: none.
    fitted
        In place of `targets`: lambda by atlas that an adaptation was fitted with.
    fitted_by
        Name of its file.
    """

    targets: tuple[LambdaTarget, ...]
    correlations: tuple[tuple[tuple[str, Path], ...], ...]
    withheld: tuple[tuple[str, ...], ...] = ()
    unchanged: tuple[tuple[str, ...], ...] = ()
    fitted: tuple[tuple[str, float], ...] = ()
    fitted_by: str = ""

    @property
    def atlases(self) -> tuple[str, ...]:
        """Names of the atlases."""
        return tuple(target.atlas for target in self.targets) + tuple(dict(self.fitted))

    @property
    def flavors(self) -> tuple[str, ...]:
        """Flavors that are made with the lambda found."""
        return tuple(f"FCpcorr_{atlas}_hpf" for atlas in self.atlases)
