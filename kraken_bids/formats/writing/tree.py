# SPDX-License-Identifier: MIT
"""Predictions as a BIDS derivative data set: a table a participant, source and target.

The data set appears when it is complete. One that an earlier prediction made is replaced as a
whole; a folder that holds anything else is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...atlases import atlas_names, load_atlas
from ...bids.dataset import DatasetInfo, write_dataset_files
from ...bids.predictions import (
    diagonal,
    save_latents,
    save_prediction,
    session_entities,
    source_label,
)
from ...bids.writers import write_json, write_table
from ...connectome.edges import edges_to_matrix, n_regions
from ...errors import KrakenBIDSError, Problems, UsageError
from ...flavors import Flavor
from ...storage import atomic_folder, load_json
from ..outputs import Decoded, Latents, OutputFacts

#: Name by which an earlier data set is known to be one of predictions, and nothing else.
NAME = "kraken-model: predicted connectomes"
DESCRIPTION = "dataset_description.json"


@dataclass(frozen=True)
class Row:
    """Who a row of the predictions is: labels for BIDS, and the id as it was given."""

    participant: str
    session: str | None
    original: str


def parse_id(text: str) -> Row:
    """Make BIDS labels of an id: letters and digits stay, all else is left out.

    ``_ses-`` parts participant and session.

    Examples
    --------
    >>> parse_id("sub-a_01"), parse_id("02_ses-re_test").session
    (Row(participant='a01', session=None, original='a_01'), 'retest')
    """
    participant, _, session = text.removeprefix("sub-").partition("_ses-")
    return Row(_label(participant), _label(session) or None, participant)


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)


def read_ids(participants: Sequence[str]) -> tuple[Row, ...]:
    """Make BIDS labels of all ids.

    Raises
    ------
    Problems
        If nothing is left of an id, or the same is left of two.
    """
    rows = tuple(map(parse_id, participants))
    problems: list[KrakenBIDSError] = []
    sessions: dict[tuple[str, str | None], str] = {}
    originals: dict[str, str] = {}
    for row, text in zip(rows, participants, strict=True):
        first = sessions.setdefault((row.participant, row.session), text)
        original = originals.setdefault(row.participant, row.original)
        if not row.participant:
            problems.append(_id_problem(f"participant '{text}' has no letter or digit"))
        elif original != row.original or first != text:
            other = first if first != text else original
            problems.append(
                _id_problem(f"participants '{other}' and '{text}' would both be {row.participant}")
            )
    if problems:
        raise Problems(problems)
    return rows


def _id_problem(what: str) -> UsageError:
    return UsageError(what, fix="Rename them, or write an .npz or .h5 file.")


def check_tree(
    path: Path, participants: Sequence[str] = (), facts: OutputFacts | None = None
) -> None:
    """Refuse a folder that holds something else, and what BIDS names cannot tell apart.

    Raises
    ------
    Problems
        With all that is wrong.
    """
    problems: list[KrakenBIDSError] = []
    if path.exists() and not _may_replace(path):
        problems.append(
            UsageError(
                "exists and is no data set of predictions",
                where=f"--output {path}",
                fix="Give a folder that does not exist yet.",
            )
        )
    if "{" in path.name:
        problems.append(
            UsageError(
                "placeholders such as {input} are for .mat files",
                where=f"--output {path}",
                fix="Leave them out.",
            )
        )
    if facts is not None:
        problems += _naming_problems(path, facts)
    try:
        read_ids(participants)
    except Problems as error:
        problems += error.problems
    if problems:
        raise Problems(problems)


def _may_replace(path: Path) -> bool:
    """Say whether a folder is empty or was made here."""
    if not path.is_dir():
        return False
    try:
        content = load_json(path / DESCRIPTION)
    except (OSError, ValueError):
        return not any(path.iterdir())
    return isinstance(content, dict) and content.get("Name") == NAME


def _naming_problems(path: Path, facts: OutputFacts) -> Iterator[UsageError]:
    where = f"--output {path}"
    for target in facts.targets:
        try:
            flavor = Flavor.parse(target)
            known = flavor.atlas in atlas_names()
            size = load_atlas(flavor.atlas).n_regions if known else 0
        except UsageError:
            flavor, size = None, 0
        if flavor is None or _label(flavor.atlas) != flavor.atlas:
            yield UsageError(
                f"flavor '{target}' has no name in BIDS",
                where=where,
                fix="Write an .npz or .h5 file.",
            )
        elif size and size != n_regions(facts.n_edges[target]):
            yield UsageError(
                f"{target} has {n_regions(facts.n_edges[target])} regions, atlas "
                f"{flavor.atlas} {size}",
                where=where,
                fix="Write an .npz or .h5 file, or use a model of that atlas.",
            )
    labels: dict[str, str] = {}
    for source in facts.sources:
        other = labels.setdefault(source_label(source), source)
        if other != source:
            yield UsageError(
                f"sources '{other}' and '{source}' have the same label in BIDS",
                where=where,
                fix="Rename one of them.",
            )


@contextlib.contextmanager
def write_tree(
    path: Path, participants: Sequence[str], facts: OutputFacts
) -> Iterator[TreeWriter]:
    """Write a BIDS derivative data set.

    Participants without any input of a source have no file of it. Labels of participants are
    their ids without what BIDS does not allow; ``participants.tsv`` has both.

    Raises
    ------
    Problems
        If ids cannot be told apart any more.
    ResourceError
        If the folder cannot be written.
    """
    rows = read_ids(participants)
    with atomic_folder(path) as root:
        writer = TreeWriter(root, rows, facts)
        yield writer
        writer.finish()


class TreeWriter:
    """Adds the files of predictions to a data set in the making."""

    def __init__(self, root: Path, rows: Sequence[Row], facts: OutputFacts) -> None:
        self.root = root
        self.rows = rows
        self.facts = facts
        self.latents: list[Latents] = []

    def add_latents(self, latents: Latents) -> None:
        """Keep a source's latents: a participant's file has all sources, and is written last."""
        self.latents.append(latents)

    def add_connectomes(self, decoded: Decoded) -> None:
        """Write a source's predictions of a target, a table a participant."""
        names = self._region_names(decoded.target)
        for start, edges in decoded.batches():
            for row, values in enumerate(edges, start):
                if decoded.n_inputs[row]:
                    save_prediction(
                        self.root,
                        session_entities(self.rows[row].participant, self.rows[row].session),
                        source=decoded.source,
                        target=decoded.target,
                        matrix=edges_to_matrix(values, diagonal=diagonal(decoded.target)),
                        provenance=self._provenance(row, decoded.source, decoded.target),
                        region_names=names,
                    )

    def finish(self) -> None:
        """Write latents, what the run was told, and the files at the root."""
        for row, who in enumerate(self.rows):
            present = [item for item in self.latents if item.n_inputs[row]]
            if present:
                provenance = self._model()
                provenance["sources"] = [Path(name).name for name in self.facts.inputs.values()]
                save_latents(
                    self.root,
                    session_entities(who.participant, who.session),
                    sources=[item.source for item in present],
                    n_inputs=[int(item.n_inputs[row]) for item in present],
                    latents=np.stack([item.values[row] for item in present]),
                    provenance=provenance,
                )
        write_json(self.root / "logs" / "prediction.json", self.facts.as_plain())
        self._write_atlases()
        self._write_participants()
        labels = {source_label(source): self._meaning(source) for source in self.facts.sources}
        atlases = {Flavor.parse(target).atlas for target in self.facts.targets}
        write_dataset_files(
            self.root,
            DatasetInfo(
                name=NAME,
                text="Latents and connectomes predicted by the Krakencoder.",
                atlases=tuple(name for name in atlas_names() if name in atlases),
                labels=tuple(labels.items()),
                outputs=("latent", "prediction"),
            ),
        )

    def _meaning(self, source: str) -> str:
        members = self.facts.members(source)
        if members == (source,):
            return f"From {source}"
        return f"From {source}: the mean latent of {', '.join(members)}"

    def _model(self) -> dict[str, Any]:
        return {
            "model_name": self.facts.model_name,
            "model_sha256": self.facts.model_sha256,
            "adaptation": self.facts.adaptation,
        }

    def _provenance(self, row: int, source: str, target: str) -> Mapping[str, Any]:
        """What a sidecar says of the model and of the inputs used."""
        available = self.facts.available
        members = [
            name
            for name in self.facts.members(source)
            if name not in available or available[name][row]
        ]
        members = [name for name in members if not _is_left_out(name, source, target)]
        files = [self.facts.inputs[name] for name in members if name in self.facts.inputs]
        return {
            **self._model(),
            "predicted_from": members,
            "sources": [Path(file).name for file in files],
            "scale": self.facts.scale,
        }

    def _region_names(self, target: str) -> tuple[str, ...]:
        """Names of the regions; numbers in the model's order where the atlas is not known."""
        atlas = Flavor.parse(target).atlas
        if atlas in atlas_names():
            return load_atlas(atlas).region_names
        count = n_regions(self.facts.n_edges[target])
        return tuple(f"region{number:03d}" for number in range(1, count + 1))

    def _write_atlases(self) -> None:
        """Write the tables of regions of atlases that are not known here."""
        for target in self.facts.targets:
            atlas = Flavor.parse(target).atlas
            if atlas in atlas_names():
                continue
            path = self.root / f"atlas-{atlas}_dseg.tsv"
            write_table(path, ("index", "name"), list(enumerate(self._region_names(target), 1)))
            write_json(
                path.with_suffix(".json"),
                {
                    "Description": f"Regions of atlas {atlas} in the order of the model, which "
                    "does not know their names: they are numbered",
                    "index": {"Description": "Place in the matrices, from 1", "Format": "integer"},
                    "name": {"Description": "Name of the region, as in the matrices"},
                },
            )
            write_json(self.root / f"atlas-{atlas}_description.json", {"Name": atlas})

    def _write_participants(self) -> None:
        columns = {
            "participant_id": {"Description": "Participant"},
            "original_id": {"Description": "Id in the input, with all its characters"},
        }
        originals = {row.participant: row.original for row in self.rows}
        cells = [(f"sub-{name}", original) for name, original in originals.items()]
        write_table(self.root / "participants.tsv", tuple(columns), cells)
        write_json(self.root / "participants.json", columns)


def _is_left_out(member: str, source: str, target: str) -> bool:
    """Say whether a variant of a fusion leaves a member out for a target."""
    variant = source.rpartition(".")[2] if "." in source else ""
    if variant == "noself":
        return member == target
    if variant == "noatlas":
        return member.split("_")[1:2] == target.split("_")[1:2]
    return False
