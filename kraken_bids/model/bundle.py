# SPDX-License-Identifier: MIT
"""A model on disk: a folder of ``config.json`` and ``model.safetensors``.

``config.json`` says which flavors there are, how their layers are chained, where they come from
and what the SHA-256 of the weights is. ``model.safetensors`` holds the arrays, named

    encoder.<flavor>.<i>.weight   decoder.<flavor>.<i>.bias   transform.<flavor>.<parameter>
    intergroup.<from>-><to>.<i>.weight

so that asking for one flavor reads that flavor's bytes only. Nothing in a bundle is ever executed.
``README.md`` is the model's card: what it is, where it comes from and what its terms are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, ResourceError, suggest
from ..storage import load_json
from .bundle_config import (
    CONVERT_AGAIN,
    FORMAT_VERSION,
    TYPICAL_KEY,
    check_config,
    flavor_row,
    is_plain_name,
    layer_rows,
)
from .card import CARD_NAME, bundle_card, is_written_by_hand
from .layers import FlavorModel, Layer, check_flavor, check_layers
from .storage import (
    CONFIG_NAME,
    check_replaceable,
    file_sha256,
    replaced_dir,
    write_arrays,
)
from .transforms import TRANSFORMS, Transform

WEIGHTS_NAME = "model.safetensors"


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle. Arrays are read when they are asked for, and only those.

    Parameters
    ----------
    path
        Its folder.
    config
        Contents of ``config.json``.
    """

    path: Path
    config: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self.config["name"])

    @property
    def flavors(self) -> tuple[str, ...]:
        """Names of the flavors, in the model's order."""
        return tuple(self.config["flavors"])

    @property
    def latent_size(self) -> int:
        """Number of values of a latent."""
        return int(self.config["latent_size"])

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights, as recorded; `verify` computes it."""
        return str(self.config["weights"]["sha256"])

    @property
    def weights_file(self) -> Path:
        """The file of arrays."""
        return self.path / WEIGHTS_NAME

    def row(self, flavor: str) -> Mapping[str, Any]:
        """Row of a flavor in ``config.json``.

        Raises
        ------
        ModelError
            If the model lacks the flavor.
        """
        rows: Mapping[str, Mapping[str, Any]] = self.config["flavors"]
        if flavor not in rows:
            raise ModelError(
                f"flavor '{flavor}' is not in model '{self.name}'",
                where=str(self.path),
                fix=suggest(flavor, rows) + ".",
            )
        return rows[flavor]

    def n_edges(self, flavor: str) -> int:
        """Length of a flavor's vector of edges."""
        return int(self.row(flavor)["n_edges"])

    def n_features(self, flavor: str) -> int:
        """Number of features between transform and encoder."""
        return int(self.row(flavor)["n_features"])

    def group(self, flavor: str) -> str:
        """Group that transforms between groups go by; empty if the model has none."""
        return str(self.row(flavor).get("group", ""))

    @property
    def intergroup(self) -> tuple[str, ...]:
        """Names ``<from>-><to>`` of the transforms between groups; mostly empty."""
        return tuple(self.config.get("intergroup", ()))

    def transform(self, flavor: str) -> Transform:
        """Read a flavor's transform: NumPy arrays."""
        kind = self.row(flavor)["transform"]
        prefix = f"transform.{flavor}."
        names = [prefix + name for name in TRANSFORMS[kind].reference_keys]
        row = self.row(flavor)
        return Transform(
            kind,
            {key.removeprefix(prefix): array for key, array in self.arrays(names)},
            row.get("explained_variance"),
            row.get("n_participants"),
        )

    def training_mean(self, flavor: str) -> NDArray[np.float32] | None:
        """Read the mean connectome of the training participants.

        Returns
        -------
        NDArray or None
            (n_edges,), or None where the flavor's transform keeps no mean of each edge.
        """
        if not self.row(flavor)["has_training_mean"]:
            return None
        ((_, mean),) = self.arrays([f"transform.{flavor}.mean"])
        return mean

    def encoder(self, flavor: str) -> tuple[Layer, ...]:
        """Read the layers from features to latent."""
        return self._layers(f"encoder.{flavor}", self.row(flavor)["encoder"])

    def decoder(self, flavor: str) -> tuple[Layer, ...]:
        """Read the layers from latent to features."""
        return self._layers(f"decoder.{flavor}", self.row(flavor)["decoder"])

    def intergroup_layers(self, name: str) -> tuple[Layer, ...]:
        """Read the layers of a transform between groups."""
        return self._layers(f"intergroup.{name}", self.config["intergroup"][name])

    def flavor_model(self, flavor: str) -> FlavorModel:
        """Read all that `write_bundle` takes of a flavor."""
        row = self.row(flavor)
        return FlavorModel(
            n_edges=int(row["n_edges"]),
            transform=self.transform(flavor),
            encoder=self.encoder(flavor),
            decoder=self.decoder(flavor),
            group=self.group(flavor),
            is_adversarial=bool(row.get("is_adversarial", False)),
            typical=row.get(TYPICAL_KEY),
        )

    def arrays(
        self, names: Sequence[str], *, framework: str = "numpy"
    ) -> list[tuple[str, NDArray[np.float32]]]:
        """Read arrays by name.

        Parameters
        ----------
        names
            Names as in the module's description.
        framework
            ``numpy``, or ``pt`` for torch tensors, which stay mapped to the file.

        Raises
        ------
        ResourceError
            If the file is missing, cut short, of another size than recorded, or lacks an array.
        """
        from safetensors import SafetensorError, safe_open

        where = str(self.weights_file)
        try:
            if self.weights_file.stat().st_size != self.config["weights"]["size"]:
                raise ResourceError(
                    "has another size than its config.json says", where=where, fix=CONVERT_AGAIN
                )
            with safe_open(where, framework=framework) as weights:
                return [(name, weights.get_tensor(name)) for name in names]
        except (SafetensorError, OSError) as error:
            raise ResourceError(
                f"cannot be read: {error}", where=where, fix=CONVERT_AGAIN
            ) from error

    def verify(self) -> None:
        """Compute the SHA-256 of the weights anew.

        Raises
        ------
        ResourceError
            If it is not the one recorded.
        """
        found = file_sha256(self.weights_file)
        if found != self.sha256:
            raise ResourceError(
                f"was altered: its SHA-256 is {found}, not {self.sha256}",
                where=str(self.weights_file),
                fix=CONVERT_AGAIN,
            )

    def _layers(self, prefix: str, rows: Sequence[Mapping[str, Any]]) -> tuple[Layer, ...]:
        names = [f"{prefix}.{i}.weight" for i in range(len(rows))]
        names += [f"{prefix}.{i}.bias" for i, row in enumerate(rows) if row["bias"]]
        found = dict(self.arrays(names))
        return tuple(
            Layer(
                found[f"{prefix}.{i}.weight"],
                found.get(f"{prefix}.{i}.bias"),
                tuple(row["activations"]),
            )
            for i, row in enumerate(rows)
        )


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle; only its ``config.json`` is read.

    Raises
    ------
    ResourceError
        If the folder is no bundle, or one of a layout that this version does not know.
    """
    path = Path(path)
    where = str(path)
    if not (path / CONFIG_NAME).is_file() or not (path / WEIGHTS_NAME).is_file():
        raise ResourceError(
            f"is not a model bundle: it has no {CONFIG_NAME} and {WEIGHTS_NAME}",
            where=where,
            fix="Give the folder that 'kraken-model convert', 'fetch' or 'train' made.",
        )
    try:
        config = load_json(path / CONFIG_NAME)
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"{CONFIG_NAME} cannot be read: {error}", where=where, fix=CONVERT_AGAIN
        ) from error
    check_config(config, where)
    return Bundle(path, config)


def check_bundle_folder(out_dir: Path) -> None:
    """Refuse a folder that `write_bundle` would not replace, before anything is computed.

    Raises
    ------
    UsageError
        If it holds something else than a bundle.
    """
    check_replaceable(out_dir, names=(CONFIG_NAME, WEIGHTS_NAME))


def write_bundle(
    out_dir: Path | str,
    *,
    flavors: Mapping[str, FlavorModel],
    latent_size: int,
    provenance: Mapping[str, Any],
    name: str = "",
    intergroup: Mapping[str, Sequence[Layer]] | None = None,
) -> Bundle:
    """Check a model and write it as a bundle, whole or not at all.

    Parameters
    ----------
    out_dir
        Folder to make. Where it holds a bundle, that is replaced; any other folder that is not
        empty is refused.
    flavors
        Models by flavor name, in order. Each is asked for twice, and let go before the next, so
        that a mapping which reads them when they are asked for holds one of them at a time.
    latent_size
        Number of values of a latent.
    provenance
        Where the model comes from: plain values for ``config.json``.
    name
        Name of the model; that of the folder if empty.
    intergroup
        Layers of transforms between groups by ``<from>-><to>``.

    Raises
    ------
    ModelError
        If weights are NaN or sizes do not fit together.
    ResourceError
        If the folder cannot be written.
    UsageError
        If the folder holds something else than a bundle.
    """
    out_dir = Path(out_dir)
    intergroup = intergroup or {}
    if not flavors:
        raise ModelError("has no flavors", where=str(out_dir), fix="Give at least one flavor.")
    rows: dict[str, dict[str, Any]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for flavor in flavors:
        rows[flavor], sizes = _plan_flavor(flavor, flavors[flavor], latent_size)
        shapes |= sizes
    for key, layers in intergroup.items():
        check_layers(layers, latent_size, latent_size, where=f"transform between groups {key}")
        shapes |= {n: a.shape for n, a in _layer_arrays(f"intergroup.{key}", layers)}
    config = {
        "format_version": FORMAT_VERSION,
        "name": name or out_dir.name,
        "latent_size": latent_size,
        "flavors": rows,
        "intergroup": {key: layer_rows(layers) for key, layers in intergroup.items()},
        "provenance": dict(provenance),
    }
    with replaced_dir(out_dir, names=(CONFIG_NAME, WEIGHTS_NAME)) as temporary:
        # weights first, then the config that says their SHA-256, then the card that repeats it
        weights_file = temporary / WEIGHTS_NAME
        sha256 = write_arrays(weights_file, shapes, _all_arrays(flavors, intergroup))
        config["weights"] = {
            "file": WEIGHTS_NAME, "sha256": sha256, "size": weights_file.stat().st_size,
        }  # fmt: skip
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (temporary / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
        if not is_written_by_hand(out_dir / CARD_NAME):
            (temporary / CARD_NAME).write_text(bundle_card(config), encoding="utf-8")
    return open_bundle(out_dir)


def _plan_flavor(
    flavor: str, model: FlavorModel, latent_size: int
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Check a flavor; give its row in ``config.json`` and the shapes of its arrays."""
    if not is_plain_name(flavor):
        raise ModelError(
            f"{flavor!r:.80} cannot be the name of a flavor",
            where="flavors",
            fix="Use letters, digits, and _ between them.",
        )
    check_flavor(flavor, model, latent_size)
    shapes = {name: array.shape for name, array in _flavor_arrays(flavor, model)}
    return flavor_row(flavor, model), shapes


