# SPDX-License-Identifier: MIT
"""What the pages show of predictions: beside what was measured, where that is known."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..flavors import Flavor
from .found import FoundMatrix, FoundSession, read_session
from .html import Grid, Picture
from .matrices import Pair, draw_predictions

_log = logging.getLogger(__name__)

#: Size of a pair of heat maps in bytes, and of all those of a page: it stays below 2 MB.
PAIR_BYTES, ALL_PAIRS_BYTES = 46_000, 700_000
#: Sources whose predictions are drawn, by the group of the target: the first that there is. That
#: from the other modality shows most; all others rest on the measured connectome, too.
DRAWN_SOURCES: dict[str, tuple[str, ...]] = {
    "FC": ("fusionSC", "fusion", "fusionFC"),
    "SC": ("fusionFC", "fusion", "fusionSC"),
}

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of one data set for one session."""

    dataset: str
    session: FoundSession
    found: FoundSession

    @property
    def drawn(self) -> dict[str, FoundMatrix]:
        """The prediction that is held against each measured connectome, by flavor."""
        chosen = (
            drawn_prediction(item.flavor, self.found.predicted) for item in self.session.measured
        )
        return {str(item.flavor): item for item in chosen if item is not None}


def pair_bytes(n_pairs: int) -> int:
    """Bytes that each of so many pairs of heat maps may take on one page."""
    return min(PAIR_BYTES, ALL_PAIRS_BYTES // max(n_pairs, 1))


def drawn_prediction(flavor: Flavor, predicted: Iterable[FoundMatrix]) -> FoundMatrix | None:
    """Of the predictions of a flavor, the one that is drawn; None if there is none."""
    order = DRAWN_SOURCES[flavor.group]
    rest = [item for item in predicted if item.flavor == flavor]
    return min(
        rest,
        key=lambda item: (
            order.index(item.source) if item.source in order else len(order),
            item.source,
        ),
        default=None,
    )


def find_predicted(datasets: Sequence[Path], found: Sequence[FoundSession]) -> list[Predicted]:
    """What each data set of predictions holds of each session."""
    pairs = [
        Predicted(dataset.name, part, read_session(dataset, part.participant, part.session))
        for dataset in datasets
        for part in found
    ]
    return [pair for pair in pairs if pair.found.predicted]


def predicted_groups(
    predicted: Sequence[Predicted], matrices: Mapping[str, Mapping[str, Matrix]]
) -> list[dict[str, Any]]:
    """Make what the page of a participant shows of predictions, a part a data set and session.

    Parameters
    ----------
    predicted
        As `find_predicted` gives it.
    matrices
        Measured connectomes (R, R) by flavor, by label of the session.
    """
    max_bytes = pair_bytes(sum(len(one.drawn) for one in predicted))
    return [_group(one, matrices[one.session.label], max_bytes) for one in predicted]


def _group(one: Predicted, matrices: Mapping[str, Matrix], max_bytes: int) -> dict[str, Any]:
    """Predictions of one data set for one session, measured ones beside them."""
    predicted = one.found.predicted
    pairs = list(_read_pairs(one, matrices))
    rows = [[pair.name, pair.source, f"{pair.correlation:.4f}"] for pair in pairs]
    sources = ", ".join(sorted({item.source for item in predicted}))
    return {
        "title": f"{one.session.label}, {one.dataset}",
        "text": f"{len(predicted)} connectomes were predicted, from {sources}. Shown: flavors "
        "that were measured too, predicted from the other modality where that was measured (else "
        "the prediction rests on the measured connectome itself, too). Regions stand left, then "
        "right. Grey: missing regions.",
        "figures": [pair_picture(pair, max_bytes=max_bytes) for pair in pairs],
        "grid": Grid.of("Correlation of predicted with measured edges",
                        ("flavor", "predicted from", "correlation with the measured one"), rows),
        "n_predicted": len(predicted),
        "session": one.session.label,
    }  # fmt: skip


def _read_pairs(one: Predicted, matrices: Mapping[str, Matrix]) -> Iterator[Pair]:
    """Measured and predicted connectomes of one size; what cannot be read is left out."""
    for name, item in one.drawn.items():
        if name not in matrices:
            continue  # it could not be read
        try:
            matrix = item.read()
        except InputError as error:
            _log.warning("Left out of the page: %s", error)
            continue
        if matrix.shape == matrices[name].shape:
            yield Pair(name, matrices[name], matrix, item.source)


def pair_picture(pair: Pair, *, max_bytes: int = PAIR_BYTES) -> Picture:
    """Measured beside predicted connectome."""
    drawing = replace(draw_predictions([pair]), max_bytes=max_bytes)
    words = f"{pair.name}, measured and predicted from {pair.source}"
    return Picture.drawn(drawing, alt=f"{words}: r = {pair.correlation:.2f}", caption=words)
