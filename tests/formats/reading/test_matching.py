# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging

import numpy as np
import pytest

from kraken_bids.errors import InputError, Problems, UsageError
from kraken_bids.formats.inputs import FlavorInput
from kraken_bids.formats.reading.matching import match_inputs, select_participants


def flavor(name, ids, *, n=None):
    """An input whose rows hold a number for each participant's id."""
    n = len(ids) if n is None else n
    rows = np.arange(n, dtype=np.float32)[:, np.newaxis] + np.array([0.0, 0.5, 0.25], "f4")
    return FlavorInput(
        name=name,
        where=f"{name}.mat",
        participants=None if ids is None else tuple(ids),
        n=n,
        n_columns=3,
        read=lambda positions: rows[list(positions)],
    )


def match(**ids):
    return match_inputs({name: flavor(name, values) for name, values in ids.items()})


def numbers(matched, name):
    """First value of each row: its place in the input."""
    return matched.read(name, 0, len(matched.participants))[:, 0].tolist()


def test_participants_are_matched_by_id_never_by_position(caplog):
    matched = match(a=["s1", "s2", "s3"], b=["s3", "s2", "s1"], c=["s4", "s1"])
    assert matched.participants == ("s1", "s2", "s3", "s4")
    np.testing.assert_equal(numbers(matched, "a"), [0, 1, 2, np.nan])
    np.testing.assert_equal(numbers(matched, "b"), [2, 1, 0, np.nan])
    np.testing.assert_equal(numbers(matched, "c"), [1, np.nan, np.nan, 0])
    assert "c: 2 of 4 participants lack it" in caplog.text
    assert matched.has("c").tolist() == [True, False, False, True]


def test_batches_go_through_all_participants():
    matched = match(a=["s1", "s2", "s3"], b=["s3", "s1"])
    batches = list(matched.batches("b", 2))
    assert [start for start, _ in batches] == [0, 2]
    np.testing.assert_equal(np.concatenate([rows for _, rows in batches])[:, 0], [1, np.nan, 0])


def test_inputs_without_ids_are_matched_by_position_with_a_warning(caplog):
    inputs = {name: flavor(name, None, n=3) for name in "ab"}
    with caplog.at_level(logging.WARNING):
        matched = match_inputs(inputs)
    assert matched.participants == ("1", "2", "3")
    assert "have no ids" in caplog.text
    assert numbers(matched, "b") == [0, 1, 2]


def test_one_input_without_ids_is_nothing_to_warn_of(caplog):
    assert match_inputs({"a": flavor("a", None, n=2)}).participants == ("1", "2")
    assert not caplog.text


def test_inputs_with_and_without_ids_are_refused():
    inputs = {"a": flavor("a", ["1", "2"]), "b": flavor("b", None, n=2)}
    with pytest.raises(InputError, match=r"b: no ids, while a have them .b.mat"):
        match_inputs(inputs)


def test_different_numbers_without_ids_are_refused():
    inputs = {"a": flavor("a", None, n=2), "b": flavor("b", None, n=3)}
    with pytest.raises(InputError, match=r"numbers of participants differ .* a has 2, b has 3"):
        match_inputs(inputs)


def test_inputs_that_share_nobody_are_refused_with_examples():
    with pytest.raises(InputError, match="a has s1, s2; b has p1, p2, p3, …"):
        match(a=["s1", "s2"], b=["p1", "p2", "p3", "p4"])


def test_an_input_apart_from_the_others_is_warned_of(caplog):
    match(a=["s1", "s2"], b=["s1"], c=["x1"])
    assert "c (c.mat): none of its 1 participants (x1) is in another input" in caplog.text


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["007", "8"], ["7", "8"], "'007' in a is '7' in b"),
        (["s01", "s02"], ["s1", "s2"], "'s01' in a is 's1' in b; 's02' in a is 's2' in b"),
    ],
)
def test_ids_that_differ_by_zeros_are_neither_joined_nor_kept_apart(first, second, message):
    with pytest.raises(InputError, match=f"ids differ by leading zeros: {message}"):
        match(a=first, b=second)


def test_two_participants_may_differ_by_zeros_where_an_input_has_both():
    assert match(a=["07", "7", "x"], b=["07", "x"]).participants == ("07", "7", "x")


def test_all_inputs_that_are_wrong_by_themselves_are_told():
    inputs = {"a": flavor("a", ["x", "x"]), "b": flavor("b", [])}
    with pytest.raises(Problems, match=r"participants x come more than once .a in a.mat") as error:
        match_inputs(inputs)
    assert "holds no participants (b in b.mat)" in str(error.value)
    with pytest.raises(UsageError, match="no input is given"):
        match_inputs({})


def test_participants_are_chosen_by_id():
    matched = select_participants(
        match(a=["s1", "s2", "s3"], b=["s3", "s1"]), ["sub-s3", "s2"], option="--fit-on"
    )
    assert matched.participants == ("s2", "s3")
    assert numbers(matched, "a") == [1, 2]
    np.testing.assert_equal(numbers(matched, "b"), [np.nan, 0])


def test_unknown_participants_are_told():
    matched = match(a=["s1", "s2"])
    with pytest.raises(UsageError, match=r"s003, q are in no input .--fit-on.. .*have s1, s2"):
        select_participants(matched, ["s1", "s003", "q"], option="--fit-on")
    with pytest.raises(
        UsageError, match=r"Did you mean 'patient7'\? The inputs have patient7, s1"
    ):
        select_participants(match(a=["patient7", "s1"]), ["patient07"])
    with pytest.raises(UsageError, match="nobody is chosen"):
        select_participants(matched, [])
