# SPDX-License-Identifier: MIT
"""A process with little memory and time, for what may crash, hang or ask for too much."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security import damage

#: Bytes of addresses beyond what the process has: an absurd size is refused, not mapped.
ADDRESS_BYTES = 2 << 30
#: Seconds that the work may take, on a busy machine.
TIMEOUT_S = 60


def _in_child(work: Callable[[], list[str]], *, seconds: int = TIMEOUT_S) -> list[str]:
    """Do work in a process with little memory and time; give what it found wrong."""
    sys.stdout.flush()
    sys.stderr.flush()
    from_child, to_parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(from_child)
        found = ["the child ended before its time"]
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + ADDRESS_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            found = work()
        except BaseException:  # noqa: BLE001 (told to the parent)
            found = [traceback.format_exc()]
        finally:
            with os.fdopen(to_parent, "wb") as stream_:
                pickle.dump(found, stream_)
            os._exit(0)
    os.close(to_parent)
    with os.fdopen(from_child, "rb") as stream_:
        is_ready = select.select([stream_], [], [], seconds)[0]
        if not is_ready:
            os.kill(pid, signal.SIGKILL)
        content = stream_.read()
    _, status = os.waitpid(pid, 0)
    if not is_ready:
        return [f"is not done after {seconds} s"]
    if not content:
        return [f"the process ended by signal {os.WTERMSIG(status)}"]
    found = pickle.loads(content)
    assert isinstance(found, list)
    return found


@pytest.fixture
def in_child() -> Callable[..., list[str]]:
    """Does work in a child process; gives what it found wrong."""
    return _in_child


@pytest.fixture
def read_damaged(tmp_path: Path) -> Callable[..., list[str]]:
    """Tries a kind of file in a child process; gives what its reader said in other words."""

    def read_damaged(kind: str, make: damage.Make, **options: bool) -> list[str]:
        return _in_child(lambda: damage.read_damaged(kind, make, tmp_path, **options))

    return read_damaged
