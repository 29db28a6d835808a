"""One conformance suite for links, run by those within a process, over TCP, Unix sockets and TLS, and by any other one.

A kind of link conforms if `check_links` passes. Each check in `CHECKS` takes new `Wires` (see `link_kit`), which bring
nodes together by it and cut them apart; they can be run one by one:

    @pytest.mark.parametrize("name", CHECKS)
    def test_my_links_conform(name: str) -> None:
        anyio.run(CHECKS[name], MyWires())

Not covered, because it takes more than two nodes and a cut: what arrives changed, late or never (see `link_faults`),
and who may connect at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from understudy.actors.errors import (
    ActorStopped,
    AskError,
    AskTimeout,
    MailboxFull,
    NotHandled,
    ReplyLost,
    UsageError,
)
from understudy.actors.refs import Refused
from understudy.actors.remote.inlets import WINDOW
from understudy.transports.links.wire import FRAME_BODY
from understudy.transports.testing import link_lives as lives
from understudy.transports.testing.link_kit import (
    SECONDS,
    Big,
    Boom,
    Call,
    Echo,
    End,
    Gate,
    Held,
    Left,
    Member,
    Note,
    Numbered,
    Other,
    Seen,
    Small,
    Thing,
    Unwritable,
    Wires,
    Wrong,
    begun,
    expect,
    holds,
    meeting,
    raises,
    two,
    until,
)
from understudy.transports.testing.link_kit import Clerk as Clerk

Check = Callable[[Wires], Awaitable[None]]


async def check_links(make: Callable[[], Wires]) -> None:
    """Run every check, each with new wires from `make`. Raises `AssertionError` naming the first that fails."""
    for name, check in CHECKS.items():
        try:
            await check(make())
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


# -- messages --------------------------------------------------------------------------------------------------


async def a_message_is_handled_and_a_request_is_answered(wires: Wires) -> None:
    """In both directions, whoever joined whom."""
    async with two(wires) as (_, a, b):
        for here, there in ((a, b), (b, a)):
            target = there.spawn("clerk")
            ref = here.ref(f"{there.nodes.name}/clerk")
            expect(ref.tell(Note("x", 1)), True, "tell")
            expect(await ref.send(Note("x", 2)), True, "send")
            expect(await ref.ask(Echo(b"\0\xff" * 9)), b"\0\xff" * 9, "the reply")
            expect(await target.ask(Seen()), (("x", 1), ("x", 2)), "notes")


async def _busy(here: Member, path: str, of: str, count: int) -> list[int]:
    """Send numbers in turn by tell, send and ask; those that were taken."""
    ref = here.ref(path)
    taken = []
    for n in range(count):
        if n % 3 == 0:
            expect(await ref.ask(Numbered(of, n), timeout=SECONDS), n, "the reply")
            told = True
        else:
            told = bool(ref.tell(Note(of, n)) if n % 3 == 1 else await ref.send(Note(of, n), timeout=SECONDS))
        if told:
            taken.append(n)
        if n % 50 == 0:
            await asyncio.sleep(0)
    return taken


async def order_is_kept_for_each_sender(wires: Wires) -> None:
    """Of tells, sends and requests of one sender to one actor, in both directions at once; what was taken arrives."""
    async with two(wires) as (_, a, b):
        a.spawn("clerk")
        b.spawn("clerk")
        pairs = [(here, there, f"{n}") for here, there in ((a, b), (b, a)) for n in range(3)]
        taken = await asyncio.gather(*(_busy(here, f"{there.nodes.name}/clerk", of, 300) for here, there, of in pairs))
        for (here, there, of), wanted in zip(pairs, taken, strict=True):
            seen = await here.ref(f"{there.nodes.name}/clerk").ask(Seen(), timeout=SECONDS)  # behind all the others
            expect([n for whose, n in seen if whose == of], wanted, f"what {there.nodes.name} got of {of}")
            holds(len(wanted) >= 200, "sends and requests are taken")


async def order_is_kept_within_one_turn_of_the_loop(wires: Wires) -> None:
    """Of small and large messages to two actors, and requests; what cannot be sent is told, no more is lost."""
    async with two(wires) as (_, a, b):
        for name in ("one", "two"):
            b.spawn(name)
            await a.ref(f"b/{name}").ask(Seen())
        one, other = a.ref("b/one"), a.ref("b/two")
        wanted: list[int] = []
        asked = []
        for n in range(400):
            to = other if n % 50 == 49 else one
            if n % 70 == 69:
                asked.append(begun(to.ask(Numbered("x", n), timeout=SECONDS)))
                await asyncio.sleep(0)  # it is sent
            elif n % 90 == 89:
                try:
                    to.tell(Thing(object()))
                except UsageError:
                    continue
                raise AssertionError("what cannot be written was sent")
            else:
                holds(to.tell(Note("x" * (3_000 if n % 40 == 39 else 1), n)), f"message {n} is taken")
            if to is one:
                wanted.append(n)
        await asyncio.gather(*asked)
        expect([n for _, n in await one.ask(Seen(), timeout=SECONDS)], wanted, "the order at one actor")


async def order_is_kept_among_requests_that_wait(wires: Wires) -> None:
    """Requests that are begun one after the other are handled so."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk")
        ref = a.ref("b/clerk")
        asked = [begun(ref.ask(Numbered("x", n), timeout=SECONDS)) for n in range(200)]
        expect(await asyncio.gather(*asked), list(range(200)), "replies")
        expect([n for _, n in await ref.ask(Seen())], list(range(200)), "the order at the actor")


