# SPDX-License-Identifier: MIT
"""Interfaces of the functional branch, on a run of a few voxels."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.fft
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nilearn.maskers import NiftiLabelsMasker
from nilearn.signal import clean
from scipy import ndimage

from kraken_bids.errors import InputError
from kraken_bids.interfaces.functional import CombineRuns, DenoiseSeries, ParcellateSeries

SHAPE = (12, 12, 12)
N_VOLUMES = 160
TR_S = 1.0
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
REGIONS = {
    "toy": [[f"{side}_{number}", side] for side in "LR" for number in range(4)],
    "other": [["a", "B"], ["b", "B"], ["absent", "B"]],
}
LAMBDAS = {"toy": 0.06, "other": 0.2}


def save(values, file):
    nib.Nifti1Image(values, AFFINE).to_filename(file)
    return str(file)


def write_confounds(file, motion, **columns):
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    table = dict(zip(names, motion.T, strict=True)) | columns
    rows = zip(*table.values(), strict=True)
    lines = ["\t".join(table), *("\t".join(f"{value:.10g}" for value in row) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.fixture
def run(tmp_path):
    """A run of noise with motion, components and a segmentation, as paths and arrays."""
    rng = np.random.default_rng(5)
    toy = np.zeros(SHAPE, dtype=np.int16)
    toy[2:10, 2:10, 2:10] = np.kron(np.arange(1, 9).reshape(2, 2, 2), np.ones((4, 4, 4)))
    other = np.where(toy > 0, 1 + (toy > 5), 0).astype(np.int16)
    codes = np.zeros(SHAPE, dtype=np.int16)
    codes[:5], codes[5:9], codes[9:] = 2, 1005, 4
    mask = np.ones(SHAPE, dtype=np.uint8)
    motion = np.cumsum(rng.normal(0, [0.02] * 3 + [2e-4] * 3, (N_VOLUMES, 6)), axis=0)
    values = rng.normal(1000, 20, (*SHAPE, N_VOLUMES))
    values += ndimage.gaussian_filter1d(rng.normal(0, 60, (*SHAPE, N_VOLUMES)), 3, axis=0)
    values += (rng.normal(0, 30, (*SHAPE, 6)) @ motion.T).reshape(values.shape)
    values = values.astype(np.float32)
    values[toy == 8] = 0
    components = {f"w_comp_cor_{n:02d}": rng.normal(size=N_VOLUMES) for n in range(7)}
    components |= {f"c_comp_cor_{n:02d}": rng.normal(size=N_VOLUMES) for n in range(7)}
    sidecar = tmp_path / "confounds.json"
    about = {
        name: {"Method": "aCompCor", "Mask": "WM" if name[0] == "w" else "CSF", "Retained": True}
        for name in components
    }
    about["w_comp_cor_02"]["Retained"] = False
    sidecar.write_text(json.dumps(about))
    return {
        "bold_file": save(values, tmp_path / "bold.nii.gz"),
        "mask_file": save(mask, tmp_path / "mask.nii.gz"),
        "labels_files": [
            save(toy, tmp_path / "toy.nii.gz"),
            save(other, tmp_path / "other.nii.gz"),
        ],
        "tissues_file": save(codes, tmp_path / "tissues.nii.gz"),
        "confounds_file": write_confounds(tmp_path / "confounds.tsv", motion, **components),
        "confounds_sidecar": str(sidecar),
        "motion": motion,
        "components": components,
        "labels": {"toy": toy, "other": other},
    }


def parcellate(run, folder, **changes):
    folder.mkdir(exist_ok=True)
    names = ("bold_file", "mask_file", "labels_files", "tissues_file")
    inputs = {name: run[name] for name in names} | changes
    inputs = {name: value for name, value in inputs.items() if value is not None}
    node = ParcellateSeries(atlases=["toy", "other"], regions=REGIONS, **inputs)
    return node.run(cwd=str(folder)).outputs.parcels_file


def denoise(run, folder, parcels_file, **changes):
    folder.mkdir(exist_ok=True)
    names = ("bold_file", "confounds_file", "confounds_sidecar")
    inputs = {name: run[name] for name in names} | {"repetition_time_s": TR_S} | changes
    inputs = {name: value for name, value in inputs.items() if value is not None}
    node = DenoiseSeries(
        parcels_file=parcels_file, regions=REGIONS, pcorr_lambda=LAMBDAS, **inputs
    )
    return node.run(cwd=str(folder)).outputs


def load(file):
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def independent_correlation(run, is_outlier):
    """FCcorr of the `columns` recipe by nilearn's masker and cleaning, and a written-out DCT."""
    masker = NiftiLabelsMasker(nib.load(run["labels_files"][0]), standardize=None, dtype="float64")
    series = masker.fit_transform(nib.Nifti1Image(nib.load(run["bold_file"]).get_fdata(), AFFINE))[
        :, :7
    ]
    motion = run["motion"]
    forward = np.vstack([np.diff(motion, axis=0), np.zeros(6)])
    time = np.arange(float(N_VOLUMES))
    response = time**5 * np.exp(-time) / 120 - time**15 * np.exp(-time) / 1307674368000 / 6
    rest = np.cumsum(1.2 * response)
    chosen = [f"w_comp_cor_0{n}" for n in (0, 1, 3, 4, 5)]
    chosen += [f"c_comp_cor_0{n}" for n in range(5)]
    design = np.column_stack([
        *(np.ones(N_VOLUMES), time, rest, np.append(np.diff(rest), 0)),
        *(run["components"][name] for name in chosen),
        *(motion, forward, motion**2, forward**2),
        np.eye(N_VOLUMES)[:, is_outlier],
    ])
    cleaned = clean(
        series, confounds=design, standardize=None, standardize_confounds=False, detrend=False
    )
    frequency = time / (2 * N_VOLUMES * TR_S)
    gains = ndimage.gaussian_filter1d(
        (frequency >= 0.01).astype(float),
        0.0029 * 2 * N_VOLUMES * TR_S,
        mode="reflect",
        truncate=5,
    )
    filtered = scipy.fft.idct(
        gains[:, None] * scipy.fft.dct(cleaned, axis=0, norm="ortho"), axis=0, norm="ortho"
    )
    return np.corrcoef(filtered[~is_outlier].T)


