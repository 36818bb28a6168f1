# SPDX-License-Identifier: MIT
"""An epoch of training: in which order batches and pairs of flavors meet the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .coders import Adam, Buffers, Coders, Dropout
from .losses import Loss
from .network import Network
from .plain import PlainModel, Shares, Step
from .products import Rows

#: Streams of random numbers that follow from seed and epoch.
DROPOUT, _ORDER, _SIMILARITY = 1, 2, 3


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
    shuffled = features[:, order]
    adam = Adam(network.parts, options.weight_decay)
    totals = _Totals(len(network.names), features.device)
    plain = _plain_joint(network, loss, features)
    for number, part in enumerate(torch.tensor_split(shuffled, n_batches, dim=1)):
        batch = Rows.make(part, network.n_features)
        if plain is None:
            found = _joint(network, part, batch, loss, dropout, adam)
        else:
            both = network.encoders, network.decoders
            found = plain(part.shape[1]).step(part, batch, both, dropout, adam.gradients)
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
    network: Network, loss: Loss, features: Tensor
) -> Callable[[int], PlainModel] | None:
    """Give what computes the same step of a linear model, by size of batch; None for others."""
    if not (network.is_plain and loss.is_closed):
        return None
    options, n_flavors, buffers = network.options, len(features), Buffers(features.device)
    n_pairs = max(n_flavors * (n_flavors - 1), 1)

    def model(n: int) -> PlainModel:
        between = loss.between(options.latent_size) / (n * options.latent_size * n_pairs)
        return PlainModel(
            loss, Shares(1 / n_flavors**2, 1 / n_flavors, between), options.dropout,
            options.output_dropout or 0.0, options.normalize, is_joint=True, buffers=buffers,
        )  # fmt: skip

    return model


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
    size = options.batch_size
    order = shuffle(n, options.seed + epoch)[: n // size * size].to(features.device)
    shuffled = features[:, order]
    values = shuffled.view(n_flavors, -1, size, shuffled.shape[-1])
    n_batches = values.shape[1]
    counts = network.n_features[:, None].expand(-1, n_batches)
    batches = Batches(values, Rows.make(values, counts))
    dropout = Dropout((options.seed, epoch, DROPOUT), features.device)
    totals = _Totals(n_flavors, features.device)
    pairs = draw_pairs(n_flavors, options.seed, epoch)
    buffers = Buffers(features.device)
    for pairs_of_round in rounds(pairs, network.way):
        _train_round(network, pairs_of_round, batches, loss, dropout, totals, buffers)
    weight = loss.between(options.latent_size)
    if weight and n_flavors > 1:
        drops = Dropout((options.seed, epoch, _SIMILARITY), features.device)
        totals.between += weight * _similarity_step(network, features, weight, drops)
    return totals.mean(n_batches, between=1)


def draw_pairs(n_flavors: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    """Draw an order of all ordered pairs of flavors, source and target; all are equally likely."""
    rng = np.random.default_rng([seed, epoch, _ORDER])
    return [divmod(int(place), n_flavors) for place in rng.permutation(n_flavors**2)]


def rounds(
    pairs: Sequence[tuple[int, int]], way: Callable[[int, int], int] = lambda _i, _j: -1
) -> list[list[tuple[int, int]]]:
    """Group pairs of flavors so that those of a group share no coder.

    Parameters
    ----------
    pairs
        (source, target), in the order in which they are to be trained.
    way
        Number of the transform between groups that a pair uses, -1 for none.

    Returns
    -------
    list
        Rounds; a pair comes behind all earlier pairs with which it shares an encoder, a decoder
        or a transform.
    """
    last: dict[tuple[str, int], int] = {}
    found: list[list[tuple[int, int]]] = []
    for source, target in pairs:
        used = [("encoder", source), ("decoder", target)]
        if way(source, target) >= 0:
            used.append(("transform", way(source, target)))
        number = 1 + max(last.get(key, -1) for key in used)
        if number == len(found):
            found.append([])
        found[number].append((source, target))
        last.update(dict.fromkeys(used, number))
    return found


def _train_round(
    network: Network,
    pairs: Sequence[tuple[int, int]],
    batches: Batches,
    loss: Loss,
    dropout: Dropout,
    totals: _Totals,
    buffers: Buffers,
) -> None:
    """Train pairs that share nothing on all batches, side by side."""
    options, device = network.options, batches.values.device
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
    plain = None
    if network.is_plain and loss.is_closed:
        plain = PlainModel(
            loss, Shares(), options.dropout, options.output_dropout or 0.0, options.normalize,
            is_joint=False, buffers=buffers,
        )  # fmt: skip
    for number in range(batches.values.shape[1]):
        x, truth = batches.part(number)
        if plain is not None:
            found = plain.step(x, truth, (encoders, decoders), dropout, adam.gradients)
        else:
            both = encoders, decoders
            found = _pairs(network, both, crossed, (x, truth), loss, dropout, adam)
        adam.step(options.learning_rate)
        totals.add(sources, targets, found)
    network.encoders.put(sources, encoders)
    network.decoders.put(targets, decoders)
    if network.crossings is not None and crossed is not None:
        network.crossings.put(numbers, crossed.coders)


@dataclass(frozen=True, eq=False)
class Batches:
    """All batches of an epoch.

    Parameters
    ----------
    values
        (n_flavors, n_batches, n, n_features).
    rows
        The same, prepared.
    """

    values: Tensor
    rows: Rows

    def select(self, sources: Tensor, targets: Tensor, buffers: Buffers) -> Batches:
        """Take inputs of some flavors and the truth of others, each into buffers."""
        return Batches(
            _selected(self.values, sources, buffers, "inputs"),
            Rows(
                *(
                    _selected(array, targets, buffers, f"truth {name}")
                    for name, array in vars(self.rows).items()
                )
            ),
        )

    def part(self, number: int) -> tuple[Tensor, Rows]:
        """One batch of all flavors."""
        rows = self.rows
        return self.values[:, number], Rows(
            rows.augmented[:, number],
            rows.norm[:, number],
            rows.mean[:, number],
            rows.square[:, number],
            rows.n_values[:, number],
        )


def _selected(array: Tensor, rows: Tensor, buffers: Buffers, name: str) -> Tensor:
    out = buffers(name, len(rows), *array.shape[1:])
    return torch.index_select(array, 0, rows, out=out)


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
    return Step(output.detach(), latent.detach(), latent.new_zeros(()))


def _similarity_step(
    network: Network, features: Tensor, weight: float, dropout: Dropout
) -> Tensor:
    """Pull each flavor's latents towards those of the flavors before it, in one step.

    With separate spaces of groups, towards those of all others, transformed into its own.
    """
    options, n = network.options, features.shape[1]
    with torch.no_grad():
        targets = network.encode(network.encoders, features)
        if network.crossings is None:
            first = 1
            counts = torch.arange(1.0, len(targets), device=features.device)[:, None, None]
            sums = targets.cumsum(0)[:-1]
            squares = targets.square().sum().mul(0) + targets.square().sum((1, 2)).cumsum(0)[:-1]
            factor = 2.0
        else:
            first = 0
            moved = network.cross(targets).view(len(targets), *targets.shape)
            own = torch.eye(len(targets), device=features.device)[..., None, None]
            moved = moved * (1 - own)
            counts = torch.full((len(targets), 1, 1), len(targets) - 1.0, device=features.device)
            sums, squares, factor = moved.sum(1), moved.square().sum((1, 2, 3)), 1.0
    rows = torch.arange(first, len(targets), device=features.device)
    encoders: Coders = network.encoders.take(rows)
    leaves = encoders.leaves()
    adam = Adam([encoders], options.weight_decay)
    drawn = encoders.draw(dropout, n, options.dropout, options.dropout)
    latents = network.encode(encoders, features[first:], drawn)
    # Σ_k |z_i - t_k|² from the number, the sum and the squares of the t_k
    apart = (counts * latents.square() - 2 * latents * sums).sum() + squares.sum()
    value = factor * apart / targets[0].numel()
    adam.fill(torch.autograd.grad(weight * value, leaves))
    adam.step(options.learning_rate)
    network.encoders.put(rows, encoders)
    return value.detach()


def shuffle(n: int, seed: int) -> Tensor:
    """Draw an order of n participants."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


class _Totals:
    """Sums of losses over batches, kept on the device."""

    def __init__(self, n_flavors: int, device: torch.device) -> None:
        self.output = torch.zeros(n_flavors, n_flavors, device=device)
        self.latent = torch.zeros(n_flavors, device=device)
        self.between = torch.zeros((), device=device)

    def add(self, sources: Tensor, targets: Tensor, found: Step) -> None:
        """Add what a step of some pairs found."""
        self.output.index_put_((sources, targets), found.output[:, 0], accumulate=True)
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
