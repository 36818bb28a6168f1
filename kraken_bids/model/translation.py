# SPDX-License-Identifier: MIT
"""A cohort through the model, piece by piece: what to predict, cohort means, adaptation, filling.

Nothing here holds more than one batch of participants: a cohort is a sequence of batches, each a
mapping of flavor to (n, n_edges) whose rows are the same participants, NaN where one lacks the
flavor (whole row) or a region (single edges).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..connectome.adaptation import (
    ADAPTATIONS,
    Adaptation,
    RunningMean,
    fill_missing,
    fit_adaptation,
    warn_about_fits,
)
from ..errors import ModelError, UsageError, suggest
from .bundle import Bundle
from .evaluation import EdgeSums, Evaluation, PredictionSpace, correlate_rows, evaluate
from .fusion import resolve_fusions

_log = logging.getLogger(__name__)

Batch = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class TranslationPlan:
    """What a model is to do for a cohort.

    Parameters
    ----------
    flavors
        Flavors of the cohort that the model has, in the model's order.
    left_out
        Flavors of the cohort that it lacks.
    fusions
        Members by name, of those fusions that have any.
    sources, targets
        What to predict from, and which flavors to predict.
    """

    flavors: tuple[str, ...]
    left_out: tuple[str, ...]
    fusions: Mapping[str, tuple[str, ...]]
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def groups(self, source: str) -> str:
        """``SC``, ``FC``, or ``all`` for a fusion of both."""
        groups = {member[:2] for member in self.fusions.get(source, (source,))}
        return groups.pop() if len(groups) == 1 else "all"


def plan_translation(
    bundle: Bundle,
    cohort_flavors: Iterable[str],
    *,
    fusions: Iterable[tuple[str, Sequence[str]]],
    predict_from: Sequence[str] = (),
    predict_to: Sequence[str] = (),
) -> TranslationPlan:
    """Match what is asked for with what the cohort and the model have.

    Parameters
    ----------
    bundle
        The model.
    cohort_flavors
        Flavors that at least one participant has.
    fusions, predict_from, predict_to
        As in `kraken_bids.settings.TranslationOptions`.

    Raises
    ------
    ModelError
        If the model has none of the cohort's flavors, or lacks a target.
    UsageError
        If a source is neither a fusion nor a flavor of the model.
    """
    cohort = set(cohort_flavors)
    flavors = tuple(flavor for flavor in bundle.flavors if flavor in cohort)
    left_out = tuple(sorted(cohort.difference(bundle.flavors)))
    if not flavors:
        raise ModelError(
            f"model '{bundle.name}' has none of the flavors measured: {', '.join(left_out)}",
            where=str(bundle.path),
            fix=f"Use a model of these flavors; this one has {', '.join(bundle.flavors)}.",
        )
    fusions = tuple(fusions)
    members = resolve_fusions(fusions, flavors, known=bundle.flavors)
    for target in predict_to:
        bundle.row(target)
    names = {name for name, _ in fusions}
    for source in predict_from:
        if source not in names.union(bundle.flavors):
            raise UsageError(
                f"source '{source}' is neither a fusion nor a flavor of model '{bundle.name}'",
                where="--predict-from",
                fix=suggest(source, names.union(bundle.flavors)) + ".",
            )
    return TranslationPlan(
        flavors=flavors,
        left_out=left_out,
        fusions=members,
        sources=tuple(s for s in predict_from or members if s in {*members, *flavors}),
        targets=tuple(predict_to or bundle.flavors),
    )


def adaptation_key(flavor: str, site: str = "") -> str:
    """Name of a flavor's adaptation, which may be one of several by site."""
    return f"{flavor}@{site}" if site else flavor


