# SPDX-License-Identifier: MIT
"""What a model sees of the connectomes that it is given, and how far their latents agree.

Taken where connectomes are encoded, from arrays that are there anyway, some participants at a
time. What the values say is judged by `kraken_bids.model.verdicts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..connectome.edges import edges_to_matrix
from ..connectome.similarity import compare_with_mean
from .bundle import Bundle
from .devices import library_of, normalize_rows

if TYPE_CHECKING:
    from .loaded_flavor import LoadedFlavor
    from .translation import AdaptedBatch

#: Columns of `look` behind the latents.
N_MEASURES = 4
#: What `measure_batch` gives of a flavor, in this order.
MEASURES = (
    "training_mean_r",
    "scale",
    "impossible_edges",
    "explained",
    "distance",
    "latent_norm",
    "reconstruction",
    "agreement",
    "missing_regions",
    "filled_share",
)
#: Values past what a correlation can be, or below no streamlines, that rounding may cause.
_ROUNDING = 1e-4
#: Participants with both modalities that `match` needs: with fewer, others say nothing.
FEWEST_MATCHED = 20


@dataclass(frozen=True, eq=False)
class Seen:
    """Latents of n connectomes of one flavor, and what was seen on the way; NaN where missing.

    Parameters
    ----------
    latent
        (n, latent_size), as `Krakencoder.encode` gives them.
    explained
        (n,), 0 to 1: share of the squared deviation from the training mean that the flavor's
        components hold; NaN without components.
    distance
        (n,), distance to the training mean; 1 is the root mean square of the training
        participants. NaN where the model does not say how far these are.
    latent_norm
        (n,), length of the latent before it is brought to 1.
    reconstruction
        (n,), -1 to 1: cosine between the features and what the flavor's own decoder makes of the
        latent.
    """

    latent: NDArray[np.float32]
    explained: NDArray[np.float64]
    distance: NDArray[np.float64]
    latent_norm: NDArray[np.float64]
    reconstruction: NDArray[np.float64]

    @classmethod
    def read(cls, rows: NDArray[np.float32], bundle: Bundle, flavor: str) -> Seen:
        """Take the rows that `look` gave of a flavor apart."""
        latent = np.ascontiguousarray(rows[:, :-N_MEASURES])
        square, left, norm, cosine = np.asarray(rows[:, -N_MEASURES:], np.float64).T
        with np.errstate(invalid="ignore", divide="ignore"):
            explained = np.where(square > 0, np.clip(1 - left / square, 0, 1), np.nan)
        return cls(latent, explained, np.sqrt(square) / typical_distance(bundle, flavor), norm,
                   cosine)  # fmt: skip

    def measures(self) -> dict[str, NDArray[np.float64]]:
        """All but the latents, by name."""
        return {name: value for name, value in vars(self).items() if name != "latent"}


def look(flavor: LoadedFlavor, edges: Any) -> Any:
    """Encode connectomes, and see how well they fit the flavor's transform and coders.

    Parameters
    ----------
    flavor
        On a device.
    edges
        (n, n_edges), the device's, in the scale of the training data.

    Returns
    -------
    array
        (n, latent_size + 4), the device's: latents, squared distance to the origin of the
        transform, what of it lies outside the components (NaN without), length of the latents
        before their normalisation, cosine of features and decoded latents.
    """
    library = library_of(edges)
    features = flavor.transform.forward(edges)
    latent = flavor.encoder.without_normalization(features)
    length = (latent * latent).sum(-1) ** 0.5
    if flavor.encoder.normalizes:
        latent = normalize_rows(latent)
    origin = flavor.transform.parameters.get("mean")
    square = _squares(edges if origin is None else edges - origin)
    if "components" in flavor.transform.parameters:
        left = _squares(flavor.transform.inverse(features) - edges)
    else:
        left = square * float("nan")
    decoded = flavor.decoder(latent)
    cosine = (features * decoded).sum(-1) / (_squares(features) * _squares(decoded)) ** 0.5
    return library.concatenate([latent, library.stack([square, left, length, cosine], -1)], -1)


def _squares(rows: Any) -> Any:
    return (rows * rows).sum(-1)


def typical_distance(bundle: Bundle, flavor: str) -> float:
    """Root mean square distance of the training participants to their mean; NaN if not known.

    Notes
    -----
    The squared scores of the n participants that a PCA was fitted on sum up to ``input_scale²``,
    which is the share ``explained_variance`` of their squared distances.
    """
    row = bundle.row(flavor)
    n, share = row.get("n_participants"), row.get("explained_variance")
    if row["transform"] != "pca" or not n or not share:
        return float("nan")
    ((_, scale),) = bundle.arrays([f"transform.{flavor}.input_scale"])
    return float(scale[0] / np.sqrt(n * share))


def measure_batch(
    measured: Mapping[str, NDArray[np.floating]],
    adapted: AdaptedBatch,
    seen: Mapping[str, Seen],
    bundle: Bundle,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Take all measures that need nobody else, of some participants.

    Parameters
    ----------
    measured
        (n, n_edges) by flavor, NaN where missing.
    adapted
        The same, adapted and filled.
    seen
        Of what was adapted.
    bundle
        The model.

    Returns
    -------
    dict
        (n,) by flavor and measure of `MEASURES`; NaN where there is nothing to measure.
    """
    agreements = agreement({name: one.latent for name, one in seen.items()}, bundle)
    found = {}
    for flavor, one in seen.items():
        edges = measured[flavor]
        mean = bundle.training_mean(flavor)
        nothing = np.full(len(edges), np.nan)
        similarity, scale = (nothing, nothing) if mean is None else compare_with_mean(edges, mean)
        found[flavor] = {
            "training_mean_r": similarity,
            "scale": scale,
            "impossible_edges": _count_impossible(edges, is_functional=flavor[:2] == "FC"),
            **one.measures(),
            "agreement": agreements[flavor],
            "missing_regions": _count_missing(edges),
            "filled_share": adapted.n_filled[flavor] / edges.shape[1],
        }
    return found


