# SPDX-License-Identifier: MIT
"""From a preprocessed BOLD series to functional connectomes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
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

from ..bids.confounds import ConfoundsTable, read_confounds
from ..bids.strategies import STRATEGIES, strategy_outliers, strategy_regressors
from ..connectome.denoising import Confounds, Denoising
from ..connectome.functional import GIVEN, combine_runs
from ..connectome.functional_qc import (
    describe_combined_regions,
    describe_connectomes,
    describe_coverage,
    describe_runs,
    describe_standardised_dvars,
    describe_support,
)
from ..connectome.functional_run import FunctionalSettings, ProcessedRun, process_run
from ..connectome.parcellation import Cells, ParcellatedRun, parcellate, partition
from ..images.stream import SeriesHeader, iterate_volumes, load_on_grid, read_header
from ..images.tissue_masks import TissueMask, tissue_masks

_REGIONS = "by atlas: [name, hemisphere] of each region, in the order of the matrices"


class _ParcellateSeriesInputSpec(BaseInterfaceInputSpec):
    bold_file = File(exists=True, mandatory=True, desc="preprocessed series (4-D)")
    mask_file = File(exists=True, mandatory=True, desc="brain mask on its grid")
    labels_files = traits.List(
        File(exists=True), mandatory=True, desc="label images on its grid, in the order of atlases"
    )
    atlases = traits.List(traits.Str, mandatory=True, desc="names of the atlases")
    regions = traits.Dict(mandatory=True, desc=_REGIONS)
    tissues_file = File(exists=True, desc="FreeSurfer segmentation on its grid")
    with_components = traits.Bool(
        True, usedefault=True, desc="keep what tissue components are computed from"
    )


class _ParcellateSeriesOutputSpec(TraitedSpec):
    parcels_file = File(exists=True, desc="npz: all that one pass over the series gives")


class ParcellateSeries(SimpleInterface):
    """Average a series by the regions of all atlases, in one pass over the image."""

    input_spec = _ParcellateSeriesInputSpec
    output_spec = _ParcellateSeriesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        header = read_header(Path(self.inputs.bold_file))
        tissues: dict[str, TissueMask] = {}
        if isdefined(self.inputs.tissues_file):
            codes = load_on_grid(Path(self.inputs.tissues_file), header, kind="segmentation")
            tissues = tissue_masks(codes)
        run = parcellate(
            iterate_volumes(header),
            self._cells(header, tissues),
            n_volumes=header.n_volumes,
            slope=header.slope,
            intercept=header.intercept,
        )
        is_eroded = {name: tissue.is_eroded for name, tissue in tissues.items()}
        self._results["parcels_file"] = save_arrays(
            Path(runtime.cwd) / "parcels.npz",
            {**_flatten(run), **_prefixed("is_eroded", is_eroded)},
        )
        return runtime

    def _cells(self, header: SeriesHeader, tissues: Mapping[str, TissueMask]) -> Cells:
        """Partition the voxels by labels, tissues and brain mask."""
        inputs = self.inputs
        return partition(
            {
                atlas: load_on_grid(Path(file), header, kind=f"{atlas} label image")
                for atlas, file in zip(inputs.atlases, inputs.labels_files, strict=True)
            },
            {atlas: len(inputs.regions[atlas]) for atlas in inputs.atlases},
            mask=load_on_grid(Path(inputs.mask_file), header, kind="brain mask") > 0,
            tissues={name: tissue.mask for name, tissue in tissues.items()},
            components_of=("WM", "CSF") if inputs.with_components else (),
        )


def _prefixed(field: str, values: Mapping[str, Any]) -> dict[str, NDArray]:
    return {f"{field}/{name}": np.asarray(value) for name, value in values.items()}


def _flatten(run: ParcellatedRun) -> dict[str, NDArray]:
    """Arrays of a parcellated run by ``field`` or ``field/name``."""
    arrays: dict[str, NDArray] = {}
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        arrays |= _prefixed(field.name, value) if isinstance(value, dict) else {field.name: value}
    return arrays


def read_parcels(file: Path) -> tuple[ParcellatedRun, dict[str, bool]]:
    """Read what `ParcellateSeries` wrote, and by tissue whether its mask was eroded."""
    fields: dict[str, Any] = {field.name: {} for field in dataclasses.fields(ParcellatedRun)} | {
        "is_eroded": {}
    }
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays:
            field, _, name = key.partition("/")
            if name:
                fields[field][name] = arrays[key]
            else:
                fields[field] = arrays[key]
    fields["n_tissue"] = {name: int(size) for name, size in fields["n_tissue"].items()}
    is_eroded = {name: bool(value) for name, value in fields.pop("is_eroded").items()}
    return ParcellatedRun(**fields), is_eroded


class _DenoiseSeriesInputSpec(BaseInterfaceInputSpec):
    parcels_file = File(exists=True, mandatory=True, desc="as ParcellateSeries makes it")
    bold_file = File(exists=True, mandatory=True, desc="the series, for messages")
    confounds_file = File(exists=True, mandatory=True, desc="table of confounds")
    confounds_sidecar = File(exists=True, desc="JSON file beside the table")
    regions = traits.Dict(mandatory=True, desc=_REGIONS)
    repetition_time_s = traits.Float(mandatory=True, desc="time between volumes in s")
    n_dummy_discarded = traits.Int(0, usedefault=True, desc="volumes the scanner did not keep")
    denoising = traits.Enum(
        "recipe", *STRATEGIES, usedefault=True, desc="the recipe, or another pipeline"
    )
    compcor = traits.Enum("exact", "columns", usedefault=True, desc="source of components")
    gsr_source = traits.Enum("grey_matter", "global_signal", usedefault=True, desc="GSR signal")
    outliers = traits.Enum(
        "recipe", "fmriprep", usedefault=True, desc="who says which volumes are left out"
    )
    high_pass_hz = traits.Float(0.01, usedefault=True, desc="cut-off of the filter in Hz")
    high_pass_edge_hz = traits.Float(0.0029, usedefault=True, desc="SD of its edge in Hz")
    edge_rule = traits.Enum("hz", "fmriclean", usedefault=True, desc="what says how wide it is")
    skip_s = traits.Float(7.2, usedefault=True, desc="flagged time at the start in s")
    pcorr_lambda = traits.Dict(mandatory=True, desc="regularisation by atlas")
    lambda_sources = traits.Dict({}, usedefault=True, desc="where it comes from, by atlas")
    min_coverage = traits.Float(
        0.0, usedefault=True, desc="share of a region's voxels below which it counts as missing"
    )


class ProcessedRunOutputSpec(TraitedSpec):
    """What is handed over of a run, whoever denoised it."""

    timeseries_file = File(exists=True, desc="npz: <atlas>_<desc> -> (n_volumes, n_regions)")
    connectomes_file = File(exists=True, desc="npz: flavor name -> (n_regions, n_regions)")
    qc_file = File(exists=True, desc="JSON: measures of quality; `regions` by atlas")
    traces_file = File(exists=True, desc="npz: what the figure of the run is drawn from")


def save_run(result: ProcessedRun, qc: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Write what `ProcessedRunOutputSpec` names."""
    return {
        "timeseries_file": save_arrays(folder / "timeseries.npz", result.timeseries),
        "connectomes_file": save_arrays(folder / "connectomes.npz", result.connectomes),
        "traces_file": save_arrays(folder / "traces.npz", result.traces),
        "qc_file": save_json(folder / "qc.json", qc),
    }


