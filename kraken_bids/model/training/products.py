# SPDX-License-Identifier: MIT
"""Inner products between predicted and true rows: all that the losses look at.

Correlations and distances between the participants of a batch follow from a few small arrays of
inner products. Whoever computes these once, for all pairs of flavors in one batched product, has
every loss from arrays of (participants, participants) values, never from the predictions again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Rows whose variance is less than this share of their mean square are constant, pairs closer
#: than this share of their squared lengths the same: float32 cannot tell.
NOTHING = 1e-6


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows x that others are held against, as directions, lengths and means.

    Parameters
    ----------
    augmented
        (..., n + 1, n_values): each row less its mean, and below them a row of ones; zeros where
        rows are padded.
    scale, mean, square
        (..., 1, n): one over the length of each row less its mean (0 if it is constant), its
        mean, and its sum of squares.
    n_values
        (..., 1, 1) values of a row, padding not counted.
    """

    augmented: Tensor
    scale: Tensor
    mean: Tensor
    square: Tensor
    n_values: Tensor

    @classmethod
    def make(cls, values: Tensor, n_values: Tensor, augmented: Tensor | None = None) -> Rows:
        """Prepare (..., n, width) values, padded with zeros, of (...) true values a row.

        Room for `augmented` is made if none is given.
        """
        *lead, n, width = values.shape
        ones = torch.arange(width, device=values.device) < n_values[..., None]
        n_values = n_values[..., None, None]
        mean = values.sum(-1, keepdim=True).div_(n_values)
        if augmented is None:
            augmented = values.new_empty(*lead, n + 1, width)
        centred, row = augmented[..., :-1, :], augmented[..., -1:, :]
        row.copy_(ones[..., None, :])
        torch.addcmul(values, mean, row, value=-1, out=centred)
        variation = square_sums(centred)
        square = torch.addcmul(variation, mean * n_values, mean)
        scale = variation.masked_fill(variation <= NOTHING * square, torch.inf).rsqrt_()
        return cls(augmented, scale.mT, mean.mT, square.mT, n_values)

    def of(self, targets: slice) -> Rows:
        """Look at those of some targets, the first axis."""
        arrays = (self.augmented, self.scale, self.mean, self.square, self.n_values)
        return Rows(*(array[targets] for array in arrays))

    def values(self) -> Tensor:
        """(..., n, width) values as they were."""
        return torch.addcmul(
            self.augmented[..., :-1, :], self.mean.mT, self.augmented[..., -1:, :]
        )


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products between rows x (true, or latents) and y (predicted, or latents).

    What belongs to a row y stands in columns, what belongs to a row x in rows, so that all of it
    broadcasts against the products.

    Parameters
    ----------
    along
        (..., n of y, n of x): y times x less its mean.
    y_square, y_total
        (..., n, 1): sums of squares and sums of the rows y.
    x_scale, x_mean, x_square
        (..., 1, n), see `Rows`; no scale where y are x.
    n_values
        (..., 1, 1).
    predicted, true
        (..., n, n_values) y and x themselves; None where no loss asks for them.
    same
        Whether y are x: each row is then at distance 0 from itself.
    """

    along: Tensor
    y_square: Tensor
    y_total: Tensor
    x_scale: Tensor | None
    x_mean: Tensor
    x_square: Tensor
    n_values: Tensor
    predicted: Tensor | None = None
    true: Tensor | None = None
    same: bool = False

    @property
    def n(self) -> int:
        """Participants."""
        return int(self.along.shape[-1])

    def inner(self) -> Tensor:
        """(..., n of y, n of x) inner products."""
        return torch.addcmul(self.along, self.y_total, self.x_mean)

    def correlations(self) -> Tensor:
        """(..., n of y, n of x) Pearson correlations of rows; constant rows correlate 0."""
        scale = inverse_deviation(self.y_square, self.y_total, self.n_values)
        return self.along * scale * (scale.mT if self.x_scale is None else self.x_scale)


def inverse_deviation(square: Tensor, total: Tensor, n_values: Tensor) -> Tensor:
    """One over the length of rows less their mean; 0, with a gradient of 0, if constant.

    Parameters
    ----------
    square, total
        Sums of squares and sums of rows.
    n_values
        Values a row.
    """
    variation = square - total.square() / n_values
    constant = variation <= NOTHING * square.detach()
    return variation.masked_fill(constant, torch.inf).rsqrt()


_IDENTITIES: dict[tuple[int, torch.device], Tensor] = {}


def identity(n: int, device: torch.device) -> Tensor:
    """(n, n) identity matrix, made once a size and device; not to be written to."""
    key = (n, device)
    if key not in _IDENTITIES:
        _IDENTITIES[key] = torch.eye(n, device=device)
    return _IDENTITIES[key]


_NUMBERS: dict[tuple[float, torch.device], Tensor] = {}


def number(value: float, device: torch.device) -> Tensor:
    """Give a number as an array without axes, made once; not to be written to.

    An operation with a plain number first makes such an array, which takes longer than itself.
    """
    key = (value, device)
    if key not in _NUMBERS:
        _NUMBERS[key] = torch.tensor(value, device=device)
    return _NUMBERS[key]


def latent_products(latents: Tensor, target: Tensor | None = None) -> Products:
    """Products of latents with themselves, or with latents that they are to become.

    Parameters
    ----------
    latents, target
        (..., n, latent_size).

    Returns
    -------
    Products
        Gradients flow to the latents as y only. Of a term that treats x and y alike the gradient
        by the latents as both is twice that.
    """
    with torch.no_grad():
        x = latents if target is None else target
        rows = Rows.make(x, x.new_full(x.shape[:-2], x.shape[-1]))
    along, square = RowProducts.apply(latents, rows.augmented)
    n = along.shape[-2]
    return Products(
        along.narrow(-1, 0, n), square, along.narrow(-1, n, 1),
        None if target is None else rows.scale, rows.mean, rows.square, rows.n_values,
        same=target is None,
    )  # fmt: skip


def predicted_products(predicted: Tensor, rows: Rows, *, keep: bool = False) -> Products:
    """Products of predictions with the truth.

    Parameters
    ----------
    predicted
        (n_targets, n_sources · n, n_features), padded with zeros: of each source all participants
        of the batch.
    rows
        The truth, (n_targets, n, n_features).
    keep
        Whether a loss asks for the predictions themselves.

    Returns
    -------
    Products
        Leading axes (n_targets, n_sources).
    """
    along, square = RowProducts.apply(predicted, rows.augmented)
    return arranged(along, square, rows, predicted if keep else None)


def linear_products(latents: Tensor, weight: Tensor, bias: Tensor, rows: Rows) -> Products:
    """Products of linear predictions with the truth, without making the predictions.

    Parameters
    ----------
    latents
        (1 or n_targets, n_sources · n, latent_size).
    weight, bias
        (n_targets, latent_size, n_features) and (n_targets, 1, n_features).
    rows
        The truth.

    Notes
    -----
    With ``y = z D + b``, ``y · x = z (D x) + b · x`` and ``|y|² = z D Dᵀ z + 2 z D b + |b|²``:
    arrays of the latent's size instead of the features', which pays for many sources.
    """
    along, square = LinearProducts.apply(latents, weight, bias, rows.augmented)
    return arranged(along, square, rows, None)


def arranged(along: Tensor, square: Tensor, rows: Rows, predicted: Tensor | None) -> Products:
    """Give products of predictions their names and their axes of targets and sources."""
    n_targets, n = len(along), rows.square.shape[-1]
    along = along.view(n_targets, -1, n, n + 1)
    lead = along.shape[:3]
    return Products(
        along=along.narrow(-1, 0, n),
        y_square=square.view(*lead, 1),
        y_total=along.narrow(-1, n, 1),
        x_scale=rows.scale.unsqueeze(1),
        x_mean=rows.mean.unsqueeze(1),
        x_square=rows.square.unsqueeze(1),
        n_values=rows.n_values.unsqueeze(1),
        predicted=None if predicted is None else predicted.view(*lead, -1),
        true=None if predicted is None else rows.values().unsqueeze(1),
    )


class RowProducts(torch.autograd.Function):
    """(..., n, width) rows y times (..., m, width) constant rows, and their sums of squares."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, augmented: Tensor) -> tuple[Tensor, Tensor]:
        """Give (..., n, m) and (..., n, 1)."""
        ctx.save_for_backward(y, augmented)
        return y @ augmented.mT, square_sums(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Pass over the rows once."""
        y, augmented = ctx.saved_tensors
        gradient = gradients[0] @ augmented
        return gradient.addcmul_(y, gradients[1], value=2), None


def square_sums(y: Tensor) -> Tensor:
    """(..., n, 1) sums of squares of rows, in one pass and without their squares."""
    lengths: Tensor = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return lengths.square_()


def linear_forward(
    z: Tensor, weight: Tensor, bias: Tensor, augmented: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give products (n_targets, rows, n + 1) and squares (n_targets, rows, 1), two to keep."""
    wide = z.expand(len(weight), -1, -1)
    onto = weight @ augmented.mT
    along = torch.baddbmm(bias @ augmented.mT, wide, onto)
    half = torch.baddbmm(bias @ weight.mT, wide, weight @ weight.mT)  # z D Dᵀ + b Dᵀ
    # |y|² = (z D Dᵀ + b Dᵀ) · z + z · D b + |b|²
    cross = wide @ (weight @ bias.mT)
    square = (half * wide).sum(-1, keepdim=True).add_(cross).add_(square_sums(bias))
    return along, square, onto, half


def linear_backward(
    saved: Sequence[Tensor], d_along: Tensor, d_square: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give gradients by z, weight and bias.

    Parameters
    ----------
    saved
        z, weight, bias, augmented, and the two that `linear_forward` gave to keep.
    d_along, d_square
        Gradients by the products and the squares.
    """
    z, weight, bias, augmented, onto, half = saved
    d_square = 2 * d_square
    wide = z.expand(len(weight), -1, -1)
    d_z = (d_along @ onto.mT).addcmul_(half, d_square)
    scaled = wide * d_square
    d_weight = (wide.mT @ d_along) @ augmented
    d_weight.baddbmm_(wide.mT @ scaled, weight)
    d_cross = scaled.sum(1, keepdim=True)
    d_weight.baddbmm_(d_cross.mT, bias)
    d_bias = d_along.sum(1, keepdim=True) @ augmented + d_cross @ weight
    d_bias.addcmul_(d_square.sum(1, keepdim=True), bias)
    return (d_z.sum(0, keepdim=True) if len(z) < len(weight) else d_z), d_weight, d_bias


class LinearProducts(torch.autograd.Function):
    """See `linear_products`; its products of weights are shared by value and gradient."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, augmented: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give products and squares."""
        along, square, onto, half = linear_forward(z, weight, bias, augmented)
        ctx.save_for_backward(z, weight, bias, augmented, onto, half)
        return along, square

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Give gradients by z, weight and bias."""
        return *linear_backward(ctx.saved_tensors, *gradients), None
