"""Millions of frames for a node, most of them wrong, and what the node makes of them if it is right.

Frames come from a grammar, whose wrong ones are wrong by how they are made, and from changes to right ones, of which a
`Twin` says what they are. The twin takes what the node is to take, in the same order, and counts what it is to refuse.
"""

import random
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from zlib import crc32

import msgspec
from fuzz_app import LEDGERS, SECRET, Add, Digest, Ledger, Mark, Put
from wirepeer import (
    ACKED,
    ASK,
    ASK_CHAINED,
    BYE,
    CANCEL,
    CHALLENGE,
    CLOSED,
    CONTROL,
    CREDIT,
    DROPPED,
    ENDED,
    FAIL,
    FIND,
    FOUND,
    HELLO,
    OPEN,
    OPENED,
    PING,
    PONG,
    PROOF,
    READY,
    RELIABLE,
    REPLY,
    TELL,
    UNWATCH,
    WANT,
    WATCH,
    code,
    frame,
    frames,
    hello,
    pack,
    unpack,
)  # fmt: skip

STRIKES: Final = 100
NAMES: Final = 10_000
ELEMENTS: Final = 32_768
SECONDS: Final = 60.0
_HEADER: Final = struct.Struct("!BBBBIQI")
_CHECK: Final = struct.Struct("!I")
_message: Final = msgspec.msgpack.Decoder(Put | Add | Mark | Digest).decode
_tells: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_surely: Final = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]]).decode
_asks: Final = {
    ASK: msgspec.msgpack.Decoder(list[tuple[int, float, msgspec.Raw]]).decode,
    ASK_CHAINED: msgspec.msgpack.Decoder(
        list[tuple[int, float, msgspec.Raw, tuple[tuple[str, int, int, str], ...]]]
    ).decode,
}
_replies: Final = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]]).decode
WRONG: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)

U32, NUMBER = (1, 2**32 - 1), (0, 2**64 - 1)
_ITEMS: Final[dict[int, tuple[Any, ...]]] = {  # fields: bounds of a number, longest text, tuple, bool; "?": may lack
    OPEN: (U32, 1_024),
    OPENED: (U32, NUMBER, "texts", NUMBER),
    CLOSED: (U32, ("unknown", "dead", "many"), "?", 1_000),
    CREDIT: (U32, NUMBER),
    DROPPED: (U32, NUMBER, 1_000),
    FAIL: (NUMBER, ("stopped", "unknown", "full", "expired", "cycle", "reply", "refused"), 1_024, "?", 1_000, 1_000,
           "texts", NUMBER),
    CANCEL: (NUMBER,),
    WATCH: (NUMBER, 1_024),
    UNWATCH: (NUMBER,),
    ENDED: (NUMBER, NUMBER, 1_000, 1_000, "bool"),
    FIND: (NUMBER, 1_024),
    FOUND: (NUMBER, 1_024, "?", 1_000),
    ACKED: (1_024, NUMBER),
    WANT: (1_024, NUMBER),
}  # fmt: skip


def _fits(rule: Any, value: Any) -> bool:
    if isinstance(rule, int):
        return isinstance(value, str) and len(value) <= rule
    if rule == "bool":
        return isinstance(value, bool)
    if rule == "texts":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if isinstance(rule[0], str):
        return value in rule
    if isinstance(value, float):  # a whole number, written as a fraction
        return value.is_integer() and rule[0] <= value <= min(rule[1], 2**53)
    return isinstance(value, int) and not isinstance(value, bool) and rule[0] <= value <= rule[1]


def is_item(value: Any) -> bool:
    """Whether it is an item of a control frame, by `docs/wire.md` alone."""
    if not isinstance(value, list) or not value or type(value[0]) is not int or value[0] not in _ITEMS:
        return False
    rules = _ITEMS[value[0]]
    least = rules.index("?") if "?" in rules else len(rules)
    wanted = [rule for rule in rules if rule != "?"]
    fields = value[1:]
    return least <= len(fields) <= len(wanted) and all(map(_fits, wanted, fields))


