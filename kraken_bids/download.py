# SPDX-License-Identifier: MIT
"""Published files onto the disk: verified, whole or not at all, taken up again when cut off."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import http.client
import logging
import os
import shutil
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from . import __version__
from .atlases import PublishedFile
from .errors import ResourceError

_log = logging.getLogger(__name__)

#: ``(request, timeout=seconds) -> response``, as `urllib.request.OpenerDirector.open`.
Opener = Callable[..., Any]
#: ``(file name, bytes so far, bytes in all or None)``.
Progress = Callable[[str, int, int | None], None]

#: Longest silence of a server.
TIMEOUT_S = 30.0
#: Files fetched at once.
JOBS = 3
#: Requests for one file; an address is asked again only if it has sent something.
MAX_REQUESTS = 20
#: Failed connections in a row after which a host is not asked any more.
MAX_SILENCES = 3
#: Bytes received at once, and between two reports of progress, at most.
BLOCK_BYTES = 1 << 20
#: No published file is nearly as large (the largest is 0.5 GB): a server that sends more, and
#: does not say how much, would fill the disk.
MAX_BYTES = 8 << 30


class _TransferError(Exception):
    """A request that failed or broke off, with the reason."""


class _Hosts:
    """Which hosts are not asked any more: those that no connection could be made to.

    Without this, each of 64 files would wait for the same firewall.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}

    def note(self, url: str, *, answered: bool) -> None:
        """Count a failed connection; an answer of any kind clears the count."""
        host = urllib.parse.urlsplit(url).netloc
        with self._lock:
            self._failures[host] = 0 if answered else self._failures.get(host, 0) + 1

    def is_silent(self, url: str) -> bool:
        """Say whether `MAX_SILENCES` connections in a row have failed."""
        host = urllib.parse.urlsplit(url).netloc
        with self._lock:
            return self._failures.get(host, 0) >= MAX_SILENCES


@dataclass(frozen=True)
class _Transport:
    """How to ask: the seams of `fetch`, and what its threads share."""

    opener: Opener
    progress: Progress | None
    timeout_s: float
    hosts: _Hosts = field(default_factory=_Hosts)
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, name: str, done: int, total: int | None) -> None:
        """Report progress, one thread at a time."""
        if self.progress:
            with self.lock:
                self.progress(name, done, total)


