# SPDX-License-Identifier: MIT
"""Streamlines assigned to regions, and connectomes from them."""

from __future__ import annotations

import json
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

from ..atlases import load_atlas
from ..connectome.structural import StructuralConnectomes, build_connectomes, tabulate_pairs
from ..images import diffusion, tractograms
from ..images.streamline_ends import AssignedStreamlines, assign_streamlines, read_weights
from .structural import write_facts

#: Percentiles of streamline lengths that are told beside the median.
LENGTH_PERCENTILES = (5, 25, 75, 95)


class _AssignStreamlinesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc=".tck")
    algorithm = traits.Str(mandatory=True, desc="ifod2act or sdstream")
    atlases = traits.List(traits.Str(), mandatory=True)
    labels_files = traits.List(File(exists=True), mandatory=True, desc="one an atlas")
    radius_mm = traits.Float(mandatory=True, desc="of the search around an end")
    n_wanted = traits.Int(0, usedefault=True, desc="streamlines asked for; 0 for a ready file")
    given = traits.Str("", usedefault=True, desc="name of a ready file")
    weights_file = File(exists=True, desc="SIFT2 weights, one a streamline")
    mu_file = File(exists=True, desc="SIFT2's factor from weights to fibre density")


class _AssignStreamlinesOutputSpec(TraitedSpec):
    assignments_file = File(exists=True, desc=".npz: atlas -> (n_streamlines, 2)")
    facts_file = File(exists=True, desc="JSON: number, lengths, differences from the training")


class AssignStreamlines(SimpleInterface):
    """Read a tractogram once, from end to end: regions of all atlases, lengths, number."""

    input_spec = _AssignStreamlinesInputSpec
    output_spec = _AssignStreamlinesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, folder = self.inputs, Path(runtime.cwd)
        file = Path(inputs.in_file)
        labels = zip(inputs.atlases, map(Path, inputs.labels_files), strict=True)
        found = assign_streamlines(file, dict(labels), radius_mm=inputs.radius_mm)
        if isdefined(inputs.weights_file):
            n_streamlines = len(found.lengths_mm)
            weights = read_weights(Path(inputs.weights_file), n_streamlines=n_streamlines)
            found = AssignedStreamlines(found.regions, found.lengths_mm, weights)
        found.save(folder / "assignments.npz")
        header = tractograms.read_header(file)
        facts = describe_tractogram(found, header, algorithm=inputs.algorithm)
        facts["source"] = "tracked" if inputs.n_wanted else f"given: {inputs.given or file.name}"
        facts["n_streamlines_wanted"] = inputs.n_wanted or facts["n_streamlines"]
        if isdefined(inputs.mu_file):
            facts["sift2_mu"] = float(np.loadtxt(inputs.mu_file))
        named = {f"{inputs.algorithm}_{key}": value for key, value in facts.items()}
        self._results["assignments_file"] = str(folder / "assignments.npz")
        self._results["facts_file"] = write_facts(folder, named)
        return runtime


def describe_tractogram(
    found: AssignedStreamlines, header: dict[str, str], *, algorithm: str
) -> dict[str, Any]:
    """Number and lengths of streamlines, seeds, and how they differ from the training's.

    Parameters
    ----------
    found
        All streamlines.
    header
        That of the tractogram. Its ``total_count`` are the seeds that tracking took.
    algorithm
        ``ifod2act`` or ``sdstream``.
    """
    lengths = found.lengths_mm
    n_seeds = int(header.get("total_count", 0))
    percentiles = np.percentile(lengths, LENGTH_PERCENTILES)
    facts = {
        "n_streamlines": int(lengths.size),
        "n_seeds": n_seeds,
        **({"accepted_fraction": lengths.size / n_seeds} if n_seeds else {}),
        "median_length_mm": float(np.median(lengths)),
        "mean_length_mm": float(lengths.mean()),
        **{
            f"p{percent}_length_mm": float(value)
            for percent, value in zip(LENGTH_PERCENTILES, percentiles, strict=True)
        },
        "bias": "; ".join(tractograms.describe_bias(header, algorithm=algorithm)),
    }
    if found.weights is not None:
        facts["sift2_mean_weight"] = float(found.weights.mean())
    return facts


