# SPDX-License-Identifier: MIT
from __future__ import annotations

import hashlib
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import ResourceError, UsageError
from kraken_bids.fetch import (
    BUNDLE_CONFIG,
    copy_files,
    find_atlas_file,
    find_files,
    held_atlas_file,
    resource_dir,
    resource_dirs,
    search_dirs,
)
from kraken_bids.model.bundle import CONFIG_NAME, open_bundle
from kraken_bids.model.pretrained import find_model

#: What the server sends.
CONTENT = np.random.default_rng(0).bytes(3_000_000)
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "model"


def test_resource_folders_come_from_the_environment_then_the_cache(folders, monkeypatch):
    assert list(resource_dirs()) == folders
    monkeypatch.delenv("KRAKEN_BIDS_RESOURCES")
    assert resource_dirs() == (folders[2],)


def test_first_writable_folder_is_fetched_to(folders, monkeypatch):
    assert resource_dir() == folders[0]
    folders[0].write_text("not a folder")
    assert resource_dir() == folders[1]


def test_no_writable_folder_is_told_as_such(folders, monkeypatch):
    for folder in folders:
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("not a folder")
    with pytest.raises(ResourceError, match=r"no folder to keep.*Set KRAKEN_BIDS_RESOURCES"):
        resource_dir()


def test_file_in_any_resource_folder_is_found(published, server, folders):
    folders[2].mkdir(parents=True)
    (folders[2] / "file.bin").write_bytes(CONTENT)
    assert find_files([published("missing")]) == (folders[2] / "file.bin",)
    assert server.seen == []


def test_altered_file_in_a_resource_folder_is_left_aside(published, folders, caplog):
    folders[0].mkdir()
    (folders[0] / "file.bin").write_bytes(b"other")
    folders[1].mkdir()
    (folders[1] / "file.bin").write_bytes(CONTENT)
    assert find_files([published("missing")]) == (folders[1] / "file.bin",)
    assert "SHA-256 differs" in caplog.text


def test_atlas_image_is_fetched_once(published, server, folders):
    atlas = types.SimpleNamespace(file=lambda role: published("good", name=f"{role}.nii"))
    for _ in range(2):
        assert find_atlas_file(atlas, "labels") == folders[0] / "labels.nii"
    assert server.seen == [("good", 0)]


def test_atlas_image_is_looked_for_without_fetching(published, server, folders):
    atlas = types.SimpleNamespace(file=lambda role: published("good", name=f"{role}.nii"))
    assert held_atlas_file(atlas, "labels") is None
    assert server.seen == []
    held = find_atlas_file(atlas, "labels")
    assert held_atlas_file(atlas, "labels") == held


def test_role_that_an_atlas_lacks_is_refused():
    with pytest.raises(UsageError, match=r"shen268 has no published image 'volumes'"):
        find_atlas_file(load_atlas("shen268"), "volumes")
    with pytest.raises(UsageError, match=r"fs86 .*FreeSurfer segmentation"):
        find_atlas_file(load_atlas("fs86"), "labels")


def test_the_reference_programs_folder_is_looked_through_last(folders, monkeypatch, tmp_path):
    assert search_dirs() == (*folders, tmp_path / "reference")
    monkeypatch.delenv("KRAKENCODER_DATA")
    assert search_dirs(tmp_path)[-1] == tmp_path / "cache" / "krakencoder" / "model_data"
    assert search_dirs(tmp_path)[0] == tmp_path


def test_verified_file_of_the_reference_program_is_used_and_left_as_it_is(
    server, published, folders, tmp_path
):
    path = tmp_path / "reference" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    path.parent.chmod(0o555)
    assert find_files([published("missing")]) == (path,)
    assert server.seen == []
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]
    assert not folders[0].exists()


def test_file_that_the_reference_program_cut_short_is_not_used(
    server, published, folders, tmp_path, caplog
):
    path = tmp_path / "reference" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    assert find_files([published("good")]) == (folders[0] / "file.bin",)
    assert "SHA-256 differs" in caplog.text
    assert path.read_bytes() == CONTENT[:-1]


def test_files_held_elsewhere_are_copied(server, published, folders, tmp_path):
    folders[1].mkdir()
    (folders[1] / "file.bin").write_bytes(CONTENT)
    copy_files([published("good"), published("good", name="nowhere.bin")], tmp_path / "kit")
    assert [path.name for path in (tmp_path / "kit").iterdir()] == ["file.bin"]
    assert server.seen == []


def test_published_model_is_fetched_and_converted_once(server, folders, table):
    for _ in range(2):
        path = find_model("krakencoder-2024")
        assert path == folders[0] / "krakencoder-2024"
    assert (path / "config.json").read_text() == (
        "krakencoder-2024 ['chkpt.pt', 'fs86.npy', 'shen268.npy']"
    )
    assert len(server.seen) == 3


def test_model_in_a_later_resource_folder_is_used(server, folders, table):
    path = folders[1] / "krakencoder-2024"
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    assert find_model("krakencoder-2024") == path
    assert server.seen == []


def test_model_is_kept_in_the_folder_given(server, folders, table, tmp_path):
    assert find_model("krakencoder-2024", folder=tmp_path / "mine") == (
        tmp_path / "mine" / "krakencoder-2024"
    )
    assert not folders[0].exists()


def test_files_of_the_reference_program_become_a_bundle_without_a_server(
    folders, published_table, tmp_path
):
    names = ("mini.pt", "mini_ioxfm.npy")
    (tmp_path / "reference").mkdir()
    for name in names:
        shutil.copy(GOLDEN / name, tmp_path / "reference")
    published_table({
        "publication": dict.fromkeys(("authors", "citation", "address", "license", "terms"), ""),
        "models": {
            "mini": {
                "description": "",
                "shares_latents_with": "",
                "checkpoints": ["mini.pt"],
                "flavors": {"FCcorr_fs86_hpf": "mini_ioxfm.npy"},
            }
        },
        "files": {
            name: {
                "url": "http://127.0.0.1:1/",
                "sha256": hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest(),
                "mirrors": [],
            }
            for name in names
        },
    })
    bundle = open_bundle(find_model("mini"))
    assert bundle.path == folders[0] / "mini"
    assert "FCcorr_fs86_hpf" in bundle.flavors


def test_a_bundle_is_known_by_the_file_that_bundles_have():
    assert BUNDLE_CONFIG == CONFIG_NAME


def test_folder_of_a_bundle_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bundle").mkdir()
    with pytest.raises(ResourceError, match=r"no model bundle.*config\.json.*bundle"):
        find_model("bundle")
    Path("bundle/config.json").write_text("{}")
    assert find_model("bundle") == tmp_path / "bundle"


def test_unknown_model_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match=r"Did you mean 'krakencoder-2024'\?"):
        find_model("krakencoder-2042")
