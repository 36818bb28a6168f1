# SPDX-License-Identifier: MIT
"""The methods text, made from the settings that it speaks of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import __version__
from .atlases import load_atlas
from .boilerplate_structural import structural_methods
from .references import as_bibtex, cite
from .session_facts import SessionFacts
from .settings import (
    FunctionalOptions,
    RegularizationOptions,
    Settings,
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
    facts: SessionFacts | None = None,
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
    facts
        Of one session: what its inputs settle. Without them the text holds for a cohort: where
        inputs may differ, it says what was done with which.
    """
    known = versions or {}
    parts = [_introduction(settings, known, inputs)]
    if settings.level == "participant":
        parts += _measured(settings, known, facts)
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


def _measured(
    settings: Settings, versions: Mapping[str, str], facts: SessionFacts | None
) -> list[str]:
    """How connectomes were measured, a part each kind of input."""
    mrtrix = f"{_program('MRtrix3', versions)} [@tournier2019]"
    parts = []
    functional = "func" in settings.modalities and (facts is None or facts.has_functional)
    diffusion = "dwi" in settings.modalities and (facts is None or bool(facts.diffusion))
    own_labels = OWN_ATLAS in settings.atlases and OWN_ATLAS not in dict(settings.atlas_files)
    if own_labels and (facts is None or functional or diffusion):
        parts.append(_OWN_LABELS[(facts.labels if facts else "") or settings.coco439])
    is_averaged = facts is None or facts.is_averaged
    if functional and "xcp_d" in dict(settings.derivatives):
        parts.append(_DENOISED.format(averaged=_AVERAGED if is_averaged else ""))
    elif functional:
        parts.append(_functional(settings.functional, settings.atlases, is_averaged=is_averaged))
    if diffusion:
        parts.append(structural_methods(settings.structural, mrtrix, facts))
    if facts.has_series if facts else "timeseries" in dict(settings.derivatives):
        parts.append(_READY_SERIES.format(averaged=_AVERAGED if is_averaged else ""))
    if facts.has_connectomes if facts else settings.connectomes:
        parts.append(_READY_CONNECTOMES)
    return parts


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

_AVERAGED = "; correlations of several runs were averaged, weighted by their number of volumes"
#: What is done to series that XCP-D denoised; how it did so stands in the sidecars.
_DENOISED = """Functional connectomes were computed from BOLD series that *XCP-D* had denoised and
filtered. Series were averaged over the voxels of each region that had signal, and correlated
(Pearson) over the volumes that XCP-D had not flagged{averaged}. Partial correlations are the
regularised inverse of these."""

#: What is done to series of regions that were given.
_READY_SERIES = """Functional connectomes were computed from series of regions that had been
denoised before; how, stands in their sidecars. The series were correlated (Pearson) over the
volumes that had not been left out{averaged}. Partial correlations are the regularised inverse of
these."""

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


def _functional(options: FunctionalOptions, atlases: tuple[str, ...], *, is_averaged: bool) -> str:
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
        f"{options.lambda_of(atlas):g} ({atlas}, {LAMBDA_WORDS[options.lambda_source(atlas)]})"
        for atlas in atlases
    )
    sources = {options.lambda_source(atlas) for atlas in atlases}
    undetermined = (
        ""
        if sources == {"given"}
        else " Where fewer degrees of freedom than regions were left, none was computed unless "
        "lambda was fixed."
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
Series were correlated (Pearson) over the volumes that were kept{_AVERAGED if is_averaged else ""}.
Partial correlations were computed after adding lambda to the diagonal of the correlation matrix,
with lambda {lambdas}.{undetermined}"""


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
