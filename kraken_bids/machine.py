# SPDX-License-Identifier: MIT
"""What this machine lends: cores and memory of the cgroup or the scheduler, not of the host."""

from __future__ import annotations

import os
import re
import resource
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .cgroups import core_limits, memory_limits
from .errors import UsageError

#: Environment variables in which schedulers say how many cores a job has on its machine, the most
#: exact one of each first: Slurm, PBS Pro, Torque, Grid Engine, LSF.
CORE_VARIABLES = (
    "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "PBS_NCPUS", "NCPUS", "PBS_NUM_PPN", "NSLOTS",
    "LSB_DJOB_NUMPROC",
)  # fmt: skip
#: Environment variables with a job's own disk.
SCRATCH_VARIABLES = ("SLURM_TMPDIR", "PBS_JOBFS", "TMPDIR")
#: Part of the memory that is taken where none is asked for.
MEMORY_SHARE = 0.9

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
    limits.append(next(filter(None, (_whole(environ, name) for name in CORE_VARIABLES)), None))
    limits += [max(1, int(cores)) for cores in core_limits()]
    return max(1, min(limit for limit in limits if limit))


def available_memory_gb(environ: Mapping[str, str] = os.environ) -> float:
    """Memory in GB that this process may use.

    90 % of the least of what scheduler, cgroups, resource limits (``ulimit -v``, by which Grid
    Engine and Torque hold jobs) and the machine allow.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *memory_limits()]
    limits += _slurm_memory(environ)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return MEMORY_SHARE * min(limits) / 1e9


def beyond_limits(
    n_procs: int, mem_gb: float, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """Say what of the threads and memory asked for this process will not get.

    Parameters
    ----------
    n_procs
        Threads in all.
    mem_gb
        Memory in GB.
    environ
        Environment variables.
    """
    told = []
    cores, memory_gb = available_cores(environ), available_memory_gb(environ) / MEMORY_SHARE
    if n_procs > cores:
        told.append(
            f"--nprocs {n_procs}: job, container or machine lend {cores} core(s); more threads "
            "than that slow each other down"
        )
    if mem_gb > memory_gb:
        told.append(
            f"--mem {mem_gb:.3g}G: job, container or machine lend {memory_gb:.3g} GB; steps that "
            "take more are killed"
        )
    return told


def _slurm_memory(environ: Mapping[str, str]) -> list[int]:
    """What Slurm lends on this machine, in bytes; it says it in MiB, in all or for each core."""
    mebibytes = _whole(environ, "SLURM_MEM_PER_NODE")
    if not mebibytes:
        cores = _whole(environ, "SLURM_CPUS_ON_NODE") or _whole(environ, "SLURM_CPUS_PER_TASK")
        mebibytes = _whole(environ, "SLURM_MEM_PER_CPU") * max(cores, 1)
    return [mebibytes * 1024**2] if mebibytes else []


def _whole(environ: Mapping[str, str], variable: str) -> int:
    """A whole number; 0 if there is none, which is how Slurm says that there is no limit."""
    text = environ.get(variable, "")
    return int(text) if text.isdigit() else 0


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
