"""The handshake of a link: both sides prove that they know the secret, over everything they said. No I/O, no clock.

    dialer                                        listener
    HELLO  versions, name, epoch, session,   ->
           nonce, mode, limits               <-   CHALLENGE  version, versions, name, epoch, nonce, mode, limits,
                                                             digest of its certificate
    PROOF  code("dialer", both bodies)       ->              here the listener knows, and asks `admit`
    here the dialer knows                    <-   READY      code("listener", both bodies)

At any point either side may send REFUSE (reason, text) instead, and close. The codes are over the exact bytes of HELLO
and CHALLENGE, so who changes one of them on the way changes the codes; both nonces are in them, so an old one proves
nothing; the role is in them, so a code sent back proves nothing. The dialer proves first: a stranger who dials is given
no code. Until PROOF a stranger learns the listener's name, epoch, versions, limits and certificate. A refusal proves
nothing about who sent it: whoever acts on one tries again later.

Bodies are msgpack arrays of the fields of the structs below, 4,096 bytes at most; one more field, or one less, or one
of another type is refused. What arrives never raises, and a machine that has ended takes nothing more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import get_args

from understudy.actors.errors import SpecError
from understudy.actors.telemetry import one_line
from understudy.transports.links.greetings import (
    CHALLENGE,
    DIGEST,
    HELLO,
    KINDS,
    NAME_RULE,
    NONCE,
    PROOF,
    READY,
    REFUSE,
    Admit,
    Challenge,
    Frames,
    Hello,
    Limits,
    Me,
    Mode,
    No,
    Peer,
    Proof,
    Reason,
    Refusal,
    encoder,
    is_name,
    listed,
    read,
    read_refusal,
    refuse_body,
)
from understudy.transports.links.keys import LinkSecret

__all__ = [
    "CHALLENGE",
    "HELLO",
    "PROOF",
    "READY",
    "REFUSE",
    "Admit",
    "Dialer",
    "Frames",
    "Limits",
    "Listener",
    "Me",
    "Mode",
    "Peer",
    "Reason",
    "Refusal",
    "is_name",
    "read_refusal",
    "refuse_body",
]


class _Side:
    """What both machines share. Exactly one of `peer` and `refusal` is there in the end, and then it stays."""

    def __init__(self, secret: LinkSecret, me: Me, mode: Mode, certificate: bytes, nonce: bytes | None) -> None:
        if mode not in get_args(Mode):
            raise SpecError(f"mode {mode!r} of a link; 'hmac' or 'tls'")
        if len(certificate) != (DIGEST if mode == "tls" else 0):
            raise SpecError(f"mode {mode!r} with a certificate digest of {len(certificate)} bytes")
        if nonce is not None and len(nonce) != NONCE:
            raise SpecError(f"a nonce of {len(nonce)} bytes; {NONCE}")
        self.me = me
        self.mode: Mode = mode
        self.peer: Peer | None = None
        self.refusal: Refusal | None = None
        self._secret = secret
        self._certificate = certificate
        self._nonce = os.urandom(NONCE) if nonce is None else nonce
        self._hello = self._challenge = b""
        self._next: tuple[int, Callable[[bytes], Frames]]

    def receive(self, kind: int, body: bytes) -> Frames:
        """Take a frame of the handshake; what is to be sent. After the end nothing is taken, and nothing sent."""
        if self.peer is not None or self.refusal is not None:
            return []
        if kind == REFUSE:
            self.refusal = read_refusal(body)
            return []
        expected, step = self._next
        try:
            if kind != expected:
                raise No("malformed", f"{KINDS.get(kind, f'kind {kind}')} where {KINDS[expected]} is due")
            return step(body)
        except No as no:
            return self.refuse(no.refusal)

    def refuse(self, refusal: Refusal) -> Frames:
        """End it, as when the time is up; what is to be sent. After the end: nothing."""
        if self.peer is not None or self.refusal is not None:
            return []
        self.refusal = refusal
        return [(REFUSE, refuse_body(refusal))]

    def _check_name(self, name: str, epoch: int, role: str) -> None:
        if not is_name(name):
            raise No("name", f"{role} is called {one_line(name[:70])!r}; {NAME_RULE}")
        if name == self.me.name:
            if epoch == self.me.epoch:
                raise No("self", f"{name!r} dialled itself")
            raise No("name", f"two nodes are called {name!r}: epochs {epoch} and {self.me.epoch}")

    def _check_code(self, code: bytes, role: bytes, name: str) -> None:
        if not self._secret.checks(code, role, self._hello, self._challenge):
            raise No("secret", f"{name!r} does not know the secret of {self.me.name!r}, or what was said was changed")


class Dialer(_Side):
    """The side that connects. `mode`: "tls" on a TLS connection, with the SHA-256 of the certificate seen on it.

    `admit` is asked when the listener has said who it is, *before it has proven it*: it may look and refuse, as for a
    stale epoch, and must keep nothing. `nonce`: 32 bytes that were never used before; default: drawn.
    """

    def __init__(
        self,
        secret: LinkSecret,
        me: Me,
        mode: Mode = "hmac",
        seen_certificate_digest: bytes = b"",
        admit: Admit | None = None,
        *,
        nonce: bytes | None = None,
    ) -> None:
        super().__init__(secret, me, mode, seen_certificate_digest, nonce)
        said = Hello(me.versions, me.name, me.epoch, me.session, self._nonce, mode, me.limits)
        self._hello = encoder.encode(said)
        self._admit = admit
        self._next = (CHALLENGE, self._on_challenge)

    def start(self) -> Frames:
        """What is to be sent first."""
        return [(HELLO, self._hello)]

    def _on_challenge(self, body: bytes) -> Frames:
        said = read(CHALLENGE, body, Challenge)
        self._check_name(said.name, said.epoch, "the listener")
        self._check_version(said)
        if said.mode != self.mode:
            raise No("mode", f"{said.name!r} says {one_line(said.mode)!r}, {self.me.name!r} asked for {self.mode!r}")
        if said.certificate != self._certificate:
            theirs, ours = said.certificate.hex() or "none", self._certificate.hex() or "none"
            raise No("certificate", f"{said.name!r} has the certificate {theirs}; this connection shows {ours}")
        self._challenge = body
        found = Peer(said.name, said.epoch, self.me.session, said.version, said.limits)
        if self._admit is not None and (refusal := self._admit(found)) is not None:
            return self.refuse(refusal)
        self._next = (READY, lambda body: self._on_ready(body, found))
        return [(PROOF, encoder.encode(Proof(self._secret.code(b"dialer", self._hello, self._challenge))))]

    def _check_version(self, said: Challenge) -> None:
        both = set(self.me.versions) & set(said.versions)
        if not both or said.version != max(both):
            raise No(
                "version",
                f"{said.name!r} chose version {said.version} and speaks {listed(said.versions)};"
                f" {self.me.name!r} speaks {listed(self.me.versions)}",
            )

    def _on_ready(self, body: bytes, found: Peer) -> Frames:
        self._check_code(read(READY, body, Proof).code, b"listener", found.name)
        self.peer = found
        return []


class Listener(_Side):
    """The side that was connected to. `mode`: "tls" on a TLS connection, with the SHA-256 of its own certificate.

    `admit` is asked when the dialer has proven who it is: a refusal ends it (a stale epoch, a name that is taken, too
    many connections). `nonce`: 32 bytes that were never used before; default: drawn.
    """

    def __init__(
        self,
        secret: LinkSecret,
        me: Me,
        mode: Mode = "hmac",
        own_digest: bytes = b"",
        admit: Admit | None = None,
        *,
        nonce: bytes | None = None,
    ) -> None:
        super().__init__(secret, me, mode, own_digest, nonce)
        self._admit = admit
        self._next = (HELLO, self._on_hello)

    def start(self) -> Frames:
        """Nothing: the dialer speaks first."""
        return []

    def _on_hello(self, body: bytes) -> Frames:
        said = read(HELLO, body, Hello)
        self._check_name(said.name, said.epoch, "the dialer")
        me = self.me
        both = set(me.versions) & set(said.versions)
        if not both:
            ours, theirs = listed(me.versions), listed(said.versions)
            raise No("version", f"{me.name!r} speaks versions {ours}; {said.name!r} speaks {theirs}")
        if said.mode != self.mode:
            raise No("mode", f"{said.name!r} asks for {one_line(said.mode)!r}; {me.name!r} has {self.mode!r} here")
        found = Peer(said.name, said.epoch, said.session, max(both), said.limits)
        challenge = Challenge(
            found.version, me.versions, me.name, me.epoch, self._nonce, self.mode, me.limits, self._certificate
        )
        self._hello, self._challenge = body, encoder.encode(challenge)
        self._next = (PROOF, lambda body: self._on_proof(body, found))
        return [(CHALLENGE, self._challenge)]

    def _on_proof(self, body: bytes, found: Peer) -> Frames:
        self._check_code(read(PROOF, body, Proof).code, b"dialer", found.name)
        if self._admit is not None and (refusal := self._admit(found)) is not None:
            return self.refuse(refusal)
        self.peer = found
        return [(READY, encoder.encode(Proof(self._secret.code(b"listener", self._hello, self._challenge))))]
