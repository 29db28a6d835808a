"""A Hypothesis machine that tries to turn everything but a person's yes into one; and what it demands.

A real system on a simulated disk, in virtual time. Rules ask, answer rightly and wrongly (who may not, who has no name,
an old digest, another id, twice, too late), put words into the inbox, let time pass, set the clock forward and back,
restart, kill at once or at a write to come, stop, quarantine and release, settle doubts, replay.

What was said by a person who may, for this digest, before it expired, is written down by the rules themselves. Each
effect of a gated tool must have a word of its own: one approval of the same run with that digest that was said before
and has not expired, and no two effects the same one. And what the journal calls approved, somebody has approved.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

from acted import Acted, call, calls, turns, words
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from understudy import Agent, Approvals, Backoff, Call, Loops, Quarantine, Same, Supervisor, System, tool
from understudy.actors.agents.commands import CallTools, RefuseYes, call_digest
from understudy.actors.agents.decide import decide
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.agents.results import Approval
from understudy.actors.errors import JournalError, UnderstudyError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import apply
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.testing.disk_faults import DiskFault, KillAfter, KillBefore, TornWrite
from understudy.actors.testing.outside import inside
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock, SimLoop

T = TypeVar("T")
EXPIRES = 600.0
MAY = ("ana", "li")
PEOPLE = (*MAY, "eve", "", "  ", "clock", "ANA")
TASKS = {
    "one": (calls(call("pay", cents=100)),),
    "the same again": (calls(call("pay", cents=100)),) * 3,
    "two at once": (calls(call("pay", cents=100), call("pay", cents=100), call("pay", cents=200)),),
    "round and round": (calls(call("look")),) * 4,  # ends in quarantine
    "in turn": (calls(call("pay", cents=100), call("ship", id=1)), calls(call("ship", id=1), call("pay", cents=200))),
}


class Effect(Struct, frozen=True):
    """A gated tool has done something."""

    run: str
    digest: str
    wall: float


class Said(Struct, frozen=True):
    """A person who may said yes to an approval as it was asked, at `wall`."""

    asked: Approval
    wall: float


class Ids:
    """Runs in their order."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def run(self) -> str:
        return f"{next(self._numbers):04x}"


def _says(request: ModelRequest) -> ModelReply:
    task = next(message.content for message in request.messages if message.role == "user")
    script = next(replies for name, replies in TASKS.items() if name in task)
    return script[turns(request)] if turns(request) < len(script) else words("done")


