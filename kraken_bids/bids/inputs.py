# SPDX-License-Identifier: MIT
"""From the settings to a plan: which sessions there are, and what each has or lacks.

Nothing is raised for what a single session lacks: that stands in its plan, and the other sessions
go on. Raised is only what concerns all of them.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..atlases import Atlas, atlas_names, default_atlas_names, load_atlas
from ..errors import InputError, KrakenBIDSError, Problems, UsageError
from ..flavors import Flavor
from ..plan import DiffusionRun, FunctionalRun, ReadySet, SessionPlan
from ..settings import Settings
from .anatomy import Anatomy, AtlasImage, Files, find_anatomy, find_atlas_images
from .derivatives import (
    GIVEN_CONNECTOMES,
    READ_BY_DATATYPE,
    SPELLINGS,
    TIMESERIES,
    TRACTOGRAMS,
    Derivative,
    find_derivatives,
)
from .diffusion_inputs import DiffusionQuery, find_diffusion_runs
from .files import Accepted, index_files, participant_labels, read_filters
from .five_tissue_inputs import check_pattern
from .functional_inputs import find_functional_runs
from .functional_runs import FunctionalQuery
from .own_atlas import tell_origins
from .ready_diffusion import tell_other_streamlines, tractogram_files
from .ready_inputs import add_ready, merge_ready, ready_datatypes
from .ready_series import find_ready_series
from .sidecars import bids_uri
from .spaces import SpaceGraph, template_steps

_log = logging.getLogger(__name__)

#: What a modality is called in messages.
MODALITIES = {"func": "functional", "dwi": "diffusion"}
#: So many labels are told in full; of more, the first ones.
LISTED_LABELS = 10


@dataclass(frozen=True)
class FoundSession:
    """A session's plan, and the datatypes of which its problems say what is lacking."""

    plan: SessionPlan
    explained: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Search:
    """What is the same for all sessions of an invocation.

    Parameters
    ----------
    settings
        As asked for.
    derivatives
        Input data sets.
    images
        Label images by atlas, by datatype; a datatype that is not wanted is absent.
    filters
        Queries of the filter file.
    subjects_dirs
        FreeSurfer subjects, the preferred folder first.
    bridges
        Transforms between templates.
    """

    settings: Settings
    derivatives: tuple[Derivative, ...]
    images: Mapping[str, Mapping[str, AtlasImage]]
    filters: Mapping[str, Accepted]
    subjects_dirs: tuple[Path, ...]
    bridges: SpaceGraph


def plan_sessions(
    settings: Settings,
    *,
    atlas_file: Callable[[Atlas, str], Path],
    connectomes: ReadySet | None = None,
) -> tuple[SessionPlan, ...]:
    """Find the inputs of all participants and sessions asked for.

    Parameters
    ----------
    settings
        What was asked for.
    atlas_file
        Gives the published image of an atlas by role (``labels``, ``volumes``). Asked only for
        atlases that have one and for which the person gave none.
    connectomes
        Ready-made connectomes.

    Returns
    -------
    tuple of SessionPlan
        Sorted by participant and session. What a session lacks stands in its ``problems``.

    Raises
    ------
    KrakenBIDSError
        What concerns all sessions: no input data set, an ambiguous one, an unknown participant,
        an atlas that cannot be had.
    """
    derivatives = find_derivatives(settings)
    wanted = wanted_atlases(settings)
    ready = merge_ready(_ready_series(settings, wanted), connectomes or ReadySet())
    _check_derivatives(derivatives, wanted, settings, is_ready=bool(ready.where))
    read = tuple(item for item in derivatives if item.program in _programs(wanted))
    participants = _participants(settings, read, ready)
    plans: tuple[SessionPlan, ...] = ()
    if read:
        plans = _plan_scans(settings, derivatives, participants, wanted=wanted,
                            atlas_file=atlas_file, ready=ready)  # fmt: skip
    plans = add_ready(plans, ready.sessions, settings)
    return _with_everybody(plans, participants)


def _ready_series(settings: Settings, wanted: Mapping[str, Sequence[str]]) -> ReadySet:
    """Ready-made series, where they are given and functional connectomes are wanted."""
    root = dict(settings.derivatives).get(TIMESERIES)
    if root is None or "func" not in wanted:
        return ReadySet()
    return find_ready_series(root, replace(settings, atlases=tuple(wanted["func"])))


