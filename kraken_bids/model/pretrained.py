# SPDX-License-Identifier: MIT
"""Models by name or folder: published ones are fetched and converted the first time."""

from __future__ import annotations

import logging
from pathlib import Path

from ..download import Progress
from ..errors import ResourceError, UsageError, suggest
from ..fetch import BUNDLE_CONFIG, find_files, held_bundle, resource_dir
from ..published import PublishedModel, published_models
from .bundle import convert_checkpoint

_log = logging.getLogger(__name__)


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
    found = find_held_model(name_or_dir, folder=folder)
    return found or _make_bundle(
        published_models()[str(name_or_dir)], folder or resource_dir(), progress=progress
    )


def find_held_model(name_or_dir: str | Path, *, folder: Path | None = None) -> Path | None:
    """Folder of a bundle that is on this machine; None for a published model that is not yet.

    Parameters
    ----------
    name_or_dir, folder
        As for `find_model`.

    Raises
    ------
    UsageError
        If it is neither a folder nor the name of a published model.
    ResourceError
        If the folder holds no bundle.
    """
    given = Path(name_or_dir).expanduser()
    if given.is_dir():
        if not (given / BUNDLE_CONFIG).is_file():
            raise ResourceError(
                f"is no model bundle: it has no {BUNDLE_CONFIG}",
                where=str(given),
                fix="Give a folder that kraken-model convert, train or fetch has made.",
            )
        return given.absolute()
    if str(name_or_dir) not in published_models():
        raise UsageError(
            f"model '{name_or_dir}' is neither a folder nor the name of a published model",
            where="--model",
            fix=suggest(str(name_or_dir), published_models()) + ".",
        )
    return held_bundle(str(name_or_dir), folder)


def _make_bundle(model: PublishedModel, folder: Path, *, progress: Progress | None) -> Path:
    """Find or fetch the files of a model and convert them."""
    paths = find_files(model.files, folder=folder, progress=progress)
    n_checkpoints = len(model.checkpoints)
    _log.info("converting %s into %s", model.name, folder / model.name)
    convert_checkpoint(
        paths[:n_checkpoints], paths[n_checkpoints:], folder / model.name, name=model.name
    )
    return folder / model.name
