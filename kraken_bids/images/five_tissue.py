# SPDX-License-Identifier: MIT
"""Five-tissue images, by which anatomically constrained tractography knows where to end.

Volumes, in MRtrix3's order: cortical grey matter, subcortical grey matter, white matter, CSF,
pathological tissue. In each voxel of the brain they add up to 1, elsewhere all are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

TISSUES: tuple[str, ...] = ("cortical GM", "subcortical GM", "WM", "CSF", "pathological")

#: FreeSurfer codes of each tissue: inclusive ranges, later rows win. The same groups as those of
#: MRtrix3's ``5ttgen freesurfer``; its tables of names are not needed.
TISSUE_CODES: tuple[tuple[str, tuple[tuple[int, int], ...]], ...] = (
    ("cortical GM", (
        (3, 3), (42, 42),  # cortex that is not parcellated
        (8, 8), (47, 47),  # cerebellar cortex
        (17, 18), (53, 54), (96, 97),  # hippocampus, amygdala
        (1000, 2999), (11100, 12199),  # Desikan-Killiany; Destrieux
    )),
    ("subcortical GM", (
        (9, 13), (48, 52),  # thalamus, caudate, putamen, pallidum
        (26, 26), (58, 58),  # accumbens
        (25, 25), (57, 57),  # lesion
    )),
    ("WM", (
        (2, 2), (41, 41),  # cerebral
        (7, 7), (46, 46),  # cerebellar
        (16, 16), (170, 175),  # brain stem and its parts
        (28, 28), (60, 60),  # ventral diencephalon
        (85, 85),  # optic chiasm
        (155, 158), (192, 192), (250, 255),  # internal capsule, corpus callosum, fornix
        (3000, 4999), (5001, 5002), (13100, 14199),  # white matter parcellated
    )),
    ("CSF", (
        (4, 5), (14, 15), (24, 24), (43, 44), (72, 72),  # ventricles, CSF
        (30, 31), (62, 63),  # vessel, choroid plexus
        (213, 213), (221, 221),
    )),
    ("pathological", ((77, 82), (180, 181))),  # hypointensities, cortical dysplasia
)  # fmt: skip

#: How far the five values of a voxel may be from 1 in sum; MRtrix3's ``5ttcheck`` allows as much.
SUM_TOLERANCE = 1e-3


def tissue_groups(labels: NDArray[np.integer]) -> NDArray[np.int8]:
    """Find the tissue of each voxel of a FreeSurfer segmentation.

    Parameters
    ----------
    labels
        FreeSurfer codes, of any shape.

    Returns
    -------
    NDArray
        Of the shape of `labels`: position in `TISSUES` from 1; 0 for an unknown code.
    """
    lookup = np.zeros(15_000, dtype=np.int8)
    for index, (_, ranges) in enumerate(TISSUE_CODES, start=1):
        for first, last in ranges:
            lookup[first : last + 1] = index
    known = np.where((labels >= 0) & (labels < lookup.size), labels, 0)
    return np.asarray(lookup[known])


def tissues_from_labels(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Turn a FreeSurfer segmentation into five tissues.

    Parameters
    ----------
    labels
        (X, Y, Z), FreeSurfer codes of ``aseg``, ``aparc+aseg`` or ``wmparc``; an unknown code
        counts as outside of the brain.

    Returns
    -------
    NDArray
        (X, Y, Z, 5), 0 or 1.

    Raises
    ------
    InputError
        If no code is one of white matter, or none one of grey matter.
    """
    groups = tissue_groups(labels)
    tissues = np.stack([groups == index for index in range(1, 6)], axis=-1).astype(np.float32)
    if not tissues[..., 2].any() or not tissues[..., :2].any():
        raise InputError(
            "the segmentation has no voxel of white matter or none of grey matter",
            fix="Give FreeSurfer's aparc+aseg with FreeSurfer's own codes.",
        )
    return tissues


def tissues_from_maps(
    grey: NDArray[np.floating], white: NDArray[np.floating], fluid: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Turn three tissue probability maps into five tissues.

    Grey matter all counts as cortical: the maps do not tell deep nuclei apart, so streamlines end
    where they enter them.

    Parameters
    ----------
    grey, white, fluid
        (X, Y, Z), probabilities from 0 to 1.

    Returns
    -------
    NDArray
        (X, Y, Z, 5); the sum is 1 where the maps add up to at least 0.5, all values are 0
        elsewhere.
    """
    maps = np.clip(np.nan_to_num(np.stack([grey, white, fluid], axis=-1)), 0, 1)
    total = maps.sum(axis=-1, keepdims=True)
    brain = total >= 0.5
    shares = np.where(brain, maps / np.where(brain, total, 1), 0).astype(np.float32)
    tissues = np.zeros((*grey.shape, 5), dtype=np.float32)
    tissues[..., 0], tissues[..., 2], tissues[..., 3] = np.moveaxis(shares, -1, 0)
    return tissues


def check_tissues(tissues: NDArray[np.floating], *, where: str = "") -> None:
    """Refuse an image that is not a five-tissue image.

    Parameters
    ----------
    tissues
        (X, Y, Z, 5).
    where
        File, for the message.

    Raises
    ------
    InputError
        If there are not five volumes, values leave 0 to 1, the five of a brain voxel do not add
        up to 1, or there is no white or no grey matter.
    """
    fix = (
        "Give an image made by MRtrix3's 5ttgen, or none: then it is made from FreeSurfer labels."
    )
    if tissues.ndim != 4 or tissues.shape[3] != 5:
        raise InputError(
            f"five-tissue image has shape {tissues.shape}, not (X, Y, Z, 5)", where=where, fix=fix
        )
    lowest, highest = float(np.min(tissues)), float(np.max(tissues))
    if not (lowest >= -SUM_TOLERANCE and highest <= 1 + SUM_TOLERANCE):
        raise InputError(
            f"five-tissue image has values from {lowest:.3g} to {highest:.3g}, not from 0 to 1",
            where=where,
            fix=fix,
        )
    total = tissues.sum(axis=-1)
    inside = total > SUM_TOLERANCE
    n_wrong = int(np.count_nonzero(np.abs(total[inside] - 1) > SUM_TOLERANCE))
    # Interpolated borders are met in practice and do no harm; a whole image of them does.
    if n_wrong > 0.2 * max(int(np.count_nonzero(inside)), 1):
        raise InputError(
            f"in {n_wrong} voxels the five tissues do not add up to 1", where=where, fix=fix
        )
    for volume, name in ((slice(0, 2), "grey matter"), (slice(2, 3), "white matter")):
        if not tissues[..., volume].any():
            raise InputError(f"five-tissue image has no {name}", where=where, fix=fix)
