# SPDX-License-Identifier: MIT
"""``--use-plugin``: which of Nipype's plugins, with which arguments; read and checked at once."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import KrakenBIDSError, Problems, UsageError, suggest

OPTION = "--use-plugin"
EXAMPLE = 'Write it as {"plugin": "SLURM", "plugin_args": {"sbatch_args": "--time=60"}}.'


@dataclass(frozen=True)
class PluginKind:
    """A plugin of Nipype that can be asked for.

    Parameters
    ----------
    arguments
        What may stand in ``plugin_args``, with the type of each.
    programs
        The scheduler's programs that it needs; none for a plugin that stays on this machine.
    """

    arguments: Mapping[str, type]
    programs: tuple[str, ...] = ()

    @property
    def is_cluster(self) -> bool:
        """Whether each node becomes a job of a scheduler."""
        return bool(self.programs)


_LOCAL = {"n_procs": int, "memory_gb": float, "raise_insufficient": bool, "scheduler": str,
          "maxtasksperchild": int}  # fmt: skip
_JOBS = {"template": str, "max_jobs": int, "max_tries": int, "retry_timeout": float}
_SLURM = ("sbatch", "squeue", "scontrol", "scancel")
_QSUB = ("qsub", "qstat", "qdel")

#: Plugins by Nipype's name. Its other graph plugins end before their jobs do and cannot be
#: watched; the rest has never been tried.
PLUGINS: dict[str, PluginKind] = {
    "Linear": PluginKind({}),
    "MultiProc": PluginKind({**_LOCAL, "n_gpu_procs": int, "mp_context": str}),
    "LegacyMultiProc": PluginKind({**_LOCAL, "non_daemon": bool}),
    "SLURM": PluginKind({**_JOBS, "sbatch_args": str, "jobid_re": str}, _SLURM),
    "SLURMGraph": PluginKind(
        {"template": str, "sbatch_args": str, "dont_resubmit_completed_jobs": bool}, _SLURM
    ),
    "PBS": PluginKind({**_JOBS, "qsub_args": str, "max_jobname_len": int}, _QSUB),
    "SGE": PluginKind(
        {**_JOBS, "qsub_args": str, "qstatProgramPath": str, "qstatCachedProgramPath": str}, _QSUB
    ),
}


@dataclass(frozen=True)
class Plugin:
    """What ``--use-plugin`` names: a key of `PLUGINS`, and its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> PluginKind:
        """What is known of the plugin."""
        return PLUGINS[self.name]


def read_plugin(file: Path | None) -> Plugin | None:
    """Read ``--use-plugin``: YAML or JSON with ``plugin`` and ``plugin_args``.

    Parameters
    ----------
    file
        None: no plugin is asked for.

    Raises
    ------
    UsageError
        If the file is not such a description; `Problems` if several things are wrong with it.
    """
    if file is None:
        return None
    content = _parse(file)
    name = content.get("plugin")
    if name not in PLUGINS:
        hint = suggest(str(name), PLUGINS) if name else f"Known: {', '.join(sorted(PLUGINS))}"
        raise UsageError(
            f"{file} names the plugin {name!r}, which cannot be used" if name
            else f"{file} names no plugin",
            where=OPTION,
            fix=f"{hint}. For a cohort on any scheduler there is kraken-submit.",
        )  # fmt: skip
    arguments = content.get("plugin_args") or {}
    problems = [*_unknown_keys(content, file), *_wrong_arguments(name, arguments, file)]
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    return Plugin(name, arguments)


def _parse(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{file} is neither YAML nor JSON: {reason}", where=OPTION, fix=EXAMPLE
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} is not a plugin description", where=OPTION, fix=EXAMPLE)
    return content


def _unknown_keys(content: Mapping[str, Any], file: Path) -> list[KrakenBIDSError]:
    known = ("plugin", "plugin_args")
    return [
        UsageError(
            f"{file} has an unknown key {key!r}", where=OPTION, fix=suggest(str(key), known)
        )
        for key in content
        if key not in known
    ]


def _wrong_arguments(name: str, arguments: Any, file: Path) -> list[KrakenBIDSError]:
    """Arguments that Nipype would overlook without a word, or stumble over after hours."""
    if not isinstance(arguments, dict):
        return [UsageError(f"plugin_args in {file} is no mapping", where=OPTION, fix=EXAMPLE)]
    known = PLUGINS[name].arguments
    problems: list[KrakenBIDSError] = []
    for key, value in arguments.items():
        if key not in known:
            what = f"{file}: {name} has no argument {key!r}"
            fix = suggest(str(key), known) if known else f"{name} takes no arguments."
        elif not _fits(value, known[key]):
            what = f"{file}: {key} is {value!r}"
            fix = f"Give {_TYPES[known[key]]}."
        elif key in {"sbatch_args", "qsub_args"} and (reason := _unquotable(value)):
            what = f"{file}: {key} is {value!r}: {reason}"
            fix = "Write it as on the command line of the scheduler."
        elif key == "template" and "\n" not in value and not Path(value).is_file():
            what = f"{file}: there is no template {value}"
            fix = "Give the path of a file, or the lines themselves."
        else:
            continue
        problems.append(UsageError(what, where=OPTION, fix=fix))
    return problems


def _unquotable(words: str) -> str:
    """Why words of a command line cannot be taken apart; empty if they can."""
    try:
        shlex.split(words)
    except ValueError as error:
        return str(error)
    return ""


_TYPES = {str: "a text", bool: "true or false", int: "a whole number from 1", float: "a number"}


def _fits(value: object, kind: type) -> bool:
    """Whether a value is of a type, as people write it: 8 is a number, true is none."""
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return isinstance(value, kind)


def check_plugin(plugin: Plugin | None, *, work_dir: Path, is_work_dir_given: bool) -> None:
    """Refuse a cluster's plugin where it cannot work, before anything is started.

    Parameters
    ----------
    plugin
        None: nothing to check.
    work_dir
        Scratch folder, in which the jobs find their scripts and each other's results.
    is_work_dir_given
        False if it is the default, on a disk of this machine.

    Raises
    ------
    UsageError
        If programs of the scheduler are missing, or the jobs cannot use the scratch folder;
        `Problems` if both.
    """
    if plugin is None or not plugin.kind.is_cluster:
        return
    problems: list[KrakenBIDSError] = []
    missing = [name for name in plugin.kind.programs if shutil.which(name) is None]
    if missing:
        problems.append(
            UsageError(
                f"the plugin {plugin.name} needs {', '.join(missing)}, not found on the PATH",
                where=OPTION,
                fix="Start on a machine of the cluster, outside of any container, or leave the "
                "option out to run on this machine.",
            )
        )
    if not is_work_dir_given:
        problems.append(
            UsageError(
                f"the jobs of {plugin.name} need a scratch folder that all nodes see",
                where=OPTION,
                fix="Name one: --work-dir /scratch/kraken.",
            )
        )
    elif set(str(work_dir)) & set(" \t\n'\"\\$`;&|<>()*?%"):
        problems.append(
            UsageError(
                f"{work_dir} has characters in its name that schedulers stumble over",
                where="--work-dir",
                fix="Give a folder without blanks, quotes and other signs of the shell.",
            )
        )
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
