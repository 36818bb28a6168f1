# SPDX-License-Identifier: MIT
"""From options to jobs: lists of participants, scripts, and how they were submitted."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..arguments import config_text
from ..bids.writers import write_json, write_text
from ..cli import make_parser
from ..errors import InputError, ResourceError, UsageError
from ..fetch import RESOURCES_VARIABLE, resource_dirs
from ..machine import parse_memory
from ..settings import Settings
from ..storage import load_json
from .jobs import Job, Request
from .options import level_options, parse_minutes
from .schedulers import SCHEDULERS, Scheduler
from .scripts import group_script, participant_script

#: Where submissions are kept in an output folder.
SUBMIT_DIR = Path("logs") / "submit"
#: What a submission was made of.
RECORD = "submission.json"
OPTIONS = "options.toml"
#: Cores and memory of a participant's job where the options name none.
JOB_CPUS, JOB_MEM = 4, "16G"


@dataclass(frozen=True)
class Submission:
    """The jobs of one call.

    Parameters
    ----------
    folder
        Where lists, scripts, configurations and logs lie.
    scheduler
        The one they are for.
    files
        Contents by name of file in `folder`.
    arrays
        Jobs of participants; may be empty.
    group
        The group job, or None.
    group_needs_all
        Whether it runs only if all participants have succeeded.
    labels
        Participants submitted.
    level
        ``participant``, ``group`` or ``both``.
    """

    folder: Path
    scheduler: Scheduler
    files: dict[str, str]
    arrays: tuple[Job, ...]
    group: Job | None
    group_needs_all: bool
    labels: tuple[str, ...]
    level: str = "both"

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in the order of their submission."""
        return (*self.arrays, *([self.group] if self.group else []))


def find_scheduler(name: str | None, *, which: object = None) -> Scheduler:
    """The scheduler of that name, or the one that is installed.

    Raises
    ------
    UsageError
        If none is named and none, or more than one, is found.
    """
    if name:
        return SCHEDULERS[name]
    from shutil import which as on_path

    find = which if callable(which) else on_path
    if find("sbatch"):
        return SCHEDULERS["slurm"]
    if find("bsub"):
        return SCHEDULERS["lsf"]
    raise UsageError(
        "which scheduler is meant? Neither sbatch nor bsub is on the path, and qsub is that of "
        "several"
        if find("qsub")
        else "no scheduler is on the path",
        where="--scheduler",
        fix=f"Name it: {', '.join(SCHEDULERS)}.",
    )


def plan_submission(
    namespace: argparse.Namespace,
    labels: Sequence[str],
    *,
    settings: Mapping[str, Settings],
    run_id: str,
) -> Submission:
    """Lay out the jobs of a call; nothing is written.

    Parameters
    ----------
    namespace
        Options, with absolute paths.
    labels
        Participants to submit; may be empty, if the group level is asked for.
    settings
        Of each level asked for, by its name.
    run_id
        Name of the submission's folder.

    Raises
    ------
    UsageError
        If options do not fit together.
    InputError
        If there is no image of that name, or no such file for ``--prologue``.
    """
    scheduler = find_scheduler(namespace.scheduler)
    output_dir = next(iter(settings.values())).output_dir
    folder = output_dir / SUBMIT_DIR / run_id
    if re.search(r"\s", str(folder)):
        raise UsageError(
            "schedulers cannot write logs to a folder with blanks in its name",
            where=str(output_dir),
            fix="Give an output folder without them.",
        )
    if namespace.container and not namespace.work_dir:
        raise UsageError(
            "a container needs a folder for scratch files that the nodes have",
            where="--container",
            fix="Name one: --work-dir /scratch/kraken.",
        )
    if namespace.container and not _image(namespace).exists():
        raise InputError(
            f"there is no image {_image(namespace)}",
            where="--container",
            fix="Check the path; docs/containers.md says how to build it.",
        )
    prologue = _prologue(namespace.prologue)
    files: dict[str, str] = {OPTIONS: config_text(namespace)}
    arrays: list[Job] = []
    parser = make_parser()
    if namespace.level != "group":
        options = level_options(namespace, "participant", parser=parser)
        fill_resources(options)
        files["participant.toml"] = config_text(options)
        base = Job(
            name="kraken",
            command=_command(namespace, "participant", folder, settings=settings["participant"]),
            request=_participant_request(namespace, options),
            folder=folder,
            at_once=namespace.at_once,
            prologue=(*prologue, *_folders_made(namespace, settings["participant"])),
        )
        arrays, lists = _arrays(base, labels, namespace, scheduler)
        files |= lists
    group = None
    if namespace.level != "participant":
        options = level_options(namespace, "group", parser=parser)
        files["group.toml"] = config_text(options)
        group = Job(
            name="kraken-group",
            command=_command(namespace, "group", folder, settings=settings["group"]),
            request=_group_request(namespace),
            folder=folder,
            prologue=(*prologue, *_folders_made(namespace, settings["group"])),
        )
    needs_all = namespace.group_if == "all-done"
    files |= {f"{job.name}.sh": participant_script(job, scheduler) for job in arrays}
    if group is not None:
        watched = arrays if needs_all and not scheduler.knows_success else []
        files[f"{group.name}.sh"] = group_script(group, scheduler, arrays=watched)
    return Submission(
        folder, scheduler, files, tuple(arrays), group, needs_all, tuple(labels), namespace.level
    )


