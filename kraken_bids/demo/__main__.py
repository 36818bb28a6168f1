# SPDX-License-Identifier: MIT
"""``kraken-demo``: a simulated data set and a model for it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..errors import KrakenBIDSError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "data":
            _make_data(options)
        else:
            _make_model(options)
    except KrakenBIDSError as error:
        print(f"kraken-demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="kraken-demo", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    data = commands.add_parser("data", help="write participants as fMRIPrep and QSIPrep would")
    data.add_argument("out_dir", type=Path, help="folder to write the data set to")
    data.add_argument("--participants", type=int, default=6, help="from 2 to 20 (default 6)")
    data.add_argument("--runs", type=int, default=1, help="resting-state runs each (default 1)")
    data.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    data.add_argument("--tiny", action="store_true", help="coarse and short, for tests")
    data.add_argument("--nprocs", type=int, default=cores, help="processes (default: all cores)")

    model = commands.add_parser("model", help="train a model on a simulated cohort")
    model.add_argument("out_dir", type=Path, help="folder to write the model bundle to")
    model.add_argument("--data", type=Path, required=True, help="the data set that it is for")
    model.add_argument("--participants", type=int, default=150, help="cohort size (default 150)")
    model.add_argument("--seed", type=int, default=1, help="the same seed gives the same model")
    model.add_argument("--nprocs", type=int, default=cores, help="threads (default: all cores)")
    return parser


def _make_data(options: argparse.Namespace) -> None:
    """Write the data set."""
    from .dataset import STANDARD, TINY, write_dataset

    write_dataset(
        options.out_dir,
        n_participants=options.participants,
        n_runs=options.runs,
        seed=options.seed,
        size=TINY if options.tiny else STANDARD,
        n_procs=options.nprocs,
        progress=lambda line: print(line, flush=True),
    )
    print(f"Data set: {options.out_dir}")


def _make_model(options: argparse.Namespace) -> None:
    """Simulate a cohort and train on it."""
    from .model import make_model

    make_model(
        options.out_dir,
        options.data,
        n_participants=options.participants,
        seed=options.seed,
        n_threads=options.nprocs,
        progress=lambda line: print(line, flush=True),
    )
    print(f"Model: {options.out_dir}")


if __name__ == "__main__":
    sys.exit(main())
