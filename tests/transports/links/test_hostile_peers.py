"""What a peer may do to a node that it is connected to: nothing, but be refused. Each refusal has a counted reason."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
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
    ENDED,
    FAIL,
    FIND,
    FOUND,
    HELLO,
    OPEN,
    OPENED,
    PING,
    PROOF,
    READY,
    REFUSE,
    RELIABLE,
    REPLY,
    SECONDS,
    TELL,
    UNWATCH,
    WANT,
    WATCH,
    Refused,
    WirePeer,
    code,
    frame,
    hello,
    pack,
)  # fmt: skip

from understudy import Actor, Message, Ref, System
from understudy.actors.cell import Cell
from understudy.actors.remote import session as sessions
from understudy.transports.links import network as networks
from understudy.transports.links import sockets

SECRET = b"a secret of at least thirty-two bytes"


class Note(Message[None]):
    number: int


class Echo(Message[int]):
    number: int


class Heard(Message[tuple[int, ...]]): ...


class Notes(Actor[Note | Echo | Heard]):
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def note(self, m: Note) -> None:
        self.numbers.append(m.number)

    def echo(self, m: Echo) -> int:
        return m.number

    def heard(self, m: Heard) -> tuple[int, ...]:
        return tuple(self.numbers)


class Gate:
    """Until it is opened, some actors wait."""

    opened: asyncio.Event


class Blob(Message[None]):
    body: bytes


class Node:
    """A node with its actors, and an honest peer that asks it."""

    def __init__(self, system: System, friend: System) -> None:
        self.system, self.friend = system, friend
        self.peers: list[WirePeer] = []
        self.notes = system.spawn(Notes, name="notes")
        self.address = system.listening[0]
        assert system.network is not None
        assert system.kernel.nodes is not None
        self.network, self.nodes = system.network, system.kernel.nodes

    def peer(self, name: str = "peer", epoch: int = 1) -> WirePeer:
        self.peers.append(WirePeer(self.address, SECRET, name, epoch))
        return self.peers[-1]

    async def join(self, name: str = "peer", epoch: int = 1, session: int = 1) -> WirePeer:
        return await self.peer(name, epoch).join(session)

    def count(self, what: str, name: str = "peer") -> int:
        """Refusals of this peer."""
        return self.nodes.counts[name, what]

    async def answers(self) -> None:
        """An honest peer is served, within a deadline."""
        await self.friend.joined("node", timeout=SECONDS)
        assert await self.friend.ref("node/notes").ask(Echo(7), timeout=SECONDS) == 7

    def session(self, name: str = "peer") -> sessions.Session:
        return self.nodes._sessions[name]


@asynccontextmanager
async def a_node() -> AsyncIterator[Node]:
    Gate.opened = asyncio.Event()
    escaped: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
    async with System(listen="tcp://127.0.0.1:0", name="node", secret=SECRET) as system:
        async with System(name="friend", join={"node": system.listening[0]}, secret=SECRET) as friend:
            node = Node(system, friend)
            await node.answers()
            try:
                yield node
                await node.answers()
            finally:
                Gate.opened.set()
                for peer in node.peers:
                    peer.abort()
    assert not escaped


def run(play: Callable[[Node], Awaitable[None]]) -> None:
    async def main() -> None:
        async with a_node() as node:
            await play(node)

    asyncio.run(main())


def note(number: int) -> dict[str, Any]:
    return {"$": "Note", "number": number}


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that is going to be, at most `SECONDS`."""
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110  # what it waits for tells nobody
            await asyncio.sleep(0)


FAULTS: dict[str, Callable[[WirePeer], bytes]] = {
    "magic": lambda peer: frame(PING, number=peer.number + 1, magic=0xD6),
    "version": lambda peer: frame(PING, number=peer.number + 1, version=2),
    "flags": lambda peer: frame(PING, number=peer.number + 1, flags=1),
    "kind": lambda peer: frame(HELLO, number=peer.number + 1),
    "number": lambda peer: frame(PING, number=peer.number + 2),
    "checksum": lambda peer: frame(PING, number=peer.number + 1)[:-1] + b"\0",
    "size": lambda peer: frame(PING, number=peer.number + 1)[:4] + (2**32 - 1).to_bytes(4, "big") + bytes(16),
}


