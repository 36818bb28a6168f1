# SPDX-License-Identifier: MIT
"""CPU time of counting streamlines in three atlases against ``tck2connectome`` once an atlas.

Makes two tractograms (ends in and near grey matter; ends anywhere) in a head-like ball with three
atlases, counts both in all atlases from one read each, lengths included, and runs the real
``tck2connectome`` six times, without worker threads and as it comes. Says whether the tables are
equal, the ratio of CPU times, and what all steps but tracking come to at five million streamlines:
the time of a streamline, tracked in a uniform field with the training parameters, is scaled by
length.

    python benchmarks/streamlines.py --streamlines 200000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from kraken_bids.connectome.structural import tabulate_pairs
from kraken_bids.images.streamline_ends import AssignedStreamlines, assign_streamlines
from kraken_bids.workflows.structural import CUTOFF, MAX_LENGTH_MM, TRACKINGS

SIZES = {"fs86": 86, "shen268": 268, "coco439": 439}
SHAPE, VOXEL_MM = (116, 140, 116), 1.25
RADIUS_MM = 4.0
#: Distance of points, in mm: what MRtrix3 stores of iFOD2 with the training step is near it.
SPACING_MM = 0.5
N_FULL = 5_000_000


def head(rng: np.random.Generator) -> NDArray[np.float64]:
    """(X, Y, Z), distance from the centre, 1 at the border of the brain, in folds."""
    centre = (np.array(SHAPE) - 1) / 2
    place = np.indices(SHAPE).reshape(3, -1).T
    radius = np.linalg.norm((place - centre) / (0.45 * np.array(SHAPE)), axis=1).reshape(SHAPE)
    folds = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3)
    result: NDArray[np.float64] = radius + 0.06 * folds / folds.std()
    return result


def affine() -> NDArray[np.float64]:
    made = np.diag([VOXEL_MM] * 3 + [1.0])
    made[:3, 3] = -np.array(SHAPE) * VOXEL_MM / 2
    return made


def save(values: NDArray[np.generic], file: Path) -> None:
    nib.Nifti1Image(values, affine()).to_filename(file)


def write_labels(folder: Path, radius: NDArray[np.float64], rng: np.random.Generator) -> None:
    """A cortex and a core, cut into regions."""
    grey = np.argwhere(((radius > 0.86) & (radius < 1.0)) | (radius < 0.22))
    for name, size in SIZES.items():
        seeds = cKDTree(grey[rng.choice(len(grey), size, replace=False)])
        labels = np.zeros(SHAPE, dtype=np.int16)
        labels[tuple(grey.T)] = seeds.query(grey)[1] + 1
        save(labels, folder / f"{name}.nii.gz")


def make_ends(
    radius: NDArray[np.float64], n: int, rng: np.random.Generator, *, at_border: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last points in voxels: at the border of white and grey matter, or anywhere."""
    border = np.argwhere((radius > 0.8) & (radius < 0.88))
    sources = border if at_border else np.argwhere(radius < 0.95)
    first = sources[rng.integers(len(sources), size=n)] + rng.uniform(-0.5, 0.5, (n, 3))
    way = rng.normal(size=(n, 3))
    way *= (rng.gamma(4, 16, n).clip(5, 250) / VOXEL_MM / np.linalg.norm(way, axis=1))[:, None]
    last = first + way
    if at_border:
        last = border[cKDTree(border).query(last)[1]] + rng.uniform(-0.5, 0.5, (n, 3))
    return first, last


def write_tractogram(
    file: Path, first: NDArray[np.float64], last: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Bent lines from first to last points."""
    header = f"mrtrix tracks\ndatatype: Float32LE\ncount: {len(first)}\nfile: . 90\nEND\n"
    bends = rng.normal(0, 6, (len(first), 3))
    lengths = np.linalg.norm(last - first, axis=1) * VOXEL_MM
    sizes = np.maximum(lengths / SPACING_MM, 3).astype(int)
    with file.open("wb") as stream:
        stream.write(header.encode().ljust(90))
        for start in range(0, len(first), 5000):
            rows = slice(start, start + 5000)
            of = np.repeat(np.arange(len(sizes[rows])), sizes[rows] + 1)
            begins = np.concatenate([[0], np.cumsum(sizes[rows] + 1)[:-1]])
            number = np.arange(len(of)) - begins[of]
            t = (number / (sizes[rows][of] - 1))[:, None]
            way = (last - first)[rows][of]
            points = first[rows][of] + t * way + 4 * t * (1 - t) * bends[rows][of]
            points = points * VOXEL_MM + affine()[:3, 3]
            points[number == sizes[rows][of]] = np.nan
            points.astype("<f4").tofile(stream)
        np.full((1, 3), np.inf, dtype="<f4").tofile(stream)


def count(folder: Path, tract: str) -> tuple[AssignedStreamlines, dict[str, NDArray[np.float64]]]:
    """Tables of all atlases by one read of a tractogram."""
    labels = {name: folder / f"{name}.nii.gz" for name in SIZES}
    found = assign_streamlines(folder / f"{tract}.tck", labels, radius_mm=RADIUS_MM)
    tables = {
        name: tabulate_pairs(found.regions[name], n_regions=size) for name, size in SIZES.items()
    }
    return found, tables


def child_cpu_s(folder: Path, *words: object) -> float:
    """CPU time of a program, quiet, in s."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*map(str, words), "-quiet", "-force"], check=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def theirs(
    folder: Path, tract: str, *threads: object
) -> tuple[float, dict[str, NDArray[np.float64]]]:
    """CPU time and tables of ``tck2connectome``, once an atlas."""
    total, tables = 0.0, {}
    for name in SIZES:
        total += child_cpu_s(
            folder, "tck2connectome", f"{tract}.tck", f"{name}.nii.gz", "counts.csv", "-symmetric",
            "-keep_unassigned", "-assignment_radial_search", RADIUS_MM, *threads,
        )  # fmt: skip
        tables[name] = np.loadtxt(folder / "counts.csv", delimiter=",", comments="#")
    return total, tables


