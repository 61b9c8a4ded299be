"""FTP with a real server (vsftpd) and real clients (ftplib, curl), in all its modes.

nat:  client ------------ director --+-- rs1, rs2       -m: the helper reads along, and rewrites
dr:   client -- router --+-- director                   -g: persistence leads data where the control connection is
                         +-- rs1, rs2

active:   PORT, EPRT: the real server opens the connection for data, from the VIP's port 20
passive:  PASV, EPSV: the client opens it, to the VIP's port that the real server names
"""

import re
import sys
from collections.abc import Iterator

import pytest

from pylvs import Director
from pylvs.datapath.layout import REASONS
from pylvs.lab import Lab, LabError
from pylvs.lab.servers import program
from pylvs.selections import Selection
from support.books import books

from .conftest import BOTH_WAYS
from .service import TIMEOUT, Service, endpoint

CONFIG = """\
listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
no_anon_password=YES
write_enable=YES
anon_upload_enable=YES
anon_other_write_enable=YES
anon_umask=022
anon_root={root}
secure_chroot_dir={empty}
connect_from_port_20=YES
pasv_min_port=40000
pasv_max_port=40999
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
ftpd_banner={name}
"""
# Several files on one control connection: up, listed, down again, gone.
SESSION = """
import ftplib, io, random, socket, sys
host, passive, times = sys.argv[1], sys.argv[2] == "passive", int(sys.argv[3])
ftp = ftplib.FTP(timeout=5)
ftp.trust_server_pasv_ipv4_address = True  # or it would not look at what the answer says
welcome = ftp.connect(host, 21)
ftp.login()
ftp.cwd("incoming")
ftp.set_pasv(passive)
for number in range(times):
    content = random.Random(number).randbytes(200_000 + number)
    name = f"{number}-{passive}-{ftp.sock.getsockname()[1]}"
    ftp.storbinary(f"STOR {name}", io.BytesIO(content))
    assert name in ftp.nlst(), name
    back = io.BytesIO()
    ftp.retrbinary(f"RETR {name}", back.write)
    assert back.getvalue() == content, (name, len(back.getvalue()))
    ftp.voidcmd("NOOP")
    ftp.delete(name)
ftp.quit()
print(welcome)
"""
CURL = {
    "PASV": ["--disable-epsv", "--no-ftp-skip-pasv-ip"],
    "EPSV": [],
    "PORT": ["--ftp-port", "-", "--disable-eprt"],
    "EPRT": ["--ftp-port", "-"],
}
TEXT = "what there is to read\n"


def _serve(lab: Lab) -> Lab:
    lab.pylvs(["load", "--conn-tab-bits", "12"])  # the books are read at the end, slot by slot
    for host in lab.realservers[:2]:
        directory = lab.directory / f"{host.name}-ftp"
        root, empty = directory / "root", directory / "empty"
        for one in (directory, root, empty):
            one.mkdir(mode=0o755)
        (root / "text").write_text(TEXT)
        (root / "incoming").mkdir()
        (root / "incoming").chmod(0o777)
        config = directory / "vsftpd.conf"
        config.write_text(CONFIG.format(root=root, empty=empty, name=host.name))
        lab.start(host.name, [program("vsftpd"), str(config)], "vsftpd")
    for host in lab.realservers[:2]:
        lab.wait_for(lambda host=host: lab.can_connect(host.name, host.ipv4, 21), f"vsftpd on {host.name}")
    return lab


def _forget(director: Director) -> None:
    """End all connections; what controls others ends after them."""
    while director.flush_connections(Selection()):
        pass


@pytest.fixture(scope="module")
def nat_with_ftp(nat_lab: Lab) -> Iterator[Lab]:
    """Afterwards the director's books agree, and the helper has been at a loss for nothing."""
    yield _serve(nat_lab)
    with nat_lab.enter("director"), Director() as director:
        assert director.instance is not None
        sums = director.instance.reasons.sums
        assert not sums(REASONS.index("dropped_by_helper"))[0]
        assert not sums(REASONS.index("dropped_wrong_checksum"))[0]
        _forget(director)
        books(director.instance)
        assert not director.instance.ftp_talks.keys()


@pytest.fixture(scope="module")
def dr_with_ftp(dr_lab: Lab) -> Lab:
    return _serve(dr_lab)


@pytest.fixture
def service(nat_with_ftp: Lab, nat: Lab, ipv6: bool) -> Service:
    with nat.enter("director"), Director() as director:
        _forget(director)
    return Service(nat, "-m", ipv6=ipv6, port=21).add("rs1", "rs2")


