# SPDX-License-Identifier: MIT
"""What the machine lends."""

import pytest

from kraken_bids.errors import UsageError
from kraken_bids.machine import available_cores, available_memory_gb, parse_memory


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


def test_cores_of_the_scheduler_limit_those_of_the_machine():
    assert available_cores({"SLURM_CPUS_PER_TASK": "1"}) == 1
    assert available_cores({}) >= 1


def test_memory_of_the_scheduler_limits_that_of_the_machine():
    assert available_memory_gb({"SLURM_MEM_PER_NODE": "100"}) == pytest.approx(0.9 * 0.1048576)