@pytest.mark.promise(350)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_frame_ends_that_connection_alone_and_is_counted(fault: str) -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        peer.control((OPEN, 1, "notes"))
        peer.send(TELL, pack([note(1)]), 1)
        peer.write(FAULTS[fault](peer) + peer.put(TELL, pack([note(2)]), 1))
        await peer.ended()
        assert node.network.counts[fault] == 1
        assert await node.friend.ref("node/notes").ask(Heard(), timeout=SECONDS) == (1,)
        await node.join(session=2)  # and it may come again

    run(play)


@pytest.mark.promise(350)
def test_a_frame_that_is_repeated_and_one_that_is_cut_end_the_connection() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        said = peer.put(PING)
        peer.write(said + said)
        await peer.ended()
        assert node.network.counts["number"] == 1
        peer = await node.join(session=2)
        peer.write(peer.put(PING)[:20])
        peer.close()
        await until(lambda: node.network.counts["truncated"] == 1)

    run(play)


@pytest.mark.promise(351)
def test_a_handshake_of_a_byte_now_and_then_ends_when_its_time_is_over() -> None:
    async def play(node: Node) -> None:
        node.network._timing = sockets.Timing(handshake=0.5)
        peer = node.peer()
        await peer.connect()
        ended = asyncio.ensure_future(peer.ended())
        said = iter(peer.put(HELLO, hello("peer", 1, 1)))
        while not (await asyncio.wait([ended], timeout=0.02))[0]:
            peer.write(bytes([next(said, 0)]))
        assert node.network.counts["time"] == 1
        assert peer.heard[-1][0] == REFUSE

    run(play)


@pytest.mark.promise(351)
def test_a_frame_of_a_byte_now_and_then_keeps_nobody_from_being_served() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        peer.control((OPEN, 1, "notes"))
        for each in peer.put(TELL, pack([note(1)]), 1):
            peer.write(bytes([each]))
            await peer.drain()
            await node.answers()
        await peer.synced()
        assert await node.friend.ref("node/notes").ask(Heard(), timeout=SECONDS) == (1,)

    run(play)


DEEP = b"\x91" * 100_000 + b"\x01"
HUGE = b"\xdd\xff\xff\xff\xff"
BODIES = {
    "deep": DEEP,
    "deep map": b"\x81\xa1a" * 100_000 + b"\x01",
    "many": HUGE,
    "many in a map": b"\xdf\xff\xff\xff\xff",
    "long text": b"\xdb\xff\xff\xff\xff",
    "long bytes": b"\xc6\xff\xff\xff\xff",
    "many elements": b"\xdd" + (200_000).to_bytes(4, "big") + b"\x00" * 200_000,
    "extension": b"\xc7\x05\x01abcde",
    "empty": b"",
    "no array": b"\x01",
    "trailing": pack([]) + b"\x00",
}


@pytest.mark.promise(352)
@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_cannot_be_read_is_refused_and_counted_whatever_its_kind(body: str) -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        peer.control((OPEN, 1, "notes"))
        kinds = (TELL, ASK, ASK_CHAINED, RELIABLE, REPLY, CONTROL, BYE)
        for kind in kinds:
            peer.send(kind, BODIES[body], 1)
        await peer.synced()
        assert node.network.counts["body"] == len(kinds)

    run(play)


@pytest.mark.promise(352)
def test_after_a_hundred_bodies_that_cannot_be_read_a_connection_is_given_up() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        for _ in range(sockets.STRIKES):
            peer.send(CONTROL, b"\xc1")
        await peer.ended()
        assert node.network.counts["body"] == sockets.STRIKES
        await node.join(session=2)

    run(play)


@pytest.mark.promise(352)
def test_a_bad_message_is_refused_alone() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        peer.control((OPEN, 1, "notes"))
        bad = [{"$": "Other"}, {"$": "Note"}, {"$": "Note", "number": "x"}, 7, {"$": "Down", "path": "x"}, DEEP_INSIDE]
        peer.send(TELL, pack([note(1), *bad, note(2)]), 1)
        peer.send(ASK, pack([(n, 5.0, each) for n, each in enumerate([*bad, {"$": "Echo", "number": 9}])]), 1)
        assert await peer.until(REPLY) == [[len(bad), 9]]
        assert await node.friend.ref("node/notes").ask(Heard(), timeout=SECONDS) == (1, 2)
        assert node.count("refused") == 2
        assert node.network.counts["message"] == 2

    run(play)


