"""`pylvs demo`: what a person sees first. It draws its own topologies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.lab import state
from pylvs.lab.lab import environment
from pylvs.lab.namespaces import NETNS
from pylvs.lab.processes import Process, end, start_time

DEMO = [sys.executable, "-c", "import sys; from pylvs.cli.demo import main; sys.exit(main(sys.argv[1:]))"]


def left(pid: int) -> list[str]:
    """Labs and namespaces that bear the demo's process id."""
    return [name for name in state.names() if f"-{pid}-" in name] + [p.name for p in NETNS.glob(f"*-{pid}-*")]


def test_it_shows_both_methods_and_leaves_nothing() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()) as demo:
        out, _ = demo.communicate(timeout=30)
    assert demo.returncode == 0, out
    assert out.count("####         4") == 6, "two services, three real servers, four connections each"
    for words in ("LVS-NAT", "LVS-DR", "director# ipvsadm -Lnc", "Masq    1", "Route   1"):
        assert words in out
    assert max(map(len, out.splitlines())) <= 110
    assert left(demo.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(number: signal.Signals) -> None:
    def listen() -> None:  # whoever runs the tests in the background of a shell has made them deaf to SIGINT
        signal.signal(number, signal.SIG_DFL)

    with subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=listen
    ) as demo:
        assert demo.stdout is not None
        while "client$ curl" not in demo.stdout.readline():
            assert demo.poll() is None
        demo.send_signal(number)
        demo.communicate(timeout=20)
    assert demo.returncode != 0
    assert left(demo.pid) == []


def test_a_failed_command_is_an_error(tmp_path: Path) -> None:
    """An ipvsadm that does nothing: the demo must not call that a success."""
    script = "from pylvs.lab import lab; lab.console_script = lambda name: ['true']; from pylvs.cli.demo import main"
    argv = [sys.executable, "-c", f"import sys; {script}; sys.exit(main([]))"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()) as demo:
        try:
            out, _ = demo.communicate(timeout=30)
        finally:
            end([Process(demo.pid, start_time(demo.pid) or 0, "", "demo")])
    assert demo.returncode == 1
    assert "failed: curl" in out and "Something went wrong" in out
    assert left(demo.pid) == []


def test_without_root_it_says_so() -> None:
    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    code = "import sys; from pylvs.cli.demo import main; sys.exit(main([]))"
    argv = ["/usr/bin/python3", "-c", code]
    if not os.access(argv[0], os.X_OK):
        pytest.skip("no interpreter that every user may run")
    sources = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run(
        argv, capture_output=True, text=True, preexec_fn=become_nobody, env={"PYTHONPATH": str(sources)}, check=False
    )
    assert done.returncode == 1
    assert "needs root" in done.stderr and "Traceback" not in done.stderr
