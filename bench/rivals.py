"""The product with some of its packet path's functions exchanged: a copy of the package, built from its own sources.

A header in bench/tables/ (another connection table) or bench/steps/ (a step left out) says in its first comment

    Replaces: conn_find conn_claim          functions of the product, by name; one with a ? may be missing there
    Patches tc.bpf.c: old text => new text  where no function can stand for it

Each function named takes the place of the product's function, together with what stands above it in the header. If it
mentions product_NAME, the product's own function stays, under that name. What is to be replaced has to be there, once,
with the same parameters: if it is not, the packet path has changed and the header has to follow.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
_REPLACES = re.compile(r"^ \* Replaces: (.*)$", re.MULTILINE)
_PATCHES = re.compile(r"^ \* Patches (\S+): (.*?) => (.*)$", re.MULTILINE)


def _definition(name: str) -> re.Pattern[str]:
    """A function's definition as the kernel's style has it: it begins, and its body ends, at the start of a line."""
    return re.compile(
        rf"^(?P<kind>[a-z_][\w \t]*?[ *])(?P<name>{name})\((?P<parameters>[^;{{}}]*?)\)\n\{{\n.*?^\}}\n", re.M | re.S
    )


def _plain(text: str) -> str:
    return " ".join(text.split())


def _pieces(header: Path) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]], set[str]]:
    """(function, its parameters, its text with what stands above it), the patches, and what may be missing."""
    text = header.read_text()
    words = [word for line in _REPLACES.findall(text) for word in line.split()]
    names = [word.rstrip("?") for word in words]
    starts = {}
    for name in names:
        found = _definition(name).search(text)
        if not found:
            raise SystemExit(f"bench: {header.name} says that it replaces {name}, and has no such function")
        starts[name] = found
    pieces, at = [], text.index("*/\n") + 3
    for name in sorted(names, key=lambda name: starts[name].end()):
        found = starts[name]
        pieces.append((name, _plain(found["parameters"]), text[at : found.end()].lstrip("\n")))
        at = found.end()
    if text[at:].strip():
        raise SystemExit(f"bench: what stands at the end of {header.name} belongs to no function")
    return pieces, _PATCHES.findall(text), {word.rstrip("?") for word in words if word.endswith("?")}


def exchange(header: Path, sources: Path) -> None:
    """Put a header's functions in the place of the product's, in a copy of its sources.

    Raises:
        SystemExit: a function or a line is not there any more, or has other parameters.
    """
    files = {path: path.read_text() for path in sorted(sources.rglob("*.[ch]"))}
    pieces, patches, optional = _pieces(header)
    for name, parameters, text in pieces:
        places = [(path, found) for path, content in files.items() for found in _definition(name).finditer(content)]
        if not places and name in optional:
            continue
        if len(places) != 1:
            raise SystemExit(f"bench: {header.name} replaces {name}, which the packet path has {len(places)} times")
        path, found = places[0]
        if _plain(found["parameters"]) != parameters:
            raise SystemExit(
                f"bench: {header.name} replaces {name}({parameters}),\n"
                f"  but {path.name} has {name}({_plain(found['parameters'])})"
            )
        kept = ""
        if f"product_{name}" in text:
            kept = re.sub(rf"\b{name}\(", f"product_{name}(", found[0], count=1) + "\n"
        files[path] = files[path][: found.start()] + kept + text + files[path][found.end() :]
    for file, old, new in patches:
        path = next((path for path in files if path.name == file), sources / file)
        # however the lines are broken
        loose = re.compile(r"\s+".join(re.escape(word) for word in old.split()))
        if len(loose.findall(files.get(path, ""))) != 1:
            raise SystemExit(f"bench: {header.name} patches what is not in {file}: {old}")
        files[path] = loose.sub(new.replace("\\", r"\\"), files[path])
    for path, content in files.items():
        path.write_text(content)


def build(header: Path, into: Path) -> Path:
    """A copy of the package with a header's functions, compiled; returns the directory to import it from."""
    shutil.copytree(
        ROOT / "src" / "pylvs",
        into / "src" / "pylvs",
        ignore=shutil.ignore_patterns("obj", "_layout.py", "__pycache__"),
    )
    shutil.copy(ROOT / "hatch_build.py", into)
    exchange(header, into / "src" / "pylvs" / "datapath" / "bpf")
    done = subprocess.run([sys.executable, str(into / "hatch_build.py")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: the packet path with {header.name} cannot be compiled\n{done.stderr}")
    return into / "src"
