# SPDX-License-Identifier: MIT
"""Options of ``kraken-model pcorr``, and all that can be said of them before a matrix is read."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, KrakenBIDSError, Problems, UsageError, suggest
from ..flavors import Flavor

SEARCH = "search"
#: Stands for the mean unregularised precision of the cohort itself.
MEAN_TARGET = "mean"
#: Files that an option writes, by extension; a folder has none.
KINDS = {
    "--output": (".npz", ".mat", ""),
    "--output-mean": (".mat", ".npz", ".npy", ".tsv"),
    "--search-table": (".tsv",),
    "--figure": (".png",),
}
#: Options that mean nothing if lambda is given.
SEARCH_OPTIONS = ("--target", "--search-on", "--search-table", "--figure")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``pcorr``."""
    parser.epilog = (
        "Regularised partial correlations (FCpcorr) from correlations or covariances of regions. "
        "Lambda is given, or searched for: the one that brings the precision matrices nearest "
        "to a target on average. Lambda found goes to standard output."
    )
    add = parser.add_argument
    add("--input", required=True, metavar="[FLAVOR=]FILE",
        help="correlations or covariances by participant: .mat, .npy, .npz (fields data, C or "
        "FC), or any other file or folder of connectomes")  # fmt: skip
    add("--lambda", dest="lambda_", default=SEARCH, metavar="X|search",
        help="ridge in units of the mean of the diagonal, or search (default)")  # fmt: skip
    add("--output", type=Path, metavar="FILE",
        help=".npz, .mat, or a new folder for a BIDS data set (which needs FLAVOR=)")  # fmt: skip
    add("--output-mean", type=Path, metavar="FILE",
        help="mean over participants of what --output holds: .mat, .npz, .npy, .tsv")  # fmt: skip
    add("--precision", action="store_true", help="write precisions, not partial correlations")
    _add_search_arguments(parser.add_argument_group("search"))
    _add_input_arguments(parser.add_argument_group("input"))


def _add_search_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--target", metavar="FILE|NAME",
        help="mean precision matrix (.mat with C, .npy, .npz, .tsv), or the name of a published "
        "one, such as regtarget-fs86 (default: mean, that of the inputs)")  # fmt: skip
    add("--search-on", nargs="+", default=[], metavar="ID",
        help="participants to search on, or a file with an id a line (default: all)")  # fmt: skip
    add("--grid-size", type=int, default=10, metavar="N", help="lambdas a loop (default: 10)")
    add("--grid-loops", type=int, default=3, metavar="N", help="loops (default: 3)")
    add("--lambda-range", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"),
        help="where to search (default: 0 1)")  # fmt: skip
    add("--geometric", action="store_true",
        help="geometric instead of arithmetic means (of the target; of --output-mean with "
        "--precision)")  # fmt: skip
    add("--reference-rounding", type=int, nargs="?", const=2, metavar="DECIMALS",
        help="round lambda, found or given, as the reference does (to 2 decimals)")  # fmt: skip
    add("--search-table", type=Path, metavar="FILE.tsv", help="lambdas tried and their errors")
    add("--figure", type=Path, metavar="FILE.png", help="error against lambda")


def _add_input_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--keep-scale", action="store_true",
        help="leave covariances as they are (default: make correlations of them)")  # fmt: skip
    add("--symmetrize", action="store_true", help="take the mean of a matrix and its transpose")
    add("--threads", type=int, metavar="N", help="default: all cores that this process may use")


@dataclass(frozen=True)
class Request:
    """What is asked for, checked as far as it can be without reading a matrix.

    Parameters
    ----------
    name, file
        Flavor of the input, or empty, and its file or folder.
    lambda_
        As given, or None to search for it.
    target
        File of a precision matrix, or None for the mean of the cohort.
    search_on
        Ids of the participants to search on; empty for all.
    flavor
        That of the partial correlations, if it is known.
    kind
        ``partialcorr`` or ``precision``.
    n_threads
        Matrices worked on at a time.
    typed
        All arguments.
    """

    name: str
    file: Path
    lambda_: float | None
    target: Path | None
    search_on: tuple[str, ...]
    flavor: Flavor | None
    kind: str
    n_threads: int
    typed: argparse.Namespace


def read_request(typed: argparse.Namespace) -> Request:
    """Check the options, and tell of all that are wrong."""
    from ..formats.writing.squares import PARTIAL, PRECISION
    from ..machine import available_cores

    problems: list[KrakenBIDSError] = []
    name, _, path = typed.input.partition("=")
    if not path or Path(typed.input).exists():  # a path may hold '=', too
        name, path = "", typed.input
    value, target, flavor = None, None, None
    with collected(problems):
        value = _parse_lambda(typed.lambda_)
    with collected(problems):
        flavor = _partial_flavor(name)
    with collected(problems):
        _check_grid(typed)
    problems += _output_problems(typed, flavor, is_search=value is None)
    if not Path(path).exists():
        problems.append(_absent(path, "--input"))
    with collected(problems):
        target = _find_target(typed.target, fetch=not problems)
    raise_all(problems)
    return Request(
        name=name,
        file=Path(path),
        lambda_=value,
        target=target,
        search_on=_listed(typed.search_on),
        flavor=flavor,
        kind=PRECISION if typed.precision else PARTIAL,
        n_threads=typed.threads or available_cores(),
        typed=typed,
    )


def _parse_lambda(text: str) -> float | None:
    """Read a lambda; None stands for a search."""
    if text == SEARCH:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(
            f"'{text}' is no lambda", where="--lambda", fix="Give 0 or more, or 'search'."
        )
    return value


