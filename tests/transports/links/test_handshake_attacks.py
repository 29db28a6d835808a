"""Somebody between, in front of or behind the handshake: whatever they do, two sides that are done agree."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from handshakes import OTHER, SECRET, A, B, changed, meet, pack
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.transports.links.handshake import (
    CHALLENGE,
    HELLO,
    PROOF,
    READY,
    REFUSE,
    Dialer,
    Frames,
    Limits,
    Listener,
    Me,
    Peer,
)

KINDS = st.sampled_from([HELLO, CHALLENGE, PROOF, READY, REFUSE])
Mode = Literal["hmac", "tls"]
CERTIFICATES = [bytes([n]) * 32 for n in range(3)]


def sides(data: st.DataObject) -> tuple[Dialer, Listener]:
    """Any two sides, of one mode or two, that share a version or do not, with one secret or two."""
    draw = data.draw
    edges: list[tuple[Mode, bytes]] = [("hmac", b""), *(("tls", each) for each in CERTIFICATES)]

    def me(name: str) -> Me:
        versions = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
        numbers = st.integers(0, 2**64 - 1)
        return Me(name, draw(numbers), draw(numbers), versions, Limits(frame=draw(st.integers(4_096, 9_999))))

    secret = st.sampled_from([SECRET, SECRET, SECRET, OTHER])
    first = draw(st.sampled_from(edges))
    second = first if draw(st.booleans()) else draw(st.sampled_from(edges))
    return Dialer(draw(secret), me("a"), *first), Listener(draw(secret), me("b"), *second)


def agree(dialer: Dialer, listener: Listener) -> None:
    """A dialer that is done has a listener that is done, and each knows the other as it is."""
    for side in (dialer, listener):
        assert side.peer is None or side.refusal is None
    if dialer.peer is not None:
        assert listener.peer is not None
        version = max(set(dialer.me.versions) & set(listener.me.versions))
        assert dialer.mode == listener.mode
        a, b = dialer.me, listener.me
        assert dialer.peer == Peer(b.name, b.epoch, a.session, version, b.limits)
        assert listener.peer == Peer(a.name, a.epoch, a.session, version, a.limits)


@given(st.data())
def test_two_sides_that_are_not_disturbed_end_and_agree(data: st.DataObject) -> None:
    dialer, listener = sides(data)
    meet(dialer, listener)
    agree(dialer, listener)
    one_secret = dialer._secret is listener._secret
    one_version = bool(set(dialer.me.versions) & set(listener.me.versions))
    one_edge = (dialer.mode, dialer._certificate) == (listener.mode, listener._certificate)
    met = one_secret and one_version and one_edge
    assert (dialer.peer is not None) == (listener.peer is not None) == met
    assert (dialer.refusal is None) == (listener.refusal is None) == met


@pytest.mark.promise(310)
def test_no_bit_of_any_body_can_be_flipped() -> None:
    """Every bit of every body, one at a time: the side that gets it, or the one that reads its answer, refuses."""
    dialer, listener = Dialer(SECRET, A, nonce=bytes(32)), Listener(SECRET, B, nonce=bytes(32))
    bodies = {kind: body for _, kind, body in meet(dialer, listener)}
    for flipped, whole in bodies.items():
        for bit in range(8 * len(whole)):

            def flip(_: bool, kind: int, body: bytes, flipped: int = flipped, bit: int = bit) -> Frames:
                if kind != flipped:
                    return [(kind, body)]
                changed = bytearray(body)
                changed[bit // 8] ^= 1 << bit % 8
                return [(kind, bytes(changed))]

            dialer, listener = Dialer(SECRET, A, nonce=bytes(32)), Listener(SECRET, B, nonce=bytes(32))
            meet(dialer, listener, flip)
            assert dialer.peer is None, (flipped, bit)
            assert listener.peer is None or flipped == READY, (flipped, bit)
            assert dialer.refusal is not None


@pytest.mark.promise(310)
@given(st.data())
def test_who_changes_what_is_said_is_noticed(data: st.DataObject) -> None:
    """Another version list, name, epoch, session, nonce, mode, limits or certificate, on either way."""
    dialer, listener = sides(data)
    fields = {
        "versions": st.lists(st.integers(1, 4), min_size=1, max_size=3),
        "version": st.integers(1, 4),
        "name": st.sampled_from(["a", "b", "c"]),
        "epoch": st.integers(0, 2**64 - 1),
        "session": st.integers(0, 2**64 - 1),
        "nonce": st.binary(min_size=32, max_size=32),
        "mode": st.sampled_from(["hmac", "tls"]),
        "limits": st.just([4_096, 1]),
        "certificate": st.sampled_from([b"", *CERTIFICATES]),
    }
    altered = []

    def between(_: bool, kind: int, body: bytes) -> Frames:
        if kind not in (HELLO, CHALLENGE) or not data.draw(st.booleans()):
            return [(kind, body)]
        names = fields.keys() - ({"version", "certificate"} if kind == HELLO else {"session"})
        chosen = data.draw(st.lists(st.sampled_from(sorted(names)), min_size=1, max_size=3))
        other = changed(body, **{name: data.draw(fields[name]) for name in chosen})
        altered.append(other != body)
        return [(kind, other)]

    meet(dialer, listener, between)
    agree(dialer, listener)
    if any(altered):
        assert dialer.peer is None
        assert listener.peer is None


@pytest.mark.promise(310)
@given(st.data())
@settings(max_examples=200)
def test_who_sends_anything_in_any_order_never_makes_two_sides_disagree(data: st.DataObject) -> None:
    """Drops, repeats, swaps, sends back, replays what three other connections said, and makes up bodies."""
    heard: list[tuple[int, bytes]] = []
    for _ in range(3):
        olds = Dialer(SECRET, A), Listener(SECRET, B)
        heard += [(kind, body) for _, kind, body in meet(*olds)]
    dialer, listener = sides(data)
    waiting: list[tuple[bool, int, bytes]] = [(True, *frame) for frame in dialer.start()]
    heard += dialer.start()
    for _ in range(data.draw(st.integers(1, 20))):
        act = data.draw(st.sampled_from(["pass", "pass", "pass", "pass", "drop", "any", "made"]))
        if act in ("pass", "drop") and waiting:
            from_dialer, kind, body = waiting.pop(0)
            if act == "drop":
                continue
        else:
            from_dialer = data.draw(st.booleans())
            kind, body = data.draw(st.sampled_from(heard))
            kind = data.draw(KINDS) if act == "made" else kind
            body = data.draw(st.binary(max_size=64)) if act == "made" and data.draw(st.booleans()) else body
        answers = (listener if from_dialer else dialer).receive(kind, body)
        waiting += [(not from_dialer, *answer) for answer in answers]
        heard += answers
        agree(dialer, listener)


@pytest.mark.promise(310)
def test_an_old_handshake_proves_nothing_to_anybody() -> None:
    """Every frame of an old connection, replayed to each side of a new one."""
    old = meet(Dialer(SECRET, A), Listener(SECRET, B))
    listener = Listener(SECRET, B)
    for by_dialer, kind, body in old:
        if by_dialer:
            listener.receive(kind, body)
    assert listener.peer is None
    assert listener.refusal is not None
    assert listener.refusal.reason == "secret"
    dialer = Dialer(SECRET, A)
    dialer.start()
    for by_dialer, kind, body in old:
        if not by_dialer:
            dialer.receive(kind, body)
    assert dialer.peer is None
    assert dialer.refusal is not None
    assert dialer.refusal.reason == "secret"


@pytest.mark.promise(310)
def test_swapped_nonces_prove_nothing() -> None:
    dialer, listener = Dialer(SECRET, A), Listener(SECRET, B)
    mine = msgspec.msgpack.decode(dialer.start()[0][1])[4]
    yours: list[bytes] = []

    def swap(_: bool, kind: int, body: bytes) -> Frames:
        if kind == CHALLENGE:
            yours.append(msgspec.msgpack.decode(body)[4])
            return [(kind, changed(body, nonce=mine))]
        return [(kind, body)]

    meet(dialer, listener, swap)
    assert yours
    assert yours != [mine]
    assert dialer.peer is None
    assert listener.peer is None


@pytest.mark.promise(310)
@pytest.mark.parametrize("name", ["a", "mallory"])
def test_a_side_that_is_sent_its_own_words_does_not_believe_them(name: str) -> None:
    """Mallory has no secret, and makes two connections to the same node answer each other's riddles."""
    target = Me("b", 9)
    listener, other = Listener(SECRET, target), Listener(SECRET, target)
    hello = changed(Dialer(OTHER, Me(name, 1)).start()[0][1], name=name)
    ((_, challenge),) = listener.receive(HELLO, hello)
    for replay in (challenge, hello):
        assert [kind for kind, _ in other.receive(PROOF, replay)] in ([REFUSE], [])
    dialer = Dialer(SECRET, target)
    ((_, own),) = dialer.start()
    assert [kind for kind, _ in dialer.receive(CHALLENGE, own)] == [REFUSE]

    dialer = Dialer(SECRET, target)
    nonce = bytes(32)
    said = pack(1, [1], name, 1, nonce, "hmac", [4_096, 1], b"")
    dialer.start()
    ((kind, proof),) = dialer.receive(CHALLENGE, said)
    assert kind == PROOF
    assert dialer.receive(READY, proof)[0][0] == REFUSE  # its own code, sent back
    assert dialer.peer is None
    assert dialer.refusal is not None
    assert dialer.refusal.reason == "secret"


@pytest.mark.promise(310)
def test_a_proof_for_one_listener_is_none_for_another() -> None:
    """Who is dialled by "a" cannot go to "b" with what it is given: the challenge is in the code."""
    dialer, listener = Dialer(SECRET, A), Listener(SECRET, B)
    ((_, hello),) = dialer.start()
    listener.receive(HELLO, hello)
    ((_, proof),) = dialer.receive(CHALLENGE, pack(1, [1], "c", 1, bytes(32), "hmac", [4_096, 1], b""))
    assert listener.receive(PROOF, proof)[0][0] == REFUSE
    assert listener.peer is None


@given(KINDS, st.binary(max_size=200), st.integers(0, 3))
def test_nothing_that_arrives_raises(kind: int, body: bytes, steps: int) -> None:
    dialer, listener = Dialer(SECRET, A), Listener(SECRET, B)
    frames = dialer.start()
    for step in range(steps):
        frames = (dialer if step % 2 else listener).receive(*frames[0])
    for side in (dialer, listener):
        for _, answer in side.receive(kind, body):
            assert len(answer) < 4_096
        assert side.peer is None or side.refusal is None
