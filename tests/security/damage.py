# SPDX-License-Identifier: MIT
"""Ways to damage a file, and a trial of its reader.

A kind of file is a function that writes a whole one into a folder and gives the reading of it. It
is read whole once, then damaged in many ways, at random but alike in every run. To be done in a
child process with little memory and time: a crash of a library below, a traceback, a hang and an
allocation without end are then all told.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kraken_bids.errors import KrakenBIDSError

#: Bytes that reading a file of some kilobytes may add to the memory of a process.
MEMORY_BYTES = 256 << 20
#: Damages a file; more may be asked for, to look for what a few do not find.
N_DAMAGES = int(os.environ.get("KRAKEN_FUZZ", "40"))

Read = Callable[[], object]
#: Writes a whole file of some kind into a folder; gives the file, and how it is read.
Make = Callable[[Path], tuple[Path, Read]]


NUMBERS = tuple(
    bytes.fromhex(digits)
    for digits in (
        "ffffffff", "ffffff7f", "7fffffff", "00000000", "00000080", "ffffffffffffffff",
        "ffffffffffffff7f", "7fffffffffffffff", "0000c07f", "01000000",
    )
)  # fmt: skip
WORDS = (
    "nan", "-inf", "1e999", "-1", "9" * 400, "", "\0", "\n", "\r", "\t", "☃", "\u202e", "n/a",
    "null", '"', "'", "{", "}", "[" * 200, ":", ",", "0x10", "1e308", "9" * 5000, "-0", "()",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x", "☃\n\t", "../..",
    [], {}, [None], [[1, 2], [3]], {"a": {"b": []}}, "9" * 5000, [[]] * 50, -(2**63), "\0",
    ["x"] * 3, {"Name": None}, [{}], 10**400, "\ud800",
)  # fmt: skip


def flip(rng: np.random.Generator, content: bytes) -> bytes:
    """Some bits turned around."""
    raw = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    return bytes(raw)


def cut(rng: np.random.Generator, content: bytes) -> bytes:
    """The beginning only."""
    return content[: rng.integers(len(content))]


def overwrite(rng: np.random.Generator, content: bytes) -> bytes:
    """An absurd number in one place, mostly near the beginning, where headers are."""
    number = NUMBERS[rng.integers(len(NUMBERS))]
    end = len(content) if rng.random() < 0.5 else min(len(content), 600)
    place = int(rng.integers(max(end, 1)))
    if rng.random() < 0.7:
        place -= place % 2
    return content[:place] + number + content[place + len(number) :]


def shuffle(rng: np.random.Generator, content: bytes) -> bytes:
    """A piece left out, or written twice."""
    first, last = sorted(rng.integers(len(content) + 1, size=2))
    if rng.random() < 0.5:
        return content[:first] + content[last:]
    return content[:last] + content[first:]


def spoil_words(rng: np.random.Generator, content: bytes) -> bytes:
    """Another word in place of one."""
    text = content.decode("utf-8", "replace")
    words = list(re.finditer(r"[^\s,:;\"{}\[\]]+", text))
    if not words:
        return content
    word = words[rng.integers(len(words))]
    other = WORDS[rng.integers(len(WORDS))]
    return (text[: word.start()] + other + text[word.end() :]).encode("utf-8", "replace")


def spoil_json(rng: np.random.Generator, content: bytes) -> bytes:
    """Another value in place of one, somewhere in the tree; or nests without end."""
    try:
        tree = json.loads(content)
    except ValueError:
        return spoil_words(rng, content)
    if rng.random() < 0.1:
        return b'{"a":' * 100_000 if rng.random() < 0.5 else b"[" * 100_000 + b"]" * 100_000
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    if isinstance(tree, (dict, list)):
        walk(tree)
    value = VALUES[rng.integers(len(VALUES))]
    if not places or rng.random() < 0.05:
        return json.dumps(value).encode()
    node, key = places[rng.integers(len(places))]
    if isinstance(node, dict) and rng.random() < 0.2:
        del node[key]
    else:
        node[key] = value
    return json.dumps(tree).encode()


BINARY = (flip, cut, overwrite, overwrite, shuffle)
TEXT = (flip, cut, shuffle, spoil_words, spoil_words)


def damage(rng: np.random.Generator, content: bytes) -> bytes:
    """Damage a file, or what is packed into it."""
    if not content:
        return b"\0" * int(rng.integers(1, 9))
    inside = rng.random() < 0.7
    if content[:2] == b"\x1f\x8b" and inside:
        return gzip.compress(damage(rng, gzip.decompress(content)), 1)
    if content[:4] == b"PK\3\4" and inside:
        return _damage_member(rng, content)
    if content[:1] in b"{[":
        ways: tuple[Any, ...] = (flip, cut, spoil_json, spoil_json, spoil_json, spoil_json)
    elif _is_text(content):
        ways = TEXT
    else:
        ways = BINARY
    return ways[rng.integers(len(ways))](rng, content)


def _is_text(content: bytes) -> bool:
    try:
        return content.decode("utf-8").isprintable() or b"\0" not in content
    except UnicodeDecodeError:
        return False


def _damage_member(rng: np.random.Generator, content: bytes) -> bytes:
    """An archive with one member damaged, renamed, left out or doubled."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    place = int(rng.integers(len(members)))
    names = [info.filename for info, _ in members]
    way = rng.random()
    if way < 0.7:
        members[place] = (members[place][0], damage(rng, members[place][1]))
    elif way < 0.8:
        names[place] = ("../../escaped", "/tmp/escaped", "a\nb", "x" * 300)[rng.integers(4)]
    elif way < 0.9:
        del members[place], names[place]
    else:
        names.append(names[place])
        members.append(members[place])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two members of one name are meant
        for name, (info, inside) in zip(names, members, strict=True):
            archive.writestr(name, inside, compress_type=info.compress_type)
    return buffer.getvalue()


def read_damaged(kind: str, make: Make, folder: Path, *, is_refused: bool = True) -> list[str]:
    """Read a file after every damage; give what came out and was not in our words.

    With `is_refused`, some damage has to be noticed.
    """
    path, read = make(folder)
    whole = path.read_bytes()
    read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong, n_refused = [], 0
    for seed in range(N_DAMAGES):
        rng = np.random.default_rng([seed, *kind.encode()])
        path.write_bytes(damage(rng, whole))
        try:
            with np.errstate(all="ignore"):
                read()
        except KrakenBIDSError:
            n_refused += 1
        except BaseException as error:  # noqa: BLE001 (that is what is looked for)
            place = traceback.extract_tb(error.__traceback__)
            ours = [
                f"{one.filename}:{one.lineno}" for one in place if "kraken_bids/" in one.filename
            ]
            wrong.append(f"seed {seed}: {error!r:.200} at {ours[-1:]}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > MEMORY_BYTES:
        wrong.append(f"took {grown >> 20} MB")
    if is_refused and not n_refused:
        wrong.append("no damage was noticed")
    return wrong