DEEP_INSIDE: Any = 1
for _ in range(50):
    DEEP_INSIDE = [DEEP_INSIDE]


class Picky(Message[None]):
    number: int

    def __post_init__(self) -> None:
        {1: "one"}[self.number]


class Picks(Actor[Picky]):
    def picky(self, m: Picky) -> None: ...


@pytest.mark.promise(352)
def test_a_message_whose_own_check_raises_is_refused_and_the_connection_goes_on() -> None:
    async def play(node: Node) -> None:
        node.system.spawn(Picks, name="picks")
        peer = await node.join()
        peer.control((OPEN, 1, "picks"))
        peer.send(TELL, pack([{"$": "Picky", "number": 2}]), 1)
        await peer.synced()
        assert node.count("refused") == 1

    run(play)


@pytest.mark.promise(352)
def test_refused_messages_do_not_use_up_what_may_be_sent() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        peer.control((OPEN, 1, "notes"))
        await peer.until(CONTROL, OPENED)
        for _ in range(9):
            peer.send(TELL, pack([{"$": "Other"}] * 100), 1)
        item = await peer.until(CONTROL, CREDIT)
        assert item[2] > 1_000

    run(play)


@pytest.mark.promise(353)
def test_a_reliable_message_that_cannot_be_read_does_not_block_those_after_it() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        peer.control((OPEN, 1, "notes"))
        peer.send(RELIABLE, pack([(1, note(1)), (2, {"$": "Other"}), (3, note(3)), (5, note(5)), (1, note(1))]), 1)
        item = await peer.until(CONTROL, ACKED)
        while item[2] < 3:
            item = await peer.until(CONTROL, ACKED)
        assert await node.friend.ref("node/notes").ask(Heard(), timeout=SECONDS) == (1, 3)
        assert node.count("gap") == 1

    run(play)


@pytest.mark.promise(354)
def test_who_is_not_who_it_says_is_refused_and_the_reason_counted() -> None:
    async def refused(node: Node, why: str, peer: WirePeer, **more: Any) -> None:
        before = node.network.counts[why]
        with pytest.raises(Refused, match=why):
            await peer.join(**more)
        assert node.network.counts[why] == before + 1

    async def play(node: Node) -> None:
        await refused(node, "secret", node.peer(), secret=b"another secret of thirty-two bytes")
        for name in ("", "-x", ".", "a/b", "a b", "x" * 65, "\n", "@node"):
            await refused(node, "name", node.peer(name))
        await refused(node, "name", node.peer("node"))
        await refused(node, "self", node.peer("node", node.nodes.epoch))
        await refused(node, "stale", node.peer("friend", 1))  # a former life of one that is connected
        peer = await node.join(epoch=5, session=3)
        await refused(node, "stale", node.peer(epoch=5), session=3)  # an old connection
        await refused(node, "stale", node.peer(epoch=4), session=9)  # an old life
        peer.close()
        await refused(node, "stale", node.peer(epoch=4), session=9)  # also when it is gone
        assert node.nodes.connected_names[0] == "friend"

    run(play)


@pytest.mark.promise(354)
def test_a_handshake_that_was_overheard_proves_nothing_a_second_time() -> None:
    async def play(node: Node) -> None:
        peer = node.peer()
        await peer.connect()
        said = hello("peer", 1, 1)
        first = peer.put(HELLO, said)
        peer.write(first)
        await peer.read()
        second = peer.put(PROOF, pack((code(SECRET, b"dialer", said, peer.raw),)))
        peer.write(second)
        assert (await peer.read())[0] == READY
        peer.abort()
        again = node.peer()
        await again.connect()
        again.write(first + second)
        assert (await again.read())[0] == CHALLENGE
        kind, _, value = await again.read()
        assert (kind, value) == (REFUSE, ["secret", ""])
        assert node.network.counts["secret"] == 1

    run(play)


