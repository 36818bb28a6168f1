# SPDX-License-Identifier: MIT
"""What a cohort's page says, gathered a session at a time: no more than lines of text is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ..bids.names import page_path
from ..bids.own_atlas import GROUP, PARTICIPANT
from ..console import n_of
from ..errors import InputError
from ..flavors import Flavor
from .found import FoundMatrix, FoundSession, find_participants, find_sessions, read_session
from .html import Cell, Notice, as_text
from .motion_section import MOTION, MotionSums
from .prediction_section import drawn_prediction
from .quality_section import is_shown
from .search_section import MeasuredLambdas

_log = logging.getLogger(__name__)

#: Sessions whose matrices are read for the page's means and QC-FC, spread over the cohort.
N_SAMPLED = 200
#: Quality measures of the cohort's table: heading and column.
COHORT_MEASURES: tuple[tuple[str, str], ...] = (
    ("mean FD (mm)", "fd_mean_mm"),
    ("minutes kept", "kept_minutes"),
    ("outliers (%)", "percent_outliers"),
    ("tSNR", "tsnr_median"),
    ("iFOD2 streamlines", "ifod2act_n_streamlines"),
    ("fs86 iFOD2 density", "ifod2act_fs86_density"),
)
_MODALITIES = (("FC", "functional"), ("SC", "structural"))
_MODEL_KEYS = ("Model", "Adaptation", "AdaptationFile", "CohortSize", "PredictedFrom")


def list_sessions(output_dir: Path) -> list[tuple[str, str | None]]:
    """Participant and session of all that have a folder, without looking into it."""
    return [
        (participant, session)
        for participant in find_participants(output_dir)
        for session in find_sessions(output_dir, participant)
    ]


@dataclass
class CohortSummary:
    """What was found of a cohort.

    Parameters
    ----------
    output_dir, page_dir
        Root of the measured connectomes, and the folder of the page, for links.
    """

    output_dir: Path
    page_dir: Path
    labels: list[str] = field(default_factory=list)
    participants: set[str] = field(default_factory=set)
    rows: list[list[str | Cell]] = field(default_factory=list)
    #: Sessions without a modality, by its group of flavors.
    without: dict[str, list[str]] = field(default_factory=lambda: {"FC": [], "SC": []})
    unpredicted: list[str] = field(default_factory=list)
    #: Sessions by the origin of their own labels.
    origins: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    #: Sessions measured and predicted, by flavor.
    counts: dict[Flavor, list[int]] = field(default_factory=dict)
    #: Sessions with a measured and a predicted connectome, by flavor and source of the latter.
    drawn: dict[tuple[Flavor, str], int] = field(default_factory=dict)
    #: Session and value, by quality measure.
    measures: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    lambdas: MeasuredLambdas = field(default_factory=MeasuredLambdas)
    model: list[tuple[str, str]] = field(default_factory=list)

    def add(self, measured: FoundSession, made: FoundSession) -> None:
        """Add a session, as measured and as predicted; no matrix is read."""
        self.labels.append(measured.label)
        self.participants.add(measured.participant)
        groups = [item.flavor.group for item in measured.measured]
        for group, _ in _MODALITIES:
            if group not in groups:
                self.without[group].append(measured.label)
        if not made.predicted:
            self.unpredicted.append(measured.label)
        for origin in {str(item.sidecar.get("LabelOrigin", "")) for item in measured.measured}:
            self.origins.setdefault(origin, []).append(measured.label)
        missing = missing_regions(measured)
        if missing:
            self.missing.append(f"{measured.label} ({missing})")
        self._count(measured, made)
        columns = [column for quality in measured.qualities for column in quality.values]
        for column in dict.fromkeys(columns):
            values = session_values(measured, column) if is_shown(column) else []
            if values:
                value = float(np.mean(values))
                self.measures.setdefault(column, []).append((measured.label, value))
        self.lambdas.add(measured)
        if not self.model:
            self.model = _model(made)
        self.rows.append(self._row(measured, made, groups, missing))

    def _count(self, measured: FoundSession, made: FoundSession) -> None:
        for column, flavors in enumerate((
            {item.flavor for item in measured.measured},
            {item.flavor for item in made.predicted},
        )):
            for flavor in flavors:
                self.counts.setdefault(flavor, [0, 0])[column] += 1
        for item in measured.measured:
            chosen = drawn_prediction(item.flavor, made.predicted)
            if chosen is not None:
                key = item.flavor, chosen.source
                self.drawn[key] = self.drawn.get(key, 0) + 1

    def _row(
        self, measured: FoundSession, made: FoundSession, groups: Sequence[str], missing: str
    ) -> list[str | Cell]:
        """Row of the cohort's table; what the session lacks comes last."""
        lacks = [f"no {name} connectomes" for group, name in _MODALITIES if group not in groups]
        lacks += ["no predictions"] if not made.predicted else []
        lacks += [f"regions of {missing}"] if missing else []
        means = [_mean(session_values(measured, column)) for _, column in COHORT_MEASURES]
        counts = (groups.count("FC"), groups.count("SC"), len(made.predicted))
        return [self._link(measured), *map(str, counts), *means, Cell("; ".join(lacks), "words")]

    def _link(self, session: FoundSession) -> Cell:
        """The session's name, leading to its page if there is one."""
        for label in (session.session, None):
            page = self.output_dir / page_path(session.participant, label)
            if page.is_file():
                relative = Path(os.path.relpath(page, self.page_dir)).as_posix()
                return Cell(session.label, link=quote(relative))
        return Cell(session.label)

    def warnings(self) -> Iterator[Notice]:
        """Say what is unusual in the cohort."""
        of_all = f"of {n_of(len(self.labels), 'session')}"
        for group, name in _MODALITIES:
            names = tuple(self.without[group])
            if names:
                yield Notice(f"{len(names)} {of_all} without {name} connectomes",
                             "their latents rest on the other modality alone",
                             names=names)  # fmt: skip
        if self.unpredicted:
            yield Notice(f"{len(self.unpredicted)} {of_all} without predictions",
                         "they were not in the cohort, or the group level has not run since",
                         "Run the group level again.", tuple(self.unpredicted))  # fmt: skip
        yield from self._label_origins()
        if self.missing:
            yield Notice(f"{n_of(len(self.missing), 'session')} with missing regions",
                         "the training mean stands in their place when the model is used",
                         names=tuple(self.missing))  # fmt: skip
        if 0 < len(self.labels) < 20:
            yield Notice(
                f"the cohort has {n_of(len(self.labels), 'session')}",
                "an adaptation fitted on fewer than 20 is shaky, and shares of so few "
                "participants move in large steps",
                "Read the numbers below with that in mind.",
            )

    def _label_origins(self) -> Iterator[Notice]:
        """Sessions with the group's labels of an atlas, where others have their own."""
        own, group = self.origins.get(PARTICIPANT, []), self.origins.get(GROUP, [])
        if own and group:
            yield Notice(
                f"labels of coco439 are the participant's own in {n_of(len(own), 'session')} and "
                f"the group's in {n_of(len(group), 'session')}",
                "sizes of regions differ between these, and with them connectomes",
                "Measure them again with --coco439 group, or add what own labels need.",
                tuple(sorted(group)),
            )

    def drawn_source(self, flavor: Flavor) -> str:
        """Source that a flavor is predicted from in most sessions; empty if it never is."""
        counts = {source: n for (one, source), n in self.drawn.items() if one == flavor}
        return max(counts, key=lambda source: counts[source], default="")


