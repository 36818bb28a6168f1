# SPDX-License-Identifier: MIT
"""Tractograms and fibre orientation distributions (FODs) that other programs have made.

Names read: those of QSIRecon 1 and newer, those of the reconstruction of QSIPrep before it, and,
in a folder given as ``tractograms``, ``sub-X[_ses-Y]..._{streamlines,tractogram}`` of any program.
"""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from ..plan import Entities
from .derivatives import Derivative
from .files import Accepted, FoundFile, parse_name, read_metadata, select

_log = logging.getLogger(__name__)

#: Our algorithms by what names, sidecars and headers call them, in lower case, letters only.
ALGORITHMS = {
    "ifod2": "ifod2act", "ifod2act": "ifod2act", "sdstream": "sdstream",
}  # fmt: skip
#: Keys of a sidecar that may name the algorithm.
ALGORITHM_KEYS = ("Algorithm", "TractographyAlgorithm", "TractographyMethod")
#: Parts of a QSIRecon workflow's name, the preferred one first: our own recipe, then how its iFOD2
#: was constrained.
WORKFLOW_PREFERENCE = ("Kraken", "HSVS", "FAST")
#: Endings and suffixes of tractograms in a folder given as ``tractograms``.
TRACTOGRAM_EXTENSIONS = (".tck", ".tck.gz", ".trk", ".trx")
TRACTOGRAM_SUFFIXES = ("streamlines", "tractogram")
#: Bytes of a tractogram's header that are looked at.
HEADER_BYTES = 1 << 16

NORMALISED = "FODs normalised over tissues (mtnormalise): the cut-off acts on rescaled amplitudes"
SINGLE_SHELL = "FODs of three tissues from a single shell (SS3T)"
OTHER_PROGRAM = "FODs made by QSIRecon, not by the recipe"


@dataclass(frozen=True)
class ReadyFOD:
    """FODs of white matter, and in what they differ from those of the recipe."""

    file: FoundFile
    bias: str


Found = Iterable[tuple[Derivative, FoundFile]]


def qsirecon_tractograms(
    found: Found, accepted: Accepted = ()
) -> dict[Entities, dict[str, FoundFile]]:
    """Find QSIRecon's whole-brain tractograms.

    Parameters
    ----------
    found
        Its files of a session with their data sets.
    accepted
        Query ``dwi`` of the filter file.

    Returns
    -------
    dict
        By scan, then by algorithm (``ifod2act``, ``sdstream``).
    """
    tractograms: dict[Entities, dict[str, FoundFile]] = {}
    for derivative, file in _ranked(found):
        algorithm = ALGORITHMS.get(_qsirecon_model(file))
        chosen = select(
            [file], suffix=file.suffix, extensions=(".tck.gz", ".tck"), accepted=accepted
        )
        if not chosen or algorithm is None:
            continue
        if algorithm == "ifod2act" and "act-None" in derivative.name:
            _log.warning(
                "left out, it was made without anatomical constraints: %s", file.path.name
            )
            continue
        tractograms.setdefault(file.source, {}).setdefault(algorithm, file)
    return tractograms


def _ranked(found: Found) -> list[tuple[Derivative, FoundFile]]:
    """Files of the preferred workflows first."""

    def rank(item: tuple[Derivative, FoundFile]) -> tuple[int, str]:
        name = item[0].name
        places = [place for place, word in enumerate(WORKFLOW_PREFERENCE) if word in name]
        return (places[0] if places else len(WORKFLOW_PREFERENCE)), name

    return sorted(found, key=rank)


def _qsirecon_model(file: FoundFile) -> str:
    """What a tractogram's name says of its algorithm; empty for other files."""
    if file.suffix == "streamlines":
        return _plain(file.label("model") or "")
    return _plain(file.suffix) if file.label("desc") == "tracks" else ""


def qsirecon_fods(found: Found, accepted: Accepted = ()) -> dict[Entities, ReadyFOD]:
    """Find QSIRecon's FODs of white matter, by scan; parameters as `qsirecon_tractograms`."""
    ranked = _ranked(found)
    normalised = {
        file.source for _, file in ranked if file.label("model") == "mtnorm"
    }  # QSIRecon keeps the field of the normalisation beside what was normalised
    fods: dict[Entities, ReadyFOD] = {}
    for _, file in ranked:
        if not _holds_white_matter(file) or not select(
            [file], suffix=file.suffix, extensions=(".mif.gz", ".mif"), accepted=accepted
        ):
            continue
        bias = [OTHER_PROGRAM]
        if file.source in normalised or "mtnorm" in (file.label("desc") or ""):
            bias.append(NORMALISED)
        if "ss3t" in (file.label("model") or file.suffix):
            bias.append(SINGLE_SHELL)
        fods.setdefault(file.source, ReadyFOD(file, "; ".join(bias)))
    return fods


