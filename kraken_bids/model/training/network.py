# SPDX-License-Identifier: MIT
"""A model while it is trained: coders of all flavors, and transforms between groups of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import Layer
from .coders import Buffers, Coders, Dropout, drop, unit_rows
from .losses import Loss
from .options import TrainingOptions
from .products import Products, Rows, linear_products, predicted_products
from .side_by_side import SideBySide


@dataclass(eq=False)
class Network:
    """What is trained.

    Parameters
    ----------
    names
        Flavors.
    n_features
        (n_flavors,) features of each; arrays are padded with zeros to the largest.
    encoders, decoders
        Of all flavors.
    crossings
        Transforms of latents between groups; None where all flavors share one latent space.
    groups
        Group of each flavor by number.
    group_names
        Their names.
    options
        With the schedule's defaults.
    buffers
        For what a step makes and the next one does not need.
    side_by_side
        Runs parts of a step.
    """

    names: tuple[str, ...]
    n_features: Tensor
    encoders: Coders
    decoders: Coders
    crossings: Coders | None
    groups: tuple[int, ...]
    group_names: tuple[str, ...]
    options: TrainingOptions
    buffers: Buffers
    side_by_side: SideBySide

    @classmethod
    def initial(
        cls,
        n_features: dict[str, int],
        groups: Sequence[str],
        options: TrainingOptions,
        device: str,
        *,
        n_threads: int = 1,
    ) -> Network:
        """Draw first weights; the seed alone decides them, whatever the number of threads."""
        generator = torch.Generator().manual_seed(options.seed)
        names, counts = tuple(n_features), list(n_features.values())
        latents = [options.latent_size] * len(names)
        sizes = [max(counts), *options.hidden_sizes, options.latent_size]

        def draw(sizes: Sequence[int], n_in: Sequence[int], n_out: Sequence[int]) -> Coders:
            coders = Coders.initial(
                sizes, n_in=n_in, n_out=n_out, activation=options.activation, generator=generator
            )
            return coders.to(device)

        group_names = tuple(dict.fromkeys(groups))
        crossings = None
        if options.intergroup and len(group_names) > 1:
            n_crossings = len(group_names) * (len(group_names) - 1)
            own = [options.latent_size] * n_crossings
            crossings = draw([options.latent_size] * 2, own, own)
        return cls(
            names=names,
            n_features=torch.tensor(counts, dtype=torch.float32, device=device),
            encoders=draw(sizes, counts, latents),
            decoders=draw(sizes[::-1], latents, counts),
            crossings=crossings,
            groups=tuple(group_names.index(name) for name in groups),
            group_names=group_names,
            options=options,
            buffers=Buffers(device),
            side_by_side=SideBySide(n_threads if device == "cpu" else 1),
        )

    @property
    def parts(self) -> list[Coders]:
        """All coders."""
        return [self.encoders, self.decoders, *([self.crossings] if self.crossings else [])]

    @property
    def is_plain(self) -> bool:
        """Whether there is one layer each way and one latent space, in single precision."""
        is_single = self.options.precision == "float32"
        return self.encoders.is_linear and self.crossings is None and is_single

    @property
    def ways(self) -> list[tuple[int, int]]:
        """Ordered pairs of groups, in the order of `crossings`."""
        return list(itertools.permutations(range(len(self.group_names)), 2))

    def way(self, source: int, target: int) -> int:
        """Number of the transform between two flavors' groups, -1 if they share one."""
        pair = self.groups[source], self.groups[target]
        return self.ways.index(pair) if self.crossings and pair[0] != pair[1] else -1

    def unit(self, latents: Tensor) -> Tensor:
        """Bring latents to length 1, if the model does."""
        return unit_rows(latents) if self.options.normalize else latents

    def encode(self, coders: Coders, x: Tensor, factors: Sequence[Tensor | None] = ()) -> Tensor:
        """Map (n_flavors, n, n_features) to latents (n_flavors, n, latent_size)."""
        with self._mixed():
            encoded = coders.forward(x, factors)
        return self.unit(encoded.float())

    def _mixed(self) -> torch.autocast:
        """Compute products of layers in the precision asked for, where they are differentiated.

        Losses, weights and their optimizer's state stay in single precision, and so do looks at
        those who watch, as the bundle will be computed in it.
        """
        is_mixed = self.options.precision != "float32" and torch.is_grad_enabled()
        kind = self.n_features.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=is_mixed)

    def cross(self, latents: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Give latents as each target's decoder takes them.

        Parameters
        ----------
        latents
            (n_sources, n, latent_size), of all flavors.
        dropout
            Drops what transforms give, if any.

        Returns
        -------
        Tensor
            (1, n_sources · n, latent_size) if all share one space, else with a first axis of
            n_targets.
        """
        size = latents.shape[-1]
        if self.crossings is None:
            return latents.reshape(1, -1, size)
        by_group = {}
        for group in range(len(self.group_names)):
            parts = []
            for source, own in enumerate(self.groups):
                z = latents[source]
                if own != group:
                    z = self._transform(self.crossings, z, self.ways.index((own, group)), dropout)
                parts.append(z)
            by_group[group] = torch.cat(parts)
        return torch.stack([by_group[group] for group in self.groups])

    def _transform(
        self, crossings: Coders, z: Tensor, way: int, dropout: Dropout | None
    ) -> Tensor:
        weight, bias = crossings.tensors
        moved = torch.addmm(bias[way], z, weight[way])
        if dropout is not None:
            moved = drop(moved, dropout.draw(self.options.dropout, *moved.shape))
        return self.unit(moved)

    def predict(
        self,
        decoders: Coders,
        latents: Tensor,
        batch: Rows,
        loss: Loss,
        factors: Sequence[Tensor | None] = (),
    ) -> Products:
        """Decode latents and hold the predictions against the truth.

        Parameters
        ----------
        decoders
            Of the targets in `batch`.
        latents
            (1 or n_targets, n_sources · n, latent_size).
        batch
            The truth.
        loss
            What will be asked of the products.
        factors
            Of dropout, by layer.
        """
        # many rows: then products of weights cost less than predictions
        is_wide = latents.shape[1] > latents.shape[2]
        plain = decoders.is_linear and not any(factor is not None for factor in factors)
        plain = plain and (self.options.precision == "float32" or not torch.is_grad_enabled())
        if plain and is_wide and not loss.needs_predictions:
            return linear_products(latents, decoders.tensors[0], decoders.tensors[1], batch)
        with self._mixed():
            predicted = decoders.forward(latents, factors)
        return predicted_products(predicted.float(), batch, keep=loss.needs_predictions)

    def layers(self) -> tuple[list[tuple[Layer, ...]], list[tuple[Layer, ...]]]:
        """Encoders' and decoders' layers as arrays."""
        last = ("normalize",) if self.options.normalize else ()
        size = self.options.latent_size
        counts = [int(count) for count in self.n_features.tolist()]
        return (
            [tuple(self.encoders.layers(row, n, size, last)) for row, n in enumerate(counts)],
            [tuple(self.decoders.layers(row, size, n, ())) for row, n in enumerate(counts)],
        )

    def crossing_layers(self) -> dict[str, tuple[Layer, ...]]:
        """Layers of transforms between groups, by ``<from>-><to>``."""
        if self.crossings is None:
            return {}
        last = ("normalize",) if self.options.normalize else ()
        size = self.options.latent_size
        return {
            f"{self.group_names[a]}->{self.group_names[b]}": tuple(
                self.crossings.layers(row, size, size, last)
            )
            for row, (a, b) in enumerate(self.ways)
        }
