# SPDX-License-Identifier: MIT
import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nipype.pipeline import engine as pe
from scipy.spatial.transform import Rotation

from kraken_bids.atlases import load_atlas
from kraken_bids.demo.regions import draw_atlas
from kraken_bids.demo.template import AFFINE as TEMPLATE_AFFINE
from kraken_bids.demo.template import load_template
from kraken_bids.errors import InputError
from kraken_bids.interfaces.atlases import ResampleLabels, plain_label_source
from kraken_bids.plan import LabelSource, TransformStep

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])
SHAPE = (20, 20, 20)
SHIFT_MM = 6.0


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path, monkeypatch):
    (tmp_path / "node").mkdir()
    monkeypatch.chdir(tmp_path / "node")


def save(values, file, affine=AFFINE):
    nib.Nifti1Image(values, affine).to_filename(file)
    return file


@pytest.fixture
def bold_file(tmp_path):
    return save(np.zeros((*SHAPE, 4), dtype=np.float32), tmp_path / "bold.nii.gz")


@pytest.fixture
def mask_file(tmp_path):
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[3:17, 3:17, 3:17] = 1
    return save(mask, tmp_path / "mask.nii.gz")


def in_brain(values):
    """Values, repeated, in the 12³ voxels of the brain."""
    labels = np.zeros(SHAPE, dtype=np.int32)
    labels[4:16, 4:16, 4:16] = np.resize(values, (12, 12, 12))
    return labels


@pytest.fixture
def shen(tmp_path):
    labels = in_brain(np.arange(1, 269))
    return LabelSource("shen268", save(labels, tmp_path / "shen.nii.gz"), "T1w")


@pytest.fixture
def segmentation_file(tmp_path):
    codes = [region.code for region in load_atlas("fs86").regions if region.code != 1035]
    return save(in_brain([*codes, 2, 41, 16, 77]), tmp_path / "aparcaseg.nii.gz")


def run(sources, reference_file, **inputs):
    plain = [plain_label_source(source) for source in sources]
    interface = ResampleLabels(label_sources=plain, reference_file=str(reference_file), **inputs)
    return interface.run().outputs


def values_of(file):
    return np.asanyarray(nib.load(file).dataobj)


def test_labels_on_the_grid_of_a_series_keep_their_values(shen, bold_file, mask_file):
    outputs = run([shen], bold_file, mask_file=str(mask_file))
    (file,) = outputs.labels_files
    assert Path(file).name == "shen268_dseg.nii.gz"
    image = nib.load(file)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), values_of(shen.file))
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.get_data_dtype() == np.int16


def test_freesurfer_codes_become_indices_and_missing_regions_have_no_volume(
    segmentation_file, bold_file
):
    source = LabelSource("fs86", segmentation_file, "T1w", codes="freesurfer")
    outputs = run([source], bold_file)
    labels = values_of(outputs.labels_files[0])
    codes = values_of(segmentation_file)
    for region in load_atlas("fs86").regions:
        np.testing.assert_array_equal(labels == region.index, codes == region.code)
    assert not labels[np.isin(codes, [2, 41, 16, 77])].any()
    volumes = json.loads(Path(outputs.volumes_file).read_text())["fs86"]
    missing = next(region for region in load_atlas("fs86").regions if region.code == 1035)
    assert [index for index, volume in enumerate(volumes, 1) if not volume] == [missing.index]
    np.testing.assert_allclose(volumes, 27.0 * np.bincount(labels.ravel(), minlength=87)[1:])


def test_tissue_codes_are_kept_and_have_no_volumes(segmentation_file, shen, bold_file):
    tissues = LabelSource("tissues", segmentation_file, "T1w", codes="freesurfer")
    outputs = run([tissues, shen], bold_file)
    assert [Path(file).name for file in outputs.labels_files] == [
        "tissues_dseg.nii.gz",
        "shen268_dseg.nii.gz",
    ]
    np.testing.assert_array_equal(values_of(outputs.labels_files[0]), values_of(segmentation_file))
    assert list(json.loads(Path(outputs.volumes_file).read_text())) == ["shen268"]


def test_volumes_come_from_their_own_image(shen, bold_file, tmp_path):
    smaller = in_brain(np.arange(1, 269))
    smaller[8:] = 0
    other = replace(shen, volume_file=save(smaller, tmp_path / "smaller.nii.gz"))
    outputs = run([other], bold_file)
    np.testing.assert_array_equal(values_of(outputs.labels_files[0]), values_of(shen.file))
    volumes = json.loads(Path(outputs.volumes_file).read_text())["shen268"]
    np.testing.assert_allclose(volumes, 27.0 * np.bincount(smaller.ravel(), minlength=269)[1:])


