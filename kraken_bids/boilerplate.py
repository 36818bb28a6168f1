# SPDX-License-Identifier: MIT
"""The methods text, made from the settings that it speaks of."""

from __future__ import annotations

from . import __version__
from .atlases import load_atlas
from .settings import FunctionalOptions, Settings, StructuralOptions, TranslationOptions

#: Volume of a voxel of the diffusion scans that the model was trained on, in mm3 (1.25 mm).
TRAINING_VOXEL_MM3 = 1.953125


def methods_text(settings: Settings) -> str:
    """Write what was done, for a paper, as Markdown.

    Parameters
    ----------
    settings
        Those of the run; every number of the text is one of them.
    """
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
        if "func" in settings.modalities:
            parts.append(_functional(settings.functional, settings.atlases))
        if "dwi" in settings.modalities:
            parts.append(_structural(settings.structural))
    if settings.level == "group" or settings.translation.model_dir is not None:
        parts.append(_translation(settings.translation))
    parts.append("## References\n\n" + REFERENCES)
    return "\n\n".join(parts) + "\n"


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
    lambdas = ", ".join(
        f"{value:g} ({atlas})" for atlas, value in options.pcorr_lambda if atlas in atlases
    )
    return f"""## Functional connectomes

BOLD series were averaged over the voxels of each region that held a signal. The first
{options.skip_s:g} s and volumes around jumps of the global signal or of the head were flagged as
outliers. A constant, a linear trend, {components}, 24 motion terms (six parameters, their forward
differences, and the squares of both), the transient at the start of the scan and one column for
each outlier were regressed from the region series; for the *gsr* flavor also {gsr}. Residuals were
then high-pass filtered at {options.high_pass_hz:g} Hz with a discrete cosine filter whose edge is
a Gaussian with a standard deviation of {options.high_pass_edge_hz:g} Hz, ignoring outliers.
Correlations of runs were averaged with their numbers of kept volumes as weights. Partial
correlations were computed after adding lambda to the diagonal of the correlation matrix, with
lambda {lambdas}."""


def _structural(options: StructuralOptions) -> str:
    seeding = (
        "seeded in proportion to the total fibre density (quick settings, for trying out)"
        if options.sloppy
        else "seeded dynamically"
    )
    return f"""## Structural connectomes

Response functions and multi-tissue fibre orientation distributions were estimated with
*MRtrix3*. {options.n_streamlines:,} streamlines were selected with iFOD2 under anatomical
constraints, and as many with SD_STREAM, {seeding}. A streamline was assigned to the nearest region
within {options.assignment_radius_mm:g} mm of each end. Counts were scaled to 5 million streamlines
and divided by the mean volume of the two regions in units of {TRAINING_VOXEL_MM3} mm³."""


def _translation(options: TranslationOptions) -> str:
    name = options.model_dir.name if options.model_dir else "Krakencoder"
    fusions = ", ".join(f"{name} ({', '.join(members)})" for name, members in options.fusions)
    mode = options.adaptation
    adapted = "left as they are" if mode == "none" else f"adapted to the training data ({mode})"
    return f"""## Predicted connectomes

Measured connectomes were {adapted}, encoded into the common latent space of the Krakencoder
*{name}*, averaged there ({fusions}) and decoded into every flavor of the model."""


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
