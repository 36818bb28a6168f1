# SPDX-License-Identifier: MIT
"""What tells that a reader does not keep to our words, tried on readers that do not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.security.damage import Make, Read


def _broken(exception: BaseException) -> Make:
    """A kind of file whose reader does not keep to our words."""

    def make(folder: Path) -> tuple[Path, Read]:
        path = folder / "x"
        path.write_bytes(b"whole")

        def read() -> None:
            if path.read_bytes() != b"whole":
                raise exception

        return path, read

    return make


@pytest.mark.parametrize(
    "exception", [KeyError("x"), MemoryError(), RecursionError(), AssertionError("x")], ids=repr
)
def test_other_words_are_noticed(read_damaged, exception):
    assert type(exception).__name__ in "\n".join(read_damaged("broken", _broken(exception)))


def test_readers_that_notice_nothing_are_noticed(read_damaged):
    def make(folder: Path) -> tuple[Path, Read]:
        path = folder / "x"
        path.write_bytes(b"whole")
        return path, lambda: None

    assert read_damaged("blind", make) == ["no damage was noticed"]


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda: [str(len(bytearray(3 << 30)))], "MemoryError"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV) or [], "signal 11"),
        (lambda: signal.pause() or [], "not done after 2 s"),
    ],
    ids=["memory", "crash", "hang"],
)
def test_a_child_that_breaks_is_told(work, told, in_child):
    assert told in "\n".join(in_child(work, seconds=2))
