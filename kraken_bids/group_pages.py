# SPDX-License-Identifier: MIT
"""``group --reports-only``: the pages of a cohort and its participants, from what lies there.

A run of the group level draws them itself, as the last step of its graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .claims import claimed
from .completion import remove_tree
from .failures import NodeFailure
from .plan import CohortSession
from .plugin_file import read_plugin
from .run import new_run_id
from .settings import Settings


def participants_file(settings: Settings) -> Path | None:
    """What is known of the participants, for the cohort's page; None if there is no table."""
    file = settings.bids_dir / "participants.tsv"
    return file if file.is_file() else None


def draw_group_pages(
    sessions: Sequence[CohortSession], settings: Settings, *, dataset_dir: Path
) -> list[NodeFailure]:
    """Draw all pages, as many at once as may be.

    Parameters
    ----------
    sessions
        The cohort.
    settings
        Those of the run.
    dataset_dir
        Root of the data set of predictions.

    Returns
    -------
    list of NodeFailure
        Of the pages that could not be drawn.

    Raises
    ------
    ResourceError
        If another run draws them.
    """
    from kraken_bids.workflows.group import init_pages_wf

    from .execution import claim_folder, run_workflow

    workflow = init_pages_wf(
        sessions=sessions,
        dataset_dir=dataset_dir,
        output_dir=settings.output_dir,
        participants_file=participants_file(settings),
        name=f"pages_{settings.translation.label}_wf",
    )
    workflow.base_dir = str(settings.work_dir)
    work_dir = settings.work_dir / workflow.name
    run_id = new_run_id()
    with claimed([work_dir]):
        claim_folder(work_dir)
        failures = run_workflow(
            workflow,
            resources=settings.resources,
            crash_dir=settings.work_dir / "crashes" / run_id,
            log_file=settings.output_dir / "logs" / f"{run_id}.log",
            plugin=read_plugin(settings.plugin_file),
        )
        if not failures:
            remove_tree(work_dir)
    return failures
