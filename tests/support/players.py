"""Programs for `actor_model`: drawn as plain values, made concrete with times that are apart, played by a kernel."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from typing import Any

from actor_model import Model, Op, Traits, waits
from hypothesis import strategies as st
from invariants import check

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.delivery import Life
from understudy.actors.errors import ActorStopped, Fenced, StashFull, UnderstudyError, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Down, Exited, Message
from understudy.actors.refs import Ref
from understudy.actors.testing.simloop import SimLoop
from understudy.actors.workers import SPARES, SPARES_KEPT

NAMES = ("a", "b", "c", "d", "e", "f")
TRAITS = {
    "a": Traits(limit=2, overflow="refuse", trap=True),
    "b": Traits(limit=2, overflow="drop_oldest", starts=0.2, stops=0.3, stash=2),
    "c": Traits(limit=3, overflow="drop_newest", redeliver=1, fails=(2,)),
    "d": Traits(restart=None, stops=0.1, stash=1),
    "e": Traits(limit=1, cancel_on_stop=True, stash=1),
    "f": Traits(restart=0.0, limit=4, trap=True),
    "z": Traits(),
}
"""All restart but `d`; `f` at once. `z` answers the others, and nobody does anything to it."""


class Act(Message[object]):
    """For an `async def` handler."""

    n: str
    ops: tuple[Any, ...]


class Now(Message[object]):
    """For a `def` handler."""

    n: str
    ops: tuple[Any, ...]


class Tock(Message[None]):
    """Of a timer."""

    n: str
    ops: tuple[Any, ...] = ()


class Stage:
    """What the players of one run share."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.cells: dict[str, Cell] = {}
        self.log: dict[str, list[Any]] = {name: [] for name in TRAITS}
        self.stashes: set[tuple[str, str]] = set()
        self.results: dict[str, Any] = {}
        self.asking: dict[str, asyncio.Task[Any]] = {}
        self.sent: dict[str, Message[Any]] = {}
        self.lives: list[Life] = []
        self.left: list[asyncio.Task[Any]] = []

    def now(self) -> float:
        return self.kernel.loop.time()

    def ref(self, name: str) -> Ref[Any]:
        return self.kernel.ref_of(self.cells[name])


