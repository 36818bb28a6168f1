# SPDX-License-Identifier: MIT
"""The files of input derivatives: names taken apart, sidecars with inheritance, choices."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import InputError, ResourceError, UsageError, suggest
from ..plan import Entities
from ..storage import load_json
from .derivatives import Derivative
from .names import DERIVATIVE_ENTITIES, ENTITY_ORDER, is_label

_log = logging.getLogger(__name__)

#: Names of entities in filter files (pybids' long names) and in file names.
ENTITY_NAMES: dict[str, str] = {
    "subject": "sub", "session": "ses", "sample": "sample", "task": "task", "acquisition": "acq",
    "ceagent": "ce", "reconstruction": "rec", "direction": "dir", "run": "run", "modality": "mod",
    "echo": "echo", "part": "part", "space": "space", "cohort": "cohort", "res": "res",
    "resolution": "res", "den": "den", "density": "den", "atlas": "atlas", "segmentation": "seg",
    "label": "label", "desc": "desc", "description": "desc", "from": "from", "to": "to",
    "mode": "mode", "model": "model", "hemi": "hemi",
}  # fmt: skip
#: Parts of a name that filters may also ask for.
NAME_PARTS = ("suffix", "extension", "datatype")
#: Suffixes that plans are made from; the index holds nothing else.
SUFFIXES = (
    "bold", "boldref", "mask", "timeseries", "regressors", "dseg", "probseg", "xfm", "T1w", "T2w",
    "dwi", "streamlines", "dwimap", "msmtcsd", "ss3tcsd", "ifod2", "sdstream",
)  # fmt: skip
#: Folders that hold none of them.
IGNORED_FOLDERS = ("figures", "log", "logs", "sourcedata", "code", "surf", "perf", "fmap", "meg")

#: What a database of SQLite starts with.
SQLITE_MAGIC = b"SQLite format 3\0"

Accepted = tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclass(frozen=True)
class FoundFile:
    """A file and what its name says.

    Parameters
    ----------
    path
        The file.
    entities
        All ``key-label`` parts, in the order of the name.
    suffix, extension
        ``bold`` and ``.nii.gz``, for instance; the extension starts at the first dot.
    datatype
        Folder: ``anat``, ``func``, ``dwi``.
    """

    path: Path
    entities: Entities
    suffix: str
    extension: str
    datatype: str

    def label(self, entity: str) -> str | None:
        """Label of an entity by its short name, or None."""
        return dict(self.entities).get(entity)

    @property
    def source(self) -> Entities:
        """Entities of the scan that the file was made from, in BIDS order."""
        pairs = dict(self.entities)
        return tuple(
            (key, pairs[key])
            for key in ENTITY_ORDER
            if key in pairs and key not in DERIVATIVE_ENTITIES
        )


def parse_name(path: Path) -> FoundFile:
    """Take a file name apart.

    Examples
    --------
    >>> parse_name(Path("func/sub-01_task-rest_desc-preproc_bold.nii.gz")).label("desc")
    'preproc'
    """
    stem, dot, extension = path.name.partition(".")
    *pairs, suffix = stem.split("_")
    entities = tuple((key, label) for key, _, label in (pair.partition("-") for pair in pairs))
    return FoundFile(path, entities, suffix, dot + extension, path.parent.name)


def select(
    files: Iterable[FoundFile],
    *,
    suffix: str,
    extensions: Sequence[str] = (".nii.gz", ".nii"),
    accepted: Accepted = (),
    **labels: str | None,
) -> list[FoundFile]:
    """Choose files by name.

    Parameters
    ----------
    files
        To choose from.
    suffix, extensions
        What they must have.
    accepted
        A query of the filter file: entities (or suffix, extension, datatype) with the labels
        accepted; None stands for "absent", ``*`` for "present".
    labels
        Labels by short entity name or ``datatype``; None: the entity must be absent.
    """
    query = tuple((key, (label,)) for key, label in labels.items())
    return [
        file
        for file in files
        if file.suffix == suffix
        and file.extension in extensions
        and all(_accepts(file, key, values) for key, values in (*query, *accepted))
    ]


def _accepts(file: FoundFile, key: str, values: Sequence[str | None]) -> bool:
    value = str(getattr(file, key)) if key in NAME_PARTS else file.label(key)
    if value is None:
        return None in values
    return any(wanted == "*" or same_label(value, wanted) for wanted in values if wanted)


def same_label(one: str, other: str) -> bool:
    """Whether labels agree; numbers may have leading zeros (``run-1``, ``run-01``)."""
    if one.isdigit() and other.isdigit():
        return int(one) == int(other)
    return one == other


def read_filters(
    filters: Iterable[tuple[str, tuple[tuple[str, tuple[str | None, ...]], ...]]],
) -> dict[str, Accepted]:
    """Turn the contents of a filter file into queries with short entity names.

    Raises
    ------
    UsageError
        If an entity is unknown.
    """
    queries = {}
    for query, entities in filters:
        accepted = []
        for name, labels in entities:
            key = name if name in (*ENTITY_NAMES.values(), *NAME_PARTS) else ENTITY_NAMES.get(name)
            if key is None:
                raise UsageError(
                    f"entity '{name}' of query '{query}' is unknown",
                    where="--bids-filter-file",
                    fix=suggest(name, (*ENTITY_NAMES, *NAME_PARTS)) + ".",
                )
            accepted.append((key, _without_prefix(key, labels)))
        queries[query] = tuple(accepted)
    return queries


def _without_prefix(key: str, labels: Iterable[str | None]) -> tuple[str | None, ...]:
    return tuple(label and label.removeprefix(f"{key}-") for label in labels)


def index_files(
    derivative: Derivative, participants: Sequence[str], *, database_dir: Path | None = None
) -> dict[str, tuple[FoundFile, ...]]:
    """List the files of some participants, with pybids.

    Only the participants' own folders are walked, and only what plans are made from is indexed:
    the time it takes does not grow with the others of the data set. With `database_dir` all
    participants are indexed once and the index is kept; it does not notice later changes.

    Parameters
    ----------
    derivative
        The data set.
    participants
        Labels without prefix.
    database_dir
        Folder of pybids' databases, or None.

    Returns
    -------
    dict
        Files by participant, sorted by path.

    Raises
    ------
    ResourceError
        If the database cannot be used.
    """
    if database_dir is None:
        layout = _open_index(derivative, participants=participants)
        paths = layout.get(return_type="filename")
    else:
        database = _kept_index(derivative, database_dir)
        layout = _open_index(derivative, database=database)
        paths = layout.get(subject=sorted(set(participants)), return_type="filename")
    found: dict[str, list[FoundFile]] = {participant: [] for participant in participants}
    for file in (parse_name(Path(path)) for path in sorted(paths)):
        if (participant := file.label("sub") or "") in found:
            found[participant].append(file)
    for participant, files in found.items():
        if database_dir and not files and (derivative.root / f"sub-{participant}").is_dir():
            _log.warning(
                "the index in %s knows no file of sub-%s; delete it if the data set has changed",
                database_dir,
                participant,
            )
    return {participant: tuple(files) for participant, files in found.items()}


def _open_index(
    derivative: Derivative, *, participants: Sequence[str] = (), database: Path | None = None
) -> Any:
    """Layout of a data set without metadata: of some participants, or as a kept index has it."""
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    indexer = BIDSLayoutIndexer(
        validate=False, ignore=_ignore_patterns(participants), index_metadata=False
    )
    return BIDSLayout(
        str(derivative.root),
        validate=False,
        is_derivative=True,
        config=[_index_config()],
        database_path=str(database) if database else None,
        indexer=indexer,
    )


def _kept_index(derivative: Derivative, database_dir: Path) -> Path:
    """Folder of a data set's index, made if need be.

    It is made beside its place and moved there when whole: another job would take a half-made
    index for the data set.
    """
    key = hashlib.sha256(str(derivative.root.resolve()).encode()).hexdigest()[:12]
    database = database_dir / f"{derivative.name}-{key}"
    try:
        if not database.exists():
            database_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".index-", dir=database_dir) as folder:
                layout = _open_index(derivative, database=Path(folder, "index"))
                layout.session.close()
                # Another job may have been quicker; its index is as good.
                with contextlib.suppress(FileExistsError):
                    _move_new(Path(folder, "index"), database)
        with (database / "layout_index.sqlite").open("rb") as file:
            start = file.read(len(SQLITE_MAGIC))
    except OSError as error:
        raise ResourceError(
            f"an index of the inputs cannot be kept: {error.strerror or error}",
            where=str(database),
            fix="Give another --bids-database-dir, or none.",
        ) from error
    if start != SQLITE_MAGIC:
        raise ResourceError("is not an index of the inputs", where=str(database), fix="Delete it.")
    return database


def _move_new(folder: Path, target: Path) -> None:
    """Rename a folder unless the target is there, in one step."""
    try:
        folder.rename(target)
    except OSError as error:
        if target.is_dir():
            raise FileExistsError(error.errno, error.strerror) from error
        raise


def _index_config() -> str:
    """Path of pybids' configuration for the index.

    Names are taken apart by `parse_name`; the index needs to know participants only. With all
    entities of BIDS, making and filling it takes several times as long.
    """
    return str(resources.files("kraken_bids") / "data" / "pybids_index.json")


def _ignore_patterns(participants: Sequence[str]) -> list[re.Pattern[str]]:
    """What pybids shall not walk or index, matched against paths from the data set's root."""
    folders = "|".join(IGNORED_FOLDERS)
    suffixes = "|".join(SUFFIXES)
    patterns = [
        re.compile(r"/\."),
        re.compile(rf"/({folders})(/|$)"),
        # Files (they have a dot) other than those with one of our suffixes.
        re.compile(rf"/(?![^/]*_({suffixes})\.)[^/]*\.[^/]*$"),
        # FreeSurfer subjects in legacy layouts.
        re.compile(r"^/(freesurfer|fsaverage[^/]*)(/|$)"),
    ]
    if participants:
        wanted = "|".join(re.escape(label) for label in participants)
        patterns.append(re.compile(rf"^/sub-(?!(?:{wanted})(?:[/_]|$))"))
    return patterns


