"""Every recorded command line of the real ipvsadm, played in process: both streams and the exit code, byte for byte.

The recordings (`cli/*.json`) are of kernel 6.1 and ipvsadm 1.31-1; where a newer pair answered otherwise the case says
so under `on_trixie`, and that is followed. What cannot be compared byte for byte is listed in `_normal`.
"""

import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.ipvsadm.commands import Shell
from pylvs.ipvsadm.help import SAVE_USAGE
from pylvs.ipvsadm.save import save_command
from support.fake_director import FakeDirector
from support.hosts import HOSTS, TestResolver

RECORDINGS = sorted((Path(__file__).parent / "cli").glob("*.json"))
CASES = [case for path in RECORDINGS for case in json.loads(path.read_text())]

# Steps that are no command of ipvsadm.
NOT_IPVSADM = {
    "cat /proc/net/ip_vs": "`pylvs proc` shows that table, and its own tests compare it",
}

DirectorFactory = Callable[..., Any]


def steps_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps, as the newer system played them."""
    return case.get("on_trixie", case)["steps"]


def needs(case: dict[str, Any]) -> set[str]:
    """What of LVS a case uses beyond TCP and UDP services by address, NAT and DR: features, and `scheduler x`."""
    text = "\n".join(step["cmd"] + "\n" + step.get("stdin", "") for step in steps_of(case))
    words = text.split()
    patterns = {
        "fwmark": r"(^|\s)(-f|--fwmark-service)",
        "persistence": r"(^|\s)(-\w*p(?![\w-])|-p\S|--persistent(?!-conn))",
        "tunnel": r"(^|\s)(-i|--ipip|--tun-\w+)\b",
        "threshold": r"(^|\s)(-[xy]|--[ul]-threshold)",
        "daemon": r"--(start|stop)-daemon|--daemon",
        "ops": r"(^|\s)(-o|-op|--ops)\b",
        "sctp": r"--sctp-service",
        "pe": r"(^|\s)--pe\b",
        "sched-flags": r"(^|\s)(-b|--sched-flags)",
        "connections": r"(^|\s)-\w*c\b|--connection",
    }
    found = {feature for feature, pattern in patterns.items() if re.search(pattern, text)}
    for option, value in zip(words, [*words[1:], ""], strict=True):
        if option in ("-s", "--scheduler"):
            found.add(f"scheduler {value}")
        elif option.startswith(("-s=", "--scheduler=")):
            found.add(f"scheduler {option.partition('=')[2]}")
    if any("-A" in word or word == "--add-service" for word in words) and not any(f.startswith("sched") for f in found):
        found.add("scheduler wlc")
    return found


def run_case(case: dict[str, Any], director_factory: DirectorFactory) -> Iterator[tuple[dict[str, Any], int, str, str]]:
    """Plays a case; gives each step that is ours with its exit code, output and errors.

    Args:
        director_factory: called with `permitted`, and on the first call of a case with `local` (addresses of this
            machine) and `interfaces`; it gives the same table until the case ends.
    """
    setup = " ; ".join(case.get("setup", []))
    local = re.findall(r"ip addr add ([0-9a-f.:]+)/", setup)
    interfaces = ["lo", *re.findall(r"ip link add (\w+)", setup)]
    director = director_factory(local=local, interfaces=interfaces)
    resolver = TestResolver(HOSTS | case.get("hosts", {}))
    for step in steps_of(case):
        if step["cmd"] in NOT_IPVSADM:
            continue
        program, *words = shlex.split(step["cmd"])
        permitted = step.get("uid", 0) == 0
        out, err = io.StringIO(), io.StringIO()
        lines = [words]
        if program == "ipvsadm-save":
            command = save_command(words)
            if command is None:
                yield step, 1, "", SAVE_USAGE
                continue
            lines = [command]
        elif program == "ipvsadm-restore":
            lines = [["-C"], ["-R"]]
        else:
            assert program == "ipvsadm", step["cmd"]

        def open_director(permitted: bool = permitted) -> Any:
            return director if permitted else director_factory(permitted=False)

        stdin = io.StringIO(step.get("stdin", ""), newline="\n")
        code = 0
        for line in lines:
            code = code or Shell(stdin, out, err, open_director, resolver, permitted).run(line)
        yield step, code, out.getvalue(), err.getvalue()


def _normal(command: str, output: str) -> str:
    """An output without what may differ: the table's size, and the order of services with --nosort."""
    output = re.sub(r"\(size=\d+\)", "(size=4096)", output)
    if "--nosort" in command:
        blocks = re.split(r"(?m)^(?=[A-Z]{3}[ P])", output)
        output = blocks[0] + "".join(sorted(blocks[1:]))
    return output


def check_case(case: dict[str, Any], director_factory: DirectorFactory) -> None:
    for step, code, out, err in run_case(case, director_factory):
        answer = (code, _normal(step["cmd"], out), err)
        assert answer == (step["rc"], _normal(step["cmd"], step["stdout"]), step["stderr"]), step["cmd"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_like_the_original(case: dict[str, Any]) -> None:
    check_case(case, FakeDirector)


def test_needs_names_what_a_case_uses() -> None:
    def of(*lines: str) -> set[str]:
        return needs({"steps": [{"cmd": line} for line in lines]})

    assert of("ipvsadm -Ln") == set()
    assert of("ipvsadm -A -t 10.0.0.1:80 -s rr", "ipvsadm -a -t 10.0.0.1:80 -r 10.2.0.1 -m") == {"scheduler rr"}
    assert of("ipvsadm -A -t 10.0.0.1:80") == {"scheduler wlc"}
    assert of("ipvsadm -A -f 1 -s=nq -p60 -o --pe sip") == {"fwmark", "scheduler nq", "persistence", "ops", "pe"}
    assert of("ipvsadm -a -t x:1 -r y -i -x 5") == {"tunnel", "threshold"}
    assert of("ipvsadm -Ln --persistent-conn", "ipvsadm -lnc") == {"connections"}
    assert of("ipvsadm -A --sctp-service x:1 -s sh -b sh-port") == {"sctp", "scheduler sh", "sched-flags"}
    assert of("ipvsadm --start-daemon master") == {"daemon"}
