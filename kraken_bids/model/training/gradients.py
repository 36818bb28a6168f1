# SPDX-License-Identifier: MIT
"""The terms that cost the most time, with their gradients in closed form.

Each takes `products.Products`, gives a value a pair and adds its gradients to `Gradients`, in a
handful of operations instead of the dozens that automatic differentiation makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .products import NOTHING, Products, identity, number


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a loss by products, summed up term by term.

    Parameters
    ----------
    all
        (..., n of y, n of x + 2): columns of `along`, `total` and `square`.
    """

    all: Tensor

    @classmethod
    def zeros(cls, p: Products) -> Gradients:
        """Begin."""
        *lead, n = p.along.shape
        return cls(p.along.new_zeros(*lead, n + 2))

    @cached_property
    def along(self) -> Tensor:
        """(..., n of y, n of x) part."""
        return self.all[..., :-2]

    @cached_property
    def total(self) -> Tensor:
        """(..., n of y, 1) by ``y_total``."""
        return self.all[..., -2:-1]

    @cached_property
    def square(self) -> Tensor:
        """(..., n of y, 1) by ``y_square``."""
        return self.all[..., -1:]

    @cached_property
    def augmented(self) -> Tensor:
        """(..., n of y, n of x + 1): `along` and `total`."""
        return self.all[..., :-1]

    @cached_property
    def own(self) -> Tensor:
        """(..., n, 1): of `along`, between a participant's own rows."""
        return self.along.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)


#: Computes a term times a weight, (..., 1, 1), and adds its gradients.
Term = Callable[[Products, float, Gradients], Tensor]


def correlation_error(p: Products, weight: float, g: Gradients) -> Tensor:
    """``||C - I||_F`` of the correlations between rows.

    Notes
    -----
    With ``C_ik = A_ik s_i r_k``, A products with centred x, r one over the length of these,
    ``s_i = v_i^-½`` and v the variation of y about its mean m: the gradient by A is
    ``G_ik = (C - I)_ik s_i r_k / ||C - I||_F``, by v ``-½ s_i² Σ_k G_ik A_ik``; and
    ``v = |y|² - m Σ y``.
    """
    device = p.along.device
    mean = p.y_total / p.n_values
    variation = torch.addcmul(p.y_square, p.y_total, mean, value=-1)
    is_constant = variation <= p.y_square * number(NOTHING, device)
    scale = variation.masked_fill_(is_constant, number(torch.inf, device)).rsqrt_()
    both = scale * (scale.mT if p.x_scale is None else p.x_scale)
    error = torch.addcmul(identity(p.n, device), p.along, both, value=-1)  # I - C
    norm: Tensor = torch.linalg.vector_norm(error, dim=(-2, -1), keepdim=True)
    error.mul_(both).mul_(number(-weight, device) / norm.clamp_min(1e-30))
    g.along.add_(error)
    by_variation = error.mul_(p.along).sum(-1, keepdim=True).mul_(scale).mul_(scale)
    g.square.add_(by_variation, alpha=-0.5)
    g.total.addcmul_(by_variation, mean)
    return norm.mul_(number(weight, device))


def square_error(p: Products, scale: Tensor, g: Gradients) -> Tensor:
    """``scale Σ (x - y)²`` over participants and values.

    Parameters
    ----------
    p
        Products.
    scale
        To be broadcast against (..., 1, 1).
    g
        To add to.
    """
    x_mean = p.x_mean.mT
    own = p.along.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    matched = torch.addcmul(own, p.y_total, x_mean)
    apart = torch.add(p.x_square.mT + p.y_square, matched, alpha=-2)
    g.own.sub_(scale, alpha=2)
    g.total.addcmul_(x_mean, scale, value=-2)
    g.square.add_(scale)
    return apart.sum(-2, keepdim=True).mul_(scale)


def mean_square_error(p: Products, weight: float, g: Gradients) -> Tensor:
    """``mean (x - y)²`` over participants and values."""
    return square_error(p, number(weight / p.n, p.along.device) / p.n_values, g)


def sum_square_error(p: Products, weight: float, g: Gradients) -> Tensor:
    """``Σ (x - y)²``."""
    return square_error(p, number(weight, p.along.device), g)


