# SPDX-License-Identifier: MIT
"""``kraken-submit``: arguments to scripts to jobs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..cli import make_parser, run_command
from ..errors import InputError, ResourceError, UsageError
from .options import level_options, make_submit_parser, with_absolute_paths

if TYPE_CHECKING:
    from ..settings import Settings
    from .submission import Record, Submission

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``kraken-submit``.

    Parameters
    ----------
    arguments
        Those of the command line if None.

    Returns
    -------
    int
        Exit code: 0 submitted, or nothing left to submit; 1 inputs of some participants are
        missing (the others are submitted); 2 usage; 3 inputs or resources; 70 internal error.
    """
    parser = make_submit_parser()
    namespace = parser.parse_args(arguments)
    return run_command(lambda: _submit(namespace, parser), namespace, prog="kraken-submit")


def _submit(namespace: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from ..arguments import apply_config
    from ..run import new_run_id
    from .submission import plan_submission

    if namespace.config_file:
        apply_config(namespace, parser, file=namespace.config_file)
    _refuse_questions(namespace)
    record = _last_record(namespace, parser)
    namespace = with_absolute_paths(namespace)
    settings = _check_levels(namespace)
    labels, n_problems = (
        ([], 0) if namespace.level == "group" else _participants(settings["participant"])
    )
    if record is not None:
        labels = [label for label in labels if label in record.labels]
    if not labels and namespace.level == "participant":
        _log.info("nothing to submit: all participants are done")
        return 0
    if not labels and record is not None and _is_group_done(settings["group"]):
        _log.info("nothing to submit: all participants and the group level are done")
        return 0
    submission = plan_submission(namespace, labels, settings=settings, run_id=new_run_id())
    _warn(submission)
    if namespace.dry_run:
        for name, content in submission.files.items():
            print(f"# ---- {submission.folder / name}\n{content}")
    else:
        _hand_over(submission)
    return 1 if n_problems else 0


def _refuse_questions(namespace: argparse.Namespace) -> None:
    """Who asks how things stand shall not start a cohort."""
    for name in ("status", "reports_only", "boilerplate_only"):
        if getattr(namespace, name):
            option = f"--{name.replace('_', '-')}"
            level = "group" if namespace.level == "group" else "participant"
            raise UsageError(
                "this needs no jobs, and none were submitted",
                where=option,
                fix=f"Run kraken-bids {namespace.bids_dir} {namespace.output_dir} {level} "
                f"{option}, with the options of the jobs.",
            )


def _last_record(namespace: argparse.Namespace, parser: argparse.ArgumentParser) -> Record | None:
    """With ``--retry-failed``: the last submission, whose options stand where none are typed."""
    if not namespace.retry_failed:
        return None
    from pathlib import Path

    from ..arguments import apply_config
    from .submission import OPTIONS, last_submission, queued_jobs, read_record

    folder = last_submission(Path(namespace.output_dir).expanduser().absolute())
    record = read_record(folder)
    queued = queued_jobs(record)
    if queued:
        raise InputError(
            f"jobs of the last submission still wait or run: {', '.join(queued)}",
            where=str(folder),
            fix="Wait until they have ended, or cancel them.",
        )
    apply_config(namespace, parser, file=str(folder / OPTIONS))
    if "level" not in namespace.given:
        namespace.level = record.level
    return record


def _is_group_done(settings: Settings) -> bool:
    """Whether the group level has nothing left to do; raises what its job would."""
    from ..run_group import is_group_done

    return is_group_done(settings)


def _check_levels(namespace: argparse.Namespace) -> dict[str, Settings]:
    """Check the options of all levels as their jobs will; their settings by level."""
    from ..arguments import settings_from
    from .submission import fill_resources

    parser = make_parser()
    levels = ("participant", "group") if namespace.level == "both" else (namespace.level,)
    checked: dict[str, Settings] = {}
    for level in levels:
        options = level_options(namespace, level, parser=parser)
        options.participant_label = namespace.participant_label
        fill_resources(options)
        # A model that is not at hand is not fetched here.
        options.dry_run = namespace.dry_run or level == "group"
        # Nodes have their own programs, by a module or in a container.
        checked[level] = settings_from(options, parser, runs_here=False)
        if level == "group" and checked[level].translation.model_dir is None:
            name = namespace.model or "krakencoder-2024"
            raise ResourceError(
                f"the model {name} is not on this machine, and nodes of a cluster often have "
                "no network",
                where="--model",
                fix=f"Run kraken-model fetch {name} first.",
            )
    return checked


def _participants(settings: Settings) -> tuple[list[str], int]:
    """Participants with something to do, and the number of sessions with problems."""
    from ..run import plan_work

    work = plan_work(settings)
    for plan in work.plans:
        for problem in plan.problems:
            _log.error("%s: %s", plan.label, problem)
    labels = list(dict.fromkeys(plan.participant for plan in work.todo))
    n_all = len({plan.participant for plan in work.plans})
    _log.info("%d of %d participants have work to do", len(labels), n_all)
    return labels, sum(bool(plan.problems) for plan in work.plans)


def _warn(submission: Submission) -> None:
    if submission.group and submission.arrays and not submission.group_needs_all:
        _log.info("the group level will run with those participants that have succeeded")
    if submission.group and not submission.arrays:
        _log.info("all participants are done: the group job waits for none")


def _hand_over(submission: Submission) -> None:
    from .submission import submit, write_submission

    write_submission(submission)
    ids = submit(submission)
    for job in submission.jobs:
        tasks = f", {job.n_tasks} tasks" if job.is_array else ""
        _log.info("%s: job %s%s", job.name, ids[job.name], tasks)
    _log.info("scripts and logs: %s", submission.folder)
