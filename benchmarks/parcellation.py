# SPDX-License-Identifier: MIT
"""CPU time of the one pass over a BOLD series against what it replaces.

Prints ratios, which hold on any machine, measured in one run on one synthetic ``.nii.gz``:
inflating the file alone, our pass for three atlases with tissue masks (label images and masks
read, cells found, components' Gram matrices included), and nilearn's `NiftiLabelsMasker` once an
atlas. Each is done several times, one after the other, and the best time counts. Where python-isal
is installed it inflates, too: the ratio is to the faster of the two libraries.

    python benchmarks/parcellation.py --shape 97 115 97 --volumes 200 --dtype int16
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from zlib_ng import gzip_ng

from kraken_bids.connectome.parcellation import ParcellatedRun, parcellate, partition
from kraken_bids.images.stream import SeriesHeader, iterate_volumes, load_on_grid, read_header
from kraken_bids.images.tissue_masks import tissue_masks

SIZES = {"fs86": 86, "shen268": 268, "coco439": 439}
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def make_images(folder: Path, shape: tuple[int, ...], n_volumes: int, dtype: str) -> None:
    """Write a head-like ball of noise, its mask, three atlases and a segmentation."""
    rng = np.random.default_rng(0)
    centre = (np.array(shape) - 1) / 2
    place = np.indices(shape).reshape(3, -1).T
    radius = np.linalg.norm((place - centre) / (0.85 * centre), axis=1).reshape(shape)
    mask = radius < 0.9
    save(mask.astype(np.uint8), folder / "mask.nii.gz")
    inside = np.argwhere(mask)
    for name, size in SIZES.items():
        nearest = cKDTree(rng.choice(inside, size, replace=False)).query(inside)[1]
        labels = np.zeros(shape, dtype=np.int16)
        labels[mask] = nearest + 1
        save(labels, folder / f"{name}.nii.gz")
    codes = np.select([radius < 0.25, radius < 0.6, mask], [4, 2, 1005]).astype(np.int16)
    save(codes, folder / "tissues.nii.gz")
    data = np.zeros((*shape, n_volumes), dtype=dtype)
    static = 1000 + 200 * ndimage.gaussian_filter(rng.normal(size=shape), 2)
    for volume in range(n_volumes):
        noise = rng.normal(0, 20, shape)
        data[..., volume] = np.where(radius < 1.1, np.round(static + noise, 1), 0)
    save(data, folder / "bold.nii.gz")


def save(values: np.ndarray, file: Path) -> None:
    nib.Nifti1Image(values, AFFINE).to_filename(file)


def cpu_seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def inflate(header: SeriesHeader, open_gzip: Callable[..., Any]) -> None:
    with open_gzip(header.file, "rb") as stream:
        while stream.read(header.n_voxels * header.dtype.itemsize):
            pass


def libraries() -> dict[str, Callable[..., Any]]:
    """What opens a gzip file, by name."""
    found = {"zlib-ng": gzip_ng.open}
    with contextlib.suppress(ImportError):
        from isal import igzip

        found["isal"] = igzip.open
    return found


def one_pass(folder: Path, header: SeriesHeader) -> ParcellatedRun:
    labels = {
        name: load_on_grid(folder / f"{name}.nii.gz", header, kind="labels") for name in SIZES
    }
    masks = tissue_masks(load_on_grid(folder / "tissues.nii.gz", header, kind="segmentation"))
    cells = partition(
        labels,
        SIZES,
        mask=load_on_grid(folder / "mask.nii.gz", header, kind="mask") > 0,
        tissues={name: tissue.mask for name, tissue in masks.items()},
    )
    return parcellate(iterate_volumes(header), cells, n_volumes=header.n_volumes)


def maskers(folder: Path) -> dict[str, np.ndarray]:
    from nilearn.maskers import NiftiLabelsMasker

    return {
        name: NiftiLabelsMasker(folder / f"{name}.nii.gz", standardize=None).fit_transform(
            folder / "bold.nii.gz"
        )
        for name in SIZES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(97, 115, 97))
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--dtype", choices=("float32", "int16"), default="float32")
    parser.add_argument("--no-nilearn", action="store_true", help="time and memory of ours only")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder, tuple(options.shape), options.volumes, options.dtype)
        header = read_header(folder / "bold.nii.gz")
        print(f"image: {header.shape} x {header.n_volumes} {header.dtype}")
        found = libraries()
        inflating, passing = dict.fromkeys(found, np.inf), np.inf
        for _ in range(options.rounds):
            for library, open_gzip in found.items():
                took, _ = cpu_seconds(lambda opened=open_gzip: inflate(header, opened))
                inflating[library] = min(inflating[library], took)
            took, run = cpu_seconds(lambda: one_pass(folder, header))
            passing = min(passing, took)
        for library, took in inflating.items():
            print(f"inflate only, {library}: {took:.2f} CPU s")
        print(f"one pass: {passing:.2f} CPU s = "
              f"{passing / min(inflating.values()):.2f} x inflating")  # fmt: skip
        if not options.no_nilearn:
            masking, series = cpu_seconds(lambda: maskers(folder))
            print(f"3 maskers: {masking:.2f} CPU s = {masking / passing:.1f} x one pass")
            worst = max(np.abs(run.series[n] / series[n] - 1).max() for n in SIZES)
            print(f"largest relative difference to nilearn: {worst:.1e}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"peak memory of this process, making the images included: {peak:.2f} GB")


if __name__ == "__main__":
    main()
