# SPDX-License-Identifier: MIT
"""Options that say which scans and which atlases."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..atlases import atlas_names, default_atlas_names, load_atlas
from ..errors import InputError, Problems, UsageError, suggest
from ..flavors import MEASURED_RECIPES, Flavor
from ..settings import COCO439, Selection
from ..storage import load_json
from .values import Reader, existing_file

#: Input derivatives that ``-d NAME=PATH`` may name.
DERIVATIVES = (
    "fmriprep", "xcp_d", "qsiprep", "qsirecon", "tractograms", "timeseries", "connectomes",
)  # fmt: skip


#: Queries of ``--bids-filter-file``.
FILTER_QUERIES = ("bold", "mask", "confounds", "anat", "dwi", "xfm")


def part_connectomes(n: argparse.Namespace) -> tuple[list[str], list[str]]:
    """What the participant level is given as ready-made connectomes, and the other derivatives."""
    prefix = "connectomes="
    if n.level != "participant":
        return [], list(n.derivatives)
    ready = [text.removeprefix(prefix) for text in n.derivatives if text.startswith(prefix)]
    return ready, [text for text in n.derivatives if not text.startswith(prefix)]


def read_connectomes(texts: Iterable[str]) -> tuple[str, ...]:
    """``PATH`` or ``FLAVOR=PATH`` of ready-made connectomes, with absolute paths that exist."""
    found, problems = [], []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or Path(text).expanduser().exists():
            name, value = "", text
        path = Path(value).expanduser().absolute()
        if not path.exists():
            problems.append(
                InputError(
                    f"there is no file or folder {value}",
                    where=f"--derivatives connectomes={text}",
                    fix="Check the path; it may follow a flavor, as in "
                    "connectomes=FCcorr_fs86_hpf=PATH.",
                )
            )
        found.append(f"{name}={path}" if name else str(path))
    if problems:
        raise Problems(problems)
    return tuple(found)


def read_atlases(names: Iterable[str], flavors: Iterable[str]) -> tuple[str, ...]:
    """Atlases asked for; else the default ones and those of the flavors asked for."""
    asked = {load_atlas(name).name for name in names}
    for flavor in map(Flavor.parse, flavors):
        if asked and flavor.atlas in atlas_names() and flavor.atlas not in asked:
            raise UsageError(
                f"flavor '{flavor}' is of an atlas that is left out",
                where=f"--atlases {' '.join(sorted(asked))}",
                fix=f"Add {flavor.atlas} there, or leave the flavor out of --flavors.",
            )
    asked = asked or {*default_atlas_names(), *(Flavor.parse(name).atlas for name in flavors)}
    return tuple(name for name in atlas_names() if name in asked)


def read_coco439(n: argparse.Namespace) -> str:
    """Whose labels of coco439 are taken; an image given leaves no choice."""
    value, option = str(n.coco439), "--coco439"
    if value not in COCO439:  # a configuration may say anything
        raise UsageError(
            f"'{value}' is none of its values", where=option, fix=suggest(value, COCO439) + "."
        )
    if value == "subject" and any(text.startswith("coco439=") for text in n.atlas_file):
        raise UsageError(
            "own labels and a given label image exclude each other",
            where=f"{option} subject, --atlas-file coco439=…",
            fix="Leave one of the two out.",
        )
    return value


def read_flavors(names: Iterable[str], *, are_measured: bool) -> tuple[str, ...]:
    """Flavors asked for; the participant level is to measure them where none are ready-made."""
    flavors = [Flavor.parse(name) for name in names]
    measured = {processing for _, processing in MEASURED_RECIPES}
    for flavor in flavors:
        if are_measured and (flavor.kind, flavor.processing) not in MEASURED_RECIPES:
            raise UsageError(
                f"flavor '{flavor}' cannot be measured, only read and predicted",
                where="--flavors",
                fix=f"Processing that is measured: {', '.join(sorted(measured))}.",
            )
        if are_measured and flavor.atlas not in atlas_names():
            known = (Flavor(flavor.kind, name, flavor.processing) for name in atlas_names())
            raise UsageError(
                f"flavor '{flavor}' is of no known atlas",
                where="--flavors",
                fix=suggest(str(flavor), map(str, known)) + ".",
            )
    return tuple(map(str, flavors))


def _labels(texts: Iterable[str], prefix: str) -> tuple[str, ...]:
    found: list[str] = []
    for text in texts:
        if text.startswith("@"):
            file = existing_file(text[1:], f"--{prefix} list")
            found += _labels(_words(file), prefix)
            continue
        label = text.removeprefix(f"{prefix}-")
        if not re.fullmatch(r"[A-Za-z0-9+]+", label):
            raise UsageError(
                f"'{text}' is not a BIDS label", fix="Labels hold letters, digits and + only."
            )
        found.append(label)
    return tuple(dict.fromkeys(found))


def _words(file: Path) -> list[str]:
    try:
        words = file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read: {error}", fix="Give a text file with a label a line."
        ) from error
    if any(word.startswith("@") for word in words):
        raise UsageError(f"{file} names another list", fix="Give a label a line.")
    return words


def read_selection(n: argparse.Namespace, reader: Reader) -> Selection:
    """Which scans to look at."""
    return Selection(
        participants=reader.read(lambda: _labels(n.participant_label, "sub"), ()),
        sessions=reader.read(lambda: _labels(n.session_id, "ses"), ()),
        tasks=reader.read(lambda: _labels(n.task_id, "task"), ()),
        runs=reader.read(lambda: _labels(n.run_id, "run"), ()),
        filters=reader.read(lambda: _filters(n.bids_filter_file), ()),
    )


def _filters(
    text: str | None,
) -> tuple[tuple[str, tuple[tuple[str, tuple[str | None, ...]], ...]], ...]:
    if not text:
        return ()
    option = "--bids-filter-file"
    file = existing_file(text, option)
    try:
        content = load_json(file)
        queries = {query: dict(entities) for query, entities in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{file} is not a JSON object of queries: {error}",
            where=option,
            fix='Write it as {"bold": {"task": "rest"}}.',
        ) from error
    for query in queries:
        if query not in FILTER_QUERIES:
            raise UsageError(
                f"query '{query}' is unknown",
                where=f"{option} {file}",
                fix=suggest(query, FILTER_QUERIES) + ".",
            )
    return tuple(
        (query, tuple((entity, _accepted(value)) for entity, value in entities.items()))
        for query, entities in queries.items()
    )


def _accepted(value: Any) -> tuple[str | None, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(None if item is None else str(item) for item in values)
