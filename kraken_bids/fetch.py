# SPDX-License-Identifier: MIT
"""Where published atlases and models are on this machine.

Folders are looked through in order: those of the environment variable ``KRAKEN_BIDS_RESOURCES``
(several with ``:`` between), then ``kraken-bids`` in the user's cache. What is missing is fetched
into the first of them that can be written to.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .atlases import Atlas, PublishedFile, atlas_names, load_atlas
from .download import Progress, fetch, is_verified
from .errors import ResourceError, UsageError, suggest

_log = logging.getLogger(__name__)

RESOURCES_VARIABLE = "KRAKEN_BIDS_RESOURCES"
#: The model of Jamison et al., Nature Methods (2025), with all flavors of its main experiment.
DEFAULT_MODEL = "krakencoder-2024"


@dataclass(frozen=True)
class PublishedModel:
    """A model of the reference program that can be fetched.

    Parameters
    ----------
    name, description
        As listed by ``kraken-model fetch --list``.
    checkpoints, transforms
        Its files.
    """

    name: str
    description: str
    checkpoints: tuple[PublishedFile, ...]
    transforms: tuple[PublishedFile, ...]

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """All files."""
        return self.checkpoints + self.transforms


@functools.cache
def published_models() -> Mapping[str, PublishedModel]:
    """Models by name, from ``data/models.json``."""
    table = json.loads(
        (resources.files("kraken_bids") / "data" / "models.json").read_text("utf-8")
    )

    def files(names: Sequence[str]) -> tuple[PublishedFile, ...]:
        rows = [table["files"][name] for name in names]
        return tuple(
            PublishedFile(name, row["url"], row["sha256"], tuple(row["mirrors"]))
            for name, row in zip(names, rows, strict=True)
        )

    return {
        name: PublishedModel(
            name, row["description"], files(row["checkpoints"]), files(row["transforms"])
        )
        for name, row in table["models"].items()
    }


def resource_dirs() -> tuple[Path, ...]:
    """Folders that may hold atlases and models, the first to look through first."""
    named = [part for part in os.environ.get(RESOURCES_VARIABLE, "").split(os.pathsep) if part]
    folders = [Path(part).expanduser().absolute() for part in named]
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not cache:
        try:
            cache = str(Path.home() / ".cache")
        except RuntimeError:  # no home, as in some containers
            cache = ""
    if cache:
        folders.append(Path(cache) / "kraken-bids")
    return tuple(dict.fromkeys(folders))


def resource_dir() -> Path:
    """First of `resource_dirs` that can be written to; it need not be there yet.

    Raises
    ------
    ResourceError
        If there is none.
    """
    folders = resource_dirs()
    for folder in folders:
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return folder
    raise ResourceError(
        "there is no folder to keep atlases and models in",
        where=", ".join(str(folder) for folder in folders) or "no home folder",
        fix=f"Set {RESOURCES_VARIABLE} to a folder that you may write to.",
    )


def find_files(
    files: Sequence[PublishedFile], *, folder: Path | None = None, progress: Progress | None = None
) -> tuple[Path, ...]:
    """Where published files are; those that are nowhere are fetched.

    Parameters
    ----------
    files
        What to find.
    folder
        Looked through before `resource_dirs`, and where to fetch to.
    progress
        As for `fetch`.

    Raises
    ------
    ResourceError
        If one is neither there nor can be fetched.
    """
    folders = ((folder,) if folder else ()) + resource_dirs()
    found = {file: path for file in files if (path := _held(file, folders))}
    missing = [file for file in files if file not in found]
    if missing:
        paths = fetch(missing, folder or resource_dir(), progress=progress)
        found |= dict(zip(missing, paths, strict=True))
    return tuple(found[file] for file in files)


def _held(file: PublishedFile, folders: Sequence[Path]) -> Path | None:
    """The first verified copy."""
    for path in (folder / file.name for folder in folders):
        if is_verified(path, file.sha256):
            return path
        if path.exists():
            _log.warning("%s is not the published file (SHA-256 differs): left aside", path)
    return None


def find_atlas_file(atlas: Atlas, role: str) -> Path:
    """Published image of an atlas.

    Parameters
    ----------
    atlas
        See `load_atlas`.
    role
        ``labels``, or ``volumes`` where there is one.

    Raises
    ------
    UsageError
        If the atlas has no published image of that role.
    ResourceError
        If the file is neither there nor can be fetched.
    """
    file = atlas.file(role)
    if file is None:
        known = [name for name, _ in atlas.files]
        raise UsageError(
            f"atlas {atlas.name} has no published image '{role}'",
            where=f"source: {atlas.source}",
            fix=suggest(role, known) + "." if known else "Give a FreeSurfer segmentation.",
        )
    return find_files([file])[0]


def fetchable() -> dict[str, str]:
    """Names that ``kraken-model fetch`` knows, and what they are."""
    models = {name: model.description for name, model in published_models().items()}
    return models | {name: load_atlas(name).description for name in template_atlases()}


def template_atlases() -> tuple[str, ...]:
    """Names of the atlases with published images."""
    return tuple(name for name in atlas_names() if load_atlas(name).files)
