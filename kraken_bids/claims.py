# SPDX-License-Identifier: MIT
"""Who works where: one run a working folder, also of runs that start at the same moment.

A claim is a small file beside the folder, made by a call that fails if it is there already, which
any file system can do; none has to know locks. It says which process of which machine (and
container) it belongs to, and is touched now and then. So a claim that nobody holds any more is
recognised: at once on the same machine, else by its not being touched for a while. Clocks of
different machines are not compared.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import ResourceError
from .storage import is_running_here, process_mark

_log = logging.getLogger(__name__)

#: A claim is touched that often; untouched for so long, it is nobody's.
TOUCH_SECONDS, ABANDONED_SECONDS = 5.0, 60.0
#: A hidden file of a process of another machine is a leftover if nothing was written to it for so
#: long.
LEFTOVER_SECONDS = 3600.0


@contextlib.contextmanager
def claimed(folders: Iterable[Path]) -> Iterator[None]:
    """Keep working folders for this run alone while the block runs.

    Parameters
    ----------
    folders
        They need not be there. The claim on ``work/x`` is the file ``work/.x.claim``.

    Raises
    ------
    ResourceError
        If another run works in one of them; nothing is claimed then.
    """
    with contextlib.ExitStack() as stack:
        claims = []
        for folder in folders:
            claim = folder.with_name(f".{folder.name}.claim")
            _take(claim, folder)
            stack.callback(_release, claim)
            claims.append(claim)
        stopped = threading.Event()
        toucher = threading.Thread(target=_keep, args=(claims, stopped), daemon=True)
        toucher.start()
        stack.callback(toucher.join)
        stack.callback(stopped.set)
        yield


def _take(claim: Path, folder: Path) -> None:
    """Make a claim, in place of one that nobody holds any more."""
    while not _make(claim, folder):
        holder = _read(claim)
        if _is_held(claim, holder):
            machine, _, mark = holder.partition(" ")
            process = mark.split("-")[1] if mark.count("-") == 2 else "of unknown number"
            raise ResourceError(
                f"another run (process {process} on {machine or 'another machine'}) works in "
                "this folder",
                where=str(folder),
                fix="Wait for it, or give this run another --work-dir.",
            )
        _remove_abandoned(claim, holder, folder)


def _make(claim: Path, folder: Path) -> bool:
    """Make a claim; False if there is one already."""
    made = False
    try:
        claim.parent.mkdir(parents=True, exist_ok=True)
        with claim.open("x", encoding="utf-8") as stream:
            made = True
            stream.write(_own())
    except OSError as error:
        if isinstance(error, FileExistsError) and claim.parent.is_dir():
            return False
        if made:
            claim.unlink(missing_ok=True)
        raise ResourceError(
            f"cannot be written: {error.strerror or error}",
            where=str(folder),
            fix="Give a --work-dir that you may write to, on a disk with room.",
        ) from error
    return True


def _own() -> str:
    """What this process writes into its claims."""
    return f"{socket.gethostname()} {process_mark()}"


def _read(claim: Path) -> str:
    try:
        return claim.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _is_held(claim: Path, holder: str) -> bool:
    """Whether the run that a claim names is there, asked for here or watched from afar."""
    running = is_running_here(holder.rpartition(" ")[2])
    if running is not None:
        return running
    _log.info("%s: claimed by a run elsewhere; looking whether that is alive", claim)
    first, end = _touched(claim), time.monotonic() + ABANDONED_SECONDS
    while time.monotonic() < end:
        time.sleep(TOUCH_SECONDS / 5)
        if (now := _touched(claim)) is None:
            return False
        if now != first:
            return True
    return False


def _touched(claim: Path) -> int | None:
    """When a claim was touched last; opened, since network file systems remember otherwise."""
    try:
        with claim.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return None


def _remove_abandoned(claim: Path, holder: str, folder: Path) -> None:
    """Remove a claim unless it is another's by now: several runs may find it abandoned.

    Only who has the claim on that right removes it, so that nobody removes what was made since.
    """
    right = claim.with_name(f"{claim.name}.takeover")
    _take(right, folder)
    try:
        if _read(claim) == holder:
            claim.unlink(missing_ok=True)
    finally:
        _release(right)


def _release(claim: Path) -> None:
    if _read(claim) == _own():
        claim.unlink(missing_ok=True)


def _keep(claims: list[Path], stopped: threading.Event) -> None:
    """Touch claims until told to stop."""
    while not stopped.wait(TOUCH_SECONDS):
        for claim in claims:
            with contextlib.suppress(OSError):
                os.utime(claim)


def is_abandoned(folder: Path) -> bool:
    """Whether a working folder is claimed by a process of this machine that has ended."""
    mark = _read(folder.with_name(f".{folder.name}.claim")).rpartition(" ")[2]
    return is_running_here(mark) is False


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Delete the hidden temporary files that killed runs left in these folders.

    Files of runs that may still be at work stay: somebody may have started a participant twice.
    """
    for folder in folders:
        found = [(path, path.name.split(".")[-2]) for path in _temporary(folder)]
        oldest = clock(folder) - LEFTOVER_SECONDS if found else 0.0
        for path, mark in found:
            running = is_running_here(mark)
            with contextlib.suppress(OSError):
                if running is None:
                    running = path.stat().st_mtime > oldest
                if not running:
                    path.unlink()


def _temporary(folder: Path) -> list[Path]:
    # `atomic_path` names them .<name of the output>.<mark of the process>.<8 random characters>
    marks = "[0-9a-f]" * 8 + "-*-*"
    return [path for path in folder.rglob(f".*.{marks}.????????") if path.is_file()]


def clock(folder: Path) -> float:
    """What time it is for the file system, which need not be this machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock") as probe:
        return os.fstat(probe.fileno()).st_mtime
