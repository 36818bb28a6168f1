# SPDX-License-Identifier: MIT
"""What lies in a data set, for the pages: nothing is required, nothing is changed."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bids.names import OFF_RECIPE, is_label, marked
from ..bids.prediction_file import find_predictions, read_matrix
from ..bids.predictions import diagonal, source_label
from ..bids.writers import read_connectome
from ..errors import KrakenBIDSError, UsageError
from ..flavors import RECIPES, Flavor
from ..storage import load_json

#: Entities that all files of a session share, or that say what a file is.
_COMMON = frozenset({"sub", "ses", "desc"})
#: A table: a row as column to text.
Rows = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class FoundMatrix:
    """A connectome on disk.

    Parameters
    ----------
    flavor
        What it is.
    file
        Labelled table.
    entities
        Entities of its name.
    known
        Its JSON, where it does not lie beside the table.
    stored_source
        In a file of all predictions of a session: the source that it stands under. Else empty.
    """

    flavor: Flavor
    file: Path
    entities: Mapping[str, str]
    known: Mapping[str, Any] | None = None
    stored_source: str = ""

    @cached_property
    def sidecar(self) -> Mapping[str, Any]:
        """Its JSON, read when it is asked for; empty where there is none."""
        return read_json(self.file.with_suffix(".json")) if self.known is None else self.known

    @property
    def mark(self) -> str:
        """Key of `OFF_RECIPE` of a measured connectome of another pipeline; else empty."""
        desc = self.entities.get("desc", "")
        return desc if desc in OFF_RECIPE and not self.sidecar.get("Predicted", False) else ""

    @property
    def source(self) -> str:
        """What a prediction was made from; empty for a measured connectome."""
        return "" if self.mark else self.entities.get("desc", "")

    def read(self) -> NDArray[np.float64]:
        """Read the matrix, (n_regions, n_regions).

        Raises
        ------
        InputError
            If the file is damaged.
        """
        if not self.stored_source:
            return read_connectome(self.file)[0]
        target = str(self.flavor)
        return read_matrix(
            self.file, source=self.stored_source, target=target, diagonal=diagonal(target)
        )


@dataclass(frozen=True)
class Quality:
    """Quality measures of one series.

    Parameters
    ----------
    entities
        What tells it from others, such as ``task-rest`` and ``run-1``.
    datatype
        ``func`` or ``dwi``.
    values
        Column and text.
    sidecar
        JSON: a description by column, and ``Regions``.
    label
        Label of ``desc-`` of the table.
    """

    entities: tuple[str, ...]
    datatype: str
    values: Mapping[str, str]
    sidecar: Mapping[str, Any]
    label: str = ""

    @property
    def title(self) -> str:
        """What it is, in words."""
        kind = {"func": "functional run", "dwi": "diffusion series"}.get(self.datatype, "series")
        kind = "functional runs combined" if self.is_combined else kind
        return " ".join((kind, *self.entities, *([f"({self.mark})"] if self.mark else ())))

    @property
    def mark(self) -> str:
        """Key of `OFF_RECIPE` where the series was denoised by another pipeline; else empty."""
        return next((mark for mark in OFF_RECIPE if self.label == marked("fc", mark)), "")

    @property
    def is_combined(self) -> bool:
        """Whether these are measures of several runs together."""
        return "n_runs" in self.values

    @property
    def regions(self) -> Mapping[str, Mapping[str, Any]]:
        """Coverage and missing regions by atlas."""
        found = self.sidecar.get("Regions", {})
        return found if isinstance(found, Mapping) else {}

    def number(self, column: str) -> float | None:
        """Value of a column as a number, or None."""
        try:
            return float(self.values[column])
        except (KeyError, ValueError):
            return None

    def description(self, column: str) -> str:
        """What a column means, as its sidecar says."""
        entry = self.sidecar.get(column, {})
        return str(entry.get("Description", "")) if isinstance(entry, Mapping) else str(entry)


@dataclass(frozen=True)
class FoundSession:
    """Everything of one participant in one session.

    Parameters
    ----------
    participant, session
        Labels without prefix.
    measured, predicted
        Connectomes; of several runs of one task the combined one only.
    qualities
        Quality measures of each series.
    figures
        PNG files.
    unreadable
        Files that should have been read and could not, with the reason.
    off_recipe
        Measured connectomes of other pipelines than the models' recipe. They are among
        `measured` only where the recipe's are not there.
    """

    participant: str
    session: str | None
    measured: tuple[FoundMatrix, ...] = ()
    predicted: tuple[FoundMatrix, ...] = ()
    qualities: tuple[Quality, ...] = ()
    figures: tuple[Path, ...] = ()
    unreadable: tuple[str, ...] = field(default=())
    off_recipe: tuple[FoundMatrix, ...] = ()

    @property
    def label(self) -> str:
        """``sub-X`` or ``sub-X_ses-Y``."""
        return f"sub-{self.participant}" + (f"_ses-{self.session}" if self.session else "")

    def matrix(self, flavor: str) -> FoundMatrix | None:
        """The measured connectome of a flavor, or None."""
        return next((found for found in self.measured if str(found.flavor) == flavor), None)


def parse_entities(name: str) -> dict[str, str]:
    """Read the entities of a file name.

    Examples
    --------
    >>> parse_entities("sub-01_task-rest_relmat.tsv")
    {'sub': '01', 'task': 'rest'}
    """
    parts = name.split(".")[0].split("_")[:-1]
    return {key: label for key, dash, label in (part.partition("-") for part in parts) if dash}


def series_entities(name: str) -> tuple[str, ...]:
    """Entities of a file name that tell a series from others of its session.

    Examples
    --------
    >>> series_entities("sub-01_task-rest_run-1_desc-fc_qc.tsv")
    ('task-rest', 'run-1')
    """
    pairs = parse_entities(name).items()
    return tuple(f"{key}-{label}" for key, label in pairs if key not in _COMMON)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty if it is absent or damaged."""
    try:
        content = load_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_rows(file: Path) -> Rows:
    """Read a tab-separated table; empty if it is absent or damaged."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ()
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple({key: cell or "" for key, cell in row.items() if key} for row in rows)


def find_participants(dataset_dir: Path) -> tuple[str, ...]:
    """Labels of the participants that have a folder, in order."""
    labels = (entry.name[4:] for entry in dataset_dir.glob("sub-*") if entry.is_dir())
    return tuple(sorted(filter(is_label, labels)))


def find_sessions(dataset_dir: Path, participant: str) -> tuple[str | None, ...]:
    """Labels of a participant's sessions; ``(None,)`` where there are none."""
    folders = sorted((dataset_dir / f"sub-{participant}").glob("ses-*"))
    labels = (folder.name[4:] for folder in folders if folder.is_dir())
    return tuple(filter(is_label, labels)) or (None,)


