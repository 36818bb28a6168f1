# SPDX-License-Identifier: MIT
"""Files and folders of models that appear whole or not at all, and their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import ResourceError, UsageError


@contextlib.contextmanager
def replaced_dir(out_dir: Path, *, names: Collection[str]) -> Iterator[Path]:
    """Give a new folder beside `out_dir`, put in its place when the block ends well.

    Parameters
    ----------
    out_dir
        Folder to make or replace.
    names
        Files that it will hold. Where it exists it must hold these or nothing; other files
        in it, such as a model card, are kept.

    Raises
    ------
    ResourceError
        If the folder cannot be written.
    UsageError
        If the folder holds something else.
    """
    if out_dir.exists() and not _may_replace(out_dir, names):
        raise UsageError(
            "exists and is not a model bundle",
            where=str(out_dir),
            fix="Give a folder that does not exist yet.",
        )
    temporary = None
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if out_dir.exists():  # a folder can only be renamed onto an empty one
            old = out_dir.rename(temporary.with_name(f"{temporary.name}.old"))
            for entry in old.iterdir():
                if entry.name not in names:
                    entry.rename(temporary / entry.name)
            temporary.replace(out_dir)
            shutil.rmtree(old)
        else:
            temporary.replace(out_dir)
    except OSError as error:
        raise ResourceError(
            f"cannot be written: {error.strerror or error}",
            where=str(out_dir),
            fix="Give a folder that you may write to, on a disk with room.",
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _may_replace(out_dir: Path, names: Collection[str]) -> bool:
    """Say whether a folder is empty or holds these files."""
    if not out_dir.is_dir():
        return False
    found = {entry.name for entry in out_dir.iterdir()}
    return not found or set(names) <= found


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as hexadecimal text."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ResourceError(
            f"cannot be read: {error.strerror}", where=str(path), fix="Give a readable file."
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place, then rename it.

    Raises
    ------
    ResourceError
        If the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            fix="Give a folder that you may write to, on a disk with room.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
