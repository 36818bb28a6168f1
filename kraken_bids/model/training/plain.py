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

from .coders import NO_LENGTH, Buffers, Coders, Dropout
from .gradients import Gradients
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
    output
        (n_targets, n_sources) terms of predictions.
    latent
        (n_sources,) terms of latents.
    between
        Term between latents, weighted.
    """

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


@dataclass(frozen=True, eq=False)
class PlainModel:
    """What all steps share.

    Parameters
    ----------
    loss
        Its terms are closed (`losses.Loss.is_closed`).
    shares
        How terms are summed.
    dropout, output_dropout
        Shares of values dropped behind the encoders and behind the decoders.
    normalize
        Whether latents are brought to length 1.
    is_joint
        Whether each source is decoded to each target; else each to the target of its place.
    buffers
        For all that a step makes and the next one does not need.
    """

    loss: Loss
    shares: Shares
    dropout: float
    output_dropout: float
    normalize: bool
    is_joint: bool
    buffers: Buffers

    @torch.no_grad()
    def step(
        self,
        x: Tensor,
        rows: Rows,
        coders: tuple[Coders, Coders],
        dropout: Dropout,
        gradients: Sequence[Tensor],
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
        dropout
            To draw from.
        gradients
            By weight and bias of the encoders and of the decoders, filled in.
        """
        weight, bias = coders[0].tensors
        shape = len(x), x.shape[1], weight.shape[-1]
        z = torch.baddbmm(bias, x, weight, out=self.buffers("latents", *shape))
        factors = dropout.draw(self.dropout, *shape, out=self.buffers("kept", *shape))
        if factors is not None:
            z.mul_(factors)
        length = None
        if self.normalize:
            length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
            length.masked_fill_(length <= NO_LENGTH, 1)
            z.div_(length)
        d_z = self.buffers("latents' gradient", *shape)
        latent, between = self._latent(z, d_z)
        output, d_given = self._output(z, rows, coders[1], dropout, gradients[2:])
        d_z.add_(d_given.view(shape))
        if length is not None:
            d_z.addcmul_(z, (d_z * z).sum(-1, keepdim=True), value=-1).div_(length)
        if factors is not None:
            d_z.mul_(factors)
        torch.bmm(x.mT, d_z, out=gradients[0])
        torch.sum(d_z, 1, keepdim=True, out=gradients[1])
        return Step(output, latent, between)

    def _latent(self, z: Tensor, d_z: Tensor) -> tuple[Tensor, Tensor]:
        """Terms of latents and between them; their gradient by the latents is filled in."""
        latent, between, share = z.new_zeros(len(z)), z.new_zeros(()), self.shares.between
        if self.loss.named("latent"):
            rows = latent_rows(z)
            n = z.shape[1]
            along = self.buffers("latents along latents", len(z), n, n + 1)
            torch.bmm(z, rows.augmented.mT, out=along)
            g = self._gradients(along)
            products = arranged_latents(along, rows.square, rows, same=True)
            latent = self.loss.closed("latent", products, g)
            torch.bmm(g.augmented, rows.augmented, out=d_z)
            # a latent counts as both of what is compared
            d_z.addcmul_(z, g.square[..., None], value=2).mul_(2 * self.shares.latent)
        else:
            d_z.zero_()
        if share:
            total = z.sum(0)
            between = (2 * share) * (len(z) * z.square().sum() - total.square().sum())
            d_z.add_(z, alpha=4 * share * len(z)).sub_(total, alpha=4 * share)
        return latent, between

    def _output(
        self,
        z: Tensor,
        rows: Rows,
        decoders: Coders,
        dropout: Dropout,
        gradients: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Terms of predictions, and their gradient by latents; those by weights are filled in."""
        weight, bias = decoders.tensors
        given = z.reshape(1, -1, z.shape[-1]) if self.is_joint else z
        if self.is_joint and not self.output_dropout:
            along, square, *kept = linear_forward(given, weight, bias, rows.augmented)
            value, g = self._terms(along, square, rows)
            saved = (given, weight, bias, rows.augmented, *kept)
            d_given, *found = linear_backward(saved, *g)
            for mine, gradient in zip(gradients, found, strict=True):
                mine.copy_(gradient)
            return value, d_given
        wide = given.expand(len(weight), -1, -1)
        shape = len(weight), given.shape[1], weight.shape[-1]
        y = torch.baddbmm(bias, wide, weight, out=self.buffers("predicted", *shape))
        factors = dropout.draw(self.output_dropout, *shape, out=self.buffers("left", *shape))
        if factors is not None:
            y.mul_(factors)
        n = rows.augmented.shape[1]
        along = self.buffers("predicted along truth", *shape[:2], n)
        torch.bmm(y, rows.augmented.mT, out=along)
        value, (d_along, d_square) = self._terms(along, torch.linalg.vecdot(y, y), rows)
        d_y = torch.bmm(d_along, rows.augmented, out=self.buffers("predicted gradient", *shape))
        d_y.addcmul_(y, d_square[..., None], value=2)
        if factors is not None:
            d_y.mul_(factors)
        torch.bmm(wide.mT, d_y, out=gradients[0])
        torch.sum(d_y, 1, keepdim=True, out=gradients[1])
        d_given = self.buffers("given gradient", *shape[:2], z.shape[-1])
        torch.bmm(d_y, weight.mT, out=d_given)
        return value, d_given.sum(0) if self.is_joint else d_given

    def _terms(
        self, along: Tensor, square: Tensor, rows: Rows
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Terms of predictions, and their gradients by products and squares."""
        products: Products = arranged(along, square, rows, None)
        g = self._gradients(along.view(*products.along.shape[:-1], -1))
        value = self.loss.closed("output", products, g)
        if self.shares.output != 1:
            g.augmented.mul_(self.shares.output)
            g.square.mul_(self.shares.output)
        return value, (g.augmented.view(along.shape), g.square.view(square.shape))

    def _gradients(self, augmented: Tensor) -> Gradients:
        """Begin with nothing, in buffers."""
        found = Gradients(
            self.buffers("products' gradient", *augmented.shape),
            self.buffers("squares' gradient", *augmented.shape[:-1]),
        )
        found.augmented.zero_()
        found.square.zero_()
        return found