class CohortMeans:
    """Mean connectomes of a cohort, by flavor and site, from one pass over its batches."""

    def __init__(self) -> None:
        self._means: dict[tuple[str, str], RunningMean] = {}
        self._participants: dict[tuple[str, str], set[str]] = {}

    def add(self, batch: Batch, participants: Sequence[str], sites: Sequence[str]) -> None:
        """Add a batch.

        Parameters
        ----------
        batch
            (n, n_edges) by flavor.
        participants, sites
            (n,): labels; a participant may come with several sessions. Sites are empty where they
            are not told apart.
        """
        for flavor, edges in batch.items():
            for site in dict.fromkeys(sites):
                rows = [row for row, other in enumerate(sites) if other == site]
                present = [row for row in rows if not np.isnan(edges[row]).all()]
                if not present:
                    continue
                key = (flavor, site)
                mean = self._means.setdefault(key, RunningMean(edges.shape[1]))
                mean.add(edges[present])
                self._participants.setdefault(key, set()).update(participants[r] for r in present)

    @property
    def flavors(self) -> tuple[str, ...]:
        """Flavors met, in the order met."""
        return tuple(dict.fromkeys(flavor for flavor, _ in self._means))

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites met, in alphabetical order; one that is empty where they are not told apart."""
        return tuple(sorted({site for _, site in self._means}))

    def n_participants(self, flavor: str, site: str) -> int:
        """Participants, not sessions, with a flavor at a site."""
        return len(self._participants.get((flavor, site), ()))

    def n_sessions(self, flavor: str) -> int:
        """Sessions with a flavor, at all sites."""
        return sum(mean.n_participants for mean in self._of(flavor).values())

    def mean(self, flavor: str, site: str | None = None) -> NDArray[np.float64]:
        """Mean over sessions, (n_edges,), of one site or of all; NaN for edges that nobody has."""
        found = self._of(flavor)
        if site is not None:
            return found[site].mean
        counts = sum(mean.counts for mean in found.values())
        total = sum(np.nan_to_num(mean.mean) * mean.counts for mean in found.values())
        with np.errstate(invalid="ignore"):
            return np.asarray(total / counts)

    def adapted_mean(
        self,
        flavor: str,
        adaptations: Mapping[str, Adaptation] | None,
        training_mean: NDArray[np.floating] | None,
    ) -> NDArray[np.float64]:
        """Mean of what `adapt_batch` makes of the cohort: adapted, missing edges filled.

        Parameters
        ----------
        flavor
            One that was met.
        adaptations
            By `adaptation_key`; None for no adaptation.
        training_mean
            (n_edges,), what missing edges are filled with.

        Returns
        -------
        NDArray
            (n_edges,), NaN throughout if no site has an adaptation.
        """
        filling = np.nan if training_mean is None else np.asarray(training_mean, np.float64)
        total, n = np.zeros_like(next(iter(self._of(flavor).values())).mean), 0
        for site, mean in self._of(flavor).items():
            values: NDArray[np.floating] = mean.mean
            if adaptations is not None:
                if adaptation_key(flavor, site) not in adaptations:
                    continue
                values = adaptations[adaptation_key(flavor, site)].forward(values)
            missing = mean.n_participants - mean.counts
            total += np.where(mean.counts > 0, np.nan_to_num(values) * mean.counts, 0.0)
            total += np.where(missing > 0, filling * missing, 0.0)
            n += mean.n_participants
        return total / n if n else np.full_like(total, np.nan)

    def _of(self, flavor: str) -> dict[str, RunningMean]:
        return {site: mean for (name, site), mean in self._means.items() if name == flavor}


def fit_cohort(means: CohortMeans, bundle: Bundle, mode: str) -> dict[str, Adaptation]:
    """Fit the adaptation of each flavor, and of each site.

    Parameters
    ----------
    means
        The cohort.
    bundle
        The model, whose training means are fitted to.
    mode
        Key of `kraken_bids.connectome.adaptation.ADAPTATIONS`, not ``none``.

    Returns
    -------
    dict
        By `adaptation_key`. A flavor that only one participant of several has cannot be adapted;
        it is left out, with a warning.

    Raises
    ------
    ModelError
        If the cohort, or a site, is one participant; if the model keeps no training mean.
    """
    adaptations = {}
    for site in means.sites:
        counts = {flavor: means.n_participants(flavor, site) for flavor in means.flavors}
        if site and max(counts.values()) == 1 and ADAPTATIONS[mode].shifts_mean:
            raise ModelError(
                f"site '{site}' has one participant: adaptation '{mode}' would map anybody there "
                "onto the training mean",
                where="--adapt-by",
                fix="Leave that participant or --adapt-by out, or use 'none' or 'meanfit'.",
            )
        for flavor, n_participants in counts.items():
            if n_participants == 0:
                continue
            key = adaptation_key(flavor, site)
            if n_participants == 1 < max(counts.values()) and ADAPTATIONS[mode].shifts_mean:
                _log.warning("%s is left out: one participant only cannot be adapted", key)
                continue
            adaptations[key] = fit_adaptation(
                mode,
                means.mean(flavor, site),
                required_training_mean(bundle, flavor),
                n_participants=n_participants,
            )
    warn_about_fits(adaptations)
    return adaptations


def required_training_mean(bundle: Bundle, flavor: str) -> NDArray[np.float32]:
    """Read a flavor's training mean.

    Raises
    ------
    ModelError
        If the model keeps none.
    """
    mean = bundle.training_mean(flavor)
    if mean is None:
        raise ModelError(
            f"model '{bundle.name}' keeps no training mean of flavor '{flavor}'",
            where="--adaptation",
            fix="Use '--adaptation none' with connectomes in the scale of the training data.",
        )
    return mean


@dataclass(frozen=True, eq=False)
class AdaptedBatch:
    """A batch in the scale of the training data, ready to be encoded.

    Parameters
    ----------
    edges
        (n, n_edges) by flavor, float32: whole rows of numbers or of NaN.
    n_filled
        (n,) by flavor: edges filled with the training mean.
    """

    edges: dict[str, NDArray[np.float32]]
    n_filled: dict[str, NDArray[np.int64]]


def adapt_batch(
    batch: Batch,
    bundle: Bundle,
    *,
    adaptations: Mapping[str, Adaptation] | None = None,
    sites: Sequence[str] = (),
) -> AdaptedBatch:
    """Adapt a batch, then fill missing edges with the training mean.

    Parameters
    ----------
    batch
        (n, n_edges) by flavor.
    bundle
        The model.
    adaptations
        By `adaptation_key`; None to adapt nothing. Participants whose flavor and site have none
        count as without that flavor.
    sites
        (n,), or empty where they are not told apart.

    Returns
    -------
    AdaptedBatch
    """
    edges, n_filled = {}, {}
    for flavor, values in batch.items():
        adapted = np.asarray(values, np.float32)
        if adaptations is not None:
            adapted = np.full_like(adapted, np.nan)
            for site in dict.fromkeys(sites) or [""]:
                rows = [row for row in range(len(values)) if not sites or sites[row] == site]
                adaptation = adaptations.get(adaptation_key(flavor, site))
                if adaptation is not None:
                    adapted[rows] = adaptation.forward(values[rows])
        edges[flavor], n_filled[flavor] = _fill(adapted, bundle, flavor)
    return AdaptedBatch(edges, n_filled)


def _fill(
    values: NDArray[np.float32], bundle: Bundle, flavor: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fill single missing edges; rows that cannot be filled become missing flavors."""
    mean = bundle.training_mean(flavor)
    if mean is not None:
        return fill_missing(values, mean)
    broken = np.isnan(values).any(axis=1)
    if (broken & ~np.isnan(values).all(axis=1)).any():
        _log.warning(
            "%s is left out where edges are missing: the model has no training mean to fill with",
            flavor,
        )
    values = values.copy()
    values[broken] = np.nan
    return values, np.zeros(len(values), dtype=np.int64)


