# SPDX-License-Identifier: MIT
"""Areas of the cortex (HCP-MMP 1.0) from FreeSurfer's surfaces to the voxels of its ribbon.

FreeSurfer's surfaces are in the frame ``tkr`` of the image that they were made from: RAS axes in
mm about the centre of its grid, whatever the scanner's coordinates are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nibabel.freesurfer.io import read_annot, read_geometry
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..errors import InputError

#: FreeSurfer's prefix of a hemisphere, and the letter of its sides in names of regions.
SIDES: dict[str, str] = {"lh": "L", "rh": "R"}
#: Areas of one hemisphere; number 120, the hippocampus, is no region of its own in coco439.
N_AREAS, HIPPOCAMPUS_NUMBER, HIPPOCAMPUS_AREA = 180, 120, "H"
#: Codes of areas in a volume: so much and the area's number, left and right.
VOLUME_CODES: dict[str, int] = {"lh": 1000, "rh": 2000}
#: No voxel of the ribbon is farther than half the cortex's thickness (up to 5 mm) and an edge of
#: the mesh from the mid-surface; where more than a twentieth are, the files do not belong
#: together.
MAX_DISTANCE_MM, FAR_SHARE = 5.0, 0.05
Labels = NDArray[np.int32]


def area_regions(side: str, names: Sequence[str]) -> dict[str, int]:
    """Give the region of each area of a hemisphere, in the order of the areas' numbers.

    Parameters
    ----------
    side
        ``L`` or ``R``.
    names
        (n_regions,), names of the atlas's regions; areas are ``L_V1_ROI`` and so on.

    Returns
    -------
    dict
        Region index, from 1, by the area's name in lower case, without side and ``_ROI``; the
        k-th entry is area number k. ``h`` (number 120) is the hippocampus of that side.
    """
    areas = [
        (name[2:].removesuffix("_ROI").lower(), index)
        for index, name in enumerate(names, 1)
        if name.startswith(f"{side}_") and name.endswith("_ROI")
    ]
    hippocampus = (HIPPOCAMPUS_AREA.lower(), names.index(f"Hippocampus_{side}") + 1)
    return dict([*areas[: HIPPOCAMPUS_NUMBER - 1], hippocampus, *areas[HIPPOCAMPUS_NUMBER - 1 :]])


def _plain_name(name: str, side: str) -> str:
    """Area of an annotation's name, as the keys of `area_regions`.

    Spellings met are ``L_V1_ROI``, ``L_V1``, ``V1_ROI`` and ``L_V1_ROI-lh``; ``7Pl`` and ``7PL``
    are one area, and no two areas differ by case only.
    """
    name = name.strip().removesuffix("-lh").removesuffix("-rh").removesuffix("_ROI")
    return name.removeprefix(f"{side}_").lower()


def read_areas(file: Path, hemisphere: str, *, names: Sequence[str]) -> Labels:
    """Read an annotation of HCP-MMP areas, by the areas' names.

    Parameters
    ----------
    file
        ``.annot``; the order and the colours of its table do not matter.
    hemisphere
        ``lh`` or ``rh``.
    names
        Names of the atlas's regions.

    Returns
    -------
    NDArray
        (n_vertices,), region index from 1; 0 for the medial wall.

    Raises
    ------
    InputError
        If the file is damaged, or does not name all 180 areas of the hemisphere.
    """
    try:
        # The values as they are: nibabel takes a colour that is none of the table's for the next.
        with np.errstate(over="ignore"):  # a number of vertices that is none: told below
            values, table, entries = read_annot(file, orig_ids=True)
        spelled = [entry.decode() if isinstance(entry, bytes) else str(entry) for entry in entries]
    except Exception as error:
        raise _damaged(file, "annotation", error) from error
    side = SIDES[hemisphere]
    regions = area_regions(side, names)
    found = [_plain_name(name, side) for name in spelled]
    missing = [area for area in regions if area not in found]
    if missing:
        raise InputError(
            f"the annotation lacks {len(missing)} of the {N_AREAS} areas of HCP-MMP 1.0 in the "
            f"{hemisphere} hemisphere (such as {', '.join(missing[:3])})",
            where=str(file),
            fix="Give the annotation of 180 areas a hemisphere, of this hemisphere, or say "
            "--coco439 group.",
        )
    colours = {int(row[-1]): regions[area] for row, area in zip(table, found, strict=True)
               if area in regions}  # fmt: skip
    if len(colours) < N_AREAS:
        raise _damaged(file, "annotation", "several areas have the same colour")
    keys = np.array(sorted(colours))
    by_key = np.array([colours[int(key)] for key in keys], dtype=np.int32)
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    result: Labels = np.where(keys[at] == values, by_key[at], 0).astype(np.int32)
    return result


def read_vertices(file: Path) -> NDArray[np.float64]:
    """Read the vertices of a FreeSurfer surface, (n_vertices, 3), mm (tkr RAS).

    Raises
    ------
    InputError
        If the file is damaged.
    """
    try:
        with np.errstate(over="ignore"):
            vertices = np.asarray(read_geometry(file)[0], dtype=np.float64)
    except Exception as error:
        raise _damaged(file, "surface", error) from error
    if vertices.size == 0 or not np.isfinite(vertices).all():
        raise _damaged(file, "surface", "it has no vertices, or some at no place")
    return vertices


def _damaged(file: Path, kind: str, error: Exception | str) -> InputError:
    return InputError(
        f"cannot be read as a FreeSurfer {kind}: {error}",
        where=str(file),
        fix="Get the file again, or say --coco439 group.",
    )


def carry_areas(
    areas: Labels, source_sphere: NDArray[np.float64], target_sphere: NDArray[np.float64]
) -> Labels:
    """Carry areas from one registered sphere to another.

    Each vertex of the target takes the area of the nearest vertex of the source. Areas of the
    source that no vertex is nearest to are not looked for backwards: with areas of hundreds of
    vertices that changes none of them by more than their border.

    Parameters
    ----------
    areas
        (n_source,).
    source_sphere, target_sphere
        (n_source, 3) and (n_target, 3), vertices in one registration; of any radius.

    Returns
    -------
    NDArray
        (n_target,).
    """
    source, target = (
        sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
        for sphere in (source_sphere, target_sphere)
    )
    nearest = cKDTree(source).query(target)[1]
    carried: Labels = areas[nearest]
    return carried


def label_ribbon(
    ribbon: NDArray[np.bool_],
    voxel_to_tkr: NDArray[np.floating],
    *,
    vertices: NDArray[np.float64],
    areas: Labels,
    where: str,
) -> Labels:
    """Label the voxels of one hemisphere's ribbon by the nearest vertex of its mid-surface.

    Parameters
    ----------
    ribbon
        (X, Y, Z), voxels of that hemisphere's cortex.
    voxel_to_tkr
        (4, 4), voxel indices to mm in the surfaces' frame.
    vertices
        (n_vertices, 3), half way between white and pial surface.
    areas
        (n_vertices,), region index; 0 for the medial wall.
    where
        Files, for the message.

    Returns
    -------
    NDArray
        (X, Y, Z), region index; 0 outside of the ribbon, and where the medial wall is nearest.

    Raises
    ------
    InputError
        If ribbon and surface do not lie together.
    """
    labels = np.zeros(ribbon.shape, dtype=np.int32)
    points = np.argwhere(ribbon) @ voxel_to_tkr[:3, :3].T + voxel_to_tkr[:3, 3]
    distances, nearest = cKDTree(vertices).query(points)
    far = float(np.mean(distances > MAX_DISTANCE_MM)) if len(points) else 1.0
    if far > FAR_SHARE:
        raise InputError(
            f"the surfaces do not lie in the cortex: {far:.0%} of its voxels are more than "
            f"{MAX_DISTANCE_MM:g} mm from them",
            where=where,
            fix="Look whether images and surfaces are of one FreeSurfer run, or say --coco439 "
            "group.",
        )
    labels[ribbon] = areas[nearest]
    return labels


def volume_areas(values: NDArray[np.integer], *, names: Sequence[str], where: str) -> Labels:
    """Read the areas of a ready volume, by the codes that ``mri_aparc2aseg`` gives them.

    Parameters
    ----------
    values
        (X, Y, Z), 1000 and 2000 (left, right) and the area's number, 1 to 180; other codes below
        1000 are left out.
    names
        Names of the atlas's regions.
    where
        The file, for the message.

    Raises
    ------
    InputError
        If there are other codes, or too few: the volume is of another parcellation.
    """
    labels = np.zeros(values.shape, dtype=np.int32)
    for hemisphere, first in VOLUME_CODES.items():
        numbers = values.astype(np.int64) - first
        inside = (numbers > 0) & (numbers < 1000)
        there = np.unique(numbers[inside])
        if len(there) < N_AREAS // 2 or there.max() > N_AREAS:
            raise InputError(
                f"holds {len(there)} codes from {first + 1} to {first + 999}, where those of the "
                f"{N_AREAS} areas of HCP-MMP 1.0 are expected",
                where=where,
                fix="Give the annotations label/{lh,rh}.HCP-MMP1.annot, or say --coco439 group.",
            )
        regions = np.array([0, *area_regions(SIDES[hemisphere], names).values()], dtype=np.int32)
        labels[inside] = regions[numbers[inside]]
    return labels


def read_surface_areas(
    files: Mapping[str, Path], hemisphere: str, *, names: Sequence[str]
) -> tuple[NDArray[np.float64], Labels]:
    """Read one hemisphere's mid-surface and its areas.

    Parameters
    ----------
    files
        By role: ``lh.annot``, ``lh.white``, ``lh.pial``; where the annotation is fsaverage's also
        ``lh.sphere`` (the participant's, registered) and ``fsaverage.lh.sphere``. Likewise ``rh``.
    hemisphere
        ``lh`` or ``rh``.
    names
        Names of the atlas's regions.

    Returns
    -------
    vertices, areas
        (n_vertices, 3) in mm (tkr RAS), and (n_vertices,), region index.

    Raises
    ------
    InputError
        If a file is damaged, or their numbers of vertices differ.
    """
    areas = read_areas(files[f"{hemisphere}.annot"], hemisphere, names=names)
    own_sphere = files.get(f"{hemisphere}.sphere")
    if own_sphere is not None:
        common = files[f"fsaverage.{hemisphere}.sphere"]
        source = read_vertices(common)
        _check_count(len(source), areas, common, files[f"{hemisphere}.annot"])
        areas = carry_areas(areas, source, read_vertices(own_sphere))
    white, pial = (files[f"{hemisphere}.{name}"] for name in ("white", "pial"))
    vertices = [read_vertices(file) for file in (white, pial)]
    for points, file in zip(vertices, (white, pial), strict=True):
        _check_count(len(points), areas, file, own_sphere or files[f"{hemisphere}.annot"])
    return (vertices[0] + vertices[1]) / 2, areas


def _check_count(n_vertices: int, areas: Labels, file: Path, other: Path) -> None:
    if n_vertices != len(areas):
        raise InputError(
            f"the surface has {n_vertices} vertices, {other.name} has {len(areas)}",
            where=f"{file}; {other}",
            fix="Give files of one FreeSurfer run, or say --coco439 group.",
        )
