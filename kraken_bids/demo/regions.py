# SPDX-License-Identifier: MIT
"""Label images of the simulated anatomy: FreeSurfer's codes and two template atlases.

The regions lie roughly where they lie in a brain. They are made here from tables of positions
and by partition of tissue; published label images are neither used nor needed.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from ..atlases import Region, load_atlas
from .template import AFFINE, SHAPE, apply_affine, load_template

#: FreeSurfer codes of tissues that are no regions of an atlas, (left, right) or one.
WHITE = (2, 41)
CEREBELLAR_WHITE = (7, 46)
LATERAL_VENTRICLE = (4, 43)
THIRD_VENTRICLE = 14
FOURTH_VENTRICLE = 15
BRAINSTEM = 16
CISTERN = 24
CEREBELLUM = (8, 47)
WHITE_CODES = (*WHITE, *CEREBELLAR_WHITE)
CSF_CODES = (*LATERAL_VENTRICLE, THIRD_VENTRICLE, FOURTH_VENTRICLE, CISTERN)

#: Subcortical structures: left and right code, centre and half axes (|x|, y, z), MNI mm.
_SUBCORTICAL: tuple[tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]], ...] = (
    ((10, 49), (12, -19, 8), (9.5, 14, 9.5)),  # thalamus
    ((11, 50), (13, 11, 10), (5.5, 15, 10)),  # caudate
    ((12, 51), (26, 2, 1), (6.5, 15, 9)),  # putamen
    ((13, 52), (19, -4, 0), (4.5, 9, 6.5)),  # pallidum
    ((17, 53), (27, -24, -13), (6.5, 16, 7)),  # hippocampus
    ((18, 54), (23, -4, -19), (7, 8, 7)),  # amygdala
    ((26, 58), (9, 12, -8), (5, 6, 5.5)),  # accumbens
    ((28, 60), (10, -14, -9), (8.5, 10, 6)),  # ventral diencephalon
)

#: Cortical regions: FreeSurfer's number in a hemisphere and places (|x|, y, z), MNI mm.
_CORTICAL: dict[int, tuple[tuple[float, float, float], ...]] = {
    1: ((53, -45, 10),),
    2: ((5, 18, 28),),
    3: ((38, 12, 48),),
    5: ((7, -82, 22),),
    6: ((24, -8, -34),),
    7: ((36, -45, -20), (36, -28, -26), (34, -62, -14)),
    8: ((44, -66, 32), (48, -54, 42)),
    9: ((54, -30, -26), (50, -12, -36), (54, -50, -16)),
    10: ((8, -46, 14),),
    11: ((28, -92, 0), (42, -80, 4), (30, -86, -12)),
    12: ((24, 30, -18), (30, 18, -20)),
    13: ((14, -68, -4), (10, -80, -8)),
    14: ((6, 38, -18), (6, 24, -20)),
    15: ((60, -25, -12), (58, -8, -22), (58, -45, 0)),
    16: ((24, -32, -18),),
    17: ((8, -30, 60),),
    18: ((48, 14, 14),),
    19: ((42, 38, -12),),
    20: ((48, 30, 6),),
    21: ((12, -78, 8),),
    22: ((46, -24, 48), (58, -16, 28), (24, -34, 66)),
    23: ((6, -18, 38),),
    24: ((40, -10, 50), (54, 0, 28), (20, -20, 68)),
    25: ((8, -58, 42), (8, -66, 30)),
    26: ((5, 36, 4),),
    27: ((34, 44, 20), (28, 54, 8)),
    28: ((10, 28, 50), (10, 50, 30), (12, 4, 62)),
    29: ((24, -62, 54), (18, -74, 44), (30, -50, 62)),
    30: ((58, -12, 0), (60, -30, 10), (52, 6, -10)),
    31: ((56, -34, 32),),
    32: ((8, 64, -6),),
    33: ((32, 12, -36),),
    34: ((46, -22, 8),),
    35: ((38, 2, 2), (36, 16, -4), (38, -10, 0)),
}


@functools.cache
def segment_template() -> NDArray[np.int16]:
    """Label the template as FreeSurfer's ``aparc+aseg`` does.

    Returns
    -------
    NDArray
        (91, 109, 91), FreeSurfer codes: 68 cortical and 18 other regions, white matter,
        ventricles, brainstem; 0 in the fluid around the brain.
    """
    template = load_template()
    positions = template.positions(template.brain)
    right = (positions[:, 0] > 0).astype(int)
    folded = np.column_stack([np.abs(positions[:, 0]), positions[:, 1:]])
    tissues = np.stack([
        map_[template.brain] for map_ in (template.grey, template.white, template.csf)
    ])  # fmt: skip
    tissue = tissues.argmax(axis=0)

    cortex, codes = _nearest_cortex(folded), np.zeros(len(positions), dtype=np.int16)
    codes = np.where(tissue == 0, 1000 * (1 + right) + cortex, codes)
    codes = np.where(tissue == 1, np.take(WHITE, right), codes)
    codes = np.where(tissue == 2, _fluid(folded, right), codes)
    deep = _is_deep(folded)
    codes = np.where(deep & (tissue == 0), np.take(WHITE, right), codes)
    codes = _paint_subcortical(codes, folded, right, tissue)
    below = _is_cerebellum(folded)
    codes = np.where(below & (tissue == 0), np.take(CEREBELLUM, right), codes)
    codes = np.where(below & (tissue == 1), np.take(CEREBELLAR_WHITE, right), codes)
    codes = np.where(_is_brainstem(folded) & (tissue != 2), BRAINSTEM, codes)

    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[template.brain] = codes
    return labels


def _nearest_cortex(folded: NDArray[np.floating]) -> NDArray[np.intp]:
    """Number of the cortical region whose place is nearest."""
    numbers = [number for number, places in _CORTICAL.items() for _ in places]
    places = [place for places in _CORTICAL.values() for place in places]
    _, nearest = cKDTree(places).query(folded)
    return np.asarray(np.take(numbers, nearest), dtype=np.intp)


def _fluid(folded: NDArray[np.floating], right: NDArray[np.intp]) -> NDArray[np.intp]:
    """Ventricle by place; 0 for the fluid around the brain."""
    x, y, z = folded.T
    codes = np.zeros(len(folded), dtype=np.intp)
    codes = np.where((y > -38) & (y < 5) & (x < 16) & (z < -8), CISTERN, codes)
    codes = np.where((x < 10) & (y < -34) & (y > -52) & (z < -14) & (z > -46),
                     FOURTH_VENTRICLE, codes)  # fmt: skip
    lateral = (x < 36) & (y > -52) & (y < 40) & (z > -4) & (z < 32) & ~((x < 4) & (y < -32))
    codes = np.where(lateral, np.take(LATERAL_VENTRICLE, right), codes)
    return np.where((x < 4) & (y > -32) & (y < 6) & (z > -16) & (z < 12), THIRD_VENTRICLE, codes)


def _is_deep(folded: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Inside the shell of the cortex, where grey matter is subcortical."""
    x, y, z = folded.T
    inside = (x < 29) & (y > -36) & (y < 24) & (z > -16) & (z < 20) & ~((x < 4) & (y > 14))
    return np.asarray(inside, dtype=np.bool_)