class DenoiseSeries(SimpleInterface):
    """Denoise the series of the regions and correlate them."""

    input_spec = _DenoiseSeriesInputSpec
    output_spec = ProcessedRunOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, folder = self.inputs, Path(runtime.cwd)
        run, is_eroded = read_parcels(Path(inputs.parcels_file))
        table = self._table(len(run.global_signal))
        result = process_run(run, self._confounds(table), settings=self._settings())
        std_dvars = table.columns.get("std_dvars", np.full(table.n_volumes, np.nan))
        qc = {
            **result.qc,
            **describe_standardised_dvars(std_dvars),
            **{f"is_eroded_{name}": int(value) for name, value in is_eroded.items()},
        }
        self._results |= save_run(result, qc, folder)
        return runtime

    def _settings(self) -> FunctionalSettings:
        """Gather the inputs that say how the run is processed."""
        inputs = self.inputs
        fields = [field.name for field in dataclasses.fields(Denoising)]
        return FunctionalSettings(
            repetition_time_s=inputs.repetition_time_s,
            regions=inputs.regions,
            recipe=Denoising(**{name: getattr(inputs, name) for name in fields}),
            pcorr_lambda=inputs.pcorr_lambda,
            min_coverage=inputs.min_coverage,
            n_dummy_discarded=inputs.n_dummy_discarded,
            lambda_sources=inputs.lambda_sources,
        )

    def _table(self, n_volumes: int) -> ConfoundsTable:
        """Read the table of confounds."""
        inputs = self.inputs
        has_sidecar = isdefined(inputs.confounds_sidecar)
        return read_confounds(
            Path(inputs.confounds_file),
            sidecar_file=Path(inputs.confounds_sidecar) if has_sidecar else None,
            n_volumes=n_volumes,
            bold_file=Path(inputs.bold_file),
        )

    def _confounds(self, table: ConfoundsTable) -> Confounds:
        """Take of the table what the recipe needs."""
        inputs = self.inputs
        if inputs.denoising != "recipe":
            return Confounds(
                table.motion(),
                is_flagged=strategy_outliers(table, inputs.denoising),
                regressors=strategy_regressors(table, inputs.denoising),
            )
        components = None
        if inputs.compcor == "columns":
            components = {tissue: table.compcor(tissue) for tissue in ("WM", "CSF")}
        is_flagged = table.motion_outliers() if inputs.outliers == "fmriprep" else None
        return Confounds(table.motion(), table.n_non_steady, components, is_flagged)


