"""Where a node listens and dials: `tcp://host:port`, `tls://host:port`, `unix:///path`.

What is not on this machine takes TLS, and everything takes a secret; there is no switch that turns either off.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, cast

from msgspec import Struct

from understudy.actors.errors import SpecError
from understudy.transports.links.keys import SOURCES, LinkSecret
from understudy.transports.loopback import is_loopback

Scheme = Literal["tcp", "tls", "unix"]
FORMS: Final = "tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH"
LONGEST: Final = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a Unix socket: `sun_path` without its NUL (unix(7); 104 bytes on the BSDs and macOS)."""

_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_DOTTED: Final = re.compile(r"[0-9.]+")
"""Never a name: some resolvers read 127.1 and 2130706433 as addresses."""


class Address(Struct, frozen=True):
    """Of a listener. `host` and `port` of "tcp" and "tls" (port 0: any that is free), `path` of "unix"."""

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it: a Unix socket, 127.0.0.0/8, ::1, `localhost`; nothing is resolved."""
        return self.scheme == "unix" or is_loopback(self.host)

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str) -> Address:
    """The address that a text names. Raises `SpecError` with the text and what is wrong with it."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("tcp", "tls", "unix"):
        raise SpecError(f"address {_bare(text)!r}: none of {FORMS}")
    if scheme == "unix":
        return Address("unix", path=_path(text, rest))
    host, colon, port = rest.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65_535:
        raise SpecError(f"address {_bare(text)!r}: no port; {scheme}://HOST:PORT with a PORT from 0 to 65535")
    return Address(cast("Scheme", scheme), _host(text, host), int(port))


def check_listen(address: Address, tls: bool, secret: LinkSecret | None) -> None:
    """Whether a node may listen there. `tls`: a certificate is there. Raises `SpecError` with what is missing."""
    _check(address, secret, "listen")
    if tls != (address.scheme == "tls"):
        what = "a certificate, and an address without TLS; listen on tls://" if tls else "no certificate for TLS"
        raise SpecError(f"listen {str(address)!r}: {what}")


def check_dial(address: Address, secret: LinkSecret | None) -> None:
    """Whether a node may connect there. Raises `SpecError` with what is missing."""
    _check(address, secret, "dial")
    if address.scheme != "unix" and not address.port:
        raise SpecError(f"dial {str(address)!r}: port 0 is any port, of a listener only")


def _check(address: Address, secret: LinkSecret | None, act: str) -> None:
    if secret is None:
        raise SpecError(f"{act} {str(address)!r}: no secret, so no peer could be known; {SOURCES}")
    if address.scheme == "tcp" and not address.local:
        raise SpecError(
            f"{act} {str(address)!r}: not on this machine, and without TLS everybody on the way reads and changes"
            f" what is said; take tls://, or 127.0.0.1"
        )


def unix_listener(path: str) -> socket.socket:
    """A bound socket with mode 0600, not listening yet. A socket that nobody serves any more is replaced.

    Raises `SpecError` naming the path when somebody serves it, or it is no socket, or cannot be made.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_room(path)
        made.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before `listen`, so there is no moment between
    except OSError as error:
        made.close()
        raise SpecError(f"listen 'unix://{path}': {error.strerror or error}") from error
    except SpecError:
        made.close()
        raise
    return made


def _make_room(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SpecError(f"listen 'unix://{path}': there is a file, and it is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.setblocking(False)  # a listener whose queue is full does not make us wait
        try:
            asked.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise SpecError(f"listen 'unix://{path}': another process listens there")


def _host(text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError as error:
            raise SpecError(f"address {_bare(text)!r}: {host!r} is no IPv6 address") from error
    if _DOTTED.fullmatch(host):
        try:
            return str(IPv4Address(host))
        except ValueError as error:
            raise SpecError(f"address {_bare(text)!r}: {host!r} is no IPv4 address") from error
    if not _HOST.fullmatch(host):
        hint = "; an IPv6 address stands in brackets" if ":" in host and "@" not in host else ""
        hint = "; for every address of this machine say 0.0.0.0 or [::]" if not host else hint
        raise SpecError(f"address {_bare(text)!r}: the host is no name and no IP address{hint}")
    return host.lower()


def _path(text: str, path: str) -> str:
    if not path.startswith("/"):
        raise SpecError(f"address {text!r}: the path is not absolute; unix:///PATH has three slashes")
    if path.endswith("/") or not path.isprintable():
        raise SpecError(f"address {text!r}: the path is no name of a file")
    if len(size := os.fsencode(path)) > LONGEST:
        raise SpecError(f"address {text!r}: a path of {len(size)} bytes; a socket takes {LONGEST} here")
    return path


def _bare(text: str) -> str:
    """An address as an error may show it: without what stands before an @, which may be a password."""
    head, at, tail = text.rpartition("@")
    scheme, found, _ = head.partition("://")
    return f"{scheme + found if found else ''}…@{tail}" if at else text
