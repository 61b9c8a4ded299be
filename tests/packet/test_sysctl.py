"""`pylvs sysctl`: output and exit codes like sysctl(8)'s (procps 4.0), and what it has beside that."""

import io
from pathlib import Path

import pytest

from pylvs import Director, sysctl
from pylvs.cli.sysctl import main
from pylvs.datapath import instance
from pylvs.errors import InvalidValue, NoSuchSysctl
from support.harness import Harness

P = "net.ipv4.vs."


class Said:
    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(lvs: Harness, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run it, and hear what it says."""

    def run(*words: str) -> Said:
        capsys.readouterr()
        code = main(list(words))
        return Said(code, *capsys.readouterr())

    return run


def test_reading(run) -> None:  # type: ignore[no-untyped-def]
    assert run("drop_entry").out == f"{P}drop_entry = 0\n"
    for name in (f"{P}amemthresh", "net/ipv4/vs/amemthresh", "amemthresh"):
        said = run(name)
        assert (said.code, said.out, said.err) == (0, f"{P}amemthresh = 1024\n", "")
    assert run("sync_threshold").out == f"{P}sync_threshold = 3\t50\n"
    assert run("-n", "sync_threshold", "pmtu_disc").out == "3\t50\n1\n"
    assert run("-N", "pmtu_disc").out == f"{P}pmtu_disc\n"
    assert run("-b", "pmtu_disc").out == "1"


def test_writing(run, lvs: Harness) -> None:  # type: ignore[no-untyped-def]
    said = run("drop_entry=3", f"{P}sync_threshold=5  60", "net/ipv4/vs/am_droprate=20")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{P}drop_entry = 3\n{P}sync_threshold = 5  60\n{P}am_droprate = 20\n"
    assert lvs.instance.sysctls.get(0, "sync_period") == 60
    assert run("-w", "drop_entry=0").out == f"{P}drop_entry = 0\n"
    assert run("-q", "-w", "drop_entry=3").out == ""
    assert run("-n", "drop_entry=0").out == "0\n"
    assert run("--dry-run", "drop_entry=3").out == f"{P}drop_entry = 3\n"
    assert run("drop_entry").out == f"{P}drop_entry = 0\n"


def test_what_is_wrong_does_not_keep_the_rest(run) -> None:  # type: ignore[no-untyped-def]
    said = run("drop_entry=1", "nope=2", "secure_tcp=9", "am_droprate=7")
    assert said.code == 1
    assert said.out == f"{P}drop_entry = 1\n{P}am_droprate = 7\n"
    first, second = said.err.splitlines()
    assert first == "pylvs sysctl: cannot stat /proc/sys/net/ipv4/vs/nope: No such file or directory"
    assert second.startswith(f'pylvs sysctl: setting key "{P}secure_tcp": Invalid argument: ')
    assert "0 to 3" in second
    assert run("am_droprate").out == f"{P}am_droprate = 7\n"


@pytest.mark.parametrize("wrong", ["secure_tcp=9", "nope=2"])
def test_atomic_is_all_or_nothing(run, lvs: Harness, wrong: str) -> None:  # type: ignore[no-untyped-def]
    said = run("--atomic", "drop_entry=1", wrong, "am_droprate=7")
    assert (said.code, said.out) == (1, "")
    assert said.err.endswith("pylvs sysctl: nothing was set\n")
    assert lvs.director.sysctls() == lvs.director.sysctls() | {"drop_entry": "0", "am_droprate": "10"}
    said = run("--atomic", "drop_entry=3", "am_droprate=7", "drop_entry")
    assert (said.code, said.out) == (0, f"{P}drop_entry = 3\n{P}am_droprate = 7\n{P}drop_entry = 3\n")


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (("drop_entry=",), f'pylvs sysctl: setting key "{P}drop_entry": Invalid argument: '),
        (("-w", "drop_entry"), "pylvs sysctl: command line(0): invalid syntax, continuing...\n"),
        (("-w",), "pylvs sysctl: no variables specified\n"),
        (("net.ipv4.ip_forward",), "pylvs sysctl: cannot stat /proc/sys/net/ipv4/ip_forward: "),
        (("-p", "/nowhere/at/all"), 'pylvs sysctl: cannot open "/nowhere/at/all": No such file or directory\n'),
    ],
)
def test_refusals(run, words: tuple[str, ...], err: str) -> None:  # type: ignore[no-untyped-def]
    said = run(*words)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(err)


def test_unknown_names_can_be_forgiven(run) -> None:  # type: ignore[no-untyped-def]
    said = run("-e", "nope", "pmtu_disc")
    assert (said.code, said.out, said.err) == (0, f"{P}pmtu_disc = 1\n", "")


def test_all(run) -> None:  # type: ignore[no-untyped-def]
    said = run("-a")
    assert said.code == 0
    assert [line.split(" = ")[0] for line in said.out.splitlines()] == [P + name for name in sysctl.NAMES]
    assert run("-a", "-r", "drop_").out == f"{P}drop_entry = 0\n{P}drop_packet = 0\n"


FILE = f"""\
# a comment
; another

{P}drop_entry = 3
 net/ipv4/vs/sync_threshold =  4   60
net.ipv4.ip_forward = 1
-{P}nope = 1
-{P}secure_tcp
"""


@pytest.mark.parametrize("option", ["-p", "-f", "--load"])
def test_files(run, tmp_path: Path, option: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "lvs.conf"
    file.write_text(FILE)
    said = run(option, str(file))
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{P}drop_entry = 3\n{P}sync_threshold = 4   60\n"
    assert run(f"--load={file}").out == said.out
    file.write_text(f"{FILE}rubbish\n{P}nope = 3\n{P}secure_tcp = 7\n")
    said = run("-p", str(file))
    assert said.code == 1
    assert f"{file}(9): invalid syntax" in said.err
    assert "vs/nope" in said.err and "secure_tcp" in said.err


def test_standard_input(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("sys.stdin", io.StringIO(FILE))
    assert run("-p", "-").out == f"{P}drop_entry = 3\n{P}sync_threshold = 4   60\n"


def test_explanations(run) -> None:  # type: ignore[no-untyped-def]
    for name, one in sysctl.NAMES.items():
        said = run("--explain", name).out
        assert said.startswith(P + name)
        words = " ".join(said.split())
        assert one.meaning in words and one.accepted in words
        assert not one.here or one.here in words


# ---- the director ----


def test_errors_and_what_they_leave(lvs: Harness) -> None:
    with pytest.raises(NoSuchSysctl, match=r"net\.ipv4\.vs\.nope"):
        lvs.director.sysctl("nope")
    with pytest.raises(NoSuchSysctl):
        lvs.director.set_sysctls({"drop_entry": 3, "nope": 1})
    with pytest.raises(InvalidValue, match="power of two"):
        lvs.director.set_sysctls({"drop_entry": 3, "sync_ports": 3})
    assert lvs.director.sysctl("drop_entry") == "0"


def test_reading_starts_no_director_and_writing_does() -> None:
    with Harness() as lvs:
        lvs.unload()
        with Director() as director:
            assert director.sysctl("drop_entry") == "0"
            assert director.sysctls()["sync_threshold"] == "3\t50"
            with pytest.raises(InvalidValue):
                director.set_sysctl("drop_entry", 9)
            assert instance.find() is None, "what is wrong starts none either"
            director.set_sysctl("conn_max", 5)
            assert director.instance is not None
        lvs.load()
        assert lvs.director.sysctl("conn_max") == "5"


def test_programs_are_replaced_under_sysctls_that_stay(own_network: Harness) -> None:
    own_network.enter()
    try:
        own_network.director.set_sysctls({"secure_tcp": 3, "conn_max": 1000})
        own_network.instance.replace_programs()
        own_network.reopen()
        assert own_network.director.sysctl("conn_max") == "1000"
        assert own_network.instance.run("decide") == 0
        assert own_network.instance.runtime.get(0, "secure") == 1
    finally:
        own_network.leave()
