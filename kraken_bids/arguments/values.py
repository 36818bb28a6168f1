# SPDX-License-Identifier: MIT
"""Values of options, each checked with a message that names the option."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError, KrakenBIDSError, Problems, ResourceError, UsageError, suggest
from ..storage import atomic_path, nearest_folder

T = TypeVar("T")


@dataclass
class Reader:
    """Read one value after the other, collecting what is wrong."""

    problems: list[KrakenBIDSError] = field(default_factory=list)

    def read(self, function: Callable[[], T], default: T) -> T:
        """Give what the function does; if it raises, note the problem and give the default."""
        try:
            return function()
        except Problems as several:
            self.problems += several.problems
        except KrakenBIDSError as problem:
            self.problems.append(problem)
        return default


def existing_folder(text: str, option: str) -> Path:
    """Absolute path of a folder that must be there."""
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise InputError(f"there is no folder {text}", where=option, fix="Check the path.")
    return path


def existing_file(text: str, option: str) -> Path:
    """Absolute path of a file that must be there."""
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"there is no file {text}", where=option, fix="Check the path.")
    return path


def writable_folder(text: str, option: str) -> Path:
    """Absolute path of a folder that is made if need be, and written to for a try."""
    path = Path(text).expanduser().absolute()
    probe = path / ".kraken-bids" / "probe"
    try:
        with atomic_path(probe):
            pass
        probe.unlink(missing_ok=True)  # others probe, too
    except ResourceError as error:
        # Of a folder shared with others, what one of them has made may be the trouble.
        is_inside = probe.parent.exists() and os.access(path, os.W_OK | os.X_OK)
        refused = str(probe.parent) if is_inside else text
        raise _unwritable(refused, option, error.what.partition(": ")[2]) from error
    return path


def folder_to_be(text: str, option: str) -> Path:
    """Absolute path of a folder that could be written to; nothing is made or written."""
    path = Path(text).expanduser().absolute()
    above = nearest_folder(path)
    if not above.is_dir():
        raise _unwritable(text, option, f"{above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _unwritable(text, option, f"{above} may not be written to")
    return path


def _unwritable(text: str, option: str, why: str) -> ResourceError:
    return ResourceError(
        f"the folder {text} cannot be written: {why}",
        where=option,
        fix="Give a folder that you may write to.",
    )


def optional_path(
    text: str | None, option: str, reader: Reader, check: Callable[[str, str], Path]
) -> Path | None:
    """A path that may not be given."""
    return reader.read(lambda: check(text, option), None) if text else None


def read_pairs(texts: Iterable[str], option: str) -> list[tuple[str, str]]:
    """Names and values of ``NAME=VALUE``, each name once."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"'{text}' is not NAME=VALUE", where=option, fix="Add the name.")
        if name in found:
            raise UsageError(f"'{name}' is given twice", where=option, fix="Leave one out.")
        found[name] = value
    return list(found.items())


def named_paths(
    texts: Iterable[str],
    option: str,
    names: Iterable[str],
    check: Callable[[str, str], Path],
) -> tuple[tuple[str, Path], ...]:
    """Names and checked paths of ``NAME=PATH``."""
    found, problems = [], []
    known = tuple(names)
    for name, value in read_pairs(texts, option):
        try:
            if name not in known:
                raise UsageError(
                    f"'{name}' is unknown", where=option, fix=suggest(name, known) + "."
                )
            found.append((name, check(value, option)))
        except KrakenBIDSError as problem:
            problems.append(problem)
    if problems:
        raise Problems(problems)
    return tuple(found)


def read_number(text: str, option: str, *, least: float) -> float:
    """A number that is `least` or more."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value >= least or value == float("inf"):
        raise UsageError(
            f"'{text}' is not a number of at least {least:g}", where=option, fix="Correct it."
        )
    return value


def read_share(text: Any, option: str) -> float:
    """A share from 0 to 1."""
    value = read_number(str(text), option, least=0.0)
    if value > 1:
        raise UsageError(
            f"'{text}' is no share", where=option, fix="Give a number from 0 to 1, such as 0.5."
        )
    return value


def parse_count(text: str) -> int:
    """Read a number of streamlines.

    Raises
    ------
    UsageError
        If it is not a positive whole number.

    Examples
    --------
    >>> parse_count("5M"), parse_count("20k"), parse_count("1500")
    (5000000, 20000, 1500)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text.strip())
    factor = {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()] if match else 0
    count = float(match[1]) * factor if match else 0.0
    if count < 1 or count != int(count):
        raise UsageError(
            f"'{text}' is not a number of streamlines",
            where="--streamlines",
            fix="Write it as 5M, 20k or 20000.",
        )
    return int(count)
