# SPDX-License-Identifier: MIT
"""A resting-state series: network signals in grey matter, and what disturbs them.

The disturbances are those that denoising is for: breathing and heartbeat in fluid and white
matter that spill into grey matter, a global signal, slow drifts, head motion with a few jerks,
a not yet steady start, thermal noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .geometry import Grid
from .population import Population, draw_signals
from .template import load_template, sample, smooth

REPETITION_TIME_S = 2.0

#: Relative amplitudes: of a network signal of loading 1, of the others, of noise in a voxel.
NETWORK_AMPLITUDE = 0.010
_LOCAL = 0.006
_GLOBAL = 0.002
PHYSIOLOGICAL_NOISE = 0.020
_DRIFT = 0.012
THERMAL_NOISE = 0.012
_START = 0.08

#: Signal of grey matter, white matter and fluid in an echo-planar image.
_CONTRAST = (7500.0, 6000.0, 10500.0)
_SCALP = 2000.0
N_PHYSIOLOGICAL = 4
#: How much of the physiological noise reaches grey matter, white matter and fluid.
PHYSIOLOGICAL_REACH = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Scan:
    """A simulated series with its motion.

    Parameters
    ----------
    data
        (X, Y, Z, n_volumes), whole numbers; times `slope` they are intensities.
    slope
        Intensity of one unit of `data`.
    reference
        (X, Y, Z), mean image without noise.
    brain
        (X, Y, Z), bool.
    motion
        (n_volumes, 6): translations in mm, rotations in radians.
    """

    data: NDArray[np.int16]
    slope: float
    reference: NDArray[np.float32]
    brain: NDArray[np.bool_]
    motion: NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """Tissue shares at the voxels of a grid.

    Parameters
    ----------
    grey, white, csf
        (X, Y, Z), from 0 to 1.
    brain
        (X, Y, Z), bool.
    """

    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    csf: NDArray[np.float32]
    brain: NDArray[np.bool_]


def sample_tissue(positions: NDArray[np.floating], voxel_mm: float) -> Tissue:
    """Sample the template's tissues at positions (X, Y, Z, 3), MNI mm, for a voxel size."""
    template = load_template()
    grey, white, csf, brain = (
        sample(smooth(map_, voxel_mm), positions)
        for map_ in (template.grey, template.white, template.csf, template.brain)
    )
    return Tissue(grey, white, csf, brain > 0.5)


def echo_planar(tissue: Tissue) -> NDArray[np.float32]:
    """Mean echo-planar intensity: (X, Y, Z)."""
    image = sum(
        level * share
        for level, share in zip(_CONTRAST, (tissue.grey, tissue.white, tissue.csf), strict=True)
    )
    rim = ndimage.binary_dilation(tissue.brain, iterations=2) & ~tissue.brain
    image = np.where(rim, np.maximum(image, _SCALP), image)
    ramp = np.linspace(0.92, 1.06, image.shape[1])[:, None]
    return np.asarray(image * ramp, dtype=np.float32)


def simulate_scan(
    positions: NDArray[np.floating],
    grid: Grid,
    *,
    population: Population,
    factors: NDArray[np.floating],
    n_volumes: int,
    rng: np.random.Generator,
) -> Scan:
    """Simulate one run of one participant.

    Parameters
    ----------
    positions
        (X, Y, Z, 3): where the voxels of `grid` lie in MNI space, mm.
    grid
        Grid of the series.
    population, factors
        What the participant shares and how it differs.
    n_volumes
        Number of volumes, `REPETITION_TIME_S` apart.
    """
    voxel_mm = float(np.linalg.norm(grid.affine[:3, 0]))
    tissue = sample_tissue(positions, voxel_mm)
    reference = echo_planar(tissue)
    head = reference > 0
    motion = draw_motion(n_volumes, rng)
    shares = [map_[head][:, None] for map_ in (tissue.grey, tissue.white, tissue.csf)]
    relative = _neural(positions[head], shares[0], population, factors, n_volumes, rng)
    relative += _disturbances(positions[head], shares, motion, rng)
    series = reference[head][:, None] * (1 + relative)
    series += _motion_artefact(reference, head, voxel_mm, motion)
    level = _CONTRAST[0]
    series += rng.normal(0, THERMAL_NOISE * level, series.shape).astype(np.float32)

    slope = (
        THERMAL_NOISE * level / 4
    )  # a quarter of the noise: rounding is harmless, files are small
    data = np.zeros((*grid.shape, n_volumes), dtype=np.int16)
    data[head] = np.rint(np.maximum(series, 0) / slope).astype(np.int16)
    return Scan(data, slope, reference, tissue.brain, motion)