class Player(Actor[Any]):
    """Does what its messages say."""

    traits = Traits()

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.sink = stage.ref("z") if "z" in stage.cells else None

    def note(self, *what: Any) -> None:
        self.stage.log[self.context._cell.label].append((self.stage.now(), *what))

    async def on_start(self) -> None:
        traits, life = self.traits, self.context._cell.life
        assert life is not None
        self.stage.lives.append(life)
        if traits.starts:
            await asyncio.sleep(traits.starts)
        if self.context.incarnation in traits.fails:
            raise LookupError("no")
        self.note("up", self.context.incarnation)

    def now(self, m: Now) -> object:
        self.look(m)
        self.note("begin", m.n, "")
        how = "ok"
        try:
            for op in m.ops:
                self.do(m.n, op)
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            self.note("end", m.n, how)
        return m.n

    async def act(self, m: Act) -> object:
        self.look(m)
        self.note("begin", m.n, "")
        how, task = "ok", asyncio.current_task()
        try:
            for op in m.ops:
                if op[0] == "sleep":
                    await asyncio.sleep(op[1])
                elif op[0] == "stubborn":
                    try:
                        await asyncio.sleep(op[1])
                    except asyncio.CancelledError:
                        await asyncio.sleep(op[1])
                elif op[0] in ("ask z", "self suspend", "self peek"):
                    await self.wait(op)
                else:
                    self.do(m.n, op)
                assert asyncio.current_task() is task, "one task for the life of a handler"
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            self.note("end", m.n, how)
        return m.n

    def look(self, m: Act | Now) -> None:
        """Where messages go through the codec, what comes is never what was sent."""
        assert not self.stage.kernel.check or m is not self.stage.sent.get(m.n), "not by the codec"

    async def later(self, seconds: float, how: str, n: str) -> None:
        """Goes on after its handler."""
        await asyncio.sleep(seconds)
        outcome: Any = "done"
        try:
            assert self.sink is not None
            match how:
                case "ask":
                    outcome = await self.sink.ask(Now(n, ()), timeout=0.5)
                case "tell":
                    assert self.sink.tell(Now(n, ()))
                case "unstash":
                    self.context.unstash_all()
                case "after":
                    self.context.after(0.05, Tock(n))
                case _:
                    self.context.stop(Exit("error", "later"))
        except Fenced:
            outcome = "Fenced"
        except UnderstudyError as error:
            outcome = outcome_of(error)
        self.note("later", n, outcome)

    async def wait(self, op: Op) -> None:
        cell = self.context._cell
        if op[0] == "ask z":
            _, n, length, timeout = op
            try:
                assert self.sink is not None
                outcome: Any = await self.sink.ask(
                    Act(n, (("sleep", length),)) if length else Now(n, ()), timeout=timeout
                )
            except UnderstudyError as error:
                outcome = outcome_of(error)
            self.note("asked", n, outcome)
            return
        suspensions = self.stage.kernel.suspensions
        try:
            if op[0] == "self peek":
                await suspensions.peek(cell, type, 0.5)
            else:
                await suspensions.suspend(cell, 0.5)
        except UsageError:
            self.note("refused", "self")

    def down(self, m: Down) -> None:
        self.note("begin", f"down {m.kind}", m.path)
        self.note("end", f"down {m.kind}", "ok")

    def tock(self, m: Tock) -> None:
        self.note("begin", f"tick {m.n}", "")
        for op in m.ops:
            self.do(m.n, op)
        self.note("end", f"tick {m.n}", "ok")

    def do(self, n: str, op: Op) -> None:
        stage, context = self.stage, self.context
        match op:
            case ("note",):
                pass
            case ("raise",):
                raise ValueError("raised")
            case ("raise base",):
                raise GeneratorExit
            case ("later", seconds, how, left):
                stage.left.append(asyncio.ensure_future(self.later(seconds, how, left)))
            case ("send z", told):
                assert self.sink is not None
                assert self.sink.tell(Now(told, ()))
            case ("quit", kind):
                raise Leave(Exit(kind, "quit"))
            case ("leave", kind):
                context.stop(Exit(kind, "left"))
            case ("stash",):
                self.stash(n)
            case ("unstash",):
                context.unstash_all()
            case ("watch" | "unwatch" | "link" | "unlink", name):
                getattr(context, op[0])(stage.ref(name))
            case ("after", seconds, tick, aside):
                context.after(seconds, Tock(tick, (("stash",),) if aside else ()))
            case ("timer", key, seconds, repeat, tick):
                context.timer(key, seconds, Tock(tick), repeat=repeat)
            case ("cancel timer", key):
                active = context.timer_active(key)
                was = context.cancel_timer(key)
                assert was == active
                assert not context.timer_active(key)
                self.note("cancelled", key, was)
            case ("idle", seconds):
                context.idle_timeout(seconds, None if seconds is None else Tock("idle"))
            case _:
                raise AssertionError(op)

    def stash(self, n: str) -> None:
        key = (self.context.path, n)
        mine = getattr(self, "mine", None)
        if key in self.stage.stashes and mine != (n, self.context._cell.life and self._handling()):
            return
        try:
            self.context.stash()
        except StashFull:
            self.note("refused", "full")
        except UsageError:
            self.note("refused", "twice")
        else:
            self.mine = (n, self._handling())
            self.stage.stashes.add(key)

    def _handling(self) -> int:
        return sum(1 for each in self.stage.log[self.context._cell.label] if each[1] == "begin")


class Stopping(Player):
    """Has something to do at its end."""

    async def on_stop(self, exit: Exit) -> None:
        self.note("stop", exit.kind)
        await asyncio.sleep(self.traits.stops)


class Trapping(Player):
    """Is told of the ends of those it is linked with."""

    trap_exits = True

    def exited(self, m: Exited) -> None:
        self.note("begin", f"exited {m.kind}", m.path)
        self.note("end", f"exited {m.kind}", "ok")


def _peeked(actor: Any) -> Any:
    return "peeked", actor.context.incarnation


def kind_of(given: Traits) -> type[Player]:
    base = Trapping if given.trap else Stopping if given.stops else Player

    class Kind(base):  # type: ignore[misc,valid-type]  # one of the three
        traits = given
        mailbox_limit = given.limit
        overflow = given.overflow
        stash_limit = given.stash
        redeliver = given.redeliver
        cancel_on_stop = given.cancel_on_stop

    return Kind


KINDS = {name: kind_of(each) for name, each in TRAITS.items()}

# -- programs --------------------------------------------------------------------------------------------------

