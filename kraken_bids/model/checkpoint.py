# SPDX-License-Identifier: MIT
"""The reference program's files: checkpoints and transforms.

What was an option of the whole network there becomes a property of each layer here, so that
models of different shapes can share one bundle.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, ResourceError
from .layers import FlavorModel, Layer
from .pickles import read_numpy_object, read_torch_file
from .transforms import ALIASES, TRANSFORMS, Transform, make_transform

_log = logging.getLogger(__name__)

#: Names of before 2024-04-13 and of other spellings, and what they became.
_RENAMED = (
    (re.compile(r"FCcov_(\w+?)_(hpf|bpf|nofilt)(gsr)?_FC"), r"FCcorr_\1_\2\3"),
    (re.compile(r"FCpcorr_(\w+?)_(hpf|bpf|nofilt)_FC"), r"FCpcorr_\1_\2"),
    (re.compile(r"(\w+?)_(sdstream|ifod2act)_volnorm"), r"SC\2_\1_volnorm"),
    (re.compile(r"(SC\w+?_\w+?)_sift2count"), r"\1_sift2"),
)
_RENAMED_ATLASES = (("cocommpsuit439", "coco439"),)

#: What a checkpoint says of its training that a bundle keeps; neither paths nor participants' ids.
_TRAINING_FACTS = (
    "nbepochs", "learningrate", "batchsize", "losstype", "optimizer_name", "adam_decay",
    "numsubjects", "numsubjects_train", "numsubjects_val", "data_string", "network_string",
    "train_string", "mse_weight", "latentsim_loss_weight", "latent_inner_loss_weight",
)  # fmt: skip

#: Options of the network that older files lack, and what they were then.
_DEFAULTS: dict[str, Any] = {
    "hiddenlayers": [],
    "skip_relu": False,
    "leakyrelu_negative_slope": 0.0,
    "relu_tanh_alternate": False,
    "latent_activation": None,
    "latent_normalize": False,
    "intergroup": False,
    "intergroup_inputgroup_list": [],
    "intergroup_transform_index_dict": {},
    "intergroup_relu": True,
    "input_transformation_info": "",
}


@dataclass(frozen=True, eq=False)
class Coders:
    """Encoder and decoder of one flavor, not yet joined with its transform."""

    n_edges: int
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    group: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a ``.pt`` file holds.

    Parameters
    ----------
    file
        Where it was read from.
    latent_size
        Number of values of a latent.
    coders
        By flavor, in the file's order.
    intergroup
        Layers of transforms between groups by ``<from>-><to>``.
    is_untransformed
        Whether the network takes edges as they are.
    facts
        Plain values on its training.
    """

    file: Path
    latent_size: int
    coders: Mapping[str, Coders]
    intergroup: Mapping[str, tuple[Layer, ...]]
    is_untransformed: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ModelParts:
    """One or more checkpoints joined with their transforms: what a bundle is written from."""

    flavors: dict[str, FlavorModel]
    latent_size: int
    intergroup: dict[str, tuple[Layer, ...]]
    provenance: dict[str, Any]


def modern_name(name: str) -> str:
    """Give today's name of a flavor; any other name comes back as it is.

    Examples
    --------
    >>> modern_name("FCcov_cocommpsuit439_hpfgsr_FC")
    'FCcorr_coco439_hpfgsr'
    """
    for old, new in _RENAMED_ATLASES:
        name = name.replace(old, new)
    for pattern, replacement in _RENAMED:
        if pattern.fullmatch(name):
            return pattern.sub(replacement, name)
    return name


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint without executing what is in it.

    Raises
    ------
    ModelError
        If it holds no Krakencoder, or one of a kind that is not supported.
    ResourceError
        If the file is missing, damaged, or asks for code to be run.
    """
    content = read_torch_file(file)
    needed = {"state_dict", "input_name_list", "input_size_list", "latentsize"}
    if not isinstance(content, dict) or not needed <= set(content):
        raise ModelError(
            "is not a Krakencoder checkpoint",
            where=str(file),
            fix="Give a file that the reference program's training wrote (…_chkpt_….pt).",
        )
    content = {**_DEFAULTS, **content}
    if any(key.startswith("inner_model.") for key in content["state_dict"]):
        raise ModelError(
            "is an adapter around another checkpoint, which is not supported",
            where=str(file),
            fix="Give the inner checkpoint.",
        )
    return Checkpoint(
        file=file,
        latent_size=int(content["latentsize"]),
        coders=_read_coders(content),
        intergroup=_read_intergroup(content) if content["intergroup"] else {},
        is_untransformed=content["input_transformation_info"] == "none",
        facts=_facts(content),
    )


def _read_coders(content: Mapping[str, Any]) -> dict[str, Coders]:
    """Take every flavor's layers."""
    edges = content.get("orig_input_size_list") or content["input_size_list"]
    groups = list(content["intergroup_inputgroup_list"])
    coders = {}
    for index, name in enumerate(content["input_name_list"]):
        encoder = _read_layers(content["state_dict"], f"encoder_list.{index}")
        decoder = _read_layers(content["state_dict"], f"decoder_list.{index}")
        coders[modern_name(str(name))] = Coders(
            n_edges=int(edges[index]),
            encoder=_encoder_activations(encoder, content),
            decoder=_hidden_activations(decoder, content),
            group=str(groups[index]).lower() if groups else "",
        )
    return coders