def _neural(
    positions: NDArray[np.floating],
    grey: NDArray[np.floating],
    population: Population,
    factors: NDArray[np.floating],
    n_volumes: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Signals of interest: (n_voxels, n_volumes), relative."""
    loadings = signal_loadings(positions, population, factors)
    signals = draw_signals(loadings.shape[1], n_volumes, rng, repetition_time_s=REPETITION_TIME_S)
    return ((neural_share(grey) * loadings) @ signals).astype(np.float32)


def neural_share(grey: NDArray[np.floating]) -> NDArray[np.floating]:
    """Share of a voxel that carries signals: none below a quarter of grey matter, all above 3/4.

    White matter and fluid are then free of them but for voxels at their rim, as with small
    voxels; with large ones tissue components would be made of the signals of interest.
    """
    return np.asarray(np.clip(2 * grey - 0.5, 0, 1))


def signal_loadings(
    positions: NDArray[np.floating], population: Population, factors: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Take part of places in all shared signals: networks, local signals, the global one.

    Parameters
    ----------
    positions
        (n_places, 3), MNI mm.
    population, factors
        What the participant shares and how it differs.

    Returns
    -------
    NDArray
        (n_places, N_NETWORKS + N_LOCAL + 1), relative to the mean intensity; the last column is
        the global signal.
    """
    return np.concatenate(
        [
            NETWORK_AMPLITUDE * population.network_loadings(positions, factors),
            _LOCAL * population.local_loadings(positions),
            np.full((len(positions), 1), _GLOBAL),
        ],
        axis=1,
    )


def _disturbances(
    positions: NDArray[np.floating],
    shares: list[NDArray[np.floating]],
    motion: NDArray[np.floating],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Physiological noise, drift, start, jerks: (n_voxels, n_volumes), relative."""
    n_volumes = len(motion)
    physiological = rng.normal(size=(N_PHYSIOLOGICAL, n_volumes))
    physiological = ndimage.gaussian_filter1d(physiological, 0.7, axis=1)
    physiological /= physiological.std(axis=1, keepdims=True)
    phase = rng.uniform(0, 2 * np.pi, N_PHYSIOLOGICAL)
    direction = rng.normal(0, 0.06, (N_PHYSIOLOGICAL, 3))
    pattern = 0.5 + np.sin(positions @ direction.T + phase)
    reach = sum(share * part for share, part in zip(shares, PHYSIOLOGICAL_REACH, strict=True))
    relative = PHYSIOLOGICAL_NOISE * reach * (pattern @ physiological)

    time = np.linspace(-1, 1, n_volumes)
    drift = np.stack([time, time**2 - 1 / 3, np.sin(2.2 * np.pi * time)])
    slopes = rng.normal(size=(1, 3)) + (positions / 60) @ rng.normal(size=(3, 3))
    relative += _DRIFT * (slopes @ drift) / 2
    relative += _START * np.exp(-np.arange(n_volumes) / 0.4)
    jerk = np.linalg.norm(np.diff(motion[:, :3], axis=0, prepend=motion[:1, :3]), axis=1)
    relative -= 0.03 * np.clip(jerk, 0, 2)
    return np.asarray(relative, dtype=np.float32)


def _motion_artefact(
    reference: NDArray[np.floating],
    head: NDArray[np.bool_],
    voxel_mm: float,
    motion: NDArray[np.floating],
) -> NDArray[np.float32]:
    """What realignment leaves at edges, a fifth of the shift: (n_voxels, n_volumes)."""
    slopes = np.stack(np.gradient(reference, voxel_mm), axis=-1)[head]
    return np.asarray(0.2 * slopes @ motion[:, :3].T, dtype=np.float32)


def draw_motion(n_volumes: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw head motion: a slow walk with two or three jerks, none near start or end.

    Returns
    -------
    NDArray
        (n_volumes, 6): translations in mm, rotations in radians, 0 at the first volume.
    """
    steps = rng.normal(size=(n_volumes, 6)) * [0.025, 0.025, 0.035, 3e-4, 3e-4, 3e-4]
    walk = ndimage.gaussian_filter1d(np.cumsum(steps, axis=0), 1.5, axis=0)
    calm = min(10, n_volumes // 4)
    jerks = rng.choice(n_volumes - 2 * calm, size=rng.integers(2, 4), replace=False) + calm
    for volume in jerks:
        size = rng.normal(size=6) * [0.35, 0.35, 0.5, 4e-3, 4e-3, 4e-3]
        walk[volume : volume + 2] += size
        walk[volume + 2 :] += 0.4 * size
    return np.asarray(walk - walk[0], dtype=np.float64)
