# SPDX-License-Identifier: MIT
"""--status of a cohort that several jobs work on: at work, killed, done, not started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def words(data: Path, root: Path, *participants: str) -> list[str]:
    """A job of some participants, with a work folder of its own."""
    return [
        str(data), str(root / "results"), "participant", "--participant-label", *participants,
        "--modality", "func", "--atlases", "fs86", "-w", str(root / "work" / participants[0]),
        "--nprocs", "1",
    ]  # fmt: skip


def table(text: str) -> dict[str, str]:
    """State of each participant; under an empty name, the last line."""
    rows = [line for line in text.splitlines() if line.startswith("sub-")]
    state = {row.split()[0]: row.partition("  ")[2].strip() for row in rows}
    return state | {"": text.splitlines()[-1]}


def test_status_follows_the_jobs_of_a_cohort(demo_data, run, tmp_path):
    def status() -> dict[str, str]:
        told = run(*words(demo_data, tmp_path, "01", "02", "03"), "--status")
        assert told.code == 0, told.text
        return table(told.text)

    assert status()["sub-01"] == "not started"
    first = run(*words(demo_data, tmp_path, "01"))
    assert first.code == 0, first.text
    assert "sub-01: started, " in first.text
    assert "sub-01: done in " in first.text
    assert f"page: {tmp_path}/results/sub-01.html" in first.text

    command = [sys.executable, "-m", "kraken_bids", *words(demo_data, tmp_path, "02")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        logs = tmp_path / "results" / "logs" / "sub-02"
        deadline = time.monotonic() + 120
        while not list(logs.glob("*/progress.json")):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGSTOP)
        while_at_work = status()
        running.kill()
    after = status()

    assert while_at_work["sub-01"].startswith("done         in ")
    assert while_at_work["sub-02"].startswith("running      step ")
    assert "1 of 3 done, 1 running, 1 not started; about " in while_at_work[""]
    assert while_at_work[""].endswith(" left with 1 at a time")
    assert after["sub-02"].startswith("stopped      at step ")
    assert after["sub-02"].endswith("was killed; run it again")

    rest = run(*words(demo_data, tmp_path, "02", "03"))
    assert rest.code == 0, rest.text
    told = [line for line in rest.text.splitlines() if line.startswith("sub-0")]
    assert next(line for line in told if "done in" in line).startswith("sub-02: done in ")
    assert "(1 of 2" in rest.text
    assert "(2 of 2)" in rest.text
    assert f"pages: {tmp_path}/results/sub-*.html" in rest.text
    assert status()[""] == "3 of 3 done"
