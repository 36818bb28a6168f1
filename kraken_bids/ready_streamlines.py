# SPDX-License-Identifier: MIT
"""QSIRecon's counts of streamlines in the scale of the models' training connectomes.

Its matrices hold numbers of streamlines as they were counted. Here they are scaled to five million
where their number is known, and divided by the volumes of regions in QSIRecon's own label image.
Its volume-normalised matrices are left out: those are sums of SIFT2 weights, divided by voxels of
a grid that may be any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atlases import load_atlas
from .bids.files import FoundFile, parse_name
from .errors import InputError, UsageError
from .flavors import Flavor
from .formats.reading.qsirecon import ENDING, region_values
from .formats.reading.regions import atlas_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .formats.inputs import FlavorInput, ReadRows, ReadSquare

_log = logging.getLogger(__name__)

#: Search radius of its measures (``radius2_…``), in mm.
RADIUS_MM = 2.0
#: Part of the name of a data set that our own recon specs make.
OWN_SPEC = "Kraken"

_RADIUS = f"ends were assigned within {RADIUS_MM:g} mm"
_RECIPE = "tracked by QSIRecon, not by the recipe (its own: streamlines of 30 to 250 mm, cropped)"
_UNSCALED = "the number of streamlines is not known: not scaled to 5 million"


def with_volumes(
    inputs: Mapping[str, FlavorInput], resize: Callable[[FlavorInput], FlavorInput]
) -> dict[str, FlavorInput]:
    """Scale QSIRecon's counts, and add counts divided by volumes; others are left as they are.

    Parameters
    ----------
    inputs
        By flavor.
    resize
        Gives an input with the number of edges that its atlas has.
    """
    result: dict[str, FlavorInput] = {}
    for name, found in inputs.items():
        processing = name.rpartition("_")[2]
        if not is_qsirecon(found) or processing not in {"count", "sift2"}:
            if not is_qsirecon(found):
                result[name] = found
            else:
                _log.warning("%s of QSIRecon is left out: its volumes are in other units", name)
            continue
        counted = resize(found) if _is_known(name) else found
        result[name] = _with_reader(counted, _scaled(counted))
        if processing == "count" and _is_known(name):
            if any(label_image(Path(file), name) for file in found.files):
                volnorm = f"{name.removesuffix('count')}volnorm"
                result[volnorm] = _with_reader(replace(counted, name=volnorm), _divided(counted))
            else:
                _log.warning(
                    "%s: no volume-normalised connectome, QSIRecon's label image "
                    "(…_seg-%s_dseg.nii.gz) is not there", found.where, name.split("_")[1],
                )  # fmt: skip
    return result


def is_qsirecon(found: FlavorInput) -> bool:
    """Whether an input's matrices lie in QSIRecon's files."""
    return bool(found.files) and all(file.endswith(ENDING) for file in found.files)


def described(file: Path, name: str) -> dict[str, Any]:
    """Keys of the sidecar of a connectome from one of QSIRecon's files; of others none."""
    if not file.name.endswith(ENDING):
        return {}
    from .images.tractograms import describe_bias

    header = streamlines_header(parse_name(file))
    n_streamlines = _number(header)
    algorithm = Flavor.parse(name).kind.removeprefix("SC")
    told = [_RADIUS] if n_streamlines else [_RADIUS, _UNSCALED]
    if header:
        told += describe_bias(header, algorithm=algorithm)
    elif OWN_SPEC not in str(file.parent):
        told.append(_RECIPE)
    return {
        **({"StreamlineCount": n_streamlines} if n_streamlines else {}),
        "AssignmentRadius": RADIUS_MM,
        "DifferencesFromTraining": "; ".join(told),
        "Software": "QSIRecon",
    }


def streamlines_header(file: FoundFile) -> dict[str, str]:
    """Header of the one tractogram that lies beside a file of matrices; empty if there is none."""
    from .bids.ready_diffusion import read_tractogram_header

    beside = [parse_name(path) for path in sorted(file.path.parent.glob("*_streamlines.tck*"))]
    fitting = [
        other for other in beside
        if other.source == file.source and file.label("model") in (None, other.label("model"))
    ]  # fmt: skip
    return read_tractogram_header(fitting[0].path) if len(fitting) == 1 else {}


