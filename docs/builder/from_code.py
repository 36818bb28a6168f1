# SPDX-License-Identifier: MIT
"""Parts of the pages that are made from the code: options, outputs, tables of names, messages.

`PARTS` is the table; each part is a function that gives Markdown. Nothing here needs Sphinx.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kraken_bids import errors
from kraken_bids.atlases import atlas_names, load_atlas
from kraken_bids.bids.names import ENTITY_ORDER, OUTPUTS
from kraken_bids.bids.quality_columns import QUALITY_COLUMNS
from kraken_bids.cli import EXAMPLES, make_parser
from kraken_bids.demo.__main__ import make_parser as make_demo_parser
from kraken_bids.errors import KrakenBIDSError
from kraken_bids.flavors import CORE_RECIPES, RECIPES
from kraken_bids.model.metrics import METRICS
from kraken_bids.model_commands.cli import SUBCOMMANDS
from kraken_bids.model_commands.cli import make_parser as make_model_parser
from kraken_bids.published import DEFAULT_MODEL, published_extras, published_models
from kraken_bids.submit.options import make_submit_parser

from .architecture import draw_architecture
from .messages import Message, read_messages

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def escape(text: str) -> str:
    """Plain text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>$|#])", r"\\\1", text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def find_parser(program: str) -> argparse.ArgumentParser:
    """The parser of a program, or of a subcommand such as ``kraken-model train``."""
    name, _, command = program.partition(" ")
    if name == "kraken-bids":
        return make_parser()
    if name == "kraken-submit":
        return make_submit_parser()
    parser = make_demo_parser() if name == "kraken-demo" else make_model_parser([command])
    if not command:
        return parser
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    chosen: argparse.ArgumentParser = commands.choices[command]
    return chosen


def programs() -> tuple[str, ...]:
    """Every program and subcommand that has options of its own."""
    model = (f"kraken-model {row.name}" for row in SUBCOMMANDS)
    return ("kraken-bids", "kraken-submit", *model, "kraken-demo data", "kraken-demo model")


