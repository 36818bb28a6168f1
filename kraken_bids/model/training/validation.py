# SPDX-License-Identifier: MIT
"""How well a model does, while it is trained, on participants whom it does not train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .losses import Loss
from .network import Network
from .products import Rows


@dataclass(frozen=True, eq=False)
class PairMetrics:
    """Metrics of all pairs, each (n_sources, n_targets), in transformed features.

    Parameters
    ----------
    loss
        Terms of predictions and of the source's latents; nothing is dropped out.
    top1
        Share of participants whose prediction correlates most with their own features.
    average_rank
        ``1 - mean(rank) / n``, with rank 0 for the prediction of the participant that correlates
        most with their own features: 1 is perfect, ``½ + 1/(2n)`` is chance.
    correlation
        Mean correlation between predicted and true features.
    """

    loss: NDArray[np.float32]
    top1: NDArray[np.float32]
    average_rank: NDArray[np.float32]
    correlation: NDArray[np.float32]

    def means(self) -> dict[str, float]:
        """Mean over all pairs, by name of the metric."""
        return {name: float(np.mean(values)) for name, values in vars(self).items()}


def validate(
    network: Network, features: Tensor, loss: Loss, target: Tensor | None = None
) -> PairMetrics:
    """Compute metrics.

    Parameters
    ----------
    network
        A model.
    features
        (n_flavors, n, n_features), n of 2 or more.
    loss
        See `losses.Loss`.
    target
        (n, latent_size) latents that the flavors are trained to, if any: one more source.
    """
    with torch.no_grad():
        latents = network.encode(network.encoders, features)
        rows = Rows.make(features, network.n_features)
        given, inner = latents, loss.latent(latents)
        if target is not None:
            given = torch.cat([latents, target[None]])
            inner = loss.latent(latents, target.expand_as(latents))
            inner = torch.cat([inner, inner.new_zeros(1)])
        products = network.predict(network.decoders, network.cross(given), rows, loss)
        correlations = products.correlations()
        own = correlations.diagonal(dim1=-2, dim2=-1)
        rank = (correlations > own[..., None, :]).sum(-2).float()
        found = (
            loss.output(products) + inner,
            (rank == 0).float().mean(-1),
            1 - rank.mean(-1) / features.shape[1],
            own.mean(-1),
        )
    return PairMetrics(*(values.T.cpu().numpy() for values in found))
