# SPDX-License-Identifier: MIT
"""The latents of a cohort in two dimensions, and how far each lies from the mean."""

from __future__ import annotations

import csv
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bids.names import output_path

_log = logging.getLogger(__name__)

#: Fusions whose latents are drawn, in the order of the pages; others come after them.
FUSIONS = ("fusion", "fusionSC", "fusionFC")
#: With fewer latents, none of them is called unusual.
LEAST_COHORT = 20
#: A distance is unusual beyond the median by so many standard deviations, which are taken from
#: the median absolute deviation (Iglewicz and Hoaglin, How to detect and handle outliers, 1993).
FAR_SDS = 3.5
#: Standard deviation of a normal distribution whose median absolute deviation is 1.
MAD_TO_SD = 1.4826


@dataclass(frozen=True, eq=False)
class LatentMap:
    """Where the latents of a cohort lie, for one fusion.

    Parameters
    ----------
    fusion
        Name of the fusion.
    labels
        (n,): ``sub-X`` or ``sub-X_ses-Y``.
    mean
        (latent_size,): mean latent of the cohort.
    axes
        (2, latent_size): first two principal axes, of length 1; zeros where there is no second.
    shares
        (2,): share of the variance on each.
    scores
        (n, 2): latents less their mean, on the axes.
    distances
        (n,): Euclidean distances of the latents from their mean.
    """

    fusion: str
    labels: tuple[str, ...]
    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    shares: NDArray[np.float64]
    scores: NDArray[np.float64]
    distances: NDArray[np.float64]

    def place(self, latent: NDArray[np.floating]) -> tuple[NDArray[np.float64], float]:
        """Scores (2,) of a latent (latent_size,) on the axes, and its distance from the mean."""
        centred = latent - self.mean
        return self.axes @ centred, float(np.linalg.norm(centred))

    @property
    def far(self) -> float:
        """Distance beyond which a latent is unusual; infinite in cohorts of few."""
        return far_from(self.distances, least=LEAST_COHORT)[1]

    @property
    def outliers(self) -> tuple[str, ...]:
        """Labels of the latents that are unusually far from the mean, the farthest first."""
        order = np.argsort(-self.distances, kind="stable")
        return tuple(self.labels[i] for i in order if self.distances[i] > self.far)


def far_from(values: NDArray[np.floating], *, least: int) -> tuple[float, float]:
    """Find the range outside of which values are unusual: `FAR_SDS` about the median.

    Parameters
    ----------
    values
        (n,), finite.
    least
        With fewer values, or where half of them are the same, nothing is unusual.

    Returns
    -------
    float
        Lower and upper end; infinite where nothing is unusual.

    Examples
    --------
    >>> low, high = far_from(np.array([1.0, 2, 3, 4, 5]), least=5)
    >>> round(low, 2), round(high, 2)
    (-2.19, 8.19)
    """
    if len(values) < least:
        return -np.inf, np.inf
    median = float(np.median(values))
    deviation = MAD_TO_SD * float(np.median(np.abs(values - median)))
    if deviation == 0:
        return -np.inf, np.inf
    return median - FAR_SDS * deviation, median + FAR_SDS * deviation


def find_maps(dataset_dir: Path) -> dict[str, LatentMap]:
    """Maps of all fusions of a data set of predictions, by name; damaged tables are left out."""
    found = {}
    for file in (dataset_dir / "group").glob("desc-*_latent.tsv"):
        fusion = file.name.removeprefix("desc-").removesuffix("_latent.tsv")
        state = file.stat()
        made = _read_map(file, fusion, state.st_size, state.st_mtime_ns)
        if made is not None:
            found[fusion] = made
    return {name: found[name] for name in sorted(found, key=fusion_order)}


def fusion_order(name: str) -> tuple[int, str]:
    """Sort the usual fusions first."""
    return (FUSIONS.index(name) if name in FUSIONS else len(FUSIONS)), name


