# SPDX-License-Identifier: MIT
"""What people read on their terminals: one line a message, coloured only where that helps."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

#: Level of ``-vv``: Nipype's log is told, too.
EVERYTHING = 5
#: ANSI colours by level: warnings yellow, errors red.
COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


def start_logging(verbose: int, *, quiet: bool, answers: bool = False) -> None:
    """Send our log to the terminal.

    Parameters
    ----------
    verbose
        0: what was found, a line a participant, where to look; 1: every step, with the time;
        2: all.
    quiet
        Errors only.
    answers
        Whether what is told is what was asked for, as with ``--status``: it then goes to standard
        output, and only warnings and errors to where a run tells everything.
    """
    level = EVERYTHING if verbose > 1 else logging.DEBUG if verbose else logging.INFO
    log = logging.getLogger("kraken_bids")
    log.handlers = [_handler(sys.stderr, verbose)]
    if answers:
        log.handlers[0].setLevel(logging.WARNING)
        asked = _handler(sys.stdout, verbose)
        asked.addFilter(lambda record: record.levelno < logging.WARNING)
        log.addHandler(asked)
    log.setLevel(logging.ERROR if quiet else level)
    log.propagate = False


def _handler(stream: TextIO, verbose: int) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines(with_time=bool(verbose), coloured=shows_colours(stream)))
    handler.addFilter(_Once())
    return handler


def n_of(count: int, noun: str) -> str:
    """Count things.

    Examples
    --------
    >>> n_of(1, "region"), n_of(2, "region")
    ('1 region', '2 regions')
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")


def shows_colours(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether colours are welcome: on a terminal that has them, unless ``NO_COLOR`` is set."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


class _Lines(logging.Formatter):
    """Messages as they are; with the time of day where every step is told."""

    def __init__(self, *, with_time: bool, coloured: bool) -> None:
        super().__init__("%(asctime)s %(message)s" if with_time else "%(message)s", "%H:%M:%S")
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        """Give the text of a record."""
        text = super().format(record)
        colour = COLOURS.get(record.levelno) if self._coloured else None
        return f"\x1b[{colour}m{text}\x1b[0m" if colour else text


class _Once(logging.Filter):
    """Let each warning through once: many flavors and participants give the same one."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is new."""
        if record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new
