# SPDX-License-Identifier: MIT
"""The shell scripts of the jobs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .jobs import Job
from .schedulers import Scheduler


def participant_script(job: Job, scheduler: Scheduler) -> str:
    """Script of an array: a task takes the participants of one line of the list.

    Parameters
    ----------
    job
        With `list_file`. Its command ends where ``--participant-label`` may follow.
    scheduler
        The one it is for.
    """
    labels = '--participant-label "${labels[@]}"'
    lines = [
        *_head(job, scheduler),
        f"list={shlex.quote(str(job.list_file))}",
        f"task=${{{scheduler.task_variable}:-1}}",
        'case "$task" in "" | *[!0-9]* | 0) task=1 ;; esac  # no array, but a single job',
        'read -r -a labels <<< "$(sed -n "${task}p" "$list")"',
        "if [ ${#labels[@]} -eq 0 ]; then",
        '    echo "line $task of $list names no participant" >&2',
        "    exit 2",
        "fi",
        "",
    ]
    command = f"{shlex.join(job.command)} {labels}"
    if scheduler.knows_success:
        # exec: signals of the scheduler reach the program itself, not a shell that waits for it
        return _joined([*lines, f"exec {command}"])
    return _joined([
        *lines,
        f"{command} &",
        "child=$!",
        "trap 'kill -TERM \"$child\"' TERM USR1 USR2 XCPU",
        'wait "$child"',
        "code=$?",
        '[ "$code" -lt 128 ] || { wait "$child"; code=$?; }  # a signal ended the first wait',
        f'[ "$code" -ne 0 ] || touch {shlex.quote(str(done_file(job)))}."$task"',
        'exit "$code"',
    ])


def group_script(job: Job, scheduler: Scheduler, *, arrays: Sequence[Job] = ()) -> str:
    """Script of the group level.

    Parameters
    ----------
    job
        The group job.
    scheduler
        The one it is for.
    arrays
        Those that must have succeeded, where the scheduler does not see to that.
    """
    checks = []
    for array in arrays:
        stem = shlex.quote(str(done_file(array)))
        checks += [
            f"for task in $(seq 1 {array.n_tasks}); do",
            f'    [ -e {stem}."$task" ] || missing="$missing {array.name}:$task"',
            "done",
        ]
    if checks:
        checks = [
            "missing=",
            *checks,
            'if [ -n "$missing" ]; then',
            '    echo "not run, for these tasks have failed:$missing" >&2',
            "    exit 1",
            "fi",
            "",
        ]
    return _joined([*_head(job, scheduler), *checks, f"exec {shlex.join(job.command)}"])


def done_file(job: Job) -> str:
    """Stem of the files by which tasks say that they have succeeded."""
    return f"{job.folder}/{job.name}.done"


def _head(job: Job, scheduler: Scheduler) -> list[str]:
    return [
        "#!/bin/bash",
        *(f"{scheduler.prefix} {line}" for line in scheduler.directives(job)),
        "",
        'export LOGNAME="${LOGNAME:-$(id -un)}"',
        *job.prologue,
        "set -u  # only now: what sites have people load often reads unset variables",
        "",
    ]


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
