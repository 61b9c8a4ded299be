"""What a Director does about firewall marks: its own rules, and the way of packets that netfilter has marked."""

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pylvs.datapath.markrules import MarkTable, check_interface
from pylvs.errors import InvalidValue
from pylvs.model import MarkRoute, MarkRule

if TYPE_CHECKING:
    from pylvs.datapath.instance import Instance
    from pylvs.datapath.services import ServiceTable


class Marking:
    """A part of `Director`, whose way of changing things this uses."""

    _instance: "Instance | None"

    if TYPE_CHECKING:

        def _changing(self) -> AbstractContextManager["ServiceTable"]: ...

    def marks(self) -> list[MarkRule]:
        """The rules by which the director marks packets itself, in order: the first that matches says the mark."""
        return [] if self._instance is None else MarkTable(self._instance).rules()

    def add_mark(self, rule: MarkRule, place: int | None = None) -> None:
        """Add a rule.

        Args:
            place: where, counted from 1; None for behind all others.

        Raises:
            InvalidValue: it is there already (EEXIST), its interface is not (ENODEV), or there is no such place.
            TableFull, NotPermitted, DatapathError
        """
        _check_mark(rule, place, self.marks())
        with self._changing():
            assert self._instance is not None
            table = MarkTable(self._instance)
            rules = table.rules()
            _check_mark(rule, place, rules)
            if place is None or place == len(rules) + 1:
                table.append(rule)
            else:
                table.replace([*rules[: place - 1], rule, *rules[place - 1 :]])

    def delete_mark(self, rule: MarkRule | int) -> MarkRule:
        """Remove a rule, or that in a place counted from 1; the rule that it was.

        Raises:
            InvalidValue: there is none such (ENOENT).
        """
        if self._instance is None:
            raise _no_mark(rule, 0)
        with self._changing():
            table = MarkTable(self._instance)
            rules = table.rules()
            if isinstance(rule, MarkRule):
                if rule not in rules:
                    raise _no_mark(rule, len(rules))
                place = rules.index(rule)
            else:
                if not 1 <= rule <= len(rules):
                    raise _no_mark(rule, len(rules))
                place = rule - 1
            table.replace(rules[:place] + rules[place + 1 :])
            return rules[place]

    def set_marks(self, rules: Sequence[MarkRule]) -> None:
        """Put these rules in the place of all others; for packets, in one step.

        Raises:
            InvalidValue: two are the same (EEXIST), or the interface of a new one is not there (ENODEV).
            TableFull, NotPermitted, DatapathError
        """
        known, seen = set(self.marks()), set[MarkRule]()
        for rule in rules:
            if rule in seen:
                raise InvalidValue(f"the rule is given twice: {rule}", errno.EEXIST)
            seen.add(rule)
            if rule not in known:
                check_interface(rule.interface)
        with self._changing():
            assert self._instance is not None
            MarkTable(self._instance).replace(rules)

    def flush_marks(self) -> None:
        """Remove all rules, in one step. Connections stay, and so do the services."""
        if self._instance is None:
            return
        with self._changing():
            MarkTable(self._instance).replace([])

    def mark_routes(self) -> list[MarkRoute]:
        """Which packets that netfilter has marked are routed to the director."""
        from pylvs.datapath import detour

        return detour.routes()

    @staticmethod
    def forwarded_families() -> list[int]:
        """The families whose packets the stack forwards, and so can route to the director."""
        from pylvs.datapath import detour

        return [family for family in detour.FAMILIES if detour.forwards(family)]

    def add_mark_route(self, route: MarkRoute) -> None:
        """Route packets that netfilter has marked to the director, so that services by mark have them (see
        `datapath.detour`). Nothing happens if they are already.

        Raises:
            InvalidValue: the stack does not forward packets of the family.
            NotSupported, NotPermitted, DatapathError
        """
        from pylvs.datapath import detour

        detour.check(route)
        with self._changing():
            assert self._instance is not None
            detour.add(self._instance, route)

    def delete_mark_route(self, route: MarkRoute) -> None:
        """Leave these packets to the stack again.

        Raises:
            InvalidValue: they are not routed to the director (ENOENT).
        """
        if self._instance is None:
            raise InvalidValue(f"mark {route} is not routed to the director: none is loaded", errno.ENOENT)
        from pylvs.datapath import detour

        with self._changing():
            detour.delete(self._instance, route)


def _check_mark(rule: MarkRule, place: int | None, rules: Sequence[MarkRule]) -> None:
    if rule in rules:
        raise InvalidValue(f"the rule is there already, in place {rules.index(rule) + 1}: {rule}", errno.EEXIST)
    if place is not None and not 1 <= place <= len(rules) + 1:
        raise InvalidValue(f"place {place} is out of range; with {len(rules)} rules it may be 1 to {len(rules) + 1}")
    check_interface(rule.interface)


def _no_mark(rule: MarkRule | int, count: int) -> InvalidValue:
    what = f"rule in place {rule}" if isinstance(rule, int) else f"such rule: {rule}"
    return InvalidValue(f"there is no {what} (there are {count}); pylvs mark list shows them", errno.ENOENT)
