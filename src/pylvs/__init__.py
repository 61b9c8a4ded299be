"""The Linux Virtual Server, complete, with its packet path in eBPF.

    from pylvs import Director, real_server, virtual_service

    with Director() as director:
        web = virtual_service("192.0.2.1", 80)
        director.add_service(web)
        director.add_destination(web, real_server("10.0.0.1"))

Names load when they are first used: the command line must not pay for what it does not need.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pylvs.director import Director
    from pylvs.errors import LVSError
    from pylvs.marks import mark_route, mark_rule
    from pylvs.model import (
        MASQ,
        ROUTE,
        TUNNEL,
        Connection,
        Destination,
        MarkRoute,
        MarkRule,
        RealServer,
        Service,
        Stats,
        Timeouts,
        VirtualService,
        real_server,
        virtual_service,
    )
    from pylvs.selections import Selection, selection

__version__ = "0.1.0"
__all__ = [
    "MASQ",
    "ROUTE",
    "TUNNEL",
    "Connection",
    "Destination",
    "Director",
    "LVSError",
    "MarkRoute",
    "MarkRule",
    "RealServer",
    "Selection",
    "Service",
    "Stats",
    "Timeouts",
    "VirtualService",
    "mark_route",
    "mark_rule",
    "real_server",
    "selection",
    "virtual_service",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pylvs' has no attribute '{name}'")
    from importlib import import_module

    modules = {"Director": "director", "LVSError": "errors", "Selection": "selections", "selection": "selections"}
    modules |= {"mark_rule": "marks", "mark_route": "marks"}
    module = modules.get(name, "model")
    return getattr(import_module(f"pylvs.{module}"), name)
