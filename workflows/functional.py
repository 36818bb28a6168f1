# SPDX-License-Identifier: MIT
"""Functional connectomes of one run, and of several runs together."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.atlases import load_atlas
from kraken_bids.interfaces.atlases import ResampleLabels, plain_label_source
from kraken_bids.interfaces.functional import CombineRuns, DenoiseSeries, ParcellateSeries
from kraken_bids.plan import FunctionalRun
from kraken_bids.settings import FunctionalOptions

#: Measured for a run of the training data's size, 91 x 109 x 91 x 1200 volumes: 0.44 and 0.22 GB.
PARCELLATE_GB = 0.8
DENOISE_GB = 0.5

#: Points of 1 mm labels and a displacement field of 1 mm in double precision.
RESAMPLE_GB = 1.5


def init_functional_wf(
    run: FunctionalRun, *, options: FunctionalOptions, name: str = "functional_wf"
) -> pe.Workflow:
    """Turn one preprocessed BOLD series into connectomes of all its atlases.

    Parameters
    ----------
    run
        The series, its confounds and the sources of its labels.
    options
        The recipe.

    Outputs
    -------
    labels_files
        Label images on the grid of the series, ``.nii.gz``, in the order of ``run.labels``.
    timeseries_file
        Denoised series by atlas and variant, (n_volumes, n_regions), ``.npz``.
    connectomes_file
        Connectomes by flavor, (n_regions, n_regions), ``.npz``.
    qc_file
        Measures of quality, ``.json``.
    traces_file
        Framewise displacement, DVARS, global signal, outliers and raw series, ``.npz``.
    """
    workflow = pe.Workflow(name=name)
    atlases = [source.atlas for source in run.labels]
    regions = atlas_regions(atlases)
    outputnode = pe.Node(
        niu.IdentityInterface(
            fields=[
                "labels_files",
                "timeseries_file",
                "connectomes_file",
                "qc_file",
                "traces_file",
            ]
        ),
        name="outputnode",
    )

    # The segmentation travels with the labels: mapping points costs the most.
    tissues = run.tissues if options.denoising == "recipe" else None
    sources = [*run.labels, *([tissues] if tissues else [])]
    resample_labels = pe.Node(
        ResampleLabels(
            label_sources=[plain_label_source(source) for source in sources],
            reference_file=str(run.bold_file),
            mask_file=str(run.mask_file),
            reference_space=run.space,
            force=options.force,
        ),
        name="resample_labels",
        mem_gb=RESAMPLE_GB,
    )

    of_atlases = ("labels_files", first_files, len(atlases))
    workflow.connect([(resample_labels, outputnode, [(of_atlases, "labels_files")])])

    parcellate = pe.Node(
        ParcellateSeries(
            bold_file=str(run.bold_file),
            mask_file=str(run.mask_file),
            atlases=atlases,
            regions=regions,
            with_components=options.needs_components,
        ),
        name="parcellate",
        mem_gb=PARCELLATE_GB,
    )
    workflow.connect([(resample_labels, parcellate, [(of_atlases, "labels_files")])])
    if tissues is not None:
        workflow.connect([
            (resample_labels, parcellate, [(("labels_files", last_file), "tissues_file")]),
        ])

    denoise = pe.Node(
        DenoiseSeries(
            bold_file=str(run.bold_file),
            confounds_file=str(run.confounds_file),
            regions=regions,
            repetition_time_s=run.repetition_time_s,
            n_dummy_discarded=run.n_dummy_discarded,
            denoising=options.denoising,
            compcor=options.compcor,
            gsr_source=options.gsr_source,
            outliers=options.outliers,
            high_pass_hz=options.high_pass_hz,
            high_pass_edge_hz=options.high_pass_edge_hz,
            edge_rule=options.edge_rule,
            skip_s=options.skip_s,
            pcorr_lambda=lambda_by_atlas(atlases, options=options),
            lambda_sources={atlas: options.lambda_source(atlas) for atlas in atlases},
            min_coverage=options.min_coverage,
        ),
        name="denoise",
        mem_gb=DENOISE_GB,
    )
    if run.confounds_sidecar is not None:
        denoise.inputs.confounds_sidecar = str(run.confounds_sidecar)
    workflow.connect([
        (parcellate, denoise, [("parcels_file", "parcels_file")]),
        (
            denoise,
            outputnode,
            [
                ("timeseries_file", "timeseries_file"),
                ("connectomes_file", "connectomes_file"),
                ("qc_file", "qc_file"),
                ("traces_file", "traces_file"),
            ],
        ),
    ])
    return workflow


def init_combine_runs_wf(
    atlases: Sequence[str], *, options: FunctionalOptions, name: str = "combine_runs_wf"
) -> pe.Workflow:
    """Combine the connectomes of several runs of one task.

    Parameters
    ----------
    atlases
        Names of the atlases.
    options
        The recipe.

    Inputs
    ------
    connectomes_files
        Connectomes of each run by flavor, ``.npz``.
    qc_files
        Measures of quality of each run, ``.json``, in the same order.

    Outputs
    -------
    connectomes_file
        Combined connectomes by flavor, (n_regions, n_regions), ``.npz``.
    qc_file
        Measures of quality of all runs together, ``.json``.
    """
    workflow = pe.Workflow(name=name)
    fields = ["connectomes_files", "qc_files"]
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(
        niu.IdentityInterface(fields=["connectomes_file", "qc_file"]), name="outputnode"
    )
    combine_runs = pe.Node(
        CombineRuns(
            regions=atlas_regions(atlases),
            pcorr_lambda=lambda_by_atlas(atlases, options=options),
            lambda_sources={atlas: options.lambda_source(atlas) for atlas in atlases},
        ),
        name="combine_runs",
    )
    workflow.connect([
        (
            inputnode,
            combine_runs,
            [("connectomes_files", "connectomes_files"), ("qc_files", "qc_files")],
        ),
        (
            combine_runs,
            outputnode,
            [("connectomes_file", "connectomes_file"), ("qc_file", "qc_file")],
        ),
    ])
    return workflow


def atlas_regions(atlases: Sequence[str]) -> dict[str, list[list[str]]]:
    """Name and hemisphere of each region, by atlas."""
    return {
        atlas: [[region.name, region.hemisphere] for region in load_atlas(atlas).regions]
        for atlas in atlases
    }


def lambda_by_atlas(atlases: Sequence[str], *, options: FunctionalOptions) -> dict[str, float]:
    """Regularisation of the partial correlation by atlas.

    Examples
    --------
    >>> lambda_by_atlas(["fs86"], options=FunctionalOptions(pcorr_lambda=(("fs86", 0.1),)))
    {'fs86': 0.1}
    """
    return {atlas: options.lambda_of(atlas) for atlas in atlases}


def first_files(files: list[str], number: int) -> list[str]:
    """First items of a list.

    Examples
    --------
    >>> first_files(["fs86_dseg.nii.gz", "tissues_dseg.nii.gz"], 1)
    ['fs86_dseg.nii.gz']
    """
    return files[:number]


def last_file(files: list[str]) -> str:
    """Last item of a list.

    Examples
    --------
    >>> last_file(["fs86_dseg.nii.gz", "tissues_dseg.nii.gz"])
    'tissues_dseg.nii.gz'
    """
    return files[-1]
