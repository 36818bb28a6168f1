#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Print the Boutiques descriptor of ``kraken-bids``, made of its parser.

python containers/boutiques.py [--image IMAGE] [--type {docker,singularity}] > boutiques.json

Nothing of it is stored: it is true of the program that it is asked of. Every image holds its own,
``/opt/kraken-bids/boutiques.json``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from kraken_bids import __version__
from kraken_bids.cli import make_parser

SCHEMA_VERSION = "0.5"
#: Types of Boutiques for those of arguments; all others are text.
NUMBERS = (int, float)


def describe(parser: argparse.ArgumentParser, *, image: str = "", kind: str = "docker") -> dict:
    """Describe a command line.

    Parameters
    ----------
    parser
        Of the program.
    image, kind
        Name of an image that holds it, and ``docker`` or ``singularity``.

    Returns
    -------
    dict
        The descriptor, as of Boutiques' schema 0.5.
    """
    # Those that print something and leave have no value.
    actions = parser._actions  # noqa: SLF001  (argparse offers no other list)
    actions = [action for action in actions if action.default is not argparse.SUPPRESS]
    inputs = [describe_input(action) for action in actions]
    descriptor: dict[str, Any] = {
        "name": parser.prog,
        "description": parser.description,
        "tool-version": __version__,
        "schema-version": SCHEMA_VERSION,
        "command-line": " ".join([parser.prog, *(row["value-key"] for row in inputs)]),
        "inputs": inputs,
        "output-files": [
            {
                "id": "outputs",
                "name": "outputs",
                "description": "BIDS derivative data set",
                "path-template": "[OUTPUT_DIR]",
                "optional": False,
            }
        ],
        "error-codes": exit_codes(parser.epilog or ""),
        "tags": {"domain": ["neuroinformatics", "bids-app"]},
    }
    if image:
        descriptor["container-image"] = {"type": kind, "image": image, "entrypoint": True}
    return descriptor


def describe_input(action: argparse.Action) -> dict[str, Any]:
    """Describe one argument: type, choices, and whether it is a list or optional."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    is_flag = action.nargs == 0
    # A folder for outputs is made by the program; any other must be there, and is bound.
    is_file = metavar.endswith(("DIR", "FILE")) and re.fullmatch(r"\w+", metavar)
    is_file = bool(is_file) and action.dest not in {"output_dir", "work_dir", "bids_database_dir"}
    number = action.type in NUMBERS
    row: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "type": "Flag" if is_flag else "Number" if number else "File" if is_file else "String",
        "value-key": f"[{action.dest.upper()}]",
        "optional": bool(action.option_strings),
        "description": (f"{metavar}: " if metavar and not is_file else "") + (action.help or ""),
    }
    if number:
        row["integer"] = action.type is int
    if action.choices:
        row["value-choices"] = list(action.choices)
    if action.option_strings:
        row["command-line-flag"] = next(
            text for text in action.option_strings if text.startswith("--")
        )
    if action.nargs == "+":
        row |= {"list": True, "min-list-entries": 1}
    return row


def exit_codes(text: str) -> list[dict[str, Any]]:
    """Read the exit codes other than 0 from what ``--help`` says of them."""
    told = re.findall(r"(?:^|[;\s])(\d+) ([^;\n]+)", text.partition("exit codes:")[2])
    return [{"code": int(code), "description": what} for code, what in told if code != "0"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the descriptor."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--image", default="", help="name it as the image to run in")
    options.add_argument("--type", default="docker", choices=("docker", "singularity"))
    given = options.parse_args(arguments)
    print(json.dumps(describe(make_parser(), image=given.image, kind=given.type), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
