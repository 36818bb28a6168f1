# SPDX-License-Identifier: MIT
"""Room on the disk of the working folder: what a run will take, and what was given back.

Tractograms are by far the largest files. Each is deleted as soon as its streamlines are counted,
so that only those of the sessions that are tracked at a time are there together.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .completion import remove_tree
from .errors import KrakenBIDSError, ResourceError
from .plan import DiffusionRun, FunctionalRun, SessionPlan
from .settings import Settings
from .storage import load_json, nearest_folder

_log = logging.getLogger(__name__)

#: FODs of three tissues with their responses, labels, tissues and small files of a session, in
#: bytes per voxel of the series: 47 coefficients and 3 copies of other images, of 4 bytes each.
OTHER_BYTES_PER_VOXEL = 200
#: Series, connectomes and labels of a functional run, measured with three atlases: 26 bytes for
#: each volume and region, and 5 MB.
FUNCTIONAL_BYTES, FUNCTIONAL_BYTES_PER_VALUE = 5_000_000, 26
#: Less room than that is not worth a line.
TOLD_BYTES = 100_000_000
#: What unpacking multiplies the size of a tractogram by, by its ending: guesses from above.
UNPACKED = {".gz": 1.3, ".trk": 1.0, ".trx": 2.2, ".tck": 0.0}


@dataclass(frozen=True)
class ScratchEstimate:
    """Room that a run needs on the disk of its working folder.

    Parameters
    ----------
    tractogram_bytes
        Tractograms of all sessions.
    largest_bytes
        Those of the sessions that are worked on at a time, the largest ones.
    other_bytes
        All other files of all sessions; they stay until the run ends.
    n_at_once
        Number of these sessions.
    """

    tractogram_bytes: int
    largest_bytes: int
    other_bytes: int
    n_at_once: int

    @property
    def needed_bytes(self) -> int:
        """Most room taken at a time."""
        return self.largest_bytes + self.other_bytes


def estimate_scratch(plans: Sequence[SessionPlan], settings: Settings) -> ScratchEstimate:
    """Estimate the room that sessions take, from the plan and the headers of their series.

    Parameters
    ----------
    plans
        Sessions that are to be measured.
    settings
        Streamlines, processes, and whether tractograms are kept.
    """
    tractograms, other = [], 0
    for plan in plans:
        tractograms.append(sum(_tractogram_bytes(run, settings) for run in plan.diffusion))
        other += sum(_other_bytes(run) for run in plan.diffusion)
        other += sum(_functional_bytes(run) for run in plan.functional)
    resources = settings.resources
    # One more than can run: the tractograms of a session that is being counted.
    n_at_once = min(len(plans), resources.n_procs // max(resources.omp_nthreads, 1) + 1)
    if settings.structural.keep_tractograms or settings.keep_work:
        n_at_once = len(plans)
    largest = sum(sorted(tractograms, reverse=True)[:n_at_once])
    return ScratchEstimate(sum(tractograms), largest, other, n_at_once)


def _tractogram_bytes(run: DiffusionRun, settings: Settings) -> int:
    """Room of a run's tractograms, made or unpacked."""
    from kraken_bids.workflows.structural import TRACKINGS, find_tracked

    from .connectome.structural import tractogram_bytes

    ready = dict(run.tractograms)
    try:
        tracked = find_tracked(run)
    except KrakenBIDSError:  # told when the graph is made
        tracked = []
    made = tractogram_bytes(
        settings.structural.n_streamlines,
        point_spacing_mm=[TRACKINGS[name].point_spacing_mm for name in tracked],
    )
    unpacked = sum(int(UNPACKED.get(file.suffix, 1.0) * _size(file)) for file in ready.values())
    return made + unpacked