def _holds_white_matter(file: FoundFile) -> bool:
    """Whether a file holds FODs of white matter, by the names of all versions."""
    kind = file.label("param") or file.label("mfp") or file.label("mdp") or ""
    if file.suffix == "dwimap":
        return kind.lower() == "fod" and file.label("label") == "WM"
    desc = file.label("desc") or ""
    return file.suffix in ("msmtcsd", "ss3tcsd") and desc.startswith("wmFOD")


def tractogram_files(root: Path) -> tuple[FoundFile, ...]:
    """List the tractograms in a folder given by name, at any depth, sorted by path."""
    found = []
    for path in sorted(root.rglob("sub-*")):
        file = replace(parse_name(path), datatype="dwi")
        if file.suffix in TRACTOGRAM_SUFFIXES and file.extension in TRACTOGRAM_EXTENSIONS:
            found.append(file)
    return tuple(found)


def tell_other_streamlines(root: Path, taken: Iterable[FoundFile]) -> None:
    """Warn of streamlines in such a folder that are not looked at because of their names."""
    names = {file.path for file in taken}
    others = sorted(
        path
        for path in root.rglob("*")
        if path.name.endswith(TRACTOGRAM_EXTENSIONS) and path not in names
    )
    if others:
        _log.warning(
            "%d file(s) of streamlines in %s are left out, such as %s: names must be "
            "sub-X[_ses-Y]…_{%s} with %s",
            len(others),
            root,
            others[0].relative_to(root),
            ",".join(TRACTOGRAM_SUFFIXES),
            ", ".join(TRACTOGRAM_EXTENSIONS),
        )


def given_tractograms(
    files: Sequence[FoundFile], root: Path
) -> tuple[dict[Entities, dict[str, FoundFile]], tuple[InputError, ...]]:
    """Tell the tractograms of one session by scan and algorithm.

    Parameters
    ----------
    files
        As `tractogram_files` gives them.
    root
        Folder that they were given by; sidecars apply from there down.

    Returns
    -------
    tractograms
        By scan, then by algorithm (``ifod2act``, ``sdstream``).
    problems
        Why others cannot be used.
    """
    tractograms: dict[Entities, dict[str, FoundFile]] = {}
    problems: list[InputError] = []
    for file in files:
        try:
            algorithm = algorithm_of(file, root)
        except InputError as problem:
            problems.append(problem)
            continue
        other = tractograms.setdefault(file.source, {}).setdefault(algorithm, file)
        if other is not file:
            problems.append(
                InputError(
                    f"two tractograms of one scan are of {algorithm}",
                    where=f"{other.path}, {file.path}",
                    fix="Leave one of them out of the folder.",
                )
            )
    return {source: named for source, named in tractograms.items() if named}, tuple(problems)


def algorithm_of(file: FoundFile, root: Path) -> str:
    """Tell by which algorithm a tractogram was made.

    Asked are the name (``model-`` or ``desc-``), the sidecars and the header of ``.tck``.

    Raises
    ------
    InputError
        If none of them tells, or it is none that a model was trained with.
    """
    header = read_tractogram_header(file.path) if ".tck" in file.extension else {}
    sidecar = read_metadata(file, root)
    told = [file.label("model"), file.label("desc"), header.get("method")]
    told += [str(sidecar[key]) for key in ALGORITHM_KEYS if key in sidecar]
    known = {ALGORITHMS[name] for name in map(_plain, filter(None, told)) if name in ALGORITHMS}
    others = [name for name in (file.label("model"), header.get("method")) if name]
    if len(known) != 1 or any(_plain(name) not in ALGORITHMS for name in others):
        said = ", ".join(filter(None, told)) or "neither name, sidecar nor header tell"
        raise InputError(
            f"the algorithm of the tractogram is not iFOD2 or SD_STREAM for sure ({said})",
            where=str(file.path),
            fix="Name the file …_model-ifod2_streamlines or …_model-sdstream_streamlines, or "
            'write {"Algorithm": "iFOD2"} into a sidecar. No model was trained with others.',
        )
    (algorithm,) = known
    if algorithm == "ifod2act" and "method" in header and "act" not in header:
        raise InputError(
            "iFOD2 was run without anatomical constraints (-act), which is no known flavor",
            where=str(file.path),
            fix="Track with tckgen -act, or leave the file out: it is made from the series.",
        )
    return algorithm


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def read_tractogram_header(path: Path) -> dict[str, str]:
    """Lines of a ``.tck`` header, as far as it can be read; damage is told when it is used."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as stream:
            text = stream.read(HEADER_BYTES).partition(b"\nEND")[0].decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error):
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
