"""The command lines of `pylvs` as data: one kind of parser, from which --help, pylvs(8) and the completions are made.

A module of pylvs.cli has `parsers()`, the parsers of its commands; subcommands are found below them. What each says of
itself is its description (what for), its examples and its exit codes.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

EXITS = {0: "done", 1: "refused; standard error says why", 2: "a wrong command line; nothing was changed"}
"""The exit codes of every command; a parser's own go over them."""
COMMON_EXITS = {70: "an internal error", 130: "interrupted by SIGINT", 141: "nobody reads the output any more"}
"""Those that any command may end with; told once, in pylvs(8)."""
_COLUMN = 50  # where the words beside an example stand


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong and what would be right, and never takes an abbreviation.

    Args:
        examples: command lines, each with what it is for.
        exits: exit codes that mean something else than EXITS says.
    """

    def __init__(
        self,
        *,
        examples: Sequence[tuple[str, str]] = (),
        exits: Mapping[int, str] | None = None,
        **others: Any,
    ):
        self.examples = tuple(examples)
        self.exits = EXITS | dict(exits or {})
        others.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        others.setdefault("allow_abbrev", False)  # or `--a` would be --all
        super().__init__(epilog="\n".join(self._epilog()), **others)

    def _epilog(self) -> Iterator[str]:
        if self.examples:
            yield "examples:"
            beside = all(len(command) <= _COLUMN for command, _ in self.examples)
            for command, purpose in self.examples:
                if purpose and not beside:
                    yield f"  # {purpose}"
                yield f"  {command:<{_COLUMN}} {purpose}".rstrip() if beside else f"  {command}"
            yield ""
        yield "exit codes:"
        for code, meaning in sorted(self.exits.items()):
            yield f"  {code}  {meaning}"

    def subcommands(self) -> dict[str, "Parser"]:
        """The parsers below this one, by the word that leads to each."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return dict(action.choices)
        return {}

    def subcommand_purposes(self) -> dict[str, str]:
        """What a listing says of each subcommand."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return {choice.dest: choice.help or "" for choice in action._choices_actions}
        return {}

    def options(self) -> list[argparse.Action]:
        """Its options, without --help."""
        return [action for action in self._actions if action.option_strings and action.dest != "help"]

    def words(self) -> list[argparse.Action]:
        """What stands behind the options, subcommands apart."""
        return [
            action
            for action in self._actions
            if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
        ]

    def help_of(self, action: argparse.Action) -> str:
        """An argument's text, with its default in it."""
        return self._get_formatter()._expand_help(action) if action.help else ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # the parser that meets them says so: it knows what there is
            self.error(self._unknown(unknown[0]))
        return found, unknown

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"'{word}' is one word too many"
        from difflib import get_close_matches

        known = [option for action in self._actions for option in action.option_strings]
        close = get_close_matches(word.partition("=")[0], known, 1)
        return f"there is no option '{word}'; " + (f"did you mean {close[0]}?" if close else self._there_are(known))

    @staticmethod
    def _there_are(known: Sequence[str]) -> str:
        return f"there are {', '.join(option for option in known if option.startswith('--'))}"

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with 2."""
        sys.stdout.flush()
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\nTry '{self.prog} --help'.\n")


def number(word: str) -> int:
    """The type of an argument that is a number from 0 on."""
    if not word.isascii() or not word.isdecimal() or len(word) > 9:
        raise argparse.ArgumentTypeError(f"'{word}' is no number")
    return int(word)


def every_parser() -> dict[str, Parser]:
    """All commands and subcommands in the order of `pylvs --help`: "status", "conns", "conns flush", ..."""
    from importlib import import_module

    from pylvs.cli import COMMANDS

    found: dict[str, Parser] = {}
    for module in dict.fromkeys(module for module, _ in COMMANDS.values()):
        for parser in import_module(f"pylvs.cli.{module}").parsers():
            _gather(parser, found)
    order = {name: place for place, name in enumerate(COMMANDS)}
    return dict(sorted(found.items(), key=lambda item: order[item[0].split()[0]]))


def _gather(parser: Parser, found: dict[str, Parser]) -> None:
    found[parser.prog.removeprefix("pylvs ")] = parser
    for below in parser.subcommands().values():
        _gather(below, found)