def relative_square_error(p: Products, weight: float, g: Gradients) -> Tensor:
    """``Σ (x - y)² / Σ x²``."""
    return square_error(p, weight / p.x_square.sum(-1, keepdim=True), g)


def mean_margin(p: Products, weight: float, g: Gradients) -> Tensor:
    """``mean_i D_ii - mean_{i≠k} D_ik`` of Euclidean distances."""
    device = p.along.device
    squares, equal = _square_distances(p)
    weighted = squares.masked_fill(equal, number(torch.inf, device)).rsqrt_()
    weighted.mul_(_margin_weights(p.n, weight, device, same=p.same))
    value = squares.mul_(weighted).sum((-2, -1), keepdim=True)
    _add_margin(p, weighted, g)
    return value


@cache
def _margin_weights(n: int, weight: float, device: torch.device, *, same: bool) -> Tensor:
    """(n, n) weights of distances, not to be written to; own ones are 0 where y are x."""
    share = weight / (n * (n - 1))
    own = 0.0 if same else weight / n
    return identity(n, device).mul(own + share).sub_(share)


def nearest_margin(p: Products, weight: float, g: Gradients) -> Tensor:
    """``mean_i D_ii - ½ mean_i(min_{k≠i} D_ki + min_{k≠i} D_ik)`` of Euclidean distances.

    Notes
    -----
    Of all distances it takes 3 n: own ones, the nearest of each row and of each column.
    """
    device = p.along.device
    squares, equal = _square_distances(p)
    squares.masked_fill_(equal, number(0.0, device))
    own = squares.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    own_squares = torch.zeros_like(own) if p.same else own.clone()
    own.fill_(torch.inf)
    of_row, in_row = squares.min(-1, keepdim=True)
    of_column, in_column = squares.min(-2, keepdim=True)
    taken = torch.cat([own_squares, of_row, of_column.mT], dim=-1)
    weighted = functional.threshold(taken, 0.0, torch.inf).rsqrt_()
    weighted.mul_(number(-0.5 * weight / p.n, device))
    of_own, of_row, of_column = weighted.split(1, dim=-1)
    of_own.mul_(-2)
    by_inner = squares.zero_()
    own.copy_(of_own)
    by_inner.scatter_add_(-1, in_row, of_row)
    by_inner.scatter_add_(-2, in_column, of_column.mT)
    _add_margin(p, by_inner, g)
    return taken.mul_(weighted).sum((-2, -1), keepdim=True)


def _square_distances(p: Products) -> tuple[Tensor, Tensor]:
    """Squared distances (..., n of y, n of x), and whether float32 takes two rows for equal."""
    sizes = p.y_square + p.x_square
    squares = torch.sub(sizes, p.along, alpha=2).addcmul_(p.y_total, p.x_mean, value=-2)
    return squares, squares <= sizes.mul_(number(NOTHING, squares.device))


def _add_margin(p: Products, by_inner: Tensor, g: Gradients) -> None:
    """Add gradients of a weighted sum of distances; ``D² = |y|² + |x|² - 2 y·x``.

    Parameters
    ----------
    p
        Products.
    by_inner
        Weights over distances: minus the gradient by inner products, and that by D²/2; used up.
    g
        To add to.
    """
    g.along.sub_(by_inner)
    g.square.add_(by_inner.sum(-1, keepdim=True), alpha=0.5)
    g.total.sub_(by_inner.mul_(p.x_mean).sum(-1, keepdim=True))


def weighted_sum(p: Products, terms: Sequence[tuple[float, Term]], g: Gradients) -> Tensor:
    """Sum terms times their weights, (...), and add their gradients."""
    total, *others = [term(p, weight, g) for weight, term in terms]
    for value in others:
        total.add_(value)
    return total.view(total.shape[:-2])


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
        scale = outer[0][..., None, None]
        return along * scale, square * scale, total * scale, None, None, None, None


def attach(p: Products, value: Tensor, g: Gradients) -> Tensor:
    """Make a value that automatic differentiation goes on from."""
    attached: Tensor = _Attached.apply(
        p.along, p.y_square, p.y_total, value, g.along, g.square, g.total
    )
    return attached
