# SPDX-License-Identifier: MIT
"""Which flavor a text means: a model's own name, an older spelling, or the name of a file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...atlases import atlas_names

#: Name of latents, as the reference program calls them.
ENCODED = "encoded"

#: Spellings of atlases, by today's name. Every other atlas is found by its own name.
ATLAS_ALIASES: dict[str, tuple[str, ...]] = {"coco439": ("cocommpsuit439",)}
#: Atlases of published flavors of which there need not be a region table.
_PUBLISHED_ATLASES = ("fs86", "shen268", "coco439", "cocoyeo243")
_FILTERS = ("hpf", "bpf", "nofilt")
_ALGORITHMS = ("ifod2act", "sdstream")
#: Today's grammar, of any atlas; kind, atlas and processing.
_MODERN = re.compile(
    r"(FCcorr|FCpcorr|SCifod2act|SCsdstream)_([a-z0-9]+)_"
    r"((?:hpf|bpf|nofilt)(?:gsr)?|(?:sift2)?volnorm(?:icv)?|sift2count|sift2|count)",
    re.IGNORECASE,
)


def is_latent_name(name: str) -> bool:
    """Say whether an input's name stands for latents: ``encoded`` or ``fusion…``.

    Examples
    --------
    >>> is_latent_name("fusionSC")
    True
    """
    return name.lower() == ENCODED or name.lower().startswith("fusion")


def canonical_flavor(text: str, known: Iterable[str] = ()) -> str | None:
    """Find the flavor that a text means.

    A name of `known` comes first, as it is or in other case; then today's grammar
    ``<kind>_<atlas>_<processing>`` of any atlas; then the pieces of a name in any order, as in
    file names and in the names of before 2024-04-13. Text in square brackets stands for the
    whole. ``sift2count`` is ``sift2``.

    Parameters
    ----------
    text
        A flavor's name, or a file's name without its folder.
    known
        Names of a model, which win over aliases: a model's own ``…_sift2count`` stays so.

    Returns
    -------
    str or None
        One of `known` where it means one of them, else today's name; None if the text names no
        flavor, or pieces of two.

    Examples
    --------
    >>> canonical_flavor("fc_cocommpsuit439_FCcov_hpf_gsr_993subj.mat")
    'FCcorr_coco439_hpfgsr'
    >>> canonical_flavor("fs86_sdstream_volnorm")
    'SCsdstream_fs86_volnorm'
    """
    known = tuple(known)
    brackets = re.search(r"\[([^\[\]]+)\]", text)
    text = (brackets.group(1) if brackets else text).strip()
    by_case = {name.lower(): name for name in known}
    if text in known or text.lower() in by_case:
        return text if text in known else by_case[text.lower()]
    if is_latent_name(text):
        return ENCODED if text.lower() == ENCODED else text
    atlases = {match.group(2).lower() for name in known if (match := _MODERN.fullmatch(name))}
    found = _modern(text) or _from_pieces(text.lower(), atlases)
    if found is None:
        return None
    by_meaning = {_modern(name) or name: name for name in known}
    return by_meaning.get(found, found)


def _modern(text: str) -> str | None:
    """Read today's grammar; None for anything else."""
    match = _MODERN.fullmatch(text)
    if match is None:
        return None
    kind, atlas, processing = (part.lower() for part in match.groups())
    if kind.startswith("fc") != processing.startswith(_FILTERS):
        return None
    if kind == "fcpcorr":  # partial correlation knows no regression of the global signal
        processing = processing.removesuffix("gsr")
    return f"{kind[:2].upper()}{kind[2:]}_{_today(atlas)}_{_processing(processing)}"


def _from_pieces(text: str, atlases: Iterable[str]) -> str | None:
    """Put a name together from what occurs in a text."""
    atlas = _one_atlas(text, atlases)
    if atlas is None:
        return None
    is_partial = "pcorr" in text
    is_full = "fccorr" in text or "fccov" in text
    algorithms = [name for name in _ALGORITHMS if name in text]
    if is_partial + is_full + len(algorithms) != 1:
        return None
    if algorithms:
        processing = _sc_processing(text)
        return processing and f"SC{algorithms[0]}_{atlas}_{processing}"
    filters = [name for name in _FILTERS if name in text]
    if len(filters) != 1:
        return None
    gsr = "gsr" if is_full and re.search(r"(?<!no)(?<!no[-_])gsr", text) else ""
    return f"{'FCpcorr' if is_partial else 'FCcorr'}_{atlas}_{filters[0]}{gsr}"


def _one_atlas(text: str, atlases: Iterable[str]) -> str | None:
    """Find the one atlas that occurs; None for none or several."""
    names = {*atlas_names(), *_PUBLISHED_ATLASES, *atlases}
    names |= {alias for name in names for alias in ATLAS_ALIASES.get(name, ())}
    # Letters before or digits after make another name: `fs86` is not in `fs860`.
    found = {name for name in names if re.search(rf"(?<![a-z]){re.escape(name)}(?!\d)", text)}
    today = {_today(name) for name in found}
    return today.pop() if len(today) == 1 else None


def _today(atlas: str) -> str:
    """Give an atlas' name of today."""
    return next((name for name, old in ATLAS_ALIASES.items() if atlas in old), atlas)


def _sc_processing(text: str) -> str | None:
    """Find how a structural connectome was weighted; None if it does not say."""
    sift2 = "sift2" if "sift2" in text else ""
    if "volnorm" in text:
        icv = "icv" if re.search(r"volnorm_?icv", text) else ""
        return f"{sift2}volnorm{icv}"
    if sift2:
        return sift2
    return "count" if "count" in text else None


def _processing(name: str) -> str:
    return "sift2" if name == "sift2count" else name
