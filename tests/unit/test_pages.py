"""The manual pages: well made, found by man, and telling of every option and command there is, and of no other.

PYLVS_WRITE_DOCS=1 pytest tests/unit/test_pages.py      writes docs/man/ anew after a change
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from completions import GROUPS
from make import files
from pages import SOURCES, pages
from pylvs import sysctl
from pylvs.cli import COMMANDS
from pylvs.cli.parsing import every_parser
from pylvs.ipvsadm import options
from pylvs.ipvsadm.help import SAVE_USAGE, USAGE
from pylvs.schedulers import NAMES

DOCS = Path(__file__).parents[2] / "docs" / "man"
VARIABLE = "PYLVS_WRITE_DOCS"
ALL = options.OPTIONS | options.EXTENSIONS
needs_mandoc = pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
needs_man = pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed below share/."""
    directory = tmp_path_factory.mktemp("share")
    for name, text in files().items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr or done.stdout
    return done.stdout


def page(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8")


@needs_mandoc
@pytest.mark.parametrize("name", sorted(pages()))
def test_mandoc_has_nothing_to_complain_of(share: Path, name: str) -> None:
    assert run("mandoc", "-Tlint", "-Wwarning", str(share / "man/man8" / name)) == ""


@needs_man
@pytest.mark.parametrize("name", sorted(pages()))
def test_man_finds_it_and_shows_it_without_warnings(share: Path, name: str) -> None:
    path = share / "man/man8" / name
    assert run("man", "-M", str(share / "man"), "-w", "8", name.removesuffix(".8")).strip() == str(path)
    shown = run("man", "--warnings", "-E", "UTF-8", "-l", str(path))
    assert "NAME" in shown and '.\\"' not in shown


def test_what_is_included_is_there() -> None:
    for name, text in pages().items():
        assert '.\\" @' not in text and "@VERSION@" not in text, name


def documented() -> dict[str, tuple[str, bool]]:
    """The options of ipvsadm(8): name, letters, and whether there is an argument."""
    found = {}
    for line in page("ipvsadm.8").splitlines():
        match = re.fullmatch(r"\.It Fl (?P<names>-?[\w-]+(?: , -?[\w-]+)*)(?P<argument> (?:Ar|Op) .*)?", line)
        if match:
            names = match["names"].split(" , ")
            long = next(name[1:] for name in names if name.startswith("-"))
            assert long not in found, f"--{long} is told twice"
            found[long] = "".join(name for name in names if not name.startswith("-")), bool(match["argument"])
    return found


def test_ipvsadm_options_and_the_page_are_the_same() -> None:
    there = {name: (letters, argument != options.FLAG) for name, (letters, argument) in ALL.items()}
    there["set"] = ("", True)  # its three numbers are words
    told = documented()
    assert told == there
    section = page("ipvsadm.8").partition(".Sh PYLVS EXTENSIONS")[2].partition(".Sh ")[0]
    assert all(f".It Fl -{name}\n" in section for name in options.EXTENSIONS)


def test_the_synopsis_has_every_command() -> None:
    synopsis = page("ipvsadm.8").partition(".Sh SYNOPSIS")[2].partition(".Sh ")[0]
    for name in options.COMMANDS:
        letters = options.OPTIONS[name][0]
        spelled = [f"Fl {letter}" for letter in letters] + [f"Fl -{name}"]
        assert any(re.search(rf"{re.escape(word)}\b", synopsis) for word in spelled), name


def test_every_option_belongs_to_a_command() -> None:
    """Or nobody could complete it."""
    allowed = {rule.lstrip("+1") for rules in options.ALLOWED.values() for rule in rules.split()}
    grouped = {name for group in GROUPS.values() for name in group}
    allowed |= {name for names in options.EXTENSIONS_ALLOWED.values() for name in names.split()}
    assert {name for name in ALL if name not in options.COMMANDS} <= allowed | grouped


def test_every_scheduler_is_told() -> None:
    section = page("ipvsadm.8").partition(".Ss Schedulers")[2].partition(".Ss ")[0]
    assert re.findall(r"^\.It Cm (\w+)$", section, re.MULTILINE) == [
        *("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos", "none")
    ]
    assert set(NAMES) <= set(section.split())


def test_pylvs_commands_options_and_sysctls_are_told() -> None:
    shown = pages()["pylvs.8"].replace("\\-", "-").replace("\\&", "")
    for name, parser in every_parser().items():
        section = shown.partition(f".Ss pylvs {name}\n")[2].partition(".Ss ")[0].partition(".Sh ")[0]
        assert section, name
        for action in parser.options():
            for spelling in action.option_strings:
                assert re.search(rf"^\.It .*Fl {re.escape(spelling[1:])}\b", section, re.MULTILINE), (name, spelling)
    assert re.findall(r"^\.It Va (\w+)$", shown, re.MULTILINE) == list(sysctl.NAMES)


@pytest.mark.parametrize("name", list(every_parser()))
def test_every_help_says_what_for_with_an_example_and_exit_codes(name: str) -> None:
    parser = every_parser()[name]
    assert parser.description and parser.examples and {0, 1, 2} <= parser.exits.keys()
    shown = parser.format_help()
    assert "examples:" in shown and "exit codes:" in shown
    for action in [*parser.options(), *parser.words()]:
        assert action.help, f"pylvs {name}: {action.dest} has no text"
    assert name.split()[0] in COMMANDS


def test_the_pages_of_the_small_programs_say_what_they_take() -> None:
    assert "-n option" in SAVE_USAGE
    assert re.findall(r"^\.It Fl (\S+)$", page("ipvsadm-save.8"), re.MULTILINE) == ["n"]
    assert set(re.findall(r"^\.It Fl -(\S+)$", page("ipvsadm-restore.8"), re.MULTILINE)) == options.EXTENSIONS.keys()
    assert "--save" in USAGE


@needs_mandoc
@pytest.mark.parametrize("name", sorted(pages()))
def test_the_docs_have_them(share: Path, name: str) -> None:
    path = DOCS / f"{name}.md"
    text = run("mandoc", "-Tmarkdown", str(share / "man/man8" / name))
    if os.environ.get(VARIABLE):
        DOCS.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{VARIABLE}=1 pytest {Path(__file__).name} writes it anew"
