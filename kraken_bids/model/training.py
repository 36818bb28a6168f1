# SPDX-License-Identifier: MIT
"""Training of a Krakencoder on a cohort with all flavors.

Every flavor gets an exact PCA, one linear encoder and one linear decoder. Each step encodes every
flavor once for a batch of participants and decodes every latent into every flavor, all pairs in
one batched product: steps are few and large, hence quick on one core and on a GPU alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import ModelError
from .bundle import Bundle, write_bundle
from .layers import FlavorModel, Layer
from .transforms import Transform, make_transform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_log = logging.getLogger(__name__)

#: Scale of the transformed training set: the Frobenius norm of each flavor's scores.
OUTPUT_SCALE = 100.0

#: Rows shorter than this have no direction; dropout can zero a whole latent.
NO_LENGTH = 1e-8


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained.

    Parameters
    ----------
    n_components
        Features of each flavor's PCA; fewer than participants.
    latent_size
        Length of a latent.
    epochs, batch_size
        Passes over the cohort; participants a step (batches are of equal size, none is dropped).
    learning_rate, weight_decay
        Of AdamW; the learning rate falls to zero along half a cosine.
    dropout
        Share of latent values zeroed while training, before they are scaled to length 1.
        Predictions are not dropped out: a mean squared error would then favour shrunken ones.
    output_correlation, output_error, latent_correlation, latent_similarity
        Weights of the four terms of the loss, see `training_loss`.
    seed
        Of the first weights, the batches and the dropout. On a CPU the same seed gives the same
        bytes.
    """

    n_components: int = 64
    latent_size: int = 128
    epochs: int = 60
    batch_size: int = 41
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    dropout: float = 0.5
    output_correlation: float = 1.0
    output_error: float = 55.0
    latent_correlation: float = 10.0
    latent_similarity: float = 78.0
    seed: int = 0


