# SPDX-License-Identifier: MIT
"""CPU time and memory of a participant's whole functional branch, files to files.

Writes a participant as fMRIPrep would: one series at the size of the model's training data
(91 x 109 x 91 voxels of 2 mm in MNI152NLin6Asym, 1200 volumes), which stands for all runs, and a
warp between MNI space and the T1w image in steps of 1 mm. Then ``kraken-bids ... participant``
runs as a fresh process: label images through the warp, one pass over each series, denoising,
quality control, figures, pages. Prints what share of its CPU time inflating the series alone
takes, and its peak memory, of the largest process and of all together, beside the limit that it
was given; ends with 1 if that was exceeded.

    python benchmarks/functional.py --runs 4 --volumes 1200 --dtype int16 --mem 8 --nprocs 2 4
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from zlib_ng import gzip_ng

from kraken_bids.bids.writers import write_json, write_table
from kraken_bids.demo import fmriprep
from kraken_bids.demo.bold import draw_motion
from kraken_bids.demo.confounds import framewise_displacement
from kraken_bids.demo.geometry import FIELD_AFFINE, draw_geometry
from kraken_bids.demo.images import MNI, write_image
from kraken_bids.demo.regions import draw_atlas
from kraken_bids.demo.template import AFFINE, SHAPE, load_template
from kraken_bids.demo.transform_files import write_composite
from kraken_bids.images.stream import iterate_volumes, read_header

REPETITION_TIME_S = 0.72
ATLASES = ("shen268", "coco439")
#: Published transforms have one vector a millimetre: 193 x 229 x 193 of them.
FIELD_STEP_MM = 1.0
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}


def make_participant(folder: Path) -> fmriprep.Participant:
    """Write the data set without any run."""
    participant = fmriprep.Participant(
        "01", np.zeros(1), draw_geometry(np.random.default_rng(1)), seed=(1,)
    )
    write_json(folder / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.1"})
    root = folder / "derivatives" / "fmriprep"
    fmriprep.write_dataset_files(root)
    fmriprep.write_anatomy(root, participant, voxel_mm=1.0)
    step_mm = FIELD_AFFINE[0, 0]
    field = ndimage.zoom(
        participant.geometry.forward, (*[step_mm / FIELD_STEP_MM] * 3, 1), order=1,
        grid_mode=True, mode="nearest",
    )  # fmt: skip
    affine = np.diag([FIELD_STEP_MM] * 3 + [1.0])
    affine[:3, 3] = FIELD_AFFINE[:3, 3] - (step_mm - FIELD_STEP_MM) / 2
    stem = participant.folder(root, "anat") / "sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm"
    write_composite(stem.with_suffix(".h5"), ((field, affine), participant.geometry.shape_to_t1w))
    for name in ATLASES:
        write_image(folder / "atlases" / f"{name}_dseg.nii.gz", draw_atlas(name), AFFINE, code=MNI)
    return participant


def make_series(file: Path, *, n_volumes: int, dtype: str) -> None:
    """Write the image volume by volume: anatomy, a few slow signals, noise inside and outside."""
    rng = np.random.default_rng(0)
    template = load_template()
    brain = np.ravel(template.brain, order="F")
    still = np.where(brain, 5000 + 5000 * np.ravel(template.t1w, order="F"), 300).astype("f4")
    noise = np.where(brain, 80, 40).astype("f4")
    maps = rng.normal(0, 30, (5, brain.size)).astype("f4") * brain
    signals = ndimage.gaussian_filter1d(rng.normal(size=(n_volumes, 5)), 5, axis=0) * 4
    header = nib.Nifti1Header()
    header.set_data_shape((*SHAPE, n_volumes))
    header.set_data_dtype(dtype)
    header.set_sform(AFFINE, MNI)
    header.set_qform(AFFINE, MNI)
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][4] = REPETITION_TIME_S
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip_ng.open(file, "wb", compresslevel=2) as stream:
        stream.write(header.binaryblock + bytes(4))
        for row in signals.astype("f4"):
            values = still + row @ maps + noise * rng.standard_normal(len(still), "f4")
            # Steps of a tenth: noise in all bits of a number would not be compressed at all.
            values = np.rint(values) if dtype == "int16" else np.round(values, 1)
            stream.write(values.astype(dtype).tobytes())


def make_confounds(n_volumes: int, stem: str) -> None:
    """Write the columns that the recipe reads."""
    motion = draw_motion(n_volumes, np.random.default_rng(2))
    columns: dict[str, NDArray] = dict(
        zip(("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"), motion.T, strict=True)
    )
    columns["framewise_displacement"] = framewise_displacement(motion)
    rows = np.stack(list(columns.values()), axis=1).tolist()
    write_table(Path(f"{stem}_desc-confounds_timeseries.tsv"), list(columns), rows)
    write_json(Path(f"{stem}_desc-confounds_timeseries.json"), {})


def make_runs(folder: Path, n_runs: int, *, n_volumes: int, dtype: str) -> Path:
    """Write one series, its mask and confounds, and give the other runs the same bytes."""
    func = folder / "derivatives" / "fmriprep" / "sub-01" / "func"
    func.mkdir()
    first = ""
    for run in range(1, n_runs + 1):
        stem = f"{func}/sub-01_task-rest_run-{run}"
        image = f"{stem}_space-MNI152NLin6Asym_res-2_desc-preproc_bold"
        if first:
            os.link(first, f"{image}.nii.gz")
        else:
            make_series(Path(f"{image}.nii.gz"), n_volumes=n_volumes, dtype=dtype)
        first = first or f"{image}.nii.gz"
        write_json(Path(f"{image}.json"), {"RepetitionTime": REPETITION_TIME_S})
        mask = image.replace("preproc_bold", "brain_mask")
        write_image(Path(f"{mask}.nii.gz"), load_template().brain.astype(np.uint8), AFFINE)
        make_confounds(n_volumes, stem)
    return Path(first)


def inflating_s(file: Path, rounds: int) -> float:
    """CPU time of inflating a series volume by volume, the best of several rounds."""
    header, times = read_header(file), []
    for _ in range(rounds):
        start = time.process_time()
        for _volume in iterate_volumes(header):
            pass
        times.append(time.process_time() - start)
    return min(times)


def run_program(
    folder: Path, out: Path, *, mem_gb: float, n_procs: int, words: list[str]
) -> dict[str, float]:
    """CPU time and memory of ``kraken-bids participant`` and all its processes."""
    atlases = [f"{name}={folder}/atlases/{name}_dseg.nii.gz" for name in ATLASES]
    command = [sys.executable, "-m", "kraken_bids", str(folder), str(out), "participant",
               "--modality", "func", "--atlas-file", *atlases, "-w", f"{out}-work",
               "--mem", f"{mem_gb:g}G", "--nprocs", str(n_procs), *words]  # fmt: skip
    # In a process of its own: a child's peak begins with what its parent held when it was forked.
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("measured.py")), *command],
        check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD},
    )  # fmt: skip
    *said, measured = done.stdout.splitlines()
    print(*said, sep="\n", file=sys.stderr)
    measures: dict[str, float] = json.loads(measured)
    if measures["code"] != 0:
        raise SystemExit(f"kraken-bids ended with {measures['code']}")
    return measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--volumes", type=int, default=1200)
    parser.add_argument("--dtype", choices=("int16", "float32"), default="int16")
    parser.add_argument("--rounds", type=int, default=3, help="of inflating")
    parser.add_argument("--mem", type=float, default=8.0, help="limit of memory in GB")
    parser.add_argument("--nprocs", type=int, nargs="+", default=[2], help="one run for each")
    parser.add_argument("--folder", type=Path, help="where to make the data (2 GB), and leave it")
    parser.add_argument("words", nargs="*", help="further options of kraken-bids, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name) / "data"
        func = folder / "derivatives" / "fmriprep" / "sub-01" / "func"
        if not func.exists():
            make_participant(folder)
            make_runs(folder, options.runs, n_volumes=options.volumes, dtype=options.dtype)
        series = sorted(func.glob("*_bold.nii.gz"))
        header = read_header(series[0])
        inflating = inflating_s(series[0], options.rounds) * len(series)
        measured = {
            n_procs: run_program(
                folder, Path(name) / f"out-{n_procs}", mem_gb=options.mem, n_procs=n_procs,
                words=options.words or [],
            )
            for n_procs in options.nprocs
        }  # fmt: skip
    print(f"{len(series)} runs of {header.shape} x {header.n_volumes} {header.dtype}")
    print(f"inflating alone: {inflating:.1f} CPU s")
    for n_procs, found in measured.items():
        cpu_s = found["cpu_s"]
        print(f"kraken-bids --nprocs {n_procs} --mem {options.mem:g}G: {found['wall_s']:.0f} s")
        print(f"  {cpu_s:.1f} CPU s = {cpu_s / inflating:.2f} x inflating "
              f"(share of inflating {inflating / cpu_s:.0%})")  # fmt: skip
        print(f"  peak memory of its largest process: {found['largest_gb']:.2f} GB")
        print(f"  peak over all its processes: {found['pss_gb']:.2f} GB "
              f"({found['rss_gb']:.2f} GB with what is shared counted for each), "
              f"{found['pss_gb'] / options.mem:.0%} of the limit")  # fmt: skip
    if any(found["pss_gb"] > options.mem for found in measured.values()):
        raise SystemExit("the limit of memory was exceeded")


if __name__ == "__main__":
    main()
