# SPDX-License-Identifier: MIT
"""The simulated population: what its participants share and how they differ.

A participant is a short vector ``z`` of standard normal *factors*. The factors act twice: they
change how strongly each place takes part in each functional network, and they change the density
of nerve fibres by smooth bumps. Hence functional and structural connectomes of one participant
carry the same information in different form, which is what a translation between them needs.

Everything here is a pure function of a seed and of positions in MNI space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_FACTORS = 5
N_NETWORKS = 12
N_LOCAL = 80
_BUMPS_PER_FACTOR = 5

#: Half the extent of the brain in MNI space (x, y, z), mm, and its middle.
_EXTENT_MM = np.array([62.0, 82.0, 58.0])
_MIDDLE_MM = np.array([0.0, -18.0, 12.0])

#: Widths of the networks, of the local signals and of the factors' bumps, mm.
_NETWORK_WIDTH_MM = 21.0
_LOCAL_WIDTH_MM = 14.0
_BUMP_WIDTH_MM = 24.0

#: Strength of a factor of 1 on network loadings (mean loading about 0.7).
_FUNCTIONAL_STRENGTH = 0.4
#: Log fibre density changes by at most the limit; the slope is that of small changes over it.
_STRUCTURAL_LIMIT = 1.0
_STRUCTURAL_SLOPE = 0.7


@dataclass(frozen=True)
class Population:
    """Parameters that all participants share.

    Parameters
    ----------
    network_centres
        (N_NETWORKS, 3), MNI mm, x >= 0: each network is there in both hemispheres.
    network_mixing
        (N_NETWORKS, N_NETWORKS): signals at a network's place.
    local_centres
        (N_LOCAL, 3), MNI mm, of signals without a counterpart elsewhere.
    bump_centres, bump_weights
        (N_FACTORS, n_bumps, 3), MNI mm, and (N_FACTORS, n_bumps): each factor's map.
    factor_networks
        (N_FACTORS, N_NETWORKS): which signals a factor strengthens or weakens.
    """

    network_centres: NDArray[np.float64]
    network_mixing: NDArray[np.float64]
    local_centres: NDArray[np.float64]
    bump_centres: NDArray[np.float64]
    bump_weights: NDArray[np.float64]
    factor_networks: NDArray[np.float64]

    def network_loadings(
        self, positions: NDArray[np.floating], factors: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Take part of each place in each network signal, for one participant.

        Parameters
        ----------
        positions
            (n_places, 3), MNI mm.
        factors
            (N_FACTORS,), the participant.

        Returns
        -------
        NDArray
            (n_places, N_NETWORKS).
        """
        folded = np.abs(positions * [1.0, 0.0, 0.0]) + positions * [0.0, 1.0, 1.0]
        base = _bumps(folded, self.network_centres, _NETWORK_WIDTH_MM) @ self.network_mixing
        return base + self.loading_change(self.factor_maps(positions), factors)

    def loading_change(
        self, maps: NDArray[np.floating], factors: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """What a participant's factors add to network loadings, linear in both arguments.

        Parameters
        ----------
        maps
            (n_places, N_FACTORS) from `factor_maps`, or means of it.
        factors
            (N_FACTORS,), the participant.

        Returns
        -------
        NDArray
            (n_places, N_NETWORKS).
        """
        change = _FUNCTIONAL_STRENGTH * (maps * factors) @ self.factor_networks
        return np.asarray(change, dtype=np.float64)

    def local_loadings(self, positions: NDArray[np.floating]) -> NDArray[np.float64]:
        """Take part of each place in each local signal: (n_places, N_LOCAL)."""
        return _bumps(positions, self.local_centres, _LOCAL_WIDTH_MM)

    def factor_maps(self, positions: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map of each factor: (n_places, N_FACTORS), of about unit size at its bumps."""
        maps = [
            _bumps(positions, centres, _BUMP_WIDTH_MM) @ weights
            for centres, weights in zip(self.bump_centres, self.bump_weights, strict=True)
        ]
        return np.stack(maps, axis=-1)

    def fibre_density(
        self, maps: NDArray[np.floating], factors: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Density of fibres relative to the population's.

        Parameters
        ----------
        maps
            (..., N_FACTORS) from `factor_maps`.
        factors
            (N_FACTORS,), the participant.

        Returns
        -------
        NDArray
            (...), between ``exp(-limit)`` and ``exp(limit)``.
        """
        return np.exp(_STRUCTURAL_LIMIT * np.tanh(_STRUCTURAL_SLOPE * (maps @ factors)))


def make_population(seed: int = 20240) -> Population:
    """Draw the population; the default seed is the one that data and model share."""
    rng = np.random.default_rng(seed)

    def places(*shape: int) -> NDArray[np.float64]:
        # Uniform inside an ellipsoid: towards the surface like the cortex.
        direction = rng.normal(size=(*shape, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        radius = rng.uniform(0.45, 1.0, size=(*shape, 1))
        return _MIDDLE_MM + _EXTENT_MM * direction * radius

    centres = places(N_NETWORKS)
    centres[:, 0] = np.abs(centres[:, 0])
    mixing = 1.5 * np.eye(N_NETWORKS) + rng.normal(0, 0.35, (N_NETWORKS, N_NETWORKS))
    signs = rng.choice([-1.0, 1.0], size=(N_FACTORS, _BUMPS_PER_FACTOR))
    return Population(
        network_centres=centres,
        network_mixing=mixing,
        local_centres=places(N_LOCAL),
        bump_centres=places(N_FACTORS, _BUMPS_PER_FACTOR),
        bump_weights=signs * rng.uniform(0.8, 1.3, size=signs.shape),
        factor_networks=rng.normal(size=(N_FACTORS, N_NETWORKS)),
    )


def draw_factors(n_participants: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw participants: (n_participants, N_FACTORS), standard normal, cut off at 2.5."""
    return np.clip(rng.normal(size=(n_participants, N_FACTORS)), -2.5, 2.5)


def draw_signals(
    n_signals: int, n_volumes: int, rng: np.random.Generator, *, repetition_time_s: float
) -> NDArray[np.float64]:
    """Draw slow signals as blood oxygenation has them: (n_signals, n_volumes), unit variance.

    The spectrum is flat to 0.08 Hz and falls off with a Gaussian flank of 0.05 Hz; there is
    nothing at frequency zero.
    """
    frequencies = np.fft.rfftfreq(n_volumes, repetition_time_s)
    gain = np.exp(-0.5 * (np.clip(frequencies - 0.08, 0, None) / 0.05) ** 2)
    gain[0] = 0
    white = np.fft.rfft(rng.normal(size=(n_signals, n_volumes)), axis=-1)
    signals = np.fft.irfft(white * gain, n=n_volumes, axis=-1)
    return np.asarray(signals / signals.std(axis=-1, keepdims=True), dtype=np.float64)


def _bumps(
    positions: NDArray[np.floating], centres: NDArray[np.floating], width_mm: float
) -> NDArray[np.float64]:
    """Gaussian bumps of height one: (n_places, n_centres)."""
    squared = (
        (positions**2).sum(axis=-1)[..., None]
        - 2 * positions @ centres.T
        + (centres**2).sum(axis=-1)
    )
    return np.asarray(np.exp(-np.maximum(squared, 0) / (2 * width_mm**2)), dtype=np.float64)
