# SPDX-License-Identifier: MIT
from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.io import savemat

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import write_connectome, write_table
from kraken_bids.connectome.edges import edges_to_matrix, n_edges
from kraken_bids.errors import InputError, Problems
from kraken_bids.flavors import Flavor
from kraken_bids.formats.inputs import Wanted
from kraken_bids.formats.reading.trees import LAYOUTS, open_tree

ATLAS = "fs86"
N = load_atlas(ATLAS).n_regions
NAMES = load_atlas(ATLAS).region_names
HPF, GSR, BPF = (f"FCcorr_{ATLAS}_{processing}" for processing in ("hpf", "hpfgsr", "bpf"))
COUNT, SIFT2 = f"SCifod2act_{ATLAS}_count", f"SCifod2act_{ATLAS}_sift2"
MODEL = {name: n_edges(N) for name in (HPF, GSR, COUNT, SIFT2, f"SCsdstream_{ATLAS}_count")}
WANTED = Wanted(MODEL)


@pytest.fixture
def row(rng):
    return rng.normal(size=n_edges(N)).astype(np.float32)


def describe(root, program):
    root.mkdir(parents=True, exist_ok=True)
    description = {"Name": "x", "BIDSVersion": "1.9.0",
                   "GeneratedBy": [{"Name": program}, {"Name": "fMRIPrep"}]}  # fmt: skip
    (root / "dataset_description.json").write_text(json.dumps(description))


