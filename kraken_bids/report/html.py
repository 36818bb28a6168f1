# SPDX-License-Identifier: MIT
"""Pieces of a page: pictures, tables and the templates that put them together."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .. import __version__
from .canvas import Drawing, encode_png
from .raster import Raster


@dataclass(frozen=True)
class Picture:
    """A PNG that travels inside its page.

    Parameters
    ----------
    content
        Bytes of the file.
    alt
        What is seen, for those who do not see it.
    caption
        Text below.
    """

    content: bytes
    alt: str
    caption: str

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` address."""
        return "data:image/png;base64," + base64.b64encode(self.content).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the header."""
        width, height = struct.unpack(">II", self.content[16:24])
        return width, height

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.size[1]

    @classmethod
    def drawn(cls, drawing: Drawing | Raster, alt: str, caption: str) -> Picture:
        """Take the PNG of a drawing."""
        return cls(encode_png(drawing), alt, caption)

    @classmethod
    def read(cls, file: Path, alt: str, caption: str) -> Picture | None:
        """Take a PNG file; None if it cannot be read or is no PNG."""
        try:
            content = file.read_bytes()
        except OSError:
            return None
        whole = content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")
        return cls(content, alt, caption) if whole else None


@dataclass(frozen=True)
class Cell:
    """One cell of a table: text, what it holds (``number``, ``words``), where it leads."""

    text: str
    css: str = ""
    link: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of a page, with what its columns mean where their names do not say it."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    meanings: tuple[tuple[str, str], ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns are set as numbers: those with more numbers than words.

        Examples
        --------
        >>> Grid.of("", ("mean", "published"), [["1", "0.5"], ["n/a", "1 to 2"]]).numeric
        (True, False)
        """
        return tuple(
            _is_numeric([row[at] for row in self.rows]) for at in range(len(self.columns))
        )

    @classmethod
    def of(
        cls,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str | Cell]],
        *,
        meanings: Iterable[tuple[str, str]] = (),
    ) -> Grid:
        """Make a table; text that is a number is set as one, `meanings` explain the columns."""
        return cls(
            title,
            tuple(columns),
            tuple(tuple(_cell(value) for value in row) for row in rows),
            tuple(meanings),
        )


def _is_numeric(cells: Sequence[Cell]) -> bool:
    numbers = sum(cell.css == "number" for cell in cells)
    return numbers > sum(cell.css != "number" and cell.text not in {"", "n/a"} for cell in cells)


def _cell(value: str | Cell) -> Cell:
    if isinstance(value, Cell):
        return value
    try:
        number = float(value)
    except ValueError:
        return Cell(value, "words" if len(value) > 40 else "")
    return Cell(short_number(value, number), "number")


def short_number(text: str, number: float) -> str:
    """Write a number in four significant digits, those from 1000 to 1e9 without a fraction.

    Examples
    --------
    >>> short_number("0.123456", 0.123456), short_number("4.181e+06", 4.181e6)
    ('0.1235', '4,181,000')
    """
    digits = text.strip().lstrip("-")
    if digits.isdigit():
        return f"{int(digits):,}" if not text.strip().startswith("-") else text
    return f"{number:,.0f}" if 1e3 <= abs(number) < 1e9 else f"{number:.4g}"


def as_text(value: Any) -> str:
    """Write a value of a JSON file in one line.

    Examples
    --------
    >>> as_text({"Name": "demo", "Flavors": ["a", "b"]})
    'Name: demo, Flavors: a, b'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {as_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(as_text(item) for item in value)
    return str(value)


@dataclass(frozen=True)
class Notice:
    """Something to know about the data, with its meaning and what to do."""

    what: str
    meaning: str = ""
    advice: str = ""
    names: tuple[str, ...] = ()


@cache
def _script() -> tuple[str, str]:
    """The script of all pages, and its SHA-256: no other is run on them."""
    source = (files("kraken_bids") / "data" / "report" / "tables.js").read_text("utf-8")
    return source, base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template of ``data/report``; every text is escaped."""
    import jinja2

    source, digest = _script()

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kraken_bids", "data/report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        version=__version__,
        script=source,
        script_hash=digest,
        **context,
    )


def provenance(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say which programs made a data set, from its ``dataset_description.json``."""
    plain = ("Name", "BIDSVersion", "License")
    entries = [(key, str(description[key])) for key in plain if key in description]
    for program in description.get("GeneratedBy", []):
        if isinstance(program, Mapping):
            words = [str(program.get(key, "")) for key in ("Name", "Version", "Description")]
            entries.append(("Generated by", " ".join(word for word in words if word)))
            entries += [
                (key, str(program[key])) for key in ("ConfigurationHash",) if key in program
            ]
    for source in description.get("SourceDatasets", []):
        if isinstance(source, Mapping):
            words = [str(source[key]) for key in ("URL", "DOI", "Version") if key in source]
            entries.append(("Made from", " ".join(words)))
    return entries