class _BuildConnectomesInputSpec(BaseInterfaceInputSpec):
    algorithms = traits.List(traits.Str(), mandatory=True)
    atlases = traits.List(traits.Str(), mandatory=True)
    assignments_files = traits.List(File(exists=True), mandatory=True, desc="one an algorithm")
    labels_files = traits.List(File(exists=True), mandatory=True, desc="one an atlas")
    volumes_file = File(exists=True, mandatory=True, desc="JSON: atlas -> mm3 of each region")
    facts_files = traits.List(File(exists=True), mandatory=True, desc="JSON, flat")
    mask_file = File(exists=True, desc="brain mask of the series")
    radius_mm = traits.Float(mandatory=True, desc="told in the quality file")


class _BuildConnectomesOutputSpec(TraitedSpec):
    connectomes_file = File(exists=True, desc=".npz: flavor -> (R, R)")
    qc_file = File(exists=True, desc="JSON")


class BuildConnectomes(SimpleInterface):
    """Turn assigned streamlines into connectomes: full set of regions, training scale, volumes."""

    input_spec = _BuildConnectomesInputSpec
    output_spec = _BuildConnectomesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, folder = self.inputs, Path(runtime.cwd)
        volumes = json.loads(Path(inputs.volumes_file).read_text("utf-8"))
        regions = {
            atlas: describe_regions(atlas, Path(labels), volumes[atlas], mask_file=self._mask())
            for atlas, labels in zip(inputs.atlases, inputs.labels_files, strict=True)
        }
        matrices: dict[str, Any] = {}
        facts = merge_facts([Path(file) for file in inputs.facts_files])
        facts["assignment_radius_mm"] = inputs.radius_mm
        for algorithm, file in zip(inputs.algorithms, inputs.assignments_files, strict=True):
            found = AssignedStreamlines.load(Path(file))
            for atlas in inputs.atlases:
                made = connect(found, regions[atlas], algorithm=algorithm, atlas=atlas)
                matrices |= named_matrices(made, algorithm=algorithm, atlas=atlas)
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
        and ``volume_set_to_one_voxel`` (names), and ``without_streamlines`` and
        ``streamline_ends`` (empty yet; by algorithm).

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
        "streamline_ends": {},
    }


def connect(
    found: AssignedStreamlines, regions: dict[str, Any], *, algorithm: str, atlas: str
) -> StructuralConnectomes:
    """Build the connectomes of one tractogram and atlas.

    The ends in each region, and the names of regions that no streamline reaches, are added to
    `regions`.
    """
    names, pairs = load_atlas(atlas).region_names, found.regions[atlas]
    weighted = None
    if found.weights is not None:
        weighted = tabulate_pairs(pairs, n_regions=len(names), weights=found.weights)
    made = build_connectomes(
        tabulate_pairs(pairs, n_regions=len(names)),
        present=np.array(regions["present"], dtype=bool),
        volumes_mm3=np.array(regions["volume_mm3"], dtype=np.float64),
        weighted=weighted,
    )
    idle = zip(names, made.counts.idle_regions, strict=True)
    regions["without_streamlines"][algorithm] = [name for name, alone in idle if alone]
    regions["streamline_ends"][algorithm] = [int(number) for number in made.counts.n_ends]
    return made


def named_matrices(made: StructuralConnectomes, *, algorithm: str, atlas: str) -> dict[str, Any]:
    """The matrices that there are, by flavor."""
    matrices = {
        "count": made.count,
        "volnorm": made.volnorm,
        "sift2": made.sift2,
        "sift2volnorm": made.sift2_volnorm,
    }
    return {
        f"SC{algorithm}_{atlas}_{processing}": matrix
        for processing, matrix in matrices.items()
        if matrix is not None
    }
