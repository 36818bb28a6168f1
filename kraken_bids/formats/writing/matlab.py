# SPDX-License-Identifier: MIT
"""Predictions as MATLAB files in the layout of the reference program (MAT-file, level 5).

============================  ===================================================================
``checkpoint``                model
``recordfile``                empty
``inputfiles``                files read, a row of characters each
``subjects``                  ids, a row of characters each, padded with blanks
``inputtypes``                sources in this file, likewise; fusions among them
``outputtypes``               targets in this file, likewise; ``encoded`` stands for latents
``predicted_alltypes``        struct of sources, of targets: (n, n_edges) single; with square
                              output a 1 x n cell of (R, R) with a diagonal of NaN
``fusionmode_inputtypes``     struct of fusions: their members; only where there are fusions
============================  ===================================================================

MATLAB keeps arrays column by column and writes the size of a struct before what is in it. All
sizes are known before the first prediction: the file is laid out first, with holes that are
filled in any order, a block of columns at a time. So nothing needs to be held in memory.

References
----------
MAT-File Format, The MathWorks, R2024b: level 5.
"""

from __future__ import annotations

import contextlib
import logging
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...connectome.edges import edges_to_matrix, n_regions
from ...errors import KrakenBIDSError, Problems, UsageError, suggest
from ...storage import atomic_path
from ..outputs import Decoded, Latents, OutputFacts
from .npz import ENCODED

_log = logging.getLogger(__name__)

#: Placeholders of file names and what they stand for; the reference's spellings.
PLACEHOLDERS: dict[str, str] = {
    **dict.fromkeys(("input", "i", "in", "s", "src", "source"), "input"),
    **dict.fromkeys(("output", "o", "out", "t", "trg", "targ", "target"), "output"),
}
#: Bytes decoded at a time: for each batch all weights of a flavor are read, up to 100 MB.
BATCH_BYTES = 32 << 20
#: Bytes that an array, and an element of the file, may have.
MAX_ARRAY_BYTES = 2**31 - 1
MAX_ELEMENT_BYTES = 2**32 - 1
#: Letters that a name of a field may have; one byte more ends it.
MAX_NAME = 63

_INT8, _UINT16, _INT32, _UINT32, _SINGLE, _MATRIX = 1, 4, 5, 6, 7, 14
_CELL_CLASS, _STRUCT_CLASS, _CHAR_CLASS, _SINGLE_CLASS = 1, 2, 4, 7


@dataclass(frozen=True)
class Hole:
    """Room for numbers that come later: of a source and target, and of which participant.

    Parameters
    ----------
    key
        Source, target, and position of the participant; -1 for all.
    n_bytes
        Size.
    """

    key: tuple[str, str, int]
    n_bytes: int


Piece = bytes | Hole


def _size(pieces: Sequence[Piece]) -> int:
    return sum(piece.n_bytes if isinstance(piece, Hole) else len(piece) for piece in pieces)


def _element(kind: int, *content: Piece) -> list[Piece]:
    """Make an element: its kind and size, then what it holds, padded to 8 bytes."""
    size = _size(content)
    # A size that does not fit is told by `check_matlab`; here it must only not break.
    tag = struct.pack("<II", kind, min(size, MAX_ELEMENT_BYTES))
    return [tag, *content, *([bytes(-size % 8)] if size % 8 else [])]


def _array(name: str, kind: int, shape: Sequence[int], *content: Piece) -> list[Piece]:
    """Make an array element; `content` is all that follows its name."""
    flags = _element(_UINT32, struct.pack("<II", kind, 0))
    dimensions = _element(_INT32, struct.pack(f"<{len(shape)}i", *shape))
    return _element(
        _MATRIX, *flags, *dimensions, *_element(_INT8, name.encode("ascii", "replace")), *content
    )


