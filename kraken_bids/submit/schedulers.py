# SPDX-License-Identifier: MIT
"""How each scheduler is spoken to: a row a scheduler.

What differs between them is the spelling of a request, the variable that numbers the tasks of an
array, and how one job waits for another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import ResourceError
from .jobs import Job


@dataclass(frozen=True)
class Scheduler:
    """One scheduler.

    Parameters
    ----------
    name
        As given to ``--scheduler``.
    program
        Its command for submitting.
    prefix
        What begins a line of directives.
    directives
        Lines for a job, without `prefix`.
    task_variable
        Environment variable with the number of a task, from 1; it may be unset or without a
        number in a job that is no array.
    waiting
        Words of the command line by which a job waits for others, given their ids and whether
        all of them must have succeeded.
    id_pattern
        Finds a job's id in what `program` prints.
    max_array_size
        Most tasks of one array where the site does not say.
    asking
        Words that list a job, given its id, while it waits or runs.
    ended
        Finds the lines of that list that are of tasks that have ended, for schedulers that go on
        listing them; empty for the others.
    from_stdin
        Whether the script is read from standard input.
    knows_success
        Whether a job can wait for the success of others, not only for their end.
    """

    name: str
    program: tuple[str, ...]
    prefix: str
    directives: Callable[[Job], list[str]]
    task_variable: str
    waiting: Callable[[Sequence[str], bool], list[str]]
    id_pattern: str
    max_array_size: int
    asking: tuple[str, ...]
    ended: str = ""
    from_stdin: bool = False
    knows_success: bool = True

    def read_id(self, printed: str) -> str:
        """Find the job's id in what the scheduler printed.

        Raises
        ------
        ResourceError
            If there is none.
        """
        found = re.search(self.id_pattern, printed, re.MULTILINE)
        if found is None:
            raise ResourceError(
                f"{self.program[0]} gave no job id, but: {printed.strip() or 'nothing'}",
                fix="Look with the scheduler's own commands whether the job was accepted.",
            )
        return found[1]

    def is_queued(self, printed: str) -> bool:
        """Whether a list, as `asking` gives it, holds a task that has not ended."""
        lines = [
            line
            for line in printed.splitlines()
            # heads of tables hold no number
            if re.search(r"\d", line) and not (self.ended and re.search(self.ended, line))
        ]
        return bool(lines)


def _clock(minutes: int) -> str:
    """``HH:MM:00``."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def _mebibytes(gigabytes: float) -> int:
    return math.ceil(gigabytes * 1e9 / 2**20)


def _with(value: str, text: str) -> list[str]:
    """The directive, if there is a value for it."""
    return [text] if value else []


def _slurm(job: Job) -> list[str]:
    request = job.request
    limit = f"%{job.at_once}" if job.at_once else ""
    log = "%x-%A_%a.log" if job.is_array else "%x-%j.log"
    return [
        f"--job-name={job.name}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={request.n_cpus}",
        f"--mem={_mebibytes(request.mem_gb)}M",
        f"--time={_clock(request.minutes)}",
        f"--output={job.folder}/{log}",
        *([f"--array=1-{job.n_tasks}{limit}"] if job.is_array else []),
        *([f"--gres=gpu:{request.n_gpus}"] if request.n_gpus else []),
        *_with(request.queue, f"--partition={request.queue}"),
        *_with(request.account, f"--account={request.account}"),
        *request.extra,
    ]


def _wait_slurm(ids: Sequence[str], all_must_succeed: bool) -> list[str]:
    kind = "afterok" if all_must_succeed else "afterany"
    # Without the second word a job whose condition can no longer come true waits for ever.
    return [f"--dependency={kind}:{':'.join(ids)}", "--kill-on-invalid-dep=yes"]


def _pbs(job: Job) -> list[str]:
    request = job.request
    chunk = f"select=1:ncpus={request.n_cpus}:mem={_mebibytes(request.mem_gb)}mb"
    chunk += f":ngpus={request.n_gpus}" if request.n_gpus else ""
    limit = f"%{job.at_once}" if job.at_once else ""
    return [
        f"-N {job.name}",
        f"-l {chunk}",
        f"-l walltime={_clock(request.minutes)}",
        "-j oe",
        f"-o {job.folder}/",
        *([f"-J 1-{job.n_tasks}{limit}"] if job.is_array else []),
        *_with(request.queue, f"-q {request.queue}"),
        *_with(request.account, f"-A {request.account}"),
        *request.extra,
    ]


def _wait_pbs(ids: Sequence[str], all_must_succeed: bool) -> list[str]:
    kind = "afterok" if all_must_succeed else "afterany"
    return ["-W", f"depend={kind}:{':'.join(ids)}"]


