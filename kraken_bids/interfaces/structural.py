# SPDX-License-Identifier: MIT
"""Checks of diffusion data, five-tissue images, and connectomes from counted streamlines."""

from __future__ import annotations

import json
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
from ..connectome.structural import (
    StructuralConnectomes,
    build_connectomes,
    tractogram_bytes,
)
from ..errors import InputError, ResourceError
from ..images import diffusion, five_tissue, stream, tractograms

#: Least share of the brain mask that a five-tissue image must cover to be in the same space.
LEAST_TISSUE_OVERLAP = 0.5


class _CheckDiffusionInputSpec(BaseInterfaceInputSpec):
    dwi_file = File(exists=True, mandatory=True)
    bval_file = File(exists=True, mandatory=True)
    bvec_file = File(exists=True, mandatory=True)
    mask_file = File(exists=True, mandatory=True)
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
        stream.load_on_grid(Path(inputs.mask_file), header, kind="brain mask")
        mean = diffusion.average_volumes(header, table.bvals == 0)
        bvec_file, bval_file = folder / "gradients.bvec", folder / "gradients.bval"
        np.savetxt(bvec_file, table.bvecs.T, fmt="%.8f")
        np.savetxt(bval_file, table.bvals[None], fmt="%.6g")
        b0_file = folder / "b0.nii.gz"
        nib.save(nib.Nifti1Image(mean, header.affine), b0_file)
        facts = {
            "n_volumes": header.n_volumes,
            "n_b0": int((table.bvals == 0).sum()),
            "shells": ", ".join(map(str, table.shells)),
            "directions": ", ".join(map(str, table.shell_sizes)),
            "voxel_mm": round(diffusion.voxel_size(header.affine), 4),
        }
        self._results["facts_file"] = write_facts(folder, facts)
        self._results["gradient_files"] = (str(bvec_file), str(bval_file))
        self._results["b0_file"] = str(b0_file)
        self._results["n_shells"] = len(table.shells)
        self._results["erosion"] = diffusion.border_voxels(header.affine)
        return runtime


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
    mask_file = File(exists=True, mandatory=True, desc="brain mask of the DWI")


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
            out_file = str(Path(runtime.cwd) / "five_tissue.nii.gz")
            nib.save(nib.Nifti1Image(tissues, affine), out_file)
        five_tissue.check_tissues(tissues, where=where)
        require_overlap(tissues, affine, mask_file=Path(inputs.mask_file), where=where)
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
    tissues: NDArray[np.floating], affine: NDArray[np.floating], *, mask_file: Path, where: str
) -> None:
    """Refuse a five-tissue image that lies elsewhere than the brain of the series.

    Raises
    ------
    InputError
        If it covers less than `LEAST_TISSUE_OVERLAP` of the mask.
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


class _MeasureTractogramInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc=".tck or .tck.gz")
    algorithm = traits.Str(mandatory=True, desc="ifod2act or sdstream")
    n_wanted = traits.Int(0, usedefault=True, desc="streamlines asked for; 0 for a ready file")


class _MeasureTractogramOutputSpec(TraitedSpec):
    tractogram_file = File(exists=True, desc=".tck")
    lengths_file = File(exists=True, desc="(n_streamlines,) mm, .npy")
    facts_file = File(exists=True, desc="JSON: number, lengths, differences from the training")


class MeasureTractogram(SimpleInterface):
    """Read a tractogram, made or given, from end to end: number and lengths of streamlines."""

    input_spec = _MeasureTractogramInputSpec
    output_spec = _MeasureTractogramOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        folder, algorithm = Path(runtime.cwd), self.inputs.algorithm
        given = Path(self.inputs.in_file)
        file = tractograms.unpack_tractogram(given, folder / f"{algorithm}.tck")
        header = tractograms.read_header(file)
        lengths = tractograms.measure_streamlines(file)
        n_wanted = int(self.inputs.n_wanted)
        facts = {
            "source": "tracked" if n_wanted else f"given: {given.name}",
            "n_streamlines": int(lengths.size),
            "n_streamlines_wanted": n_wanted or int(lengths.size),
            "n_seeds": int(header.get("total_count", 0)),
            "median_length_mm": float(np.median(lengths)),
            "mean_length_mm": float(lengths.mean()),
            "bias": "; ".join(tractograms.describe_bias(header, algorithm=algorithm)),
        }
        named = {f"{algorithm}_{key}": value for key, value in facts.items()}
        np.save(folder / "lengths.npy", lengths)
        self._results["tractogram_file"] = str(file)
        self._results["lengths_file"] = str(folder / "lengths.npy")
        self._results["facts_file"] = write_facts(folder, named)
        return runtime


class _BuildConnectomesInputSpec(BaseInterfaceInputSpec):
    algorithms = traits.List(traits.Str(), mandatory=True)
    atlases = traits.List(traits.Str(), mandatory=True)
    counts_files = traits.List(
        File(exists=True), mandatory=True, desc="all atlases of the first algorithm, and so on"
    )
    labels_files = traits.List(File(exists=True), mandatory=True, desc="one an atlas")
    volumes_file = File(exists=True, mandatory=True, desc="JSON: atlas -> mm3 of each region")
    facts_files = traits.List(File(exists=True), mandatory=True, desc="JSON, flat")
    mask_file = File(exists=True, desc="brain mask of the series")
    radius_mm = traits.Float(mandatory=True, desc="told in the quality file")


class _BuildConnectomesOutputSpec(TraitedSpec):
    connectomes_file = File(exists=True, desc=".npz: flavor -> (R, R)")
    qc_file = File(exists=True, desc="JSON")


class BuildConnectomes(SimpleInterface):
    """Turn counts into connectomes: full set of regions, training scale, volumes."""

    input_spec = _BuildConnectomesInputSpec
    output_spec = _BuildConnectomesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, folder = self.inputs, Path(runtime.cwd)
        volumes = json.loads(Path(inputs.volumes_file).read_text("utf-8"))
        regions = {
            atlas: describe_regions(atlas, Path(labels), volumes[atlas], mask_file=self._mask())
            for atlas, labels in zip(inputs.atlases, inputs.labels_files, strict=True)
        }
        pairs = [(algorithm, atlas) for algorithm in inputs.algorithms for atlas in inputs.atlases]
        matrices: dict[str, Any] = {}
        facts = merge_facts([Path(file) for file in inputs.facts_files])
        facts["assignment_radius_mm"] = inputs.radius_mm
        for (algorithm, atlas), file in zip(pairs, inputs.counts_files, strict=True):
            made = connect_counts(Path(file), regions[atlas], algorithm=algorithm, atlas=atlas)
            matrices[f"SC{algorithm}_{atlas}_count"] = made.count
            matrices[f"SC{algorithm}_{atlas}_volnorm"] = made.volnorm
            facts |= {f"{algorithm}_{atlas}_{key}": made.quality[key] for key in made.quality}
        np.savez(folder / "connectomes.npz", **matrices)
        (folder / "qc.json").write_text(json.dumps({**facts, "regions": regions}), "utf-8")
        self._results["connectomes_file"] = str(folder / "connectomes.npz")
        self._results["qc_file"] = str(folder / "qc.json")
        return runtime

    def _mask(self) -> Path | None:
        return Path(self.inputs.mask_file) if isdefined(self.inputs.mask_file) else None


def merge_facts(files: list[Path]) -> dict[str, Any]:
    """Put the flat dictionaries of several files into one."""
    merged: dict[str, Any] = {}
    for file in files:
        merged |= json.loads(file.read_text("utf-8"))
    return merged


def describe_regions(
    atlas: str, labels_file: Path, volumes_mm3: list[float], *, mask_file: Path | None
) -> dict[str, Any]:
    """Say of each region how large it is, whether it is there and in the brain mask.

    Returns
    -------
    dict
        ``volume_mm3`` and ``coverage`` (a value a region), ``present`` (likewise), ``missing``
        and ``volume_set_to_one_voxel`` (names), and ``without_streamlines`` (empty yet; names by
        algorithm).

    Notes
    -----
    A region may be in the image that streamlines are assigned with, yet so small in that which
    volumes are measured from that no voxel is left of it. It counts as one voxel: in the mean of
    two volumes the other one decides anyway.
    """
    names = load_atlas(atlas).region_names
    values, affine = diffusion.read_values(labels_file)
    labels = np.rint(values).astype(np.int32)
    known = labels[(labels > 0) & (labels <= len(names))]
    present = np.bincount(known, minlength=len(names) + 1)[1:] > 0
    coverage = present.astype(np.float64)
    if mask_file is not None:
        mask, mask_affine = diffusion.read_values(mask_file)
        inside = diffusion.sample_nearest(
            mask > 0.5, mask_affine, target_affine=affine, target_shape=labels.shape
        )
        coverage = diffusion.region_coverage(labels, inside, n_regions=len(names))
    volumes = np.asarray(volumes_mm3, dtype=np.float64)
    tiny = present & (volumes <= 0)
    volumes = np.where(tiny, diffusion.voxel_size(affine) ** 3, volumes)
    return {
        "volume_mm3": [round(float(volume), 3) for volume in volumes],
        "coverage": [round(float(share), 4) for share in coverage],
        "present": present.tolist(),
        "missing": [name for name, there in zip(names, present, strict=True) if not there],
        "volume_set_to_one_voxel": [
            name for name, small in zip(names, tiny, strict=True) if small
        ],
        "without_streamlines": {},
    }


def connect_counts(
    file: Path, regions: dict[str, Any], *, algorithm: str, atlas: str
) -> StructuralConnectomes:
    """Read a table of counts and build its connectomes.

    The names of regions that no streamline reaches are added to `regions`.
    """
    table = np.loadtxt(file, delimiter=",", comments="#", ndmin=2)
    made = build_connectomes(
        table,
        present=np.array(regions["present"], dtype=bool),
        volumes_mm3=np.array(regions["volume_mm3"], dtype=np.float64),
    )
    names = load_atlas(atlas).region_names
    idle = zip(names, made.counts.idle_regions, strict=True)
    regions["without_streamlines"][algorithm] = [name for name, alone in idle if alone]
    return made


class _CollectOverviewInputSpec(BaseInterfaceInputSpec):
    background_file = File(exists=True, mandatory=True, desc="image whose grid is used")
    density_file = File(exists=True, mandatory=True, desc="streamlines a voxel, on that grid")
    five_tissue_file = File(exists=True)
    algorithms = traits.List(traits.Str(), mandatory=True)
    lengths_files = traits.List(File(exists=True), mandatory=True, desc="one an algorithm")


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
        lengths = {
            f"lengths_{algorithm}": np.load(file)
            for algorithm, file in zip(inputs.algorithms, inputs.lengths_files, strict=True)
        }
        file = Path(runtime.cwd) / "overview.npz"
        np.savez(
            file, background=background, affine=affine, five_tissue=tissues, density=density,
            **lengths,
        )  # fmt: skip
        self._results["overview_file"] = str(file)
        return runtime
