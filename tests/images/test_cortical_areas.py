# SPDX-License-Identifier: MIT
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import InputError
from kraken_bids.images.cortical_areas import (
    area_regions,
    carry_areas,
    label_ribbon,
    read_areas,
    read_surface_areas,
    read_vertices,
    volume_areas,
)

NAMES = load_atlas("coco439").region_names
#: Areas by number from 1, as the annotation of 2016 has them.
AREAS = [*(name[2:-4] for name in NAMES[81:200]), "H", *(name[2:-4] for name in NAMES[200:260])]


def region_of(side, number):
    """Region of an area number by the formula of the published table."""
    if number == 120:
        return {"lh": 1, "rh": 2}[side]
    return {"rh": 81, "lh": 260}[side] + number - (number > 120)


@pytest.mark.parametrize("side", ["lh", "rh"])
def test_areas_are_numbered_as_published(side):
    regions = area_regions({"lh": "L", "rh": "R"}[side], NAMES)
    assert list(regions.values()) == [region_of(side, number) for number in range(1, 181)]
    assert list(regions) == [area.lower() for area in AREAS]


def test_landmarks_of_the_numbering():
    left, right = (list(area_regions(side, NAMES)) for side in "LR")
    assert left == right
    numbers = {
        name: left.index(name) + 1 for name in ("v1", "4", "pol1", "h", "p24") if name in left
    }
    assert numbers == {"v1": 1, "4": 8, "h": 120, "p24": 180}


@pytest.mark.parametrize("side", ["lh", "rh"])
def test_an_annotation_is_read_by_names(made_up_freesurfer, tmp_path, side, rng):
    numbers = rng.permutation(np.arange(181).repeat(3))
    file = made_up_freesurfer(tmp_path).save_annotation(side, numbers, AREAS)
    expected = [0 if number == 0 else region_of(side, number) for number in numbers]
    assert read_areas(file, side, names=NAMES).tolist() == expected


@pytest.mark.parametrize(
    "spell",
    [lambda name: name, lambda name: f"L_{name}", lambda name: f"L_{name.lower()}_ROI-lh"],
    ids=["bare", "side", "side and suffix"],
)
def test_spellings_of_names_are_understood(tmp_path, spell):
    file = tmp_path / "lh.HCPMMP1.annot"
    table = np.column_stack([np.arange(1, 182)] * 3 + [np.zeros(181, int)] * 2)
    named = ["Unknown", *map(spell, AREAS)]
    nib.freesurfer.write_annot(file, np.arange(181), table, named, fill_ctab=True)
    expected = [0, *(region_of("lh", number) for number in range(1, 181))]
    assert read_areas(file, "lh", names=NAMES).tolist() == expected


def test_vertices_without_a_colour_are_in_no_area(made_up_freesurfer, tmp_path):
    numbers = np.arange(181)
    file = made_up_freesurfer(tmp_path).save_annotation("lh", numbers, AREAS)
    content = bytearray(file.read_bytes())
    content[4 + 8 * 5 + 4 : 4 + 8 * 5 + 8] = (0x00FFFFFF).to_bytes(4, "big")  # vertex 5
    file.write_bytes(content)
    assert read_areas(file, "lh", names=NAMES)[5] == 0
    assert read_areas(file, "lh", names=NAMES)[6] == region_of("lh", 6)


def test_the_other_hemispheres_annotation_is_refused(made_up_freesurfer, tmp_path):
    file = made_up_freesurfer(tmp_path).save_annotation("rh", np.arange(181), AREAS)
    with pytest.raises(InputError, match="lacks 180 of the 180 areas"):
        read_areas(file, "lh", names=NAMES)


def test_another_parcellation_is_refused(made_up_freesurfer, tmp_path):
    file = made_up_freesurfer(tmp_path).save_annotation("lh", np.arange(180), AREAS[:-1])
    with pytest.raises(InputError, match=r"lacks 1 of the 180 areas .* \(such as p24\)"):
        read_areas(file, "lh", names=NAMES)


@pytest.mark.parametrize("content", [b"", b"no annotation at all", b"\0\0\0\5\0\0"])
@pytest.mark.parametrize("read", [lambda file: read_areas(file, "lh", names=NAMES), read_vertices])
def test_damaged_files_are_told(tmp_path, content, read):
    file = tmp_path / "lh.white"
    file.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a FreeSurfer"):
        read(file)


