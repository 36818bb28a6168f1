# SPDX-License-Identifier: MIT
"""Connectome flavors: kind, atlas and processing, their names and their BIDS labels."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UsageError, suggest


@dataclass(frozen=True)
class Recipe:
    """One way to compute a connectome, whatever the atlas.

    Parameters
    ----------
    kind
        First part of the flavor's name, such as ``FCcorr``.
    processing
        Last part of the flavor's name, such as ``hpfgsr``.
    meas
        Label of the BIDS entity ``meas-``.
    measure, units
        The sidecar's ``RelationshipMeasure`` and ``MeasureUnits``.
    description
        The sidecar's ``MeasureDescription``.
    is_measured
        Whether it can be measured here, and not only be read and predicted.
    other_meas
        Label of the entity in files of the reference program, where it is another.
    """

    kind: str
    processing: str
    meas: str
    measure: str
    units: str
    description: str
    is_measured: bool = False
    other_meas: str = ""

    @property
    def group(self) -> str:
        """``FC`` or ``SC``."""
        return self.kind[:2]

    @property
    def datatype(self) -> str:
        """BIDS folder: ``func`` or ``dwi``."""
        return "func" if self.group == "FC" else "dwi"


#: How the series of a functional connectome were filtered: part of ``meas-``, and in words.
_FILTERS = {
    "hpf": ("HPF", "high-pass filtered"),
    "bpf": ("BPF", "band-pass filtered"),
    "nofilt": ("NF", "not filtered in time"),
}
_GSR = ", grey-matter signal regressed"


def _fc(kind: str, measure: str, *, gsr: str = "") -> tuple[Recipe, ...]:
    """Recipes of a kind with each filter; those with the high-pass filter are measured."""
    return tuple(
        Recipe(kind, f"{name}{gsr}", f"{kind}{label}{gsr.upper()}", measure,
               "correlation coefficient", f"denoised series, {text}{_GSR if gsr else ''}",
               is_measured=name == "hpf")
        for name, (label, text) in _FILTERS.items()
    )  # fmt: skip


def _sc(kind: str, algorithm: str) -> tuple[Recipe, ...]:
    count = f"streamlines of {algorithm} that end in both regions, scaled to 5 million selected"
    volume = "divided by the mean volume of the two regions in voxels of 1.25 mm"
    icv = (
        "divided by the volumes of the two regions, corrected for intracranial volume in a way "
        "that is not published"
    )
    weights = (
        f"sum of SIFT2 weights of {algorithm} streamlines that end in both regions, scaled to 5 "
        "million selected"
    )
    normalised, weighted = "volume-normalised streamline count", "SIFT2-weighted streamline count"
    corrected = "corrected for intracranial volume"
    return (
        Recipe(kind, "count", f"{kind}Count", "streamline count", "count", count,
               is_measured=True),
        Recipe(kind, "volnorm", f"{kind}VN", normalised, "count/voxel", f"{count}, {volume}",
               is_measured=True),
        Recipe(kind, "volnormicv", f"{kind}VNICV", f"{normalised}, {corrected}", "au",
               f"{count}, {icv}"),
        Recipe(kind, "sift2", f"{kind}SIFT2", weighted, "au", weights,
               is_measured=True, other_meas=f"{kind}SiftCount"),
        Recipe(kind, "sift2volnorm", f"{kind}SIFT2VN", f"volume-normalised {weighted}",
               "au/voxel", f"{weights}, {volume}", is_measured=True,
               other_meas=f"{kind}SiftVN"),
        Recipe(kind, "sift2volnormicv", f"{kind}SIFT2VNICV",
               f"volume-normalised {weighted}, {corrected}", "au", f"{weights}, {icv}"),
    )  # fmt: skip


#: Every recipe by ``(kind, processing)``: the one table of connectome types.
RECIPES: dict[tuple[str, str], Recipe] = {
    (recipe.kind, recipe.processing): recipe
    for recipe in (
        *_fc("FCcorr", "Pearson correlation"),
        *_fc("FCcorr", "Pearson correlation", gsr="gsr"),
        *_fc("FCpcorr", "regularised partial correlation"),
        *_sc("SCifod2act", "iFOD2 with anatomical constraints"),
        *_sc("SCsdstream", "SD_STREAM"),
    )
}

#: Those that are measured here; the others are only read and predicted.
MEASURED_RECIPES: tuple[tuple[str, str], ...] = tuple(
    key for key, recipe in RECIPES.items() if recipe.is_measured
)

#: Other spellings of the parts of a flavor's name, all of them the reference program's.
ALIASES: dict[str, str] = {
    "FCcov": "FCcorr",
    "cocommpsuit439": "coco439",
    "sift2count": "sift2",
}

#: Recipes of the published fifteen-flavor model, each combined with three atlases.
CORE_RECIPES: tuple[tuple[str, str], ...] = (
    ("FCcorr", "hpf"),
    ("FCcorr", "hpfgsr"),
    ("FCpcorr", "hpf"),
    ("SCifod2act", "volnorm"),
    ("SCsdstream", "volnorm"),
)
CORE_ATLASES: tuple[str, ...] = ("fs86", "shen268", "coco439")


@dataclass(frozen=True, order=True)
class Flavor:
    """One connectome type: kind, atlas and processing.

    Examples
    --------
    >>> Flavor.parse("FCcorr_fs86_hpfgsr").meas
    'FCcorrHPFGSR'
    """

    kind: str
    atlas: str
    processing: str

    def __str__(self) -> str:
        return f"{self.kind}_{self.atlas}_{self.processing}"

    @property
    def recipe(self) -> Recipe:
        """The row of `RECIPES`."""
        return RECIPES[self.kind, self.processing]

    @property
    def group(self) -> str:
        """``FC`` or ``SC``."""
        return self.recipe.group

    @property
    def datatype(self) -> str:
        """BIDS folder: ``func`` or ``dwi``."""
        return self.recipe.datatype

    @property
    def meas(self) -> str:
        """Label of the BIDS entity ``meas-``."""
        return self.recipe.meas

    @property
    def label(self) -> str:
        """The flavor as one BIDS label (letters and digits only), such as ``FCcorrHPFfs86``."""
        return f"{self.meas}{self.atlas}"

    @classmethod
    def parse(cls, name: str) -> Flavor:
        """Read ``<kind>_<atlas>_<processing>``, of which `ALIASES` has other spellings.

        Raises
        ------
        UsageError
            If the kind or processing is unknown. Any atlas is accepted: whether a model has it
            is the model's matter.
        """
        parts = [ALIASES.get(part, part) for part in name.split("_")]
        if len(parts) == 3 and (parts[0], parts[2]) in RECIPES and parts[1]:
            return cls(*parts)
        raise UsageError(
            f"flavor '{name}' is unknown",
            fix=suggest(name, (str(flavor) for flavor in CORE_FLAVORS)) + ".",
        )

    @classmethod
    def from_bids(cls, atlas: str, meas: str) -> Flavor:
        """Read the BIDS labels of ``atlas-`` and ``meas-``, the reference program's included.

        Raises
        ------
        UsageError
            If ``meas`` is not that of a known recipe.
        """
        for recipe in RECIPES.values():
            if meas.lower() in {recipe.meas.lower(), recipe.other_meas.lower()} - {""}:
                return cls(recipe.kind, atlas, recipe.processing)
        known = (recipe.meas for recipe in RECIPES.values())
        raise UsageError(f"'meas-{meas}' is unknown", fix=suggest(meas, known) + ".")


CORE_FLAVORS: tuple[Flavor, ...] = tuple(
    Flavor(kind, atlas, processing) for atlas in CORE_ATLASES for kind, processing in CORE_RECIPES
)

#: Correlation with the training mean below which something is wrong, by kind and processing. Long
#: scans reach 0.84 to 0.96; short ones lose with their noise, partial correlations most. Measured
#: on simulated participants, all 15 flavors: 7 minutes give 0.35 (FCpcorr of coco439) to 0.95,
#: regions in random order or shifted by one at most 0.12. Flavors of one modality are too alike
#: to be told apart by this.
LEAST_SIMILARITY: dict[tuple[str, str], float] = {
    ("FCcorr", "hpf"): 0.4,
    ("FCcorr", "hpfgsr"): 0.4,
    ("FCpcorr", "hpf"): 0.15,
    ("SCifod2act", "volnorm"): 0.5,
    ("SCsdstream", "volnorm"): 0.5,
}