def train_krakencoder(
    connectomes: Mapping[str, NDArray[np.floating]],
    out_dir: Path,
    *,
    n_components: int = TrainingOptions.n_components,
    latent_size: int = TrainingOptions.latent_size,
    epochs: int = TrainingOptions.epochs,
    learning_rate: float = TrainingOptions.learning_rate,
    weight_decay: float = TrainingOptions.weight_decay,
    batch_size: int = TrainingOptions.batch_size,
    dropout: float = TrainingOptions.dropout,
    seed: int = TrainingOptions.seed,
    device: str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Bundle:
    """Train a model and write it as a bundle.

    Parameters
    ----------
    connectomes
        (n_participants, n_edges) by flavor, the same participants in the same order; no NaN.
    out_dir
        Folder of the bundle.
    n_components, latent_size, epochs, learning_rate, weight_decay, batch_size, dropout, seed
        See `TrainingOptions`.
    device
        As torch names it: ``cpu``, ``cuda``, ``cuda:1``.
    progress
        Called after each epoch with its number, from 1, and the mean loss.

    Returns
    -------
    Bundle

    Raises
    ------
    ModelError
        If flavors differ in their number of participants, there are too few for the components
        asked for, a connectome holds NaN, or the loss stops being a number.
    """
    options = TrainingOptions(
        n_components=n_components,
        latent_size=latent_size,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        dropout=dropout,
        seed=seed,
    )
    check_cohort(connectomes, n_components)
    names = tuple(connectomes)
    with _one_thread():
        fits = {name: fit_pca(connectomes[name], n_components) for name in names}
        network, loss = _fit_network(
            np.stack([fits[name].scores for name in names]), options, device, progress
        )
    flavors = {
        name: FlavorModel(
            n_edges=connectomes[name].shape[1],
            transform=fits[name].transform,
            encoder=(
                Layer(network.encoder_weights[row], network.encoder_biases[row], ("normalize",)),
            ),
            decoder=(Layer(network.decoder_weights[row], network.decoder_biases[row]),),
        )
        for row, name in enumerate(names)
    }
    return write_bundle(
        out_dir,
        flavors=flavors,
        latent_size=latent_size,
        provenance={
            "method": "all pairs of flavors at each step",
            "versions": _versions(),
            "device": device,
            "options": asdict(options),
            "n_participants": len(connectomes[names[0]]),
            "final_loss": loss,
            "explained_variance": {name: fits[name].explained_variance for name in names},
        },
    )


def _versions() -> dict[str, str]:
    """Versions of what computes a model's weights."""
    import torch

    return {"kraken-bids": __version__, "numpy": np.__version__, "torch": torch.__version__}


def check_cohort(connectomes: Mapping[str, NDArray[np.floating]], n_components: int) -> None:
    """Refuse a cohort that cannot be trained on.

    Raises
    ------
    ModelError
        See `train_krakencoder`.
    """
    if not connectomes:
        raise ModelError("no flavor to train on", fix="Give the connectomes of a flavor or more.")
    counts = {name: len(array) for name, array in connectomes.items()}
    if len(set(counts.values())) > 1:
        raise ModelError(
            f"flavors differ in their number of participants: {counts}",
            fix="Give the same participants, in the same order, for each flavor.",
        )
    n = min(counts.values())
    if not 0 < n_components < n:
        raise ModelError(
            f"{n_components} components cannot be fitted to {n} participants",
            fix=f"Ask for 1 to {max(n - 1, 1)} components, or train on more participants.",
        )
    for name, array in connectomes.items():
        rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if rows.size:
            raise ModelError(
                f"{rows.size} of {n} connectomes hold NaN or infinity, the first in row {rows[0]}",
                where=name,
                fix="Leave these participants out, or fill the edges of missing regions.",
            )


@dataclass(frozen=True, eq=False)
class PCAFit:
    """A flavor's PCA and the training cohort in its terms.

    Parameters
    ----------
    transform
        Of kind ``pca``.
    scores
        (n_participants, n_components), float32, scaled to a Frobenius norm of `OUTPUT_SCALE`.
    explained_variance
        Share of the cohort's variance in these components.
    """

    transform: Transform
    scores: NDArray[np.float32]
    explained_variance: float


def fit_pca(connectomes: NDArray[np.floating], n_components: int) -> PCAFit:
    """Fit an exact PCA by way of the participants' Gram matrix.

    Parameters
    ----------
    connectomes
        (n_participants, n_edges).
    n_components
        Fewer than participants.

    Returns
    -------
    PCAFit

    Raises
    ------
    ModelError
        If the connectomes span fewer dimensions than asked for.

    Notes
    -----
    With ``X`` the centred connectomes and ``X Xᵀ = U S² Uᵀ``, components are ``Uᵀ X / S``: n x n
    numbers to decompose instead of n_edges x n_edges. Of each component the entry of largest
    size is positive.
    """
    import torch

    values = torch.as_tensor(np.asarray(connectomes, dtype=np.float64))
    mean = values.mean(dim=0)
    centred = values - mean
    variances, vectors = torch.linalg.eigh(centred @ centred.T)
    variances, vectors = variances.flip(0), vectors.flip(1)
    rank = int((variances > 1e-10 * variances[0].clamp(min=1e-300)).sum())
    if rank < n_components:
        raise ModelError(
            f"{len(values)} connectomes span {rank} dimensions, fewer than the {n_components} "
            "components asked for",
            fix="Look for repeated participants, or ask for fewer components.",
        )
    components = (vectors[:, :n_components].T @ centred) / variances[:n_components, None].sqrt()
    largest = components.abs().argmax(dim=1, keepdim=True)
    components *= components.gather(1, largest).sign()
    scores = centred @ components.T
    scale = torch.linalg.matrix_norm(scores)
    explained_variance = float(variances[:n_components].sum() / variances[:rank].sum())
    transform = make_transform(
        "pca",
        {
            "mean": mean.numpy(),
            "components": components.numpy(),
            "input_scale": scale.numpy(),
            "output_scale": OUTPUT_SCALE,
        },
        where="training cohort",
        explained_variance=explained_variance,
        n_participants=len(values),
    )
    return PCAFit(
        transform=transform,
        scores=(scores * (OUTPUT_SCALE / scale)).numpy().astype(np.float32),
        explained_variance=explained_variance,
    )


@dataclass(frozen=True, eq=False)
class TrainedWeights:
    """Weights of all flavors, stacked along the first axis.

    Parameters
    ----------
    encoder_weights, encoder_biases
        (n_flavors, latent_size, n_components) and (n_flavors, latent_size), float32.
    decoder_weights, decoder_biases
        (n_flavors, n_components, latent_size) and (n_flavors, n_components), float32.
    """

    encoder_weights: NDArray[np.float32]
    encoder_biases: NDArray[np.float32]
    decoder_weights: NDArray[np.float32]
    decoder_biases: NDArray[np.float32]


def _fit_network(
    scores: NDArray[np.float32],
    options: TrainingOptions,
    device: str,
    progress: Callable[[int, float], None] | None,
) -> tuple[TrainedWeights, float]:
    """Train encoders and decoders on (n_flavors, n_participants, n_components)."""
    import torch

    # Random numbers are drawn on the CPU, by a generator of their own: the same on every device.
    generator = torch.Generator().manual_seed(options.seed)
    weights = [
        weight.to(device).requires_grad_() for weight in _first_weights(scores, options, generator)
    ]
    optimizer = torch.optim.AdamW(
        weights, lr=options.learning_rate, weight_decay=options.weight_decay
    )
    data = torch.as_tensor(scores, device=device)
    batches_an_epoch = -(-scores.shape[1] // options.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=options.epochs * batches_an_epoch
    )
    mean_loss = float("nan")
    for epoch in range(1, options.epochs + 1):
        losses = []
        for rows in _batches(scores.shape[1], batches_an_epoch, generator):
            batch = data[:, rows.to(device)]
            keep = _dropout_mask(batch.shape[:2], options, generator).to(device)
            loss = training_loss(batch, *_all_pairs(batch, weights, keep), options)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        mean_loss = _finite(losses, epoch)
        if progress is not None:
            progress(epoch, mean_loss)
    arrays = [weight.detach().cpu().numpy() for weight in weights]
    return TrainedWeights(*arrays), mean_loss


def _finite(losses: Sequence[float], epoch: int) -> float:
    """Mean loss of an epoch; a training that went astray is stopped."""
    mean = float(np.mean(losses))
    if not np.isfinite(mean):
        raise ModelError(
            f"the loss of epoch {epoch} is {mean}",
            fix="Lower the learning rate.",
        )
    return mean


def _first_weights(
    scores: NDArray[np.float32], options: TrainingOptions, generator: torch.Generator
) -> list[Tensor]:
    """Weights to start from: uniform within one over the root of the number of inputs."""
    import torch

    n_flavors, _, n_components = scores.shape
    latent_size = options.latent_size

    def uniform(n_inputs: int, *shape: int) -> Tensor:
        bound = n_inputs**-0.5
        values = torch.rand(n_flavors, *shape, generator=generator)
        return values.mul_(2).sub_(1).mul_(bound)

    return [
        uniform(n_components, latent_size, n_components),
        uniform(n_components, latent_size),
        uniform(latent_size, n_components, latent_size),
        uniform(latent_size, n_components),
    ]


def _batches(n: int, n_batches: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Deal participants at random to batches of sizes that differ by one at most."""
    import torch

    yield from torch.tensor_split(torch.randperm(n, generator=generator), n_batches)


def _dropout_mask(
    shape: Sequence[int], options: TrainingOptions, generator: torch.Generator
) -> Tensor:
    """Factors of latents, (n_flavors, n, latent_size): 0, or what keeps their mean."""
    import torch

    keep = 1 - options.dropout
    values = torch.rand(*shape, options.latent_size, generator=generator)
    return torch.where(values < keep, 1 / keep, 0.0)


def _all_pairs(batch: Tensor, weights: Sequence[Tensor], keep: Tensor) -> tuple[Tensor, Tensor]:
    """Encode every flavor, decode every latent into every flavor.

    Parameters
    ----------
    batch
        (n_flavors, n, n_components).
    weights
        As in `TrainedWeights`.
    keep
        (n_flavors, n, latent_size).

    Returns
    -------
    latents
        (n_flavors, n, latent_size), of length 1.
    decoded
        (n_flavors, n_flavors, n, n_components): from the first axis to the second.
    """
    encoder_weights, encoder_biases, decoder_weights, decoder_biases = weights
    n_flavors, n, _ = batch.shape
    latents = batch @ encoder_weights.mT + encoder_biases[:, None]
    latents = unit_rows(latents * keep)
    flat = latents.reshape(1, n_flavors * n, -1)
    decoded = flat @ decoder_weights.mT + decoder_biases[:, None]
    return latents, decoded.reshape(n_flavors, n_flavors, n, -1).transpose(0, 1)


def unit_rows(rows: Tensor) -> Tensor:
    """Scale rows to length 1; rows without length stay zero, with gradients that are numbers."""
    import torch

    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    scaled: Tensor = rows / torch.where(length > NO_LENGTH, length, 1.0)
    return scaled


def correlation_error(true: Tensor, predicted: Tensor) -> Tensor:
    """How far the correlations between rows are from the identity: ``||C - I||_F``.

    Parameters
    ----------
    true, predicted
        (..., n, n_values); leading axes are broadcast.

    Returns
    -------
    Tensor
        (...), Frobenius norms. A constant row correlates 0 with all.
    """
    import torch

    first = unit_rows(true - true.mean(dim=-1, keepdim=True))
    second = unit_rows(predicted - predicted.mean(dim=-1, keepdim=True))
    identity = torch.eye(true.shape[-2], device=true.device)
    error: Tensor = torch.linalg.matrix_norm(first @ second.mT - identity)
    return error


def latent_distance(latents: Tensor) -> Tensor:
    """Mean squared distance between the latents of all pairs of flavors.

    Parameters
    ----------
    latents
        (n_flavors, n, latent_size).

    Notes
    -----
    With F flavors, ``Σ_{i≠k} |z_i - z_k|² = 2 F Σ_i |z_i|² - 2 |Σ_i z_i|²``, averaged over
    participants and pairs; one flavor has no pairs and gives 0.
    """
    n_flavors = len(latents)
    total = 2 * n_flavors * latents.square().sum() - 2 * latents.sum(dim=0).square().sum()
    return total / (latents.shape[1] * max(n_flavors * (n_flavors - 1), 1))


def training_loss(
    batch: Tensor, latents: Tensor, decoded: Tensor, options: TrainingOptions
) -> Tensor:
    """Loss of one step, averaged over all pairs of flavors.

    Parameters
    ----------
    batch
        (n_flavors, n, n_components).
    latents
        (n_flavors, n, latent_size).
    decoded
        (n_flavors, n_flavors, n, n_components).
    options
        The weights.

    Notes
    -----
    ``w1 ||C(x, y) - I|| + w2 mean((x - y)²) / mean(x²) + w3 ||C(z, z) - I|| + w4 |z_i - z_k|²``:
    the terms ``correye``, ``mse``, ``enceye`` and ``latentsim`` of the published model. Error and
    distance are taken relative to scores and per latent, so that the weights suit any number of
    participants, components and dimensions. They are those of the paper where it stood:
    1000 · 100² / (710 · 256) = 55 for the error, 10000 / 128 = 78 for the distance. There, latents
    are drawn together once an epoch, here at each step and from both sides.

    References
    ----------
    Jamison et al., Krakencoder: a unified brain connectome translation and fusion tool,
    Nature Methods 2025.
    """
    return (
        options.output_correlation * correlation_error(batch, decoded).mean()
        + options.output_error * (decoded - batch).square().mean() / batch.square().mean()
        + options.latent_correlation * correlation_error(latents, latents).mean()
        + options.latent_similarity * latent_distance(latents)
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: sums are then made in the same order each time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
