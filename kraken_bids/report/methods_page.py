# SPDX-License-Identifier: MIT
"""The methods text on pages: Markdown as we write it, made into HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .html import render

#: Name of the file with a run's methods text, in the folder of its logs.
CITATION = "CITATION.md"
_EMPHASIS = re.compile(r"\*([^*\n]+)\*")


@dataclass(frozen=True)
class Block:
    """A heading, a paragraph or a list.

    Parameters
    ----------
    kind
        ``heading``, ``paragraph`` or ``list``.
    items
        Lines of text, each as pieces that are emphasised or not; one but for lists.
    """

    kind: str
    items: tuple[tuple[tuple[str, bool], ...], ...]


def read_blocks(markdown: str) -> Iterator[Block]:
    r"""Take a methods text apart: headings, paragraphs, lists and ``*emphasis*``, nothing else.

    Examples
    --------
    >>> [block.kind for block in read_blocks("## Title\n\nSome\n*text*.\n\n- one\n- two\n")]
    ['heading', 'paragraph', 'list']
    """
    for part in re.split(r"\n{2,}", markdown.strip()):
        if part.startswith("#"):
            yield Block("heading", (_pieces(part.lstrip("# ")),))
        elif part.startswith("- "):
            items = re.split(r"\n- ", part.removeprefix("- "))
            yield Block("list", tuple(_pieces(item) for item in items))
        elif part:
            yield Block("paragraph", (_pieces(part),))


def _pieces(text: str) -> tuple[tuple[str, bool], ...]:
    """Pieces of a text, and whether each is emphasised."""
    parts = _EMPHASIS.split(" ".join(text.split()))
    return tuple((part, bool(place % 2)) for place, part in enumerate(parts) if part)


def build_methods_page(markdown: str) -> str:
    """Make a page of a methods text."""
    blocks = list(read_blocks(markdown))
    title = "".join(piece for piece, _ in blocks[0].items[0]) if blocks else "Methods"
    return render("methods.html", {"title": title, "blocks": blocks[1:], "sections": ()})


@dataclass(frozen=True)
class FoundMethods:
    """The methods text of the last run of something.

    The run is not named: the same results make the same page, whichever run they come from.

    Parameters
    ----------
    title
        What the run made.
    blocks
        The text without its title.
    """

    title: str
    blocks: tuple[Block, ...]


def find_methods(logs_dirs: Mapping[str, Path]) -> list[FoundMethods]:
    """Find the methods text of the last run in each of some folders, where there is one.

    Parameters
    ----------
    logs_dirs
        Folders with a folder for each run, by what to call them.
    """
    found = []
    for title, logs_dir in logs_dirs.items():
        for file in sorted(logs_dir.glob(f"*/{CITATION}"), reverse=True):
            try:
                blocks = tuple(read_blocks(file.read_text("utf-8")))
            except (OSError, UnicodeDecodeError):
                continue
            found.append(FoundMethods(title, blocks[1:]))
            break
    return found
