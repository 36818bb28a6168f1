# SPDX-License-Identifier: MIT
"""The picture of the architecture, drawn from the table that the tests hold the code to."""

from __future__ import annotations

import ast
import functools
import re
import textwrap
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "test_architecture.py"

#: Geometry in px: what is drawn is scaled to the page.
WIDTH, MARGIN, HEIGHT, ROW_GAP = 720, 8, 62, 34
#: Packages stand in three columns, the modules of their layer to the right of them.
COLUMN_WIDTH, COLUMN_GAP, N_COLUMNS = 174, 12, 3
#: Columns that keep arrows from running behind boxes; a package without one takes a free one.
COLUMNS: Mapping[str, int] = {
    ".programs": 1, ".workflows": 1, ".interfaces": 1, ".demo": 2, ".model": 0, ".formats": 0,
    ".report": 1, ".connectome": 0, ".bids": 1, ".images": 2,
}  # fmt: skip
#: Width of a letter and height of a line of small text, and lines of it in a box.
CHARACTER_PX, LINE_PX, N_LINES = 6.8, 14, 3

#: The parts that only the programs are made of, drawn as one box.
PROGRAMS = ".programs"
PROGRAMS_TEXT = "kraken-bids, kraken-model, kraken-submit"


@dataclass(frozen=True)
class Box:
    """Parts of the program and where they are drawn.

    Parameters
    ----------
    parts
        One package, or the single modules of a layer.
    lines
        What is written into it.
    x, y, width, height
        In px.
    """

    parts: tuple[str, ...]
    lines: tuple[str, ...]
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Of its width."""
        return self.x + self.width / 2


@functools.cache
def read_rules() -> Mapping[str, frozenset[str]]:
    """What each part of ours may import of ours, the programs as one."""
    names = {}
    for node in ast.parse(TABLE.read_text("utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            names[node.target.id] = node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value
    allowed = ast.literal_eval(names["ALLOWED"])
    rules = {
        part: frozenset(other for other in others if other.startswith("."))
        for part, others in allowed.items()
    }
    return {**rules, PROGRAMS: frozenset(rules) - {".demo"}}


def find_layers() -> list[list[str]]:
    """Parts in layers, the lowest first: each stands just above the highest that it imports.

    Modules that import each other are of one layer.
    """
    rules = read_rules()
    below = {part: reach(part, rules) for part in rules}
    level: dict[str, int] = {}

    def find(part: str) -> int:
        if part not in level:
            lower = (other for other in below[part] if part not in below[other])
            level[part] = 1 + max(map(find, lower), default=-1)
        return level[part]

    layers: list[list[str]] = [[] for _ in range(1 + max(map(find, rules)))]
    for part in rules:
        layers[level[part]].append(part)
    return layers


def reach(part: str, rules: Mapping[str, AbstractSet[str]]) -> set[str]:
    """Parts that a part imports, by way of others too."""
    found: set[str] = set()
    left = [part]
    while left:
        new = rules[left.pop()] - found
        found |= new
        left += new
    return found


def find_arrows() -> set[tuple[str, str]]:
    """Imports between packages that no way over another package stands for."""
    rules = {part: {p for p in others if is_package(p)} for part, others in read_rules().items()}
    rules = {part: others for part, others in rules.items() if is_package(part)}
    return {
        (part, other)
        for part, others in rules.items()
        for other in others
        if not any(other in reach(between, rules) for between in others - {other})
    }


def is_package(part: str) -> bool:
    """Whether a part is a folder (or the programs), and not one module."""
    return part == PROGRAMS or _home(part).is_dir()


def _home(part: str) -> Path:
    folder = ROOT / "workflows" if part == ".workflows" else ROOT / "kraken_bids" / part[1:]
    return folder if folder.is_dir() else folder.with_suffix(".py")


def purpose(part: str) -> str:
    """What a part is, as its docstring begins."""
    if part == PROGRAMS:
        return PROGRAMS_TEXT
    home = _home(part)
    file = home / "__init__.py" if home.is_dir() else home
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    first = re.split(r"[;.](?=\s|$)", " ".join(text.replace("`", "").split()))[0]
    return textwrap.shorten(first, int(N_LINES * COLUMN_WIDTH / CHARACTER_PX), placeholder="…")


def place_boxes() -> list[Box]:
    """Every part's box, from the programs at the top to the errors at the bottom."""
    boxes: list[Box] = []
    y = float(MARGIN)
    for layer in reversed(find_layers()):
        packages = [part for part in layer if is_package(part)]
        modules = tuple(part for part in layer if not is_package(part))
        free = [column for column in range(N_COLUMNS) if column not in map(COLUMNS.get, packages)]
        row = []
        for part in packages:
            column = COLUMNS[part] if part in COLUMNS else free.pop(0)
            x = MARGIN + column * (COLUMN_WIDTH + COLUMN_GAP)
            lines = (part[1:], *textwrap.wrap(purpose(part), int(COLUMN_WIDTH / CHARACTER_PX)))
            row.append(Box((part,), lines, x, y, COLUMN_WIDTH, _height(lines)))
        if modules:
            x = MARGIN + (N_COLUMNS * (COLUMN_WIDTH + COLUMN_GAP) if packages else 0)
            width = WIDTH - MARGIN - x
            names = ", ".join(part[1:] for part in modules)
            lines = tuple(textwrap.wrap(names, int(width / CHARACTER_PX)))
            row.append(Box(modules, lines, x, y, width, _height(lines)))
        height = max(box.height for box in row)
        boxes += [replace(box, height=height) for box in row]
        y += height + ROW_GAP
    return boxes


def _height(lines: tuple[str, ...]) -> int:
    return max(HEIGHT if len(lines) > 1 else 0, LINE_PX * len(lines) + 16)


def draw_architecture() -> str:
    """The picture as SVG, to stand in a page."""
    boxes = place_boxes()
    at = {part: box for box in boxes for part in box.parts}
    height = max(box.y + box.height for box in boxes) + MARGIN
    told = "Layers of the program: each part imports only parts below it"
    lines = [
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" class="architecture"',
        f'aria-label="{told}">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"',
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
    ]
    lines += [_draw_arrow(at[part], at[other]) for part, other in sorted(find_arrows())]
    lines += [line for box in boxes for line in _draw_box(box)]
    return "\n".join([*lines, "</svg>"])


def _draw_arrow(start: Box, end: Box) -> str:
    """A curve from the lower edge of a box to the upper edge of another."""
    top, tip = start.y + start.height, end.y - 2
    bend = (tip - top) / 2
    path = (
        f"M{start.middle:.1f} {top:.1f} C{start.middle:.1f} {top + bend:.1f}"
        f" {end.middle:.1f} {tip - bend:.1f} {end.middle:.1f} {tip:.1f}"
    )
    return f'<path class="arrow" d="{path}" marker-end="url(#tip)"/>'


def _draw_box(box: Box) -> Iterator[str]:
    is_one = is_package(box.parts[0])
    yield (
        f'<rect class="{"package" if is_one else "modules"}" x="{box.x:.1f}" y="{box.y:g}"'
        f' width="{box.width:.1f}" height="{box.height:g}" rx="5"/>'
    )
    first = box.y + (box.height - LINE_PX * len(box.lines)) / 2 + LINE_PX - 3
    for i, line in enumerate(box.lines):
        kind = "name" if is_one and i == 0 else "text"
        y = first + LINE_PX * i
        yield f'<text class="{kind}" x="{box.middle:.1f}" y="{y:g}">{escape(line)}</text>'
