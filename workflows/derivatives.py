# SPDX-License-Identifier: MIT
"""Every sink, and nothing but."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nipype.pipeline import engine as pe

from kraken_bids.interfaces.derivatives import MarkFinished, SaveFigure, SaveSeries
from kraken_bids.interfaces.report import DrawFigure
from kraken_bids.plan import Entities

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


def make_finish(*, dataset_dir: Path, label: str, key: str, name: str = "finish") -> pe.Node:
    """Make the node that marks a session (or the group) as finished."""
    return pe.Node(
        MarkFinished(dataset_dir=str(dataset_dir), name=label, key=key),
        name=name,
        run_without_submitting=True,
    )