def missing_regions(session: FoundSession) -> str:
    """How many regions a session lacks, by atlas, as text."""
    counts: dict[str, int] = {}
    for quality in session.qualities:
        for atlas, entry in quality.regions.items():
            counts[atlas] = max(counts.get(atlas, 0), len(entry.get("missing") or []))
    return ", ".join(f"{atlas} {count}" for atlas, count in counts.items() if count)


def session_values(session: FoundSession, column: str) -> list[float]:
    """A measure of all series of a session, or of the combined runs where there are such."""
    qualities = [quality for quality in session.qualities if quality.number(column) is not None]
    combined = [quality for quality in qualities if quality.is_combined]
    return [number for quality in combined or qualities
            if (number := quality.number(column)) is not None]  # fmt: skip


def _mean(values: Sequence[float]) -> str:
    """Mean over the series of a session, as text."""
    if not values:
        return "n/a"
    mean = float(np.mean(values))
    return f"{mean:.0f}" if mean.is_integer() else f"{mean:.4g}"


def _model(made: FoundSession) -> list[tuple[str, str]]:
    """Model, adaptation and cohort, as the sidecar of the first prediction says."""
    for item in made.predicted:
        sidecar = item.sidecar
        found = [(key, as_text(sidecar[key])) for key in _MODEL_KEYS if key in sidecar]
        if found:
            return found
    return []


