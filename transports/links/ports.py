"""Where connections are made and taken: the sockets behind an address. `pipes` has those within a process."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from os import PathLike, unlink
from typing import Final, Protocol

from msgspec import Struct

from understudy.transports.links import certificates
from understudy.transports.links.addresses import Address, check_dial, check_listen, unix_listener
from understudy.transports.links.greetings import Mode
from understudy.transports.links.keys import LinkSecret

BACKLOG: Final = 128
TLS_SECONDS: Final = 5.0
"""How long the handshake of TLS may take, which comes before that of the link."""

Factory = Callable[[], asyncio.Protocol]


class Tls(Struct, frozen=True):
    """Files (PEM) of TLS. A listener needs `cert` and `key`; with `ca` both sides must show a certificate of it.

    `pin`: SHA-256 of the one certificate that a dialer takes. A dialer with neither takes any certificate whose holder
    proves to know the secret, for this certificate.
    """

    cert: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    ca: str | PathLike[str] | None = None
    pin: str | bytes | None = None


class Listening(Protocol):
    """Connections are taken somewhere. `address` is where, with the port that was given."""

    address: str

    async def aclose(self) -> None:
        """Take no more; those that are made stay."""
        ...


class Port(Protocol):
    """Where one can listen, or dial. `mode` is that of the handshake."""

    mode: Mode

    def own_digest(self) -> bytes:
        """SHA-256 of the certificate that a listener shows; b"" without TLS."""
        ...

    def seen_digest(self, transport: asyncio.BaseTransport) -> bytes:
        """SHA-256 of the certificate that the other side has shown; b"" without TLS."""
        ...

    async def listen(self, make: Factory) -> Listening:
        """Take connections. Raises `SpecError` or `OSError`."""
        ...

    async def dial(self, make: Factory) -> None:
        """Make one connection. Raises `OSError`."""
        ...


class _Server:
    def __init__(self, server: asyncio.AbstractServer, address: str, path: str = "") -> None:
        self.address = address
        self._server = server
        self._path = path

    async def aclose(self) -> None:
        """See `Listening`."""
        self._server.close()
        if self._path:
            with suppress(OSError):
                unlink(self._path)


class SocketPort:
    """A port of TCP, TLS, or a Unix socket. Raises `SpecError` for what must not be, see `addresses`."""

    def __init__(self, address: Address, secret: LinkSecret, tls: Tls | None, *, listens: bool) -> None:
        self._address = address
        self._context: ssl.SSLContext | None = None
        self._digest = b""
        self.mode: Mode = "tls" if address.scheme == "tls" else "hmac"
        if listens:
            check_listen(address, self._may_listen(tls), secret)
        else:
            check_dial(address, secret)
        if address.scheme == "tls":
            self._context = self._server(tls) if listens else self._client(tls)

    def _may_listen(self, tls: Tls | None) -> bool:
        return self._address.scheme == "tls" and tls is not None and tls.cert is not None and tls.key is not None

    def _server(self, tls: Tls | None) -> ssl.SSLContext:
        assert tls is not None  # noqa: S101  # checked
        assert tls.cert is not None  # noqa: S101  # as well
        assert tls.key is not None  # noqa: S101
        self._digest = certificates.digest_of(tls.cert)
        return certificates.server_context(tls.cert, tls.key, tls.ca)

    @staticmethod
    def _client(tls: Tls | None) -> ssl.SSLContext:
        if tls is None:
            return certificates.client_context()
        return certificates.client_context(tls.ca, tls.pin, tls.cert, tls.key)

    def __str__(self) -> str:
        return str(self._address)

    def own_digest(self) -> bytes:
        """See `Port`."""
        return self._digest

    def seen_digest(self, transport: asyncio.BaseTransport) -> bytes:
        """See `Port`."""
        connection = transport.get_extra_info("ssl_object")
        return b"" if connection is None else certificates.seen_digest(connection)

    async def listen(self, make: Factory) -> Listening:
        """See `Port`."""
        loop, at = asyncio.get_running_loop(), self._address
        if at.scheme == "unix":
            made = unix_listener(at.path)
            return _Server(await loop.create_unix_server(make, sock=made, backlog=BACKLOG), str(at), at.path)
        seconds = TLS_SECONDS if self._context is not None else None
        server = await loop.create_server(
            make, at.host, at.port, ssl=self._context, ssl_handshake_timeout=seconds, backlog=BACKLOG
        )
        port = server.sockets[0].getsockname()[1]
        return _Server(server, str(Address(at.scheme, at.host, port)))

    async def dial(self, make: Factory) -> None:
        """See `Port`."""
        loop, at = asyncio.get_running_loop(), self._address
        if at.scheme == "unix":
            await loop.create_unix_connection(make, at.path)
        else:
            await loop.create_connection(make, at.host, at.port, ssl=self._context)
