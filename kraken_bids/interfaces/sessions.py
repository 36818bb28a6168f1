# SPDX-License-Identifier: MIT
"""Sessions of a cohort in plain values, as the interfaces hand them on."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from ..bids.regularization import read_lambda
from ..errors import KrakenBIDSError
from ..plan import CohortSession

#: A session as `plain_session` writes it.
Row = Mapping[str, Any]


def plain_session(session: CohortSession) -> dict[str, Any]:
    """Write a session in plain values, as the interfaces take it.

    Sizes and times of the files are part of it, so that a node runs again when one has changed.

    Returns
    -------
    dict
        ``participant``, ``session`` (None without sessions), ``site``, and lists by flavor:
        ``flavors``, ``files``, ``stamps``.
    """
    return {
        "participant": session.participant,
        "session": session.session,
        "site": session.site,
        "flavors": [flavor for flavor, _ in session.connectomes],
        "files": [str(file) for _, file in session.connectomes],
        "stamps": [file_stamp(file) for _, file in session.connectomes],
    }


def file_stamp(file: Path) -> list[int]:
    """Size in bytes and time of change in ns; empty if the file is not there."""
    if not file.exists():
        return []
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def problem_row(session: Row, flavor: str, error: KrakenBIDSError) -> dict[str, str]:
    """Write what is wrong with a session's connectome in plain values."""
    return {
        "participant": session["participant"],
        "session": session["session"] or "",
        "flavor": flavor,
        "what": error.what,
        "where": error.where,
        "fix": error.fix,
    }


def identity(session: Row) -> tuple[str, str | None]:
    """Participant and session of a plain session."""
    return session["participant"], session["session"]


def session_lambdas(session: Row) -> dict[str, float]:
    """Lambda of a session's partial correlations by flavor, where it is known."""
    if "regularization" in session:
        return dict(session["regularization"])
    return measured_lambdas(dict(zip(session["flavors"], session["files"], strict=True)))


def measured_lambdas(
    files: Mapping[str, str], *, without: Container[str] = ()
) -> dict[str, float]:
    """Lambda of measured partial correlations by flavor, where their sidecars say it."""
    measured = [name for name in files if name.startswith("FCpcorr_") and name not in without]
    found = {name: read_lambda(Path(files[name])) for name in measured}
    return {name: value for name, value in found.items() if value is not None}
