# SPDX-License-Identifier: MIT
"""Quality of a functional run and of its connectomes, as flat numbers.

Names carry their unit; those of one atlas or flavor end in its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .denoising import DenoisedRun, Denoising
from .filtering import edge_width_hz
from .functional import (
    describe_conditioning,
    describe_level,
    global_correlation,
    homotopic_pairs,
    present_regions,
)
from .motion import DISPLACEMENT_LIMIT_MM, composite_motion, framewise_displacement
from .parcellation import ParcellatedRun

#: Framewise displacements, in mm, above which the share of volumes is told.
FD_LIMITS_MM = (0.2, 0.5)

#: Regions with less of their voxels in the image are listed.
LOW_COVERAGE = 0.5

#: What says how series were denoised: the same for all runs of one invocation.
RECIPE_MEASURES = (
    "origin",
    "denoising",
    "denoised_by",
    "compcor",
    "gsr_source",
    "outliers",
    "high_pass_hz",
    "high_pass_edge_hz",
    "min_coverage",
)


def describe_recipe(
    recipe: Denoising, *, n_volumes: int, repetition_time_s: float, min_coverage: float
) -> dict[str, str | float]:
    """How a run was denoised; of a strategy only its name, for the rest is not looked at.

    Parameters
    ----------
    recipe
        Settings.
    n_volumes, repetition_time_s
        Of the run; the filter's edge may depend on them.
    min_coverage
        Share of a region's voxels below which it counts as missing.
    """
    if recipe.denoising != "recipe":
        return {"denoising": recipe.denoising, "min_coverage": min_coverage}
    edge_hz = edge_width_hz(
        n_volumes, repetition_time_s, edge_hz=recipe.high_pass_edge_hz, rule=recipe.edge_rule
    )
    return {
        "denoising": recipe.denoising,
        "compcor": recipe.compcor,
        "gsr_source": recipe.gsr_source,
        "outliers": recipe.outliers,
        "high_pass_hz": recipe.high_pass_hz,
        "high_pass_edge_hz": edge_hz,
        "min_coverage": min_coverage,
    }


def describe_volumes(
    is_outlier: NDArray[np.bool_], *, repetition_time_s: float
) -> dict[str, float]:
    """Volumes of a run, and what is kept of them.

    Parameters
    ----------
    is_outlier
        (n_volumes,).
    """
    n_volumes, n_outliers = len(is_outlier), int(is_outlier.sum())
    return {
        "n_volumes": n_volumes,
        "repetition_time_s": repetition_time_s,
        "n_outliers": n_outliers,
        "percent_outliers": 100 * n_outliers / n_volumes,
        "n_kept": n_volumes - n_outliers,
        "kept_minutes": (n_volumes - n_outliers) * repetition_time_s / 60,
    }


def describe_motion(
    motion: NDArray[np.float64], is_outlier: NDArray[np.bool_], *, repetition_time_s: float
) -> dict[str, float]:
    """Motion, outliers and what is kept of a run.

    Parameters
    ----------
    motion
        (n_volumes, 6), mm and rad.
    is_outlier
        (n_volumes,).
    """
    fd, composite = framewise_displacement(motion)[1:], composite_motion(motion)
    shares = {
        f"percent_fd_above_{limit:g}mm": 100 * float(np.mean(fd > limit)) for limit in FD_LIMITS_MM
    }
    return {
        **describe_volumes(is_outlier, repetition_time_s=repetition_time_s),
        "fd_mean_mm": float(fd.mean()),
        "fd_max_mm": float(fd.max()),
        **shares,
        "composite_motion_mean_mm": float(composite[1:].mean()),
        "composite_motion_max_mm": float(composite.max()),
        f"percent_composite_motion_above_{DISPLACEMENT_LIMIT_MM:g}mm": 100
        * float(np.mean(composite[1:] > DISPLACEMENT_LIMIT_MM)),
    }


def describe_standardised_dvars(std_dvars: NDArray[np.floating]) -> dict[str, float]:
    """Median and largest standardised DVARS; nothing where no volume has a value.

    Parameters
    ----------
    std_dvars
        (n_volumes,), 1 where the change is that expected of the voxels' own noise; NaN for the
        first volume. As fMRIPrep gives it: it needs the noise of each voxel (Nichols 2013).
    """
    if not np.isfinite(std_dvars).any():
        return {}
    return {
        "std_dvars_median": _median(std_dvars),
        "std_dvars_max": float(np.nanmax(std_dvars)),
    }


def describe_signal(
    run: ParcellatedRun, denoised: DenoisedRun, *, series: Mapping[str, NDArray[np.float64]]
) -> dict[str, float]:
    """Noise and global correlation before and after denoising, by the first atlas.

    Parameters
    ----------
    run, denoised
        Before and after.
    series
        (n_volumes, n_regions) by atlas, before.
    """
    atlas = next(iter(series))
    kept = ~denoised.is_outlier
    before = series[atlas][kept]
    measures = {
        "dvars_median": _median(run.dvars),
        "dvars_max": float(np.max(run.dvars, initial=0, where=np.isfinite(run.dvars))),
        "tsnr_median": _median(run.tsnr[atlas]),
        "gcor_before": global_correlation(before),
    }
    for variant in ("hpf", "hpfgsr"):
        after = denoised.series[f"{atlas}_{variant}"][kept]
        removed = variance_removed(before, after)
        measures[f"gcor_{variant}"] = global_correlation(after)
        measures[f"percent_variance_removed_{variant}"] = 100 * _median(removed)
        measures[f"n_regressors_{variant}"] = denoised.n_regressors[variant]
        measures[f"dof_{variant}"] = denoised.dof[variant]
    for tissue, n_voxels in run.n_tissue.items():
        measures[f"n_voxels_{tissue}"] = n_voxels
    for tissue, gap in denoised.component_gaps.items():
        measures[f"component_gap_{tissue}"] = gap
    measures["has_onset_regressor"] = int(denoised.has_transient)
    return measures


def variance_removed(
    before: NDArray[np.floating], after: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Share of each region's variance over time that denoising removed, (n_regions,).

    Parameters
    ----------
    before, after
        (n_volumes, n_regions), volumes that are kept; NaN columns for missing regions.

    Returns
    -------
    NDArray
        ``1 - var(after) / var(before)``; NaN for regions that are missing or constant.
    """
    ratio = np.full(before.shape[1], np.nan)
    spread = before.var(axis=0)
    np.divide(after.var(axis=0), spread, out=ratio, where=spread > 0)
    return np.asarray(1 - ratio)


