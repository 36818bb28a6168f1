# SPDX-License-Identifier: MIT
"""Denoising strategies other than the recipe: which columns of the confounds table each takes.

They are nilearn's named strategies with its default parameters, so that whoever knows them gets
the same regressors and the same volumes. Connectomes made with them are none that the published
models were trained on: their names say so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .confounds import MOTION_COLUMNS, ConfoundsTable

#: Volumes beyond these are left out by the strategy of scrubbing.
FD_LIMIT_MM = 0.5
STD_DVARS_LIMIT = 1.5
#: So many volumes between two that are left out are too few to keep.
SHORTEST_SEGMENT = 5

_EXPANSIONS = ("", "_derivative1", "_power2", "_derivative1_power2")
_TISSUES = ("csf", "white_matter")
_MOTION = tuple(f"{name}{ending}" for name in MOTION_COLUMNS for ending in _EXPANSIONS)
_COSINE = re.compile(r"cosine_?\d+")


@dataclass(frozen=True)
class Strategy:
    """One way to choose columns of the table; cosines below 1/128 Hz are always among them.

    Parameters
    ----------
    columns
        Names of columns.
    with_components
        Whether to take all components of the combined mask of white matter and CSF.
    is_scrubbed
        Whether volumes that moved are left out, and too short segments between them.
    series
        Label of ``desc-`` of the series that it is meant for.
    """

    columns: tuple[str, ...]
    with_components: bool = False
    is_scrubbed: bool = False
    series: str = "preproc"


#: Strategies by name.
STRATEGIES: dict[str, Strategy] = {
    "simple": Strategy((*_MOTION, *_TISSUES)),
    "scrubbing": Strategy(
        (*_MOTION, *(f"{name}{ending}" for name in _TISSUES for ending in _EXPANSIONS)),
        is_scrubbed=True,
    ),
    "compcor": Strategy(_MOTION, with_components=True),
    "ica_aroma": Strategy(_TISSUES, series="smoothAROMAnonaggr"),
}

#: Regressed as well for the variant with the global signal.
GLOBAL_SIGNAL = "global_signal"


def series_label(denoising: str) -> str:
    """Label of ``desc-`` of the series that is denoised.

    Examples
    --------
    >>> series_label("recipe"), series_label("ica_aroma")
    ('preproc', 'smoothAROMAnonaggr')
    """
    return STRATEGIES[denoising].series if denoising in STRATEGIES else "preproc"


def strategy_regressors(table: ConfoundsTable, name: str) -> dict[str, NDArray[np.float64]]:
    """Columns that a strategy regresses, by variant.

    Parameters
    ----------
    table
        The table of confounds.
    name
        A key of `STRATEGIES`.

    Returns
    -------
    dict
        (n_volumes, n) for ``hpf`` and, with the mean signal of the brain mask, ``hpfgsr``.
        Derivatives, which have no value in the first row, repeat the second there.

    Raises
    ------
    InputError
        If the table lacks a column, or has no cosines: without them there is no high-pass filter.
    """
    strategy = STRATEGIES[name]
    columns = [*strategy.columns, *_cosines(table)]
    if strategy.with_components:
        columns += _combined_components(table)
    values = _values(table, [*columns, GLOBAL_SIGNAL], name)
    return {"hpf": values[:, :-1], "hpfgsr": values}


def strategy_outliers(table: ConfoundsTable, name: str) -> NDArray[np.bool_]:
    """Volumes that a strategy leaves out, (n_volumes,).

    Those not yet steady; with scrubbing, also those of framewise displacement above 0.5 mm or
    standardised DVARS above 1.5, and kept segments between them shorter than 5 volumes.

    Raises
    ------
    InputError
        If scrubbing lacks its two columns.
    """
    is_outlier = table.non_steady()
    if not STRATEGIES[name].is_scrubbed:
        return is_outlier
    _require(table, ["framewise_displacement", "std_dvars"], name)
    moved = table.columns["framewise_displacement"] > FD_LIMIT_MM
    moved |= table.columns["std_dvars"] > STD_DVARS_LIMIT
    return is_outlier | (_without_short_segments(moved) if moved.any() else moved)


def _without_short_segments(is_outlier: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Flag also the segments between outliers that are too short to keep."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_outlier, [True]]).astype(int)))
    flagged = is_outlier.copy()
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - first < SHORTEST_SEGMENT:
            flagged[first:stop] = True
    return flagged


def _cosines(table: ConfoundsTable) -> list[str]:
    names = [name for name in table.columns if _COSINE.fullmatch(name)]
    if not names:
        raise InputError(
            "the table of confounds has no cosine columns: the series would not be filtered",
            where=str(table.file),
            fix="Use --denoising recipe, which filters by itself, or run fMRIPrep again; runs "
            "shorter than about a minute have none.",
        )
    return names


def _combined_components(table: ConfoundsTable) -> list[str]:
    """Retained components of the combined mask; the sidecar tells them from other masks'."""
    names = [
        name
        for name, about in table.sidecar.items()
        if isinstance(about, dict)
        and re.fullmatch(r"a_comp_cor_\d+", name)
        and about.get("Mask") == "combined"
        and about.get("Retained", True)
    ]
    if not names:
        raise InputError(
            "no aCompCor columns of the combined mask (Mask combined, Retained)",
            where=str(table.file),
            fix="Give the table together with its JSON file, or use another --denoising.",
        )
    return sorted(names)


def _require(table: ConfoundsTable, names: list[str], strategy: str) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError(
            f"the table of confounds lacks {', '.join(missing)}",
            where=str(table.file),
            fix=f"The strategy {strategy} needs them: use another --denoising, or run fMRIPrep "
            "again.",
        )


def _values(table: ConfoundsTable, names: list[str], strategy: str) -> NDArray[np.float64]:
    """Columns as they are regressed, (n_volumes, n)."""
    _require(table, names, strategy)
    values = np.stack([table.columns[name] for name in names], axis=1)
    if len(values) > 1:
        values[0] = np.where(np.isnan(values[0]), values[1], values[0])
    empty = [name for name, column in zip(names, values.T, strict=True)
             if not np.isfinite(column).all()]  # fmt: skip
    if empty:
        raise InputError(
            f"the table of confounds has rows without a value in {', '.join(empty)}",
            where=str(table.file),
            fix=f"The strategy {strategy} needs them: use another --denoising, or run fMRIPrep "
            "again.",
        )
    return values