async def three_nodes_talk_to_each_other(wires: Wires) -> None:
    """A request goes through all of them, and each knows the two others."""
    async with meeting(wires) as met:
        a = await met.node("a")
        b = await met.node("b", "a")
        c = await met.node("c", "a", "b")
        await a.met("b", "c")
        await b.met("c")
        for node in (a, b, c):
            node.spawn("clerk")
        expect(await a.ref("b/clerk").ask(Call(("c/clerk", "a/clerk"))), "", "from a over b and c to a")
        expect(a.nodes.connected_names, ("b", "c"), "whom a knows")
        expect(c.nodes.connected_names, ("a", "b"), "whom c knows")


# -- deadlines -------------------------------------------------------------------------------------------------


async def a_deadline_travels(wires: Wires) -> None:
    """The handler sees what is left of it, and passes no more on."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk")
        left = await a.ref("b/clerk").ask(Left(), timeout=20.0)
        holds(left is not None and 0 < left <= 20.0 + 1e-3, f"left of 20 s: {left}")


async def an_expired_request_is_not_handled(wires: Wires) -> None:
    """Its asker is told at its deadline, and the actor never sees it; nothing is kept of it on either side."""
    async with two(wires) as (_, a, b):
        gate = Gate()
        clerk = b.spawn("clerk", gate=gate)
        ref = a.ref("b/clerk")
        first = begun(ref.ask(Held(), timeout=SECONDS))
        await until(lambda: gate.entered == 1, "the first request is at work")
        late = begun(ref.ask(Numbered("late", 1), timeout=0.1))
        await until(lambda: clerk.cell().waiting == 1, "the second one waits")
        until_then = asyncio.get_running_loop().time() + 0.1
        await raises(AskTimeout, late, "the second request")
        await until(lambda: asyncio.get_running_loop().time() > until_then, "it has expired there as well")
        gate.open()
        expect(await first, 0, "the first reply")
        expect(await ref.ask(Seen()), (), "what was handled")
        expect(b.letters("expired"), [Numbered("late", 1)], "dead letters")
        await until(lambda: a.nodes.peer("b").asking == 0, "the asker keeps nothing of it")


async def a_late_reply_is_a_dead_letter(wires: Wires) -> None:
    """Of the node that asked."""
    async with two(wires) as (_, a, b):
        gate = Gate()
        b.spawn("clerk", gate=gate)
        await raises(AskTimeout, a.ref("b/clerk").ask(Held(), timeout=0.1), "a request that is held")
        gate.open()
        await until(lambda: a.letters("late") == [0] or b.letters("late") == [0], "the late reply is a dead letter")
        await until(lambda: a.nodes.peer("b").asking == 0, "the asker keeps nothing of it")


# -- how requests fail -----------------------------------------------------------------------------------------


async def who_does_not_take_a_message_says_what_it_takes(wires: Wires) -> None:
    """A request of an unknown type is `NotHandled`, a tell of one is refused; also before anything else was sent."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk")
        ref = a.ref("b/clerk")
        for when in ("first", "later"):
            error = await raises(NotHandled, ref.ask(Other()), f"an unknown request, {when}")
            expect(error.target, "b/clerk", "the target")
            holds("Note" in error.accepts, f"what it takes: {error.accepts}")
        expect(ref.tell(Other()), Refused("unknown", "b/clerk"), "an unknown tell")
        expect(await ref.send(Other()), Refused("unknown", "b/clerk"), "an unknown send")
        expect(await ref.ask(Echo(b"on")), b"on", "it goes on")


