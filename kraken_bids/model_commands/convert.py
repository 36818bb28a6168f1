# SPDX-License-Identifier: MIT
"""``kraken-model convert``: a bundle of the reference program's files."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``convert``."""
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", required=True, metavar="FILE",
        help="checkpoints (.pt); several are merged",
    )  # fmt: skip
    parser.add_argument(
        "--transforms", type=Path, nargs="+", default=[], metavar="FILE",
        help="transforms of their flavors (.npy, .npz, .h5)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="bundle to make")
    parser.add_argument(
        "--name", default="", help="name of the model (default: that of the folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``convert``."""
    from ..model.bundle import convert_checkpoint

    bundle = convert_checkpoint(
        arguments.checkpoint, arguments.transforms, arguments.output, name=arguments.name
    )
    print(f"{bundle.path}: {len(bundle.flavors)} flavors, SHA-256 {bundle.sha256}")
    return 0
