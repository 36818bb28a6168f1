# SPDX-License-Identifier: MIT
"""``kraken-model convert``: the reference program's files to bundles, projections, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..console import n_of
from ..errors import UsageError
from .options import add_reference_files

_EXAMPLES = """\
three ways:
  a bundle of checkpoints:
    kraken-model convert --checkpoint F.pt --transforms F.npy --output DIR
  the reference program's files of a bundle, PREFIX.pt and PREFIX_ioxfm.npy:
    kraken-model convert --model DIR --to-reference PREFIX
  one flavor's PCA projection on its own, from a transform file or a bundle:
    kraken-model convert --transforms F.npy --flavor FLAVOR --projection DIR
    kraken-model convert --model DIR --flavor FLAVOR --projection DIR
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``convert``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    source = parser.add_argument_group("what to convert")
    add_reference_files(source)
    source.add_argument(
        "--model", metavar="DIR", help="folder of a bundle, or name of a published model"
    )
    target = parser.add_argument_group("what to make of it")
    target.add_argument("--output", type=Path, metavar="DIR", help="bundle to make")
    target.add_argument(
        "--to-reference", metavar="PREFIX",
        help="beginning of the names of the reference program's files, or a folder for them",
    )  # fmt: skip
    target.add_argument(
        "--projection", type=Path, metavar="DIR", help="folder for one flavor's PCA projection"
    )
    parser.add_argument(
        "--flavor", metavar="FLAVOR",
        help="flavor of the projection (needed where there are several)",
    )  # fmt: skip
    parser.add_argument(
        "--pairs-with", default="", metavar="MODEL",
        help="with --projection: name of the model that takes its scores (known for published "
        "files)",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="",
        help="name of what is made (default: that of the folder); not with --to-reference",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``convert``."""
    targets = {
        "--output": arguments.output,
        "--to-reference": arguments.to_reference,
        "--projection": arguments.projection,
    }
    given = [option for option, value in targets.items() if value]
    if len(given) != 1:
        raise UsageError(
            f"{' and '.join(given) or 'nothing'} is to be made",
            where=", ".join(targets),
            fix="Give one of them.",
        )
    if given != ["--projection"] and (arguments.flavor or arguments.pairs_with):
        raise UsageError(
            "is of a projection only",
            where="--flavor" if arguments.flavor else "--pairs-with",
            fix="Give it with --projection.",
        )
    return {
        "--output": _make_bundle,
        "--to-reference": _make_reference,
        "--projection": _make_projection,
    }[given[0]](arguments)


def _make_bundle(arguments: argparse.Namespace) -> int:
    """Convert checkpoints into a bundle."""
    from ..model.bundle import convert_checkpoint

    if arguments.model or not arguments.checkpoint:
        raise UsageError(
            "a bundle is made of checkpoints" + (", not of a bundle" if arguments.model else ""),
            where="--output",
            fix="Give '--checkpoint F.pt' with '--transforms F.npy'.",
        )
    bundle = convert_checkpoint(
        arguments.checkpoint, arguments.transforms, arguments.output, name=arguments.name
    )
    print(f"{bundle.path}: {n_of(len(bundle.flavors), 'flavor')}, SHA-256 {bundle.sha256}")
    return 0


def _make_reference(arguments: argparse.Namespace) -> int:
    """Write a bundle as the reference program's files."""
    from ..model.bundle import open_bundle
    from ..model.pretrained import find_model
    from ..model.reference import write_reference

    if not arguments.model or arguments.checkpoint or arguments.transforms or arguments.name:
        raise UsageError(
            "the reference program's files are made of a bundle, and of nothing else",
            where="--to-reference",
            fix="Give '--model DIR' alone; 'kraken-model convert' makes one of checkpoints.",
        )
    files = write_reference(open_bundle(find_model(arguments.model)), arguments.to_reference)
    print(files.checkpoint)
    print(files.transforms)
    return 0


def _make_projection(arguments: argparse.Namespace) -> int:
    """Save one flavor's projection on its own."""
    from ..model.projection import PCAProjection

    files = arguments.transforms
    if arguments.checkpoint or bool(arguments.model) == bool(files) or len(files) > 1:
        raise UsageError(
            "a projection is made of one transform file or of one bundle",
            where="--projection",
            fix="Give '--transforms F.npy' or '--model DIR'.",
        )
    if files:
        projection = PCAProjection.from_reference(
            files[0], arguments.flavor, pairs_with=arguments.pairs_with
        )
    else:
        projection = PCAProjection.from_pretrained(
            arguments.model, arguments.flavor, pairs_with=arguments.pairs_with
        )
    folder = projection.save(arguments.projection, name=arguments.name)
    print(
        f"{folder}: {projection.flavor}, {n_of(projection.n_features_in_, 'edge')} to "
        f"{n_of(projection.n_components, 'score')}"
    )
    return 0
