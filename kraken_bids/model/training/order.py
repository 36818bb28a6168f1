# SPDX-License-Identifier: MIT
"""In which order an epoch meets participants and pairs of flavors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .coders import Buffers
from .products import Rows

#: Stream of random numbers that follow from seed and epoch.
_PAIRS = 2


def draw_pairs(n_flavors: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    """Draw an order of all ordered pairs of flavors, source and target; all are equally likely."""
    rng = np.random.default_rng([seed, epoch, _PAIRS])
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


def shuffle(n: int, seed: int) -> Tensor:
    """Draw an order of n participants."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def split_batches(
    features: Tensor, n_features: Tensor, order: Tensor, n_batches: int, buffers: Buffers
) -> Iterator[tuple[Tensor, Rows]]:
    """Give batch after batch of all flavors, as inputs and as the truth.

    Parameters
    ----------
    features
        (n_flavors, n, n_features), padded with zeros.
    n_features
        (n_flavors,).
    order
        (n,) of participants.
    n_batches
        Into which they are split; sizes differ by one at most.
    buffers
        Where batches lie.
    """
    n_flavors, n, width = features.shape
    rows = Rows.make(features, n_features, buffers("truth", n_flavors, n + 1, width))
    parts, ones = torch.tensor_split(order, n_batches), order.new_tensor([n])
    sizes = [len(part) for part in parts]
    # each batch takes the row of ones along
    places = torch.cat([piece for part in parts for piece in (part, ones)])
    shuffled = buffers("inputs", n_flavors, n, width)
    torch.index_select(features, 1, order, out=shuffled)
    truth = buffers("truth of batches", n_flavors, len(places), width)
    torch.index_select(rows.augmented, 1, places, out=truth)
    scales, means, squares = (
        fact.index_select(-1, order).split(sizes, -1)
        for fact in (rows.scale, rows.mean, rows.square)
    )
    values, augmented = shuffled.split(sizes, 1), truth.split([size + 1 for size in sizes], 1)
    for x, of_batch, scale, mean, square in zip(
        values, augmented, scales, means, squares, strict=True
    ):
        yield x, Rows(of_batch, scale, mean, square, rows.n_values)


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

    @classmethod
    def make(
        cls, features: Tensor, n_features: Tensor, order: Tensor, size: int, buffers: Buffers
    ) -> Batches:
        """Order participants, see `split_batches`; the rest that fills no batch is left out."""
        n_flavors, n, width = features.shape
        n_batches = n // size
        values = buffers("shuffled", n_flavors, n_batches * size, width)
        torch.index_select(features, 1, order[: len(values[0])], out=values)
        values = values.view(n_flavors, n_batches, size, width)
        room = buffers("shuffled truth", n_flavors, n_batches, size + 1, width)
        counts = n_features[:, None].expand(-1, n_batches)
        return cls(values, Rows.make(values, counts, room))

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

    def parts(self) -> Iterator[tuple[Tensor, Rows]]:
        """Batch after batch, of all flavors."""
        rows = zip(*(array.unbind(1) for array in vars(self.rows).values()), strict=True)
        for values, row in zip(self.values.unbind(1), rows, strict=True):
            yield values, Rows(*row)


def _selected(array: Tensor, rows: Tensor, buffers: Buffers, name: str) -> Tensor:
    out = buffers(name, len(rows), *array.shape[1:])
    return torch.index_select(array, 0, rows, out=out)