def _is_cerebellum(folded: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Below a simple tentorium."""
    x, y, z = folded.T
    inside = (y < -37) & (z < -8 - 0.25 * x - 0.15 * np.maximum(0, -60 - y))
    return np.asarray(inside, dtype=np.bool_)


def _is_brainstem(folded: NDArray[np.floating]) -> NDArray[np.bool_]:
    """In the stem between diencephalon and spinal cord."""
    x, y, z = folded.T
    inside = (x < 15) & (y > -44) & (y < -8) & (z < -12) & (x**2 + (y + 27) ** 2 < 17**2)
    return np.asarray(inside, dtype=np.bool_)


def _paint_subcortical(
    codes: NDArray, folded: NDArray[np.floating], right: NDArray[np.intp], tissue: NDArray[np.intp]
) -> NDArray:
    """Put the subcortical structures in place.

    A voxel belongs to the structure whose ellipsoid it is deepest in; grey matter in a thin
    shell around an ellipsoid too.
    """
    depth = np.stack([
        np.sqrt((((folded - centre) / axes) ** 2).sum(axis=1)) for _, centre, axes in _SUBCORTICAL
    ])  # fmt: skip
    nearest = depth.argmin(axis=0)
    inside = depth.min(axis=0) < np.where((tissue == 0) & _is_deep(folded), 1.4, 1.0)
    table = np.array([pair for pair, _, _ in _SUBCORTICAL])
    return np.where(inside, table[nearest, right], codes)


def draw_atlas(name: str) -> NDArray[np.int16]:
    """Partition the grey matter of the template into an atlas's regions.

    Parameters
    ----------
    name
        ``shen268`` or ``coco439``.

    Returns
    -------
    NDArray
        (91, 109, 91), region indices from 1, every region there; hemispheres as in the atlas's
        table; regions of one name in both hemispheres mirror each other.
    """
    pools: dict[tuple[str, str], list[int]] = {}
    for region in load_atlas(name).regions:
        pools.setdefault((_pool(region), region.hemisphere), []).append(region.index)
    labels = np.zeros(SHAPE, dtype=np.int16)
    for (pool, hemisphere), indices in sorted(pools.items()):
        mask = _pool_mask(pool, hemisphere)
        positions = apply_affine(AFFINE, np.argwhere(mask))
        folded = positions * ([-1, 1, 1] if hemisphere == "L" else [1, 1, 1])
        labels[mask] = np.take(indices, partition(folded, len(indices)))
    return labels


#: Structures of coco439 by the start of their names, and FreeSurfer's left and right code.
_POOL_CODES: dict[str, tuple[int, int]] = {
    "Thal": (10, 49), "Caudate": (11, 50), "Putamen": (12, 51), "Pallidum": (13, 52),
    "Hippocampus": (17, 53), "Amygdala": (18, 54), "N": (26, 58),
}  # fmt: skip
_MIDBRAIN = ("VTA", "SN", "Red", "LC")


def _pool(region: Region) -> str:
    """Kind of tissue that a region of a template atlas is cut from."""
    start = region.name.split("_")[0]
    if start in _POOL_CODES:
        return start
    if start in _MIDBRAIN:
        return "midbrain"
    if start == "Raphe":
        return "raphe"
    if start == "Cbm":
        return "vermis" if region.hemisphere == "B" else "cerebellum"
    if region.name.endswith("_SubcorticalCerebellum"):
        return "subcortex"
    return "cortex"


def _pool_mask(pool: str, hemisphere: str) -> NDArray[np.bool_]:
    """Voxels of a kind of tissue in a hemisphere."""
    codes = segment_template()
    x = AFFINE[0, 0] * np.arange(SHAPE[0])[:, None, None] + AFFINE[0, 3]
    middle = np.abs(x) < (6 if pool in {"vermis", "cerebellum"} else 3)
    z = AFFINE[2, 2] * np.arange(SHAPE[2]) + AFFINE[2, 3]
    stem = codes == BRAINSTEM
    masks = {
        "cortex": _dilate(codes >= 1000),
        "cerebellum": np.isin(codes, CEREBELLUM) & ~middle,
        "vermis": np.isin(codes, CEREBELLUM) & middle,
        "midbrain": (np.isin(codes, (28, 60)) | (stem & (z > -30))) & ~middle,
        "raphe": stem & middle,
        "subcortex": np.isin(codes, CEREBELLUM) | ((codes >= 8) & (codes < 61)
                     & ~np.isin(codes, (*WHITE_CODES, *CSF_CODES))),
    }  # fmt: skip
    mask = masks[pool] if pool in masks else np.isin(codes, _POOL_CODES[pool])
    side = {"L": x < 0, "R": x > 0, "B": np.isfinite(x)}[hemisphere]
    return np.asarray(mask & side, dtype=np.bool_)


def _dilate(cortex: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow the cortex by a voxel into white matter, as the published label images are grown."""
    grown = ndimage.binary_dilation(cortex)
    return np.asarray(cortex | (grown & np.isin(segment_template(), WHITE)), dtype=np.bool_)


def partition(
    positions: NDArray[np.floating], n_parts: int, *, iterations: int = 15
) -> NDArray[np.intp]:
    """Divide places into compact parts of like size, by Lloyd's algorithm.

    Parameters
    ----------
    positions
        (n_places, 3), mm.
    n_parts
        At most n_places.

    Returns
    -------
    NDArray
        (n_places,), part from 0; no part is empty. The same places give the same parts.
    """
    rng = np.random.default_rng(n_parts)
    order = np.lexsort(positions.T)  # mirrored places come in another order
    places = positions[order]
    centres = places[rng.choice(len(places), size=n_parts, replace=False)]
    for _ in range(iterations):
        distance, part = cKDTree(centres).query(places)
        sizes = np.bincount(part, minlength=n_parts)
        sums = np.stack([np.bincount(part, column, n_parts) for column in places.T], axis=-1)
        centres = sums / np.maximum(sizes, 1)[:, None]
        empty = np.flatnonzero(sizes == 0)
        centres[empty] = places[np.argsort(distance)[-1 - np.arange(len(empty))]]
    _, part = cKDTree(centres).query(places)
    parts = np.empty(len(places), dtype=np.intp)
    parts[order] = part
    return parts
