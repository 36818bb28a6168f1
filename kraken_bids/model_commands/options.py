# SPDX-License-Identifier: MIT
"""Options that several subcommands share, and what is made of them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KrakenBIDSError, Problems, UsageError

if TYPE_CHECKING:
    from ..model.bundle import Bundle


class ProblemList:
    """Gathers what is wrong with an invocation, so that all of it is told at once."""

    def __init__(self) -> None:
        self.found: list[KrakenBIDSError] = []

    def add(self, problems: Iterable[KrakenBIDSError]) -> None:
        """Add problems."""
        self.found.extend(problems)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Add what is raised inside, and go on behind the block."""
        try:
            yield
        except Problems as problems:
            self.found.extend(problems.problems)
        except KrakenBIDSError as problem:
            self.found.append(problem)

    def tell(self) -> None:
        """Raise what was found, if anything."""
        if self.found:
            raise self.error()

    def error(self) -> KrakenBIDSError:
        """The one problem, or `Problems`."""
        unique = list({str(problem): problem for problem in self.found}.values())
        return unique[0] if len(unique) == 1 else Problems(unique)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a model and the device to compute on."""
    model = parser.add_argument_group("model: a bundle, or the reference program's files")
    model.add_argument("--model", type=Path, metavar="DIR", help="folder of a bundle")
    add_reference_files(model)
    model.add_argument("--device", default="auto", help="auto, cpu, or cuda[:n] (default: auto)")


def add_reference_files(group: argparse._ArgumentGroup) -> None:
    """Add the options that name the reference program's files of a model."""
    files: dict[str, Any] = {"type": Path, "nargs": "+", "default": [], "metavar": "FILE"}
    group.add_argument(
        "--checkpoint", **files,
        help="the reference program's checkpoints (.pt), in place of a bundle; several are merged",
    )  # fmt: skip
    group.add_argument(
        "--transforms", **files,
        help="the reference program's transforms of their flavors (.npy, .npz, .h5)",
    )  # fmt: skip


def open_model(arguments: argparse.Namespace, stack: ExitStack) -> Bundle:
    """Open the bundle, or make one of checkpoints for the time of this run.

    Raises
    ------
    UsageError
        If neither or both are given.
    """
    from ..model.bundle import convert_checkpoint, open_bundle
    from ..model.pretrained import find_model

    if bool(arguments.model) == bool(arguments.checkpoint):
        raise UsageError(
            "one model is needed", where="--model or --checkpoint",
            fix="Give '--model DIR', or '--checkpoint F.pt' with '--transforms F.npy'.",
        )  # fmt: skip
    if arguments.model:
        return open_bundle(find_model(str(arguments.model)))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kraken-model-")))
    return convert_checkpoint(arguments.checkpoint, arguments.transforms, folder / "model")


def parse_pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Read ``NAME=VALUE`` texts.

    Raises
    ------
    UsageError
        If a text has no ``=``, or a name comes twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"'{text}' is not NAME=VALUE", where=option, fix="Write it so.")
        if name in pairs:
            raise UsageError(f"'{name}' is given twice", where=option, fix="Give it once.")
        pairs[name] = value
    return pairs


def check_nprocs(asked: int | None) -> None:
    """Refuse a number of threads below 1."""
    if asked is not None and asked < 1:
        raise UsageError(
            f"{asked} threads cannot compute", where="--nprocs", fix="Give 1 or more."
        )
