"""What the packet path makes of a SIP message, beside what the parser makes of it."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylvs.helpers import sip
from support.harness import Harness
from support.packets import UDP
from support.persistent import say, serve, templates
from support.talk import IPV4, Talk

MESSAGES = st.lists(
    st.sampled_from(
        [b"\r\n", b"\n", b"\r", b" ", b"\t", b"Call-ID", b"cAll-id", b"Call-I", b"i", b"in", b":", b"@", b"a1", b"x.y",
         b"-", b";", b"\xe9", b"\0", b"d" * 200, b"INVITE sip:a SIP/2.0\r\n", b"\r\nCall-ID: good@one\r\n"]
    ),
    max_size=24,
).map(b"".join)  # fmt: skip


@given(messages=st.lists(MESSAGES, min_size=1, max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_packet_path_reads_what_the_parser_reads(lvs: Harness, messages: list[bytes]) -> None:
    """pylvs.helpers.sip is held against the kernel's readings."""
    lvs.reset()
    phone = serve(Talk(lvs, IPV4, UDP, port=5060, rport=5060), options="-p 300 --pe sip -o")
    for number, message in enumerate(messages):
        client = f"10.1.1.{number}"
        went = say(phone, b"", client, text=message.replace(b"%s", b"%S"))
        call = sip.call_id(message.replace(b"%s", b"%S"))
        shown = [t.pe_data for t in templates(lvs) if t.caddr == client]
        assert (went == "dropped_not_sip", shown) == (call is None, [] if call is None else [call])