def _other_bytes(run: DiffusionRun) -> int:
    """Room of a run's other files: the series as 32-bit numbers, FODs, and so on."""
    import math

    from .image_loading import UNREADABLE, load_image

    if run.dwi_file is None:
        return 2 * _size(run.fod_file) if run.fod_file else 0
    try:
        shape: tuple[int, ...] = load_image(run.dwi_file).shape
    except UNREADABLE:  # told when it is read
        return 0
    n_voxels = math.prod(shape[:3])
    return n_voxels * (4 * math.prod(shape[3:]) + OTHER_BYTES_PER_VOXEL)


def _functional_bytes(run: FunctionalRun) -> int:
    """Room of a functional run's files; the series itself is never copied."""
    from .atlases import load_atlas
    from .image_loading import UNREADABLE, load_image

    try:
        n_volumes = int(load_image(run.bold_file).shape[-1])
    except UNREADABLE:  # told when it is read
        return 0
    n_regions = sum(load_atlas(atlas).n_regions for atlas in run.atlases)
    return FUNCTIONAL_BYTES + FUNCTIONAL_BYTES_PER_VALUE * n_volumes * n_regions


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def tell_scratch(plans: Sequence[SessionPlan], settings: Settings) -> None:
    """Say what room a run would need; too little is a warning here."""
    try:
        check_scratch(plans, settings)
    except ResourceError as problem:
        _log.warning("%s", problem)


def used_bytes(folders: Sequence[Path]) -> int:
    """Room that files of earlier runs already take in some folders."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sum(512 * path.stat().st_blocks for path in files)


def check_scratch(
    plans: Sequence[SessionPlan], settings: Settings, *, work_dirs: Sequence[Path] = ()
) -> ScratchEstimate:
    """Say what room a run needs and refuse to start what will not fit.

    Parameters
    ----------
    plans, settings
        As in `estimate_scratch`.
    work_dirs
        Folders of these sessions; what earlier runs left in them is not needed again.

    Raises
    ------
    ResourceError
        If the disk of the working folder has less room than is needed.
    """
    estimate = estimate_scratch(plans, settings)
    free = shutil.disk_usage(nearest_folder(settings.work_dir)).free
    needed = max(estimate.needed_bytes - used_bytes(work_dirs), 0)
    if estimate.needed_bytes == 0:
        return estimate
    tracked = (
        f" ({estimate.largest_bytes / 1e9:.1f} GB for the tractograms of {estimate.n_at_once} "
        "session(s) at a time)"
        if estimate.largest_bytes
        else ""
    )
    text = f"{needed / 1e9:.1f} GB of scratch space{tracked}, {free / 1e9:.1f} GB are free"
    if needed > free:
        raise ResourceError(
            f"the {len(plans)} session(s) need about {text}",
            where=str(settings.work_dir),
            fix="Give a --work-dir on a larger disk, fewer --streamlines, fewer participants a "
            "run or a smaller --nprocs.",
        )
    level = logging.INFO if needed >= TOLD_BYTES else logging.DEBUG
    _log.log(level, "about %s in %s", text, settings.work_dir)
    return estimate


def forget_released(work_dirs: Mapping[Path, str]) -> None:
    """Have tractograms made again that were given back, where they are needed once more.

    Parameters
    ----------
    work_dirs
        Folder of each session, with the fingerprint of what it is to be measured with now.
    """
    from .interfaces.tractography import RELEASED

    for work_dir, key in work_dirs.items():
        for marker in sorted(work_dir.rglob(RELEASED)):
            try:
                content = load_json(marker)
            except (OSError, ValueError):
                content = {}
            if not isinstance(content, dict):
                content = {}
            if content.get("key") == key:
                continue
            listed = content.get("files")
            inside = [Path(str(file)) for file in (listed if isinstance(listed, list) else ())]
            # A marker is a file that anyone may edit: nothing outside the folder is touched.
            root = work_dir.resolve()
            for file in (path for path in inside if root in path.resolve().parent.parents):
                remove_tree(file.parent)
            remove_tree(marker.parent)
