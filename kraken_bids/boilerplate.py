# SPDX-License-Identifier: MIT
"""The methods text, made from the settings that it speaks of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import __version__
from .atlases import load_atlas
from .references import as_bibtex, cite
from .settings import (
    FunctionalOptions,
    RegularizationOptions,
    Settings,
    StructuralOptions,
    TranslationOptions,
)

#: What an atlas rests on, by its name; of others the card says it in words.
ATLAS_KEYS: dict[str, str] = {
    "fs86": "[@desikan2006; @fischl2002]",
    "shen268": "[@shen2013]",
    "coco439": "[@glasser2016; @iglesias2018; @rolls2020; @diedrichsen2009]",
    "cocoyeo243": "[@schaefer2018; @fischl2002; @diedrichsen2009]",
}
#: Programs that data may have been preprocessed with, in lower case, and their references.
PROGRAM_KEYS: dict[str, str] = {
    "fmriprep": " [@esteban2019]",
    "qsiprep": " [@cieslak2021]",
    "qsirecon": " [@cieslak2021]",
    "xcp_d": " [@mehta2024]",
    "xcp-d": " [@mehta2024]",
    "freesurfer": " [@fischl2012]",
}
#: Our own entry in the chain of programs that made a data set.
OWN_NAME = "kraken-bids"


@dataclass(frozen=True)
class Methods:
    """What was done, for a paper.

    Parameters
    ----------
    markdown
        The text with its list of references.
    bibtex
        The references.
    """

    markdown: str
    bibtex: str


def describe_methods(
    settings: Settings,
    *,
    versions: Mapping[str, str] | None = None,
    inputs: Sequence[tuple[str, str]] = (),
) -> Methods:
    """Write what was done, for a paper.

    Parameters
    ----------
    settings
        Those of the run; every number of the text is one of them, or a constant of the code.
    versions
        Versions of programs, by the name that the text calls them.
    inputs
        Programs that the inputs were preprocessed with, and their versions.
    """
    known = versions or {}
    parts = [_introduction(settings, known, inputs)]
    if settings.level == "participant":
        if OWN_ATLAS in settings.atlases and OWN_ATLAS not in dict(settings.atlas_files):
            parts.append(_OWN_LABELS[settings.coco439])
        if "func" in settings.modalities and "xcp_d" in dict(settings.derivatives):
            parts.append(_DENOISED)
        elif "func" in settings.modalities:
            parts.append(_functional(settings.functional, settings.atlases))
        if "dwi" in settings.modalities:
            parts.append(_structural(settings.structural, known))
        if "timeseries" in dict(settings.derivatives):
            parts.append(_READY_SERIES)
        if settings.connectomes:
            parts.append(_READY_CONNECTOMES)
    if settings.level == "group" or settings.translation.model_dir is not None:
        parts.append(_translation(settings.translation, known))
        if settings.functional.mark and settings.level == "group":
            parts.append(
                "Functional connectomes given to the model were denoised otherwise than those it "
                "was trained on. " + _strategy(settings.functional)
            )
    if settings.level == "group" and settings.regularization.searched:
        parts.append(_regularization(settings.regularization))
    text, cited = cite("\n\n".join(_unwrapped(part) for part in parts))
    listed = "\n".join(f"- {one.listed}" for one in cited)
    return Methods(f"# Methods\n\n{text}\n\n## References\n\n{listed}\n", as_bibtex(cited))


def _unwrapped(text: str) -> str:
    """A paragraph a line, whatever the lines are here."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _program(name: str, versions: Mapping[str, str]) -> str:
    """A program as the text calls it, with its version where that is known."""
    return f"*{name}* {versions[name]}" if name in versions else f"*{name}*"