def prediction_space(
    bundle: Bundle, flavor: str, mean: NDArray[np.floating]
) -> PredictionSpace | None:
    """The space in which a flavor's predictions lie, or None if its transform spans all edges.

    Parameters
    ----------
    bundle, flavor
        The model and a flavor of it.
    mean
        (n_edges,), mean of the cohort in the scale of the training data.
    """
    transform = bundle.transform(flavor)
    if "components" not in transform.parameters:
        return None
    origin = transform.parameters.get("mean", np.zeros(bundle.n_edges(flavor), np.float32))
    return PredictionSpace(origin, transform.parameters["components"], mean)


def evaluate_cohort(
    measured: NDArray[np.floating],
    predicted: NDArray[np.floating],
    *,
    space: PredictionSpace | None,
    mean: NDArray[np.floating],
    n_permutations: int = 10_000,
    seed: int = 0,
) -> tuple[Evaluation | None, NDArray[np.float64], NDArray[np.float64]]:
    """Compare what is kept of measured and predicted connectomes of one flavor.

    Parameters
    ----------
    measured, predicted
        (n, n_components + 4) as `EdgeSums.as_array` gives them or, without a space,
        (n, n_edges); rows of NaN for participants without.
    space
        See `prediction_space`.
    mean
        (n_edges,), mean of all measured connectomes of the flavor.
    n_permutations, seed
        See `kraken_bids.model.evaluation.evaluate`.

    Returns
    -------
    evaluation
        Over participants with both; None if there are none.
    correlation, residual_correlation
        (n,), of each participant; NaN for those without.
    """
    own, own_residual = np.full((2, len(measured)), np.nan)
    both = ~(np.isnan(measured).any(axis=1) | np.isnan(predicted).any(axis=1))
    if not both.any():
        return None, own, own_residual
    if space is None:
        plain = correlate_rows(measured[both], predicted[both])
        residual = correlate_rows(measured[both] - mean, predicted[both] - mean)
    else:
        plain, residual = space.correlate(
            EdgeSums.from_array(measured[both]), EdgeSums.from_array(predicted[both])
        )
    own[both] = np.diagonal(plain)
    if both.sum() > 1:
        own_residual[both] = np.diagonal(residual)
    evaluation = evaluate(plain, np.diagonal(residual), n_permutations=n_permutations, seed=seed)
    return evaluation, own, own_residual
