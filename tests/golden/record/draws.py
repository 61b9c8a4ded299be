"""Command lines drawn at random, for the original to answer: each in one of the many ways to write it.

`cases(seed, count)` gives the same cases for the same seed. What no two runs agree on is not drawn: the order of
services with --nosort, in which the kernel's own hash shows, and rates.
"""

import random
import shlex
from collections.abc import Callable, Iterable
from typing import Any

LONG = {
    "A": "--add-service", "E": "--edit-service", "D": "--delete-service", "C": "--clear", "a": "--add-server",
    "e": "--edit-server", "d": "--delete-server", "L": "--list", "Z": "--zero", "S": "--save", "R": "--restore",
    "t": "--tcp-service", "u": "--udp-service", "f": "--fwmark-service", "s": "--scheduler", "p": "--persistent",
    "M": "--netmask", "r": "--real-server", "m": "--masquerading", "i": "--ipip", "g": "--gatewaying",
    "w": "--weight", "x": "--u-threshold", "y": "--l-threshold", "n": "--numeric", "c": "--connection",
    "X": "--exact", "6": "--ipv6", "o": "--ops", "b": "--sched-flags", "h": "--help", "v": "--version",
}  # fmt: skip
NUMBERS = (
    *("0", "1", "2", "7", "10", "60", "255", "256", "300", "65507", "65508", "65535", "65536", "2147483", "2147484"),
    *("2678400", "2678401", "2147483646", "2147483647", "2147483648", "4294967295", "4294967296", "99999999"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616", "9" * 100),
    *("-0", "-1", "-5", "+5", "+0", "007", "010", "08", "0x10", " 7", "\t7", "7 ", "", "x", "1x", "1.5", "1e3"),
    *("--5", "+-5", "+ 5", "5,6", "\udcff", "５", "-2147483648", "-2147483649", "-4294967295", "-9223372036854775809"),
    *("1" + "0" * 40, "-" + "9" * 100, "0" * 50 + "9", "\v5", "\xa05"),
)
IPV4 = (
    *("10.0.0.1", "10.0.0.2", "192.168.10.1", "192.168.10.2", "10.2.0.1", "10.2.0.2", "127.0.0.1", "200.1.2.3"),
    *("vip1", "vip2", "rs1", "rs2", "rs1.example.test", "VIP1", "Vip1.Example.TEST", "vip1.", "localhost", "guest"),
    *("10.1", "10.1.2", "167772161", "0x0a000001", "012.0.0.1", "0xa.0.0.0x1", "10.0.0.1 ", " 10.0.0.1", "10.0.0.1\t"),
    *("0", "0.0.0.0", "255.255.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "256.0.0.1", "10.0.0", "10.0.0."),
    *("10.0.0.1.", "10..0.1", "10.0.0.1x", "10.0.0.1 x", "4294967295", "4294967296", "1.2.3.4.5", "", "x", "-", "."),
    *("no-such-host", "\udcfe.test", "é", "a" * 64, "a" * 300, "*", "localhost.", "10.0.0.08", "10.0.0.1/24", "::ffff"),
)
IPV6 = (
    *("2001:db8::80", "2001:db8::a1", "2001:DB8::A1", "2001:db8:0:0:0:0:0:1", "2001:0db8::0001", "::1", "::"),
    *("fe80::1", "ff02::1", "fd00::1", "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::1.2.3.4", "2001:db8::1%lo"),
    *("2001:db8:1:2:3:4:5:6", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "2001:db8::g", ":::", "1:2:3", "::1::2"),
    *("vip6.example.test", "rs6.example.test", "10.0.0.1", "vip1", "", "2001:db8::1/64", "ip6-localhost"),
)
PORTS = (
    *("80", "80", "80", "443", "8080", "53", "0", "1", "65535", "65536", "-1", "+80", " 80", "80 ", "080", "0x50"),
    *(
        "http",
        "https",
        "domain",
        "HTTP",
        "http ",
        "ssh",
        "no-such",
        "",
        "9" * 100,
        "80:90",
        "*",
        "\udcff",
        "4294967376",
    ),
)
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh")
FLAGS = (
    *("sh-port", "sh-fallback", "sh-fallback,sh-port", "sh-port,sh-port", "mh-port", "mh-fallback,mh-port", "flag-1"),
    *("flag-2", "flag-3", "flag-3,flag-1", "flag-1,flag-2,flag-3", "sh-port,flag-2", "flag-4", "", ",", ",,flag-1,"),
    *("sh-port,mh-port", "SH-PORT", " sh-port", "sh-port ", "sh-port, sh-fallback", "x", "flag-1,x", "0", "flag-"),
)
MASKS = (
    *("255.255.255.255", "255.255.255.0", "255.255.0.0", "255.0.255.0", "0.0.0.0", "0", "24", "32", "255.255.255.256"),
    *("128", "127", "64", "1", "129", "-1", "0x40", "64x", "x", "", "vip1", "0xffffff00", "4294901760", "ffff::", "::"),
    *("9" * 30, "4294967297", "4294967360", " 64", "+64"),
)
TYPES = ("ipip", "gue", "gre", "IPIP", "vxlan", "", "gu", "ipip ")
GROUPS = (
    "224.0.0.81",
    "239.1.2.3",
    "240.0.0.1",
    "10.0.0.1",
    "ff02::1",
    "ff0e::81",
    "FF02::0:1",
    "fe80::1",
    "[ff02::1]",
)
GROUPS += ("", "x", "vip1", "224.0.0", "224.1", "ff02::1%lo", "::", "223.255.255.255", "ff02::224.0.0.1", "ff02:1")
WORDS = (
    "-",
    "--",
    "---",
    "x",
    "",
    "ipvsadm",
    "-t",
    "--",
    "rr",
    "-q",
    "--nothing",
    "-Lnz",
    "\udce4\udcf6",
    "ü",
    "=",
    "-=",
)

# A table for commands to meet; restored before each case.
TABLE = """\
-A -t 10.0.0.1:80 -s wlc
-a -t 10.0.0.1:80 -r 192.168.10.1:80 -m -w 1
-a -t 10.0.0.1:80 -r 192.168.10.2:8080 -m -w 2147483647
-a -t 10.0.0.1:80 -r 10.2.0.1 -g -w 0
-A -u 10.0.0.2:53 -s sh -b sh-port,sh-fallback -o
-a -u 10.0.0.2:53 -r 127.0.0.1 -g -w 3 -x 100 -y 50
-A -t 10.0.0.1:0 -p 60 -M 255.255.0.0 -s rr
-A --sctp-service 10.0.0.1:80 -s mh -b mh-port
-A -t [2001:db8::80]:80 -s rr -p 7200 -M 64
-a -t [2001:db8::80]:80 -r [2001:db8::a1]:80 -m -w 5
-A -f 7 -s wrr -p --pe sip
-a -f 7 -r 192.168.10.1 -i --tun-type gue --tun-port 6080 --tun-csum
-a -f 7 -r 192.168.10.1:81 -i
-A -f 7 -6 -s lc
-a -f 7 -6 -r [2001:db8::a1]:443 -i --tun-type gre
-A -u 10.0.0.1:5060 -s rr -p 10 --pe sip -b flag-2
"""


class Draw:
    """One source of chance; every method gives words."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self.pick = self._random.choice

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def some(self, things: Iterable[Any], most: int) -> list[Any]:
        things = list(things)
        return self._random.sample(things, min(self._random.randint(0, most), len(things)))

    def spell(self, letter: str, value: str | None = None) -> list[str]:
        """An option by its letter or its long name, with its value in one of the ways to give it."""
        long = letter if letter.startswith("--") else LONG[letter]
        if letter.startswith("--") or self.chance(0.35):
            if self.chance(0.02):
                long = self.pick([long[:-1], long.upper(), long + "x", long[1:]])
            if value is None:
                return [long + "=" if self.chance(0.01) else long]
            return [f"{long}={value}"] if self.chance(0.4) else [long, value]
        if value is None:
            return ["-" + letter]
        return self.pick([["-" + letter, value]] * 6 + [["-" + letter + value], [f"-{letter}={value}"]])

    def number(self) -> str:
        return str(self._random.randint(1, 1000)) if self.chance(0.5) else self.pick(NUMBERS)

    def port(self) -> str:
        return self.pick(["", ":80", ":80", ":80", ":8080", ":" + self.pick(PORTS), ":" + self.pick(PORTS)])

    def endpoint(self) -> str:
        if self.chance(0.5):
            return self.pick(["10.0.0.1:80", "10.0.0.2:53", "10.0.0.1:0", "192.168.10.1:80", "[2001:db8::80]:80"])
        if self.chance(0.65):
            return self.pick(IPV4) + self.port()
        address = self.pick(IPV6)
        return address if self.chance(0.2) else self.pick([f"[{address}]", f"[{address}]", f"[{address}"]) + self.port()

    def service(self) -> list[str]:
        kind = self.pick(["t", "t", "t", "u", "--sctp-service", "f", "f"])
        if kind != "f":
            return self.spell(kind, self.endpoint())
        words = self.spell("f", "7" if self.chance(0.6) else self.number())
        return words + (self.spell("6") if self.chance(0.4) else [])

    def service_option(self) -> list[str]:
        return self.pick(
            [
                lambda: self.spell("s", self.pick([*SCHEDULERS, *SCHEDULERS, "none", "", "RR", "a" * 20, "r", "twos"])),
                lambda: self.persistent(),
                lambda: self.spell("M", self.pick(MASKS)),
                lambda: self.spell("o"),
                lambda: self.spell("--pe", self.pick(["sip", "sip", "sip", "", "SIP", "x", "s" * 20])),
                lambda: self.spell("b", self.pick(FLAGS)),
            ]
        )()

    def persistent(self) -> list[str]:
        number = self.number()
        return self.pick(
            [["-p"], ["-p", number], ["-p" + number], ["--persistent=" + number], ["--persistent", number]]
        )

    def server_option(self) -> list[str]:
        return self.pick(
            [
                lambda: self.spell(self.pick("gim")),
                lambda: self.spell(self.pick("gim")),
                lambda: self.spell("w", self.number()),
                lambda: self.spell(self.pick("xy"), self.number()),
                lambda: self.spell("--tun-type", self.pick(TYPES)),
                lambda: self.spell("--tun-port", self.number()),
                lambda: self.spell(self.pick(["--tun-csum", "--tun-nocsum", "--tun-remcsum"])),
            ]
        )()

    def tunnel(self) -> list[str]:
        words = self.spell("i") + self.spell("--tun-type", self.pick(TYPES[:3]))
        words += self.pick([[], self.spell("--tun-port", self.number())])
        return words + self.pick([[], self.spell(self.pick(["--tun-csum", "--tun-nocsum", "--tun-remcsum"]))])

    def list_option(self) -> list[str]:
        flag = self.pick([*"nncX", "--stats", "--thresholds", "--persistent-conn", "--tun-info", "--sort", "--timeout"])
        if self.chance(0.1):
            flag = self.pick(["--daemon", "--syncid"])
        return self.spell(flag, self.number()) if flag == "--syncid" else self.spell(flag)

    def daemon_option(self) -> list[str]:
        return self.pick(
            [
                lambda: self.spell("--mcast-interface", self.pick(["lo", "lo", "lo", "eth9", "", "l" * 20, "lo\t"])),
                lambda: self.spell("--mcast-group", self.pick(GROUPS)),
                lambda: self.spell(
                    self.pick(["--syncid", "--sync-maxlen", "--mcast-port", "--mcast-ttl"]), self.number()
                ),
            ]
        )()

    def any_option(self) -> list[str]:
        return self.pick(
            [self.service_option, self.server_option, self.list_option, self.daemon_option, self.service]
        )()

    def several(self, option: Callable[[], list[str]], most: int) -> list[list[str]]:
        return [option() for _ in range(self._random.randint(0, most))]

    def command(self) -> list[str]:
        """The words of one command line."""
        kind = self.pick("AAAAEEDDaaaaaaeeeeddLLLLLLLZSSC*#%?")
        parts: list[list[str]] = []
        if kind in "AE":
            parts = [self.service(), *self.several(self.service_option, 3)]
        elif kind in "ae":
            parts = [self.service(), self.spell("r", self.endpoint()), *self.several(self.server_option, 3)]
            if self.chance(0.25):
                parts = [*parts[:2], self.tunnel()]
        elif kind == "d":
            parts = [self.service(), self.spell("r", self.endpoint())]
        elif kind in "DZ":
            parts = [self.service()] if self.chance(0.9) else []
        elif kind == "L":
            parts = [*self.several(self.list_option, 3), *([self.service()] if self.chance(0.4) else [])]
        elif kind == "S":
            parts = self.pick([[], [], [["-n"]], [["--numeric"]]])
        elif kind == "?":
            parts = self.several(self.any_option, 3)
        if kind in "?*#":
            first = {"*": ["--set"], "#": self.daemon(), "?": [self.pick(["-l", "-h", "-v", "--version", "-C", "-R"])]}[
                kind
            ]
            if kind == "*":
                parts = [[self.number() for _ in range(self.pick([2, 3, 3, 3, 3, 3, 4]))]]
            elif kind == "#":
                parts = self.several(self.daemon_option, 4)
        elif kind == "%":
            first = self.pick([[], self.pick([["-q"], ["-"], ["x"], ["-t", "10.0.0.1:80"], ["--li"], ["-n"]])])
            parts = self.several(self.any_option, 2)
        else:
            first = self.spell(kind)
        if self.chance(0.12):
            parts.append(self.any_option())
        if self.chance(0.06):
            parts.append([self.pick(WORDS)])
        if self.chance(0.04) and parts:
            parts.append(self.pick(parts))
        if self.chance(0.25):
            self._random.shuffle(parts)
        words = [*first, *(word for part in parts for word in part)]
        if self.chance(0.03) and words:
            del words[self._random.randrange(len(words))]
        return self.bundled(words)

    def daemon(self) -> list[str]:
        return self.spell(
            self.pick(["--start-daemon", "--stop-daemon"]), self.pick(["master", "backup", "backup", "x", ""])
        )

    def bundled(self, words: list[str]) -> list[str]:
        """Some single letters become one word, as in -Ln and -At."""
        short = [len(word) == 2 and word[0] == "-" and word[1] not in "-=" for word in words]
        for place in range(len(words) - 1, 0, -1):
            if short[place] and short[place - 1] and self.chance(0.6):
                words[place - 1] += words.pop(place)[1:]
        return words

    def line(self) -> str:
        """A line of a restore."""
        words = self.command()
        while words and words[0] in ("-R", "--restore", "-h", "--help"):
            words = self.command()
        text = "ipvsadm " * self.pick([0, 0, 0, 0, 1, 2]) + self.pick([" ", " ", " ", "\t", "  "]).join(words)
        ends = ["\n"] * 30 + ["\r\n", " \n", "\n\n", " ipvsadm\n", "\n# x\n", "\n \n", "\t\n", "\n\t\r \n"]
        return self.pick(["", "", "", "", " ", "\t"]) + text + self.pick(ends)


def cases(seed: int, count: int, steps: int = 12) -> list[dict[str, Any]]:
    """Cases of `steps` commands each on one table, which is looked at now and then."""
    found = []
    for number in range(seed, seed + count):
        draw = Draw(number)
        played: list[dict[str, Any]] = []
        if number % 4:
            played.append({"cmd": "ipvsadm -R", "stdin": TABLE})
        for step in range(steps):
            if draw.chance(0.2):
                played.append({"cmd": "ipvsadm -R", "stdin": "".join(draw.line() for _ in range(draw.pick([1, 3, 6])))})
            else:
                played.append({"cmd": shlex.join(["ipvsadm", *(word.replace("\0", "") for word in draw.command())])})
            if step % 4 == 3:
                played.append({"cmd": "ipvsadm -S"})
        played += [{"cmd": "ipvsadm -Sn"}, {"cmd": "ipvsadm -Ln --thresholds"}]
        found.append({"id": f"draw-{number}", "steps": played})
    return found
