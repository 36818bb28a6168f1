# SPDX-License-Identifier: MIT
"""Inputs as they are typed, ``FLAVOR=PATH`` or ``PATH``, to connectomes that can be read.

`READERS` is the table of formats; a module is loaded when a file of its kind is met.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError, KrakenBIDSError, Problems, UsageError, suggest
from ...flavors import RECIPES
from ..inputs import FlavorInput, Opener, Wanted
from .naming import canonical_flavor, is_latent_name

#: Module and function that opens files, by extension in small letters.
READERS: dict[str, tuple[str, str]] = {
    ".mat": ("matlab", "open_mat"),
    ".npy": ("arrays", "open_npy"),
    ".npz": ("arrays", "open_npz"),
    ".csv": ("text", "open_text"),
    ".tsv": ("text", "open_text"),
    ".txt": ("text", "open_text"),
    ".zip": ("archive", "open_archive"),
    ".h5": ("hdf5", "open_hdf5"),
    ".hdf5": ("hdf5", "open_hdf5"),
}
#: Likewise, for folders.
FOLDER_READER = ("trees", "open_tree")

#: Flavors listed in a message.
_N_LISTED = 20


@dataclass(frozen=True)
class Asked:
    """An input as it was typed.

    Parameters
    ----------
    text
        All of it.
    name
        Flavor or name of latents, as the model calls it; empty if only a path was given.
    path
        File or folder.
    """

    text: str
    name: str
    path: Path


def open_inputs(
    texts: Sequence[str],
    n_edges: Mapping[str, int],
    *,
    latent_size: int,
    option: str = "--input",
) -> dict[str, FlavorInput]:
    """Open all inputs of an invocation.

    Parameters
    ----------
    texts
        ``FLAVOR=PATH``, or ``PATH`` of a file or folder that says itself which flavors it holds,
        by its fields or its name. The reference program's ``[FLAVOR]=PATH`` and
        ``FLAVOR@GROUP=PATH`` are taken, too, and older names of flavors.
    n_edges
        By flavor, of the model. Empty for no model: then any flavor of any size is taken.
    latent_size
        Number of values of a latent; 0 where latents are not wanted.
    option
        For messages.

    Returns
    -------
    dict
        Inputs by the model's name of the flavor, in the order given.

    Raises
    ------
    KrakenBIDSError
        `UsageError` for unknown flavors and formats and for a flavor that comes twice,
        `InputError` for files that cannot be used; `Problems` if there are several.
    """
    inputs: dict[str, FlavorInput] = {}
    problems: list[KrakenBIDSError] = []
    for text in texts:
        try:
            asked = parse_input(text, n_edges, latent_size=latent_size, option=option)
            opened = _open(asked, Wanted(n_edges, latent_size, asked.name), option)
        except KrakenBIDSError as problem:
            problems += problem.problems if isinstance(problem, Problems) else [problem]
            continue
        for name, found in opened.items():
            if name in inputs:
                problems.append(_comes_twice(name, inputs[name], found, option))
            else:
                inputs[name] = found
    if not texts:
        problems.append(UsageError("no input is given", where=option, fix="Add 'FLAVOR=FILE'."))
    raise_all(problems)
    return inputs


def raise_all(problems: Sequence[KrakenBIDSError]) -> None:
    """Raise a problem as it is, several together, none not at all."""
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)


def _comes_twice(name: str, first: FlavorInput, second: FlavorInput, option: str) -> UsageError:
    same = first.where == second.where
    files = f"twice from {first.where}" if same else f"from {first.where} and {second.where}"
    return UsageError(f"'{name}' comes {files}", where=option, fix="Give each flavor once.")


def parse_input(
    text: str, n_edges: Mapping[str, int], *, latent_size: int, option: str = "--input"
) -> Asked:
    """Read ``FLAVOR=PATH`` or ``PATH``.

    Raises
    ------
    UsageError
        If the flavor is unknown, or is not in the model.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():  # a path may hold '=', too
        if not text:
            raise UsageError("an input is empty", where=option, fix="Write 'FLAVOR=FILE'.")
        return Asked(text, "", Path(text))
    if not name.strip() or not path:
        raise UsageError(f"'{text}' is not FLAVOR=PATH", where=option, fix="Write it so.")
    group = re.fullmatch(r"(.+)@\w*", name)  # groups matter in the reference's training only
    typed = group.group(1) if group and name not in n_edges else name
    return Asked(text, _flavor(typed, n_edges, latent_size, option), Path(path))


def _flavor(typed: str, n_edges: Mapping[str, int], latent_size: int, option: str) -> str:
    """Find the model's name of a flavor."""
    found = canonical_flavor(typed, n_edges)
    if found is not None and is_latent_name(found) and found not in n_edges:
        if not latent_size:
            raise UsageError(
                f"'{typed}' stands for latents, which are of no use here",
                where=option,
                fix="Give connectomes.",
            )
        return found
    if found is None and not n_edges:
        raise UsageError(
            f"flavor '{typed}' is unknown",
            where=option,
            fix=_meant(typed)
            + "Write it as <kind>_<atlas>_<processing>, such as FCcorr_fs86_hpf.",
        )
    if found is None or (n_edges and found not in n_edges):
        raise UsageError(
            f"flavor '{typed}' is not in this model", where=option, fix=_hint(typed, n_edges)
        )
    return found


def _meant(typed: str) -> str:
    """Ask for the nearest kind and processing, of whatever atlas; empty if none is near."""
    kind, _, rest = typed.partition("_")
    atlas, _, processing = rest.rpartition("_")
    known = {"_".join(recipe): recipe for recipe in RECIPES}
    near = difflib.get_close_matches(f"{kind}_{processing}", known, n=1)
    if not atlas or not near:
        return ""
    kind, processing = known[near[0]]
    return f"Did you mean '{kind}_{atlas}_{processing}'? "


def _hint(typed: str, known: Iterable[str]) -> str:
    """Say which flavors the model has, the nearest first."""
    known = sorted(known)
    near = difflib.get_close_matches(typed, known, n=1)
    listed = ", ".join(known[:_N_LISTED]) + (", …" if len(known) > _N_LISTED else "")
    return (f"Did you mean '{near[0]}'? " if near else "") + f"The model has {listed}."


def _open(asked: Asked, wanted: Wanted, option: str) -> dict[str, FlavorInput]:
    """Open one input.

    Raises
    ------
    InputError
        If it does not exist or cannot be read.
    """
    opener = find_opener(asked.path, option=option)
    try:
        return opener(asked.path, wanted)
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}",
            where=str(asked.path),
            fix="Give a file that you may read.",
        ) from error


def find_opener(path: Path, *, option: str = "--input") -> Opener:
    """Find what opens a file or folder.

    Raises
    ------
    InputError
        If there is none at this path.
    UsageError
        If it is of no kind that is read.
    """
    if not path.exists():
        raise InputError("does not exist", where=str(path), fix="Give the file's right path.")
    if path.is_dir():
        row = FOLDER_READER
    elif path.suffix.lower() in READERS:
        row = READERS[path.suffix.lower()]
    else:
        raise UsageError(
            f"files of kind '{path.suffix}' are not read",
            where=f"{option} {path}",
            fix=suggest(path.suffix, READERS) + ".",
        )
    module, function = row
    opener: Opener = getattr(importlib.import_module(f".{module}", __package__), function)
    return opener
