"""Numbers for new services and real servers: their places in the shared arrays."""

from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.errors import TableFull


def free_service(instance: Instance, hint: int) -> int:
    """A number that no service has; looking begins at `hint`.

    Raises:
        TableFull
    """
    return _free(instance, "services", _layout.SERVICE_USED, hint, "services", "--max-services")


def free_dest(instance: Instance, hint: int) -> int:
    """The same for a real server.

    Raises:
        TableFull
    """
    return _free(instance, "dests", _layout.DEST_USED, hint, "real servers", "--max-dests")


def _free(instance: Instance, table: str, used: int, hint: int, what: str, option: str) -> int:
    records, high = getattr(instance, table), int(instance.config.get(0, f"{table}_high"))
    if high < records.entries:
        return high
    for number in (*range(hint, records.entries), *range(hint)):
        if not records.get(number, "flags") & used:
            return int(number)
    raise TableFull(f"there is room for {records.entries} {what}; load with more: pylvs unload; pylvs load {option} N")
