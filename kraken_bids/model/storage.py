# SPDX-License-Identifier: MIT
"""Folders of models: replaced whole, their arrays written one by one, and their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ResourceError, UsageError
from ..storage import atomic_folder, load_json

#: What folders of models are described by; `kind` there says what they are.
CONFIG_NAME = "config.json"
#: The kind of a folder that says none.
BUNDLE = "model bundle"


@contextlib.contextmanager
def replaced_dir(out_dir: Path, *, names: Collection[str], kind: str = BUNDLE) -> Iterator[Path]:
    """Give a new folder beside `out_dir`, put in its place when the block ends well.

    Parameters
    ----------
    out_dir
        Folder to make or replace.
    names
        Files that it will hold. Where it exists it must hold these or nothing; other files
        in it are kept, unless the block made one of that name.
    kind
        What it is; a folder of another kind is not replaced.

    Raises
    ------
    ResourceError
        If the folder cannot be written.
    UsageError
        If the folder holds something else.
    """
    check_replaceable(out_dir, names=names, kind=kind)
    with atomic_folder(out_dir, is_kept=lambda entry: entry.name not in names) as folder:
        yield folder


def check_replaceable(out_dir: Path, *, names: Collection[str], kind: str = BUNDLE) -> None:
    """Refuse a folder that `replaced_dir` would not replace.

    Raises
    ------
    UsageError
        If it holds something else.
    """
    if out_dir.exists() and not _may_replace(out_dir, names, kind):
        raise UsageError(
            f"exists and is not a {kind}",
            where=str(out_dir),
            fix="Give a folder that does not exist yet.",
        )


def write_arrays(
    file: Path,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Iterable[tuple[str, NDArray[np.float32]]],
) -> str:
    """Write a safetensors file array by array: never more than one of them is in memory.

    Parameters
    ----------
    file
        File to write; not replaced whole, hence for folders that are.
    shapes
        Shape by name, in the order of the file. All are float32.
    arrays
        Names and values in that order.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    ValueError
        If an array comes out of order or with another shape.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with file.open("wb") as stream:

        def write(block: bytes | memoryview) -> None:
            stream.write(block)
            digest.update(block)

        write(len(text).to_bytes(8, "little") + text)
        expected = iter(shapes.items())
        for name, array in arrays:
            if (name, array.shape) != next(expected, None):
                raise ValueError(f"array {name} of shape {array.shape} was not announced")
            values = np.ascontiguousarray(array, dtype="<f4").reshape(-1)
            write(values.view(np.uint8).data)
        if next(expected, None):
            raise ValueError("an array that was announced is missing")
    return digest.hexdigest()


def _may_replace(out_dir: Path, names: Collection[str], kind: str) -> bool:
    """Say whether a folder is empty or holds these files and is of this kind."""
    if not out_dir.is_dir():
        return False
    found = {entry.name for entry in out_dir.iterdir()}
    return not found or (set(names) <= found and _kind(out_dir) in {kind, None})


def _kind(folder: Path) -> str | None:
    """Read what a folder says that it is; None where that cannot be read."""
    try:
        config = load_json(folder / CONFIG_NAME)
    except (OSError, ValueError):
        return None
    return str(config.get("kind", BUNDLE)) if isinstance(config, dict) else None


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as hexadecimal text."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ResourceError(
            f"cannot be read: {error.strerror}", where=str(path), fix="Give a readable file."
        ) from error