def _read_layers(state: Mapping[str, NDArray], prefix: str) -> list[Layer]:
    """Take the linear layers of a chain.

    Their positions depend on what stands between them (dropout, activations), their order does
    not.
    """
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.weight")
    positions = sorted(int(match[1]) for key in state if (match := pattern.fullmatch(key)))
    layers = []
    for position in positions:
        bias = state.get(f"{prefix}.{position}.bias")
        layers.append(
            Layer(
                np.asarray(state[f"{prefix}.{position}.weight"], dtype=np.float32),
                None if bias is None else np.asarray(bias, dtype=np.float32),
            )
        )
    return layers


def _nonlinearity(content: Mapping[str, Any], index: int) -> str:
    """Name the activation of the hidden layer with this index."""
    if content["relu_tanh_alternate"] and index % 2:
        return "tanh"
    slope = float(content["leakyrelu_negative_slope"])
    return f"leaky_relu:{slope:g}" if slope > 0 else "relu"


def _hidden_activations(layers: Sequence[Layer], content: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Put activations behind all layers but the last."""
    last = len(layers) - 1
    return tuple(
        layer
        if index == last or content["skip_relu"]
        else Layer(layer.weight, layer.bias, (_nonlinearity(content, index),))
        for index, layer in enumerate(layers)
    )


def _encoder_activations(layers: Sequence[Layer], content: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Put activations behind an encoder's layers.

    The reference program puts the latent's activation behind every layer, not only the last.
    """
    latent = content["latent_activation"] or "none"
    behind_all = () if latent == "none" else (str(latent).lower(),)
    behind_last = ("normalize",) if content["latent_normalize"] else ()
    last = len(layers) - 1
    return tuple(
        Layer(
            layer.weight,
            layer.bias,
            layer.activations + behind_all + (behind_last if index == last else ()),
        )
        for index, layer in enumerate(_hidden_activations(layers, content))
    )


def _read_intergroup(content: Mapping[str, Any]) -> dict[str, tuple[Layer, ...]]:
    """Take the transforms between groups, whose activation stands behind every layer."""
    activations: tuple[str, ...] = ()
    if content["intergroup_relu"]:
        activations = (_nonlinearity({**content, "relu_tanh_alternate": False}, 0),)
    found = {}
    for name, index in content["intergroup_transform_index_dict"].items():
        layers = _read_layers(content["state_dict"], f"intergroup_transform_list.{int(index)}")
        chain = [Layer(layer.weight, layer.bias, activations) for layer in layers]
        if chain and content["latent_normalize"]:
            chain[-1] = Layer(chain[-1].weight, chain[-1].bias, (*activations, "normalize"))
        found[str(name).lower()] = tuple(chain)
    return found


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """Take the plain values worth keeping."""
    training = content.get("training_params") or {}
    found = {key: training[key] for key in _TRAINING_FACTS if key in training}
    facts = {
        "reference_version": content.get("krakencoder_version"),
        "epoch": content.get("epoch"),
        "dropout": content.get("dropout"),
        "training": {key: value for key, value in found.items() if _is_plain(value)},
    }
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in facts.items()
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) or value is None