@pytest.mark.promise(354)
@pytest.mark.parametrize(
    ("why", "kind", "body"),
    [
        ("version", HELLO, hello("peer", 1, 1, versions=(2, 3))),
        ("malformed", HELLO, hello("peer", 1, 1, versions=())),
        ("malformed", HELLO, hello("peer", -1, 1)),
        ("malformed", HELLO, hello("peer", 1, 1, limits=(1, 1))),
        ("malformed", HELLO, hello("peer", 1, 1, nonce=b"short")),
        ("malformed", PROOF, pack((bytes(32),))),
        ("malformed", READY, pack((bytes(32),))),
        ("malformed", HELLO, b"\x91" * 4_000),
        ("malformed", HELLO, HUGE),
    ],
    ids=range(9),  # the bodies have drawn nonces
)
def test_a_stranger_who_says_something_else_is_refused_and_the_reason_counted(why: str, kind: int, body: bytes) -> None:
    async def play(node: Node) -> None:
        peer = node.peer()
        await peer.connect()
        peer.send(kind, body)
        assert (await peer.read())[2][0] == why
        await peer.ended()
        assert node.network.counts[why] == 1

    run(play)


@pytest.mark.promise(354)
def test_a_stranger_who_sends_messages_or_much_is_cut_off() -> None:
    async def play(node: Node) -> None:
        for n, (kind, size, why) in enumerate([(TELL, 10, "kind"), (PING, 0, "kind"), (HELLO, 4_097, "size")]):
            peer = node.peer()
            await peer.connect()
            peer.send(kind, bytes(size))
            await peer.ended()
            assert node.network.counts["kind"] + node.network.counts["size"] == n + 1
            assert node.network.counts[why]

    run(play)


@pytest.mark.promise(351)
def test_half_open_connections_beyond_the_limit_are_refused_and_those_who_are_in_stay() -> None:
    async def play(node: Node) -> None:
        strangers = [node.peer() for _ in range(networks.HALF_OPEN + 10)]
        for stranger in strangers:
            await stranger.connect()
        await asyncio.gather(*(stranger.ended() for stranger in strangers[networks.HALF_OPEN :]))
        assert node.network.counts["full"] == 10
        await node.answers()
        for stranger in strangers[: networks.HALF_OPEN]:
            stranger.abort()
        await until(lambda: not len(node.network._half_open))
        await node.join()

    run(play)


@pytest.mark.promise(351)
def test_connections_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "CONNECTIONS", 4)

    async def play(node: Node) -> None:
        peers = [await node.join(f"peer{n}") for n in range(3)]
        more = node.peer("more")
        await more.connect()
        await more.ended()
        assert node.network.counts["full"] == 1
        peers[0].abort()
        await until(lambda: len(node.network._links) == 3)
        await node.join("more")

    run(play)


class Large(Message[bytes]): ...


class Big(Actor[Large]):
    def large(self, m: Large) -> bytes:
        return bytes(500_000)


@pytest.mark.promise(355)
def test_who_never_reads_is_given_up() -> None:
    async def play(node: Node) -> None:
        node.system.spawn(Big, name="big")
        peer = await node.join()
        peer.control((OPEN, 1, "big"))
        for id in range(200):
            peer.send(ASK, pack([(id, 30.0, {"$": "Large"})]), 1)
        await until(lambda: node.network.counts["stuck"] == 1)
        await until(lambda: "peer" not in node.nodes.connected_names)
        await node.join(session=2)

    run(play)


@pytest.mark.promise(355)
@pytest.mark.parametrize("said", [(PING, b""), (CONTROL, pack([(FIND, 1, "notes")] * 1_000))], ids=["pings", "finds"])
def test_who_asks_for_answers_and_never_reads_is_given_up(
    monkeypatch: pytest.MonkeyPatch, said: tuple[int, bytes]
) -> None:
    monkeypatch.setattr(sockets, "STUCK", 1 << 18)

    async def play(node: Node) -> None:
        peer = await node.join()
        link: Any = node.session().link
        link._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        while not node.network.counts["stuck"]:
            try:
                for _ in range(100):
                    peer.send(*said)
                await peer.drain()
            except ConnectionError:
                pass
        assert "peer" not in node.nodes.connected_names

    run(play)


@pytest.mark.promise(355)
def test_one_frame_cannot_ask_for_more_answers_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "STUCK", 1 << 18)

    async def play(node: Node) -> None:
        peer = await node.join()
        peer.control((OPEN, 1, "notes"))
        peer.send(ASK, pack([(id, 1.0, 0) for id in range(30_000)]), 1)
        await until(lambda: node.network.counts["stuck"] == 1)

    run(play)


