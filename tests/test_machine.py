# SPDX-License-Identifier: MIT
"""What the machine lends."""

import os
import subprocess
import sys

import pytest

from kraken_bids import machine
from kraken_bids.errors import UsageError
from kraken_bids.machine import available_cores, available_memory_gb, beyond_limits, parse_memory


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("8", 8), ("8G", 8), ("1.5G", 1.5), ("8g", 8), ("8 GB", 8), ("500MB", 0.5), ("1T", 1000),
     ("2GiB", 2 * 1.024**3)],
)  # fmt: skip
def test_memory_is_read_in_every_spelling(text, gigabytes):
    assert parse_memory(text) == pytest.approx(gigabytes)


@pytest.mark.parametrize("text", ["", "G", "0", "eight", "-1G", "8X"])
def test_other_memory_is_refused(text):
    with pytest.raises(UsageError, match="not an amount of memory"):
        parse_memory(text)


@pytest.fixture
def no_groups(monkeypatch):
    """A machine whose control groups have no limits."""
    monkeypatch.setattr(machine, "memory_limits", list)
    monkeypatch.setattr(machine, "core_limits", list)


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": "64"},
        {"SLURM_CPUS_ON_NODE": "1"},
        {"NCPUS": "1"},
        {"PBS_NUM_PPN": "1"},
        {"NSLOTS": "1"},
        {"LSB_DJOB_NUMPROC": "1"},
    ],
    ids=lambda environ: next(iter(environ)),
)
@pytest.mark.usefixtures("no_groups")
def test_cores_of_the_scheduler_limit_those_of_the_machine(monkeypatch, environ):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(32)))
    assert available_cores(environ) == 1
    assert available_cores({}) == 32


@pytest.mark.usefixtures("no_groups")
def test_least_limit_counts(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(32)))
    monkeypatch.setattr(machine, "core_limits", lambda: [16.0, 3.5])
    assert available_cores({"SLURM_CPUS_PER_TASK": "8"}) == 3
    monkeypatch.setattr(machine, "core_limits", lambda: [0.2])
    assert available_cores({}) == 1


@pytest.mark.usefixtures("no_groups")
@pytest.mark.parametrize(
    ("environ", "mebibytes"),
    [
        ({"SLURM_MEM_PER_NODE": "100"}, 100),
        ({"SLURM_MEM_PER_CPU": "50", "SLURM_CPUS_ON_NODE": "4"}, 200),
        ({"SLURM_MEM_PER_CPU": "50", "SLURM_CPUS_PER_TASK": "2"}, 100),
        ({"SLURM_MEM_PER_CPU": "50"}, 50),
    ],
)
def test_memory_of_the_scheduler_limits_that_of_the_machine(environ, mebibytes):
    assert available_memory_gb(environ) == pytest.approx(0.9 * mebibytes * 1024**2 / 1e9)


@pytest.mark.usefixtures("no_groups")
def test_no_limit_of_the_scheduler_is_none():
    assert available_memory_gb({"SLURM_MEM_PER_NODE": "0"}) == available_memory_gb({})


@pytest.mark.usefixtures("no_groups")
def test_what_is_asked_for_beyond_the_limits_is_told(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(32)))
    job = {"SLURM_CPUS_PER_TASK": "4", "SLURM_MEM_PER_NODE": "1000"}
    assert beyond_limits(4, 1.04, job) == []
    threads, memory = beyond_limits(8, 1.1, job)
    assert threads.startswith("--nprocs 8: job, container or machine lend 4 core(s)")
    assert memory.startswith("--mem 1.1G: job, container or machine lend 1.05 GB")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_cores_that_a_process_is_bound_to_are_the_default():
    first = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{first}}})\n"
        "from kraken_bids.machine import available_cores; print(available_cores({}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_memory_that_a_process_may_address_is_the_default():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
        "from kraken_bids.machine import available_memory_gb; print(available_memory_gb({}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(0.9)
