# SPDX-License-Identifier: MIT
"""Options as TOML, both ways."""

from __future__ import annotations

import argparse
import tomllib

from ..errors import InputError, Problems, UsageError, suggest
from .values import existing_file

#: Options that say what to do, not how: they are no part of a configuration file.
ACTIONS = frozenset({
    "dry_run", "status", "reports_only", "boilerplate_only", "config_file", "verbose", "quiet",
    "notrack", "skip_bids_validation", "bids_dir", "output_dir", "level", "print_completion",
})  # fmt: skip


def apply_config(
    namespace: argparse.Namespace, parser: argparse.ArgumentParser, *, file: str
) -> None:
    """Fill options that were not typed from a TOML file.

    Parameters
    ----------
    namespace
        Parsed arguments; changed.
    parser
        Its defaults tell what was not typed.
    file
        As given to ``--config-file``.

    Raises
    ------
    KrakenBIDSError
        If the file cannot be read or names unknown options.
    """
    option = "--config-file"
    path = existing_file(file, option)
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}", where=option, fix="Mend it.") from error
    known = {action.dest for action in parser._actions} - ACTIONS - {"help", "version"}  # noqa: SLF001
    problems = [
        UsageError(
            f"option '{name}' is unknown", where=f"{option} {path}", fix=suggest(name, known) + "."
        )
        for name in content
        if name.replace("-", "_") not in known
    ]
    if problems:
        raise Problems(problems)
    for name, value in content.items():
        dest = name.replace("-", "_")
        if getattr(namespace, dest) == parser.get_default(dest):
            setattr(namespace, dest, value)


def config_text(namespace: argparse.Namespace) -> str:
    """The options in force as TOML that ``--config-file`` reads back."""
    import tomli_w

    values = {
        name: value
        for name, value in sorted(vars(namespace).items())
        # 0 is a value: a seed, a radius
        if name not in ACTIONS and value is not False and value not in (None, [], "")
    }
    return tomli_w.dumps(values)