@pytest.mark.promise(355)
def test_channels_watches_and_names_of_a_peer_are_bounded_and_those_too_many_counted() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        most = sessions.CHANNELS
        for start in range(1, most + 101, 1_000):
            span = range(start, min(start + 1_000, most + 101))
            peer.control(*((OPEN, n, "notes") for n in span))
            peer.control(*((WATCH, n, "notes") for n in span))
            peer.control(*((WANT, f"name/{n}", n) for n in span))
        await peer.synced()
        assert node.count("many") == 300
        session = node.session()
        assert len(session._inlets) == len(session._sentinels) == most
        assert len(node.notes.cell().watchers) == most
        assert len(node.nodes.sure._taken["peer"][1]) == most
        peer.close()
        await until(lambda: not node.notes.cell().watchers)

    run(play)


@pytest.mark.promise(355)
def test_what_is_said_twice_is_refused_and_leaves_nothing_behind() -> None:
    async def play(node: Node) -> None:
        node.system.spawn(Slow, name="slow")
        peer = await node.join()
        peer.control(*((OPEN, 1, "notes") for _ in range(1_000)))
        peer.control(*((WATCH, 1, "notes") for _ in range(1_000)))
        peer.control((OPEN, 2, "slow"))
        peer.send(ASK, pack([(7, 30.0, {"$": "Wait"})] * 900), 2)
        await peer.synced()
        assert node.count("repeated") == 999 + 999 + 899
        assert len(node.notes.cell().watchers) == 1
        assert len(node.session().serving) == 1
        Gate.opened.set()
        assert await peer.until(REPLY) == [[7, None]]

    run(play)


class Wait(Message[None]): ...


class Slow(Actor[Wait]):
    async def wait(self, m: Wait) -> None:
        await Gate.opened.wait()


@pytest.mark.promise(356)
def test_answers_to_what_nobody_asked_are_counted_and_change_nothing() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        far = node.system.ref("peer/actor")
        asked = asyncio.ensure_future(far.ask(Wait(), timeout=SECONDS))
        await peer.until(ASK)
        peer.send(REPLY, pack([(id, 1) for id in (0, 99, 2**63, 2**64 - 1)]))
        peer.control(
            *((FAIL, id, "stopped", "x") for id in (0, 99, 2**63)),
            *((ENDED, id, 1, "error", "", False) for id in (0, 99)),
            *((FOUND, id, "x") for id in (0, 99)),
        )
        peer.control(
            *((CREDIT, channel, 2**63) for channel in (2, 2**32 - 1)),
            (OPENED, 9, 2**63, ("Note",), 1),
            (CLOSED, 9, "dead"),
        )
        peer.control((5, 9, 1, "dropped"))
        peer.control(*((ACKED, path, number) for path in ("", "actor", "x" * 1_000) for number in (0, 1, 2**63)))
        peer.control(*((CANCEL, id) for id in (1, 2**63)), *((UNWATCH, id) for id in (1, 2**63)))
        await peer.synced()
        assert not asked.done()
        assert node.count("unasked") == 4 + 3 + 2 + 2
        assert node.count("channel") == 2 + 1 + 1 + 1
        assert node.count("acked") == 9
        assert node.count("gone") == 4
        assert len(node.nodes._peers["peer"]._cells) == 1
        peer.control((CREDIT, 1, -1))
        peer.control((ACKED, "actor", -(2**63)))
        peer.control((WANT, "x" * 1_025, 1))
        peer.control((OPEN, 2**32, "notes"))
        peer.control((OPEN, 0, "notes"))
        peer.control((99, 1))
        peer.send(REPLY, pack([(-1, 1)]))
        await peer.synced()
        assert node.network.counts["body"] == 7
        peer.send(REPLY, pack([(1, None)]))
        await asked

    run(play)


@pytest.mark.promise(356)
def test_an_acknowledgement_of_what_was_never_sent_confirms_nothing() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        sent = asyncio.ensure_future(node.system.ref("peer/actor").send(Note(1), reliable=True, timeout=SECONDS))
        _, channel, _ = await peer.until(CONTROL, OPEN)
        peer.control((OPENED, channel, 100, ["Note"], 1_000))
        await peer.until(RELIABLE)
        peer.control((ACKED, "actor", 2), (ACKED, "other", 1), (ACKED, "actor", 0))
        await peer.synced()
        assert not sent.done()
        assert node.count("acked") == 2
        peer.control((ACKED, "actor", 1))
        assert await sent is True

    run(play)