def is_verified(path: Path, sha256: str) -> bool:
    """Tell whether a file is there and has the given SHA-256."""
    try:
        status = path.stat()
        return _sha256(path, status.st_size, status.st_mtime_ns) == sha256
    except OSError:
        return False


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """SHA-256 of a file, computed once for each of its versions."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(
    files: Sequence[PublishedFile],
    folder: Path,
    *,
    opener: Opener | None = None,
    progress: Progress | None = None,
    timeout_s: float = TIMEOUT_S,
    jobs: int = JOBS,
) -> tuple[Path, ...]:
    """Bring published files into a folder.

    A file that is there and verified is left alone. Addresses are tried in turn; one that breaks
    off is asked for the rest. A file gets its name only when its SHA-256 is right. A file that
    cannot be had does not keep the others from being fetched.

    Parameters
    ----------
    files
        What to fetch.
    folder
        Where to; made if need be.
    opener
        In place of urllib's, which heeds ``http_proxy``, ``https_proxy`` and ``no_proxy``.
    progress
        Told about every block, by one thread at a time.
    timeout_s
        Longest silence of a server, in seconds.
    jobs
        How many files are fetched at once.

    Returns
    -------
    tuple of Path
        One a file, in order.

    Raises
    ------
    ResourceError
        If files cannot be had (names all files not there yet, their addresses and the folder to
        put them in), or the folder cannot be written.
    """
    # A fresh opener: the proxies are read from the environment when it is made.
    transport = _Transport(opener or urllib.request.build_opener().open, progress, timeout_s)
    missing = [
        file for file in dict.fromkeys(files) if not is_verified(folder / file.name, file.sha256)
    ]
    failures = _fetch_all(missing, folder, transport, jobs=jobs)
    if failures:
        raise _not_had({file: failures[file] for file in missing if file in failures}, folder)
    return tuple(folder / file.name for file in files)


def _fetch_all(
    files: Sequence[PublishedFile], folder: Path, transport: _Transport, *, jobs: int
) -> dict[PublishedFile, list[str]]:
    """Fetch some files at a time; what failed, by file."""
    from multiprocessing.pool import ThreadPool  # not needed for help

    work = functools.partial(_fetch_into, folder=folder, transport=transport)
    try:
        if min(jobs, len(files)) < 2:
            outcomes = list(map(work, files))
        else:
            # Its threads do not outlive the program: an interruption ends it at once, though a
            # silent server keeps a thread waiting.
            with ThreadPool(min(jobs, len(files))) as pool:
                outcomes = list(pool.imap_unordered(work, files))
    finally:
        transport.stopped.set()
    return {file: failures for file, failures in outcomes if failures}


def _fetch_into(
    file: PublishedFile, folder: Path, transport: _Transport
) -> tuple[PublishedFile, list[str]]:
    """Fetch one file; what failed, or nothing if it is there now."""
    path = folder / file.name
    altered = ["the file there has other bytes than published"] if path.exists() else []
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        failures = _fetch_one(file, folder, transport)
    return file, altered + failures if failures else []


def _not_had(failures: Mapping[PublishedFile, Sequence[str]], folder: Path) -> ResourceError:
    """The error that says which files failed and what to do by hand."""
    first, *others = failures
    reason = f"{first.name} cannot be fetched: {'; '.join(failures[first])}"
    lines = "".join(
        f"\n  {file.name} cannot be fetched: {'; '.join(failures[file])}" for file in failures
    )
    listing = "".join(
        f"\n  {file.name}\n    from {' or '.join((file.url, *file.mirrors))}" for file in failures
    )
    return ResourceError(
        f"{len(failures)} files cannot be fetched{lines}" if others else reason,
        where=str(folder),
        fix=f"Run it again where there is a network, or put into {folder} by hand:{listing}",
    )


def copy_verified(file: PublishedFile, source: Path, folder: Path) -> None:
    """Copy a published file from another folder, whole or not at all.

    Raises
    ------
    ResourceError
        If the folder cannot be written, or the source is no longer the published file.
    """
    with _writing(folder / file.name):
        folder.mkdir(parents=True, exist_ok=True)
        with _partial(file, folder) as (path, stream), source.open("rb") as original:
            stream.truncate(0)
            shutil.copyfileobj(original, stream)
            stream.flush()
            if _put_in_place(file, path, folder):
                return
    raise ResourceError("was changed while it was copied", where=str(source), fix="Run it again.")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell errors of the disk as such."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            fix="Set KRAKEN_BIDS_RESOURCES (or 'kraken-model fetch --output') to a folder that "
            "you may write to, on a disk with room.",
        ) from error


def _fetch_one(file: PublishedFile, folder: Path, transport: _Transport) -> list[str]:
    """Ask the addresses of a file in turn; what failed, or nothing if the file is there now."""
    failures: list[str] = []
    addresses = [file.url, *file.mirrors]
    with _partial(file, folder) as (path, stream):
        # Another process may have put it there while this one opened the partial file; or this
        # one was killed between the last byte and the renaming.
        if is_verified(folder / file.name, file.sha256) or _put_in_place(file, path, folder):
            return []
        for _ in range(MAX_REQUESTS):
            if not addresses or transport.stopped.is_set():
                break
            url = addresses.pop(0)
            before = stream.seek(0, os.SEEK_END)
            reason = _ask(url, stream, file, transport)
            done = stream.seek(0, os.SEEK_END)  # writes out what Python holds back
            # Even after a break all of it may be there: some servers promise more than they have.
            if done and _put_in_place(file, path, folder):
                return []
            failures.append(f"{url}: {reason or 'other bytes than published (SHA-256 differs)'}")
            is_asked_again = done > before
            if not reason:  # what was there before may be at fault
                is_asked_again = before > 0
                stream.truncate(0)
            if is_asked_again:
                addresses.insert(0, url)
    return failures


def _ask(url: str, stream: BinaryIO, file: PublishedFile, transport: _Transport) -> str:
    """Receive what an address sends; why that is not all, or nothing."""
    if transport.hosts.is_silent(url):
        return f"not asked, no connection to its host {MAX_SILENCES} times"
    _log.info("fetching %s from %s", file.name, url)
    try:
        _receive(url, stream, name=file.name, transport=transport)
    except _TransferError as error:
        return str(error)
    return ""


def _put_in_place(file: PublishedFile, path: Path, folder: Path) -> bool:
    """Give a file its name if its SHA-256 is right."""
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
            return False
        os.fsync(stream.fileno())
    path.replace(folder / file.name)
    return True


def _receive(url: str, stream: BinaryIO, *, name: str, transport: _Transport) -> None:
    """Append what an address sends of a file to what there is of it.

    Raises
    ------
    _TransferError
        If it refuses, is silent or breaks off; what came until then is kept.
    """
    done = stream.tell()
    with _request(url, done, transport) as response:
        if response.status == 200:  # from the start, whether asked for a part or not
            stream.truncate(0)
            done = stream.seek(0)
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise _TransferError(f"sent another part than asked for (status {response.status})")
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else None
        for block in _blocks(response):
            stream.write(block)
            done += len(block)
            transport.tell(name, done, total)
            if transport.stopped.is_set():
                raise _TransferError("stopped")
            if done > MAX_BYTES:
                stream.truncate(0)
                raise _TransferError(f"sent more than {MAX_BYTES} bytes")
    if total is not None and done < total:
        raise _TransferError(f"broke off after {done} of {total} bytes")


def _request(url: str, start: int, transport: _Transport) -> Any:
    """Ask for a file from byte `start` on."""
    headers = {"User-Agent": f"kraken-bids/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    # Addresses come from our own tables, and the SHA-256 is checked.
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    try:
        response = transport.opener(request, timeout=transport.timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        transport.hosts.note(url, answered=True)
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _request(url, 0, transport)  # what is there is longer than the file
        raise _TransferError(f"HTTP status {error.code} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        transport.hosts.note(url, answered=False)
        raise _TransferError(_reason(error)) from error
    transport.hosts.note(url, answered=True)
    return response


def _blocks(response: Any) -> Iterator[bytes]:
    """What a response sends, as it comes: nothing is lost if it breaks off."""
    while True:
        try:
            block = response.read1(BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _TransferError(f"broke off: {_reason(error)}") from error
        if not block:
            return
        yield block


def _reason(error: Exception) -> str:
    """Say what went wrong in one line; urllib hides the reason inside."""
    return str(getattr(error, "reason", error)) or type(error).__name__


@contextlib.contextmanager
def _partial(file: PublishedFile, folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open what there is of a file, for this process alone.

    The name holds a part of the hash, so that bytes of two versions never meet. A process that
    finds it in use (or a disk without locks) has a file of its own, which does not stay.
    """
    with contextlib.ExitStack() as stack:
        path = folder / f".{file.name}.{file.sha256[:8]}.part"
        stream = stack.enter_context(
            os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        )
        if not _owned(stream, path):
            handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=folder)
            stream, path = stack.enter_context(os.fdopen(handle, "r+b")), Path(name)
            path.chmod(0o644)
            stack.callback(path.unlink, missing_ok=True)
        yield path, stream


def _owned(stream: BinaryIO, path: Path) -> bool:
    """Lock a file, and see that it was not renamed between opening and locking."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except OSError:
        return False