def test_isotropic_grid_covers_the_field_of_view(shen, bold_file):
    image = nib.load(run([shen], bold_file, voxel_mm=1.5).labels_files[0])
    assert image.shape == (40, 40, 40)
    np.testing.assert_allclose(image.header.get_zooms(), 1.5)
    expected = values_of(shen.file).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), expected)


@pytest.fixture
def step(tmp_path):
    """Points of T1w lie SHIFT_MM further left (LPS x) in the template."""
    file = tmp_path / "from-MNI_to-T1w.txt"
    sitk.WriteTransform(sitk.TranslationTransform(3, (SHIFT_MM, 0.0, 0.0)), str(file))
    return TransformStep(file, "MNI152NLin6Asym", "T1w")


def test_labels_travel_through_their_transforms(shen, bold_file, step, segmentation_file):
    template = replace(shen, space="MNI152NLin6Asym", transforms=(step,))
    turned = replace(
        shen,
        space="MNI152NLin6Asym",
        transforms=(replace(step, inverted=True),),
        atlas="fs86",
        file=segmentation_file,
        codes="freesurfer",
    )
    outputs = run([template, turned], bold_file)
    # The first axis runs to the left here, so that LPS x + 6 mm is two voxels further on.
    expected = np.roll(values_of(shen.file), -2, axis=0)
    np.testing.assert_array_equal(values_of(outputs.labels_files[0]), expected)
    own = run([LabelSource("fs86", segmentation_file, "T1w", codes="freesurfer")], bold_file)
    expected = np.roll(values_of(own.labels_files[0]), 2, axis=0)
    outputs = run([template, turned], bold_file)
    np.testing.assert_array_equal(values_of(outputs.labels_files[1]), expected)


def test_wrong_transform_is_refused_with_files_and_spaces(shen, bold_file, mask_file, tmp_path):
    file = tmp_path / "wrong.txt"
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 18.0, 18.0)), str(file))
    step = TransformStep(file, "MNI152NLin6Asym", "T1w")
    source = replace(shen, space="MNI152NLin6Asym", transforms=(step,))
    message = (
        r"shen268 lie beside the brain mask.*shen\.nii\.gz in MNI152NLin6Asym, to T1w by "
        r".*wrong\.txt; data: .*bold\.nii\.gz in T1w"
    )
    with pytest.raises(InputError, match=message):
        run([source], bold_file, mask_file=str(mask_file), reference_space="T1w")


def test_labels_off_the_grid_are_refused(shen, bold_file, tmp_path):
    file = tmp_path / "far.txt"
    sitk.WriteTransform(sitk.TranslationTransform(3, (900.0, 0.0, 0.0)), str(file))
    source = replace(shen, transforms=(TransformStep(file, "MNI", "T1w"),))
    with pytest.raises(InputError, match=r"none of the labels of shen268.*far\.txt"):
        run([source], bold_file)


def test_image_of_another_atlas_is_refused(bold_file, tmp_path):
    labels = in_brain(np.arange(1, 440))
    source = LabelSource("shen268", save(labels, tmp_path / "coco.nii.gz"), "T1w")
    with pytest.raises(InputError, match=r"label 439, but shen268 has 268 regions.*coco\.nii\.gz"):
        run([source], bold_file)


def test_segmentation_with_other_codes_is_refused(bold_file, tmp_path):
    file = save(in_brain(np.arange(11101, 11175)), tmp_path / "a2009s.nii.gz")
    source = LabelSource("fs86", file, "T1w", codes="freesurfer")
    with pytest.raises(InputError, match=r"none of the labels of fs86.*a2009s\.nii\.gz"):
        run([source], bold_file)


def test_missing_label_image_is_refused_with_its_name(shen, bold_file, tmp_path):
    source = replace(shen, file=tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match=r"cannot be opened.*none\.nii\.gz"):
        run([source], bold_file)


def test_node_runs_again_when_a_file_has_changed(shen, bold_file, step, tmp_path):
    source = replace(shen, space="MNI152NLin6Asym", transforms=(step,))

    def hash_of():
        node = pe.Node(ResampleLabels(), name="resample", base_dir=str(tmp_path))
        node.inputs.label_sources = [plain_label_source(source)]
        node.inputs.reference_file = str(bold_file)
        return node.inputs.get_hashval(hash_method="timestamp")[1]

    before = hash_of()
    assert hash_of() == before
    os.utime(step.file, (1, 1))
    assert hash_of() != before