async def a_name_that_leads_nowhere_is_no_actor(wires: Wires) -> None:
    """A request fails at once as for one that has stopped; later tells are refused."""
    async with two(wires) as (_, a, b):
        ref = a.ref("b/nobody")
        error = await raises(ActorStopped, ref.ask(Echo(b""), timeout=SECONDS), "a request to nobody")
        expect((error.target, error.exit.kind), ("b/nobody", "gone"), "whom, why")
        expect(ref.tell(Note("x", 1)), Refused("dead", "b/nobody"), "a tell to nobody")
        expect(await ref.send(Note("x", 1)), Refused("dead", "b/nobody"), "a send to nobody")
        expect(a.ref("b/nobody").path, "b/nobody", "its path")
        expect(b.nodes.connected_names, ("a",), "the link stays")


async def a_name_that_led_nowhere_is_looked_for_again(wires: Wires) -> None:
    """An actor that starts later is found under its name, after a second at most."""
    async with two(wires) as (_, a, b):
        ref = a.ref("b/clerk")
        await raises(ActorStopped, ref.ask(Echo(b""), timeout=SECONDS), "before it starts")
        b.spawn("clerk")
        for _ in range(10_000):
            try:
                expect(await ref.ask(Echo(b"here")), b"here", "after it has started")
                return
            except ActorStopped:
                await asyncio.sleep(0.01)
        raise AssertionError("it was never found")


async def a_stopped_actor_fails_what_waits_for_it(wires: Wires) -> None:
    """The request at work, those in the mailbox and later ones, with the reason of its end."""
    async with two(wires) as (_, a, b):
        gate = Gate()
        clerk = b.spawn("clerk", gate=gate)
        ref = a.ref("b/clerk")
        waiting = [begun(ref.ask(Held(), timeout=SECONDS)) for _ in range(3)]
        await until(lambda: gate.entered == 1 and clerk.cell().waiting == 2, "one at work, two wait")
        await b.kernel.stop(clerk.cell(), deadline=0.0)
        for each in waiting:
            error = await raises(ActorStopped, each, "a request to an actor that was stopped")
            expect((error.target, error.exit.kind), ("b/clerk", "shutdown"), "whom, why")
        await raises(ActorStopped, ref.ask(Echo(b"")), "a later request")


async def a_crash_fails_its_request_alone(wires: Wires) -> None:
    """The text of the error arrives; the actor is restarted and goes on with what waits, over the same address."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk", on_exit=lambda cell, number, exit: lives.again(b, cell))
        ref = a.ref("b/clerk")
        crash, after = begun(ref.ask(Boom())), begun(ref.ask(Echo(b"after")))
        error = await raises(ActorStopped, crash, "a request whose handler raises")
        expect((error.target, error.exit.kind), ("b/clerk", "error"), "whom, why")
        holds("told to" in error.exit.detail, f"the detail: {error.exit.detail}")
        expect(await after, b"after", "the next request")


async def an_actor_that_ends_itself_answers_as_stopped(wires: Wires) -> None:
    """With the exit it gave."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk")
        error = await raises(ActorStopped, a.ref("b/clerk").ask(End()), "a request to end")
        expect((error.exit.kind, error.exit.detail), ("normal", "had enough"), "why")


