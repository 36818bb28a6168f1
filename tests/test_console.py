# SPDX-License-Identifier: MIT
"""What people read on their terminals."""

import io
import logging
import re

import pytest

from kraken_bids.console import EVERYTHING, shows_colours, start_logging


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def start(monkeypatch):
    """Start the log on two terminals; gives them."""

    def start(verbose=0, *, quiet=False, answers=False):
        for name in ("NO_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        made = {"stdout": Terminal(), "stderr": Terminal()}
        for name, stream in made.items():
            monkeypatch.setattr(f"sys.{name}", stream)
        start_logging(verbose, quiet=quiet, answers=answers)
        return made

    return start


def say(log):
    """One message of each level."""
    log.log(EVERYTHING, "all")
    log.debug("a step")
    log.info("sub-01: done")
    log.warning("few volumes")
    log.error("cut short")


def lines(stream):
    return stream.getvalue().splitlines()


def test_a_run_is_told_calmly_on_standard_error(start, log):
    streams = start()
    say(log)
    assert lines(streams["stderr"]) == [
        "sub-01: done", "\x1b[33mfew volumes\x1b[0m", "\x1b[31mcut short\x1b[0m",
    ]  # fmt: skip
    assert lines(streams["stdout"]) == []


def test_an_answer_goes_to_standard_output(start, log):
    streams = start(answers=True)
    say(log)
    assert lines(streams["stdout"]) == ["sub-01: done"]
    assert len(lines(streams["stderr"])) == 2


@pytest.mark.parametrize(("verbose", "n_lines"), [(1, 4), (2, 5)])
def test_more_is_told_with_the_time_of_day(start, log, verbose, n_lines):
    streams = start(verbose)
    say(log)
    told = [re.sub(r"\x1b\[\d*m", "", line) for line in lines(streams["stderr"])]
    assert len(told) == n_lines
    assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in told)


def test_quiet_is_errors_only(start, log):
    streams = start(quiet=True)
    say(log)
    assert lines(streams["stderr"]) == ["\x1b[31mcut short\x1b[0m"]


def test_warnings_are_told_once(start, log):
    streams = start()
    for _ in range(3):
        log.warning("few volumes")
    assert len(lines(streams["stderr"])) == 1


@pytest.mark.parametrize(
    ("stream", "environ", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),  # as no-color.org has it
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(stream, environ, expected):
    assert shows_colours(stream, environ) is expected


def test_a_file_holds_no_colours(monkeypatch, log):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    start_logging(0, quiet=False)
    say(log)
    assert "\x1b" not in stream.getvalue()
    assert isinstance(log.handlers[0], logging.StreamHandler)
