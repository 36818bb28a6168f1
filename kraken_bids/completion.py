# SPDX-License-Identifier: MIT
"""Which work is finished: markers that a re-run with the same inputs and settings finds again.

A marker is a small hidden JSON file, put in place after all outputs of a session (or of the group)
are. It names them with their sizes, and carries a fingerprint of everything they were made from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import __version__
from .bids.writers import write_json
from .storage import load_json

#: Folder of the markers in a data set; dot files are no matter of BIDS.
MARKER_DIR = ".kraken-bids"

PAGE_SUFFIX = ".html"


def fingerprint(*parts: Any) -> str:
    """Hash settings and plans; a file among them counts by path, size and time of change.

    Parameters
    ----------
    parts
        Frozen dataclasses, tuples, plain values and paths.

    Returns
    -------
    str
        32 hexadecimal digits; other whenever the program's version, a value or a file is.
    """
    text = json.dumps([__version__, *(_identity(part) for part in parts)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _identity(value: Any) -> Any:
    """A JSON value that changes when the value, or the file that it names, does."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: _identity(getattr(value, name)) for name in names}
    if isinstance(value, (tuple, list)):
        return [_identity(item) for item in value]
    if isinstance(value, Path):
        if not value.is_file():
            return str(value)
        state = value.stat()
        return [str(value), state.st_size, state.st_mtime_ns]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def marker_path(dataset_dir: Path, name: str) -> Path:
    """Marker of a session (``sub-01_ses-a``) or of the ``group``."""
    return dataset_dir / MARKER_DIR / f"{name}.json"


def mark_finished(
    dataset_dir: Path,
    name: str,
    key: str,
    outputs: Iterable[Path],
    *,
    problems: Iterable[tuple[str, str]] = (),
) -> Path:
    """Say that a piece of work is done, once all its outputs are in place.

    Parameters
    ----------
    dataset_dir
        Root of the data set.
    name
        Session or ``group``.
    key
        `fingerprint` of what the outputs were made from.
    outputs
        All files written, under `dataset_dir`.
    problems
        Session and message of inputs that could not be used; told again by later runs.

    Returns
    -------
    Path
        The marker.

    Raises
    ------
    OSError
        If an output is not there: the work is then not finished.
    """
    sizes = {
        str(path.relative_to(dataset_dir)): path.stat().st_size for path in sorted(set(outputs))
    }
    marker = marker_path(dataset_dir, name)
    write_json(marker, {"key": key, "outputs": sizes, "problems": list(problems)})
    return marker


def marked_problems(dataset_dir: Path, name: str) -> list[tuple[str, str]]:
    """Session and message of inputs that finished work had to leave out."""
    content = _read_marker(dataset_dir, name)
    listed = content.get("problems")
    pairs = listed if isinstance(listed, list) else []
    return [(str(pair[0]), str(pair[1])) for pair in pairs if _is_pair(pair)]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _read_marker(dataset_dir: Path, name: str) -> dict[str, Any]:
    """Content of a marker; a marker that cannot be read marks nothing."""
    try:
        content = load_json(marker_path(dataset_dir, name))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def finished_outputs(dataset_dir: Path, name: str) -> tuple[str, dict[str, int]]:
    """Key and outputs (path under the data set, size) of a marker; empty if there is none."""
    content = _read_marker(dataset_dir, name)
    outputs = content.get("outputs")
    if not isinstance(outputs, dict):
        return "", {}
    return str(content.get("key", "")), outputs


def is_finished(dataset_dir: Path, name: str, key: str) -> bool:
    """Whether the marker has this key and each of its outputs is there, whole.

    Pages need to be there only: they may have been drawn again since, with predictions.
    """
    marked, outputs = finished_outputs(dataset_dir, name)
    return (
        bool(outputs)
        and marked == key
        and all(_is_whole(dataset_dir / path, size) for path, size in outputs.items())
    )


def _is_whole(path: Path, size: int) -> bool:
    now = _size(path)
    return now > 0 if path.suffix == PAGE_SUFFIX else now == size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def remove_stale(dataset_dir: Path, before: Iterable[str], now: Iterable[str]) -> list[Path]:
    """Delete outputs of an earlier run that the present one no longer makes.

    Pages stay: they are drawn anew after that.

    Parameters
    ----------
    dataset_dir
        Root of the data set.
    before, now
        Paths under it, as in the earlier marker and as made now.

    Returns
    -------
    list of Path
        What was deleted.
    """
    root = dataset_dir.resolve()
    paths = sorted(set(before) - set(now))
    stale = [dataset_dir / path for path in paths if not path.endswith(PAGE_SUFFIX)]
    # A marker is a file that anyone may edit: nothing outside the data set is touched.
    stale = [path for path in stale if root in path.resolve().parents and path.is_file()]
    for path in stale:
        path.unlink()
    return stale


def remove_tree(folder: Path) -> None:
    """Delete a working folder; what cannot be deleted stays."""
    shutil.rmtree(folder, ignore_errors=True)
