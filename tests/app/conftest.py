# SPDX-License-Identifier: MIT
"""The whole program, from the outside: simulated participants, a small model, both levels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.connectome.edges import n_edges
from kraken_bids.flavors import CORE_FLAVORS
from tests.app.slurm import Slurm, running_slurm

#: Few, but enough for 439 regions to have some; the same number for each algorithm.
N_STREAMLINES = 3000


#: Simulated runs have fewer volumes than regions: partial correlations are made all the same.
FIXED_LAMBDAS = ("fs86=0.06", "shen268=0.06", "coco439=0.06")


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    text: str


def kraken(*words: object, timeout_s: float = 500) -> Done:
    """Run ``kraken-bids`` as a person would."""
    command = [sys.executable, "-m", "kraken_bids", *map(str, words)]
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Done(done.returncode, done.stdout)


def atlas_files(data: Path) -> list[str]:
    """The data set's own label images, as options."""
    folder = data / "atlases"
    names = ("shen268", "coco439")
    return ["--atlas-file", *(f"{name}={folder / name}_dseg.nii.gz" for name in names)]


def list_files(root: Path) -> list[str]:
    """Files under a folder, relative, sorted; hidden folders and logs left out."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(
        str(path) for path in paths if path.parts[0] not in {".kraken-bids", "logs", "derivatives"}
    )


@dataclass(frozen=True)
class Line:
    """A finished run of both levels."""

    data: Path
    results: Path
    predictions: Path
    model: Path
    work: Path
    participants: tuple[str, ...]
    participant_level: Done
    group_level: Done

    def participant_words(self) -> list[object]:
        """The command line of the participant level."""
        return [
            self.data, self.results, "participant", *atlas_files(self.data), "--sloppy",
            "--pcorr-lambda", *FIXED_LAMBDAS,
            "--streamlines", N_STREAMLINES, "-w", self.work, "--keep-work", "--nprocs", 2,
        ]  # fmt: skip

    def group_words(self) -> list[object]:
        """The command line of the group level."""
        return [
            self.data, self.results, "group", "--model", self.model, "--output-label", "tiny",
            "-w", self.work, "--nprocs", 2,
        ]  # fmt: skip


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three simulated participants, coarse and short."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    words = ["data", folder, "--participants", 3, "--tiny", "--nprocs", 2]
    command = [sys.executable, "-m", "kraken_bids.demo", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of all fifteen flavors, trained on smooth random connectomes."""
    from kraken_bids.model.training import train_krakencoder

    rng = np.random.default_rng(3)
    factors = rng.normal(size=(24, 6))
    connectomes = {}
    for flavor in CORE_FLAVORS:
        edges = n_edges(load_atlas(flavor.atlas).n_regions)
        common = rng.random(edges) + 0.1 * factors @ rng.normal(size=(6, edges))
        values = common + 0.02 * rng.normal(size=(24, edges))
        connectomes[str(flavor)] = values.astype(np.float32)
    folder = tmp_path_factory.mktemp("model") / "small"
    train_krakencoder(connectomes, folder, n_components=12, latent_size=128, epochs=20, seed=0)
    return folder


@pytest.fixture(scope="session")
def line(demo_data: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Both levels, run once for all tests that look at the outputs."""
    root = tmp_path_factory.mktemp("line")
    made = Line(
        data=demo_data,
        results=root / "results",
        predictions=root / "results" / "derivatives" / "krakencoder-tiny",
        model=small_model,
        work=root / "work",
        participants=("01", "02", "03"),
        participant_level=Done(-1, ""),
        group_level=Done(-1, ""),
    )
    first = kraken(*made.participant_words())
    second = kraken(*made.group_words())
    return Line(**{**vars(made), "participant_level": first, "group_level": second})


@pytest.fixture(scope="session")
def run() -> Callable[..., Done]:
    """``kraken-bids``, as a person would run it."""
    return kraken


@pytest.fixture
def listed() -> Callable[[Path], list[str]]:
    """Files of a data set, without what is hidden, logged or nested."""
    return list_files


@pytest.fixture
def expected() -> Callable[[str, Sequence[str]], list[str]]:
    """Names of a list of expected outputs, for some participants."""

    def names(name: str, participants: Sequence[str]) -> list[str]:
        text = (Path(__file__).parent / f"expected_{name}.txt").read_text()
        return sorted({
            row.format(participant=participant)
            for row in text.split()
            for participant in participants
        })

    return names


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A running Slurm."""
    with running_slurm(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def lab(slurm: Slurm) -> Slurm:
    """Slurm, with no jobs that other tests have left."""
    slurm.forget()
    return slurm


@pytest.fixture
def study(demo_data: Path, tmp_path: Path) -> Path:
    """A data set of its own, of links: files may be replaced."""
    root = tmp_path / "study"
    root.mkdir()
    for path in sorted(demo_data.rglob("*")):
        target = root / path.relative_to(demo_data)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.symlink_to(path)
    return root


def damage(study: Path, participant: str) -> Callable[[], None]:
    """Empty a participant's brain masks; gives what undoes it."""
    masks = {}
    for path in study.glob(f"derivatives/fmriprep/sub-{participant}/func/*-brain_mask.nii.gz"):
        masks[path] = path.readlink()
        image = nib.load(path)
        path.unlink()
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    assert masks

    def mend() -> None:
        for path, original in masks.items():
            path.unlink()
            path.symlink_to(original)

    return mend