def _with_everybody(
    plans: Sequence[SessionPlan], participants: Iterable[str]
) -> tuple[SessionPlan, ...]:
    """Add a plan, with the reason, for participants of whom nothing is left."""
    there = {plan.participant for plan in plans}
    nothing = [
        SessionPlan(
            participant,
            None,
            problems=(
                InputError(
                    f"sub-{participant} has nothing of what is asked for",
                    where="--session-id, --task-id, --run-id, --flavors, --atlases",
                    fix="Ask for what it has, or leave the participant out.",
                ),
            ),
        )
        for participant in participants
        if participant not in there
    ]
    return tuple(sorted([*plans, *nothing], key=lambda plan: plan.label)) if nothing else (*plans,)


def _plan_scans(
    settings: Settings,
    derivatives: tuple[Derivative, ...],
    participants: Sequence[str],
    *,
    wanted: Mapping[str, Sequence[str]],
    atlas_file: Callable[[Atlas, str], Path],
    ready: ReadySet,
) -> tuple[SessionPlan, ...]:
    """Plans of all sessions that have scans, or should have."""
    subjects_dirs = _subjects_dirs(settings, derivatives)
    check_pattern(settings.structural.five_tissue, participants)
    search = Search(
        settings=settings,
        derivatives=derivatives,
        images=_atlas_images(settings, wanted, atlas_file, has_subjects=bool(subjects_dirs)),
        filters=read_filters(settings.selection.filters),
        subjects_dirs=subjects_dirs,
        bridges=template_steps(),
    )
    files = _index(search, participants)
    found = [
        item
        for participant in participants
        if any(files[participant].values()) or participant not in ready.participants
        for item in _find_participant(participant, files[participant], search)
    ]
    found = [
        replace(item, explained=item.explained | ready_datatypes(ready.sessions.get(session)))
        for item in found
        for session in ((item.plan.participant, item.plan.session),)
    ]
    plans = _tell_absences(found, search)
    tell_origins(plans)
    return plans