def _count_impossible(edges: NDArray[np.floating], *, is_functional: bool) -> NDArray[np.float64]:
    """Edges beyond what correlations, or numbers of streamlines, can be."""
    wrong = np.abs(edges) > 1 + _ROUNDING if is_functional else edges < -_ROUNDING
    return np.asarray(wrong.sum(axis=1), np.float64)


def _count_missing(edges: NDArray[np.floating]) -> NDArray[np.float64]:
    """Regions without any edge, (n,)."""
    counts = np.zeros(len(edges))
    for row in np.flatnonzero(np.isnan(edges).any(axis=1)):
        counts[row] = np.isnan(edges_to_matrix(edges[row], diagonal=np.nan)).all(axis=1).sum()
    return counts


def agreement(
    latents: Mapping[str, NDArray[np.floating]], bundle: Bundle
) -> dict[str, NDArray[np.float64]]:
    """Cosine of each flavor's latents with the mean of the other flavors' (leave one out).

    Parameters
    ----------
    latents
        (n, latent_size) by flavor; rows of NaN where missing.
    bundle
        The model. Where it has transforms between groups, latents of two groups are not of one
        space: the others are those of the flavor's own group.

    Returns
    -------
    dict
        (n,) by flavor, -1 to 1; NaN for participants without the flavor, or without any other.
    """
    groups: dict[str, list[str]] = {}
    for flavor in latents:
        groups.setdefault(bundle.group(flavor) if bundle.intergroup else "", []).append(flavor)
    found = {}
    for flavors in groups.values():
        total = sum_latents(latents[flavor] for flavor in flavors)
        for flavor in flavors:
            found[flavor] = cosines(latents[flavor], total - np.nan_to_num(latents[flavor]))
    return {flavor: found[flavor] for flavor in latents}


def sum_latents(latents: Iterable[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Sum of latents (n, latent_size) that are there; its direction is that of their mean."""
    total: NDArray[np.float64] = np.zeros((1, 1))
    for latent in latents:
        total = total + np.nan_to_num(np.asarray(latent, np.float64))
    return total


def match_modalities(
    flavors: Sequence[str], read: Callable[[str], NDArray[np.floating]], bundle: Bundle
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64] | None]:
    """Match every flavor with the other modality, and the modalities with each other.

    Parameters
    ----------
    flavors
        Flavors of the cohort.
    read
        Gives (n, latent_size) of a flavor; asked for twice each, one is in memory at a time.
    bundle
        The model; transforms between groups leave nothing to compare.

    Returns
    -------
    flavors
        (n,) by flavor: `match` of its latents and the sum of the other modality's.
    modalities
        (n,): `match` of both sums; None if the cohort has one modality only.
    """
    groups: dict[str, list[str]] = {}
    for flavor in flavors:
        groups.setdefault(flavor[:2], []).append(flavor)
    if len(groups) != 2 or bundle.intergroup:
        return {}, None
    sums = {name: sum_latents(map(read, members)) for name, members in groups.items()}
    first, second = sums
    other = {first: second, second: first}
    matches = {flavor: match(read(flavor), sums[other[flavor[:2]]]) for flavor in flavors}
    return matches, match(sums[first], sums[second])


def cosines(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine of each row with the same row of another array; NaN where one is NaN or all 0."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    lengths[lengths <= 1e-9] = np.nan
    return np.asarray(np.einsum("ij,ij->i", a, b) / lengths)


def match(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """How much better a participant's two latents fit each other than those of others.

    Parameters
    ----------
    first, second
        (n, latent_size), such as sums over structural and over functional flavors; NaN or zeros
        where a participant lacks one.

    Returns
    -------
    NDArray
        (n,): cosine of both, each less the cohort's mean, as a standard score among the cosines
        of the first with the second of all others, and of the second with the first of all
        others; the mean of the two scores. About 0 (standard deviation below 1) for latents of
        two people. NaN for those without both, and for all if fewer than `FEWEST_MATCHED` have
        both.

    Notes
    -----
    Means and variances over others follow from the mean and the second moments of the latents,
    so that no array of participants by participants is made.
    """
    present = np.isfinite(cosines(first, second))
    found = np.full(len(present), np.nan)
    if present.sum() < FEWEST_MATCHED:
        return found
    a, b = (_directions(np.asarray(side, np.float64)[present]) for side in (first, second))
    own = np.einsum("ij,ij->i", a, b)
    found[present] = (_scores(own, a, b) + _scores(own, b, a)) / 2
    return found


def _directions(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows less their mean, of length 1; NaN for those that are the mean."""
    centred = rows - rows.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    lengths[lengths <= 1e-9] = np.nan
    return np.asarray(np.nan_to_num(centred / lengths))


def _scores(
    own: NDArray[np.float64], rows: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Standard score of the own cosine among those of each row with everybody else's."""
    n = len(own) - 1
    mean = (rows @ others.sum(axis=0) - own) / n
    square = (np.einsum("ij,ij->i", rows @ (others.T @ others), rows) - own**2) / n
    variance = square - mean**2
    variance[variance <= 1e-12] = np.nan
    return np.asarray((own - mean) / np.sqrt(variance))
