# SPDX-License-Identifier: MIT
"""Ready-made connectomes for the participant level: opened, looked through, laid down to be saved.

Files are read by the readers of `kraken_bids.formats`, as ``kraken-model`` reads them. Every
matrix that is asked for is looked through before anything is written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atlases import atlas_names, default_atlas_names, load_atlas
from .bids.files import parse_name
from .connectome.edges import n_edges
from .errors import InputError, KrakenBIDSError, Problems, UsageError
from .flavors import Flavor
from .formats.reading.matching import match_inputs
from .formats.reading.opening import open_inputs
from .plan import Entities, ReadyConnectome, ReadyInputs, ReadySet, SessionPlan
from .ready_streamlines import described, is_qsirecon, with_volumes
from .settings import Settings
from .storage import load_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .formats.inputs import FlavorInput, MatchedInputs

_log = logging.getLogger(__name__)

OPTION = "--derivatives connectomes"
#: Keys of a sidecar that stay true of a connectome wherever it is copied.
KEPT_KEYS = (
    "MeasureDescription", "Regularization", "RegularizationSource", "NumberOfVolumes",
    "NumberOfRetainedVolumes", "RetainedSeconds", "RepetitionTime", "NumberOfRuns",
    "DegreesOfFreedom", "Denoising", "StreamlineCount", "AssignmentRadius", "LabelOrigin",
    "LabelOriginReason", "DifferencesFromTraining",
)  # fmt: skip

Session = tuple[str, str | None]


@dataclass(frozen=True, eq=False)
class ReadyCohort:
    """Connectomes that were opened and looked through.

    Parameters
    ----------
    found
        By participant and session.
    inputs
        By flavor.
    rows
        Position of each session's row, by flavor and the session's label without ``sub-``.
    """

    found: ReadySet = field(default_factory=ReadySet)
    inputs: Mapping[str, FlavorInput] = field(default_factory=dict)
    rows: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def lay_down(self, plan: SessionPlan, folder: Path) -> SessionPlan:
        """Write the values of a session's connectomes into a folder.

        Parameters
        ----------
        plan
            Of the session.
        folder
            Made if need be.

        Returns
        -------
        SessionPlan
            Whose connectomes name the files.

        Raises
        ------
        InputError
            If a file has changed since it was looked through.
        """
        import numpy as np

        if not plan.connectomes:
            return plan
        folder.mkdir(parents=True, exist_ok=True)
        laid = []
        for item in plan.connectomes:
            key = (item.flavor, plan.label.removeprefix("sub-"))
            matrix = read_matrix(self.inputs[item.flavor], self.rows[key])[0]
            if _digest(matrix) != item.sha256:
                raise InputError(
                    f"{item.flavor} of {plan.label} has changed while it was read",
                    where=str(item.file),
                    fix="Run again.",
                )
            file = folder / f"{item.flavor}_{item.sha256[:12]}.npy"
            np.save(file, matrix)
            laid.append(replace(item, values_file=file))
        return replace(plan, connectomes=tuple(laid))


def open_ready_cohort(settings: Settings) -> ReadyCohort:
    """Open the ready-made connectomes asked for, and look through each of them.

    Parameters
    ----------
    settings
        As asked for.

    Returns
    -------
    ReadyCohort
        What is wrong with a session's matrices stands in its problems.

    Raises
    ------
    KrakenBIDSError
        What concerns all sessions: files that cannot be opened, without ids, or without any
        flavor asked for.
    """
    if not settings.connectomes:
        return ReadyCohort()
    opened = open_inputs(settings.connectomes, {}, latent_size=0, option=OPTION)
    inputs = _of_known_atlases(with_volumes(opened, _of_size), settings)
    _require_ids(inputs)
    matched = match_inputs(inputs, must_overlap=False)
    sessions: dict[Session, ReadyInputs] = {}
    rows: dict[tuple[str, str], int] = {}
    labels = set()
    for place, text in enumerate(matched.participants):
        session, problem = _session_of(text)
        labels.add(session[0])
        if not _is_selected(session, settings):
            continue
        held = sessions.get(session, ReadyInputs())
        if problem or held.connectomes:  # two ids may be one label
            told = problem or _same_label(text, session)
            sessions[session] = replace(held, problems=(*held.problems, told))
            continue
        found = _session_inputs(session, place, matched, settings)
        sessions[session] = replace(found, problems=(*held.problems, *found.problems))
        rows |= {(name, text): int(matched.positions[name][place]) for name in inputs}
    where = tuple(dict.fromkeys(found.where for found in inputs.values()))
    return ReadyCohort(ReadySet(sessions, tuple(sorted(labels)), where), inputs, rows)


def _of_known_atlases(
    opened: Mapping[str, FlavorInput], settings: Settings
) -> dict[str, FlavorInput]:
    """Inputs of the flavors asked for, each of the size of its atlas."""
    wanted, left_out = {}, []
    for name, found in opened.items():
        if _is_wanted(name, settings):
            wanted[name] = found if is_qsirecon(found) else _of_size(found)
        else:
            left_out.append(name)
    if left_out:
        _log.warning("left out, not asked for or of unknown kind: %s", ", ".join(left_out))
    if not wanted:
        raise InputError(
            f"there is none of the flavors asked for among {', '.join(sorted(opened))}",
            where=f"{OPTION}={', '.join(settings.connectomes)}",
            fix="Ask for flavors, atlases and a modality that are there, or say which flavor a "
            f"file holds: {OPTION}=FLAVOR=PATH.",
        )
    return wanted


def _is_wanted(name: str, settings: Settings) -> bool:
    try:
        flavor = Flavor.parse(name)
    except UsageError:
        return False
    atlases = settings.atlases or default_atlas_names()
    return (
        flavor.atlas in atlas_names()
        and (name in settings.flavors if settings.flavors else flavor.atlas in atlases)
        and flavor.datatype in settings.modalities
    )


def _of_size(found: FlavorInput) -> FlavorInput:
    """The input with the number of edges that its atlas has; files told it by their first matrix.

    Raises
    ------
    InputError
        If all of its matrices are of another size.
    """
    atlas = load_atlas(Flavor.parse(found.name).atlas)
    size = n_edges(atlas.n_regions)
    if found.n_columns == size:
        return found
    text = f"{found.name}={found.where}"
    return open_inputs([text], {found.name: size}, latent_size=0, option=OPTION)[found.name]


def _require_ids(inputs: Mapping[str, FlavorInput]) -> None:
    problems = [
        InputError(
            f"{name} has no ids of participants",
            where=found.where,
            fix="Store them as 'subjects' beside the matrices, or give a folder with a file a "
            "participant, called sub-X….",
        )
        for name, found in inputs.items()
        if found.participants is None
    ]
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)


def _session_of(text: str) -> tuple[Session, InputError | None]:
    """Participant and session of an id, ``X`` or ``X_ses-Y``; ids that are no labels are told."""
    participant, _, session = text.removeprefix("sub-").partition("_ses-")
    labels = [participant, *([session] if session else [])]
    if all(label and all(c.isalnum() or c == "+" for c in label) for label in labels):
        return (participant, session or None), None
    plain = "".join(character for character in text if character.isalnum())
    return (plain or "unnamed", None), InputError(
        f"the id '{text}' cannot be part of a file's name",
        where=OPTION,
        fix=f"Use letters and digits only, such as {plain}, and _ses- before a session.",
    )


def _same_label(text: str, session: Session) -> InputError:
    return InputError(
        f"the id '{text}' is that of another participant, once it is written as a label",
        where=OPTION,
        fix=f"Call only one of them sub-{session[0]}.",
    )


def _is_selected(session: Session, settings: Settings) -> bool:
    selection = settings.selection
    participant, label = session
    return (not selection.participants or participant in selection.participants) and (
        not selection.sessions or (label or "") in selection.sessions
    )


def _session_inputs(
    session: Session, place: int, matched: MatchedInputs, settings: Settings
) -> ReadyInputs:
    """Look through all matrices of a session."""
    connectomes: list[ReadyConnectome] = []
    problems: list[KrakenBIDSError] = []
    for name, found in matched.inputs.items():
        row = int(matched.positions[name][place])
        if row < 0:
            continue
        try:
            connectomes.append(_ready(session, found, row, settings))
        except KrakenBIDSError as problem:
            problems += problem.problems if isinstance(problem, Problems) else [problem]
    return ReadyInputs(connectomes=_with_common_spaces(connectomes), problems=tuple(problems))


def _ready(session: Session, found: FlavorInput, row: int, settings: Settings) -> ReadyConnectome:
    """Look through one matrix.

    Raises
    ------
    KrakenBIDSError
        If it cannot be used.
    """
    from .connectome.given import check_given

    flavor = Flavor.parse(found.name)
    file = Path(found.files[row]) if found.files else Path(found.where)
    entities, space = _names(session, file)
    _check_task(entities, file, settings)
    matrix, diagonal = read_matrix(found, row)
    sidecar = {**described(file, found.name), **_sidecar(file, found.name)}
    try:
        check_given(flavor, matrix, diagonal=diagonal)
    except InputError as error:
        raise InputError(
            f"{found.name} of {'_ses-'.join(filter(None, session))} {error.what}",
            where=str(file),
            fix=error.fix,
        ) from error
    return ReadyConnectome(
        flavor=found.name,
        entities=entities,
        space=space,
        file=file if file.exists() else Path(found.where),
        sha256=_digest(matrix),
        known=json.dumps(_known(sidecar, flavor, matrix), sort_keys=True),
    )


def read_matrix(
    found: FlavorInput, row: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Read a matrix, and its diagonal where the file has one.

    Returns
    -------
    matrix
        (n_regions, n_regions), symmetric; NaN rows and columns for missing regions. The diagonal
        is what our own connectomes have: 1 for correlations, else 0.
    diagonal
        (n_regions,), that of the file, or None.
    """
    import numpy as np

    from .connectome.edges import edges_to_matrix
    from .connectome.given import has_edges

    diagonal = None
    if found.read_square is not None:
        matrix: NDArray[np.float64] = np.array(found.read_square(row), dtype=np.float64)
        diagonal = np.diag(matrix).copy()
    else:
        edges = found.read([row])[0].astype(np.float64)
        matrix = np.array(edges_to_matrix(edges))
    ours = 1.0 if found.name.startswith("FCcorr") else 0.0
    np.fill_diagonal(matrix, np.where(has_edges(matrix), ours, np.nan))
    return matrix, diagonal


