# SPDX-License-Identifier: MIT
"""``kraken-model fetch``: published models, atlases and further files onto this machine."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from ..atlases import PublishedFile
from ..download import JOBS, Progress
from ..errors import KrakenBIDSError, Problems, ResourceError, UsageError
from ..fetch import (
    REFERENCE_VARIABLE,
    RESOURCES_VARIABLE,
    Fetchable,
    copy_files,
    fetchable,
    fetchable_by_name,
    fetchable_flavor,
    find_files,
    held_bundle,
    held_file,
    resource_dir,
    search_dirs,
    template_atlases,
)
from ..flavors import Flavor
from ..published import DEFAULT_MODEL, companions, published_flavors, published_models

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``kraken-model fetch``."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="models, atlases and further files as --list names them, or the exact name of a "
        f"file (default: {DEFAULT_MODEL} and the atlases that are measured by default)",
    )  # fmt: skip
    parser.add_argument(
        "--flavors", nargs="+", default=[], metavar="F",
        help="checkpoint and transform of these published flavors",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="all that is published")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help=f"where to (default: the first writable folder of ${RESOURCES_VARIABLE}, else the "
        f"user's cache); verified files in ${REFERENCE_VARIABLE} are used as well",
    )  # fmt: skip
    parser.add_argument(
        "--no-convert", action="store_true", help="fetch a model's files and make no bundle"
    )
    parser.add_argument(
        "--jobs", type=int, default=JOBS, metavar="N",
        help=f"files fetched at once (default: {JOBS})",
    )  # fmt: skip
    what = parser.add_argument_group("say and stop")
    say = what.add_mutually_exclusive_group()
    say.add_argument("--list", action="store_true", help="say what can be fetched")
    say.add_argument(
        "--list-flavors", action="store_true", help="say which flavors are published, and where"
    )
    say.add_argument(
        "--dry-run", action="store_true", help="say what would be fetched, from where and where to"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``kraken-model fetch``; the paths of what was fetched go to standard output."""
    folder = arguments.output.expanduser().absolute() if arguments.output else None
    if arguments.list:
        return _tell(list_fetchable(search_dirs(folder)))
    if arguments.list_flavors:
        return _tell(list_flavors())
    wanted = _wanted(arguments)
    if arguments.dry_run:
        return _tell(plan_fetch(wanted, folder, convert=not arguments.no_convert))
    return _fetch(wanted, folder, convert=not arguments.no_convert, jobs=arguments.jobs)


def _wanted(arguments: argparse.Namespace) -> list[Fetchable]:
    """What is asked for; all unknown names are told at once."""
    names = [*arguments.names, *(fetchable() if arguments.all else ())]
    if not names and not arguments.flavors:
        names = [DEFAULT_MODEL, *template_atlases()]
    problems: list[KrakenBIDSError] = []
    if arguments.jobs < 1:
        problems.append(
            UsageError(f"{arguments.jobs} is too small", where="--jobs", fix="Give 1 or more.")
        )
    found: dict[str, Fetchable] = {}
    asked: list[tuple[str, Callable[[str], Fetchable]]] = [
        *((name, fetchable_by_name) for name in names),
        *((name, fetchable_flavor) for name in arguments.flavors),
    ]
    for name, look_up in asked:
        try:
            found[name] = look_up(name)
        except UsageError as problem:
            problems.append(problem)
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    for item in [*found.values(), *_complete_models(arguments.flavors, found)]:
        found[item.name] = item
        if item.is_model:  # a machine without a network searches for lambda, too
            beside = companions(published_models()[item.name])
            found |= {one.name: fetchable_by_name(one.name) for one in beside}
    return list(found.values())


def _complete_models(flavors: Iterable[str], found: dict[str, Fetchable]) -> Iterator[Fetchable]:
    """Models of which the flavors asked for need all files: bundles are made of them, too."""
    files = {file for item in found.values() for file in item.files}
    rows = [published_flavors()[str(Flavor.parse(name))] for name in flavors]
    for name in dict.fromkeys(row.model for row in rows):
        missing = [file for file in fetchable()[name].files if file not in files]
        if not missing and name not in found:
            yield fetchable()[name]
        if missing:
            _log.info(
                "no bundle of %s is made: it needs %d more file(s); 'kraken-model fetch %s' "
                "fetches all",
                name,
                len(missing),
                name,
            )


def _fetch(wanted: Sequence[Fetchable], folder: Path | None, *, convert: bool, jobs: int) -> int:
    """Fetch all files at once, then make bundles; what is complete is kept whatever else fails."""
    from ..model.pretrained import find_model

    made = [item for item in wanted if convert and item.is_model]
    ready = {item.name for item in made if held_bundle(item.name, folder)}
    if folder:  # raw files belong there; a bundle is made of them wherever they are
        copy_files([file for item in wanted if item not in made for file in item.files], folder)
    problems: list[KrakenBIDSError] = []
    try:
        with shown_progress(sys.stderr) as progress:
            files = [file for item in wanted if item.name not in ready for file in item.files]
            find_files(files, folder=folder, progress=progress, jobs=jobs)
    except ResourceError as problem:
        problems.append(problem)
    for item in wanted:
        held = [held_file(file, search_dirs(folder)) for file in item.files]
        if item not in made:
            sys.stdout.writelines(f"{path}\n" for path in held if path)
        elif item.name in ready or all(held):
            try:
                print(find_model(item.name, folder=folder))
            except KrakenBIDSError as problem:
                problems.append(problem)
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    return 0


