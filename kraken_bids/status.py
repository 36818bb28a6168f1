# SPDX-License-Identifier: MIT
"""``--status``: who is done, at work, failed or still to come, whichever machine works on whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .claims import clock
from .completion import finished_outputs
from .plan import SessionPlan
from .progress import duration, seconds_left
from .traces import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    Trace,
    find_trace,
    is_alive,
    read_trace,
    silence_s,
)

NOT_STARTED, NO_INPUTS = "not started", "no inputs"
#: States in the order in which the last line counts them.
STATES = (RUNNING, FAILED, STOPPED, NOT_STARTED, NO_INPUTS)


@dataclass(frozen=True)
class SessionStatus:
    """A row of the table.

    Parameters
    ----------
    label
        Session.
    state
        ``done`` or one of `STATES`.
    note
        What more there is to say.
    seconds
        Time that it took, or has taken so far; None where that is not known.
    """

    label: str
    state: str
    note: str = ""
    seconds: float | None = None


def status_report(
    plans: Sequence[SessionPlan],
    keys: Mapping[str, str],
    done: frozenset[str],
    *,
    output_dir: Path,
) -> str:
    """Say how far each session is, and what time is left for all.

    Parameters
    ----------
    plans
        Sessions.
    keys
        Fingerprint of each session by label; none of those whose fingerprint is not known.
    done
        Labels of those that are done, with these inputs and settings as far as they are known.
    output_dir
        Their data set; traces lie with its logs.
    """
    rows = []
    for plan in plans:
        row = _status(plan.label, output_dir / "logs" / plan.label, is_done=plan.label in done)
        if row.state == NOT_STARTED and not plan.has_inputs:
            row = SessionStatus(plan.label, NO_INPUTS)
        key, _ = finished_outputs(output_dir, plan.label)
        notes = [row.note] if row.note else []
        if row.state == NOT_STARTED and key and key != keys.get(plan.label, key):
            notes.append("inputs or settings have changed since its outputs were made")
        if plan.problems:
            notes.append(f"{len(plan.problems)} problem(s) of its inputs: see --dry-run")
        rows.append(SessionStatus(row.label, row.state, "; ".join(notes), row.seconds))
    return f"{status_table(rows)}\n{summary(rows)}"


def group_status(dataset_dir: Path, name: str, *, is_done: bool) -> str:
    """Say how far the group level is.

    Parameters
    ----------
    dataset_dir
        The data set of its predictions.
    name
        Name of its trace's row.
    is_done
        Whether its marker says so.
    """
    row = _status(name, dataset_dir / "logs", is_done=is_done)
    state = "to do" if row.state == NOT_STARTED else row.state
    return f"{dataset_dir}: {state}" + (f" ({row.note})" if row.note else "")


def _status(label: str, logs_dir: Path, *, is_done: bool) -> SessionStatus:
    file = find_trace(logs_dir)
    trace = read_trace(file) if file else None
    if is_done:
        told = trace and trace.state == DONE
        return SessionStatus(
            label, DONE, f"in {duration(trace.seconds)}" if trace and told else "",
            trace.seconds if trace and told else None,
        )  # fmt: skip
    if file is None or trace is None or trace.state == DONE:
        return SessionStatus(label, NOT_STARTED)
    return _unfinished(label, trace, file)


def _unfinished(label: str, trace: Trace, file: Path) -> SessionStatus:
    """Status of a session that is at work, or was when its run ended."""
    if trace.state == FAILED:
        more = f" (and {len(trace.failures) - 1} more)" if len(trace.failures) > 1 else ""
        what = trace.failures[0] if trace.failures else "without a message"
        return SessionStatus(label, FAILED, f"{what}{more}", trace.seconds)
    steps = f"step {min(trace.n_done + 1, trace.n_steps)} of {trace.n_steps}"
    silent_s = silence_s(file, clock(file.parent)) if trace.state == RUNNING else 0.0
    if is_alive(trace, silent_s=silent_s):
        at_work = f" ({', '.join(trace.at_work)})" if trace.at_work else ""
        taken = f"{trace.started}, for {duration(trace.seconds)}, on {trace.machine}"
        return SessionStatus(label, RUNNING, f"{steps}{at_work}, since {taken}", trace.seconds)
    why = "interrupted" if trace.state == STOPPED else f"its run on {trace.machine} was killed"
    return SessionStatus(label, STOPPED, f"at {steps}: {why}; run it again", trace.seconds)


def status_table(rows: Sequence[SessionStatus]) -> str:
    """Rows as text in columns."""
    width = max([len("session"), *(len(row.label) for row in rows)])
    lines = [("session", "state", "")] + [(row.label, row.state, row.note) for row in rows]
    return "\n".join(
        f"{label:{width}}  {state:11}  {note}".rstrip() for label, state, note in lines
    )


def summary(rows: Sequence[SessionStatus]) -> str:
    """How many sessions are in which state, and what time is left.

    The time is judged by the sessions that are done; those that failed or were stopped count as
    waiting no more, since nobody works on them.

    Examples
    --------
    >>> rows = [SessionStatus("a", "done", "", 60), SessionStatus("b", "running", "", 30)]
    >>> summary([*rows, SessionStatus("c", "not started")])
    '1 of 3 done, 1 running, 1 not started; about 90 s left with 1 at a time'
    """
    counts = Counter(row.state for row in rows)
    text = f"{counts[DONE]} of {len(rows)} done"
    text += "".join(f", {counts[state]} {state}" for state in STATES if counts[state])
    times = [row.seconds for row in rows if row.state == DONE and row.seconds is not None]
    at_work = [row.seconds or 0.0 for row in rows if row.state == RUNNING]
    n_waiting = counts[NOT_STARTED]
    if not times or not (at_work or n_waiting):
        return text
    n_at_once = max(len(at_work), 1)
    left = seconds_left(
        sum(times) / len(times), at_work=at_work, n_waiting=n_waiting, n_at_once=n_at_once
    )
    return f"{text}; about {duration(left)} left with {n_at_once} at a time"