def _median(values: NDArray[np.floating]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def coverage(n_good: NDArray[np.integer], n_voxels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of each region's voxels that have signal, (n_regions,); 0 where it has no voxels."""
    share: NDArray[np.float64] = np.zeros(len(n_good))
    np.divide(n_good, n_voxels, out=share, where=n_voxels > 0)
    return share


def describe_regions(
    run: ParcellatedRun,
    is_missing: Mapping[str, NDArray[np.bool_]],
    *,
    regions: Mapping[str, Sequence[Sequence[str]]],
) -> dict[str, dict[str, Any]]:
    """Coverage, voxels and signal-to-noise ratio of all regions, by atlas.

    Parameters
    ----------
    is_missing
        (n_regions,) by atlas.
    regions
        Name and hemisphere of each region, by atlas.
    """
    described = {}
    for atlas, rows in regions.items():
        names = np.array([row[0] for row in rows])
        share = coverage(run.n_good[atlas], run.n_voxels[atlas])
        described[atlas] = {
            "coverage": share.tolist(),
            "n_voxels": run.n_voxels[atlas].tolist(),
            "tsnr": run.tsnr[atlas].tolist(),
            "missing": names[is_missing[atlas]].tolist(),
            "low_coverage": names[(share < LOW_COVERAGE) & ~is_missing[atlas]].tolist(),
        }
    return described


def describe_variance_removed(
    series: Mapping[str, NDArray[np.float64]], denoised: DenoisedRun
) -> dict[str, dict[str, list[float]]]:
    """Percentage of each region's variance that denoising removed, by atlas and measure.

    Parameters
    ----------
    series
        (n_volumes, n_regions) by atlas, before.
    denoised
        After.
    """
    kept = ~denoised.is_outlier
    return {
        atlas: {
            f"percent_variance_removed_{variant}": (
                100 * variance_removed(before[kept], denoised.series[f"{atlas}_{variant}"][kept])
            ).tolist()
            for variant in ("hpf", "hpfgsr")
        }
        for atlas, before in series.items()
    }


def describe_coverage(regions: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Coverage of all regions of each atlas, in three numbers.

    Parameters
    ----------
    regions
        By atlas, as `describe_regions` or `describe_combined_regions` gives them.
    """
    measures: dict[str, float] = {}
    for atlas, entry in regions.items():
        if "coverage" not in entry:  # ready-made series: the image is not known
            continue
        share = np.asarray(entry["coverage"], dtype=np.float64)
        measures |= {
            f"coverage_median_{atlas}": float(np.median(share)),
            f"coverage_min_{atlas}": float(share.min()),
            f"n_low_coverage_regions_{atlas}": int(np.count_nonzero(share < LOW_COVERAGE)),
        }
    return measures


def describe_connectomes(
    connectomes: Mapping[str, NDArray[np.float64]],
    *,
    regions: Mapping[str, Sequence[Sequence[str]]],
    pcorr_lambda: Mapping[str, float],
) -> dict[str, float]:
    """Level of each connectome, and how well each partial correlation is conditioned.

    Parameters
    ----------
    connectomes
        (n_regions, n_regions) by flavor name.
    regions
        Name and hemisphere of each region, by atlas.
    pcorr_lambda
        Regularisation by atlas.
    """
    pairs = {
        atlas: homotopic_pairs([row[0] for row in rows], [row[1] for row in rows])
        for atlas, rows in regions.items()
    }
    measures: dict[str, float] = {}
    for flavor, matrix in connectomes.items():
        kind, atlas, processing = flavor.split("_")
        level = describe_level(matrix, pairs[atlas])
        measures |= {
            f"mean_{flavor}": level.mean,
            f"sd_{flavor}": level.sd,
            f"min_{flavor}": level.minimum,
            f"max_{flavor}": level.maximum,
            f"homotopic_{flavor}": level.homotopic,
        }
        if (kind, processing) == ("FCcorr", "hpf"):
            lowest, condition = describe_conditioning(matrix, regularization=pcorr_lambda[atlas])
            measures |= {
                f"n_missing_regions_{atlas}": int((~present_regions(matrix)).sum()),
                f"n_missing_edges_{atlas}": level.n_missing_edges,
                f"min_eigenvalue_{atlas}": lowest,
            }
            if f"FCpcorr_{atlas}_hpf" in connectomes:
                measures |= {
                    f"pcorr_lambda_{atlas}": pcorr_lambda[atlas],
                    f"pcorr_condition_{atlas}": condition,
                }
    return measures


def describe_support(
    connectomes: Mapping[str, NDArray[np.float64]],
    *,
    dof: float,
    lambda_sources: Mapping[str, str] | None = None,
) -> dict[str, float | str]:
    """How many degrees of freedom stand behind a partial correlation, a region: by atlas.

    Below 1 the correlation matrix has no inverse of its own, and the partial correlation would be
    what its regularisation makes of it: it is withheld, unless lambda was given. Below 2 it is
    noisy.

    Parameters
    ----------
    connectomes
        (n_regions, n_regions) by flavor name; NaN for missing regions.
    dof
        Degrees of freedom left of all runs together; NaN if not known.
    lambda_sources
        Where the regularisation of those that are there comes from, by atlas.
    """
    measures: dict[str, float | str] = {}
    for flavor, matrix in connectomes.items():
        kind, atlas, processing = flavor.split("_")
        n_present = int(present_regions(matrix).sum())
        if (kind, processing) != ("FCcorr", "hpf") or not n_present:
            continue
        if np.isfinite(dof):
            measures[f"pcorr_dof_per_region_{atlas}"] = dof / n_present
        if f"FCpcorr_{atlas}_hpf" not in connectomes:
            measures[f"pcorr_withheld_{atlas}"] = 1
        elif atlas in (lambda_sources or {}):
            measures[f"pcorr_lambda_source_{atlas}"] = (lambda_sources or {})[atlas]
    return measures


def describe_runs(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up what is kept of several runs, and their motion; say what recipe they share.

    Parameters
    ----------
    runs
        Measures of each run, as `describe_motion` and `describe_signal` give them.
    """
    summed = ("n_volumes", "n_outliers", "n_kept", "kept_minutes", "dof_hpf", "dof_hpfgsr")
    measures: dict[str, Any] = {"n_runs": len(runs)}
    measures |= {
        name: runs[0][name]
        for name in RECIPE_MEASURES
        if all(run.get(name) == runs[0].get(name, "") for run in runs)
    }
    measures |= {
        name: sum(run[name] for run in runs)
        for name in summed
        if all(run.get(name) is not None for run in runs)
    }
    measures["percent_outliers"] = 100 * measures["n_outliers"] / measures["n_volumes"]
    if any(run.get("fd_mean_mm") is None for run in runs):
        return measures
    volumes = [run["n_volumes"] for run in runs]
    measures["fd_mean_mm"] = float(
        np.average([run["fd_mean_mm"] for run in runs], weights=volumes)
    )
    measures["fd_max_mm"] = max(run["fd_max_mm"] for run in runs)
    return measures


def describe_combined_regions(
    runs: Sequence[Mapping[str, Any]],
    connectomes: Mapping[str, NDArray[np.float64]],
    *,
    regions: Mapping[str, Sequence[Sequence[str]]],
) -> dict[str, dict[str, Any]]:
    """Regions missing in the average over runs, and their mean coverage, by atlas.

    Parameters
    ----------
    runs
        Measures of each run, with ``regions``.
    connectomes
        Averages, (n_regions, n_regions) by flavor name.
    regions
        Name and hemisphere of each region, by atlas.
    """
    described = {}
    for atlas, rows in regions.items():
        names = [f"FCcorr_{atlas}_{variant}" for variant in ("hpf", "hpfgsr")]
        present = present_regions(next(connectomes[name] for name in names if name in connectomes))
        missing = [row[0] for row, has in zip(rows, present, strict=True) if not has]
        if any("coverage" not in run["regions"][atlas] for run in runs):
            described[atlas] = {"missing": missing}
            continue
        shares = [run["regions"][atlas]["coverage"] for run in runs]
        described[atlas] = {
            "coverage": np.mean(shares, axis=0).tolist(),
            "missing": missing,
            "low_coverage": [
                row[0]
                for row, has, share in zip(rows, present, np.mean(shares, axis=0), strict=True)
                if has and share < LOW_COVERAGE
            ],
        }
    return described
