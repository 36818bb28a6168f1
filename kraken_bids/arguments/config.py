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
#: Options that say one thing in two ways: who gives one of them does not want the other.
SYNONYMS = {"mem": "mem_mb", "mem_mb": "mem"}


def apply_config(
    namespace: argparse.Namespace, parser: argparse.ArgumentParser, *, file: str
) -> None:
    """Fill options that were not given from a TOML file.

    Parameters
    ----------
    namespace
        As `kraken_bids.parser.Parser` parses them; changed. What the file fills counts as given
        from then on: of two files the first one wins.
    parser
        Knows which options there are.
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
    values = {name.replace("-", "_"): value for name, value in content.items()}
    for dest, value in values.items():
        if not {dest, SYNONYMS.get(dest)} & namespace.given:
            setattr(namespace, dest, value)
    namespace.given |= set(values)


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