def test_parcels_hold_means_as_nilearn_gives_them(run, tmp_path):
    arrays = load(parcellate(run, tmp_path / "node"))
    masker = NiftiLabelsMasker(nib.load(run["labels_files"][1]), standardize=None, dtype="float64")
    bold = nib.load(run["bold_file"]).get_fdata()
    bold[run["labels"]["toy"] == 8] = np.nan  # those do not count
    good = np.isfinite(bold[..., 0]) & (run["labels"]["other"] == 2)
    expected = masker.fit_transform(run["bold_file"])
    np.testing.assert_allclose(arrays["series/other"][:, 0], expected[:, 0], rtol=1e-6)
    np.testing.assert_allclose(arrays["series/other"][:, 1], bold[good].mean(axis=0), rtol=1e-12)
    assert np.isnan(arrays["series/other"][:, 2]).all()
    assert np.isnan(arrays["series/toy"][:, 7]).all()
    assert arrays["grams/WM"].shape == (N_VOLUMES, N_VOLUMES)


# The constant is among the confounds, as the training recipe has it.
@pytest.mark.filterwarnings("ignore:When confounds are provided")
def test_connectomes_equal_an_independent_computation(run, tmp_path):
    outputs = denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"), compcor="columns")
    is_outlier = load(outputs.traces_file)["is_outlier"]
    assert is_outlier[:8].all()
    matrix = load(outputs.connectomes_file)["FCcorr_toy_hpf"]
    np.testing.assert_allclose(matrix[:7, :7], independent_correlation(run, is_outlier), atol=1e-6)


