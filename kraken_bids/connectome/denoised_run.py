# SPDX-License-Identifier: MIT
"""A functional run that another program denoised: its regions' series are correlated as they are.

Only the first and the last step of the recipe are left: means of regions, and correlation of the
volumes that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .functional import functional_connectomes, global_correlation, present_regions
from .functional_qc import (
    describe_connectomes,
    describe_coverage,
    describe_motion,
    describe_regions,
    describe_support,
    describe_volumes,
)
from .functional_run import FunctionalSettings, ProcessedRun, missing_regions, require_signal
from .parcellation import ParcellatedRun
from .run_traces import describe_course


@dataclass(frozen=True)
class Denoised:
    """What was done to a run before it came here.

    Parameters
    ----------
    program
        Who did it, such as ``xcp_d``.
    variant
        ``hpf``, or ``hpfgsr`` if the global signal was regressed.
    is_outlier
        (n_volumes,), volumes that are not to be correlated.
    high_pass_hz
        Cut-off of the high-pass filter; 0 if there was none.
    motion
        (n_volumes, 6), mm and rad, or None if it is not known.
    n_regressors
        Columns regressed, or None if that is not known.
    """

    program: str
    variant: str
    is_outlier: NDArray[np.bool_]
    high_pass_hz: float = 0.0
    motion: NDArray[np.float64] | None = None
    n_regressors: int | None = None


def process_denoised_run(
    run: ParcellatedRun, denoised: Denoised, *, settings: FunctionalSettings
) -> ProcessedRun:
    """Correlate the regions of a denoised run and describe how good it is.

    Parameters
    ----------
    run
        Means of the regions.
    denoised
        What was done to it.
    settings
        Those of the run; its recipe is not looked at.

    Raises
    ------
    InputError
        If no region of an atlas has signal, or fewer than two volumes are left.
    """
    is_missing = {
        atlas: missing_regions(
            run.n_good[atlas], run.n_voxels[atlas], min_coverage=settings.min_coverage
        )
        for atlas in run.series
    }
    require_signal(is_missing)
    series = {
        f"{atlas}_{denoised.variant}": np.where(is_missing[atlas], np.nan, values)
        for atlas, values in run.series.items()
    }
    connectomes = functional_connectomes(
        series,
        is_outlier=denoised.is_outlier,
        pcorr_lambda=settings.pcorr_lambda,
        dof=_degrees_of_freedom(denoised, settings.repetition_time_s),
        given=settings.given,
    )
    for atlas, missing in is_missing.items():  # constant series are missing, too
        missing |= ~present_regions(connectomes[f"FCcorr_{atlas}_{denoised.variant}"])
        series[f"{atlas}_{denoised.variant}"][:, missing] = np.nan
    regions = describe_regions(run, is_missing, regions=settings.regions)
    qc = {
        "denoising": denoised.program,
        **({"gsr_source": "global_signal"} if denoised.variant == "hpfgsr" else {}),
        "high_pass_hz": denoised.high_pass_hz,
        "min_coverage": settings.min_coverage,
        **_describe_volumes(denoised, settings.repetition_time_s),
        f"gcor_{denoised.variant}": global_correlation(
            next(iter(series.values()))[~denoised.is_outlier]
        ),
        **describe_connectomes(
            connectomes, regions=settings.regions, pcorr_lambda=settings.pcorr_lambda
        ),
        **_describe_freedom(denoised, connectomes, settings),
        **describe_coverage(regions),
        "outlier_volumes": np.flatnonzero(denoised.is_outlier).tolist(),
        "regions": regions,
    }
    first = next(iter(run.series))
    traces = describe_course(
        run,
        before=series[f"{first}_{denoised.variant}"],
        regions=settings.regions[first],
        motion=denoised.motion,
        is_outlier=denoised.is_outlier,
        repetition_time_s=settings.repetition_time_s,
        has_dvars=False,  # it has no scale in series without their mean
    )
    return ProcessedRun(series, connectomes, qc, traces)


def _describe_volumes(denoised: Denoised, repetition_time_s: float) -> dict[str, float]:
    if denoised.motion is None:
        return describe_volumes(denoised.is_outlier, repetition_time_s=repetition_time_s)
    return describe_motion(
        denoised.motion, denoised.is_outlier, repetition_time_s=repetition_time_s
    )


def _degrees_of_freedom(denoised: Denoised, repetition_time_s: float) -> float:
    """Degrees of freedom; NaN where it is not known what was regressed.

    A filter takes two for each frequency below its cut-off, as the cosines below it would.
    """
    if denoised.n_regressors is None:
        return math.nan
    n_volumes = len(denoised.is_outlier)
    n_kept = n_volumes - int(denoised.is_outlier.sum())
    n_slow = int(2 * n_volumes * repetition_time_s * denoised.high_pass_hz)
    return float(n_kept - 1 - denoised.n_regressors - n_slow)


def _describe_freedom(
    denoised: Denoised,
    connectomes: Mapping[str, NDArray[np.float64]],
    settings: FunctionalSettings,
) -> dict[str, float | str]:
    """Degrees of freedom, where they are known, and what they mean for partial correlations."""
    dof = _degrees_of_freedom(denoised, settings.repetition_time_s)
    measures: dict[str, float | str] = {}
    if denoised.n_regressors is not None:
        measures[f"n_regressors_{denoised.variant}"] = denoised.n_regressors
        measures[f"dof_{denoised.variant}"] = dof
    support = describe_support(connectomes, dof=dof, lambda_sources=settings.lambda_sources)
    return measures | support