class Twin:
    """What the node is to make of the frames of one peer."""

    def __init__(self) -> None:
        self.ledgers = {name: Ledger() for name in LEDGERS}
        self.taken: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.valid = self.frames = 0
        self.begin(new_epoch=True)

    def begin(self, *, new_epoch: bool) -> None:
        """A connection begins."""
        if new_epoch:
            self.taken = {}
        self.channels: dict[int, str] = {}
        self.strikes = 0
        self.open = True

    def strike(self) -> None:
        """A body that cannot be read."""
        self.counts["body"] += 1
        self.strikes += 1
        self.open = self.strikes < STRIKES

    def apply(self, ledger: Ledger, message: Any) -> None:
        """A ledger takes a message."""
        if type(message) is Put:
            ledger.put(message)
        elif type(message) is Add:
            ledger.add(message)
        elif type(message) is Mark:
            ledger.mark(message)

    def hear(self, kind: int, channel: int, body: bytes) -> None:
        """A frame comes whose header is right."""
        try:
            if kind in (TELL, RELIABLE, ASK, ASK_CHAINED):
                self._messages(kind, channel, body)
            elif kind == CONTROL:
                items = unpack(body)
                if not isinstance(items, list) or len(items) > ELEMENTS or not all(map(is_item, items)):
                    raise ValueError
                for item in items:
                    self._item(item)
                self.valid += 1
            elif kind == REPLY:
                if len(replies := _replies(body)) > ELEMENTS or any(id < 0 for id, _ in replies):
                    raise ValueError
                self.valid += 1
            elif kind == BYE:
                said = unpack(body)
                if not isinstance(said, list) or len(said) != 2 or not all(isinstance(each, str) for each in said):
                    raise ValueError
                self.open = False
                self.valid += 1
        except WRONG:
            self.strike()

    def _item(self, item: list[Any]) -> None:
        if item[0] == OPEN and item[1] not in self.channels and item[2] in self.ledgers:
            self.channels[int(item[1])] = item[2]
        elif item[0] == WANT and (item[1] in self.taken or len(self.taken) < NAMES):
            self.taken[item[1]] = max(self.taken.get(item[1], 0), int(item[2]) - 1)

    def _messages(self, kind: int, channel: int, body: bytes) -> None:
        name = self.channels.get(channel)
        if name is None:
            self.counts["unread"] += 1
            return
        ledger = self.ledgers[name]
        elements: Any = _tells(body) if kind == TELL else _surely(body) if kind == RELIABLE else _asks[kind](body)
        if len(elements) > ELEMENTS or (kind != TELL and any(each[0] < 0 for each in elements)):
            raise ValueError
        if kind == ASK_CHAINED and any(len(each[3]) > 33 for each in elements):
            raise ValueError
        bad = 0
        for element in elements:
            raw = element if kind == TELL else element[1] if kind == RELIABLE else element[2]
            try:
                message = _message(raw)
            except WRONG:
                message, bad = None, bad + 1
            if kind == RELIABLE and not self._next(name, element[0]):
                continue
            if message is not None and kind in (TELL, RELIABLE):
                self.apply(ledger, message)
        self.counts["message"] += bool(bad)
        self.valid += not bad

    def _next(self, name: str, number: int) -> bool:
        last = self.taken.get(name, 0)
        if number != last + 1 or (name not in self.taken and len(self.taken) >= NAMES):
            return False
        self.taken[name] = number
        return True


