"""The driver of the kill campaign: it owns the effect log, kills the lives of `kill_life`, and checks what they left.

A *yard* is one journal with one effect log. Life after life goes on with it; each is killed at an instant that a seed
has drawn, by the clock or by count, and the last is left alone. The driver writes an effect and flushes it to the disk
before it answers; it gives each yes, and settles each listed doubt by its log and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import kill_tree
import msgspec
from kill_life import Life
from kill_reading import Reading, label_of

from understudy.actors.agents.answers import Word
from understudy.actors.agents.policy import Policy
from understudy.actors.errors import JournalFailed
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.replay import replay
from understudy.actors.journal.state import Run
from understudy.supervisors import tree as trees
from understudy.transports.journals.sqlite import SQLiteStore

SUPPORT: Final = Path(__file__).parent
DEADLINE: Final = 120.0
"""Seconds that a life may take; far more than it ever does."""
WANTED: Final = kill_tree.wanted()

When = Literal[
    "wall", "leaving", "arrives", "done", "answered", "asked", "replied", "append", "write", "during", "written"
]
WEIGHTS: Final[Mapping[When, int]] = {
    "wall": 6,
    "leaving": 2,
    "arrives": 2,
    "done": 3,
    "answered": 2,
    "asked": 1,
    "replied": 1,
    "append": 4,
    "write": 2,
    "during": 3,
    "written": 2,
}
"""How often each is drawn."""
IN_PROCESS: Final = frozenset({"append", "write", "during", "written"})
"""Where a life kills itself."""


@dataclass(frozen=True)
class Instant:
    """Kill `seconds` after the start of the life, or at the `nth` effect, model call, event or write of it.

    "leaving": it is told to stop in order after so many seconds, and killed `late` seconds later if it has not by then.
    An effect: when it arrives, is done (and nobody is told), or was answered. A model call: when it arrives or was
    answered. An event: when it is appended. A write: before it, `seconds` after it has begun, after it.
    """

    when: When
    nth: int = 0
    seconds: float = 0.0
    late: float = 0.0
    once: bool = False
    """Count only effects that may not happen twice."""

    def __str__(self) -> str:
        once = " that may not happen twice" if self.once else ""
        return f"{self.when} {self.nth or ''} {self.seconds:.4f} + {self.late:.4f} s{once}"


def draw(dice: random.Random) -> Instant:
    """One instant, not further away than a life has got to go."""
    when = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    match when:
        case "wall":
            return Instant(when, seconds=dice.uniform(0.0, 0.35))
        case "leaving":
            return Instant(when, seconds=dice.uniform(0.0, 0.35), late=dice.uniform(0.0, 0.03))
        case "append":
            return Instant(when, dice.randint(1, 60))
        case "asked" | "replied":
            return Instant(when, dice.randint(1, 9))
        case "write" | "written":
            return Instant(when, dice.randint(1, 16))
        case "during":
            return Instant(when, dice.randint(1, 16), dice.uniform(0.0, 0.0015))
        case _:
            once = dice.random() < 0.5
            return Instant(when, dice.randint(1, 4 if once else 14), once=once)


@dataclass(frozen=True)
class Effect:
    """An effect as it stands in the log; `life` counts from 1."""

    life: int
    tool: str
    label: str
    key: str


class Nursery:
    """The process that forks the lives."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def bear(self, life: Life) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(life) + b"\n")
        return await self._number()

    async def wait(self) -> int:
        """The exit status of the life, as `os.waitpid` gives it."""
        return await self._number()

    async def _number(self) -> int:
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = await self._process.stdout.readline()
        assert line, "the nursery has ended"
        return int(line)


