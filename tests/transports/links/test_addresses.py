"""What is an address, which of them stay on this machine, and where a node may listen."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from handshakes import SECRET
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.errors import SpecError
from understudy.transports.links.addresses import LONGEST, Address, check_dial, check_listen, parse, unix_listener

GOOD = [
    ("tcp://127.0.0.1:7420", Address("tcp", "127.0.0.1", 7420), True),
    ("tcp://127.255.3.4:0", Address("tcp", "127.255.3.4", 0), True),
    ("tcp://localhost:1", Address("tcp", "localhost", 1), True),
    ("tcp://LocalHost:1", Address("tcp", "localhost", 1), True),
    ("tls://[::1]:65535", Address("tls", "::1", 65_535), True),
    ("tls://[0:0::1]:7420", Address("tls", "::1", 7420), True),
    ("tls://desk.example.org:7420", Address("tls", "desk.example.org", 7420), False),
    ("tls://localhost.example.org:1", Address("tls", "localhost.example.org", 1), False),
    ("tls://127.0.0.1.example.org:1", Address("tls", "127.0.0.1.example.org", 1), False),
    ("tls://localhost.:1", Address("tls", "localhost.", 1), False),
    ("tcp://0.0.0.0:7420", Address("tcp", "0.0.0.0", 7420), False),
    ("tcp://[::]:7420", Address("tcp", "::", 7420), False),
    ("tcp://10.0.0.1:7420", Address("tcp", "10.0.0.1", 7420), False),
    ("tcp://128.0.0.1:7420", Address("tcp", "128.0.0.1", 7420), False),
    ("tcp://0x7f.1:7420", Address("tcp", "0x7f.1", 7420), False),
    ("unix:///run/desk.sock", Address("unix", path="/run/desk.sock"), True),
    ("unix:///run/a?b#c@d:1", Address("unix", path="/run/a?b#c@d:1"), True),
]
BAD = [
    ("", "none of tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH"),
    ("127.0.0.1:7420", "none of tcp://"),
    ("http://127.0.0.1:7420", "none of tcp://"),
    ("TCP://127.0.0.1:7420", "none of tcp://"),
    ("tcp://127.0.0.1", "no port; tcp://HOST:PORT with a PORT from 0 to 65535"),
    ("tcp://127.0.0.1:", "no port"),
    ("tcp://127.0.0.1:65536", "no port"),
    ("tcp://127.0.0.1:-1", "no port"),
    ("tcp://127.0.0.1:+1", "no port"),
    ("tcp://127.0.0.1:٣", "no port"),
    ("tcp://127.0.0.1:7420/", "no port"),
    ("tcp://127.0.0.1:7420?tls=0", "no port"),
    ("tcp://:7420", "for every address of this machine say 0.0.0.0 or [::]"),
    ("tcp://::1:7420", "an IPv6 address stands in brackets"),
    ("tcp://[::1:7420", "no name and no IP address"),
    ("tcp://[127.0.0.1]:7420", "'[127.0.0.1]' is no IPv6 address"),
    ("tcp://127.1:7420", "'127.1' is no IPv4 address"),
    ("tcp://2130706433:7420", "'2130706433' is no IPv4 address"),
    ("tcp://127.0.0.01:7420", "'127.0.0.01' is no IPv4 address"),
    ("tcp://a b:7420", "no name and no IP address"),
    ("tcp://-a:7420", "no name and no IP address"),
    ("tcp://a\n:7420", "no name and no IP address"),
    ("unix://run/desk.sock", "the path is not absolute; unix:///PATH has three slashes"),
    ("unix://", "the path is not absolute"),
    ("unix:///", "the path is no name of a file"),
    ("unix:///run/", "the path is no name of a file"),
    ("unix:///run/a\0b", "the path is no name of a file"),
    (f"unix:///{'x' * LONGEST}", f"a path of {LONGEST + 1} bytes; a socket takes {LONGEST} here"),
]


@pytest.mark.parametrize(("text", "address", "local"), GOOD)
def test_an_address_is_read_and_says_whether_it_stays_on_this_machine(text: str, address: Address, local: bool) -> None:
    assert parse(text) == address
    assert address.local is local
    assert parse(str(address)) == address


@pytest.mark.parametrize(("text", "why"), BAD, ids=range(len(BAD)))
def test_what_is_no_address_is_refused_with_the_text_and_the_reason(text: str, why: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse(text)
    assert why in str(raised.value)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    "text", ["tcp://user:hunter2@127.0.0.1:1", "hunter2@127.0.0.1:1", "x://hunter2@a@b", "tcp://hunter2@b"]
)
def test_an_error_does_not_say_the_password_of_an_address(text: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse(text)
    assert "hunter2" not in str(raised.value)
    assert "@" in str(raised.value)


@given(st.text(), st.sampled_from(["", "tcp://", "tls://", "unix:///", "tcp://[", "tcp://127.0.0.1:"]))
def test_any_text_is_an_address_or_refused_and_never_local_by_chance(text: str, head: str) -> None:
    try:
        found = parse(head + text)
    except SpecError:
        return
    assert parse(str(found)) == found
    if found.local and found.scheme != "unix":
        assert found.host in ("localhost", "::1") or found.host.startswith(("127.", "::1%", "::ffff:"))


@pytest.mark.promise(316)
@pytest.mark.parametrize(
    ("text", "tls", "why"),
    [
        ("tcp://127.0.0.1:0", False, None),
        ("tcp://[::1]:0", False, None),
        ("tcp://localhost:0", False, None),
        ("unix:///run/desk.sock", False, None),
        ("tls://127.0.0.1:0", True, None),
        ("tls://0.0.0.0:0", True, None),
        ("tcp://0.0.0.0:7420", False, "not on this machine, and without TLS everybody on the way reads and changes"),
        ("tcp://[::]:7420", False, "not on this machine"),
        ("tcp://192.168.1.2:7420", False, "not on this machine"),
        ("tcp://desk.example.org:7420", False, "not on this machine"),
        ("tcp://0.0.0.0:7420", True, "not on this machine"),
        ("tls://0.0.0.0:0", False, "no certificate for TLS"),
        ("tcp://127.0.0.1:0", True, "a certificate, and an address without TLS; listen on tls://"),
        ("unix:///run/desk.sock", True, "a certificate, and an address without TLS"),
    ],
)
def test_nobody_listens_beyond_this_machine_without_tls_or_anywhere_without_a_secret(
    text: str, tls: bool, why: str | None
) -> None:
    address = parse(text)
    if why is None:
        check_listen(address, tls, SECRET)
    else:
        with pytest.raises(SpecError) as raised:
            check_listen(address, tls, SECRET)
        assert str(raised.value).startswith(f"listen {text!r}: {why}")
    with pytest.raises(SpecError, match=r"no secret, so no peer could be known; give secret=, set UNDERSTUDY_SECRET"):
        check_listen(address, tls, None)


@pytest.mark.promise(316)
def test_nobody_dials_beyond_this_machine_without_tls_or_without_a_secret() -> None:
    for text in ("tcp://127.0.0.1:7420", "unix:///run/desk.sock", "tls://desk.example.org:7420"):
        check_dial(parse(text), SECRET)
        with pytest.raises(SpecError, match="no secret"):
            check_dial(parse(text), None)
    with pytest.raises(SpecError, match=r"dial 'tcp://10\.0\.0\.1:7420': not on this machine"):
        check_dial(parse("tcp://10.0.0.1:7420"), SECRET)
    with pytest.raises(SpecError, match="port 0"):
        check_dial(parse("tcp://127.0.0.1:0"), SECRET)


@pytest.mark.promise(316)
def test_a_unix_socket_has_mode_0600_from_the_first_moment_anybody_can_connect(tmp_path: Path) -> None:
    path = str(tmp_path / "desk.sock")
    with unix_listener(path) as made, socket.socket(socket.AF_UNIX) as asked:
        assert (tmp_path / "desk.sock").stat().st_mode & 0o777 == 0o600
        with pytest.raises(ConnectionRefusedError):
            asked.connect(path)
        made.listen()
        asked.connect(path)


def test_a_socket_that_nobody_serves_is_replaced_and_one_that_is_served_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "desk.sock")
    unix_listener(path).close()  # as after a kill: the file stays
    with unix_listener(path) as made:
        made.listen(1)
        with pytest.raises(SpecError, match=r"desk\.sock': another process listens there"):
            unix_listener(path)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for each in waiting:  # also when its queue is full
            each.setblocking(False)
            each.connect_ex(path)
        with pytest.raises(SpecError, match="another process listens there"):
            unix_listener(path)
        for each in waiting:
            each.close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "desk.db").write_text("precious")
    with pytest.raises(SpecError, match=r"desk\.db': there is a file, and it is no socket"):
        unix_listener(str(tmp_path / "desk.db"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="it is no socket"):
        unix_listener(str(tmp_path / "link"))
    with pytest.raises(SpecError, match=r"none/desk\.sock': No such file or directory"):
        unix_listener(str(tmp_path / "none" / "desk.sock"))
    assert (tmp_path / "desk.db").read_text() == "precious"
