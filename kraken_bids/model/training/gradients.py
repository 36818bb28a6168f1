# SPDX-License-Identifier: MIT
"""The terms that cost the most time, with their gradients in closed form.

Each takes `products.Products` and gives a value a pair and its gradients, in a handful of
operations instead of the dozens that automatic differentiation makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .products import NOTHING, Products, identity


@dataclass(frozen=True, eq=False)
class Closed:
    """A loss and its gradients.

    Parameters
    ----------
    value
        (...), one a pair.
    along, square, total
        Gradients by ``along``, ``y_square`` and ``y_total`` of the products.
    """

    value: Tensor
    along: Tensor
    square: Tensor
    total: Tensor


def correlation_error(p: Products) -> Closed:
    """``||C - I||_F`` of the correlations between rows."""
    mean = p.y_total / p.n_values
    variation = torch.addcmul(p.y_square, p.y_total, mean, value=-1)
    scale = variation.masked_fill_(variation <= NOTHING * p.y_square, torch.inf).rsqrt_()
    error = p.along * scale[..., None]
    error.diagonal(dim1=-2, dim2=-1).sub_(1)
    value = torch.linalg.vector_norm(error, dim=(-2, -1))
    error /= value.clamp_min(1e-30)[..., None, None]
    by_scale = torch.linalg.vecdot(error, p.along)
    by_square = by_scale.mul_(scale.pow(3)).mul_(-0.5)
    return Closed(value, error.mul_(scale[..., None]), by_square, by_square * mean * -2)


def square_error(p: Products, scale: Tensor) -> Closed:
    """``scale Σ (x - y)²`` over participants and values.

    Parameters
    ----------
    p
        Products.
    scale
        To be broadcast against (...).
    """
    along = p.along.diagonal(dim1=-2, dim2=-1)
    matched = torch.addcmul(along * p.x_norm, p.y_total, p.x_mean)
    value = torch.add(p.x_square + p.y_square, matched, alpha=-2).sum(-1) * scale
    scale = scale[..., None]
    by_along = torch.zeros_like(p.along)
    by_along.diagonal(dim1=-2, dim2=-1).copy_(-2 * scale * p.x_norm)
    by_total = (-2 * scale * p.x_mean).expand_as(along)
    return Closed(value, by_along, scale.expand_as(along), by_total)


def mean_square_error(p: Products) -> Closed:
    """``mean (x - y)²`` over participants and values."""
    return square_error(p, 1 / (p.n * p.n_values[..., 0]))


def sum_square_error(p: Products) -> Closed:
    """``Σ (x - y)²``."""
    return square_error(p, torch.ones_like(p.n_values[..., 0]))


def relative_square_error(p: Products) -> Closed:
    """``Σ (x - y)² / Σ x²``."""
    return square_error(p, 1 / p.x_square.sum(-1))


def mean_margin(p: Products) -> Closed:
    """``mean_i D_ii - mean_{i≠k} D_ik`` of Euclidean distances."""
    n = p.n
    weights = torch.full((n, n), -1 / (n * (n - 1)), dtype=p.along.dtype, device=p.along.device)
    weights.diagonal(dim1=-2, dim2=-1).fill_(1 / n)
    distances, inverse = _distances(p)
    return _margin(p, distances, inverse, weights)


def nearest_margin(p: Products) -> Closed:
    """``mean_i D_ii - ½ mean_i(min_{k≠i} D_ki + min_{k≠i} D_ik)`` of Euclidean distances."""
    distances, inverse = _distances(p)
    n = p.n
    others = distances.clone()
    others.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    weights = torch.zeros_like(distances)
    weights.diagonal(dim1=-2, dim2=-1).fill_(1 / n)
    share = torch.full((1,), -0.5 / n, device=distances.device).expand(distances.shape)
    weights.scatter_add_(-1, others.argmin(-1, keepdim=True), share)
    weights.scatter_add_(-2, others.argmin(-2, keepdim=True), share)
    return _margin(p, distances, inverse, weights)


def _distances(p: Products) -> tuple[Tensor, Tensor]:
    """Distances (..., n of y, n of x), and one over them; both 0 for equal rows."""
    sizes = p.y_square[..., :, None] + p.x_square[..., None, :]
    squares = torch.add(sizes, p.inner(), alpha=-2)
    equal = squares <= sizes.mul_(NOTHING)
    if p.same:
        equal |= identity(p.n, squares.device).bool()
    inverse = squares.masked_fill(equal, torch.inf).rsqrt_()
    return squares.masked_fill_(equal, 0).mul_(inverse), inverse


def _margin(p: Products, distances: Tensor, inverse: Tensor, weights: Tensor) -> Closed:
    """Weighted sum of distances; ``D² = |y|² + |x|² - 2 y·x``."""
    value = (distances * weights).sum(dim=(-2, -1))
    by_inner = inverse.mul_(weights)  # less its sign
    by_total = -torch.linalg.vecdot(by_inner, p.x_mean[..., None, :])
    by_square = by_inner.sum(-1).mul_(0.5)
    return Closed(value, by_inner * -p.x_norm[..., None, :], by_square, by_total)


#: Computes a term.
Term = Callable[[Products], Closed]


def weighted_sum(p: Products, terms: Sequence[tuple[float, Term]]) -> Closed:
    """Sum of terms times their weights, and its gradients."""
    with torch.no_grad():
        weight, term = terms[0]
        first = term(p)
        value, along = first.value * weight, first.along.mul_(weight)
        square, total = first.square * weight, first.total * weight
        for weight, term in terms[1:]:
            found = term(p)
            value.add_(found.value, alpha=weight)
            along.add_(found.along, alpha=weight)
            square.add_(found.square, alpha=weight)
            total.add_(found.total, alpha=weight)
    return Closed(value, along, square, total)


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


def attach(p: Products, closed: Closed) -> Tensor:
    """Make a value that automatic differentiation goes on from."""
    attached: Tensor = _Attached.apply(
        p.along, p.y_square, p.y_total, closed.value, closed.along, closed.square, closed.total
    )
    return attached
