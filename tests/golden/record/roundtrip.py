"""Tables for the original to restore and save, drawn by the strategies of tests/fuzz: `cases(count)`."""

from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.test_cli import run, tables
from support.fake_director import FakeDirector

KINDS = ("", " --stats --exact", " --thresholds", " --persistent-conn", " --tun-info", " --thresholds --tun-info")


def cases(count: int) -> list[dict[str, Any]]:
    """Each table is restored as it was drawn, and then as pylvs saves it; the listings in between take turns."""
    found: list[dict[str, Any]] = []

    @seed(0)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(tables(), min_size=1, max_size=2).map("".join))
    def collect(rules: str) -> None:
        if len(found) == count or rules.count("\n") < 3:
            return
        director = FakeDirector()
        run(director, ["-R"], rules)
        saved = run(director, ["-S", "-n"])[1]
        kind = KINDS[len(found) % len(KINDS)]
        lines = [f"ipvsadm -Ln{kind}", "ipvsadm -C", "ipvsadm -R", "ipvsadm -Sn"]
        lines.append(("ipvsadm -L", "ipvsadm -S", f"ipvsadm -Ln{kind}", "ipvsadm -Ln")[len(found) // len(KINDS) % 4])
        steps = [{"cmd": "ipvsadm -R", "stdin": rules}, *({"cmd": line} for line in lines)]
        steps[3]["stdin"] = saved
        found.append({"id": f"roundtrip-{len(found):03}", "group": "roundtrip", "steps": steps})

    collect()
    return found
