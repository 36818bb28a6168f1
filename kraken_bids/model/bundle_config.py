# SPDX-License-Identifier: MIT
"""What ``config.json`` of a bundle holds: rows of flavors and layers, and what is no such file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import ResourceError, UsageError
from ..flavors import Flavor
from .layers import FlavorModel, Layer
from .storage import CONFIG_NAME
from .transforms import TRANSFORMS

#: Version of the layout; a reader refuses layouts that it does not know.
FORMAT_VERSION = 1
#: Key of a flavor's row for what is usual of participants (`kraken_bids.model.typical`).
TYPICAL_KEY = "typical"
#: What is to be done about a bundle that is damaged.
CONVERT_AGAIN = "Make the bundle again with 'kraken-model convert' or 'kraken-model fetch'."

_CONFIG_KEYS = {"format_version", "name", "latent_size", "flavors", "weights"}
_FLAVOR_KEYS = {
    "n_edges", "n_features", "transform", "has_training_mean", "encoder", "decoder",
}  # fmt: skip


def check_config(config: Any, where: str) -> None:
    """Refuse a config.json that lacks what `Bundle` reads."""
    missing = sorted(_CONFIG_KEYS - set(config)) if isinstance(config, dict) else ["everything"]
    if not missing:
        if config["format_version"] != FORMAT_VERSION:
            raise ResourceError(
                f"has layout {config['format_version']!s:.80}, this version reads "
                f"{FORMAT_VERSION}",
                where=where,
                fix="Use a newer kraken-bids, or convert the model again.",
            )
        missing = list(_missing(config))
    if missing:
        raise ResourceError(
            f"{CONFIG_NAME} lacks {', '.join(missing)}", where=where, fix=CONVERT_AGAIN
        )


def _missing(config: Mapping[str, Any]) -> Iterator[str]:
    """Name what of a config is absent, or of another kind than `Bundle` takes it for."""
    weights, flavors = config["weights"], config["flavors"]
    groups = config.get("intergroup", {})
    there = set(weights) if isinstance(weights, dict) else set()
    yield from sorted({"file", "sha256", "size"} - there)
    if "size" in there and not _is_count(weights["size"]):
        yield "a size of the weights"
    if not _is_count(config["latent_size"]):
        yield "a latent_size"
    if not isinstance(flavors, dict) or not isinstance(groups, dict):
        yield "flavors and intergroup as objects"
        return
    for name, layers in groups.items():
        if not _are_layers(layers):
            yield f"layers of {name}"
    for flavor, row in flavors.items():
        if not is_plain_name(flavor):
            yield f"a name that can be one of a flavor in place of {flavor!r:.80}"
        if not isinstance(row, dict) or not row.keys() >= _FLAVOR_KEYS:
            there = set(row) if isinstance(row, dict) else set()
            yield from (f"{key} of {flavor}" for key in sorted(_FLAVOR_KEYS - there))
            continue
        if not isinstance(row["transform"], str) or row["transform"] not in TRANSFORMS:
            yield f"a known transform of {flavor}"
        yield from (
            f"{key} of {flavor}" for key in ("n_edges", "n_features") if not _is_count(row[key])
        )
        yield from (
            f"layers of the {key} of {flavor}"
            for key in ("encoder", "decoder")
            if not _are_layers(row[key])
        )


def is_plain_name(name: str) -> bool:
    r"""Whether a name can be a flavor's: it becomes part of paths, tables and archives.

    Examples
    --------
    >>> is_plain_name("FCcorr_fs86_hpf"), is_plain_name("../x"), is_plain_name("a\\tb")
    (True, False, False)
    """
    return bool(re.fullmatch(r"(?![.-])[\w.+:@=\[\] -]{1,200}", name)) and name.isprintable()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 62


def _are_layers(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and isinstance(row.get("bias"), bool)
        and isinstance(row.get("activations"), list)
        and all(isinstance(name, str) for name in row["activations"])
        for row in rows
    )


def flavor_row(flavor: str, model: FlavorModel) -> dict[str, Any]:
    """Make the row of a flavor."""
    row: dict[str, Any] = {}
    with contextlib.suppress(UsageError):  # other flavors than ours are carried along by name
        parsed = Flavor.parse(flavor)
        row = {"kind": parsed.kind, "atlas": parsed.atlas, "processing": parsed.processing}
    transform = model.transform
    known = {
        "explained_variance": transform.explained_variance,
        "n_participants": transform.n_participants,
        "is_adversarial": model.is_adversarial or None,
        TYPICAL_KEY: model.typical,
    }
    row |= {key: value for key, value in known.items() if value is not None}
    return row | {
        "n_edges": model.n_edges,
        "n_features": transform.n_features or model.n_edges,
        "transform": transform.kind,
        "has_training_mean": transform.training_mean is not None,
        "group": model.group,
        "encoder": layer_rows(model.encoder),
        "decoder": layer_rows(model.decoder),
    }


def layer_rows(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Make a row for each layer, without its numbers."""
    return [
        {
            "n_in": layer.n_in,
            "n_out": layer.n_out,
            "bias": layer.bias is not None,
            "activations": list(layer.activations),
        }
        for layer in layers
    ]
