"""From the words of a command line to a `Request`.

Options are worked off from left to right, as ipvsadm does, and that shows: the
first fault ends it, `-M` is read by the family of the service known so far, a
service name after `-r` by its protocol known so far, and `-6` must follow `-f`.
"""

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # `socket` itself costs 8 ms
from collections.abc import Callable, Sequence

from pylvs.ipvsadm.addresses import endpoint, ipv4_address
from pylvs.ipvsadm.daemon import BACKUP, MASTER, SyncDaemon
from pylvs.ipvsadm.help import EXTENSIONS_USAGE, USAGE, VERSION
from pylvs.ipvsadm.messages import Exit, Refused, misuse, try_help
from pylvs.ipvsadm.names import Names
from pylvs.ipvsadm.numbers import INT_MAX, LONG_MAX, UINT_MAX, atoi, number, strtol
from pylvs.ipvsadm.options import (
    COMMANDS,
    EXTENSIONS,
    BadOption,
    Given,
    OptionReader,
    check_extensions,
    check_options,
    check_tunnel_options,
)
from pylvs.model import (
    DEFAULT_SCHEDULER,
    GENERIC_FLAGS,
    MASQ,
    NETMASK_ALL,
    ROUTE,
    SCHEDULER_FLAGS,
    SCTP,
    TCP,
    TUN_CSUM,
    TUN_GRE,
    TUN_GUE,
    TUN_IPIP,
    TUN_NOCSUM,
    TUN_REMCSUM,
    TUNNEL,
    UDP,
    Timeouts,
    scheduler_flag_names,
)

PERSISTENT_DEFAULT = 360  # seconds; the manual says 300, the program does this
TIMEOUT_MAX = 31 * 86400
NAME_MAX = 15  # of a scheduler, a persistence engine, an interface
MAXLEN_MAX = 65535 - 20 - 8  # what UDP over IPv4 can carry

TUNNEL_TYPES = {"ipip": TUN_IPIP, "gue": TUN_GUE, "gre": TUN_GRE}


class Request:
    """What a command line asks for."""

    def __init__(self, command: str) -> None:
        self.command = command  # as in COMMANDS' values
        self.given: set[str] = set()  # the options, by the names of CHECK_ORDER
        # The virtual service.
        self.family = 0
        self.address = ""
        self.port = 0
        self.protocol = 0
        self.fwmark = 0
        self.scheduler = ""
        self.flags_text: str | None = None
        self.scheduler_flags: tuple[str, ...] = ()
        self.persistent = 0
        self.netmask = NETMASK_ALL
        self.engine = ""
        # The real server.
        self.server_family = 0
        self.server_address = ""
        self.server_port = 0
        self.method = ROUTE
        self.weight = 1
        self.upper = 0
        self.lower = 0
        self.tun_type = TUN_IPIP
        self.tun_port = 0
        self.tun_flags = TUN_NOCSUM
        # The rest.
        self.daemon = SyncDaemon()
        self.timeouts = Timeouts(0, 0, 0)

    def has(self, option: str) -> bool:
        return option in self.given


def parse(words: Sequence[str], names: Names, extended: bool = True) -> Request:
    """The request that the words after `ipvsadm` make.

    Args:
        extended: options that the original does not have may be there; they may also stand before the command, and
            without one they are about the list.

    Raises:
        Refused: a word is no option; the lines after it in a restore still count.
        Exit: any other fault; and for --help and --version, with their text.
    """
    reader = OptionReader(words, extended)
    options = iter(reader)
    ours: set[str] = set()
    try:
        first = next(options, None)
        while first is not None and first.name in EXTENSIONS:
            ours.add(first.name)
            first = next(options, None)
    except BadOption:
        first = None
    request = Request("list") if ours and first is None and not reader.rest else _command(first)
    request.given |= ours
    try:
        for given in options:
            if given.name in COMMANDS:
                raise misuse(f"invalid option `{given.word}'")
            _OPTIONS[given.name](request, given.argument, names)
    except BadOption as error:
        raise Refused(str(error)) from None
    arguments = reader.arguments
    if request.command == "set":
        request.timeouts = _timeouts(arguments)
        arguments = arguments[3:]
    if arguments:
        raise misuse(f"unexpected argument {arguments[0]}")
    if request.flags_text is not None:
        request.scheduler_flags = _scheduler_flags(request.scheduler or DEFAULT_SCHEDULER, request.flags_text)
    check_options(request.command, request.given)
    check_extensions(request.command, request.given)
    if request.command in ("add-service", "edit-service"):
        _check_service(request)
    elif request.command in ("add-server", "edit-server"):
        _check_server(request)
    elif request.command == "list":
        _check_list(request)
    return request


def _command(first: Given | None) -> Request:
    if first is None or first.name not in COMMANDS:
        raise try_help()
    request = Request(COMMANDS[first.name])
    if request.command == "help":
        # What scripts read is the original's to the byte; --help is for people.
        raise Exit(0, output=VERSION + USAGE + (EXTENSIONS_USAGE if first.word.startswith("--") else ""))
    if request.command == "version":
        raise Exit(0, output=VERSION)
    if request.command in ("start-daemon", "stop-daemon"):
        if first.argument not in (MASTER, BACKUP):
            what = "start-daemon parameter" if request.command == "start-daemon" else "start_daemon"
            raise misuse(f"illegal {what} specified")
        request.daemon = SyncDaemon(role=first.argument)
    return request


