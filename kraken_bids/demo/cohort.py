# SPDX-License-Identifier: MIT
"""Connectomes of a simulated cohort, to train the demo's model with.

The cohort comes from the same population as the participants of the data set, who are not in it.
Functional connectomes are correlations of simulated series of regions. Structural ones start
from one tractogram of the template: each streamline counts as often as a participant's fibre
density along it says, and counts have Poisson noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from ..atlases import load_atlas
from ..connectome.edges import edges_to_matrix, matrix_to_edges, n_edges
from ..connectome.functional import correlate, partial_correlation
from ..connectome.motion import expand_motion
from ..connectome.structural import normalise_by_volume, scale_counts
from .bold import (
    N_PHYSIOLOGICAL,
    NETWORK_AMPLITUDE,
    PHYSIOLOGICAL_NOISE,
    PHYSIOLOGICAL_REACH,
    REPETITION_TIME_S,
    THERMAL_NOISE,
    draw_motion,
    neural_share,
    signal_loadings,
)
from .population import N_FACTORS, N_NETWORKS, Population, draw_signals
from .regions import CSF_CODES, WHITE_CODES, segment_template
from .template import AFFINE, VOXEL_MM, apply_affine, load_template, smooth

#: Like MRtrix3, look so far around a streamline's end for a region.
_RADIUS_MM = 4.0
#: Voxel size of the series that are simulated, mm, and rim that its masks lose, in voxels of 2 mm.
_BOLD_MM = 4.0
_EROSION = 2


@dataclass(frozen=True)
class Tractogram:
    """Streamlines of the template, as far as they are needed.

    Parameters
    ----------
    ends
        (n_streamlines, 2, 3), MNI mm.
    samples
        (n_streamlines, n_samples, 3), places along each, MNI mm.
    """

    ends: NDArray[np.float64]
    samples: NDArray[np.float64]


def fs86_labels() -> NDArray[np.int16]:
    """Regions of fs86 on the template's grid: (91, 109, 91), region indices."""
    codes = segment_template()
    labels = np.zeros_like(codes)
    for region in load_atlas("fs86").regions:
        labels[codes == region.code] = region.index
    return labels


def simulate_structural(
    tractograms: Mapping[str, Tractogram],
    labels: Mapping[str, NDArray[np.integer]],
    population: Population,
    factors: NDArray[np.floating],
    *,
    n_streamlines: int,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float32]]:
    """Simulate the structural connectomes of a cohort.

    Parameters
    ----------
    tractograms
        Of the template by kind, such as ``SCifod2act``.
    labels
        (91, 109, 91), region indices on the template's grid, by atlas.
    population, factors
        What all participants share, and (n_participants, N_FACTORS).
    n_streamlines
        Size of a participant's tractogram, that the noise is that of.
    rng
        Source of the noise.

    Returns
    -------
    dict
        (n_participants, n_edges) by flavor.
    """
    cohort = {}
    for kind, tractogram in tractograms.items():
        weights = streamline_weights(tractogram, population, factors)
        for atlas, image in labels.items():
            edges = assign_edges(tractogram.ends, image)
            cohort[f"{kind}_{atlas}_volnorm"] = _draw_counts(
                edges, weights, image, n_streamlines=n_streamlines, rng=rng
            )
    return cohort


def simulate_functional(
    labels: Mapping[str, NDArray[np.integer]],
    population: Population,
    factors: NDArray[np.floating],
    *,
    n_volumes: int,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float32]]:
    """Simulate the functional connectomes of a cohort.

    Parameters
    ----------
    labels
        (91, 109, 91), region indices on the template's grid, by atlas.
    population, factors
        What all participants share, and (n_participants, N_FACTORS).
    n_volumes
        Length of a run.
    rng
        Source of the noise.

    Returns
    -------
    dict
        (n_participants, n_edges) by flavor.
    """
    voxels = voxel_signals(population)
    bases = {atlas: average_loadings(image, voxels, population) for atlas, image in labels.items()}
    tissues = average_loadings(_tissue_labels(), voxels, population)
    cohort: dict[str, list[NDArray]] = {}
    for participant in factors:
        disturbance = rng.normal(size=(n_volumes, N_PHYSIOLOGICAL))
        signals = draw_signals(
            tissues.mean.shape[1], n_volumes, rng, repetition_time_s=REPETITION_TIME_S
        )
        means = tissues.series(participant, signals, disturbance, rng)
        grey = means[:, :1]
        nuisance = np.column_stack([
            means[:, 1:], disturbance, expand_motion(draw_motion(n_volumes, rng)),
            np.arange(n_volumes),
        ])  # fmt: skip
        for atlas, base in bases.items():
            series = base.series(participant, signals, disturbance, rng)
            for recipe, matrix in _functional_kinds(series, nuisance, grey).items():
                name = recipe.replace("*", atlas)
                cohort.setdefault(name, []).append(matrix_to_edges(matrix).astype(np.float32))
    return {name: np.stack(rows) for name, rows in cohort.items()}


