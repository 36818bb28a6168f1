# SPDX-License-Identifier: MIT
"""Latents on the pages: where they lie in their cohort, and who is unusual."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kraken_bids.errors import UsageError
from kraken_bids.report.canvas import encode_png
from kraken_bids.report.found import read_session
from kraken_bids.report.latent_figures import (
    FIGURE_BYTES,
    draw_coloured_map,
    draw_place,
    level_names,
)
from kraken_bids.report.latent_map import LatentMap, find_maps, read_session_latents
from kraken_bids.report.latent_section import (
    colour_columns,
    map_pictures,
    outlier_warnings,
    place_in_cohort,
)

SIZE = 6


def write_latents(dataset_dir, values, *, fusion="fusion", sessions=None):
    """A cohort's table, and those of its sessions."""
    names = [f"z{index:03d}" for index in range(values.shape[1])]
    group = dataset_dir / "group"
    group.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(["participant_id", "session_id", "n_inputs", *names])]
    for row, latent in enumerate(values):
        session = sessions[row] if sessions else None
        cells = [*(f"{value:.8f}" for value in latent)]
        lines.append("\t".join([f"sub-{row:02d}", f"ses-{session}" if session else "n/a", "3",
                                *cells]))  # fmt: skip
        folder = dataset_dir / f"sub-{row:02d}" / (f"ses-{session}" if session else "")
        folder.mkdir(parents=True, exist_ok=True)
        label = f"sub-{row:02d}" + (f"_ses-{session}" if session else "")
        table = [["source", "n_inputs", *names], [fusion, "3", *cells]]
        text = "\n".join("\t".join(cells) for cells in table)
        (folder / f"{label}_latent.tsv").write_text(text + "\n")
    (group / f"desc-{fusion}_latent.tsv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def values(rng):
    """Latents far from zero, with most of their variance along one direction."""
    spread = np.array([3.0, 1.0, 0.3, 0.2, 0.2, 0.1])
    return 40 + rng.normal(size=(30, SIZE)) * spread


def test_map_is_that_of_a_singular_value_decomposition(tmp_path, values):
    write_latents(tmp_path, values)
    found = find_maps(tmp_path)["fusion"]
    centred = values - values.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * sizes[:2]
    for column in range(2):
        sign = np.sign(found.scores[:, column] @ expected[:, column])
        np.testing.assert_allclose(found.scores[:, column], sign * expected[:, column], atol=1e-6)
    np.testing.assert_allclose(found.shares, sizes[:2] ** 2 / (sizes**2).sum(), rtol=1e-7)
    np.testing.assert_allclose(found.distances, np.linalg.norm(centred, axis=1), rtol=1e-6)
    assert found.labels[:2] == ("sub-00", "sub-01")


def test_a_latent_of_the_cohort_has_its_own_place(tmp_path, values):
    write_latents(tmp_path, values)
    found = find_maps(tmp_path)["fusion"]
    latent = read_session_latents(tmp_path, "07", None)["fusion"]
    assert latent.n_inputs == "3"
    place, distance = found.place(latent.values)
    np.testing.assert_allclose(place, found.scores[7], atol=1e-6)
    assert distance == pytest.approx(found.distances[7], rel=1e-6)


def test_a_changed_table_is_read_again(tmp_path, values):
    write_latents(tmp_path, values)
    assert len(find_maps(tmp_path)["fusion"].labels) == 30
    write_latents(tmp_path, values[:12])
    assert len(find_maps(tmp_path)["fusion"].labels) == 12


def test_a_latent_far_from_the_others_is_named_on_both_pages(tmp_path, values):
    values[5] += 40
    write_latents(tmp_path, values, sessions=["a"] * 30)
    (notice,) = outlier_warnings(list(find_maps(tmp_path).values()))
    assert notice.names == ("sub-05_ses-a",)
    session = read_session(tmp_path, "05", "a")
    place = place_in_cohort(tmp_path, session, prefix="sub-05_ses-a: ")
    assert len(place.notices) == 1
    assert place.notices[0].what.startswith("sub-05_ses-a: ")
    (row,) = place.grid.rows
    assert [row[0].text, row[-1].text] == ["fusion", "29 of 30"]
    assert place_in_cohort(tmp_path, read_session(tmp_path, "06", "a")).notices == ()


def test_in_a_cohort_of_few_nobody_is_unusual(tmp_path, values):
    values[5] += 40
    write_latents(tmp_path, values[:10])
    assert not list(outlier_warnings(list(find_maps(tmp_path).values())))


def test_latents_without_a_cohort_have_no_place(tmp_path, values):
    write_latents(tmp_path, values[:3])
    (tmp_path / "group" / "desc-fusion_latent.tsv").unlink()
    place = place_in_cohort(tmp_path, read_session(tmp_path, "01", None))
    assert place.figure is None
    assert place.grid.rows == ()
    assert place_in_cohort(tmp_path, read_session(tmp_path, "99", None)) is None


@pytest.mark.parametrize(
    "text",
    ["", "participant_id\tz000\nsub-01\tx\nsub-02\t1\n", "participant_id\nsub-01\n",
     "participant_id\tz000\tmore\nsub-01\t1\t2\n", "participant_id\tz000\nsub-01\t1\n"],
    ids=["empty", "words", "no latents", "columns after", "one only"],
)  # fmt: skip
def test_damaged_tables_of_latents_are_left_out(tmp_path, text):
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "desc-fusion_latent.tsv").write_text(text)
    assert find_maps(tmp_path) == {}


