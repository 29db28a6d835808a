"""The sessions of one node: which run was the last of each, what its window was, and results read back from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from understudy.actors.errors import SessionBusy, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import Journal, decode_rows
from understudy.actors.journal.sessions import checked, completed, window_after, written_down
from understudy.actors.journal.state import Run, Sub
from understudy.actors.journal.store import Row
from understudy.actors.journal.view import View

_HANDLE: Final = re.compile(r"(?P<run>[^/]+)/(?P<sub>\d{1,9}):(?P<step>\d{1,9})\.(?P<index>\d{1,9})")


class Windows:
    """The sessions of a node. `runs` are those in memory: at least all that have not ended."""

    def __init__(self, journal: Journal, runs: Mapping[str, Run]) -> None:
        self._journal = journal
        self._runs = runs
        self._last: dict[str, ev.InSession] = {}

    def learn(self, tail: Row) -> None:
        """Take in the last event of a session's stream: who was its last run. Others are passed over.

        Raises `JournalDamaged` when it is none.
        """
        if tail.run.startswith(ev.SESSION):
            [record] = decode_rows(self._journal.store.path, [tail])
            if isinstance(record.event, ev.InSession):
                self._last[tail.run.removeprefix(ev.SESSION)] = record.event

    async def open(self, session: str, agent: str) -> tuple[ev.InSession | None, View | None, int]:
        """The last run of a session, the window that it left, and the number of its last event.

        Raises `SessionBusy` while that run has not ended, `UsageError` for a session of another agent.
        """
        self.check(checked(session), agent)
        last = self._last.get(session)
        if last is None:
            return None, None, 0
        run = self._runs.get(last.run) or await self.folded(last.run)
        return last, window_after(run), run.seq

    def check(self, session: str, agent: str) -> None:
        """Whether another run may begin now. Raises as `open`."""
        last = self._last.get(session)
        if last is None:
            return
        if last.agent != agent:
            raise UsageError(f"session {session!r} is of agent {last.agent!r}, and cannot go on with {agent!r}")
        run = self._runs.get(last.run)
        if run is not None and run.finished is None:
            waits = f"waits for {run.main.parked.on}" if run.subs and run.main.parked is not None else "is running"
            raise SessionBusy(session, run.id, waits)

    def begin(
        self, session: str, started: ev.RunStarted, opened: tuple[ev.InSession | None, View | None, int]
    ) -> tuple[ev.RunStarted, View | None]:
        """The beginning of the next run, and the window it goes on with. Raises as `open`: another may be quicker."""
        self.check(session, started.agent)
        last, view, upto = opened
        if self._last.get(session) is not last:
            raise SessionBusy(session, self._last[session].run, "has begun")
        kept = written_down(view) if view is not None else None
        before = last.run if last is not None else ""
        event = msgspec.structs.replace(started, session=session, continues=before, upto=upto, window=kept)
        return event, None if kept is not None else view

    def began(self, session: str, event: ev.InSession) -> None:
        """A run of the session has begun."""
        self._last[session] = event

    def check_newest(self, run: Run) -> None:
        """Whether a run may go on again. Raises `UsageError` when its session has gone on without it."""
        last = self._last.get(run.session) if run.session else None
        if last is not None and last.run != run.id:
            raise UsageError(f"run {run.id} is over: session {run.session!r} has gone on with run {last.run}")

    async def folded(self, name: str) -> Run:
        """A run of the journal, folded, with the window that it began with."""
        return fold(await completed(await self._journal.read(name), self._journal.read))

    async def spilled(self, run: Run, sub: Sub, handle: str) -> str:
        """A result that was left out of a window, whole: of this (sub-)run, or of an earlier run of its session.

        Raises `LookupError` for any other.
        """
        unknown = LookupError(f"no result {handle!r} was left out here; give the id as it is named where it was cut")
        found = _HANDLE.fullmatch(handle)
        if found is None:
            raise unknown
        owner: Sub | None = sub
        if (found["run"], int(found["sub"])) != (run.id, sub.id):
            owner = await self._earlier(run, sub, found["run"])
        call = owner.find(int(found["step"]), int(found["index"])) if owner is not None else None
        if call is None or not call.done:
            raise unknown
        return call.outcome if call.ok else f"error: {call.outcome or call.kind}"

    async def _earlier(self, run: Run, sub: Sub, name: str) -> Sub | None:
        """The main sub-run of an earlier run of the session."""
        if not run.session or sub.id or not self._journal.knows(name) or not ev.is_run(name):
            return None
        other = self._runs.get(name) or fold(await self._journal.read(name))
        return other.main if other.session == run.session and other.subs else None
