"""Tables for the original to restore and to save, drawn by the strategies of tests/fuzz, and what is kept of them."""

from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.test_cli import run, tables
from pylvs.ipvsadm.order import sorted_services
from support.fake_director import FakeDirector

KINDS = ("", " --stats --exact", " --thresholds", " --persistent-conn", " --tun-info")
SMALLEST = 3  # rules


def cases(count: int) -> list[dict[str, Any]]:
    """Each table is restored as it was drawn, and then as pylvs saves it; the kinds of listings take turns."""
    found: list[dict[str, Any]] = []

    @seed(0)
    @settings(
        max_examples=2 * count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(tables())
    def collect(rules: str) -> None:
        director = FakeDirector()
        run(director, ["-R"], rules)
        services = list(director.services())
        if len(found) == count or rules.count("\n") < SMALLEST:
            return
        if sorted_services(services) != sorted_services(services[::-1]):
            return  # addresses in a circle (order.py): nobody knows in which order the original meets them
        saved = run(director, ["-S", "-n"])[1]
        kind = KINDS[len(found) % len(KINDS)]
        listing, save = {"cmd": f"ipvsadm -Ln{kind}"}, {"cmd": "ipvsadm -Sn"}
        drawn, ours = ({"cmd": "ipvsadm -R", "stdin": text} for text in (rules, saved))
        steps = [drawn, listing, save, {"cmd": "ipvsadm -C"}, ours, listing, save]
        found.append({"id": f"table-{len(found):03}", "steps": steps})

    collect()
    return found


def kept(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The original's answers without what is the same twice: what it was given, listed and saved.

    Raises:
        ValueError: it did not take what pylvs saves, or made something else of it.
    """
    tables = []
    for case in answers:
        drawn, listing, saved, _, ours, again, saved_again = case["steps"]
        if (ours["rc"], ours["stderr"], saved_again) != (0, "", saved):
            raise ValueError(f"{case['id']}: the original does not make the same of what pylvs saves")
        if again != listing and "--thresholds" not in listing["cmd"]:  # which are not saved
            raise ValueError(f"{case['id']}: the original lists something else after it restored what pylvs saved")
        command = listing["cmd"].removeprefix("ipvsadm ")
        answer = {"rules": drawn["stdin"], "errors": drawn["stderr"], "list": command, "listing": listing["stdout"]}
        tables.append({**answer, "saved": saved["stdout"]})
    return tables
