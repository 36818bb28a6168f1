# SPDX-License-Identifier: MIT
"""Where published atlases and models are on this machine.

Folders are looked through in order: those of the environment variable ``KRAKEN_BIDS_RESOURCES``
(several with ``:`` between), then ``kraken-bids`` in the user's cache, then the folder that the
reference program downloads to, of which nothing is changed. What is missing is fetched into the
first of ours that can be written to.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .atlases import Atlas, PublishedFile, atlas_names, default_atlas_names, load_atlas
from .download import JOBS, Progress, copy_verified, fetch, is_verified
from .errors import ResourceError, UsageError, suggest
from .flavors import Flavor
from .published import (
    published_extras,
    published_files,
    published_flavors,
    published_models,
)

_log = logging.getLogger(__name__)

RESOURCES_VARIABLE = "KRAKEN_BIDS_RESOURCES"
#: Names the folder of the reference program's downloads.
REFERENCE_VARIABLE = "KRAKENCODER_DATA"
#: A folder with this file is a bundle.
BUNDLE_CONFIG = "config.json"


@dataclass(frozen=True)
class Fetchable:
    """What ``kraken-model fetch`` takes by name.

    Parameters
    ----------
    name, description
        As listed.
    files
        What is fetched.
    is_model
        Whether a bundle is made of them.
    """

    name: str
    description: str
    files: tuple[PublishedFile, ...]
    is_model: bool = False


def resource_dirs() -> tuple[Path, ...]:
    """Folders that may hold atlases and models, the first to look through first."""
    named = [part for part in os.environ.get(RESOURCES_VARIABLE, "").split(os.pathsep) if part]
    folders = [Path(part).expanduser().absolute() for part in named]
    if cache := _cache_dir():
        folders.append(cache / "kraken-bids")
    return tuple(dict.fromkeys(folders))


def _cache_dir() -> Path | None:
    """The user's folder of caches."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if cache:
        return Path(cache)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # no home, as in some containers
        return None


def search_dirs(folder: Path | None = None) -> tuple[Path, ...]:
    """Folders to look for a published file in; the reference program's comes last.

    Parameters
    ----------
    folder
        Looked through first.
    """
    cache = _cache_dir()
    reference = os.environ.get(REFERENCE_VARIABLE, "")
    if reference:
        last = [Path(reference).expanduser().absolute()]
    else:
        last = [cache / "krakencoder" / "model_data"] if cache else []
    return tuple(dict.fromkeys([*([folder] if folder else []), *resource_dirs(), *last]))


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
    files: Sequence[PublishedFile],
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    jobs: int = JOBS,
) -> tuple[Path, ...]:
    """Where published files are; those that are nowhere are fetched.

    Parameters
    ----------
    files
        What to find.
    folder
        Looked through before all others, and where to fetch to.
    progress, jobs
        As for `fetch`.

    Raises
    ------
    ResourceError
        If one is neither there nor can be fetched; the others are fetched first.
    """
    found = {file: path for file in files if (path := held_file(file, search_dirs(folder)))}
    missing = [file for file in dict.fromkeys(files) if file not in found]
    if missing:
        paths = fetch(missing, folder or resource_dir(), progress=progress, jobs=jobs)
        found |= dict(zip(missing, paths, strict=True))
    return tuple(found[file] for file in files)


def copy_files(files: Sequence[PublishedFile], folder: Path) -> None:
    """Copy into a folder those of the files that are verified in another one.

    Raises
    ------
    ResourceError
        If the folder cannot be written.
    """
    for file in files:
        held = held_file(file, search_dirs(folder))
        if held is None or held.parent == folder:
            continue
        _log.info("copying %s", held)
        copy_verified(file, held, folder)


def held_file(file: PublishedFile, folders: Sequence[Path]) -> Path | None:
    """The first verified copy of a file."""
    for path in (folder / file.name for folder in folders):
        if is_verified(path, file.sha256):
            return path
        if path.exists():
            _tell_altered(path)
    return None


@functools.cache
def _tell_altered(path: Path) -> None:
    """Warn of a file, once."""
    _log.warning("%s is not the published file (SHA-256 differs): left aside", path)


def held_bundle(name: str, folder: Path | None = None) -> Path | None:
    """Where the bundle of a published model is.

    Parameters
    ----------
    name
        Of the model.
    folder
        The only one to look in, in place of `resource_dirs`.
    """
    for kept in (folder,) if folder else resource_dirs():
        if (kept / name / BUNDLE_CONFIG).is_file():
            return kept / name
    return None


def find_atlas_file(atlas: Atlas, role: str) -> Path:
    """Where a published image of an atlas is; fetched if need be.

    Parameters
    ----------
    atlas, role
        One of ``atlas.files``.

    Raises
    ------
    UsageError
        If the atlas has no published image of that role.
    ResourceError
        If the file is neither there nor can be fetched.
    """
    return find_files([_published_image(atlas, role)])[0]


def held_atlas_file(atlas: Atlas, role: str) -> Path | None:
    """Where a published image of an atlas is on this machine; None if it would be fetched.

    Parameters
    ----------
    atlas, role
        As for `find_atlas_file`.

    Raises
    ------
    UsageError
        If the atlas has no published image of that role.
    """
    return held_file(_published_image(atlas, role), search_dirs())


def _published_image(atlas: Atlas, role: str) -> PublishedFile:
    file = atlas.file(role)
    if file is None:
        known = [name for name, _ in atlas.files]
        raise UsageError(
            f"atlas {atlas.name} has no published image '{role}'",
            where=f"source: {atlas.source}",
            fix=suggest(role, known) + "." if known else "Give a FreeSurfer segmentation.",
        )
    return file


def fetchable() -> dict[str, Fetchable]:
    """What ``kraken-model fetch`` lists: models, atlases with images, and further files."""
    atlases = [load_atlas(name) for name in atlas_names() if load_atlas(name).files]
    rows = [
        *(Fetchable(m.name, m.description, m.files, True) for m in published_models().values()),
        *(Fetchable(a.name, a.description, tuple(dict(a.files).values())) for a in atlases),
        *(Fetchable(e.name, e.description, e.files) for e in published_extras().values()),
    ]
    return {row.name: row for row in rows}


def fetchable_by_name(name: str) -> Fetchable:
    """What a name stands for: one of `fetchable`, or a file's exact name.

    Raises
    ------
    UsageError
        If it is none of them.
    """
    listed = fetchable()
    if name in listed:
        return listed[name]
    if name in published_files():
        return Fetchable(name, "one file", (published_files()[name],))
    raise UsageError(f"'{name}' cannot be fetched", fix=suggest(name, listed) + ".")


def fetchable_flavor(name: str) -> Fetchable:
    """What a published flavor needs: checkpoint and transform.

    Raises
    ------
    UsageError
        If no published model has the flavor.
    """
    row = published_flavors().get(str(Flavor.parse(name)))
    if row is None:
        raise UsageError(
            f"no published model has the flavor '{name}'",
            where="--flavors",
            fix=suggest(name, published_flavors()) + ".",
        )
    return Fetchable(name, f"of {row.model}", row.files)


def template_atlases() -> tuple[str, ...]:
    """Names of the default atlases with published images."""
    return tuple(name for name in default_atlas_names() if load_atlas(name).files)
