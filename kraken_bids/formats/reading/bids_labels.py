# SPDX-License-Identifier: MIT
"""Flavor and participant from the entities of a file's name, in all spellings that were used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...bids.files import FoundFile, parse_name
from ...errors import UsageError
from ...flavors import Flavor
from .naming import canonical_flavor
from .regions import atlas_of

#: Kinds as ``meas-`` starts with them, in lower case.
_KINDS = {
    "fccorr": "FCcorr", "fccov": "FCcorr", "fcpcorr": "FCpcorr",
    "scifod2act": "SCifod2act", "scsdstream": "SCsdstream",
}  # fmt: skip
#: Processings as ``meas-`` ends with them, in lower case: ours, and those of the reference's zip.
_PROCESSINGS = {
    "hpf": "hpf", "bpf": "bpf", "nf": "nofilt", "nofilt": "nofilt",
    "hpfgsr": "hpfgsr", "bpfgsr": "bpfgsr", "nfgsr": "nofiltgsr", "nofiltgsr": "nofiltgsr",
    "count": "count", "vn": "volnorm", "volnorm": "volnorm",
    "sift2": "sift2", "siftcount": "sift2", "sift2count": "sift2",
    "siftvn": "sift2volnorm", "sift2vn": "sift2volnorm", "sift2volnorm": "sift2volnorm",
}  # fmt: skip


def flavor_of_labels(atlas: str, meas: str, known: Iterable[str] = ()) -> str | None:
    """Flavor of the labels of ``atlas-`` (or ``seg-``) and ``meas-``.

    Parameters
    ----------
    atlas, meas
        Labels; both in any case.
    known
        Names of the model; one of them is given where it means the same.

    Returns
    -------
    str or None
        None if ``meas-`` names no flavor.

    Examples
    --------
    >>> flavor_of_labels("fs86", "SCifod2actSiftVN")
    'SCifod2act_fs86_sift2volnorm'
    """
    name = _of_recipe(atlas_of(atlas), meas) or _of_pieces(atlas_of(atlas), meas)
    if name is None:
        return None
    known = tuple(known)
    return name if name in known else canonical_flavor(name, known) or name


def _of_recipe(atlas: str, meas: str) -> str | None:
    try:
        return str(Flavor.from_bids(atlas, meas))
    except UsageError:
        return None


def _of_pieces(atlas: str, meas: str) -> str | None:
    kinds = "|".join(_KINDS)
    match = re.fullmatch(rf"({kinds})(.*)", meas.lower())
    if match is None or match.group(2) not in _PROCESSINGS:
        return None
    return f"{_KINDS[match.group(1)]}_{atlas}_{_PROCESSINGS[match.group(2)]}"


def flavor_of_name(filename: str, known: Iterable[str] = ()) -> str | None:
    """Flavor of a file named with ``atlas-`` or ``seg-``, and ``meas-``.

    Examples
    --------
    >>> flavor_of_name("sub-01_atlas-fs86_meas-FCcorrHPF_relmat.dense.tsv")
    'FCcorr_fs86_hpf'
    """
    file = parse_name(Path(filename))
    atlas, meas = file.label("atlas") or file.label("seg"), file.label("meas")
    return flavor_of_labels(atlas, meas, known) if atlas and meas else None


def participant_of_name(filename: str) -> str:
    """Id from ``sub-`` and ``ses-`` of a file's name, or empty.

    Examples
    --------
    >>> participant_of_name("sub-01_ses-b_relmat.tsv")
    '01_ses-b'
    """
    stem = filename.partition(".")[0]
    labels = dict(re.findall(r"(?:^|_)(sub|ses)-([A-Za-z0-9+]+)(?=_|$)", stem))
    return _participant(labels.get("sub"), labels.get("ses"))


def participant_of(file: FoundFile) -> str:
    """Id of a file's participant, with the session if it has one; empty without ``sub-``."""
    return _participant(file.label("sub"), file.label("ses"))


def _participant(participant: str | None, session: str | None) -> str:
    if not participant:
        return ""
    return f"{participant}_ses-{session}" if session else participant