def test_exact_recipe_gives_all_outputs(run, tmp_path):
    outputs = denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))
    assert set(load(outputs.timeseries_file)) == {
        f"{atlas}_{variant}" for atlas in REGIONS for variant in ("hpf", "hpfgsr")
    }
    connectomes = load(outputs.connectomes_file)
    assert set(connectomes) == {
        f"{kind}_{atlas}_{variant}"
        for atlas in REGIONS
        for kind, variant in (("FCcorr", "hpf"), ("FCcorr", "hpfgsr"), ("FCpcorr", "hpf"))
    }
    traces = load(outputs.traces_file)
    assert traces["series"].shape == (N_VOLUMES, 8)
    for name in ("framewise_displacement_mm", "dvars", "global_signal", "is_outlier"):
        assert traces[name].shape == (N_VOLUMES,)


def test_missing_regions_keep_rows_and_are_named(run, tmp_path):
    outputs = denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))
    for name, matrix in load(outputs.connectomes_file).items():
        missing = {"toy": [7], "other": [2]}[name.split("_")[1]]
        assert np.flatnonzero(np.isnan(matrix).all(axis=0)).tolist() == missing
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert qc["regions"]["toy"]["missing"] == ["R_3"]
    assert qc["regions"]["other"]["missing"] == ["absent"]
    assert qc["regions"]["toy"]["coverage"] == [1.0] * 7 + [0.0]
    assert qc["n_missing_edges_toy"] == 7


def test_quality_is_flat_values_and_regions(run, tmp_path):
    outputs = denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))
    qc = json.loads(Path(outputs.qc_file).read_text())
    qc.pop("regions")
    assert len(qc.pop("outlier_volumes")) == qc["n_outliers"]
    assert all(isinstance(value, (int, float, str, type(None))) for value in qc.values())
    assert qc["n_kept"] + qc["n_outliers"] == qc["n_volumes"] == N_VOLUMES
    assert qc["kept_minutes"] == pytest.approx(qc["n_kept"] / 60)
    assert qc["n_voxels_WM"] == 3 * 10 * 10
    assert qc["is_eroded_WM"] == 1
    assert qc["is_eroded_GM"] == 0
    assert qc["gcor_hpfgsr"] < qc["gcor_before"]
    assert qc["pcorr_lambda_other"] == 0.2
    for measure in ("fd_mean_mm", "tsnr_median", "dof_hpf", "homotopic_FCcorr_toy_hpf"):
        assert np.isfinite(qc[measure])


def test_low_coverage_counts_as_missing_when_asked(run, tmp_path):
    parcels_file = parcellate(run, tmp_path / "a")
    outputs = denoise(run, tmp_path / "b", parcels_file, min_coverage=0.9)
    assert np.isnan(load(outputs.connectomes_file)["FCcorr_other_hpf"][1]).all()
    assert json.loads(Path(outputs.qc_file).read_text())["regions"]["other"]["missing"] == [
        "b",
        "absent",
    ]


def test_coverage_asked_for_is_told(run, tmp_path):
    outputs = denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"), min_coverage=0.9)
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert qc["min_coverage"] == 0.9
    assert qc["regions"]["other"]["coverage"][1] == pytest.approx(2 / 3)
    assert qc["n_missing_regions_other"] == 2


def flag(run, folder, volumes):
    """Add motion outliers to the table of confounds, a column each."""
    lines = Path(run["confounds_file"]).read_text().splitlines()
    names = "".join(f"\tmotion_outlier{number:02d}" for number in range(len(volumes)))
    rows = [
        line + "".join(f"\t{int(t == volume)}" for volume in volumes)
        for t, line in enumerate(lines[1:])
    ]
    file = folder / "flagged.tsv"
    file.write_text("\n".join([lines[0] + names, *rows]) + "\n")
    return str(file)


@pytest.mark.filterwarnings("ignore:When confounds are provided")
def test_outliers_of_fmriprep_are_left_out_when_asked(run, tmp_path):
    outputs = denoise(
        run,
        tmp_path / "b",
        parcellate(run, tmp_path / "a"),
        compcor="columns",
        outliers="fmriprep",
        confounds_file=flag(run, tmp_path, [50, 51, 90]),
    )
    is_outlier = load(outputs.traces_file)["is_outlier"]
    assert np.flatnonzero(is_outlier).tolist() == [*range(8), 50, 51, 90]
    matrix = load(outputs.connectomes_file)["FCcorr_toy_hpf"]
    np.testing.assert_allclose(matrix[:7, :7], independent_correlation(run, is_outlier), atol=1e-6)
    assert json.loads(Path(outputs.qc_file).read_text())["outliers"] == "fmriprep"


