# SPDX-License-Identifier: MIT
"""``kraken-model describe``: what a bundle or checkpoint holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import ResourceError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``describe``."""
    parser.add_argument("model", type=Path, help="folder of a bundle, or a checkpoint (.pt)")
    parser.add_argument(
        "--verify", action="store_true", help="compute the SHA-256 of a bundle's weights anew"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``describe``."""
    from ..model.bundle import open_bundle
    from ..model.checkpoint import read_checkpoint

    if arguments.model.is_dir():
        bundle = open_bundle(arguments.model)
        if arguments.verify:
            bundle.verify()
        print(f"model {bundle.name}: latents of {bundle.latent_size} values")
        print(f"SHA-256 of the weights: {bundle.sha256}")
        rows = [
            (f, bundle.n_edges(f), bundle.n_features(f), bundle.row(f)["transform"])
            for f in bundle.flavors
        ]
        facts = bundle.config.get("provenance", {})
    elif arguments.verify:
        raise ResourceError(
            "is no bundle, which alone records a SHA-256", where=str(arguments.model)
        )
    else:
        checkpoint = read_checkpoint(arguments.model)
        print(f"checkpoint {checkpoint.file}: latents of {checkpoint.latent_size} values")
        rows = [
            (flavor, coders.n_edges, coders.encoder[0].n_in, "in another file")
            for flavor, coders in checkpoint.coders.items()
        ]
        facts = dict(checkpoint.facts)
    print(f"{'flavor':32}{'edges':>8}{'features':>10}  transform")
    for flavor, n_edges, n_features, transform in rows:
        print(f"{flavor:32}{n_edges:8}{n_features:10}  {transform}")
    print(json.dumps(facts, indent=2, ensure_ascii=False))
    return 0
