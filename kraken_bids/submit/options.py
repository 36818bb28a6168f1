# SPDX-License-Identifier: MIT
"""The options of ``kraken-submit``: those of ``kraken-bids``, and the scheduler's."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from ..cli import make_parser
from ..errors import UsageError
from ..settings import FIVE_TISSUE
from .schedulers import SCHEDULERS

#: Options that concern the group level alone where both levels are submitted.
GROUP_OPTIONS: tuple[str, ...] = (
    "model", "model_dir", "adaptation", "adapt_by", "fusion", "predict_from", "predict_to",
    "output_label", "device", "relmat_format",
)  # fmt: skip
#: Options whose value is a path, or a name where there is no file or folder of that name.
PATH_OPTIONS: tuple[str, ...] = (
    "fs_subjects_dir", "bids_filter_file", "bids_database_dir", "model", "model_dir", "adaptation",
    "work_dir", "use_plugin", "config_file",
)  # fmt: skip
#: Options whose values are ``NAME=PATH``.
NAMED_PATH_OPTIONS: tuple[str, ...] = ("derivatives", "atlas_file", "pcorr_target")

EPILOG = """\
examples:
  kraken-submit /data/study /data/out --scheduler slurm --time 24h --nprocs 4 --mem 16G
  kraken-submit /data/study /data/out participant --container kraken-bids.sif -w /scratch/kraken
  kraken-submit /data/study /data/out --dry-run          print the scripts, submit nothing
  kraken-submit /data/study /data/out --retry-failed     what failed of the last submission
