# SPDX-License-Identifier: MIT
"""A cohort's measured flavors against their predictions from all sources, target by target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..connectome.adaptation import fill_missing
from ..formats.inputs import MatchedInputs
from .agreement import COHORT, TRAINING, Agreement
from .bundle import Bundle
from .cohort_evaluation import (
    PairResult,
    ReadRange,
    SourcePredictions,
    TargetEvaluation,
    TargetSpace,
    weights_of,
)
from .cohort_reading import CohortReader
from .fusion import PlannedSource, fuse
from .krakencoder import Krakencoder

#: Connectomes of a flavor that are read once for several passes, if they take no more than this.
KEEP_BYTES = 64 << 20

Latents = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class EvaluationSettings:
    """How predictions are compared.

    Parameters
    ----------
    residual_mean
        ``cohort`` or ``training``: the mean that residual correlations are free of.
    n_permutations, seed
        Random orders of participants for p values; 0 for none.
    """

    residual_mean: str = "cohort"
    n_permutations: int = 0
    seed: int = 0


#: What `EvaluationSettings.residual_mean` may be.
RESIDUAL_MEANS = {"cohort": COHORT, "training": TRAINING}


@dataclass(frozen=True, eq=False)
class Comparison:
    """One source and target, compared.

    Parameters
    ----------
    source, target
        Names.
    members
        Flavors that the source is made of, for this target.
    rows
        (n,), positions of the participants compared.
    agreement
        All measures; None if nobody has both the measured and the predicted connectome.
    """

    source: str
    target: str
    members: tuple[str, ...]
    rows: NDArray[np.int64]
    agreement: Agreement | None


def measured_rows(
    inputs: MatchedInputs,
    target: str,
    reader: CohortReader,
    *,
    chosen: NDArray[np.bool_] | None = None,
) -> ReadRange:
    """Make a function that reads adapted, filled connectomes of a flavor.

    Parameters
    ----------
    inputs
        The cohort.
    target
        Flavor among the inputs.
    reader
        Whose adaptations are fitted.
    chosen
        (n,), participants to compare; the rows of others are NaN. All if None.

    Returns
    -------
    function
        (start, stop) -> (stop - start, n_edges), float32. Missing edges take the training mean,
        as they do before encoding; where there is none, the whole row is NaN.
    """
    training_mean = reader.bundle.training_mean(target)

    def read(start: int, stop: int) -> NDArray[np.float32]:
        rows = reader.adaptations.forward(target, inputs.read(target, start, stop), start)
        if training_mean is not None:
            rows = fill_missing(rows, training_mean)[0]
        left_out = np.isnan(rows).any(axis=1)
        if chosen is not None:
            left_out |= ~chosen[start:stop]
        if left_out.any():
            rows = rows.copy()
            rows[left_out] = np.nan
        return rows

    n, n_edges = len(inputs.participants), inputs.inputs[target].n_columns
    if 4 * n * n_edges > KEEP_BYTES:
        return read
    kept: list[NDArray[np.float32]] = []

    def read_once(start: int, stop: int) -> NDArray[np.float32]:
        if not kept:
            kept.append(read(0, n))
        return kept[0][start:stop]

    return read_once


def evaluate_targets(
    bundle: Bundle,
    latents: Latents,
    plan: Mapping[str, Sequence[PlannedSource]],
    read: Callable[[str], ReadRange],
    *,
    settings: EvaluationSettings,
    device: str = "auto",
) -> Iterator[Comparison]:
    """Compare all planned predictions with what was measured.

    Parameters
    ----------
    bundle
        The model.
    latents
        (n, latent_size) by input.
    plan
        Sources by target, as `kraken_bids.model.fusion.plan_predictions` gives them.
    read
        Target -> `measured_rows`.
    settings
        How.
    device
        As for `encode_cohort`.

    Yields
    ------
    Comparison
        Target by target: one target's components and sums are in memory at a time.
    """
    n = len(next(iter(latents.values())))
    for target, planned in plan.items():
        model = Krakencoder(bundle, [target], device=device)
        transform = bundle.transform(target)
        space = TargetSpace.of(transform, bundle.n_edges(target))
        sources = []
        for source in planned:
            fused = fuse_for(model, latents, source, target)
            present = np.asarray(~np.isnan(fused).any(axis=1))
            if space.components is not None:
                features = model.decode(fused, [target], to_edges=False)[target]
                weights = weights_of(transform, features)
                sources.append(SourcePredictions(source.name, present, weights))
            else:
                rows = _edge_maker(model, fused, target)
                sources.append(SourcePredictions(source.name, present, rows=rows))
        evaluation = TargetEvaluation(read(target), n, space, sources)
        results = evaluation.results(
            residual_mean=RESIDUAL_MEANS[settings.residual_mean],
            n_permutations=settings.n_permutations,
            seed=settings.seed,
        )
        for source, result in zip(planned, results, strict=True):
            yield _comparison(source, target, result)


def fuse_for(
    model: Krakencoder, latents: Latents, source: PlannedSource, target: str
) -> NDArray[np.float32]:
    """Fuse a source's members for a target, (n, latent_size); NaN where there is no member."""
    mapped = {
        member: model.map_group(latents[member], member, target) for member in source.members
    }
    return fuse(mapped, normalize=source.normalize).latent


def _edge_maker(
    model: Krakencoder, latent: NDArray[np.float32], target: str
) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    return lambda rows: model.decode(latent[rows], [target])[target]


def _comparison(source: PlannedSource, target: str, result: PairResult) -> Comparison:
    return Comparison(source.name, target, source.members, result.rows, result.agreement)