who = st.integers(0, 2)
"""A place in the cast of a plan."""
seconds = st.sampled_from([0.1, 0.3, 0.6, 1.0, 2.0])
kinds = st.sampled_from(["normal", "shutdown", "error"])
keys = st.sampled_from(["k", "l"])
repeats = st.sampled_from([False, "delay", "rate"])
ops = st.one_of(
    st.tuples(st.sampled_from(["sleep", "sleep", "stubborn"]), seconds),
    st.sampled_from([("note",), ("raise",), ("stash",), ("stash",), ("unstash",), ("raise base",), ("send z",)]),
    st.tuples(st.just("ask z"), st.sampled_from([0.0, 0.0, 0.5]), seconds),
    st.sampled_from([("self suspend",), ("self peek",)]),
    st.tuples(st.just("later"), seconds, st.sampled_from(["ask", "ask", "tell", "unstash", "after", "stop"])),
    st.tuples(st.sampled_from(["quit", "leave"]), kinds),
    st.tuples(st.sampled_from(["watch", "link", "link", "unwatch", "unlink"]), who),
    st.tuples(st.just("after"), seconds, st.booleans()),
    st.tuples(st.just("timer"), keys, seconds, repeats),
    st.tuples(st.just("cancel timer"), keys),
    st.tuples(st.just("idle"), st.sampled_from([None, 0.4, 1.5])),
)
programs = st.lists(ops, max_size=3)
pauses = st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.5])
steps = st.one_of(
    st.tuples(
        st.just("burst"),
        who,
        st.lists(
            st.one_of(
                st.tuples(st.just("tell"), programs),
                st.tuples(st.just("tell"), programs),
                st.tuples(st.just("tell"), programs),
                st.tuples(st.just("halt"), seconds),
                st.tuples(st.just("force"), programs),
                st.just(("stop",)),
                st.just(("resume",)),
            ),
            min_size=1,
            max_size=5,
        ),
        pauses,
    ),
    st.tuples(st.just("ask"), who, programs, seconds, st.booleans(), pauses),
    st.tuples(st.just("ask"), who, programs, seconds, st.booleans(), pauses),
    st.tuples(st.just("send"), who, programs, seconds, pauses),
    st.tuples(st.just("give up"), st.integers(0, 3), st.booleans(), pauses),
    st.tuples(st.just("suspend"), who, seconds, pauses),
    st.tuples(st.just("resume"), who, pauses),
    st.tuples(st.just("peek"), who, seconds, pauses),
)
casts = st.sampled_from(
    [(one, two, three) for one in NAMES for two in NAMES for three in NAMES if one == two or three not in (one, two)]
)
SHORT = 0.01


def tell(program: Any, pause: float = SHORT) -> Any:
    return ("burst", 0, [("tell", program)], pause)


def _cut(program: list[Op], busy: str, how: str, length: float, asked: bool) -> list[Any]:
    """One that is busy is ended."""
    work = [(busy, 2.0), *program]
    first = ("ask", 0, work, 2.0, False, SHORT) if asked else tell(work)
    inside = [("stop",)] if how == "stop" else [("halt", length)]
    if how == "gone":
        return [first, ("burst", 1, [("tell", [("raise",)])], SHORT)]
    return [first, ("burst", 0, inside, 0.05)]


def _flood(program: list[Op], length: float, after: list[Any], kind: str) -> list[Any]:
    """Somebody waits for room."""
    full = [tell([("sleep", 0.3)]), ("burst", 0, [("tell", [])] * 4, SHORT)]
    last = ("send", 0, program, length, SHORT) if kind == "send" else ("ask", 0, program, length, kind == "fast", SHORT)
    return [*full, last, *after]


def _given_up(before: list[Op], after: list[Op], nth: int, wait: float) -> list[Any]:
    """An asker goes while its request is handled."""
    return [("ask", 0, [*before, ("sleep", 0.6), *after], 2.0, False, SHORT), ("give up", nth, False, wait)]


def _behind(how: str, length: float, before: list[Op], ends: Any) -> list[Any]:
    """What a handler left behind goes on, and the incarnation it belongs to has ended; who is asked may be busy."""
    busy = ("ask", 3, [("sleep", 0.5)], 2.0, False, SHORT)
    return [busy, tell([*before, ("later", length, how)]), ("burst", 0, [ends], 0.05), tell([], 0.5)]


