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

from .coders import NO_LENGTH, Buffers, Coders, Dropout, layer_views
from .gradients import Gradients, Term, weighted_sum
from .losses import Loss
from .products import (
    Products,
    Rows,
    arranged,
    linear_backward,
    linear_forward,
    number,
    square_sums,
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


@dataclass(frozen=True, eq=False)
class Kept:
    """What dropout leaves in a step.

    Parameters
    ----------
    latents, outputs
        1 for values of latents and of predictions that are kept, 0 for others; None if all are.
    latent_scale, output_scale
        What values are multiplied by, so that dropout keeps their mean.
    """

    latents: Tensor | None
    outputs: Tensor | None
    latent_scale: float
    output_scale: float


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
    """

    loss: Loss
    shares: Shares
    dropout: float
    output_dropout: float
    normalize: bool
    is_joint: bool


class PlainSteps:
    """Steps of a linear model on batches of one size; arrays and views of these are made once.

    A step is some hundred operations on small arrays: what each costs before it computes anything
    decides how long a step takes.

    Parameters
    ----------
    model
        Settings.
    coders
        Encoders of the sources and decoders of the targets, of one layer each.
    gradients
        (n_flavors, n_weights) by those of encoders and of decoders, filled in by each step.
    n
        Participants of a batch.
    buffers
        For all that a step makes and the next one does not need.

    Notes
    -----
    Weight and bias of a decoder are one array, as the bias is what a value of 1 behind the latent
    is multiplied by.
    """

    def __init__(
        self,
        model: PlainModel,
        coders: tuple[Coders, Coders],
        gradients: Sequence[Tensor],
        n: int,
        buffers: Buffers,
    ) -> None:
        self.model = model
        width, size = coders[0].sizes
        n_sources, n_targets = (len(part.values) for part in coders)
        self.encoders, self.encoder_bias = coders[0].tensors
        self.by_encoders, self.by_encoder_bias = layer_views(gradients[0], coders[0].sizes)
        self.decoders, self.by_decoders = (
            array.view(n_targets, size + 1, width) for array in (coders[1].values, gradients[1])
        )
        shares = model.shares
        # a latent counts as both of what is compared
        self.latent_terms = scaled(model.loss.closed_terms("latent"), 2 * shares.latent)
        self.output_terms = scaled(model.loss.closed_terms("output"), shares.output)
        device = self.encoders.device
        self.nothing, self.size = torch.zeros((), device=device), number(float(size), device)
        given = buffers(f"latents of {n}", n_sources, n, size + 1).fill_(1)
        self.z = given[..., :size]
        self.d_z = buffers("latents' gradient", n_sources, n, size)
        self.centred = buffers(f"centred latents of {n}", n_sources, n + 1, size).fill_(1)
        self.along_z = buffers("latents along latents", n_sources, n, n + 1)
        self.products_z = self.along_z[..., :n], self.along_z[..., n:]
        self.centred_z = self.centred[:, :n]
        self.by_latents = Gradients(buffers("latents' products", n_sources, n, n + 2))
        given = given.view(1, -1, size + 1) if model.is_joint else given
        self.given = given.expand(n_targets, -1, -1)
        shape = n_targets, given.shape[1], width
        self.y = buffers("predicted", *shape)
        self.along_y = buffers("predicted along truth", *shape[:2], n + 1)
        self.products_y = self.along_y[..., :n], self.along_y[..., n:]
        self.decoder_weight, self.decoder_bias = self.decoders[:, :-1], self.decoders[:, -1:]
        self.d_given = buffers("given gradient", *shape[:2], size)
        lead = (n_targets, n_sources) if model.is_joint else (n_targets,)
        self.by_output = Gradients(buffers("outputs' products", *lead, n, n + 2))
        self.buffers = buffers

    def kept(self, dropout: Dropout, n_steps: int) -> list[Kept]:
        """Draw what dropout leaves in some steps."""
        shapes = {"latents": self.z.shape, "outputs": self.y.shape}
        rooms = [self.buffers(f"{key} kept", n_steps, *shape) for key, shape in shapes.items()]
        shares = self.model.dropout, self.model.output_dropout
        scales = dropout.choose(list(zip(shares, rooms, strict=True)))
        left = [
            [None] * n_steps if scale == 1 else room.unbind()
            for scale, room in zip(scales, rooms, strict=True)
        ]
        return [Kept(*arrays, *scales) for arrays in zip(*left, strict=True)]

    @torch.no_grad()
    def __call__(self, x: Tensor, rows: Rows, kept: Kept) -> Step:
        """Compute the loss of a step and its gradients.

        Parameters
        ----------
        x
            (n_sources, n, n_features) inputs.
        rows
            The truth of the targets.
        kept
            What dropout leaves.
        """
        z, d_z, normalize = self.z, self.d_z, self.model.normalize
        torch.baddbmm(self.encoder_bias, x, self.encoders, out=z)
        if kept.latents is not None:
            z.mul_(kept.latents)
        if normalize:
            length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
            torch.threshold_(length, NO_LENGTH, 1.0)
            z.div_(length)
        elif kept.latents is not None:
            z.mul_(kept.latent_scale)
        latent, between = self._latent()
        output, d_given = self._output(rows, kept)
        d_z.add_(d_given)
        if normalize:
            d_z.addcmul_(z, z.mul(d_z).sum(-1, keepdim=True), value=-1).div_(length)
        elif kept.latents is not None:
            d_z.mul_(kept.latent_scale)
        if kept.latents is not None:
            d_z.mul_(kept.latents)
        torch.bmm(x.mT, d_z, out=self.by_encoders)
        torch.sum(d_z, 1, keepdim=True, out=self.by_encoder_bias)
        return Step(output, latent, between)

    def _latent(self) -> tuple[Tensor, Tensor]:
        """Terms of latents and between them; their gradient by the latents is filled in."""
        z, d_z, shares = self.z, self.d_z, self.model.shares
        latent = between = self.nothing
        if self.latent_terms:
            g = self.by_latents
            mean, square = z.mean(-1, keepdim=True), square_sums(z)
            torch.sub(z, mean, out=self.centred_z)
            torch.bmm(z, self.centred.mT, out=self.along_z)
            along, total = self.products_z
            products = Products(
                along, square, total, None, mean.mT, square.mT, self.size, same=True
            )
            g.all.zero_()
            latent = weighted_sum(products, self.latent_terms, g).div_(2 * shares.latent)
            torch.bmm(g.augmented, self.centred, out=d_z)
            d_z.addcmul_(z, g.square, value=2)
        else:
            d_z.zero_()
        if shares.between:
            total, n_sources = z.sum(0), len(z)
            between = z.square().sum().mul_(n_sources).sub_(total.square().sum())
            between.mul_(2 * shares.between)
            d_z.add_(z, alpha=4 * shares.between * n_sources)
            d_z.sub_(total, alpha=4 * shares.between)
        return latent, between

    def _output(self, rows: Rows, kept: Kept) -> tuple[Tensor, Tensor]:
        """Terms of predictions, and their gradient by latents; those by weights are filled in."""
        is_joint, y, by = self.model.is_joint, self.y, self.by_decoders
        weight, bias = self.decoder_weight, self.decoder_bias
        if is_joint and kept.outputs is None:
            latents = self.given[:1, :, :-1]
            along, square, *rest = linear_forward(latents, weight, bias, rows.augmented)
            value, d_along, d_square = self._terms(along, square, rows)
            saved = latents, weight, bias, rows.augmented, *rest
            d_given, by[:, :-1], by[:, -1:] = linear_backward(saved, d_along, d_square)
            return value, d_given.view(self.z.shape)
        scale = kept.output_scale
        torch.baddbmm(y, self.given, self.decoders, beta=0, alpha=scale, out=y)
        if kept.outputs is not None:
            y.mul_(kept.outputs)
        torch.bmm(y, rows.augmented.mT, out=self.along_y)
        value, d_along, d_square = self._terms(self.along_y, square_sums(y), rows)
        # y · 2 d_square + d_along · truth, in the place of y
        d_y = y.mul_(d_square.mul_(2 * scale)).baddbmm_(d_along, rows.augmented, alpha=scale)
        if kept.outputs is not None:
            d_y.mul_(kept.outputs)
        torch.bmm(self.given.mT, d_y, out=by)
        torch.bmm(d_y, weight.mT, out=self.d_given)
        return value, self.d_given.sum(0).view(self.z.shape) if is_joint else self.d_given

    def _terms(self, along: Tensor, square: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Terms of predictions, and their gradients by products and squares."""
        g = self.by_output
        g.all.zero_()
        if self.model.is_joint:
            products = arranged(along, square, rows, None)
        else:
            own, total = self.products_y
            products = Products(
                own, square, total, rows.scale, rows.mean, rows.square, rows.n_values
            )
        value = weighted_sum(products, self.output_terms, g)
        if self.model.shares.output != 1:
            value.div_(self.model.shares.output)
        if self.model.is_joint:
            return value, g.augmented.flatten(1, 2), g.square.reshape(square.shape)
        return value, g.augmented, g.square


def scaled(terms: Sequence[tuple[float, Term]], factor: float) -> list[tuple[float, Term]]:
    """Multiply weights."""
    return [(weight * factor, term) for weight, term in terms]
