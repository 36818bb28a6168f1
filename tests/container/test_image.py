# SPDX-License-Identifier: MIT
"""The image, really built and run: by any user, without network, home or writable root."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kraken_bids import __version__

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 2.5e9

pytestmark = pytest.mark.container("docker")


def test_image_is_small(built, image):
    """Unpacked, with PyTorch for the CPU and MRtrix3; the stand-in of a model weighs nothing."""
    size = int(re.search(rf"{image}: (\d+) bytes", built)[1])
    assert size < MAX_BYTES


def versions(text: str) -> dict[str, str]:
    """Version of each package by its normalized name."""
    pairs = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def test_image_holds_what_the_lock_says(podman, image, anyone):
    """Python packages are those of the lock, in its versions; beside them torch and ourselves."""
    lock = (ROOT / "containers" / "requirements.lock").read_text("utf-8")
    locked = versions(lock)
    found = versions(podman(*anyone, "--entrypoint", "pip", image, "list", "--format=freeze"))
    assert found.pop("torch").startswith("2.13.0")
    brought = {"kraken-bids", "pip", "setuptools", "wheel"}
    wrong = {
        name: version
        for name, version in found.items()
        if name not in brought and locked.get(name) != version
    }
    assert not wrong


def test_image_keeps_nothing_of_where_it_was_built(podman, image, anyone):
    told = podman(
        *anyone, "--entrypoint", "sh", image, "-c",
        "find /etc/pip.conf /root /home /src /kit /tmp /wheels -type f -size +0 2>/dev/null; true",
    )  # fmt: skip
    files = [line for line in told.splitlines() if not line.endswith((".bashrc", ".profile"))]
    assert not files


def test_labels_say_what_it_is(builder, image):
    text = subprocess.run(
        ["podman", "image", "inspect", "--format", "{{json .Labels}}", image],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    prefix = "org.opencontainers.image."
    labels = {key.removeprefix(prefix): value for key, value in json.loads(text).items()}
    assert labels["title"] == "kraken-bids"
    assert labels["version"] == __version__
    assert labels["revision"] == "0123abc"
    assert labels["base.name"].startswith(("localhost/", "docker.io/"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])
    assert labels["licenses"]
    assert labels["description"]


@pytest.mark.parametrize(
    "words",
    [
        ["--entrypoint", "/run.py", "IMAGE", "--version"],
        ["--entrypoint", "bash", "IMAGE", "-lc", "kraken-bids --version"],
        ["IMAGE", "--version"],
    ],
    ids=["run.py", "login shell", "entry point"],
)
def test_program_is_where_bids_apps_have_it(podman, image, anyone, words):
    told = podman(*anyone, *[image if word == "IMAGE" else word for word in words])
    assert told.strip() == f"kraken-bids {__version__}"


def test_smoke_test_passes(podman, image, anyone):
    told = podman(*anyone, "--entrypoint", "/opt/kraken-bids/smoke_test.sh", image)
    assert "smoke test: passed" in told


def test_resources_are_in_the_image(podman, image, anyone):
    """The model as a bundle, without what it was made of; all else under its published name."""
    told = podman(*anyone, "--entrypoint", "kraken-model", image, "describe", "krakencoder-2024")
    assert "latent" in told
    listed = podman(*anyone, "--entrypoint", "ls", image, "/opt/kraken-bids/resources")
    assert sorted(listed.split()) == [
        "cocommpsuit439_allsubj_mode.nii.gz", "cocommpsuit439_dil1_allsubj_mode.nii.gz",
        "kraken_regtarget_FCpcorr_coco439_hpf_HCPYA710train.mat",
        "kraken_regtarget_FCpcorr_fs86_hpf_HCPYA710train.mat",
        "kraken_regtarget_FCpcorr_shen268_hpf_HCPYA710train.mat",
        "krakencoder-2024", "shen268_MNI1mm_dil1.nii.gz",
    ]  # fmt: skip


def test_altered_atlas_fails_the_build(builder, image):
    """Neither is a file of other bytes taken, nor is there a network to fetch the right one."""
    file = builder.parents[1] / "resources" / "shen268_MNI1mm_dil1.nii.gz"
    original = file.read_bytes()
    file.write_bytes(original[:-1] + b"x")
    try:
        done = subprocess.run(
            [str(builder), "build", "localhost/kraken-bids-altered", "--target", "resources",
             "--build-arg", "RESOURCES=shen268"],
            check=False, capture_output=True, text=True, timeout=3600,
        )  # fmt: skip
    finally:
        file.write_bytes(original)
    assert done.returncode != 0
    assert "SHA-256 differs" in done.stdout + done.stderr
    assert "/kit is the folder resources/" in done.stdout + done.stderr


@pytest.fixture
def folders(tmp_path):
    """Folders for results and scratch files that anybody may write to."""
    for name in ("results", "work"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    return tmp_path


def test_both_levels_as_the_readme_says(podman, image, anyone, study, model, folders):
    """Inputs are bound read-only, atlases are those of the image."""
    command = [
        *anyone, "-v", f"{study}:/data:ro", "-v", f"{model}:/model:ro",
        "-v", f"{folders}/results:/out", "-v", f"{folders}/work:/scratch", image, "/data", "/out",
    ]  # fmt: skip
    podman(
        *command, "participant", "-w", "/scratch", "--sloppy", "--streamlines", "2k",
        "--pcorr-lambda", "fs86=0.06", "shen268=0.06", "coco439=0.06",
    )  # fmt: skip
    told = podman(
        *command, "group", "--model", "/model", "--output-label", "demo", "--adaptation", "none",
        "-w", "/scratch",
    )  # fmt: skip
    assert "1 done" in told
    results = folders / "results"
    # 7 kinds of connectomes, 3 atlases, 2 participants
    assert len(list(results.glob("sub-*/*/*_relmat.tsv"))) == 42
    assert (results / "derivatives" / "krakencoder-demo" / "group.html").is_file()
    assert not list((folders / "work").rglob(".*.claim"))


def test_boutiques_runs_the_image(podman, image, study, folders, builder, monkeypatch):
    """The image's own descriptor is a command line that Boutiques can start."""
    from boutiques.bosh import bosh

    text = podman("--entrypoint", "cat", image, "/opt/kraken-bids/boutiques.json")
    descriptor = json.loads(text) | {"container-image": {"type": "docker", "image": image}}
    (folders / "boutiques.json").write_text(json.dumps(descriptor))
    values = {"bids_dir": str(study), "output_dir": "results", "level": "participant",
              "modality": "func", "atlases": ["fs86"], "dry_run": True}  # fmt: skip
    (folders / "values.json").write_text(json.dumps(values))
    # Docker, as Boutiques looks for it and calls it.
    docker = folders / "docker"
    docker.write_text(
        f'#!/bin/sh\n[ "$1" = run ] || exit 0\nshift\nexec {builder} run --network none "$@"\n'
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folders}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(folders))
    monkeypatch.chdir(folders)
    assert shutil.which("docker") == str(docker)
    done = bosh([
        "exec",
        "launch",
        "boutiques.json",
        "values.json",
        "--skip-data-collection",
        "--no-pull",
    ])
    assert done.exit_code == 0, done.stderr
    assert "dry run: 2 of 2 sessions are to be done" in done.stdout + done.stderr
