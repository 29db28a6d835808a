"""Real TLS on loopback: who is believed, by a CA, a pin or the signed transcript, and who is not."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from certificates import Files, made, on_a_loop, over_tls
from cryptography.hazmat.primitives import serialization
from handshakes import OTHER, SECRET, A, B

from understudy.actors.errors import SpecError
from understudy.transports.links.certificates import client_context, digest_of, parse_pin, seen_digest, server_context
from understudy.transports.links.handshake import Dialer, Frames, Listener
from understudy.transports.links.keys import LinkSecret

Side = Dialer | Listener


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def desk(tmp_path: Path, ca: trustme.CA) -> Files:
    return made(tmp_path, "desk", ca)


@pytest.fixture
def mallory(tmp_path: Path) -> Files:
    return made(tmp_path, "mallory")


async def exchange(side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Drive a machine over a stream until it has ended: kind and length, then the body."""

    def send(frames: Frames) -> None:
        for kind, body in frames:
            writer.write(struct.pack(">BI", kind, len(body)) + body)

    send(side.start())
    while side.peer is None and side.refusal is None:
        kind, size = struct.unpack(">BI", await reader.readexactly(5))
        send(side.receive(kind, await reader.readexactly(size)))
    await writer.drain()


async def linked(
    server: ssl.SSLContext, client: ssl.SSLContext, own: bytes, secret: LinkSecret = SECRET
) -> tuple[Dialer, Listener]:
    """The handshake of a link over TLS: the dialer takes the certificate that it sees."""
    listener = Listener(SECRET, B, "tls", own)
    dialers: list[Dialer] = []

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await exchange(listener, reader, writer)

    async def dials(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialers.append(Dialer(secret, A, "tls", seen_digest(writer.get_extra_info("ssl_object"))))
        await exchange(dialers[0], reader, writer)

    await over_tls(server, client, listens, dials)
    return dialers[0], listener


@pytest.mark.promise(312)
@pytest.mark.parametrize("way", ["ca", "pin", "neither", "both", "mutual"])
@on_a_loop
async def test_two_nodes_meet_over_tls(way: str, desk: Files, tmp_path: Path, ca: trustme.CA) -> None:
    own = digest_of(desk.cert)
    mine = made(tmp_path, "mine", ca)
    server = server_context(desk.cert, desk.key, ca=desk.ca if way == "mutual" else None)
    client = client_context(
        ca=desk.ca if way in ("ca", "both", "mutual") else None,
        pin=own.hex() if way in ("pin", "both") else None,
        cert=mine.cert if way == "mutual" else None,
        key=mine.key if way == "mutual" else None,
    )
    dialer, listener = await linked(server, client, own)
    assert dialer.peer is not None
    assert listener.peer is not None
    assert (dialer.peer.name, listener.peer.name) == ("b", "a")


@pytest.mark.promise(312)
@on_a_loop
async def test_who_does_not_know_the_secret_is_refused_over_tls_too(desk: Files) -> None:
    server, client = server_context(desk.cert, desk.key), client_context(ca=desk.ca)
    dialer, listener = await linked(server, client, digest_of(desk.cert), OTHER)
    assert dialer.refusal is not None
    assert listener.refusal is not None
    assert dialer.refusal.reason == listener.refusal.reason == "secret"


@pytest.mark.promise(312)
@on_a_loop
async def test_who_stands_between_with_a_certificate_of_its_own_ends_the_link(desk: Files, mallory: Files) -> None:
    """Mallory passes every frame on, between two TLS connections: dialer to mallory, mallory to listener."""
    listener = Listener(SECRET, B, "tls", digest_of(desk.cert))

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await exchange(listener, reader, writer)

    async def passes(dialer: asyncio.StreamReader, to_dialer: asyncio.StreamWriter) -> None:
        async def dials(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.gather(piped(dialer, writer), piped(reader, to_dialer))

        await over_tls(server_context(desk.cert, desk.key), client_context(), listens, dials)

    dialers: list[Dialer] = []

    async def dials(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialers.append(Dialer(SECRET, A, "tls", seen_digest(writer.get_extra_info("ssl_object"))))
        await exchange(dialers[0], reader, writer)

    await over_tls(server_context(mallory.cert, mallory.key), client_context(), passes, dials)
    assert dialers[0].peer is None
    assert listener.peer is None
    assert dialers[0].refusal is not None
    assert dialers[0].refusal.reason == "certificate"
    assert digest_of(mallory.cert).hex() in dialers[0].refusal.text


async def piped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    raise AssertionError("the TLS handshake should have failed")


@pytest.mark.promise(312)
@on_a_loop
async def test_a_foreign_certificate_is_refused_by_ca_and_by_pin(desk: Files, mallory: Files) -> None:
    server, pin = server_context(mallory.cert, mallory.key), digest_of(desk.cert)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self.signed"):
        await over_tls(server, client_context(ca=desk.ca), nothing, never)
    for client in (client_context(pin=pin), client_context(ca=mallory.ca, pin=pin)):
        with pytest.raises(ssl.SSLCertVerificationError) as raised:
            await over_tls(server, client, nothing, never)
        assert f"the certificate is {digest_of(mallory.cert).hex()}; the pin is {pin.hex()}" in str(raised.value)


@on_a_loop
async def test_a_certificate_for_another_host_is_refused_by_ca(tmp_path: Path, ca: trustme.CA) -> None:
    other = made(tmp_path, "other", ca, host="127.0.0.2")
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        await over_tls(server_context(other.cert, other.key), client_context(ca=other.ca), nothing, never)


@pytest.mark.promise(312)
@pytest.mark.parametrize("shows", ["none", "foreign"])
@on_a_loop
async def test_with_a_ca_a_dialer_without_a_certificate_of_it_is_refused(
    shows: str, desk: Files, mallory: Files
) -> None:
    server = server_context(desk.cert, desk.key, ca=desk.ca)
    shown = (mallory.cert, mallory.key) if shows == "foreign" else (None, None)
    listener = Listener(SECRET, B, "tls", digest_of(desk.cert))

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await exchange(listener, reader, writer)

    async def dials(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await exchange(Dialer(SECRET, A, "tls", digest_of(desk.cert)), reader, writer)

    client = client_context(desk.ca, None, *shown)
    # With TLS 1.3 a dialer hears that its certificate is refused when it first reads; how depends on who is first.
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await over_tls(server, client, listens, dials)
    assert listener.peer is None
    assert listener.refusal is None  # it was not even asked


@pytest.mark.parametrize("old", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.promise(312)
def test_old_tls_is_not_spoken(old: ssl.TLSVersion, desk: Files) -> None:
    for dialer_is_old in (True, False):
        server, client = server_context(desk.cert, desk.key), client_context(ca=desk.ca)
        aged = client if dialer_is_old else server
        aged.minimum_version, aged.maximum_version = old, old
        aged.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"):
            in_memory(server, client)
    assert in_memory(server_context(desk.cert, desk.key), client_context(ca=desk.ca)) == "TLSv1.3"


def in_memory(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """Both sides of a TLS handshake without a socket; the version they speak. Raises what the first to fail does."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
            if not ends:
                return end.version()
    raise AssertionError("the handshake does not end")


@pytest.mark.promise(312)
def test_a_pin_holds_on_sockets_too(desk: Files, mallory: Files) -> None:
    pin = digest_of(desk.cert)
    for files, good in ((desk, True), (mallory, False)):
        ours, theirs = socket.socketpair()
        server = server_context(files.cert, files.key)
        ended = threading.Thread(target=answered, args=(server, theirs))
        ended.start()
        client = client_context(pin=pin.hex(":"))
        try:
            if good:
                with client.wrap_socket(ours) as seen:
                    assert seen_digest(seen) == pin
            else:
                with pytest.raises(ssl.SSLCertVerificationError, match="the pin is"):
                    client.wrap_socket(ours)
        finally:
            ours.close()
            ended.join(60)


def answered(server: ssl.SSLContext, connection: socket.socket) -> None:
    try:
        with server.wrap_socket(connection, server_side=True) as made_safe:
            made_safe.recv(1)
    except OSError:
        pass
    finally:
        connection.close()


def test_the_digest_of_a_file_is_that_of_its_first_certificate(tmp_path: Path, desk: Files, mallory: Files) -> None:
    whole = tmp_path / "whole.pem"
    whole.write_bytes(desk.key.read_bytes() + desk.cert.read_bytes() + mallory.cert.read_bytes())
    der = ssl.PEM_cert_to_DER_cert(desk.cert.read_text())
    assert digest_of(whole) == digest_of(desk.cert) == hashlib.sha256(der).digest()
    server_context(whole, whole)


def test_what_cannot_be_used_is_refused_with_the_file(tmp_path: Path, desk: Files, mallory: Files) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(with_password(desk.key.read_bytes()))
    none = tmp_path / "none.pem"
    wrongs: list[tuple[Callable[[], object], str]] = [
        (lambda: server_context(none, desk.key), "none.pem' with key .*: No such file"),
        (lambda: server_context(desk.cert, mallory.key), "mallory-key.pem'"),
        (lambda: server_context(empty, desk.key), "empty.pem'"),
        (lambda: server_context(desk.cert, locked), "locked.pem': the key has a password; give one without"),
        (lambda: server_context(desk.cert, desk.key, ca=empty), "ca '.*empty.pem'"),
        (lambda: client_context(ca=none), "ca '.*none.pem'"),
        (lambda: client_context(key=desk.key), "without a certificate"),
        (lambda: client_context(pin="ab"), "pin 'ab': not SHA-256"),
        (lambda: client_context(pin=b"short"), "not SHA-256"),
        (lambda: parse_pin("g" * 64), "not SHA-256"),
        (lambda: digest_of(empty), "no PEM certificate in it"),
        (lambda: digest_of(none), "No such file"),
    ]
    for wrong, name in wrongs:
        with pytest.raises(SpecError, match=name):
            wrong()


def with_password(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    )
