# SPDX-License-Identifier: MIT
"""What a linear model predicts in a step, and the gradients of that, written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .coders import Buffers
from .gradients import Gradients, Term, weighted_sum
from .losses import Loss
from .products import Products, Rows, arranged, linear_backward, linear_forward, square_sums


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


class PlainOutputs:
    """Predictions of some targets, which need nothing of those of other targets.

    Parameters
    ----------
    model
        Settings.
    given
        (n_targets, rows, latent_size + 1) latents that each target is decoded from, and ones.
    decoders, by_decoders
        (n_targets, latent_size + 1, n_features) weight and bias below it, and the gradients by
        these, to be filled in.
    n_sources, n
        Sources, and participants of a batch.
    buffers
        For all that a step makes and the next one does not need.
    name
        Of these targets, among the buffers.

    Notes
    -----
    Weight and bias of a decoder are one array, as the bias is what a value of 1 behind the latent
    is multiplied by.
    """

    def __init__(
        self,
        model: PlainModel,
        given: Tensor,
        decoders: Tensor,
        by_decoders: Tensor,
        n_sources: int,
        n: int,
        buffers: Buffers,
        name: str,
    ) -> None:
        self.model, self.given = model, given
        self.decoders, self.by_decoders = decoders, by_decoders
        self.terms = scaled(model.loss.closed_terms("output"), model.shares.output)
        self.weight, self.bias = decoders[:, :-1], decoders[:, -1:]
        n_targets, n_rows = len(decoders), given.shape[1]
        self.y = buffers(f"predicted {name}", n_targets, n_rows, decoders.shape[-1])
        self.along = buffers(f"predicted along truth {name}", n_targets, n_rows, n + 1)
        self.products = self.along[..., :n], self.along[..., n:]
        size = decoders.shape[1] - 1
        self.d_given = buffers(f"given gradient {name}", n_targets, n_rows, size)
        lead = (n_targets, n_sources) if model.is_joint else (n_targets,)
        self.by = Gradients(buffers(f"outputs' products {name}", *lead, n, n + 2))

    @torch.no_grad()
    def __call__(self, rows: Rows, kept: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        """Give terms of predictions and their gradient by latents; fill in those by weights.

        Parameters
        ----------
        rows
            The truth.
        kept
            (n_targets, rows, n_features), what dropout leaves; None for all.
        scale
            What values are multiplied by, so that dropout keeps their mean.

        Returns
        -------
        terms
            (n_targets, n_sources), or (n_targets,) if not joint.
        gradient
            (n_sources * n, latent_size), or (n_targets, n, latent_size) if not joint.
        """
        is_joint, y, by = self.model.is_joint, self.y, self.by_decoders
        if is_joint and kept is None:
            latents = self.given[:1, :, :-1]
            along, square, *rest = linear_forward(latents, self.weight, self.bias, rows.augmented)
            value, d_along, d_square = self._terms(along, square, rows)
            saved = latents, self.weight, self.bias, rows.augmented, *rest
            d_given, by[:, :-1], by[:, -1:] = linear_backward(saved, d_along, d_square)
            return value, d_given.view(d_given.shape[-2:])
        torch.baddbmm(y, self.given, self.decoders, beta=0, alpha=scale, out=y)
        if kept is not None:
            y.mul_(kept)
        torch.bmm(y, rows.augmented.mT, out=self.along)
        value, d_along, d_square = self._terms(self.along, square_sums(y), rows)
        # y · 2 d_square + d_along · truth, in the place of y
        d_y = y.mul_(d_square.mul_(2 * scale)).baddbmm_(d_along, rows.augmented, alpha=scale)
        if kept is not None:
            d_y.mul_(kept)
        torch.bmm(self.given.mT, d_y, out=by)
        torch.bmm(d_y, self.weight.mT, out=self.d_given)
        return value, self.d_given.sum(0) if is_joint else self.d_given

    def _terms(self, along: Tensor, square: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Terms of predictions, and their gradients by products and squares."""
        g = self.by
        g.all.zero_()
        if self.model.is_joint:
            products = arranged(along, square, rows, None)
        else:
            own, total = self.products
            products = Products(
                own, square, total, rows.scale, rows.mean, rows.square, rows.n_values
            )
        value = weighted_sum(products, self.terms, g)
        if self.model.shares.output != 1:
            value.div_(self.model.shares.output)
        if self.model.is_joint:
            return value, g.augmented.flatten(1, 2), g.square.reshape(square.shape)
        return value, g.augmented, g.square


def scaled(terms: Sequence[tuple[float, Term]], factor: float) -> list[tuple[float, Term]]:
    """Multiply weights."""
    return [(weight * factor, term) for weight, term in terms]
