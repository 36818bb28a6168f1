# SPDX-License-Identifier: MIT
"""What the authors of the Krakencoder have published: models, flavors and files.

One table, ``data/models.json``: every file with its addresses and SHA-256, the models with the
files that they are made of, the further files, and what is known of authors and licence.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .atlases import PublishedFile, load_atlas
from .flavors import Flavor

#: The model of Jamison et al., Nature Methods (2025), with all flavors of its main experiment.
DEFAULT_MODEL = "krakencoder-2024"


@dataclass(frozen=True)
class Publication:
    """Where files come from, for model cards.

    Parameters
    ----------
    authors, citation
        The paper's.
    address
        Page of the files.
    license, terms
        What is known of the conditions of use; what is not known is said to be so.
    """

    authors: tuple[str, ...]
    citation: str
    address: str
    license: str
    terms: str


@dataclass(frozen=True)
class PublishedModel:
    """A model of the reference program that can be fetched.

    Parameters
    ----------
    name, description
        As listed by ``kraken-model fetch --list``.
    checkpoints, transforms
        Its files.
    flavors
        Names of its flavors.
    shares_latents_with
        Name of the model whose latents its encoders were trained to give; empty if it has its
        own.
    publication
        Where it comes from.
    """

    name: str
    description: str
    checkpoints: tuple[PublishedFile, ...]
    transforms: tuple[PublishedFile, ...]
    flavors: tuple[str, ...] = ()
    shares_latents_with: str = ""
    publication: Publication | None = None

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """All files."""
        return self.checkpoints + self.transforms


@dataclass(frozen=True)
class PublishedFlavor:
    """A flavor that a published model encodes and decodes.

    Parameters
    ----------
    flavor
        Kind, atlas and processing.
    n_regions
        Of the atlas: connectomes are (n_regions, n_regions).
    model
        Name of the published model.
    checkpoint, transform
        Files with its encoder and decoder, and with its projection.
    shares_latents_with
        As of the model.
    """

    flavor: Flavor
    n_regions: int
    model: str
    checkpoint: PublishedFile
    transform: PublishedFile
    shares_latents_with: str

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """What the flavor needs."""
        return (self.checkpoint, self.transform)


@dataclass(frozen=True)
class PublishedExtra:
    """Files that are no model: participants' split, latents, means, regularisation targets."""

    name: str
    description: str
    files: tuple[PublishedFile, ...]


@functools.cache
def _table() -> dict[str, Any]:
    path = resources.files("kraken_bids") / "data" / "models.json"
    table: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return table


@functools.cache
def published_files() -> Mapping[str, PublishedFile]:
    """Every published file by name."""
    return {
        name: PublishedFile(name, row["url"], row["sha256"], tuple(row["mirrors"]))
        for name, row in _table()["files"].items()
    }


@functools.cache
def publication() -> Publication:
    """Where all published files come from."""
    row = _table()["publication"]
    return Publication(**row | {"authors": tuple(row["authors"])})


@functools.cache
def published_models() -> Mapping[str, PublishedModel]:
    """Models by name, the one of the paper first."""
    files = published_files()
    return {
        name: PublishedModel(
            name=name,
            description=row["description"],
            checkpoints=tuple(files[file] for file in row["checkpoints"]),
            transforms=tuple(files[file] for file in dict.fromkeys(row["flavors"].values())),
            flavors=tuple(row["flavors"]),
            shares_latents_with=row["shares_latents_with"],
            publication=publication(),
        )
        for name, row in _table()["models"].items()
    }


@functools.cache
def published_flavors() -> Mapping[str, PublishedFlavor]:
    """Flavors of all published models by name.

    Examples
    --------
    >>> row = published_flavors()["SCsdstream_shen268_count"]
    >>> row.n_regions, row.shares_latents_with
    (268, 'krakencoder-2024')
    """
    files, rows = published_files(), _table()["models"]
    return {
        name: PublishedFlavor(
            flavor=Flavor.parse(name),
            n_regions=load_atlas(Flavor.parse(name).atlas).n_regions,
            model=model.name,
            checkpoint=model.checkpoints[0],
            transform=files[rows[model.name]["flavors"][name]],
            shares_latents_with=model.shares_latents_with,
        )
        for model in published_models().values()
        for name in model.flavors
    }


@functools.cache
def published_extras() -> Mapping[str, PublishedExtra]:
    """What is published beside models, by name."""
    files = published_files()
    return {
        name: PublishedExtra(name, row["description"], tuple(files[file] for file in row["files"]))
        for name, row in _table()["extras"].items()
    }


def companions(model: PublishedModel) -> tuple[PublishedExtra, ...]:
    """What is published to prepare a model's inputs: targets of its partial correlations' lambda.

    Examples
    --------
    >>> [extra.name for extra in companions(published_models()["krakencoder-2024"])]
    ['regtarget-fs86', 'regtarget-shen268', 'regtarget-coco439']
    """
    flavors = [Flavor.parse(name) for name in model.flavors]
    names = [f"regtarget-{flavor.atlas}" for flavor in flavors if flavor.kind == "FCpcorr"]
    extras = published_extras()
    return tuple(extras[name] for name in dict.fromkeys(names) if name in extras)
