# SPDX-License-Identifier: MIT
"""Exact PCA of a flavor's connectomes, by way of the smaller of two matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ..transforms import Transform, make_transform

if TYPE_CHECKING:
    from torch import Tensor

#: Scale of the transformed training set: the Frobenius norm of each flavor's scores.
OUTPUT_SCALE = 100.0

#: Bytes of connectomes that are brought to float64 at a time, and the fewest edges of a block:
#: of a file's rows less than some pages each would be read over and over.
_BLOCK_BYTES, _LEAST_EDGES = 64 << 20, 1024

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
    connectomes: NDArray[np.floating],
    n_components: int,
    *,
    rows: NDArray[np.intp] | None = None,
    device: str = "cpu",
    where: str = "",
    empty: Callable[[tuple[int, int]], NDArray[np.float32]] = np.empty,
) -> PCAFit:
    """Fit an exact PCA.

    Parameters
    ----------
    connectomes
        (n_participants, n_edges), in memory or mapped from a file.
    n_components
        Fewer than participants, at most as many as edges.
    rows
        Participants to fit on, in this order; all if not given.
    device
        Where to compute, as torch names it.
    where
        Flavor, for messages.
    empty
        Makes the array of components, (n_components, n_edges).

    Returns
    -------
    PCAFit

    Raises
    ------
    ModelError
        If the connectomes span fewer dimensions than asked for.

    Notes
    -----
    With ``X`` the centred connectomes and ``X = U S Vᵀ``, components are ``Vᵀ`` and scores
    ``U S``. Of fewer participants than edges, U is found in ``X Xᵀ = U S² Uᵀ`` and ``Vᵀ = Uᵀ X /
    S``; else V in ``Xᵀ X = V S² Vᵀ`` and ``U S = X V``. ``X`` passes in blocks, in float64; beside
    them there are the smaller of the two matrices and its vectors. Of each component the entry of
    largest size is positive.
    """
    import torch

    x = _Centred(connectomes, rows, device)
    solve = _by_participants if x.n <= x.n_edges else _by_edges
    components = empty((n_components, x.n_edges))
    found = solve(x, components, _Asked(n_components, where))
    signs = _make_largest_positive(components)
    scale = float(torch.linalg.vector_norm(found.deviations))
    transform = make_transform(
        "pca",
        {
            "mean": x.mean.cpu().numpy(), "components": components,
            "input_scale": scale, "output_scale": OUTPUT_SCALE,
        },
        where=where or "training cohort",
        explained_variance=found.explained_variance,
        n_participants=x.n,
    )  # fmt: skip
    scores = found.scores.cpu().numpy() * (signs * (OUTPUT_SCALE / scale))
    return PCAFit(transform, scores.astype(np.float32), found.explained_variance)


class _Centred:
    """Connectomes less their mean, some at a time.

    Parameters
    ----------
    values, rows, device
        See `fit_pca`.
    """

    def __init__(
        self, values: NDArray[np.floating], rows: NDArray[np.intp] | None, device: str
    ) -> None:
        import torch

        self._values, self._device = values, device
        self._rows = np.arange(len(values)) if rows is None else rows
        self._all = rows is None
        self.n, self.n_edges = len(self._rows), values.shape[1]
        self.mean: Tensor = torch.zeros(self.n_edges, dtype=torch.float64, device=device)
        total = torch.zeros_like(self.mean)
        for _, block in self.participants():
            total += block.sum(dim=0)
        self.mean = total / self.n

    def edges(self) -> Iterator[tuple[slice, Tensor]]:
        """Give some edges of all participants, (n, k), and which they are."""
        size = max(_BLOCK_BYTES // (8 * self.n), _LEAST_EDGES)
        for start in range(0, self.n_edges, size):
            part = slice(start, min(start + size, self.n_edges))
            values = self._values[:, part]
            yield part, self._centred(values if self._all else values[self._rows], part)

    def participants(self) -> Iterator[tuple[slice, Tensor]]:
        """Give all edges of some participants, (k, n_edges), and which they are."""
        size = max(_BLOCK_BYTES // (8 * self.n_edges), 1)
        for start in range(0, self.n, size):
            part = slice(start, min(start + size, self.n))
            yield part, self._centred(self._values[self._rows[part]], slice(None))

    def _centred(self, values: NDArray[np.floating], edges: slice) -> Tensor:
        import torch

        block = torch.from_numpy(np.array(values, dtype=np.float64)).to(self._device)
        block -= self.mean[edges]
        return block


@dataclass(frozen=True)
class _Asked:
    n_components: int
    where: str


@dataclass(frozen=True, eq=False)
class _Found:
    """Lengths of the components, (n_components,), scores with their own signs, what they keep."""

    deviations: Tensor
    scores: Tensor
    explained_variance: float


def _by_participants(x: _Centred, components: NDArray[np.float32], asked: _Asked) -> _Found:
    """Fill in components; memory is that of (n, n)."""
    gram = x.mean.new_zeros((x.n, x.n))
    for _, block in x.edges():
        gram.addmm_(block, block.T)
    deviations, vectors, kept = _leading(gram, asked, x.n)
    for part, block in x.edges():
        components[:, part] = ((vectors.T @ block) / deviations[:, None]).cpu().numpy()
    return _Found(deviations, vectors * deviations, kept)


def _by_edges(x: _Centred, components: NDArray[np.float32], asked: _Asked) -> _Found:
    """Fill in components; memory is that of (n_edges, n_edges)."""
    covariance = x.mean.new_zeros((x.n_edges, x.n_edges))
    for _, block in x.participants():
        covariance.addmm_(block.T, block)
    deviations, vectors, kept = _leading(covariance, asked, x.n)
    components[:] = vectors.T.cpu().numpy()
    scores = vectors.new_empty((x.n, asked.n_components))
    for part, block in x.participants():
        scores[part] = block @ vectors
    return _Found(deviations, scores, kept)


def _leading(matrix: Tensor, asked: _Asked, n: int) -> tuple[Tensor, Tensor, float]:
    """Give roots of the largest eigenvalues, their vectors, and their share of the trace."""
    import torch

    total = float(matrix.trace())
    variances, vectors = torch.linalg.eigh(matrix)
    variances = variances.flip(0)
    rank = int((variances > _RANK_TOLERANCE * variances[0].clamp(min=1e-300)).sum())
    if rank < asked.n_components:
        raise ModelError(
            f"{n} connectomes span {rank} dimensions, fewer than the {asked.n_components} "
            "components asked for",
            where=asked.where,
            fix="Look for repeated participants, or ask for fewer components.",
        )
    variances = variances[: asked.n_components]
    vectors = vectors[:, -asked.n_components :].flip(1)
    return variances.sqrt(), vectors, float(variances.sum()) / total


def _make_largest_positive(components: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn rows whose entry of largest size is negative; give their signs."""
    signs = np.ones(len(components))
    for number, row in enumerate(components):
        if row[np.abs(row).argmax()] < 0:
            row *= -1
            signs[number] = -1
    return signs