def _text(name: str, rows: Sequence[str]) -> list[Piece]:
    """Make a character array, a row a text, padded with blanks."""
    encoded = [row.encode("utf-16-le") for row in rows]
    width = max([len(row) // 2 for row in encoded], default=0)
    table = np.full((len(encoded), width), ord(" "), dtype="<u2")
    for row, units in zip(table, encoded, strict=True):
        row[: len(units) // 2] = np.frombuffer(units, dtype="<u2")
    return _array(name, _CHAR_CLASS, table.shape, *_element(_UINT16, table.tobytes(order="F")))


def _struct(name: str, fields: Mapping[str, Sequence[Piece]]) -> list[Piece]:
    """Make a struct of 1 x 1; its fields are arrays without a name."""
    width = MAX_NAME + 1
    names = b"".join(field.encode("ascii", "replace").ljust(width, b"\0") for field in fields)
    # Sizes of four bytes or less are packed into the tag.
    length = struct.pack("<HHi", _INT32, 4, width)
    content = [piece for field in fields.values() for piece in field]
    return _array(name, _STRUCT_CLASS, (1, 1), length, *_element(_INT8, names), *content)


def _numbers(key: tuple[str, str, int], shape: tuple[int, int]) -> list[Piece]:
    """Make an array of single numbers that come later."""
    hole = Hole(key, 4 * shape[0] * shape[1])
    return _array("", _SINGLE_CLASS, shape, *_element(_SINGLE, hole))


def _prediction(source: str, target: str, n: int, facts: OutputFacts) -> list[Piece]:
    if target == ENCODED:
        return _numbers((source, target, -1), (n, facts.latent_size))
    if not facts.square:
        return _numbers((source, target, -1), (n, facts.n_edges[target]))
    size = n_regions(facts.n_edges[target])
    cells = [piece for row in range(n) for piece in _numbers((source, target, row), (size, size))]
    return _array("", _CELL_CLASS, (1, n), *cells)


@dataclass(frozen=True)
class MatlabFile:
    """One file to write: where to, and what source and target pairs are in it."""

    path: Path
    pairs: tuple[tuple[str, str], ...]

    def variables(self, participants: Sequence[str], facts: OutputFacts) -> list[list[Piece]]:
        """Lay out all variables."""
        sources = list(dict.fromkeys(source for source, _ in self.pairs))
        targets = list(dict.fromkeys(target for _, target in self.pairs))
        predicted = {
            source: _struct("", {
                target: _prediction(source, target, len(participants), facts)
                for own, target in self.pairs
                if own == source
            })
            for source in sources
        }  # fmt: skip
        fusions = {name: _text("", list(members)) for name, members in facts.fusions.items()}
        return [
            _text("checkpoint", [facts.model_name]),
            _text("recordfile", [""]),
            _text("inputfiles", list(facts.inputs.values())),
            _text("subjects", participants),
            _text("inputtypes", sources),
            _text("outputtypes", targets),
            _struct("predicted_alltypes", predicted),
            *([_struct("fusionmode_inputtypes", fusions)] if fusions else []),
        ]


def plan_files(path: Path, facts: OutputFacts) -> list[MatlabFile]:
    """Deal the predictions out to files, as the placeholders in the name say.

    Examples
    --------
    >>> facts = OutputFacts({"a": 3}, 2, connectomes=[("x", "a"), ("y", "a")], latents=["x"])
    >>> [file.path.name for file in plan_files(Path("to_{output}.mat"), facts)]
    ['to_encoded.mat', 'to_a.mat']
    """
    pairs = [*((source, ENCODED) for source in facts.latents), *facts.connectomes]
    files: dict[Path, list[tuple[str, str]]] = {}
    for source, target in pairs:
        file = path.with_name(_fill_name(path.name, {"input": source, "output": target}))
        files.setdefault(file, []).append((source, target))
    return [MatlabFile(file, tuple(own)) for file, own in files.items()]


def _fill_name(name: str, values: Mapping[str, str]) -> str:
    """Put source and target in the place of placeholders."""
    return re.sub(r"\{(\w+)\}", lambda found: values[PLACEHOLDERS[found[1].lower()]], name)


def check_matlab(path: Path, n_participants: int = 0, facts: OutputFacts | None = None) -> None:
    """Refuse placeholders, names and sizes that a MATLAB file cannot have.

    Raises
    ------
    UsageError
        If a placeholder is unknown, a name is longer than 63 letters or not plain ASCII, or an
        array or struct would be too large.
    """
    for found in re.findall(r"\{(.*?)\}", path.name):
        if found not in PLACEHOLDERS and found.lower() not in {
            name for name in PLACEHOLDERS if name.upper() == found
        }:
            raise UsageError(
                f"placeholder {{{found}}} is unknown",
                where=f"--output {path}",
                fix=suggest(found, ("input", "output")) + ".",
            )
    if facts is None:
        return
    problems: list[KrakenBIDSError] = [
        UsageError(
            f"name '{name}' cannot be that of a field in a MATLAB file",
            where=f"--output {path}",
            fix=f"Use at most {MAX_NAME} plain letters, or an .npz or .h5 file.",
        )
        for name in (*facts.sources, *facts.targets, *facts.fusions)
        if len(name) > MAX_NAME or not name.isascii()
    ]
    problems += _too_large(path, n_participants, facts)
    if problems:
        raise Problems(problems)
    odd = [name for name in facts.sources if not re.fullmatch(r"[A-Za-z]\w*", name)]
    if odd:
        _log.info(
            "MATLAB needs parentheses for these names, as in predicted_alltypes.('%s'): %s",
            odd[0], ", ".join(odd),
        )  # fmt: skip


def _too_large(path: Path, n: int, facts: OutputFacts) -> Iterator[UsageError]:
    """Find arrays and structs beyond the format's limits."""
    for name in facts.targets:
        width = n_regions(facts.n_edges[name]) ** 2 / n if facts.square else facts.n_edges[name]
        if 4 * n * width > MAX_ARRAY_BYTES:
            yield _size_error(f"{name} of {n} participants", 4 * n * width, path, facts)
            return
    for file in plan_files(path, facts):
        largest = max(_size(pieces) for pieces in file.variables([""] * n, facts))
        if largest > MAX_ELEMENT_BYTES:
            yield _size_error(f"predicted_alltypes in {file.path.name}", largest, path, facts)
            return
        if largest > MAX_ARRAY_BYTES:
            _log.warning(
                "%s: predicted_alltypes has %.1f GB; MATLAB itself may refuse more than 2.1 GB: "
                "put {output} into the name to get a file a target",
                file.path, largest / 1e9,
            )  # fmt: skip


def _size_error(what: str, size: float, path: Path, facts: OutputFacts) -> UsageError:
    split = [name for name in ("{output}", "{input}") if name not in path.name]
    several = len(facts.connectomes) + len(facts.latents) > 1
    return UsageError(
        f"{what}: {size / 1e9:.1f} GB are more than a MATLAB file can hold",
        where=f"--output {path}",
        fix=(f"Put {' and '.join(split)} into the name, or give" if split and several else "Give")
        + " an .npz or .h5 file.",
    )


@contextlib.contextmanager
def write_matlab(
    path: Path, participants: Sequence[str], facts: OutputFacts
) -> Iterator[MatlabWriter]:
    """Write the reference's layout, to one file or as many as the placeholders say.

    Raises
    ------
    UsageError
        As `check_matlab`.
    ResourceError
        If a file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        holes: dict[tuple[str, str, int], tuple[Path, int]] = {}
        for file in plan_files(path, facts):
            temporary = stack.enter_context(atomic_path(file.path))
            for key, offset in _lay_out(temporary, file.variables(participants, facts)).items():
                holes[key] = temporary, offset
        writer = MatlabWriter(holes)
        yield writer
        if writer.holes:
            missing = sorted({f"{source} to {target}" for source, target, _ in writer.holes})
            raise ValueError(f"announced, but never handed over: {', '.join(missing)}")


def _lay_out(file: Path, variables: Sequence[Sequence[Piece]]) -> dict[tuple[str, str, int], int]:
    """Write all but the holes; return where they are."""
    holes = {}
    text = b"MATLAB 5.0 MAT-file, written by kraken-model".ljust(116)
    with file.open("wb") as stream:
        stream.write(text + bytes(8) + struct.pack("<H", 0x0100) + b"IM")
        for pieces in variables:
            for piece in pieces:
                if isinstance(piece, Hole):
                    holes[piece.key] = stream.tell()
                    stream.seek(piece.n_bytes, 1)
                else:
                    stream.write(piece)
        stream.truncate()
    return holes


class MatlabWriter:
    """Fills the holes of files that are laid out."""

    def __init__(self, holes: dict[tuple[str, str, int], tuple[Path, int]]) -> None:
        self.holes = holes

    def add_latents(self, latents: Latents) -> None:
        """Write a source's latents."""
        values = np.asarray(latents.values, dtype=np.float32)
        self._fill((latents.source, ENCODED, -1), [values])

    def add_connectomes(self, decoded: Decoded) -> None:
        """Write a source's predictions of a target."""
        key = decoded.source, decoded.target
        if (*key, -1) in self.holes:
            self._fill((*key, -1), _column_batches(decoded))
            return
        for start, rows in decoded.batches():
            for row, edges in enumerate(rows, start):
                self._fill((*key, row), [edges_to_matrix(edges, diagonal=np.nan)])

    def _fill(
        self, key: tuple[str, str, int], blocks: Iterator[NDArray] | Sequence[NDArray]
    ) -> None:
        """Write blocks of columns into a hole."""
        file, offset = self.holes.pop(key)
        with file.open("r+b") as stream:
            stream.seek(offset)
            for block in blocks:
                stream.write(block.astype("<f4", copy=False).tobytes(order="F"))


def _column_batches(decoded: Decoded) -> Iterator[NDArray[np.float32]]:
    """Decode a prediction some edges at a time: (n, k)."""
    n, n_edges = decoded.shape
    size = max(1, BATCH_BYTES // (4 * n))
    for start in range(0, n_edges, size):
        yield decoded.columns(start, min(start + size, n_edges))
