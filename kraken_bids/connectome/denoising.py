# SPDX-License-Identifier: MIT
"""Remove nuisance from the series of regions: the recipe of the model's training connectomes.

First everything is regressed at once, unfiltered, from the volumes that are no outliers; then
slow drifts are filtered out. Regression and filter act on time only, so that cleaning the means
of regions is the same as averaging cleaned voxels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import gamma

from ..errors import InputError
from .motion import expand_motion, flag_outliers, n_unsteady_volumes, with_differences

FloatArray = NDArray[np.float64]

#: Principal components of each tissue, beside its mean.
N_COMPONENTS = 4

#: Eigenvalues of a tissue's Gram matrix below this share of the first are rounding: the series
#: are kept in single precision.
COMPONENT_LIMIT = 1e-7

#: Columns that others explain up to this share of their norm are left out of the regression.
RANK_LIMIT = 1e-10

#: A region of whose series regression leaves less than this share holds rounding only.
RESIDUAL_LIMIT = 1e-10

#: Shorter runs cannot tell the transient at their start from signal.
MIN_TRANSIENT_S = 60.0

#: Half length of the filter's Gaussian edge, in standard deviations (upstream: 18 s / 3.6 s).
EDGE_SDS = 5.0

#: Fewer degrees of freedom give no correlation worth the name (standard error above 0.3).
MIN_DOF = 10.0


@dataclass(frozen=True)
class Denoising:
    """Settings of the recipe; see `kraken_bids.settings.FunctionalOptions`.

    Parameters
    ----------
    compcor
        ``exact`` or ``columns``.
    gsr_source
        ``grey_matter`` or ``global_signal``.
    high_pass_hz, high_pass_edge_hz
        Cut-off of the filter and standard deviation of its edge, in Hz.
    skip_s
        Time at the start that is flagged, in s.
    """

    compcor: str = "exact"
    gsr_source: str = "grey_matter"
    high_pass_hz: float = 0.01
    high_pass_edge_hz: float = 0.0029
    skip_s: float = 7.2


def onset_transient(n_volumes: int, repetition_time_s: float) -> FloatArray:
    """Response to a block of rest that starts with the run.

    Returns
    -------
    NDArray
        (n_volumes,): rises, overshoots and stays constant after some 35 s.

    Notes
    -----
    Sum over time of SPM's canonical response, ``1.2 (g(t; 6) - g(t; 16) / 6)`` with ``g`` the
    gamma density, sampled once a volume.
    """
    times = np.arange(n_volumes) * repetition_time_s
    response = 1.2 * (gamma.pdf(times, 6) - gamma.pdf(times, 16) / 6)
    return np.asarray(np.cumsum(response), dtype=np.float64)


def orthonormal_basis(columns: FloatArray) -> FloatArray:
    """Basis of the space of some columns and a constant.

    Parameters
    ----------
    columns
        (n_volumes, n); may be collinear or constant.

    Returns
    -------
    NDArray
        (n_volumes, rank), orthonormal; the first is constant.
    """
    constant = np.full((len(columns), 1), 1 / math.sqrt(len(columns)))
    centred = columns - columns.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    scale = np.abs(columns).max(axis=0, initial=0.0) * math.sqrt(len(columns))
    varies = norms > RANK_LIMIT * scale
    if not varies.any():
        return constant
    basis, triangle, _ = scipy.linalg.qr(
        centred[:, varies] / norms[varies], mode="economic", pivoting=True
    )
    rank = int(np.count_nonzero(np.abs(np.diag(triangle)) > RANK_LIMIT))
    return np.hstack([constant, basis[:, :rank]])


@dataclass(frozen=True)
class TissueComponents:
    """Mean and principal components of a tissue.

    Parameters
    ----------
    columns
        (n_volumes, 1 + n_components); components are 0 at outliers.
    gap
        ``1 - e_5 / e_4`` with ``e_k`` the k-th eigenvalue: near 0, the last component is
        arbitrary.
    """

    columns: FloatArray
    gap: float


def tissue_components(
    mean: FloatArray,
    gram: FloatArray,
    *,
    nuisance: FloatArray,
    is_outlier: NDArray[np.bool_],
) -> TissueComponents:
    """Find a tissue's mean and the components of what mean and nuisance leave over.

    Parameters
    ----------
    mean
        (n_volumes,), mean over the tissue's voxels.
    gram
        (n_volumes, n_volumes), products between volumes of the voxels' centred series.
    nuisance
        (n_volumes, n), regressed before (a constant is understood).
    is_outlier
        (n_volumes,), left out.

    Notes
    -----
    With ``M`` the projection that removes mean and nuisance and ``Y`` the voxels' series, the
    left singular vectors of ``M Y`` are the eigenvectors of ``M (Y Y') M``: no second pass over
    the voxels is needed.
    """
    kept = ~is_outlier
    basis = orthonormal_basis(np.column_stack([mean, nuisance])[kept])
    cleaned = gram[np.ix_(kept, kept)]
    cleaned = cleaned - basis @ (basis.T @ cleaned)
    cleaned = cleaned - (cleaned @ basis) @ basis.T
    size = len(cleaned)
    first = max(size - N_COMPONENTS - 1, 0)
    values, vectors = scipy.linalg.eigh(
        (cleaned + cleaned.T) / 2, subset_by_index=[first, size - 1]
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    is_real = values[:N_COMPONENTS] > COMPONENT_LIMIT * max(values[0], np.finfo(float).tiny)
    columns = np.zeros((len(mean), 1 + int(is_real.sum())))
    columns[:, 0] = mean
    columns[kept, 1:] = vectors[:, :N_COMPONENTS][:, is_real]
    gap = 0.0
    if is_real.sum() == N_COMPONENTS and len(values) > N_COMPONENTS:
        gap = 1.0 - max(values[N_COMPONENTS], 0.0) / values[N_COMPONENTS - 1]
    return TissueComponents(columns, float(gap))


def high_pass_weights(
    n_volumes: int, repetition_time_s: float, *, cutoff_hz: float, edge_hz: float
) -> FloatArray:
    """Gains of the high-pass filter for the cosines of a discrete cosine transform.

    Parameters
    ----------
    cutoff_hz
        Frequency of gain one half.
    edge_hz
        Standard deviation of the Gaussian that softens the edge; 0 for a hard edge.

    Returns
    -------
    NDArray
        (n_volumes,), 0 … 1, for frequencies ``k / (2 n_volumes repetition_time_s)``.
    """
    frequencies = np.arange(n_volumes) / (2 * n_volumes * repetition_time_s)
    passes = (frequencies >= cutoff_hz).astype(np.float64)
    edge_bins = edge_hz * 2 * n_volumes * repetition_time_s
    half = int(EDGE_SDS * edge_bins)
    if half == 0:
        return passes
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / edge_bins) ** 2)
    return np.asarray(ndimage.convolve1d(passes, kernel / kernel.sum(), mode="reflect"))


def high_pass(
    series: FloatArray, weights: FloatArray, *, is_outlier: NDArray[np.bool_]
) -> FloatArray:
    """Filter series with gains on their cosines, ignoring outliers.

    Parameters
    ----------
    series
        (n_volumes, n_regions).
    weights
        (n_volumes,), as `high_pass_weights` gives them.
    is_outlier
        (n_volumes,): set to 0 before, filled in by the filter.

    Notes
    -----
    Zeroing outliers and transforming is the projection on the cosines that ignores them.
    """
    zeroed = np.where(is_outlier[:, None], 0.0, series)
    spectrum = scipy.fft.dct(zeroed, type=2, norm="ortho", axis=0)
    filtered = scipy.fft.idct(weights[:, None] * spectrum, type=2, norm="ortho", axis=0)
    return np.asarray(filtered, dtype=np.float64)


@dataclass(frozen=True)
class Cleaned:
    """Series after regression and filter.

    Parameters
    ----------
    series
        (n_volumes, n_regions); outliers hold the filter's interpolation. NaN for regions of
        which nothing is left, such as those of a constant value.
    n_regressors
        Rank of the regressors, the constant included, outliers' own not.
    dof
        Degrees of freedom left: kept volumes, less regressors, less what the filter takes.
    """

    series: FloatArray
    n_regressors: int
    dof: float


def clean(
    series: FloatArray,
    nuisance: FloatArray,
    *,
    is_outlier: NDArray[np.bool_],
    weights: FloatArray,
) -> Cleaned:
    """Regress nuisance from the volumes that are no outliers, then filter.

    Parameters
    ----------
    series
        (n_volumes, n_regions); NaN columns stay NaN.
    nuisance
        (n_volumes, n); a constant is understood.
    is_outlier
        (n_volumes,). Leaving them out is the same as a regressor for each.
    weights
        (n_volumes,), gains of the filter.

    Raises
    ------
    InputError
        If fewer than `MIN_DOF` degrees of freedom are left.
    """
    kept = ~is_outlier
    n_kept = int(kept.sum())
    basis = orthonormal_basis(nuisance[kept]) if n_kept else np.zeros((0, 0))
    n_regressors = basis.shape[1]
    n_filtered = float(np.sum(1 - weights**2))
    dof = n_kept - n_regressors - n_filtered
    if dof < MIN_DOF:
        raise InputError(
            f"{len(series)} volumes with {len(series) - n_kept} outliers, {n_regressors} "
            f"regressors and {n_filtered:.1f} filtered frequencies leave {dof:.1f} degrees of "
            f"freedom; {MIN_DOF:g} are needed",
            fix="Leave the run out (--run-id, --bids-filter-file): it is too short or moved.",
        )
    residual = np.zeros_like(series)
    residual[kept] = series[kept] - basis @ (basis.T @ series[kept])
    left, whole = np.linalg.norm(residual, axis=0), np.linalg.norm(series[kept], axis=0)
    residual[:, ~(left > RESIDUAL_LIMIT * whole)] = np.nan
    return Cleaned(high_pass(residual, weights, is_outlier=is_outlier), n_regressors, dof)


@dataclass(frozen=True)
class Confounds:
    """What the table of confounds gives.

    Parameters
    ----------
    motion
        (n_volumes, 6), translations in mm, rotations in rad.
    n_non_steady
        Volumes at the start that the preprocessing found not yet steady.
    components
        (n_volumes, n) by tissue: columns of aCompCor; empty if they are computed.
    """

    motion: FloatArray
    n_non_steady: int = 0
    components: Mapping[str, FloatArray] | None = None


@dataclass(frozen=True)
class DenoisedRun:
    """A run after denoising.

    Parameters
    ----------
    series
        By atlas and variant, ``<atlas>_hpf`` and ``<atlas>_hpfgsr``: (n_volumes, n_regions).
    is_outlier
        (n_volumes,).
    n_regressors, dof
        By variant, ``hpf`` and ``hpfgsr``.
    component_gaps
        By tissue; empty where components are columns of the table.
    has_transient
        Whether the transient at the start was regressed.
    """

    series: dict[str, FloatArray]
    is_outlier: NDArray[np.bool_]
    n_regressors: dict[str, int]
    dof: dict[str, float]
    component_gaps: dict[str, float]
    has_transient: bool


def denoise_run(
    series: Mapping[str, FloatArray],
    confounds: Confounds,
    *,
    repetition_time_s: float,
    global_signal: FloatArray,
    tissue_means: Mapping[str, FloatArray],
    grams: Mapping[str, FloatArray],
    recipe: Denoising,
    n_dummy_discarded: int = 0,
) -> DenoisedRun:
    """Denoise the series of all atlases of one run, with and without the global signal.

    Parameters
    ----------
    series
        (n_volumes, n_regions) by atlas.
    confounds
        From the table.
    global_signal
        (n_volumes,), mean over the brain mask.
    tissue_means, grams
        (n_volumes,) and (n_volumes, n_volumes) by tissue; empty where not needed.
    n_dummy_discarded
        Volumes never stored by the scanner; with them gone there is no transient.

    Raises
    ------
    InputError
        If a tissue is needed that is not there, or too few degrees of freedom are left.
    """
    n_volumes = len(global_signal)
    n_first = n_unsteady_volumes(
        repetition_time_s, skip_s=recipe.skip_s, n_found=confounds.n_non_steady
    )
    is_outlier = flag_outliers(confounds.motion, global_signal, n_first=n_first)
    has_transient = n_volumes * repetition_time_s >= MIN_TRANSIENT_S and not n_dummy_discarded
    transient = [onset_transient(n_volumes, repetition_time_s)[:, None]] if has_transient else []
    trend = np.arange(n_volumes, dtype=np.float64)[:, None]
    tissues = _components(
        confounds,
        tissue_means,
        grams,
        nuisance=np.hstack([trend, confounds.motion, *transient]),
        is_outlier=is_outlier,
        recipe=recipe,
    )
    columns = [trend, *(tissue.columns for tissue in tissues.values())]
    columns += [expand_motion(confounds.motion), *map(with_differences, transient)]
    nuisance = np.hstack(columns)
    gsr = with_differences(_gsr_signal(global_signal, tissue_means, recipe))
    weights = high_pass_weights(
        n_volumes,
        repetition_time_s,
        cutoff_hz=recipe.high_pass_hz,
        edge_hz=recipe.high_pass_edge_hz,
    )
    variants = {"hpf": nuisance, "hpfgsr": np.hstack([nuisance, gsr])}
    cleaned = {
        (atlas, variant): clean(values, regressors, is_outlier=is_outlier, weights=weights)
        for atlas, values in series.items()
        for variant, regressors in variants.items()
    }
    by_variant = {variant: result for (_, variant), result in cleaned.items()}
    return DenoisedRun(
        series={
            f"{atlas}_{variant}": result.series for (atlas, variant), result in cleaned.items()
        },
        is_outlier=is_outlier,
        n_regressors={variant: result.n_regressors for variant, result in by_variant.items()},
        dof={variant: result.dof for variant, result in by_variant.items()},
        component_gaps={
            name: tissue.gap for name, tissue in tissues.items() if recipe.compcor == "exact"
        },
        has_transient=has_transient,
    )


def _components(
    confounds: Confounds,
    means: Mapping[str, FloatArray],
    grams: Mapping[str, FloatArray],
    *,
    nuisance: FloatArray,
    is_outlier: NDArray[np.bool_],
    recipe: Denoising,
) -> dict[str, TissueComponents]:
    """White matter and CSF components, computed or from the table."""
    if recipe.compcor == "columns":
        given = confounds.components or {}
        return {name: TissueComponents(given[name], float("nan")) for name in ("WM", "CSF")}
    _require_tissues(grams, ("WM", "CSF"), option="--compcor columns")
    if is_outlier.all():
        raise InputError("all volumes are outliers", fix="Leave the run out.")
    return {
        name: tissue_components(means[name], grams[name], nuisance=nuisance, is_outlier=is_outlier)
        for name in ("WM", "CSF")
    }


def _gsr_signal(
    global_signal: FloatArray, means: Mapping[str, FloatArray], recipe: Denoising
) -> FloatArray:
    """Signal that stands for the whole brain."""
    if recipe.gsr_source == "global_signal":
        return global_signal
    _require_tissues(means, ("GM",), option="--gsr-source global_signal")
    return means["GM"]


def _require_tissues(
    found: Mapping[str, FloatArray], needed: Sequence[str], *, option: str
) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise InputError(
            f"no masks of {' and '.join(missing)}: the run has no FreeSurfer segmentation",
            fix=f"Give fMRIPrep's desc-aparcaseg_dseg or --fs-subjects-dir, or use {option}.",
        )