async def a_reply_that_cannot_be_sent_fails_the_request(wires: Wires) -> None:
    """With `ReplyLost`, at once, whether it cannot be written, is too big, or is of another type than declared."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk")
        ref = a.ref("b/clerk")
        for message in (Unwritable(), Wrong(), Big(FRAME_BODY)):
            error = await raises(ReplyLost, ref.ask(message, timeout=SECONDS), type(message).__name__)
            expect(error.target, "b/clerk", "whom")
        expect(await ref.ask(Echo(b"on")), b"on", "it goes on")
        expect(a.nodes.peer("b").asking, 0, "requests that wait")


async def a_call_cycle_across_nodes_is_reported(wires: Wires) -> None:
    """By the paths of all, at once, though every actor of it waits."""
    async with two(wires) as (_, a, b):
        a.spawn("x")
        b.spawn("y")
        said = await a.ref("x").ask(Call(("b/y", "a/x")), timeout=SECONDS)
        holds(said.startswith("CallCycle: "), f"it is a cycle: {said!r}")
        holds(said.count("x") >= 2 and "y" in said, f"both are named: {said!r}")
        expect(await b.ref("a/x").ask(Call(("b/y",)), timeout=SECONDS), "", "without one it goes through")


async def what_cannot_be_sent_raises_where_it_is_sent(wires: Wires) -> None:
    """Nothing of it is sent, and the link stays."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk")
        ref = a.ref("b/clerk")
        await ref.ask(Echo(b""))
        for message in (Thing(object()), Thing({1, object()}), Thing(1 << 80), Thing("\ud800")):
            for attempt in (_tell(ref, message), ref.send(message), ref.ask(message), ref.send(message, reliable=True)):
                error = await raises(UsageError, attempt, f"{message}")
                holds("Thing" in str(error), f"the message is named: {error}")
        expect(await ref.ask(Echo(b"on")), b"on", "it goes on")
        expect(a.nodes.peer("b").asking, 0, "requests that wait")


async def _tell(ref: object, message: object) -> object:
    return ref.tell(message)  # type: ignore[attr-defined]  # a ref


async def messages_may_be_as_big_as_a_frame(wires: Wires) -> None:
    """And not one byte bigger: that raises at the sender, and the link stays."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk")
        ref = a.ref("b/clerk")
        fits = FRAME_BODY - 5 - (len(msgspec.msgpack.encode(Echo(bytes(1 << 19)))) - (1 << 19))
        expect(await ref.send(Thing(bytes(_room(Thing)))), True, "a message as big as a frame")
        error = await raises(UsageError, ref.send(Thing(bytes(_room(Thing) + 1))), "one byte more")
        holds(f"{FRAME_BODY - 5:}" in str(error) or f"{FRAME_BODY - 5:,}" in str(error), f"the limit: {error}")
        body = bytes(fits - 64)  # a request has its number and its deadline beside it
        expect(await ref.ask(Echo(body), timeout=SECONDS), body, "a request and a reply that nearly fill a frame")
        await raises(UsageError, ref.ask(Echo(bytes(fits + 1))), "a request over the limit")
        await raises(UsageError, ref.send(Thing(bytes(FRAME_BODY)), reliable=True), "a reliable send over the limit")
        expect(await ref.ask(Echo(b"on")), b"on", "it goes on")
        expect(a.nodes.peer("b").asking, 0, "requests that wait")


def _room(kind: type[Thing]) -> int:
    """The bytes that a message of this kind may hold."""
    return FRAME_BODY - 5 - (len(msgspec.msgpack.encode(kind(bytes(1 << 19)))) - (1 << 19))


async def a_message_with_a_wrong_field_is_refused_alone(wires: Wires) -> None:
    """Those beside it are handled, its room is given back, and its asker is told."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk")
        ref = a.ref("b/clerk")
        error = await raises(ReplyLost, ref.ask(Numbered("x", "seven")), "a request")  # type: ignore[arg-type]
        holds("n" in str(error), f"the field is named: {error}")
        for n in range(WINDOW + 100):
            await ref.send(Note("x", "wrong"), timeout=SECONDS)  # type: ignore[arg-type]  # what untyped code sends
            if n % 100 == 0:
                expect(await ref.send(Note("x", n), timeout=SECONDS), True, "one beside it")
        expect(
            [n for _, n in await ref.ask(Seen(), timeout=SECONDS)], list(range(0, WINDOW + 100, 100)), "what arrived"
        )


# -- backpressure ----------------------------------------------------------------------------------------------


async def a_slow_actor_holds_up_only_those_who_send_to_it(wires: Wires) -> None:
    """They are refused, or wait; what waits there has a bound; all that was taken is handled, in order."""
    async with two(wires) as (_, a, b):
        gate = Gate()
        slow = b.spawn("slow", Small, gate)
        b.spawn("quick")
        ref = a.ref("b/slow")
        holding = begun(ref.ask(Held(), timeout=SECONDS))
        await until(lambda: gate.entered == 1, "the slow one is busy")
        taken = 0
        while await ref.send(Note("x", taken), timeout=0.5):
            taken += 1
            holds(taken <= 10_000, "it is refused in the end")
        deepest = slow.cell().waiting
        holds(deepest <= 10, f"the mailbox of 10 holds {deepest}")
        holds(taken <= WINDOW + 10, f"{taken} are under way; the bound is {WINDOW + 10}")
        expect(ref.tell(Note("x", taken)), Refused("full", "b/slow"), "a tell")
        expect(await a.ref("b/quick").ask(Echo(b"quick"), timeout=SECONDS), b"quick", "another actor of that node")
        more = begun(ref.send(Note("x", taken), timeout=SECONDS))
        gate.open()
        expect((await holding, await more), (0, True), "who waited")
        seen = await ref.ask(Seen(), timeout=SECONDS)
        expect([n for _, n in seen], list(range(taken + 1)), "what was handled")


