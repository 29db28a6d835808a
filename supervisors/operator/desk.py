"""What the commands need of a running system, and how they get one: contracts the composition root fulfils."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from understudy.actors.agents.policy import Policy
from understudy.actors.agents.results import Result
from understudy.actors.journal.events import Record
from understudy.supervisors.operator.options import DEMO as DEMO
from understudy.supervisors.operator.options import ConnectOptions as ConnectOptions


class Desk(Protocol):
    """A system that owns the journal, as far as people need it."""

    async def approve(self, approval: str, *, by: str, arguments: Mapping[str, object] | None = None) -> str:
        """Say yes, to the call with changed `arguments` if there are any; the run it belongs to.

        Raises `UnknownRun`, `UsageError` (not allowed, expired, answered, arguments that do not fit).
        """
        ...

    async def refuse(self, approval: str, *, by: str, reason: str = "") -> str:
        """Say no; the run it belongs to. Raises as `approve`."""
        ...

    async def settle(self, doubt: str, *, did: bool, by: str) -> str:
        """Say whether a call in doubt happened; the run it belongs to. Raises `UnknownRun`, `UsageError`."""
        ...

    async def fork(
        self,
        run: str,
        *,
        at: int,
        instructions: str | None = None,
        model: str = "",
        result: object = ...,
        agent: str = "",
        by: str = "",
    ) -> str:
        """Begin a run that goes on from an event of another; its id. Raises `UnknownRun`, `UsageError`."""
        ...

    async def release(self, agent: str, *, by: str) -> None:
        """Lift the quarantine of an agent. Raises `UsageError` for one that is not in quarantine."""
        ...

    def unfinished(self) -> list[str]:
        """Runs that have not ended, oldest first."""
        ...

    # Any: the output's type is the agent's, which only the app knows.
    async def resume(self, run: str) -> Result[Any]:
        """Drive a run on until it has ended or waits. Raises `UnknownRun`."""
        ...

    def listen(self, listener: Callable[[Record], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; the returned function ends that."""
        ...


class Replayed(Protocol):
    """What a replay found: `understudy.actors.journal.replay.ReplayReport` is one."""

    @property
    def run(self) -> str:
        """The run's id."""
        ...

    @property
    def events(self) -> int:
        """Events that were replayed."""
        ...

    @property
    def steps(self) -> int:
        """Model steps among them."""
        ...

    @property
    def identical(self) -> bool:
        """Whether every command came out as recorded."""
        ...

    @property
    def at(self) -> int | None:
        """Sequence number of the first command that did not, else None."""
        ...

    @property
    def path(self) -> str:
        """The actor that decided it."""
        ...

    @property
    def step(self) -> int:
        """Its step."""
        ...

    @property
    def recorded(self) -> str:
        """The command as recorded, readable."""
        ...

    @property
    def now(self) -> str:
        """The command as it comes out now, readable."""
        ...

    @property
    def hook(self) -> str:
        """What of the agent the difference comes from, "" when nobody can say."""
        ...


Connect = Callable[[ConnectOptions], AbstractAsyncContextManager[Desk]]
"""Opens the journal as its owner. Raises `JournalOwned` when a live process has it."""

Configured = Callable[[ConnectOptions, list[Record]], Mapping[str, Policy]]
"""The policies of the app's agents, by name, for a run, under the guards that the options name.

Raises `UsageError` for an app or guards that cannot be had.
"""

Replayer = Callable[[ConnectOptions, list[Record]], Replayed]
"""Replays a run without owning the journal and without network. Raises `UsageError` for an app that cannot be had."""
