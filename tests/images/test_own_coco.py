# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
import shutil

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import InputError
from kraken_bids.images.own_coco import (
    BRAINSTEM,
    SUBCORTEX,
    THALAMUS,
    build_own_labels,
    cerebellum_labels,
    thalamus_labels,
)
from kraken_bids.images.region_sizes import check_order, unusual_sizes
from kraken_bids.plan import OwnLabels, TransformStep

NAMES = load_atlas("coco439").region_names
AREAS = [*(name[2:-4] for name in NAMES[81:200]), "H", *(name[2:-4] for name in NAMES[200:260])]


def index(name):
    return NAMES.index(name) + 1


def region_of(side, number):
    if number == 120:
        return {"lh": 1, "rh": 2}[side]
    return {"rh": 81, "lh": 260}[side] + number - (number > 120)


#: The group's regions in the tests: boxes in scanner coordinates, low and high corner in mm.
BOXES = {
    "VTA_L": ((0, -2, -10), (3, 2, -6)),
    "Raphe_D": ((3, -2, -4), (7, 1, 0)),
    "Cbm_Left_V": ((-14, -20, -20), (0, 4, -5)),
    "Cbm_Vermis_VI": ((2, -20, -20), (8, 4, -5)),
    "Cbm_Right_IX": ((9, -20, -20), (24, 4, -5)),
    "R_V1_ROI": ((-14, 0, 0), (24, 20, 9)),
}