def _tell(rows: Sequence[Sequence[str]]) -> int:
    """Print a table: in columns on a terminal, else with tabs."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip() if sys.stdout.isatty() else "\t".join(row))
    return 0


def list_fetchable(folders: Sequence[Path]) -> list[tuple[str, ...]]:
    """What can be fetched: name, what of it is here, number of files, and what it is.

    Files are looked for by name alone: reading gigabytes to tell whether they are the published
    ones is left to fetching.
    """
    rows: list[tuple[str, ...]] = [("name", "here", "files", "what")]
    for item in fetchable().values():
        n_here = sum(
            any((folder / file.name).is_file() for folder in folders) for file in item.files
        )
        here = "bundle" if item.is_model and held_bundle(item.name) else _share(n_here, item)
        rows.append((item.name, here, str(len(item.files)), item.description))
    return rows


def _share(n_here: int, item: Fetchable) -> str:
    if not n_here:
        return "-"
    return "yes" if n_here == len(item.files) else f"{n_here} of {len(item.files)}"


def list_flavors() -> list[tuple[str, ...]]:
    """Published flavors: parts of the name, model, whose latents they share, and their files."""
    header = ("flavor", "kind", "atlas", "regions", "processing", "model", "shares latents with",
              "checkpoint", "transform")  # fmt: skip
    return [
        header,
        *(
            (name, row.flavor.kind, row.flavor.atlas, str(row.n_regions), row.flavor.processing,
             row.model, row.shares_latents_with or "-", row.checkpoint.name, row.transform.name)
            for name, row in published_flavors().items()
        ),
    ]  # fmt: skip


def plan_fetch(
    wanted: Sequence[Fetchable], folder: Path | None, *, convert: bool
) -> list[tuple[str, ...]]:
    """What would be fetched: each file once, from where and where to, without asking a server."""
    rows: list[tuple[str, ...]] = [("what", "from", "to")]
    for item in wanted:
        is_made = convert and item.is_model
        bundle = held_bundle(item.name, folder) if is_made else None
        if bundle:
            rows.append((item.name, "is here", str(bundle)))
            continue
        rows += [_plan_file(file, folder, is_made=is_made) for file in item.files]
        if is_made:
            target = (folder or resource_dir()) / item.name
            rows.append((item.name, "made of these files", str(target)))
    return list(dict.fromkeys(rows))


def _plan_file(file: PublishedFile, folder: Path | None, *, is_made: bool) -> tuple[str, str, str]:
    """A row of `plan_fetch`: files that a bundle is made of are used wherever they are."""
    held = held_file(file, search_dirs(folder))
    if held is None:
        addresses = " or ".join((file.url, *file.mirrors))
        return file.name, addresses, str((folder or resource_dir()) / file.name)
    if folder and not is_made and held.parent != folder:
        return file.name, str(held), str(folder / file.name)
    return file.name, "is here", str(held)


@contextlib.contextmanager
def shown_progress(stream: TextIO) -> Iterator[Progress]:
    """Show progress: bars on a terminal, lines of the log elsewhere."""
    if not stream.isatty():
        yield ProgressLog()
        return
    from tqdm.contrib.logging import logging_redirect_tqdm

    with ProgressBars(stream) as bars, logging_redirect_tqdm():
        yield bars


class ProgressLog:
    """A line of the log at every tenth of a file, or every 64 MB where its size is unknown."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Log how much of a file is there, if that is a step further."""
        step = int(done // (max(total / 10, 1) if total else 64e6))
        if step > self._steps.get(name, 0):
            _log.info("%s: %s", name, f"{done / total:.0%}" if total else f"{done / 1e6:.0f} MB")
        self._steps[name] = step


class ProgressBars:
    """A bar for each file that is being received.

    Parameters
    ----------
    stream
        Terminal to draw on.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: dict[str, Any] = {}

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Draw the bar of a file; one that is all there goes away."""
        from tqdm import tqdm

        if name not in self._bars:
            self._bars[name] = tqdm(
                desc=name, total=total, initial=done, unit="B", unit_scale=True, leave=False,
                dynamic_ncols=True, file=self._stream,
            )  # fmt: skip
        bar = self._bars[name]
        bar.total = total
        bar.update(done - bar.n)  # less than nothing if a server begins anew
        if done == total:
            self._bars.pop(name).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for bar in self._bars.values():
            bar.close()