def _check_service(request: Request) -> None:
    if not request.fwmark and not request.port and not request.persistent:
        raise misuse("Zero port specified for non-persistent service")
    if request.has("ops") and not request.fwmark and request.protocol != UDP:
        raise misuse("One-Packet Scheduling is only for UDP virtual services")


def _check_server(request: Request) -> None:
    if not request.fwmark and request.method != MASQ:
        request.server_port = request.port  # only NAT can change the port
    if request.server_family != request.family and request.method != TUNNEL:
        raise misuse("Different address family is allowed only for tunneling servers")
    if request.method != TUNNEL and any(name.startswith("tun-") for name in request.given):
        raise misuse("Tunnel options conflict with forward method")
    type_name = next(name for name, value in TUNNEL_TYPES.items() if value == request.tun_type)
    check_tunnel_options(type_name, request.given)


def _check_list(request: Request) -> None:
    columns = {"stats", "persistent-conn", "rate", "thresholds"}
    whole = {"timeout", "daemon"}
    if request.given & whole and request.given & columns:
        raise misuse("options conflicts in the list command")
    if request.has("connection") and request.given & (columns - {"persistent-conn"}):
        raise misuse("options conflicts in the list command")


def _timeouts(arguments: Sequence[str]) -> Timeouts:
    if len(arguments) < 3:
        raise misuse("--set option requires 3 timeout values")
    return Timeouts(*(_timeout(text, 0) for text in arguments[:3]))


def _timeout(text: str, low: int) -> int:
    value = number(text, low, TIMEOUT_MAX)
    if value is None:
        raise misuse(f"invalid timeout value `{text}' specified")
    return value


def _scheduler_flags(scheduler: str, text: str) -> tuple[str, ...]:
    names = scheduler_flag_names(scheduler)
    found = set()
    for flag in text.split(","):
        if flag in GENERIC_FLAGS:
            found.add(names[GENERIC_FLAGS.index(flag)])
        elif flag in SCHEDULER_FLAGS.get(scheduler, ()):
            found.add(flag)
        elif any(flag in others for others in SCHEDULER_FLAGS.values()):
            raise misuse(f"incompatible scheduler flag `{flag}'")
        elif flag:
            raise misuse(f"invalid scheduler flag `{flag}'")
    return tuple(name for name in names if name in found)


# One function per option: (request, its argument, names). They are found through _OPTIONS.

Handler = Callable[[Request, str | None, Names], None]


def _once(request: Request, name: str) -> None:
    if name in request.given:
        raise misuse(f"multiple '{name}' options specified")
    request.given.add(name)


def _flag(name: str) -> Handler:
    return lambda request, _argument, _names: _once(request, name)


def _method(method: int) -> Handler:
    def forward(request: Request, _argument: str | None, _names: Names) -> None:
        _once(request, "forwarding-method")
        request.method = method

    return forward


def _tunnel_flag(name: str, flag: int) -> Handler:
    def tunnel_flag(request: Request, _argument: str | None, _names: Names) -> None:
        _once(request, name)
        request.tun_flags = flag

    return tunnel_flag


def _extension(name: str) -> Handler:
    def extension(request: Request, _argument: str | None, _names: Names) -> None:
        request.given.add(name)

    return extension


def _number(name: str, attribute: str, low: int, high: int, what: str) -> Handler:
    def numeric(request: Request, argument: str | None, _names: Names) -> None:
        _once(request, name)
        value = number(argument or "", low, high)
        if value is None:
            raise misuse(f"illegal {what} specified")
        setattr(request, attribute, value)

    return numeric


def _daemon_number(name: str, field: str, low: int, high: int) -> Handler:
    def numeric(request: Request, argument: str | None, _names: Names) -> None:
        _once(request, name)
        value = number(argument or "", low, high)
        if value is None:
            raise misuse(f"illegal {name} specified")
        request.daemon = SyncDaemon(**(request.daemon._asdict() | {field: value}))

    return numeric


def _service(protocol: int) -> Handler:
    def service(request: Request, argument: str | None, names: Names) -> None:
        _once(request, "service-address")
        request.protocol = protocol
        found = endpoint(argument or "", protocol, names)
        if found is None:
            raise misuse("illegal virtual server address[:port] specified")
        request.family, request.address, port = found
        request.port = port or 0
        if request.family == AF_INET6:
            request.netmask = 128  # a -M that came before is lost, in the original too

    return service


def _fwmark(request: Request, argument: str | None, _names: Names) -> None:
    _once(request, "service-address")
    text = argument or ""
    value, rest, found = strtol(text)
    # The original reads a signed number into an unsigned one, so all that is negative is too large.
    if not found or rest or not 0 < value <= min(UINT_MAX, LONG_MAX):
        raise misuse(f"invalid fwmark value `{text}' specified")
    request.family, request.protocol, request.fwmark = AF_INET, TCP, value


