"""How long the programs are: a change that makes one noticeably longer is noticed, and explained.

Recorded are the instructions that the kernel translated a program into, and those that its verifier looked at. They
are the same on every run, unlike nanoseconds. Compilers differ, and so do the verifiers of kernels: there is a record
for each major version of clang, and what the verifier looked at is compared on the kernel that it was recorded on.
"""

import json
import os
import platform
import re
import struct
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from pylvs.datapath import syscall
from support.harness import Harness

RECORD = Path(__file__).with_name("instructions.json")
ROOT = Path(__file__).parents[2]
MOST = 1.10
PROGRAMS = (
    "ingress", "related", "fragment", "ftp", "orphan", "egress", "complaint", "ftp_leaves",
    "start", "catch_up", "decide", "flush",
)  # fmt: skip
VARIABLE = "PYLVS_RECORD_INSTRUCTIONS"
# in struct bpf_prog_info of linux/bpf.h
_INFO_SIZE, _XLATED_PROG_LEN, _VERIFIED_INSNS, _INSTRUCTION = 232, 20, 216, 8


def clang() -> str:
    """The compiler as a key of the record: clang-14."""
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec and spec.loader
    build = module_from_spec(spec)
    spec.loader.exec_module(build)
    try:
        said = subprocess.run([build.find_clang(), "--version"], capture_output=True, text=True, check=True).stdout
    except SystemExit as error:
        pytest.skip(str(error))
    version = re.search(r"clang version (\d+)", said)
    assert version, said
    return f"clang-{version[1]}"


def kernel() -> str:
    """Whose verifier it is: 6.18."""
    return ".".join(platform.release().split(".")[:2])


@pytest.fixture
def lengths(lvs: Harness) -> dict[str, dict[str, int]]:
    """Of each program of a director: how long it is."""
    found = {}
    for name in PROGRAMS:
        fd = lvs.instance.program(name)
        try:
            info = syscall.info(fd, _INFO_SIZE)
        finally:
            os.close(fd)
        (translated,) = struct.unpack_from("=I", info, _XLATED_PROG_LEN)
        (verified,) = struct.unpack_from("=I", info, _VERIFIED_INSNS)
        found[name] = {"translated": translated // _INSTRUCTION, "verified": verified}
    if os.environ.get(VARIABLE):
        record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        record[clang()] = {"kernel": kernel()} | found
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return found


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", ["translated", "verified"])
def test_no_program_has_grown(lengths: dict[str, dict[str, int]], program: str, kind: str) -> None:
    compiler = clang()
    record = json.loads(RECORD.read_text()).get(compiler)
    if record is None:
        pytest.skip(f"nothing is recorded for {compiler}: {VARIABLE}=1 pytest {Path(__file__).name} does it")
    if kind == "verified" and record["kernel"] != kernel():
        pytest.skip(f"recorded on Linux {record['kernel']}; every kernel's verifier goes its own way")
    now, then = lengths[program][kind], record[program][kind]
    assert now <= then * MOST, (
        f"{program}: {now} {kind} instructions, recorded were {then}. If this is worth it: "
        f"{VARIABLE}=1 pytest tests/packet/test_instructions.py, and let the commit's message say why"
    )


def test_an_empty_program_would_be_noticed(lengths: dict[str, dict[str, int]]) -> None:
    assert all(number > 10 for of_one in lengths.values() for number in of_one.values())
    assert lengths["ingress"]["translated"] > 1000
