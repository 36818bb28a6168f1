# SPDX-License-Identifier: MIT
"""``kraken-model describe``: what a bundle, a published model or a checkpoint holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ResourceError, UsageError, suggest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``describe``."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL",
        help="folder of a bundle, name of a published model that is on this machine, or a "
        "checkpoint of the reference program (.pt)",
    )  # fmt: skip
    parser.add_argument("--model", dest="option", metavar="MODEL", help="the same")
    parser.add_argument("--json", action="store_true", help="all of it, as JSON")
    parser.add_argument(
        "--verify", action="store_true", help="compute the SHA-256 of a bundle's weights anew"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``describe``."""
    given = {text for text in (arguments.model, arguments.option) if text}
    if len(given) != 1:
        raise UsageError(
            f"{len(given)} models are given", fix="Give one: a folder, a name or a .pt file."
        )
    facts = _facts(given.pop(), verify=arguments.verify)
    if arguments.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(facts)))
    return 0


def _facts(text: str, *, verify: bool) -> dict[str, Any]:
    """Find out what a text names, and describe it."""
    from ..model.bundle import open_bundle
    from ..model.checkpoint import read_checkpoint
    from ..model.description import describe_bundle, describe_checkpoint
    from ..model.storage import file_sha256

    path = Path(text).expanduser()
    if path.is_file():
        if verify:
            raise ResourceError(
                "is no bundle, which alone records a SHA-256",
                where=text,
                fix="Leave out --verify.",
            )
        return describe_checkpoint(read_checkpoint(path), sha256=file_sha256(path))
    bundle = open_bundle(path if path.is_dir() else _find_published(text))
    if verify:
        bundle.verify()
    return describe_bundle(bundle)


def _find_published(name: str) -> Path:
    """Find the folder of a published model without fetching it.

    Raises
    ------
    ResourceError
        If it is not on this machine.
    UsageError
        If there is none of that name.
    """
    from ..fetch import resource_dirs
    from ..published import published_models

    if name not in published_models():
        raise UsageError(
            f"model '{name}' is neither a folder, a file nor the name of a published model",
            fix=suggest(name, published_models()) + ".",
        )
    for folder in resource_dirs():
        if (folder / name / "config.json").is_file():
            return folder / name
    raise ResourceError(
        "is not on this machine", where=name, fix=f"Fetch it with 'kraken-model fetch {name}'."
    )


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Write what is known of a model for a person."""
    kinds = {True: "of length 1", False: "of any length", None: "of different lengths"}
    yield f"{facts['kind']} {facts['name']} ({facts['path']})"
    yield f"latents of {facts['latent_size']} values, {kinds[facts['is_normalised']]}"
    size = f"{facts['n_parameters']:,} weights"
    if facts["n_transform_values"] is not None:
        size += f", {facts['n_transform_values']:,} numbers of transforms"
    yield f"{size}, {facts['n_bytes'] / 1e6:,.1f} MB on disk"
    yield (
        f"SHA-256 {'of the weights' if facts['kind'] == 'bundle' else 'of the file'}: "
        + (facts["sha256"])
    )
    yield ""
    yield from _table(facts["flavors"])
    for key, layers in facts["intergroup"].items():
        yield f"between groups {key}: {layers}"
    yield ""
    yield "provenance:"
    yield json.dumps(facts["provenance"], indent=2, ensure_ascii=False)


def _table(flavors: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Write a line a flavor, columns as wide as they must be."""
    header = (
        "flavor", "kind", "atlas", "regions", "edges", "features", "transform", "variance",
        "participants", "mean", "encoder", "decoder",
    )  # fmt: skip
    rows = [header, *(_cells(flavor, row) for flavor, row in flavors.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _cells(flavor: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    share, mean = row["explained_variance"], row["has_training_mean"]
    return (
        flavor,
        row["kind"] or "-",
        row["atlas"] or "-",
        str(row["n_regions"] or "-"),
        str(row["n_edges"]),
        str(row["n_features"]),
        row["transform"] or "in another file",
        "-" if share is None else f"{share:.1%}",
        str(row["n_participants"] or "-"),
        {True: "yes", False: "no", None: "-"}[mean],
        row["encoder"],
        row["decoder"] + (" (adversarial)" if row["is_adversarial"] else ""),
    )
