# SPDX-License-Identifier: MIT
"""The parts of a model as plain arrays: what checkpoints, bundles and trainers hand to each other.

NumPy only, so that a bundle can be read, written and described without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, suggest
from .transforms import Transform

#: What may follow a linear layer; ``leaky_relu`` carries its slope, as ``leaky_relu:0.2``, and
#: ``normalize`` divides each row by its Euclidean length.
ACTIVATIONS = ("leaky_relu", "normalize", "relu", "sigmoid", "tanh")


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer and the activations behind it: ``y = f(W x + b)``.

    Parameters
    ----------
    weight
        (n_out, n_in), float32.
    bias
        (n_out,), float32, or None.
    activations
        Names from `ACTIVATIONS`, applied in order; empty for a linear layer.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    activations: tuple[str, ...] = ()

    @property
    def n_in(self) -> int:
        """Number of inputs."""
        return int(self.weight.shape[1])

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return int(self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class FlavorModel:
    """Everything that a model knows of one flavor.

    Parameters
    ----------
    n_edges
        Length of a connectome's vector of edges.
    transform
        Edges to features and back.
    encoder
        Layers from features (n_features) to latent; the last mostly ends in ``normalize``.
    decoder
        Layers from latent to features.
    group
        Name of the group that transforms between groups go by, ``fc`` or ``sc``; empty if none.
    is_adversarial
        Whether training reversed the gradient between latent and decoder, to rid the latent of
        what this flavor tells. It changes nothing when the model is used.
    typical
        What is usual of participants that it has not learnt from, as `kraken_bids.model.typical`
        keeps it: plain values.
    """

    n_edges: int
    transform: Transform
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    group: str = ""
    is_adversarial: bool = False
    typical: Mapping[str, Any] | None = None


def check_layers(layers: Sequence[Layer], n_in: int, n_out: int, *, where: str) -> None:
    """Refuse layers that do not fit together or hold numbers that cannot be.

    Raises
    ------
    ModelError
        If a weight is NaN or infinite, a size does not follow from the one before, or an
        activation is unknown.
    """
    if not layers:
        raise ModelError("has no layers", where=where, fix="Use the file as it was trained.")
    sizes = [n_in, *(layer.n_out for layer in layers)]
    taken = [layer.n_in for layer in layers]
    if sizes[:-1] != taken or sizes[-1] != n_out:
        raise ModelError(
            f"layers of sizes {[layer.weight.shape for layer in layers]} do not lead from {n_in} "
            f"to {n_out} values",
            where=where,
            fix="Use weights and transforms of one training.",
        )
    for layer in layers:
        check_finite([layer.weight, layer.bias], where=where)
        for activation in layer.activations:
            if activation.split(":")[0] not in ACTIVATIONS:
                raise ModelError(
                    f"activation '{activation}' is unknown",
                    where=where,
                    fix=suggest(activation, ACTIVATIONS) + ".",
                )


def check_finite(arrays: Iterable[NDArray | None], *, where: str) -> None:
    """Refuse NaN and infinity.

    Raises
    ------
    ModelError
        If any value is not a finite number.
    """
    for array in arrays:
        if array is not None and not np.isfinite(array).all():
            bad = int(np.count_nonzero(~np.isfinite(array)))
            raise ModelError(
                f"{bad} of {array.size} weights are NaN or infinite: its training failed",
                where=where,
                fix="Use another checkpoint; one of an earlier epoch may be whole.",
            )


def check_flavor(flavor: str, model: FlavorModel, latent_size: int) -> None:
    """Refuse a flavor whose parts do not fit together.

    Raises
    ------
    ModelError
        If sizes of transform, encoder, decoder and latent differ, or a weight is NaN.
    """
    transform = model.transform
    for array in transform.parameters.values():
        check_finite([array], where=f"transform of {flavor}")
    if transform.n_edges not in {None, model.n_edges}:
        raise ModelError(
            f"transform takes {transform.n_edges} edges, the model says {model.n_edges}",
            where=flavor,
            fix="Use the transform that the model was trained with.",
        )
    n_features = transform.n_features or model.n_edges
    check_layers(model.encoder, n_features, latent_size, where=f"encoder of {flavor}")
    check_layers(model.decoder, latent_size, n_features, where=f"decoder of {flavor}")
