# SPDX-License-Identifier: MIT
"""An image built of this repository, and what it is tried on.

All of it takes minutes, gigabytes and root, hence runs only where ``KRAKEN_CI_CONTAINER`` asks for
it (`pytest.mark.container`): ``docker`` for Docker's image, ``all`` for Apptainer's, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden" / "model"
TAG = "localhost/kraken-bids-test"
TOOLS = ("podman", "buildah", "runc", "mmdebstrap")
#: What a node of a cluster has beside Apptainer; Python for the libraries that ours needs there.
NODE = ("slurm-wlm", "munge", "python3")
#: Fast to pack; a published image is worth the time of more.
PACKING = "-comp zstd -Xcompression-level 1"
#: Nobody listens there.
NOWHERE = "http://127.0.0.1:9/"
RESOURCES = "shen268 coco439 krakencoder-2024"


def pytest_collection_modifyitems(items):
    asked = os.environ.get("KRAKEN_CI_CONTAINER")
    for item in items:
        marker = item.get_closest_marker("container")
        wanted = ("all", *marker.args) if marker else (asked,)
        if asked not in wanted:
            reason = f"KRAKEN_CI_CONTAINER={wanted[-1]} runs it"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def run():
    """Run a program; give what it said."""

    def start(*words, **options):
        done = subprocess.run(
            list(map(str, words)), check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=3600, **options,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-8000:]
        return done.stdout

    return start


@pytest.fixture(scope="session")
def study(tmp_path_factory, run):
    """The demo's participants, as small as they come."""
    folder = tmp_path_factory.mktemp("study") / "study"
    run(sys.executable, "-m", "kraken_bids.demo", "data", folder, "--tiny", "--participants", 2)
    return folder


