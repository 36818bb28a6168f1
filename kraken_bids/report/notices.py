# SPDX-License-Identifier: MIT
"""What is unusual in a session, said with its meaning and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..bids.names import OFF_RECIPE, READY_MARK, XCP_D_MARK
from ..console import n_of
from ..flavors import Flavor
from .anchors import beyond
from .coverage_figure import low_coverage, region_names
from .found import FoundSession
from .html import Notice

Matrix = NDArray[np.float64]

#: What coverage is a share of, and what a low one means, by the folder of the series.
_COVERAGE: dict[str, tuple[str, str]] = {
    "func": ("the image", "their values rest on few voxels"),
    "dwi": ("the brain mask", "few streamlines can reach them"),
}


def session_warnings(
    session: FoundSession, matrices: Mapping[str, Matrix], *, prefix: bool = False
) -> Iterator[Notice]:
    """Say what is unusual in a session, the missing regions by name.

    Parameters
    ----------
    session
        Files found.
    matrices
        Measured connectomes by flavor, (R, R).
    prefix
        Whether to name the session in each line.
    """
    start = f"{session.label}: " if prefix else ""
    for text in session.unreadable:
        yield Notice(f"{start}{text}", advice="Remove the file or rename it.")
    for quality in session.qualities:
        for value, limit in beyond(quality.values):
            yield Notice(
                f"{start}{quality.title}: {limit.column} is {value:.3g}",
                limit.meaning,
                limit.advice,
            )
        inside, consequence = _COVERAGE.get(quality.datatype, _COVERAGE["func"])
        for atlas, entry in quality.regions.items():
            names = low_coverage(atlas, entry)
            if names:
                count = n_of(len(names), "region")
                yield Notice(
                    f"{start}{quality.title}: {count} of {atlas} less than half inside {inside}",
                    consequence, names=names,
                )  # fmt: skip
    yield from _withheld(session, start)
    yield from _empty_regions(matrices, start)
    for mark in sorted({found.mark for found in session.off_recipe}):
        count = n_of(sum(found.mark == mark for found in session.off_recipe), "connectome")
        yield Notice(
            f"{start}{count} marked desc-{mark}: {OFF_RECIPE[mark]}",
            "not the recipe that the published models were trained on; drawn here only where "
            "there is none of the recipe",
            _off_recipe_use(mark),
        )


def _off_recipe_use(mark: str) -> str:
    """What the group level makes of connectomes with a mark."""
    if mark in (READY_MARK, XCP_D_MARK):
        return "The group level leaves them out."
    return "The group level takes them only if it is given the same --denoising."


def _withheld(session: FoundSession, start: str) -> Iterator[Notice]:
    """Partial correlations that were not made, with the reason that the sidecars give."""
    for item in session.measured:
        reason = item.sidecar.get("PartialCorrelation")
        if reason:
            yield Notice(f"{start}FCpcorr_{item.flavor.atlas}_hpf: {reason}")


def _empty_regions(matrices: Mapping[str, Matrix], start: str) -> Iterator[Notice]:
    """Regions that are missing, or that no streamline joins to another, by atlas and modality."""
    told: set[tuple[str, ...]] = set()
    for name, matrix in matrices.items():
        flavor = Flavor.parse(name)
        names = region_names(flavor.atlas, len(matrix))
        gone = np.isnan(matrix).all(axis=0)
        missing = tuple(names[index] for index in np.flatnonzero(gone))
        if missing and (flavor.group, flavor.atlas, *missing) not in told:
            told.add((flavor.group, flavor.atlas, *missing))
            modality = {"FC": "functional", "SC": "structural"}[flavor.group]
            yield Notice(
                f"{start}{n_of(len(missing), 'region')} of {flavor.atlas} missing in the "
                f"{modality} connectomes",
                "outside the image, without signal, or covered too little (--min-coverage); "
                "their rows and columns hold n/a, and the training mean stands in their place "
                "when the model is used",
                "Look at the field of view and at the transforms if this is not expected.",
                missing,
            )
        with np.errstate(invalid="ignore"):
            idle = ~(matrix > 0).any(axis=0) & ~gone
        if flavor.group == "SC" and idle.any() and (flavor.kind, flavor.atlas) not in told:
            told.add((flavor.kind, flavor.atlas))
            yield Notice(
                f"{start}{n_of(int(idle.sum()), 'region')} of {flavor.atlas} that no "
                f"streamline joins to another one in {name}",
                "more streamlines or another seeding may join them",
                names=tuple(names[index] for index in np.flatnonzero(idle)),
            )
