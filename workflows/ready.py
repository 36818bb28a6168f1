# SPDX-License-Identifier: MIT
"""Connectomes of ready-made series of regions, and connectomes that are ready-made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.interfaces.ready import CorrelateTables, DescribeConnectomes
from kraken_bids.plan import Entities, ReadyConnectome, SeriesRun
from kraken_bids.settings import FunctionalOptions, Settings

from .derivatives import add_comparison, add_figure, make_series_sink
from .functional import DENOISE_GB, atlas_regions, lambda_by_atlas


def add_ready_series(
    workflow: pe.Workflow,
    run: SeriesRun,
    number: int,
    *,
    settings: Settings,
    sources: Sequence[str],
) -> tuple[pe.Workflow, list[pe.Node]]:
    """Add the workflow of a run's ready-made series, its sink and that of its figure.

    Parameters
    ----------
    workflow
        The session's.
    run
        The tables.
    number
        Tells its nodes from those of other runs.
    settings
        Those of the run.
    sources
        BIDS URIs of the tables.

    Returns
    -------
    series_wf
        As `init_series_wf` makes it.
    sinks
        With ``out_files``.
    """
    series_wf = init_series_wf(run, options=settings.functional, name=f"series_{number}_wf")
    sink = make_series_sink(
        f"ds_{series_wf.name}",
        dataset_dir=settings.output_dir,
        entities=run.entities,
        datatype="func",
        space=run.space,
        flavors=settings.flavors,
        sources=sources,
        mark=run.mark,
    )
    fields = ("connectomes_file", "timeseries_file")
    compare = add_comparison(workflow, series_wf, model_dir=settings.compared_model_dir)
    workflow.connect([
        (series_wf, sink, [(f"outputnode.{field}", field) for field in fields]),
        (compare, sink, [("qc_file", "qc_file")]),
    ])
    figure_sink = add_figure(
        workflow,
        series_wf,
        "traces_file",
        kind="functional_qc",
        dataset_dir=settings.output_dir,
        entities=run.entities,
        datatype="func",
        mark=run.mark,
    )
    return series_wf, [sink, figure_sink]


def add_ready_connectomes(
    workflow: pe.Workflow,
    connectomes: Sequence[ReadyConnectome],
    *,
    settings: Settings,
    sources: Mapping[Path, str],
) -> list[pe.Node]:
    """Add the ready-made connectomes of a session with their sinks, one a scan.

    Parameters
    ----------
    workflow
        The session's.
    connectomes
        With their values.
    settings
        Those of the run.
    sources
        BIDS URI of each input file.

    Returns
    -------
    list of pe.Node
        Sinks, with ``out_files``.
    """
    scans: dict[tuple[str, Entities, str], list[ReadyConnectome]] = {}
    for item in connectomes:
        datatype = "func" if item.flavor.startswith("FC") else "dwi"
        scans.setdefault((datatype, item.entities, item.space), []).append(item)
    sinks = []
    for number, ((datatype, entities, space), members) in enumerate(scans.items(), 1):
        known = {
            item.flavor: {
                **json.loads(item.known), "Sources": [sources.get(item.file, item.file.name)]
            }
            for item in members
        }  # fmt: skip
        given_wf = init_given_wf(members, known=known, name=f"given_{number}_wf")
        sink = make_series_sink(
            f"ds_{given_wf.name}",
            dataset_dir=settings.output_dir,
            entities=entities,
            datatype=datatype,
            space=space,
            sources=list(dict.fromkeys(keys["Sources"][0] for keys in known.values())),
        )
        compare = add_comparison(workflow, given_wf, model_dir=settings.compared_model_dir)
        workflow.connect([
            (given_wf, sink, [("outputnode.connectomes_file", "connectomes_file")]),
            (compare, sink, [("qc_file", "qc_file")]),
        ])
        sinks.append(sink)
    return sinks


def init_series_wf(
    run: SeriesRun, *, options: FunctionalOptions, name: str = "series_wf"
) -> pe.Workflow:
    """Turn the ready-made series of one run into connectomes of all its atlases.

    Parameters
    ----------
    run
        The tables.
    options
        Regularisation; the rest of the recipe is not looked at.

    Outputs
    -------
    timeseries_file
        Series by atlas and variant, (n_volumes, n_regions), ``.npz``.
    connectomes_file
        Connectomes by flavor, (n_regions, n_regions), ``.npz``.
    qc_file
        Measures of quality, ``.json``.
    traces_file
        Volumes left out and series, ``.npz``.
    """
    workflow = pe.Workflow(name=name)
    fields = ["timeseries_file", "connectomes_file", "qc_file", "traces_file"]
    outputnode = pe.Node(niu.IdentityInterface(fields=fields), name="outputnode")
    known: dict[str, Any] = {
        **dict(run.known),
        "denoised_by": run.denoised_by,
        "high_pass_hz": run.high_pass_hz,
    }
    correlate = pe.Node(
        CorrelateTables(
            tables=[[table.atlas, table.variant, str(table.file)] for table in run.tables],
            left_out=list(run.left_out),
            known=known,
            regions=atlas_regions(run.atlases),
            repetition_time_s=run.repetition_time_s,
            pcorr_lambda=lambda_by_atlas(run.atlases, options=options),
            lambda_sources={atlas: options.lambda_source(atlas) for atlas in run.atlases},
        ),
        name="correlate",
        mem_gb=DENOISE_GB,
    )
    workflow.connect([(correlate, outputnode, [(field, field) for field in fields])])
    return workflow


def init_given_wf(
    connectomes: Sequence[ReadyConnectome],
    *,
    known: Mapping[str, Mapping[str, Any]],
    name: str = "given_wf",
) -> pe.Workflow:
    """Describe the ready-made connectomes of one scan.

    Parameters
    ----------
    connectomes
        One a flavor, with their values.
    known
        Keys of the sidecar of each, by flavor.

    Outputs
    -------
    connectomes_file
        Connectomes by flavor, (n_regions, n_regions), ``.npz``.
    qc_file
        Measures of quality, ``.json``.
    """
    workflow = pe.Workflow(name=name)
    fields = ["connectomes_file", "qc_file"]
    outputnode = pe.Node(niu.IdentityInterface(fields=fields), name="outputnode")
    atlases = dict.fromkeys(item.flavor.split("_")[1] for item in connectomes)
    describe = pe.Node(
        DescribeConnectomes(
            matrix_files={item.flavor: str(item.values_file) for item in connectomes},
            known={name: dict(keys) for name, keys in known.items()},
            regions=atlas_regions(list(atlases)),
        ),
        name="describe",
    )
    workflow.connect([(describe, outputnode, [(field, field) for field in fields])])
    return workflow