@pytest.fixture(scope="session")
def model(study, run):
    """A model for them."""
    folder = study.parent / "model"
    run(
        sys.executable, "-m", "kraken_bids.demo", "model", folder, "--data", study,
        "--participants", 20, "--nprocs", 1,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def resources():
    """What the image is to hold: that of it which has a public address has a stand-in."""
    return RESOURCES


@pytest.fixture(scope="session")
def context(tmp_path_factory, study):
    """The repository as a build sees it, but whose tables name stand-ins of published files."""
    folder = tmp_path_factory.mktemp("image") / "context"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("kraken_bids", "workflows", "containers"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("Dockerfile", ".dockerignore", "Singularity.def", "pyproject.toml", "README.md",
                 "LICENSE"):  # fmt: skip
        shutil.copy(ROOT / name, folder)
    kit = folder / "resources"
    kit.mkdir()
    for atlas in ("shen268", "coco439"):
        card = folder / "kraken_bids" / "data" / "atlases" / f"{atlas}.json"
        row = json.loads(card.read_text("utf-8"))
        row["files"] = {
            role: stand_in(study / "atlases" / f"{atlas}_dseg.nii.gz", kit / file["name"])
            for role, file in row["files"].items()
        }
        card.write_text(json.dumps(row), "utf-8")
    table = folder / "kraken_bids" / "data" / "models.json"
    rows = json.loads(table.read_text("utf-8"))
    sources = {name: GOLDEN / name for name in ("mini.pt", "mini_ioxfm.npy")}
    # fetched with the model, and not opened
    sources |= {name: GOLDEN / "mini_ioxfm.npy" for name in rows["files"] if "regtarget" in name}
    for name, source in sources.items():
        rows["files"][name] = {"mirrors": []} | stand_in(source, kit / name)
        del rows["files"][name]["name"]
    rows["models"]["krakencoder-2024"] |= {
        "checkpoints": ["mini.pt"],
        "flavors": dict.fromkeys(rows["models"]["krakencoder-2024"]["flavors"], "mini_ioxfm.npy"),
    }
    table.write_text(json.dumps(rows), "utf-8")
    return folder


def stand_in(source, target):
    """Put a file into the place of a published one; give its row of a table."""
    shutil.copy(source, target)
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    return {"name": target.name, "url": NOWHERE + target.name, "sha256": sha256}


@pytest.fixture(scope="session")
def builder(context):
    """The script that builds and runs images, on a machine that has what it needs."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"images are to be built, but there is no {', '.join(missing)}"
    assert os.getuid() == 0, "images are built by root"
    return context / "containers" / "build.sh"


@pytest.fixture(scope="session")
def built(builder, run, resources):
    """Build the image; what was said of it."""
    yield run(
        builder, "build", TAG, "--build-arg", "REVISION=0123abc",
        "--build-arg", f"RESOURCES={resources}",
    )  # fmt: skip
    run(builder, "remove", TAG)


@pytest.fixture(scope="session")
def image(built):
    """Name of the image."""
    return TAG


@pytest.fixture(scope="session")
def podman(builder, run):
    """Run a container; give what it said."""

    def start(*words, **options):
        return run(builder, "run", *words, **options)

    return start


@pytest.fixture(scope="session")
def anyone():
    """Options of a user that nobody knows, on a root that cannot be written, without network."""
    user = random.randint(20_000, 60_000)
    return [
        "--user", f"{user}:{user}", "--read-only", "--tmpfs", "/tmp", "--network", "none",
        "--env", "HOME=/nowhere",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def share(tmp_path_factory):
    """Folder that the user of Apptainer has as ``/share``."""
    return tmp_path_factory.mktemp("apptainer") / "share"


@pytest.fixture(scope="session")
def apptainer_environ(share):
    """Where Apptainer is, and what of this machine is seen there: the tests and their Python."""
    lent = [ROOT, *python_folders()]
    return os.environ | {
        "KRAKEN_APPTAINER": str(share.parent),
        "KRAKEN_APPTAINER_LENT": os.pathsep.join(map(str, lent)),
    }


def python_folders():
    """Files and folders without which this Python does not run."""
    packages = Path(sysconfig.get_path("purelib"))
    if sys.base_prefix != "/usr":
        return [Path(sys.base_prefix), packages]
    return [Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib")), packages]


@pytest.fixture(scope="session")
def user_words(builder, apptainer_environ, run):
    """Words before a command that an ordinary user who has Apptainer and Slurm is to run."""
    script = builder.with_name("apptainer.sh")
    run(script, "install", *NODE, env=apptainer_environ)
    yield [str(script), "user"]
    run(script, "remove", env=apptainer_environ)


@pytest.fixture(scope="session")
def user(user_words, apptainer_environ, run):
    """Run a command as an ordinary user who has Apptainer; give what it said."""
    return lambda *words: run(*user_words, *words, env=apptainer_environ)


@pytest.fixture(scope="session")
def build(user):
    """Build an image with Apptainer, and run its ``%test``; give its path and what was said."""

    def make(name, definition, *options, **arguments):
        given = [
            word for pair in arguments.items() for word in ("--build-arg", "{}={}".format(*pair))
        ]
        told = user(
            "env", "--chdir=/source", "apptainer", "build", "--fakeroot", "--mksquashfs-args",
            PACKING, *options, *given, f"/share/{name}.sif", definition,
        )  # fmt: skip
        return f"/share/{name}.sif", told

    return make


@pytest.fixture(scope="session")
def sif(build, builder, image, share, run):
    """Apptainer's image of Docker's, which arrives as an archive."""
    run(builder, "save", image, share / "image.tar")
    path, told = build(
        "docker", "Singularity.def", BOOTSTRAP="docker-archive", IMAGE="/share/image.tar"
    )
    (share / "image.tar").unlink()
    assert "smoke test: passed" in told
    return path


@pytest.fixture(scope="session")
def shared_study(share, user, study, model):
    """The participants as ``/share/data`` and the model as ``/share/model``."""
    user("true")
    for name, source in (("data", study), ("model", model)):
        shutil.copytree(source, share / name)
    return share / "data"
