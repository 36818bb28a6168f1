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
    """

    kind: str
    processing: str
    meas: str
    measure: str
    units: str
    description: str

    @property
    def group(self) -> str:
        """``FC`` or ``SC``."""
        return self.kind[:2]

    @property
    def datatype(self) -> str:
        """BIDS folder: ``func`` or ``dwi``."""
        return "func" if self.group == "FC" else "dwi"


def _sc(kind: str, algorithm: str) -> tuple[Recipe, ...]:
    count = f"streamlines of {algorithm} that end in both regions, scaled to 5 million selected"
    volume = "divided by the mean volume of the two regions in voxels of 1.25 mm"
    weights = f"sum of SIFT2 weights of {algorithm} streamlines that end in both regions"
    return (
        Recipe(kind, "count", f"{kind}Count", "streamline count", "count", count),
        Recipe(kind, "volnorm", f"{kind}VN", "volume-normalised streamline count",
               "count/voxel", f"{count}, {volume}"),
        Recipe(kind, "sift2", f"{kind}SIFT2", "SIFT2-weighted streamline count", "au", weights),
        Recipe(kind, "sift2volnorm", f"{kind}SIFT2VN",
               "volume-normalised SIFT2-weighted streamline count", "au/voxel",
               f"{weights}, {volume}"),
    )  # fmt: skip


#: Every recipe by ``(kind, processing)``: the one table of connectome types.
RECIPES: dict[tuple[str, str], Recipe] = {
    (recipe.kind, recipe.processing): recipe
    for recipe in (
        Recipe("FCcorr", "hpf", "FCcorrHPF", "Pearson correlation", "correlation coefficient",
               "denoised series, high-pass filtered"),
        Recipe("FCcorr", "hpfgsr", "FCcorrHPFGSR", "Pearson correlation",
               "correlation coefficient",
               "denoised series, high-pass filtered, grey-matter signal regressed"),
        Recipe("FCpcorr", "hpf", "FCpcorrHPF", "regularised partial correlation",
               "correlation coefficient", "denoised series, high-pass filtered"),
        *_sc("SCifod2act", "iFOD2 with anatomical constraints"),
        *_sc("SCsdstream", "SD_STREAM"),
    )
}  # fmt: skip

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
        """Read ``<kind>_<atlas>_<processing>``.

        Raises
        ------
        UsageError
            If the kind or processing is unknown. Any atlas is accepted: whether a model has it
            is the model's matter.
        """
        parts = name.split("_")
        if len(parts) == 3 and (parts[0], parts[2]) in RECIPES and parts[1]:
            return cls(*parts)
        raise UsageError(
            f"flavor '{name}' is unknown",
            fix=suggest(name, (str(flavor) for flavor in CORE_FLAVORS)) + ".",
        )

    @classmethod
    def from_bids(cls, atlas: str, meas: str) -> Flavor:
        """Read the BIDS labels of ``atlas-`` and ``meas-``.

        Raises
        ------
        UsageError
            If ``meas`` is not that of a known recipe.
        """
        for recipe in RECIPES.values():
            if recipe.meas.lower() == meas.lower():
                return cls(recipe.kind, atlas, recipe.processing)
        known = (recipe.meas for recipe in RECIPES.values())
        raise UsageError(f"'meas-{meas}' is unknown", fix=suggest(meas, known) + ".")


CORE_FLAVORS: tuple[Flavor, ...] = tuple(
    Flavor(kind, atlas, processing) for atlas in CORE_ATLASES for kind, processing in CORE_RECIPES
)
