# SPDX-License-Identifier: MIT
"""What every writer of predictions takes: latents, and connectomes that are decoded as it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Decoded(Protocol):
    """Predicted connectomes of one source and target, computed when they are asked for.

    Attributes
    ----------
    source
        Flavor, fusion, or a fusion's variant such as ``fusion.noself``.
    target
        Flavor predicted.
    shape
        (n participants, n_edges).
    n_inputs
        (n,): flavors that each participant's prediction rests on; 0 where there is none.
    """

    source: str
    target: str
    shape: tuple[int, int]
    n_inputs: NDArray[np.int64]

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Participants start to stop: (stop - start, n_edges); rows of NaN where there is none."""

    def columns(self, start: int, stop: int) -> NDArray[np.float32]:
        """Edges start to stop of all participants: (n, stop - start)."""


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of one source.

    Parameters
    ----------
    source
        Flavor or fusion.
    values
        (n, latent_size), float32; NaN for participants without.
    n_inputs
        (n,).
    """

    source: str
    values: NDArray[np.float32]
    n_inputs: NDArray[np.int64]


class PredictionWriter(Protocol):
    """Puts a run's predictions into files, which appear when all is written."""

    def add_latents(self, latents: Latents) -> None:
        """Write a source's latents."""

    def add_connectomes(self, decoded: Decoded) -> None:
        """Write a source's predictions of a target."""
