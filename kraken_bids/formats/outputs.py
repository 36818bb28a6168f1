# SPDX-License-Identifier: MIT
"""What every writer of predictions takes: latents, and connectomes that are decoded as it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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

    def batches(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All participants in order, some at a time: the first one, and (k, n_edges).

        Rows are NaN where there is no prediction.
        """

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


@dataclass(frozen=True, eq=False)
class OutputFacts:
    """What writers know of a run before it starts: what will come, and where it comes from.

    Parameters
    ----------
    n_edges
        Number of edges by flavor, of the targets at least.
    latent_size
        Number of values of a latent.
    connectomes
        Source and target of every prediction that will be handed over, in any order.
    latents
        Sources whose latents will be handed over.
    model_name, model_sha256
        The model (for the reference's layout, its path or address) and its weights.
    inputs
        File by flavor or name of latents.
    fusions
        Members by name.
    available
        By flavor or name of latents, (n participants,) of truth values: who has it. Empty if
        not known; then all count as having all inputs.
    adaptation
        Mode.
    scale
        ``training``, or ``input`` where predictions are mapped back through the adaptation.
    square
        Whether to write matrices (n, R, R) with a diagonal of NaN in place of edges, where a
        format has both.
    provenance
        Whatever else is worth keeping: plain values by name.
    """

    n_edges: Mapping[str, int]
    latent_size: int
    connectomes: Sequence[tuple[str, str]] = ()
    latents: Sequence[str] = ()
    model_name: str = ""
    model_sha256: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    fusions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    available: Mapping[str, Sequence[bool] | NDArray[np.bool_]] = field(default_factory=dict)
    adaptation: str = "none"
    scale: str = "training"
    square: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of latents and connectomes, in the order in which they are first named."""
        return tuple(dict.fromkeys([*self.latents, *(source for source, _ in self.connectomes)]))

    @property
    def targets(self) -> tuple[str, ...]:
        """Flavors predicted, in the order in which they are first named."""
        return tuple(dict.fromkeys(target for _, target in self.connectomes))

    def members(self, source: str) -> tuple[str, ...]:
        """Inputs that a source rests on; a fusion's variant has the members of the fusion."""
        return tuple(self.fusions.get(source, self.fusions.get(source.split(".")[0], (source,))))

    def as_plain(self) -> dict[str, Any]:
        """Write where predictions come from in values that JSON has."""
        return {
            "Model": {"Name": self.model_name, "SHA256": self.model_sha256},
            "Adaptation": self.adaptation,
            "Scale": self.scale,
            "Inputs": dict(self.inputs),
            "Fusions": {name: list(members) for name, members in self.fusions.items()},
            **self.provenance,
        }


#: Opens a file or folder for predictions of some participants: path, their ids, facts.
OpenWriter = Callable[[Path, Sequence[str], OutputFacts], AbstractContextManager[PredictionWriter]]
