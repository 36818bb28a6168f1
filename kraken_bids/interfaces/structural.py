# SPDX-License-Identifier: MIT
"""Checks of diffusion data, five-tissue images, and what figures are drawn from."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
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
from ..connectome.structural import tractogram_bytes
from ..errors import InputError, ResourceError
from ..images import alignment, diffusion, five_tissue, gradient_check, stream
from ..images.fod_colours import orientation_colours
from ..images.streamline_ends import AssignedStreamlines
from ..images.transforms import moved_affine
from .atlases import transform_steps

_log = logging.getLogger(__name__)

#: What is told of FODs where there is nothing to tell tissues apart by.
SINGLE_TISSUE = "FODs of white matter alone (tournier, csd): the series has no b = 0 volume"

#: Volumes of an image of FODs that colours are made of: harmonics (0, 0), (2, 0) and (2, 2).
COLOUR_VOLUMES = "0,3,5"

#: Least share of the brain mask that a five-tissue image must cover to be in the same space.
LEAST_TISSUE_OVERLAP = 0.5


class _CheckDiffusionInputSpec(BaseInterfaceInputSpec):
    dwi_file = File(exists=True, mandatory=True)
    bval_file = File(exists=True, mandatory=True)
    bvec_file = File(exists=True, mandatory=True)
    mask_file = File(exists=True, mandatory=True)
    force = traits.Bool(False, usedefault=True, desc="take b-vectors that seem to be wrong")
    n_streamlines = traits.Int(0, usedefault=True, desc="to be made of each tractogram")
    point_spacing_mm = traits.List(
        traits.Float(),
        value=[],
        usedefault=True,
        desc="distance of stored points, one a tractogram to be made",
    )


class _CheckDiffusionOutputSpec(TraitedSpec):
    gradient_files = traits.Tuple(
        File(exists=True), File(exists=True), desc="bvec and bval files; low weightings set to 0"
    )
    b0_file = File(exists=True, desc="mean of the volumes without weighting")
    n_shells = traits.Int(desc="shells beside b = 0")
    response_algorithm = traits.Str(desc="of dwi2response: dhollander, or tournier without b = 0")
    fod_algorithm = traits.Str(desc="of dwi2fod: msmt_csd, or csd without b = 0")
    erosion = traits.Int(desc="voxels by which responses are to be kept from the mask's border")
    facts_file = File(exists=True, desc="JSON: what the series is")


class CheckDiffusion(SimpleInterface):
    """Read a series and its gradients from end to end before hours are spent on them."""

    input_spec = _CheckDiffusionInputSpec
    output_spec = _CheckDiffusionOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        folder, inputs = Path(runtime.cwd), self.inputs
        require_room(
            folder,
            tractogram_bytes(inputs.n_streamlines, point_spacing_mm=inputs.point_spacing_mm),
        )
        header = stream.read_header(Path(inputs.dwi_file))
        table = diffusion.read_gradients(
            Path(inputs.bval_file), Path(inputs.bvec_file), n_volumes=header.n_volumes
        )
        mask = stream.load_on_grid(Path(inputs.mask_file), header, kind="brain mask")
        sums = gradient_check.TensorSums(table, np.asarray(mask) > 0, header.affine)
        mean = diffusion.average_volumes(header, table.reference, visit=sums.add)
        axes = gradient_check.check_axes(sums)
        require_axes(axes, bvec_file=Path(inputs.bvec_file), force=inputs.force)
        nib.save(nib.Nifti1Image(mean, header.affine), folder / "b0.nii.gz")
        facts = describe_series(table, header.affine) | {"bvec_gain": round(axes.gain, 3)}
        self._results["facts_file"] = write_facts(folder, facts)
        self._results["gradient_files"] = write_gradients(folder, table)
        self._results["b0_file"] = str(folder / "b0.nii.gz")
        self._results["n_shells"] = len(table.shells)
        has_b0 = bool(facts["n_b0"])
        self._results["response_algorithm"] = "dhollander" if has_b0 else "tournier"
        self._results["fod_algorithm"] = "msmt_csd" if has_b0 else "csd"
        self._results["erosion"] = diffusion.border_voxels(header.affine)
        return runtime


def write_gradients(folder: Path, table: diffusion.GradientTable) -> tuple[str, str]:
    """Write b-vectors and b-values as they are used; give both files."""
    bvec_file, bval_file = folder / "gradients.bvec", folder / "gradients.bval"
    np.savetxt(bvec_file, table.bvecs.T, fmt="%.8f")
    np.savetxt(bval_file, table.bvals[None], fmt="%.6g")
    return str(bvec_file), str(bval_file)


def describe_series(
    table: diffusion.GradientTable, affine: NDArray[np.floating]
) -> dict[str, Any]:
    """Measures of quality that tell what a series is."""
    n_b0 = int((table.bvals == 0).sum())
    return {
        "n_volumes": table.bvals.size,
        "n_b0": n_b0,
        "shells": ", ".join(map(str, table.shells)),
        "directions": ", ".join(map(str, table.shell_sizes)),
        "voxel_mm": round(diffusion.voxel_size(affine), 4),
        **({} if n_b0 else {"fods_bias": SINGLE_TISSUE}),
    }


def require_axes(axes: gradient_check.AxisCheck, *, bvec_file: Path, force: bool) -> None:
    """Refuse b-vectors whose axes do not fit the series; with `force`, warn.

    Raises
    ------
    InputError
        If fibres hang together clearly better with their axes in another arrangement.
    """
    if not axes.is_wrong:
        return
    problem = InputError(
        f"b-vectors seem to be wrong: with the rows {axes.describe()} in place of x, y, z, "
        f"{100 * (axes.gain - 1):.0f}% more neighbouring voxels of white matter are connected",
        where=str(bvec_file),
        fix="Look at the b-vectors of the raw series (dwigradcheck); --force takes them as they "
        "are.",
    )
    if not force:
        raise problem
    _log.warning("%s", problem)


def require_room(folder: Path, n_bytes: int) -> None:
    """Refuse to start what will not fit on the disk.

    Raises
    ------
    ResourceError
        If less than `n_bytes` are free.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise ResourceError(
            f"the tractograms take about {n_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            where=str(folder),
            fix="Give a --work-dir on a larger disk, or fewer --streamlines.",
        )


