"""The real servers' services: nginx, dnsmasq, iperf3, each saying which real server it is.

HTTP, on ports 80 and 8080, by IPv4 and IPv6:
    /       the real server's name
    /who    name, address and port of the client as the real server sees it, address and port that it was asked on
    /big    a file of known content
    /slow   the same in a steady trickle: /slow?rate=1m is a mebibyte per second (default 1m)
DNS: whoami.lab is the real server's address (A, AAAA) and its name (TXT). iperf3 runs on demand.
"""

import hashlib
import random
import shutil
from functools import cache
from pathlib import Path

from pylvs.lab.namespaces import LabError
from pylvs.lab.topology import Host

HTTP_PORTS = (80, 8080)
DNS_PORT = 53
IPERF3_PORT = 5201
BIG_SIZE = 4 << 20
PACKAGES = {"nginx": "nginx-light", "vsftpd": "vsftpd", "dnsmasq": "dnsmasq-base", "iperf3": "iperf3"}

NGINX = """\
# One process: the lab ends it by its process id, and no worker can survive it.
daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    keepalive_requests 1000000000;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    map $arg_rate $rate {{ "" 1m; default $arg_rate; }}
    server {{
{listen}
        location = / {{ return 200 "{name}\\n"; }}
        location = /who {{ return 200 "{name} $remote_addr $remote_port $server_addr $server_port\\n"; }}
        location = /big {{ alias {big}; sendfile on; }}
        # Without the small chunks nginx sends each second's worth in one burst.
        location = /slow {{ alias {big}; sendfile on; sendfile_max_chunk 16k; limit_rate $rate; }}
    }}
}}
"""


@cache
def big_content() -> bytes:
    """What /big holds: the same bytes on every real server of every lab."""
    return random.Random("pylvs lab").randbytes(BIG_SIZE)


@cache
def big_sha256() -> str:
    return hashlib.sha256(big_content()).hexdigest()


def write_big(directory: Path) -> Path:
    """Put the big file into the lab's directory, once for all real servers."""
    file = directory / "big"
    if not file.exists():
        file.write_bytes(big_content())
    return file


def program(name: str) -> str:
    """Where a program is, sbin included; a LabError that names its Debian package otherwise."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise LabError(f"{name} is missing; install the Debian package {PACKAGES.get(name, name)}")
    return found


def nginx(host: Host, lab_directory: Path) -> list[str]:
    """Write a real server's nginx configuration and return the command that serves it."""
    directory = lab_directory / host.name
    directory.mkdir(exist_ok=True)
    listen = "\n".join(f"        listen {port};\n        listen [::]:{port};" for port in HTTP_PORTS)
    text = NGINX.format(directory=directory, listen=listen, name=host.name, big=write_big(lab_directory))
    config = directory / "nginx.conf"
    config.write_text(text)
    return [program("nginx"), "-c", str(config), "-p", str(directory), "-e", str(directory / "error.log")]


def dns(host: Host) -> list[str]:
    """The command of a DNS server that knows one name: who it is."""
    return [
        program("dnsmasq"),
        "--no-daemon",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        f"--host-record=whoami.lab,{host.ipv4},{host.ipv6}",
        f"--txt-record=whoami.lab,{host.name}",
    ]


def iperf3(port: int = IPERF3_PORT) -> list[str]:
    return [program("iperf3"), "--server", "--port", str(port)]
