# SPDX-License-Identifier: MIT
"""What a job is to a scheduler, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """What every job asks its scheduler for.

    Parameters
    ----------
    n_cpus
        Cores of one task, on one node.
    mem_gb
        Memory of one task in GB (1e9 bytes).
    minutes
        Wall time of one task.
    n_gpus
        GPUs of one task.
    queue, account
        Partition or queue, and account or project; empty for the site's default.
    extra
        Further directives, as the scheduler spells them, without its prefix.
    """

    n_cpus: int
    mem_gb: float
    minutes: int
    n_gpus: int = 0
    queue: str = ""
    account: str = ""
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One job, or one array of jobs, of a cohort.

    Parameters
    ----------
    name
        Short name; also that of its script.
    command
        Words that are run, without those that differ between tasks.
    request
        Resources.
    folder
        Where lists and the scheduler's logs lie.
    list_file
        Labels of participants, a line a task; None for a job that is no array.
    n_tasks
        Lines of `list_file`; 1 without one.
    at_once
        Tasks that may run at the same time; 0 for as many as the site lets.
    prologue
        Lines of shell that come before the command.
    """

    name: str
    command: tuple[str, ...]
    request: Request
    folder: Path
    list_file: Path | None = None
    n_tasks: int = 1
    at_once: int = 0
    prologue: tuple[str, ...] = ()

    @property
    def is_array(self) -> bool:
        """Whether the scheduler is to make several tasks of it."""
        return self.n_tasks > 1
