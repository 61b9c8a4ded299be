"""What a real server needs, as values: no kernel is asked."""

import pytest

from pylvs.errors import InvalidValue
from pylvs.realserver import Decapsulation, Finding, Host, decapsulation, findings, strict

VIP, VIP6 = "192.168.1.110", "fd00:1::110"
READY = {("all", "arp_ignore"): 1, ("all", "arp_announce"): 2, ("all", "rp_filter"): 0}


def host(*addresses: tuple[str, str], attached: tuple[str, ...] = (), **settings: int) -> Host:
    """A host with eth0 and eth1; settings as eth0__rp_filter."""
    given = {(name.partition("__")[0], name.partition("__")[2]): value for name, value in settings.items()}
    return Host((("eth0", "10.1.1.11"), *addresses), ("eth0", "eth1"), READY | given, ("eth0",), attached)


def amiss(found: list[Finding]) -> list[str]:
    return [finding.remedy for finding in found if finding.amiss]


def test_what_is_asked_for_is_completed() -> None:
    assert decapsulation() == Decapsulation(("ipip",))
    assert decapsulation(["gre", "ipip", "gre"]) == Decapsulation(("ipip", "gre"))
    assert decapsulation(["gue"]) == Decapsulation(("gue",), (6080,))
    assert decapsulation(ports=[7, 5, 7]) == Decapsulation(("gue",), (5, 7))
    assert decapsulation(["ipip"], [7]) == Decapsulation(("ipip", "gue"), (7,))
    wanted = decapsulation(vips=["fd00:0::1", "10.0.0.10", "10.0.0.9", "fd00::1"])
    assert wanted.vips == ("10.0.0.9", "10.0.0.10", "fd00::1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"types": ["vxlan"]}, "there is no tunnel type 'vxlan'; there are ipip, gre, gue"),
        ({"ports": [0]}, "port 0 is out of range; it may be 1 to 65535"),
        ({"ports": [65536]}, "port 65536 is out of range; it may be 1 to 65535"),
        ({"vips": ["10.0.0.0/8"]}, "VIP '10.0.0.0/8' is no IPv4 or IPv6 address"),
        ({"vips": [""]}, "VIP '' is no IPv4 or IPv6 address"),
        ({"vips": ["224.0.0.1"]}, "VIP 224.0.0.1 cannot be reached from another host"),
        ({"vips": ["fe80::1%eth0"]}, "VIP fe80::1%eth0 cannot be reached from another host"),
        ({"directors": ["::"]}, "director :: cannot be reached from another host"),
        ({"directors": ["127.0.0.1"]}, "director 127.0.0.1 cannot be reached from another host"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, list[str]], said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        decapsulation(**arguments)  # type: ignore[arg-type]


def test_a_host_that_has_it_all() -> None:
    ready = host(("lo", VIP), ("dummy0", VIP6), attached=("eth0",))
    assert amiss(findings(ready, [VIP, VIP6], True)) == []
    assert amiss(findings(ready, [VIP, VIP6], False)) == []


def test_a_vip_that_is_missing_or_in_the_wrong_place() -> None:
    assert amiss(findings(host(), [VIP], False)) == [f"ip address add {VIP}/32 dev lo"]
    assert amiss(findings(host(), [VIP6], False)) == [f"ip address add {VIP6}/128 dev lo"]
    assert amiss(findings(host(("eth1", VIP)), [VIP], False)) == [
        f"ip address del {VIP} dev eth1; ip address add {VIP}/32 dev lo"
    ]
    assert amiss(findings(host(), [], False)) == ["pylvs realserver check --vip ADDRESS"]


def test_the_arp_problem() -> None:
    talkative = host(("lo", VIP), ("lo", VIP6), all__arp_ignore=0, all__arp_announce=1, eth0__arp_ignore=1)
    assert amiss(findings(talkative, [VIP], False)) == [
        "sysctl -w net.ipv4.conf.all.arp_ignore=1",
        "sysctl -w net.ipv4.conf.all.arp_announce=2",
    ]
    assert "on eth1: the host answers" in "".join(finding.text for finding in findings(talkative, [VIP], False))
    assert amiss(findings(talkative, [VIP6], False)) == [], "IPv6 has no such problem"


def test_tunnel_packets_must_be_unwrapped() -> None:
    assert amiss(findings(host(("lo", VIP)), [VIP], True)) == ["pylvs realserver decap"]


@pytest.mark.parametrize(
    ("settings", "amiss_on"),
    [
        ({"all__rp_filter": 1}, ["eth1"]),
        ({"eth0__rp_filter": 1, "eth1__rp_filter": 1}, ["eth1"]),
        ({"all__rp_filter": 1, "eth1__rp_filter": 2}, []),
        ({"all__rp_filter": 2, "eth1__rp_filter": 1}, []),
        ({}, []),
    ],
)
def test_a_strict_rp_filter_where_answers_do_not_leave(settings: dict[str, int], amiss_on: list[str]) -> None:
    found = strict(host(**settings), ["eth0", "eth1"])
    assert amiss(found) == [f"sysctl -w net.ipv4.conf.{name}.rp_filter=2" for name in amiss_on]
