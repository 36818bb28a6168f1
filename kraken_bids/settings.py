# SPDX-License-Identifier: MIT
"""What a person asked for, as frozen values; nothing here is read from anywhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Selection:
    """Which scans to look at; empty tuples select all.

    Parameters
    ----------
    participants, sessions, tasks, runs
        Labels without prefix.
    filters
        Contents of ``--bids-filter-file`` by query, as entity and accepted labels.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    filters: tuple[tuple[str, tuple[tuple[str, tuple[str | None, ...]], ...]], ...] = ()


#: Ways of denoising: the recipe of the training connectomes, and other pipelines.
DENOISING: tuple[str, ...] = ("recipe", "simple", "scrubbing", "compcor", "ica_aroma")


#: Lambda of the model's training connectomes, by atlas, where it is known (verified for fs86).
TRAINING_LAMBDAS: dict[str, float] = {"fs86": 0.06}
#: Lambda of atlases that the options do not name: that of the published model.
DEFAULT_LAMBDA = 0.06

#: Where the lambda of a partial correlation comes from, as sidecars say it, and what that means.
LAMBDA_SOURCES: dict[str, str] = {
    "training value": "that of the model's training connectomes",
    "given": "--pcorr-lambda",
    "default": "our choice: none is published for this atlas",
    "searched": "found by the group level on its cohort",
    "adaptation": "that of the cohort that the adaptation was fitted on",
}


@dataclass(frozen=True)
class FunctionalOptions:
    """The functional recipe; the defaults are those of the model's training connectomes.

    Parameters
    ----------
    denoising
        ``recipe``, or the name of a strategy of `kraken_bids.bids.strategies`: everything down to
        `skip_s` is then not looked at.
    compcor
        ``exact`` computes tissue components from own eroded masks; ``columns`` takes the
        aCompCor columns of the confounds table.
    gsr_source
        ``grey_matter`` or ``global_signal``.
    outliers
        ``recipe`` finds volumes to leave out by motion and global signal; ``fmriprep`` takes
        those of the confounds table.
    high_pass_hz, high_pass_edge_hz
        Cut-off of the high-pass filter and standard deviation of its Gaussian edge.
    edge_rule
        ``hz``, or ``fmriclean``: the edge is then as wide as that program makes it, in bins.
    skip_s
        Time at the start of a run that is flagged as not yet steady, in seconds.
    pcorr_lambda
        Regularisation of the partial correlation by atlas.
    pcorr_given
        Atlases whose regularisation was given: partial correlations are made with it however few
        degrees of freedom there are.
    min_coverage
        Least share of a region's voxels with signal; below it the region counts as missing.
    force
        Take labels although they seem to lie elsewhere in the image.
    """

    denoising: str = "recipe"
    compcor: str = "exact"
    gsr_source: str = "grey_matter"
    outliers: str = "recipe"
    high_pass_hz: float = 0.01
    high_pass_edge_hz: float = 0.0029
    edge_rule: str = "hz"
    skip_s: float = 7.2
    pcorr_lambda: tuple[tuple[str, float], ...] = (
        ("fs86", 0.06),
        ("shen268", 0.06),
        ("coco439", 0.06),
    )
    pcorr_given: tuple[str, ...] = ()
    min_coverage: float = 0.0
    force: bool = False

    def lambda_of(self, atlas: str) -> float:
        """Regularisation of the partial correlation of an atlas.

        Examples
        --------
        >>> FunctionalOptions(pcorr_lambda=(("fs86", 0.1),)).lambda_of("fs86")
        0.1
        """
        return dict(self.pcorr_lambda).get(atlas, DEFAULT_LAMBDA)

    def lambda_source(self, atlas: str) -> str:
        """Where the regularisation of an atlas comes from, a value of `LAMBDA_SOURCES`.

        Examples
        --------
        >>> FunctionalOptions().lambda_source("fs86")
        'training value'
        """
        if atlas in self.pcorr_given:
            return "given"
        return "training value" if atlas in TRAINING_LAMBDAS else "default"

    @property
    def mark(self) -> str:
        """What marks files made by another pipeline than the recipe; empty for the recipe.

        Examples
        --------
        >>> FunctionalOptions(denoising="ica_aroma").mark
        'icaaroma'
        """
        return "" if self.denoising == "recipe" else self.denoising.replace("_", "")

    @property
    def needs_components(self) -> bool:
        """Whether tissue components are computed from the series."""
        return self.denoising == "recipe" and self.compcor == "exact"

    @property
    def needs_tissues(self) -> bool:
        """Whether masks of tissues are needed."""
        from_table = self.compcor == "columns" and self.gsr_source == "global_signal"
        return self.denoising == "recipe" and not from_table


#: Whose labels of coco439 are taken: the participant's own where they can be built, always, never.
COCO439: tuple[str, ...] = ("auto", "subject", "group")


@dataclass(frozen=True)
class RegularizationOptions:
    """How the group level chooses lambda of the partial correlations.

    Apart from `FunctionalOptions`, because no measured connectome depends on it.

    Parameters
    ----------
    searched
        Atlases for which lambda is searched on the cohort; the others keep what was measured.
    targets
        Own files of a precision matrix by atlas, in place of the published ones.
    """

    searched: tuple[str, ...] = ()
    targets: tuple[tuple[str, Path], ...] = ()


