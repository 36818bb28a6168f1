# SPDX-License-Identifier: MIT
"""Where the regions of a file stand in an atlas: by their names, then by their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..atlases import load_atlas
from ..errors import InputError

#: Numbered regions may leave out this share of an atlas; with more, it is another atlas.
MISSING_SHARE = 0.1
#: Regions named in a message.
N_NAMED = 5


def find_places(labels: Sequence[str], *, atlas: str, where: str) -> tuple[list[int] | None, str]:
    """Find the place in an atlas of each region of a file.

    Names of regions count, then their numbers (indices of the atlas, or the codes of its source
    image). As many others as the atlas has regions are taken in their order.

    Parameters
    ----------
    labels
        Names or numbers of the regions, in the file's order.
    atlas
        Name of an atlas that has a table.
    where
        File and participant, for messages.

    Returns
    -------
    places
        Position in the atlas of each label, from 0; None if the file has all of them in order.
    note
        What is to be said of it, for the log; empty if nothing is.

    Raises
    ------
    InputError
        If some names are those of the atlas and others are not, or the regions are of another
        atlas.
    """
    regions = load_atlas(atlas).regions
    names = {region.name.casefold(): place for place, region in enumerate(regions)}
    found = [label.strip().casefold() for label in labels]
    if found == list(names):
        return None, ""
    if len(set(found)) == len(found):
        if any(label in names for label in found):
            return _by_name(labels, found, names, atlas=atlas, where=where)
        if all(label.isdigit() for label in found):
            codes = {region.code: place for place, region in enumerate(regions)}
            return _by_number(labels, codes, atlas=atlas, where=where)
    if len(found) != len(regions):
        raise _other_atlas(labels, atlas, len(regions), where)
    return None, (
        f"the names of the regions ({_listed(labels[:3])}, …) are not those of {atlas}: "
        "the rows are taken in the file's order"
    )


def _by_name(
    labels: Sequence[str],
    found: Sequence[str],
    names: Mapping[str, int],
    *,
    atlas: str,
    where: str,
) -> tuple[list[int] | None, str]:
    """Places by the atlas's names."""
    strange = [label for label, name in zip(labels, found, strict=True) if name not in names]
    if strange:
        raise InputError(
            f"regions {_listed(strange)} are not of the atlas {atlas}, though others are",
            where=where,
            fix="Use one version of the atlas for all participants.",
        )
    return _told([names[name] for name in found], len(names), atlas)


def _by_number(
    labels: Sequence[str], codes: Mapping[int, int], *, atlas: str, where: str
) -> tuple[list[int] | None, str]:
    """Places by numbers: indices from 1, or codes of the atlas's image."""
    numbers = [int(label.strip()) for label in labels]
    n, size = len(numbers), len(codes)
    if n == size and numbers == list(range(size)):
        return None, ""  # counted from 0, as tables of pandas are
    counted = numbers in (list(range(1, n + 1)), list(range(n)))
    enough = n >= (1 - MISSING_SHARE) * size
    if set(numbers) <= set(range(1, size + 1)) and enough and not (counted and n < size):
        return _told([number - 1 for number in numbers], size, atlas)
    if set(numbers) <= set(codes) and enough and not (counted and n < size):
        return _told([codes[number] for number in numbers], size, atlas)
    raise _other_atlas(labels, atlas, size, where)


def _told(places: list[int], size: int, atlas: str) -> tuple[list[int] | None, str]:
    """Places, with a line for the log."""
    if places == list(range(size)):
        return None, ""
    missing = size - len(places)
    if missing:
        return places, f"{missing} regions of {atlas} are missing, and so are their edges"
    return places, f"the regions are put into the order of {atlas}"


def _other_atlas(labels: Sequence[str], atlas: str, size: int, where: str) -> InputError:
    return InputError(
        f"holds {len(labels)} regions ({_listed(labels[:3])}, …), {atlas} has {size} others",
        where=where,
        fix=f"Give regions of the atlas {atlas}.",
    )


def _listed(labels: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(labels) - N_NAMED} more" if len(labels) > N_NAMED else ""
    return ", ".join(labels[:N_NAMED]) + more
