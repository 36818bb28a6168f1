# SPDX-License-Identifier: MIT
"""Remove nuisance from the series of regions: the recipe of the model's training connectomes.

First everything is regressed at once, unfiltered, from the volumes that are no outliers; then
slow drifts are filtered out. Regression and filter act on time only, so that cleaning the means
of regions is the same as averaging cleaned voxels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma

from ..errors import InputError
from .components import TissueComponents, orthonormal_basis, tissue_components
from .filtering import high_pass, high_pass_weights
from .motion import expand_motion, flag_outliers, n_unsteady_volumes, with_differences

FloatArray = NDArray[np.float64]

#: A region of whose series regression leaves less than this share holds rounding only.
RESIDUAL_LIMIT = 1e-10

#: Shorter runs cannot tell the transient at their start from signal.
MIN_TRANSIENT_S = 60.0

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
    outliers
        ``recipe``, or ``fmriprep`` for the outliers of the table of confounds.
    high_pass_hz, high_pass_edge_hz
        Cut-off of the filter and standard deviation of its edge, in Hz.
    edge_rule
        ``hz``, or ``fmriclean``: the edge is then as wide in bins as `fmriclean_edge` says.
    skip_s
        Time at the start that is flagged, in s.
    denoising
        ``recipe``, or the name of a strategy: the rest is then not looked at, and what is
        regressed and left out is what `Confounds` brings.
    """

    compcor: str = "exact"
    gsr_source: str = "grey_matter"
    outliers: str = "recipe"
    high_pass_hz: float = 0.01
    high_pass_edge_hz: float = 0.0029
    edge_rule: str = "hz"
    skip_s: float = 7.2
    denoising: str = "recipe"


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
    is_flagged
        (n_volumes,), volumes that the table says to leave out; None if it was not asked.
    regressors
        (n_volumes, n) by variant, ``hpf`` and ``hpfgsr``: all columns of a strategy, those of
        its filter included; None for the recipe.
    """

    motion: FloatArray
    n_non_steady: int = 0
    components: Mapping[str, FloatArray] | None = None
    is_flagged: NDArray[np.bool_] | None = None
    regressors: Mapping[str, FloatArray] | None = None


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
    if recipe.denoising != "recipe":
        return _denoise_by_strategy(series, confounds, name=recipe.denoising)
    n_volumes = len(global_signal)
    is_outlier = _outliers(confounds, global_signal, repetition_time_s, recipe)
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
        rule=recipe.edge_rule,
    )
    return _clean_variants(
        series,
        {"hpf": nuisance, "hpfgsr": np.hstack([nuisance, gsr])},
        is_outlier=is_outlier,
        weights=weights,
        component_gaps={
            name: tissue.gap for name, tissue in tissues.items() if recipe.compcor == "exact"
        },
        has_transient=has_transient,
    )


def _denoise_by_strategy(
    series: Mapping[str, FloatArray], confounds: Confounds, *, name: str
) -> DenoisedRun:
    """Regress the columns of a strategy, its cosines among them; there is no other filter."""
    if confounds.regressors is None or confounds.is_flagged is None:
        raise InputError(
            f"the table of confounds was not read for the strategy {name}",
            where="--denoising",
            fix="Give regressors and flagged volumes together with the strategy.",
        )
    return _clean_variants(
        series,
        confounds.regressors,
        is_outlier=confounds.is_flagged,
        weights=np.ones(len(confounds.is_flagged)),
    )


def _clean_variants(
    series: Mapping[str, FloatArray],
    variants: Mapping[str, FloatArray],
    *,
    is_outlier: NDArray[np.bool_],
    weights: FloatArray,
    component_gaps: dict[str, float] | None = None,
    has_transient: bool = False,
) -> DenoisedRun:
    """Clean the series of all atlases with the regressors of each variant."""
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
        component_gaps=component_gaps or {},
        has_transient=has_transient,
    )


def _outliers(
    confounds: Confounds, global_signal: FloatArray, repetition_time_s: float, recipe: Denoising
) -> NDArray[np.bool_]:
    """Volumes to leave out: by the recipe's own rule or the table's, and the first ones."""
    n_first = n_unsteady_volumes(
        repetition_time_s, skip_s=recipe.skip_s, n_found=confounds.n_non_steady
    )
    if recipe.outliers == "recipe":
        return flag_outliers(confounds.motion, global_signal, n_first=n_first)
    if confounds.is_flagged is None:
        raise InputError(
            "the outliers of the table of confounds were not read",
            where="--outliers fmriprep",
            fix="Give flagged volumes, or use --outliers recipe.",
        )
    is_outlier = confounds.is_flagged.copy()
    is_outlier[:n_first] = True
    return is_outlier


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
