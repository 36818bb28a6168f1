# SPDX-License-Identifier: MIT
"""What a bundle or a checkpoint holds, as plain values: for people, programs and cards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..flavors import Flavor
from .bundle import Bundle
from .bundle_config import layer_rows
from .card import is_normalised
from .checkpoint import Checkpoint
from .transforms import PER_EDGE_MEAN, TRANSFORMS


def n_regions(n_edges: int) -> int | None:
    """Number of regions whose upper triangle has this many edges; None if there is none.

    Examples
    --------
    >>> n_regions(3655)
    86
    """
    regions = (1 + math.isqrt(1 + 8 * n_edges)) // 2
    return regions if regions * (regions - 1) // 2 == n_edges else None


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """Describe a bundle from its ``config.json``; no weight is read.

    Returns
    -------
    dict
        ``kind``, ``name``, ``path``, ``latent_size``, ``is_normalised`` (None if flavors differ),
        ``flavors`` (rows by name), ``intergroup``, ``n_parameters`` (of encoders and decoders),
        ``n_transform_values``, ``n_bytes`` on disk, ``sha256`` and ``provenance``.
    """
    rows = bundle.config["flavors"]
    intergroup = bundle.config.get("intergroup", {})
    files = [entry for entry in bundle.path.iterdir() if entry.is_file()]
    return {
        "kind": "bundle",
        "name": bundle.name,
        "path": str(bundle.path),
        "latent_size": bundle.latent_size,
        "is_normalised": is_normalised(bundle.config),
        "flavors": {flavor: _flavor_facts(flavor, row) for flavor, row in rows.items()},
        "intergroup": {key: _layer_facts(layers) for key, layers in intergroup.items()},
        "n_parameters": sum(
            _n_parameters(layers)
            for layers in (
                *(row["encoder"] for row in rows.values()),
                *(row["decoder"] for row in rows.values()),
                *intergroup.values(),
            )
        ),
        "n_transform_values": sum(_n_transform_values(row) for row in rows.values()),
        "n_bytes": sum(entry.stat().st_size for entry in files),
        "sha256": bundle.sha256,
        "provenance": dict(bundle.config.get("provenance", {})),
    }


def describe_checkpoint(checkpoint: Checkpoint, *, sha256: str) -> dict[str, Any]:
    """Describe a checkpoint of the reference program.

    Parameters
    ----------
    checkpoint
        What was read.
    sha256
        Of its file.

    Returns
    -------
    dict
        As `describe_bundle`; transforms are in other files, and hence not known.
    """
    rows = {
        flavor: {
            "n_edges": coders.n_edges,
            "n_features": coders.encoder[0].n_in,
            "transform": "none" if checkpoint.is_untransformed else None,
            "group": coders.group,
            "is_adversarial": coders.is_adversarial,
            "encoder": layer_rows(coders.encoder),
            "decoder": layer_rows(coders.decoder),
        }
        for flavor, coders in checkpoint.coders.items()
    }
    intergroup = {key: layer_rows(layers) for key, layers in checkpoint.intergroup.items()}
    chains = [
        layer_rows(half) for c in checkpoint.coders.values() for half in (c.encoder, c.decoder)
    ]
    return {
        "kind": "checkpoint",
        "name": checkpoint.file.name,
        "path": str(checkpoint.file),
        "latent_size": checkpoint.latent_size,
        "is_normalised": is_normalised({"flavors": rows}),
        "flavors": {flavor: _flavor_facts(flavor, row) for flavor, row in rows.items()},
        "intergroup": {key: _layer_facts(layers) for key, layers in intergroup.items()},
        "n_parameters": sum(_n_parameters(layers) for layers in (*chains, *intergroup.values())),
        "n_transform_values": None,
        "n_bytes": checkpoint.file.stat().st_size,
        "sha256": sha256,
        "provenance": dict(checkpoint.facts),
    }


def _flavor_facts(flavor: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a flavor; None stands for what is not known."""
    parsed = Flavor.parse(flavor) if _is_known(flavor) else None
    return {
        "kind": row.get("kind", parsed and parsed.kind),
        "atlas": row.get("atlas", parsed and parsed.atlas),
        "n_regions": n_regions(int(row["n_edges"])),
        "n_edges": int(row["n_edges"]),
        "n_features": int(row["n_features"]),
        "transform": row["transform"],
        "explained_variance": row.get("explained_variance"),
        "n_participants": row.get("n_participants"),
        "has_training_mean": row.get("has_training_mean"),
        "group": row.get("group", ""),
        "is_adversarial": bool(row.get("is_adversarial", False)),
        "encoder": _layer_facts(row["encoder"]),
        "decoder": _layer_facts(row["decoder"]),
    }


def _is_known(flavor: str) -> bool:
    from ..flavors import RECIPES

    parts = flavor.split("_")
    return len(parts) == 3 and (parts[0], parts[2]) in RECIPES and bool(parts[1])


def _layer_facts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Describe a chain of layers in a line.

    Examples
    --------
    >>> _layer_facts([{"n_in": 256, "n_out": 128, "bias": True, "activations": ["normalize"]}])
    '256 -> 128 normalize'
    """
    text = str(rows[0]["n_in"])
    for row in rows:
        text += f" -> {row['n_out']}" + ("" if row["bias"] else " (no bias)")
        text += "".join(f" {name}" for name in row["activations"])
    return text


def _n_parameters(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(row["n_in"] * row["n_out"] + row["n_out"] * row["bias"] for row in rows)


def _n_transform_values(row: Mapping[str, Any]) -> int:
    """Count the numbers of a transform."""
    sizes = {"components": row["n_features"] * row["n_edges"]}
    if row["transform"] in PER_EDGE_MEAN:
        sizes |= {"mean": row["n_edges"], "deviation": row["n_edges"]}
    return sum(sizes.get(key, 1) for key in TRANSFORMS[row["transform"]].reference_keys)
