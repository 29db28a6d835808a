"""The events of guards. Read them as `events.Judged`, with all others."""

from __future__ import annotations

from understudy.actors.agents.guards import Verdict
from understudy.actors.journal.event import Event


class Judged(Event, frozen=True):
    """A loop guard's verdict, and what follows: the note put into the context and how far it is rewound."""

    verdict: Verdict
    note: str
    rewind_to: int
    dropped: int
    temperature: float | None = None
    command: str = ""


class Quarantined(Event, frozen=True):
    """From now on `agent` takes no requests: the verdict at event `seq` of `run` says so. `reason` names its rule.

    In a stream of its own, with `Released`.
    """

    agent: str
    run: str
    seq: int
    reason: str


class Released(Event, frozen=True):
    """A person has lifted the quarantine of an agent."""

    agent: str
    by: str


class BudgetDenied(Event, frozen=True):
    """The ledger refused a reservation.

    `answer`: tokens set aside for one last answer, 0 for none; `note` asks for it.
    """

    pool: str
    unit: str
    limit: int
    spent: int
    reserved: int
    wanted: int
    closed: bool = False
    answer: int = 0
    note: str = ""


class BudgetLow(Event, frozen=True):
    """So much of a limit is spent that the agent is told, once for each limit: `note` says what is left."""

    pool: str
    unit: str
    limit: int
    spent: int
    note: str


class BudgetBreached(Event, frozen=True):
    """The provider reported more than the cap."""

    pool: str
    unit: str
    over: int


class SpendCorrected(Event, frozen=True):
    """What the call of `ticket` cost is known now: `spent` stands in the place of its cap."""

    ticket: str
    spent: dict[str, int]