def test_columns_that_tell_nothing_are_left_out():
    rows = [
        {"participant_id": f"{index:02d}", "site": "AB"[index % 2], "age": str(20 + index),
         "name": f"n{index}", "scanner": "one", "note": "n/a"}
        for index in range(12)
    ]  # fmt: skip
    second = [{"participant_id": "sub-00", "site": "C", "hand": "left"},
              {"participant_id": "sub-01", "site": "C", "hand": "right"}]  # fmt: skip
    columns, left_out = colour_columns([rows, second])
    assert list(columns) == ["site", "age", "hand"]
    assert columns["site"]["sub-00"] == "A"  # of the first table
    assert left_out == ["name", "scanner", "note"]


def test_the_map_of_a_large_cohort_is_small(tmp_path, rng):
    write_latents(tmp_path, rng.normal(size=(400, SIZE)))
    columns = {"age": {f"sub-{row:02d}": str(row / 7) for row in range(400)}}
    (drawn,) = map_pictures(list(find_maps(tmp_path).values()), columns)
    assert 1000 < len(drawn.picture.content) <= FIGURE_BYTES


def test_a_map_is_drawn_for_every_column(tmp_path, values):
    write_latents(tmp_path, values)
    write_latents(tmp_path, values[:20], fusion="fusionSC")
    maps = list(find_maps(tmp_path).values())
    assert [found.fusion for found in maps] == ["fusion", "fusionSC"]
    columns = {"site": {f"sub-{row:02d}": "AB"[row % 2] for row in range(25)}, "$age": {
        f"sub-{row:02d}": str(row) for row in range(30)}}  # fmt: skip
    drawn = map_pictures(maps, columns)
    assert [one.name for one in drawn] == ["site", "$age"]
    assert drawn[0].picture.content != drawn[1].picture.content
    assert [one.name for one in map_pictures(maps, {})] == ["all"]
    assert map_pictures([], columns) == []


def test_a_value_moves_the_colours_of_its_points(tmp_path, values):
    write_latents(tmp_path, values)
    maps = list(find_maps(tmp_path).values())
    of_sites = {f"sub-{row:02d}": "AB"[row % 2] for row in range(30)}
    one = draw_coloured_map(maps, of_sites, "site")
    other = draw_coloured_map(maps, {**of_sites, "sub-03": "A"}, "site")
    assert encode_png(one) != encode_png(other)


def test_rare_values_are_drawn_together():
    names = level_names(["a"] * 5 + [f"x{index}" for index in range(9)])
    assert names["a"] == "a"
    assert len(set(names.values())) == 7
    assert "others" in names.values()


def test_without_a_latent_nothing_is_drawn(tmp_path, values):
    write_latents(tmp_path, values)
    with pytest.raises(UsageError, match="no latent to draw"):
        draw_place(find_maps(tmp_path), {"fusionSC": values[0]}, "sub-00")
    with pytest.raises(UsageError, match="no latent to draw"):
        draw_coloured_map([], {}, "site")


def test_damaged_latents_of_a_session_are_left_out(tmp_path):
    (tmp_path / "sub-01").mkdir()
    table = tmp_path / "sub-01" / "sub-01_latent.tsv"
    table.write_text(
        "source\tn_inputs\tz000\tz001\nfusion\t1\tx\t2\nfusionSC\t1\t1\nfine\t1\t1\t2\n"
    )
    assert list(read_session_latents(tmp_path, "01", None)) == ["fine"]
    table.write_text(json.dumps({}))
    assert read_session_latents(tmp_path, "01", None) == {}


def test_two_sessions_equally_far_but_for_rounding_are_drawn():
    latents = np.array([[0.1, 0.0], [-np.nextafter(0.1, 1), 0.0]])
    found = LatentMap(
        "fusion", ("sub-01", "sub-02"), mean=np.zeros(2), axes=np.eye(2), shares=np.array([1, 0]),
        scores=latents, distances=np.abs(latents[:, 0]),
    )  # fmt: skip
    assert np.ptp(found.distances) > 0
    assert len(encode_png(draw_place({"fusion": found}, {"fusion": latents[0]}, "sub-01"))) > 0
