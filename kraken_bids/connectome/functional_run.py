# SPDX-License-Identifier: MIT
"""One functional run, from its regions' series to connectomes, quality and traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .denoising import Confounds, Denoising, denoise_run
from .functional import GIVEN, functional_connectomes
from .functional_qc import (
    coverage,
    describe_connectomes,
    describe_coverage,
    describe_motion,
    describe_recipe,
    describe_regions,
    describe_signal,
    describe_support,
    describe_variance_removed,
)
from .parcellation import ParcellatedRun
from .run_traces import describe_course


@dataclass(frozen=True)
class FunctionalSettings:
    """What a run is processed with.

    Parameters
    ----------
    repetition_time_s
        Time between volumes.
    regions
        Name and hemisphere of each region, by atlas.
    recipe
        Of denoising.
    pcorr_lambda
        Regularisation of the partial correlation, by atlas.
    min_coverage
        Share of a region's voxels with signal below which it counts as missing, 0 … 1.
    n_dummy_discarded
        Volumes that the scanner did not keep.
    lambda_sources
        Where the regularisation comes from, by atlas, for the measures; `GIVEN`: fixed by a
        person, so that partial correlations are made with few degrees of freedom, too.
    """

    repetition_time_s: float
    regions: Mapping[str, Sequence[Sequence[str]]]
    recipe: Denoising
    pcorr_lambda: Mapping[str, float]
    min_coverage: float = 0.0
    n_dummy_discarded: int = 0
    lambda_sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> tuple[str, ...]:
        """Atlases whose lambda a person fixed."""
        return tuple(name for name, source in self.lambda_sources.items() if source == GIVEN)


@dataclass(frozen=True)
class ProcessedRun:
    """What becomes of a run.

    Parameters
    ----------
    timeseries
        (n_volumes, n_regions) by ``<atlas>_<variant>``; NaN columns for missing regions.
    connectomes
        (n_regions, n_regions) by flavor name.
    qc
        Flat measures, and ``regions`` by atlas.
    traces
        Arrays that the run's figure is drawn from.
    """

    timeseries: dict[str, NDArray[np.float64]]
    connectomes: dict[str, NDArray[np.float64]]
    qc: dict[str, Any]
    traces: dict[str, NDArray]


def process_run(
    run: ParcellatedRun, confounds: Confounds, *, settings: FunctionalSettings
) -> ProcessedRun:
    """Denoise a run, correlate its regions and describe how good it is.

    Parameters
    ----------
    run
        Means of the regions.
    confounds
        From the run's table.

    Raises
    ------
    InputError
        If the repetition time is no positive number, if no region of an atlas has signal, or if
        too few degrees of freedom are left.
    """
    if not (np.isfinite(settings.repetition_time_s) and settings.repetition_time_s > 0):
        raise InputError(
            f"the repetition time is {settings.repetition_time_s:g} s",
            fix="Give RepetitionTime in the JSON file beside the series.",
        )
    is_missing = {
        atlas: missing_regions(
            run.n_good[atlas], run.n_voxels[atlas], min_coverage=settings.min_coverage
        )
        for atlas in run.series
    }
    require_signal(is_missing)
    series = {
        atlas: np.where(is_missing[atlas], np.nan, values) for atlas, values in run.series.items()
    }
    denoised = denoise_run(
        series,
        confounds,
        repetition_time_s=settings.repetition_time_s,
        global_signal=run.global_signal,
        tissue_means=run.tissue_means,
        grams=run.grams,
        recipe=settings.recipe,
        n_dummy_discarded=settings.n_dummy_discarded,
    )
    for atlas, missing in is_missing.items():
        missing |= np.isnan(denoised.series[f"{atlas}_hpf"]).all(axis=0)
    connectomes = functional_connectomes(
        denoised.series,
        is_outlier=denoised.is_outlier,
        pcorr_lambda=settings.pcorr_lambda,
        dof=denoised.dof["hpf"],
        given=settings.given,
    )
    motion, tr_s = confounds.motion, settings.repetition_time_s
    regions = describe_regions(run, is_missing, regions=settings.regions)
    removed = describe_variance_removed(series, denoised)
    qc = {
        **describe_recipe(
            settings.recipe,
            n_volumes=len(motion),
            repetition_time_s=tr_s,
            min_coverage=settings.min_coverage,
        ),
        **describe_motion(motion, denoised.is_outlier, repetition_time_s=tr_s),
        **describe_signal(run, denoised, series=series),
        **describe_connectomes(
            connectomes, regions=settings.regions, pcorr_lambda=settings.pcorr_lambda
        ),
        **describe_support(
            connectomes, dof=denoised.dof["hpf"], lambda_sources=settings.lambda_sources
        ),
        **describe_coverage(regions),
        "outlier_volumes": np.flatnonzero(denoised.is_outlier).tolist(),
        "regions": {atlas: {**entry, **removed[atlas]} for atlas, entry in regions.items()},
    }
    first = next(iter(series))
    traces = describe_course(
        run,
        before=series[first],
        after=denoised.series[f"{first}_hpf"],
        regions=settings.regions[first],
        motion=motion,
        is_outlier=denoised.is_outlier,
        repetition_time_s=tr_s,
    )
    return ProcessedRun(denoised.series, connectomes, qc, traces)


def missing_regions(
    n_good: NDArray[np.integer], n_voxels: NDArray[np.integer], *, min_coverage: float
) -> NDArray[np.bool_]:
    """Tell which regions have no voxel with signal, or too small a share of such.

    Parameters
    ----------
    n_good, n_voxels
        (n_regions,), voxels with signal, and all.
    min_coverage
        0 … 1.
    """
    return np.asarray((n_good == 0) | (coverage(n_good, n_voxels) < min_coverage))


def require_signal(is_missing: Mapping[str, NDArray[np.bool_]]) -> None:
    """Refuse a run in which an atlas has no region at all.

    Parameters
    ----------
    is_missing
        (n_regions,) by atlas.

    Raises
    ------
    InputError
        Naming the atlases.
    """
    empty = [atlas for atlas, missing in is_missing.items() if missing.all()]
    if empty:
        raise InputError(
            f"no region of {', '.join(empty)} has signal in the image",
            fix="Look whether labels and image overlap, and at --min-coverage.",
        )
