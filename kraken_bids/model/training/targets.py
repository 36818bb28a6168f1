# SPDX-License-Identifier: MIT
"""Epochs of flavors that are added to a model: trained to latents that are there already."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .coders import Adam, Dropout, drop, unit_rows
from .losses import Loss
from .network import Network
from .order import Batches, shuffle
from .plain import Step
from .products import Rows
from .schedules import DROPOUT, SIMILARITY, EpochLoss
from .similarity import similarity_step

#: Weight of the mean square difference between latents and target in the published program: that
#: of an option of its own, whatever the loss says of the latents of two flavors.
TARGET_WEIGHT = 1.0


def targeted_epoch(
    network: Network, features: Tensor, target: Tensor, loss: Loss, epoch: int
) -> EpochLoss:
    """Train each flavor to latents, and its decoder from these and from its own.

    Parameters
    ----------
    network
        Changed in place. Its flavors do not see each other.
    features
        (n_flavors, n, n_features) of the training participants, padded with zeros.
    target
        (n, latent_size) latents of the same participants.
    loss
        Terms of latents compare a flavor's latents with the target; the term between latents is
        the mean square difference of the two. Terms of predictions are the mean of those from the
        flavor's own latents and those from the target.
    epoch
        Number, from 0.

    Notes
    -----
    Batches and learning rate are those of `schedules.joint_epoch`. The published program decodes
    a flavor's own latents alone; but a merged model decodes latents of others, which are like the
    target. Dropout is drawn for the target as for other latents, and leaves its length.
    """
    options, n = network.options, features.shape[1]
    dropout = Dropout((options.seed, epoch, DROPOUT), features.device)
    n_batches = -(-n // options.batch_size)
    order = shuffle(n, options.seed + epoch).to(features.device)
    adam = Adam(network.parts, options.weight_decay)
    steps = []
    parts = torch.tensor_split(features[:, order], n_batches, dim=1)
    goals = torch.tensor_split(target[order], n_batches)
    for number, (x, goal) in enumerate(zip(parts, goals, strict=True)):
        steps.append(_step(network, x, goal, loss, dropout, adam))
        done = (epoch * n_batches + number) / (options.epochs * n_batches)
        rate = options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        adam.step(rate)
    return _mean(steps)


def reference_targeted_epoch(
    network: Network, features: Tensor, target: Tensor, loss: Loss, epoch: int
) -> EpochLoss:
    """Train flavors to latents as the published program trained its add-on models.

    Parameters
    ----------
    network, features, target, epoch
        As for `targeted_epoch`.
    loss
        Terms of latents compare a flavor's latents with the target; those of predictions are of
        its own latents. The term between latents is that of `schedules.reference_epoch`: it is
        between flavors, which hence are not independent of each other.

    Notes
    -----
    Batches and learning rate are those of `schedules.reference_epoch`. Each flavor is decoded to
    itself alone (``--onlyselfpathtargetencoding``), so that no two share a coder and all are
    trained side by side. The mean square difference between latents and target is added with
    weight `TARGET_WEIGHT`.
    """
    options, n = network.options, features.shape[1]
    dropout = Dropout((options.seed, epoch, DROPOUT), features.device)
    order = shuffle(n, options.seed + epoch).to(features.device)
    batches = Batches.make(
        features, network.n_features, order, options.batch_size, network.buffers
    )
    adam = Adam(network.parts, options.weight_decay)
    steps = []
    goals = target[order].split(options.batch_size)  # the rest that fills no batch comes last
    for (x, rows), goal in zip(batches.parts(), goals, strict=False):
        steps.append(_reference_step(network, x, rows, goal, loss, dropout, adam))
        adam.step(options.learning_rate)
    found, weight = _mean(steps), loss.between(options.latent_size)
    if not weight or len(features) == 1:
        return found
    drops = Dropout((options.seed, epoch, SIMILARITY), features.device)
    between = weight * float(similarity_step(network, features, weight, drops))
    return EpochLoss(found.output, found.latent, found.between + between)


def _reference_step(
    network: Network, x: Tensor, rows: Rows, goal: Tensor, loss: Loss, dropout: Dropout, adam: Adam
) -> Step:
    options, n = network.options, len(goal)
    leaves = [leaf for part in network.parts for leaf in part.leaves()]
    drawn = network.encoders.draw(dropout, n, options.dropout, options.dropout)
    latents = network.encode(network.encoders, x, drawn)
    drawn = network.decoders.draw(dropout, n, options.dropout, options.output_dropout or 0.0)
    output = loss.output(network.predict(network.decoders, latents, rows, loss, drawn))
    goals = goal.expand(len(x), -1, -1)
    latent = loss.latent(latents, goals)
    apart = TARGET_WEIGHT * (latents - goals).square().mean((1, 2))
    adam.fill(torch.autograd.grad(output.sum() + latent.sum() + apart.sum(), leaves))
    return Step(output.detach(), latent.detach(), apart.mean().detach())


def _mean(steps: list[Step]) -> EpochLoss:
    """Mean over the steps of an epoch, as numbers."""
    output = torch.stack([step.output for step in steps]).mean((0, -1)).cpu()
    latent = torch.stack([step.latent for step in steps]).mean(0).cpu()
    between = float(torch.stack([step.between for step in steps]).mean())
    # flavors in the diagonal, so that the mean over the matrix is that over flavors
    return EpochLoss(torch.diag(output * len(output)), latent, between)


def _step(
    network: Network, x: Tensor, goal: Tensor, loss: Loss, dropout: Dropout, adam: Adam
) -> Step:
    options, n_flavors, n = network.options, len(x), len(goal)
    leaves = [leaf for part in network.parts for leaf in part.leaves()]
    drawn = network.encoders.draw(dropout, n, options.dropout, options.dropout)
    latents = network.encode(network.encoders, x, drawn)
    goals = goal.expand(n_flavors, -1, -1)
    given = torch.cat([latents, _dropped(goals, options.dropout, dropout)], dim=1)
    drawn = network.decoders.draw(dropout, 2 * n, options.dropout, options.output_dropout or 0.0)
    batch = Rows.make(x, network.n_features)
    output = loss.output(network.predict(network.decoders, given, batch, loss, drawn))
    latent = loss.latent(latents, goals)
    between = loss.between(options.latent_size) * (latents - goals).square().mean()
    # flavors do not see each other: each has the gradient that it would have alone
    total = output.mean(-1).sum() + latent.sum() + n_flavors * between
    adam.fill(torch.autograd.grad(total, leaves))
    return Step(output.detach(), latent.detach(), between.detach())


def _dropped(latents: Tensor, share: float, dropout: Dropout) -> Tensor:
    factors = dropout.draw(share, *latents.shape)
    if factors is None:
        return latents
    length: Tensor = torch.linalg.vector_norm(latents, dim=-1, keepdim=True)
    units = unit_rows(drop(latents, factors))
    return units * length


#: How each schedule trains an epoch to given latents.
TARGETED_EPOCHS: dict[str, Callable[[Network, Tensor, Tensor, Loss, int], EpochLoss]] = {
    "joint": targeted_epoch,
    "reference": reference_targeted_epoch,
}