class ApprovalMachine(RuleBasedStateMachine):
    """See the module. `happened` counts events and effects, over all machines: what was never there was not tried."""

    happened: ClassVar[Counter[str]] = Counter()

    @initialize()
    def begin(self) -> None:
        self.effects: list[Effect] = []
        self.keys: set[str] = set()
        self.said: list[Said] = []
        self.known: dict[str, Approval] = {}
        self.runs: list[str] = []
        self.kills = 0
        self.down = 1.0
        self.clock, self.ids = SimClock(), Ids()
        self.disk = SimDisk()
        self.now = 0.0
        self._start()

    # -- processes ----------------------------------------------------------------------------------------------------

    def _tree(self) -> Supervisor:
        @tool(effect="irreversible", approve="finance")
        async def pay(call: Call, cents: int) -> str:
            self._happen(call.key, "pay", {"cents": cents})
            return "paid"

        @tool(effect="keyed", approve="finance")
        async def ship(call: Call, id: int) -> str:
            self._happen(call.key, "ship", {"id": id})
            return "shipped"

        @tool(effect="read")
        async def look() -> str:
            return "nothing new"

        self.porter = porter = Agent[Any, Any]("porter", model=Acted(_says), tools=[pay, ship, look])
        return Supervisor(
            "desk",
            [porter],
            approvals=Approvals(expires=EXPIRES, by={"finance": MAY}),
            loops=Loops(Same(2), ladder=[Quarantine()]),
            backoff=Backoff(first=0.1, cap=1.0),
        )

    def _happen(self, key: str, name: str, arguments: dict[str, object]) -> None:
        if name == "ship":  # keyed: the other side knows a call that is made again
            if key in self.keys:
                return
            self.keys.add(key)
        run = key.partition("/")[0]
        self.effects.append(Effect(run, call_digest(name, json.dumps(arguments)), self.clock.wall()))

    def _start(self) -> None:
        self.loop = SimLoop(start=self.now)
        store = SimStore(self.disk, on_kill=self._killed)
        tree = self._tree()
        self.system = System(tree, journal=store, clock=self.clock, ids=self.ids, watchdog=None, grace=0.0)
        self.agent = self.porter
        self.ready: list[bool] = []

        async def live() -> None:
            self.over = asyncio.get_running_loop().create_future()
            async with self.system:
                self.ready.append(True)
                await self.over

        self._alive = True
        self._main: Callable[[], Coroutine[Any, Any, None]] = live
        self.task = self.loop.create_task(live())
        self.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._drive(lambda: asyncio.sleep(0.5))

    def _killed(self, fault: DiskFault | None) -> None:
        self._alive = False
        self.loop.kill()

    def _drive(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Run until `main` has ended; None when the process was killed meanwhile, and another one has begun."""
        try:
            with inside():
                return self.loop.run_until_complete(main())
        except BaseException:
            if self._alive:
                raise
        self._bury()
        return None

    def _bury(self) -> None:
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        effects = list(self.effects)
        try:
            with inside():
                self.disk.bury()
                self.loop.bury()
        finally:
            logging.disable(before)
        assert effects == self.effects, "the dead do nothing"
        self.now, self.down = self.loop.time() + self.down, 1.0
        self.loop.close()
        self._start()

    def teardown(self) -> None:
        if not hasattr(self, "loop") or self.loop.is_closed():
            return
        with contextlib.suppress(UnderstudyError), inside():
            self.disk.kill()
            self.disk.bury()
            self.loop.end()
        self.loop.close()

    # -- what is asked, and how time goes -----------------------------------------------------------------------------

    @rule(task=st.sampled_from(sorted(TASKS)))
    @precondition(lambda self: len(self.runs) < 5)
    def ask(self, task: str) -> None:
        async def send() -> None:
            with contextlib.suppress(UnderstudyError, TimeoutError):
                await asyncio.wait_for(self.system.run(self.agent, task), 1.0)

        self._drive(send)

    @rule(seconds=st.sampled_from([0.1, 1.0, EXPIRES / 2, EXPIRES - 0.5, EXPIRES + 1]))
    def wait(self, seconds: float) -> None:
        self._drive(lambda: asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([-EXPIRES * 2, -EXPIRES / 2, -1.0, 1.0, EXPIRES / 2, EXPIRES, EXPIRES * 3]))
    def set_the_clock(self, seconds: float) -> None:
        self.clock.jump(seconds)

    # -- processes end ------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        async def leave() -> None:
            self.over.set_result(None)
            await asyncio.wait([self.task])

        loop = self.loop
        self._drive(leave)
        if self.loop is loop:  # else it was killed on the way
            self.now = loop.time() + 1.0
            with inside():
                loop.end()
            loop.close()
            self._start()

    @rule()
    def kill(self) -> None:
        async def die() -> None:
            self.disk.kill()
            self._killed(None)
            await asyncio.sleep(0)

        self._drive(die)

    @rule(after=st.integers(1, 3), kind=st.sampled_from([KillBefore, KillAfter, TornWrite]))
    @precondition(lambda self: self.kills < 6)
    def kill_at_a_write(self, after: int, kind: type[KillBefore | KillAfter | TornWrite]) -> None:
        self.kills += 1
        number = self.disk.writes + after
        self.disk._planned[number] = [kind(number)]

    @rule(number=st.integers(0, 4))
    def resume(self, number: int) -> None:
        self._of_a_run(number, lambda run: asyncio.wait_for(self.system.resume(run), 1.0))

    @rule(number=st.integers(0, 4), how=st.sampled_from(["stop", "park"]))
    def stop(self, number: int, how: str) -> None:
        async def stop(run: str) -> None:
            self.system.runs.ask_to_stop(run, "stopped", how, "bo")
            await asyncio.sleep(0.2)

        self._of_a_run(number, stop)

    def _of_a_run(self, number: int, act: Callable[[str], Coroutine[Any, Any, object]]) -> None:
        async def go() -> None:
            if self.runs:
                with contextlib.suppress(UnderstudyError, TimeoutError):
                    await act(self.runs[number % len(self.runs)])

        self._drive(go)

    @rule()
    def release(self) -> None:
        async def go() -> None:
            with contextlib.suppress(UnderstudyError):
                await self.system.release("porter", by="bo")
            await asyncio.sleep(0.5)

        self._drive(go)

    # -- people -------------------------------------------------------------------------------------------------------

    ids_of = st.integers(0, 9)
    times = st.integers(1, 3)
    digests = st.sampled_from(["", "its own", "an old one", "another's"])

    def _pick(self, number: int) -> Approval | None:
        return list(self.known.values())[number % len(self.known)] if self.known else None

    def _word(self, number: int, by: str, digest: str) -> tuple[Approval, str]:
        """The approval that is meant, and the digest that is given; a valid word is written down."""
        asked = self._pick(number)
        assert asked is not None
        others = [each.digest for each in self.known.values() if each.digest != asked.digest]
        given = {"": "", "its own": asked.digest, "an old one": "0" * 16, "another's": (others or ["1" * 16])[0]}[
            digest
        ]
        if by in MAY and given in ("", asked.digest) and self.clock_now() < asked.expires:
            self.said.append(Said(asked, self.clock_now()))
        return asked, given

    def clock_now(self) -> float:
        async def look() -> float:
            return self.clock.wall()

        while (now := self._drive(look)) is None:  # a word that came in was written meanwhile, and that killed
            pass
        return now

    @rule(number=ids_of, by=st.sampled_from(PEOPLE), digest=digests, times=times, short=st.booleans())
    @precondition(lambda self: self.known)
    def approve(self, number: int, by: str, digest: str, times: int, short: bool) -> None:
        asked, given = self._word(number, by, digest)

        async def say() -> None:
            for _ in range(times):
                with contextlib.suppress(UnderstudyError):
                    if given:
                        shown = Approval(asked.id, asked.run, asked.tool, asked.arguments, given, "", asked.expires)
                        await self.system.approve(shown, by=by)
                    else:
                        await self.system.approve(asked.id.partition("-")[2] if short else asked.id, by=by)
            await asyncio.sleep(0.5)

        if short and not given and by in MAY:  # whichever it means: it is said to all that it could
            for each in self.known.values():
                if each.id.endswith(asked.id.partition("-")[2]) and self.clock_now() < each.expires:
                    self.said.append(Said(each, self.clock_now()))
        self._drive(say)

    @rule(
        number=ids_of,
        after=st.integers(1, 4),
        kind=st.sampled_from([KillBefore, KillAfter, TornWrite]),
        down=st.sampled_from([1.0, EXPIRES + 1.0]),
    )
    @precondition(lambda self: self.ready and self.system.approvals() and self.kills < 6)
    def approve_and_be_killed(
        self, number: int, after: int, kind: type[KillBefore | KillAfter | TornWrite], down: float
    ) -> None:
        """At one of the writes that follow: before the yes, between it and the call, or within the call.

        The next process begins `down` seconds after: the yes may have expired by then.
        """
        pending = [list(self.known).index(each.id) for each in self.system.approvals() if each.id in self.known]
        if pending:
            self.kill_at_a_write(after, kind)
            self.down = down
            self.approve(pending[number % len(pending)], "ana", "its own", 1, False)

    @rule(number=ids_of, by=st.sampled_from(PEOPLE), digest=digests, times=times, wait=st.booleans())
    @precondition(lambda self: self.known)
    def post(self, number: int, by: str, digest: str, times: int, wait: bool) -> None:
        asked, given = self._word(number, by, digest)
        body = json.dumps({"id": asked.id, "by": by, "digest": given}).encode()

        async def put() -> None:
            for _ in range(times):
                with contextlib.suppress(JournalError):
                    await self.system.journal.store.post("approve", body, self.clock.wall())
            if wait:
                await asyncio.sleep(0.5)

        self._drive(put)

    @rule(
        kind=st.sampled_from(["refuse", "settle", "release", "silence", ""]), body=st.sampled_from([b"", b"{}", b"yes"])
    )
    def post_something_else(self, kind: str, body: bytes) -> None:
        async def put() -> None:
            with contextlib.suppress(JournalError):
                await self.system.journal.store.post(kind, body, 1.0)
            await asyncio.sleep(0.3)

        self._drive(put)

    @rule(number=ids_of, by=st.sampled_from(PEOPLE))
    @precondition(lambda self: self.known)
    def refuse(self, number: int, by: str) -> None:
        asked = self._pick(number)
        assert asked is not None

        async def say() -> None:
            with contextlib.suppress(UnderstudyError):
                await self.system.refuse(asked.id, by=by, reason="no")
            await asyncio.sleep(0.5)

        self._drive(say)

    @rule(did=st.booleans())
    @precondition(lambda self: self.ready and self.system.doubts())
    def settle(self, did: bool) -> None:
        async def say() -> None:
            for doubt in self.system.doubts():
                with contextlib.suppress(UnderstudyError):
                    await self.system.settle(doubt.id, did=did, by="bo")
            await asyncio.sleep(0.5)

        self._drive(say)

    # -- what does nothing --------------------------------------------------------------------------------------------

    @rule()
    def replay(self) -> None:
        effects = list(self.effects)
        for run, rows in self.disk.streams().items():
            if ev.is_run(run):
                assert replay(decode_rows("disk", rows), self.system.tree.policies).identical
        assert self.effects == effects

    @rule(other=st.sampled_from(['{"cents": 101}', '{"cents": 100.0, "to": "eve"}', "{}", '{"id": 2}']))
    def change_the_arguments_after_the_yes(self, other: str) -> None:
        """Of a copy of the state: a yes was given for the call as it was, and then the call is another one."""
        for asked in self.known.values():
            try:
                run = copy.deepcopy(self.system.state(asked.run))
            except UnderstudyError:
                continue
            yes = run.approvals.get(asked.id)
            if yes is None or yes.state != "pending" or run.stop is not None:
                continue
            sub = run.subs[yes.sub]
            given = ev.ApprovalGiven(asked.id, "ana", asked.digest, "finance")
            run = apply(run, Record(run.id, run.seq + 1, run.last_at, 0.0, sub.id, "", 0, 0, given))
            act = decide(run, sub, self.system.tree.policies["porter"])
            if not isinstance(act, CallTools):  # it has ended, or something else comes first
                continue
            assert [each.approval for each in act.calls] == [asked.id]
            self.happened["changed"] += 1
            state = sub.find(yes.asked.step, yes.asked.index)
            assert state is not None
            state.call = type(state.call)(state.call.id, state.call.name, other)
            changed = decide(run, sub, self.system.tree.policies["porter"])
            assert not isinstance(changed, CallTools), "the arguments were changed after the yes"
            assert isinstance(changed, RefuseYes) or type(changed).__name__ == "Reject"

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def every_effect_has_a_yes_of_its_own(self) -> None:
        if not hasattr(self, "effects"):
            return
        for asked in self.system.approvals() if self.ready else ():
            self.known.setdefault(asked.id, asked)
        self.runs = [run for run in self.disk.streams() if ev.is_run(run)]
        self._look_at_the_journal()
        unused = {said.asked.id: said for said in sorted(self.said, key=lambda said: -said.wall)}
        for effect in self.effects:
            fitting = [
                said
                for said in unused.values()
                if (said.asked.run, said.asked.digest) == (effect.run, effect.digest)
                and effect.wall < said.asked.expires
            ]
            assert fitting, f"{effect} without a yes; said was {self.said}"
            first = min(fitting, key=lambda said: said.asked.expires)
            del unused[first.asked.id]
            self.happened["effect"] += 1

    def _look_at_the_journal(self) -> None:
        approved = {(said.asked.id, said.asked.digest) for said in self.said}
        for rows in self.disk.streams().values():
            refused: set[str] = set()
            for record in decode_rows("disk", rows):
                event = record.event
                self.happened[type(event).__name__] += 1
                if isinstance(event, ev.ApprovalRefused):
                    refused.add(event.approval)
                elif isinstance(event, ev.ApprovalGiven):
                    assert event.approval not in refused, f"{record.place}: without a yes: it was refused before"
                    assert event.by in MAY, f"{record.place}: without a yes: approved by {event.by!r}"
                    assert (event.approval, event.digest) in approved, f"{record.place}: without a yes: {event}"