class Grammar:
    """Frames, by chance: kind, channel and body of one at a time."""

    def __init__(self, dice: random.Random, twin: Twin) -> None:
        self.dice, self.twin = dice, twin
        self._number = 0
        makers: list[tuple[int, Callable[[], tuple[int, int, bytes]]]] = [
            (250, self.told), (130, self.partly), (160, self.changed), (70, self.surely), (60, self.asked),
            (110, self.nowhere), (130, self.items), (40, self.replies), (25, self.beats), (12, self.bent),
            (3, self.wrong),
        ]  # fmt: skip
        self._makers = [make for weight, make in makers for _ in range(weight)]
        self._most = len(self._makers)

    def one(self) -> tuple[int, int, bytes]:
        """The next frame."""
        return self._makers[int(self.dice.random() * self._most)]()

    def below(self, most: int) -> int:
        return int(self.dice.random() * most)

    def opening(self) -> list[Any]:
        """The items that a connection begins with: two channels for each ledger."""
        return [(OPEN, n + 1, LEDGERS[n % len(LEDGERS)]) for n in range(2 * len(LEDGERS))]

    def channel(self) -> int:
        return self.below(2 * len(LEDGERS)) + 1

    def message(self) -> dict[str, Any]:
        """A message that a ledger takes."""
        choice = self.below(3)
        if choice == 0:
            return {"$": "Put", "key": self.number(), "value": self.text()}
        if choice == 1:
            return {"$": "Add", "key": self.below(1_000), "amount": self.dice.random(), "tags": [self.text()]}
        return {"$": "Mark", "body": self.dice.randbytes(self.below(20)), "extra": None if self.below(2) else {"a": 1}}

    def number(self) -> int:
        return EDGES[self.below(len(EDGES))] if self.below(8) == 0 else self.below(1_000)

    def text(self) -> str:
        return TEXTS[self.below(len(TEXTS))]

    def told(self) -> tuple[int, int, bytes]:
        """Right in every field."""
        return TELL, self.channel(), pack([self.message() for _ in range(1 + self.below(2))])

    def partly(self) -> tuple[int, int, bytes]:
        """Messages of which some are no messages of this actor."""
        elements = [self.message(), BAD[self.below(len(BAD))]]
        if self.below(2):
            elements.append(self.message())
        return TELL, self.channel(), pack(elements)

    def changed(self) -> tuple[int, int, bytes]:
        """A right message, a value of which is replaced, left out, doubled or named otherwise."""
        message: dict[Any, Any] = self.message()
        key = list(message)[self.below(len(message))]
        choice = self.below(4)
        if choice == 0:
            message[key] = VALUES[self.below(len(VALUES))]
        elif choice == 1:
            del message[key]
        elif choice == 2:
            message[self.text()] = message.get(key)
        else:
            message[key] = [message[key]]
        return TELL, self.channel(), pack([message])

    def surely(self) -> tuple[int, int, bytes]:
        """Numbered messages: mostly the next ones; also old ones, gaps, absurd ones, and some that cannot be read."""
        channel = self.channel()
        last = self.twin.taken.get(self.twin.channels.get(channel, ""), 0)
        choice = self.below(8)
        first = (
            last + 1
            if choice < 5
            else EDGES[self.below(len(EDGES))]
            if choice == 5
            else max(0, last + self.below(5) - 2)
        )
        if first < 0 or first > 2**64 - 3:
            first = 0
        bad = self.below(6) == 0
        return RELIABLE, channel, pack([(first, self.message()), (first + 1, BAD[0] if bad else self.message())])

    def asked(self) -> tuple[int, int, bytes]:
        """Requests: with absurd deadlines, of wrong messages, with the same id, in long chains."""
        message: Any = {"$": "Digest"} if self.below(2) else BAD[self.below(len(BAD))]
        asked = (self.below(50), SECONDS_LEFT[self.below(len(SECONDS_LEFT))], message)
        if self.below(3):
            return ASK, self.channel(), pack([asked])
        hops = [(self.text(), self.below(9), self.below(9), self.text())] * (33 if self.below(20) else 34)
        return ASK_CHAINED, self.channel(), pack([(*asked, hops[: 1 + self.below(34)])])

    def nowhere(self) -> tuple[int, int, bytes]:
        """For a channel that leads nowhere."""
        return TELL, 1_000_000 + self.below(1_000), pack([self.message()])

    def items(self) -> tuple[int, int, bytes]:
        """Items about what there is and what there is not."""
        return CONTROL, 0, pack([self.item() for _ in range(1 + self.below(3))])

    def item(self) -> tuple[Any, ...]:
        n, id, path = self.below(14), abs(self.number()) % 2**64, self.path()
        channel = 1 + self.below(20)
        return (
            (OPEN, channel, path), (OPENED, channel, id, ("Put",), id), (CLOSED, channel, "dead"),
            (CREDIT, channel, id), (DROPPED, channel, id, path), (FAIL, id, "stopped", path), (CANCEL, id),
            (WATCH, id, path), (UNWATCH, id), (ENDED, id, id, "error", path, True), (FIND, id, path), (FOUND, id, path),
            (ACKED, path, id),
            (WANT, path, id % 1_000),
        )[n]  # fmt: skip

    def path(self) -> str:
        choice = self.below(4)
        if choice == 0:
            return LEDGERS[self.below(len(LEDGERS))]
        return self.text() if choice == 1 else f"name/{self.below(30_000)}"

    def replies(self) -> tuple[int, int, bytes]:
        """Answers to what nobody asked."""
        return REPLY, 0, pack([(abs(self.number()) % 2**64, self.text())])

    def beats(self) -> tuple[int, int, bytes]:
        """PING and PONG, with a body or without."""
        return PING if self.below(2) else PONG, self.below(3), b"" if self.below(2) else self.dice.randbytes(9)

    def bent(self) -> tuple[int, int, bytes]:
        """The bytes of a right frame, some of them changed, left out or added."""
        make = (self.told, self.surely, self.items, self.asked, self.replies)[self.below(5)]
        kind, channel, body = make()
        bytes_ = bytearray(body)
        for _ in range(1 + self.below(3)):
            at, choice = self.below(len(bytes_)), self.below(4)
            if choice == 0:
                bytes_[at] ^= 1 << self.below(8)
            elif choice == 1:
                bytes_[at] = self.below(256)
            elif choice == 2 and len(bytes_) > 1:
                del bytes_[at]
            else:
                bytes_.insert(at, self.below(256))
        return kind, channel, bytes(bytes_)

    def wrong(self) -> tuple[int, int, bytes]:
        """A body that is no body, whatever the frame says of its kind."""
        kind = (TELL, RELIABLE, ASK, ASK_CHAINED, REPLY, CONTROL)[self.below(6)]
        return kind, self.channel(), BROKEN[self.below(len(BROKEN))]


