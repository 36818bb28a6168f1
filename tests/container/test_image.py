# SPDX-License-Identifier: MIT
"""The image, really built and run: by any user, without network, home or writable root.

Takes minutes and gigabytes, hence runs only where ``KRAKEN_CI_CONTAINER=1`` asks for it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "containers" / "build.sh"
TAG = "localhost/kraken-bids-test"
MAX_BYTES = 2.5e9
TOOLS = ("podman", "buildah", "runc", "mmdebstrap")

pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(
        os.environ.get("KRAKEN_CI_CONTAINER") != "1", reason="KRAKEN_CI_CONTAINER=1 runs it"
    ),
]


def podman(*words: object, seconds: float = 900) -> str:
    """Run a container; give what it said."""
    command = [str(BUILD), "run", *map(str, words)]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=seconds,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def image():
    """The Dockerfile's image; the test's size limit is that of what it unpacks to."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"KRAKEN_CI_CONTAINER=1, but there is no {', '.join(missing)}"
    assert os.getuid() == 0, "KRAKEN_CI_CONTAINER=1, but images are built by root"
    done = subprocess.run(
        [str(BUILD), "build", TAG, "--build-arg", "VERSION=test", "--build-arg", "REVISION=0"],
        check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=2400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    yield TAG, done.stdout
    subprocess.run([str(BUILD), "remove", TAG], check=True)


@pytest.fixture(scope="session")
def anyone():
    """Options of a user that nobody knows, on a root that cannot be written, without network."""
    user = random.randint(20_000, 60_000)
    return [
        "--user", f"{user}:{user}", "--read-only", "--tmpfs", "/tmp", "--network", "none",
        "--env", "HOME=/nowhere",
    ]  # fmt: skip


def test_image_is_small(image):
    size = int(re.search(rf"{TAG}: (\d+) bytes", image[1])[1])
    assert size < MAX_BYTES


def versions(text: str) -> dict[str, str]:
    """Version of each package by its normalized name."""
    pairs = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def test_image_holds_what_the_lock_says(image, anyone):
    """Python packages are those of the lock, in its versions; beside them torch and ourselves."""
    lock = (ROOT / "containers" / "requirements.lock").read_text("utf-8")
    locked = versions(lock)
    found = versions(podman(*anyone, "--entrypoint", "pip", TAG, "list", "--format=freeze"))
    assert found.pop("torch").startswith("2.13.0")
    brought = {"kraken-bids", "pip", "setuptools", "wheel"}
    wrong = {
        name: version
        for name, version in found.items()
        if name not in brought and locked.get(name) != version
    }
    assert not wrong


def test_image_keeps_nothing_of_where_it_was_built(image, anyone):
    told = podman(
        *anyone, "--entrypoint", "sh", TAG, "-c",
        "find /etc/pip.conf /root /home /src /tmp /wheels -type f -size +0 2>/dev/null; true",
    )  # fmt: skip
    files = [line for line in told.splitlines() if not line.endswith((".bashrc", ".profile"))]
    assert not files


def test_smoke_test_passes(image, anyone):
    told = podman(*anyone, "--entrypoint", "/opt/kraken-bids/smoke_test.sh", TAG, "--full")
    assert "smoke test: passed" in told


def test_both_levels_as_the_readme_says(image, anyone, tmp_path):
    """The demo of the README, in the image: folders are bound, inputs read-only."""
    for name in ("data", "results", "work"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    tmp_path.chmod(0o755)
    demo = [*anyone, "-v", f"{tmp_path}/data:/data", "--entrypoint", "kraken-demo", TAG]
    podman(*demo, "data", "/data/study", "--tiny", "--participants", 2)
    podman(*demo, "model", "/data/model", "--data", "/data/study", "--participants", 20)
    folders = [
        "-v", f"{tmp_path}/data/study:/data:ro", "-v", f"{tmp_path}/data/model:/model:ro",
        "-v", f"{tmp_path}/results:/out", "-v", f"{tmp_path}/work:/scratch",
    ]  # fmt: skip
    run = [*anyone, *folders, TAG, "/data", "/out"]
    podman(*run, "participant", "--modality", "func", "--atlases", "fs86", "-w", "/scratch")
    told = podman(
        *run, "group", "--model", "/model", "--output-label", "demo", "--adaptation", "none",
        "-w", "/scratch",
    )  # fmt: skip
    assert "1 done" in told
    results = tmp_path / "results"
    assert len(list(results.glob("sub-*/func/*_relmat.tsv"))) == 4
    assert (results / "derivatives" / "krakencoder-demo" / "group.html").is_file()
    assert not list((tmp_path / "work").rglob(".*.claim"))
