# SPDX-License-Identifier: MIT
"""A participant's own label image of coco439, from FreeSurfer's files and the group's image.

Layers, of which the later ones win where they meet: areas of the cortex in its ribbon, subcortical
structures, brainstem nuclei, thalamic nuclei, cerebellum. Brainstem and cerebellum come from the
group's image, carried into the participant's space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..errors import InputError
from ..plan import OwnLabels
from .cortical_areas import Labels, label_ribbon, read_surface_areas, volume_areas
from .region_sizes import check_order, cortical_regions, unusual_sizes
from .resample import label_values, open_image, region_volumes, resample_together

#: Subcortical structures by FreeSurfer's code. The training data had them from FSL FIRST.
SUBCORTEX: dict[int, str] = {
    17: "Hippocampus_L", 18: "Amygdala_L", 11: "Caudate_L", 12: "Putamen_L", 13: "Pallidum_L",
    26: "N_Acc_L", 53: "Hippocampus_R", 54: "Amygdala_R", 50: "Caudate_R", 51: "Putamen_R",
    52: "Pallidum_R", 58: "N_Acc_R",
}  # fmt: skip
#: Thalamic nuclei (the last two digits of FreeSurfer's code) by the region they belong to.
THALAMUS: dict[str, tuple[int, ...]] = {
    "AV": (3,), "LP": (10,), "VA": (26, 27), "VL": (28, 29), "VPL": (33,),
    "IL": (4, 5, 6, 17, 18), "Re": (16,), "MDm": (13,), "MDl": (12,), "LGN": (9,), "MGN": (15,),
    "PuI": (21,), "PuM": (23,), "PuA": (20,), "PuL": (22,),
}  # fmt: skip
#: First code of the nuclei of a side. All others below the next hundred (LD, L-Sg, Pt, R, VM, PaV)
#: are no region: their voxels go to the nearest nucleus that is part of one.
THALAMUS_CODES: dict[str, int] = {"L": 8100, "R": 8200}
#: Regions taken from the group's image as they are.
BRAINSTEM = ("VTA_L", "VTA_R", "SN_pc_L", "SN_pc_R", "SN_pr_L", "SN_pr_R", "Red_N_L", "Red_N_R",
             "LC_L", "LC_R", "Raphe_D", "Raphe_M")  # fmt: skip
#: Cerebellar cortex by FreeSurfer's code, and what its regions' names begin with. FreeSurfer
#: splits the vermis between both sides.
CEREBELLUM: dict[int, tuple[str, ...]] = {
    8: ("Cbm_Left_", "Cbm_Vermis_"),
    47: ("Cbm_Right_", "Cbm_Vermis_"),
}
#: Codes about which the group's image is needed: brainstem, ventral DC and cerebellum.
HIND_CODES = (16, 28, 60, 7, 8, 46, 47)
#: Ribbon codes of ``ribbon.mgz``, and those of the cortex in ``aparc+aseg.mgz``.
RIBBON_CODES: dict[str, int] = {"lh": 3, "rh": 42}
CORTEX_CODES: dict[str, tuple[int, int]] = {"lh": (1000, 2000), "rh": (2000, 3000)}

#: Distance about the brainstem and the cerebellum in which the group's image is looked at, in mm.
MARGIN_MM = 15.0


@dataclass(frozen=True)
class OwnImage:
    """A participant's label image, and what is to be said of it.

    Parameters
    ----------
    labels, affine
        (X, Y, Z), region indices; (4, 4), voxel indices to RAS mm.
    missing
        Names of regions without a voxel.
    unusual
        Size relative to the group's, by name of region, where that is unusual.
    unlabelled
        Share of the cortical ribbon that is in no area: it lies at the medial wall.
    """

    labels: Labels
    affine: NDArray[np.float64]
    missing: tuple[str, ...]
    unusual: dict[str, float]
    unlabelled: float


def build_own_labels(own: OwnLabels, *, names: Sequence[str]) -> OwnImage:
    """Build the label image of coco439 in a participant's FreeSurfer space.

    Parameters
    ----------
    own
        The files.
    names
        (439,), names of the regions in the atlas's order.

    Raises
    ------
    InputError
        If a file is damaged, or does not fit the others.
    """
    files = dict(own.files)
    grid = open_image(files["grid"])
    affine = np.asarray(grid.affine, dtype=np.float64)
    aseg, nuclei = (_on_grid(files[role], grid) for role in ("aseg", "thalamus"))
    ribbon = _ribbons(files["grid"])
    cortex = _cortex(own, grid, ribbon=ribbon, names=names)
    group = open_image(own.group_file)
    carried = _carry_group(own, group, aseg=aseg, affine=affine)
    layers = [
        cortex,
        subcortex_labels(aseg, names=names),
        keep_regions(carried, BRAINSTEM, names=names),
        thalamus_labels(nuclei, names=names, affine=affine, where=str(files["thalamus"])),
        cerebellum_labels(aseg, carried, names=names, affine=affine),
    ]
    labels = overlay(layers)
    _check_sides(labels, affine, names=names, where=str(files["grid"]))
    own_mm3 = region_volumes(labels, len(names), affine=affine)
    group_mm3 = region_volumes(label_values(group), len(names), affine=group.affine)
    if own.cortex == "volume":
        check_order(own_mm3, group_mm3, names=names, where=str(files["cortex"]))
    in_ribbon = np.logical_or.reduce(list(ribbon.values()))
    return OwnImage(
        labels=labels,
        affine=affine,
        missing=tuple(name for name, size in zip(names, own_mm3, strict=True) if not size),
        unusual=unusual_sizes(own_mm3, group_mm3, names=names),
        unlabelled=float(np.mean(cortex[in_ribbon] == 0)) if in_ribbon.any() else 1.0,
    )


def _on_grid(file: Path, grid: Any) -> Labels:
    """Values of an image of the same space on the grid, nearest neighbour."""
    image = open_image(file)
    affine, shape = grid.affine, grid.shape[:3]
    if image.shape[:3] == shape and np.allclose(image.affine, affine, atol=1e-4):
        return label_values(image)
    (values,) = resample_together([image], affine=affine, shape=shape)
    return values


def _ribbons(file: Path) -> dict[str, NDArray[np.bool_]]:
    """Voxels of each hemisphere's cortex, from ``ribbon.mgz`` or codes of areas of the cortex."""
    values = label_values(open_image(file))
    masks = {side: values == code for side, code in RIBBON_CODES.items()}
    if values.max(initial=0) >= min(first for first, _ in CORTEX_CODES.values()):
        for side, (first, end) in CORTEX_CODES.items():
            masks[side] |= (values >= first) & (values < end)
    for side, mask in masks.items():
        if not mask.any():
            raise InputError(
                f"there is no cortex of the {side} hemisphere (code {RIBBON_CODES[side]})",
                where=str(file),
                fix="Run FreeSurfer again, or say --coco439 group.",
            )
    return masks