def write_facts(folder: Path, facts: dict[str, Any]) -> str:
    """Write ``facts.json`` for later nodes and say where it is."""
    file = folder / "facts.json"
    file.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return str(file)


class _PrepareFiveTissueInputSpec(BaseInterfaceInputSpec):
    five_tissue_file = File(
        exists=True, xor=["labels_file", "probability_files"], desc="ready image, to be checked"
    )
    labels_file = File(exists=True, desc="FreeSurfer codes in the space of the DWI")
    probability_files = traits.List(
        File(exists=True), minlen=3, maxlen=3, desc="maps of grey matter, white matter and CSF"
    )
    steps = traits.List(
        traits.Dict(), desc="rigid way of five_tissue_file to the DWI, as plain_steps gives it"
    )
    mask_file = File(exists=True, mandatory=True, desc="brain mask of the DWI")
    reference_file = File(
        exists=True, desc="image in the space of the DWI that tissues must fit; the mask if none"
    )
    force = traits.Bool(False, usedefault=True, desc="take tissues that seem to lie elsewhere")


class _PrepareFiveTissueOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="(X, Y, Z, 5) image")


class PrepareFiveTissue(SimpleInterface):
    """Make or check the image that anatomical constraints come from."""

    input_spec = _PrepareFiveTissueInputSpec
    output_spec = _PrepareFiveTissueOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        if isdefined(inputs.five_tissue_file):
            where = out_file = inputs.five_tissue_file
            tissues, affine = diffusion.read_values(Path(where))
        else:
            where, tissues, affine = self._make()
        if isdefined(inputs.steps) and inputs.steps:
            affine = moved_affine(affine, transform_steps(inputs.steps))
        if not isdefined(inputs.five_tissue_file) or inputs.steps:
            out_file = str(Path(runtime.cwd) / "five_tissue.nii.gz")
            nib.save(nib.Nifti1Image(tissues, affine), out_file)
        five_tissue.check_tissues(tissues, where=where)
        reference = inputs.reference_file if isdefined(inputs.reference_file) else ""
        require_overlap(
            tissues, affine, mask_file=Path(inputs.mask_file), where=where,
            reference_file=Path(reference or inputs.mask_file), force=inputs.force,
        )  # fmt: skip
        self._results["out_file"] = out_file
        return runtime

    def _make(self) -> tuple[str, NDArray[np.float32], NDArray[np.float64]]:
        """Source, values and affine of an image made from labels or maps."""
        if isdefined(self.inputs.labels_file):
            labels, affine = diffusion.read_values(Path(self.inputs.labels_file))
            tissues = five_tissue.tissues_from_labels(np.rint(labels).astype(np.int32))
            return self.inputs.labels_file, tissues, affine
        files = [Path(file) for file in self.inputs.probability_files]
        maps, affines = zip(*map(diffusion.read_values, files), strict=True)
        if len({values.shape for values in maps}) > 1:
            raise InputError(
                f"tissue maps have shapes {', '.join(str(values.shape) for values in maps)}",
                where=", ".join(map(str, files)),
                fix="Give tissue maps of one grid.",
            )
        return str(files[0]), five_tissue.tissues_from_maps(*maps), affines[0]