def _introduction(
    settings: Settings, versions: Mapping[str, str], inputs: Sequence[tuple[str, str]]
) -> str:
    """Programs, inputs and atlases."""
    regions = "; ".join(
        f"*{name}* ({load_atlas(name).n_regions} regions) "
        + ATLAS_KEYS.get(name, f"({load_atlas(name).reference})")
        for name in settings.atlases
    )
    given = ", ".join(
        f"*{name}*"
        for name, _ in settings.atlas_files
        if settings.level == "participant" and name in settings.atlases
    )
    libraries = "; ".join(
        f"{_program(name, versions)} {key}"
        for name, key in (("NumPy", "[@harris2020]"), ("SciPy", "[@virtanen2020]"),
                          ("nilearn", "[@abraham2014]"))
        if name in versions
    )  # fmt: skip
    using = f", with {libraries}" if libraries else ""
    made_by = ", ".join(
        f"*{name}* {version}".rstrip() + PROGRAM_KEYS.get(name.lower(), "")
        for name, version in inputs
        if name != OWN_NAME
    )
    data = f"data preprocessed with {made_by}" if made_by else "preprocessed data"
    return (
        f"Connectomes were computed with *{OWN_NAME}* {__version__}, based on "
        f"{_program('Nipype', versions)} [@gorgolewski2011]{using}, from {data}, which were "
        "organised after BIDS [@gorgolewski2016]."
        + (f" Regions were those of {regions}." if regions else "")
        + (f" Own label images were given for {given}." if given else "")
    )


#: The atlas whose labels may be a participant's own, and whose they are by `Settings.coco439`.
OWN_ATLAS = "coco439"
_BUILT = """built from each participant's FreeSurfer outputs: areas of the HCP-MMP 1.0 annotation
in the voxels of the cortical ribbon, subcortical structures of the automatic segmentation (not
corrected by FSL FIRST), thalamic nuclei merged into 15 groups a side, brainstem nuclei of the
group's image, and the group's cerebellar lobules, filled into the participant's cerebellar
cortex"""
_CARRIED = "the published group image (most frequent label), carried over by the transforms"
_OWN_LABELS: dict[str, str] = {
    "subject": f"Labels of *{OWN_ATLAS}* were {_BUILT}.",
    "group": f"Labels of *{OWN_ATLAS}* were {_CARRIED}.",
    "auto": f"Labels of *{OWN_ATLAS}* were {_BUILT}; where FreeSurfer's outputs did not allow "
    f"that (the sidecars say so), they were {_CARRIED}.",
}

#: What is done to series that XCP-D denoised; how it did so stands in the sidecars.
_DENOISED = """Functional connectomes were computed from BOLD series that *XCP-D* had denoised and
filtered. Series were averaged over the voxels of each region that had signal, and correlated
(Pearson) over the volumes that XCP-D had not flagged; correlations of several runs were averaged,
weighted by their number of volumes. Partial correlations are the regularised inverse of these."""

#: What is done to series of regions that were given.
_READY_SERIES = """Functional connectomes were computed from series of regions that had been
denoised before; how, stands in their sidecars. The series were correlated (Pearson) over the
volumes that had not been left out; correlations of several runs were averaged, weighted by their
number of volumes. Partial correlations are the regularised inverse of these."""

_READY_CONNECTOMES = """Connectomes that had been measured before were taken as they were; what is
known of their making stands in their sidecars."""

#: What each strategy regresses and leaves out, in words.
STRATEGIES: dict[str, str] = {
    "simple": "24 motion terms (six parameters, their backward differences, and the squares of "
    "both) and the mean signals of white matter and of cerebrospinal fluid",
    "scrubbing": "24 motion terms (six parameters, their backward differences, and the squares of "
    "both) and the mean signals of white matter and of cerebrospinal fluid with their differences "
    "and squares; volumes with a framewise displacement above 0.5 mm or standardised DVARS above "
    "1.5, and segments between them of fewer than 5 volumes, were left out",
    "compcor": "24 motion terms (six parameters, their backward differences, and the squares of "
    "both) and all retained aCompCor columns of the combined mask of white matter and "
    "cerebrospinal fluid",
    "ica_aroma": "after non-aggressive ICA-AROMA [@pruim2015], the mean signals of white matter "
    "and of cerebrospinal fluid",
}


#: Where a lambda comes from, by what `FunctionalOptions.lambda_source` gives.
LAMBDA_WORDS: dict[str, str] = {
    "training value": "the value of the model's training data",
    "given": "fixed",
    "default": "chosen here, for no training value is published",
}


def _edge(options: FunctionalOptions) -> str:
    """Width of the filter's edge, in words."""
    if options.edge_rule == "fmriclean":
        return "3.6 s divided by the repetition time, in bins of the transform (fmriclean's rule)"
    return f"{options.high_pass_edge_hz:g} Hz"


