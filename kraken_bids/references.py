# SPDX-License-Identifier: MIT
"""References by key: cited in a text as ``[@key]``, listed below it, and as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .errors import ResourceError

_ENTRY = re.compile(r"@(?P<kind>\w+)\{(?P<key>\w+),\n(?P<body>.*?)\n\}", re.DOTALL)
_FIELD = re.compile(r"^  (?P<name>\w+) = \{(?P<value>.*)\},$", re.MULTILINE)
#: One citation or several: ``[@key]``, ``[@key; @other]``.
_CITATION = re.compile(r"\[(@\w+(?:; @\w+)*)\]")


@dataclass(frozen=True)
class Reference:
    """One work.

    Parameters
    ----------
    key
        What it is cited by.
    bibtex
        Its entry.
    fields
        Fields of the entry by name.
    """

    key: str
    bibtex: str
    fields: dict[str, str]

    @property
    def _families(self) -> list[str]:
        return [name.partition(",")[0] for name in self.fields["author"].split(" and ")]

    @property
    def cited(self) -> str:
        """Authors and year, as in a text."""
        families = self._families
        names = families[0] if len(families) == 1 else f"{families[0]} et al."
        if len(families) == 2 and families[1] != "others":
            names = " and ".join(families)
        return f"{names}, {self.fields['year']}"

    @property
    def listed(self) -> str:
        """The whole reference in one line."""
        fields = self.fields
        names = [_initials(name) for name in fields["author"].split(" and ")]
        authors = ", ".join(names).replace(", others", " et al.")
        place = fields.get("journal") or fields.get("booktitle", "")
        numbers = ":".join(fields[key] for key in ("volume", "pages") if key in fields)
        doi = f" doi:{fields['doi']}" if "doi" in fields else ""
        where = f"*{place}* {numbers}".strip()
        return f"{authors.rstrip('.')}. {fields['title']}. {where} ({fields['year']}).{doi}"


def _initials(name: str) -> str:
    """Family name and initials."""
    family, _, given = name.partition(", ")
    initials = "".join(part[0] for part in re.split(r"[\s-]+", given) if part)
    return f"{family} {initials}".strip()


@cache
def references() -> dict[str, Reference]:
    """All references of ``data/references.bib`` by key."""
    text = (files("kraken_bids") / "data" / "references.bib").read_text("utf-8")
    found = {}
    for entry in _ENTRY.finditer(text):
        fields = {one["name"]: one["value"] for one in _FIELD.finditer(entry["body"])}
        found[entry["key"]] = Reference(entry["key"], entry.group(), fields)
    return found


def cite(text: str) -> tuple[str, tuple[Reference, ...]]:
    """Write citations out, as authors and year.

    Parameters
    ----------
    text
        With citations as ``[@key]`` or ``[@key; @other]``.

    Returns
    -------
    str
        The text.
    tuple of Reference
        What is cited, each once, by authors and year.

    Raises
    ------
    ResourceError
        If a key is unknown.

    Examples
    --------
    >>> cite("By components [@behzadi2007].")[0]
    'By components (Behzadi et al., 2007).'
    """
    cited: dict[str, Reference] = {}

    def write(match: re.Match[str]) -> str:
        keys = [part.strip(" @") for part in match[1].split(";")]
        for key in keys:
            cited[key] = _find(key)
        return "(" + "; ".join(cited[key].cited for key in keys) + ")"

    written = _CITATION.sub(write, text)
    return written, tuple(sorted(cited.values(), key=lambda one: one.cited.casefold()))


def _find(key: str) -> Reference:
    try:
        return references()[key]
    except KeyError:
        raise ResourceError(
            f"there is no reference '{key}'",
            where="kraken_bids/data/references.bib",
            fix="Install the program again.",
        ) from None


def as_bibtex(cited: Sequence[Reference]) -> str:
    """Entries of some references, for a reference manager."""
    return "\n\n".join(one.bibtex for one in cited) + "\n"
