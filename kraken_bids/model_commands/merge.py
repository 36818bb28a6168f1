# SPDX-License-Identifier: MIT
"""``kraken-model merge``: models that share one latent space, as one bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import n_of
from ..errors import KrakenBIDSError, Problems, UsageError

if TYPE_CHECKING:
    from ..model.bundle import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``merge``."""
    parser.add_argument(
        "--models", nargs="+", required=True, metavar="MODEL",
        help="folders of bundles or names of published models; the first one's transforms "
        "between groups are kept",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="bundle to make")
    parser.add_argument(
        "--flavors", nargs="+", metavar="FLAVOR",
        help="flavors to keep, in this order (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--rename", nargs="+", default=[], metavar="[MODEL:]OLD=NEW",
        help="give a flavor another name; MODEL is the name of a model, needed where several "
        "have the flavor",
    )  # fmt: skip
    parser.add_argument(
        "--prefer", default="", metavar="MODEL",
        help="name of the model whose weights to take of a flavor that several have (default: "
        "such a flavor is refused, unless its weights are the same)",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="", help="name of the merged model (default: that of the folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``merge``."""
    from ..model.merging import merge_bundles
    from .options import parse_pairs

    bundle = merge_bundles(
        _open_all(arguments.models),
        arguments.output,
        flavors=arguments.flavors,
        renamed=parse_pairs(arguments.rename, "--rename"),
        preferred=arguments.prefer,
        name=arguments.name,
    )
    print(f"{bundle.path}: {n_of(len(bundle.flavors), 'flavor')}, SHA-256 {bundle.sha256}")
    return 0


def _open_all(models: list[str]) -> list[Bundle]:
    """Open every model, and tell all that cannot be.

    Raises
    ------
    KrakenBIDSError
        If one cannot be opened.
    """
    from ..model.bundle import open_bundle
    from ..model.pretrained import find_model

    opened, problems = [], []
    for text in models:
        try:
            if Path(text).is_file():
                raise UsageError(
                    "is a file, not a bundle",
                    where=text,
                    fix="Make a bundle of it first: 'kraken-model convert --checkpoint F.pt "
                    "--transforms F.npy --output DIR'.",
                )
            opened.append(open_bundle(find_model(text)))
        except KrakenBIDSError as error:
            problems.append(error)
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    return opened
