"""The names of net.ipv4.vs as data, and the values behind them, without a kernel."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs import sysctl
from pylvs.datapath.layout import SYSCTLS
from pylvs.errors import InvalidValue

CPUS = 8
DEFAULTS = sysctl.defaults(CPUS, 1 << 20)


def test_every_member_of_the_shared_structure_has_a_name() -> None:
    members = {member for name in sysctl.NAMES for member in sysctl.members_of(name)}
    assert members == set(SYSCTLS.names) == set(DEFAULTS)


def test_they_are_in_order() -> None:
    """As sysctl -a shows them."""
    assert list(sysctl.NAMES) == sorted(sysctl.NAMES)


@pytest.mark.parametrize("one", sysctl.ALL, ids=lambda one: one.name)
def test_every_default_may_be_written(one: sysctl.Sysctl) -> None:
    text = sysctl.read(one.name, DEFAULTS)
    assert one.default in ("", text)
    assert dict(sysctl.write(one.name, text, DEFAULTS, CPUS)) == {
        member: DEFAULTS[member] for member in sysctl.members_of(one.name)
    }


NUMBERS = st.one_of(st.integers(-3, 70), st.integers(-(1 << 70), 1 << 70))
TEXTS = st.one_of(
    st.text(" \t\n0123456789-,:/xabcNl", max_size=12),
    NUMBERS.map(str),
    NUMBERS.map(hex),
    st.tuples(NUMBERS, NUMBERS).map(lambda pair: f"{pair[0]} {pair[1]}"),
    st.text(max_size=6),
)


@given(name=st.sampled_from(list(sysctl.NAMES)), text=TEXTS)
@settings(deadline=None, max_examples=2000)
def test_whatever_is_written_is_refused_or_fits(name: str, text: str) -> None:
    try:
        changes = sysctl.write(name, text, DEFAULTS, CPUS)
    except InvalidValue as error:
        assert sysctl.PREFIX + name in str(error)
        return
    assert SYSCTLS.pack(**dict(changes))
    after = DEFAULTS | dict(changes)
    again = sysctl.read(name, after)
    if again:  # what is read can be written
        assert DEFAULTS | dict(sysctl.write(name, again, DEFAULTS, CPUS)) == after


THRESHOLDS = st.tuples(st.integers(0, 60), st.integers(0, 60)).filter(lambda pair: not pair[1] or pair[0] < pair[1])


@given(before=THRESHOLDS, after=THRESHOLDS)
@settings(deadline=None)
def test_the_two_numbers_of_sync_threshold_fit_each_other_at_every_moment(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    now = DEFAULTS | {"sync_threshold": before[0], "sync_period": before[1]}
    for member, value in sysctl.write("sync_threshold", f"{after[0]} {after[1]}", now, CPUS):
        now[member] = value
        threshold, period = now["sync_threshold"], now["sync_period"]
        assert isinstance(threshold, int) and isinstance(period, int)
        assert not period or threshold < period, f"{before} -> {after}: {threshold} {period}"
    assert (now["sync_threshold"], now["sync_period"]) == after


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("all", "0-7"), ("N", "7"), ("0-N", "0-7"), ("1,3-5 7", "1,3-5,7"), ("0-7:1/4", "0,4"), ("ALL:2/4", "0-1,4-5"),
        ("\n", ""), (",,2,,", "2"), ("5-5", "5"),
    ],
)  # fmt: skip
def test_cpu_lists(text: str, cpus: str) -> None:
    after = DEFAULTS | dict(sysctl.write("est_cpulist", text, DEFAULTS, CPUS))
    assert sysctl.read("est_cpulist", after) == cpus
    assert bool(after["est_cpulist"]) is bool(cpus)


@pytest.mark.parametrize("text", ["3-1", "8", "0-8", "1:1/2", "0-7:3/2", "0-7:1/0", "1-", "-1", "a", "99999999999"])
def test_wrong_cpu_lists(text: str) -> None:
    with pytest.raises(InvalidValue):
        sysctl.write("est_cpulist", text, DEFAULTS, CPUS)


def _row(one: sysctl.Sysctl) -> str:
    default = one.default.replace("\t", " ") or "by the machine"
    here = f". Here: {one.here}" if one.here else ""
    return f"| `{one.name}` | {default} | {one.accepted} ({one.unit}) | {one.meaning}{here} |"


def test_the_reference_says_the_same() -> None:
    """The table in docs/reference.md is this data; what the test wants is what to paste there."""
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    table = "\n".join(map(_row, sysctl.ALL))
    assert table in text, f"docs/reference.md should have\n{table}"
