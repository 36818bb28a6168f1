# SPDX-License-Identifier: MIT
"""Atlases: region tables and where their label images come from.

An atlas is two files in ``data/atlases``: ``<name>.json`` (the card) and ``<name>.tsv`` (the
regions: index, name, hemisphere and the code that the source image holds). Adding one needs no
Python.
"""

from __future__ import annotations

import csv
import functools
import json
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from .errors import UsageError, suggest


@dataclass(frozen=True)
class Region:
    """One row of an atlas: index from 1, name, hemisphere (``L``, ``R``, ``B``), source code."""

    index: int
    name: str
    hemisphere: str
    code: int


@dataclass(frozen=True)
class PublishedFile:
    """A file with a public address, the SHA-256 of its bytes, and further addresses, if any."""

    name: str
    url: str
    sha256: str
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Atlas:
    """An atlas: its regions in the model's order and the source of its label image.

    Parameters
    ----------
    name, description, reference, license
        The card.
    regions
        In order; the position of a region in every matrix is ``index - 1``.
    source
        ``aparc+aseg`` (relabelled from each participant's FreeSurfer segmentation by `code`) or
        ``template`` (a label image in `space`, whose values are `index`).
    space
        Template of the label image; empty for ``aparc+aseg``.
    files
        Published images by role: ``labels`` always; ``volumes`` where region volumes must come
        from another image than the one that streamlines are assigned with.
    is_default
        Whether connectomes of it are measured, and its images fetched, without being asked for.
    """

    name: str
    description: str
    regions: tuple[Region, ...]
    source: str
    space: str
    files: tuple[tuple[str, PublishedFile], ...]
    reference: str
    license: str
    is_default: bool = True

    @property
    def n_regions(self) -> int:
        """Number of regions, present in an image or not."""
        return len(self.regions)

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names in the order of the matrices."""
        return tuple(region.name for region in self.regions)

    def file(self, role: str) -> PublishedFile | None:
        """Published image of a role, or None."""
        return dict(self.files).get(role)


def _folder() -> Traversable:
    return resources.files("kraken_bids") / "data" / "atlases"


@functools.cache
def atlas_names() -> tuple[str, ...]:
    """Names of all atlases, the smallest first."""
    cards = [
        json.loads(entry.read_text("utf-8"))
        for entry in _folder().iterdir()
        if entry.name.endswith(".json")
    ]
    return tuple(card["name"] for card in sorted(cards, key=lambda card: card["n_regions"]))


@functools.cache
def default_atlas_names() -> tuple[str, ...]:
    """Names of the atlases that are measured unless others are asked for, the smallest first."""
    return tuple(name for name in atlas_names() if load_atlas(name).is_default)


@functools.cache
def load_atlas(name: str) -> Atlas:
    """Read an atlas by name.

    Raises
    ------
    UsageError
        If there is no atlas of that name.
    """
    if name not in atlas_names():
        raise UsageError(f"atlas '{name}' is unknown", fix=suggest(name, atlas_names()) + ".")
    card = json.loads((_folder() / f"{name}.json").read_text("utf-8"))
    table = (_folder() / f"{name}.tsv").read_text("utf-8").splitlines()
    regions = tuple(
        Region(int(row["index"]), row["name"], row["hemisphere"], int(row["code"]))
        for row in csv.DictReader(table, delimiter="\t")
    )
    return Atlas(
        name=name,
        description=card["description"],
        regions=regions,
        source=card["source"],
        space=card.get("space", ""),
        files=tuple((role, PublishedFile(**row)) for role, row in card.get("files", {}).items()),
        reference=card["reference"],
        license=card["license"],
        is_default=card.get("by_default", True),
    )