"""


def make_submit_parser() -> argparse.ArgumentParser:
    """Make the parser of ``kraken-submit``."""
    parser = make_parser(
        prog="kraken-submit",
        description="One job a participant on a cluster, and the group job after them. All "
        "options of kraken-bids are understood and handed on; --nprocs and --mem are also what "
        "each job asks for.",
        levels=("participant", "group", "both"),
        default_level="both",
        epilog=EPILOG,
    )
    _add_cluster(parser.add_argument_group("cluster"))
    _add_group_job(parser.add_argument_group("cluster, group job"))
    return parser


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--scheduler", choices=tuple(SCHEDULERS), help="default: the one that is installed")
    add("--time", default="24h", metavar="TIME", help="of a job: 36h, 90m or HH:MM (default 24h)")
    add("--queue", "--partition", default="", metavar="NAME", help="partition or queue")
    add("--account", "--project", default="", metavar="NAME", help="who pays")
    add("--at-once", type=int, default=0, metavar="N", help="jobs at the same time (default: all)")
    add("--participants-per-job", type=int, default=1, metavar="N", help="one after the other")
    add(
        "--max-array-size", type=int, default=0, metavar="N",
        help="jobs of one array; larger cohorts get several (default: the site's limit)",
    )  # fmt: skip
    add(
        "--scheduler-args", action="append", default=[], metavar="LINE",
        help="a further directive, as in --scheduler-args=--qos=long; may be repeated",
    )  # fmt: skip
    add("--prologue", metavar="FILE", help="shell lines run before kraken-bids (module load …)")
    add("--container", metavar="IMAGE", help="run this Apptainer (Singularity) image")
    add("--container-runtime", default="apptainer", choices=("apptainer", "singularity"),
        help="default: apptainer")  # fmt: skip
    add("--bind", nargs="+", default=[], metavar="PATH", help="further folders for the container")
    add("--retry-failed", action="store_true", help="submit what failed of the last submission")


def _add_group_job(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--group-if", choices=("all-done", "ended"), default="all-done",
        help="run the group level only if all participants have succeeded (default), or when all "
        "have ended, with those that have",
    )  # fmt: skip
    add("--group-time", default="4h", metavar="TIME", help="default 4h")
    add("--group-nprocs", type=int, default=4, metavar="N", help="default 4")
    add("--group-mem", default="16G", metavar="AMOUNT", help="default 16G")
    add("--gpus", type=int, default=0, metavar="N", help="GPUs of the job with the Krakencoder")
    add("--group-queue", "--group-partition", default="", metavar="NAME", help="default: --queue")
    add("--group-scheduler-args", action="append", default=[], metavar="LINE",
        help="in place of --scheduler-args")  # fmt: skip


def parse_minutes(text: str, option: str) -> int:
    """Read a time as minutes.

    Parameters
    ----------
    text
        ``36h``, ``90m``, ``2d``, ``HH:MM``, ``HH:MM:SS``, or minutes.
    option
        For the message.

    Raises
    ------
    UsageError
        If it is none of these, or 0.

    Examples
    --------
    >>> parse_minutes("1.5h", "--time"), parse_minutes("24:00", "--time"), parse_minutes("2d", "")
    (90, 1440, 2880)
    """
    clock = re.fullmatch(r"(\d+):([0-5]\d)(?::[0-5]\d)?", text.strip())
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([dhm]?)", text.strip())
    minutes = 0
    if clock:
        minutes = 60 * int(clock[1]) + int(clock[2])
    elif number:
        minutes = round(float(number[1]) * {"d": 1440, "h": 60, "m": 1, "": 1}[number[2]])
    if minutes < 1:
        raise UsageError(
            f"'{text}' is no time", where=option, fix="Write it as 36h, 90m or HH:MM."
        )
    return minutes


def with_absolute_paths(namespace: argparse.Namespace) -> argparse.Namespace:
    """Make all paths absolute: jobs start in another folder.

    A name that is no file or folder here, such as that of a published model, stays as it is.
    """
    changed = dict(vars(namespace))
    for name in PATH_OPTIONS:
        value = changed.get(name)
        if value and (Path(value).expanduser().exists() or name == "work_dir"):
            changed[name] = str(Path(value).expanduser().absolute())
    if changed["five_tissue"] not in FIVE_TISSUE:  # a file, or a pattern of files
        changed["five_tissue"] = str(Path(changed["five_tissue"]).expanduser().absolute())
    for name in NAMED_PATH_OPTIONS:
        changed[name] = [_absolute_value(text) for text in changed.get(name) or []]
    labels = changed.get("participant_label") or []
    changed["participant_label"] = [_absolute_list(text) for text in labels]
    for name in ("bids_dir", "output_dir"):
        changed[name] = str(Path(changed[name]).expanduser().absolute())
    return argparse.Namespace(**changed)


def _absolute_value(text: str) -> str:
    # connectomes=FLAVOR=PATH has two names before the path
    name, equals, value = text.rpartition("=")
    return f"{name}{equals}{Path(value).expanduser().absolute()}" if equals else text


def _absolute_list(text: str) -> str:
    return f"@{Path(text[1:]).expanduser().absolute()}" if text.startswith("@") else text


def level_options(
    namespace: argparse.Namespace, level: str, *, parser: argparse.ArgumentParser
) -> argparse.Namespace:
    """Options of one level's jobs, as ``kraken-bids`` knows them.

    Parameters
    ----------
    namespace
        As parsed, with absolute paths.
    level
        ``participant`` or ``group``.
    parser
        The parser of ``kraken-bids``; its defaults stand for what concerns the other level.
    """
    actions = parser._actions  # noqa: SLF001
    # Those that print something and leave have no value.
    known = {action.dest for action in actions if action.default is not argparse.SUPPRESS}
    chosen: dict[str, Any] = {name: getattr(namespace, name) for name in sorted(known)}
    chosen |= {"level": level, "dry_run": False, "config_file": None}
    if level == "participant":
        chosen["participant_label"] = []  # a task names its own
        if namespace.level == "both":
            chosen |= {name: parser.get_default(name) for name in GROUP_OPTIONS}
    else:
        chosen |= {"nprocs": namespace.group_nprocs, "mem": namespace.group_mem, "mem_mb": None}
        chosen["omp_nthreads"] = None
    return argparse.Namespace(**chosen)
