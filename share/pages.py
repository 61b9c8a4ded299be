"""The manual pages: man/*.8 with what the programs know of themselves in the place of each line `.\\" @name`."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pylvs
from pylvs import sysctl
from pylvs.cli import COMMANDS
from pylvs.cli.parsing import COMMON_EXITS, EXITS, Parser, every_parser
from pylvs.cli.realserver import MEANING as UNWRAPPED
from pylvs.cli.status import MEANING
from pylvs.protocols import timeouts

SOURCES = Path(__file__).parent / "man"
_BESIDE = 54  # an example has its purpose beside it if all of them are shorter than this
_INCLUDE = '.\\" @'
# what troff would show as something else than the character that a person has to type
_GLYPHS = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}


def pages() -> dict[str, str]:
    """All pages: file name and content."""
    return {source.name: _page(source.read_text(encoding="utf-8")) for source in sorted(SOURCES.glob("*.8"))}


def _page(source: str) -> str:
    return "\n".join(_lines(source.replace("@VERSION@", pylvs.__version__).splitlines())) + "\n"


def _lines(source: Iterable[str]) -> Iterator[str]:
    literal = False
    for line in source:
        if line.startswith(_INCLUDE):
            yield from _INCLUDES[line.removeprefix(_INCLUDE)]()
            continue
        if literal and not line.startswith(".Ed"):
            yield _literal(line)
            continue
        literal = line.startswith(".Bd -literal")
        yield line


def _literal(line: str) -> str:
    """A line as it is typed."""
    text = "".join(_GLYPHS.get(character, character) for character in line)
    return f"\\&{text}" if text[:1] in (".", "\\") else text


def _text(text: str) -> Iterator[str]:
    """Running text, a sentence on each line; whatever looks like an option keeps its hyphens."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("`", "\\(ga")
    text = re.sub(r"(?<![\w-])-(?=[-\w])|(?<=\\-)-(?=\w)|(?<=-)-(?=\w)", r"\\-", text)
    for sentence in re.split(r"(?<=[.?!]) (?=[A-Z`])", text):
        yield f"\\&{sentence}" if sentence[:1] in (".", "'") else sentence


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            yield ".Pp"
        yield from _text(paragraph)


def _quoted(words: str) -> str:
    """An argument of a macro, which might read it as another macro."""
    return " ".join(f"\\&{word}" for word in "".join(_GLYPHS.get(c, c) for c in words).split(" "))


# ---- pylvs(8) -------------------------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    parsers = every_parser()
    yield from _list((f".It Cm {name}", what) for name, (_, what) in COMMANDS.items())
    for name, parser in parsers.items():
        yield f".Ss pylvs {_quoted(name)}"
        usage = " ".join(parser.format_usage().split()).removeprefix("usage: ").replace(" [-h]", "")
        yield from (".Bd -ragged -offset indent", _quoted(usage), ".Ed", ".Pp")
        yield from _paragraphs(parser.description or "")
        yield from _arguments(parser)
        if parser.examples:
            yield from (".Pp", "Examples:", ".Bd -literal -offset indent", *_examples(parser), ".Ed")
        own = {code: meaning for code, meaning in parser.exits.items() if EXITS.get(code) != meaning}
        if own:
            yield from (".Pp", "Exit status:")
            yield from _list((f".It {code}", meaning) for code, meaning in own.items())


def _examples(parser: Parser) -> Iterator[str]:
    width = max(len(command) for command, _ in parser.examples) + 2
    for command, purpose in parser.examples:
        yield _literal(f"# {command:<{width}}# {purpose}" if purpose and width <= _BESIDE else f"# {command}")


def _arguments(parser: Parser) -> Iterator[str]:
    items = []
    below = parser.subcommand_purposes()
    for word, purpose in below.items():
        items.append((f".It Cm {_quoted(word)}", purpose))
    for action in parser.words():
        name = action.metavar if isinstance(action.metavar, str) else action.dest
        items.append((f".It Ar {_quoted(name)}", _choices(parser, action)))
    for action in parser.options():
        names = " , ".join(f"Fl {_quoted(option[1:])}" for option in action.option_strings)
        value = ""
        if action.nargs != 0:
            word = action.metavar if isinstance(action.metavar, str) else "|".join(action.choices or [action.dest])
            value = f" Op Ar {_quoted(word)}" if action.nargs == "?" else f" Ar {_quoted(word)}"
        items.append((f".It {names}{value}", parser.help_of(action)))
    yield from _list(items)


def _choices(parser: Parser, action: object) -> str:
    text = parser.help_of(action)  # type: ignore[arg-type]
    choices = getattr(action, "choices", None)
    return f"{text}; one of {', '.join(choices)}" if choices else text


def _list(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    entries = list(items)
    if not entries:
        return
    yield ".Bl -tag -width Ds"
    for head, text in entries:
        yield head
        yield from _text(text)
    yield ".El"


def _sysctls() -> Iterator[str]:
    def text(one: sysctl.Sysctl) -> str:
        default = one.default.replace("\t", " ") or "by the machine"
        here = f" Here: {one.here}." if one.here else ""
        return (
            f"{one.meaning[0].upper()}{one.meaning[1:]}.{here} May be {one.accepted} ({one.unit}); default {default}."
        )

    return _list((f".It Va {one.name}", text(one)) for one in sysctl.ALL)


def _timeouts() -> Iterator[str]:
    yield '.Bl -column "sctp.SHUTDOWN_RECEIVED" "seconds"'
    for (protocol, state), milliseconds in zip(timeouts.PLACES, timeouts.DEFAULTS_MS, strict=True):
        yield f".It {_quoted(f'{protocol}.{state}')} Ta {milliseconds // 1000}"
    yield ".El"


def _reasons() -> Iterator[str]:
    return _list((f".It Li {name}", what) for name, what in MEANING.items())


def _unwrapped() -> Iterator[str]:
    return _list((f".It Li {name}", what) for name, what in UNWRAPPED.items())


def _exits() -> Iterator[str]:
    return _list((f".It {code}", meaning) for code, meaning in (EXITS | COMMON_EXITS).items())


_INCLUDES: dict[str, Callable[[], Iterator[str]]] = {
    "commands": _commands,
    "sysctls": _sysctls,
    "timeouts": _timeouts,
    "reasons": _reasons,
    "unwrapped": _unwrapped,
    "exits": _exits,
}
