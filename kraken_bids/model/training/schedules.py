# SPDX-License-Identifier: MIT
"""An epoch of training: in which order batches and pairs of flavors meet the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .coders import Adam, Coders, Dropout
from .losses import Loss
from .network import Network
from .order import Batches, draw_pairs, rounds, shuffle, split_batches
from .plain import PlainSteps, Step
from .plain_outputs import PlainModel, Shares
from .products import Rows
from .side_by_side import SideBySide
from .similarity import similarity_step

#: Streams of random numbers that follow from seed and epoch.
DROPOUT, SIMILARITY = 1, 3


@dataclass(frozen=True, eq=False)
class EpochLoss:
    """Mean losses of an epoch.

    Parameters
    ----------
    output
        (n_sources, n_targets) terms of predictions.
    latent
        (n_sources,) terms of latents.
    between
        Term between latents of flavors, of all of them.
    """

    output: Tensor
    latent: Tensor
    between: float

    @property
    def mean(self) -> float:
        """Loss of the mean pair, without what lies between latents."""
        return float(self.output.mean() + self.latent.mean())


def joint_epoch(network: Network, features: Tensor, loss: Loss, epoch: int) -> EpochLoss:
    """Train all pairs of flavors at once, batch by batch.

    Parameters
    ----------
    network
        Changed in place.
    features
        (n_flavors, n, n_features) of the training participants, padded with zeros.
    loss
        Its terms between latents are the mean over all pairs of flavors, in every step.
    epoch
        Number, from 0.

    Notes
    -----
    Each flavor is encoded once, each latent decoded to all flavors in one batched product, and the
    loss is the mean over pairs. Batches differ by one participant at most, so that none is left
    out. The learning rate falls along half a cosine.
    """
    options, n = network.options, features.shape[1]
    dropout = Dropout((options.seed, epoch, DROPOUT), features.device)
    n_batches = -(-n // options.batch_size)
    order = shuffle(n, options.seed + epoch).to(features.device)
    adam = Adam(network.parts, options.weight_decay)
    totals = _Totals(len(network.names), features.device)
    steps = _plain_joint(network, loss, adam.whole)
    batches = split_batches(features, network.n_features, order, n_batches, network.buffers)
    for number, (x, truth) in enumerate(batches):
        if steps is None:
            found = _joint(network, x, truth, loss, dropout, adam)
        else:
            step = steps(x.shape[1])
            found = step(x, truth, *step.kept(dropout, 1))
        done = (epoch * n_batches + number) / (options.epochs * n_batches)
        adam.step(options.learning_rate * 0.5 * (1 + math.cos(math.pi * done)))
        totals.output += found.output.T
        totals.latent += found.latent
        totals.between += found.between
    return totals.mean(n_batches)


def _joint(
    network: Network, x: Tensor, batch: Rows, loss: Loss, dropout: Dropout, adam: Adam
) -> Step:
    """A step of all pairs, whatever the layers and the loss."""
    options, n = network.options, x.shape[1]
    leaves = [leaf for part in network.parts for leaf in part.leaves()]
    drawn = network.encoders.draw(dropout, n, options.dropout, options.dropout)
    latents = network.encode(network.encoders, x, drawn)
    crossed = network.cross(latents, dropout)
    drawn = network.decoders.draw(
        dropout, n * len(x), options.dropout, options.output_dropout or 0.0
    )
    output = loss.output(network.predict(network.decoders, crossed, batch, loss, drawn))
    latent = loss.latent(latents)
    between = loss.between(options.latent_size) * _spread(network, latents, crossed)
    total = output.mean() + latent.mean() + between
    adam.fill(torch.autograd.grad(total, leaves))
    return Step(output.detach(), latent.detach(), between.detach())


def _plain_joint(
    network: Network, loss: Loss, gradients: Sequence[Tensor]
) -> Callable[[int], PlainSteps] | None:
    """Give what computes the same step of a linear model, by size of batch; None for others."""
    if not (network.is_plain and loss.is_closed):
        return None
    options, n_flavors = network.options, len(network.names)
    n_pairs, coders = max(n_flavors * (n_flavors - 1), 1), (network.encoders, network.decoders)

    @cache
    def steps(n: int) -> PlainSteps:
        between = loss.between(options.latent_size) / (n * options.latent_size * n_pairs)
        model = PlainModel(
            loss, Shares(1 / n_flavors**2, 1 / n_flavors, between), options.dropout,
            options.output_dropout or 0.0, options.normalize, is_joint=True,
        )  # fmt: skip
        return PlainSteps(model, coders, gradients, n, network.buffers, network.side_by_side)

    return steps


def _spread(network: Network, latents: Tensor, crossed: Tensor) -> Tensor:
    """Mean squared difference, over values, between the latents of all pairs of flavors.

    With F flavors, ``Σ_{i≠k} |z_i - z_k|² = 2 F Σ_i |z_i|² - 2 |Σ_i z_i|²``; where groups have
    spaces of their own, ``|z_i - T(z_k)|²`` in the space of i.
    """
    n_flavors = len(latents)
    n_pairs = max(n_flavors * (n_flavors - 1), 1)
    if network.crossings is None:
        squares = n_flavors * latents.square().sum() - latents.sum(dim=0).square().sum()
        return 2 * squares / (latents[0].numel() * n_pairs)
    moved = crossed.view(n_flavors, *latents.shape)
    return (moved - latents[:, None]).square().sum() / (latents[0].numel() * n_pairs)


def reference_epoch(network: Network, features: Tensor, loss: Loss, epoch: int) -> EpochLoss:
    """Train one ordered pair of flavors after the other, as the published program does.

    Parameters
    ----------
    network, features, epoch
        As for `joint_epoch`.
    loss
        Its terms between latents: ``Σ_i 2 Σ_{k<i} mean((z_i - t_k)²)``, t latents without dropout
        and without gradient, in one step behind all pairs.

    Notes
    -----
    Pairs come in a random order; all of them see the batches of an epoch in one order, and the
    rest that fills no batch is left out. AdamW neither moves nor counts a step for coders that a
    step does not use. Two pairs that share no coder do not see each other: such pairs are trained
    side by side, in rounds that keep the order of any two that do share one, hence with the same
    result as one after the other.
    """
    options = network.options
    n_flavors, n, _ = features.shape
    order = shuffle(n, options.seed + epoch).to(features.device)
    batches = Batches.make(
        features, network.n_features, order, options.batch_size, network.buffers
    )
    dropout = Dropout((options.seed, epoch, DROPOUT), features.device)
    totals = _Totals(n_flavors, features.device)
    pairs = draw_pairs(n_flavors, options.seed, epoch)
    for pairs_of_round in rounds(pairs, network.way):
        _train_round(network, pairs_of_round, batches, loss, dropout, totals)
    weight = loss.between(options.latent_size)
    if weight and n_flavors > 1:
        drops = Dropout((options.seed, epoch, SIMILARITY), features.device)
        totals.between += weight * similarity_step(network, features, weight, drops)
    return totals.mean(batches.values.shape[1], between=1)


def _train_round(
    network: Network,
    pairs: Sequence[tuple[int, int]],
    batches: Batches,
    loss: Loss,
    dropout: Dropout,
    totals: _Totals,
) -> None:
    """Train pairs that share nothing on all batches, side by side."""
    options, device, buffers = network.options, batches.values.device, network.buffers
    sources, targets = torch.tensor(pairs, device=device).T
    batches = batches.select(sources, targets, buffers)
    encoders = network.encoders.take(sources, buffers, "encoders")
    decoders = network.decoders.take(targets, buffers, "decoders")
    ways = [(row, network.way(*pair)) for row, pair in enumerate(pairs)]
    crossing = [(row, number) for row, number in ways if number >= 0]
    parts, crossed = [encoders, decoders], None
    if network.crossings is not None and crossing:
        rows, numbers = torch.tensor(crossing, device=device).T
        crossed = _Crossed(network.crossings.take(numbers), rows)
        parts.append(crossed.coders)
    adam = Adam(parts, options.weight_decay, buffers)
    both, steps = (encoders, decoders), None
    if network.is_plain and loss.is_closed:
        model = PlainModel(
            loss, Shares(), options.dropout, options.output_dropout or 0.0, options.normalize,
            is_joint=False,
        )  # fmt: skip
        # a step of some pairs is over before a second thread is of use
        steps = PlainSteps(model, both, adam.whole, options.batch_size, buffers, SideBySide())
        kept = steps.kept(dropout, batches.values.shape[1])
    nothing = torch.zeros(len(pairs), device=device)
    sums = Step(nothing, nothing.clone(), totals.between)
    for number, (x, truth) in enumerate(batches.parts()):
        if steps is not None:
            found = steps(x, truth, kept[number])
        else:
            found = _pairs(network, both, crossed, (x, truth), loss, dropout, adam)
        adam.step(options.learning_rate)
        sums.output.add_(found.output)
        sums.latent.add_(found.latent)
    totals.add(sources, targets, sums)
    network.encoders.put(sources, encoders)
    network.decoders.put(targets, decoders)
    if network.crossings is not None and crossed is not None:
        network.crossings.put(numbers, crossed.coders)


@dataclass(frozen=True, eq=False)
class _Crossed:
    """Transforms between groups of a round, and the places of the pairs that use them."""

    coders: Coders
    places: Tensor


def _pairs(
    network: Network,
    coders: tuple[Coders, Coders],
    crossed: _Crossed | None,
    batch: tuple[Tensor, Rows],
    loss: Loss,
    dropout: Dropout,
    adam: Adam,
) -> Step:
    """A step of some pairs, whatever the layers and the loss."""
    options, n = network.options, batch[0].shape[1]
    drawn = (
        coders[0].draw(dropout, n, options.dropout, options.dropout),
        coders[1].draw(dropout, n, options.dropout, options.output_dropout or 0.0),
    )
    leaves = [*coders[0].leaves(), *coders[1].leaves()]
    latents = network.encode(coders[0], batch[0], drawn[0])
    given = latents
    if crossed is not None:
        leaves += crossed.coders.leaves()
        factors = crossed.coders.draw(dropout, latents.shape[1], 0, network.options.dropout)
        moved = network.unit(crossed.coders.forward(latents[crossed.places], factors))
        given = latents.index_copy(0, crossed.places, moved)
    output = loss.output(network.predict(coders[1], given, batch[1], loss, drawn[1]))
    latent = loss.latent(latents)
    adam.fill(torch.autograd.grad(output.sum() + latent.sum(), leaves))
    return Step(output.detach()[:, 0], latent.detach(), latent.new_zeros(()))


class _Totals:
    """Sums of losses over batches, kept on the device."""

    def __init__(self, n_flavors: int, device: torch.device) -> None:
        self.output = torch.zeros(n_flavors, n_flavors, device=device)
        self.latent = torch.zeros(n_flavors, device=device)
        self.between = torch.zeros((), device=device)

    def add(self, sources: Tensor, targets: Tensor, found: Step) -> None:
        """Add what steps of some pairs found."""
        self.output.index_put_((sources, targets), found.output, accumulate=True)
        self.latent.index_add_(0, sources, found.latent, alpha=1 / len(self.latent))

    def mean(self, n_batches: int, *, between: int = 0) -> EpochLoss:
        return EpochLoss(
            self.output.cpu() / n_batches,
            self.latent.cpu() / n_batches,
            float(self.between) / (between or n_batches),
        )


#: How each schedule trains an epoch.
EPOCHS: dict[str, Callable[[Network, Tensor, Loss, int], EpochLoss]] = {
    "joint": joint_epoch,
    "reference": reference_epoch,
}
