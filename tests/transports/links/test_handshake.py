"""The handshake between two honest sides, and each way in which one of them is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from handshakes import OTHER, SECRET, A, B, changed, meet, pack, unchanged

from understudy.actors.errors import SpecError
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
    Refusal,
    read_refusal,
    refuse_body,
)

DIGEST, FOREIGN = bytes(range(32)), bytes(32)
NO_HELLOS = [
    (HELLO, b"", "HELLO: Input data was truncated"),
    (HELLO, b"\xc1", "HELLO: "),
    (HELLO, b"\x91" * 4_096, "HELLO: "),
    (HELLO, b"\xdd\xff\xff\xff\xff", "HELLO: "),
    (
        HELLO,
        pack([1], "a", 1, 1, bytes(32), "hmac", [4_096, 1], 0),
        "HELLO: Expected `array` of at most length 7, got 8",
    ),
    (HELLO, pack(), "HELLO: Expected `array` of at least length 7"),
    (HELLO, b"\x80", "HELLO: Expected `array`, got `object`"),
    (HELLO, bytes(4_097), "HELLO has 4,097 bytes; at most 4,096"),
    (HELLO, pack([1], "a", 1, 1, bytes(31), "hmac", [4_096, 1]), "`bytes` of length >= 32 - at `$[4]`"),
    (HELLO, pack([1], "a", -1, 1, bytes(32), "hmac", [4_096, 1]), "`int` >= 0 - at `$[2]`"),
    (HELLO, pack([], "a", 1, 1, bytes(32), "hmac", [4_096, 1]), "at `$[0]`"),
    (HELLO, pack([0], "a", 1, 1, bytes(32), "hmac", [4_096, 1]), "at `$[0][0]`"),
    (HELLO, pack([1] * 33, "a", 1, 1, bytes(32), "hmac", [4_096, 1]), "at `$[0]`"),
    (HELLO, pack([1], "a", 1, 1, bytes(32), "hmac", [4_095, 1]), "at `$[6][0]`"),
    (HELLO, pack([1], "a", 1, 1, bytes(32), "hmac", [4_096, 0]), "at `$[6][1]`"),
    (HELLO, pack([1], "a", 1, 1, bytes(32), "hmac", [4_096, 1]) + b"\x00", "trailing characters"),
    (HELLO, pack([1], "a", 1, 1, bytes(32), "hmac", [4_096, 1]).replace(b"hmac", b"\xff\xfe\xfd\xfc"), "utf-8"),
    (PROOF, pack(bytes(32)), "PROOF where HELLO is due"),
    (16, b"", "kind 16 where HELLO is due"),
]


def refused(dialer: Dialer, listener: Listener) -> tuple[Refusal, Refusal]:
    assert dialer.peer is None
    assert listener.peer is None
    assert dialer.refusal is not None
    assert listener.refusal is not None
    assert dialer.refusal.reason == listener.refusal.reason
    return dialer.refusal, listener.refusal


@pytest.mark.promise(310)
@pytest.mark.parametrize(("mode", "digest"), [("hmac", b""), ("tls", DIGEST)])
def test_two_sides_with_one_secret_know_each_other(mode: str, digest: bytes) -> None:
    dialer = Dialer(SECRET, A, mode, digest)  # type: ignore[arg-type]  # one of the two
    listener = Listener(SECRET, B, mode, digest)  # type: ignore[arg-type]  # one of the two
    said = meet(dialer, listener)
    assert [(kind, by_dialer) for by_dialer, kind, _ in said] == [
        (HELLO, True),
        (CHALLENGE, False),
        (PROOF, True),
        (READY, False),
    ]
    assert dialer.peer == Peer("b", 9, 3, 1, B.limits)
    assert listener.peer == Peer("a", 7, 3, 1, A.limits)
    assert dialer.refusal is listener.refusal is None
    assert max(len(body) for _, _, body in said) < 300


@pytest.mark.promise(310)
def test_a_wrong_secret_is_refused_and_the_other_side_is_told_nothing_else() -> None:
    dialer, listener = Dialer(OTHER, A), Listener(SECRET, B)
    said = meet(dialer, listener)
    assert [kind for _, kind, _ in said] == [HELLO, CHALLENGE, PROOF, REFUSE]
    assert said[-1][2] == pack("secret", "")
    theirs, ours = refused(dialer, listener)
    assert (theirs.reason, theirs.theirs) == ("secret", True)
    assert ours.text == "'a' does not know the secret of 'b', or what was said was changed"


@pytest.mark.promise(310)
def test_a_stranger_who_dials_is_given_no_code() -> None:
    """Whatever comes instead of a proof: the only other body a stranger gets is the refusal."""
    for kind, body in [(PROOF, pack(bytes(32))), (PROOF, b""), (READY, pack(bytes(32))), (HELLO, b"")]:
        dialer, listener = Dialer(OTHER, A), Listener(SECRET, B)
        ((sent, challenge),) = listener.receive(*dialer.start()[0])
        assert sent == CHALLENGE
        assert [kind for kind, _ in listener.receive(kind, body)] == [REFUSE]
        assert listener.receive(PROOF, pack(SECRET.code(b"dialer", dialer.start()[0][1], challenge))) == []
        assert listener.peer is None


@pytest.mark.promise(310)
def test_a_listener_that_does_not_know_the_secret_is_refused() -> None:
    dialer, listener = Dialer(SECRET, A), Listener(OTHER, B)

    def never_refuses(by_dialer: bool, kind: int, body: bytes) -> Frames:
        """An impostor would not refuse the proof; it sends a code of its own."""
        return (
            [(READY, pack(OTHER.code(b"listener", b"", b"")))] if kind == REFUSE and not by_dialer else [(kind, body)]
        )

    meet(dialer, listener, never_refuses)
    assert dialer.peer is None
    assert dialer.refusal == Refusal("secret", "'b' does not know the secret of 'a', or what was said was changed")


@pytest.mark.promise(311)
def test_the_highest_version_that_both_speak_is_chosen() -> None:
    a, b = Me("a", 7, versions=(3, 1, 2)), Me("b", 9, versions=(2, 5, 1))
    dialer, listener = Dialer(SECRET, a), Listener(SECRET, b)
    meet(dialer, listener)
    assert dialer.peer is not None
    assert listener.peer is not None
    assert dialer.peer.version == listener.peer.version == 2


@pytest.mark.promise(311)
def test_without_a_common_version_both_sides_say_what_both_speak() -> None:
    dialer, listener = Dialer(SECRET, Me("a", 7, versions=(2, 3))), Listener(SECRET, B)
    meet(dialer, listener)
    theirs, ours = refused(dialer, listener)
    assert ours == Refusal("version", "'b' speaks versions 1; 'a' speaks 2, 3")
    assert theirs == Refusal("version", "refused: 'b' speaks versions 1; 'a' speaks 2, 3", theirs=True)


@pytest.mark.promise(311)
@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        ({"version": 1}, "version", "'b' chose version 1 and speaks 1, 2; 'a' speaks 1, 2"),
        ({"version": 1, "versions": (1,)}, None, ""),
        ({"version": 9}, "version", "'b' chose version 9 and speaks 1, 2; 'a' speaks 1, 2"),
        ({"mode": "tls"}, "mode", "'b' says 'tls', 'a' asked for 'hmac'"),
        ({"certificate": FOREIGN}, "certificate", f"'b' has the certificate {'00' * 32}; this connection shows none"),
    ],
)
def test_a_challenge_that_takes_something_back_is_refused(
    change: dict[str, object], reason: str | None, text: str
) -> None:
    """Where the dialer cannot see it by looking, the codes differ."""
    dialer = Dialer(SECRET, Me("a", 7, versions=(1, 2)))
    listener = Listener(SECRET, Me("b", 9, versions=(1, 2)))
    meet(dialer, listener, lambda _, kind, body: [(kind, changed(body, **change) if kind == CHALLENGE else body)])
    theirs, _ = refused(dialer, listener)
    assert theirs.reason == (reason or "secret")
    assert text in theirs.text


@pytest.mark.promise(311)
def test_a_side_with_tls_and_one_without_do_not_meet() -> None:
    for dialer, listener in [
        (Dialer(SECRET, A, "tls", DIGEST), Listener(SECRET, B)),
        (Dialer(SECRET, A), Listener(SECRET, B, "tls", DIGEST)),
    ]:
        meet(dialer, listener)
        theirs, ours = refused(dialer, listener)
        assert ours.reason == "mode"
        assert ours.text == f"'a' asks for {dialer.mode!r}; 'b' has {listener.mode!r} here"
        assert theirs.text == f"refused: {ours.text}"


@pytest.mark.promise(312)
def test_who_stands_between_with_a_certificate_of_its_own_is_refused() -> None:
    """The dialer sees the certificate of who stands between, the listener means its own."""
    dialer, listener = Dialer(SECRET, A, "tls", FOREIGN), Listener(SECRET, B, "tls", DIGEST)
    meet(dialer, listener)
    theirs, ours = refused(dialer, listener)
    assert theirs.text == f"'b' has the certificate {DIGEST.hex()}; this connection shows {FOREIGN.hex()}"
    assert ours == Refusal("certificate", f"refused: {theirs.text}", theirs=True)

    def lies(_: bool, kind: int, body: bytes) -> Frames:
        return [(kind, changed(body, certificate=FOREIGN) if kind == CHALLENGE else body)]

    dialer, listener = Dialer(SECRET, A, "tls", FOREIGN), Listener(SECRET, B, "tls", DIGEST)
    meet(dialer, listener, lies)
    assert refused(dialer, listener)[1].reason == "secret"


@pytest.mark.promise(313)
def test_a_node_that_dials_itself_or_its_namesake_is_refused() -> None:
    dialer, listener = Dialer(SECRET, A), Listener(SECRET, A)
    meet(dialer, listener)
    assert refused(dialer, listener)[1] == Refusal("self", "'a' dialled itself")
    dialer, listener = Dialer(SECRET, A), Listener(SECRET, Me("a", 8))
    meet(dialer, listener)
    assert refused(dialer, listener)[1] == Refusal("name", "two nodes are called 'a': epochs 7 and 8")


@pytest.mark.promise(313)
@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "x" * 65, "a\n", "@node", "a\x1b[2J"])
def test_a_name_that_is_none_is_refused_in_one_line_that_prints(name: str) -> None:
    hello = changed(Dialer(SECRET, A).start()[0][1], name=name)
    listener = Listener(SECRET, B)
    listener.receive(HELLO, hello)
    assert listener.refusal is not None
    assert listener.refusal.reason == "name"
    assert listener.refusal.text.isprintable()
    dialer = Dialer(SECRET, A)
    challenge = Listener(SECRET, B).receive(*dialer.start()[0])[0][1]
    assert dialer.receive(CHALLENGE, changed(challenge, name=name))[0][0] == REFUSE
    assert dialer.refusal is not None
    assert dialer.refusal.reason == "name"
    assert dialer.refusal.text.isprintable()
    with pytest.raises(SpecError, match="node name"):
        Me(name, 1)


@pytest.mark.promise(313)
def test_a_listener_that_has_the_name_of_the_dialer_is_refused_before_anything_is_proven() -> None:
    dialer = Dialer(SECRET, A)
    challenge = Listener(SECRET, B).receive(*dialer.start()[0])[0][1]
    assert [kind for kind, _ in dialer.receive(CHALLENGE, changed(challenge, name="a"))] == [REFUSE]
    assert dialer.refusal == Refusal("name", "two nodes are called 'a': epochs 9 and 7")


@pytest.mark.promise(313)
def test_who_has_proven_itself_may_still_be_refused_and_is_told_why() -> None:
    asked = []

    def admit(peer: Peer) -> Refusal | None:
        asked.append(peer)
        return Refusal("stale", f"{peer.name!r} has epoch {peer.epoch}; 8 was seen")

    dialer, listener = Dialer(SECRET, A), Listener(SECRET, B, admit=admit)
    said = meet(dialer, listener)
    theirs, ours = refused(dialer, listener)
    assert [kind for _, kind, _ in said] == [HELLO, CHALLENGE, PROOF, REFUSE]
    assert asked == [Peer("a", 7, 3, 1, A.limits)]
    assert ours.text == "'a' has epoch 7; 8 was seen"
    assert (theirs.reason, theirs.text) == ("stale", f"refused: {ours.text}")


@pytest.mark.promise(313)
def test_nobody_is_asked_about_who_has_not_proven_itself() -> None:
    asked: list[Peer] = []
    meet(Dialer(OTHER, A), Listener(SECRET, B, admit=asked.append))
    assert asked == []


def test_a_dialer_refuses_a_stale_listener_before_it_proves_itself() -> None:
    dialer = Dialer(SECRET, A, admit=lambda peer: Refusal("stale", f"{peer.name!r} has epoch {peer.epoch}"))
    listener = Listener(SECRET, B)
    said = meet(dialer, listener)
    assert [kind for _, kind, _ in said] == [HELLO, CHALLENGE, REFUSE]
    assert refused(dialer, listener)[0].text == "'b' has epoch 9"


@pytest.mark.parametrize("by_dialer", [True, False])
def test_a_side_whose_time_is_up_says_so_once(by_dialer: bool) -> None:
    dialer, listener = Dialer(SECRET, A), Listener(SECRET, B)
    side, other = (dialer, listener) if by_dialer else (listener, dialer)
    (frame,) = side.refuse(Refusal("time", "no handshake within 5 s"))
    assert other.receive(*frame) == []
    assert side.refuse(Refusal("full", "later")) == []
    assert refused(dialer, listener)[by_dialer].text == "refused: no handshake within 5 s"


def test_what_comes_after_the_end_changes_nothing() -> None:
    dialer, listener = Dialer(SECRET, A), Listener(SECRET, B)
    said = meet(dialer, listener)
    before = (dialer.peer, listener.peer)
    for by_dialer, kind, body in [*said, (True, REFUSE, pack("full", "")), (False, REFUSE, pack("full", ""))]:
        assert (listener if by_dialer else dialer).receive(kind, body) == []
        assert listener.refuse(Refusal("full", "")) == dialer.refuse(Refusal("full", "")) == []
    assert (dialer.peer, listener.peer) == before
    assert dialer.refusal is listener.refusal is None


@pytest.mark.promise(314)
@pytest.mark.parametrize(("kind", "body", "text"), NO_HELLOS, ids=range(len(NO_HELLOS)))
def test_what_is_not_a_hello_is_refused_with_its_place(kind: int, body: bytes, text: str) -> None:
    listener = Listener(SECRET, B)
    ((sent, refusal),) = listener.receive(kind, body)
    assert sent == REFUSE
    assert listener.refusal is not None
    assert listener.refusal.reason == "malformed"
    assert text in listener.refusal.text
    assert read_refusal(refusal) == Refusal("malformed", f"refused: {listener.refusal.text}", theirs=True)


@pytest.mark.promise(314)
def test_a_refusal_is_read_as_one_line_that_prints_whatever_it_says() -> None:
    said = read_refusal(pack("full", "no room\x1b[2J\nERROR forged line\u202e"))
    assert said == Refusal("full", "refused: no room?[2J?ERROR forged line?", theirs=True)
    assert len(read_refusal(pack("full", "x" * 1_000)).text) == 500
    assert read_refusal(pack("tired", "come back")).reason == "malformed"
    for body in [b"", pack("full"), pack("full", "x" * 1_001), pack("full", 3), b"\xa1" * 5_000]:
        assert read_refusal(body).reason == "malformed"
    for text in ["x" * 5_000, "\ud800", "\U0001f600" * 600]:
        assert read_refusal(refuse_body(Refusal("time", text))).reason == "time"


def test_a_machine_that_could_not_be_one_is_refused_where_it_is_made() -> None:
    wrongs: list[Callable[[], object]] = [
        lambda: Me("a", -1),
        lambda: Me("a", 2**64),
        lambda: Me("a", 1, session=2**64),
        lambda: Me("a", 1, versions=()),
        lambda: Me("a", 1, versions=(256,)),
        lambda: Me("a", 1, limits=Limits(frame=100)),
        lambda: Dialer(SECRET, A, "tls", b""),
        lambda: Dialer(SECRET, A, "hmac", DIGEST),
        lambda: Dialer(SECRET, A, "none"),  # type: ignore[arg-type]  # as a program without types does
        lambda: Listener(SECRET, A, nonce=b"short"),
    ]
    for wrong in wrongs:
        with pytest.raises(SpecError):
            wrong()
    meet(Dialer(SECRET, Me("a", 2**64 - 1, session=2**64 - 1)), listener := Listener(SECRET, B), unchanged)
    assert listener.peer is not None
    assert listener.peer.epoch == listener.peer.session == 2**64 - 1


def test_no_two_connections_have_the_same_nonces() -> None:
    hellos = {Dialer(SECRET, A).start()[0][1] for _ in range(100)}
    challenges = {Listener(SECRET, B).receive(HELLO, body)[0][1] for body in hellos}
    assert len(hellos) == len(challenges) == 100
