# SPDX-License-Identifier: MIT
"""How far a run is with a session, in a small file that ``--status`` reads from any machine.

A trace lies with the logs of a run (``logs/sub-01/RUN/progress.json``). Only the run itself writes
it: at every step, and now and then in between, so that a run that was killed is recognised by its
silence. None has to know locks, and clocks of different machines are not compared.
"""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass
from pathlib import Path

from .bids.writers import write_json
from .storage import is_running_here, load_json, process_mark

#: Name of the file.
TRACE = "progress.json"
#: It is written that often at least; a run of another machine that is silent for so long is dead.
BEAT_SECONDS, SILENT_SECONDS = 30.0, 300.0

RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"


@dataclass(frozen=True)
class Trace:
    """How far a run was with a session when it said so last.

    Parameters
    ----------
    state
        ``running``, ``done``, ``failed`` or ``stopped`` (interrupted).
    n_steps, n_done
        Steps of the session, and those that are done.
    seconds
        Time since its first step began.
    started
        When that was, by the clock of the machine: for people.
    at_work
        Steps that are run now.
    failures
        What went wrong.
    machine, process
        Who works on it; see `kraken_bids.storage.process_mark`.
    """

    state: str
    n_steps: int
    n_done: int = 0
    seconds: float = 0.0
    started: str = ""
    at_work: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    machine: str = dataclasses.field(default_factory=socket.gethostname)
    process: str = dataclasses.field(default_factory=process_mark)


def write_trace(log_dir: Path, trace: Trace) -> None:
    """Write the trace of a session to the folder of its logs.

    Raises
    ------
    ResourceError
        If it cannot be written.
    """
    write_json(log_dir / TRACE, dataclasses.asdict(trace))


def find_trace(logs_dir: Path) -> Path | None:
    """The trace of the last run in a folder with a folder a run, or None."""
    found = []
    for path in logs_dir.glob(f"*/{TRACE}"):
        try:
            found.append((path.stat().st_mtime_ns, path))
        except OSError:  # put anew in this moment
            continue
    return max(found)[1] if found else None


def read_trace(file: Path) -> Trace | None:
    """Read a trace; one that cannot be read says nothing."""
    try:
        content = load_json(file)
        return Trace(
            state=str(content["state"]),
            n_steps=int(content["n_steps"]),
            n_done=int(content["n_done"]),
            seconds=float(content["seconds"]),
            started=str(content["started"]),
            at_work=tuple(map(str, content["at_work"])),
            failures=tuple(map(str, content["failures"])),
            machine=str(content["machine"]),
            process=str(content["process"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def silence_s(file: Path, now: float) -> float:
    """How long nothing was written to a trace, by the file system's own clock.

    Parameters
    ----------
    file
        The trace.
    now
        What time it is for the file system; see `kraken_bids.claims.clock`.
    """
    try:
        return max(now - file.stat().st_mtime, 0.0)
    except OSError:
        return 0.0


def is_alive(trace: Trace, *, silent_s: float) -> bool:
    """Whether the run that left a trace is still at work."""
    if trace.state != RUNNING:
        return False
    running = is_running_here(trace.process)
    return silent_s < SILENT_SECONDS if running is None else running
