# SPDX-License-Identifier: MIT
"""Scripts: their syntax, what they say, and what no file may hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [
    *sorted((ROOT / "scripts").iterdir()),
    ROOT / ".ci" / "run",
    *sorted((ROOT / "containers").glob("*.sh")),
]
#: Folders that are made, not written.
MADE = {".git", ".venv", "demo", "build", "dist", ".mypy_cache", ".ruff_cache", ".pytest_cache",
        ".hypothesis", "__pycache__", "kraken_bids.egg-info", "work"}  # fmt: skip
#: Addresses of package registries, and home folders; put together here so that this
#: file does not hold them.
BANNED = [
    "".join(parts)
    for parts in (
        ("py", "pi.org"),
        ("files.python", "hosted"),
        ("deb.", "debian.org"),
        ("archive.", "ubuntu.com"),
        ("registry.", "npmjs"),
        ("download.", "pytorch.org"),
        ("conda.", "anaconda.org"),
        ("proxy.", "golang.org"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
    )
]


def text_files():
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name for name in folders
            if name not in MADE or (name == "demo" and Path(folder).name == "kraken_bids")
        ]  # fmt: skip
        for name in names:
            file = Path(folder) / name
            try:
                yield file, file.read_text("utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_names_a_registry_or_a_machine():
    found = [
        f"{file.relative_to(ROOT)}: {word}"
        for file, text in text_files()
        for word in BANNED
        if word in text
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_bash_and_can_be_run(script):
    text = script.read_text("utf-8")
    assert text.startswith(("#!/usr/bin/env bash\n", "#!/bin/sh\n"))
    assert "\nset -eu" in text
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.fixture
def clone(tmp_path):
    """A folder with a space in its name that holds what the scripts need."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "containers").mkdir()
    shutil.copy(ROOT / "containers" / "requirements.lock", folder / "containers")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def run(clone, tmp_path):
    """Run ``scripts/install`` with nothing but the programs given, each a line of shell."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name in ("bash", "sh", "env", "dirname", "sed", "cat", "rm", "uname", "true"):
        (bin_dir / name).symlink_to(shutil.which(name))

    def install(*arguments, programs, **variables):
        for name, line in programs.items():
            (bin_dir / name).write_text(f"#!/bin/sh\n{line}\n")
            (bin_dir / name).chmod(0o755)
        command = [str(clone / "scripts" / "install"), *arguments]
        environment = {"PATH": str(bin_dir), **variables}
        return subprocess.run(
            command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    return install


PYTHON = f'exec "{sys.executable}" "$@"'


def test_install_asks_for_a_python(run):
    result = run(programs={"python3": "exit 1"})
    assert result.returncode == 1
    assert "no Python 3.11 or newer found" in result.stderr


def test_install_refuses_a_python_that_is_too_old_or_absent(run):
    result = run(programs={"python3": PYTHON}, PYTHON="python-of-old")
    assert result.returncode == 1
    assert "PYTHON=python-of-old" in result.stderr


@pytest.mark.parametrize(
    ("programs", "variables"),
    [
        ({}, {"KRAKEN_NO_APT": "1"}),
        ({"id": "echo 1000", "sudo": "exit 1", "apt-get": "exit 9"}, {}),
        ({"id": "echo 0"}, {}),
    ],
    ids=["not wanted", "no rights", "no apt-get"],
)
def test_install_says_the_one_line_where_it_may_not_install(run, programs, variables):
    result = run(programs={"python3": PYTHON, "id": "echo 0", **programs}, **variables)
    assert result.returncode == 1
    assert "please run: sudo apt-get install -y mrtrix3" in result.stderr


def test_install_takes_mrtrix3_from_the_system(run, tmp_path):
    log = tmp_path / "log"
    result = run(programs={
        "python3": PYTHON,
        "id": "echo 0",
        "apt-get": f'echo "$@" >> "{log}"; [ "$1" = update ]',  # installing fails
    })  # fmt: skip
    assert result.returncode == 1
    assert "could not install mrtrix3" in result.stderr
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["install", "update", "install"]
    assert all("mrtrix3" in line for line in lines if line.startswith("install"))


def fake_venv(clone, log):
    """An environment made before, whose Python has torch and writes down what it is asked."""
    bin_dir = clone / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    home = f"{sys.version.split()[0]} {sys.base_prefix} {clone}\n"
    (clone / ".venv" / ".installed").write_text(home)
    (bin_dir / "python").write_text(f'#!/bin/sh\necho "$@" >> "{log}"\n')
    (bin_dir / "python").chmod(0o755)


def test_install_does_nothing_the_second_time(run, clone, tmp_path):
    log = tmp_path / "log"
    programs = {"python3": PYTHON, "tckgen": "exit 0"}
    fake_venv(clone, log)
    first = run("--test", programs=programs)
    assert first.returncode == 0, first.stderr
    assert "--editable .[test]" in log.read_text()
    assert "--constraint containers/requirements.lock" in log.read_text()
    log.write_text("")
    for arguments in (("--test",), ()):
        again = run(*arguments, programs=programs)
        assert (again.returncode, again.stdout, log.read_text()) == (0, "", "")


@pytest.mark.parametrize("changed", ["pyproject.toml", "containers/requirements.lock"])
def test_install_starts_again_when_requirements_change(run, clone, tmp_path, changed):
    log = tmp_path / "log"
    programs = {"python3": PYTHON, "tckgen": "exit 0"}
    fake_venv(clone, log)
    run(programs=programs)
    log.write_text("")
    with (clone / changed).open("a") as file:
        file.write("# changed\n")
    assert run(programs=programs).returncode == 0
    assert "install" in log.read_text()


def test_install_adds_what_tests_need_to_a_plain_environment(run, clone, tmp_path):
    log = tmp_path / "log"
    programs = {"python3": PYTHON, "tckgen": "exit 0"}
    fake_venv(clone, log)
    run(programs=programs)
    log.write_text("")
    run("--test", programs=programs)
    assert ".[test]" in log.read_text()


def test_the_lock_holds_exact_versions_of_all_requirements():
    import re
    import tomllib

    def plain(name):
        return re.sub(r"[-_.]+", "-", re.split(r"[\s=<>!\[;]", name)[0]).lower()

    lines = (ROOT / "containers" / "requirements.lock").read_text("utf-8").split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    ours = {"torch", "kraken-bids"}
    assert {plain(name) for name in wanted} - ours <= {plain(line) for line in lines}