def summarize_cohort(
    sessions: Sequence[tuple[str, str | None]],
    dataset_dir: Path,
    output_dir: Path,
    page_dir: Path,
) -> CohortSummary:
    """Go through all sessions of a cohort once.

    Parameters
    ----------
    sessions
        Participant and session.
    dataset_dir, output_dir
        Roots of the data sets of predictions and of measured connectomes.
    page_dir
        Folder of the page.
    """
    summary = CohortSummary(output_dir, page_dir)
    for participant, session in sessions:
        summary.add(
            read_session(output_dir, participant, session),
            read_session(dataset_dir, participant, session),
        )
    return summary


class RunningMatrix:
    """Mean of matrices, entry by entry over those that have it."""

    def __init__(self) -> None:
        self.n = 0
        self._sum: NDArray[np.float64] = np.zeros((0, 0))
        self._count: NDArray[np.float64] = np.zeros((0, 0))

    def fits(self, matrix: NDArray[np.floating]) -> bool:
        """Whether a matrix has the size of those before."""
        return self.n == 0 or self._sum.shape == matrix.shape

    def add(self, matrix: NDArray[np.floating]) -> None:
        """Add a matrix (R, R); NaN entries do not count."""
        there = np.isfinite(matrix)
        known = np.where(there, matrix, 0.0)
        self._sum = self._sum + known if self.n else known
        self._count = self._count + there if self.n else there.astype(np.float64)
        self.n += 1

    @property
    def mean(self) -> NDArray[np.float64]:
        """(R, R); NaN where no matrix has a value."""
        with np.errstate(invalid="ignore"):
            return self._sum / self._count


@dataclass(frozen=True, eq=False)
class SampledMatrices:
    """What needs the matrices themselves, over sessions spread over the cohort.

    Parameters
    ----------
    n_sessions
        Sessions looked at.
    pairs
        Mean measured and predicted connectome over the sessions with both, by flavor.
    motion
        Sums for the correlation of edges with motion, by functional flavor.
    """

    n_sessions: int
    pairs: dict[Flavor, tuple[RunningMatrix, RunningMatrix]]
    motion: dict[str, MotionSums]


def sample_matrices(
    sessions: Sequence[tuple[str, str | None]],
    summary: CohortSummary,
    dataset_dir: Path,
    *,
    n_most: int = N_SAMPLED,
) -> SampledMatrices:
    """Read the connectomes of at most `n_most` sessions, one after the other.

    Parameters
    ----------
    sessions
        Participant and session; those read are spread evenly over them.
    summary
        Of these sessions.
    dataset_dir
        Root of the data set of predictions.
    n_most
        The page takes long where it is large.
    """
    places = np.linspace(0, len(sessions) - 1, min(n_most, len(sessions))).round().astype(int)
    found = SampledMatrices(len(places), {}, {})
    sources = {flavor: summary.drawn_source(flavor) for flavor in summary.counts}
    for place in places:
        measured = read_session(summary.output_dir, *sessions[place])
        made = read_session(dataset_dir, *sessions[place])
        motion = session_values(measured, MOTION)
        for item in measured.measured:
            matrix = _read(item)
            if matrix is None:
                continue
            if item.flavor.group == "FC" and motion:
                sums = found.motion.setdefault(str(item.flavor), MotionSums())
                sums.add(matrix, float(np.mean(motion)))
            _add_pair(found.pairs, item.flavor, matrix, made, sources[item.flavor])
    return found


def _add_pair(
    pairs: dict[Flavor, tuple[RunningMatrix, RunningMatrix]],
    flavor: Flavor,
    measured: NDArray[np.floating],
    made: FoundSession,
    source: str,
) -> None:
    """Add a measured connectome and its prediction to their means, if there are both."""
    other = next(
        (item for item in made.predicted if item.flavor == flavor and item.source == source), None
    )
    predicted = _read(other) if other is not None else None
    if predicted is None or predicted.shape != measured.shape:
        return
    means = pairs.setdefault(flavor, (RunningMatrix(), RunningMatrix()))
    if all(mean.fits(measured) for mean in means):
        for mean, matrix in zip(means, (measured, predicted), strict=True):
            mean.add(matrix)


def _read(item: FoundMatrix) -> NDArray[np.float64] | None:
    """Read a matrix; None if it is damaged."""
    try:
        return item.read()
    except InputError as error:
        _log.warning("Left out of the page: %s", error)
        return None
