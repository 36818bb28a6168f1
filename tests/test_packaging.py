# SPDX-License-Identifier: MIT
"""What ships, and that asking for help stays quick."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HEAVY = ("numpy", "scipy", "pandas", "torch", "nipype", "nibabel", "nilearn", "matplotlib", "bids")


def test_every_package_is_in_the_list():
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "kraken_bids").rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == {*folders, "kraken_bids.workflows"}


def test_every_folder_with_modules_is_a_package():
    folders = {file.parent for file in (ROOT / "kraken_bids").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_package_imported_is_required():
    """What another requirement happens to bring may be gone with its next version."""
    names = {"bids": "pybids", "PIL": "pillow", "zlib_ng": "zlib-ng", "tomli_w": "tomli-w",
             "yaml": "pyyaml"}  # fmt: skip
    required = {re.split(r"[<>=!~]", line)[0] for line in PROJECT["project"]["dependencies"]}
    files = [*(ROOT / "kraken_bids").rglob("*.py"), *(ROOT / "workflows").glob("*.py")]
    imported = {
        name.split(".")[0]
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        for name in imported_names(node)
    } - {"kraken_bids", *sys.stdlib_module_names}
    assert {names.get(name, name) for name in imported} <= required


def imported_names(node):
    """Names of the modules that a statement imports, without our own."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module]
    return []


def test_the_version_is_that_of_the_package():
    from kraken_bids import __version__

    assert importlib.metadata.version("kraken-bids") == __version__


@pytest.mark.parametrize("program", PROJECT["project"]["scripts"])
def test_programs_are_quick_to_help(program):
    module, _, function = PROJECT["project"]["scripts"][program].partition(":")
    code = (
        f"import sys; sys.argv = [{program!r}, '--help']\n"
        f"from {module} import {function} as main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"usage: {program}" in result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names of the files of a wheel built from a copy of the project's sources."""
    folder = tmp_path_factory.mktemp("project")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("kraken_bids", "workflows"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
               "--no-index", "--quiet", "--wheel-dir", "out", "."]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (file,) = (folder / "out").glob("kraken_bids-*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_ships_workflows_inside_the_package(wheel):
    files = {file.name for file in (ROOT / "workflows").glob("*.py")}
    assert {f"kraken_bids/workflows/{name}" for name in files} <= wheel
    assert not any(name.startswith(("workflows/", "tests/")) for name in wheel)


@pytest.mark.slow
def test_the_wheel_ships_every_module_and_data_file(wheel):
    files = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "kraken_bids").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    assert set(files) <= wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_python_interface_is_at_the_top():
    import kraken_bids

    assert kraken_bids.Krakencoder.__module__ == "kraken_bids.model.krakencoder"
    assert kraken_bids.PCAProjection.__module__ == "kraken_bids.model.projection"
    with pytest.raises(AttributeError, match="Krakenkoder"):
        kraken_bids.Krakenkoder  # noqa: B018
