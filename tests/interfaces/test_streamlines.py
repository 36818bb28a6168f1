# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import InputError
from kraken_bids.images.streamline_ends import AssignedStreamlines
from kraken_bids.interfaces.streamlines import AssignStreamlines, BuildConnectomes


def save(file, values, affine=None):
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1]) if affine is None else affine), file)
    return str(file)


@pytest.fixture
def tractogram(tmp_path, monkeypatch):
    """Two streamlines, 5 and 3 mm long, and label images with region 3 around (0, 3, 4)."""
    monkeypatch.chdir(tmp_path)
    lines = [np.array([[0, 0, 0], [0, 3, 4.0]]), np.array([[0, 0, 0], [0, 0, 1], [0, 0, 3.0]])]
    made = nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
    nib.streamlines.TckFile(made).save(str(tmp_path / "ready.tck"))
    labels = np.zeros((3, 6, 6), np.int16)
    labels[0, 0, 0] = 7
    labels[0, 3, 4] = 3
    return {
        "in_file": str(tmp_path / "ready.tck"),
        "algorithm": "sdstream",
        "atlases": ["fs86", "shen268"],
        "labels_files": [
            save(tmp_path / "fs86.nii.gz", labels, np.eye(4)),
            save(tmp_path / "shen268.nii.gz", 2 * labels, np.eye(4)),
        ],
        "radius_mm": 1.5,
        "given": "theirs.trk",
    }


def test_streamlines_are_assigned_and_measured(tractogram):
    outputs = AssignStreamlines(**tractogram).run().outputs
    found = AssignedStreamlines.load(Path(outputs.assignments_file))
    assert found.regions["fs86"].tolist() == [[7, 3], [7, 0]]
    assert found.regions["shen268"].tolist() == [[14, 6], [14, 0]]
    assert found.regions["fs86"].dtype == np.int16
    assert found.weights is None
    np.testing.assert_allclose(found.lengths_mm, [5, 3])
    facts = json.loads(Path(outputs.facts_file).read_text())
    assert facts["sdstream_source"] == "given: theirs.trk"
    assert facts["sdstream_n_streamlines"] == facts["sdstream_n_streamlines_wanted"] == 2
    assert facts["sdstream_median_length_mm"] == 4
    assert facts["sdstream_p25_length_mm"] == 3.5
    assert facts["sdstream_bias"] == "seeding not dynamic"
    assert "sdstream_accepted_fraction" not in facts


def test_seeds_tell_how_many_were_accepted(tractogram):
    file = Path(tractogram["in_file"])
    content = file.read_bytes()
    note = b"\ntotal_count: 8\n"
    place = content.index(b"\nEND")
    # nibabel's header says where the points begin: a longer one needs another number there.
    begin = content.index(b"\nfile: . ") + len(b"\nfile: . ")
    stop = content.index(b"\n", begin)
    offset = int(content[begin:stop])
    longer = content[:begin] + str(offset + len(note)).encode() + content[stop:place] + note
    file.write_bytes(
        longer[: -len(b"\n")]
        + b"\nEND".ljust(offset + len(note) - len(longer) + 1, b"\n")
        + content[offset:]
    )
    outputs = AssignStreamlines(**tractogram, n_wanted=2).run().outputs
    facts = json.loads(Path(outputs.facts_file).read_text())
    assert facts["sdstream_n_seeds"] == 8
    assert facts["sdstream_accepted_fraction"] == 0.25
    assert facts["sdstream_source"] == "tracked"


def test_weights_go_with_the_streamlines(tractogram, tmp_path):
    weights_file, mu_file = tmp_path / "weights.txt", tmp_path / "mu.txt"
    weights_file.write_text("# command_history: tcksift2\n0.5 1.75 \n")
    mu_file.write_text("0.125\n")
    weights = {"weights_file": str(weights_file), "mu_file": str(mu_file)}
    outputs = AssignStreamlines(**tractogram, **weights).run().outputs
    found = AssignedStreamlines.load(Path(outputs.assignments_file))
    assert found.weights.tolist() == [0.5, 1.75]
    facts = json.loads(Path(outputs.facts_file).read_text())
    assert facts["sdstream_sift2_mu"] == 0.125
    assert facts["sdstream_sift2_mean_weight"] == 1.125


def test_weights_that_weigh_nothing_are_refused(tractogram, tmp_path):
    (tmp_path / "weights.txt").write_text("# command_history: tcksift2\n1 1\n")
    assign = AssignStreamlines(**tractogram, weights_file=str(tmp_path / "weights.txt"))
    with pytest.raises(InputError, match="gave all 2 streamlines the weight 1"):
        assign.run()


@pytest.mark.parametrize("text", ["1\n", "1 2 3\n", "1 nan\n", "1 -2\n"])
def test_weights_of_other_streamlines_are_refused(tractogram, tmp_path, text):
    (tmp_path / "weights.txt").write_text(text)
    assign = AssignStreamlines(**tractogram, weights_file=str(tmp_path / "weights.txt"))
    with pytest.raises(InputError, match=r"weights for 2 streamlines.*weights\.txt\)\. Run SIFT2"):
        assign.run()


def test_labels_on_different_grids_are_refused(tractogram, tmp_path):
    save(tmp_path / "shen268.nii.gz", np.ones((3, 6, 6), np.int16), np.diag([1.0, 1, 2, 1]))
    with pytest.raises(InputError, match=r"different grids \(.*shen268\.nii\.gz\)"):
        AssignStreamlines(**tractogram).run()


