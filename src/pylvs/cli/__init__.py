"""The `pylvs` command: everything beside what `ipvsadm` does."""

import sys
from importlib import import_module

from pylvs.errors import LVSError

# command -> the module of pylvs.cli that has main(argv)
COMMANDS = {
    "status": ("status", "the director: where it is attached, how full its table is; --drops: every packet's reason"),
    "conns": ("conns", "connections: listed, counted, chosen by service, real server, client or state; ended"),
    "mark": ("mark", "firewall marks: which packets get which, for services made with ipvsadm -f"),
    "timeouts": ("timeouts", "how long a connection lives in each state without a packet: shown, set"),
    "ftp-ports": ("ftpports", "the ports on which the FTP helper reads along: shown, set"),
    "sysctl": ("sysctl", "net.ipv4.vs: what sysctl(8) does for the kernel's; --explain says what they mean"),
    "proc": ("proc", "the kernel's /proc/net/ip_vs files, printed or mounted"),
    "load": ("instance", "load the packet path, or put this version's programs in the place of those that run"),
    "unload": ("instance", "remove the packet path with all services and connections"),
    "attach": ("attach", "put the packet path on an interface, on all, or on those that will come"),
    "detach": ("instance", "take it off an interface"),
    "prune": ("instance", "remove what is left of network namespaces that are gone"),
    "install-alternative": ("alternative", "our ipvsadm in the place of the system's, and back"),
    "realserver": ("realserver", "on a real server: unwrap LVS-TUN's packets, and see what the host still needs"),
    "lab": ("lab", "clusters in network namespaces, to try things out"),
    "demo": ("demo", "a minute's tour: two clusters, real connections, what ipvsadm shows"),
}
INTERNAL_ERROR = 70


def usage() -> str:
    lines = [
        "usage: pylvs COMMAND [ARGUMENT...]",
        "",
        "The Linux Virtual Server with its packet path in eBPF. Services and real servers are",
        "configured with ipvsadm; pylvs is for the rest:",
        "",
    ]
    lines += [f"  {name:<19} {what}" for name, (_, what) in COMMANDS.items()]
    lines += ["", "pylvs COMMAND --help tells more. All of them act on the network namespace they run in.", ""]
    return "\n".join(lines)


def main() -> int:
    """The console script. Returns the exit code: 0, 1 for a refusal, 2 for a wrong command line."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) < 2:
            print(usage(), end="")
            return 0 if arguments else 2
        arguments = [*arguments[1:], "--help"]  # pylvs help COMMAND
    if arguments[0] in ("-V", "--version"):
        import pylvs

        print(f"pylvs {pylvs.__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        from difflib import get_close_matches

        close = get_close_matches(arguments[0], COMMANDS, 1)
        right = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        print(f"pylvs: there is no command '{arguments[0]}'; {right}", file=sys.stderr)
        return 2
    try:
        module = COMMANDS[arguments[0]][0]
        # pylvs.cli.instance serves several commands: it needs the word itself
        result: int = import_module(f"pylvs.cli.{module}").main(arguments[module != "instance" :])
        sys.stdout.flush()
        return result
    except LVSError as error:
        print(f"pylvs: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except PermissionError as error:
        print(f"pylvs: {error.filename or arguments[0]}: permission denied; pylvs needs root", file=sys.stderr)
        return 1
    except Exception as error:
        print(
            f"pylvs: internal error: {type(error).__name__}: {error}; please report it with the command line",
            file=sys.stderr,
        )
        return INTERNAL_ERROR
