# SPDX-License-Identifier: MIT
"""Parsers of command lines that help: both spellings, the nearest word, completion by Tab."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

#: Shells that completion is written for.
SHELLS = ("bash", "zsh", "tcsh")
#: What values are, by the words in which ``--help`` names them.
FILE_WORDS, FOLDER_WORDS = frozenset({"FILE", "PATH", "IMAGE"}), frozenset({"DIR"})


class Arguments(argparse.Namespace):
    """Parsed arguments, and the names of those that were given: not left to their defaults."""

    # A slot is not among the arguments that ``vars`` lists.
    __slots__ = ("given",)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.given: frozenset[str] = frozenset()


class Parser(argparse.ArgumentParser):
    """A parser that takes both spellings of an option and suggests the nearest one.

    It parses into `Arguments`.
    """

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Read ``--participant_label`` as ``--participant-label``."""
        args = sys.argv[1:] if args is None else list(args)
        namespace = Arguments() if namespace is None else namespace
        self._given: set[str] = set()
        parsed, rest = super().parse_known_args([_hyphens(text) for text in args], namespace)
        if isinstance(parsed, Arguments):
            parsed.given |= self._given
        return parsed, rest

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # Asked for each option that was typed, and for each positional argument; of those, one
        # that may be left out comes without words.
        if action.option_strings or arg_strings:
            self._given.add(action.dest)
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with the nearest option or value, and leave with code 2."""
        near = _nearest_choice(message) or _nearest_option(message, _options(self))
        hint = f" (did you mean {near}?)" if near else ""
        self.exit(2, f"{self.prog}: {message}{hint}\nSee {self.prog} --help.\n")


def _hyphens(text: str) -> str:
    if not text.startswith("--"):
        return text
    name, equals, value = text.partition("=")
    return name.replace("_", "-") + equals + value


def _nearest_choice(message: str) -> str:
    """The choice nearest to the value that argparse refuses; empty if none is near."""
    found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    choices = [text.strip("' ") for text in found[2].split(",")] if found else []
    return next(iter(difflib.get_close_matches(found[1], choices, n=1)), "") if found else ""


def _nearest_option(message: str, known: Iterable[str]) -> str:
    """The option nearest to the first word that is none; empty if none is near."""
    known = list(known)
    for word in re.split(r"[\s=:,]+", message):
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
        if word.startswith("-") and near and near[0] != word:
            return near[0]
    return ""


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Options of a parser and its subcommands, those that are called before the others."""
    for action in parser._actions:  # noqa: SLF001
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from _options(command)


def add_completion(
    program: argparse.ArgumentParser,
    group: argparse._ActionsContainer,
    *,
    values: Mapping[str, Callable[[], Sequence[str]]],
    whole: Callable[[], argparse.ArgumentParser] | None = None,
) -> None:
    """Add ``--print-completion``, which prints what a shell needs to complete by Tab.

    Parameters
    ----------
    program
        Its parser.
    group
        Where ``--help`` tells of the option.
    values
        Gives the values that may be completed, by the ``dest`` of an option that leaves more open.
    whole
        Gives the parser with all its subcommands, where `program` has only the one called.
    """

    class PrintCompletion(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
            _namespace, shell, *_ = given
            text = completion_text(whole() if whole else program, str(shell), values=values)
            sys.stdout.write(f"{text}\n")
            parser.exit()

    group.add_argument(
        "--print-completion", choices=SHELLS, action=PrintCompletion, default=argparse.SUPPRESS,
        help="print what the shell needs to complete options and names by Tab, and stop",
    )  # fmt: skip


def completion_text(
    parser: argparse.ArgumentParser,
    shell: str,
    *,
    values: Mapping[str, Callable[[], Sequence[str]]],
) -> str:
    """Write the completion of a program for a shell.

    Parameters
    ----------
    parser
        The program's; it is changed.
    shell
        One of `SHELLS`.
    values
        As in `add_completion`.
    """
    import shtab

    for action in _all_actions(parser):
        told = str(action.metavar or "")
        words = set() if "=" in told else set(re.findall("[A-Z]+", told))
        if action.dest in values:
            action.choices = list(values[action.dest]())
        elif words & FOLDER_WORDS and not words & FILE_WORDS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif words & (FILE_WORDS | FOLDER_WORDS):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell=shell)


def _all_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from _all_actions(command)
