# SPDX-License-Identifier: MIT
"""``kraken-model fetch``: published models and atlases onto this machine."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..atlases import load_atlas
from ..download import BLOCK_BYTES, fetch
from ..errors import UsageError, suggest
from ..fetch import (
    DEFAULT_MODEL,
    RESOURCES_VARIABLE,
    fetchable,
    published_models,
    resource_dir,
    template_atlases,
)

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``kraken-model fetch``."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help=f"models and atlases (default: {DEFAULT_MODEL} and all atlases)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="say what can be fetched, and stop")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help=f"where to (default: the first writable folder of ${RESOURCES_VARIABLE}, else the "
        "user's cache)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``kraken-model fetch``; the paths of what was fetched go to standard output."""
    from ..model.pretrained import find_model

    if arguments.list:
        sys.stdout.writelines(f"{name}\t{text}\n" for name, text in fetchable().items())
        return 0
    names = arguments.names or [DEFAULT_MODEL, *template_atlases()]
    unknown = [name for name in names if name not in fetchable()]
    if unknown:
        raise UsageError(
            f"'{unknown[0]}' cannot be fetched", fix=suggest(unknown[0], fetchable()) + "."
        )
    folder = arguments.output.expanduser().absolute() if arguments.output else resource_dir()
    for name in names:
        if name in published_models():
            paths = [find_model(name, folder=folder, progress=log_progress)]
        else:
            files = [file for _, file in load_atlas(name).files]
            paths = list(fetch(files, folder, progress=log_progress))
        sys.stdout.writelines(f"{path}\n" for path in paths)
    return 0


def log_progress(name: str, done: int, total: int | None) -> None:
    """Log a line at every tenth of a file, or every 64 MB where its size is unknown."""
    step = max(total / 10, 1) if total else 64e6
    block = min(BLOCK_BYTES, done)
    if done // step > (done - block) // step:
        share = f"{done / total:.0%}" if total else f"{done / 1e6:.0f} MB"
        _log.info("%s: %s", name, share)