def _cortex(
    own: OwnLabels, grid: Any, *, ribbon: dict[str, NDArray[np.bool_]], names: Sequence[str]
) -> Labels:
    """Areas in the voxels of the cortex, by surfaces or from a ready volume."""
    files = dict(own.files)
    if own.cortex == "volume":
        values = _on_grid(files["cortex"], grid)
        return volume_areas(values, names=names, where=str(files["cortex"]))
    voxel_to_tkr = grid.header.get_vox2ras_tkr()
    halves = []
    for side, mask in ribbon.items():
        vertices, areas = read_surface_areas(files, side, names=names)
        halves.append(
            label_ribbon(
                mask, voxel_to_tkr, vertices=vertices, areas=areas,
                where=f"{files['grid']}; {files[f'{side}.white']}",
            )
        )  # fmt: skip
    return overlay(halves)


def overlay(layers: Sequence[Labels]) -> Labels:
    """Lay label images over each other; of those that label a voxel the last one wins.

    Examples
    --------
    >>> overlay([np.array([1, 1, 0, 0]), np.array([0, 2, 2, 0])]).tolist()
    [1, 2, 2, 0]
    """
    result = layers[0].copy()
    for layer in layers[1:]:
        np.copyto(result, layer, where=layer > 0)
    return result


def subcortex_labels(aseg: NDArray[np.integer], *, names: Sequence[str]) -> Labels:
    """Label hippocampus, amygdala, basal ganglia and accumbens by FreeSurfer's codes."""
    regions = np.zeros(max(SUBCORTEX) + 2, dtype=np.int32)
    for code, name in SUBCORTEX.items():
        regions[code] = names.index(name) + 1
    labels: Labels = regions[np.minimum(aseg, len(regions) - 1)]
    return labels


def keep_regions(labels: Labels, regions: Sequence[str], *, names: Sequence[str]) -> Labels:
    """Leave only the regions of these names in a label image."""
    kept = [names.index(name) + 1 for name in regions]
    return np.where(np.isin(labels, kept), labels, 0).astype(np.int32)


