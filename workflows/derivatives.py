# SPDX-License-Identifier: MIT
"""Every sink, and nothing but."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nipype.pipeline import engine as pe

from kraken_bids.interfaces.derivatives import (
    MarkFinished,
    RemoveStale,
    SaveFigure,
    SaveSeries,
)
from kraken_bids.interfaces.own_atlas import label_origins
from kraken_bids.interfaces.report import DrawCoverage, DrawFigure
from kraken_bids.interfaces.similarity import CompareWithMean
from kraken_bids.plan import Entities, LabelSource

#: Memory of a sink: the largest matrix as text, some 10 MB, many times over.
SINK_GB = 0.5


def make_series_sink(
    name: str,
    *,
    dataset_dir: Path,
    entities: Entities,
    datatype: str,
    space: str,
    atlases: Sequence[str] = (),
    flavors: Sequence[str] = (),
    sources: Sequence[str] = (),
    mark: str = "",
    labels: Sequence[LabelSource] = (),
) -> pe.Node:
    """Make the sink of one series.

    Parameters
    ----------
    name
        Name of the node.
    dataset_dir
        Root of the data set.
    entities, datatype, space
        What the names of the files are made of.
    atlases
        In the order of the label images that the node will get.
    flavors
        Names of the flavors to write; empty: all.
    sources
        BIDS URIs of the files used.
    mark
        What tells another pipeline than the recipe, in names; empty for the recipe.
    labels
        Sources of the labels; sidecars say whose they are.
    """
    return pe.Node(
        SaveSeries(
            dataset_dir=str(dataset_dir),
            entities=[list(pair) for pair in entities],
            datatype=datatype,
            space=space,
            atlases=list(atlases),
            flavors=list(flavors),
            sources=list(sources),
            mark=mark,
            origins=label_origins(labels),
        ),
        name=name,
        mem_gb=SINK_GB,
    )


def add_figure(
    workflow: pe.Workflow,
    source: pe.Workflow,
    field: str,
    *,
    kind: str,
    dataset_dir: Path,
    entities: Entities,
    datatype: str,
    mark: str = "",
) -> pe.Node:
    """Draw a figure of a series and sink it; if drawing fails, the numbers are still written.

    Parameters
    ----------
    workflow
        The graph to add the two nodes to.
    source, field
        Workflow of the series and the field of its outputnode with the arrays to draw.
    kind
        Kind of figure, such as ``functional_qc``.
    dataset_dir, entities, datatype, mark
        As for `make_series_sink`.

    Returns
    -------
    pe.Node
        The sink, with ``out_files``.
    """
    draw = pe.Node(DrawFigure(kind=kind), name=f"draw_{source.name}", mem_gb=SINK_GB)
    sink = pe.Node(
        SaveFigure(
            dataset_dir=str(dataset_dir),
            entities=[list(pair) for pair in entities],
            datatype=datatype,
            mark=mark,
        ),
        name=f"ds_figure_{source.name}",
    )
    workflow.connect([
        (source, draw, [(f"outputnode.{field}", "in_file")]),
        (draw, sink, [("out_file", "figure_file")]),
    ])
    return sink


def add_coverage_figure(
    workflow: pe.Workflow,
    source: pe.Workflow,
    *,
    atlases: Sequence[str],
    dataset_dir: Path,
    entities: Entities,
    datatype: str,
    mark: str = "",
) -> pe.Node:
    """Draw how much of each region a series covers, on the brain, and sink the figure.

    Parameters
    ----------
    workflow, dataset_dir, entities, datatype, mark
        As for `add_figure`.
    source
        Workflow of the series; its outputnode has ``labels_files`` and ``qc_file``.
    atlases
        In the order of the label images.

    Returns
    -------
    pe.Node
        The sink, with ``out_files``.
    """
    draw = pe.Node(
        DrawCoverage(atlases=list(atlases)), name=f"coverage_{source.name}", mem_gb=SINK_GB
    )
    sink = pe.Node(
        SaveFigure(
            dataset_dir=str(dataset_dir),
            entities=[list(pair) for pair in entities],
            datatype=datatype,
            desc="coverage",
            mark=mark,
        ),
        name=f"ds_coverage_{source.name}",
    )
    fields = [("outputnode.labels_files", "labels_files"), ("outputnode.qc_file", "qc_file")]
    workflow.connect([
        (source, draw, fields),
        (draw, sink, [("out_file", "figure_file")]),
    ])
    return sink


def add_comparison(
    workflow: pe.Workflow, source: pe.Workflow, *, model_dir: Path | None
) -> pe.Node:
    """Add to a series' quality measures how its connectomes correlate with a model's means.

    A step of its own, so that nothing else is done again when another model is at hand.

    Parameters
    ----------
    workflow
        The graph to add the node to.
    source
        Workflow of the series; its outputnode has ``connectomes_file`` and ``qc_file``.
    model_dir
        Bundle, or None.

    Returns
    -------
    pe.Node
        The node, with ``qc_file``.
    """
    compare = pe.Node(CompareWithMean(), name=f"compare_{source.name}", mem_gb=SINK_GB)
    if model_dir is not None:
        compare.inputs.model_dir = str(model_dir)
    fields = ("connectomes_file", "qc_file")
    workflow.connect([(source, compare, [(f"outputnode.{field}", field) for field in fields])])
    return compare


def make_remove_stale(*, dataset_dir: Path, label: str, name: str = "remove_stale") -> pe.Node:
    """Make the node that deletes what an earlier run left, once all new outputs are in place."""
    return pe.Node(
        RemoveStale(dataset_dir=str(dataset_dir), name=label),
        name=name,
        run_without_submitting=True,
    )


def make_finish(*, dataset_dir: Path, label: str, key: str, name: str = "finish") -> pe.Node:
    """Make the node that marks a session (or the group) as finished."""
    return pe.Node(
        MarkFinished(dataset_dir=str(dataset_dir), name=label, key=key),
        name=name,
        run_without_submitting=True,
    )
