# SPDX-License-Identifier: MIT
"""The reference program's checkpoints.

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

from ..errors import ModelError
from .layers import FlavorModel, Layer
from .pickles import read_torch_file
from .transform_files import modern_name
from .transforms import Transform

_log = logging.getLogger(__name__)

#: What a checkpoint says of its training that a bundle keeps; neither paths nor participants' ids.
_TRAINING_FACTS = (
    "nbepochs", "learningrate", "batchsize", "losstype", "optimizer_name", "adam_decay",
    "numsubjects", "numsubjects_train", "numsubjects_val", "data_string", "network_string",
    "train_string", "mse_weight", "latentsim_loss_weight", "latent_inner_loss_weight",
    "target_encoding", "fixed_target_encoding",
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
    "adversarial_boolean_list": [],
}

#: A checkpoint lacks none of these.
_NEEDED = frozenset({"state_dict", "input_name_list", "input_size_list", "latentsize"})


@dataclass(frozen=True, eq=False)
class Coders:
    """Encoder and decoder of one flavor, not yet joined with its transform."""

    n_edges: int
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    group: str
    is_adversarial: bool = False


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
    if isinstance(content, dict) and _is_adapter(content):
        content = _inner_checkpoint(content, file)
    if not isinstance(content, dict) or not set(content) >= _NEEDED:
        raise ModelError(
            "is not a Krakencoder checkpoint",
            where=str(file),
            fix="Give a file that the reference program's training wrote (…_chkpt_….pt).",
        )
    content = {**_DEFAULTS, **content}
    return Checkpoint(
        file=file,
        latent_size=int(content["latentsize"]),
        coders=_read_coders(content, file),
        intergroup=_read_intergroup(content) if content["intergroup"] else {},
        is_untransformed=_is_untransformed(content["input_transformation_info"]),
        facts=_facts(content),
    )


def _is_adapter(content: Mapping[str, Any]) -> bool:
    """Say whether a file holds a model wrapped into another, which works on edges."""
    return any(str(key).startswith("inner_model.") for key in content.get("state_dict", ()))


def _inner_checkpoint(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Unwrap a checkpoint whose wrapper leaves edges as they are.

    Notes
    -----
    The wrapper puts ``bias + sum_p x^p w_p`` before the transform and behind its inverse, for
    each edge. That is the identity without powers, and for one power of weight 1 without bias.

    Raises
    ------
    ModelError
        If the wrapper changes edges, or does not say what the inner model is like.
    """
    state: Mapping[str, Any] = content["state_dict"]
    outer = {key: np.asarray(a) for key, a in state.items() if "_outer_layer_list." in key}
    weights = [array for key, array in outer.items() if key.endswith(".weights")]
    biases = [array for key, array in outer.items() if key.endswith(".biases")]
    is_identity = (
        len(weights) + len(biases) == len(outer)
        and not any(bias.any() for bias in biases)
        and all(not w.size or (len(w) == 1 and (w == 1).all()) for w in weights)
        and not (outer and content.get("leaky_relu"))
    )
    inner = content.get("inner_model_extra_dict")
    if not is_identity:
        raise ModelError(
            "is an adapter whose own layers change the edges, which is not supported",
            where=str(file),
            fix="Give the inner checkpoint, and adapt connectomes with --adaptation.",
        )
    needed = (_NEEDED - {"state_dict"}) | {"latent_normalize"}
    if not isinstance(inner, dict) or not set(inner) >= needed:
        raise ModelError(
            "is an adapter that does not say what its inner model is like",
            where=str(file),
            fix="Give the inner checkpoint.",
        )
    prefix = "inner_model."
    layers = {k.removeprefix(prefix): a for k, a in state.items() if k.startswith(prefix)}
    return {**inner, "state_dict": layers}


def _is_untransformed(info: Any) -> bool:
    """Say whether a network takes edges as they are; merged files may hold the word in letters."""
    if isinstance(info, (list, tuple)):
        return "".join(map(str, info)).startswith("none")
    return str(info).lower() == "none" and info is not None


def _read_coders(content: Mapping[str, Any], file: Path) -> dict[str, Coders]:
    """Take every flavor's layers.

    Raises
    ------
    ModelError
        If lists of flavors differ in length, layers are more or fewer than the file's options
        say, or a flavor is a category.
    """
    names = [modern_name(str(name)) for name in content["input_name_list"]]
    edges = list(content.get("orig_input_size_list") or content["input_size_list"])
    groups = list(content["intergroup_inputgroup_list"]) or [""] * len(names)
    adversarial = list(content["adversarial_boolean_list"]) or [False] * len(names)
    if not len(names) == len(set(names)) == len(edges) == len(groups) == len(adversarial):
        raise ModelError(
            f"lists {len(names)} flavors ({len(set(names))} different), {len(edges)} sizes, "
            f"{len(groups)} groups, {len(adversarial)} adversarial flags",
            where=str(file),
            fix="Use the file as it was trained.",
        )
    coders = {}
    for index, name in enumerate(names):
        encoder = _read_layers(content["state_dict"], f"encoder_list.{index}")
        decoder = _read_layers(content["state_dict"], f"decoder_list.{index}")
        _check_depth(encoder, decoder, content, where=f"{name} in {file}")
        if encoder and int(edges[index]) == 1 != encoder[0].n_in:
            raise ModelError(
                f"is a category of {encoder[0].n_in} values, one number a participant, which is "
                "not supported",
                where=f"{name} in {file}",
                fix="Train a model of connectomes without it.",
            )
        after_encoder, after_decoder = activations(len(encoder), content)
        coders[name] = Coders(
            n_edges=int(edges[index]),
            encoder=_with_activations(encoder, after_encoder),
            decoder=_with_activations(decoder, after_decoder),
            group=str(groups[index]).lower(),
            is_adversarial=bool(adversarial[index]),
        )
    return coders


