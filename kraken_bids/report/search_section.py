# SPDX-License-Identifier: MIT
"""What the page of a cohort says of the lambda of its partial correlations."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..bids.regularization import SEARCH_LABEL, name_lambdas
from .found import FoundSession, Rows, parse_entities, read_json, read_rows
from .html import Grid, Notice, Picture, as_text
from .search_figure import draw_search

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundSearch:
    """A search for lambda that lies in a data set.

    Parameters
    ----------
    atlas
        Name of the atlas.
    sidecar
        What was found, and against which target.
    rows
        Lambdas tried and their errors.
    """

    atlas: str
    sidecar: Mapping[str, Any]
    rows: Rows


def find_searches(group_dir: Path) -> Iterator[FoundSearch]:
    """Find the searches in the folder of a cohort; damaged ones are left out."""
    for file in sorted(group_dir.glob(f"atlas-*_desc-{SEARCH_LABEL}_qc.tsv")):
        sidecar = read_json(file.with_suffix(".json"))
        if "Regularization" in sidecar:
            yield FoundSearch(parse_entities(file.name)["atlas"], sidecar, read_rows(file))


@dataclass
class MeasuredLambdas:
    """Lambdas that the partial correlations of a cohort were measured with.

    Parameters
    ----------
    counts
        Connectomes by lambda, by atlas.
    sources
        Where lambda comes from, as the last sidecar says, by atlas.
    """

    counts: dict[str, dict[float, int]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def add(self, session: FoundSession) -> None:
        """Count those of a session."""
        for item in session.measured:
            if item.flavor.kind != "FCpcorr":
                continue
            atlas, value = item.flavor.atlas, item.sidecar.get("Regularization")
            self.sources[atlas] = str(item.sidecar.get("RegularizationSource", ""))
            if isinstance(value, (int, float)):
                counts = self.counts.setdefault(atlas, {})
                counts[float(value)] = counts.get(float(value), 0) + 1

    @property
    def unchosen(self) -> list[str]:
        """Atlases with partial correlations whose lambda nobody chose."""
        return [name for name, source in self.sources.items() if source.startswith("default")]


def lambda_warnings(
    measured: MeasuredLambdas, searches: Sequence[FoundSearch]
) -> Iterator[Notice]:
    """Say where partial correlations were not measured alike, or a search met its end."""
    searched = {search.atlas for search in searches}
    for atlas, counts in measured.counts.items():
        if len(counts) > 1 and atlas not in searched:
            yield Notice(
                f"partial correlations of {atlas} were measured with several lambdas",
                name_lambdas(counts),
                "Measure them again with one, or let the group level search for it.",
            )
    for atlas in measured.unchosen:
        if atlas not in searched:
            yield Notice(
                f"lambda of the partial correlations of {atlas} is our choice",
                "the training value is not published, and the model has no target to search "
                "against",
                f"Give one: --pcorr-lambda {atlas}=VALUE at the participant level.",
            )
    for search in searches:
        if search.sidecar.get("IsAtBound"):
            yield Notice(
                f"the lambda of {search.atlas} lies at the end of what was searched",
                "the correlations are far from those that the target was made of",
            )


def search_grid(searches: Sequence[FoundSearch]) -> Grid:
    """Make a table with a row an atlas that lambda was searched for."""
    columns = ("atlas", "lambda", "mean distance", "matrices", "left out", "target")
    return Grid.of("Lambda of the partial correlations", columns, map(_row, searches))


def _row(search: FoundSearch) -> list[str]:
    target = search.sidecar.get("Target")
    left_out = search.sidecar.get("LeftOut")
    few = search.sidecar.get("FewDegreesOfFreedom") or []
    numbers = ("Regularization", "SmallestError", "NumberOfMatrices")
    return [
        search.atlas,
        *(as_text(search.sidecar.get(key, "n/a")) for key in numbers),
        str(len([*left_out, *few])) if isinstance(left_out, list) else "n/a",
        as_text(target.get("Name", "n/a")) if isinstance(target, Mapping) else "n/a",
    ]


def search_pictures(search: FoundSearch) -> Iterator[Picture]:
    """Draw the error against lambda; nothing if the table is damaged."""
    atlas, sidecar = search.atlas, search.sidecar
    try:
        tried, errors = (
            np.array([float(row[name]) for row in search.rows]) for name in ("lambda", "error")
        )
        best = float(sidecar["Regularization"])
    except (KeyError, ValueError, TypeError) as error:
        _log.info("No figure of the search for the lambda of %s: %s", atlas, error)
        return
    if not len(tried):
        return
    title = f"{atlas}, {as_text(sidecar.get('NumberOfMatrices', 'n/a'))} matrices"
    yield Picture.drawn(
        draw_search(tried, errors, best=best, title=title),
        alt=f"Mean distance of the precision matrices of {atlas} to the target against lambda",
        caption=f"Lambda of {atlas}: the dashed line is where the distance is smallest.",
    )
