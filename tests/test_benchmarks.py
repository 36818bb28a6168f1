# SPDX-License-Identifier: MIT
"""What the benchmarks measure with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURED = Path(__file__).parents[1] / "benchmarks" / "measured.py"

#: Two programs at a time that hold 150 MB each, below a shell that holds little.
HOLD = "import time; x = bytearray(150_000_000); x[::4096] = x[::4096]; time.sleep(1.5)"


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux only")
def test_memory_of_all_processes_is_summed():
    command = f"'{sys.executable}' -c '{HOLD}' & '{sys.executable}' -c '{HOLD}' & wait; exit 3"
    done = subprocess.run(
        [sys.executable, str(MEASURED), "sh", "-c", command],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 3
    assert 0.15 < found["largest_gb"] < 0.25
    assert 0.3 < found["pss_gb"] <= found["rss_gb"] < 0.4
    assert found["wall_s"] >= 1.5
    assert 0 < found["cpu_s"] < found["wall_s"] * 2
