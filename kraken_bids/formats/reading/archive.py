# SPDX-License-Identifier: MIT
"""Inputs from zip archives: the reference program's with BIDS-like names, and the NeMo tool's.

Nothing is extracted: members are read one at a time, in memory, and only those whose declared
size a connectome can have.
"""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...connectome.edges import n_regions
from ...errors import InputError, KrakenBIDSError
from ...storage import parse_json
from ..inputs import FlavorInput, Wanted
from .bids_labels import flavor_of_labels, participant_of_name
from .checks import name_some
from .mat_matrix import MAX_REGIONS, parse_mat
from .matrix_files import MatrixFile, open_matrices, raise_together
from .naming import canonical_flavor
from .numbers_text import parse_matrix
from .regions import LabelledMatrix, atlas_of
from .text import clean_id

_log = logging.getLogger(__name__)

#: Most bytes that a value takes as text, its separator included; and what a header, comments and
#: names of regions may take beside.
BYTES_PER_VALUE = 32
BYTES_BESIDE = 1 << 20
#: Largest member of other kinds that is read (tables of participants, settings).
MAX_TABLE = 64 << 20

_NEMO = re.compile(
    r"(?P<participant>.+)_nemo_output_(?P<algorithm>sdstream|ifod2act)_chacoconn_"
    r"(?P<atlas>[A-Za-z0-9]+?)(?:subj)?_nemoSC(?P<sift2>_sift2)?(?P<volnorm>_volnorm)?_mean\.mat"
)
_RELMAT = re.compile(r"sub-[^/]+_relmat(\.dense)?\.(tsv|csv|mat)")


@dataclass(frozen=True)
class _Member:
    """A member that holds one matrix."""

    participant: str
    flavor: str
    info: zipfile.ZipInfo


#: Finds members of one kind of archive: file names without folders -> members, names not known.
_Finder = Callable[[zipfile.ZipFile, Wanted], tuple[list[_Member], list[str]]]


def open_archive(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open a zip of connectomes, a member a participant and flavor.

    Parameters
    ----------
    path
        Archive with members ``sub-<id>_atlas-<a>_meas-<m>_relmat.dense.{tsv,csv,mat}`` and,
        maybe, ``participants.tsv`` (whose column ``subject`` has the ids, if there is one), or an
        output of the NeMo tool.
    wanted
        The model's flavors; with a name, that flavor alone.

    Returns
    -------
    dict
        By flavor. Participants may lack flavors.

    Raises
    ------
    InputError
        If it is no archive, holds no wanted connectome, or members that no connectome can be;
        `Problems` if there are several.
    """
    archive = _open(path)
    members: list[_Member] = []
    strange: list[str] = []
    for find in FINDERS:
        found, unknown = find(archive, wanted)
        members += found
        strange += unknown
    if strange:
        _log.warning("%s: left out, no known flavor: %s", path, name_some(strange))
    ids = _original_ids(archive, path)
    members = _in_order(members, ids, path)
    raise_together(list(_problems(members, path, wanted)))
    files: dict[str, list[MatrixFile]] = {}
    for member in members:
        files.setdefault(member.flavor, []).append(
            _matrix_file(archive, member, ids, path, wanted)
        )
    inputs = open_matrices(files, where=str(path), wanted=wanted)
    if not inputs:
        raise _nothing(path, files, wanted)
    return inputs


def _open(path: Path) -> zipfile.ZipFile:
    """Open an archive; it stays open as long as its inputs are used."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(
            f"is no zip archive that can be read: {error}",
            where=str(path),
            fix="Make or copy the archive again.",
        ) from error


def _files(archive: zipfile.ZipFile) -> Iterable[tuple[str, zipfile.ZipInfo]]:
    """Members with their names without folders, sorted; hidden ones are left out."""
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        name = PurePosixPath(info.filename.replace("\\", "/")).name
        if not info.is_dir() and not name.startswith(".") and "__MACOSX" not in info.filename:
            yield name, info


def _find_relmats(archive: zipfile.ZipFile, wanted: Wanted) -> tuple[list[_Member], list[str]]:
    """Members named like BIDS files; ``desc-`` is not looked at, as in the reference."""
    members, strange = [], []
    for name, info in _files(archive):
        if not _RELMAT.fullmatch(name):
            continue
        labels = dict(re.findall(r"(?:^|_)(atlas|seg|meas)-([A-Za-z0-9+]+)", name))
        flavor = flavor_of_labels(
            labels.get("atlas") or labels.get("seg") or "", labels.get("meas", ""), wanted.n_edges
        )
        if flavor is None:
            strange.append(name)
        else:
            members.append(_Member(participant_of_name(name), flavor, info))
    return members, strange


def _find_nemo(archive: zipfile.ZipFile, wanted: Wanted) -> tuple[list[_Member], list[str]]:
    """Members of the NeMo tool; its settings may say that all are weighted by SIFT2."""
    found = [(_NEMO.fullmatch(name), info) for name, info in _files(archive)]
    if not any(match for match, _ in found):
        return [], []
    weighted = _nemo_weights(archive)
    members = []
    for match, info in found:
        if match is None:
            continue
        sift2 = "sift2" if match["sift2"] or weighted else ""
        processing = f"{sift2}{'volnorm' if match['volnorm'] else ''}" or "count"
        flavor = f"SC{match['algorithm']}_{atlas_of(match['atlas'])}_{processing}"
        flavor = canonical_flavor(flavor, wanted.n_edges) or flavor
        members.append(_Member(match["participant"].removeprefix("sub-"), flavor, info))
    return members, []


