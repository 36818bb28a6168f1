# SPDX-License-Identifier: MIT
"""What this machine lends: cores and memory of the cgroup or the scheduler, not of the host."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .errors import UsageError

#: Environment variables in which schedulers say how many cores a job has, Slurm first.
CORE_VARIABLES = ("SLURM_CPUS_PER_TASK", "PBS_NCPUS", "NCPUS", "NSLOTS", "LSB_DJOB_NUMPROC")
#: Environment variables with a job's own disk.
SCRATCH_VARIABLES = ("SLURM_TMPDIR", "PBS_JOBFS", "TMPDIR")
#: Limits beyond this are "no limit" in cgroup files.
UNLIMITED_BYTES = 2**60

_FACTORS = {"": 1.0, "K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}


def parse_memory(text: str, *, unit: str = "G") -> float:
    """Read an amount of memory in GB.

    Parameters
    ----------
    text
        A number with or without unit: ``8G``, ``1.5g``, ``8 GB``, ``7500MB``, ``4GiB``.
    unit
        Unit of a bare number: ``G`` or ``M``.

    Raises
    ------
    UsageError
        If the text is no positive amount.

    Examples
    --------
    >>> parse_memory("1.5 gb"), parse_memory("7500M"), parse_memory("8000", unit="M")
    (1.5, 7.5, 8.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(
            f"'{text}' is not an amount of memory", where="--mem", fix="Write it as 8G or 7500MB."
        )
    letter = match[2].upper() or unit
    amount = float(match[1]) * _FACTORS[letter]
    binary = {"K": 1.024, "M": 1.024**2, "G": 1.024**3, "T": 1.024**4}
    return amount * binary[letter] if match[3] else amount


def available_cores(environ: Mapping[str, str] = os.environ) -> int:
    """Cores that this process may use: the least of scheduler, cgroup and affinity."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()]
    for variable in CORE_VARIABLES:
        if environ.get(variable, "").isdigit():
            limits.append(int(environ[variable]))
            break
    for quota, period in _cgroup_quotas():
        limits.append(max(1, quota // period))
    return max(1, min(limit for limit in limits if limit))


def _cgroup_quotas() -> list[tuple[int, int]]:
    root = Path("/sys/fs/cgroup")
    found = []
    fields = _read(root / "cpu.max").split()
    if len(fields) == 2 and fields[0].isdigit():
        found.append((int(fields[0]), int(fields[1])))
    quota = _read(root / "cpu" / "cpu.cfs_quota_us")
    period = _read(root / "cpu" / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(quota) > 0:
        found.append((int(quota), int(period)))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def available_memory_gb(environ: Mapping[str, str] = os.environ) -> float:
    """Memory in GB that this process may use: 90 % of the least of scheduler, cgroup and host."""
    page_size, n_pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    limits = [page_size * n_pages / 1e9]
    if environ.get("SLURM_MEM_PER_NODE", "").isdigit():
        limits.append(int(environ["SLURM_MEM_PER_NODE"]) * 1024**2 / 1e9)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(Path("/sys/fs/cgroup") / name)
        if text.isdigit() and int(text) < UNLIMITED_BYTES:
            limits.append(int(text) / 1e9)
    return 0.9 * min(limits)


def default_work_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """A job's own disk if the scheduler gives one, else the system's temporary folder."""
    for variable in SCRATCH_VARIABLES:
        if environ.get(variable):
            return Path(environ[variable]) / "kraken-bids"
    return Path(tempfile.gettempdir()) / f"kraken-bids-{os.getuid()}"


#: ``5ttgen`` and what it calls beside MRtrix3's own programs, by its algorithm. ``hsvs`` makes use
#: of FSL where it is there; of FreeSurfer it reads files only.
FIVE_TISSUE_PROGRAMS: dict[str, tuple[str, ...]] = {
    "hsvs": ("5ttgen",),
    "fsl": ("5ttgen", "bet", "fast", "run_first_all"),
}


def missing_five_tissue_programs(
    source: str, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Say what is not there that a source of five-tissue images needs.

    Parameters
    ----------
    source
        A key of `FIVE_TISSUE_PROGRAMS`; others need nothing.
    environment
        Environment variables; those of this process if None.
    """
    environment = os.environ if environment is None else environment
    programs = FIVE_TISSUE_PROGRAMS.get(source, ())
    path = environment.get("PATH")
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if source == "fsl":
        root = environment.get("FSLDIR", "")
        models = Path(root) / "data" / "first" / "models_336_bin"
        if not root:
            missing.append("the environment variable FSLDIR")
        elif not models.is_dir():
            missing.append(f"FIRST's models {models}")
    return tuple(missing)
