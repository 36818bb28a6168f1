# SPDX-License-Identifier: MIT
"""Value and gradient of a step of a linear model, written out.

The published model has one layer each way. Its steps are so small that most of the time of
automatic differentiation goes into bookkeeping; here are the same operations by hand. Models with
hidden layers, transforms between groups, or other losses go the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .coders import NO_LENGTH, Buffers, Coders, Dropout, layer_views
from .gradients import Gradients, weighted_sum
from .plain_outputs import Kept, PlainModel, PlainOutputs, scaled
from .products import Products, Rows, number, square_sums
from .side_by_side import N_PARTS, SideBySide, cut


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

    side_by_side
        Runs parts of a joint step: half of the targets beside the others and the latents.
    """

    def __init__(
        self,
        model: PlainModel,
        coders: tuple[Coders, Coders],
        gradients: Sequence[Tensor],
        n: int,
        buffers: Buffers,
        side_by_side: SideBySide,
    ) -> None:
        self.model = model
        width, size = coders[0].sizes
        n_sources, n_targets = (len(part.values) for part in coders)
        self.encoders, self.encoder_bias = coders[0].tensors
        self.by_encoders, self.by_encoder_bias = layer_views(gradients[0], coders[0].sizes)
        decoders, by_decoders = (
            array.view(n_targets, size + 1, width) for array in (coders[1].values, gradients[1])
        )
        shares = model.shares
        # a latent counts as both of what is compared
        self.latent_terms = scaled(model.loss.closed_terms("latent"), 2 * shares.latent)
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
        given = given.expand(n_targets, -1, -1)
        is_cut = model.is_joint and device.type == "cpu"
        self.targets = cut(n_targets, N_PARTS if is_cut else 1)
        self.outputs = [
            PlainOutputs(
                model, given[part], decoders[part], by_decoders[part], n_sources, n, buffers,
                str(number),
            )
            for number, part in enumerate(self.targets)
        ]  # fmt: skip
        self.shape = n_targets, given.shape[1], width
        self.buffers, self.side_by_side = buffers, side_by_side

    def kept(self, dropout: Dropout, n_steps: int) -> list[Kept]:
        """Draw what dropout leaves in some steps."""
        shapes = {"latents": self.z.shape, "outputs": self.shape}
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
        first, *others = (self._decode(number, rows, kept) for number in range(len(self.targets)))
        *found, (latent, between) = self.side_by_side(first, [*others, self._latent])
        values, gradients = zip(*found, strict=True)
        output = torch.cat(values) if len(values) > 1 else values[0]
        for d_given in gradients:
            d_z.add_(d_given.view(z.shape))
        if normalize:
            d_z.addcmul_(z, z.mul(d_z).sum(-1, keepdim=True), value=-1).div_(length)
        elif kept.latents is not None:
            d_z.mul_(kept.latent_scale)
        if kept.latents is not None:
            d_z.mul_(kept.latents)
        torch.bmm(x.mT, d_z, out=self.by_encoders)
        torch.sum(d_z, 1, keepdim=True, out=self.by_encoder_bias)
        return Step(output, latent, between)

    def _decode(self, number: int, rows: Rows, kept: Kept) -> Callable[[], tuple[Tensor, Tensor]]:
        """Give what computes a part of the targets."""
        if len(self.targets) == 1:
            return partial(self.outputs[0], rows, kept.outputs, kept.output_scale)
        targets = self.targets[number]
        outputs = None if kept.outputs is None else kept.outputs[targets]
        return partial(self.outputs[number], rows.of(targets), outputs, kept.output_scale)

    @torch.no_grad()
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