@pytest.fixture
def full_table(run, tmp_path):
    """The run with all columns that strategies take, under the names that nilearn looks for."""
    rng = np.random.default_rng(9)
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    signals = dict(zip(names, run["motion"].T, strict=True))
    signals |= {name: rng.normal(size=N_VOLUMES) for name in ("csf", "white_matter")}
    columns = {"global_signal": rng.normal(size=N_VOLUMES)}
    for name, values in signals.items():
        backward = np.concatenate([[np.nan], np.diff(values)])
        columns |= {name: values, f"{name}_power2": values**2}
        columns |= {f"{name}_derivative1": backward, f"{name}_derivative1_power2": backward**2}
    columns["framewise_displacement"] = np.where(np.arange(N_VOLUMES) % 41 == 40, 0.8, 0.1)
    columns["std_dvars"] = np.ones(N_VOLUMES)
    columns |= {f"a_comp_cor_0{n}": rng.normal(size=N_VOLUMES) for n in range(5)}
    columns |= {f"cosine0{n}": np.cos(np.arange(N_VOLUMES) * (n + 1) / 51) for n in range(2)}
    columns["non_steady_state_outlier00"] = np.eye(N_VOLUMES)[0]
    table = tmp_path / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join("n/a" if np.isnan(x) else repr(float(x)) for x in row) for row in rows]
    table.write_text("\n".join(["\t".join(columns), *lines]) + "\n")
    about = {"Method": "aCompCor", "Mask": "combined", "Retained": True}
    sidecar = table.with_suffix(".json")
    sidecar.write_text(json.dumps({name: about for name in columns if "comp_cor" in name}))
    return {**run, "confounds_file": str(table), "confounds_sidecar": str(sidecar)}


@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "compcor", "ica_aroma"])
@pytest.mark.parametrize("variant", ["hpf", "hpfgsr"])
def test_strategies_give_the_connectomes_of_nilearn(full_table, tmp_path, strategy, variant):
    label = "smoothAROMAnonaggr" if strategy == "ica_aroma" else "preproc"
    image = tmp_path / f"sub-01_task-rest_space-MNI152NLin6Asym_desc-{label}_bold.nii.gz"
    image.touch()
    signal = {"global_signal": "basic"} if variant == "hpfgsr" else {}
    confounds, kept = load_confounds_strategy(str(image), strategy, **signal)
    labels = nib.load(full_table["labels_files"][0])
    masker = NiftiLabelsMasker(labels, standardize=None, dtype="float64")
    # in double precision: means of single ones differ by more than the tolerance
    bold = nib.Nifti1Image(nib.load(full_table["bold_file"]).get_fdata(), AFFINE)
    series = masker.fit_transform(bold, confounds=confounds, sample_mask=kept)
    outputs = denoise(
        full_table,
        tmp_path / "b",
        parcellate(full_table, tmp_path / "a", tissues_file=None, with_components=False),
        denoising=strategy,
    )
    matrix = load(outputs.connectomes_file)[f"FCcorr_toy_{variant}"]
    np.testing.assert_allclose(matrix[:7, :7], np.corrcoef(series[:, :7].T), atol=1e-6)
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert (qc["denoising"], qc["n_kept"]) == (strategy, len(kept))
    assert "compcor" not in qc


def test_support_of_partial_correlations_is_told(run, tmp_path):
    outputs = denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert qc["pcorr_dof_per_region_toy"] == pytest.approx(qc["dof_hpf"] / 7)
    assert qc["pcorr_dof_per_region_other"] == pytest.approx(qc["dof_hpf"] / 2)
    (tmp_path / "c").mkdir()
    node = CombineRuns(
        connectomes_files=[outputs.connectomes_file] * 2,
        qc_files=[outputs.qc_file] * 2,
        regions=REGIONS,
        pcorr_lambda=LAMBDAS,
    )
    both = json.loads(Path(node.run(cwd=str(tmp_path / "c")).outputs.qc_file).read_text())
    assert both["pcorr_dof_per_region_toy"] == pytest.approx(2 * qc["dof_hpf"] / 7)
    assert both["denoising"] == "recipe"
    assert both["high_pass_edge_hz"] == 0.0029


