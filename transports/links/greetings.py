"""The bodies of the handshake: what the two sides say to each other, and how it is read. No I/O, no clock.

Bodies are msgpack arrays of the fields of the structs below, 4,096 bytes at most; one more field, or one less, or one
of another type is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from understudy.actors.errors import SpecError
from understudy.actors.remote.nodes import NAME
from understudy.actors.telemetry import one_line

HELLO: Final = 1
CHALLENGE: Final = 2
PROOF: Final = 3
READY: Final = 4
REFUSE: Final = 5
KINDS: Final = {HELLO: "HELLO", CHALLENGE: "CHALLENGE", PROOF: "PROOF", READY: "READY", REFUSE: "REFUSE"}
MOST: Final = 4_096
"""Bytes of a body."""
TEXT: Final = 500
"""Characters of the text of a refusal; beyond, it is cut."""
NONCE: Final = 32
"""Bytes."""
DIGEST: Final = 32
"""Bytes of SHA-256."""

NAME_RULE: Final = "1 to 64 letters, digits, '-', '_', '.', the first a letter or digit"

Mode = Literal["hmac", "tls"]
Reason = Literal[
    "version",  # no version that both speak
    "secret",  # the code is not that of our secret and of what was said
    "mode",  # one side with TLS and the other without
    "name",  # a name that is none, or is taken
    "self",  # a node that dialled itself
    "stale",  # an epoch below one that was seen of this name
    "full",  # too many connections
    "time",  # the handshake took too long
    "malformed",  # not what the protocol says, or not now
    "certificate",  # the listener means another certificate than the dialer sees
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
Frames = list[tuple[int, bytes]]
"""What is to be sent: kind and body."""

_U64 = Annotated[int, Meta(ge=0)]
_Nonce = Annotated[bytes, Meta(min_length=NONCE, max_length=NONCE)]
_Code = Annotated[bytes, Meta(min_length=DIGEST, max_length=DIGEST)]
_Version = Annotated[int, Meta(ge=1, le=255)]
_Versions = Annotated[tuple[_Version, ...], Meta(min_length=1, max_length=32)]
_Text = Annotated[str, Meta(max_length=200)]


class Limits(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a side takes. `frame`: bytes of a body, from 4,096; `window`: messages under way on a channel."""

    frame: Annotated[int, Meta(ge=4_096, le=2**32 - 1)] = 1 << 20
    window: Annotated[int, Meta(ge=1, le=2**32 - 1)] = 1_000


class Me(Struct, frozen=True):
    """What a node says of itself: its name, its epoch, which grows with each start, and the versions it speaks.

    `session`: the number of this connection among those it dialled, for a dialer. Raises `SpecError` for a bad value.
    """

    name: str
    epoch: int
    session: int = 0
    versions: tuple[int, ...] = (1,)
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise SpecError(f"node name {self.name!r}; {NAME_RULE}")
        try:
            said = encoder.encode((self.epoch, self.session, self.versions, self.limits))
            msgspec.msgpack.decode(said, type=_Checked)
        except (msgspec.MsgspecError, OverflowError, TypeError) as error:
            raise SpecError(f"{self!r}: {error}, of epoch, session, versions, limits") from error


_Checked = tuple[_U64, _U64, _Versions, Limits]


class Peer(Struct, frozen=True):
    """Who the other side is, and what holds. `session` is the dialer's, `limits` what the peer takes."""

    name: str
    epoch: int
    session: int
    version: int
    limits: Limits


class Refusal(Struct, frozen=True):
    """Why there is no connection: a reason, a line for people, and whether it was the other side that refused.

    What the other side says is not proven. Its text is cut to 500 characters, and holds none that does not print.
    """

    reason: Reason
    text: str
    theirs: bool = False


Admit = Callable[[Peer], Refusal | None]


class Hello(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The dialer says who it is."""

    versions: _Versions
    name: _Text
    epoch: _U64
    session: _U64
    nonce: _Nonce
    mode: _Text
    limits: Limits


class Challenge(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The listener says who it is, and what holds."""

    version: _Version
    versions: _Versions
    name: _Text
    epoch: _U64
    nonce: _Nonce
    mode: _Text
    limits: Limits
    certificate: Annotated[bytes, Meta(max_length=DIGEST)]


class Proof(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Of either side; also the body of READY."""

    code: _Code


class _Refuse(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    reason: _Text
    text: Annotated[str, Meta(max_length=2 * TEXT)]


encoder: Final = msgspec.msgpack.Encoder()
S = TypeVar("S", bound=Struct)


class No(Exception):
    """Ends a handshake, inside of it."""

    def __init__(self, reason: Reason, text: str) -> None:
        self.refusal = Refusal(reason, text)


def is_name(name: str) -> bool:
    """Whether a node may be called so: 1 to 64 letters, digits, `-`, `_`, `.`, the first a letter or digit."""
    return NAME.fullmatch(name) is not None


def refuse_body(refusal: Refusal) -> bytes:
    """The body of REFUSE. Of a wrong secret the other side is told nothing but that."""
    text = "" if refusal.reason == "secret" else one_line(refusal.text)
    return encoder.encode(_Refuse(refusal.reason, text))


def read_refusal(body: bytes) -> Refusal:
    """What a body of REFUSE says; never raises."""
    try:
        said = read(REFUSE, body, _Refuse)
    except No as no:
        return no.refusal
    if said.reason not in REASONS:
        return Refusal("malformed", one_line(f"refused for an unknown reason, {said.reason!r}: {said.text}"), True)
    text = "it does not know our secret, or what was said was changed" if said.reason == "secret" else said.text
    return Refusal(said.reason, one_line(f"refused: {text}"), True)


def read(kind: int, body: bytes, shape: type[S]) -> S:
    """What a body says. Raises `No` for one that is too long or not of this shape."""
    if len(body) > MOST:
        raise No("malformed", f"{KINDS[kind]} has {len(body):,} bytes; at most {MOST:,}")
    try:
        return msgspec.msgpack.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a text that is not UTF-8 is not wrapped
        raise No("malformed", f"{KINDS[kind]}: {error}") from None


def listed(versions: tuple[int, ...]) -> str:
    """Versions as people read them."""
    return ", ".join(map(str, sorted(versions)))
