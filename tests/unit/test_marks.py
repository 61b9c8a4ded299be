"""Firewall marks in people's words: rules, and the lines of iptables-save that become rules."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylvs.datapath._layout import MARK_NO_INTERFACE
from pylvs.datapath.layout import MARK_RULE
from pylvs.datapath.markrules import pack, unpack
from pylvs.errors import InvalidValue
from pylvs.iptables import marks
from pylvs.marks import mark_number, mark_rule
from pylvs.model import MarkRule

# ---- rules ----


def test_a_rule_in_its_own_words() -> None:
    rule = mark_rule(1, destination="207.175.44.110/31", protocol="tcp", destination_ports="https,80,8000:8080")
    assert rule == MarkRule(1, "207.175.44.110/31", "", "", 6, ((80, 80), (443, 443), (8000, 8080)), (), 2)
    assert str(rule) == "--dst 207.175.44.110/31 --proto tcp --dport 80,443,8000:8080 --mark 1"


@pytest.mark.parametrize(
    "given_, same",
    [
        ({"destination": "10.0.0.1/32"}, {"destination": "10.0.0.1"}),
        ({"destination": "2001:DB8:0::1/128"}, {"destination": "2001:db8::1"}),
        ({"source": "0.0.0.0/0"}, {"family": "ipv4"}),
        ({"source": "::/0"}, {"family": "ipv6"}),
        ({"protocol": "TCP"}, {"protocol": 6}),
        ({"protocol": 6, "destination_ports": "80:90,85:100,101"}, {"protocol": 6, "destination_ports": "80:101"}),
        ({"protocol": "tcp", "destination_ports": "0:65535"}, {"protocol": "tcp"}),
        ({"protocol": "tcp", "destination_ports": "1024:"}, {"protocol": "tcp", "destination_ports": "1024:65535"}),
        ({"protocol": "tcp", "destination_ports": ":1023"}, {"protocol": "tcp", "destination_ports": [(0, 1023)]}),
        ({"protocol": "udp", "source_ports": "domain"}, {"protocol": "udp", "source_ports": "53"}),
    ],
)  # fmt: skip
def test_one_rule_has_one_form(given_: dict, same: dict) -> None:
    assert mark_rule(1, **given_) == mark_rule(1, **same)


@pytest.mark.parametrize(
    "mark, words, said",
    [
        (-1, {"family": "ipv4"}, "mark -1 is out of range; it may be 0 to 4294967295"),
        (1 << 32, {"family": "ipv4"}, "out of range"),
        (1, {}, "matches every packet"),
        (1, {"destination": "10.0.0.1/8"}, "write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address"),
        (1, {"destination": "10.0.0.0/33"}, "prefix length '33' is no number from 0 to 32"),
        (1, {"destination": "10.0.0.0/-1"}, "prefix length"),
        (1, {"destination": "10.0.0.0/"}, "prefix length"),
        (1, {"source": "www.example.org"}, "is no address or network"),
        (1, {"source": "10.0.0.1\0"}, "is no address or network"),
        (1, {"source": "10.0.0.1", "destination": "::1"}, "source '10.0.0.1' is of the wrong address family"),
        (1, {"source": "10.0.0.1", "family": "ipv6"}, "wrong address family: the rule is for IPv6"),
        (1, {"family": "ipx"}, "family 'ipx' is unknown; use ipv4 or ipv6"),
        (1, {"family": 1}, "family 1 is unknown"),
        (1, {"protocol": "icmp"}, "protocol 'icmp' is unknown; use tcp, udp or sctp"),
        (1, {"protocol": 1}, "cannot be balanced"),
        (1, {"destination": "10.0.0.1", "destination_ports": "80"}, "destination ports need a protocol"),
        (1, {"protocol": "tcp", "destination_ports": "80:70"}, "70 is no range"),
        (1, {"protocol": "tcp", "destination_ports": "65536"}, "65536 is out of range"),
        (1, {"protocol": "tcp", "destination_ports": [(1, 65536)]}, "none above 65535"),
        (1, {"protocol": "tcp", "destination_ports": "9" * 5000}, "is out of range"),
        (1, {"protocol": "tcp", "destination_ports": ":"}, "is no range"),
        (1, {"protocol": "tcp", "destination_ports": "80,,81"}, "'' is no port"),
        (1, {"protocol": "tcp", "destination_ports": "nonesuch"}, "'nonesuch' is no port"),
        (1, {"protocol": "tcp", "destination_ports": "1,3,5,7,9,11,13,15,17"}, "9 ranges of destination ports"),
        (1, {"protocol": "tcp", "source_ports": "1,3,5,7,9"}, "one rule holds 4"),
        (1, {"interface": "a" * 16}, "at most 15 characters"),
        (1, {"interface": "a/b"}, "cannot be an interface's name"),
        (1, {"interface": ".."}, "cannot be an interface's name"),
    ],
)
def test_what_cannot_be_a_rule(mark: int, words: dict, said: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        mark_rule(mark, **words)
    assert said in str(caught.value)


@pytest.mark.parametrize("text, mark", [("1", 1), ("0", 0), ("007", 7), ("0x1F", 31), ("0XffffFFFF", 0xFFFFFFFF)])
def test_marks_as_people_write_them(text: str, mark: int) -> None:
    assert mark_number(text) == mark


@given(st.text(max_size=12))
@example("")
@example("0x")
@example("4294967296")
@example("1_0")
@example("\u0661")
def test_anything_as_a_mark(text: str) -> None:
    try:
        number = mark_number(text)
    except InvalidValue:
        return
    assert 0 <= number <= 0xFFFFFFFF
    assert number == int(text, 16 if text[:2].lower() == "0x" else 10)


@given(
    st.text(max_size=20), st.text(max_size=20), st.text(max_size=17), st.sampled_from(["", "tcp", "x"]),
    st.text("0123456789,:abz", max_size=12),
)  # fmt: skip
def test_anything_as_a_rule(destination: str, source: str, interface: str, protocol: str, ports: str) -> None:
    """It is refused by name, or it is a rule that comes out the same when it is made of its own parts."""
    try:
        rule = mark_rule(
            5, destination=destination, source=source, interface=interface, protocol=protocol, destination_ports=ports
        )
    except InvalidValue:
        return
    assert mark_rule(*rule[:1], **dict(zip(rule._fields[1:], rule[1:], strict=True))) == rule


# ---- iptables ----

SAVED = """\
# Generated by iptables-save v1.8.9 on Sat Nov 21 12:00:00 2026
*filter
-A PREROUTING -j MARK --set-xmark 0x9/0xffffffff
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 207.175.44.110/31 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffffffff
-A PREROUTING -d 207.175.44.110/31 -p 6 -m multiport --dports 443,81:90 -m comment --comment "a b" -j MARK --set-mark 1
-A PREROUTING -i eth0 -p udp -m udp --sport 1024:65535 --dport 53 -j MARK --set-xmark 0x2/0xffffffff
-A PREROUTING -s 10.0.0.0/8 -j MARK --set-xmark 0x0/0xffffffff
-A PREROUTING -p tcp -j TTL --ttl-set 64
-A OUTPUT -d 10.0.0.1/32 -j MARK --set-xmark 0x3/0xffffffff
COMMIT
"""


def test_what_iptables_save_says() -> None:
    rules, others = marks(SAVED)
    assert [str(rule) for rule in rules] == [
        "--src 10.0.0.0/8 --mark 0",
        "--in eth0 --family ipv4 --proto udp --dport 53 --sport 1024:65535 --mark 2",
        "--dst 207.175.44.110/31 --proto tcp --dport 81:90,443 --mark 1",
        "--dst 207.175.44.110/31 --proto tcp --dport 80 --mark 1",
    ]
    assert others == ["-A PREROUTING -p tcp -j TTL --ttl-set 64"]


@pytest.mark.parametrize(
    "line",
    [
        "iptables -A PREROUTING -t mangle -d 207.175.44.110/31 -j MARK --set-mark 1",
        "/sbin/iptables -t mangle -A PREROUTING -d 207.175.44.110/255.255.255.254 -j MARK --set-mark 0x1",
        "*mangle\n-A PREROUTING --destination 207.175.44.110/31 --jump MARK --set-xmark 1/0xffffffff",
    ],
)
def test_the_line_of_the_manual(line: str) -> None:
    assert marks(line) == ([mark_rule(1, destination="207.175.44.110/31")], [])


def test_a_line_that_is_there_twice_counts_where_it_is_last() -> None:
    line = "iptables -t mangle -A PREROUTING -d 10.0.0.{} -j MARK --set-mark {}\n"
    rules, _ = marks(line.format(1, 1) + line.format("0/24", 2) + line.format(1, 1))
    assert [rule.mark for rule in rules] == [1, 2]


def test_ip6tables() -> None:
    assert marks("ip6tables -t mangle -A PREROUTING -p tcp --dport 80 -j MARK --set-mark 7")[0] == [
        mark_rule(7, protocol="tcp", destination_ports="80", family="ipv6")
    ]
    assert marks("# ip6tables-save\n*mangle\n-A PREROUTING -p udp -j MARK --set-mark 7")[0][0].family == 10


@pytest.mark.parametrize(
    "words, said",
    [
        ("! -d 10.0.0.1 -j MARK --set-mark 1", "!"),
        ("-d 10.0.0.1 -j MARK --set-xmark 0x1/0xff", "only some bits"),
        ("-d 10.0.0.1 -j MARK --or-mark 1", "--or-mark cannot be taken over"),
        ("-d 10.0.0.1 -j MARK", "does not say which mark"),
        ("-d 10.0.0.1 -m conntrack --ctstate NEW -j MARK --set-mark 1", "the match conntrack"),
        ("-i eth+ -j MARK --set-mark 1", "stands for several"),
        ("-d 10.0.0.0/255.0.255.0 -j MARK --set-mark 1", "leading bits"),
        ("-d 10.0.0.1 -d 10.0.0.2 -j MARK --set-mark 1", "twice"),
        ("-d 10.0.0.1 -j MARK --set-mark", "--set-mark says nothing"),
        ("-p icmp -j MARK --set-mark 1", "protocol 'icmp' is unknown"),
        ("-d 'x -j MARK --set-mark 1", "No closing quotation"),
    ],
)
def test_lines_that_cannot_be_taken_over(words: str, said: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        marks(f"*mangle\n-A PREROUTING {words}\n")
    assert str(caught.value).startswith("line 2: ") and said in str(caught.value)


@given(st.lists(st.sampled_from([*SAVED.split(), "\n", "!", "'", "/", "\0"]), max_size=30).map(" ".join))
def test_any_text(text: str) -> None:
    try:
        rules, others = marks(text)
    except InvalidValue:
        return
    assert len(rules) + len(others) <= text.count("\n") + 1


def test_a_rule_for_an_interface_that_is_not_there() -> None:
    """It is kept, and matches nothing until the interface comes."""
    record = pack(mark_rule(1, interface="eth7"), {"eth0": 2})
    assert MARK_RULE.get(record, 0, "ifindex") == MARK_NO_INTERFACE == 0xFFFFFFFF
    assert unpack(record).interface == "eth7"
