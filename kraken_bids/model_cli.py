# SPDX-License-Identifier: MIT
"""``kraken-model``: the model on its own, on files of connectomes.

`SUBCOMMANDS` is the table of what it can do. The module of a row is imported when its subcommand
is called and not before, so that ``--help`` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import __version__
from .errors import KrakenBIDSError, ResourceError

EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Subcommand:
    """A row of `SUBCOMMANDS`.

    Parameters
    ----------
    name, help
        As typed, and its line of help.
    module
        Where its two functions are, relative to this package.
    add_arguments
        Name of the function (parser) -> None.
    run
        Name of the function (arguments) -> exit code.
    """

    name: str
    help: str
    module: str
    add_arguments: str = "add_arguments"
    run: str = "run"


#: Every subcommand. A new one is a row here and a module with two functions.
SUBCOMMANDS: tuple[Subcommand, ...] = (
    Subcommand(
        "convert", "make a bundle of the reference program's files", ".model_cli",
        "add_convert_arguments", "run_convert",
    ),
    Subcommand(
        "describe", "say what a bundle or checkpoint holds", ".model_cli",
        "add_describe_arguments", "run_describe",
    ),
    Subcommand("predict", "predict connectomes and latents from connectomes", ".model_predict"),
    Subcommand("train", "train a model on a cohort with all flavors", ".model_train"),
    Subcommand("fetch", "download a published model and make its bundle", ".fetch"),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a subcommand; the exit code says how it went."""
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    arguments = make_parser(argv).parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KrakenBIDSError as error:
        print(f"kraken-model: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("kraken-model: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def make_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Make the parser; only the subcommand named in `argv` gets its arguments."""
    parser = argparse.ArgumentParser(
        prog="kraken-model", description="Train, convert and use Krakencoder models."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((text for text in argv if not text.startswith("-")), "")
    for row in SUBCOMMANDS:
        command = commands.add_parser(row.name, help=row.help, description=f"{row.help}.")
        if row.name == chosen:
            module = importlib.import_module(row.module, __package__)
            getattr(module, row.add_arguments)(command)
            command.set_defaults(run=getattr(module, row.run))
    return parser


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_convert(arguments: argparse.Namespace) -> int:
    """Carry out ``convert``."""
    from .model.bundle import convert_checkpoint

    bundle = convert_checkpoint(
        arguments.checkpoint, arguments.transforms, arguments.output, name=arguments.name
    )
    print(f"{bundle.path}: {len(bundle.flavors)} flavors, SHA-256 {bundle.sha256}")
    return 0


def add_describe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``describe``."""
    parser.add_argument("model", type=Path, help="folder of a bundle, or a checkpoint (.pt)")
    parser.add_argument(
        "--verify", action="store_true", help="compute the SHA-256 of a bundle's weights anew"
    )


def run_describe(arguments: argparse.Namespace) -> int:
    """Carry out ``describe``."""
    from .model.bundle import open_bundle
    from .model.checkpoint import read_checkpoint

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


if __name__ == "__main__":
    sys.exit(main())
