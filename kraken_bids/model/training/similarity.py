# SPDX-License-Identifier: MIT
"""The step between latents of flavors that ends an epoch of the published program."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .coders import NO_LENGTH, Adam, Dropout
from .network import Network
from .products import square_sums


@dataclass(frozen=True, eq=False)
class _Others:
    """Latents t_k that those of each trained flavor are pulled towards.

    Parameters
    ----------
    first
        Flavor that is trained first; all behind it are.
    counts
        (n_trained, 1, 1) number of t_k.
    sums, squares
        (n_trained, n, latent_size) ``Σ_k t_k`` and (n_trained,) ``Σ_k |t_k|²``.
    factor
        Of the loss.
    """

    first: int
    counts: Tensor
    sums: Tensor
    squares: Tensor
    factor: float


def similarity_step(network: Network, features: Tensor, weight: float, dropout: Dropout) -> Tensor:
    """Pull each flavor's latents towards those of the flavors before it, in one step.

    With separate spaces of groups, towards those of all others, transformed into its own.

    Parameters
    ----------
    network
        Changed in place.
    features
        (n_flavors, n, n_features) of the training participants, padded with zeros.
    weight
        Of the loss.
    dropout
        To draw from.

    Returns
    -------
    Tensor
        The loss without its weight: the mean over values of ``Σ_i f Σ_k (z_i - t_k)²``, f 2 in
        one space and else 1; t latents without dropout and without gradient.
    """
    options = network.options
    with torch.no_grad():
        before = network.encoders.forward(features) if network.is_plain else None
        held = (
            network.encode(network.encoders, features)
            if before is None
            else (network.unit(before))
        )
        others = _earlier(held) if network.crossings is None else _transformed(network, held)
    encoders = network.encoders.behind(others.first)
    adam = Adam([encoders], options.weight_decay, network.buffers)
    share = others.factor / held[0].numel()
    x = features[others.first :]
    if before is None:
        leaves = encoders.leaves()
        drawn = encoders.draw(dropout, x.shape[1], options.dropout, options.dropout)
        latents = network.encode(encoders, x, drawn)
        value = share * _apart(latents, others)
        adam.fill(torch.autograd.grad(weight * value, leaves))
    else:
        before = before[others.first :]
        value = share * _plain(network, before, x, others, weight * share, dropout, adam)
    adam.step(options.learning_rate)
    return value.detach()


def _earlier(held: Tensor) -> _Others:
    """Latents of all flavors before each, from the second on."""
    counts = torch.arange(1.0, len(held), device=held.device)[:, None, None]
    squares = held.square().sum((1, 2)).cumsum(0)[:-1]
    return _Others(1, counts, held[:-1].cumsum(0), squares, 2.0)


def _transformed(network: Network, held: Tensor) -> _Others:
    """Latents of all other flavors in the space of each."""
    moved = network.cross(held).view(len(held), *held.shape)
    own = torch.eye(len(held), device=held.device)[..., None, None]
    moved = moved * (1 - own)
    counts = torch.full((len(held), 1, 1), len(held) - 1.0, device=held.device)
    return _Others(0, counts, moved.sum(1), moved.square().sum((1, 2, 3)), 1.0)


def _apart(latents: Tensor, others: _Others) -> Tensor:
    """``Σ_k |z_i - t_k|²``, summed over flavors, from the number, sum and squares of the t_k."""
    own = others.counts * latents.square() - 2 * latents * others.sums
    return own.sum() + others.squares.sum()


@torch.no_grad()
def _plain(
    network: Network,
    before: Tensor,
    x: Tensor,
    others: _Others,
    weight: float,
    dropout: Dropout,
    adam: Adam,
) -> Tensor:
    """`_apart` of linear encoders, and its gradient by them: ``2 (K z_i - Σ_k t_k)`` by z_i.

    Parameters
    ----------
    network
        For its options.
    before
        (n_trained, n, latent_size) latents before dropout and before they are brought to length
        1; used up.
    x, others
        Inputs and latents to be pulled towards.
    weight
        Of the gradient.
    dropout
        To draw from.
    adam
        Of the encoders; its gradients are filled in.
    """
    z, room, normalize = before, torch.empty_like(before), network.options.normalize
    kept = dropout.draw(network.options.dropout, *z.shape)
    if kept is not None:
        z.mul_(kept)
    if normalize:
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        torch.threshold_(length, NO_LENGTH, 1.0)
        z.div_(length)
    apart = torch.mul(z, others.sums, out=room).sum().mul_(-2).add_(others.squares.sum())
    apart.add_((square_sums(z) * others.counts).sum())
    d_z = torch.mul(z, others.counts, out=room).sub_(others.sums).mul_(2 * weight)
    if normalize:
        d_z.addcmul_(z, (d_z * z).sum(-1, keepdim=True), value=-1).div_(length)
    if kept is not None:
        d_z.mul_(kept)
    by_weight, by_bias = adam.gradients
    torch.bmm(x.mT, d_z, out=by_weight)
    torch.sum(d_z, 1, keepdim=True, out=by_bias)
    return apart