def test_runs_are_combined_by_their_kept_volumes(run, tmp_path):
    parcels_file = parcellate(run, tmp_path / "a")
    runs = [
        denoise(run, tmp_path / "b", parcels_file),
        denoise(run, tmp_path / "c", parcels_file, skip_s=40.0),
    ]
    (tmp_path / "d").mkdir()
    combined = (
        CombineRuns(
            connectomes_files=[outputs.connectomes_file for outputs in runs],
            qc_files=[outputs.qc_file for outputs in runs],
            regions=REGIONS,
            pcorr_lambda=LAMBDAS,
        )
        .run(cwd=str(tmp_path / "d"))
        .outputs
    )
    first, second = (load(outputs.connectomes_file)["FCcorr_toy_hpf"] for outputs in runs)
    n_first, n_second = (json.loads(Path(o.qc_file).read_text())["n_kept"] for o in runs)
    expected = (n_first * first + n_second * second) / (n_first + n_second)
    connectomes = load(combined.connectomes_file)
    np.testing.assert_allclose(connectomes["FCcorr_toy_hpf"], expected, atol=1e-12)
    precision = np.linalg.inv(expected[:7, :7] + 0.06 * np.eye(7))
    scale = np.sqrt(np.diag(precision))
    partial = connectomes["FCpcorr_toy_hpf"][:7, :7] + np.eye(7)
    np.testing.assert_allclose(
        partial, 2 * np.eye(7) - precision / np.outer(scale, scale), atol=1e-12
    )
    qc = json.loads(Path(combined.qc_file).read_text())
    assert (qc["n_runs"], qc["n_kept"]) == (2, n_first + n_second)
    assert qc["regions"]["toy"]["missing"] == ["R_3"]
    assert qc["regions"]["other"]["coverage"][2] == 0


def test_grids_that_differ_are_told(run, tmp_path):
    mask_file = save(np.ones((12, 12, 11), dtype=np.uint8), tmp_path / "other_mask.nii.gz")
    with pytest.raises(InputError, match=r"12 x 12 x 12 voxels, its brain mask has 12 x 12 x 11"):
        parcellate(run, tmp_path / "a", mask_file=mask_file)


def test_truncated_image_is_told(run, tmp_path):
    with Path(run["bold_file"]).open("r+b") as file:
        file.truncate(400_000)
    with pytest.raises(InputError, match=r"cut short or damaged"):
        parcellate(run, tmp_path / "a")


def test_segmentation_without_a_tissue_is_told(run, tmp_path):
    codes = np.full(SHAPE, 2, dtype=np.int16)
    codes[0, 0, 0] = 4
    with pytest.raises(InputError, match=r"1 voxels of CSF.*--compcor columns"):
        parcellate(run, tmp_path / "a", tissues_file=save(codes, tmp_path / "codes.nii.gz"))


def test_small_tissue_is_not_eroded(run, tmp_path):
    codes = nib.load(run["tissues_file"]).get_fdata().astype(np.int16)
    codes[9:] = 0
    codes[10, :, :2] = 4
    tissues_file = save(codes, tmp_path / "codes.nii.gz")
    arrays = load(parcellate(run, tmp_path / "a", tissues_file=tissues_file))
    assert not arrays["is_eroded/CSF"]
    assert arrays["n_tissue/CSF"] == 24


def test_run_without_segmentation_is_told_the_way_around(run, tmp_path):
    parcels_file = parcellate(run, tmp_path / "a", tissues_file=None)
    with pytest.raises(InputError, match=r"no masks of WM and CSF.*--compcor columns"):
        denoise(run, tmp_path / "b", parcels_file)
    outputs = denoise(
        run, tmp_path / "c", parcels_file, compcor="columns", gsr_source="global_signal"
    )
    assert np.isfinite(load(outputs.connectomes_file)["FCcorr_toy_hpfgsr"][:7, :7]).all()


