# SPDX-License-Identifier: MIT
"""Bring a cohort's connectomes to the scale of those that a model was trained on.

With `m` the cohort's mean connectome, `t` the training mean and the line ``a m + b ≈ t`` fitted
by least squares over edges:

    none                x
    meanshift           x - m + t
    meanfit             a x + b
    meanfit+meanshift   a (x - m) + t

All are ``slope · x + offset`` with one slope a flavor and an offset that may differ by edge.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, UsageError, suggest

_log = logging.getLogger(__name__)

#: Cohorts below this size get a warning: their mean still carries the individuals.
FEW_PARTICIPANTS = 20
#: More flavors than this are counted in a message, not named.
N_NAMED = 5
#: Squared correlation of two means below which they hardly are of the same kind of data.
HOPELESS_R_SQUARED = 0.1
#: Without adaptation, data count as being in the training scale if the line between the means
#: has a slope within these bounds and at least this squared correlation.
FAMILIAR_SLOPES = (0.5, 2.0)
FAMILIAR_R_SQUARED = 0.5


@dataclass(frozen=True)
class AdaptationMode:
    """A row of `ADAPTATIONS`.

    Parameters
    ----------
    fits_line
        Whether edges are scaled by the slope of the line; by 1 otherwise.
    shifts_mean
        Whether the cohort's mean ends exactly at the training mean; if not, the line's intercept
        is added.
    """

    fits_line: bool
    shifts_mean: bool


#: Every way to adapt, by name.
ADAPTATIONS: dict[str, AdaptationMode] = {
    "none": AdaptationMode(fits_line=False, shifts_mean=False),
    "meanshift": AdaptationMode(fits_line=False, shifts_mean=True),
    "meanfit": AdaptationMode(fits_line=True, shifts_mean=False),
    "meanfit+meanshift": AdaptationMode(fits_line=True, shifts_mean=True),
}
#: Other names that the reference program takes.
ALIASES = {"meanfitshift": "meanfit+meanshift"}


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A fitted adaptation of one flavor.

    Parameters
    ----------
    mode
        Key of `ADAPTATIONS`.
    slope, intercept
        Of the line from the cohort's mean to the training mean; 1 and 0 where the mode fits none.
    r_squared
        Squared Pearson correlation, over edges, of the two means; NaN for ``none``.
    source_mean
        (n_edges,), mean of the cohort, NaN for edges that nobody has.
    target_mean
        (n_edges,), mean of the training participants.
    n_participants
        Size of the cohort.
    """

    mode: str
    slope: float
    intercept: float
    r_squared: float
    source_mean: NDArray[np.float64]
    target_mean: NDArray[np.float64]
    n_participants: int

    @property
    def offset(self) -> NDArray[np.float64] | float:
        """What is added to ``slope · x``: (n_edges,) or one number."""
        if ADAPTATIONS[self.mode].shifts_mean:
            return self.target_mean - self.slope * self.source_mean
        return self.intercept

    def forward(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """Bring (n, n_edges) to the scale of the training data; NaN stays NaN."""
        offset = self.offset
        adapted = np.empty(np.shape(x), dtype=np.float32)
        for row, out in zip(np.atleast_2d(x), np.atleast_2d(adapted), strict=True):
            # row by row, for float64 of a whole cohort would go through memory thrice
            exact = np.multiply(row, self.slope, dtype=np.float64)
            exact += offset
            out[:] = exact
        return adapted

    def inverse(self, y: NDArray[np.floating], edges: slice | None = None) -> NDArray[np.float32]:
        """Bring connectomes back to the scale of the cohort.

        Parameters
        ----------
        y
            (n, n_edges), or (n, number of edges chosen).
        edges
            Those that `y` has; all if None.

        Returns
        -------
        NDArray
            Of the shape of `y`; NaN at edges that nobody in the cohort has, if the mode shifts
            the mean.
        """
        offset = self.offset
        if edges is not None and isinstance(offset, np.ndarray):
            offset = offset[edges]
        original = np.empty(np.shape(y), dtype=np.float32)
        for row, out in zip(np.atleast_2d(y), np.atleast_2d(original), strict=True):
            exact = np.subtract(row, offset, dtype=np.float64)
            exact /= self.slope
            out[:] = exact
        return original


def fit_adaptation(
    mode: str,
    source_mean: NDArray[np.floating],
    target_mean: NDArray[np.floating],
    *,
    n_participants: int,
) -> Adaptation:
    """Fit the line between two mean connectomes.

    Parameters
    ----------
    mode
        Key of `ADAPTATIONS`.
    source_mean
        (n_edges,), mean of the cohort; NaN edges take no part in the fit.
    target_mean
        (n_edges,), mean of the training participants.
    n_participants
        Number of participants behind `source_mean`.

    Raises
    ------
    ModelError
        If the means have other shapes or nothing to fit, or if one participant alone would be
        mapped onto the training mean.
    UsageError
        If the mode is unknown.

    Notes
    -----
    Slope ``a = cov(m, t) / var(m)``, intercept ``b = mean(t) - a mean(m)``, in float64.
    """
    mode = resolve_mode(mode)
    m, t = np.asarray(source_mean, dtype=np.float64), np.asarray(target_mean, dtype=np.float64)
    if m.shape != t.shape or m.ndim != 1:
        raise ModelError(
            f"mean of the cohort {m.shape} and training mean {t.shape} differ in shape",
            fix="Use connectomes of the atlas that the model was trained with.",
        )
    if mode == "none":
        return Adaptation(mode, 1.0, 0.0, np.nan, m, t, n_participants)
    _check_size(mode, n_participants)
    both = np.isfinite(m) & np.isfinite(t)
    slope, intercept, r_squared = _fit_line(m[both], t[both])
    if not ADAPTATIONS[mode].fits_line:
        slope, intercept = 1.0, 0.0
    return Adaptation(mode, slope, intercept, r_squared, m, t, n_participants)


def resolve_mode(mode: str) -> str:
    """Find the key of `ADAPTATIONS` that was meant; case does not matter.

    Raises
    ------
    UsageError
        If there is none.
    """
    found = ALIASES.get(mode.lower(), mode.lower())
    if found not in ADAPTATIONS:
        raise UsageError(
            f"adaptation '{mode}' is unknown",
            where="--adaptation",
            fix=suggest(mode, ADAPTATIONS) + ".",
        )
    return found


def _check_size(mode: str, n_participants: int) -> None:
    """Refuse cohorts that are too small for their mean to be one."""
    if n_participants < 1:
        raise ModelError("nobody to fit an adaptation on", fix="Give at least two participants.")
    if n_participants == 1 and ADAPTATIONS[mode].shifts_mean:
        raise ModelError(
            f"adaptation '{mode}' fitted on one participant would map anybody onto the training "
            "mean: the prediction would be the same for every person",
            where="--adaptation",
            fix="Fit it on a cohort and give the fitted file, or use 'none' or 'meanfit'.",
        )


def warn_about_fits(adaptations: Mapping[str, Adaptation]) -> None:
    """Log what makes fitted adaptations doubtful: few participants, means without anything alike.

    Parameters
    ----------
    adaptations
        By flavor, or by flavor and site.
    """
    few = {
        key: fit.n_participants
        for key, fit in adaptations.items()
        if fit.mode != "none" and fit.n_participants < FEW_PARTICIPANTS
    }
    if few:
        _log.warning(
            "Adaptations fitted on few participants: %s; from %d on they are dependable",
            describe_counts(few),
            FEW_PARTICIPANTS,
        )
    for key, fit in adaptations.items():
        if fit.r_squared < HOPELESS_R_SQUARED:
            _log.warning(
                "%s: the cohort's mean and the training mean have hardly anything in common "
                "(R² %.3f, slope %.3g): is this really data of that flavor?",
                key,
                fit.r_squared,
                fit.slope,
            )


def describe_counts(counts: Mapping[str, int]) -> str:
    """Say how many there are of each, those with the same number together.

    Examples
    --------
    >>> describe_counts({"FCcorr_fs86_hpf": 6, "FCpcorr_fs86_hpf": 6, "SCsdstream_fs86_count": 5})
    '6 with FCcorr_fs86_hpf, FCpcorr_fs86_hpf; 5 with SCsdstream_fs86_count'
    """
    names: dict[int, list[str]] = {}
    for name, count in counts.items():
        names.setdefault(count, []).append(name)
    return "; ".join(
        f"{count} with {', '.join(some) if len(some) <= N_NAMED else f'{len(some)} flavors each'}"
        for count, some in names.items()
    )


def compare_means(
    source_mean: NDArray[np.floating], target_mean: NDArray[np.floating]
) -> tuple[float, float]:
    """Slope of the line from one mean connectome to another, and their squared correlation.

    Parameters
    ----------
    source_mean, target_mean
        (n_edges,); edges that are NaN in either take no part.

    Returns
    -------
    slope, r_squared
        NaN if there are fewer than two edges to compare, or all are alike.
    """
    m, t = np.asarray(source_mean, dtype=np.float64), np.asarray(target_mean, dtype=np.float64)
    both = np.isfinite(m) & np.isfinite(t)
    try:
        slope, _, r_squared = _fit_line(m[both], t[both])
    except ModelError:
        return np.nan, np.nan
    return slope, r_squared


def is_familiar(slope: float, r_squared: float) -> bool:
    """Say whether data look as if they were in the scale of the training data already."""
    low, high = FAMILIAR_SLOPES
    return low <= slope <= high and r_squared >= FAMILIAR_R_SQUARED


def _fit_line(m: NDArray[np.float64], t: NDArray[np.float64]) -> tuple[float, float, float]:
    """Fit ``a m + b = t``; return a, b and the squared correlation."""
    if m.size < 2 or np.ptp(m) == 0 or np.ptp(t) == 0:
        raise ModelError(
            f"a mean connectome of {m.size} finite edges, all alike, cannot be adapted",
            fix="Look at the connectomes: are they constant or all missing?",
        )
    dm, dt = m - m.mean(), t - t.mean()
    covariance = float(dm @ dt)
    slope = covariance / float(dm @ dm)
    r_squared = covariance**2 / (float(dm @ dm) * float(dt @ dt))
    return slope, float(t.mean() - slope * m.mean()), r_squared


class RunningMean:
    """Mean connectome of a cohort that is read piece by piece.

    Parameters
    ----------
    n_edges
        Length of a connectome's vector of edges.

    Attributes
    ----------
    counts
        (n_edges,), participants that have each edge.
    n_participants
        Participants with at least one edge.
    """

    def __init__(self, n_edges: int) -> None:
        self.counts = np.zeros(n_edges, dtype=np.int64)
        self.n_participants = 0
        self._sum = np.zeros(n_edges)

    def add(self, edges: NDArray[np.floating]) -> None:
        """Add participants, (n, n_edges) or (n_edges,); NaN edges are left out.

        Raises
        ------
        ModelError
            If the number of edges is another.
        """
        rows = np.atleast_2d(np.asarray(edges))
        if rows.shape[1:] != self.counts.shape:
            raise ModelError(
                f"connectomes of {rows.shape[-1]} edges join a mean of {self.counts.size}",
                fix="Use one atlas for all participants.",
            )
        missing = np.isnan(rows)
        if not missing.any():
            self.counts += len(rows)
            self.n_participants += len(rows)
            self._sum += rows.sum(axis=0, dtype=np.float64)
            return
        present = ~missing
        self.counts += present.sum(axis=0)
        self.n_participants += int(present.any(axis=1).sum())
        self._sum += np.where(present, rows, 0.0).sum(axis=0, dtype=np.float64)

    @property
    def mean(self) -> NDArray[np.float64]:
        """(n_edges,), NaN where nobody has the edge."""
        with np.errstate(invalid="ignore"):
            return self._sum / self.counts


def fill_missing(
    x: NDArray[np.floating], mean: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Put the mean where single edges are missing.

    Parameters
    ----------
    x
        (n, n_edges), adapted.
    mean
        (n_edges,), training mean.

    Returns
    -------
    filled
        (n, n_edges), float32; `x` itself if nothing is missing. A row that is NaN throughout
        stays so: the flavor is missing, not some of its edges.
    n_filled
        (n,), number of edges filled.
    """
    missing = np.isnan(x)
    missing[missing.all(axis=1)] = False
    n_filled = missing.sum(axis=1, dtype=np.int64)
    if not n_filled.any():
        return np.asarray(x, dtype=np.float32), n_filled
    return np.where(missing, mean, x).astype(np.float32), n_filled
