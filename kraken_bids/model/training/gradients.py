# SPDX-License-Identifier: MIT
"""The terms that cost the most time, with their gradients in closed form.

Each takes `products.Products`, gives a value a pair and adds its gradients to `Gradients`, in a
handful of operations instead of the dozens that automatic differentiation makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .products import NOTHING, Products, number


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a loss by products, summed up term by term.

    Parameters
    ----------
    augmented
        (..., n of y, n of x + 1) by ``along`` and, in the last column, by ``y_total``.
    square
        (..., n of y) by ``y_square``.
    """

    augmented: Tensor
    square: Tensor

    @classmethod
    def zeros(cls, p: Products) -> Gradients:
        """Begin."""
        shape = p.along.shape
        return cls(p.along.new_zeros((*shape[:-1], shape[-1] + 1)), p.along.new_zeros(shape[:-1]))

    @property
    def along(self) -> Tensor:
        """(..., n of y, n of x) part."""
        return self.augmented[..., :-1]

    @property
    def total(self) -> Tensor:
        """(..., n of y) part."""
        return self.augmented[..., -1]


#: Computes a term times a weight, (...), and adds its gradients.
Term = Callable[[Products, float, Gradients], Tensor]


def correlation_error(p: Products, weight: float, g: Gradients) -> Tensor:
    """``||C - I||_F`` of the correlations between rows."""
    device = p.along.device
    nothing, infinite = number(NOTHING, device), number(torch.inf, device)
    mean = p.y_total / p.n_values
    variation = torch.addcmul(p.y_square, p.y_total, mean, value=-1)
    scale = variation.masked_fill_(variation <= p.y_square * nothing, infinite).rsqrt_()
    error = p.along * scale[..., None]
    error.diagonal(dim1=-2, dim2=-1).sub_(1)
    value: Tensor = torch.linalg.vector_norm(error, dim=(-2, -1))
    factor = number(weight, device) / value.clamp_min(1e-30)
    error.mul_(factor[..., None, None])
    by_square = (error * p.along).sum(-1).mul_(scale).mul_(scale).mul_(scale)
    g.along.addcmul_(error, scale[..., None])
    g.square.add_(by_square, alpha=-0.5)
    g.total.addcmul_(by_square, mean)
    return value.mul_(number(weight, device))


def square_error(p: Products, scale: Tensor, g: Gradients) -> Tensor:
    """``scale Σ (x - y)²`` over participants and values.

    Parameters
    ----------
    p
        Products.
    scale
        To be broadcast against (...).
    g
        To add to.
    """
    own = p.along.diagonal(dim1=-2, dim2=-1)
    matched = torch.addcmul(own * p.x_norm, p.y_total, p.x_mean)
    value: Tensor = torch.add(p.x_square + p.y_square, matched, alpha=-2).sum(-1).mul_(scale)
    scale = scale[..., None]
    g.along.diagonal(dim1=-2, dim2=-1).addcmul_(p.x_norm, scale, value=-2)
    g.total.addcmul_(p.x_mean, scale, value=-2)
    g.square.add_(scale)
    return value


def mean_square_error(p: Products, weight: float, g: Gradients) -> Tensor:
    """``mean (x - y)²`` over participants and values."""
    return square_error(p, weight / (p.n * p.n_values[..., 0]), g)


def sum_square_error(p: Products, weight: float, g: Gradients) -> Tensor:
    """``Σ (x - y)²``."""
    return square_error(p, torch.full_like(p.n_values[..., 0], weight), g)


def relative_square_error(p: Products, weight: float, g: Gradients) -> Tensor:
    """``Σ (x - y)² / Σ x²``."""
    return square_error(p, weight / p.x_square.sum(-1), g)


def mean_margin(p: Products, weight: float, g: Gradients) -> Tensor:
    """``mean_i D_ii - mean_{i≠k} D_ik`` of Euclidean distances."""
    n = p.n
    share = weight / (n * (n - 1))
    weights = torch.full((n, n), -share, dtype=p.along.dtype, device=p.along.device)
    weights.diagonal(dim1=-2, dim2=-1).fill_(weight / n)
    distances, inverse = _distances(p)
    value: Tensor = torch.tensordot(distances, weights, 2)
    _add_margin(p, inverse.mul_(weights), g)
    return value


def nearest_margin(p: Products, weight: float, g: Gradients) -> Tensor:
    """``mean_i D_ii - ½ mean_i(min_{k≠i} D_ki + min_{k≠i} D_ik)`` of Euclidean distances."""
    distances, inverse = _distances(p)
    own = distances.diagonal(dim1=-2, dim2=-1)
    value = own.sum(-1)
    own.fill_(torch.inf)
    share = torch.full((1,), -0.5 * weight / p.n, device=distances.device).expand(distances.shape)
    weights = torch.zeros_like(distances)
    weights.diagonal(dim1=-2, dim2=-1).fill_(weight / p.n)
    for axis in (-1, -2):
        nearest, where = distances.min(axis, keepdim=True)
        value.sub_(nearest.sum((-2, -1)), alpha=0.5)
        weights.scatter_add_(axis, where, share)
    _add_margin(p, inverse.mul_(weights), g)
    return value.mul_(weight / p.n)


def _distances(p: Products) -> tuple[Tensor, Tensor]:
    """Distances (..., n of y, n of x), and one over them; both 0 for equal rows."""
    sizes = p.y_square[..., :, None] + p.x_square[..., None, :]
    squares = torch.sub(sizes, p.inner(), alpha=2)
    equal = squares <= sizes.mul_(number(NOTHING, squares.device))
    if p.same:
        equal.diagonal(dim1=-2, dim2=-1).fill_(True)
    inverse = squares.masked_fill(equal, number(torch.inf, squares.device)).rsqrt_()
    return squares.mul_(inverse), inverse


def _add_margin(p: Products, by_inner: Tensor, g: Gradients) -> None:
    """Add gradients of a weighted sum of distances; ``D² = |y|² + |x|² - 2 y·x``.

    Parameters
    ----------
    p
        Products.
    by_inner
        Weights over distances: minus the gradient by inner products, and that by D²/2.
    g
        To add to.
    """
    g.along.addcmul_(by_inner, p.x_norm[..., None, :], value=-1)
    g.total.sub_((by_inner * p.x_mean[..., None, :]).sum(-1))
    g.square.add_(by_inner.sum(-1), alpha=0.5)


def weighted_sum(p: Products, terms: Sequence[tuple[float, Term]], g: Gradients) -> Tensor:
    """Sum terms times their weights, (...), and add their gradients."""
    with torch.no_grad():
        values = [term(p, weight, g) for weight, term in terms]
        total = values[0]
        for value in values[1:]:
            total = total.add_(value)
    return total


class _Attached(torch.autograd.Function):
    """A value whose gradients were computed with it."""

    @staticmethod
    def forward(
        ctx: Any,
        _along: Tensor,
        _square: Tensor,
        _total: Tensor,
        value: Tensor,
        *gradients: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        along, square, total = ctx.saved_tensors
        scale = outer[0][..., None]
        return along * scale[..., None], square * scale, total * scale, None, None, None, None


def attach(p: Products, value: Tensor, g: Gradients) -> Tensor:
    """Make a value that automatic differentiation goes on from."""
    attached: Tensor = _Attached.apply(
        p.along, p.y_square, p.y_total, value, g.along, g.square, g.total
    )
    return attached