NamedArrays = Iterator[tuple[str, NDArray[np.float32]]]


def _all_arrays(
    flavors: Mapping[str, FlavorModel], intergroup: Mapping[str, Sequence[Layer]]
) -> NamedArrays:
    """Name every array of a model, flavor by flavor."""
    for flavor in flavors:  # no name for the model: it would live on beside the next one
        yield from _flavor_arrays(flavor, flavors[flavor])
    for key, layers in intergroup.items():
        yield from _layer_arrays(f"intergroup.{key}", layers)


def _flavor_arrays(flavor: str, model: FlavorModel) -> NamedArrays:
    """Name the arrays of a flavor: side by side in the file, since they are read together."""
    for name, array in model.transform.parameters.items():
        yield f"transform.{flavor}.{name}", array
    yield from _layer_arrays(f"encoder.{flavor}", model.encoder)
    yield from _layer_arrays(f"decoder.{flavor}", model.decoder)


def _layer_arrays(prefix: str, layers: Sequence[Layer]) -> NamedArrays:
    for i, layer in enumerate(layers):
        yield f"{prefix}.{i}.weight", layer.weight
        if layer.bias is not None:
            yield f"{prefix}.{i}.bias", layer.bias


def convert_checkpoint(
    checkpoints: Sequence[Path],
    transforms: Sequence[Path],
    out_dir: Path | str,
    *,
    name: str = "",
) -> Bundle:
    """Convert checkpoints of the reference program into one bundle.

    Parameters
    ----------
    checkpoints
        ``.pt`` files. Several are merged if their latents have one size; of a flavor that more
        than one of them holds the first is taken, and that is said.
    transforms
        ``.npy``, ``.npz`` or ``.h5`` files; of a flavor in several the last is taken.
    out_dir
        As for `write_bundle`.
    name
        Name of the model.

    Raises
    ------
    ModelError
        If weights are NaN, latent sizes differ, or a flavor has no transform.
    ResourceError
        If a file is missing, damaged, or holds code.
    """
    from .checkpoint import merge_checkpoints, read_checkpoint
    from .transform_files import read_transforms

    parts = merge_checkpoints(
        [read_checkpoint(Path(file)) for file in checkpoints],
        read_transforms([Path(file) for file in transforms]),
    )
    sources = [
        {"file": Path(file).name, "sha256": file_sha256(Path(file))}
        for file in [*checkpoints, *transforms]
    ]
    return write_bundle(
        out_dir,
        flavors=parts.flavors,
        latent_size=parts.latent_size,
        provenance={**parts.provenance, "sources": sources},
        name=name,
        intergroup=parts.intergroup,
    )