def _tissue_labels() -> NDArray[np.intp]:
    """Grey matter (1), white matter without its rim (2) and fluid (3) on the template's grid."""
    codes = segment_template()
    white = ndimage.binary_erosion(np.isin(codes, WHITE_CODES), iterations=_EROSION)
    labels = np.where(white, 2, np.where(np.isin(codes, CSF_CODES), 3, 0))
    return np.where((codes > 0) & ~np.isin(codes, (*WHITE_CODES, *CSF_CODES)), 1, labels)


def _functional_kinds(
    series: NDArray[np.floating], nuisance: NDArray[np.floating], grey: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    """The three functional connectomes of a series (n_volumes, n_regions)."""
    matrix = correlate(_regress(series, nuisance))
    without = correlate(_regress(series, np.hstack([nuisance, grey])))
    return {
        "FCcorr_*_hpf": matrix,
        "FCcorr_*_hpfgsr": without,
        "FCpcorr_*_hpf": partial_correlation(matrix),
    }


def _regress(series: NDArray[np.floating], columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """What is left of series (n_volumes, n) beside columns and a constant."""
    columns = np.column_stack([np.ones(len(columns)), columns])
    basis, _ = np.linalg.qr(columns / np.abs(columns).max(axis=0))
    return np.asarray(series - basis @ (basis.T @ series), dtype=np.float64)


@dataclass(frozen=True)
class RegionLoadings:
    """Take part of an atlas's regions in all signals.

    Parameters
    ----------
    mean
        (n_regions, n_signals), of a participant whose factors are all 0.
    change
        (N_FACTORS, n_regions, n_signals), by a factor of 1.
    reach
        (n_regions,), how much physiological noise gets there.
    noise
        (n_regions,), standard deviation of thermal noise in a region's mean.
    """

    mean: NDArray[np.float64]
    change: NDArray[np.float64]
    reach: NDArray[np.float64]
    noise: NDArray[np.float64]

    def series(
        self,
        factors: NDArray[np.floating],
        signals: NDArray[np.floating],
        disturbance: NDArray[np.floating],
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Simulate a participant's series.

        Parameters
        ----------
        factors
            (N_FACTORS,), the participant.
        signals
            (n_signals, n_volumes).
        disturbance
            (n_volumes, N_PHYSIOLOGICAL).
        rng
            Source of the noise.

        Returns
        -------
        NDArray
            (n_volumes, n_regions).
        """
        loadings = self.mean + np.tensordot(factors, self.change, axes=1)
        physiological = PHYSIOLOGICAL_NOISE * np.outer(disturbance.mean(axis=1), self.reach)
        thermal = self.noise * rng.normal(size=(len(disturbance), len(self.noise)))
        return np.asarray(signals.T @ loadings.T + physiological + thermal, dtype=np.float64)


@dataclass(frozen=True)
class VoxelSignals:
    """Take part of the template's voxels in all signals.

    Parameters
    ----------
    mean
        (n_voxels, n_signals), of a participant whose factors are all 0.
    maps
        (n_voxels, N_FACTORS), map of each factor, where there is grey matter.
    reach
        (n_voxels,), how much physiological noise gets there.
    """

    mean: NDArray[np.float32]
    maps: NDArray[np.float32]
    reach: NDArray[np.float32]


def voxel_signals(population: Population) -> VoxelSignals:
    """Find what each voxel of the template's brain takes part in."""
    template = load_template()
    positions = template.positions(template.brain)
    shares = np.stack(
        [smooth(map_, _BOLD_MM)[template.brain]
         for map_ in (template.grey, template.white, template.csf)],
        axis=1,
    )  # fmt: skip
    neural = neural_share(shares[:, :1])
    mean = neural * signal_loadings(positions, population, np.zeros(N_FACTORS))
    return VoxelSignals(
        mean=mean.astype(np.float32),
        maps=(neural * population.factor_maps(positions)).astype(np.float32),
        reach=(shares @ np.array(PHYSIOLOGICAL_REACH)).astype(np.float32),
    )


def average_loadings(
    labels: NDArray[np.integer], signals: VoxelSignals, population: Population
) -> RegionLoadings:
    """Average the signals' loadings over the voxels of each region.

    Parameters
    ----------
    labels
        (91, 109, 91), region indices on the template's grid.
    signals
        Those of the voxels.
    population
        How factors act.
    """
    inside = labels[load_template().brain]
    voxels = np.bincount(inside, minlength=int(labels.max()) + 1)[1:]
    rows = inside[inside > 0].astype(np.intp) - 1
    average = sparse.csr_array(
        (1 / voxels[rows], (rows, np.flatnonzero(inside))), shape=(len(voxels), len(inside))
    )
    mean = np.asarray(average @ signals.mean, dtype=np.float64)
    maps = average @ signals.maps
    change = np.zeros((N_FACTORS, *mean.shape))  # the first signals are those of the networks
    for row, unit in zip(change, np.eye(N_FACTORS), strict=True):
        row[:, :N_NETWORKS] = NETWORK_AMPLITUDE * population.loading_change(maps, unit)
    independent = np.maximum(voxels * (VOXEL_MM / _BOLD_MM) ** 3, 1)
    return RegionLoadings(
        mean=mean,
        change=change,
        reach=np.asarray(average @ signals.reach, dtype=np.float64),
        noise=THERMAL_NOISE / np.sqrt(independent),
    )


def streamline_weights(
    tractogram: Tractogram, population: Population, factors: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Expected number of streamlines in place of each one of the template.

    Seeds fall where fibres are dense, so a streamline comes up as often as the mean density along
    it says.

    Returns
    -------
    NDArray
        (n_participants, n_streamlines), each participant's mean 1.
    """
    maps = population.factor_maps(tractogram.samples)
    weights = np.stack([
        population.fibre_density(maps, participant).mean(axis=1) for participant in factors
    ])  # fmt: skip
    return np.asarray(weights / weights.mean(axis=1, keepdims=True), dtype=np.float64)


def assign_edges(ends: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.intp]:
    """Find the pair of regions that each streamline joins.

    Parameters
    ----------
    ends
        (n_streamlines, 2, 3), MNI mm.
    labels
        (91, 109, 91), region indices on the template's grid.

    Returns
    -------
    NDArray
        (n_streamlines,), place in the upper triangle, row by row; -1 for a streamline that joins
        no two regions.
    """
    inside = labels > 0
    tree = cKDTree(apply_affine(AFFINE, np.argwhere(inside)))
    distance, voxel = tree.query(ends, distance_upper_bound=_RADIUS_MM)
    found = np.concatenate([labels[inside].astype(np.intp), [0]])[voxel]
    row, column = found.min(axis=1) - 1, found.max(axis=1) - 1
    n_regions = int(labels.max())
    edge = row * (2 * n_regions - row - 1) // 2 + column - row - 1
    return np.where(np.isfinite(distance).all(axis=1) & (row != column), edge, -1)


def _draw_counts(
    edges: NDArray[np.intp],
    weights: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    n_streamlines: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Volume-normalised connectomes: (n_participants, n_edges)."""
    volumes = np.bincount(labels[labels > 0] - 1) * VOXEL_MM**3
    kept = edges >= 0
    size = n_edges(len(volumes))
    share = n_streamlines / weights.shape[1]
    rows = []
    for weight in weights:
        expected = share * np.bincount(edges[kept], weight[kept], minlength=size)
        counts = edges_to_matrix(rng.poisson(expected).astype(np.float64))
        scaled = scale_counts(counts, n_streamlines=n_streamlines)
        rows.append(matrix_to_edges(normalise_by_volume(scaled, volumes)).astype(np.float32))
    return np.stack(rows)
