"""The test vectors of the wire format: what is written gives these bytes, what is read gives these values."""

import json
from typing import Any, get_args

import msgspec
import pytest
import wirepeer
from wire_vectors import CHAIN, FOLDER, FRAMES, ITEMS, NONCES, SECRET, Note, Sum, made, plain, text_of

from understudy.actors.remote.items import Control
from understudy.actors.remote.peer import UNREADABLE
from understudy.transports.links.greetings import Limits, Me
from understudy.transports.links.handshake import Dialer, Listener
from understudy.transports.links.keys import LinkSecret
from understudy.transports.links.reading import Reader, read_bye, read_items, read_replies
from understudy.transports.links.wire import (
    ASK,
    ASK_CHAINED,
    BYE,
    CONTROL,
    FRAME_BODY,
    PING,
    PONG,
    RELIABLE,
    REPLY,
    TALK,
    TELL,
    Incoming,
    WireError,
)  # fmt: skip


def kept(file: str) -> Any:
    return json.loads(FOLDER.joinpath(file).read_text(encoding="utf-8"))


def unplain(value: Any) -> Any:
    """A value whose bytes are bytes again."""
    if isinstance(value, list):
        return [unplain(each) for each in value]
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else {k: unplain(v) for k, v in value.items()}
    return value


@pytest.mark.promise(350)
def test_what_is_written_gives_the_bytes_of_the_files() -> None:
    for file, value in made().items():
        assert FOLDER.joinpath(file).read_text(encoding="utf-8") == text_of(value), f"{file}: run wire_vectors.py"
    assert {path.name for path in FOLDER.glob("*.json")} == set(made())


@pytest.mark.promise(350)
def test_the_bytes_of_the_files_give_what_they_say() -> None:
    incoming, reader, types = Incoming(), Reader(), (Note, Sum)
    incoming.kinds, incoming.limit = TALK, FRAME_BODY
    rows = kept("frames.json")
    found: list[tuple[int, int, Any]] = []

    def take(kind: int, channel: int, body: memoryview) -> bool:
        value: Any = None
        if kind in (TELL, ASK, ASK_CHAINED, RELIABLE):
            value = reader.read(kind, types, body)
        elif kind == CONTROL:
            value = read_items(body)
        elif kind == REPLY:
            value = [(id, msgspec.msgpack.decode(raw)) for id, raw in read_replies(body)]
        elif kind == BYE:
            value = read_bye(body)
        found.append((kind, channel, plain(value)))
        return True

    for row in rows:
        incoming.feed(bytes.fromhex(row["hex"]), take)
    assert found == [(row["kind"], row["channel"], row["body"]) for row in rows]


@pytest.mark.promise(350)
def test_every_kind_of_frame_and_every_item_has_a_vector() -> None:
    assert {row["kind"] for row in kept("frames.json")} == TALK
    assert {type(item) for item in ITEMS} == set(get_args(Control))
    assert {kind for _, kind, _, _ in FRAMES} == TALK - {PING, PONG, BYE}
    handshake = {row["kind"] for row in kept("handshake-hmac.json")["frames"]}
    assert handshake == {wirepeer.HELLO, wirepeer.CHALLENGE, wirepeer.PROOF, wirepeer.READY}
    assert len(CHAIN) == 2


@pytest.mark.promise(350)
def test_who_writes_a_node_from_the_page_alone_writes_the_same_bytes() -> None:
    for row in kept("frames.json"):
        said = [(row["kind"], row["number"], row["channel"])]
        data = bytes.fromhex(row["hex"])
        ((kind, number, channel, body),) = wirepeer.frames(data)
        assert [(kind, number, channel)] == said
        assert wirepeer.frame(kind, body, number=number, channel=channel) == data
        assert (wirepeer.unpack(body) if body else None) == unplain(row["body"])


@pytest.mark.promise(350)
@pytest.mark.parametrize("mode", ["hmac", "tls"])
def test_the_proofs_of_the_handshake_are_those_that_the_page_describes(mode: str) -> None:
    rows = kept(f"handshake-{mode}.json")
    said = [next(wirepeer.frames(bytes.fromhex(row["hex"]))) for row in rows["frames"]]
    assert [kind for kind, *_ in said] == [row["kind"] for row in rows["frames"]]
    hello, challenge, proof, ready = (body for *_, body in said)
    assert wirepeer.unpack(proof) == [wirepeer.code(SECRET, b"dialer", hello, challenge)]
    assert wirepeer.unpack(ready) == [wirepeer.code(SECRET, b"listener", hello, challenge)]
    for row, (*_, body) in zip(rows["frames"], said, strict=True):
        assert wirepeer.unpack(body) == unplain(row["body"])


@pytest.mark.promise(350)
@pytest.mark.parametrize("mode", ["hmac", "tls"])
def test_both_sides_take_the_handshake_of_the_files(mode: Any) -> None:
    rows = kept(f"handshake-{mode}.json")
    digest = unplain(rows["certificate"])
    hello, challenge, proof, ready = (next(wirepeer.frames(bytes.fromhex(row["hex"])))[3] for row in rows["frames"])
    epochs = [row["body"][2 if n == 0 else 3] for n, row in enumerate(rows["frames"][:2])]
    dialer = Dialer(LinkSecret(SECRET), Me("berlin", epochs[0], 3), mode, digest, nonce=NONCES[0])
    assert dialer.start() == [(wirepeer.HELLO, hello)]
    assert dialer.receive(wirepeer.CHALLENGE, challenge) == [(wirepeer.PROOF, proof)]
    dialer.receive(wirepeer.READY, ready)
    me = Me("oslo", epochs[1], limits=Limits(65_536, 500))
    listener = Listener(LinkSecret(SECRET), me, mode, digest, nonce=NONCES[1])
    assert listener.receive(wirepeer.HELLO, hello) == [(wirepeer.CHALLENGE, challenge)]
    assert listener.receive(wirepeer.PROOF, proof) == [(wirepeer.READY, ready)]
    assert dialer.peer is not None
    assert listener.peer is not None
    assert (dialer.peer.name, listener.peer.name) == ("oslo", "berlin")


@pytest.mark.promise(350)
def test_what_is_refused_is_refused_for_the_reason_in_the_files() -> None:
    for row in kept("refused.json"):
        incoming = Incoming()
        if row["when"] == "talk":
            incoming.kinds, incoming.limit = TALK, FRAME_BODY
        bad: list[Exception] = []

        def take(kind: int, channel: int, body: memoryview, bad: list[Exception] = bad) -> bool:
            reads: dict[int, Any] = {CONTROL: read_items, REPLY: read_replies, BYE: read_bye}
            try:
                if kind in reads:
                    reads[kind](body)
            except UNREADABLE as error:
                bad.append(error)
            return True

        try:
            incoming.feed(bytes.fromhex(row["hex"]), take)
            fault = "body" if bad else "truncated" if incoming.partial else ""
        except WireError as error:
            fault = error.fault
        assert fault == row["reason"], row["what"]
        assert row["ends"] is (fault != "body")
