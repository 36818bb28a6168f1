# SPDX-License-Identifier: MIT
from __future__ import annotations

import errno
import gc
import os
import tempfile

import numpy as np
import pytest

from kraken_bids.errors import ResourceError
from kraken_bids.formats.reading.records import Spool


def test_a_spool_gives_back_what_was_laid_down(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    spool = Spool(values.nbytes)
    spool.write(16, values[1:].T)  # in C order, whatever way it lay
    spool.write(0, values[0])
    np.testing.assert_array_equal(spool.read(16, (4, 2), np.float32), values[1:].T)
    np.testing.assert_array_equal(spool.read(0, (4,), np.float32), values[0])


def test_a_spool_leaves_no_file_and_no_handle(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool(8)
    assert not list(tmp_path.iterdir())  # gone even if the program is killed
    handle = spool._handle
    del spool
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_a_full_disk_is_told_with_the_way_out(monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = Spool(3_000_000)
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(ResourceError, match=r"hold 3 MB for a time: No space .*Set TMPDIR to"):
        spool.write(0, np.zeros(4))


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(ResourceError, match="Set TMPDIR"):
        Spool(1)
