# SPDX-License-Identifier: MIT
"""Files and folders that appear whole or not at all, and JSON that is read with care."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import ResourceError

#: Linux's flags of renameat2: exchange two names in one step, paths relative to where we are.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100

#: Largest JSON file that is read; sidecars have kilobytes.
MAX_JSON_BYTES = 64 << 20
#: Deflate cannot shrink data more than this (RFC 1951: 258 bytes in 2 bits).
MAX_DEFLATE_RATIO = 1032


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it holds no JSON, is too large or nested too deep, or holds text that is no Unicode
        (half of a surrogate pair), which could be written nowhere.
    """
    if not path.is_file() and path.exists() and not path.is_fifo():
        raise OSError("it is no file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES >> 20} MB")
    return parse_json(path.read_text("utf-8"))


def parse_json(text: str | bytes) -> Any:
    """Read JSON, as `load_json` does.

    Raises
    ------
    ValueError
        As there.

    Examples
    --------
    >>> parse_json('{"RepetitionTime": 2.0}')
    {'RepetitionTime': 2.0}
    """
    try:
        content = json.loads(text)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    return content


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, put in its place when the block ends well.

    The temporary file is hidden, unique to the process, whose mark is in its name (see
    `process_mark`), and removed when the block fails.

    Raises
    ------
    ResourceError
        If the folder cannot be made or written, or the disk is full.
    """
    with contextlib.ExitStack() as stack:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = f".{path.name}.{process_mark()}."
            handle, name = tempfile.mkstemp(prefix=prefix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        stack.callback(temporary.unlink, missing_ok=True)
        with _told(path):
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, is_kept: Callable[[Path], bool] = lambda _entry: False
) -> Iterator[Path]:
    """Give a new folder beside `path`, put in its place when the block ends well.

    Parameters
    ----------
    path
        Folder to make or replace.
    is_kept
        Says which entries of a folder that is replaced move into the new one, if that has none
        of their name.

    Raises
    ------
    ResourceError
        If the folder cannot be made or written, or the disk is full.
    """
    with contextlib.ExitStack() as stack:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        with _told(path):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if not path.exists():
                temporary.replace(path)
                return
            old = _swap(temporary, path)
            stack.callback(shutil.rmtree, old, ignore_errors=True)
            for entry in old.iterdir():
                if is_kept(entry) and not (path / entry.name).exists():
                    entry.rename(path / entry.name)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn errors of the disk into words."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            fix="Give a folder that you may write to, on a disk with room.",
        ) from error


def nearest_folder(path: Path) -> Path:
    """The path itself where it is there, else the nearest above it that is.

    Examples
    --------
    >>> nearest_folder(Path("/no-such-folder/inside"))
    PosixPath('/')
    """
    return next(place for place in (path, *path.parents) if place.exists())


def process_mark() -> str:
    """Mark of this process: where it runs (8 hexadecimal digits), its number, and its start.

    Where: the machine since it was started, and the container, in which numbers are others.
    Numbers are used again, hence the start (in ticks of the clock; 0 where it is not told).
    """
    return f"{_place()}-{os.getpid()}-{_start(os.getpid())}"


def is_running_here(mark: str) -> bool | None:
    """Whether the process of a mark is running; None if it is no process of this place."""
    place, _, process = mark.partition("-")
    number, _, start = process.partition("-")
    if place != _place() or not number.isdigit():
        return None
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return start == str(_start(int(number)))


def _start(pid: int) -> int:
    """When a process was started, in ticks since the machine was; 0 where it is not told."""
    try:
        # The program's name may hold blanks and brackets: the fields start after the last one.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


@functools.cache
def _place() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # no Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _swap(new: Path, old: Path) -> Path:
    """Put `new` in the place of `old`; give where `old` is then.

    In one step where the system can exchange two names, so that at no moment there is neither;
    elsewhere by two renames, since a folder can only be renamed onto an empty one.
    """
    if _exchange(new, old):
        return new
    aside = old.rename(new.with_name(f"{new.name}.old"))
    new.replace(old)
    return aside


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step; False where the system or the disk cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = os.fsencode(a), os.fsencode(b)
    failed = renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(failed == 0)
