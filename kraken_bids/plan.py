# SPDX-License-Identifier: MIT
"""What to run for whom: the inputs found, as frozen values.

Nothing here looks at a disk: `kraken_bids.bids.inputs` makes these values, the workflows read
them.
"""

from __future__ import annotations

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
    """

    atlas: str
    file: Path
    space: str
    transforms: tuple[TransformStep, ...] = ()
    codes: str = "index"
    volume_file: Path | None = None


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
        FreeSurfer segmentation, or None.
    five_tissue_file
        Ready five-tissue image in the space of the DWI, or None.
    probability_files
        Tissue maps in the space of the DWI by label (``GM``, ``WM``, ``CSF``); may be empty.
    tractograms
        Ready tractograms by algorithm (``ifod2act``, ``sdstream``); may be empty.
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


@dataclass(frozen=True)
class SessionPlan:
    """What is to be done for one participant in one session.

    Parameters
    ----------
    participant, session
        Labels without prefix; `session` is None in data sets without sessions.
    functional, diffusion
        Series to process; either may be empty.
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
    t1w_file: Path | None = None
    problems: tuple[KrakenBIDSError, ...] = field(default=())

    @property
    def label(self) -> str:
        """``sub-X`` or ``sub-X_ses-Y``."""
        return session_label(self.participant, self.session)


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
    """A search for lambda on the correlations of a cohort, one value an atlas.

    Parameters
    ----------
    targets
        One an atlas searched for.
    correlations
        A row a session of the cohort, in its order: ``FCcorr_<atlas>_hpf`` (TSV) by atlas.
    """

    targets: tuple[LambdaTarget, ...]
    correlations: tuple[tuple[tuple[str, Path], ...], ...]

    @property
    def atlases(self) -> tuple[str, ...]:
        """Names of the atlases."""
        return tuple(target.atlas for target in self.targets)

    @property
    def flavors(self) -> tuple[str, ...]:
        """Flavors that are made with the lambda found."""
        return tuple(f"FCpcorr_{atlas}_hpf" for atlas in self.atlases)