def tracking_s_per_mm(folder: Path, name: str, n: int) -> float:
    """CPU time of ``tckgen`` for a mm of streamline, in a uniform field of fibres along z."""
    tracking = TRACKINGS[name]
    downsample = ("-downsample", tracking.downsample) if tracking.downsample else ()
    spent = child_cpu_s(
        folder, "tckgen", "fod.nii", "tracked.tck", "-algorithm", tracking.algorithm, "-select", n,
        "-seed_image", "mask.nii.gz", "-cutoff", CUTOFF, "-maxlength", MAX_LENGTH_MM,
        "-minlength", tracking.min_length_mm, "-step", tracking.step_mm,
        "-angle", tracking.angle_degrees, "-nthreads", 0, *downsample,
    )  # fmt: skip
    found, _ = count(folder, "tracked")
    return spent / float(found.lengths_mm.sum())


def write_field(folder: Path, radius: NDArray[np.float64]) -> None:
    """Fibres along z: harmonics of order 0 to 8, of which only those with m = 0 are there."""
    fods = np.zeros((*SHAPE, 45), dtype=np.float32)
    for order in range(0, 9, 2):
        value = 0.3 * np.sqrt((2 * order + 1) / (4 * np.pi))
        fods[..., order * (order + 1) // 2] = np.where(radius < 0.95, value, 0)
    save(fods, folder / "fod.nii")
    save((radius < 0.95).astype(np.uint8), folder / "mask.nii.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streamlines", type=int, default=200_000, help="of each tractogram")
    parser.add_argument("--tracked", type=int, default=2000, help="to time tckgen by; 0: do not")
    options = parser.parse_args()
    rng, n = np.random.default_rng(0), options.streamlines
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        radius = head(rng)
        write_labels(folder, radius, rng)
        ours = plain = default = besides = tracking = 0.0
        write_field(folder, radius)
        for tract, at_border in (("ifod2act", True), ("sdstream", False)):
            first, last = make_ends(radius, n, rng, at_border=at_border)
            write_tractogram(folder / f"{tract}.tck", first, last, rng)
            start = time.process_time()
            found, tables = count(folder, tract)
            spent = time.process_time() - start
            spent_plain, expected = theirs(folder, tract, "-nthreads", 0)
            spent_default, _ = theirs(folder, tract)
            equal = all(np.array_equal(tables[atlas], expected[atlas]) for atlas in SIZES)
            print(f"{tract}: {n:,} streamlines, {found.lengths_mm.mean():.0f} mm; "
                  f"3 tables {spent:.2f} CPU s, tck2connectome x 3 {spent_plain:.2f} "
                  f"(default threads {spent_default:.2f}); equal: {equal}")  # fmt: skip
            ours, plain, default = ours + spent, plain + spent_plain, default + spent_default
            if options.tracked:
                density = child_cpu_s(folder, "tckmap", f"{tract}.tck", "density.nii.gz",
                                      "-template", "mask.nii.gz", "-nthreads", 0)  # fmt: skip
                besides += spent + (density if at_border else 0)  # as in the workflow: of one
                tracking += (
                    tracking_s_per_mm(folder, tract, options.tracked)
                    * float(found.lengths_mm.mean())
                    * N_FULL
                )
        print(f"all six: {ours:.2f} CPU s; tck2connectome / ours = {plain / ours:.1f} "
              f"(default threads {default / ours:.1f})")  # fmt: skip
        if options.tracked:
            besides *= N_FULL / n
            share = 100 * besides / (besides + tracking)
            print(f"at 5 million, extrapolated from {n:,}: counting and density {besides:.0f} CPU "
                  f"s, tracking {tracking:.0f}: {share:.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