def _torque(job: Job) -> list[str]:
    request = job.request
    node = f"nodes=1:ppn={request.n_cpus}"
    node += f":gpus={request.n_gpus}" if request.n_gpus else ""
    limit = f"%{job.at_once}" if job.at_once else ""
    return [
        f"-N {job.name}",
        f"-l {node}",
        f"-l mem={_mebibytes(request.mem_gb)}mb",
        f"-l walltime={_clock(request.minutes)}",
        "-j oe",
        f"-o {job.folder}/",
        *([f"-t 1-{job.n_tasks}{limit}"] if job.is_array else []),
        *_with(request.queue, f"-q {request.queue}"),
        *_with(request.account, f"-A {request.account}"),
        *request.extra,
    ]


def _wait_torque(ids: Sequence[str], all_must_succeed: bool) -> list[str]:
    kind = "afterok" if all_must_succeed else "afterany"
    arrays = [name for name in ids if "[]" in name]
    singles = [name for name in ids if "[]" not in name]
    parts = [f"{kind}array:{':'.join(arrays)}"] if arrays else []
    parts += [f"{kind}:{':'.join(singles)}"] if singles else []
    return ["-W", f"depend={','.join(parts)}"]


def _sge(job: Job) -> list[str]:
    request = job.request
    # Grid Engine counts memory for each slot.
    per_slot = math.ceil(_mebibytes(request.mem_gb) / request.n_cpus)
    return [
        f"-N {job.name}",
        "-S /bin/bash",
        "-cwd",
        *([f"-pe smp {request.n_cpus}"] if request.n_cpus > 1 else []),
        f"-l h_vmem={per_slot}M",
        f"-l h_rt={_clock(request.minutes)}",
        *([f"-l gpu={request.n_gpus}"] if request.n_gpus else []),
        "-j y",
        f"-o {job.folder}/",
        *([f"-t 1-{job.n_tasks}"] if job.is_array else []),
        *([f"-tc {job.at_once}"] if job.is_array and job.at_once else []),
        *_with(request.queue, f"-q {request.queue}"),
        *_with(request.account, f"-P {request.account}"),
        *request.extra,
    ]


def _wait_sge(ids: Sequence[str], all_must_succeed: bool) -> list[str]:
    del all_must_succeed  # it knows the end of a job only; the script of the group level looks
    return ["-hold_jid", ",".join(ids)]


def _lsf(job: Job) -> list[str]:
    request = job.request
    limit = f"%{job.at_once}" if job.at_once else ""
    name = f"{job.name}[1-{job.n_tasks}]{limit}" if job.is_array else job.name
    log = "%J_%I.log" if job.is_array else "%J.log"
    memory = _mebibytes(request.mem_gb)
    return [
        f'-J "{name}"',
        f"-n {request.n_cpus}",
        f'-R "span[hosts=1] rusage[mem={memory}MB]"',
        f"-M {memory}MB",
        f"-W {request.minutes // 60:02d}:{request.minutes % 60:02d}",
        f"-o {job.folder}/{job.name}-{log}",
        *([f'-gpu "num={request.n_gpus}"'] if request.n_gpus else []),
        *_with(request.queue, f"-q {request.queue}"),
        *_with(request.account, f"-P {request.account}"),
        *request.extra,
    ]


def _wait_lsf(ids: Sequence[str], all_must_succeed: bool) -> list[str]:
    kind = "done" if all_must_succeed else "ended"
    return ["-w", " && ".join(f"{kind}({name})" for name in ids)]


#: Schedulers by name.
SCHEDULERS: dict[str, Scheduler] = {
    scheduler.name: scheduler
    for scheduler in (
        Scheduler("slurm", ("sbatch", "--parsable"), "#SBATCH", _slurm, "SLURM_ARRAY_TASK_ID",
                  _wait_slurm, r"^(\d+)", 1000, ("squeue", "--noheader", "--jobs")),
        Scheduler("pbs", ("qsub",), "#PBS", _pbs, "PBS_ARRAY_INDEX",
                  _wait_pbs, r"^(\d+(?:\[\])?\S*)", 10_000, ("qstat",), r" [FX] "),
        Scheduler("torque", ("qsub",), "#PBS", _torque, "PBS_ARRAYID",
                  _wait_torque, r"^(\d+(?:\[\])?\S*)", 5000, ("qstat", "-t"), r" C "),
        Scheduler("sge", ("qsub", "-terse"), "#$", _sge, "SGE_TASK_ID",
                  _wait_sge, r"^(\d+)", 75_000, ("qstat", "-j"), knows_success=False),
        Scheduler("lsf", ("bsub",), "#BSUB", _lsf, "LSB_JOBINDEX",
                  _wait_lsf, r"<(\d+)>", 1000, ("bjobs", "-noheader"), r" (DONE|EXIT) ",
                  from_stdin=True),
    )
}  # fmt: skip
