# SPDX-License-Identifier: MIT
"""What training takes of memory, and where it puts the rest."""

import os
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from kraken_bids.errors import ResourceError
from kraken_bids.model.training.scratch import Scratch, keep_rows

N, REGIONS, N_FLAVORS = 100, 200, 10
#: A flavor takes 8 MB, all of them 80 MB; a process may take this much more than when it starts.
ALLOWED = 56 << 20

TRAIN = textwrap.dedent(
    """
    import resource, sys
    import torch, numpy, safetensors, h5py, PIL.Image, matplotlib.backends.backend_agg
    from kraken_bids.model.training import pca, scratch
    from kraken_bids.model_commands import training_setup
    from kraken_bids.model_commands.cli import main

    # libraries make themselves room with the first product
    for eye in (torch.eye(600), numpy.eye(600), numpy.eye(600, dtype=numpy.float32)):
        eye @ eye
    torch.linalg.eigh(torch.eye(60).double())
    pca._BLOCK_BYTES = 4 << 20
    scratch.IN_MEMORY = int(sys.argv[1])
    with open("/proc/self/status") as status:
        used = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * used + int(sys.argv[2]),) * 2)
    sys.exit(main(sys.argv[3:]))
    """
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Ten flavors of a hundred participants, a file each."""
    folder, rng = tmp_path_factory.mktemp("cohort"), np.random.default_rng(1)
    n_edges = REGIONS * (REGIONS - 1) // 2
    texts = []
    for number in range(N_FLAVORS):
        file = folder / f"FCcorr_mine{number}_hpf.npy"
        np.save(file, rng.standard_normal((N, n_edges), dtype=np.float32))
        texts.append(str(file))
    return texts


def train(cohort, folder, in_memory):
    words = ["train", "--input", *cohort, "--output", str(folder / "model"), "--components", "8",
             "--latent-size", "8", "--epochs", "1", "--device", "cpu", "--test", ".1"]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", TRAIN, str(in_memory), str(ALLOWED), *words],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")
def test_memory_does_not_grow_with_the_number_of_flavors(cohort, tmp_path):
    done = train(cohort, tmp_path, in_memory=0)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()
    left = [path.name for path in (tmp_path / "model-training").iterdir()]
    assert sorted(left) == ["checkpoint.npz", "split.tsv", "training.png", "training.tsv"]
    # the limit means something: it does not hold the same cohort in memory
    assert "MemoryError" in train(cohort, tmp_path, in_memory=1 << 40).stderr


def test_few_arrays_stay_in_memory(tmp_path):
    scratch = Scratch(tmp_path, in_memory=4 * 12)
    first, second = scratch.zeros((3, 4)), scratch.zeros((3, 4))
    assert first.base is None
    assert isinstance(second.base, np.memmap)
    second[1] = 5
    assert second.sum() == 20
    assert not list(tmp_path.iterdir())  # the file has no name


def test_full_disk_is_told(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    scratch = Scratch(tmp_path, in_memory=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ResourceError, match=r"no room for 0.0 GB of connectomes: .*--records"):
            scratch.zeros((100, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_rows_are_kept_in_place():
    array = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    kept = keep_rows(array, [0, 2, 3])
    assert kept.tolist() == [[0, 1, 2], [6, 7, 8], [9, 10, 11]]
    assert np.shares_memory(kept, array)