def _watched(pair: tuple[str, str], ends: Op, busy: bool, again: bool) -> list[Any]:
    """A watch or a link is taken back, before or after what it tells of; and made again."""
    first, last = pair
    rest = [(last, 1), *([(first, 1)] if again else [])]
    end = ("burst", 1, [("tell", [ends])], 0.05)
    return [tell([(first, 1)]), tell([("sleep", 0.3), *rest] if busy else rest), end, tell([], 0.5)]


def _ticking(repeat: Any, busy: float, key: str) -> list[Any]:
    """A timer fires, and is taken back: afterwards, or while its message waits."""
    return [tell([("timer", "k", 0.1, repeat)], 0.2), tell([("sleep", busy), ("cancel timer", key)])]


def _aside(length: float, wait: float, last: Op) -> list[Any]:
    """The stash is full of what expires."""
    asked = ("ask", 0, [("stash",)], length, False, SHORT)
    return [asked, asked, asked, ("burst", 0, [("tell", [("stash",)])], wait), tell([("stash",)]), tell([last])]


def _put_aside(length: float, wait: float, ends: Op) -> list[Any]:
    """What a timer sent is put aside, comes back behind other work or does not, and the incarnation ends."""
    ticks = tell([("after", length, True), ("after", length, True)], length + 0.1)
    return [ticks, tell([("unstash",), ("sleep", wait), ends]), tell([]), tell([], 0.5)]


def _fails(how: Op, waited: bool, asked: bool, busy: bool) -> list[Any]:
    """A handler fails before it waits for anything, or afterwards."""
    work = [("sleep", 0.1), how] if waited else [how, ("sleep", 0.1)]
    before = [tell([("sleep", 0.05)])] if busy else []
    return [*before, ("ask", 0, work, 2.0, False, 0.3) if asked else tell(work, 0.3)]


def _held(one: float, two: float, resumed: bool) -> list[Any]:
    """Two suspend one that is busy."""
    steps_ = [tell([("sleep", 0.6)]), ("suspend", 0, one, SHORT), ("suspend", 0, two, SHORT), tell([])]
    return [*steps_, ("resume", 0, 0.1)] if resumed else steps_