async def a_request_to_a_full_mailbox_ends_at_its_deadline(wires: Wires) -> None:
    """With an error that says so, and is not handled later."""
    async with two(wires) as (_, a, b):
        gate = Gate()
        b.spawn("slow", Small, gate)
        ref = a.ref("b/slow")
        holding = begun(ref.ask(Held(), timeout=SECONDS))
        await until(lambda: gate.entered == 1, "the slow one is busy")
        while await ref.send(Note("x", 0), timeout=0.2):
            pass
        error = await raises(AskError, ref.ask(Numbered("late", 1), timeout=0.2), "a request")
        holds(isinstance(error, AskTimeout | MailboxFull), f"its error: {error!r}")
        gate.open()
        expect(await holding, 0, "who was there first")
        seen = await ref.ask(Seen(), timeout=SECONDS)
        holds(("late", 1) not in seen, "what expired is not handled")
        await until(lambda: a.nodes.peer("b").asking == 0, "the asker keeps nothing of it")


# -- cancelling ------------------------------------------------------------------------------------------------


async def a_cancelled_asker_ends_the_handler_only_if_it_says_so(wires: Wires) -> None:
    """`cancel=True` cancels the handler; without it, it goes on; one that still waited is not begun."""
    async with two(wires) as (_, a, b):
        gate = Gate()
        clerk = b.spawn("clerk", gate=gate)
        ref = a.ref("b/clerk")
        asked = begun(ref.ask(Held(), timeout=SECONDS, cancel=True))
        await until(lambda: gate.entered == 1, "it is at work")
        asked.cancel()
        await until(lambda: gate.cancelled == 1, "the handler is cancelled")
        stays = begun(ref.ask(Held(), timeout=SECONDS))
        await until(lambda: gate.entered == 2, "the next is at work")
        waits = begun(ref.ask(Numbered("never", 1), timeout=SECONDS, cancel=True))
        await until(lambda: clerk.cell().waiting == 1, "one waits")
        stays.cancel()
        waits.cancel()
        await asyncio.wait([stays, waits])
        expect(await ref.send(Note("x", 1)), True, "a message behind them")
        await until(lambda: clerk.cell().waiting >= 1, "it has arrived")
        gate.open()
        expect(await ref.ask(Seen(), timeout=SECONDS), (("x", 1),), "what was handled")
        expect((gate.entered, gate.cancelled, gate.left), (2, 1, 1), "handlers begun, cancelled, ended")
        await until(lambda: a.nodes.peer("b").asking == 0, "the asker keeps nothing of them")


CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        check.__name__: check
        for check in (
            a_message_is_handled_and_a_request_is_answered,
            order_is_kept_for_each_sender,
            order_is_kept_within_one_turn_of_the_loop,
            order_is_kept_among_requests_that_wait,
            three_nodes_talk_to_each_other,
            a_deadline_travels,
            an_expired_request_is_not_handled,
            a_late_reply_is_a_dead_letter,
            who_does_not_take_a_message_says_what_it_takes,
            a_name_that_leads_nowhere_is_no_actor,
            a_name_that_led_nowhere_is_looked_for_again,
            a_stopped_actor_fails_what_waits_for_it,
            a_crash_fails_its_request_alone,
            an_actor_that_ends_itself_answers_as_stopped,
            a_reply_that_cannot_be_sent_fails_the_request,
            a_call_cycle_across_nodes_is_reported,
            what_cannot_be_sent_raises_where_it_is_sent,
            messages_may_be_as_big_as_a_frame,
            a_message_with_a_wrong_field_is_refused_alone,
            a_slow_actor_holds_up_only_those_who_send_to_it,
            a_request_to_a_full_mailbox_ends_at_its_deadline,
            a_cancelled_asker_ends_the_handler_only_if_it_says_so,
            *lives.CHECKS,
        )
    }
)
"""By name; each takes new wires."""
