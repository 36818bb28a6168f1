# SPDX-License-Identifier: MIT
"""The Dockerfile and both definitions for Apptainer describe one image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kraken_bids import __version__

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
SIF = (ROOT / "Singularity.def").read_text("utf-8")
SCRATCH = (ROOT / "containers" / "scratch.def").read_text("utf-8")


def section(text, name):
    """Lines of a section of a definition."""
    return re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", text, re.MULTILINE | re.DOTALL)[1].split("\n")


def docker_defaults():
    """Build arguments of the Dockerfile that have a default."""
    pairs = re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE)
    return {name: value.strip('"') for name, value in pairs}


def scratch_defaults():
    lines = [line.strip().partition("=") for line in section(SCRATCH, "arguments")]
    return {name: value for name, equals, value in lines if equals and not name.startswith("#")}


@pytest.mark.parametrize("name", ["help", "environment", "runscript", "test"])
def test_both_definitions_say_the_same(name):
    lines = [line for line in section(SIF, name) if line]
    assert lines == [line for line in section(SCRATCH, name) if line]
    assert lines


def test_defaults_from_scratch_are_those_of_the_dockerfile():
    docker, scratch = docker_defaults(), scratch_defaults()
    assert scratch["IMAGE"] == docker["BASE"]
    assert {name: scratch[name] for name in ("TORCH", "RESOURCES", "VERSION", "REVISION")} == {
        name: docker[name] for name in ("TORCH", "RESOURCES", "VERSION", "REVISION")
    }
    assert scratch["VERSION"] == __version__


def test_apptainer_sets_the_variables_of_the_dockerfile():
    """The host's environment may override what an image brings; its definition comes last."""
    image = DOCKERFILE.rpartition("\nENV ")[2].partition("\n\n")[0]
    docker = set(re.findall(r"(\w+)=", image))
    apptainer = set(re.findall(r"(?:export|\s)\s*(\w+)=", "\n".join(section(SIF, "environment"))))
    assert apptainer == docker | {"PATH"}


def test_resources_are_what_the_program_measures_by_default():
    from kraken_bids.fetch import template_atlases

    assert set(docker_defaults()["RESOURCES"].split()) == set(template_atlases())


def test_every_file_that_is_copied_is_sent_to_the_build():
    """``.dockerignore`` leaves out all but what it names."""
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    words = [word.replace("[s]", "s") for line in copied for word in line.split()]
    assert set(words) == set(kept)