def nearest_labels(
    wanted: NDArray[np.bool_], seeds: Labels, *, affine: NDArray[np.floating]
) -> Labels:
    """Labels of the nearest labelled voxel, (n_wanted,), of voxels in C order.

    Parameters
    ----------
    wanted
        (X, Y, Z), voxels to label.
    seeds
        (X, Y, Z), labels; 0 for none. A voxel that has one keeps it.
    affine
        (4, 4), voxel indices to mm.
    """
    places = np.argwhere(seeds)
    if not len(places):
        return np.zeros(int(wanted.sum()), dtype=np.int32)
    to_mm = np.asarray(affine, dtype=np.float64)[:3, :3].T
    at = cKDTree(places @ to_mm).query(np.argwhere(wanted) @ to_mm)[1]
    found: Labels = seeds[tuple(places[at].T)]
    return found


def thalamus_labels(
    nuclei: NDArray[np.integer],
    *,
    names: Sequence[str],
    affine: NDArray[np.floating],
    where: str = "",
) -> Labels:
    """Label the thalamus by FreeSurfer's nuclei, merged into the atlas's regions.

    Parameters
    ----------
    nuclei
        (X, Y, Z), codes 81xx (left) and 82xx (right).
    names
        Names of the atlas's regions.
    affine
        (4, 4), voxel indices to mm.
    where
        The file, for the message.

    Raises
    ------
    InputError
        If a side has no nuclei.
    """
    labels = np.zeros(nuclei.shape, dtype=np.int32)
    for side, first in THALAMUS_CODES.items():
        inside = (nuclei > first) & (nuclei < first + 100)
        numbers = nuclei[inside] - first
        regions = np.zeros(100, dtype=np.int32)
        for group, members in THALAMUS.items():
            regions[list(members)] = names.index(f"Thal_{group}_{side}") + 1
        if not regions[numbers].any():
            raise InputError(
                f"holds no thalamic nuclei of side {side} (codes {first + 1} to {first + 99})",
                where=where,
                fix="Run FreeSurfer's segmentation of thalamic nuclei again, or say --coco439 "
                "group.",
            )
        seeds = np.zeros(nuclei.shape, dtype=np.int32)
        seeds[inside] = regions[numbers]
        labels[inside] = nearest_labels(inside, seeds, affine=affine)
    return labels


def cerebellum_labels(
    aseg: NDArray[np.integer],
    carried: Labels,
    *,
    names: Sequence[str],
    affine: NDArray[np.floating],
) -> Labels:
    """Fill FreeSurfer's cerebellar cortex with the nearest of the group's regions.

    Each side takes regions of its own side and of the vermis; so a region never crosses the
    midline that FreeSurfer found, and none lies outside of the participant's cerebellum.

    Parameters
    ----------
    aseg
        (X, Y, Z), FreeSurfer's codes.
    carried
        (X, Y, Z), the group's image in the participant's space.
    names
        Names of the atlas's regions.
    affine
        (4, 4), voxel indices to mm.
    """
    labels = np.zeros(aseg.shape, dtype=np.int32)
    for code, prefixes in CEREBELLUM.items():
        own = [name for name in names if name.startswith(prefixes)]
        inside = aseg == code
        seeds = keep_regions(carried, own, names=names)
        labels[inside] = nearest_labels(inside, seeds, affine=affine)
    return labels


def _carry_group(
    own: OwnLabels, group: Any, *, aseg: Labels, affine: NDArray[np.float64]
) -> Labels:
    """The group's image about brainstem and cerebellum on the participant's grid."""
    hind = np.argwhere(np.isin(aseg, HIND_CODES))
    if not len(hind):
        raise InputError(
            "the segmentation has neither brainstem nor cerebellum",
            where=str(dict(own.files)["aseg"]),
            fix="Run FreeSurfer again, or say --coco439 group.",
        )
    margin = np.ceil(MARGIN_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    first = np.maximum(hind.min(axis=0) - margin, 0)
    end = np.minimum(hind.max(axis=0) + margin + 1, aseg.shape)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ first
    (box,) = resample_together([group], own.group_steps, affine=moved, shape=end - first)
    carried = np.zeros(aseg.shape, dtype=np.int32)
    carried[tuple(slice(low, high) for low, high in zip(first, end, strict=True))] = box
    return carried


def _check_sides(
    labels: Labels, affine: NDArray[np.float64], *, names: Sequence[str], where: str
) -> None:
    """Refuse an image in which left areas lie to the right of right ones."""
    x = {}
    for side in ("L", "R"):
        areas = np.flatnonzero(cortical_regions(names, side)) + 1
        places = np.argwhere(np.isin(labels, areas))
        x[side] = float(np.mean(places @ affine[0, :3])) if len(places) else 0.0
    if x["L"] >= x["R"]:
        raise InputError(
            "areas of the left hemisphere lie to the right of those of the right one",
            where=where,
            fix="Look at the orientation of FreeSurfer's images, or say --coco439 group.",
        )
