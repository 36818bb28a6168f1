# SPDX-License-Identifier: MIT
"""Functional connectomes of one run that another program denoised."""

from __future__ import annotations

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.interfaces.atlases import ResampleLabels, plain_label_source
from kraken_bids.interfaces.denoised import CorrelateSeries
from kraken_bids.interfaces.functional import ParcellateSeries
from kraken_bids.plan import FunctionalRun
from kraken_bids.settings import FunctionalOptions

from .functional import (
    DENOISE_GB,
    PARCELLATE_GB,
    RESAMPLE_GB,
    atlas_regions,
    lambda_by_atlas,
)

_RESULTS = ("timeseries_file", "connectomes_file", "qc_file", "traces_file")


def init_denoised_wf(
    run: FunctionalRun, *, options: FunctionalOptions, name: str = "denoised_wf"
) -> pe.Workflow:
    """Turn one denoised BOLD series into connectomes of all its atlases.

    Parameters
    ----------
    run
        The series and the sources of its labels.
    options
        Regularisation and coverage; the rest of the recipe is not looked at.

    Outputs
    -------
    labels_files
        Label images on the grid of the series, ``.nii.gz``, in the order of ``run.labels``.
    timeseries_file
        Series by atlas and variant, (n_volumes, n_regions), ``.npz``.
    connectomes_file
        Connectomes by flavor, (n_regions, n_regions), ``.npz``.
    qc_file
        Measures of quality, ``.json``.
    traces_file
        Framewise displacement, global signal, outliers and series, ``.npz``.
    """
    workflow = pe.Workflow(name=name)
    atlases = [source.atlas for source in run.labels]
    regions = atlas_regions(atlases)
    outputnode = pe.Node(
        niu.IdentityInterface(fields=["labels_files", *_RESULTS]), name="outputnode"
    )

    resample_labels = pe.Node(
        ResampleLabels(
            label_sources=[plain_label_source(source) for source in run.labels],
            reference_file=str(run.bold_file),
            mask_file=str(run.mask_file),
            reference_space=run.space,
            force=options.force,
        ),
        name="resample_labels",
        mem_gb=RESAMPLE_GB,
    )
    workflow.connect([(resample_labels, outputnode, [("labels_files", "labels_files")])])

    parcellate = pe.Node(
        ParcellateSeries(
            bold_file=str(run.bold_file),
            mask_file=str(run.mask_file),
            atlases=atlases,
            regions=regions,
            with_components=False,
        ),
        name="parcellate",
        mem_gb=PARCELLATE_GB,
    )
    workflow.connect([(resample_labels, parcellate, [("labels_files", "labels_files")])])

    correlate = pe.Node(
        CorrelateSeries(
            bold_file=str(run.bold_file),
            denoised_by=run.denoised_by,
            variant=run.variant,
            high_pass_hz=run.high_pass_hz,
            regions=regions,
            repetition_time_s=run.repetition_time_s,
            pcorr_lambda=lambda_by_atlas(atlases, options=options),
            lambda_sources={atlas: options.lambda_source(atlas) for atlas in atlases},
            min_coverage=options.min_coverage,
        ),
        name="correlate",
        mem_gb=DENOISE_GB,
    )
    if run.outliers_file is not None:
        correlate.inputs.outliers_file = str(run.outliers_file)
    if run.confounds_file is not None:
        correlate.inputs.motion_file = str(run.confounds_file)
    if run.n_regressors is not None:
        correlate.inputs.n_regressors = run.n_regressors
    workflow.connect([
        (parcellate, correlate, [("parcels_file", "parcels_file")]),
        (correlate, outputnode, [(field, field) for field in _RESULTS]),
    ])
    return workflow