def _strategy(options: FunctionalOptions) -> str:
    """How series were denoised by another pipeline than the recipe."""
    return f"""Series were denoised by the strategy *{options.denoising}* as *nilearn* defines it
[@wang2024], which is not the recipe of the model's training data:
{STRATEGIES[options.denoising]}. Cosines below 1/128 Hz were regressed with them, volumes that
were not yet steady left out; for the *gsr* flavor also the mean signal of the brain mask."""


def _functional(options: FunctionalOptions, atlases: tuple[str, ...]) -> str:
    from .bids.confounds import N_COMPCOR
    from .connectome.components import N_COMPONENTS
    from .connectome.motion import DISPLACEMENT_LIMIT_MM, GLOBAL_SIGNAL_LIMIT
    from .images.tissue_masks import MIN_ERODED_VOXELS

    components = {
        "exact": f"the mean and the first {N_COMPONENTS} principal components of eroded white "
        "matter and of eroded cerebrospinal fluid masks [@behzadi2007] (a mask whole where "
        f"erosion would have left fewer than {MIN_ERODED_VOXELS} voxels)",
        "columns": f"the first {N_COMPCOR} aCompCor columns of white matter and of "
        "cerebrospinal fluid from the confounds table [@behzadi2007]",
    }[options.compcor]
    gsr = {
        "grey_matter": "the mean signal of grey matter and its forward difference",
        "global_signal": "the mean signal of the brain mask and its forward difference",
    }[options.gsr_source]
    outliers = {
        "recipe": "volumes on both sides of a jump of the global signal (robust z above "
        f"{GLOBAL_SIGNAL_LIMIT:g}) or of the head (more than {DISPLACEMENT_LIMIT_MM:g} mm) "
        "[@whitfieldgabrieli2012]",
        "fmriprep": "the motion outliers of fMRIPrep",
    }[options.outliers]
    covered = "that held a signal"
    if options.min_coverage:
        covered += f"; regions with less than {options.min_coverage:.0%} of them count as missing"
    lambdas = ", ".join(
        f"{value:g} ({atlas}, {LAMBDA_WORDS[options.lambda_source(atlas)]})"
        for atlas, value in options.pcorr_lambda
        if atlas in atlases
    )
    if options.denoising == "recipe":
        denoised = f"""The first
{options.skip_s:g} s and {outliers} were flagged as
outliers. A constant, a linear trend, {components}, 24 motion terms (six parameters, their forward
differences, and the squares of both) [@satterthwaite2013], the transient at the start of the scan
and one column for each outlier were regressed from the region series; for the *gsr* flavor also
{gsr}. Residuals were then high-pass filtered at {options.high_pass_hz:g} Hz with a discrete cosine
filter whose edge is a Gaussian with a standard deviation of {_edge(options)}, ignoring
outliers."""
    else:
        denoised = _strategy(options)
    return f"""## Functional connectomes

BOLD series were averaged over the voxels of each region {covered}. {denoised}
Series were correlated (Pearson) over the volumes that were kept. Correlations of runs were
averaged with their numbers of kept volumes as weights. Partial
correlations were computed after adding lambda to the diagonal of the correlation matrix, with
lambda {lambdas}. Where fewer degrees of freedom than regions were left, none was computed unless
lambda was fixed."""


def _structural(options: StructuralOptions, versions: Mapping[str, str]) -> str:
    from kraken_bids.workflows.structural import CUTOFF, MAX_LENGTH_MM, TRACKINGS

    from .connectome.structural import TRAINING_STREAMLINES, TRAINING_VOXEL_MM3

    probabilistic, deterministic = TRACKINGS["ifod2act"], TRACKINGS["sdstream"]
    seeding = (
        "seeded in proportion to the total fibre density (quick settings, for trying out)"
        if options.sloppy
        else "seeded dynamically [@smith2015]"
    )
    tissues = FIVE_TISSUE_WORDS.get(options.five_tissue, "a given image")
    tissues += FIVE_TISSUE_KEYS.get(options.five_tissue, "")
    lengths = "; ".join(
        f"{one.algorithm}: {one.min_length_mm:g} to {MAX_LENGTH_MM:g} mm long, at most "
        f"{one.angle_degrees:g} degrees a step"
        + ("" if options.sloppy else f" of {one.step_mm:g} mm")
        for one in (probabilistic, deterministic)
    )
    weights = f" {_WEIGHTS}" if options.sift2 else ""
    return f"""## Structural connectomes

Response functions (dhollander) [@dhollander2016; @dhollander2019] and multi-tissue fibre
orientation distributions [@jeurissen2014] were estimated with {_program("MRtrix3", versions)}
[@tournier2019]; where a series had no volume without diffusion weighting, those of white matter
alone (tournier, csd) [@tournier2013; @tournier2007]. {options.n_streamlines:,} streamlines were
selected with iFOD2 [@tournier2010] under anatomical constraints [@smith2012], and as many with
SD_STREAM [@tournier2012], {seeding} ({lengths}; least FOD amplitude {CUTOFF:g}; seed of the random
numbers {options.random_seed}). Tissues for the constraints came
from {tissues}. Where ready tractograms or fibre orientation distributions were given, those were
taken, as the sidecars say. A streamline was assigned to the nearest region within
{options.assignment_radius_mm:g} mm of each end. Counts were scaled to {TRAINING_STREAMLINES:,}
streamlines and, for the flavors by volume, divided by the mean volume of the two regions in units
of {TRAINING_VOXEL_MM3:.7g} mm³.{weights}"""


