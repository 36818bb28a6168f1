# SPDX-License-Identifier: MIT
"""``kraken-submit``: which jobs are made of which options, and what is refused before any."""

import json
import subprocess
import sys
import tomllib

import pytest

from kraken_bids.arguments import settings_from
from kraken_bids.cli import make_parser
from kraken_bids.submit.cli import main

N_PARTICIPANTS = 5


@pytest.fixture
def cohort(study):
    """A data set of a few participants with a run each."""
    for number in range(1, N_PARTICIPANTS + 1):
        study.add_anatomy(f"{number:02d}")
        study.add_bold(f"{number:02d}")
    return study


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Stand-ins for Slurm's commands; what was submitted is noted in a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    notes = tmp_path / "submitted.txt"
    programs = {
        "sbatch": f'echo "$@" >> {notes}\necho $((100 + $(wc -l < {notes})))',
        "squeue": "true",
        "scontrol": 'echo "MaxArraySize            = 4"',
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return notes


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def submit(cohort, out, tmp_path, capsys):
    """Run the command on the cohort; gives exit code, what was printed and what was said."""

    def submit(*words, level="participant"):
        options = ["--modality", "func", "--atlases", "fs86", "-w", tmp_path / "work"]
        code = main(list(map(str, [cohort.root, out, level, *options, *words])))
        told = capsys.readouterr()
        return code, told.out, told.err

    return submit


def printed_files(text):
    """Contents of ``--dry-run`` by name of file."""
    parts = text.split("# ---- ")[1:]
    return {part.split("\n")[0].rpartition("/")[2]: part.partition("\n")[2] for part in parts}


def written_files(out):
    """Contents of the last submission by name of file."""
    folders = (out / "logs" / "submit").iterdir()
    folder = max(folders, key=lambda path: path.stat().st_mtime_ns)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_dry_run_submits_and_writes_nothing(submit, scheduler, out):
    code, printed, _ = submit("--dry-run")
    assert code == 0
    assert "kraken-1.sh" in printed_files(printed)
    assert not scheduler.exists()
    assert not (out / "logs").exists()


def test_cohort_is_cut_into_arrays_of_the_size_allowed(submit, scheduler, out):
    code, _, said = submit()
    assert code == 0
    files = written_files(out)
    assert (files["kraken-1.txt"], files["kraken-2.txt"]) == ("01\n02\n03\n", "04\n05\n")
    assert "#SBATCH --array=1-3\n" in files["kraken-1.sh"]
    assert "#SBATCH --array=1-2\n" in files["kraken-2.sh"]
    assert "kraken-2: job 102, 2 tasks" in said
    assert len(scheduler.read_text().splitlines()) == 2


def test_several_participants_a_job(submit, scheduler, out):
    submit("--participants-per-job", 2, "--max-array-size", 10, "--at-once", 1)
    files = written_files(out)
    assert files["kraken.txt"] == "01 02\n03 04\n05\n"
    assert "#SBATCH --array=1-3%1\n" in files["kraken.sh"]


def test_group_job_waits_for_all_arrays(submit, scheduler, out, held_model):
    code, _, said = submit("--model", held_model, level="both")
    assert code == 0, said
    *arrays, group = scheduler.read_text().splitlines()
    assert len(arrays) == 2
    assert "--dependency=afterok:101:102 --kill-on-invalid-dep=yes" in group
    record = json.loads(written_files(out)["submission.json"])
    assert record["jobs"] == {"kraken-1": "101", "kraken-2": "102", "kraken-group": "103"}


@pytest.fixture
def held_model(tmp_path):
    """A folder that passes for a bundle: it is looked at by the group job only."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_each_level_is_given_its_own_options(submit, scheduler, out, held_model, tmp_path):
    submit(
        "--model", held_model, "--fusion", "all=all", "--nprocs", 3, "--mem", "7G",
        "--group-nprocs", 2, "--gpus", 1, "--min-coverage", "0.5", "--participant-label", "01",
        "02", "--time", "90m", level="both",
    )  # fmt: skip
    files = written_files(out)
    participant = tomllib.loads(files["participant.toml"])
    group = tomllib.loads(files["group.toml"])
    assert (participant["nprocs"], participant["mem"], group["nprocs"]) == (3, "7G", 2)
    assert participant["min_coverage"] == group["min_coverage"] == "0.5"
    assert "model" not in participant
    assert (group["model"], group["fusion"]) == (str(held_model), ["all=all"])
    assert "participant_label" not in participant  # the tasks name theirs
    assert group["participant_label"] == ["01", "02"]
    assert files["kraken.txt"] == "01\n02\n"
    assert "--gres=gpu:1" not in files["kraken.sh"]
    assert "--gres=gpu:1" in files["kraken-group.sh"]
    assert "--time=01:30:00" in files["kraken.sh"]


def test_jobs_read_their_options_as_kraken_bids_would(submit, scheduler, out, cohort):
    submit("--streamlines", "20k", "--sloppy", "--pcorr-lambda", "fs86=0.1")
    folder = sorted((out / "logs" / "submit").iterdir())[-1]
    parser = make_parser()
    words = [
        str(cohort.root), str(out), "participant", "--config-file",
        str(folder / "participant.toml"), "--participant-label", "03",
    ]  # fmt: skip
    settings = settings_from(parser.parse_args(words), parser)
    assert settings.selection.participants == ("03",)
    assert settings.structural.n_streamlines == 20_000
    assert dict(settings.functional.pcorr_lambda)["fs86"] == 0.1
    assert settings.resources.n_procs == 4


def test_relative_paths_are_those_of_the_place_of_the_call(
    submit, scheduler, out, cohort, monkeypatch
):
    monkeypatch.chdir(cohort.root)
    pattern = "derivatives/5tt/sub-{participant}.nii.gz"
    code, _, said = submit("-d", "fmriprep=derivatives/fmriprep", "--five-tissue", pattern)
    assert code == 0, said
    options = tomllib.loads(written_files(out)["participant.toml"])
    assert options["five_tissue"] == f"{cohort.root}/{pattern}"
    assert options["derivatives"] == [f"fmriprep={cohort.root}/derivatives/fmriprep"]


def test_container_is_given_the_folders_that_it_needs(
    submit, scheduler, out, held_model, cohort, tmp_path
):
    image = tmp_path / "kraken.sif"
    image.touch()
    submit(
        "--container", image, "--model", held_model, "--gpus", 1, "--bind", "/opt", level="both"
    )
    files = written_files(out)
    command = files["kraken-group.sh"].splitlines()[-1]
    assert command.startswith("exec apptainer run --containall --cleanenv --nv ")
    assert f" {image} {cohort.root} {out} group --config-file " in command
    for bind in (f"{cohort.root}:{cohort.root}:ro", "/opt:/opt:ro", f"{out}:{out}"):
        assert f" -B {bind} " in command
    command = files["kraken-1.sh"].splitlines()[-1]
    assert "--nv" not in command
    assert f" -B {tmp_path}/work:{tmp_path}/work " in command


def test_container_has_the_atlases_and_models_of_the_machine_that_is_submitted_from(
    submit, scheduler, out, held_model, tmp_path, monkeypatch
):
    """Else the group level would miss its model, and what is done would not be known as done."""
    kept, none = tmp_path / "kept", tmp_path / "none"
    kept.mkdir()
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", f"{kept}:{none}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(none))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "first.txt").write_text("01\n02\n")
    image = tmp_path / "kraken.sif"
    image.touch()
    submit(
        "--container", image, "--model", held_model, "--participant-label",
        f"@{lists}/first.txt", level="both",
    )  # fmt: skip
    files = written_files(out)
    assert files["kraken.txt"] == "01\n02\n"
    for name in ("kraken.sh", "kraken-group.sh"):
        command = files[name].splitlines()[-1]
        assert f" --env KRAKEN_BIDS_RESOURCES={kept} -B " in command
        assert f" -B {kept}:{kept}:ro " in command
        assert f"\nmkdir -p {out} {tmp_path}/work\n" in files[name]
    assert f" -B {held_model}:{held_model}:ro " in files["kraken-group.sh"]
    assert f" -B {lists}:{lists}:ro " in files["kraken-group.sh"]
    assert f" -B {held_model}" not in files["kraken.sh"]


def test_input_problem_of_one_participant_is_told_and_the_others_are_submitted(
    submit, scheduler, out, cohort
):
    (cohort.root / "derivatives" / "fmriprep" / "sub-02" / "func").rename(out.parent / "away")
    code, _, said = submit("--max-array-size", 10)
    assert code == 1
    assert "sub-02 has no functional data" in said
    assert written_files(out)["kraken.txt"] == "01\n03\n04\n05\n"


def test_retry_takes_up_the_options_of_the_last_submission(submit, scheduler, out, cohort):
    submit("--streamlines", "20k", "--participant-label", "01", "02", "--time", "5h")
    code = main([str(cohort.root), str(out), "--retry-failed", "--time", "9h"])
    assert code == 0
    files = written_files(out)
    assert tomllib.loads(files["participant.toml"])["streamlines"] == "20k"
    assert files["kraken.txt"] == "01\n02\n"
    assert "--time=09:00:00" in files["kraken.sh"]
    assert "kraken-group.sh" not in files  # the last submission had none


def test_what_is_typed_wins_over_the_last_submission_even_if_it_is_the_default(
    submit, scheduler, out, cohort, tmp_path
):
    submit("--streamlines", "20k", "--compcor", "columns", "--time", "5h", "--omp-nthreads", "1")
    file = tmp_path / "options.toml"
    file.write_text('time = "6h"\ncoco439 = "group"\nstreamlines = "30k"\n')
    words = ["--streamlines", "5M", "--time", "24h", "--config-file", str(file)]
    assert main([str(cohort.root), str(out), "participant", "--retry-failed", *words]) == 0
    options = tomllib.loads(written_files(out)["participant.toml"])
    assert options["streamlines"] == "5M"  # typed
    assert options["coco439"] == "group"  # from the file that is named now
    assert options["compcor"] == "columns"  # from the last submission
    assert "--time=24:00:00" in written_files(out)["kraken-1.sh"]


def test_levels_that_are_typed_win_over_those_of_the_last_submission(
    submit, scheduler, out, cohort, held_model
):
    submit()
    words = ["both", "--retry-failed", "--model", str(held_model)]
    assert main([str(cohort.root), str(out), *words]) == 0
    assert "kraken-group.sh" in written_files(out)


def test_programs_of_the_jobs_need_not_be_on_this_machine(
    cohort, scheduler, out, tmp_path, monkeypatch, capsys
):
    cohort.add_freesurfer("01")
    cohort.add_dwi("01")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # a scheduler, and nothing else
    words = [str(cohort.root), str(out), "participant", "-w", str(tmp_path / "work"), "--dry-run"]
    code = main([*words, "--modality", "dwi", "--atlases", "fs86", "--five-tissue", "hsvs",
                 "--participant-label", "01", "--write-graph"])  # fmt: skip
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "not found" not in told.err


def test_nothing_is_retried_while_jobs_are_queued(submit, scheduler, cohort, out, capsys):
    submit()
    (scheduler.parent / "bin" / "squeue").write_text('#!/bin/bash\necho "  $3 lab kraken R 1"\n')
    code = main([str(cohort.root), str(out), "--retry-failed"])
    assert code == 3
    assert "still wait or run: 101, 102" in capsys.readouterr().err


def test_retry_without_a_submission_is_refused(submit, scheduler):
    code, _, said = submit("--retry-failed")
    assert (code, "nothing has been submitted" in said) == (3, True)


def test_damaged_record_is_refused(submit, scheduler, out):
    submit()
    (record,) = out.glob("logs/submit/*/submission.json")
    record.write_text("{")
    code, _, said = submit("--retry-failed")
    assert code == 3
    assert "the record of the last submission cannot be read" in said


def test_refusal_of_the_scheduler_is_told(submit, scheduler, tmp_path):
    (tmp_path / "bin" / "sbatch").write_text('#!/bin/bash\necho "invalid partition" >&2; exit 1\n')
    code, _, said = submit("--queue", "none")
    assert code == 3
    assert "sbatch refused kraken-1: invalid partition" in said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--time", "soon"], 2, "'soon' is no time"),
        (["--participants-per-job", "0"], 2, "0 is too small"),
        (["--prologue", "/none"], 3, "/none cannot be read"),
        (["--nprocs", "0"], 2, "0 is too small"),
        (["--atlases", "fs87"], 2, "fs87"),
        (["--min-coverage", "7"], 2, "7"),
        (["-d", "fmriprep=/none"], 3, "there is no folder /none"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_any_job(
    submit, scheduler, words, code, message
):
    met, _, said = submit(*words)
    assert met == code
    assert message in said
    assert not scheduler.exists()


@pytest.mark.parametrize("option", ["--status", "--reports-only", "--boilerplate-only"])
def test_who_only_asks_submits_nothing(submit, scheduler, option):
    code, printed, said = submit(option)
    assert (code, printed) == (2, "")
    assert f" participant {option}, with the options of the jobs" in said
    assert not scheduler.exists()


def test_model_that_is_not_there_is_refused_before_any_job(submit, scheduler, tmp_path):
    code, _, said = submit("--model-dir", tmp_path / "models", level="both")
    assert code == 3
    assert "the model krakencoder-2024 is not on this machine" in said
    assert not scheduler.exists()


def test_no_scheduler_is_told(submit, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, said = submit()
    assert code == 2
    assert "no scheduler is on the path" in said


def test_container_without_a_work_folder_is_refused(cohort, out, scheduler, capsys):
    words = [cohort.root, out, "participant", "--atlases", "fs86", "--container", "kraken.sif"]
    assert main(list(map(str, words))) == 2
    assert "a container needs a folder for scratch files" in capsys.readouterr().err


def test_image_that_is_not_there_is_told_before_any_job(submit, scheduler, tmp_path):
    code, _, said = submit("--container", tmp_path / "kraken.sif")
    assert code == 3
    assert f"there is no image {tmp_path}/kraken.sif (--container)" in said
    assert not scheduler.exists()


def test_folder_with_blanks_is_refused(cohort, tmp_path, scheduler, capsys):
    words = [cohort.root, tmp_path / "my out", "participant", "--atlases", "fs86"]
    assert main(list(map(str, words))) == 2
    assert "blanks" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from kraken_bids.submit.options import make_submit_parser as make;"
        "make().format_help();"
        "print([name for name in ('numpy', 'nipype', 'bids', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
