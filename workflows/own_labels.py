# SPDX-License-Identifier: MIT
"""A participant's own label image: built once a session, handed to all its series."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.pipeline import engine as pe

from kraken_bids.interfaces.own_atlas import BuildOwnLabels, plain_own_labels
from kraken_bids.plan import LabelSource, OwnLabels

#: Measured with images of 256³ voxels and 164,000 vertices a hemisphere: below 1.3 GB, and 9 s of
#: CPU time.
BUILD_GB = 1.5


def connect_own_labels(
    workflow: pe.Workflow,
    series_wf: pe.Workflow,
    *,
    sink: pe.Node,
    labels: Sequence[LabelSource],
    session: str,
) -> None:
    """Feed a series, and its sink, with the participant's own labels where these are to be built.

    Parameters
    ----------
    workflow
        The session's graph. A node that builds from the same files is used again.
    series_wf
        Workflow of the series, with a node ``resample_labels``.
    sink
        Sink of the series.
    labels
        Sources of its labels.
    session
        Label of the session, for messages.
    """
    for source in labels:
        if source.own is not None:
            build = _build_node(workflow, source.own, session)
            workflow.connect([
                (build, series_wf, [("labels_file", "resample_labels.own_file")]),
                (build, sink, [("facts_file", "facts_file")]),
            ])


def _build_node(workflow: pe.Workflow, own: OwnLabels, session: str) -> pe.Node:
    """Node that builds from these files, a new one if there is none yet."""
    plain, number = plain_own_labels(own), 1
    while (node := workflow.get_node(f"own_labels_{number}")) is not None:
        if node.inputs.own_labels == plain:
            return node
        number += 1
    node = pe.Node(
        BuildOwnLabels(own_labels=plain, participant=session),
        name=f"own_labels_{number}",
        mem_gb=BUILD_GB,
    )
    workflow.add_nodes([node])
    return node
