# SPDX-License-Identifier: MIT
"""From a BOLD series that XCP-D denoised to functional connectomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    isdefined,
    traits,
)

from ..bids.xcp_d import read_left_out, read_motion
from ..connectome.denoised_run import Denoised, process_denoised_run
from ..connectome.denoising import Denoising
from ..connectome.functional_run import FunctionalSettings
from .functional import ProcessedRunOutputSpec, read_parcels, save_run


class _CorrelateSeriesInputSpec(BaseInterfaceInputSpec):
    parcels_file = File(exists=True, mandatory=True, desc="as ParcellateSeries makes it")
    bold_file = File(exists=True, mandatory=True, desc="the series, for messages")
    outliers_file = File(exists=True, desc="table of the volumes left out")
    motion_file = File(exists=True, desc="table of motion")
    denoised_by = traits.Str(mandatory=True, desc="who denoised it, and how")
    variant = traits.Enum("hpf", "hpfgsr", mandatory=True, desc="what it was denoised to")
    high_pass_hz = traits.Float(0.0, usedefault=True, desc="cut-off of its filter in Hz")
    n_regressors = traits.Int(desc="columns that were regressed")
    regions = traits.Dict(
        mandatory=True, desc="by atlas: [name, hemisphere] of each region, in order"
    )
    repetition_time_s = traits.Float(mandatory=True, desc="time between volumes in s")
    pcorr_lambda = traits.Dict(mandatory=True, desc="regularisation by atlas")
    lambda_sources = traits.Dict({}, usedefault=True, desc="where it comes from, by atlas")
    min_coverage = traits.Float(
        0.0, usedefault=True, desc="share of a region's voxels below which it counts as missing"
    )


class CorrelateSeries(SimpleInterface):
    """Correlate the series of the regions as they are."""

    input_spec = _CorrelateSeriesInputSpec
    output_spec = ProcessedRunOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, folder = self.inputs, Path(runtime.cwd)
        run, _ = read_parcels(Path(inputs.parcels_file))
        settings = FunctionalSettings(
            repetition_time_s=inputs.repetition_time_s,
            regions=inputs.regions,
            recipe=Denoising(),
            pcorr_lambda=inputs.pcorr_lambda,
            min_coverage=inputs.min_coverage,
            lambda_sources=inputs.lambda_sources,
        )
        result = process_denoised_run(
            run, self._denoised(len(run.global_signal)), settings=settings
        )
        qc = {**result.qc, "denoised_by": inputs.denoised_by}
        self._results |= save_run(result, qc, folder)
        return runtime

    def _denoised(self, n_volumes: int) -> Denoised:
        """Read what XCP-D wrote beside the series."""
        inputs, bold_file = self.inputs, Path(self.inputs.bold_file)
        outliers = Path(inputs.outliers_file) if isdefined(inputs.outliers_file) else None
        motion = Path(inputs.motion_file) if isdefined(inputs.motion_file) else None
        return Denoised(
            program="xcp_d",
            variant=inputs.variant,
            is_outlier=read_left_out(outliers, n_volumes=n_volumes, bold_file=bold_file),
            high_pass_hz=inputs.high_pass_hz,
            motion=read_motion(motion, n_volumes=n_volumes),
            n_regressors=inputs.n_regressors if isdefined(inputs.n_regressors) else None,
        )
