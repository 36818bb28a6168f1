# SPDX-License-Identifier: MIT
"""The terms of the loss by name, and the texts that weigh them.

Below, x are a batch's true features of a flavor, y those predicted, z latents, u the latents that
these are to become (z itself, where none are given); B participants. ``C(a, b)`` are Pearson
correlations and ``D(a, b)`` Euclidean distances between rows of a and rows of b, I the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import Problems, UsageError, suggest

if TYPE_CHECKING:
    from torch import Tensor

    from .gradients import Term
    from .products import Products

#: The loss of the published model.
PUBLISHED = "correye+enceye.w10+neidist+encdist.w10+mse.w1000+latentsimloss.w10000"


def _diagonal_mean(matrix: Tensor) -> Tensor:
    mean: Tensor = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)
    return mean


def _corrtrace(p: Products) -> Tensor:
    found = p.correlations()
    return found.mean(dim=(-2, -1)) - _diagonal_mean(found)


def _kept(values: Tensor | None) -> Tensor:
    """Predictions or truth, for terms that say in `TERMS` that products are not enough."""
    if values is None:
        raise ValueError("products were made without predictions")
    return values


def _corrmatch(p: Products) -> Tensor:
    import torch

    from .products import Rows

    rows = Rows.make(_kept(p.true), p.n_values[..., 0, 0])
    units = rows.augmented[..., :-1, :] * rows.scale.mT
    norm: Tensor = torch.linalg.vector_norm(p.correlations() - units @ units.mT, dim=(-2, -1))
    return norm


def _var(p: Products) -> Tensor:
    kept = _kept(p.predicted), _kept(p.true)
    y, x = (values - values.mean(-2, keepdim=True) for values in kept)
    y, x = y.square().sum(dim=(-2, -1)), x.square().sum(dim=(-2, -1))
    return ((y - x) / y).square()


def _encdot(p: Products) -> Tensor:
    far = 1 - p.inner()
    own = _diagonal_mean(far) * p.n
    # the trace is taken off every value, as in the published program
    rest = far.sum(dim=(-2, -1)) - p.n**2 * own
    return own / p.n - rest / (p.n * (p.n - 1))


def _encneidot(p: Products) -> Tensor:
    import torch

    from .products import identity

    far = 1 - p.inner()
    others = torch.where(identity(p.n, far.device) > 0, torch.inf, far)
    nearest = others.min(-1).values + others.min(-2).values
    return _diagonal_mean(far) - nearest.mean(-1) / 2


def _latentnorm(p: Products) -> Tensor:
    norm: Tensor = p.y_square.sum((-2, -1)).sqrt()
    return norm


def _latentmaxrad(p: Products) -> Tensor:
    radius: Tensor = (p.y_square - 1).relu().mean((-2, -1))
    return radius


@dataclass(frozen=True)
class LossTerm:
    """A row of `TERMS`.

    Parameters
    ----------
    kind
        What it looks at: ``output`` (predictions of a pair of flavors), ``latent`` (latents of
        the pair's source) or ``between`` (latents of two flavors).
    weight
        Where the text gives none; None where it must.
    formula
        For people.
    compute
        From products to values by pair, or by source. None for terms that are `closed`, and for
        the kind ``between``, which each schedule computes in its own way.
    closed
        Name of the function of `gradients` that gives value and gradient; empty if none does.
    needs_predictions
        Whether products are not enough for it.
    is_symmetric
        Whether a latent as the one to become counts in its gradient as the one that becomes.
    """

    kind: str
    weight: float | None
    formula: str
    compute: Callable[[Products], Tensor] | None = None
    closed: str = ""
    needs_predictions: bool = False
    is_symmetric: bool = True


#: Every term by its name in a loss text.
TERMS: dict[str, LossTerm] = {
    "correye": LossTerm("output", 1, "||C(x,y) - I||_F", closed="correlation_error"),
    "mse": LossTerm("output", 1, "mean (x - y)²", closed="mean_square_error"),
    "msesum": LossTerm("output", 1, "sum (x - y)²", closed="sum_square_error"),
    "relmse": LossTerm("output", 1, "sum (x - y)² / sum x²", closed="relative_square_error"),
    "neidist": LossTerm(
        "output", 1, "mean_i D_ii - ½ mean_i (min_k≠i D_ki + min_k≠i D_ik), D(x,y)",
        closed="nearest_margin",
    ),
    "dist": LossTerm("output", 1, "mean_i D_ii - mean_i≠k D_ik, D(x,y)", closed="mean_margin"),
    "corrtrace": LossTerm("output", 1, "mean C - mean_i C_ii, C(x,y)", _corrtrace),
    "corrmatch": LossTerm(
        "output", 1, "||C(x,y) - C(x,x)||_F", _corrmatch, needs_predictions=True
    ),
    "var": LossTerm(
        "output", 1, "((v(y) - v(x)) / v(y))², v: mean square about the columns' means", _var,
        needs_predictions=True,
    ),
    "enceye": LossTerm("latent", 10, "||C(u,z) - I||_F", closed="correlation_error"),
    "encdist": LossTerm("latent", 10, "as dist, D(u,z)", closed="mean_margin"),
    "encneidist": LossTerm("latent", 10, "as neidist, D(u,z)", closed="nearest_margin"),
    "encdot": LossTerm("latent", 10, "tr E / B - sum (E - tr E) / (B (B - 1)), E = 1 - u zᵀ",
                       _encdot),
    "encneidot": LossTerm("latent", 10, "as neidist, E = 1 - u zᵀ for D", _encneidot),
    "latentnormloss": LossTerm("latent", None, "||z||_F", _latentnorm, is_symmetric=False),
    "latentmaxradloss": LossTerm(
        "latent", 10, "mean_i max(|z_i|² - 1, 0)", _latentmaxrad, is_symmetric=False
    ),
    "latentsimloss": LossTerm(
        "between", 5000, "mean over values of (z_a - z_b)², flavors a and b; see the schedules"
    ),
    "latentdist": LossTerm(
        "between", 1, "mean over participants of |z_a - z_b|²: latentsimloss · latent size"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Loss:
    """Terms and their weights.

    Parameters
    ----------
    weights
        By name, keys of `TERMS`.
    """

    weights: Mapping[str, float]

    def output(self, products: Products) -> Tensor:
        """Sum of the terms of kind ``output``, one value a pair."""
        return self._sum("output", products, twice=False)

    def latent(self, latents: Tensor, target: Tensor | None = None) -> Tensor:
        """Sum of the terms of kind ``latent``, one value a source.

        Parameters
        ----------
        latents
            (..., n, latent_size).
        target
            Latents that they are to become; None for themselves.
        """
        from .products import latent_products

        if not self.named("latent"):
            return latents.new_zeros(latents.shape[:-2])
        return self._sum("latent", latent_products(latents, target), twice=target is None)

    def named(self, kind: str) -> list[str]:
        """Names of the terms of a kind that have weight."""
        return [
            name for name, weight in self.weights.items() if TERMS[name].kind == kind and weight
        ]

    @property
    def is_closed(self) -> bool:
        """Whether value and gradient of all terms of predictions and latents are closed."""
        names = [*self.named("output"), *self.named("latent")]
        return all(TERMS[name].closed for name in names)

    def closed_terms(self, kind: str) -> list[tuple[float, Term]]:
        """Weights and functions of the terms of a kind that are closed."""
        from . import gradients

        return [
            (self.weights[name], getattr(gradients, TERMS[name].closed))
            for name in self.named(kind)
            if TERMS[name].closed
        ]

    def between(self, latent_size: int) -> float:
        """Weight of the mean over values of ``(z_a - z_b)²``."""
        return (
            self.weights.get("latentsimloss", 0.0)
            + self.weights.get("latentdist", 0.0) * latent_size
        )

    @property
    def needs_predictions(self) -> bool:
        """Whether any term asks for the predictions themselves."""
        return any(TERMS[name].needs_predictions for name in self.weights)

    def _sum(self, kind: str, products: Products, *, twice: bool) -> Tensor:
        import torch

        from .gradients import Gradients, attach, weighted_sum

        values: list[Tensor] = []
        closed = self.closed_terms(kind)
        if closed:
            gradients = Gradients.zeros(products)
            with torch.no_grad():
                value = weighted_sum(products, closed, gradients)
            value = attach(products, value, gradients)
            values.append(2 * value - value.detach() if twice else value)
        for name in self.named(kind):
            term = TERMS[name]
            if term.compute is not None:
                value = self.weights[name] * term.compute(products)
                both = twice and term.is_symmetric
                values.append(2 * value - value.detach() if both else value)
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total


def parse_loss(text: str) -> Loss:
    """Read a loss such as ``correye+enceye.w10+mse.w1000``.

    Parameters
    ----------
    text
        Names from `TERMS` joined by ``+``, each with ``.w`` and a weight of at least 0 or without;
        a ``B`` behind a name, of old files, says nothing.

    Raises
    ------
    UsageError
        If a name is unknown or comes twice, or a weight is no such number; `Problems` if several.

    Examples
    --------
    >>> parse_loss("correye+enceye+mse.w0.5").weights
    {'correye': 1.0, 'enceye': 10.0, 'mse': 0.5}
    """
    weights: dict[str, float] = {}
    problems = []
    for part in text.split("+"):
        try:
            name, weight = _parse_term(part.strip())
            if name in weights:
                raise _wrong(f"'{name}' comes twice", "Give each term once.")
            weights[name] = weight
        except UsageError as problem:
            problems.append(problem)
    if not problems and not any(TERMS[name].kind == "output" and w for name, w in weights.items()):
        problems.append(_wrong(f"'{text}' looks at no prediction", "Add a term such as 'mse'."))
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    return Loss(weights)


def _parse_term(part: str) -> tuple[str, float]:
    name, has_weight, number = part.partition(".w")
    name = name.removesuffix("B")
    if name not in TERMS:
        raise _wrong(f"'{part}' is no term", suggest(name, TERMS) + ".")
    if not has_weight:
        weight = TERMS[name].weight
        if weight is None:
            raise _wrong(f"'{name}' has no weight", f"Write '{name}.w' and a number.")
        return name, float(weight)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise _wrong(f"'{number}' is no weight of '{name}'", "Give a number of at least 0.")
    return name, value


def _wrong(what: str, fix: str) -> UsageError:
    return UsageError(what, where="--loss", fix=fix)
