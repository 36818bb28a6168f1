# SPDX-License-Identifier: MIT
"""What the figure of a functional run is drawn from: its course over time, and its regions'."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .motion import framewise_displacement
from .parcellation import ParcellatedRun

#: Kind of a region by its name, in the order in which kinds are drawn; the last fits all others.
REGION_KINDS: tuple[tuple[str, str], ...] = (
    ("cortex", r"ctx-|[LR]_.*_ROI$|.*Networks_|Shen\d+_(?!Subcortical)"),
    ("below cortex", r""),  # with the cerebellum, which not every atlas tells apart
)
_SIDES = {"L": "left", "R": "right"}


def region_group(name: str, hemisphere: str) -> str:
    """Kind and side of a region, in words.

    Parameters
    ----------
    name
        As the atlas has it.
    hemisphere
        ``L``, ``R``, or ``B`` for both.

    Examples
    --------
    >>> region_group("ctx-lh-cuneus", "L"), region_group("Cbm_Vermis_X", "B")
    ('cortex, left', 'below cortex, both')
    """
    kind = next(kind for kind, pattern in REGION_KINDS if re.match(pattern, name))
    return f"{kind}, {_SIDES.get(hemisphere, 'both')}"


def group_regions(regions: Sequence[Sequence[str]]) -> tuple[NDArray[np.intp], list[str]]:
    """Order regions so that those of one kind and side stand together.

    Parameters
    ----------
    regions
        Name and hemisphere of each.

    Returns
    -------
    order
        (n_regions,), positions; within a group as in the atlas.
    groups
        (n_regions,), group of each region in that order.
    """
    groups = [region_group(name, hemisphere) for name, hemisphere in regions]
    kinds = [kind for kind, _ in REGION_KINDS]
    ranks = [(kinds.index(group.rpartition(",")[0]), group) for group in groups]
    order = sorted(range(len(groups)), key=ranks.__getitem__)
    return np.array(order, dtype=np.intp), [groups[position] for position in order]


def describe_course(
    run: ParcellatedRun,
    *,
    before: NDArray[np.float64],
    after: NDArray[np.float64] | None = None,
    regions: Sequence[Sequence[str]],
    motion: NDArray[np.float64] | None,
    is_outlier: NDArray[np.bool_],
    repetition_time_s: float,
    has_dvars: bool = True,
) -> dict[str, NDArray]:
    """Gather what the figure of a run shows.

    Parameters
    ----------
    run
        What one pass over the series gave.
    before, after
        (n_volumes, n_regions) of one atlas, before and after denoising; None if it was denoised
        already.
    regions
        Name and hemisphere of the atlas's regions.
    motion
        (n_volumes, 6), mm and rad, or None if it is not known.
    is_outlier
        (n_volumes,).
    repetition_time_s
        Time between volumes.
    has_dvars
        Whether DVARS has a scale: not in series without their mean.

    Returns
    -------
    dict
        ``repetition_time_s``; (n_volumes,) ``framewise_displacement_mm``, ``dvars``,
        ``global_signal`` and ``is_outlier``; ``tissue_names`` (n,) and ``tissue_signals``
        (n_volumes, n); ``region_groups`` (n_regions,) and, in the same order of regions,
        ``series`` and perhaps ``denoised_series`` (n_volumes, n_regions), z over the kept volumes.
    """
    unknown = np.full(len(before), np.nan)
    order, groups = group_regions(regions)
    traces: Mapping[str, NDArray] = {
        "repetition_time_s": np.array(repetition_time_s),
        "framewise_displacement_mm": unknown if motion is None else framewise_displacement(motion),
        "dvars": run.dvars if has_dvars else unknown,
        "global_signal": run.global_signal,
        "is_outlier": is_outlier,
        "tissue_names": np.array(list(run.tissue_means), dtype=np.str_),
        "tissue_signals": np.column_stack([
            np.empty((len(before), 0)),
            *run.tissue_means.values(),
        ]),
        "region_groups": np.array(groups, dtype=np.str_),
        "series": standardise(before[:, order], ~is_outlier),
    }
    if after is None:
        return dict(traces)
    return {**traces, "denoised_series": standardise(after[:, order], ~is_outlier)}


def standardise(series: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Take the mean and divide by the standard deviation over the volumes kept.

    Parameters
    ----------
    series
        (n_volumes, n_regions).
    kept
        (n_volumes,).

    Returns
    -------
    NDArray
        (n_volumes, n_regions), NaN for regions that are missing or constant.
    """
    chosen = series[kept] if kept.any() else series
    spread = chosen.std(axis=0)
    z = np.full(series.shape, np.nan, dtype=np.float32)
    np.divide(series - chosen.mean(axis=0), spread, out=z, where=spread > 0, casting="same_kind")
    return z
