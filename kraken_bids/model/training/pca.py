# SPDX-License-Identifier: MIT
"""Exact PCA of a flavor's connectomes by way of the participants' Gram matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ..transforms import Transform, make_transform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Scale of the transformed training set: the Frobenius norm of each flavor's scores.
OUTPUT_SCALE = 100.0

#: Edges that are brought to float64 at a time.
_BLOCK = 8192

#: Components with less than this share of the first one's variance are rounding.
_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True, eq=False)
class PCAFit:
    """A flavor's PCA and the training cohort in its terms.

    Parameters
    ----------
    transform
        Of kind ``pca``.
    scores
        (n_participants, n_components), float32, scaled to a Frobenius norm of `OUTPUT_SCALE`.
    explained_variance
        Share of the cohort's variance in these components.
    """

    transform: Transform
    scores: NDArray[np.float32]
    explained_variance: float


def fit_pca(
    connectomes: NDArray[np.floating], n_components: int, *, device: str = "cpu", where: str = ""
) -> PCAFit:
    """Fit an exact PCA.

    Parameters
    ----------
    connectomes
        (n_participants, n_edges).
    n_components
        Fewer than participants.
    device
        Where to compute, as torch names it.
    where
        Flavor, for messages.

    Returns
    -------
    PCAFit

    Raises
    ------
    ModelError
        If the connectomes span fewer dimensions than asked for.

    Notes
    -----
    With ``X`` the centred connectomes and ``X Xᵀ = U S² Uᵀ``, components are ``Uᵀ X / S`` and
    scores ``U S``: n x n numbers to decompose instead of n_edges x n_edges. Edges pass in blocks,
    in float64, so that memory holds little more than the connectomes. Of each component the entry
    of largest size is positive.
    """
    import torch

    n, n_edges = connectomes.shape
    gram = torch.zeros((n, n), dtype=torch.float64, device=device)
    mean = torch.empty(n_edges, dtype=torch.float64, device=device)
    for start, block in _blocks(connectomes, device):
        mean[start : start + block.shape[1]] = block.mean(dim=0)
        block -= block.mean(dim=0)
        gram.addmm_(block, block.T)
    variances, vectors = torch.linalg.eigh(gram)
    variances, vectors = variances.flip(0), vectors.flip(1)
    least = _RANK_TOLERANCE * variances[0].clamp(min=1e-300)
    rank = int((variances > least).sum())
    if rank < n_components:
        raise ModelError(
            f"{n} connectomes span {rank} dimensions, fewer than the {n_components} "
            "components asked for",
            where=where,
            fix="Look for repeated participants, or ask for fewer components.",
        )
    deviations = variances[:n_components].sqrt()
    vectors = vectors[:, :n_components]
    components = np.empty((n_components, n_edges), dtype=np.float32)
    largest = torch.zeros(n_components, dtype=torch.float64, device=device)
    for start, block in _blocks(connectomes, device):
        block -= mean[start : start + block.shape[1]]
        found = (vectors.T @ block) / deviations[:, None]
        components[:, start : start + block.shape[1]] = found.cpu().numpy()
        largest = _larger(largest, found)
    signs = torch.where(largest < 0, -1.0, 1.0)
    components *= signs.cpu().numpy().astype(np.float32)[:, None]
    scale = float(torch.linalg.vector_norm(deviations))
    explained = float(variances[:n_components].sum() / variances[:rank].sum())
    transform = make_transform(
        "pca",
        {
            "mean": mean.cpu().numpy(), "components": components,
            "input_scale": scale, "output_scale": OUTPUT_SCALE,
        },
        where=where or "training cohort",
        explained_variance=explained,
        n_participants=n,
    )  # fmt: skip
    scores = vectors * (signs * deviations) * (OUTPUT_SCALE / scale)
    return PCAFit(transform, scores.cpu().numpy().astype(np.float32), explained)


def _blocks(connectomes: NDArray[np.floating], device: str) -> Iterator[tuple[int, Tensor]]:
    """Give the edges some at a time: the first one's number, and (n, at most `_BLOCK`) copies."""
    import torch

    for start in range(0, connectomes.shape[1], _BLOCK):
        block = np.array(connectomes[:, start : start + _BLOCK], dtype=np.float64)
        yield start, torch.from_numpy(block).to(device)


def _larger(largest: Tensor, found: Tensor) -> torch.Tensor:
    """Of each row, what is of larger size: the number so far, or one of the new ones."""
    import torch

    places = found.abs().argmax(dim=1, keepdim=True)
    candidates = found.gather(1, places)[:, 0]
    return torch.where(candidates.abs() > largest.abs(), candidates, largest)