@pytest.fixture
def group_file(tmp_path):
    """A group's image of boxes on a grid of its own, in the scanner's space."""
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [61, -59, -59]
    values = np.zeros((60, 60, 60), np.int16)
    points = np.moveaxis(np.indices(values.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    for name, (low, high) in BOXES.items():
        inside = np.all((points >= low) & (points <= high), axis=-1)
        values[inside] = index(name)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "group.nii.gz")
    return tmp_path / "group.nii.gz"


N_VERTICES = 2000


@pytest.fixture(scope="module")
def written(made_up_freesurfer, tmp_path_factory, sphere):
    made_up = made_up_freesurfer(tmp_path_factory.mktemp("freesurfer") / "sub-01")
    made_up.write(n_vertices=N_VERTICES)
    for side in ("lh", "rh"):
        made_up.save_annotation(side, made_up.areas(side, sphere(N_VERTICES)), AREAS)
    return made_up


@pytest.fixture
def subject(written, tmp_path):
    """A subject of one's own to change."""
    shutil.copytree(written.folder, tmp_path / "sub-01")
    return dataclasses.replace(written, folder=tmp_path / "sub-01")


@pytest.fixture
def own(subject, group_file):
    mri, surf, label = (subject.folder / name for name in ("mri", "surf", "label"))
    files = {
        "grid": mri / "ribbon.mgz",
        "aseg": mri / "aseg.mgz",
        "thalamus": mri / "ThalamicNuclei.v13.T1.FSvoxelSpace.mgz",
    }
    for side in ("lh", "rh"):
        files[f"{side}.annot"] = label / f"{side}.HCP-MMP1.annot"
        files |= {f"{side}.{name}": surf / f"{side}.{name}" for name in ("white", "pial")}
    return OwnLabels("annotation", tuple(files.items()), group_file)


def changed(own, **files):
    return dataclasses.replace(own, files=tuple((dict(own.files) | files).items()))


def read(path):
    return np.asarray(nib.load(path).dataobj)


def group_at(subject, shift=(0, 0, 0)):
    """The group's labels at all voxels, by its boxes."""
    image = nib.load(subject.folder.parent / "group.nii.gz")
    scanner = subject.voxel_points() + subject.CENTRE + shift
    voxels = scanner @ np.linalg.inv(image.affine)[:3, :3].T + np.linalg.inv(image.affine)[:3, 3]
    voxels = np.floor(voxels + 0.5).astype(int)
    inside = np.all((voxels >= 0) & (voxels < image.shape), axis=-1)
    values = np.zeros(subject.SHAPE, int)
    values[inside] = np.asarray(image.dataobj)[tuple(voxels[inside].T)]
    return values


def expected_layers(subject, sphere):
    """Everything but the cerebellum, voxel by voxel, without the code under test."""
    points = subject.voxel_points()
    ribbon, aseg = (read(subject.folder / "mri" / f"{name}.mgz") for name in ("ribbon", "aseg"))
    nuclei = read(subject.folder / "mri" / "ThalamicNuclei.v13.T1.FSvoxelSpace.mgz")
    labels = np.zeros(subject.SHAPE, int)
    for side, code in (("lh", 3), ("rh", 42)):
        directions = sphere(N_VERTICES)
        numbers = subject.areas(side, directions)
        regions = np.array([0, *(region_of(side, number) for number in range(1, 181))])
        radial = points[ribbon == code] - subject.MIDDLE[side]
        # On a sphere the nearest vertex is the one whose direction is nearest.
        labels[ribbon == code] = regions[numbers[np.argmax(radial @ directions.T, axis=1)]]
    for code, name in SUBCORTEX.items():
        labels[aseg == code] = index(name)
    group = group_at(subject)
    for name in BRAINSTEM:
        labels[group == index(name)] = index(name)
    for side, first in (("L", 8100), ("R", 8200)):
        for group_name, codes in THALAMUS.items():
            for code in codes:
                labels[nuclei == first + code] = index(f"Thal_{group_name}_{side}")
        # Left-over nuclei are slices at the end of the bar: PuL (22) is the last one kept.
        for code in (8, 11, 19, 30):
            labels[nuclei == first + code] = index(f"Thal_PuL_{side}")
    return labels, aseg


def test_the_image_is_what_its_parts_say_voxel_by_voxel(subject, own, sphere):
    found = build_own_labels(own, names=NAMES)
    expected, aseg = expected_layers(subject, sphere)
    cerebellum = (aseg == 8) | (aseg == 47)
    assert np.array_equal(found.labels[~cerebellum], expected[~cerebellum])
    assert np.allclose(found.affine, subject.affine)
    boxes = {name for name in BOXES if name.startswith("Cbm_")}
    present = boxes | {NAMES[value - 1] for value in np.unique(expected) if value}
    assert set(found.missing) == set(NAMES) - present
    assert {"VTA_R", "LC_L", "Cbm_Vermis_X"} < set(found.missing)
    # All areas but the one that is the medial wall of the made-up hemispheres.
    assert sum(name in present for name in NAMES[81:]) == 356


def test_left_is_left_in_the_scanners_space(subject, own):
    found = build_own_labels(own, names=NAMES)
    x = (subject.voxel_points() + subject.CENTRE)[..., 0]
    middle = subject.CENTRE[0]
    for name in ("L_V1_ROI", "L_p24_ROI", "Hippocampus_L", "Thal_AV_L", "Cbm_Left_V"):
        assert x[found.labels == index(name)].max() < middle
    for name in ("R_V1_ROI", "R_p24_ROI", "Hippocampus_R", "Thal_AV_R", "Cbm_Right_IX"):
        assert x[found.labels == index(name)].min() >= middle


def test_area_h_is_hippocampus_beside_the_one_of_the_segmentation(subject, own):
    found = build_own_labels(own, names=NAMES)
    aseg, ribbon = (read(subject.folder / "mri" / f"{name}.mgz") for name in ("aseg", "ribbon"))
    in_left = found.labels == index("Hippocampus_L")
    assert np.all(in_left[aseg == 17])
    assert np.any(in_left & (ribbon == 3))
    assert not np.any(in_left & (ribbon == 42))


def test_the_cerebellum_is_filled_with_the_nearest_region_of_its_side(subject, own):
    found = build_own_labels(own, names=NAMES)
    aseg = read(subject.folder / "mri" / "aseg.mgz")
    group = group_at(subject)
    vermis = index("Cbm_Vermis_VI")
    for code, region in ((8, index("Cbm_Left_V")), (47, index("Cbm_Right_IX"))):
        seeds = np.argwhere((group == region) | (group == vermis))
        voxels = np.argwhere(aseg == code)[::37]
        for voxel in voxels:
            distances = np.linalg.norm(seeds - voxel, axis=1)
            nearest = seeds[distances <= distances.min() + 1e-9]
            assert found.labels[tuple(voxel)] in {group[tuple(seed)] for seed in nearest}
    filled = {NAMES[value - 1] for value in np.unique(found.labels[aseg == 8])}
    assert filled == {"Cbm_Left_V", "Cbm_Vermis_VI"}
    assert np.any(found.labels[aseg == 47] == vermis)
    outside = ~np.isin(aseg, (8, 47))
    assert not np.isin(found.labels[outside], np.arange(55, 82)).any()


def test_the_groups_image_goes_through_the_transforms(subject, own, tmp_path):
    """A shift by -2 mm in LPS: voxels look 2 mm farther to the right in the group's image."""
    transform = tmp_path / "shift.txt"
    transform.write_text(
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 -2 0 0\nFixedParameters: 0 0 0\n"
    )
    step = TransformStep(transform, "MNI152NLin6Asym", "fsnative")
    found = build_own_labels(dataclasses.replace(own, group_steps=(step,)), names=NAMES)
    raphe, aseg = index("Raphe_D"), read(subject.folder / "mri" / "aseg.mgz")
    carried = found.labels[(aseg != 8) & (aseg != 47)] == raphe
    for shift, is_same in (((2, 0, 0), True), ((0, 0, 0), False)):
        expected = group_at(subject, shift=shift)[(aseg != 8) & (aseg != 47)] == raphe
        assert np.array_equal(carried, expected) == is_same


def test_the_cortex_of_the_segmentation_replaces_a_missing_ribbon(subject, own):
    same = build_own_labels(own, names=NAMES)
    other = changed(own, grid=subject.folder / "mri" / "aparc+aseg.mgz")
    assert np.array_equal(build_own_labels(other, names=NAMES).labels, same.labels)


def test_finer_nuclei_are_brought_onto_the_grid(subject, own):
    mri = subject.folder / "mri"
    coarse = read(dict(own.files)["thalamus"])
    fine = np.kron(coarse, np.ones((2, 2, 2), int))
    affine = subject.affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = subject.affine[:3, 3] + subject.affine[:3, :3] @ np.full(3, -0.25)
    nib.save(nib.MGHImage(fine.astype(np.int32), affine), mri / "ThalamicNuclei.v12.T1.mgz")
    found = build_own_labels(changed(own, thalamus=mri / "ThalamicNuclei.v12.T1.mgz"), names=NAMES)
    assert np.array_equal(found.labels, build_own_labels(own, names=NAMES).labels)


def ready_volume(subject, own, *, permuted=None):
    """Codes of areas in the ribbon of the built image, and the group's sizes as they are there."""
    labels = build_own_labels(own, names=NAMES).labels
    ribbon = read(subject.folder / "mri" / "ribbon.mgz")
    numbers = {region_of(side, k): (side, k) for side in ("lh", "rh") for k in range(1, 181)}
    values = np.where(ribbon == 3, 1000, np.where(ribbon == 42, 2000, 0))
    for region in np.unique(labels[ribbon > 0]):
        if region:
            k = numbers[region][1] if permuted is None else permuted[numbers[region][1]]
            values[(labels == region) & (ribbon > 0)] += k
    path = subject.folder / "mri" / "HCP-MMP1+aseg.mgz"
    subject.save(path, values)
    group = nib.load(own.group_file)
    sizes = np.bincount(labels.ravel(), minlength=440)
    filled = np.asarray(group.dataobj).copy()
    free = np.flatnonzero(filled == 0)
    for region in range(82, 440):
        take, free = free[: sizes[region] // 2], free[sizes[region] // 2 :]
        filled.ravel()[take] = region
    nib.save(nib.Nifti1Image(filled, group.affine), own.group_file)
    return dataclasses.replace(changed(own, grid=path, cortex=path), cortex="volume"), labels


def test_a_ready_volume_gives_the_same_cortex(subject, own):
    volume, expected = ready_volume(subject, own)
    found = build_own_labels(volume, names=NAMES).labels
    cortical = expected >= 82
    assert np.array_equal(found[cortical], expected[cortical])


def test_a_ready_volume_in_another_order_is_refused(subject, own, rng):
    order = np.array([0, *(rng.permutation(180) + 1)])
    volume, _ = ready_volume(subject, own, permuted=order)
    with pytest.raises(InputError, match="do not seem to be numbered"):
        build_own_labels(volume, names=NAMES)


def test_left_over_nuclei_go_to_the_nearest_of_their_side_in_mm():
    nuclei = np.zeros((3, 7, 3), int)
    nuclei[0, 2, 0], nuclei[2, 1, 0] = 8103, 8110  # AV, LP
    nuclei[0, 1, 0] = 8108  # LD: 1 voxel of 3 mm from AV, 2 voxels of 1 mm from LP
    nuclei[0, 0, 0], nuclei[2, 4, 2] = 8203, 8230  # AV right; VM right
    affine = np.diag([1.0, 3.0, 2.0, 1.0])
    labels = thalamus_labels(nuclei, names=NAMES, affine=affine)
    assert NAMES[labels[0, 1, 0] - 1] == "Thal_LP_L"
    assert NAMES[labels[2, 4, 2] - 1] == "Thal_AV_R"
    assert np.count_nonzero(labels) == 5


def test_all_nuclei_are_grouped_once():
    codes = [code for codes in THALAMUS.values() for code in codes]
    assert len(codes) == len(set(codes)) == 21
    assert [f"Thal_{group}_L" for group in THALAMUS] == list(NAMES[10:40:2])


def test_a_side_without_nuclei_is_told():
    nuclei = np.full((2, 2, 2), 8103)
    with pytest.raises(InputError, match=r"no thalamic nuclei of side R .*8201"):
        thalamus_labels(nuclei, names=NAMES, affine=np.eye(4))


def test_a_region_does_not_cross_the_midline_that_freesurfer_found():
    aseg = np.array([8, 8, 8, 47, 47, 0]).reshape(6, 1, 1)
    left, right = index("Cbm_Left_V"), index("Cbm_Right_V")
    carried = np.array([left, 0, right, right, 0, left], dtype=np.int32).reshape(6, 1, 1)
    labels = cerebellum_labels(aseg, carried, names=NAMES, affine=np.eye(4))
    assert labels.ravel().tolist() == [left, left, left, right, right, 0]


def test_unusual_sizes_do_not_depend_on_the_size_of_the_head():
    group = np.full(439, 1000.0)
    own = group * 0.7
    own[5], own[6], own[7], group[8] = 0, 1000 * 0.7 * 5, 1000 * 0.7 / 5, 10
    assert unusual_sizes(own, group, names=NAMES) == {NAMES[6]: 5.0, NAMES[7]: 0.2}


def test_sizes_of_the_group_itself_are_in_order(rng):
    sizes = rng.uniform(200, 10_000, 439)
    check_order(sizes * rng.uniform(0.5, 2, 439), sizes, names=NAMES, where="here")
    with pytest.raises(InputError, match="correlate with the group's by"):
        check_order(rng.permutation(sizes), sizes, names=NAMES, where="here")


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("grid", "no cortex of the lh hemisphere"),
        ("aseg", "neither brainstem nor cerebellum"),
        ("thalamus", "no thalamic nuclei of side L"),
    ],
)
def test_empty_images_are_told(subject, own, tmp_path, role, message):
    subject.save(tmp_path / "empty.mgz", np.zeros(subject.SHAPE))
    with pytest.raises(InputError, match=message):
        build_own_labels(changed(own, **{role: tmp_path / "empty.mgz"}), names=NAMES)


def test_exchanged_hemispheres_are_refused(subject, own):
    """Annotations and surfaces of one side with the ribbon of the other do not lie together."""
    files = dict(own.files)
    for name in ("white", "pial"):
        files[f"lh.{name}"], files[f"rh.{name}"] = files[f"rh.{name}"], files[f"lh.{name}"]
    with pytest.raises(InputError, match="the surfaces do not lie in the cortex"):
        build_own_labels(changed(own, **files), names=NAMES)


def test_an_image_turned_left_to_right_is_refused(subject, own):
    turned = subject.affine * [[-1], [1], [1], [1]]
    for role in ("grid", "aseg", "thalamus"):
        path = dict(own.files)[role]
        image = nib.load(path)
        values = np.asarray(image.dataobj)
        nib.save(nib.MGHImage(values, turned), path)
    with pytest.raises(InputError, match="left hemisphere lie to the right"):
        build_own_labels(own, names=NAMES)