def session(service: Service, mode: str, times: int = 3) -> str:
    """The name of the real server with which a client has spent a session."""
    done = service.lab.run("client", [sys.executable, "-c", SESSION, service.vip, mode, str(times)])
    return done.stdout.split()[1]


@BOTH_WAYS
@pytest.mark.parametrize("mode", ["active", "passive"])
def test_a_session(service: Service, mode: str) -> None:
    """Both real servers in turn; each file is a connection of its own, and none counts as one of the service."""
    assert {session(service, mode) for _ in range(2)} == {"rs1", "rs2"}
    assert [traffic.conns for traffic in service.traffic().values()] == [1, 1]
    ports = {row.split()[4].rpartition(":")[2] for row in service.lab.ipvsadm("-Lnc").stdout.splitlines()[2:]}
    data = ports - {"21"}
    assert data == {"20"} if mode == "active" else data and all(40000 <= int(port) <= 40999 for port in data)


@BOTH_WAYS
def test_every_mode(service: Service) -> None:
    """A client that takes the real servers by their word. Over IPv6 there are EPSV and EPRT alone."""
    for mode in ("EPSV", "EPRT") if service.ipv6 else CURL:
        words = ["curl", "-v", "-sS", "-m", TIMEOUT, *CURL[mode], f"ftp://{endpoint(service.vip, 21)}/text"]
        done = service.lab.run("client", words)
        assert done.stdout == TEXT
        assert f"> {mode}" in done.stderr


STATEFUL = """
table inet filter {
    ct helper ftp-standard { type "ftp" protocol tcp; }
    chain prerouting {
        type filter hook prerouting priority filter
        tcp dport 21 ct helper set "ftp-standard"
    }
    chain forward {
        type filter hook forward priority 10; policy drop
        ct state established accept
        ct state related ct helper "ftp" counter accept
        ct state new tcp dport 21 accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"""


@pytest.mark.parametrize("by_stack", [True], ids=["conntrack"], indirect=True)
def test_connection_tracking_reads_along_too(service: Service) -> None:
    """Its own FTP helper hears what client and real server say, and knows the connections for data for related ones."""
    try:
        service.lab.run("director", ["nft", "-f", "-"], input=STATEFUL)
    except LabError as error:
        pytest.skip(f"connection tracking of this kernel has no FTP helper: {error}")
    try:
        for mode in ("active", "passive"):
            assert session(service, mode, 1) in ("rs1", "rs2")
        rules = service.lab.run("director", "nft list table inet filter").stdout
        [related] = re.findall(r"counter packets (\d+)", rules)
        assert int(related) == 6, "each of six connections for data"
    finally:
        service.lab.run("director", "nft delete table inet filter")


def test_without_the_helper_data_finds_no_way(service: Service) -> None:
    """What all this is for."""
    service.lab.pylvs(["ftp-ports", "none"])
    try:
        assert service.lab.pylvs(["ftp-ports"]).stdout == "none\n"
        words = ["curl", "-sS", "--connect-timeout", "1", *CURL["EPSV"], f"ftp://{endpoint(service.vip, 21)}/text"]
        assert service.lab.run("client", words, check=False).returncode != 0
    finally:
        service.lab.pylvs(["ftp-ports", "default"])
    assert service.lab.run("client", words).stdout == TEXT


# ---- LVS-DR ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["port 21", "port 0", "mark"])
def direct(request: pytest.FixtureRequest, dr_with_ftp: Lab, dr: Lab, ipv6: bool) -> Iterator[Service]:
    service = Service(dr, "-g", ipv6=ipv6, port=0 if request.param == "port 0" else 21)
    key = ["-t", service.address]
    if request.param == "mark":
        dr.pylvs(["mark", "add", "--dst", service.vip, "--proto", "tcp", "--dport", "20:21,40000:40999", "--mark", "7"])
        key = ["-f", "7", *(["-6"] if ipv6 else [])]
    dr.ipvsadm(["-A", *key, "-s", "rr", "-p", "60"])
    for name in ("rs1", "rs2"):
        dr.ipvsadm(["-a", *key, "-r", service.server(name) if request.param != "mark" else
                    endpoint(service.rip(name), 0) if not ipv6 else f"[{service.rip(name)}]:0", "-g"])  # fmt: skip
    yield service
    with dr.enter("director"), Director() as director:
        _forget(director)
    if request.param == "mark":
        dr.pylvs(["mark", "flush"])


def test_direct_routing_with_persistence(direct: Service) -> None:
    """Nobody reads along: a client's connections all go to one real server."""
    assert len({session(direct, mode, times=1) for mode in ("active", "passive")}) == 1
