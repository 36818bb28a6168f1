# SPDX-License-Identifier: MIT
"""``kraken-model predict``: files of connectomes to predicted connectomes and latents."""

from __future__ import annotations

import argparse
import logging
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .options import add_model_arguments, open_model, parse_pairs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..connectome.adaptation import Adaptation
    from ..model.bundle import Bundle

    Rows = dict[str, NDArray[np.float32]]

_log = logging.getLogger(__name__)

#: Target that stands for the latents themselves.
ENCODED = "encoded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``predict``."""
    add_model_arguments(parser)
    data = parser.add_argument_group("connectomes")
    data.add_argument(
        "--input", nargs="+", required=True, metavar="FLAVOR=FILE",
        help=".mat, .npy or .npz, a flavor each; participants are matched by id; "
        "'encoded=FILE' for latents",
    )  # fmt: skip
    data.add_argument(
        "--adaptation", default="none", metavar="MODE|FILE",
        help="none, meanshift, meanfit, meanfit+meanshift, or a fitted file (default: none)",
    )  # fmt: skip
    data.add_argument(
        "--adaptation-source", nargs="+", default=[], metavar="FLAVOR=FILE",
        help="fit the adaptation on these connectomes in place of the inputs",
    )  # fmt: skip

    what = parser.add_argument_group("what to predict")
    what.add_argument(
        "--fusion", nargs="+", default=[], metavar="NAME=MEMBERS",
        help="mean of latents; MEMBERS are flavors, all, SC, FC or an atlas, with commas between",
    )  # fmt: skip
    what.add_argument("--fusion-normalize", action="store_true", help="fused latents of length 1")
    what.add_argument(
        "--fusion-variants", nargs="+", default=[], choices=["noself", "noatlas"],
        help="also fuse without the target's flavor, or without its atlas",
    )  # fmt: skip
    what.add_argument("--only-fusion", action="store_true", help="leave out single flavors")
    what.add_argument(
        "--predict-from", nargs="+", default=[], metavar="SOURCE",
        help="flavors and fusions (default: all inputs and fusions)",
    )  # fmt: skip
    what.add_argument(
        "--predict-to", nargs="+", default=[], metavar="TARGET",
        help="flavors, all, SC, FC, an atlas, self, or encoded for latents alone (default: all)",
    )  # fmt: skip
    what.add_argument("--latents", action="store_true", help="write latents too")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.npz")


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``predict``."""
    from ..bids.writers import atomic_path

    _check_usage(arguments)
    with ExitStack() as stack:
        bundle = open_model(arguments, stack)
        participants, rows = _read_inputs(arguments.input, bundle)
        rows = _adapt(rows, arguments, bundle)
        with atomic_path(arguments.output) as temporary:
            n_arrays = _predict(rows, participants, arguments, bundle, temporary)
    _log.info("%s: %d participants, %d arrays", arguments.output, len(participants), n_arrays)
    return 0


def _check_usage(arguments: argparse.Namespace) -> None:
    """Refuse combinations that would do something else than what was meant."""
    if arguments.output.suffix != ".npz":
        raise UsageError(
            f"output '{arguments.output}' is of no kind that is written",
            where="--output",
            fix="Give a file that ends in .npz.",
        )
    if arguments.adaptation_source and arguments.adaptation == "none":
        raise UsageError(
            "there is no adaptation to fit",
            where="--adaptation-source",
            fix="Add '--adaptation meanfit+meanshift'.",
        )
    if not arguments.fusion:
        for option in ("only_fusion", "fusion_normalize", "fusion_variants"):
            if getattr(arguments, option):
                raise UsageError(
                    "there is no fusion",
                    where="--" + option.replace("_", "-"),
                    fix="Add '--fusion fusion=all'.",
                )


def _is_latent(name: str) -> bool:
    """Say whether an input's name stands for latents, as in the reference program."""
    return name == ENCODED or name.startswith("fusion")


def _read_inputs(texts: Sequence[str], bundle: Bundle) -> tuple[tuple[str, ...], Rows]:
    """Read all inputs and bring them to the same participants."""
    from ..model.inputs import match_participants, read_table

    tables = {}
    for name, file in parse_pairs(texts, "--input").items():
        size = bundle.latent_size if _is_latent(name) else bundle.n_edges(name)
        tables[name] = read_table(Path(file), name, n_columns=size, is_latent=_is_latent(name))
    participants, rows = match_participants(tables)
    for name, values in rows.items():
        table = tables[name]
        if len(table.values) < len(values):
            _log.warning(
                "%s: %d of %d participants are missing", name, len(values) - len(table.values),
                len(values),
            )  # fmt: skip
    return participants, rows


def _adapt(rows: Rows, arguments: argparse.Namespace, bundle: Bundle) -> Rows:
    """Adapt connectomes, then fill edges that are missing."""
    from ..connectome.adaptation import fill_missing, resolve_mode
    from ..model.adaptation_file import load_adaptations

    edges = {name: values for name, values in rows.items() if not _is_latent(name)}
    if Path(arguments.adaptation).is_file():
        adaptations = load_adaptations(Path(arguments.adaptation))
        missing = [name for name in edges if name not in adaptations]
        if missing:
            raise UsageError(
                f"was not fitted for {', '.join(missing)}",
                where=arguments.adaptation,
                fix="Fit it with these flavors, or leave them out.",
            )
    elif resolve_mode(arguments.adaptation) == "none":
        adaptations = {}
    else:
        adaptations = _fit(edges, arguments, bundle)
    adapted = dict(rows)
    for name, values in edges.items():
        if name in adaptations:
            values = adaptations[name].forward(values)
        mean = bundle.training_mean(name)
        if mean is not None:
            values, n_filled = fill_missing(values, mean)
            if n_filled.any():
                _log.warning(
                    "%s: %d missing edges of %d participants take the training mean",
                    name, n_filled.sum(), (n_filled > 0).sum(),
                )  # fmt: skip
        adapted[name] = values
    return adapted


