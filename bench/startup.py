"""What a command costs: `ipvsadm -Ln` beside the bare interpreter, alternating, on a director with a small table."""

import argparse
import os
import statistics
import sys
import time

from bench.report import save
from pylvs.lab import Lab, LabError
from pylvs.lab.lab import console_script, environment
from pylvs.lab.namespaces import command


def main(argv: list[str]) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args(argv)
    try:
        samples = _measure(arguments.runs)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(f"medians of {arguments.runs} alternating runs, in milliseconds\n")
    print("| | wall | CPU |\n|---|---:|---:|")
    for name, runs in samples.items():
        wall, cpu = (1000 * statistics.median(run[kind] for run in runs) for kind in (0, 1))
        print(f"| {name} | {wall:.1f} | {cpu:.1f} |")
    save("startup", {"samples": samples})
    return 0


def _measure(runs: int) -> dict[str, list[tuple[float, float]]]:
    with Lab("nat", serve=False) as lab:
        lab.ipvsadm(f"-A -t {lab.vip}:80 -s rr")
        for server in lab.realservers:
            lab.ipvsadm(f"-a -t {lab.vip}:80 -r {server.ipv4}:80 -m")
        namespace = lab.namespace("director")
        programs = {
            "nothing (`true`)": command(namespace, ["true"]),
            "the interpreter (`python -c pass`)": command(namespace, [sys.executable, "-c", "pass"]),
            "`ipvsadm -Ln`": command(namespace, [*console_script("ipvsadm"), "-Ln"]),
        }
        # As installed: compiled once, wherever the sources are and whatever this environment says about bytecode.
        variables = environment() | {"PYTHONPYCACHEPREFIX": str(lab.directory / "pycache")}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        for argv in programs.values():
            _run(argv, variables)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for _ in range(runs):
            for name, argv in programs.items():
                samples[name].append(_run(argv, variables))
    return samples


def _run(argv: list[str], variables: dict[str, str]) -> tuple[float, float]:
    """Seconds of wall time and of CPU time that a program takes."""
    begin = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawnp(argv[0], argv, variables, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - begin
    if status != 0:
        raise LabError(f"{argv}: status {status}")
    return wall, usage.ru_utime + usage.ru_stime