@pytest.mark.promise(356)
def test_what_a_peer_says_of_its_numbers_and_requests_changes_nothing_of_another_peer() -> None:
    async def play(node: Node) -> None:
        node.system.spawn(Slow, name="slow")
        one, other = await node.join("one"), await node.join("other")
        for peer in (one, other):
            peer.control((OPEN, 1, "notes"), (OPEN, 2, "slow"), (WATCH, 1, "notes"))
            await peer.until(CONTROL, OPENED)
        one.send(ASK, pack([(7, 30.0, {"$": "Wait"})]), 2)
        await one.synced()
        other.control((CANCEL, 7), (UNWATCH, 1), (WANT, "notes", 50), (ACKED, "notes", 50))
        other.send(RELIABLE, pack([(50, note(50))]), 1)
        await other.synced()
        one.send(RELIABLE, pack([(1, note(1)), (2, note(2))]), 1)
        await one.synced()
        Gate.opened.set()
        assert await one.until(REPLY) == [[7, None]]
        assert await node.friend.ref("node/notes").ask(Heard(), timeout=SECONDS) == (50, 1, 2)
        assert len(node.notes.cell().watchers) == 1

    run(play)


class Closed(Actor[Blob]):
    """Handles nothing until it may."""

    mailbox_limit = 10

    def __init__(self) -> None:
        self.count = 0

    async def blob(self, m: Blob) -> None:
        await Gate.opened.wait()
        self.count += 1


@pytest.mark.promise(357)
def test_what_waits_for_room_is_bounded_also_over_many_connections_and_is_delivered_in_the_end() -> None:
    async def play(node: Node) -> None:
        closed = node.system.spawn(Closed, name="closed")
        blob = pack([{"$": "Blob", "body": bytes(500_000)}])

        async def fill(session: int) -> None:
            peer = await node.join(session=session)
            peer.control((OPEN, 1, "closed"))
            for _ in range(60):
                peer.send(TELL, blob, 1)
            read = asyncio.ensure_future(peer.synced())
            link: Any = node.session().link
            await until(lambda: read.done() or link._held)
            read.cancel()
            peer.abort()

        session = 1
        while node.nodes.peer("peer").held <= sessions.HELD:
            await fill(session)
            session += 1
        with pytest.raises(Refused, match="full"):
            await fill(session)
        held = node.nodes._peers["peer"].held
        assert sessions.HELD < held < sessions.HELD + (2 << 20)
        await node.answers()
        Gate.opened.set()
        await until(lambda: node.nodes._peers["peer"].held == 0)
        await node.join(session=session + 1)
        assert await node.system.peek(closed, lambda actor: actor.count) >= sessions.HELD // 501_000

    run(play)


@pytest.mark.promise(357)
def test_what_comes_before_an_actor_has_started_is_bounded_and_let_go_with_the_connection() -> None:
    async def play(node: Node) -> None:
        node.network._timing = sockets.Timing(heartbeat=0.3)  # that it is gone is noticed soon
        late = Ref[Any](Cell(node.system.kernel, "late", Closed))  # nothing ever starts it
        node.nodes.resolve = lambda _: late
        peer = await node.join()
        for channel in range(1, 1_001):
            peer.control((OPEN, channel, "late"))
            peer.send(TELL, pack([{"$": "Blob", "body": bytes(100_000)}]), channel)
        link: Any = node.session().link
        await until(lambda: link._held)
        assert sessions.HELD < node.nodes._peers["peer"].held < sessions.HELD + (2 << 20)
        assert len(node.session()._starting) == 1
        peer.abort()
        await until(lambda: "peer" not in node.nodes.connected_names)
        assert node.nodes._peers["peer"].held == 0
        node.nodes.resolve = node.system._reachable

    run(play)


@pytest.mark.promise(357)
def test_requests_whose_time_is_over_leave_nothing_behind() -> None:
    async def play(node: Node) -> None:
        node.system.spawn(Slow, name="slow")
        peer = await node.join()
        peer.control((OPEN, 1, "slow"))
        for start in range(0, 10_000, 100):
            peer.send(ASK, pack([(id, 0.0 if id % 2 else 1e-9, {"$": "Wait"}) for id in range(start, start + 100)]), 1)
        await peer.synced()
        assert len(node.session().serving) <= 1_001
        assert sum(item[0] == FAIL for kind, _, value in peer.heard if kind == CONTROL for item in value) >= 8_000

    run(play)


