# SPDX-License-Identifier: MIT
"""``kraken-model``: the model on its own, on files of connectomes.

`SUBCOMMANDS` is the table of what it can do. The module of a row is imported when its subcommand
is called and not before, so that ``--help`` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .. import __version__
from ..errors import KrakenBIDSError
from ..parser import Parser, add_completion

EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Subcommand:
    """A row of `SUBCOMMANDS`.

    Parameters
    ----------
    name, help
        As typed, and its line of help. The module of that name in this package has two functions:
        ``add_arguments`` (parser) -> None and ``run`` (arguments) -> exit code.
    """

    name: str
    help: str


#: Every subcommand. A new one is a row here and a module with two functions.
SUBCOMMANDS: tuple[Subcommand, ...] = (
    Subcommand("fetch", "download a published model and make its bundle"),
    Subcommand("convert", "make a bundle of the reference program's files, or the reverse"),
    Subcommand("describe", "say what a bundle or checkpoint holds"),
    Subcommand("merge", "join models that share one latent space"),
    Subcommand("predict", "predict connectomes and latents from connectomes"),
    Subcommand("evaluate", "compare predictions with measured connectomes"),
    Subcommand("train", "train a model on a cohort with all flavors"),
    Subcommand("pcorr", "make regularised partial correlations of correlations"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a subcommand; the exit code says how it went."""
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    arguments = make_parser(argv).parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except KrakenBIDSError as error:
        print(f"kraken-model: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("kraken-model: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever reads our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is buffered
        return 0
    return code


def make_parser(argv: Sequence[str], *, is_whole: bool = False) -> argparse.ArgumentParser:
    """Make the parser; only the subcommand named in `argv` gets its arguments, or all do."""
    parser = Parser(prog="kraken-model", description="Train, convert and use Krakencoder models.")
    parser.add_argument("--version", action="version", version=__version__)
    add_completion(parser, parser, values={}, whole=lambda: make_parser((), is_whole=True))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((text for text in argv if not text.startswith("-")), "")
    for row in SUBCOMMANDS:
        command = commands.add_parser(row.name, help=row.help, description=f"{row.help}.")
        if is_whole or row.name == chosen:
            module = importlib.import_module(f".{row.name}", __package__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