scenes = st.one_of(
    st.builds(
        _cut,
        programs,
        st.sampled_from(["stubborn", "stubborn", "sleep"]),
        st.sampled_from(["stop", "halt", "halt", "gone"]),
        seconds,
        st.booleans(),
    ),
    st.builds(
        _flood,
        programs,
        seconds,
        st.lists(st.sampled_from([("burst", 0, [("stop",)], 0.1), ("burst", 0, [("halt", 0.1)], 0.1)]), max_size=1),
        st.sampled_from(["send", "ask", "fast"]),
    ),
    st.builds(_given_up, programs, programs, st.integers(0, 2), pauses),
    *(
        st.builds(
            _watched,
            st.sampled_from(pairs),
            st.sampled_from([("raise",), ("quit", "normal"), ("leave", "shutdown")]),
            st.booleans(),
            st.booleans(),
        )
        for pairs in ([("watch", "unwatch")], [("link", "unlink")], [("watch", "unlink"), ("link", "unwatch")])
    ),
    st.builds(
        _behind,
        st.sampled_from(["ask", "ask", "tell", "unstash", "after", "stop"]),
        st.sampled_from([0.1, 0.3]),
        st.sampled_from([[], [], [("stash",)], [("sleep", 0.1)]]),
        st.one_of(seconds.map(lambda length: ("halt", length)), st.just(("tell", [("raise",)])), st.just(("stop",))),
    ),
    st.builds(_ticking, repeats, st.sampled_from([0.05, 0.3]), keys),
    st.builds(
        _aside, st.sampled_from([0.1, 2.0]), st.sampled_from([0.05, 0.2]), st.sampled_from([("unstash",), ("raise",)])
    ),
    st.builds(
        _put_aside, st.sampled_from([0.1, 0.3]), st.sampled_from([0.0, 0.2]), st.sampled_from([("note",), ("raise",)])
    ),
    st.builds(_put_aside, st.sampled_from([0.1, 0.3]), st.sampled_from([0.0, 0.2]), st.just(("raise",))),
    st.builds(
        _fails,
        st.sampled_from([("raise base",), ("raise",), ("quit", "error")]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(_held, st.sampled_from([0.1, 2.0]), st.sampled_from([0.1, 2.0]), st.booleans()),
)
"""Steps that belong together: what is rare when every step is drawn alone."""
plans = st.tuples(
    casts,
    st.lists(st.one_of(steps.map(lambda step: [step]), scenes), min_size=6, max_size=14).map(
        lambda groups: [step for group in groups for step in group]
    ),
)


def apart() -> Iterator[float]:
    """Small times, no sums of which are equal."""
    dice = random.Random(11)
    while True:
        yield dice.uniform(1e-4, 1e-2)


def concrete(given: tuple[tuple[str, ...], list[Any]]) -> list[Any]:
    """The plan with names for its actors and messages, and its times apart."""
    cast, plan = (*given[0], "z"), given[1]
    times, number = apart(), 0

    def fresh() -> str:
        nonlocal number
        number += 1
        return str(number)

    def of(program: list[Op]) -> tuple[Op, ...]:
        out: list[Op] = []
        if any(op[0] == "link" for op in program):  # who is ended by it is cancelled at the next true wait: no ask here
            program = [op for op in program if op[0] != "ask z"]
        for op in program:
            match op:
                case ("sleep" | "stubborn", length):
                    out.append((op[0], length + next(times)))
                case ("ask z", length, timeout):
                    out.append(("ask z", fresh(), length and length + next(times), timeout + next(times)))
                case ("later", length, how):
                    out.append(("later", length + next(times), how, fresh()))
                case ("send z",):
                    out.append(("send z", fresh()))
                case ("after", length, aside):
                    out.append(("after", length + next(times), fresh(), aside))
                case ("timer", key, length, repeat):
                    out.append(("timer", key, length + next(times), repeat, fresh()))
                case ("idle", float(length)):
                    out.append(("idle", length + next(times)))
                case ("watch" | "unwatch" | "link" | "unlink", place):
                    out.append((op[0], cast[place]))
                case _:
                    out.append(op)
        return tuple(out)

    def inner(each: Op) -> Op:
        if each[0] in ("tell", "force"):
            return (each[0], fresh(), of(each[1]))
        return ("halt", each[1] + next(times)) if each[0] == "halt" else each

    made: list[Any] = []
    for step in plan:
        pause = step[-1] + next(times)
        match step:
            case ("burst", name, inside, _):
                made.append(("burst", cast[name], [inner(each) for each in inside], pause))
            case ("ask", name, program, length, fast, _):
                made.append(("ask", cast[name], fresh(), of(program), length + next(times), fast, pause))
            case ("send", name, program, length, _):
                made.append(("send", cast[name], fresh(), of(program), length + next(times), pause))
            case ("suspend" | "peek" as what, name, length, _):
                made.append((what, cast[name], fresh(), length + next(times), pause))
            case ("resume", name, _):
                made.append(("resume", cast[name], pause))
            case _:
                made.append((*step[:-1], pause))
    return made


LONG = 9.0


def by_model(plan: list[Any], crashes: dict[tuple[str, int], bool]) -> dict[str, Any]:
    """What the rules say."""
    model = Model(TRAITS, crashes)
    said: list[Any] = []
    asked: list[tuple[str, Any]] = []
    model.settle()
    now = 0.05
    model.until(now)
    for step in plan:
        match step:
            case ("burst", name, inside, _):
                for each in inside:
                    match each:
                        case ("tell", n, program):
                            said.append(model.tell(name, n, program))
                        case ("force", n, program):
                            model.force(name, n, program)
                        case ("halt", length):
                            model.halt(model.actors[name], length)
                        case ("stop",):
                            model.stop(model.actors[name])
                        case _:
                            said.append(model.resume(name))
            case ("ask", name, n, program, length, fast, _):
                entry = model.ask(name, n, program, length, fast=fast)
                if entry is not None:
                    asked.append((name, entry))
            case ("send", name, n, program, length, _):
                model.send(name, n, program, length)
            case ("give up", nth, _, _):
                waiting = [(name, entry) for name, entry in asked if not entry.ask.done]
                if waiting:
                    name, entry = waiting[nth % len(waiting)]
                    model.give_up_ask(name, entry, cancel=_cancels(entry.n))
            case ("suspend", name, n, length, _):
                if model.actors[name].state != "starting":
                    model.suspend(name, n, length)
            case ("resume", name, _):
                said.append(model.resume(name))
            case ("peek", name, n, length, _):
                model.peek(name, n, length)
        model.settle()
        now += step[-1]
        model.until(now)
        said.append(model.timers())
    model.until(now + LONG)
    states = {name: (each.state, each.number, each.exit[0]) for name, each in model.actors.items()}
    return {"said": said, "results": model.results, "states": states, "letters": model.letters, **model.log}


def _cancels(n: str) -> bool:
    return int(n) % 2 == 0


# -- by a kernel -----------------------------------------------------------------------------------------------

_DETAILS = re.compile(r": (raised|no\b|planned: \w+\(.*?\))")


def outcome_of(error: BaseException) -> Any:
    """An error as the model writes it."""
    if isinstance(error, ActorStopped):
        return ("ActorStopped", _DETAILS.sub("", str(error.exit)))
    return "UsageError" if isinstance(error, UsageError) else (type(error).__name__, "")


async def _noted(stage: Stage, n: str, work: Any) -> None:
    try:
        value = await work
        outcome: Any = value
        if value is None:
            outcome = "suspended"
        elif value is True:
            outcome = "sent"
        elif hasattr(value, "reason"):
            outcome = value.reason
    except asyncio.CancelledError:
        outcome = "cancelled"
    except UnderstudyError as error:
        outcome = outcome_of(error)
    stage.results[n] = (stage.now(), outcome)


def look_between_turns(kernel: Kernel) -> None:
    """Hold every cell against the invariants after each turn of the loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    turn = loop._run_once

    def once() -> None:
        turn()
        try:
            check(kernel)
        except BaseException:
            del loop._run_once  # what cleans up is not looked at
            raise

    loop._run_once = once  # type: ignore[method-assign]  # so that it is in between


async def by_kernel(plan: list[Any], *, look: bool) -> dict[str, Any]:
    """What a kernel does. `look`: at every cell, after each turn."""
    async with Kernel() as kernel:
        stage = Stage(kernel)
        if look:
            look_between_turns(kernel)

        def again(cell: Cell, number: int, exit: Exit) -> None:
            kernel.will_restart(cell)
            pause = TRAITS[cell.label].restart
            assert pause is not None
            if not pause:
                kernel.restart(cell)
                return
            pause += ((ord(cell.label) * 31 + number * 17) % 97) * 1.3e-5
            kernel.timers.after(
                pause, lambda: kernel.restart(cell) if cell.state == "failed" and cell.number == number else None
            )

        for name, traits in sorted(TRAITS.items(), key=lambda pair: pair[0] != "z"):
            kind = KINDS[name]
            stage.cells[name] = kernel.spawn(
                lambda kind=kind: kind(stage),  # type: ignore[misc]  # its own
                name=name,
                on_exit=None if traits.restart is None else again,
            )
        await asyncio.sleep(0.05)
        said: list[Any] = []
        for step in plan:
            await _step(stage, step, said)
            await asyncio.sleep(step[-1])
            said.append(sum(entry[3].call is not None for entry in kernel.timers._heap))
        await asyncio.sleep(LONG)
        states = {name: (each.state, each.number, each.exit.kind) for name, each in stage.cells.items()}
        log, results = {name: list(each) for name, each in stage.log.items()}, dict(stage.results)
        letters: dict[str, list[tuple[str, str]]] = {name: [] for name in TRAITS}
        for letter in kernel.telemetry.dead_letters():
            n = letter.message if letter.reason == "late" else getattr(letter.message, "n", None)
            letters.setdefault(letter.target, []).append((str(n or type(letter.message).__name__), str(letter.reason)))
        for n, task in stage.asking.items():
            assert task.done(), f"{n} has not ended"
        waiting = sum(cell.waiting for cell in stage.cells.values() if cell.state == "running" and not cell.running)
        assert not waiting, "messages that wait, and nobody handles them"
        assert all(task.done() for task in stage.left), "what a handler left behind has not ended"
        spares = len(kernel.dispatcher._spares)
        assert SPARES <= spares <= SPARES_KEPT, f"{spares} spare workers are ready"
        for life in stage.lives:
            if life.fenced:
                _nothing_left(life)
        for cell in stage.cells.values():
            if cell.state == "stopped":
                assert cell.life is None, "a life after the end"
                assert cell.mailbox is None, "a mailbox after the end"
                assert not cell.watchers, "watchers after the end"
        if look:
            del kernel.loop._run_once  # type: ignore[attr-defined]  # as it was
        living = [cell for cell in stage.cells.values() if cell.state != "stopped"]
        released: list[Cell] = []
        kernel.on_released = lambda cell, _: released.append(cell)
    assert released == living[::-1], f"stopped in the order {released}"
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, f"left: {asyncio.all_tasks()}"
    assert not kernel.timers._heap, "timers are left"
    return {"said": said, "results": results, "states": states, "letters": letters, **log}


def _nothing_left(life: Life) -> None:
    """An incarnation that ended holds nothing."""
    what = f"{life.cell.path} #{life.number}"
    assert not life.tasks, what
    assert not life.timers, f"{what}: timers"
    assert not life.watching, f"{what}: watches"
    assert life.context is None, f"{what}: a context"
    kit = life.kit
    if kit is not None:
        assert not kit.timers, f"{what}: keyed timers"
        assert not kit.links, f"{what}: links"
        assert kit.stash is None, f"{what}: a stash"
        assert kit.idle is None, f"{what}: an idle timeout"


def difference(said: dict[str, Any], done: dict[str, Any]) -> str:
    """The first difference between what the rules say and what was done, as a line; "" for none."""
    for what in (*TRAITS, "results", "said", "letters", "states"):
        rules, deeds = said[what], done[what]
        if isinstance(rules, list):
            rules, deeds = dict(enumerate(_settled(rules))), dict(enumerate(_settled(deeds)))
        for key in sorted({*rules, *deeds}, key=str):
            if not _same(rules.get(key), deeds.get(key)):
                return f"{what}[{key}]: {deeds.get(key)}, and not {rules.get(key)}"
    return ""


def _settled(log: list[Any]) -> list[Any]:
    """What tasks left behind say comes last in its moment: no rule orders the loop's tasks among handlers."""
    found: list[Any] = []
    for entry in log:
        at = len(found)
        while at and _is_late(found[at - 1]) and not _is_late(entry) and _same(found[at - 1][0], entry[0]):
            at -= 1
        found.insert(at, entry)
    return found


def _is_late(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) > 1 and entry[1] == "later"


def _same(one: Any, other: Any) -> bool:
    """Equal, but for what times lose by rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-5
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


async def _step(stage: Stage, step: Any, said: list[Any]) -> None:
    kernel = stage.kernel
    match step:
        case ("burst", name, inside, _):
            for each in inside:
                match each:
                    case ("tell", n, program):
                        told = stage.ref(name).tell(_message(stage, n, program))
                        said.append("True" if told else told.reason)
                    case ("force", n, program):
                        kernel.force(stage.cells[name], _message(stage, n, program))
                        del stage.sent[n]  # accepted before, so not looked at again
                    case ("halt", length):
                        kernel.halt(stage.cells[name], deadline=length)
                    case ("stop",):
                        kernel.begin_stop(stage.cells[name])
                    case _:
                        said.append(_resume(stage, name))
        case ("ask", name, n, program, length, fast, _):
            asking = stage.ref(name).ask(
                _message(stage, n, program), timeout=length, cancel=_cancels(n), on_restart="fail" if fast else "wait"
            )
            stage.asking[n] = asyncio.create_task(_noted(stage, n, asking))
        case ("send", name, n, program, length, _):
            sending = stage.ref(name).send(_message(stage, n, program), timeout=length)
            stage.asking[f"send {n}"] = asyncio.create_task(_noted(stage, n, sending))
        case ("give up", nth, _, _):
            waiting = [task for n, task in stage.asking.items() if n.isdigit() and not task.done()]
            if waiting:
                waiting[nth % len(waiting)].cancel()
        case ("suspend", name, n, length, _):
            if stage.cells[name].state != "starting":
                work = kernel.suspensions.suspend(stage.cells[name], length)
                stage.asking[f"suspend {n}"] = asyncio.create_task(_noted(stage, n, work))
        case ("resume", name, _):
            said.append(_resume(stage, name))
        case ("peek", name, n, length, _):
            work = kernel.suspensions.peek(stage.cells[name], _peeked, length)
            stage.asking[f"peek {n}"] = asyncio.create_task(_noted(stage, n, work))


def _message(stage: Stage, n: str, program: tuple[Op, ...]) -> Message[Any]:
    made = stage.sent[n] = (Act if waits(program) else Now)(n, program)
    return made


def _resume(stage: Stage, name: str) -> str:
    try:
        stage.kernel.suspensions.resume(stage.cells[name])
    except ActorStopped:
        return "ActorStopped"
    return "ok"