@pytest.mark.promise(357)
def test_a_chain_longer_than_chains_are_is_refused() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        peer.control((OPEN, 1, "notes"))
        for length in (33, 34, 10_000):
            hops = [("node", node.nodes.epoch, 1, "x")] * length
            peer.send(ASK_CHAINED, pack([(length, 5.0, {"$": "Echo", "number": 1}, hops)]), 1)
        assert await peer.until(REPLY) == [[33, 1]]
        await peer.synced()
        assert node.network.counts["body"] == 2

    run(play)


@pytest.mark.promise(357)
def test_more_messages_than_were_allowed_are_counted() -> None:
    async def play(node: Node) -> None:
        closed = node.system.spawn(Closed, name="closed")
        peer = await node.join()
        peer.control((OPEN, 1, "closed"))
        peer.send(TELL, pack([{"$": "Blob", "body": b""}] * 1_000), 1)
        await peer.synced()
        assert node.count("credit") == 0
        peer.send(TELL, pack([{"$": "Blob", "body": b""}]), 1)
        await peer.synced()
        assert node.count("credit") == 1
        Gate.opened.set()
        async with asyncio.timeout(SECONDS):
            while await node.system.peek(closed, lambda actor: actor.count) < 1_001:
                pass
        assert node.count("credit") == 1

    run(play)


class Fails(Actor[Note]):
    def note(self, m: Note) -> None:
        raise ValueError("\ud800" + "long " * 10_000)


@pytest.mark.promise(358)
def test_who_takes_only_small_frames_is_told_what_fits_and_others_are_told_as_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL", "understudy")  # a report of this crash cannot be sent to the process of another test

    async def play(node: Node) -> None:
        fails = node.system.spawn(Fails, name="fails")
        peer = node.peer()
        await peer.join(limits=(4_096, 1_000))
        peer.control((WATCH, 1, "fails"), (OPEN, 1, "fails"))
        watch = node.friend.watch(node.friend.ref("node/fails"), timeout=SECONDS)
        await until(lambda: len(fails.cell().watchers) == 2)
        peer.send(TELL, pack([note(1)]), 1)
        item = await peer.until(CONTROL, ENDED)
        assert 100 < len(item[4]) <= 1_000
        assert (await watch).kind == "error"

    run(play)


class Named(Message[None], tag="x" * 5_000): ...


class Many(Actor[Named]):
    def named(self, m: Named) -> None: ...


@pytest.mark.promise(358)
def test_a_peer_that_cannot_be_told_what_it_needs_is_given_up() -> None:
    async def play(node: Node) -> None:
        node.system.spawn(Many, name="many")
        peer = node.peer()
        await peer.join(limits=(4_096, 1_000))
        peer.control((OPEN, 1, "many"))
        await peer.ended()
        assert node.network.counts["untold"] == 1

    run(play)


@pytest.mark.promise(358)
def test_logs_of_what_a_peer_does_are_bounded_and_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        asked = asyncio.ensure_future(node.system.ref("peer/actor").ask(Wait(), timeout=SECONDS))
        await peer.until(ASK)
        caplog.clear()
        for _ in range(300):
            peer.control((5, 1, 1, "lost\nroot: a forged line\x1b[2J" + "x" * 900))
        for _ in range(50):
            peer.send(TELL, b"\x90", 77)
        peer.send(REPLY, pack([(1, None)]))
        await asked
        peer.send(BYE, pack(("because\nroot:", "of\r\nthat" * 200)))
        await until(lambda: "peer" not in node.nodes.connected_names)
        for session in range(2, 102):
            again = await node.join(session=session)
            again.abort()
            await until(lambda: "peer" not in node.nodes.connected_names)
        lines = [each.getMessage() for each in caplog.records]
        assert 150 <= len(lines) < 350
        assert all(each.isprintable() and len(each) < 1_000 for each in lines)
        assert node.count("dropped") == 300

    run(play)


@pytest.mark.promise(358)
def test_what_a_peer_does_is_counted_under_few_names() -> None:
    async def play(node: Node) -> None:
        peer = await node.join()
        for channel in range(1, 1_000):
            peer.control((OPEN, channel, f"none/{channel}"), (CREDIT, channel, 1), (WATCH, channel, f"none/{channel}"))
            peer.send(TELL, pack([{"$": f"Type{channel}"}]), channel)
        await peer.synced()
        assert {what for name, what in node.nodes.counts if name == "peer"} == {"unread", "channel"}
        assert node.count("unread") == node.count("channel") == 999

    run(play)
