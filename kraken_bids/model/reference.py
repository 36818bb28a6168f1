# SPDX-License-Identifier: MIT
"""Bundles written as the reference program's files: a checkpoint and its transforms.

There, activations, hidden layers and biases are options of the whole network, here properties of
each layer. A bundle whose flavors differ in them cannot be said there, and is refused.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ..errors import ModelError, UsageError
from ..storage import atomic_path
from .bundle import Bundle
from .checkpoint import activations, intergroup_activations
from .transform_files import N_PARTICIPANTS_KEY
from .transforms import PER_EDGE_MEAN, TRANSFORMS

#: Version that files of this layout name.
REFERENCE_VERSION = "1.0.0 (2024-04-07)"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ReferenceFiles:
    """Files that the reference program reads: ``--checkpoint`` and ``--inputxform``."""

    checkpoint: Path
    transforms: Path


def write_reference(bundle: Bundle, prefix: Path | str) -> ReferenceFiles:
    """Write a bundle as ``<prefix>.pt`` and ``<prefix>_ioxfm.npy``.

    Parameters
    ----------
    bundle
        Model to write.
    prefix
        Beginning of the names; ``.pt`` at its end is left out. For a folder, the model's name in
        that folder.

    Returns
    -------
    ReferenceFiles

    Raises
    ------
    ModelError
        If the model cannot be said in that format.
    ResourceError
        If the bundle is damaged, or the files cannot be written.
    UsageError
        If one of the files is there already.

    Notes
    -----
    Transforms are written one array at a time. Who was in the training sample is not known to a
    bundle, so ``train_subjects`` is absent. ``lognorm+rownorm`` is written under that name:
    under the shorter one the reference program does not load it.
    """
    import torch

    files = _file_names(bundle, prefix)
    for file in (files.checkpoint, files.transforms):
        if file.exists():
            raise UsageError(
                "exists already", where=str(file), fix="Give another prefix, or remove the file."
            )
    options = _network_options(bundle)
    facts = training_facts(bundle.config.get("provenance", {}))
    content = _checkpoint(bundle, options, facts)
    content["state_dict"] = OrderedDict(
        (key, torch.from_numpy(np.array(array))) for key, array in content["state_dict"].items()
    )
    with atomic_path(files.transforms) as transforms, atomic_path(files.checkpoint) as checkpoint:
        with transforms.open("wb") as stream:
            _write_object(stream, {f: _transform_row(bundle, f) for f in bundle.flavors})
        saved = io.BytesIO()  # a few MB; torch says of a full disk what nobody understands
        torch.save(content, saved)
        checkpoint.write_bytes(saved.getvalue())
    return files


def _file_names(bundle: Bundle, prefix: Path | str) -> ReferenceFiles:
    """Make the names of both files."""
    is_folder = str(prefix).endswith("/") or Path(prefix).is_dir()
    path = Path(prefix) / bundle.name if is_folder else Path(prefix)
    name = path.name.removesuffix(".pt")
    return ReferenceFiles(path.with_name(f"{name}.pt"), path.with_name(f"{name}_ioxfm.npy"))


def training_facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Take what is known of a training: of the first model where several were merged.

    Returns
    -------
    dict
        ``dropout``, ``epoch`` (from 0), ``reference_version`` and ``training``, as far as known.
    """
    while provenance.get("models"):
        provenance = provenance["models"][0].get("provenance", {})
    if provenance.get("checkpoints"):
        return dict(next(iter(provenance["checkpoints"].values())))
    options: Mapping[str, Any] = provenance.get("options", {})
    names = {
        "epochs": "nbepochs", "batch_size": "batchsize", "learning_rate": "learningrate",
        "loss": "losstype", "weight_decay": "adam_decay",
    }  # fmt: skip
    facts: dict[str, Any] = {
        "dropout": options.get("dropout"),
        "epoch": int(options["epochs"]) - 1 if "epochs" in options else None,
        "training": {new: options[old] for old, new in names.items() if old in options},
    }
    if "n_participants" in provenance:
        facts["training"]["numsubjects_train"] = provenance["n_participants"]
    return {key: value for key, value in facts.items() if value is not None}


def _network_options(bundle: Bundle) -> dict[str, Any]:
    """Find the options of a network whose layers are those of all flavors.

    Raises
    ------
    ModelError
        If there are none.
    """
    rows = [bundle.row(flavor) for flavor in bundle.flavors]
    options = _guess(rows[0], bundle.config.get("intergroup", {}))
    different = [
        flavor for flavor, row in zip(bundle.flavors, rows, strict=True) if not _fits(row, options)
    ]
    if different:
        raise ModelError(
            "the reference program has one kind of layers for all flavors; hidden layers, "
            f"activations or biases of {', '.join(different)} cannot be said in its format"
            + (
                f" beside those of {bundle.flavors[0]}"
                if different[0] != bundle.flavors[0]
                else ""
            ),
            where=str(bundle.path),
            fix="Write the models that it was merged of one by one.",
        )
    return options | _intergroup_options(bundle, options)


