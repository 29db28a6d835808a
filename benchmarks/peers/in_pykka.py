"""pykka: a thread and an unbounded queue per actor. The programs of `programs`, without `await`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any

import pykka  # type: ignore[import-not-found, unused-ignore]  # a peer's environment

from benchmarks.case import Case, CheckFailed, Found, NotSupported
from benchmarks.reference import oracle
from benchmarks.slow import PAUSE, Heard, Outcome, payload
from benchmarks.slow import program as slow_program

logging.disable(logging.CRITICAL)
VERSION = f"pykka {version('pykka')}"
LONG = 3600.0
KEYS = 4096
THREADS = 2_000
"""More actors than this at the same time are not asked of it."""

Actor: Any = pykka.ThreadingActor
Ref = Any


def _end_all(refs: list[Ref]) -> None:
    for ref in refs:
        ref.stop(block=True, timeout=LONG)


class Pong(Actor):
    def __init__(self) -> None:
        super().__init__()
        self.handled = 0

    def on_receive(self, message: Any) -> Any:
        if message is None:
            return self.handled
        self.handled += 1
        if type(message) is int:
            return message
        message[1].tell(message[0])
        return None


class Ping(Actor):
    def __init__(self, pong: Ref, n: int, done: Future[int]) -> None:
        super().__init__()
        self.pong, self.n, self.done, self.next, self.sum = pong, n, done, 0, 0

    def on_receive(self, message: Any) -> Any:
        if message is None:
            self.pong.tell((0, self.actor_ref))
        elif message == "ask":
            total = 0
            for i in range(self.n):
                reply = self.pong.ask(i)
                if reply != i:
                    raise CheckFailed(f"reply {reply} where {i} was due")
                total += reply
            return total
        elif message != self.next:
            self.done.set_exception(CheckFailed(f"reply {message} where {self.next} was due"))
        else:
            self.sum += message
            self.next += 1
            if self.next < self.n:
                self.pong.tell((self.next, self.actor_ref))
            else:
                self.done.set_result(self.sum)
        return None


def pingpong(case: Case) -> Found:
    (n,) = case.args
    done: Future[int] = Future()
    case.start()
    pong = Pong.start()
    ping = Ping.start(pong, n, done)
    if case.line == "ask":
        total = ping.ask("ask")
    else:
        ping.tell(None)
        total = done.result(LONG)
    handled = pong.ask(None)
    _end_all([ping, pong])
    case.stop()
    return {"sum": total, "handled": handled}


class Counter(Actor):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_receive(self, message: Any) -> Any:
        if message:
            self.count += 1
            return None
        return self.count


class Producer(Actor):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def on_receive(self, message: Any) -> Any:
        for _ in range(self.n):
            message.tell(1)
        return message.ask(0)


def counting(case: Case) -> Found:
    (n,) = case.args
    if case.line != "roomy":
        raise NotSupported("no bounded mailbox")
    case.start()
    counter, producer = Counter.start(), Producer.start(n)
    total = producer.ask(counter)
    _end_all([counter, producer])
    case.stop()
    return {"total": total}


class Node(Actor):
    def __init__(self, i: int, zero: Future[int]) -> None:
        super().__init__()
        self.i, self.zero, self.seen = i, zero, 0
        self.next: Ref = None

    def on_receive(self, message: Any) -> Any:
        if type(message) is int:
            self.seen += 1
            if message:
                self.next.tell(message - 1)
            else:
                self.zero.set_result(self.i)
        elif message is None:
            return self.seen
        else:
            self.next = message[0]
        return None


def threadring(case: Case) -> Found:
    actors, start = case.args
    zero: Future[int] = Future()
    case.start()
    ring = [Node.start(i, zero) for i in range(actors)]
    for i, ref in enumerate(ring):
        ref.ask((ring[(i + 1) % actors],))
    ring[0].tell(start)
    zero_at = zero.result(LONG)
    receipts = sum(ref.ask(None) for ref in ring)
    _end_all(ring)
    case.stop()
    return {"zero_at": zero_at, "receipts": receipts, "ended": len(ring)}


class Worker(Actor):
    def on_receive(self, message: Any) -> Any:
        message[0].tell(2 * message[1] + 1)
        self.stop()


class Sum(Actor):
    def __init__(self, n: int, done: Future[int]) -> None:
        super().__init__()
        self.n, self.done, self.count, self.sum = n, done, 0, 0

    def on_receive(self, message: Any) -> Any:
        self.count += 1
        self.sum += message
        if self.count == self.n:
            self.done.set_result(self.sum)


def fjcreate(case: Case) -> Found:
    (n,) = case.args
    if case.line != "child":
        raise NotSupported("one way to create an actor")
    done: Future[int] = Future()
    case.start()
    boss = Sum.start(n, done)
    refs = []
    for i in range(n):
        ref = Worker.start()
        refs.append(ref)
        ref.tell((boss, i))
    total = done.result(LONG)
    ended = sum(ref.actor_stopped.wait(LONG) for ref in refs)
    case.stop()
    _end_all([boss])
    case.extra["us_per_actor"] = case.cpu / n * 1e6
    return {"sum": total, "terminations": ended}


class Adder(Actor):
    def __init__(self) -> None:
        super().__init__()
        self.count = self.sum = 0

    def on_receive(self, message: Any) -> Any:
        if message is None:
            return self.count, self.sum
        self.count += 1
        self.sum += message
        return None


class Master(Actor):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def on_receive(self, message: Any) -> Any:
        for j in range(self.n):
            for ref in message:
                ref.tell(j)


def fjthrput(case: Case) -> Found:
    actors, n = case.args
    case.start()
    refs, master = [Adder.start() for _ in range(actors)], Master.start(n)
    master.ask(refs)
    got = [ref.ask(None) for ref in refs]
    _end_all([*refs, master])
    case.stop()
    return {"counts": [count for count, _ in got], "sums": [total for _, total in got]}


class Mall(Actor):
    def __init__(self, creatures: int, meetings: int, done: Future[Found]) -> None:
        super().__init__()
        self.creatures, self.left, self.done = creatures, meetings, done
        self.first: Ref = None
        self.performed = self.counts = self.reports = 0
        self.colours: set[int] = set()

    def on_receive(self, message: Any) -> Any:
        kind, who, colour = message
        if kind == "count":
            self.counts += who
            self.reports += 1
            self.colours.add(colour)
            if self.reports == self.creatures:
                found: Found = {"sum_of_counts": self.counts, "reports": self.reports, "meetings": self.performed}
                self.done.set_result(found | {"strange_colours": sorted(self.colours - {0, 1, 2})})
        elif not self.left:
            who.tell(("exit", None, 0))
        elif self.first is None:
            self.first = who
        else:
            first, self.first = self.first, None
            self.left -= 1
            self.performed += 1
            first.tell(message)


class Creature(Actor):
    def __init__(self, mall: Ref, colour: int) -> None:
        super().__init__()
        self.mall, self.colour, self.meetings = mall, colour, 0

    def on_receive(self, message: Any) -> Any:
        kind, who, colour = message
        if kind == "meet":
            self.colour = colour if self.colour == colour else 3 - self.colour - colour
            who.tell(("change", None, self.colour))
            self.meetings += 1
        elif kind == "change":
            self.colour = colour
            self.meetings += 1
        elif kind == "exit":
            self.mall.tell(("count", self.meetings, self.colour))
            return
        self.mall.tell(("meet", self.actor_ref, self.colour))


def chameneos(case: Case) -> Found:
    creatures, meetings = case.args
    done: Future[Found] = Future()
    case.start()
    mall = Mall.start(creatures, meetings, done)
    refs = [Creature.start(mall, i % 3) for i in range(creatures)]
    for ref in refs:
        ref.tell(("begin", None, 0))
    found = done.result(LONG)
    _end_all([mall, *refs])
    case.stop()
    return found


class Sink(Actor):
    def __init__(self, left: int, done: Future[None]) -> None:
        super().__init__()
        self.left, self.done = left, done

    def on_receive(self, message: Any) -> Any:
        self.left -= 1
        if not self.left:
            self.done.set_result(None)


class Member(Actor):
    def __init__(self, i: int, n: int, sink: Ref, done: Future[None]) -> None:
        super().__init__()
        self.i, self.left, self.sink, self.done = i, n, sink, done
        self.got, self.expected = 0, -1
        self.random = oracle().Lehmer(i)
        self.peers: list[Ref] = []

    def on_receive(self, message: Any) -> Any:
        kind, who = message
        if kind == "ping":
            self.got += 1
            self.peers[who].tell(("pong", self.i))
            return None
        if kind == "finish":
            return self.got
        if kind == "begin":
            self.peers = who
        elif who != self.expected:
            self.done.set_exception(CheckFailed(f"actor {self.i}: pong of {who} where {self.expected} was due"))
            return None
        if self.left:
            self.left -= 1
            self.expected = self.random.below(len(self.peers))
            self.peers[self.expected].tell(("ping", self.i))
        else:
            self.sink.tell(1)
        return None


def big(case: Case) -> Found:
    members, n = case.args
    done: Future[None] = Future()
    case.start()
    sink = Sink.start(members, done)
    refs = [Member.start(i, n, sink, done) for i in range(members)]
    for ref in refs:
        ref.tell(("begin", refs))
    done.result(LONG)
    received = [ref.ask(("finish", 0)) for ref in refs]
    _end_all([sink, *refs])
    case.stop()
    return {"digest": oracle().digest(received)}


class Store(Actor):
    def __init__(self) -> None:
        super().__init__()
        self.data = dict.fromkeys(range(KEYS), -1)

    def on_receive(self, message: Any) -> Any:
        if message is None:
            return sum(self.data.values()), sum(value != -1 for value in self.data.values())
        key, value = message
        if value is not None:
            self.data[key] = value
        return self.data[key]


class Client(Actor):
    def __init__(self, e: int, requests: int) -> None:
        super().__init__()
        self.requests, self.random = requests, oracle().Lehmer(1000 + e)

    def on_receive(self, message: Any) -> Any:
        below, mine, reads, writes = self.random.below, set(), 0, 0
        for _ in range(self.requests):
            if below(100) < 10:
                writes += 1
                key = below(KEYS)
                mine.add(key)
                if message.ask((key, key)) != key:
                    raise CheckFailed(f"write of {key}: another reply")
            else:
                reads += 1
                key = below(KEYS)
                value = message.ask((key, None))
                if value != key and (value != -1 or key in mine):
                    raise CheckFailed(f"read of {key}: {value}")
        return reads, writes


def concdict(case: Case) -> Found:
    workers, requests = case.args
    case.start()
    store = Store.start()
    refs = [Client.start(e, requests) for e in range(workers)]
    futures = [ref.ask(store, block=False) for ref in refs]
    done = [future.get(timeout=LONG) for future in futures]
    total, written = store.ask(None)
    _end_all([store, *refs])
    case.stop()
    reads, writes = sum(r for r, _ in done), sum(w for _, w in done)
    return {"reads": reads, "writes": writes, "final_sum": total, "keys_written": written}


class Sky(Actor):
    def __init__(self, up: Ref, number: int, size: int) -> None:
        super().__init__()
        self.up, self.number, self.size = up, number, size
        self.left, self.total = 10, 0

    def on_receive(self, message: Any) -> Any:
        if message is not None:
            self.total += message
            self.left -= 1
            if not self.left:
                self._report(self.total)
        elif self.size == 1:
            self._report(self.number)
        else:
            sub = self.size // 10
            for number in range(self.number, self.number + self.size, sub):
                Sky.start(self.actor_ref, number, sub).tell(None)

    def _report(self, value: int) -> None:
        if isinstance(self.up, Future):
            self.up.set_result(value)
        else:
            self.up.tell(value)
        self.stop()


def skynet(case: Case) -> Found:
    (size,) = case.args
    if size > THREADS:
        raise NotSupported("a thread per actor: small only")
    before = threading.active_count()
    done: Future[int] = Future()
    case.start()
    root = Sky.start(done, 0, size)
    root.tell(None)
    total = done.result(LONG)
    root.actor_stopped.wait(LONG)
    pykka.ActorRegistry.stop_all(block=True, timeout=LONG)
    case.stop()
    if threading.active_count() > before:
        raise CheckFailed(f"{threading.active_count() - before} threads left")
    return {"sum": total}


class Consumer(Actor):
    def __init__(self, heard: Heard, all_of_them: int, done: Future[float]) -> None:
        super().__init__()
        self.heard, self.all, self.done = heard, all_of_them, done

    def on_receive(self, message: Any) -> Any:
        if self.heard.hear(*message):
            time.sleep(PAUSE)
        if self.heard.delivered == self.all:
            self.done.set_result(time.perf_counter())


class Sender(Actor):
    def on_receive(self, message: Any) -> Any:
        to, mine, count = message
        for number in range(count):
            to.tell((mine, payload(number)))


async def slow(case: Case) -> Found:
    if case.line != "roomy":
        raise NotSupported("no bounded mailbox")

    async def play(producers: int, count: int) -> Outcome:
        heard, done = Heard(producers), Future[float]()
        consumer = Consumer.start(heard, producers * count, done)
        senders = [Sender.start() for _ in range(producers)]
        began = time.perf_counter()
        for number, sender in enumerate(senders):
            sender.tell((consumer, number, count))
        wall = done.result(LONG) - began
        _end_all([*senders, consumer])
        return Outcome(heard, wall)

    return await slow_program(play, case)


RUN: dict[str, Callable[[Case], Found]] = {
    each.__name__: each
    for each in (pingpong, counting, threadring, fjcreate, fjthrput, chameneos, big, concdict, skynet)
}


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    if case.name == "slow":
        return slow
    if case.name not in RUN:
        raise NotSupported("no program for this library")

    async def blocking(case: Case) -> Found:
        return RUN[case.name](case)

    return blocking