def _digest(matrix: NDArray[np.float64]) -> str:
    return hashlib.sha256(matrix.tobytes()).hexdigest()


def _names(session: Session, file: Path) -> tuple[Entities, str]:
    """Entities of the scan and label of the space: the file's, where it is named as BIDS is."""
    participant, label = session
    own = (("sub", participant), *((("ses", label),) if label else ()))
    found = parse_name(file)
    source = found.source
    is_valid = all(text and text.replace("+", "").isalnum() for _, text in source)
    if dict(source).get("sub") != participant or dict(source).get("ses") != label or not is_valid:
        return own, ""
    space = found.label("space") or ""
    return source, space if space.replace("+", "").isalnum() else ""


def _check_task(entities: Entities, file: Path, settings: Settings) -> None:
    task, asked = dict(entities).get("task"), settings.selection.tasks
    if task and asked and task not in asked:
        raise UsageError(
            f"the connectome is of task {task}, not of {', '.join(asked)}",
            where=f"--task-id; {file}",
            fix="Give a folder that holds connectomes of the task asked for.",
        )


def _sidecar(file: Path, name: str) -> Mapping[str, Any]:
    """JSON beside a file; none is no problem, one that speaks against the flavor is.

    Raises
    ------
    InputError
        If it says that the connectome is of another flavor, predicted, or off the recipe.
    """
    if not file.is_file():
        return {}
    path = file.with_name(f"{file.name.split('.')[0]}.json")
    try:
        content = load_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(content, Mapping):
        return {}
    told = str(content.get("KrakencoderFlavor", name))
    problem = ""
    if told != name:
        problem = f"it is {told}, not {name}"
    elif content.get("Predicted") is True:
        problem = "it was predicted, not measured"
    elif "OffRecipe" in content:
        problem = f"it is {content['OffRecipe']}"
    if problem:
        raise InputError(
            f"the sidecar says that {problem}", where=str(path), fix="Give another connectome."
        )
    return content