def _check_depth(
    encoder: Sequence[Layer], decoder: Sequence[Layer], content: Mapping[str, Any], *, where: str
) -> None:
    """Refuse other numbers of layers than the options say: activations follow from the options."""
    n_layers = len(content["hiddenlayers"]) + 1
    if len(encoder) != n_layers or len(decoder) != n_layers:
        raise ModelError(
            f"has {len(encoder)} layers in its encoder and {len(decoder)} in its decoder, the "
            f"file's options say {n_layers}",
            where=where,
            fix="Use the checkpoint that its training wrote, and merge bundles instead of files.",
        )


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


def activations(
    n_layers: int, content: Mapping[str, Any]
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Say what follows each layer of an encoder and of a decoder.

    Parameters
    ----------
    n_layers
        Number of layers of either.
    content
        Options of the network, as a checkpoint names them.

    Returns
    -------
    encoder, decoder
        Names from `layers.ACTIVATIONS` by layer. The reference program puts the latent's
        activation behind every layer of an encoder, not only the last.
    """
    is_linear = content["skip_relu"]
    hidden = [() if is_linear else (_nonlinearity(content, i),) for i in range(n_layers - 1)]
    decoder: list[tuple[str, ...]] = [*hidden, ()]
    latent = str(content["latent_activation"] or "none").lower()
    behind_all = () if latent == "none" else (latent,)
    encoder = [names + behind_all for names in decoder]
    if content["latent_normalize"]:
        encoder[-1] = (*encoder[-1], "normalize")
    return encoder, decoder


def _with_activations(
    layers: Sequence[Layer], names: Sequence[tuple[str, ...]]
) -> tuple[Layer, ...]:
    return tuple(
        Layer(layer.weight, layer.bias, after) for layer, after in zip(layers, names, strict=True)
    )


def intergroup_activations(n_layers: int, content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Say what follows each layer of a transform between groups: the last one's too."""
    names: tuple[str, ...] = ()
    if content["intergroup_relu"]:
        names = (_nonlinearity({**content, "relu_tanh_alternate": False}, 0),)
    found = [names] * n_layers
    if found and content["latent_normalize"]:
        found[-1] = (*names, "normalize")
    return found


def _read_intergroup(content: Mapping[str, Any]) -> dict[str, tuple[Layer, ...]]:
    """Take the transforms between groups."""
    found = {}
    for name, index in content["intergroup_transform_index_dict"].items():
        layers = _read_layers(content["state_dict"], f"intergroup_transform_list.{int(index)}")
        names = intergroup_activations(len(layers), content)
        found[str(name).lower()] = _with_activations(layers, names)
    return found


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """Take the plain values worth keeping."""
    training = content.get("training_params") or {}
    facts = {
        "reference_version": content.get("krakencoder_version"),
        "epoch": content.get("epoch"),
        "dropout": content.get("dropout"),
        "training": _plain({key: training[key] for key in _TRAINING_FACTS if key in training}),
    }
    if content["intergroup"]:
        facts["intergroup_dropout"] = content.get("intergroup_dropout")
    return _plain(facts)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a config.json can hold: no array, hence no list of participants."""
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    return {k: v for k, v in plain.items() if v is None or isinstance(v, (str, int, float, dict))}


def merge_checkpoints(
    checkpoints: Sequence[Checkpoint], transforms: Mapping[str, Transform]
) -> ModelParts:
    """Join checkpoints that share one latent space with the transforms of their flavors.

    Raises
    ------
    ModelError
        If latents differ in size or normalisation, a flavor has no transform, or transforms
        between groups meet a second checkpoint.
    """
    sizes = {checkpoint.file.name: checkpoint.latent_size for checkpoint in checkpoints}
    if len(set(sizes.values())) > 1:
        raise ModelError(
            f"latents differ in size: {', '.join(f'{k} {v}' for k, v in sizes.items())}",
            fix="Merge models that were trained to one latent space.",
        )
    lengths = {c.file.name: _is_normalised(c) for c in checkpoints}
    if len(set(lengths.values())) > 1:
        words = {True: "of length 1", False: "of any length"}
        raise ModelError(
            f"latents differ: {', '.join(f'{k} {words[v]}' for k, v in lengths.items())}",
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
                    coders.is_adversarial,
                )
    if missing:
        raise ModelError(
            f"no transform for {', '.join(missing)}",
            where=", ".join(sizes),
            fix="Give the transform files (…_ioxfm_….npy) of all its flavors with --transforms.",
        )
    provenance = {"checkpoints": {c.file.name: dict(c.facts) for c in checkpoints}}
    return ModelParts(flavors, next(iter(sizes.values())), intergroup, provenance)


def _is_normalised(checkpoint: Checkpoint) -> bool:
    """Say whether latents have length 1: an option of a checkpoint's whole network."""
    return all("normalize" in c.encoder[-1].activations for c in checkpoint.coders.values())
