"""Tables for the original to restore and to save, drawn by the strategies of tests/fuzz, and what is kept of them."""

from itertools import combinations
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz.test_cli import run, tables
from pylvs.ipvsadm.order import sorted_services
from support.fake_director import FakeDirector

KINDS = ("", " --stats --exact", " --thresholds", " --persistent-conn", " --tun-info")
DRAWN, LONGEST = 12, 10


def cases(count: int) -> list[dict[str, Any]]:
    """Each table is restored as it was drawn, and then as pylvs saves it; the kinds of listings take turns."""
    found = []
    for number in range(count):
        rules = drawn_table(number, tunnels=number % 2 > 0)
        director = FakeDirector()
        run(director, ["-R"], rules)
        saved = run(director, ["-S", "-n"])[1]
        kind = KINDS[number % len(KINDS)]
        listing, save = {"cmd": f"ipvsadm -Ln{kind}"}, {"cmd": "ipvsadm -Sn"}
        drawn, ours = ({"cmd": "ipvsadm -R", "stdin": text} for text in (rules, saved))
        steps = [drawn, listing, save, {"cmd": "ipvsadm -C"}, ours, listing, save]
        found.append({"id": f"table-{number:03}", "steps": steps})
    return found


def drawn_table(number: int, tunnels: bool) -> str:
    """The longest of some tables that the strategies draw from one seed, as its neighbours are much alike."""
    drawn: list[str] = []

    @seed(number)
    @settings(
        max_examples=DRAWN, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(tables())
    def collect(rules: str) -> None:
        if not tunnels:
            rules = "".join(line for line in rules.splitlines(keepends=True) if " -i" not in line)
        if rules.count("\n") <= LONGEST and not in_a_circle(rules):
            drawn.append(rules)

    collect()
    return max(drawn, key=lambda rules: rules.count("\n"))


def in_a_circle(rules: str) -> bool:
    """Do services have addresses in a circle (order.py)? Nobody knows in which order the original meets them."""
    director = FakeDirector()
    run(director, ["-R"], rules)
    services = sorted_services(list(director.services()))
    return any(sorted_services(pair) != list(pair) for pair in combinations(services, 2))


def kept(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The original's answers without what is the same twice: what it was given, listed and saved.

    Real servers in a circle come in another order after they were saved in it: such tables are not kept.

    Raises:
        ValueError: it did not take what pylvs saves, or made something else of it.
    """
    tables: list[dict[str, Any]] = []
    for case in answers:
        drawn, listing, saved, _, ours, again, saved_again = case["steps"]
        lines, lines_again = (sorted(step["stdout"].splitlines()) for step in (saved, saved_again))
        if (ours["rc"], ours["stderr"], lines_again) != (0, "", lines):
            raise ValueError(f"{case['id']}: the original does not make the same of what pylvs saves")
        if saved_again != saved or in_a_circle(drawn["stdin"]):
            continue
        if again != listing and "--thresholds" not in listing["cmd"]:  # which are not saved
            raise ValueError(f"{case['id']}: the original lists something else after it restored what pylvs saved")
        command = listing["cmd"].removeprefix("ipvsadm ")
        answer = {"rules": drawn["stdin"], "errors": drawn["stderr"], "list": command, "listing": listing["stdout"]}
        tables.append({**answer, "saved": saved["stdout"]})
    return tables
