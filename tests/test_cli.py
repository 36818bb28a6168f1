# SPDX-License-Identifier: MIT
"""The command line: what it understands, and what it says of what it doesn't."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kraken_bids.arguments import config_text, parse_count, settings_from
from kraken_bids.boilerplate import describe_methods
from kraken_bids.boilerplate_structural import FIVE_TISSUE_WORDS
from kraken_bids.cli import main, make_parser
from kraken_bids.completion import fingerprint
from kraken_bids.errors import InputError, KrakenBIDSError, Problems, ResourceError, UsageError
from kraken_bids.plan import SessionPlan
from kraken_bids.run import session_key
from kraken_bids.settings import COCO439, FIVE_TISSUE, FunctionalOptions


@pytest.fixture
def folders(tmp_path):
    """A data set folder and an output folder to be."""
    bids_dir = tmp_path / "data"
    bids_dir.mkdir()
    return [str(bids_dir), str(tmp_path / "out")]


@pytest.fixture
def read(folders, tmp_path):
    """Settings of a participant-level command line."""

    def read(*options):
        parser = make_parser()
        words = [*folders, "participant", "--work-dir", str(tmp_path / "work"), *options]
        return settings_from(parser.parse_args(words), parser)

    return read


def test_help_imports_nothing_heavy():
    heavy = ("numpy", "torch", "nipype", "nilearn", "pandas", "bids", "nibabel", "scipy")
    code = (
        "import sys; from kraken_bids.cli import make_parser; make_parser().format_help(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_told(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith("kraken-bids ")


@pytest.mark.parametrize(
    "words",
    [
        ["--participant-label", "01", "sub-02"],
        ["--participant_label", "sub-01", "02"],
        ["--participant-label=01", "--participant-label", "01", "02"],
    ],
)
def test_both_spellings_and_prefixes_are_understood(read, words):
    assert read(*words).selection.participants == ("01", "02")


def test_participants_are_read_from_a_list(read, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("sub-01\n02\n")
    assert read("--participant-label", f"@{listing}").selection.participants == ("01", "02")


def test_misspelt_option_gets_a_suggestion(folders, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([*folders, "participant", "--partcipant-label", "01"])
    assert leaving.value.code == 2
    assert "did you mean --participant-label?" in capsys.readouterr().err


def test_unknown_value_of_an_option_gives_code_2(folders, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([*folders, "participant", "--compcor", "excat"])
    assert leaving.value.code == 2
    assert "invalid choice: 'excat'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--atlases", "fs68"], UsageError, "Did you mean 'fs86'"),
        (["--flavors", "FCcor_fs86_hpf"], UsageError, "Did you mean 'FCcorr_fs86_hpf'"),
        (
            ["--flavors", "FCcorr_fs86_hpf", "FCcorr_fs68_hpf"],
            UsageError,
            "'FCcorr_fs68_hpf' is of no known atlas.*Did you mean 'FCcorr_fs86_hpf'",
        ),
        (
            ["--atlases", "fs86", "--flavors", "FCcorr_fs86_hpf", "FCcorr_shen268_hpf"],
            UsageError,
            "'FCcorr_shen268_hpf' is of an atlas that is left out \\(--atlases fs86\\)",
        ),
        (["--adaptation", "zscore"], UsageError, "neither a mode nor a file.*meanshift"),
        (["--device", "gpu"], UsageError, "device 'gpu' is unknown.*cuda:0"),
        (["--streamlines", "many"], UsageError, "not a number of streamlines.*20k"),
        (["--mem", "lots"], UsageError, "not an amount of memory.*8G"),
        (["--nprocs", "0"], UsageError, "too small.*--nprocs"),
        (["--nprocs", "1", "--omp-nthreads", "4"], UsageError, "4 threads a program, but 1"),
        (["-d", "fmriprep"], UsageError, "not NAME=VALUE.*--derivatives"),
        (["-d", "fmripep=/"], UsageError, "Did you mean 'fmriprep'"),
        (["-d", "fmriprep=/nowhere/at/all"], InputError, "no folder /nowhere/at/all"),
        (["--atlas-file", "shen268=/nowhere.nii"], InputError, "no file /nowhere.nii"),
        (["--fusion", "a b=SC"], UsageError, "cannot be the name of a fusion"),
        (["--participant-label", "../01"], UsageError, "not a BIDS label"),
        (["--pcorr-lambda", "fs86=-1"], UsageError, "not a number of at least 0"),
        (["--output-label", "a/b"], UsageError, "cannot be part of a folder's name"),
    ],
)
def test_wrong_values_are_explained(read, words, error, message):
    with pytest.raises(error, match=message):
        read(*words)


def test_atlases_of_the_published_model_are_measured_by_default(read):
    assert read().atlases == ("fs86", "shen268", "coco439")
    assert read("--atlases", "cocoyeo243", "fs86").atlases == ("fs86", "cocoyeo243")
    assert "cocoyeo243" in read("--flavors", "FCcorr_cocoyeo243_hpf").atlases


def test_flavors_that_are_not_measured_are_refused_where_they_would_have_to_be(folders, read):
    words = ["--flavors", "SCifod2act_fs86_volnormicv"]
    with pytest.raises(
        UsageError, match=r"SCifod2act_fs86_volnormicv' cannot be measured.*volnorm"
    ):
        read(*words)
    parser = make_parser()
    words = [*folders, "group", "--model", str(folders[0]), *words]
    with pytest.raises(KrakenBIDSError) as caught:  # the folder is no model
        settings_from(parser.parse_args(words), parser)
    assert "cannot be measured" not in str(caught.value)


def test_lambda_of_any_atlas_is_kept(read):
    given = dict(read("--pcorr-lambda", "cocoyeo243=0.2", "fs86=0.1").functional.pcorr_lambda)
    assert given == {"fs86": 0.1, "shen268": 0.06, "coco439": 0.06, "cocoyeo243": 0.2}


def test_options_of_the_recipe_are_read(read):
    options = read(
        "--outliers", "fmriprep", "--hpf-edge", "0.0015", "--min-coverage", "0.5"
    ).functional  # fmt: skip
    assert (options.outliers, options.high_pass_edge_hz) == ("fmriprep", 0.0015)
    assert (options.edge_rule, options.min_coverage, options.mark) == ("hz", 0.5, "")
    in_bins = read("--hpf-edge", "fmriclean").functional
    assert (in_bins.edge_rule, in_bins.high_pass_edge_hz) == ("fmriclean", 0.0029)
    assert read().functional == FunctionalOptions()
    other = read("--denoising", "ica_aroma").functional
    assert (other.denoising, other.mark, other.needs_tissues) == ("ica_aroma", "icaaroma", False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hpf-edge", "wide"], "'wide' is not a number of at least 0"),
        (["--hpf-edge", "2.9"], r"2.9 Hz is wider than the cut-off.*such as 0.0029"),
        (["--min-coverage", "50"], "'50' is no share.*such as 0.5"),
        (["--min-coverage", "-0.1"], "not a number of at least 0"),
        (
            ["--denoising", "simple", "--compcor", "columns", "--hpf-edge", "fmriclean"],
            "strategy simple has its own .*--compcor, --hpf-edge.*Leave these options out",
        ),
    ],
)
def test_wrong_options_of_the_recipe_are_explained(read, words, message):
    with pytest.raises(UsageError, match=message):
        read(*words)


def test_options_of_the_recipe_round_trip_and_make_another_fingerprint(folders, tmp_path):
    parser = make_parser()
    words = [*folders, "participant", "-w", str(tmp_path / "w")]
    plain = settings_from(parser.parse_args(words), parser)
    for options in (
        ["--outliers", "fmriprep"],
        ["--hpf-edge", "fmriclean"],
        ["--hpf-edge", "0"],
        ["--min-coverage", "0.25"],
        ["--denoising", "scrubbing"],
    ):
        typed = parser.parse_args([*words, *options])
        file = tmp_path / "options.toml"
        file.write_text(config_text(typed))
        again = parser.parse_args([*folders, "participant", "--config-file", str(file)])
        settings = settings_from(again, parser)
        assert settings == settings_from(typed, parser)
        assert fingerprint(settings.functional) != fingerprint(plain.functional)


def test_numbers_of_the_recipe_may_be_numbers_in_a_configuration(read, tmp_path):
    file = tmp_path / "options.toml"
    file.write_text("hpf-edge = 0.002\nmin-coverage = 0.3\ndenoising = 'simpel'\n")
    with pytest.raises(UsageError, match=r"'simpel' is none.*--denoising.*Did you mean 'simple'"):
        read("--config-file", str(file))
    file.write_text("hpf-edge = 0\nmin-coverage = 1\n")
    options = read("--config-file", str(file)).functional
    assert (options.high_pass_edge_hz, options.min_coverage) == (0.0, 1.0)


def test_series_that_are_denoised_are_not_denoised_again(read, folders):
    words = ["-d", f"xcp_d={folders[0]}", "--denoising", "simple"]
    with pytest.raises(UsageError, match="series of XCP-D are denoised already"):
        read(*words)


def test_labels_of_coco439_are_a_choice(read, tmp_path):
    assert read().coco439 == "auto"
    assert read("--coco439", "group").coco439 == "group"
    (tmp_path / "labels.nii.gz").touch()
    given = ("--atlas-file", f"coco439={tmp_path / 'labels.nii.gz'}")
    assert read("--coco439", "auto", *given).coco439 == "auto"
    with pytest.raises(UsageError, match="own labels and a given label image exclude"):
        read("--coco439", "subject", *given)
    (tmp_path / "config.toml").write_text('coco439 = "grup"\n')
    with pytest.raises(UsageError, match=r"'grup' is none of its values \(--coco439\)"):
        read("--config-file", str(tmp_path / "config.toml"))


def methods_text(settings):
    return describe_methods(settings).markdown


def test_methods_text_says_whose_labels_were_used(read, tmp_path):
    texts = {choice: methods_text(read("--coco439", choice)) for choice in COCO439}
    assert "built from each participant's FreeSurfer outputs" in texts["subject"]
    assert "group image" not in texts["subject"]
    assert "FreeSurfer outputs" not in texts["group"]
    assert "did not allow" in texts["auto"]
    assert "Labels of" not in methods_text(read("--atlases", "fs86"))


def test_methods_text_says_how_structural_connectomes_were_made(read, monkeypatch):
    monkeypatch.setattr(
        "kraken_bids.arguments.reading.missing_five_tissue_programs", lambda source: ()
    )
    plain = methods_text(read())
    assert "tournier, csd" in plain
    assert "weighed by SIFT2" not in plain  # dynamic seeding rests on its paper
    assert "weighed by SIFT2" in methods_text(read("--sift2"))
    texts = {source: methods_text(read("--five-tissue", source)) for source in FIVE_TISSUE}
    assert len(set(texts.values())) == len(FIVE_TISSUE)
    assert all(FIVE_TISSUE_WORDS[source] in text for source, text in texts.items())
    assert "Patenaude" in texts["fsl"]
    assert "Patenaude" not in texts["hsvs"]


def test_methods_text_says_what_was_asked_for(read):
    assert "motion outliers of fMRIPrep" in methods_text(read("--outliers", "fmriprep"))
    assert "fmriclean's rule" in methods_text(read("--hpf-edge", "fmriclean"))
    assert "less than 50% of them" in methods_text(read("--min-coverage", "0.5"))
    text = methods_text(read("--denoising", "compcor"))
    assert "not the recipe of the model's training data" in text
    assert "transient" not in text


def test_all_problems_are_told_together(read):
    with pytest.raises(Problems) as caught:
        read("--atlases", "fs68", "--streamlines", "many", "-d", "qsiprep=/nowhere/at/all")
    told = str(caught.value)
    assert all(word in told for word in ("fs68", "many", "/nowhere/at/all"))
    assert len(caught.value.problems) == 3


def test_unwritable_output_folder_is_told_before_any_work(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder must be")
    data = tmp_path / "data"
    data.mkdir()
    code = main([str(data), str(blocked / "out"), "participant", "-w", str(tmp_path / "w")])
    told = capsys.readouterr().err
    assert code == ResourceError.exit_code == 3
    assert "cannot be written" in told
    assert "OUTPUT_DIR" in told
    assert "Traceback" not in told


def test_folder_of_another_person_inside_is_named(folders, tmp_path, capsys):
    data, out = folders
    blocked = Path(out) / ".kraken-bids"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("root may write to all folders, but not below a file")
    assert main([data, out, "participant", "-w", str(tmp_path / "w")]) == 3
    assert f"the folder {blocked} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["--dry-run", "--status"])
def test_looking_makes_no_folder(action, tmp_path):
    out, work = tmp_path / "new" / "out", tmp_path / "new" / "work"
    data = tmp_path / "data"
    data.mkdir()
    main([str(data), str(out), "participant", "-w", str(work), action])
    assert not (tmp_path / "new").exists()


def test_dry_run_tells_that_the_output_folder_cannot_be_written(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder must be")
    data = tmp_path / "data"
    data.mkdir()
    words = [str(data), str(blocked / "out"), "participant", "-w", str(tmp_path / "w")]
    assert main([*words, "--dry-run"]) == ResourceError.exit_code
    told = capsys.readouterr().err
    assert f"cannot be written: {blocked} is a file" in told
    assert "OUTPUT_DIR" in told


def test_output_folder_must_not_be_the_input(folders):
    parser = make_parser()
    words = parser.parse_args([folders[0], folders[0], "participant"])
    with pytest.raises(UsageError, match="OUTPUT_DIR is BIDS_DIR"):
        settings_from(words, parser)


def test_configuration_round_trips(folders, tmp_path):
    parser = make_parser()
    words = [*folders, "participant", "-w", str(tmp_path / "w")]
    typed = parser.parse_args([
        *words, "--sloppy", "--streamlines", "20k", "--nprocs", "2", "--relmat-format", "h5"
    ])  # fmt: skip
    file = tmp_path / "options.toml"
    file.write_text(config_text(typed))
    again = parser.parse_args([*folders, "participant", "--config-file", str(file)])
    assert settings_from(again, parser) == settings_from(typed, parser)


def test_zero_is_kept_in_a_configuration(folders, tmp_path):
    parser = make_parser()
    words = [*folders, "participant", "-w", str(tmp_path / "w")]
    typed = parser.parse_args([*words, "--random-seed", "0", "--assignment-radius", "0"])
    file = tmp_path / "options.toml"
    file.write_text(config_text(typed))
    again = settings_from(parser.parse_args([*words, "--config-file", str(file)]), parser)
    assert again.structural.random_seed == 0
    assert again.structural.assignment_radius_mm == 0.0


TYPED_DEFAULTS = [
    (["--compcor", "exact"], 'compcor = "columns"'),
    (["--streamlines", "5M"], 'streamlines = "20k"'),
    (["--random-seed=1"], "random-seed = 7"),
    (["--assignment_radius", "4"], "assignment_radius = 2.0"),
    (["--pcorr-lambda", "fs86=0.06"], 'pcorr-lambda = ["search"]'),
    (["--atlases", "fs86", "shen268", "coco439"], 'atlases = ["fs86"]'),
    (["--fusion", "fusion=all", "fusionSC=SC", "fusionFC=FC"], 'fusion = ["fusion=all"]'),
    (["--sift2"], "sift2 = false"),
    (["--mem", "2G"], 'mem_mb = "9000"'),
    (["--mem-mb", "2000"], 'mem = "9G"'),
]


@pytest.mark.parametrize(("typed", "line"), TYPED_DEFAULTS)
def test_what_is_typed_wins_over_a_configuration_even_if_it_is_the_default(
    read, tmp_path, typed, line
):
    file = tmp_path / "options.toml"
    file.write_text(f"{line}\nkeep-work = true\n")
    settings = read(*typed, "--config-file", str(file))
    assert settings == read(*typed, "--keep-work")
    assert read("--config-file", str(file)) != settings


def test_arguments_know_which_of_them_were_given(folders):
    parser = make_parser()
    parsed = parser.parse_args([*folders, "group", "--nthreads", "2", "--sift2", "-vv"])
    assert parsed.given == {"bids_dir", "output_dir", "level", "nprocs", "sift2", "verbose"}
    again = parser.parse_args([*folders, "participant", "--mem_mb=900"])
    assert again.given == {"bids_dir", "output_dir", "level", "mem_mb"}
    assert "given" not in vars(again)


def test_unknown_key_of_a_configuration_is_refused(read, tmp_path):
    file = tmp_path / "options.toml"
    file.write_text("streamline = '5M'\n")
    with pytest.raises(UsageError, match="Did you mean 'streamlines'"):
        read("--config-file", str(file))


def test_several_problems_are_a_list_and_one_is_none(capsys, study, tmp_path):
    one, other = UsageError("a is b", where="--a"), InputError("c is d")
    assert str(Problems([one])) == "a is b (--a)"
    assert str(Problems([one, other])) == "- a is b (--a)\n- c is d"
    study.add_anatomy("01")
    study.add_bold("01")
    words = [str(study.root), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "w")]
    words += ["--modality", "func", "--atlases", "fs86", "--dry-run", "--participant-label"]
    assert main([*words, "02"]) == 2
    assert "kraken-bids: participant '02'" in capsys.readouterr().err
    assert main([*words, "02", "03"]) == 2
    assert "nothing was run:\n- participant '02'" in capsys.readouterr().err


def test_unknown_value_of_a_configuration_is_refused(read, tmp_path):
    file = tmp_path / "options.toml"
    file.write_text("relmat-format = 'h6'\n")
    with pytest.raises(UsageError, match="'h6' is no format of connectomes"):
        read("--config-file", str(file))


def test_filter_file_with_unknown_query_is_refused(read, tmp_path):
    file = tmp_path / "filter.json"
    file.write_text(json.dumps({"bolt": {"task": "rest"}}))
    with pytest.raises(UsageError, match="Did you mean 'bold'"):
        read("--bids-filter-file", str(file))


def test_filters_become_values(read, tmp_path):
    file = tmp_path / "filter.json"
    file.write_text(json.dumps({"bold": {"task": ["rest", "nback"], "acquisition": None}}))
    filters = dict(read("--bids-filter-file", str(file)).selection.filters)
    assert dict(filters["bold"]) == {"task": ("rest", "nback"), "acquisition": (None,)}


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "M"])
def test_impossible_counts_are_refused(text):
    with pytest.raises(KrakenBIDSError, match="not a number of streamlines"):
        parse_count(text)


@pytest.mark.parametrize(
    ("option", "missing"), [("--write-graph", "dot"), ("--resource-monitor", "psutil")]
)
def test_options_that_need_more_programs_say_so(read, monkeypatch, option, missing):
    monkeypatch.setattr("kraken_bids.arguments.reading.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceError, match=f"{missing} is not installed.*[Ii]nstall"):
        read(option)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fls", r"'fls' is neither a source nor.*Did you mean 'fsl'"),
        ("{subject}.nii.gz", r"'\{subject\}' stands for nothing.*\{participant\}"),
        ("nowhere/5tt.nii.gz", "there is no file nowhere/5tt.nii.gz"),
    ],
)
def test_unknown_five_tissue_sources_are_refused(read, value, message):
    with pytest.raises(KrakenBIDSError, match=message):
        read("--five-tissue", value)


@pytest.mark.parametrize(
    ("source", "missing"),
    [("hsvs", "5ttgen"), ("fsl", "5ttgen, bet, fast, run_first_all, the environment variable")],
)
def test_five_tissue_programs_are_looked_for_before_any_work(read, monkeypatch, source, missing):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("FSLDIR", raising=False)
    with pytest.raises(ResourceError, match=f"not found: {missing}.*--five-tissue {source}"):
        read("--five-tissue", source)
    assert read("--five-tissue", source, "--modality", "func").structural.five_tissue == source


def test_five_tissue_programs_may_be_on_the_nodes_alone(read, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        (folder / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder))
    plugin = tmp_path / "plugin.json"
    plugin.write_text('{"plugin": "SLURM"}')
    settings = read("--five-tissue", "hsvs", "--use-plugin", str(plugin))
    assert settings.structural.five_tissue == "hsvs"


@pytest.fixture
def no_models(monkeypatch, tmp_path):
    """A machine without any model."""
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", str(tmp_path / "resources"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "resources"


def test_connectomes_are_compared_with_a_model_that_is_there(read, no_models):
    assert read().compared_model_dir is None
    (no_models / "krakencoder-2024").mkdir(parents=True)
    (no_models / "krakencoder-2024" / "config.json").touch()
    assert read().compared_model_dir == no_models / "krakencoder-2024"
    (no_models / "mine").mkdir()
    (no_models / "mine" / "config.json").touch()
    settings = read("--model", str(no_models / "mine"))
    assert settings.compared_model_dir == no_models / "mine"
    assert settings.translation.model_dir is None


@pytest.mark.usefixtures("no_models")
def test_a_model_to_come_does_not_keep_the_participant_level_from_running(read, caplog):
    assert read("--model", "model-to-train").compared_model_dir is None
    assert "not compared with a model: model 'model-to-train'" in caplog.text


@pytest.mark.usefixtures("no_models")
def test_a_model_that_has_come_makes_no_participant_anew(read, tmp_path):
    plan, settings = SessionPlan("01", None), read()
    later = dataclasses.replace(settings, compared_model_dir=tmp_path)
    assert session_key(plan, later) == session_key(plan, settings)
