# SPDX-License-Identifier: MIT
"""The picture of the architecture is that of the table which the code is held to."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

from builder.architecture import (
    PROGRAMS,
    draw_architecture,
    find_arrows,
    find_layers,
    is_package,
    place_boxes,
    reach,
    read_rules,
)

SVG = "{http://www.w3.org/2000/svg}"


def test_the_rules_are_those_of_the_table():
    rules = read_rules()
    assert rules[".flavors"] == {".errors"}
    assert rules[".errors"] == frozenset()
    assert ".interfaces" in rules[".workflows"]
    assert ".demo" not in rules[PROGRAMS]


def test_every_import_leads_down():
    rules = read_rules()
    level = {part: i for i, layer in enumerate(find_layers()) for part in layer}
    assert set(level) == set(rules)
    for part, others in rules.items():
        for other in others:
            mutual = part in reach(other, rules)
            assert level[other] < level[part] or (mutual and level[other] == level[part])


def test_arrows_are_imports_and_no_import_is_lost():
    rules, arrows = read_rules(), find_arrows()
    assert all(other in rules[part] for part, other in arrows)
    drawn = {part: {b for a, b in arrows if a == part} for part in rules}
    for part, others in rules.items():
        for other in others:
            if is_package(part) and is_package(other):
                assert other in reach(part, drawn)


def test_boxes_lie_apart_and_hold_every_part_once():
    boxes = place_boxes()
    placed = [part for box in boxes for part in box.parts]
    assert sorted(placed) == sorted(read_rules())
    for a, b in itertools.combinations(boxes, 2):
        beside = a.x + a.width <= b.x or b.x + b.width <= a.x
        above = a.y + a.height <= b.y or b.y + b.height <= a.y
        assert beside or above, f"{a.parts} and {b.parts}"


def test_no_arrow_between_rows_that_follow_runs_behind_a_box():
    """Straight arrows that pass a row pass it where no box stands."""
    at = {part: box for box in place_boxes() for part in box.parts}
    for part, other in find_arrows():
        start, end = at[part], at[other]
        if start.x != end.x:
            continue
        for box in set(at.values()) - {start, end}:
            between = start.y < box.y < end.y
            assert not (between and box.x < start.middle < box.x + box.width), (part, other, box)


def test_the_picture_is_sound_and_names_every_part():
    picture = draw_architecture().replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ')
    root = ET.fromstring(picture)
    words = " ".join(text.text for text in root.iter(f"{SVG}text")).replace(",", " ").split()
    assert {part[1:] for part in read_rules()} <= set(words)
    assert len(root.findall(f"{SVG}rect")) == len(place_boxes())
    assert len(root.findall(f"{SVG}path")) == len(find_arrows())
