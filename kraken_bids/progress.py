# SPDX-License-Identifier: MIT
"""What a run tells while it goes on: a line when a session begins and one when it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .errors import KrakenBIDSError
from .traces import BEAT_SECONDS, DONE, FAILED, RUNNING, STOPPED, Trace, write_trace

if TYPE_CHECKING:
    from nipype.pipeline import engine as pe

_log = logging.getLogger(__name__)

#: Of a single session, a line is told whenever so many percent more of its steps are done.
PROGRESS_PERCENT = 20
#: After so long without a line, one says what is at work.
QUIET_SECONDS = 1800.0
#: Traces are written no more often than that, but for what changes the state of a session.
TRACE_SECONDS = 1.0
#: Name of the last step of a session.
LAST_STEP = "finish"

#: Gives whom and what a session that is done could not be done with.
Lacks = Callable[[str], Sequence[tuple[str, str]]]


def duration(seconds: float) -> str:
    """A time in the unit that people would choose.

    Examples
    --------
    >>> [duration(seconds) for seconds in (0.4, 75, 600, 9000, 400_000)]
    ['0 s', '75 s', '10 min', '2.5 h', '4.6 days']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def steps_by_session(workflow: pe.Workflow, labels: Mapping[str, str]) -> dict[str, set[str]]:
    """Full names of the steps of each session.

    Parameters
    ----------
    workflow
        The graph.
    labels
        Session by the name of its workflow.
    """
    from nipype.interfaces.utility import IdentityInterface

    steps: dict[str, set[str]] = {label: set() for label in labels.values()}
    for name in workflow.list_node_names():
        full = f"{workflow.name}.{name}"
        label = _find(full, labels)
        # Nodes that hand values on only are dissolved before the graph is run.
        if label and not isinstance(workflow.get_node(name).interface, IdentityInterface):
            steps[label].add(full)
    return steps


def _find(node: str, labels: Mapping[str, str]) -> str:
    return next((labels[part] for part in node.split(".") if part in labels), "")