def write_table_of(path, row, *, names=NAMES, corner="Node", index=True):
    """A matrix as XCP-D and giga_connectome write it, with pandas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join([*([corner] if index else []), *names])]
    for label, values in zip(names, edges_to_matrix(row, diagonal=1.0), strict=True):
        cells = [f"{value:.9g}" if np.isfinite(value) else "" for value in values]
        lines.append("\t".join([*([label] if index else []), *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_layouts_are_told_apart_by_their_names():
    generators = [layout.generator for layout in LAYOUTS]
    assert len(set(generators)) == len(generators)


class TestOurs:
    @pytest.fixture
    def add(self, tmp_path):
        def write(participant, flavor, row, *, session="", names=NAMES, **source):
            flavor = Flavor.parse(flavor)
            entities = [("sub", participant), *([("ses", session)] if session else [])]
            path = tmp_path / output_path(
                "connectome",
                [*entities, *source.items()],
                datatype=flavor.datatype,
                space="T1w",
                atlas=flavor.atlas,
                meas=flavor.meas,
            )
            write_connectome(path, edges_to_matrix(row, diagonal=1.0), names)
            return path

        describe(tmp_path, "kraken-bids")
        return write

    def test_measured_connectomes_are_rows_by_participant_and_session(self, add, tmp_path, row):
        add("01", HPF, row, session="a", task="rest")
        add("01", HPF, 2 * row, session="b", task="rest")
        add("02", HPF, 3 * row, session="a", task="rest")
        add("02", COUNT, 4 * row, session="a")
        add("02", f"FCpcorr_{ATLAS}_hpf", row, session="a", task="rest")
        found = open_tree(tmp_path, WANTED)
        assert {name: one.participants for name, one in found.items()} == {
            HPF: ("01_ses-a", "01_ses-b", "02_ses-a"), COUNT: ("02_ses-a",),
        }  # fmt: skip
        expected = np.stack([row, 2 * row, 3 * row])
        np.testing.assert_allclose(found[HPF].read([0, 1, 2]), expected, rtol=1e-6)
        np.testing.assert_allclose(found[HPF].read([1]), expected[1:2], rtol=1e-6)

    def test_predictions_are_no_inputs(self, tmp_path, row):
        describe(tmp_path, "kraken-bids")
        path = tmp_path / f"sub-1/func/sub-1_atlas-{ATLAS}_meas-FCcorrHPF_desc-fusion_relmat.tsv"
        write_connectome(path, edges_to_matrix(row), NAMES)
        with pytest.raises(InputError, match="no measured connectomes of kraken-bids"):
            open_tree(tmp_path, WANTED)

    def test_ambiguous_sessions_are_all_told(self, add, tmp_path, row):
        for participant in ("1", "2"):
            for run in ("1", "2"):
                add(participant, HPF, row, task="rest", run=run)
        with pytest.raises(Problems, match="2 runs but no combination") as told:
            open_tree(tmp_path, WANTED)
        assert len(told.value.problems) == 2
        assert "participant level" not in str(told.value)

    def test_broken_files_are_named(self, add, tmp_path, row):
        add("1", HPF, row, names=["x", *NAMES[1:]])
        path = add("2", HPF, row)
        path.write_text(path.read_text()[:-30])
        add("3", HPF, np.zeros_like(row))
        with pytest.raises(Problems) as told:
            open_tree(tmp_path, WANTED)[HPF].read([0, 1, 2])
        messages = [str(problem) for problem in told.value.problems]
        assert "regions x are not of the atlas fs86" in messages[0]
        assert "is not a whole labelled matrix" in messages[1]
        assert str(path) in messages[1]
        assert "participants 3: all edges have the same value" in messages[2]

    def test_a_cohort_s_latents_are_read_by_name(self, tmp_path, rng):
        latents = rng.normal(size=(2, 3)).astype(np.float32)
        describe(tmp_path, "kraken-bids")
        write_table(
            tmp_path / output_path("cohort_latent", desc="fusionSC"),
            ["participant_id", "session_id", "n_inputs", "z000", "z001", "z002"],
            [[f"sub-{i}", None, 2, *latent] for i, latent in enumerate(latents.tolist())],
            digits=9,
        )
        found = open_tree(tmp_path, Wanted(MODEL, 3, "fusionSC"))["fusionSC"]
        assert found.participants == ("0", "1")
        np.testing.assert_array_equal(found.read([0, 1]), latents)
        with pytest.raises(InputError, match="no latents 'fusion' of a cohort"):
            open_tree(tmp_path, Wanted(MODEL, 3, "fusion"))


class TestXCPD:
    @pytest.fixture
    def add(self, tmp_path):
        def write(participant, row, *, rest="seg-fs86_stat-pearsoncorrelation_relmat",
                  source="task-rest_space-MNI152NLin6Asym", session="", filters="high",
                  confounds="acompcor", **options):  # fmt: skip
            stem = f"sub-{participant}" + (f"_ses-{session}" if session else "")
            folder = tmp_path / stem.replace("_", "/") / "func"
            path = write_table_of(folder / f"{stem}_{source}_{rest}.tsv", row, **options)
            if filters:
                sidecar = {"NuisanceParameters": confounds, "RepetitionTime": 2.0}
                sidecar |= {"SoftwareFilters": FILTERS[filters]} if FILTERS[filters] else {}
                (folder / f"{stem}_{source}_desc-denoised_bold.json").write_text(
                    json.dumps(sidecar)
                )
            return path

        describe(tmp_path, "xcp_d")
        return write

    @pytest.mark.parametrize(
        ("source", "rest"),
        [
            (
                "task-rest_space-MNI152NLin2009cAsym",
                "atlas-fs86_measure-pearsoncorrelation_conmat",
            ),
            ("task-rest_space-MNI152NLin6Asym", "seg-fs86_stat-pearsoncorrelation_relmat"),
            ("task-rest_space-MNI152NLin6Asym", "atlas-FS86_stat-pearsoncorrelation_relmat"),
            ("task-rest_run-1", "seg-fs86_stat-pearsoncorrelation_relmat"),
        ],
        ids=["0.6", "0.7", "26", "run"],
    )
    def test_names_of_all_versions_are_read(self, add, tmp_path, row, source, rest):
        add("01", row, source=source, rest=rest)
        add("02", 2 * row, source=source, rest=rest, session="x")
        found = open_tree(tmp_path, WANTED)
        assert list(found) == [HPF]
        assert found[HPF].participants == ("01", "02_ses-x")
        np.testing.assert_array_equal(found[HPF].read([0, 1]), np.stack([row, 2 * row]))

    def test_the_files_tell_the_program_if_nothing_else_does(self, add, tmp_path, row):
        add("01", row)
        (tmp_path / "dataset_description.json").unlink()
        assert list(open_tree(tmp_path, WANTED)) == [HPF]

    @pytest.mark.parametrize(
        ("filters", "confounds", "flavor"),
        [("high", "acompcor_gsr", GSR), ("high", "36P", GSR), ("high", None, HPF),
         ("band", "24P", BPF), ("band", "36P", f"{BPF}gsr"),
         ("none", "24P", f"FCcorr_{ATLAS}_nofilt")],
    )  # fmt: skip
    def test_filters_and_confounds_decide_the_flavor(
        self, add, tmp_path, row, filters, confounds, flavor
    ):
        add("01", row, filters=filters, confounds=confounds)
        assert list(open_tree(tmp_path, Wanted({flavor: n_edges(N)}))) == [flavor]
        assert list(open_tree(tmp_path, Wanted({}))) == [flavor]

    @pytest.mark.parametrize("name", ["", HPF], ids=["unasked", "asked"])
    def test_a_band_pass_is_never_taken_for_a_high_pass(self, add, tmp_path, row, name):
        add("01", row, filters="band")
        with pytest.raises(InputError, match=rf"connectomes are {BPF}, .*{HPF}.*--upper-bpf 0"):
            open_tree(tmp_path, Wanted(MODEL, name=name))

    @pytest.mark.parametrize(
        ("filters", "confounds", "reason"),
        [("", "", "no sidecar of XCP-D tells"), ("high", "mine", "unknown filters or confounds"),
         ("low", "24P", "unknown filters or confounds")],
    )  # fmt: skip
    def test_what_no_sidecar_tells_must_be_said(
        self, add, tmp_path, row, caplog, filters, confounds, reason
    ):
        add("01", row, filters=filters, confounds=confounds)
        with pytest.raises(
            InputError, match=rf"participant 01: .*{reason}.*FCcorr_fs86_hpf=FOLDER"
        ):
            open_tree(tmp_path, WANTED)
        assert list(open_tree(tmp_path, Wanted(MODEL, name=HPF))) == [HPF]
        assert f"is taken for {HPF} as told" in caplog.text

    def test_broken_sidecars_are_told(self, add, tmp_path, row):
        add("01", row)
        next(tmp_path.rglob("*_desc-denoised_bold.json")).write_text("{")
        with pytest.raises(InputError, match=r"sidecar cannot be read.*sub-01_task-rest"):
            open_tree(tmp_path, WANTED)

    def test_atlases_that_the_model_lacks_are_listed(self, add, tmp_path, row):
        for atlas in ("Glasser", "4S456Parcels"):
            add("01", row, rest=f"seg-{atlas}_stat-pearsoncorrelation_relmat")
        with pytest.raises(InputError, match="atlases 4S456Parcels, Glasser; the model has: fs86"):
            open_tree(tmp_path, WANTED)

    def test_parts_of_the_volumes_are_left_out(self, add, tmp_path, row):
        add("01", row)
        add("01", 2 * row, rest="seg-fs86_stat-pearsoncorrelation_desc-100volumes_relmat")
        np.testing.assert_array_equal(open_tree(tmp_path, WANTED)[HPF].read([0])[0], row)

    def test_runs_combined_and_rest_are_taken_and_told(self, add, tmp_path, row, caplog):
        for source in ("task-rest_run-1", "task-rest_run-2", "task-nback"):
            add("01", 2 * row, source=source)
        add("01", row, source="task-rest")
        found = open_tree(tmp_path, WANTED)[HPF]
        np.testing.assert_array_equal(found.read([0])[0], row)
        assert "task-rest is taken, of nback, rest" in caplog.text
        assert "the runs combined are taken" in caplog.text

    @pytest.mark.parametrize(
        ("sources", "message"),
        [
            (("task-rest_run-1", "task-rest_run-2"), "several runs: .*run-1.*run-2"),
            (("task-a", "task-b"), "measured in 2 tasks: a, b"),
            (("task-rest_space-A", "task-rest_space-B"), "nothing to choose by"),
        ],
        ids=["runs", "tasks", "spaces"],
    )
    def test_nothing_is_picked_where_nothing_tells(self, add, tmp_path, row, sources, message):
        for participant in ("01", "02"):
            for source in sources:
                add(participant, row, source=source)
        with pytest.raises(Problems, match=message) as told:
            open_tree(tmp_path, WANTED)
        assert len(told.value.problems) == 2

    def test_regions_that_were_not_covered_are_missing(self, add, tmp_path, row):
        matrix = edges_to_matrix(row)
        matrix[4] = matrix[:, 4] = np.nan
        values = matrix[np.triu_indices(N, 1)]
        add("01", values)
        np.testing.assert_array_equal(open_tree(tmp_path, WANTED)[HPF].read([0])[0], values)


#: What XCP-D writes as ``SoftwareFilters``.
FILTERS = {
    "high": {"High-pass filter": {"cutoff (Hz)": 0.01, "Filter order": 2}},
    "low": {"Low-pass filter": {"cutoff (Hz)": 0.08, "Filter order": 2}},
    "band": {"Bandpass filter": {"Low-pass cutoff (Hz)": 0.08, "High-pass cutoff (Hz)": 0.01,
                                 "Filter order": 2}},
    "none": None,
}  # fmt: skip


class TestGiga:
    @pytest.fixture
    def add(self, tmp_path):
        def write(participant, row, rest, **options):
            stem = f"sub-{participant}_task-rest_run-01"
            folder = tmp_path / f"sub-{participant}" / "func"
            return write_table_of(folder / f"{stem}_{rest}_relmat.tsv", row, **options)

        describe(tmp_path, "giga_connectome")
        return write

    @pytest.mark.parametrize(
        "rest",
        ["seg-fs86_meas-PearsonCorrelation_desc-denoise{}",
         "atlas-fs86_meas-PearsonCorrelation_desc-denoise{}",
         "atlas-fs86_meas-PearsonCorrelation_desc-86denoise{}",
         "atlas-fs86_stat-PearsonCorrelation_desc-denoise{}"],
        ids=["0.6", "atlas", "0.5", "stat"],
    )  # fmt: skip
    @pytest.mark.parametrize(
        ("strategy", "flavor"),
        [("Simple", HPF), ("SimpleGSR", GSR), ("Scrubbing5", HPF), ("Acompcor50", HPF)],
    )
    def test_names_and_strategies_are_read(self, add, tmp_path, row, rest, strategy, flavor):
        numbers = [str(region.index) for region in load_atlas(ATLAS).regions]
        add("1", row, rest.format(strategy), names=numbers, index=False)
        found = open_tree(tmp_path, WANTED)
        assert list(found) == [flavor]
        np.testing.assert_array_equal(found[flavor].read([0])[0], row)

    def test_with_and_without_global_signal_are_two_flavors(self, add, tmp_path, row):
        add("1", row, "seg-fs86_meas-PearsonCorrelation_desc-denoiseSimple")
        add("1", 2 * row, "seg-fs86_meas-PearsonCorrelation_desc-denoiseSimpleGSR")
        found = open_tree(tmp_path, WANTED)
        assert set(found) == {HPF, GSR}
        np.testing.assert_array_equal(found[GSR].read([0])[0], 2 * row)

    def test_several_strategies_of_one_flavor_are_listed(self, add, tmp_path, row):
        for strategy in ("Simple", "Scrubbing5"):
            add("1", row, f"seg-fs86_meas-PearsonCorrelation_desc-denoise{strategy}")
        with pytest.raises(InputError, match=r"2 strategies .*denoiseScrubbing5, denoiseSimple"):
            open_tree(tmp_path, WANTED)

    def test_strategies_of_a_person_s_own_must_be_named(self, add, tmp_path, row):
        add("1", row, "seg-fs86_meas-PearsonCorrelation_desc-denoiseMine")
        with pytest.raises(InputError, match="'Mine' is none of giga_connectome's strategies"):
            open_tree(tmp_path, WANTED)
        assert list(open_tree(tmp_path, Wanted(MODEL, name=GSR))) == [GSR]

    def test_atlases_are_listed_with_their_description(self, add, tmp_path, row):
        add(
            "1",
            row,
            "atlas-Schaefer2018_meas-PearsonCorrelation_desc-100Parcels7NetworksdenoiseSimple",
        )
        with pytest.raises(
            InputError, match="Schaefer2018100Parcels7Networks; the model has: fs86"
        ):
            open_tree(tmp_path, WANTED)


class TestQSIRecon:
    @pytest.fixture
    def add(self, tmp_path):
        def write(participant, matrix, *, suffix="MRtrix3_act-HSVS", rest="space-ACPC_model-ifod2",
                  measures=("radius2_count",), atlas="atlas_fs86", ids=None, labels=None,
                  extra=None):  # fmt: skip
            fields = {f"{atlas}_region_ids": np.arange(1, N + 1) if ids is None else ids}
            if labels is not None:
                fields[f"{atlas}_region_labels"] = np.array(labels, dtype=object)
            for place, measure in enumerate(measures, start=1):
                fields[f"{atlas}_{measure}_connectivity"] = place * matrix
            root = tmp_path / "derivatives" / f"qsirecon-{suffix}"
            describe(root, "QSIRecon")
            path = root / f"sub-{participant}/dwi/sub-{participant}_{rest}_connectivity.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            fields |= {"command": "tck2connectome …", **(extra or {})}
            savemat(path, fields, long_field_names=True, do_compression=True)
            return path

        describe(tmp_path, "qsirecon")
        return write

    @pytest.fixture
    def matrix(self, row):
        return edges_to_matrix(np.abs(row), diagonal=7.0)

    def test_measures_are_flavors(self, add, tmp_path, matrix, row, caplog):
        measures = ("radius2_count", "sift_radius2_count", "radius2_meanlength",
                    "invnodevol_radius2_count", "sift_invnodevol_radius2_count")  # fmt: skip
        other = {"atlas_AAL116_region_ids": np.arange(116),
                 "atlas_AAL116_radius2_count_connectivity": np.zeros((116, 116))}  # fmt: skip
        add("01", matrix, measures=measures, extra=other)
        names = [f"SCifod2act_{ATLAS}_{p}" for p in ("count", "sift2", "volnorm", "sift2volnorm")]
        found = open_tree(tmp_path, Wanted(dict.fromkeys(names, n_edges(N))))
        assert list(found) == names
        for factor, name in zip((1, 2, 4, 5), names, strict=True):
            expected = np.float32(factor * matrix[np.triu_indices(N, 1)].astype(np.float64))
            np.testing.assert_allclose(found[name].read([0])[0], expected, rtol=1e-6)
        assert f"{names[0]} from QSIRecon: sums over streamlines depend" in caplog.text

    def test_the_data_set_itself_or_its_parent_may_be_given(self, add, tmp_path, matrix):
        path = add("01", matrix)
        assert list(open_tree(path.parents[2], WANTED)) == [COUNT]
        assert list(open_tree(tmp_path, WANTED)) == [COUNT]

    @pytest.mark.parametrize(
        ("suffix", "rest", "flavor"),
        [("MRtrix3_act-None", "space-T1w_model-sdstream", f"SCsdstream_{ATLAS}_count"),
         ("MRtrix3_fork-SS3T_act-FAST", "dir-AP_run-1_space-T1w_model-iFOD2", COUNT)],
    )  # fmt: skip
    def test_algorithm_and_constraints_decide_the_flavor(
        self, add, tmp_path, matrix, suffix, rest, flavor
    ):
        add("01", matrix, suffix=suffix, rest=rest)
        assert list(open_tree(tmp_path, WANTED)) == [flavor]

    def test_streamlines_beside_it_tell_the_algorithm(self, add, tmp_path, matrix):
        path = add("01", matrix, rest="dir-AP_space-T1w")
        path.with_name("sub-01_dir-AP_space-T1w_model-ifod2_streamlines.tck.gz").touch()
        assert list(open_tree(tmp_path, WANTED)) == [COUNT]

    @pytest.mark.parametrize(
        ("suffix", "rest"),
        [("MRtrix3_act-HSVS", "space-ACPC"), ("mine", "space-ACPC_model-ifod2"),
         ("mine", "space-ACPC")],
    )  # fmt: skip
    def test_what_no_name_tells_must_be_said(self, add, tmp_path, matrix, caplog, suffix, rest):
        add("01", matrix, suffix=suffix, rest=rest)
        with pytest.raises(InputError, match=rf"participant 01: .* not tell .*{COUNT}="):
            open_tree(tmp_path, WANTED)
        assert list(open_tree(tmp_path, Wanted(MODEL, name=COUNT))) == [COUNT]
        assert f"is taken for {COUNT} as told" in caplog.text

    @pytest.mark.parametrize("name", ["", COUNT, f"SCsdstream_{ATLAS}_count"])
    @pytest.mark.parametrize(
        ("suffix", "model", "message"),
        [("MRtrix3_act-None", "ifod2", "no flavor is ifod2 without anatomical constraints"),
         ("MRtrix3_act-HSVS", "sdstream", "no flavor is sdstream with anatomical constraints")],
    )  # fmt: skip
    def test_other_tractography_is_no_flavor(
        self, add, tmp_path, matrix, suffix, model, message, name
    ):
        add("01", matrix, suffix=suffix, rest=f"space-ACPC_model-{model}")
        with pytest.raises(InputError, match=message):
            open_tree(tmp_path, Wanted(MODEL, name=name))

    @pytest.mark.parametrize("by", ["ids", "codes", "labels"])
    def test_regions_are_put_in_the_order_of_the_atlas(self, add, tmp_path, matrix, by, rng):
        order = rng.permutation(N)
        regions = [load_atlas(ATLAS).regions[place] for place in order]
        add("01", matrix[np.ix_(order, order)],
            ids={"ids": [r.index for r in regions], "codes": [r.code for r in regions],
                 "labels": list(range(1, N + 1))}[by],
            labels=[r.name for r in regions] if by == "labels" else None)  # fmt: skip
        expected = matrix[np.triu_indices(N, 1)]
        np.testing.assert_array_equal(open_tree(tmp_path, WANTED)[COUNT].read([0])[0], expected)

    @pytest.mark.parametrize(
        ("ids", "message"),
        [(np.arange(500, 500 + N), "holds 86 regions .* fs86 has 86 others"),
         (np.arange(1, N), "names 85 regions and holds 86")],
        ids=["others", "number"],
    )  # fmt: skip
    def test_regions_of_other_atlases_are_refused(self, add, tmp_path, matrix, ids, message):
        add("01", matrix, ids=ids)
        with pytest.raises(InputError, match=message):
            open_tree(tmp_path, WANTED)[COUNT].read([0])

    def test_a_model_s_own_old_name_is_kept(self, add, tmp_path, matrix):
        add("01", matrix, measures=("sift_radius2_count",))
        old = f"SCifod2act_{ATLAS}_sift2count"
        assert list(open_tree(tmp_path, Wanted({old: n_edges(N)}))) == [old]

    def test_folders_above_the_data_set_tell_nothing(self, add, tmp_path, matrix):
        path = add("01", matrix, suffix="mine", rest="space-ACPC_model-ifod2")
        above = tmp_path / "study_act-HSVS"
        above.mkdir()
        root = path.parents[2].rename(above / "data")
        with pytest.raises(InputError, match="does not tell the anatomical constraints"):
            open_tree(root, WANTED)

    def test_names_of_before_qsirecon_are_read(self, add, tmp_path, matrix):
        add("01", matrix, atlas="fs86")
        assert list(open_tree(tmp_path, WANTED)) == [COUNT]

    def test_broken_and_ambiguous_files_are_all_told(self, add, tmp_path, matrix):
        add("01", matrix)
        add("02", matrix).write_bytes(b"nothing")
        add("03", matrix[:5, :5])
        with pytest.raises(InputError, match=r"cannot be read .*sub-02"):
            open_tree(tmp_path, WANTED)
        add("02", matrix, rest="run-1_space-ACPC_model-ifod2")
        add("02", matrix, rest="run-2_space-ACPC_model-ifod2")
        add("01", matrix, suffix="MRtrix3_act-FAST")
        for path in tmp_path.rglob("sub-02_space-ACPC*"):
            path.unlink()
        with pytest.raises(Problems) as told:
            open_tree(tmp_path, WANTED)
        text = str(told.value)
        assert "participant 01 has several files" in text
        assert "participant 02 has several runs" in text
        assert "names 86 regions and holds 5" in text

    def test_atlases_that_the_model_lacks_are_listed(self, add, tmp_path, matrix):
        add("01", matrix, atlas="atlas_Gordon333Ext")
        with pytest.raises(InputError, match="atlases Gordon333Ext; the model has: fs86"):
            open_tree(tmp_path, WANTED)


def test_a_folder_of_matrices_is_read_for_a_flavor(tmp_path, row):
    for participant in ("b", "a"):
        matrix = edges_to_matrix(row, diagonal=1.0)
        np.savetxt(
            tmp_path / f"{participant}.csv", matrix, delimiter=",", header="by hand", fmt="%.9g"
        )
    (tmp_path / "participants.tsv").write_text("participant_id\n")
    found = open_tree(tmp_path, Wanted(MODEL, name=HPF))
    assert found[HPF].participants == ("a", "b")
    np.testing.assert_array_equal(found[HPF].read([1])[0], row)
    with pytest.raises(InputError, match=r"names a\.csv, b\.csv do not tell which flavor"):
        open_tree(tmp_path, WANTED)


def test_an_unpacked_archive_of_the_reference_is_read(tmp_path, row):
    for meas in ("FCcorrHPF", "FCcorrHPFGSR"):
        file = tmp_path / f"sub-1_atlas-fs86_meas-{meas}_relmat.dense.tsv"
        np.savetxt(file, edges_to_matrix(row), delimiter="\t", fmt="%.9g")
    assert set(open_tree(tmp_path, WANTED)) == {HPF, GSR}


def test_folders_of_nothing_or_of_several_programs_are_refused(tmp_path, row):
    with pytest.raises(InputError, match="is no folder"):
        open_tree(tmp_path / "missing", WANTED)
    with pytest.raises(
        InputError, match=r"holds no connectomes that are read \(of kraken-bids, XCP-D"
    ):
        open_tree(tmp_path, WANTED)
    folder = tmp_path / "sub-1" / "func"
    write_table_of(folder / "sub-1_seg-fs86_stat-pearsoncorrelation_relmat.tsv", row)
    write_table_of(
        folder / "sub-1_seg-fs86_meas-PearsonCorrelation_desc-denoiseSimple_relmat.tsv", row
    )
    with pytest.raises(InputError, match="connectomes of XCP-D and of giga_connectome"):
        open_tree(tmp_path, WANTED)
    describe(tmp_path, "fMRIPrep")
    with pytest.raises(InputError, match="connectomes of XCP-D and of giga_connectome"):
        open_tree(tmp_path, WANTED)
    (tmp_path / "dataset_description.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset_description\.json cannot be read"):
        open_tree(tmp_path, WANTED)


@pytest.mark.parametrize("name", ["", COUNT])
def test_functional_connectomes_are_not_looked_for_structural_ones(tmp_path, row, name):
    describe(tmp_path, "xcp_d")
    folder = tmp_path / "sub-1" / "func"
    write_table_of(folder / "sub-1_seg-fs86_stat-pearsoncorrelation_relmat.tsv", row)
    only_sc = Wanted({COUNT: n_edges(N)}, name=name)
    with pytest.raises(InputError, match=r"holds FCcorr_fs86, (not|none of)"):
        open_tree(tmp_path, only_sc)