def _arrays(
    base: Job, labels: Sequence[str], namespace: argparse.Namespace, scheduler: Scheduler
) -> tuple[list[Job], dict[str, str]]:
    """Arrays of at most the site's size, and their lists."""
    per_task = _at_least_one(namespace.participants_per_job, "--participants-per-job")
    most = namespace.max_array_size or site_array_size(scheduler)
    tasks = [" ".join(labels[at : at + per_task]) for at in range(0, len(labels), per_task)]
    chunks = [tasks[at : at + most] for at in range(0, len(tasks), most)]
    jobs, lists = [], {}
    for number, chunk in enumerate(chunks, start=1):
        name = f"{base.name}-{number}" if len(chunks) > 1 else base.name
        list_name = f"{name}.txt"
        lists[list_name] = "\n".join(chunk) + "\n"
        jobs.append(
            replace(base, name=name, list_file=base.folder / list_name, n_tasks=len(chunk))
        )
    return jobs, lists


def _at_least_one(value: int, option: str) -> int:
    if value < 1:
        raise UsageError(f"{value} is too small", where=option, fix="Give 1 or more.")
    return value


def site_array_size(scheduler: Scheduler) -> int:
    """Most tasks of one array: what Slurm says of this site, else a usual limit."""
    if scheduler.name == "slurm":
        try:
            told = subprocess.run(
                ("scontrol", "show", "config"),  # noqa: S607
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        except (OSError, subprocess.CalledProcessError):
            return scheduler.max_array_size
        for line in told.splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "MaxArraySize" and value.strip().isdigit():
                return max(int(value) - 1, 1)  # the largest index is one less
    return scheduler.max_array_size


def _prologue(file: str | None) -> tuple[str, ...]:
    if not file:
        return ()
    try:
        return tuple(Path(file).expanduser().read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read: {error}", where="--prologue", fix="Give a shell script."
        ) from error


def fill_resources(options: argparse.Namespace) -> None:
    """Fill in what a participant's job asks for where the options say nothing."""
    if options.nprocs is None:
        options.nprocs = JOB_CPUS
    if options.mem is None and options.mem_mb is None:
        options.mem = JOB_MEM


def _translates(namespace: argparse.Namespace, level: str) -> bool:
    """Whether the jobs of a level run the Krakencoder."""
    alone = namespace.level == "participant"
    return level == "group" or bool(alone and namespace.model)


def _participant_request(namespace: argparse.Namespace, options: argparse.Namespace) -> Request:
    memory = (
        parse_memory(options.mem_mb, unit="M") if options.mem_mb else parse_memory(options.mem)
    )
    return Request(
        n_cpus=options.nprocs,
        mem_gb=memory,
        minutes=parse_minutes(namespace.time, "--time"),
        n_gpus=namespace.gpus if _translates(namespace, "participant") else 0,
        queue=namespace.queue,
        account=namespace.account,
        extra=tuple(namespace.scheduler_args),
    )


def _group_request(namespace: argparse.Namespace) -> Request:
    return Request(
        n_cpus=_at_least_one(namespace.group_nprocs, "--group-nprocs"),
        mem_gb=parse_memory(namespace.group_mem),
        minutes=parse_minutes(namespace.group_time, "--group-time"),
        n_gpus=namespace.gpus,
        queue=namespace.group_queue or namespace.queue,
        account=namespace.account,
        extra=tuple(namespace.group_scheduler_args or namespace.scheduler_args),
    )


def _command(
    namespace: argparse.Namespace, level: str, folder: Path, *, settings: Settings
) -> tuple[str, ...]:
    """Words that run one level, in this environment or in a container."""
    arguments = (
        namespace.bids_dir,
        namespace.output_dir,
        level,
        "--config-file",
        str(folder / f"{level}.toml"),
    )
    if not namespace.container:
        return (sys.executable, "-m", "kraken_bids", *arguments)
    binds = [text for path in bound_folders(namespace, settings) for text in ("-B", path)]
    gpu = ["--nv"] if namespace.gpus and _translates(namespace, level) else []
    runtime = (namespace.container_runtime, "run", "--containall", "--cleanenv")
    # Atlases and models are those that this call looked at, in place of the image's own: what was
    # made of others would not count as done.
    kept = os.pathsep.join(map(str, _kept_resources()))
    resources = ["--env", f"{RESOURCES_VARIABLE}={kept}"] if kept else []
    return (*runtime, *gpu, *resources, *binds, str(_image(namespace)), *arguments)


def _image(namespace: argparse.Namespace) -> Path:
    """Absolute path of the container's image."""
    return Path(namespace.container).expanduser().absolute()


def _kept_resources() -> list[Path]:
    """Folders of atlases and models on this machine."""
    return [folder for folder in resource_dirs() if folder.is_dir()]


def _folders_made(namespace: argparse.Namespace, settings: Settings) -> tuple[str, ...]:
    """Line of shell that makes, on the node, what a container is given to write to."""
    if not namespace.container:
        return ()
    return (shlex.join(["mkdir", "-p", *map(str, _written_folders(settings))]),)


def _written_folders(settings: Settings) -> list[Path]:
    folders = [settings.output_dir, settings.work_dir, settings.bids_database_dir]
    return _outermost(folder for folder in folders if folder is not None)


def _five_tissue_folder(value: str) -> Path | None:
    """Folder that holds all files of a pattern; None for a named source."""
    return Path(value.partition("{")[0] + "x").parent if "/" in value else None


def bound_folders(namespace: argparse.Namespace, settings: Settings) -> list[str]:
    """Folders that a container is given, inputs read-only; those within others are left out."""
    translation = settings.translation
    inputs: list[Path | None] = [
        settings.bids_dir,
        settings.subjects_dir,
        *(path for _, path in settings.derivatives),
        *(Path(text.rpartition("=")[2]) for text in settings.connectomes),
        *(path.parent for _, path in settings.atlas_files),
        _five_tissue_folder(settings.structural.five_tissue),
        *(path.parent for _, path in settings.regularization.targets),
        *(Path(text) for text in namespace.bind),
        translation.model_dir,
        Path(namespace.model_dir) if namespace.model_dir else None,
        Path(namespace.bids_filter_file).parent if namespace.bids_filter_file else None,
        Path(namespace.use_plugin).parent if namespace.use_plugin else None,
        Path(translation.adaptation).parent if "/" in translation.adaptation else None,
        *(Path(text[1:]).parent for text in namespace.participant_label if text.startswith("@")),
        *_kept_resources(),
    ]
    outputs = _written_folders(settings)
    read_only = _outermost(path for path in inputs if path is not None)
    return [
        *(f"{path}:{path}:ro" for path in read_only if path not in outputs),
        *(f"{path}:{path}" for path in outputs),
    ]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    unique = sorted(dict.fromkeys(paths))
    return [path for path in unique if not any(other in path.parents for other in unique)]


def write_submission(submission: Submission) -> None:
    """Write lists, configurations and scripts."""
    for name, content in submission.files.items():
        write_text(submission.folder / name, content)


def submit(submission: Submission) -> dict[str, str]:
    """Hand the jobs to the scheduler.

    Returns
    -------
    dict
        Id of each job by name. They are noted in the submission's folder as they come.

    Raises
    ------
    ResourceError
        If the scheduler is not there or refuses a job. Jobs submitted before go on.
    """
    ids: dict[str, str] = {}
    for job in submission.jobs:
        waits = list(ids.values()) if job is submission.group else []
        ids[job.name] = _submit_one(job, submission, waits)
        content = {
            "scheduler": submission.scheduler.name,
            "level": submission.level,
            "jobs": ids,
            "participants": list(submission.labels),
        }
        write_json(submission.folder / RECORD, content)
    return ids


def _submit_one(job: Job, submission: Submission, waits: Sequence[str]) -> str:
    scheduler = submission.scheduler
    script = submission.folder / f"{job.name}.sh"
    waiting = scheduler.waiting(waits, submission.group_needs_all) if waits else []
    words = [*scheduler.program, *waiting, *([] if scheduler.from_stdin else [str(script)])]
    try:
        done = subprocess.run(
            words,
            input=script.read_text("utf-8") if scheduler.from_stdin else None,
            cwd=submission.folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except OSError as error:
        raise ResourceError(
            f"cannot run {words[0]}: {error.strerror}",
            where="--scheduler",
            fix="Submit from a machine of the cluster; --dry-run prints the scripts.",
        ) from error
    except subprocess.CalledProcessError as error:
        raise ResourceError(
            f"{words[0]} refused {job.name}: {(error.stderr or error.stdout).strip()}",
            where=str(script),
            fix="Mend the options that it names (--time, --queue, --account, --scheduler-args).",
        ) from error
    return scheduler.read_id(done.stdout)


def last_submission(output_dir: Path) -> Path:
    """Folder of the last submission of an output folder.

    Raises
    ------
    InputError
        If there is none.
    """
    found = (output_dir / SUBMIT_DIR).glob(f"*/{RECORD}")
    records = sorted(found, key=lambda path: path.stat().st_mtime_ns)
    if not records:
        raise InputError(
            "nothing has been submitted for this output folder yet",
            where=str(output_dir / SUBMIT_DIR),
            fix="Leave --retry-failed out.",
        )
    return records[-1].parent


@dataclass(frozen=True)
class Record:
    """What is noted of a submission: its level, scheduler, ids of jobs by name, participants."""

    level: str
    scheduler: Scheduler
    jobs: dict[str, str]
    labels: tuple[str, ...]


def read_record(folder: Path) -> Record:
    """Read what was noted of a submission.

    Raises
    ------
    InputError
        If its record is damaged.
    """
    try:
        content = load_json(folder / RECORD)
        return Record(
            level=str(content["level"]),
            scheduler=SCHEDULERS[content["scheduler"]],
            jobs={str(name): str(number) for name, number in content["jobs"].items()},
            labels=tuple(map(str, content["participants"])),
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"the record of the last submission cannot be read: {error!r}",
            where=str(folder / RECORD),
            fix="Leave --retry-failed out: all participants that are not done are submitted.",
        ) from error


def queued_jobs(record: Record) -> list[str]:
    """Ids of the jobs of a submission that still wait or run."""
    found = []
    for number in record.jobs.values():
        try:
            told = subprocess.run(
                [*record.scheduler.asking, number], capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise ResourceError(
                f"cannot run {record.scheduler.asking[0]}: {error.strerror}",
                where="--retry-failed",
                fix="Submit from a machine of the cluster.",
            ) from error
        if told.returncode == 0 and record.scheduler.is_queued(told.stdout):
            found.append(number)
    return found
