# SPDX-License-Identifier: MIT
"""Apptainer images, built and run by an ordinary user: of Docker's image, and from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kraken_bids import __version__

pytestmark = pytest.mark.container

SHUT = ["--containall", "--cleanenv", "--net", "--network", "none"]


@pytest.fixture(scope="session")
def scratch_sif(build, builder, share, user, run, resources):
    """From scratch, where no registry of images is needed: on the same base as Docker's."""
    run(builder, "base", share / "base.tar")
    user("true")  # lends what pip needs here
    lent = (share.parent / "lent").read_text("utf-8").split()
    binds = [word for pair in lent for word in ("--bind", pair.partition(":")[2])]
    path, told = build(
        "scratch", "containers/scratch.def", *binds, "--bind", "/source/resources:/mnt",
        BOOTSTRAP="docker-archive", IMAGE="/share/base.tar", RESOURCES=resources,
    )  # fmt: skip
    (share / "base.tar").unlink()
    assert "smoke test: passed" in told
    return path


def test_labels_and_help_say_what_it_is(user, sif):
    labels = json.loads(user("apptainer", "--quiet", "inspect", "--json", "--labels", sif))
    labels = labels["data"]["attributes"]["labels"]
    assert labels["org.opencontainers.image.title"] == "kraken-bids"
    assert labels["org.opencontainers.image.version"] == __version__
    assert "kraken-bids.sif /data /out participant" in user(
        "apptainer", "--quiet", "run-help", sif
    )


def test_image_tests_itself(user, sif):
    assert "smoke test: passed" in user("apptainer", "test", "--containall", "--cleanenv", sif)


def test_folder_of_resources_comes_beside_the_images_own(user, sif):
    """As the README names both: Apptainer puts what is given in place of what the image sets."""
    both = "KRAKEN_BIDS_RESOURCES=/resources:/opt/kraken-bids/resources"
    readme = Path(__file__).parents[2] / "containers" / "README.md"
    assert f"--env {both}`" in readme.read_text("utf-8")
    listed = user(
        "apptainer", "--quiet", "exec", *SHUT, "--env", both, sif,
        "kraken-model", "fetch", "--list",
    )  # fmt: skip
    assert "shen268\tyes" in listed


def test_both_levels_without_network_or_home(user, sif, share, shared_study):
    """As the README says."""
    user("mkdir", "/share/out", "/share/work")
    binds = ["data:/data:ro", "model:/model:ro", "out:/out", "work:/scratch"]
    command = [
        "apptainer", "--quiet", "run", *SHUT, *(word for bind in binds for word in ("-B", bind)),
        sif, "/data", "/out",
    ]  # fmt: skip
    user(
        *command, "participant", "--modality", "func", "-w", "/scratch",
        "--pcorr-lambda", "fs86=0.06", "shen268=0.06", "coco439=0.06",
    )  # fmt: skip
    told = user(
        *command, "group", "--model", "/model", "--output-label", "demo", "--adaptation", "none",
        "-w", "/scratch",
    )  # fmt: skip
    assert "1 done" in told
    # 3 kinds of functional connectomes, 3 atlases, 2 participants
    assert len(list(share.glob("out/sub-*/func/*_relmat.tsv"))) == 18
    assert (share / "out" / "derivatives" / "krakencoder-demo" / "group.html").is_file()


def test_image_from_scratch_is_the_same(user, sif, scratch_sif):
    """The same packages and resources, found by the same variables."""
    for words in (
        ["pip", "list", "--format=freeze"],
        ["sh", "-c", "cd /opt/kraken-bids && ls -R resources && cat boutiques.json smoke_test.sh"],
        ["sh", "-c", "env | grep -E 'KRAKEN|NO_ET|PYTHON|MPL|NIPYPE|XDG' | sort"],
        ["dpkg-query", "-W", "mrtrix3"],
        ["readlink", "/run.py", "/usr/local/bin/kraken-model"],
    ):
        both = [
            user("apptainer", "--quiet", "exec", *SHUT, path, *words)
            for path in (sif, scratch_sif)
        ]
        assert both[0] == both[1]
        assert both[0]


def test_image_from_scratch_runs(user, scratch_sif):
    told = user("apptainer", "--quiet", "run", *SHUT, scratch_sif, "--version")
    assert told.strip() == f"kraken-bids {__version__}"
