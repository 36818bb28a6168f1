# SPDX-License-Identifier: MIT
"""The program's messages, read from its source: what is told, and how to mend it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Errors whose message is meant for a person.
ERRORS = frozenset({"UsageError", "InputError", "ResourceError", "ModelError"})
#: Stands for a value that is known at run time only.
GAP = "…"


@dataclass(frozen=True)
class Message:
    """A message as it stands in the source.

    Parameters
    ----------
    module
        File, relative to the package.
    what
        What is wrong, with `GAP` for each value.
    fix
        How to mend it; empty where that is found at run time.
    """

    module: str
    what: str
    fix: str

    def fits(self, text: str) -> bool:
        """Whether a text, with `GAP` or real values in it, is this message."""
        pattern = ".+".join(map(re.escape, self.what.split(GAP)))
        return bool(re.fullmatch(pattern, text, re.DOTALL))


@functools.cache
def read_messages() -> tuple[Message, ...]:
    """Every message of the program that is written out where it is raised."""
    folders = (("kraken_bids", ""), ("workflows", "workflows/"))
    found = []
    for folder, prefix in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            module = prefix + file.relative_to(ROOT / folder).as_posix()
            found += list(_messages(ast.parse(file.read_text("utf-8")), module))
    return tuple(message for message in found if message.what.strip(GAP + " .:"))


def _messages(tree: ast.Module, module: str) -> Iterator[Message]:
    for function in _functions(tree):
        named = {
            node.targets[0].id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in _own(function):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS):
                continue
            fixes = [keyword.value for keyword in node.keywords if keyword.arg == "fix"]
            fix = next(_texts(fixes[0], named), "") if fixes else ""
            for what in _texts(node.args[0], named) if node.args else ():
                yield Message(module, what, fix)


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and every function in it."""
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, those within it left out."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            yield from _own(node)


def _texts(node: ast.expr, named: Mapping[str, ast.expr]) -> Iterator[str]:
    """A text with gaps; both of a choice; nothing of what is made elsewhere."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        parts = [str(v.value) if isinstance(v, ast.Constant) else GAP for v in node.values]
        yield "".join(parts)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, named)
        yield from _texts(node.orelse, named)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for left in _texts(node.left, named):
            yield from (left + right for right in _texts(node.right, named))
    elif isinstance(node, ast.Name) and node.id in named:
        yield from _texts(named[node.id], {k: v for k, v in named.items() if k != node.id})