#: Ends of 8 streamlines in fs86: 6 between regions 1 and 2, one within 4, one unassigned.
PAIRS = [[1, 2]] * 4 + [[2, 1]] * 2 + [[4, 4], [0, 5]]


def save_pairs(file, pairs, weights=None):
    regions = {"fs86": np.array(pairs, dtype=np.int16)}
    AssignedStreamlines(regions, np.ones(len(pairs), np.float32), weights).save(file)


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Inputs of `BuildConnectomes`: fs86 without its last and third region; 8 streamlines."""
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((90, 2, 1), np.int16)
    labels[:86, 0, 0] = np.arange(1, 87)
    labels[labels == 3] = 0
    labels[labels == 86] = 0
    save_pairs(tmp_path / "assignments.npz", PAIRS)
    volumes = [0.0 if index in {2, 85} else 8.0 for index in range(86)]
    (tmp_path / "volumes.json").write_text(json.dumps({"fs86": volumes}))
    (tmp_path / "facts.json").write_text(json.dumps({"n_volumes": 7}))
    mask = np.ones((45, 2, 1), np.uint8)
    return {
        "algorithms": ["sdstream"],
        "atlases": ["fs86"],
        "assignments_files": [str(tmp_path / "assignments.npz")],
        "labels_files": [save(tmp_path / "labels.nii.gz", labels)],
        "volumes_file": str(tmp_path / "volumes.json"),
        "facts_files": [str(tmp_path / "facts.json")],
        "mask_file": save(tmp_path / "mask.nii.gz", mask),
        "radius_mm": 4.0,
    }


def test_connectomes_have_all_regions_and_the_training_scale(counted):
    outputs = BuildConnectomes(**counted).run().outputs
    with np.load(outputs.connectomes_file) as made:
        assert sorted(made) == ["SCsdstream_fs86_count", "SCsdstream_fs86_volnorm"]
        count, volnorm = made["SCsdstream_fs86_count"], made["SCsdstream_fs86_volnorm"]
    assert count.shape == volnorm.shape == (86, 86)
    assert np.flatnonzero(np.isnan(np.diagonal(count))).tolist() == [2, 85]
    assert count[0, 1] == 6 * 5e6 / 8
    assert volnorm[0, 1] == pytest.approx(6 * 5e6 / 8 * 1.953125 / 8)


def test_quality_names_missing_and_idle_regions(counted):
    names = load_atlas("fs86").region_names
    quality = json.loads(Path(BuildConnectomes(**counted).run().outputs.qc_file).read_text())
    assert quality["n_volumes"] == 7
    assert quality["assignment_radius_mm"] == 4
    assert quality["sdstream_fs86_assigned_fraction"] == 6 / 8
    assert quality["sdstream_fs86_within_region_fraction"] == 1 / 8
    assert quality["sdstream_fs86_unassigned_fraction"] == 1 / 8
    regions = quality["regions"]["fs86"]
    assert regions["missing"] == [names[2], names[85]]
    assert regions["without_streamlines"]["sdstream"] == list(names[2:])
    assert regions["streamline_ends"]["sdstream"][:6] == [6, 6, 0, 2, 1, 0]
    assert regions["coverage"][0] == 1
    assert regions["coverage"][44] == 1
    assert regions["coverage"][45] == 0


def test_region_too_small_to_be_measured_counts_as_one_voxel(counted, tmp_path):
    volumes = json.loads(Path(counted["volumes_file"]).read_text())
    volumes["fs86"][0] = 0.0
    Path(counted["volumes_file"]).write_text(json.dumps(volumes))
    outputs = BuildConnectomes(**counted).run().outputs
    with np.load(outputs.connectomes_file) as made:
        # Voxels of 2 mm: 8 mm³.
        assert made["SCsdstream_fs86_volnorm"][0, 1] == pytest.approx(6 * 5e6 / 8 * 1.953125 / 8)
    regions = json.loads(Path(outputs.qc_file).read_text())["regions"]["fs86"]
    assert regions["volume_set_to_one_voxel"] == [load_atlas("fs86").region_names[0]]


def test_labels_beyond_the_atlas_are_refused(counted, tmp_path):
    save_pairs(tmp_path / "assignments.npz", [[87, 1]])
    with pytest.raises(InputError, match="holds label 87, the atlas has 86 regions"):
        BuildConnectomes(**counted).run()


def test_weights_make_connectomes_of_their_sums(counted, tmp_path):
    weights = np.float32([0.5, 0.5, 1, 1, 2, 0.25, 9, 9])
    save_pairs(tmp_path / "assignments.npz", PAIRS, weights)
    outputs = BuildConnectomes(**counted).run().outputs
    with np.load(outputs.connectomes_file) as made:
        assert len(made.files) == 4
        assert made["SCsdstream_fs86_count"][0, 1] == 6 * 5e6 / 8
        sift2, volnorm = made["SCsdstream_fs86_sift2"], made["SCsdstream_fs86_sift2volnorm"]
    assert sift2[0, 1] == sift2[1, 0] == pytest.approx(5.25 * 5e6 / 8)
    assert np.nansum(sift2) == pytest.approx(2 * 5.25 * 5e6 / 8)
    assert volnorm[0, 1] == pytest.approx(5.25 * 5e6 / 8 * 1.953125 / 8)
    assert np.flatnonzero(np.isnan(np.diagonal(sift2))).tolist() == [2, 85]