def _nemo_weights(archive: zipfile.ZipFile) -> bool:
    """Whether the tool's settings ask for weights of SIFT2."""
    for name, info in _files(archive):
        if name.endswith(".json") and "config" in name and info.file_size <= MAX_TABLE:
            try:
                settings = parse_json(_read(archive, info, info.filename))
            except ValueError:
                continue
            if isinstance(settings, Mapping) and "siftweights" in settings:
                return str(settings["siftweights"]).lower() not in {"", "0", "false", "none"}
    return False


#: Kinds of archives.
FINDERS: tuple[_Finder, ...] = (_find_relmats, _find_nemo)


def _original_ids(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    """Ids by label, in order, as ``participants.tsv`` tells; empty without one.

    The column ``subject`` has the ids of before the labels were made; it counts if it is filled.
    """
    info = next((info for name, info in _files(archive) if name == "participants.tsv"), None)
    if info is None:
        return {}
    where = f"participants.tsv in {path}"
    if info.file_size > MAX_TABLE:
        raise _absurd(info, path, MAX_TABLE)
    lines = _read(archive, info, where).decode("utf-8-sig", "replace").splitlines()
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
    header = rows[0] if rows else []
    if "participant_id" not in header:
        raise InputError(
            "has no column 'participant_id'", where=where, fix="Add it, or leave the table out."
        )
    width = len(header)
    rows = [row + [""] * (width - len(row)) for row in rows[1:]]
    labels = [clean_id(row[header.index("participant_id")]) for row in rows]
    column = header.index("subject") if "subject" in header else None
    originals = [clean_id(row[column]) if column is not None else "" for row in rows]
    if not all(originals):
        originals = labels
    ids = dict(zip(labels, originals, strict=True))
    if len(set(ids.values())) < len(ids):
        raise InputError(
            "two participants have one subject", where=where, fix="Give each its own."
        )
    return ids


def _in_order(members: list[_Member], ids: Mapping[str, str], path: Path) -> list[_Member]:
    """Members in the order of the table of participants; those that it lacks come last."""
    if not ids:
        return members
    place = {label: row for row, label in enumerate(ids)}
    unlisted = sorted({m.participant for m in members if m.participant not in place})
    if unlisted:
        _log.warning(
            "%s: participants.tsv does not list %s; they are read all the same",
            path,
            name_some(unlisted),
        )
    return sorted(members, key=lambda member: place.get(member.participant, len(place)))


def _problems(members: Iterable[_Member], path: Path, wanted: Wanted) -> Iterable[KrakenBIDSError]:
    """What is wrong with wanted members, as far as the archive's list of contents tells."""
    for member in members:
        if wanted.n_edges and member.flavor not in wanted.n_edges:
            continue
        limit = _max_bytes(wanted.n_edges.get(member.flavor, 0))
        if member.info.file_size > limit:
            yield _absurd(member.info, path, limit)
        if member.info.flag_bits & 1:
            yield InputError(
                f"{member.info.filename} is encrypted",
                where=str(path),
                fix="Make the archive without a password.",
            )


def _max_bytes(n_columns: int) -> int:
    size = n_regions(n_columns) if n_columns else MAX_REGIONS
    return size * size * BYTES_PER_VALUE + BYTES_BESIDE


def _absurd(info: zipfile.ZipInfo, path: Path, limit: int) -> InputError:
    return InputError(
        f"{info.filename} claims {info.file_size} bytes; no file of its kind needs {limit}",
        where=str(path),
        fix="Do not use this archive unless you know who made it.",
    )


def _matrix_file(
    archive: zipfile.ZipFile,
    member: _Member,
    ids: Mapping[str, str],
    path: Path,
    wanted: Wanted,
) -> MatrixFile:
    where = f"{member.info.filename} in {path}"
    n_columns = wanted.n_edges.get(member.flavor, 0)
    size = n_regions(n_columns) if n_columns else 0

    def load() -> LabelledMatrix:
        content = _read(archive, member.info, where)
        if member.info.filename.endswith(".mat"):
            return LabelledMatrix(parse_mat(content, size=size, where=where))
        return parse_matrix(content, where=where)

    return MatrixFile(ids.get(member.participant, member.participant), where, load)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    """Read a member; no more than its declared size is ever unpacked."""
    try:
        with archive.open(info) as file:
            content = file.read(info.file_size + 1)
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile,
            zlib.error) as error:  # fmt: skip
        raise InputError(
            f"cannot be unpacked: {error}", where=where, fix="Make or copy the archive again."
        ) from error
    if len(content) != info.file_size:
        raise InputError("is cut short", where=where, fix="Make or copy the archive again.")
    return content


def _nothing(path: Path, files: Mapping[str, object], wanted: Wanted) -> InputError:
    """Say what an archive holds that holds nothing of use."""
    asked = wanted.name or "any flavor of the model"
    return InputError(
        f"holds {name_some(list(files)) if files else 'no connectomes'}, not {asked}",
        where=str(path),
        fix="Give an archive of sub-<id>_atlas-<atlas>_meas-<measure>_relmat.dense.tsv files.",
    )
