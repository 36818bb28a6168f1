# SPDX-License-Identifier: MIT
"""Every measure of agreement by name: what it says, how it is taken, and what chance gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .agreement import Agreement


@dataclass(frozen=True)
class Metric:
    """A row of `METRICS`.

    Parameters
    ----------
    name
        Column of the table.
    description
        What it says. ``{n_best}`` stands for the N of the top N.
    take
        Function of (agreement, n_best).
    chance
        What predictions dealt at random give on average: function of (n participants, n_best).
        None where it is not known beforehand.
    reference
        Field of the reference program's record that it corresponds to, or empty.
    """

    name: str
    description: str
    take: Callable[[Agreement, int], float]
    chance: Callable[[int, int], float] | None = None
    reference: str = ""


def _top1_chance(n: int, _n_best: int) -> float:
    return 1 / n


def _top_n_chance(n: int, n_best: int) -> float:
    return min(1.0, n_best / n)


def _rank_chance(n: int, _n_best: int) -> float:
    return 0.5 + 0.5 / n


def _mean_of_own(values: np.ndarray, n: int) -> float:
    return float(values.mean()) if n else math.nan


_RANK = "1 - mean(rank) / n, rank 0 for the own one on top; 1 is perfect"
#: Every metric, in the order of the table's columns.
METRICS: tuple[Metric, ...] = (
    Metric(
        "top1",
        "share of measured connectomes whose own prediction correlates most with them",
        lambda a, _n: a.plain.forward.share_within(1),
        _top1_chance,
        "corrloss_OrigScale_val",
    ),
    Metric(
        "top1_reverse",
        "share of predictions whose own measured connectome correlates most with them",
        lambda a, _n: a.plain.reverse.share_within(1),
        _top1_chance,
    ),
    Metric(
        "top1_both",
        "mean of top1 and top1_reverse",
        lambda a, _n: (a.plain.forward.share_within(1) + a.plain.reverse.share_within(1)) / 2,
        _top1_chance,
    ),
    Metric(
        "top_n",
        "share of measured connectomes whose own prediction is among the {n_best} that correlate "
        "most with them",
        lambda a, n: a.plain.forward.share_within(n),
        _top_n_chance,
        "corrlossN_OrigScale_val",
    ),
    Metric(
        "top_n_reverse",
        "share of predictions whose own measured connectome is among the {n_best} that correlate "
        "most with them",
        lambda a, n: a.plain.reverse.share_within(n),
        _top_n_chance,
    ),
    Metric(
        "top_n_both",
        "mean of top_n and top_n_reverse",
        lambda a, n: (a.plain.forward.share_within(n) + a.plain.reverse.share_within(n)) / 2,
        _top_n_chance,
    ),
    Metric(
        "average_rank",
        f"of the own prediction among all predictions, by correlation: {_RANK}",
        lambda a, _n: a.plain.forward.average_rank,
        _rank_chance,
        "corrlossRank_OrigScale_val",
    ),
    Metric(
        "average_rank_reverse",
        f"of the own measured connectome among all measured, by correlation: {_RANK}",
        lambda a, _n: a.plain.reverse.average_rank,
        _rank_chance,
    ),
    Metric(
        "average_rank_both",
        "mean of average_rank and average_rank_reverse",
        lambda a, _n: (a.plain.forward.average_rank + a.plain.reverse.average_rank) / 2,
        _rank_chance,
    ),
    Metric(
        "correlation",
        "mean Pearson correlation, over edges, of measured connectomes with their predictions",
        lambda a, _n: _mean_of_own(a.plain.own, a.n),
        reference="avgcorr_OrigScale_val",
    ),
    Metric(
        "correlation_other",
        "mean Pearson correlation of measured connectomes with predictions of other participants",
        lambda a, _n: a.plain.other,
    ),
    Metric(
        "correlation_other_upper",
        "as correlation_other, over pairs in which the measured participant comes before the "
        "predicted one only",
        lambda a, _n: a.plain.other_upper,
        reference="avgcorr_OrigScale_other_val",
    ),
    Metric(
        "residual_correlation",
        "as correlation, once the mean of the measured connectomes (or the training mean) is "
        "taken from both sides",
        lambda a, _n: _mean_of_own(a.residual.own, a.n),
        lambda _n, _n_best: 0.0,
        "avgcorr_resid_OrigScale_val",
    ),
    Metric(
        "residual_average_rank",
        f"as average_rank, by residual correlation: {_RANK}",
        lambda a, _n: a.residual.forward.average_rank,
        _rank_chance,
        "corrlossRank_resid_OrigScale_val",
    ),
    Metric(
        "double_residual_correlation",
        "as correlation, once the mean of the measured connectomes is taken from the measured, "
        "and the mean of the predictions from the predicted ones",
        lambda a, _n: _mean_of_own(a.double_residual.own, a.n),
        lambda _n, _n_best: 0.0,
        "avgcorr_doubleresid_OrigScale_val",
    ),
    Metric(
        "double_residual_average_rank",
        f"as average_rank, by double residual correlation: {_RANK}",
        lambda a, _n: a.double_residual.forward.average_rank,
        _rank_chance,
        "corrlossRank_doubleresid_OrigScale_val",
    ),
    Metric(
        "explained_variance",
        "1 - sum over edges of var(measured - predicted) / sum over edges of var(measured), "
        "variances over participants; a bias that all participants share costs nothing",
        lambda a, _n: a.explained_variance,
        reference="explainedvar_OrigScale_val",
    ),
)


def take_metrics(agreement: Agreement, *, n_best: int = 2) -> dict[str, float]:
    """Take all metrics.

    Parameters
    ----------
    agreement
        Of one source and target.
    n_best
        The N of the top N.

    Returns
    -------
    dict
        By name, in the order of `METRICS`; NaN where there is none.
    """
    return {metric.name: metric.take(agreement, n_best) for metric in METRICS}