def _names(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [tuple(row["activations"]) for row in rows]


def _guess(row: Row, intergroup: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Read options off a flavor's layers; whether they say all of it is for `_fits` to tell."""
    last, hidden = _names(row["encoder"])[-1], _names(row["decoder"])[:-1]
    is_normalised = last[-1:] == ("normalize",)
    latent = last[:-1] if is_normalised else last
    flat = [name for names in hidden for name in names]
    if not flat:  # the slope matters to transforms between groups, too
        flat = [name for layers in intergroup.values() for name in layers[0]["activations"]]
    slopes = [float(name.partition(":")[2]) for name in flat if name.startswith("leaky_relu")]
    biases = [layer["bias"] for layer in (*row["encoder"], *row["decoder"])]
    return {
        "hiddenlayers": [layer["n_out"] for layer in row["encoder"][:-1]],
        "skip_relu": bool(hidden) and not any(hidden),
        "leakyrelu_negative_slope": slopes[0] if slopes else 0.0,
        "relu_tanh_alternate": ("tanh",) in hidden[1::2],
        "latent_activation": latent[0] if latent else "none",
        "latent_normalize": is_normalised,
        "linear_include_bias": any(biases),
        "no_bias_for_outer_layers": any(biases) and not all(biases),
    }


def _fits(row: Row, options: Mapping[str, Any]) -> bool:
    """Say whether a network of these options has this flavor's layers."""
    encoder, decoder = row["encoder"], row["decoder"]
    sizes = options["hiddenlayers"]
    last = len(sizes)
    bias, outer = options["linear_include_bias"], options["no_bias_for_outer_layers"]
    return bool(
        [layer["n_out"] for layer in encoder[:-1]] == sizes
        and [layer["n_out"] for layer in decoder[:-1]] == sizes[::-1]
        and (_names(encoder), _names(decoder)) == activations(last + 1, options)
        and all(
            layer["bias"] == (bias and not (outer and i == 0)) for i, layer in enumerate(encoder)
        )
        and all(
            layer["bias"] == (bias and not (outer and i == last))
            for i, layer in enumerate(decoder)
        )
    )


def _intergroup_options(bundle: Bundle, options: Mapping[str, Any]) -> dict[str, Any]:
    """Find the options of the transforms between groups.

    Raises
    ------
    ModelError
        If they differ from each other, or in kind from the other layers.
    """
    groups = [bundle.group(flavor) for flavor in bundle.flavors]
    chains: Mapping[str, Sequence[Row]] = bundle.config.get("intergroup", {})
    found: dict[str, Any] = {
        "intergroup": bool(chains),
        "intergroup_layers": [],
        "intergroup_inputgroup_list": groups if any(groups) else [],
        "intergroup_transform_index_dict": {name: i for i, name in enumerate(chains)},
        "intergroup_relu": True,
    }
    for first in list(chains.values())[:1]:
        found["intergroup_layers"] = [layer["n_out"] for layer in first[:-1]]
        found["intergroup_relu"] = any(set(names) - {"normalize"} for names in _names(first))
    for name, layers in chains.items():
        sizes = [layer["n_out"] for layer in layers[:-1]]
        wanted = intergroup_activations(len(layers), {**options, **found})
        if (
            sizes != found["intergroup_layers"]
            or _names(layers) != wanted
            or {layer["bias"] for layer in layers} != {options["linear_include_bias"]}
        ):
            raise ModelError(
                f"layers between groups {name} cannot be said in the reference program's format",
                where=str(bundle.path),
                fix="Its networks have one kind of layers.",
            )
    return found


def _checkpoint(
    bundle: Bundle, options: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Put together what a checkpoint holds, in the reference program's order."""
    n = len(bundle.flavors)
    dropout = float(facts.get("dropout") or 0.0)
    between = facts.get("intergroup_dropout")
    between = dropout if between is None else float(between)
    state = _state(bundle, options, dropout=dropout, intergroup_dropout=between)
    shape, names = _transform_options(bundle), list(bundle.flavors)
    version = facts.get("reference_version") or REFERENCE_VERSION
    return {
        "state_dict": state,
        "krakencoder_version": version,
        "input_size_list": [bundle.n_features(flavor) for flavor in names],
        "latentsize": bundle.latent_size,
        **{key: options[key] for key in ("hiddenlayers", "skip_relu")},
        "dropout": dropout,
        **{key: options[key] for key in _ARCHITECTURE},
        "dropout_final_layer": None,
        "dropout_final_layer_list": None,
        **{key: value for key, value in options.items() if key.startswith("intergroup")},
        "intergroup_dropout": between,
        "adversarial_boolean_list": [
            bool(bundle.row(flavor).get("is_adversarial", False)) for flavor in names
        ],
        "epoch": int(facts.get("epoch") or 0),
        **shape,
        "orig_input_size_list": [bundle.n_edges(flavor) for flavor in names],
        "leave_data_alone": False,
        "skip_selfs": False,
        "input_name_list": names,
        "trainpath_encoder_index_list": [i for i in range(n) for _ in range(n)],
        "trainpath_decoder_index_list": [j for _ in range(n) for j in range(n)],
        "dropout_schedule": [dropout, dropout],
        "training_params": {
            **facts.get("training", {}),
            "krakencoder_version": version,
            "latent_normalize": options["latent_normalize"],
            "trainpath_names": [f"{a}->{b}" for a in names for b in names],
            "trainpath_names_short": [f"{a}->{b}" for a in names for b in names],
            "total_parameter_count": sum(int(array.size) for array in state.values()),
        },
    }


_ARCHITECTURE = (
    "leakyrelu_negative_slope", "relu_tanh_alternate", "latent_activation", "latent_normalize",
    "linear_include_bias", "no_bias_for_outer_layers",
)  # fmt: skip


def _state(
    bundle: Bundle, options: Mapping[str, Any], *, dropout: float, intergroup_dropout: float
) -> dict[str, NDArray[np.float32]]:
    """Name every layer by its position in the reference program's network.

    There dropout, where it is not 0, and activations are modules of their own, which take up
    positions; bringing to length 1 happens elsewhere, and does not.
    """
    chains = {}
    for i, flavor in enumerate(bundle.flavors):
        chains[f"encoder_list.{i}"] = bundle.encoder(flavor), dropout
    for i, flavor in enumerate(bundle.flavors):
        chains[f"decoder_list.{i}"] = bundle.decoder(flavor), dropout
    for name, i in options["intergroup_transform_index_dict"].items():
        layers = bundle.intergroup_layers(name)
        chains[f"intergroup_transform_list.{i}"] = layers, intergroup_dropout
    state = {}
    for prefix, (layers, share) in chains.items():
        position = 0
        for layer in layers:
            state[f"{prefix}.{position}.weight"] = layer.weight
            if layer.bias is not None:
                state[f"{prefix}.{position}.bias"] = layer.bias
            n_activations = sum(name != "normalize" for name in layer.activations)
            position += 1 + (share > 0) + n_activations
    return state


def _transform_options(bundle: Bundle) -> dict[str, Any]:
    """Say how edges are transformed, as the options of a training would."""
    rows = [bundle.row(flavor) for flavor in bundle.flavors]
    kinds = list(dict.fromkeys(row["transform"] for row in rows if row["transform"] != "none"))
    reduced = {row["n_features"] for row in rows if row["transform"] in {"pca", "tsvd"}}
    size = max(reduced, default=0)
    label = "none"
    if kinds:
        label = {"pca": f"pc{size}", "tsvd": f"tsvd{size}"}.get(kinds[0], kinds[0])
    if set(kinds) == {"pca", "tsvd"}:
        label = f"pc+tsvd{size}"
    return {
        "reduce_dimension": size,
        "use_truncated_svd": kinds == ["tsvd"],
        "input_transformation_info": label,
        "use_lognorm_for_sc": "lognorm+rownorm" in kinds,
        "use_truncated_svd_for_sc": kinds == ["tsvd"],
    }


class _Stored:
    """An array of a bundle that is read when it is pickled, and let go then."""

    def __init__(self, bundle: Bundle, name: str, shape: tuple[int, ...]) -> None:
        self._bundle, self._name, self._shape = bundle, name, shape

    def __reduce__(self) -> tuple[Any, ...]:
        ((_, array),) = self._bundle.arrays([self._name])
        return cast("tuple[Any, ...]", array.reshape(self._shape).__reduce__())


def _transform_row(bundle: Bundle, flavor: str) -> dict[str, Any]:
    """Describe a flavor's transform by the reference program's keys."""
    row = bundle.row(flavor)
    kind, n_edges, n_features = row["transform"], int(row["n_edges"]), int(row["n_features"])
    found: dict[str, Any] = {}
    if kind in {"pca", "tsvd"}:
        found["reduce_dimension"] = n_features
    share = row.get("explained_variance")
    if share is not None:  # in as few bytes as hold the number
        short = np.float32(share)
        found["pca_explained_variance_ratio"] = (
            short if float(short) == share else np.float64(share)
        )
    for ours, theirs in TRANSFORMS[kind].reference_keys.items():
        shape: tuple[int, ...] = (1,)
        if ours == "components":
            shape = (n_features, n_edges)
        elif ours in {"mean", "deviation"} and kind in PER_EDGE_MEAN:
            shape = (n_edges,) if kind == "pca" else (1, n_edges)
        found[theirs] = _Stored(bundle, f"transform.{flavor}.{ours}", shape)
    found |= {"type": kind, "input_dimension": n_edges, "output_dimension": n_features}
    if row.get("n_participants") is not None:
        found[N_PARTICIPANTS_KEY] = int(row["n_participants"])
    return found


def _write_object(stream: BinaryIO, content: Mapping[str, Any]) -> None:
    """Write what `numpy.save` writes of a dictionary, without holding on to its arrays."""
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    npy_format.write_array_header_1_0(stream, header)
    pickler = pickle.Pickler(stream, protocol=4)
    pickler.fast = True  # no memory of what was written, hence of no array
    pickler.dump(np.array(content, dtype=object))