def _known(
    sidecar: Mapping[str, Any], flavor: Flavor, matrix: NDArray[np.float64]
) -> dict[str, Any]:
    """Keys of the sidecar to be: what is known of the making, and which regions are missing."""
    from .connectome.given import has_edges

    names = load_atlas(flavor.atlas).region_names
    present = has_edges(matrix)
    program = str(sidecar.get("Software", ""))
    return {
        **{key: sidecar[key] for key in KEPT_KEYS if key in sidecar},
        "Origin": "given, not measured here" + (f"; by {program}" if program else ""),
        "MissingNodes": [name for name, has in zip(names, present, strict=True) if not has],
    }


def _with_common_spaces(connectomes: Iterable[ReadyConnectome]) -> tuple[ReadyConnectome, ...]:
    """Leave the space out of names where connectomes of one scan differ in it.

    They share a table of quality.
    """
    found = tuple(connectomes)
    spaces: dict[tuple[str, Entities], set[str]] = {}
    for item in found:
        spaces.setdefault(_scan(item), set()).add(item.space)
    return tuple(
        replace(item, space="") if len(spaces[_scan(item)]) > 1 else item for item in found
    )


def _scan(item: ReadyConnectome) -> tuple[str, Entities]:
    return Flavor.parse(item.flavor).datatype, item.entities
