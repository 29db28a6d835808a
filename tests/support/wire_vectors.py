"""The test vectors of `docs/wire.md`, made by the product: `python tests/support/wire_vectors.py` writes them anew.

Values are JSON; bytes are written as {"hex": "..."}. A test compares the files with what is made, and reads them back.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from wirepeer import frame

from understudy import Message
from understudy.actors.remote import items
from understudy.transports.links.greetings import Limits, Me
from understudy.transports.links.handshake import Dialer, Listener
from understudy.transports.links.keys import LinkSecret
from understudy.transports.links.wire import (
    ASK,
    ASK_CHAINED,
    BYE,
    CONTROL,
    FRAME_BODY,
    HANDSHAKE_BODY,
    PING,
    PONG,
    RELIABLE,
    REPLY,
    TELL,
    Outgoing,
)  # fmt: skip

FOLDER: Final = Path(__file__).parents[1] / "data" / "wire"
SECRET: Final = b"sixteen bytes or more, not a phrase"
EPOCHS: Final = (1_700_000_000_000_001, 1_700_000_000_000_002)
NONCES: Final = (bytes(range(32)), bytes(range(32, 64)))


class Note(Message[None]):
    """What the frames of messages carry."""

    number: int
    text: str = ""


class Sum(Message[float]):
    """What the requests ask for."""

    values: tuple[float, ...]


ITEMS: Final[tuple[items.Control, ...]] = (
    items.Open(1, "audit/inspector/2"),
    items.Opened(1, 1_000, ("Note", "Sum"), 1_000),
    items.Closed(7, "unknown", "no such actor"),
    items.Closed(8, "dead"),
    items.Credit(1, 1_500),
    items.Dropped(1, 2, "Object missing required field `number`"),
    items.Fail(70_000, "stopped", "audit/inspector/2", "error", "ValueError: no"),
    items.Fail(70_001, "full", "audit/inspector/2", limit=1_000),
    items.Fail(70_002, "unknown", "audit/inspector/2", names=("Note", "Sum")),
    items.Cancel(70_000),
    items.Watch(3, "audit"),
    items.Unwatch(3),
    items.Ended(3, 2, "error", "ValueError: no", True),
    items.Find(4, "inspector"),
    items.Found(4, "audit/inspector/2"),
    items.Found(5, "", "two actors have this name"),
    items.Acked("audit/inspector/2", 12),
    items.Want("audit/inspector/2", 13),
)
CHAIN: Final = (("berlin", EPOCHS[0], 41, "desk"), ("oslo", EPOCHS[1], 2**40, ""))
FRAMES: Final[tuple[tuple[str, int, int, list[Any]], ...]] = (
    ("TELL", TELL, 1, [Note(1), Note(-2, "zwölf")]),
    ("ASK", ASK, 1, [(70_000, 4.5, Sum((1.0, 2.5)))]),
    ("ASK_CHAINED", ASK_CHAINED, 2**32 - 1, [(70_001, 0.25, Sum(()), CHAIN)]),
    ("REPLY", REPLY, 0, [(70_000, 3.5), (2**64 - 1, None), (3, {"a": [True, b"\x00\xff"]})]),
    *((f"CONTROL {type(item).__name__}", CONTROL, 0, [item]) for item in ITEMS),
    ("RELIABLE", RELIABLE, 1, [(12, Note(12)), (13, Note(13))]),
)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    found = msgspec.to_builtins(value, builtin_types=(bytes,))

    def each(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"hex": value.hex()}
        if isinstance(value, list | tuple):
            return [each(one) for one in value]
        return {key: each(one) for key, one in value.items()} if isinstance(value, dict) else value

    return each(found)


def made_frames() -> list[dict[str, Any]]:
    """One connection: each kind of frame, in this order, from number 1."""
    out = Outgoing()
    rows: list[dict[str, Any]] = []
    out.limit = FRAME_BODY

    def row(name: str, kind: int, channel: int, value: Any) -> None:
        data = bytes(out.take())
        rows.append(
            {
                "name": name,
                "kind": kind,
                "number": len(rows) + 1,
                "channel": channel,
                "body": plain(value),
                "hex": data.hex(),
            }
        )

    for name, kind, channel, elements in FRAMES:
        for element in elements:
            out.add(kind, channel, element)
        row(name, kind, channel, elements)
    for name, kind in (("PING", PING), ("PONG", PONG)):
        out.frame(kind, b"")
        row(name, kind, 0, None)
    out.frame(BYE, msgspec.msgpack.encode(("shutdown", "node berlin stops")))
    row("BYE", BYE, 0, ["shutdown", "node berlin stops"])
    return rows


def made_handshake(mode: Any) -> dict[str, Any]:
    """A whole handshake, with what each side drew."""
    secret, digest = LinkSecret(SECRET), b"\x5a" * 32 if mode == "tls" else b""
    dialer = Dialer(secret, Me("berlin", EPOCHS[0], 3), mode, digest, nonce=NONCES[0])
    listener = Listener(secret, Me("oslo", EPOCHS[1], 0, limits=Limits(65_536, 500)), mode, digest, nonce=NONCES[1])
    ends: list[tuple[str, Any, Outgoing]] = [("dialer", dialer, Outgoing()), ("listener", listener, Outgoing())]
    said: list[dict[str, Any]] = []
    waiting = dialer.start()
    turn = 0
    while waiting:
        (name, _, out), (_, other, _) = ends[turn], ends[1 - turn]
        answer = []
        for kind, body in waiting:
            out.frame(kind, body)
            said.append(
                {
                    "from": name,
                    "kind": kind,
                    "body": plain(msgspec.msgpack.decode(body)),
                    "hex": bytes(out.take()).hex(),
                }
            )
            answer += other.receive(kind, body)
        waiting, turn = answer, 1 - turn
    assert dialer.peer is not None
    assert listener.peer is not None
    return {"secret": {"hex": SECRET.hex()}, "mode": mode, "certificate": {"hex": digest.hex()}, "frames": said}


def made_refused() -> list[dict[str, Any]]:
    """What is no frame, or no body: what it is refused for, and whether the connection ends."""
    right = frame(PING, number=1)
    note = msgspec.msgpack.encode([Note(1)])
    frames: list[tuple[str, str, str, bytes, bool]] = [
        ("magic", "talk", "the first byte", frame(PING, number=1, magic=0xD6), True),
        ("version", "talk", "version 2", frame(PING, number=1, version=2), True),
        ("flags", "talk", "a flag", frame(PING, number=1, flags=1), True),
        ("kind", "talk", "a frame of the handshake when it is over", frame(1, number=1), True),
        ("kind", "talk", "a kind that there is not", frame(25, number=1), True),
        ("kind", "handshake", "a frame of messages before it is over", frame(TELL, note, number=1, channel=1), True),
        ("size", "talk", "a body over the limit", right[:4] + struct.pack("!I", FRAME_BODY + 1) + right[8:], True),
        ("size", "handshake", "a body over its limit", frame(1, bytes(HANDSHAKE_BODY + 1), number=1), True),
        ("number", "talk", "the second frame first", frame(PING, number=2), True),
        ("number", "talk", "the same frame twice", right + right, True),
        ("checksum", "talk", "a bit of the checksum", right[:-1] + bytes([right[-1] ^ 1]), True),
        ("checksum", "talk", "a bit of the body", frame(TELL, note, number=1, channel=1)[:-1] + b"\x02", True),
        ("truncated", "talk", "the end within a header", right[:23], True),
        ("truncated", "talk", "the end within a body", frame(TELL, note, number=1, channel=1)[:-1], True),
    ]
    bodies: list[tuple[str, int, bytes]] = [
        ("no msgpack", CONTROL, b"\xc1"),
        ("no array", REPLY, b"\x01"),
        ("an array that is cut", CONTROL, b"\xdd\xff\xff\xff\xff"),
        ("bytes after the array", CONTROL, b"\x90\x00"),
        ("an item that there is not", CONTROL, msgspec.msgpack.encode([(15, 1)])),
        ("an item with one field too many", CONTROL, msgspec.msgpack.encode([(4, 1, 2, 3)])),
        ("channel 0", CONTROL, msgspec.msgpack.encode([(1, 0, "audit")])),
        ("a negative number", CONTROL, msgspec.msgpack.encode([(4, 1, -1)])),
        ("a path of 1,025 characters", CONTROL, msgspec.msgpack.encode([(11, 1, "x" * 1_025)])),
        ("a text that is not UTF-8", CONTROL, b"\x91\x93\x0b\x01\xa1\xff"),
        ("a goodbye without a reason", BYE, b"\x90"),
    ]
    rows = [
        {"reason": reason, "when": when, "what": what, "ends": ends, "hex": data.hex()}
        for reason, when, what, data, ends in frames
    ]
    rows += [
        {"reason": "body", "when": "talk", "what": what, "ends": False, "hex": frame(kind, body, number=1).hex()}
        for what, kind, body in bodies
    ]
    return rows


def made() -> dict[str, Any]:
    """All files, by name."""
    return {
        "frames.json": made_frames(),
        "handshake-hmac.json": made_handshake("hmac"),
        "handshake-tls.json": made_handshake("tls"),
        "refused.json": made_refused(),
    }


def text_of(value: Any) -> str:
    """A file's text."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, value in made().items():
        FOLDER.joinpath(file).write_text(text_of(value), encoding="utf-8")
        sys.stdout.write(f"{FOLDER / file}\n")
