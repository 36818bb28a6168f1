# SPDX-License-Identifier: MIT
"""Who may import whom, what every module must have, and that ports are documented."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN_NAMES = {"utils", "util", "misc", "helpers", "common", "tools"}
#: An interface loads, calls and saves. The aim is 15 lines; whoever needs more than this many
#: has put into the interface what belongs into a function.
MAX_RUN_LINES = 30

#: What a part may import: parts of ours with a dot before their name, packages of others as they
#: are called. A part of ours that is not named here belongs to the programs (`PROGRAMS`).
ALLOWED: dict[str, set[str]] = {
    ".errors": set(),
    ".settings": set(),
    ".flavors": {".errors"},
    ".atlases": {".errors"},
    ".plan": {".errors"},
    ".cgroups": set(),
    ".console": set(),
    ".machine": {".errors", ".cgroups"},
    ".storage": {".errors"},
    ".image_loading": {".storage", "numpy", "nibabel"},
    ".hdf5_loading": {".storage", "h5py"},
    ".download": {".errors", ".atlases"},
    ".published": {".errors", ".flavors", ".atlases"},
    ".fetch": {".errors", ".flavors", ".atlases", ".download", ".published"},
    ".connectome": {".errors", ".flavors", "numpy", "scipy"},
    ".model": {".errors", ".storage", ".flavors", ".download", ".fetch", ".published",
               ".connectome", ".formats", ".hdf5_loading",
               "numpy", "scipy", "torch", "safetensors", "h5py"},
    ".formats": {".errors", ".storage", ".flavors", ".atlases", ".connectome", ".bids",
                 ".hdf5_loading", "numpy", "scipy", "h5py", "zlib_ng", "orjson"},
    ".images": {".errors", ".plan", ".image_loading", ".hdf5_loading",
                "numpy", "scipy", "nibabel", "nitransforms", "h5py", "zlib_ng"},
    ".bids": {".errors", ".storage", ".flavors", ".atlases", ".plan", ".settings",
              ".image_loading", ".hdf5_loading", "numpy", "nibabel", "bids", "orjson", "h5py"},
    ".completion": {".errors", ".storage", ".bids"},
    ".claims": {".errors", ".storage"},
    ".traces": {".errors", ".storage", ".bids"},
    ".references": {".errors"},
    ".report": {".console", ".errors", ".storage", ".flavors", ".atlases", ".bids",
                "numpy", "matplotlib", "PIL", "jinja2", "safetensors"},
    ".interfaces": {".errors", ".storage", ".flavors", ".atlases", ".plan", ".bids", ".connectome",
                    ".model", ".formats", ".images", ".report", ".completion",
                    "numpy", "nibabel", "nipype"},
    ".workflows": {".errors", ".flavors", ".atlases", ".plan", ".settings", ".bids", ".interfaces",
                   "nipype"},
    ".demo": {".errors", ".flavors", ".atlases", ".bids", ".connectome", ".model", ".images",
              "numpy", "scipy", "nibabel", "nilearn", "h5py", "threadpoolctl"},
    ".failures": {".errors"},
    ".plugin_file": {".errors", "yaml"},
    ".cluster_plugins": {".errors", ".failures", ".execution", "nipype"},
    ".execution": {".console", ".errors", ".settings", ".failures", ".plugin_file",
                   ".cluster_plugins", "nipype", "threadpoolctl"},
}  # fmt: skip
#: Modules that only the command lines are made of; they may import any part but the demo.
PROGRAMS = {
    ".cli", ".arguments", ".boilerplate", ".boilerplate_structural", ".citation",
    ".group_pages", ".parser", ".programs", ".session_facts", ".lambda_search", ".progress",
    ".ready_connectomes", ".ready_streamlines", ".run", ".run_group", ".run_single", ".scratch",
    ".status", ".model_commands", ".submit", ".__main__",
}  # fmt: skip
#: Narrower than a whole part: what of it may be used.
ONLY = {
    (".workflows", ".bids"): {"kraken_bids.bids.names"},
    # what readers give and writers take, not how: the model knows no file format
    (".model", ".formats"): {"kraken_bids.formats.inputs", "kraken_bids.formats.outputs"},
    # what is a correlation and what a target is told as by kraken-model pcorr
    (".interfaces", ".formats"): {"kraken_bids.formats.reading.correlations"},
}
#: Loaded inside functions only, so that `--help` stays quick and workers stay small.
LAZY = {"torch", "nilearn", "matplotlib", "bids"}
LAZY_HOMES = {".model": {"torch"}, ".demo": {"nilearn"}}


def module_name(file):
    """Dotted name of a file, whichever folder it lies in."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "workflows":
        parts.insert(0, "kraken_bids")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(
    file
    for folder in ("kraken_bids", "workflows")
    for file in (ROOT / folder).rglob("*.py")
)  # fmt: skip
IDS = [module_name(file) for file in FILES]


