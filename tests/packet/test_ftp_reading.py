"""The packet path reads FTP as pylvs.helpers.ftp does: whatever is said, on a control connection that goes on."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pylvs.helpers.ftp import announced, asked, rewritten
from support.books import books
from support.ftp import Control
from support.harness import Harness
from support.talk import Family

FEW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
_numbers = st.lists(
    st.sampled_from(["0", "1", "10", "255", "256", "007", "", "99999999999", "x"]), min_size=4, max_size=7
)
_plain = st.one_of(_numbers.map(",".join), st.lists(st.integers(0, 255), min_size=6, max_size=6).map(
    lambda numbers: ",".join(map(str, numbers))))  # fmt: skip
_addresses = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded),
    st.text("0123456789abcdefABCDEFg:.%", max_size=20),
    st.lists(st.sampled_from(["0", "1", "abcd", "00001", "", "f"]), max_size=10).map(":".join),
)
_wide = st.tuples(
    st.sampled_from("|||||!~ \x7f1:"), st.sampled_from(["1", "2", "", "3"]), _addresses,
    st.sampled_from(["1", "51210", "65535", "65536", "0", "", "00021", "4294967317"]),
).map(lambda parts: parts[0] + parts[0].join(parts[1:]) + parts[0])  # fmt: skip
_announced = st.one_of(_plain, _wide, st.sampled_from(["|||51210|", "!!!1!", "|||0|", "10,2,0,1,200,10"]))
_noise = st.text("(|) 1,\r\nax", max_size=4)
CLIENT = st.one_of(
    st.tuples(
        st.sampled_from(["PORT ", "EPRT ", "port ", "ePrT   ", "PORT", "EPRT", "PASV", "XEPRT "]), _noise,
        st.one_of(_plain, _wide), _noise,
    ).map("".join),
    st.tuples(
        _noise, st.sampled_from(["PASV\r\n", "EPSV", "epsv ", "EPSV 1", "EPSV 2", "PASV"]),
        st.sampled_from(["", "\r", "\r\n", "1\r\n", "2\r", " ALL\r\n"]), _noise,
    ).map("".join),
    st.text(max_size=40),
).map(lambda text: text.encode("latin-1", "replace"))  # fmt: skip
SERVER = st.tuples(
    st.sampled_from(["227 ", "229 ", "227-", "226 ", "229"]), _noise, st.sampled_from(["(", "((", "", "Mode ("]),
    _announced, _noise, st.sampled_from([")\r\n", ".\r\n", ""]),
).map(lambda parts: "".join(parts).encode("latin-1", "replace"))  # fmt: skip

PASV, EPSV = b"227 (1,2,3,4,200,10)\r\n", b"229 (|||00007|)\r\n"


def _control(lvs: Harness, family: Family) -> Control:
    lvs.reset()
    return Control(lvs, family).serve().opens()


@FEW
@given(st.lists(CLIENT, min_size=1, max_size=20))
@example(
    [
        b"EPRT |2|%s|9|\r\n" % address
        for address in (
            b"1:2:3:4:5:6:7:8", b"1:2:3:4:5:6:7::", b"::2:3:4:5:6:7:8", b"1::3:4:5:6:7:8", b":1::2", b"1:::2",
            b"::", b"1::2:",
        )
    ]
)  # fmt: skip
def test_a_client(lvs: Harness, family: Family, lines: list[bytes]) -> None:
    control = _control(lvs, family)
    for said in filter(None, lines):
        wanted = asked(said, family.version == 6)
        before = control.expected
        assert control.says(said) == said
        now = control.expected
        if wanted is None or wanted.mode != "PORT":
            assert now == before
        else:
            assert (wanted.address, wanted.port, 20, control.server, 20, "LISTEN") in now
        # what it waits for shows in what becomes of an answer
        mode = wanted.mode if wanted else ""
        assert (control.hears(PASV) != PASV) == (mode == "PASV")
        assert (control.hears(EPSV) != EPSV) == (mode == "EPSV")
    books(lvs.instance)


@FEW
@given(st.lists(st.tuples(SERVER, st.booleans()), min_size=1, max_size=20))
def test_a_real_server(lvs: Harness, family: Family, lines: list[tuple[bytes, bool]]) -> None:
    control = _control(lvs, family)
    for said, extended in lines:
        six = family.version == 6
        mode = "EPSV" if extended or six else "PASV"
        control.says(mode.encode() + b"\r\n")
        found = announced(said, mode, six)
        before = control.expected
        heard = control.hears(said)
        if found is None:
            assert heard == said and control.expected == before
        else:
            assert heard == rewritten(said, found, mode, family.vip)
            assert (family.client, 0, found.port, control.server, found.port, "LISTEN") in control.expected
    books(lvs.instance)
