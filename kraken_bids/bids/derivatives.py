# SPDX-License-Identifier: MIT
"""Which input derivatives there are: programs told apart by what they wrote about themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, KrakenBIDSError, Problems, UsageError
from ..settings import Settings
from ..storage import load_json

_log = logging.getLogger(__name__)

DESCRIPTION = "dataset_description.json"

#: Our name of a program by ``GeneratedBy[0].Name`` in lower case without punctuation.
PROGRAMS: dict[str, str] = {
    "fmriprep": "fmriprep",
    "qsiprep": "qsiprep",
    "qsirecon": "qsirecon",
    "xcpd": "xcp_d",
}
#: How the programs spell themselves.
SPELLINGS = {
    "fmriprep": "fMRIPrep",
    "qsiprep": "QSIPrep",
    "qsirecon": "QSIRecon",
    "xcp_d": "XCP-D",
}
#: Folder of tractograms of any program; given by name only.
TRACTOGRAMS = "tractograms"
#: Likewise, of denoised series of regions; their plans are made apart from those of scans.
TIMESERIES = "timeseries"
#: Name, in links and URIs, of folders of connectomes given to the participant level.
GIVEN_CONNECTOMES = "given-connectomes"
#: Programs whose outputs plans are made from, by datatype.
READ_BY_DATATYPE = {"func": ("fmriprep",), "dwi": ("qsiprep", "qsirecon", TRACTOGRAMS)}


@dataclass(frozen=True)
class Derivative:
    """An input derivative data set.

    Parameters
    ----------
    program
        Who wrote it: ``fmriprep``, ``qsiprep``, ``qsirecon``, ``xcp_d``; ``tractograms`` for a
        folder of streamlines, whoever made them.
    name
        Its name in ``DatasetLinks`` and BIDS URIs; unique in an invocation.
    root
        Its folder.
    description
        Contents of ``dataset_description.json``.
    """

    program: str
    name: str
    root: Path
    description: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def version(self) -> str:
        """Version of the program as the data set tells it; may be empty."""
        return str(_generators(self.description)[0].get("Version", ""))


def find_derivatives(settings: Settings) -> tuple[Derivative, ...]:
    """Find the input derivatives: those named, else those under the BIDS folder.

    A program that is named (``-d fmriprep=PATH``) is not looked for. Otherwise the BIDS folder
    itself, its ``derivatives/*`` and those of QSIRecon nested in them are asked who generated
    them.

    Returns
    -------
    tuple of Derivative
        Sorted by program, then name. QSIRecon may appear several times, once a workflow.

    Raises
    ------
    Problems
        With an error for each named folder that is no derivative, or that of another program,
        and for each program found more than once.
    """
    problems: list[KrakenBIDSError] = []
    found: list[Derivative] = []
    for program, root in settings.derivatives:
        try:
            found += _named_derivative(program, root)
        except KrakenBIDSError as problem:
            problems.append(problem)
    found += _given_connectomes(settings.connectomes)
    named = {program for program, _ in settings.derivatives}
    looked_for = [
        derivative
        for derivative in _look_under(settings.bids_dir)
        if derivative.program not in named
    ]
    for program in sorted({derivative.program for derivative in looked_for}):
        candidates = [item for item in looked_for if item.program == program]
        try:
            found += _the_one(program, candidates)
        except KrakenBIDSError as problem:
            problems.append(problem)
    if problems:
        raise Problems(problems)
    return _with_unique_names(sorted(found, key=lambda item: (item.program, str(item.root))))


def read_description(root: Path) -> dict[str, Any]:
    """Read ``dataset_description.json``.

    Raises
    ------
    InputError
        If it is absent, cannot be read, or is no JSON object.
    """
    path = root / DESCRIPTION
    fix = (
        "Give the folder that the program was told to write to; it holds dataset_description.json "
        "and the sub- folders."
    )
    try:
        content = load_json(path)
    except FileNotFoundError as error:
        raise InputError(f"there is no {DESCRIPTION}", where=str(root), fix=fix) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{DESCRIPTION} cannot be read: {error}",
            where=str(path),
            fix="Restore it from the program's output.",
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{DESCRIPTION} holds no JSON object",
            where=str(path),
            fix="Restore it from the program's output.",
        )
    return content


def program_of(description: Mapping[str, Any]) -> str:
    """Our name of the program that wrote a data set, its own name if unknown, or empty."""
    name = str(_generators(description)[0].get("Name", ""))
    key = "".join(character for character in name.lower() if character.isalnum())
    return PROGRAMS.get(key, name)


def _generators(description: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """``GeneratedBy``, or what older versions wrote instead; at least one, maybe empty."""
    listed = description.get("GeneratedBy") or description.get("PipelineDescription") or {}
    listed = listed if isinstance(listed, list) else [listed]
    return [item for item in listed if isinstance(item, Mapping)] or [{}]


def generated_by(derivatives: Iterable[Derivative]) -> list[dict[str, Any]]:
    """The chain of programs behind some data sets, each once, the latest first."""
    chain = [
        dict(item)
        for derivative in derivatives
        for item in _generators(derivative.description)
        if item.get("Name")
    ]
    return [item for place, item in enumerate(chain) if item not in chain[:place]]


def _named_derivative(program: str, root: Path) -> list[Derivative]:
    """Check a data set given by name; QSIRecon's brings its nested ones."""
    if program == "connectomes":
        return []
    if program == TRACTOGRAMS:
        return [Derivative(program, program, root)]
    if program == TIMESERIES:
        return [_plain_data_set(program, root)]
    description = read_description(root)
    writer = program_of(description)
    if writer != program and writer in PROGRAMS.values():
        raise InputError(
            f"the folder was written by {SPELLINGS[writer]}, not {SPELLINGS[program]}",
            where=f"--derivatives {program}={root}",
            fix=f"Give it as {writer}={root}, or give {SPELLINGS[program]}'s folder.",
        )
    if writer != program:
        _log.warning(
            "%s is taken for %s's output as told, though it says '%s'",
            root, SPELLINGS[program], writer,
        )  # fmt: skip
    nested = [item for item in _look_under(root, itself=False) if item.program == program]
    return [
        Derivative(program, program, root, description),
        *(nested if program == "qsirecon" else []),
    ]


def _plain_data_set(name: str, root: Path) -> Derivative:
    """A folder given by name, with its description if it has one."""
    has_description = (root / DESCRIPTION).is_file()
    return Derivative(name, name, root, read_description(root) if has_description else {})


def _given_connectomes(texts: Iterable[str]) -> Iterator[Derivative]:
    """Folders of connectomes given to the participant level; single files are none."""
    for text in texts:
        _, _, path = text.partition("=")
        root = Path(text if Path(text).exists() or not path else path)
        if root.is_dir():
            yield _plain_data_set(GIVEN_CONNECTOMES, root)


def _look_under(root: Path, *, itself: bool = True) -> Iterator[Derivative]:
    """Data sets of known programs at `root` and under its ``derivatives``, at most two deep."""
    if itself:
        yield from _described(root)
    for folder in _folders(root / "derivatives"):
        yield from _described(folder)
        if itself:
            for nested in _folders(folder / "derivatives"):
                yield from _described(nested)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(entry for entry in parent.iterdir() if entry.is_dir())
    except OSError:
        return []


def _described(root: Path) -> Iterator[Derivative]:
    """The data set at `root` if a known program says that it wrote it."""
    if not (root / DESCRIPTION).is_file():
        return
    try:
        description = read_description(root)
    except InputError as problem:
        # Nobody named this folder: it may be none of ours.
        _log.warning("left out: %s", problem)
        return
    program = program_of(description)
    if program in PROGRAMS.values():
        name = root.name if program == "qsirecon" and root.name.startswith("qsirecon") else program
        yield Derivative(program, name, root, description)


def _the_one(program: str, candidates: Sequence[Derivative]) -> list[Derivative]:
    """The data set found of a program; several are ambiguous but for QSIRecon."""
    if program != "qsirecon" and len(candidates) > 1:
        roots = ", ".join(str(item.root) for item in candidates)
        raise UsageError(
            f"{len(candidates)} outputs of {SPELLINGS[program]} were found: {roots}",
            where="--derivatives",
            fix=f"Say which: --derivatives {program}=PATH.",
        )
    return list(candidates)


def _with_unique_names(derivatives: Iterable[Derivative]) -> tuple[Derivative, ...]:
    """Label names with letters, digits and hyphens only, each used once."""
    named: list[Derivative] = []
    taken: dict[str, int] = {}
    for item in derivatives:
        name = "".join(letter if letter.isalnum() else "-" for letter in item.name)
        taken[name] = taken.get(name, 0) + 1
        name += str(taken[name]) if taken[name] > 1 else ""
        named.append(Derivative(item.program, name, item.root.absolute(), item.description))
    return tuple(named)
