"""The peers: ways to get a client's connection to a real server. Each is set up in the director of a lab of its own.

What is fair:
- each peer has its own director namespace, so that connection tracking, TC programs and proxies burden nobody else;
- proxies may use every CPU, as they do by default, and keep no logs;
- everything else (client, nginx, addresses, wires) is the same.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pylvs.lab import Lab, LabError
from pylvs.lab.lab import console_script
from pylvs.lab.servers import IPERF3_PORT, program

HTTP_PORT = 80
GUE_PORT = "6080"
PORTS = (HTTP_PORT, IPERF3_PORT)
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

# Sets the peer up on the lab's director and returns the address that the client connects to.
SetUp = Callable[[Lab], str]


def routed(lab: Lab) -> str:
    """No load balancer: the client asks the real server, the director is a plain router."""
    return lab.host("rs1").ipv4


def _rips(lab: Lab) -> list[str]:
    """The real servers' addresses: all are in every peer's service, but plain routing leads to the first."""
    return [server.ipv4 for server in lab.realservers]


def _pylvs(lab: Lab, *method: str) -> str:
    for port in PORTS:
        lab.ipvsadm(["-A", "-t", f"{lab.vip}:{port}", "-s", "wlc"])
        for rip in _rips(lab):
            lab.ipvsadm(["-a", "-t", f"{lab.vip}:{port}", "-r", f"{rip}:{port}", *method])
    return lab.vip


def pylvs_nat(lab: Lab) -> str:
    return _pylvs(lab, "-m")


def pylvs_dr(lab: Lab) -> str:
    return _pylvs(lab, "-g")


def pylvs_tun(lab: Lab, kind: str) -> str:
    """LVS-TUN; the real servers take the tunnel's headers off by `pylvs realserver decap`, on the same CPUs."""
    for server in lab.realservers:
        lab.run(server.name, [*console_script("pylvs"), "realserver", "decap", "--type", kind, "--vip", lab.vip])
    return _pylvs(lab, "-i", "--tun-type", kind, *(("--tun-port", GUE_PORT) if kind == "gue" else ()))


NFT = """
table ip bench {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {vip} tcp dport {{ {ports} }} dnat to numgen inc mod {count} map {{ {rips} }}
    }}
}}
"""


def nft_dnat(lab: Lab) -> str:
    """nftables, with connection tracking; closed connections leave soon, lest the table fill during the run."""
    program("nft")
    rips = _rips(lab)
    numbered = ", ".join(f"{number} : {rip}" for number, rip in enumerate(rips))
    text = NFT.format(vip=lab.vip, count=len(rips), rips=numbered, ports=", ".join(map(str, PORTS)))
    lab.director_run(["nft", "-f", "-"], input=text)
    lab.director_run("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=5")
    return lab.vip


HAPROXY = """
global
    maxconn 8192
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""


def haproxy(lab: Lab) -> str:
    """HAProxy as a TCP proxy, with its default number of threads (one per CPU)."""
    config = lab.directory / "haproxy.cfg"
    listeners = []
    for port in PORTS:
        servers = "".join(f"    server rs{number} {rip}:{port}\n" for number, rip in enumerate(_rips(lab), 1))
        listeners.append(f"listen port{port}\n    bind {lab.vip}:{port}\n    balance roundrobin\n{servers}")
    config.write_text(HAPROXY + "".join(listeners))
    lab.start("director", [program("haproxy"), "-db", "-f", str(config)], "haproxy")
    return lab.vip


NGINX = """
daemon off;
load_module {module};
user root;
worker_processes auto;
worker_rlimit_nofile 65536;
pid {directory}/stream.pid;
error_log {directory}/stream.log;
events {{ worker_connections 16384; }}
stream {{
{servers}}}
"""


def nginx_stream(lab: Lab) -> str:
    """nginx as a TCP proxy, one worker per CPU."""
    if not STREAM_MODULE.exists():
        raise LabError("nginx's stream module is missing; install the Debian package libnginx-mod-stream")
    servers = ""
    for port in PORTS:
        pool = " ".join(f"server {rip}:{port};" for rip in _rips(lab))
        servers += f"    upstream port{port} {{ {pool} }}\n"
        servers += f"    server {{ listen {lab.vip}:{port}; proxy_pass port{port}; }}\n"
    config = lab.directory / "stream.conf"
    config.write_text(NGINX.format(module=STREAM_MODULE, directory=lab.directory, servers=servers))
    argv = [program("nginx"), "-c", str(config), "-e", str(lab.directory / "stream.log")]
    lab.start("director", argv, "nginx-stream")
    return lab.vip


PEERS: dict[str, SetUp] = {
    "routed": routed,
    "nat": pylvs_nat,
    "dr": pylvs_dr,
    "ipip": partial(pylvs_tun, kind="ipip"),
    "gre": partial(pylvs_tun, kind="gre"),
    "gue": partial(pylvs_tun, kind="gue"),
    "nft": nft_dnat,
    "haproxy": haproxy,
    "nginx": nginx_stream,
}
TITLES = {
    "routed": "plain routing",
    "nat": "**pylvs NAT**",
    "dr": "**pylvs DR**",
    "ipip": "**pylvs TUN, ipip**",
    "gre": "**pylvs TUN, gre**",
    "gue": "**pylvs TUN, gue**",
    "nft": "nftables DNAT",
    "haproxy": "HAProxy (TCP)",
    "nginx": "nginx stream",
}
OURS = ("nat", "dr", "ipip", "gre", "gue")
BASE = "routed"
