# SPDX-License-Identifier: MIT
"""What ``kraken-model train`` reads: connectomes, families, splits and transforms."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..atlases import atlas_names, load_atlas
from ..errors import InputError, KrakenBIDSError, UsageError
from .options import ProblemList

if TYPE_CHECKING:
    from ..formats.inputs import FlavorInput, MatchedInputs
    from ..model.training.scratch import Scratch
    from ..model.training.splits import Split
    from ..model.transforms import Transform
    from .training_target import Target

_log = logging.getLogger(__name__)

#: How files of splits may spell the parts.
_SPELLINGS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True, eq=False)
class Tables:
    """What the small files say, read before any connectome is.

    Parameters
    ----------
    families
        Family by participant (without ``sub-``); those without are singles. None if not asked.
    parts
        Part of a split by participant; None if the split is to be drawn.
    transforms
        By flavor.
    """

    families: Mapping[str, str] | None
    parts: Mapping[str, str] | None
    transforms: Mapping[str, Transform]


def read_tables(arguments: argparse.Namespace, problems: ProblemList) -> Tables:
    """Read families, split and transforms; what is wrong with any is added to `problems`."""
    from ..model.transform_files import read_transforms

    families = parts = None
    transforms: Mapping[str, Transform] = {}
    if arguments.group_column:
        with problems.gathering():
            families = _read_column("--group-column", arguments.group_column)
    if arguments.split:
        with problems.gathering():
            parts = _read_parts(arguments)
    with problems.gathering():
        transforms = read_transforms(arguments.transforms)
    for option, share in (("--validation", arguments.validation), ("--test", arguments.test)):
        if not 0 <= share < 1:
            problems.add([
                UsageError(f"{share} is no share", where=option, fix="Give 0 or more, below 1.")
            ])
    return Tables(families, parts, transforms)


def _read_column(option: str, text: str) -> Mapping[str, str]:
    """Read ``FILE:COLUMN``, value by participant."""
    from ..bids.cohort import read_sites

    file, colon, column = text.rpartition(":")
    if not (file and colon and column):
        raise UsageError(f"'{text}' is not FILE:COLUMN", where=option, fix="Write it so.")
    if not Path(file).is_file():
        raise InputError("does not exist", where=f"{option} {file}", fix="Give a table's path.")
    return read_sites(column, Path(file))


def _read_parts(arguments: argparse.Namespace) -> Mapping[str, str]:
    """Read a file of a split."""
    if arguments.validation or arguments.test or arguments.group_column:
        raise UsageError(
            "a split is given, and another one is to be drawn",
            where="--split",
            fix="Leave out --validation, --test and --group-column, or --split.",
        )
    table = _read_column("--split", f"{arguments.split}:split")
    wrong = sorted(set(table.values()) - set(_SPELLINGS))
    if wrong:
        raise InputError(
            f"column 'split' holds '{wrong[0]}'",
            where=str(arguments.split),
            fix="Write train, validation or test; participants without are left out.",
        )
    return {name: _SPELLINGS[value] for name, value in table.items()}


@dataclass(frozen=True, eq=False)
class Cohort:
    """Participants with all flavors.

    Parameters
    ----------
    participants
        Ids without ``sub-``.
    connectomes
        (n, n_edges), float32, by flavor; in memory or mapped from files.
    latents
        (n, latent_size), float32, that the flavors are trained to; None if there are none.
    """

    participants: tuple[str, ...]
    connectomes: Mapping[str, NDArray[np.float32]]
    latents: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class OpenCohort:
    """Inputs of a cohort before anything but their ids and sizes is read.

    Parameters
    ----------
    n
        Participants that any input has.
    parts
        By flavor, that input of the participants who have all. Reading takes them out: what a
        format keeps in memory goes with them.
    target
        Name of the latents among the parts that flavors are trained to; empty if there are none.
    """

    n: int
    parts: dict[str, MatchedInputs]
    target: str = ""

    @property
    def option(self) -> str:
        """Options that the inputs were given by."""
        return "--input, --target-latents" if self.target else "--input"


def open_cohort(texts: Sequence[str], target: Target | None = None) -> OpenCohort:
    """Open all flavors, of any atlas.

    Parameters
    ----------
    texts
        As typed.
    target
        Latents that a participant must have, too, if any.

    Raises
    ------
    InputError
        If nobody is in all inputs, or an atlas is of another size.
    """
    from ..formats.inputs import MatchedInputs
    from ..formats.reading.matching import match_inputs
    from ..formats.reading.opening import open_inputs, raise_all

    inputs = open_inputs(list(texts), {}, latent_size=0)
    raise_all([problem for found in inputs.values() if (problem := _check_atlas(found))])
    if target is not None:
        inputs[target.latents.name] = target.latents
    matched = match_inputs(inputs)
    rows = np.flatnonzero(np.all([matched.has(name) for name in inputs], axis=0))
    who = tuple(matched.participants[row] for row in rows.tolist())
    parts = {
        name: MatchedInputs(who, {name: found}, {name: matched.positions[name][rows]})
        for name, found in inputs.items()
    }
    opened = OpenCohort(len(matched.participants), parts, target.latents.name if target else "")
    if not who:
        raise InputError(
            f"none of {opened.n} participants is in all {len(inputs)} inputs: {_shown(inputs)}",
            where=opened.option,
            fix="Look at the ids in the files: are they written alike?",
        )
    return opened


def check_transforms(tables: Tables, opened: OpenCohort) -> None:
    """Refuse transforms of which none would be used: a PCA would be fitted of every flavor.

    Raises
    ------
    UsageError
        If none is of a flavor that is trained.
    """
    if tables.transforms and not tables.transforms.keys() & opened.parts.keys():
        raise UsageError(
            f"holds {', '.join(sorted(tables.transforms))}, of which none is trained",
            where="--transforms",
            fix="Give the transforms of these inputs, or leave the option out.",
        )


def describe_data(arguments: argparse.Namespace, opened: OpenCohort) -> dict[str, Any]:
    """Say for a bundle what it is trained on: names of files, how who trains is drawn, transforms.

    No path is told, and no participant.
    """
    from ..model.storage import file_sha256

    files = {name: Path(part.inputs[name].where).name for name, part in opened.parts.items()}
    shares = {"validation": arguments.validation, "test": arguments.test}
    drawn = {name: share for name, share in shares.items() if share}
    if arguments.split:
        drawn = {"file": arguments.split.name}
    elif arguments.group_column:
        drawn["together"] = arguments.group_column.rpartition(":")[2]
    transforms = {path.name: file_sha256(path) for path in arguments.transforms}
    facts = {"inputs": files, "split": drawn, "transforms": transforms}
    return {name: values for name, values in facts.items() if values}


def _shown(inputs: Mapping[str, FlavorInput]) -> str:
    """Show some ids of each input."""
    from ..formats.reading.checks import name_some

    listed = ((name, list(found.participants or ())) for name, found in inputs.items())
    return "; ".join(f"{name} has {name_some(who)}" for name, who in listed)


def read_cohort(opened: OpenCohort, scratch: Scratch | None = None) -> Cohort:
    """Read all flavors, each file once; keep the participants that have all edges of all.

    Parameters
    ----------
    opened
        Its parts are used up.
    scratch
        Room for the connectomes; memory if not given.

    Raises
    ------
    InputError
        If nobody has.
    """
    from ..model.training.scratch import Scratch, keep_rows

    parts, scratch = opened.parts, scratch or Scratch()
    who = next(iter(parts.values())).participants
    complete = np.ones(len(who), dtype=np.bool_)
    arrays = {}
    for name in list(parts):
        arrays[name] = _read_all(parts.pop(name), complete, scratch)
    kept = np.flatnonzero(complete).tolist()
    if not kept:
        raise InputError(
            f"none of {opened.n} participants has all edges of all {len(arrays)} inputs",
            where=opened.option,
            fix="Look at what the warnings above say: are regions missing?",
        )
    if len(kept) < opened.n:
        _log.warning(
            "%d of %d participants are left out: they lack a flavor or edges%s",
            opened.n - len(kept),
            opened.n,
            " or a target latent" if opened.target else "",
        )
    arrays = {name: keep_rows(values, kept) for name, values in arrays.items()}
    latents = arrays.pop(opened.target) if opened.target else None
    return Cohort(tuple(who[row] for row in kept), arrays, latents)


def _read_all(
    part: MatchedInputs, complete: NDArray[np.bool_], scratch: Scratch
) -> NDArray[np.float32]:
    """Read an input, once; mark who lacks edges."""
    from ..formats.reading.checks import name_some
    from ..model.connectome_rows import batch_rows

    ((name, found),) = part.inputs.items()
    array = scratch.zeros((len(complete), found.n_columns))
    partly: list[str] = []
    for start, rows in part.batches(name, batch_rows(found.n_columns)):
        array[start : start + len(rows)] = rows
        missing = np.isnan(rows)
        lacks = missing.any(axis=1)
        complete[start : start + len(rows)] &= ~lacks
        where = start + np.flatnonzero(lacks & ~missing.all(axis=1))
        partly += [part.participants[row] for row in where.tolist()]
    if partly:
        _log.warning("%s: participants %s lack single edges", name, name_some(partly))
    return array


def _check_atlas(found: FlavorInput) -> KrakenBIDSError | None:
    """Hold an input against the atlas that its flavor names, if that is known."""
    from ..connectome.edges import n_regions

    atlas, size = found.name.split("_")[1], n_regions(found.n_columns)
    if atlas in atlas_names():
        expected = load_atlas(atlas).n_regions
        if size == expected:
            return None
        return InputError(
            f"holds {size} regions, atlas '{atlas}' has {expected}",
            where=f"{found.name} in {found.where}",
            fix="Name the atlas that these connectomes were made with.",
        )
    alike = [name for name in atlas_names() if sorted(name) == sorted(atlas)]
    if alike and load_atlas(alike[0]).n_regions == size:
        return UsageError(
            f"atlas '{atlas}' is unknown",
            where=f"--input {found.name}={found.where}",
            fix=f"Did you mean '{alike[0]}', which has {size} regions, too?",
        )
    _log.info("%s: atlas '%s' with %d regions", found.name, atlas, size)
    return None


def make_split(
    cohort: Cohort, tables: Tables, *, validation: float, test: float, seed: int
) -> tuple[Cohort, Split]:
    """Split a cohort, as a file says or by lot; those whom a file leaves out are left out.

    Parameters
    ----------
    cohort
        All participants.
    tables
        Families and, if there is a file, parts.
    validation, test
        Shares; validation is a share of those who are not for the test.
    seed
        Of the lot.

    Raises
    ------
    InputError
        If the file names nobody for training.
    """
    from ..model.training.scratch import keep_rows
    from ..model.training.splits import PARTS, Split, draw_split

    ids = cohort.participants
    if tables.parts is None:
        families = tables.families
        groups = None
        if families is not None:
            groups = [families.get(name, f"\0{name}") for name in ids]
            n_families = len(set(groups))
            _log.info("%d participants of %d families, which stay together", len(ids), n_families)
        return cohort, draw_split(
            len(ids), validation=validation, test=test, groups=groups, seed=seed
        )
    parts = tables.parts
    kept = [row for row, name in enumerate(ids) if name in parts]
    if len(kept) < len(ids):
        _log.warning("%d participants are in no part of the split", len(ids) - len(kept))
    absent = len(parts) - len(kept)
    if absent:
        _log.warning("%d participants of the split are not in all inputs", absent)
    labels = [parts[ids[row]] for row in kept]
    rows = {part: np.flatnonzero([label == part for label in labels]) for part in PARTS}
    if not rows["train"].size:
        raise InputError(
            "the split has no participant of the inputs for training",
            where="--split",
            fix="Look at the ids in its table: are they written as in the inputs?",
        )
    chosen = Cohort(
        tuple(ids[row] for row in kept),
        {name: keep_rows(values, kept) for name, values in cohort.connectomes.items()},
        None if cohort.latents is None else cohort.latents[kept],
    )
    return chosen, Split(rows["train"], rows["validation"], rows["test"])
