# SPDX-License-Identifier: MIT
"""The table of confounds that fMRIPrep writes beside a series, computed from the series."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .bold import REPETITION_TIME_S, Scan

#: fMRIPrep's default limits for a motion outlier.
_FD_LIMIT_MM = 0.5
_DVARS_LIMIT = 1.5
_HEAD_RADIUS_MM = 50.0
_HIGH_PASS_S = 128.0
_N_COMPONENTS = 6
#: fMRIPrep keeps components until half the variance is explained; the rest is not written.
_MASKS = {"c": "CSF", "w": "WM", "a": "combined"}

Columns = dict[str, NDArray[np.float64]]


def make_confounds(
    scan: Scan, *, white: NDArray[np.bool_], csf: NDArray[np.bool_]
) -> tuple[Columns, dict[str, Any]]:
    """Compute the columns of ``desc-confounds_timeseries`` and their sidecar.

    Parameters
    ----------
    scan
        The series with its motion.
    white, csf
        (X, Y, Z), masks of tissue.

    Returns
    -------
    columns
        (n_volumes,) by name, in fMRIPrep's order; NaN where the table says ``n/a``.
    sidecar
        Description of the columns that fMRIPrep describes.
    """
    brain = scan.data[scan.brain].astype(np.float64) * scan.slope
    inside = {"global_signal": scan.brain, "csf": csf, "white_matter": white}
    means = {
        name: brain[mask[scan.brain]].mean(axis=0)
        for name, mask in inside.items()
    }  # fmt: skip
    columns: Columns = {}
    for name in ("global_signal", "csf", "white_matter"):
        columns |= _expand(name, means[name])
    displacement = framewise_displacement(scan.motion)
    columns |= _variation(brain)
    columns["framewise_displacement"] = displacement
    columns["rmsd"] = _rms_displacement(scan.motion)
    sidecar: dict[str, Any] = {name: {"Method": "Mean"} for name in means}
    components, described = _components(brain, csf[scan.brain], white[scan.brain])
    columns |= components
    sidecar |= described
    for number, cosine in enumerate(_cosines(len(scan.motion))):
        columns[f"cosine{number:02d}"] = cosine
    columns["non_steady_state_outlier00"] = np.eye(len(scan.motion))[0]
    names = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
    for name, values in zip(names, scan.motion.T, strict=True):
        columns |= _expand(name, values)
    columns |= _outliers(displacement, columns["std_dvars"])
    return columns, sidecar


def framewise_displacement(motion: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum of absolute changes, rotations on a sphere of 50 mm: (n_volumes,), mm; first NaN."""
    change = np.abs(np.diff(motion, axis=0)) * ([1] * 3 + [_HEAD_RADIUS_MM] * 3)
    return np.concatenate([[np.nan], change.sum(axis=1)])


def _rms_displacement(motion: NDArray[np.floating]) -> NDArray[np.float64]:
    """Root mean square displacement over a sphere of 50 mm, for small turns; first NaN."""
    change = np.diff(motion, axis=0)
    turn = _HEAD_RADIUS_MM**2 * (change[:, 3:] ** 2).sum(axis=1) * 2 / 5
    return np.concatenate([[np.nan], np.sqrt((change[:, :3] ** 2).sum(axis=1) + turn)])


def _expand(name: str, values: NDArray[np.floating]) -> Columns:
    """A signal, its backward derivative, and the squares of both."""
    derivative = np.concatenate([[np.nan], np.diff(values)])
    return {
        name: values,
        f"{name}_derivative1": derivative,
        f"{name}_derivative1_power2": derivative**2,
        f"{name}_power2": values**2,
    }


def _variation(brain: NDArray[np.floating]) -> Columns:
    """DVARS and its standardised form: (n_volumes,) each; first NaN."""
    change = np.sqrt((np.diff(brain, axis=1) ** 2).mean(axis=0))
    low, high = np.percentile(brain, [25, 75], axis=1)
    centred = brain - brain.mean(axis=1, keepdims=True)
    lag = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / (centred**2).sum(axis=1)
    expected = np.sqrt(2 * (1 - lag)) * (high - low) / 1.349
    return {
        "std_dvars": np.concatenate([[np.nan], change / expected.mean()]),
        "dvars": np.concatenate([[np.nan], change]),
    }


def _components(
    brain: NDArray[np.floating], csf: NDArray[np.bool_], white: NDArray[np.bool_]
) -> tuple[Columns, dict[str, Any]]:
    """Anatomical CompCor: principal components of fluid, white matter and both."""
    cosines = _cosines(brain.shape[1])
    columns: Columns = {}
    sidecar: dict[str, Any] = {}
    for letter, mask in zip("cwa", (csf, white, csf | white), strict=True):
        series = brain[mask] - brain[mask].mean(axis=1, keepdims=True)
        series -= (series @ cosines.T) @ cosines
        series /= np.maximum(series.std(axis=1, keepdims=True), 1e-6)
        gram = series.T @ series
        variance, vectors = np.linalg.eigh(gram)
        share = variance[::-1] / variance.sum()
        for number in range(_N_COMPONENTS):
            name = f"{letter}_comp_cor_{number:02d}"
            vector = vectors[:, -1 - number]
            columns[name] = vector * np.sign(vector[np.abs(vector).argmax()])
            sidecar[name] = {
                "CumulativeVarianceExplained": round(float(share[: number + 1].sum()), 8),
                "Mask": _MASKS[letter],
                "Method": "aCompCor",
                "Retained": True,
                "SingularValue": round(float(np.sqrt(variance[-1 - number])), 6),
                "VarianceExplained": round(float(share[number]), 8),
            }
    return columns, sidecar


def _cosines(n_volumes: int) -> NDArray[np.float64]:
    """Cosines below 1/128 Hz: (n_cosines, n_volumes), orthonormal."""
    count = int(np.floor(2 * n_volumes * REPETITION_TIME_S / _HIGH_PASS_S))
    time = (np.arange(n_volumes) + 0.5) / n_volumes
    return np.stack([
        np.sqrt(2 / n_volumes) * np.cos(np.pi * order * time) for order in range(1, count + 1)
    ])  # fmt: skip


def _outliers(displacement: NDArray[np.floating], variation: NDArray[np.floating]) -> Columns:
    """A column with a single 1 for each volume beyond fMRIPrep's limits."""
    beyond = (displacement > _FD_LIMIT_MM) | (variation > _DVARS_LIMIT)
    volumes = np.flatnonzero(beyond)
    single = np.eye(len(displacement))
    return {f"motion_outlier{number:02d}": single[volume] for number, volume in enumerate(volumes)}


def erode_tissue(mask: NDArray[np.bool_], *, least: int = 20) -> NDArray[np.bool_]:
    """Take the outermost voxels off a mask, unless fewer than `least` would be left."""
    eroded = ndimage.binary_erosion(mask)
    return eroded if np.count_nonzero(eroded) >= least else mask