#: Sources of the five-tissue image by name; anything else is a file.
FIVE_TISSUE: tuple[str, ...] = ("auto", "freesurfer", "hsvs", "fsl", "maps")


@dataclass(frozen=True)
class StructuralOptions:
    """The structural recipe.

    Parameters
    ----------
    n_streamlines
        Streamlines to select for each algorithm.
    assignment_radius_mm
        Radius of the search for a region around a streamline's end.
    sloppy
        Quicker seeding, coarser response functions; for trying out.
    n_threads
        Threads of one MRtrix3 command. With 1 the same seed gives the same streamlines.
    random_seed
        Seed of MRtrix3's random numbers.
    keep_tractograms
        Keep the ``.tck`` files beside the connectomes.
    force
        Track although the b-vectors seem to be wrong, or labels to lie elsewhere in the image.
    sift2
        Weigh streamlines by SIFT2, and make connectomes of the sums of weights, too.
    keep_assignments
        Keep the regions in which each streamline ends: some 11 bytes of it in place of 1500.
    five_tissue
        A key of `FIVE_TISSUE`, or a file in which ``{participant}`` and ``{session}`` stand for
        labels.
    """

    n_streamlines: int = 5_000_000
    assignment_radius_mm: float = 4.0
    sloppy: bool = False
    n_threads: int = 1
    random_seed: int = 1
    keep_tractograms: bool = False
    force: bool = False
    sift2: bool = False
    keep_assignments: bool = False
    five_tissue: str = "auto"


@dataclass(frozen=True)
class TranslationOptions:
    """How the Krakencoder is used.

    Parameters
    ----------
    model_dir
        Bundle folder, or None where no model is needed.
    model_sha256
        SHA-256 of the bundle's weights: an input of every node that uses them.
    adaptation
        ``none``, ``meanshift``, ``meanfit``, ``meanfit+meanshift``, or a fitted file.
    adapt_by
        Column of ``participants.tsv`` that tells sites apart, or empty.
    fusions
        Name and members of each fusion; members are flavor names, ``all``, ``SC`` or ``FC``.
    predict_from, predict_to
        Sources (names of fusions or flavors) and target flavors; empty: the fusions, all flavors.
    label
        Label of the prediction data set.
    device
        ``auto``, ``cpu`` or ``cuda[:n]``.
    relmat_format
        ``tsv``: a table a predicted connectome; ``h5``: a file a session with all of them.
    """

    model_dir: Path | None = None
    model_sha256: str = ""
    adaptation: str = "meanfit+meanshift"
    adapt_by: str = ""
    fusions: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("fusion", ("all",)),
        ("fusionSC", ("SC",)),
        ("fusionFC", ("FC",)),
    )
    predict_from: tuple[str, ...] = ()
    predict_to: tuple[str, ...] = ()
    label: str = "default"
    device: str = "auto"
    relmat_format: str = "tsv"


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Parameters
    ----------
    n_procs
        Processes (and threads in all) at a time.
    omp_nthreads
        Threads of one process.
    mem_gb
        Memory in GB.
    """

    n_procs: int = 1
    omp_nthreads: int = 1
    mem_gb: float = 4.0


@dataclass(frozen=True)
class Settings:
    """One invocation of ``kraken-bids``.

    Parameters
    ----------
    bids_dir, output_dir, work_dir
        Folders.
    level
        ``participant`` or ``group``.
    derivatives
        Name (``fmriprep``, ``xcp_d``, ``qsiprep``, ``qsirecon``, ``tractograms``, ``timeseries``,
        ``connectomes``) and folder of the input derivatives given; more are looked for.
        ``connectomes`` are here those that the group level reads beside the output folder.
    connectomes
        Ready-made connectomes for the participant level: ``PATH`` or ``FLAVOR=PATH``.
    subjects_dir
        FreeSurfer subjects, or None.
    atlases
        Names of the atlases.
    atlas_files
        Label images in place of the published ones, by atlas.
    coco439
        A key of `COCO439`.
    modalities
        ``func``, ``dwi`` or both.
    flavors
        Names of the flavors asked for; empty: all.
    force
        Take inputs that do not fit the recipe of the models, too; outputs are marked.
    compared_model_dir
        Bundle whose training means measured connectomes are compared with, if one is on this
        machine already. No part of any fingerprint: a participant is not measured again because
        a model has come.
    """

    bids_dir: Path
    output_dir: Path
    work_dir: Path
    level: str
    selection: Selection = field(default_factory=Selection)
    derivatives: tuple[tuple[str, Path], ...] = ()
    connectomes: tuple[str, ...] = ()
    subjects_dir: Path | None = None
    atlases: tuple[str, ...] = ()
    atlas_files: tuple[tuple[str, Path], ...] = ()
    coco439: str = "auto"
    modalities: tuple[str, ...] = ("func", "dwi")
    flavors: tuple[str, ...] = ()
    functional: FunctionalOptions = field(default_factory=FunctionalOptions)
    regularization: RegularizationOptions = field(default_factory=RegularizationOptions)
    structural: StructuralOptions = field(default_factory=StructuralOptions)
    translation: TranslationOptions = field(default_factory=TranslationOptions)
    resources: Resources = field(default_factory=Resources)
    plugin_file: Path | None = None
    bids_database_dir: Path | None = None
    force: bool = False
    compared_model_dir: Path | None = None
    keep_work: bool = False
    write_graph: bool = False
    resource_monitor: bool = False
    stop_on_first_crash: bool = False