@dataclass
class _Session:
    """What is known of a session in this run."""

    steps: set[str]
    log_dir: Path | None
    state: str = ""  # not begun
    begin: float = 0.0
    seconds: float = 0.0
    started: str = ""
    done: set[str] = field(default_factory=set)
    at_work: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    written: tuple[str, float] = "", 0.0  # state, and when

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is run any more; what a failed one still could do may follow."""
        return self.state in {DONE, STOPPED} or (self.state == FAILED and not self.at_work)


class Progress:
    """Tell of sessions as they begin and end, with the time left, and leave traces of them.

    To be entered while the graph runs, and called with each event.

    Parameters
    ----------
    labels
        Session by the name of its workflow.
    steps
        Full names of the steps of each session, by its label.
    log_dirs
        Where the trace of each session goes, by its label; those without leave none.
    lacks
        Asked, when a session is done, for the session and message of each input that it had to
        leave out: its line says so.
    clock
        Gives seconds.
    """

    def __init__(
        self,
        labels: Mapping[str, str],
        *,
        steps: Mapping[str, set[str]],
        log_dirs: Mapping[str, Path] | None = None,
        lacks: Lacks = lambda _label: (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._labels = labels
        self._clock = clock
        self._lacks = lacks
        folders = log_dirs or {}
        self._sessions = {
            label: _Session(steps.get(label, set()), folders.get(label))
            for label in labels.values()
        }
        self._next_percent = float(PROGRESS_PERCENT)
        self._last_told = clock()
        self._cannot_write = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._beater = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> Self:
        self._beater.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._beater.join()
        for session in self._sessions.values():
            if session.state == RUNNING:  # interrupted, or another's failure has stopped it
                session.state = STOPPED
            self._leave_trace(session)

    def __call__(self, node: str, status: str) -> None:
        """Take note of one event: ``start``, ``end`` or ``exception`` of a node."""
        label = _find(node, self._labels)
        if not label:
            return
        session = self._sessions[label]
        step = _short(node, self._labels)
        with self._lock:
            if not session.state:
                self._begin(label, session)
            if status == "start":
                session.at_work[step] = self._clock()
            else:
                session.at_work.pop(step, None)
            _log.debug("%s: %s %s", label, step, status)
            if status == "exception":
                session.state = FAILED
                session.failures.append(f"{step} failed")
                self._tell(_log.warning, "%s: %s failed", label, step)
            elif status == "end" and node in session.steps:
                session.done.add(node)
                self._tell_step(label, session, is_last=step == LAST_STEP)
            state, written = session.written
            if state != session.state or self._clock() - written >= TRACE_SECONDS:
                self._leave_trace(session)

    def explain(self, label: str, failures: Iterable[str]) -> None:
        """Put in words what went wrong with a session, once that is known."""
        session = self._sessions[label]
        session.state, session.failures = FAILED, list(failures)
        self._leave_trace(session)

    def _begin(self, label: str, session: _Session) -> None:
        session.state, session.begin = RUNNING, self._clock()
        session.started = time.strftime("%Y-%m-%d %H:%M")
        n_begun = sum(bool(one.state) for one in self._sessions.values())
        if len(self._sessions) == 1:
            self._tell(_log.info, "%s: started, %d steps", label, len(session.steps))
        else:
            self._tell(_log.info, "%s: started (%d of %d)", label, n_begun, len(self._sessions))

    def _tell_step(self, label: str, session: _Session, *, is_last: bool) -> None:
        seconds = self._clock() - session.begin
        if is_last:
            session.state, session.seconds = DONE, seconds
            self._tell_done(label, seconds)
            return
        percent = 100 * len(session.done) / len(session.steps)
        if len(self._sessions) == 1 and self._next_percent <= percent < 100:
            self._next_percent = percent - percent % PROGRESS_PERCENT + PROGRESS_PERCENT
            self._tell(
                _log.info,
                "%s: %d of %d steps in %s, about %s left if the others take as long",
                label,
                len(session.done),
                len(session.steps),
                duration(seconds),
                duration(seconds * (100 / percent - 1)),
            )

    def _tell_done(self, label: str, seconds: float) -> None:
        """Say that a session is done and, if so, what it is done without.

        The end of the run tells all problems; where it is far, as with several sessions, they are
        told here, too.
        """
        problems = self._lacks(label)
        tell, but = _log.info, ""
        if problems:
            tell, but = _log.warning, f", but for {len(problems)} problem(s)"
        took = duration(seconds)
        self._tell(tell, "%s: done in %s%s%s", label, took, but, self._of_all())
        for whose, message in problems if len(self._sessions) > 1 else ():
            self._tell(_log.warning, "%s: %s", whose, message)

    def _of_all(self) -> str:
        """Say how many sessions are done, how many are at work, and what time that leaves."""
        everyone = self._sessions.values()
        if len(everyone) == 1:
            return ""
        done = [session.seconds for session in everyone if session.state == DONE]
        at_work = [one for one in everyone if one.state and not one.is_over]
        waiting = [one for one in everyone if not one.state]
        text = f"{len(done)} of {len(everyone)}"
        if at_work:
            text += f"; {len(at_work)} at work"
        if at_work or waiting:
            now = self._clock()
            left = seconds_left(
                sum(done) / len(done),
                at_work=[now - one.begin for one in at_work],
                n_waiting=len(waiting),
                n_at_once=min(len(at_work) + 1, len(at_work) + len(waiting)),
            )
            text += f", about {duration(left)} left" if left >= 1 else ", nearly done"
        return f" ({text})"

    def _keep_beating(self) -> None:
        """Renew traces while steps take long, and now and then say what is at work."""
        while not self._ended.wait(BEAT_SECONDS):
            with self._lock:
                self.beat()

    def beat(self) -> None:
        """Renew the traces of what is at work; after a long silence say what that is."""
        now = self._clock()
        at_work = {
            label: one for label, one in self._sessions.items() if one.state and not one.is_over
        }
        for session in at_work.values():
            self._leave_trace(session)
        if at_work and now - self._last_told >= QUIET_SECONDS:
            told = [
                f"{label} ({len(one.done)} of {len(one.steps)} steps; "
                + ", ".join(f"{step} for {duration(now - t)}" for step, t in one.at_work.items())
                + ")"
                for label, one in at_work.items()
            ]
            self._tell(_log.info, "at work: %s", ", ".join(told))

    def _tell(self, tell: Callable[..., None], text: str, *values: object) -> None:
        tell(text, *values)
        self._last_told = self._clock()

    def _leave_trace(self, session: _Session) -> None:
        if session.log_dir is None or not session.state:
            return
        if session.state == RUNNING or not session.seconds:
            session.seconds = self._clock() - session.begin if session.started else 0.0
        trace = Trace(
            state=session.state,
            n_steps=len(session.steps),
            n_done=len(session.done),
            seconds=round(session.seconds, 1),
            started=session.started,
            at_work=tuple(session.at_work) if session.state == RUNNING else (),
            failures=tuple(session.failures),
        )
        session.written = session.state, self._clock()
        try:
            write_trace(session.log_dir, trace)
        except KrakenBIDSError as error:  # a full disk ends the work, not the telling of it
            if not self._cannot_write:
                _log.warning("--status will not show this run: %s", error)
            self._cannot_write = True


def _short(node: str, labels: Mapping[str, str]) -> str:
    """Name of a step within its session."""
    parts = node.split(".")
    at = next(number for number, part in enumerate(parts) if part in labels)
    return ".".join(parts[at + 1 :]) or parts[at]


def seconds_left(
    mean_s: float, *, at_work: Iterable[float], n_waiting: int, n_at_once: int
) -> float:
    """Time that sessions at work and waiting take, judged by those that are done.

    Parameters
    ----------
    mean_s
        Mean time of those done.
    at_work
        Time that each of those at work has taken so far.
    n_waiting
        Number of those that have not begun.
    n_at_once
        Number of those that are worked on at a time.

    Examples
    --------
    >>> seconds_left(100, at_work=[60, 130], n_waiting=3, n_at_once=2)
    170.0
    """
    begun = [max(mean_s - seconds, 0.0) for seconds in at_work]
    together = (sum(begun) + n_waiting * mean_s) / max(n_at_once, 1)
    return max([together, *begun])
