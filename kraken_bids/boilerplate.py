# SPDX-License-Identifier: MIT
"""The methods text, made from the settings that it speaks of."""

from __future__ import annotations

from . import __version__
from .atlases import load_atlas
from .settings import (
    FunctionalOptions,
    RegularizationOptions,
    Settings,
    StructuralOptions,
    TranslationOptions,
)

#: Volume of a voxel of the diffusion scans that the model was trained on, in mm3 (1.25 mm).
TRAINING_VOXEL_MM3 = 1.953125


def methods_text(settings: Settings) -> str:
    """Write what was done, for a paper, as Markdown.

    Parameters
    ----------
    settings
        Those of the run; every number of the text is one of them.
    """
    references = REFERENCES
    parts = [
        "# Methods",
        f"Connectomes were computed with *kraken-bids* {__version__}, based on *Nipype*, "
        "from preprocessed data. Regions were those of "
        + "; ".join(
            f"*{name}* ({load_atlas(name).n_regions} regions: {load_atlas(name).reference})"
            for name in settings.atlases
        )
        + ".",
    ]
    if settings.level == "participant":
        if OWN_ATLAS in settings.atlases and OWN_ATLAS not in dict(settings.atlas_files):
            parts.append(_OWN_LABELS[settings.coco439])
        if "func" in settings.modalities and "xcp_d" in dict(settings.derivatives):
            parts.append(_DENOISED)
        elif "func" in settings.modalities:
            parts.append(_functional(settings.functional, settings.atlases))
        if "dwi" in settings.modalities:
            parts.append(_structural(settings.structural))
            references += _structural_references(settings.structural)
        if "timeseries" in dict(settings.derivatives):
            parts.append(_READY_SERIES)
        if settings.connectomes:
            parts.append(_READY_CONNECTOMES)
    if settings.level == "group" or settings.translation.model_dir is not None:
        parts.append(_translation(settings.translation))
        if settings.functional.mark and settings.level == "group":
            parts.append(
                "Functional connectomes given to the model were denoised otherwise than those it "
                "was trained on. " + _strategy(settings.functional)
            )
    if settings.level == "group" and settings.regularization.searched:
        parts.append(_regularization(settings.regularization))
    parts.append("## References\n\n" + references)
    return "\n\n".join(parts) + "\n"


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
    "ica_aroma": "after non-aggressive ICA-AROMA, the mean signals of white matter and of "
    "cerebrospinal fluid",
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
    return f"""Series were denoised by the strategy *{options.denoising}* as *nilearn* defines it,
which is not the recipe of the model's training data: {STRATEGIES[options.denoising]}. Cosines
below 1/128 Hz were regressed with them, volumes that were not yet steady left out; for the *gsr*
flavor also the mean signal of the brain mask."""


def _functional(options: FunctionalOptions, atlases: tuple[str, ...]) -> str:
    components = {
        "exact": "the mean and the first four principal components of eroded white matter and of "
        "eroded cerebrospinal fluid masks",
        "columns": "the first five aCompCor columns of white matter and of cerebrospinal fluid "
        "from the confounds table",
    }[options.compcor]
    gsr = {
        "grey_matter": "the mean signal of grey matter and its forward difference",
        "global_signal": "the mean signal of the brain mask and its forward difference",
    }[options.gsr_source]
    outliers = {
        "recipe": "volumes around jumps of the global signal or of the head",
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
differences, and the squares of both), the transient at the start of the scan and one column for
each outlier were regressed from the region series; for the *gsr* flavor also {gsr}. Residuals were
then high-pass filtered at {options.high_pass_hz:g} Hz with a discrete cosine filter whose edge is
a Gaussian with a standard deviation of {_edge(options)}, ignoring outliers."""
    else:
        denoised = _strategy(options)
    return f"""## Functional connectomes

BOLD series were averaged over the voxels of each region {covered}. {denoised}
Correlations of runs were averaged with their numbers of kept volumes as weights. Partial
correlations were computed after adding lambda to the diagonal of the correlation matrix, with
lambda {lambdas}. Where fewer degrees of freedom than regions were left, none was computed unless
lambda was fixed."""


def _structural(options: StructuralOptions) -> str:
    seeding = (
        "seeded in proportion to the total fibre density (quick settings, for trying out)"
        if options.sloppy
        else "seeded dynamically"
    )
    tissues = FIVE_TISSUE_WORDS.get(options.five_tissue, "a given image")
    weights = f" {_WEIGHTS}" if options.sift2 else ""
    return f"""## Structural connectomes

