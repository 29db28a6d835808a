"""Lanes: what an address writes to the frame that is open by itself. The same promises as the long way."""

import asyncio

import anyio
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wires import HubWires

from understudy.actors.errors import UsageError
from understudy.actors.remote.link import ENCODE, SMALL, Lane
from understudy.actors.remote.refs import FarRef
from understudy.transports.links.wire import CONTROL, FRAME_BODY, LENT, TALK, TELL, Incoming, Outgoing
from understudy.transports.testing.link_kit import (
    Echo,
    Gate,
    Held,
    Member,
    Note,
    Numbered,
    Seen,
    Small,
    Thing,
    begun,
    two,
)

# -- the frame ---------------------------------------------------------------------------------------------------

ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("lane"), st.integers(1, 3), st.integers(0, 2 * SMALL)),
        st.tuples(st.just("lane"), st.integers(1, 3), st.integers(0, 40)),
        st.tuples(st.just("add"), st.integers(1, 3), st.integers(0, 3_000)),
        st.tuples(st.just("control"), st.just(0), st.integers(0, 40)),
        st.tuples(st.just("write"), st.just(0), st.just(0)),
    ),
    max_size=300,
)


@pytest.mark.promise(360)
@settings(deadline=None)
@given(ACTS, st.sampled_from([4_096, 8_192, FRAME_BODY]), st.integers(1, 100))
@example([("lane", 1, 1_000)] * 50, 4_096, 100)
@example([("lane", 1, 2_000)] * 50, 8_192, 100)
def test_frames_hold_what_was_written_in_its_order_whoever_wrote_it(
    acts: list[tuple[str, int, int]], limit: int, most: int
) -> None:
    out, into = Outgoing(), Incoming()
    out.limit = into.limit = limit
    into.kinds = TALK
    lanes = {channel: Lane() for channel in (1, 2, 3)}
    charged = dict.fromkeys(lanes, 0)
    sent: list[tuple[int, int, bytes]] = []
    came: list[tuple[int, int, bytes]] = []

    def take(kind: int, channel: int, body: memoryview) -> bool:
        came.extend((kind, channel, value) for value in msgspec.msgpack.decode(body))
        return True

    for number, (act, channel, size) in enumerate(acts):
        value = number.to_bytes(4) + bytes(size)
        if act == "write":
            into.feed(bytes(out.take()), take)
            continue
        if act == "control":
            out.add(CONTROL, 0, value)
            sent.append((CONTROL, 0, value))
            continue
        lane = lanes[channel]
        if act == "lane" and lane.left and size + 20 <= SMALL:
            ENCODE(value, lane.buffer, -1)
            lane.left -= 1
        else:
            charged[channel] -= lane.settle()
            out.add(TELL, channel, value)
            charged[channel] += 1
            if act == "lane":
                lent = out.lend(TELL, channel, lane, most)
                assert 0 <= lent <= min(most, LENT)
                charged[channel] += lent
        sent.append((TELL, channel, value))
    into.feed(bytes(out.take()), take)
    assert came == sent
    for channel, lane in lanes.items():
        assert lane.left == 0, "what was lent is over when the frame is written"
        assert charged[channel] - lane.settle() == sum(kind == TELL and whose == channel for kind, whose, _ in sent)


@pytest.mark.promise(360)
def test_a_lane_that_was_settled_counts_what_it_wrote_and_no_more() -> None:
    out, lane = Outgoing(), Lane()
    out.limit = FRAME_BODY
    out.add(TELL, 1, "first")
    assert out.lend(TELL, 1, lane, 10) == 10
    ENCODE("second", lane.buffer, -1)
    lane.left -= 1
    assert lane.settle() == 9
    assert out.lend(TELL, 2, Lane(), 10) == 0, "the frame that is open is another's"
    assert (out.count, lane.left, lane.settle()) == (2, 0, 0)


# -- addresses ---------------------------------------------------------------------------------------------------

WAYS = st.lists(
    st.sampled_from(
        ["tell", "tell", "tell", "burst", "huge", "send", "ask", "big", "other", "bad", "turn", "two", "cut"]
    ),
    max_size=60,
)


@pytest.mark.promise(360)
@settings(deadline=None, max_examples=60)
@given(WAYS)
def test_what_is_sent_by_any_way_arrives_in_its_order_and_what_cannot_be_written_is_told_at_once(
    ways: list[str],
) -> None:
    anyio.run(_mixed, ways)


async def _mixed(ways: list[str]) -> None:
    async with two(HubWires()) as (met, a, b):
        actor = b.spawn("clerk")
        ref = a.ref("b/clerk")
        await ref.ask(Seen())  # its types are known
        sent: list[int] = []
        lost: set[int] = set()
        replies: list[asyncio.Task[int]] = []
        number = 0

        def tell(of: str = "x") -> None:
            nonlocal number
            number += 1
            if ref.tell(Note(of, number)):
                sent.append(number)

        for way in ways:
            if way in ("tell", "burst"):
                for _ in range(1 if way == "tell" else 150):
                    tell()
            elif way == "send":
                number += 1
                assert await ref.send(Note("x", number), timeout=10)
                sent.append(number)
            elif way == "ask":
                number += 1
                sent.append(number)
                replies.append(begun(ref.ask(Numbered("x", number), timeout=10)))
                await asyncio.sleep(0)
            elif way == "big":
                tell("x" * SMALL)
            elif way == "huge":
                for _ in range(50):
                    ref.tell(Echo(bytes(30_000)))
            elif way == "other":
                ref.tell(Echo(b"unasked"))
            elif way == "bad":
                with pytest.raises(UsageError, match="cannot be sent"):
                    ref.tell(Thing(object()))
            elif way == "two":
                _two_actors_in_turn(a, b)
            elif way == "turn":
                await asyncio.sleep(0)
            else:
                lost.update(sent)
                await met.cut_and_heal(a, b)
                await ref.ask(Seen(), timeout=10)
        for reply in replies:
            await asyncio.wait([reply])
        seen = [n for _, n in await ref.ask(Seen(), timeout=10)]
        assert [n for n in seen if n not in lost] == [n for n in sent if n not in lost]
        assert seen == sorted(set(seen))
        assert set(seen) <= set(sent)
        assert await actor.ask(Seen()) == tuple(await ref.ask(Seen(), timeout=10))


def _two_actors_in_turn(a: Member, b: Member) -> None:
    if b.kernel.registry.find("second") is None:
        b.spawn("second")
    ref = a.ref("b/second")
    for n in range(3):
        ref.tell(Note("second", n))


@pytest.mark.promise(360)
def test_no_more_is_written_than_there_is_credit_for_and_each_refusal_is_told() -> None:
    anyio.run(_slow)


async def _slow() -> None:
    async with two(HubWires()) as (_, a, b):
        gate = Gate()
        actor = b.spawn("clerk", Small, gate)
        ref = a.ref("b/clerk")
        assert isinstance(ref, FarRef)
        await ref.ask(Seen())
        ref.tell(Held())
        far = ref.far
        taken = 0
        for n in range(3_000):
            taken += bool(ref.tell(Note("x", n)))
            assert far.sent <= far.allowed
            if n % 97 == 0:
                await asyncio.sleep(0)
        assert taken < 3_000, "a mailbox of ten with a window is full"
        assert b.nodes.counts.get(("a", "credit"), 0) == 0
        gate.open()
        seen = await actor.ask(Seen(), timeout=10)
        while len(seen) < taken:
            seen = await ref.ask(Seen(), timeout=10)
        assert len(seen) == taken
        assert far.peer.full == 3_000 - taken