EDGES: Final = (0, 1, -1, 127, 128, 255, 256, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
TEXTS: Final = ("", "a", "text", "ä\u2028ö", "x" * 40, "\x00", "\n", "y" * 300, "$", "../..", "@node", "ledger9", "{}")
SECONDS_LEFT: Final = (0.0, -1.0, 1.0, 5, float("nan"), float("inf"), float("-inf"), 1e300, 30.0)
# fmt: off
VALUES: Final[tuple[Any, ...]] = (
    None, True, -1, 2**64 - 1, -(2**63), 1.5, float("nan"), float("inf"), "", "Put", "Add", b"", b"\xff", [], [1], {},
    {"$": "Put"}, {1: 2}, msgspec.msgpack.Ext(5, b"x"),
)
BAD: Final[tuple[Any, ...]] = (
    {"$": "Other"}, {"$": "Put"}, {"$": "Put", "key": "x", "value": ""}, {"$": "Down", "path": "x"}, 7, None, [], {},
    "Put", {"$": 1}, [[[[[[1]]]]]], msgspec.msgpack.Ext(5, b"x"), {"key": 1, "value": ""},
)
BROKEN: Final = (
    b"", b"\xc1", b"\x01", b"\x91", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\x91" * 3_000 + b"\x01", pack([]) + b"\x00", b"\xc7\x05\x01abcde", b"\x81\xa1a" * 2_000, b"\xd9\x05ab",
    b"\xdd\x00\x01\x86\xa0" + b"\x00" * 100_000,
)
# fmt: on
FAULTS: Final = ("magic", "version", "kind", "flags", "size", "number", "checksum", "truncated", "bye", "end")


class Line:
    """A connection of the fuzzer to the node, which is read as it is written."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), SECONDS)
        self.read = 0

    def join(self, name: str, epoch: int, session: int) -> None:
        """The handshake."""
        said = hello(name, epoch, session)
        self._socket.sendall(frame(HELLO, said, number=1))
        kind, _, _, challenge = self._frame()
        assert kind == CHALLENGE, (kind, challenge)
        self._socket.sendall(frame(PROOF, pack((code(SECRET, b"dialer", said, challenge),)), number=2))
        kind, _, _, ready = self._frame()
        assert kind == READY, (kind, ready)

    def _frame(self) -> tuple[int, int, int, bytes]:
        header = self._socket.recv(24, socket.MSG_WAITALL)
        body = self._socket.recv(length, socket.MSG_WAITALL) if (length := _HEADER.unpack_from(header)[4]) else b""
        return next(frames(header + body))

    def finish(self, data: bytes) -> None:
        """Send all, say that it is all, and read until the node has closed."""
        self._socket.setblocking(False)
        view, shut = memoryview(data), False
        try:
            while True:
                readable, writable, _ = select.select([self._socket], [] if shut else [self._socket], [], SECONDS)
                assert readable or writable, "the node stands still"
                if readable:
                    found = self._socket.recv(1 << 18)
                    if not found:
                        return
                    self.read += len(found)
                if writable and view:
                    view = view[self._socket.send(view[: 1 << 18]) :]
                elif writable:
                    self._socket.shutdown(socket.SHUT_WR)
                    shut = True
        except (BrokenPipeError, ConnectionResetError):
            pass  # it closed before it had read all, as after a frame that is none
        finally:
            self._socket.close()


class Fuzzer:
    """See the module. `go` sends until the node has taken so many frames, without those after a connection's end."""

    NAME: Final = "fuzz"
    LENGTH: Final = 5_000

    def __init__(self, address: str, seed: int) -> None:
        self.address = address
        self.dice = random.Random(seed)
        self.twin = Twin()
        self.grammar = Grammar(self.dice, self.twin)
        self.faults: Counter[str] = Counter()
        self.connections = self.sent = self.strangers = 0
        self._epoch, self._session = 1, 0

    def go(self, most: int) -> None:
        """Connection after connection, of the peer that knows the secret and of strangers."""
        until = self.twin.frames + most
        while self.twin.frames < until:
            self.connect(min(until - self.twin.frames, self.LENGTH))
            if self.connections % 4 == 0:
                self.stranger()

    def connect(self, length: int) -> None:
        """One connection of the peer."""
        new = self.connections % 50 == 0
        self._epoch, self._session = self._epoch + new, self._session + 1
        self.connections += 1
        twin, grammar = self.twin, self.grammar
        twin.begin(new_epoch=new)
        line = Line(self.address)
        line.join(self.NAME, self._epoch, self._session)
        parts: list[bytes] = []
        number = 2
        for n in range(length):
            kind, channel, body = grammar.one() if n else (CONTROL, 0, pack(grammar.opening()))
            number += 1
            header = _HEADER.pack(0xD7, 1, kind, 0, len(body), number, channel)
            parts += header, _CHECK.pack(crc32(body, crc32(header))), body
            if twin.open:
                twin.frames += 1
                twin.hear(kind, channel, body)
            self.sent += 1
        parts.append(self._last(number + 1))
        line.finish(b"".join(parts))

    def _last(self, number: int) -> bytes:
        """How the connection ends, if it has not yet."""
        fault = FAULTS[self.dice.randrange(len(FAULTS))]
        if self.twin.open and fault not in ("bye", "end"):
            self.faults[fault] += 1
        said = pack([{"$": "Put", "key": 1, "value": "never"}])
        right = frame(TELL, said, number=number, channel=1)
        if fault == "end":
            return b""
        if fault == "truncated":
            return right[: self.dice.randrange(1, len(right))]
        if fault == "bye":
            return frame(BYE, pack(("enough", "said")), number=number) + right
        wrong: dict[str, bytes] = {
            "magic": frame(TELL, said, number=number, channel=1, magic=self.dice.randrange(0xD7)),
            "version": frame(TELL, said, number=number, channel=1, version=self.dice.choice((0, 2, 255))),
            "kind": frame(self.dice.choice((0, 1, 3, 5, 15, 25, 255)), said, number=number, channel=1),
            "flags": frame(TELL, said, number=number, channel=1, flags=self.dice.randrange(1, 256)),
            "size": right[:4] + self.dice.choice((2**20 + 1, 2**31, 2**32 - 1)).to_bytes(4, "big") + right[8:],
            "number": frame(TELL, said, number=number + self.dice.choice((-1, 1, 2**40)), channel=1),
            "checksum": right[:-1] + bytes([right[-1] ^ 1]),
        }
        return wrong[fault] + right

    def stranger(self) -> None:
        """A connection of somebody who does not know the secret."""
        self.strangers += 1
        said = hello("stranger", 1, 1)
        first = frame(HELLO, said, number=1)
        choice = self.dice.randrange(5)
        if choice == 0:
            data = self.dice.randbytes(200)
        elif choice == 1:
            bent = bytearray(said)
            bent[self.dice.randrange(len(bent))] ^= 1 << self.dice.randrange(8)
            data = frame(HELLO, bytes(bent), number=1)
        elif choice == 2:
            data = first + frame(PROOF, pack((self.dice.randbytes(32),)), number=2)
        elif choice == 3:
            kind, channel, body = self.grammar.told()
            data = first + frame(kind, body, number=2, channel=channel)
        else:
            data = first + first
        Line(self.address).finish(data)
        self.sent += 2
