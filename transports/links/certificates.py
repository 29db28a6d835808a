"""The TLS of links: version 1.2 or better, from PEM files.

A dialer believes the certificate it is shown by a `ca`, by a `pin`, or, with neither, because who knows the secret
signs its digest in the handshake of the link. Until that is over nothing else is said on the connection.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Final, NoReturn, cast

from understudy.actors.errors import SpecError

Path = str | PathLike[str]
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_PIN: Final = re.compile(r"[0-9a-f]{64}")


def server_context(cert: Path, key: Path, ca: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or better for a listener. All three are PEM files; with `ca`, dialers must show a certificate of it.

    Raises `SpecError` naming the file that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # connections are few and long: no resumption
    _restrict(context)
    _load_chain(context, cert, key)
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_ca(context, ca)
    return context


def client_context(
    ca: Path | None = None,
    pin: str | bytes | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> ssl.SSLContext:
    """TLS 1.2 or better for a dialer. With `ca` the certificate must be of it, and for the host that is dialled.

    `pin`: SHA-256 of the one certificate that is taken, 32 bytes or 64 hexadecimal digits (colons are left out); any
    other ends the TLS handshake with `ssl.SSLCertVerificationError`, on sockets and in asyncio. With neither, any is
    taken, and the handshake of the link must prove it. `cert`, `key`: what is shown to a listener with a `ca`. Raises
    `SpecError` naming the file or value that cannot be used.
    """
    context = _context(pin)
    _restrict(context)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _load_ca(context, ca)
    if cert is not None:
        _load_chain(context, cert, key if key is not None else cert)
    elif key is not None:
        raise SpecError(f"key {fspath(key)!r} without a certificate; give cert=")
    return context


def parse_pin(pin: str | bytes) -> bytes:
    """The 32 bytes of a pin. Raises `SpecError`."""
    if isinstance(pin, bytes) and len(pin) == 32:
        return pin
    digits = pin.replace(":", "").lower() if isinstance(pin, str) else ""
    if not _PIN.fullmatch(digits):
        raise SpecError(f"pin {pin!r}: not SHA-256 of a certificate, 32 bytes or 64 hexadecimal digits")
    return bytes.fromhex(digits)


def digest_of(cert: Path) -> bytes:
    """SHA-256 of the first certificate (DER) of a PEM file: the `own_digest` of a listener. Raises `SpecError`."""
    with _reading(f"certificate {fspath(cert)!r}"), open(cert, encoding="ascii", errors="replace") as file:
        found = _CERTIFICATE.search(file.read())
        if found is None:
            raise SpecError(f"certificate {fspath(cert)!r}: no PEM certificate in it")
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found.group(0))).digest()


def seen_digest(connection: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    """SHA-256 of the certificate that the other side shows; b"" for none."""
    shown = connection.getpeercert(binary_form=True)
    return hashlib.sha256(shown).digest() if shown else b""


class _PinnedObject(ssl.SSLObject):
    """Of asyncio's connections."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _check_pin(self)


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check_pin(self)


class _PinnedContext(ssl.SSLContext):
    """The pin is checked where the TLS handshake ends, so nobody can forget to."""

    sslobject_class = _PinnedObject
    sslsocket_class = _PinnedSocket
    pin = b""


def _check_pin(connection: _PinnedObject | _PinnedSocket) -> None:
    pin, seen = cast("_PinnedContext", connection.context).pin, seen_digest(connection)
    if seen != pin:
        raise ssl.SSLCertVerificationError(1, f"the certificate is {seen.hex()}; the pin is {pin.hex()}")


def _context(pin: str | bytes | None) -> ssl.SSLContext:
    if pin is None:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    made.pin = parse_pin(pin)
    return made


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _load_chain(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    place = f"certificate {fspath(cert)!r} with key {fspath(key)!r}"

    def ask() -> NoReturn:  # else a key with a password would ask for it on the terminal, for ever
        raise SpecError(f"{place}: the key has a password; give one without")

    with _reading(place):
        context.load_cert_chain(cert, key, ask)


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    with _reading(f"ca {fspath(ca)!r}"):
        context.load_verify_locations(ca)


@contextmanager
def _reading(place: str) -> Iterator[None]:
    try:
        yield
    except SpecError:
        raise
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise SpecError(f"{place}: {getattr(error, 'strerror', None) or error}") from error