def read_session(dataset_dir: Path, participant: str, session: str | None) -> FoundSession:
    """Look at everything of one participant in one session.

    Parameters
    ----------
    dataset_dir
        Root of a data set of measured or predicted connectomes.
    participant, session
        Labels without prefix.
    """
    folder = dataset_dir / f"sub-{participant}"
    figures_dir = folder / "figures"
    if session:
        folder /= f"ses-{session}"
    matrices, unreadable = [], []
    for file in sorted((*folder.glob("func/*_relmat.tsv"), *folder.glob("dwi/*_relmat.tsv"))):
        entities = parse_entities(file.name)
        try:
            flavor = Flavor.from_bids(entities.get("atlas", ""), entities.get("meas", ""))
        except UsageError as error:
            unreadable.append(f"{file.name}: {error}")
            continue
        matrices.append(FoundMatrix(flavor, file, entities))
    stem = f"sub-{participant}_" + (f"ses-{session}_" if session else "")
    for file in folder.glob("*_relmat.h5"):
        try:
            matrices += _stored(file)
        except KrakenBIDSError as error:
            unreadable.append(f"{file.name}: {error}")
    return FoundSession(
        participant,
        session,
        measured=_combined([found for found in matrices if not found.source]),
        predicted=tuple(
            sorted(
                (found for found in matrices if found.source),
                key=lambda found: (*flavor_order(found.flavor), found.source),
            )
        ),
        qualities=tuple(_read_quality(file) for file in _quality_files(folder)),
        figures=tuple(sorted(figures_dir.glob(f"{stem}*.png"))),
        off_recipe=tuple(found for found in matrices if found.mark),
        unreadable=tuple(unreadable),
    )


def _stored(file: Path) -> list[FoundMatrix]:
    """Predictions in the one file of a session."""
    entities = parse_entities(file.name)
    content = read_json(file.with_suffix(".json"))
    own = {
        (one.get("PredictionSource"), one.get("KrakencoderFlavor")): one
        for one in content.pop("Predictions", [])
    }
    found = []
    for source, target in find_predictions(file):
        flavor = Flavor.parse(target)
        labels = {"atlas": flavor.atlas, "meas": flavor.meas, "desc": source_label(source)}
        sidecar = {**content, **own.get((source, target), {})}
        found.append(FoundMatrix(flavor, file, {**entities, **labels}, sidecar, source))
    return found


def _quality_files(folder: Path) -> list[Path]:
    """Tables of quality of a session, the functional ones first."""
    return sorted((*folder.glob("func/*_qc.tsv"), *folder.glob("dwi/*_qc.tsv")),
                  key=lambda file: (file.parent.name != "func", file.name))  # fmt: skip


def _combined(found: list[FoundMatrix]) -> tuple[FoundMatrix, ...]:
    """One connectome a flavor: the combined one where runs were combined, else the first."""
    chosen: dict[Flavor, FoundMatrix] = {}
    for matrix in found:
        held = chosen.get(matrix.flavor)
        if held is None or _rank(matrix) < _rank(held):
            chosen[matrix.flavor] = matrix
    return tuple(chosen[flavor] for flavor in sorted(chosen, key=flavor_order))


def _rank(matrix: FoundMatrix) -> tuple[str, int]:
    """The recipe's before other pipelines', then fewer entities that tell runs of a task apart."""
    return matrix.mark, len({"run", "dir"} & set(matrix.entities))


def flavor_order(flavor: Flavor) -> tuple[int, str, int]:
    """Sort by size of the atlas, then kind."""
    size = int("0" + re.sub(r"\D", "", flavor.atlas))
    return size, flavor.atlas, list(RECIPES.values()).index(flavor.recipe)


def _read_quality(file: Path) -> Quality:
    rows = read_rows(file)
    return Quality(
        entities=series_entities(file.name),
        datatype=file.parent.name,
        values=rows[0] if rows else {},
        sidecar=read_json(file.with_suffix(".json")),
        label=parse_entities(file.name).get("desc", ""),
    )