class _CombineRunsInputSpec(BaseInterfaceInputSpec):
    connectomes_files = traits.List(
        File(exists=True),
        mandatory=True,
        minlen=1,
        desc="npz of each run, as DenoiseSeries makes it",
    )
    qc_files = traits.List(
        File(exists=True), mandatory=True, minlen=1, desc="JSON of each run, in the same order"
    )
    regions = traits.Dict(mandatory=True, desc=_REGIONS)
    pcorr_lambda = traits.Dict(mandatory=True, desc="regularisation by atlas")
    lambda_sources = traits.Dict({}, usedefault=True, desc="where it comes from, by atlas")


class _CombineRunsOutputSpec(TraitedSpec):
    connectomes_file = File(exists=True, desc="npz: flavor name -> (n_regions, n_regions)")
    qc_file = File(exists=True, desc="JSON: measures of quality of all runs together")


class CombineRuns(SimpleInterface):
    """Average the correlations of runs by their kept volumes, then invert the average."""

    input_spec = _CombineRunsInputSpec
    output_spec = _CombineRunsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, folder = self.inputs, Path(runtime.cwd)
        runs = [_load(Path(file)) for file in inputs.connectomes_files]
        qcs = [json.loads(Path(file).read_text("utf-8")) for file in inputs.qc_files]
        connectomes = combine_runs(
            runs,
            [qc["n_kept"] for qc in qcs],
            pcorr_lambda=inputs.pcorr_lambda,
            dof=_total_dof(qcs),
            given=[name for name, source in inputs.lambda_sources.items() if source == GIVEN],
        )
        regions = describe_combined_regions(qcs, connectomes, regions=inputs.regions)
        qc = {
            **describe_runs(qcs),
            **describe_connectomes(
                connectomes, regions=inputs.regions, pcorr_lambda=inputs.pcorr_lambda
            ),
            **describe_support(
                connectomes, dof=_total_dof(qcs), lambda_sources=inputs.lambda_sources
            ),
            **describe_coverage(regions),
            "regions": regions,
        }
        self._results["connectomes_file"] = save_arrays(folder / "connectomes.npz", connectomes)
        self._results["qc_file"] = save_json(folder / "qc.json", qc)
        return runtime


def _total_dof(qcs: Sequence[Mapping[str, Any]]) -> float:
    """Degrees of freedom of all runs; NaN if those of one are not known."""
    known = [float(run["dof_hpf"]) for run in qcs if run.get("dof_hpf") is not None]
    return sum(known) if len(known) == len(qcs) else math.nan


def save_arrays(file: Path, arrays: Mapping[str, NDArray]) -> str:
    """Write arrays by name; gives the file."""
    np.savez(file, allow_pickle=False, **dict(arrays))
    return str(file)


def _load(file: Path) -> dict[str, NDArray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def save_json(file: Path, content: Mapping[str, Any]) -> str:
    """Write JSON; what is not a number becomes null."""
    file.write_text(json.dumps(_without_nan(content), indent=1), encoding="utf-8")
    return str(file)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