def _ipv6(request: Request, _argument: str | None, _names: Names) -> None:
    if not request.fwmark:
        raise misuse("-6 must follow -f\n")
    request.family, request.netmask = AF_INET6, 128


def _scheduler(request: Request, argument: str | None, _names: Names) -> None:
    _once(request, "scheduler")
    name = argument or ""
    request.scheduler = name if ":" in name else name[:NAME_MAX]


def _flags(request: Request, argument: str | None, _names: Names) -> None:
    _once(request, "sched-flags")
    request.flags_text = argument


def _engine(request: Request, argument: str | None, _names: Names) -> None:
    _once(request, "pe")
    request.engine = (argument or "")[:NAME_MAX]


def _persistent(request: Request, argument: str | None, _names: Names) -> None:
    _once(request, "persistent")
    request.persistent = PERSISTENT_DEFAULT if argument is None else _timeout(argument, 1)


def _netmask(request: Request, argument: str | None, names: Names) -> None:
    _once(request, "netmask")
    text = argument or ""
    if request.family == AF_INET6:
        request.netmask = atoi(text)
        if not 1 <= request.netmask <= 128:
            raise misuse("illegal ipv6 netmask specified")
        return
    mask = ipv4_address(text, names)
    if mask is None:
        raise misuse("illegal virtual server persistent mask specified")
    request.netmask = int.from_bytes(inet_pton(AF_INET, mask), "big")


def _real_server(request: Request, argument: str | None, names: Names) -> None:
    _once(request, "real-server")
    found = endpoint(argument or "", request.protocol, names)
    if found is None:
        raise misuse("illegal real server address[:port] specified")
    request.server_family, request.server_address, port = found
    request.server_port = request.port if port is None else port


def _tunnel_type(request: Request, argument: str | None, _names: Names) -> None:
    _once(request, "tun-type")
    if argument not in TUNNEL_TYPES:
        raise misuse("illegal tunnel type specified")
    request.tun_type = TUNNEL_TYPES[argument]


def _mcast_interface(request: Request, argument: str | None, _names: Names) -> None:
    _once(request, "mcast-interface")
    request.daemon = request.daemon._replace(interface=(argument or "")[:NAME_MAX])


def _mcast_group(request: Request, argument: str | None, _names: Names) -> None:
    _once(request, "mcast-group")
    text = argument or ""
    family, version, first, last = (AF_INET6, 6, 0xFF, 0xFF) if ":" in text else (AF_INET, 4, 224, 239)
    try:
        packed = inet_pton(family, text)
    except (OSError, ValueError):
        packed = b"\0"
    if not first <= packed[0] <= last:
        raise misuse(f"invalid IPv{version} mcast-group `{text}'")
    request.daemon = request.daemon._replace(group=inet_ntop(family, packed))


LISTING_FLAGS = (
    *("numeric", "connection", "timeout", "daemon", "nosort", "exact"),
    *("stats", "rate", "thresholds", "persistent-conn", "tun-info"),
)

_OPTIONS: dict[str, Handler] = {
    "tcp-service": _service(TCP),
    "udp-service": _service(UDP),
    "sctp-service": _service(SCTP),
    "fwmark-service": _fwmark,
    "ipv6": _ipv6,
    "scheduler": _scheduler,
    "sched-flags": _flags,
    "persistent": _persistent,
    "netmask": _netmask,
    "pe": _engine,
    "ops": _flag("ops"),
    "real-server": _real_server,
    "gatewaying": _method(ROUTE),
    "ipip": _method(TUNNEL),
    "masquerading": _method(MASQ),
    "weight": _number("weight", "weight", 0, INT_MAX, "weight"),
    "u-threshold": _number("u-threshold", "upper", 0, INT_MAX, "u_threshold"),
    "l-threshold": _number("l-threshold", "lower", 0, INT_MAX, "l_threshold"),
    "tun-type": _tunnel_type,
    "tun-port": _number("tun-port", "tun_port", 1, 65535, "tunnel port"),
    "tun-nocsum": _tunnel_flag("tun-nocsum", TUN_NOCSUM),
    "tun-csum": _tunnel_flag("tun-csum", TUN_CSUM),
    "tun-remcsum": _tunnel_flag("tun-remcsum", TUN_REMCSUM),
    "sort": lambda request, argument, names: None,  # the default; only kept for old scripts
    "mcast-interface": _mcast_interface,
    "mcast-group": _mcast_group,
    "syncid": _daemon_number("syncid", "syncid", 0, 255),
    "sync-maxlen": _daemon_number("sync-maxlen", "maxlen", 1, MAXLEN_MAX),
    "mcast-port": _daemon_number("mcast-port", "port", 1, 65535),
    "mcast-ttl": _daemon_number("mcast-ttl", "ttl", 1, 255),
}
_OPTIONS |= {name: _flag(name) for name in LISTING_FLAGS}
_OPTIONS |= {name: _extension(name) for name in EXTENSIONS}
