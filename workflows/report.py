# SPDX-License-Identifier: MIT
"""Pages, once all that they show has been written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.interfaces.report import BuildGroupPage, BuildPage, BuildPages

#: Memory of drawing a page: matplotlib and the largest matrices (0.4 GB measured), with room.
PAGE_GB = 1.0
#: Participants' pages that one node draws, one after the other.
BATCH_SIZE = 8


def init_participant_report_wf(
    *,
    output_dir: Path,
    participant: str,
    session: str | None = None,
    notes: Sequence[str] = (),
    name: str = "report_wf",
) -> pe.Workflow:
    """Write the page of a participant.

    Parameters
    ----------
    output_dir
        Root of the data set of measured connectomes.
    participant, session
        Labels without prefix; no session: all there are.
    notes
        Problems to name on top of the page.
    name
        Of the workflow.

    Inputs
    ------
    wait_for
        Files written into the data set, list of paths; the page is built after them.

    Outputs
    -------
    out_file
        The page, HTML, in the root of the data set.
    """
    page = pe.Node(
        BuildPage(
            output_dir=str(output_dir),
            participant=participant,
            session=session or "",
            notes=list(notes),
        ),
        name="page",
        mem_gb=PAGE_GB,
    )
    return _around(page, name)


def init_group_report_wf(
    *,
    dataset_dir: Path,
    output_dir: Path,
    sessions: Sequence[tuple[str, str | None]] = (),
    participants_file: Path | None = None,
    notes: Sequence[str] = (),
    name: str = "group_report_wf",
) -> pe.Workflow:
    """Write the page of a cohort, and those of its participants again.

    Parameters
    ----------
    dataset_dir, output_dir
        Roots of the data sets of predictions and of measured connectomes.
    sessions
        Participant and session whose pages are written again: they show what was predicted.
    participants_file
        ``participants.tsv``, which may be missing.
    notes
        Problems to name on top of the cohort's page.
    name
        Of the workflow.

    Inputs
    ------
    wait_for
        Files written into the data set, list of paths; the pages are built after them.

    Outputs
    -------
    out_file
        The page, HTML, in the root of the data set of predictions.
    participant_pages
        The participants' pages, a list of paths a node.
    """
    page = pe.Node(
        BuildGroupPage(
            dataset_dir=str(dataset_dir), output_dir=str(output_dir), notes=list(notes)
        ),
        name="page",
        mem_gb=PAGE_GB,
    )
    if participants_file is not None:
        page.inputs.participants_file = str(participants_file)
    workflow = _around(page, name)
    if not sessions:
        return workflow
    rows = [(participant, session or "") for participant, session in sessions]
    participants = pe.MapNode(
        BuildPages(output_dir=str(output_dir)),
        iterfield=["sessions"],
        name="participants",
        mem_gb=PAGE_GB,
    )
    participants.inputs.sessions = [
        rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)
    ]
    # One name to wait for, and not those of all files of the cohort for each node.
    workflow.connect([
        (page, participants, [("out_file", "wait_for")]),
        (participants, workflow.get_node("outputnode"), [("out_files", "participant_pages")]),
    ])
    return workflow


def _around(page: pe.Node, name: str) -> pe.Workflow:
    """Put a page's node between the input and output node of a workflow."""
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=["wait_for"]), name="inputnode")
    outputnode = pe.Node(
        niu.IdentityInterface(fields=["out_file", "participant_pages"]), name="outputnode"
    )
    workflow.connect([
        (inputnode, page, [("wait_for", "wait_for")]),
        (page, outputnode, [("out_file", "out_file")]),
    ])
    return workflow
