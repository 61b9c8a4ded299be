"""What a Director does about its timeouts, sysctls and the FTP helper's ports."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pylvs import sysctl as names
from pylvs.datapath import connections, ftpports, sysctls
from pylvs.datapath._layout import CONN_FTP, TIMEOUT_UDP
from pylvs.errors import InvalidValue
from pylvs.model import Timeouts
from pylvs.protocols import tcp, udp
from pylvs.protocols.timeouts import DEFAULTS_MS, PLACES, Place, checked, place

if TYPE_CHECKING:
    from pylvs.datapath.instance import Instance
    from pylvs.datapath.services import ServiceTable

TIMEOUT_MAX = 4294967  # seconds: what fits; the kernel's own limit depends on its clock (facts 3.5)
# Where the timeouts that can be set stand in the packet path's row of them.
SETTABLE = (tcp.STATES.index("ESTABLISHED"), tcp.STATES.index("FIN_WAIT"), TIMEOUT_UDP)


class Tuning:
    """A part of `Director`, whose way of changing things this uses."""

    _instance: "Instance | None"

    if TYPE_CHECKING:

        def _changing(self) -> AbstractContextManager["ServiceTable"]: ...

    # ---- timeouts ---------------------------------------------------------------------------------------------------

    def timeouts(self) -> Timeouts:
        """The timeouts that `set_timeouts` sets, in seconds."""
        if self._instance is None:
            return Timeouts(tcp.TIMEOUTS["ESTABLISHED"], tcp.TIMEOUTS["FIN_WAIT"], udp.TIMEOUT)
        seconds = [milliseconds // 1000 for milliseconds in self._instance.timeouts()]
        return Timeouts(*(seconds[place] for place in SETTABLE))

    def state_timeouts(self) -> dict[Place, int]:
        """Every state's timeout in seconds, by protocol ("tcp", "udp", "sctp") and state ("ESTABLISHED")."""
        present = DEFAULTS_MS if self._instance is None else self._instance.timeouts()
        return dict(zip(PLACES, (milliseconds // 1000 for milliseconds in present), strict=True))

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set idle timeouts in seconds; 0 keeps the present one. Connections follow at their next packet (facts 3.5).

        Raises:
            InvalidValue: one is out of range; then none is changed.
        """
        for name, seconds in zip(timeouts._fields, timeouts, strict=True):
            if not 0 <= seconds <= TIMEOUT_MAX:
                raise InvalidValue(f"the {name} timeout {seconds} s is out of range; it may be 0 to {TIMEOUT_MAX}")
        with self._changing():
            assert self._instance is not None
            present = self._instance.timeouts()
            for place, seconds in zip(SETTABLE, timeouts, strict=True):
                present[place] = seconds * 1000 or present[place]
            self._instance.set_timeouts(present)

    def set_state_timeout(self, protocol: str, state: str, seconds: int) -> None:
        """Set one state's timeout, such as ("sctp", "INIT", 30); connections follow at their next packet.

        Raises:
            InvalidValue: there is no such state, or the timeout is not 1 to 2250000 seconds.
        """
        self.set_state_timeouts({(protocol, state): seconds})

    def set_state_timeouts(self, changes: Mapping[Place, int]) -> None:
        """Set several states' timeouts in one step, so that packets see all or none of it. Beyond what kernel IPVS
        has: there `set_timeouts` is all.

        Args:
            changes: seconds by protocol and state, as `state_timeouts` gives them.

        Raises:
            InvalidValue: one of them makes no sense; then none is changed.
        """
        wanted = {place(*where): checked(place(*where), seconds) for where, seconds in changes.items()}
        with self._changing():
            assert self._instance is not None
            present = self._instance.timeouts()
            for where, seconds in wanted.items():
                present[PLACES.index(where)] = seconds * 1000
            self._instance.set_timeouts(present)

    # ---- the FTP helper ---------------------------------------------------------------------------------------------

    def ftp_ports(self) -> tuple[int, ...]:
        """The ports on which the FTP helper reads along with LVS-NAT connections; the kernel's `ports` of ip_vs_ftp."""
        return ftpports.DEFAULT if self._instance is None else ftpports.read(self._instance)

    def helped_connections(self) -> Iterator[int]:
        """The virtual port of each connection on which the FTP helper reads along."""
        if self._instance is not None:
            for entry in connections.entries(self._instance):
                if entry.flags & CONN_FTP and not entry.template:
                    yield entry.vport

    def set_ftp_ports(self, ports: Iterable[int]) -> None:
        """Let it read along on these, and no others; on none: there is no helper. New connections follow, in one step
        (facts section 10).

        Args:
            ports: at most 8.

        Raises:
            InvalidValue: one is not 1 to 65535, or there are too many; nothing is changed.
        """
        wanted = ftpports.checked(ports)
        with self._changing():
            assert self._instance is not None
            ftpports.write(self._instance, wanted)

    # ---- sysctls ----------------------------------------------------------------------------------------------------

    def sysctl(self, name: str) -> str:
        """What a name under /proc/sys/net/ipv4/vs reads, without the newline (facts 9.4).

        Args:
            name: "drop_entry" or "net.ipv4.vs.drop_entry".

        Raises:
            NoSuchSysctl
        """
        return sysctls.read(self._instance, names.find(name).name)

    def sysctls(self) -> dict[str, str]:
        """All of them, by their short names."""
        return {name: self.sysctl(name) for name in names.NAMES}

    def set_sysctl(self, name: str, value: str | int) -> None:
        """Write to one of them, as one writes to the kernel's file; packets see the change in one store.

        Raises:
            NoSuchSysctl
            InvalidValue: the kernel would answer EINVAL or ERANGE; nothing is changed.
        """
        self.set_sysctls({name: value})

    def set_sysctls(self, values: Mapping[str, str | int]) -> None:
        """Write to several of them: to all, or where one is refused to none.

        Each is old or new for packets at every moment. They are stored one after the other: who is killed in between
        has written some.

        Raises:
            NoSuchSysctl, InvalidValue
        """
        texts = self.check_sysctls(values)  # what is wrong must not load a director
        with self._changing() as table:
            assert self._instance is not None
            sysctls.write(self._instance, table, texts)

    def check_sysctls(self, values: Mapping[str, str | int]) -> dict[str, str]:
        """See whether these values may be written, and write nothing; they come back as texts, by short names.

        Raises:
            NoSuchSysctl, InvalidValue
        """
        texts = {names.find(name).name: str(value) for name, value in values.items()}
        sysctls.check(self._instance, texts)
        return texts
