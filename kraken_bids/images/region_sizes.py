# SPDX-License-Identifier: MIT
"""Sizes of a participant's own regions against those of the group's label image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..errors import InputError

#: A region is unusual if its share of the whole differs from the group's by more than this factor
#: (in the group itself, left and right areas differ by up to 2.4).
UNUSUAL_FACTOR = 4.0
#: Regions of the group's image that are too small for that, in mm3.
SMALL_MM3 = 50.0
#: Rank correlation of the areas' sizes with the group's below which a volume whose codes are its
#: only names is refused. Left and right areas of the group: 0.91; areas in another order: 0.
MIN_ORDER = 0.4


def cortical_regions(names: Sequence[str], side: str) -> NDArray[np.bool_]:
    """Which regions are areas of the cortex of a side (``L`` or ``R``), (n_regions,)."""
    return np.array([name.startswith(f"{side}_") and name.endswith("_ROI") for name in names])


def check_order(
    own_mm3: NDArray[np.float64],
    group_mm3: NDArray[np.float64],
    *,
    names: Sequence[str],
    where: str,
) -> None:
    """Refuse areas, known by their numbers only, whose sizes do not follow the group's at all.

    Parameters
    ----------
    own_mm3, group_mm3
        (n_regions,), sizes in mm3.
    names
        (n_regions,).
    where
        The file, for the message.

    Raises
    ------
    InputError
        If the rank correlation over the areas of a hemisphere is below `MIN_ORDER`.
    """
    for side in ("L", "R"):
        of_side = cortical_regions(names, side)
        order = float(stats.spearmanr(own_mm3[of_side], group_mm3[of_side]).statistic)
        if not order >= MIN_ORDER:
            raise InputError(
                f"its areas of side {side} do not seem to be numbered as those of HCP-MMP 1.0: "
                f"their sizes correlate with the group's by {order:.2f} only",
                where=where,
                fix="Give the annotations label/{lh,rh}.HCP-MMP1.annot, which name their areas, "
                "or say --coco439 group.",
            )


def unusual_sizes(
    own_mm3: NDArray[np.float64], group_mm3: NDArray[np.float64], *, names: Sequence[str]
) -> dict[str, float]:
    """Find the regions that are much larger or smaller than in the group.

    Parameters
    ----------
    own_mm3, group_mm3
        (n_regions,), sizes in mm3.
    names
        (n_regions,).

    Returns
    -------
    dict
        By name: own size over the group's, divided by the median of that over all regions, so
        that a large head is not unusual. Regions without a voxel are missing, not unusual.
    """
    compared = (own_mm3 > 0) & (group_mm3 >= SMALL_MM3)
    if not compared.any():
        return {}
    ratios = own_mm3[compared] / group_mm3[compared]
    ratios /= np.median(ratios)
    compared_names = (name for name, used in zip(names, compared, strict=True) if used)
    return {
        name: round(float(ratio), 3)
        for name, ratio in zip(compared_names, ratios, strict=True)
        if not 1 / UNUSUAL_FACTOR <= ratio <= UNUSUAL_FACTOR
    }