def _fit(edges: Rows, arguments: argparse.Namespace, bundle: Bundle) -> dict[str, Adaptation]:
    """Fit the adaptation on the inputs, or on the connectomes of ``--adaptation-source``."""
    from ..connectome.adaptation import RunningMean, fit_adaptation

    fit_rows = edges
    if arguments.adaptation_source:
        _, fit_rows = _read_inputs(arguments.adaptation_source, bundle)
    fitted = {}
    for name in edges:
        target = bundle.training_mean(name)
        if target is None:
            raise UsageError(
                f"flavor '{name}' has no training mean in model '{bundle.name}'",
                where="--adaptation",
                fix="Use '--adaptation none'.",
            )
        if name not in fit_rows:
            raise UsageError(
                f"flavor '{name}' has no file to fit on",
                where="--adaptation-source",
                fix=f"Add '{name}=FILE'.",
            )
        cohort = RunningMean(len(target))
        cohort.add(fit_rows[name])
        fitted[name] = fit_adaptation(
            arguments.adaptation, cohort.mean, target, n_participants=cohort.n_participants
        )
        _log.info(
            "%s: slope %.4g, intercept %.4g, R² %.4f", name, fitted[name].slope,
            fitted[name].intercept, fitted[name].r_squared,
        )  # fmt: skip
    return fitted


def _predict(
    rows: Rows,
    participants: Sequence[str],
    arguments: argparse.Namespace,
    bundle: Bundle,
    file: Path,
) -> int:
    """Compute and write, one prediction at a time; return the number of arrays."""
    import numpy as np

    from ..model.fusion import resolve_fusions
    from ..model.krakencoder import Krakencoder

    model = Krakencoder(bundle, device=arguments.device)
    flavors = {name: values for name, values in rows.items() if not _is_latent(name)}
    latents = model.encode(flavors) | {n: v for n, v in rows.items() if _is_latent(n)}
    texts = parse_pairs(arguments.fusion, "--fusion")
    fusions = resolve_fusions(
        [(name, tokens.split(",")) for name, tokens in texts.items()],
        list(flavors),
        known=bundle.flavors,
    )
    sources = _sources(arguments, list(latents), list(texts), list(fusions))
    targets = _targets(arguments, list(flavors), bundle)
    with zipfile.ZipFile(file, "w") as archive:
        _add(archive, "participants", np.asarray(participants, dtype=np.str_))
        n_arrays = 1
        if arguments.latents or ENCODED in arguments.predict_to:
            for source in sources:
                latent = latents.get(source)
                if latent is None:
                    latent = model.fuse(
                        latents, fusions[source], normalize=arguments.fusion_normalize
                    )
                _add(archive, f"{source}__{ENCODED}", latent)
                n_arrays += 1
        for prediction in model.predict_from_latents(
            latents,
            fusions=fusions,
            sources=sources,
            targets=targets,
            variants=arguments.fusion_variants,
            normalize=arguments.fusion_normalize,
        ):
            if "self" in arguments.predict_to and prediction.source != prediction.target:
                continue
            _add(archive, f"{prediction.source}__{prediction.target}", prediction.edges)
            n_arrays += 1
    if n_arrays == 1:
        raise UsageError(
            "there is nothing to predict",
            where="--fusion, --predict-from and --predict-to",
            fix="Choose sources that have inputs and targets that they can predict.",
        )
    return n_arrays


def _sources(
    arguments: argparse.Namespace,
    latents: Sequence[str],
    asked: Sequence[str],
    fusions: Sequence[str],
) -> list[str]:
    """Choose what to predict from; fusions without members are left out."""
    if not arguments.predict_from:
        return [*([] if arguments.only_fusion else latents), *fusions]
    from ..errors import suggest

    for source in arguments.predict_from:
        if source not in {*latents, *asked}:
            raise UsageError(
                f"source '{source}' is neither an input nor a fusion",
                where="--predict-from",
                fix=suggest(source, {*latents, *asked}) + ".",
            )
    return [source for source in arguments.predict_from if source in {*latents, *fusions}]


def _targets(
    arguments: argparse.Namespace, flavors: Sequence[str], bundle: Bundle
) -> tuple[str, ...]:
    """Choose the flavors to predict."""
    from ..model.fusion import resolve_members

    if not arguments.predict_to:
        return bundle.flavors
    tokens = [text for text in arguments.predict_to if text not in {ENCODED, "self"}]
    if "self" in arguments.predict_to:
        tokens += flavors
    return resolve_members(tokens, bundle.flavors)


def _add(archive: zipfile.ZipFile, name: str, values: NDArray) -> None:
    """Write one array of an ``.npz`` file."""
    import numpy as np

    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)
