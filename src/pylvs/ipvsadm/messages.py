"""The words of ipvsadm: how it ends, and what it says when the director refuses.

A command line ends in one of three ways. It succeeds; it is refused (`Refused`:
said on stderr, exit code 255, and a restore goes on with its next line); or it
ends the whole program (`Exit`), which is what ipvsadm does about its own checks,
in the middle of a restore too.
"""

from errno import EEXIST, EINVAL, ENOENT, ENOMEM, ENOPROTOOPT, EPERM, ESRCH

from pylvs.errors import DatapathError, LVSError, NotSupported, TableFull

OK, NOT_LISTED, MISUSE, REFUSED = 0, 1, 2, 255

TRY_HELP = "Try `ipvsadm -h' or 'ipvsadm --help' for more information."
NO_SERVICE = "No such service"

# What the same error number means, told apart by the command it answers.
_BY_COMMAND = {
    ("add-service", EEXIST): "Service already exists",
    ("add-service", ENOENT): "Scheduler or persistence engine not found",
    ("edit-service", ESRCH): NO_SERVICE,
    ("edit-service", ENOENT): "Scheduler or persistence engine not found",
    ("delete-service", ESRCH): NO_SERVICE,
    ("zero", ESRCH): NO_SERVICE,
    ("list", ESRCH): NO_SERVICE,
    ("add-server", ESRCH): "Service not defined",
    ("add-server", EEXIST): "Destination already exists",
    ("edit-server", ESRCH): "Service not defined",
    ("edit-server", ENOENT): "No such destination",
    ("delete-server", ESRCH): "Service not defined",
    ("delete-server", ENOENT): "No such destination",
    ("start-daemon", EEXIST): "Daemon has already run",
    ("stop-daemon", ESRCH): "No daemon is running",
}
_ALWAYS = {
    EPERM: "Permission denied (you must be root)",
    EINVAL: "Invalid operation.  Possibly wrong module version, address not unicast, ...",
    ENOPROTOOPT: "Protocol not available",
    ENOMEM: "Memory allocation problem",
}


class Exit(Exception):
    """Ends the program, whatever else was to be done.

    Attributes:
        reason: what the director says about it; "" if it was not asked.
    """

    def __init__(self, code: int, error: str = "", output: str = "", reason: str = ""):
        super().__init__(error)
        self.code = code
        self.error = error
        self.output = output
        self.reason = reason


class Refused(Exception):
    """This command line was refused; the lines after it in a restore are not."""

    def __init__(self, error: str, reason: str = ""):
        super().__init__(error)
        self.error = error
        self.reason = reason


def misuse(text: str) -> Exit:
    """ipvsadm's own refusal of a command line."""
    return Exit(MISUSE, text)


def try_help() -> Exit:
    """The command line does not begin with a command."""
    return Exit(REFUSED, TRY_HELP)


def refusal(command: str, error: LVSError) -> str:
    """The words for what the director refused.

    Kernel IPVS can only answer a number, and scripts know the words for it. Where there is no such tradition (limits
    and gaps of our own), the error speaks for itself.
    """
    if isinstance(error, NotSupported | TableFull | DatapathError):
        return f"ipvsadm: {error}"
    number = error.errno
    text = _BY_COMMAND.get((command, number)) or _ALWAYS.get(number)
    if text is None:
        from os import strerror

        text = strerror(number)
    return text


def cannot_initialize(error: LVSError) -> str:
    """Nothing can be done at all, said before anything else is looked at."""
    if error.errno == EPERM:
        return (
            f"Can't initialize ipvs: {_ALWAYS[EPERM]}\n"
            "Are you sure that IP Virtual Server is built in the kernel or as module?"
        )
    return f"Can't initialize ipvs: {error}"
