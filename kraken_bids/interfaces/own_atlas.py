# SPDX-License-Identifier: MIT
"""A participant's own label image, built once for all series of a session."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from ..atlases import load_atlas
from ..bids.own_atlas import OWN_ATLAS, describe_origin
from ..bids.writers import write_json
from ..images.own_coco import OwnImage, build_own_labels
from ..images.resample import label_image
from ..plan import LabelSource, OwnLabels
from .atlases import file_stamp, plain_steps, transform_steps

_log = logging.getLogger(__name__)

#: So many regions are named in a warning; the sidecars name all.
LISTED_REGIONS = 5


def plain_own_labels(own: OwnLabels) -> dict[str, Any]:
    """Write what own labels are built from in plain values, as `BuildOwnLabels` takes it.

    Returns
    -------
    dict
        ``cortex``, ``files`` (by role), ``group_file``, ``steps`` and ``stamps`` (size and time
        of each file, so that the node runs again when one has changed).
    """
    return {
        "cortex": own.cortex,
        "files": {role: str(path) for role, path in own.files},
        "group_file": str(own.group_file),
        "steps": plain_steps(own.group_steps),
        "stamps": [file_stamp(path) for path in own.paths],
    }


def label_origins(sources: Iterable[LabelSource]) -> dict[str, dict[str, Any]]:
    """Whose labels are used, in sidecars' keys, by atlas; only where that is a question."""
    told = {source.atlas: describe_origin(source) for source in sources}
    return {atlas: keys for atlas, keys in told.items() if keys}


def _own_labels(plain: dict[str, Any]) -> OwnLabels:
    return OwnLabels(
        plain["cortex"],
        tuple((role, Path(path)) for role, path in plain["files"].items()),
        Path(plain["group_file"]),
        transform_steps(plain["steps"]),
    )


class _BuildOwnLabelsInputSpec(BaseInterfaceInputSpec):
    own_labels = traits.Dict(mandatory=True, desc="the files, as plain_own_labels gives them")
    participant = traits.Str(mandatory=True, desc="label of the session, for messages")


class _BuildOwnLabelsOutputSpec(TraitedSpec):
    labels_file = File(exists=True, desc="<atlas>_dseg.nii.gz, region indices")
    facts_file = File(exists=True, desc="JSON: what sidecars say of the image, by atlas")


class BuildOwnLabels(SimpleInterface):
    """Build a participant's own coco439 in the space of FreeSurfer's images."""

    input_spec = _BuildOwnLabelsInputSpec
    output_spec = _BuildOwnLabelsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        own = _own_labels(self.inputs.own_labels)
        image = build_own_labels(own, names=load_atlas(OWN_ATLAS).region_names)
        tell_own_image(image, self.inputs.participant)
        labels_file = Path(runtime.cwd) / f"{OWN_ATLAS}_dseg.nii.gz"
        label_image(image.labels, image.affine).to_filename(labels_file)
        facts_file = Path(runtime.cwd) / "facts.json"
        write_json(facts_file, {OWN_ATLAS: own_facts(image)})
        self._results |= {"labels_file": str(labels_file), "facts_file": str(facts_file)}
        return runtime


def own_facts(image: OwnImage) -> dict[str, Any]:
    """What sidecars say of an own label image: ``LabelFacts`` and its keys."""
    return {
        "LabelFacts": {
            "MissingRegions": list(image.missing),
            "UnusualSizes": dict(image.unusual),
            "UnlabelledCortex": round(image.unlabelled, 4),
        }
    }


def tell_own_image(image: OwnImage, participant: str) -> None:
    """Warn of regions that an own label image lacks, or whose size is hardly possible."""
    told = (
        ("have no voxel in FreeSurfer's space", image.missing),
        ("are of a very different size than in the group", tuple(image.unusual)),
    )
    for what, names in told:
        if names:
            listed = ", ".join(names[:LISTED_REGIONS])
            _log.warning(
                "%s: %d of the regions of the participant's own %s %s (%s%s). Look at the image "
                "*_atlas-%s_dseg.nii.gz and at FreeSurfer's surfaces",
                participant,
                len(names),
                OWN_ATLAS,
                what,
                listed,
                ", …" if len(names) > LISTED_REGIONS else "",
                OWN_ATLAS,
            )
