# SPDX-License-Identifier: MIT
"""What failed in a graph: read from Nipype's crash files, told in our words."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import KrakenBIDSError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeFailure:
    """A node that failed: its full name, what it said last, and the file with the details."""

    node: str
    message: str
    crash_file: Path


def read_failures(crash_dir: Path) -> list[NodeFailure]:
    """Read the crash files of a run, but those that a full disk has cut before the node."""
    files = sorted(crash_dir.glob("crash-*.txt"), key=lambda path: path.stat().st_mtime_ns)
    return [failure for failure in map(_read_failure, files) if failure.node]


def keep_details(failure: NodeFailure, folder: Path) -> Path:
    """Move the details of a failure to the logs; where that cannot be, they stay."""
    kept = folder / failure.crash_file.name
    if failure.crash_file == Path(os.devnull):
        return failure.crash_file
    try:
        shutil.move(failure.crash_file, kept)
    except OSError as error:
        _log.warning("%s cannot be written: %s", kept, error.strerror)
        return failure.crash_file
    return kept


#: The line with which Python ends a traceback: a dotted exception name, then its message.
_LAST_LINE = re.compile(
    r"^(?P<error>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)): ?(?P<text>.*)"
)


def _read_failure(path: Path) -> NodeFailure:
    lines = path.read_text("utf-8", errors="replace").splitlines()
    node = next((line.removeprefix("Node: ") for line in lines if line.startswith("Node: ")), "")
    return NodeFailure(node, last_message(lines), path)


def last_message(lines: Sequence[str]) -> str:
    """What a traceback says last, in our words if it is an error of ours."""
    message = ""
    for line in lines:
        match = _LAST_LINE.match(line.strip())
        if match and match["error"].startswith("kraken_bids."):
            return match["text"]
        if match and match["error"] != "nipype.pipeline.engine.nodes.NodeExecutionError":
            message = f"{match['error'].rpartition('.')[2]}: {match['text']}"
    return message or "stopped without a message"


def as_last_line(error: KrakenBIDSError) -> str:
    """The line with which Python would end the traceback of an error."""
    return f"{type(error).__module__}.{type(error).__name__}: {error}\n"
