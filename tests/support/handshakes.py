"""Two sides of a handshake, and somebody between them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from understudy.transports.links.handshake import Dialer, Frames, Limits, Listener, Me
from understudy.transports.links.keys import LinkSecret

SECRET = LinkSecret(b"correct horse battery staple")
OTHER = LinkSecret(b"incorrect horse battery staple")
A = Me("a", epoch=7, session=3, limits=Limits(frame=65_536, window=10))
B = Me("b", epoch=9, limits=Limits(frame=8_192, window=20))
Between = Callable[[bool, int, bytes], Frames]
"""Whether it comes from the dialer, kind, body; what arrives instead."""


def unchanged(_: bool, kind: int, body: bytes) -> Frames:
    return [(kind, body)]


def meet(dialer: Dialer, listener: Listener, between: Between = unchanged) -> list[tuple[bool, int, bytes]]:
    """Let them talk until both are silent; all that was sent, with whether the dialer sent it."""
    assert listener.start() == []
    said = []
    waiting = [(True, *frame) for frame in dialer.start()]
    while waiting:
        from_dialer, kind, body = waiting.pop(0)
        said.append((from_dialer, kind, body))
        assert len(said) < 50
        other = listener if from_dialer else dialer
        for frame in between(from_dialer, kind, body):
            waiting += [(not from_dialer, *answer) for answer in other.receive(*frame)]
    return said


def pack(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def changed(body: bytes, **fields: object) -> bytes:
    """A body of HELLO or CHALLENGE with other fields, by name."""
    names = ["versions", "name", "epoch", "session", "nonce", "mode", "limits"]
    values = msgspec.msgpack.decode(body)
    if len(values) == 8:
        names = ["version", "versions", "name", "epoch", "nonce", "mode", "limits", "certificate"]
    assert fields.keys() <= set(names)
    return pack(*(fields.get(name, value) for name, value in zip(names, values, strict=True)))