def require_overlap(
    tissues: NDArray[np.floating],
    affine: NDArray[np.floating],
    *,
    mask_file: Path,
    reference_file: Path,
    where: str,
    force: bool = False,
) -> None:
    """Refuse a five-tissue image that lies elsewhere than the brain of the series.

    Raises
    ------
    InputError
        If it covers less than `LEAST_TISSUE_OVERLAP` of the mask, or fits the reference image
        better elsewhere (`alignment.require_place`), unless `force` is given.
    """
    mask, mask_affine = diffusion.read_values(mask_file)
    inside = mask > 0.5
    brain = diffusion.sample_nearest(
        tissues.sum(axis=-1) > 0.5, affine, target_affine=mask_affine, target_shape=mask.shape
    )
    share = float(brain[inside].mean()) if inside.any() else 0.0
    if share < LEAST_TISSUE_OVERLAP:
        raise InputError(
            f"tissues cover {share:.0%} of the diffusion brain mask: another space, or an empty "
            "mask",
            where=f"{where}; {mask_file}",
            fix="Give tissues in the space of the preprocessed diffusion series.",
        )
    reference, reference_affine = diffusion.read_values(reference_file)
    reference = reference.mean(axis=-1) if reference.ndim == 4 else reference
    alignment.require_place(
        alignment.kinds_of_tissues(tissues),
        affine,
        alignment.Scan(reference, reference_affine, inside, mask_affine),
        what="tissues",
        where=f"{where}; {reference_file}; {mask_file}",
        fix="Look whether the transform between native and ACPC space belongs to this "
        "participant and session, or run QSIPrep again.",
        force=force,
    )


class _CollectOverviewInputSpec(BaseInterfaceInputSpec):
    background_file = File(exists=True, mandatory=True, desc="image whose grid is used")
    density_file = File(exists=True, mandatory=True, desc="streamlines a voxel, on that grid")
    five_tissue_file = File(exists=True)
    algorithms = traits.List(traits.Str(), mandatory=True)
    assignments_files = traits.List(File(exists=True), mandatory=True, desc="one an algorithm")
    fod_file = File(exists=True, desc="coefficients that orientation_colours needs")


class _CollectOverviewOutputSpec(TraitedSpec):
    overview_file = File(exists=True, desc=".npz")


class CollectOverview(SimpleInterface):
    """Collect on one grid what the structural figures are drawn from."""

    input_spec = _CollectOverviewInputSpec
    output_spec = _CollectOverviewOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        background, affine = diffusion.read_values(Path(inputs.background_file))
        background = background[..., 0] if background.ndim == 4 else background
        density, _ = diffusion.read_values(Path(inputs.density_file))
        tissues = np.zeros((*background.shape, 5), dtype=np.float32)
        if isdefined(inputs.five_tissue_file):
            values, tissue_affine = diffusion.read_values(Path(inputs.five_tissue_file))
            tissues = diffusion.sample_nearest(
                values, tissue_affine, target_affine=affine, target_shape=background.shape
            )
        ends: dict[str, Any] = {}
        for algorithm, name in zip(inputs.algorithms, inputs.assignments_files, strict=True):
            ends |= describe_ends(AssignedStreamlines.load(Path(name)), algorithm)
        if isdefined(inputs.fod_file):
            fods, fod_affine = diffusion.read_values(Path(inputs.fod_file))
            ends["orientation"] = diffusion.sample_nearest(
                orientation_colours(fods),
                fod_affine,
                target_affine=affine,
                target_shape=background.shape,
            )
        file = Path(runtime.cwd) / "overview.npz"
        np.savez(
            file, background=background, affine=affine, five_tissue=tissues, density=density,
            **ends,
        )  # fmt: skip
        self._results["overview_file"] = str(file)
        return runtime


def describe_ends(found: AssignedStreamlines, algorithm: str) -> dict[str, NDArray[Any]]:
    """Lengths of streamlines, and the number of ends in each region by atlas, for figures."""
    arrays: dict[str, NDArray[Any]] = {f"lengths_{algorithm}": found.lengths_mm}
    for atlas, regions in found.regions.items():
        counted = np.bincount(regions.ravel(), minlength=load_atlas(atlas).n_regions + 1)
        arrays[f"ends_{algorithm}_{atlas}"] = counted[1:]
    return arrays
