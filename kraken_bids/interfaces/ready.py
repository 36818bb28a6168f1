# SPDX-License-Identifier: MIT
"""From ready-made series of regions, or ready-made connectomes, to what the sinks write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from ..bids.series_tables import read_series
from ..connectome.denoising import Denoising
from ..connectome.functional_run import FunctionalSettings
from ..connectome.given import describe_given, process_given_series
from .functional import ProcessedRunOutputSpec, save_arrays, save_json, save_run

_REGIONS = "by atlas: [name, hemisphere] of each region, in the order of the matrices"


class _CorrelateTablesInputSpec(BaseInterfaceInputSpec):
    tables = traits.List(
        traits.List(traits.Str), mandatory=True, desc="atlas, variant and file of each table"
    )
    left_out = traits.List(traits.Int, desc="volumes that are not correlated, from 0")
    known = traits.Dict(desc="what is known of the denoising, as quality measures")
    regions = traits.Dict(mandatory=True, desc=_REGIONS)
    repetition_time_s = traits.Float(mandatory=True, desc="time between volumes in s")
    pcorr_lambda = traits.Dict(mandatory=True, desc="regularisation by atlas")
    lambda_sources = traits.Dict({}, usedefault=True, desc="where it comes from, by atlas")


class CorrelateTables(SimpleInterface):
    """Correlate the series of the regions as the tables have them."""

    input_spec = _CorrelateTablesInputSpec
    output_spec = ProcessedRunOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        series = read_tables(inputs.tables)
        n_volumes = len(next(iter(series.values())))
        settings = FunctionalSettings(
            repetition_time_s=inputs.repetition_time_s,
            regions=inputs.regions,
            recipe=Denoising(),
            pcorr_lambda=inputs.pcorr_lambda,
            lambda_sources=inputs.lambda_sources,
        )
        result = process_given_series(
            series,
            is_left_out=np.isin(np.arange(n_volumes), inputs.left_out),
            settings=settings,
            dof=float(inputs.known.get("dof_hpf", math.nan)),
        )
        qc = {"origin": "given", **inputs.known, **result.qc}
        self._results |= save_run(result, qc, Path(runtime.cwd))
        return runtime


def read_tables(tables: list[list[str]]) -> dict[str, NDArray[np.float64]]:
    """Series by ``<atlas>_<variant>``, (n_volumes, n_regions)."""
    return {
        f"{atlas}_{variant}": read_series(Path(file), [atlas]).values
        for atlas, variant, file in tables
    }


class _DescribeConnectomesInputSpec(BaseInterfaceInputSpec):
    matrix_files = traits.Dict(
        mandatory=True, desc="file (npy) of each matrix, (n_regions, n_regions), by flavor"
    )
    known = traits.Dict(desc="keys of the sidecar of each matrix, by flavor")
    regions = traits.Dict(mandatory=True, desc=_REGIONS)


class _DescribeConnectomesOutputSpec(TraitedSpec):
    connectomes_file = File(exists=True, desc="npz: flavor name -> (n_regions, n_regions)")
    qc_file = File(exists=True, desc="JSON: measures of quality; `regions` by atlas")


class DescribeConnectomes(SimpleInterface):
    """Gather the connectomes of one scan that were measured elsewhere, and describe them."""

    input_spec = _DescribeConnectomesInputSpec
    output_spec = _DescribeConnectomesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, folder = self.inputs, Path(runtime.cwd)
        connectomes = {
            name: np.load(file, allow_pickle=False) for name, file in inputs.matrix_files.items()
        }
        qc = describe_given(connectomes, regions=inputs.regions)
        qc["known"] = {name: dict(keys) for name, keys in inputs.known.items()}
        self._results["connectomes_file"] = save_arrays(folder / "connectomes.npz", connectomes)
        self._results["qc_file"] = save_json(folder / "qc.json", qc)
        return runtime
