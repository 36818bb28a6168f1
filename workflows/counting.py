# SPDX-License-Identifier: MIT
"""Tractograms -> regions at both ends of each streamline -> connectomes of all atlases."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.interfaces.mrtrix import WeighStreamlines
from kraken_bids.interfaces.streamlines import AssignStreamlines, BuildConnectomes
from kraken_bids.plan import DiffusionRun
from kraken_bids.settings import StructuralOptions

#: Memory of one read of five million streamlines: their ends in three atlases, and label images.
ASSIGN_GB = 0.8
#: SIFT2 keeps the FODs and, of each streamline, the fibres that it runs along. Measured with a
#: real series: 0.07 and 0.42 GB at 4 and 2 mm, and 0.5 and 0.3 GB a million streamlines (of
#: 10,000 and 50,000). FODs of 1.25 mm have four times the voxels of 2 mm: taken to be 1.7 GB,
#: within the sum for the numbers of streamlines that such data are tracked with.
SIFT2_GB, SIFT2_GB_A_MILLION = 1.5, 0.8


@dataclass(frozen=True)
class Tract:
    """Where the streamlines of one algorithm come from.

    Parameters
    ----------
    algorithm
        ``ifod2act`` or ``sdstream``.
    node
        Its ``out_file`` is the ``.tck`` file.
    given
        Name of a ready file; empty where they are tracked.
    """

    algorithm: str
    node: pe.Node
    given: str = ""


def add_counting(
    workflow: pe.Workflow,
    tracts: Sequence[Tract],
    run: DiffusionRun,
    *,
    labels: pe.Node,
    facts: pe.Node,
    weighted_with_tissues: Collection[str],
    options: StructuralOptions,
) -> None:
    """Add nodes that count streamlines; ``connect`` has the connectomes, ``collected`` the rest.

    Parameters
    ----------
    workflow
        Has the node ``fods`` if streamlines are to be weighed, and ``tissues``.
    tracts
        The tractograms, in the order of all lists.
    run
        The series.
    labels
        Node with ``labels_files`` and ``volumes_file``.
    facts
        Merges what is told of each tractogram, before other facts, for the quality file.
    weighted_with_tissues
        Algorithms whose streamlines are weighed within the limits of the tissues.
    options
        The recipe.
    """
    atlases = [source.atlas for source in run.labels]
    lists = ("assignments_files", "tractogram_files")
    merged = {
        name: pe.Node(niu.Merge(len(tracts)), name=name, run_without_submitting=True)
        for name in lists
    }
    for number, tract in enumerate(tracts, start=1):
        assign = pe.Node(
            AssignStreamlines(
                algorithm=tract.algorithm,
                atlases=atlases,
                radius_mm=options.assignment_radius_mm,
                n_wanted=0 if tract.given else options.n_streamlines,
                given=tract.given,
            ),
            name=f"assign_{tract.algorithm}",
            mem_gb=ASSIGN_GB,
        )
        if is_weighed(run, options):
            with_tissues = tract.algorithm in weighted_with_tissues
            _add_weights(workflow, tract, assign, with_tissues=with_tissues, options=options)
        workflow.connect([
            (tract.node, assign, [("out_file", "in_file")]),
            (labels, assign, [("labels_files", "labels_files")]),
            (assign, facts, [("facts_file", f"in{number}")]),
            (tract.node, merged["tractogram_files"], [("out_file", f"in{number}")]),
            (assign, merged["assignments_files"], [("assignments_file", f"in{number}")]),
        ])

    connect = pe.Node(
        BuildConnectomes(
            algorithms=[tract.algorithm for tract in tracts],
            atlases=atlases,
            radius_mm=options.assignment_radius_mm,
        ),
        name="connect",
        mem_gb=ASSIGN_GB,
    )
    if run.mask_file is not None:
        connect.inputs.mask_file = str(run.mask_file)
    collected = pe.Node(niu.IdentityInterface(fields=list(lists)), name="collected")
    workflow.connect([
        (merged["assignments_files"], connect, [("out", "assignments_files")]),
        (facts, connect, [("out", "facts_files")]),
        (labels, connect, [("labels_files", "labels_files"), ("volumes_file", "volumes_file")]),
        *[(node, collected, [("out", name)]) for name, node in merged.items()],
    ])


def is_weighed(run: DiffusionRun, options: StructuralOptions) -> bool:
    """Say whether SIFT2 is asked for, and there are FODs to weigh streamlines by."""
    return options.sift2 and (run.dwi_file is not None or run.fod_file is not None)


def _add_weights(
    workflow: pe.Workflow,
    tract: Tract,
    assign: pe.Node,
    *,
    with_tissues: bool,
    options: StructuralOptions,
) -> None:
    """Add the node that weighs the streamlines of one tractogram."""
    n_millions = options.n_streamlines / 1e6
    weigh = pe.Node(
        WeighStreamlines(n_threads=options.n_threads),
        name=f"weigh_{tract.algorithm}",
        mem_gb=SIFT2_GB + SIFT2_GB_A_MILLION * n_millions,
        n_procs=options.n_threads,
    )
    workflow.connect([
        (tract.node, weigh, [("out_file", "in_file")]),
        (workflow.get_node("fods"), weigh, [("fod_file", "fod_file")]),
        (weigh, assign, [("out_file", "weights_file"), ("mu_file", "mu_file")]),
    ])
    if with_tissues:
        tissues = workflow.get_node("tissues")
        workflow.connect([(tissues, weigh, [("five_tissue_file", "act_file")])])
