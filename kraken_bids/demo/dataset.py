# SPDX-License-Identifier: MIT
"""The whole simulated data set: derivatives of fMRIPrep and QSIPrep, label images."""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from ..bids.writers import write_json, write_table, write_text
from ..errors import ResourceError, UsageError
from . import fmriprep, qsiprep
from .fmriprep import Participant
from .geometry import draw_geometry
from .images import MNI, write_image
from .population import draw_factors, make_population
from .regions import draw_atlas
from .template import AFFINE

_log = logging.getLogger(__name__)

TEMPLATE_ATLASES = ("shen268", "coco439")
_MOST_PARTICIPANTS = 20

_README = """\
Simulated participants, made by kraken-demo. No person was scanned: anatomy is the MNI152 template
under smooth individual deformations, functional and diffusion series are drawn from a model.
derivatives/ holds what fMRIPrep and QSIPrep would have written; atlases/ holds label images of
simulated regions, to be given with --atlas-file.
"""
_COLUMNS = {
    "age": {"Description": "simulated age", "Units": "years"},
    "sex": {"Description": "simulated sex", "Levels": {"F": "female", "M": "male"}},
    "site": {"Description": "simulated site", "Levels": {"A": "first", "B": "second"}},
}


@dataclass(frozen=True)
class Size:
    """How much is simulated of each participant.

    Parameters
    ----------
    anatomy_mm, bold_mm, dwi_mm
        Voxel sizes.
    n_volumes
        Length of a resting-state run.
    shells
        Diffusion volumes by b-value.
    """

    anatomy_mm: float
    bold_mm: float
    dwi_mm: float
    n_volumes: int
    shells: dict[int, int] = field(hash=False)


STANDARD = Size(2.0, 4.0, 5.0, 220, {0: 4, 1000: 12, 2000: 24})
#: The smallest with which MRtrix3's chain works and regions survive.
TINY = Size(2.0, 6.0, 6.0, 90, {0: 3, 1000: 8, 2000: 16})


def write_dataset(
    out_dir: Path,
    *,
    n_participants: int = 6,
    n_runs: int = 1,
    seed: int = 0,
    size: Size = STANDARD,
    n_procs: int = 1,
    progress: Callable[[str], None] = _log.info,
) -> None:
    """Write the data set.

    Parameters
    ----------
    out_dir
        Folder to write to; it becomes the BIDS data set.
    n_participants
        From 2 to 20.
    n_runs
        Resting-state runs of each participant.
    seed
        The same seed gives the same bytes.
    size
        Resolution and length.
    n_procs
        Processes that share the participants.
    progress
        Called with a line for each participant written.

    Raises
    ------
    UsageError
        If the number of participants is out of range, or the folder holds something.
    ResourceError
        If the folder cannot be written.
    """
    if not 2 <= n_participants <= _MOST_PARTICIPANTS:
        raise UsageError(
            f"{n_participants} participants cannot be made",
            where="--participants",
            fix=f"Give a number from 2 to {_MOST_PARTICIPANTS}.",
        )
    labels = [f"{number:02d}" for number in range(1, n_participants + 1)]
    with new_folder(out_dir) as folder:
        _write_root(folder, labels, seed)
        jobs = [
            (folder, number, n_participants, n_runs, seed, size)
            for number in range(n_participants)
        ]
        if n_procs == 1:
            for job in jobs:
                progress(_write_participant(job))
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(n_procs, n_participants), mp_context=context) as pool:
            for line in pool.map(_write_participant, jobs):
                progress(line)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, renamed to it when the block ends well.

    Raises
    ------
    UsageError
        If there is something in `path` already.
    ResourceError
        If the folder cannot be made or written.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UsageError(
            "exists and is not empty",
            where=str(path),
            fix="Give a new folder, or remove this one.",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
            whole = Path(temporary) / "whole"
            whole.mkdir()
            yield whole
            whole.replace(path)
    except OSError as error:
        raise ResourceError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            fix="Give a folder that you may write to, on a disk with room.",
        ) from error


def _write_participant(job: tuple[Path, int, int, int, int, Size]) -> str:
    """Write both derivatives of one participant; tell the label."""
    out_dir, number, n_participants, n_runs, seed, size = job
    # One thread: sums come out the same whatever the number of cores.
    with threadpool_limits(1):
        population = make_population()
        factors = draw_factors(n_participants, np.random.default_rng([seed, 0]))[number]
        participant = Participant(
            label=f"{number + 1:02d}",
            factors=factors,
            geometry=draw_geometry(np.random.default_rng([seed, 1, number])),
            seed=(seed, 2, number),
        )
        root = out_dir / "derivatives" / "fmriprep"
        fmriprep.write_anatomy(root, participant, voxel_mm=size.anatomy_mm)
        for run in range(1, n_runs + 1):
            fmriprep.write_run(
                root, participant, population, n_volumes=size.n_volumes, voxel_mm=size.bold_mm,
                run=run if n_runs > 1 else None,
            )  # fmt: skip
        root = out_dir / "derivatives" / "qsiprep"
        qsiprep.write_anatomy(root, participant, voxel_mm=size.anatomy_mm)
        qsiprep.write_diffusion(
            root, participant, population, shells=size.shells, voxel_mm=size.dwi_mm
        )
    return f"sub-{participant.label}"


def _write_root(out_dir: Path, labels: list[str], seed: int) -> None:
    """Write what belongs to no participant."""
    write_json(
        out_dir / "dataset_description.json",
        {
            "Name": "Simulated participants",
            "BIDSVersion": "1.10.1",
            "DatasetType": "raw",
            "License": "CC0",
            "HowToAcknowledge": "All images are simulated from the MNI152 template.",
        },
    )
    write_text(out_dir / "README", _README)
    write_text(out_dir / ".bidsignore", "atlases\n")
    write_json(out_dir / "participants.json", _COLUMNS)
    rng = np.random.default_rng([seed, 3])
    rows = [
        [f"sub-{label}", int(rng.integers(22, 37)), "FM"[index % 2], "AB"[index // 2 % 2]]
        for index, label in enumerate(labels)
    ]
    write_table(out_dir / "participants.tsv", ["participant_id", "age", "sex", "site"], rows)
    fmriprep.write_dataset_files(out_dir / "derivatives" / "fmriprep")
    qsiprep.write_dataset_files(out_dir / "derivatives" / "qsiprep")
    for name in TEMPLATE_ATLASES:
        path = out_dir / "atlases" / f"{name}_dseg.nii.gz"
        write_image(path, draw_atlas(name), AFFINE, code=MNI)
