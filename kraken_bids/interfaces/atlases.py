# SPDX-License-Identifier: MIT
"""Label images on the grid of the data."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from ..atlases import load_atlas
from ..bids.writers import write_json
from ..errors import InputError
from ..images.alignment import Scan, kinds_of_atlas, require_place, require_sides
from ..images.five_tissue import tissue_groups
from ..images.resample import (
    check_overlap,
    isotropic_grid,
    label_image,
    label_values,
    mean_image,
    open_image,
    region_volumes,
    relabel_codes,
    resample_together,
)
from ..plan import LabelSource, TransformStep

#: `LabelSource.atlas` of a FreeSurfer segmentation whose codes are kept.
TISSUES = "tissues"

#: Voxels on which the place of labels is checked, and how far they reach beyond the data, in mm.
CHECK_VOXEL_MM, CHECK_MARGIN_MM = 4.0, 24.0
#: Atlas by whose table the sides of FreeSurfer's codes are told.
_SIDES_OF_CODES = "fs86"


def plain_label_source(source: LabelSource) -> dict[str, Any]:
    """Write a label source in plain values, as `ResampleLabels` takes it.

    Sizes and times of the files are part of it, so that a node runs again when one has changed;
    Nipype sees to that only for fields that are files themselves.

    Returns
    -------
    dict
        ``atlas``, ``file``, ``space``, ``codes``, ``volume_file`` (None where there is none),
        ``steps`` (list of dict with ``file``, ``source``, ``target``, ``inverted``) and
        ``stamps`` (size and time of each file in ns). ``file`` is empty where the image is still
        to be built.
    """
    files = [source.file, *([source.volume_file] if source.volume_file else [])]
    files += [step.file for step in source.transforms]
    return {
        "atlas": source.atlas,
        "file": "" if source.own else str(source.file),
        "space": source.space,
        "codes": source.codes,
        "volume_file": str(source.volume_file) if source.volume_file else None,
        "steps": plain_steps(source.transforms),
        "stamps": [file_stamp(file) for file in files],
    }


def plain_steps(steps: Sequence[TransformStep]) -> list[dict[str, Any]]:
    """Write steps in plain values: ``file``, ``source``, ``target``, ``inverted``."""
    return [
        {
            "file": str(step.file),
            "source": step.source,
            "target": step.target,
            "inverted": step.inverted,
        }
        for step in steps
    ]


def transform_steps(plain: Sequence[dict[str, Any]]) -> tuple[TransformStep, ...]:
    """Read back what `plain_steps` wrote."""
    return tuple(
        TransformStep(Path(step["file"]), step["source"], step["target"], step["inverted"])
        for step in plain
    )


def file_stamp(file: Path) -> list[int]:
    """Size in bytes and time of change in ns; empty if the file is not there (yet)."""
    if not file.exists():
        return []
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _way(source: dict[str, Any], *, data: str) -> str:
    """A label image, its space, the transform files after it, and the data, for messages."""
    way = f"{source['file']} in {source['space']}"
    for step in source["steps"]:
        turned = " (inverted)" if step["inverted"] else ""
        way += f", to {step['target']} by {step['file']}{turned}"
    return f"{way}; data: {data}"


def _as_indices(
    labels: NDArray[np.int32], source: dict[str, Any], *, way: str
) -> NDArray[np.int32]:
    """Turn resampled values into region indices, and refuse those of another atlas.

    Raises
    ------
    InputError
        If none of the atlas's regions is left, or a value is none of its indices.
    """
    if source["atlas"] != TISSUES:
        regions = load_atlas(source["atlas"]).regions
        if source["codes"] == "freesurfer":
            labels = relabel_codes(labels, [region.code for region in regions])
        if labels.max() > len(regions):
            raise InputError(
                f"holds label {labels.max()}, but {source['atlas']} has {len(regions)} regions",
                where=source["file"],
                fix="Give the label image of this atlas, with region indices as values.",
            )
    if not labels.any():
        raise InputError(
            f"none of the labels of {source['atlas']} lies on the grid of the data",
            where=way,
            fix="Look whether the label image is that of the atlas, and whether the transform "
            "belongs to this participant and these spaces.",
        )
    return labels


def _resampled(
    sources: Sequence[dict[str, Any]], *, affine: NDArray[np.floating], shape: Sequence[int]
) -> dict[tuple[str, str], NDArray[np.int32]]:
    """Values of all images on the grid, by `_way_key` and file."""
    results: dict[tuple[str, str], NDArray[np.int32]] = {}
    # Atlases that travel the same way are taken along together: mapping points costs the most.
    for key, group in itertools.groupby(sorted(sources, key=_way_key), key=_way_key):
        members = list(group)
        files = {member["file"] for member in members}
        files |= {member["volume_file"] for member in members if member["volume_file"]}
        steps = transform_steps(members[0]["steps"])
        images = [open_image(Path(file)) for file in files]
        values = resample_together(images, steps, affine=affine, shape=shape)
        results |= {(key, file): value for file, value in zip(files, values, strict=True)}
    return results


def _way_key(source: dict[str, Any]) -> str:
    return json.dumps(source["steps"])


@dataclass(frozen=True)
class _OnGrid:
    """Labels of one source on the grid of the data.

    Parameters
    ----------
    atlas, way
        Its name, and where it comes from, for messages.
    labels
        (X, Y, Z), region indices, or FreeSurfer codes of `TISSUES`.
    volumes_mm3
        (n_regions,); empty for `TISSUES`.
    """

    atlas: str
    way: str
    labels: NDArray[np.int32]
    volumes_mm3: NDArray[np.float64]


def _on_grid(
    sources: Sequence[dict[str, Any]],
    *,
    affine: NDArray[np.floating],
    shape: Sequence[int],
    data: str,
) -> list[_OnGrid]:
    """Labels and volumes of all sources, in their order."""
    values = _resampled(sources, affine=affine, shape=shape)
    found = []
    for source in sources:
        key, way, atlas = _way_key(source), _way(source, data=data), source["atlas"]
        labels = _as_indices(values[key, source["file"]], source, way=way)
        measured = labels
        if source["volume_file"]:
            measured = _as_indices(values[key, source["volume_file"]], source, way=way)
        n_regions = 0 if atlas == TISSUES else load_atlas(atlas).n_regions
        volumes = region_volumes(measured, n_regions, affine=affine)
        found.append(_OnGrid(atlas, way, labels, volumes))
    return found


def check_place(
    sources: Sequence[dict[str, Any]],
    *,
    reference: Any,
    mask_file: Path,
    data: str,
    force: bool = False,
) -> None:
    """Refuse labels that lie elsewhere in the image, or on the wrong side.

    Parameters
    ----------
    sources
        Each as `plain_label_source` gives it.
    reference
        nibabel image (of a series the mean of the first volumes is used), of any contrast.
    mask_file
        Brain mask in its space.
    data
        The image, for messages.
    force
        Warn only of labels that lie elsewhere.

    Raises
    ------
    InputError
        For the first labels that are out of place.
    """
    mask_img = open_image(mask_file)
    scan = Scan(
        mean_image(reference), reference.affine, label_values(mask_img) > 0, mask_img.affine
    )
    affine, shape = isotropic_grid(
        mask_img.affine, scan.mask.shape, voxel_mm=CHECK_VOXEL_MM, margin_mm=CHECK_MARGIN_MM
    )
    values, checked = _resampled(sources, affine=affine, shape=shape), set()
    for source in sources:
        key, way = (_way_key(source), source["file"]), _way(source, data=data)
        if key in checked:
            continue
        checked.add(key)
        labels, what = values[key], f"the labels of {source['atlas']}"
        is_coded = source["codes"] == "freesurfer" or source["atlas"] == TISSUES
        kinds = tissue_groups(labels) if is_coded else kinds_of_atlas(labels, affine)
        left, right = (
            np.isin(labels, _values_of_side(source["atlas"], side, is_coded=is_coded))
            for side in "LR"
        )
        require_sides(left, right, affine, what=what, where=way)
        require_place(
            kinds, affine, scan, what=what, where=way,
            fix="Look whether the transforms and the label image belong to this participant, this "
            "session and these spaces; after the right ones are given, the run goes on from here.",
            force=force,
        )  # fmt: skip


def _values_of_side(atlas: str, side: str, *, is_coded: bool) -> list[int]:
    """Values of the regions on one side: ``L`` or ``R``."""
    regions = load_atlas(_SIDES_OF_CODES if is_coded else atlas).regions
    return [
        region.code if is_coded else region.index
        for region in regions
        if region.hemisphere == side
    ]


class _ResampleLabelsInputSpec(BaseInterfaceInputSpec):
    label_sources = traits.List(
        traits.Dict(), mandatory=True, desc="label sources, each as plain_label_source gives it"
    )
    reference_file = File(
        exists=True, mandatory=True, desc="image (3-D or 4-D) whose grid is to be used"
    )
    voxel_mm = traits.Float(
        desc="edge of isotropic voxels over the field of view of reference_file, in place of its "
        "own grid, in mm"
    )
    mask_file = File(
        exists=True, desc="brain mask in the space of the reference; labels must lie in it"
    )
    reference_space = traits.Str("", usedefault=True, desc="label of that space, for messages")
    own_file = File(exists=True, desc="label image of the source that has none yet")
    force = traits.Bool(False, usedefault=True, desc="take labels that seem to lie elsewhere")


class _ResampleLabelsOutputSpec(TraitedSpec):
    labels_files = traits.List(
        File(exists=True), desc="<atlas>_dseg.nii.gz, in the order of label_sources"
    )
    volumes_file = File(
        exists=True, desc="JSON: atlas -> volume of each region on the new grid, in mm3"
    )


class ResampleLabels(SimpleInterface):
    """Bring label images onto the grid of the data, nearest neighbour, in one interpolation.

    Values become region indices (0: background); those of the atlas ``tissues`` stay FreeSurfer
    codes, and it has no volumes.
    """

    input_spec = _ResampleLabelsInputSpec
    output_spec = _ResampleLabelsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        reference = open_image(Path(self.inputs.reference_file))
        affine, shape = reference.affine, reference.shape[:3]
        if isdefined(self.inputs.voxel_mm):
            affine, shape = isotropic_grid(affine, shape, voxel_mm=self.inputs.voxel_mm)
        data = f"{self.inputs.reference_file} in {self.inputs.reference_space or 'one space'}"
        own_file = str(self.inputs.own_file) if isdefined(self.inputs.own_file) else ""
        sources = [
            {**source, "file": source["file"] or own_file} for source in self.inputs.label_sources
        ]
        found = _on_grid(sources, affine=affine, shape=shape, data=data)
        if isdefined(self.inputs.mask_file):
            mask_file = Path(self.inputs.mask_file)
            (mask,) = resample_together([open_image(mask_file)], affine=affine, shape=shape)
            for item in found:
                check_overlap(item.labels, mask, atlas=item.atlas, way=item.way)
            check_place(
                sources, reference=reference, mask_file=mask_file, data=data,
                force=self.inputs.force,
            )  # fmt: skip

        folder = Path(runtime.cwd)
        self._results["labels_files"] = []
        for item in found:
            file = folder / f"{item.atlas}_dseg.nii.gz"
            label_image(item.labels, affine).to_filename(file)
            self._results["labels_files"].append(str(file))
        self._results["volumes_file"] = str(folder / "volumes.json")
        volumes = {item.atlas: item.volumes_mm3 for item in found if item.atlas != TISSUES}
        write_json(folder / "volumes.json", volumes)
        return runtime
