# SPDX-License-Identifier: MIT
"""The autoencoder's halves as torch modules: linear layers, dropout, activations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .layers import Layer


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """Give the function of a name in `layers.ACTIVATIONS`."""
    kind, _, slope = name.partition(":")
    if kind == "leaky_relu":
        return lambda x: functional.leaky_relu(x, float(slope))
    return {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "normalize": lambda x: functional.normalize(x, p=2.0, dim=1, eps=1e-12),
    }[kind]


class Coder(nn.Module):
    """An encoder or a decoder.

    Parameters
    ----------
    linears
        Linear layers in order.
    activations
        Names of what follows each.
    dropout
        Probability with which training drops each value behind a linear layer, before the
        activation; the last layer's values too, as in the published model.
    """

    def __init__(
        self,
        linears: Sequence[nn.Linear],
        activations: Sequence[tuple[str, ...]],
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.linears = nn.ModuleList(linears)
        self.activations = tuple(activations)
        self.dropout = dropout

    @classmethod
    def from_layers(
        cls, layers: Sequence[Layer], *, device: str = "cpu", dropout: float = 0.0
    ) -> Coder:
        """Build a coder that computes what the arrays say."""
        linears = []
        for layer in layers:
            linear = nn.Linear(layer.n_in, layer.n_out, bias=layer.bias is not None, device="meta")
            linear.weight = nn.Parameter(torch.tensor(layer.weight, device=device))
            if layer.bias is not None:
                linear.bias = nn.Parameter(torch.tensor(layer.bias, device=device))
            linears.append(linear)
        return cls(linears, [layer.activations for layer in layers], dropout=dropout)

    @classmethod
    def initial(
        cls,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        normalize: bool = False,
        dropout: float = 0.0,
        device: str = "cpu",
    ) -> Coder:
        """Build an untrained coder from torch's global random state.

        Parameters
        ----------
        sizes
            Number of values from input to output: two for a single layer.
        activation
            What follows all layers but the last.
        normalize
            Whether the output's rows are brought to length 1.
        """
        linears = [
            nn.Linear(n_in, n_out, device=device) for n_in, n_out in itertools.pairwise(sizes)
        ]
        hidden: list[tuple[str, ...]] = [(activation,)] * (len(linears) - 1)
        return cls(linears, [*hidden, ("normalize",) if normalize else ()], dropout=dropout)

    def layers(self) -> tuple[Layer, ...]:
        """Give the weights as arrays, such as `bundle.write_bundle` takes."""
        return tuple(
            Layer(
                _array(linear.weight), None if linear.bias is None else _array(linear.bias), names
            )
            for linear, names in zip(self.linears, self.activations, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in) to (n, n_out)."""
        for linear, names in zip(self.linears, self.activations, strict=True):
            x = functional.dropout(linear(x), self.dropout, self.training)
            for name in names:
                x = _activation(name)(x)
        return x


def _array(parameter: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = parameter.detach().cpu().numpy().astype(np.float32)
    return array
