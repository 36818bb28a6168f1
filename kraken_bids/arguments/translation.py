# SPDX-License-Identifier: MIT
"""Options of the Krakencoder."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path

from ..errors import KrakenBIDSError, UsageError, suggest
from ..flavors import Flavor
from ..settings import Settings, TranslationOptions
from .values import Reader, read_pairs

_log = logging.getLogger(__name__)

#: Files that predicted connectomes are written to: tables, or one HDF5 file a session.
RELMAT_FORMATS = ("tsv", "h5")


#: Values of ``--adaptation`` other than a file.
ADAPTATION_MODES = ("none", "meanshift", "meanfit", "meanfit+meanshift")


def read_translation(n: argparse.Namespace, reader: Reader) -> TranslationOptions:
    """How the Krakencoder is used."""

    def adaptation() -> str:
        if n.adaptation in ADAPTATION_MODES:
            return str(n.adaptation)
        if n.adaptation == "meanfitshift":
            return "meanfit+meanshift"
        path = Path(n.adaptation).expanduser().absolute()
        if path.is_file():
            return str(path)
        raise UsageError(
            f"'{n.adaptation}' is neither a mode nor a file",
            where="--adaptation",
            fix=suggest(n.adaptation, ADAPTATION_MODES) + ".",
        )

    def fusions() -> tuple[tuple[str, tuple[str, ...]], ...]:
        pairs = read_pairs(n.fusion, "--fusion")
        for name, _ in pairs:
            if not name.isalnum():
                raise UsageError(
                    f"'{name}' cannot be the name of a fusion",
                    where="--fusion",
                    fix="Use letters and digits only.",
                )
        return tuple((name, tuple(members.split(","))) for name, members in pairs)

    def label() -> str:
        name = n.output_label or Path(n.model or "krakencoder-2024").name
        label = re.sub(r"[^A-Za-z0-9]", "", name)
        if n.output_label and label != n.output_label:
            raise UsageError(
                f"'{n.output_label}' cannot be part of a folder's name",
                where="--output-label",
                fix="Use letters and digits only.",
            )
        return label.removeprefix("krakencoder") or "default"

    def device() -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", n.device):
            raise UsageError(
                f"device '{n.device}' is unknown",
                where="--device",
                fix="Give auto, cpu, cuda or cuda:0.",
            )
        return str(n.device)

    def relmat_format() -> str:
        if n.relmat_format not in RELMAT_FORMATS:  # a configuration may say anything
            raise UsageError(
                f"'{n.relmat_format}' is no format of connectomes",
                where="--relmat-format",
                fix=suggest(str(n.relmat_format), RELMAT_FORMATS) + ".",
            )
        return str(n.relmat_format)

    return TranslationOptions(
        model_dir=reader.read(lambda: _model_dir(n), None),
        adaptation=reader.read(adaptation, "none"),
        adapt_by=n.adapt_by,
        fusions=reader.read(fusions, ()),
        predict_from=tuple(n.predict_from),
        predict_to=reader.read(
            lambda: tuple(str(Flavor.parse(name)) for name in n.predict_to), ()
        ),
        label=reader.read(label, "default"),
        device=reader.read(device, "auto"),
        relmat_format=reader.read(relmat_format, "tsv"),
    )


def _model_dir(n: argparse.Namespace) -> Path | None:
    """Where the model is; fetched by name. None where no model is used, or fetched only later."""
    translates = n.level == "group" or (n.model and n.adaptation not in ADAPTATION_MODES[1:])
    if not translates or (n.level == "participant" and n.status):
        return None
    from ..model.pretrained import find_held_model, find_model

    folder = Path(n.model_dir).expanduser().absolute() if n.model_dir else None
    name = n.model or "krakencoder-2024"
    if n.status or n.dry_run:
        return find_held_model(name, folder=folder)
    return find_model(name, folder=folder)


def compared_model_dir(n: argparse.Namespace, settings: Settings) -> Path | None:
    """The model that measured connectomes are compared with: never fetched, never required."""
    given = settings.translation.model_dir
    if given is not None or n.level == "group" or n.status:
        return given
    from ..model.pretrained import find_held_model

    folder = Path(n.model_dir).expanduser().absolute() if n.model_dir else None
    try:
        return find_held_model(n.model or "krakencoder-2024", folder=folder)
    except KrakenBIDSError as error:
        _log.warning("measured connectomes are not compared with a model: %s", error)
        return None