def imports(file):
    """Every import as line, target and whether it stands at the top of the module."""
    tree = ast.parse(file.read_text("utf-8"))
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    top = set(_top_level(tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # "from . import x" may name a module or a value: both lie below the package.
            targets = [module] if node.module else [f"{module}.{a.name}" for a in node.names]
        else:
            continue
        for target in targets:
            yield node.lineno, target, node in top


def _top_level(body):
    """Statements run on import: not those in functions or behind TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _top_level(node.orelse)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _top_level([*node.body, *getattr(node, "orelse", [])])
        elif isinstance(node, ast.ClassDef):
            yield from _top_level(node.body)
        else:
            yield node


def part_of(target):
    """The part that a dotted name belongs to; None for Python's own and our version."""
    names = target.split(".")
    if names[0] != "kraken_bids":
        return None if names[0] in sys.stdlib_module_names else names[0]
    if len(names) == 1 or names[1] == "__version__":
        return None
    return f".{names[1]}"


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_imports_keep_to_the_layers(file):
    home = part_of(module_name(file))
    if home is None:
        return
    assert home in ALLOWED or home in PROGRAMS, f"give {home} a row in ALLOWED"
    wrong = []
    for line, target, _ in imports(file):
        part = part_of(target)
        if part in {None, home}:
            continue
        if home in PROGRAMS:
            allowed = part not in {".demo"}
        else:
            allowed = part in ALLOWED[home]
            only = ONLY.get((home, part), {target})
            allowed &= any(target == name or target.startswith(f"{name}.") for name in only)
        if not allowed:
            wrong.append(f"line {line}: {home} may not import {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_heavy_packages_are_imported_where_they_are_used(file):
    home = part_of(module_name(file))
    allowed = LAZY_HOMES.get(home, set())
    wrong = [
        f"line {line}: {target}"
        for line, target, on_import in imports(file)
        if on_import and part_of(target) in LAZY - allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_modules_import_and_hold_what_is_asked_of_them_later(file):
    importlib.import_module(module_name(file))
    tree = ast.parse(file.read_text("utf-8"))
    package = module_name(file).split(".")
    package = package if file.name == "__init__.py" else package[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        target = ".".join([*base, *([node.module] if node.module else [])])
        if target.split(".")[0] != "kraken_bids":
            continue
        module = importlib.import_module(target)
        for alias in node.names:
            if not hasattr(module, alias.name):
                importlib.import_module(f"{target}.{alias.name}")


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_modules_open_with_licence_and_purpose(file):
    text = file.read_text("utf-8")
    assert text.startswith("# SPDX-License-Identifier: MIT\n")
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_no_module_is_a_drawer(file):
    assert not FORBIDDEN_NAMES & set(file.relative_to(ROOT).with_suffix("").parts)


INTERFACES = [file for file in FILES if file.parent.name == "interfaces"]


@pytest.mark.parametrize("file", INTERFACES, ids=[file.stem for file in INTERFACES])
def test_interfaces_are_thin(file):
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "_run_interface":
            n_lines = node.end_lineno - node.lineno
            assert n_lines <= MAX_RUN_LINES, f"line {node.lineno}: {n_lines} lines"


def factories():
    """Every `init_*_wf` of the workflows, with its file."""
    for file in (ROOT / "workflows").glob("*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and re.fullmatch(r"init_\w+_wf", node.name):
                yield pytest.param(node, id=f"{file.stem}.{node.name}")


def port_fields(function, port):
    """Fields of a factory's input or output node, as far as they are written out."""
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and _keyword(node, "name") == port):
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and "IdentityInterface" in ast.dump(inner.func):
                return _keyword(inner, "fields") or []
    return []


def _keyword(call, name):
    for keyword in call.keywords:
        if keyword.arg == name:
            try:
                return ast.literal_eval(keyword.value)
            except ValueError:
                return None
    return None


def section(docstring, title):
    """Text of a section of a numpydoc docstring."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", docstring, re.S | re.M)
    return found.group(1) if found else ""


@pytest.mark.parametrize("function", factories())
@pytest.mark.parametrize(("port", "title"), [("inputnode", "Inputs"), ("outputnode", "Outputs")])
def test_ports_are_documented(function, port, title):
    text = section(ast.get_docstring(function) or "", title)
    missing = [
        name for name in port_fields(function, port)
        if not re.search(rf"^{name}\b|^.*, {name}\b", text, re.M)
    ]  # fmt: skip
    assert not missing, f"{function.name}: not in section {title}: {', '.join(missing)}"


@pytest.mark.parametrize("function", factories())
def test_factories_take_keywords(function):
    assert len(function.args.args) <= 2
    assert ast.get_docstring(function)