@functools.lru_cache(maxsize=16)
def _read_map(file: Path, fusion: str, *state: int) -> LatentMap | None:  # noqa: ARG001
    """Make the map of a table; kept for the pages of others while size and time stay as is."""
    try:
        return _make_map(file, fusion)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        _log.warning("Left out of the pages: %s cannot be read: %s", file, error)
        return None


def _make_map(file: Path, fusion: str) -> LatentMap | None:
    """Go through a table twice, a row at a time: for its covariance, then for the places."""
    n, shift, total, products = 0, None, np.zeros(0), np.zeros((0, 0))
    for _, latent in _read_latents(file):
        if shift is None:  # sums of what is left are exact where latents are much alike
            shift = latent
            total, products = np.zeros(len(latent)), np.zeros((len(latent), len(latent)))
        moved = latent - shift
        n += 1
        total += moved
        products += np.outer(moved, moved)
    if shift is None or n < 2:
        return None
    mean = shift + total / n
    variances, directions = np.linalg.eigh(products - np.outer(total, total) / n)
    axes = np.zeros((2, len(mean)))
    shares = np.zeros(2)
    whole = float(np.clip(variances, 0, None).sum())
    for place in range(min(2, len(mean), n - 1)):
        axis = directions[:, -1 - place]
        axes[place] = axis * np.sign(axis[np.argmax(np.abs(axis))])
        shares[place] = max(float(variances[-1 - place]), 0.0) / whole if whole else 0.0
    labels = []
    scores, distances = np.zeros((n, 2)), np.zeros(n)
    for row, (label, latent) in enumerate(_read_latents(file)):
        labels.append(label)
        scores[row] = axes @ (latent - mean)
        distances[row] = np.linalg.norm(latent - mean)
    return LatentMap(fusion, tuple(labels), mean, axes, shares, scores, distances)


def _read_latents(file: Path) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Session and latent of each row of a cohort's table, those with n/a left out."""
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(reader, [])
        first = next((i for i, name in enumerate(header) if _is_dimension(name)), len(header))
        if not all(map(_is_dimension, header[first:])):
            raise ValueError(f"columns after {header[first]} are no latent dimensions")
        for row in reader:
            if "n/a" in row[first:] or first == len(header):
                continue
            facts = dict(zip(header[:first], row, strict=False))
            latent = np.array(row[first:], dtype=np.float64)
            if len(latent) != len(header) - first:
                raise ValueError(f"row {reader.line_num} has {len(row)} columns")
            yield row_label(facts), latent


def _is_dimension(name: str) -> bool:
    return name[:1] == "z" and name[1:].isdigit()


def row_label(row: Mapping[str, str]) -> str:
    """Session of a row of a cohort's table, as ``sub-X`` or ``sub-X_ses-Y``.

    Examples
    --------
    >>> row_label({"participant_id": "sub-01", "session_id": "n/a"})
    'sub-01'
    """
    session = row.get("session_id", "")
    name = row.get("participant_id", "")
    return f"{name}_{session}" if session and session != "n/a" else name


@dataclass(frozen=True, eq=False)
class SessionLatent:
    """The latent of a session.

    Parameters
    ----------
    n_inputs
        Flavors that it rests on, as text.
    values
        (latent_size,).
    """

    n_inputs: str
    values: NDArray[np.float64]


def read_session_latents(
    dataset_dir: Path, participant: str, session: str | None
) -> dict[str, SessionLatent]:
    """Latents of a session by source; empty where there are none that can be read."""
    entities = [("sub", participant), *([("ses", session)] if session else [])]
    file = dataset_dir / output_path("latent", entities)
    found = {}
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        try:
            values = np.array([row[key] for key in row if key and _is_dimension(key)], np.float64)
        except (ValueError, TypeError):
            continue
        if row.get("source") and len(values) and np.isfinite(values).all():
            found[row["source"]] = SessionLatent(row.get("n_inputs") or "n/a", values)
    return found