@contextlib.asynccontextmanager
async def nursery(errors: Path) -> AsyncIterator[Nursery]:
    """A nursery, whose lives write their standard error to a file."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))}
    with errors.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SUPPORT / "kill_life.py"),
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
        )
    try:
        yield Nursery(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class Yard:
    """See the module. `count` is what the lives and instants came to."""

    def __init__(
        self, at: Path, seed: str, durability: Literal["normal", "full"], nursery: Nursery, defect: str = ""
    ) -> None:
        at.mkdir(parents=True, exist_ok=True)
        self.dice = random.Random(seed)
        self.effects: list[Effect] = []
        self.count: Counter[str] = Counter()
        self.reading = Reading()
        self._at = at
        self._seed = seed
        self._durability: Literal["normal", "full"] = durability
        self._nursery = nursery
        self._defect = defect
        self._journal = at / "j.db"
        self._log = (at / "effects.log").open("ab")
        self._life = 0
        self._models: Counter[str] = Counter()
        self._cut: set[tuple[str, int]] = set()
        self.doubted: dict[str, str] = {}
        """The label of the call of every doubt."""
        self.posted: set[str] = set()
        """Questions whose answers are in the inbox."""

    def close(self) -> None:
        self._log.close()

    # -- one life --------------------------------------------------------------------------------------------

    async def live(self, instant: Instant | None) -> bool:
        """One life, until it is killed at the instant or every run has finished; whether it was killed."""
        self._life += 1
        before = self.reading
        visit = _Visit(self, instant, silent=instant is not None and self.dice.random() < 0.5)
        server = await asyncio.start_server(visit.serve, "127.0.0.1", 0, limit=1 << 24)
        async with server:
            visit.pid = await self._nursery.bear(self._told(instant, server.sockets[0].getsockname()[1]))
            if instant is not None and instant.when in ("wall", "leaving"):
                end = visit.kill if instant.when == "wall" else visit.leave
                asyncio.get_running_loop().call_later(instant.seconds, end)
            status = await self._nursery.wait()
            visit.over = True
            await visit.gone()
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        where = f"{self._at}, life {self._life}, {instant}"
        if visit.failure is not None:
            raise visit.failure
        assert killed or status == 0, f"{where}: ended with {status}"
        self.reading = await self.read()
        for run in self.reading.runs.values():
            self.doubted |= {doubt.id: label_of(doubt.event.arguments) for doubt in run.doubts.values()}
        try:
            self._check(before, visit)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        if not killed and instant is not None and instant.when == "leaving":
            self.count["stopped in order"] += 1
        if killed:
            assert instant is not None
            self.count["instants"] += 1
            self.count[f"instant: {instant.when}"] += 1
            self._cut |= self.reading.in_flight.keys()
            await self.post()
        return killed

    def _told(self, instant: Instant | None, port: int) -> Life:
        labels = self.reading.labels
        begin = tuple(label for label in kill_tree.REQUESTS if label not in labels)
        unfinished = [name for name, run in self.reading.runs.items() if run.finished is None]
        waited_for = tuple(name for name in unfinished if self.dice.random() < 0.3)
        seed = f"{self._seed}/{self._life}"
        told = Life(port, str(self._journal), self._durability, seed, begin, waited_for, defect=self._defect)
        if instant is not None and instant.when in IN_PROCESS:
            return msgspec.structs.replace(told, die=instant.when, nth=instant.nth, late=instant.seconds)
        return told

    def act(self, effect: Effect) -> str:
        """Have the effect: it is in the log, on the disk, when this returns."""
        self.effects.append(effect)
        line = json.dumps([effect.life, effect.tool, effect.label, effect.key])
        self._log.write(line.encode() + b"\n")
        self._log.flush()
        os.fsync(self._log.fileno())
        return kill_tree.value_of(effect.label)

    def did(self, label: str) -> bool:
        """Whether the log has it."""
        return any(effect.label == label for effect in self.effects)

    def did_of(self, doubt: str) -> bool:
        """Whether the call of a doubt happened, by the log."""
        return self.did(self.doubted[doubt])

    async def post(self) -> None:
        """Leave answers in the inbox, as another process does while nobody owns the journal; `understudy doubts` lists
        what is in doubt."""
        yeses, doubts = self.reading.questions()
        words = [("approve", Word(name, "ana")) for name in yeses]
        words += [("settle", Word(name, "driver", did=self.did_of(name))) for name in doubts]
        if doubts and self.dice.random() < 0.2:
            assert len(await self._listed()) == len(doubts), doubts
        chosen = [word for word in words if word[1].id not in self.posted and self.dice.random() < 0.3]
        if not chosen:
            return
        store = SQLiteStore(self._journal)
        await store.open(owner=False)
        try:
            for kind, word in chosen:
                await store.post(kind, msgspec.json.encode(word), 1.0)
                self.posted.add(word.id)
                self.count["answers through the inbox"] += 1
        finally:
            await store.aclose()

    async def _listed(self) -> list[str]:
        """The lines of `understudy doubts`."""
        argv = [sys.executable, "-m", "understudy", "doubts", "--journal", str(self._journal)]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(DEADLINE):
            out, _ = await process.communicate()
        assert process.returncode == 0
        self.count["lists of doubts by the command"] += 1
        return out.decode().splitlines()

    # -- what it left ----------------------------------------------------------------------------------------

    async def read(self) -> Reading:
        """The journal as it is on the disk, read from a copy: the next owner finds it as it was left."""
        side = self._at / "copy"
        shutil.rmtree(side, ignore_errors=True)
        side.mkdir()
        for path in self._at.glob("j.db*"):
            if path.suffix != ".db-owner" and not path.name.endswith(("-owner", "-shm")):
                shutil.copy(path, side / path.name)
        found = Reading()
        store = SQLiteStore(side / "j.db")
        try:
            await store.open(owner=False)
        except JournalFailed as error:
            if "no journal here" not in str(error):
                raise
            return found  # killed before it was made: nothing can have been acknowledged
        try:
            found.rows = {head.run: await store.read(head.run) for head in await store.heads()}
        finally:
            await store.aclose()
        for name, rows in found.rows.items():
            found.learn(name, rows)
        return found

    def _check(self, before: Reading, visit: _Visit) -> None:
        after = self.reading
        for name, rows in before.rows.items():
            assert after.rows.get(name, [])[: len(rows)] == rows, f"{name}: what was committed has changed"
        for name, seq, payload in visit.committed:
            rows = after.rows.get(name, [])
            assert len(rows) >= seq, f"{name}:{seq} was acknowledged and is lost: {payload}"
            assert rows[seq - 1].payload.decode() == payload, f"{name}:{seq} is not what was acknowledged"
        labels = Counter(label_of(run.subs[0].message) for run in after.runs.values())
        assert max(labels.values(), default=0) <= 1, f"a request became two runs: {labels}"
        self._check_results(visit)
        self._check_effects(before, after)
        assert not self._models - after.asked, f"asked before the intent was committed: {self._models - after.asked}"
        for path, calls in self._begun(before).items():
            assert len(calls) == 1, f"{path}: more than one call in flight: {calls}"
        for at, times in after.doubted.items():
            assert at in self._cut, f"{at}: in doubt, and was in flight at no kill"
            assert times == 1, f"{at}: in doubt {times} times"

    def _begun(self, before: Reading) -> dict[str, list[str]]:
        """The calls of this life that were cut and are not `read`, by the actor that made them."""
        found: dict[str, list[str]] = {}
        for (name, seq), asked in self.reading.in_flight.items():
            if asked.effect != "read" and seq > len(before.rows.get(name, [])):
                found.setdefault(self.reading.records[name][seq - 1].path, []).append(f"{name}:{seq} {asked.name}")
        return found

    def _check_results(self, visit: _Visit) -> None:
        for said in visit.did:
            run = self.reading.runs[said["id"].partition("-")[0]]
            if said["do"] == "approve":
                assert run.approvals[said["id"]].state in ("granted", "used"), f"a yes was taken and is lost: {said}"
            else:
                assert run.doubts[said["id"]].settled == said["did"], f"a word was taken and is lost: {said}"
                assert said["id"] in said["listed"], f"not listed: {said}"
        for label, (status, output) in visit.results.items():
            name = self.reading.labels.get(label)
            assert name is not None, f"{label}: {status} was said, and its run is lost"
            end = self.reading.runs[name].finished
            if status == "waiting":
                continue  # its `Parked` is among what was committed
            assert end is not None, f"{label}: {status} was said, and it has not ended"
            assert (end.status, json.loads(end.output)) == (status, output), f"{label}: said {status} {output}"

    def _check_effects(self, before: Reading, after: Reading) -> None:
        mine = [effect for effect in self.effects if effect.life == self._life]
        room = WANTED - before.outcomes
        made = Counter(effect.label for effect in mine)
        assert not made - room, f"made again although its outcome was committed: {made - room}"
        for label, times in Counter(effect.label for effect in self.effects).items():
            tool = next(effect.tool for effect in self.effects if effect.label == label)
            assert times == 1 or tool in kill_tree.AGAIN, f"{label} happened {times} times"
        for effect in mine:
            whose = effect.label.rpartition("/")[0] if effect.tool == "long" else effect.label
            assert effect.tool in kill_tree.READS or after.intents[whose], f"{effect.label}: no intent was committed"

    # -- the end ---------------------------------------------------------------------------------------------

    def check_end(self, policies: Mapping[str, Policy]) -> None:
        """Everything has ended as it must, every effect is there, every cut call was settled."""
        reading = self.reading
        assert self._ends() == kill_tree.ends(), f"it ended otherwise: {self._ends()}"
        assert reading.outcomes == WANTED, f"outcomes: {WANTED - reading.outcomes}, {reading.outcomes - WANTED}"
        times = Counter(effect.label for effect in self.effects)
        assert not WANTED - times, f"effects that are missing: {WANTED - times}"
        keys = {(effect.label, effect.key) for effect in self.effects if effect.tool == "pay"}
        assert len(keys) == len({label for label, _ in keys}), f"a keyed call had two keys: {keys}"
        records = {at: reading.records[at[0]][at[1] - 1].event for at in self._cut}
        once = {at for at, asked in records.items() if getattr(asked, "effect", "") in ("verifiable", "irreversible")}
        assert set(reading.doubted) == once, f"cut {once}, in doubt {set(reading.doubted)}"
        assert self._log_on_disk() == self.effects
        for name, found in reading.records.items():
            report = replay(found, policies)
            assert report.identical, f"{name}: {report}"
        self._tally(times)

    def _ends(self) -> dict[str, list[tuple[str, str]]]:
        """By request: status and output of each (sub-)run."""
        return {
            label: [
                (end.status, end.output)
                for sub in self.reading.runs[name].subs.values()
                if (end := sub.finished) is not None
            ]
            for label, name in self.reading.labels.items()
        }

    def _log_on_disk(self) -> list[Effect]:
        lines = (self._at / "effects.log").read_text().splitlines()
        return [Effect(*json.loads(line)) for line in lines]

    def _tally(self, times: Counter[str]) -> None:
        for effect in {effect.label: effect for effect in self.effects}.values():
            self.count[f"again: {effect.tool}"] += times[effect.label] - WANTED[effect.label]
        for run in self.reading.runs.values():
            for doubt in run.doubts.values():
                self.count[f"doubt: {doubt.event.name}, {'did' if doubt.settled else 'did not'}"] += 1


class _Visit:
    """The driver's end of the connection to one life."""

    def __init__(self, yard: Yard, instant: Instant | None, silent: bool) -> None:
        self.yard = yard
        self.pid = 0
        self.over = False
        self.killed = False
        self.committed: list[tuple[str, int, str]] = []
        self.results: dict[str, tuple[str, str | None]] = {}
        self.did: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self._instant = instant
        self._silent = silent and instant is not None and instant.when in ("wall", "leaving")
        self._seen: Counter[str] = Counter()
        self._finished = {name for name, run in yard.reading.runs.items() if run.finished is not None}
        self._runs = dict(yard.reading.labels)
        self._done = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def kill(self) -> None:
        """Now."""
        if not self.over:
            self.over = self.killed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def leave(self) -> None:
        """Let it stop in order, and kill it if that takes longer than the instant allows."""
        if self._writer is None or self._instant is None:
            self.kill()
        elif not self.over:
            self._do(self._writer, "leave")
            asyncio.get_running_loop().call_later(self._instant.late, self.kill)

    async def gone(self) -> None:
        """Until everything that the life said was taken: what it asked for before its end may happen after it."""
        for _ in range(10):  # a connection that it has just made is on its way
            await asyncio.sleep(0)
        if self._writer is not None:
            async with asyncio.timeout(DEADLINE):
                await self._done.wait()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _springs(self, when: When, tool: str = "") -> bool:
        instant = self._instant
        if instant is None or self.over or instant.when != when or (instant.once and tool in kill_tree.AGAIN):
            return False
        self._seen[when] += 1
        if self._seen[when] != instant.nth:
            return False
        self.kill()
        return True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            with contextlib.closing(writer), contextlib.suppress(ConnectionError):
                while (line := await reader.readline()).endswith(b"\n"):  # what has no end was cut by the kill
                    said = json.loads(line)
                    if "ask" in said:
                        task = asyncio.create_task(self._answer(said, writer))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                    else:
                        self._hear(said, writer)
        except Exception as error:
            self.failure = error
            self.kill()
        finally:
            self._done.set()

    def _do(self, writer: asyncio.StreamWriter, what: str, **more: object) -> None:
        if self.killed:
            return
        writer.write(json.dumps({"do": what, **more}).encode() + b"\n")

    def _say(self, writer: asyncio.StreamWriter, what: str, name: str) -> None:
        """Answer a question, unless another process has left the answer in the inbox."""
        if name not in self.yard.posted:
            self._do(writer, what, id=name, **({"did": self.yard.did_of(name)} if what == "settle" else {}))

    async def _answer(self, said: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        answer: object = None
        last: When = "answered"
        match said["ask"]:
            case "model":
                last = "replied"
                if self._springs("asked"):
                    return
                self.yard._models[said["label"]] += 1
            case "happened":
                label = said["label"]
                answer = None if label.endswith(f"/{kill_tree.CANNOT_SAY}") else self.yard.did(label)
            case _:
                if self._springs("arrives", said["tool"]):
                    return
                effect = Effect(self.yard._life, said["tool"], said["label"], said["key"])
                answer = self.yard.act(effect)
                if self._springs("done", said["tool"]):
                    return
                await asyncio.sleep(self.yard.dice.uniform(0.0, 0.003))
        if self.killed:
            return
        writer.write(json.dumps({"id": said["id"], "answer": answer}).encode() + b"\n")
        if said["ask"] != "happened":
            self._springs(last, said.get("tool", ""))

    def _hear(self, said: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        match said["tell"]:
            case "committed":
                for run, seq, payload in said["rows"]:
                    self.committed.append((run, seq, payload))
                    self._note(ev.decode(payload.encode()), writer)
            case "ready":
                if not self._silent:
                    yeses, doubts = self.yard.reading.questions()
                    for name in yeses:
                        self._say(writer, "approve", name)
                    for name in doubts:
                        self._say(writer, "settle", name)
                self._leave_if_done(writer)
            case "result":
                self._result(said)
            case "did":
                self.did.append(said)
            case _:
                pass

    def _result(self, said: dict[str, Any]) -> None:
        label = said["label"] or next(label for label, run in self._runs.items() if run == said["run"])
        self.results[label] = said["status"], said["output"]

    def _note(self, record: Record, writer: asyncio.StreamWriter) -> None:
        event = record.event
        if isinstance(event, ev.RunStarted):
            self._runs[label_of(event.message)] = record.run
        elif isinstance(event, ev.InDoubt):
            self.yard.doubted[event.doubt] = label_of(event.arguments)
        elif isinstance(event, ev.Parked) and not self._silent:
            for name in event.ids if event.on in ("approval", "doubt") else ():
                self._say(writer, "approve" if event.on == "approval" else "settle", name)
        elif isinstance(event, ev.Finished) and record.sub == 0:
            self._finished.add(record.run)
            self._leave_if_done(writer)

    def _leave_if_done(self, writer: asyncio.StreamWriter) -> None:
        if len(self._finished) == len(kill_tree.REQUESTS):
            self.over = True
            self._do(writer, "leave")


def policies() -> Mapping[str, Policy]:
    """Of the tree, for replay."""
    return trees.plan(kill_tree.app()).policies


async def play(yard: Yard, kills: int) -> None:
    """Kill at `kills` instants, or fewer when it came to its end before; then let it finish, and check its end."""
    killed = 0
    for _ in range(3 * kills):
        if killed == kills or _all_finished(yard.reading):
            break
        killed += await yard.live(draw(yard.dice))
    if not _all_finished(yard.reading):
        assert not await yard.live(None)
    yard.check_end(policies())


def _all_finished(reading: Reading) -> bool:
    runs: Sequence[Run] = list(reading.runs.values())
    return len(runs) == len(kill_tree.REQUESTS) and all(run.finished is not None for run in runs)
