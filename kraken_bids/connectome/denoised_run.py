# SPDX-License-Identifier: MIT
"""A functional run that another program denoised: its regions' series are correlated as they are.

Only the first and the last step of the recipe are left: means of regions, and correlation of the
volumes that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .functional import functional_connectomes, global_correlation
from .functional_qc import (
    describe_connectomes,
    describe_motion,
    describe_regions,
    describe_support,
    describe_volumes,
)
from .functional_run import FunctionalSettings, ProcessedRun, missing_regions, require_signal
from .motion import framewise_displacement
from .parcellation import ParcellatedRun


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
        series, is_outlier=denoised.is_outlier, pcorr_lambda=settings.pcorr_lambda
    )
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
        **_describe_freedom(denoised, connectomes, settings.repetition_time_s),
        "outlier_volumes": np.flatnonzero(denoised.is_outlier).tolist(),
        "regions": describe_regions(run, is_missing, regions=settings.regions),
    }
    traces = _traces(run, denoised, next(iter(series.values())), settings.repetition_time_s)
    return ProcessedRun(series, connectomes, qc, traces)


def _describe_volumes(denoised: Denoised, repetition_time_s: float) -> dict[str, float]:
    if denoised.motion is None:
        return describe_volumes(denoised.is_outlier, repetition_time_s=repetition_time_s)
    return describe_motion(
        denoised.motion, denoised.is_outlier, repetition_time_s=repetition_time_s
    )


def _describe_freedom(
    denoised: Denoised, connectomes: Mapping[str, NDArray[np.float64]], repetition_time_s: float
) -> dict[str, float]:
    """Degrees of freedom, where it is known what was regressed.

    A filter takes two for each frequency below its cut-off, as the cosines below it would.
    """
    if denoised.n_regressors is None:
        return {}
    n_volumes = len(denoised.is_outlier)
    n_kept = n_volumes - int(denoised.is_outlier.sum())
    n_slow = int(2 * n_volumes * repetition_time_s * denoised.high_pass_hz)
    dof = float(n_kept - 1 - denoised.n_regressors - n_slow)
    return {
        f"n_regressors_{denoised.variant}": denoised.n_regressors,
        f"dof_{denoised.variant}": dof,
        **describe_support(connectomes, dof=dof),
    }


def _traces(
    run: ParcellatedRun,
    denoised: Denoised,
    series: NDArray[np.float64],
    repetition_time_s: float,
) -> dict[str, Any]:
    """Arrays of a run's figure; DVARS has no scale in series without their mean."""
    spread = series.std(axis=0)
    z = np.full(series.shape, np.nan)
    np.divide(series - series.mean(axis=0), spread, out=z, where=spread > 0)
    unknown = np.full(len(series), np.nan)
    motion = denoised.motion
    return {
        "repetition_time_s": np.array(repetition_time_s),
        "framewise_displacement_mm": (
            unknown if motion is None else framewise_displacement(motion)
        ),
        "dvars": unknown,
        "global_signal": run.global_signal,
        "is_outlier": denoised.is_outlier,
        "series": z,
    }
