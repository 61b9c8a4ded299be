"""ipvsadm on small and large tables, beside the original where there is one to ask.

    python -m bench ipvsadm [--services N] [--servers N]
    PYLVS_GUEST=/path/to/runner python -m bench ipvsadm

Processor time, the kernel's for the command among it. The runner is that of tests/kernel61: it runs a script in a
virtual machine. Such a machine may be much slower than this one, so what counts is how often an invocation with nothing
to list fits into the time, in each place.
"""

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import pylvs
from bench import administration
from bench.report import save
from pylvs.datapath import loading

Times = dict[str, list[float]]
OURS = [sys.executable, "-c", "from pylvs.ipvsadm import main; main()"]
RUNNER = os.environ.get("PYLVS_GUEST", "")
_CLONE_NEWNET = 0x40000000


def main(argv: list[str]) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench ipvsadm", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--services", type=int, default=10000)
    parser.add_argument("--servers", type=int, default=10, help="of each service")
    parser.add_argument("--rounds", type=int, default=20, help="of the small works")
    arguments = parser.parse_args(argv)
    numbers = [str(number) for number in (arguments.services, arguments.servers, arguments.rounds)]
    with tempfile.TemporaryDirectory() as scratch:
        ours = _here(numbers, scratch)
        if ours is None:
            return 1
        theirs = _original(numbers, scratch) if RUNNER else {}
    print(table(ours, theirs))
    save("ipvsadm", {"ours": ours, "original": theirs})
    return 0


def table(ours: Times, theirs: Times) -> str:
    """Medians in milliseconds, and in invocations with nothing to list."""
    lines = [
        "| | CPU ms | invocations | the original: CPU ms, in its machine | invocations |",
        "|---|---:|---:|---:|---:|",
    ]
    for what in ours:
        cells = [cell for times in (ours, theirs) for cell in _cells(times, what)]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(times: Times, what: str) -> list[str]:
    if what not in times:
        return ["–", "–"]
    median, unit = statistics.median(times[what]), statistics.median(times[administration.EMPTY])
    return [f"{1000 * median:,.0f}", f"{median / unit:,.1f}"]


def _here(numbers: list[str], scratch: str) -> Times | None:
    """In a network namespace of its own; None if that failed."""
    answer = Path(scratch) / "answer"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "no network namespace: are you root?")
            os.chdir(scratch)
            os.environ["PYTHONPATH"] = str(Path(pylvs.__file__).parents[1])
            # As installed: compiled once, wherever the sources are and whatever this environment says about bytecode.
            os.environ["PYTHONPYCACHEPREFIX"] = f"{scratch}/pycache"
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            services, servers, rounds = map(int, numbers)
            answer.write_text(json.dumps(administration.measure(OURS, services, servers, rounds)))
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            loading.unload()
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        return None
    times: Times = json.loads(answer.read_text())
    return times


def _original(numbers: list[str], scratch: str) -> Times:
    place = Path(scratch) / "guest"
    place.mkdir()
    shutil.copy(administration.__file__, place)
    script = Path(scratch) / "script"
    script.write_text(f"#!/bin/bash\ncd /tmp && exec python3 /guest/administration.py {' '.join(numbers)} ipvsadm\n")
    command = [RUNNER, "--suite", "trixie", "--timeout", "1800", "-v", f"{place}:/guest", str(script)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    times: Times = json.loads(done.stdout.splitlines()[-1])
    return times