def test_missing_motion_columns_are_named(run, tmp_path):
    text = (tmp_path / "confounds.tsv").read_text()
    (tmp_path / "confounds.tsv").write_text(text.replace("rot_y", "spin_y"))
    with pytest.raises(InputError, match=r"lacks rot_y \(.*confounds.tsv\)\. Run fMRIPrep again"):
        denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))


def test_motion_without_values_is_told(run, tmp_path):
    lines = (tmp_path / "confounds.tsv").read_text().splitlines()
    lines[5] = "n/a" + lines[5][lines[5].index("\t") :]
    (tmp_path / "confounds.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"rows without a value in trans_x"):
        denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))


def test_table_of_another_length_is_told_with_both_numbers(run, tmp_path):
    lines = (tmp_path / "confounds.tsv").read_text().splitlines()
    (tmp_path / "confounds.tsv").write_text("\n".join(lines[:-3]) + "\n")
    with pytest.raises(InputError, match=r"157 rows, the image 160 volumes.*tsv; .*bold.nii.gz"):
        denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "cannot be read"), (b"a\tb\n1\t2\n3\n", "line 3 of the table")],
    ids=["no text", "ragged"],
)
def test_damaged_table_is_told(run, tmp_path, content, message):
    (tmp_path / "confounds.tsv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))


def test_missing_compcor_columns_are_told(run, tmp_path):
    sidecar = tmp_path / "confounds.json"
    about = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({k: v for k, v in about.items() if k[0] == "w"}))
    with pytest.raises(InputError, match=r"no aCompCor columns of CSF.*--compcor exact"):
        denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"), compcor="columns")


def test_damaged_sidecar_is_told(run, tmp_path):
    (tmp_path / "confounds.json").write_text("{")
    with pytest.raises(InputError, match=r"sidecar cannot be read.*confounds.json"):
        denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"))


def test_columns_are_found_by_name_without_a_sidecar(run, tmp_path):
    parcels_file = parcellate(run, tmp_path / "a")
    outputs = denoise(run, tmp_path / "b", parcels_file, compcor="columns", confounds_sidecar=None)
    assert np.isfinite(load(outputs.connectomes_file)["FCcorr_toy_hpf"][:7, :7]).all()


def test_impossible_repetition_time_is_told(run, tmp_path):
    with pytest.raises(InputError, match="repetition time is 0 s"):
        denoise(run, tmp_path / "b", parcellate(run, tmp_path / "a"), repetition_time_s=0.0)


def test_single_volume_is_refused(run, tmp_path):
    bold = nib.load(run["bold_file"]).get_fdata()[..., :1].astype(np.float32)
    parcels_file = parcellate(run, tmp_path / "a", bold_file=save(bold, tmp_path / "one.nii.gz"))
    lines = (tmp_path / "confounds.tsv").read_text().splitlines()
    (tmp_path / "confounds.tsv").write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(InputError, match="all volumes are outliers"):
        denoise(run, tmp_path / "b", parcels_file)


def test_region_of_one_value_is_missing(run, tmp_path):
    bold = nib.load(run["bold_file"]).get_fdata().astype(np.float32)
    bold[run["labels"]["toy"] == 3] = 812.3
    parcels_file = parcellate(run, tmp_path / "a", bold_file=save(bold, tmp_path / "c.nii.gz"))
    outputs = denoise(run, tmp_path / "b", parcels_file)
    matrix = load(outputs.connectomes_file)["FCcorr_toy_hpfgsr"]
    assert np.flatnonzero(np.isnan(matrix).all(axis=0)).tolist() == [2, 7]
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert qc["regions"]["toy"]["missing"] == ["L_2", "R_3"]


def test_atlas_outside_the_image_is_told(run, tmp_path):
    empty = save(np.zeros(SHAPE, dtype=np.int16), tmp_path / "empty.nii.gz")
    parcels_file = parcellate(run, tmp_path / "a", labels_files=[empty, run["labels_files"][1]])
    with pytest.raises(InputError, match="no region of toy has signal"):
        denoise(run, tmp_path / "b", parcels_file)
