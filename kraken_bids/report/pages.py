# SPDX-License-Identifier: MIT
"""The pages: one a participant (or session), one for the cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..bids.names import page_path
from ..bids.writers import write_json, write_text
from .found import read_json
from .group_page import build_group_page
from .participant_page import build_participant_page

__all__ = [
    "build_group_page",
    "build_participant_page",
    "write_group_page",
    "write_participant_page",
]

#: Problems that a participant's page names, beside the participant's logs.
NOTES = "page_notes.json"


def write_participant_page(
    output_dir: Path,
    participant: str,
    session: str | None = None,
    *,
    notes: Sequence[str] | None = (),
) -> Path:
    """Write the page of a participant, in one session or all, into the data set's root.

    Parameters
    ----------
    output_dir
        Root of the data set of measured connectomes.
    participant, session
        Labels without prefix.
    notes
        Problems to name on top of the page; they are kept with the logs. None: those that the
        page named before.

    Returns
    -------
    Path
        The page.
    """
    page_file = output_dir / page_path(participant, session)
    kept_file = output_dir / "logs" / page_file.stem / NOTES
    if notes is None:
        kept = read_json(kept_file).get("notes")
        notes = [str(note) for note in kept] if isinstance(kept, list) else []
    elif notes:
        write_json(kept_file, {"notes": list(notes)})
    else:
        kept_file.unlink(missing_ok=True)
    write_text(page_file, build_participant_page(output_dir, participant, session, problems=notes))
    return page_file


def write_group_page(
    dataset_dir: Path,
    output_dir: Path,
    *,
    notes: Sequence[str] = (),
    participants_file: Path | None = None,
) -> Path:
    """Write the page of a cohort into the root of the data set of predictions.

    Parameters
    ----------
    dataset_dir, output_dir
        Roots of the data sets of predictions and of measured connectomes.
    notes
        Problems to name on top of the page.
    participants_file
        ``participants.tsv`` of the BIDS folder, if there is one.

    Returns
    -------
    Path
        The page.
    """
    page_file = dataset_dir / page_path()
    text = build_group_page(
        dataset_dir, output_dir, problems=notes, participants_file=participants_file
    )
    write_text(page_file, text)
    return page_file
