"""Build hook: compile the eBPF objects with clang, write Python's view of their layout from their BTF, and then what is
installed below share/: manual pages and completions.

Also a command: `python hatch_build.py` does the same in the tree, for `make`.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
DATAPATH = ROOT / "src" / "pylvs" / "datapath"
SOURCES = ("tc", "sweep", "decap")
# the same programs over two connection tables, for as long as one takes over from the other, and for interfaces without
# link-layer headers
VARIANTS = {
    "tc_resizing": ("tc", "-DRESIZING"),
    "sweep_resizing": ("sweep", "-DRESIZING"),
    "tc_linkless": ("tc", "-DLINKLESS"),
    "tc_linkless_resizing": ("tc", "-DLINKLESS", "-DRESIZING"),
}
CLANGS = ("clang", *(f"clang-{version}" for version in range(22, 13, -1)))
SHARED = (
    "conn",
    "conn_ipv4",
    "conn_rest",
    "back",
    "more",
    "call_id",
    "ftp_talk",
    "group",
    "tuple",
    "service_key",
    "mark_rule",
    "service",
    "pool_head",
    "pool_options",
    "pool_server",
    "dest",
    "dest_load",
    "counters",
    "estimate",
    "config",
    "runtime",
    "sysctls",
    "cache_key",
    "cache",
    "own_address",
)
# shared, too, but no part of a director: its maps do not depend on them
APART = ("decap_config", "decap_member")


def find_clang() -> str:
    for name in (os.environ.get("CLANG", ""), *CLANGS):
        if name and shutil.which(name):
            return name
    raise SystemExit("pylvs: no clang found to compile the eBPF programs; on Debian: apt-get install clang libbpf-dev")


def compile_object(source: Path, target: Path, *options: str) -> None:
    """Compile one eBPF program; the target is replaced in one step."""
    clang = find_clang()
    # Debian keeps asm/ under the compiling machine's own triplet, which clang forgets when it aims at BPF
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    fresh = target.with_name(f"{target.name}.new")
    command = [
        clang,
        "-O2",
        "-g",
        "-target",
        "bpf",
        "-mcpu=v3",
        "-Wall",
        "-Werror",
        *options,
        f"-I{DATAPATH / 'bpf'}",
        f"-I/usr/include/{triplet}",
        "-c",
        str(source),
        "-o",
        str(fresh),
    ]
    if subprocess.run(command).returncode:
        raise SystemExit(f"pylvs: clang could not compile {source.name}; its headers are in Debian's libbpf-dev")
    strip = shutil.which("llvm-strip") or shutil.which(f"llvm-strip-{clang.rpartition('-')[2]}")
    if strip:  # debug information only; BTF stays
        subprocess.run([strip, "-g", str(fresh)], check=True)
    fresh.replace(target)


def compile_objects() -> None:
    """Compile every program of the datapath into datapath/obj/."""
    target = DATAPATH / "obj"
    target.mkdir(exist_ok=True)
    works = {**VARIANTS, **{name: (name,) for name in SOURCES}}  # the longest first
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [
            pool.submit(compile_object, DATAPATH / "bpf" / f"{source}.bpf.c", target / f"{name}.bpf.o", *options)
            for name, (source, *options) in works.items()
        ]:
            done.result()


def write_layout() -> None:
    """Write datapath/_layout.py from the objects' BTF."""
    spec = importlib.util.spec_from_file_location("btf", DATAPATH / "btf.py")
    assert spec and spec.loader
    btf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(btf)
    objects = {name: btf.Btf((DATAPATH / "obj" / f"{name}.bpf.o").read_bytes()) for name in (*SOURCES, *VARIANTS)}
    lines = ['"""Made by the build from the objects\' BTF; the declarations are in bpf/layout.h."""', ""]
    for name in (*SHARED, *APART):
        source = next(o for o in objects.values() if name in o.structs)
        size, members = source.structs[name]
        fields = {member: (offset, source.format(number)[0]) for member, (offset, number) in members.items()}
        lines.append(f"{name.upper()} = ({size}, {fields!r})")
    # programs and maps of the same number understand each other
    number = zlib.crc32("\n".join(lines[: -len(APART)]).encode())
    lines.insert(2, f"VERSION = {number}")
    constants: dict[str, int] = {}
    reasons: dict[str, dict[str, int]] = {"reason": {}, "decap_reason": {}}
    for source in objects.values():
        for title, values in source.enums.items():
            reasons.get(title, constants).update(values)
    lines += ["", *(f"{name} = {value}" for name, value in sorted(constants.items()) if name.isupper()), ""]
    for title, prefix in (("reason", ""), ("decap_reason", "DECAP_")):
        names = sorted(reasons[title], key=lambda name: reasons[title][name])
        names = [name.removeprefix(prefix).lower() for name in names if name != f"{prefix}REASONS"]
        lines += [f"{prefix}REASONS = {tuple(names)!r}"]
    lines.append("")
    variables = {name: source.variables.get(".rodata", {}) for name, source in objects.items()}
    lines += [f"RODATA = {variables!r}", ""]
    fresh = DATAPATH / "_layout.py.new"
    fresh.write_text("\n".join(lines))
    fresh.replace(DATAPATH / "_layout.py")


def write_share() -> None:
    """Write share/made/ from what the programs say of themselves; they need the layout for that."""
    subprocess.run([sys.executable, "-B", str(ROOT / "share" / "make.py"), str(ROOT / "share" / "made")], check=True)


def build() -> None:
    compile_objects()
    write_layout()
    write_share()


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # as a command, outside a build
    BuildHookInterface = object  # type: ignore[assignment,misc]


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict) -> None:
        build()
        build_data["pure_python"] = True
        build_data["tag"] = "py3-none-any"


if __name__ == "__main__":
    sys.exit(build())