def _partial_flavor(name: str) -> Flavor | None:
    """Flavor of the partial correlations of correlations; None if no name was given."""
    if not name:
        return None
    flavor = Flavor.parse(name)
    if flavor.kind not in {"FCcorr", "FCpcorr"}:
        raise UsageError(
            f"flavor '{name}' is no correlation", where="--input", fix="Give an FCcorr flavor."
        )
    if flavor.kind == "FCpcorr":
        raise UsageError(
            f"flavor '{name}' is a partial correlation already",
            where="--input",
            fix="Give the correlations, an FCcorr flavor.",
        )
    return Flavor.parse(f"FCpcorr_{flavor.atlas}_{flavor.processing}")


def _find_target(text: str | None, *, fetch: bool) -> Path | None:
    """File of a target; None for the mean of the cohort, or for one that is not to be fetched."""
    from ..fetch import find_files
    from ..published import published_extras

    if text in {None, MEAN_TARGET}:
        return None
    named = {name: row for name, row in published_extras().items() if "regtarget" in name}
    if text in named:
        return find_files(named[str(text)].files)[0] if fetch else None
    path = Path(str(text))
    if not path.exists():
        fix = f"Give a file or a published target. {suggest(str(text), [*named, MEAN_TARGET])}."
        raise InputError(f"'{text}' does not exist", where="--target", fix=fix)
    return path


def _absent(path: str, option: str) -> InputError:
    return InputError(f"'{path}' does not exist", where=option, fix="Give the file's right path.")


def _check_grid(typed: argparse.Namespace) -> None:
    from ..connectome.partial import check_grid

    check_grid(typed.grid_size, typed.grid_loops, typed.lambda_range)
    if typed.reference_rounding is not None and typed.reference_rounding < 0:
        raise UsageError(
            f"{typed.reference_rounding} decimals cannot be kept",
            where="--reference-rounding",
            fix="Give 0 or more.",
        )
    if typed.threads is not None and typed.threads < 1:
        raise UsageError(f"{typed.threads} threads are none", where="--threads", fix="Give 1.")


def _output_problems(
    typed: argparse.Namespace, flavor: Flavor | None, *, is_search: bool
) -> list[KrakenBIDSError]:
    """Tell what is wrong with where to write."""
    problems: list[KrakenBIDSError] = []
    for option, kinds in KINDS.items():
        path = _value(typed, option)
        if path is not None and path.suffix.lower() not in kinds:
            problems.append(
                UsageError(
                    f"files of kind '{path.suffix}' are not written",
                    where=f"{option} {path}",
                    fix=suggest(path.suffix, (kind for kind in kinds if kind)) + ".",
                )
            )
    if typed.output is not None and not typed.output.suffix:
        problems += _folder_problems(typed, flavor)
    problems += _combination_problems(typed)
    return problems if is_search else problems + _unsearched_problems(typed)


def _value(typed: argparse.Namespace, option: str) -> Any:
    """What was given for an option."""
    return getattr(typed, option[2:].replace("-", "_"))


def _combination_problems(typed: argparse.Namespace) -> Iterator[KrakenBIDSError]:
    """Tell of outputs that exclude each other."""
    if typed.output is not None and typed.output == typed.output_mean:
        yield UsageError(
            f"{typed.output} would be written twice",
            where="--output and --output-mean",
            fix="Give two files.",
        )
    if typed.geometric and typed.output_mean and not typed.precision:
        yield UsageError(
            "partial correlations have no geometric mean",
            where="--output-mean",
            fix="Leave --geometric out, or ask for --precision.",
        )


def _unsearched_problems(typed: argparse.Namespace) -> list[KrakenBIDSError]:
    """Tell what is wrong if lambda is given."""
    problems: list[KrakenBIDSError] = []
    for_search = [option for option in SEARCH_OPTIONS if _value(typed, option)]
    if for_search:
        problems.append(
            UsageError(
                f"{', '.join(for_search)}: of use only in a search",
                where=f"--lambda {typed.lambda_}",
                fix="Leave them out, or say --lambda search.",
            )
        )
    if typed.output is None and typed.output_mean is None:
        problems.append(
            UsageError("nothing would be written", fix="Give --output or --output-mean.")
        )
    return problems


def _folder_problems(typed: argparse.Namespace, flavor: Flavor | None) -> list[KrakenBIDSError]:
    where = f"--output {typed.output}"
    problems: list[KrakenBIDSError] = []
    if typed.precision:
        problems.append(
            UsageError("a data set holds partial correlations", where=where, fix="Write .npz.")
        )
    if flavor is None:
        problems.append(
            UsageError(
                "a data set needs the flavor of its connectomes",
                where=where,
                fix="Write --input FCcorr_fs86_hpf=FILE, for example.",
            )
        )
    if typed.output.exists() and (not typed.output.is_dir() or any(typed.output.iterdir())):
        problems.append(
            UsageError("exists already", where=where, fix="Give a folder that does not exist yet.")
        )
    return problems


def _listed(texts: Sequence[str]) -> tuple[str, ...]:
    """Ids as typed, or those of a file, without ``sub-``."""
    if len(texts) == 1 and Path(texts[0]).is_file():
        try:
            texts = Path(texts[0]).read_text("utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot be read: {error}",
                where=f"--search-on {texts[0]}",
                fix="Give a text file with an id a line.",
            ) from error
    return tuple(dict.fromkeys(text.removeprefix("sub-") for text in texts))


@contextlib.contextmanager
def collected(problems: list[KrakenBIDSError]) -> Iterator[None]:
    """Collect the errors of a block instead of raising them."""
    try:
        yield
    except Problems as several:
        problems.extend(several.problems)
    except KrakenBIDSError as error:
        problems.append(error)


def raise_all(problems: Sequence[KrakenBIDSError]) -> None:
    """Raise what was collected, if anything."""
    if problems:
        raise Problems(problems) if len(problems) > 1 else problems[0]