def participant_labels(root: Path) -> tuple[str, ...]:
    """Labels of the participants that have a folder in a data set, sorted.

    Folders whose name holds anything else than a label are left out, and that is said: labels
    become parts of paths, tables and scripts.
    """
    try:
        entries = [entry for entry in root.iterdir() if entry.name.startswith("sub-")]
    except OSError as error:
        raise InputError(
            f"cannot be listed: {error.strerror}", where=str(root), fix="Check the folder."
        ) from error
    labels = sorted(entry.name.removeprefix("sub-") for entry in entries if entry.is_dir())
    for label in labels:
        if not is_label(label):
            _log.warning(
                "%s: the folder %r is left out: no BIDS label", root, f"sub-{label}"[:200]
            )
    return tuple(label for label in labels if is_label(label))


def read_metadata(file: FoundFile, root: Path) -> dict[str, Any]:
    """Read the JSON sidecars that apply to a file, the nearest winning.

    Parameters
    ----------
    file
        A data file.
    root
        Root of its data set; sidecars are looked for from there down to the file's folder.

    Raises
    ------
    InputError
        If one cannot be read.
    """
    folders = [file.path.parent, *file.path.parent.parents]
    folders = folders[: folders.index(root) + 1] if root in folders else folders[:1]
    metadata: dict[str, Any] = {}
    for folder in reversed(folders):
        for sidecar in _applicable(file, folder):
            metadata |= _read_json(sidecar)
    return metadata


def _applicable(file: FoundFile, folder: Path) -> list[Path]:
    """Sidecars in a folder whose entities are among the file's, the least specific first."""
    found = [parse_name(path) for path in folder.glob(f"*{file.suffix}.json")]
    own = set(file.entities)
    fitting = [item for item in found if item.suffix == file.suffix and set(item.entities) <= own]
    return [item.path for item in sorted(fitting, key=lambda item: len(item.entities))]


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the sidecar cannot be read: {error}", where=str(path), fix="Restore the file."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            "the sidecar holds no JSON object", where=str(path), fix="Restore the file."
        )
    return content


def check_content(path: Path) -> None:
    """Make sure that a file's content is on this disk.

    Raises
    ------
    InputError
        If the name is a link to nowhere, or the file is empty.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(
            "the file is a link to content that is not here",
            where=str(path),
            fix="Fetch it (for instance with datalad get).",
        )
    if not path.is_file() or path.stat().st_size == 0:
        raise InputError(
            "the file is empty or not a file",
            where=str(path),
            fix="Run the program that wrote it again.",
        )
