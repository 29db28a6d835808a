"""The programs for peers that live in asyncio, over what they all can do (see `api`)."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

from benchmarks.case import Case, CheckFailed, Found, NotSupported
from benchmarks.memory import full_collection_ms, heap_bytes, rss_bytes, tracked_objects
from benchmarks.peers.api import Api, Program, Ref, end_all
from benchmarks.peers.trees import skynet, uts
from benchmarks.reference import oracle
from benchmarks.slow import BATCH, PAUSE, Heard, Outcome, payload
from benchmarks.slow import program as slow_program

KEYS = 4096


async def pingpong(api: Api, case: Case) -> Found:
    (n,) = case.args
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Pong(api.Actor):  # type: ignore[name-defined]  # the base is the peer's
        def __init__(self) -> None:
            super().__init__()
            self.handled = 0

        async def on_receive(self, message: Any) -> Any:
            if message is None:
                return self.handled
            self.handled += 1
            if type(message) is int:
                return message
            await api.tell(message[1], message[0])
            return None

    class Ping(api.Actor):  # type: ignore[name-defined]
        def __init__(self, pong: Ref) -> None:
            super().__init__()
            self.pong, self.next, self.sum, self.me = pong, 0, 0, None

        async def on_receive(self, message: Any) -> Any:
            if message is None:
                self.me = await api.me(self)
                await api.tell(self.pong, (0, self.me))
            elif message == "ask":
                total = 0
                for i in range(n):
                    reply = await api.ask(self.pong, i)
                    if reply != i:
                        raise CheckFailed(f"reply {reply} where {i} was due")
                    total += reply
                return total
            elif message != self.next:
                done.set_exception(CheckFailed(f"reply {message} where {self.next} was due"))
            else:
                self.sum += message
                self.next += 1
                if self.next < n:
                    await api.tell(self.pong, (self.next, self.me))
                else:
                    done.set_result(self.sum)
            return None

    case.start()
    pong = await api.spawn(Pong)
    ping = await api.spawn(Ping, pong)
    if case.line == "ask":
        total = await api.ask(ping, "ask")
    else:
        await api.tell(ping, None)
        total = await done
    handled = await api.ask(pong, None)
    await end_all(api, [ping, pong])
    case.stop()
    return {"sum": total, "handled": handled}


async def counting(api: Api, case: Case) -> Found:
    (n,) = case.args
    roomy = case.line == "roomy"
    if not roomy and not api.bounded:
        raise NotSupported("no bounded mailbox")

    class Counter(api.Actor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        async def on_receive(self, message: Any) -> Any:
            if message:
                self.count += 1
                return None
            return self.count

    class Producer(api.Actor):  # type: ignore[name-defined]
        async def on_receive(self, message: Any) -> Any:
            for _ in range(n):
                await api.tell(message, 1)
            return await api.ask(message, 0)

    case.start()
    counter = await api.spawn(Counter, roomy=roomy)
    producer = await api.spawn(Producer)
    total = await api.ask(producer, counter)
    await end_all(api, [counter, producer])
    case.stop()
    return {"total": total}


async def threadring(api: Api, case: Case) -> Found:
    actors, start = case.args
    zero: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Node(api.Actor):  # type: ignore[name-defined]
        def __init__(self, i: int) -> None:
            super().__init__()
            self.i, self.seen, self.next = i, 0, None

        async def on_receive(self, message: Any) -> Any:
            if type(message) is int:
                self.seen += 1
                if message:
                    await api.tell(self.next, message - 1)
                else:
                    zero.set_result(self.i)
            elif message is None:
                return self.seen
            else:
                self.next = message[0]
            return None

    case.start()
    ring = [await api.spawn(Node, i) for i in range(actors)]
    for i, ref in enumerate(ring):
        await api.ask(ref, (ring[(i + 1) % actors],))
    await api.tell(ring[0], start)
    zero_at = await zero
    receipts = sum([await api.ask(ref, None) for ref in ring])
    await end_all(api, ring)
    case.stop()
    return {"zero_at": zero_at, "receipts": receipts, "ended": len(ring)}


async def fjcreate(api: Api, case: Case) -> Found:
    (n,) = case.args
    if case.line != "child":
        raise NotSupported("one way to create an actor")
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Worker(api.Actor):  # type: ignore[name-defined]
        async def on_receive(self, message: Any) -> Any:
            await api.tell(message[0], 2 * message[1] + 1)

    class Creator(api.Actor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.count = self.sum = 0

        async def on_receive(self, message: Any) -> Any:
            if message is None:
                me = await api.me(self)
                self.refs = []
                for i in range(n):
                    ref = await api.spawn(Worker, parent=self)
                    self.refs.append(ref)
                    await api.tell(ref, (me, i))
                return self.refs
            self.count += 1
            self.sum += message
            if self.count == n:
                done.set_result(self.sum)
            return None

    case.start()
    creator = await api.spawn(Creator, roomy=True)
    refs = await api.ask(creator, None)
    total = await done
    await end_all(api, refs)
    case.stop()
    await api.end(creator)
    case.extra["us_per_actor"] = case.cpu / n * 1e6
    return {"sum": total, "terminations": len(refs)}


async def fjthrput(api: Api, case: Case) -> Found:
    actors, n = case.args

    class Adder(api.Actor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.count = self.sum = 0

        async def on_receive(self, message: Any) -> Any:
            if message is None:
                return self.count, self.sum
            self.count += 1
            self.sum += message
            return None

    class Master(api.Actor):  # type: ignore[name-defined]
        async def on_receive(self, message: Any) -> Any:
            for j in range(n):
                for ref in message:
                    await api.tell(ref, j)

    case.start()
    refs = [await api.spawn(Adder) for _ in range(actors)]
    master = await api.spawn(Master)
    await api.ask(master, refs)
    got = [await api.ask(ref, None) for ref in refs]
    await end_all(api, [*refs, master])
    case.stop()
    return {"counts": [count for count, _ in got], "sums": [total for _, total in got]}


async def chameneos(api: Api, case: Case) -> Found:
    creatures, meetings = case.args
    done: asyncio.Future[Found] = asyncio.get_running_loop().create_future()

    class Mall(api.Actor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first: Ref = None
            self.left = meetings
            self.performed = self.counts = self.reports = 0
            self.colours: set[int] = set()

        async def on_receive(self, message: Any) -> Any:
            kind, who, colour = message
            if kind == "count":
                self.counts += who
                self.reports += 1
                self.colours.add(colour)
                if self.reports == creatures:
                    found: Found = {"sum_of_counts": self.counts, "reports": self.reports, "meetings": self.performed}
                    done.set_result(found | {"strange_colours": sorted(self.colours - {0, 1, 2})})
            elif not self.left:
                await api.tell(who, ("exit", None, 0))
            elif self.first is None:
                self.first = who
            else:
                first, self.first = self.first, None
                self.left -= 1
                self.performed += 1
                await api.tell(first, message)

    class Creature(api.Actor):  # type: ignore[name-defined]
        def __init__(self, mall: Ref, colour: int) -> None:
            super().__init__()
            self.mall, self.colour, self.meetings, self.me = mall, colour, 0, None

        async def on_receive(self, message: Any) -> Any:
            kind, who, colour = message
            if kind == "meet":
                self.colour = colour if self.colour == colour else 3 - self.colour - colour
                await api.tell(who, ("change", None, self.colour))
                self.meetings += 1
            elif kind == "change":
                self.colour = colour
                self.meetings += 1
            elif kind == "begin":
                self.me = await api.me(self)
            else:
                await api.tell(self.mall, ("count", self.meetings, self.colour))
                return
            await api.tell(self.mall, ("meet", self.me, self.colour))

    case.start()
    mall = await api.spawn(Mall)
    refs = [await api.spawn(Creature, mall, i % 3) for i in range(creatures)]
    for ref in refs:
        await api.tell(ref, ("begin", None, 0))
    found = await done
    await end_all(api, [mall, *refs])
    case.stop()
    return found


async def big(api: Api, case: Case) -> Found:
    members, n = case.args
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Sink(api.Actor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.left = members

        async def on_receive(self, message: Any) -> Any:
            self.left -= 1
            if not self.left:
                done.set_result(None)

    class Member(api.Actor):  # type: ignore[name-defined]
        def __init__(self, i: int, sink: Ref) -> None:
            super().__init__()
            self.i, self.left, self.sink = i, n, sink
            self.got, self.expected = 0, -1
            self.random = oracle().Lehmer(i)
            self.peers: list[Ref] = []

        async def on_receive(self, message: Any) -> Any:
            kind, who = message
            if kind == "ping":
                self.got += 1
                await api.tell(self.peers[who], ("pong", self.i))
                return None
            if kind == "finish":
                return self.got
            if kind == "peers":
                self.peers = who
                return None
            if kind == "pong" and who != self.expected:
                done.set_exception(CheckFailed(f"actor {self.i}: pong of {who} where {self.expected} was due"))
                return None
            if self.left:
                self.left -= 1
                self.expected = self.random.below(members)
                await api.tell(self.peers[self.expected], ("ping", self.i))
            else:
                await api.tell(self.sink, 1)
            return None

    case.start()
    sink = await api.spawn(Sink)
    refs = [await api.spawn(Member, i, sink) for i in range(members)]
    for ref in refs:  # first all, since not every peer keeps the order of tells
        await api.ask(ref, ("peers", refs))
    for ref in refs:
        await api.tell(ref, ("begin", 0))
    await done
    received = [await api.ask(ref, ("finish", 0)) for ref in refs]
    await end_all(api, [sink, *refs])
    case.stop()
    return {"digest": oracle().digest(received)}


async def concdict(api: Api, case: Case) -> Found:
    workers, requests = case.args

    class Store(api.Actor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.data = dict.fromkeys(range(KEYS), -1)

        async def on_receive(self, message: Any) -> Any:
            if message is None:
                return sum(self.data.values()), sum(value != -1 for value in self.data.values())
            key, value = message
            if value is not None:
                self.data[key] = value
            return self.data[key]

    class Worker(api.Actor):  # type: ignore[name-defined]
        def __init__(self, e: int) -> None:
            super().__init__()
            self.random = oracle().Lehmer(1000 + e)

        async def on_receive(self, message: Any) -> Any:
            below, mine, reads, writes = self.random.below, set(), 0, 0
            for _ in range(requests):
                if below(100) < 10:
                    writes += 1
                    key = below(KEYS)
                    mine.add(key)
                    if await api.ask(message, (key, key)) != key:
                        raise CheckFailed(f"write of {key}: another reply")
                else:
                    reads += 1
                    key = below(KEYS)
                    value = await api.ask(message, (key, None))
                    if value != key and (value != -1 or key in mine):
                        raise CheckFailed(f"read of {key}: {value}")
            return reads, writes

    case.start()
    store = await api.spawn(Store)
    refs = [await api.spawn(Worker, e) for e in range(workers)]
    done = await asyncio.gather(*(api.ask(ref, store) for ref in refs))
    total, written = await api.ask(store, None)
    await end_all(api, [store, *refs])
    case.stop()
    reads, writes = sum(r for r, _ in done), sum(w for _, w in done)
    return {"reads": reads, "writes": writes, "final_sum": total, "keys_written": written}


async def slow(api: Api, case: Case) -> Found:
    """Bounded with the bound that the peer gives a mailbox by itself; how full it is, it does not tell."""
    if case.line not in ("wait", "roomy") or (case.line == "wait" and not api.bounded):
        raise NotSupported("no such policy")

    async def play(producers: int, count: int) -> Outcome:
        heard, blocked, done = Heard(producers), 0.0, asyncio.get_running_loop().create_future()

        class Consumer(api.Actor):  # type: ignore[name-defined]
            async def on_receive(self, message: Any) -> Any:
                if heard.hear(*message):
                    await asyncio.sleep(PAUSE)
                if heard.delivered == producers * count:
                    done.set_result(None)

        class Producer(api.Actor):  # type: ignore[name-defined]
            async def on_receive(self, message: Any) -> Any:
                nonlocal blocked
                to, mine = message
                for number in range(count):
                    began = time.perf_counter()
                    await api.tell(to, (mine, payload(number)))
                    blocked += time.perf_counter() - began
                    if number % BATCH == 0 and case.line == "roomy":
                        await asyncio.sleep(0)

        consumer = await api.spawn(Consumer, roomy=case.line == "roomy")
        senders = [await api.spawn(Producer) for _ in range(producers)]
        began = time.perf_counter()
        for number, sender in enumerate(senders):
            await api.tell(sender, (consumer, number))
        await done
        wall = time.perf_counter() - began
        await end_all(api, [*senders, consumer])
        return Outcome(heard, wall, blocked=blocked)

    return await slow_program(play, case)


async def density(api: Api, case: Case) -> Found:
    (n,) = case.args
    if case.line != "anonymous":
        raise NotSupported("one way to create an actor")

    class Parked(api.Actor):  # type: ignore[name-defined]
        def __init__(self, i: int) -> None:
            super().__init__()
            self.i = i

        async def on_receive(self, message: Any) -> Any:
            return self.i

    gc.collect()
    heap, rss, tracked = heap_bytes(), rss_bytes(), tracked_objects()
    case.start()
    refs = [await api.spawn(Parked, i) for i in range(n)]
    alive = sum([await api.ask(ref, None) == i for i, ref in enumerate(refs)])
    case.stop()
    gc.collect()
    case.extra["rss_bytes_per_actor"] = round((rss_bytes() - rss) / n, 1)
    after = heap_bytes()
    case.extra["bytes_per_actor_with_ref"] = None if after is None or heap is None else round((after - heap) / n, 1)
    case.extra["gc_full_ms"] = full_collection_ms()
    case.extra["tracked_per_actor"] = round((tracked_objects() - tracked) / n, 2)
    await end_all(api, refs)
    return {"alive": alive}


PROGRAMS: dict[str, Program] = {
    each.__name__: each
    for each in (
        pingpong,
        counting,
        threadring,
        fjcreate,
        fjthrput,
        chameneos,
        big,
        concdict,
        skynet,
        slow,
        uts,
        density,
    )
}


def program_of(name: str) -> Program:
    """The program of a benchmark. Raises `NotSupported`."""
    if name not in PROGRAMS:
        raise NotSupported("no program for this library")
    return PROGRAMS[name]
