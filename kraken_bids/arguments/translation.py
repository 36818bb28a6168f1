# SPDX-License-Identifier: MIT
"""Options of the Krakencoder."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
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


def read_translation(
    n: argparse.Namespace, reader: Reader, *, flavors: Sequence[str], bids_dir: Path
) -> TranslationOptions:
    """How the Krakencoder is used.

    Parameters
    ----------
    n
        Parsed arguments.
    reader
        Notes what is wrong, of the model and the adaptation that the participant level uses, too.
    flavors
        Those asked for; empty: all.
    bids_dir
        Its ``participants.tsv`` may tell sites apart.
    """
    n_problems = len(reader.problems)

    def adaptation() -> str:
        if _adaptation_mode(n):
            return _adaptation_mode(n)
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

    options = TranslationOptions(
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
    if (
        n.level == "participant"
        and options.model_dir is not None
        and len(reader.problems) == n_problems  # else it would be held against what was not meant
        and not (n.reports_only or n.boilerplate_only)
    ):
        from ..run_single import check_options

        file = bids_dir / "participants.tsv"
        reader.read(lambda: check_options(options, flavors=flavors, participants_file=file), None)
    return options


def _adaptation_mode(n: argparse.Namespace) -> str:
    """The mode that ``--adaptation`` names; empty if it names none, but maybe a file."""
    name = "meanfit+meanshift" if n.adaptation == "meanfitshift" else str(n.adaptation)
    return name if name in ADAPTATION_MODES else ""


def _needs_cohort(n: argparse.Namespace) -> bool:
    """Whether the adaptation has to be fitted, which the group level alone does."""
    return _adaptation_mode(n) in ADAPTATION_MODES[1:]


def _model_dir(n: argparse.Namespace) -> Path | None:
    """Where the model is; fetched by name. None where no model is used, or fetched only later."""
    translates = n.level == "group" or (n.model and not _needs_cohort(n))
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
    found = None
    try:
        found = find_held_model(n.model or "krakencoder-2024", folder=folder)
    except KrakenBIDSError as error:
        _log.warning("measured connectomes are not compared with a model: %s", error)
    if n.model and _needs_cohort(n) and not (n.reports_only or n.boilerplate_only):
        _log.info(
            "--model %s: no predictions at this level, the group level makes them; those of "
            "single participants need --adaptation FILE, fitted on an earlier cohort, or none%s",
            n.model,
            ". Here the model is used for training_mean_r only" if found else "",
        )
    return found
