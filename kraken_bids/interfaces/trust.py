# SPDX-License-Identifier: MIT
"""Whether predictions can be trusted: measures of a cohort, judged and written by session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bids.predictions import session_entities
from ..bids.trust_table import TrustRow, save_trust
from ..model.bundle import Bundle

#: (n,) by flavor and measure.
Columns = Mapping[str, Mapping[str, NDArray[np.floating]]]


def judge_sessions(
    columns: Columns, present: Mapping[str, NDArray[np.bool_]], bundle: Bundle
) -> list[list[TrustRow]]:
    """Judge every connectome of a cohort.

    Parameters
    ----------
    columns
        (n_sessions,) by flavor and measure.
    present
        (n_sessions,) by flavor: who has it.
    bundle
        The model, which may say what is usual.

    Returns
    -------
    list
        Of each session, a row a flavor that it has.
    """
    from ..model.typical import read_typical
    from ..model.verdicts import find_bounds, find_concerns

    rows: list[list[TrustRow]] = [[] for _ in next(iter(present.values()), ())]
    for flavor, measures in columns.items():
        bounds = find_bounds(flavor, measures, read_typical(bundle, flavor))
        usual = {name: (one.least, one.most, one.n_sessions) for name, one in bounds.items()}
        for row in np.flatnonzero(present[flavor]):
            values = {name: float(column[row]) for name, column in measures.items()}
            rows[row].append(TrustRow(flavor, values, find_concerns(values, bounds), usual))
    return rows


def save_judged(
    root: Path,
    sessions: Sequence[tuple[str, str | None]],
    rows: Sequence[Sequence[TrustRow]],
) -> None:
    """Write the table of each session that has any connectome.

    Parameters
    ----------
    root
        Data set.
    sessions
        (n_sessions,): participant and session.
    rows
        As `judge_sessions` gives them.
    """
    for session, found in zip(sessions, rows, strict=True):
        if found:
            save_trust(root, session_entities(*session), found)
