# SPDX-License-Identifier: MIT
"""Runs a command, and tells CPU time and peak memory of it and of all that it starts.

Memory is looked at ten times a second, summed over all processes that are there at that moment:
what each holds (RSS: pages that several share count for each of them), and its part of what is
shared (PSS: the sum is what the machine has to give). Linux only.

    python benchmarks/measured.py COMMAND [ARGUMENTS]

The last line is JSON: ``code``, ``cpu_s``, ``wall_s``, ``largest_gb`` (peak of the largest
process), ``rss_gb`` and ``pss_gb`` (peaks of the sums).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

PERIOD_S = 0.1


def family(pid: int) -> list[int]:
    """A process and all that it has started, directly or not."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The program's name may hold blanks and brackets: fields start after the last.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended since
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue += children.get(found[-1], [])
    return found


def memory_gb(pids: list[int]) -> tuple[float, float]:
    """Memory of some processes together: sum of RSS, sum of PSS."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:  # ended since
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0])
    return sums["Rss"] * 1024 / 1e9, sums["Pss"] * 1024 / 1e9


def measure(command: list[str]) -> dict[str, float]:
    """Run a command to its end; see the module for what is given."""
    start, rss, pss = time.monotonic(), 0.0, 0.0
    with subprocess.Popen(command) as running:
        while running.poll() is None:
            now = memory_gb(family(running.pid))
            rss, pss = max(rss, now[0]), max(pss, now[1])
            time.sleep(PERIOD_S)
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "code": running.returncode,
        "cpu_s": use.ru_utime + use.ru_stime,
        "wall_s": time.monotonic() - start,
        "largest_gb": use.ru_maxrss * 1024 / 1e9,
        "rss_gb": rss,
        "pss_gb": pss,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