def test_plain_source_can_be_written_as_json(shen, step):
    source = replace(shen, transforms=(step,), volume_file=shen.file)
    plain = plain_label_source(source)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["steps"][0] == {
        "file": str(step.file), "source": "MNI152NLin6Asym", "target": "T1w", "inverted": False
    }  # fmt: skip


@pytest.fixture(scope="module")
def brain():
    """Image and mask of the template on 4 mm, and an atlas on its 2 mm grid."""
    template = load_template()
    every, affine = (slice(None, None, 2),) * 3, TEMPLATE_AFFINE @ np.diag([2, 2, 2, 1])
    image = (3 * template.csf + 1.4 * template.grey + template.white)[every]
    series = np.stack([image, image + 0.1], axis=-1).astype(np.float32)
    return series, template.brain[every].astype(np.uint8), affine, draw_atlas("shen268")


def brain_files(brain, folder):
    series, mask, affine, labels = brain
    bold, mask = save(series, folder / "b.nii.gz", affine), save(mask, folder / "m.nii.gz", affine)
    return bold, mask, save(labels, folder / "template.nii.gz", TEMPLATE_AFFINE)


def test_labels_that_a_wrong_transform_moves_are_refused_and_taken_with_the_right_one(
    brain, tmp_path
):
    """The overlap with the mask is above the limit of `check_overlap`."""
    bold, mask, labels = brain_files(brain, tmp_path)
    file = tmp_path / "neighbour.txt"
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 14.0, 0.0)), str(file))
    step = TransformStep(file, "MNI152NLin6Asym", "T1w")
    source = LabelSource("shen268", labels, "MNI152NLin6Asym", transforms=(step,))
    message = r"shen268 lie 1\d mm and \d degrees off.*template\.nii\.gz.*by .*neighbour\.txt"
    with pytest.raises(InputError, match=message):
        run([source], bold, mask_file=str(mask))
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 1.0, 0.0)), str(file))
    assert len(run([source], bold, mask_file=str(mask)).labels_files) == 1


def moved(shift=(0, 0, 0), axis="x", degrees=0.0):
    movement = np.eye(4)
    movement[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    movement[:3, 3] = shift
    return movement


@pytest.fixture
def codes_file(brain, tmp_path):
    """Write FreeSurfer codes of the template's tissues, moved."""
    template = load_template()
    kind = np.stack([template.grey, template.white, template.csf]).argmax(axis=0)
    x = np.arange(kind.shape[0]) * TEMPLATE_AFFINE[0, 0] + TEMPLATE_AFFINE[0, 3]
    is_left = np.broadcast_to((x < 0)[:, None, None], kind.shape)
    codes = np.where(is_left, np.array([1002, 2, 4])[kind], np.array([2002, 41, 43])[kind])
    codes = (codes * template.brain).astype(np.int32)
    return lambda movement: save(codes, tmp_path / "aparc.nii.gz", movement @ TEMPLATE_AFFINE)


@pytest.mark.parametrize(
    "wrong",
    [moved((15, 0, 0)), moved((0, 0, -15)), moved(degrees=20), moved(axis="y", degrees=20)],
    ids=["right", "down", "left-right axis", "front-back axis"],
)
@pytest.mark.parametrize("atlas", ["fs86", "tissues"])
def test_misplaced_segmentation_is_refused_unless_forced(
    brain, tmp_path, codes_file, wrong, atlas
):
    bold, mask, _ = brain_files(brain, tmp_path)
    source = LabelSource(atlas, codes_file(wrong), "T1w", codes="freesurfer")
    message = rf"labels of {atlas} lie \d+ mm and \d+ degrees off.*aparc\.nii\.gz.*--force takes"
    with pytest.raises(InputError, match=message):
        run([source], bold, mask_file=str(mask))
    assert run([source], bold, mask_file=str(mask), force=True).labels_files


def test_segmentation_a_little_off_is_taken(brain, tmp_path, codes_file):
    bold, mask, _ = brain_files(brain, tmp_path)
    file = codes_file(moved((2, -1, 1), degrees=2))
    source = LabelSource("fs86", file, "T1w", codes="freesurfer")
    assert run([source], bold, mask_file=str(mask)).labels_files


def test_labels_with_sides_swapped_are_refused(brain, tmp_path):
    bold, mask, labels = brain_files(brain, tmp_path)
    mirrored = np.diag([-1.0, 1, 1, 1]) @ TEMPLATE_AFFINE
    save(brain[3], labels, mirrored)
    source = LabelSource("shen268", labels, "T1w")
    with pytest.raises(InputError, match=r"left and right are swapped.*shen268.*template\.nii"):
        run([source], bold, mask_file=str(mask))