def options(program: str) -> str:
    """Every option of a program; of ``kraken-submit`` those that it has alone."""
    parser = find_parser(program)
    shared = set()
    if program == "kraken-submit":
        shared = {group.title for group in make_parser()._action_groups}
    parts = []
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help is not argparse.SUPPRESS and action.dest != "help"
        ]
        if not actions or group.title in shared:
            continue
        parts.append(f"**{group.title}**\n")
        parts += [_option(parser, action) for action in actions]
    return "\n".join(parts)


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One option as an entry of a definition list."""
    formatter = parser._get_formatter()
    if action.option_strings:
        names = ", ".join(f"`{name}`" for name in action.option_strings)
        value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
    else:
        names = ""
        value = str(action.metavar or "|".join(action.choices or [action.dest]))
    told = " ".join(filter(None, [names, f"`{value}`" if value else ""]))
    meaning = escape(action.help or "").replace("%%", "%")
    meaning = meaning.replace("%(default)s", str(action.default))
    default = action.default
    if (
        default not in (None, False, argparse.SUPPRESS, "", 0)
        and default != []
        and "default" not in meaning
        and "version" not in action.dest
    ):
        words = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        meaning += f" (default: `{words}`)"
    if isinstance(action.choices, (tuple, list)) and action.metavar:
        meaning += f" ({', '.join(f'`{choice}`' for choice in action.choices)})"
    return f"{told}\n: {meaning or 'see the page.'}\n"


def subcommands() -> str:
    """What ``kraken-model`` can do."""
    return table(["command", "does"], [[f"`{row.name}`", row.help] for row in SUBCOMMANDS])


def output(name: str) -> str:
    """Where an output is found and what it is called."""
    row = OUTPUTS[name]
    own = "_".join(f"{entity}-…" for entity in ENTITY_ORDER if entity in row.entities)
    suffix = row.suffix.replace("{suffix}", "{bold,dwi}")
    stem = "_".join(filter(None, [own, suffix])) + row.extension
    session = "sub-…[/ses-…]/"
    folders = {
        "group": "group/",
        "session": session,
        "figures": "sub-…/figures/",
        "{datatype}": f"{session}{{func,dwi}}/",
    }
    folder = folders.get(row.folder, f"{session}{row.folder}/")
    source = "" if row.folder == "group" else "sub-…[_ses-…]_"
    scans = row.folder in {"func", "dwi", "figures", "{datatype}"} and name != "prediction"
    return f"`{folder}{source}{'…_' if scans else ''}{stem}`: {row.description}.\n"


def quality_columns() -> str:
    """Columns of the tables of quality of participants."""
    rows = [
        [f"`{pattern}`", escape(words.replace("{}", "…")), escape(units)]
        for pattern, words, units in QUALITY_COLUMNS
    ]
    return table(["column (`*`: atlas, flavor, …)", "meaning", "unit"], rows)


def metrics() -> str:
    """Measures of predictions."""
    return table(
        ["column", "meaning", "chance, 100 participants"],
        [
            [
                f"`{metric.name}`",
                escape(metric.description.replace("{n_best}", "N")),
                "" if metric.chance is None else f"{metric.chance(100, 2):.3g}",
            ]
            for metric in METRICS
        ],
    )


def flavors() -> str:
    """Every kind of connectome."""
    return table(
        ["flavor", "`meas-`", "is", "unit", "measured here", "in `krakencoder-2024`"],
        [
            [
                f"`{kind}_ATLAS_{processing}`",
                f"`{recipe.meas}`",
                f"{escape(recipe.measure)}: {escape(recipe.description)}",
                escape(recipe.units),
                "yes" if recipe.is_measured else "no",
                "yes" if (kind, processing) in CORE_RECIPES else "no",
            ]
            for (kind, processing), recipe in RECIPES.items()
        ],
    )


def atlases() -> str:
    """Every atlas."""
    return table(
        ["atlas", "regions", "is", "reference", "licence"],
        [
            [f"`{atlas.name}`", str(atlas.n_regions), escape(atlas.description),
             escape(atlas.reference), escape(atlas.license)]
            for atlas in map(load_atlas, atlas_names())
        ],
    )  # fmt: skip


def published() -> str:
    """Every published model; those of one flavor in one row."""
    models = published_models().values()
    rows = [
        [f"`{model.name}`", str(len(model.flavors)), escape(model.description)]
        for model in models
        if len(model.flavors) > 1
    ]
    single = [model.flavors[0] for model in models if len(model.flavors) == 1]
    listed = ", ".join(f"`{flavor}`" for flavor in single)
    rows.append([f"`{DEFAULT_MODEL}-FLAVOR`", "1", f"FLAVOR is one of {len(single)}: {listed}"])
    return table(["model", "flavors", "is"], rows)


def published_files() -> str:
    """What is published beside the models."""
    return table(
        ["name", "is"],
        [[f"`{extra.name}`", escape(extra.description)] for extra in published_extras().values()],
    )


def exit_codes() -> str:
    """What the exit code says, as ``kraken-bids --help`` does."""
    told = EXAMPLES.partition("exit codes:")[2]
    rows = re.findall(r"(\d+) ([^;\n]+)", told)
    return table(["exit code", "means"], rows)


def error_classes() -> str:
    """The errors of the Python interface."""
    found: list[type[KrakenBIDSError]] = [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, KrakenBIDSError)
    ]
    return table(
        ["error", "is", "exit code"],
        [
            [f"`kraken_bids.errors.{error.__name__}`", (error.__doc__ or "").split("\n")[0],
             "the highest of its problems" if error is errors.Problems else str(error.exit_code)]
            for error in found
        ],
    )  # fmt: skip


def messages() -> str:
    """Every message about what a person can mend, by the part of the program that says it."""
    parts: dict[str, list[Message]] = {}
    for message in read_messages():
        parts.setdefault(message.module.split("/")[0].removesuffix(".py"), []).append(message)
    told = []
    for part, found in parts.items():
        rows = {(escape(m.what), escape(m.fix)) for m in found}
        told.append(f"**{part}**\n\n{table(['message', 'it goes on'], sorted(rows))}")
    return "\n".join(told)


def readme_table(first_cells: str) -> str:
    """A table of the README whose header begins with these words."""
    text = README.read_text("utf-8")
    found = re.findall(rf"^\| {re.escape(first_cells)}.*\n(?:\|.*\n)+", text, re.MULTILINE)
    if len(found) != 1:
        raise LookupError(f"the README has {len(found)} tables that begin with '{first_cells}'")
    return str(found[0])


def architecture() -> str:
    """The picture of who may import whom."""
    return f"<div class='picture'>\n{draw_architecture()}\n</div>\n"


#: Every part by the name that pages call it with, and what is told behind that name.
PARTS: dict[str, Callable[..., str]] = {
    "options": options,
    "subcommands": subcommands,
    "output": output,
    "quality-columns": quality_columns,
    "metrics": metrics,
    "flavors": flavors,
    "atlases": atlases,
    "published": published,
    "published-files": published_files,
    "exit-codes": exit_codes,
    "error-classes": error_classes,
    "messages": messages,
    "readme-table": readme_table,
    "architecture": architecture,
}


def make_part(words: str) -> str:
    """A part, by its name and what follows it.

    Raises
    ------
    LookupError
        If there is no such part, or nothing in the code of that name.
    """
    name, _, rest = words.strip().partition(" ")
    if name not in PARTS:
        raise LookupError(f"no part is called '{name}'; there are: {', '.join(PARTS)}")
    return PARTS[name](*([rest] if rest else []))


def read_value(place: str) -> Any:
    """A constant of the code, such as ``connectome.motion:DISPLACEMENT_LIMIT_MM``.

    Parameters
    ----------
    place
        Module below ``kraken_bids``, colon, name; dots and ``[key]`` lead further.
    """
    module, _, path = place.partition(":")
    value: Any = importlib.import_module(f"kraken_bids.{module}")
    for name, key in re.findall(r"([A-Za-z_]\w*)|\[([^\]]+)\]", path):
        if name:
            value = getattr(value, name)
        else:
            value = dict(value)[key] if not key.isdigit() else value[int(key)]
    return value


def format_value(value: Any) -> str:
    """A constant as it stands in a text."""
    if isinstance(value, (tuple, list)):
        return ", ".join(map(format_value, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}".replace(",", "\u2009") if isinstance(value, int) else f"{value:.9g}"