def wanted_atlases(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Atlases by datatype (``func``, ``dwi``), as modalities, atlases and flavors ask for them."""
    atlases = settings.atlases or default_atlas_names()
    flavors = [Flavor.parse(name) for name in settings.flavors]
    wanted = {}
    for datatype in settings.modalities:
        asked = {flavor.atlas for flavor in flavors if flavor.datatype == datatype}
        names = tuple(name for name in atlases if not flavors or name in asked)
        if names:
            wanted[datatype] = names
    return wanted


def _programs(wanted: Iterable[str]) -> set[str]:
    return {program for datatype in wanted for program in READ_BY_DATATYPE[datatype]}


def _check_derivatives(
    derivatives: Sequence[Derivative],
    wanted: Mapping[str, Sequence[str]],
    settings: Settings,
    *,
    is_ready: bool = False,
) -> None:
    """Refuse if no modality has a data set; say which one has none.

    With ready-made inputs, scans may be absent.
    """
    there = {derivative.program for derivative in derivatives}
    absent = [name for name in wanted if not there & set(READ_BY_DATATYPE[name])]
    programs = [
        SPELLINGS[name] for item in absent for name in READ_BY_DATATYPE[item] if name in SPELLINGS
    ]
    if not wanted:
        raise UsageError(
            "no connectome is left to compute",
            where="--modality, --atlases, --flavors",
            fix="Ask for flavors of the modality and atlases that you ask for.",
        )
    if "xcp_d" in dict(settings.derivatives) and settings.functional.denoising != "recipe":
        raise UsageError(
            "XCP-D's series are denoised already",
            where=f"--denoising {settings.functional.denoising}, --derivatives xcp_d=…",
            fix="Leave one of the two out.",
        )
    if is_ready:
        return
    if len(absent) == len(wanted):
        raise InputError(
            f"no output of {' or '.join(programs)} was found",
            where=f"{settings.bids_dir}, {settings.bids_dir / 'derivatives'}",
            fix="Give the folders: --derivatives fmriprep=PATH qsiprep=PATH.",
        )
    for datatype, program in zip(absent, programs, strict=False):
        _log.warning(
            "no output of %s: no %s connectomes are computed (give --derivatives %s=PATH)",
            program, MODALITIES[datatype], READ_BY_DATATYPE[datatype][0],
        )  # fmt: skip


def _participants(
    settings: Settings, derivatives: Iterable[Derivative], ready: ReadySet
) -> tuple[str, ...]:
    """Participants asked for, or all; an unknown one is an error."""
    derivatives = tuple(derivatives)
    roots = [*(derivative.root for derivative in derivatives), *map(Path, ready.where)]
    labels = {label for item in derivatives for label in _labels_in(item)}
    known = sorted(labels | set(ready.participants))
    asked = settings.selection.participants
    unknown = [label for label in asked if label not in known]
    if unknown:
        raise Problems([_unknown("participant", label, known, roots) for label in unknown])
    if not known:
        raise InputError(
            "there is no participant (no folder sub-*)",
            where=", ".join(map(str, roots)),
            fix="Check the folders given to --derivatives.",
        )
    return tuple(sorted(set(asked))) or tuple(known)


def _labels_in(derivative: Derivative) -> Iterable[str]:
    """Participants of a data set; tractograms need not lie in folders of theirs."""
    if derivative.program != TRACTOGRAMS:
        return participant_labels(derivative.root)
    return {file.label("sub") or "" for file in tractogram_files(derivative.root)} - {""}


def _unknown(kind: str, label: str, known: Sequence[str], roots: Iterable[Path]) -> UsageError:
    near = difflib.get_close_matches(label, known, n=3, cutoff=0.5)
    listed = ", ".join(known[:LISTED_LABELS])
    more = f" … ({len(known)} in all)" if len(known) > LISTED_LABELS else ""
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return UsageError(
        f"{kind} '{label}' is in none of the data sets",
        where=", ".join(map(str, roots)),
        fix=f"{meant}There are: {listed}{more}.",
    )


def _atlas_images(
    settings: Settings,
    wanted: Mapping[str, Sequence[str]],
    atlas_file: Callable[[Atlas, str], Path],
    *,
    has_subjects: bool,
) -> dict[str, dict[str, AtlasImage]]:
    given = dict(settings.atlas_files)
    return {
        datatype: find_atlas_images(
            names,
            given=given,
            atlas_file=atlas_file,
            volumes=datatype == "dwi",
            own=settings.coco439,
            has_subjects=has_subjects,
        )
        for datatype, names in wanted.items()
    }


def _subjects_dirs(settings: Settings, derivatives: Iterable[Derivative]) -> tuple[Path, ...]:
    """The folder given, else where fMRIPrep leaves FreeSurfer's subjects."""
    if settings.subjects_dir:
        return (settings.subjects_dir,)
    candidates = [
        folder
        for derivative in derivatives
        if derivative.program == "fmriprep"
        for folder in (
            derivative.root / "sourcedata" / "freesurfer",
            derivative.root.parent / "freesurfer",
        )
    ]
    candidates.append(settings.bids_dir / "derivatives" / "freesurfer")
    return tuple(folder for folder in dict.fromkeys(candidates) if folder.is_dir())


def _index(search: Search, participants: Sequence[str]) -> dict[str, Files]:
    """Files by participant and data set."""
    found = {
        derivative: index_files(
            derivative, participants, database_dir=search.settings.bids_database_dir
        )
        for derivative in search.derivatives
        if derivative.program not in {TRACTOGRAMS, TIMESERIES, GIVEN_CONNECTOMES}
    }
    for derivative in search.derivatives:
        if derivative.program == TRACTOGRAMS:
            files = tractogram_files(derivative.root)
            tell_other_streamlines(derivative.root, files)
            found[derivative] = {
                label: tuple(file for file in files if file.label("sub") == label)
                for label in participants
            }
    return {
        participant: {derivative: files[participant] for derivative, files in found.items()}
        for participant in participants
    }


def _find_participant(participant: str, files: Files, search: Search) -> list[FoundSession]:
    sessions = _sessions(files)
    asked = search.settings.selection.sessions
    chosen = [session for session in sessions if not asked or session in asked]
    if not chosen:
        there = ", ".join(session for session in sessions if session) or "none"
        problem = InputError(
            f"sub-{participant} has none of the sessions {', '.join(asked)}; it has: {there}",
            where="--session-id",
            fix="Ask for one of these, or leave the participant out.",
        )
        plan = SessionPlan(participant, None, problems=(problem,))
        return [FoundSession(plan, frozenset(search.images))]
    return [_find_session(participant, session, files, search) for session in chosen]


def _sessions(files: Files) -> list[str | None]:
    """Sessions with functional or diffusion outputs; ``None`` where there are no sessions."""
    labels = {
        file.label("ses")
        for found in files.values()
        for file in found
        if file.datatype in {"func", "dwi"}
    }
    return sorted(labels, key=lambda label: label or "") or [None]


def _find_session(
    participant: str, session: str | None, files: Files, search: Search
) -> FoundSession:
    anatomy = find_anatomy(
        files,
        participant,
        session,
        subjects_dirs=search.subjects_dirs,
        filters=search.filters,
        bridges=search.bridges,
    )
    functional, told = _find_functional(session, files, anatomy, search)
    problems = {"func": told}
    diffusion: tuple[DiffusionRun, ...] = ()
    if "dwi" in search.images:
        diffusion, problems["dwi"] = find_diffusion_runs(
            DiffusionQuery(
                files,
                session,
                anatomy,
                search.images["dwi"],
                search.filters,
                five_tissue=search.settings.structural.five_tissue,
            )
        )
    plan = SessionPlan(
        participant,
        session,
        functional,
        diffusion,
        anatomy.t1w_file,
        _once(problem for told in problems.values() for problem in told),
    )
    return FoundSession(plan, frozenset(name for name, told in problems.items() if told))


def _find_functional(
    session: str | None, files: Files, anatomy: Anatomy, search: Search
) -> tuple[tuple[FunctionalRun, ...], tuple[InputError, ...]]:
    settings = search.settings
    if "func" not in search.images:
        return (), ()
    of_session = {
        derivative: [file for file in found if file.label("ses") == session]
        for derivative, found in files.items()
    }
    program = "xcp_d" if "xcp_d" in dict(settings.derivatives) else "fmriprep"
    preprocessed = [
        file
        for derivative, found in of_session.items()
        if derivative.program == "fmriprep"
        for file in found
    ]
    for derivative, found in of_session.items():
        if derivative.program == program:
            query = FunctionalQuery(
                derivative=derivative,
                files=found,
                anatomy=anatomy,
                images=search.images["func"],
                options=settings.functional,
                selection=settings.selection,
                filters=search.filters,
                preprocessed=preprocessed,
                force=settings.force,
            )
            return find_functional_runs(query)
    return (), ()


def _once(problems: Iterable[KrakenBIDSError]) -> tuple[KrakenBIDSError, ...]:
    """Each message once: functional and diffusion runs may lack the same file."""
    return tuple({str(problem): problem for problem in problems}.values())


def _tell_absences(found: Sequence[FoundSession], search: Search) -> tuple[SessionPlan, ...]:
    """Add a problem where a session lacks a modality that it should have.

    It should if others have it in the session of that label, or if the participant has none of
    it at all though there is a data set of it.
    """
    plans = [item.plan for item in found]
    for datatype in search.images:
        programs = READ_BY_DATATYPE[datatype]
        roots = [item.root for item in search.derivatives if item.program in programs]
        if not roots:
            continue
        having = [item.plan for item in found if _runs(item.plan, datatype)]
        sessions = {plan.session for plan in having}
        participants = {plan.participant for plan in having}
        for place, item in enumerate(found):
            plan = item.plan
            expected = plan.session in sessions or plan.participant not in participants
            if expected and not _runs(plan, datatype) and datatype not in item.explained:
                problem = _absence(plan, datatype, roots)
                plans[place] = replace(plans[place], problems=(*plans[place].problems, problem))
    return tuple(plans)


def _runs(plan: SessionPlan, datatype: str) -> Sequence[FunctionalRun] | Sequence[DiffusionRun]:
    return plan.functional if datatype == "func" else plan.diffusion


def _absence(plan: SessionPlan, datatype: str, roots: Iterable[Path]) -> InputError:
    name = MODALITIES[datatype]
    pattern = {"func": "func/*_desc-preproc_bold.nii.gz", "dwi": "dwi/*_desc-preproc_dwi.nii.gz"}
    session = f"ses-{plan.session}/" if plan.session else ""
    return InputError(
        f"{plan.label} has no {name} data: {pattern[datatype]} not found",
        where=", ".join(str(root / f"sub-{plan.participant}" / session) for root in roots),
        fix=f"Preprocess its {name} data, or leave them out with "
        f"--modality {'dwi' if datatype == 'func' else 'func'}.",
    )


def input_uris(plans: Iterable[SessionPlan], settings: Settings) -> dict[Path, str]:
    """Addresses of all input files of some plans.

    Returns
    -------
    dict
        BIDS URI by file; of an atlas's published image its public address. Files outside of all
        input data sets, such as a person's own label images, are left out.
    """
    roots = [(item.name, item.root) for item in find_derivatives(settings)]
    roots.sort(key=lambda item: len(item[1].parts), reverse=True)
    uris = {}
    for path, atlas in (pair for plan in plans for pair in _input_files(plan)):
        inside = next((item for item in roots if item[1] in path.parents), None)
        if inside:
            uris[path] = bids_uri(path, *inside)
        elif address := _published_address(path, atlas):
            uris[path] = address
    return uris


def _input_files(plan: SessionPlan) -> Iterator[tuple[Path, str]]:
    """All files of a plan; label images with the name of their atlas."""
    yield from ((table.file, "") for run in plan.series for table in run.tables)
    yield from ((connectome.file, "") for connectome in plan.connectomes)
    runs: list[FunctionalRun | DiffusionRun] = [*plan.functional, *plan.diffusion]
    for run in runs:
        values = (getattr(run, field.name) for field in fields(run))
        yield from ((value, "") for value in values if isinstance(value, Path))
        sources = [*run.labels, *([run.tissues] if run.tissues else [])]
        for source in sources:
            yield from ((path, source.atlas) for path in source.paths)
            if source.volume_file:
                yield source.volume_file, source.atlas
    for diffusion in plan.diffusion:
        yield from ((path, "") for _, path in diffusion.probability_files)
        yield from ((path, "") for _, path in diffusion.tractograms)


def _published_address(path: Path, atlas: str) -> str:
    if atlas not in atlas_names():
        return ""
    files = (file for _, file in load_atlas(atlas).files)
    return next((file.url for file in files if file.name == path.name), "")


def pairing_table(plans: Iterable[SessionPlan]) -> str:
    """What was found, a line a session, as text in columns.

    Columns: participant, session, functional runs (number and space), DWI series (number, space,
    ready tractograms), both with what is ready-made, T1w image, FreeSurfer segmentation, number
    of problems.
    """
    header = ("participant", "session", "func", "dwi", "T1w", "FreeSurfer", "problems")
    rows = [header, *(_pairing_row(plan) for plan in plans)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _pairing_row(plan: SessionPlan) -> tuple[str, ...]:
    kinds = [Flavor.parse(item.flavor).group for item in plan.connectomes]
    functional = _counted([
        *(run.space for run in plan.functional),
        *("ready series" for _ in plan.series),
        *("ready" for kind in kinds if kind == "FC"),
    ])
    ready = sorted({name for run in plan.diffusion for name, _ in run.tractograms})
    diffusion = _counted([
        *(run.space for run in plan.diffusion), *("ready" for kind in kinds if kind == "SC")
    ])  # fmt: skip
    runs: list[FunctionalRun | DiffusionRun] = [*plan.functional, *plan.diffusion]
    freesurfer = any(
        run.tissues or any(source.own or source.codes == "freesurfer" for source in run.labels)
        for run in runs
    )
    return (
        plan.participant,
        plan.session or "-",
        functional,
        " + ".join([diffusion, *ready]),
        "yes" if plan.t1w_file else "-",
        "yes" if freesurfer else "-",
        str(len(plan.problems)) if plan.problems else "-",
    )


def _counted(spaces: Iterable[str]) -> str:
    """Numbers of runs by space, as ``2 × T1w``."""
    listed = list(spaces)
    return ", ".join(f"{listed.count(space)} × {space}" for space in dict.fromkeys(listed)) or "-"