#: Where tissues come from, in words, by what `StructuralOptions.five_tissue` names.
FIVE_TISSUE_WORDS: dict[str, str] = {
    "auto": "the image that QSIRecon had made (hsvs) where there was one, else from the "
    "participant's FreeSurfer segmentation, else from QSIPrep's tissue maps (the sidecars say "
    "which)",
    "freesurfer": "the participant's FreeSurfer segmentation",
    "hsvs": "the participant's FreeSurfer surfaces and segmentation (*5ttgen hsvs*)",
    "fsl": "the T1w image by FSL's FAST and FIRST (*5ttgen fsl*)",
    "maps": "QSIPrep's tissue maps, in which all grey matter counts as cortical",
}
#: What these rest on.
FIVE_TISSUE_KEYS: dict[str, str] = {
    "auto": " [@smith2020; @fischl2012]",
    "freesurfer": " [@fischl2012]",
    "hsvs": " [@smith2020; @fischl2012]",
    "fsl": " [@smith2002; @zhang2001; @patenaude2011; @smith2004]",
}
_WEIGHTS = (
    "Streamlines were weighed by SIFT2 [@smith2015] besides, and sums of their weights were "
    "scaled and divided likewise."
)


def _translation(options: TranslationOptions, versions: Mapping[str, str]) -> str:
    name = f"*{options.model_dir.name}*" if options.model_dir else ""
    if options.model_sha256:
        name += f" (SHA-256 {options.model_sha256[:12]}…)"
    fusions = ", ".join(f"{name} ({', '.join(members)})" for name, members in options.fusions)
    return f"""## Predicted connectomes

{_adapted(options)}, encoded into the common latent space of the Krakencoder [@jamison2025] {name}
with {_program("PyTorch", versions)} [@paszke2019], averaged there ({fusions}) and decoded into
{_targets(options)}."""


def _adapted(options: TranslationOptions) -> str:
    """How connectomes were brought to the training scale."""
    from .connectome.adaptation import ADAPTATIONS

    mode = options.adaptation
    if mode == "none":
        return "Measured connectomes were left as they are"
    if mode not in ADAPTATIONS:
        return (
            "Measured connectomes were adapted to the training data as fitted on a cohort before"
        )
    chosen = ADAPTATIONS[mode]
    how = [
        "scaled by the slope of the line fitted from the cohort's mean edges to those of the "
        "training data" if chosen.fits_line else "",
        "shifted so that the cohort's mean is the training mean" if chosen.shifts_mean else "",
    ]  # fmt: skip
    apart = f", each {options.adapt_by} on its own" if options.adapt_by else ""
    words = " and ".join(word for word in how if word)
    return f"Measured connectomes were adapted to the training data ({mode}: {words}{apart})"


def _targets(options: TranslationOptions) -> str:
    return ", ".join(options.predict_to) or "every flavor of the model"


def _regularization(options: RegularizationOptions) -> str:
    own = dict(options.targets)
    targets = ", ".join(
        f"{atlas} (own target)" if atlas in own else atlas for atlas in options.searched
    )
    return f"""Before that, partial correlations were computed again with one lambda an atlas for
the whole cohort: the one that brings the precision matrices nearest to a target, on average over
the cohort's correlations that had no missing regions and as many degrees of freedom as regions
or more. The target was the mean unregularised precision
matrix of the model's training participants where no other is named: {targets}."""
