# SPDX-License-Identifier: MIT
"""Ready-made inputs beside scans: put into the sessions' plans, contradictions told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ..errors import InputError
from ..flavors import MEASURED_RECIPES, Flavor
from ..plan import (
    DiffusionRun,
    FunctionalRun,
    ReadyConnectome,
    ReadyInputs,
    ReadySet,
    SeriesRun,
    SessionPlan,
    session_label,
)
from ..settings import Settings
from .names import format_entities

#: Participant and session.
Session = tuple[str, str | None]

T = TypeVar("T")
Source = FunctionalRun | DiffusionRun | SeriesRun | ReadyConnectome
#: What the sources of connectomes are called in messages.
TITLES: dict[type, str] = {
    FunctionalRun: "BOLD",
    DiffusionRun: "diffusion",
    SeriesRun: "timeseries",
    ReadyConnectome: "connectomes",
}


@dataclass(frozen=True)
class _Made:
    """What is made from a source."""

    source: Source
    datatype: str
    flavors: frozenset[str]
    task: str | None
    mark: str

    def clash(self, other: _Made) -> str:
        """What both would write; empty if nothing."""
        if self.datatype != other.datatype or self.mark != other.mark:
            return ""
        if None in (self.task, other.task) or self.task == other.task:
            both = sorted(self.flavors & other.flavors)
            if both:
                return ", ".join(both[:3]) + (", …" if len(both) > 3 else "")
        same = self.source.entities == other.source.entities
        return "the table of quality" if same else ""


def merge_ready(*parts: ReadySet) -> ReadySet:
    """Put ready-made series and ready-made connectomes of each session together."""
    merged: dict[Session, ReadyInputs] = {}
    for part in parts:
        for session, found in part.sessions.items():
            held = merged.get(session, ReadyInputs())
            merged[session] = ReadyInputs(
                (*held.series, *found.series),
                (*held.connectomes, *found.connectomes),
                (*held.problems, *found.problems),
            )
    return ReadySet(
        merged,
        tuple(sorted({label for part in parts for label in part.participants})),
        tuple(where for part in parts for where in part.where),
    )


def add_ready(
    plans: Sequence[SessionPlan], ready: Mapping[Session, ReadyInputs], settings: Settings
) -> tuple[SessionPlan, ...]:
    """Add ready-made inputs to the plans of their sessions, and plans for sessions without scans.

    Where two sources would give the same connectome, neither is taken, and the plan says so.

    Returns
    -------
    tuple of SessionPlan
        Sorted by participant and session.
    """
    known = {(plan.participant, plan.session): plan for plan in plans}
    for session, found in ready.items():
        plan = known.get(session, SessionPlan(*session))
        plan = replace(
            plan,
            series=found.series,
            connectomes=found.connectomes,
            problems=(*plan.problems, *found.problems),
        )
        known[session] = _without_clashes(plan, settings)
    order = sorted(known, key=lambda session: (session[0], session[1] or ""))
    return tuple(known[session] for session in order)


def ready_datatypes(found: ReadyInputs | None) -> frozenset[str]:
    """Datatypes (``func``, ``dwi``) that a session has ready-made inputs of, usable or not."""
    if found is None:
        return frozenset()
    named = {Flavor.parse(item.flavor).datatype for item in found.connectomes}
    if found.series:
        named.add("func")
    return frozenset({"func", "dwi"} if found.problems else named)


def _without_clashes(plan: SessionPlan, settings: Settings) -> SessionPlan:
    made = [_made(source, settings) for source in _sources(plan)]
    problems: dict[str, InputError] = {}
    dropped: list[Source] = []
    for place, one in enumerate(made):
        for other in made[place + 1 :]:
            if type(one.source) is type(other.source):
                continue  # what is one data set's own matter was looked at there
            what = one.clash(other)
            if what:
                dropped += [one.source, other.source]
                key = f"{type(one.source)} {type(other.source)} {one.datatype}"
                problems.setdefault(key, _contradiction(plan, what, one.source, other.source))

    def kept(sources: Iterable[T]) -> tuple[T, ...]:
        return tuple(source for source in sources if source not in dropped)

    return replace(
        plan,
        functional=kept(plan.functional),
        diffusion=kept(plan.diffusion),
        series=kept(plan.series),
        connectomes=kept(plan.connectomes),
        problems=(*plan.problems, *problems.values()),
    )


def _sources(plan: SessionPlan) -> list[Source]:
    return [*plan.functional, *plan.diffusion, *plan.series, *plan.connectomes]


def _made(source: Source, settings: Settings) -> _Made:
    """Say what a source gives."""
    mark = ""
    if isinstance(source, ReadyConnectome):
        flavors = {source.flavor}
    elif isinstance(source, DiffusionRun):
        flavors = _structural_flavors(source, with_sift2=settings.structural.sift2)
    elif isinstance(source, SeriesRun):
        flavors = _functional_flavors((t.atlas, t.variant) for t in source.tables)
        mark = source.mark
    else:
        variants = (source.variant,) if source.denoised_by else ("hpf", "hpfgsr")
        flavors = _functional_flavors((a, v) for a in source.atlases for v in variants)
        mark = source.mark or settings.functional.mark
    asked = settings.flavors
    wanted = frozenset(name for name in flavors if not asked or name in asked)
    datatype = Flavor.parse(next(iter(flavors))).datatype if flavors else "dwi"
    return _Made(source, datatype, wanted, dict(source.entities).get("task"), mark)


def _functional_flavors(pairs: Iterable[tuple[str, str]]) -> set[str]:
    flavors = set()
    for atlas, variant in pairs:
        flavors.add(f"FCcorr_{atlas}_{variant}")
        if variant == "hpf":
            flavors.add(f"FCpcorr_{atlas}_hpf")
    return flavors


def _structural_flavors(run: DiffusionRun, *, with_sift2: bool) -> set[str]:
    kinds = {f"SC{algorithm}" for algorithm, _ in run.tractograms}
    if run.dwi_file is not None:
        kinds |= {kind for kind, _ in MEASURED_RECIPES if kind.startswith("SC")}
    recipes = set(MEASURED_RECIPES)
    if with_sift2:
        recipes |= {(kind, name) for kind in kinds for name in ("sift2", "sift2volnorm")}
    return {
        f"{kind}_{source.atlas}_{processing}"
        for kind, processing in recipes
        if kind in kinds
        for source in run.labels
    }


def _contradiction(plan: SessionPlan, what: str, one: Source, other: Source) -> InputError:
    titles = [TITLES[type(source)] for source in (one, other)]
    files = [_file(source) for source in (one, other)]
    label = session_label(plan.participant, plan.session)
    return InputError(
        f"{label} has {what} twice, from {titles[0]} ({format_entities(one.entities)}) and from "
        f"{titles[1]} ({format_entities(other.entities)}): neither is taken",
        where=", ".join(map(str, files)),
        fix="Leave one of the two out: with --flavors, --task-id or --modality, without "
        f"-d {titles[1]}=…, or with a BIDS_DIR that has no other derivatives.",
    )


def _file(source: Source) -> Path | None:
    if isinstance(source, FunctionalRun):
        return source.bold_file
    if isinstance(source, DiffusionRun):
        ready = next((path for _, path in source.tractograms), None)
        return source.dwi_file or ready
    return source.file if isinstance(source, ReadyConnectome) else source.tables[0].file