Response functions (dhollander) and multi-tissue fibre orientation distributions were estimated
with *MRtrix3*; where a series had no volume without diffusion weighting, those of white matter
alone (tournier, csd). {options.n_streamlines:,} streamlines were selected with iFOD2 under
anatomical constraints, and as many with SD_STREAM, {seeding}. Tissues for the constraints came
from {tissues}. Where ready tractograms or fibre orientation distributions were given, those were
taken, as the sidecars say. A streamline was assigned to the nearest region within
{options.assignment_radius_mm:g} mm of each end. Counts were scaled to 5 million streamlines and
divided by the mean volume of the two regions in units of {TRAINING_VOXEL_MM3} mm³.{weights}"""


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
_WEIGHTS = (
    "Streamlines were weighed by SIFT2 besides, and sums of their weights were scaled and divided "
    "likewise."
)


def _translation(options: TranslationOptions) -> str:
    name = options.model_dir.name if options.model_dir else "Krakencoder"
    fusions = ", ".join(f"{name} ({', '.join(members)})" for name, members in options.fusions)
    mode = options.adaptation
    adapted = "left as they are" if mode == "none" else f"adapted to the training data ({mode})"
    return f"""## Predicted connectomes

Measured connectomes were {adapted}, encoded into the common latent space of the Krakencoder
*{name}*, averaged there ({fusions}) and decoded into every flavor of the model."""


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


REFERENCES = """\
- Jamison KW et al. Krakencoder: a unified brain connectome translation and fusion tool. Nature
  Methods (2025).
- Gorgolewski K et al. Nipype: a flexible, lightweight and extensible neuroimaging data processing
  framework in Python. Front Neuroinform 5:13 (2011).
- Tournier JD et al. MRtrix3: a fast, flexible and open software framework for medical image
  processing and visualisation. NeuroImage 202:116137 (2019).
- Behzadi Y et al. A component based noise correction method (CompCor) for BOLD and perfusion based
  fMRI. NeuroImage 37:90-101 (2007).
- Gorgolewski K et al. The brain imaging data structure. Sci Data 3:160044 (2016)."""


#: What the structural branch rests on.
_TRACKING_REFERENCES = """
- Dhollander T et al. Unsupervised 3-tissue response function estimation from single-shell or
  multi-shell diffusion MR data without a co-registered T1 image. ISMRM Workshop on Breaking the
  Barriers of Diffusion MRI (2016).
- Jeurissen B et al. Multi-tissue constrained spherical deconvolution for improved analysis of
  multi-shell diffusion MRI data. NeuroImage 103:411-426 (2014).
- Tournier JD et al. Robust determination of the fibre orientation distribution in diffusion MRI:
  non-negativity constrained super-resolved spherical deconvolution. NeuroImage 35:1459-1472
  (2007).
- Smith RE et al. Anatomically-constrained tractography: improved diffusion MRI streamlines
  tractography through effective use of anatomical information. NeuroImage 62:1924-1938 (2012)."""
_SIFT2_REFERENCE = """
- Smith RE et al. SIFT2: enabling dense quantitative assessment of brain white matter connectivity
  using streamlines tractography. NeuroImage 119:338-351 (2015)."""
_FIVE_TISSUE_REFERENCES: dict[str, str] = {
    "hsvs": """
- Smith RE et al. Hybrid surface-volume segmentation for improved anatomically-constrained
  tractography. OHBM (2020).""",
    "fsl": """
- Zhang Y et al. Segmentation of brain MR images through a hidden Markov random field model and the
  expectation-maximization algorithm. IEEE Trans Med Imaging 20:45-57 (2001).
- Patenaude B et al. A Bayesian model of shape and appearance for subcortical brain segmentation.
  NeuroImage 56:907-922 (2011).""",
}


def _structural_references(options: StructuralOptions) -> str:
    weighed = _SIFT2_REFERENCE if options.sift2 else ""
    return _TRACKING_REFERENCES + weighed + _FIVE_TISSUE_REFERENCES.get(options.five_tissue, "")
