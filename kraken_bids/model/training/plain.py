# SPDX-License-Identifier: MIT
"""Value and gradient of a step of a linear model, written out.

The published model has one layer each way. Its steps are so small that most of the time of
automatic differentiation goes into bookkeeping; here are the same operations by hand. Models with
hidden layers, transforms between groups, or other losses go the general way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .coders import NO_LENGTH, Coders
from .losses import Loss
from .products import (
    Products,
    Rows,
    arranged,
    arranged_latents,
    latent_rows,
    linear_backward,
    linear_forward,
)


@dataclass(frozen=True, eq=False)
class Step:
    """What a step found.

    Parameters
    ----------
    gradients
        By weight and bias of the encoders and of the decoders.
    output
        (n_targets, n_sources) terms of predictions.
    latent
        (n_sources,) terms of latents.
    between
        Term between latents, weighted.
    """

    gradients: Sequence[Tensor]
    output: Tensor
    latent: Tensor
    between: Tensor


@dataclass(frozen=True)
class Shares:
    """How the terms are summed.

    Parameters
    ----------
    output, latent
        Factors of each pair's and of each source's terms.
    between
        Factor of ``Σ_{i≠k} Σ (z_i - z_k)²``, summed over values; 0 leaves it out.
    """

    output: float = 1.0
    latent: float = 1.0
    between: float = 0.0


@torch.no_grad()
def plain_step(
    x: Tensor,
    rows: Rows,
    coders: tuple[Coders, Coders],
    loss: Loss,
    factors: tuple[Tensor | None, Tensor | None],
    *,
    shares: Shares,
    is_joint: bool,
    normalize: bool,
) -> Step:
    """Compute the loss of a step and its gradients.

    Parameters
    ----------
    x
        (n_sources, n, n_features) inputs.
    rows
        The truth of the targets.
    coders
        Encoders of the sources and decoders of the targets, of one layer each.
    loss
        Its terms are closed (`losses.Loss.is_closed`).
    factors
        Of dropout behind the encoders and behind the decoders.
    shares
        How terms are summed.
    is_joint
        Whether each source is decoded to each target; else each to the target of its place.
    normalize
        Whether latents are brought to length 1.
    """
    (weight_in, bias_in), (weight_out, bias_out) = (part.tensors for part in coders)
    raw = torch.baddbmm(bias_in, x, weight_in)
    if factors[0] is not None:
        raw.mul_(factors[0])
    z, length = raw, None
    if normalize:
        length = torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
        length.masked_fill_(length <= NO_LENGTH, 1)
        z = raw.div_(length)
    latent, d_z = _latent(z, loss, shares.latent)
    between = z.new_zeros(())
    if shares.between:
        total = z.sum(0)
        between = (2 * shares.between) * (len(z) * z.square().sum() - total.square().sum())
        d_z.add_(len(z) * z - total, alpha=4 * shares.between)
    given = z.reshape(1, -1, z.shape[-1]) if is_joint else z
    decode = _decode_wide if is_joint and factors[1] is None else _decode
    products, d_given, d_out, d_bias_out = decode(
        given, (weight_out, bias_out), rows, loss, factors[1], shares.output
    )
    d_z.add_(d_given.view(z.shape))
    if length is not None:
        d_z.addcmul_(z, torch.linalg.vecdot(d_z, z)[..., None], value=-1).div_(length)
    if factors[0] is not None:
        d_z.mul_(factors[0])
    gradients = x.mT @ d_z, d_z.sum(1, keepdim=True), d_out, d_bias_out
    return Step(gradients, products, latent, between)


def _latent(z: Tensor, loss: Loss, share: float) -> tuple[Tensor, Tensor]:
    """Terms of latents and their gradient by the latents, as both of what is compared."""
    if not loss.named("latent"):
        return z.new_zeros(len(z)), torch.zeros_like(z)
    rows = latent_rows(z)
    products = arranged_latents(z @ rows.augmented.mT, z.square().sum(-1), rows, same=True)
    found = loss.closed("latent", products)
    d_along = torch.cat([found.along, found.total[..., None]], dim=-1)
    d_z = (d_along @ rows.augmented).addcmul_(z, found.square[..., None], value=2)
    return found.value, d_z.mul_(2 * share)


def _output(
    along: Tensor, square: Tensor, rows: Rows, loss: Loss, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of predictions and their gradients by products and squares."""
    products: Products = arranged(along, square, rows, None)
    found = loss.closed("output", products)
    d_along = torch.cat([found.along, found.total[..., None]], dim=-1).view(along.shape)
    d_square = found.square.reshape(square.shape)
    if share != 1:
        return found.value, d_along.mul_(share), d_square * share
    return found.value, d_along, d_square


def _decode(
    z: Tensor,
    decoder: Sequence[Tensor],
    rows: Rows,
    loss: Loss,
    factors: Tensor | None,
    share: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predict, and give the terms and their gradients by z, weight and bias."""
    weight, bias = decoder
    wide = z.expand(len(weight), -1, -1)
    y = torch.baddbmm(bias, wide, weight)
    if factors is not None:
        y.mul_(factors)
    along, square = y @ rows.augmented.mT, torch.linalg.vecdot(y, y)
    value, d_along, d_square = _output(along, square, rows, loss, share)
    d_y = (d_along @ rows.augmented).addcmul_(y, d_square[..., None], value=2)
    if factors is not None:
        d_y.mul_(factors)
    d_z = d_y @ weight.mT
    if len(z) < len(weight):
        d_z = d_z.sum(0)
    return value, d_z, wide.mT @ d_y, d_y.sum(1, keepdim=True)


def _decode_wide(
    z: Tensor,
    decoder: Sequence[Tensor],
    rows: Rows,
    loss: Loss,
    _factors: Tensor | None,
    share: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_decode` without dropout, and without making the predictions."""
    weight, bias = decoder
    along, square, onto, half = linear_forward(z, weight, bias, rows.augmented)
    value, d_along, d_square = _output(along, square, rows, loss, share)
    saved = (z, weight, bias, rows.augmented, onto, half)
    return value, *linear_backward(saved, d_along, d_square)
