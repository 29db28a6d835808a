"""The checks of `link_suite` about ends (of watched actors, of links, of nodes), and about who may reach what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, UsageError
from understudy.actors.messages import Down, Tick
from understudy.actors.refs import Ref, Refused
from understudy.actors.remote.far import FarCell
from understudy.actors.remote.refs import FarRef
from understudy.transports.links.allow import Allow, AllowList
from understudy.transports.links.wire import FRAME_BODY
from understudy.transports.testing.link_kit import (
    SECONDS,
    Boom,
    Echo,
    End,
    Gate,
    Held,
    Member,
    Note,
    Other,
    Seen,
    Thing,
    Wires,
    begun,
    expect,
    holds,
    meeting,
    raises,
    two,
    until,
)


def again(node: Member, cell: Cell) -> None:
    """What a supervisor does: restart it."""
    node.kernel.will_restart(cell)
    node.kernel.restart(cell)


class Watcher(Actor[Echo]):
    """Watches what it is given, and keeps the notices."""

    def __init__(self, ref: Ref[Any], downs: list[Down]) -> None:
        self.ref: Ref[Any] = ref
        self.downs = downs

    async def on_start(self) -> None:
        """Begin to watch."""
        self.context.watch(self.ref)

    def echo(self, m: Echo) -> bytes:
        """See `Echo`."""
        return m.body

    def down(self, m: Down) -> None:
        """A notice."""
        self.downs.append(m)


# -- watching --------------------------------------------------------------------------------------------------


async def _end(how: str, a: Member, b: Member) -> None:
    ref = a.ref("b/clerk")
    match how:
        case "ends":
            await raises(ActorStopped, ref.ask(End()), how)
        case "crashes":
            await raises(ActorStopped, ref.ask(Boom()), how)
        case "is stopped":
            await b.kernel.stop(b.ref("clerk").cell())
        case "leaves":
            await b.leave()


async def who_watches_is_told_once_of_an_end(wires: Wires) -> None:
    """Actor and other code alike, with path and reason, whether the actor ends, crashes, is stopped or leaves."""
    for how, kind in (("ends", "normal"), ("crashes", "error"), ("is stopped", "shutdown"), ("leaves", "")):
        async with two(wires) as (_, a, b):
            b.spawn("clerk")
            ref = a.ref("b/clerk")
            downs: list[Down] = []
            watcher = a.kernel.ref_of(a.kernel.spawn(lambda ref=ref, downs=downs: Watcher(ref, downs)))  # type: ignore[misc]
            await watcher.ask(Echo(b"it watches"))
            watch = a.watch(ref)
            await ref.ask(Echo(b"the watches are there"))
            await _end(how, a, b)
            down = await watch
            await until(lambda downs=downs: downs, f"the watcher hears when it {how}")  # type: ignore[misc]
            expect((down.path, downs[0].path), ("b/clerk", "b/clerk"), "the path")
            if kind:
                expect((down.kind, down.incarnation, down.restarting), (kind, 1, False), how)
                await a.ref("b/nobody").send(Note("x", 1))
                await raises(ActorStopped, a.ref("b/nobody").ask(Echo(b"")), "whatever comes later")
            expect((len(watch), len(downs)), (0, 1), f"notices when it {how}")


async def a_lost_link_is_the_end_of_what_is_watched_over_it(wires: Wires) -> None:
    """One notice, `no-connection`; the next link brings none of the former watch."""
    async with two(wires) as (met, a, b):
        clerk = b.spawn("clerk")
        ref = a.ref("b/clerk")
        watch = a.watch(ref)
        await ref.ask(Echo(b"it is watched"))
        await met.cut_and_heal(a, b)
        down = await watch
        expect((down.path, down.kind, down.restarting), ("b/clerk", "no-connection", False), "the notice")
        later = a.watch(ref)
        await ref.ask(Echo(b"it is watched again"))
        await b.kernel.stop(clerk.cell())
        expect((await later).kind, "shutdown", "the notice of the later watch")
        expect((len(watch), len(later)), (0, 0), "further notices")


async def a_watch_of_what_is_gone_is_told_at_once(wires: Wires) -> None:
    """Of an actor that has stopped, of a name that leads nowhere, and of a node that is not connected."""
    async with two(wires) as (_, a, b):
        clerk = b.spawn("clerk")
        await a.ref("b/clerk").ask(Echo(b""))
        await b.kernel.stop(clerk.cell())
        for path in ("b/clerk", "b/nobody"):
            watch = a.watch(a.ref(path))
            down = await watch
            expect((down.path, down.kind, len(watch)), (path, "gone", 0), path)
        await b.leave()
        await until(lambda: a.nodes.connected_names == (), "the node has left")
        down = await a.watch(a.ref("b/clerk"))
        expect((down.path, down.kind), ("b/clerk", "no-connection"), "of a node that has left")


async def a_watch_is_of_one_incarnation_and_ends_when_it_is_taken_back(wires: Wires) -> None:
    """A restart is told once, as one; who unwatches is told nothing; who watches again, of the next end."""
    async with two(wires) as (_, a, b):
        b.spawn("clerk", on_exit=lambda cell, number, exit: again(b, cell))
        ref = a.ref("b/clerk")
        first, taken_back = a.watch(ref), a.watch(ref)
        await ref.ask(Echo(b"they are there"))
        taken_back.close()
        for number in (1, 2):
            watch = first if number == 1 else a.watch(ref)
            await ref.ask(Echo(b"it is there"))
            await raises(ActorStopped, ref.ask(Boom()), "a crash")
            down = await watch
            expect((down.kind, down.incarnation, down.restarting), ("error", number, True), "the notice")
        expect(await ref.ask(Echo(b"on")), b"on", "it goes on")
        expect((len(first), len(taken_back)), (0, 0), "further notices")


# -- lost links ------------------------------------------------------------------------------------------------


async def a_lost_link_fails_what_waits(wires: Wires) -> None:
    """Requests fail with `no-connection`; while there is no link, everything is refused with it."""
    async with two(wires) as (met, a, b):
        gate = Gate()
        b.spawn("clerk", gate=gate)
        ref = a.ref("b/clerk")
        waiting = [begun(ref.ask(Held(), timeout=SECONDS)) for _ in range(3)]
        await until(lambda: gate.entered == 1, "one is at work")
        await met.cut(a, b)
        for each in waiting:
            error = await raises(ActorStopped, each, "a request that was sent")
            expect(error.exit.kind, "no-connection", "why")
        gate.open()
        await b.leave()
        await until(lambda: a.nodes.connected_names == (), "the node has left")
        expect(ref.tell(Note("x", 1)), Refused("no-connection", "b/clerk"), "a tell")
        expect(await ref.send(Note("x", 1)), Refused("no-connection", "b/clerk"), "a send")
        error = await raises(ActorStopped, ref.ask(Echo(b"")), "a request")
        expect(error.exit.kind, "no-connection", "why")


async def nothing_arrives_twice_when_links_are_cut(wires: Wires) -> None:
    """What is under way then is lost or arrives, once, in order."""
    async with two(wires) as (met, a, b):
        clerk = b.spawn("clerk")
        ref = a.ref("b/clerk")
        n = 0
        for _ in range(5):
            for _ in range(200):
                ref.tell(Note("x", n))
                n += 1
                if n % 40 == 0:
                    await asyncio.sleep(0)
            await met.cut_and_heal(a, b)
        expect(await ref.ask(Echo(b"on"), timeout=SECONDS), b"on", "it goes on")
        got = [number for _, number in await clerk.ask(Seen())]
        expect(got, sorted(set(got)), "what arrived, against the same in order and once")
        holds(got, "something arrived")


async def reliable_sends_arrive_once_and_in_order(wires: Wires) -> None:
    """However often the link is cut: every one that says True, and all before it."""
    async with two(wires) as (met, a, b):
        clerk = b.spawn("clerk")
        ref = a.ref("b/clerk")
        total = 300
        sent = [begun(ref.send(Note("x", n), timeout=SECONDS, reliable=True)) for n in range(total)]
        for _ in range(5):
            await asyncio.sleep(0)
            await met.cut_and_heal(a, b)
        expect(await asyncio.gather(*sent), [True] * total, "what the sender is told")
        expect([n for _, n in await clerk.ask(Seen())], list(range(total)), "what arrived")


async def reliable_sends_wait_for_room_and_for_a_link(wires: Wires) -> None:
    """Without acknowledgement in time they are `unconfirmed`, and still on their way; nothing is sent twice."""
    async with two(wires) as (met, a, b):
        gate = Gate()
        clerk = b.spawn("clerk", gate=gate)
        ref = a.ref("b/clerk")
        expect(await ref.send(Note("x", 0), timeout=SECONDS, reliable=True), True, "with a link")
        begun(ref.ask(Held(), timeout=SECONDS))
        await until(lambda: gate.entered == 1, "it is busy")
        sent = [begun(ref.send(Note("x", n), timeout=SECONDS, reliable=True)) for n in range(1, 50)]
        await met.cut_and_heal(a, b)
        gate.open()
        expect(await asyncio.gather(*sent), [True] * 49, "what the sender is told")
        expect([n for _, n in await clerk.ask(Seen())], list(range(50)), "what arrived")


async def reliable_sends_to_nobody_are_refused(wires: Wires) -> None:
    """By an unknown name, an unknown type, and a stopped actor; later ones to an actor that lives arrive."""
    async with two(wires) as (_, a, b):
        clerk = b.spawn("clerk")
        ref = a.ref("b/clerk")
        nobody = await a.ref("b/nobody").send(Note("x", 1), timeout=SECONDS, reliable=True)
        expect(nobody, Refused("dead", "b/nobody"), "to a name that leads nowhere")
        for n in range(3):
            unknown = await ref.send(Other(), timeout=SECONDS, reliable=True)
            expect(unknown, Refused("unknown", "b/clerk"), "of an unknown type")
            expect(await ref.send(Note("x", n), timeout=SECONDS, reliable=True), True, "of a known type")
        expect([n for _, n in await clerk.ask(Seen())], [0, 1, 2], "what arrived")
        await b.kernel.stop(clerk.cell())
        expect(
            await ref.send(Note("x", 9), timeout=SECONDS, reliable=True), Refused("dead", "b/clerk"), "to a stopped one"
        )


async def reliable_sends_go_on_behind_one_that_is_refused(wires: Wires) -> None:
    """Of an unknown type, with a wrong field, or too big: each is refused alone, and what came before is confirmed."""
    async with two(wires) as (met, a, b):
        clerk = b.spawn("clerk")
        ref = a.ref("b/clerk")
        sent: list[asyncio.Task[object]] = []
        for n in range(4):
            for message in (Note("x", n), Other(), Note("x", "wrong"), Thing(bytes(FRAME_BODY))):  # type: ignore[arg-type]
                sent.append(begun(ref.send(message, timeout=SECONDS, reliable=True)))
            if n == 2:
                await met.cut_and_heal(a, b)
        for n in range(4):
            expect(await sent[n * 4], True, "what is taken")
            for wrong in sent[n * 4 + 1 : n * 4 + 3]:
                expect(await wrong, Refused("unknown", "b/clerk"), "what is not")
            await raises(UsageError, sent[n * 4 + 3], "what is too big")
        expect(await ref.send(Note("x", 4), timeout=SECONDS, reliable=True), True, "one behind them all")
        expect([n for _, n in await clerk.ask(Seen())], [0, 1, 2, 3, 4], "what arrived")


# -- nodes that start again ------------------------------------------------------------------------------------


async def a_node_that_starts_again_is_another(wires: Wires) -> None:
    """Addresses lead to the new one; nothing that was meant for the former one is delivered."""
    async with meeting(wires) as met:
        a = await met.node("a")
        first = await met.node("b", "a")
        await a.met("b")
        gate = Gate()
        first.spawn("clerk", gate=gate)
        ref = a.ref("b/clerk")
        held = begun(ref.ask(Held(), timeout=SECONDS))
        await until(lambda: gate.entered == 1, "it is busy")
        queued = begun(ref.ask(Echo(b"of the former"), timeout=SECONDS))
        kept = [begun(ref.send(Note("former", n), timeout=SECONDS, reliable=True)) for n in range(100)]
        await ref.send(Note("former", 100))
        await first.leave(at_once=True)
        for each in (held, queued):
            await raises(ActorStopped, each, "a request to the former node")
        await until(lambda: a.nodes.connected_names == (), "it has left")
        second = await met.node("b", "a")
        clerk = second.spawn("clerk")
        await a.met("b")
        expect(second.nodes.epoch > first.nodes.epoch, True, "a larger epoch")
        expect(await ref.send(Note("new", 1), timeout=SECONDS, reliable=True), True, "a message for the new one")
        told = await asyncio.gather(*kept)
        holds(all(each is True or each.reason in ("no-connection", "dead") for each in told), f"the kept ones: {told}")
        seen = await clerk.ask(Seen())
        holds(("former", 100) not in seen, f"a message for the former node: {seen}")
        expect([each for each in seen if each[0] == "former"], [], "what was meant for the former node")
        expect(seen[-1], ("new", 1), "what was meant for the new one")


async def a_former_start_of_a_node_gets_no_link(wires: Wires) -> None:
    """While the later one is connected, and afterwards."""
    async with meeting(wires) as met:
        a = await met.node("a")
        later = await met.node("b", "a", epoch=1_000)
        await a.met("b")
        expect(a.nodes.admit("b", 999, "b", 10_000), "stale", "an earlier epoch")
        expect(a.nodes.admit("a", 5_000, "a", 10_000), "self", "its own name")
        await later.leave()
        await until(lambda: a.nodes.connected_names == (), "it has left")
        expect(a.nodes.admit("b", 999, "b", 10_000), "stale", "an earlier epoch, later")
        expect(a.nodes.admit("b", 1_001, "b", 1), None, "a later epoch")


# -- names, and who may reach them -----------------------------------------------------------------------------


async def an_actor_is_found_by_name(wires: Wires) -> None:
    """At the one node that has it; who nobody has, or several have, is named in the error."""
    async with meeting(wires) as met:
        a = await met.node("a")
        b = await met.node("b", "a")
        c = await met.node("c", "a")
        await a.met("b", "c")
        b.spawn("clerk")
        c.spawn("writer")
        for node in (b, c):
            node.spawn("both")
        found = await a.nodes.find("clerk", SECONDS)
        expect(found.path, "b/clerk", "its path")
        expect(await FarRef(found).ask(Echo(b"found")), b"found", "it answers")
        expect((await a.nodes.find("writer", SECONDS)).path, "c/writer", "the other one")
        error = await raises(UsageError, a.nodes.find("nobody", SECONDS), "a name that nobody has")
        holds("nobody" in str(error), str(error))
        error = await raises(UsageError, a.nodes.find("both", SECONDS), "a name that two have")
        holds("b/both" in str(error) and "c/both" in str(error), str(error))


async def names_that_nobody_chose_cannot_be_reached(wires: Wires) -> None:
    """Those with `$` or `@`: they are found by nobody, and lead nowhere."""
    async with two(wires) as (_, a, b):
        anonymous = b.spawn("")
        holds(anonymous.path.startswith("$"), f"its path: {anonymous.path}")
        await raises(ActorStopped, a.ref(f"b/{anonymous.path}").ask(Echo(b""), timeout=SECONDS), "a request")
        for name in (anonymous.path, "@node"):
            await raises(UsageError, a.nodes.find(name, SECONDS), "find")
        down = await a.watch(a.ref(f"b/{anonymous.path}"))
        expect(down.kind, "gone", "a watch")
        await raises(UsageError, _ref(a, "b/@node"), "an address of a stream")
        await b.kernel.stop(anonymous.cell())


async def _ref(a: Member, path: str) -> object:
    return a.ref(path)


async def a_list_says_what_a_peer_may_reach(wires: Wires) -> None:
    """Messages and targets; what is not in it looks as if it were not there, to requests, watches and find."""
    rules = AllowList({"b": Allow(messages=(Echo, "Seen"), targets=("open", "desk/*"))})
    async with meeting(wires) as met:
        a = await met.node("a", rules=rules)
        b = await met.node("b", "a")
        c = await met.node("c", "a")
        for name in ("open", "closed", "desk/x"):
            a.spawn(name)
        for name in ("open", "desk/x"):
            expect(await b.ref(f"a/{name}").ask(Echo(b"in")), b"in", "an allowed message")
            error = await raises(
                Exception, b.ref(f"a/{name}").ask(Boom(), timeout=SECONDS), "a message not in the list"
            )
            expect(type(error).__name__, "NotHandled", "how it fails")
            expect(b.ref(f"a/{name}").tell(Note("b", 1)), Refused("unknown", f"a/{name}"), "a tell not in the list")
            expect(await b.ref(f"a/{name}").ask(Seen()), (), "what was handled")
        expect((await b.nodes.find("open", SECONDS)).path, "a/open", "find")
        for node, name in ((b, "closed"), (b, "desk"), (c, "open"), (c, "closed")):
            gone = await raises(ActorStopped, node.ref(f"a/{name}").ask(Echo(b""), timeout=SECONDS), "not in the list")
            expect(gone.exit.kind, "gone", "why")
            await raises(UsageError, node.nodes.find(name, SECONDS), "find")
            expect((await node.watch(node.ref(f"a/{name}"))).kind, "gone", "a watch")


async def a_peer_cannot_say_what_only_the_runtime_says(wires: Wires) -> None:
    """That something is down, or that time has passed: it is refused by the sender, and by the receiver if need be."""
    async with two(wires) as (_, a, b):
        downs: list[Down] = []
        target = b.spawn("clerk")
        watcher = b.kernel.ref_of(b.kernel.spawn(lambda: Watcher(target, downs), name="watcher"))
        ref = a.ref("b/watcher")
        expect(await ref.ask(Echo(b"on")), b"on", "it is there")
        forged = (Down("clerk", 1, "error", "forged", restarting=False), Tick("x", 1))
        for message in forged:
            expect(ref.tell(message), Refused("unknown", "b/watcher"), "a tell")
            cell, link = ref.cell(), a.nodes.peer("b").link
            assert isinstance(cell, FarCell)  # of another node
            assert link is not None  # they have met
            link.tell(cell.channel, message)
            link.ask(cell.channel, 1_000_000, SECONDS, message, ())
            cell.sent += 2
        expect(await ref.ask(Echo(b"on")), b"on", "it goes on")
        expect(downs, [], "what it was told")
        await b.kernel.stop(target.cell())
        expect(await watcher.ask(Echo(b"")), b"", "it has heard of it")
        expect([down.detail == "forged" for down in downs], [False], "the one real notice")


CHECKS: Final[tuple[Callable[[Wires], Awaitable[None]], ...]] = (
    who_watches_is_told_once_of_an_end,
    a_lost_link_is_the_end_of_what_is_watched_over_it,
    a_watch_of_what_is_gone_is_told_at_once,
    a_watch_is_of_one_incarnation_and_ends_when_it_is_taken_back,
    a_lost_link_fails_what_waits,
    nothing_arrives_twice_when_links_are_cut,
    reliable_sends_arrive_once_and_in_order,
    reliable_sends_wait_for_room_and_for_a_link,
    reliable_sends_to_nobody_are_refused,
    reliable_sends_go_on_behind_one_that_is_refused,
    a_node_that_starts_again_is_another,
    a_former_start_of_a_node_gets_no_link,
    an_actor_is_found_by_name,
    names_that_nobody_chose_cannot_be_reached,
    a_list_says_what_a_peer_may_reach,
    a_peer_cannot_say_what_only_the_runtime_says,
)
