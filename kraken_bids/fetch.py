# SPDX-License-Identifier: MIT
"""Where published atlases and models are on this machine, and ``kraken-model fetch``.

Folders are looked through in order: those of the environment variable ``KRAKEN_BIDS_RESOURCES``
(several with ``:`` between), then ``kraken-bids`` in the user's cache. What is missing is fetched
into the first of them that can be written to.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .atlases import Atlas, PublishedFile, atlas_names, load_atlas
from .download import BLOCK_BYTES, Progress, fetch, is_verified
from .errors import ResourceError, UsageError, suggest

_log = logging.getLogger(__name__)

RESOURCES_VARIABLE = "KRAKEN_BIDS_RESOURCES"
#: The model of Jamison et al., Nature Methods (2025), with all flavors of its main experiment.
DEFAULT_MODEL = "krakencoder-2024"
#: What makes a folder a bundle.
_BUNDLE_FILE = "config.json"


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


def find_model(
    name_or_dir: str | Path, *, folder: Path | None = None, progress: Progress | None = None
) -> Path:
    """Folder of a bundle.

    Parameters
    ----------
    name_or_dir
        A folder with a bundle, or the name of a published model, which is fetched and converted
        the first time.
    folder
        Where bundles are kept, in place of `resource_dirs`.
    progress
        As for `fetch`.

    Raises
    ------
    UsageError
        If it is neither.
    ResourceError
        If the folder holds no bundle, or the model's files cannot be fetched.
    """
    given = Path(name_or_dir).expanduser()
    if given.is_dir():
        if not (given / _BUNDLE_FILE).is_file():
            raise ResourceError(
                f"is no model bundle: it has no {_BUNDLE_FILE}",
                where=str(given),
                fix="Give a folder that kraken-model convert, train or fetch has made.",
            )
        return given.absolute()
    model = published_models().get(str(name_or_dir))
    if model is None:
        raise UsageError(
            f"model '{name_or_dir}' is neither a folder nor the name of a published model",
            where="--model",
            fix=suggest(str(name_or_dir), published_models()) + ".",
        )
    for kept in (folder,) if folder else resource_dirs():
        if (kept / model.name / _BUNDLE_FILE).is_file():
            return kept / model.name
    return _make_bundle(model, folder or resource_dir(), progress=progress)


def _make_bundle(model: PublishedModel, folder: Path, *, progress: Progress | None) -> Path:
    """Find or fetch the files of a model and convert them."""
    from .model.bundle import convert_checkpoint

    paths = find_files(model.files, folder=folder, progress=progress)
    n_checkpoints = len(model.checkpoints)
    _log.info("converting %s into %s", model.name, folder / model.name)
    convert_checkpoint(
        paths[:n_checkpoints], paths[n_checkpoints:], folder / model.name, name=model.name
    )
    return folder / model.name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``kraken-model fetch``."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help=f"models and atlases (default: {DEFAULT_MODEL} and all atlases)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="say what can be fetched, and stop")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help=f"where to (default: the first writable folder of ${RESOURCES_VARIABLE}, else the "
        "user's cache)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``kraken-model fetch``; the paths of what was fetched go to standard output."""
    if arguments.list:
        sys.stdout.writelines(f"{name}\t{text}\n" for name, text in fetchable().items())
        return 0
    names = arguments.names or [DEFAULT_MODEL, *_template_atlases()]
    unknown = [name for name in names if name not in fetchable()]
    if unknown:
        raise UsageError(
            f"'{unknown[0]}' cannot be fetched", fix=suggest(unknown[0], fetchable()) + "."
        )
    folder = arguments.output.expanduser().absolute() if arguments.output else resource_dir()
    for name in names:
        if name in published_models():
            paths = [find_model(name, folder=folder, progress=log_progress)]
        else:
            files = [file for _, file in load_atlas(name).files]
            paths = list(fetch(files, folder, progress=log_progress))
        sys.stdout.writelines(f"{path}\n" for path in paths)
    return 0


def fetchable() -> dict[str, str]:
    """Names that ``kraken-model fetch`` knows, and what they are."""
    models = {name: model.description for name, model in published_models().items()}
    return models | {name: load_atlas(name).description for name in _template_atlases()}


def _template_atlases() -> tuple[str, ...]:
    return tuple(name for name in atlas_names() if load_atlas(name).files)


def log_progress(name: str, done: int, total: int | None) -> None:
    """Log a line at every tenth of a file, or every 64 MB where its size is unknown."""
    step = max(total / 10, 1) if total else 64e6
    block = min(BLOCK_BYTES, done)
    if done // step > (done - block) // step:
        share = f"{done / total:.0%}" if total else f"{done / 1e6:.0f} MB"
        _log.info("%s: %s", name, share)