def read_transforms(files: Sequence[Path]) -> dict[str, Transform]:
    """Read transform files; of a flavor in several, the last is taken.

    Raises
    ------
    ModelError
        If a transform is of an unknown kind, incomplete, or holds NaN.
    ResourceError
        If a file is missing, damaged, of another kind, or asks for code to be run.
    """
    transforms = {}
    for file in files:
        for name, row in _read_rows(file).items():
            flavor = modern_name(str(name))
            if flavor in transforms:
                _log.warning("Transform of %s: the one in %s is taken", flavor, file)
            transforms[flavor] = _read_transform(row, where=f"{flavor} in {file}")
    return transforms


def _read_transform(row: Mapping[str, Any], *, where: str) -> Transform:
    """Rename a file's parameters to ours."""
    kind = row.get("type")
    if isinstance(kind, bytes):
        kind = kind.decode()
    kind = ALIASES.get(str(kind), str(kind))
    keys = TRANSFORMS[kind].reference_keys if kind in TRANSFORMS else {}
    found = {ours: row[theirs] for ours, theirs in keys.items() if theirs in row}
    return make_transform(kind, found, where=where)


def _read_rows(file: Path) -> dict[str, Mapping[str, Any]]:
    """Read a file's transforms as they are."""
    rows = _read_hdf5(file) if file.suffix in {".h5", ".hdf5"} else read_numpy_object(file)
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ResourceError(
            "holds no transforms by flavor",
            where=str(file),
            fix="Give a file that the reference program's training wrote (…_ioxfm_….npy).",
        )
    return rows


def _read_hdf5(file: Path) -> dict[str, Mapping[str, Any]]:
    """Read one group a flavor: arrays are data sets, numbers and text are attributes."""
    import h5py

    if not file.exists():
        raise ResourceError("does not exist", where=str(file), fix="Give the file's right path.")
    try:
        with h5py.File(file, "r") as content:
            return {
                name: {**group.attrs, **{key: values[()] for key, values in group.items()}}
                for name, group in content.items()
            }
    except (OSError, AttributeError, TypeError) as error:
        raise ResourceError(
            f"is damaged or of another kind ({error})",
            where=str(file),
            fix="Download or make the file again.",
        ) from error


def merge_checkpoints(
    checkpoints: Sequence[Checkpoint], transforms: Mapping[str, Transform]
) -> ModelParts:
    """Join checkpoints that share one latent space with the transforms of their flavors.

    Raises
    ------
    ModelError
        If latent sizes differ, a flavor has no transform, or transforms between groups meet a
        second checkpoint.
    """
    sizes = {checkpoint.file.name: checkpoint.latent_size for checkpoint in checkpoints}
    if len(set(sizes.values())) > 1:
        raise ModelError(
            f"latents differ in size: {', '.join(f'{k} {v}' for k, v in sizes.items())}",
            fix="Merge models that were trained to one latent space.",
        )
    intergroup = {k: v for checkpoint in checkpoints for k, v in checkpoint.intergroup.items()}
    if intergroup and len(checkpoints) > 1:
        raise ModelError(
            "models with transforms between groups cannot be merged",
            where=", ".join(sizes),
            fix="Convert each on its own.",
        )
    flavors: dict[str, FlavorModel] = {}
    missing = []
    for checkpoint in checkpoints:
        for flavor, coders in checkpoint.coders.items():
            transform = (
                Transform("none") if checkpoint.is_untransformed else transforms.get(flavor)
            )
            if transform is None:
                missing.append(flavor)
            elif flavor in flavors:
                _log.warning(
                    "%s: that of an earlier file is taken, not %s", flavor, checkpoint.file
                )
            else:
                flavors[flavor] = FlavorModel(
                    transform.n_edges or coders.n_edges,
                    transform,
                    coders.encoder,
                    coders.decoder,
                    coders.group,
                )
    if missing:
        raise ModelError(
            f"no transform for {', '.join(missing)}",
            where=", ".join(sizes),
            fix="Give the transform files (…_ioxfm_….npy) of all its flavors with --transforms.",
        )
    provenance = {"checkpoints": {c.file.name: dict(c.facts) for c in checkpoints}}
    return ModelParts(flavors, next(iter(sizes.values())), intergroup, provenance)