def test_areas_are_carried_to_the_nearest_vertex_of_the_registered_sphere(sphere, rng):
    source, target = 100 * sphere(300), 57 * sphere(500)[rng.permutation(500)]
    areas = rng.integers(0, 181, 300).astype(np.int32)
    cosines = (source / 100) @ (target / 57).T
    expected = areas[np.argmax(cosines, axis=0)]
    assert carry_areas(areas, source, target).tolist() == expected.tolist()


def test_the_registered_spheres_are_used_and_not_the_shapes(made_up_freesurfer, tmp_path, sphere):
    """The participant's sphere is turned against its surface: areas follow the sphere."""
    own, common = (
        made_up_freesurfer(tmp_path / "sub-01"),
        made_up_freesurfer(tmp_path / "fsaverage"),
    )
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    shape = sphere(700)
    numbers = common.areas("lh", sphere(900))
    files = {
        "lh.annot": common.save_annotation("lh", numbers, AREAS),
        "fsaverage.lh.sphere": common.save_surface("lh.sphere.reg", 100 * sphere(900)),
        "lh.sphere": own.save_surface("lh.sphere.reg", 100 * shape @ turn.T),
        "lh.white": own.save_surface("lh.white", 16 * shape),
        "lh.pial": own.save_surface("lh.pial", 20 * shape),
    }
    vertices, areas = read_surface_areas(files, "lh", names=NAMES)
    nearest = np.argmax(shape @ turn.T @ sphere(900).T, axis=1)
    expected = [0 if number == 0 else region_of("lh", number) for number in numbers[nearest]]
    assert areas.tolist() == expected
    assert np.allclose(vertices, 18 * shape, atol=1e-4)


def test_surfaces_of_another_run_are_told(made_up_freesurfer, tmp_path, sphere):
    own = made_up_freesurfer(tmp_path)
    files = {
        "lh.annot": own.save_annotation("lh", np.arange(181), AREAS),
        "lh.white": own.save_surface("lh.white", sphere(181)),
        "lh.pial": own.save_surface("lh.pial", sphere(180)),
    }
    with pytest.raises(InputError, match=r"180 vertices, lh\.HCP-MMP1\.annot has 181"):
        read_surface_areas(files, "lh", names=NAMES)


def test_voxels_take_the_nearest_vertex_by_brute_force(sphere, rng):
    affine = np.array([[-1.0, 0, 0, 9], [0, 0, 1.2, -9], [0, -0.8, 0, 7], [0, 0, 0, 1]])
    vertices = 5 * sphere(200)
    areas = rng.integers(0, 30, 200).astype(np.int32)
    ribbon = np.zeros((18, 18, 16), dtype=bool)
    points = np.moveaxis(np.indices(ribbon.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    ribbon[np.abs(np.linalg.norm(points, axis=-1) - 5) < 1.5] = True
    found = label_ribbon(ribbon, affine, vertices=vertices, areas=areas, where="here")
    assert not found[~ribbon].any()
    for voxel in np.argwhere(ribbon):
        place = affine[:3, :3] @ voxel + affine[:3, 3]
        distances = np.linalg.norm(vertices - place, axis=1)
        candidates = areas[distances <= distances.min() + 1e-9]
        assert found[tuple(voxel)] in candidates


def test_surfaces_beside_the_cortex_are_refused(sphere):
    ribbon = np.ones((6, 6, 6), dtype=bool)
    with pytest.raises(InputError, match="100% of its voxels are more than 5 mm"):
        label_ribbon(ribbon, np.eye(4), vertices=100 + sphere(9), areas=np.ones(9, np.int32),
                     where="here")  # fmt: skip


def test_a_ready_volume_is_read_by_codes():
    values = np.concatenate([
        [0, 17, 999, 1000, 2000, 3001, 4180],
        1000 + np.arange(1, 181),
        2000 + np.arange(1, 181),
    ]).reshape(1, 1, -1)  # fmt: skip
    expected = [region_of(side, number) for side in ("lh", "rh") for number in range(1, 181)]
    labels = volume_areas(values, names=NAMES, where="here").ravel()
    assert labels.tolist() == [0] * 7 + expected


@pytest.mark.parametrize("codes", [np.arange(1001, 1036), np.arange(1001, 1200)])
def test_a_volume_of_another_parcellation_is_refused(codes):
    values = np.concatenate([codes, codes + 1000]).reshape(1, 1, -1)
    with pytest.raises(InputError, match=f"holds {len(codes)} codes from 1001"):
        volume_areas(values, names=NAMES, where="here")