def _number(header: Mapping[str, str]) -> int:
    """Number of streamlines that a header tells; 0 if it does not."""
    text = header.get("count", "")
    return int(text) if text.isdigit() else 0


def label_image(file: Path, name: str) -> Path | None:
    """QSIRecon's label image of an atlas on the grid of the scan that a file of matrices is of.

    It lies beside the file, or in another data set of the same run.
    """
    found = parse_name(file)
    parts = file.parent.parts
    root = next(place for place, part in enumerate(parts) if part.startswith("sub-"))
    data_set, inside = Path(*parts[:root]), Path(*parts[root:])
    above = data_set.parent.parent  # QSIRECON/derivatives/qsirecon-<workflow>
    folders = [data_set, *sorted(data_set.parent.glob("qsirecon-*")), above]
    for folder in dict.fromkeys(folders):
        for path in sorted((folder / inside).glob("*_dseg.nii.gz")):
            image = parse_name(path)
            label = image.label("seg") or image.label("atlas") or ""
            if image.source == found.source and atlas_of(label) == name.split("_")[1]:
                return path
    return None


def _is_known(name: str) -> bool:
    try:
        load_atlas(Flavor.parse(name).atlas)
    except UsageError:
        return False
    return True


def _with_reader(found: FlavorInput, square: ReadSquare) -> FlavorInput:
    """The input with another way of reading, of rows too."""
    return replace(found, read=_rows(square), read_square=square)


def _rows(square: ReadSquare) -> ReadRows:
    def read(positions: Sequence[int]) -> NDArray[np.float32]:
        import numpy as np

        from .connectome.edges import matrix_to_edges

        rows = [matrix_to_edges(square(position)) for position in positions]
        return np.asarray(rows, dtype=np.float32)

    return read


def _scaled(found: FlavorInput) -> ReadSquare:
    """Reads counts for five million streamlines, or as they are where the number is not known."""

    def read(position: int) -> NDArray[np.float64]:
        from .connectome.structural import scale_counts

        header = streamlines_header(parse_name(Path(found.files[position])))
        n_streamlines = _number(header)
        matrix = _square(found, position)
        return scale_counts(matrix, n_streamlines=n_streamlines) if n_streamlines else matrix

    return read


def _divided(found: FlavorInput) -> ReadSquare:
    """Reads counts divided by volumes; regions without voxels are missing."""
    scaled = _scaled(found)

    def read(position: int) -> NDArray[np.float64]:
        from .connectome.structural import mark_missing, normalise_by_volume

        volumes = volumes_mm3(Path(found.files[position]), found.name)
        return mark_missing(normalise_by_volume(scaled(position), volumes), volumes == 0)

    return read


def _square(found: FlavorInput, position: int) -> NDArray[np.float64]:
    if found.read_square is None:
        raise InputError(
            "holds rows, not matrices", where=found.where, fix="Give QSIRecon's files."
        )
    return found.read_square(position)


def volumes_mm3(file: Path, name: str) -> NDArray[np.float64]:
    """Volumes of the regions of a flavor's atlas in QSIRecon's label image, (n_regions,).

    Raises
    ------
    InputError
        If there is no such image, or it has labels that the matrices do not name.
    """
    import numpy as np

    from .images.diffusion import read_values

    image = label_image(file, name)
    if image is None:
        raise InputError(
            f"QSIRecon's label image of {name.split('_')[1]} is not there",
            where=str(file),
            fix="Restore *_dseg.nii.gz: regions have no volumes without it. Or leave the flavor "
            "out (--flavors).",
        )
    values, affine = read_values(image)
    labels, n_voxels = np.unique(np.rint(values[values > 0]).astype(int), return_counts=True)
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    by_label = {int(label): float(n) * voxel_mm3
                for label, n in zip(labels, n_voxels, strict=True)}  # fmt: skip
    return region_values(file, name.split("_")[1], by_label)
