# SPDX-License-Identifier: MIT
"""The methods text's part on structural connectomes."""

from __future__ import annotations

from .session_facts import GIVEN, MULTI_TISSUE, NONE, UNKNOWN, WHITE_MATTER, SessionFacts
from .settings import StructuralOptions

#: Where tissues come from, in words, by what `StructuralOptions.five_tissue` or
#: `kraken_bids.session_facts.DiffusionFacts.tissues` names.
FIVE_TISSUE_WORDS: dict[str, str] = {
    "auto": "the image that QSIRecon had made (hsvs) where there was one, else from the "
    "participant's FreeSurfer segmentation, else from QSIPrep's tissue maps (the sidecars say "
    "which)",
    "qsirecon": "the image that QSIRecon had made (*5ttgen hsvs*)",
    "freesurfer": "the participant's FreeSurfer segmentation",
    "hsvs": "the participant's FreeSurfer surfaces and segmentation (*5ttgen hsvs*)",
    "fsl": "the T1w image by FSL's FAST and FIRST (*5ttgen fsl*)",
    "maps": "QSIPrep's tissue maps, in which all grey matter counts as cortical",
}
#: What these rest on.
FIVE_TISSUE_KEYS: dict[str, str] = {
    "auto": " [@smith2020; @fischl2012]",
    "qsirecon": " [@smith2020; @fischl2012]",
    "freesurfer": " [@fischl2012]",
    "hsvs": " [@smith2020; @fischl2012]",
    "fsl": " [@smith2002; @zhang2001; @patenaude2011; @smith2004]",
}
#: Algorithms by the name of their streamlines, as a text calls them.
_ALGORITHMS: dict[str, str] = {
    "ifod2act": "iFOD2 [@tournier2010] under anatomical constraints [@smith2012]",
    "sdstream": "SD_STREAM [@tournier2012]",
}
#: Fibre orientation distributions of any series, and of one of which it is known.
_FODS = """Response functions (dhollander) [@dhollander2016; @dhollander2019] and multi-tissue
fibre orientation distributions [@jeurissen2014] were estimated with {mrtrix}; where a series had
no volume without diffusion weighting, those of white matter alone (tournier, csd) [@tournier2013;
@tournier2007]."""
_FODS_OF: dict[str, str] = {
    MULTI_TISSUE: """Response functions (dhollander) [@dhollander2016; @dhollander2019] and
multi-tissue fibre orientation distributions [@jeurissen2014] were estimated with {mrtrix}.""",
    WHITE_MATTER: """As the series had no volume without diffusion weighting, the response function
(tournier) [@tournier2013] and the fibre orientation distributions (csd) [@tournier2007] were those
of white matter alone, estimated with {mrtrix}.""",
    GIVEN: """Fibre orientation distributions of white matter had been estimated before; how,
stands in the sidecars.""",
}
#: Where the sentence above names MRtrix3 already.
_ESTIMATED = {name for name, text in _FODS_OF.items() if "{mrtrix}" in text} | {UNKNOWN}
_READY = (
    "Where ready tractograms or fibre orientation distributions were given, those were taken, as "
    "the sidecars say."
)
_WEIGHTS = (
    "Streamlines were weighed by SIFT2 [@smith2015] besides, and sums of their weights were "
    "scaled and divided likewise."
)


def structural_methods(options: StructuralOptions, mrtrix: str, facts: SessionFacts | None) -> str:
    """Write how streamlines were made and counted.

    Parameters
    ----------
    options
        Those of the run.
    mrtrix
        MRtrix3, as the text calls it, with its version.
    facts
        Of one session; without them the text holds for a cohort.
    """
    from .connectome.structural import TRAINING_STREAMLINES, TRAINING_VOXEL_MM3

    # Runs of one session that were not made alike are told of as a cohort is.
    alike = facts.diffusion[0] if facts and len(facts.diffusion) == 1 else None
    weights = f" {_WEIGHTS}" if options.sift2 and (not alike or alike.fods != NONE) else ""
    if alike is None:
        made = [
            _FODS.format(mrtrix=mrtrix),
            _tracked(options, tuple(_ALGORITHMS)),
            _tissues(options.five_tissue),
            _READY,
        ]
    else:
        ready = " and ".join(_ALGORITHMS[name] for name in alike.ready)
        unnamed = "" if alike.fods in _ESTIMATED else mrtrix
        made = [
            "" if alike.fods == NONE else _FODS_OF.get(alike.fods, _FODS).format(mrtrix=mrtrix),
            _tracked(options, alike.tracked, unnamed) if alike.tracked else "",
            _tissues(alike.tissues) if alike.tissues else "",
            f"Tractograms of {ready} had been made before; how, stands in the sidecars."
            if ready
            else "",
        ]
    return f"""## Structural connectomes

{" ".join(sentence for sentence in made if sentence)}
A streamline was assigned to the nearest region within {options.assignment_radius_mm:g} mm of each
end. Counts were scaled to {TRAINING_STREAMLINES:,} streamlines and, for the flavors by
volume, divided by the mean volume of the two regions in units of {TRAINING_VOXEL_MM3:.7g}
mm³.{weights}"""


def _tracked(options: StructuralOptions, algorithms: tuple[str, ...], mrtrix: str = "") -> str:
    """How streamlines were tracked; with the program, where it was not named before."""
    from kraken_bids.workflows.structural import CUTOFF, MAX_LENGTH_MM, TRACKINGS

    seeding = (
        "seeded in proportion to the total fibre density (quick settings, for trying out)"
        if options.sloppy
        else "seeded dynamically [@smith2015]"
    )
    chosen = [TRACKINGS[name] for name in algorithms]
    lengths = "; ".join(
        f"{one.algorithm}: {one.min_length_mm:g} to {MAX_LENGTH_MM:g} mm long, at most "
        f"{one.angle_degrees:g} degrees a step"
        + ("" if options.sloppy else f" of {one.step_mm:g} mm")
        for one in chosen
    )
    names = ", and as many with ".join(_ALGORITHMS[name] for name in algorithms)
    using = f", with {mrtrix}" if mrtrix else ""
    return f"""{options.n_streamlines:,} streamlines were selected with {names}, {seeding}{using}
({lengths}; least FOD amplitude {CUTOFF:g}; seed of the random numbers {options.random_seed})."""


def _tissues(source: str) -> str:
    """What the constraints of tracking were made from."""
    words = FIVE_TISSUE_WORDS.get(source, "a given image") + FIVE_TISSUE_KEYS.get(source, "")
    return f"Tissues for the constraints came from {words}."
